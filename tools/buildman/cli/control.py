# SPDX-License-Identifier: GPL-2.0+
"""From arguments to what is asked for: boards, commits, settings; then a build or a summary."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import sys
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    FrozenSet,
    List,
    Mapping,
    Optional,
    Sequence,
    TextIO,
    Tuple,
)

from buildman import bsettings
from buildman.boards import select
from buildman.boards.cache import list_path
from buildman.boards.extend import read_extensions
from buildman.build import environment
from buildman.cli import lists, signals
from buildman.cli.building import Missing, build, describe, make_hunt, thread_counts
from buildman.cli.folders import Folders, check_owner, find_folders, kept_results, output_folder
from buildman.core.errors import (
    EXIT_OK,
    EXIT_USAGE,
    BoardError,
    BuildmanError,
    SetupError,
    UsageError,
)
from buildman.core.plan import Board, Settings
from buildman.core.text import plain
from buildman.source import commits

# The rest is loaded by the functions that need it: lists, dry runs and summaries,
# which scripts do in a row, begin in half of the time without what builds
if TYPE_CHECKING:
    from buildman.remote.fleet import Fleet
    from buildman.results.hunted import Found
    from buildman.results.merge import Part
    from buildman.results.tree import ResultTree


# Lines of a file that are told of, as they fit no board
_MAX_UNFIT = 5


def split_names(values: Optional[Sequence[str]]) -> List[str]:
    """Return the names of a flag that takes lists and may be repeated."""
    out: List[str] = []
    for value in values or ():
        out += [name.strip() for name in value.split(',') if name.strip()]
    return out


def make_settings(args: argparse.Namespace) -> Settings:
    """Return the settings that the command line asks for."""
    return Settings(
        verbose_build=args.verbose_build,
        allow_missing=may_lack_blobs(args, 1),
        no_lto=args.no_lto or args.lines,
        reproducible_builds=args.reproducible_builds,
        warnings_as_errors=args.warnings_as_errors,
        # Objects of other boards and commits are no lines of this one
        mrproper=args.mrproper or args.lines,
        fallback_mrproper=args.fallback_mrproper,
        config_only=args.config_only,
        # What lies in the folder may have changed since it was built
        force_build=args.force_build or not args.branch,
        force_build_failures=args.force_build_failures,
        kconfig_check=args.kconfig_check,
        force_reconfig=args.force_reconfig or args.lines,
        skip_unaffected=args.skip_unaffected and not (args.no_result_cache or args.force_build),
        ccache=bool(args.ccache),
        keep_outputs=args.keep_outputs,
        quick=args.quick,
        in_tree=args.in_tree,
        work_in_output=args.work_in_output,
        per_board_out_dir=args.per_board_out_dir,
        full_path=args.full_path,
        dtc_skip=args.dtc_skip,
        shared_dtc=args.shared_dtc,
        target=args.target,
        adjust_cfg=environment.parse_adjustments(
            [*(['CC_OPTIMIZE_FOR_DEBUG'] if args.lines_debug else []), *(args.adjust_cfg or ())]),
        fragments=tuple(split_names([args.fragments] if args.fragments else [])),
        jobs=args.jobs or 0,
        timeout=args.timeout,
        retry=args.retry,
        variables=tuple(name for name, _ in bsettings.get_items('worker-env')),
        lines=args.lines)


def may_lack_blobs(args: argparse.Namespace, count: int) -> bool:
    """Return whether binman is told that blobs may be missing.

    Unless a flag decides, `allow-missing` in [global] says for which builds: `always`,
    for `multiple` boards, for a `branch`; several of these, or `never`.

    Args:
        args: the command line
        count: number of boards that are selected

    Raises:
        UsageError: the configuration has a word that means nothing
    """
    text = bsettings.get_value('global', 'allow-missing')
    words = re.split(r'[\s,]+', text.strip(' \t\n,')) if text.strip(' \t\n,') else []
    wrong = [word for word in words if word not in ('always', 'multiple', 'branch', 'never')]
    if wrong or ('never' in words and len(words) > 1):
        what = f"'{wrong[0]}' is unknown" if wrong else "'never' stands alone"
        raise UsageError(f'[global] allow-missing = {" ".join(words)}: {what}: use always, or '
                         'multiple and branch, or never')
    if args.allow_missing is not None:
        return bool(args.allow_missing)
    return 'always' in words or ('multiple' in words and count > 1) or (
        'branch' in words and bool(args.branch))


def load_boards(args: argparse.Namespace, folders: Folders, err: TextIO) -> select.Selection:
    """Find the boards and select those that are asked for.

    Raises:
        BoardError: the list cannot be made, or nothing matches
    """
    names = args.boards if split_names(args.boards) else None
    if args.boards and not names:
        # A variable of a script that is not set, say: it did not mean all boards
        raise BoardError('No matching boards found: --boards names none')
    exclude = split_names(args.exclude)
    # Before anything is looked for or written
    select.parse_terms(args.terms)
    for name in exclude:
        select.compile_term(name)
    cache: Optional[str] = os.path.join(folders.base, 'boards.cfg')
    # Runs that build nothing come in rows: each but the first is to be quick
    builds_nothing = args.dry_run or args.print_arch or args.print_prefix
    if builds_nothing and not os.path.isdir(folders.base):
        cache = None
    extensions = read_extensions(folders.source) if args.extend else None
    wanted = select.exact_names(args.terms, names, extensions)
    try:
        found, warnings = select.load(
            folders.source, cache, wanted, around=output_folder(args),
            private=list_path(folders.source), keep_all=builds_nothing,
            symbols=extensions.symbols if extensions else ())
    except OSError as exc:
        raise SetupError(f"cannot make the list of boards '{cache}': {exc.strerror} "
                         '(choose another output folder with -o)') from exc
    if extensions:
        found, more = found.extended(extensions, whole=wanted is None)
        warnings = [*warnings, *more]
    for text in warnings:
        print(text, file=err)
    selection = found.select(args.terms, exclude, names)
    if args.reproduce and not selection.boards:
        raise BoardError(f"--reproduce: there is no board "
                         f"'{args.reproduce.rpartition('@')[0]}' here")
    for text in selection.warnings:
        print(text, file=err)
    if not selection.boards:
        raise BoardError('No matching boards found' + _what_was_asked(args))
    return selection


def take_shard(shard: Tuple[int, int, str], source: str, selection: select.Selection,
               series: Optional[commits.Series]) -> Tuple[select.Selection, Part]:
    """Return what of a selection is in a shard, and what tells of it.

    Args:
        shard: its number, of how many, and the output folder that has durations, or ''
        source: the tree; without durations its defconfigs tell, which each runner has

    Raises:
        UsageError: there are no durations
    """
    from buildman.boards import effort
    from buildman.results import durations
    from buildman.schedule import forecast
    from buildman.schedule.shard import note, split
    number, count, folder = shard
    costs: Dict[str, float] = {}
    if folder:
        known = forecast.expect(durations.read_below(folder), selection.boards)
        if not known:
            # Another runner may have some, and other shards then
            raise UsageError(f"--shard: '{folder}' does not tell how long any of these boards "
                             'took: name the output folder of a build of them, or none')
        costs = {target: cost.of(len(series.selected) if series else 1)
                 for target, cost in known.items()}
    else:
        costs = effort.guess(source, selection.boards)
    parts = split(selection.boards, costs, count)
    mine = {board.target for board in parts[number - 1]}
    return selection._replace(boards=tuple(parts[number - 1]), why={
        term: [target for target in targets if target in mine]
        for term, targets in selection.why.items()}), note(parts, number)


def _what_was_asked(args: argparse.Namespace) -> str:
    """Return the flags that selected no board"""
    asked = list(args.terms)
    if args.boards:
        asked.append(f"--boards {','.join(split_names(args.boards))}")
    if args.exclude:
        asked.append(f"-x {','.join(split_names(args.exclude))}")
    return f" for {' '.join(asked)}" if asked else ''


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Returns:
        exit status

    Raises:
        BuildmanError: it cannot be done
    """
    out, err = sys.stdout, sys.stderr
    if args.full_help:
        return lists.full_help(out)
    if args.man or args.completion:
        from buildman.cli import completion, manual
        out.write(manual.page() if args.man else completion.SHELLS[args.completion]())
        return EXIT_OK
    if args.test or args.coverage:
        from buildman.cli import selftest
        return selftest.run(args.terms, args.coverage, args.verbose)
    if args.machines_buildman_path and args.verbose:
        print('--machines-buildman-path has no effect: machines run the buildman that is '
              'sent to them', file=err)
    bsettings.setup(args.config_file)
    for text in lists.config_problems(folders=not args.fetch_arch):
        print(text, file=err)
    if args.fetch_arch:
        # It may wait for a server
        signals.watch()
        return lists.fetch(split_names(args.fetch_arch), out)
    if args.list_tool_chains:
        return lists.toolchains(args, out)
    if args.kill_workers or args.clean_workers or args.machines:
        signals.watch()
        return fleet_command(args, out)
    if args.merge:
        return lists.merge(args.merge, output_folder(args), out, err)
    folders = find_folders(args)
    if args.regen_board_list or args.maintainer_check or args.full_check:
        return lists.board_list(args, folders.source, folders.base, err)
    series = None
    if args.branch:
        series = commits.find_series(args.git, args.branch, args.count, args.step)
        for text in series.messages:
            print(text, file=err)
        check_owner(args, folders.base, series)
        if args.work_in_output and len(series.selected) != 1:
            raise UsageError('-w can only be used with a single commit (-c 1)')
        if args.hunt is not None and len(series.selected) < 2:
            raise UsageError('--hunt needs two commits or more, and there is one (-c, --step)')
    settings = make_settings(args)
    check_files(args)
    # What is wrong with the machines is told before anything is begun
    fleet = make_fleet(args)
    selection = load_boards(args, folders, err)
    part: Optional[Part] = None
    if args.shard:
        selection, part = take_shard(args.shard, folders.source, selection, series)
        print('Shard {}/{}: '.format(*args.shard) + f'{len(selection.boards)} boards', file=err)
    settings = dataclasses.replace(
        settings, allow_missing=may_lack_blobs(args, len(selection.boards)))
    if args.print_arch or args.print_prefix:
        return lists.board_values(args, selection.boards, out)
    if args.work_in_output and len(selection.boards) != 1:
        raise UsageError('-w can only be used with a single board: '
                         f'{len(selection.boards)} match')
    if args.dry_run:
        lists.dry_run(describe(args, series, selection.boards), folders.shown, series,
                        selection, args.verbose, out)
        if args.hunt is not None and series:
            halves = (len(series.selected) - 2).bit_length()
            print(f'The hunt begins with {2 * len(selection.boards)} builds, of the first and the '
                  f'last commit; then at most {halves} for each change of a board', file=out)
        if args.dist:
            from buildman.remote.fleet import describe_shares
            from buildman.toolchains import find
            local = find.local_toolchains(args.override_toolchain or '', selection.boards)
            threads, _ = thread_counts(args, len(selection.boards))
            for line in describe_shares(args, selection.boards, threads, local):
                print(line, file=out)
        return EXIT_OK
    if args.reproduce:
        from buildman.cli import reproduce
        out.write(reproduce.show(args, folders, series, selection.boards, settings))
        return EXIT_OK
    judge = make_judge(args, series, selection.boards)
    for text in unfit_lines(judge, folders.source):
        print(text, file=err)
    if args.summary:
        return show_summary(args, folders, series, selection.boards, judge)
    if part:
        from buildman.results.merge import note_part
        note_part(folders.base, part)
        if not selection.boards:
            return EXIT_OK
    file = None
    if args.status:
        from buildman.schedule.watch import StatusFile
        file = StatusFile(args.status, lambda text: print(text, file=err))
    try:
        status, missing, found = build(args, folders, series, selection.boards, settings, fleet,
                                       file)
        if args.build_summary or judge or args.json or args.junit or args.html:
            status = show_summary(args, folders, series, selection.boards, judge, missing, status,
                                  found)
        elif found and not args.ide:
            print('\n'.join(found.lines()), file=out)
    except BaseException as exc:
        if file:
            came = signals.came() or exc
            if isinstance(came, KeyboardInterrupt):
                file.end('interrupted', signals.status_of(came))
            else:
                file.end('failed', came.status if isinstance(came, BuildmanError) else EXIT_USAGE)
        raise
    if file:
        file.end('ended', status)
    return status


