# SPDX-License-Identifier: GPL-2.0+
"""The far end: the engine behind the wire (--worker).

Runs on a machine that has nothing of ours installed: the boss sends the modules
along (see `scripts.module_command`), so what this one imports, however
indirectly, is what travels.

Threads: the channel's reader and the engine's slots post to one queue; the
main thread takes from it and owns all state. A timer thread sends heartbeats,
so that a long silent build is not taken for a hang. What else prints goes to
stderr: stdout carries nothing but messages.

What is sent is compiled at each start. So the engine, the larger half, is loaded when the
boss has been told that we are here: meanwhile it sends the source.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
from types import FrameType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NoReturn,
    Optional,
    Tuple,
    Union,
)

from buildman.agent import account, lock
from buildman.build import artifacts, environment, outside
from buildman.core import events
from buildman.core.errors import BuildmanError
from buildman.core.outcome import Failure, FailureKind, Outcome
from buildman.core.plan import Board, BoardJob, Commit, Settings, Toolchain, bounded_boards
from buildman.process import awake
from buildman.process.limits import cpu_count
from buildman.source import git, origin
from buildman.wire import messages
from buildman.wire.channel import Channel, ChannelError
from buildman.wire.messages import RESPONSE_PREFIX

if TYPE_CHECKING:
    from buildman.build.slots import Engine

__all__ = ['RESPONSE_PREFIX', 'Worker', 'main']

# Heartbeats' times without a word from a boss that sends pings after which it is gone
MISSED_PINGS = 12

# Seconds that the last messages get to go out
FLUSH_TIME = 5.0

# What an older boss gets as exit status of a board that this machine could not build
NOT_BUILT = 10


# Bytes of an image that travel in one message
PIECE_SIZE = 1 << 20

Send = Callable[[messages.Message], None]

class _End(Exception):
    """The worker has to end; the message says why."""


class _Tick:
    """Posted by the timer, now and then"""


@dataclasses.dataclass(frozen=True)
class _Told:
    """What an engine told; there may have been others before it"""

    generation: int
    event: events.Event


_Item = Union[messages.Message, _Told, _Tick, _End]


class Worker:
    """One worker: takes commands, builds boards, sends results."""

    def __init__(self, incoming: int, outgoing: int, work_dir: str = '', run: str = '',
                 heartbeat: float = messages.HEARTBEAT_INTERVAL) -> None:
        """Set up; run() begins.

        Args:
            incoming, outgoing: descriptors that messages travel on
            work_dir: folder to work in; '' when the boss will tell
            run: run that has claimed this machine; '' for an older boss
            heartbeat: seconds between heartbeats
        """
        # A simple one may be put to from a signal handler
        self._queue: 'queue.SimpleQueue[_Item]' = queue.SimpleQueue()
        self._channel = Channel(
            incoming, outgoing, from_worker=False, on_message=self._queue.put,
            on_end=lambda why: self._queue.put(_End(f'the boss has gone ({why or "end"})')),
            clock=awake.now)
        self._work_dir = work_dir
        self._run = run
        self._heartbeat = heartbeat
        self._held: Optional[lock.Held] = None
        self._settings = Settings()
        self._toolchains: Dict[str, Toolchain] = {}
        self._env: Dict[str, str] = dict(os.environ)
        self._shown_env: Dict[str, str] = {}
        # Variables that the tree reads, as the boss tells; None: it does not
        self._inputs: Optional[FrozenSet[str]] = None
        self._own: FrozenSet[str] = frozenset()
        self._elsewhere: Dict[str, str] = {}
        self._engine: Optional[Engine] = None
        self._generation = 0
        self._slots_ready = 0
        self._prepared = False
        self._strict = True
        self._strict_lock = threading.Lock()
        # Boards in hand
        self._open = 0
        self._finishing = False
        self._exceptions = 0
        self._blobs = outside.BlobStore(os.path.join(work_dir, 'blobs') if work_dir else '')
        self._done = threading.Event()
        self._commits: Optional[Tuple[Commit, ...]] = None

    # -- life --------------------------------------------------------------

    def run(self) -> int:
        """Serve until the boss says quit, or is gone.

        Returns:
            exit status
        """
        try:
            if self._work_dir:
                self._hold()
            self._channel.start()
            self._send(messages.Ready(
                nthreads=cpu_count(), slots=cpu_count(), version=messages.PROTOCOL_VERSION,
                heartbeat_interval=self._heartbeat, pid=os.getpid()), force=True)
            threading.Thread(target=self._beat, daemon=True, name='heartbeat').start()
            # Not when it is needed, when the boss waits
            importlib.import_module('buildman.build.slots')
            while True:
                self._handle(self._queue.get())
        except _End as exc:
            if str(exc):
                _complain(str(exc))
            return 1 if str(exc) else 0
        except ChannelError as exc:
            _complain(f'cannot send: {exc}')
            return 1
        except (lock.LockBusy, lock.LockStuck) as exc:
            _complain(f'this machine is in use by {exc}')
            return 1
        except (FileNotFoundError, NotADirectoryError, PermissionError) as exc:
            _complain(f"cannot use the work folder '{self._work_dir}': {exc.strerror} "
                      f"('{exc.filename}')")
            return 1
        finally:
            self._end_builds()
            self._channel.close(FLUSH_TIME)

    def _end_builds(self) -> None:
        """End all that runs here and free the machine"""
        self._done.set()
        if self._engine:
            self._engine.stop()
        if self._held:
            self._held.release()

    def stop(self, why: str) -> None:
        """Have run() end; may be called from a signal handler."""
        self._queue.put(_End(why))

    def _hold(self) -> None:
        """Turn the claim of our boss into a lock that this process holds"""
        self._held = lock.hold(self._work_dir, self._run)

    def _beat(self) -> None:
        """Send heartbeats, whatever the builds do"""
        while not self._done.wait(self._heartbeat):
            self._queue.put(_Tick())
            with self._strict_lock:
                if self._strict:
                    continue
                try:
                    self._channel.send(messages.Heartbeat(
                        load_avg=os.getloadavg()[0], active=self._open))
                except ChannelError:
                    self._queue.put(_End('the boss does not read'))
                    return

    def _be_strict(self, strict: bool) -> None:
        """Begin or end a phase in which an older boss takes no heartbeats"""
        with self._strict_lock:
            self._strict = strict and not self._channel.version

    def _send(self, message: messages.Message, force: bool = False) -> None:
        """Send a message in the form that the boss knows.

        The first one goes out before the boss has told its version; a boss
        that knows none of the extra fields does not look at them.
        """
        if force:
            self._channel.writer.send(messages.encode(message))
        else:
            self._channel.send(message)

    # -- what comes --------------------------------------------------------

    def _handle(self, item: _Item) -> None:
        """Deal with a command, an event of the engine, or the timer"""
        if isinstance(item, _End):
            raise item
        if isinstance(item, _Tick):
            silent = awake.now() - self._channel.last_heard
            if self._channel.version and silent > MISSED_PINGS * self._heartbeat:
                raise _End(f'nothing heard from the boss for {silent:.0f} s')
        elif isinstance(item, messages.Message):
            self._command(item)
        elif item.generation == self._generation:
            self._event(item.event)

    def _command(self, msg: messages.Message) -> None:
        """Carry out a command; what is wrong with one is answered, not fatal"""
        version = getattr(msg, 'version', 0)
        if version:
            self._channel.version = min(version, messages.PROTOCOL_VERSION)
            self._be_strict(False)
        try:
            if isinstance(msg, messages.Setup):
                self._setup(msg)
            elif isinstance(msg, messages.Configure):
                self._configure(msg)
            elif isinstance(msg, messages.BuildPrepare):
                self._prepare(msg)
            elif isinstance(msg, messages.BuildBoard):
                self._build_board(msg)
            elif isinstance(msg, messages.BuildBoards):
                self._build_boards(msg)
            elif isinstance(msg, messages.FinishBuild):
                self._finishing = True
                self._maybe_done()
            elif isinstance(msg, messages.Cancel):
                if self._engine:
                    self._engine.cancel(msg.board)
            elif isinstance(msg, (messages.NeedBlobs, messages.PutBlob)):
                self._blob(msg)
            elif isinstance(msg, messages.Quit):
                # Who has this answer may use the machine at once
                self._end_builds()
                use = self._engine.cache_use() if self._engine else None
                self._send(messages.QuitAck(*(use or ())))
                raise _End('')
            elif isinstance(msg, messages.Malformed):
                self._error(f'a command that makes no sense: {msg.reason}', msg.board)
            elif isinstance(msg, messages.Unknown):
                _complain(f"a command that this version does not know: '{msg.kind}'")
        except (BuildmanError, OSError, TypeError, ValueError) as exc:
            self._error(f'{type(msg).__name__}: {exc}')

    def _error(self, text: str, board: str = '', attempt: int = 0) -> None:
        """Tell the boss what went wrong"""
        self._exceptions += 1
        self._send(messages.ErrorMsg(text, board))
        if board:
            self._send(messages.BoardDone(board, attempt))

    def _not_built(self, board: str, commits: Iterable[int], reason: str, attempt: int) -> None:
        """Tell the boss that this machine cannot build a board.

        An older boss knows no way to hear that: it gets results that say why,
        rather than none, which it would wait for.
        """
        if self._channel.version:
            self._error(reason, board, attempt)
            return
        self._exceptions += 1
        for upto in sorted(commits):
            self._send(messages.BuildResult(
                board=board, commit_upto=upto, return_code=NOT_BUILT, stderr=reason,
                load_avg=os.getloadavg()[0]))

    def _setup(self, msg: messages.Setup) -> None:
        """Make the folder and repository that a boss names"""
        path = os.path.abspath(os.path.expanduser(msg.work_dir))
        os.makedirs(path, exist_ok=True)
        git_dir = os.path.join(path, '.git')
        if not os.path.isdir(git_dir):
            git.run(path, 'init', '-q', '--template=', env=git.ALONE)
        self._work_dir = path
        self._blobs = outside.BlobStore(os.path.join(path, 'blobs'))
        if msg.run and not self._held:
            self._run = msg.run
            self._hold()
        self._send(messages.SetupDone(path, git_dir))

    def _configure(self, msg: messages.Configure) -> None:
        """Take over how to build"""
        from buildman.build.slots import clean_env
        plan = msg.plan
        settings = plan.get('settings', msg.settings)
        self._settings = Settings.from_dict(settings)
        self._toolchains = {arch: _toolchain(arch, gcc) for arch, gcc in msg.toolchains.items()}
        env = clean_env(os.environ)
        told, shown = plan.get('env'), plan.get('shown_env')
        self._inputs = None
        if isinstance(told, Mapping):
            inputs = plan.get('inputs', ())
            self._inputs = frozenset(map(str, inputs)) if isinstance(inputs, list) else frozenset()
            # What a user of this machine has set for builds of his own is none of ours
            for name in environment.portable_environment(env, self._inputs):
                del env[name]
            self._own = frozenset(env) - set(told)
            env.update({str(key): self._blobs.resolve(str(val)) for key, val in told.items()})
        self._env = env
        words = plan.get('words')
        pairs = [] if not isinstance(words, Mapping) else [
            (self._blobs.resolve(str(marked)), str(word)) for marked, word in words.items()]
        if isinstance(shown, Mapping):
            pairs += [(env.get(str(name), ''), str(value)) for name, value in shown.items()]
        self._elsewhere = outside.pair_paths(pairs)
        self._shown_env = ({str(key): str(val) for key, val in shown.items()}
                           if isinstance(shown, Mapping) else {})
        self._send(messages.ConfigureDone())

    def _prepare(self, msg: messages.BuildPrepare) -> None:
        """Start an engine for these commits; its slots tell when they are ready"""
        from buildman.build.slots import Engine, EngineConfig
        if not self._work_dir:
            # An older boss starts us in the folder that it has made
            self._work_dir = os.getcwd()
        if self._engine:
            self._engine.stop()
        hashes = [commit or msg.source or _head(self._work_dir) for commit in msg.commits]
        start = self._origin(msg.history)
        ends = [*hashes[:1], *hashes[-1:]]
        env, inputs = self._environment([commit for commit in ends if commit])
        slots = bounded_boards(msg.max_boards or cpu_count(), cpu_count())
        self._slots_ready, self._prepared = 0, False
        self._open = 0
        self._be_strict(True)
        self._generation += 1
        self._finishing, self._exceptions = False, 0
        self._send(messages.BuildStarted(slots))
        self._commits = tuple(Commit(commit) for commit in hashes)
        self._engine = Engine(EngineConfig(
            work_dir=os.path.join(self._work_dir, '.bm-work'), source_dir=self._work_dir,
            commits=self._commits, settings=self._settings, slots=slots,
            tokens=max(slots, cpu_count()), env=account.at_home(env, self._work_dir),
            shown_env=self._shown_env, origin=start, inputs=inputs, complain=_complain,
            elsewhere=self._elsewhere, largest=artifacts.MAX_IMAGE),
            functools.partial(self._told, self._generation))
        self._engine.start()

    def _environment(self, commits: List[str]) -> Tuple[Mapping[str, str], FrozenSet[str]]:
        """Return the environment of builds, and which variables of it the tree reads"""
        if self._inputs is None:
            return self._env, outside.search(self._work_dir, commits, self._env)
        # Here, too, somebody may have set for other builds what the boss has not set
        stray = outside.search(self._work_dir, commits, self._own)
        return ({name: value for name, value in self._env.items() if name not in stray},
                self._inputs)

    def _origin(self, told: Mapping[str, Any]) -> Optional[origin.Origin]:
        """Return what slots borrow, with the history that the boss has sent; None for the usual"""
        if not told:
            return None
        past = origin.Past.from_dict(told)
        objects = ''
        if past.pack:
            data = self._blobs.data(past.pack)
            objects = origin.unpack(data, os.path.dirname(data))
        return origin.Origin.read(self._work_dir).with_past(past, objects)

    def _told(self, generation: int, event: events.Event) -> None:
        """Take what an engine tells, from the thread of a slot"""
        self._queue.put(_Told(generation, event))

    def _build_board(self, msg: messages.BuildBoard) -> None:
        """Hand a board to the engine"""
        every = tuple(range(len(self._commits or ())))
        upto = every if msg.commits is None else msg.commits
        try:
            if not self._engine or self._commits is None:
                raise ValueError('build_prepare comes first')
            for name in (msg.board, *([msg.base] if msg.base else []), *msg.fragments):
                # They become folders and words of make
                if not name or '/' in name or '=' in name or name.startswith(('.', '-')):
                    raise ValueError(f'{name!r} is not a board, or what one is made of')
            if set(upto) - set(every):
                raise ValueError(f'there are only {len(every)} commits')
            words = tuple(self._blobs.resolve(word) for word in msg.make_args)
            board = Board(msg.board, msg.arch, base=msg.base, fragments=msg.fragments)
            job = BoardJob(board, upto, self._choose(msg), words, msg.attempt)
        except ValueError as exc:
            self._not_built(msg.board, upto, str(exc), msg.attempt)
            return
        self._open += 1
        self._engine.submit(job)

    def _choose(self, msg: messages.BuildBoard) -> Toolchain:
        """Return the compiler for a board"""
        if msg.toolchain:
            fields = {key: str(val) for key, val in msg.toolchain.items()
                      if key in Toolchain.__dataclass_fields__}
            return Toolchain(**fields)
        if msg.arch in self._toolchains:
            return self._toolchains[msg.arch]
        if msg.arch == 'sandbox':
            return _toolchain('sandbox', shutil.which('gcc') or '/usr/bin/gcc')
        raise ValueError(f"Tool chain error for {msg.arch}: no toolchain for arch '{msg.arch}'")

    def _build_boards(self, msg: messages.BuildBoards) -> None:
        """Build several boards, then say so"""
        if msg.commits:
            wanted = tuple(msg.commits)
            if self._commits is None or [c.hash for c in self._commits] != list(wanted):
                self._prepare(messages.BuildPrepare(wanted))
        for board in msg.boards:
            self._build_board(board)
        self._finishing = True
        self._maybe_done()

    def _maybe_done(self) -> None:
        """Say that all boards are done, when the boss waits for that"""
        if self._finishing and not self._open:
            self._finishing = False
            self._send(messages.BuildDone(self._exceptions))

    def _blob(self, msg: Union[messages.NeedBlobs, messages.PutBlob]) -> None:
        """Take a file from outside the tree, or tell which are missing"""
        if isinstance(msg, messages.NeedBlobs):
            self._blobs.tidy(msg.sha256s, time.time())
            self._send(messages.BlobsMissing(
                tuple(sha for sha in msg.sha256s if not self._blobs.has(sha))))
        elif self._blobs.put(msg.sha256, msg.offset, msg.data, msg.last):
            self._send(messages.BlobDone(msg.sha256))

    # -- what the engine tells ---------------------------------------------

    def _event(self, event: events.Event) -> None:
        """Pass on what the engine tells"""
        if isinstance(event, events.SlotReady):
            self._slots_ready += 1
            if not self._prepared:
                self._send(messages.WorktreeCreated(event.slot))
            # A boss of ours hands out boards when one slot is ready, an older
            # one expects all of them to be
            needed = 1 if self._channel.version else (self._engine.slots if self._engine else 1)
            if self._slots_ready >= needed and not self._prepared:
                self._prepared = True
                self._send(messages.BuildPrepareDone())
                self._be_strict(False)
        elif isinstance(event, events.Started):
            self._send(messages.Started(event.target, event.commit_upto, event.attempt))
        elif isinstance(event, events.Built):
            send_result(self._send, event.outcome, event.attempt,
                               bool(self._channel.version))
        elif isinstance(event, events.BoardDone):
            self._board_done(event)
        elif isinstance(event, events.Crashed):
            raise event.error
        elif isinstance(event, events.WorkerGone):
            self._error(event.reason)
            self._channel.writer.flush(FLUSH_TIME)
            raise _End(event.reason)

    def _board_done(self, event: events.BoardDone) -> None:
        """Tell that a slot is through with a board"""
        self._open -= 1
        if event.reason:
            self._not_built(event.target, event.missing, event.reason, event.attempt)
        else:
            self._send(messages.BoardDone(event.target, event.attempt))
        self._maybe_done()


def send_result(send: Send, outcome: Outcome, attempt: int, with_images: bool) -> None:
    """Send a result, its images first; they are removed here.

    Args:
        send: sends a message
        outcome: what came out
        attempt: see `BoardJob`
        with_images: the boss knows what a piece of an image is
    """
    infra = outcome.infra
    if with_images:
        try:
            for name, path in outcome.images.items():
                _send_image(send, outcome, attempt, name, path)
        except OSError as exc:
            infra = infra or Failure(FailureKind.NO_RESULT,
                                     f'an image cannot be read: {exc.strerror}')
    outcome.drop_images()
    result = messages.BuildResult(
        board=outcome.target, commit_upto=outcome.commit_upto,
        return_code=outcome.return_code, stdout=outcome.stdout,
        stderr=outcome.stderr, sizes=outcome.sizes, load_avg=os.getloadavg()[0],
        files=outcome.files, seconds=outcome.seconds,
        infra=infra.text if infra else '', infra_kind=infra.kind.value if infra else '',
        scan_seconds=outcome.scan_seconds,
        reconfigured=outcome.reconfigured, skipped=outcome.skipped, attempt=attempt)
    try:
        send(result)
    except ValueError as exc:
        # Files without bound, of a build that has gone mad
        send(dataclasses.replace(result, files={}, infra=str(exc),
                                 infra_kind=FailureKind.NO_RESULT.value))


def _send_image(send: Send, outcome: Outcome, attempt: int, name: str, path: str) -> None:
    """Send one image in pieces; of one that nobody takes, how large it is"""
    stat = os.stat(path)
    if stat.st_size > artifacts.MAX_IMAGE:
        send(messages.FilePiece(outcome.target, outcome.commit_upto, name, 0, b'', True,
                             stat.st_size, attempt=attempt))
        return
    digest = hashlib.sha256()
    offset = 0
    with open(path, 'rb') as inf:
        while True:
            data = inf.read(PIECE_SIZE)
            digest.update(data)
            last = offset + len(data) >= stat.st_size or not data
            send(messages.FilePiece(
                outcome.target, outcome.commit_upto, name, offset, data, last,
                stat.st_size, digest.hexdigest() if last else '', stat.st_mode & 0o777,
                attempt))
            offset += len(data)
            if last:
                return


def _complain(text: str) -> None:
    """Say something on stderr, if anybody is still there"""
    with contextlib.suppress(OSError):
        print(f'worker: {text}', file=sys.stderr, flush=True)


def _toolchain(arch: str, gcc: str) -> Toolchain:
    """Return the toolchain that a compiler's path stands for"""
    gcc = os.path.expanduser(gcc)
    name = os.path.basename(gcc)
    cross = name[:-len('gcc')] if name.endswith('-gcc') else ''
    return Toolchain(arch, gcc, os.path.dirname(gcc), cross)


