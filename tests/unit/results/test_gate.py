# SPDX-License-Identifier: GPL-2.0+
"""What counts for the exit status."""

from __future__ import annotations

import datetime
import os
import tempfile
import unittest
from typing import Dict, List, Optional, Tuple

from unit.results.test_complaints import BOARDS, BROKEN, GCC, summary

from buildman.core.errors import UsageError
from buildman.results.gate import Gate, Known
from buildman.results.reader import ERROR, OK, UNKNOWN, WARNING
from buildman.results.summary import Differ

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
        with open(self.path, 'w', encoding='utf-8', newline='') as outf:
            outf.write(text)
        return self.path


class KnownTest(FileCase):
    """The file of --known."""

    def test_bad(self) -> None:
        """A line that makes no sense is named, with its file and number"""
        for line, why in (('snow | x', 'is no rule'), ('snow|x|until 2026-06-01|w', 'with spaces'),
                          ('snow | x | soon | why', 'no date'),
                          ('snow | x | until 2026-02-30 | why', 'no date'),
                          ('snow | ( | until 2026-06-01 | why', 'no regular expression'),
                          ('snow | x | until 2026-06-01 |', 'is no rule')):
            with self.subTest(line=line), self.assertRaisesRegex(
                    UsageError, f'{self.path}:3: .*{why}'):
                Known(self.write(f'# one\n\n{line}\n'), TODAY)
        with self.assertRaisesRegex(UsageError, 'No such file'):
            Known(self.path + 'x', TODAY)
        with open(self.path, 'wb') as outf:
            outf.write(b'\xff')
        with self.assertRaisesRegex(UsageError, 'not UTF-8'):
            Known(self.path, TODAY)

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

    def test_inferred(self) -> None:
        """What a hunt passes over and has results around counts as these do"""
        gate, differ = Gate(BOARDS, True, None, False), Differ(BOARDS)
        for upto, board in enumerate(((OK, ''), (UNKNOWN, ''), (OK, ''))):
            one = summary(differ, upto, board)
            one.inferred = {num: 'ok' for num in one.not_built}
            gate.judge(one)
        self.assertEqual(0, gate.status())

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
        # Each board is told of once
        self.assertEqual(self.judge((fails, (WARNING, GCC), (OK, '')), (fails, (WARNING, GCC), (
            ERROR, BROKEN)), (fails, (UNKNOWN, ''), (OK, '')), known='mal* ' + rule[4:])[2], [
                'Counted: 0 boards with errors, 0 with warnings, 1 not built; not counted: 1 board '
                'no worse than at the base 000000000000 (Commit 0), 1 with nothing but what '
                f"'{self.path}' knows"])
        both = (ERROR, BROKEN + 'b.c:3:1: error: bad\n')
        self.assertEqual(self.judge((both,), new_only=False, known=rule)[:2], (100, {}))
        got = self.judge((fails,), new_only=False, known=rule.replace('31', '30'))
        self.assertEqual(got[0], 100)
        self.assertEqual(got[2][0], f'{self.path}:1: expired on 2026-05-30, tolerates nothing: '
                                    'soon')
        self.assertTrue(got[2][1].endswith(', 1 expired'), got)


if __name__ == '__main__':
    unittest.main()
