# SPDX-License-Identifier: GPL-2.0+
"""The process of a connection, with a stand-in for the worker that is a real process."""

from __future__ import annotations

import shlex
import sys
import threading
import unittest
from typing import List

from buildman import boss
from buildman.remote import ssh

WAIT = 30       # seconds; only a failing test ever waits for so long

# Says that it is ready and goes on with signs of life, but reads nothing any more
DEAF = """
import os, sys, time
os.close(0)
print('BM> {"resp": "ready", "nthreads": 1, "slots": 1, "version": 1, "heartbeat_interval": 0.05}',
      flush=True)
while True:
    print('BM> {"resp": "heartbeat"}', flush=True)
    time.sleep(.05)
"""


class TestConnection(unittest.TestCase):
    """A worker behind a command that is its transport."""

    def start(self, source: str) -> boss.RemoteWorker:
        """Return a worker that runs a Python program."""
        command = f'{sys.executable} -c {shlex.quote(source)}'
        ssh.register(ssh.CommandTransport('standin', command))
        self.addCleanup(ssh.register, ssh.Transport('standin'))
        worker = boss.RemoteWorker('standin')
        worker.work_dir = '/nowhere'
        self.addCleanup(worker.close)
        return worker

    def test_deaf(self) -> None:
        """A worker that takes no pings is told of, whatever signs of life it sends."""
        worker = self.start(DEAF)
        told: List[str] = []
        was_told = threading.Event()

        def hear(why: str) -> None:
            told.append(why)
            was_told.set()

        worker.on_deaf = hear
        worker.start()
        self.assertTrue(was_told.wait(WAIT), 'nobody was told')
        self.assertRegex(told[0], '^standin: cannot send: ')
        worker.close(.1)
        self.assertEqual(1, len(told))


if __name__ == '__main__':
    unittest.main()
