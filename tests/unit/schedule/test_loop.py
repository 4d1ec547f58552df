# SPDX-License-Identifier: GPL-2.0+
"""The builder loop with workers that are made up: what depends on who says what when."""

from __future__ import annotations

import os
import queue
import tempfile
import unittest
from typing import Optional, Sequence, Tuple

from buildman.core.events import BoardDone, Built, Event, WorkerGone
from buildman.core.outcome import Outcome
from buildman.core.plan import Board, BoardJob, Plan, Settings, Toolchain
from buildman.results.tree import ResultTree
from buildman.schedule.loop import Builder, Report
from buildman.schedule.progress import Status

JOB = BoardJob(Board('b', 'sandbox'), (0,), Toolchain('sandbox', '/bin/cc', '/bin', ''))


class Twice:
    """A worker that has its result, and once more when nothing is open any more"""

    name = 'twice'
    slots = 1
    archs: Optional[Sequence[str]] = None
    speed = 1.0

    def __init__(self, folder: str, events: 'queue.Queue[Event]') -> None:
        self._folder = folder
        self._events = events

    def _result(self, stage: str) -> Built:
        folder = os.path.join(self._folder, stage)
        os.makedirs(folder)
        path = os.path.join(folder, 'u-boot.bin')
        with open(path, 'wb') as outf:
            outf.write(stage.encode())
        return Built(self.name, Outcome('b', 0, 0, images={'u-boot.bin': path}))

    def start(self) -> None:
        """It is ready."""

    def submit(self, job: BoardJob) -> None:
        """Build it at once."""
        self._events.put(self._result('x.stage-b-0'))
        self._events.put(BoardDone(self.name, job.board.target, (), ''))

    def cancel(self, target: str) -> None:
        """It is not slow."""

    def finish(self) -> None:
        """Send what was under way."""
        self._events.put(self._result('y.stage-b-0'))

    def stop(self) -> None:
        """The same."""
        self.finish()


class Gone(Twice):
    """A worker that leaves before it is ready"""

    slots = 0

    def __init__(self, events: 'queue.Queue[Event]', archs: Optional[Tuple[str, ...]]) -> None:
        super().__init__('', events)
        self._known = archs

    def start(self) -> None:
        """Say that it cannot take part."""
        self._events.put(WorkerGone(self.name, 'not used: it is busy', self._known))

    def finish(self) -> None:
        """It has gone."""


class UnbuiltTest(unittest.TestCase):
    """Boards that nobody could build"""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = ResultTree(folder.name, None)

    def build(self, archs: Optional[Tuple[str, ...]],
              settings: Optional[Settings] = None) -> Report:
        """Build with a machine that takes no part and has these compilers"""
        events: 'queue.Queue[Event]' = queue.Queue()
        with open(os.devnull, 'w', encoding='utf-8') as null:
            builder = Builder(Plan((JOB,), None, settings or Settings()), self.tree, Status(null),
                              events, host='here')
            return builder.run([Gone(events, archs)])

    def test_who_has_it(self) -> None:
        """No compiler is the result only if that is sure; a machine that is busy may have one"""
        for archs in (None, ('sandbox',), ('arm', 'sandbox')):
            with self.subTest(archs=archs):
                report = self.build(archs)
                self.assertEqual({'b': ((0,), 'no machine is left that can build it')},
                                 report.missing)
                self.assertEqual({}, report.lacking)
                self.assertFalse(os.path.exists(self.tree.board_dir(0, 'b')))
        for archs in ((), ('arm',)):
            report = self.build(archs)
            self.assertEqual(({}, {'b': (0,)}), (report.missing, report.lacking))
            self.assertTrue(self.tree.lacks_compiler(0, 'b'))
        # What was found out is not forgotten when a machine does not tell
        self.assertEqual({'b'}, set(self.build(None).missing))
        self.assertTrue(self.tree.lacks_compiler(0, 'b'))

    def test_earlier(self) -> None:
        """What was to be built anew, and could not be, is not what was built before"""
        self.tree.write(Outcome('b', 0, 0))
        self.assertEqual({}, self.build(None).missing)
        self.assertEqual((0, False), self.tree.read_done(0, 'b'))
        self.assertEqual({'b'}, set(self.build(None, Settings(force_build=True)).missing))
        self.assertIsNone(self.tree.read_done(0, 'b'))


class BuilderTest(unittest.TestCase):
    """Results that come when they are not expected"""

    def test_late_images(self) -> None:
        """Images of a result that came too late do not fill the disk"""
        with tempfile.TemporaryDirectory() as folder, \
                open(os.devnull, 'w', encoding='utf-8') as null:
            events: 'queue.Queue[Event]' = queue.Queue()
            tree = ResultTree(os.path.join(folder, 'out'), None)
            stage = os.path.join(folder, 'stage')
            builder = Builder(Plan((JOB,), None, Settings(keep_outputs=True)), tree,
                              Status(null), events)
            report = builder.run([Twice(stage, events)])
            self.assertEqual(report.missing, {})
            self.assertEqual(os.listdir(stage), [])
            with open(os.path.join(tree.commit_dir(0), 'b', 'u-boot.bin'), 'rb') as inf:
                self.assertEqual(inf.read(), b'x.stage-b-0')
