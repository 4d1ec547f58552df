# SPDX-License-Identifier: GPL-2.0+
"""The account of who owes what: each entry, one by one."""

import unittest

from buildman.schedule.ledger import MAX_COMMITS, Handout, Ledger, Task


class TestLedger(unittest.TestCase):
    """A board is owed, waits, is complete or given up, and never two of these"""

    def setUp(self):
        self.now = 0.0

    def make(self, *tasks, **kwargs):
        """Return a ledger of boards of two commits, with the workers v and w"""
        ledger = Ledger(tasks or [Task('a', 'arm', (0, 1))], clock=lambda: self.now, **kwargs)
        for name in 'vw':
            ledger.add_worker(name, 1)
        return ledger

    def give(self, ledger, name, target='a'):
        """Hand a board out"""
        return ledger.hand_out(ledger.workers[name], target)

    def end(self, ledger, name, target):
        """Return when a worker should be through with a board"""
        return ledger.forecast.when(name, target)

    def test_cost(self):
        """What it costs to begin anew, and to go on"""
        task = Task('a', 'arm', (0, 1, 2), 100.0, 60.0)
        self.assertEqual([task.cost(count, True) for count in range(4)], [0, 60, 80, 100])
        self.assertEqual([task.cost(count, False) for count in range(1, 4)], [20, 40, 60])
        self.assertEqual(Task('a', 'arm', (0, 1), 10.0).cost(1, True), 5)
        self.assertEqual(Task('a', 'arm', (3,), 10.0).cost(1, False), 10)
        self.assertEqual(Task('a', 'arm', (0, 1), 10.0, 9.0).cost(2, False), 2)
        self.assertEqual(Task('a', 'arm', (), 10.0).cost(1, True), 0)

    def test_pools(self):
        """By architecture and group; the heavy ones first, then in the order of the list"""
        ledger = self.make(Task('a', 'arm', (0,), 1), Task('b', 'arm', (0,), 5),
                           Task('c', 'arm', (0,), 5, group='g'), Task('d', 'x86', (0,)),
                           Task('e', 'x86', ()))
        self.assertEqual({key: sorted(pool) for key, pool in ledger.pools.items()}, {
            ('arm', ''): [(-5, 1, 'b'), (-1, 0, 'a')], ('arm', 'g'): [(-5, 2, 'c')],
            ('x86', ''): [(0, 3, 'd')]})
        self.assertFalse(ledger.finished)
        self.assertEqual(ledger.changes, 4 + 2)
        self.assertTrue(Ledger([Task('e', 'x86', ())]).finished)
        with self.assertRaisesRegex(ValueError, "'a' is in the pool twice"):
            self.make(Task('a', 'arm', (0,)), Task('a', 'arm', (0,)))

    def test_extended(self):
        """What is added while a worker has a board goes to the pool when it is through"""
        ledger = self.make(Task('a', 'arm', (0,)))
        self.give(ledger, 'v')
        pool = ledger.pools['arm', '']
        pool.clear()
        self.assertTrue(ledger.result('v', 'a', 0))
        ledger.extend('a', [2])
        self.assertEqual([], pool)
        self.assertTrue(ledger.board_done('v', 'a'))
        self.assertEqual([(MAX_COMMITS + 2, 0, 'a')], pool)
        self.assertEqual(([], False), (ledger.boards['a'].attempts, ledger.finished))
        self.assertTrue(ledger.takes(ledger.workers['v'], 'a'))
        self.assertEqual((2,), self.give(ledger, 'v').commits)
        self.assertEqual((True, True), (ledger.result('v', 'a', 2), ledger.finished))
        self.assertFalse(ledger.board_done('v', 'a'))
        ledger.extend('a', [1])
        self.assertEqual((1, False), (len(pool), ledger.finished))

    def test_workers(self):
        """Who is there, who is to come, and that each change is noticed"""
        ledger = self.make()
        with self.assertRaisesRegex(ValueError, "'v' is there twice"):
            ledger.add_worker('v', 1)
        seen = ledger.changes
        ledger.expect('x', 0, ['arm'], 3.0)
        self.assertEqual(ledger.changes, seen + 1)
        coming = ledger.coming['x']
        self.assertEqual((coming.name, coming.slots, coming.ahead, coming.archs, coming.speed),
                         ('x', 1, 0, {'arm'}, 3.0))
        self.assertIsNone(ledger.expect('y', 2) or ledger.coming['y'].archs)
        self.assertEqual(ledger.forecast.free('x'), 5)
        seen = ledger.changes
        ledger.forecast.begin('x', 'b', 50)
        self.assertEqual(ledger.forecast.free('x'), ledger.forecast.seconds('x', 50))
        ledger.add_worker('x', 0, ('arm', 'x86'), 2.0, 4)
        self.assertEqual(ledger.changes, seen + 1)
        worker = ledger.workers['x']
        self.assertEqual((worker.slots, worker.ahead, worker.archs, worker.speed),
                         (1, 4, {'arm', 'x86'}, 2.0))
        self.assertEqual((list(ledger.coming), ledger.forecast.free('x')), (['y'], 0))
        ledger.forecast.begin('x', 'b', 50)
        self.assertEqual(ledger.forecast.free('x'), ledger.forecast.seconds('x', 50))
        self.assertEqual((ledger.workers['v'].archs, ledger.workers['v'].ahead), (None, 0))
        seen = ledger.changes
        self.assertEqual(ledger.lost('y'), [])
        self.assertEqual((ledger.coming, ledger.changes), ({}, seen + 1))

    def test_do_without(self):
        """The last worker that takes boards cannot be done without"""
        ledger = self.make()
        self.assertTrue(ledger.can_do_without('v'))
        seen = ledger.changes
        ledger.set_aside('v')
        self.assertEqual(ledger.changes, seen + 1)
        self.assertEqual([ledger.can_do_without(name) for name in 'vwx'], [False] * 3)
        ledger.add_worker('x', 1)
        self.assertTrue(ledger.can_do_without('w'))

    def test_hand_out(self):
        """Each handing out has a number, and tells what is missing"""
        ledger = self.make(Task('a', 'arm', (3, 1, 2), group='g'))
        self.assertTrue(ledger.waiting('a'))
        self.assertEqual(self.give(ledger, 'v'), Handout('a', (1, 2, 3), 1))
        self.assertEqual((ledger.workers['v'].group, ledger.waiting('a'), ledger.owed('v'),
                          ledger.owed('w'), ledger.owed('x')), ('g', False, {'a'}, set(), set()))
        self.assertTrue(ledger.result('v', 'a', 2))
        self.assertEqual(ledger.hand_out(ledger.workers['w'], 'a', 'v'),
                         Handout('a', (1, 3), 2, 'v'))
        self.assertEqual([ledger.attempt(name, 'a') for name in 'vwx'], [1, 2, 0])
        self.assertEqual(ledger.attempt('v', 'b'), 0)

    def test_first_of_pool(self):
        """Whatever is handed out, the heaviest that waits stands first"""
        weights = (9, 5, 8, 4, 3, 7, 6, 2, 1)
        for taken in range(len(weights)):
            ledger = self.make(*[Task(f't{num}', 'arm', (0,), weight)
                                 for num, weight in enumerate(weights)])
            self.give(ledger, 'v', f't{taken}')
            pool = ledger.pools['arm', '']
            self.assertEqual(len(weights) - 1, len(pool))
            while pool:
                first = pool[0]
                self.assertEqual(min(pool), first)
                self.give(ledger, 'w', first[2])

    def test_result(self):
        """Only what was asked of this worker, this time, and only once"""
        ledger = self.make(Task('a', 'arm', (0, 1)), Task('b', 'arm', (0, 1)))
        self.give(ledger, 'v')
        for args in (('v', 'a', 2), ('v', 'b', 0), ('w', 'a', 0), ('x', 'a', 0), ('v', 'z', 0),
                     ('v', 'a', 0, 0.0, 2)):
            self.assertIs(ledger.result(*args), False, args)
        self.assertIs(ledger.result('v', 'a', 0, attempt=1), True)
        self.assertIs(ledger.result('v', 'a', 0), False)
        self.assertEqual((ledger.missing(), ledger.finished),
                         ({'a': ((1,), ''), 'b': ((0, 1), '')}, False))
        ledger.result('v', 'a', 1)
        self.assertEqual(ledger.missing(), {'b': ((0, 1), '')})
        self.assertIs(ledger.board_done('v', 'a'), False)
        self.assertFalse(ledger.waiting('a'))
        self.give(ledger, 'w', 'b')
        ledger.result('w', 'b', 1)
        self.assertFalse(ledger.finished)
        ledger.result('w', 'b', 0)
        self.assertTrue(ledger.finished)

    def test_forecast(self):
        """When a worker is through, by what it has begun with and has told"""
        ledger = self.make(Task('a', 'arm', (0, 1, 2), 100.0, 60.0))
        self.give(ledger, 'v')
        ledger.started('w', 'a')
        ledger.started('v', 'z')
        ledger.started('v', 'a', 2)
        self.assertEqual(ledger.workers['v'].begun, set())
        ledger.started('v', 'a', 1)
        self.assertEqual(ledger.workers['v'].begun, {'a'})
        self.assertEqual(self.end(ledger, 'v', 'a'), 100)
        self.assertEqual(ledger.boards['a'].left, 100)
        # Told again it began no later
        self.now = 10.0
        ledger.started('v', 'a')
        self.assertEqual(self.end(ledger, 'v', 'a'), 100)
        ledger.result('v', 'a', 0, 120.0)
        self.assertEqual((self.end(ledger, 'v', 'a'), ledger.workers['v'].advanced), (50, {'a'}))
        ledger.forecast.refresh()
        self.assertAlmostEqual(ledger.forecast.seconds('v', 1), 420 / (300 * 360 / 420 + 60))
        ledger.result('v', 'a', 1, 40.0)
        self.assertEqual(self.end(ledger, 'v', 'a'), 10 + ledger.forecast.seconds('v', 20))
        # Half as fast as was thought: 80 of cost took 160 seconds, with 300 before that
        ledger.forecast.refresh()
        self.assertAlmostEqual(ledger.forecast.seconds('v', 1), 460 / (300 * 380 / 460 + 80))
        ledger.board_done('v', 'a', 'x')
        with self.assertRaises(KeyError):
            self.end(ledger, 'v', 'a')
        self.assertEqual((ledger.workers['v'].begun, ledger.workers['v'].advanced), (set(), set()))
        # Who did not do the first commits begins from nothing
        self.assertEqual(ledger.boards['a'].left, 60)
        self.give(ledger, 'w')
        ledger.started('w', 'a')
        self.assertAlmostEqual(self.end(ledger, 'w', 'a'), 10 + ledger.forecast.seconds('w', 60))

    def test_heard(self):
        """Whether a worker has told of all that it has in hand"""
        ledger = self.make(Task('b', 'arm', (0,)), Task('a', 'arm', (0, 1)))
        for name in 'wv':
            self.give(ledger, name)
        self.assertIs(ledger.board_done('w', 'a'), False)
        self.assertIs(ledger.heard('w', 'a', 0), False)
        self.assertIs(ledger.heard('v', 'a', 1), False)
        self.assertIs(ledger.heard('v', 'a', 1), False)
        self.assertIs(ledger.heard('v', 'a', 0), True)
        self.assertEqual(ledger.missing()['a'], ((0, 1), ''))

    def test_board_done(self):
        """What is missing goes back, but not to who could not go on"""
        ledger = self.make()
        self.assertIs(ledger.board_done('v', 'a'), False)
        self.give(ledger, 'v')
        self.assertIs(ledger.board_done('v', 'a', attempt=2), False)
        ledger.pools['arm', ''].clear()
        seen = ledger.changes
        self.assertIs(ledger.board_done('v', 'a', 'no space', attempt=1), True)
        self.assertEqual((ledger.owed('v'), ledger.waiting('a'), ledger.pools['arm', '']),
                         (set(), True, [(0, 0, 'a')]))
        self.assertGreater(ledger.changes, seen)
        self.assertEqual([ledger.takes(ledger.workers[name], 'a') for name in 'vw'],
                         [False, True])
        # Nobody is left who has not failed it, so both may have it again
        self.give(ledger, 'w')
        self.assertTrue(ledger.board_done('w', 'a'))
        self.assertEqual([ledger.takes(ledger.workers[name], 'a') for name in 'vw'], [True] * 2)
        self.assertEqual(ledger.boards['a'].attempts,
                         ['no space on v', "worker 'w' did not finish it"])
        ledger.add_worker('', 1)
        self.give(ledger, '')
        self.assertTrue(ledger.board_done('', 'a', 'no space'))
        self.assertEqual(ledger.missing()['a'][1], "given up after 3 attempts: no space on v; "
                         "worker 'w' did not finish it; no space")
        self.assertTrue(ledger.finished)

    def test_expecting(self):
        """While others are to come, a board is not offered again to those that failed it"""
        ledger = self.make()
        ledger.expecting = True
        for name in 'vw':
            self.give(ledger, name)
            ledger.board_done(name, 'a')
        self.assertEqual([ledger.takes(ledger.workers[name], 'a') for name in 'vw'], [False] * 2)
        ledger.add_worker('x', 1, ['riscv'])
        self.assertIs(ledger.reoffer(), True)
        self.assertEqual([ledger.takes(ledger.workers[name], 'a') for name in 'vw'], [True] * 2)
        self.assertIs(ledger.reoffer(), False)

    def test_reoffer(self):
        """All boards that wait, to those that take boards and have what it needs"""
        ledger = self.make(Task('a', 'arm', (0,)), Task('b', 'arm', (0,)), Task('c', 'arm', (0,)))
        ledger.set_aside('w')
        ledger.expecting = True
        for target in 'abc':
            ledger.workers['v'].refused.add(target)
        self.give(ledger, 'w', 'c')
        self.assertTrue(ledger.reoffer())
        self.assertEqual(ledger.workers['v'].refused, {'c'})
        ledger.set_aside('v')
        ledger.workers['v'].refused.add('a')
        self.assertFalse(ledger.reoffer())

    def test_two_owners(self):
        """The first complete result counts; the other owner has nothing to give back"""
        ledger = self.make()
        for name in 'vw':
            self.give(ledger, name)
        self.assertEqual(ledger.rivals('v', 'a'), [])
        self.assertIs(ledger.board_done('v', 'a', 'x'), False)
        self.assertEqual((ledger.boards['a'].attempts, ledger.boards['a'].owners), ([], {'w'}))
        self.give(ledger, 'v')
        for upto in range(2):
            ledger.result('v', 'a', upto)
        self.assertEqual([ledger.rivals(name, 'a') for name in 'vw'], [['w'], ['v']])
        self.assertTrue(ledger.finished)
        self.assertIs(ledger.board_done('w', 'a'), False)

    def test_lost(self):
        """What a worker had goes back, in the order of the list; complete boards do not"""
        ledger = self.make(*[Task(target, 'arm', (0,)) for target in 'dbca'])
        for target in 'abcd':
            self.give(ledger, 'v', target)
        ledger.result('v', 'b', 0)
        self.give(ledger, 'w', 'c')
        seen = ledger.changes
        self.assertEqual(ledger.lost('v'), ['d', 'a'])
        self.assertGreater(ledger.changes, seen)
        self.assertEqual({target: (ledger.waiting(target), board.attempts, board.owners)
                          for target, board in ledger.boards.items()}, {
            'a': (True, ["worker 'v' was lost"], set()), 'b': (False, [], set()),
            'c': (False, ["worker 'v' was lost"], {'w'}),
            'd': (True, ["worker 'v' was lost"], set())})
        self.assertEqual(ledger.lost('v'), [])
        self.assertEqual(ledger.attempt('v', 'a'), 0)
        with self.assertRaises(KeyError):
            ledger.forecast.free('v')

    def test_suspects(self):
        """Who has one board that may kill gets no second one; such boards come last"""
        ledger = self.make(Task('a', 'arm', (0,), 5), Task('b', 'arm', (0,)),
                           Task('c', 'arm', (0,), 9), max_attempts=3)
        ledger.pools['arm', ''].clear()
        for name in 'xy':
            ledger.add_worker(name, 3)
            for target in 'ab':
                self.assertFalse(ledger.is_suspect(target))
                self.give(ledger, name, target)
            ledger.lost(name)
        self.assertTrue(ledger.is_suspect('a'))
        self.assertEqual(sorted(ledger.pools['arm', ''])[-1], (float('inf'), 1, 'b'))
        worker = ledger.workers['v']
        self.assertTrue(ledger.takes(worker, 'a'))
        self.give(ledger, 'v', 'c')
        self.assertTrue(ledger.takes(worker, 'a'))
        self.give(ledger, 'v', 'a')
        self.assertEqual([ledger.takes(worker, target) for target in 'bc'], [False, True])
        # Where one attempt is all that there is, no board is one that kills
        for most, after in ((1, 1), (2, 1), (4, 3)):
            ledger = self.make(max_attempts=most)
            for count in range(4):
                self.assertEqual(ledger.is_suspect('a'), count >= after)
                ledger.boards['a'].attempts.append('x')

    def test_taken(self):
        """A machine that was taken away is no fault of the boards that it had"""
        ledger = self.make(Task('a', 'arm', (0,)), Task('b', 'arm', (0,)))
        for num in range(5):
            for name in (f'v{num}', f'w{num}'):
                ledger.add_worker(name, 1)
                self.give(ledger, name, 'a')
            self.assertEqual([], ledger.lost(f'v{num}', taken=True))
            ledger.pools['arm', ''].clear()
            self.assertEqual(['a'], ledger.lost(f'w{num}', taken=True))
            self.assertTrue(ledger.waiting('a'))
            self.assertEqual([(0, 0, 'a')], ledger.pools['arm', ''])
        self.assertFalse(ledger.is_suspect('a'))

    def test_give_up(self):
        """A board is given up once, and yet complete is complete"""
        ledger = self.make(Task('a', 'arm', (0,)), Task('b', 'arm', (0,)))
        self.give(ledger, 'v')
        ledger.give_up('a', 'first')
        ledger.give_up('a', 'second')
        self.assertEqual((ledger.missing()['a'], ledger.finished), (((0,), 'first'), False))
        self.give(ledger, 'w', 'b')
        self.assertTrue(ledger.result('v', 'a', 0))
        self.assertEqual(list(ledger.missing()), ['b'])
        ledger.give_up('a', 'third')
        self.assertEqual((ledger.boards['a'].given_up, ledger.finished), ('', False))
        ledger.give_up('b', 'x')
        self.assertTrue(ledger.finished)
        self.assertIs(ledger.board_done('w', 'b', 'y'), False)
        self.assertFalse(ledger.waiting('b'))
        self.assertEqual(ledger.boards['b'].attempts, [])

    def test_stranded(self):
        """Boards that wait and that nobody can build"""
        ledger = Ledger([Task(arch, arch, (0,)) for arch in ('arm', 'x86', 'mips', 'sh')])
        ledger.add_worker('v', 1, ['arm', 'sh'])
        ledger.add_worker('w', 1, ['x86', 'sh'])
        self.assertEqual(ledger.stranded(), ['mips'])
        ledger.hand_out(ledger.workers['w'], 'sh')
        ledger.set_aside('w')
        ledger.set_aside('v')
        self.assertEqual(ledger.stranded(), ['arm', 'x86', 'mips'])
        ledger.add_worker('x', 1)
        self.assertEqual(ledger.stranded(), [])
        ledger.lost('x')
        self.assertEqual(ledger.give_up_stranded('nobody'), ['arm', 'x86', 'mips'])
        self.assertEqual(ledger.missing()['mips'], ((0,), 'nobody'))
        self.assertFalse(ledger.finished)

    def test_withdraw(self):
        """What need not be built is taken out, unless somebody is at it"""
        ledger = self.make(Task('a', 'arm', (2, 0)), Task('b', 'arm', (0,)))
        self.assertEqual(ledger.withdraw('a'), (0, 2))
        self.assertEqual((ledger.waiting('a'), list(ledger.missing())), (False, ['b']))
        self.assertEqual(ledger.withdraw('a'), ())
        self.give(ledger, 'v', 'b')
        self.assertEqual(ledger.withdraw('b'), (0,))
        self.assertFalse(ledger.finished)
        ledger.result('v', 'b', 0)
        self.assertTrue(ledger.finished)
