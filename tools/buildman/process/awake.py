# SPDX-License-Identifier: GPL-2.0+
"""The time that this process has been awake.

A process that was stopped (Ctrl-Z), or whose machine was suspended, finds when it
goes on that all its deadlines are over, although nobody had a chance to keep them,
and although what it waits for may lie in its pipes. So what waits for somebody else
measures by now(), which stands still meanwhile.

A thread looks at the time now and then. That it was late to do so means that none of
us ran: for a pause no more is counted than it may be late.
"""

from __future__ import annotations

import threading
import time
from typing import Callable

# Seconds between two looks, and what one pause counts at most
TICK = 0.2
MAX_STEP = 0.6


class Clock:
    """Seconds, without those in which nobody looked for longer than MAX_STEP."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to count.

        Args:
            clock: the seconds in which pauses count
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._seconds = self._last

    def now(self) -> float:
        """Return the seconds; to be called at least each TICK."""
        with self._lock:
            now = self._clock()
            self._seconds += min(max(0.0, now - self._last), MAX_STEP)
            self._last = now
            return self._seconds


class _Ticking:
    """A clock that a thread looks at, made when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clock = Clock()
        self._begun = False

    def now(self) -> float:
        """Return the seconds, which count from now on if they did not before."""
        if not self._begun:
            with self._lock:
                if not self._begun:
                    self._clock = Clock()
                    threading.Thread(target=self._tick, daemon=True, name='awake').start()
                    self._begun = True
        return self._clock.now()

    def _tick(self) -> None:
        """Look at the clock for ever"""
        while True:
            time.sleep(TICK)
            self._clock.now()


_TICKING = _Ticking()


def now() -> float:
    """Return the seconds for which this process has been awake, from any beginning."""
    return _TICKING.now()
