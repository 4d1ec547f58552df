# SPDX-License-Identifier: GPL-2.0+
"""Forked processes that compute something and end.

A child shares all that its parent has in memory at that time, which is what
makes a parsed Kconfig tree cheap to use on several processors. It answers
with one JSON value and ends without running anything else of the parent:
no exit handlers, no flushing of what the parent has printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from types import TracebackType
from typing import Any, Callable, Optional, Type

from buildman.core.errors import BoardError


class ChildError(BoardError):
    """What went wrong in a child.

    Attributes:
        kind: name of the class that was raised there, '' if it just ended
    """

    def __init__(self, message: str, kind: str = '') -> None:
        super().__init__(message)
        self.kind = kind


class Child:
    """A process that computes one value; use it in a `with` statement.

    Leaving the `with` block before the result was taken (Ctrl-C, an error)
    ends the process at once, and all that it has started.
    """

    def __init__(self, work: Callable[[], Any], new_group: bool = False) -> None:
        """Start a process.

        Args:
            work: returns what json can write; BoardError is passed on
            new_group: make it the leader of a process group, so that it is
                ended together with its own children. A Ctrl-C on the terminal
                then reaches it through its parent only.
        """
        self._group = new_group
        reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            _run(work, writer, new_group)
        os.close(writer)
        self._reader = reader
        if new_group:
            _set_group(self.pid)

    def __enter__(self) -> 'Child':
        return self

    def __exit__(self, kind: Optional[Type[BaseException]],
                 exc: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.stop()

    def result(self) -> Any:
        """Wait for the process and return its value.

        Raises:
            ChildError: it raised a BoardError, or was ended by something else
        """
        with os.fdopen(self._reader, 'rb') as inf:
            self._reader = -1
            data = inf.read()
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        if status or not data:
            raise ChildError('the scan of the boards was cut short: its process '
                             f'ended with status {_describe(status)}')
        answer = json.loads(data)
        if 'error' in answer:
            raise ChildError(answer['error'], answer['kind'])
        return answer['value']

    def stop(self) -> None:
        """End the process, if it is still there, and what it has started."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._group:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0


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


def _describe(status: int) -> str:
    """Return a wait status in words."""
    if os.WIFSIGNALED(status):
        return f'signal {os.WTERMSIG(status)}'
    return str(os.WEXITSTATUS(status))


def _run(work: Callable[[], Any], writer: int, new_group: bool) -> None:
    """Do the child's part; this never returns."""
    code = 1
    try:
        if new_group:
            _set_group(os.getpid())
            _no_input(writer)
        # The parent decides what a Ctrl-C means and ends this process
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            answer = {'value': work()}
        except BoardError as exc:
            answer = {'error': str(exc), 'kind': type(exc).__name__}
        with os.fdopen(writer, 'wb') as outf:
            outf.write(json.dumps(answer).encode())
        code = 0
    except BrokenPipeError:
        pass        # the parent is gone
    finally:
        if sys.exc_info()[0]:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(code)
