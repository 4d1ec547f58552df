# SPDX-License-Identifier: GPL-2.0+
"""What a slot builds first is lent to the others: who waits for it, and what a copy holds."""

import contextlib
import dataclasses
import os
import queue
import tempfile
import threading
import time
import unittest
from unittest import mock

from support import wait_for

from buildman.build import siblings, slots
from buildman.build.folder import STATE_FILE
from buildman.build.jobserver import JobServer
from buildman.core import events
from buildman.core.plan import Board, BoardJob, Settings, Toolchain

# `tool` is a program of the host, which is noted as Kbuild does; `fail` and `hang` are boards
MAKEFILE = r'''
all: $(O)/scripts/tool
	@read board < $(O)/include/board; touch $$board.begun; \
	if [ $$board = fail ]; then exit 1; fi; \
	if [ $$board = hang ]; then until [ -e go ]; do sleep 0.01; done; fi
$(O)/scripts/tool:
	@echo x >> tools; mkdir -p $(O)/scripts
	@echo 'cmd_tool := cc -I$(O)/include' > $(O)/scripts/.tool.cmd; touch $@
mrproper: ;
%_defconfig:
	@mkdir -p $(O)/include; echo $* > $(O)/include/board
'''


class TestEngine(unittest.TestCase):
    """The slots of an engine"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.source, self.work = (os.path.join(self.dir, name) for name in ('source', 'work'))
        os.makedirs(os.path.join(self.source, 'many'))
        with open(os.path.join(self.source, 'Makefile'), 'w', encoding='utf-8') as outf:
            outf.write(MAKEFILE)
        for number in range(siblings.LARGE):
            with open(os.path.join(self.source, 'many', str(number)), 'w', encoding='utf-8'):
                pass
        self.events = queue.Queue()

    def start(self, **settings):
        """Return an engine of two slots"""
        config = slots.EngineConfig(self.work, self.source, None, Settings(), 2, 2,
                                    dict(os.environ))
        eng = slots.Engine(dataclasses.replace(config, **settings), self.events.put)
        eng.start()
        self.addCleanup(eng.stop)
        return eng

    def build(self, eng, *boards):
        """Build boards; return what became of each"""
        for board in boards:
            self.submit(eng, board)
        return self.wait(len(boards))

    def submit(self, eng, board):
        """Hand out a board"""
        eng.submit(BoardJob(Board(board, 'sandbox'), (0,), Toolchain(
            'sandbox', '/bin/cc', '/bin', '')))

    def wait(self, count):
        """Wait for boards to be done; return the exit status of each that was built"""
        codes = {}
        while count:
            event = self.events.get(timeout=60)
            if isinstance(event, events.Built):
                codes[event.outcome.target] = event.outcome.return_code
            count -= isinstance(event, events.BoardDone)
        return codes

    def tools(self):
        """Return how often the tool was made since this was asked"""
        path = os.path.join(self.source, 'tools')
        with open(path, 'a+', encoding='utf-8') as outf:
            outf.seek(0)
            count = len(outf.read().split())
            outf.truncate(0)
        return count

    def wait_for(self, board):
        """Wait for the build of a board to begin"""
        wait_for(os.path.join(self.source, f'{board}.begun'))

    def go_on(self):
        """Let the board that hangs go on"""
        with open(os.path.join(self.source, 'go'), 'w', encoding='utf-8'):
            pass

    @contextlib.contextmanager
    def waits(self, board):
        """Have a board wait for one that hangs; the engine is what there is then"""
        asked = threading.Event()

        def available(server):
            asked.set()
            return 0

        with mock.patch.object(JobServer, 'available', available):
            eng = self.start()
            self.submit(eng, 'hang')
            self.wait_for('hang')
            self.submit(eng, board)
            self.assertTrue(asked.wait(60))
            yield eng

    def test_tools_once(self):
        """What the first board made for the host is not made again for the second"""
        with self.waits('b'):
            self.go_on()
            self.assertEqual({'hang': 0, 'b': 0}, self.wait(2))
        self.assertEqual(1, self.tools())
        # Each has a folder of its own, with its own name in it
        for name in ('00', '01'):
            folder = os.path.join(self.work, name, 'build')
            with open(os.path.join(folder, 'scripts/.tool.cmd'), encoding='utf-8') as inf:
                self.assertEqual(f'cmd_tool := cc -I{folder}/include\n', inf.read())
        self.assertEqual({'00', '01'}, {name for name in os.listdir(self.work)
                                        if os.path.isdir(os.path.join(self.work, name))})

    def test_not_for_all(self):
        """A folder for each board, one that is to be cleaned, no processors to count: no waiting"""
        for settings in ({'per_board_out_dir': True}, {'mrproper': True}, {'jobs': 2}):
            with self.subTest(settings=settings):
                self.check_alone(self.start(work_dir=os.path.join(self.dir, *settings),
                                            settings=Settings(**settings)))

    def check_alone(self, eng):
        """Check that a board is built while another one hangs"""
        with mock.patch.object(siblings, 'SAVES', 600):
            self.submit(eng, 'hang')
            self.wait_for('hang')
            self.assertEqual({'b': 0}, self.build(eng, 'b'))
        self.go_on()
        self.assertEqual({'hang': 0}, self.wait(1))
        for name in ('go', 'hang.begun'):
            os.remove(os.path.join(self.source, name))

    def test_small(self):
        """A small source is built sooner than copied"""
        with mock.patch.object(siblings, 'LARGE', siblings.LARGE + 100):
            self.check_alone(self.start())
        self.assertEqual(2, self.tools())

    def test_kept(self):
        """A slot that has objects of an earlier run waits for nobody"""
        with self.waits('b'):
            self.go_on()
            self.wait(2)
        for name in ('go', 'hang.begun'):
            os.remove(os.path.join(self.source, name))
        self.check_alone(self.start())
        self.assertEqual(1, self.tools())

    def test_failure(self):
        """What has failed is not lent: the others begin with nothing"""
        with mock.patch.object(siblings, 'SAVES', 600):
            eng = self.start()
            self.submit(eng, 'fail')
            self.wait_for('fail')
            self.submit(eng, 'b')
            self.assertEqual({'b': 0, 'fail': 2}, self.wait(2))
        self.assertLessEqual(2, self.tools())

    def test_hangs(self):
        """Nobody waits while processors have nothing to do"""
        with mock.patch.object(siblings, 'SAVES', 0.1), mock.patch.object(
                siblings, 'idle_time', time.monotonic):
            eng = self.start()
            self.submit(eng, 'hang')
            self.wait_for('hang')
            self.assertEqual({'b': 0}, self.build(eng, 'b'))
        self.assertEqual(2, self.tools())

    def test_busy(self):
        """Processors that others use are not idle"""
        looked = threading.Event()
        times = iter(range(5, 0, -1))

        def busy():
            if not next(times, 0):
                looked.set()
            return 7.0

        with mock.patch.object(siblings, 'SAVES', 0.1), mock.patch.object(
                siblings, 'idle_time', busy):
            eng = self.start()
            self.submit(eng, 'hang')
            self.wait_for('hang')
            self.submit(eng, 'b')
            self.assertTrue(looked.wait(60))
            self.go_on()
            self.assertEqual({'hang': 0, 'b': 0}, self.wait(2))
        self.assertEqual(1, self.tools())

    def test_dropped(self):
        """A board that is not wanted any more does not wait; nor does any when all is to end"""
        with self.waits('b') as eng:
            eng.cancel('b')
            self.assertEqual({}, self.wait(1))
            self.submit(eng, 'c')
            eng.stop()
            self.assertTrue(eng.join(60))
        self.assertEqual(1, self.tools())


class TestSiblings(unittest.TestCase):
    """Who lends, and who waits"""

    def setUp(self):
        self.all = siblings.Siblings(lambda: 0)
        self.copied = []

    def borrow(self, number, commit='x'):
        """Ask for a folder"""
        self.all.borrow(number, commit, self.copied.append, lambda: True)

    def test_other_commit(self):
        """The objects of another commit may be newer than what a slot has of its own"""
        self.borrow(0)
        self.borrow(1, 'y')
        self.assertEqual([], self.copied)
        self.assertTrue(self.all.is_lender(0, 'x'))
        self.assertFalse(self.all.is_lender(0, 'y'))
        self.assertFalse(self.all.is_lender(1, 'x'))

    def test_left_alone(self):
        """The folder is lent until all have copied it, and only once"""
        self.borrow(0)
        copying, go = threading.Event(), threading.Event()

        def copy(path):
            copying.set()
            go.wait(60)
            self.copied.append(path)

        other = threading.Thread(
            target=self.all.borrow, args=(1, 'x', copy, lambda: True), daemon=True)
        other.start()
        lender = threading.Thread(target=self.all.lend, args=('folder',), daemon=True)
        lender.start()
        self.assertTrue(copying.wait(60))
        self.borrow(2)
        self.assertTrue(lender.is_alive())
        go.set()
        for thread in (other, lender):
            thread.join(60)
            self.assertFalse(thread.is_alive())
        self.assertEqual(['folder', 'folder'], self.copied)
        self.assertFalse(self.all.is_lender(0, 'x'))
        self.borrow(3)
        self.assertEqual(['folder', 'folder'], self.copied)

    def test_copy_fails(self):
        """One that cannot copy does not keep the lender"""
        self.borrow(0)
        started = threading.Event()

        def wanted():
            started.set()
            return True

        def copy(path):
            raise OSError(path)

        def other():
            with self.assertRaises(OSError):
                self.all.borrow(1, 'x', copy, wanted)

        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        self.assertTrue(started.wait(60))
        self.all.lend('folder')
        thread.join(60)
        self.assertFalse(thread.is_alive())


class TestCopy(unittest.TestCase):
    """What a copy holds"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.old, self.new = (self.at(name) for name in ('10', '11'))
        os.makedirs(self.at('10/build/include'))

    def at(self, name):
        """Return a path"""
        return os.path.join(self.dir, name)

    def write(self, name, text):
        """Write a file of the lender's, of long ago"""
        path = self.at(f'10/build/{name}')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)
        os.utime(path, ns=(10 ** 18, 10 ** 18 + len(name)))

    def copy(self):
        """Copy it"""
        return siblings.copy((self.old, self.at('10/build')), (self.new, self.at('11/build')),
                             self.at('11.build.new'))

    def read(self, name):
        """Return the text of a file of the copy"""
        with open(self.at(f'11/build/{name}'), encoding='utf-8') as inf:
            return inf.read()

    def test_names(self):
        """Folders in notes and links are those of the new slot; what else has them goes"""
        text = 'cc -fdebug-prefix-map={0}=. {0}/a.c {0}0/b.c {0}-c {0}.log'
        self.write('.a.o.cmd', text.format(self.old))
        self.write('a.o', 'object')
        self.write('b.o', f'object of {self.old}/b.c')
        self.write('.b.o.cmd', 'cc b.c')
        self.write(STATE_FILE, '{}')
        os.symlink(f'{self.old}/arch/arm', self.at('10/build/include/arch'))
        os.symlink('..', self.at('10/build/source'))
        self.assertTrue(self.copy())
        self.assertEqual(['.a.o.cmd', STATE_FILE, 'a.o', 'include', 'source'],
                         sorted(os.listdir(self.at('11/build'))))
        self.assertEqual(f'cc -fdebug-prefix-map={self.new}=. {self.new}/a.c {self.old}0/b.c '
                         f'{self.old}-c {self.old}.log', self.read('.a.o.cmd'))
        self.assertEqual(f'{self.new}/arch/arm', os.readlink(self.at('11/build/include/arch')))
        self.assertEqual('..', os.readlink(self.at('11/build/source')))
        for name in ('.a.o.cmd', 'a.o'):
            self.assertEqual(os.stat(self.at(f'10/build/{name}')).st_mtime_ns,
                             os.stat(self.at(f'11/build/{name}')).st_mtime_ns, name)
        # The lender's own are as they were
        with open(self.at('10/build/.a.o.cmd'), encoding='utf-8') as inf:
            self.assertEqual(text.format(self.old), inf.read())
        self.assertTrue(os.path.exists(self.at('10/build/b.o')))

    def test_real_name(self):
        """A work folder behind a link: notes have both names"""
        os.symlink(self.dir, self.at('link'))
        self.write('.a.o.cmd', f'{self.old} {self.at("link/10")}')
        os.mkdir(self.new)
        self.assertTrue(siblings.copy(
            (self.at('link/10'), self.at('link/10/build')),
            (self.at('link/11'), self.at('link/11/build')), self.at('11.build.new')))
        self.assertEqual(f'{self.new} {self.at("link/11")}', self.read('.a.o.cmd'))

    def test_odd_files(self):
        """What was there is gone; a pipe is no file to read"""
        os.makedirs(self.at('11/build/x'))
        os.mkfifo(self.at('10/build/pipe'))
        self.assertTrue(self.copy())
        self.assertEqual(['include', 'pipe'], sorted(os.listdir(self.at('11/build'))))

    def test_no_copy(self):
        """Without a copy there is nothing"""
        os.makedirs(self.at('11/build/x'))
        with mock.patch.dict(os.environ, PATH=self.dir):
            self.assertFalse(self.copy())
        self.assertEqual([], os.listdir(self.new))
        self.assertFalse(os.path.exists(self.at('11.build.new')))
