# SPDX-License-Identifier: GPL-2.0+
"""Which commits of a board are to be built, where only those are wanted that change it: pure.

First the ends of the series; then, between two results that are not alike and have
others between them, the one in the middle. As all boards have the same middles, those
that change at about the same place are built at the same commits. Where it is known at
which commits anything changed that a board reads, it is the middle of those.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from buildman.core.outcome import Outcome
from buildman.core.plan import Commit
from buildman.results.hunted import Change, Found, Result, Signature, sign


class Hunt:
    """What is known of each board, and what follows from it.

    Attributes:
        steps: returns at which of some commits (indexes) something may differ for a board
            from the one before; none when that is not known. The first and the last of
            them have results.
    """

    def __init__(self, commits: Sequence[Commit], selected: Sequence[int],
                 read: Callable[[int, str], Optional[Result]], slack: float = math.inf,
                 filters: Tuple[bool, bool] = (False, False)) -> None:
        """Begin with nothing.

        Args:
            commits: those of the branch
            selected: indexes of those to hunt in, ascending
            read: returns a result that is there, for an index and a board
            slack: so many bytes may an image grow or shrink; math.inf: sizes do not count
            filters: whether to leave out device-tree and migration warnings
        """
        self._commits = commits
        self._selected = selected
        self._read = read
        self._slack = slack
        self._filters = filters
        # Board -> place in `selected` -> result
        self._known: Dict[str, Dict[int, Signature]] = {}
        self.steps: Callable[[str, Sequence[int]], Sequence[int]] = lambda target, uptos: ()
        self._places = {upto: place for place, upto in enumerate(selected)}

    def learn(self, outcome: Outcome) -> None:
        """Take note of a result."""
        self._note(outcome.target, outcome.commit_upto, (
            outcome.return_code, outcome.stderr.encode('utf-8', 'surrogateescape'),
            outcome.sizes.encode()))

    def recall(self, target: str, upto: int) -> None:
        """Take note of a result of an earlier run, if it is there."""
        result = self._read(upto, target)
        if result:
            self._note(target, upto, result)

    def _note(self, target: str, upto: int, result: Result) -> None:
        self._known.setdefault(target, {})[self._places[upto]] = sign(*result, *self._filters)

    def wanted(self, target: str) -> Tuple[int, ...]:
        """Return the commits that a board is to be built at next, () when it is through."""
        known = self._known.get(target, {})
        last = len(self._selected) - 1
        places = [place for place in dict.fromkeys((0, last)) if place not in known] or [
            self._middle(target, low, high) for low, high in self._gaps(target)
            if self._change(target, low, high)]
        return tuple(self._selected[place] for place in places)

    def _middle(self, target: str, low: int, high: int) -> int:
        """Return the place between two others that tells most"""
        steps = self.steps(target, self._selected[low:high + 1])
        if not steps:
            return (low + high) // 2
        place = self._places[steps[len(steps) // 2]]
        return place - (place == high)

    def _pairs(self, target: str) -> List[Tuple[int, int]]:
        """Return each place with a result, with the next one"""
        places = sorted(self._known.get(target, {}))
        return list(zip(places, places[1:]))

    def _gaps(self, target: str) -> List[Tuple[int, int]]:
        """Return the places with results that have places without one between them"""
        return [(low, high) for low, high in self._pairs(target) if high - low > 1]

    def _change(self, target: str, low: int, high: int) -> Change:
        """Return what changes from one place to another one"""
        known, upto = self._known[target], self._selected[high]
        return Change(target, upto + 1, self._commits[upto], self._selected[low] + 1,
                      known[low], known[high], high == low + 1, self._slack)

    def found(self, targets: Iterable[str]) -> Found:
        """Return what is known now.

        Args:
            targets: all boards, in their order
        """
        names = list(targets)
        changes = [change for target in names for change in
                   (self._change(target, *pair) for pair in self._pairs(target)) if change]
        inferred = {target: {self._selected[place]: self._known[target][low].status
                             for low, high in self._gaps(target)
                             if not self._change(target, low, high)
                             for place in range(low + 1, high)} for target in names}
        return Found(tuple(changes), inferred,
                     sum(len(self._known.get(target, ())) for target in names),
                     len(names) * len(self._selected))
