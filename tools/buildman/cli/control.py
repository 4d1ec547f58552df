# SPDX-License-Identifier: GPL-2.0+
"""From arguments to a plan, and from the plan to a run."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import itertools
import os
import re
import shutil
import sys
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
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
from buildman.cli.folders import (
    Folders,
    check_disk,
    check_owner,
    find_folders,
    kept_results,
    note_owner,
    output_folder,
    work_area,
)
from buildman.core.errors import (
    EXIT_ERRORS,
    EXIT_OK,
    EXIT_USAGE,
    BoardError,
    BuildmanError,
    SetupError,
    UsageError,
)
from buildman.core.plan import Board, Commit, Plan, Settings
from buildman.process.limits import cpu_count
from buildman.source import commits

# The rest is loaded by the functions that need it: lists, dry runs and summaries,
# which scripts do in a row, begin in half of the time without what builds
if TYPE_CHECKING:
    import queue

    from buildman.core.events import Event
    from buildman.remote.fleet import Fleet
    from buildman.results.cache import ResultCache
    from buildman.results.carry import Carrier
    from buildman.results.durations import Recorder
    from buildman.results.hunted import Found
    from buildman.results.made_with import Earlier
    from buildman.results.merge import Part
    from buildman.results.tree import ResultTree
    from buildman.schedule.hunt import Hunt
    from buildman.schedule.local import LocalWorker, Worker
    from buildman.schedule.loop import Loop, Report
    from buildman.schedule.progress import Status
    from buildman.schedule.watch import StatusFile
    from buildman.toolchains.find import Choice

# Board -> commits (indexes) that could not be built, and why
Missing = Mapping[str, Tuple[Tuple[int, ...], str]]


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
        ccache=args.ccache,
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
    for text in selection.warnings:
        print(text, file=err)
    if not selection.boards:
        raise BoardError('No matching boards found' + _what_was_asked(args))
    return selection


def take_shard(shard: Tuple[int, int, str], selection: select.Selection,
               series: Optional[commits.Series]) -> Tuple[select.Selection, Part]:
    """Return what of a selection is in a shard, and what tells of it.

    Args:
        shard: its number, of how many, and the output folder that has durations, or ''

    Raises:
        UsageError: there are no durations
    """
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


def describe(args: argparse.Namespace, series: Optional[commits.Series],
             selected: Sequence[Board]) -> str:
    """Return the line that says what is going to be built."""
    if series:
        count = len(series.selected)
        what = f"{count} commit{'s' if count != 1 else ''}"
    else:
        what = 'current source'
    threads, jobs = thread_counts(args, len(selected))
    if args.threads == 0:
        threads = 0
    verb = 'Building' if args.hunt is None else 'Hunting in'
    return (f"{verb} {what} for {len(selected)} boards "
            f"({threads} thread{'s' if threads != 1 else ''}, "
            f"{jobs} job{'s' if jobs != 1 else ''} per thread)")


def thread_counts(args: argparse.Namespace, board_count: int) -> Tuple[int, int]:
    """Return (boards to build at once, jobs that each make gets on average)."""
    cpus = cpu_count()
    threads = args.threads if args.threads is not None else min(cpus, board_count)
    threads = max(1, threads)
    if args.work_in_output:
        threads = 1
    return threads, args.jobs or -(-cpus // threads)


def check_programs(settings: Settings) -> None:
    """See to it that this machine has the programs that builds are to use.

    Raises:
        SetupError: one is missing
    """
    for wanted, what, name, package in (
            (True, 'GNU make', 'make', 'make'), (settings.ccache, '--ccache: ccache', 'ccache',
                                                 'ccache'),
            (settings.dtc_skip, '--dtc-skip: dtc', 'dtc', 'device-tree-compiler')):
        if wanted and not shutil.which(name):
            raise SetupError(f'{what} is not installed (apt-get install {package})')


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
    reports = [path for path in (args.json, args.junit, args.html, args.codequality) if path]
    if reports:
        from buildman.results.report import check_paths
        check_paths(reports)
    # What is wrong with the machines is told before anything is begun
    fleet = make_fleet(args)
    selection = load_boards(args, folders, err)
    part: Optional[Part] = None
    if args.shard:
        selection, part = take_shard(args.shard, selection, series)
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


def build(args: argparse.Namespace, folders: Folders, series: Optional[commits.Series],
          selected: Sequence[Board], settings: Settings,
          fleet: Optional[Fleet] = None, file: Optional[StatusFile] = None
          ) -> Tuple[int, Missing, Optional[Found]]:
    """Build the boards.

    Args:
        fleet: other machines that take part
        file: is to tell how it is

    Returns:
        exit status, what has no result, and what a hunt has found
    """
    from buildman.cli import limit
    from buildman.results.tree import OutputLock, ResultTree
    from buildman.schedule.loop import exit_status
    from buildman.toolchains import find
    if not args.no_local:
        check_programs(settings)
    chains = find.Toolchains(args.override_toolchain or '')
    chains.scan()
    commit_list: Optional[Tuple[Commit, ...]] = series.commits if series else None
    indexes = series.selected if series else (0,)
    choice = find.choose_toolchains(selected, chains, indexes)
    plan = Plan(tuple(choice.jobs), commit_list, settings, indexes)
    tree = ResultTree(folders.base, commit_list, args.work_in_output, not args.no_subdirs)
    status = make_status(args, selected, commit_list)
    hunt = make_hunt(args, series, tree.board_dir) if series and args.hunt is not None else None
    with limit.process_limit(args.process_limit, status.say):
        lock = OutputLock(folders.base)
        try:
            check_disk(folders.base)
            if not args.ide:
                status.say(describe(args, series, selected))
            alive: FrozenSet[str] = frozenset()
            if series and not args.work_in_output:
                alive = commits.to_keep(args.git, series, tree.built_commits()).union(
                    kept_results(args, folders.base, series))
                note_owner(args, folders.base, series)
            stale = tree.settle(alive)
            if stale and not args.ide:
                status.say(f'Removing {len(stale)} old build directories...')
            # Another machine may have the compiler that this one lacks
            report = run_builds(args, folders, plan, tree, status, fleet,
                                set() if fleet else choice.unbuildable(), hunt, file, stale)
            as_built = not args.check_carried or check_carried(
                args, folders, plan, tree, report, status, fleet)
        finally:
            lock.close()
    tell_unbuilt(report, choice, plan, status, bool(fleet))
    code = exit_status(status, report, args.ignore_warnings) if as_built else EXIT_ERRORS
    return code, report.missing, hunt.found(
        [board.target for board in selected]) if hunt else None


def make_hunt(args: argparse.Namespace, series: commits.Series,
              folder: Callable[[int, str], str]) -> Hunt:
    """Return what decides which commits are to be built (--hunt).

    Args:
        folder: returns that of a result, for an index and a board
    """
    from buildman.results.hunted import read
    from buildman.schedule.hunt import Hunt
    return Hunt(series.commits, series.selected, lambda upto, target: read(folder(upto, target)),
                args.hunt, (args.filter_dtb_warnings, args.filter_migration_warnings))


def make_status(args: argparse.Namespace, selected: Sequence[Board],
                commit_list: Optional[Tuple[Commit, ...]]) -> Status:
    """Return what tells people how far a build is.

    The current source is built by somebody who waits for the errors; those of
    a branch are told as they come with -v.
    """
    from buildman.schedule.progress import Status
    teller = None
    if args.verbose or commit_list is None:
        from buildman.results.show import ResultTeller, SummaryRequest
        teller = ResultTeller(SummaryRequest(
            '', commit_list, tuple(selected), colour=sys.stdout.isatty(),
            show_errors=args.show_errors or commit_list is None,
            list_error_boards=args.list_error_boards,
            filter_dtb_warnings=args.filter_dtb_warnings,
            filter_migration_warnings=args.filter_migration_warnings))
    return Status(sys.stdout, describe=teller, ide=sys.stderr if args.ide else None)


def run_builds(args: argparse.Namespace, folders: Folders, plan: Plan, tree: ResultTree,
               status: Status, fleet: Optional[Fleet] = None,
               unbuildable: Collection[str] = (), hunt: Optional[Hunt] = None,
               file: Optional[StatusFile] = None, stale: Sequence[str] = ()) -> Report:
    """Build what is missing in the tree.

    Args:
        fleet: other machines that take part
        unbuildable: boards that nobody has a compiler for
        hunt: tells which commits are to be built; None: all
        file: is to tell how it is
        stale: folders that are removed when nothing of them is of use any more

    Returns:
        what could not be built
    """
    import queue

    from buildman.build import outside
    from buildman.results import durations
    from buildman.results.made_with import Earlier
    from buildman.schedule.loop import Loop
    signals.watch()
    events: 'queue.Queue[Event]' = queue.Queue()
    status.start(len(plan.jobs) * plan.commit_count)
    here: Optional[LocalWorker] = None
    earlier = Earlier(plan, tree)
    carrier = make_carrier(args, folders, plan, tree, earlier, fleet)
    loop = Loop(plan, tree, status, events, host=fleet.host if fleet else '',
                weigh=functools.partial(weigh_boards, tree.base_dir, output_folder(args), plan),
                unbuildable=unbuildable, earlier=earlier, hunt=hunt, carrier=carrier)
    tree.remove(stale)
    recorder: Optional[Recorder] = None

    def tell_counts() -> None:
        if file:
            file.update(status.state())

    tell = tell_counts
    try:
        for line in [] if args.ide else earlier.lines(
                'built again where the hunt looks' if hunt else 'built again'):
            status.say(line)
        loop.tell_unbuildable()
        if not loop.nothing_to_do:
            recorder = durations.Recorder(tree.base_dir, plan.commits,
                                          plan.settings.config_only or bool(plan.settings.target)
                                          or hunt is not None)
            loop.add_listener(recorder)
            local = {job.board.arch: job.toolchain for job in plan.jobs if job.toolchain.gcc}
            workers: List[Worker] = []
            commits.fetch_missing(folders.source, [commit.hash for commit in plan.commits]
                                  if plan.commits else ['HEAD'] if fleet else [], status.say)
            ends = [plan.commits[upto].hash for upto in
                    (plan.selected[0], plan.selected[-1])] if plan.commits else []
            inputs = outside.search(folders.source, ends, os.environ)
            if not fleet or fleet.use_local:
                here = make_local_worker(args, folders, plan, tree, loop, events.put,
                                         sorted(local), inputs, fleet)
                workers.append(here)
            if fleet:
                workers += fleet.make_workers(plan, tree, folders.source, local, inputs, events.put,
                                              loop.pending())
                for text in fleet.warnings:
                    status.say(text)
                fleet.attach(loop, tree.base_dir)
            tell = let_watch(args, loop, status, workers, fleet, file)
            loop.run(workers)
            why = loop.report.lost.get('')
            if why and len(workers) == 1 and not loop.report.built:
                raise SetupError(why)
    finally:
        status.end_line()
        tell()
        said = carrier.close(sys.exc_info()[0] is not None) if carrier else ''
        if recorder:
            recorder.close()
        if fleet:
            fleet.close()
    if not args.ide:
        status.say(status.closing())
        use = here.cache_use() if here else None
        if use:
            status.say(f'  {"local: " if fleet else ""}{use}')
        if fleet:
            for line in [*fleet.transfer_lines(), *loop.aftermath.lines()]:
                status.say(line)
        for line in filter(None, (status.scanned(), said)):
            status.say(line)
    return loop.report


def let_watch(args: argparse.Namespace, loop: Loop, status: Status,
              workers: Sequence[Worker], fleet: Optional[Fleet],
              file: Optional[StatusFile]) -> Callable[[], None]:
    """Have a run shown on the terminal (--top) and in a file (--status), if that is asked for.

    Returns:
        what writes the file, if there is any
    """
    top = (args.top and not args.ide and sys.stdout.isatty()
           and os.environ.get('TERM', 'dumb') != 'dumb')
    if not top and not file:
        return lambda: None
    from buildman.schedule.watch import Watch, lines

    def signs(name: str) -> Tuple[float, float]:
        if name and fleet:
            return fleet.signs(name)
        try:
            return os.getloadavg()[0], 0.0
        except OSError:
            return 0.0, 0.0

    watch = Watch(loop.ledger, workers, signs)
    loop.add_listener(watch)
    if top:
        status.above = lambda rows, columns: lines(watch.state(), rows, columns)
        loop.add_ticker(status.tick, 0.5)

    def tell() -> None:
        if file:
            file.update({**status.state(), **watch.state()})

    loop.add_ticker(tell, 1.0)
    return tell


def check_carried(args: argparse.Namespace, folders: Folders, plan: Plan, tree: ResultTree,
                  report: Report, status: Status, fleet: Optional[Fleet]) -> bool:
    """Build some of the results that were carried (--check-carried).

    Returns:
        False when one differs
    """
    from buildman.build import outside
    from buildman.cli import recheck

    def make_worker(again: Plan, loop: Loop, post: Callable[[Event], None]) -> Worker:
        assert again.commits
        inputs = outside.search(folders.source, [again.commits[upto].hash for upto in
                                                 again.selected], os.environ)
        return make_local_worker(args, folders, again, tree, loop, post,
                                 [job.board.arch for job in again.jobs if job.toolchain.gcc],
                                 inputs, fleet)

    count, seed = args.check_carried
    return recheck.check(count, seed, plan, tree, report.carried, make_worker, status.say)


def make_carrier(args: argparse.Namespace, folders: Folders, plan: Plan, tree: ResultTree,
                 earlier: Earlier, fleet: Optional[Fleet]) -> Optional[Carrier]:
    """Return what finds results that need not be built; None if each is to be built.

    Raises:
        UsageError: the configuration of the result cache makes no sense
    """
    from buildman.build import keys, slots, trace
    from buildman.results.carry import Carrier
    from buildman.source.localversion import VersionTexts
    from buildman.source.origin import Origin
    cache = result_cache(args)
    if plan.commits is None or not trace.carries(plan.settings):
        return None
    texts = VersionTexts(os.path.join(work_area(tree.base_dir), 'version.carried'),
                         Origin.read(folders.source))
    env = {**slots.clean_env(os.environ), **environment.make_definitions(os.environ),
           **(fleet.environment(()) if fleet else {})}
    return Carrier(tree, output_folder(args), keys.Keys(
        folders.source, plan.commits, plan.settings, env, trace.Trees(folders.source), texts),
        earlier, cache)


def result_cache(args: argparse.Namespace) -> Optional[ResultCache]:
    """Return the cache of results that the command line or the configuration names.

    Raises:
        UsageError: its mode or size makes no sense
    """
    from buildman.results.cache import ResultCache, parse_size
    section = 'result-cache'
    folder = args.result_cache or bsettings.get_value(section, 'folder')
    mode = bsettings.get_value(section, 'mode') or 'rw'
    size = bsettings.get_value(section, 'size') or '10G'
    if mode not in ('ro', 'rw'):
        raise UsageError(f"[{section}] mode = {mode}: use ro or rw")
    try:
        limit = parse_size(size)
    except ValueError as exc:
        raise UsageError(f'[{section}] size: {exc}') from exc
    return ResultCache(os.path.abspath(os.path.expanduser(folder)), mode == 'rw',
                       limit) if folder else None


def weigh_boards(base: str, around: str, plan: Plan,
                 todo: Mapping[str, int]) -> Dict[str, Tuple[float, float]]:
    """Return what boards are expected to cost, from how long earlier builds took.

    Args:
        base: folder of the results
        around: holds those of all branches
        plan: the boards
        todo: board to number of commits that are to be built

    Returns:
        board to the cost of all its commits, and of the first of them
    """
    from buildman.results import durations
    from buildman.schedule import forecast
    costs = forecast.expect(durations.read_all(base, around, todo),
                           [job.board for job in plan.jobs])
    return {target: (costs[target].of(count), costs[target].first)
            for target, count in todo.items() if target in costs}


def make_local_worker(args: argparse.Namespace, folders: Folders, plan: Plan, tree: ResultTree,
                      loop: Loop, post: Callable[[Event], None],
                      archs: Sequence[str], inputs: FrozenSet[str],
                      fleet: Optional[Fleet]) -> LocalWorker:
    """Return this machine as a worker"""
    from buildman.build import slots
    from buildman.core.events import Said
    from buildman.schedule.local import LocalWorker
    threads, _ = thread_counts(args, len(plan.jobs))
    cpus = cpu_count()
    # One board more than there are processors, unless the user has a say in it: the
    # steps of a build that have one job only then leave nobody idle, as there are
    # jobs of another board. How many run at once is for the job server.
    spare = (args.threads is None and not args.jobs and not fleet and threads == cpus > 1)
    config = slots.EngineConfig(
        work_dir=work_area(tree.base_dir), source_dir=folders.source, commits=plan.commits,
        settings=plan.settings, slots=min(threads + spare, loop.pending()),
        tokens=max(threads, cpus),
        env={**slots.clean_env(os.environ), **environment.make_definitions(os.environ),
             **(fleet.environment(inputs) if fleet else {})},
        results_dir=tree.base_dir, inputs=inputs, complain=lambda text: post(Said('', text)))
    return LocalWorker(slots.Engine(config, post), archs if fleet else None,
                       fleet.speed if fleet else 1.0)


def tell_unbuilt(report: Report, choice: Choice, plan: Plan, status: Status,
                 is_distributed: bool) -> None:
    """Name the boards that were not built, and why."""
    from buildman.toolchains import find
    reasons = [(job.board.target, report.lacking[job.board.target],
                find.why_nobody(choice, job.board.arch, is_distributed))
               for job in plan.jobs if job.board.target in report.lacking]
    reasons += [(target, missing, why) for target, (missing, why) in report.missing.items()]
    by_reason: Dict[str, List[str]] = {}
    for target, missing, why in reasons:
        count = len(missing)
        name = (target if count == plan.commit_count
                else f"{target} ({count} commit{'s' if count != 1 else ''})")
        by_reason.setdefault(why or 'not finished', []).append(name)
    for why, names in by_reason.items():
        status.say(f"Not built: {' '.join(names)}: {why}")


__all__ = ['EXIT_OK', 'BuildmanError', 'run']
