# SPDX-License-Identifier: GPL-2.0+
"""The loop that owns a run: events in, boards out, results to disk.

Everything that changes while a build runs (the scheduler's state, the result
tree, the terminal) is touched by this loop only. Slots and connections have
threads of their own, which post events to its queue and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import time
from typing import (
    TYPE_CHECKING,
    Callable,
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
)

from buildman.core.errors import EXIT_ERRORS, EXIT_OK, EXIT_WARNINGS
from buildman.core.events import (
    BoardDone,
    Built,
    Crashed,
    Event,
    HandedOut,
    Refused,
    Said,
    Started,
    WorkerComing,
    WorkerGone,
    WorkerReady,
)
from buildman.core.outcome import TRIES, Outcome, without_compiler
from buildman.core.plan import BoardJob, Plan
from buildman.process.threads import join, on_all
from buildman.schedule.estimate import Estimate
from buildman.schedule.inbox import Inbox
from buildman.schedule.ledger import Task, Weight
from buildman.schedule.policy import Scheduler
from buildman.schedule.progress import Aftermath, Counts, Status

# A run with nothing to do needs none of these
if TYPE_CHECKING:
    from buildman.results.carry import Carrier
    from buildman.results.known import Glance
    from buildman.results.made_with import Earlier
    from buildman.schedule.hunt import Hunt
    from buildman.schedule.local import Worker

# Boards that fail in a row because of the machine, not of the source, until it
# gets no more of them, if there is another machine
MAX_BAD_BOARDS = 3

# Seconds after which a worker is asked again that got nothing, as others are faster
HUNGRY_SECONDS = 2.0


# Board to number of commits -> board to expected cost
Weigh = Callable[[Mapping[str, int]], Mapping[str, Weight]]


class Sink(Protocol):
    """Where results go: the tree of the command, or that of a caller."""

    def complete(self, upto: int, targets: Iterable[str]) -> Dict[str, Glance]:
        """Return the results of a commit that are there, with what there is to know of them."""

    def lacks_compiler(self, upto: int, target: str) -> bool:
        """Return whether the result that is there says that there was no compiler."""

    def write(self, outcome: Outcome) -> None:
        """Keep a result."""

    def forget(self, upto: int, target: str) -> None:
        """Let an earlier result count no more, as it was to be built anew and was not."""


class Carried(NamedTuple):
    """A board at a commit that has the result of another one, and which"""

    target: str
    upto: int
    source: str


@dataclasses.dataclass
class Report:
    """How a run ended.

    Attributes:
        missing: boards that are not complete, with their missing commits and
            why
        notes: what happened to machines, a line each
        lost: machines that had to give up, and why
        built: how many results came out
        lacking: boards that nobody has a compiler for who takes part, with the
            commits for which that is the result
        carried: results that nobody had to build
    """

    missing: Dict[str, Tuple[Tuple[int, ...], str]] = dataclasses.field(default_factory=dict)
    notes: List[str] = dataclasses.field(default_factory=list)
    lost: Dict[str, str] = dataclasses.field(default_factory=dict)
    built: int = 0
    lacking: Dict[str, Tuple[int, ...]] = dataclasses.field(default_factory=dict)
    carried: List[Carried] = dataclasses.field(default_factory=list)


class Loop:
    """One run over a plan.

    Attributes:
        plan: what to build
        events: what all workers post to
        scheduler, ledger: who gets what next, and who owes what
        report, aftermath: how it ended, and what became of machines
    """

    def __init__(self, plan: Plan, tree: Sink, status: Status,
                 events: Inbox,
                 weigh: Optional[Weigh] = None, host: str = '',
                 unbuildable: Collection[str] = (), for_caller: bool = False,
                 earlier: Optional[Earlier] = None, hunt: Optional[Hunt] = None,
                 carrier: Callable[[], Optional[Carrier]] = lambda: None) -> None:
        """Set up.

        Args:
            plan: what to build
            tree: where results go
            status: what is shown
            events: what all workers post to
            weigh: called if something is to be built, with each board and its
                number of commits; returns what they are expected to cost, all
                commits and the first of them, see Task. None: all the same
            host: name of this machine, for the `host` file of each result in a
                distributed build; '' for a local one
            unbuildable: boards that nobody has a compiler for; in a distributed
                build that is found out by and by
            for_caller: workers are a caller's, of which nobody can tell whether
                they drop a board: each stays where it is; and what they lack is no
                result
            earlier: tells which results are of other settings; None: each counts, and
                none will tell its settings
            hunt: tells which commits are to be built; None: all
            carrier: returns what finds results that need not be built; called when one
                is to be found
        """
        self.plan = plan
        self._tree = tree
        self._status = status
        self.events = events
        self._jobs = {job.board.target: job for job in plan.jobs}
        self._workers: Dict[str, Worker] = {}
        self._retried: Set[Tuple[str, int]] = set()
        # Board -> what was wrong with the machine that failed it last
        self._blamed: Dict[str, str] = {}
        self._listeners: List[Callable[[Event, str], None]] = []
        self._roll: List[Worker] = []
        self._joining: Set[str] = set()
        self._known: Set[str] = set()
        self._host = host
        # When to call what next, and each how many seconds
        self._tickers: List[Tuple[float, Callable[[], None], float]] = []
        self._before_end: Callable[[bool], None] = lambda haste: None
        self._told: Set[Tuple[str, str]] = set()
        self._bad_boards: Dict[str, Set[str]] = {}
        self._changed = True
        self.report = Report()
        self.aftermath = Aftermath()
        self._began = time.monotonic()
        self._unbuildable = unbuildable
        # Boards at commits that are not to be built, as that cannot be done
        self._refused: List[Tuple[str, int]] = []
        # Those that had no compiler in an earlier run, and are tried again
        self._lacked: Set[Tuple[str, int]] = set()
        # What a hunt may pass over; a result that is there does not count
        self._set_aside: List[Tuple[str, int]] = []
        # What somebody has compilers for, and who has not told yet
        self._able: Set[Optional[str]] = set()
        self._untold: Set[str] = set()
        self._for_caller = for_caller
        self._earlier = earlier
        self._hunt = hunt
        self._carrier = carrier
        if hunt:
            hunt.steps = self._steps
        self.scheduler = Scheduler(self._find_tasks(weigh), clock=time.monotonic,
                                   moves=not for_caller)
        self.ledger = self.scheduler.ledger
        estimate = Estimate(self.ledger)
        self.add_listener(estimate)
        status.left = estimate.left

    def add_listener(self, listener: Callable[[Event, str], None]) -> None:
        """Have a function called with every event, after it was dealt with.

        Its second argument tells why a result was not kept: 'infra' when it is
        the machine's fault and tried again, 'dropped' when somebody else was
        first or it was not asked for; '' for everything else.
        """
        self._listeners.append(listener)

    def add_ticker(self, ticker: Callable[[], None], seconds: float) -> None:
        """Have a function called by the loop every so many seconds, before the run begins."""
        self._tickers.append((time.monotonic() + seconds, ticker, seconds))

    def set_before_end(self, func: Callable[[bool], None]) -> None:
        """Have a function called before the workers end.

        Its argument tells whether they are stopped at once, not finished.
        """
        self._before_end = func

    def _find_tasks(self, weigh: Optional[Weigh]) -> List[Task]:
        """Find out what is missing in the tree, and count what is there"""
        settings = self.plan.settings
        todo: Dict[str, List[int]] = {target: [] for target in self._jobs}
        counts = self._status.counts
        for upto in self.plan.selected:
            built = ({} if settings.force_build
                     else self._tree.complete(upto, self._jobs))
            for target in self._jobs:
                had = built.get(target)
                is_open = had is None or (had.code and settings.force_build_failures)
                lacked = had is not None and had.lacking
                if self._earlier and had and not is_open and not lacked:
                    is_open = self._earlier.is_outdated(target, upto, had.settings)
                if is_open and not (had and had.code) and self._carry(target, upto):
                    continue
                if target in self._unbuildable and is_open:
                    self._refused.append((target, upto))
                elif is_open or (lacked and target not in self._unbuildable):
                    todo[target].append(upto)
                    if not is_open:
                        self._lacked.add((target, upto))
                else:
                    assert had is not None
                    counts.add(had.code, had.warned)
                    counts.previous += 1
                    if self._hunt:
                        self._hunt.recall(target, upto)
                    if lacked:
                        self._note_lacking(target, upto)
        if self._hunt:
            self._set_aside = [(target, upto) for target, commits in todo.items()
                               for upto in commits]
            todo = {target: list(self._hunt.wanted(target)) if commits else []
                    for target, commits in todo.items()}
            counts.total = counts.done + len(self._refused) + sum(map(len, todo.values()))
        open_ones = {target: len(commits) for target, commits in todo.items() if commits}
        weights = weigh(open_ones) if weigh and open_ones else {}
        tasks = []
        for target, commits in todo.items():
            board = self._jobs[target].board
            # Most objects are there already when one with the same SoC was built
            group = '' if settings.per_board_out_dir else board.soc or board.cpu
            weight = weights.get(target, Weight())
            tasks.append(Task(target, board.arch, tuple(commits), weight.total, weight.first,
                              group, weight.guessed))
        return tasks

    def _carry(self, target: str, upto: int) -> bool:
        """Write the result of a board that another commit had; return whether there is one"""
        carrier = self._carrier()
        found = carrier.find(self._jobs[target], upto) if carrier else None
        if not found:
            return False
        outcome, counts = found.outcome, self._status.counts
        if self._host:
            outcome.files['host'] = f'{self._host}\n'.encode()
        self._write(outcome)
        self.report.carried.append(Carried(target, upto, found.source))
        counts.add(outcome.return_code, outcome.warned)
        counts.carried[found.where] = counts.carried.get(found.where, 0) + 1
        if self._hunt:
            self._hunt.recall(target, upto)
        self._status.result(outcome)
        self._status.progress(target)
        return True

    def _steps(self, target: str, uptos: Sequence[int]) -> Sequence[int]:
        """Return at which of some commits something may differ for a board"""
        carrier = self._carrier()
        return carrier.steps(self._jobs[target], uptos) if carrier else ()

    def _write(self, outcome: Outcome) -> None:
        """Keep a result, with the settings of this run"""
        if self._earlier:
            outcome.files['settings'] = self._earlier.text(outcome.target).encode()
        self._tree.write(outcome)
        carrier = self._carrier() if 'trace' in outcome.files else None
        if carrier:
            carrier.kept(outcome.commit_upto, outcome.target)

    # -- boards that nobody has a compiler for -----------------------------

    def tell_unbuildable(self) -> None:
        """Write the results of the boards that are known to have no compiler.

        To be called before the run; without effect when there are none. In a hunt, what
        would be built again and may be passed over counts no more.

        Raises:
            SetupError: a result cannot be written
        """
        while self._set_aside:
            target, upto = self._set_aside.pop()
            self._tree.forget(upto, target)
        while self._refused:
            self._refuse(*self._refused.pop(0))

    def _refuse(self, target: str, upto: int) -> None:
        """Write the result of a board that nobody has a compiler for"""
        outcome = without_compiler(target, self._jobs[target].board.arch, upto)
        if not self._tree.lacks_compiler(upto, target):
            self._tree.write(outcome)
        self._status.counts.add(outcome.return_code, outcome.warned)
        self._note_lacking(target, upto)
        if self._hunt:
            self._hunt.learn(outcome)
        if (target, upto) in self._lacked:
            self._status.counts.previous += 1
            return
        self._status.counts.refused += 1
        self._status.result(outcome)
        self._status.progress(target)
        self._tell_listeners(Refused('', outcome))

    def _note_lacking(self, target: str, upto: int) -> None:
        """Note that want of a compiler is the result of a board"""
        self.report.lacking[target] = (*self.report.lacking.get(target, ()), upto)

    def _note_archs(self, name: str, archs: Optional[Collection[str]]) -> None:
        """Note what a worker has compilers for; None for everything"""
        self._untold.discard(name)
        self._able.update((None,) if archs is None else archs)

    def _refuse_stranded(self) -> None:
        """Write the results of those boards that nobody had a compiler for, ever.

        A machine that was lost, or is not used, may have one. Where nobody can
        tell, that is no result.
        """
        if self._untold or None in self._able or self._for_caller:
            return
        for target in self.ledger.stranded():
            if self._jobs[target].board.arch not in self._able:
                for upto in self.ledger.withdraw(target):
                    self._refuse(target, upto)

    @property
    def nothing_to_do(self) -> bool:
        """True when every result is there already."""
        return self.ledger.finished

    @property
    def counts(self) -> Counts:
        """Return how many results there are."""
        return self._status.counts

    def pending(self) -> Tuple[str, ...]:
        """Return the boards that have something to be built."""
        return tuple(self.ledger.missing())

    # -- the run -----------------------------------------------------------

    def run(self, workers: Sequence[Worker]) -> Report:
        """Build everything.

        Args:
            workers: those to begin with; to a list those that come later are appended

        Returns:
            what could not be built, and why

        Raises:
            KeyboardInterrupt: the user wants it to end; all workers have ended
            SetupError: results cannot be written; all workers have ended
        """
        if isinstance(workers, list):
            self._roll = workers
        try:
            self._begin(workers)
            self._loop()
            self.events.hurry()
            self._before_end(False)
            join(on_all(self._workers.values(), lambda worker: worker.finish()))
        except BaseException:
            self.events.hurry()
            self._before_end(True)
            join(on_all(self._workers.values(), lambda worker: worker.stop()))
            raise
        finally:
            self._discard_late()
        self.report.missing = self.ledger.missing()
        outdated = self._earlier.outdated if self._earlier else ()
        for target, (missing, _) in self.report.missing.items():
            for upto in missing:
                if self.plan.settings.force_build or (target, upto) in outdated:
                    self._tree.forget(upto, target)
        return self.report

    def add(self, workers: Sequence[Worker]) -> None:
        """Have more workers start; to be called by the loop's own thread, by a listener say."""
        self._roll += workers
        self._begin(workers)

    def _begin(self, workers: Sequence[Worker]) -> None:
        """Have workers start"""
        for worker in workers:
            self._workers[worker.name] = worker
            self._joining.add(worker.name)
            self._untold.add(worker.name)
        self._tell_joining()
        for worker in workers:
            # One that gets ready meanwhile tells so, and must not join twice
            was_ready = worker.slots > 0
            worker.start()
            if was_ready:
                self._join(worker)

    def let_go(self, name: str) -> None:
        """Do without a worker that owes nothing or is not ready; as add(). It is not ended."""
        del self._workers[name]
        self._joining.discard(name)
        self._untold.discard(name)
        self._tell_joining()
        self.ledger.lost(name)
        self._changed = True

    def _tell_joining(self) -> None:
        """Tell the scheduler whether more workers are to come"""
        self.ledger.expecting = bool(self._joining)
        self.scheduler.unknown = len(self._joining - self._known)

    def _join(self, worker: Worker) -> None:
        """Let a worker that is ready take part"""
        self._joining.discard(worker.name)
        self._tell_joining()
        self._note_archs(worker.name, worker.archs)
        self.ledger.add_worker(worker.name, worker.slots, worker.archs, worker.speed,
                                  worker.ahead)
        self._fill(worker.name)

    def _loop(self) -> None:
        """Handle events until nothing is open"""
        next_try = 0.0
        while True:
            while self._changed and not self._joining:
                self._changed = False
                if self.ledger.reoffer():
                    self._fill_all()
                self._refuse_stranded()
                self.ledger.give_up_stranded('no machine is left that can build it')
            if self.ledger.finished:
                return
            event: Optional[Event] = None
            hungry = self.scheduler.hungry()
            wake = min((when for when, _, _ in self._tickers), default=math.inf)
            wake = min(wake, next_try if hungry else math.inf)
            with contextlib.suppress(queue.Empty):
                event = self.events.get(
                    timeout=max(0.0, wake - time.monotonic()) if wake < math.inf else None)
            if event is not None:
                self._handle(event)
            if hungry and time.monotonic() >= next_try:
                # Those that are to be faster may turn out to be slow
                next_try = time.monotonic() + HUNGRY_SECONDS
                for name in hungry:
                    self._fill(name)
            now = time.monotonic()
            for num, (when, ticker, seconds) in enumerate(self._tickers):
                if now >= when:
                    self._tickers[num] = now + seconds, ticker, seconds
                    ticker()

    def _handle(self, event: Event) -> None:
        """Deal with one event"""
        if event.worker not in self._workers:
            return
        fate = ''
        if isinstance(event, Built):
            fate = self._built(event)
        elif isinstance(event, BoardDone):
            self._board_done(event)
        elif isinstance(event, Crashed):
            raise event.error
        elif isinstance(event, WorkerGone):
            self._lost(event)
        elif isinstance(event, WorkerComing):
            self._known.add(event.worker)
            self._tell_joining()
            self._note_archs(event.worker, event.archs)
            self.ledger.expect(event.worker, event.slots, event.archs, event.speed)
        elif isinstance(event, WorkerReady):
            self._join(self._workers[event.worker])
        elif isinstance(event, Started):
            self.ledger.started(event.worker, event.target, event.attempt)
        elif isinstance(event, Said):
            self._status.say(f"[{event.worker or 'local'}] {event.text}")
        self._tell_listeners(event, fate)
        if isinstance(event, Built) and not fate:
            if self._hunt:
                self._go_on(self._hunt, event.outcome)
            where = f' [{event.worker}]' if event.worker else ''
            self._status.progress(event.outcome.target + where)
        if isinstance(event, Built) and not self._workers[event.worker].tells_done and (
                self.ledger.heard(event.worker, event.outcome.target,
                                     event.outcome.commit_upto)):
            self._handle(BoardDone(event.worker, event.outcome.target))

    def _tell_listeners(self, event: Event, fate: str = '') -> None:
        """Pass on what happened"""
        for listener in self._listeners:
            listener(event, fate)

    def _go_on(self, hunt: Hunt, outcome: Outcome) -> None:
        """Have more of a board built, when what is known of it asks for that"""
        hunt.learn(outcome)
        target = outcome.target
        carrier = self._carrier()
        if carrier:
            carrier.learn(outcome.commit_upto, target)
        if self.ledger.boards[target].todo:
            return
        wanted = hunt.wanted(target)
        self._status.counts.total += len(wanted)
        while any([self._carry(target, upto) for upto in wanted]):
            known, wanted = wanted, hunt.wanted(target)
            self._status.counts.total += len(set(wanted).difference(known))
        if wanted:
            self.ledger.extend(target, wanted)

    def _board_done(self, event: BoardDone) -> None:
        """See what has become of a board on a worker"""
        reason = event.reason or self._blamed.get(event.target, '')
        if self.ledger.board_done(event.worker, event.target, reason, event.attempt):
            self._blamed.pop(event.target, None)
            if event.reason:
                self._note(event.worker, f"'{event.target}' not finished: {event.reason}")
                self._bad_board(event.worker, event.target, event.reason)
            self._fill_all()
        self._fill(event.worker)

    def _fill(self, name: str) -> None:
        """Hand out boards to a worker until its hands are full"""
        jobs: List[BoardJob] = []
        while True:
            handout = self.scheduler.next_for(name)
            if handout is None:
                break
            jobs.append(dataclasses.replace(self._jobs[handout.target], commits=handout.commits,
                                            attempt=handout.attempt))
            if handout.taken_from:
                self._workers[handout.taken_from].cancel(handout.target)
        if jobs:
            self._tell_listeners(HandedOut(name, tuple(jobs)))
        for job in jobs:
            self._workers[name].submit(job)

    def _fill_all(self) -> None:
        """Hand out boards to all, after some came back"""
        self._changed = True
        for name in list(self.ledger.workers):
            self._fill(name)

    def _built(self, event: Built) -> str:
        """Keep a result, unless it is a failure that is the machine's and worth another try

        Returns:
            why it was not kept, see add_listener()
        """
        outcome = event.outcome
        key = (outcome.target, outcome.commit_upto)
        elsewhere = self._joining or self.ledger.can_do_without(event.worker)
        if outcome.infra and (outcome.infra.passes or (elsewhere and key not in self._retried)):
            # The result is left out, so the board comes back as not complete. What a machine
            # lacks is a result if no other may have it, or the second time; a make that was
            # killed, say, is none at all.
            self._retried.add(key)
            self._blamed[outcome.target] = outcome.infra.text
            self._note_once(event.worker, f'failed as {outcome.infra}; tried again',
                            outcome.target)
            outcome.drop_images()
            self.aftermath.again(outcome.target)
            self._bad_board(event.worker, outcome.target, outcome.infra.text)
            return 'infra'
        if outcome.infra:
            self._note_once(event.worker, f'failed as {outcome.infra}', outcome.target)
        seconds = 0.0 if outcome.skipped else outcome.seconds
        if not self.ledger.result(event.worker, outcome.target, outcome.commit_upto, seconds,
                                  event.attempt):
            outcome.drop_images()
            return 'dropped'
        if not outcome.infra:
            self._bad_boards.pop(event.worker, None)
        if self._host:
            outcome.files['host'] = f'{event.worker or self._host}\n'.encode()
        self._write(outcome)
        if outcome.skipped:
            self.report.carried.append(Carried(*key, 'another commit of this run'))
        self.report.built += 1
        self.aftermath.built(event.worker, outcome.target)
        counts = self._status.counts
        counts.add(outcome.return_code, outcome.warned)
        counts.skipped += outcome.skipped
        counts.reconfigured += outcome.reconfigured
        counts.scanned += 'lines' in outcome.files
        if TRIES in outcome.files and not outcome.return_code:
            counts.flaky += 1
            commits = self.plan.commits
            self._status.say(f'{outcome.target} failed and was good when it was tried again'
                             + (f', at {commits[outcome.commit_upto].hash[:12]}' if commits else '')
                             )
        counts.scan_seconds += outcome.scan_seconds
        for rival in self.ledger.rivals(event.worker, outcome.target):
            self._workers[rival].cancel(outcome.target)
        self._status.result(outcome)
        return ''

    def _bad_board(self, name: str, target: str, reason: str) -> None:
        """Count boards that a machine fails; put it aside when it fails them all

        It would eat the pool by being fast: nothing is as quick as a failure.
        """
        bad = self._bad_boards.setdefault(name, set())
        bad.add(target)
        if len(bad) < MAX_BAD_BOARDS or not self.ledger.can_do_without(name):
            return
        self.ledger.set_aside(name)
        owed = sorted(self.ledger.owed(name))
        what = f'put aside, as {len(bad)} boards in a row failed there: {reason}'
        self.tell(name, what)
        self.aftermath.note(name, time.monotonic() - self._began, f'was {what}', owed)
        for board in owed:
            self._workers[name].cancel(board)

    def _discard_late(self) -> None:
        """Discard results that came when nothing was open any more, as a board was built twice"""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self.events.get_nowait()
                if isinstance(event, Built):
                    event.outcome.drop_images()

    def _lost(self, event: WorkerGone) -> None:
        """Give away what a lost worker had in hand"""
        self._workers.pop(event.worker)
        self.report.lost[event.worker] = event.reason
        self._joining.discard(event.worker)
        self._tell_joining()
        if event.archs is not None:
            self._note_archs(event.worker, event.archs)
        was_ready = event.worker in self.ledger.workers
        back = self.ledger.lost(event.worker, event.taken)
        self.aftermath.note(event.worker, time.monotonic() - self._began,
                            f"{'was lost' if was_ready else 'took no part'}: {event.reason}", back)
        text = event.told
        if back:
            text += f"; given away again: {', '.join(back)}"
        if event.reason:
            self._note(event.worker, text)
        self._fill_all()

    def _note_once(self, worker: str, text: str, target: str) -> None:
        """Tell what many boards may meet on one machine for the first of them only"""
        if (worker, text) not in self._told:
            self._told.add((worker, text))
            self.tell(worker, f"'{target}' {text}")

    def tell(self, worker: str, text: str) -> None:
        """Tell the user, and those who listen, of something about a machine."""
        self._note(worker, text)
        self._tell_listeners(Said(worker or 'local', text))

    def say(self, text: str) -> None:
        """Show a line."""
        self._status.say(text)

    def _note(self, worker: str, text: str) -> None:
        """Tell the user about something that happened on a machine"""
        line = f"[{worker or 'local'}] {text}"
        self.report.notes.append(line)
        self._status.say(line)


def exit_status(status: Status, report: Report, ignore_warnings: bool) -> int:
    """Return the exit status of a run.

    100 when a board failed or could not be built, 101 when there were only
    warnings and they count, 0 otherwise.
    """
    counts = status.counts
    if counts.failed or report.missing:
        return EXIT_ERRORS
    if counts.warned and not ignore_warnings:
        return EXIT_WARNINGS
    return EXIT_OK
