# SPDX-License-Identifier: GPL-2.0+
"""The job server, with the real make on its other end."""

import os
import signal
import subprocess
import tempfile
import threading
import unittest

from support import needs, wait_until

from buildman.build.jobserver import JobServer, Stopped

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

    def make(self, server, want):
        """Start a make that takes part"""
        env = dict(os.environ, MAKEFLAGS=server.makeflags)
        return subprocess.Popen(
            ['make', '-s', f'LOG={self.log}', f'WANT={want}'], cwd=self.dir, env=env,
            pass_fds=server.fds, start_new_session=True, stderr=subprocess.PIPE)

    def test_make_takes_part(self):
        """A lone make uses all processors: else the last board takes for ever"""
        server = JobServer(4)
        self.addCleanup(server.close)
        with server.token():
            proc = self.make(server, 4)
            _, err = proc.communicate(timeout=60)
        self.assertEqual(proc.returncode, 0)
        # A complaint would turn a clean board into one with warnings
        self.assertEqual(err, b'')
        self.assertEqual(server.available(), 4)

    def test_tokens_are_shared(self):
        """A make gets no more than what others leave: the machine is not overrun"""
        server = JobServer(4)
        self.addCleanup(server.close)
        for _ in range(3):
            server.acquire()
        proc = self.make(server, 3)
        wait_until(lambda: os.path.exists(self.log), name='first job')
        # One token left, and one that came with starting it: no third job
        self.assertEqual(wait_until(lambda: server.available() == 0, name='tokens'), True)
        with open(self.log, encoding='utf-8') as inf:
            self.assertLessEqual(len(inf.readlines()), 2)
        server.release()
        proc.communicate(timeout=60)
        self.assertEqual(proc.returncode, 0)

    def test_killed_make(self):
        """Tokens that died with a make are found: else the machine slows down for good"""
        server = JobServer(3)
        self.addCleanup(server.close)
        with server.token():
            proc = self.make(server, 99)
            wait_until(lambda: server.available() == 0, name='make to take all tokens')
            os.killpg(proc.pid, signal.SIGKILL)
            proc.communicate(timeout=60)
        self.assertEqual(server.available(), 3)

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
        thread.join(30)
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
