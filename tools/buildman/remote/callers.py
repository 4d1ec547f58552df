# SPDX-License-Identifier: GPL-2.0+
"""A build for callers of `boss.WorkerPool`: the builder loop, with their workers.

Anything is a worker that has `name, toolchains, nthreads, max_boards` and the methods
`build_prepare, build_board, build_done, recv`, whatever it is and has them from; what it
raises costs the worker, not the run. Such a one has a thread that calls recv(); a
`RemoteWorker` posts by itself. A recv() that blocks for ever holds up its own thread and
nothing else.

Results go to the caller's builder, which is asked only for force_build, base_dir, count,
get_build_dir(), get_done_file() and process_result().
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import sys
import threading
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

from buildman import boss
from buildman.build import artifacts
from buildman.core import events
from buildman.core.errors import SetupError
from buildman.core.outcome import Outcome
from buildman.core.plan import MAX_BOARDS, Board, BoardJob, Plan, Settings, Toolchain
from buildman.core.text import reason
from buildman.remote import budget
from buildman.remote.connection import MISSED_HEARTBEATS
from buildman.remote.logs import BossLog, WorkerLog, short
from buildman.remote.receiver import Receiver, one_line
from buildman.results import tree
from buildman.results.known import Glance
from buildman.schedule.inbox import Inbox
from buildman.schedule.loop import Loop
from buildman.schedule.progress import Status
from buildman.wire import messages

_Log = TypeVar('_Log')

# Seconds that workers get to say that they are done, when all results are there
DONE_TIME = 3.0

# A worker that tells of life but of no result is given up after so many
# times BUILD_TIMEOUT: an old one may forget a board
IDLE_FACTOR = 12

# The architecture that any machine can build for
SANDBOX = 'sandbox'


@dataclasses.dataclass
class RemoteResult:
    """One result, as the caller's builder gets it.

    Attributes:
        brd: the board
        commit_upto: index of the commit
        return_code: make's exit status
        stderr, stdout: what make printed
        remote: name of the machine that built it
    """

    brd: Any
    commit_upto: int
    return_code: int
    stderr: str
    stdout: str
    remote: str


class CallerTree:
    """The results of a caller's builder, as a `loop.Sink`."""

    def __init__(self, builder: Any, boards: Mapping[str, Any]) -> None:
        self._builder = builder
        self._boards = boards

    def complete(self, upto: int, targets: Iterable[str]) -> Dict[str, Glance]:
        """Return the results of a commit that are there."""
        return {target: Glance() for target in targets
                if os.path.exists(self._builder.get_done_file(upto, target))}

    def lacks_compiler(self, upto: int, target: str) -> bool:
        """Return False: what is there was built."""
        return False

    def write(self, outcome: Outcome) -> None:
        """Write a result's files, `done` last, and tell the builder.

        Raises:
            SetupError: they cannot be written
        """
        tree.write_result(self._builder.get_build_dir(outcome.commit_upto, outcome.target),
                          outcome, _is_of_result)
        self._builder.process_result(RemoteResult(
            self._boards[outcome.target], outcome.commit_upto, outcome.return_code,
            outcome.stderr, outcome.stdout, outcome.machine))

    def forget(self, upto: int, target: str) -> None:
        """Let an earlier result count no more, as it was to be built anew and was not."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._builder.get_build_dir(upto, target), 'done'))


def _is_of_result(name: str) -> bool:
    """Return whether a file in the folder of a result is one of ours"""
    return name in ('done', 'err', 'log', 'sizes', 'host') or artifacts.is_result_file(name)


class CallerWorker:
    """A caller's worker, as a `local.Worker`.

    Attributes:
        sent, done: results that it was asked for, and that were kept
        heard, advanced: when anything came, and a result that was kept
    """

    speed = 1.0
    ahead = 0

    def __init__(self, worker: Any, name: str, commits: Optional[Sequence[Any]],
                 log: WorkerLog, post: Callable[[events.Event], None]) -> None:
        """Set up; nothing is asked of it.

        Args:
            worker: any object, see above
            name: unique
            commits: as build_prepare() takes them
            log: takes what is said
            post: takes events
        """
        self.name = name
        self.slots = 0
        self.log = log
        told = getattr(worker, 'toolchains', None)
        self.archs: Optional[Sequence[str]] = (
            [*told, SANDBOX] if isinstance(told, (Mapping, Sequence, Set)) else None)
        self.sent = self.done = 0
        self.heard = self.advanced = time.monotonic()
        self._worker = worker
        self._real = boss.receives_by_itself(worker)
        self._commits = commits
        self._post = post
        self._gone = threading.Event()
        self._told_done = False
        self._answered = threading.Event()
        # Closes it, when it was lost
        self._closer: Optional[threading.Thread] = None
        self.receiver = Receiver(name, post, log, '', False,
                                 worker.budget if self._real else budget.Budget())
        self.receiver.tells_done = bool(self.version)

    @property
    def version(self) -> int:
        """Protocol version of the worker, 0 for one that tells none"""
        return int(self._worker.version) if self._real else 0

    @property
    def tells_done(self) -> bool:
        """It says when it is through with a board."""
        return self.receiver.tells_done

    # -- what the loop asks for --------------------------------------------

    def start(self) -> None:
        """Have it prepare, and listen to it."""
        if not self._try('cannot be told to prepare',
                         lambda: self._worker.build_prepare(self._commits)):
            return
        if self._real:
            self._worker.divert(self._divert)
        else:
            threading.Thread(target=self._receive, daemon=True, name=f'recv {self.name}').start()

    def submit(self, job: BoardJob) -> None:
        """Have it build a board."""
        target, arch = job.board.target, job.board.arch
        self.sent += len(job.commits)
        attempt = job.attempt if self.version >= messages.ATTEMPTS else 0
        self.receiver.expect(target, job.commits, attempt)
        if self.version:
            ask = functools.partial(self._worker.send, messages.BuildBoard(
                target, arch, job.commits, attempt=attempt))
        else:
            ask = functools.partial(self._worker.build_board, target, arch)
        self._try(f"cannot be given '{target}'", ask)

    def cancel(self, target: str) -> None:
        """Do nothing: a caller's worker has no method for that. What it sends is refused."""

    def finish(self) -> None:
        """Tell it that no more boards come, and wait a moment for its answer."""
        if self.slots and not self._gone.is_set():
            self._told_done = True
            if self._try('cannot be told to end', self._worker.build_done):
                self._answered.wait(DONE_TIME)
        self.stop()

    def stop(self) -> None:
        """Listen to it no more; whoever made it may end it."""
        self._gone.set()
        if self._real:
            self._worker.divert(None)

    def join(self) -> None:
        """Wait until one that was lost is closed."""
        if self._closer:
            self._closer.join(2 * boss.END_TIME)

    def _try(self, what: str, act: Callable[[], Any]) -> bool:
        """Do something with it; return False when that costs the worker"""
        if self._gone.is_set():
            return False
        try:
            act()
        except Exception as exc:
            self.lose(f'{what}: {reason(exc)}')
            return False
        return True

    def lose(self, why: str) -> None:
        """Give it up, once."""
        if self._gone.is_set():
            return
        self._gone.set()
        self._answered.set()
        self.log.error(f'lost: {one_line(why)}')
        closing = self._told_done or getattr(self._worker, 'closing', False) is True
        closer = threading.Thread(target=close_worker, args=(self._worker,), daemon=True)
        closer.start()
        self._closer = closer
        self._post(events.WorkerGone(self.name, '' if closing else one_line(why)))

    def check(self, owes: bool) -> None:
        """Give it up when it owes something and says nothing."""
        if self.slots and not owes:
            # It has no reason to say anything
            self.heard = self.advanced = time.monotonic()
            return
        silence, limit = time.monotonic() - self.heard, float(boss.BUILD_TIMEOUT)
        if self._real:
            silence = min(silence, self._worker.silence)
            if self._worker.heartbeat_interval:
                limit = MISSED_HEARTBEATS * self._worker.heartbeat_interval
        if silence > limit:
            self.lose(f'nothing heard for {silence:.0f} s')
        elif not self.version and self.slots and (
                time.monotonic() - self.advanced > IDLE_FACTOR * boss.BUILD_TIMEOUT):
            self.lose('it lives but no result comes')

    def status(self) -> str:
        """Return how it stands."""
        threads = getattr(self._worker, 'nthreads', 0)
        percent = (f' cpu={100 * self.receiver.load / threads:.0f}%'
                   if isinstance(threads, int) and threads > 0 else '')
        return (f'{self.name}:done={self.done}/{self.sent}{percent}'
                + (' lost' if self._closer and self.slots else ''))

    # -- what comes, in a thread of its own --------------------------------

    def _receive(self) -> None:
        """Call recv() until it raises or there is nothing more to be said"""
        why = 'recv() failed'
        try:
            while not self._gone.is_set():
                data = self._worker.recv()
                if not isinstance(data, Mapping):
                    why = f'recv() returned {data!r:.80}'
                    break
                self._take(_decode(data), data)
                if data.get('resp') in ('build_done', 'quit_ack'):
                    return
        except Exception as exc:
            why = reason(exc)
        finally:
            if not self._answered.is_set():
                self.lose(why)

    def _divert(self, msg: Optional[messages.Message]) -> None:
        """Take what a RemoteWorker posts; None is the end of its connection"""
        if msg is None:
            self.lose(str(self._worker.closed_error()))
        else:
            self._take(msg, messages.as_received(msg))

    def _take(self, msg: messages.Message, raw: Mapping[str, Any]) -> None:
        """Deal with what it says"""
        self.heard = time.monotonic()
        self.log.received(json.dumps(short(raw), ensure_ascii=False, default=str,
                                     separators=(',', ':')))
        if isinstance(msg, messages.BuildPrepareDone):
            if not self.slots:
                self.advanced = self.heard
                self.slots = min(MAX_BOARDS, next((num for num in (
                    getattr(self._worker, name, 0) for name in ('max_boards', 'nthreads'))
                    if isinstance(num, int) and num > 0), 1))
                self._post(events.WorkerReady(self.name))
        elif isinstance(msg, messages.BuildDone):
            if self.slots:
                self._answered.set()
                if not self._told_done:
                    # It expects no more boards, whoever told it
                    self._post(events.WorkerGone(self.name, 'the worker says that it is done'))
        elif isinstance(msg, messages.ErrorMsg) and not self.slots:
            self.lose(f'cannot prepare: {msg.msg}')
        else:
            self.receiver.take(msg)


