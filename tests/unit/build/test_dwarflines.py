# SPDX-License-Identifier: GPL-2.0+
"""Line tables of objects that real compilers have made."""

from __future__ import annotations

import os
import platform
import random
import re
import shutil
import subprocess
import tempfile
import unittest
from typing import ClassVar, Dict, List, Set

import support
from support import TESTS

from buildman.build import dwarflines
from buildman.results import reader

SOURCES = {
    # The first function is not from the main file: where a table begins
    'src/a.c': '#include "b.h"\nint f(int x)\n{\n\treturn g(x) + 1;\n}\n',
    'inc/b.h': 'static int g(int y)\n{\n\tif (y > 3)\n\t\treturn y * 7;\n\treturn 2;\n}\n',
    'src/a.h': 'static int g(int y)\n{\n\treturn y;\n}\n',
    'src/k.S': '#define M nop; \\\n nop\n\t.text\nk:\n\tM\n\tM\n',
}
# Without optimisation each line of code is in the table
EXPECTED = {'src/a.c': {3, 4, 5}, 'inc/b.h': {2, 3, 4, 5, 6}}

# Compilers for other byte orders, word sizes and ways to relocate
CROSS = ('arm-linux-gnueabihf-gcc', 'aarch64-linux-gnu-gcc', 'riscv64-linux-gnu-gcc',
         'm68k-linux-gnu-gcc', 'powerpc-linux-gnu-gcc', 'mips-linux-gnu-gcc', 'sh4-linux-gnu-gcc')


