# SPDX-License-Identifier: GPL-2.0+
"""What users and machines do wrong: one clear line each, and nothing half done."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from typing import Any, ClassVar, Dict, List, Mapping, Optional

import support

from buildman.demo import sample_files

BOARDS = (*(board for board in sample_files.DEFAULT_BOARDS
            if board.target in ('sandbox', 'hammock', 'rocket')),
          sample_files.BoardSpec('xtbox', 'xtensa'))


def read(*parts: str) -> str:
    """Return the text of a file."""
    with open(os.path.join(*parts), encoding='utf-8', errors='replace') as inf:
        return inf.read()


class ErrorCase(support.SampleCase):
    """Four boards, of which nobody has a compiler for one"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': BOARDS, 'commits': 2}

    def check(self, text: str, *args: str, cwd: Optional[str] = None,
              env: Optional[Mapping[str, str]] = None, status: int = 2) -> support.Result:
        """Run the command; it must fail with one line that matches `text`"""
        got = self.run_buildman(*args, cwd=cwd, env=env)
        self.assertEqual(got.returncode, status, got)
        self.assertEqual(got.stderr.count('\n'), 1, got)
        self.assertTrue(got.stderr.startswith('buildman: '), got)
        self.assertNotIn('unexpected', got.stderr)
        self.assertRegex(got.stderr, text)
        return got

    def path_without(self, *names: str) -> Dict[str, str]:
        """Return an environment whose PATH has all programs but some"""
        folder = self.out('bin')
        os.makedirs(folder)
        for place in os.environ['PATH'].split(os.pathsep):
            if os.path.isdir(place):
                for name in os.listdir(place):
                    link = os.path.join(folder, name)
                    if name not in names and not os.path.lexists(link):
                        os.symlink(os.path.join(place, name), link)
        return {'PATH': folder}


class TestUsage(ErrorCase):
    """The command line"""

    def test_flags(self) -> None:
        """A mistyped flag or value must not start a build of all boards"""
        for args, text in ((['--nosuch'], '--nosuch.*--help'),
                           (['-b', 'feature', '-c', '0'], "-c.*'0' must be 1 or more"),
                           (['-b', 'feature', '-c', 'x'], "-c.*'x' is not a number"),
                           (['-b'], '-b.*expected one argument'),
                           (['--step', '-1'], '--step'),
                           (['-T', 'many'], "-T.*'many'"),
                           (['-a', 'lto'], "-a: cannot understand 'lto': use X, ~X or X=value"),
                           (['-w', '--boards', 'sandbox'], '-w needs -o'),
                           (['sand[box'], r"'sand\[box'"),
                           (['-x', '*'], r"'\*'"),
                           (['&', 'arm'], '&')):
            with self.subTest(args=args):
                # -w is tried without -o
                out = [] if args[0] == '-w' else ['-o', self.out()]
                self.check(text, *args, *out)
                self.assertEqual(os.path.exists(self.out()) and os.listdir(self.out()), False)

    def test_work_in_output(self) -> None:
        """-w has room for one result only"""
        self.check('-w can only be used with a single board: 2 match', '-w', '-o', self.out(),
                   '--boards', 'sandbox,hammock')
        self.check('-w can only be used with a single commit', '-w', '-o', self.out(), '-b',
                   'feature', '--boards', 'sandbox')

    def test_boards(self) -> None:
        """Boards that do not exist"""
        self.check('No matching boards found for nosuch', '-o', self.out(), 'nosuch')
        got = self.run_buildman('-o', self.out(), '--boards', 'nosuch')
        self.assertEqual(got.returncode, 2, got)
        self.assertIn('nosuch', got.stderr)


