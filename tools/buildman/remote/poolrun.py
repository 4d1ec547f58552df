# SPDX-License-Identifier: GPL-2.0+
"""One build over several workers, for callers of `boss.WorkerPool`.

It drives anything that has `name, toolchains, nthreads, max_boards` and the
methods `build_prepare, build_board, build_done, recv`, whatever it is and has
them from; what it raises costs the worker, not the run. Each such worker has a
thread that calls recv() and posts what it returns to a queue; a `RemoteWorker`
posts by itself. One loop takes from the queue and owns all state. A recv()
that blocks for ever holds up its own thread and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import re
import sys
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from buildman import boss
from buildman.build import artifacts
from buildman.core.errors import SetupError
from buildman.remote.poollink import Link, PoolLog, short
from buildman.results import tree
from buildman.schedule.policy import Handout, Scheduler, Task
from buildman.wire import codec, fields

# Seconds that workers get to say that they are done, when all results are there
DONE_TIME = 3.0

# A worker that tells of life but of no result is given up after so many
# times BUILD_TIMEOUT: an old one may forget a board
IDLE_FACTOR = 12

# Failures of a machine, without a result in between, after which it gets no more
MAX_INFRA = 3


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


class _Gone(Exception):
    """A worker cannot be used any more; the message says why."""


_Item = Union[Mapping[str, Any], codec.Message, _Gone]


class _Dispatch(Scheduler):
    """A board stays on one worker while that one lives.

    A worker of another make cannot be told to drop a board, so none is taken
    from one for the sake of an idle one.
    """

    def _from_others(self, worker: Any) -> Optional[Handout]:
        return None


class PoolRun:
    """One build. The builder is asked only for force_build, base_dir, count,
    get_build_dir(), get_done_file() and process_result()."""

    def __init__(self, workers: Sequence[Any], board_selected: Mapping[str, Any],
                 commits: Optional[Sequence[Any]], builder: Any, local_count: int,
                 logs: Set[str]) -> None:
        """Set up; see WorkerPool.build_boards().

        Args:
            logs: paths of the logs that were begun by this caller, changed here
        """
        self._workers = list(workers)
        self._boards = dict(board_selected or {})
        self._commits = commits
        self._builder = builder
        self._local_count = local_count
        self._logs = logs
        self._count = len(commits) if commits else 1
        self._queue: 'queue.Queue[Tuple[Link, _Item]]' = queue.Queue()
        self._links: List[Link] = []
        self._retried: Set[Tuple[str, int]] = set()
        self._closers: List[threading.Thread] = []
        self._over = False
        self._stop = False
        self._left = self._find_missing()
        self._sched = _Dispatch([Task(target, str(board.arch), tuple(sorted(self._left[target])))
                                 for target, board in self._boards.items()])
        self._log: Optional[PoolLog] = None

    def _find_missing(self) -> Dict[str, Set[int]]:
        """Return the commits that each board is to be built at"""
        builder, every = self._builder, range(self._count)
        return {target: {upto for upto in every if builder.force_build
                         or not os.path.exists(builder.get_done_file(upto, target))}
                for target in self._boards}

    # -- the run -----------------------------------------------------------

    def run(self) -> None:
        """Build everything that can be built.

        Raises:
            SetupError: a log or result cannot be written
        """
        if self._sched.finished:
            return
        try:
            self._begin()
            self._loop()
            self._finish()
        finally:
            self._end()

    def _open_log(self, name: str) -> PoolLog:
        """Begin or go on with a log"""
        path = os.path.join(self._builder.base_dir, name)
        try:
            os.makedirs(self._builder.base_dir, exist_ok=True)
            log = PoolLog(path, path not in self._logs)
        except OSError as exc:
            raise SetupError(f"cannot write '{path}': {exc.strerror}") from exc
        self._logs.add(path)
        return log

    def _begin(self) -> None:
        """Have all workers that may be of use prepare"""
        self._log = self._open_log('.buildman.log')
        archs = {str(self._boards[target].arch) for target, left in self._left.items() if left}
        for pos, worker in enumerate(self._workers):
            name = getattr(worker, 'name', None)
            key = name if isinstance(name, str) and name else f'worker{pos}'
            if any(link.key == key for link in self._links):
                key = f'{key}#{pos}'
            plain = re.sub(r'[^\w.@:+-]', '_', key)
            link = Link(worker, key, self._open_log(f'worker-{plain}.log'))
            self._links.append(link)
        self._note(f'dispatch: {len(self._links)} workers, '
                   f'{sum(len(left) for left in self._left.values())} total jobs'
                   + (f', {self._local_count} boards here' if self._local_count else ''))
        for link in self._links:
            if not any(link.may(arch) for arch in archs):
                link.gone = True
                link.log.write('>> 0 boards: it has no toolchain for any of them')
                continue
            try:
                link.worker.build_prepare(self._commits)
            except Exception as exc:
                self._lost(link, f'cannot be told to prepare: {_text(exc)}')
                continue
            self._listen(link)

    def _listen(self, link: Link) -> None:
        """Have what a worker says posted to the queue"""
        if not link.real:
            threading.Thread(target=self._receive, args=(link,), daemon=True,
                             name=f'recv {link.key}').start()
            return
        worker = link.worker

        def post(msg: Optional[codec.Message]) -> None:
            self._queue.put((link, _Gone(str(worker.closed_error())) if msg is None else msg))

        worker.divert(post)

    def _receive(self, link: Link) -> None:
        """Call recv() until it raises or there is nothing more to be said"""
        why = 'recv() failed'
        try:
            while not self._over:
                data = link.worker.recv()
                if not isinstance(data, Mapping):
                    why = f'recv() returned {data!r:.80}'
                    break
                self._queue.put((link, data))
                if data.get('resp') in ('build_done', 'quit_ack'):
                    return
        except Exception as exc:
            why = _text(exc)
        finally:
            self._queue.put((link, _Gone(why)))

    def _loop(self) -> None:
        """Deal with what comes until nothing is open"""
        next_status = time.monotonic() + boss.STATUS_INTERVAL
        while True:
            if not any(not link.gone and not link.prepared for link in self._links):
                for target in self._sched.give_up_stranded('no worker is left that can build it'):
                    self._note(f"'{target}': no worker is left that can build it")
            if self._sched.finished:
                return
            with contextlib.suppress(queue.Empty):
                self._take(*self._queue.get(timeout=min(1.0, max(.01, boss.BUILD_TIMEOUT / 4))))
            self._check_silence()
            if time.monotonic() >= next_status:
                next_status += boss.STATUS_INTERVAL
                self._status()

    def _check_silence(self) -> None:
        """Give up workers that owe something and say nothing"""
        for link in self._links:
            if link.gone or (link.prepared and not self._sched.owed(link.key)):
                continue
            silence = link.silence()
            if silence > link.limit():
                self._lost(link, f'nothing heard for {silence:.0f} s')
            elif not link.version and (
                    time.monotonic() - link.last_result > IDLE_FACTOR * boss.BUILD_TIMEOUT):
                self._lost(link, 'it lives but no result comes')

    def _finish(self) -> None:
        """Tell the workers that no more boards come, and wait a moment for their answer"""
        self._stop = True
        for link in self._links:
            if not link.gone and link.prepared:
                try:
                    link.worker.build_done()
                    link.told_done = True
                except Exception as exc:
                    self._lost(link, _text(exc))
        deadline = time.monotonic() + DONE_TIME
        while any(link.told_done and not link.gone and not link.answered
                  for link in self._links):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(queue.Empty):
                self._take(*self._queue.get(timeout=left))

    def _end(self) -> None:
        """Leave the workers as they were, and say how it ended"""
        self._over = self._stop = True
        for link in self._links:
            if link.real:
                link.worker.divert(None)
        if self._log:
            self._status()
            for target, (commits, reason) in self._sched.missing().items():
                upto = ', '.join(str(pos) for pos in commits)
                text = f"'{target}' not built (commits {upto})" + (f': {reason}' if reason else '')
                self._note(text)
                print(text, file=sys.stderr, flush=True)
            self._note('dispatch: end')
            self._log.close()
        for thread in self._closers:
            thread.join(2 * boss.END_TIME)
        for link in self._links:
            link.log.close()

    # -- telling -----------------------------------------------------------

    def _note(self, text: str) -> None:
        """Write to the boss's log"""
        if self._log:
            self._log.write(text)

    def _status(self) -> None:
        """Write how it stands to the boss's log"""
        parts = []
        for link in self._links:
            threads = getattr(link.worker, 'nthreads', 0)
            percent = (f' cpu={100 * link.load / threads:.0f}%'
                       if isinstance(threads, int) and threads > 0 else '')
            parts.append(f'{link.key}:done={link.done}/{link.sent}{percent}'
                         + (' lost' if link.gone and link.prepared else ''))
        done, sent = (sum(getattr(link, what) for link in self._links)
                      for what in ('done', 'sent'))
        total = self._builder.count
        of_all = f' of {total}' if isinstance(total, int) and total else ''
        self._note(f"STATUS {', '.join([*parts, f'TOTAL:done={done}/{sent}{of_all}'])}")

    def _wrong(self, link: Link, text: str, aloud: bool = True) -> None:
        """Tell what went wrong on a machine"""
        link.log.write(f'!! {text}')
        if aloud:
            text = fields.harmless(text, 400)
            self._note(f'{link.key}: {text}')
            print(f'[{link.key}] {text}', file=sys.stderr, flush=True)

    # -- handing out -------------------------------------------------------

    def _fill(self, link: Link, first: bool = False) -> None:
        """Hand out boards until a worker has its hands full"""
        targets = []
        while not link.gone and not self._stop:
            handout = self._sched.next_for(link.key)
            if handout is None:
                break
            targets.append(handout.target)
            link.sent += len(handout.commits)
            if not self._sched.owed(link.key) - {handout.target}:
                # It had no reason to say anything before
                link.last_heard = link.last_result = time.monotonic()
            try:
                self._submit(link, handout)
            except Exception as exc:
                self._lost(link, f"cannot be given '{handout.target}': {_text(exc)}")
        if targets:
            how = f' (initial, max_boards={link.slots})' if first else ''
            link.log.write(f'>> {len(targets)} boards{how}: {" ".join(targets)}')

    def _submit(self, link: Link, handout: Handout) -> None:
        """Have a worker build a board"""
        arch = self._boards[handout.target].arch
        if link.version and len(handout.commits) < self._count:
            link.worker.send(codec.BuildBoard(handout.target, arch, handout.commits))
        else:
            link.worker.build_board(handout.target, arch)

    def _fill_all(self) -> None:
        """Hand out what came back"""
        for link in self._links:
            if link.prepared and not link.gone:
                self._fill(link)

    def _came_back(self, link: Link, target: str, reason: str) -> None:
        """Note that a worker is through with a board"""
        if self._sched.board_done(link.key, target, reason):
            self._wrong(link, f"'{target}' not finished: {reason}")
            self._fill_all()
        self._fill(link)

    def _lost(self, link: Link, reason: str) -> None:
        """Give away what a worker had in hand"""
        if link.gone:
            return
        link.gone = True
        back = self._sched.lost(link.key)
        asked = self._stop or getattr(link.worker, 'closing', False) is True
        text = f'lost: {reason}'
        if back:
            text += f"; given away again: {', '.join(back)}"
        self._wrong(link, text, aloud=not asked)
        close = getattr(link.worker, 'close', None)
        if callable(close):
            thread = threading.Thread(target=_quietly, args=(close,), daemon=True)
            thread.start()
            self._closers.append(thread)
        self._fill_all()

    # -- what comes --------------------------------------------------------

    def _take(self, link: Link, item: _Item) -> None:
        """Deal with what a worker said"""
        if link.gone:
            return
        if isinstance(item, _Gone):
            if link.answered and not self._sched.owed(link.key):
                link.gone = True
            else:
                self._lost(link, str(item))
            return
        link.last_heard = time.monotonic()
        raw: Mapping[str, Any] = (codec.as_received(item)
                                  if isinstance(item, codec.Message) else item)
        link.log.write('<< ' + json.dumps(short(raw), ensure_ascii=False, default=str,
                                          separators=(',', ':')))
        msg = item if isinstance(item, codec.Message) else _decode(item)
        if isinstance(msg, codec.BuildResult):
            self._result(link, msg)
        elif isinstance(msg, codec.BuildPrepareDone):
            self._prepared(link)
        elif isinstance(msg, codec.BoardDone):
            self._came_back(link, msg.board, 'the worker could not finish it')
        elif isinstance(msg, codec.BuildDone):
            self._build_done(link)
        elif isinstance(msg, codec.Heartbeat):
            link.load = msg.load_avg or link.load
        elif isinstance(msg, codec.Started):
            self._sched.started(link.key, msg.board)
        elif isinstance(msg, codec.ErrorMsg):
            self._error(link, msg)
        elif isinstance(msg, codec.Malformed):
            self._wrong(link, f'a message that makes no sense: {msg.reason}')
            if msg.kind == 'build_result' and msg.board in self._boards:
                self._came_back(link, msg.board, 'its result makes no sense')

    def _prepared(self, link: Link) -> None:
        """Let a worker that is ready take part"""
        if link.prepared:
            return
        link.prepared = True
        link.last_result = time.monotonic()
        self._sched.add_worker(link.key, link.slots, link.archs)
        self._fill(link, first=True)

    def _build_done(self, link: Link) -> None:
        """Note that a worker is through with everything"""
        if not link.prepared:
            return
        # It may not have been asked; it expects no more boards, in any case
        link.answered = True
        self._sched.set_aside(link.key)
        for target in sorted(self._sched.owed(link.key)):
            self._came_back(link, target, 'the worker says that it is done')

    def _error(self, link: Link, msg: codec.ErrorMsg) -> None:
        """Deal with a worker's complaint"""
        if not link.prepared:
            self._lost(link, f'cannot prepare: {msg.msg}')
            return
        self._wrong(link, msg.msg)
        if msg.board in self._boards and not link.version:
            # One of ours says board_done after that
            self._came_back(link, msg.board, msg.msg)

    def _result(self, link: Link, msg: codec.BuildResult) -> None:
        """Keep a result that is wanted"""
        target, upto = msg.board, msg.commit_upto
        link.load = msg.load_avg or link.load
        if msg.infra and (target, upto) not in self._retried:
            self._retried.add((target, upto))
            self._wrong(link, f"'{target}' failed as {msg.infra}; tried again")
            link.infra += 1
            if link.infra == MAX_INFRA:
                self._wrong(link, 'gets no more boards')
                self._sched.set_aside(link.key)
            return
        if not self._sched.result(link.key, target, upto):
            self._wrong(link, f'result for {target}:{upto} is not wanted, dropped', aloud=False)
            return
        link.done += 1
        link.infra = 0
        link.last_result = time.monotonic()
        stderr = fields.harmless(msg.stderr, len(msg.stderr))
        try:
            self._write(link, msg, stderr)
        except OSError as exc:
            raise SetupError(f"cannot write the result of '{target}': {exc.strerror}: "
                             f"'{exc.filename}'") from exc
        self._builder.process_result(RemoteResult(
            self._boards[target], upto, msg.return_code, stderr, msg.stdout, link.key))
        left = self._left[target]
        left.discard(upto)
        if not left:
            self._sched.board_done(link.key, target)
            self._fill(link)

    def _write(self, link: Link, msg: codec.BuildResult, stderr: str) -> None:
        """Write a result's files, `done` last"""
        folder = self._builder.get_build_dir(msg.commit_upto, msg.board)
        os.makedirs(folder, exist_ok=True)
        for name in ['done', *os.listdir(folder)]:
            if name in ('done', 'err', 'log', 'sizes', 'host') or artifacts.is_result_file(name):
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(os.path.join(folder, name))
        files = {name: data for name, data in msg.files.items() if artifacts.is_result_file(name)}
        files['log'] = msg.stdout.encode('utf-8', 'replace')
        files['host'] = link.key.encode('utf-8', 'replace')
        if stderr:
            files['err'] = stderr.encode('utf-8', 'replace')
        if msg.sizes:
            # An older worker leaves out the last newline
            files['sizes'] = msg.sizes.rstrip('\n').encode('utf-8', 'replace') + b'\n'
        for name, data in files.items():
            tree.put_file(os.path.join(folder, name), data)
        tree.put_done(folder, msg.return_code)


def _decode(data: Mapping[str, Any]) -> codec.Message:
    """Return the message that recv() gave"""
    files = data.get('files')
    if not isinstance(files, Mapping) or not all(
            isinstance(item, bytes) for item in files.values()):
        return codec.decode_response(data)
    # A RemoteWorker has unpacked them already
    msg = codec.decode_response({key: val for key, val in data.items() if key != 'files'})
    if isinstance(msg, codec.BuildResult):
        return dataclasses.replace(msg, files=dict(files))
    return msg


def _text(exc: BaseException) -> str:
    """Return what an exception says"""
    return str(exc) or type(exc).__name__


def _quietly(act: Any) -> None:
    """Call a function of a worker that has gone anyway"""
    with contextlib.suppress(Exception):
        act()
