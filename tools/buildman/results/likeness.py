# SPDX-License-Identifier: GPL-2.0+
"""Which builds fail or warn alike, and at which commit that began: pure functions.

Complaints are alike if their texts are the same but for paths and numbers, in whichever
file they are. Those that the very same builds have are one group.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from buildman.results.complaints import Complaint

# What a group tells of: a build that failed, a warning, binaries that the source lacks
FAILED, WARNED, BLOBS = range(3)

# Complaints of a build that are looked at, characters of each, complaints that a group shows
_MOST = 12
_CHARS = 400
_ALL_CHARS = 2000
_SHOWN = 20

_PATH = re.compile(r'(?:[\w.+@~-]*/)+[\w.+@~-]*'
                   r'|\b[\w+-]+\.(?:[chSsoaly]|so|dts[io]?|dtb|bfd|py|lds|mk|cfg|config|bin|im[gx])\b')
_NUMBER = re.compile(r'0x[0-9a-fA-F]+|(?<![A-Za-z_\d])\d+')

# How complaints are told apart: what it tells of, and the text that like ones share
Key = Tuple[int, str]


def likeness(text: str) -> str:
    """Return what is left of a text without paths and numbers."""
    return _NUMBER.sub('#', _PATH.sub('…', text[:_CHARS]))


def headlines(said: Sequence[Complaint]) -> Dict[Key, Tuple[str, str]]:
    """Return what is wrong with a build, the clearest first: key to a line and all lines."""
    found: Dict[Key, Tuple[str, str]] = {}
    for item in sorted(said, key=lambda item: (not item.error, not item.line)):
        kind = BLOBS if item.blob else FAILED if item.error else WARNED
        line = next((line for line in item.said.split('\n') if item.text in line), item.text)
        found.setdefault((kind, likeness(item.text)),
                         (line.strip()[:_CHARS], item.said[:_ALL_CHARS]))
        if len(found) == _MOST:
            break
    return found


class _Group:
    """One complaint, and where it is: board, first and last step of each run of commits"""

    __slots__ = ('mixed', 'runs', 'text')

    def __init__(self, text: Tuple[str, str]) -> None:
        self.text = text
        self.mixed = False
        self.runs: List[Tuple[int, int, int]] = []


class Likeness:
    """Gathers the groups commit by commit."""

    def __init__(self) -> None:
        self._groups: Dict[Key, _Group] = {}
        # Board to the keys that it has, and since which step
        self._open: Dict[int, Dict[Key, int]] = {}
        self._step = -1

    def advance(self, said: Mapping[int, Sequence[Complaint]]) -> None:
        """Take the next commit.

        Args:
            said: boards that say or do something else than at the commit before, and what
        """
        self._step += 1
        for num in sorted(said):
            now = headlines(said[num])
            was = self._open.get(num, {})
            self._close(num, {key: since for key, since in was.items() if key not in now},
                        self._step - 1)
            self._open[num] = {key: was.get(key, self._step) for key in now}
            for key, text in now.items():
                group = self._groups.setdefault(key, _Group(text))
                group.mixed = group.mixed or group.text[0] != text[0]
                group.text = text
            if not now:
                del self._open[num]

    def _close(self, num: int, keys: Dict[Key, int], last: int) -> None:
        for key, since in keys.items():
            self._groups[key].runs.append((num, since, last))

    def end(self) -> List[Dict[str, Any]]:
        """Return the groups: those that began last first, then those of most boards.

        Returns:
            for each `kind`, `lines` (the newest of each complaint), `said` (with all that
            belongs to them), `more` (complaints left out), `mixed` (other paths or numbers
            occur) and `runs` (board, first and last step, flat)
        """
        for num, keys in self._open.items():
            self._close(num, keys, self._step)
        self._open = {}
        alike: Dict[Tuple[Any, ...], List[_Group]] = {}
        for (kind, _), group in self._groups.items():
            group.runs.sort()
            alike.setdefault((kind, *group.runs), []).append(group)
        out = []
        for (kind, *runs), groups in alike.items():
            out.append({'kind': kind, 'lines': [group.text[0] for group in groups[:_SHOWN]],
                        'said': [group.text[1] for group in groups[:_SHOWN]],
                        'more': max(0, len(groups) - _SHOWN),
                        'mixed': any(group.mixed for group in groups),
                        'runs': [num for run in runs for num in run]})
        out.sort(key=lambda item: (-min(item['runs'][1::3]), item['kind'], -len(item['runs'])))
        return out
