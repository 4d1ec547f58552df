# SPDX-License-Identifier: GPL-2.0+
"""Where the messages of one worker wait for whoever asks for them."""

from __future__ import annotations

import queue
import threading
from typing import Callable, List, Optional

from buildman.process import awake
from buildman.wire.messages import Message

# Takes a message, or None at the end of the connection
Sink = Callable[[Optional[Message]], None]


class Inbox:
    """Messages from a reader's thread, one at a time or as they come.

    With a sink each message goes to it, in the reader's thread. Without one the
    reader is let go on only while somebody waits in get(): a worker that talks
    when nobody listens fills its pipe and not our memory.
    """

    def __init__(self) -> None:
        self._cond = threading.Condition()
        self._waiting: List[Message] = []
        self._asking = 0
        self._sink: Optional[Sink] = None
        self._ended = False
        self._closed = False

    def put(self, msg: Message) -> None:
        """Hand over a message; called by the reader's thread, which may be held up."""
        with self._cond:
            sink = self._sink
            if sink is None:
                if self._closed:
                    return
                self._waiting.append(msg)
                self._cond.notify_all()
                self._cond.wait_for(lambda: self._closed or self._sink is not None or (
                    bool(self._asking) and not self._waiting))
        if sink is not None:
            sink(msg)

    def end(self) -> None:
        """Tell that nothing more comes; called by the reader's thread."""
        with self._cond:
            self._ended = True
            self._cond.notify_all()
            sink = self._sink
        if sink is not None:
            sink(None)

    def get(self, timeout: float) -> Optional[Message]:
        """Wait for the next message.

        Args:
            timeout: seconds, in which this process is awake

        Returns:
            the message; None when there is none left and the connection ended

        Raises:
            queue.Empty: none came in time
        """
        with self._cond:
            self._asking += 1
            self._cond.notify_all()
            try:
                end = awake.now() + timeout
                left = timeout
                while left > 0 and not (self._waiting or self._ended or self._closed):
                    self._cond.wait(min(left, awake.TICK))
                    left = end - awake.now()
            finally:
                self._asking -= 1
            if self._waiting:
                return self._waiting.pop(0)
            if self._ended or self._closed:
                return None
            raise queue.Empty

    def divert(self, sink: Optional[Sink]) -> None:
        """Have all messages go to a function from now on; None: to get() again.

        What waits goes there first, and the end of the connection if that has
        come.
        """
        with self._cond:
            self._sink = sink
            if sink is None:
                return
            # Within the lock, so that none overtakes these
            while self._waiting:
                sink(self._waiting.pop(0))
            if self._ended:
                sink(None)
            self._cond.notify_all()

    def close(self) -> None:
        """Let go of everybody who waits; messages are dropped from now on."""
        with self._cond:
            self._closed = True
            self._cond.notify_all()
