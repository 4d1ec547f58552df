# SPDX-License-Identifier: GPL-2.0+
"""A slot that has nothing yet begins with a copy of what the first one has built.

From nothing, a third of what a board of U-Boot costs are programs of the host (Kconfig,
dtc, tools), and some objects are the same for boards that are much alike. So the first
slot of a run lends its build folder when it is through with its first commit, and the
others wait for that: its make has all processors meanwhile. They do not wait while more
of these are idle than a copy saves.

A copy is what the folder would be for the next board in the slot that lends it, with all
time stamps; make goes by these. That holds for a slot with files of its own, too: they are
of the commit that all in the folder was made of, and change only afterwards. So a folder is
lent only if it was empty when the run began, and for the same commit. The names of the
lender's folders are in there: in Kbuild's notes of commands, which would all differ, and in
links. These are changed; any other file that has them in it is removed, to be made again.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import threading
import time
from typing import Callable, Mapping, Optional, Pattern, Tuple

from buildman.core.files import clear_way
from buildman.process import commands
from buildman.process.limits import idle_time

# Seconds of a processor that a copy saves, at the least. As long as no more than these
# go to waste for each that waits, it is worth while
SAVES = 5.0

# A source of fewer files is built sooner than it is copied
LARGE = 500

# Seconds after which one who waits looks at the processors again
_STEP = 0.1

# Seconds to copy a folder
_COPY_TIME = 600


def is_large(source: str) -> bool:
    """Return whether a source has so many files that its boards are worth a copy."""
    count = 0
    for top, folders, names in os.walk(source):
        if top == source:
            folders[:] = [name for name in folders if name not in ('.git', 'build')]
        count += len(names)
        if count >= LARGE:
            return True
    return False


class Siblings:
    """Who lends, who waits for it; safe to use from all threads of slots."""

    def __init__(self, free: Callable[[], int]) -> None:
        """Set up.

        Args:
            free: tells how many jobs more may run
        """
        self._free = free
        self._changed = threading.Condition()
        self._first: Optional[int] = None
        self._commit = ''
        # Who waits, or copies
        self._others = 0
        self._path = ''
        self._over = False

    def borrow(self, number: int, commit: str, copy: Callable[[str], None],
               wanted: Callable[[], bool]) -> None:
        """Wait for a folder and copy it, if that is worth while. The first to ask is the lender.

        Args:
            number: slot that is going to build in an empty folder
            commit: what it is going to build, '' for a source as it is
            copy: copies a folder
            wanted: whether the board still is
        """
        with self._changed:
            if self._first is None:
                self._first, self._commit = number, commit
            if self._over or number == self._first or commit != self._commit:
                return
            self._others += 1
        try:
            path = self._wait(wanted)
            if path:
                copy(path)
        finally:
            with self._changed:
                self._others -= 1
                self._changed.notify_all()

    def _wait(self, wanted: Callable[[], bool]) -> str:
        """Return the folder that is lent; '' when there is no use in waiting for it"""
        lost, before, idle_before = 0.0, time.monotonic(), idle_time()
        with self._changed:
            while not self._path and not self._over and lost <= SAVES and wanted():
                self._changed.wait(_STEP)
                now, idle = time.monotonic(), idle_time()
                wasted = self._free() * (now - before)
                if idle is not None and idle_before is not None:
                    # Others may have work for those that we do not use
                    wasted = min(wasted, idle - idle_before)
                lost += wasted / self._others
                before, idle_before = now, idle
            return self._path

    def is_lender(self, number: int, commit: str) -> bool:
        """Return whether a slot is to lend its folder, once it has built a commit."""
        with self._changed:
            return not self._over and (number, commit) == (self._first, self._commit)

    def lend(self, path: str) -> None:
        """Let those who wait copy a folder; it is left alone until they have."""
        with self._changed:
            self._path = path
            self._changed.notify_all()
            while self._others and not self._over:
                self._changed.wait()
            self._path = ''
        self.end()

    def give_up(self, number: int) -> None:
        """Let nobody wait for this slot."""
        if number == self._first:
            self.end()

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


def copy(old: Tuple[str, str], new: Tuple[str, str], temp: str) -> bool:
    """Copy a build folder to where another slot builds.

    Args:
        old: folder of the slot that lends, its build folder; nobody writes there
        new: folder of the slot that borrows, its build folder; what is there goes
        temp: path on the same file system for a copy that is under way

    Returns:
        whether that was possible; if not, there is nothing

    Raises:
        OSError: what is in the way cannot be removed
    """
    clear_way(temp)
    clear_way(new[1])
    try:
        if commands.run(['cp', '-a', old[1], temp], _COPY_TIME).returncode == 0:
            _rename(temp, old[0], new[0])
            os.makedirs(new[0], exist_ok=True)
            os.rename(temp, new[1])
            return True
    except (OSError, subprocess.TimeoutExpired):
        pass
    with contextlib.suppress(OSError):
        clear_way(temp)
    return False


def _rename(path: str, old: str, new: str) -> None:
    """Put the folder of one slot for that of another into a copied build folder

    Raises:
        OSError: it cannot be read or written
    """
    names = {os.fsencode(old): os.fsencode(new),
             os.fsencode(os.path.realpath(old)): os.fsencode(os.path.realpath(new))}
    # Folder 10 is not 100
    found = re.compile(b'(%s)(?![\\w.-])' % b'|'.join(map(re.escape, names)))
    for top, folders, files in os.walk(os.fsencode(path)):
        for file in (*folders, *files):
            whole = os.path.join(top, file)
            if os.path.islink(whole):
                to = os.readlink(whole)
                if found.search(to):
                    os.unlink(whole)
                    os.symlink(found.sub(lambda match: names[match.group(1)], to), whole)
        for file in files:
            _rename_in(os.path.join(top, file), found, names)


def _rename_in(whole: bytes, found: Pattern[bytes], names: Mapping[bytes, bytes]) -> None:
    """Do what _rename() does with a file"""
    try:
        info = os.lstat(whole)
        if not stat.S_ISREG(info.st_mode):
            return
        with open(whole, 'rb') as inf:
            data = inf.read()
    except FileNotFoundError:
        # The note of one that is gone
        return
    if not any(name in data for name in names):
        return
    folder, name = os.path.split(whole)
    if name.startswith(b'.') and name.endswith(b'.cmd'):
        with open(whole, 'wb') as outf:
            outf.write(found.sub(lambda match: names[match.group(1)], data))
        os.utime(whole, ns=(info.st_atime_ns, info.st_mtime_ns))
    else:
        for gone in (name, b'.%s.cmd' % name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, gone))
