# SPDX-License-Identifier: GPL-2.0+
"""--dist: what a run needs so that other machines take part.

A `Fleet` makes one `RemoteMachine` for each configured machine and gives them
to the loop beside the local one. Nothing waits for all of them: each
takes boards as soon as it is ready, and one that fails says why and is left
out.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import os
import socket
import threading
import time
from typing import Callable, Collection, Dict, List, Mapping, Optional, Sequence, TextIO, Tuple

from buildman import boss, bsettings, machine
from buildman.agent import survey
from buildman.build import ccache, environment, outside
from buildman.core import events
from buildman.core.errors import EXIT_OK, BuildmanError, SetupError, UsageError
from buildman.core.plan import Board, Plan, Toolchain
from buildman.core.text import reason, size
from buildman.process import commands
from buildman.process.registry import STARTED
from buildman.process.threads import on_all
from buildman.remote import logs, push, scripts, ssh, supplied, supply
from buildman.remote.session import RemoteMachine, Shipment
from buildman.results import joblog
from buildman.results.tree import ResultTree
from buildman.schedule.loop import Loop
from buildman.wire import messages

# Seconds for a machine to download toolchains
FETCH_TIME = 3600.0

# Seconds that lost machines get, at the end of a run, to be freed of what is left there
CLEANUP_TIME = 3.0

# Heartbeats' times in which a push may make no progress: the other end may unpack
# and check what came
STALLED_HEARTBEATS = 12

# Seconds that machines in the middle of their start-up get to notice an end
ABANDON_TIME = 2.0

# host name -> work folder, where the configuration names one
WORK_DIRS: Dict[str, str] = {}

# Seconds for removing a work folder, which may be large
CLEAN_TIME = 600


def machine_names(args: argparse.Namespace) -> Optional[List[str]]:
    """Return the names that --use-machines gives, None for all."""
    if args.use_machines is None:
        return None
    return [name.strip() for name in args.use_machines.split(',') if name.strip()]


def heartbeat_interval() -> float:
    """Return the seconds between heartbeats, from [distributed] heartbeat.

    A worker that misses three of them counts as lost.

    Raises:
        UsageError: it is no such number
    """
    text = bsettings.get_value('distributed', 'heartbeat')
    if not text:
        return messages.HEARTBEAT_INTERVAL
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise UsageError(f"[distributed] heartbeat = {text}: has to be a number of seconds, "
                         'from 0.1 to 3600')
    return seconds


def load_machines(args: argparse.Namespace) -> machine.MachinePool:
    """Return the machines to use.

    Raises:
        UsageError: there are none, or the configuration cannot be understood
    """
    pool = machine.MachinePool(machine_names(args))
    if not pool.machines and not pool.supplies:
        raise UsageError("no machines: add a section [machines] to the configuration, one "
                         "'name = user@host' a line")
    for mach in pool.machines:
        WORK_DIRS[mach.name] = mach.work_dir
    return pool


class Fleet:
    """The machines of a run, and the logs that tell of them.

    Attributes:
        warnings: what the user should know of what machines get, a line each
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Read the configuration; nothing is started.

        Raises:
            UsageError: flags do not fit together, or there are no machines
        """
        if args.work_in_output:
            raise UsageError('-w builds in the output folder of this machine: not with --dist')
        self.use_local = not args.no_local
        self._heartbeat = heartbeat_interval()
        self._pool = load_machines(args)
        self._machines: List[RemoteMachine] = []
        self._make: Callable[[machine.Machine], RemoteMachine]
        self._supplied = supplied.Supplied((), self._make_supplied)
        self._boss_log: Optional[logs.BossLog] = None
        self._job_log: Optional[logs.JobLog] = None
        self._loop: Optional[Loop] = None
        self._total = 0
        self._boards_done: 'collections.Counter[str]' = collections.Counter()
        self._push: Optional[push.PushPlan] = None
        self._finder: Optional[threading.Thread] = None
        self.warnings: List[str] = []

    @property
    def host(self) -> str:
        """Return the name of this machine, for the results."""
        return socket.gethostname()

    @property
    def speed(self) -> float:
        """Return how fast this machine is, in the unit of `RemoteMachine.speed`."""
        here = survey.processors()
        return machine.speed_of(here['threads'], here['bogomips'])

    @staticmethod
    def environment(inputs: Collection[str]) -> Dict[str, str]:
        """Return what builds get of our environment, on this machine and all others."""
        return build_environment(inputs)

    def make_workers(self, plan: Plan, tree: ResultTree, source_dir: str,
                     local: Mapping[str, Toolchain], inputs: Collection[str],
                     post: Callable[[events.Event], None], waiting: int) -> List[RemoteMachine]:
        """Return the machines as workers for the loop; those of supplies are asked for.

        Args:
            plan: what to build
            tree: where results go
            source_dir: repository, or folder to build as it is
            local: arch -> compiler of this machine
            inputs: variables that the tree reads
            post: takes events
            waiting: boards that have something to be built

        Raises:
            BuildmanError: the source cannot be read
        """
        needed = sorted({job.board.arch for job in plan.jobs})
        candidates, wanted = machine.compiler_spec(
            needed, {arch: tool.gcc for arch, tool in local.items() if arch in needed})
        hashes = None if plan.commits is None else [commit.hash for commit in plan.commits]
        owner = scripts.new_owner()
        to_push = push.prepare_push(source_dir, hashes, owner.run, exclude=[tree.base_dir])
        env = build_environment(inputs)
        if plan.settings.ccache:
            env.update(ccache.shared_storage({**os.environ, **env}))
        # What a user names goes as it is
        asked = {name for name, _ in bsettings.get_items('worker-env')}
        base = '' if hashes else source_dir
        found = outside.collect(env, set(inputs) - asked, base)
        words = outside.collect_words(
            {word for job in plan.jobs for word in job.make_args}, found, base)
        self.warnings = found.warnings
        shipment = Shipment(
            plan=plan, candidates=candidates, wanted=wanted, local=dict(local),
            tools=_local_tools(), owner=owner,
            push=lambda worker: push.push(
                to_push, worker.name, ssh.transport_for(worker.hostname, worker.name),
                worker.git_dir, worker.have, stall=STALLED_HEARTBEATS * self._heartbeat),
            commits=tuple(to_push.commits), part=to_push.part, env=found.env,
            shown_env={name: env[name] for name in env if found.env[name] != env[name]},
            inputs=inputs, words=words, files=found.files, texts=found.texts,
            log_dir=tree.base_dir, stage_dir=tree.work_dir, heartbeat=self._heartbeat)
        # What runs on machines ends with us, even if we are killed
        STARTED.guard()
        self._make = lambda mach: RemoteMachine(mach, shipment, post)
        self._machines = [self._make(mach) for mach in self._pool.machines
                          if mach.archs is None or not mach.archs.isdisjoint(needed)]
        self._supplied = supplied.Supplied(self._pool.supplies, self._make_supplied)
        self._supplied.first(waiting)
        self._total = len(plan.jobs) * plan.commit_count
        self._push = to_push
        # It is there when the first machine asks for it
        self._finder = threading.Thread(target=_find_out, args=(to_push,), daemon=True,
                                        name='history')
        self._finder.start()
        return self._machines

    def _make_supplied(self, source: supply.Supply) -> RemoteMachine:
        """Return another machine of a supply; it is asked for when it starts"""
        out = self._make(machine.from_supply(source))
        self._machines.append(out)
        return out

    # -- beside the loop ---------------------------------------------------

    def attach(self, loop: Loop, base_dir: str) -> None:
        """Take part in a run: logs, status lines, the end.

        Args:
            loop: asks and is told
            base_dir: folder for the logs

        Raises:
            SetupError: they cannot be written
        """
        self._loop = loop
        try:
            joblog.drop_merged(base_dir)
            self._boss_log = logs.BossLog(os.path.join(base_dir, joblog.EVENTS))
            self._job_log = logs.JobLog(os.path.join(base_dir, joblog.JOBS))
        except OSError as exc:
            raise SetupError(f"cannot write the logs in '{base_dir}': {exc.strerror}") from exc
        self._boss_log.say(f'start: {self._total} builds, machines: '
                           f"{', '.join(mach.name for mach in self._machines)}")
        loop.add_listener(self._log_event)
        loop.add_ticker(self.log_status, float(boss.STATUS_INTERVAL))
        self._supplied.attach(loop)
        loop.set_before_end(self.wind_down)

    def _log_event(self, event: events.Event, fate: str) -> None:
        """Log what happened; called by the loop"""
        log = self._boss_log
        if log is None or self._job_log is None or self._loop is None:
            return
        if isinstance(event, events.Built):
            self._job_log.add(event.outcome, fate, event.attempt
                              or self._loop.ledger.attempt(event.worker,
                                                                 event.outcome.target))
        elif isinstance(event, events.Refused):
            self._job_log.add(event.outcome, '')
            log.say(f'{event.outcome.target}: {event.outcome.stderr}')
        elif isinstance(event, events.WorkerReady):
            log.say(f'[{event.worker}] ready')
        elif isinstance(event, events.WorkerGone):
            log.say(f'[{event.worker}] {event.told}')
        elif isinstance(event, events.Said):
            log.say(f"[{event.worker or 'local'}] {event.text}")
        elif isinstance(event, events.BoardDone):
            self._boards_done[event.worker] += 1
            if event.reason:
                log.say(f'[{event.worker}] {event.target}: {event.reason}')

    def log_status(self) -> None:
        """Write a status line: boards done of those sent, and load, per machine."""
        if self._boss_log and self._loop:
            parts = [f'{mach.name} {self._boards_done[mach.name]}/{mach.boards_sent} boards, '
                     f'{mach.results} results, load {mach.load:.1f}' for mach in self._machines]
            counts = self._loop.counts
            parts += self._supplied.lines()
            self._boss_log.say(f"status: {counts.done}/{counts.total} done; {'; '.join(parts)}")

    def signs(self, name: str) -> Tuple[float, float]:
        """Return the load of a machine, and for how many seconds nothing has come from it."""
        mach = next(mach for mach in self._machines if mach.name == name)
        return mach.load, mach.worker.silence

    def wind_down(self, haste: bool) -> None:
        """Let machines begin nothing more, and end the commands that run on them.

        Args:
            haste: all machines; else those that are being started, while
                everything is built: what runs there has to be ended before
                the machine can be freed
        """
        ending = [mach for mach in self._machines if haste or mach.starting]
        if not ending:
            return
        if not haste:
            # Those that were lost are being freed by such commands
            self._await_freed()
        for mach in ending:
            mach.abandon()
        commands.stop_all()
        deadline = time.monotonic() + ABANDON_TIME
        for mach in ending:
            mach.join(max(0.0, deadline - time.monotonic()))
        commands.resume()

    def _await_freed(self) -> None:
        """Wait, not for long, until nothing of lost machines is left on them"""
        deadline = time.monotonic() + CLEANUP_TIME
        for mach in self._machines:
            mach.cleaned(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End the logs and remove what was made for the push."""
        self._await_freed()
        self.log_status()
        if self._loop and self._boss_log:
            for text in self._loop.aftermath.lines():
                self._boss_log.say(text)
        for log in (self._boss_log, self._job_log):
            if log:
                log.close()
        self._boss_log = self._job_log = None
        if self._push:
            if self._finder:
                self._finder.join(ABANDON_TIME)
            self._push.close()

    def transfer_lines(self) -> List[str]:
        """Return what travelled to and from each machine."""
        return [f'  {mach.name}: {mach.results} results, sent {size(mach.worker.bytes_sent)}, '
                f'received {size(mach.worker.bytes_recv)}'
                + (f'; {mach.cache}' if any(mach.cache) else '') for mach in self._machines]


