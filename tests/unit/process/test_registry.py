# SPDX-License-Identifier: GPL-2.0+
"""All that was started is known, and ends: asked, terminated or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from typing import List

from support import TOOLS, wait_until

from buildman.process.registry import STARTED, Account, Registry, Stopped

# Does something at the end of its input, at SIGTERM; its child does not mind either
SCRIPT = """
trap '{at_term}' TERM
(trap '' TERM INT; exec sleep 1000) &
echo $$ $! > {name}.new
mv {name}.new {name}
read line
{at_end}
while :; do sleep 0.02; done
"""


def alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8') as inf:
            return inf.read().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


class RegistryCase(unittest.TestCase):
    """Real shells in a temporary folder"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.registry = Registry()
        self.addCleanup(self.clean)
        self.account = Account(self.registry)

    def clean(self) -> None:
        """End what a test has left"""
        for group in self.registry.find():
            self.registry.release(group.pid)
            group.close_input()
        self.registry.rest()

    def path(self, name: str) -> str:
        """Return a path in the folder"""
        return os.path.join(self.dir, name)

    def start(self, account: Account, name: str, at_end: str = ':', at_term: str = '',
              tag: str = '') -> 'subprocess.Popen[bytes]':
        """Start a script with a child"""
        text = SCRIPT.format(name=self.path(name), at_end=at_end, at_term=at_term)
        proc = account.start(['sh', '-c', text], tag, stdin=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        assert proc.stdin
        self.addCleanup(proc.stdin.close)
        return proc

    def pids(self, *names: str) -> List[int]:
        """Wait for the process numbers that scripts have written"""
        found: List[int] = []
        for name in names:
            wait_until(lambda name=name: os.path.exists(self.path(name)), 60, name)
            with open(self.path(name), encoding='ascii') as inf:
                found += [int(word) for word in inf.read().split()]
        return found


class TestEnd(RegistryCase):
    """end_all(), release(), stop()"""

    def test_end_all(self) -> None:
        """Programs of all parts end in one go: those that only need to be asked, the deaf last"""
        others = Account(self.registry)
        polite = self.start(self.account, 'polite', f'echo bye > {self.path("bye")}; exit 7')
        willing = self.start(others, 'willing', at_term='exit 8')
        deaf = self.start(others, 'deaf')
        pids = self.pids('polite', 'willing', 'deaf')
        self.assertTrue(all(map(alive, pids)))
        began = time.monotonic()
        self.registry.end_all(ask=0.5, term=0.5)
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual([7, 8, -signal.SIGKILL],
                         [proc.wait(60) for proc in (polite, willing, deaf)])
        with open(self.path('bye'), encoding='ascii') as inf:
            self.assertEqual('bye\n', inf.read())
        for proc in (polite, willing, deaf):
            assert proc.stdin
            self.assertTrue(proc.stdin.closed)
        wait_until(lambda: not any(map(alive, pids)), 60, 'the end of the children')

    def test_release(self) -> None:
        """What a program leaves in its group ends with it; who else has its number is left alone"""
        proc = self.start(self.account, 'one', 'exit 3')
        _, child = self.pids('one')
        assert proc.stdin
        proc.stdin.close()
        os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
        self.assertTrue(alive(child))
        self.account.release(proc.pid)
        self.assertEqual(3, proc.returncode)
        wait_until(lambda: not alive(child), 60, 'the end of the child')
        self.assertEqual([], self.registry.find())
        self.account.release(os.getpid())

    def test_stop(self) -> None:
        """One part is stopped, and starts nothing more; the others go on"""
        others = Account(self.registry)
        kept = self.start(others, 'kept')
        gone = self.start(self.account, 'gone')
        self.pids('kept', 'gone')
        self.account.stop(term=0.0)
        self.assertEqual(-signal.SIGKILL, gone.wait(60))
        with self.assertRaises(Stopped):
            self.start(self.account, 'more')
        self.assertIsNone(kept.poll())
        self.account.resume()
        self.start(self.account, 'again')
        self.pids('again')

    def test_ended_between(self) -> None:
        """A board that is dropped while its make starts, and comes back at once: that make ends"""
        class Slow(Account):
            """Is told to end after it was looked at, before the program is known"""

            ender: threading.Thread

            def refuses(self, tag: str) -> bool:
                found = super().refuses(tag)
                self.ender = threading.Thread(target=lambda: (self.end(tag), self.allow(tag)))
                self.ender.start()
                self.ender.join(0.2)
                return found

        account = Slow(self.registry)
        proc = self.start(account, 'one', tag='one')
        account.ender.join(60)
        self.assertIn(proc.wait(60), (-signal.SIGTERM, -signal.SIGKILL))

    def test_tag(self) -> None:
        """One board is ended, at once for who asks, and may come back"""
        one = self.start(self.account, 'one', tag='one')
        two = self.start(self.account, 'two', tag='two')
        self.pids('one', 'two')
        self.account.end('one')
        self.assertEqual(-signal.SIGKILL, one.wait(60))
        self.assertIsNone(two.poll())
        with self.assertRaises(Stopped):
            self.start(self.account, 'three', tag='one')
        self.account.allow('one')
        self.start(self.account, 'four', tag='one')
        self.pids('four')


class TestGuard(RegistryCase):
    """The guard outlives us"""

    def test_all_told(self) -> None:
        """Killed, we leave nothing: neither what began before the guard, nor a forked process"""
        script = f'''
import os, signal, subprocess, sys
sys.path.insert(0, {TOOLS!r})
from buildman.process.fork import Child
from buildman.process.registry import STARTED, Account
def start(name):
    text = "trap '' TERM; sleep 1000 & echo $$ $! > $0.new; mv $0.new $0; wait"
    Account().start(['sh', '-c', text, name], cwd={self.dir!r})
def child():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open('child.new', 'w') as outf:
        print(os.getpid(), file=outf)
    os.rename('child.new', 'child')
    signal.pause()
    yield
os.chdir({self.dir!r})
start('before')
STARTED.guard()
start('after')
first = Child(child, 'a test')
signal.pause()
'''
        with subprocess.Popen([sys.executable, '-c', script]) as proc:
            self.addCleanup(proc.kill)
            pids = self.pids('before', 'after', 'child')
            self.assertTrue(all(map(alive, pids)))
            proc.kill()
        wait_until(lambda: not any(map(alive, pids)), 60, 'the end of all')

    def test_ends(self) -> None:
        """With nothing left to guard it ends, and another one comes when there is"""
        guard = self.registry.guard().process
        proc = self.start(self.account, 'one')
        self.pids('one')
        self.registry.rest()
        self.assertIsNone(guard.poll())
        self.account.finish(proc.pid, 0.01)
        self.registry.rest()
        self.assertIsNotNone(guard.poll())
        self.assertNotEqual(guard.pid, self.registry.guard().process.pid)


class TestOne(unittest.TestCase):
    """There is one registry"""

    def test_rooms(self) -> None:
        """git, tools, builds, machines and forks are all in it"""
        from buildman.process import commands
        from buildman.source import git
        found: List[str] = []
        done = threading.Event()

        def run(name: str) -> None:
            if name == 'git':
                git.run('/', '-c', 'alias.wait=!sleep 1000', 'wait')
            else:
                commands.run(['sleep', '1000'], 30, account=getattr(commands, name))

        def call(name: str) -> None:
            try:
                run(name)
            except Exception as exc:
                found.append(type(exc).__name__)
            else:
                found.append(name)
            if len(found) == 3:
                done.set()

        for name in ('git', 'TOOLS', 'MACHINES'):
            threading.Thread(target=call, args=(name,), daemon=True).start()
        wait_until(lambda: len(STARTED.find()) == 3, 60, 'three programs')
        STARTED.end_all()
        self.assertTrue(done.wait(60))
        self.assertEqual(['MACHINES', 'RefusedError', 'TOOLS'], sorted(found))


if __name__ == '__main__':
    unittest.main()
