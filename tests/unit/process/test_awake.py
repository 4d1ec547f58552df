# SPDX-License-Identifier: GPL-2.0+
"""The time in which a process is awake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unittest
from typing import List

from support import TOOLS, wait_until

from buildman.process import awake

# Prints when it has looked at the clock, and how far that went since the last line
PROGRAM = '''
import sys, time
from buildman.process import awake
last = awake.now()
for line in sys.stdin:
    now, last = awake.now() - last, awake.now()
    print(now, flush=True)
'''


class ClockTest(unittest.TestCase):
    """A clock that is looked at by hand"""

    def test_pause(self) -> None:
        """What is looked at often goes as it goes; of a pause a moment is counted"""
        times: List[float] = [100.0]
        clock = awake.Clock(lambda: times[0])
        begun = clock.now()
        for _ in range(50):
            times[0] += awake.TICK
            clock.now()
        self.assertAlmostEqual(50 * awake.TICK, clock.now() - begun)
        times[0] += 3600
        self.assertAlmostEqual(50 * awake.TICK + awake.MAX_STEP, clock.now() - begun)
        times[0] += awake.TICK
        self.assertAlmostEqual(51 * awake.TICK + awake.MAX_STEP, clock.now() - begun)


class ProcessTest(unittest.TestCase):
    """The clock of a process"""

    def test_stopped(self) -> None:
        """It goes on by itself, and stands still while the process does"""
        with subprocess.Popen([sys.executable, '-c', PROGRAM], text=True, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': TOOLS}
                              ) as proc:
            assert proc.stdin and proc.stdout

            def ask() -> float:
                proc.stdin.write('\n')
                proc.stdin.flush()
                return float(proc.stdout.readline())

            ask()
            begun = time.monotonic()
            wait_until(lambda: time.monotonic() > begun + 1.5)
            self.assertGreater(ask(), 0.9)
            os.kill(proc.pid, signal.SIGSTOP)
            stopped = time.monotonic()
            wait_until(lambda: time.monotonic() > stopped + 2)
            os.kill(proc.pid, signal.SIGCONT)
            self.assertLess(ask(), 1.5)
            proc.stdin.close()