def _find_out(to_push: push.PushPlan) -> None:
    """Find out what of the history goes along; who asks for it is told what went wrong"""
    with contextlib.suppress(BuildmanError, OSError):
        to_push.find_part()


def _local_tools() -> Callable[[], Mapping[str, str]]:
    """Return a function that tells the versions of the tools here, found out once"""
    lock = threading.Lock()
    cached = functools.lru_cache(maxsize=1)(
        lambda: survey.tool_versions(machine.DECIDING_TOOLS))

    def tools() -> Mapping[str, str]:
        with lock:
            return cached()

    return tools


def build_environment(inputs: Collection[str]) -> Dict[str, str]:
    """Return the part of our environment that goes along with a build, here as well.

    Variables that the tree reads, and those that [worker-env] names (`NAME`, or
    `NAME = value`).
    """
    env = environment.portable_environment(os.environ, inputs)
    for name, value in bsettings.get_items('worker-env'):
        if value:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env


# -- without building ------------------------------------------------------

def show_machines(args: argparse.Namespace, local: Mapping[str, Toolchain],
                  out: TextIO) -> int:
    """Probe all machines and show what they are and have (--mach).

    Returns:
        0 when all can be used, else 1
    """
    pool = load_machines(args)
    gccs = {arch: tool.gcc for arch, tool in local.items()}
    fetcher = fetch_there if args.machines_fetch_arch else None
    pool.probe_all(gccs)
    pool.check_toolchains(sorted(local), fetch=bool(fetcher), local_gcc=gccs, fetcher=fetcher)
    pool.print_summary()
    # In any case, whatever is wrong with the machines
    told = _on_supplies(pool, supply.describe)
    return EXIT_OK if told and all(mach.avail for mach in pool.machines) else 1


