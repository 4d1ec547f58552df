# SPDX-License-Identifier: GPL-2.0+
"""Whatever writes to the source of a slot is noticed."""

from __future__ import annotations

import mmap
import os
import subprocess
import tempfile
import unittest
from typing import Callable, List
from unittest import mock

from buildman.source import writes
from buildman.source.writes import Watch, Watches


class TestWatch(unittest.TestCase):
    """Two slots with a folder each, and a file that both have"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.watches = Watches()
        self.addCleanup(self.watches.close)
        self.slots: List[Watch] = []
        for name in ('00', '01'):
            os.makedirs(self.path(name, 'd', 'e'))
            os.mkdir(self.path(name, 'build'))
            for file in ('a', 'd/e/b'):
                with open(self.path(name, file), 'wb') as outf:
                    outf.write(b'one')
        os.link(self.path('00', 'a'), self.path('00', 'shared'))
        os.link(self.path('00', 'a'), self.path('01', 'shared'))
        for name in ('00', '01'):
            made = self.watches.watch(self.path(name), ['d', 'd/e'], 'build')
            self.assertTrue(made, 'the kernel does not tell of writes here')
            assert made
            made.settle(made.alarms())
            self.slots.append(made)

    def path(self, *names: str) -> str:
        """Return a path below the folder of the test"""
        return os.path.join(self.dir, *names)

    def write(self, *names: str) -> None:
        """Write into a file in place"""
        with open(self.path(*names), 'r+b') as outf:
            outf.write(b'two')

    def map(self, *names: str) -> None:
        """Write into a file by way of memory"""
        with open(self.path(*names), 'r+b') as outf, mmap.mmap(outf.fileno(), 3) as data:
            data[0:1] = b'x'

    def test_alarm(self) -> None:
        """Each way to change a source is an alarm for all slots"""
        other = self.path('other')
        with open(other, 'wb'):
            pass
        ways: List[Callable[[], object]] = [
            lambda: self.write('00', 'a'), lambda: self.write('00', 'd', 'e', 'b'),
            lambda: self.map('00', 'a'), lambda: os.truncate(self.path('00', 'a'), 1),
            lambda: os.chmod(self.path('00', 'a'), 0o755),
            lambda: os.rename(other, self.path('00', 'd', 'new')),
            lambda: os.rename(self.path('00', 'd', 'new'), other),
            lambda: os.unlink(self.path('00', 'd', 'e', 'b')),
            lambda: os.symlink('a', self.path('00', 'd', 'link')),
            lambda: self.write('01', 'shared'),
            lambda: subprocess.run(['sh', '-c', f'echo x >>{self.path("00", "a")}'], check=True),
            lambda: subprocess.run(['rm', '-r', self.path('00', 'd')], check=True)]
        for number, way in enumerate(ways):
            with self.subTest(way=number):
                for slot in self.slots:
                    self.assertTrue(slot.is_quiet())
                way()
                for slot in self.slots:
                    self.assertFalse(slot.is_quiet())
                    slot.settle(slot.alarms())

    def test_quiet(self) -> None:
        """What is read, or lies in the build folder, is none"""
        with open(self.path('00', 'a'), 'rb') as inf:
            inf.read()
        os.listdir(self.path('00', 'd'))
        with open(self.path('00', 'build', 'x'), 'wb'):
            pass
        os.rename(self.path('00', 'build'), self.path('00.build'))
        os.mkdir(self.path('00', 'build'))
        # Of a file that both have, one name fewer
        os.unlink(self.path('00.build', 'x'))
        self.assertTrue(self.slots[0].is_quiet())

    def test_moving(self) -> None:
        """A slot's own writes are none, and another's meanwhile is one"""
        with self.slots[0].moving():
            self.write('00', 'a')
            self.assertTrue(self.slots[1].is_quiet())
            os.unlink(self.path('00', 'shared'))
        self.assertTrue(self.slots[0].is_quiet())
        with self.slots[0].moving():
            self.write('01', 'a')
        self.assertFalse(self.slots[0].is_quiet())
        self.slots[0].settle(self.slots[0].alarms())
        # What came before counts, although nobody has asked since
        self.write('00', 'a')
        with self.slots[0].moving():
            pass
        self.assertFalse(self.slots[0].is_quiet())

    def test_unsettled(self) -> None:
        """Nothing is known of a slot before it was looked at"""
        made = self.watches.watch(self.path('00'), [], 'build')
        assert made
        self.assertFalse(made.is_quiet())

    def test_extend(self) -> None:
        """New folders are watched when that is asked for; one that is not there is said"""
        with self.slots[0].moving():
            os.makedirs(self.path('00', 'n', 'm'))
        self.assertTrue(self.slots[0].extend(['n', 'n/m']))
        with open(self.path('00', 'n', 'm', 'x'), 'wb'):
            pass
        self.assertFalse(self.slots[0].is_quiet())
        self.assertFalse(self.slots[0].extend(['missing']))
        self.assertFalse(self.slots[0].extend(['a']))

    def test_close(self) -> None:
        """When one slot is not watched any more, its builds may write to what all have"""
        self.assertTrue(self.slots[1].is_quiet())
        self.slots[0].close()
        for _ in range(2):
            self.assertFalse(self.slots[1].is_quiet())
            self.slots[1].settle(self.slots[1].alarms())

    def test_end(self) -> None:
        """After the end nothing is told"""
        self.watches.close()
        self.slots[1].settle(self.slots[1].alarms())
        self.assertFalse(self.slots[1].is_quiet())

    def test_too_many(self) -> None:
        """When the kernel has to drop events, that is an alarm"""
        with open('/proc/sys/fs/inotify/max_queued_events', encoding='ascii') as inf:
            most = int(inf.read())
        with self.slots[0].moving():
            for _ in range(most // 2 + 10):
                # Two in turn, as the same event twice is told once
                os.chmod(self.path('00', 'a'), 0o600)
                os.chmod(self.path('00', 'shared'), 0o600)
        self.assertFalse(self.slots[1].is_quiet())

    def test_limit(self) -> None:
        """Our share of what the user may watch is not exceeded"""
        with mock.patch.object(writes, 'most_watches', return_value=3):
            watches = Watches()
        self.assertIsNone(watches.watch(self.path('00'), ['d', 'd/e', 'build'], 'build'))
        # What it took for that was given back
        self.assertTrue(watches.watch(self.path('00'), ['d'], 'build'))
        watches.close()
        with mock.patch.object(writes, 'LIMIT_FILE', self.path('limit')):
            self.assertEqual(writes.most_watches(), writes.MOST)
            with open(self.path('limit'), 'w', encoding='ascii') as outf:
                outf.write('8192\n')
            self.assertEqual(writes.most_watches(), 4096)

    def test_nothing(self) -> None:
        """Without help of the kernel there is no watch"""
        with mock.patch.object(writes, 'load_libc', side_effect=ImportError):
            self.assertIsNone(Watches().watch(self.path('00'), [], 'build'))
        self.watches.close()
        self.assertIsNone(self.watches.watch(self.path('00'), [], 'build'))
        self.assertIsNone(Watches().watch(self.path('00'), ['missing'], 'build'))
        # A file system that does not tell
        with mock.patch.object(writes, 'CHANGES', 0x1):
            self.assertIsNone(Watches().watch(self.path('01'), [], 'build'))