def _decode(data: Mapping[str, Any]) -> messages.Message:
    """Return the message that recv() gave"""
    files = data.get('files')
    if not isinstance(files, Mapping) or not all(
            isinstance(item, bytes) for item in files.values()):
        return messages.decode_response(data)
    # A RemoteWorker has unpacked them already
    msg = messages.decode_response({key: val for key, val in data.items() if key != 'files'})
    if isinstance(msg, messages.BuildResult):
        return dataclasses.replace(msg, files={
            name: item for name, item in files.items() if artifacts.is_result_file(name)})
    return msg


def build(workers: Sequence[Any], boards: Mapping[str, Any], commits: Optional[Sequence[Any]],
          builder: Any, local_count: int, logs: Set[str]) -> None:
    """Build boards; see WorkerPool.build_boards().

    Args:
        logs: paths of the logs that were begun by this caller, changed here

    Raises:
        SetupError: a log or result cannot be written
    """
    uptos = tuple(range(len(commits) if commits else 1))
    plan = Plan(tuple(BoardJob(Board(target, str(board.arch)), uptos,
                               Toolchain(str(board.arch), '', '', ''))
                      for target, board in boards.items()),
                None, Settings(force_build=bool(builder.force_build)), uptos)
    status = _Told(builder)
    loop = Loop(plan, CallerTree(builder, boards), status, Inbox(), host='local',
                   for_caller=True)
    if loop.nothing_to_do:
        return
    missing = loop.ledger.missing()
    try:
        status.log(f'dispatch: {len(workers)} workers, '
                   f'{sum(len(uptos) for uptos, _ in missing.values())} total jobs'
                   + (f', {local_count} boards here' if local_count else ''))
        archs = {str(boards[target].arch) for target in missing}
        for pos, worker in enumerate(workers):
            name = getattr(worker, 'name', None)
            name = name if isinstance(name, str) and name else f'worker{pos}'
            if name in status.workers:
                name = f'{name}#{pos}'
            made = CallerWorker(worker, name, commits, status.open_worker(name, logs),
                                loop.events.post)
            for target, (commits_left, _) in missing.items() if not made.version else ():
                # What it says may lie ready before it is asked
                made.receiver.expect(target, commits_left)
            status.workers[name] = made
        useful = []
        for made in status.workers.values():
            if made.archs is None or archs.intersection(made.archs):
                useful.append(made)
            else:
                made.log.sent('0 boards: it has no toolchain for any of them')

        def tick() -> None:
            for made in useful:
                made.check(bool(loop.ledger.owed(made.name)))
            status.now_and_then()

        loop.add_listener(status.listen)
        loop.add_ticker(tick, min(1.0, boss.STATUS_INTERVAL, max(.01, boss.BUILD_TIMEOUT / 4)))
        loop.run(useful)
    finally:
        status.end(loop.ledger.missing())


