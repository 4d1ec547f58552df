# SPDX-License-Identifier: GPL-2.0+
"""What goes on in a run, for those who look on: --top and --status.

A listener of the loop's, in its thread. It keeps what the events tell of
each machine and of failures; state() is all of that at one moment, as the README
describes it, and lines() is the same for a terminal.
"""

from __future__ import annotations

import collections
import heapq
import json
import os
import re
import time
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

from buildman.core.errors import SetupError
from buildman.core.events import BoardDone, Built, Event, Refused, Started, WorkerGone
from buildman.core.files import replace_file
from buildman.core.outcome import Outcome
from buildman.core.text import plain
from buildman.schedule.ledger import Ledger
from buildman.schedule.local import Worker

# Failures that are kept, the last ones, and boards in hand that are named
MAX_FAILURES = 20
MAX_BOARDS = 20

# Characters of an error line
MAX_ERROR = 200

# Results of so many seconds tell how many there are in a minute
WINDOW = 60.0

# Rows and columns of a terminal that are too few for more than a line
MIN_ROWS, MIN_COLUMNS = 5, 50

# What a worker tells of itself: its load, and for how many seconds it has been silent
Signs = Callable[[str], Tuple[float, float]]


def first_error(text: str) -> str:
    """Return the line of stderr that tells best why a build failed, fit to be shown."""
    every = [line.strip() for line in text.splitlines() if re.search('[A-Za-z]', line)]
    # What make adds is the same for all
    own = [line for line in every if not line.startswith('make')] or every or ['']
    return plain(next((line for line in own if 'error' in line.lower()), own[0]))[:MAX_ERROR]


