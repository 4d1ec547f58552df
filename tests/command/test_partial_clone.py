# SPDX-License-Identifier: GPL-2.0+
"""Branches of a clone that has not all objects (git clone --filter)."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any, ClassVar, Dict

from dist_support import DistCase


class PartialCloneTest(DistCase):
    """What such a clone lacks is fetched, all at once; if it cannot be, that is said"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 2}

    def setUp(self) -> None:
        super().setUp()
        self.server = self.out('server')
        shutil.copytree(self.tree.path, self.server, symlinks=True)
        self.git(self.server, 'config', 'uploadpack.allowFilter', 'true')
        self.git(self.server, 'config', 'uploadpack.allowAnySHA1InWant', 'true')

    def git(self, folder: str, *args: str) -> str:
        """Run git; return what it prints."""
        return subprocess.run(['git', '-C', folder, *args], check=True, capture_output=True,
                              text=True).stdout

    def clone(self, what: str, *args: str) -> str:
        """Return a clone of the branch without some objects."""
        path = self.out(f'clone {what}')
        self.git(self.tmp, 'clone', '-q', f'--filter={what}', *args, f'file://{self.server}', path)
        self.git(path, 'branch', '-q', '--set-upstream-to=origin/master', 'feature')
        return path

    def lacks(self, repo: str) -> int:
        """Return how many objects of the branch a clone lacks, as far as it knows."""
        return self.git(repo, 'rev-list', '--objects', '--missing=print',
                        'feature').count('\n?')

    def check(self, what: str, *args: str) -> None:
        """Build a branch: the same results, and no more than one fetch for each kind"""
        ref, status = self.local()
        repo = self.clone(what)
        self.assertTrue(self.lacks(repo))
        # Whatever is done once, it is not for each object
        done = self.run_buildman('-b', 'feature', '-o', self.out(), *args, cwd=repo)
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertIn(done.stdout.count('that this partial clone lacks'), (1, 2))
        done = self.run_buildman('-b', 'feature', '-o', self.out('again'), *args, cwd=repo)
        self.assertNotIn('partial clone', done.stdout)

    def test_here(self) -> None:
        """Without files, and without folders"""
        self.check('blob:none')
        shutil.rmtree(self.out())
        self.check('tree:0')

    def test_machine(self) -> None:
        """The same for a machine"""
        self.check('blob:none', '--dist', '--no-local')
        shutil.rmtree(self.out())
        self.check('tree:0', '--dist', '--no-local')

    def test_folder(self) -> None:
        """The folder as it is, of which not all is checked out, goes to a machine"""
        repo = self.clone('blob:none', '--sparse')
        self.git(repo, 'sparse-checkout', 'set', '--no-cone', '/*', '!/board/**/*.c')
        done = self.run_buildman('-o', self.out(), '--dist', '--no-local', 'sandbox', cwd=repo)
        self.assertIn('that this partial clone lacks', done.stdout)
        self.assertNotIn('took no part', done.stdout)
        self.assertIn('1 total built', done.stdout)

    def test_no_server(self) -> None:
        """A line says what is missing, why, and what to run, before anything is built"""
        repo = self.clone('blob:none')
        os.rename(self.server, self.server + '.away')
        for args in ([], ['--dist', '--no-local']):
            done = self.run_buildman('-b', 'feature', '-o', self.out(), *args, cwd=repo)
            self.assertEqual(2, done.returncode, done)
            self.assertRegex(done.stderr, r"^buildman: '.*clone blob:none' is a partial clone that "
                             r"lacks objects .*fatal: .*server.*; when it can, 'git -C .*' gets "
                             r'all\n\Z')
        os.rename(self.server + '.away', self.server)
        advice = done.stderr.split("when it can, '")[1].split("' gets")[0]
        subprocess.run(advice, shell=True, check=True, capture_output=True)
        self.assertEqual(0, self.lacks(repo))
        done = self.run_buildman('-b', 'feature', '-o', self.out(), cwd=repo)
        self.assertEqual(100, done.returncode, done)
        self.assertNotIn('partial clone', done.stdout)
