# SPDX-License-Identifier: GPL-2.0+
"""A slot begins with a copy of what another one has built of much the same.

From nothing, a third of what a board of U-Boot costs are programs of the host (Kconfig,
dtc, tools), and half of its objects are the same for another board with the same SoC. So
the first slot that builds a board of a family keeps a copy of its build folder when it is
through with the first commit, and others that come to that family begin with it. While
there is none yet they wait, as the make of the first has all processors meanwhile; but not
while more of these are idle than a copy saves. Whoever has nothing at all, not even the
programs, takes the copy of any family.

A copy is what the folder would be for the next board in the slot that it is of, with all
time stamps; make goes by these. In another slot, a source may be older than an object and
yet not what that is made of. So only what is pure is copied: a folder that was empty when
it was begun, or began as a copy, and that has since been built in at one commit only; and
only to a slot that is to build this commit. What that slot has changed in its source
since is newer, and what it has not is that commit's.

The names of the folders that a copy is of are in there: in Kbuild's notes of commands,
which would all differ, and in links. These are changed; any other file that has them in it
is removed, to be made again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import stat
import subprocess
import threading
import time
from typing import Callable, Dict, Mapping, Optional, Pattern, Set, Tuple

from buildman.build.folder import SPARE
from buildman.core.files import clear_way
from buildman.core.plan import Board
from buildman.process import commands
from buildman.process.limits import idle_time
from buildman.process.registry import Account, Stopped

# Seconds of a processor that a copy saves, at the least. As long as no more than these
# go to waste for each that waits, it is worth while
SAVES = 5.0

# A source of fewer files is built sooner than it is copied
LARGE = 500

# So many copies are kept; another one goes for it that was not used for longest
MOST = 8

# Seconds after which one who waits looks at the processors again
_STEP = 0.1

# Seconds to copy a folder
_COPY_TIME = 600

# Architecture, CPU and SoC: the commands that compile for these are the same
Family = Tuple[str, str, str]


def family(board: Board) -> Family:
    """Return what boards have in common that have objects in common."""
    return board.arch, board.cpu, board.soc


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


class _Copy:
    """A build folder that is kept.

    Attributes:
        path: where
        number: slot that it is of
        users: so many copy it
    """

    def __init__(self, path: str, number: int) -> None:
        self.path = path
        self.number = number
        self.users = 0


class Siblings:
    """Who keeps a copy, who waits for it; safe to use from all threads of slots.

    Attributes:
        copying: what copies; end() ends it
    """

    def __init__(self, folder: str, free: Callable[[], int],
                 boards: Optional[Mapping[Family, int]] = None) -> None:
        """Set up.

        Args:
            folder: where copies are kept; it need not be there
            free: tells how many jobs more may run
            boards: how many of each family are going to be built; None if that is not known
        """
        self.copying = Account()
        self._folder = folder
        self._free = free
        self._left = None if boards is None else dict(boards)
        self._changed = threading.Condition()
        self._commit: Optional[str] = None
        # Those that were used last come last
        self._copies: Dict[Family, _Copy] = {}
        self._names = itertools.count()
        # Slots that are at the first board of a family, and those of them that do not wait
        self._makers: Dict[Family, int] = {}
        self._busy: Set[int] = set()
        # What the folder of a slot is of; which are pure
        self._at: Dict[int, Family] = {}
        self._pure: Set[int] = set()
        # Who waits
        self._others = 0
        self._over = False

    def begin(self, number: int, kin: Family, commit: str, empty: bool,
              copy: Callable[[str, int], bool], wanted: Callable[[], bool]) -> None:
        """Have a slot begin a board with a copy, if there is one that helps.

        Args:
            number: slot, which has no objects of this board
            kin: what it is going to build
            commit: which commit, '' for a source as it is
            empty: there is nothing in its folder
            copy: puts a copy of a folder, which was built in the slot of that number, in
                place of what the slot has; returns whether that was possible. If it was
                not, the slot has nothing
            wanted: whether the board still is

        Raises:
            OSError: what `copy` does
        """
        with self._changed:
            if self._commit is None:
                self._commit = commit
            if self._left:
                self._left[kin] = self._left.get(kin, 0) - 1
            if empty:
                self._pure.add(number)
                self._at.pop(number, None)
            if self._over or commit != self._commit:
                self.forget(number)
                return
            if self._at.get(number) == kin:
                return
            found = self._find(number, kin, empty, wanted)
            if found:
                found.users += 1
            if self._makers.get(kin) == number:
                # At once, or others that have nothing would begin at the same time
                self._busy.add(number)
            self._at.pop(number, None)
        try:
            if found:
                copy(found.path, found.number)
        finally:
            with self._changed:
                if found:
                    found.users -= 1
        with self._changed:
            if found:
                self._pure.add(number)
            self._at[number] = kin

    def forget(self, number: int) -> None:
        """Let nobody have what is in the folder of a slot: it is of another run, or commit."""
        with self._changed:
            self._pure.discard(number)
            self._at.pop(number, None)

    def _find(self, number: int, kin: Family, empty: bool,
              wanted: Callable[[], bool]) -> Optional[_Copy]:
        """Return the copy to begin with, which is waited for; None if there is no use in that"""
        lost, before, idle_before = 0.0, time.monotonic(), idle_time()
        while not self._over and wanted():
            if kin in self._copies:
                # It is the last one used
                self._copies[kin] = self._copies.pop(kin)
                return self._copies[kin]
            maker = self._makers.get(kin)
            if maker is None and (self._copies or number in self._pure):
                maker = self._makers[kin] = number
            if maker is None:
                return None
            if maker == number:
                # Without objects of its family, it is of use to others only if it is pure
                if self._copies and (empty or (number not in self._pure and self._more(kin))):
                    return list(self._copies.values())[-1]
                if not empty or not self._busy:
                    return None
            if lost > SAVES:
                return None
            self._others += 1
            try:
                self._changed.wait(_STEP)
                now, idle = time.monotonic(), idle_time()
                wasted = self._free() * (now - before)
                if idle is not None and idle_before is not None:
                    # Others may have work for those that we do not use
                    wasted = min(wasted, idle - idle_before)
                lost += wasted / self._others
                before, idle_before = now, idle
            finally:
                self._others -= 1
        return None

    def _more(self, kin: Family) -> bool:
        """Return whether more boards of a family may come"""
        return self._left is None or self._left.get(kin, 0) > 0

    def built(self, number: int, commit: str, good: bool,
              lend: Callable[[Callable[[str], None]], None]) -> None:
        """Keep what a slot has built, if it is the first of its family.

        Args:
            number: the slot
            commit: what was built, '' for a source as it is
            good: it was built, without an error
            lend: calls what it is given with the slot's folder, as it is between two boards

        Raises:
            OSError: what `lend` does
        """
        with self._changed:
            if commit != self._commit:
                self._pure.discard(number)
            kin = self._at.get(number)
            keeps = (good and kin is not None and not self._over and number in self._pure
                     and self._makers.get(kin) == number
                     and (self._others or self._more(kin)))
        try:
            if keeps and kin is not None:
                lend(functools.partial(self._keep, number, kin))
        finally:
            self.give_up(number)

    def _keep(self, number: int, kin: Family, path: str) -> None:
        """Copy a folder to where others find it"""
        new = os.path.join(self._folder, str(next(self._names)))
        with self._changed:
            idle = [name for name, old in self._copies.items() if not old.users]
            gone = [self._copies.pop(name) for name in idle[:max(0, len(self._copies) - MOST + 1)]]
        try:
            for old in gone:
                clear_way(old.path)
            os.makedirs(self._folder, exist_ok=True)
            disk = os.statvfs(self._folder)
            if disk.f_bavail * disk.f_frsize < SPARE or not copy_folder(path, new, self.copying):
                return
        except OSError:
            # Then there is none
            return
        with self._changed:
            self._copies[kin] = _Copy(new, number)

    def give_up(self, number: int) -> None:
        """Let nobody wait for this slot."""
        with self._changed:
            self._busy.discard(number)
            for kin in [kin for kin, maker in self._makers.items() if maker == number]:
                del self._makers[kin]
            self._changed.notify_all()

    def end(self) -> None:
        """Let nobody wait any more, and nothing be copied."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self.copying.stop()

    def close(self) -> None:
        """Remove the copies, when all slots have ended."""
        shutil.rmtree(self._folder, ignore_errors=True)


