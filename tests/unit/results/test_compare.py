# SPDX-License-Identifier: GPL-2.0+
"""The differences between two commits are the right ones.

Where they are not, a developer is told that the wrong commit broke a board, or
that a function grew which did not.
"""

from __future__ import annotations

import random
import unittest
from typing import Dict, List, Sequence, Set, Tuple

from buildman.core.plan import Board
from buildman.results import compare as sd
from buildman.results.reader import (
    ERROR,
    OK,
    UNKNOWN,
    WARNING,
    parse_config,
    parse_sizes,
    parse_symbols,
)
from buildman.results.summary import BoardFacts, CommitSummary, Differ

WARN = 'a.c:1:2: warning: unused'
FAIL = 'a.c:1:2: error: bad'
FUNC = "a.c: In function 'f':"
NOTE = 'a.c:1:2: note: this is the location of the previous definition'


class TestClassify(unittest.TestCase):
    """Errors and warnings."""

    def check(self, lines: Sequence[str], errors: Sequence[str],
              warnings: Sequence[str]) -> None:
        self.assertEqual(sd.classify(lines), (tuple(errors), tuple(warnings)), lines)

    def test_kinds(self) -> None:
        """A warning must not be shown as an error, or the other way round."""
        for line in (WARN, 'a b:1:2: warning: x', ':1:2: warning: x', 'x.dtb: Warning (y): z',
                     'a.c::2: warning: x'):
            self.check([line], [], [line])
        for line in (FAIL, 'a.c:1: warning: x', 'ld: warning: y', 'a.S:1: Warning: z', '',
                     'a.c:x:2: warning: x', 'x.dtb Warning (y)', 'a.c:1:2: note: in expansion'):
            self.check([line], [line], [])

    def test_context(self) -> None:
        """A line that says where goes with what is there, and not alone."""
        self.check([FUNC, WARN], [], [FUNC, WARN])
        self.check([FUNC, FAIL, WARN], [FUNC, FAIL], [WARN])
        self.check(['In file included from x.h:1,', FUNC, WARN], [], [FUNC, WARN])
        self.check([WARN, FUNC], [], [WARN])
        self.check([FUNC, WARN, FUNC, FAIL], [FUNC, FAIL], [FUNC, WARN])

    def test_note(self) -> None:
        """A note goes with the warning before it, and only with that."""
        self.check([WARN, NOTE], [], [WARN, NOTE])
        self.check([WARN, FUNC, NOTE], [], [WARN, FUNC, NOTE])
        self.check([FAIL, NOTE], [FAIL, NOTE], [])
        self.check([WARN, '', NOTE], ['', NOTE], [WARN])

    def test_once(self) -> None:
        """A line is told once, without the blanks at its end."""
        self.check([FAIL + '  ', FAIL, 'b'], [FAIL, 'b'], [])

    def test_blobs(self) -> None:
        """Missing binaries are expected, and must not hide real errors."""
        for line in ("Image 'x' is missing external blobs and is non-functional: y",
                     "Image 'x' has faked external blobs", 'Some images are invalid',
                     'has missing or faked external blobs', 'FAKED BLOBS'):
            self.assertTrue(sd.is_blob(line), line)
        for line in ('missing optional external blobs', 'blob missing', 'images are invalid',
                     'faked optional blobs'):
            self.assertFalse(sd.is_blob(line), line)

    def test_about_blobs(self) -> None:
        """All that binman says of blobs is known as such, and nothing else."""
        text = """\x1b[1;31mImage 'u-boot-sunxi-with-spl' is missing external blobs and is \
non-functional: atf-bl31
\x1b[0m
/binman/u-boot-sunxi-with-spl/fit/images/atf/atf-bl31 (bl31.bin):
   Please read the section on ARM Trusted Firmware (ATF) in
   board/sunxi/README.sunxi64

/binman/simple-bin/fit/images/@tee-SEQ/me (me.bin):
   Missing blob

Image 'main-section' has faked external blobs and is non-functional: bl31.bin scp.bin

Image 'x' is missing optional external blobs but is still functional: scp

Some images are invalid
make[1]: *** [Makefile:1135: .binman_stamp] Error 103
make[1]: *** Waiting for unfinished jobs....
make: *** [Makefile:177: sub-make] Error 2
"""
        lines = text.splitlines()
        self.assertTrue(all(sd.about_blobs(lines)), sd.about_blobs(lines))
        for more in ('make[2]: *** [scripts/Makefile.build:257: a.o] Error 1', WARN, FAIL,
                     '   12 |  int x', "Image 'x' has missing bintools and is non-functional: y",
                     '/usr/bin/ld: cannot find x'):
            for at in (0, len(lines)):
                flags = sd.about_blobs([*lines[:at], more, *lines[at:]])
                self.assertFalse(flags[at], (at, more))
        # Such an end is of blobs only where they are what it tells of
        self.assertEqual(sd.about_blobs(['', FAIL, lines[-1]]), [False] * 3)
        self.assertEqual(sd.about_blobs([]), [])

    def test_chatter(self) -> None:
        """What make says of its jobs is no error of a board, whoever wrote it down."""
        self.check([FAIL, 'make[1]: *** Waiting for unfinished jobs....',
                    '   make: *** Waiting for unfinished jobs.', '*** Waiting for unf',
                    'make[3]: *** wait: No child processes.  Stop.', 'b'], [FAIL, 'b'], [])


