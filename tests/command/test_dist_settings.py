# SPDX-License-Identifier: GPL-2.0+
"""Everything that changes a build crosses to the machines: flags, environment, files."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
from typing import Any, ClassVar, Dict

import support
from dist_support import LOGS, DistCase, read

from buildman.agent import lock
from buildman.cli import cmdline, control
from buildman.core.plan import Settings
from buildman.demo import sample
from buildman.wire import messages

# A value for each type that is not the default
OTHER: Dict[type, Any] = {str: 'other', int: 7, tuple: ('LTO', '~NET')}

# Flags that together turn every setting that does not refer to a folder here
FLAGS = {
    '-V': 'verbose_build', '-M': 'allow_missing', '-L': 'no_lto', '-r': 'reproducible_builds',
    '-E': 'warnings_as_errors', '-m': 'mrproper', '--fallback-mrproper': 'fallback_mrproper',
    '--config-only': 'config_only', '-f': 'force_build', '-F': 'force_build_failures',
    '-Z': 'kconfig_check', '-C': 'force_reconfig', '--ccache': 'ccache', '-k': 'keep_outputs',
    '-Q': 'quick', '-i': 'in_tree', '-P': 'per_board_out_dir', '-p': 'full_path',
    '-w': 'work_in_output', '--dtc-skip': 'dtc_skip', '--shared-dtc': 'shared_dtc',
    '--target=u-boot.bin': 'target',
    '--no-skip-unaffected': 'skip_unaffected', '-a=LTO': 'adjust_cfg',
    '--fragments=quiet.config': 'fragments', '-j=3': 'jobs', '--timeout=600': 'timeout',
    '--lines': 'lines', '--retry=2': 'retry'}


class TestImages(DistCase):
    """A machine of images, which are folders here"""

    names = ('box',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 3, 'commits': 1}

    def tearDown(self) -> None:
        for arch in ('arm', 'aarch64'):
            self.assertIsNone(lock.who(os.path.join(self.work_dir('box'), arch)))
        super().tearDown()

    def test_each(self) -> None:
        """Each board is built in the image of its arch, and this machine has the others"""
        self.ways['box'] = f"env PATH={{image}}:{os.environ['PATH']} sh -c"
        images = ''
        for arch in ('arm', 'aarch64'):
            folder = self.out(f'image {arch}')
            os.mkdir(folder)
            for path in glob.glob(os.path.join(self.toolchains, 'bin', f'{arch}-*')):
                os.symlink(path, os.path.join(folder, os.path.basename(path)))
            images += f'{arch} = {folder}\n'
        self.machines('box', extra=f'[image]\n{images}')
        ref, status = self.local()
        done = self.dist()
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertLessEqual({('anvil', 'box-aarch64'), ('rocket', 'box-arm')}.intersection(
            (board, host) for (_, board), host in self.hosts().items()), set())
        self.assertRegex(done.stdout, r'(?m)^  box-arm: \d+ results')
        self.assertRegex(done.stdout, r'(?m)^  box-aarch64: \d+ results')


class TestSettings(DistCase):
    """Each flag whose result can be seen: local and distributed trees are the same"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 3, 'commits': 1}

    def compare(self, *args: str, board: str = 'anvil') -> None:
        """Build one board locally and on the machine; the flags must show, and equally"""
        plain, _ = self.local(board)
        ref, status = self.local(board, *args)
        self.assertTrue(support.tree_differences(plain, ref, ignore=LOGS),
                        f'{args} changes nothing')
        done = self.dist('--no-local', board, *args)
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertEqual({'alpha'}, set(self.hosts().values()))

    def test_words(self) -> None:
        """-V -L -r -p --target: the words that make gets"""
        # -j: else the order of what make says is a matter of luck
        self.compare('-V', '-L', '-r', '-p', '--target', 'all', '-j', '1')

    def test_keep(self) -> None:
        """-k: images come back whole, with their permissions"""
        # -r: else the time is in the images
        self.compare('-k', '-r')
        ref, _ = self.local('anvil', '-k', '-r')
        image = glob.glob(os.path.join(self.results(), '01_*', 'anvil', 'u-boot'))[0]
        here = os.path.join(ref, os.path.relpath(image, self.results()))
        self.assertEqual(os.stat(here).st_mode, os.stat(image).st_mode)

    def test_errors(self) -> None:
        """-E: a warning is a failure, there as here"""
        env = self.write_knobs('rocket', 'warn careful')
        self.machines('alpha', extra='[worker-env]\nSAMPLE_KNOBS\n')
        ref, status = self.local('rocket', '-E', env=env)
        done = self.dist('--no-local', 'rocket', '-E', env=env)
        self.assertEqual((101, 101), (status, done.returncode), done)
        self.assert_same(ref)

    def test_config(self) -> None:
        """-a and --fragments: the configuration that is built"""
        self.compare('-a', 'LTO,~NET', '--fragments', 'quiet.config')

    def test_config_only(self) -> None:
        """--config-only: nothing is compiled"""
        self.compare('--config-only')

    def test_force(self) -> None:
        """-f: what is there is built again, on the machines, too"""
        args = ('--no-local', 'anvil')
        self.assertEqual(0, self.dist(*args).returncode)
        first = {path: os.stat(path).st_mtime_ns for path in
                 glob.glob(os.path.join(self.results(), '*', 'anvil', 'done'))}
        self.assertEqual(0, self.dist(*args, '-f').returncode)
        for path, when in first.items():
            self.assertNotEqual(when, os.stat(path).st_mtime_ns)
        self.assert_same(self.local('anvil')[0])


