# SPDX-License-Identifier: GPL-2.0+
"""Ctrl-C, SIGTERM and SIGHUP: raised as KeyboardInterrupt in the main thread, once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import NoReturn, Optional

# Signals that end a run in an orderly way
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Seconds that the main thread gets to notice a signal, until it is sent again
PATIENCE = 0.05


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: ends everything just as Ctrl-C does"""


# Set when a signal has been dealt with
_noticed = threading.Event()
_watching = False


def _on_signal(num: int, _frame: Optional[FrameType]) -> NoReturn:
    # A second one must not cut the cleaning up short, which takes two seconds
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    _noticed.set()
    raise KeyboardInterrupt if num == signal.SIGINT else Terminated


def install() -> None:
    """Have these signals raise KeyboardInterrupt or Terminated, where they are not ignored."""
    for num in SIGNALS:
        if signal.getsignal(num) != signal.SIG_IGN:
            signal.signal(num, _on_signal)


def watch() -> None:
    """See to it that a signal is noticed although the main thread waits for others.

    Python looks whether a signal came, then begins to wait for a lock. One that
    comes between the two does not end the wait, which may last for ever. So it
    also wakes a thread, which sends it again as long as it has not been noticed.

    To be called by a command that starts threads and waits for them; not before it
    has forked for the last time.
    """
    global _watching
    if _watching or threading.current_thread() is not threading.main_thread():
        return
    _watching = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The system's handler writes the signal's number, whatever Python is at
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_send_again, args=(reader, threading.get_ident()), daemon=True,
                     name='signals').start()


def _send_again(reader: int, main: int) -> None:
    """Send each signal again until it is noticed"""
    while True:
        data = os.read(reader, 1)
        if not data:
            return
        while data[0] in SIGNALS and not _noticed.wait(PATIENCE):
            signal.pthread_kill(main, data[0])
