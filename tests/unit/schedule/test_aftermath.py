# SPDX-License-Identifier: GPL-2.0+
"""The closing paragraph: a user learns which machine to look after, and what it cost."""

from __future__ import annotations

import unittest

from buildman.schedule.aftermath import Aftermath


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
