# SPDX-License-Identifier: GPL-2.0+
"""Repeats in one slot what git did in another one to get from commit to commit.

All slots go through the same series, each with every board. A step that changes
some lines of some files is a git process each time, which looks at the whole
index and more. So what git did in the first slot is kept: what it wrote to the
files, and what it noted of them in the index. The others get the same; the index
is changed in the place where git changed it, and is as git would have left it but
for its extensions, which are left out. So a git that a build runs sees a clean
tree at the right commit.

The format of the index is in git's gitformat-index(5).
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import stat
import struct
import threading
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from buildman.core.files import replace_file

# A step that changes more than this is left to git
MAX_FILES = 200
MAX_BYTES = 4 << 20

# Bytes of content that are kept at most, for all steps together
MAX_KEPT = 64 << 20

# Signature, version, number of entries
_HEAD = struct.Struct('>4sLL')

# Of an entry: ctime, mtime (seconds, nanoseconds each), dev, ino, mode, uid, gid, size
_STAT = struct.Struct('>10L')
_MODE = 6
_MTIME = struct.Struct('>2L')

# Then the object's name (SHA-1), then flags
_NAME_SIZE = 20
_FIXED = _STAT.size + _NAME_SIZE + 2

# The index ends with the SHA-1 of all that is before
_SUM_SIZE = 20

# Bits of the flags: the length of the path; what no entry of ours has
_LENGTH, _ODD = 0xfff, 0xf000

# Extensions with which the entries are not all that there is
_PARTIAL = (b'link', b'sdir')


class _Change(NamedTuple):
    """What a step does to one file.

    Attributes:
        name: path in the source
        start, stop: where its entry lies in the index, or would: then these are equal
        before: name of the object that it was, b'' for a new file
        mode: as the index has it
        tail: of the new entry all but what stat(2) says; b'' when the file goes
        data: new content
    """

    name: bytes
    start: int
    stop: int
    before: bytes
    mode: int
    tail: bytes
    data: bytes


class _Step(NamedTuple):
    """A step from one commit to another one.

    Attributes:
        entries: how many the index has before
        end: where the last of these ends
        changes: what it does, in the order of the index
    """

    entries: int
    end: int
    changes: Tuple[_Change, ...]


class Layout(NamedTuple):
    """Where an index has what.

    Attributes:
        data: all of it
        end: where the last entry ends
        offsets: path -> where its entry begins, in the order of the index
    """

    data: bytes
    end: int
    offsets: Dict[bytes, int]

    def object(self, name: bytes) -> bytes:
        """Return the name of the object that a file is; b'' for none."""
        if name not in self.offsets:
            return b''
        start = self.offsets[name] + _STAT.size
        return self.data[start:start + _NAME_SIZE]


def _read(git_dir: str) -> bytes:
    """Return the index of a repository"""
    with open(os.path.join(git_dir, 'index'), 'rb') as inf:
        return inf.read()


def _entry_size(length: int) -> int:
    """Return the size of an entry, whose path has a length.

    At least one NUL follows, so that the next one begins at a multiple of eight.
    """
    return (_FIXED + length + 8) // 8 * 8


def _layout(git_dir: str) -> Optional[Layout]:
    """Find the entries of an index; None when there is anything unusual in it"""
    data = _read(git_dir)
    if len(data) < _HEAD.size + _SUM_SIZE:
        return None
    magic, version, count = _HEAD.unpack_from(data)
    if magic != b'DIRC' or version not in (2, 3):
        return None
    offsets: Dict[bytes, int] = {}
    pos = _HEAD.size
    for _ in range(count):
        name = pos + _FIXED
        if name > len(data):
            return None
        length = int.from_bytes(data[name - 2:name], 'big')
        if length & _ODD or length == _LENGTH:
            return None
        offsets[data[name:name + length]] = pos
        pos += _entry_size(length)
    end = pos
    while pos + 8 <= len(data) - _SUM_SIZE:
        if data[pos:pos + 4] in _PARTIAL:
            return None
        pos += 8 + int.from_bytes(data[pos + 4:pos + 8], 'big')
    return Layout(data, end, offsets) if pos == len(data) - _SUM_SIZE else None


def folders_of(names: Iterable[str]) -> List[str]:
    """Return all folders that some files lie in, as relative paths, without the top one."""
    found: Set[str] = set()
    for name in names:
        folder = os.path.dirname(name)
        while folder and folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)
    return sorted(found)


def is_damaged(git_dir: str) -> bool:
    """Return whether a repository has an index that makes no sense, to git neither."""
    try:
        return _layout(git_dir) is None and _read(git_dir)[:8] != _HEAD.pack(b'DIRC', 4, 0)[:8]
    except OSError:
        return False


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
    layout = _layout(git_dir)
    if not layout:
        return False
    second = int(os.stat(os.path.join(git_dir, 'index')).st_mtime)
    data = bytearray(layout.data[:-_SUM_SIZE])
    for name, pos in layout.offsets.items():
        if _MTIME.unpack_from(data, pos + _MTIME.size)[0] >= second:
            os.utime(os.path.join(os.fsencode(path), name), (second - 1,) * 2,
                     follow_symlinks=False)
            _MTIME.pack_into(data, pos + _MTIME.size, second - 1, 0)
    replace_file(os.path.join(git_dir, 'index'), bytes(data) + hashlib.sha1(data).digest())
    return True


class Steps:
    """The steps that git did in some slot; safe to use from all their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: Dict[Tuple[str, str], Optional[_Step]] = {}
        self._room = MAX_KEPT
        self._folders: Dict[str, Optional[List[str]]] = {}

    def folders(self, commit: str, git_dir: str) -> Optional[List[str]]:
        """Return the folders that a commit has, as relative paths, without the top one.

        Args:
            commit: the commit
            git_dir: a repository that has it checked out

        Returns:
            None when its index is unusual
        """
        # The first slot finds out, not all at the same time
        with self._lock:
            if commit not in self._folders:
                layout = None
                with contextlib.suppress(OSError):
                    layout = _layout(git_dir)
                self._folders[commit] = (
                    folders_of(map(os.fsdecode, layout.offsets)) if layout else None)
            return self._folders[commit]

    def is_new(self, old: str, new: str) -> bool:
        """Return whether a step is not known yet."""
        return (old, new) not in self._steps

    def before(self, old: str, new: str, changed: Mapping[str, str],
               git_dir: str) -> Optional[Layout]:
        """Note what is there before git does a step that is new.

        Args:
            old, new: the commits
            changed: the files that differ, each with how
            git_dir: repository of the slot, at the old one

        Returns:
            what learn() needs; None when the step is to be left to git
        """
        layout = None
        if len(changed) <= MAX_FILES and set(changed.values()) <= set('MAD'):
            with contextlib.suppress(OSError):
                layout = _layout(git_dir)
        if layout is None:
            self._keep(old, new, None)
        return layout

    def learn(self, old: str, new: str, changed: Mapping[str, str], before: Layout,
              path: str, git_dir: str) -> None:
        """Keep what git did in a step.

        Args:
            old, new: the commits
            changed: the files that differ
            before: what was there
            path: the working tree, now at the new one
            git_dir: its repository
        """
        step = None
        with contextlib.suppress(OSError, ValueError):
            after = _layout(git_dir)
            if after:
                names = sorted(os.fsencode(name) for name in changed)
                changes = tuple(_change(path, name, before, after) for name in names)
                step = _Step(len(before.offsets), before.end, changes)
        self._keep(old, new, step)

    def _keep(self, old: str, new: str, step: Optional[_Step]) -> None:
        """Note a step, or that git has to do it"""
        size = sum(len(change.data) for change in step.changes) if step else 0
        with self._lock:
            if size > min(MAX_BYTES, self._room):
                step = None
            elif self.is_new(old, new):
                self._room -= size
            self._steps.setdefault((old, new), step)

    def repeat(self, old: str, new: str, path: str, git_dir: str) -> bool:
        """Do a step in a working tree in which no file of the source was changed.

        Args:
            old: commit that it has
            new: commit that it is to have
            path: the working tree
            git_dir: its repository

        Returns:
            False when git has to do it; some files may be changed then
        """
        step = self._steps.get((old, new))
        if not step:
            return False
        top = os.fsencode(path)
        try:
            index = _read(git_dir)
            if not _fits(index, step):
                return False
            for change in step.changes:
                if change.before:
                    _remove(top, change.name, keep=bool(change.tail))
                if change.tail:
                    _write(top, change)
            replace_file(os.path.join(git_dir, 'index'), _next_index(index, step, top))
            replace_file(os.path.join(git_dir, 'HEAD'), new.encode('ascii') + b'\n')
        except OSError:
            return False
        return True


