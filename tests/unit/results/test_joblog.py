# SPDX-License-Identifier: GPL-2.0+
"""Who built what when, read from the logs that a distributed build writes."""

from __future__ import annotations

import os
import tempfile
import time
import unittest
from unittest import mock

from buildman.core.outcome import Failure, FailureKind, Outcome
from buildman.remote import logs
from buildman.results import joblog


class TestJoblog(unittest.TestCase):
    """Lanes of machines."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.folder = tmp.name

    def write(self, *jobs: object) -> None:
        """Write a job log: board, commit, machine, when it ended, seconds, status, attempt"""
        log = logs.JobLog(os.path.join(self.folder, 'joblog'))
        for board, upto, machine, end, seconds, status, attempt in jobs:  # type: ignore[misc]
            infra = Failure(FailureKind.KILLED, 'killed') if status == 'infra' else None
            with mock.patch('time.time', return_value=1e9 + end):
                log.add(Outcome(board, upto, status if isinstance(status, int) else 2,
                                seconds=seconds, machine=machine, infra=infra),
                        status if isinstance(status, str) else '', attempt)
        log.close()

    def test_blocks(self) -> None:
        """A board is a block in a slot, whatever becomes of its commits"""
        self.write(('a', 0, 'far', 10, 10, 0, 1), ('b', 0, 'far', 12, 11, 2, 1),
                   ('a', 1, 'far', 15, 5, 'infra', 1), ('c', 0, '', 9, 4, 0, 1),
                   ('d', 0, 'far', 30, 15, 'dropped', 1), ('a', 1, 'far', 40, 5, 0, 2))
        got = joblog.read(self.folder)
        self.assertEqual([['c', 0, 1e9 + 5, 1e9 + 9, 1, 0, 0, 0]], got['-']['blocks'])
        self.assertEqual([['a', 0, 1e9, 1e9 + 15, 1, 0, 1, 0],
                          ['b', 1, 1e9 + 1, 1e9 + 12, 0, 1, 0, 0],
                          ['d', 0, 1e9 + 15, 1e9 + 30, 0, 0, 0, 1],
                          ['a', 0, 1e9 + 35, 1e9 + 40, 1, 0, 0, 0]], got['far']['blocks'])

    def test_events(self) -> None:
        """What happened in the last run is told, with a machine that built nothing"""
        self.write(('a', 0, 'far', 10, 10, 0, 1))
        with mock.patch('time.strftime', return_value='2026-01-02 03:04:05'):
            log = logs.BossLog(os.path.join(self.folder, '.buildman.log'))
            for text in ('start: 3 builds, machines: old', '[old] lost: gone',
                         'start: 1 builds, machines: far, near', '[far] ready',
                         'status: 0/1 done; far 0/1 boards', '[near] lost: no sign of life',
                         '[local] slow'):
                log.say(text)
            log.close()
        when = time.mktime(time.strptime('2026-01-02 03:04:05', '%Y-%m-%d %H:%M:%S'))
        got = joblog.read(self.folder)
        self.assertEqual([[when, 'ready']], got['far']['events'])
        self.assertEqual({'blocks': [], 'events': [[when, 'lost: no sign of life']]}, got['near'])
        self.assertEqual([[when, 'slow']], got['-']['events'])
        self.assertNotIn('old', got)

    def test_merged(self) -> None:
        """Logs of several folders are side by side, in order, and replaced when they come again"""
        top, base = self.folder, os.path.join(self.folder, 'all')
        for name, label, board in (
                ('10', 'shard-10', 'a'), ('2', 'shard-2', 'b'), ('one/out', '', 'c'),
                ('two/out', '', 'd'), ('mine', '', 'e'), ('2', 'shard-2', 'f')):
            self.folder = os.path.join(top, name)
            os.makedirs(self.folder, exist_ok=True)
            self.write((board, 0, '', 10, 10, 0, 1), (board, 1, 'far', 20, 10, 0, 1))
            joblog.merge(base, self.folder, label or joblog.folder_label(self.folder))
        got = joblog.read(base)
        outs = [joblog.folder_label(os.path.join(top, name, 'out')) for name in ('one', 'two')]
        want = {outs[0]: 'c', outs[1]: 'd', 'mine': 'e', 'shard 2': 'f', 'shard 10': 'a'}
        self.assertEqual(
            {f'{label}: {who}': [board] for label, board in want.items()
             for who in ('runner', 'far')},
            {name: [block[0] for block in lane['blocks']] for name, lane in got.items()})
        self.assertEqual(['shard 2: runner', 'shard 2: far', 'shard 10: runner', 'shard 10: far'],
                         [name for name in got if 'shard' in name])
        # It had nothing of its own; what it was given goes on with it
        again = os.path.join(top, 'again')
        joblog.merge(again, base, 'shard-1,2')
        self.assertEqual(got, joblog.read(again))
        joblog.drop_merged(again)
        self.assertEqual({}, joblog.read(again))

    def test_damage(self) -> None:
        """What makes no sense is left out, a line that is being written as well"""
        self.assertEqual({}, joblog.read(self.folder))
        path = os.path.join(self.folder, 'joblog')
        self.write(('a', 0, 'far', 10, 10, 0, 1))
        with open(path, 'ab') as outf:
            outf.write(b'x\ty\nb\t0\tfar\tnan\t1\t1\t0\t1\nb\t0\tfar\t1e300\t1\t1\t0\t1\n\xff\0\n'
                       b'b\t0\tfar\t100\t1\t1\t0\t1')
        self.assertEqual(['a'], [item[0] for item in joblog.read(self.folder)['far']['blocks']])
        with mock.patch.object(joblog, 'MAX_BYTES', 60):
            self.assertEqual({}, joblog.read(self.folder))
        with open(path, 'wb') as outf:
            outf.write(b'\n\n')
        self.assertEqual({}, joblog.read(self.folder))


if __name__ == '__main__':
    unittest.main()