class TestAllSettings(DistCase):
    """No setting can be forgotten on the way"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 1, 'commits': 1}

    def test_every_flag(self) -> None:
        """A setting without a flag, or a flag that sets nothing"""
        fields = {field.name for field in dataclasses.fields(Settings)}
        # The one that the configuration sets: test_environment
        self.assertEqual(fields - {'variables'}, set(FLAGS.values()))
        default = control.make_settings(cmdline.parse(['-b', 'x']))
        for flag, name in FLAGS.items():
            with self.subTest(flag=flag):
                if name == 'fallback_mrproper':
                    words = ['--fallback-mrproper']
                else:
                    words = flag.split('=') if flag.startswith('-') and '=' in flag else [flag]
                changed = control.make_settings(cmdline.parse(['-b', 'x', *words]))
                self.assertNotEqual(getattr(default, name), getattr(changed, name))

    def test_wire(self) -> None:
        """Every field arrives as it was sent, whatever its value"""
        for field in dataclasses.fields(Settings):
            value = (not field.default if isinstance(field.default, bool)
                     else OTHER[type(field.default)])
            with self.subTest(field=field.name):
                sent = dataclasses.replace(Settings(), **{field.name: value})
                line = messages.encode(messages.Configure(
                    sent.to_dict(), {}, {'settings': sent.to_dict()}, messages.PROTOCOL_VERSION))
                got = json.loads(line)
                self.assertEqual(sent, Settings.from_dict(got['settings']))
                self.assertEqual(sent, Settings.from_dict(got['plan']['settings']))

    def test_real_run(self) -> None:
        """What the command line says is what the machine is told"""
        words = ['-V', '-M', '-L', '-r', '-m', '-F', '-Z', '-C', '-k', '-Q', '-P', '-p',
                 '--target', 'all', '-a', 'LTO', '--fragments', 'quiet.config', '-j', '2']
        self.dist('--no-local', *words)
        text = read(self.results(), 'worker-alpha.log')
        found = re.search(r'>> (\{"cmd": "configure".*)', text)
        assert found
        told = json.loads(found.group(1))
        want = control.make_settings(cmdline.parse(['-b', 'x', *words]))
        self.assertEqual(want, Settings.from_dict(told['settings']))


class TestOutside(DistCase):
    """What a build takes from outside the tree"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 1, 'commits': 1}

    def test_environment(self) -> None:
        """BL31, KCFLAGS, SOURCE_DATE_EPOCH and [worker-env] make the same build there.

        The file is sent by content; what is recorded has its path here.
        """
        blob = self.out('bl31 of mine.bin')
        with open(blob, 'wb') as outf:
            outf.write(os.urandom(3 << 20))
        env = self.write_knobs('sandbox', 'show BL31', 'show KCFLAGS', 'show SITE', 'show SECRET',
                               'show A', f'need {self.out("bl31 of mine.bin")}')
        env.update(BL31=blob, KCFLAGS='-DFROM_BOSS=3', SOURCE_DATE_EPOCH='1234567',
                   SECRET='not to be sent', MAKEFLAGS='-j9 --no-print-directory A=told')
        self.machines('alpha', extra='[worker-env]\nSAMPLE_KNOBS\nSITE = north\n')
        done = self.dist('--no-local', '-k', env=env)
        self.assertEqual(0, done.returncode, done)
        board = glob.glob(os.path.join(self.results(), '01_*', 'sandbox'))[0]
        log = read(board, 'log')
        self.assertIn('KCFLAGS=-DFROM_BOSS=3', log)
        self.assertIn('SITE=north', log)
        self.assertIn('\nA=told\n', log)
        out_env = read(board, 'out-env')
        self.assertIn(f'BL31="{blob}"', out_env)
        self.assertIn('SOURCE_DATE_EPOCH="1234567"', out_env)
        self.assertIn('MAKEFLAGS="A=told"', out_env)
        self.assertIn('SITE="north"', out_env)
        stored = glob.glob(os.path.join(self.work_dir('alpha'), 'blobs', '**'), recursive=True)
        self.assertIn(3 << 20, [os.path.getsize(path) for path in stored])
        self._second_time(env)

    def _second_time(self, env: Dict[str, str]) -> None:
        """The file is there already: it does not travel again"""
        done = self.dist('--no-local', '-f', env=env)
        sent = re.search(r'(?m)^  alpha: \d+ results, sent ([\d.]+) (\w+),', done.stdout)
        assert sent, done
        self.assertNotEqual('MiB', sent.group(2), done)

    def test_files_of_the_tree(self) -> None:
        """What this tree's Makefile takes: a file, a folder and a list of them, by content"""
        tpl, inner = self.out('ddr.bin'), self.out('in/deep')
        os.makedirs(inner)
        for path, text in ((tpl, 'ddr '), (self.out('in/a.bin'), 'first '),
                           (self.out('key.pem'), 'key ')):
            with open(path, 'w', encoding='ascii') as outf:
                outf.write(text)
        other = self.out('other')
        os.mkdir(other)
        os.symlink(self.out('in/a.bin'), os.path.join(other, 'b.bin'))
        for name in ('c.bin', 'b.bin'):
            os.symlink(os.path.join(self.tmp, 'key.pem'), os.path.join(inner, name))
        env = {'ROCKCHIP_TPL': tpl, 'BINMAN_INDIRS': f'{other} {inner}', 'SOURCE_DATE_EPOCH': '0',
               'PRE_LOAD_KEY_PATH': self.out('key.pem'), 'HOME': self.tmp, 'MY_TOKEN': 'private',
               'LOCALVERSION': ''}
        # It has such files of its own, which are no business of this build
        self.ways['alpha'] = 'env BL31=/etc/passwd LOCALVERSION=-theirs sh -c'
        self.machines('alpha')
        ref, status = self.local('-k', env=env)
        done = self.dist('--no-local', '-k', env=env)
        self.assertEqual((0, 0), (status, done.returncode), done)
        self.assert_same(ref)
        board = glob.glob(os.path.join(self.results(), '01_*', 'sandbox'))[0]
        with open(os.path.join(board, 'u-boot-outside.bin'), 'rb') as inf:
            self.assertTrue(inf.read().endswith(b'ddr key first key key '))
        out_env = read(board, 'out-env')
        for name in ('ROCKCHIP_TPL', 'BINMAN_INDIRS', 'PRE_LOAD_KEY_PATH', 'LOCALVERSION'):
            self.assertIn(f'{name}="{env[name]}"', out_env)
        self.assertNotIn('private', out_env + read(self.results(), 'worker-alpha.log'))

    def test_make_flags(self) -> None:
        """A file that [make-flags] names; what is recorded and said has its path here"""
        for name in ('tpl', 'in'):
            os.mkdir(self.out(name))
            with open(self.out(f'{name}/x.bin'), 'w', encoding='ascii') as outf:
                outf.write(f'{name} ')
        text = (f"[make-flags]\nsandbox = ROCKCHIP_TPL={self.out('tpl/x.bin')} "
                f"BINMAN_INDIRS={self.out('in')} V=1\n")
        with open(self.plain_config, 'a', encoding='utf-8') as outf:
            outf.write(text)
        self.addCleanup(sample.write_config, self.plain_config, self.toolchains)
        self.machines('alpha', extra=text)
        env = {'SOURCE_DATE_EPOCH': '0'}
        ref, status = self.local('-k', '-j', '1', env=env)
        done = self.dist('--no-local', '-k', '-j', '1', env=env)
        self.assertEqual((0, 0), (status, done.returncode), done)
        self.assert_same(ref)
        board = glob.glob(os.path.join(self.results(), '01_*', 'sandbox'))[0]
        with open(os.path.join(board, 'u-boot-outside.bin'), 'rb') as inf:
            self.assertTrue(inf.read().endswith(b'tpl in '))
        self.assertIn(f"ROCKCHIP_TPL={self.out('tpl/x.bin')}", read(board, 'out-cmd'))

    def test_too_large(self) -> None:
        """A folder that is too large is named, and its name goes along"""
        full = self.out('full')
        os.mkdir(full)
        for num in range(2001):
            with open(os.path.join(full, str(num)), 'wb'):
                pass
        done = self.dist('--no-local', '-c', '1', env={'BINMAN_INDIRS': full})
        self.assertEqual(0, done.returncode, done)
        self.assertRegex(done.stdout, rf"(?m)^BINMAN_INDIRS: '{full}' is not sent to "
                         r'machines: it has more than 2000 files')

    def test_not_sent(self) -> None:
        """What a user has set for purposes of their own stays here"""
        env = self.write_knobs('sandbox', 'show SECRET')
        self.ways['alpha'] = 'env -u SECRET sh -c'
        self.machines('alpha', extra='[worker-env]\nSAMPLE_KNOBS\n')
        env['SECRET'] = 'private'
        done = self.dist('--no-local', env=env)
        self.assertEqual(0, done.returncode, done)
        for path in glob.glob(os.path.join(self.results(), '*', 'sandbox', '*')):
            self.assertNotIn('private', read(path), path)


