# SPDX-License-Identifier: GPL-2.0+
"""Whose results lie in a folder, so that no branch removes those of another one.

Branches whose names differ in '/' and '_' only would have the same folder. That
is refused. With -N, and for HEAD, it is the user who has one folder for several;
what belongs to one that was built there before is kept then.

The names are in the work area, one a line, the latest first.
"""

from __future__ import annotations

import argparse
import os
from typing import FrozenSet, List, Optional, Sequence, Tuple

from buildman.core.errors import SetupError
from buildman.core.files import clear_way, replace_file
from buildman.results.tree import WORK_DIR, commit_folders
from buildman.source import commits

# Where the names are, in the folder of the results
_NAME = os.path.join(WORK_DIR, 'branches')

# So many are kept
_MOST = 100


def _read(base: str) -> Tuple[str, ...]:
    """Return the names of the branches that were built in a folder; none if not known"""
    try:
        with open(os.path.join(base, _NAME), encoding='utf-8') as inf:
            names = tuple(inf.read().splitlines())
    except (OSError, UnicodeDecodeError):
        return ()
    return names if all(name.isprintable() for name in names) else ()


def _is_common(args: argparse.Namespace) -> bool:
    """Return whether the user has one folder for whatever is built"""
    return bool(args.no_subdirs or args.branch in ('HEAD', '@'))


def check(args: argparse.Namespace, base: str, series: Optional[commits.Series]) -> None:
    """See to it that a folder has no results of a branch that only looks the same.

    Args:
        args: the command line
        base: folder of the results
        series: commits of the branch, None for the current source

    Raises:
        SetupError: it has
    """
    if not series or args.work_in_output or _is_common(args):
        return
    built = _built(base)
    if not built:
        return
    names: Sequence[str] = _read(base)
    if not names:
        # An earlier buildman's, or the work area was removed
        mine = series.alive.union(commits.in_history(args.git, series, built))
        names = [name for name in commits.same_folder(args.git, series.name,
                                                      os.path.basename(base))
                 if commits.known_to(args.git, name, built) - mine]
    others = [name for name in names if name != series.name]
    if others:
        raise SetupError(f"'{base}' has the results of '{others[0]}', not of '{series.name}': "
                         'choose another output folder with -o, or remove that one')


def kept(args: argparse.Namespace, base: str, series: commits.Series) -> FrozenSet[str]:
    """Return the commits with results that belong to other branches that were built there."""
    out: List[str] = []
    if _is_common(args):
        others = [name for name in _read(base) if name != series.name]
        built = _built(base) if others else frozenset()
        for name in others:
            out += commits.known_to(args.git, name, built)
    return frozenset(out)


def note(args: argparse.Namespace, base: str, series: commits.Series) -> None:
    """Remember that a branch is built in a folder; to be called with the lock.

    Raises:
        SetupError: it cannot be written
    """
    names = [series.name, *(name for name in _read(base) if name != series.name)]
    path = os.path.join(base, _NAME)
    text = ''.join(f'{name}\n' for name in names[:_MOST if _is_common(args) else 1])
    try:
        if os.path.isdir(path):
            clear_way(path)
        replace_file(path, os.fsencode(text))
    except OSError as exc:
        raise SetupError(f"cannot write '{path}': {exc.strerror}") from exc


def _built(base: str) -> FrozenSet[str]:
    """Return the commits that have a folder"""
    try:
        return frozenset(commit for _, commit in commit_folders(base).values())
    except OSError as exc:
        raise SetupError(f"cannot read '{base}': {exc.strerror}") from exc
