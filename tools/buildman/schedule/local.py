# SPDX-License-Identifier: GPL-2.0+
"""What the loop asks of everything that builds, and this machine as such a worker."""

from __future__ import annotations

from typing import Optional, Protocol, Sequence

from buildman.build import ccache
from buildman.build.slots import Engine
from buildman.core.plan import BoardJob


class Worker(Protocol):
    """Anything that carries out boards: this machine or another one.

    Attributes:
        name: '' for this machine
        slots: how many boards it builds at once; 0 as long as it is not ready,
            which WorkerReady ends
        archs: what it can build, None for everything
        speed: how fast it is, in any unit
        ahead: boards that it may have in hand beyond its slots, so that none of
            them waits for the next one
        tells_done: it says when it is through with a board
    """

    name: str
    slots: int
    archs: Optional[Sequence[str]]
    speed: float
    ahead: int

    @property
    def tells_done(self) -> bool:
        """See above; known when it is ready."""

    def start(self) -> None:
        """Begin to get ready; events tell when it is."""

    def submit(self, job: BoardJob) -> None:
        """Build a board."""

    def cancel(self, target: str) -> None:
        """Drop a board."""

    def finish(self) -> None:
        """There is nothing more to do: end in peace."""

    def stop(self) -> None:
        """End everything now, in a few seconds at most."""


class LocalWorker:
    """This machine as a worker: an engine in the same process."""

    ahead = 1
    tells_done = True

    def __init__(self, engine: Engine, archs: Optional[Sequence[str]] = None,
                 speed: float = 1.0) -> None:
        """Wrap an engine.

        Args:
            engine: posts to the queue of the loop
            archs: what this machine has compilers for, None for everything
            speed: how fast this machine is, in any unit
        """
        self.name = ''
        self.slots = engine.slots
        self.archs = archs
        self.speed = speed
        self._engine = engine

    def start(self) -> None:
        """Start the slots."""
        self._engine.start()

    def submit(self, job: BoardJob) -> None:
        """Build a board."""
        self._engine.submit(job)

    def cancel(self, target: str) -> None:
        """Drop a board."""
        self._engine.cancel(target)

    def cache_use(self) -> Optional[ccache.Use]:
        """Return what ccache did here; None when it was not asked, or does not tell."""
        return self._engine.cache_use()

    def finish(self) -> None:
        """Let the slots end."""
        self._engine.finish()
        self._engine.join(10)

    def stop(self) -> None:
        """End all builds."""
        self._engine.stop()
