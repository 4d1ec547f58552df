# SPDX-License-Identifier: GPL-2.0+
"""Each flag of a build does what it says; ignored, its test fails."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from typing import Any, ClassVar, Dict, List, Optional, Tuple

import support

from buildman.demo import sample, sample_files

BOARDS = tuple(board for board in sample_files.DEFAULT_BOARDS
               if board.target in ('sandbox', 'anvil', 'rocket'))


def _kconfig(state: sample_files.TreeState) -> None:
    state.bootdelay = 7


def read(*parts: str) -> str:
    """Return the text of a file."""
    with open(os.path.join(*parts), encoding='utf-8', errors='replace') as inf:
        return inf.read()


class FlagCase(support.SampleCase):
    """Three boards, a base and three commits, of which the last is to Kconfig"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': BOARDS, 'commits': [
        sample.DEFAULT_STEPS[0], sample.DEFAULT_STEPS[2], ('Kconfig: Another delay', _kconfig)]}

    def commits(self, out: str = '') -> List[str]:
        """Return the numbers of the commits that have results, with their subjects"""
        top = os.path.join(out or self.out(), 'feature')
        return [re.sub('g[0-9a-f]{40}_', '', name) for name in sorted(os.listdir(top))
                if re.match(r'\d\d_g', name)]

    def newest(self, *args: str, target: str = 'sandbox', status: int = 0,
               extra: Tuple[str, ...] = (), knobs: Tuple[str, ...] = (),
               environment: Optional[Dict[str, str]] = None) -> str:
        """Build the newest commit for one board and return its result folder"""
        env = {**(self.write_knobs(target, *knobs) if knobs else {}), **(environment or {})}
        got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(), '--boards',
                                target, *args, *extra, env=env)
        self.assertEqual(got.returncode, status, got)
        self.last = got
        return self.result(target)

    def result(self, target: str = 'sandbox', upto: int = 0, top: str = 'out/feature') -> str:
        """Return the result folder of a board"""
        top = self.out(top)
        name = next(name for name in os.listdir(top) if name.startswith(f'{upto + 1:02}_g'))
        return os.path.join(top, name, target)

    def program(self, name: str, *lines: str) -> Dict[str, str]:
        """Put a program on PATH; return the environment"""
        folder = self.out('bin')
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('\n'.join(('#!/bin/sh', *lines)) + '\n')
        os.chmod(path, 0o755)
        return {'PATH': folder + os.pathsep + os.environ['PATH']}


