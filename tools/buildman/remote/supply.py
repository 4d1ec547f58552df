# SPDX-License-Identifier: GPL-2.0+
"""Machines that are asked for, come when there are some, and are given back.

A supply is a command, salloc for instance, that is run once for each machine. It prints
one line when the machine is there: what runs a shell command on it, which is added as
its last word. The machine is ours as long as the command runs; it ends when its input
does, and that is when the machine is given back, or when we are no more.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import shlex
import subprocess
import threading
import time
from typing import Callable, Dict, FrozenSet, List, Mapping, Optional

from buildman import bsettings
from buildman.core.errors import BuildmanError, UsageError
from buildman.process.registry import Account, has_ended
from buildman.remote import slurm
from buildman.wire import fields
from buildman.wire.channel import Reader

# Seconds without work after which a machine is given back
IDLE = 60.0

# Seconds for each step of ending what holds a machine: ask, terminate, kill
END_TIME = 5.0

# Machines in a row that did not get ready, after which no more are asked for; and the
# seconds before the next is, the longer the more
MAX_FAILURES = 5
DELAYS = (0.0, 1.0, 4.0, 15.0, 60.0)

# Seconds in which the engine tells that it has taken a machine away; and how, if what
# holds it does not end by that
TAKEN_TIME = 1.0
_TAKEN = re.compile('revoked|time limit|preempt', re.I)

# What an engine says before its words
_SPEAKER = re.compile(r'^\w+: (?:error: )?')


class SupplyError(BuildmanError):
    """A machine did not come; the message is what the engine said."""


class Source:
    """Whether the source has come to the first machine of a supply."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.there = threading.Event()


class Lease:
    """One machine that was asked for.

    Attributes:
        name: of the machine
        since: when it was (time.time())
        said: what the engine said last
    """

    def __init__(self, argv: List[str], name: str, delay: float = 0.0,
                 source: Optional['Source'] = None) -> None:
        """Set up; nothing is asked.

        Args:
            argv: the command, see above
            name: of the machine
            delay: seconds until it is asked for
            source: what it shares with the other machines of its supply
        """
        self.since = time.time()
        self.said = ''
        self._argv = argv
        self.name = name
        self._delay = delay
        self._account = Account()
        self._proc: Optional['subprocess.Popen[bytes]'] = None
        self._lock = threading.Lock()
        self._told = threading.Event()
        self._ended = threading.Event()
        self._source = source or Source()
        self._way = ''
        self._readers: List[Reader] = []

    def wait(self) -> str:
        """Ask for the machine, and return what runs a shell command on it.

        Raises:
            SupplyError: there is none, or it was given back
        """
        if self._ended.wait(self._delay):
            raise SupplyError('not wanted any more')
        try:
            with self._lock:
                if not self._ended.is_set():
                    # What it says when we are no more must not end it (SIGPIPE)
                    self._proc = self._account.start(
                        self._argv, patient=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE, bufsize=0, restore_signals=False,
                        env={**os.environ, 'BUILDMAN_MACHINE': self.name})
        except OSError as exc:
            raise SupplyError(f'{self._argv[0]} cannot be run: {exc.strerror}') from exc
        proc = self._proc
        if proc is None:
            raise SupplyError('not wanted any more')
        errors = Reader(proc.stderr, self._hear, name=f'{self.name} engine')
        self._readers = [errors, Reader(proc.stdout, self._take, name=f'{self.name} supply',
                                        on_end=lambda why: self._told.set())]
        for reader in self._readers:
            reader.start()
        self._told.wait()
        if not self._way:
            if not self._ended.is_set():
                errors.wait_end(1.0)
            raise SupplyError('not wanted any more' if self._ended.is_set() else
                              self.said or 'what was to supply it has ended')
        return self._way

    def _hear(self, line: bytes) -> None:
        """Take note of what the engine says"""
        text = fields.harmless(line).strip()
        if text:
            self.said = _SPEAKER.sub('', text)[:300]

    def _take(self, line: bytes) -> None:
        """Take the line that says how to run a command; what else there is says nothing"""
        if not self._told.is_set():
            self._way = fields.harmless(line).strip()
            if self._way:
                self._told.set()

    def is_held(self) -> bool:
        """Return whether the machine has come."""
        return bool(self._way)

    def is_taken(self) -> bool:
        """Return whether the engine has taken the machine away; waits a moment for its word."""
        end = time.monotonic() + TAKEN_TIME
        while time.monotonic() < end and self.is_held():
            proc = self._proc
            if _TAKEN.search(self.said) or (proc and has_ended(proc.pid)):
                return True
            time.sleep(0.05)
        return False

    def is_first(self) -> bool:
        """Wait until the source has come to another machine; return True if this is the first."""
        if self._source.turn.acquire(blocking=False):
            return True
        while not self._source.there.wait(0.2) and not self._ended.is_set():
            pass
        return False

    def pushed(self) -> None:
        """Tell the others that the source has come here, or that it does not."""
        self._source.there.set()

    def withdraw(self) -> None:
        """Wait no longer for a machine that has not come yet."""
        if not self.is_held():
            self.give_back()

    def give_back(self) -> None:
        """Have the machine no more; returns when the engine knows, may be called twice."""
        with self._lock:
            self._ended.set()
            proc, self._proc = self._proc, None
        if proc is not None:
            self._account.finish(proc.pid, END_TIME)
            self._told.set()
            for reader in self._readers:
                reader.close()
            for stream in (proc.stdout, proc.stderr):
                if stream:
                    stream.close()


