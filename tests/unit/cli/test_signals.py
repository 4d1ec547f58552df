# SPDX-License-Identifier: GPL-2.0+
"""A signal ends a command that waits for its threads, whenever it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import unittest

import support

# Waits for a lock that nobody gives. A signal that comes between Python's look for
# one and the wait is imitated by having another thread take it, which tells the
# waiting one as little.
WAITING = '''
import signal, sys, threading
sys.path.insert(0, {tools!r})
from buildman.cli import signals
# Under nohup it would be ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signals.install()
if {watch}:
    signals.watch()
ready = threading.Event()
def take():
    ready.set()
    signal.pause()
thread = threading.Thread(target=take, daemon=True)
thread.start()
ready.wait()
def send():
    signal.pthread_kill(thread.ident, {num})
threading.Timer(0.1, send).start()
lock = threading.Lock()
lock.acquire()
try:
    lock.acquire()
except signals.Terminated:
    print('terminated')
except KeyboardInterrupt:
    print('interrupted')
'''


class TestWatch(unittest.TestCase):
    """watch()"""

    def start(self, num: int, watch: bool) -> 'subprocess.Popen[str]':
        """Start a program that waits and gets a signal"""
        text = WAITING.format(tools=support.TOOLS, watch=watch, num=int(num))
        proc = subprocess.Popen([sys.executable, '-c', text], stdout=subprocess.PIPE, text=True)
        assert proc.stdout
        self.addCleanup(proc.stdout.close)
        self.addCleanup(proc.wait)
        self.addCleanup(proc.kill)
        return proc

    def test_noticed(self) -> None:
        """Ctrl-C and SIGTERM are not lost, which would leave a run on all machines"""
        for num, want in ((signal.SIGINT, 'interrupted\n'), (signal.SIGTERM, 'terminated\n'),
                          (signal.SIGHUP, 'terminated\n')):
            with self.subTest(num=num):
                self.assertEqual(want, self.start(num, True).communicate(timeout=30)[0])

    def test_needed(self) -> None:
        """Without it they are: else this test would test nothing"""
        proc = self.start(signal.SIGTERM, False)
        with self.assertRaises(subprocess.TimeoutExpired):
            proc.wait(1.5)

    def test_ignored(self) -> None:
        """nohup stays in force"""
        proc = subprocess.run(
            ['sh', '-c', 'trap "" HUP; exec "$0" -c "$1"', sys.executable,
             'import signal, sys\n'
             f'sys.path.insert(0, {support.TOOLS!r})\n'
             'from buildman.cli import signals\n'
             'signals.install()\n'
             'print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)'],
            check=True, stdout=subprocess.PIPE, text=True)
        self.assertEqual('True\n', proc.stdout)