class TestRepository(ErrorCase):
    """Where the source is"""

    def test_branch(self) -> None:
        """No branch, no upstream, no commits, no repository"""
        out = ('-o', self.out())
        self.check("Branch 'nosuch' not found", '-b', 'nosuch', *out)
        self.check("suitable upstream for branch 'master'.*--set-upstream-to", '-b', 'master',
                   *out)
        self.check("'feature..feature' has no commits", '-b', 'feature..feature', *out)
        self.check('not in a git repository.*-g', '-b', 'feature', *out, cwd=self.tmp)
        self.check('not in a git repository.*-g', *out, cwd=self.tmp)
        self.check("no such folder: '/nonexistent'", '-g', '/nonexistent', '-b', 'x', *out)
        self.assertFalse(os.path.exists(self.out()))

    def test_other_repository(self) -> None:
        """A repository that is not U-Boot"""
        tree = self.out('other')
        subprocess.run(['git', 'init', '-q', '-b', 'main', tree], check=True)
        subprocess.run(['git', '-c', 'user.name=A', '-c', 'user.email=a@b', '-C', tree, 'commit',
                        '-q', '--allow-empty', '-m', 'x'], check=True)
        got = self.check('U-Boot', '-b', 'main', '-c', '1', '-o', self.out(), cwd=tree)
        self.assertNotIn('Building', got.stdout)

    def test_defconfig(self) -> None:
        """A defconfig that Kconfig cannot read is named; without Kconfig only its board fails"""
        tree = self.out('tree')
        shutil.copytree(self.tree.path, tree)
        with open(os.path.join(tree, 'configs/hammock_defconfig'), 'wb') as outf:
            outf.write(b'CONFIG_\xff\x00 what?\n#include <configs/nosuch>\n')
        got = self.run_buildman('-o', self.out(), '--boards', 'hammock,sandbox', cwd=tree)
        self.assertNotIn('Traceback', got.stdout + got.stderr)
        if importlib.util.find_spec('kconfiglib'):
            self.assertEqual(got.returncode, 2, got)
            self.assertRegex(got.stderr, r'\Abuildman: configs/hammock_defconfig: .*\n\Z')
        else:
            # The boards come from the boards.cfg that the sample tracks
            self.assertEqual(got.returncode, 100, got)
            self.assertEqual(read(self.out('out/current/sandbox/done')), '0')


class TestConfig(ErrorCase):
    """The configuration file"""

    def test_config(self) -> None:
        """Not there, not readable, not INI, a toolchain that is not there"""
        self.check("'/nonexistent/cfg'", '-G', '/nonexistent/cfg', '-o', self.out())
        self.check("Is a directory|not a file", '-G', self.tmp, '-o', self.out())
        for text, expect in (('[toolchain\n', 'cfg'), ('stray\n', 'cfg'), ('[a]\n[a]\n', 'cfg'),
                             ('\x00\xff', 'cfg'),
                             ('[toolchain-prefix]\nriscv64 = /nonexistent/riscv-\n',
                              '/nonexistent/riscv-')):
            with open(self.out('cfg'), 'w', encoding='latin-1') as outf:
                outf.write(text)
            with self.subTest(text=text):
                self.check(expect, '-G', self.out('cfg'), '-o', self.out(), '--boards', 'hammock')
        self.assertFalse(os.path.exists(self.out('out/current')))


