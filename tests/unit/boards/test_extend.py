# SPDX-License-Identifier: GPL-2.0+
"""The boards that configs/*.buildman adds: the files, the sets, the names.

The boards of each entry are those that upstream's `buildman -X -n -v` (0.2.0
from PyPI) gives for such an entry, but where a test says otherwise.
"""

from __future__ import annotations

import os
import unittest
from typing import List, Sequence, Tuple

from buildman.boards import extend as boards_extend
from buildman.boards import select
from buildman.boards.cfgfile import Entry
from buildman.boards.extend import Extensions
from buildman.core.errors import BoardError
from buildman.core.plan import Board
from tests.unit.boards import test_scan

# What .config has of each board, as `conf` of U-Boot writes it
CONFIGS = {
    'rpi': {'SOC': '"bcm283x"', 'DELAY': '2', 'ADDR': '0x1000000', 'BOOT': r'"a \"b\" \n"'},
    'rpi_2': {'SOC': '"bcm283x"', 'DELAY': '-1', 'ADDR': '0x0', 'CRC': 'y'},
    'rpi_4': {'SOC': '"bcm283x"', 'ARM64': 'y', 'ADDR': '4096', 'EMPTY': '""'},
    'qemu_arm': {'ARM64': 'y', 'CRC': 'y', 'DELAY': '"2"'},
}
FRAGMENTS = ('one.config', 'two.config')


def read(*lines: str) -> List[boards_extend.Extension]:
    """Return the entries of a file that has these lines."""
    return boards_extend.parse('\n'.join(lines) + '\n', 'configs/x.buildman',
                               FRAGMENTS.__contains__)


def extend(lines: Sequence[str], whole: bool = True) -> Tuple[List[Board], List[str]]:
    """Return the boards that these lines add to CONFIGS, and what is said of that."""
    entries = [Entry(Board(name, 'arm', vendor='acme'), 'conf') for name in CONFIGS]
    values: boards_extend.Values = {}
    for name, settings in CONFIGS.items():
        for symbol, text in settings.items():
            values.setdefault(symbol, {}).setdefault(text, []).append(name)
    found, warnings = Extensions(read(*lines), [
        f'{name}_defconfig' for name in CONFIGS]).apply(entries, values, whole)
    return [entry.board for entry in found], warnings


