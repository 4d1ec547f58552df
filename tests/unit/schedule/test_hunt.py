# SPDX-License-Identifier: GPL-2.0+
"""A hunt finds the commits that a full build would show, with few builds."""

from __future__ import annotations

import io
import math
import os
import random
import tempfile
import unittest
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from buildman.core.events import BoardDone, Built, Event, Started, WorkerGone
from buildman.core.outcome import Failure, FailureKind, Outcome
from buildman.core.plan import Board, BoardJob, Commit, Plan, Settings, Toolchain
from buildman.results import hunted
from buildman.results.hunted import Found
from buildman.results.made_with import Earlier
from buildman.results.tree import ResultTree
from buildman.schedule.hunt import Hunt
from buildman.schedule.inbox import Inbox
from buildman.schedule.loop import Loop, Report
from buildman.schedule.progress import Status

# What came out of a board at a commit: exit status, stderr, sizes
Come = Tuple[int, str, str]
GOOD: Come = (0, '', '')


def commits(count: int) -> List[Commit]:
    """Return commits"""
    return [Commit(f'{number:012x}{0:028}', f'Change {number}') for number in range(count)]


def sized(size: int) -> Come:
    """Return a good result with one image"""
    return 0, '', f'   {size} 0 0 {size} {size:x} u-boot 0\n'


def read(come: Optional[Come]) -> Optional[hunted.Result]:
    """Return a result as it is read from the tree"""
    return (come[0], come[1].encode(), come[2].encode()) if come else None


def hunt(series: Dict[str, Sequence[Come]], known: Iterable[Tuple[str, int]] = (),
         slack: float = math.inf) -> Tuple[Found, int]:
    """Hunt in series of which each result can be had at once.

    Returns:
        what was found, and how many results had to be built
    """
    count = len(next(iter(series.values())))
    made = Hunt(commits(count), range(count), lambda upto, target: read(series[target][upto]),
                slack)
    for target, upto in known:
        made.recall(target, upto)
    builds = 0
    for target, comes in series.items():
        while made.wanted(target):
            for upto in made.wanted(target):
                code, err, sizes = comes[upto]
                made.learn(Outcome(target, upto, code, stderr=err, sizes=sizes))
                builds += 1
    return made.found(series), builds


def full(series: Dict[str, Sequence[Come]], slack: float = math.inf) -> List[str]:
    """Return what is found when all is built"""
    return [change.text() for change in hunt(series, [
        (target, upto) for target, comes in series.items() for upto in range(len(comes))],
        slack)[0].changes]


