# SPDX-License-Identifier: GPL-2.0+
"""Who is asked for and given back, with random histories; what a lease takes and tells."""

from __future__ import annotations

import random
import time
import unittest
from typing import Any, Callable, Dict, List

from buildman import bsettings
from buildman.core import events
from buildman.core.errors import UsageError
from buildman.remote.supplied import Supplied
from buildman.remote.supply import MAX_FAILURES, Lease, Supply, SupplyError, from_config
from buildman.schedule.ledger import Task
from buildman.schedule.policy import Scheduler


class Machine:
    """Stands for a machine: ready when told so"""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots = 0
        self.asked_at = time.time()
        self.ended = False

    def finish(self) -> None:
        """End in peace"""
        self.ended = True

    dismiss = finish


class Run:
    """Stands for the loop, with the real account of boards"""

    def __init__(self, rand: random.Random, boards: int, sources: List[Supply]) -> None:
        self.rand = rand
        self.now = 0.0
        self.scheduler = Scheduler([Task(f'b{num}', 'arm', (0,)) for num in range(boards)])
        self.ledger = self.scheduler.ledger
        self.machines: Dict[str, Machine] = {}
        self.told: List[str] = []
        self.supplied = Supplied(sources, self.make, clock=lambda: self.now)   # type: ignore
        self.add(self.supplied.first(boards))
        self.supplied.attach(self)   # type: ignore

    def make(self, source: Supply) -> Machine:
        """Return one more"""
        return Machine(source.next_lease().name)

    def add_listener(self, hear: Callable[[events.Event, str], None]) -> None:
        """Take the listener"""
        self.hear = hear

    def add_ticker(self, ticker: Callable[[], None], seconds: float) -> None:
        """The test looks as often as it likes"""

    def add(self, machines: List[Any]) -> None:
        """Take machines"""
        for mach in machines:
            assert mach.name not in self.machines
            self.machines[mach.name] = mach

    def let_go(self, name: str) -> None:
        """Do without one"""
        assert not self.ledger.owed(name)
        self.ledger.lost(name)
        del self.machines[name]

    def tell(self, name: str, text: str) -> None:
        """Note what is told"""
        self.told.append(f'[{name}] {text}')

    def say(self, text: str) -> None:
        """Note what is shown"""
        self.told.append(text)

    def come(self, mach: Machine) -> None:
        """Let a machine get ready"""
        mach.slots = 2
        self.ledger.add_worker(mach.name, 2)
        self.hear(events.WorkerReady(mach.name), '')
        self.fill(mach)

    def fill(self, mach: Machine) -> None:
        """Give a machine what it takes"""
        while self.scheduler.next_for(mach.name):
            pass

    def lose(self, mach: Machine) -> None:
        """Lose one"""
        del self.machines[mach.name]
        self.ledger.lost(mach.name)
        self.hear(events.WorkerGone(mach.name, 'why', busy=self.rand.random() < 0.2), '')

    def step(self) -> None:
        """Let something happen"""
        self.now += self.rand.choice((0.1, 1.0, 5.0))
        for mach in self.rand.sample(list(self.machines.values()), len(self.machines)):
            chance = self.rand.random()
            if chance < 0.05:
                self.lose(mach)
            elif not mach.slots and chance < 0.4:
                self.come(mach)
            elif mach.slots and chance < 0.6:
                for target in sorted(self.ledger.owed(mach.name))[:1]:
                    self.ledger.result(mach.name, target, 0)
                    self.ledger.board_done(mach.name, target)
                    self.hear(events.Built(mach.name, None), '')   # type: ignore
                self.fill(mach)
        self.supplied.tick()


