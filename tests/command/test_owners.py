# SPDX-License-Identifier: GPL-2.0+
"""A name that means two things: no branch loses its results to what looks the same."""

from __future__ import annotations

import os
import shutil
import subprocess

import support


class TestNames(support.SampleCase):
    """Branches f/x (two commits) and f_x (another one) on top of master"""

    def setUp(self) -> None:
        super().setUp()
        self.repo = self.out('repo')
        self.git('clone', '-q', '-b', 'feature', self.tree.path, self.repo, cwd=self.tmp)
        self.git('branch', '-q', 'master', 'feature~8')
        self.git('branch', '-q', 'f/x', 'feature~6')
        self.git('branch', '-q', 'f_x', self.git(
            '-c', 'user.name=A', '-c', 'user.email=a@example.com', 'commit-tree', '-p', 'master',
            '-m', 'Another', 'master^{tree}'))
        for name in ('f/x', 'f_x', 'feature'):
            self.git('branch', '-q', '--set-upstream-to=master', name)
        self.letters = {self.git('rev-parse', name): letter for name, letter in (
            ('master', 'a'), ('f/x~', 'b'), ('f/x', 'c'), ('f_x', 'x'))}

    def git(self, *args: str, cwd: str = '') -> str:
        """Run git in the repository"""
        return subprocess.run(['git', *args], cwd=cwd or self.repo, check=True,
                              capture_output=True, text=True).stdout.strip()

    def build(self, *args: str) -> support.Result:
        """Configure a board"""
        return self.run_buildman('-o', self.out(), '--boards', 'hammock', '--config-only', *args,
                                 cwd=self.repo)

    def commits(self, folder: str) -> str:
        """Return which commits have results: their places in f/x, a to c, and x of f_x"""
        return ''.join(sorted(self.letters[name.split('_')[1][1:]] for name in os.listdir(
            self.out(os.path.join('out', folder))) if '_g' in name))

    def test_same_folder(self) -> None:
        """The second branch is refused, whoever built the first; its own folder it may have"""
        self.assertEqual(self.build('-b', 'f/x').returncode, 0)
        for args in ([], ['-n'], ['-s']):
            done = self.build('-b', 'f_x', *args)
            self.assertEqual((done.returncode, done.stderr, done.stdout), (
                2, f"buildman: '{self.out()}/f_x' has the results of 'refs/heads/f/x', not of "
                "'refs/heads/f_x': choose another output folder with -o, or remove that one\n", ''))
            self.assertEqual(self.commits('f_x'), 'abc')
            # As upstream leaves it
            shutil.rmtree(self.out('out/f_x/.bm-work'), ignore_errors=True)
        self.assertEqual(self.build('-b', 'f/x').returncode, 0)
        # Nothing to lose
        for name in os.listdir(self.out('out/f_x')):
            if '_g' in name:
                shutil.rmtree(self.out(f'out/f_x/{name}'))
        self.assertEqual(self.build('-b', 'f_x').returncode, 0)
        self.assertEqual(self.commits('f_x'), 'ax')
        self.assertIn("'refs/heads/f_x', not of 'refs/heads/f/x'", self.build('-b', 'f/x').stderr)

    def test_tag(self) -> None:
        """A branch goes before a tag of the same name, alone and in a range"""
        self.git('tag', 'f/x', 'master')
        told = "'f/x' is ambiguous: 'refs/heads/f/x' is built, not 'refs/tags/f/x'\n"
        self.assertEqual(self.build('-b', 'f/x').stderr, told)
        self.assertEqual(self.commits('f_x'), 'abc')
        self.assertEqual(self.build('-b', 'master..f/x').stderr, told)
        self.assertEqual(self.commits('master..f_x'), 'bc')
        self.assertEqual(self.build('-b', 'f/x~', '-c', '1').stderr, told)
        self.assertEqual(self.commits('f_x~'), 'b')
        self.assertEqual(self.build('-b', 'refs/tags/f/x', '-c', '1').stderr, '')
        # The branch is gone: what was built of it is not the tag's
        self.git('branch', '-D', 'f/x')
        self.assertIn("not of 'refs/tags/f/x'", self.build('-b', 'f/x', '-c', '1').stderr)

    def test_common(self) -> None:
        """One folder by the user's wish keeps what is in any branch that was built there"""
        self.build('-N', '-b', 'f/x')
        self.build('-N', '-b', 'f_x')
        self.assertEqual(self.commits(''), 'abcx')
        self.assertIn('Completed: 3 total built (3 previously)', self.build(
            '-N', '-b', 'f/x').stdout)
        self.git('branch', '-q', '-f', 'f_x', 'feature~6')
        self.git('branch', '-q', 'old', 'f_x@{1}')
        self.build('-N', '-b', 'f/x')
        self.git('branch', '-q', '-f', 'f_x', 'old')
        self.assertEqual(self.commits(''), 'abc')

    def test_head(self) -> None:
        """HEAD is whatever branch it is on"""
        for name in ('f/x', 'f_x'):
            self.git('checkout', '-q', name)
            self.assertEqual(self.build('-b', 'HEAD').returncode, 0)
        self.assertEqual(self.commits('HEAD'), 'abcx')

    def test_rewritten(self) -> None:
        """A branch that was rewritten is still that branch: what it had goes"""
        self.build('-b', 'f/x')
        self.git('branch', '-q', 'old', 'f/x')
        self.git('branch', '-q', '-f', 'f/x', 'f_x')
        self.assertIn('Removing 2 old', self.build('-b', 'f/x').stdout)
        self.git('branch', '-q', '-f', 'f/x', 'old')
        self.assertEqual(self.commits('f_x'), 'ax')