def check_files(args: argparse.Namespace) -> None:
    """See to it that the files of flags can be written, and none over another one.

    Raises:
        UsageError: they cannot
    """
    outputs = {'--json': args.json, '--junit': args.junit, '--html': args.html,
               '--codequality': args.codequality, '--status': args.status,
               '--budget': args.budget if args.budget_update else None,
               'GITHUB_STEP_SUMMARY': os.environ.get('GITHUB_STEP_SUMMARY')
               if args.annotate else None}
    inputs = {'--known': args.known, '-G': args.config_file,
              '--budget': None if args.budget_update else args.budget}
    if any(outputs.values()):
        from buildman.results.report import check_paths
        check_paths({flag: path for flag, path in outputs.items() if path},
                    {flag: path for flag, path in inputs.items() if path})


def unfit_lines(judge: Mapping[str, Any], source: str) -> List[str]:
    """Return a line for each file of --known and --budget with lines that fit no board.

    Args:
        judge: see make_judge()
        source: tree that has the boards
    """
    gate, budget = judge.get('gate'), judge.get('budget')
    files = [item for item in (gate.known if gate else None, budget) if item]
    out = []
    for file in files:
        globs: Dict[int, str] = file.globs()
        unfit = set(select.without_board(source, globs.values()))
        found = [f"'{name}' (line {number})" for number, name in globs.items() if name in unfit]
        if found:
            more = f' and {len(found) - _MAX_UNFIT} more' if len(found) > _MAX_UNFIT else ''
            out.append(plain(f"{file.path}: no board of the tree is called "
                             f"{', '.join(found[:_MAX_UNFIT])}{more}"))
    return out


