# SPDX-License-Identifier: GPL-2.0+
"""Whether time stamps can be trusted."""

from __future__ import annotations

import os
import tempfile
import time
import unittest

from support import needs

from buildman.process.clock import Clock, newer_than_now, outdate

SECOND = 10 ** 9


class TestStamps(unittest.TestCase):
    """Files that are newer than now"""

    def setUp(self) -> None:
        needs('find')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = os.path.join(temp.name, 'a folder')
        os.makedirs(os.path.join(self.dir, 'deep', 'er'))
        self.paths = [os.path.join(self.dir, name) for name in ('a', 'deep/b\n', 'deep/er/c')]
        for path in self.paths:
            with open(path, 'wb'):
                pass

    def ahead(self, path: str, seconds: float) -> None:
        """Give a file another time"""
        when = time.time() + seconds
        os.utime(path, (when, when), follow_symlinks=False)

    def test_newer(self) -> None:
        """What was written just now is not; what is ahead is, wherever it lies"""
        self.assertEqual([], newer_than_now(self.dir))
        self.assertEqual([], newer_than_now(os.path.join(self.dir, 'nosuch')))
        for path in self.paths[1:]:
            self.ahead(path, 60)
        self.assertEqual(self.paths[1:], sorted(newer_than_now(self.dir)))
        self.assertEqual(1, len(newer_than_now(self.dir, first=True)))
        self.assertEqual(['a', 'deep'], sorted(os.listdir(self.dir)))

    def test_outdate(self) -> None:
        """Where one is, all are out of date; else nothing is touched"""
        link = os.path.join(self.dir, 'link')
        os.symlink('nosuch', link)
        before = os.stat(self.paths[0]).st_mtime_ns
        outdate(self.dir)
        self.assertEqual(before, os.stat(self.paths[0]).st_mtime_ns)
        self.ahead(link, 60)
        outdate(self.dir)
        self.assertEqual({0}, {os.lstat(path).st_mtime_ns for path in (link, *self.paths)})


class TestClock(unittest.TestCase):
    """A clock that is set"""

    def ask(self, *readings: 'tuple[float, float, float]') -> 'list[bool]':
        """Return what a clock says, each time of (steady, time of day, steady again)"""
        now = iter([int(time * SECOND) for _, time, _ in readings])
        steady = iter([int(time * SECOND) for one, _, two in readings for time in (one, two)])
        clock = Clock(lambda: next(now), lambda: next(steady))
        return [clock.went_back() for _ in readings[1:]]

    def test_steps(self) -> None:
        """Set back is told once; set ahead is not, nor a process that had to wait"""
        self.assertEqual(self.ask((5, 1000, 5), (6, 1001, 6), (7, 1000, 7), (8, 1001, 8)),
                         [False, True, False])
        self.assertEqual(self.ask((5, 1000, 5), (6, 1301, 6), (7, 1302, 7), (8, 1003, 8)),
                         [False, False, True])
        # The clock is read, then another process has its turn, or the reverse
        self.assertEqual(self.ask((5, 1000, 9), (10, 1005, 10), (11, 1016, 21), (22, 1017, 22)),
                         [False, False, False])
        self.assertEqual(self.ask((5, 1000, 5), (6, 1005, 10), (11, 1006, 11)), [False, False])

    def test_real(self) -> None:
        """Nobody sets that of this machine"""
        clock = Clock()
        self.assertEqual([False] * 1000, [clock.went_back() for _ in range(1000)])
