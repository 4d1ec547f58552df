#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""How honest the time left is that a build shows, in simulated runs.

The real scheduler and the real estimate, see simulate.py for all else. At each
hundredth of a run the time that is said to be left is compared with what it then
took. Runs differ in what is known of costs and speeds, and in what makes it hard:
machines that come late, one board that takes long, a run that goes on where an
earlier one was stopped, commits that cost more than others, few boards.

    bench/time_left.py [--seeds 6] [--only WORD]

For each kind of run, over all its seeds: by how much the end was off at the middle
of the run, and at worst from there on until the last tenth, as a share of the time
that was left then; and at worst until the very end, as a share of the whole. `before`
is the rule of three: time spent, over results, times those that are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
from typing import Dict, List, Sequence, Tuple

import simulate
from simulate import Board, Machine

from buildman.schedule import forecast
from buildman.schedule.ledger import Task


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of run.

    Attributes:
        boards, commits, threads: how many; threads of each machine
        noise: by how much costs are wrong (sigma of the logarithm), negative: unknown
        told: of the variance of what boards cost (their logarithm) a defconfig tells this
            share, and nothing else is known; see boards/effort.py. 0: costs are known
        alike: what boards cost varies by this only, 0: by much
        wrong: by how much speeds are
        ready: seconds over which machines become ready
        long: one board takes this share of what the run would take without it
        there: share of the boards that are complete, as many again have one commit
        uneven: commits cost up to six times as much as others, or nothing
        minutes: so many boards take minutes
    """

    boards: int = 1547
    commits: int = 5
    threads: Tuple[int, ...] = (8, 16, 24, 32, 64)
    noise: float = 0.1
    wrong: float = 0.0
    ready: float = 0.0
    long: float = 0.0
    there: float = 0.0
    uneven: bool = False
    minutes: float = 1 / 30
    told: float = 0.0
    alike: float = 0.0


# As found for boards of U-Boot; see boards/effort.py
FIRST = Case(told=0.65, minutes=0.0)

CASES = {
    'known': Case(),
    'known, costs and speeds wrong': Case(noise=0.3, wrong=0.3),
    'known, one machine, 60 boards': Case(60, 5, (8,)),
    'machines come late': Case(ready=300.0),
    'one long board': Case(300, 5, (8, 16), long=0.7),
    'resumed': Case(there=0.4),
    'uneven commits': Case(300, 20, (8, 16), uneven=True),
    'first run': FIRST,
    'first run, machines come late': dataclasses.replace(FIRST, ready=300.0),
    'first run, one machine, 60 boards': dataclasses.replace(FIRST, boards=60, threads=(8,)),
    'first run, uneven commits': dataclasses.replace(
        FIRST, boards=300, commits=20, threads=(8, 16), uneven=True),
    'current source, 200 boards': dataclasses.replace(FIRST, boards=200, commits=1, threads=(8,)),
    'first run, some take minutes': dataclasses.replace(FIRST, minutes=1 / 30),
    'nothing known, boards alike': Case(60, 5, (8, 16), noise=-1.0, minutes=0.0, alike=0.14),
}


class Run(simulate.Run):
    """A run of which it is written down what it said.

    Attributes:
        said: (now, time left by the estimate, by the rule of three); None: nothing
    """

    def __init__(self, boards: Sequence[Board], machines: Sequence[Machine],
                 tasks: Sequence[Task], told: Dict[str, float], each: float) -> None:
        super().__init__(boards, machines, tasks, told, False)
        self.said: List[Tuple[float, float, float]] = []
        self._total = sum(len(task.commits) for task in tasks)
        self._each = each
        self._at(each, self._look)

    def _look(self) -> None:
        left = self.pool.estimate.left()
        missing = sum(len(board.todo) for board in self.pool.sched.ledger.boards.values())
        done = self._total - missing
        self.said.append((self.now, -1.0 if left is None else left,
                          self.now / done * missing if done else -1.0))
        self._at(self.now + self._each, self._look)


def _scaled(board: Board, factor: float) -> Board:
    """Return a board that takes so many times as long"""
    return Board(board.target, tuple(factor * seconds for seconds in board.seconds))


def guessed(boards: Sequence[Board], told: float, rng: random.Random) -> List[Task]:
    """Return the tasks when only defconfigs tell what boards cost; see Case"""
    first = {}
    for board in boards:
        off = math.log(board.seconds[0] / simulate.USUAL)
        spread = math.sqrt(told * (1 - told)) * simulate.SPREAD
        first[board.target] = 2 * simulate.USUAL * math.exp(told * off + rng.gauss(0, spread))
    costs = forecast.guessed(first)
    return [Task(board.target, 'arm', tuple(range(len(board.seconds))),
                 costs[board.target].of(len(board.seconds)), costs[board.target].first,
                 guessed=True) for board in boards]


def make_run(case: Case, seed: int) -> Run:
    """Return a run of a kind."""
    rng = random.Random(seed)
    boards = simulate.make_boards(case.boards, case.commits, rng, case.minutes)
    if case.alike:
        boards = [_scaled(board, 30.0 * rng.lognormvariate(0, case.alike) / board.seconds[0])
                  for board in boards]
    if case.uneven:
        factors = [rng.choice((0.0, 0.3, 1.0, 1.0, 3.0, 6.0)) for _ in range(case.commits)]
        boards = [Board(board.target, (board.seconds[0], *(
            seconds * factor for seconds, factor in zip(board.seconds[1:], factors[1:]))))
            for board in boards]
    machines = simulate.make_machines(case.threads, rng, case.ready)
    least = simulate.least_time(boards, machines)
    if case.long:
        factor = case.long * least * max(mach.speed for mach in machines) / boards[-1].total
        boards[-1] = _scaled(boards[-1], factor)
    tasks = (guessed(boards, case.told, rng) if case.told
             else simulate.make_tasks(boards, case.noise, rng))
    rng.shuffle(tasks)
    if case.there:
        gone = int(case.there * len(tasks))
        tasks = [dataclasses.replace(
            task, commits=task.commits[1:], weight=task.cost(len(task.commits) - 1, True))
            if number < 2 * gone and task.commits[1:] else task
            for number, task in enumerate(tasks) if number >= gone]
    told = {mach.name: mach.speed * rng.lognormvariate(0, case.wrong) for mach in machines}
    return Run(boards, machines, tasks, told, max(1.0, least / 100))


def errors(run: Run, which: int) -> Tuple[float, float, float]:
    """Return by how much a run was off: at the middle, at worst, at the end; see the top."""
    end = run.now
    late = [(now, abs(row[which] - (end - now))) for row in run.said
            for now in (row[0],) if end / 2 <= now < end]
    return (late[0][1] / (end - late[0][0]),
            max(off / (end - now) for now, off in late if now <= 0.9 * end),
            max(off / end for _, off in late))


def main() -> None:
    """Simulate, and print the table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=6)
    parser.add_argument('--only', default='')
    args = parser.parse_args()
    print(f'{"off by, at worst of the runs of a kind":34} {"middle":>15} {"worst to 0.9":>15} '
          f'{"of the whole":>15}')
    print(f'{"":34}' + ' before     now' * 3)
    count = bad = 0
    for name, case in CASES.items():
        if args.only not in name:
            continue
        rows = []
        for seed in range(args.seeds):
            run = make_run(case, seed)
            run.run()
            rows.append((errors(run, 2), errors(run, 1)))
            count += 1
            bad += rows[-1][1][2] >= 0.2
        text = ''
        for part in range(3):
            for which in (0, 1):
                text += f' {max(row[which][part] for row in rows):7.1%}'
        print(f'{name:34}{text}', flush=True)
    print(f'{count} runs, {bad} of them off by 20% or more')


if __name__ == '__main__':
    main()
