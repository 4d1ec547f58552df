# SPDX-License-Identifier: GPL-2.0+
"""Forked processes that compute something and end.

A child shares all that its parent has in memory at that time, which is what
makes a parsed Kconfig tree cheap to use on several processors. What it answers comes
through a pipe, one value after the other, and it waits when nobody reads. It
ends without running anything else of the parent: no exit handlers, no flushing of
what the parent has printed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from types import TracebackType
from typing import Any, BinaryIO, Callable, Iterable, NoReturn, Optional, Type

from buildman.core.errors import BuildmanError
from buildman.process.registry import STARTED, Account

_CHILDREN = Account()


class Parcel:
    """A value that a child is given after it has begun, by what started it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def give(self, value: Any) -> None:
        """Let the child have a value that can be pickled; once, after it was started.

        If it is gone, Child.next() says why.
        """
        os.close(self._reader)
        with contextlib.suppress(BrokenPipeError), open(self._writer, 'wb') as outf:
            pickle.dump(value, outf, protocol=pickle.HIGHEST_PROTOCOL)

    def take(self) -> Any:
        """Wait for the value, in the child.

        Raises:
            BrokenPipeError: the parent is gone
        """
        os.close(self._writer)
        with open(self._reader, 'rb') as inf:
            try:
                return pickle.load(inf)
            except (EOFError, pickle.UnpicklingError):
                raise BrokenPipeError from None


class ChildDied(BuildmanError):
    """A child ended before it had said all: no memory, or a defect, which it has told."""


class Child:
    """A process that computes values; use it in a `with` statement.

    Leaving the `with` block (Ctrl-C, an error) ends the process at once, and all that it
    has started.
    """

    def __init__(self, work: Callable[[], Iterable[Any]], what: str, nested: bool = False) -> None:
        """Start a process.

        Args:
            work: called there; returns values that can be pickled. A BuildmanError is
                passed on
            what: what it does, for messages
            nested: it belongs to a child, with which it is ended. Else it is the leader
                of a process group, and a Ctrl-C on the terminal reaches it through its
                parent only.
        """
        self._what = what
        self._nested = nested
        reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            _run(work, writer, nested)
        os.close(writer)
        self._answers: BinaryIO = open(reader, 'rb', buffering=1 << 16)  # noqa: SIM115
        if not nested:
            _set_group(self.pid)
            _CHILDREN.adopt(self.pid)

    def __enter__(self) -> 'Child':
        return self

    def __exit__(self, kind: Optional[Type[BaseException]],
                 exc: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.stop()

    def next(self) -> Any:
        """Wait for the next value, and return it.

        Raises:
            BuildmanError: it raised that
            ChildDied: it has ended
        """
        try:
            value = pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError):
            raise ChildDied(f'{self._what} was cut short: its process ended with '
                            f'{self._status()}; see above, or free some memory and try '
                            'again') from None
        if isinstance(value, BuildmanError):
            raise value
        return value

    def _status(self) -> str:
        """Return in words how the process has ended, without taking its number away"""
        how = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert how
        return (f'status {how.si_status}' if how.si_code == os.CLD_EXITED
                else f'signal {how.si_status}')

    def stop(self) -> None:
        """End the process, if it is still there, and what it has started."""
        if not self.pid:
            return
        self._answers.close()
        pid, self.pid = self.pid, 0
        if self._nested:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        else:
            _CHILDREN.release(pid)


def _set_group(pid: int) -> None:
    """Make `pid` a group leader: child and parent both try, either may be first."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)


def _no_input(writer: int) -> None:
    """Read nothing: what reads the terminal from the background is stopped."""
    null = os.open(os.devnull, os.O_RDONLY)
    if writer:      # our end of the pipe, if we were started without a stdin
        os.dup2(null, 0)
    if null:
        os.close(null)


def _run(work: Callable[[], Iterable[Any]], writer: int, nested: bool) -> NoReturn:
    """Do the child's part."""
    code = 1
    try:
        # The parent decides what a Ctrl-C means and ends this process
        for num in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(num) != signal.SIG_IGN:
                signal.signal(num, signal.SIG_DFL)
        STARTED.forget()
        if not nested:
            _set_group(os.getpid())
            _no_input(writer)
        with open(writer, 'wb') as outf:
            try:
                for value in work():
                    pickle.dump(value, outf, protocol=pickle.HIGHEST_PROTOCOL)
                    outf.flush()
            except BuildmanError as exc:
                pickle.dump(exc, outf)
        code = 0
    except (BrokenPipeError, KeyboardInterrupt):
        pass        # the parent is gone, or about to go
    finally:
        if sys.exc_info()[0]:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(code)
