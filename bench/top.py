#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""What --top and --status cost the boss: processor time of the loop with and without them.

Machines are made up: each slot takes a board, and each commit comes out after some
seconds; nothing is compiled, results go nowhere. The terminal is a real one of 24 rows
and 80 columns that somebody reads, or is given another size each second. Ways are measured
in turns.

    bench/top.py [--machines 20] [--slots 16] [--seconds 30] [--rounds 2]
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import itertools
import os
import pty
import queue
import random
import struct
import sys
import tempfile
import termios
import threading
import time
from typing import Any, Dict, Iterable, List, Tuple

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, 'tools'))

from buildman.core.events import BoardDone, Built, Event, Started
from buildman.core.outcome import Outcome
from buildman.core.plan import Board, BoardJob, Commit, Plan, Settings, Toolchain
from buildman.schedule.inbox import Inbox
from buildman.schedule.loop import Loop
from buildman.schedule.progress import Status
from buildman.schedule.watch import StatusFile, Watch, lines

COMMITS = 5

WAYS = ('line', 'top', 'top, resized', 'top and status')

# Rows and columns
SIZES = ((24, 80), (50, 160), (12, 40), (3, 20))


class Sink:
    """Where results go: nowhere."""

    def built(self, upto: int, targets: Iterable[str]) -> Dict[str, Tuple[int, bool]]:
        """Return what is there: nothing."""
        return {}

    def lacks_compiler(self, upto: int, target: str) -> bool:
        """Return that there are compilers."""
        return False

    def write(self, outcome: Outcome) -> None:
        """Keep nothing."""

    def forget(self, upto: int, target: str) -> None:
        """Forget nothing."""


class Machine:
    """A made-up machine."""

    ahead, tells_done, archs, speed = 1, True, None, 1.0

    def __init__(self, name: str, slots: int, plans: 'queue.Queue[Tuple[float, Event]]') -> None:
        self.name, self.slots = name, slots
        self._plans = plans
        self._free = [time.monotonic()] * slots
        self._rng = random.Random(name)

    def start(self) -> None:
        """Be there."""

    def submit(self, job: BoardJob) -> None:
        """Plan when to say what of a board."""
        when = max(heapq.heappop(self._free), time.monotonic())
        self._plans.put((when, Started(self.name, job.board.target, job.commits[0], job.attempt)))
        first = self._rng.uniform(5, 20)
        for upto in job.commits:
            spent = first if upto == job.commits[0] else first / 5
            when += spent
            self._plans.put((when, Built(self.name, Outcome(
                job.board.target, upto, int(self._rng.random() < 0.02), seconds=spent,
                stderr='board/acme/a.c:1:1: error: made up'), job.attempt)))
        heapq.heappush(self._free, when)
        self._plans.put((when, BoardDone(self.name, job.board.target, (), '', job.attempt)))

    def cancel(self, target: str) -> None:
        """Go on all the same."""

    finish = stop = start


def play(plans: 'queue.Queue[Tuple[float, Event]]', events: Inbox) -> None:
    """Say what is planned when its time has come, in a thread."""
    heap: List[Tuple[float, int, Event]] = []
    serial = itertools.count()
    while True:
        try:
            when, event = plans.get(timeout=max(0.0, heap[0][0] - time.monotonic())
                                    if heap else None)
            heapq.heappush(heap, (when, next(serial), event))
        except queue.Empty:
            events.put(heapq.heappop(heap)[2])


def resize(terminal: int, rows: int, columns: int) -> None:
    """Give a terminal another size."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))


def run(args: argparse.Namespace, way: str, folder: str) -> float:
    """Let a run go on for some seconds; return the processor's seconds in the loop's thread."""
    boards = [Board(f'b{num:04}', 'arm') for num in range(1547)]
    commits = tuple(Commit(f'{num:040x}', f'commit {num}') for num in range(COMMITS))
    plan = Plan(tuple(BoardJob(board, Toolchain('arm', 'gcc', '', ''), tuple(range(COMMITS)))
                      for board in boards), commits, Settings(), tuple(range(COMMITS)))
    events = Inbox()
    plans: 'queue.Queue[Tuple[float, Event]]' = queue.Queue()
    threading.Thread(target=play, args=(plans, events), daemon=True).start()
    reader, writer = pty.openpty()
    resize(writer, *SIZES[0])
    size = [0]

    def read() -> None:
        with contextlib.suppress(OSError):
            while True:
                size[0] += len(os.read(reader, 65536))

    threading.Thread(target=read, daemon=True).start()
    status = Status(open(writer, 'w', encoding='utf-8'))  # noqa: SIM115
    status.start(len(boards) * COMMITS)
    loop = Loop(plan, Sink(), status, events)
    machines: List[Any] = [Machine(f'machine-{num:02}', args.slots, plans)
                           for num in range(args.machines)]
    watch = Watch(loop.ledger, machines, lambda name: (1.0, 2.0))
    if way != 'line':
        loop.add_listener(watch)
        status.above = lambda rows, columns: lines(watch.state(), rows, columns)
        loop.add_ticker(status.tick, 0.5)
    if way == 'top, resized':
        sizes = itertools.cycle(SIZES)
        loop.add_ticker(lambda: resize(writer, *next(sizes)), 1.0)
    if way == 'top and status':
        file = StatusFile(os.path.join(folder, 'status'), print)
        loop.add_ticker(lambda: file.update({**status.state(), **watch.state()}), 1.0)
    end = time.monotonic() + args.seconds

    def stop() -> None:
        if time.monotonic() > end:
            raise KeyboardInterrupt

    loop.add_ticker(stop, 0.5)
    before, began = time.thread_time(), time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        loop.run(machines)
    spent, took = time.thread_time() - before, time.monotonic() - began
    print(f'{way:16} {100 * spent / took:5.2f}% of a processor, {size[0] / took:6.0f} bytes a '
          f'second to the terminal, {status.counts.done} results in {took:.0f} s', flush=True)
    return spent / took


def main() -> None:
    """Measure."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--machines', type=int, default=20)
    parser.add_argument('--slots', type=int, default=16)
    parser.add_argument('--seconds', type=float, default=30.0)
    parser.add_argument('--rounds', type=int, default=2)
    args = parser.parse_args()
    best: Dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for way in WAYS:
                best[way] = min(run(args, way, folder), best.get(way, 1.0))
    for way in WAYS[1:]:
        print(f'{way} costs {100 * (best[way] - best["line"]):+.2f}% of a processor')


if __name__ == '__main__':
    main()
