# SPDX-License-Identifier: GPL-2.0+
"""Which commits a branch, a range or a count stands for, with the real git."""

import os
import shutil
import subprocess
import tempfile
import unittest
from unittest import mock

from support import needs

from buildman.core.errors import GitError, UsageError
from buildman.source.commits import check_repository, find_series, in_history, to_keep


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
        with open(os.path.join(cls.repo, 'f'), 'w', encoding='ascii'):
            pass
        cls.git('add', 'f')
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
        # A count is a count, whatever the upstream is
        self.assertEqual(self.subjects('topic', 50), 'older base c1 c2 c3 c4')

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

    def test_upstream_is_a_tag(self):
        """People begin at a release: its tag ends the branch, if it is the nearest name"""
        self.git('branch', '-m', 'master', 'far')
        self.addCleanup(self.git, 'branch', '-m', 'far', 'master')
        for names, want, guess in (
                ([('-a', '-m', 'x', 'v2', 'topic~2')], 'c2 c3 c4', 'v2'),
                ([('v2', 'topic~2'), ('v3', 'topic~1')], 'c3 c4', 'v3'),
                # The tip itself is where the branch is, not where it begins
                ([('v2', 'topic~2'), ('-a', '-m', 'x', 'v3', 'topic')], 'c2 c3 c4', 'v2'),
                # Further away than a branch, or as far
                ([('v0', 'far')], 'base c1 c2 c3 c4', 'far'),
                ([('v0', 'far~1')], 'base c1 c2 c3 c4', 'far')):
            for args in names:
                self.git('tag', *args)
            for branch in ('topic', 'HEAD', self.git('rev-parse', 'topic')):
                with self.subTest(names=names, branch=branch):
                    self.assertEqual(self.subjects(branch), want)
                    self.assertEqual(find_series(self.repo, branch).messages,
                                     (f"Guessing upstream as '{guess}'",))
            self.git('tag', '-d', *[args[-2] for args in names])

    def test_upstream_is_gone(self):
        """It was deleted after the merge: that is told, and another one is taken"""
        self.git('branch', 'gone', 'topic~1')
        self.git('branch', '-q', '--set-upstream-to=gone', 'topic')
        self.addCleanup(self.git, 'branch', '--unset-upstream', 'topic')
        self.git('branch', '-D', 'gone')
        for branch in ('topic', 'heads/topic', 'HEAD'):
            series = find_series(self.repo, branch)
            self.assertEqual(series.messages, (
                "Branch 'topic': its upstream 'gone' is gone; guessing another",
                "Guessing upstream as 'master'"))

    def test_both_sides(self):
        """A...B is what one of the two has and the other has not, as git counts"""
        self.git('checkout', '-q', '-b', 'other', 'topic~2')
        self.addCleanup(self.git, 'branch', '-D', 'other')
        self.addCleanup(self.git, 'checkout', '-q', 'topic')
        self.commit('o1')
        for text in ('topic...other', 'other...topic', 'topic...', '...topic'):
            self.assertEqual(sorted(self.subjects(text).split()), ['c3', 'c4', 'o1'], text)
        self.assertEqual(self.subjects('topic~1...topic'), 'c4')
        for text in ('topic....other', 'a...b..c', 'a...b...c', '.....'):
            with self.assertRaisesRegex(GitError, r'A\.\.B or A\.\.\.B'):
                find_series(self.repo, text)

    def test_results_of_other_counts(self):
        """They are kept, but not more and more of them as a branch grows"""
        hashes = self.git('rev-list', 'topic').split()

        def kept(count, *built):
            series = find_series(self.repo, 'topic', count)
            found = to_keep(self.repo, series, [
                (number, hashes[place]) for number, place in built])
            return sorted(hashes.index(commit) for commit in found)
        self.git('branch', '-m', 'master', 'far')
        self.addCleanup(self.git, 'branch', '-m', 'far', 'master')
        self.git('branch', '-f', 'far', 'topic')
        self.addCleanup(self.git, 'branch', '-f', 'far', 'topic~4')
        # -c 5, then -c 1, and that once more, after which there are other numbers
        five = [(1, 4), (2, 3), (3, 2), (4, 1), (5, 0)]
        self.assertEqual(kept(1, *five), [0, 1, 2, 3, 4])
        self.assertEqual(kept(1, *five[:4], (1, 0)), [0, 1, 2, 3, 4])
        # --step leaves some out
        self.assertEqual(kept(1, (1, 4), (4, 1)), [0, 1, 4])
        # -c 2 of a branch that grew, by one and by one more
        self.assertEqual(kept(2, (1, 2), (2, 1)), [0, 1, 2])
        self.assertEqual(kept(2, (1, 3), (1, 2), (2, 1)), [0, 1, 2, 3])
        self.assertEqual(kept(2, (1, 4), (1, 1), (2, 0)), [0, 1])
        # What is not in its history at all
        series = find_series(self.repo, 'topic', 2)
        self.assertEqual(to_keep(self.repo, series, [(1, '0' * 40)]), series.alive)
        # The branch was put onto another commit since
        self.git('branch', '-f', 'far', 'topic~1')
        series = find_series(self.repo, 'topic')
        self.assertEqual(to_keep(self.repo, series, [(1, hashes[4])]), series.alive)
        self.assertEqual(in_history(self.repo, series, [hashes[4], '0' * 40]), {hashes[4]: 4})

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

    def test_shallow_with_all_branches(self):
        """As CI clones: it is told what is missing, and what gets it"""
        shallow = os.path.join(self.temp.name, 'shallow-all')
        self.git('clone', '-q', '--depth', '1', '--no-single-branch', '-b', 'topic',
                 'file://' + self.repo, shallow)
        self.git('branch', '-q', '--set-upstream-to=origin/master', cwd=shallow)
        advice = r"shallow clone: 'git fetch --unshallow' .*'git fetch --deepen=N'.*: use -c COUNT"
        with self.assertRaisesRegex(GitError, f'no commit in common.* {advice}'):
            find_series(shallow, 'topic')
        self.assertEqual(find_series(shallow, 'topic', 1).messages, ())
        self.assertRegex('\n'.join(find_series(shallow, 'origin/master..topic').messages),
                         "oldest commit that is there .*'git fetch --unshallow'")
        self.git('branch', '--unset-upstream', cwd=shallow)
        with self.assertRaisesRegex(GitError, 'Cannot find a suitable upstream.*--unshallow'):
            find_series(shallow, 'topic')
        self.git('fetch', '-q', '--unshallow', cwd=shallow)
        self.assertEqual(self.subjects('origin/master..topic', repo=shallow), 'c1 c2 c3 c4')

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
        [told] = find_series(shallow, 'HEAD', 9).messages
        self.assertRegex(told, r"^[0-9a-f]{12} is the oldest commit that is there .*--unshallow")
        self.assertEqual(find_series(shallow, 'HEAD', 3).messages, ())
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
                (('HEAD:f',), GitError, "'HEAD:f' is not a commit but a blob"),
                (('topic@{u}',), GitError, "no upstream configured for branch 'topic'"),
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

    def test_refused(self):
        """git's own reason, with the command that it advises"""
        empty = os.path.join(self.temp.name, 'empty')
        self.git('init', '-q', '-b', 'new', empty, cwd=self.temp.name)
        for name in ('new', 'HEAD'):
            with self.assertRaisesRegex(GitError, "'new' in .* has no commits yet"):
                find_series(empty, name, 1)
        # As git does with a tree of another user
        with mock.patch.dict(os.environ, {'GIT_TEST_ASSUME_DIFFERENT_OWNER': '1'}), \
                self.assertRaisesRegex(GitError, "fatal: .*dubious ownership.*the way out: "
                                       'git config --global --add safe.directory '):
            check_repository(self.repo)
        broken = os.path.join(self.temp.name, 'broken')
        os.makedirs(os.path.join(broken, '.git', 'objects'))
        os.mkdir(os.path.join(broken, 'common'))
        with self.assertRaisesRegex(GitError, r"\.git' is damaged or cannot be read"):
            check_repository(os.path.join(broken, 'common'))
        shutil.rmtree(os.path.join(broken, '.git'))
        with open(os.path.join(broken, '.git'), 'w', encoding='ascii') as outf:
            outf.write('gitdir: /none/of/it\n')
        # git 2.55 names it '(null)'
        with self.assertRaisesRegex(
                GitError, r"'.*broken'.*not a git repository: (/none/of/it|\(null\))"):
            check_repository(broken)

    def test_damaged(self):
        """An object that is not there is not a branch that is not there"""
        repo = os.path.join(self.temp.name, 'damaged')
        self.git('clone', '-q', '--no-local', self.repo, repo)
        pack = os.path.join(repo, '.git', 'objects', 'pack')
        for name in os.listdir(pack):
            os.unlink(os.path.join(pack, name))
        with self.assertRaisesRegex(GitError, "Branch 'HEAD' is at [0-9a-f]{40}, which .*fsck"):
            find_series(repo, 'HEAD')
