# SPDX-License-Identifier: GPL-2.0+
"""What a machine may send beyond what it owes."""

from __future__ import annotations

import unittest
from typing import Callable

from buildman.remote import budget


class BudgetTest(unittest.TestCase):
    """A purse, with a clock that is set by hand"""

    def setUp(self) -> None:
        self.now = 50.0
        self.purse = budget.Budget(lambda: self.now)

    def lasts(self, act: Callable[[], None], most: int = 100_000) -> int:
        """Return how often something can be done"""
        for count in range(most):
            try:
                act()
            except budget.OverBudget:
                return count
        return most

    def noise(self) -> None:
        """A line of noise comes"""
        self.purse.spend(budget.LINE, 'lines')

    def beat(self, step: float) -> None:
        """A heartbeat comes, after some seconds"""
        self.now += step
        self.purse.spend(budget.MESSAGE, 'heartbeats')

    def test_lines(self) -> None:
        """A long banner passes, an endless one does not, and is named"""
        self.assertEqual(budget.PURSE, self.lasts(self.noise))
        self.assertEqual('it sent too much that it does not owe: 2001 lines', self.purse.reason)

    def test_for_good(self) -> None:
        """Who is lost is so for everything, whatever comes in later"""
        self.lasts(self.noise)
        self.now += 1e6
        self.purse.earn()
        self.assertEqual(0, self.lasts(self.noise))
        self.assertNotIn('2002', self.purse.reason)

    def test_nonsense(self) -> None:
        """Who says nothing that makes sense is lost soon; what is damaged now and then is not"""
        self.assertLess(self.lasts(self.purse.nonsense), 20)
        self.purse = budget.Budget(lambda: self.now)

        def now_and_then() -> None:
            self.purse.nonsense()
            self.purse.sense()

        self.assertEqual(budget.PURSE / budget.NONSENSE, self.lasts(now_and_then))

    def test_heartbeats(self) -> None:
        """Heartbeats that come when they are expected cost nothing in the long run"""
        for interval in (0.1, 10.0):
            self.purse = budget.Budget(lambda: self.now)
            self.purse.expect_heartbeats(interval)
            self.assertEqual(9000, self.lasts(lambda step=interval: self.beat(step), 9000))
            self.assertLess(self.lasts(lambda step=interval: self.beat(step / 1000), 9000), 3000)

    def test_results(self) -> None:
        """A machine that does its work may be noisy, but only so much"""
        def work(lines: int) -> None:
            for _ in range(lines):
                self.noise()
            self.purse.earn()

        self.assertEqual(5000, self.lasts(lambda: work(20), 5000))
        self.assertLess(self.lasts(lambda: work(25), 5000), 500)