class FileTest(unittest.TestCase):
    """What a file says; what is not understood is never passed over."""

    def test_all(self) -> None:
        """Every kind of line, in one file"""
        found = read('# Comment', '', 'name: acpi', 'desc: Boot: with ACPI # 1',
                     'fragment: two', 'fragment: one', 'targets:', '  CONFIG_SOC="a b\\"#"',
                     '\tCONFIG_ARM64 = n  ', '', '  # comment', '   CONFIG_ADDR=-0x1F',
                     '  rpi_*', 'name:b.2+c-d_e')
        self.assertEqual([entry.name for entry in found], ['acpi', 'b.2+c-d_e'])
        self.assertEqual([entry.where for entry in found],
                         ['configs/x.buildman:3', 'configs/x.buildman:14'])
        self.assertEqual(found[0].fragments, ['two.config', 'one.config'])
        self.assertEqual([(item.symbol, item.value) for item in found[0].settings],
                         [('SOC', '"a b\\"#"'), ('ARM64', 'n'), ('ADDR', '-0x1F')])
        self.assertEqual(found[0].globs, [('rpi_*', 'configs/x.buildman:13')])
        self.assertEqual((found[1].fragments, found[1].settings, found[1].globs), ([], [], []))

    def test_ends_of_lines(self) -> None:
        """A file from another system is the same file"""
        lines = ('name: a', 'fragment: one', 'targets:', '  rpi_*', '  CONFIG_A="x"')
        self.assertEqual(read(*(f'{line}\r' for line in lines)), read(*lines))

    def test_errors(self) -> None:
        """Each is told with file and line, and how to put it right"""
        start = ('name: a', 'targets:')
        for lines, number, text in (
                (('name: a', 'tagets:'), 2, "'tagets:' is none of name: desc: fragment: targets:"),
                (('name: a', 'foo: bar'), 2, "'foo: bar' is none of"),
                ((*start, 'rpi_*'), 3, "'rpi_*' is none of .* is indented"),
                ((*start, 'CONFIG_A=y'), 3, "'CONFIG_A=y' is none of"),
                ((' name: a',), 1, "'name: a' is indented, but not below 'targets:'"),
                (('name: a', ' CONFIG_A=y'), 2, 'is indented, but not below'),
                ((*start, 'fragment: one', ' CONFIG_A=y'), 4, 'is indented, but not below'),
                (('targets:',), 1, "'targets:' comes before any 'name:'"),
                (('', 'fragment: one'), 2, "'fragment:' comes before any 'name:'"),
                (('name:',), 1, "'' cannot be part of the name of a board"),
                (('name: a b',), 1, "'a b' cannot be part of"),
                (('name: a,b',), 1, "'a,b' cannot be part of"),
                (('name: ../a',), 1, "'../a' cannot be part of"),
                (('name: -a',), 1, "'-a' cannot be part of"),
                (('name: a', 'fragment: nix'), 2, "fragment 'configs/nix.config' does not exist"),
                (('name: a', 'fragment:'), 2, "'' is not the name of a fragment"),
                (('name: a', 'fragment: ../one'), 2, "'../one' is not the name of a fragment"),
                (('name: a', 'targets: rpi'), 2, "'rpi' must be on a line of its own, indented"),
                ((*start, '  CONFIG_A=word'), 3, 'CONFIG_A=word: the value must be y, n, a number'),
                ((*start, '  CONFIG_A="x'), 3, 'CONFIG_A="x: the value must be'),
                ((*start, '  CONFIG_A="x" y'), 3, 'the value must be'),
                ((*start, '  CONFIG_A="x"y"'), 3, 'the value must be'),
                ((*start, '  CONFIG_A=m'), 3, 'the value must be'),
                ((*start, '  CONFIG_A=0x'), 3, 'the value must be'),
                ((*start, '  CONFIG_A='), 3, 'the value must be'),
                ((*start, '  CONFIG_A'), 3, "'CONFIG_A' is neither CONFIG_X=value nor"),
                ((*start, '  A=y'), 3, "'A=y' is neither CONFIG_X=value nor"),
                ((*start, '  rpi_* qemu*'), 3, 'is neither CONFIG_X=value nor'),
                ((*start, '  # CONFIG_A is not set'), 3, 'is a comment here; write CONFIG_A=n'),
        ):
            with self.subTest(lines=lines), self.assertRaisesRegex(
                    BoardError, f'^configs/x.buildman:{number}: .*' + text.replace('*', '[*]')
                    .replace('.[*]', '.*')) as caught:
                read(*lines)
            self.assertNotIn('\n', str(caught.exception))


