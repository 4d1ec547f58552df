# SPDX-License-Identifier: GPL-2.0+
"""Lines and messages over a pair of byte streams, where nothing waits for ever.

A `Reader` has one daemon thread that splits what comes into lines and hands
them on; a `Writer` sends without the caller having to wait for a peer that
does not read. A `Channel` is both, with messages instead of lines.

Streams are what subprocess.Popen gives, or descriptors. Only the descriptor is used, so that
an end can be given up while somebody else (a grandchild of the dead process)
still holds the pipe. A stream without a descriptor is used through `readline()`
or `write()` and `flush()`.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import Any, Callable, List, Optional, Tuple

from buildman.wire import fields, messages

READ_SIZE = 256 << 10           # bytes asked for at a time
WRITE_DEADLINE = 60.0           # seconds without a byte going out
MAX_PENDING = 32 << 20          # bytes to be sent that may pile up
JOIN_TIME = 1.0                 # seconds that close() gives a thread


class ChannelError(Exception):
    """The peer is gone or does not read; the message says which."""


def _descriptor(stream: Any) -> Optional[int]:
    """Return the stream's file descriptor, None for a stand-in without one."""
    if isinstance(stream, int):
        return stream
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return number if isinstance(number, int) else None


class Splitter:
    """Puts chunks together to lines; a line over the bound is dropped."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._parts: List[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes, emit: Callable[[bytes], None],
             too_long: Callable[[int], None]) -> None:
        """Take a chunk; call `emit(line)` or `too_long(bytes)` for each line ended in it."""
        pieces = chunk.split(b'\n')
        for piece in pieces[:-1]:
            self._add(piece)
            if self._size > self._max_line:
                too_long(self._size)
            else:
                emit(b''.join(self._parts))
            self._parts, self._size = [], 0
        self._add(pieces[-1])

    def has_part(self, prefix: bytes) -> bool:
        """Tell whether a line that begins with the prefix is under way."""
        return bool(self._parts) and self._parts[0].startswith(prefix)

    def rest(self) -> bytes:
        """Return what came after the last newline."""
        return b''.join(self._parts)

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max_line:
            self._parts = []
        elif piece:
            self._parts.append(piece)


class Reader:
    """Reads lines in a thread of its own until the end, or until it is closed.

    All callbacks run in that thread. A callback that blocks holds up the
    reading, and so in the end the peer: that is how memory stays bounded.
    """

    def __init__(self, stream: Any, on_line: Callable[[bytes], None], *,
                 on_noise: Optional[Callable[[str], None]] = None,
                 on_too_long: Optional[Callable[[int], None]] = None,
                 on_end: Optional[Callable[[str], None]] = None,
                 on_part: Optional[Callable[[], None]] = None,
                 prefix: bytes = b'', max_line: int = fields.MAX_LINE, name: str = '') -> None:
        """Set up; start() begins to read.

        Args:
            stream: binary stream
            on_line: called with each line, without prefix and newline
            on_noise: called with the harmless text of each line that lacks
                the prefix
            on_too_long: called with the number of bytes of each line that was
                over `max_line` and is lost
            on_end: called once with the reason: '' for the end of the stream,
                'in the middle of a line', 'closed' or an error's text
            on_part: called when a part of a long line has come, which is a
                sign of life
            prefix: what lines begin with; text before it on the same line (a
                banner that ends without newline) is noise
            max_line: bound on the length of a line, in bytes
            name: for the name of the thread
        """
        self._stream = stream
        self._fd = _descriptor(stream)
        self._on_line = on_line
        self._on_noise = on_noise
        self._on_too_long = on_too_long
        self._on_end = on_end
        self._on_part = on_part
        self._prefix = prefix
        self._splitter = Splitter(max_line)
        self._closed = False
        # Ends poll(): what is written to the second is read from the first
        self._wake: Tuple[int, ...] = () if self._fd is None else os.pipe()
        self._thread = threading.Thread(target=self._run, name=f'read {name}', daemon=True)
        self.received = 0

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def wait_end(self, seconds: float) -> None:
        """Wait until the stream has ended, for at most so many seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def close(self) -> bool:
        """Stop reading; never waits longer than JOIN_TIME.

        The stream stays open: whoever made it closes it.

        Returns:
            True when the thread has ended (or is the caller), False when it
            hangs in a stream without descriptor or in a callback
        """
        self._closed = True
        # A stream without descriptor has nothing to be woken by
        with contextlib.suppress(OSError, IndexError):
            os.write(self._wake[1], b'x')
        if threading.current_thread() is self._thread:
            return True
        if self._thread.ident is not None:
            self._thread.join(JOIN_TIME)
            if self._thread.is_alive():
                return False
        wake, self._wake = self._wake, ()
        for fd in wake:
            os.close(fd)
        return True

    def _run(self) -> None:
        try:
            reason = self._read_all()
        except Exception as exc:
            # Whatever it was, nobody reads any more, and somebody waits to hear that
            reason = str(exc) or type(exc).__name__
        if self._on_end is not None:
            self._on_end('closed' if self._closed else reason)

    def _read_all(self) -> str:
        """Read to the end; return why that came."""
        reason = self._read_fd() if self._fd is not None else self._read_lines()
        rest = self._splitter.rest()
        if rest and not self._closed:
            if rest.endswith(b'}') or not rest.startswith(self._prefix):
                self._take(rest)
            else:
                reason = reason or 'in the middle of a line'
        return reason

    def _read_fd(self) -> str:
        assert self._fd is not None
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        wake = self._wake[0]
        poll.register(wake, select.POLLIN)
        while True:
            if wake in dict(poll.poll()):
                break
            try:
                chunk = os.read(self._fd, READ_SIZE)
            except BlockingIOError:
                continue
            if not chunk:
                break
            self._feed(chunk)
        return ''

    def _read_lines(self) -> str:
        while not self._closed:
            try:
                line = self._stream.readline()
            except StopIteration:
                break
            if not isinstance(line, bytes) or not line:
                break
            self._feed(line if line.endswith(b'\n') else line + b'\n')
        return ''

    def _feed(self, chunk: bytes) -> None:
        self.received += len(chunk)
        self._splitter.feed(chunk, self._take, self._on_too_long or (lambda size: None))
        if self._on_part is not None and self._splitter.has_part(self._prefix):
            self._on_part()

    def _take(self, line: bytes) -> None:
        if self._closed:
            return
        if line.endswith(b'\r'):
            line = line[:-1]
        if not line.startswith(self._prefix):
            noise, begin, rest = line.partition(self._prefix + b'{')
            self._noise(noise)
            if not begin:
                return
            line = begin + rest
        self._on_line(line[len(self._prefix):])

    def _noise(self, line: bytes) -> None:
        if self._on_noise is not None:
            self._on_noise(fields.harmless(line))


