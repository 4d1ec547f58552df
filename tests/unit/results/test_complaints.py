# SPDX-License-Identifier: GPL-2.0+
"""What tools complain of, taken apart, and what of it is new."""

from __future__ import annotations

import random
import unittest
from typing import Dict, List, Optional, Tuple

from buildman.core.plan import Board, Commit
from buildman.results.complaints import Complaint, Past, parse
from buildman.results.reader import ERROR, OK, UNKNOWN, WARNING
from buildman.results.summary import BoardFacts, CommitSummary, Differ

GCC = """\
In file included from include/a.h:3,
                 from drivers/x.c:12:
drivers/x.c: In function 'probe':
drivers/x.c:21:13: warning: unused variable 'y' [-Wunused-variable]
   21 |         int y;
      |             ^
drivers/x.c:5:1: note: declared here
"""
BROKEN = """\
drivers/x.c:21:13: error: 'y' undeclared (first use in this function)
drivers/x.c:30:1: warning: control reaches end of non-void function [-Wreturn-type]
cc1: all warnings being treated as errors
make[2]: *** [scripts/Makefile.build:256: drivers/x.o] Error 1
make: *** [Makefile:177: sub-make] Error 2
"""

BOARDS = tuple(Board(name, 'arm') for name in ('snow', 'seaboard', 'malta'))


def summary(differ: Differ, upto: int, *boards: Tuple[int, str],
            commit: Optional[Commit] = None) -> CommitSummary:
    """Return a commit of which each board has a status and an `err`."""
    facts = BoardFacts(statuses=bytes(status for status, _ in boards),
                       stderr={num: text for num, (_, text) in enumerate(boards) if text})
    return differ.advance(upto, commit or Commit(f'{upto:040x}', f'Commit {upto}'), facts)