def _head(work_dir: str) -> str:
    """Return the commit that an older boss has pushed last"""
    for ref in ('refs/heads/work', 'refs/heads/master', 'refs/heads/main', 'HEAD'):
        with contextlib.suppress(BuildmanError):
            return git.run(work_dir, 'rev-parse', '--verify', '--quiet', ref).decode().strip()
    raise ValueError('no source was pushed')


def take_stdout() -> int:
    """Move the real stdout away, before anything can print to it.

    Returns:
        a descriptor for messages; what is printed from now on goes to stderr
    """
    sys.stdout.flush()
    outgoing = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return outgoing


def main(args: Optional[List[str]] = None) -> int:
    """Be a worker, on stdin and stdout.

    Args:
        args: [work folder, run, seconds between heartbeats]; None for those of the
            command line, from where '--worker' is left out

    Returns:
        exit status
    """
    words: List[Any] = [word for word in (sys.argv[1:] if args is None else args)
                        if word != '--worker']
    outgoing = take_stdout()
    account.leave()
    incoming = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    work_dir = os.path.abspath(os.path.expanduser(words[0])) if words else ''
    worker = Worker(incoming, outgoing, work_dir, words[1] if len(words) > 1 else '',
                    float(words[2]) if len(words) > 2 else messages.HEARTBEAT_INTERVAL)

    def on_signal(num: int, _frame: Optional[FrameType]) -> None:
        worker.stop(f'ended by signal {num}')

    for num in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(num, on_signal)
    return worker.run()


def entry() -> NoReturn:
    """Run as a program."""
    sys.exit(main())


if __name__ == '__main__':
    entry()
