# SPDX-License-Identifier: GPL-2.0+
"""The loop with workers that are made up: what depends on who says what when.

All that a made-up worker has to say it says at once, in the thread of the loop: nothing
waits, time goes on when the loop waits for it, and a loop that would wait for ever fails.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import tempfile
import unittest
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union
from unittest import mock

from buildman.core.errors import SetupError
from buildman.core.events import (
    BoardDone,
    Built,
    Crashed,
    Event,
    HandedOut,
    Refused,
    Said,
    SlotReady,
    Started,
    WorkerComing,
    WorkerGone,
    WorkerReady,
)
from buildman.core.outcome import TRIES, Failure, FailureKind, Outcome, without_compiler
from buildman.core.plan import Board, BoardJob, Commit, Plan, Settings, Toolchain
from buildman.results.carry import Found
from buildman.results.made_with import Earlier
from buildman.results.tree import ResultTree
from buildman.schedule import loop as loop_module
from buildman.schedule.inbox import Inbox
from buildman.schedule.ledger import Weight
from buildman.schedule.loop import Loop, Report, exit_status
from buildman.schedule.progress import Status

KILLED = Failure(FailureKind.KILLED, 'killed by a signal')
LACKING = Failure(FailureKind.NO_LIBRARY, 'a library is missing')
COMMITS = tuple(Commit(char * 40, char) for char in 'abc')

Act = Callable[['Made', BoardJob], Iterable[Event]]


class Events(Inbox):
    """The queue of the loop, for workers that have said all they ever will; and its clock"""

    now = 1000.0
    restless = False

    def get(self, block: bool = True, timeout: Optional[float] = None) -> Event:
        if timeout == math.inf:
            raise OverflowError('a lock cannot wait for so long')
        if block and self.empty():
            if timeout is None:
                raise AssertionError('the loop waits, and nobody has anything to say')
            if self.restless and not timeout:
                raise AssertionError('the loop does not wait')
            self.restless = not timeout
            self.now += timeout
        event: Event = super().get(False)
        return event

    def monotonic(self) -> float:
        """Return the time"""
        return self.now


def good(worker: Made, job: BoardJob) -> List[Event]:
    """Build a board as it should be"""
    return [*(worker.built(job, upto) for upto in job.commits), worker.done(job)]


def bad(worker: Made, job: BoardJob) -> List[Event]:
    """Fail a board because of the machine"""
    return [worker.built(job, job.commits[0], return_code=2, infra=KILLED), worker.done(job)]


def idle(_worker: Made, _job: BoardJob) -> List[Event]:
    """Take a board and say nothing"""
    return []


class Made:
    """A made-up worker; `calls`: what the loop asked of it, in order"""

    ahead = 1
    tells_done = True

    def __init__(self, name: str = '', act: Act = good, slots: int = 1,
                 archs: Optional[Sequence[str]] = None, late: bool = False,
                 speed: float = 1.0) -> None:
        self.name, self.act, self.archs, self.speed = name, act, archs, speed
        # Ready when those before it have said what they say of their first boards
        self.slots, self._slots = 0 if late else slots, slots
        self.events = Inbox()
        self.calls: List[Tuple[Any, ...]] = []
        self.first: Sequence[Event] = [
            WorkerComing(name, slots, None, speed), WorkerReady(name)] if late else []
        self.last: Sequence[Event] = []

    def built(self, job: Union[BoardJob, str], upto: int, return_code: int = 0, **kwargs: Any
              ) -> Built:
        """Return a result"""
        target, attempt = (job, 0) if isinstance(job, str) else (job.board.target, job.attempt)
        return Built(self.name, Outcome(target, upto, return_code, machine=self.name, **kwargs),
                     attempt)

    def done(self, job: BoardJob, reason: str = '') -> BoardDone:
        """Return that it is through with a board"""
        return BoardDone(self.name, job.board.target, (), reason, job.attempt)

    def say(self, events: Iterable[Event]) -> None:
        """Post events."""
        for event in events:
            self.events.put(event)

    def start(self) -> None:
        """Begin."""
        self.calls.append(('start',))
        self.slots = self._slots
        self.say(self.first)

    def submit(self, job: BoardJob) -> None:
        """Do as it was told to do."""
        self.calls.append(('submit', job.board.target, job.commits))
        self.say(self.act(self, job))

    def cancel(self, target: str) -> None:
        """Note it."""
        self.calls.append(('cancel', target))

    def finish(self) -> None:
        """End, and send what was under way."""
        self.calls.append(('finish',))
        self.say(self.last)

    def stop(self) -> None:
        """End."""
        self.calls.append(('stop',))

    def asked(self, what: str) -> List[Any]:
        """Return what was asked of it, of a kind: boards, or (board, commits)"""
        return [call[1:] if len(call) > 2 else call[-1] for call in self.calls if call[0] == what]

    @property
    def boards(self) -> List[str]:
        """The boards that it was given"""
        return [target for target, _ in self.asked('submit')]


class Case(unittest.TestCase):
    """Builds made-up boards with made-up workers"""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.tree = ResultTree(os.path.join(folder.name, 'out'), COMMITS)
        self.out = io.StringIO()
        self.heard: List[Tuple[Event, str]] = []

    def loop(self, boards: str = 'a', commits: int = 1, settings: Optional[Settings] = None,
                **kwargs: Any) -> Loop:
        """Return a loop; a board of upper case is for another architecture"""
        jobs = tuple(BoardJob(Board(name, 'riscv' if name.isupper() else 'arm', soc='soc'),
                              tuple(range(commits)), Toolchain('arm', '/bin/cc', '/bin', ''))
                     for name in boards)
        self.status = Status(self.out, describe=lambda outcome: f'told: {outcome.target}')
        plan = Plan(jobs, COMMITS[:commits], settings or Settings(), tuple(range(commits)))
        events = Events()
        patch = mock.patch.object(loop_module, 'time', events)
        patch.start()
        self.addCleanup(patch.stop)
        kwargs.setdefault('earlier', Earlier(plan))
        made = Loop(plan, self.tree, self.status, events, **kwargs)
        made.add_listener(lambda event, fate: self.heard.append((event, fate)))
        return made

    def run_on(self, loop: Loop, *workers: Made) -> Report:
        """Build"""
        for worker in workers:
            worker.events = loop.events
        return loop.run(workers)

    def build(self, boards: str, *workers: Made, **kwargs: Any) -> Report:
        """Build boards with workers"""
        return self.run_on(self.loop(boards, **kwargs), *workers)

    def read(self, target: str, name: str, upto: int = 0) -> Optional[str]:
        """Return a file of a result, None when it is not there"""
        try:
            with open(os.path.join(self.tree.board_dir(upto, target), name),
                      encoding='utf-8') as inf:
                return inf.read()
        except FileNotFoundError:
            return None

    def fates(self) -> Dict[Tuple[str, str, int], str]:
        """Return what became of results: worker, board and commit"""
        return {(event.worker, event.outcome.target, event.outcome.commit_upto): fate
                for event, fate in self.heard if isinstance(event, Built)}


class OrdinaryTest(Case):
    """Nothing goes wrong"""

    def test_all(self) -> None:
        """Each board goes out once with all its commits, each result is there and counted"""
        def build(worker: Made, job: BoardJob) -> List[Event]:
            return [Started('w', job.board.target, 0),
                    worker.built(job, 0, stdout='out', seconds=9.0),
                    worker.built(job, 1, 2, stderr='bad', reconfigured=True),
                    worker.built(job, 2, stderr='warn', skipped=True, seconds=7.0, scan_seconds=3.0,
                                 files={'lines': b''}), worker.done(job)]

        worker = Made('w', build)
        loop = self.loop('ab', 3)
        seen: List[float] = []
        result = loop.ledger.result
        with mock.patch.object(loop.ledger, 'result', side_effect=lambda *args: (
                seen.append(args[3]), result(*args))[1]):
            report = self.run_on(loop, worker)
        self.assertEqual([('a', 2), ('b', 2)],
                         [(item.target, item.upto) for item in report.carried])
        self.assertEqual(Report(built=6, carried=report.carried), report)
        self.assertEqual([('a', (0, 1, 2)), ('b', (0, 1, 2))], worker.asked('submit'))
        self.assertEqual([('start',), ('finish',)], [worker.calls[0], worker.calls[-1]])
        # What was not built tells nothing of how long building takes
        self.assertEqual([9.0, 0.0, 0.0] * 2, seen)
        for target in 'ab':
            self.assertEqual(['0', '2', '0'], [self.read(target, 'done', i) for i in range(3)])
            self.assertEqual('out', self.read(target, 'log'))
            self.assertIsNone(self.read(target, 'host'))
        counts = loop.counts
        self.assertEqual((2, 2, 2, 0), (counts.ok, counts.warned, counts.failed, counts.previous))
        self.assertEqual((2, 2, 2, 6.0), (counts.skipped, counts.reconfigured, counts.scanned,
                                          counts.scan_seconds))
        self.assertEqual({''}, set(self.fates().values()))
        self.assertEqual([Started('w', 'a', 0), BoardDone('w', 'a', attempt=1)],
                         [event for event, _ in self.heard if not isinstance(
                             event, (Built, HandedOut))][:2])
        self.assertEqual([('a', (0, 1, 2)), ('b', (0, 1, 2))], [
            (job.board.target, job.commits) for event, _ in self.heard
            if isinstance(event, HandedOut) for job in event.jobs])
        self.assertTrue(all(event.jobs for event, _ in self.heard if isinstance(event, HandedOut)))
        self.assertIn('a [w]\n', self.out.getvalue())
        self.assertIn(f'{2:5d}{2:5d}{2:5d}', self.out.getvalue())

    def test_hands_full(self) -> None:
        """A worker has a board more than slots in hand, so that none waits; never two more"""
        for slots in (1, 3):
            in_hand: List[BoardJob] = []
            most: List[int] = []

            def hold(worker: Made, job: BoardJob, slots: int = slots,
                     in_hand: List[BoardJob] = in_hand, most: List[int] = most) -> List[Event]:
                in_hand.append(job)
                most.append(len(in_hand))
                if len(in_hand) <= slots:
                    return []
                done, in_hand[:] = in_hand[:], []
                return [event for each in done for event in good(worker, each)]

            boards = 'abcdefghijklmnopqrst'[:(slots + 1) * 3]
            report = self.build(boards, Made('w', hold, slots),
                                settings=Settings(force_build=True))
            self.assertEqual((len(boards), slots + 1), (report.built, max(most)))

    def test_hosts(self) -> None:
        """With other machines, each result says who built it"""
        self.build('aB', Made('', archs=['arm']), Made('far', archs=['riscv']), host='here')
        self.assertEqual(('here\n', 'far\n'), (self.read('a', 'host'), self.read('B', 'host')))
        self.assertRegex(self.out.getvalue(), r'(?ms)^ *\d[^\n]* a$.* B \[far\]$')

    def test_earlier(self) -> None:
        """What is there is not built again, unless it is to be"""
        for target, code in (('a', 0), ('b', 2)):
            self.tree.write(Outcome(target, 0, code))
        for settings, boards, previous in (
                (Settings(), 'c', 2), (Settings(force_build_failures=True), 'bc', 1),
                (Settings(force_build=True), 'abc', 0)):
            worker = Made('w')
            loop = self.loop('abc', settings=settings)
            self.assertEqual(len(boards), len(loop.pending()))
            self.assertFalse(loop.nothing_to_do)
            self.run_on(loop, worker)
            self.assertEqual((list(boards), previous), (worker.boards, loop.counts.previous))
            self.assertEqual((3, {}), (loop.counts.done, loop.report.lacking))
            self.tree.forget(0, 'c')
            self.tree.write(Outcome('b', 0, 2))
        self.tree.write(Outcome('c', 0, 0))
        self.assertTrue(self.loop('abc').nothing_to_do)

    def test_commits_left(self) -> None:
        """Of a board that was built in part, the rest is built"""
        self.tree.write(Outcome('a', 1, 0))
        worker = Made('w')
        self.build('a', worker, commits=3)
        self.assertEqual([('a', (0, 2))], worker.asked('submit'))

    def test_ticker(self) -> None:
        """What is to be told now and then is told although nothing happens"""
        worker = Made('w', idle)
        loop = self.loop()
        job = loop.plan.jobs[0]
        ticks: List[float] = []

        def tick() -> None:
            ticks.append(loop_module.time.monotonic())
            if len(ticks) == 3:
                worker.say(good(worker, job))

        loop.add_ticker(tick, 60.0)
        self.assertEqual(1, self.run_on(loop, worker).built)
        self.assertEqual([1060.0, 1120.0, 1180.0], ticks)

    def test_groups(self) -> None:
        """Boards of one SoC belong together, unless each has a folder of its own"""
        for alone, group in ((False, 'soc'), (True, '')):
            loop = self.loop(settings=Settings(per_board_out_dir=alone))
            self.assertEqual(group, loop.ledger.boards['a'].task.group)

    def test_said(self) -> None:
        """What machines say is shown, with their names"""
        self.build('a', Made('w', lambda worker, job: [
            SlotReady('w', 0), Said('w', 'the fan is loud'), *good(worker, job)]))
        self.assertIn('[w] the fan is loud\n', self.out.getvalue())

    def test_weights(self) -> None:
        """What boards are expected to cost is asked for what is to be built, and goes by that"""
        self.tree.write(Outcome('b', 0, 0))
        asked: List[Any] = []

        def weigh(boards: Any) -> Dict[str, Weight]:
            asked.append(dict(boards))
            return {'a': Weight(1.0, 0.5), 'c': Weight(9.0, 5.0)}

        worker = Made('w')
        self.build('abc', worker, commits=2, weigh=weigh)
        self.assertEqual(([{'a': 2, 'b': 1, 'c': 2}], 'c'), (asked, worker.boards[0]))
        task = self.loop('abc', commits=2, weigh=weigh, settings=Settings(
            force_build=True)).ledger.boards['a'].task
        self.assertEqual((1.0, 0.5), (task.weight, task.first))
        asked.pop()
        self.loop('abc', commits=2, weigh=weigh)
        self.assertEqual(1, len(asked))

    def test_time_left(self) -> None:
        """How long it will take is told as soon as it can be known"""
        loop = self.loop('abc')
        left: List[bool] = [self.status.left() is not None]
        loop.add_listener(lambda event, fate: left.append(
            self.status.left() is not None) if isinstance(event, Built) else None)
        self.run_on(loop, Made('w', lambda worker, job: [
            Started('w', job.board.target, 0), worker.built(job, 0, seconds=100.0),
            worker.done(job)]))
        self.assertEqual([False, True], left[:2])

    def test_settings(self) -> None:
        """The next run is to know which settings made a result"""
        self.build('a', Made('w'))
        other = self.loop('a', settings=Settings(no_lto=True))
        self.assertEqual(('a',), other.pending())
        self.assertTrue(self.loop('a').nothing_to_do)

    def test_caller_settings(self) -> None:
        """A caller's results have no settings, nor is it asked which they had"""
        report = self.build('a', Made('w', lambda worker, job: [worker.done(job)]),
                            Made('v', late=True), earlier=None)
        self.assertEqual((1, {}), (report.built, report.missing))
        self.assertIsNone(self.read('a', 'settings'))

    def test_say(self) -> None:
        """What others want to be shown while it builds"""
        self.loop().say('the disk is nearly full')
        self.assertIn('the disk is nearly full', self.out.getvalue())

    def test_exit_status(self) -> None:
        """What a script learns of a run: failures, then warnings, unless they do not count"""
        status, lost = Status(self.out), Report(missing={'a': ((0,), '')})
        self.assertEqual((0, 100), (exit_status(status, Report(), False),
                                    exit_status(status, lost, True)))
        status.counts.add(0, True)
        self.assertEqual((101, 0), (exit_status(status, Report(), False),
                                    exit_status(status, Report(), True)))
        status.counts.add(2, False)
        self.assertEqual(100, exit_status(status, Report(), True))


