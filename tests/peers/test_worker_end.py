# SPDX-License-Identifier: GPL-2.0+
"""How a worker ends: whatever happens to it or to its boss, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from worker_support import COMMAND, WorkerCase, WorkerProcess

from buildman.agent import lock
from buildman.wire import messages


class EndTest(WorkerCase):
    """Each test ends a worker in the middle of a build that would never end."""

    def hanging(self, heartbeat: str = '10', knob: str = 'hang') -> WorkerProcess:
        """Return a worker that builds a board that hangs."""
        here = self.out('here')
        worker = self.prepared(extra=self.write_knobs('anvil', f'signal {here}', knob),
                               heartbeat=heartbeat)
        worker.send_message(messages.BuildBoard('anvil', 'arm'))
        worker.until('started')
        while not os.path.exists(here):
            worker.proc.poll()
        return worker

    def assert_over(self, worker: WorkerProcess) -> None:
        """Fail if the worker, its builds or its lock are still there in some seconds."""
        worker.wait(60)
        self.assert_no_processes()
        self.assert_free()

    def test_end_of_input(self) -> None:
        """The boss is killed, and its builds go on for ever on all machines."""
        worker = self.hanging()
        self.assertIsNotNone(lock.who(self.work_dir))
        worker.close_stdin()
        self.assert_over(worker)

    def test_deaf_build(self) -> None:
        """The same with a build that ignores what it is asked."""
        worker = self.hanging(knob='hang deaf')
        worker.close_stdin()
        self.assert_over(worker)

    def test_quit(self) -> None:
        """After quit the machine is free at once, not some time later."""
        worker = self.hanging()
        worker.send('quit')
        worker.until('quit_ack')
        self.assertIsNone(lock.who(self.work_dir))
        self.assertEqual(0, worker.wait(60))
        self.assert_no_processes()

    def test_killed(self) -> None:
        """The worker is killed (no memory, say), and make goes on."""
        worker = self.hanging()
        worker.proc.send_signal(signal.SIGKILL)
        self.assert_over(worker)

    def test_terminated(self) -> None:
        """SIGTERM, as of --kill-workers or a shut-down."""
        worker = self.hanging()
        worker.proc.send_signal(signal.SIGTERM)
        self.assert_over(worker)
        self.assertIn('signal 15', worker.said())

    def test_many_signals(self) -> None:
        """A signal that comes while the worker is busy with another must not lock it up."""
        worker = self.hanging()
        for _ in range(200):
            worker.proc.send_signal(signal.SIGHUP)
        self.assert_over(worker)

    def test_silent_boss(self) -> None:
        """The network is cut without a word: the machine stays taken until somebody comes."""
        worker = self.hanging(heartbeat='0.1')
        worker.wait(60)
        self.assertIn('nothing heard', worker.said())
        self.assert_over(worker)

    def test_pings_keep_it(self) -> None:
        """A boss that pings and has nothing else to say is taken for dead."""
        worker = self.hanging(heartbeat='0.1')
        for _ in range(30):
            worker.until('heartbeat')
            worker.send('ping')
        self.assertIsNone(worker.proc.poll())

    def test_own_pause(self) -> None:
        """A worker that was stopped itself, or its machine suspended, takes its boss for dead."""
        worker = self.hanging(heartbeat='0.2')
        worker.send('ping')
        worker.proc.send_signal(signal.SIGSTOP)
        # The time is the fault: more than 12 heartbeats
        time.sleep(4)
        worker.send('ping')
        worker.proc.send_signal(signal.SIGCONT)
        for _ in range(8):
            worker.until('heartbeat')
            worker.send('ping')
        self.assertIsNone(worker.proc.poll())

    def test_heartbeat_while_build_hangs(self) -> None:
        """A long silent build is taken for a dead machine."""
        worker = self.hanging(heartbeat='0.1')
        self.assertEqual(.1, worker.seen[0]['heartbeat_interval'])
        for _ in range(3):
            self.assertEqual(1, worker.until('heartbeat')['active'])

    def test_busy(self) -> None:
        """Two bosses build on one machine, in the same folders."""
        first = self.prepared()
        second = self.start(self.work_dir, 'another-run')
        self.assertEqual({}, second.next())
        self.assertEqual(1, second.wait())
        self.assertIn('in use by', second.said())
        self.assertIn(f'pid {os.getpid()}', second.said())
        first.send('quit')
        first.until('quit_ack')

    def test_no_folder(self) -> None:
        """A message rather than a traceback."""
        with open(os.path.join(self.tmp, 'file'), 'wb'):
            pass
        for name in ('missing', 'file'):
            path = os.path.join(self.tmp, name)
            worker = self.start(path, 'run')
            self.assertEqual(1, worker.wait())
            self.assertIn(f"cannot use the work folder '{path}'", worker.said())
            self.assertNotIn('Traceback', worker.said())

    def test_nobody_listens(self) -> None:
        """All pipes are gone, stderr too: the end must still be orderly."""
        read_end, write_end = os.pipe()
        with subprocess.Popen([sys.executable, COMMAND, '--worker', self.work_dir,
                               self.owner.run], env=self.env(), stdin=subprocess.PIPE,
                              stdout=write_end, stderr=write_end) as proc:
            os.close(write_end)
            self.assertTrue(os.read(read_end, 4))
            os.close(read_end)
            assert proc.stdin
            proc.stdin.close()
            proc.wait(60)
        self.assert_no_processes()
        self.assert_free()