class TestCommits(FlagCase):
    """Which commits are built, and which again"""

    def test_range(self) -> None:
        """-b A..B: just those commits"""
        got = self.run_buildman('-b', 'feature~2..feature', '-o', self.out(), '--boards',
                                'sandbox')
        self.assertIn('Building 2 commits for 1 boards (', got.stdout)
        top = self.out('out/feature~2..feature')
        self.assertEqual([name[:2] for name in sorted(os.listdir(top)) if '_g' in name],
                         ['01', '02'])
        self.assertIn(f'02_g{self.tree.commits[3]}_Kconfig--Another-del', os.listdir(top))

    def test_count_and_step(self) -> None:
        """-c the newest ones, --step every other one"""
        self.run_buildman('-b', 'feature', '-c', '2', '-o', self.out('c'), '--boards', 'sandbox')
        self.assertEqual(self.commits(self.out('c')),
                         ['01_rocket-gpio--Größe--', '02_Kconfig--Another-del'])
        self.run_buildman('-b', 'feature', '--step', '2', '-o', self.out('s'), '--boards',
                          'sandbox')
        self.assertEqual(self.commits(self.out('s')),
                         ['01_Base-of-the-sample', '03_rocket-gpio--Größe--'])
        self.run_buildman('-b', 'feature', '--step', '0', '-o', self.out('z'), '--boards',
                          'sandbox')
        self.assertEqual(self.commits(self.out('z')),
                         ['01_Base-of-the-sample', '04_Kconfig--Another-del'])

    def test_force(self) -> None:
        """-f builds all again, -F what failed; else nothing is"""
        boards = ('--boards', 'sandbox,anvil')
        self.newest(extra=boards, status=100, knobs=('fail once',))
        for flags, env, text in (((), {}, '(2 previously)'),
                                 (('-F',), {}, '(1 previously, 1 newly)'),
                                 (('-f',), {}, 'Completed: 2 total built')):
            got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(), *boards,
                                    *flags, env=env)
            self.assertIn(text, got.stdout)
        self.assertNotIn('previously', got.stdout)
        self.assertEqual(got.returncode, 0)

    def test_reconfigure(self) -> None:
        """A Kconfig change configures again, not with -Z, and always with -C"""
        for flags, text in (((), ', 1 reconfig)'), (('-Z',), None), (('-C',), ', 3 reconfig)')):
            with self.subTest(flags=flags):
                out = self.out('out' + ''.join(flags))
                got = self.run_buildman('-b', 'feature', '-o', out, '--boards', 'sandbox', *flags)
                if text:
                    self.assertIn(text, got.stdout)
                else:
                    self.assertNotIn('reconfig', got.stdout)
                top = os.path.join(out, 'feature')
                last = next(name for name in os.listdir(top) if name.startswith('04_'))
                # With -Z the old value stays, which is what is asked for
                self.assertIn(f'CONFIG_BOOTDELAY={2 if flags == ("-Z",) else 7}\n',
                              read(top, last, 'sandbox', '.config'))

    def test_leftovers(self) -> None:
        """A folder spoilt by the build before: configured again, not with -Q"""
        env = self.write_knobs('sandbox', 'stale')
        args = ('-b', 'feature', '-c', '2', '--boards', 'sandbox')
        got = self.run_buildman(*args, '-Z', '-o', self.out('a'), env=env)
        self.assertEqual(got.returncode, 0, got)
        got = self.run_buildman(*args, '-Z', '-Q', '-o', self.out('b'), env=env)
        self.assertEqual(got.returncode, 100, got)

    def test_mrproper(self) -> None:
        """-m cleans before configuring, --fallback-mrproper after a failure"""
        env = self.write_knobs('sandbox', 'stale')
        env.update(self.program('make', f'echo "$@" >> {self.out("calls")}',
                                f'exec {shutil.which("make")} "$@"'))
        args = ('-b', 'feature', '-c', '2', '--boards', 'sandbox')
        calls = []
        for number, flags in enumerate((('-Z',), ('-m',), ('-Z', '--fallback-mrproper'))):
            got = self.run_buildman(*args, *flags, '-o', self.out(str(number)), env=env)
            self.assertEqual(got.returncode, 0, got)
            words = [line for line in read(self.out('calls')).splitlines() if ' -s ' in line]
            calls.append(' '.join('P' if 'mrproper' in line else 'D' if 'defconfig' in line
                                  else 'M' for line in words))
            os.unlink(self.out('calls'))
        self.assertEqual(calls, ['D M M D M', 'P D M P D M', 'D M M P D M'])
        self.assertRegex(read(self.result(top='1/feature'), 'out-cmd'),
                         r'\Amake mrproper O=build .*\nmake O=build .*_defconfig\n')


