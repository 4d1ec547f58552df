# SPDX-License-Identifier: GPL-2.0+
"""How long a run will still take.

What is left is played through: each slot goes on with what it has, and boards go to
who is expected to be through with them first. What boards cost is known from earlier
runs, or it is all the same; either may be wrong, so it is put right by what this run
has shown: how fast each worker is, what each commit costs against a board's first
build, and how far first builds are from what was expected. These deviations vary, and
a long build at the end holds up everything. So boards of which nothing is known yet
get those of the boards that are built, the small and the large ones in proportion;
that is done several times, as it matters which board gets which, and the middle of
what comes out is told.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import math
import time
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from buildman.core.events import BoardDone, Built, Event, Started, WorkerGone
from buildman.schedule.forecast import MORE_SHARE
from buildman.schedule.ledger import Ledger, WorkerState

# So many first builds of a worker weigh as much as what it tells of its speed
PRIOR = 10

# What is taken to be left of a build that has taken longer than any before, in
# proportion to what it has taken
LATE = 0.3

# How often what is left is played through at most; with many boards less often, as
# chance plays a smaller role and it takes its time
PLAYS, EASY = 15, 600

# The fractional parts of its multiples are spread evenly, however many there are
GOLDEN = 0.6180339887

# What would take longer in seconds is nonsense: a machine may tell what it likes
LONGEST = 1e9

# An estimate may take this share of a processor, and is made but once a second
SHARE, EACH = 1 / 300, 1.0


@dataclasses.dataclass
class _Sum:
    """Costs that were expected, of so many builds, and what they really were"""

    expected: float = 0.0
    real: float = 0.0
    count: int = 0

    def add(self, expected: float, real: float) -> None:
        """Take note of a build"""
        self.expected += expected
        self.real += real
        self.count += 1

    @property
    def mean(self) -> float:
        """Return what is expected of a build"""
        return self.expected / self.count if self.count else 1.0

    def ratio(self, usual: float, weight: float) -> float:
        """Return real against expected, where `weight` speaks for what is usual"""
        return (self.real + usual * weight) / (self.expected + weight)


class Costs:
    """What builds cost, as far as earlier runs and this one tell.

    A cost is in seconds of a typical worker's slot, or in any other unit.

    Attributes:
        known: there are costs to go by
        in_seconds: they can be believed before anything is built
        speeds: how much cost each worker gets done in a second in each slot
    """

    def __init__(self, ledger: Ledger) -> None:
        """Begin with what the ledger knows; it is read only."""
        self._ledger = ledger
        known = [board.task.cost(1, True) for board in ledger.boards.values()
                 if board.task.weight]
        self.known = bool(known)
        self.in_seconds = self.known and not any(
            board.task.guessed for board in ledger.boards.values())
        self._unit = sum(known) / len(known) if known else 1.0
        self.speeds: Dict[str, float] = {}
        self._by_worker: Dict[str, _Sum] = {}
        self._by_commit: Dict[int, _Sum] = {}
        self._all_more = _Sum()
        # Board -> (commit, expected, real cost) of what was built after its first build
        self._by_board: Dict[str, List[Tuple[int, float, float]]] = {}
        # Board -> (worker, expected cost, seconds) of its first build
        self._first: Dict[str, Tuple[str, float, float]] = {}

    def first_built(self, name: str, target: str, seconds: float) -> None:
        """Take note of the first build of a board on a worker."""
        cost = self.first(target)
        self._by_worker.setdefault(name, _Sum()).add(cost, seconds)
        self._first[target] = name, cost, seconds
        self._by_board.pop(target, None)

    def more_built(self, name: str, target: str, upto: int, seconds: float) -> None:
        """Take note of the build of a further commit."""
        cost = self._more(target)
        real = seconds * self.speed(name)
        self._by_board.setdefault(target, []).append((upto, cost, real))
        self._by_commit.setdefault(upto, _Sum()).add(cost, real)
        self._all_more.add(cost, real)

    def speed(self, name: str) -> float:
        """Return how much cost a worker gets done in a second in one slot."""
        if name not in self.speeds:
            self.find_speeds()
        return self.speeds.get(name, 1.0)

    def find_speeds(self) -> None:
        """Find out how fast each worker is, from what it tells and what it has built."""
        told = {worker.name: max(worker.speed / worker.slots, 1e-9) for worker in
                (*self._ledger.coming.values(), *self._ledger.workers.values())}
        usual = sum(told.values()) / len(told) if told else 1.0
        every = _Sum()
        for name, total in self._by_worker.items():
            every.expected += total.expected
            every.real += total.real * told.get(name, usual) / usual
            every.count += total.count
        scale = every.expected / every.real if every.real else 1.0
        prior = PRIOR * every.real / every.count if every.real else 1.0
        for name, speed in told.items():
            total = self._by_worker.get(name, _Sum())
            self.speeds[name] = ((prior * scale * speed / usual + total.expected)
                                 / (prior + total.real))

    def deviation(self, target: str) -> float:
        """Return what a board's first build cost against what was expected; 0: unknown."""
        if target not in self._first:
            return 0.0
        name, cost, seconds = self._first[target]
        return seconds * self.speed(name) / cost

    def deviations(self) -> List[float]:
        """Return those of all boards that were built, the smallest first."""
        return sorted(map(self.deviation, self._first))

    def first(self, target: str) -> float:
        """Return what the first build of a board was expected to cost."""
        return self._ledger.boards[target].task.cost(1, True) or self._unit

    def _more(self, target: str) -> float:
        """Return what a further commit was expected to cost, its first build being known"""
        task = self._ledger.boards[target].task
        first = self.first(target)
        more = task.cost(2, True) - first if task.weight and len(task.commits) > 1 else first
        return more * (self.deviation(target) or 1.0)

    def _factor(self, upto: int) -> float:
        """Return what a commit costs against what was expected"""
        usual = self._all_more.ratio(1.0 if self.known else MORE_SHARE, 0.1 * self._unit)
        return self._by_commit.get(upto, _Sum()).ratio(usual, self._all_more.mean)

    def more(self, target: str) -> float:
        """Return what factors() is to be multiplied with, for a board whose first is built."""
        own = _Sum()
        for upto, cost, real in self._by_board.get(target, ()):
            own.add(cost * self._factor(upto), real)
        return self._more(target) * own.ratio(1.0, own.mean)

    def factors(self, commits: Iterable[int]) -> Dict[int, float]:
        """Return what commits cost against what was expected."""
        return {upto: self._factor(upto) for upto in commits}


