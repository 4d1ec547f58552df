# SPDX-License-Identifier: GPL-2.0+
"""Which process the boss of a run is, so that another one can see that it has died.

A boss that was killed may leave a machine claimed, or a worker that cannot end
by itself since it was stopped. The machine cannot know; a boss on the same
computer as the dead one can.
"""

from __future__ import annotations

import os
from typing import Optional

from buildman.agent import lock, procfs


def identity() -> str:
    """Return where this process lives: the boot of the kernel and the space of its numbers.

    Host names are not unique, and a number means nothing in another container.
    '' where the system does not tell.
    """
    try:
        with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as inf:
            return f"{inf.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ''


def is_dead(owner: Optional[lock.Owner]) -> bool:
    """Tell whether the boss that holds a machine has died for sure.

    Args:
        owner: what the machine says of it; None: nothing
    """
    if owner is None or not owner.run or owner.pid <= 0 or not owner.boss_start:
        return False
    if not owner.boss_home or owner.boss_home != identity():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        # It is another user's, so it is there
        pass
    # '' also for one that may not be looked at
    start = procfs.start_time(owner.pid)
    return bool(start) and (start != owner.boss_start or owner.pid not in procfs.parents())
