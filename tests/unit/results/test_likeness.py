# SPDX-License-Identifier: GPL-2.0+
"""Builds that fail alike, and since when."""

from __future__ import annotations

import unittest
from typing import Dict, List, Tuple

from buildman.results.complaints import parse
from buildman.results.likeness import BLOBS, FAILED, WARNED, Likeness, headlines, likeness


class TestLines(unittest.TestCase):
    """What a line is told by."""

    def test_paths_and_numbers(self) -> None:
        """They make no difference; names of functions and options do"""
        for one, two in (
                ("drivers/net/a.c:12:3: error: no member 'x'", "b.c:7:1: error: no member 'x'"),
                ('region `.sram\' overflowed by 1232 B', 'region `.sram\' overflowed by 8 B'),
                ('/usr/bin/arm-ld.bfd: /tmp/ccA1.o: multiple definition of `f\'',
                 'ld.bfd: common/x.o: multiple definition of `f\''),
                ('bad address 0x80F0', 'bad address 0x12'),
                ('arch/arm/dts/a.dtb: Warning (reg): /soc', 'b.dtb: Warning (reg): /soc')):
            self.assertEqual(likeness(one), likeness(two))
        for one, two in (("error: 'x1' undeclared", "error: 'x2' undeclared"),
                         ('a.c:1:2: error: x', 'a.c:1:2: warning: x')):
            self.assertNotEqual(likeness(one), likeness(two))
        self.assertLess(len(likeness('a' * 1_000_000)), 1000)

    def test_headlines(self) -> None:
        """What failed comes first, with all that belongs to it"""
        error, warning = 'a.c:1:2: error: bad', 'b.c:1:2: warning: odd'
        self.assertEqual(
            [((FAILED, 'bad'), (error, f'a.c: In function f:\n{error}\n  1 | int x;')),
             ((WARNED, 'odd'), (warning, warning))],
            list(headlines(parse(f'{warning}\na.c: In function f:\n{error}\n  1 | int x;\n', True))
                 .items()))
        image = "Image 'u-boot.rom' is missing external blobs and is non-functional: b"
        self.assertEqual([(BLOBS, likeness(image))], list(headlines(parse(image, True))))
        many = ''.join(f"a.c:1:2: error: '{'x' * num}'\n" for num in range(1, 50))
        self.assertEqual(12, len(headlines(parse(many, True))))


class TestGroups(unittest.TestCase):
    """Groups over commits."""

    def gather(self, *commits: Dict[int, Tuple[str, ...]]) -> List[Tuple[str, List[int]]]:
        """Return the first line and the runs of each group, from what boards say"""
        found, was = Likeness(), ['', '', '', '']
        for lines in commits:
            now = ['\n'.join(lines.get(num, ())) for num in range(4)]
            found.advance({num: parse(now[num], True) if now[num] else () for num in range(4)
                           if was[num] != now[num]})
            was = now
        return [(group['lines'][0], group['runs']) for group in found.end()]

    def test_runs(self) -> None:
        """Each board has its own time; what began last comes first"""
        one, two = 'a.c:1:2: error: one', 'a.c:1:2: error: two'
        self.assertEqual(
            [(two, [3, 2, 2]), (one, [0, 0, 2, 1, 1, 1, 2, 0, 0, 2, 2, 2])],
            self.gather({0: (one,), 2: (one,)}, {0: (one,), 1: (one,)},
                        {0: (one,), 2: (one,), 3: (two,)}))

    def test_merged(self) -> None:
        """Lines that the very same builds have are one group, others are not"""
        many = tuple(f"a.c:1:2: error: '{chr(97 + num)}' undeclared" for num in range(5))
        self.assertEqual([(many[0], [0, 1, 1])], self.gather({}, {0: many}))
        self.assertEqual([(many[0], [0, 0, 0, 1, 0, 0]), (many[1], [0, 0, 0])],
                         self.gather({0: many[:2], 1: many[:1]}))

    def test_paths(self) -> None:
        """Boards that fail in other files are one group, which says so"""
        found = Likeness()
        found.advance({0: parse('a.c:1:2: error: x', True), 1: parse('d/b.c:3:4: error: x', True)})
        self.assertEqual([{'kind': FAILED, 'lines': ['d/b.c:3:4: error: x'], 'more': 0,
                           'said': ['d/b.c:3:4: error: x'], 'mixed': True,
                           'runs': [0, 0, 0, 1, 0, 0]}], found.end())
        self.assertEqual([], Likeness().end())


if __name__ == '__main__':
    unittest.main()
