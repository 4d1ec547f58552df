# SPDX-License-Identifier: GPL-2.0+
"""How much a machine may send beyond what it owes.

What it owes is bounded by what it was asked for: a result for each board and commit,
with their images, and a heartbeat now and then. All else (noise, what makes no sense,
what was not asked for, complaints) is taken note of, told and logged, which costs time,
memory and disk here. So it has a price, and each machine one purse for all of it. A
machine that has spent that is lost, and what it has spent it for is the reason.

The unit is a short line.
"""

from __future__ import annotations

import collections
import threading
from typing import Callable

from buildman.core.errors import BuildmanError
from buildman.process import awake

# What a machine has at the beginning, and never more
PURSE = 2000.0

# What comes in each second, in each interval between heartbeats, and for each result
# that it owed
A_SECOND = 1.0
A_HEARTBEAT = 2.0
A_RESULT = 20.0

# What things cost. Of messages that make no sense the second in a row costs twice as
# much, and so on: a machine that says nothing else is lost after a dozen
LINE = 1.0
SHOWN = 2.0             # a line that people are shown
MESSAGE = 1.0
COMPLAINT = 5.0         # an error, an unknown kind
NONSENSE = 20.0


class OverBudget(BuildmanError):
    """A machine has sent too much; the message says of what."""


class Budget:
    """The purse of one machine; may be used from several threads."""

    def __init__(self, clock: Callable[[], float] = awake.now) -> None:
        """Fill it.

        Args:
            clock: seconds
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._left = PURSE
        self._then = clock()
        self._rate = A_SECOND
        self._row = 0
        self._count: 'collections.Counter[str]' = collections.Counter()
        self._cost: 'collections.Counter[str]' = collections.Counter()
        self._reason = ''

    @property
    def reason(self) -> str:
        """Why the machine is lost, '' as long as it can pay."""
        return self._reason

    def expect_heartbeats(self, interval: float) -> None:
        """Let heartbeats come each `interval` seconds; 0: none do."""
        with self._lock:
            self._rate = A_SECOND + (A_HEARTBEAT / interval if interval else 0.0)

    def earn(self) -> None:
        """A result came that was owed."""
        with self._lock:
            self._left = min(PURSE, self._left + A_RESULT)

    def sense(self) -> None:
        """A message came that makes sense."""
        self._row = 0

    def nonsense(self) -> None:
        """A message came that makes none.

        Raises:
            OverBudget: as of spend()
        """
        self._row += 1
        self.spend(NONSENSE * self._row, 'messages that make no sense')

    def spend(self, price: float, what: str) -> None:
        """Pay for something.

        Args:
            price: of one
            what: name for several of them

        Raises:
            OverBudget: the purse is empty, now or since earlier
        """
        with self._lock:
            now = self._clock()
            self._left = min(PURSE, self._left + (now - self._then) * self._rate) - price
            self._then = now
            self._count[what] += 1
            self._cost[what] += round(price)
            if self._left < 0 and not self._reason:
                most = ', '.join(f'{self._count[name]} {name}'
                                 for name, cost in self._cost.most_common(3)
                                 if cost >= PURSE / 10)
                self._reason = f'it sent too much that it does not owe: {most}'
            if self._reason:
                raise OverBudget(self._reason)