class SetTest(unittest.TestCase):
    """Which boards an entry adds."""

    def bases(self, *lines: str) -> str:
        found, warnings = extend(['name: e', 'fragment: one', 'targets:',
                                  *(f'  {line}' for line in lines)])
        self.assertEqual([board.target for board in found], [f'e,{board.base}' for board in found])
        self.warnings = warnings
        return ' '.join(board.base for board in found)

    def test_board(self) -> None:
        """It is like its base, but for its name and what it is configured with"""
        found, _ = extend(['name: e', 'fragment: two', 'fragment: one', 'targets:', '  rpi_2_*'])
        self.assertEqual(found, [Board(
            'e,rpi_2', 'arm', vendor='acme', base='rpi_2',
            fragments=('two.config', 'one.config'))])
        self.assertEqual(found[0].defconfig, 'rpi_2_defconfig')

    def test_settings(self) -> None:
        """All must hold"""
        for lines, want in (
                ((), 'rpi rpi_2 rpi_4 qemu_arm'),
                (('CONFIG_SOC="bcm283x"',), 'rpi rpi_2 rpi_4'),
                (('CONFIG_SOC="bcm283x"', 'CONFIG_ARM64=n'), 'rpi rpi_2'),
                (('CONFIG_ARM64=y',), 'rpi_4 qemu_arm'),
                (('CONFIG_NIX=n', 'CONFIG_CRC=y', 'CONFIG_ARM64=n'), 'rpi_2'),
                # y is for whatever is set, n for whatever is not
                (('CONFIG_DELAY=y',), 'rpi rpi_2 qemu_arm'),
                (('CONFIG_DELAY=n',), 'rpi_4'),
                (('CONFIG_EMPTY=y',), 'rpi_4'),
                (('CONFIG_DELAY=2',), 'rpi'),
                (('CONFIG_DELAY=-1',), 'rpi_2'),
                (('CONFIG_DELAY="2"',), 'qemu_arm'),
                (('CONFIG_EMPTY=""',), 'rpi_4'),
                (('CONFIG_ADDR=0x1000000',), 'rpi'),
                # Upstream's compares the text, and finds none
                (('CONFIG_ADDR=0x01000000',), 'rpi'),
                (('CONFIG_ADDR=0X00',), 'rpi_2'),
                (('CONFIG_ADDR=4096',), 'rpi_4'),
                ((r'CONFIG_BOOT="a \"b\" \n"',), 'rpi')):
            with self.subTest(lines=lines):
                self.assertEqual((self.bases(*lines), self.warnings), (want, []))

    def test_globs(self) -> None:
        """One of them must match, and all settings hold; whole file names are meant"""
        for lines, want in (
                (('rpi_*',), 'rpi rpi_2 rpi_4'),
                (('rpi_defconfig', 'qemu_arm_defconfig'), 'rpi qemu_arm'),
                (('rpi_[24]_defconfig',), 'rpi_2 rpi_4'),
                (('rpi_?_*', 'CONFIG_ARM64=y'), 'rpi_4')):
            with self.subTest(lines=lines):
                self.assertEqual((self.bases(*lines), self.warnings), (want, []))

    def test_no_match(self) -> None:
        """What matches nothing is told; all boards would hardly be meant

        Upstream's takes all, when none of an entry's globs match.
        """
        where = 'WARNING: configs/x.buildman:4: '
        for line, text in (
                ('rpi', "no defconfig matches 'rpi', did you mean 'rpi_defconfig'?"),
                ('nix*', "no defconfig matches 'nix*'"),
                ('../rpi*', "no defconfig matches '../rpi*'"),
                ('CONFIG_NIX=y', 'no board has CONFIG_NIX=y'),
                ('CONFIG_SOC="nix"', 'no board has CONFIG_SOC="nix"')):
            with self.subTest(line=line):
                self.assertEqual((self.bases(line), self.warnings), ('', [where + text]))
        self.assertEqual(self.bases('rpi', 'rpi_2*'), 'rpi_2')
        self.assertEqual(len(self.warnings), 1)
        self.assertEqual(self.bases('CONFIG_EMPTY=y', 'CONFIG_CRC=y'), '')
        self.assertEqual(self.warnings, [
            "WARNING: configs/x.buildman:1: no board is all that 'e' asks for"])
        # Where only some boards were looked at, that says nothing
        self.assertEqual(extend(['name: e', 'targets:', '  CONFIG_NIX=y'], whole=False), ([], []))

    def test_order(self) -> None:
        """By entry, then as the boards are"""
        found, _ = extend(['name: z', 'targets:', '  CONFIG_CRC=y', 'name: a', 'targets:',
                           '  rpi_4_*', '  rpi_def*'])
        self.assertEqual([board.target for board in found],
                         ['z,rpi_2', 'z,qemu_arm', 'a,rpi', 'a,rpi_4'])

    def test_twice(self) -> None:
        """Two entries of a name can share it, but not a board: it has one result"""
        lines = ['name: e', 'fragment: one', 'targets:', '  rpi_2_*',
                 'name: e', 'fragment: two', 'targets:']
        found, _ = extend([*lines, '  rpi_4_*'])
        self.assertEqual([(board.target, board.fragments) for board in found],
                         [('e,rpi_2', ('one.config',)), ('e,rpi_4', ('two.config',))])
        with self.assertRaisesRegex(BoardError, r"^configs/x.buildman:5: board 'e,rpi_2' is there "
                                                r'twice, the first from configs/x.buildman:1;'):
            extend([*lines, '  rpi_?_*'])

    def test_without_kconfig(self) -> None:
        """A tree that cannot be evaluated has no boards of which a setting is asked"""
        entries = [Entry(Board('rpi', 'arm'), '')]
        with self.assertRaisesRegex(BoardError, r'^configs/x.buildman:3: CONFIG_A needs Kconfig'):
            Extensions(read('name: e', 'targets:', '  CONFIG_A=n'), []).apply(entries, None)
        found, _ = Extensions(read('name: e', 'targets:', '  rpi_*'),
                              ['rpi_defconfig']).apply(entries, None)
        self.assertEqual(len(found), 1)


