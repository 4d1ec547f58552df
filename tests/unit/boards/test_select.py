# SPDX-License-Identifier: GPL-2.0+
"""Which boards a command line selects, and what a dry run says of them."""

from __future__ import annotations

import os
import random
import re
import tempfile
import unittest
from typing import Dict, List, Optional

from buildman.boards import select
from buildman.boards.cfgfile import Entry, sort_entries
from buildman.core.errors import BoardError, UsageError
from buildman.core.plan import Board


def entry(target: str, arch: str, cpu: str = '', board: str = '', vendor: str = '',
          soc: str = '', config: str = '') -> Entry:
    return Entry(Board(target, arch, cpu, board, vendor, soc), config)


# The fields differ so that a term tells which one it was matched against
LIST = select.BoardList(sort_entries([
    entry('n1', '-'),
    entry('a2', 'aarch64', 'armv8', 'btwo'),
    entry('a1', 'arm', 'armv7', 'bbone', 'vone', 'sone', 'cone'),
    entry('m1', 'mips'),
    entry('m2', 'mips', '', 'a1', 'zz-ven', '', 'czz'),
    entry('r2', 'riscv32', 'generic'),
    entry('r1', 'riscv64', 'generic'),
    entry('s1', 'sandbox'),
]))
ALL = 'n1 a2 a1 m1 m2 r2 r1 s1'


