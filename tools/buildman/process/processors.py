# SPDX-License-Identifier: GPL-2.0+
"""How many processors there are for this run."""

from __future__ import annotations

import os


def cpu_count() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
