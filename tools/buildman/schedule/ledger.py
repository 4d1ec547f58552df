# SPDX-License-Identifier: GPL-2.0+
"""Who owes which boards: plain data, no threads, no files.

A board that is handed out is owed: it is finished by accepted results, or goes
back to the pool when its worker is lost or says that it cannot go on. Who gets
which is decided in `schedule.policy`.
"""

from __future__ import annotations

import dataclasses
import heapq
from typing import (
    Callable,
    Collection,
    Dict,
    FrozenSet,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from buildman.schedule.forecast import Forecast

# Seconds until a worker is ready that is going to come
START_UP = 5.0

# How many workers may be lost, or fail, with the same board in hand before it
# is given up: it may well be what kills them
MAX_ATTEMPTS = 3

# More than a series has
MAX_COMMITS = 1_000_000


class Weight(NamedTuple):
    """What a board is expected to cost; see Task.

    Attributes:
        total: of all its commits
        first: of the first of them
        guessed: these are no seconds
    """

    total: float = 0.0
    first: float = 0.0
    guessed: bool = False


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
        guessed: costs are good for comparing boards only, and are no seconds
    """

    target: str
    arch: str
    commits: Tuple[int, ...]
    weight: float = 0.0
    first: float = 0.0
    group: str = ''
    guessed: bool = False

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


@dataclasses.dataclass
class Debt:
    """A board in a worker's hands.

    Attributes:
        attempt: how often the board had been handed out then
        given: commits that the worker was to build
        left: those of them that it has not told of yet
    """

    attempt: int
    given: FrozenSet[int]
    left: Set[int]


@dataclasses.dataclass
class WorkerState:
    """What is known of a worker"""

    name: str
    slots: int
    ahead: int
    archs: Optional[FrozenSet[str]]
    speed: float
    owed: Dict[str, Debt] = dataclasses.field(default_factory=dict)
    begun: Set[str] = dataclasses.field(default_factory=set)
    refused: Set[str] = dataclasses.field(default_factory=set)
    advanced: Set[str] = dataclasses.field(default_factory=set)
    accepting: bool = True
    group: str = ''


@dataclasses.dataclass
class BoardState:
    """Where a board stands; `rank`: what comes first in the pool, the least before others"""

    task: Task
    order: int
    todo: Set[int]
    rank: float
    owners: Set[str] = dataclasses.field(default_factory=set)
    handouts: int = 0
    attempts: List[str] = dataclasses.field(default_factory=list)
    given_up: str = ''

    @property
    def left(self) -> float:
        """Return what is left of its weight, for who has not begun with it."""
        return self.task.cost(len(self.todo), True)


@dataclasses.dataclass(frozen=True)
class Handout:
    """What a worker is to build now.

    Attributes:
        target: the board
        commits: those still missing
        attempt: how often the board was handed out, this time included
        taken_from: worker that had it in hand without having begun; it is to
            be told to drop it. '' when the board comes from the pool or is
            built twice, since its owner may be slow
    """

    target: str
    commits: Tuple[int, ...]
    attempt: int
    taken_from: str = ''


class Ledger:
    """The boards, the workers, and who owes what.

    Attributes:
        boards, workers: by name; `coming`: those that are going to join
        pools: boards to be handed out, by architecture and group; a heap each, in
            which there may be some that are not to be any more
        forecast: when workers will be through with what they have
        changes: counts the changes of pool and workers
        max_attempts: see MAX_ATTEMPTS
        expecting: more workers are to come, so a board that a worker could not
            go on with waits for them
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
        self.changes = 0
        self.coming: Dict[str, WorkerState] = {}
        self.boards: Dict[str, BoardState] = {}
        self.workers: Dict[str, WorkerState] = {}
        # By architecture and group
        self.pools: Dict[Tuple[str, str], List[Tuple[float, int, str]]] = {}
        self._open = 0
        self.forecast = Forecast(clock, any(task.guessed for task in tasks))
        for order, task in enumerate(tasks):
            if task.target in self.boards:
                raise ValueError(f"board '{task.target}' is in the pool twice")
            board = BoardState(task, order, set(task.commits), -task.weight)
            self.boards[task.target] = board
            if board.todo:
                self._open += 1
                self._put_back(board)

    def _put_back(self, board: BoardState) -> None:
        """Add a board to the pool of its architecture and group"""
        self.changes += 1
        first = float('inf') if self.is_suspect(board.task.target) else board.rank
        heapq.heappush(self.pools.setdefault((board.task.arch, board.task.group), []),
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
        if name in self.workers:
            raise ValueError(f"worker '{name}' is there twice")
        self.coming.pop(name, None)
        self.workers[name] = WorkerState(
            name, max(1, slots), ahead, None if archs is None else frozenset(archs), speed)
        self.forecast.add(name, max(1, slots), speed)
        self.changes += 1

    def expect(self, name: str, slots: int, archs: Optional[Collection[str]] = None,
               speed: float = 1.0) -> None:
        """Take into account that a worker is going to join; see add_worker()."""
        self.coming[name] = WorkerState(
            name, max(1, slots), 0, None if archs is None else frozenset(archs), speed)
        self.forecast.add(name, max(1, slots), speed, START_UP)
        self.changes += 1

    def set_aside(self, name: str) -> None:
        """Give a worker nothing more; it may finish what it has."""
        self.workers[name].accepting = False
        self.changes += 1

    def can_do_without(self, name: str) -> bool:
        """Return whether a worker takes boards and is not the last one that does."""
        worker = self.workers.get(name)
        return worker is not None and worker.accepting and any(
            other.accepting for other in self.workers.values() if other is not worker)

    def lost(self, name: str, taken: bool = False) -> List[str]:
        """Forget a worker, or one that is not going to come.

        What it owed goes back to the pool or is given up.

        Args:
            taken: no board can have been the reason

        Returns:
            the boards that it had in hand and that nobody else is building
        """
        self.coming.pop(name, None)
        self.forecast.remove(name)
        self.changes += 1
        worker = self.workers.pop(name, None)
        if worker is None:
            return []
        back = []
        for target in sorted(worker.owed, key=lambda t: self.boards[t].order):
            board = self.boards[target]
            board.owners.discard(name)
            if not board.todo:
                continue
            reason = f"worker '{name}' was lost"
            if board.owners:
                # Another one is at it, too; this loss counts all the same
                board.attempts += [] if taken else [reason]
            elif taken:
                back.append(target)
                self._put_back(board)
            else:
                back.append(target)
                self._failed(board, reason)
        return back

    def is_suspect(self, target: str) -> bool:
        """Return whether a board went down with so many workers that the next is the last.

        A worker gets but one such board at a time, and those come last: what
        kills workers takes no other board along to the end of its attempts.
        """
        return len(self.boards[target].attempts) >= max(1, self.max_attempts - 1)

    def takes(self, worker: WorkerState, target: str) -> bool:
        """Return whether a worker may be given a board, as far as its past tells."""
        return target not in worker.refused and not (
            self.is_suspect(target) and any(self.is_suspect(owed) for owed in worker.owed))

    def _failed(self, board: BoardState, reason: str) -> None:
        """Put a board back, unless it was tried too often"""
        board.attempts.append(reason)
        if len(board.attempts) >= self.max_attempts:
            self.give_up(board.task.target,
                         f'given up after {len(board.attempts)} attempts: '
                         + '; '.join(dict.fromkeys(board.attempts)))
        else:
            self._put_back(board)

    def waiting(self, target: str) -> bool:
        """Return whether a board is to be handed out."""
        board = self.boards[target]
        return bool(board.todo) and not board.owners and not board.given_up

    def hand_out(self, worker: WorkerState, target: str, taken_from: str = '') -> Handout:
        """Make a worker an owner of a board, which is in no pool then."""
        board = self.boards[target]
        # If it comes back it may have to be the last one
        pool = self.pools[board.task.arch, board.task.group]
        pool[:] = [entry for entry in pool if entry[2] != target]
        heapq.heapify(pool)
        worker.group = board.task.group
        board.owners.add(worker.name)
        board.handouts += 1
        worker.owed[target] = Debt(board.handouts, frozenset(board.todo), set(board.todo))
        return Handout(target, tuple(sorted(board.todo)), board.handouts, taken_from)

    # -- what comes back ---------------------------------------------------

    def attempt(self, name: str, target: str) -> int:
        """Return the number of the attempt that a worker has in hand, 0 for none."""
        worker = self.workers.get(name)
        debt = worker.owed.get(target) if worker else None
        return debt.attempt if debt else 0

    def _debtor(self, name: str, target: str, attempt: int) -> Optional[WorkerState]:
        """Return the worker, when it has just this attempt in hand; 0 stands for any"""
        owed = self.attempt(name, target)
        return self.workers[name] if owed and attempt in (0, owed) else None

    def started(self, name: str, target: str, attempt: int = 0) -> None:
        """Record that a worker has begun with a board."""
        worker = self._debtor(name, target, attempt)
        if worker and target not in worker.begun:
            self._begin(worker, self.boards[target])

    def _begin(self, worker: WorkerState, board: BoardState) -> None:
        """Note that a worker has so much of a board before it, as of now"""
        target = board.task.target
        worker.begun.add(target)
        self.forecast.begin(worker.name, target, board.task.cost(
            len(board.todo), target not in worker.advanced))

    def result(self, name: str, target: str, upto: int, seconds: float = 0.0,
               attempt: int = 0) -> bool:
        """Record a result.

        Args:
            name, target, upto: worker, board and index of the commit
            seconds: that the build took; 0 when that tells nothing
            attempt: that it is of; 0 when the worker does not tell

        Returns:
            True when it is to be kept; False when this worker was not to build
            it, or it is there already
        """
        worker = self._debtor(name, target, attempt)
        if worker is None or upto not in self.boards[target].todo:
            return False
        board = self.boards[target]
        board.todo.discard(upto)
        self.forecast.learn(name, board.task.cost(1, target not in worker.advanced), seconds)
        worker.advanced.add(target)
        self._begin(worker, board)
        if not board.todo:
            # One that was given up is not open any more, yet complete is complete
            if not board.given_up:
                self._open -= 1
            board.given_up = ''
        return True

    def heard(self, name: str, target: str, upto: int) -> bool:
        """Record that a worker told of a commit, whether that is kept or not.

        Returns:
            True when it has told of all that it was to build of this board
        """
        worker = self._debtor(name, target, 0)
        if worker is None:
            return False
        left = worker.owed[target].left
        left.discard(upto)
        return not left

    def board_done(self, name: str, target: str, reason: str = '', attempt: int = 0) -> bool:
        """Record that a worker is through with a board.

        Args:
            reason: why commits are missing, when the machine could not go on;
                the board is not offered to this worker again then, unless no
                other one may have it
            attempt: see result()

        Returns:
            True when the board goes back to the pool or is given up, as
            commits are missing, or were added
        """
        worker = self._debtor(name, target, attempt)
        if worker is None:
            return False
        board = self.boards[target]
        is_through = worker.owed[target].given.isdisjoint(board.todo)
        self.let_go(worker, board)
        if not board.todo or board.owners or board.given_up:
            return False
        if is_through:
            # What is to be built was added since, see extend()
            self._put_back(board)
            return True
        worker.refused.add(target)
        if not self.expecting:
            self._forgive(board)
        if reason and name:
            reason += f' on {name}'
        self._failed(board, reason or f"worker '{name}' did not finish it")
        return True

    def let_go(self, worker: WorkerState, board: BoardState) -> None:
        """Take a board out of a worker's hands."""
        target = board.task.target
        worker.owed.pop(target, None)
        worker.begun.discard(target)
        worker.advanced.discard(target)
        board.owners.discard(worker.name)
        self.forecast.end(worker.name, target)

    def _forgive(self, board: BoardState) -> bool:
        """Offer a board again to those that failed it, if there is nobody else for it"""
        able = [worker for worker in self.workers.values()
                if worker.accepting and self.may(worker, board)]
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
        return any([self._forgive(board) for board in self.boards.values()
                    if self.waiting(board.task.target)])

    @staticmethod
    def may(worker: WorkerState, board: BoardState) -> bool:
        """Return whether a worker has what a board needs."""
        return worker.archs is None or board.task.arch in worker.archs

    def give_up(self, target: str, reason: str) -> None:
        """Stop trying to build a board."""
        board = self.boards[target]
        if board.todo and not board.given_up:
            board.given_up = reason
            self._open -= 1

    def stranded(self) -> List[str]:
        """Return the boards that no worker of now can build."""
        return [target for target, board in self.boards.items()
                if self.waiting(target) and not any(
                    worker.accepting and self.may(worker, board)
                    for worker in self.workers.values())]

    def give_up_stranded(self, reason: str) -> List[str]:
        """Give up the boards that no worker of now can build.

        Returns:
            those boards
        """
        out = self.stranded()
        for target in out:
            self.give_up(target, reason)
        return out

    def withdraw(self, target: str) -> Tuple[int, ...]:
        """Take a board that waits out of the pool, as nothing is to be built for it.

        Returns:
            the commits that it was to be built at
        """
        board = self.boards[target]
        commits = tuple(sorted(board.todo))
        if self.waiting(target):
            board.todo.clear()
            self._open -= 1
        return commits

    def extend(self, target: str, commits: Collection[int]) -> None:
        """Have a board that is complete built at more commits.

        It is handed out when who has it in hand is through with it. Boards go out in the
        order of commits then, after all that were extended less often.
        """
        board = self.boards[target]
        board.todo.update(commits)
        board.rank = (max(0, board.rank // MAX_COMMITS) + 1) * MAX_COMMITS + min(commits)
        self._open += 1
        if not board.owners:
            self._put_back(board)

    # -- how it stands -----------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when no board is open: each was built or given up."""
        return self._open == 0

    def rivals(self, name: str, target: str) -> List[str]:
        """Return who else still has a board in hand that a worker completed."""
        board = self.boards[target]
        return [] if board.todo else sorted(board.owners - {name})

    def owed(self, name: str) -> FrozenSet[str]:
        """Return the boards that a worker has in hand."""
        worker = self.workers.get(name)
        return frozenset(worker.owed) if worker else frozenset()

    def missing(self) -> Dict[str, Tuple[Tuple[int, ...], str]]:
        """Return the boards that are not complete: their missing commits and why."""
        return {target: (tuple(sorted(board.todo)), board.given_up)
                for target, board in self.boards.items() if board.todo}
