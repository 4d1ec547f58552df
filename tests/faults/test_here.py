# SPDX-License-Identifier: GPL-2.0+
"""What goes wrong on the boss's own machine: its disk, its repository, its paths."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from typing import Any, ClassVar, Dict, List, Set, Tuple

import support
from dist_support import DistCase, FaultCase, joblog, read


def git(where: str, *args: str) -> str:
    """Run git and return what it prints."""
    return subprocess.run(
        ['git', '-c', 'user.name=T', '-c', 'user.email=t@t', *args], cwd=where, check=True,
        stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()


class TestDisk(FaultCase):
    """FAULT 19: the disk of the results"""

    def fill(self, error: str, said: str) -> Set[Tuple[int, str]]:
        """The disk fails in the middle of a build: told, all is ended; return what was built"""
        full = self.out('full')
        disk = support.full_disk(self.tmp, self.out(), full, error)
        proc = self.start_dist('--no-local', env={'LD_PRELOAD': disk})
        self.wait_begun()
        support.wait_until(lambda: len(self.hosts()) >= 8, name='the other boards')
        before = set(self.hosts())
        with open(full, 'wb'):
            pass
        self.go()
        self.assertEqual(2, proc.wait(60), self.stdout() + self.errors())
        self.assert_gone(5)
        self.assert_freed()
        self.assert_clean(self.errors())
        self.assertRegex(self.errors(), r"(?m)^buildman: cannot write the result of '\w+' to "
                         rf"'{re.escape(self.results())}/.*': {said}$")
        self.assertEqual(1, self.errors().count('\n'), self.errors())
        os.remove(full)
        return before

    def test_full(self) -> None:
        """It fills up; with room again it goes on"""
        before = self.fill('ENOSPC', 'No space left on device')
        done = self.dist('--no-local')
        self.assertEqual(self.ref_status, done.returncode, done)
        self.assert_same(self.ref)
        again = {(int(job['commit']), job['board']) for job in joblog(self.results())}
        self.assertFalse(before & again, 'built again')

    def test_broken(self) -> None:
        """It turns read-only, as Linux does with one that has errors"""
        self.fill('EROFS', 'Read-only file system')

    def test_read_only(self) -> None:
        """An output folder that cannot be written: told before any machine is bothered"""
        disk = support.full_disk(self.tmp, self.out(), error='EROFS')
        done = self.dist('--no-local', env={'LD_PRELOAD': disk})
        self.assertEqual(2, done.returncode, done)
        self.assertRegex(done.stderr, rf"(?m)^buildman: .*'{re.escape(self.out())}.*': "
                         rf"Read-only file system: '{re.escape(self.out())}' "
                         r"\(choose another.*-o\)$")
        self.assertFalse(os.path.exists(self.out()))


class TestOverlay(support.SampleCase):
    """Results in the lower layer of an overlay file system, as in a container"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 3}

    def build(self, *args: str, **env: str) -> support.Result:
        """Build one board"""
        return self.run_buildman('-b', 'feature', '-k', '-o', self.out(), '--boards', 'sandbox',
                                 *args, env=env)

    def test_moved(self) -> None:
        """Folders of commits that have another number now are copied, whole or not at all"""
        self.build('-c', '2')
        top = self.out('out/feature')
        want = support.read_tree(top)
        lower = support.overlay(self.tmp, f'{top}/0')
        moved = f'{top}/.bm-work/moved.new'
        # As of a run that was killed meanwhile
        os.makedirs(f'{moved}/rest')
        done = self.build(LD_PRELOAD=lower)
        self.assertEqual((done.returncode, done.stderr), (0, ''), done)
        self.assertIn('(2 previously, 2 newly', done.stdout)
        self.assertFalse(os.path.exists(moved))
        # By another number
        got = {name[2:]: data for name, data in support.read_tree(top).items()}
        self.assertEqual(got, {**got, **{name[2:]: data for name, data in want.items()}})
        self.assertEqual(4, len(glob.glob(f'{top}/0*_g*')))