class _Told(Status):
    """What is told of a build: on stderr what goes wrong, and logs.

    Attributes:
        workers: by name
    """

    def __init__(self, builder: Any) -> None:
        """Set up; nothing is written."""
        super().__init__(sys.stderr)
        self.workers: Dict[str, CallerWorker] = {}
        self._builder = builder
        self._log: Optional[BossLog] = None
        self._next = time.monotonic() + boss.STATUS_INTERVAL

    def open(self, name: str, make: Callable[[str], _Log]) -> _Log:
        """Return a log in the folder of the results.

        Raises:
            SetupError: it cannot be written
        """
        path = os.path.join(self._builder.base_dir, name)
        try:
            os.makedirs(self._builder.base_dir, exist_ok=True)
            return make(path)
        except OSError as exc:
            raise SetupError(f"cannot write '{path}': {exc.strerror}") from exc

    def open_worker(self, name: str, begun: Set[str]) -> WorkerLog:
        """Return the log of a worker; `begun`: those that are gone on with, changed here."""
        file_name = 'worker-' + re.sub(r'[^\w.@:+-]', '_', name) + '.log'
        log = self.open(file_name, lambda path: WorkerLog(path, path not in begun))
        begun.add(os.path.join(self._builder.base_dir, file_name))
        return log

    def progress(self, name: str) -> None:
        """Nothing: that is for the caller to show."""

    def log(self, text: str) -> None:
        """Write to the boss's log.

        Raises:
            SetupError: it cannot be written
        """
        if self._log is None:
            self._log = self.open('.buildman.log', BossLog)
        self._log.say(text)

    def say(self, text: str) -> None:
        """Print a line, and log it."""
        print(text, file=sys.stderr, flush=True)
        self.log(text)

    def listen(self, event: events.Event, fate: str) -> None:
        """Log what happened with a worker; called by the loop."""
        worker = self.workers[event.worker]
        if isinstance(event, events.HandedOut):
            targets = [job.board.target for job in event.jobs]
            worker.log.sent(f'{len(targets)} boards (max_boards={worker.slots}): '
                            + ' '.join(targets))
        elif isinstance(event, events.Built) and not fate:
            worker.done += 1
            worker.advanced = time.monotonic()
        elif isinstance(event, events.Built) and fate == 'dropped':
            worker.log.error(f'a result for {event.outcome.target}:{event.outcome.commit_upto} '
                             'is not wanted, dropped')
        elif isinstance(event, events.BoardDone) and event.reason:
            worker.log.error(f"'{event.target}' not finished: {event.reason}")
        elif isinstance(event, events.Said):
            worker.log.error(event.text)

    def now_and_then(self) -> None:
        """Log a status line when it is time."""
        if time.monotonic() >= self._next:
            self._next += boss.STATUS_INTERVAL
            self._status()

    def _status(self) -> None:
        """Log how it stands"""
        done, sent = (sum(getattr(worker, what) for worker in self.workers.values())
                      for what in ('done', 'sent'))
        total = self._builder.count
        of_all = f' of {total}' if isinstance(total, int) and total else ''
        parts = [worker.status() for worker in self.workers.values()]
        self.log(f"STATUS {', '.join([*parts, f'TOTAL:done={done}/{sent}{of_all}'])}")

    def end(self, missing: Mapping[str, Tuple[Tuple[int, ...], str]]) -> None:
        """Leave the workers as they were, and say how it ended."""
        for worker in self.workers.values():
            worker.stop()
        self._status()
        for target, (commits, why) in missing.items():
            self.say(f"'{target}' not built (commits {', '.join(map(str, commits))})"
                     + (f': {why}' if why else ''))
        self.log('dispatch: end')
        for worker in self.workers.values():
            worker.join()
            worker.log.close()
        if self._log:
            self._log.close()


def close_worker(worker: Any) -> None:
    """End a worker's connection, if it has such a thing; it may raise anything."""
    with contextlib.suppress(Exception):
        worker.close()
