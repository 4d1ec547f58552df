# SPDX-License-Identifier: GPL-2.0+
"""Temporary folders that do not outlive their maker for long, even if it is killed.

Each holds a file that its maker has locked. Whoever makes the next one removes
those whose maker is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from typing import Dict

PREFIX = 'buildman-push-'
LOCK = 'in-use'

# Seconds after which a folder without a lock was not just being made
OLD = 3600.0

# Folder -> descriptor of its lock
_HELD: Dict[str, int] = {}


def make() -> str:
    """Return a new folder, to be removed with remove().

    Raises:
        OSError: it cannot be made
    """
    _remove_stale(tempfile.gettempdir())
    path = tempfile.mkdtemp(prefix=PREFIX)
    # Under its name it is locked from the first moment on
    name = os.path.join(path, LOCK)
    fdes = os.open(name + '.new', os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _HELD[path] = fdes
    fcntl.flock(fdes, fcntl.LOCK_EX)
    os.rename(name + '.new', name)
    return path


def remove(path: str) -> None:
    """Remove a folder of make(); harmless the second time."""
    shutil.rmtree(path, ignore_errors=True)
    fdes = _HELD.pop(path, None)
    if fdes is not None:
        os.close(fdes)


def _remove_stale(folder: str) -> None:
    """Remove what dead ones of this user's have left"""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if (stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid()
                            and _is_stale(entry.path, info.st_mtime)):
                        shutil.rmtree(entry.path, ignore_errors=True)


def _is_stale(path: str, changed: float) -> bool:
    """Return whether nobody uses a folder any more"""
    try:
        fdes = os.open(os.path.join(path, LOCK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - changed > OLD
    try:
        fcntl.flock(fdes, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fdes)
    return True
