# SPDX-License-Identifier: GPL-2.0+
"""What a make runs with, and the record of it."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import Any, Dict, List, Tuple

import support
from support import needs

from buildman import bsettings
from buildman.build import environment
from buildman.core.errors import SetupError, ToolchainError, UsageError
from buildman.core.plan import Settings, Toolchain

ARM = Toolchain('arm', '/opt/arm/bin/arm-linux-gcc', '/opt/arm/bin', 'arm-linux-')
HOST = Toolchain('sandbox', '/usr/bin/gcc', '/usr/bin', '')
CLANG = dataclasses.replace(HOST, override='clang-14')
BASE = {'HOME': '/home/me', 'PATH': '/bin'}


class EnvironmentTest(unittest.TestCase):
    """make_environment() and what goes with it."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.tmp = os.path.realpath(tmp.name)

    def program(self, path: str, script: str = '') -> str:
        """Write a program below our folder."""
        path = os.path.join(self.tmp, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(f'#!/bin/sh\n{script}\n')
        os.chmod(path, 0o755)
        return path

    def env(self, chain: Toolchain = ARM, base: 'Dict[str, str] | None' = None,
            **settings: Any) -> Dict[str, str]:
        """Return the environment with some settings."""
        return environment.make_environment(chain, Settings(**settings),
                                         BASE if base is None else base)

    def test_cross_compiler(self) -> None:
        """The compiler is found by its prefix, and messages are in English."""
        self.assertEqual({'HOME': '/home/me', 'PATH': '/bin:/opt/arm/bin', 'LC_ALL': 'C',
                          'LANG': 'C.UTF-8',
                          'CROSS_COMPILE': 'arm-linux-'}, self.env())

    def test_full_path(self) -> None:
        """-p leaves PATH alone."""
        env = self.env(full_path=True)
        self.assertEqual(('/bin', '/opt/arm/bin/arm-linux-'), (env['PATH'], env['CROSS_COMPILE']))

    def test_host(self) -> None:
        """A CROSS_COMPILE left in the user's shell must not reach sandbox."""
        self.assertEqual({'HOME': '/home/me', 'PATH': '/usr/bin:/bin', 'LC_ALL': 'C',
                          'LANG': 'C.UTF-8'},
                         self.env(HOST, {**BASE, 'PATH': '/usr/bin:/bin', 'LANGUAGE': 'de',
                                         'LC_CTYPE': 'de_DE', 'LC_ALL': 'de_DE',
                                         'CROSS_COMPILE': 'x-'}))

    def test_surrounding_make_does_not_leak(self) -> None:
        """Called from a Makefile, the build must not talk to that make's job server."""
        inner = 'import os, sys; print(sorted(n for n in os.environ if "MAKE" in n or n=="MFLAGS"))'
        with open(os.path.join(self.tmp, 'Makefile'), 'w', encoding='utf-8') as outf:
            outf.write(f"all:\n\t+@{sys.executable} -c '{inner}'\n\t+@{sys.executable} show.py\n")
        tools = support.TOOLS
        with open(os.path.join(self.tmp, 'show.py'), 'w', encoding='utf-8') as outf:
            outf.write(f'''import os, sys
sys.path.insert(0, {tools!r})
from buildman.build import environment
from buildman.core.plan import Settings, Toolchain
env = environment.make_environment(Toolchain('arm', '/x/a-gcc', '/x', 'a-'), Settings(), os.environ)
print(sorted(n for n in env if 'MAKE' in n or n == 'MFLAGS'), env['MAKEFLAGS'])
''')
        if not shutil.which('make'):
            self.skipTest('no make')
        out = subprocess.run(['make', '-j3', '-s', 'FOO=1'], cwd=self.tmp, check=True,
                             capture_output=True, text=True).stdout.splitlines()
        self.assertIn('MAKEFLAGS', out[0])
        self.assertEqual("['MAKEFLAGS'] FOO=1", out[1])

    def test_what_the_user_sets_reaches_make(self) -> None:
        """BL31=… buildman … works as it does with make."""
        env = self.env(base={**BASE, 'BL31': '/a/bl31.bin', 'FOO': 'x', 'OLDPWD': '/', '_': 'z',
                             'PWD': '/elsewhere', 'KBUILD_OUTPUT': '/o', 'KCONFIG_CONFIG': 'c',
                             'KBUILD_SRC': '/s', 'KBUILD_EXTMOD': '/m', 'SUBDIRS': '/m'})
        self.assertEqual(('/a/bl31.bin', 'x'), (env['BL31'], env['FOO']))
        self.assertFalse({'OLDPWD', '_', 'PWD', 'KBUILD_OUTPUT', 'KCONFIG_CONFIG', 'KBUILD_SRC',
                          'KBUILD_EXTMOD', 'SUBDIRS'} & set(env))

    def test_another_compiler_of_the_same_name_is_passed_by(self) -> None:
        """What `toolchain` records must be what was run."""
        self.program('old/arm-linux-gcc', 'echo old')
        gcc = self.program('new/arm-linux-gcc', 'echo new')
        self.program('first/tool')
        chain = dataclasses.replace(ARM, gcc=gcc, path=os.path.dirname(gcc))
        first, old, new = (os.path.join(self.tmp, name) for name in ('first', 'old', 'new'))
        env = self.env(chain, {'PATH': f'{first}:{old}:/usr/bin:/bin'})
        self.assertEqual(f'{first}:{new}:{old}:/usr/bin:/bin', env['PATH'])
        out = subprocess.run(['sh', '-c', '${CROSS_COMPILE}gcc'], env=env, check=True,
                             capture_output=True, text=True).stdout
        self.assertEqual('new\n', out)

    def test_stand_in_on_path_is_kept(self) -> None:
        """Somebody who has /usr/lib/ccache first on PATH means it."""
        gcc = self.program('new/arm-linux-gcc')
        self.program('bin/ccache')
        os.mkdir(os.path.join(self.tmp, 'lib'))
        os.symlink('../bin/ccache', os.path.join(self.tmp, 'lib', 'arm-linux-gcc'))
        chain = dataclasses.replace(ARM, gcc=gcc, path=os.path.dirname(gcc))
        self.assertEqual(f'{self.tmp}/lib:/bin:{self.tmp}/new',
                         self.env(chain, {'PATH': f'{self.tmp}/lib:/bin'})['PATH'])

    def test_host_compiler_off_path(self) -> None:
        """A host compiler of one's own is the one that runs."""
        gcc = self.program('own/gcc')
        other = self.program('bin/gcc')
        host = Toolchain('sandbox', gcc, os.path.dirname(gcc), '')
        self.assertEqual(f'{self.tmp}/own:{self.tmp}/bin',
                         self.env(host, {'PATH': f'{self.tmp}/bin'})['PATH'])
        host = Toolchain('sandbox', other, os.path.dirname(other), '')
        self.assertEqual(f'{self.tmp}/bin', self.env(host, {'PATH': f'{self.tmp}/bin'})['PATH'])

    def test_ccache_and_wrapper(self) -> None:
        """ccache stands before the wrapper, and both before the prefix."""
        self.program('bin/ccache')
        base = {'PATH': f'{self.tmp}/bin'}
        chain = dataclasses.replace(ARM, wrapper='distcc -x')
        self.assertEqual('distcc -x arm-linux-', self.env(chain, base)['CROSS_COMPILE'])
        self.assertEqual('ccache distcc -x arm-linux-',
                         self.env(chain, base, ccache=True)['CROSS_COMPILE'])
        self.assertEqual('ccache /opt/arm/bin/arm-linux-',
                         self.env(ARM, base, ccache=True, full_path=True)['CROSS_COMPILE'])
        self.assertEqual('ccache ', self.env(HOST, base, ccache=True)['CROSS_COMPILE'])
        self.assertNotIn('CROSS_COMPILE', self.env(CLANG, base, ccache=True))
        env = environment.make_environment(ARM, Settings(ccache=True), base, '/out/.bm-work')
        self.assertEqual('/out/.bm-work', env['CCACHE_BASEDIR'])

    def test_dtc_skip(self) -> None:
        """--dtc-skip takes the system's dtc."""
        dtc = self.program('bin/dtc')
        self.assertEqual(dtc, self.env(ARM, {'PATH': f'{self.tmp}/bin'}, dtc_skip=True)['DTC'])

    def test_missing_programs(self) -> None:
        """What a flag needs is asked for by name before anything is built."""
        for flag, name in (('ccache', 'ccache'), ('dtc_skip', 'dtc')):
            with self.assertRaisesRegex(SetupError, f'{name} is not installed'):
                self.env(ARM, {'PATH': self.tmp}, **{flag: True})

    def test_folders_are_hidden(self) -> None:
        """Sections of an image are as large wherever it was built, with LTO as well."""
        needs('gcc', 'objdump')
        tables = set()
        for name in ('a', 'a-longer-name'):
            folder = os.path.join(self.tmp, name)
            os.makedirs(folder)
            env = {'PLATFORM_LIBS': '-lm'}
            shown = environment.hide_folders(env, ((folder, '.'),), 'sandbox')
            self.assertEqual(shown, {'KCPPFLAGS': '', 'PLATFORM_LIBS': '-lm'})
            source = os.path.join(folder, 'x.c')
            with open(source, 'w', encoding='utf-8') as outf:
                outf.write('int main(void) { return 0; }\n')
            for words in (['-g', *env['KCPPFLAGS'].split(), '-c', source, '-o', 'x.o'],
                          ['x.o', *env['PLATFORM_LIBS'].split(), '-o', 'x']):
                subprocess.run(['gcc', '-flto', *words], cwd=folder, check=True)
            with open(os.path.join(folder, 'x'), 'rb') as inf:
                self.assertNotIn(os.fsencode(folder), inf.read())
            tables.add(subprocess.run(['objdump', '-h', 'x'], cwd=folder, check=True,
                                      capture_output=True).stdout)
        self.assertEqual(len(tables), 1)

    def test_linker_gets_no_flag_of_the_compiler(self) -> None:
        """Other archs may hand PLATFORM_LIBS to the linker, which would refuse."""
        env: Dict[str, str] = {}
        self.assertEqual(environment.hide_folders(env, (('/x', '.'),), 'arm'), {'KCPPFLAGS': ''})
        self.assertEqual(list(env), ['KCPPFLAGS'])

    def test_base_is_not_changed(self) -> None:
        """The environment of one board must not reach the next."""
        base = dict(BASE)
        self.env(ARM, base)
        self.assertEqual(BASE, base)


class ArgumentsTest(unittest.TestCase):
    """make_arguments()."""

    def words(self, chain: Toolchain = ARM, make_args: Tuple[str, ...] = (), jobs: int = 0,
              **settings: Any) -> List[str]:
        """Return the words with some settings."""
        return environment.make_arguments(chain, Settings(**settings), make_args, jobs)

    def test_each_flag(self) -> None:
        """Each flag does what upstream's does."""
        for settings, want in (
                ({}, '-s NPROC=1'), ({'verbose_build': True}, 'V=1 NPROC=1'),
                ({'no_lto': True}, '-s NPROC=1 NO_LTO=1'),
                ({'reproducible_builds': True}, '-s NPROC=1 SOURCE_DATE_EPOCH=0'),
                ({'allow_missing': True}, '-s NPROC=1 BINMAN_ALLOW_MISSING=1'),
                ({'warnings_as_errors': True},
                 '-s NPROC=1 KCFLAGS=-Werror HOSTCFLAGS=-Werror'),
                ({'full_path': True}, '-s NPROC=1')):
            self.assertEqual(want, ' '.join(self.words(**settings)), settings)

    def test_jobs(self) -> None:
        """-j is passed on as it is; without it the job server decides."""
        self.assertEqual(['-s', '-j', '5', 'NPROC=5'], self.words(jobs=5))

    def test_order(self) -> None:
        """A later word wins in make: the user's flags come after ours, -O after all."""
        self.assertEqual(
            ['V=1', '-j', '2', 'NPROC=2', 'KCFLAGS=-Werror', 'HOSTCFLAGS=-Werror',
             'BINMAN_ALLOW_MISSING=1', 'NO_LTO=1', 'SOURCE_DATE_EPOCH=0', 'A=b c',
             'HOSTCC=ccache clang-14', 'CC=ccache clang-14'],
            self.words(CLANG, ('A=b c',), 2, verbose_build=True, warnings_as_errors=True,
                       allow_missing=True, no_lto=True, reproducible_builds=True, ccache=True))

    def test_ccache(self) -> None:
        """The host's programs are cached too."""
        self.assertEqual(['-s', 'NPROC=1', 'HOSTCC=ccache gcc'], self.words(ccache=True))
        self.assertEqual(['-s', 'NPROC=1', 'HOSTCC=clang-14', 'CC=clang-14'], self.words(CLANG))


class MakeFlagsTest(unittest.TestCase):
    """[make-flags]."""

    def setUp(self) -> None:
        self.addCleanup(bsettings.setup, None)

    def flags(self, text: str, target: str = 'brd') -> Tuple[str, ...]:
        """Return the words for a board."""
        bsettings.setup(None)
        bsettings.add_file('[make-flags]\n' + text)
        return environment.make_flags(target, bsettings.settings)

    def test_words(self) -> None:
        """Words are split as one expects, and nothing reaches a shell."""
        for value, want in (
                ('A=1 B=2', ('A=1', 'B=2')), ('A="1  2" B=3', ('A=1  2', 'B=3')),
                ("A='x \"y\"'", ('A=x "y"',)), (r'A=\d B=a\ b', ('A=\\d', 'B=a\\', 'b')),
                ('A=~/x $HOME $(id) `id` $$', ('A=~/x', '$HOME', '$(id)', '`id`', '$$')),
                ('A=1;B=2 # c', ('A=1;B=2', '#', 'c')), ('', ()), ('A=1\n  B=2', ('A=1', 'B=2')),
                ('-k u-boot.bin', ('-k', 'u-boot.bin')), ('A=\u00e9%(x)s', ('A=\u00e9%(x)s',))):
            self.assertEqual(want, self.flags(f'brd = {value}\n'), value)

    def test_variables(self) -> None:
        """Values are made of other values, of any depth."""
        text = 'brd = ${one} ${none}X=${two}\none = ${two-3} A=1\ntwo-3 = B=2\ntwo = "7 8"\n'
        self.assertEqual(('B=2', 'A=1', 'X=7 8'), self.flags(text))
        self.assertEqual(('T=brd',), self.flags('brd = T=${target}\n'))
        self.assertEqual(('T=9',), self.flags('brd = T=${target}\ntarget = 9\n'))
        self.assertEqual(('${a.b}',), self.flags('brd = ${a.b}\n'))

    def test_only_that_board(self) -> None:
        """Flags of another board, or of a name that differs by case, do not count."""
        self.assertEqual((), self.flags('brd2 = A=1\nBrd = A=2\nbrd* = A=3\n'))
        self.assertEqual(('A=2',), self.flags('brd = A=1\nBRD = A=2\n', 'BRD'))
        self.assertEqual((), self.flags('brd\n'))
        bsettings.setup(None)
        self.assertEqual((), environment.make_flags('brd', bsettings.settings))

    def test_value_made_of_itself(self) -> None:
        """A circle must end in a message, not in a run that never starts."""
        for text in ('brd = ${brd}\n', 'brd = ${a}\na = ${b}\nb = x${a}\n'):
            with self.assertRaisesRegex(UsageError, r"^\[make-flags\] 'brd': .* made of itself$"):
                self.flags(text)

    def test_open_quote(self) -> None:
        """A quote that is not closed is named."""
        with self.assertRaisesRegex(UsageError, r"^\[make-flags\] 'brd': no closing quotation"):
            self.flags('brd = A="x\n')


class RecordTest(unittest.TestCase):
    """The files `toolchain` and `out-env`."""

    def test_toolchain_file(self) -> None:
        """Scripts read this file; it has upstream's bytes."""
        self.assertEqual(b'gcc /opt/arm/bin/arm-linux-gcc\npath /opt/arm/bin\ncross arm-linux-\n'
                         b'arch arm\n0', environment.toolchain_file(ARM))
        self.assertEqual(b'gcc clang-14\npath /usr/bin\ncross \narch sandbox\n2',
                         environment.toolchain_file(CLANG, 2))

    def test_out_env(self) -> None:
        """It has upstream's form."""
        self.assertEqual(b'BL31="a"b\n"CROSS_COMPILE="arm-linux-"HOME="/home/me"LC_ALL="C"'
                         b'PATH="/bin:/opt/arm/bin"', environment.out_env_file(
                             environment.make_environment(ARM, Settings(),
                                                       {**BASE, 'BL31': 'a"b\n'}), ('BL31',)))

    def test_out_env_is_the_same_on_any_machine(self) -> None:
        """Neither secrets nor the session belong into a result."""
        base = {**BASE, 'GITHUB_TOKEN': 'x', 'SSH_CLIENT': 'x', 'MAKEFLAGS': '-j', 'TMPDIR': 'x',
                'USER': 'me', 'CCACHE_DIR': 'x', 'CCACHE_BASEDIR': 'x'}
        self.assertEqual(*(
            environment.out_env_file(environment.make_environment(ARM, Settings(), env))
            for env in (base, BASE)))

    def test_portable_environment(self) -> None:
        """What changes a build is sent to all machines, what is private is not."""
        inputs = {'BL31': 'a', 'TEE': 'b', 'KCFLAGS': '-g', 'BINMAN_INDIRS': 'c',
                  'SOURCE_DATE_EPOCH': '1', 'CCACHE_SLOPPINESS': 'd'}
        self.assertEqual(inputs, environment.portable_environment(
            {**BASE, **inputs, 'GITHUB_TOKEN': 'x', 'CCACHE_DIR': '/x', 'LD_PRELOAD': 'x.so',
             'MY_BL31': 'x', 'KCONFIG_CONFIG': 'x'},
            {'BL31', 'TEE', 'KCFLAGS', 'BINMAN_INDIRS', 'KCONFIG_CONFIG'}))

    def test_names_that_are_not_text(self) -> None:
        """A folder with a name in Latin-1 must not end the run."""
        odd = os.fsdecode(b'/opt/\xff')
        chain = dataclasses.replace(ARM, path=odd, gcc=odd + '/arm-linux-gcc')
        self.assertIn(b'path /opt/\xff\n', environment.toolchain_file(chain))
        env = environment.make_environment(chain, Settings(), BASE)
        self.assertIn(b'/opt/\xff', environment.out_env_file(env))

    def test_cross_prefix(self) -> None:
        """nm and objdump are those of the compiler."""
        self.assertEqual('/opt/arm/bin/arm-linux-', environment.cross_prefix(ARM))
        self.assertEqual('', environment.cross_prefix(HOST))


class ConfigTest(unittest.TestCase):
    """-a."""

    def test_parse(self) -> None:
        """All forms of -a, with or without CONFIG_."""
        for words, want in (
                (['FOO'], ('FOO',)), (['CONFIG_FOO=y,~BAR'], ('FOO=y', '~BAR')),
                (['A="x,y",B=3', '~CONFIG_C'], ('A="x,y"', 'B=3', '~C')),
                (['A', '~A', 'A=m'], ('A=m',)), ([''], ()), (['A,,B, '], ('A', 'B')), ([], ())):
            self.assertEqual(want, environment.parse_adjustments(words), words)

    def test_reproducible(self) -> None:
        """-r leaves the commit out of the version, unless -a says otherwise."""
        self.assertEqual(('A', '~LOCALVERSION_AUTO'), environment.parse_adjustments(['A'], True))
        self.assertEqual(('LOCALVERSION_AUTO',),
                         environment.parse_adjustments(['LOCALVERSION_AUTO'], True))

    def test_refused(self) -> None:
        """A typing error is found before anything is built."""
        for word in ('foo', '=3', '#X', 'A B', '~A=3', 'A=x\ny', 'FOO BAR=1'):
            with self.assertRaisesRegex(UsageError, '^-a: cannot understand'):
                environment.parse_adjustments([word])

    def test_adjust(self) -> None:
        """Values are replaced where they stand or added."""
        text = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_AB="x"\n# comment\n'
        self.assertEqual('# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_AB=3\n# comment\n'
                         'CONFIG_C="q"\n# CONFIG_D is not set\n',
                         environment.adjust_config(text, ('~A', 'B', 'AB=3', 'C="q"', 'D=n')))

    def test_what_was_adjusted_checks_out(self) -> None:
        """Whatever is asked for, in whatever file: once applied, it is found to hold."""
        rand = random.Random(4)
        for _ in range(500):
            names = [rand.choice('ABC') + rand.choice(['', 'X', '_Y']) for _ in range(6)]
            text = ''.join(rand.choice([f'CONFIG_{name}=y\n', f'# CONFIG_{name} is not set\n',
                                        f'CONFIG_{name}="{name}"\n', '\n', '#\n'])
                           for name in dict.fromkeys(names))
            asked = environment.parse_adjustments([rand.choice(
                [name, '~' + name, f'{name}=n', f'{name}="a b"', f'{name}=0x1'])
                for name in rand.sample(names, 3)])
            out = environment.adjust_config(text, asked)
            self.assertEqual([], environment.check_config(out, asked))
            self.assertEqual(out, environment.adjust_config(out, asked))

    def test_check(self) -> None:
        """What Kconfig did not take is told, option by option."""
        lines = environment.check_config('CONFIG_A=y\n# CONFIG_E is not set\n',
                                      ('~A', 'B', 'C=3', '~E', 'D=n', '~LOCALVERSION_AUTO'))
        self.assertEqual(['~A                    CONFIG_A=y',
                          'B                     Missing expected line: CONFIG_B=y',
                          'C=3                   Missing expected line: CONFIG_C=3',
                          'D=n                   Missing expected line: # CONFIG_D is not set'],
                         lines[6:])
        self.assertIn('Some CONFIG adjustments did not take effect. This may be because', lines)
        self.assertNotEqual([], environment.check_config('CONFIG_LOCALVERSION_AUTO=y\n',
                                                      ('~LOCALVERSION_AUTO',)))


class PrintTest(unittest.TestCase):
    """-A and --print-arch."""

    def test_prefix(self) -> None:
        """CROSS_COMPILE=$(buildman -A brd) make works."""
        wrapped = dataclasses.replace(ARM, wrapper='ccache')
        self.assertEqual('/opt/arm/bin/arm-linux-', environment.print_prefix_text([ARM, ARM]))
        self.assertEqual('ccache /opt/arm/bin/arm-linux-', environment.print_prefix_text([wrapped]))
        self.assertEqual('', environment.print_prefix_text([HOST]))
        with self.assertRaisesRegex(ToolchainError, 'must share one toolchain'):
            environment.print_prefix_text([ARM, HOST])

    def test_arch(self) -> None:
        """ARCH=$(buildman --print-arch brd)."""
        self.assertEqual('arm', environment.print_arch_text(['arm', 'arm']))
        with self.assertRaisesRegex(UsageError, 'must share one arch'):
            environment.print_arch_text(['arm', 'sh'])
