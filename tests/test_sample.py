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
import sys
import tempfile
import time
import unittest
from typing import Dict, List, Optional

TESTS = os.path.dirname(os.path.abspath(__file__))
for folder in (TESTS, os.path.join(TESTS, '..', 'tools')):
    if folder not in sys.path:
        sys.path.insert(0, folder)

import support  # noqa: E402

from buildman import errors, sample, sample_files  # noqa: E402


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
        self.assertEqual(before[:2], after[:2])
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


class TestConfig(MakeCase):
    """The small configurator follows Kconfig."""

    def test_defconfig(self) -> None:
        """Settings, #include, choices, selects and defaults arrive in .config."""
        self.make('anvil_nor_defconfig')
        conf = self.read('.config')
        for line in ('CONFIG_ARM=y', 'CONFIG_TARGET_ANVIL=y', 'CONFIG_CPU_V7A=y',
                     '# CONFIG_SANDBOX is not set', 'CONFIG_SPL=y', 'CONFIG_SPL_MLO=y',
                     'CONFIG_SYS_CPU="armv7"', 'CONFIG_SYS_VENDOR="acme"',
                     'CONFIG_DEFAULT_DEVICE_TREE="anvil"', 'CONFIG_ENV_SIZE=0x2000'):
            self.assertIn(line + '\n', conf)
        self.assertNotIn('64BIT', conf)

    def test_fragment(self) -> None:
        """A fragment overrides the defconfig and tells what it redefines."""
        out = self.make('sandbox_defconfig', 'quiet.config')
        self.assertEqual(0, out.returncode, out.stderr)
        self.assertIn('Value of CONFIG_BOOTDELAY is redefined', out.stdout)
        conf = self.read('.config')
        self.assertIn('CONFIG_BOOTDELAY=0\n', conf)
        self.assertIn('# CONFIG_NET is not set\n', conf)
        self.assertNotIn('NETCONSOLE', conf)
        out = self.make('no-such.config')
        self.assertEqual(2, out.returncode)
        self.assertIn('No configuration exists', out.stderr)

    def test_merge_config(self) -> None:
        """The way that build tools adjust settings in U-Boot works here too."""
        frag = os.path.join(self.out, 'adjust')
        for out in (self.out, os.path.join(self.tree.path, 'build')):
            # As Kbuild does: a relative file may be named from the source folder
            rel = os.path.relpath(out, self.tree.path) if out != self.out else out
            with open(frag, 'w', encoding='utf-8') as outf:
                outf.write('CONFIG_LTO=y\n# CONFIG_NET is not set\nCONFIG_NETCONSOLE=y\n')
            argv = ['make', '-s', f'O={rel}']
            for args in (['anvil_defconfig'], [f'KCONFIG_CONFIG={rel}/.config', 'savedefconfig']):
                subprocess.run(argv + args, cwd=self.tree.path, check=True)
            done = subprocess.run(['scripts/kconfig/merge_config.sh', '-O', rel,
                                   f'{rel}/defconfig', frag], cwd=self.tree.path, check=True,
                                  capture_output=True, text=True)
            self.assertIn('Value requested for CONFIG_NETCONSOLE not in final', done.stdout)
            with open(os.path.join(out, '.config'), encoding='utf-8') as inf:
                conf = inf.read()
            for line in ('CONFIG_TARGET_ANVIL=y', 'CONFIG_LTO=y', '# CONFIG_NET is not set'):
                self.assertIn(line + '\n', conf)
        shutil.rmtree(out)

    def test_oldconfig(self) -> None:
        """Edited settings survive, and impossible ones are dropped."""
        self.make('sandbox_defconfig')
        with open(os.path.join(self.out, '.config'), 'a', encoding='utf-8') as outf:
            outf.write('CONFIG_BOOTDELAY=9\nCONFIG_ARM64=y\nCONFIG_NO_SUCH=y\n')
        self.assertEqual(0, self.make('oldconfig').returncode)
        conf = self.read('.config')
        self.assertIn('CONFIG_BOOTDELAY=9\n', conf)
        self.assertNotIn('ARM64', conf)
        self.assertNotIn('NO_SUCH', conf)

    def test_savedefconfig(self) -> None:
        """What is saved gives the same configuration again."""
        for target in self.tree.targets:
            self.make(f'{target}_defconfig')
            conf = self.read('.config')
            self.make('savedefconfig')
            name = f'saved_{target}'
            path = os.path.join(self.tree.path, 'configs', f'{name}_defconfig')
            shutil.copy(os.path.join(self.out, 'defconfig'), path)
            self.addCleanup(os.remove, path)
            self.make(f'{name}_defconfig')
            self.assertEqual(conf, self.read('.config'))

    def test_broken(self) -> None:
        """A missing or a broken defconfig or Kconfig says so."""
        out = self.make('none_defconfig')
        self.assertEqual(2, out.returncode)
        self.assertIn('Can\'t find default configuration "configs/none_defconfig"', out.stderr)
        path = os.path.join(self.tree.path, 'configs', 'odd_defconfig')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('CONFIG_SANDBOX=y\nthis is not a setting\n')
        self.addCleanup(os.remove, path)
        out = self.make('odd_defconfig')
        self.assertEqual(0, out.returncode)
        self.assertIn('odd_defconfig:2:warning: unexpected data: this is', out.stderr)
        with open(os.path.join(self.tree.path, 'Kconfig'), 'a', encoding='utf-8') as outf:
            outf.write('source "no/such/file"\n')
        out = self.make('sandbox_defconfig')
        self.assertEqual(2, out.returncode)
        self.assertIn('can\'t open file "no/such/file"', out.stderr)

    def test_config_after_failure(self) -> None:
        """A folder whose configuration failed is as it was, not half written."""
        self.assertEqual(2, self.make().returncode)
        self.assertFalse(os.path.exists(os.path.join(self.out, '.config')))