def make_judge(args: argparse.Namespace, series: Optional[commits.Series],
               selected: Sequence[Board]) -> Dict[str, Any]:
    """Return the fields of a SummaryRequest that decide the exit status or speak to a CI server.

    Raises:
        UsageError: a file cannot be understood, or there is nothing to compare with
    """
    out: Dict[str, Any] = {}
    alone = not series or len(series.selected) == 1
    if args.new_only and alone:
        raise UsageError('--new-only needs a commit to compare with: build two at least (-c 2)')
    if args.new_only or args.known:
        import datetime

        from buildman.results.gate import Gate, Known
        known = Known(args.known, datetime.date.today()) if args.known else None
        out['gate'] = Gate(selected, args.new_only, known, args.ignore_warnings)
    if args.budget:
        from buildman.results.budget import Budget
        budget = out['budget'] = Budget(args.budget, selected, args.budget_update, args.new_only)
        budget.check(alone)
        out['budget_update'] = args.budget_update
    if args.annotate:
        out.update(annotate=True, step_summary=os.environ.get('GITHUB_STEP_SUMMARY', ''))
    if args.codequality:
        out['codequality'] = args.codequality
    return out


def show_summary(args: argparse.Namespace, folders: Folders,
                 series: Optional[commits.Series], selected: Sequence[Board],
                 judge: Mapping[str, Any], missing: Optional[Missing] = None,
                 status: int = EXIT_OK, found: Optional[Found] = None) -> int:
    """Show what changed from commit to commit (-s), from the results that are there.

    Args:
        judge: see make_judge()
        missing: what could not be built in this run
        status: exit status of the build
        found: what a hunt has found in this run

    Returns:
        exit status
    """
    from buildman.results import show
    from buildman.results.tree import ResultTree
    tree = ResultTree(folders.base, series.commits if series else None, args.work_in_output,
                      not args.no_subdirs)
    threads, jobs = thread_counts(args, len(selected))
    text = args.summary or args.build_summary
    request = show.SummaryRequest(
        folder=folders.base if series else tree.commit_dir(0),
        commits=series.commits if series else None, boards=tuple(selected),
        known=_known_commits(args, series, tree), threads=threads,
        jobs_per_thread=jobs, show_errors=args.show_errors,
        list_error_boards=args.list_error_boards, show_sizes=args.show_sizes,
        detail=args.detail, bloat=args.bloat, show_config=args.show_config,
        show_environment=args.show_environment, show_lines=args.lines,
        lines_code=args.lines_code, repo=folders.source,
        show_unknown=args.show_unknown,
        filter_dtb_warnings=args.filter_dtb_warnings,
        filter_migration_warnings=args.filter_migration_warnings,
        preserve_config_y=args.preserve_config_y, show_not_built=args.show_not_built,
        ide=args.ide and text, step=args.step, json=args.json, junit=args.junit,
        html=args.html, colour=sys.stdout.isatty(), times_folder=folders.base,
        missing=missing or {}, text=text, status=status, **judge)
    if args.against:
        from buildman.results.against import find_others

        def find_tip(name: str) -> Tuple[str, str]:
            return (commits.find_series(args.git, name, 1).commits[0].hash, os.path.join(
                os.path.dirname(folders.base), commits.folder_name(name)))

        request = dataclasses.replace(request, against=find_others(
            args.against, request.folder, [(upto, commit) for upto, commit, _ in request.selected()
                                           if commit] if series else None, find_tip))
    if args.hunt is not None and series and not found:
        where = {upto: folder for upto, _, folder in request.selected()}
        hunt = make_hunt(args, series, lambda upto, target: os.path.join(where[upto], target))
        names = [board.target for board in selected]
        for name, upto in itertools.product(names, series.selected):
            hunt.recall(name, upto)
        found = hunt.found(names)
    return show.show_summary(dataclasses.replace(request, found=found), sys.stdout)


