# SPDX-License-Identifier: GPL-2.0+
"""The logs of a distributed build, in the folder of its results.

- `worker-NAME.log`: every message to and from one machine
- `.buildman.log`: what happened to machines, and a status line now and then
- `joblog`: one line a result, tab-separated, for programs; its first line names
  the columns (see COLUMNS)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from typing import Any, Mapping, Optional, TextIO, Union

from buildman.core.outcome import Outcome
from buildman.core.text import plain
from buildman.wire import messages

# Characters of a message, and of a text in one, that are logged
MAX_LOGGED = 2000
MAX_STRING = 200

# board: target; commit: index from 0; machine: name, '-' for this one; start:
# seconds since 1970; seconds: of the build; bytes: of all files of the result
# but images; status: make's exit status, 'infra' when the machine failed and it
# is tried again, or 'dropped' when another machine was first; attempt: how often
# the board had been given out by then
COLUMNS = ('board', 'commit', 'machine', 'start', 'seconds', 'bytes', 'status', 'attempt')


def short(value: Any) -> Any:
    """Return a value of a message in a form that is fit for a log."""
    if isinstance(value, bytes):
        return f'({len(value)} bytes)'
    if isinstance(value, str) and len(value) > MAX_STRING:
        return f'{value[:MAX_STRING]}… ({len(value)} characters)'
    if isinstance(value, Mapping):
        return {str(key): short(val) for key, val in value.items()}
    if isinstance(value, (list, tuple)):
        return [short(val) for val in value]
    return value


def _short(msg: messages.Message) -> str:
    """Return a message as JSON, long values cut"""
    if isinstance(msg, (messages.FilePiece, messages.PutBlob)):
        # What is not shown need not be packed, which takes more time than all the rest
        data = {**messages.as_dict(dataclasses.replace(msg, data=b'')), 'data': msg.data}
    else:
        data = messages.as_dict(msg)
    text = json.dumps(short(data), ensure_ascii=False, default=str)
    return text if len(text) <= MAX_LOGGED else text[:MAX_LOGGED] + '…'


def _write(file: TextIO, text: str) -> None:
    """Write to a log; a disk that is full, say, costs the line, not the run.

    Whoever writes results meets the same and tells.
    """
    with contextlib.suppress(OSError):
        file.write(text)


def _close(file: TextIO) -> None:
    """Close a log, whatever is left to be written"""
    with contextlib.suppress(OSError):
        file.close()


class WorkerLog:
    """The messages of one machine, with time and direction.

    Written by the machine's threads and by the loop; each line in one piece.
    """

    def __init__(self, path: str, new: bool = True) -> None:
        """Begin a log, or go on with it.

        Raises:
            OSError: it cannot be written
        """
        self._lock = threading.Lock()
        self._file: Optional[TextIO] = open(  # noqa: SIM115
            path, 'w' if new else 'a', encoding='utf-8', errors='replace', buffering=1)

    def _line(self, mark: str, text: str) -> None:
        """Write a line"""
        with self._lock:
            if self._file:
                _write(self._file, f"{time.strftime('%H:%M:%S')} {mark} {plain(text)}\n")

    def sent(self, msg: Union[str, messages.Message]) -> None:
        """Log what goes to the machine."""
        self._line('>>', msg if isinstance(msg, str) else _short(msg))

    def received(self, msg: Union[str, messages.Message]) -> None:
        """Log what comes from it."""
        if isinstance(msg, messages.Unknown):
            msg = f'unknown kind: {msg.raw}'
        self._line('<<', msg if isinstance(msg, str) else _short(msg))

    def note(self, text: str) -> None:
        """Log a step that is no message."""
        self._line('--', text)

    def error(self, text: str) -> None:
        """Log what went wrong."""
        self._line('!!', text)

    def close(self) -> None:
        """End the log; later lines are dropped."""
        with self._lock:
            if self._file:
                _close(self._file)
                self._file = None


class JobLog:
    """`joblog`, written by the loop."""

    def __init__(self, path: str) -> None:
        """Begin a log.

        Raises:
            OSError: it cannot be written
        """
        self._file = open(path, 'w', encoding='utf-8', buffering=1)  # noqa: SIM115
        self._file.write('\t'.join(COLUMNS) + '\n')

    def add(self, outcome: Outcome, fate: str, attempt: int = 1) -> None:
        """Add a result.

        Args:
            outcome: what came out
            fate: why it was not kept, '' when it was
            attempt: which try of the board this was
        """
        size = (sum(len(data) for data in outcome.files.values()) + len(outcome.stdout)
                + len(outcome.stderr) + len(outcome.sizes))
        _write(self._file, '\t'.join((
            outcome.target, str(outcome.commit_upto), outcome.machine or '-',
            f'{time.time() - outcome.seconds:.3f}', f'{outcome.seconds:.3f}', str(size),
            fate or str(outcome.return_code), str(attempt))) + '\n')

    def close(self) -> None:
        """End the log."""
        _close(self._file)


class BossLog:
    """`.buildman.log`, written by the loop."""

    def __init__(self, path: str) -> None:
        """Begin or continue a log.

        Raises:
            OSError: it cannot be written
        """
        self._file = open(path, 'a', encoding='utf-8', errors='replace',  # noqa: SIM115
                          buffering=1)

    def say(self, text: str) -> None:
        """Add a line with the time."""
        _write(self._file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def close(self) -> None:
        """End the log."""
        _close(self._file)
