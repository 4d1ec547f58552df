# SPDX-License-Identifier: GPL-2.0+
"""What a loss of power or a slip of the hand leaves in folders of ours: made anew."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from typing import Any, Callable, ClassVar, Dict, List

import support
from dist_support import DistCase


def zeros(path: str) -> None:
    """Have zeros in a file, as a file system may after a loss of power"""
    with open(path, 'wb') as outf:
        outf.write(bytes(60))


def emptied(path: str) -> None:
    """Empty a file, or all files below a folder"""
    names = [path] if os.path.isfile(path) else [
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    for name in names:
        os.truncate(name, 0)


def as_folder(path: str) -> None:
    """Put a folder in the place of a file"""
    if os.path.exists(path):
        os.unlink(path)
    os.makedirs(os.path.join(path, 'x'))


def as_file(path: str) -> None:
    """Put a file in the place of a folder"""
    shutil.rmtree(path, ignore_errors=True)
    with open(path, 'w', encoding='ascii') as outf:
        outf.write('x\n')


def as_link(path: str) -> None:
    """Put a link that leads nowhere in the place of a folder"""
    shutil.rmtree(path)
    os.symlink('nowhere', path)


# One for each slot: what is done to what in it, and whether that is told
SLOTS = (
    (emptied, '.git/HEAD', True), (zeros, '.git/config', True),
    (zeros, '.git/buildman-abbrev', True), (as_folder, '.git/index', True),
    (emptied, '.git', True), (as_file, '', False), (as_link, '', False))


class TestDamage(support.SampleCase):
    """Seven slots, a board for each"""

    sample_args: ClassVar[Dict[str, Any]] = {'commits': 1}

    def build(self, *args: str) -> support.Result:
        """Build all boards, each in a slot of its own"""
        return self.run_buildman('-T', '7', '-r', '-f', '-o', self.out(), *args)

    def work(self, *names: str) -> str:
        """Return a path in the work area"""
        return os.path.join(self.out('out/feature/.bm-work'), *names)

    def check(self, damage: Callable[[], None]) -> List[str]:
        """Do damage and build again: it is as before; return what is told besides"""
        want = support.read_tree(self.out('out/feature'))
        damage()
        done = self.build('-b', 'feature', '-c', '1')
        self.assertEqual((done.returncode, done.stderr), (0, ''), done)
        self.assertEqual(support.read_tree(self.out('out/feature')), want)
        return [line for line in done.stdout.splitlines() if line.startswith('[')]

    def test_slots(self) -> None:
        """A slot that git does not get along with is told and made anew, not refused for ever"""
        self.build('-b', 'feature', '-c', '1')

        def damage() -> None:
            for num, (how, name, _) in enumerate(SLOTS):
                how(self.work(f'{num:02}', name).rstrip('/'))

        self.assertEqual(sorted(line.partition(' was damaged, and is made anew: ')[0]
                                for line in self.check(damage)),
                         [f"[local] '{self.work(f'{num:02}')}'"
                          for num, (_, _, told) in enumerate(SLOTS) if told])
        self.assertEqual(self.check(lambda: None), [])

    def test_inside_the_repository(self) -> None:
        """With the output below the source, git takes no slot for the user's own tree"""
        repo = self.out('repo')
        subprocess.run(['git', 'clone', '-q', '-b', 'feature', self.tree.path, repo], check=True)
        args = ('-b', 'feature~1', '-c', '1', '-o', os.path.join(repo, 'out'), '-f', 'hammock')
        self.assertEqual(self.run_buildman(*args, cwd=repo).returncode, 0)
        emptied(os.path.join(repo, 'out/feature~1/.bm-work/00/.git/HEAD'))
        for name in ('README', 'other'):
            with open(os.path.join(repo, name), 'a', encoding='utf-8') as outf:
                outf.write('precious\n')
        done = self.run_buildman(*args, cwd=repo)
        self.assertEqual(done.returncode, 0, done)
        self.assertIn('was damaged', done.stdout)
        self.assertEqual(subprocess.run(
            ['git', 'status', '--short', '--branch'], cwd=repo, check=True, capture_output=True,
            text=True).stdout, '## feature...origin/feature\n M README\n?? other\n?? out/\n')

    def test_in_the_way(self) -> None:
        """A file where a folder has to be, or the reverse"""
        self.build('-b', 'feature', '-c', '1')

        def damage() -> None:
            for name in ('lock', 'probe', 'branches', '.durations', '00.log', '00.err', 'seed.new'):
                as_folder(self.work(name))
            as_file(self.work('01', 'build'))
            [commit] = glob.glob(self.out('out/feature/01_g*'))
            as_file(os.path.join(commit, 'hammock'))
            for name in ('done', 'done.new', 'log', 'sizes'):
                as_folder(os.path.join(commit, 'anvil', name))

        for how in (damage, lambda: as_file(self.work())):
            self.assertEqual(self.check(how), [])

    def test_current(self) -> None:
        """The same where the folder is built as it is"""
        self.build('hammock')
        for name in ('00', '00.log'):
            path = self.out(f'out/.bm-work/{name}')
            as_folder(path) if name.endswith('log') else as_file(path)
        self.assertEqual(self.build('hammock').returncode, 0)


class TestMachine(DistCase):
    """The same in the work folder of a machine"""

    names = ('alpha',)

    def test_all(self) -> None:
        """It takes part, and tells of the slot"""
        args = ('--no-local', '-c', '1', '-f', 'hammock')
        self.dist(*args)
        work = os.path.join(self.work_dir('alpha'), '.bm-work')
        emptied(os.path.join(work, '00', '.git'))
        done = self.dist(*args)
        self.assertEqual(done.returncode, 0, done)
        self.assertRegex(done.stdout + done.stderr,
                         r"(?m)^\[alpha\] .*'.*/00' was damaged, and is made anew: ")
        as_file(work)
        done = self.dist(*args)
        self.assertEqual(done.returncode, 0, done)