class SelectTest(unittest.TestCase):
    """Expected values are what upstream's `buildman -n -v` prints for this list."""

    def why(self, *terms: str, exclude: Optional[List[str]] = None,
            names: Optional[List[str]] = None) -> str:
        sel = LIST.select(list(terms), exclude or [], names)
        self.assertEqual([brd.target for brd in sel.boards], sel.why['all'])
        if len(sel.why) > 1:
            parts = [f"{term}: {' '.join(targets)}".rstrip()
                     for term, targets in sel.why.items() if term != 'all']
        else:
            parts = [' '.join(sel.why['all'])]
        return '; '.join(parts + sel.warnings)

    def test_nothing_selects_all(self) -> None:
        """Without terms every board is built, in the order of the list."""
        self.assertEqual(self.why(), ALL)
        self.assertEqual(self.why(''), ALL)
        self.assertEqual(self.why('&&'), ALL)

    def test_fields(self) -> None:
        """A term finds a board by the beginning of any of its fields."""
        self.assertEqual(self.why('a1'), 'a1: a1 m2')
        self.assertEqual(self.why('a'), 'a: a2 a1 m2')
        self.assertEqual(self.why('cone'), 'cone: a1')
        self.assertEqual(self.why('.one'), '.one: a1')
        self.assertEqual(self.why('^arm'), '^arm: a2 a1')
        self.assertEqual(self.why('arm$'), 'arm$: a1')
        self.assertEqual(self.why('riscv64|mips'), 'riscv64|mips: m1 m2 r1')
        self.assertEqual(self.why('riscv'), 'riscv: r2 r1')

    def test_many_terms(self) -> None:
        """Plain words are looked up: with others between them, the first still counts"""
        rnd = random.Random(1)
        words = ('a', 'a1', 'arm', 'm', 'mips', 'n1', 'zz-ven', 'riscv64', '.2', 'r[12]',
                 'b & btwo', 'm2 & zz', 'nope', '(?i)S', 'generic')
        for _ in range(300):
            terms = rnd.sample(words, rnd.randrange(1, 6))
            got = LIST.select(terms)
            expect: Dict[str, List[str]] = {}
            for item in LIST.entries:
                board = item.board
                fields = [board.target, board.arch.strip('-'), board.cpu, board.board_name,
                          board.vendor, board.soc, item.config]
                for term in terms:
                    if all(any(re.match(part, field) for field in fields)
                           for part in term.split(' & ')):
                        expect.setdefault(term.replace(' ', ''), []).append(board.target)
                        break
            self.assertEqual({term: names for term, names in got.why.items()
                              if names and term != 'all'}, expect, terms)

    def test_no_match(self) -> None:
        """Case counts, the middle of a field does not, '-' stands for nothing."""
        for term in ('one', 'A1', '-', 'nope', 'all', 'a1,arm'):
            sel = LIST.select([term])
            self.assertEqual(sel.boards, (), term)
            with self.assertRaisesRegex(BoardError, '^No matching boards found$'):
                sel.check()

    def test_alternatives(self) -> None:
        """A board counts for the first term that it matches."""
        self.assertEqual(self.why('arm', 'a1'), 'arm: a2 a1; a1: m2')
        self.assertEqual(self.why('a1', 'arm'), 'a1: a1 m2; arm: a2')
        self.assertEqual(self.why('a1 arm'), 'a1: a1 m2; arm: a2')
        self.assertEqual(self.why('nope', 'arm'), 'nope:; arm: a2 a1')
        self.assertEqual(self.why('m1', 'm1'), 'm1: m1')

    def test_and(self) -> None:
        """'&' joins terms, alone or glued to a word."""
        self.assertEqual(self.why('a1&arm'), 'a1&arm: a1')
        self.assertEqual(self.why('a1', '&', 'mips'), 'a1&mips: m2')
        self.assertEqual(self.why('a1', '&mips'), 'a1&mips: m2')
        self.assertEqual(self.why('a1&', 'mips'), 'a1&mips: m2')
        self.assertEqual(self.why('a1&&arm'), 'a1&arm: a1')
        self.assertEqual(self.why('a1', '&'), 'a1: a1 m2')
        self.assertEqual(self.why('a1 & arm & b.*', 'mips'), 'a1&arm&b.*: a1; mips: m1 m2')

    def test_exclude(self) -> None:
        """-x takes regular expressions with commas between them, no '&'."""
        self.assertEqual(self.why(exclude=['a1']), 'n1 a2 m1 r2 r1 s1')
        self.assertEqual(self.why(exclude=['a']), 'n1 m1 r2 r1 s1')
        self.assertEqual(self.why(exclude=['arm,mips']), 'n1 r2 r1 s1')
        self.assertEqual(self.why(exclude=['.*1', 'r2']), 'a2')
        self.assertEqual(self.why(exclude=['arm&a1']), ALL)
        self.assertEqual(self.why('arm', exclude=['a1']), 'arm: a2')
        self.assertEqual(self.why(exclude=['nope,']), ALL)

    def test_names(self) -> None:
        """--boards takes whole targets and says which are not there."""
        self.assertEqual(self.why(names=['a1,a1']), 'a1')
        self.assertEqual(self.why(names=['a1', 'a2']), 'a2 a1')
        self.assertEqual(self.why(names=['a1, a2,']), 'a2 a1')
        self.assertEqual(self.why(names=['a1,nope,zip']), 'a1; Boards not found: nope, zip')
        self.assertEqual(self.why('a1', names=['m1']),
                         'a1: a1 m2; Boards not found: m1')
        with self.assertRaisesRegex(BoardError, r'No matching .*Boards not found: nope'):
            LIST.select(names=['nope']).check()
        self.assertEqual(LIST.select(names=['']).boards, ())

    def test_mistakes(self) -> None:
        """A bad expression is named in one line, wherever it stands."""
        for kwargs in ({'terms': ['a(1']}, {'terms': ['arm&*']}, {'exclude': ['s1,(']}):
            with self.assertRaisesRegex(UsageError, 'not a regular expression'):
                LIST.select(**kwargs)
        with self.assertRaisesRegex(UsageError, "before '&'"):
            LIST.select(['&', 'a1'])

    def test_exact_names(self) -> None:
        """Only --boards on its own may keep us from looking at all boards."""
        self.assertEqual(select.exact_names([], ['a,b', 'c']), ['a', 'b', 'c'])
        self.assertIsNone(select.exact_names(['sandbox'], None))
        self.assertIsNone(select.exact_names(['sandbox'], ['a']))
        self.assertIsNone(select.exact_names([], None))

    def test_random(self) -> None:
        """Each board goes to the first alternative all words of which match it."""
        rnd = random.Random(3)
        words = ['a', 'arm', 'a1', 'm', 'mips', 'r.*', 'generic', 'z', 'b.one', '.*1']
        for _ in range(2000):
            groups = [[rnd.choice(words) for _ in range(rnd.choice((1, 1, 1, 2, 3)))]
                      for _ in range(rnd.randrange(4))]
            banned = [rnd.choice(words) for _ in range(rnd.choice((0, 0, 1, 2)))]
            args: List[str] = []
            for group in groups:
                glued = rnd.choice(('&', ' & ', '& '))
                args += rnd.choice(([glued.join(group)], glued.join(group).split(' ')))
            sel = LIST.select(args, [','.join(banned)])
            expect: Dict[str, List[str]] = {'&'.join(group): [] for group in groups}
            total = []
            for ent in LIST.entries:
                brd = ent.board
                text = [brd.target, brd.arch, brd.cpu, brd.board_name, brd.vendor,
                        brd.soc, ent.config]

                def hit(word: str, text: List[str] = text) -> bool:
                    return any(re.match(word, field) for field in text if field != '-')

                if any(hit(word) for word in banned):
                    continue
                for group in groups:
                    if all(hit(word) for word in group):
                        expect['&'.join(group)].append(brd.target)
                        break
                else:
                    if groups:
                        continue
                total.append(brd.target)
            self.assertEqual(sel.why, {'all': total, **expect})
            self.assertEqual([brd.target for brd in sel.boards], total)


