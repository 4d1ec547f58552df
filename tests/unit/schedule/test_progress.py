# SPDX-License-Identifier: GPL-2.0+
"""The progress line and the messages around it, with a clock of our own."""

from __future__ import annotations

import io
import unittest

from support import render_screen

from buildman.core.outcome import Outcome
from buildman.schedule.progress import Aftermath, Status


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
        self.assertEqual(self.status.line('a'), '    1    0    0 /4       -3      a')
        self.status.left = lambda: 30.4
        self.assertEqual(self.status.line('a'), '    1    0    0 /4       -3      0:00:30  : a')
        counts.add(0, True)
        counts.add(2, True)
        counts.add(2, False)
        self.assertEqual(self.status.line('b [far]'),
                         '    1    1    2 /4               b [far]')

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


class TestAftermath(unittest.TestCase):
    """Pure text"""

    def test_nothing(self) -> None:
        """A run without a mishap does not speak of any"""
        told = Aftermath()
        told.built('alpha', 'a')
        self.assertEqual([], told.lines())

    def test_all(self) -> None:
        """Who, when, why; and what was built where"""
        told = Aftermath()
        told.built('alpha', 'b')
        told.note('alpha', 72.4, 'was lost: no sign of life for 3 s', ['a', 'b', 'c'])
        told.built('beta', 'a')
        told.built('', 'b')
        told.built('beta', 'b')
        told.note('gamma', 80, 'was put aside: 3 boards in a row failed there', [])
        told.again('d')
        told.built('beta', 'd')
        told.again('e')
        self.assertEqual([
            'What happened to machines:',
            '  alpha was lost: no sign of life for 3 s (after 0:01:12); a built on beta; '
            'b built on beta, local; c not built',
            '  gamma was put aside: 3 boards in a row failed there (after 0:01:20)',
            '  tried again after a failure of a machine: d built on beta; e not built'],
            told.lines())

    def test_many(self) -> None:
        """A machine of 64 threads does not fill the screen"""
        told = Aftermath()
        told.note('big', 1, 'was lost: x', [f'b{i}' for i in range(65)])
        for i in range(65):
            told.built('beta', f'b{i}')
        self.assertIn('b6 b7 and 57 more built on beta', told.lines()[1])
