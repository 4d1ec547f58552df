# SPDX-License-Identifier: GPL-2.0+
"""Which commits a branch, a range or a count stands for, with the real git."""

import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'tools'))

from support import needs

from buildman.commits import check_repository, find_series
from buildman.errors import GitError, UsageError


class TestCommits(unittest.TestCase):
    """A repository: base - c1 - c2 - c3 - c4 (topic), master at base"""

    @classmethod
    def setUpClass(cls):
        needs('git')
        cls.temp = tempfile.TemporaryDirectory(prefix="a b'c")
        cls.addClassCleanup(cls.temp.cleanup)
        cls.repo = os.path.join(cls.temp.name, 'repo')
        cls.git('init', '-q', '-b', 'master', cls.repo, cwd=cls.temp.name)
        cls.git('config', 'user.name', 'T')
        cls.git('config', 'user.email', 't@example.com')
        cls.commit('older')
        cls.commit('base')
        cls.git('checkout', '-q', '-b', 'topic')
        for i in range(1, 5):
            cls.commit(f'c{i}')

    @classmethod
    def git(cls, *args, cwd=None):
        """Run git"""
        return subprocess.run(['git', *args], cwd=cwd or cls.repo, check=True,
                              capture_output=True, text=True).stdout.strip()

    @classmethod
    def commit(cls, subject):
        """Add a commit"""
        cls.git('commit', '-q', '--allow-empty', '-m', subject)

    def subjects(self, *args, repo=None, **kwargs):
        """Return the subjects of a series"""
        series = find_series(repo or self.repo, *args, **kwargs)
        return ' '.join(series.commits[i].subject for i in series.selected)

    def test_upstream_set(self):
        """The upstream commit comes first, to compare with"""
        self.git('branch', '-q', '--set-upstream-to=master', 'topic')
        self.addCleanup(self.git, 'branch', '--unset-upstream', 'topic')
        self.assertEqual(self.subjects('topic'), 'base c1 c2 c3 c4')
        self.assertEqual(find_series(self.repo, 'topic').messages, ())
        self.assertEqual(self.subjects('topic', 2), 'c3 c4')
        # More than there are: all, not the history before the branch
        self.assertEqual(self.subjects('topic', 50), 'base c1 c2 c3 c4')

    def test_upstream_guessed(self):
        """Without an upstream the nearest branch is taken, and that is said"""
        series = find_series(self.repo, 'topic')
        self.assertEqual([c.subject for c in series.commits], ['base', 'c1', 'c2', 'c3', 'c4'])
        self.assertIn("'master'", series.messages[0])

    def test_upstream_moved_on(self):
        """An upstream with newer commits: the branch starts where it left it"""
        self.git('checkout', '-q', '-b', 'newer', 'master')
        self.commit('later')
        self.git('checkout', '-q', 'topic')
        self.git('branch', '-q', '--set-upstream-to=newer', 'topic')
        self.addCleanup(self.git, 'branch', '-D', 'newer')
        self.addCleanup(self.git, 'branch', '--unset-upstream', 'topic')
        self.assertEqual(self.subjects('topic'), 'base c1 c2 c3 c4')

    def test_step(self):
        """--step thins the series out; 0 leaves its ends"""
        self.assertEqual(self.subjects('topic', step=2), 'base c2 c4')
        self.assertEqual(self.subjects('topic', step=0), 'base c4')
        self.assertEqual(self.subjects('topic', 4, 3), 'c1 c4')
        self.assertEqual(self.subjects('topic', 1, 0), 'c4')

    def test_range(self):
        """A range is built as it is, without its start"""
        self.assertEqual(self.subjects('topic~3..topic~1'), 'c2 c3')
        self.assertEqual(self.subjects('master..'), 'c1 c2 c3 c4')

    def test_other_names(self):
        """A tag, HEAD and a hash name commits as well"""
        self.git('tag', '-f', 'v1', 'topic~1')
        self.addCleanup(self.git, 'tag', '-d', 'v1')
        self.assertEqual(self.subjects('v1'), 'base c1 c2 c3')
        self.assertEqual(self.subjects('HEAD', 1), 'c4')
        self.assertEqual(self.subjects(self.git('rev-parse', 'topic~2'), 2), 'c1 c2')

    def test_detached_worktree_shallow_bare(self):
        """All kinds of repositories are read"""
        tree = os.path.join(self.temp.name, 'tree')
        self.git('worktree', 'add', '-q', '--detach', tree, 'topic')
        self.assertEqual(self.subjects('HEAD', 2, repo=tree), 'c3 c4')
        self.assertEqual(check_repository(os.path.join(tree, '.')), tree)
        shallow = os.path.join(self.temp.name, 'shallow')
        self.git('clone', '-q', '--depth', '3', 'file://' + self.repo, shallow)
        self.assertEqual(self.subjects('HEAD', 9, repo=shallow), 'c2 c3 c4')
        with self.assertRaisesRegex(GitError, 'No commits found.*-c COUNT'):
            find_series(shallow, 'HEAD')
        bare = os.path.join(self.temp.name, 'bare')
        self.git('clone', '-q', '--bare', self.repo, bare)
        self.assertEqual(self.subjects('topic', 1, repo=bare), 'c4')
        self.assertEqual(check_repository(bare), bare)

    def test_errors(self):
        """Each mistake is named, with a way out"""
        for args, error, text in (
                (('nosuch',), GitError, "Branch 'nosuch' not found"),
                (('-q',), GitError, "Branch '-q' not found"),
                (('nosuch..topic',), GitError, "'nosuch' not found"),
                (('a..b..c',), GitError, 'A..B'),
                (('topic..topic',), GitError, 'no commits'),
                (('master',), GitError, "upstream for branch 'master'.*-c COUNT"),
                (('topic', 0), UsageError, '-c 0'),
                (('topic', 1, -1), UsageError, '--step -1')):
            with self.assertRaisesRegex(error, text):
                find_series(self.repo, *args)
        with self.assertRaisesRegex(GitError, 'not in a git repository.*-g'):
            check_repository(self.temp.name)
        with self.assertRaisesRegex(GitError, 'no such folder'):
            check_repository('/nonexistent')


if __name__ == '__main__':
    unittest.main()