def kill_supplied(pool: machine.MachinePool) -> bool:
    """End what is left of supplies in their queues; return whether that was done for all."""
    return _on_supplies(pool, supply.kill)


def _on_supplies(pool: machine.MachinePool, act: Callable[[supply.Supply], str]) -> bool:
    """Do something for each supply and print a line; return whether that was done for all."""
    sources = {source.name: source for source in pool.supplies}
    return _on_all(list(sources), lambda name: (act(sources[name]), True))


def fetch_there(mach: machine.Machine, archs: Sequence[str]) -> None:
    """Install toolchains on a machine (--machines-fetch-arch)"""
    # It brings half of the standard library with it
    url = bsettings.get_value('toolchain-fetch', 'url')
    mach.transport.run(scripts.module_command('agent.fetch', [url, *archs]),
                       FETCH_TIME, doing='fetching toolchains')


def describe_shares(args: argparse.Namespace, selected: Sequence[Board], slots: int,
                    local: Mapping[str, Toolchain]) -> List[str]:
    """Return the lines that say who would get what (-n --dist).

    Machines are probed for this; the shares are what their speeds let expect.
    """
    pool = load_machines(args)
    needed = sorted({board.arch for board in selected})
    gccs = {arch: tool.gcc for arch, tool in local.items() if arch in needed}
    pool.probe_all(gccs)
    pool.check_toolchains(needed, local_gcc=gccs)
    shares: Dict[str, float] = {}
    who: List[Tuple[str, float, Sequence[str]]] = []
    if not args.no_local:
        speed = float(survey.processors()['bogomips'])
        who.append(('local', slots * max(1.0, speed), sorted(local)))
    for mach in pool.machines:
        if mach.avail:
            who.append((mach.name, mach.weight * max(1.0, mach.info.bogomips),
                        sorted(mach.toolchains)))
    nobody: List[str] = []
    for board in selected:
        able = [(name, speed) for name, speed, archs in who if board.arch in archs]
        total = sum(speed for _, speed in able)
        if not able and not pool.supplies:
            nobody.append(board.target)
        for name, speed in able:
            shares[name] = shares.get(name, 0.0) + speed / total
    lines = ['Machines, and about how many boards each would get:']
    lines += [f'   {source.name}: up to {source.count} machines are asked for'
              for source in pool.supplies]
    for name, _, archs in who:
        lines.append(f"   {name}: {shares.get(name, 0.0):.1f} boards ({' '.join(archs) or 'none'})")
    for mach in pool.machines:
        if not mach.avail:
            lines.append(f'   {mach.name}: not used: {mach.reason}')
    if nobody:
        lines.append(f"Nobody can build: {' '.join(nobody)}")
    return lines


