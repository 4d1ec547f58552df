# SPDX-License-Identifier: GPL-2.0+
"""The process at our end of a machine's connection: started, listened to, ended.

What is said over it, and in which order, is for `boss.RemoteWorker`.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time
from typing import Callable, List, Optional, Sequence, Type

from buildman.core.errors import BuildmanError
from buildman.process import awake
from buildman.process.registry import Account, is_process
from buildman.remote import budget
from buildman.wire import fields, messages
from buildman.wire.channel import Channel, ChannelError, Reader
from buildman.wire.messages import Message

# Seconds that a worker gets to become ready after it was started
READY_TIME = 60

# Heartbeats that may fail to come before a worker counts as lost
MISSED_HEARTBEATS = 3

# Heartbeats' times that a worker which lives gets for an answer while it starts
ANSWER_HEARTBEATS = 12

# Seconds for each step of ending a process: ask, terminate, kill
END_TIME = 2


# Takes a message, or None at the end of the connection
Sink = Callable[[Optional[Message]], None]


class BossError(BuildmanError):
    """Something is wrong with a worker; the message names its machine."""


class Silence(BossError):
    """Nothing came in time."""


class Inbox:
    """Messages from a reader's thread, one at a time or as they come.

    With a sink each message goes to it, in the reader's thread. Without one the
    reader is let go on only while somebody waits in get(): a worker that talks
    when nobody listens fills its pipe and not our memory.
    """

    def __init__(self) -> None:
        self._cond = threading.Condition()
        self._waiting: List[Message] = []
        self._asking = 0
        self._sink: Optional[Sink] = None
        self._ended = False
        self._closed = False

    def put(self, msg: Message) -> None:
        """Hand over a message; called by the reader's thread, which may be held up."""
        with self._cond:
            sink = self._sink
            if sink is None:
                if self._closed:
                    return
                self._waiting.append(msg)
                self._cond.notify_all()
                self._cond.wait_for(lambda: self._closed or self._sink is not None or (
                    bool(self._asking) and not self._waiting))
        if sink is not None:
            sink(msg)

    def end(self) -> None:
        """Tell that nothing more comes; called by the reader's thread."""
        with self._cond:
            self._ended = True
            self._cond.notify_all()
            sink = self._sink
        if sink is not None:
            sink(None)

    def get(self, timeout: float) -> Optional[Message]:
        """Wait for the next message.

        Args:
            timeout: seconds, in which this process is awake

        Returns:
            the message; None when there is none left and the connection ended

        Raises:
            queue.Empty: none came in time
        """
        with self._cond:
            self._asking += 1
            self._cond.notify_all()
            try:
                end = awake.now() + timeout
                left = timeout
                while left > 0 and not (self._waiting or self._ended or self._closed):
                    self._cond.wait(min(left, awake.TICK))
                    left = end - awake.now()
            finally:
                self._asking -= 1
            if self._waiting:
                return self._waiting.pop(0)
            if self._ended or self._closed:
                return None
            raise queue.Empty

    def divert(self, sink: Optional[Sink]) -> None:
        """Have all messages go to a function from now on; None: to get() again.

        What waits goes there first, and the end of the connection if that has
        come.
        """
        with self._cond:
            self._sink = sink
            if sink is None:
                return
            # Within the lock, so that none overtakes these
            while self._waiting:
                sink(self._waiting.pop(0))
            if self._ended:
                sink(None)
            self._cond.notify_all()

    def close(self) -> None:
        """Let go of everybody who waits; messages are dropped from now on."""
        with self._cond:
            self._closed = True
            self._cond.notify_all()