class Watch:
    """What is known of the machines of a run, and what failed."""

    def __init__(self, ledger: Ledger, workers: Sequence[Worker], signs: Signs,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            ledger: who has what; is read only
            workers: those that take part; more may be appended
            signs: see Signs
            clock: returns seconds
        """
        self._ledger = ledger
        self._workers = workers
        self._signs = signs
        self._clock = clock
        self._gone: Dict[str, str] = {}
        self._results: 'collections.Counter[str]' = collections.Counter()
        self._times: Dict[str, Deque[float]] = collections.defaultdict(collections.deque)
        # Worker and board -> commit and since when
        self._building: Dict[str, Dict[str, Tuple[int, float]]] = collections.defaultdict(dict)
        self._failures: Deque[Dict[str, Any]] = collections.deque(maxlen=MAX_FAILURES)
        self._began = clock()

    def __call__(self, event: Event, fate: str) -> None:
        """Take an event of the loop's, see Loop.add_listener()."""
        building = self._building[event.worker]
        if isinstance(event, Started):
            if self._ledger.attempt(event.worker, event.target):
                building[event.target] = event.commit_upto, self._clock()
        elif isinstance(event, BoardDone):
            building.pop(event.target, None)
        elif isinstance(event, WorkerGone):
            building.clear()
            self._gone[event.worker] = event.reason
        elif isinstance(event, Refused):
            self._note_failure(event.outcome, '')
        elif isinstance(event, Built) and not fate:
            self._results[event.worker] += 1
            self._times[event.worker].append(self._clock())
            target = event.outcome.target
            todo = self._ledger.boards[target].todo
            building.pop(target, None)
            if todo:
                building[target] = min(todo), self._clock()
            if event.outcome.failed:
                self._note_failure(event.outcome, event.worker)

    def _note_failure(self, outcome: Outcome, name: str) -> None:
        """Keep what failed"""
        self._failures.append({
            'board': outcome.target, 'commit': outcome.commit_upto + 1, 'machine': name or 'local',
            'error': first_error(outcome.stderr)})

    def _machine(self, worker: Worker, now: float) -> Dict[str, Any]:
        """Return what is known of a machine"""
        times, building = self._times[worker.name], self._building[worker.name]
        while times and times[0] < now - WINDOW:
            times.popleft()
        state = self._ledger.workers.get(worker.name)
        load, silent = self._signs(worker.name)
        why = self._gone.get(worker.name)
        oldest = heapq.nsmallest(MAX_BOARDS, building.items(), key=lambda item: item[1][1])
        return {
            'name': worker.name or 'local',
            'state': ('lost' if why else 'ended' if why is not None else
                      'starting' if not state else 'ready' if state.accepting else 'put aside'),
            'why': why or '', 'slots': worker.slots, 'in_hand': len(state.owed) if state else 0,
            'results': self._results[worker.name],
            'per_minute': round(60 * len(times) / max(1.0, min(WINDOW, now - self._began)), 1),
            'load': round(load, 2), 'silent': round(silent, 1),
            'building': [{'board': target, 'commit': upto + 1, 'seconds': round(now - since, 1)}
                         for target, (upto, since) in oldest]}

    def state(self) -> Dict[str, Any]:
        """Return what is known of machines and failures, as the README has it."""
        now = self._clock()
        return {'machines': [self._machine(worker, now) for worker in self._workers],
                'failures': list(self._failures)}


# Columns of all that is told of a machine before what it builds
HEAD = 56


def _fit(text: str, width: int) -> str:
    """Return the beginning of a text that is as wide as it has characters"""
    return text.encode('ascii', 'replace').decode()[:width].rstrip()


def lines(state: Mapping[str, Any], rows: int, columns: int) -> List[str]:
    """Return what a terminal shows above the progress line.

    Args:
        state: see Watch.state()
        rows: that there is room for
        columns: that there is room for

    Returns:
        not more lines than that, [] when there are too few
    """
    if rows < MIN_ROWS or columns < MIN_COLUMNS:
        return []
    machines, failures = list(state['machines']), list(state['failures'])
    # One failure at least is to be seen
    room = rows - 1 - bool(failures)
    if len(machines) > room:
        # Those that give reason to look come first
        machines.sort(key=lambda mach: (mach['state'] == 'ready', -mach['silent']))
    shown = machines if len(machines) <= room else machines[:room - 1]
    out = [_fit('machine         slots busy results  /min   load silent  longest in hand', columns)]
    for mach in shown:
        what = ''
        for item in mach['building']:
            more = f"{item['board']}@{item['commit']:02} {item['seconds']:.0f}s"
            if what and len(what) + len(more) + 2 > columns - HEAD:
                break
            what += f", {more}" if what else more
        if mach['state'] != 'ready':
            what = ': '.join(filter(None, (mach['state'], mach['why'])))
        silent = f"{mach['silent']:.0f}s" if mach['silent'] >= 1 else ''
        out.append(_fit(
            f"{mach['name'][:15]:15} {mach['slots']:5} {mach['in_hand']:4} {mach['results']:7} "
            f"{mach['per_minute']:5.1f} {mach['load']:6.1f} {silent:>6}  {what}", columns))
    rest = machines[len(shown):]
    if rest:
        out.append(_fit(
            f"{f'and {len(rest)} more':15} {sum(mach['slots'] for mach in rest):5} "
            f"{sum(mach['in_hand'] for mach in rest):4} "
            f"{sum(mach['results'] for mach in rest):7} "
            f"{sum(mach['per_minute'] for mach in rest):5.1f}", columns))
    for item in failures[max(0, len(failures) - (rows - len(out))):]:
        out.append(_fit(f"{item['board']}@{item['commit']:02}: {item['error']}", columns))
    return out


class StatusFile:
    """The file of --status: how a run is, written anew each second."""

    def __init__(self, path: str, complain: Callable[[str], None]) -> None:
        """Write it for the first time.

        Args:
            path: of the file
            complain: told, once, that it cannot be written any more

        Raises:
            SetupError: it cannot be written
        """
        self._path = path
        self._complain: Optional[Callable[[str], None]] = complain
        self._started = time.time()
        self._state: Dict[str, Any] = {
            'total': 0, 'done': 0, 'good': 0, 'warned': 0, 'failed': 0, 'previous': 0,
            'left': None, 'machines': [], 'failures': []}
        if os.path.exists(path) and not os.path.isfile(path):
            raise SetupError(f"--status {path}: is no file")
        try:
            self._write('starting', None)
        except OSError as exc:
            raise SetupError(f"cannot write '{path}': {exc.strerror}") from exc

    def _write(self, phase: str, status: Optional[int]) -> None:
        now = time.time()
        text = json.dumps({
            'version': 1, 'phase': phase, 'exit_status': status, 'pid': os.getpid(),
            'started': round(self._started, 3), 'written': round(now, 3), **self._state})
        replace_file(self._path, f'{text}\n'.encode())

    def update(self, state: Mapping[str, Any]) -> None:
        """Write how it is.

        Args:
            state: the fields that change
        """
        self._state.update(state)
        self._try('building', None)

    def end(self, phase: str, status: int) -> None:
        """Write how it ended."""
        self._state.update(left=0 if phase == 'ended' else None)
        for mach in self._state['machines']:
            mach.update(in_hand=0, building=[])
        self._try(phase, status)

    def _try(self, phase: str, status: Optional[int]) -> None:
        """Write, if it can be done: that it cannot is no reason not to build"""
        try:
            self._write(phase, status)
        except OSError as exc:
            if self._complain:
                self._complain(f"cannot write '{self._path}': {exc.strerror}")
                self._complain = None
