# SPDX-License-Identifier: GPL-2.0+
"""What GitHub and GitLab are told."""

from __future__ import annotations

import io
import json
import os
import tempfile
import unittest
from typing import Any, List, Tuple

from unit.results.test_complaints import BOARDS, BROKEN, GCC, summary

from buildman.core.plan import Board, Commit
from buildman.results.annotate import MAX_LINES, CodeQuality, Collector, github
from buildman.results.reader import ERROR, OK, WARNING
from buildman.results.summary import Differ


class CollectCase(unittest.TestCase):
    """Has a source folder."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.folder = tmp.name
        for name in ('drivers/x.c', 'configs/snow_defconfig'):
            os.makedirs(os.path.join(self.folder, os.path.dirname(name)))
            with open(os.path.join(self.folder, name), 'wb'):
                pass

    def collect(self, *commits: Tuple[Tuple[int, str], ...], boards: Any = BOARDS,
                tolerates: Any = None) -> Collector:
        """Return what was collected of commits that look like the source folder."""
        found = Collector(boards, self.folder, len(commits) == 1,
                          tolerates or (lambda target, item: False))
        differ = Differ(boards)
        for upto, states in enumerate(commits):
            # Without a hash, files are looked for in the folder
            found.commit(summary(differ, upto, *states, commit=Commit('', f'a,b: {upto}%')))
        return found

    def annotate(self, found: Collector) -> Tuple[List[str], str]:
        """Return the lines on stdout and the table"""
        out, path = io.StringIO(), os.path.join(self.folder, 'step')
        github(found, out, path, 'a|b')
        with open(path, encoding='utf-8') as inf:
            return out.getvalue().splitlines(), inf.read()

    def quality(self, found: Collector) -> List[Any]:
        """Return what GitLab gets"""
        path = os.path.join(self.folder, 'quality.json')
        report = CodeQuality(path, found)
        report.end((), ())
        with open(path, encoding='utf-8') as inf:
            return list(json.load(inf))


class GithubTest(CollectCase):
    """--annotate github."""

    def test_new(self) -> None:
        """A new error is annotated once for all boards, an old warning never"""
        lines, table = self.annotate(self.collect(
            ((WARNING, GCC), (OK, ''), (OK, '')),
            ((ERROR, BROKEN), (ERROR, BROKEN), (OK, '')),
            ((ERROR, '\n' + BROKEN.replace('21:', '22:')), (ERROR, BROKEN), (OK, ''))))
        self.assertEqual(lines, [
            "::error file=drivers/x.c,line=22,title=02%3A a%2Cb%3A 1%25::2 boards: 'y' undeclared "
            '(first use in this function)%0Aseaboard, snow'])
        self.assertIn('### a\\|b\n', table)
        self.assertIn("| error | 02\\: a,b\\: 1% | drivers/x\\.c\\:22 | 2 boards\\: 'y' "
                      'undeclared \\(first use in this function\\) | seaboard, snow |\n', table)
        lines, table = self.annotate(self.collect(((OK, ''),), ((OK, ''),)))
        self.assertEqual(lines, [])
        # The file is appended to
        self.assertIn('| error |', table)
        self.assertTrue(table.endswith('No new errors or warnings.\n\n'), table)

    def test_escapes(self) -> None:
        """What is said cannot be taken for a command, or for markup"""
        lines, table = self.annotate(self.collect(
            ((WARNING, 'x,y:z.c:3:1: warning: 100% <b>|`a`\x1b[1m\n'),)))
        self.assertEqual(lines, ['::warning file=configs/snow_defconfig,title=01%3A a%2Cb%3A 0%25'
                                 '::snow: x,y:z.c:3:1: warning: 100%25 <b>|`a`'])
        self.assertIn('100% &lt;b&gt;\\|\\`a\\`', table)

    def test_bounds(self) -> None:
        """The worst ten of all, those that are still there first"""
        def errors(count: int) -> str:
            return ''.join(f'drivers/x.c:{num}:1: error: e_{num}x\n' for num in range(1, count))
        lines, table = self.annotate(self.collect(
            ((OK, ''), (OK, '')), ((WARNING, GCC), (ERROR, errors(20))),
            ((WARNING, GCC), (ERROR, 'drivers/x.c:9:1: error: e_9x\n'))))
        self.assertEqual(len(lines), MAX_LINES + 1)
        few, _ = self.annotate(self.collect(((ERROR, errors(11)),)))
        self.assertEqual(len(few), MAX_LINES)
        self.assertIn('line=9,', lines[0])
        self.assertNotIn('gone', lines[0])
        self.assertIn('(gone at a later commit)', lines[1])
        self.assertEqual(lines[-1], '10 more are new, but are not annotated')
        self.assertIn('unused variable', table)

    def test_many(self) -> None:
        """Long texts and many boards are cut"""
        boards = [Board(f'b{num:02}', 'arm') for num in range(22)]
        # An error where it is one, though a warning elsewhere
        (line,), _ = self.annotate(self.collect(
            ((WARNING, 'z' * 600), *[(ERROR, 'z' * 600)] * 21), boards=boards))
        self.assertTrue(line.startswith('::error title='), line)
        self.assertIn(f"22 boards: {'z' * 500}…%0A", line)
        self.assertTrue(line.endswith(', b19 and 2 more'), line)
        (line,), _ = self.annotate(self.collect(((WARNING, 'y'),) * 21, boards=boards[:21]))
        self.assertTrue(line.endswith(', b19 and 1 more'), line)

    def test_object(self) -> None:
        """What is told of an object is told of its source, of which no line is known"""
        (line,), _ = self.annotate(self.collect(
            ((ERROR, 'spl/drivers/x.o:7: undefined reference to `g\n'),)))
        self.assertTrue(line.startswith('::error file=drivers/x.c,title='), line)

    def test_tolerated(self) -> None:
        """What is known is left out, here and there"""
        found = self.collect(((ERROR, BROKEN), (ERROR, BROKEN)),
                             tolerates=lambda target, item: target == 'snow')
        self.assertIn('::seaboard: ', self.annotate(found)[0][0])
        self.assertIn('seaboard: ', self.quality(found)[0]['description'])


class GitlabTest(CollectCase):
    """--codequality."""

    def test_file(self) -> None:
        """All of the last commit, each once; a fingerprint without lines, boards, folders"""
        (one,) = self.quality(self.collect(((WARNING, GCC), (WARNING, GCC))))
        self.assertEqual({**one, 'fingerprint': ''}, {
            'description': "2 boards: unused variable 'y'", 'check_name': 'unused-variable',
            'fingerprint': '', 'severity': 'minor',
            'location': {'path': 'drivers/x.c', 'lines': {'begin': 21}}})
        (other,) = self.quality(self.collect(((OK, ''),), (
            (WARNING, GCC.replace('21:', '30:').replace("'y'", '\u2018y\u2019')),)))
        self.assertEqual(one['fingerprint'], other['fingerprint'])
        two = self.quality(self.collect(((WARNING, GCC + GCC.replace('21:', '30:')),)))
        self.assertEqual(len({item['fingerprint'] for item in two}), 2)

    def test_no_place(self) -> None:
        """A path is there in any case"""
        said = 'make: *** something\n'
        for board, path in (('snow', 'configs/snow_defconfig'), ('quick,snow',
                            'configs/snow_defconfig'), ('none', 'Makefile')):
            (item,) = self.quality(self.collect(((ERROR, said),), boards=[Board(board, 'arm')]))
            self.assertEqual((item['location'], item['severity']),
                             ({'path': path, 'lines': {'begin': 1}}, 'blocker'))


if __name__ == '__main__':
    unittest.main()
