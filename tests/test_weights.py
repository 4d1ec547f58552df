# SPDX-License-Identifier: GPL-2.0+
"""What boards are expected to cost: pure, from made-up durations."""

from __future__ import annotations

import os
import random
import sys
import unittest
from typing import Dict, List

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))

from buildman import weights
from buildman.durations import FULL, MORE, PART, Record
from buildman.plan import Board


def record(target: str, seconds: float, kind: str = FULL, machine: str = '',
           run: int = 1) -> Record:
    return Record('c' * 40, target, seconds, kind, machine, run)


def firsts(records: List[Record], boards: List[Board]) -> Dict[str, float]:
    """Return what the first commit of each board is expected to cost."""
    return {target: cost.first for target, cost in weights.expect(records, boards).items()}


A, B, C = Board('a', 'arm'), Board('b', 'arm'), Board('c', 'mips')


class ExpectTest(unittest.TestCase):
    """Longest boards first: a long one that comes last keeps everybody waiting."""

    def test_nothing_known(self) -> None:
        """The first run of all: the order of the list"""
        self.assertEqual(weights.expect([], [A, B]), {})
        self.assertEqual(weights.expect([record('gone', 5)], [A]), {})
        self.assertEqual(weights.expect([record('a', 5, PART)], [A]), {})

    def test_known(self) -> None:
        """A commit that compiles little costs little"""
        cost = weights.expect([record('a', 10), record('a', 2, MORE), record('a', 4, MORE),
                               record('a', 3, MORE)], [A])['a']
        self.assertEqual(cost, weights.Cost(10, 3))
        self.assertEqual([cost.of(count) for count in (0, 1, 3)], [0, 10, 16])

    def test_only_one_kind(self) -> None:
        """A board of which one kind is known gets the other from its fellows"""
        got = weights.expect([record('a', 10), record('a', 2, MORE), record('b', 20),
                              record('c', 3, MORE)], [A, B, C])
        self.assertEqual(got['b'], weights.Cost(20, 4))
        self.assertEqual(got['c'], weights.Cost(15, 3))

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
        got = weights.expect([record('a', 0), record('b', 0, machine='x', run=2),
                              record('a', 0, MORE)], [A, B, C])
        self.assertEqual(got['c'].of(3), 0)


if __name__ == '__main__':
    unittest.main()
