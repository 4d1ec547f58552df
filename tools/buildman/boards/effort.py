# SPDX-License-Identifier: GPL-2.0+
"""About how long boards take to build, as their defconfigs tell, when none was built yet.

Of 60 boards of U-Boot 2025.01, drawn at random, the number of options that are on in the
end tells how much is compiled, and varies by a quarter (the logarithm's standard
deviation is 0.24). What a defconfig switches on and whether it speaks of SPL, which is a
second program, tell two thirds of that variance (what remains is 0.14). It is enough for
the long boards to be begun first, and for the time left.
"""

from __future__ import annotations

import math
import os
import re
from typing import Dict, Iterable

from buildman.core.plan import Board

# Seconds of one processor for what all boards have, for each option that is switched on,
# and for SPL: a board with 591 objects took 65 and one with 831 took 99
_BASE, _OPTION, _SPL = 36.0, 0.16, 15.0

# Boards as near to each other as that count as alike: those of one SoC, which have much in
# common and are neighbours in the list, are then not torn apart for nothing
_STEP = 1.3

# Included files in included files
_DEPTH = 8

_ON = re.compile(r'^CONFIG_\w+=y', re.M)
_HAS_SPL = re.compile(r'^CONFIG_SPL\w*=', re.M)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]', re.M)


def guess(source: str, boards: Iterable[Board]) -> Dict[str, float]:
    """Return about how long the first build of each board takes.

    Args:
        source: the tree; a file that is not there, or no text, switches nothing on

    Returns:
        board to seconds, good for comparing boards only; empty when all are alike
    """
    found = {board.target: _steps(_text(source, os.path.join('configs', board.defconfig)))
             for board in boards}
    return found if len(set(found.values())) > 1 else {}


def _steps(text: str) -> float:
    """Return the seconds that settings tell, in steps"""
    seconds = _BASE + _OPTION * len(_ON.findall(text)) + (_SPL if _HAS_SPL.search(text) else 0.0)
    return round(_STEP ** round(math.log(seconds, _STEP)), 1)


def _text(source: str, path: str, depth: int = 0) -> str:
    """Return a defconfig with what it includes, below the tree or beside it"""
    try:
        with open(os.path.join(source, path), encoding='utf-8', errors='replace') as inf:
            text = inf.read()
    except OSError:
        return ''
    for name in _INCLUDE.findall(text) if depth < _DEPTH else ():
        beside = os.path.join(os.path.dirname(path), name)
        text += _text(source, beside if os.path.exists(os.path.join(source, beside)) else name,
                      depth + 1)
    return text
