# SPDX-License-Identifier: GPL-2.0+
"""What boards are expected to cost: pure, from made-up durations."""

from __future__ import annotations

import heapq
import itertools
import random
import unittest
from typing import Dict, List, Tuple

from buildman.core.plan import Board
from buildman.results.durations import FULL, MORE, PART, Record
from buildman.schedule import forecast
from buildman.schedule.policy import Scheduler, Task


def record(target: str, seconds: float, kind: str = FULL, machine: str = '',
           run: int = 1) -> Record:
    return Record('c' * 40, target, seconds, kind, machine, run)


def firsts(records: List[Record], boards: List[Board]) -> Dict[str, float]:
    """Return what the first commit of each board is expected to cost."""
    return {target: cost.first for target, cost in forecast.expect(records, boards).items()}


A, B, C = Board('a', 'arm'), Board('b', 'arm'), Board('c', 'mips')


class ExpectTest(unittest.TestCase):
    """Longest boards first: a long one that comes last keeps everybody waiting."""

    def test_nothing_known(self) -> None:
        """The first run of all: the order of the list"""
        self.assertEqual(forecast.expect([], [A, B]), {})
        self.assertEqual(forecast.expect([record('gone', 5)], [A]), {})
        self.assertEqual(forecast.expect([record('a', 5, PART)], [A]), {})

    def test_known(self) -> None:
        """A commit that compiles little costs little"""
        cost = forecast.expect([record('a', 10), record('a', 1, MORE), record('a', 7, MORE),
                               record('a', 1, MORE)], [A])['a']
        self.assertEqual(10 + 9, cost.of(4))
        cost = forecast.expect([record('a', 10), record('a', 2, MORE), record('a', 4, MORE),
                               record('a', 3, MORE)], [A])['a']
        self.assertEqual(cost, forecast.Cost(10, 3))
        self.assertEqual([cost.of(count) for count in (0, 1, 3)], [0, 10, 16])

    def test_extended(self) -> None:
        """A board of -X costs what the board costs that it extends, and the other way round"""
        a, b = Board('a', 'arm', soc='s'), Board('b', 'arm', soc='s')
        more = [Board(f'x,{name}', 'arm', soc='s', base=name) for name in 'ab']
        self.assertEqual(firsts([record('a', 10), record('b', 30)], [a, b, *more]),
                         {'a': 10, 'b': 30, 'x,a': 10, 'x,b': 30})
        self.assertEqual(firsts([record('x,a', 10), record('b', 30)], [a, b, *more])['a'], 10)

    def test_only_one_kind(self) -> None:
        """A board of which one kind is known gets the other from its fellows"""
        got = forecast.expect([record('a', 10), record('a', 2, MORE), record('b', 20),
                              record('c', 3, MORE)], [A, B, C])
        self.assertEqual(got['b'], forecast.Cost(20, 4))
        self.assertEqual(got['c'], forecast.Cost(15, 3))

    def test_newest(self) -> None:
        """A board that has grown is not judged by what it was"""
        records = [record('a', seconds, run=run)
                   for run, seconds in enumerate((1, 1, 1, 1, 50, 51, 52))]
        self.assertEqual(firsts(records, [A])['a'], 51)

    def test_relatives(self) -> None:
        """A board never seen is like those of its soc, else vendor, else arch"""
        boards = [Board(name, arch, vendor=vendor, soc=soc) for name, arch, vendor, soc in (
            ('s', 'arm', 'x', 'soc1'), ('v', 'arm', 'acme', 'soc2'), ('m', 'mips', '', ''),
            ('n', 'mips', '', ''),
            ('new-soc', 'arm', 'acme', 'soc1'), ('new-vendor', 'arm', 'acme', 'soc9'),
            ('new-arm', 'arm', 'z', ''), ('new-mips', 'mips', '', ''), ('new-arch', 'sh', '', ''))]
        got = firsts([record('s', 1), record('v', 9), record('m', 30), record('n', 30)], boards)
        self.assertEqual((got['new-soc'], got['new-vendor'], got['new-mips']), (1, 9, 30))
        self.assertIn(got['new-arm'], (1, 9))
        self.assertEqual(got['new-arch'], 9)

    def test_machines(self) -> None:
        """A short board built by a slow machine does not come before a long one"""
        rng = random.Random(4)
        speeds = {'slow': 4.0, 'fast': 0.5, '': 1.0}
        true = {f'b{num:03}': rng.uniform(5, 60) for num in range(300)}
        boards = [Board(name, rng.choice(('arm', 'mips'))) for name in true]
        records = [record(name, seconds * speeds[machine], machine=machine)
                   for name, seconds in true.items()
                   for machine in [rng.choice(list(speeds))]]
        got = firsts(records, boards)
        scale = sum(got.values()) / sum(true.values())
        wrong = [name for name in true if not 0.7 < got[name] / true[name] / scale < 1.4]
        self.assertEqual(wrong, [])

    def test_runs(self) -> None:
        """A run with more boards at once took longer for each; that is no reason"""
        boards = [Board(f'b{num}', 'arm') for num in range(20)]
        # Odd ones were built in a busy run, the first eight in both
        records = [record(f'b{num}', 10 * (num + 1), run=1)
                   for num in range(20) if num % 2 or num < 8]
        records += [record(f'b{num}', num + 1, run=2)
                    for num in range(20) if not num % 2 or num < 8]
        got = firsts(records, boards)
        order = sorted(got, key=lambda name: got[name])
        self.assertEqual(order, [f'b{num}' for num in range(20)])

    def test_few_results(self) -> None:
        """One result of a machine says nothing of its speed"""
        records = [record(name, 10) for name in 'ab'] + [record('c', 40, machine='box')]
        boards = [Board(name, 'arm') for name in 'abc']
        self.assertEqual(firsts(records, boards)['c'], 40)

    def test_zero(self) -> None:
        """Builds that take no time at all, as in an instant sample, do no harm"""
        got = forecast.expect([record('a', 0), record('b', 0, machine='x', run=2),
                              record('a', 0, MORE)], [A, B, C])
        self.assertEqual(got['c'].of(3), 0)


