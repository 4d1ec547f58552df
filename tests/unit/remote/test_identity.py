# SPDX-License-Identifier: GPL-2.0+
"""Whether the boss that holds a machine is dead: only if that is sure."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import unittest

from buildman.agent import procfs
from buildman.remote import identity, scripts


class TestDead(unittest.TestCase):
    """is_dead()"""

    def setUp(self) -> None:
        self.owner = scripts.new_owner()

    def gone(self) -> int:
        """Return the number of a process that has ended"""
        with subprocess.Popen(['true']) as proc:
            proc.wait()
        return proc.pid

    def test_alive(self) -> None:
        """This process is not"""
        self.assertTrue(self.owner.boss_home and self.owner.boss_start)
        self.assertFalse(identity.is_dead(self.owner))

    def test_dead(self) -> None:
        """One that has ended is, also when its number is somebody else's now"""
        self.assertTrue(identity.is_dead(dataclasses.replace(self.owner, pid=self.gone())))
        self.assertTrue(identity.is_dead(dataclasses.replace(self.owner, boss_start='1')))

    def test_zombie(self) -> None:
        """One that nobody has waited for is"""
        with subprocess.Popen(['sleep', '60']) as proc:
            owner = dataclasses.replace(self.owner, pid=proc.pid,
                                        boss_start=procfs.start_time(proc.pid))
            self.assertFalse(identity.is_dead(owner))
            proc.kill()
            os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
            self.assertTrue(identity.is_dead(owner))

    def test_unknown(self) -> None:
        """Of one elsewhere, or that tells too little, nobody knows"""
        dead = dataclasses.replace(self.owner, pid=self.gone())
        for change in ({'boss_home': 'another boot'}, {'boss_home': ''}, {'boss_start': ''},
                       {'pid': 0}, {'run': ''}):
            self.assertFalse(identity.is_dead(dataclasses.replace(dead, **change)), change)
        self.assertFalse(identity.is_dead(None))

    def test_other_user(self) -> None:
        """A process that may not be signalled is there"""
        self.assertFalse(identity.is_dead(dataclasses.replace(
            self.owner, pid=1, boss_start=procfs.start_time(1))))
