# SPDX-License-Identifier: GPL-2.0+
"""The sample tree builds as it says it does.

Every test of the real command and the demo stand on it: where the sample lies,
they prove nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from typing import Dict, List, Optional

import support

from buildman.core import errors
from buildman.demo import sample, sample_files


class MakeCase(unittest.TestCase):
    """Runs make in a sample tree, as a build tool would."""

    base: str
    tree: sample.SampleTree
    cross: str

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        support.needs('git', 'make', 'gcc')
        cls.base = tempfile.mkdtemp(prefix='sample-test-')
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.tree = sample.make_sample(os.path.join(cls.base, 'tree'))
        cls.cross = sample.make_toolchains(os.path.join(cls.base, 'cross'))

    def setUp(self) -> None:
        super().setUp()
        self.out = tempfile.mkdtemp(dir=self.base)
        self.checkout('feature')

    def checkout(self, rev: str, tree: Optional[sample.SampleTree] = None) -> None:
        """Put `rev` into the work tree."""
        subprocess.run(['git', '-C', (tree or self.tree).path, 'checkout', '--quiet', '--force',
                        rev], check=True)

    def make(self, *args: str, tree: Optional[sample.SampleTree] = None,
             env: Optional[Dict[str, str]] = None) -> 'subprocess.CompletedProcess[str]':
        """Run `make -s O=…` with these arguments."""
        full = {key: val for key, val in os.environ.items()
                if key not in ('MAKEFLAGS', 'MFLAGS', 'KBUILD_OUTPUT')}
        full.update(env or {}, LC_ALL='C.UTF-8')
        return subprocess.run(['make', '-s', f'O={self.out}', *args], text=True,
                              cwd=(tree or self.tree).path, env=full, capture_output=True,
                              timeout=support.TIMEOUT, check=False)

    def prefix(self, arch: str) -> List[str]:
        """Return the argument of make that names the compiler for `arch`."""
        if arch == 'sandbox':
            return []
        return [f"CROSS_COMPILE={self.cross}/bin/{sample.CROSS_PREFIX[arch]}"]

    def build(self, board: sample_files.BoardSpec, *args: str,
              tree: Optional[sample.SampleTree] = None) -> str:
        """Configure and build; return 'ok', 'warn' or 'fail'."""
        for goals in ([f'{board.target}_defconfig'], []):
            self.last = self.make(*self.prefix(board.arch), *args, *goals, tree=tree)
            if self.last.returncode:
                return 'fail'
        return 'warn' if self.last.stderr else 'ok'

    def board(self, target: str) -> sample_files.BoardSpec:
        """Return a board by name."""
        return next(board for board in self.tree.boards if board.target == target)

    def read(self, path: str) -> str:
        """Return the text of a file in the output folder."""
        with open(os.path.join(self.out, path), encoding='utf-8') as inf:
            return inf.read()

    def mtime(self, path: str) -> int:
        """Return when a file in the output folder was written."""
        return os.stat(os.path.join(self.out, path)).st_mtime_ns


class TestBuild(MakeCase):
    """What the Makefile does, one board at a time."""

    def test_outcomes(self) -> None:
        """A wrong forecast would make every comparison with it worthless."""
        for index, commit in enumerate(self.tree.commits):
            self.checkout(commit)
            for board in self.tree.boards:
                # Those in which nothing changed need no second look
                if 0 < index < len(self.tree.commits) - 1 and (
                        self.tree.expected[index, board.target]
                        == self.tree.expected[index - 1, board.target]):
                    continue
                with self.subTest(commit=self.tree.subjects[index], board=board.target):
                    shutil.rmtree(self.out)
                    got = self.build(board)
                    self.assertEqual(self.tree.expected[index, board.target], got,
                                     self.last.stderr)

    def test_incremental_outcomes(self) -> None:
        """So does a wrong forecast of what an incremental build sees."""
        tree = sample.make_sample(os.path.join(self.out, 'tree'), commits=14, seed=2)
        boards = [board for board in tree.boards if board.target in ('rocket', 'hammock')]
        for board in boards:
            shutil.rmtree(os.path.join(self.out, 'o'), ignore_errors=True)
            argv = ['make', '-s', f'O={self.out}/o', *self.prefix(board.arch)]
            for index, commit in enumerate(tree.commits):
                self.checkout(commit, tree)
                err = ''
                for goals in ([f'{board.target}_defconfig'], []):
                    done = subprocess.run(argv + goals, cwd=tree.path, capture_output=True,
                                          text=True, check=False)
                    err += done.stderr
                verdict = 'fail' if done.returncode else 'warn' if err else 'ok'
                self.assertEqual(tree.incremental[index, board.target], verdict,
                                 (tree.subjects[index], board.target, err))

    def test_files(self) -> None:
        """A build tool finds here what it finds in U-Boot, so its collecting
        of files is really tried."""
        self.assertEqual('ok', self.build(self.board('anvil')))
        for path in ('.config', 'u-boot', 'u-boot.bin', 'u-boot.map', 'u-boot.cfg',
                     'u-boot.dtb', 'System.map', 'MLO', 'include/autoconf.mk',
                     'include/generated/autoconf.h', 'include/config/auto.conf',
                     'include/config/uboot.release', 'env/built-in.a', 'spl/u-boot-spl',
                     'spl/u-boot-spl.bin', 'spl/u-boot-spl.map', 'spl/u-boot.cfg',
                     'spl/include/autoconf.mk'):
            self.assertTrue(os.path.getsize(os.path.join(self.out, path)), path)
        sections = subprocess.run(['objdump', '-h', 'env/built-in.a'], cwd=self.out, check=True,
                                  capture_output=True, text=True).stdout
        self.assertIn('.rodata.default_environment', sections)

    def test_incremental(self) -> None:
        """Objects that depend on a change are built again and no others, or an
        incremental build would tell lies about a commit."""
        self.checkout(self.tree.commits[0])
        board = self.board('rocket')
        self.assertEqual('ok', self.build(board))
        objects = ('board/acme/rocket/rocket.o', 'env/common.o', 'common/main.o')
        before = [self.mtime(path) for path in objects]
        self.assertEqual('', self.make(*self.prefix('aarch64')).stderr)
        after = [self.mtime(path) for path in objects]
        self.assertEqual(before, after)
        self.checkout(self.tree.commits[3])     # the rocket's source has a warning
        out = self.make(*self.prefix('aarch64'))
        self.assertIn('rocket_helper', out.stderr)
        self.assertEqual(before[1], self.mtime('env/common.o'))
        self.checkout(self.tree.commits[6])     # the default of BOOTDELAY
        self.make(*self.prefix('aarch64'), 'rocket_defconfig')
        self.make(*self.prefix('aarch64'))
        self.assertNotEqual(before[1], self.mtime('env/common.o'))
        self.assertIn('BOOTDELAY=5', self.read('.config'))

    def test_flags(self) -> None:
        """KCFLAGS and NO_LTO reach the objects even of a built folder."""
        self.checkout(self.tree.commits[3])
        self.assertEqual('warn', self.build(self.board('rocket')))
        self.assertEqual(2, self.make(*self.prefix('aarch64'), 'KCFLAGS=-Werror').returncode)
        self.checkout('feature')
        with open(os.path.join(self.tree.path, 'configs/lto.config'), 'w',
                  encoding='utf-8') as outf:
            outf.write('CONFIG_LTO=y\n')
        self.addCleanup(os.remove, outf.name)
        self.assertEqual(0, self.make('sandbox_defconfig', 'lto.config').returncode)
        self.assertEqual(0, self.make().returncode)
        self.assertIn('LTO_ENABLE', self.read('include/generated/flags'))
        self.assertEqual(0, self.make('NO_LTO=1').returncode)
        self.assertNotIn('LTO_ENABLE', self.read('include/generated/flags'))

    def test_messages(self) -> None:
        """Errors have the shape of U-Boot's, which build tools rewrite."""
        self.checkout(self.tree.commits[2])
        self.assertEqual('fail', self.build(self.board('anvil')))
        tree = re.escape(self.tree.path)
        self.assertRegex(self.last.stderr, f'(?m)^{tree}/board/acme/anvil/anvil.c:[0-9]+:[0-9]+: '
                                           'error: expected')
        self.assertRegex(self.last.stderr, f'(?m)^make\\[2\\]: \\*\\*\\* \\[{tree}/scripts/'
                                           r'Makefile.build:\d+: (spl/)?board/acme/anvil/anvil.o\]')
        self.assertRegex(self.last.stderr,
                         r'(?m)^make: \*\*\* \[Makefile:\d+: sub-make\] Error 2$')

    def test_dirty_source(self) -> None:
        """A source folder that was built in is refused, as U-Boot does."""
        self.make('sandbox_defconfig')
        left = os.path.join(self.tree.path, '.config')
        with open(left, 'w', encoding='utf-8'):
            pass
        self.addCleanup(os.remove, left)
        out = self.make()
        self.assertEqual(2, out.returncode)
        self.assertIn("is not clean, please run 'make mrproper'", out.stderr)

    def test_in_tree(self) -> None:
        """The source folder itself can be built in and cleaned again."""
        for goal in ('sandbox_defconfig', 'all'):
            subprocess.run(['make', '-s', goal], cwd=self.tree.path, check=True)
        self.assertTrue(os.path.exists(os.path.join(self.tree.path, 'u-boot')))
        subprocess.run(['make', '-s', 'mrproper'], cwd=self.tree.path, check=True)
        status = subprocess.run(['git', 'status', '--porcelain', '--ignored'], check=True,
                                cwd=self.tree.path, capture_output=True, text=True)
        self.assertEqual('', status.stdout)

    def test_version(self) -> None:
        """The image tells its commit, a dirty tree and .scmversion."""
        board = self.board('sandbox')
        short = self.tree.commits[-1][:7]
        self.assertEqual('ok', self.build(board, 'SOURCE_DATE_EPOCH=0'))
        self.assertEqual(f'2099.01-g{short}', self.read('include/config/uboot.release').strip())
        with open(os.path.join(self.out, 'u-boot.bin'), 'rb') as inf:
            self.assertIn(f'U-Boot 2099.01-g{short} (Jan 01 1970'.encode(), inf.read())
        path = os.path.join(self.tree.path, 'README')
        with open(path, 'a', encoding='utf-8') as outf:
            outf.write('\nChanged\n')
        self.make()
        self.assertIn('-dirty', self.read('include/config/uboot.release'))
        self.checkout('feature')
        path = os.path.join(self.tree.path, '.scmversion')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('-theirs')
        self.addCleanup(os.remove, path)
        self.make()
        self.assertEqual('2099.01-theirs', self.read('include/config/uboot.release').strip())

    def test_reproducible(self) -> None:
        """The same source gives the same image in another folder."""
        images = []
        for _ in range(2):
            self.assertEqual('ok', self.build(self.board('anvil'), 'SOURCE_DATE_EPOCH=0'))
            with open(os.path.join(self.out, 'u-boot'), 'rb') as inf:
                images.append(inf.read())
            self.out = tempfile.mkdtemp(dir=self.base)
        self.assertEqual(*images)


