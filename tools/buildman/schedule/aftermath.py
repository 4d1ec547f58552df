# SPDX-License-Identifier: GPL-2.0+
"""What became of machines during a run, told in one paragraph at its end.

Plain data: who was lost or put aside, when and why, and which others built
what those had left.
"""

from __future__ import annotations

import dataclasses
from typing import Dict, Iterable, List, Set

from buildman.schedule.progress import format_duration

# Names that a line lists before it only counts
MAX_NAMES = 8


@dataclasses.dataclass
class _Mishap:
    """Something that happened to a machine; `left`: boards to whom built them then"""

    name: str
    seconds: float
    what: str
    left: Dict[str, Set[str]]


class Aftermath:
    """Gathers what the builder loop notes; times are seconds since the run began."""

    def __init__(self) -> None:
        self._mishaps: List[_Mishap] = []
        self._again: Dict[str, Set[str]] = {}

    def note(self, name: str, seconds: float, what: str, boards: Iterable[str] = ()) -> None:
        """Note that something happened to a machine.

        Args:
            name: of the machine, '' for this one
            seconds: when
            what: e.g. 'was lost: no sign of life'
            boards: what it had in hand and nobody else had
        """
        self._mishaps.append(_Mishap(name, seconds, what, {board: set() for board in boards}))

    def again(self, target: str) -> None:
        """Note that a board is tried again, as a machine is to blame for its failure."""
        self._again.setdefault(target, set())

    def built(self, name: str, target: str) -> None:
        """Note who built a board at some commit."""
        for mishap in self._mishaps:
            if target in mishap.left:
                mishap.left[target].add(name)
        if target in self._again:
            self._again[target].add(name)

    def lines(self) -> List[str]:
        """Return the paragraph, [] when nothing happened."""
        out = []
        for mishap in self._mishaps:
            text = (f"  {mishap.name or 'local'} {mishap.what} (after "
                    f'{format_duration(mishap.seconds)})')
            if mishap.left:
                text += f'; {_where(mishap.left)}'
            out.append(text)
        if self._again:
            out.append(f'  tried again after a failure of a machine: {_where(self._again)}')
        return ['What happened to machines:', *out] if out else []


def _where(left: Dict[str, Set[str]]) -> str:
    """Return which boards were built by whom, those together that went the same way"""
    ways: Dict[str, List[str]] = {}
    for target, names in left.items():
        way = ', '.join(sorted(name or 'local' for name in names))
        ways.setdefault(way, []).append(target)
    return '; '.join(f'{_names(targets)} {"built on " + way if way else "not built"}'
                     for way, targets in ways.items())


def _names(targets: List[str]) -> str:
    """Return names, or how many there are when that is too many"""
    if len(targets) <= MAX_NAMES:
        return ' '.join(targets)
    return f"{' '.join(targets[:MAX_NAMES])} and {len(targets) - MAX_NAMES} more"
