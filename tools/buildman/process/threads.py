# SPDX-License-Identifier: GPL-2.0+
"""Something that waits for others, done for several of them at the same time."""

from __future__ import annotations

import threading
import time
from typing import Callable, Iterable, List, Optional, Sequence, TypeVar

T = TypeVar('T')


def on_all(items: Iterable[T], act: Callable[[T], object]) -> List[threading.Thread]:
    """Begin to do something with all of some items at the same time.

    Where no more threads can be had, it is done here, one after the other.

    Returns:
        the threads, in the order of the items; those that were not needed have ended
    """
    threads = []
    for item in list(items):
        thread = threading.Thread(target=act, args=(item,), daemon=True)
        threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            act(item)
    return threads


def join(threads: Sequence[threading.Thread], seconds: Optional[float] = None) -> None:
    """Wait for threads, at most so many seconds for all of them; None: as long as it takes."""
    deadline = None if seconds is None else time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None:
            thread.join(deadline and max(0.0, deadline - time.monotonic()))
