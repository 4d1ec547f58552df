# SPDX-License-Identifier: GPL-2.0+
"""One GNU make job server for all the makes of this machine.

A machine with N processors gets N tokens. Whoever starts a make takes one
token for it and gives it back when it has ended; each make takes further
tokens for its own parallel jobs when there are any. So N processors are busy
whether N boards are being built or only one is left.

The protocol is GNU make's ("POSIX Jobserver Interaction" in its manual): a
pipe whose file descriptors are named in MAKEFLAGS; reading a byte takes a
token, writing it back returns it. The pipe form is understood by every make
from 3.81 (as --jobserver-fds) and 4.2 (as --jobserver-auth) on.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import tempfile
import termios
import threading
from typing import Iterator, Tuple


class Stopped(Exception):
    """The wait for a token was ended, since everything is being stopped."""


class JobServer:
    """A pool of tokens that makes and their starters share.

    Attributes:
        tokens: how many jobs may run at once
        fds: file descriptors that a make must inherit
    """

    def __init__(self, tokens: int) -> None:
        """Create the pool.

        Args:
            tokens: number of jobs that may run at once, at least 1

        Raises:
            OSError: no pipe can be made
        """
        self.tokens = max(1, tokens)
        # A named pipe, opened twice, since O_NONBLOCK belongs to an open file:
        # ours must not block and an old make's must. make 4.3 sets the flag on
        # its own side, which is shared between all makes and harmless here.
        with tempfile.TemporaryDirectory(prefix='buildman-jobs-') as folder:
            path = os.path.join(folder, 'tokens')
            os.mkfifo(path, 0o600)
            self._own = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._read = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._write = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        flags = fcntl.fcntl(self._read, fcntl.F_GETFL)
        fcntl.fcntl(self._read, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        self._wake_read, self._wake_write = os.pipe()
        self._lock = threading.Lock()
        self._taken = 0
        self._stopped = False
        os.write(self._own, b'+' * self.tokens)

    @property
    def fds(self) -> Tuple[int, int]:
        """Return the descriptors to pass to a make."""
        return (self._read, self._write)

    @property
    def makeflags(self) -> str:
        """Return the value of MAKEFLAGS for a make that takes part."""
        return f' -j{self.tokens} --jobserver-auth={self._read},{self._write}'

    def acquire(self) -> None:
        """Take one token, waiting until there is one.

        Raises:
            Stopped: stop() was called
        """
        poll = select.poll()
        poll.register(self._own, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            with self._lock:
                if self._stopped:
                    raise Stopped
                try:
                    os.read(self._own, 1)
                except BlockingIOError:
                    # Nobody of ours holds one, so a make was killed with its
                    # tokens in hand; no one will ever give them back
                    if self._taken == 0:
                        self._refill()
                        continue
                else:
                    self._taken += 1
                    return
            poll.poll()

    def release(self) -> None:
        """Give one token back."""
        with self._lock:
            self._taken -= 1
            os.write(self._own, b'+')
            if self._taken == 0:
                self._refill()

    def _refill(self) -> None:
        """Make the pool whole again; only called when no make is running."""
        count = array.array('i', [0])
        fcntl.ioctl(self._own, termios.FIONREAD, count)
        if count[0] < self.tokens:
            os.write(self._own, b'+' * (self.tokens - count[0]))
        elif count[0] > self.tokens:
            os.read(self._own, count[0] - self.tokens)

    @contextlib.contextmanager
    def token(self) -> Iterator[None]:
        """Hold one token while the body runs.

        Raises:
            Stopped: stop() was called before there was one
        """
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def available(self) -> int:
        """Return the number of tokens that nobody holds at the moment."""
        count = array.array('i', [0])
        fcntl.ioctl(self._own, termios.FIONREAD, count)
        return count[0]

    def stop(self) -> None:
        """Wake all that wait for a token: they raise Stopped."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                os.write(self._wake_write, b'x')

    def close(self) -> None:
        """Free the descriptors; nobody may use the pool any more."""
        for fdes in (self._own, self._read, self._write, self._wake_read,
                     self._wake_write):
            with contextlib.suppress(OSError):
                os.close(fdes)
