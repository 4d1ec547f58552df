# SPDX-License-Identifier: GPL-2.0+
"""One checkout that all new slots of a run are made from.

A checkout of U-Boot takes seconds and hundreds of megabytes. So there is one,
in a folder in which nothing is ever built (the seed), and the others share its
files: as clones where the file system can copy on write, else as hard links.
The last slot takes over the seed itself.

Hard links are for the first population only. What git checks out later are
files of the slot's own, since git removes a file and makes a new one; so make
sees a new time stamp. The seed does not outlive the start of the run: with a
time stamp of an earlier run, a source could look older than an object that a
kept build folder has of another version of it.

A build that writes to a file of its source would change the next result, and that of
other slots. `SlotSource.spoiled()` finds that out before a result counts. To look at
20,000 files after each build costs more than the rest of what is done for it. So
the kernel is asked to tell (inotify(7)), on Linux: an event is there before the
write that it tells of has returned. Where that cannot be had (another system, a
file system that does not tell, too many folders), `Watches.watch()` returns None,
and the files are looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import threading
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from buildman.core.errors import GitError
from buildman.core.files import replace_file

# What a folder of the work area is called while it is no slot yet
SEED_NAME = 'seed.new'
NEW = '.new'

# In the repository of a slot: its files may be those of other slots as well
SHARED_MARK = 'buildman-shared'

# A tree of fewer files than this is copied: sharing it saves less than it takes
# to look after
SHARE_FROM = 500

# Of git's index (gitformat-index(5)): signature, version, number of entries; the versions
# that are known; of an entry, the times of the file, what is before its path (the times,
# numbers, SHA-1, flags), and flags that are more than the length of that; a SHA-1 at the end
_HEAD = struct.Struct('>4sLL')
_KNOWN = (b'DIRC\0\0\0\2', b'DIRC\0\0\0\3')
_CTIME, _MTIME = 8, struct.Struct('>2L')
_FIXED = 62
_ODD = 0xfff
_SUM_SIZE = 20

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


def tree_size(git_dir: str) -> int:
    """Return how many files a repository has checked out, from the head of its index."""
    try:
        with open(os.path.join(git_dir, 'index'), 'rb') as inf:
            magic, _, count = _HEAD.unpack(inf.read(_HEAD.size))
    except (OSError, struct.error):
        return 0
    return int(count) if magic == b'DIRC' else 0


def backdate(path: str, git_dir: str) -> bool:
    """Have files of a new checkout be of the second before that in which it ended.

    Args:
        path: the working tree, in which nothing was written since
        git_dir: its repository

    Returns:
        False when its index is unusual; then nothing was changed

    Raises:
        OSError: a file is not there, or cannot be written
    """
    index = os.path.join(git_dir, 'index')
    second = int(os.stat(index).st_mtime)
    with open(index, 'rb') as inf:
        data = bytearray(inf.read()[:-_SUM_SIZE])
    if data[:8] not in _KNOWN:
        return False
    young: List[Tuple[int, bytes]] = []
    pos = _HEAD.size
    for _ in range(tree_size(git_dir)):
        name = pos + _FIXED
        length = int.from_bytes(data[name - 2:name], 'big')
        if length >= _ODD or name + length >= len(data):
            return False
        if _MTIME.unpack_from(data, pos + _CTIME)[0] >= second:
            young.append((pos + _CTIME, bytes(data[name:name + length])))
        # At least one NUL follows, so that the next one begins at a multiple of eight
        pos += (_FIXED + length + 8) // 8 * 8
    for place, file in young:
        os.utime(os.path.join(os.fsencode(path), file), (second - 1,) * 2, follow_symlinks=False)
        _MTIME.pack_into(data, place, second - 1, 0)
    replace_file(index, bytes(data) + hashlib.sha1(data).digest())
    return True


def remove_leftovers(work_dir: str) -> None:
    """Remove what a run that was killed while it began has left.

    Raises:
        OSError: it cannot be removed
    """
    for entry in list(os.scandir(work_dir)):
        if entry.name.endswith(NEW) and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)


class Seed:
    """Fills the folders of new slots; safe to use from all their threads."""

    def __init__(self, work_dir: str, slots: int, check_out: Callable[[str], object],
                 run: Callable[[Sequence[str]], int], gate: threading.Semaphore) -> None:
        """Set up; nothing is touched.

        Args:
            work_dir: the .bm-work folder
            slots: how many will call fill(), each once
            check_out: makes a repository in a folder, with a commit checked out
            run: runs a command that says nothing, and returns its exit status
            gate: how many may be busy with the disk at a time
        """
        self._path = os.path.join(work_dir, SEED_NAME)
        self._check_out = check_out
        self._run = run
        self._gate = gate
        self._cond = threading.Condition()
        self._left = slots
        self._copying = 0
        self._how: Optional[List[str]] = None
        self._broken = False
        self._stopping = False

    def stop(self) -> None:
        """Begin nothing any more; fill() returns soon, mostly False."""
        self._stopping = True

    def fill(self, path: str) -> bool:
        """Make the folder of a slot, with its repository and the commit of the seed.

        Args:
            path: folder that does not exist

        Returns:
            False when it has to be made in another way
        """
        with self._cond:
            self._left -= 1
            last = self._left == 0
            if not self._made():
                return False
            if last:
                self._cond.wait_for(lambda: not self._copying)
                with contextlib.suppress(OSError):
                    os.rename(self._path, path)
                    return True
                return False
            self._copying += 1
        try:
            with self._gate:
                return not self._stopping and self._copy(path)
        finally:
            with self._cond:
                self._copying -= 1
                self._cond.notify_all()

    def _made(self) -> bool:
        """Make the seed if it is not there; called with the lock, so the others wait.

        Returns:
            whether it can be used
        """
        if self._how is None and not self._broken and not self._stopping:
            try:
                with self._gate:
                    self._check_out(self._path)
                    self._how = self._find_way()
            except (OSError, GitError):
                # The slot will find the same when it tries alone, and say so
                self._broken = True
                shutil.rmtree(self._path, ignore_errors=True)
        return self._how is not None

    def _find_way(self) -> List[str]:
        """Return the command to copy the seed with: clones, plain copies or links"""
        git_dir = os.path.join(self._path, '.git')
        probe = os.path.join(git_dir, 'probe')
        if self._run(['cp', '--reflink=always', os.path.join(git_dir, 'index'), probe]) == 0:
            os.unlink(probe)
            return ['cp', '-a', '--reflink=always']
        # What is shared is of a second that is over. In a slot git takes a file of the
        # same size and second for the same (see `source.checkout`), unless it is as young
        # as the index. That is enough for what a slot has for itself; but here it may be
        # another slot that writes, while in this one git, or we, write a younger index.
        if tree_size(git_dir) < SHARE_FROM or not backdate(self._path, git_dir):
            return ['cp', '-a']
        with open(os.path.join(git_dir, SHARED_MARK), 'wb'):
            pass
        return ['cp', '-al']

    def _copy(self, path: str) -> bool:
        """Copy the seed; the folder gets its name when it is complete"""
        assert self._how
        if self._run([*self._how, self._path, path + NEW]) == 0:
            with contextlib.suppress(OSError):
                os.rename(path + NEW, path)
                return True
        shutil.rmtree(path + NEW, ignore_errors=True)
        return False


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