class TestMake(FlagCase):
    """What make is told, and what comes of it"""

    def cmds(self, folder: str) -> List[str]:
        """Return the commands of a result"""
        return read(folder, 'out-cmd').splitlines()

    def test_words(self) -> None:
        """The words that upstream gives make, too"""
        for flag, word in (('-L', 'NO_LTO=1'), ('-M', 'BINMAN_ALLOW_MISSING=1'),
                           ('-V', 'V=1'), ('-E', 'KCFLAGS=-Werror HOSTCFLAGS=-Werror'),
                           ('-r', 'SOURCE_DATE_EPOCH=0'), ('-j3', '-j 3 NPROC=3')):
            with self.subTest(flag=flag):
                for cmd in self.cmds(self.newest('-f', flag, '-Q')):
                    self.assertIn(f' {word} ', cmd + ' ')
        for cmd in self.cmds(self.newest('-f', '--no-allow-missing')):
            self.assertRegex(cmd, r'\Amake O=build -s NPROC=1( sandbox_defconfig)?\Z')

    def test_werror(self) -> None:
        """-E: a warning breaks the board"""
        self.newest('-a', 'SAMPLE_WARN', status=101)
        folder = self.newest('-f', '-a', 'SAMPLE_WARN', '-E', status=100)
        self.assertIn('Werror', read(folder, 'err'))

    def test_warnings_status(self) -> None:
        """101 when there are only warnings, 0 with -W, and errors count all the same"""
        self.newest(knobs=('warn',), status=101)
        self.newest('-W')
        self.newest('-W', '-f', knobs=('fail',), status=100)

    def test_lto(self) -> None:
        """-L takes link-time optimisation out of a build that has it"""
        for flags, marked in (((), True), (('-L',), False)):
            folder = self.newest('-f', '-k', '-a', 'LTO', *flags)
            with open(os.path.join(folder, 'u-boot.bin'), 'rb') as inf:
                self.assertEqual(b' LTO' in inf.read(), marked, flags)

    def test_reproducible(self) -> None:
        """-r: the image tells nothing of the day and the commit"""
        folder = self.newest('-r', '-k')
        with open(os.path.join(folder, 'u-boot.bin'), 'rb') as inf:
            image = inf.read()
        self.assertIn(b'Jan 01 1970', image)
        self.assertNotIn(self.tree.commits[3][:7].encode(), image)
        self.assertIn('# CONFIG_LOCALVERSION_AUTO is not set', read(folder, '.config'))
        folder = self.newest('-f', '-k')
        with open(os.path.join(folder, 'u-boot.bin'), 'rb') as inf:
            image = inf.read()
        self.assertNotIn(b'1970', image)
        self.assertIn(self.tree.commits[3][:7].encode(), image)
        self.assertNotIn(b'-dirty', image)

    def test_verbose_build(self) -> None:
        """-V: the log has the commands that make ran"""
        log = read(self.newest('-V', '-k'), 'log')
        self.assertIn('make O=build V=1 NPROC=1 sandbox_defconfig\n', log)
        self.assertIn('gcc ', log)
        self.assertEqual(read(self.newest('-f'), 'log'), '')

    def test_adjust(self) -> None:
        """-a sets and unsets; what Kconfig does not take fails the board"""
        folder = self.newest('-a', 'LTO,~NET', '-a', 'CONFIG_BOOTDELAY=9')
        config = read(folder, '.config')
        for line in ('CONFIG_LTO=y', '# CONFIG_NET is not set', 'CONFIG_BOOTDELAY=9'):
            self.assertIn(f'\n{line}\n', config)
        folder = self.newest('-f', '-a', '~NET,NETCONSOLE', status=100)
        self.assertEqual(read(folder, 'done'), '1')
        self.assertIn('did not take effect', read(folder, 'err'))
        self.assertIn('NETCONSOLE            Missing expected line: CONFIG_NETCONSOLE=y',
                      read(folder, 'err'))

    def test_fragments(self) -> None:
        """--fragments: on top of the defconfig, in the same command"""
        folder = self.newest('--fragments', 'quiet.config')
        self.assertIn('\nCONFIG_BOOTDELAY=0\n', read(folder, '.config'))
        self.assertTrue(self.cmds(folder)[0].endswith(' sandbox_defconfig quiet.config'))
        self.newest('-f', '--fragments', 'nosuch.config', status=100)
        self.assertIn('nosuch.config', read(folder, 'err'))

    def test_config_only(self) -> None:
        """--config-only: configured, not compiled"""
        folder = self.newest('--config-only', target='anvil')
        self.assertEqual(set(os.listdir(folder)), {
            '.config', 'autoconf-spl.mk', 'autoconf.h', 'autoconf.mk', 'done', 'log', 'out-cmd',
            'out-env', 'settings', 'toolchain', 'u-boot-spl.cfg', 'u-boot.cfg'})
        self.assertTrue(self.cmds(folder)[-1].endswith(' cfg'))

    def test_target(self) -> None:
        """--target: make makes that"""
        folder = self.newest('--target', 'ubootversion')
        self.assertEqual(read(folder, 'log'), '2099.01\n')
        self.assertNotIn('sizes', os.listdir(folder))
        self.assertEqual([cmd.split()[-1] for cmd in self.cmds(folder)],
                         ['sandbox_defconfig', 'ubootversion'])

    def test_make_flags(self) -> None:
        """[make-flags] of the configuration reach the board that they name"""
        config = sample.write_config(self.out('cfg'), self.toolchains, extra=(
            '[make-flags]\nwhat = -DA\nsandbox = KCFLAGS="${what} -DB" X=1\n'
            '* = KCFLAGS=-DC Y=${target}\n'))
        folder = self.newest('-G', config, knobs=('show KCFLAGS',))
        # Those for all boards come first, so that the board's win
        self.assertIn(' KCFLAGS=-DC Y=sandbox KCFLAGS=-DA -DB X=1 ', self.cmds(folder)[0])
        self.assertIn('KCFLAGS=-DA -DB\n', read(folder, 'log'))
        folder = self.newest('-G', config, target='anvil')
        self.assertIn(' KCFLAGS=-DC Y=anvil ', self.cmds(folder)[0])

    def test_makeflags(self) -> None:
        """Definitions in MAKEFLAGS reach make and are noted; flags, of which jobs are some, do not

        What would give the build another folder or compiler does not, either.
        """
        folder = self.newest(
            target='anvil', knobs=('show SITE', 'show KCFLAGS', 'show MAKEFLAGS', 'show A'),
            environment={'MAKEFLAGS': r'ik -j7 --jobserver-auth=5,6 -- SITE=here\ now A=1 '
                         'O=/nowhere CROSS_COMPILE=no-', 'GNUMAKEFLAGS': '-t KCFLAGS=-DX A=2'})
        log = read(folder, 'log')
        self.assertIn('SITE=here now\nKCFLAGS=-DX\n', log)
        self.assertIn('\nA=1\n', log)
        seen = log.split('MAKEFLAGS=', 1)[1].split('\n')[0]
        self.assertNotRegex(seen, r'-j7|auth=5,6|O=/|=no-|^\w*[ikt]\w* ')
        self.assertRegex(read(folder, 'out-env'), r'GNUMAKEFLAGS="KCFLAGS=-DX A=2".*'
                         r'MAKEFLAGS="SITE=here\\ now A=1"')


