# SPDX-License-Identifier: GPL-2.0+
"""--hunt: the commits that change something, without building all."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import unittest
from xml.etree import ElementTree

from dist_support import DistCase, read
from support import command
from traced import FILES, TracedTree


class TestHunt(DistCase):
    """Four boards at four commits: one breaks at the third, one warns at the fourth"""

    def test_hunt(self) -> None:
        """On machines, then the rest here: the commits, what is inferred, and all results"""
        reports = [self.out('found.json'), self.out('found.xml')]
        done = self.dist('--no-local', '--hunt', '-z', '--json', reports[0], '--junit', reports[1])
        self.assertEqual(100, done.returncode, done)
        places = [(f'{number} {self.tree.commits[number - 1][:12]} '
                   f'{self.tree.subjects[number - 1]}') for number in (3, 4)]
        lines = [f'anvil: ok -> error at {places[0]}', f'rocket: ok -> warning at {places[1]}',
                 'Hunted: 2 changes; 12 of 16 results are there, 4 are taken to be like those '
                 'around them: what broke and was mended in between is not seen (the same '
                 'without --hunt builds the rest)']
        self.assertEqual(sorted(lines), sorted(done.stdout.splitlines()[-3:]), done)
        there = {(0, board) for board in self.tree.targets} | {
            (3, board) for board in self.tree.targets} | {
                (upto, board) for upto in (1, 2) for board in ('anvil', 'rocket')}
        self.assertEqual(there, set(self.verdicts(self.results())))
        self._check_reports(*reports)
        # What is there tells the same, and is not built again
        for flag in ('-s', '--no-skip-unaffected'):
            again = self.run_buildman('-b', 'feature', '-o', self.out(), '--hunt', flag)
            self.assertEqual(lines[2], again.stdout.splitlines()[-1], again)
        self.assertIn('12 total built (12 previously)', again.stdout)
        whole = self.run_buildman('-b', 'feature', '-o', self.out())
        self.assertIn('(12 previously, 4 newly', whole.stdout)
        self.assertEqual(dict(self.tree.expected), self.verdicts(self.results()))
        shown = self.run_buildman('-b', 'feature', '-o', self.out(), '--hunt', '-s')
        self.assertEqual('Hunted: 2 changes; 16 of 16 results are there',
                         shown.stdout.splitlines()[-1])

    def _check_reports(self, plain: str, junit: str) -> None:
        """What was not built is told as such, with what it is taken for"""
        found = json.loads(read(plain))
        changes = {change['board']: change for change in found['hunt']['changes']}
        self.assertEqual([12, 16], [found['hunt'][name] for name in ('known', 'total')])
        change = changes['anvil']
        self.assertEqual(['ok', 'error', 3, 2, self.tree.commits[2]], [
            change[name] for name in ('before', 'after', 'number', 'since', 'hash')])
        self.assertIn(' error: ', '\n'.join(change['added']))
        for number in (1, 2):
            commit = found['commits'][number]
            self.assertEqual({'sandbox': 'ok', 'hammock': 'ok'}, commit['inferred'])
            self.assertEqual({'anvil', 'rocket'}, set(commit['boards']))
        suites = ElementTree.parse(junit).getroot()
        self.assertEqual(4, len(suites.findall('.//skipped[@type="inferred"]')))
        self.assertEqual(['anvil', 'rocket'], sorted(
            case.get('name', '') for case in suites.findall('testsuite')[-1]))

    def test_usage(self) -> None:
        """What cannot be hunted is told; a dry run tells what would be done"""
        for args, text in (
                (['--hunt'], '--hunt requires -b'),
                (['-b', 'feature', '--hunt', '-c', '1'], '--hunt needs two commits or more'),
                (['-b', 'feature', '--hunt=time'], "'time' is unknown: it is --hunt, "),
                (['-b', 'feature', '--hunt=size:x'], "'x' is not a number")):
            done = self.run_buildman(*args, '-o', self.out())
            self.assertEqual((2, 1), (done.returncode, len(done.stderr.splitlines())), done)
            self.assertIn(text, done.stderr)
        # What follows is a term
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '-n', '--hunt', 'anvil')
        self.assertIn('Hunting in 4 commits for 1 boards', done.stdout)
        self.assertRegex(done.stdout, 'begins with 2 builds, .* at most 2 for each')
        self.assertFalse(os.path.exists(self.out()))


class TestTraced(unittest.TestCase):
    """A tree whose builds note what they read"""

    def test_few_builds(self) -> None:
        """Where it is known which commits matter to a board, only these are built"""
        with tempfile.TemporaryDirectory() as top:
            tree, made = TracedTree(os.path.join(top, 'repo')), os.path.join(top, 'made')
            for number in range(30):
                tree.commit(f'note {number}', {
                    19: {'common/main.c': FILES['common/main.c'] + 'int broken\n'}}.get(
                        number, {'common/other.c': f'int other = {number};\n'}))
            done = subprocess.run(
                [*command(), '-g', tree.path, '-b', 'topic', '-o', os.path.join(top, 'out'),
                 '--boards', 'a,c', '--hunt'], capture_output=True, text=True, check=False,
                env={**os.environ, 'HOME': top, 'made': made})
            for board in 'ac':
                self.assertRegex(done.stdout, rf'(?m)^{board}: ok -> error at 21 \w+ note 19$')
            # The ends and the break, which fails; what comes before it is as the first one
            self.assertIn('8 total built', done.stdout)
            self.assertIn('2 carried', done.stdout)
            with open(made, encoding='utf-8') as inf:
                self.assertEqual(2, len(inf.read().splitlines()), done.stdout)
