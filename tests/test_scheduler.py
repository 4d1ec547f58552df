# SPDX-License-Identifier: GPL-2.0+
"""The scheduler: no board is lost, built twice or waited for in vain."""

import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'tools'))

from buildman.scheduler import Scheduler, Task


def drain(sched, name):
    """Return all that a worker can get"""
    out = []
    while True:
        handout = sched.next_for(name)
        if handout is None:
            return out
        out.append(handout)


def build(sched, name, handout):
    """Let a worker build a board completely"""
    for upto in handout.commits:
        assert sched.result(name, handout.target, upto)
    sched.board_done(name, handout.target)


class TestScheduler(unittest.TestCase):
    """Rules, one by one"""

    def test_order_and_capacity(self):
        """Heavy boards go first, equal ones in the order of the list, no more than fit"""
        sched = Scheduler([Task('a', 'arm', (0,)), Task('b', 'arm', (0,), 5),
                           Task('c', 'arm', (0,)), Task('d', 'arm', (0,), 9)])
        sched.add_worker('w', 2, ahead=1)
        self.assertEqual([h.target for h in drain(sched, 'w')], ['d', 'b', 'a'])

    def test_arch(self):
        """A worker gets nothing that it has no compiler for"""
        sched = Scheduler([Task('a', 'arm', (0,)), Task('r', 'riscv', (0,))])
        sched.add_worker('w', 5, ['riscv'])
        self.assertEqual([h.target for h in drain(sched, 'w')], ['r'])
        self.assertEqual(sched.give_up_stranded('nobody'), ['a'])

    def test_lost_keeps_received(self):
        """Only the missing commits of a lost worker's board are built again"""
        sched = Scheduler([Task('a', 'arm', (0, 1, 2))])
        sched.add_worker('w', 2)
        sched.add_worker('v', 2)
        drain(sched, 'w')
        self.assertTrue(sched.result('w', 'a', 0))
        self.assertEqual(sched.lost('w'), ['a'])
        handout = sched.next_for('v')
        self.assertEqual(handout.commits, (1, 2))
        # What the dead one sent late is not counted
        self.assertFalse(sched.result('w', 'a', 1))
        build(sched, 'v', handout)
        self.assertTrue(sched.finished)
        self.assertEqual(sched.missing(), {})

    def test_killer(self):
        """A board that takes each worker down is given up and named; the rest is built"""
        sched = Scheduler([Task('killer', 'arm', (0,), 9), Task('a', 'arm', (0,))])
        for i in range(3):
            sched.add_worker(f'w{i}', 1)
            self.assertEqual(sched.next_for(f'w{i}').target, 'killer')
            sched.lost(f'w{i}')
        sched.add_worker('v', 2)
        handouts = drain(sched, 'v')
        self.assertEqual([h.target for h in handouts], ['a'])
        build(sched, 'v', handouts[0])
        self.assertTrue(sched.finished)
        missing, why = sched.missing()['killer']
        self.assertEqual(missing, (0,))
        self.assertIn('3 attempts', why)

    def test_elsewhere_first(self):
        """What failed on one machine for its own reasons goes to another one"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.add_worker('w', 2)
        sched.add_worker('v', 2)
        drain(sched, 'w')
        self.assertTrue(sched.board_done('w', 'a', 'no space'))
        self.assertIsNone(sched.next_for('w'))
        self.assertEqual(sched.next_for('v').target, 'a')

    def test_here_again_when_alone(self):
        """With one machine only, the second try is made there"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.add_worker('w', 2)
        drain(sched, 'w')
        sched.board_done('w', 'a', 'no space')
        self.assertEqual(sched.next_for('w').target, 'a')

    def test_taken_back(self):
        """An idle worker gets what another one only has in its queue: nobody waits"""
        sched = Scheduler([Task('a', 'arm', (0, 1)), Task('b', 'arm', (0, 1))])
        sched.add_worker('w', 1, ahead=1)
        sched.add_worker('v', 1, ahead=1)
        drain(sched, 'w')
        sched.started('w', 'a')
        handout = sched.next_for('v')
        self.assertEqual((handout.target, handout.taken_from), ('b', 'w'))
        # The first owner is told to drop it; what it says of it counts no more
        self.assertFalse(sched.result('w', 'b', 0))
        self.assertFalse(sched.board_done('w', 'b'))
        build(sched, 'v', handout)
        self.assertFalse(sched.finished)

    def test_duplicate(self):
        """An idle worker builds the last board a second time; the first result counts"""
        sched = Scheduler([Task('a', 'arm', (0, 1, 2))])
        sched.add_worker('slow', 1, ahead=1)
        sched.add_worker('v', 1)
        sched.add_worker('u', 1)
        drain(sched, 'slow')
        self.assertTrue(sched.result('slow', 'a', 0))
        handout = sched.next_for('v')
        self.assertEqual((handout.target, handout.commits, handout.taken_from),
                         ('a', (1, 2), ''))
        # Two are enough
        self.assertIsNone(sched.next_for('u'))
        self.assertTrue(sched.result('v', 'a', 1))
        self.assertFalse(sched.result('slow', 'a', 1))
        self.assertEqual(sched.rivals('v', 'a'), [])
        self.assertTrue(sched.result('v', 'a', 2))
        self.assertEqual(sched.rivals('v', 'a'), ['slow'])
        self.assertTrue(sched.finished)

    def test_duplicate_lost(self):
        """The loss of one of two owners puts nothing back and counts no attempt"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.add_worker('w', 1)
        sched.add_worker('v', 1)
        drain(sched, 'w')
        sched.started('w', 'a')
        self.assertTrue(sched.next_for('v'))
        self.assertEqual(sched.lost('w'), [])
        self.assertTrue(sched.result('v', 'a', 0))

    def test_strangers(self):
        """Results for boards or commits that were not given out are refused"""
        sched = Scheduler([Task('a', 'arm', (1,)), Task('b', 'arm', (0,))])
        sched.add_worker('w', 1)
        drain(sched, 'w')
        for args in (('w', 'a', 0), ('w', 'b', 0), ('w', 'zz', 0), ('v', 'a', 1)):
            self.assertFalse(sched.result(*args), args)
        self.assertTrue(sched.result('w', 'a', 1))
        self.assertFalse(sched.result('w', 'a', 1))

    def test_twice(self):
        """A board that is named twice cannot slip in"""
        with self.assertRaises(ValueError):
            Scheduler([Task('a', 'arm', (0,)), Task('a', 'arm', (0,))])


class TestHistories(unittest.TestCase):
    """Random histories with losses: everything ends, nothing is counted twice"""

    def one(self, seed):
        """Play one history"""
        rng = random.Random(seed)
        archs = ['arm', 'riscv', 'sandbox']
        tasks = [Task(f'b{i}', rng.choice(archs),
                      tuple(sorted(rng.sample(range(6), rng.randint(0, 6)))),
                      rng.choice([0, 1.0, 7.0])) for i in range(rng.randint(0, 30))]
        sched = Scheduler(tasks, max_attempts=rng.randint(1, 4))
        alive, hands, serial = set(), {}, 0
        accepted = {}
        losses = rng.randint(0, 12)
        for _ in range(100000):
            if sched.finished:
                break
            if not alive or (rng.random() < 0.02 and serial < 20):
                name = f'w{serial}'
                serial += 1
                sched.add_worker(name, rng.randint(1, 4),
                                 None if rng.random() < 0.5 or serial > 15
                                 else rng.sample(archs, 2), rng.random(), rng.randint(0, 2))
                alive.add(name)
                hands[name] = []
                continue
            name = rng.choice(sorted(alive))
            act = rng.random()
            if act < 0.4:
                handout = sched.next_for(name)
                if handout:
                    self.assertTrue(handout.commits)
                    if handout.taken_from:
                        hand = hands[handout.taken_from]
                        hand[:] = [entry for entry in hand if entry[0] != handout.target]
                    hands[name].append([handout.target, list(handout.commits)])
            elif act < 0.43 and losses:
                losses -= 1
                alive.discard(name)
                sched.lost(name)
                for target, left in hands.pop(name):
                    for upto in left:
                        self.assertFalse(sched.result(name, target, upto))
            elif hands[name]:
                entry = rng.choice(hands[name])
                target, left = entry
                if left and rng.random() < 0.95:
                    upto = left.pop(0)
                    sched.started(name, target)
                    key = (target, upto)
                    self.assertEqual(sched.result(name, target, upto), key not in accepted)
                    accepted.setdefault(key, name)
                    for other in sched.rivals(name, target):
                        hands[other] = [e for e in hands[other] if e[0] != target]
                        sched.board_done(other, target)
                else:
                    hands[name].remove(entry)
                    sched.board_done(name, target, 'broken' if left else '')
            elif not any(hands.values()):
                sched.give_up_stranded('nobody can')
        self.assertTrue(sched.finished, f'seed {seed} does not end')
        missing = sched.missing()
        for task in tasks:
            got = {upto for target, upto in accepted if target == task.target}
            want = set(task.commits)
            if task.target in missing:
                self.assertEqual(set(missing[task.target][0]), want - got)
                self.assertTrue(missing[task.target][1], 'given up without a reason')
            else:
                self.assertEqual(got, want)

    def test_refused_then_alone(self):
        """A board that one machine failed is offered to it again when the other is lost"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.add_worker('one', 1)
        sched.add_worker('two', 1)
        self.assertEqual('a', sched.next_for('one').target)
        sched.board_done('one', 'a', 'no space')
        self.assertIsNone(sched.next_for('one'))
        sched.lost('two')
        self.assertTrue(sched.reoffer())
        self.assertEqual('a', sched.next_for('one').target)

    def test_refused_waits(self):
        """While another machine is to come, a board waits for it"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.expecting = True
        sched.add_worker('one', 1)
        sched.next_for('one')
        sched.board_done('one', 'a', 'no space')
        self.assertIsNone(sched.next_for('one'))
        sched.add_worker('two', 1)
        self.assertEqual('a', sched.next_for('two').target)

    def test_histories(self):
        """Thousands of them"""
        for seed in range(1500):
            self.one(seed)


if __name__ == '__main__':
    unittest.main()
