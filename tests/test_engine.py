# SPDX-License-Identifier: GPL-2.0+
"""The engine's threads: what goes wrong in one of them reaches whoever owns the run."""

import os
import queue
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'tools'))

from buildman import engine, events
from buildman.builder import Builder, LocalWorker
from buildman.plan import Board, BoardJob, Plan, Settings, Toolchain
from buildman.results import ResultTree
from buildman.status import Status


class Broken(engine.Engine):
    """An engine with a defect in the thread of its slots"""

    def _make_slot(self, number):
        raise ZeroDivisionError(f'slot {number}')


class TestEngine(unittest.TestCase):
    """No thread dies in silence"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.events = queue.Queue()
        self.config = engine.EngineConfig(
            os.path.join(self.dir, 'work'), self.dir, None, Settings(), 2, 2, dict(os.environ))

    def test_crash(self):
        """A defect in a thread ends the run with that error: it used to wait for ever"""
        job = BoardJob(Board('b', 'sandbox'), (0,), Toolchain('sandbox', '/bin/cc', '/bin', ''))
        with open(os.devnull, 'w', encoding='utf-8') as null:
            builder = Builder(Plan((job,), None, Settings()), ResultTree(self.dir, None),
                              Status(null), self.events)
            with self.assertRaisesRegex(ZeroDivisionError, 'slot'):
                builder.run([LocalWorker(Broken(self.config, self.events.put))])

    def test_no_slot(self):
        """Without a single slot the machine is given up, with the reason"""
        config = engine.EngineConfig(
            os.path.join(self.dir, 'file', 'work'), self.dir, None, Settings(), 1, 1, {})
        with open(os.path.join(self.dir, 'file'), 'w', encoding='utf-8'):
            pass
        with self.assertRaises(NotADirectoryError):
            engine.Engine(config, self.events.put).start()

    def test_names(self):
        """Every event says which worker it comes from"""
        for kind in events.Event.__args__:
            self.assertIn('worker', kind.__dataclass_fields__)


if __name__ == '__main__':
    unittest.main()
