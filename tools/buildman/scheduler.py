# SPDX-License-Identifier: GPL-2.0+
"""Decides who builds what: plain data, no threads, no clock, no files.

A board that is handed out is owed: it is finished by accepted results, or goes
back to the pool when its worker is lost or says that it cannot go on. A board
stays with one worker for all its commits while that worker lives, since the
objects of one commit make the next one quick.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
from typing import Callable, Collection, Dict, FrozenSet, List, Optional, Sequence, Set, Tuple

from buildman.forecast import Forecast, Shares

# Seconds until a worker is ready that is going to come
START_UP = 5.0

# Seconds after which it is worked out anew whether others are faster
LASTS = 2.0

# How many workers may be lost, or fail, with the same board in hand before it
# is given up: it may well be what kills them
MAX_ATTEMPTS = 3

# Boards for each slot from which on it matters which of them go together
PLENTY = 2


@dataclasses.dataclass(frozen=True)
class Task:
    """One board to be built.

    Attributes:
        target: the board
        arch: its architecture
        commits: indexes of the commits to build, ascending
        weight: expected cost of all these commits, in seconds of a typical
            machine; larger ones go first. 0 when it is not known
        first: of these, what the first commit costs, which is built from
            nothing; 0 when it costs as much as the others
        group: boards of one group have much in common, so it is of use to build
            them one after the other and on the same worker; '' for no such thing
    """

    target: str
    arch: str
    commits: Tuple[int, ...]
    weight: float = 0.0
    first: float = 0.0
    group: str = ''

    def cost(self, commits: int, fresh: bool) -> float:
        """Return what some of its commits cost.

        Args:
            commits: how many
            fresh: the first of them is built from nothing
        """
        total = len(self.commits)
        if not commits or not total:
            return 0.0
        first = self.first or self.weight / total
        more = (self.weight - first) / (total - 1) if total > 1 else first
        return (first if fresh else more) + more * (commits - 1)


@dataclasses.dataclass(frozen=True)
class Handout:
    """What a worker is to build now.

    Attributes:
        target: the board
        commits: those still missing
        taken_from: worker that had it in hand without having begun; it is to
            be told to drop it. '' when the board comes from the pool or is
            built twice, since its owner may be slow
    """

    target: str
    commits: Tuple[int, ...]
    taken_from: str = ''


@dataclasses.dataclass
class _Worker:
    """What is known of a worker"""

    name: str
    slots: int
    ahead: int
    archs: Optional[FrozenSet[str]]
    speed: float
    owed: Set[str] = dataclasses.field(default_factory=set)
    begun: Set[str] = dataclasses.field(default_factory=set)
    refused: Set[str] = dataclasses.field(default_factory=set)
    advanced: Set[str] = dataclasses.field(default_factory=set)
    accepting: bool = True
    group: str = ''


@dataclasses.dataclass
class _Board:
    """Where a board stands"""

    task: Task
    order: int
    todo: Set[int]
    owners: Set[str] = dataclasses.field(default_factory=set)
    attempts: List[str] = dataclasses.field(default_factory=list)
    given_up: str = ''

    @property
    def left(self) -> float:
        """Return what is left of its weight, for who has not begun with it."""
        return self.task.cost(len(self.todo), True)


class Scheduler:
    """The pool of boards and the workers that draw from it.

    Attributes:
        max_attempts: see MAX_ATTEMPTS
        expecting: more workers are to come, so a board that a worker could not
            go on with waits for them
        unknown: so many of these have not told yet what they are
    """

    def __init__(self, tasks: Sequence[Task], max_attempts: int = MAX_ATTEMPTS,
                 clock: Callable[[], float] = lambda: 0.0) -> None:
        """Fill the pool.

        Args:
            tasks: the boards, in the order in which equal ones are handed out
            max_attempts: see MAX_ATTEMPTS
            clock: returns seconds, for how long what is in hand will still take

        Raises:
            ValueError: a board is in there twice
        """
        self.max_attempts = max_attempts
        self.expecting = False
        self.unknown = 0
        self._coming: Dict[str, _Worker] = {}
        self._boards: Dict[str, _Board] = {}
        self._workers: Dict[str, _Worker] = {}
        # By architecture and group
        self._pools: Dict[Tuple[str, str], List[Tuple[float, int, str]]] = {}
        self._grouped = any(task.group for task in tasks)
        self._open = 0
        # With costs unknown, boards go out in their order and nobody waits
        self._foresees = any(task.weight for task in tasks)
        self._forecast = Forecast(clock)
        self._patience = clock() + START_UP
        self._shares: Optional[Shares] = None
        self._hungry: Set[str] = set()
        for order, task in enumerate(tasks):
            if task.target in self._boards:
                raise ValueError(f"board '{task.target}' is in the pool twice")
            board = _Board(task, order, set(task.commits))
            self._boards[task.target] = board
            if board.todo:
                self._open += 1
                self._put_back(board)

    def _put_back(self, board: _Board) -> None:
        """Add a board to the pool of its architecture and group"""
        self._shares = None
        first = float('inf') if self._is_suspect(board.task.target) else -board.task.weight
        heapq.heappush(self._pools.setdefault((board.task.arch, board.task.group), []),
                       (first, board.order, board.task.target))

    # -- workers -----------------------------------------------------------

    def add_worker(self, name: str, slots: int, archs: Optional[Collection[str]] = None,
                   speed: float = 1.0, ahead: int = 0) -> None:
        """Let a worker take part.

        Args:
            name: unique name, '' for this machine
            slots: how many boards it builds at once
            archs: architectures that it can build, None for all
            speed: how fast it is, in any unit
            ahead: boards that it may have in hand beyond its slots, so that
                none of them waits for the next one

        Raises:
            ValueError: the name is taken
        """
        if name in self._workers:
            raise ValueError(f"worker '{name}' is there twice")
        self._coming.pop(name, None)
        self._workers[name] = _Worker(
            name, max(1, slots), ahead, None if archs is None else frozenset(archs), speed)
        self._forecast.add(name, max(1, slots), speed)
        self._shares = None

    def expect(self, name: str, slots: int, archs: Optional[Collection[str]] = None,
               speed: float = 1.0) -> None:
        """Take into account that a worker is going to join; see add_worker()."""
        self._coming[name] = _Worker(
            name, max(1, slots), 0, None if archs is None else frozenset(archs), speed)
        self._forecast.add(name, max(1, slots), speed, START_UP)
        self._shares = None

    def set_aside(self, name: str) -> None:
        """Give a worker nothing more; it may finish what it has."""
        self._workers[name].accepting = False
        self._hungry.discard(name)
        self._shares = None

    def can_do_without(self, name: str) -> bool:
        """Return whether a worker takes boards and is not the last one that does."""
        worker = self._workers.get(name)
        return worker is not None and worker.accepting and any(
            other.accepting for other in self._workers.values() if other is not worker)

    def lost(self, name: str) -> List[str]:
        """Forget a worker, or one that is not going to come.

        What it owed goes back to the pool or is given up.

        Returns:
            the boards that it had in hand and that nobody else is building
        """
        self._coming.pop(name, None)
        self._forecast.remove(name)
        self._hungry.discard(name)
        self._shares = None
        worker = self._workers.pop(name, None)
        if worker is None:
            return []
        back = []
        for target in sorted(worker.owed, key=lambda t: self._boards[t].order):
            board = self._boards[target]
            board.owners.discard(name)
            if not board.todo:
                continue
            reason = f"worker '{name}' was lost"
            if board.owners:
                # Another one is at it, too; this loss counts all the same
                board.attempts.append(reason)
            else:
                back.append(target)
                self._failed(board, reason)
        return back

    def _is_suspect(self, target: str) -> bool:
        """Return whether a board went down with so many workers that the next is the last.

        A worker gets but one such board at a time, and those come last: what
        kills workers takes no other board along to the end of its attempts.
        """
        return len(self._boards[target].attempts) >= max(1, self.max_attempts - 1)

    def _takes(self, worker: _Worker, target: str) -> bool:
        """Return whether a worker may be given a board, as far as its past tells"""
        return target not in worker.refused and not (
            self._is_suspect(target) and any(self._is_suspect(owed) for owed in worker.owed))

    def _failed(self, board: _Board, reason: str) -> None:
        """Put a board back, unless it was tried too often"""
        board.attempts.append(reason)
        if len(board.attempts) >= self.max_attempts:
            self.give_up(board.task.target,
                         f'given up after {len(board.attempts)} attempts: '
                         + '; '.join(dict.fromkeys(board.attempts)))
        else:
            self._put_back(board)

    # -- handing out -------------------------------------------------------

    def next_for(self, name: str) -> Optional[Handout]:
        """Hand out the next board for a worker.

        Returns:
            the board; None when the worker has its hands full, there is
            nothing that it can build, or others would be through with all that
            is left before it; see hungry()
        """
        worker = self._workers.get(name)
        if worker is None or not worker.accepting:
            return None
        self._hungry.discard(name)
        target, withheld = '', False
        if len(worker.owed) < worker.slots + worker.ahead:
            target, withheld = self._from_pool(worker)
        if target:
            return self._hand_out(worker, target)
        if len(worker.owed) >= worker.slots:
            return None
        handout = None if withheld else self._from_others(worker)
        if handout is None and self._foresees:
            self._hungry.add(name)
        return handout

    def hungry(self) -> List[str]:
        """Return who has slots to spare and got nothing, as others are faster.

        They are to be asked again when a board came back, and now and then, as
        those others may be slower than it seemed.
        """
        return sorted(self._hungry)

    def _hand_out(self, worker: _Worker, target: str, taken_from: str = '') -> Handout:
        """Make a worker an owner of a board"""
        board = self._boards[target]
        worker.group = board.task.group
        board.owners.add(worker.name)
        worker.owed.add(target)
        return Handout(target, tuple(sorted(board.todo)), taken_from)

    def _from_others(self, worker: _Worker) -> Optional[Handout]:
        """Find something for an idle worker when the pool has nothing for it.

        First what another one has in hand without having begun it; then, a
        second time, what another one is building: that one may be slow or
        hang, and the first complete result counts. Where it can be told when
        the other one will be through, it has to be sooner here.
        """
        best: Optional[Tuple[Tuple[float, bool, float, int], str, str]] = None
        now = self._forecast.now()
        for other in self._workers.values():
            free = self._forecast.free(other.name) if self._foresees else 0.0
            ends = functools.partial(self._ends, other, free)
            for target in other.owed:
                board = self._boards[target]
                begun = target in other.begun
                if (len(board.owners) != 1 or not board.todo or worker.name in board.owners
                        or not self._takes(worker, target) or not self._may(worker, board)
                        or board.given_up or (begun and self._is_suspect(target))):
                    continue
                gain = 1.0
                if self._foresees:
                    gain = ends(target) - now - self._forecast.seconds(worker.name, board.left)
                key = (-gain, begun, -board.left, board.order)
                if gain > 0 and (best is None or key < best[0]):
                    best = (key, target, other.name)
        if best is None:
            return None
        (_, begun, _, _), target, owner = best
        if begun:
            return self._hand_out(worker, target)
        self._let_go(self._workers[owner], self._boards[target])
        return self._hand_out(worker, target, owner)

    def _ends(self, owner: _Worker, free: float, target: str) -> float:
        """Return when a worker should be through with a board that it has in hand.

        Args:
            owner: the worker
            free: when it can begin with another one
            target: the board
        """
        if target in owner.begun:
            return self._forecast.when(owner.name, target)
        return free + self._forecast.seconds(owner.name, self._boards[target].left)

    def _from_pool(self, worker: _Worker) -> Tuple[str, bool]:
        """Take the next board for a worker out of the pool.

        Returns:
            (the board or '', whether there are some that others are to have)
        """
        best: Optional[Tuple[Tuple[bool, bool], Tuple[float, int, str]]] = None
        best_pool: List[Tuple[float, int, str]] = []
        slots = sum(other.slots for other in self._workers.values())
        plenty = self._grouped and sum(map(len, self._pools.values())) > PLENTY * slots
        like = self._likings(worker) if plenty else lambda group: (False, False)
        for (arch, group), pool in self._pools.items():
            if worker.archs is not None and arch not in worker.archs:
                continue
            entry = self._first(pool, worker)
            if entry is not None:
                key = like(group), entry
                if best is None or key < best:
                    best, best_pool = key, pool
        if best is None:
            return '', False
        entry = best[1]
        # With much left, it matters more which boards go together than when each is done
        if self._foresees and not plenty and self.unknown and self._forecast.now() < self._patience:
            return self._shortest(worker), False
        if self._foresees and not plenty and len(self._workers) + len(self._coming) > 1:
            target = self._planned(worker)
            return target, not target
        if best_pool[0] == entry:
            heapq.heappop(best_pool)
        else:
            best_pool.remove(entry)
            heapq.heapify(best_pool)
        return entry[2], False

    def _likings(self, worker: _Worker) -> Callable[[str], Tuple[bool, bool]]:
        """Return what tells how much a worker should have of a group; smaller is better.

        It stays at the one that it is at, then takes one that nobody else is at.
        """
        taken = {other.group for other in self._workers.values() if other is not worker}

        def like(group: str) -> Tuple[bool, bool]:
            return not group or group != worker.group, bool(group) and group in taken

        return like

    def _shortest(self, worker: _Worker) -> str:
        """Return the shortest board in the pool, for a worker that is early.

        The others may be faster, and the longest boards are for the fastest; a
        short one keeps nobody from having one of those soon.
        """
        return min((board.left, -board.order, target)
                   for target, board in self._boards.items()
                   if self._waiting(target) and self._takes(worker, target)
                   and self._may(worker, board))[2]

    def _planned(self, worker: _Worker) -> str:
        """Return the board that a worker is to have next, '' when others are to have all"""
        def fits(target: str) -> bool:
            return self._waiting(target) and self._takes(worker, target)

        if self._shares is None or self._shares.stale:
            self._shares = self._share()
        target = self._shares.take(worker.name, fits)
        if not target and (self._shares.outrun(worker.name)
                           or self._shares.made + LASTS <= self._forecast.now()):
            # It was faster than it seemed, or the others may be slower
            self._shares = self._share()
            target = self._shares.take(worker.name, fits)
        return target

    def _share(self) -> Shares:
        """Share what is in the pool among the workers, as things are now"""
        able = [worker for worker in (*self._workers.values(), *self._coming.values())
                if worker.accepting]
        boards = sorted((-board.left, board.order, target)
                        for target, board in self._boards.items() if self._waiting(target))
        picky = [worker for worker in able if worker.archs is not None or worker.refused]
        easy = {worker.name for worker in able}.difference(worker.name for worker in picky)

        def who(target: str) -> Optional[Set[str]]:
            if not picky:
                return None
            return easy.union(worker.name for worker in picky
                              if target not in worker.refused
                              and self._may(worker, self._boards[target]))

        return self._forecast.share(
            ((target, -cost, who(target)) for cost, _, target in boards),
            {worker.name: [self._boards[target].left for target in worker.owed - worker.begun]
             for worker in able})

    def _first(self, pool: List[Tuple[float, int, str]],
               worker: _Worker) -> Optional[Tuple[float, int, str]]:
        """Return the first entry of a pool that a worker may have"""
        while pool and not self._waiting(pool[0][2]):
            heapq.heappop(pool)
        if not pool:
            return None
        if self._takes(worker, pool[0][2]):
            return pool[0]
        allowed = [entry for entry in pool
                   if self._takes(worker, entry[2]) and self._waiting(entry[2])]
        return min(allowed) if allowed else None

    def _waiting(self, target: str) -> bool:
        """Return whether a board is to be handed out"""
        board = self._boards[target]
        return bool(board.todo) and not board.owners and not board.given_up

    # -- what comes back ---------------------------------------------------

    def started(self, name: str, target: str) -> None:
        """Record that a worker has begun with a board."""
        worker = self._workers.get(name)
        if worker and target in worker.owed and target not in worker.begun:
            self._begin(worker, self._boards[target])

    def _begin(self, worker: _Worker, board: _Board) -> None:
        """Note that a worker has so much of a board before it, as of now"""
        target = board.task.target
        worker.begun.add(target)
        self._forecast.begin(worker.name, target, board.task.cost(
            len(board.todo), target not in worker.advanced))

    def result(self, name: str, target: str, upto: int, seconds: float = 0.0) -> bool:
        """Record a result.

        Args:
            name, target, upto: worker, board and index of the commit
            seconds: that the build took; 0 when that tells nothing

        Returns:
            True when it is to be kept; False when this worker was not to build
            it, or it is there already
        """
        board = self._boards.get(target)
        if board is None or name not in board.owners or upto not in board.todo:
            return False
        board.todo.discard(upto)
        worker = self._workers[name]
        self._forecast.learn(name, board.task.cost(1, target not in worker.advanced), seconds)
        worker.advanced.add(target)
        self._begin(worker, board)
        if not board.todo:
            # One that was given up is not open any more, yet complete is complete
            if not board.given_up:
                self._open -= 1
            board.given_up = ''
        return True

    def board_done(self, name: str, target: str, reason: str = '') -> bool:
        """Record that a worker is through with a board.

        Args:
            reason: why commits are missing, when the machine could not go on;
                the board is not offered to this worker again then, unless no
                other one may have it

        Returns:
            True when the board goes back to the pool or is given up, as
            commits are missing
        """
        worker = self._workers.get(name)
        board = self._boards.get(target)
        if worker is None or board is None or name not in board.owners:
            return False
        self._let_go(worker, board)
        if not board.todo or board.owners or board.given_up:
            return False
        worker.refused.add(target)
        if not self.expecting:
            self._forgive(board)
        self._failed(board, reason or f"worker '{name}' did not finish it")
        return True

    def _let_go(self, worker: _Worker, board: _Board) -> None:
        """Take a board out of a worker's hands"""
        target = board.task.target
        worker.owed.discard(target)
        worker.begun.discard(target)
        worker.advanced.discard(target)
        board.owners.discard(worker.name)
        self._forecast.end(worker.name, target)

    def _forgive(self, board: _Board) -> bool:
        """Offer a board again to those that failed it, if there is nobody else for it"""
        able = [worker for worker in self._workers.values()
                if worker.accepting and self._may(worker, board)]
        target = board.task.target
        if not able or any(target not in worker.refused for worker in able):
            return False
        for worker in able:
            worker.refused.discard(target)
        return True

    def reoffer(self) -> bool:
        """Offer boards again to workers that failed them, as nobody else is left.

        To be called when a worker has gone, was set aside or does not come.

        Returns:
            True when there are such boards
        """
        return any([self._forgive(board) for board in self._boards.values()
                    if self._waiting(board.task.target)])

    @staticmethod
    def _may(worker: _Worker, board: _Board) -> bool:
        """Return whether a worker has what a board needs"""
        return worker.archs is None or board.task.arch in worker.archs

    def give_up(self, target: str, reason: str) -> None:
        """Stop trying to build a board."""
        board = self._boards[target]
        if board.todo and not board.given_up:
            board.given_up = reason
            self._open -= 1

    def give_up_stranded(self, reason: str) -> List[str]:
        """Give up the boards that no worker of now can build.

        Returns:
            those boards
        """
        out = []
        for board in self._boards.values():
            if self._waiting(board.task.target) and not any(
                    worker.accepting and self._may(worker, board)
                    for worker in self._workers.values()):
                self.give_up(board.task.target, reason)
                out.append(board.task.target)
        return out

    # -- how it stands -----------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when no board is open: each was built or given up."""
        return self._open == 0

    @property
    def workers(self) -> List[str]:
        """Return the names of the workers that are there."""
        return list(self._workers)

    def rivals(self, name: str, target: str) -> List[str]:
        """Return who else still has a board in hand that a worker completed."""
        board = self._boards[target]
        return [] if board.todo else sorted(board.owners - {name})

    def owed(self, name: str) -> FrozenSet[str]:
        """Return the boards that a worker has in hand."""
        worker = self._workers.get(name)
        return frozenset(worker.owed) if worker else frozenset()

    def missing(self) -> Dict[str, Tuple[Tuple[int, ...], str]]:
        """Return the boards that are not complete: their missing commits and why."""
        return {target: (tuple(sorted(board.todo)), board.given_up)
                for target, board in self._boards.items() if board.todo}