def copy_folder(path: str, new: str, account: Account) -> bool:
    """Copy a folder with all time stamps; return whether that was possible, if not there is none.

    Args:
        path: the folder
        new: that of the copy; what is there goes
        account: may end it

    Raises:
        OSError: what is in the way cannot be removed
    """
    clear_way(new)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired, Stopped):
        if commands.run(['cp', '-a', path, new], _COPY_TIME, account=account).returncode == 0:
            return True
    with contextlib.suppress(OSError):
        clear_way(new)
    return False


def copy(old: Tuple[str, str], new: Tuple[str, str], temp: str, account: Account) -> bool:
    """Copy a build folder to where another slot builds.

    Args:
        old: folder of the slot that it is of, build folder; nobody writes there
        new: folder of the slot that it is for, its build folder; what is there goes
        temp: path on the same file system for a copy that is under way
        account: may end it

    Returns:
        whether that was possible; if not, there is nothing

    Raises:
        OSError: what is in the way cannot be removed
    """
    clear_way(new[1])
    if not copy_folder(old[1], temp, account):
        return False
    try:
        if old[0] != new[0]:
            _rename(temp, old[0], new[0])
        os.makedirs(new[0], exist_ok=True)
        os.rename(temp, new[1])
    except OSError:
        with contextlib.suppress(OSError):
            clear_way(temp)
        return False
    return True


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