class MachineTest(Case):
    """Machines fail, and are lost"""

    def test_again_elsewhere(self) -> None:
        """A failure of the machine is no result; another machine gets the board"""
        first, second = Made('one', bad), Made('two', late=True)
        loop = self.loop('ab')
        seen: List[Optional[str]] = []
        loop.add_listener(lambda event, fate: seen.append(
            self.read('a', 'done')) if fate == 'infra' else None)
        report = self.run_on(loop, first, second)
        self.assertEqual((2, {}), (report.built, report.missing))
        self.assertEqual((1, 1), (first.boards.count('a'), second.boards.count('a')))
        self.assertIn('  tried again after a failure of a machine: a b built on two',
                      loop.aftermath.lines())
        self.assertEqual({None}, set(seen))
        self.assertEqual(('infra', ''), (self.fates()[('one', 'a', 0)],
                                         self.fates()[('two', 'a', 0)]))
        # Told once, however many boards meet it
        self.assertEqual([f"[one] 'a' failed as {KILLED}; tried again"], report.notes)
        self.assertEqual(1, sum(isinstance(event, Said) for event, _ in self.heard))

    def test_killed_make(self) -> None:
        """A make that is killed each time is no result however often; a lacking library is"""
        report = self.build('a', Made('', bad))
        self.assertEqual(['a'], list(report.missing))
        self.assertIn((Said('local', f"'a' failed as {KILLED}; tried again"), ''), self.heard)
        self.assertIn(KILLED.text, report.missing['a'][1])
        self.assertEqual((None, 100), (self.read('a', 'done'),
                                       exit_status(self.status, report, False)))

        # Each attempt has a reason of its own
        report = self.build('c', Made('w', lambda worker, job: (
            bad(worker, job) if len(worker.boards) == 1 else [worker.done(job)])))
        self.assertRegex(report.missing['c'][1], f"{KILLED} on w; worker 'w' did not finish it$")

        def lacking(worker: Made, job: BoardJob) -> List[Event]:
            return [worker.built(job, 0, return_code=2, infra=LACKING), worker.done(job)]

        # Nobody but another machine may have it
        for names, board, told in (
                ('w', 'b', [f"[w] 'b' failed as {LACKING}"]),
                ('wx', 'd', [f"[w] 'd' failed as {LACKING}; tried again",
                             f"[x] 'd' failed as {LACKING}"])):
            workers = [Made(name, lacking, late=name == 'x') for name in names]
            report = self.build(board, *workers)
            self.assertEqual(({}, '2', [board] * len(names)), (
                report.missing, self.read(board, 'done'),
                [target for worker in workers for target in worker.boards]))
            self.assertEqual(told, report.notes)

    def loop_beside(self, fine: Made) -> Loop:
        """Return a loop of nine boards in which a machine goes on when another is put aside"""
        loop = self.loop('abcdefghi')
        jobs = {job.board.target: job for job in loop.plan.jobs}

        def go_on(event: Event, _fate: str) -> None:
            if isinstance(event, Said) and 'put aside' in event.text:
                fine.act = good
                fine.say([event for target in 'ab' for event in good(fine, jobs[target])])

        loop.add_listener(go_on)
        return loop

    def test_three_in_a_row(self) -> None:
        """A machine that fails three boards is given no more; what it has, others get"""
        fine, broken = Made('fine', idle), Made('bad', bad, 2)
        loop = self.loop_beside(fine)
        report = self.run_on(loop, fine, broken)
        self.assertEqual((9, {}), (report.built, report.missing))
        self.assertIn('[bad] put aside, as 3 boards in a row failed there: ' + KILLED.text,
                      report.notes)
        self.assertEqual((list('cdefg'), list('efg')), (broken.boards, broken.asked('cancel')))
        self.assertRegex('\n'.join(loop.aftermath.lines()), r'put aside.* \(after 0:00:00\)')

    def test_lacks_for_all(self) -> None:
        """A result that says what the machine lacks does not speak for it"""
        def lacking(worker: Made, job: BoardJob) -> List[Event]:
            return [worker.built(job, 0, return_code=2, infra=LACKING), worker.done(job)]

        report = self.build('abcd', Made('w', lacking), Made('idle', archs=['mips']))
        self.assertIn(f'[w] put aside, as 3 boards in a row failed there: {LACKING.text}',
                      report.notes)

    def test_full(self) -> None:
        """So is one that can finish none of three boards"""
        fine = Made('fine', idle)
        full = Made('full', lambda worker, job: [worker.done(job, 'No space left')], 2)
        loop = self.loop_beside(fine)
        report = self.run_on(loop, fine, full)
        self.assertEqual((9, {}), (report.built, report.missing))
        self.assertIn('[full] put aside, as 3 boards in a row failed there: No space left',
                      report.notes)

    def test_not_in_a_row(self) -> None:
        """One good result says that the machine is not the reason; the last one is kept on"""
        tried: List[str] = []

        def mixed(worker: Made, job: BoardJob) -> List[Event]:
            tried.append(job.board.target)
            first = tried.count(job.board.target) == 1 and job.board.target != 'c'
            return (bad if first else good)(worker, job)

        report = self.build('abcde', Made('w', mixed), Made('idle', archs=['mips']))
        self.assertEqual((5, []), (report.built, [
            note for note in report.notes if 'put aside' in note]))
        report = self.build('fghij', Made('w', bad))
        self.assertFalse([note for note in report.notes if 'put aside' in note])
        self.assertEqual(list('fghij'), sorted(report.missing))

    def test_lost(self) -> None:
        """What a lost machine owed is given away, less what had come; it gets nothing more"""
        def dies(worker: Made, job: BoardJob) -> List[Event]:
            return [] if job.board.target == 'a' else [
                worker.built('a', 0), WorkerGone('one', 'no sign of life'),
                worker.built('a', 1), worker.done(job)]

        first, second = Made('one', dies), Made('two', late=True)
        loop = self.loop('ab', commits=2)
        report = self.run_on(loop, first, second)
        self.assertEqual(({'one': 'no sign of life'}, {}, 4),
                         (report.lost, report.missing, report.built))
        self.assertEqual([('a', (1,)), ('b', (0, 1))], sorted(second.asked('submit')))
        self.assertIn('[one] lost: no sign of life; given away again: a, b', report.notes)
        self.assertNotIn(('finish',), first.calls)
        self.assertNotIn(('one', 'a', 1), self.fates())
        self.assertIn('one was lost: no sign of life (after 0:00:00)',
                      '\n'.join(loop.aftermath.lines()))

    def test_lost_last(self) -> None:
        """When the only one that could build a board is lost, nobody waits for it"""
        report = self.build('aB', Made('one', archs=['arm']), Made(
            'two', lambda worker, job: [WorkerGone('two', 'dead')], archs=['riscv']))
        self.assertEqual({'B': ((0,), 'no machine is left that can build it')}, report.missing)

    def test_cannot_go_on(self) -> None:
        """A board that a machine cannot go on with is told of, and goes to another one"""
        def full(worker: Made, job: BoardJob) -> List[Event]:
            return [worker.done(job, 'No space left')]

        first, second = Made('one', full), Made('two', late=True)
        report = self.build('a', first, second)
        self.assertEqual((['a'], ['a'], 1), (first.boards, second.boards, report.built))
        self.assertEqual(["[one] 'a' not finished: No space left"], report.notes)

    def test_nobody_else(self) -> None:
        """A board that waits for another machine is offered again when that does not come"""
        def once(worker: Made, job: BoardJob) -> List[Event]:
            return [worker.done(job, 'full')] if len(worker.boards) == 1 else good(worker, job)

        first, away = Made('one', once), Made('two', late=True)
        away.first = [WorkerGone('two', 'busy')]
        report = self.build('a', first, away)
        self.assertEqual((['a', 'a'], 1, {}), (first.boards, report.built, report.missing))

    def test_idle_gets_it(self) -> None:
        """A board that comes back goes to one that waits for nothing else; a caller's workers
        keep what they have until then
        """
        first, second = Made('one', idle), Made('two')
        first.ahead = second.ahead = 0
        loop = self.loop('ab', for_caller=True)

        def say(event: Event, _fate: str) -> None:
            if isinstance(event, BoardDone) and event.target == 'b':
                self.assertEqual(['b'], second.boards)
                first.say([first.done(loop.plan.jobs[0], 'full')])

        loop.add_listener(say)
        report = self.run_on(loop, first, second)
        self.assertEqual((['a'], ['b', 'a'], 2), (first.boards, second.boards, report.built))

    def test_let_go(self) -> None:
        """Nobody waits for one that is not to come any more"""
        first, coming = Made('one', archs=['arm']), Made('two', late=True)
        coming.first = []
        loop = self.loop('aB')
        loop.add_listener(lambda event, fate: loop.let_go('two') if isinstance(
            event, BoardDone) else None)
        self.assertEqual({'B': (0,)}, self.run_on(loop, first, coming).lacking)
        self.assertFalse(loop.ledger.expecting)

    def test_let_go_ready(self) -> None:
        """One that is given back gets nothing more, is not heard any more, and not ended twice"""
        def once(worker: Made, job: BoardJob) -> List[Event]:
            return ([Said('one', 'x'), worker.done(job, 'full')] if len(worker.boards) == 1
                    else good(worker, job))

        first, second = Made('one', once), Made('two')
        loop = self.loop('a', for_caller=True)

        def let_go(event: Event, _fate: str) -> None:
            if event == Said('one', 'x'):
                loop.let_go('two')
                second.say([Said('two', 'late words')])

        loop.add_listener(let_go)
        report = self.run_on(loop, first, second)
        self.assertEqual((['a', 'a'], 1, {}), (first.boards, report.built, report.missing))
        self.assertEqual([('start',)], second.calls)
        self.assertNotIn('late words', self.out.getvalue())

    def test_added(self) -> None:
        """One that comes later takes part, and what another one could not do waits for it"""
        def full(worker: Made, job: BoardJob) -> List[Event]:
            return [Said('one', 'x'), worker.done(job, 'full')]

        for kind in (list, tuple):
            first, second = Made('one', full), Made('two', late=True)
            workers = kind([first])
            loop = self.loop('a', settings=Settings(force_build=True))

            def add(event: Event, _fate: str, loop: Loop = loop, second: Made = second) -> None:
                if event == Said('one', 'x'):
                    second.events = loop.events
                    loop.add([second])

            loop.add_listener(add)
            first.events = loop.events
            report = loop.run(workers)
            self.assertEqual((['a'], ['a'], 1), (first.boards, second.boards, report.built))
            self.assertIn(('finish',), second.calls)
            # Who looks on (--top) sees it in the list
            self.assertEqual(kind is list, second in workers)

    def test_waits_for_who_comes(self) -> None:
        """Boards wait for a machine that is on its way, and are given up when it stays away"""
        first, coming = Made('one', archs=['arm']), Made('two', late=True)
        loop = self.loop('aB')
        # How many may turn out to be faster
        unknown: List[Tuple[bool, int]] = []
        loop.add_listener(lambda event, fate: unknown.append(
            (isinstance(event, WorkerComing), loop.scheduler.unknown)))
        expected: List[Any] = []
        loop.add_listener(lambda event, fate: expected.extend(
            (state.name, state.slots, state.archs, state.speed)
            for state in loop.ledger.coming.values()))
        report = self.run_on(loop, first, coming)
        self.assertEqual({('two', 1, None, 1.0)}, set(expected))
        self.assertEqual([(False, 1), (True, 0), (False, 0)], list(dict.fromkeys(unknown)))
        self.assertEqual((2, ['a'], ['B']), (report.built, first.boards, coming.boards))
        away = Made('two', late=True)
        away.first = [WorkerGone('two', 'busy')]
        loop = self.loop('cD')
        unknown.clear()
        loop.add_listener(lambda event, fate: unknown.append(
            (isinstance(event, WorkerGone), loop.scheduler.unknown)))
        report = self.run_on(loop, Made('one', archs=['arm']), away)
        self.assertIn((True, 0), unknown)
        self.assertEqual({'D': ((0,), 'no machine is left that can build it')}, report.missing)
        self.assertEqual((['[two] lost: busy'], []), (report.notes, away.boards))
        self.assertIn('[two] lost: busy\n', self.out.getvalue())
        away = Made('two', late=True)
        away.first = [WorkerGone('two', 'used by others', busy=True)]
        report = self.build('cD', Made('one', archs=['arm']), away)
        self.assertEqual(['[two] takes no part: used by others'], report.notes)


