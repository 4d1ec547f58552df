# SPDX-License-Identifier: GPL-2.0+
"""A signal ends a command that waits for its threads, whenever it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import unittest

import support

from buildman.agent import procfs

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
                self.assertEqual(want, self.start(num, True).communicate(timeout=60)[0])

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


# Takes a signal at a place where Python drops exceptions, then waits for ever
DROPPED = """
import signal, sys, threading, weakref
sys.path.insert(0, {tools!r})
from buildman.cli import signals
signals.install()
class Doomed:
    def __del__(self):
        if {kind!r} == 'del':
            signal.raise_signal({num})
            [None for _ in range(100)]
def gone(ref):
    if {kind!r} == 'weakref':
        signal.raise_signal({num})
        [None for _ in range(100)]
try:
    doomed = Doomed()
    ref = weakref.ref(doomed, gone)
    del doomed
    threading.Event().wait(60)
except signals.Terminated:
    print('terminated')
except KeyboardInterrupt:
    print('interrupted')
"""

# Cleans up after a signal, while more of them come
CLEANING = """
import signal, subprocess, sys, time
sys.path.insert(0, {tools!r})
from buildman.cli import signals
from buildman.process.registry import Account
signals.END_TIME = {end_time}
signals.install()
try:
    proc = Account().start(['sleep', '1000'], stdout=subprocess.DEVNULL)
    print(proc.pid, flush=True)
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    time.sleep({seconds})
    proc.kill()
    print('clean', flush=True)
"""


class TestMore(unittest.TestCase):
    """Signals that are lost, and further ones"""

    def run_text(self, text: str, **values: object) -> 'subprocess.CompletedProcess[str]':
        """Run a program to its end"""
        return subprocess.run([sys.executable, '-c', text.format(tools=support.TOOLS, **values)],
                              capture_output=True, text=True, timeout=50, check=False)

    def test_dropped(self) -> None:
        """Ctrl-C in a destructor or a callback of a weak reference ends the command as well"""
        for kind in ('del', 'weakref'):
            for num, want in ((signal.SIGINT, 'interrupted\n'), (signal.SIGTERM, 'terminated\n')):
                with self.subTest(kind=kind, num=num):
                    done = self.run_text(DROPPED, kind=kind, num=int(num))
                    self.assertEqual((want, ''), (done.stdout, done.stderr))

    def test_cleaning(self) -> None:
        """Further signals do not cut the cleaning up short"""
        done = self.run_text(CLEANING, end_time=30.0, seconds=0.2)
        self.assertEqual((0, ''), (done.returncode, done.stderr))
        self.assertEqual('clean', done.stdout.split()[1])

    def test_hanging(self) -> None:
        """A second Ctrl-C ends a command whose cleaning up hangs, with all that it started"""
        done = self.run_text(CLEANING, end_time=0.1, seconds=1000)
        self.assertEqual((130, ''), (done.returncode, done.stderr))
        pid = int(done.stdout)
        support.wait_until(lambda: pid not in procfs.parents(), 60, 'the end of what it started')
