# SPDX-License-Identifier: GPL-2.0+
"""A machine as the builder loop sees it: boards go in, events come out.

Each machine has a thread that starts it (init and lock, push, start, files from
outside the tree, configure, prepare) and then watches for signs of life. What
the worker sends is decoded in the reader's thread of its channel and posted to
the loop; nothing else is touched from there.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import shutil
import threading
import time
import uuid
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from buildman import (
    blobs,
    boss,
    ccache,
    collect,
    events,
    lock,
    machine,
    machine_info,
    machine_probe,
    protocol,
    scripts,
    ssh,
)
from buildman.boss import BossError, RemoteWorker, WorkerBusy
from buildman.errors import BuildmanError
from buildman.joblog import WorkerLog
from buildman.outcome import Outcome
from buildman.plan import BoardJob, Plan, Toolchain

# Heartbeats that may fail to come before a worker counts as lost
MISSED_HEARTBEATS = 3

# Bytes of one image that are accepted, and how many images of a result
MAX_IMAGE = 2 << 30
MAX_IMAGES = 300

# Bytes of a file from outside the tree that travel in one message
BLOB_PIECE = 1 << 20

# Seconds for a machine to describe itself and get its repository ready
SURVEY_TIME = machine.PROBE_TIMEOUT + boss.COMMAND_TIME

# Kinds of failure after which it may be claimed all the same
MAY_HAVE_CLAIMED = ('cut', 'timeout', 'failed', 'stopped', 'no-space', 'not-writable')

# Seconds to end what a lost worker left on its machine
FREE_TIME = 2.5

# Seconds for each step of ending a connection when everything is to end at once
STOP_STEP = 0.4

# Seconds that a worker gets for each answer while it starts
ANSWER_TIME = 600.0


@dataclasses.dataclass(frozen=True)
class Shipment:
    """What every machine of a run gets.

    Attributes:
        plan: what to build
        candidates, wanted: compilers to look for, see machine.compiler_spec()
        local: arch -> compiler of this machine
        tools: returns the versions of the tools here
        owner: of the locks of all machines, but for the run
        push: pushes the source to a machine that init was done on
        commits: hashes to be built there, oldest first
        versions: text of `.scmversion` for each, '' for none
        env: environment of the build, files as marks (see blobs)
        shown_env: values that results show instead of the paths there
        files: SHA-256 -> file here
        log_dir: folder for logs
        stage_dir: folder for images that are under way
        heartbeat: seconds between the heartbeats of workers
    """

    plan: Plan
    candidates: Mapping[str, List[str]]
    wanted: Mapping[str, machine_info.Gcc]
    local: Mapping[str, Toolchain]
    tools: Callable[[], Mapping[str, str]]
    owner: lock.Owner
    push: Callable[[RemoteWorker], None]
    commits: Tuple[str, ...]
    versions: Tuple[str, ...]
    env: Mapping[str, str]
    shown_env: Mapping[str, str]
    files: Mapping[str, str]
    log_dir: str
    stage_dir: str
    heartbeat: float = protocol.HEARTBEAT_INTERVAL


class RemoteMachine:
    """One machine, as a `builder.Worker`.

    Attributes:
        load: its load average, as it told last
        boards_sent, boards_done: boards given to it, and those it is through with
        results: received, a board at a commit each
        worker: the connection
    """

    def __init__(self, mach: machine.Machine, shipment: Shipment,
                 post: Callable[[events.Event], None]) -> None:
        """Set up; nothing is started.

        Args:
            mach: from the configuration
            shipment: what it gets
            post: called with each event, from several threads
        """
        self.name = mach.name
        self.slots = 0
        self.archs: Optional[Sequence[str]] = ()
        self.speed = 1.0
        self.load = 0.0
        self.boards_sent = 0
        self._handed_out = float('-inf')
        self._grace = float(boss.END_TIME)
        self.boards_done = 0
        self.results = 0
        self.cache = ccache.Use(0, 0)
        self.worker = RemoteWorker(mach.hostname, name=mach.name)
        # A run of its own: two machines may share a host, and what is left of
        # one is known by its run
        self.worker.owner = dataclasses.replace(shipment.owner, run=uuid.uuid4().hex)
        self.worker.max_boards = mach.max_boards
        self.worker.on_stderr = self._said
        self.worker.heartbeat = shipment.heartbeat
        self._machine = mach
        self._shipment = shipment
        self._toolchains: Dict[str, Toolchain] = {}
        self._post = post
        self._log = WorkerLog(os.path.join(shipment.log_dir, f'worker-{mach.name}.log'))
        self._gone = threading.Event()
        self._gone_lock = threading.Lock()
        self._freed = threading.Event()
        self._claimed = False
        self._pushing: Optional[threading.Thread] = None
        self._prepared = threading.Event()
        self._quit = threading.Event()
        self._answers: Dict[str, protocol.Message] = {}
        self._owed: Dict[str, Set[int]] = {}
        self._again: Dict[str, int] = {}
        self._owed_lock = threading.Lock()
        self._reasons: Dict[str, str] = {}
        self._images: Dict[Tuple[str, int], Dict[str, _Image]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True,
                                        name=f'machine {mach.name}')

    # -- start-up and watching, in the machine's own thread ----------------

    def start(self) -> None:
        """Begin to start the machine; WorkerReady or WorkerGone tells the rest."""
        self._thread.start()

    def _run(self) -> None:
        """Start the machine, then watch it"""
        try:
            self._start_up()
        except (BuildmanError, OSError, ValueError) as exc:
            self._lost(str(exc))
            return
        self._watch()

    def _start_up(self) -> None:
        """Take all steps up to the first slot being ready"""
        worker, ship, mach = self.worker, self._shipment, self._machine
        self._step('probe and init')
        self._survey()
        self._find_toolchains()
        self._step(f'push {len(ship.commits)} commits, and start')
        push = self._begin_push()
        worker.start()
        settings = ship.plan.settings.to_dict()
        if worker.version:
            self._send_files()
        self._log.sent(protocol.Configure(settings, worker.toolchains))
        worker.configure(settings, {'settings': settings, 'env': dict(ship.env),
                                    'shown_env': dict(ship.shown_env)})
        # Before the push is waited for: what it says meanwhile has to be read
        worker.divert(self._take)
        push.result()
        self._step('prepare')
        slots = worker.max_boards or worker.nthreads or 1
        worker.send(protocol.BuildPrepare(
            ship.commits, slots, source=ship.commits[-1], scm_versions=ship.versions,
            version=protocol.PROTOCOL_VERSION))
        self._log.sent(f'build_prepare, {len(ship.commits)} commits')
        for text in mach.differences(ship.tools()):
            self._post(events.Said(self.name, text))
        if not self._wait(self._prepared):
            raise BossError('its slots did not become ready')
        self.slots = slots
        self._post(events.WorkerReady(self.name))

    def _step(self, text: str) -> None:
        """Begin a step of the start-up, unless everything is being stopped"""
        if self._gone.is_set() or self.worker.refusing:
            raise BossError('stopped')
        self._log.note(text)

    def _find_toolchains(self) -> None:
        """Choose the compilers there, and tell what is odd about the machine"""
        mach, ship = self._machine, self._shipment
        mach.find_toolchains(ship.candidates, ship.wanted)
        for arch, gcc in mach.toolchains.items():
            self._toolchains[arch] = _toolchain_there(arch, gcc, ship.local.get(arch))
        for text in mach.problems:
            self._post(events.Said(self.name, text))
        if not self._toolchains:
            raise BossError('not used: it has no compiler for any of these boards')
        self.archs = sorted(self._toolchains)
        self.speed = machine.speed_of(mach.info.threads, mach.info.bogomips)
        self.load = mach.info.load
        self.worker.bogomips = mach.info.bogomips
        self.worker.toolchains = {arch: tool.gcc for arch, tool in self._toolchains.items()}
        self._post(events.WorkerComing(self.name, mach.max_boards or max(1, mach.info.threads),
                                       tuple(self.archs), self.speed))

    def _wait(self, event: threading.Event) -> bool:
        """Wait for an answer, as long as the worker lives"""
        deadline = time.monotonic() + ANSWER_TIME
        while time.monotonic() < deadline and not self._gone.is_set():
            if event.wait(0.2):
                return True
            if self._silent_too_long():
                return False
        return False

    def _send_files(self) -> None:
        """Send the files from outside the tree that are not there yet"""
        files = self._shipment.files
        if not files:
            return
        worker = self.worker
        worker.send(protocol.Setup(worker.work_dir, protocol.PROTOCOL_VERSION))
        worker.expect(protocol.SetupDone)
        worker.send(protocol.NeedBlobs(tuple(files)))
        missing = worker.expect(protocol.BlobsMissing)
        assert isinstance(missing, protocol.BlobsMissing)
        for sha in missing.sha256s:
            if sha not in files:
                continue
            size = os.path.getsize(files[sha])
            offset = 0
            with open(files[sha], 'rb') as inf:
                while True:
                    data = inf.read(BLOB_PIECE)
                    last = offset + len(data) >= size or not data
                    worker.send(protocol.PutBlob(sha, offset, data, last))
                    offset += len(data)
                    if last:
                        break
            worker.expect(protocol.BlobDone)

    def _survey(self) -> None:
        """Ask the machine what it is, and claim it, in one command.

        A repository there that is damaged is begun anew.
        """
        worker, mach, text = self.worker, self._machine, ''
        failure: Optional[ssh.RemoteError] = None
        script = scripts.survey_script(
            mach.work_dir, worker.owner,
            mach.probe_spec(self._shipment.candidates, brief=True), mach.limits)
        self._claimed = True
        try:
            text = mach.transport.run(script, SURVEY_TIME)
        except ssh.RemoteError as exc:
            text, failure = exc.stdout, exc
            self._claimed = exc.kind in MAY_HAVE_CLAIMED
        if failure and machine_probe.MARK not in text:
            mach.cannot(failure.text)
        elif not mach.take_answer(text):
            self._claimed = False
        if not mach.avail:
            raise BossError(f'not used: {mach.reason}')
        if not failure:
            try:
                worker.take_init(text)
            except WorkerBusy:
                self._claimed = False
                raise
        elif failure.kind == 'failed':
            self._step(f'init again, of a new repository: {failure}')
            worker.init_git(mach.work_dir, fresh=True)
        else:
            raise failure

    def _begin_push(self) -> 'concurrent.futures.Future[None]':
        """Push the source in a thread of its own, while the worker starts"""
        done: 'concurrent.futures.Future[None]' = concurrent.futures.Future()

        def push() -> None:
            try:
                self._push()
                done.set_result(None)
            except Exception as exc:
                done.set_exception(exc)

        self._pushing = threading.Thread(target=push, daemon=True, name=f'push {self.name}')
        self._pushing.start()
        return done

    def _push(self) -> None:
        """Push the source; a repository that takes no push is begun anew, once"""
        try:
            self._shipment.push(self.worker)
        except ssh.RemoteError as exc:
            if exc.kind in ('turned-away', 'cut', 'denied', 'no-space', 'stopped', 'timeout'):
                raise
            self._step(f'push again, to a new repository: {exc}')
            self.worker.init_git(self._machine.work_dir, fresh=True)
            self._shipment.push(self.worker)

    def _silent_too_long(self) -> str:
        """Return why a worker that says nothing is lost, '' when it is not"""
        # An older worker that had nothing to do had nothing to say
        silence = min(self.worker.silence, time.monotonic() - self._handed_out)
        if self.worker.heartbeat_interval:
            limit = MISSED_HEARTBEATS * self.worker.heartbeat_interval
        elif self._owed or not self._prepared.is_set():
            limit = float(boss.BUILD_TIMEOUT)
        else:
            return ''
        return f'no sign of life for {silence:.0f} s' if silence > limit else ''

    def _watch(self) -> None:
        """Send pings and see that heartbeats come, until the end"""
        last_ping = time.monotonic()
        interval = self._shipment.heartbeat
        while not self._gone.wait(min(1.0, interval / 2)):
            silent = self._silent_too_long()
            if silent:
                self._lost(silent)
                return
            if time.monotonic() - last_ping >= interval:
                last_ping = time.monotonic()
                try:
                    self.worker.send(protocol.Ping())
                except BossError as exc:
                    self._lost(str(exc))

    def _lost(self, reason: str) -> None:
        """Give the machine up, once"""
        if self.worker.refusing:
            # Everything is being stopped: stop() frees the machine, when the
            # commands that do so are not ended themselves any more
            return
        with self._gone_lock:
            if self._gone.is_set():
                return
            self._gone.set()
        closing = self.worker.closing
        self._log.error(reason)
        if not closing:
            self._post(events.WorkerGone(self.name, reason))
        self._free()
        self._drop_images()

    def _said(self, text: str) -> None:
        """Pass on what the worker writes to stderr"""
        if not self.worker.closing:
            self._log.note(f'stderr: {text}')
            self._post(events.Said(self.name, text))

    # -- what the loop asks for --------------------------------------------

    def submit(self, job: BoardJob) -> None:
        """Build a board there."""
        target = job.board.target
        tool = self._toolchains[job.board.arch]
        with self._owed_lock:
            if target in self._owed:
                # It was taken away, which the worker has not told of yet
                self._again[target] = self._again.get(target, 0) + 1
            self._owed[target] = set(job.commits)
        self._reasons.pop(target, None)
        self.boards_sent += 1
        if not self.worker.heartbeat_interval:
            self._handed_out = time.monotonic()
        self._send(protocol.BuildBoard(
            target, job.board.arch, job.commits, job.make_args,
            {key: str(val) for key, val in dataclasses.asdict(tool).items()}))

    def cancel(self, target: str) -> None:
        """Drop a board there."""
        self._send(protocol.Cancel(target))

    def _send(self, msg: protocol.Command) -> None:
        """Send a command; a machine that cannot be told is lost"""
        if self._gone.is_set():
            return
        self._log.sent(msg)
        try:
            self.worker.send(msg)
        except BossError as exc:
            threading.Thread(target=self._lost, args=(str(exc),), daemon=True).start()

    def finish(self) -> None:
        """Have the worker end in peace."""
        self._end(10.0)

    def abandon(self) -> None:
        """Begin nothing more; stop() does the rest."""
        self.worker.closing = True
        self.worker.refusing = True

    def join(self, seconds: float) -> None:
        """Wait for the start-up to end, after abandon()."""
        if self._thread.ident is not None and self.worker.process is None:
            self._thread.join(seconds)

    def stop(self) -> None:
        """End everything there, at once: ask, then close the connection."""
        # All has to be gone within seconds, on a slow machine as well; a worker
        # that is not ready yet cannot answer
        self._grace = STOP_STEP
        with self._gone_lock:
            is_first = not self._gone.is_set()
            self._gone.set()
        if is_first:
            self._ask_to_quit(2.0 if self.worker.nthreads else 0.0)
            self._end_connection()
        else:
            # It was lost a moment ago, and whoever noticed is at it
            self._freed.wait(2 * FREE_TIME)
            self.worker.close(self._grace)
        self._log.close()

    def cleaned(self, seconds: float) -> None:
        """Wait until nothing of a lost worker is left there, or it cannot be helped."""
        if self._gone.is_set():
            self._freed.wait(seconds)

    def _free(self) -> None:
        """End what is left there of a worker that did not end in peace, and free the lock.

        It may be stopped, or cut off and not know yet; and the machine may be
        claimed although no worker was started.
        """
        worker = self.worker
        was_started = worker.process is not None
        work_dir = worker.work_dir or self._machine.work_dir
        closer = threading.Thread(target=worker.close, args=(self._grace,), daemon=True)
        closer.start()
        with contextlib.suppress(BossError):
            if was_started:
                boss._run_ssh(worker.address,
                              scripts.kill_script(work_dir, worker.owner.run), FREE_TIME)
            elif self._claimed:
                worker.work_dir = work_dir
                worker.remove_lock()
        closer.join(FREE_TIME)
        if self._pushing:
            self._pushing.join(FREE_TIME)
        self._freed.set()

    def _end(self, seconds: float) -> None:
        """Ask the worker to end, wait for its answer, then close"""
        if self._gone.is_set():
            return
        self.worker.closing = True
        self._ask_to_quit(seconds)
        with self._gone_lock:
            if self._gone.is_set():
                return
            self._gone.set()
        self._end_connection()
        self._log.close()

    def _ask_to_quit(self, seconds: float) -> None:
        """Ask the worker to end and wait for its answer"""
        if self.worker.process is not None:
            with contextlib.suppress(BossError):
                self.worker.send(protocol.Quit())
                self._log.sent('quit')
                self._quit.wait(seconds)

    def _end_connection(self) -> None:
        """Close the connection, and end what a worker that did not answer left there"""
        if self._quit.is_set():
            self.worker.close(self._grace)
        else:
            self._free()
        self._freed.set()
        self._drop_images()

    # -- what comes, in the reader's thread --------------------------------

    def _take(self, msg: Optional[protocol.Message]) -> None:
        """Turn a message of the worker into an event"""
        if msg is None:
            if not self.worker.closing:
                self._lost(str(self.worker.closed_error()))
            return
        self._log.received(msg)
        if isinstance(msg, protocol.BuildResult):
            self._result(msg)
        elif isinstance(msg, protocol.FilePiece):
            self._piece(msg)
        elif isinstance(msg, protocol.Started):
            self._post(events.Started(self.name, msg.board, msg.commit_upto))
        elif isinstance(msg, protocol.BoardDone):
            self._board_done(msg.board)
        elif isinstance(msg, protocol.Heartbeat):
            self.load = msg.load_avg
        elif isinstance(msg, protocol.BuildPrepareDone):
            self._prepared.set()
        elif isinstance(msg, protocol.QuitAck):
            self.cache = ccache.Use(msg.cache_hits, msg.cache_misses)
            self._quit.set()
        elif isinstance(msg, protocol.ErrorMsg):
            if msg.board:
                self._reasons[msg.board] = msg.msg
            else:
                self._post(events.Said(self.name, msg.msg))
        elif isinstance(msg, protocol.Malformed):
            self._post(events.Said(self.name, f'sent a message that makes no sense: {msg.reason}'))
            if msg.kind == 'build_result' and msg.board in self._owed:
                # That result is lost: the board is owed still
                self._reasons[msg.board] = f'its result makes no sense: {msg.reason}'

    def _board_done(self, target: str) -> None:
        """Tell the loop that the worker is through with a board"""
        with self._owed_lock:
            if target not in self._owed:
                return
            if self._again.get(target):
                self._again[target] -= 1
            else:
                del self._owed[target]
        self.boards_done += 1
        self._post(events.BoardDone(self.name, target, (), self._reasons.pop(target, '')))

    def _result(self, msg: protocol.BuildResult) -> None:
        """Turn a result into an outcome, if it was asked for"""
        key = (msg.board, msg.commit_upto)
        images = self._images.pop(key, {})
        owed = self._owed.get(msg.board)
        if owed is None or msg.commit_upto not in owed:
            _drop(images)
            if self.worker.version:
                self._log.error(f'a result for {key} was not asked for')
            return
        owed.discard(msg.commit_upto)
        self.load, self.results = msg.load_avg, self.results + 1
        bad = [name for name in msg.files if not collect.is_result_file(name)]
        if bad or any(not image.complete for image in images.values()):
            self._post(events.Said(self.name, f"result of '{msg.board}' refused: it holds "
                                   f"{bad[0] if bad else 'an image that is not complete'}"))
            self._reasons[msg.board] = 'its result was refused'
            _drop(images)
        else:
            self._post(events.Built(self.name, Outcome(
                target=msg.board, commit_upto=msg.commit_upto, return_code=msg.return_code,
                stdout=msg.stdout, stderr=msg.stderr, files=dict(msg.files),
                sizes=msg.sizes + '\n' if msg.sizes and msg.sizes[-1] != '\n' else msg.sizes,
                images={name: image.path for name, image in images.items()},
                seconds=msg.seconds, reconfigured=msg.reconfigured, skipped=msg.skipped,
                infra=msg.infra, machine=self.name)))
        if not self.worker.version and not owed:
            # An older worker does not tell that it is through with a board
            self._board_done(msg.board)

    def _piece(self, msg: protocol.FilePiece) -> None:
        """Take a piece of an image"""
        key = (msg.board, msg.commit_upto)
        if msg.board not in self._owed or not collect.is_image(msg.name):
            self._log.error(f'a file {msg.name!r} was not asked for')
            return
        images = self._images.setdefault(key, {})
        if msg.name not in images:
            if len(images) >= MAX_IMAGES:
                return
            folder = os.path.join(self._shipment.stage_dir,
                                  f'{self.name}.stage-{msg.board}-{msg.commit_upto}')
            os.makedirs(folder, exist_ok=True)
            images[msg.name] = _Image(os.path.join(folder, msg.name))
        try:
            images[msg.name].add(msg)
        except (OSError, ValueError) as exc:
            self._post(events.Said(self.name, f"image '{msg.name}' of '{msg.board}': {exc}"))

    def _drop_images(self) -> None:
        """Remove images whose result never came"""
        for images in list(self._images.values()):
            _drop(images)
        self._images.clear()


class _Image:
    """An image that is under way"""

    def __init__(self, path: str) -> None:
        self.path = path
        self.complete = False
        self._size = 0
        self._digest = hashlib.sha256()
        self._broken = False

    def add(self, msg: protocol.FilePiece) -> None:
        """Add a piece.

        Raises:
            ValueError: it does not follow the one before, the file is too
                large or did not arrive as it was sent
            OSError: no space
        """
        if self._broken:
            return
        self._broken = True
        if self.complete or msg.offset != self._size or (
                self._size + len(msg.data) > MAX_IMAGE):
            raise ValueError('pieces do not fit together')
        with open(self.path, 'ab' if msg.offset else 'wb') as outf:
            outf.write(msg.data)
        self._size += len(msg.data)
        self._digest.update(msg.data)
        if msg.last:
            if msg.sha256 != self._digest.hexdigest():
                raise ValueError('it did not arrive as it was sent')
            os.chmod(self.path, msg.mode & 0o777)
            self.complete = True
        self._broken = False


def _drop(images: Mapping[str, _Image]) -> None:
    """Remove the staging folders of images"""
    for folder in {os.path.dirname(image.path) for image in images.values()}:
        shutil.rmtree(folder, ignore_errors=True)


def _toolchain_there(arch: str, gcc: str, local: Optional[Toolchain]) -> Toolchain:
    """Return the toolchain of a machine for a compiler that was found there"""
    folder, name = os.path.split(gcc)
    if local:
        return dataclasses.replace(local, gcc=gcc, path=folder)
    cross = name[:-len('gcc')] if name.endswith('-gcc') else ''
    return Toolchain(arch, gcc, folder, cross)


def collect_files(env: Mapping[str, str]) -> Tuple[Dict[str, str], Dict[str, str], Dict[str, str]]:
    """Sort the environment of a build into what travels.

    Returns:
        (environment with marks, values that results show, SHA-256 -> file)
    """
    marked, files = blobs.collect(env)
    shown = {name: value for name, value in env.items() if marked[name] != value}
    return marked, shown, files
