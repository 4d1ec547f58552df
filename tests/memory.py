# SPDX-License-Identifier: GPL-2.0+
"""Puts the files of all tests into memory, where there is room.

Tests make and remove some hundred thousand small files. ext4 looks for an inode
number that was not used in the last minutes whenever it makes one, so that an
eighth of all processor time went into that. TMPDIR in the environment wins: with
`TMPDIR=/var/tmp` tests run on a disk.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Where Linux has a file system in memory
MEMORY = '/dev/shm'

# Names the folder of shared_folder()
SHARED_VARIABLE = 'BUILDMAN_TEST_SHARED'

# Bytes that must be free there: far more than tests were seen to need (50 MB)
ROOM = 1 << 29


def has_room(folder: str) -> bool:
    """Return whether programs can be written to a folder and run there, and there is room."""
    try:
        stat = os.statvfs(folder)
    except OSError:
        return False
    return (os.access(folder, os.W_OK | os.X_OK) and not stat.f_flag & os.ST_NOEXEC
            and stat.f_bavail * stat.f_frsize >= ROOM)


def use_memory() -> None:
    """Have temporary files of this process and its children there."""
    if not any(os.environ.get(name) for name in ('TMPDIR', 'TEMP', 'TMP')) and has_room(MEMORY):
        os.environ['TMPDIR'] = MEMORY
        tempfile.tempdir = None


def shared_folder() -> str:
    """Return a folder that all processes of this run of tests share; it goes with the run."""
    folder = os.environ.get(SHARED_VARIABLE, '')
    if not folder:
        folder = os.environ[SHARED_VARIABLE] = tempfile.mkdtemp(prefix='buildman-tests-')
        # A machine of a test may be another user
        os.chmod(folder, 0o755)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