def makespan(costs: Dict[str, forecast.Cost], true: Dict[str, float],
             speeds: Dict[str, float], slots: int, commits: int, socs: int = 0) -> float:
    """Return how long a run takes in which each slot is given a board when it is free.

    Args:
        costs: what the scheduler believes
        true: seconds that one commit of each board takes on a machine of speed 1
        speeds: machine to its speed
        slots: boards at once on each
        commits: commits of each board
        socs: so many, whose boards are to follow each other; 0 for no such thing
    """
    sched = Scheduler([Task(name, 'arm', tuple(range(commits)),
                            costs[name].of(commits) if name in costs else 0.0,
                            group=f'soc{number % socs}' if socs else '')
                       for number, name in enumerate(true)])
    now = 0.0
    running: List[Tuple[float, int, str, str]] = []
    serial = itertools.count()

    def fill(machine: str) -> None:
        while True:
            handout = sched.next_for(machine)
            if handout is None:
                return
            sched.ledger.started(machine, handout.target)
            heapq.heappush(running, (now + true[handout.target] * len(handout.commits)
                                     / speeds[machine], next(serial), machine, handout.target))

    for machine, speed in speeds.items():
        sched.ledger.add_worker(machine, slots, speed=speed)
        fill(machine)
    while not sched.ledger.finished:
        now, _, machine, target = heapq.heappop(running)
        for upto in range(commits):
            sched.ledger.result(machine, target, upto)
        sched.ledger.board_done(machine, target)
        fill(machine)
    return now


class PaceTest(unittest.TestCase):
    """When boards will be finished"""

    def ends(self, guessed: bool) -> List[float]:
        """Return when a board seems to be finished, before and after another one took 1 s"""
        now = [0.0]
        paces = forecast.Forecast(lambda: now[0], guessed)
        paces.add('w', 2, 2.0)
        paces.begin('w', 'slow', 100.0)
        out = [paces.when('w', 'slow')]
        paces.learn('w', 100.0, 1.0)
        paces.refresh()
        now[0] = 0.5
        return [*out, paces.when('w', 'slow')]

    def test_guessed(self) -> None:
        """Guessed costs are no seconds: the first build tells what they are"""
        before, after = self.ends(True)
        self.assertEqual(100.0, before)
        self.assertAlmostEqual(2.0, after, delta=0.1)

    def test_known(self) -> None:
        """Known ones are believed; a single build may be an odd one"""
        before, after = self.ends(False)
        self.assertEqual(100.0, before)
        self.assertGreater(after, 50.0)


class TailTest(unittest.TestCase):
    """How much longer a run takes than it would have to."""

    def test_against_bound(self) -> None:
        """With durations known the end is within 3% of the best; without, it is not"""
        rng = random.Random(3)
        worst_known, worst_blind = 0.0, 0.0
        for _ in range(10):
            true = {f'b{num:04}': 20 * rng.lognormvariate(0, 0.5) for num in range(300)}
            # A few large ones late in the list, as sandbox and x86 are
            true.update({f'z{num}': rng.uniform(150, 250) for num in range(4)})
            boards = [Board(name, 'arm') for name in true]
            speeds = {'a': 1.0, 'b': 1.0, 'c': 2.0}
            records = [record(name, seconds / speeds[machine] * rng.uniform(0.9, 1.1),
                              machine=machine)
                       for name, seconds in true.items() for machine in [rng.choice('abc')]]
            known = max(makespan(forecast.expect(records, boards), true, speeds, 4, 3, socs)
                        for socs in (0, 3, 80))
            blind = makespan({}, true, speeds, 4, 3)
            bound = max(3 * sum(true.values()) / sum(speeds.values()) / 4,
                        3 * max(true.values()) / max(speeds.values()))
            worst_known = max(worst_known, known / bound)
            worst_blind = max(worst_blind, blind / bound)
        self.assertLess(worst_known, 1.03)
        self.assertGreater(worst_blind, 1.1)
