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
import io
import itertools
import os
import threading
import time
import uuid
from typing import BinaryIO, Callable, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from buildman import boss, machine
from buildman.agent import lock, survey
from buildman.boss import BossError, RemoteWorker, WorkerBusy
from buildman.build import ccache
from buildman.core import events
from buildman.core.errors import BuildmanError
from buildman.core.plan import BoardJob, Plan, Toolchain, bounded_boards
from buildman.process import awake, commands
from buildman.remote import facts, scripts, ssh
from buildman.remote.connection import MISSED_HEARTBEATS
from buildman.remote.logs import WorkerLog
from buildman.remote.receiver import Receiver, one_line
from buildman.source.history import Part
from buildman.source.origin import Past
from buildman.wire import messages

# Bytes of a file from outside the tree that travel in one message
BLOB_PIECE = 1 << 20

# Seconds for a machine to describe itself and get its repository ready
SURVEY_TIME = machine.PROBE_TIMEOUT + boss.COMMAND_TIME

# Kinds of failure after which it may be claimed all the same
MAY_HAVE_CLAIMED = ('cut', 'timeout', 'failed', 'stopped', 'no-space', 'not-writable')

# Seconds to end what a lost worker left on its machine
FREE_TIME = 2.5

# Seconds that a worker gets to end by itself when everything is to end at once
STOP_ASK = 2.0

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
        part: returns what of the history goes along
        env: environment of the build, files as marks (see blobs)
        shown_env: values that results show instead of the paths there
        inputs: variables that the tree reads
        words: words for make that name files, each with what is sent instead
        files: SHA-256 -> file here
        texts: SHA-256 -> content of what is no file here
        log_dir: folder for logs
        stage_dir: folder for images that are under way
        heartbeat: seconds between the heartbeats of workers
    """

    plan: Plan
    candidates: Mapping[str, List[str]]
    wanted: Mapping[str, facts.Gcc]
    local: Mapping[str, Toolchain]
    tools: Callable[[], Mapping[str, str]]
    owner: lock.Owner
    push: Callable[[RemoteWorker], None]
    commits: Tuple[str, ...]
    part: Callable[[], Part]
    env: Mapping[str, str]
    shown_env: Mapping[str, str]
    inputs: Collection[str]
    words: Mapping[str, str]
    files: Mapping[str, str]
    texts: Mapping[str, bytes]
    log_dir: str
    stage_dir: str
    heartbeat: float = messages.HEARTBEAT_INTERVAL


def send_files(worker: RemoteWorker, files: Mapping[str, str], texts: Mapping[str, bytes]) -> None:
    """Send the files from outside the tree that a machine does not have yet.

    Args:
        worker: runs there, and has not been configured
        files: SHA-256 -> file here
        texts: SHA-256 -> content, of those that are no files

    Raises:
        BossError: the connection has ended, or it answers something else
        OSError: a file cannot be read
    """
    if not files and not texts:
        return
    worker.send(messages.Setup(worker.work_dir, messages.PROTOCOL_VERSION))
    worker.expect(messages.SetupDone)
    worker.send(messages.NeedBlobs((*files, *texts)))
    missing = worker.expect(messages.BlobsMissing)
    assert isinstance(missing, messages.BlobsMissing)
    for sha in missing.sha256s:
        if sha in texts:
            _send(worker, sha, io.BytesIO(texts[sha]), len(texts[sha]))
        elif sha in files:
            with open(files[sha], 'rb') as inf:
                _send(worker, sha, inf, os.path.getsize(files[sha]))


def _send(worker: RemoteWorker, sha: str, inf: BinaryIO, size: int) -> None:
    """Send a file in pieces, and wait until it is there"""
    offset = 0
    while True:
        data = inf.read(BLOB_PIECE)
        last = offset + len(data) >= size or not data
        worker.send(messages.PutBlob(sha, offset, data, last))
        offset += len(data)
        if last:
            break
    worker.expect(messages.BlobDone)


class RemoteMachine:
    """One machine, as a `local.Worker`.

    Attributes:
        boards_sent: boards given to it
        worker: the connection
    """

    ahead = 1

    def __init__(self, mach: machine.Machine, ship: Shipment,
                 post: Callable[[events.Event], None]) -> None:
        """Set up; nothing is started.

        Args:
            mach: from the configuration
            ship: what it gets
            post: called with each event, from several threads
        """
        self.name = mach.name
        self.slots = 0
        self.archs: Optional[Sequence[str]] = ()
        self.speed = 1.0
        self.boards_sent = 0
        self._handed_out = float('-inf')
        self._grace = float(boss.END_TIME)
        self.cache = ccache.Use(0, 0)
        self.worker = RemoteWorker(mach.hostname, name=mach.name)
        # A run of its own: two machines may share a host, and what is left of
        # one is known by its run
        self.worker.owner = dataclasses.replace(ship.owner, run=uuid.uuid4().hex)
        self.worker.max_boards = mach.max_boards
        self.worker.on_stderr = self._said
        self.worker.on_deaf = self._lost
        self.worker.heartbeat = ship.heartbeat
        self._machine = mach
        self._shipment = ship
        self._toolchains: Dict[str, Toolchain] = {}
        self._post = post
        self._log = WorkerLog(os.path.join(ship.log_dir, f'worker-{mach.name}.log'))
        self._gone = threading.Event()
        self._gone_lock = threading.Lock()
        self._freed = threading.Event()
        self._claimed = False
        self._has_told = False
        self._pushing: Optional[threading.Thread] = None
        self._prepared = threading.Event()
        self._over = threading.Event()
        self._acknowledged = False
        self._receiver = Receiver(mach.name, post, self._log, ship.stage_dir,
                                  ship.plan.settings.keep_outputs, self.worker.budget)
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
            self._lost(str(exc), isinstance(exc, WorkerBusy))
            return
        except Exception as exc:
            # The loop waits to hear of this machine: a defect costs it, not the run
            self._lost(f'unexpected {type(exc).__name__}: {exc}')
            return
        self._watch()

    def _start_up(self) -> None:
        """Take all steps up to the first slot being ready"""
        worker, ship, mach = self.worker, self._shipment, self._machine
        if mach.lease:
            self._step('wait for the machine')
            way = ssh.CommandTransport(mach.hostname, mach.lease.wait())
            ssh.register(way, self.name)
            mach.transport = way
        self._step('probe and init')
        self._survey()
        self._find_toolchains()
        self._step(f'push {len(ship.commits)} commits, and start')
        push = self._begin_push()
        self._start_worker()
        settings = ship.plan.settings.to_dict()
        if ship.plan.commits is None:
            # What is the folder as it is here is a slot's own source there
            settings['in_tree'] = False
        self._receiver.tells_done = bool(worker.version)
        part = ship.part() if worker.version else Part(Past())
        for text in part.warnings:
            self._receiver.tell(text)
        if worker.version:
            packs = {part.past.pack: part.pack} if part.pack else {}
            send_files(worker, {**ship.files, **packs}, ship.texts)
        self._log.sent(messages.Configure(settings, worker.toolchains))
        worker.configure(settings, {'settings': settings, 'env': dict(ship.env),
                                    'shown_env': dict(ship.shown_env),
                                    'inputs': sorted(ship.inputs),
                                    'words': {mark: word for word, mark in ship.words.items()}})
        # Before the push is waited for: what it says meanwhile has to be read
        worker.divert(self._take)
        push.result()
        self._step('prepare')
        wanted = self._machine.max_boards or worker.nthreads
        slots = bounded_boards(wanted, worker.nthreads)
        if slots < wanted:
            self._receiver.tell(f'builds {slots} boards at a time, not {wanted}')
        worker.send(messages.BuildPrepare(
            ship.commits, min(slots, len(ship.plan.jobs)), source=ship.commits[-1],
            history=part.past.to_dict(), version=messages.PROTOCOL_VERSION))
        self._log.sent(f'build_prepare, {len(ship.commits)} commits')
        for text in mach.differences(ship.tools()):
            self._receiver.tell(text)
        if not self._wait(self._prepared):
            raise BossError('its slots did not become ready')
        self.slots = slots
        self._post(events.WorkerReady(self.name))

    def _start_worker(self) -> None:
        """Start the worker; again, later and later, while sshd turns the connection away.

        As for the commands before: what was turned away has not been run.
        """
        worker = self.worker
        said: List[str] = []
        way = ssh.transport_for(worker.hostname, worker.name)
        for tries in itertools.count():
            said.clear()
            worker.on_stderr = said.append
            try:
                worker.start()
            except BossError as exc:
                why = way.explain(commands.Answer(b'', '\n'.join(said).encode(), 255))
                delay = ssh.delay_before(why.kind, tries)
                if delay is None:
                    raise
                self._log.note(f'{exc}; tried again')
                time.sleep(delay)
                self._step('start again')
            else:
                break
        worker.on_stderr = self._said
        for text in said:
            self._said(text)

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
            self._receiver.tell(text)
        if not self._toolchains:
            raise BossError('not used: it has no compiler for any of these boards')
        self.archs = sorted(self._toolchains)
        self.speed = machine.speed_of(mach.info.threads, mach.info.bogomips)
        self._receiver.load = mach.info.load
        self.worker.bogomips = mach.info.bogomips
        self.worker.toolchains = {arch: tool.gcc for arch, tool in self._toolchains.items()}
        self._post(events.WorkerComing(self.name, bounded_boards(
            mach.max_boards or mach.info.threads, mach.info.threads),
                                       tuple(self.archs), self.speed))

    def _known_archs(self) -> Optional[Tuple[str, ...]]:
        """Return what the machine has compilers for, None when it did not tell"""
        if not self._has_told:
            return None
        # It was asked for these in the survey: nothing travels
        mach, ship = self._machine, self._shipment
        mach.find_toolchains(ship.candidates, ship.wanted)
        return tuple(sorted(mach.toolchains))

    def _wait(self, event: threading.Event) -> bool:
        """Wait for an answer, as long as the worker lives"""
        deadline = awake.now() + ANSWER_TIME
        while awake.now() < deadline and not self._gone.is_set():
            if event.wait(0.2):
                return True
            if self._silent_too_long():
                return False
        return False

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
        if failure and survey.MARK not in text:
            mach.cannot(failure.text)
        elif not mach.take_answer(text):
            self._claimed = False
        self._has_told = mach.info.threads > 0
        if not mach.avail:
            kind = WorkerBusy if mach.reason.startswith('busy:') else BossError
            raise kind(f'not used: {mach.reason}')
        if not failure:
            try:
                worker.take_init(text)
            except WorkerBusy as exc:
                self._claimed = False
                if not worker.end_dead(mach.work_dir, exc.owner):
                    raise
                self._step(f'init again: the boss has died of which it was said that {exc}')
                self._claimed = True
                worker.init_git(mach.work_dir)
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
            finally:
                if self._machine.lease:
                    self._machine.lease.pushed()

        self._pushing = threading.Thread(target=push, daemon=True, name=f'push {self.name}')
        self._pushing.start()
        return done

    def _push(self) -> None:
        """Push the source; a repository that takes no push is begun anew, once"""
        lease = self._machine.lease
        if lease and not lease.is_first():
            # What has come to another one may be on the same file system
            self._machine.transport.run(scripts.adopt_script(self.worker.work_dir),
                                        boss.COMMAND_TIME, doing='looking for the source')
        try:
            self._shipment.push(self.worker)
        except ssh.RemoteError as exc:
            if exc.kind in ('turned-away', 'penalized', 'cut', 'denied', 'no-space', 'stopped',
                            'timeout'):
                raise
            self._step(f'push again, to a new repository: {exc}')
            self.worker.init_git(self._machine.work_dir, fresh=True)
            self._shipment.push(self.worker)

    def _silent_too_long(self) -> str:
        """Return why a worker that says nothing is lost, '' when it is not"""
        # An older worker that had nothing to do had nothing to say
        silence = min(self.worker.silence, awake.now() - self._handed_out)
        if self.worker.heartbeat_interval:
            limit = MISSED_HEARTBEATS * self.worker.heartbeat_interval
        elif self._receiver.owes or not self._prepared.is_set():
            limit = float(boss.BUILD_TIMEOUT)
        else:
            return ''
        return f'no sign of life for {silence:.0f} s' if silence > limit else ''

    def _watch(self) -> None:
        """See that heartbeats come, until the end"""
        while not self._gone.wait(min(1.0, self._shipment.heartbeat / 2)):
            silent = self._silent_too_long()
            if silent:
                self._lost(silent)
                return

    def _lost(self, reason: str, busy: bool = False) -> None:
        """Give the machine up, once; busy: it is at something else"""
        if self.worker.refusing:
            # Everything is being stopped: stop() frees the machine, when the
            # commands that do so are not ended themselves any more
            return
        with self._gone_lock:
            if self._gone.is_set():
                return
            self._gone.set()
        closing = self.worker.closing
        reason = one_line(reason)
        lease = self._machine.lease
        taken = bool(lease and not closing and lease.is_taken())
        if lease and lease.said not in reason:
            reason += f' ({lease.said})'
        self._log.error(reason)
        if not closing:
            self._post(events.WorkerGone(self.name, reason, self._known_archs(), busy, taken))
        self._free()
        self._receiver.drop_images()

    def _said(self, text: str) -> None:
        """Pass on what the worker writes to stderr"""
        if not self.worker.closing:
            self._log.note(f'stderr: {text}')
            self._receiver.tell(text)

    @property
    def load(self) -> float:
        """Its load average, as it told last."""
        return self._receiver.load

    @property
    def tells_done(self) -> bool:
        """It says when it is through with a board."""
        return self._receiver.tells_done

    @property
    def results(self) -> int:
        """Results received, a board at a commit each."""
        return self._receiver.results

    @property
    def starting(self) -> bool:
        """True as long as it is neither ready nor lost."""
        return not self.slots and not self._gone.is_set() and self._thread.is_alive()

    # -- what the loop asks for --------------------------------------------

    def submit(self, job: BoardJob) -> None:
        """Build a board there."""
        target = job.board.target
        tool = self._toolchains[job.board.arch]
        attempt = job.attempt if self.worker.version >= messages.ATTEMPTS else 0
        self._receiver.expect(target, job.commits, attempt)
        self.boards_sent += 1
        if not self.worker.heartbeat_interval:
            self._handed_out = awake.now()
        # An older worker has been sent no files
        marks = self._shipment.words if self.worker.version else {}
        words = tuple(marks.get(word, word) for word in job.make_args)
        self._send(messages.BuildBoard(
            target, job.board.arch, job.commits, words,
            {key: str(val) for key, val in dataclasses.asdict(tool).items()},
            job.board.base, job.board.fragments, attempt))

    def cancel(self, target: str) -> None:
        """Drop a board there."""
        self._send(messages.Cancel(target))

    def _send(self, msg: messages.Command) -> None:
        """Send a command; a machine that cannot be told is lost"""
        if self._gone.is_set():
            return
        self._log.sent(msg)
        try:
            self.worker.send(msg)
        except BossError as exc:
            threading.Thread(target=self._lost, args=(str(exc),), daemon=True).start()

    def abandon(self) -> None:
        """Begin nothing more; stop() does the rest."""
        self.worker.closing = True
        self.worker.refusing = True
        if self._machine.lease:
            self._machine.lease.withdraw()

    def dismiss(self) -> None:
        """Do without a machine that is not ready yet."""
        self.abandon()
        self.stop()

    @property
    def asked_at(self) -> float:
        """When it was asked for (time.time()), if it is of a supply."""
        return self._machine.lease.since if self._machine.lease else time.time()

    def join(self, seconds: float) -> None:
        """Wait for the start-up to end, after abandon()."""
        if self._thread.ident is not None and self.worker.process is None:
            self._thread.join(seconds)

    def finish(self) -> None:
        """Have the worker end in peace."""
        self._end(boss.QUIT_TIME, boss.END_TIME)

    def stop(self) -> None:
        """End everything there, at once."""
        self._end(STOP_ASK, STOP_STEP)

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
                # The claim first, which takes but a moment: a worker that dies
                # before it holds the lock leaves it behind
                run = worker.owner.run
                boss._run_ssh(worker.address, f'{scripts.remove_lock_script(work_dir, run)}; '
                              f'{scripts.kill_script(work_dir, run)}', FREE_TIME)
            elif self._claimed:
                worker.work_dir = work_dir
                worker.remove_lock()
        closer.join(FREE_TIME)
        if self._pushing:
            self._pushing.join(FREE_TIME)
        self._give_back()

    def _give_back(self) -> None:
        """Have the machine no more"""
        if self._machine.lease:
            self._machine.lease.give_back()
        self._freed.set()

    def _end(self, ask: float, step: float) -> None:
        """End the worker and free the machine: ask, then close the connection.

        Args:
            ask: seconds that it gets to answer; one that is not ready is not asked
            step: seconds for each step of closing the connection
        """
        worker = self.worker
        self._grace = step
        worker.closing = True
        with self._gone_lock:
            is_first = not self._gone.is_set()
            self._gone.set()
        if not is_first:
            # It was lost a moment ago, and whoever noticed is at it
            self._freed.wait(2 * FREE_TIME)
            worker.close(step)
        else:
            if worker.process is not None and worker.nthreads:
                with contextlib.suppress(BossError):
                    worker.send(messages.Quit())
                    self._log.sent('quit')
                    self._over.wait(ask)
            if self._acknowledged:
                worker.close(step)
                self._give_back()
            else:
                self._free()
            self._receiver.drop_images()
        self._log.close()

    # -- what comes, in the reader's thread --------------------------------

    def _take(self, msg: Optional[messages.Message]) -> None:
        """Take a message of the worker, or the end of the connection"""
        if msg is None:
            self._over.set()
            if not self.worker.closing:
                self._lost(str(self.worker.closed_error()))
            return
        self._log.received(msg)
        if isinstance(msg, messages.BuildPrepareDone):
            self._prepared.set()
        elif isinstance(msg, messages.QuitAck):
            self.cache = ccache.Use(msg.cache_hits, msg.cache_misses)
            self._acknowledged = True
            self._over.set()
        elif isinstance(msg, messages.ErrorMsg) and not self._prepared.is_set():
            self._lost(msg.msg)
        elif isinstance(msg, messages.Malformed) and not self._prepared.is_set():
            # That may have been what is waited for
            self._lost(f'its answer makes no sense: {msg.reason}')
        else:
            self._receiver.take(msg)


def _toolchain_there(arch: str, gcc: str, local: Optional[Toolchain]) -> Toolchain:
    """Return the toolchain of a machine for a compiler that was found there"""
    folder, name = os.path.split(gcc)
    if local:
        return dataclasses.replace(local, gcc=gcc, path=folder)
    cross = name[:-len('gcc')] if name.endswith('-gcc') else ''
    return Toolchain(arch, gcc, folder, cross)
