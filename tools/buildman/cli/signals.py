# SPDX-License-Identifier: GPL-2.0+
"""Ctrl-C, SIGTERM and SIGHUP: raised as KeyboardInterrupt in the main thread, once.

Cleaning up takes some seconds, and further signals do not cut it short. But they
always end the command: one that comes although the first was lost is raised anew; and
END_TIME after the second one whatever still runs is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Callable, NoReturn, Optional

from buildman.core.errors import EXIT_INTERRUPTED

# Signals that end a run in an orderly way
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Seconds that the main thread gets to notice a signal, until it is sent again
PATIENCE = 0.05

# Seconds that cleaning up may take after somebody asked a second time
END_TIME = 10.0


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: ends everything just as Ctrl-C does"""


# Set when a signal has been dealt with
_noticed = threading.Event()
_watching = False
_insisted = False
# The number of the signal that was raised, 0 for none
_came = 0


def status_of(exc: KeyboardInterrupt) -> int:
    """Return the exit status of a command that a signal has ended."""
    return 128 + signal.SIGTERM if isinstance(exc, Terminated) else EXIT_INTERRUPTED


def came() -> Optional[KeyboardInterrupt]:
    """Return what was raised for a signal since install(), None when there was none."""
    if not _came:
        return None
    return KeyboardInterrupt() if _came == signal.SIGINT else Terminated()


def _status(num: int) -> int:
    """Return the exit status for a signal"""
    return status_of(KeyboardInterrupt() if num == signal.SIGINT else Terminated())


def _handle(handler: Callable[[int, Optional[FrameType]], None]) -> None:
    """Have all these signals handled, where they are not ignored"""
    for num in SIGNALS:
        if signal.getsignal(num) != signal.SIG_IGN:
            signal.signal(num, handler)


def leave_quietly() -> None:
    """Have these signals end the process at once and without a word.

    Before install(), and after everything was done.
    """
    _handle(lambda num, frame: os._exit(_status(num)))


def _on_signal(num: int, _frame: Optional[FrameType]) -> None:
    global _insisted, _came
    if not _noticed.is_set():
        _noticed.set()
        _came = num
        raise KeyboardInterrupt if num == signal.SIGINT else Terminated
    # A second one must not cut the cleaning up short
    if not _insisted:
        _insisted = True
        timer = threading.Timer(END_TIME, _end_now, (num,))
        timer.daemon = True
        timer.start()


def _end_now(num: int) -> NoReturn:
    """End at once: cleaning up hangs"""
    registry = sys.modules.get('buildman.process.registry')
    if registry:
        registry.STARTED.end_all(ask=0.0, term=0.0)
    os._exit(_status(num))


def _on_lost(what: 'sys.UnraisableHookArgs') -> None:
    """Raise a signal again that came where Python drops exceptions: in a destructor, say"""
    if issubclass(what.exc_type, KeyboardInterrupt):
        _noticed.clear()
        num = signal.SIGTERM if issubclass(what.exc_type, Terminated) else signal.SIGINT
        # Not in here, where it would be lost as well
        timer = threading.Timer(PATIENCE, signal.pthread_kill,
                                (threading.main_thread().ident, num))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(what)


def install() -> None:
    """Have these signals raise KeyboardInterrupt or Terminated, where they are not ignored."""
    global _insisted, _came
    _noticed.clear()
    _insisted, _came = False, 0
    sys.unraisablehook = _on_lost
    _handle(_on_signal)


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