class Estimate:
    """Tells how long it will take, as a listener of the loop's."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            ledger: who has what; is read only
            clock: returns seconds
        """
        self._ledger = ledger
        self._clock = clock
        self._costs = Costs(ledger)
        # Worker and board -> when its current build began
        self._since: Dict[Tuple[str, str], float] = {}
        # Those of which the first build is done
        self._advanced: Set[Tuple[str, str]] = set()
        self._end: Optional[float] = None
        self._next = 0.0

    def __call__(self, event: Event, fate: str) -> None:
        """Take an event of the loop's, see Loop.add_listener()."""
        if isinstance(event, Started):
            if self._ledger.attempt(event.worker, event.target):
                self._since[event.worker, event.target] = self._clock()
        elif isinstance(event, BoardDone):
            self._drop([(event.worker, event.target)])
        elif isinstance(event, WorkerGone):
            self._drop([key for key in self._since if key[0] == event.worker])
        elif isinstance(event, Built):
            outcome = event.outcome
            key = event.worker, outcome.target
            if fate or outcome.infra:
                return
            self._since[key] = self._clock()
            if key in self._advanced or outcome.skipped:
                self._costs.more_built(*key, outcome.commit_upto,
                                       0.0 if outcome.skipped else outcome.seconds)
            else:
                self._advanced.add(key)
                self._costs.first_built(*key, outcome.seconds)

    def _drop(self, keys: Iterable[Tuple[str, str]]) -> None:
        """Forget boards that are not in hand any more"""
        for key in keys:
            self._since.pop(key, None)
            self._advanced.discard(key)

    def left(self) -> Optional[float]:
        """Return for how many seconds the run will go on; None if nobody can tell."""
        now = self._clock()
        if now >= self._next:
            begun = time.thread_time()
            left = self._foresee(now)
            self._end = None if left is None or not left < LONGEST else now + left
            if left is not None:
                self._next = now + max(EACH, (time.thread_time() - begun) / SHARE)
        return None if self._end is None else max(0.0, self._end - now)

    def _foresee(self, now: float) -> Optional[float]:
        """Return for how long it will go on from now on, None if nobody can tell"""
        ledger, costs = self._ledger, self._costs
        workers = [worker for worker in (*ledger.workers.values(), *ledger.coming.values())
                   if worker.accepting or worker.owed]
        deviations = costs.deviations()
        if not workers or not (costs.in_seconds or deviations):
            return None
        costs.find_speeds()
        pool = [target for _, _, target in sorted(
            (-board.task.weight, board.order, target)
            for target, board in ledger.boards.items() if ledger.waiting(target))]
        factors = costs.factors({upto for board in ledger.boards.values() for upto in board.todo})
        count = max(1, min(PLAYS, PLAYS * EASY // (1 + len(pool) * len(workers))))
        return sorted(self._play(now, workers, pool, factors, deviations, number / count)
                      for number in range(count))[count // 2]

    def _play(self, now: float, workers: Sequence[WorkerState], pool: Sequence[str],
              factors: Dict[int, float], deviations: Sequence[float], chance: float) -> float:
        """Play through what is left.

        Args:
            now: what time it is
            workers: those that take part
            pool: boards that nobody has, in the order in which they are handed out
            factors: what each commit costs against what was expected
            deviations: those of first builds, the smallest first
            chance: a number of at least 0 and less than 1

        Returns:
            seconds until it is over
        """
        boards, costs = self._ledger.boards, self._costs

        def sample(above: float) -> float:
            """Return a deviation that is larger than that"""
            nonlocal chance
            chance = (chance + GOLDEN) % 1.0
            start = bisect.bisect_right(deviations, above)
            if start == len(deviations):
                return max(1.0, above * (1 + LATE))
            return deviations[start + int(chance * (len(deviations) - start))]

        def rest(target: str, name: str) -> float:
            """Return the seconds that a worker still has with a board that it has begun"""
            todo = sorted(boards[target].todo)
            spent = (now - self._since[name, target]) * costs.speed(name)
            more, scale = costs.more(target), 1.0
            if (name, target) in self._advanced:
                current = more * factors[todo[0]]
            else:
                first = costs.first(target)
                scale = costs.deviation(target)
                if not scale:
                    scale = sample(spent / first)
                    more *= scale
                current = first * scale
            current = max(current - spent, LATE * spent)
            return (current + more * sum(factors[upto] for upto in todo[1:])) / costs.speed(name)

        whole: Dict[Tuple[int, ...], float] = {}

        def cost(target: str) -> float:
            """Return the cost of a board that nobody has begun"""
            board = boards[target]
            commits = (board.task.commits if board.todo.issuperset(board.task.commits)
                       else tuple(sorted(board.todo)))
            if commits not in whole:
                whole[commits] = sum(factors[upto] for upto in commits[1:])
            own = costs.deviation(target)
            scale = own or sample(0.0)
            more = costs.more(target) * (1.0 if own else scale)
            return costs.first(target) * scale + more * whole[commits]

        ends: Dict[str, float] = {}
        for name, target in self._since:
            if boards[target].todo and self._ledger.attempt(name, target):
                end = rest(target, name)
                ends[target] = min(end, ends.get(target, end))
        slots: Dict[str, List[float]] = {}
        last: List[Tuple[float, float, str]] = [
            (end, cost(target), target) for target, end in ends.items()]

        def give(name: str, target: str, needs: float) -> None:
            """Let a worker build a board when it can"""
            end = slots[name][0] + needs / costs.speeds[name]
            heapq.heapreplace(slots[name], end)
            last.append((end, needs, target))

        def soonest(target: str, needs: float) -> Tuple[float, str]:
            """Return when a board could be finished, and by whom; '-' for nobody.

            With `needs` 0, when it could be begun.
            """
            return min(((slots[worker.name][0] + needs / costs.speeds[worker.name], worker.name)
                        for worker in takers if self._ledger.may(worker, boards[target])),
                       default=(math.inf, '-'))

        for worker in workers:
            busy = [ends[target] for target in worker.owed
                    if target in ends and (worker.name, target) in self._since]
            free = (self._ledger.forecast.free(worker.name) - now
                    if worker.name in self._ledger.coming else 0.0)
            slots[worker.name] = sorted([*busy, *[free] * (worker.slots - len(busy))])
            for target in worker.owed:
                if target not in ends and boards[target].todo:
                    give(worker.name, target, cost(target))
        takers = [worker for worker in workers if worker.accepting]
        for target in pool:
            needs = cost(target)
            # As `schedule.policy` does it: whoever is free, if costs are unknown
            name = soonest(target, needs if costs.known else 0.0)[1]
            if name != '-':
                give(name, target, needs)
        # What is finished last is built a second time where that is sooner
        last = [(-end, needs, target) for end, needs, target in last]
        heapq.heapify(last)
        while last:
            late, needs, target = last[0]
            end, name = soonest(target, needs)
            if end >= -late:
                return -late
            heapq.heapreplace(last, (-end, needs, target))
            heapq.heapreplace(slots[name], end)
        return 0.0
