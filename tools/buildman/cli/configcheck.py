# SPDX-License-Identifier: GPL-2.0+
"""Tells what in the configuration means nothing.

A name that is misspelt would have no effect, without a word: each is told, with its
place. That is no error, since a file may be meant for several versions of buildman.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Iterable, Iterator, List

from buildman import bsettings
from buildman.toolchains import find

# Names of variables in [make-flags]
_VARIABLE = re.compile(r'\$\{([^}]*)\}')

_MACHINE = 'machine:'


def problems(folders: bool = True) -> List[str]:
    """Return a line for each section, key or folder that means nothing.

    Args:
        folders: look for the folders of [toolchain] as well
    """
    if bsettings.is_default:
        return []
    return [*_names(), *_variables(), *(_folders() if folders else ())]


def _names() -> Iterator[str]:
    """Say which sections and keys are not known"""
    machines = [name for name, _ in bsettings.get_items('machines')]
    for section in bsettings.settings.sections():
        kind = _MACHINE if section.startswith(_MACHINE) else section
        if kind not in bsettings.SECTIONS:
            yield (f'{bsettings.where(section)}: there is no section [{section}], so it has no '
                   f'effect{_meant(section, bsettings.SECTIONS, "[{}]")}')
            continue
        name = section[len(_MACHINE):]
        if kind == _MACHINE and name not in machines:
            yield (f"{bsettings.where(section)}: [{section}] has no effect, as '{name}' is not in "
                   f'[machines]{_meant(name, machines)}')
        keys = bsettings.SECTIONS[kind]
        for key, _ in bsettings.get_items(section):
            if keys is not None and key not in keys:
                yield (f"{bsettings.where(section, key)}: there is no '{key}' in [{section}], so "
                       f'it has no effect{_meant(key, keys)}; there is: '
                       f"{', '.join(sorted(keys))}")


def _variables() -> Iterator[str]:
    """Say which variables of [make-flags] are used and not there"""
    items = bsettings.get_items('make-flags')
    known = {'target', *(key for key, _ in items)}
    for key, value in items:
        for name in dict.fromkeys(_VARIABLE.findall(value)):
            if name not in known:
                yield (f"{bsettings.where('make-flags', key)}: ${{{name}}} is empty, as there is "
                       f"no '{name}' in [make-flags]{_meant(name, known)}")


def _folders() -> Iterator[str]:
    """Say which folders of [toolchain] are of no use"""
    for name, value in bsettings.get_items('toolchain'):
        place = f"{bsettings.where('toolchain', name)}: '{name}' in [toolchain]"
        if not value:
            yield f'{place} has no folder'
            continue
        found = find.folders_of(value)
        if not found or not any(map(os.path.lexists, found)):
            what = 'nothing fits' if glob.has_magic(value) else 'there is no folder'
            yield f"{place}: {what} '{value}'"
        elif not any(find.compilers_in(sub) for path in found
                     for sub in find.searched_in(path)):
            yield (f"{place}: there is no compiler (a program called …gcc) in '{value}', nor in "
                   'its bin or usr/bin')


def _meant(name: str, known: Iterable[str], form: str = "'{}'") -> str:
    """Return a question whether another name was meant, '' if none is like it"""
    # Needed when something is wrong only
    import difflib
    like = difflib.get_close_matches(name.lower(), list(known), 1)
    return f' (did you mean {form.format(like[0])}?)' if like else ''
