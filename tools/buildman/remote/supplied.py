# SPDX-License-Identifier: GPL-2.0+
"""The machines of a run that come from supplies: asked for while there is work, given back.

All but the machines' own threads is called by the loop's.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, Dict, List, Sequence, Tuple

from buildman.core import events
from buildman.remote.session import RemoteMachine
from buildman.remote.supply import MAX_FAILURES, Idle, Supply
from buildman.schedule.loop import Loop

# Seconds between two looks at who has work
TICK = 1.0

# Seconds that machines may take to come until people are told, and between two such lines
TELL_AFTER = 5.0
TELL_EACH = 60.0


class Supplied:
    """Asks supplies for machines, and has them take part."""

    def __init__(self, sources: Sequence[Supply],
                 make: Callable[[Supply], RemoteMachine],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Set up.

        Args:
            sources: where they come from
            make: returns one more machine, which is not started
            clock: seconds
        """
        self._sources = sources
        self._make = make
        self._clock = clock
        self._idle = Idle(clock)
        self._machines: Dict[str, Tuple[Supply, RemoteMachine]] = {}
        self._next_line = clock() + TELL_AFTER
        self._last_line = ''
        self._loop: Loop

    def first(self, waiting: int) -> List[RemoteMachine]:
        """Return the machines to begin with.

        Args:
            waiting: boards that have something to be built
        """
        return [self._one_more(source) for source in self._sources
                for _ in range(source.wants(waiting, 0, 0))]

    def _one_more(self, source: Supply) -> RemoteMachine:
        mach = self._make(source)
        self._machines[mach.name] = source, mach
        return mach

    def attach(self, loop: Loop) -> None:
        """Take part in a run."""
        self._loop = loop
        if self._sources:
            loop.add_listener(self._hear)
            loop.add_ticker(self.tick, TICK)

    def _hear(self, event: events.Event, fate: str) -> None:
        """See what has become of a machine"""
        if event.worker not in self._machines:
            return
        source, mach = self._machines[event.worker]
        if isinstance(event, events.WorkerComing):
            source.archs = (source.archs or frozenset()).union(event.archs or ())
        elif isinstance(event, events.Built) and not fate:
            source.failures = 0
        elif isinstance(event, events.WorkerGone):
            del self._machines[event.worker]
            # Another boss has its folder; the next one is of another name
            source.failures += not event.busy
            if source.failures == MAX_FAILURES:
                self._loop.tell(mach.name, f'no more machines of {source.name} are asked for, as '
                                f'{MAX_FAILURES} in a row were of no use')
            # At once, so that nothing is given up meanwhile
            self._ask()

    def _counts(self, source: Supply) -> Tuple[int, int]:
        """Return how many machines of a supply there are, and how many are coming"""
        ready = [mach.slots > 0 for other, mach in self._machines.values() if other is source]
        return sum(ready), len(ready) - sum(ready)

    def _waiting(self, source: Supply) -> int:
        """Return how many boards nobody has that the machines of a supply may build"""
        ledger = self._loop.ledger
        return sum(ledger.waiting(target) for target, board in ledger.boards.items()
                   if source.archs is None or board.task.arch in source.archs)

    def _ask(self) -> None:
        """Ask for as many more as there is work for"""
        for source in self._sources:
            count = source.wants(self._waiting(source), *self._counts(source))
            self._loop.add([self._one_more(source) for _ in range(count)])

    def tick(self) -> None:
        """Ask for more, give back those that have had nothing to do, say who is waited for."""
        for name, (source, mach) in list(self._machines.items()):
            busy = bool(self._loop.ledger.owed(name) if mach.slots else self._waiting(source))
            if self._idle.seconds(name, busy) > source.idle:
                # One that takes no board although some wait is of no use
                source.failures += bool(mach.slots and self._waiting(source))
                del self._machines[name]
                self._loop.let_go(name)
                self._loop.tell(name, 'given back, as there is nothing to do for it')
                threading.Thread(target=mach.finish if mach.slots else mach.dismiss, daemon=True,
                                 name=f'give back {name}').start()
        self._ask()
        line = '; '.join(self.lines())
        if line != self._last_line and self._clock() >= self._next_line:
            self._last_line, self._next_line = line, self._clock() + TELL_EACH
            if line:
                self._loop.say(line)

    def lines(self) -> List[str]:
        """Return a line for each supply of which machines are waited for."""
        out = []
        for source in self._sources:
            here, coming = self._counts(source)
            if coming:
                since = min(mach.asked_at for other, mach in self._machines.values()
                            if other is source and not mach.slots)
                out.append(f'{source.name}: {here} of {source.count} machines, {coming} wanted '
                           f"since {time.strftime('%H:%M', time.localtime(since))}")
        return out
