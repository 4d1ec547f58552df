# SPDX-License-Identifier: GPL-2.0+
"""A copy of what a slot built first of a family: who waits for it, and what it holds."""

import contextlib
import dataclasses
import os
import queue
import random
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
from unittest import mock

from support import wait_for

from buildman.build import folder, siblings, slots
from buildman.build.folder import STATE_FILE
from buildman.build.jobserver import JobServer
from buildman.core import events
from buildman.core.plan import Board, BoardJob, Commit, Settings, Toolchain
from buildman.process.registry import Account

# `tool` is a program of the host, which is noted as Kbuild does; `fail` and `hang` are boards
# that wait for `go`. A second one of a family, which is a letter, fails without what the
# first one has made
MAKEFILE = r'''
all: $(O)/scripts/tool
	@read board < $(O)/include/board; touch $$board.begun $(O)/scripts/$$board; \
	case $$board in ?[2-9]) [ -e $(O)/scripts/$${board%?}1 ] || exit 1 ;; esac; \
	case $$board in hang | fail) until [ -e go ]; do sleep 0.01; done ;; esac; \
	[ $$board != fail ]
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
        eng.submit(BoardJob(Board(board, 'sandbox', soc=board[:-1]), (0,), Toolchain(
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
    def waits(self, board, first='hang'):
        """Have a board wait for one that hangs; the engine is what there is then"""
        asked = threading.Event()

        def available(server):
            asked.set()
            return 0

        with mock.patch.object(JobServer, 'available', available):
            eng = self.start()
            self.submit(eng, first)
            self.wait_for(first)
            self.submit(eng, board)
            self.assertTrue(asked.wait(60))
            yield eng

    def test_tools_once(self):
        """What the first board made for the host is not made again for the second"""
        with self.waits('b') as eng:
            self.go_on()
            self.assertEqual({'hang': 0, 'b': 0}, self.wait(2))
        self.assertEqual(1, self.tools())
        eng.finish()
        self.assertTrue(eng.join(60))
        # Each has a folder of its own, with its own name in it
        for name in ('00', '01'):
            folder = os.path.join(self.work, name, 'build')
            with open(os.path.join(folder, 'scripts/.tool.cmd'), encoding='utf-8') as inf:
                self.assertEqual(f'cmd_tool := cc -I{folder}/include\n', inf.read())
        self.assertEqual({'00', '01'}, {name for name in os.listdir(self.work)
                                        if os.path.isdir(os.path.join(self.work, name))})

    def test_families(self):
        """Wherever a board is built, the first one of its family was"""
        self.check_families(self.start())
        self.assertEqual(1, self.tools())

    def check_families(self, eng):
        """Build boards of two families; return those whose objects are kept"""
        self.assertEqual({'a1': 0, 'b1': 0}, self.build(eng, 'a1', 'b1'))
        self.assertEqual({'a2': 0, 'b2': 0, 'a3': 0}, self.build(eng, 'a2', 'b2', 'a3'))
        eng.finish()
        self.assertTrue(eng.join(60))
        self.assertNotIn('siblings.new', os.listdir(self.work))
        stems = [os.path.join(self.work, name) for name in ('00', '01')]
        return sorted(board for stem in stems for board in folder.boards_in(
            os.path.join(stem, 'build'), os.path.join(stem, '.git', 'buildman-aside')))

    def test_kept_aside(self):
        """With few boards, a copy takes no board's objects away"""
        with open(os.path.join(self.source, 'Makefile'), 'w', encoding='utf-8') as outf:
            outf.write(MAKEFILE.replace('$$board.begun', '').replace('echo x >> tools;', ''))
        for words in (('init', '-q'), ('add', '.'), ('commit', '-q', '-m', 'x')):
            subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@example.com', *words],
                           cwd=self.source, check=True)
        commit = subprocess.check_output(['git', 'rev-parse', 'HEAD'], cwd=self.source, text=True)
        for keeps in (True, False):
            with self.subTest(keeps=keeps):
                found = self.check_families(self.start(keeps=keeps,
                                                       commits=(Commit(commit.strip()),)))
                self.assertEqual(5 if keeps else 2, len(found), found)
                shutil.rmtree(self.work)

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
        with self.waits('b', 'fail'):
            self.go_on()
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

    def test_stopped(self):
        """A copy that takes long is ended with all the rest, and leaves nothing"""
        bin_dir = os.path.join(self.dir, 'bin')
        os.mkdir(bin_dir)
        with open(os.path.join(bin_dir, 'cp'), 'w', encoding='ascii') as outf:
            outf.write(f'#!/bin/sh\n{shutil.which("cp")} "$@"\ntouch {self.dir}/copying\n'
                       'exec sleep 600\n')
        os.chmod(os.path.join(bin_dir, 'cp'), 0o755)
        with mock.patch.dict(os.environ, PATH=f'{bin_dir}:{os.environ["PATH"]}'):
            eng = self.start()
            self.submit(eng, 'a1')
            wait_for(os.path.join(self.dir, 'copying'))
            eng.stop()
            self.assertTrue(eng.join(60))
        self.assertEqual([], [name for name in os.listdir(self.work) if 'new' in name])

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
    """Who keeps a copy, and who waits for it"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.all = self.make()
        # Slot and what its folder became a copy of
        self.copied = []

    def make(self, boards=None):
        """Return what is to be tested"""
        return siblings.Siblings(os.path.join(self.dir, 'copies'), lambda: 0, boards)

    def begin(self, number, kin, commit='x', empty=False, wanted=lambda: True):
        """Begin a board"""
        def copy(path, maker):
            with open(os.path.join(path, 'name'), encoding='utf-8') as inf:
                self.copied.append((number, inf.read(), maker))
            return True

        self.all.begin(number, (kin, '', ''), commit, empty, copy, wanted)

    def built(self, number, kin, commit='x', good=True):
        """Tell that a board of a family was built"""
        def lend(use):
            folder = os.path.join(self.dir, f'{number:02}')
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, 'name'), 'w', encoding='utf-8') as outf:
                outf.write(kin)
            use(folder)

        self.all.built(number, commit, good, lend)

    def board(self, number, kin, **how):
        """Build a whole board; return what its slot began with"""
        before = len(self.copied)
        self.begin(number, kin, **how)
        self.built(number, kin)
        self.all.give_up(number)
        return [kin for _, kin, _ in self.copied[before:]]

    def thread(self, *args, **how):
        """Begin a board in another thread, which waits; return the thread"""
        waits = threading.Event()
        left = iter((True, True))

        def wanted():
            # Asked before each look at the state; at the second one it has waited
            if not next(left, False):
                waits.set()
            return True

        thread = threading.Thread(target=self.begin, args=args,
                                  kwargs={**how, 'wanted': wanted}, daemon=True)
        thread.start()
        self.assertTrue(waits.wait(60))
        return thread

    def end(self, *threads):
        """Wait for threads to end"""
        for thread in threads:
            thread.join(60)
            self.assertFalse(thread.is_alive())

    def test_families(self):
        """Each begins with its own family's, or else with any, if there is nothing"""
        self.assertEqual([], self.board(0, 'a', empty=True))
        # It has what it needs, or all but what is its family's
        self.assertEqual([], self.board(0, 'a'))
        self.assertEqual([], self.board(0, 'b'))
        self.assertEqual(['b'], self.board(1, 'c', empty=True))
        self.assertEqual(['a'], self.board(1, 'a'))
        self.assertEqual([], self.board(1, 'a'))
        self.assertEqual(['c'], self.board(0, 'c'))
        self.assertEqual([(1, 'b', 0), (1, 'a', 0), (0, 'c', 1)], self.copied)

    def test_waits(self):
        """The second of a family waits for the first, one with nothing for whoever builds"""
        self.begin(0, 'a', empty=True)
        second, other = self.thread(1, 'a', empty=True), self.thread(2, 'b', empty=True)
        # That one has a family of its own, whose first board is not begun yet
        third = self.thread(3, 'b', empty=True)
        self.built(0, 'a')
        self.end(second, other)
        self.assertEqual({(1, 'a', 0), (2, 'a', 0)}, set(self.copied))
        self.assertTrue(third.is_alive())
        self.built(2, 'b')
        self.end(third)
        self.assertEqual((3, 'b', 2), self.copied[-1])

    def test_gives_up(self):
        """When the first one fails, or is dropped, the next one is the first"""
        for fail in (lambda: self.built(0, 'a', good=False), lambda: self.all.give_up(0)):
            self.all, self.copied = self.make(), []
            self.begin(0, 'a', empty=True)
            second = self.thread(1, 'a', empty=True)
            fail()
            self.end(second)
            self.assertEqual([], self.copied)
            self.built(1, 'a')
            self.assertEqual(['a'], self.board(2, 'a', empty=True))

    def test_nobody_builds(self):
        """Those who have nothing do not wait for each other"""
        self.begin(0, 'a', empty=True)
        waiting = [self.thread(number, kin, empty=True) for number, kin in ((1, 'b'), (2, 'c'))]
        self.all.give_up(0)
        while all(thread.is_alive() for thread in waiting):
            waiting[0].join(0.01)
        number = 1 + [thread.is_alive() for thread in waiting].index(False)
        self.built(number, 'x')
        self.end(*waiting)
        self.assertEqual([(3 - number, 'x', number)], self.copied)

    def test_other_commit(self):
        """The objects of another commit may be newer than what a slot has of its own"""
        self.begin(0, 'a', empty=True)
        self.begin(1, 'a', 'y', empty=True)
        self.assertEqual([], self.copied)
        self.built(1, 'a', 'y')
        self.built(0, 'a')
        # It went on to another one, and back; what it builds first is not for others
        self.built(0, 'a', 'y')
        self.assertEqual([], self.board(0, 'b', empty=False)[1:])
        self.built(0, 'b', 'y')
        self.copied.clear()
        self.assertEqual(['b'], self.board(2, 'b', empty=True))

    def test_not_pure(self):
        """A folder with objects of an earlier run is not for others, but for its slot"""
        self.assertEqual([], self.board(0, 'a'))
        self.assertEqual([], self.board(1, 'a'))
        self.assertEqual([], self.board(2, 'b', empty=True))
        self.assertEqual(['b'], self.board(1, 'c'))
        self.assertEqual(['c'], self.board(0, 'c'))
        # Objects of its own, of an earlier run, came in place of what was there
        self.all.forget(0)
        self.assertEqual(['c'], self.board(0, 'd')[:1])
        self.all.forget(0)
        self.begin(0, 'e', 'y')
        self.built(0, 'e')
        self.assertEqual(['d'], self.board(3, 'e', empty=True))

    def test_last_of_family(self):
        """No copy is made for boards that there are not"""
        self.all = self.make({('a', '', ''): 1, ('b', '', ''): 2})
        self.board(0, 'a', empty=True)
        self.assertFalse(os.path.exists(os.path.join(self.dir, 'copies')))
        self.board(0, 'b')
        self.assertEqual(1, len(os.listdir(os.path.join(self.dir, 'copies'))))
        self.assertEqual(['b'], self.board(1, 'b', empty=True))
        # Nor for a slot that has waited, and has its copy
        self.all = self.make({('a', '', ''): 2, ('c', '', ''): 1})
        shutil.rmtree(os.path.join(self.dir, 'copies'))
        self.begin(0, 'a', empty=True)
        second = self.thread(1, 'a', empty=True)
        self.built(0, 'a')
        self.end(second)
        self.board(2, 'c', empty=True)
        self.assertEqual(1, len(os.listdir(os.path.join(self.dir, 'copies'))))

    def test_other_objects(self):
        """Nor does a slot with other objects take a copy for the sake of boards there are not"""
        self.all = self.make({('b', '', ''): 3})
        self.board(0, 'b', empty=True)
        self.assertEqual(['b'], self.board(1, 'b', empty=True))
        self.built(1, 'b', 'y')
        self.assertEqual([], self.board(1, 'c'))

    def test_most(self):
        """Only so many copies are kept, those that were used last"""
        with mock.patch.object(siblings, 'MOST', 2):
            self.board(0, 'a', empty=True)
            self.board(0, 'b')
            self.assertEqual(['a'], self.board(1, 'a', empty=True))
            self.board(0, 'c')
            self.assertEqual(2, len(os.listdir(os.path.join(self.dir, 'copies'))))
            self.assertEqual(['a'], self.board(2, 'a', empty=True))
            self.assertEqual(['c'], self.board(2, 'c'))
            # Nor does one stay that was used and is not any more
            self.board(0, 'd')
            self.assertEqual(['d'], self.board(3, 'a', empty=True))
        self.assertEqual(['a'], self.board(3, 'b', empty=True))
        self.all.close()
        self.assertFalse(os.path.exists(os.path.join(self.dir, 'copies')))

    def test_no_room(self):
        """Without much room no copy is kept, and nobody waits for it"""
        with mock.patch.object(siblings, 'SPARE', 1 << 62):
            self.board(0, 'a', empty=True)
        self.assertEqual([], self.board(1, 'a', empty=True))
        self.assertEqual(['a'], self.board(2, 'a', empty=True))

    def test_copy_fails(self):
        """One that cannot copy begins with nothing, and does not keep the others"""
        self.board(0, 'a', empty=True)

        def copy(path, maker):
            raise OSError(path)

        with self.assertRaises(OSError):
            self.all.begin(1, ('a', '', ''), 'x', True, copy, lambda: True)
        self.assertEqual(['a'], self.board(1, 'a', empty=True))

    def test_random(self):
        """A copy is of the commit that is built, whatever slots have built before"""
        for seed in range(200):
            with self.subTest(seed=seed):
                self.check_random(random.Random(seed))

    def check_random(self, rand):
        """Build boards at random, with a folder of each slot that knows what was built in it"""
        # Commits that the objects in each folder are of
        folders = {number: rand.choice(([], ['old'])) for number in range(3)}
        copies, used, first = {}, [], ''
        self.all = self.make()
        for _ in range(rand.randrange(2, 30)):
            number, kin = rand.randrange(3), (rand.choice('abc'), '', '')
            if rand.random() < 0.1:
                folders[number] = []

            def copy(path, maker, number=number):
                folders[number] = list(copies[path])
                used.append(copies[path])
                return True

            def keep(use, number=number):
                path = os.path.join(self.dir, 'copies', str(len(copies)))
                copies[path] = list(folders[number])
                use(path)

            with mock.patch.object(siblings, 'copy_folder', lambda *_: True):
                commits = 'x' if rand.random() < 0.5 else rand.choice(('xyz', 'yz', 'z'))
                if rand.random() < 0.1:
                    # Objects of its own, which were put aside; or those of no such run
                    folders[number] = ['old']
                    self.all.forget(number)
                    continue
                first = first or commits[0]
                self.all.begin(number, kin, commits[0], not folders[number], copy, lambda: True)
                for commit in commits:
                    folders[number].append(commit)
                    self.all.built(number, commit, rand.random() < 0.9, keep)
                self.all.give_up(number)
        for commits in used:
            self.assertEqual({first}, set(commits))


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
                             self.at('11.build.new'), Account())

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
            (self.at('link/11'), self.at('link/11/build')), self.at('11.build.new'), Account()))
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
