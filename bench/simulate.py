#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""How close the scheduler gets to the least time that a build can take, in a simulation.

The real scheduler decides; machines, boards and the clock are made up. Boards
are heavy-tailed: most take 10 to 60 seconds, a few several minutes; the first of
several commits costs most; those of a SoC are to follow each other. Compared are the
scheduler with known, wrong and unknown costs, and the way of an older buildman: boards
in the order of the list, those for this machine set aside before.

    bench/simulate.py [--boards 1547] [--commits 5] [--threads 8,16,…] [--seeds 5]

No way of sharing the work can take less than the larger of two: all work spread
evenly over all processors, and the longest board on the fastest machine. It may
take more, as of the fast processors there are only so many.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import heapq
import math
import os
import random
import statistics
import sys
import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, 'tools'))

from buildman.core.events import BoardDone, Built, Started
from buildman.core.outcome import Outcome
from buildman.schedule.estimate import Estimate
from buildman.schedule.ledger import Task
from buildman.schedule.policy import Scheduler

# Seconds for a message to or from a machine
LATENCY = 0.05

# Seconds until a machine has told what it is, and until it can build at the earliest
SURVEY = 0.7
START = 1.5

# Seconds that a first build usually takes, and by how much the logarithm of it varies
USUAL, SPREAD = 25.0, 0.5

# Seconds after which those that got nothing are asked again
AGAIN = 2.0


