# SPDX-License-Identifier: GPL-2.0+
"""FAULT 25: a folder in which no program can be run, as its mount forbids that."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Any, ClassVar, Dict, List

import support
from dist_support import DistCase, read


def mounted(folder: str) -> List[str]:
    """Return the start of a command for which there is such a folder.

    Its mount is in a name space of its own, and gone with the command.
    """
    unshare = ['unshare', '-m'] if os.getuid() == 0 else ['unshare', '-rm']
    mount = f'mount -t tmpfs -o noexec,size=90% none {shlex.quote(folder)} && exec "$@"'
    return [*unshare, 'sh', '-c', mount, 'mounted']


class TestNoExec(DistCase):
    """Every board used to fail there, and nothing said why"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}

    def setUp(self) -> None:
        support.needs('unshare')
        super().setUp()

    def test_machine(self) -> None:
        """A machine whose work folder is so takes no part, and is named with the cause"""
        self.ways['beta'] = f"{shlex.join(mounted(self.work_dir('beta')))} sh -c"
        self.machines('alpha', 'beta')
        ref, status = self.local()
        done = self.dist('--no-local')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertEqual({'alpha'}, set(self.hosts().values()))
        self.assertIn(f"programs in '{self.work_dir('beta')}' there cannot be run: Permission "
                      'denied; see work_dir in [machine:NAME]',
                      read(self.results(), 'worker-beta.log'))

    def test_here(self) -> None:
        """The output folder of a local build: one line, exit status 2, no result"""
        os.mkdir(self.out())
        argv = self.argv('-b', 'feature', '-o', self.out())
        done = subprocess.run([*mounted(self.out()), *argv], cwd=self.tree.path, env=self.env(),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
        self.assertEqual(2, done.returncode, done)
        self.assertRegex(done.stderr, r"\Abuildman: programs in '.*/\.bm-work', where builds put "
                         r'theirs, cannot be run: Permission denied; choose another .* -o\n\Z')
