# SPDX-License-Identifier: GPL-2.0+
"""Decides who builds what: plain data, no threads, no files; the clock is an argument.

A board stays with one worker for all its commits while that worker lives, since
the objects of one commit make the next one quick. Costs being known, the longest
boards go to whoever is through with them first; see `schedule.forecast`. What is owed is
kept in `schedule.ledger`.
"""

from __future__ import annotations

import functools
import heapq
from typing import Callable, List, Optional, Sequence, Set, Tuple

from buildman.schedule.forecast import REFRESH, Shares
from buildman.schedule.ledger import MAX_ATTEMPTS, START_UP, Handout, Ledger, Task, WorkerState

# Seconds after which it is worked out anew whether others are faster
LASTS = 2.0

# Boards for each slot from which on it matters which of them go together
PLENTY = 2


class Scheduler:
    """The pool of boards and the workers that draw from it.

    Attributes:
        ledger: who has what
        unknown: so many of the workers that are to come have not told yet what
            they are
    """

    def __init__(self, tasks: Sequence[Task], max_attempts: int = MAX_ATTEMPTS,
                 clock: Callable[[], float] = lambda: 0.0, moves: bool = True) -> None:
        """Fill the pool; see Ledger.

        Args:
            moves: an idle worker may get what another one has in hand
        """
        self._moves = moves
        self.unknown = 0
        self._grouped = any(task.group for task in tasks)
        # With costs unknown, boards go out in their order and nobody waits
        self._foresees = any(task.weight for task in tasks)
        self._patience = clock() + START_UP
        self._shares: Optional[Shares] = None
        self._hungry: Set[str] = set()
        self._is_calm = True
        # Looked at again after so many boards
        self._calm_for = 0.0
        self.ledger = Ledger(tasks, max_attempts, clock)
        self._seen = 0

    def next_for(self, name: str) -> Optional[Handout]:
        """Hand out the next board for a worker.

        Returns:
            the board; None when the worker has its hands full, there is
            nothing that it can build, or others would be through with all that
            is left before it; see hungry()
        """
        worker = self.ledger.workers.get(name)
        if worker is None or not worker.accepting:
            return None
        if self._seen != self.ledger.changes:
            # What was worked out is for other workers, or another pool
            self._seen, self._shares, self._calm_for = self.ledger.changes, None, 0.0
        self._hungry.discard(name)
        if len(worker.owed) >= worker.slots + worker.ahead:
            return None
        target = self._from_pool(worker)
        if target:
            return self.ledger.hand_out(worker, target)
        if len(worker.owed) >= worker.slots:
            return None
        handout = self._from_others(worker) if self._moves and target is None else None
        if handout is None and self._foresees:
            self._hungry.add(name)
        return handout

    def hungry(self) -> List[str]:
        """Return who has slots to spare and got nothing, as others are faster.

        They are to be asked again when a board came back, and now and then, as
        those others may be slower than it seemed.
        """
        return sorted(name for name in self._hungry
                      if name in self.ledger.workers and self.ledger.workers[name].accepting)

    def _from_others(self, worker: WorkerState) -> Optional[Handout]:
        """Find something for an idle worker when the pool has nothing for it.

        First what another one has in hand without having begun it; then, a
        second time, what another one is building: that one may be slow or
        hang, and the first complete result counts. Where it can be told when
        the other one will be through, it has to be sooner here. A board that took a
        worker down stays where it is: that it was begun may not have been told yet.
        """
        best: Optional[Tuple[Tuple[float, bool, int], str, str]] = None
        ledger, forecast = self.ledger, self.ledger.forecast
        if self._foresees:
            forecast.refresh()
        now = forecast.now()
        for other in ledger.workers.values():
            free = forecast.free(other.name) if self._foresees else 0.0
            ends = functools.partial(self._ends, other, free)
            for target in other.owed:
                board = ledger.boards[target]
                begun = target in other.begun
                if (len(board.owners) != 1 or not board.todo or worker.name in board.owners
                        or not ledger.takes(worker, target) or not ledger.may(worker, board)
                        or board.given_up or ledger.is_suspect(target)
                        or (board.attempts and not begun)):
                    continue
                gain = 1.0
                if self._foresees:
                    gain = ends(target) - now - forecast.seconds(worker.name, board.left)
                key = (-gain, begun, board.order)
                if gain > 0 and (best is None or key < best[0]):
                    best = (key, target, other.name)
        if best is None:
            return None
        (_, begun, _), target, owner = best
        if begun:
            return ledger.hand_out(worker, target)
        ledger.let_go(ledger.workers[owner], ledger.boards[target])
        return ledger.hand_out(worker, target, owner)

    def _ends(self, owner: WorkerState, free: float, target: str) -> float:
        """Return when a worker should be through with a board that it has in hand.

        Args:
            owner: the worker
            free: when it can begin with another one
            target: the board
        """
        if target in owner.begun:
            return self.ledger.forecast.when(owner.name, target)
        return free + self.ledger.forecast.seconds(owner.name, self.ledger.boards[target].left)

    def _from_pool(self, worker: WorkerState) -> Optional[str]:
        """Take the next board for a worker out of the pool.

        Returns:
            the board; '' when others are to have those that there are, None for none
        """
        found: List[Tuple[Tuple[bool, bool], Tuple[float, int, str]]] = []
        slots = sum(other.slots for other in self.ledger.workers.values())
        early = self._foresees and self.unknown and self.ledger.forecast.now() < self._patience
        plenty = (self._grouped and not early
                  and sum(map(len, self.ledger.pools.values())) > PLENTY * slots and self._calm())
        like = self._likings(worker) if plenty else lambda group: (False, False)
        for (arch, group), pool in self.ledger.pools.items():
            if worker.archs is not None and arch not in worker.archs:
                continue
            entry = self._first(pool, worker)
            if entry is not None:
                found.append((like(group), entry))
        if not found:
            return None
        # With much left, it matters more which boards go together than when each is done
        if early:
            return self._shortest(worker)
        if self._foresees and not plenty and len(self.ledger.workers) + len(self.ledger.coming) > 1:
            return self._planned(worker)
        return min(found)[1][2]

    def _calm(self) -> bool:
        """Return whether no board in the pool is so long that it has to be begun soon"""
        if self._foresees and self._calm_for <= 0:
            costs = [board.left for target, board in self.ledger.boards.items()
                     if self.ledger.waiting(target)]
            self._is_calm = not self.ledger.forecast.urgent(max(costs, default=0.0), sum(costs))
            self._calm_for = REFRESH * len(costs)
        self._calm_for -= 1
        return self._is_calm

    def _likings(self, worker: WorkerState) -> Callable[[str], Tuple[bool, bool]]:
        """Return what tells how much a worker should have of a group; smaller is better.

        It stays at the one that it is at, then takes one that nobody else is at.
        """
        taken = {other.group for other in self.ledger.workers.values() if other is not worker}

        def like(group: str) -> Tuple[bool, bool]:
            return not group or group != worker.group, bool(group) and group in taken

        return like

    def _shortest(self, worker: WorkerState) -> str:
        """Return the shortest board in the pool, for a worker that is early.

        The others may be faster, and the longest boards are for the fastest; a
        short one keeps nobody from having one of those soon.
        """
        return min((board.left, -board.order, target)
                   for target, board in self.ledger.boards.items()
                   if self.ledger.waiting(target) and self.ledger.takes(worker, target)
                   and self.ledger.may(worker, board))[2]

    def _planned(self, worker: WorkerState) -> str:
        """Return the board that a worker is to have next, '' when others are to have all"""
        def fits(target: str) -> bool:
            return self.ledger.waiting(target) and self.ledger.takes(worker, target)

        if self._shares is None or self._shares.stale:
            self._shares = self._share()
        target = self._shares.take(worker.name, fits)
        if not target and (self._shares.outrun(worker.name)
                           or self._shares.made + LASTS <= self.ledger.forecast.now()):
            # It was faster than it seemed, or the others may be slower
            self._shares = self._share()
            target = self._shares.take(worker.name, fits)
        return target

    def _share(self) -> Shares:
        """Share what is in the pool among the workers, as things are now"""
        able = [worker for worker in (*self.ledger.workers.values(), *self.ledger.coming.values())
                if worker.accepting]
        boards = sorted((-board.left, board.order, target) for target, board
                        in self.ledger.boards.items() if self.ledger.waiting(target))
        picky = [worker for worker in able if worker.archs is not None or worker.refused]
        easy = {worker.name for worker in able}.difference(worker.name for worker in picky)

        def who(target: str) -> Optional[Set[str]]:
            if not picky:
                return None
            return easy.union(worker.name for worker in picky
                              if target not in worker.refused
                              and self.ledger.may(worker, self.ledger.boards[target]))

        return self.ledger.forecast.share(
            ((target, -cost, who(target)) for cost, _, target in boards),
            {worker.name: [self.ledger.boards[target].left
                           for target in sorted(worker.owed.keys() - worker.begun)]
             for worker in able})

    def _first(self, pool: List[Tuple[float, int, str]],
               worker: WorkerState) -> Optional[Tuple[float, int, str]]:
        """Return the first entry of a pool that a worker may have"""
        while pool and not self.ledger.waiting(pool[0][2]):
            heapq.heappop(pool)
        if not pool:
            return None
        if self.ledger.takes(worker, pool[0][2]):
            return pool[0]
        allowed = [entry for entry in pool
                   if self.ledger.takes(worker, entry[2]) and self.ledger.waiting(entry[2])]
        return min(allowed) if allowed else None
