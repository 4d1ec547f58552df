# SPDX-License-Identifier: GPL-2.0+
"""How long each build took: a file beside the results, for later runs to go by.

It is `.bm-work/.durations` in the folder that holds the commits' folders; not
among the results themselves, as these are the same whoever built them, and how
fast. It has a line for each result, fields apart by tabs::

    COMMIT  BOARD  SECONDS  KIND  MACHINE  RUN

    COMMIT   full hash; '-' for the current source
    SECONDS  wall-clock time of the build
    KIND     see FULL, MORE and PART
    MACHINE  who built it; '-' for the machine that buildman ran on
    RUN      when that run of buildman began, in seconds since 1970

Lines are added as results come, so a run that is killed loses none. A line that
makes no sense, such as one that was cut short, is left out when the file is
read. It is written anew, by rename, when it has grown too long. It only helps:
that it cannot be read or written is no reason not to build.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import BinaryIO, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from buildman.core.events import Built, Event
from buildman.core.files import replace_file
from buildman.core.plan import Commit
from buildman.results.tree import WORK_DIR

NAME = f'{WORK_DIR}/.durations'

# All of a board was compiled; it was the first commit, or configured again
FULL = 'full'
# Only what a commit changed was compiled
MORE = 'more'
# Not a usual build: configured only, or a target of the user's. Says nothing
# about others
PART = 'part'

_KINDS = (FULL, MORE, PART)

# Commit of the current source
CURRENT = '-'

# Lines that are kept, the newest: three branches of 20 commits for all boards
MAX_LINES = 100_000

# More of a file is not read, whoever wrote it; lines are some 80 bytes
MAX_BYTES = 256 * MAX_LINES

# Files of other branches that are read
MAX_FILES = 10


class Record(NamedTuple):
    """One line, see the docstring of the module; '' is the local machine."""

    commit: str
    target: str
    seconds: float
    kind: str
    machine: str
    run: int


def _parse(line: bytes) -> Optional[Record]:
    """Return what a line holds, None when it makes no sense"""
    try:
        commit, target, seconds, kind, machine, run = line.decode('ascii').split('\t')
        record = Record(commit, target, float(seconds), kind, '' if machine == '-' else machine,
                        int(run))
    except ValueError:
        return None
    if (not math.isfinite(record.seconds) or record.seconds < 0 or kind not in _KINDS
            or not commit or not target):
        return None
    return record


def _format(record: Record) -> bytes:
    """Return a record as a line"""
    return '\t'.join((record.commit, record.target, f'{record.seconds:.3f}', record.kind,
                      record.machine or '-', str(record.run))).encode('ascii', 'replace') + b'\n'


def read(folder: str) -> List[Record]:
    """Return the durations that a folder of results has, oldest first.

    Args:
        folder: holds the commits' folders

    Returns:
        those that can be read; nothing when there is no such file
    """
    try:
        with open(os.path.join(folder, NAME), 'rb') as inf:
            size = os.fstat(inf.fileno()).st_size
            inf.seek(max(0, size - MAX_BYTES))
            lines = inf.read(MAX_BYTES).split(b'\n')
    except OSError:
        return []
    # What follows the last line end is empty, or a line that was cut short
    lines.pop()
    return [record for record in map(_parse, lines) if record]


def read_all(folder: str, around: str, targets: Iterable[str]) -> List[Record]:
    """Return the durations of a folder of results and, where needed, of others.

    Args:
        folder: the folder of this run
        around: holds the folders of the branches
        targets: boards of interest. Other folders are read only if one of
            these is not in the first

    Returns:
        records of each folder, those of `folder` last
    """
    records = read(folder)
    if {record.target for record in records}.issuperset(targets):
        return records
    others: List[Tuple[float, str]] = []
    with contextlib.suppress(OSError):
        for entry in [around, *(item.path for item in os.scandir(around))]:
            with contextlib.suppress(OSError):
                info = os.stat(os.path.join(entry, NAME))
                if not os.path.exists(folder) or not os.path.samefile(entry, folder):
                    others.append((info.st_mtime, entry))
    newest = sorted(others)[-MAX_FILES:]
    return [record for _, entry in newest for record in read(entry)] + records


def read_below(folder: str) -> List[Record]:
    """Return all durations in an output folder, in the same order on any machine."""
    names: List[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder))
    return [record for name in ['', *names] for record in read(os.path.join(folder, name))]


def add(folder: str, source: str) -> None:
    """Add the durations that another folder of results has.

    Raises:
        OSError: they cannot be written
    """
    records = read(source)
    if records:
        path = os.path.join(folder, NAME)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, b''.join(map(_format, _newest([*read(folder), *records]))))


def by_commit(records: Iterable[Record]) -> Dict[str, Dict[str, float]]:
    """Return the seconds of each result: commit to board to its newest build."""
    out: Dict[str, Dict[str, float]] = {}
    for record in records:
        out.setdefault(record.commit, {})[record.target] = record.seconds
    return out


def _newest(records: Sequence[Record]) -> List[Record]:
    """Return the records that a file is to keep: the last of each result"""
    seen: Set[Tuple[str, str]] = set()
    keep: List[Record] = []
    for record in reversed(records):
        if (record.commit, record.target) not in seen:
            seen.add((record.commit, record.target))
            keep.append(record)
    return keep[:MAX_LINES][::-1]


class Recorder:
    """Adds the results of a run, as a listener of the loop's."""

    def __init__(self, folder: str, commits: Optional[Sequence[Commit]], partial: bool,
                 now: Optional[float] = None) -> None:
        """Open the file, and shorten it when it has grown too long.

        Args:
            folder: the folder of the results, which this run has locked
            commits: commits of the plan; None for the current source
            partial: what is built is no whole board, see PART
            now: seconds since 1970, None for the clock
        """
        self._commits = commits
        self._partial = partial
        self._run = int(time.time() if now is None else now)
        # (worker, board) that came from there before
        self._begun: Set[Tuple[str, str]] = set()
        self._file: Optional[BinaryIO] = None
        path = os.path.join(folder, NAME)
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._shorten(folder, path)
            self._file = open(path, 'a+b', buffering=0)  # noqa: SIM115
            # If the last run was killed in the middle of a line, that goes
            start = max(0, self._file.seek(0, os.SEEK_END) - 1000)
            self._file.seek(start)
            tail = self._file.read(1000)
            if not tail.endswith(b'\n'):
                self._file.truncate(start + tail.rfind(b'\n') + 1)

    @staticmethod
    def _shorten(folder: str, path: str) -> None:
        """Write the file anew when most of it is of no use"""
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            return
        if size < 40 * MAX_LINES:
            return
        records = read(folder)
        keep = _newest(records)
        if size <= MAX_BYTES and len(records) < 1.5 * len(keep):
            return
        replace_file(path, b''.join(map(_format, keep)))

    def _put(self, data: bytes) -> None:
        """Write a line in one piece"""
        if self._file:
            try:
                self._file.write(data)
            except OSError:
                # A full disk is told where results are written
                self.close()

    def __call__(self, event: Event, fate: str) -> None:
        """Take an event of the loop's.

        Args:
            event: what happened
            fate: why a result was not kept, '' when it was
        """
        if not isinstance(event, Built):
            return
        outcome = event.outcome
        key = event.worker, outcome.target
        first = key not in self._begun
        self._begun.add(key)
        if fate or outcome.skipped or outcome.infra:
            return
        commit = self._commits[outcome.commit_upto].hash if self._commits else CURRENT
        kind = (PART if self._partial else
                FULL if first or outcome.reconfigured else MORE)
        self._put(_format(Record(commit, outcome.target, outcome.seconds, kind, event.worker,
                                 self._run)))

    def close(self) -> None:
        """End the file."""
        if self._file:
            self._file.close()
            self._file = None