class DescribeTest(unittest.TestCase):
    """Scripts read the text of -n."""

    def test_terms(self) -> None:
        sel = LIST.select(['nope', 'arm'])
        self.assertEqual(select.describe_selection(sel), [
            '', 'nope : 0 boards', 'arm : 2 boards',
            'Total boards to build for each commit: 2', ''])
        self.assertEqual(select.describe_selection(sel, verbose=True), [
            '', 'nope : 0 boards', '   ', 'arm : 2 boards', '   a2 a1',
            'Total boards to build for each commit: 2', ''])

    def test_all(self) -> None:
        sel = LIST.select()
        self.assertEqual(select.describe_selection(sel, verbose=True), [
            '', 'all : 8 boards', f'   {ALL}',
            'Total boards to build for each commit: 8', ''])

    def test_missing(self) -> None:
        sel = LIST.select(names=['a1', 'zip'])
        self.assertEqual(select.describe_selection(sel), [
            '', 'all : 1 boards', 'Total boards to build for each commit: 1', '',
            'Boards not found: zip', ''])


class WithoutBoardTest(unittest.TestCase):
    """Globs in files that speak of many boards."""

    def test_globs(self) -> None:
        """One that fits no board of the tree is found, with those of -X"""
        with tempfile.TemporaryDirectory() as tree:
            self.assertEqual([], select.without_board(tree, ['a']))
            for name in ('configs/a1_defconfig', 'configs/b2_defconfig', 'configs/x.config'):
                os.makedirs(os.path.join(tree, 'configs'), exist_ok=True)
                with open(os.path.join(tree, name), 'w', encoding='utf-8'):
                    pass
            globs = ['a1', 'a?', '*', 'x', 'quick*', 'quick,a1', 'quick,c*', 'x', '[ab]*']
            self.assertEqual(['x', 'quick*', 'quick,a1', 'quick,c*'],
                             select.without_board(tree, globs))
            with open(os.path.join(tree, 'configs/one.buildman'), 'w', encoding='utf-8') as outf:
                outf.write('desc: x\nname: quick\nfragment: x\n')
            self.assertEqual(['x', 'quick,c*'], select.without_board(tree, globs))