class TestRepository(unittest.TestCase):
    """The repository, without building anything."""

    def setUp(self) -> None:
        support.needs('git')
        self.tmp = tempfile.mkdtemp(prefix='sample-test-')
        self.addCleanup(shutil.rmtree, self.tmp)

    def test_same_hashes(self) -> None:
        """Two machines that make the sample have the same commits."""
        trees = [sample.make_sample(os.path.join(self.tmp, name), boards=12, commits=20, seed=3)
                 for name in ('one', 'two')]
        self.assertEqual(trees[0].commits, trees[1].commits)
        self.assertEqual(trees[0].expected, trees[1].expected)
        other = sample.make_sample(os.path.join(self.tmp, 'three'), boards=12, commits=20,
                                   seed=4)
        self.assertEqual(trees[0].commits[:9], other.commits[:9])
        self.assertNotEqual(trees[0].commits[9:], other.commits[9:])

    def test_sizes(self) -> None:
        """Numbers of boards and commits are as asked, and names are unique."""
        for boards, commits in ((1, 0), (2, 1), (3, 4), (30, 3)):
            tree = sample.make_sample(os.path.join(self.tmp, f't{boards}'), boards=boards,
                                      commits=commits)
            self.assertEqual(boards, len(set(tree.targets)))
            self.assertEqual(commits + 1, len(tree.commits))
            log = subprocess.run(['git', '-C', tree.path, 'log', '--format=%s', '--reverse',
                                  'feature'], check=True, capture_output=True)
            self.assertEqual(tree.subjects, tuple(log.stdout.decode().splitlines()))
            self.assertEqual(boards, len([name for name in os.listdir(
                os.path.join(tree.path, 'configs')) if name.endswith('_defconfig')]))

    def test_board_list(self) -> None:
        """boards.cfg has a row of nine columns for each board."""
        tree = sample.make_sample(os.path.join(self.tmp, 'tree'))
        with open(os.path.join(tree.path, 'boards.cfg'), encoding='utf-8') as inf:
            rows = [line.split(maxsplit=8) for line in inf
                    if line.strip() and not line.startswith('#')]
        self.assertEqual(list(tree.targets), [row[6] for row in rows])
        self.assertEqual({9}, {len(row) for row in rows})
        self.assertEqual({'sandbox', 'arm', 'aarch64', 'riscv64'}, {row[1] for row in rows})

    def test_refused(self) -> None:
        """A folder in use is left alone, with a message."""
        with open(os.path.join(self.tmp, 'mine'), 'w', encoding='utf-8'):
            pass
        with self.assertRaisesRegex(errors.SetupError, 'is not empty'):
            sample.make_sample(self.tmp)
        self.assertEqual(['mine'], os.listdir(self.tmp))
        with self.assertRaisesRegex(errors.SetupError, 'cannot write'):
            sample.make_sample(os.path.join(self.tmp, 'mine', 'below'))

    def test_amend(self) -> None:
        """The last commit can be changed, for tests of a second run."""
        tree = sample.make_sample(os.path.join(self.tmp, 'tree'), boards=1, commits=1)
        amended = sample.amend(tree, 'README', 'Other\n')
        self.assertNotIn(amended, tree.commits)
        sample.amend(tree, 'README', 'New\n', 'One more')
        log = subprocess.run(['git', '-C', tree.path, 'log', '--format=%H', 'feature'],
                             check=True, capture_output=True, text=True).stdout.split()
        self.assertEqual([amended, tree.commits[0]], log[1:])

    def test_instant(self) -> None:
        """The instant tree leaves an image that the tools can read."""
        support.needs('make', 'gcc')
        tree = sample.make_sample(os.path.join(self.tmp, 'tree'), boards=9, commits=1,
                                  instant=True)
        self.assertEqual({'ok'}, {tree.expected[1, name] for name in tree.targets})
        out = os.path.join(self.tmp, 'out')
        for goals in (['unit001_defconfig'], []):
            subprocess.run(['make', '-s', f'O={out}', *goals], cwd=tree.path, check=True)
        done = subprocess.run(['size', os.path.join(out, 'u-boot')], check=True,
                              capture_output=True, text=True)
        self.assertIn('u-boot', done.stdout)
        self.assertTrue(os.path.exists(os.path.join(out, 'include/generated/autoconf.h')))

    def test_toolchains(self) -> None:
        """The wrappers are found by name and run the host's compiler."""
        support.needs('gcc')
        cross = sample.make_toolchains(os.path.join(self.tmp, 'cross'), ['arm'])
        gcc = os.path.join(cross, 'bin', sample.CROSS_PREFIX['arm'] + 'gcc')
        self.assertEqual(0, subprocess.run([gcc, '--version'], capture_output=True,
                                           check=False).returncode)
        path = sample.write_config(os.path.join(self.tmp, 'cfg'), cross, prefixes=True)
        with open(path, encoding='utf-8') as inf:
            text = inf.read()
        self.assertIn(f'arm = {gcc[:-3]}\n', text)
        self.assertNotIn('riscv64', text)
