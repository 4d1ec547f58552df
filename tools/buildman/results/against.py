# SPDX-License-Identifier: GPL-2.0+
"""Which results a summary compares with, where it is not the commit before (--against)."""

from __future__ import annotations

import os
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from buildman.core.errors import UsageError
from buildman.core.plan import Commit
from buildman.results.tree import commit_folders


class Other(NamedTuple):
    """Results at a commit to compare with: their folder; hash, '' for the current source"""

    folder: str
    hash: str = ''


def find_others(other: str, base: str, commits: Optional[Sequence[Tuple[int, Commit]]],
                find_tip: Callable[[str], Tuple[str, str]]) -> Dict[int, Other]:
    """Return the commits to compare with.

    Args:
        other: a folder of results, an output folder that has one of the same name, or
            the name of a branch that was built into the same output folder
        base: folder of our results
        commits: index and commit of those to be shown; None for the current source
        find_tip: returns the newest commit of a branch and the folder of its results

    Returns:
        index of a commit of ours to the other one: commits that both have, if the newest of
        ours is one; else the newest of each

    Raises:
        UsageError: there are no such results
    """
    for path in (os.path.join(other, os.path.basename(base)), other):
        if commits is None and any(os.path.isfile(os.path.join(path, name, 'done'))
                                   for name in (os.listdir(path) if os.path.isdir(path) else ())):
            return {0: Other(path)}
        there = commit_folders(path) if commits and os.path.isdir(path) else {}
        by_hash = {commit: Other(os.path.join(path, name), commit)
                   for name, (_, commit) in there.items()}
        if commits and by_hash:
            if commits[-1][1].hash in by_hash:
                return {upto: by_hash[commit.hash] for upto, commit in commits
                        if commit.hash in by_hash}
            return {commits[-1][0]: by_hash[max(there.values())[1]]}
    if not commits or os.path.isdir(other):
        raise UsageError(f"--against: there are no results in '{other}': name the output folder "
                         'of a build' + (', or a branch' if commits else ''))
    tip, path = find_tip(other)
    for name, (_, commit) in commit_folders(path).items():
        if commit == tip:
            return {commits[-1][0]: Other(os.path.join(path, name), tip)}
    raise UsageError(f"--against: the newest commit of '{other}', {tip[:12]}, has no results in "
                     f"'{path}': build it first")