class TwiceTest(Case):
    """Boards that two have in hand, and results that nobody asked for"""

    def test_not_asked_for(self) -> None:
        """A result of a board that one was not given, or of one that there is, is refused"""
        def liar(worker: Made, job: BoardJob) -> List[Event]:
            return [worker.built('B', 0, return_code=1), worker.built('ghost', 0),
                    worker.built(job, 7), worker.built(job, 0),
                    worker.built(job, 0, return_code=3), worker.done(job),
                    BoardDone('w', 'B'), BoardDone('nobody', 'B'),
                    Built('nobody', Outcome('B', 0, 9))]

        report = self.build('aB', Made('w', liar, archs=['arm']), Made('v', archs=['riscv']))
        self.assertEqual((2, '0', '0'), (report.built, self.read('a', 'done'),
                                         self.read('B', 'done')))
        self.assertEqual({('w', 'B', 0): 'dropped', ('w', 'ghost', 0): 'dropped',
                          ('w', 'a', 7): 'dropped', ('w', 'a', 0): 'dropped', ('v', 'B', 0): ''},
                         self.fates())
        self.assertFalse(os.path.exists(self.tree.board_dir(0, 'ghost')))

    def test_images_of_dropped(self) -> None:
        """Images of a result that is not kept, or comes too late, do not fill the disk"""
        def image(stage: str) -> Dict[str, str]:
            path = os.path.join(self.dir, stage, 'u-boot.bin')
            os.makedirs(os.path.dirname(path))
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(stage)
            return {'u-boot.bin': path}

        def twice(worker: Made, job: BoardJob) -> List[Event]:
            return [worker.built(job, 0, infra=KILLED, images=image('x.stage-1')),
                    worker.built(job, 0, images=image('x.stage-2')),
                    worker.built(job, 0, images=image('x.stage-3')), worker.built(job, 1),
                    worker.done(job)]

        worker = Made('w', twice)
        worker.last = [worker.built('a', 0, images=image('x.stage-4')), Said('w', 'x')]
        self.build('a', worker, commits=2)
        self.assertEqual('x.stage-2', self.read('a', 'u-boot.bin'))
        self.assertEqual(['out'], os.listdir(self.dir))

    def test_taken_away(self) -> None:
        """An idle worker gets what another one has not begun, and that one is told to drop it"""
        slow = Made('slow', lambda worker, job: (
            [Started('slow', 'a', 0)] if job.board.target == 'a' else []))

        def quick(worker: Made, job: BoardJob) -> List[Event]:
            # What was taken away comes all the same, and is refused
            late = [slow.built(job, 0, return_code=9), slow.done(job)]
            return [*(late if job.board.target == 'b' else []), *good(worker, job)]

        fast = Made('fast', quick, late=True)
        report = self.build('ab', slow, fast)
        self.assertEqual(({}, ['b', 'a'], ['b', 'a']), (
            report.missing, slow.asked('cancel'), fast.boards))
        self.assertEqual('0', self.read('b', 'done'))

    def test_first_wins(self) -> None:
        """Of two that build the same, the first one's results count, the other is told to stop"""
        slow = Made('slow', lambda worker, job: [Started('slow', 'a', 0)])
        fast = Made('fast', late=True)
        report = self.build('a', slow, fast)
        self.assertEqual((1, ['a'], ['a']), (report.built, fast.boards, slow.asked('cancel')))
        self.assertEqual([], fast.asked('cancel'))

    def test_given_back(self) -> None:
        """A board that was taken away and given back is owed, whatever is said of the first time"""
        jobs: List[BoardJob] = []

        def first(worker: Made, job: BoardJob) -> List[Event]:
            if job.board.target == 'a':
                return [Started('one', 'a', 0)]
            jobs.append(job)
            if len(jobs) == 1:
                return []
            # Taken, lost by the other, and here again: what is told is of the first time
            return [worker.built(jobs[0], 0, 9), worker.done(jobs[0], 'dropped'),
                    *good(worker, job), worker.built('a', 0), BoardDone('one', 'a')]

        one = Made('one', first)
        two = Made('two', lambda worker, job: [WorkerGone('two', 'dead')], late=True)
        report = self.build('ab', one, two)
        self.assertEqual(({}, 2, ['b']), (report.missing, report.built, two.boards))
        self.assertEqual((['a', 'b', 'b'], [1, 3]), (one.boards, [job.attempt for job in jobs]))
        self.assertEqual('0', self.read('b', 'done'))

    def test_older(self) -> None:
        """One that tells neither of attempts nor that it is through with a board"""
        def old(worker: Made, job: BoardJob) -> List[Event]:
            # The second commit is lost the first time, as the machine is full
            return [worker.built(job.board.target, upto, infra=KILLED if (
                upto and len(worker.boards) == 1) else None) for upto in job.commits]

        worker = Made('w', old)
        worker.tells_done = False
        report = self.build('abc', worker, commits=2)
        self.assertEqual((6, {}), (report.built, report.missing))
        self.assertEqual([('a', (0, 1)), ('a', (1,)), ('b', (0, 1)), ('c', (0, 1))],
                         sorted(worker.asked('submit')))


