# SPDX-License-Identifier: GPL-2.0+
"""The job server, with the real make on its other end."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest

from support import needs, wait_until

from buildman.build.jobserver import JobServer, Stopped
from buildman.build.make import MakeRunner
from buildman.core.plan import Board, Settings
from buildman.process.registry import OutOfTime, ProcessGroups

# Each target notes when it starts and waits until as many run as it was told
MAKEFILE = '''
all: $(foreach i,1 2 3 4,job$(i))
job%:
\t@echo start >> $(LOG); while [ $$(grep -c start $(LOG)) -lt $(WANT) ]; do :; done
'''


class TestJobServer(unittest.TestCase):
    """Tokens are handed out, come back, and are found again when lost"""

    def setUp(self):
        needs('make')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        with open(os.path.join(self.dir, 'Makefile'), 'w', encoding='utf-8') as outf:
            outf.write(MAKEFILE)
        self.log = os.path.join(self.dir, 'log')

    def make(self, seat, want):
        """Start a make that takes part"""
        env = dict(os.environ, MAKEFLAGS=seat.makeflags)
        proc = subprocess.Popen(
            ['make', '-s', f'LOG={self.log}', f'WANT={want}'], cwd=self.dir, env=env,
            pass_fds=seat.fds, start_new_session=True, stderr=subprocess.PIPE)
        self.addCleanup(proc.stderr.close)
        self.addCleanup(proc.wait)
        self.addCleanup(self.end, proc, signal.SIGKILL)
        return proc

    def end(self, proc, sig):
        """End a make and its jobs"""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(proc.pid, sig)
        proc.wait()

    def test_make_takes_part(self):
        """A lone make uses all processors: else the last board takes for ever"""
        server = JobServer(4)
        self.addCleanup(server.close)
        with server.token() as seat:
            proc = self.make(seat, 4)
            _, err = proc.communicate(timeout=60)
        self.assertEqual(proc.returncode, 0)
        # A complaint would turn a clean board into one with warnings
        self.assertEqual(err, b'')
        self.assertEqual(server.available(), 4)

    def test_tokens_are_shared(self):
        """A make gets no more than what others leave: the machine is not overrun"""
        server = JobServer(4)
        self.addCleanup(server.close)
        seats = [server.acquire() for _ in range(3)]
        proc = self.make(seats[0], 3)
        wait_until(lambda: os.path.exists(self.log), name='first job')
        # One token left, and one that came with starting it: no third job
        self.assertEqual(wait_until(lambda: server.available() == 0, name='tokens'), True)
        with open(self.log, encoding='utf-8') as inf:
            self.assertLessEqual(len(inf.readlines()), 2)
        server.release(seats[1])
        proc.communicate(timeout=60)
        self.assertEqual(proc.returncode, 0)

    def test_killed_make(self):
        """Tokens that died with a make are found: else the machine slows down for good"""
        server = JobServer(3)
        self.addCleanup(server.close)
        with server.token() as seat:
            proc = self.make(seat, 99)
            wait_until(lambda: server.available() == 0, name='make to take all tokens')
            self.end(proc, signal.SIGKILL)
        self.assertEqual(server.available(), 3)

    def test_killed_beside_others(self):
        """The others go on: else tokens are lost with each --timeout until none is left"""
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            with self.subTest(sig=sig):
                server = JobServer(8)
                self.addCleanup(server.close)
                # One slot always has a make, in turn with another one
                other = server.acquire()
                for _ in range(5):
                    seat = server.acquire()
                    proc = self.make(seat, 99)
                    # Four jobs, of which one is with the token of its own
                    wait_until(lambda s=server: s.available() == 3, name='the jobs to begin')
                    self.end(proc, sig)
                    seat.killed = True
                    server.release(seat)
                    self.assertIn(server.available(), (4, 7))
                    other, seat = server.acquire(), other
                    server.release(seat)
                    # It is known now what was lost
                    self.assertEqual(server.available(), 7)
                server.release(other)
                self.assertEqual(server.available(), 8)

    def test_killed_while_others_wait(self):
        """A starter that waits for a token of the old pipe gets one of the new one"""
        server = JobServer(2)
        self.addCleanup(server.close)
        first, killed = server.acquire(), server.acquire()
        got = []
        thread = threading.Thread(target=lambda: got.append(server.acquire()))
        thread.start()
        wait_until(lambda: first.pool.waiting, name='the starter to wait')
        killed.killed = True
        server.release(killed)
        thread.join(60)
        self.assertIsNot(got[0].pool, first.pool)
        self.assertEqual((server.available(), len(got)), (0, 1))
        server.release(first)
        server.release(got[0])
        self.assertEqual(server.available(), 2)

    def run_make(self, settings, path, server=None):
        """Run a make as builds do; return what it printed"""
        groups = ProcessGroups()
        self.addCleanup(groups.close)
        runner = MakeRunner(self.dir, os.path.join(self.dir, '00'), settings, groups, server)
        runner.start_board(Board('b', 'arm'), self.dir, (), ('-s', *(
            ['-j', str(settings.jobs)] if settings.jobs else [])),
                           {**os.environ, 'PATH': path, 'MAKEFLAGS': 'FOO=bar'})
        self.assertEqual(runner.run('flags'), 0)
        return runner.said()[0].decode()

    def test_other_makes(self):
        """A make below ours may be older: no make before 4.4 knows a job server with a path"""
        with open(os.path.join(self.dir, 'Makefile'), 'a', encoding='utf-8') as outf:
            outf.write('flags: kid1 kid2\n\t+@echo "$(FOO) $$MAKEFLAGS"\nkid%:\n\t:\n')
        server = JobServer(2)
        self.addCleanup(server.close)
        real, path = shutil.which('make'), os.environ['PATH']
        fake = os.path.join(self.dir, 'make')
        with open(fake, 'w', encoding='utf-8') as outf:
            outf.write('#!/bin/sh\n# As 4.4.1 does it\ncase "$MAKEFLAGS" in\n'
                       '*--jobserver-style=pipe*|*--jobserver-auth=[0-9]*) ;;\n'
                       f'*) echo fifo: ;;\nesac\nexec {real} "$@"\n')
        os.chmod(fake, 0o755)
        for where in (path, f'{self.dir}:{path}'):
            for settings, jobs in ((Settings(), server), (Settings(jobs=2), None)):
                with self.subTest(where=where, settings=settings):
                    said = self.run_make(settings, where, jobs)
                    self.assertRegex(said, r'\Abar .*--jobserver-auth=\d+,\d+')
                    self.assertNotIn('fifo:', said)

    def test_runs_that_are_killed(self):
        """What runs a make tells when that was killed, or took too long"""
        with open(os.path.join(self.dir, 'Makefile'), 'a', encoding='utf-8') as outf:
            outf.write('killed: job1 kill\n\t:\n'
                       'kill:\n\t@while [ ! -e $(LOG) ]; do :; done; kill -9 $$PPID\n')
        groups = ProcessGroups()
        self.addCleanup(groups.close)
        for settings, goal in ((Settings(), 'killed'), (Settings(timeout=1), 'all')):
            with self.subTest(goal=goal):
                server = JobServer(4)
                self.addCleanup(server.close)
                other = server.acquire()
                runner = MakeRunner(self.dir, os.path.join(self.dir, '00'), settings, groups,
                                    server)
                runner.start_board(Board('b', 'arm'), self.dir, (),
                                   ('-s', f'LOG={self.log}', 'WANT=99'), os.environ)
                runner.start_build()
                with contextlib.suppress(OutOfTime):
                    self.assertEqual(runner.run(goal), 137)
                seat = server.acquire()
                server.release(other)
                self.assertEqual(server.available(), 3)
                server.release(seat)
                os.remove(self.log)

    def test_killed_at_random(self):
        """Whoever is killed and whatever it had, all tokens are there in the end, never more"""
        rnd = random.Random(1)
        for _ in range(300):
            server = JobServer(6)
            seats = []
            for _ in range(40):
                if server.available() and rnd.random() < 0.6:
                    seats.append((server.acquire(), []))
                elif seats:
                    seat, more = seats.pop(rnd.randrange(len(seats)))
                    seat.killed = rnd.random() < 0.5
                    for fdes in more if not seat.killed or rnd.random() < 0.5 else ():
                        os.write(fdes, b'+')
                    server.release(seat)
                # A make takes what it finds
                for seat, more in seats:
                    if rnd.random() < 0.3 and seat.pool.take(1):
                        more.append(seat.fds[1])
                self.assertLessEqual(server.available() + len(seats) + sum(
                    len(more) for _, more in seats), 6)
            for seat, more in seats:
                for fdes in more:
                    os.write(fdes, b'+')
                server.release(seat)
            self.assertEqual(server.available(), 6)
            server.close()

    def test_stop(self):
        """Those that wait for a token are woken when all ends"""
        server = JobServer(1)
        self.addCleanup(server.close)
        server.acquire()
        seen = []

        def wait():
            try:
                server.acquire()
            except Stopped:
                seen.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        server.stop()
        thread.join(60)
        self.assertEqual(seen, [True])

    def test_many_threads(self):
        """No token is lost or made by takers that come at the same time"""
        server = JobServer(3)
        self.addCleanup(server.close)
        lock = threading.Lock()
        state = {'now': 0, 'most': 0}

        def work():
            for _ in range(200):
                with server.token():
                    with lock:
                        state['now'] += 1
                        state['most'] = max(state['most'], state['now'])
                    with lock:
                        state['now'] -= 1

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertLessEqual(state['most'], 3)
        self.assertEqual(server.available(), 3)
