# SPDX-License-Identifier: GPL-2.0+
"""--lines, --lines-code and --lines-debug, as a user types them, here and over machines."""

from __future__ import annotations

import glob
import os
import re
import unittest
from typing import Any, ClassVar, Dict

import dist_support
import support
from dist_support import read

from buildman.demo import sample
from buildman.results.lines import MAX_PAIRS, align

# The sample is built without -g, which takes time. Without optimisation it does not
# depend on the compiler's version which lines there are.
DEBUG = {'KCFLAGS': '-g -O0'}
BOARDS = ('--boards', 'sandbox,anvil')

INLINE = 'static inline int twice(int x)\n{\n\tx += x;\n\treturn x;\n}\n'


class LinesCase(dist_support.DistCase):
    """Two boards, one with SPL, and a branch that moves, adds, changes and breaks lines"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}
    built: ClassVar[str] = ''

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        path = 'common/main.c'
        text = read(cls.tree.path, path)
        text = f'/* moves all */\n{text}'
        sample.amend(cls.tree, path, text, 'Only a comment')
        sample.amend(cls.tree, 'include/twice.h', INLINE, 'A header that nobody reads')
        text = text.replace('#include <common.h>\n', '#include <common.h>\n#include <twice.h>\n', 1)
        text = text.replace('boot_count += board_init();',
                            'boot_count += twice(board_init());\n\tboot_delay = 3;')
        sample.amend(cls.tree, path, text, 'Use the header')
        sample.amend(cls.tree, path, text.replace('boot_delay = 3;', 'boot_delay = ;'), 'Break')
        sample.amend(cls.tree, path, text, 'Mend')
        cls.text = text

    text: ClassVar[str]

    def built_tree(self) -> str:
        """Return the output folder of a build of all, made once"""
        if not self.built:
            out = os.path.join(self.base, 'built')
            got = self.run_buildman('-b', 'feature', '-o', out, *BOARDS, '--lines', env=DEBUG)
            self.assertEqual(100, got.returncode, got)
            # Six commits and the base; the broken one leaves nothing
            self.assertRegex(got.stdout.splitlines()[-1],
                             r'^--lines: scanned 12 builds in \d+\.\d+s \(\d+\.\d\ds/build, '
                             r'summed across threads\)$')
            type(self).built = out
        return self.built

    def lines(self, out: str, upto: int, target: str) -> str:
        """Return the file `lines` of a result"""
        return read(glob.glob(os.path.join(out, 'feature', f'{upto + 1:02}_g*', target))[0],
                    'lines')

    def summary(self, *args: str) -> str:
        """Return what the summary shows"""
        got = self.run_buildman('-b', 'feature', '-o', self.built_tree(), *BOARDS, '-s', *args)
        self.assertEqual((0, ''), (got.returncode, got.stderr), got)
        return got.stdout


class TestLines(LinesCase):
    """One tree that is built once"""

    def numbers(self, words: str) -> int:
        """Return the number of the line of common/main.c that has these words, at the end"""
        return 1 + next(number for number, line in enumerate(self.text.splitlines())
                        if words in line)

    def test_file(self) -> None:
        """All sources that gave code, those of SPL apart; none of a build that failed"""
        out = self.built_tree()
        found = dict(re.findall('(.*): (.*)', self.lines(out, 6, 'anvil')))
        self.assertEqual({'board/acme/anvil/anvil.c', 'common/main.c', 'env/common.c',
                          'include/twice.h', 'spl:board/acme/anvil/anvil.c',
                          'spl:common/main.c', 'spl:include/twice.h'}, set(found))
        self.assertEqual('2-5', found['include/twice.h'])
        number = self.numbers('boot_delay = 3;')
        self.assertIn(str(number), re.split('[-,]', found['common/main.c']))
        folder = glob.glob(os.path.join(out, 'feature', '06_g*', 'anvil'))[0]
        self.assertEqual('2', read(folder, 'done'))
        self.assertNotIn('lines', os.listdir(folder))

    def test_commands(self) -> None:
        """Each commit is cleaned, configured and built without LTO"""
        for name in glob.glob(os.path.join(self.built_tree(), 'feature/*/anvil/out-cmd')):
            commands = read(name).splitlines()
            self.assertEqual(3, len(commands))
            self.assertIn('mrproper', commands[0])
            self.assertTrue(all('NO_LTO=1' in line for line in commands), commands)

    def test_summary(self) -> None:
        """What only moved is not told, what has no result to compare with neither"""
        parts = re.split(r'^\d\d: (.*)\n', self.summary('--lines', '-d'), flags=re.M)
        shown = dict(zip(parts[1::2], parts[2::2]))
        for subject in ('Only a comment', 'A header that nobody reads', 'Mend'):
            self.assertNotIn('lines', shown[subject])
        self.assertEqual(
            'anvil: +12 -2 lines, +2 -0 files\n'
            '    ~ common/main.c  +2 -1\n'
            '    + include/twice.h  +4 -0\n'
            '    ~ spl:common/main.c  +2 -1\n'
            '    + spl:include/twice.h  +4 -0\n'
            'sandbox: +6 -1 lines, +1 -0 files\n'
            '    ~ common/main.c  +2 -1\n'
            '    + include/twice.h  +4 -0\n', shown['Use the header'])
        plain = self.summary('--lines')
        self.assertEqual([line for line in self.summary('--lines', '-d').splitlines()
                          if not line.startswith('    ')], [
                              line for line in plain.splitlines() if not line.startswith('    ')])
        self.assertNotIn('twice.h', plain)
        self.assertNotIn('files', self.summary('-d'))

    def test_code(self) -> None:
        """--lines-code implies --lines and -d; numbers are of their commits"""
        shown = self.summary('--lines-code')
        number = self.numbers('boot_delay = 3;')
        self.assertIn(
            '    ~ common/main.c  +2 -1\n'
            f'        - {number - 2:4} \tboot_count += board_init();\n'
            f'        + {number - 1:4} \tboot_count += twice(board_init());\n'
            f'        + {number:4} \tboot_delay = 3;\n'
            '    + include/twice.h  +4 -0\n'
            '        +    2 {\n'
            '        +    3 \tx += x;\n'
            '        +    4 \treturn x;\n'
            '        +    5 }\n', shown)

    def test_beside_others(self) -> None:
        """--lines takes nothing away from other flags, and --step 0 compares the ends"""
        with_lines = self.summary('-e', '-S', '-B', '-K', '-U', '--lines')
        without = self.summary('-e', '-S', '-B', '-K', '-U')
        added = [line for line in with_lines.splitlines() if line not in without.splitlines()]
        self.assertTrue(added and all(re.match(r'\w+: \+\d|    [-+~] ', line) for line in added),
                        added)
        ends = self.summary('--lines', '--step', '0')
        self.assertIn('common/main.c', self.summary('--lines', '-d', '--step', '0'))
        self.assertEqual(2, len(re.findall(r'^\w+: \+', ends, re.M)))

    def test_shown_anywhere(self) -> None:
        """-g names the repository, and colours are those of growth"""
        got = self.terminal_buildman('-g', self.tree.path, '-b', 'feature', '-o',
                                     self.built_tree(), *BOARDS, '-s', '--lines-code', cwd='/')
        self.assertIn('anvil: \033[1;31m+12\033[0m \033[1;32m-2\033[0m lines, '
                      '\033[1;31m+2\033[0m \033[1;32m-0\033[0m files', got.stdout)
        self.assertIn('    \033[1;31m+ include/twice.h\033[0m  ', got.stdout)
        self.assertIn('\033[1;31m        +    3 \tx += x;\033[0m', got.stdout)

    def test_none(self) -> None:
        """A tree without: boards are left out. Without -b there is nothing before"""
        out = self.out()
        got = self.run_buildman('-b', 'feature', '-c', '2', '-o', out, '--boards', 'sandbox',
                                env=DEBUG)
        self.assertNotIn('--lines', got.stdout)
        got = self.run_buildman('-b', 'feature', '-c', '2', '-o', out, '--boards', 'sandbox',
                                '-s', '--lines-code')
        self.assertEqual((0, ''), (got.returncode, got.stderr))
        self.assertNotIn('lines', got.stdout)

    def test_damaged(self) -> None:
        """A line that makes no sense is told and left out; the others are shown"""
        out = self.out()
        self.run_buildman('-b', 'feature', '-c', '2', '-o', out, '--boards', 'sandbox', '--lines',
                          env=DEBUG)
        folders = sorted(glob.glob(os.path.join(out, 'feature', '0*_g*', 'sandbox')))
        for old, new, shown, bad in (
                ('x.c: 1\ny.c: 7\n', 'x.c: 1\n', '+0 -1 lines, +0 -1 files', False),
                ('x.c: 1\ny.c: 7\n', 'x.c: 1\njunk\n', '+0 -1 lines, +0 -1 files', True),
                ('x.c: 1\n', 'x.c: 5-3\n', '', True)):
            for folder, text in zip(folders, (old, new)):
                with open(os.path.join(folder, 'lines'), 'w', encoding='utf-8') as outf:
                    outf.write(text)
            got = self.run_buildman('-b', 'feature', '-c', '2', '-o', out, '--boards', 'sandbox',
                                    '-s', '--lines')
            self.assertEqual(0, got.returncode)
            self.assertEqual(shown, ''.join(re.findall('^sandbox: (.*)', got.stdout, re.M)))
            self.assertEqual(bad, 'is damaged' in got.stderr, got)
            self.assertNotIn('Traceback', got.stderr)


class TestOthers(LinesCase):
    """Other ways to build: each gives the same file"""

    def check(self, *args: str, path: str, target: str = 'anvil', status: int = 0) -> None:
        """Build with more flags; compare with what the plain build of the last commit gave"""
        got = self.run_buildman('-o', self.out(), '--boards', target, '--lines', *args, env=DEBUG)
        self.assertEqual(status, got.returncode, got)
        self.assertIn('--lines: scanned', got.stdout)
        want = self.lines(self.built_tree(), 6, target)
        self.assertEqual(want, read(glob.glob(self.out(path))[0]))

    def test_current_source(self) -> None:
        """Without -b"""
        self.check(path='out/current/anvil/lines')

    def test_folders(self) -> None:
        """-P (full paths), -w, -i, with -k and jobs: another folder, the same names"""
        for number, (words, path) in enumerate((
                (('-b', 'feature', '-c', '1', '-P', '-k', '-j1', '-T1'), 'feature/01_g*/anvil'),
                (('-w',), '.'), (('-b', 'feature', '-c', '1', '-i'), 'feature/01_g*/anvil'))):
            with self.subTest(words=words):
                self.tmp = os.path.join(self.base, f'way{number}')
                os.makedirs(self.tmp)
                self.check(*words, path=f'out/{path}/lines')

    def test_same_folder_twice(self) -> None:
        """Objects that another board or commit has left are not among them"""
        got = self.run_buildman('-b', 'feature', '-o', self.out(), *BOARDS, '-T1', '--lines',
                                env=DEBUG)
        self.assertEqual(100, got.returncode, got)
        for target in ('sandbox', 'anvil'):
            for upto in (0, 4, 6):
                self.assertEqual(self.lines(self.built_tree(), upto, target),
                                 self.lines(self.out(), upto, target))

    def test_machines(self) -> None:
        """The file of a machine is that of a local build, and machines tell how long it took"""
        self.built_tree()
        got = self.dist(*BOARDS, '--no-local', '--lines', env=DEBUG)
        self.assertEqual(100, got.returncode, got)
        self.assertRegex(got.stdout, r'(?m)^--lines: scanned 12 builds in ')
        # The sample does not heed what hides the slot's folder from debug information
        support.assert_same_tree(
            os.path.join(self.built_tree(), 'feature'), self.results(),
            ignore=(*dist_support.LOGS, 'u-boot.objdump', 'spl-u-boot-spl.objdump'))

    def test_config_only(self) -> None:
        """Nothing is compiled, and so there are no lines"""
        got = self.run_buildman('-o', self.out(), '--boards', 'anvil', '--lines', '--config-only',
                                env=DEBUG)
        self.assertEqual(0, got.returncode, got)
        self.assertEqual('', read(self.out('out/current/anvil/lines')))

    def test_debug(self) -> None:
        """--lines-debug sets an option, which the sample does not have"""
        got = self.run_buildman('-o', self.out(), '--boards', 'anvil', '--lines-debug', env=DEBUG)
        self.assertEqual(100, got.returncode, got)
        self.assertIn('CONFIG_CC_OPTIMIZE_FOR_DEBUG=y', read(self.out('out/current/anvil/err')))
        self.assertIn('mrproper', read(self.out('out/current/anvil/out-cmd')))


class TestAlign(unittest.TestCase):
    """Which lines two versions of a file have in common"""

    def test_moves(self) -> None:
        """Equal, shifted, changed, moved lines, and nothing"""
        for old, new, want in (
                ('abc', 'abc', {1: 1, 2: 2, 3: 3}), ('abc', 'xabc', {1: 2, 2: 3, 3: 4}),
                ('abc', 'axc', {1: 1, 3: 3}), ('abcdx', 'xabcd', {1: 2, 2: 3, 3: 4, 4: 5}),
                ('', 'a', {}), ('a', '', {}), ('', '', {})):
            self.assertEqual(want, align([char.encode() for char in old],
                                         [char.encode() for char in new]))

    def test_popular(self) -> None:
        """A line that is there often is aligned all the same"""
        old = [b'}'] * 300
        self.assertEqual({number: number + 1 for number in range(1, 301)},
                         align(old, [b'x', *old]))

    def test_large(self) -> None:
        """A file in which all is equal to all is cut to what differs"""
        old = [b'\t0x00,'] * 30000
        self.assertGreater(len(old) ** 2, MAX_PAIRS)
        new = [*old[:10000], b'x', *old[10000:]]
        same = align(old, new)
        self.assertEqual(30000, len(same))
        self.assertEqual((10000, 10002, 30001), (same[10000], same[10001], same[30000]))