class TestKnobs(MakeCase):
    """Each way to misbehave does what README promises."""

    def knob(self, *lines: str) -> Dict[str, str]:
        """Write knobs for sandbox outside the tree; return the environment."""
        folder = os.path.join(self.out, 'knobs')
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, 'sandbox'), 'w', encoding='utf-8') as outf:
            outf.write('\n'.join(lines) + '\n')
        return {'SAMPLE_KNOBS': folder}

    def run_knob(self, *lines: str) -> 'subprocess.CompletedProcess[str]':
        """Build sandbox with these knobs."""
        env = self.knob(*lines)
        out = self.make('sandbox_defconfig', env=env)
        return out if out.returncode else self.make(env=env)

    def test_text(self) -> None:
        """fail, warn, say and show print where they should."""
        out = self.run_knob('say hello you', 'show SAMPLE_KNOBS', 'warn careful')
        self.assertEqual(0, out.returncode)
        self.assertEqual(f'hello you\nSAMPLE_KNOBS={self.out}/knobs\n', out.stdout)
        self.assertEqual('knobs.c:1:1: warning: careful\n', out.stderr)
        out = self.run_knob('fail no good')
        self.assertEqual(2, out.returncode)
        self.assertIn('error: no good', out.stderr)

    def test_config_stage(self) -> None:
        """A knob for the configuration leaves the build alone."""
        out = self.run_knob('config fail not today')
        self.assertEqual(2, out.returncode)
        self.assertRegex(out.stderr, r'\[.*: sandbox_defconfig\] Error 1')

    def test_noise(self) -> None:
        """noise fills both pipes with as much as asked."""
        out = self.run_knob('noise 300')
        self.assertEqual([300 * 1024] * 2, [len(out.stdout), len(out.stderr)])

    def test_files(self) -> None:
        """need, flaky and signal look at files and make them."""
        path = os.path.join(self.out, 'mark')
        self.assertEqual(2, self.run_knob(f'need {path}').returncode)
        self.assertEqual(2, self.run_knob(f'flaky {path}').returncode)
        self.assertEqual(0, self.run_knob(f'flaky {path}', f'need {path}').returncode)
        self.assertEqual(0, self.run_knob(f'signal {path}.two').returncode)
        self.assertTrue(os.path.exists(path + '.two'))

    def test_wait(self) -> None:
        """A build can be held at a point and let go."""
        one, two = (os.path.join(self.out, name) for name in ('here', 'go'))
        env = self.knob(f'signal {one}', f'wait {two}')
        self.make('sandbox_defconfig', env=env)
        with subprocess.Popen(['make', '-s', f'O={self.out}'], cwd=self.tree.path,
                              env=dict(os.environ, **env)) as proc:
            support.wait_for(one)
            self.assertIsNone(proc.poll())
            with open(two, 'w', encoding='utf-8'):
                pass
            self.assertEqual(0, proc.wait(support.TIMEOUT))

    def test_hang(self) -> None:
        """A hang holds the pipes by a grandchild, as real ones do; the deaf
        kind needs SIGKILL."""
        for kind in ('', ' deaf'):
            here = os.path.join(self.out, 'here' + kind.strip())
            env = self.knob(f'signal {here}', f'hang{kind}')
            env[support.MARK] = f'hang-{os.getpid()}'
            self.make('sandbox_defconfig', env=env)
            with subprocess.Popen(['make', '-s', f'O={self.out}'], cwd=self.tree.path,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env=dict(os.environ, **env),
                                  start_new_session=True) as proc:
                support.wait_for(here)
                self.wait_for_sleep(env[support.MARK])
                self.assertIsNone(proc.poll())
                os.killpg(proc.pid, 15 if not kind else 9)
                proc.wait(support.TIMEOUT)
            support.assert_no_processes(env[support.MARK])

    def wait_for_sleep(self, marker: str) -> None:
        """Wait until the child that holds the pipes is there."""
        support.wait_until(lambda: any(text.startswith('sleep 1000000') for text in
                                       support.marked_processes(marker).values()))

    def test_leftover(self) -> None:
        """orphan ends the build and leaves a child; assert_no_processes finds it
        and ends it."""
        for knob in ('orphan', 'escape'):
            env = self.knob(knob)
            env[support.MARK] = f'orphan-{os.getpid()}'
            self.make('sandbox_defconfig', env=env)
            proc = subprocess.run(['make', '-s', f'O={self.out}'], cwd=self.tree.path,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env=dict(os.environ, **env), timeout=support.TIMEOUT,
                                  check=False)
            self.assertEqual(0, proc.returncode)
            with self.assertRaisesRegex(AssertionError, 'sleep 1000000'):
                support.assert_no_processes(env[support.MARK], within=0)
            support.assert_no_processes(env[support.MARK])

    def test_kill(self) -> None:
        """kill ends a step, killmake the make above it, by a signal."""
        out = self.run_knob('kill KILL')
        self.assertEqual(2, out.returncode)
        self.assertRegex(out.stderr, r'knobs\] Killed')
        out = self.run_knob('killmake KILL')
        self.assertEqual(2, out.returncode)
        self.assertRegex(out.stderr, r'sub-make\] Killed')

    def test_stale(self) -> None:
        """An output folder can be left so that only a new configuration, or
        only cleaning, helps."""
        self.assertEqual(0, self.run_knob('stale').returncode)
        out = self.make()
        self.assertEqual(2, out.returncode)
        self.assertIn('left by the build before', out.stderr)
        self.assertEqual('ok', self.build(self.board('sandbox')))
        self.assertEqual(0, self.run_knob('stale mrproper').returncode)
        self.assertEqual('fail', self.build(self.board('sandbox')))
        self.make('mrproper')
        self.assertEqual('ok', self.build(self.board('sandbox')))

    def test_in_the_tree(self) -> None:
        """Knobs that are committed travel to other machines."""
        tree = sample.make_sample(os.path.join(self.out, 'tree'), boards=1, commits=2,
                                  knobs={(1, 'sandbox'): ['fail'], (2, 'sandbox'): []})
        self.assertEqual(['ok', 'fail', 'ok'],
                         [tree.expected[index, 'sandbox'] for index in range(3)])
        for index, commit in enumerate(tree.commits):
            self.checkout(commit, tree)
            self.assertEqual(tree.expected[index, 'sandbox'],
                             self.build(tree.boards[0], tree=tree))


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