class TestCompilers(FlagCase):
    """Which compiler, and by what name"""

    def test_override(self) -> None:
        """-O: that compiler builds sandbox"""
        env = self.program('mycc', f'echo x >> {self.out("calls")}', 'exec gcc "$@"')
        got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(), '-O', 'mycc',
                                '--boards', 'sandbox', env=env)
        self.assertEqual(got.returncode, 0, got)
        self.assertGreater(len(read(self.out('calls'))), 4)
        self.assertIn(' HOSTCC=mycc CC=mycc', read(self.result(), 'out-cmd'))
        self.assertIn('gcc mycc\n', read(self.result(), 'toolchain'))
        # A command with words
        got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out('words'), '-O',
                                'mycc -DWORD', '--boards', 'sandbox', env=env)
        self.assertEqual(got.returncode, 0, got)
        folder = self.result(top='words/feature')
        self.assertIn(' HOSTCC=mycc -DWORD CC=mycc -DWORD\n', read(folder, 'out-cmd'))
        self.assertIn('gcc mycc -DWORD\npath /usr/bin\n', read(folder, 'toolchain'))

    def test_full_path(self) -> None:
        """-p: CROSS_COMPILE with its folder"""
        show = ('show CROSS_COMPILE',)
        folder = self.newest(target='anvil', knobs=show)
        self.assertIn('CROSS_COMPILE=arm-sample-linux-gnueabi-\n', read(folder, 'log'))
        folder = self.newest('-f', '-p', target='anvil', knobs=show)
        self.assertIn(f'CROSS_COMPILE={self.toolchains}/bin/arm-sample-linux-gnueabi-\n',
                      read(folder, 'log'))

    def test_ccache(self) -> None:
        """--ccache: compilers are run by it"""
        env = self.program('ccache', f'echo "$@" >> {self.out("calls")}', 'exec "$@"')
        got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(), '--ccache',
                                '--boards', 'sandbox,anvil', env=env)
        self.assertEqual(got.returncode, 0, got)
        calls = read(self.out('calls'))
        self.assertRegex(calls, '(?m)^gcc .*common/main.c')
        self.assertRegex(calls, '(?m)^arm-sample-linux-gnueabi-gcc .*common/main.c')

    def test_dtc_skip(self) -> None:
        """--dtc-skip: make is told of the system's dtc"""
        env = self.program('dtc', 'exit 0')
        env.update(self.write_knobs('sandbox', 'show DTC'))
        got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(), '--dtc-skip',
                                '--boards', 'sandbox', env=env)
        self.assertEqual(got.returncode, 0, got)
        self.assertIn(f'DTC={self.out("bin")}/dtc\n', read(self.result(), 'log'))

    def test_print(self) -> None:
        """-A, --print-arch and --list-tool-chains print for scripts and people"""
        got = self.run_buildman('-A', '--boards', 'anvil', '-o', self.out())
        self.assertEqual((got.returncode, got.stdout),
                         (0, f'{self.toolchains}/bin/arm-sample-linux-gnueabi-\n'), got)
        got = self.run_buildman('--print-arch', '--boards', 'rocket', '-o', self.out())
        self.assertEqual((got.returncode, got.stdout), (0, 'aarch64\n'), got)
        got = self.run_buildman('-A', 'sandbox|anvil', '-o', self.out())
        self.assertEqual(got.returncode, 2, got)
        got = self.run_buildman('--list-tool-chains')
        self.assertRegex(got.stdout, rf'aarch64 *: {self.toolchains}/bin/aarch64-')
        more = self.run_buildman('--list-tool-chains', '-v')
        self.assertGreater(len(more.stdout), len(got.stdout))