class TestCurrent(DistCase):
    """Without -b: the folder as it is"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}

    def test_current(self) -> None:
        """Uncommitted and untracked files are built, and git is left as it was"""
        path = os.path.join(self.tree.path, 'common', 'board.c')
        if not os.path.exists(path):
            path = glob.glob(os.path.join(self.tree.path, 'common', '*.c'))[0]
        text = read(path)
        extra = os.path.join(self.tree.path, 'configs', 'extra.config')
        try:
            with open(path, 'a', encoding='utf-8') as outf:
                outf.write('\nint uncommitted_number = 42;\n')
            with open(extra, 'w', encoding='utf-8') as outf:
                outf.write('CONFIG_BOOTDELAY=77\n')
            git = os.path.join(self.tree.path, '.git')
            before = (support_git(self.tree.path), os.stat(os.path.join(git, 'index')).st_mtime_ns)
            here, there = self.out('here'), self.out('there')
            args = ('--boards', 'sandbox,anvil', '-k', '-r', '--fragments', 'extra.config')
            one = self.run_buildman('-o', here, *args)
            two = self.run_buildman('-o', there, '--dist', '--no-local', *args)
            self.assertEqual((0, 0), (one.returncode, two.returncode), f'{one}{two}')
            tree = self.run_buildman('-o', self.out('tree'), '--dist', '--no-local', '-i', *args)
            self.assertEqual(0, tree.returncode, tree)
            after = (support_git(self.tree.path), os.stat(os.path.join(git, 'index')).st_mtime_ns)
            self.assertEqual(before, after)
        finally:
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(text)
            os.remove(extra)
        here, there = os.path.join(here, 'current'), os.path.join(there, 'current')
        for top in (here, there):
            self.assertIn('uncommitted_number', read(top, 'anvil', 'u-boot.sizes'))
            self.assertIn('CONFIG_BOOTDELAY=77\n', read(top, 'anvil', '.config'))
        # O= is an absolute path here
        support.assert_same_tree(here, there, ignore=(*LOGS, 'out-cmd'))
        # -i: not even there in the source
        support.assert_same_tree(there, self.out('tree/current'), ignore=LOGS)
        self.assertEqual(version(here), version(there))


def support_git(path: str) -> str:
    """Return what git says of a repository: status, branches and stash"""
    import subprocess
    return ''.join(subprocess.run(['git', '--no-optional-locks', *args], cwd=path, check=True,
                                  capture_output=True, text=True).stdout
                   for args in (('status', '--porcelain'), ('for-each-ref',), ('stash', 'list')))


def version(top: str) -> str:
    """Return the version string that was built into an image"""
    with open(os.path.join(top, 'sandbox', 'u-boot'), 'rb') as inf:
        found = re.search(rb'U-Boot [ -~]+', inf.read())
    assert found, 'no version in the image'
    return found.group().decode()
