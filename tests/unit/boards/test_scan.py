# SPDX-License-Identifier: GPL-2.0+
"""Boards found in trees that the tests write, with the real kconfiglib.

kconfiglib comes from `pip install kconfiglib`, or KCONFIGLIB names the file
(U-Boot trees have it in tools/buildman). Without it the tests that need it are
skipped, which on a CI machine is a failure.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from typing import List, Optional

import support
from support import TOOLS

from buildman.boards import scan
from buildman.boards import select as boards
from buildman.boards.cfgfile import format_entries
from buildman.core.errors import BoardError

KCONFIG = '''
mainmenu "U-Boot $(UBOOTVERSION) Configuration"
config SYS_ARCH
	string
	default "arm" if ARM
	default "riscv" if RISCV
	default "sandbox" if SANDBOX
config SYS_CPU
	string
	default "armv8" if ARM64
	default "armv7" if ARM
config SYS_SOC
	string "soc"
config SYS_VENDOR
	string "vendor"
config SYS_BOARD
	string "board"
config SYS_CONFIG_NAME
	string "config"
choice
	prompt "Architecture"
	default SANDBOX
config ARM
	bool "ARM"
config RISCV
	bool "RISC-V"
config SANDBOX
	bool "sandbox"
config NOARCH
	bool "none"
endchoice
config ARM64
	bool "64 bit"
	depends on ARM
config ARCH_RV32I
	bool "32 bit"
	depends on RISCV
config CC_IS_GCC
	def_bool $(shell,$(CC) --version >/dev/null && echo y || echo n)
source "board/Kconfig"
'''

CONFIGS = {
    'a1': 'CONFIG_ARM=y\nCONFIG_SYS_BOARD="bone"\nCONFIG_SYS_VENDOR="vone"\n'
          'CONFIG_SYS_SOC="sone"\nCONFIG_SYS_CONFIG_NAME="cone"\nCONFIG_TARGET_A1=y\n',
    'a2': '# A comment\nCONFIG_ARM=y\r\nCONFIG_ARM64=y\n\n  # indented\n'
          'CONFIG_SYS_BOARD="one"\nCONFIG_SYS_BOARD="a b\\"c"\nCONFIG_UNKNOWN=y\n'
          'CONFIG_TARGET_A1=y\nCONFIG_TARGET_B=y\n',
    'n1': 'CONFIG_NOARCH=y\n',
    'r1': 'CONFIG_RISCV=y\n# CONFIG_ARCH_RV32I is not set\n',
    'r2': '#include <configs/r1_defconfig>\nCONFIG_ARCH_RV32I=y\n',
    's1': '',
}

OWNERS = '''Boards
M:	Ann <ann@one>
S:	Maintained
F:	configs/*_defconfig

Nobody
S:	Orphan
F:	configs/n1_defconfig
'''

# What upstream's `buildman -R` writes for this tree (but for the blank in 'a b')
EXPECT = '''
-       -        -      -     -     -      n1  -
Active  aarch64  armv8  -     -     a_b"c  a2  -     Ann <ann@one>
Active  arm      armv7  sone  vone  bone   a1  cone  Ann <ann@one>
Active  riscv32  -      -     -     -      r2  -     Ann <ann@one>
Active  riscv64  -      -     -     -      r1  -     Ann <ann@one>
Active  sandbox  -      -     -     -      s1  -     Ann <ann@one>
'''
WARNINGS = ["WARNING: no maintainers for 'n1'"]


def kconfiglib_path() -> str:
    """Return the path of a kconfiglib.py; skip the test, or fail in CI, without."""
    path = os.environ.get('KCONFIGLIB', '')
    if not path:
        spec = importlib.util.find_spec('kconfiglib')
        path = spec.origin or '' if spec else ''
    if path:
        return path
    message = 'NOT TESTED: needs kconfiglib (pip install kconfiglib, or set KCONFIGLIB)'
    if os.environ.get('CI'):
        raise AssertionError(message)
    raise unittest.SkipTest(message)


class TreeCase(unittest.TestCase):
    """A small U-Boot tree, so far without kconfiglib."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.top = tmp.name
        self.src = os.path.join(tmp.name, 'src')
        self.cache = os.path.join(tmp.name, 'out', 'boards.cfg')
        self.write('Kconfig', KCONFIG)
        self.write('board/Kconfig',
                   'config TARGET_A1\n\tbool "a1"\nconfig TARGET_B\n\tbool "b"\n')
        self.write('MAINTAINERS', OWNERS)
        for name, text in CONFIGS.items():
            self.write(f'configs/{name}_defconfig', text)

    def write(self, name: str, text: str) -> str:
        path = os.path.join(self.src, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8', newline='') as outf:
            outf.write(text)
        return path

    def git(self, *args: str) -> None:
        subprocess.run(['git', '-C', self.src, *args], check=True, capture_output=True)

    def run_python(self, code: str) -> 'subprocess.CompletedProcess[str]':
        """Run code where only the standard library can be imported."""
        head = f'import sys\nsys.path.insert(0, {TOOLS!r})\n'
        return subprocess.run([sys.executable, '-I', '-S', '-c', head + code],
                              capture_output=True, text=True, check=False)


class KconfigCase(TreeCase):
    """The same with kconfiglib in the tree, as U-Boot has it."""

    def setUp(self) -> None:
        lib = kconfiglib_path()
        super().setUp()
        self.lib = os.path.join(self.src, scan.KCONFIGLIB_PATH)
        os.makedirs(os.path.dirname(self.lib))
        shutil.copy(lib, self.lib)


class ScanTest(KconfigCase):
    """What is found decides what is built, and with which compiler."""

    def body(self, board_list: boards.BoardList) -> str:
        text = format_entries(board_list.entries)
        return ''.join(line for line in text.splitlines(True) if line[0] != '#')

    def test_boards(self) -> None:
        """All that Kconfig, the defconfigs and MAINTAINERS say of a board."""
        found, warnings = boards.load(self.src)
        self.assertEqual(self.body(found), EXPECT)
        self.assertEqual(warnings, WARNINGS)

    def test_no_trace(self) -> None:
        """A scan leaves the tree, the environment and the interpreter as they were."""
        with open(self.lib, 'a', encoding='utf-8') as outf:
            outf.write(f'\nopen({os.path.join(self.top, "used")!r}, "w").close()\n')
        before = (dict(os.environ), os.getcwd(), list(sys.path),
                  sys.getrecursionlimit(), gc.isenabled(), gc.get_freeze_count())
        modules = set(sys.modules)
        boards.load(self.src)
        self.assertEqual((dict(os.environ), os.getcwd(), list(sys.path),
                          sys.getrecursionlimit(), gc.isenabled(), gc.get_freeze_count()),
                         before)
        self.assertEqual([name for name in set(sys.modules) - modules
                          if 'kconfig' in name], [])
        self.assertTrue(os.path.exists(os.path.join(self.top, 'used')),
                        "the tree's own kconfiglib was not used")
        self.assertEqual(os.listdir(os.path.dirname(self.lib)), ['kconfiglib.py'])

    def test_settings_of_user(self) -> None:
        """What the user has in the environment does not change the boards."""
        for name, value in (('CONFIG_', 'X_'), ('srctree', '/nowhere'), ('CC', 'nope'),
                            ('KCONFIG_FUNCTIONS', 'nothing.there')):
            old = os.environ.get(name)
            os.environ[name] = value
            try:
                self.assertEqual(self.body(boards.load(self.src)[0]), EXPECT)
            finally:
                if old is None:
                    del os.environ[name]
                else:
                    os.environ[name] = old

    def test_processes(self) -> None:
        """The boards are the same whatever the number of processors."""
        for num in range(330):
            self.write(f'configs/x{num}_defconfig',
                       f'CONFIG_ARM=y\nCONFIG_SYS_BOARD="b{num}"\n')
        lists = [boards.load(self.src, jobs=jobs)[0].entries for jobs in (1, 2, 3, 7)]
        self.assertEqual(len(lists[0]), 336)
        for other in lists[1:]:
            self.assertEqual(other, lists[0])

    def test_named(self) -> None:
        """One named board is found though others are broken, and not kept as all."""
        self.write('configs/bad_defconfig', 'rubbish\n')
        found, warnings = boards.load(self.src, self.cache, ['r2', 'nope', 'a1'])
        self.assertEqual([brd.target for brd in found.boards], ['a1', 'r2'])
        self.assertEqual(found.boards[0].maintainers, ('Ann <ann@one>',))
        self.assertEqual(warnings, [])
        self.assertFalse(os.path.exists(self.cache))
        with self.assertRaisesRegex(BoardError, 'bad_defconfig'):
            boards.load(self.src, self.cache)

    def test_cache(self) -> None:
        """The second run reads boards.cfg, and a changed file ends that."""
        first, warnings = boards.load(self.src, self.cache)
        self.assertEqual(warnings, WARNINGS)
        # Warnings show that there was a scan
        again, warnings = boards.load(self.src, self.cache)
        self.assertEqual((again.entries, warnings), (first.entries, []))
        self.assertEqual((first.kept, again.kept), (False, True))
        named, _ = boards.load(self.src, self.cache, ['a1'])
        self.assertEqual([brd.target for brd in named.boards], ['a1'])
        os.utime(os.path.join(self.src, 'Kconfig'), ns=(1, 1))
        self.assertEqual(boards.load(self.src, self.cache)[1], [])
        # A file that only another one includes counts as well
        self.write('configs/s1_defconfig', '#include "more.config"\n')
        self.write('configs/more.config', 'CONFIG_ARM=y\n')
        self.assertEqual(boards.load(self.src, self.cache)[1], WARNINGS)
        self.assertEqual(boards.load(self.src, self.cache)[1], [])
        self.write('configs/more.config', 'CONFIG_RISCV=y\n')
        changed, warnings = boards.load(self.src, self.cache)
        self.assertEqual(warnings, WARNINGS)
        self.assertEqual({brd.target: brd.arch for brd in changed.boards}['s1'], 'riscv64')

    def test_unwritable_cache(self) -> None:
        """When the list cannot be kept, it is still used, and that is told."""
        blocker = self.write('file', '')
        found, warnings = boards.load(self.src, os.path.join(blocker, 'boards.cfg'))
        self.assertEqual(len(found), 6)
        self.assertRegex(warnings[-1], r'^WARNING: .*file/boards.cfg: cannot be written')

    def test_includes(self) -> None:
        """#include works as in the C preprocessor, and later settings win."""
        self.write('configs/i/one.config', 'CONFIG_SYS_BOARD="inc"\nCONFIG_ARM=y\n'
                                           '# include"two.config"\n')
        self.write('configs/i/two.config', 'CONFIG_SYS_VENDOR="two"\n')
        self.write('configs/i1_defconfig', 'CONFIG_SYS_VENDOR="first"\n'
                   '#include <configs/i/one.config>\nCONFIG_SYS_BOARD="last"\n'
                   '# include this text\n')
        found, _ = boards.load(self.src, wanted=['i1'])
        brd = found.boards[0]
        self.assertEqual((brd.arch, brd.board_name, brd.vendor), ('arm', 'last', 'two'))

    def check_broken(self, name: str, text: str, why: str) -> None:
        path = self.write(name, text)
        with self.assertRaisesRegex(BoardError, why) as caught:
            boards.load(self.src, self.cache)
        self.assertNotIn('\n', str(caught.exception))
        self.assertFalse(os.path.exists(self.cache))
        os.unlink(path)

    def test_broken_defconfig(self) -> None:
        """The file and the line are named; half a list would lose boards silently."""
        for text, why in (
                ('CONFIG_ARM=y\n\n<<<<<<< HEAD\n', r"^configs/b_defconfig:3: '<<<"),
                ('CONFIG_ARM=y\n CONFIG_B=y\n', r':2: .* is not a setting'),
                ('CONFIG_SYS_BOARD="b\n', ':1: .*closing quote'),
                ('#include <configs/none>\n', r":1: included file 'configs/none'"),
                ('#include "b_defconfig"\n', 'includes itself')):
            self.check_broken('configs/b_defconfig', text, why)
        path = os.path.join(self.src, 'configs/b_defconfig')
        with open(path, 'wb') as outf:
            outf.write(b'CONFIG_ARM=\xff\n')
        with self.assertRaisesRegex(BoardError, 'configs/b_defconfig: not a text file'):
            boards.load(self.src)
        os.unlink(path)
        os.symlink('nowhere', path)
        with self.assertRaisesRegex(BoardError, 'configs/b_defconfig: .*No such file'):
            boards.load(self.src)

    def test_broken_kconfig(self) -> None:
        """The same for Kconfig."""
        self.check_broken('Kconfig', KCONFIG + 'rubbish here\n',
                          r"^Kconfig:\d+: .*rubbish here")
        self.check_broken('Kconfig', KCONFIG + 'source "none/Kconfig"\n',
                          r"^Kconfig:\d+: 'none/Kconfig' not found")
        self.check_broken('Kconfig', 'config A\n\tbool\n\tdepends on B\n'
                          'config B\n\tbool\n\tdepends on A\n', 'ependency loop')
        path = self.write('Kconfig', '')
        with open(path, 'wb') as outf:
            outf.write(b'config A\n\tbool "\xff"\n')
        with self.assertRaisesRegex(BoardError, 'Kconfig') as caught:
            boards.load(self.src)
        self.assertNotIn('\n', str(caught.exception))

    def test_blank(self) -> None:
        """A file whose name make could not take is told and left out."""
        self.write('configs/b c_defconfig', '')
        found, warnings = boards.load(self.src)
        self.assertEqual(len(found), 6)
        self.assertIn('configs/b c_defconfig', '\n'.join(warnings))

    def test_checks(self) -> None:
        """Those who keep the tree in order get a line for each fault."""
        self.assertEqual(boards.maintainer_check(self.src), WARNINGS)
        self.assertEqual(boards.full_check(self.src), [
            'WARNING: a2_defconfig: Duplicate TARGET_xxx: a1 and b',
            *(f'WARNING: {name}_defconfig: No TARGET_{name.upper()} enabled'
              for name in ('n1', 'r1', 'r2', 's1')), *WARNINGS])
        self.write('Makefile', '')
        for flag, lines in (('--maintainer-check', WARNINGS),
                            ('--full-check', boards.full_check(self.src))):
            got = subprocess.run([os.path.join(TOOLS, 'buildman', 'buildman'), '-G', os.devnull,
                                  flag], cwd=self.src, capture_output=True, text=True, check=False)
            self.assertEqual((got.returncode, got.stdout, got.stderr.splitlines()),
                             (2, '', lines))

    def test_write(self) -> None:
        """-R writes what a scan has found."""
        path = os.path.join(self.top, 'list')
        boards.write_board_list(path, boards.load(self.src)[0])
        with open(path, encoding='utf-8') as inf:
            self.assertEqual(''.join(line for line in inf if line[0] != '#'), EXPECT)

    def test_interrupt(self) -> None:
        """Ctrl-C in the middle of a scan leaves no process and prints nothing."""
        fifo = os.path.join(self.top, 'fifo')
        os.mkfifo(fifo)
        self.write('Kconfig', KCONFIG + 'config HANG\n\tdef_bool '
                   f'$(shell,exec 3>{fifo}; echo up >&3; sleep 1000)\n')
        code = textwrap.dedent(f'''
            import sys
            sys.path.insert(0, {TOOLS!r})
            from buildman.boards import select
            try:
                select.load({self.src!r})
            except KeyboardInterrupt:
                print('interrupted')
            ''')
        # Our own processes hold the end of this pipe, the shell that of the fifo
        read_end, write_end = os.pipe()
        proc = subprocess.Popen([sys.executable, '-c', code], pass_fds=[write_end],
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.close(write_end)
        self.addCleanup(proc.wait)
        self.addCleanup(proc.kill)
        with os.fdopen(read_end) as running, support.open_fifo(
                fifo, lambda: proc.poll() is None) as started:
            self.assertEqual(started.read(3), b'up\n')
            proc.send_signal(signal.SIGINT)
            out, err = proc.communicate(timeout=60)
            for inf in (started, running):
                poll = select.poll()
                poll.register(inf, 0)
                self.assertTrue(poll.poll(60000), 'a process is left')
        self.assertEqual((out, err), ('interrupted\n', ''))


class LibraryTest(TreeCase):
    """Where the list comes from when the tree has no kconfiglib of its own."""

    LOAD = textwrap.dedent('''
        from buildman.boards import select
        from buildman.core import errors
        try:
            found, warnings = select.load({src!r}, {cache!r}, {wanted!r})
        except errors.BoardError as exc:
            print('error:', exc)
        else:
            print([brd.target for brd in found.boards], warnings)
        ''')
    CFG = ('Active arm armv7:arm720t - - - old2 - A <a@b>:C <c@d>\n'
           'Active arm - - - - old1 -\n')

    def load(self, wanted: Optional[List[str]] = None) -> str:
        done = self.run_python(self.LOAD.format(
            src=self.src, cache=self.cache, wanted=wanted))
        self.assertEqual(done.stderr, '')
        return done.stdout.strip()

    def test_nothing(self) -> None:
        """Without any way to read Kconfig the user is told which there are."""
        self.assertRegex(self.load(), r'^error: .*/src: cannot read its Kconfig: the tree '
                         r'has no tools/buildman/kconfiglib.py.*pip install kconfiglib')

    def test_no_tree(self) -> None:
        """A folder that is no U-Boot tree is named."""
        shutil.rmtree(self.src)
        self.assertRegex(self.load(), '^error: .*/src: no such folder')
        os.mkdir(self.src)
        self.assertRegex(self.load(), '^error: .*/src: no U-Boot source')

    def test_tracked(self) -> None:
        """An old tree, or the sample, brings its own list."""
        self.write('boards.cfg', self.CFG)
        self.assertEqual(self.load(), "['old1', 'old2'] []")
        self.assertEqual(self.load(['old2', 'x']), "['old2'] []")
        with open(self.cache, encoding='utf-8') as inf:
            self.assertIn('armv7:arm720t', inf.read())

    def test_left_over(self) -> None:
        """A boards.cfg that some build has left in the repository is not the tree's."""
        self.write('boards.cfg', self.CFG)
        self.git('init', '-q')
        self.assertRegex(self.load(), '^error: .*no tracked boards.cfg')
        self.git('add', 'boards.cfg')
        self.assertEqual(self.load(), "['old1', 'old2'] []")

    def test_damaged(self) -> None:
        """A tracked list with a bad line is named, not half used."""
        self.write('boards.cfg', self.CFG + 'Active arm\n')
        self.assertRegex(self.load(), r'^error: .*/src/boards.cfg:3: 2 columns')

    def test_broken_library(self) -> None:
        """A kconfiglib that does not work is the reason that is given."""
        self.write(scan.KCONFIGLIB_PATH, 'import nothing_like_it\n')
        self.assertRegex(self.load(), 'error: .*kconfiglib.py cannot be loaded: No module')
        self.write(scan.KCONFIGLIB_PATH, 'class Config: pass\n')
        self.assertRegex(self.load(), 'error: .*kconfiglib.py is too old')
        self.write('boards.cfg', self.CFG)
        self.assertEqual(self.load(), "['old1', 'old2'] []")

    def test_installed(self) -> None:
        """An installed kconfiglib does as well as the tree's."""
        code = f'sys.path.append({os.path.dirname(kconfiglib_path())!r})\n'
        done = self.run_python(code + self.LOAD.format(
            src=self.src, cache=self.cache, wanted=None))
        self.assertEqual(done.stdout.strip(),
                         f"['n1', 'a2', 'a1', 'r2', 'r1', 's1'] {WARNINGS}")
