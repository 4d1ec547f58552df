# SPDX-License-Identifier: GPL-2.0+
"""What sizes boards may have."""

from __future__ import annotations

import os
import unittest
from typing import Dict, Optional

from unit.results.test_complaints import BOARDS
from unit.results.test_gate import FileCase

from buildman.core.errors import SetupError, UsageError
from buildman.core.plan import Commit
from buildman.results.budget import Budget
from buildman.results.summary import BoardFacts, Differ


class BudgetTest(FileCase):
    """--budget."""

    def budget(self, text: str, *commits: Dict[int, int], files: Optional[Dict[str, int]] = None,
               subject: str = 'Commit {}', **flags: bool) -> Budget:
        """Return a budget that has seen the text sizes of boards, commit by commit"""
        budget, differ = Budget(self.write(text), BOARDS, **flags), Differ(BOARDS)
        for upto, boards in enumerate(commits):
            facts = BoardFacts(bytes(3), sizes={num: {'u-boot': {
                'all': size + 10, 'text': size, 'data': 4, 'bss': 3, 'rodata': 3}}
                for num, size in boards.items()}, files={0: files} if files else {})
            budget.commit(differ.advance(upto, Commit('1', subject.format(upto)), facts))
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
        budget = self.budget('snow u-boot total +5', {0: 90}, {0: 96}, subject='')
        self.assertIn('over 105 (', budget.lines()[0])
        budget = self.budget('snow u-boot total +5', {0: 90}, {0: 95})
        self.assertIn('least room: 0 bytes', budget.lines()[0])

    def test_new_only(self) -> None:
        """What was too large at the base may stay so, not grow"""
        text = 'snow u-boot text 50'
        self.assertFalse(self.budget(text, {0: 90}, {0: 90}, new_only=True).passed)
        self.assertTrue(self.budget(text, {0: 90}, {0: 91}, new_only=True).passed)

    def test_files(self) -> None:
        """Files that were kept; what nobody has is told"""
        text = 'snow u-boot.bin file 10\nsnow x.bin file 10\nother x.bin file 1\nsnow x data 1'
        budget = self.budget(text, {0: 1}, files={'u-boot.bin': 11})
        self.assertEqual(budget.files, ('u-boot.bin', 'x.bin'))
        self.assertEqual([line.split(': ')[0] for line in budget.lines()],
                         ['Over budget', f'{self.path}:2', f'{self.path}:4',
                          f"Budget '{self.path}'"])
        self.assertEqual(['-k' in line for line in budget.lines()], [False, True, False, False])

    def test_update(self) -> None:
        """Limits become what sizes are; comments and what nobody has stay"""
        text = '# why\n s*  u-boot text   0x64  # all\nsnow u-boot total +1K\nmalta x bss 3\n'
        budget = self.budget(text, {0: 90, 1: 80}, {0: 95, 1: 80}, update=True)
        self.assertEqual(budget.update(), f"Budget '{self.path}': 2 of 3 limits changed")
        with open(self.path, encoding='utf-8') as inf:
            self.assertEqual(inf.read(), '# why\n s*  u-boot text   95  # all\n'
                                         'snow u-boot total +5\nmalta x bss 3\n')
        self.budget('snow u-boot total +1K', {0: 90}, {0: 80}, update=True).update()
        with open(self.path, encoding='utf-8') as inf:
            self.assertEqual(inf.read(), 'snow u-boot total +0')
        budget = self.budget('# none\n', {0: 90, 1: 80}, update=True)
        self.assertEqual(budget.update(), f"Budget '{self.path}': 2 limits written")
        with open(self.path, encoding='utf-8') as inf:
            self.assertEqual(inf.read(), '# none\nsnow u-boot total 100\n'
                                         'seaboard u-boot total 90\n')

    def test_foreign(self) -> None:
        """A file of another system's editor keeps what it has; without sizes nothing is written"""
        text = '\ufeffsnow u-boot total 1K\r\n# x\r\n'
        budget = self.budget(text, {0: 90}, {0: 95}, update=True)
        self.assertEqual({1: 'snow'}, budget.globs())
        budget.update()
        with open(self.path, encoding='utf-8', newline='') as inf:
            self.assertEqual(inf.read(), '\ufeffsnow u-boot total 105\r\n# x\r\n')
        for old in ('', text):
            with self.assertRaisesRegex(SetupError, 'there are no sizes'):
                self.budget(old, {}, {}, update=True).update()
        with open(self.path, encoding='utf-8', newline='') as inf:
            self.assertEqual(inf.read(), text)
        os.unlink(self.path)
        os.symlink('elsewhere', self.path)
        self.budget('snow u-boot total 1', {0: 90}, update=True).update()
        self.assertTrue(os.path.islink(self.path))
        with self.assertRaisesRegex(UsageError, 'is no file that could be written'):
            Budget('/dev/null', BOARDS, update=True)


if __name__ == '__main__':
    unittest.main()
