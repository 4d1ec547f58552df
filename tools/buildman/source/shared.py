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

A build that writes to a file of its source would change that of other slots,
too. `SlotSource.spoiled()` finds that out before the result counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import threading
import time
from typing import Callable, List, Optional, Sequence

from buildman.core.errors import GitError

# What a folder of the work area is called while it is no slot yet
SEED_NAME = 'seed.new'
NEW = '.new'

# In the repository of a slot: its files may be those of other slots as well
SHARED_MARK = 'buildman-shared'

# A tree of fewer files than this is copied: sharing it saves less than it takes
# to look after
SHARE_FROM = 500


def tree_size(git_dir: str) -> int:
    """Return how many files a repository has checked out, from the head of its index.

    The format is in git's gitformat-index(5).
    """
    try:
        with open(os.path.join(git_dir, 'index'), 'rb') as inf:
            magic, _, count = struct.unpack('>4sLL', inf.read(12))
    except (OSError, struct.error):
        return 0
    return int(count) if magic == b'DIRC' else 0


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
        # In which the last file was checked out
        self._second = 0
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
                    self._grow_old(path)
                    return True
                return False
            self._copying += 1
        try:
            with self._gate:
                if self._stopping or not self._copy(path):
                    return False
            self._grow_old(path)
            return True
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
        self._second = int(os.stat(os.path.join(git_dir, 'index')).st_mtime)
        probe = os.path.join(git_dir, 'probe')
        if self._run(['cp', '--reflink=always', os.path.join(git_dir, 'index'), probe]) == 0:
            os.unlink(probe)
            return ['cp', '-a', '--reflink=always']
        if tree_size(git_dir) < SHARE_FROM:
            return ['cp', '-a']
        with open(os.path.join(git_dir, SHARED_MARK), 'wb'):
            pass
        return ['cp', '-al']

    def _grow_old(self, path: str) -> None:
        """Wait until shared files are of a second that is over, which mostly is so.

        In a slot git takes a file of the same size and second for the same (see
        `source.checkout`), unless it is as young as the index. That is enough for
        what a slot has for itself: what a build writes is not older than the index.
        But here it may be another slot that writes, while in this one git, or we,
        write a younger index.
        """
        mark = os.path.join(path, '.git', SHARED_MARK)
        with contextlib.suppress(FileNotFoundError):
            while not self._stopping:
                os.utime(mark)
                left = self._second + 1 - os.stat(mark).st_mtime
                if not 0 < left <= 1:
                    # It is over, or the clock was set back
                    return
                time.sleep(left)

    def _copy(self, path: str) -> bool:
        """Copy the seed; the folder gets its name when it is complete"""
        assert self._how
        if self._run([*self._how, self._path, path + NEW]) == 0:
            with contextlib.suppress(OSError):
                os.rename(path + NEW, path)
                return True
        shutil.rmtree(path + NEW, ignore_errors=True)
        return False
