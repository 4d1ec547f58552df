# SPDX-License-Identifier: GPL-2.0+
"""The progress line and the messages around it, with a clock of our own."""

from __future__ import annotations

import io
import unittest

from support import render_screen

from buildman.core.outcome import Outcome
from buildman.schedule.progress import Status


class Terminal(io.StringIO):
    """A stream that says it is a terminal"""

    def isatty(self) -> bool:
        return True


class TestStatus(unittest.TestCase):
    """Text, line for line"""

    def setUp(self) -> None:
        self.now = 100.0
        self.out = io.StringIO()
        self.status = Status(self.out, clock=lambda: self.now)

    def test_line(self) -> None:
        """Counts, what is left, how long it takes: people plan by it"""
        self.status.start(4)
        counts = self.status.counts
        self.now += 10
        counts.add(0, False)
        self.assertEqual(self.status.line('a'), '    1    0    0 /4       -3      0:00:30  : a')
        counts.add(0, True)
        counts.add(2, True)
        counts.add(2, False)
        self.assertEqual(self.status.line('b [far]'),
                         '    1    1    2 /4               b [far]')

    def test_estimate_of_a_resumed_run(self) -> None:
        """Results of an earlier run took no time now"""
        self.status.start(10)
        counts = self.status.counts
        for _ in range(8):
            counts.add(0, False)
            counts.previous += 1
        self.now += 10
        counts.add(0, False)
        self.assertIn('0:00:10  : a', self.status.line('a'))

    def test_closing(self) -> None:
        """The last line, as scripts read it"""
        counts = self.status.counts
        self.status.start(72)
        for _ in range(60):
            counts.add(0, False)
            counts.previous += 1
        self.assertEqual(self.status.closing(), 'Completed: 60 total built (60 previously)')
        for _ in range(12):
            counts.add(0, False)
        counts.reconfigured = 1
        self.now += 3723
        self.assertEqual(self.status.closing(), 'Completed: 72 total built (60 previously, '
                         '12 newly, 1 reconfig), duration 1:02:03, rate 0.00')

    def test_say_while_drawn(self) -> None:
        """A message does not mix with the line"""
        out = Terminal()
        status = Status(out, colour=False, clock=lambda: self.now)
        status.start(2)
        status.counts.add(0, False)
        status.progress('first')
        status.say('message')
        self.now += 1
        status.counts.add(0, False)
        status.progress('second')
        status.end_line()
        self.assertEqual(render_screen(out.getvalue()),
                         ['message', '    2    0    0 /2               second', ''])

    def test_ide(self) -> None:
        """An editor that parses the errors gets nothing else"""
        ide = io.StringIO()
        status = Status(self.out, ide=ide)
        status.start(1)
        status.counts.add(2, False)
        status.result(Outcome('b', 0, 2, stderr='a.c:1: error: x\n'))
        status.progress('b')
        self.assertEqual((self.out.getvalue(), ide.getvalue()), ('', 'a.c:1: error: x\n'))