class NamesTest(unittest.TestCase):
    """--boards: a comma is part of a name, and between names."""

    def setUp(self) -> None:
        self.extensions = Extensions(read('name: e', 'name: rpi'), [
            f'{name}_defconfig' for name in CONFIGS])
        entries = [Entry(Board(name, 'arm'), '') for name in CONFIGS]
        self.list, _ = select.BoardList(entries, settings={}).extended(self.extensions)

    def selected(self, *words: str) -> str:
        selection = self.list.select(names=words)
        return ' '.join([*(board.target for board in selection.boards), *selection.warnings])

    def test_names(self) -> None:
        """The name of an entry and what follows it are one board"""
        for words, want in (
                (('rpi_4,rpi_2',), 'rpi_2 rpi_4'),
                (('e,rpi_2',), 'e,rpi_2'),
                (('rpi_4, e, rpi_2 ,e,qemu_arm,qemu_arm',), 'rpi_4 qemu_arm e,rpi_2 e,qemu_arm'),
                (('e,rpi_2', 'rpi_2'), 'rpi_2 e,rpi_2'),
                # Of two flags each is by itself
                (('e', 'rpi_2'), 'rpi_2 Boards not found: e'),
                (('e,nix',), 'Boards not found: e,nix'),
                # There is a board of that name: as without -X
                (('rpi,rpi_2',), 'rpi rpi_2')):
            with self.subTest(words=words):
                self.assertEqual(self.selected(*words), want)

    def test_terms(self) -> None:
        """Terms are matched with the whole name, -x too"""
        def targets(*terms: str, exclude: str = '') -> List[str]:
            return [board.target for board in self.list.select(terms, [exclude]).boards]

        self.assertEqual(targets('rpi,rpi_2$'), ['rpi,rpi_2'])
        self.assertEqual(targets('e, & .*qemu'), ['e,qemu_arm'])
        self.assertEqual(targets(exclude='e.rpi,rpi.rpi'),
                         [*CONFIGS, 'e,qemu_arm', 'rpi,qemu_arm'])

    def test_bases(self) -> None:
        """Only the boards that are extended have to be looked for"""
        self.assertEqual(select.exact_names([], ['e,rpi_2,rpi_4', 'rpi_2'], self.extensions),
                         ['rpi_2', 'rpi_4'])
        self.assertEqual(select.exact_names([], ['e,rpi_2']), ['e', 'rpi_2'])
        self.assertIsNone(select.exact_names(['x'], ['e,rpi_2'], self.extensions))


