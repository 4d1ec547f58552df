# SPDX-License-Identifier: GPL-2.0+
"""What a build says: the same text from every slot, and whose fault it tells of."""

from __future__ import annotations

import os
import re

# make says this when one of its parallel jobs failed, depending on what else
# was running at that moment; with one job it never does
_UNFINISHED = re.compile(r'^make(\[\d+\])?: \*\*\* Waiting for unfinished jobs\.*\n?',
                         re.MULTILINE)

# Where a path begins with the way from the build folder up to the source
_UP = re.compile(r'(?<![\w./-])\.\./(?=\w)')

# Failures that speak of the machine rather than of the source
_INFRA = (
    (re.compile(r'No space left on device'), 'no space left'),
    (re.compile(r'(?:Disk quota exceeded)'), 'disk quota exceeded'),
    (re.compile(r'(?:Cannot allocate memory|virtual memory exhausted|out of memory allocating)'),
     'out of memory'),
    (re.compile(r'(?:\bKilled(?: signal terminated program)?\b|Terminated signal terminated)'),
     'a compiler was killed'),
    (re.compile(r'(\S+): (?:command )?not found\s*$', re.MULTILINE), 'a command was not found'),
    (re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'"), 'a Python module is missing'),
    (re.compile(r'Read-only file system|Input/output error'), 'the disk fails'),
)


def infra_reason(return_code: int, stderr: str) -> str:
    """Tell whether a failed build speaks of the machine, not of the source.

    Returns:
        what is wrong, '' when this is a verdict on the source
    """
    if return_code == 0:
        return ''
    if return_code in (126, 127):
        return 'make cannot be run'
    if return_code > 128:
        return f'make was ended by signal {return_code - 128}'
    for regex, reason in _INFRA:
        match = regex.search(stderr)
        if match:
            detail = f' ({match.group(1)})' if match.groups() else ''
            return reason + detail
    return ''


class Tidier:
    """Takes the folders of one slot out of what is said in it."""

    def __init__(self, source: str, build: str, own: bool) -> None:
        """Set up.

        Args:
            source: folder that make is started in
            build: the build folder (O=)
            own: it is the slot's; else its name is part of what was asked for
        """
        names = {}
        if own:
            names.update({build: 'build', os.path.realpath(build): 'build'})
        names.update({source: '.', os.path.realpath(source): '.'})
        self._folders = [(folder, name, re.compile(re.escape(folder) + r'(?![\w.-])'))
                         for folder, name in names.items()]

    def text(self, text: str) -> str:
        """Return text with `build` for the build folder and without that of the source."""
        for folder, name, regex in self._folders:
            if folder not in text:
                continue
            if name == '.':
                text = text.replace(folder + '/', '')
            text = regex.sub(name, text)
        return text

    def said(self, data: bytes, commands: bool = False) -> str:
        """Return output with paths relative to the source.

        Args:
            data: what make wrote
            commands: it has commands, which only make sense as they are
        """
        if not data:
            return ''
        text = self.text(data.decode('utf-8', 'replace'))
        return text if commands else _UP.sub('', text)

    def complaints(self, data: bytes) -> str:
        """Return what make wrote to stderr, less what depends on chance."""
        return _UNFINISHED.sub('', self.said(data))
