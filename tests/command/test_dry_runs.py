# SPDX-License-Identifier: GPL-2.0+
"""Runs that build nothing, one after the other, as scripts do them: quick, and without a trace."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import unittest
from typing import Dict, List
from unittest import mock

import support

from buildman.boards import cache, select
from tests.unit.boards import test_scan

WARNING = test_scan.WARNINGS[0]


class DryRunsTest(test_scan.KconfigCase):
    """Each but the first needs no scan, wherever its output would go."""

    def setUp(self) -> None:
        super().setUp()
        self.cache_home = os.path.join(self.top, 'cache')
        self.write('Makefile', '')
        with open(os.path.join(self.top, 'empty'), 'wb'):
            pass

    def start(self, *args: str, cache: str = '') -> 'subprocess.Popen[str]':
        env: Dict[str, str] = dict(os.environ, XDG_CACHE_HOME=cache or self.cache_home)
        return subprocess.Popen(
            [*support.command(), '-G', os.path.join(self.top, 'empty'), *args],
            cwd=self.src, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run_dry(self, out: str, *args: str, cache: str = '', scans: bool) -> List[str]:
        """Do a dry run and return the names of the boards.

        A scan tells that a board has no maintainer; a list that was kept does not.
        """
        folder = os.path.join(self.top, out)
        there = os.path.isdir(folder)
        proc = self.start('-n', '-v', '-o', folder, *args, cache=cache)
        text, err = proc.communicate(timeout=support.TIMEOUT)
        self.assertEqual((proc.returncode, err), (0, f'{WARNING}\n' if scans else ''))
        self.assertEqual(os.path.isdir(folder), there)
        return [name for line in text.splitlines() if line.startswith('   ')
                for name in line.split()]

    def test_rows(self) -> None:
        """A new output folder each time, --boards, a change, another clone"""
        everything = ['n1', 'a2', 'a1', 'r2', 'r1', 's1']
        self.assertEqual(self.run_dry('one', scans=True), everything)
        self.assertEqual(self.run_dry('two', scans=False), everything)
        self.assertEqual(self.run_dry('three', '--boards', 'a1,r2', scans=False), ['a1', 'r2'])
        self.assertEqual(self.run_dry('three', 'arm', scans=False), ['a2', 'a1'])
        self.write('configs/s1_defconfig', 'CONFIG_ARM=y\n')
        self.assertEqual(self.run_dry('four', 'arm', scans=True), ['a2', 's1', 'a1'])
        self.assertEqual(self.run_dry('five', '--boards', 'r1', scans=False), ['r1'])
        # The same content elsewhere, as CI has it
        again = os.path.join(self.top, 'again')
        subprocess.run(['cp', '-r', self.src, again], check=True)
        self.assertEqual(self.run_dry('six', 'arm', '-g', again, scans=False), ['a2', 's1', 'a1'])
        # A folder that is there gets its list, as one of a build does
        os.mkdir(os.path.join(self.top, 'out'))
        self.assertEqual(self.run_dry('out', 'arm', scans=False), ['a2', 's1', 'a1'])
        self.assertIn('s1', read_text(self.cache))

    def test_loads_little(self) -> None:
        """Without a scan, what scans is not even loaded; nor is what builds"""
        for _ in range(2):
            with mock.patch.dict(os.environ, PYTHONPROFILEIMPORTTIME='1'):
                proc = self.start('-n', '-o', os.path.join(self.top, 'out'))
            loaded = set(re.findall(r'\| +([\w.]+)$', proc.communicate(
                timeout=support.TIMEOUT)[1], re.MULTILINE))
        self.assertIn('buildman.boards.select', loaded)
        self.assertEqual(set(), loaded & {
            'buildman.boards.scan', 'buildman.boards.evaluate', 'buildman.process.fork', 'pickle',
            'datetime', 'buildman.build.slots', 'buildman.schedule.loop'})

    def test_first_with_boards(self) -> None:
        """The first names its boards only: the next is quick all the same"""
        self.assertEqual(self.run_dry('one', '--boards', 'r2', scans=True), ['r2'])
        self.assertEqual(self.run_dry('two', '--boards', 'a1', scans=False), ['a1'])

    def test_broken_board(self) -> None:
        """A board that cannot be read is the fault of those who want it"""
        self.write('configs/bad_defconfig', '<<<<<<< HEAD\n')
        for _ in range(2):
            proc = self.start('-n', '--boards', 'r2')
            text, err = proc.communicate(timeout=support.TIMEOUT)
            self.assertEqual((proc.returncode, err), (0, ''))
            self.assertIn('Total boards to build for each commit: 1', text)

    def test_nowhere_to_keep(self) -> None:
        """Without a cache each one scans, and says the same"""
        nowhere = os.path.join(self.top, 'empty')
        for _ in range(2):
            self.assertEqual(self.run_dry('one', cache=nowhere, scans=True)[:2], ['n1', 'a2'])

    def test_at_once(self) -> None:
        """Runs at the same time do not spoil each other's list"""
        procs = [self.start('-n', '-o', os.path.join(self.top, 'one'), 'arm') for _ in range(4)]
        for proc in procs:
            text, _ = proc.communicate(timeout=support.TIMEOUT)
            self.assertEqual(proc.returncode, 0)
            self.assertIn('arm : 2 boards', text)
        self.assertEqual(self.run_dry('two', 'arm', scans=False), ['a2', 'a1'])
        folder, = os.scandir(os.path.join(self.cache_home, 'buildman', 'boards'))
        self.assertEqual(sorted(os.listdir(folder.path)), ['.boards.cfg.stamp', 'boards.cfg'])