class TreeTest(test_scan.KconfigCase):
    """With a real tree and kconfiglib: what is read, and when."""

    def extended(self, wanted: Sequence[str] = ()) -> str:
        extensions = boards_extend.read_extensions(self.src)
        found, self.warnings = select.load(
            self.src, self.cache, wanted or None, symbols=extensions.symbols)
        self.kept = found.kept
        found, _ = found.extended(extensions, not wanted)
        return ' '.join(board.target for board in found.boards if board.base)

    def test_no_files(self) -> None:
        """A tree may have none"""
        self.assertEqual(self.extended(), '')

    def test_sets(self) -> None:
        """Values that a board gets by default, or loses by a dependency, count as well"""
        self.write('configs/b.buildman', 'name: cpu\ntargets:\n CONFIG_SYS_CPU="armv8"\n'
                   'name: off\ntargets:\n CONFIG_ARM64=n\n CONFIG_SYS_CPU=y\n')
        self.write('configs/a.buildman', 'name: low\ntargets:\n CONFIG_ARCH_RV32I=n\n r*\n')
        # The choice takes what ARM64 depends on
        self.write('configs/x_defconfig', 'CONFIG_SANDBOX=y\nCONFIG_ARM64=y\n')
        self.assertEqual(self.extended(), 'low,r1 cpu,a2 off,a1')

    def test_compiler(self) -> None:
        """What depends on the compiler is as in a build: it is a gcc"""
        self.write('configs/c.buildman', 'name: cc\ntargets:\n CONFIG_CC_IS_GCC=y\n a*\n')
        self.assertEqual(self.extended(), 'cc,a2 cc,a1')

    def test_kept(self) -> None:
        """The values are kept with boards.cfg, which says nothing of them"""
        select.load(self.src, self.cache)
        with open(self.cache, encoding='utf-8') as inf:
            text = inf.read()
        self.write('configs/b.buildman', 'name: e\ntargets:\n CONFIG_ARM64=y\n')
        runs = []
        for _ in range(2):
            self.assertEqual(self.extended(), 'e,a2')
            runs.append((self.kept, self.warnings))
        self.assertEqual(runs, [(False, []), (True, [])])
        # Without -X, and for a named board, it is the same list
        self.assertTrue(select.load(self.src, self.cache)[0].kept)
        self.assertEqual((self.extended(['a1', 'a2']), self.kept), ('e,a2', True))
        # Another file with the same symbols needs no scan, other symbols do; none is lost
        self.write('configs/c.buildman', 'name: f\ntargets:\n CONFIG_ARM64=n\n a*\n')
        self.assertEqual((self.extended(), self.kept), ('e,a2 f,a1', True))
        self.write('configs/c.buildman', 'name: f\ntargets:\n CONFIG_SYS_SOC="sone"\n')
        self.assertEqual((self.extended(), self.kept), ('e,a2 f,a1', False))
        os.unlink(os.path.join(self.src, 'configs/b.buildman'))
        self.assertEqual((self.extended(), self.kept), ('f,a1', True))
        self.write('configs/b.buildman', 'name: e\ntargets:\n CONFIG_ARM64=y\n')
        self.assertEqual((self.extended(), self.kept), ('e,a2 f,a1', True))
        with open(self.cache, encoding='utf-8') as inf:
            self.assertEqual(inf.read(), text)
        # What is kept ends with the content that it is of
        self.write('configs/a1_defconfig', 'CONFIG_ARM=y\nCONFIG_ARM64=y\n')
        self.assertEqual((self.extended(), self.kept), ('e,a1 e,a2', False))

    def test_named(self) -> None:
        """A named board does not wait for all others, nor is that kept as all"""
        self.write('configs/bad_defconfig', 'rubbish\n')
        self.write('configs/b.buildman', 'name: e\ntargets:\n CONFIG_ARM64=y\n')
        self.assertEqual(self.extended(['a1', 'a2']), 'e,a2')
        self.assertFalse(os.path.exists(self.cache))

    def test_unreadable(self) -> None:
        """What is no text is told, with its name"""
        path = self.write('configs/b.buildman', '')
        with open(path, 'wb') as outf:
            outf.write(b'name: \xff\n')
        with self.assertRaisesRegex(BoardError, '^configs/b.buildman: not a text file'):
            self.extended()
        os.unlink(path)
        os.mkdir(path)
        with self.assertRaisesRegex(BoardError, '^configs/b.buildman: cannot be read: Is a dir'):
            self.extended()
