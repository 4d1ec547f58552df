# SPDX-License-Identifier: GPL-2.0+
"""Finding compilers, with shell scripts as compilers."""

from __future__ import annotations

import os
import random
import tempfile
import unittest
from typing import List

from buildman import bsettings
from buildman.core import plan
from buildman.core.errors import ToolchainError
from buildman.toolchains import find
from u_boot_pylib import terminal

GOOD = 'echo "$0 $@" >>{log}; echo "gcc 13"'


class ToolchainTest(unittest.TestCase):
    """Each test has a folder for compilers and a PATH of its own."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.tmp = os.path.realpath(tmp.name)
        self.log = os.path.join(self.tmp, 'log')
        self.on_path = os.path.join(self.tmp, 'on-path')
        os.mkdir(self.on_path)
        self.addCleanup(bsettings.setup, None)

    def make(self, path: str, script: str = GOOD, mode: int = 0o755) -> str:
        """Write a compiler."""
        path = os.path.join(self.tmp, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('#!/bin/sh\n' + script.format(log=self.log) + '\n')
        os.chmod(path, mode)
        return path

    def chains(self, text: str, override: str = '', strict: bool = True) -> find.Toolchains:
        """Return what is found with a configuration."""
        conf = os.path.join(self.tmp, 'conf')
        with open(conf, 'w', encoding='utf-8') as outf:
            outf.write(text.replace('TMP', self.tmp))
        bsettings.setup(conf)
        chains = find.Toolchains(override, f'{self.on_path}:/usr/bin:/bin')
        chains.scan(strict)
        return chains

    def runs(self) -> List[str]:
        """Return how compilers were run."""
        if not os.path.exists(self.log):
            return []
        with open(self.log, encoding='utf-8') as inf:
            return inf.read().replace(self.tmp + '/', '').splitlines()

    def select(self, text: str, arch: str) -> str:
        """Return the path of the compiler that is chosen, below our folder."""
        return os.path.relpath(self.chains(text).select(arch).gcc, self.tmp)

    # -- what is found -----------------------------------------------------

    def test_looks_in_bin_and_usr_bin(self) -> None:
        """An unpacked archive is found by the folder it was unpacked to."""
        for path in ('a/arm-linux-gcc', 'b/bin/riscv64-linux-gcc', 'c/usr/bin/sh4-linux-gcc',
                     'a/bin/deeper/m68k-linux-gcc', 'a/arc-linux-gcc-13', 'a/.hid-gcc'):
            self.make(path)
        chains = self.chains('[toolchain]\na = TMP/a\nb = TMP/b\nc = TMP/c\nd = TMP/none\n')
        self.assertEqual({'arm': f'{self.tmp}/a/./arm-linux-gcc',
                          'riscv64': f'{self.tmp}/b/bin/riscv64-linux-gcc',
                          'sh4': f'{self.tmp}/c/usr/bin/sh4-linux-gcc'}, chains.available())

    def test_globs_and_home(self) -> None:
        """One line names all toolchains of a folder."""
        self.make('gcc-13/arm-linux/bin/arm-linux-gcc')
        self.make('gcc-13/sh4-linux/bin/sh4-linux-gcc')
        home = os.environ['HOME']
        self.addCleanup(os.environ.__setitem__, 'HOME', home)
        os.environ['HOME'] = self.tmp
        chains = self.chains('[toolchain]\nall = ~/gcc-*/*\n')
        self.assertEqual(['arm', 'sh4'], list(chains.available()))

    def test_odd_folders(self) -> None:
        """Blanks, quotes and brackets in a path are not the shell's."""
        self.make("a [x] '$(id)/bin/arm-linux-gcc")
        self.assertEqual("a [x] '$(id)/bin/arm-linux-gcc",
                         self.select("[toolchain]\na = TMP/a [x] '$(id)\n", 'arm'))

    def test_relative_path_is_made_absolute(self) -> None:
        """A build runs in another folder, where a relative path leads nowhere."""
        self.make('a/arm-linux-gcc')
        old = os.getcwd()
        self.addCleanup(os.chdir, old)
        os.chdir(self.tmp)
        chain = self.chains('[toolchain]\na = a\n').select('arm')
        self.assertEqual((f'{self.tmp}/a/./arm-linux-gcc', f'{self.tmp}/a/.'),
                         (chain.gcc, chain.path))

    def test_all_that_travels(self) -> None:
        """Another machine must be told all that is needed to run it."""
        self.make('a/bin/i386-linux-gcc')
        chain = self.chains('[toolchain]\na = TMP/a\n[toolchain-wrapper]\nwrapper = env A=1\n'
                            ).select('x86')
        self.assertEqual(plan.Toolchain(
            arch='i386', gcc=f'{self.tmp}/a/bin/i386-linux-gcc', path=f'{self.tmp}/a/bin',
            cross='i386-linux-', wrapper='env A=1', version='gcc 13'), chain)

    # -- which one ---------------------------------------------------------

    def test_priorities(self) -> None:
        """The same compiler as upstream's is taken when several match."""
        names = ['arm-gcc', 'arm-none-eabi-gcc', 'arm-uclinux-gcc', 'arm-linux-gnueabihf-gcc',
                 'arm-unknown-linux-gnu-gcc', 'arm-none-elf-gcc']
        for name in names:
            self.make(f'a/{name}')
            self.assertEqual(f'a/{name}', self.select('[toolchain]\na = TMP/a/.\n', 'arm')
                             .replace('/./', '/'))

    def test_first_of_equals(self) -> None:
        """The order in the configuration decides between equals."""
        self.make('a/arm-linux-gcc')
        self.make('b/arm-linux-gnueabi-gcc')
        for first, second in ('ab', 'ba'):
            self.assertTrue(self.select(f'[toolchain]\nx = TMP/{first}\ny = TMP/{second}\n',
                                        'arm').startswith(f'{first}/'))

    def test_broken_compilers_are_passed_over(self) -> None:
        """A broken one in front must not fail all its boards."""
        self.make('a/arm-none-elf-gcc', 'exit 1')
        self.make('a/arm-elf-gcc', GOOD, 0o644)
        os.symlink('/none', os.path.join(self.tmp, 'a', 'arm-x-elf-gcc'))
        os.mkdir(os.path.join(self.tmp, 'a', 'arm-y-elf-gcc'))
        self.make('a/arm-linux-gcc')
        self.assertEqual('a/arm-linux-gcc', self.select('[toolchain]\na = TMP/a\n', 'arm'))

    def test_only_the_chosen_one_is_run(self) -> None:
        """Twenty compilers must not make each build start later."""
        for num in range(20):
            self.make(f'a/arch{num}-linux-gcc')
        chains = self.chains('[toolchain]\na = TMP/a\n')
        self.assertEqual([], self.runs())
        for _ in range(3):
            chains.select('arch7')
        self.assertEqual(['a/./arch7-linux-gcc --version'], self.runs())

    def test_random_sets(self) -> None:
        """Best by priority, then by order, among those that work; whatever is there."""
        rand = random.Random(3)
        infixes = ['elf', 'unknown-linux-gnu', 'linux', 'uclinux', 'none-eabi', 'x']
        for turn in range(40):
            want = None
            text = '[toolchain]\n'
            for pos in range(rand.randrange(1, 4)):
                text += f'f{pos} = TMP/{turn}/{pos}\n'
                name = f'{turn}/{pos}/arm-{rand.choice(infixes)}-gcc'
                works = rand.random() < 0.7
                self.make(name, 'true' if works else 'false')
                key = next((pos for pos, infix in enumerate(infixes) if f'-{infix}-' in name))
                if works and (want is None or key < want[0]):
                    want = (key, name)
            chains = self.chains(text)
            if want is None:
                with self.assertRaises(ToolchainError):
                    chains.select('arm')
            else:
                self.assertEqual(want[1], os.path.relpath(chains.select('arm').gcc, self.tmp))

    # -- prefixes ----------------------------------------------------------

    def test_prefix_wins(self) -> None:
        """What is asked for by name is taken, whatever else is found."""
        self.make('a/arm-none-elf-gcc')
        self.make('b/zip-gcc')
        self.make('on-path/qq-gcc')
        for value, want in (('TMP/b/zip-', 'b/zip-gcc'), ('TMP/b/zip-gcc', 'b/zip-gcc'),
                            ('qq-', 'on-path/qq-gcc')):
            chain = self.chains('[toolchain]\na = TMP/a\n[toolchain-prefix]\n'
                                f'ARM = {value}\n').select('arm')
            self.assertEqual((f'{self.tmp}/{want}', want.split('/')[1][:-3], 'arm'),
                             (chain.gcc, chain.cross, chain.arch))

    def test_prefix_that_leads_nowhere(self) -> None:
        """An explicit request is an error when absent, not another compiler."""
        self.make('a/arm-linux-gcc')
        for value in ('TMP/none/arm-', 'no-such-', 'TMP/a/arm-linux'):
            text = f'[toolchain]\na = TMP/a\n[toolchain-prefix]\narm = {value}\n'
            with self.assertRaisesRegex(ToolchainError, 'No tool chain found for prefix .*'
                                        r'gcc.: correct \[toolchain-prefix\] in .*conf'):
                self.chains(text)
            chains = self.chains(text, strict=False)
            self.assertIn('Error: No tool chain found for prefix', chains.list_lines()[0])

    def test_prefix_that_does_not_run(self) -> None:
        """Nor is a broken one replaced by another."""
        self.make('a/arm-linux-gcc')
        self.make('b/arm-gcc', 'echo bad library >&2; exit 1')
        with self.assertRaisesRegex(ToolchainError, r'^\[toolchain-prefix\] arm .*b/arm-gcc.'
                                    ' does not run: bad library$'):
            self.chains('[toolchain]\na = TMP/a\n[toolchain-prefix]\narm = TMP/b/arm-\n'
                        ).select('arm')

    def test_prefix_that_make_cannot_use(self) -> None:
        """CROSS_COMPILE + 'gcc' has to name the compiler."""
        self.make('a/arm-linux-gcc-13')
        self.make('a/gcc-13')
        chains = self.chains('[toolchain-prefix]\narm = TMP/a/arm-linux-gcc-13\n'
                             'sandbox = TMP/a/gcc-13\n')
        with self.assertRaisesRegex(ToolchainError, "name ends in 'gcc'"):
            chains.select('arm')
        chain = chains.select('sandbox')
        self.assertEqual((f'{self.tmp}/a/gcc-13', ''), (chain.override, chain.cross))

    # -- aliases, wrapper, override ----------------------------------------

    def test_aliases(self) -> None:
        """x86 boards build with an i386 or x86_64 compiler."""
        self.make('a/i386-linux-gcc')
        self.make('a/x86_64-linux-gcc')
        self.make('a/sh4-linux-gcc')
        self.make('a/arm-linux-gcc')
        for alias, arch, want in (
                ('', 'x86', 'i386'), ('x86 = x86_64', 'x86', 'x86_64'),
                ('x86 = none x86_64 i386', 'x86', 'x86_64'), ('X86 = x86_64', 'x86', 'x86_64'),
                ('', 'sh', 'sh4'), ('arm = sh4', 'arm', 'sh4'), ('arm = none', 'arm', 'arm')):
            self.assertEqual(want, self.chains(
                f'[toolchain]\na = TMP/a\n[toolchain-alias]\n{alias}\n').select(arch).arch)

    def test_wrapper_that_is_missing(self) -> None:
        """Otherwise each board would fail with a puzzling message."""
        self.make('a/arm-linux-gcc')
        with self.assertRaisesRegex(ToolchainError, "'no-ccache' not found: install it"):
            self.chains('[toolchain]\na = TMP/a\n[toolchain-wrapper]\nwrapper = no-ccache -x\n')
        chains = self.chains('[toolchain]\na = TMP/a\n[toolchain-wrapper]\nwrapper\n')
        self.assertEqual('', chains.select('arm').wrapper)
        self.assertEqual(["[toolchain-wrapper] 'wrapper' has no command"], chains.warnings)

    def test_override_is_for_sandbox(self) -> None:
        """-O clang builds sandbox with clang and leaves the other boards alone."""
        self.make('on-path/clang-14')
        self.make('a/gcc')
        self.make('a/arm-linux-gcc')
        chains = self.chains('[toolchain]\na = TMP/a\n', 'clang-14')
        chain = chains.select('sandbox')
        self.assertEqual(('clang-14', f'{self.tmp}/a/./gcc', ''),
                         (chain.override, chain.gcc, chain.cross))
        self.assertEqual('', chains.select('arm').override)
        chains = self.chains('[toolchain]\nb = TMP/b\n', 'clang-14')
        self.assertEqual(f'{self.tmp}/on-path/clang-14', chains.select('sandbox').gcc)

    def test_override_that_is_missing(self) -> None:
        """-O with a typing error ends before anything is built."""
        self.make('on-path/bad-cc', 'echo boo >&2; exit 1')
        with self.assertRaisesRegex(ToolchainError, "^-O no-cc -g: 'no-cc' not found$"):
            self.chains('', 'no-cc -g')
        with self.assertRaisesRegex(ToolchainError, 'bad-cc. does not run: boo$'):
            self.chains('', 'bad-cc').select('sandbox')

    def test_override_with_words(self) -> None:
        """-O 'ccache clang' is a command: its first word is looked for, all is for make."""
        gcc = self.make('a/gcc')
        self.make('on-path/ccache')
        chain = self.chains('[toolchain]\na = TMP/a\n', ' ccache clang -O1 ').select('sandbox')
        self.assertEqual(('ccache clang -O1', os.path.dirname(gcc)),
                         (chain.override, os.path.normpath(chain.path)))
        with self.assertRaisesRegex(ToolchainError, "^-O gcc 'x: no closing quotation$"):
            self.chains('', "gcc 'x")

    def test_download_goes_first(self) -> None:
        """What --fetch-arch got was asked for: it is used whatever else is there."""
        self.make('a/arm-linux-gcc')
        new = self.make('new/gcc-1/arm/bin/arm-none-linux-gcc')
        for text in ('[toolchain]\na = TMP/a\ndownload = TMP/new/*/*\n',
                     '[toolchain]\nDownload = TMP/new/*/*\na = TMP/a\n'):
            self.assertEqual(new, self.chains(text).select('arm').gcc)
        self.make('own/arm-gcc')
        chains = self.chains('[toolchain]\ndownload = TMP/new/*/*\n'
                             '[toolchain-prefix]\narm = TMP/own/arm-\n')
        self.assertEqual(f'{self.tmp}/own/arm-gcc', chains.select('arm').gcc)

    # -- none --------------------------------------------------------------

    def test_no_toolchain(self) -> None:
        """The message says which arch and what to do."""
        self.make('a/arm-linux-gcc', 'echo no libc >&2; exit 1')
        chains = self.chains('[toolchain]\na = TMP/a\n[toolchain-alias]\nsh = sh4\n')
        for arch, regex in (
                ('xtensa', "^No tool chain found for arch 'xtensa': run 'buildman --fetch-arch "
                 r"xtensa', or name its folder in \[toolchain\] of '.*conf'$"),
                ('sh', '--fetch-arch sh4'), ('arm', 'arm-linux-gcc. does not run: no libc: run')):
            with self.assertRaisesRegex(ToolchainError, regex):
                chains.select(arch)

    def test_without_configuration_path_is_searched(self) -> None:
        """On a fresh machine the compilers on PATH are used, whatever their folder."""
        self.make('on-path/arm-linux-gcc')
        for text in ('', '[toolchain]\n', '[make-flags]\na = 1\n'):
            self.assertEqual('on-path/arm-linux-gcc', self.select(text, 'arm'))
        os.unlink(os.path.join(self.tmp, 'on-path/arm-linux-gcc'))
        with self.assertRaises(ToolchainError):
            self.chains('[toolchain]\na = TMP/a\n').select('sandbox')

    def test_nothing_at_all(self) -> None:
        """A machine without a compiler is told how to get one."""
        bsettings.setup(None)
        chains = find.Toolchains('', self.on_path)
        self.assertEqual(['List of available toolchains (0):', 'None', ''], chains.list_lines())
        self.assertRegex(chains.warnings[0], 'No tool chains: run .buildman --fetch-arch all')

    def test_hanging_compiler(self) -> None:
        """A compiler on a dead network share must not hold up everything."""
        self.make('a/arm-elf-gcc', 'sleep 1000')
        self.make('a/arm-linux-gcc')
        self.addCleanup(setattr, find, 'TEST_TIMEOUT', find.TEST_TIMEOUT)
        find.TEST_TIMEOUT = 0.2  # type: ignore[assignment]
        self.assertEqual('a/arm-linux-gcc', self.select('[toolchain]\na = TMP/a\n', 'arm'))

    # -- list --------------------------------------------------------------

    def test_list(self) -> None:
        """Scripts read the list."""
        self.make('a/microblaze-linux-gcc')
        self.make('a/gcc')
        chains = self.chains('[toolchain]\na = TMP/a\n')
        self.assertEqual(['List of available toolchains (2):',
                          f'microblaze: {self.tmp}/a/./microblaze-linux-gcc',
                          f'sandbox   : {self.tmp}/a/./gcc', ''], chains.list_lines())
        self.assertEqual('\033[1;34mList of available toolchains (2):\033[0m',
                         chains.list_lines(col=terminal.Color(terminal.COLOUR_ALWAYS))[0])

    def test_verbose_list(self) -> None:
        """-v shows why a compiler is not taken."""
        self.make('a/bin/arm-linux-gcc')
        self.make('b/arm-gcc')
        self.make('c/arm-elf-gcc', 'echo oops; echo err >&2; exit 1')
        chains = self.chains('[toolchain]\na = TMP/a\nb = TMP/b\nc = TMP/c\n[toolchain-prefix]\n'
                             'sh = none-\narc = TMP/b/arm-\n', strict=False)
        self.assertEqual('''Scanning for tool chains
   - scanning prefix 'none-'
Error: No tool chain found for prefix 'none-gcc'
   - scanning prefix 'TMP/b/arm-'
Tool chain test:  OK, arch='arc', priority 1
   - scanning path 'TMP/a'
      - looking in 'TMP/a/.'
      - looking in 'TMP/a/bin'
         - found 'TMP/a/bin/arm-linux-gcc'
      - looking in 'TMP/a/usr/bin'
Tool chain test:  OK, arch='arm', priority 6
   - scanning path 'TMP/b'
      - looking in 'TMP/b/.'
         - found 'TMP/b/./arm-gcc'
      - looking in 'TMP/b/bin'
      - looking in 'TMP/b/usr/bin'
Tool chain test:  OK, arch='arm', priority 15
Toolchain 'TMP/b/./arm-gcc' at priority 15 will be ignored because another toolchain for arch \
'arm' has priority 6
   - scanning path 'TMP/c'
      - looking in 'TMP/c/.'
         - found 'TMP/c/./arm-elf-gcc'
      - looking in 'TMP/c/bin'
      - looking in 'TMP/c/usr/bin'
Tool chain test:  BAD
Command: TMP/c/./arm-elf-gcc --version
oops


List of available toolchains (2):
arc       : TMP/b/arm-gcc
arm       : TMP/a/bin/arm-linux-gcc
''', '\n'.join(chains.list_lines(verbose=True)).replace(self.tmp, 'TMP'))
        self.assertEqual([f"'{self.tmp}/c/./arm-elf-gcc' does not run: err"], chains.problems())

    def test_real_gcc(self) -> None:
        """The host's gcc is found without any configuration."""
        if not os.path.exists('/usr/bin/gcc'):
            self.skipTest('no /usr/bin/gcc')
        bsettings.setup(None)
        chain = find.Toolchains('', '/usr/bin').select('sandbox')
        self.assertEqual(('/usr/bin/gcc', '', 'sandbox'), (chain.gcc, chain.cross, chain.arch))
