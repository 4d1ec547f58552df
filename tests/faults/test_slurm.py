# SPDX-License-Identifier: GPL-2.0+
"""Machines from a real Slurm: they come, are lost and given back; nothing stays in the queue."""

from __future__ import annotations

import getpass
import glob
import os
import signal
from typing import ClassVar, Dict, List, Mapping, Optional, Tuple

import slurm
import support
from dist_support import GONE_TIME, FaultCase

from buildman.demo import sample


class SlurmCase(FaultCase):
    """Two nodes, and three machines are wanted"""

    names: ClassVar[Tuple[str, ...]] = ('farm-1', 'farm-2', 'farm-3')
    cluster: ClassVar[slurm.Slurm]

    @classmethod
    def setUpClass(cls) -> None:
        slurm.require()
        super().setUpClass()
        cls.cluster = slurm.Slurm(nodes=2)
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start()

    def env(self, extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        """Return the environment of a command"""
        return super().env({'SLURM_CONF': self.cluster.conf, **(extra or {})})

    def machines(self, *names: str, extra: str = '', **sections: str) -> None:
        """Configure them"""
        self.config = os.path.join(self.tmp, 'buildman.cfg')
        text = self.cluster.config(count=3, work_dir=os.path.join(self.base, 'work'))
        sample.write_config(self.config, self.toolchains, extra=f'{self.settings}\n{extra}{text}')

    def tearDown(self) -> None:
        self.assert_freed()
        super().tearDown()

    def jobs(self) -> List[List[str]]:
        """Return the jobs of machines: number, name, state, node"""
        return [job for job in self.cluster.queue() if job[1].startswith('buildman-')]

    def assert_freed(self) -> None:
        """Fail if a job is left"""
        support.wait_until(lambda: not self.jobs(), GONE_TIME, 'the queue to be empty')
        super().assert_freed()


class TestSlurm(SlurmCase):
    """One more machine than nodes"""

    def test_cancelled(self) -> None:
        """One waits for a node, and comes when that of another was cancelled"""
        proc = self.start_dist('--no-local')
        name = self.wait_begun()
        self.assertEqual(['PENDING', 'RUNNING', 'RUNNING'],
                         sorted(job[2] for job in self.jobs()))
        told = self.run_buildman('--mach')
        self.assertEqual(0, told.returncode, told)
        self.assertRegex(told.stdout, r'(?m)^farm: supply of up to 3 machines: slurm; '
                         r'2 allocated in main\*; ours: .*\d+ pending \(\w+\).*\d+ running n\d')
        job = next(job for job in self.jobs() if job[1].endswith(f'-{name}'))
        self.cluster.run('scancel', job[0])
        support.wait_until(lambda: f'[{name}] lost: ' in self.stdout(), name='the loss to be told')
        self.go()
        text = self.check(proc)
        self.assertRegex(text, rf'(?m)^\[{name}\] lost: .*(CANCELLED|revoked)')
        # The source was sent once, as all see the same folder
        packs = glob.glob(os.path.join(self.base, 'work', '*', '.git', 'objects', 'pack', '*.pack'))
        self.assertLessEqual(2, len(packs))
        self.assertEqual(1, len({os.stat(path).st_ino for path in packs}), packs)
        self.assertLessEqual(set(self.hosts().values()), {f'farm-{num}' for num in range(1, 5)})

    def test_sigint(self) -> None:
        """Ctrl-C, also while one waits for a node"""
        self.interrupt(signal.SIGINT, 130, '--no-local')

    def test_sigterm(self) -> None:
        """A CI server ends the boss"""
        self.interrupt(signal.SIGTERM, 143, '--no-local')

    def test_sigkill(self) -> None:
        """The boss is killed; and what one left in the queue is found by its name"""
        self.interrupt(signal.SIGKILL, -9, '--no-local')
        mine = f'buildman-{getpass.getuser()}-farm-7'
        for name in (mine, 'buildman-other'):
            self.cluster.run('salloc', '--no-shell', '-J', name)
        done = self.run_buildman('--kill-workers')
        self.assertEqual(0, done.returncode, done)
        self.assertRegex(done.stdout, r'(?m)^farm: cancelled \d+$')
        support.wait_until(lambda: [job[1] for job in self.jobs()] == ['buildman-other'],
                           GONE_TIME, 'one to be cancelled')
        self.cluster.run('scancel', '--name=buildman-other')

    def test_refused(self) -> None:
        """What Slurm says is told, and this machine builds all"""
        self.go()
        with open(self.config, 'a', encoding='utf-8') as out:
            # Its section is the last
            out.write('partition = nowhere\n')
        done = self.dist('anvil')
        self.assertEqual(100, done.returncode, done)
        self.assertRegex(done.stdout, r'(?m)^\[farm-1\] lost: .*Invalid partition')
        self.assertEqual(4, len(self.hosts()))