def _change(path: str, name: bytes, before: Layout, after: Layout) -> _Change:
    """Return what git has done to a file

    Raises:
        ValueError: it is no plain file
        OSError: it cannot be read
    """
    start = before.offsets.get(name)
    if start is None:
        # That of the next one in the order of names, which is that of their bytes
        names = list(before.offsets)
        place = bisect.bisect_left(names, name)
        start = stop = before.offsets[names[place]] if place < len(names) else before.end
    else:
        stop = start + _entry_size(len(name))
        if not stat.S_ISREG(_STAT.unpack_from(before.data, start)[_MODE]):
            raise ValueError('no plain file')
    entry = after.offsets.get(name)
    if entry is None:
        return _Change(name, start, stop, before.object(name), 0, b'', b'')
    full = os.path.join(os.fsencode(path), name)
    mode = _STAT.unpack_from(after.data, entry)[_MODE]
    if not stat.S_ISREG(mode) or not stat.S_ISREG(os.lstat(full).st_mode):
        raise ValueError('no plain file')
    tail = after.data[entry + _STAT.size:entry + _entry_size(len(name))]
    with open(full, 'rb') as inf:
        return _Change(name, start, stop, before.object(name), mode, tail, inf.read())


def _fits(index: bytes, step: _Step) -> bool:
    """Return whether an index is one that a step begins with"""
    if len(index) < step.end + _SUM_SIZE:
        return False
    magic, version, count = _HEAD.unpack_from(index)
    if magic != b'DIRC' or version not in (2, 3) or count != step.entries:
        return False
    for change in step.changes:
        start = change.start + _STAT.size
        if change.before and index[start:start + _NAME_SIZE + 2 + len(change.name) + 1] != (
                change.before + len(change.name).to_bytes(2, 'big') + change.name + b'\0'):
            return False
    return True