class TestSupport(unittest.TestCase):
    """The helpers that other tests believe."""

    def test_screen(self) -> None:
        """A redrawn line counts once, as a user sees it."""
        text = 'one\n  1 of 2\r  2 of 2\r\x1b[Kdone \x1b[1;32mok\x1b[0m\nab\bc\n'
        self.assertEqual(['one', 'done ok', 'ac', ''], support.render_screen(text))

    def test_terminal(self) -> None:
        """A program on the terminal is really on one, and can be typed at."""
        out = support.run_on_terminal(
            [sys.executable, '-c', 'import os,sys; print(sys.stdout.isatty(), '
             'os.get_terminal_size().columns); print(input("name? "))'],
            answers=[('name? ', b'me\r')])
        self.assertEqual(0, out.returncode)
        self.assertEqual(['True 80', 'name? me', 'me', ''], out.screen())

    def test_needs(self) -> None:
        """Skipping is loud, and no way out where CI is set."""
        support.needs('sh')
        saved = os.environ.pop('CI', None)
        err = sys.stderr
        try:
            with open(os.devnull, 'w', encoding='utf-8') as sys.stderr, \
                    self.assertRaises(unittest.SkipTest):
                support.needs('no-such-tool')
            os.environ['CI'] = '1'
            with self.assertRaisesRegex(AssertionError, 'no-such-tool'):
                support.needs('no-such-tool')
        finally:
            sys.stderr = err
            os.environ.pop('CI')
            if saved is not None:
                os.environ['CI'] = saved

    def test_trees(self) -> None:
        """A difference between trees is found, a different home folder is not."""
        with tempfile.TemporaryDirectory() as tmp:
            files = {'01_gabc_x/b/out-env': ('A="1"HOME="/a"PATH="/x"Z="2"',
                                             'A="1"HOME="/b"PATH="/y"Z="2"'),
                     '01_gabc_x/b/done': ('0', '0'), '01_gabc_x/b/host': ('me', 'you'),
                     '.bm-work/00/junk': ('1', '2')}
            for name, texts in files.items():
                for side, text in zip('lr', texts):
                    path = os.path.join(tmp, side, name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with open(path, 'w', encoding='utf-8') as outf:
                        outf.write(text)
            left, right = (os.path.join(tmp, side) for side in 'lr')
            support.assert_same_tree(left, right)
            for name, text in (('out-env', 'A="1"HOME="/b"PATH="/y"Z="3"'), ('done', '2'),
                               ('extra', '')):
                path = os.path.join(right, '01_gabc_x/b', name)
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write(text)
            found = '\n'.join(support.tree_differences(left, right))
            self.assertIn('-Z=2', found)
            self.assertIn('+2', found)
            self.assertIn('only in', found)

    def test_wait_until(self) -> None:
        """Waiting ends at its bound."""
        start = time.monotonic()
        with self.assertRaisesRegex(AssertionError, 'in vain for the moon'):
            support.wait_until(lambda: False, 0, 'the moon')
        self.assertLess(time.monotonic() - start, 60)


if __name__ == '__main__':
    unittest.main()
