# SPDX-License-Identifier: GPL-2.0+
"""What those that build have told the loop, and it has not dealt with yet.

Many machines may send results sooner than they are written. What is in the pipes to
them costs nothing here; what was read costs memory. So while there is much, whoever
has a result waits with it, and does not read on. Not for ever: a machine that is not
read from for long seems dead, and whoever deals with what is in here may be waiting
for one of those that wait.
"""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING

from buildman.core.events import Built, Event

# So many events are much: results of U-Boot have some 100 KB each
MUCH = 200

# Seconds that one result waits at most
PATIENCE = 1.0

# Only the checker of types knows what is in it, before Python 3.9.2
if TYPE_CHECKING:
    _Queue = queue.Queue[Event]
else:
    _Queue = queue.Queue


class Inbox(_Queue):
    """The events, in the order in which they came; safe to use from all threads."""

    def __init__(self, much: int = MUCH, patience: float = PATIENCE) -> None:
        """Set up.

        Args:
            much: how many events make a result wait
            patience: seconds that it waits at most
        """
        super().__init__()
        self._much = much
        self._patience = patience
        self._room = threading.Condition(self.mutex)

    def post(self, event: Event) -> None:
        """Put an event in; a result when there is room."""
        if isinstance(event, Built):
            with self._room:
                self._room.wait_for(lambda: self._qsize() < self._much, self._patience)
        self.put(event)

    def _get(self) -> Event:
        """Take the first event out; the lock is held"""
        event = super()._get()
        self._room.notify()
        return event

    def hurry(self) -> None:
        """Let nobody wait any more: the loop has ended."""
        with self._room:
            self._much = sys.maxsize
            self._room.notify_all()