class EndTest(Case):
    """Everything is stopped"""

    def stopped(self, error: BaseException, *workers: Made, loop: Optional[Loop] = None
                ) -> None:
        """Build; that has to end with an error, and with all workers being stopped"""
        loop = loop or self.loop('ab')
        ends: List[bool] = []
        loop.set_before_end(ends.append)
        with self.assertRaises(type(error)) as caught:
            self.run_on(loop, *workers)
        self.assertIs(error, caught.exception)
        self.assertEqual([True], ends)
        for worker in workers:
            self.assertEqual((1, 0), (worker.calls.count(('stop',)),
                                      worker.calls.count(('finish',))))

    def test_interrupt(self) -> None:
        """Ctrl-C: all are stopped, what was built stays"""
        error = KeyboardInterrupt()

        def interrupted(worker: Made, job: BoardJob) -> List[Event]:
            if job.board.target == 'c':
                raise error
            return good(worker, job)

        self.stopped(error, Made('one', interrupted, archs=['arm']), Made('two', archs=['mips']),
                     loop=self.loop('abcd'))
        self.assertEqual(('0', None), (self.read('a', 'done'), self.read('d', 'done')))

    def test_crash(self) -> None:
        """What nobody thought of ends the run, and is not hidden"""
        error = RuntimeError('odd')
        self.stopped(error, Made('w', lambda worker, job: [Crashed('w', error)]), Made('v', idle))

    def test_disk_full(self) -> None:
        """A result that cannot be written ends the run"""
        error = SetupError('full')
        loop = self.loop('a')
        with mock.patch.object(self.tree, 'write', side_effect=error):
            self.stopped(error, Made('w'), loop=loop)

    def test_in_peace(self) -> None:
        """At the end workers finish, and what is to happen before is told that there is no hurry"""
        ends: List[Any] = []
        loop, worker = self.loop(), Made('w')
        loop.set_before_end(lambda haste: ends.append((haste, ('finish',) in worker.calls)))
        self.run_on(loop, worker)
        self.assertEqual([(False, False)], ends)
        self.assertEqual((1, 0), (worker.calls.count(('finish',)), worker.calls.count(('stop',))))


