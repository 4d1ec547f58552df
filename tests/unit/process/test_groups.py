# SPDX-License-Identifier: GPL-2.0+
"""Children of a build: run, ended, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from typing import List, Optional

from support import TOOLS, wait_until

from buildman.process.registry import OutOfTime, ProcessGroups


def alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8') as inf:
            return inf.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


class TestProcess(unittest.TestCase):
    """Real shells in a temporary folder"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.groups = ProcessGroups()
        self.addCleanup(self.groups.close)

    def run_sh(self, script: str, tag: str = 'a', seconds: Optional[float] = None) -> int:
        """Run a shell script to its end"""
        return self.groups.run(['sh', '-c', script], cwd=self.dir, env=dict(os.environ),
                               stdout=self.path('out'), stderr=self.path('err'), tag=tag,
                               seconds=seconds)

    def path(self, name: str) -> str:
        """Return a path in the folder"""
        return os.path.join(self.dir, name)

    def pids(self, name: str, count: int = 1) -> List[int]:
        """Wait for the process numbers that a script wrote"""
        def get() -> List[int]:
            try:
                with open(self.path(name), encoding='ascii') as inf:
                    return [int(word) for word in inf.read().split()]
            except OSError:
                return []
        wait_until(lambda: len(get()) >= count)
        return get()

    def test_limit(self) -> None:
        """What takes too long is ended, with all below it, and what it waited for is named"""
        for trap in ('', 'trap "" TERM; '):
            with self.assertRaises(OutOfTime) as caught:
                self.run_sh(f'{trap}(echo $$ > pid; sleep 600 & echo $! >> pid; wait); true',
                            seconds=0.5)
            self.assertIn('sleep', caught.exception.running)
            wait_until(lambda: not any(map(alive, self.pids('pid', 2))), 60, 'the end of all')
        # Neither the board nor the slot is spoiled by that
        self.assertEqual(3, self.run_sh('exit 3', seconds=60))
        with self.assertRaises(OutOfTime):
            self.run_sh('sleep 600', seconds=-1)

    def test_status(self) -> None:
        """The verdict on a board is make's exit status"""
        self.assertEqual(self.run_sh('echo hi; echo ho >&2; exit 3'), 3)
        self.assertEqual(self.run_sh('kill -9 $$'), 137)
        with open(self.path('out'), encoding='ascii') as inf:
            self.assertEqual(inf.read(), 'hi\n')
        code = self.groups.run(['/nonexistent/make'], cwd=self.dir, env={},
                               stdout=self.path('out'), stderr=self.path('err'))
        self.assertEqual(code, 127)
        with open(self.path('err'), encoding='ascii') as inf:
            self.assertIn('/nonexistent/make: command not found', inf.read())

    def test_orphan(self) -> None:
        """What a make leaves behind in its group ends with it"""
        self.assertEqual(self.run_sh('sleep 1000 & echo $! > pid'), 0)
        pid = self.pids('pid')[0]
        wait_until(lambda: not alive(pid))

    def test_end_one(self) -> None:
        """Cancelling one board leaves the others alone, and it may come back"""
        codes = {}

        def run(tag: str) -> None:
            codes[tag] = self.run_sh(f'echo $$ > {tag}; while [ ! -e go ]; do sleep 0.05; done',
                                     tag)
        threads = [threading.Thread(target=run, args=(tag,)) for tag in 'xy']
        for thread in threads:
            thread.start()
        self.pids('x')
        self.pids('y')
        self.groups.end('x')
        threads[0].join(60)
        self.assertEqual(codes, {'x': 128 + signal.SIGTERM})
        self.assertEqual(self.run_sh('exit 0', 'x'), 128 + signal.SIGTERM, 'still refused')
        self.groups.allow('x')
        self.assertEqual(self.run_sh('exit 0', 'x'), 0)
        with open(self.path('go'), 'w', encoding='ascii'):
            pass
        threads[1].join(60)
        self.assertEqual(codes['y'], 0)

    def test_stop_deaf(self) -> None:
        """A build that ignores SIGTERM is killed, with its children"""
        thread = threading.Thread(target=self.run_sh, args=(
            "trap '' TERM; sleep 1000 & echo $$ $! > pid; while :; do sleep 1000; done",))
        thread.start()
        pids = self.pids('pid', 2)
        self.groups.stop()
        thread.join(60)
        wait_until(lambda: not any(map(alive, pids)))
        self.assertEqual(self.run_sh('exit 0'), 128 + signal.SIGTERM)

    def kill_parent(self, before: str, stdout: str) -> None:
        """Check that what a process started is ended when that is killed.

        Args:
            before: what else it does, as source
            stdout: file that its commands, two or just one, print to, relative to self.dir
        """
        script = f'''
import os, signal, sys, threading
sys.path.insert(0, {TOOLS!r})
from buildman.process import registry
from buildman.process.registry import ProcessGroups
groups = ProcessGroups()
{before}
def run(num):
    groups.run(['sh', '-c', "trap '' TERM; sleep 1000 & echo $$ $! > pid%d; wait; wait" % num],
               cwd={self.dir!r}, env=dict(os.environ), stdout={self.path(stdout)!r} % num,
               stderr='/dev/null')
for num in range({1 if before else 2}):
    threading.Thread(target=run, args=(num,)).start()
signal.pause()
'''
        proc = subprocess.Popen([sys.executable, '-c', script])
        pids = self.pids('pid0', 2) + ([] if before else self.pids('pid1', 2))
        if not before:
            self.assertTrue(all(map(alive, pids)))
            proc.kill()
        proc.wait()
        wait_until(lambda: not any(map(alive, pids)))

    def test_killed_parent(self) -> None:
        """When buildman is killed, a guard ends what it ran"""
        self.kill_parent('', 'out%d')

    def test_killed_between(self) -> None:
        """Killed just after it started a process, it could not tell the guard of that any more"""
        # (Not before the guard would find a shell there that does not mind)
        self.kill_parent(f"""
def tell(self, what, group):
    while not os.path.exists({self.path('pid0')!r}) or not os.path.getsize({self.path('pid0')!r}):
        signal.sigtimedwait([], 0.01)
    os.kill(os.getpid(), signal.SIGKILL)
registry.Guard.tell = tell
""", "it's an %d")

    def test_device(self) -> None:
        """Whoever prints to the same device as a process that just began has nothing to fear"""
        with subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL,
                              start_new_session=True) as other:
            self.addCleanup(other.kill)
            done = subprocess.run([sys.executable, '-c', f'''
import os, signal, sys
sys.path.insert(0, {TOOLS!r})
from buildman.process import registry
from buildman.process.registry import ProcessGroups
def tell(self, what, group):
    with open({self.path('pids')!r}, 'w') as outf:
        print(self.process.pid, group, file=outf)
    os.kill(os.getpid(), signal.SIGKILL)
registry.Guard.tell = tell
ProcessGroups().run(['sleep', '1000'], cwd='/', env=os.environ, stdout=os.devnull,
                    stderr=os.devnull)
'''], check=False, timeout=60)
            try:
                self.assertEqual(done.returncode, -signal.SIGKILL)
                guard, group = self.pids('pids', 2)
                self.addCleanup(os.killpg, group, signal.SIGKILL)
                wait_until(lambda: not alive(guard))
                self.assertTrue(alive(other.pid))
            finally:
                # The end of the `with` waits for it
                other.kill()