class HuntTest(unittest.TestCase):
    """Which commits are built, and what follows"""

    def texts(self, *args: object, **kwargs: object) -> List[str]:
        """Return the changes that a hunt finds"""
        return [change.text() for change in hunt(*args, **kwargs)[0].changes]  # type: ignore

    def test_random(self) -> None:
        """Boards that change once or more: the same commits as all builds tell, in few builds"""
        rnd = random.Random(5)
        for number in range(50):
            count = rnd.randrange(2, 60)
            series: Dict[str, Sequence[Come]] = {}
            steps = 0
            for target in map(str, range(12)):
                # Something else from each of some commits on, never as it was before
                places = sorted(rnd.sample(range(1, count), min(count - 1, rnd.randrange(4))))
                steps += len(places)
                now = [(2, f'x.c:{place}:3: error: {place}\n' * (place > 0), '') if rnd.random()
                       < .7 else (0, f'x.c:1:3: warning: no {place}\n', '')
                       for place in [0, *places]]
                series[target] = [now[sum(place <= upto for place in places)]
                                  for upto in range(count)]
            found, builds = hunt(series)
            self.assertEqual(full(series), [change.text() for change in found.changes], number)
            self.assertEqual(steps, len(found.changes))
            self.assertLessEqual(builds, 24 + steps * (count - 2).bit_length())
            self.assertEqual(builds, found.known)
            # What was not built is as it would have been, and nothing is said of the rest
            for target, inferred in found.inferred.items():
                for upto, status in inferred.items():
                    code, err, _ = series[target][upto]
                    self.assertEqual(2 if code else bool(err), status)
            self.assertEqual(12 * count, builds + sum(map(len, found.inferred.values())))

    def test_steps(self) -> None:
        """Where it is known which commits matter, it is a tenth of all builds, and as right"""
        rnd = random.Random(4)
        for _ in range(20):
            places = {str(number): rnd.randrange(1, 33) for number in range(12)}
            series: Dict[str, Sequence[Come]] = {
                target: [GOOD] * place + [(2, 'x.c:1:1: error: no\n', '')] * (33 - place)
                for target, place in places.items()}
            found, builds, carried = self._hunt_with_steps(series, places)
            self.assertEqual(full(series), [change.text() for change in found.changes])
            self.assertLessEqual(builds, 12 * 33 / 10)
            self.assertGreater(carried, 6)

    @staticmethod
    def _hunt_with_steps(series: Dict[str, Sequence[Come]], places: Dict[str, int]
                         ) -> Tuple[Found, int, int]:
        """Hunt where one commit matters to each board; return what was built and carried"""
        made = Hunt(commits(33), range(33), lambda upto, target: read(series[target][upto]))
        made.steps = lambda target, uptos: [upto for upto in uptos[1:] if upto == places[target]]
        builds = carried = 0
        for target, comes in series.items():
            while made.wanted(target):
                for upto in made.wanted(target):
                    code, err, _ = comes[upto]
                    made.learn(Outcome(target, upto, code, stderr=err))
                    # What is good is that of each commit before the one that matters
                    is_carried = not code and upto > 0
                    builds += not is_carried
                    carried += is_carried
        return made.found(series), builds, carried

    def test_mended(self) -> None:
        """What breaks and is mended between two builds is not seen, unless it is known"""
        bad: Come = (2, 'error\n', '')
        series = {'a': [GOOD] * 5 + [bad] * 2 + [GOOD] * 26}
        found, builds = hunt(series)
        self.assertEqual(((), 2, 31), (found.changes, builds, len(found.inferred['a'])))
        self.assertIn('mended in between is not seen', found.lines()[-1])
        found, builds = hunt(series, [('a', 6)])
        self.assertEqual(['a: ok -> error at 6 000000000005 Change 5',
                          'a: error -> ok at 8 000000000007 Change 7'], found.lines()[:2])
        self.assertLess(builds, 10)

    def test_sizes(self) -> None:
        """Only with a bound do sizes count, and then what is more than that"""
        series = {'a': [sized(100)] * 3 + [sized(104)] * 4 + [sized(90)] * 2}
        self.assertEqual([], self.texts(series))
        self.assertEqual(['a: ok -> ok (u-boot +4) at 4 000000000003 Change 3',
                          'a: ok -> ok (u-boot -14) at 8 000000000007 Change 7'],
                         self.texts(series, slack=0))
        self.assertEqual(['a: ok -> ok (u-boot -14) at 8 000000000007 Change 7'],
                         self.texts(series, slack=4))
        self.assertEqual([], self.texts(series, slack=14))

    def test_filters(self) -> None:
        """Warnings that are left out are none; nor is a result that is not there"""
        made = [(0, b'', b''), (0, b'a.dts:3.1-4: Warning (reg): odd\n', b'')]
        for filters, changes in (((False, False), 1), ((True, False), 0)):
            looked = Hunt(commits(2), range(2), lambda upto, target: made[upto], filters=filters)
            for upto in range(2):
                looked.recall('a', upto)
            self.assertEqual(changes, len(looked.found('a').changes))
        nothing = Hunt(commits(2), range(2), lambda upto, target: None)
        nothing.recall('a', 0)
        self.assertEqual((0, 1), nothing.wanted('a'))

    def test_lines(self) -> None:
        """Other lines are a change, and one line more; not the place that they are from"""
        warning = 'lib/a.c:{}:5: warning: unused\n'
        first, moved, twice = (0, warning.format(3), ''), (0, warning.format(40), ''), (
            0, warning.format(3) + warning.format(9), '')
        other: Come = (0, 'lib/b.c:3:5: warning: unused\n', '')
        self.assertEqual([], self.texts({'a': [first, moved, moved]}))
        self.assertEqual(['a: warning -> warning (other lines) at 3 000000000002 Change 2'],
                         self.texts({'a': [first, moved, twice]}))
        change = hunt({'a': [first, other]})[0].changes[0]
        self.assertEqual((['lib/b.c:3:5: warning: unused'], ['lib/a.c:3:5: warning: unused']),
                         (change.added, change.removed))


class Machine:
    """A worker that builds what a series says, at once; `breaks` is asked before each build"""

    ahead = 1
    tells_done = True
    archs = None
    speed = 1.0
    slots = 1

    def __init__(self, name: str, series: Dict[str, Sequence[Come]],
                 breaks: Callable[[BoardJob, int], Optional[Event]]) -> None:
        self.name, self.series, self.breaks = name, series, breaks
        self.given: List[Tuple[str, Tuple[int, ...]]] = []
        self.events = Inbox()

    def start(self) -> None:
        """Begin."""

    def submit(self, job: BoardJob) -> None:
        """Build a board."""
        target = job.board.target
        self.given.append((target, job.commits))
        for number, upto in enumerate(job.commits):
            self.events.put(Started(self.name, target, upto, job.attempt))
            event = self.breaks(job, upto)
            if event:
                self.events.put(event)
                if isinstance(event, Built):
                    self.events.put(BoardDone(self.name, target, job.commits[number:], '',
                                              job.attempt))
                return
            code, err, sizes = self.series[target][upto]
            self.events.put(Built(self.name, Outcome(target, upto, code, stderr=err, sizes=sizes),
                                  job.attempt))
        self.events.put(BoardDone(self.name, target, (), '', job.attempt))

    def cancel(self, target: str) -> None:
        """Drop a board."""

    def finish(self) -> None:
        """End."""

    def stop(self) -> None:
        """End."""