def read_text(path: str) -> str:
    """Return the text of a file."""
    with open(path, encoding='utf-8') as inf:
        return inf.read()


class PlaceTest(unittest.TestCase):
    """The cache is the user's own, and does not grow for ever."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.tmp = tmp.name

    def folder(self, **env: str) -> str:
        with mock.patch.dict(os.environ, {'HOME': self.tmp, 'XDG_CACHE_HOME': '', **env}):
            return cache.lists_folder()

    def test_where(self) -> None:
        mine = os.path.join(self.tmp, '.cache', 'buildman', 'boards')
        other = os.path.join(self.tmp, 'other')
        blocker = os.path.join(self.tmp, 'blocker')
        with open(blocker, 'wb'):
            pass
        self.assertEqual(self.folder(), mine)
        self.assertEqual(self.folder(XDG_CACHE_HOME='relative'), mine)
        self.assertEqual(self.folder(XDG_CACHE_HOME=other), os.path.join(other, 'buildman/boards'))
        self.assertEqual(self.folder(XDG_CACHE_HOME=blocker), '')
        self.assertEqual(self.folder(HOME='relative'), '')
        self.assertEqual(os.listdir(self.tmp), ['blocker'])

    def test_other_owner(self) -> None:
        """Root with the HOME of a user leaves nothing there, and trusts nothing there"""
        with mock.patch('os.geteuid', return_value=os.geteuid() + 1):
            self.assertEqual(self.folder(), '')

    def test_bound(self) -> None:
        """The lists that were not used for longest go"""
        paths = []
        with mock.patch.dict(os.environ, {'XDG_CACHE_HOME': self.tmp}):
            for num in range(cache.KEEP + 3):
                path = cache.list_path(os.path.join(self.tmp, str(num)))
                select.write_atomically(path, '# boards\n')
                os.utime(path, (num, num))
                paths.append(path)
        cache.note_use(paths[0])
        cache.remove_old(paths[2])
        left = [num for num, path in enumerate(paths) if os.path.exists(path)]
        self.assertEqual(left, [0, 2, *range(5, cache.KEEP + 3)])
        self.assertEqual(len(os.listdir(os.path.dirname(os.path.dirname(paths[0])))),
                         cache.KEEP)
