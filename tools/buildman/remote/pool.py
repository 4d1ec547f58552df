# SPDX-License-Identifier: GPL-2.0+
"""Several workers for callers of `boss`: start them, build boards on them, end them.

The command itself uses `remote.fleet`, where each machine begins when it is ready.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

from buildman import boss
from buildman.core.text import reason, size
from buildman.process import commands
from buildman.process.threads import join, on_all
from buildman.remote import callers, scripts

# Of what the summary tells in bytes
UNITS = ('B', 'KB', 'MB', 'GB')

# Seconds that all workers together get to answer `quit`
QUIT_TIME = 30

# The same after Ctrl-C, and for closing what has not answered
INTERRUPT_TIME = 4
CLOSE_TIME = 8


class WorkerPool:
    """The workers on a number of machines.

    Attributes:
        machines: what it was made with
        workers: those that run
    """

    def __init__(self, machines: Sequence[Any]) -> None:
        """Set up; nothing is started.

        Args:
            machines: each with `hostname`, and `name`, `toolchains`,
                `max_boards`, `info.bogomips`, `work_dir` where they are known
        """
        self.machines = list(machines)
        self.workers: List[Any] = []
        self._former: List[Any] = []
        self._logs: Set[str] = set()

    # -- start -------------------------------------------------------------

    def start_all(self, git_dir: str, refspec: str, debug: bool = False,
                  settings: Optional[Mapping[str, Any]] = None) -> List[Any]:
        """Start a worker on each machine, on all of them in parallel.

        A machine that fails is left out, with a line that says why.

        Args:
            git_dir: repository here
            refspec: what to push, as for git push
            debug: show what workers print besides messages
            settings: how to build, by the names of the wire; None: they are
                not configured

        Returns:
            the workers that run
        """
        workers: Dict[int, Any] = {}
        failures: Dict[int, str] = {}
        running: Set[int] = set()

        def bring_up(pos: int) -> None:
            try:
                worker = workers[pos] = _make_worker(self.machines[pos])
                _start(worker, self.machines[pos], git_dir, refspec, debug, settings)
                running.add(pos)
            except Exception as exc:
                failures[pos] = reason(exc)

        threads: List[threading.Thread] = []
        try:
            threads = on_all(range(len(self.machines)), bring_up)
            for pos, thread in enumerate(threads):
                thread.join()
                if pos not in running:
                    print(f'  Worker failed on {_label(self.machines[pos])}: '
                          f"{failures.get(pos, 'it could not be started')}", flush=True)
        except BaseException:
            commands.stop_all()
            join(threads, INTERRUPT_TIME)
            commands.resume()
            # For close_all(): they may have a process or a lock
            self.workers = list(workers.values())
            raise
        self.workers = [workers[pos] for pos in sorted(running)]
        return self.workers

    # -- build -------------------------------------------------------------

    def build_boards(self, board_selected: Mapping[str, Any], commits: Optional[Sequence[Any]],
                     builder: Any, local_count: int = 0) -> None:
        """Build boards at all commits, on the workers.

        A worker that is lost gives its boards to the others; what cannot be
        built is named on stderr and in the log, and nothing is raised for it.

        Args:
            board_selected: target -> board, with `target` and `arch`
            commits: oldest first, with a `hash` each; None: the current source
            builder: knows where results go and takes them, see `remote.callers`
            local_count: how many boards are built on this machine meanwhile

        Raises:
            SetupError: a result cannot be written
        """
        callers.build(self.workers, board_selected, commits, builder, local_count, self._logs)

    # -- end ---------------------------------------------------------------

    def quit_all(self) -> None:
        """Have all workers end, and wait for that."""
        def end(worker: Any) -> None:
            try:
                worker.quit()
            except Exception:
                callers.close_worker(worker)

        join(on_all(self.workers, end), QUIT_TIME)
        self._forget()

    def close_all(self) -> None:
        """End all workers now (Ctrl-C): ask all of them, then close; in bounded time."""
        for worker in self.workers:
            with contextlib.suppress(Exception):
                worker.closing = True

        def ask(worker: Any) -> None:
            with contextlib.suppress(Exception):
                worker.quit()

        join(on_all(self.workers, ask), INTERRUPT_TIME)
        join(on_all(self.workers, callers.close_worker), CLOSE_TIME)
        self._forget()

    def _forget(self) -> None:
        """Have no workers any more, but for the summary"""
        self._former += self.workers
        self.workers = []

    def print_transfer_summary(self) -> None:
        """Print how many bytes went to each worker and came back."""
        parts = []
        sums = [0.0, 0.0]
        for worker in [*self._former, *self.workers]:
            counts = [_number(worker, 'bytes_sent'), _number(worker, 'bytes_recv')]
            sums = [one + two for one, two in zip(sums, counts)]
            parts.append(f'{_label(worker)}:{size(counts[0], UNITS)}/{size(counts[1], UNITS)}')
        if parts:
            print(f"\nTransfer (sent/recv): {', '.join(parts)} "
                  f'total:{size(sums[0], UNITS)}/{size(sums[1], UNITS)}',
                  file=sys.stderr, flush=True)


def _make_worker(mach: Any) -> Any:
    """Return the worker of a machine, not started"""
    name = getattr(mach, 'name', None)
    worker = boss.RemoteWorker(mach.hostname, name=name if isinstance(name, str) else None)
    toolchains = getattr(mach, 'toolchains', None)
    if isinstance(toolchains, Mapping):
        worker.toolchains = dict(toolchains)
    worker.max_boards = int(_number(mach, 'max_boards'))
    worker.bogomips = float(_number(getattr(mach, 'info', None), 'bogomips'))
    return worker


def _start(worker: Any, mach: Any, git_dir: str, refspec: str, debug: bool,
           settings: Optional[Mapping[str, Any]]) -> None:
    """Take a worker through all phases; a failure leaves nothing behind"""
    work_dir = getattr(mach, 'work_dir', None)
    if isinstance(work_dir, str) and work_dir and work_dir != scripts.DEFAULT_WORK_DIR:
        worker.init_git(work_dir)
    else:
        worker.init_git()
    try:
        worker.push_source(git_dir, refspec)
        worker.start(debug)
        if settings is not None:
            worker.configure(settings)
    except BaseException:
        callers.close_worker(worker)
        _free(worker)
        raise


def _free(worker: Any) -> None:
    """Free the lock of a machine, if it is ours"""
    with contextlib.suppress(Exception):
        worker.remove_lock()


def _number(thing: Any, name: str) -> float:
    """Return an attribute that is a number, 0 when it is none"""
    value = getattr(thing, name, 0)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def _label(thing: Any) -> str:
    """Return what a worker or machine is called"""
    for attr in ('name', 'hostname'):
        value = getattr(thing, attr, None)
        if isinstance(value, str) and value:
            return value
    return '?'