def _remove(top: bytes, name: bytes, keep: bool) -> None:
    """Remove a file, which other slots may have, too

    keep: its folder stays, even when it is empty
    """
    os.unlink(os.path.join(top, name))
    folder = os.path.dirname(name)
    while folder and not keep:
        try:
            os.rmdir(os.path.join(top, folder))
        except OSError:
            return
        folder = os.path.dirname(folder)


def _write(top: bytes, change: _Change) -> None:
    """Write a file that is not there, as git does"""
    full = os.path.join(top, change.name)
    if not change.before:
        os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL,
                      0o777 if change.mode & 0o100 else 0o666), 'wb') as outf:
        outf.write(change.data)


def _next_index(index: bytes, step: _Step, top: bytes) -> bytes:
    """Return the index after a step, of which the files have been written"""
    entries = step.entries
    parts: List[bytes] = []
    pos = _HEAD.size
    for change in step.changes:
        parts.append(index[pos:change.start])
        if change.tail:
            info = os.lstat(os.path.join(top, change.name))
            parts.append(_stat_of(info, change.mode) + change.tail)
        pos = change.stop
        entries += bool(change.tail) - bool(change.before)
    parts.append(index[pos:step.end])
    magic, version, _ = _HEAD.unpack_from(index)
    data = _HEAD.pack(magic, version, entries) + b''.join(parts)
    return data + hashlib.sha1(data).digest()


def _stat_of(info: os.stat_result, mode: int) -> bytes:
    """Return what an entry says of a file"""
    ctime, mtime = (divmod(stamp, 10 ** 9) for stamp in (info.st_ctime_ns, info.st_mtime_ns))
    fields = (*ctime, *mtime, info.st_dev, info.st_ino, mode, info.st_uid, info.st_gid,
              info.st_size)
    return _STAT.pack(*(field & 0xffffffff for field in fields))
