# SPDX-License-Identifier: GPL-2.0+
"""The folders of a run: source, results, work area; and whether they can be used.

Whose results lie in a folder is kept there, in the work area, so that no branch removes
those of another one: a name a line, the latest first. Branches whose names differ in
'/' and '_' only would have the same folder. That is refused. With -N, and for HEAD, it is
the user who has one folder for several; what belongs to one that was built there before
is kept then.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import stat
from typing import FrozenSet, List, Optional, Sequence, Tuple

from buildman.core.errors import SetupError, UsageError
from buildman.core.files import clear_way, replace_file
from buildman.results.tree import BRANCHES, WORK_DIR, commit_folders
from buildman.source import commits

# Make and the scripts of U-Boot cannot work in a folder with these in its name
_UNFIT = re.compile(r'[\s:#$%&\'"`()<>|;*?!\[\]{}\\]')

# So many are kept
_MOST_BRANCHES = 100


@dataclasses.dataclass(frozen=True)
class Folders:
    """Folders of a run.

    Attributes:
        source: top of the working tree, or the repository if it is bare
        base: where results go, absolute
        shown: the same, as the user wrote it
    """

    source: str
    base: str
    shown: str


def find_folders(args: argparse.Namespace) -> Folders:
    """Work out the folders of a run.

    Raises:
        UsageError: flags about folders do not fit together
        GitError: a branch is to be built and there is no repository
        SetupError: there can be no such output folder
    """
    if args.work_in_output and args.output_dir is None and (args.branch or not args.in_tree):
        raise UsageError('-w needs -o DIR, the folder to build in (or -i, to build in the '
                         'source as it is)')
    if args.branch:
        source = commits.check_repository(args.git)
    else:
        source = os.path.abspath(args.git)
        if not os.path.exists(os.path.join(source, 'Makefile')):
            source = commits.check_repository(args.git)
    output = shown = _output(args)
    if args.branch and not (args.no_subdirs or args.work_in_output):
        shown = os.path.join(output, commits.folder_name(args.branch))
    base = os.path.abspath(shown)
    _check_way(base)
    return Folders(source, base, shown)


def _output(args: argparse.Namespace) -> str:
    """Return what -o says"""
    if args.output_dir is not None:
        return str(args.output_dir)
    # With -w this is the folder to build in; with -i that is the source
    return str(args.git) if args.work_in_output else '..'


def output_folder(args: argparse.Namespace) -> str:
    """Return the folder that holds the results of all branches, absolute."""
    return os.path.abspath(_output(args))


def _check_way(base: str) -> None:
    """See to it that a folder is there or can be made; makes nothing"""
    there = base
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise SetupError(f"the output folder '{base}' cannot be made: '{there}' is no folder "
                         '(choose another with -o)')
    if not os.access(there, os.W_OK | os.X_OK):
        raise SetupError(f"cannot write to the output folder '{there}' "
                         '(choose another with -o)')


def check_disk(base: str) -> None:
    """See to it that the output folder can be made and written.

    Raises:
        SetupError: it cannot
    """
    probe = os.path.join(base, WORK_DIR, 'probe')
    try:
        os.makedirs(os.path.dirname(probe), exist_ok=True)
        clear_way(probe)
        try:
            with open(probe, 'wb') as outf:
                outf.write(b'x' * 4096)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(probe)
    except OSError as exc:
        raise SetupError(f"cannot write to the output folder '{base}': {exc.strerror} "
                         '(choose another with -o)') from exc


def work_area(base: str) -> str:
    """Return the folder for the slots: in the output folder if make can work there.

    Args:
        base: the output folder

    Raises:
        SetupError: it must be elsewhere and cannot
    """
    inside = os.path.join(base, WORK_DIR)
    if not _UNFIT.search(inside):
        return inside
    import hashlib
    import tempfile
    name = hashlib.sha256(os.fsencode(base)).hexdigest()[:12]
    folder = os.path.join(tempfile.gettempdir(), f'buildman-work-{os.getuid()}-{name}')
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        info = os.lstat(folder)
    except OSError as exc:
        raise SetupError(f"cannot make '{folder}': {exc.strerror}") from exc
    # Others may write into the folder that it is in
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or _UNFIT.search(folder):
        raise SetupError(f"make cannot work below '{base}', and '{folder}' cannot be used "
                         "instead: choose a folder without blanks and ':' with -o")
    return folder


def _read(base: str) -> Tuple[str, ...]:
    """Return the names of the branches that were built in a folder; none if not known"""
    try:
        with open(os.path.join(base, BRANCHES), encoding='utf-8') as inf:
            names = tuple(inf.read().splitlines())
    except (OSError, UnicodeDecodeError):
        return ()
    return names if all(name.isprintable() for name in names) else ()


def _is_common(args: argparse.Namespace) -> bool:
    """Return whether the user has one folder for whatever is built"""
    return bool(args.no_subdirs or args.branch in ('HEAD', '@'))


def check_owner(args: argparse.Namespace, base: str, series: Optional[commits.Series]) -> None:
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


def kept_results(args: argparse.Namespace, base: str, series: commits.Series) -> FrozenSet[str]:
    """Return the commits with results that belong to other branches that were built there."""
    out: List[str] = []
    if _is_common(args):
        others = [name for name in _read(base) if name != series.name]
        built = _built(base) if others else frozenset()
        for name in others:
            out += commits.known_to(args.git, name, built)
    return frozenset(out)


def note_owner(args: argparse.Namespace, base: str, series: commits.Series) -> None:
    """Remember that a branch is built in a folder; to be called with the lock.

    Raises:
        SetupError: it cannot be written
    """
    names = [series.name, *(name for name in _read(base) if name != series.name)]
    path = os.path.join(base, BRANCHES)
    text = ''.join(f'{name}\n' for name in names[:_MOST_BRANCHES if _is_common(args) else 1])
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
