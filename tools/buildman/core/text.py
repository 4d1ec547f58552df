# SPDX-License-Identifier: GPL-2.0+
"""Text that others wrote, made fit to be shown."""

from __future__ import annotations

import re
from typing import Sequence

# Escape sequences of a terminal: CSI, OSC (to BEL or ST) and the short ones
_ESCAPE = re.compile('\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?'
                     '|[@-_a-z0-9=>]|$)')
# The other control characters but tab and newline, and those that turn text around
_CONTROL = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]')


def plain(text: str) -> str:
    """Return text without what could do something to a terminal: no harm in showing it."""
    if not _CONTROL.search(text):
        return text
    return _CONTROL.sub('', _ESCAPE.sub('', text))


def size(count: float, units: Sequence[str] = (' B', ' KiB', ' MiB', ' GiB')) -> str:
    """Return a number of bytes for people, in the largest unit that makes it 1 or more."""
    unit = 0
    while count >= 1024 and unit < len(units) - 1:
        count, unit = count / 1024, unit + 1
    return f'{count:.1f}{units[unit]}' if unit else f'{count:.0f}{units[0]}'


def reason(exc: BaseException) -> str:
    """Return what an exception says, or what it is when it says nothing."""
    return str(exc) or type(exc).__name__
