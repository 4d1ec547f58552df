# SPDX-License-Identifier: GPL-2.0+
"""What building a board is expected to cost, from how long builds took: pure.

Durations of different runs and machines cannot be compared as they are: one
machine is faster, one run had more boards at once. So they are put on one scale
first. Within a run, boards go to whichever machine is free; so what the boards
of an arch take on one machine, against what they take on all, tells how slow it
is. Of two runs, those boards tell that were built in both.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from buildman.core.plan import Board
from buildman.results.durations import FULL, MORE, Record

# Share of a full build that the next commit takes, where nothing is known. With
# U-Boot 2023.01, qemu_arm and qemu_arm64, it was 0.06 (a source file in lib) to
# 0.24 (a header that many files include)
MORE_SHARE = 0.2

# So many results of a machine tell its speed; it may be chance with fewer
MIN_RESULTS = 3

# So many of the newest durations of a board count; of further commits, so many runs
KEEP = 3

# Board and kind of build to seconds
_Times = Dict[Tuple[str, str], List[float]]


def _median(values: Iterable[float]) -> float:
    """Return the middle one, or the lower one of two (the module statistics loads slowly)"""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


class Cost(NamedTuple):
    """What a board costs, in seconds of a typical machine.

    Attributes:
        first: the first commit of a run
        more: each further commit
    """

    first: float
    more: float

    def of(self, commits: int) -> float:
        """Return the cost of some commits."""
        return self.first + self.more * (commits - 1) if commits else 0.0


def expect(records: Iterable[Record], boards: Sequence[Board]) -> Dict[str, Cost]:
    """Return what each board is expected to cost.

    Args:
        records: earlier builds, the oldest first within each run
        boards: the boards to be built

    Returns:
        the cost of each; nothing at all when there is nothing to go by
    """
    archs = {board.target: board.arch for board in boards}
    runs: Dict[int, List[Record]] = {}
    for record in records:
        if record.kind in (FULL, MORE) and record.target in archs:
            runs.setdefault(record.run, []).append(record)
    times: _Times = {}
    for _, run in sorted(runs.items(), reverse=True):
        _merge(times, _level(run, archs))
    return _complete(_costs(times), boards)


def _level(run: Sequence[Record], archs: Mapping[str, str]) -> _Times:
    """Return the durations of a run, as if one machine had built all"""
    factors: Dict[str, float] = {}
    if len({record.machine for record in run}) > 1:
        groups: Dict[Tuple[str, str], List[float]] = {}
        for record in run:
            groups.setdefault((archs[record.target], record.kind), []).append(record.seconds)
        middle = {key: _median(values) for key, values in groups.items()}
        ratios: Dict[str, List[float]] = {}
        for record in run:
            usual = middle[archs[record.target], record.kind]
            if usual > 0:
                ratios.setdefault(record.machine, []).append(record.seconds / usual)
        factors = {name: _median(values) for name, values in ratios.items()
                   if len(values) >= MIN_RESULTS}
    out: _Times = {}
    for record in reversed(run):
        factor = factors.get(record.machine, 1.0)
        out.setdefault((record.target, record.kind), []).append(
            record.seconds / factor if factor > 0 else record.seconds)
    # What the further commits of a series cost together is what counts: their mean,
    # as one that changes a header may cost as much as all others
    for key, values in out.items():
        if key[1] == MORE:
            out[key] = [sum(values) / len(values)]
    return out


def _merge(times: _Times, older: _Times) -> None:
    """Add the durations of an older run, on the scale of those that are there"""
    ratios = [_median(values) / _median(times[key])
              for key, values in older.items()
              if key in times and _median(times[key]) > 0]
    factor = _median(ratios) if len(ratios) >= MIN_RESULTS else 1.0
    for key, values in older.items():
        known = times.setdefault(key, [])
        known += [value / factor if factor > 0 else value
                  for value in values[:KEEP - len(known)]]


def _costs(times: _Times) -> Dict[str, Cost]:
    """Return the cost of each board of which something is known"""
    found = {key: _median(values[:KEEP]) for key, values in times.items()}
    shares = [more / found[target, FULL] for (target, kind), more in found.items()
              if kind == MORE and found.get((target, FULL), 0.0) > 0]
    share = min(1.0, _median(shares)) if shares else MORE_SHARE
    out: Dict[str, Cost] = {}
    for target in sorted({target for target, _ in found}):
        more = found.get((target, MORE))
        first = found.get((target, FULL))
        if first is None:
            assert more is not None
            first = more / share if share > 0 else more
        out[target] = Cost(first, first * share if more is None else more)
    return out


def _complete(costs: Dict[str, Cost], boards: Sequence[Board]) -> Dict[str, Cost]:
    """Add the boards of which nothing is known: they are like their relatives"""
    if not costs:
        return {}
    levels: List[Dict[Tuple[str, ...], List[Cost]]] = [{}, {}, {}, {}, {}]
    for board in boards:
        if board.target in costs:
            for level, key in zip(levels, _relations(board)):
                level.setdefault(key, []).append(costs[board.target])
    out = dict(costs)
    for board in boards:
        if board.target not in out:
            group = next(level[key] for level, key in zip(levels, _relations(board))
                         if key in level)
            out[board.target] = Cost(_median(cost.first for cost in group),
                                     _median(cost.more for cost in group))
    return out


def _relations(board: Board) -> List[Tuple[str, ...]]:
    """Return what a board has in common with others, the closest first"""
    return [(board.arch, 'base', board.base or board.target),
            (board.arch, 'soc', board.soc or board.target),
            (board.arch, 'vendor', board.vendor or board.target),
            (board.arch,), ()]
