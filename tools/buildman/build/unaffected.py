# SPDX-License-Identifier: GPL-2.0+
"""Tells whether a commit can change what a board's last build gave.

Kbuild notes for each file that it makes which files it read, in `.NAME.cmd`
beside it (the variables source_… and deps_…, written by scripts/basic/fixdep).
A commit that changes none of these, and nothing that is read in ways that are
not noted, gives the same result again.

Whatever is not understood means that it matters: Makefiles, Kconfig, scripts,
Python, linker scripts, environments, files that are new or gone.
"""

from __future__ import annotations

import os
import re
from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Set

# Sources whose readers are all noted, in groups of endings: a group counts as
# understood only when the notes name a file of it at all
_GROUPS = (('.c',), ('.h',), ('.S', '.s'), ('.dts', '.dtsi', '.dtso'))
_GROUP_OF: Dict[str, int] = {end: num for num, ends in enumerate(_GROUPS) for end in ends}

# What no build reads
_NEVER_READ = re.compile(
    r'doc/.*|test/py/.*|configs/[^/]+\.buildman|\.github/.*|\.(?:gitlab-ci|azure-pipelines|readthedocs)\.yml|\.mailmap'
    r'|(?:.*/)?(?:MAINTAINERS|README(?:\.[\w.-]+)?|\.gitignore)|\.checkpatch\.conf')

# What a board is configured with; a fragment in another folder may be anybody's
_CONFIG = re.compile(r'configs/[^/]+(?:_defconfig|\.config)')

# A word of a list of files that were read; $(wildcard …) names options, not files
_WORD = re.compile(r'(?<![\w$(./-])(\.{0,2}/?[\w+.,@%-][\w+./,@%-]*)(?=[\s\\]|$)')

# Where a `.cmd` begins to tell what was read, after the command line
_NOTED = re.compile(r'\n(?:source|deps)_')

# dtoc reads sources all over the tree for a board with this option
_READS_ALL = re.compile(rb'^CONFIG_(?:[A-Z]+_)?OF_PLATDATA=y', re.MULTILINE)


class Notes:
    """What the last build of a board read.

    Attributes:
        files: paths relative to the source
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.files: FrozenSet[str] = frozenset(files)
        self._groups = {_GROUP_OF[end] for end in
                        {os.path.splitext(name)[1] for name in self.files} if end in _GROUP_OF}

    def knows(self, name: str) -> bool:
        """Return whether a file that is not in the list is surely not read."""
        group = _GROUP_OF.get(os.path.splitext(name)[1])
        return group is not None and group in self._groups


def read_notes(build_dir: str, source_dir: str) -> Optional[Notes]:
    """Return what the builds in a folder read; None when that is not known.

    Args:
        build_dir: build folder (O=)
        source_dir: source that was built
    """
    try:
        with open(os.path.join(build_dir, '.config'), 'rb') as inf:
            if _READS_ALL.search(inf.read()):
                return None
    except OSError:
        return None
    words: Set[str] = set()
    for folder, _, names in os.walk(build_dir):
        for name in names:
            if name.startswith('.') and name.endswith('.cmd'):
                words.update(_read_words(os.path.join(folder, name)))
    if not words:
        return None
    root = os.path.realpath(source_dir) + os.sep
    files: Set[str] = set()
    for word in words:
        # By its own name and by what links lead to: include/asm/arch is one
        plain = os.path.normpath(os.path.join(build_dir, word))
        for path in (plain, os.path.realpath(plain)):
            for start in (root, source_dir + os.sep):
                if path.startswith(start):
                    files.add(path[len(start):])
    return Notes(files)


def _read_words(path: str) -> List[str]:
    """Return the files that one `.cmd` names as read"""
    try:
        with open(path, encoding='utf-8', errors='surrogateescape') as inf:
            text = inf.read()
    except OSError:
        return []
    found = _NOTED.search(text)
    return _WORD.findall(text[found.start():]) if found else []


def is_config(name: str) -> bool:
    """Return whether a file is a defconfig or fragment, read by the boards that name it alone."""
    return bool(_CONFIG.fullmatch(name))


def matters(changes: Mapping[str, str], notes: Notes, inputs: Sequence[str],
            includes: bool) -> bool:
    """Tell whether a change of the source may change the result of a board.

    Args:
        changes: file -> how it changed, as a letter of `git diff --name-status`
        notes: what the last build read
        inputs: files in configs/ that the board is configured with
        includes: one of these includes others

    Returns:
        False only when the result is surely the same
    """
    for name, how in changes.items():
        if _NEVER_READ.fullmatch(name):
            continue
        if is_config(name):
            if includes or name in inputs:
                return True
            continue
        # Host programs may be those of another build (--shared-dtc), which notes
        # what they are made of
        if name.startswith('scripts/'):
            return True
        if name in notes.files or how != 'M' or not notes.knows(name):
            return True
    return False


def same_length(old: str, new: str) -> bool:
    """Tell whether two version texts take the same space in an image.

    Args:
        old, new: as `git describe --always` prints them
    """
    def shape(text: str) -> str:
        found = re.search(r'-(\d+)(-g[0-9a-f]+)(-dirty)?$', text.strip())
        if found:
            # The number of commits is written with at least five digits
            return f'{max(5, len(found.group(1)))} {len(found.group(2))} {found.group(3)}'
        return f'plain {len(text.strip())}' if re.fullmatch(
            r'(?:-g)?[0-9a-f]+', text.strip()) else f'tag {bool(text.strip())}'

    return shape(old) == shape(new)
