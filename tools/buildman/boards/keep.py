# SPDX-License-Identifier: GPL-2.0+
"""Where the list of boards is kept when there is no output folder to keep it in.

A dry run does nothing, so it must not make an output folder either: who calls
`buildman -n -o OUT` may well look whether OUT is there, or be about to make it.
But scripts do dry runs in a row (U-Boot's CI does a dozen, to see that its jobs
build all boards), and each would have to read all of Kconfig. So the list is
kept in the user's own cache, as the XDG Base Directory Specification has it:
`$XDG_CACHE_HOME/buildman/boards/TREE/boards.cfg`, TREE being a digest of the
path of the tree. What is there may be removed at any time. Only the last few
trees have one. Two runs at once do no harm: files are replaced by rename, and
cache.Stamp knows a list that is not its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import List, Tuple

# Trees that have a list here; each takes some 700 kB for 1500 boards
KEEP = 8


def lists_folder() -> str:
    """Return the folder of all these lists, '' if there can be none.

    A folder of somebody else's is not used: neither are their lists to be
    trusted, nor do they want ours (sudo with the HOME of the user).
    """
    cache = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(cache):
        # The specification says to ignore such a one
        cache = os.path.join(os.path.expanduser('~'), '.cache')
    folder = os.path.join(cache, 'buildman', 'boards')
    there = folder
    if not os.path.isabs(folder):
        return ''
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    try:
        info = os.stat(there)
    except OSError:
        return ''
    return folder if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() else ''


def list_path(source_dir: str) -> str:
    """Return the path of the list of a tree, '' if there can be none."""
    folder = lists_folder()
    if not folder:
        return ''
    name = hashlib.blake2b(os.fsencode(os.path.realpath(source_dir)), digest_size=8).hexdigest()
    return os.path.join(folder, name, 'boards.cfg')


def remove_old(kept: str) -> None:
    """Remove the lists that were not used for longest, if there are too many.

    Args:
        kept: path of the list that was just written
    """
    mine = os.path.dirname(kept)
    found: List[Tuple[int, str]] = []
    # Another run may do the same just now
    with contextlib.suppress(OSError), os.scandir(os.path.dirname(mine)) as entries:
        for entry in entries:
            if entry.path != mine and entry.is_dir(follow_symlinks=False):
                found.append((_last_use(entry.path), entry.path))
    for _, folder in sorted(found, reverse=True)[KEEP - 1:]:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)


def _last_use(folder: str) -> int:
    """Return when the list in a folder was written or read last, in nanoseconds"""
    try:
        return os.stat(os.path.join(folder, 'boards.cfg')).st_mtime_ns
    except OSError:
        # No list (yet): another run may be about to put it there
        with contextlib.suppress(OSError):
            return os.stat(folder).st_mtime_ns
        return 0


def note_use(path: str) -> None:
    """Note that a list was of use."""
    with contextlib.suppress(OSError):
        os.utime(path)
