# SPDX-License-Identifier: GPL-2.0+
"""--process-limit: no more than N buildmans at once on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from typing import Callable, Iterator, Optional, TextIO

from buildman.core.errors import SetupError

# Seconds between two looks for a free place
POLL = 0.5


def _try_place(folder: str, number: int) -> Optional[TextIO]:
    """Take one of the places, None when it is taken"""
    path = os.path.join(folder, f'place-{number}')
    # Made by whoever comes first and shared by all users, as its folder is
    fdes = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    place = os.fdopen(fdes, 'r+', encoding='ascii')
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        place.close()
        return None
    return place


@contextlib.contextmanager
def process_limit(limit: int, say: Callable[[str], None]) -> Iterator[None]:
    """Hold one of `limit` places while the body runs; waits until one is free.

    A place is a locked file in a folder of this user's, below the system's temporary one. So
    it is free again when its holder dies.

    Args:
        limit: number of places, 0 for no limit
        say: told once when there is a wait

    Raises:
        SetupError: the files cannot be made
    """
    if not limit:
        yield
        return
    folder = os.path.join(tempfile.gettempdir(), f'buildman-limit-{os.getuid()}')
    told = False
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        while True:
            place = next(filter(None, (_try_place(folder, i) for i in range(limit))), None)
            if place:
                break
            if not told:
                say(f'Waiting: {limit} other builds are running (--process-limit {limit})')
                told = True
            time.sleep(POLL)
    except OSError as exc:
        raise SetupError(f"cannot use '{folder}' for --process-limit: {exc.strerror}") from exc
    with place:
        yield
