# SPDX-License-Identifier: GPL-2.0+
"""What runs on a machine, as /proc tells it."""

from __future__ import annotations

import os
import signal
import subprocess
import unittest
from typing import Dict, List
from unittest import mock

from support import wait_until

from buildman.agent import procfs


class RunningTest(unittest.TestCase):
    """A process of ours, and what is seen of it"""

    def setUp(self) -> None:
        self.proc = subprocess.Popen(['sleep', '1000'], env={**os.environ, 'SIGN': 'it is me'})
        self.addCleanup(self.proc.wait)
        self.addCleanup(self.proc.kill)

    def test_seen(self) -> None:
        """Its parent, user, words and environment; and when it is gone"""
        pid = self.proc.pid
        wait_until(lambda: procfs.arguments(pid) == [b'sleep', b'1000'])
        self.assertEqual(procfs.parents()[pid], os.getpid())
        self.assertEqual(procfs.user_of(pid), os.getuid())
        self.assertIn(b'SIGN=it is me', procfs.environment(pid))
        when = procfs.start_time(pid)
        self.assertTrue(when)
        self.assertEqual(when, procfs.start_time(pid))
        procfs.send({pid}, signal.SIGKILL)
        procfs.wait_gone({pid}, 30)
        self.assertNotIn(pid, procfs.parents())
        self.proc.wait()
        self.assertEqual((procfs.user_of(pid), procfs.start_time(pid)), (-1, ''))
        self.assertEqual((procfs.environment(pid), procfs.arguments(pid)), ([], []))
        procfs.send({pid}, signal.SIGKILL)

    def look(self, *seen: Dict[str, List[bytes]]) -> List[bytes]:
        """Return what is taken for the environment when /proc says one thing after the other"""
        answers = iter(seen)
        state: Dict[str, List[bytes]] = {}

        def read(pid: int, name: str) -> List[bytes]:
            if name == 'environ':
                state.update(next(answers))
            return state[name]

        with mock.patch.object(procfs, 'read_words', read):
            return procfs.environment(self.proc.pid)

    def test_exec(self) -> None:
        """While it begins another program it has neither words nor environment"""
        nothing: Dict[str, List[bytes]] = {'environ': [], 'cmdline': []}
        self.assertEqual(self.look(nothing, nothing, {'environ': [b'A=1'], 'cmdline': [b'x']}),
                         [b'A=1'])
        # One that has none is not waited for
        self.assertEqual(self.look({'environ': [], 'cmdline': [b'x']}), [])

    def test_kernel(self) -> None:
        """A thread of the kernel has none either, nor has a process that is gone"""
        with mock.patch('os.readlink', side_effect=FileNotFoundError):
            self.assertEqual(self.look({'environ': [], 'cmdline': []}), [])
