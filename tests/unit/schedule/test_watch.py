# SPDX-License-Identifier: GPL-2.0+
"""What is told of machines and failures, from events, and how it is laid out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import unittest
from typing import Any, Dict, List

from buildman.core.events import BoardDone, Built, Started, WorkerGone
from buildman.core.outcome import Outcome
from buildman.schedule import watch
from buildman.schedule.ledger import Ledger, Task


class Made:
    """A worker that does nothing"""

    def __init__(self, name: str, slots: int) -> None:
        self.name, self.slots = name, slots


class WatchTest(unittest.TestCase):
    """Who looks at the screen sees what goes on"""

    def setUp(self) -> None:
        self.now = 0.0

    def made(self, machines: int) -> watch.Watch:
        """Return what watches so many machines of two slots, each with a board in hand"""
        names = ['', *(f'machine-{num:02}' for num in range(1, machines))]
        self.ledger = Ledger([Task(f'b{name}', 'arm', (0, 1, 2)) for name in names])
        workers: List[Any] = [Made(name, 2) for name in names]
        seen = watch.Watch(self.ledger, workers, lambda name: (1.5, 7.0 if name else 0.0),
                           lambda: self.now)
        for name in names:
            self.ledger.add_worker(name, 2)
            self.ledger.hand_out(self.ledger.workers[name], f'b{name}')
            seen(Started(name, f'b{name}', 0), '')
        return seen

    def broken(self, seen: watch.Watch, name: str, upto: int, text: str) -> None:
        """Let a board fail at a commit"""
        self.ledger.result(name, f'b{name}', upto)
        seen(Built(name, Outcome(f'b{name}', upto, 2, stderr=text)), '')

    def test_events(self) -> None:
        """What is in hand, what came out, who is gone"""
        seen = self.made(3)
        self.now = 30.0
        self.broken(seen, '', 0, 'make: *** [x] Error 2\nIn file\na.c:1: \x1b[31merror: no\nb')
        seen(Built('', Outcome('b', 1, 0)), 'dropped')
        seen(Started('machine-01', 'ghost', 0), '')
        seen(BoardDone('machine-02', 'bmachine-02'), '')
        self.ledger.lost('machine-01')
        seen(WorkerGone('machine-01', 'cut'), '')
        self.now = 40.0
        state = seen.state()
        here, first, second = state['machines']
        self.assertEqual({
            'name': 'local', 'state': 'ready', 'why': '', 'slots': 2, 'in_hand': 1, 'results': 1,
            'per_minute': 1.5, 'load': 1.5, 'silent': 0.0,
            'building': [{'board': 'b', 'commit': 2, 'seconds': 10.0}]}, here)
        self.assertEqual(('lost', 'cut', []), (
            first['state'], first['why'], first['building']))
        self.assertEqual([], second['building'])
        self.assertEqual([{'board': 'b', 'commit': 1, 'machine': 'local',
                           'error': 'a.c:1: error: no'}], state['failures'])
        for text, want in (('***\n*** Cannot find x!\nmake: *** Error 1\n', '*** Cannot find x!'),
                           ('make: *** Error 1\n', 'make: *** Error 1'), ('***\n', '')):
            self.assertEqual(want, watch.first_error(text))
        self.now = 100.0
        self.assertEqual(0.0, seen.state()['machines'][0]['per_minute'])

    def test_bounds(self) -> None:
        """As much as fits, on any terminal: the lost machine and a failure are always there"""
        seen = self.made(20)
        self.ledger.lost('machine-19')
        seen(WorkerGone('machine-19', 'no sign of life'), '')
        for upto in range(3):
            self.broken(seen, '', upto, 'a.c:1: error: ' + 300 * '€')
        state = seen.state()
        for rows in range(30):
            for columns in (10, 50, 79, 200):
                lines = watch.lines(state, rows, columns)
                self.assertLessEqual(len(lines), rows)
                self.assertTrue(all(len(line) <= columns for line in lines), lines)
                if lines:
                    self.assertTrue(any('machine-19' in line for line in lines), lines)
                    self.assertTrue(lines[-1].startswith('b@03: a.c:1: error: ??'), lines)
        lines = watch.lines(state, 22, 79)
        self.assertEqual(22, len(lines))
        self.assertEqual(['local', '2', '1', '3'], lines[1].split()[:4])
        self.assertEqual('machine-18          2    1       0   0.0    1.5     7s  '
                         'bmachine-18@01 0s', lines[19])
        self.assertEqual('machine-19          2    0       0   0.0    1.5     7s  '
                         'lost: no sign of life', lines[20])
        self.assertTrue(watch.lines(state, 10, 79)[-2].startswith('and 13 more        26   13 '))


class StatusFileTest(unittest.TestCase):
    """Who polls the file reads a whole one"""

    def test_file(self) -> None:
        """It is there at once; that it cannot be written later is told once, and all goes on"""
        folder = tempfile.mkdtemp(prefix='buildman-status-')
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        path = os.path.join(folder, 'state')
        said: List[str] = []
        file = watch.StatusFile(path, said.append)

        def read() -> Dict[str, Any]:
            with open(path, encoding='utf-8') as inf:
                got: Dict[str, Any] = json.load(inf)
            return got

        self.assertEqual(('starting', None, 0), (
            read()['phase'], read()['exit_status'], read()['total']))
        file.update({'total': 5, 'left': 7})
        self.assertEqual(('building', 5, 7), (read()['phase'], read()['total'], read()['left']))
        file.end('interrupted', 130)
        self.assertEqual(('interrupted', 130, 5, None), (
            read()['phase'], read()['exit_status'], read()['total'], read()['left']))
        shutil.rmtree(folder)
        file.update({'total': 6})
        file.end('ended', 0)
        self.assertEqual([f"cannot write '{path}': No such file or directory"], said)
