# SPDX-License-Identifier: GPL-2.0+
"""One GNU make job server for all the makes of this machine.

A machine with N processors gets N tokens. Whoever starts a make takes one
token for it and gives it back when it has ended; each make takes further
tokens for its own parallel jobs when there are any. So N processors are busy
whether N boards are being built or only one is left.

The protocol is GNU make's ("POSIX Jobserver Interaction" in its manual): a
pipe whose file descriptors are named in MAKEFLAGS; reading a byte takes a
token, writing it back returns it. The pipe form is understood by every make
from 3.81 (as --jobserver-fds) and 4.2 (as --jobserver-auth) on, so makes of several
versions may be at work in one build; a make before 4.4 ends at the other form
(fifo:PATH).

A make that is killed keeps what it had taken; make 4.4 does so at SIGTERM, too. How
much that was nobody knows while others use the same pipe. So those that run keep
that pipe to the end, the ones after them get a new one, and what is free or
given back goes there; when the last one has ended, all that is missing was lost.
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
from typing import Iterator, List, Tuple


class Stopped(Exception):
    """The wait for a token was ended, since everything is being stopped."""


class _Pool:
    """A pipe with tokens in it.

    Attributes:
        fds: file descriptors that a make must inherit
        tokens: how many are in it or were taken out of it
        makes: how many makes run with it
        waiting: how many starters wait for it
    """

    def __init__(self, tokens: int) -> None:
        """Create the pipe.

        Raises:
            OSError: no pipe can be made
        """
        # A named pipe, opened twice, since O_NONBLOCK belongs to an open file:
        # ours must not block and an old make's must. make 4.3 sets the flag on
        # its own side, which is shared between all makes and harmless here.
        with tempfile.TemporaryDirectory(prefix='buildman-jobs-') as folder:
            path = os.path.join(folder, 'tokens')
            os.mkfifo(path, 0o600)
            self._own = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            self.fds = (os.open(path, os.O_RDONLY | os.O_NONBLOCK),
                        os.open(path, os.O_WRONLY))
        flags = fcntl.fcntl(self.fds[0], fcntl.F_GETFL)
        fcntl.fcntl(self.fds[0], fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        self._wake = os.pipe()
        self.tokens = self.makes = self.waiting = 0
        self.add(tokens)

    def add(self, tokens: int) -> None:
        """Let it have more."""
        self.tokens += tokens
        os.write(self._own, b'+' * tokens)

    def take(self, tokens: int) -> int:
        """Take tokens; return how many there were, which may be none."""
        with contextlib.suppress(BlockingIOError):
            return len(os.read(self._own, tokens))
        return 0

    def give_back(self) -> None:
        """Put one back that take() took."""
        os.write(self._own, b'+')

    def free(self) -> int:
        """Return how many are in it."""
        count = array.array('i', [0])
        fcntl.ioctl(self._own, termios.FIONREAD, count)
        return count[0]

    def refill(self) -> None:
        """Make it whole again; only called when no make is running."""
        self.take(self.free())
        os.write(self._own, b'+' * self.tokens)

    def wait(self) -> None:
        """Wait until there is one, or wake() was called."""
        poll = select.poll()
        poll.register(self._own, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        poll.poll()

    def wake(self) -> None:
        """Let nobody wait for it, from now on."""
        os.write(self._wake[1], b'x')

    def close(self) -> None:
        """Free the descriptors."""
        for fdes in (self._own, *self.fds, *self._wake):
            with contextlib.suppress(OSError):
                os.close(fdes)


@contextlib.contextmanager
def one_job() -> Iterator[Tuple[str, Tuple[int, int]]]:
    """Yield (MAKEFLAGS, descriptors to pass) of a job server that has nothing to give.

    A make that waits for it has one job at a time, but chooses them as if it had many.

    Raises:
        OSError: no pipe can be made
    """
    fds = os.pipe()
    try:
        yield f' -j1 --jobserver-auth={fds[0]},{fds[1]}', fds
    finally:
        for fdes in fds:
            os.close(fdes)


class Seat:
    """A token that was taken in order to start a make.

    Attributes:
        pool: where the make gets more, and puts them back
        makeflags: value of MAKEFLAGS for it
        killed: it did not end by itself, so it may have kept what it had taken
    """

    def __init__(self, pool: _Pool, total: int) -> None:
        self.pool = pool
        self.makeflags = f' -j{total} --jobserver-auth={pool.fds[0]},{pool.fds[1]}'
        self.killed = False

    @property
    def fds(self) -> Tuple[int, int]:
        """Return the descriptors to pass to the make."""
        return self.pool.fds


class JobServer:
    """A pool of tokens that makes and their starters share.

    Attributes:
        tokens: how many jobs may run at once
    """

    def __init__(self, tokens: int) -> None:
        """Create the pool.

        Args:
            tokens: number of jobs that may run at once, at least 1

        Raises:
            OSError: no pipe can be made
        """
        self.tokens = max(1, tokens)
        self._lock = threading.Lock()
        self._pool = _Pool(self.tokens)
        self._retired: List[_Pool] = []
        self._stopped = False

    def acquire(self) -> Seat:
        """Take one token, waiting until there is one.

        Raises:
            Stopped: stop() was called
        """
        while True:
            with self._lock:
                if self._stopped:
                    raise Stopped
                pool = self._pool
                if pool.take(1):
                    pool.makes += 1
                    return Seat(pool, self.tokens)
                pool.waiting += 1
            pool.wait()
            with self._lock:
                pool.waiting -= 1
                self._settle(pool)

    def release(self, seat: Seat) -> None:
        """Give one token back."""
        pool = seat.pool
        with self._lock:
            pool.makes -= 1
            pool.give_back()
            if not pool.makes:
                pool.refill()
            elif seat.killed and pool is self._pool:
                # Without a new pipe, what was lost is found when no make is running
                with contextlib.suppress(OSError):
                    self._pool = _Pool(0)
                    self._retired.append(pool)
                    pool.wake()
            self._settle(pool)

    def _settle(self, pool: _Pool) -> None:
        """Move what nobody holds from a pool that was in use to the one that is"""
        if pool not in self._retired:
            return
        moved = pool.take(pool.tokens - pool.makes)
        pool.tokens -= moved
        self._pool.add(moved)
        if not pool.makes and not pool.waiting:
            self._retired.remove(pool)
            pool.close()

    @contextlib.contextmanager
    def token(self) -> Iterator[Seat]:
        """Hold one token while the body runs, which ends its make if it raises an error.

        Raises:
            Stopped: stop() was called before there was one
        """
        seat = self.acquire()
        try:
            yield seat
        except BaseException:
            seat.killed = True
            raise
        finally:
            self.release(seat)

    def available(self) -> int:
        """Return the number of tokens that nobody holds at the moment."""
        with self._lock:
            return sum(pool.free() for pool in (self._pool, *self._retired))

    def stop(self) -> None:
        """Wake all that wait for a token: they raise Stopped."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._pool.wake()

    def close(self) -> None:
        """Free the descriptors; nobody may use the pool any more."""
        for pool in (self._pool, *self._retired):
            pool.close()
