# SPDX-License-Identifier: GPL-2.0+
"""Several result trees become one."""

from __future__ import annotations

import os
import tempfile
import unittest
from typing import List

from buildman.core.errors import UsageError
from buildman.core.outcome import Outcome
from buildman.core.plan import Commit
from buildman.remote.logs import JobLog
from buildman.results import durations, joblog
from buildman.results.merge import Merge, Part, note_part, read_part
from buildman.results.tree import ResultTree, settings_of

COMMITS = [Commit(char * 40, f'Commit {char}') for char in 'abc']


class MergeTest(unittest.TestCase):
    """Trees that are made by hand"""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name

    def path(self, *names: str) -> str:
        """Return the path of an output folder, or below it"""
        return os.path.join(self.dir, *names)

    def make(self, name: str, *targets: str, number: int = 0, digest: str = 'abc',
             commits: List[Commit] = COMMITS) -> str:
        """Make an output folder with results at two commits; a shard if it has a number"""
        tree = ResultTree(self.path(name, 'try'), commits)
        for upto in range(2):
            for target in targets:
                tree.write(Outcome(target, upto, 0, stdout=f'{name} {target} {upto}',
                                   files={'settings': b'x\n'}))
        if number:
            note_part(self.path(name, 'try'), Part((number,), 3, digest))
        return self.path(name)

    def merge(self, *sources: str) -> Merge:
        """Merge into `all`"""
        merged = Merge(sources, self.path('all'))
        merged.run()
        return merged

    def test_shards(self) -> None:
        """All results are there, as they were, but for incomplete ones; who is missing is told"""
        first, second, third = (self.make(str(number), *targets, number=number)
                                for number, targets in enumerate(('ab', 'c', ''), 1))
        os.unlink(self.path('2', 'try', f'02_g{"b" * 40}_Commit-b', 'c', 'done'))
        os.makedirs(self.path('1', 'try', '.bm-work'), exist_ok=True)
        with open(self.path('1', 'try', durations.NAME), 'w', encoding='utf-8') as outf:
            outf.write(f'{"a" * 40}\ta\t3.000\tfull\t-\t7\n')
        merged = self.merge(first, second)
        self.assertFalse(merged.complete)
        self.assertEqual([f"5 results of 2 folders are in '{self.path('all', 'try')}'",
                          'Missing: shard 3 of 3'], merged.lines)
        tree = ResultTree(self.path('all', 'try'), COMMITS)
        self.assertEqual([{'a', 'b', 'c'}, {'a', 'b'}, set()], [
            set(tree.complete(upto, 'abc')) for upto in range(3)])
        # With its settings, which count by their time
        self.assertEqual('x\n', settings_of(tree.board_dir(0, 'a')))
        self.assertEqual(3.0, durations.read_below(self.path('all'))[0].seconds)
        # The rest, later, and again
        self.assertTrue(self.merge(third).complete)
        merged = self.merge(second, third)
        self.assertEqual((True, [f"1 results of 2 folders are in '{self.path('all', 'try')}'; 1 "
                                 'were there before']), (merged.complete, merged.lines))
        part = read_part(self.path('all', 'try'))
        self.assertEqual((1, 2, 3), part and part.numbers)

    def test_logs(self) -> None:
        """The job logs of all are kept; in a folder that is one of them, beside its own"""
        for name, number in (('1', 1), ('2', 2), ('plain', 0)):
            self.make(name, 'a', number=number)
            log = JobLog(self.path(name, 'try', 'joblog'))
            log.add(Outcome(f'board{name}', 0, 0), '')
            log.close()
        self.merge(self.path('1'), self.path('2'), self.path('plain'), self.make('none', 'b'))
        self.assertEqual(['plain: runner', 'shard 1: runner', 'shard 2: runner'],
                         list(joblog.read(self.path('all', 'try'))))
        Merge([self.path('1'), self.path('2')], self.path('1')).run()
        got = joblog.read(self.path('1', 'try'))
        self.assertEqual([('-', 'board1'), ('shard 2: runner', 'board2')],
                         [(name, lane['blocks'][0][0]) for name, lane in got.items()])

    def test_images(self) -> None:
        """Whatever images are called; whose results they are goes along, and is kept"""
        sources = [self.make('1', 'a'), self.make('2', 'b')]
        for source in sources:
            os.makedirs(os.path.join(source, 'try', '.bm-work'), exist_ok=True)
            with open(os.path.join(source, 'try', '.bm-work', 'branches'), 'w',
                      encoding='utf-8') as outf:
                outf.write(f'refs/heads/{source}\n')
        place = os.path.join('try', f'01_g{"a" * 40}_Commit-a', 'a', 'spl', 'done')
        os.makedirs(os.path.dirname(self.path('1', place)))
        with open(self.path('1', place), 'wb'):
            pass
        self.merge(*sources)
        self.assertTrue(os.path.exists(self.path('all', place)))
        with open(self.path('all', 'try', '.bm-work', 'branches'), encoding='utf-8') as inf:
            self.assertEqual(f'refs/heads/{sources[0]}\n', inf.read())

    def test_refused(self) -> None:
        """What does not belong together is not mixed, and nothing is written"""
        first = self.make('1', 'a', number=1)
        for name, text in (
                (self.make('other', 'b', number=2, digest='def'), 'shards of other boards'),
                (self.make('moved', 'b', commits=COMMITS[1:]), 'have other commits: 1 is a'),
                (self.path('none'), 'cannot read'), (self.dir, 'there are no results in')):
            with self.assertRaises(UsageError) as caught:
                Merge([first, name], self.path('all'))
            self.assertIn(text, str(caught.exception))
        self.assertFalse(os.path.exists(self.path('all')))

    def test_places(self) -> None:
        """Folders that lie in each other, or nothing to copy, are a slip; nothing is written"""
        first = self.make('1', 'a')
        for source, dest, text in (
                (first, first, 'is the folder to merge into'), (first, f'{first}/all', 'lies in'),
                (f'{first}/try', first, 'has the results of a branch'),
                (first, f'{first}/try', 'lies in')):
            before = [sorted(os.listdir(path)) for path in (first, f'{first}/try')]
            with self.assertRaisesRegex(UsageError, f'--merge: .*{text}'):
                Merge([source], dest).run()
            self.assertEqual(before,
                             [sorted(os.listdir(path)) for path in (first, f'{first}/try')])
        # What a runner has fetched into the folder for all is as good as elsewhere
        Merge([self.make('all/parts/1', 'b')], self.path('all')).run()
        self.assertEqual({'b'}, set(ResultTree(self.path('all', 'try'), COMMITS).complete(0, 'ab')))

    def test_two_counts(self) -> None:
        """A folder that was built with two counts (-c) has a number twice, which is well"""
        self.make('1', 'a')
        lines = self.merge(self.make('1', 'a', commits=COMMITS[1:])).lines
        self.assertEqual([f"4 results of 1 folders are in '{self.path('all', 'try')}'"], lines)

    def test_moved(self) -> None:
        """The folder for all may have commits of an earlier state, under other numbers"""
        self.merge(self.make('1', 'a'))
        self.merge(self.make('2', 'b', commits=COMMITS[1:]))
        self.assertEqual([['a'], ['a', 'b'], ['b']], [
            sorted(os.listdir(self.path('all', 'try', f'{number}_g{char * 40}_Commit-{char}')))
            for number, char in (('01', 'a'), ('02', 'b'), ('02', 'c'))])

    def test_into_itself(self) -> None:
        """The folder of one of them may be the one for all"""
        first, second = self.make('all', 'a', number=1), self.make('2', 'b', number=2)
        merged = self.merge(first, second, self.make('3', number=3))
        self.assertTrue(merged.complete, merged.lines)
        self.assertEqual({'a', 'b'}, set(ResultTree(self.path('all', 'try'), COMMITS).complete(
            1, 'ab')))


if __name__ == '__main__':
    unittest.main()
