# SPDX-License-Identifier: GPL-2.0+
"""A build: from what was asked for to a loop with its workers, and what is told at the end."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import shutil
import sys
from collections import Counter
from typing import (
    TYPE_CHECKING,
    Callable,
    Collection,
    Dict,
    FrozenSet,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from buildman import bsettings
from buildman.build import environment
from buildman.cli import signals
from buildman.cli.folders import (
    Folders,
    check_disk,
    kept_results,
    note_owner,
    output_folder,
    work_area,
)
from buildman.core.errors import EXIT_ERRORS, SetupError, UsageError
from buildman.core.plan import Board, Commit, Plan, Settings
from buildman.process.limits import cpu_count
from buildman.source import commits

# The rest is loaded by the functions that need it: lists, dry runs and summaries,
# which scripts do in a row, begin in half of the time without what builds
if TYPE_CHECKING:

    from buildman.build.keys import Keys
    from buildman.core.events import Event
    from buildman.remote.fleet import Fleet
    from buildman.results.cache import ResultCache
    from buildman.results.carry import Carrier
    from buildman.results.durations import Recorder
    from buildman.results.hunted import Found
    from buildman.results.made_with import Earlier
    from buildman.results.tree import ResultTree
    from buildman.schedule.hunt import Hunt
    from buildman.schedule.ledger import Weight
    from buildman.schedule.local import LocalWorker, Worker
    from buildman.schedule.loop import Loop, Report
    from buildman.schedule.progress import Status
    from buildman.schedule.watch import StatusFile
    from buildman.toolchains.find import Choice

# Board -> commits (indexes) that could not be built, and why
Missing = Mapping[str, Tuple[Tuple[int, ...], str]]


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
    # With a folder for each board, sources have the path of a slot, of which ccache takes a part
    if args.ccache is None and not fleet and not settings.per_board_out_dir:
        settings = dataclasses.replace(settings, ccache=uses_ccache(folders, selected))
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


def thread_counts(args: argparse.Namespace, board_count: int) -> Tuple[int, int]:
    """Return (boards to build at once, jobs that each make gets on average)."""
    cpus = cpu_count()
    threads = args.threads if args.threads is not None else min(cpus, board_count)
    threads = max(1, threads)
    if args.work_in_output:
        threads = 1
    return threads, args.jobs or -(-cpus // threads)


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


def uses_ccache(folders: Folders, selected: Sequence[Board]) -> bool:
    """Return whether ccache is used here, when nobody has said.

    Raises:
        SetupError: see work_area()
    """
    from buildman.build import ccache
    from buildman.build.siblings import is_large
    used = ccache.was_used(work_area(folders.base))
    if used is None:
        used = ccache.is_warm([board.target for board in selected], os.environ) or (
            ccache.is_usable(os.environ) and ccache.pays(selected) and is_large(folders.source))
    # Last: it costs most. Builds that nobody asked to go by it must not fail for it
    return used and ccache.works(os.environ)


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
    from buildman.results.made_with import Earlier
    from buildman.schedule.inbox import Inbox
    from buildman.schedule.loop import Loop
    signals.watch()
    events = Inbox()
    status.start(len(plan.jobs) * plan.commit_count)
    here: Optional[LocalWorker] = None
    earlier = Earlier(plan)
    cache = result_cache(args)

    # It asks git for much, which a run with nothing to do need not know
    @functools.cache
    def carrier() -> Optional[Carrier]:
        return make_carrier(folders, plan, tree, earlier, fleet, cache, output_folder(args))

    loop = Loop(plan, tree, status, events, host=fleet.host if fleet else '',
                weigh=functools.partial(weigh_boards, tree.base_dir, output_folder(args),
                                      folders.source, plan),
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
            from buildman.build import outside
            from buildman.results import durations
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
                finder = None if fleet else carrier()
                here = make_local_worker(args, folders, plan, tree, loop, events.post,
                                         sorted(local), inputs, fleet,
                                         finder.keys if finder else None)
                workers.append(here)
            if fleet:
                workers += fleet.make_workers(plan, tree, folders.source, local, inputs,
                                              events.post, len(loop.pending()))
                for text in fleet.warnings:
                    status.say(text)
                fleet.attach(loop, tree.base_dir)
            tell = let_watch(args, loop, status, workers, fleet, file)
            loop.run(workers)
            why = loop.report.lost.get('')
            if why and len(workers) == 1 and not loop.report.built:
                raise SetupError(why)
        tree.remember([job.board.target for job in plan.jobs],
                      () if loop.nothing_to_do else plan.selected)
    finally:
        status.end_line()
        tell()
        made = carrier() if carrier.cache_info().currsize else None
        said = made.close(sys.exc_info()[0] is not None) if made else ''
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


def environment_here(fleet: Optional[Fleet], inputs: Collection[str] = ()) -> Dict[str, str]:
    """Return the environment that builds here start from.

    Args:
        fleet: other machines that take part, and are to give the same
        inputs: variables that the tree takes from it
    """
    from buildman.build import slots
    return {**slots.clean_env(os.environ), **environment.make_definitions(os.environ),
            **(fleet.environment(inputs) if fleet else {})}


def make_local_worker(args: argparse.Namespace, folders: Folders, plan: Plan, tree: ResultTree,
                      loop: Loop, post: Callable[[Event], None],
                      archs: Sequence[str], inputs: FrozenSet[str],
                      fleet: Optional[Fleet], keys: Optional[Keys] = None) -> LocalWorker:
    """Return this machine as a worker"""
    from buildman.build import siblings, slots
    from buildman.build.folder import MOST_ASIDE
    from buildman.core.events import Said
    from buildman.schedule.local import LocalWorker
    threads, _ = thread_counts(args, len(plan.jobs))
    cpus = cpu_count()
    # One board more than there are processors, unless the user has a say in it: the
    # steps of a build that have one job only then leave nobody idle, as there are
    # jobs of another board. How many run at once is for the job server.
    spare = (args.threads is None and not args.jobs and not fleet and threads == cpus > 1)
    pending = loop.pending()
    boards = {job.board.target: job.board for job in plan.jobs}
    config = slots.EngineConfig(
        work_dir=work_area(tree.base_dir), source_dir=folders.source, commits=plan.commits,
        settings=plan.settings, slots=min(threads + spare, len(pending)), boards=pending,
        families=Counter(siblings.family(boards[target]) for target in pending),
        keeps=len(plan.jobs) <= MOST_ASIDE * (threads + spare), keys=keys,
        tokens=max(threads, cpus),
        env=environment_here(fleet, inputs),
        results_dir=tree.base_dir, inputs=inputs, complain=lambda text: post(Said('', text)))
    return LocalWorker(slots.Engine(config, post), archs if fleet else None,
                       fleet.speed if fleet else 1.0)


def weigh_boards(base: str, around: str, source: str, plan: Plan,
                 todo: Mapping[str, int]) -> Dict[str, Weight]:
    """Return what boards are expected to cost, from how long earlier builds took.

    When there were none, by what their defconfigs say.

    Args:
        base: folder of the results
        around: holds those of all branches
        source: the tree
        plan: the boards
        todo: board to number of commits that are to be built
    """
    from buildman.boards import effort
    from buildman.results import durations
    from buildman.schedule import forecast
    from buildman.schedule.ledger import Weight
    boards = [job.board for job in plan.jobs]
    costs = forecast.expect(durations.read_all(base, around, todo), boards)
    guessed = not costs
    if guessed:
        costs = forecast.guessed(effort.guess(source, [board for board in boards
                                                       if board.target in todo]))
    return {target: Weight(costs[target].of(count), costs[target].first, guessed)
            for target, count in todo.items() if target in costs}


def make_carrier(folders: Folders, plan: Plan, tree: ResultTree, earlier: Earlier,
                 fleet: Optional[Fleet], cache: Optional[ResultCache],
                 around: str) -> Optional[Carrier]:
    """Return what finds results that need not be built; None if each is to be built.

    Args:
        around: folder that holds the results of all branches
    """
    from buildman.build import keys, trace
    from buildman.results.carry import Carrier
    from buildman.source.localversion import VersionTexts
    from buildman.source.origin import Origin
    if plan.commits is None or not trace.carries(plan.settings):
        return None
    texts = VersionTexts(os.path.join(work_area(tree.base_dir), 'version.carried'),
                         Origin.read(folders.source))
    return Carrier(tree, around, keys.Keys(
        folders.source, plan.commits, plan.settings, environment_here(fleet),
        trace.Trees(folders.source), texts), earlier, cache)


def result_cache(args: argparse.Namespace) -> Optional[ResultCache]:
    """Return the cache of results that the command line or the configuration names.

    Raises:
        UsageError: its mode or size makes no sense
    """
    section = 'result-cache'
    folder = args.result_cache or bsettings.get_value(section, 'folder')
    mode = bsettings.get_value(section, 'mode') or 'rw'
    size = bsettings.get_value(section, 'size') or '10G'
    if mode not in ('ro', 'rw'):
        raise UsageError(f"[{section}] mode = {mode}: use ro or rw")
    if not folder and not bsettings.get_value(section, 'size'):
        return None
    from buildman.results.cache import ResultCache, parse_size
    try:
        limit = parse_size(size)
    except ValueError as exc:
        raise UsageError(f'[{section}] size: {exc}') from exc
    return ResultCache(os.path.abspath(os.path.expanduser(folder)), mode == 'rw',
                       limit) if folder else None


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