@dataclasses.dataclass(frozen=True)
class Board:
    """A board: seconds of one processor of speed 1 for each commit, and its SoC."""

    target: str
    seconds: Tuple[float, ...]
    soc: str = ''

    @property
    def total(self) -> float:
        """Return the seconds for all commits."""
        return sum(self.seconds)


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine: slots, speed of each of them, seconds until it is ready."""

    name: str
    threads: int
    speed: float
    ready: float = 0.0


def make_boards(count: int, commits: int, rng: random.Random,
                long: float = 1 / 30) -> List[Board]:
    """Return boards: 10 to 60 seconds for most, minutes for a share of them."""
    out = []
    for number in range(count):
        first = rng.uniform(120, 400) if rng.random() < long else min(
            120.0, max(8.0, rng.lognormvariate(math.log(USUAL), SPREAD)))
        share = rng.uniform(0.05, 0.4)
        out.append(Board(f'b{number:04}', tuple(
            first * (1.0 if not upto else share * rng.uniform(0.5, 1.5))
            for upto in range(commits)), _soc(rng)))
    return out


def _soc(rng: random.Random) -> str:
    """Return a SoC: as in U-Boot, few have very many boards, and very many have few"""
    return f's{min(int(rng.paretovariate(0.4)), 400)}'


def make_machines(threads: Sequence[int], rng: random.Random, spread: float) -> List[Machine]:
    """Return machines whose speeds differ by up to four times."""
    return [Machine(f'm{number}' if number else '', count, rng.choice((0.5, 0.7, 1.0, 1.4, 2.0)),
                    START + rng.uniform(0, spread) if number else 0.0)
            for number, count in enumerate(threads)]


def simple_bound(boards: Sequence[Board], machines: Sequence[Machine]) -> float:
    """Return all work over all speeds, or the longest board on the fastest machine."""
    longest = min(mach.ready + max(board.total for board in boards) / mach.speed
                  for mach in machines)
    work, used, rate = sum(board.total for board in boards), 0.0, 0.0
    now = 0.0
    for mach in sorted(machines, key=lambda mach: mach.ready):
        if rate and used + rate * (mach.ready - now) >= work:
            break
        used, now = used + rate * (mach.ready - now), mach.ready
        rate += mach.speed * mach.threads
    return max(longest, now + (work - used) / rate)


def least_time(boards: Sequence[Board], machines: Sequence[Machine]) -> float:
    """Return the seconds that no way of sharing the work can beat.

    Sharper than simple_bound(): boards that would take a slow machine longer than
    the result have to be built by the faster ones, which must be able to do that.
    """
    low = simple_bound(boards, machines)
    high = 10 * low
    totals = [board.total for board in boards]

    def possible(end: float) -> bool:
        for mach in machines:
            fit = (end - mach.ready) * mach.speed
            work = sum(total for total in totals if total > fit)
            if work > sum(max(0.0, end - other.ready) * other.speed * other.threads
                          for other in machines
                          if (end - other.ready) * other.speed > fit):
                return False
        return True

    if possible(low):
        return low
    while high - low > low / 1000:
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return low


class Pool:
    """What decides who gets which board: the real scheduler."""

    def __init__(self, tasks: Sequence[Task], clock: Callable[[], float]) -> None:
        self.sched = Scheduler(tasks, clock=clock)
        self.estimate = Estimate(self.sched.ledger, clock)
        self.spent = 0.0

    def coming(self, unknown: int, mach: Optional[Machine] = None, told: float = 0.0) -> None:
        """So many machines are to come of which nothing is known; one has told of itself."""
        self.sched.unknown = unknown
        if mach:
            self.sched.ledger.expect(mach.name, mach.threads, speed=told * mach.threads)

    def join(self, mach: Machine, told: float) -> None:
        """Let a machine take part; `told` is how fast it says that a slot is."""
        self.sched.ledger.add_worker(mach.name, mach.threads, speed=told * mach.threads, ahead=1)

    def ask(self, name: str) -> List[Tuple[str, Tuple[int, ...], str]]:
        """Return (board, commits, taken from) of all that a machine gets now."""
        out = []
        start = time.perf_counter()
        while True:
            handout = self.sched.next_for(name)
            if handout is None:
                self.spent += time.perf_counter() - start
                return out
            out.append((handout.target, handout.commits, handout.taken_from))

    def hungry(self) -> List[str]:
        """Return who is to be asked again after a board came back."""
        return self.sched.hungry()

    def started(self, name: str, target: str) -> None:
        """A machine has begun."""
        self.sched.ledger.started(name, target)
        self.estimate(Started(name, target, 0), '')

    def result(self, name: str, target: str, upto: int, seconds: float) -> List[str]:
        """A result came; return who is to stop building the same board."""
        kept = self.sched.ledger.result(name, target, upto, seconds)
        self.estimate(Built(name, Outcome(target, upto, 0, seconds=seconds)),
                      '' if kept else 'dropped')
        return self.sched.ledger.rivals(name, target)

    def done(self, name: str, target: str) -> None:
        """A machine is through with a board."""
        self.sched.ledger.board_done(name, target)
        self.estimate(BoardDone(name, target), '')

    @property
    def finished(self) -> bool:
        """Whether all is built."""
        return self.sched.ledger.finished


class OldPool(Pool):
    """The way of an older buildman: no order, and a fixed share for this machine."""

    def __init__(self, tasks: Sequence[Task], machines: Sequence[Machine]) -> None:
        total = sum(mach.threads for mach in machines)
        count = round(len(tasks) * machines[0].threads / total)
        self._here = [task for task in tasks[:count]]
        self._there = list(tasks[count:])
        self._left = {task.target: len(task.commits) for task in tasks}
        self._hands: Dict[str, int] = {}
        self._slots: Dict[str, int] = {}
        self.spent = 0.0

    def coming(self, unknown: int, mach: Optional[Machine] = None, told: float = 0.0) -> None:
        pass

    def join(self, mach: Machine, told: float) -> None:
        self._slots[mach.name], self._hands[mach.name] = mach.threads, 0

    def ask(self, name: str) -> List[Tuple[str, Tuple[int, ...], str]]:
        out = []
        source = self._there if name else self._here
        while source and self._hands[name] < self._slots[name]:
            task = source.pop(0)
            self._hands[name] += 1
            out.append((task.target, task.commits, ''))
        return out

    def hungry(self) -> List[str]:
        return []

    def started(self, name: str, target: str) -> None:
        pass

    def result(self, name: str, target: str, upto: int, seconds: float) -> List[str]:
        self._left[target] -= 1
        return []

    def done(self, name: str, target: str) -> None:
        self._hands[name] -= 1

    @property
    def finished(self) -> bool:
        return not any(self._left.values())


class Run:
    """One build in simulated time."""

    def __init__(self, boards: Sequence[Board], machines: Sequence[Machine],
                 tasks: Sequence[Task], told: Dict[str, float], old: bool) -> None:
        """Set up.

        Args:
            boards, machines: what there is
            tasks: the boards as the scheduler knows them
            told: name -> speed that a machine says it has
            old: the older way
        """
        self.now = 0.0
        self._boards = {board.target: board for board in boards}
        self._machines = {mach.name: mach for mach in machines}
        self._told = told
        self._events: List[Tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._queues: Dict[str, List[Tuple[str, Tuple[int, ...]]]] = {}
        self._active: Dict[str, Dict[str, int]] = {}
        self.duplicates = 0
        self.pool = OldPool(tasks, machines) if old else Pool(tasks, lambda: self.now)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (when, self._serial, act))

    def run(self) -> float:
        """Build everything; return the seconds."""
        for mach in self._machines.values():
            self._queues[mach.name], self._active[mach.name] = [], {}
            self._at(mach.ready, lambda mach=mach: self._join(mach))  # type: ignore[misc]
        others = [mach for mach in self._machines.values() if mach.name]
        self.pool.coming(len(others))
        for number, mach in enumerate(others):
            self._at(SURVEY + number / 1000, functools.partial(
                self.pool.coming, len(others) - number - 1, mach, self._told[mach.name]))
        self._at(AGAIN, self._ask_again)
        while not self.pool.finished:
            self.now, _, act = heapq.heappop(self._events)
            act()
        return self.now

    def _join(self, mach: Machine) -> None:
        self.pool.join(mach, self._told[mach.name])
        self._fill(mach.name)

    def _ask_again(self) -> None:
        """Ask those again that got nothing, now and then"""
        for name in self.pool.hungry():
            self._fill(name)
        self._at(self.now + AGAIN, self._ask_again)

    def _fill(self, name: str) -> None:
        """Hand out what a machine is to get"""
        for target, commits, taken in self.pool.ask(name):
            if taken or any(target in active for active in self._active.values()):
                self.duplicates += not taken
                if taken:
                    self._cancel(taken, target)
            self._at(self.now + (LATENCY if name else 0.0),
                     lambda target=target, commits=commits:  # type: ignore[misc]
                     self._receive(name, target, commits))

    def _receive(self, name: str, target: str, commits: Tuple[int, ...]) -> None:
        """A machine gets a board"""
        self._queues[name].append((target, commits))
        self._begin(name)

    def _begin(self, name: str) -> None:
        """Begin what fits on a machine"""
        mach = self._machines[name]
        while self._queues[name] and len(self._active[name]) < mach.threads:
            target, commits = self._queues[name].pop(0)
            self._serial += 1
            self._active[name][target] = self._serial
            self.pool.started(name, target)
            self._build(name, target, commits, self._serial)

    def _build(self, name: str, target: str, commits: Tuple[int, ...], mark: int,
               follows: bool = False) -> None:
        """Build the first of some commits; `follows`: on top of the one before it"""
        seconds = self._boards[target].seconds
        spent = seconds[commits[0] if follows else 0] / self._machines[name].speed
        self._at(self.now + spent, lambda: self._built(name, target, commits, mark, spent))

    def _built(self, name: str, target: str, commits: Tuple[int, ...], mark: int,
               spent: float) -> None:
        """A commit is built"""
        if self._active[name].get(target) != mark:
            return
        for rival in self.pool.result(name, target, commits[0], spent):
            self._cancel(rival, target)
        if commits[1:]:
            self._build(name, target, commits[1:], mark, True)
            return
        del self._active[name][target]
        self._begin(name)
        self._at(self.now + (LATENCY if name else 0.0), lambda: self._done(name, target))

    def _cancel(self, name: str, target: str) -> None:
        """A machine is to drop a board"""
        self._queues[name] = [item for item in self._queues[name] if item[0] != target]
        if self._active[name].pop(target, None):
            self._begin(name)
        self._at(self.now + LATENCY, lambda: self._done(name, target))

    def _done(self, name: str, target: str) -> None:
        """The boss hears that a machine is through with a board"""
        self.pool.done(name, target)
        self._fill(name)


def make_tasks(boards: Sequence[Board], noise: float, rng: random.Random) -> List[Task]:
    """Return the tasks; `noise` is by how much costs are wrong, negative: unknown."""
    out = []
    for board in boards:
        factor = math.exp(rng.gauss(0, noise)) if noise > 0 else 1.0
        if noise < 0:
            factor = 0.0
        out.append(Task(board.target, 'arm', tuple(range(len(board.seconds))),
                        board.total * factor, board.seconds[0] * factor, board.soc))
    return out


def cases(args: argparse.Namespace) -> List[Tuple[str, float, float, str]]:
    """Return (name, noise of costs, noise of speeds, kind)."""
    out = [('older way', 0.0, 0.0, 'old'), ('costs unknown', -1.0, 0.0, ''),
           ('costs known', 0.0, 0.0, '')]
    for noise in (0.2, 0.5, 1.0):
        out.append((f'costs wrong by a factor of {math.exp(noise):.1f}', noise, 0.0, ''))
    return [*out, ('speeds wrong by a factor of 1.5', 0.0, math.log(1.5), ''),
            ('both wrong by 1.5', math.log(1.5), math.log(1.5), '')]


def main() -> None:
    """Simulate, and print how far each is from the least time."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--boards', type=int, default=1547)
    parser.add_argument('--commits', type=int, default=5)
    parser.add_argument('--threads', default='8,16,24,32,64,96,128,256')
    parser.add_argument('--ready', type=float, default=0.0,
                        help='seconds over which machines become ready')
    parser.add_argument('--seeds', type=int, default=5)
    args = parser.parse_args()
    threads = [int(word) for word in args.threads.split(',')]
    ratios: Dict[str, List[float]] = {}
    spent: Dict[str, List[float]] = {}
    gaps: List[float] = []
    for seed in range(args.seeds):
        rng = random.Random(seed)
        boards = make_boards(args.boards, args.commits, rng)
        machines = make_machines(threads, rng, args.ready)
        least = least_time(boards, machines)
        gaps.append(least / simple_bound(boards, machines))
        for name, noise, wrong, kind in cases(args):
            rng = random.Random(seed)
            tasks = make_tasks(boards, noise, rng)
            told = {mach.name: mach.speed * math.exp(rng.gauss(0, wrong)) for mach in machines}
            run = Run(boards, machines, tasks, told, bool(kind))
            took = run.run()
            ratios.setdefault(name, []).append(took / least)
            spent.setdefault(name, []).append(run.pool.spent)
    print(f'{args.boards} boards, {args.commits} commits, machines of {args.threads} threads; '
          f'time against the least possible, {args.seeds} seeds')
    print('least possible against all work over all speeds, or the longest board: '
          + ' '.join(f'{gap:.2f}' for gap in gaps))
    for name, values in ratios.items():
        print(f'{name:36} best {min(values):.3f}  middle {statistics.median(values):.3f}  '
              f'worst {max(values):.3f}   scheduler {1000 * max(spent[name]):6.0f} ms')


if __name__ == '__main__':
    main()
