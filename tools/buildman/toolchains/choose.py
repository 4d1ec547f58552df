# SPDX-License-Identifier: GPL-2.0+
"""Which compiler builds which board, and what is said of boards without one."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Dict, List, Optional, Sequence, Set, Tuple

from buildman import bsettings
from buildman.build import environment
from buildman.core.errors import ToolchainError
from buildman.core.plan import Board, BoardJob, Toolchain
from buildman.toolchains import find


@dataclasses.dataclass
class Choice:
    """The boards with their compilers.

    Attributes:
        jobs: all boards; the compiler of those that have none here is one
            without a path
        lacking: arch that this machine has no compiler for -> why, and what to do
    """

    jobs: List[BoardJob]
    lacking: Dict[str, str]

    def unbuildable(self) -> Set[str]:
        """Return the boards that this machine has no compiler for."""
        return {job.board.target for job in self.jobs if job.board.arch in self.lacking}


def choose_toolchains(selected: Sequence[Board], chains: find.Toolchains,
                      indexes: Tuple[int, ...]) -> Choice:
    """Find the compiler of each board."""
    known: Dict[str, Toolchain] = {}
    choice = Choice([], {})
    for board in selected:
        if board.arch not in known:
            try:
                known[board.arch] = chains.select(board.arch)
            except find.ToolchainError as exc:
                known[board.arch] = Toolchain(board.arch, '', '', '')
                choice.lacking[board.arch] = str(exc)
        choice.jobs.append(BoardJob(
            board, indexes, known[board.arch],
            environment.make_flags(board.target, bsettings.settings)))
    return choice


def why_nobody(choice: Choice, arch: str, is_distributed: bool) -> str:
    """Return why no board of an arch is built, and what to do, for people.

    Args:
        choice: the compilers of this machine
        arch: one that nobody has a compiler for who takes part
        is_distributed: other machines take part
    """
    here = choice.lacking.get(arch, '')
    if not is_distributed:
        return here
    if here:
        return f'{here}; no machine has one either (see --machines-fetch-arch)'
    return (f"no machine has a tool chain that may be used for arch '{arch}' (see --mach and "
            '--machines-fetch-arch); this one has, but takes no part')


def local_toolchains(override: str,
                     selected: Optional[Sequence[Board]]) -> Dict[str, Toolchain]:
    """Return the compilers of this machine by arch, those that are missing left out.

    Args:
        override: compiler for sandbox, '' for the usual
        selected: boards that need them; None for all that there are
    """
    chains = find.Toolchains(override)
    chains.scan()
    archs = (sorted(chains.available()) if selected is None
             else sorted({board.arch for board in selected}))
    found: Dict[str, Toolchain] = {}
    for arch in archs:
        with contextlib.suppress(ToolchainError):
            found[arch] = chains.select(arch)
    return found
