# SPDX-License-Identifier: GPL-2.0+
"""How much may be built where few processes can be started."""

from __future__ import annotations

import os
import unittest
from unittest import mock

from buildman.process import limits


class LimitsTest(unittest.TestCase):
    """What fits into the room that there is"""

    def test_fitting(self) -> None:
        """What is begun fits; where all fits, nothing is said; more room is never less"""
        before = (0, 0)
        for room in range(400):
            with mock.patch.object(limits, 'headroom', return_value=(room, 'x')):
                slots, jobs, why = limits.fitting(16, 24)
            needed = (limits.BASE + limits.PER_SLOT * slots
                      + limits.PER_JOB * max(0, jobs - slots))
            self.assertTrue(not slots or needed <= room, (room, slots, jobs))
            self.assertEqual((slots, jobs) == (16, 24), not why)
            self.assertGreaterEqual(slots, before[0])
            before = slots, jobs
        self.assertEqual((16, 24), before)

    def test_no_limit(self) -> None:
        """Without a limit all is as it was asked for"""
        with mock.patch.object(limits, 'headroom', return_value=None):
            self.assertEqual((7, 9, ''), limits.fitting(7, 9))

    def test_here(self) -> None:
        """What limits this process can be read, whoever runs it"""
        room = limits.headroom()
        self.assertTrue(room is None or room[0] < 1 << 40)
        with mock.patch.object(os, 'getuid', return_value=os.getuid() or 1), mock.patch.object(
                limits.resource, 'getrlimit', return_value=(5000, 5000)):
            room = limits.headroom()
        assert room
        self.assertTrue(0 < room[0] <= 5000, room)
