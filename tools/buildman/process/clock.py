# SPDX-License-Identifier: GPL-2.0+
"""Whether time stamps can be trusted: make goes by nothing else.

An object that is said to be newer than now was made when the clock was ahead, or on
another machine. It stays newer than what is changed from now on, so make would
take it for up to date; and what is made of a source that is newer than now is never
up to date.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
import time
from typing import Callable, List

from buildman.process import commands

# Seconds for find in one folder
FIND_TIME = 600

# Nanoseconds; nobody sets a clock back by less
_STEP = 1_000_000


def newer_than_now(folder: str, first: bool = False) -> List[str]:
    """Return the files in a folder that are newer than now, as paths.

    Now is what the file system says, which may be on another machine. Links count by
    themselves. Nobody may write there meanwhile.

    Args:
        folder: looked at with all that is in it; one that is not there has none
        first: one of them is enough

    Raises:
        OSError: it cannot be found out
    """
    if not os.path.isdir(folder):
        return []
    with tempfile.NamedTemporaryFile(dir=folder, prefix='.now-') as now:
        # In a process of its own, as slots do this all at once
        try:
            done = commands.run(['find', folder, '!', '-type', 'd', '-newer', now.name, '-print0',
                                 *(['-quit'] if first else [])], FIND_TIME, max_output=math.inf)
        except subprocess.TimeoutExpired as exc:
            raise OSError(f'find did not end within {FIND_TIME} s in {folder}') from exc
    if done.returncode:
        raise OSError(f'find cannot look at all of {folder}: {done.stderr.strip()[:300]}')
    return [os.fsdecode(name) for name in done.out.split(b'\0') if name]


def outdate(folder: str) -> None:
    """Have make take nothing in a folder for up to date, if any of it is newer than now.

    For a folder that is not ours to empty.

    Raises:
        OSError: it cannot be looked at or changed
    """
    if newer_than_now(folder, first=True):
        for top, _, names in os.walk(folder):
            for name in names:
                os.utime(os.path.join(top, name), (0, 0), follow_symlinks=False)


def _steady() -> int:
    """Return nanoseconds since some time, with those in which the computer slept"""
    return time.clock_gettime_ns(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


class Clock:
    """Tells whether the time of day was set back."""

    def __init__(self, now: Callable[[], int] = time.time_ns,
                 steady: Callable[[], int] = _steady) -> None:
        """Set up.

        Args:
            now: tells the time of day, in nanoseconds
            steady: tells nanoseconds that nobody can set
        """
        self._now = now
        self._steady = steady
        self._last = 0
        self.went_back()

    def went_back(self) -> bool:
        """Return whether that happened since it was asked last, or since this was made."""
        before = self._steady()
        now = self._now()
        # This may have had to wait in between
        last, self._last = self._last, now - self._steady()
        return now - before < last - _STEP