class Connection:
    """A persistent process, ssh mostly, with a worker behind it.

    Attributes:
        hostname: machine, host or user@host
        name: name in messages
        closing: an end was asked for, so the loss of the connection is none
        refusing: no process is to be started any more
        version: of the protocol, as far as both know it; 0 for an older worker
        heartbeat_interval: seconds between the worker's signs of life, 0 when it
            sends none
        on_stderr: called with each line that comes on stderr
        on_noise: called with each line that is not a message
        on_deaf: called with what is wrong when a ping cannot be sent
        budget: what the machine may send beyond what it owes
        bytes_sent, bytes_recv: what has travelled
    """

    def __init__(self, hostname: str, name: str, timeout: float) -> None:
        """Set up; nothing is started.

        Args:
            hostname: for messages
            name: for messages
            timeout: seconds to connect
        """
        self.hostname = hostname
        self.name = name
        self.closing = False
        self.refusing = False
        self.version = 0
        self.heartbeat_interval = 0.0
        self.on_stderr: Callable[[str], None] = self._print_stderr
        self.on_noise: Callable[[str], None] = lambda text: None
        self.on_deaf: Callable[[str], None] = lambda text: None
        self.budget = budget.Budget()
        self._timeout = timeout
        # Of its own, so that all machines are started at the same time
        self._account = Account()
        self._proc: Optional['subprocess.Popen[bytes]'] = None
        self._channel: Optional[Channel] = None
        self._stderr: Optional[Reader] = None
        self._last_stderr = ''
        self._inbox = Inbox()
        self._ending = threading.Lock()
        self._sent = self._received = 0

    def patience(self) -> float:
        """Return the seconds of silence after which a worker counts as lost."""
        raise NotImplementedError

    def _print_stderr(self, text: str) -> None:
        """Pass on what the worker complains about"""
        print(f'[{self.name}] {text}', file=sys.stderr, flush=True)

    @property
    def bytes_sent(self) -> int:
        """Bytes that went to the worker."""
        return self._channel.bytes_sent if self._channel else self._sent

    @property
    def bytes_recv(self) -> int:
        """Bytes that came from it."""
        return self._channel.bytes_received if self._channel else self._received

    # -- its beginning -----------------------------------------------------

    def _launch(self, argv: Sequence[str]) -> messages.Ready:
        """Start the process and wait until the worker says that it is ready.

        Raises:
            BossError: it cannot be started or does not become ready
        """
        self._last_stderr = ''
        # So that whoever ends it meets it either whole or not at all
        with self._ending:
            if self.refusing:
                raise BossError(f'{self.name}: stopped before its worker was started')
            try:
                self._proc = self._account.start(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, bufsize=0)
            except OSError as exc:
                raise BossError(f'Failed to start SSH to {self.hostname}: {exc}') from exc
            self._open(self._proc)
        try:
            ready = self._wait_ready()
        except BaseException:
            self._end()
            raise
        if self.version:
            threading.Thread(target=self._ping, args=(self._proc,), daemon=True,
                             name=f'ping {self.name}').start()
        return ready

    def _open(self, proc: 'subprocess.Popen[bytes]') -> None:
        """Begin to read what a process says"""
        inbox = self._inbox = Inbox()
        # A stand-in may have none
        stderr = getattr(proc, 'stderr', None)
        if callable(getattr(stderr, 'readline', None)):
            self._stderr = Reader(stderr, self._take_stderr, name=f'{self.name} stderr')
            self._stderr.start()
        self._channel = Channel(
            proc.stdout, proc.stdin, from_worker=True, on_message=self._receive,
            on_noise=self._take_noise, on_end=lambda why: inbox.end(),
            name=self.name, clock=awake.now)
        self._channel.start()

    def _wait_ready(self) -> messages.Ready:
        """Wait for the first message"""
        seconds = min(self._timeout + READY_TIME, max(self._timeout, self.patience()))
        deadline = awake.now() + seconds
        msg: Optional[messages.Message] = messages.Heartbeat()
        while isinstance(msg, messages.Heartbeat):
            try:
                msg = self._inbox.get(deadline - awake.now())
            except queue.Empty:
                raise BossError(f'{self.name}: worker did not send ready within '
                                f'{seconds:g} s') from None
        if msg is None:
            raise self.closed_error()
        if not isinstance(msg, messages.Ready):
            raise BossError(f'{self.name}: worker did not send ready but '
                            f'{messages.as_dict(msg)}')
        self.version = min(msg.version, messages.PROTOCOL_VERSION)
        self.heartbeat_interval = msg.heartbeat_interval
        self.budget.expect_heartbeats(msg.heartbeat_interval)
        if self._channel:
            self._channel.version = self.version
        return msg

    def _ping(self, proc: 'subprocess.Popen[bytes]') -> None:
        """Tell the worker now and then that we are there, as long as its process is"""
        while self._proc is proc:
            time.sleep(self.heartbeat_interval or messages.HEARTBEAT_INTERVAL)
            try:
                if self._proc is proc:
                    self.send(messages.Ping())
            except BossError as exc:
                if not self.closing:
                    self.on_deaf(str(exc))
                return

    # -- what comes, and goes ----------------------------------------------

    def _receive(self, msg: messages.Message) -> None:
        """Take a message, in the reader's thread.

        Raises:
            OverBudget: the machine sends too much; nobody reads it any more
        """
        if isinstance(msg, messages.Malformed):
            self.budget.nonsense()
        else:
            self.budget.sense()
            if isinstance(msg, messages.Heartbeat):
                self.budget.spend(budget.MESSAGE, 'heartbeats')
            elif isinstance(msg, messages.Unknown):
                self.budget.spend(budget.COMPLAINT, 'messages of unknown kinds')
        self._inbox.put(msg)

    def _take_noise(self, text: str) -> None:
        """Take a line that is no message, in the reader's thread; as _receive()"""
        self.budget.spend(budget.LINE, 'lines of noise')
        self.on_noise(text)

    def divert(self, sink: Optional[Sink]) -> None:
        """Have all messages from now on go to a function, not to recv().

        Args:
            sink: called in the reader's thread with each message, and with
                None at the end of the connection; None: back to recv()
        """
        self._inbox.divert(sink)

    @property
    def silence(self) -> float:
        """Seconds since anything came from the worker."""
        channel = self._channel
        return awake.now() - channel.last_heard if channel else 0.0

    @property
    def process(self) -> Optional['subprocess.Popen[bytes]']:
        """The process of the connection, None when there is none"""
        return self._proc

    def send(self, msg: messages.Command) -> None:
        """Send a command.

        Raises:
            BossError: the worker is not running or does not read
        """
        if not self._channel or not self._proc:
            raise BossError(f'{self.name}: worker is not running')
        try:
            self._channel.send(msg)
        except (ChannelError, ValueError) as exc:
            raise BossError(f'{self.name}: cannot send: {exc}') from exc

    def _next(self, timeout: Optional[float] = None) -> messages.Message:
        """Return the next message; `timeout` is our patience when not given"""
        seconds = self.patience() if timeout is None else timeout
        try:
            msg = self._inbox.get(seconds)
        except queue.Empty:
            raise Silence(f'{self.name}: nothing heard for {seconds:g} s') from None
        if msg is None:
            raise self.closed_error()
        return msg

    def expect(self, kind: Type[messages.Response]) -> messages.Response:
        """Return the next message, which has to be of a kind; heartbeats are passed over.

        Raises:
            BossError: it is another one, or none comes in time after all was sent, or
                the connection has ended
        """
        if self._channel:
            # However long that takes, as long as something goes out
            self._channel.writer.flush(threading.TIMEOUT_MAX)
        begun, beat = awake.now(), self.heartbeat_interval
        limit = ANSWER_HEARTBEATS * beat or self.patience()
        while True:
            msg: messages.Message = messages.Heartbeat()
            with contextlib.suppress(Silence):
                msg = self._next(min(1.0, limit))
            if isinstance(msg, kind):
                return msg
            waited = awake.now() - begun
            if waited > limit or (beat and min(waited, self.silence) > MISSED_HEARTBEATS * beat):
                raise BossError(f'{self.name}: no {messages.kind_of_class(kind)} came within '
                                f'{waited:.0f} s')
            if isinstance(msg, messages.ErrorMsg):
                raise BossError(f'{self.name}: {msg.msg}')
            if not isinstance(msg, messages.Heartbeat):
                raise BossError(f'{self.name}: unexpected answer: {messages.as_dict(msg)}')

    # -- its end -----------------------------------------------------------

    def closed_error(self) -> BossError:
        """Return the error that says why the connection has gone"""
        if self.budget.reason:
            return BossError(f'{self.name}: {self.budget.reason}')
        proc, reader = self._proc, self._stderr
        # What a dying worker says last may still be on its way
        if reader:
            with contextlib.suppress(RuntimeError):
                reader.wait_end(0.5)
        if proc and not self._last_stderr and not is_process(proc):
            # A stand-in may have it in one piece
            with contextlib.suppress(AttributeError, OSError, ValueError):
                said = proc.stderr.read()  # type: ignore[union-attr]
                for line in said.splitlines() if isinstance(said, bytes) else ():
                    self._take_stderr(line)
        why = f': {self._last_stderr}' if self._last_stderr else ''
        return BossError(f'{self.name} closed connection{why}')

    def _take_stderr(self, line: bytes) -> None:
        """Keep the last thing that was said, and pass it on"""
        text = fields.harmless(line)
        if text.strip():
            self._last_stderr = text.strip()
            try:
                self.budget.spend(budget.SHOWN, 'lines on stderr')
            except budget.OverBudget:
                # Who hears of the end may end us
                threading.Thread(target=self._inbox.end, daemon=True).start()
                raise
            self.on_stderr(text)

    def close(self, seconds: float = END_TIME) -> None:
        """End the connection: ask, terminate, kill. Never hangs; may be called twice.

        Args:
            seconds: for each of these steps
        """
        self.closing = True
        self._end(seconds)

    def _end(self, seconds: float = END_TIME) -> None:
        """End the process, for whatever reason"""
        # A second caller waits until the first has done it
        with self._ending:
            proc, self._proc = self._proc, None
            channel, stderr = self._channel, self._stderr
            self._inbox.close()
            if channel:
                channel.writer.close(min(0.5, seconds))
            if proc is not None:
                # What it has started, a ProxyCommand say, is in the same group
                if is_process(proc):
                    self._account.finish(proc.pid, seconds)
                else:
                    _end_other(proc, seconds)
            if channel:
                channel.reader.close()
                self._sent, self._received = channel.bytes_sent, channel.bytes_received
            if stderr:
                stderr.close()
            self._channel = self._stderr = None
            for name in ('stdout', 'stderr'):
                with contextlib.suppress(OSError, AttributeError):
                    getattr(proc, name).close()


def _end_other(proc: 'subprocess.Popen[bytes]', seconds: float) -> None:
    """End what a caller has put in place of a process.

    Args:
        proc: with the names of Popen, or some of them
        seconds: for each step
    """
    with contextlib.suppress(OSError, AttributeError):
        proc.stdin.close()  # type: ignore[union-attr]
    for act in (None, proc.terminate, proc.kill):
        if act:
            with contextlib.suppress(OSError):
                act()
        with contextlib.suppress(subprocess.TimeoutExpired):
            proc.wait(timeout=seconds)
            break