class TestDiffs(unittest.TestCase):
    """One board, two commits."""

    def test_sizes(self) -> None:
        """An image that comes or goes is not growth."""
        old, _ = parse_sizes(b'1000 200 300 0 0 u-boot 10\n10 2 3 0 0 spl/u-boot-spl 0\n')
        new, _ = parse_sizes(b'1000 204 300 0 0 u-boot 20\n11 2 3 0 0 spl/u-boot-spl 0\n'
                             b'9 9 9 9 9 tpl/u-boot-tpl 0\n')
        self.assertEqual(sd.diff_sizes(old, new), {
            'all': 4, 'data': 4, 'text': -16, 'rodata': 16,
            'spl/u-boot-spl:all': 1, 'spl/u-boot-spl:text': 1})
        self.assertEqual(sd.diff_sizes(new, new), {})

    def test_functions(self) -> None:
        """Largest growth first; what is new has no size before."""
        rows, clean = sd.diff_functions(b'00000010 T f\n00000020 T g\n00000004 t x.1\n',
                                        b'00000012 T f\n00000003 t x.2\n00000002 T new\n')
        self.assertTrue(clean)
        self.assertEqual(rows, [('new', None, 2), ('f', 16, 18), ('static.x', 4, 3),
                                ('g', 32, None)])

    @staticmethod
    def random_symbols(rng: random.Random) -> List[bytes]:
        return [b'%08x %s %s\n' % (
            rng.randrange(1, 6), rng.choice((b't', b'T', b'r', b'R', b'W')),
            rng.choice((b'f%d', b'f%d', b'g.%d', b'f1.part.%d', b'.L%d', b'static.%d'))
            % rng.randrange(4)) for _ in range(rng.randrange(30))]

    def test_functions_random(self) -> None:
        """The short cut through a list gives what a full count gives."""
        rng = random.Random(4)
        for _ in range(2000):
            lines = self.random_symbols(rng)
            other = list(lines)
            for _ in range(rng.randrange(4)):
                pos = rng.randrange(len(other) + 1)
                other[pos:pos + rng.randrange(3)] = self.random_symbols(rng)[:rng.randrange(3)]
            if rng.random() < .3:
                rng.shuffle(other)
            old, new = b''.join(lines), b''.join(other)
            before, after = parse_symbols(old)[0], parse_symbols(new)[0]
            want = {(name.decode(), before.get(name), after.get(name))
                    for name in before.keys() | after.keys()
                    if before.get(name) != after.get(name)}
            rows, clean = sd.diff_functions(old, new)
            self.assertTrue(clean)
            self.assertEqual(set(rows), want, (old, new))
            deltas = [(row[2] or 0) - (row[1] or 0) for row in rows]
            self.assertEqual(deltas, sorted(deltas, reverse=True))

    def test_functions_damaged(self) -> None:
        """A broken line is told and costs only itself."""
        rows, clean = sd.diff_functions(b'1 T f\n', b'2 T f\nzz T g\n')
        self.assertFalse(clean)
        self.assertEqual(rows, [('f', 1, 2)])

    def test_config_random(self) -> None:
        """The short cut through a file gives what all its lines give."""
        rng = random.Random(5)
        names = [b'CONFIG_A', b'CONFIG_AB', b'CONFIG_B', b'CONFIG_C', b'OTHER']

        def line() -> bytes:
            form = rng.choice((b'#define %s %s\n', b'%s=%s\n'))
            return form % (rng.choice(names), rng.choice((b'1', b'y', b'"a b"', b'CONFIG_B + 1')))

        for _ in range(2000):
            lines = [line() for _ in range(rng.randrange(8))]
            other = list(lines)
            for _ in range(rng.randrange(3)):
                pos = rng.randrange(len(other) + 1)
                other[pos:pos + rng.randrange(2)] = [line()]
            old, new = b''.join(lines), b''.join(other)
            as_is = rng.random() < .5
            before, after = parse_config(old, as_is)[0], parse_config(new, as_is)[0]
            changes, _ = sd.diff_config(old, new, as_is)
            if not after:
                self.assertFalse(changes)
                continue
            texts = [{key.decode(): val.decode() for key, val in item.items()}
                     for item in (before, after)]
            self.assertEqual(changes.plus, {key: val for key, val in texts[1].items()
                                            if key not in texts[0]}, (old, new))
            self.assertEqual(changes.minus, {key: val for key, val in texts[0].items()
                                             if key not in texts[1]}, (old, new))
            self.assertEqual(changes.change, {
                key: (texts[0][key], val) for key, val in texts[1].items()
                if texts[0].get(key, val) != val}, (old, new))

    def test_config_gone(self) -> None:
        """A build that failed early has no configuration: that is no change of it."""
        self.assertFalse(sd.diff_config(b'#define CONFIG_A 1\n', b'', False)[0])

    def test_config_all(self) -> None:
        """The sum of the files has the last one's word."""
        total = sd.sum_up_config({'u-boot-spl.cfg': sd.Changes(plus={'A': '2'}),
                                  'u-boot.cfg': sd.Changes(plus={'A': '1', 'B': '1'})})
        self.assertEqual(list(total), ['u-boot.cfg', 'u-boot-spl.cfg', 'all'])
        self.assertEqual(total['all'].plus, {'A': '2', 'B': '1'})


