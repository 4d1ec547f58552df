# SPDX-License-Identifier: GPL-2.0+
"""Which lines of the source went into a build: the file `lines` of a result.

A line for each source that gave code, in the order of their names::

    common/board_f.c: 118-121,124,126
    spl:common/spl/spl.c: 55,60-61

The numbers are of lines that the line table of an object names (`build.dwarflines`),
ranges joined. Names are relative to the source; those of objects below `spl/`
and its like have the phase in front. What is not in the source (a compiler's
own headers, files that the build made) is left out.
"""

from __future__ import annotations

import os
from typing import Dict, Iterable, List, Optional, Set

from buildman.build import dwarflines

# Objects that hold others which are in the folder as well, and no code of their own
_JOINED = ('built-in.o',)

# A name is tried below these, see MakeJob.start_board()
_MAPPED_BUILD = './build/'
_MAPPED = './'


def format_numbers(numbers: Iterable[int]) -> str:
    """Return numbers in ascending order, neighbours joined: `1-3,7`."""
    out: List[str] = []
    first = last = -1
    for number in [*sorted(numbers), -1]:
        if first >= 0 and number == last + 1:
            last = number
            continue
        if first >= 0:
            out.append(str(first) if first == last else f'{first}-{last}')
        first = last = number
    return ','.join(out)


class _Resolver:
    """Finds out which file of the source a name in a line table means."""

    def __init__(self, build_dir: str, source_dir: str) -> None:
        self._build = build_dir
        self._source = source_dir
        self._root = os.path.realpath(source_dir) + os.sep
        real_build = os.path.realpath(build_dir) + os.sep
        # Built in the source: its files are sources all the same
        self._made = '' if self._root.startswith(real_build) else real_build
        self._known: Dict[str, Optional[str]] = {}

    def find(self, name: str) -> Optional[str]:
        """Return a file's name relative to the source; None for one that is not in it.

        Args:
            name: as the compiler was told it, or as environment.hide_folders() has
                changed it: `./build` for the build folder, else `.` for the
                source; a relative one is relative to the build folder
        """
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> Optional[str]:
        places = [os.path.join(self._build, name)]
        if name.startswith(_MAPPED):
            places.insert(0, os.path.join(self._source, name))
            if name.startswith(_MAPPED_BUILD):
                places.insert(0, os.path.join(self._build, name[len(_MAPPED_BUILD):]))
        for place in places:
            # Links lead to sources: include/asm/arch in a build folder is one
            path = os.path.realpath(place)
            if os.path.isfile(path):
                inside = path.startswith(self._root) and not (
                    self._made and path.startswith(self._made))
                return path[len(self._root):] if inside else None
        return None


def scan(build_dir: str, source_dir: str, phases: Iterable[str]) -> bytes:
    """Return what the file `lines` is to hold for a finished build.

    An object without line tables, or that makes no sense, adds nothing.

    Args:
        build_dir: build folder, in which compilers were run
        source_dir: source that was built
        phases: folders of the build folder that hold the objects of a phase
    """
    resolver = _Resolver(build_dir, source_dir)
    found: Dict[str, Set[int]] = {}
    for folder, below, names in os.walk(build_dir):
        # Slots and repositories, when that is the source or the output folder
        below[:] = [name for name in below if not name.startswith('.')]
        phase = os.path.relpath(folder, build_dir).split(os.sep)[0]
        prefix = f'{phase}:' if phase in phases else ''
        for name in names:
            if not name.endswith('.o') or name in _JOINED:
                continue
            for source, numbers in _read(os.path.join(folder, name)).items():
                path = resolver.find(source)
                if path is not None:
                    found.setdefault(prefix + path, set()).update(numbers)
    return ''.join(f'{key}: {format_numbers(found[key])}\n' for key in sorted(found)).encode(
        'utf-8', 'surrogateescape')


def _read(path: str) -> dwarflines.SourceLines:
    """Return the lines of one object"""
    try:
        with open(path, 'rb') as inf:
            return dwarflines.read_object(inf.read())
    except (OSError, dwarflines.Damaged):
        return {}
