# SPDX-License-Identifier: GPL-2.0+
"""A clock that was ahead, here or on a machine: what is newer than now is not trusted."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, ClassVar, Dict, Sequence

import support
from dist_support import DistCase

from buildman.source import git

# How far the clock was ahead, in seconds
AHEAD = 300


def move_ahead(folder: str, *endings: str) -> int:
    """Give files times in the future; return how many there were.

    Args:
        folder: where they are
        endings: of their names; none for all files
    """
    when, count = time.time() + AHEAD, 0
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            if name.endswith(endings or '') and not os.path.islink(path):
                os.utime(path, (when, when))
                count += 1
    return count


class TestClock(DistCase):
    """Two boards at two commits, then at two more, the first of which breaks `anvil`"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 3}

    def setUp(self) -> None:
        super().setUp()
        self.repo = self.out('repo')
        shutil.copytree(self.tree.path, self.repo, symlinks=True)

    def build(self, upto: int, *args: str) -> str:
        """Build the branch as if it ended at a commit; return the folder of the results"""
        git.run(self.repo, 'update-ref', 'refs/heads/feature', self.tree.commits[upto])
        # A make that begins anew for ever is ended
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '--timeout', '60', *args,
                                 cwd=self.repo)
        self.assertIn(done.returncode, (0, 100), done)
        return self.results()

    def check(self, work: str, *args: str, endings: Sequence[str] = ()) -> None:
        """Build, set what is kept ahead, and build with the next commit: as from nothing"""
        self.build(1, *args)
        self.assertGreater(move_ahead(work, *endings), 3)
        got = self.build(3, *args)
        ref, _ = self.local(*(word for word in args if len(word) == 2))
        # In the tree, an environment that a failure leaves is taken if it was made anew
        support.assert_same_tree(ref, got, ignore=(
            'host', 'joblog', *(['uboot.env'] if '-i' in args else [])))
        self.assertEqual('fail', self.verdicts(got)[2, 'anvil'])

    def test_here(self) -> None:
        """A broken commit must not come out good, since its objects are said to be newer"""
        self.check(self.out('out/feature/.bm-work'))

    def test_objects(self) -> None:
        """The same for objects only, as after a clock that was set back in between"""
        self.check(self.out('out/feature/.bm-work'), endings=('.o',))

    def test_boards_before(self) -> None:
        """Nor must a board get what the one before it in a slot was made of"""
        work = self.out('out/feature/.bm-work')
        self.build(1, '-T', '1')
        self.assertGreater(move_ahead(work), 3)
        got = self.build(3, '-T', '1', '-f')
        support.assert_same_tree(self.local()[0], got)

    def test_own_folders(self) -> None:
        """Folders of boards (-P), and a build in the tree (-i)"""
        for flag in ('-P', '-i'):
            with self.subTest(flag=flag):
                self.check(self.out('out/feature/.bm-work'), flag)
                shutil.rmtree(self.out())

    def test_work_in_output(self) -> None:
        """A folder that is not ours to empty (-w) is built anew"""
        args = ('-w', '-o', self.out(), '--boards', 'anvil')
        git.run(self.repo, 'checkout', '-q', self.tree.commits[1])
        self.assertEqual(self.run_buildman(*args, cwd=self.repo).returncode, 0)
        with open(self.out('out/mine'), 'wb'):
            pass
        self.assertGreater(move_ahead(self.out()), 3)
        git.run(self.repo, 'checkout', '-q', self.tree.commits[2])
        done = self.run_buildman(*args, cwd=self.repo)
        self.assertEqual(done.returncode, 100, done)
        self.assertNotIn('Clock skew', done.stderr)
        self.assertTrue(os.path.exists(self.out('out/mine')))

    def test_machine(self) -> None:
        """The work folder of a machine is ahead of its clock"""
        self.check(self.work_dir('alpha'), '--dist', '--no-local')