def board_list(*archs: str) -> Tuple[Board, ...]:
    return tuple(Board(f'b{num}', arch) for num, arch in enumerate(archs))


def history(boards: Sequence[Board], *steps: BoardFacts) -> Tuple[Differ, List[CommitSummary]]:
    differ = Differ(boards)
    return differ, [differ.advance(num, None, facts) for num, facts in enumerate(steps)]


class TestDiffer(unittest.TestCase):
    """A whole commit."""

    def test_groups(self) -> None:
        """Boards are in the group of what became of them."""
        _, (first, second) = history(
            board_list('arm', 'arm', 'mips', 'arm', 'mips'),
            BoardFacts(bytes((OK, ERROR, WARNING, UNKNOWN, UNKNOWN))),
            BoardFacts(bytes((ERROR, OK, WARNING, OK, UNKNOWN))))
        self.assertEqual(first.groups, {'mips': ([], [2], [], [4]), 'arm': ([], [], [1], [3])})
        self.assertEqual(second.groups, {'arm': ([1, 3], [], [0], []), 'mips': ([], [], [], [4])})
        self.assertEqual(second.not_built, [4])

    def test_lines(self) -> None:
        """A line is told when its first board has it and when its last is rid of it."""
        steps = [BoardFacts(bytes((2, 2)), messages={0: (('x',), ()), 1: (('x', 'y'), (WARN,))}),
                 BoardFacts(bytes((0, 2)), messages={0: sd.NO_MESSAGES}),
                 BoardFacts(bytes((0, 2))),
                 BoardFacts(bytes((0, 2)), messages={1: (('Some images are invalid',), ())})]
        _, out = history(board_list('arm', 'arm'), *steps)
        self.assertEqual([(line.text, line.warning, line.boards) for line in out[0].added],
                         [('x', False, [0, 1]), ('y', False, [1]), (WARN, True, [1])])
        self.assertEqual(out[1].added + out[1].removed + out[2].added + out[2].removed, [])
        self.assertEqual([line.text for line in out[3].removed], ['x', 'y', WARN])
        self.assertEqual([line.text for line in out[3].blobs], ['Some images are invalid'])

    def test_lines_random(self) -> None:
        """Random output of random boards: nothing is lost, made up or out of order."""
        rng = random.Random(6)
        boards = board_list(*['arm'] * 6)
        for _ in range(100):
            differ = Differ(boards)
            now: Dict[int, sd.Messages] = {}
            old: Tuple[Dict[str, List[int]], Dict[str, List[int]]] = ({}, {})
            for step in range(5):
                changed = {}
                for num in rng.sample(range(6), rng.randrange(7)):
                    lines = rng.sample('abcdef', rng.randrange(4))
                    changed[num] = (tuple(lines), tuple(rng.sample('uvw', rng.randrange(3))))
                now.update(changed)
                got = differ.advance(step, None, BoardFacts(bytes(6), messages=changed))
                new: Tuple[Dict[str, List[int]], Dict[str, List[int]]] = ({}, {})
                for num in sorted(now):
                    for index, lines_of in zip(new, now[num]):
                        for line in lines_of:
                            index.setdefault(line, []).append(num)
                for sign, have, lack in ((got.added, new, old), (got.removed, old, new)):
                    want = [(line, bool(kind), nums) for kind in (0, 1)
                            for line, nums in have[kind].items() if line not in lack[kind]]
                    self.assertEqual([(ln.text, ln.warning, ln.boards) for ln in sign], want)
                old = new

    def test_flakes_random(self) -> None:
        """A board that failed and did not later is named, and no other."""
        rng = random.Random(7)
        boards = board_list(*['arm'] * 5)
        for _ in range(300):
            steps: List[BoardFacts] = []
            want: Set[int] = set()
            failed: Set[int] = set()
            for _ in range(5):
                statuses = bytes(rng.choice((OK, WARNING, ERROR, UNKNOWN)) for _ in boards)
                blob_only = [num for num, status in enumerate(statuses)
                             if status == ERROR and rng.random() < .3]
                for num, status in enumerate(statuses):
                    if status == ERROR and num not in blob_only:
                        failed.add(num)
                    elif status != UNKNOWN and num in failed:
                        want.add(num)
                steps.append(BoardFacts(statuses, blob_only))
            differ, _ = history(boards, *steps)
            self.assertEqual(differ.flakes, want)

    def test_sizes(self) -> None:
        """What cancels out within an arch is not told, the rest largest first."""
        deltas: Dict[int, Dict[str, int]] = {
            0: {'all': 1}, 1: {'all': -1}, 2: {'all': 4, 'text': 4}, 3: {'all': 9}}
        _, (got,) = history(board_list('arm', 'arm', 'mips', 'mips', 'mips'),
                            BoardFacts(bytes(5), sized=[0, 1, 2, 3], size_deltas=deltas))
        self.assertEqual([(item.arch, item.sized, item.total, item.deltas, item.boards)
                          for item in got.sizes],
                         [('mips', 2, 3, {'all': 13, 'text': 4}, [3, 2])])

    def test_config(self) -> None:
        """Boards that changed alike are told together."""
        def files(value: str) -> sd.ConfigChanges:
            return sd.sum_up_config({'u-boot.cfg': sd.Changes(plus={'CONFIG_A': value})})

        _, (got,) = history(board_list('arm', 'mips', 'arm'), BoardFacts(
            bytes(3), config={0: files('1'), 1: files('1'), 2: files('2')}))
        self.assertEqual([nums for nums, _ in got.config_boards], [[0, 1], [2]])
        self.assertEqual(got.config_archs['arm']['all'].plus, {'CONFIG_A': '2'})
