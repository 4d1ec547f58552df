# SPDX-License-Identifier: GPL-2.0+
"""The scheduler: no board is lost, built twice or waited for in vain."""

import dataclasses
import random
import unittest
from unittest import mock

import simulate

from buildman.schedule.ledger import Handout, Task
from buildman.schedule.policy import Scheduler


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
        assert sched.ledger.result(name, handout.target, upto)
    sched.ledger.board_done(name, handout.target)


class TestScheduler(unittest.TestCase):
    """Rules, one by one"""

    def test_order_and_capacity(self):
        """Heavy boards go first, equal ones in the order of the list, no more than fit"""
        sched = Scheduler([Task('a', 'arm', (0,)), Task('b', 'arm', (0,), 5),
                           Task('c', 'arm', (0,)), Task('d', 'arm', (0,), 9)])
        sched.ledger.add_worker('w', 2, ahead=1)
        self.assertEqual([h.target for h in drain(sched, 'w')], ['d', 'b', 'a'])

    def test_groups(self):
        """With ccache, boards of one SoC follow each other, or their objects are not found"""
        tasks = [Task(f'{soc or "x"}{i}', 'arm', (0,), 10 * i + len(soc), 0, soc)
                 for i in range(4) for soc in ('', 'a', 'bb')]
        sched = Scheduler(tasks)
        sched.ledger.add_worker('w', 1)
        got = []
        for _ in tasks:
            handout = sched.next_for('w')
            got.append(handout.target)
            build(sched, 'w', handout)
        # The longest board decides which group is next; the last ones go by length alone
        self.assertEqual(got, ['bb3', 'bb2', 'bb1', 'bb0', 'a3', 'a2', 'a1', 'a0', 'x3', 'x2',
                               'x1', 'x0'])

    def test_groups_of_machines(self):
        """Each machine stays at its SoC, and nobody is idle when there is but one left"""
        sched = Scheduler([Task(f'{soc}{i}', 'arm', (0,), group=soc)
                           for soc in 'ab' for i in range(6)])
        for name in 'vw':
            sched.ledger.add_worker(name, 1)
        got = {name: [] for name in 'vw'}
        for name in 'vwwvvwvw':
            handout = sched.next_for(name)
            got[name].append(handout.target)
            build(sched, name, handout)
        self.assertEqual(got, {'v': ['a0', 'a1', 'a2', 'a3'], 'w': ['b0', 'b1', 'b2', 'b3']})
        sched = Scheduler([Task(f'a{i}', 'arm', (0,), group='a') for i in range(9)])
        for name in 'vw':
            sched.ledger.add_worker(name, 1)
        self.assertEqual([sched.next_for(name).target for name in 'vw'], ['a0', 'a1'])

    def test_arch(self):
        """A worker gets nothing that it has no compiler for"""
        sched = Scheduler([Task('a', 'arm', (0,)), Task('r', 'riscv', (0,))])
        sched.ledger.add_worker('w', 5, ['riscv'])
        self.assertEqual([h.target for h in drain(sched, 'w')], ['r'])
        self.assertEqual(sched.ledger.give_up_stranded('nobody'), ['a'])

    def test_lost_keeps_received(self):
        """Only the missing commits of a lost worker's board are built again"""
        sched = Scheduler([Task('a', 'arm', (0, 1, 2))])
        sched.ledger.add_worker('w', 2)
        sched.ledger.add_worker('v', 2)
        drain(sched, 'w')
        self.assertTrue(sched.ledger.result('w', 'a', 0))
        self.assertEqual(sched.ledger.lost('w'), ['a'])
        handout = sched.next_for('v')
        self.assertEqual(handout.commits, (1, 2))
        # What the dead one sent late is not counted
        self.assertFalse(sched.ledger.result('w', 'a', 1))
        build(sched, 'v', handout)
        self.assertTrue(sched.ledger.finished)
        self.assertEqual(sched.ledger.missing(), {})

    def test_attempts(self):
        """What is told of an earlier time that a worker had a board is not of this time"""
        sched = Scheduler([Task('a', 'arm', (0, 1))])
        ledger = sched.ledger
        for name in 'wv':
            ledger.add_worker(name, 1)
        self.assertEqual((1, 0), (sched.next_for('w').attempt, ledger.attempt('v', 'a')))
        self.assertEqual(('w', 2), dataclasses.astuple(sched.next_for('v'))[:1:-1])
        ledger.lost('v')
        self.assertEqual((3, 3), (sched.next_for('w').attempt, ledger.attempt('w', 'a')))
        self.assertFalse(ledger.result('w', 'a', 0, attempt=1))
        self.assertFalse(ledger.board_done('w', 'a', attempt=1))
        ledger.started('w', 'a', attempt=1)
        self.assertEqual({'a'}, ledger.owed('w'))
        self.assertTrue(ledger.result('w', 'a', 0, attempt=3))
        # One that tells none is believed
        self.assertTrue(ledger.result('w', 'a', 1))
        self.assertFalse(ledger.board_done('w', 'a', attempt=3))
        self.assertEqual((True, set()), (ledger.finished, ledger.owed('w')))

    def test_killer(self):
        """A board that takes each worker down is given up and named; the rest is built"""
        sched = Scheduler([Task('killer', 'arm', (0,), 9), Task('a', 'arm', (0,))])
        for i in range(2):
            sched.ledger.add_worker(f'w{i}', 1)
            self.assertEqual(sched.next_for(f'w{i}').target, 'killer')
            sched.ledger.lost(f'w{i}')
        sched.ledger.add_worker('v', 2)
        handouts = drain(sched, 'v')
        # What killed two comes last
        self.assertEqual([h.target for h in handouts], ['a', 'killer'])
        build(sched, 'v', handouts[0])
        sched.ledger.lost('v')
        self.assertTrue(sched.ledger.finished)
        missing, why = sched.ledger.missing()['killer']
        self.assertEqual(missing, (0,))
        self.assertIn('3 attempts', why)
        for name in ('w0', 'w1', 'v'):
            self.assertIn(f"'{name}'", why)

    def test_killer_last(self):
        """Who is left when one has taken others down, as it was planned, begins with the rest"""
        sched = Scheduler([Task('killer', 'arm', (0,), 9), *(Task(name, 'arm', (0,), 5)
                                                            for name in 'abc')])
        for names in (('v', 'w'), ('w', 'x')):
            for name in names:
                if name not in sched.ledger.workers:
                    sched.ledger.add_worker(name, 1)
            self.assertEqual(sched.next_for(names[0]).target, 'killer')
            sched.ledger.lost(names[0])
        got = []
        while not sched.ledger.finished:
            handout = sched.next_for('x')
            got.append(handout.target)
            build(sched, 'x', handout)
        self.assertEqual(['a', 'b', 'c', 'killer'], got)

    def test_killer_has_company(self):
        """Boards that are built beside one that kills workers are not given up with it"""
        tasks = [Task('killer', 'arm', (0,), 9)] + [Task(f'b{i}', 'arm', (0,)) for i in range(6)]
        sched = Scheduler(tasks)
        for i in range(12):
            name = f'w{i}'
            sched.ledger.add_worker(name, 4, ahead=1)
            handouts = drain(sched, name)
            if any(handout.target == 'killer' for handout in handouts):
                sched.ledger.lost(name)
                continue
            while handouts:
                for handout in handouts:
                    build(sched, name, handout)
                handouts = [h for h in drain(sched, name) if h.target != 'killer']
            if sched.ledger.owed(name):
                sched.ledger.lost(name)
        self.assertTrue(sched.ledger.finished)
        self.assertEqual(['killer'], list(sched.ledger.missing()))

    def test_killer_twice_at_once(self):
        """Two workers that died of the same board, which both were building, count as two"""
        sched = Scheduler([Task('killer', 'arm', (0,))])
        for name in 'ab':
            sched.ledger.add_worker(name, 1)
            self.assertEqual('killer', sched.next_for(name).target)
            sched.ledger.started(name, 'killer')
        sched.ledger.lost('a')
        sched.ledger.lost('b')
        for name in 'cd':
            sched.ledger.add_worker(name, 1)
        self.assertEqual('killer', sched.next_for('c').target)
        sched.ledger.started('c', 'killer')
        self.assertIsNone(sched.next_for('d'), 'the last try was doubled')
        sched.ledger.lost('c')
        self.assertIn('3 attempts', sched.ledger.missing()['killer'][1])

    def test_elsewhere_first(self):
        """What failed on one machine for its own reasons goes to another one"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.ledger.add_worker('w', 2)
        sched.ledger.add_worker('v', 2)
        drain(sched, 'w')
        self.assertTrue(sched.ledger.board_done('w', 'a', 'no space'))
        self.assertIsNone(sched.next_for('w'))
        self.assertEqual(sched.next_for('v').target, 'a')

    def test_here_again_when_alone(self):
        """With one machine only, the second try is made there"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.ledger.add_worker('w', 2)
        drain(sched, 'w')
        sched.ledger.board_done('w', 'a', 'no space')
        self.assertEqual(sched.next_for('w').target, 'a')

    def test_taken_back(self):
        """An idle worker gets what another one only has in its queue: nobody waits"""
        sched = Scheduler([Task('a', 'arm', (0, 1)), Task('b', 'arm', (0, 1))])
        sched.ledger.add_worker('w', 1, ahead=1)
        sched.ledger.add_worker('v', 1, ahead=1)
        drain(sched, 'w')
        sched.ledger.started('w', 'a')
        handout = sched.next_for('v')
        self.assertEqual((handout.target, handout.taken_from), ('b', 'w'))
        # The first owner is told to drop it; what it says of it counts no more
        self.assertFalse(sched.ledger.result('w', 'b', 0))
        self.assertFalse(sched.ledger.board_done('w', 'b'))
        build(sched, 'v', handout)
        self.assertFalse(sched.ledger.finished)

    def test_duplicate(self):
        """An idle worker builds the last board a second time; the first result counts"""
        sched = Scheduler([Task('a', 'arm', (0, 1, 2))])
        sched.ledger.add_worker('slow', 1, ahead=1)
        sched.ledger.add_worker('v', 1)
        sched.ledger.add_worker('u', 1)
        drain(sched, 'slow')
        self.assertTrue(sched.ledger.result('slow', 'a', 0))
        handout = sched.next_for('v')
        self.assertEqual((handout.target, handout.commits, handout.taken_from),
                         ('a', (1, 2), ''))
        # Two are enough
        self.assertIsNone(sched.next_for('u'))
        self.assertTrue(sched.ledger.result('v', 'a', 1))
        self.assertFalse(sched.ledger.result('slow', 'a', 1))
        self.assertEqual(sched.ledger.rivals('v', 'a'), [])
        self.assertTrue(sched.ledger.result('v', 'a', 2))
        self.assertEqual(sched.ledger.rivals('v', 'a'), ['slow'])
        self.assertTrue(sched.ledger.finished)

    def test_duplicate_lost(self):
        """The loss of one of two owners puts nothing back and counts no attempt"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.ledger.add_worker('w', 1)
        sched.ledger.add_worker('v', 1)
        drain(sched, 'w')
        sched.ledger.started('w', 'a')
        self.assertTrue(sched.next_for('v'))
        self.assertEqual(sched.ledger.lost('w'), [])
        self.assertTrue(sched.ledger.result('v', 'a', 0))

    def test_strangers(self):
        """Results for boards or commits that were not given out are refused"""
        sched = Scheduler([Task('a', 'arm', (1,)), Task('b', 'arm', (0,))])
        sched.ledger.add_worker('w', 1)
        drain(sched, 'w')
        for args in (('w', 'a', 0), ('w', 'b', 0), ('w', 'zz', 0), ('v', 'a', 1)):
            self.assertFalse(sched.ledger.result(*args), args)
        self.assertTrue(sched.ledger.result('w', 'a', 1))
        self.assertFalse(sched.ledger.result('w', 'a', 1))

    def test_twice(self):
        """A board that is named twice cannot slip in"""
        with self.assertRaises(ValueError):
            Scheduler([Task('a', 'arm', (0,)), Task('a', 'arm', (0,))])


class TestForesight(unittest.TestCase):
    """With costs known: who is slow must not hold up the others"""

    def setUp(self):
        self.now = 0.0

    def make(self, *costs, **kwargs):
        """Return a scheduler of boards b0, b1, … that cost so much"""
        return Scheduler([Task(f'b{num}', 'arm', (0,), cost) for num, cost in enumerate(costs)],
                         clock=lambda: self.now, **kwargs)

    def test_cost(self):
        """The first commit that a worker builds costs more than those that follow"""
        task = Task('a', 'arm', (0, 1, 2), 100.0, 60.0)
        self.assertEqual([task.cost(count, True) for count in range(4)], [0, 60, 80, 100])
        self.assertEqual([task.cost(count, False) for count in range(1, 4)], [20, 40, 60])
        self.assertEqual(Task('a', 'arm', (0, 1), 10.0).cost(1, True), 5)
        self.assertEqual(Task('a', 'arm', (0, 1)).cost(2, True), 0)
        self.assertEqual(Task('a', 'arm', (3,), 10.0, 10.0).cost(1, False), 10)

    def test_slow_asks_first(self):
        """A slow machine that asks first would take four times as long for the longest board"""
        sched = self.make(10, 100, 10)
        sched.ledger.add_worker('slow', 1, speed=1)
        sched.ledger.add_worker('fast', 1, speed=4)
        self.assertEqual(sched.next_for('slow').target, 'b0')
        self.assertEqual(sched.next_for('fast').target, 'b1')

    def test_nothing_for_the_slow(self):
        """What a fast machine would be through with sooner is left to it, while it is fast"""
        sched = self.make(100, 90)
        sched.ledger.add_worker('slow', 1, speed=1)
        sched.ledger.add_worker('fast', 1, speed=4)
        self.assertIsNone(sched.next_for('slow'))
        self.assertEqual(sched.hungry(), ['slow'])
        self.assertEqual(sched.next_for('fast').target, 'b0')
        sched.ledger.started('fast', 'b0')
        self.assertIsNone(sched.next_for('slow'))
        # It is long overdue: it may never be through
        self.now = 500.0
        self.assertEqual(sched.next_for('slow').target, 'b1')
        self.assertEqual(sched.hungry(), [])

    def test_speed_is_learned(self):
        """A machine that is slower than it says gets less than it would"""
        costs = [100] * 12
        sched = self.make(*costs)
        sched.ledger.add_worker('liar', 1, speed=1)
        sched.ledger.add_worker('honest', 1, speed=1)
        for _ in range(4):
            for name, seconds in (('liar', 1000), ('honest', 100)):
                target = sched.next_for(name).target
                sched.ledger.started(name, target)
                self.now += 1
                sched.ledger.result(name, target, 0, seconds)
                sched.ledger.board_done(name, target)
        shares = sched._share()
        given = {name: 0 for name in ('liar', 'honest')}
        for name in given:
            while shares.take(name, lambda target: True):
                given[name] += 1
        self.assertEqual(given, {'liar': 0, 'honest': 4})

    def test_others_are_coming(self):
        """This machine is ready at once; the longest boards wait for faster ones that come"""
        sched = self.make(2, 100, 3)
        sched.unknown = 1
        sched.ledger.add_worker('', 1, speed=1)
        self.assertEqual(sched.next_for('').target, 'b0')
        sched.unknown = 0
        sched.ledger.expect('fast', 1, speed=10)
        build(sched, '', Handout('b0', (0,), 1))
        self.assertEqual(sched.next_for('').target, 'b2')
        # It does not come after all
        sched.ledger.lost('fast')
        build(sched, '', Handout('b2', (0,), 1))
        self.assertEqual(sched.next_for('').target, 'b1')

    def test_patience(self):
        """A machine that tells nothing for long does not keep the longest boards from this one"""
        sched = self.make(10, 100)
        sched.unknown = 1
        sched.ledger.add_worker('', 1)
        self.now = 60.0
        self.assertEqual(sched.next_for('').target, 'b1')

    def test_second_owner_is_quicker(self):
        """Of what others are building, an idle machine takes what it is through with sooner"""
        sched = self.make(100, 90)
        for name, speed in (('a', 1), ('b', 1), ('late', 4)):
            sched.ledger.add_worker(name, 1, speed=speed)
        targets = {}
        for name in ('a', 'b'):
            target = targets[name] = sched.ledger.hand_out(
                sched.ledger.workers[name], 'b0' if name == 'a' else 'b1').target
            sched.ledger.started(name, target)
        self.now = 10.0
        self.assertEqual(sched.next_for('late').target, 'b0')
        # In vain with the other one, which is nearly through
        sched.ledger.add_worker('later', 1, speed=1)
        self.now = 80.0
        self.assertIsNone(sched.next_for('later'))
        self.now = 400.0
        self.assertEqual(sched.next_for('later').target, 'b1')

    def test_not_taken_by_the_slow(self):
        """A board that a fast machine is about to begin with is not taken from it by a slow one"""
        sched = self.make(40, 41)
        sched.ledger.add_worker('fast', 1, speed=4, ahead=1)
        self.assertEqual([handout.target for handout in drain(sched, 'fast')], ['b1', 'b0'])
        sched.ledger.started('fast', 'b1')
        sched.ledger.add_worker('slow', 1, speed=1)
        self.assertIsNone(sched.next_for('slow'))
        sched.ledger.add_worker('same', 1, speed=4)
        handout = sched.next_for('same')
        self.assertEqual((handout.target, handout.taken_from), ('b0', 'fast'))

    def test_long_board_before_its_group(self):
        """With ccache, too, a board that takes longer than all others does not come last"""
        tasks = [Task(f'a{num}', 'arm', (0,), 10, group='a') for num in range(20)]
        tasks.append(Task('long', 'arm', (0,), 90, group='b'))
        sched = Scheduler(tasks)
        sched.ledger.add_worker('v', 1)
        sched.ledger.add_worker('w', 1)
        got = [sched.next_for(name).target for name in 'vw']
        self.assertIn('long', got)

    def test_near_the_least_time(self):
        """Machines of different speed are through with everything at the same time"""
        for seed in range(3):
            rng = random.Random(seed)
            boards = simulate.make_boards(300, 3, rng)
            machines = simulate.make_machines((4, 8, 16, 4), rng, 3.0)
            told = {mach.name: mach.speed for mach in machines}
            least = simulate.least_time(boards, machines)
            tasks = simulate.make_tasks(boards, 0.0, rng)
            took = simulate.Run(boards, machines, tasks, told, False).run()
            self.assertLess(took / least, 1.04, f'seed {seed}')
            older = simulate.Run(boards, machines, tasks, told, True).run()
            self.assertLess(took, older)
            grouped = [dataclasses.replace(task, group=f'soc{rng.randrange(20)}')
                       for task in tasks]
            took = simulate.Run(boards, machines, grouped, told, False).run()
            self.assertLess(took / least, 1.08, f'seed {seed}, in groups')


class TestChoices(unittest.TestCase):
    """Each condition of the choice, one by one"""

    def setUp(self):
        self.now = 0.0

    def make(self, *tasks, workers='vw', **kwargs):
        """Return a scheduler with workers of one slot and the speed 1"""
        sched = Scheduler(tasks, clock=lambda: self.now, **kwargs)
        for name in workers:
            sched.ledger.add_worker(name, 1)
        return sched

    def give(self, sched, name, target, begun=True):
        """Hand a board out, whatever the scheduler would do"""
        sched.ledger.hand_out(sched.ledger.workers[name], target)
        if begun:
            sched.ledger.started(name, target)

    def next(self, sched, name):
        """Return which board a worker gets, '' for none"""
        handout = sched.next_for(name)
        return handout.target if handout else ''

    def test_who(self):
        """Nothing for strangers, those set aside, and those with their hands full"""
        sched = self.make(*[Task(target, 'arm', (0,)) for target in 'abc'])
        self.assertEqual(self.next(sched, 'nobody'), '')
        sched.ledger.set_aside('w')
        self.assertEqual(self.next(sched, 'w'), '')
        self.assertEqual([self.next(sched, 'v') for _ in range(2)], ['a', ''])
        sched.ledger.add_worker('x', 1, ahead=1)
        self.assertEqual([self.next(sched, 'x') for _ in range(3)], ['b', 'c', ''])

    def test_hungry(self):
        """Who has nothing to do and got nothing, while it takes boards"""
        sched = self.make(Task('a', 'arm', (0,), 10), Task('b', 'arm', (0,), 10))
        self.assertEqual([self.next(sched, name) for name in 'vw'], ['a', 'b'])
        self.assertEqual((self.next(sched, 'v'), sched.hungry()), ('', []))
        for name in 'yx':
            sched.ledger.add_worker(name, 1, ['riscv'])
            self.assertEqual(self.next(sched, name), '')
        self.assertEqual(sched.hungry(), ['x', 'y'])
        sched.ledger.set_aside('x')
        self.assertEqual(sched.hungry(), ['y'])
        sched.ledger.lost('y')
        self.assertEqual(sched.hungry(), [])
        # Where it is not known what takes long, nobody waits
        sched = self.make(Task('a', 'arm', (0,)))
        self.give(sched, 'v', 'a')
        self.assertEqual([self.next(sched, name) for name in 'wv'], ['a', ''])
        self.assertEqual(sched.hungry(), [])
        # Who got something is not hungry
        sched = self.make(Task('a', 'arm', (0,), 10))
        self.give(sched, 'v', 'a', False)
        self.now = 50.0
        sched.ledger.add_worker('fast', 1, speed=9)
        self.assertEqual((self.next(sched, 'fast'), sched.hungry()), ('a', []))

    def test_moves(self):
        """Builds of other programs stay where they are"""
        for moves in (True, False):
            sched = self.make(Task('a', 'arm', (0,)), moves=moves)
            self.give(sched, 'v', 'a', False)
            self.assertEqual(self.next(sched, 'w'), 'a' if moves else '')

    def test_of_others(self):
        """What another one has is taken, unless there is a reason against it"""
        def setup(begun=True):
            sched = self.make(Task('a', 'arm', (0,)), workers='vwx')
            self.give(sched, 'v', 'a', begun)
            return sched, sched.ledger, sched.ledger.boards['a']

        sched, ledger, board = setup()
        self.assertEqual(self.next(sched, 'w'), 'a')
        self.assertEqual(board.owners, {'v', 'w'})
        self.assertEqual(self.next(sched, 'x'), '', 'two are enough')
        sched, ledger, board = setup(False)
        handout = sched.next_for('w')
        self.assertEqual((handout.target, handout.taken_from, board.owners),
                         ('a', 'v', {'w'}))
        sched, ledger, board = setup()
        ledger.workers['w'].refused.add('a')
        self.assertEqual(self.next(sched, 'w'), '')
        sched, ledger, board = setup()
        ledger.add_worker('y', 1, ['riscv'])
        self.assertEqual(self.next(sched, 'y'), '')
        sched, ledger, board = setup()
        ledger.give_up('a', 'x')
        self.assertEqual(self.next(sched, 'w'), '')
        sched, ledger, board = setup()
        ledger.result('v', 'a', 0)
        self.assertEqual(self.next(sched, 'w'), '')
        for begun, attempts, want in ((True, 1, 'a'), (True, 2, ''), (False, 1, ''),
                                      (False, 2, '')):
            # What may kill is not tried by two at once, and may have been begun
            sched, ledger, board = setup(begun)
            board.attempts += ['x'] * attempts
            self.assertEqual(self.next(sched, 'w'), want, (begun, attempts))

    def test_more_of_others(self):
        """What two are at already does not hide what one of them has not begun"""
        sched = self.make(*[Task(target, 'arm', (0,)) for target in 'ab'], workers='vwx')
        for name in 'vx':
            self.give(sched, name, 'a')
        self.give(sched, 'v', 'b', False)
        self.assertEqual(self.next(sched, 'w'), 'b')

    def test_nothing_ahead_of_others(self):
        """Who is at work does not take from others what would only wait"""
        sched = self.make(*[Task(target, 'arm', (0,)) for target in 'abc'], workers='v')
        sched.ledger.add_worker('w', 1, ahead=1)
        self.give(sched, 'v', 'a')
        self.give(sched, 'v', 'b', False)
        self.give(sched, 'w', 'c')
        self.assertEqual(self.next(sched, 'w'), '')

    def test_best_of_others(self):
        """Not begun goes before begun, then the first of the list"""
        sched = self.make(*[Task(target, 'arm', (0,)) for target in 'abcd'], workers='vwxy')
        self.give(sched, 'v', 'a')
        self.give(sched, 'w', 'c', False)
        self.give(sched, 'x', 'b', False)
        self.assertEqual([self.next(sched, 'y'), list(sched.ledger.owed('y'))], ['d', ['d']])
        sched.ledger.board_done('y', 'd')
        sched.ledger.give_up('d', 'x')
        self.assertEqual(self.next(sched, 'y'), 'b')
        # By what is gained, where that is known
        sched = self.make(Task('a', 'arm', (0,), 100), Task('b', 'arm', (0,), 400),
                          Task('c', 'arm', (0,), 10), workers='vwxy')
        for name, target in zip('vwx', 'abc'):
            self.give(sched, name, target)
        self.assertEqual(self.next(sched, 'y'), '', 'nothing is gained')
        self.now = 410.0
        # The first is late by 310 seconds and may need these again
        self.assertEqual(self.next(sched, 'y'), 'c')

    def test_not_begun_of_others(self):
        """What is not begun ends after what the other one is at, and as long as it takes"""
        sched = self.make(Task('a', 'arm', (0,), 100), Task('b', 'arm', (0,), 50))
        self.give(sched, 'v', 'a')
        self.give(sched, 'v', 'b', False)
        # Through with it at 50, the other one at 150
        handout = sched.next_for('w')
        self.assertEqual((handout.target, handout.taken_from), ('b', 'v'))
        self.assertEqual(sched.ledger.owed('v'), {'a'})
        # At the same time there is nothing in it
        sched = self.make(Task('b', 'arm', (0,), 50))
        self.give(sched, 'v', 'b', False)
        self.assertIsNone(sched.next_for('w'))

    def test_few_of_a_group(self):
        """With few boards left it matters more when each is done"""
        tasks = [Task('a', 'arm', (0,), 1, group='a'), Task('b', 'arm', (0,), 9, group='b'),
                 Task('c', 'arm', (0,), 2, group='a')]
        for left, first in ((2, 'b'), (3, 'c')):
            sched = self.make(*tasks[:left], workers='v')
            sched.ledger.workers['v'].group = 'a'
            self.assertEqual(self.next(sched, 'v'), first)

    def test_groups(self):
        """One's own group, then one that nobody is at, then any; none at all is nobody's"""
        tasks = [Task(group or '-', 'arm', (0,), group=group) for group in ('', 'a', 'b', 'c')]
        tasks += [Task(f'{task.target}{num}', 'arm', (0,), group=task.group)
                  for num in range(3) for task in tasks]
        sched = self.make(*tasks)
        worker = sched.ledger.workers
        worker['v'].group, worker['w'].group = 'b', 'a'
        self.assertEqual(self.next(sched, 'v'), 'b')
        for group, first in (('c', 'c'), ('', '-'), ('gone', '-')):
            sched = self.make(*tasks)
            worker = sched.ledger.workers
            worker['v'].group, worker['w'].group = group, 'a'
            self.assertEqual(self.next(sched, 'v'), first)
        sched = self.make(*tasks[1:3], *tasks[5:7], *tasks[9:11])
        worker = sched.ledger.workers
        worker['v'].group, worker['w'].group = '', 'a'
        self.assertEqual(self.next(sched, 'v'), 'b')

    def test_long_one(self):
        """A board of a group that takes longer than all the rest is begun soon"""
        tasks = [Task(f'a{num}', 'arm', (0,), 10, group='a') for num in range(12)]
        for cost, first in ((30, 'a0'), (31, 'long')):
            sched = self.make(*tasks, Task('long', 'arm', (0,), cost, group='b'))
            sched.ledger.workers['v'].group = 'a'
            self.assertEqual(self.next(sched, 'v'), first)

    def test_looked_at_again(self):
        """Whether there is such a board is found out once for each twentieth of them"""
        sched = self.make(*[Task(f'a{num}', 'arm', (0,), 10, group='a') for num in range(120)],
                          workers='v')
        forecast = sched.ledger.forecast
        with mock.patch.object(forecast, 'urgent', side_effect=forecast.urgent) as urgent:
            for _ in range(12):
                build(sched, 'v', sched.next_for('v'))
        self.assertEqual(2, urgent.call_count)

    def test_early(self):
        """While machines have not told of themselves, the short boards go first, if costs are known
        """
        tasks = [Task('a', 'arm', (0,), 9), Task('b', 'arm', (0,), 5), Task('c', 'arm', (0,), 5),
                 Task('r', 'riscv', (0,), 1)]
        for unknown, now, first in ((1, 0, 'c'), (1, 4.9, 'c'), (1, 5, 'a'), (0, 0, 'a')):
            self.now = 0.0
            sched = Scheduler(tasks, clock=lambda: self.now)
            sched.ledger.add_worker('v', 1, ['arm'])
            sched.unknown, self.now = unknown, now
            self.assertEqual(self.next(sched, 'v'), first, (unknown, now))
        sched = self.make(*[Task(target, 'arm', (0,)) for target in 'ab'])
        sched.unknown = 1
        self.assertEqual(self.next(sched, 'v'), 'a')
        # One that it has refused, and one that somebody has, are not for it
        self.now = 0.0
        sched = self.make(*tasks[:3])
        sched.unknown = 1
        sched.ledger.workers['v'].refused.add('c')
        self.assertEqual(self.next(sched, 'v'), 'b')
        self.assertEqual(self.next(sched, 'w'), 'c')

    def test_refused(self):
        """What one worker failed is for others, also in the middle of the pool"""
        for cost in (0, 10):
            sched = self.make(*[Task(target, 'arm', (0,), cost) for target in 'abc'])
            sched.ledger.workers['v'].refused |= {'a', 'b'}
            self.assertEqual([self.next(sched, 'v'), self.next(sched, 'w')], ['c', 'a'])
            sched = self.make(*[Task(target, 'arm', (0,), cost) for target in 'abc'])
            sched.ledger.workers['v'].refused |= set('abc')
            self.assertEqual([self.next(sched, 'v'), self.next(sched, 'w')], ['', 'a'])
        # The pool stays in order
        sched = self.make(*[Task(str(num), 'arm', (0,)) for num in range(9)])
        sched.ledger.workers['v'].refused |= {'0', '1', '2', '4'}
        self.assertEqual(self.next(sched, 'v'), '3')
        sched.ledger.workers['w'].slots = 9
        self.assertEqual([self.next(sched, 'w') for _ in range(8)], list('01245678'))

    def test_pool_order(self):
        """Taking from the middle of the pool leaves the rest in order"""
        rng = random.Random(5)
        for _ in range(9):
            weights = rng.sample(range(1, 31), 30)
            sched = self.make(*[Task(str(num), 'arm', (0,), num) for num in weights],
                              workers='v')
            worker = sched.ledger.workers['v']
            worker.slots = 30
            got, want = [], [str(num) for num in range(30, 0, -1)]
            while want:
                # Sometimes not the first
                skip = rng.randrange(min(len(want), 6))
                worker.refused = set(want[:skip])
                got.append((self.next(sched, 'v'), want.pop(skip)))
            self.assertEqual([first for first, _ in got], [second for _, second in got])

    def test_share_is_old(self):
        """What was shared lasts for two seconds, less what was taken out meanwhile"""
        sched = self.make(Task('a', 'arm', (0, 1), 200), Task('b', 'arm', (0,), 90), workers='v')
        sched.ledger.add_worker('fast', 1, speed=4)
        self.give(sched, 'fast', 'a')
        self.assertEqual(self.next(sched, 'v'), '')
        # It takes longer than it seemed
        sched.ledger.forecast.begin('fast', 'a', 1e6)
        for now, target in ((1.9, ''), (2.0, 'b')):
            self.now = now
            self.assertEqual(self.next(sched, 'v'), target, now)
        sched = self.make(*[Task(f'b{num}', 'arm', (0,), 99 - num) for num in range(60)])
        self.assertEqual(self.next(sched, 'v'), 'b0')
        for num in range(1, 20):
            sched.ledger.withdraw(f'b{num}')
        self.assertIn(self.next(sched, 'w'), ('b20', 'b21'))

    def test_withdrawn(self):
        """What need not be built is passed over"""
        sched = self.make(*[Task(target, 'arm', (0,)) for target in 'abcd'])
        for target in 'ab':
            sched.ledger.withdraw(target)
        sched.ledger.workers['v'].refused.add('c')
        self.assertEqual([self.next(sched, name) for name in 'vw'], ['d', 'c'])

    def test_planned(self):
        """With several machines each has its share, by what it can build and is at"""
        sched = self.make(Task('a', 'arm', (0,), 90), Task('b', 'arm', (0,), 80),
                          Task('r', 'riscv', (0,), 100), workers='')
        sched.ledger.add_worker('all', 1)
        sched.ledger.add_worker('arm', 1, ['arm'])
        # Who can build anything does what others cannot
        self.assertEqual([self.next(sched, name) for name in ('arm', 'all')], ['a', 'r'])
        sched.ledger.started('all', 'r')
        sched.ledger.started('arm', 'a')
        self.assertEqual(self.next(sched, 'all'), '')
        # What waits at a worker counts as well
        sched = self.make(Task('a', 'arm', (0,), 50), Task('b', 'arm', (0,), 40),
                          Task('c', 'arm', (0,), 30), Task('d', 'arm', (0,), 20))
        self.give(sched, 'v', 'a', False)
        self.assertEqual([self.next(sched, 'w')], ['b'])
        sched.ledger.workers['v'].slots = sched.ledger.workers['w'].slots = 9
        self.assertEqual([self.next(sched, 'v'), self.next(sched, 'w')], ['d', 'c'])

    def test_look_again(self):
        """What was worked out holds for a moment, and for these workers"""
        sched = self.make(Task('a', 'arm', (0,), 100), Task('b', 'arm', (0,), 90), workers='v')
        sched.ledger.add_worker('fast', 1, speed=4)
        self.assertEqual(self.next(sched, 'v'), '')
        sched.ledger.set_aside('fast')
        self.assertEqual(self.next(sched, 'v'), 'a')
        sched = self.make(Task('a', 'arm', (0,), 100), Task('b', 'arm', (0,), 90), workers='v')
        sched.ledger.add_worker('fast', 1, speed=4)
        self.give(sched, 'fast', 'a')
        self.assertEqual(self.next(sched, 'v'), '')
        self.now = 500.0
        self.assertEqual(self.next(sched, 'v'), 'b')


class TestHistories(unittest.TestCase):
    """Random histories with losses: everything ends, nothing is counted twice"""

    def one(self, seed):
        """Play one history"""
        rng = random.Random(seed)
        archs = ['arm', 'riscv', 'sandbox']
        groups = rng.choice([[''], ['', 'rk', 'zynq']])
        tasks = [Task(f'b{i}', rng.choice(archs),
                      tuple(sorted(rng.sample(range(6), rng.randint(0, 6)))),
                      rng.choice([0, 1.0, 7.0]), group=rng.choice(groups))
                 for i in range(rng.randint(0, 30))]
        now = 0.0
        sched = Scheduler(tasks, max_attempts=rng.randint(1, 4), clock=lambda: now)
        alive, hands, serial = set(), {}, 0
        accepted = {}
        losses = rng.randint(0, 12)
        for _ in range(100000):
            if sched.ledger.finished:
                break
            now += rng.random() * 3
            if rng.random() < 0.02:
                # One that tells of itself, and comes later or never
                sched.ledger.expect(f'w{serial + rng.randint(0, 2)}', rng.randint(1, 4), None,
                             rng.random())
            if not alive or (rng.random() < 0.02 and serial < 20):
                name = f'w{serial}'
                serial += 1
                sched.ledger.add_worker(name, rng.randint(1, 4),
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
                sched.ledger.lost(name)
                for target, left in hands.pop(name):
                    for upto in left:
                        self.assertFalse(sched.ledger.result(name, target, upto))
            elif hands[name]:
                entry = rng.choice(hands[name])
                target, left = entry
                if left and rng.random() < 0.95:
                    upto = left.pop(0)
                    sched.ledger.started(name, target)
                    key = (target, upto)
                    self.assertEqual(sched.ledger.result(name, target, upto, rng.random() * 5),
                                     key not in accepted)
                    accepted.setdefault(key, name)
                    for other in sched.ledger.rivals(name, target):
                        hands[other] = [e for e in hands[other] if e[0] != target]
                        sched.ledger.board_done(other, target)
                else:
                    hands[name].remove(entry)
                    sched.ledger.board_done(name, target, 'broken' if left else '')
            elif not any(hands.values()):
                sched.ledger.give_up_stranded('nobody can')
        self.assertTrue(sched.ledger.finished, f'seed {seed} does not end')
        missing = sched.ledger.missing()
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
        sched.ledger.add_worker('one', 1)
        sched.ledger.add_worker('two', 1)
        self.assertEqual('a', sched.next_for('one').target)
        sched.ledger.board_done('one', 'a', 'no space')
        self.assertIsNone(sched.next_for('one'))
        sched.ledger.lost('two')
        self.assertTrue(sched.ledger.reoffer())
        self.assertEqual('a', sched.next_for('one').target)

    def test_refused_waits(self):
        """While another machine is to come, a board waits for it"""
        sched = Scheduler([Task('a', 'arm', (0,))])
        sched.ledger.expecting = True
        sched.ledger.add_worker('one', 1)
        sched.next_for('one')
        sched.ledger.board_done('one', 'a', 'no space')
        self.assertIsNone(sched.next_for('one'))
        sched.ledger.add_worker('two', 1)
        self.assertEqual('a', sched.next_for('two').target)

    def test_histories(self):
        """Thousands of them"""
        for seed in range(1500):
            self.one(seed)