class TestRewritten(FaultCase):
    """FAULT 19: the branch changes while it is built"""

    def test_rewritten(self) -> None:
        """What was asked for is built; the next run takes the new branch and keeps what is the same
        """
        repo = self.out('repo')
        git(self.base, 'clone', '-q', '-b', 'feature', self.tree.path, repo)
        git(repo, 'branch', 'base', self.tree.commits[0])
        git(repo, 'branch', '--set-upstream-to=base', 'feature')
        proc = self.start_buildman('-b', 'feature', '-g', repo, '-o', self.out(), '--dist',
                                   '--no-local')
        self.wait_begun()
        git(repo, 'reset', '-q', '--hard', 'HEAD~2')
        with open(os.path.join(repo, 'README'), 'a', encoding='utf-8') as outf:
            outf.write('other\n')
        git(repo, 'commit', '-qam', 'Another history')
        git(repo, 'reflog', 'expire', '--expire=now', '--all')
        git(repo, 'remote', 'remove', 'origin')
        git(repo, 'gc', '-q', '--prune=now')
        # What is being built is not even there any more; the machines have it
        with self.assertRaises(subprocess.CalledProcessError):
            git(repo, 'cat-file', '-e', self.tree.commits[-1])
        self.go()
        self.check(proc)
        done = self.run_buildman('-b', 'feature', '-g', repo, '-o', self.out(), '--dist')
        self.assertIn(done.returncode, (0, 100, 101), done)
        folders = sorted(name for name in os.listdir(self.results()) if '_g' in name)
        self.assertEqual([*self.tree.commits[:2], git(repo, 'rev-parse', 'HEAD')],
                         [re.sub(r'^\d+_g([0-9a-f]+)_.*', r'\1', name) for name in folders])
        again = {int(job['commit']) for job in joblog(self.results())}
        self.assertEqual({2}, again)


class TestRepositories(DistCase):
    """FAULT 19: repositories and paths of all kinds"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 3}

    def kinds(self) -> List[Tuple[str, str, str]]:
        """Return (kind, repository, what to build there)"""
        tip = self.tree.commits[-1]
        tree = self.out('tree')
        git(self.tree.path, 'worktree', 'add', '-q', '--detach', tree, tip)
        self.addCleanup(git, self.tree.path, 'worktree', 'remove', '--force', tree)
        shallow = self.out('shallow')
        git(self.base, 'clone', '-q', '--depth', '2', '-b', 'feature', f'file://{self.tree.path}',
            shallow)
        detached = self.out('detached')
        git(self.base, 'clone', '-q', self.tree.path, detached)
        git(detached, 'checkout', '-q', '--detach', tip)
        odd = self.out('it\'s a "tree" & more; $HOME %s *')
        git(self.base, 'clone', '-q', '-b', 'feature', self.tree.path, odd)
        return [('worktree', tree, 'HEAD'), ('shallow', shallow, 'feature'),
                ('detached', detached, f'{tip}~1..{tip}'), ('odd', odd, 'feature')]

    def test_all(self) -> None:
        """The same results from each, here and on a machine"""
        wanted = None
        for kind, repo, what in self.kinds():
            out = self.out(f"out 'of' {kind}" if kind == 'odd' else f'out-{kind}')
            with self.subTest(kind=kind):
                done = self.run_buildman('-g', repo, '-b', what, '-c', '1', '-o', out, '--dist',
                                         '--boards', 'sandbox,anvil', cwd=self.tmp)
                # Board anvil is broken there
                self.assertEqual(100, done.returncode, done)
                self.assertNotIn('Not built', done.stdout)
                [folder] = (path for path in glob.glob(os.path.join(glob.escape(out), '*'))
                            if os.path.isdir(path))
                self.assertEqual(2, len(self.hosts(folder)))
                got = self.trees(folder)
                wanted = wanted or got
                self.assertEqual(sorted(wanted), sorted(got))
                for name, text in wanted.items():
                    self.assertEqual(text, got[name], name)

    @staticmethod
    def trees(folder: str) -> Dict[str, str]:
        """Return the results of the one commit, without what tells of the machine"""
        found = {}
        for path, _, names in os.walk(folder):
            for name in names:
                if '_g' in path and '.bm-work' not in path and name not in (
                        'host', 'out-env', 'toolchain'):
                    found[f'{os.path.basename(path)}/{name}'] = read(path, name)
        return found