class ParseTest(unittest.TestCase):
    """One complaint at a time, with its place."""

    def places(self, text: str, failed: bool = False) -> List[Tuple[bool, str, int, str, str]]:
        return [(item.error, item.file, item.line, item.check, item.text)
                for item in parse(text, failed)]

    def test_gcc(self) -> None:
        """A complaint of many lines is one, with all of them"""
        (item,) = parse(GCC, False)
        self.assertEqual((item.error, item.file, item.line, item.check, item.text),
                         (False, 'drivers/x.c', 21, 'unused-variable', "unused variable 'y'"))
        self.assertEqual(item.said, GCC.rstrip('\n'))
        said = 'Traceback (most recent call last):\n  File "a.py"\nKeyError: 1'
        self.assertEqual(parse(said, True)[0].said, said)
        # Twice the same, of two phases, is one
        self.assertEqual(parse(GCC + GCC, False), (item,))

    def test_failed(self) -> None:
        """What follows from an error is no complaint of its own"""
        self.assertEqual(self.places(BROKEN, True), [
            (True, 'drivers/x.c', 21, 'error', "'y' undeclared (first use in this function)")])

    def test_in_between(self) -> None:
        """What another job said within a box is not of the box"""
        self.assertEqual(self.places('=== WARNING ===\nUse DM.\nx.c:2:1: error: bad\n===\n', True),
                         [(True, 'x.c', 2, 'error', 'bad'), (False, '', 0, 'box', 'Use DM.')])

    def test_tools(self) -> None:
        """What each tool says, and where"""
        for text, failed, want in (
                ('a.S: Assembler messages:\na.S:7: Error: bad opcode\n', True,
                 (True, 'a.S', 7, 'error', 'bad opcode')),
                ('dts/x.dts:8.3-10.4: Warning (reg): /soc: none\n', False,
                 (False, 'dts/x.dts', 8, 'reg', '/soc: none')),
                ('dts/x.dtb: Warning (reg): /soc: none\n', False,
                 (False, 'dts/x.dtb', 0, 'reg', '/soc: none')),
                ('Error: dts/x.dts:8.3-9 syntax error\nFATAL ERROR: Unable to parse input tree\n',
                 True, (True, 'dts/x.dts', 8, 'error', 'syntax error')),
                ('configs/x_defconfig:12:warning: override: reassigning to symbol X\n', False,
                 (False, 'configs/x_defconfig', 12, 'warning',
                  'override: reassigning to symbol X')),
                ("arm-none-ld.bfd: drivers/x.o: in function `f':\n"
                 "drivers/x.c:12: undefined reference to `g'\n", True,
                 (True, 'drivers/x.c', 12, 'linker', "undefined reference to `g'")),
                ("ld.bfd: drivers/x.o: in function `f':\n"
                 "x.c:(.text.f+0x4): undefined reference to `g'\n", True,
                 (True, 'drivers/x.o', 0, 'linker', "undefined reference to `g'")),
                ('/opt/gcc/bin/ld: u-boot section `.text` will not fit in region `.sram`\n', True,
                 (True, '', 0, 'linker', 'u-boot section `.text` will not fit in region `.sram`')),
                ('make[1]: *** [scripts/Makefile:3: spl/drivers/x.o] Error 1\n', True,
                 (True, 'spl/drivers/x.o', 0, 'build',
                  '[scripts/Makefile:3: spl/drivers/x.o] Error 1')),
                ("make[1]: *** No rule to make target 'a', needed by 'b'.  Stop.\n", True,
                 (True, '', 0, 'build', "No rule to make target 'a', needed by 'b'.  Stop.")),
                ('lib/Makefile:7: *** missing separator.  Stop.\n', True,
                 (True, 'lib/Makefile', 7, 'build', 'missing separator.  Stop.')),
                ('tools/x.py:3: SyntaxWarning: invalid escape\n', False,
                 (False, 'tools/x.py', 3, 'build', 'SyntaxWarning: invalid escape')),
                ("Kconfig:5: 'endmenu' in different file\n", True,
                 (True, 'Kconfig', 5, 'build', "'endmenu' in different file")),
                ('Lexical error: dts/x.dts:8.3-9 Unexpected Y\n', True,
                 (True, 'dts/x.dts', 8, 'lexical error', 'Unexpected Y')),
                ('Traceback (most recent call last):\n  File "a.py", line 1\n    f()\n'
                 "KeyError: 'x'\n", True, (True, '', 0, 'python', "KeyError: 'x'")),
                ('=== WARNING ===\nUse DM.\nSee doc.\n======\n', False,
                 (False, '', 0, 'box', 'Use DM. See doc.')),
                ('=== WARNING ===\n', False, (False, '', 0, 'build', '=== WARNING ===')),
                ('In file included from a.h:3:\n', False,
                 (False, '', 0, 'build', 'In file included from a.h:3:')),
                ('', True, (True, '', 0, 'build', 'make failed and said nothing')),
                ("Image 'rom' is missing external blobs and is non-functional: me\n\n"
                 '/binman/rom/me (me.bin):\n   Missing blob\n\nSome images are invalid\n', False,
                 (False, '', 0, 'missing-blob',
                  "Image 'rom' is missing external blobs and is non-functional: me"))):
            with self.subTest(text=text):
                self.assertEqual(self.places(text, failed), [want])

    def test_nothing_lost(self) -> None:
        """Whatever is said in whatever order: something is told, and each error of a failure"""
        rand = random.Random(1)
        lines = [line for text in (GCC, BROKEN) for line in text.splitlines()] + [
            '', '===', ' ', '***', '=== WARNING ===', 'Traceback (most recent call last):',
            "ld: a.o: in function `f':", "ld: a.o: in function `f': undefined reference to `g'",
            "a.c:(.text+0x1): undefined reference to `g'", 'a.dtb: Warning (x): y', 'odd',
            'Some images are invalid', "Image 'rom' is missing external blobs", '   help']
        for num in range(400):
            some = [rand.choice(lines) for _ in range(rand.randrange(8))]
            found = parse('\n'.join(some), num % 2 > 0)
            self.assertTrue(found, some)
            said = '\n'.join(item.said for item in found if item.error)
            if num % 2:
                self.assertTrue(said, some)
            for line in some if num % 2 else ():
                if ' error: ' in line or 'undefined' in line:
                    self.assertIn(line, said, some)

    def test_harm(self) -> None:
        """No line takes long, whatever is in it: this ends"""
        for part in ('a.', 'a/', '/', 'ld', ': ', 'a:1:', '1.', '= A', '=', '[', '(',
                     'make: *** ['):
            for text in (part * 5000 + 'x', part * 5000 + ': ', 'x:1.' + part * 5000):
                self.assertTrue([item.key for item in parse(text, True)])

    def test_blobs_fail(self) -> None:
        """A board that fails for want of blobs has an error all the same"""
        self.assertEqual([item.error for item in parse(
            "Image 'rom' is missing external blobs and is non-functional: me\n"
            'Some images are invalid\nmake: *** [Makefile:7: x] Error 1\n', True)], [True])

    def test_key(self) -> None:
        """The same complaint is known again, whatever line, machine, language it is in"""
        def key(text: str) -> str:
            return parse(text, True)[0].key
        self.assertEqual(key(BROKEN), key(BROKEN.replace('21:13', '40:2').replace(
            "'y'", '\u2018y\u2019')))
        self.assertEqual(key('x: cannot find /opt/a/gcc/crt.o at 0x10\n'),
                         key('x: cannot find /usr/lib/crt.o at 0x20\n'))
        self.assertNotEqual(key('x: no i2c0\n'), key('x: no i2c1\n'))

    def test_sources(self) -> None:
        """A file of the build leads to those of the source"""
        self.assertEqual(Complaint(True, 'spl/lib/x.o', 0, '').sources(),
                         ['spl/lib/x.o', 'lib/x.c', 'lib/x.S', 'lib/x.cpp'])

    def test_upstream(self) -> None:
        """A tree that upstream's buildman built says the same"""
        self.assertEqual(parse(GCC.replace('drivers/', '../drivers/'), False)[0].key,
                         parse(GCC, False)[0].key)


