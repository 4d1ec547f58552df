# SPDX-License-Identifier: GPL-2.0+
"""What those that build tell the loop that owns the run.

Every event names the worker that it comes from: '' is this machine. What is told of
a board has the attempt that it is of, see `BoardJob`; 0 from an older worker.
"""

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple, Union

from buildman.core.outcome import Outcome
from buildman.core.plan import BoardJob


@dataclasses.dataclass(frozen=True)
class SlotReady:
    """A slot has its source and can take a board."""

    worker: str
    slot: int


@dataclasses.dataclass(frozen=True)
class Started:
    """A board is being built at a commit from now on."""

    worker: str
    target: str
    commit_upto: int
    attempt: int = 0


@dataclasses.dataclass(frozen=True)
class Built:
    """One board at one commit came out."""

    worker: str
    outcome: Outcome
    attempt: int = 0


@dataclasses.dataclass(frozen=True)
class Refused:
    """Nobody has a compiler for a board: that is its result at one commit."""

    worker: str
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class BoardDone:
    """A worker has nothing more to do for a board.

    Attributes:
        missing: commits that were not built, since the board was cancelled or
            this machine could not go on
        reason: why there are any, '' when the board was cancelled
    """

    worker: str
    target: str
    missing: Tuple[int, ...] = ()
    reason: str = ''
    attempt: int = 0


@dataclasses.dataclass(frozen=True)
class WorkerComing:
    """A machine is getting ready and has told what it is.

    Attributes:
        slots: how many boards it will build at once
        archs: what it can build, None for everything
        speed: how fast it is, in the unit of all workers
    """

    worker: str
    slots: int
    archs: Optional[Tuple[str, ...]]
    speed: float


@dataclasses.dataclass(frozen=True)
class WorkerReady:
    """A machine can take boards now; its Worker tells how many and which."""

    worker: str


@dataclasses.dataclass(frozen=True)
class HandedOut:
    """A worker was given boards, with the commits to be built."""

    worker: str
    jobs: Tuple[BoardJob, ...]


@dataclasses.dataclass(frozen=True)
class Said:
    """Something that a machine, or what runs on it, has to say to people."""

    worker: str
    text: str


@dataclasses.dataclass(frozen=True)
class WorkerGone:
    """A worker cannot take boards any more; what it had is to be given away.

    Attributes:
        reason: why, '' when it was told to end, which is no news
        archs: what it has compilers for, as far as it told before it was ready;
            None when that is not known
        busy: it is at something else, and never took part
        taken: it was taken away from us, so no board that it had is to blame
    """

    worker: str
    reason: str
    archs: Optional[Tuple[str, ...]] = None
    busy: bool = False
    taken: bool = False

    @property
    def told(self) -> str:
        """Return what happened, for people."""
        return f"{'takes no part' if self.busy else 'lost'}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Crashed:
    """A thread met something that nobody thought of; the run cannot be trusted.

    Attributes:
        error: what it met, to be raised where the run is owned
    """

    worker: str
    error: Exception


Event = Union[SlotReady, Started, Built, Refused, BoardDone, WorkerComing, WorkerReady, HandedOut,
              Said, WorkerGone, Crashed]
