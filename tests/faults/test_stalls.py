# SPDX-License-Identifier: GPL-2.0+
"""What stands still: a step of a start, a machine, or the boss itself, which goes on later."""

from __future__ import annotations

import os
import signal
import time

import support
from dist_support import QUICK, FaultCase, StubCase, read

# Heartbeats of half a second: three of them are few, but what is not lost must not be
# so on a busy machine either
HEARTBEAT = '[distributed]\nheartbeat = 0.5\n'

# Drops what answers to `configure`; the worker lives on
NO_ANSWER = """
def edit(msg):
    return [] if msg["resp"] == "configure_done" else [msg]
"""


class TestStart(StubCase):
    """FAULT 26: a step of a start that does not end costs that machine, within a bound"""

    names = ('good', 'bad')
    settings = HEARTBEAT
    sample_args = QUICK

    def lost(self, *modes: str) -> str:
        """Build with a machine that is so; the other one does all; return why it was lost"""
        self.misbehave('bad', *modes)
        self.hold('good', 'bad')
        ref, status = self.local()
        done = self.dist('--no-local')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assert_clean(done.stderr)
        self.assertEqual({'good'}, set(self.hosts().values()))
        self.assertRegex(done.stdout, r'(?m)^\[bad\] lost: ')
        [line] = [line for line in done.stdout.splitlines() if line.startswith('[bad] lost: ')]
        return line

    def test_push(self) -> None:
        """A push of which nothing moves any more used to be waited for without end"""
        self.assertIn('git push: nothing has moved for 6 seconds',
                      self.lost('hang match=receive-pack'))

    def test_answer(self) -> None:
        """A worker that lives and does not answer used to be waited for without end"""
        path = self.out('mute.py')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(NO_ANSWER)
        self.assertRegex(self.lost(f'edit {path} match=--worker'),
                         r'no configure_done came within [67] s')


class TestStopped(FaultCase):
    """FAULT 26: a boss that was stopped for longer than it waits for others goes on"""

    settings = HEARTBEAT

    def stop(self, pid: int, seconds: float) -> None:
        """Stop a process for some time"""
        os.kill(pid, signal.SIGSTOP)
        # There is nothing to wait for: the time itself is the fault
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def test_boss(self) -> None:
        """Ctrl-Z and fg: no machine is lost; all of them used to be"""
        proc = self.start_dist('--no-local')
        self.wait_begun()
        self.stop(proc.pid, 4)
        # By now what is to be lost would be
        log = os.path.join(self.results(), f'worker-{self.names[0]}.log')
        told = read(log).count('"heartbeat"')
        support.wait_until(lambda: read(log).count('"heartbeat"') >= told + 4,
                           name='four heartbeats')
        self.go()
        self.assertNotIn('lost', self.check(proc))
