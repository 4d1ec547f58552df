# SPDX-License-Identifier: GPL-2.0+
"""The time that is told to be left, in made-up runs of the real scheduler."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import unittest

from support import TOP

from buildman.core.events import BoardDone, Built, Started, WorkerGone
from buildman.core.outcome import Outcome
from buildman.schedule.estimate import Estimate
from buildman.schedule.ledger import Ledger, Task

sys.path.insert(0, os.path.join(TOP, 'bench'))
import time_left


class EstimateTest(unittest.TestCase):
    """People plan by it"""

    def setUp(self) -> None:
        self.now = 100.0

    def made(self, *tasks: Task) -> Estimate:
        """Return the estimate for some boards"""
        self.ledger = Ledger(tasks, clock=lambda: self.now)
        return Estimate(self.ledger, lambda: self.now)

    def begin(self, estimate: Estimate, name: str, target: str) -> None:
        """Let a worker begin with a board"""
        self.ledger.hand_out(self.ledger.workers[name], target)
        estimate(Started(name, target, 0), '')

    def build(self, estimate: Estimate, name: str, target: str, upto: int,
              seconds: float) -> None:
        """Let a worker have built something, which took so long"""
        self.now += seconds
        fate = '' if self.ledger.result(name, target, upto, seconds) else 'dropped'
        estimate(Built(name, Outcome(target, upto, 0, seconds=seconds)), fate)

    def test_known(self) -> None:
        """With the costs of earlier runs it can be told before anything is built"""
        estimate = self.made(*(Task(name, 'arm', (0, 1), 14.0, 10.0) for name in 'abcd'))
        self.assertIsNone(estimate.left(), 'there is nobody')
        self.ledger.add_worker('', 2)
        self.assertEqual(28.0, estimate.left())
        self.now += 0.5
        self.assertEqual(27.5, estimate.left(), 'it is not worked out all the time')

    def test_guessed(self) -> None:
        """A guess tells which boards are longer, but no seconds"""
        estimate = self.made(*(Task(name, 'arm', (0,), cost, cost, guessed=True)
                               for name, cost in (('a', 300.0), ('b', 100.0), ('c', 100.0))))
        self.ledger.add_worker('', 1)
        self.begin(estimate, '', 'a')
        self.assertIsNone(estimate.left())
        self.build(estimate, '', 'a', 0, 3.0)
        estimate(BoardDone('', 'a'), '')
        left = estimate.left()
        assert left is not None
        self.assertAlmostEqual(2.0, left, delta=0.2)

    def test_unknown(self) -> None:
        """Without, the first builds tell; and the first of all commits costs most"""
        estimate = self.made(*(Task(name, 'arm', (0, 1, 2)) for name in 'abc'))
        self.ledger.add_worker('', 1)
        self.begin(estimate, '', 'a')
        self.assertIsNone(estimate.left())
        self.build(estimate, '', 'a', 0, 10.0)
        self.build(estimate, '', 'a', 1, 1.0)
        self.build(estimate, '', 'a', 2, 1.0)
        estimate(BoardDone('', 'a'), '')
        left = estimate.left()
        assert left is not None
        self.assertTrue(23 < left < 29, left)

    def test_liar(self) -> None:
        """What a machine tells of boards that it has not, or of endless builds, costs no run"""
        estimate = self.made(Task('a', 'arm', (0, 1)), Task('b', 'arm', (0,)))
        self.ledger.add_worker('m', 1, speed=0.0)
        self.begin(estimate, 'm', 'a')
        estimate(Started('m', 'ghost', 0), '')
        estimate(Started('m', 'b', 0), '')
        estimate(Built('m', Outcome('b', 0, 0, seconds=5.0)), 'dropped')
        self.build(estimate, 'm', 'a', 0, 1e300)
        self.assertIsNone(estimate.left())
        self.build(estimate, 'm', 'a', 1, math.nan)
        self.assertIsNone(estimate.left())
        self.ledger.lost('m')
        estimate(WorkerGone('m', 'gone'), '')
        self.assertIsNone(estimate.left())

    def test_hunt(self) -> None:
        """A hunt goes on with other commits, as many as before"""
        estimate = self.made(Task('a', 'arm', (0, 8), 14.0, 10.0))
        self.ledger.add_worker('', 1)
        self.begin(estimate, '', 'a')
        self.build(estimate, '', 'a', 0, 10.0)
        self.build(estimate, '', 'a', 8, 4.0)
        self.ledger.extend('a', (2, 5))
        self.ledger.board_done('', 'a')
        estimate(BoardDone('', 'a'), '')
        self.now += 10
        self.assertEqual(14.0, estimate.left())

    def test_off_by(self) -> None:
        """From the middle of a run on it is off by less than a fifth"""
        for name in ('known, one machine, 60 boards', 'machines come late', 'one long board',
                     'resumed', 'current source, 200 boards'):
            case = time_left.CASES[name]
            run = time_left.make_run(dataclasses.replace(
                case, boards=min(case.boards, 120), threads=case.threads[:2]), 2)
            run.run()
            self.assertLess(time_left.errors(run, 1)[2], 0.2, name)
