# SPDX-License-Identifier: GPL-2.0+
"""Boards in parts that take about as long (--shard): pure, and the same on each machine.

Each runner works out all parts by itself. So nothing may count that another one does not
know: only the boards, and durations that all were given.
"""

from __future__ import annotations

import hashlib
from typing import List, Mapping, Sequence

from buildman.core.plan import Board
from buildman.results.merge import Part


def split(boards: Sequence[Board], costs: Mapping[str, float], count: int) -> List[List[Board]]:
    """Share out boards: each in turn, the longest first, to the part that has least.

    Where costs are alike, those that are alike (of one SoC, say) go to different parts.

    Args:
        boards: all boards
        costs: what each is expected to cost, in any unit; 1 for one that is not in there
        count: of parts

    Returns:
        the boards of each part, in their order
    """
    order = sorted(boards, key=lambda board: (
        -costs.get(board.target, 1.0), board.arch, board.cpu, board.soc, board.vendor,
        board.target))
    loads = [0.0] * count
    part: List[List[str]] = [[] for _ in range(count)]
    for board in order:
        least = min(range(count), key=lambda number: (loads[number], len(part[number]), number))
        loads[least] += costs.get(board.target, 1.0)
        part[least].append(board.target)
    return [[board for board in boards if board.target in names] for names in map(set, part)]


def note(parts: Sequence[Sequence[Board]], number: int) -> Part:
    """Return what tells of one of these parts, counted from 1."""
    names = '\n'.join(' '.join(sorted(board.target for board in part)) for part in parts)
    return Part((number,), len(parts), hashlib.sha256(names.encode()).hexdigest()[:12])
