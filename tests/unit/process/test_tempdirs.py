# SPDX-License-Identifier: GPL-2.0+
"""Temporary folders of bosses that were killed do not fill the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from support import TOOLS

from buildman.process import tempdirs


class TestTempdirs(unittest.TestCase):
    """Real processes"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        patch = mock.patch.object(tempfile, 'tempdir', temp.name)
        patch.start()
        self.addCleanup(patch.stop)
        self.dir = temp.name

    def maker(self) -> 'subprocess.Popen[str]':
        """Start a process that has a folder until its input ends; its first line is the path"""
        proc = subprocess.Popen(
            [sys.executable, '-c', 'import sys; from buildman.process import tempdirs; '
             'print(tempdirs.make(), flush=True); sys.stdin.read()'], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(os.environ, TMPDIR=self.dir, PYTHONPATH=TOOLS))
        self.addCleanup(proc.communicate)
        self.addCleanup(proc.kill)
        return proc

    def test_stale(self) -> None:
        """That of a dead process is removed by the next one, those in use are not"""
        one, two = self.maker(), self.maker()
        assert one.stdout and two.stdout
        paths = [proc.stdout.readline().strip() for proc in (one, two) if proc.stdout]
        other = os.path.join(self.dir, tempdirs.PREFIX + 'unfinished')
        os.mkdir(other)
        one.kill()
        one.wait()
        mine = tempdirs.make()
        self.assertEqual([False, True, True, True],
                         [os.path.exists(path) for path in (*paths, other, mine)])
        os.utime(other, (1, 1))
        tempdirs.remove(mine)
        tempdirs.remove(mine)
        self.assertFalse(os.path.exists(mine))
        tempdirs.remove(tempdirs.make())
        self.assertEqual([os.path.basename(paths[1])], os.listdir(self.dir))
