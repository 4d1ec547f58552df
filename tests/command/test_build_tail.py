# SPDX-License-Identifier: GPL-2.0+
"""How long builds took, from a real run to the order of the next and to reports."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree
from typing import Any, ClassVar, Dict, List

from support import SampleCase

# In the order of the list
BOARDS = ('rocket_mini', 'anvil', 'hammock')


class TailTest(SampleCase):
    """One slow board at the end keeps a whole farm waiting."""

    sample_args: ClassVar[Dict[str, Any]] = {'commits': 3}

    def build(self, *args: str, slow: str = '') -> List[str]:
        """Build with one slot; return the boards in the order in which they came out."""
        env = self.write_knobs(slow, 'sleep 4') if slow else {}
        got = self.run_buildman('-b', 'feature', '-T', '1', '-o', self.out(),
                                '--boards', ','.join(BOARDS), *args, env=env)
        self.assertIn(got.returncode, (0, 100, 101), got)
        self.assertIn('Completed: ', got.stdout)
        found = re.findall(r'^ +\d+ +\d+ +\d+ /\d+ .*?(\w+)$', got.stdout, re.M)
        return list(dict.fromkeys(found))

    def report(self) -> Dict[str, Any]:
        """Return the JSON report of the summary."""
        path = self.out('summary.json')
        got = self.run_buildman('-b', 'feature', '-s', '-o', self.out(), '--json', path,
                                '--boards', ','.join(BOARDS))
        self.assertEqual(got.returncode, 0, got)
        with open(path, encoding='utf-8') as inf:
            data: Dict[str, Any] = json.load(inf)
        return data

    def test_longest_first(self) -> None:
        """What took longest in the last run comes first in the next one"""
        order = self.build('-c', '1', slow=BOARDS[2])
        self.assertNotEqual(order[0], BOARDS[2])
        # In another folder of results: it is known from those beside it
        self.assertEqual(self.build('-c', '1', '-N')[0], BOARDS[2])
        self.assertEqual(self.build('-c', '1', '-f')[0], BOARDS[2])

    def test_first_run(self) -> None:
        """When nothing was built yet, the board whose defconfig switches on most comes first"""
        self.switch_on(BOARDS[2], 200)
        self.assertEqual(self.build('-c', '1')[0], BOARDS[2])

    def test_reports(self) -> None:
        """A CI server shows how long each board took, a script gets the figure"""
        self.build()
        seen = carried = 0
        for commit in self.report()['commits']:
            for board in commit['boards'].values():
                if board['seconds'] is None:
                    carried += 1
                else:
                    seen += 1
                    self.assertTrue(0 < board['seconds'] < 100, board)
        # Commits that do not affect a board are not built for it
        self.assertEqual(seen + carried, len(BOARDS) * 4)
        self.assertGreater(seen, carried)
        path = self.out('junit.xml')
        self.run_buildman('-b', 'feature', '-s', '-o', self.out(), '--junit', path,
                          '--boards', ','.join(BOARDS))
        times = [case.get('time') for case in
                 xml.etree.ElementTree.parse(path).getroot().iter('testcase')]
        self.assertEqual(len([time for time in times if time]), seen)
        # Without a branch
        got = self.run_buildman('--boards', 'anvil', '-o', self.out('now'))
        self.assertIn('Completed: ', got.stdout)
        path = self.out('now.json')
        self.run_buildman('--boards', 'anvil', '-s', '-o', self.out('now'), '--json', path)
        with open(path, encoding='utf-8') as inf:
            board = json.load(inf)['commits'][0]['boards']['anvil']
        self.assertGreater(board['seconds'], 0)