def kill_workers(machines: Sequence[str]) -> int:
    """Stop all workers, left over or not, and free their locks, on all hosts at once.

    Prints one line a host, also for one that fails.

    Args:
        machines: host names

    Returns:
        0; who has to know whether it was done everywhere calls kill_all()
    """
    kill_all(machines)
    return 0


def kill_all(machines: Sequence[str]) -> bool:
    """Do what kill_workers() does; return whether that was done on all hosts."""
    def kill(hostname: str) -> Tuple[str, bool]:
        text = boss._run_ssh(hostname, scripts.kill_script(_work_dir_of(hostname)),
                             boss.COMMAND_TIME)
        return _last_line(text), True

    return _on_all(machines, kill)


def clean_workers(machines: Sequence[str]) -> int:
    """Remove the work folder on all hosts at once, where nobody uses it.

    Prints one line a host.

    Args:
        machines: host names

    Returns:
        0 when that was done on all of them, else 1
    """
    def clean(hostname: str) -> Tuple[str, bool]:
        text = boss._run_ssh(hostname, scripts.clean_script(_work_dir_of(hostname)), CLEAN_TIME)
        answer = scripts.parse_init(text)
        if answer.busy:
            return f'in use by {answer.owner}' if answer.owner else 'in use', False
        return _last_line(text), True

    return 0 if _on_all(machines, clean) else 1


def _last_line(text: str) -> str:
    """Return the last line that a host printed"""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else 'done'


def _work_dir_of(hostname: str) -> str:
    """Return the work folder of a host"""
    return WORK_DIRS.get(hostname, scripts.DEFAULT_WORK_DIR)


def _on_all(machines: Sequence[str], act: Callable[[str], Tuple[str, bool]]) -> bool:
    """Do something on all hosts in parallel, and print a line for each"""
    answers: Dict[int, Tuple[str, bool]] = {}

    def run(pos: int) -> None:
        try:
            answers[pos] = act(machines[pos])
        except Exception as exc:
            answers[pos] = reason(exc), False

    threads = on_all(range(len(machines)), run)
    for pos, (thread, hostname) in enumerate(zip(threads, machines)):
        thread.join()
        print(f'{hostname}: {answers.get(pos, ("failed", False))[0]}', flush=True)
    return all(answers.get(i, ('', False))[1] for i in range(len(machines)))
