# SPDX-License-Identifier: GPL-2.0+
"""When boards will be finished, and so who is to have which: pure.

The longest board first is a good rule while all machines are alike. Where they
are not, a slow one that asks at the wrong moment gets the longest board and
holds up everything. So it is worked out who would finish each board first, the
longest ones before the others, with what each machine has in hand and how fast
it was so far; a machine for which that leaves nothing has nothing to do.

How fast a machine is, is what it tells (`told`) until results say otherwise.

What a board is expected to cost comes from how long builds took. Durations of different
runs and machines cannot be compared as they are: one machine is faster, one run had more
boards at once. So they are put on one scale first. Within a run, boards go to whichever
machine is free; so what the boards of an arch take on one machine, against what they take
on all, tells how slow it is. Of two runs, those boards tell that were built in both.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
from typing import (
    Callable,
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from buildman.core.plan import Board
from buildman.results.durations import FULL, MORE, Record

# So many seconds of builds weigh as much as what a machine tells of its speed
PRIOR = 300.0

# And so many as it being true that costs are seconds, if they are guessed
GUESSED = 1.0

# After so much of what was shared was handed out, it is shared anew
REFRESH = 1 / 20

# A board is urgent that takes more than this share of the time that all will take
URGENT = 0.4

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


class Shares:
    """Who is to have which boards, as it looked at one moment."""

    def __init__(self, shares: Mapping[str, Iterable[str]], made: float) -> None:
        """Take over what was worked out.

        Args:
            shares: worker -> its boards, in their order
            made: when
        """
        self.made = made
        self._shares = {name: collections.deque(share) for name, share in shares.items()}
        self._had = {name for name, share in self._shares.items() if share}
        self._left = 1 + int(REFRESH * sum(len(share) for share in self._shares.values()))

    @property
    def stale(self) -> bool:
        """Whether it is time to look again."""
        return self._left <= 0

    def take(self, name: str, fits: Callable[[str], bool]) -> str:
        """Return the next board of a worker that still fits, '' when there is none."""
        share = self._shares.get(name)
        while share:
            target = share.popleft()
            if fits(target):
                self._left -= 1
                return target
        return ''

    def outrun(self, name: str) -> bool:
        """Return whether a worker has had all that it was to have."""
        return name in self._had and not self._shares[name]


@dataclasses.dataclass
class _Pace:
    """What is known of the speed of a worker's slots.

    Attributes:
        slots: how many there are
        told: speed of one of them, in any unit that is the same for all
        cost: of what it has built
        seconds: that its slots took for that
        rate: cost that one slot gets done in a second
        begun: boards that it has begun -> when, and their cost then
        ends: when they should be finished
        ready: when it can begin, for one that is to come
    """

    slots: int
    told: float
    cost: float = 0.0
    seconds: float = 0.0
    rate: float = 1.0
    begun: Dict[str, Tuple[float, float]] = dataclasses.field(default_factory=dict)
    ends: Dict[str, float] = dataclasses.field(default_factory=dict)
    ready: Optional[float] = None

    def foresee(self, target: str) -> None:
        """Work out when a board should be finished, as things are now"""
        begun, cost = self.begun[target]
        self.ends[target] = begun + cost / self.rate


class Forecast:
    """The workers, how fast they are, and when what they have begun will be finished."""

    def __init__(self, clock: Callable[[], float], guessed: bool = False) -> None:
        """Begin without workers.

        Args:
            clock: returns seconds
            guessed: costs are good for comparing boards only
        """
        self._clock = clock
        self._guessed = guessed
        self._trust = GUESSED if guessed else PRIOR
        self._paces: Dict[str, _Pace] = {}

    def now(self) -> float:
        """Return the time."""
        return self._clock()

    def add(self, name: str, slots: int, speed: float, coming: float = 0.0) -> None:
        """Add a worker, or one that is now there after it was to come.

        Args:
            name: its name
            slots: how many boards it builds at once
            speed: of all its slots together, in any unit
            coming: seconds until it is there
        """
        self._paces[name] = _Pace(slots, max(speed, 1e-9) / slots,
                                  ready=self._clock() + coming if coming else None)
        self.refresh()

    def remove(self, name: str) -> None:
        """Forget a worker."""
        if self._paces.pop(name, None):
            self.refresh()

    def learn(self, name: str, cost: float, seconds: float) -> None:
        """Take note of how long a build took; refresh() draws conclusions."""
        if cost > 0 and seconds > 0:
            self._paces[name].cost += cost
            self._paces[name].seconds += seconds

    def refresh(self) -> None:
        """Work out how fast all workers are, from all that is known."""
        paces = list(self._paces.values())
        slots = sum(pace.slots for pace in paces)
        if not slots:
            return
        usual = sum(pace.told * pace.slots for pace in paces) / slots
        seconds = sum(pace.seconds * pace.told / usual for pace in paces)
        cost = sum(pace.cost for pace in paces)
        scale = (self._trust + cost) / (self._trust + seconds)
        for pace in paces:
            prior = scale * pace.told / usual
            pace.rate = (PRIOR * prior + pace.cost) / (PRIOR + pace.seconds)
            if self._guessed:
                # It is not before something is built that seconds can be told
                for target in pace.begun:
                    pace.foresee(target)

    def urgent(self, longest: float, total: float) -> bool:
        """Return whether a board would hold up everything if it were not among the next.

        Args:
            longest: its cost
            total: that of all that is to be handed out
        """
        rates = [(pace.rate, pace.slots) for pace in self._paces.values()]
        fastest = max((rate for rate, _ in rates), default=1.0)
        if sum(slots for _, slots in rates) < 2:
            return False
        return longest * sum(rate * slots for rate, slots in rates) > URGENT * total * fastest

    def begin(self, name: str, target: str, cost: float) -> None:
        """Take note that a worker has so much of a board before it, as of now."""
        self._paces[name].begun[target] = self._clock(), cost
        self._paces[name].foresee(target)

    def end(self, name: str, target: str) -> None:
        """Take note that a worker has nothing more to do with a board."""
        if name in self._paces:
            for known in (self._paces[name].begun, self._paces[name].ends):
                known.pop(target, None)

    def _expected(self, pace: _Pace, now: float) -> List[float]:
        """Return when the slots of a worker should be free, the first one first.

        What is late by some time is taken to need that time again.
        """
        ends = [when if when > now else 2 * now - when for when in pace.ends.values()]
        free = now if pace.ready is None else max(pace.ready, 2 * now - pace.ready)
        return sorted([*ends, *[free] * (pace.slots - len(ends))])

    def free(self, name: str) -> float:
        """Return when a worker can begin with another board, in seconds as now() counts."""
        return self._expected(self._paces[name], self._clock())[0]

    def seconds(self, name: str, cost: float) -> float:
        """Return the seconds that something of a cost takes in a slot of a worker."""
        return cost / self._paces[name].rate

    def when(self, name: str, target: str) -> float:
        """Return when a worker should be through with a board that it has begun, as free()."""
        now = self._clock()
        end = self._paces[name].ends[target]
        return end if end > now else 2 * now - end

    def share(self, boards: Iterable[Tuple[str, float, Optional[Collection[str]]]],
             waiting: Mapping[str, Collection[float]]) -> Shares:
        """Share boards so that each is finished as soon as it can be.

        Args:
            boards: (board, cost, workers that may build it or None for all), the
                longest first
            waiting: worker -> costs of what it has in hand and has not begun;
                only these workers get anything
        """
        self.refresh()
        now = self._clock()
        slots: Dict[str, List[float]] = {}
        rates = {name: self._paces[name].rate for name in waiting}
        for name, costs in waiting.items():
            slots[name] = self._expected(self._paces[name], now)
            for cost in costs:
                heapq.heapreplace(slots[name], slots[name][0] + cost / rates[name])
        shares: Dict[str, List[str]] = {name: [] for name in waiting}
        for target, cost, able in boards:
            best, best_end = '', 0.0
            found = False
            for name, rate in rates.items():
                if able is None or name in able:
                    end = slots[name][0] + cost / rate
                    if not found or end < best_end:
                        best, best_end, found = name, end, True
            if found:
                heapq.heapreplace(slots[best], best_end)
                shares[best].append(target)
        return Shares(shares, now)


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


def guessed(first: Mapping[str, float]) -> Dict[str, Cost]:
    """Return what boards cost of which first builds are all that can be told."""
    return {target: Cost(cost, MORE_SHARE * cost) for target, cost in first.items()}


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
