# SPDX-License-Identifier: GPL-2.0+
"""What counts for the exit status, and what sizes may be."""

from __future__ import annotations

import datetime
import os
import tempfile
import unittest
from typing import Dict, List, Optional, Tuple

from unit.results.test_complaints import BOARDS, BROKEN, GCC, summary

from buildman.core.errors import UsageError
from buildman.core.plan import Commit
from buildman.results.budget import Budget
from buildman.results.gate import Gate, Known
from buildman.results.reader import ERROR, OK, UNKNOWN, WARNING
from buildman.results.summary import BoardFacts, Differ

TODAY = datetime.date(2026, 5, 31)
NO_COMPILER = 'Tool chain error for arm: no compiler\n'


class FileCase(unittest.TestCase):
    """Has a file of rules."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.path = os.path.join(tmp.name, 'rules')

    def write(self, text: str) -> str:
        """Write the file and return its path."""
        with open(self.path, 'w', encoding='utf-8') as outf:
            outf.write(text)
        return self.path


class KnownTest(FileCase):
    """The file of --known."""

    def test_bad(self) -> None:
        """A line that makes no sense is named, with its file and number"""
        for line, why in (('snow | x', 'is no rule'), ('snow | x | soon | why', 'no date'),
                          ('snow | x | until 2026-02-30 | why', 'no date'),
                          ('snow | ( | until 2026-06-01 | why', 'no regular expression'),
                          ('snow | x | until 2026-06-01 |', 'is no rule')):
            with self.subTest(line=line), self.assertRaisesRegex(
                    UsageError, f'{self.path}:3: .*{why}'):
                Known(self.write(f'# one\n\n{line}\n'), TODAY)
        with self.assertRaisesRegex(UsageError, 'No such file'):
            Known(self.path + 'x', TODAY)

    def test_day(self) -> None:
        """A rule holds to the end of its day"""
        text = 's* | a|b | until 2026-05-31 | why not'
        self.assertEqual(Known(self.write(text), TODAY).expired, [])
        (rule,) = Known(self.write(text), TODAY + datetime.timedelta(1)).expired
        self.assertEqual((rule.place, rule.board, rule.text.pattern, rule.why),
                         (f'{self.path}:1', 's*', 'a|b', 'why not'))


class GateTest(FileCase):
    """The exit status, and what is told."""

    def judge(self, *commits: Tuple[Tuple[int, str], ...], new_only: bool = True,
              known: Optional[str] = None, ignore: bool = False
              ) -> Tuple[int, Dict[int, str], List[str]]:
        """Return the status, what does not count at the last commit, and what is told."""
        rules = Known(self.write(known), TODAY) if known else None
        gate, differ = Gate(BOARDS, new_only, rules, ignore), Differ(BOARDS)
        for upto, boards in enumerate(commits):
            one = summary(differ, upto, *boards)
            gate.judge(one)
        return gate.status(), one.tolerated, gate.lines()

    def test_new_only(self) -> None:
        """Only what is worse than at the base counts, at any commit"""
        good, warns, fails = (OK, ''), (WARNING, GCC), (ERROR, BROKEN)
        worse = (ERROR, BROKEN + 'b.c:3:1: error: bad\n')
        for commits, status, why in (
                ([[fails], [fails]], 0, {0: 'fails at the base as well'}),
                ([[warns], [warns]], 0, {0: 'warns at the base as well'}),
                ([[fails], [worse], [fails]], 100, {0: 'fails at the base as well'}),
                ([[good], [warns], [good]], 101, {}), ([[good], [fails], [good]], 100, {}),
                ([[fails], [good], [fails]], 0, {0: 'fails at the base as well'}),
                ([[warns], [fails]], 100, {}),
                # What was not built is not known to be good, but at the base that is all
                ([[good], [(UNKNOWN, '')]], 100, {}), ([[(UNKNOWN, '')], [good]], 0, {}),
                ([[(UNKNOWN, '')], [fails]], 100, {}),
                # Nor is what there is no compiler for
                ([[(ERROR, NO_COMPILER)], [(ERROR, NO_COMPILER)]], 100, {})):
            with self.subTest(commits=commits):
                got = self.judge(*map(tuple, commits))
                self.assertEqual(got[:2], (status, why), got)
        # What failed before and has new warnings has not failed anew
        self.assertEqual(self.judge((fails,), ((ERROR, BROKEN + GCC.replace('x.c', 'y.c')),))[:2],
                         (101, {0: 'fails at the base as well'}))
        self.assertEqual(self.judge((good,), (warns,), ignore=True)[:2], (0, {}))
        got = self.judge((good, fails), (warns, fails))
        self.assertEqual(got[2], [
            'Counted: 0 boards with errors, 1 with warnings; not counted: 1 board no worse than '
            'at the base 000000000000 (Commit 0)'])
        self.assertEqual(Gate(BOARDS, True, None, False).status(), 100)

    def test_known(self) -> None:
        """What a rule knows does not count as long as it holds, all else does"""
        rule = 'sn* | undeclared | until 2026-05-31 | soon'
        fails = (ERROR, BROKEN)
        self.assertEqual(self.judge((fails,), new_only=False, known=rule), (
            0, {0: 'known until 2026-05-31: soon'},
            ["Counted: 0 boards with errors, 0 with warnings; not counted: 1 with nothing but "
             f"what '{self.path}' knows"]))
        self.assertEqual(self.judge(((OK, ''),), (fails,), known=rule)[0], 0)
        self.assertEqual(self.judge(((OK, ''), (OK, '')), ((OK, ''), fails), known=rule)[0], 100)
        both = (ERROR, BROKEN + 'b.c:3:1: error: bad\n')
        self.assertEqual(self.judge((both,), new_only=False, known=rule)[:2], (100, {}))
        got = self.judge((fails,), new_only=False, known=rule.replace('31', '30'))
        self.assertEqual(got[0], 100)
        self.assertEqual(got[2][0], f'{self.path}:1: expired on 2026-05-30, tolerates nothing: '
                                    'soon')
        self.assertTrue(got[2][1].endswith(', 1 expired'), got)


class BudgetTest(FileCase):
    """--budget."""

    def budget(self, text: str, *commits: Dict[int, int], files: Optional[Dict[str, int]] = None,
               **flags: bool) -> Budget:
        """Return a budget that has seen the text sizes of boards, commit by commit"""
        budget, differ = Budget(self.write(text), BOARDS, **flags), Differ(BOARDS)
        for upto, boards in enumerate(commits):
            facts = BoardFacts(bytes(3), sizes={num: {'u-boot': {
                'all': size + 10, 'text': size, 'data': 4, 'bss': 3, 'rodata': 3}}
                for num, size in boards.items()}, files={0: files} if files else {})
            budget.commit(differ.advance(upto, Commit('1', f'Commit {upto}'), facts))
        return budget

    def test_bad(self) -> None:
        """A line that makes no sense is named, with its file and number"""
        for line, why in (('snow u-boot text', 'no budget'), ('snow u-boot code 1', 'no region'),
                          ('snow u-boot text x', 'no limit'), ('snow /etc/x file 1', 'no file'),
                          ('snow ../x file 1', 'no file')):
            with self.subTest(line=line), self.assertRaisesRegex(
                    UsageError, f'{self.path}:2: .*{why}'):
                Budget(self.write(f'# one\n{line}\n'), BOARDS)
        with self.assertRaisesRegex(UsageError, ':1: .*needs a commit to compare with'):
            Budget(self.write('snow u-boot text +1'), BOARDS).check(alone=True)

    def test_limits(self) -> None:
        """At most, and more than at the first commit; who passed it, and how much is left"""
        budget = self.budget('s* u-boot text 0x64\n* u-boot total +1K # all\nmalta u-boot bss 3',
                             {0: 90, 1: 90, 2: 10}, {0: 101, 1: 90, 2: 1034}, {0: 105, 1: 99})
        self.assertEqual(budget.lines(), [
            f'Over budget: snow: u-boot text is 105 bytes, 5 over 100 since 02: Commit 1 '
            f'({self.path}:1)',
            f"Budget '{self.path}': 1 board within it, least room: 1 bytes "
            '(seaboard: u-boot text)'])
        self.assertTrue(budget.passed)
        budget = self.budget('snow u-boot total +5', {0: 90}, {0: 96})
        self.assertIn('u-boot total is 106 bytes, 1 over 105 since 02', budget.lines()[0])
        budget = self.budget('snow u-boot total +5', {0: 90}, {0: 95})
        self.assertFalse(budget.passed)
        self.assertIn('least room: 0 bytes', budget.lines()[0])

    def test_new_only(self) -> None:
        """What was too large at the base may stay so, not grow"""
        text = 'snow u-boot text 50'
        self.assertFalse(self.budget(text, {0: 90}, {0: 90}, new_only=True).passed)
        self.assertTrue(self.budget(text, {0: 90}, {0: 91}, new_only=True).passed)

    def test_files(self) -> None:
        """Files that were kept; what nobody has is told"""
        text = 'snow u-boot.bin file 10\nsnow x.bin file 10\nother x.bin file 1'
        budget = self.budget(text, {0: 1}, files={'u-boot.bin': 11})
        self.assertEqual(budget.files, ('u-boot.bin', 'x.bin'))
        self.assertEqual([line.split(': ')[0] for line in budget.lines()],
                         ['Over budget', f'{self.path}:2', f"Budget '{self.path}'"])

    def test_update(self) -> None:
        """Limits become what sizes are; comments and what nobody has stay"""
        text = '# why\n s*  u-boot text   0x64  # all\nsnow u-boot total +1K\nmalta x bss 3\n'
        budget = self.budget(text, {0: 90, 1: 80}, {0: 95, 1: 80}, update=True)
        self.assertEqual(budget.update(), f"Budget '{self.path}': 2 of 3 limits changed")
        with open(self.path, encoding='utf-8') as inf:
            self.assertEqual(inf.read(), '# why\n s*  u-boot text   95  # all\n'
                                         'snow u-boot total +5\nmalta x bss 3\n')
        budget = self.budget('# none\n', {0: 90, 1: 80}, update=True)
        self.assertEqual(budget.update(), f"Budget '{self.path}': 2 limits written")
        with open(self.path, encoding='utf-8') as inf:
            self.assertEqual(inf.read(), '# none\nsnow u-boot total 100\n'
                                         'seaboard u-boot total 90\n')


if __name__ == '__main__':
    unittest.main()
