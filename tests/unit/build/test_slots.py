# SPDX-License-Identifier: GPL-2.0+
"""The engine's threads: what goes wrong in one of them reaches whoever owns the run."""

import dataclasses
import os
import queue
import tempfile
import unittest

from support import wait_for

from buildman.build import slots
from buildman.core import events
from buildman.core.plan import Board, BoardJob, Plan, Settings, Toolchain
from buildman.results.tree import ResultTree
from buildman.schedule.inbox import Inbox
from buildman.schedule.local import LocalWorker
from buildman.schedule.loop import Loop
from buildman.schedule.progress import Status


class Broken(slots.Engine):
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
        self.config = slots.EngineConfig(
            os.path.join(self.dir, 'work'), self.dir, None, Settings(), 2, 2, dict(os.environ))

    def test_crash(self):
        """A defect in a thread ends the run with that error: it used to wait for ever"""
        job = BoardJob(Board('b', 'sandbox'), (0,), Toolchain('sandbox', '/bin/cc', '/bin', ''))
        with open(os.devnull, 'w', encoding='utf-8') as null:
            builder = Loop(Plan((job,), None, Settings()), ResultTree(self.dir, None),
                           Status(null), Inbox())
            with self.assertRaisesRegex(ZeroDivisionError, 'slot'):
                builder.run([LocalWorker(Broken(self.config, builder.events.post))])

    def test_dropped_and_given_again(self):
        """A board that comes back while it is being dropped: its end is no failure of the machine

        Else it would count as one, and the second time as a failure of the board.
        """
        source = os.path.join(self.dir, 'source')
        os.mkdir(source)
        with open(os.path.join(source, 'Makefile'), 'w', encoding='utf-8') as outf:
            outf.write('all:\n\t@echo x >> started; [ -e go ] || exec sleep 600\n'
                       '%_defconfig:\n\t@true\n')
        config = dataclasses.replace(self.config, source_dir=source, slots=2)
        job = BoardJob(Board('b', 'sandbox'), (0,), Toolchain('sandbox', '/bin/cc', '/bin', ''))
        eng = slots.Engine(config, self.events.put)
        eng.start()
        self.addCleanup(eng.stop)
        for attempt in range(0, 10, 2):
            eng.submit(dataclasses.replace(job, attempt=attempt))
            wait_for(os.path.join(source, 'started'))
            with open(os.path.join(source, 'go'), 'w', encoding='utf-8'):
                pass
            eng.cancel('b')
            eng.submit(dataclasses.replace(job, attempt=attempt + 1))
            told = []
            while sum(isinstance(event, events.BoardDone) for event in told) < 2:
                told.append(self.events.get(timeout=60))
            codes = [event.outcome.return_code for event in told if isinstance(event, events.Built)]
            self.assertEqual([0], codes)
            self.assertEqual([(attempt, (0,)), (attempt + 1, ())], sorted(
                (event.attempt, event.missing) for event in told
                if isinstance(event, events.BoardDone)))
            for name in ('go', 'started'):
                os.remove(os.path.join(source, name))

    def test_home(self):
        """A board goes to the slot that has its objects, whichever is free first"""
        source = os.path.join(self.dir, 'source')
        os.mkdir(source)
        with open(os.path.join(source, 'Makefile'), 'w', encoding='utf-8') as outf:
            # Both builds run at once: each waits for the other
            outf.write('all:\n\t@echo > $(O)/../$$(cat $(O)/board).at\n'
                       '\t@until [ $$(ls $(O)/../../*/*.at | wc -l) = 2 ]; do sleep 0.01; done\n'
                       '%_defconfig:\n\t@mkdir -p $(O)/include; echo $* > $(O)/board\n')
        eng = slots.Engine(dataclasses.replace(self.config, source_dir=source), self.events.put)
        eng.start()
        self.addCleanup(eng.stop)
        homes = []
        for attempt in range(12):
            for board in ('ab', 'ba')[attempt % 2]:
                eng.submit(BoardJob(Board(board, 'sandbox'), (0,), Toolchain(
                    'sandbox', '/bin/cc', '/bin', ''), attempt=attempt))
            left = 2
            while left:
                left -= isinstance(self.events.get(timeout=60), events.BoardDone)
            found = {}
            for number in ('00', '01'):
                folder = os.path.join(self.dir, 'work', number)
                found[number] = [name for name in os.listdir(folder) if name.endswith('.at')]
                for name in found[number]:
                    os.unlink(os.path.join(folder, name))
            homes.append(found)
        self.assertEqual(homes[:1] * 12, homes)

    def test_no_slot(self):
        """Without a single slot the machine is given up, with the reason"""
        config = slots.EngineConfig(
            os.path.join(self.dir, 'file', 'work'), self.dir, None, Settings(), 1, 1, {})
        with open(os.path.join(self.dir, 'file'), 'w', encoding='utf-8'):
            pass
        with self.assertRaises(NotADirectoryError):
            slots.Engine(config, self.events.put).start()

    def test_names(self):
        """Every event says which worker it comes from"""
        for kind in events.Event.__args__:
            self.assertIn('worker', kind.__dataclass_fields__)