class TestMachine(ErrorCase):
    """Programs, compilers and disks"""

    def test_programs(self) -> None:
        """No make, no git"""
        args = ('-b', 'feature', '-c', '1', '-o', self.out(), '--boards', 'sandbox')
        self.check('GNU make is not installed', *args, env=self.path_without('make', 'gmake'))
        shutil.rmtree(self.out('bin'))
        self.check('git is not installed', *args, env=self.path_without('git'))

    def test_gone_program(self) -> None:
        """A command that a build lacks is this machine's fault: tried again, told"""
        env = self.write_knobs('sandbox', 'nosuch')
        path = self.out('knobs/sandbox')
        with open(path, 'w', encoding='ascii') as outf:
            outf.write(f'need {self.tmp}/there\n')
        # The compiler is killed at the first try only
        os.makedirs(self.out('bin'))
        gcc = self.out('bin/gcc')
        with open(gcc, 'w', encoding='ascii') as outf:
            outf.write('#!/bin/sh\ncase " $* " in\n*" -c "*)\n'
                       f'if [ ! -e {self.tmp}/there ]; then\n: > {self.tmp}/there\n'
                       'echo "gcc: fatal error: Killed signal terminated program cc1" >&2\n'
                       f'exit 1\nfi ;;\nesac\nexec {shutil.which("gcc")} "$@"\n')
        os.chmod(gcc, 0o755)
        os.unlink(path)
        env['PATH'] = self.out('bin') + os.pathsep + os.environ['PATH']
        got = self.run_buildman('-b', 'feature', '-c', '1', '-Q', '-o', self.out(), '--boards',
                                'sandbox', '-O', 'gcc', env=env)
        self.assertEqual(got.returncode, 0, got)
        self.assertIn("'sandbox' failed as a compiler was killed; tried again", got.stdout)
        self.assertIn('Completed: 1 total built', got.stdout)

    def test_killed_make(self) -> None:
        """A make that is killed again and again is no result: the next run builds the board"""
        env = self.write_knobs('sandbox', 'killmake KILL')
        args = ('-b', 'feature', '-c', '1', '-o', self.out(), '--boards', 'sandbox,hammock')
        got = self.run_buildman(*args, env=env)
        self.assertEqual(got.returncode, 100, got)
        self.assertIn("'sandbox' failed as a compiler was killed; tried again", got.stdout)
        self.assertRegex(got.stdout, r'(?m)^Not built: sandbox: given up after 3 attempts: '
                                     r'a compiler was killed')
        got = self.run_buildman(*args)
        self.assertEqual(got.returncode, 0, got)
        self.assertIn('2 total built (1 previously, 1 newly', got.stdout)

    def test_cut_short(self) -> None:
        """What a make that was killed left is used by no build: not by the next commit's either"""
        os.makedirs(self.out('bin'))
        path = self.out('bin/make')
        with open(path, 'w', encoding='ascii') as outf:
            outf.write(f'#!/bin/sh\ncase "$*" in *_defconfig*) ;; *)\n'
                       f'if mkdir {self.tmp}/once 2>/dev/null; then\n{shutil.which("make")} "$@"\n'
                       'rm build/u-boot.cfg build/include/autoconf.mk\nkill -9 $$\nfi ;;\nesac\n'
                       f'exec {shutil.which("make")} "$@"\n')
        os.chmod(path, 0o755)
        args = ('-b', 'feature', '-c', '2', '-T', '1', '--boards', 'sandbox')
        ref = self.run_buildman(*args, '-o', self.out('ref'))
        got = self.run_buildman(*args, '-o', self.out(), env={
            'PATH': self.out('bin') + os.pathsep + os.environ['PATH']})
        self.assertEqual(ref.returncode, got.returncode, got)
        self.assertIn('failed as make was ended by signal 9; tried again', got.stdout)
        support.assert_same_tree(self.out('ref/feature'), self.out('out/feature'),
                                 ignore=('out-env',))

    def test_noise(self) -> None:
        """Megabytes of output stop nobody and are kept"""
        env = self.write_knobs('sandbox', 'noise 3000', 'orphan')
        got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(), '--boards',
                                'sandbox', env=env)
        self.assertEqual(got.returncode, 101, got)
        top = self.out('out/feature')
        folder = next(name for name in os.listdir(top) if '_g' in name)
        for name in ('log', 'err'):
            self.assertEqual(os.path.getsize(os.path.join(top, folder, 'sandbox', name)),
                             3000 * 1024)
        self.assert_no_processes()

    def test_output_folder(self) -> None:
        """A file in the way of the output folder"""
        with open(self.out('file'), 'w', encoding='ascii'):
            pass
        for out in ('file', 'file/below'):
            self.check(f"{self.out('file')}.*-o", '-b', 'feature', '-o', self.out(out),
                       '--boards', 'sandbox')
        os.makedirs(self.out())
        with open(self.out('out/feature'), 'w', encoding='ascii'):
            pass
        self.check(f"{self.out('out/feature')}.*-o", '-b', 'feature', '-o', self.out(),
                   '--boards', 'sandbox')

    def mount(self, size: str) -> str:
        """Return a folder with little space, if this machine lets us have one"""
        folder = self.out('small')
        os.makedirs(folder)
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', folder],
                              capture_output=True, check=False)
        if done.returncode:
            self.skipTest('no right to mount a small disk')
        self.addCleanup(subprocess.run, ['umount', '-l', folder], check=True)
        return folder

    def test_full_disk(self) -> None:
        """A full disk: said, and nothing that is there seems complete but is not"""
        folder = self.mount('64k')
        args = ('-b', 'feature', '-o', folder, '--boards', 'sandbox')
        got = self.run_buildman(*args)
        self.assertEqual(got.returncode, 2, got)
        self.assertIn('No space left on device', got.stderr)
        self.assertNotIn('Traceback', got.stderr)
        found: List[str] = []
        for _, _, names in os.walk(folder):
            found += names
        self.assertNotIn('done', found)
        self.assertNotIn('probe', found)

    def test_two_runs(self) -> None:
        """Two runs in one folder would spoil each other"""
        env = self.write_knobs('sandbox', f'signal {self.tmp}/here', f'wait {self.tmp}/go')
        args = ('-b', 'feature', '-c', '1', '-o', self.out(), '--boards', 'sandbox')
        proc = self.start_buildman(*args, env=env)
        support.wait_until(lambda: os.path.exists(self.out('here')) or proc.poll() is not None)
        self.check(f'another buildman .process {proc.pid}. is building in .*-o', *args)
        with open(self.out('go'), 'w', encoding='ascii'):
            pass
        self.assertEqual(proc.wait(60), 0)

    def test_debug(self) -> None:
        """-D shows where an error comes from, and only -D"""
        got = self.run_buildman('-D', '-b', 'nosuch', '-o', self.out())
        self.assertEqual(got.returncode, 2)
        self.assertIn('Traceback', got.stderr)
        self.assertIn("buildman: Branch 'nosuch' not found", got.stderr)
