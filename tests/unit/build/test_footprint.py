# SPDX-License-Identifier: GPL-2.0+
"""The file `lines` of a build folder, whatever way the sources were named to compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import unittest

import support

from buildman.build import footprint
from buildman.results import reader

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
        return footprint.scan(build, self.source, ('spl', 'tpl'))

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
            self.assertEqual(text, footprint.format_numbers(numbers))
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
