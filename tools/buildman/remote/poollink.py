# SPDX-License-Identifier: GPL-2.0+
"""What a build over several workers knows of each of them, and its log."""

from __future__ import annotations

import time
from typing import Any, FrozenSet, Mapping, Optional, Sequence, Set, TextIO

from buildman import boss
from buildman.wire import fields

# Heartbeats that may fail to come before a worker counts as lost
MISSED_HEARTBEATS = 3

# Characters of a value that are logged
MAX_LOGGED = 500

# The architecture that any machine can build for
SANDBOX = 'sandbox'


class PoolLog:
    """A log file of lines with the time of day."""

    def __init__(self, path: str, new: bool) -> None:
        self._file: TextIO = open(  # noqa: SIM115
            path, 'w' if new else 'a', encoding='utf-8', errors='replace', buffering=1)

    def write(self, text: str) -> None:
        """Write a line."""
        plain = fields.harmless(text, 100_000).replace('\n', ' ')
        if not self._file.closed:
            self._file.write(f"{time.strftime('%H:%M:%S')} {plain}\n")

    def close(self) -> None:
        """Write nothing any more."""
        self._file.close()


def short(value: Any) -> Any:
    """Return a value of a message in a form that is fit for a log"""
    if isinstance(value, bytes):
        return f'({len(value)} bytes)'
    if isinstance(value, str) and len(value) > MAX_LOGGED:
        return f'{value[:MAX_LOGGED]}… ({len(value)} characters)'
    if isinstance(value, Mapping):
        return {str(key): short(val) for key, val in value.items()}
    if isinstance(value, (list, tuple)):
        return [short(val) for val in value]
    return value


class Link:
    """One worker during a build."""

    def __init__(self, worker: Any, key: str, log: PoolLog) -> None:
        self.worker = worker
        self.key = key
        self.log = log
        told = getattr(worker, 'toolchains', None)
        self.archs: Optional[FrozenSet[str]] = (
            frozenset([*told, SANDBOX]) if isinstance(told, (Mapping, Sequence, Set)) else None)
        self.prepared = False
        self.gone = False
        self.answered = False
        self.told_done = False
        self.sent = 0
        self.done = 0
        self.load = 0.0
        self.infra = 0
        self.last_heard = self.last_result = time.monotonic()

    @property
    def real(self) -> bool:
        """Whether it is a RemoteWorker, which posts by itself"""
        return boss.receives_by_itself(self.worker)

    @property
    def version(self) -> int:
        """Protocol version of the worker, 0 for one that tells none"""
        return int(self.worker.version) if self.real else 0

    @property
    def slots(self) -> int:
        """How many boards it may have in hand"""
        for name in ('max_boards', 'nthreads'):
            value = getattr(self.worker, name, 0)
            if isinstance(value, int) and value > 0:
                return value
        return 1

    def may(self, arch: str) -> bool:
        """Return whether it has a compiler for an architecture"""
        return self.archs is None or arch in self.archs

    def silence(self) -> float:
        """Return for how many seconds nothing came"""
        silence = time.monotonic() - self.last_heard
        return min(silence, self.worker.silence) if self.real else silence

    def limit(self) -> float:
        """Return the silence, in seconds, after which it counts as lost"""
        interval = self.worker.heartbeat_interval if self.real else 0.0
        return MISSED_HEARTBEATS * interval if interval else float(boss.BUILD_TIMEOUT)