@dataclasses.dataclass
class Supply:
    """Where machines come from; pure, but for ask().

    Attributes:
        name: in [machines]; the machines are NAME-1, NAME-2, …
        engine: 'slurm', or a command
        count: machines at a time
        idle: seconds without work after which one is given back
        resources, options: for the engine
        archs: what its machines have compilers for; None: not known yet
        failures: machines in a row that did not get ready
    """

    name: str
    engine: str
    count: int = 1
    idle: float = IDLE
    resources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: str = ''
    archs: Optional[FrozenSet[str]] = None
    failures: int = 0
    _number: int = 0
    _source: Source = dataclasses.field(default_factory=Source)

    @property
    def job(self) -> str:
        """What the jobs are called that hold its machines: so begins the name, only ours do."""
        return f'buildman-{getpass.getuser()}-{self.name}-'

    def next_lease(self) -> Lease:
        """Return a machine to be asked for, of a name that no other had in this run."""
        self._number += 1
        name = f'{self.name}-{self._number}'
        argv = (slurm.ask(f'{self.job}{self._number}', self.resources, shlex.split(self.options))
                if self.engine == 'slurm' else ['sh', '-c', self.engine])
        return Lease(argv, name, DELAYS[min(self.failures, len(DELAYS) - 1)], self._source)

    def wants(self, waiting: int, held: int, coming: int) -> int:
        """Return how many more machines are to be asked for.

        Args:
            waiting: boards that nobody has and that its machines can build
            held: machines that are there, at work or idle
            coming: those that were asked for and cannot take boards yet
        """
        if self.failures >= MAX_FAILURES:
            return 0
        return max(0, min(self.count - held - coming, waiting - coming))


class Idle:
    """Since when machines have had nothing to do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: Dict[str, float] = {}

    def seconds(self, name: str, has_work: bool) -> float:
        """Return for how long a machine has had nothing to do, as of now."""
        if has_work:
            self._since.pop(name, None)
            return 0.0
        return self._clock() - self._since.setdefault(name, self._clock())


def from_config(name: str) -> Optional[Supply]:
    """Return the supply of a name in [machines], None when it is a machine.

    Raises:
        UsageError: its section cannot be understood
    """
    section = f'machine:{name}'
    engine = bsettings.get_value(section, 'supply')
    if not engine:
        for key in ('count', 'idle', *slurm.RESOURCES, 'options'):
            if bsettings.get_value(section, key):
                raise UsageError(f"[{section}] {key} means something with 'supply' only")
        return None
    out = Supply(name, engine, bsettings.get_int(section, 'count', 1),
                 options=bsettings.get_value(section, 'options'),
                 resources={key: bsettings.get_value(section, key) for key in slurm.RESOURCES
                            if bsettings.get_value(section, key)})
    try:
        out.idle = float(bsettings.get_value(section, 'idle') or IDLE)
        shlex.split(out.options)
    except ValueError as exc:
        raise UsageError(f'[{section}] {exc}') from exc
    if out.count < 1 or not out.idle >= 0:
        raise UsageError(f'[{section}] count has to be 1 at least, and idle 0 seconds')
    if engine != 'slurm' and (out.options or out.resources):
        raise UsageError(f'[{section}] {", ".join(slurm.RESOURCES)} and options are for '
                         'supply = slurm; a command has words of its own')
    return out


def describe(supply: Supply) -> str:
    """Return what could be had, what is held and what the engine says, in one line.

    Raises:
        BuildmanError: it does not answer
    """
    text = f'supply of up to {supply.count} machines'
    if supply.engine != 'slurm':
        return f'{text}: {supply.engine}'
    mine = slurm.jobs(getpass.getuser(), supply.job)
    return (f"{text}: slurm; {slurm.state(supply.resources.get('partition', ''))}; ours: "
            + (', '.join(f'{number} {state.lower()} {where}' for number, _, state, where in mine)
               or 'none'))


def kill(supply: Supply) -> str:
    """End what is left of a supply in its queue; return what was done.

    Raises:
        BuildmanError: that cannot be done
    """
    if supply.engine != 'slurm':
        return 'nothing to be ended: its command ends with its input'
    numbers = [job[0] for job in slurm.jobs(getpass.getuser(), supply.job)]
    slurm.cancel(numbers)
    return f"cancelled {' '.join(numbers)}" if numbers else 'no job in the queue'
