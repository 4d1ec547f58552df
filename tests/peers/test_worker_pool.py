# SPDX-License-Identifier: GPL-2.0+
"""`boss.WorkerPool` with real workers on this machine, which die, hang and are ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple
from unittest import mock

import support

from buildman import boss, machine
from buildman.agent import lock
from buildman.core import plan
from buildman.remote import ssh
from u_boot_pylib import terminal


class Builder:
    """What build_boards() asks of a builder; can wait for a result."""

    def __init__(self, base_dir: str) -> None:
        self.base_dir = base_dir
        self.force_build = False
        self.count = 0
        self.got: Dict[Tuple[int, str], Tuple[int, str]] = {}
        self.first = threading.Event()

    def get_build_dir(self, commit_upto: int, target: str) -> str:
        """Return the folder of a result."""
        return os.path.join(self.base_dir, f'{commit_upto:02}', target)

    def get_done_file(self, commit_upto: int, target: str) -> str:
        """Return the file that tells of a result."""
        return os.path.join(self.get_build_dir(commit_upto, target), 'done')

    def process_result(self, result: Any) -> None:
        """Take a result; none comes twice."""
        key = (result.commit_upto, result.brd.target)
        assert key not in self.got, key
        self.got[key] = (result.return_code, result.remote)
        self.first.set()


class PoolTest(support.SampleCase):
    """Two machines, which are this one with two folders."""

    def setUp(self) -> None:
        super().setUp()
        self.builder = Builder(self.out())
        self.boards = {spec.target: plan.Board(spec.target, spec.arch)
                       for spec in self.tree.boards}
        self.err = ''

    def machines(self) -> List[machine.Machine]:
        """Return the machines."""
        found = []
        for name in ('p1', 'p2'):
            ssh.register(ssh.make_transport(name, 'local'))
            mach = machine.Machine(name)
            mach.work_dir = os.path.join(self.tmp, name)
            mach.toolchains = {arch: os.path.join(self.toolchains, 'bin', f'{prefix}-gcc')
                               for arch, prefix in (('arm', 'arm-sample-linux-gnueabi'),
                                                    ('aarch64', 'aarch64-sample-linux-gnu'),
                                                    ('riscv64', 'riscv64-sample-linux-gnu'))}
            found.append(mach)
        return found

    def start(self, extra: Optional[Mapping[str, str]] = None,
              heartbeat: float = 0.0) -> boss.WorkerPool:
        """Return a pool whose workers run."""
        pool = boss.WorkerPool(self.machines())
        make = boss.RemoteWorker

        def remote_worker(*args: Any, **kwargs: Any) -> boss.RemoteWorker:
            worker = make(*args, **kwargs)
            worker.heartbeat = heartbeat
            return worker

        with mock.patch.dict(os.environ, self.env(extra)), \
                mock.patch.object(boss, 'RemoteWorker', remote_worker):
            pool.start_all(os.path.join(self.tree.path, '.git'),
                           f'{self.tree.branch}:refs/heads/work', settings={})
        self.addCleanup(pool.close_all)
        self.assertEqual(2, len(pool.workers))
        return pool

    def build(self, pool: boss.WorkerPool, *targets: str) -> Dict[Tuple[int, str], int]:
        """Build boards at the first two commits and return their statuses."""
        with terminal.capture() as (_, err):
            pool.build_boards({target: self.boards[target] for target in targets},
                              [plan.Commit(name) for name in self.tree.commits[:2]], self.builder)
        self.err = err.getvalue()
        return {key: code for key, (code, _) in self.builder.got.items()}

    @staticmethod
    def good(*targets: str) -> Dict[Tuple[int, str], int]:
        """Return what is expected of boards that build."""
        return {(upto, target): 0 for upto in (0, 1) for target in targets}

    def assert_over(self, pool: boss.WorkerPool) -> None:
        """End the workers; fail if anything stays."""
        pool.quit_all()
        self.assert_no_processes()
        for name in ('p1', 'p2'):
            self.assertIsNone(lock.who(os.path.join(self.tmp, name)))

    def remotes(self, target: str) -> Set[str]:
        """Return who built a board."""
        return {remote for (_, name), (_, remote) in self.builder.got.items() if name == target}

    def in_the_middle(self, pool: boss.WorkerPool, sig: int) -> str:
        """Send a signal to the worker that builds `anvil` when it does; return its name."""
        here, gate = self.out('here'), self.out('gate')
        hit: List[str] = []

        def has_anvil(worker: boss.RemoteWorker) -> bool:
            path = os.path.join(self.builder.base_dir, f'worker-{worker.name}.log')
            with open(path, encoding='utf-8') as inf:
                return '"started","board":"anvil"' in inf.read()

        def strike() -> None:
            support.wait_for(here)
            found = support.wait_until(lambda: [wrk for wrk in pool.workers if has_anvil(wrk)])
            for worker in found:
                hit.append(worker.name)
                assert worker.process
                os.kill(worker.process.pid, sig)
            with open(gate, 'w', encoding='utf-8'):
                pass

        thread = threading.Thread(target=strike)
        thread.start()
        self.assertEqual(self.good('anvil', 'rocket', 'hammock', 'sandbox'),
                         self.build(pool, 'anvil', 'rocket', 'hammock', 'sandbox'))
        thread.join()
        self.assertEqual(1, len(hit))
        self.assertIn(f'[{hit[0]}] lost', self.err)
        self.assertEqual({'p1', 'p2'} - set(hit), self.remotes('anvil'))
        return hit[0]

    def knobs(self) -> Dict[str, str]:
        """Have `anvil` tell when it is being built, and wait."""
        return self.write_knobs('anvil', f"signal {self.out('here')}", f"wait {self.out('gate')}")

    def test_build(self) -> None:
        """All boards on both machines, a second build by the same workers, and the end."""
        pool = self.start()
        got = self.build(pool, *self.boards)
        self.assertEqual({key: 2 if val == 'fail' else 0 for key, val in
                          self.tree.expected.items() if key[0] < 2}, got)
        self.assertEqual({'p1', 'p2'}, {remote for _, remote in self.builder.got.values()})
        self.builder.got.clear()
        self.builder.force_build = True
        self.assertEqual(self.good('anvil'), self.build(pool, 'anvil'))
        self.assert_over(pool)

    def test_killed(self) -> None:
        """A worker that is killed takes its boards with it, or its builds go on."""
        pool = self.start(self.knobs())
        self.in_the_middle(pool, signal.SIGKILL)
        self.assert_over(pool)

    def test_stopped(self) -> None:
        """A worker that hangs is noticed by its missing heartbeats."""
        pool = self.start(self.knobs(), heartbeat=0.5)
        self.in_the_middle(pool, signal.SIGSTOP)
        self.assert_over(pool)

    def test_close_all(self) -> None:
        """Ctrl-C in the middle: all is gone soon, and what was built is kept."""
        pool = self.start(self.write_knobs('anvil', f"signal {self.out('here')}", 'hang deaf'))
        self.builder.process_result = mock.Mock(  # type: ignore[method-assign]
            side_effect=lambda result: (support.wait_for(self.out('here')), self.interrupt()))
        with self.assertRaises(KeyboardInterrupt):
            self.build(pool, 'anvil', 'rocket')
        started = time.monotonic()
        pool.close_all()
        self.assertLess(time.monotonic() - started, 15)
        self.assert_no_processes()
        for name in ('p1', 'p2'):
            self.assertIsNone(lock.who(os.path.join(self.tmp, name)))
        self.assertTrue(os.path.exists(self.builder.get_done_file(0, 'rocket')))

    @staticmethod
    def interrupt() -> None:
        """Be Ctrl-C."""
        raise KeyboardInterrupt

    def test_interrupted_start(self) -> None:
        """Ctrl-C while machines start: their locks stay taken."""
        pool = boss.WorkerPool(self.machines())
        real = boss.RemoteWorker.start

        def start(worker: boss.RemoteWorker, debug: bool = False) -> None:
            real(worker, debug)
            if worker.name == 'p2':
                os.kill(os.getpid(), signal.SIGINT)

        with mock.patch.dict(os.environ, self.env()), \
                mock.patch.object(boss.RemoteWorker, 'start', start), \
                self.assertRaises(KeyboardInterrupt):
            pool.start_all(os.path.join(self.tree.path, '.git'),
                           f'{self.tree.branch}:refs/heads/work')
            # The signal may come a moment later
            time.sleep(10)
        pool.close_all()
        self.assert_no_processes()
        for name in ('p1', 'p2'):
            folder = os.path.join(self.tmp, name)
            if os.path.isdir(folder):
                self.assertIsNone(lock.who(folder))