def _known_commits(args: argparse.Namespace, series: Optional[commits.Series],
                   tree: ResultTree) -> FrozenSet[str]:
    """Return the commits whose results are in their place, also if they are not shown"""
    if not series:
        return frozenset()
    hashes = [commit for _, commit in tree.built_commits()]
    return series.alive.union(commits.in_history(args.git, series, hashes),
                              kept_results(args, tree.base_dir, series))


def fleet_command(args: argparse.Namespace, out: TextIO) -> int:
    """Do what concerns all machines and builds nothing.

    Returns:
        exit status
    """
    from buildman.remote import fleet
    from buildman.toolchains import find
    if args.kill_workers or args.clean_workers:
        pool = fleet.load_machines(args)
        names = [mach.name for mach in pool.machines]
        done = fleet.kill_all(names) if args.kill_workers else not fleet.clean_workers(names)
        if args.kill_workers:
            done = fleet.kill_supplied(pool) and done
        return EXIT_OK if done else 1
    return fleet.show_machines(
        args, find.local_toolchains(args.override_toolchain or '', None), out)


def make_fleet(args: argparse.Namespace) -> Optional[Fleet]:
    """Return the machines that are to take part in a build, None when there is none.

    Raises:
        UsageError: flags or the configuration of machines cannot be understood
    """
    if not args.dist or args.summary or args.print_arch or args.print_prefix:
        return None
    # Loaded when it is needed only, as the summary is: most runs do without
    from buildman.remote.fleet import Fleet
    return Fleet(args)


__all__ = ['EXIT_OK', 'BuildmanError', 'run']
