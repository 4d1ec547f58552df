# SPDX-License-Identifier: GPL-2.0+
"""Tells whether anything wrote to the sources of slots, without looking at each file.

Builds go into a folder of their own; one that writes to its source would change
the next result, and that of other slots where they share files. To look at
20,000 files after each build costs more than the rest of what is done for it. So
the kernel is asked to tell (inotify(7)), on Linux: an event is there before the
write that it tells of has returned. Where that cannot be had (another system, a
file system that does not tell, too many folders), `Watches.watch()` returns None,
and the files are looked at.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from typing import Any, Dict, Iterable, Iterator, Optional, Set

# What changes a file in a folder, or which files it has (sys/inotify.h)
_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
CHANGES = (_MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE)

# Only folders, and no links to them
_ONLYDIR, _DONT_FOLLOW = 0x01000000, 0x02000000

# A folder is not watched any more, as it is gone
_IGNORED = 0x8000

# Number of the watch, mask, cookie, length of the name that follows
_EVENT = struct.Struct('iIII')

# How many folders a user may have watched: we take half of that, and never more
# than MOST, as each costs the kernel about a kilobyte
LIMIT_FILE = '/proc/sys/fs/inotify/max_user_watches'
MOST = 1 << 18

# A file that is made and removed to see whether the kernel tells
_PROBE = '.buildman-probe'


def load_libc() -> Any:
    """Return the C library.

    Raises:
        ImportError, OSError, AttributeError: it has not what is needed
    """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    libc.inotify_init1.argtypes = [ctypes.c_int]
    libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
    libc.inotify_rm_watch.argtypes = [ctypes.c_int, ctypes.c_int]
    return libc


def most_watches() -> int:
    """Return how many folders we may have watched"""
    try:
        with open(LIMIT_FILE, encoding='ascii') as inf:
            return min(MOST, int(inf.read()) // 2)
    except (OSError, ValueError):
        return MOST


class Watches:
    """What is watched for all slots of a run; safe to use from all their threads.

    A write to the source of a slot, whatever it came from, is an alarm, unless
    the slot itself has said that it is about to write (`Watch.moving()`). When one
    slot cannot be watched, no other one is quiet any more: they may share files.

    Attributes:
        most: how many folders may be watched
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: Dict[int, Watch] = {}
        # What of the top folder of a slot is none of its source
        self._others: Dict[int, bytes] = {}
        self._moving: Set[Watch] = set()
        self._alarms = 0
        self._blind = False
        self.most = most_watches()
        self._fd = -1
        with contextlib.suppress(ImportError, OSError, AttributeError):
            self._libc = load_libc()
            self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """End all watches."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._owners.clear()

    def watch(self, top: str, folders: Iterable[str], other: str) -> Optional['Watch']:
        """Begin to watch the source of a slot.

        Args:
            top: its folder
            folders: those in it that have files of the source, relative to it
            other: name of something in the top folder that is none of the source

        Returns:
            None when that cannot be
        """
        watch = Watch(self, top)
        number = self.add(watch, top)
        if number >= 0:
            with self._lock:
                self._others[number] = os.fsencode(other)
        if number < 0 or not watch.extend(folders):
            watch.close()
            return None
        with self.moving(watch), contextlib.suppress(OSError):
            path = os.path.join(top, _PROBE)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            os.unlink(path)
        if not watch.told:
            # This file system does not tell
            watch.close()
            return None
        return watch

    def add(self, watch: 'Watch', folder: str) -> int:
        """Watch a folder, which may be watched already.

        Returns:
            the number of the watch, below 0 when it cannot be
        """
        with self._lock:
            if self._fd < 0 or len(self._owners) >= self.most:
                return -1
            number = int(self._libc.inotify_add_watch(
                self._fd, os.fsencode(folder), CHANGES | _ONLYDIR | _DONT_FOLLOW))
            if number >= 0:
                self._owners[number] = watch
            return number

    def give_up(self) -> None:
        """Note that there is a slot which is not watched."""
        self._blind = True

    def remove(self, watch: 'Watch') -> None:
        """End the watches of a slot that goes on without."""
        self.give_up()
        with self._lock:
            for number in [num for num, owner in self._owners.items() if owner is watch]:
                del self._owners[number]
                self._others.pop(number, None)
                if self._fd >= 0:
                    self._libc.inotify_rm_watch(self._fd, number)

    def alarms(self) -> int:
        """Return how many alarms there were until now."""
        with self._lock:
            self._read()
            return self._alarms

    @contextlib.contextmanager
    def moving(self, watch: 'Watch') -> Iterator[None]:
        """Take what is written to the source of a slot meanwhile for no alarm."""
        with self._lock:
            self._read()
            self._moving.add(watch)
        try:
            yield
        finally:
            with self._lock:
                self._read()
                self._moving.discard(watch)

    def _read(self) -> None:
        """Take what the kernel has told; called with the lock"""
        if self._fd < 0 or self._blind:
            # Not all is told: it is never quiet
            self._alarms += 1
        while self._fd >= 0:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                # Nothing is known any more
                self._alarms += 1
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Count the alarms among some events"""
        pos = 0
        while pos + _EVENT.size <= len(data):
            number, mask, _, size = _EVENT.unpack_from(data, pos)
            pos += _EVENT.size + size
            name = data[pos - size:pos].rstrip(b'\0')
            owner = self._owners.get(number)
            if number < 0:
                # Some were lost
                self._alarms += 1
            elif mask & _IGNORED:
                self._owners.pop(number, None)
            elif owner and (not name or self._others.get(number) != name):
                owner.told = True
                self._alarms += owner not in self._moving


class Watch:
    """What is watched for one slot; made by Watches.watch().

    Attributes:
        told: the kernel has told of something at least once
    """

    def __init__(self, watches: Watches, top: str) -> None:
        self._watches = watches
        self._top = top
        self._settled = -1
        self.told = False

    def alarms(self) -> int:
        """Return how many alarms there were until now, for any slot."""
        return self._watches.alarms()

    def settle(self, alarms: int) -> None:
        """Note that the source is as it should be.

        Args:
            alarms: how many there were before it was looked at
        """
        self._settled = alarms

    def is_quiet(self) -> bool:
        """Return whether nothing wrote to any source since it was known to be good.

        To that of another slot neither, since files may be shared.
        """
        return self._settled == self._watches.alarms()

    def moving(self) -> 'contextlib.AbstractContextManager[None]':
        """Have writes to this source be no alarm meanwhile: they are our own."""
        return self._watches.moving(self)

    def extend(self, folders: Iterable[str]) -> bool:
        """Watch more folders, relative to the top one.

        Returns:
            False when that cannot be: close this one
        """
        return all(self._watches.add(self, os.path.join(self._top, folder)) >= 0
                   for folder in folders)

    def close(self) -> None:
        """Watch no more."""
        self._watches.remove(self)