class TestPlaces(FlagCase):
    """Where things go"""

    def test_git(self) -> None:
        """-g: from any folder"""
        got = self.run_buildman('-g', self.tree.path, '-b', 'feature', '-c', '1', '-o', 'here',
                                '--boards', 'sandbox', cwd=self.tmp)
        self.assertEqual(got.returncode, 0, got)
        self.assertEqual(self.commits(self.out('here')), ['01_Kconfig--Another-del'])

    def test_default_output(self) -> None:
        """Without -o: beside the tree"""
        tree = self.out('deep/tree')
        shutil.copytree(self.tree.path, tree)
        got = self.run_buildman('-b', 'feature', '-c', '1', '--boards', 'sandbox', cwd=tree)
        self.assertEqual(got.returncode, 0, got)
        self.assertEqual(sorted(os.listdir(self.out('deep'))), ['feature', 'tree'])

    def test_dry_run(self) -> None:
        """-n: says what, and touches nothing"""
        got = self.run_buildman('-n', '-b', 'feature', '-o', self.out(), '--boards',
                                'sandbox,anvil', '-T', '2', '-j', '4')
        self.assertEqual(got.returncode, 0, got)
        self.assertRegex(got.stdout, r'Building 4 commits for 2 boards \(2 threads, 4 jobs per '
                         r'thread\)\n')
        self.assertIn(f'    {self.tree.commits[1][:8]} common: Add a table', got.stdout)
        self.assertIn('Total boards to build for each commit: 2', got.stdout)
        self.assertNotIn('anvil', got.stdout)
        got = self.run_buildman('-n', '-v', '-b', 'feature', '-o', self.out(), 'arm')
        self.assertIn('anvil', got.stdout)
        self.assertFalse(os.path.exists(self.out()))

    def test_select(self) -> None:
        """Terms, & , --boards and -x choose the boards"""
        for args, count in (((), 3), (('acme',), 2), (('acme', '&', '^arm$'), 1),
                            (('acme & aarch64',), 1), (('-x', 'anvil'), 2),
                            (('--boards', 'anvil', '--boards', 'sandbox'), 2),
                            (('--boards', 'anvil,sandbox,rocket', '-x', 'rocket,anvil'), 1)):
            got = self.run_buildman('-n', '-b', 'feature', '-o', self.out(), *args)
            self.assertIn(f' for {count} boards (', got.stdout, got)
        got = self.run_buildman('--config-only', '-o', self.out(), '-x', 'sandbox', '^arm$',
                                'sand')
        self.assertEqual(got.returncode, 0, got)
        self.assertEqual(os.listdir(self.out('out/current')), ['anvil'])

    def test_threads(self) -> None:
        """-T: that many at once, and no more"""
        # Each waits for the other two: done only if all are built at once
        folder = self.out('knobs')
        os.makedirs(folder)
        for board in BOARDS:
            with open(os.path.join(folder, board.target), 'w', encoding='utf-8') as outf:
                outf.write(f'signal {self.tmp}/{board.target}\n')
                for other in BOARDS:
                    outf.write(f'wait {self.tmp}/{other.target}\n')
        got = self.run_buildman('-b', 'feature', '-c', '1', '-T', '3', '-o', self.out(),
                                env={'SAMPLE_KNOBS': folder})
        self.assertEqual(got.returncode, 101, got)
        self.assertIn('(3 threads, ', got.stdout)
        out = self.out('one')
        got = self.run_buildman('-b', 'feature', '-c', '1', '-T', '1', '-o', out)
        self.assertIn('(1 thread, ', got.stdout)
        self.assertEqual([name for name in os.listdir(os.path.join(out, 'feature', '.bm-work'))
                          if re.fullmatch(r'\d+', name)], ['00'])

    def test_keep(self) -> None:
        """-k: the images, by their own names"""
        images = {'MLO', 'System.map', 'u-boot', 'u-boot.bin', 'u-boot.dtb', 'u-boot.map',
                  'u-boot.srec', 'u-boot-nodtb.bin', 'u-boot-spl', 'u-boot-spl.bin',
                  'u-boot-spl-nodtb.bin', 'u-boot-spl.map'}
        plain = set(os.listdir(self.newest(target='anvil')))
        kept = self.newest('-f', '-k', target='anvil')
        self.assertEqual(set(os.listdir(kept)) - plain, images)
        with open(os.path.join(kept, 'u-boot'), 'rb') as inf:
            self.assertEqual(inf.read(4), b'\x7fELF')
        # Gone again when they are not asked for
        self.assertEqual(set(os.listdir(self.newest('-f', target='anvil'))), plain)

    def test_no_subdirs(self) -> None:
        """-N: no folder for the branch, none for the current source"""
        self.run_buildman('-b', 'feature', '-c', '1', '-N', '-o', self.out(), '--boards',
                          'sandbox')
        self.assertTrue(any(name.startswith('01_g') for name in os.listdir(self.out())))
        self.run_buildman('-N', '-o', self.out('cur'), '--boards', 'sandbox')
        self.assertEqual(read(self.out('cur'), 'sandbox', 'done'), '0')

    def test_per_board(self) -> None:
        """-P: each board keeps a build folder"""
        self.newest('-P', target='anvil')
        self.assertTrue(os.path.exists(self.out('out/feature/.bm-work/anvil/u-boot')))
        self.assertIn('O=../anvil', read(self.result('anvil'), 'out-cmd'))
        self.assertFalse(os.path.exists(self.out('out/feature/.bm-work/00/build/u-boot')))

    def test_work_in_output(self) -> None:
        """-w: the build is where the results are, and goes on from there"""
        tree = self.out('tree')
        shutil.copytree(self.tree.path, tree)
        env = self.write_knobs('sandbox', 'warn')
        got = self.run_buildman('-w', '-o', self.out(), '--boards', 'sandbox', cwd=tree, env=env)
        self.assertEqual(got.returncode, 101, got)
        names = set(os.listdir(self.out()))
        self.assertLessEqual({'u-boot', 'common', 'done', 'err', 'sizes', '.config'}, names)
        self.assertEqual(read(self.out(), 'done'), '0')
        before = os.stat(self.out('out/common/main.o')).st_mtime_ns
        got = self.run_buildman('-w', '-o', self.out(), '--boards', 'sandbox', cwd=tree)
        self.assertEqual(got.returncode, 0, got)
        self.assertNotIn('err', os.listdir(self.out()))
        self.assertTrue(os.path.exists(self.out('out/u-boot.map')))
        got = self.run_buildman('-w', '-b', 'feature', '-c', '1', '-o', self.out('b'),
                                '--boards', 'sandbox')
        self.assertEqual(got.returncode, 0, got)
        self.assertLessEqual({'u-boot', 'done'}, set(os.listdir(self.out('b'))))
        self.assertGreater(before, 0)

    def test_in_the_source_as_it_is(self) -> None:
        """-wi without -o: all of it in the source folder, again and for another board too"""
        tree = self.out('tree')
        shutil.copytree(self.tree.path, tree)
        got = self.run_buildman('-n', '-wi', '--boards', 'sandbox', cwd=tree)
        self.assertEqual((got.returncode, 'Build directory: .\n' in got.stdout), (0, True), got)
        for target in ('sandbox', 'sandbox', 'anvil'):
            got = self.run_buildman('-wi', '--board', target, cwd=tree)
            self.assertEqual(got.returncode, 0, got)
            self.assertEqual(read(tree, 'done'), '0')
            self.assertTrue(read(tree, 'out-cmd').endswith('\n'), got)
            self.assertNotIn('O=', read(tree, 'out-cmd'))
            self.assertIn(f'{target}_defconfig\n', read(tree, 'out-cmd'))
            self.assertTrue(os.path.exists(os.path.join(tree, 'u-boot')))
        status = subprocess.run(['git', 'status', '--porcelain', '-uno'], cwd=tree, check=True,
                                capture_output=True, text=True).stdout
        self.assertEqual(status, '')
        for words in (('-w',), ('-wi', '-b', 'feature', '-c', '1')):
            got = self.run_buildman(*words, '--boards', 'sandbox', cwd=tree)
            self.assertEqual((got.returncode, got.stderr[:25]), (2, 'buildman: -w needs -o DIR'),
                             got)

    def test_in_tree(self) -> None:
        """-i: the build is in the source of the slot, never in the user's"""
        want = self.run_buildman('-r', '-o', self.out('plain'))
        self.assertEqual(want.returncode, 101, want)
        # What -i leaves is in nobody's way, nor what is there already in its
        for args in (['-i'], [], ['-i'], ['-N', '-i'], ['-N', '-b', 'feature', '-c', '1'],
                     ['-N', '-i']):
            with self.subTest(args=args):
                got = self.run_buildman('-r', '-o', self.out(), *args)
                self.assertEqual(got.returncode, 101, got)
                if '-i' in args:
                    self.assertTrue(os.path.exists(self.out('out/.bm-work/00/u-boot')))
                status = subprocess.run(['git', 'status', '--short', '--ignored'], check=True,
                                        cwd=self.tree.path, capture_output=True, text=True)
                self.assertEqual(status.stdout, '')
        support.assert_same_tree(self.out('plain/current'), self.out('out/current'))
        # A branch: in the slot's own source, one board after the other
        want = self.run_buildman('-b', 'feature', '-r', '-o', self.out('want'))
        got = self.run_buildman('-i', '-b', 'feature', '-r', '-o', self.out('in'))
        self.assertEqual((got.returncode, want.returncode), (101, 101), got)
        support.assert_same_tree(self.out('want/feature'), self.out('in/feature'),
                                 ('host', 'out-cmd'))
        self.assertFalse(os.path.exists(os.path.join(self.tree.path, 'u-boot')))

    def test_process_limit(self) -> None:
        """--process-limit: waits for the others"""
        folder = self.out(f'buildman-limit-{os.getuid()}')
        os.makedirs(folder)
        with open(os.path.join(folder, 'place-0'), 'w', encoding='ascii') as place:
            fcntl.flock(place, fcntl.LOCK_EX)
            proc = self.start_buildman('-b', 'feature', '-c', '1', '-o', self.out(),
                                       '--process-limit', '1', '--boards', 'sandbox',
                                       env={'TMPDIR': self.tmp})
            support.wait_until(lambda: 'Waiting: ' in read(self.out('stdout')))
            self.assertNotIn('Building', read(self.out('stdout')))
        self.assertEqual(proc.wait(60), 0, read(self.out('stderr')))

    def test_board_list(self) -> None:
        """-R writes the list, --maintainer-check looks through it"""
        got = self.run_buildman('-R', self.out('list'), '-o', self.out())
        self.assertEqual(got.returncode, 0, got)
        text = read(self.out('list'))
        self.assertRegex(text, r'(?m)^Active +arm +armv7 +coyote +acme +anvil +anvil ')
        got = self.run_buildman('--maintainer-check', '-o', self.out())
        self.assertIn(got.returncode, (0, 2), got)
        self.assertEqual(got.returncode == 2, bool(got.stderr), got)
        self.assertEqual(got.stdout, '')