class TestPolicy(unittest.TestCase):
    """Never too many, never none while there is work, none when there is none"""

    def test_histories(self) -> None:
        """Random ones: machines come late, are lost, get idle"""
        for seed in range(60):
            rand = random.Random(seed)
            source = Supply('farm', 'true', rand.randint(1, 6), rand.choice((0.0, 3.0, 20.0)))
            run = Run(rand, rand.randint(1, 30), [source])
            self.assertEqual(min(source.count, len(run.ledger.boards)), len(run.machines))
            for _ in range(3000):
                if run.ledger.finished:
                    break
                run.step()
                self.assertLessEqual(len(run.machines), source.count, seed)
                waiting = sum(map(run.ledger.waiting, run.ledger.boards))
                if waiting and source.failures < MAX_FAILURES:
                    self.assertTrue(run.machines, seed)
                if source.failures >= MAX_FAILURES and not run.machines:
                    self.assertEqual(1, sum('no more machines' in text for text in run.told))
                    break
            else:
                self.fail(f'seed {seed}: it does not end')
            run.now += source.idle
            run.supplied.tick()
            run.now += source.idle + 0.1
            run.supplied.tick()
            if run.ledger.finished:
                self.assertEqual({}, run.machines, seed)

    def test_line(self) -> None:
        """Who is waited for is told, after a while, and when that changes, but not each second"""
        source = Supply('farm', 'true', 3)
        run = Run(random.Random(0), 9, [source])
        run.supplied.tick()
        self.assertEqual([], run.told)
        run.now += 6
        run.supplied.tick()
        self.assertRegex(run.told[-1], r'^farm: 0 of 3 machines, 3 wanted since \d\d:\d\d$')
        run.come(run.machines['farm-2'])
        run.supplied.tick()
        self.assertEqual(1, len(run.told))
        run.now += 61
        run.ledger.hand_out(run.ledger.workers['farm-2'], 'b0')
        run.supplied.tick()
        self.assertIn('1 of 3 machines, 2 wanted', run.told[-1])


class TestLease(unittest.TestCase):
    """A command that holds a machine"""

    def lease(self, text: str) -> Lease:
        """Return one"""
        out = Lease(['sh', '-c', text], 'm-1')
        self.addCleanup(out.give_back)
        return out

    def test_told(self) -> None:
        """The way to it is its first line; it ends with its input"""
        lease = self.lease('echo; echo " over here $BUILDMAN_MACHINE "; echo noise; exec cat')
        self.assertEqual('over here m-1', lease.wait())
        lease.withdraw()
        self.assertTrue(lease.is_held())
        self.assertFalse(lease.is_taken())
        lease.give_back()

    def test_taken(self) -> None:
        """It is told that the machine was taken away, or the command ends"""
        for text in ('echo x; echo job revoked >&2; exec cat', 'echo x'):
            lease = self.lease(text)
            lease.wait()
            self.assertTrue(lease.is_taken(), text)

    def test_refused(self) -> None:
        """The reason is the last thing that the engine said"""
        for text, told in (('echo "salloc: error: no: way" >&2; exit 1', 'no: way'),
                           ('exit 1', 'what was to supply it has ended')):
            with self.assertRaises(SupplyError) as caught:
                self.lease(text).wait()
            self.assertEqual(told, str(caught.exception))
        with self.assertRaisesRegex(SupplyError, '^/no/such cannot be run: No such file'):
            Lease(['/no/such'], 'm-1').wait()

    def test_withdrawn(self) -> None:
        """Before it was asked for, and while it is waited for"""
        lease = self.lease('echo x')
        lease.withdraw()
        with self.assertRaisesRegex(SupplyError, 'not wanted'):
            lease.wait()


class TestConfig(unittest.TestCase):
    """What is wrong is told in one line"""

    def test_wrong(self) -> None:
        """Each names the section"""
        self.addCleanup(bsettings.setup, None)
        for text in ('supply = slurm\ncount = 0', 'supply = slurm\nidle = soon',
                     "supply = slurm\noptions = --comment='x",
                     'supply = ./get\ncpus = 4', 'count = 2'):
            bsettings.setup(None)
            bsettings.add_file(f'[machine:farm]\n{text}\n')
            with self.assertRaisesRegex(UsageError, r'^\[machine:farm\] ?\w?[^\n]*$'):
                from_config('farm')