class Writer:
    """Sends bytes in order; the caller waits only when very much has piled up.

    What the peer does not take at once is sent by a thread that lives as long
    as there is something to send. When no byte goes out for `deadline`
    seconds, the peer counts as gone.
    """

    def __init__(self, stream: Any, *, deadline: float = WRITE_DEADLINE,
                 max_pending: int = MAX_PENDING, name: str = '',
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._deadline = deadline
        self._max_pending = max_pending
        self._name = name
        self._clock = clock
        self._cond = threading.Condition()
        self._pending: List[memoryview] = []
        self._pending_size = 0
        self._thread: Optional[threading.Thread] = None
        self._error = ''
        self.sent = 0
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.set_blocking(self._fd, False)

    @property
    def pending(self) -> int:
        """Bytes that wait to be sent."""
        return self._pending_size

    def send(self, data: bytes) -> None:
        """Send; returns at once unless more than `max_pending` bytes wait.

        Raises:
            ChannelError: the peer is gone, took nothing for `deadline`
                seconds, or close() was called; nothing more will be sent
        """
        if not data:
            return
        with self._cond:
            if self._error:
                raise ChannelError(self._error)
            if self._fd is None:
                self._send_to_stream(data)
                return
            view = memoryview(data)
            if not self._pending:
                view = self._write(view)
            if view:
                self._pending.append(view)
                self._pending_size += len(view)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._flush, daemon=True,
                                                    name=f'write {self._name}')
                    self._thread.start()
            while self._pending_size > self._max_pending and not self._error:
                self._cond.wait()
            if self._error:
                raise ChannelError(self._error)

    def flush(self, timeout: float) -> bool:
        """Wait until all is sent, at most `timeout` seconds; True when it is."""
        with self._cond:
            self._cond.wait_for(lambda: not self._pending_size or bool(self._error), timeout)
            return not self._pending_size and not self._error

    def close(self, timeout: float = 0.0) -> None:
        """Send what waits, for at most `timeout` seconds, then nothing more.

        The stream stays open: whoever made it closes it.
        """
        self.flush(timeout)
        with self._cond:
            self._fail('closed')
            thread = self._thread
        if thread is not None:
            thread.join(JOIN_TIME)

    def _fail(self, reason: str) -> None:
        """Give up; called with the condition held."""
        self._error = self._error or reason
        self._pending, self._pending_size = [], 0

    def _send_to_stream(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except (OSError, ValueError) as exc:
            self._fail(str(exc) or type(exc).__name__)
            raise ChannelError(self._error) from exc
        self.sent += len(data)

    def _write(self, view: memoryview) -> memoryview:
        """Write as much as the peer takes now; return the rest."""
        assert self._fd is not None
        try:
            while view:
                done = os.write(self._fd, view)
                self.sent += done
                view = view[done:]
        except BlockingIOError:
            pass
        except OSError as exc:
            self._fail(exc.strerror or str(exc))
            return view[:0]
        return view

    def _flush(self) -> None:
        assert self._fd is not None
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        last = self._clock()
        while True:
            # Short enough for close() to be noticed
            ready = poll.poll(min(self._deadline, .1) * 1000)
            with self._cond:
                before = self.sent
                while ready and self._pending:
                    view = self._pending[0]
                    rest = self._write(view)
                    if self._error:
                        break
                    self._pending_size -= len(view) - len(rest)
                    if rest:
                        self._pending[0] = rest
                        break
                    del self._pending[0]
                if self.sent != before:
                    last = self._clock()
                elif self._pending and self._clock() - last >= self._deadline:
                    self._fail(f'took nothing for {self._deadline:g} seconds')
                self._cond.notify_all()
                if not self._pending or self._error:
                    self._thread = None
                    return


class Channel:
    """Messages to and from one peer.

    `version` is the protocol version that the peer told, to be set by whoever
    reads its first message: until then it is taken for an old one.
    """

    def __init__(self, incoming: Any, outgoing: Any, *, from_worker: bool,
                 on_message: Callable[[messages.Message], None],
                 on_noise: Optional[Callable[[str], None]] = None,
                 on_end: Optional[Callable[[str], None]] = None,
                 name: str = '', max_line: int = fields.MAX_LINE,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Set up; start() begins to read.

        Args:
            incoming, outgoing: binary streams
            from_worker: True on the boss's end: what comes are responses
            on_message: called in the reader's thread with each message,
                Unknown and Malformed included
            on_noise: called with each line that is no message
            on_end: called once, when nothing more comes, with the reason
            name: of the peer, for threads
            max_line: bound on what is read, in bytes
            clock: monotonic time in seconds
        """
        self._decode = messages.decode_response if from_worker else messages.decode_command
        self._on_message = on_message
        self._clock = clock
        self.version = messages.LEGACY_VERSION
        self.last_heard = clock()
        prefix = messages.RESPONSE_PREFIX.encode() if from_worker else b''
        self.reader = Reader(incoming, self._line, on_noise=on_noise, on_end=on_end,
                             on_too_long=self._too_long, on_part=self._heard, prefix=prefix,
                             max_line=max_line, name=name)
        self.writer = Writer(outgoing, name=name, clock=clock)

    def start(self) -> None:
        """Begin to read."""
        self.last_heard = self._clock()
        self.reader.start()

    @property
    def bytes_sent(self) -> int:
        """Bytes that the peer's pipe has taken."""
        return self.writer.sent

    @property
    def bytes_received(self) -> int:
        """Bytes that came, noise included."""
        return self.reader.received

    def send(self, message: messages.Message) -> int:
        """Send a message in the form that the peer's version knows.

        Returns:
            bytes of the line; 0 when the peer does not know that kind
        Raises:
            ChannelError: the peer is gone or does not read
            ValueError: the message is too large
        """
        line = messages.encode(message, self.version)
        self.writer.send(line)
        return len(line)

    def close(self, flush: float = 0.0) -> None:
        """Stop both directions; what waits is sent for at most `flush` seconds."""
        self.writer.close(flush)
        self.reader.close()

    def _line(self, line: bytes) -> None:
        if line.strip():
            message = self._decode(line)
            if not isinstance(message, messages.Malformed):
                self._heard()
            self._on_message(message)

    def _heard(self) -> None:
        self.last_heard = self._clock()

    def _too_long(self, size: int) -> None:
        self._on_message(messages.Malformed(f'a line of {size} bytes'))