class TestCurrent(FlagCase):
    """The source as it is in the folder"""

    def test_current(self) -> None:
        """Changes that are not committed are built, each time"""
        tree = self.out('tree')
        shutil.copytree(self.tree.path, tree)
        args = ('-o', self.out(), '--boards', 'sandbox,anvil')
        got = self.run_buildman(*args, cwd=tree)
        self.assertEqual(got.returncode, 0, got)
        self.assertIn('Building current source for 2 boards (', got.stdout)
        current = self.out('out/current')
        self.assertEqual(sorted(os.listdir(current)), ['anvil', 'sandbox'])
        with open(os.path.join(tree, 'board/acme/anvil/anvil.c'), 'a', encoding='utf-8') as outf:
            outf.write('#error work in progress\n')
        got = self.run_buildman(*args, cwd=tree)
        self.assertEqual(got.returncode, 100, got)
        self.assertIn('       arm:  +   anvil\n', got.stdout)
        self.assertIn('+board/acme/anvil/anvil.c:', got.stdout)
        self.assertIn('error: #error work in progress\n', got.stdout)
        self.assertEqual(read(current, 'anvil', 'done'), '2')
        self.assertEqual(read(current, 'sandbox', 'done'), '0')
        for name in ('err', 'out-cmd'):
            self.assertNotIn(self.tmp, read(current, 'anvil', name))

    def test_no_git(self) -> None:
        """A tree from a tar file has no history and builds all the same"""
        tree = self.out('tree')
        shutil.copytree(self.tree.path, tree, ignore=lambda *_: ['.git'])
        got = self.run_buildman('-o', self.out(), '--boards', 'sandbox', cwd=tree)
        self.assertEqual(got.returncode, 0, got)
