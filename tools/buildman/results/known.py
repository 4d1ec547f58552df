# SPDX-License-Identifier: GPL-2.0+
"""What a run found out of complete results, so that the next one need not read them again.

A run begins with a look at all results that are there: 30,000 of a long series of all
boards, of each of which two or three files are read. `OUT/BRANCH/.bm-work/known` holds
what was in them, with the time at which `done` changed last (ctime of stat(2)). That one
is put in place by rename as the last file of a result, whoever writes it, and no program
can set its ctime. So what has the same time is the same result; any other is read. So is
one that was new when it was read, since two may be written within one tick of the clock
of a file system. The file may be removed at any time.

It is in JSON: `format`, a number; `kinds`, a list of what there is to know, see Glance;
`boards`, a list of names; `commits`, folder of a commit to two lists with a number for
each board, the time in nanoseconds since the epoch (0: no result) and its kind.
"""

from __future__ import annotations

import json
import time
from typing import Dict, Iterable, List, Mapping, NamedTuple, Tuple

from buildman.core.files import replace_file

_FORMAT = 1

# Nanoseconds within which a result counts as new: file systems exist that keep times to
# the two seconds
NEW = 2_000_000_000


class Glance(NamedTuple):
    """What a run has to know of a complete result.

    Attributes:
        code: make's exit status
        warned: make wrote to stderr
        lacking: it says that there was no compiler
        settings: those that made it, see `results.made_with`; '' if it does not tell
    """

    code: int = 0
    warned: bool = False
    lacking: bool = False
    settings: str = ''


# Time of `done`, and what is to be known then
Entry = Tuple[int, Glance]


class Known:
    """What is known of the results of a tree."""

    def __init__(self, path: str) -> None:
        """Name the file; it is read when something is asked for, and need not be there."""
        self._path = path
        self._commits: Dict[str, Dict[str, Entry]] = {}
        self._read = False
        self._changed = False

    def of(self, folder: str) -> Mapping[str, Entry]:
        """Return what is known of the boards of a commit.

        Args:
            folder: name of the commit's folder
        """
        if not self._read:
            self._read = True
            self._commits = _load(self._path)
        return self._commits.get(folder, {})

    def learn(self, folder: str, found: Mapping[str, Entry]) -> None:
        """Note what was found of some boards of a commit.

        Args:
            folder: name of the commit's folder
            found: board to what was read now
        """
        upto = time.time_ns() - NEW
        new = {board: entry for board, entry in found.items() if entry[0] < upto}
        if new:
            self._changed = True
            self._commits[folder] = {**self.of(folder), **new}

    def save(self, folders: Iterable[str]) -> None:
        """Write the file, if there is anything new.

        Args:
            folders: commits that there are; what is known of others goes

        Raises:
            OSError: it cannot be written
        """
        if not self._changed:
            return
        commits = {name: self._commits[name] for name in folders if name in self._commits}
        boards = sorted({board for known in commits.values() for board in known})
        kinds: Dict[Glance, int] = {}
        none = (0, Glance())
        out: Dict[str, Tuple[List[int], List[int]]] = {}
        for name, known in commits.items():
            entries = [known.get(board, none) for board in boards]
            out[name] = ([stamp for stamp, _ in entries],
                         [kinds.setdefault(glance, len(kinds)) for _, glance in entries])
        replace_file(self._path, json.dumps(
            {'format': _FORMAT, 'kinds': list(kinds), 'boards': boards, 'commits': out},
            separators=(',', ':')).encode())
        self._changed = False


def _load(path: str) -> Dict[str, Dict[str, Entry]]:
    """Return what a file holds: folder of a commit to board to what is known; {} if it is odd"""
    try:
        with open(path, 'rb') as inf:
            data = json.load(inf)
        if data['format'] != _FORMAT:
            return {}
        kinds = [Glance(int(code), bool(warned), bool(lacking), str(settings))
                 for code, warned, lacking, settings in data['kinds']]
        # No file is of the time 0. No loop: it is a lot
        return {name: dict(zip(data['boards'], zip(stamps, map(kinds.__getitem__, numbers))))
                for name, (stamps, numbers) in data['commits'].items()}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
            RecursionError):
        return {}