class LoopTest(unittest.TestCase):
    """The loop's loop hands out what the hunt wants, and keeps what comes"""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        rnd = random.Random(3)
        bad: Come = (2, 'x.c:1:1: error: no\n', '')
        self.series: Dict[str, Sequence[Come]] = {}
        for number in range(12):
            place = rnd.randrange(1, 33)
            self.series[f'b{number:02}'] = [GOOD] * place + [bad] * (33 - place)
        self.tree = ResultTree(os.path.join(folder.name, 'out'), commits(33))
        self.machines: List[Machine] = []

    def run_hunt(self, *names: str, settings: Optional[Settings] = None,
                 breaks: Callable[[BoardJob, int], Optional[Event]] = lambda job, upto: None
                 ) -> Tuple[Found, Report, Loop]:
        """Run a hunt on machines, breaks() being for the first of them"""
        jobs = tuple(BoardJob(Board(name, 'arm'), tuple(range(33)),
                              Toolchain('arm', '/bin/cc', '/bin', '')) for name in self.series)
        plan = Plan(jobs, tuple(commits(33)), settings or Settings(), tuple(range(33)))
        made = Hunt(commits(33), range(33),
                    lambda upto, target: hunted.read(self.tree.board_dir(upto, target)))
        loop = Loop(plan, self.tree, Status(io.StringIO()), Inbox(),
                          earlier=Earlier(plan), hunt=made)
        self.machines = [Machine(name, self.series, breaks if not number else lambda *args: None)
                         for number, name in enumerate(names or ('',))]
        for machine in self.machines:
            machine.events = loop.events
        loop.tell_unbuildable()
        report = loop.run(self.machines)
        return made.found(self.series), report, loop

    def there(self) -> Set[Tuple[int, str]]:
        """Return the results in the tree"""
        return {(upto, target) for upto in range(33) for target in self.tree.complete(
            upto, self.series)}

    def check(self, found: Found) -> None:
        """Check that the same was found as by building all"""
        self.assertEqual(full(self.series), [change.text() for change in found.changes])

    def test_all(self) -> None:
        """Twelve boards, 33 commits: two ends and five halves each, a commit after the other"""
        found, report, loop = self.run_hunt()
        self.check(found)
        given = self.machines[0].given
        self.assertEqual([(target, (0, 32)) for target in self.series], given[:12])
        self.assertEqual([(target, (16,)) for target in self.series], given[12:24])
        third = [upto for _, upto in given[24:36]]
        self.assertEqual(sorted(third), third)
        self.assertLessEqual(report.built, 12 * 7)
        self.assertEqual(report.built, len(self.there()))
        self.assertEqual({}, report.missing)
        counts = loop.counts
        self.assertEqual((report.built, report.built), (counts.total, counts.done))
        # Again: nothing to build; without the hunt: the rest only
        self.assertTrue(self.run_hunt()[2].nothing_to_do)
        self.assertEqual([], self.machines[0].given)

    def test_interrupted(self) -> None:
        """Whenever it is stopped, the next run goes on from what is there"""
        rnd, built, runs = random.Random(1), 0, 0
        while True:
            left = rnd.randrange(1, 20)

            def stop(_job: BoardJob, _upto: int) -> Optional[Event]:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return None

            try:
                found, _, _ = self.run_hunt(breaks=stop)
            except KeyboardInterrupt:
                runs += 1
                continue
            break
        built = len(self.there())
        self.check(found)
        self.assertGreater(runs, 3)
        self.assertLessEqual(built, 12 * 7)
        self.assertEqual(built, found.known)

    def test_machines(self) -> None:
        """Two machines, one that fails a build and is lost in the middle: all is found"""
        left = 15

        def trouble(job: BoardJob, upto: int) -> Optional[Event]:
            nonlocal left
            left -= 1
            if left == 5:
                return Built('one', Outcome(job.board.target, upto, 2, infra=Failure(
                    FailureKind.KILLED, 'killed')), job.attempt)
            return None if left else WorkerGone('one', 'gone')

        found, report, _ = self.run_hunt('one', 'two', breaks=trouble)
        self.check(found)
        self.assertEqual({}, report.missing)
        self.assertIn('one', report.lost)
        self.assertLessEqual(len(self.there()), 12 * 7)

    def test_given_up(self) -> None:
        """Where a build cannot be had, it is told between which commits the change is"""
        def never(job: BoardJob, upto: int) -> Optional[Event]:
            if job.board.target != 'b00' or upto != 16:
                return None
            return Built('', Outcome('b00', 16, 2, infra=Failure(FailureKind.KILLED, 'killed')),
                         job.attempt)

        found, report, _ = self.run_hunt(breaks=never)
        self.assertEqual(['b00'], list(report.missing))
        self.assertEqual(f'b00: ok -> error after 1, by 33 {32:012x} Change 32', found.lines()[0])
        self.assertEqual({}, found.inferred['b00'])

    def test_set_aside(self) -> None:
        """A result that does not count (-f, other settings) is gone, where the hunt passes it"""
        self.run_hunt()
        self.tree.write(Outcome('b00', 3, 2, stderr='odd\n'))
        for settings in (Settings(force_build=True), Settings(target='all')):
            found, report, _ = self.run_hunt(settings=settings)
            self.check(found)
            self.assertEqual(len(self.there()), report.built)


if __name__ == '__main__':
    unittest.main()