class DwarfTest(unittest.TestCase):
    """Small sources, compiled in a build folder beside them as U-Boot's are"""

    top: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        support.needs('gcc', 'ld', 'readelf', 'strip')
        cls.top = tempfile.mkdtemp(prefix='buildman-test-')
        cls.addClassCleanup(shutil.rmtree, cls.top, ignore_errors=True)
        os.makedirs(os.path.join(cls.top, 'build'))
        for name, text in SOURCES.items():
            path = os.path.join(cls.top, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(text)

    def tool(self, *argv: str) -> str:
        """Run a program in the build folder; return what it prints"""
        return subprocess.run(argv, cwd=os.path.join(self.top, 'build'), check=True,
                              stdout=subprocess.PIPE, encoding='utf-8').stdout

    def compile(self, *words: str, source: str = '../src/a.c', compiler: str = 'gcc') -> bytes:
        """Return the object that a source becomes"""
        self.tool(*compiler.split(), '-I../inc', '-c', '-o', 'x.o', source, *words)
        return self.object('x.o')

    def object(self, name: str) -> bytes:
        """Return a file of the build folder"""
        with open(os.path.join(self.top, 'build', name), 'rb') as inf:
            return inf.read()

    def read(self, data: bytes) -> Dict[str, Set[int]]:
        """Return the lines of an object, by names below the top folder"""
        found: Dict[str, Set[int]] = {}
        for name, lines in dwarflines.read_object(data).items():
            path = os.path.normpath(os.path.join(self.top, 'build', name))
            found.setdefault(os.path.relpath(path, self.top), set()).update(lines)
        return found

    def test_versions(self) -> None:
        """Each version of DWARF, with sections packed, and a sequence a function"""
        for version in (2, 3, 4, 5):
            for words in ((), ('-gz',), ('-ffunction-sections',), ('-gdwarf64',)):
                with self.subTest(version=version, words=words):
                    self.assertEqual(EXPECTED, self.read(self.compile(
                        '-g', f'-gdwarf-{version}', *words)))

    def test_full_path(self) -> None:
        """A source that is named by its full path, as in a build with O=/path"""
        for version in (4, 5):
            self.assertEqual(EXPECTED, self.read(self.compile(
                f'-gdwarf-{version}', source=os.path.join(self.top, 'src/a.c'))))

    def test_other_machines(self) -> None:
        """Other byte orders and word sizes, as far as there are compilers"""
        compilers = [name for name in CROSS if shutil.which(name)]
        if platform.machine() == 'x86_64':
            compilers.append('gcc -m32')
        for compiler in compilers:
            for version in (4, 5):
                with self.subTest(compiler=compiler, version=version):
                    self.assertEqual(EXPECTED, self.read(self.compile(
                        f'-gdwarf-{version}', compiler=compiler)))

    def test_assembler(self) -> None:
        """A line of an assembler source counts, however much a macro makes of it"""
        for version in (4, 5):
            self.assertEqual({'src/k.S': {5, 6}}, self.read(self.compile(
                f'-gdwarf-{version}', source='../src/k.S')))

    def test_joined(self) -> None:
        """What ld -r joins has a table for each of its parts"""
        for version in (4, 5):
            self.compile(f'-gdwarf-{version}')
            self.tool('cp', 'x.o', 'a.o')
            self.compile(f'-gdwarf-{version}', source='../src/k.S')
            self.tool('ld', '-r', '-z', 'noexecstack', '-o', 'both.o', 'a.o', 'x.o')
            self.assertEqual({**EXPECTED, 'src/k.S': {5, 6}}, self.read(self.object('both.o')))

    def test_without(self) -> None:
        """No tables, no lines; what is no object is told from that"""
        self.assertEqual({}, self.read(self.compile('-g0')))
        self.compile('-g')
        self.tool('strip', 'x.o')
        self.assertEqual({}, self.read(self.object('x.o')))
        for data in (b'', b'!<thin>\n', b'\x7fELF', b'BC\xc0\xde' * 20):
            with self.assertRaises(dwarflines.Damaged):
                dwarflines.read_object(data)

    def test_as_readelf(self) -> None:
        """Optimised code of a larger source: what readelf's long form says, and all of that"""
        source = os.path.join(TESTS, 'full_disk.c')
        data = self.compile('-O2', '-gdwarf-4', '-ffunction-sections', '-DFOLDER="/x"',
                            '-DWHEN=""', '-DERROR=ENOSPC', source=source)
        want = raw_lines(self.tool('readelf', '-W', '--debug-dump=rawline', 'x.o'))
        self.assertEqual(want, {os.path.basename(name): lines
                                for name, lines in dwarflines.read_object(data).items()})
        self.assertGreater(len(want['full_disk.c']), 20)

    def test_damaged(self) -> None:
        """A damaged object is told to be one, or gives something; it raises nothing else"""
        rnd = random.Random(12)
        for version in (3, 5):
            data = self.compile(f'-gdwarf-{version}', '-O1')
            bad = 0
            for _ in range(1500):
                try:
                    for lines in dwarflines.read_object(support.damage(rnd, data)).values():
                        self.assertTrue(all(0 < number <= dwarflines.MAX_LINE
                                            for number in lines))
                except dwarflines.Damaged:
                    bad += 1
            self.assertGreater(bad, 10)


def raw_lines(text: str) -> Dict[str, Set[int]]:
    """Return the lines that the program of a table (before version 5) makes, by plain names."""
    files: List[str] = ['']
    found: Dict[str, Set[int]] = {}
    current, line = 1, 1
    for row in text.splitlines():
        entry = re.match(r'  (\d+)\t\d+\t\d+\t\d+\t(.*)', row)
        step = re.search(r'(Special opcode \d+: .* and Line|Advance Line) by -?\d+ to (\d+)', row)
        if entry:
            files.append(entry.group(2))
        elif step or re.search(r'\]  Copy', row):
            line = int(step.group(2)) if step else line
            if not step or step.group(1)[0] == 'S':
                found.setdefault(files[current], set()).add(line)
        elif 'Set File Name to entry' in row:
            current = int(row.split('entry ')[1].split()[0])
        elif 'End of Sequence' in row:
            current, line = 1, 1
    return found


MAIN = '''#include "asm/arch/pins.h"
#include "made.h"
int main_line(int x)
{
	return pins(x) + made(x);
}
'''
HEADER = 'static inline int pins(int x)\n{\n\treturn x + 1;\n}\n'
MADE = 'static inline int made(int x)\n{\n\treturn x + 2;\n}\n'

WANT = b'arch/arm/include/asm/arch-soc/pins.h: 2-4\ncommon/main.c: 4-6\n'


class FootprintTest(unittest.TestCase):
    """A source, with a build folder below or elsewhere, and real objects"""

    def setUp(self) -> None:
        support.needs('gcc')
        self.top = os.path.realpath(tempfile.mkdtemp(prefix='buildman-test-'))
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        self.source = os.path.join(self.top, 'source')
        self.write('source/common/main.c', MAIN)
        self.write('source/arch/arm/include/asm/arch-soc/pins.h', HEADER)

    def write(self, name: str, text: str) -> None:
        """Write a file"""
        path = os.path.join(self.top, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)

    def build_folder(self, name: str) -> str:
        """Return a build folder as U-Boot's: a link to headers, and one that is made"""
        build = os.path.join(self.top, name)
        self.write(f'{name}/include/made.h', MADE)
        os.makedirs(os.path.join(build, 'include', 'asm'))
        os.symlink(os.path.join(self.source, 'arch/arm/include/asm/arch-soc'),
                   os.path.join(build, 'include', 'asm', 'arch'))
        return build

    def compile(self, build: str, source: str, out: str, *words: str) -> None:
        """Compile in the build folder"""
        os.makedirs(os.path.join(build, os.path.dirname(out)), exist_ok=True)
        subprocess.run(['gcc', '-gdwarf-4', '-Iinclude', '-c', '-o', out, source, *words],
                       cwd=build, check=True)

    def scan(self, build: str) -> bytes:
        """Return what the file is to hold"""
        return dwarflines.scan(build, self.source, ('spl', 'tpl'))

    def test_ways(self) -> None:
        """../ from below the source, full paths, folders that are hidden, DWARF 4 and 5"""
        below, beside = self.build_folder('source/build'), self.build_folder('elsewhere')
        for build in (below, beside):
            maps = [f'-fdebug-prefix-map={self.source}=.', f'-fdebug-prefix-map={build}=./build']
            full = os.path.join(self.source, 'common/main.c')
            for source in (os.path.relpath(full, build), full):
                for words in ([], maps, ['-gdwarf-5'], ['-gdwarf-5', *maps]):
                    with self.subTest(build=build, source=source, words=words):
                        self.compile(build, source, 'common/main.o', *words)
                        self.assertEqual(WANT, self.scan(build))

    def test_in_source(self) -> None:
        """-i: what is made is a source as any other"""
        self.source = self.build_folder('tree')
        self.write('tree/common/main.c', MAIN)
        self.write('tree/.bm-work/00/common/main.c', MAIN)
        self.compile(self.source, 'common/main.c', 'common/main.o')
        # A slot of another build, if the output folder is in the source
        self.compile(self.source, '.bm-work/00/common/main.c', '.bm-work/00/common/main.o')
        self.assertEqual(b'common/main.c: 4-6\ninclude/made.h: 2-4\n', self.scan(self.source))

    def test_phases(self) -> None:
        """Objects below spl/ have keys of their own, and joined ones count once"""
        build = self.build_folder('build')
        main = os.path.join(self.source, 'common/main.c')
        self.compile(build, main, 'spl/common/main.o')
        self.compile(build, main, 'common/built-in.o')
        self.compile(build, main, 'splash/main.o', '-g0')
        self.write('build/common/text.o', 'no object')
        self.write('build/common/empty.o', '')
        self.assertEqual(b''.join(b'spl:' + line for line in WANT.splitlines(True)),
                         self.scan(build))

    def test_nothing(self) -> None:
        """No object, no lines"""
        self.assertEqual(b'', self.scan(self.build_folder('build')))

    def test_odd_names(self) -> None:
        """What is outside of the source or not there is left out; bytes in names stay"""
        build = self.build_folder('build')
        self.write('outside.c', 'int x(void)\n{\n\treturn 1;\n}\n')
        self.write('source/#line.c', '#line 5 "../source/gone.c"\nint y(void)\n{\n'
                   '\treturn 1;\n}\n')
        self.write('source/böse 2.c', 'int z(void)\n{\n\treturn 1;\n}\n')
        for number, name in enumerate(('../outside.c', '../source/#line.c', '../source/böse 2.c')):
            self.compile(build, name, f'x{number}.o')
        self.assertEqual('böse 2.c: 2-4\n'.encode(), self.scan(build))


class FormatTest(unittest.TestCase):
    """How numbers are written and read"""

    def test_numbers(self) -> None:
        """Ranges of two and more, single ones, none"""
        for numbers, text in (((), ''), ((7,), '7'), ((2, 1), '1-2'),
                              ((22, 18, 20, 23), '18,20,22-23'),
                              ((1, 2, 3, 9, 11, 12), '1-3,9,11-12')):
            self.assertEqual(text, dwarflines.format_numbers(numbers))
            self.assertEqual(set(numbers), reader.parse_numbers(text))

    def test_bad(self) -> None:
        """Lines that make no sense are left out and told; no number is too much for memory"""
        raw = (b'a.c: 1-3,7\njunk\nb.c: 1, 2\nc.c: 0\nd.c: 1-\n: 4\ne.c: 1-99999999999\n'
               b'spl:x: y.c: 5\nf.c:\nb\xf6.c: 2\n')
        self.assertEqual(({'a.c': '1-3,7', 'spl:x: y.c': '5', 'b\udcf6.c': '2'}, False),
                         reader.parse_lines(raw))
        self.assertEqual(({'a.c': '1'}, True), reader.parse_lines(b'a.c: 1\n'))
        for text in ('3-2', '1-9999999', '2000000'):
            with self.assertRaises(ValueError):
                reader.parse_numbers(text)