class PastTest(unittest.TestCase):
    """What is new against what was."""

    def news(self, *commits: Tuple[Tuple[int, str], ...]) -> Dict[int, List[int]]:
        """Return the lines of what is new at the last commit: board to lines"""
        past, differ = Past(), Differ(BOARDS)
        for upto, boards in enumerate(commits):
            one = summary(differ, upto, *boards)
            found = past.news(one)
            past.remember(one)
        return {num: [item.line for item in items] for num, items in found.items()}

    def test_moved(self) -> None:
        """A line that moved is not new; one more of the same is, and it is that one"""
        moved = GCC.replace(':21:', ':40:')
        self.assertEqual(self.news(((WARNING, GCC),), ((WARNING, moved),)), {})
        self.assertEqual(self.news(((WARNING, GCC),), ((WARNING, moved + GCC),)), {0: [40]})
        other = moved.replace('probe', 'remove')
        self.assertEqual(self.news(((WARNING, GCC),), (
            (WARNING, other + GCC.replace(':21:', ':22:')),)), {0: [40]})

    def test_failing(self) -> None:
        """What failed before is not new; other errors of it are; so is what starts to fail"""
        other = 'b.c:3:1: error: bad\n'
        self.assertEqual(self.news(((ERROR, BROKEN),), ((ERROR, BROKEN),)), {})
        self.assertEqual(self.news(((ERROR, BROKEN),), ((ERROR, BROKEN + other),)), {0: [3]})
        # The same line was a warning of a tool before
        self.assertEqual(self.news(((WARNING, 'x: odd\n'),), ((ERROR, 'x: odd\n'),)), {0: [0]})
        # What was mended and comes back is new again
        self.assertEqual(self.news(((WARNING, GCC),), ((OK, ''),), ((WARNING, GCC),)), {0: [21]})
        # An error that other boards have is new for this one
        self.assertEqual(self.news(((ERROR, BROKEN), (OK, '')),
                                   ((ERROR, BROKEN), (ERROR, BROKEN))), {1: [21]})

    def test_hidden(self) -> None:
        """What a failure, or a missing result, hid is not new afterwards"""
        self.assertEqual(self.news(((WARNING, GCC),), ((ERROR, BROKEN),), ((WARNING, GCC),)), {})
        self.assertEqual(self.news(((WARNING, GCC),), ((UNKNOWN, ''),), ((WARNING, GCC),)), {})
        self.assertEqual(self.news(((WARNING, GCC), (ERROR, BROKEN)),
                                   ((WARNING, GCC), (WARNING, GCC))), {})
        # A board that said all is another thing
        self.assertEqual(self.news(((WARNING, GCC), (OK, '')),
                                   ((WARNING, GCC), (WARNING, GCC))), {1: [21]})


if __name__ == '__main__':
    unittest.main()
