# SPDX-License-Identifier: GPL-2.0+
"""The folders of a run: source, results, work area; and whether they can be used."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import stat

from buildman.core.errors import SetupError, UsageError
from buildman.core.files import clear_way
from buildman.source import commits

# Make and the scripts of U-Boot cannot work in a folder with these in its name
_UNFIT = re.compile(r'[\s:#$%&\'"`()<>|;*?!\[\]{}\\]')


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders of a run.

    Attributes:
        source: top of the working tree, or the repository if it is bare
        base: where results go, absolute
        shown: the same, as the user wrote it
    """

    source: str
    base: str
    shown: str


def find_places(args: argparse.Namespace) -> Places:
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
    return Places(source, base, shown)


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
    from buildman.results.tree import WORK_DIR
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
    from buildman.results.tree import WORK_DIR
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
