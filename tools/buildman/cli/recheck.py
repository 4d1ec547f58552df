# SPDX-License-Identifier: GPL-2.0+
"""--check-carried: builds some of the results that were carried, and compares.

What is chosen is chance; the number that it follows from is told, and may be given again.
"""

from __future__ import annotations

import dataclasses
import io
import os
import random
import shutil
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Optional,
    Sequence,
)

from buildman.core.outcome import Outcome
from buildman.core.plan import Plan
from buildman.results.cache import read_result
from buildman.results.known import Glance
from buildman.results.tree import ResultTree
from buildman.schedule.inbox import Inbox
from buildman.schedule.local import Worker
from buildman.schedule.loop import Carried, Loop
from buildman.schedule.progress import Status

if TYPE_CHECKING:
    from buildman.core.events import Event

# Where results are built for comparison, in the work area
_FOLDER = 'checked'

# They tell of the one who built, and more than was read
_APART = frozenset(('trace', 'toolchain', 'out-env', 'out-cmd'))


class _Chosen:
    """Takes the results of some boards at some commits, and of no others (a `Sink`)"""

    def __init__(self, tree: ResultTree, chosen: Iterable[Carried]) -> None:
        self._tree = tree
        self._chosen = {(found.target, found.upto) for found in chosen}

    def complete(self, upto: int, targets: Iterable[str]) -> Dict[str, Glance]:
        """Return those that are not to be built"""
        return {target: Glance() for target in targets
                if (target, upto) not in self._chosen}

    def lacks_compiler(self, _upto: int, _target: str) -> bool:
        """Return whether a result says that there was no compiler"""
        return False

    def write(self, outcome: Outcome) -> None:
        """Keep a result"""
        self._tree.write(outcome)

    def forget(self, upto: int, target: str) -> None:
        """There is no earlier one"""


def check(count: int, seed: Optional[int], plan: Plan, tree: ResultTree, carried: Sequence[Carried],
          make_worker: Callable[[Plan, Loop, Callable[[Event], None]], Worker],
          say: Callable[[str], None]) -> bool:
    """Build some results that were carried, and tell how they differ.

    Args:
        count: how many
        seed: what their choice follows from, None for chance
        plan: that of the run
        tree: its results
        carried: those that were carried
        make_worker: returns what builds here
        say: takes lines

    Returns:
        False when something differs, or could not be built
    """
    able = {job.board.target for job in plan.jobs if job.toolchain.gcc}
    carried = sorted(found for found in carried if found.target in able)
    seed = random.randrange(1 << 32) if seed is None else seed
    chosen = random.Random(seed).sample(carried, min(count, len(carried)))
    if not chosen:
        say('No result was carried that can be built here, so none is checked')
        return True
    say(f'Checking {len(chosen)} of {len(carried)} carried results (seed {seed})...')
    folder = os.path.join(tree.work_dir, _FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    apart = ResultTree(folder, plan.commits)
    targets = {found.target for found in chosen}
    again = dataclasses.replace(
        plan, jobs=tuple(job for job in plan.jobs if job.board.target in targets),
        selected=tuple(sorted({found.upto for found in chosen})),
        settings=dataclasses.replace(plan.settings, skip_unaffected=False))
    events = Inbox()
    loop = Loop(again, _Chosen(apart, chosen), Status(io.StringIO()), events)
    loop.run([make_worker(again, loop, events.post)])
    good = 0
    for found in chosen:
        there, here = (one.board_dir(found.upto, found.target) for one in (tree, apart))
        wrong = _differences(there, here)
        good += not wrong
        if wrong:
            assert plan.commits
            say(f"'{found.target}' at {plan.commits[found.upto].hash[:12]}: carried from "
                f"{found.source}, differs from what a build gives ('{here}'): {', '.join(wrong)}")
    if good == len(chosen):
        shutil.rmtree(folder, ignore_errors=True)
        say(f'{good} carried results are as they are built')
    return good == len(chosen)


def _differences(there: str, here: str) -> List[str]:
    """Return the files that differ between two results; why it cannot be told"""
    carried, built = (read_result(folder) for folder in (there, here))
    names: FrozenSet[str] = frozenset(carried) ^ frozenset(built)
    if not built:
        return ['it fails, or cannot be built']
    return sorted({name for name in {*carried, *built} - _APART
                   if name in names or carried[name].data != built[name].data})