class UnbuiltTest(Case):
    """Boards that nobody could build"""

    def gone(self, archs: Optional[Tuple[str, ...]], settings: Optional[Settings] = None
             ) -> Report:
        """Build with a machine that takes no part and has these compilers"""
        away = Made('w', late=True)
        away.first = [WorkerGone('w', 'not used', archs)]
        return self.build('a', away, settings=settings, host='here')

    def test_who_has_it(self) -> None:
        """No compiler is the result only if that is sure; a machine that is busy may have one"""
        for archs in (None, ('arm',), ('mips', 'arm')):
            with self.subTest(archs=archs):
                report = self.gone(archs)
                self.assertEqual({'a': ((0,), 'no machine is left that can build it')},
                                 report.missing)
                self.assertEqual({}, report.lacking)
                self.assertFalse(os.path.exists(self.tree.board_dir(0, 'a')))
        for archs in ((), ('mips',)):
            self.heard.clear()
            report = self.gone(archs)
            self.assertEqual(({}, {'a': (0,)}), (report.missing, report.lacking))
            self.assertTrue(self.tree.lacks_compiler(0, 'a'))
            # That is news the first time
            self.assertEqual(archs == (), any(
                isinstance(event, Refused) for event, _ in self.heard))
        # What was found out is not forgotten when a machine does not tell
        self.assertEqual({'a'}, set(self.gone(None).missing))
        self.assertTrue(self.tree.lacks_compiler(0, 'a'))

    def test_told_before(self) -> None:
        """What a machine has told counts, though it was lost before it could take boards"""
        away = Made('w', late=True)
        away.first = [WorkerComing('w', 1, ('mips',), 1.0), WorkerGone('w', 'lost')]
        report = self.build('a', away)
        self.assertEqual(({}, {'a': (0,)}), (report.missing, report.lacking))

    def test_told_once(self) -> None:
        """A result that says that there is no compiler is not written again"""
        self.gone(())
        settings = Settings(force_build=True)
        with mock.patch.object(self.tree, 'write') as write:
            loop = self.loop(unbuildable=['a'], settings=settings)
            loop.tell_unbuildable()
        self.assertEqual((0, {'a': (0,)}), (write.call_count, loop.report.lacking))

    def test_carried(self) -> None:
        """What another commit had is a result like one that was built; the rest is built"""
        carrier = mock.Mock(find=lambda job, upto: Found(
            Outcome(job.board.target, upto, upto), 'there', 'it')
            if job.board.target == 'a' else None)
        loop = self.loop('ab', commits=2, carrier=lambda: carrier, host='here')
        self.assertEqual(({'there': 2}, 1, [('a', 0), ('a', 1)]),
                         (loop.counts.carried, loop.counts.failed,
                          [(item.target, item.upto) for item in loop.report.carried]))
        self.assertEqual(2, self.out.getvalue().count('told: a\n'))
        self.assertRegex(self.out.getvalue(), r'(?m)^ *\d.* a$')
        worker = Made('w')
        with mock.patch.object(self.status, 'result') as told:
            report = self.run_on(loop, worker)
        self.assertEqual((['b'], 2, 2), (worker.boards, report.built, told.call_count))
        self.assertEqual(('here\n', '1'), (self.read('a', 'host'), self.read('a', 'done', 1)))
        self.loop('a', carrier=lambda: carrier, settings=Settings(force_build=True))
        self.assertIsNone(self.read('a', 'host'))

    def test_not_carried(self) -> None:
        """A failure that is to be built again is built, and is not carried"""
        self.tree.write(Outcome('a', 0, 2))
        self.tree.write(Outcome('b', 0, 0, stderr='warning'))
        carrier = mock.Mock(find=lambda job, upto: Found(
            Outcome(job.board.target, upto, 0), 'there', 'it'))
        loop = self.loop('abc', carrier=lambda: carrier,
                         settings=Settings(force_build_failures=True))
        self.assertEqual((('a',), [('c', 0)]), (
            loop.pending(), [(item.target, item.upto) for item in loop.report.carried]))

    def test_flaky(self) -> None:
        """What failed first and was good then is counted and told; what failed again is not"""
        def tried(worker: Made, job: BoardJob) -> List[Event]:
            return [worker.built(job, upto, 2 * upto, files={TRIES: b'2'})
                    for upto in job.commits] + [worker.done(job)]

        loop = self.loop(commits=2)
        self.run_on(loop, Made('w', tried))
        self.assertEqual((1, 1), (loop.counts.flaky, loop.counts.failed))
        text = 'a failed and was good when it was tried again'
        self.assertIn(f'{text}, at {COMMITS[0].hash[:12]}\n', self.out.getvalue())
        self.assertEqual(1, self.out.getvalue().count(text))
        # The source as it is in the folder is no commit
        loop = self.loop('b')
        loop.plan = dataclasses.replace(loop.plan, commits=None)
        self.run_on(loop, Made('w', tried))
        self.assertIn('b' + text[1:] + '\n', self.out.getvalue())

    def test_hunted(self) -> None:
        """In a hunt as much is to be built as it wants; what it adds counts, too"""
        self.tree.write(Outcome('b', 1, 0))
        # Asked when all that was wanted is there, and only then
        wants = {'a': iter(([0, 1], [2], [])), 'b': iter(([],))}
        hunt = mock.Mock(wanted=lambda target: next(wants[target]))
        carrier = mock.Mock(find=lambda job, upto: None)
        loop = self.loop('ab', commits=3, hunt=hunt, carrier=lambda: carrier)
        self.assertEqual([mock.call('b', 1)], hunt.recall.mock_calls)
        self.assertEqual(3, loop.counts.total)
        worker = Made('w', lambda worker, job: [
            *(worker.built(job, upto, files={'trace': b''} if upto else {})
              for upto in job.commits), worker.done(job)])
        report = self.run_on(loop, worker)
        self.assertEqual((3, 4, [('a', (0, 1)), ('a', (2,))]),
                         (report.built, loop.counts.total, worker.asked('submit')))
        self.assertEqual([mock.call(upto, 'a') for upto in range(3)], carrier.learn.mock_calls)
        self.assertEqual([0, 1, 2], [call.args[0].commit_upto for call in hunt.learn.mock_calls])
        # What may be that of other commits is kept for them
        self.assertEqual([mock.call(upto, 'a') for upto in (1, 2)], carrier.kept.mock_calls)
        # It may ask at which commits anything differs for a board
        hunt.steps('a', [0, 2])
        self.assertEqual([mock.call(loop.plan.jobs[0], [0, 2])], carrier.steps.mock_calls)

    def test_hunted_carried(self) -> None:
        """What a hunt finds carried counts for it, as what is there"""
        hunt = mock.Mock(wanted=lambda target: [])
        carrier = mock.Mock(find=lambda job, upto: Found(
            Outcome(job.board.target, upto, 0), 'there', 'it'))
        self.loop('a', commits=2, hunt=hunt, carrier=lambda: carrier)
        self.assertEqual([mock.call('a', 0), mock.call('a', 1)], hunt.recall.mock_calls)

    def test_hunted_further(self) -> None:
        """What a hunt wants next may be carried, and lead to more; or there is nothing to carry"""
        for has in (True, False):
            wants = iter(([0], [1], [2], []))
            hunt = mock.Mock(wanted=lambda target, wants=wants: next(wants))
            # It holds as the first one, which has to be built
            carrier = mock.Mock()
            carrier.find = lambda job, upto, carrier=carrier: Found(
                Outcome(job.board.target, upto, 0), 'there', 'it'
                ) if upto == 1 and carrier.learn.called else None
            worker = Made('w')
            loop = self.loop('a', commits=3, hunt=hunt, settings=Settings(force_build=True),
                             carrier=lambda it=carrier if has else None: it)
            report = self.run_on(loop, worker)
            self.assertEqual([('a', (0,)), *([] if has else [('a', (1,))]), ('a', (2,))],
                             worker.asked('submit'))
            self.assertEqual((3 - has, 3), (report.built, loop.counts.total))

    def test_hunted_anew(self) -> None:
        """What a hunt is to build again, and passes over, is not what was built before"""
        for upto in range(3):
            self.tree.write(Outcome('a', upto, 0))
        hunt = mock.Mock(wanted=lambda target: [0, 2])
        loop = self.loop('aB', commits=3, settings=Settings(force_build=True), hunt=hunt,
                         unbuildable=['B'])
        # Nobody is to look for commits of a board that cannot be built
        self.assertEqual((('a',), 3 + 2), (loop.pending(), loop.counts.total))
        loop.tell_unbuildable()
        self.assertIsNone(self.tree.read_done(1, 'a'))
        self.assertEqual([mock.call(without_compiler('B', 'riscv', upto)) for upto in range(3)],
                         hunt.learn.mock_calls)

    def test_for_caller(self) -> None:
        """What a caller's workers lack is no result of ours"""
        away = Made('w', late=True)
        away.first = [WorkerGone('w', '', ())]
        report = self.build('a', away, for_caller=True)
        self.assertEqual((['a'], {}, []), (list(report.missing), report.lacking, report.notes))

    def test_earlier(self) -> None:
        """What was to be built anew, and could not be, is not what was built before"""
        self.tree.write(Outcome('a', 0, 0))
        self.assertEqual({}, self.gone(None).missing)
        self.assertEqual((0, False), self.tree.read_done(0, 'a'))
        self.assertEqual({'a'}, set(self.gone(None, Settings(force_build=True)).missing))
        self.assertIsNone(self.tree.read_done(0, 'a'))
        # One of other settings
        self.tree.write(Outcome('a', 0, 0, files={'settings': b'{"no_lto": true}'}))
        self.assertEqual({}, self.gone(None, Settings(no_lto=True)).missing)
        self.assertEqual({'a'}, set(self.gone(None).missing))
        self.assertIsNone(self.tree.read_done(0, 'a'))

    def test_known_beforehand(self) -> None:
        """That nobody has a compiler is a result at once, told once, and no news the next time"""
        for refused, previous in ((1, 0), (0, 1)):
            self.heard.clear()
            loop = self.loop('aB', unbuildable=['B'])
            loop.tell_unbuildable()
            loop.tell_unbuildable()
            counts = loop.counts
            self.assertEqual((1, refused, previous),
                             (counts.failed, counts.refused, counts.previous))
            self.assertEqual([Refused('', without_compiler('B', 'riscv', 0))] * refused,
                             [event for event, _ in self.heard])
            self.assertEqual({'B': (0,)}, loop.report.lacking)
        self.assertEqual('2', self.read('B', 'done'))
        self.assertEqual(1, self.out.getvalue().count('told: B\n'))
        self.assertRegex(self.out.getvalue(), r'(?m)^ *\d.* B$')
        # Tried again when there may be a compiler; without one, that is no news either
        worker = Made('w', archs=['arm'])
        loop = self.loop('aB')
        report = self.run_on(loop, worker)
        self.assertEqual((1, 0, 1), (report.built, loop.counts.refused,
                                     loop.counts.previous))
        self.assertEqual({'B': (0,)}, report.lacking)
        worker = Made('w')
        self.assertEqual(1, self.build('aB', worker).built)
        self.assertEqual((['B'], '0'), (worker.boards, self.read('B', 'done')))

    def test_hungry(self) -> None:
        """One that got nothing, as others seemed faster, is asked again"""
        slow, fast = Made('slow', idle), Made('fast', idle, speed=1000.0)
        asked: List[float] = []
        loop = self.loop('a', weigh=lambda boards: {'a': Weight(9.0, 9.0)})
        # Not each time that something happens
        loop.add_ticker(lambda: None, 1.0)
        real = loop.scheduler.next_for

        def next_for(name: str) -> Any:
            if name == 'slow':
                asked.append(loop_module.time.monotonic())
                if len(asked) == 5:
                    fast.say(good(fast, loop.plan.jobs[0]))
            return real(name)

        with mock.patch.object(loop.scheduler, 'next_for', side_effect=next_for):
            report = self.run_on(loop, fast, slow)
        self.assertEqual(1, report.built)
        # When it joins, then every two seconds
        self.assertEqual([1000.0, 1000.0, 1002.0, 1004.0, 1006.0], asked[:5])
