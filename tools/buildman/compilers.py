# SPDX-License-Identifier: GPL-2.0+
"""Which compiler builds which board, and what is said of boards without one."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Dict, List, Optional, Sequence, Tuple

from buildman import bsettings, buildenv, toolchain
from buildman.errors import ToolchainError
from buildman.plan import Board, BoardJob, Toolchain


@dataclasses.dataclass
class Choice:
    """The boards with their compilers.

    Attributes:
        jobs: boards that can be built
        unbuildable: board -> why not
    """

    jobs: List[BoardJob]
    unbuildable: Dict[str, str]


def choose_toolchains(selected: Sequence[Board], chains: toolchain.Toolchains,
                      indexes: Tuple[int, ...]) -> Choice:
    """Find the compiler of each board."""
    known: Dict[str, Toolchain] = {}
    missing: Dict[str, str] = {}
    choice = Choice([], {})
    for board in selected:
        if board.arch not in known and board.arch not in missing:
            try:
                known[board.arch] = chains.select(board.arch)
            except toolchain.ToolchainError as exc:
                missing[board.arch] = str(exc)
        if board.arch in missing:
            choice.unbuildable[board.target] = missing[board.arch]
        else:
            choice.jobs.append(BoardJob(
                board, indexes, known[board.arch],
                buildenv.make_flags(board.target, bsettings.settings)))
    return choice


def add_remote_only(choice: Choice, selected: Sequence[Board],
                    indexes: Tuple[int, ...]) -> None:
    """Add the boards that this machine has no compiler for; others may have one"""
    jobs = {job.board.target: job for job in choice.jobs}
    for board in selected:
        if board.target in choice.unbuildable:
            jobs[board.target] = BoardJob(
                board, indexes, Toolchain(board.arch, '', '', ''),
                buildenv.make_flags(board.target, bsettings.settings))
    choice.jobs = [jobs[board.target] for board in selected]
    choice.unbuildable = {}


def local_toolchains(override: str,
                     selected: Optional[Sequence[Board]]) -> Dict[str, Toolchain]:
    """Return the compilers of this machine by arch, those that are missing left out.

    Args:
        override: compiler for sandbox, '' for the usual
        selected: boards that need them; None for all that there are
    """
    chains = toolchain.Toolchains(override)
    chains.scan()
    archs = (sorted(chains.available()) if selected is None
             else sorted({board.arch for board in selected}))
    found: Dict[str, Toolchain] = {}
    for arch in archs:
        with contextlib.suppress(ToolchainError):
            found[arch] = chains.select(arch)
    return found
