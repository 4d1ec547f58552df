# SPDX-License-Identifier: GPL-2.0+
"""How long builds took, kept on disk: nothing lost, nothing believed that is damaged."""

from __future__ import annotations

import os
import stat
import tempfile
import unittest
from typing import List
from unittest import mock

from buildman.core.events import BoardDone, Built
from buildman.core.outcome import Failure, FailureKind, Outcome
from buildman.core.plan import Commit
from buildman.results import durations
from buildman.results.durations import FULL, MORE, PART, Record, Recorder

COMMITS = (Commit('a' * 40, 'One'), Commit('b' * 40, 'Two'))


class DurationsCase(unittest.TestCase):
    """Has an output folder."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.out = tmp.name
        self.folder = os.path.join(self.out, 'branch')
        self.path = os.path.join(self.folder, durations.NAME)

    def record(self, *results: Outcome, worker: str = '', fate: str = '', now: float = 1000,
               partial: bool = False, folder: str = '') -> None:
        """Record some results as one run."""
        recorder = Recorder(folder or self.folder, COMMITS, partial, now)
        for outcome in results:
            recorder(Built(worker, outcome), fate)
            recorder(BoardDone(worker, outcome.target), '')
        recorder.close()

    def read(self) -> List[Record]:
        return durations.read(self.folder)


class FileTest(DurationsCase):
    """The file."""

    def test_there_and_back(self) -> None:
        """The next run knows how long each board took, and on which machine"""
        self.record(Outcome('anvil', 0, 0, seconds=12.25), Outcome('anvil', 1, 2, seconds=3.5),
                    worker='box')
        self.record(Outcome('anvil', 1, 0, seconds=4), now=2000)
        self.assertEqual(self.read(), [
            Record('a' * 40, 'anvil', 12.25, FULL, 'box', 1000),
            Record('b' * 40, 'anvil', 3.5, MORE, 'box', 1000),
            Record('b' * 40, 'anvil', 4.0, FULL, '', 2000)])
        self.assertEqual(durations.by_commit(self.read()), {
            'a' * 40: {'anvil': 12.25}, 'b' * 40: {'anvil': 4.0}})

    def test_kinds(self) -> None:
        """A quick build after a full one would make a long board look short"""
        self.record(Outcome('a', 0, 0, seconds=1), Outcome('a', 1, 0, seconds=2,
                                                           reconfigured=True),
                    Outcome('b', 1, 0, seconds=3))
        self.assertEqual([record.kind for record in self.read()], [FULL, FULL, FULL])
        self.record(Outcome('c', 0, 0, seconds=1), partial=True)
        self.assertEqual(self.read()[-1].kind, PART)

    def test_left_out(self) -> None:
        """What was not built, or not believed, tells nothing of a board"""
        full = Failure(FailureKind.NO_SPACE, 'no space left')
        self.record(Outcome('a', 0, 0, skipped=True), Outcome('b', 0, 2, infra=full))
        self.record(Outcome('c', 0, 0, seconds=3), fate='dropped')
        self.assertEqual(self.read(), [])

    def test_current_source(self) -> None:
        """Builds without a branch count, too"""
        recorder = Recorder(self.folder, None, False, 5)
        recorder(Built('', Outcome('a', 0, 0, seconds=1)), '')
        recorder.close()
        self.assertEqual(self.read(), [Record(durations.CURRENT, 'a', 1.0, FULL, '', 5)])

    def test_damage(self) -> None:
        """A run that was killed, or a bad disk, must not stop or mislead the next one"""
        self.record(Outcome('good', 0, 0, seconds=1))
        with open(self.path, 'ab') as outf:
            for line in (b'\xff\xfe\x00', b'', b'a\tb', b'a\tb\tnan\tfull\t-\t1',
                         b'a\tb\t-1\tfull\t-\t1', b'a\tb\t1\tother\t-\t1',
                         b'a\tb\t1\tfull\t-\tx', b'\t\t1\tfull\t-\t1', b'a\tb\tinf\tmore\t-\t1'):
                outf.write(line + b'\n')
            outf.write(b'a' * 40 + b'\tcut\t1')
        self.assertEqual([record.target for record in self.read()], ['good'])
        self.record(Outcome('next', 0, 0, seconds=1))
        self.assertEqual([record.target for record in self.read()], ['good', 'next'])

    def test_cut_at_each_byte(self) -> None:
        """Wherever a line was cut, no board gets a tenth of its time"""
        self.record(Outcome('good', 0, 0, seconds=123.456))
        with open(self.path, 'rb') as inf:
            line = inf.read()
        for end in range(len(line)):
            with open(self.path, 'wb') as outf:
                outf.write(line[:end])
            self.record(Outcome('next', 0, 0, seconds=1))
            self.assertEqual([record.seconds for record in self.read()
                              if record.target == 'good'],
                             [], end)
            self.assertEqual(self.read()[-1].target, 'next')

    def test_bounded(self) -> None:
        """A folder that is used for years does not slow down each start"""
        with mock.patch.object(durations, 'MAX_LINES', 4), \
                mock.patch.object(durations, 'MAX_BYTES', 2000):
            for run in range(40):
                self.record(*(Outcome(name, 0, 0, seconds=run) for name in 'abcdef'), now=run)
                self.assertLess(os.path.getsize(self.path), 2000 + 6 * 80)
        # The newest are there
        self.assertEqual([(record.target, record.seconds) for record in self.read()[-6:]],
                         [(name, 39.0) for name in 'abcdef'])
        self.assertEqual([name for name in os.listdir(os.path.dirname(self.path))],
                         ['.durations'])

    def test_cannot_write(self) -> None:
        """It only helps: a build goes on without it"""
        self.record()
        os.unlink(self.path)
        os.mkdir(self.path)
        self.record(Outcome('a', 0, 0, seconds=1))
        self.assertEqual(self.read(), [])

    def test_full_disk(self) -> None:
        """The same when the disk is full"""
        if not os.path.exists('/dev/full'):
            self.skipTest('no /dev/full')
        os.makedirs(os.path.dirname(self.path))
        os.symlink('/dev/full', self.path)
        self.record(Outcome('a', 0, 0, seconds=1), Outcome('b', 0, 0, seconds=1))
        self.assertTrue(stat.S_ISCHR(os.stat(self.path).st_mode))


class OthersTest(DurationsCase):
    """Folders of other branches."""

    def test_others(self) -> None:
        """A new branch begins with what is known from the others"""
        other = os.path.join(self.out, 'other')
        self.record(Outcome('a', 0, 0, seconds=1), Outcome('b', 0, 0, seconds=2), folder=other)
        self.record(Outcome('c', 0, 0, seconds=3), folder=self.out)
        with open(os.path.join(self.out, 'file'), 'wb'):
            pass

        def found(*targets: str) -> List[str]:
            return [record.target
                    for record in durations.read_all(self.folder, self.out, targets)]

        self.assertEqual(sorted(found('a')), ['a', 'b', 'c'])
        self.record(Outcome('a', 0, 0, seconds=5))
        # Nothing is read that is not needed
        self.assertEqual(found('a'), ['a'])
        self.assertEqual(sorted(found('a', 'b')), ['a', 'a', 'b', 'c'])
        self.assertEqual(durations.read_all(self.folder, self.out, 'b')[-1].seconds, 5)
        self.assertEqual(durations.read_all(self.folder, self.out + '/none', 'b')[-1].seconds, 5)
