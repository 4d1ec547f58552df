# SPDX-License-Identifier: GPL-2.0+
"""Who looks after a board, from the MAINTAINERS files of a tree.

The format is described at the top of U-Boot's MAINTAINERS: sections apart by
an empty line, each line with a letter: `M:` a maintainer, `S:` the status,
`F:` a file or pattern, `N:` a regular expression for names. U-Boot's files
also write `#M:` for a maintainer of whom no mail is to be sent.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from typing import Dict, Iterable, List, NamedTuple, Pattern, Sequence, Tuple

_ACTIVE = ('Maintained', 'Supported')
_ORPHAN = 'Orphan'
_MAGIC = frozenset('*?[')
SUFFIX = '_defconfig'


class Section(NamedTuple):
    """One entry of a MAINTAINERS file.

    Attributes:
        maintainers: 'Name <mail>' each, without those that are just '-'
        status: as written, '-' when there is no S: line
        files: patterns of F:
        names: regular expressions of N:
    """

    maintainers: Tuple[str, ...]
    status: str
    files: Tuple[str, ...]
    names: Tuple[str, ...]


class Owner(NamedTuple):
    """What is known of a board: 'Active' or '-', and its maintainers."""

    status: str
    maintainers: Tuple[str, ...]


def decode(data: bytes) -> str:
    """Return text that is UTF-8, or Latin-1 as old files are."""
    try:
        return data.decode('utf-8')
    except UnicodeDecodeError:
        return data.decode('latin-1')


def parse_maintainers(text: str) -> List[Section]:
    """Return the sections of a MAINTAINERS file that name files or targets.

    Never fails: lines of any other form are not of interest.
    """
    sections: List[Section] = []
    people: List[str] = []
    files: List[str] = []
    names: List[str] = []
    status = '-'
    # An empty line at the end closes the last section
    for line in [*text.replace('\r', '').split('\n'), '']:
        tag = line[:2]
        if tag == 'F:':
            files.append(line[2:].strip())
        elif tag == 'M:':
            people.append(line[2:].strip())
        elif tag == 'S:':
            status = line[2:].strip()
        elif tag == 'N:':
            names.append(line[2:].strip())
        elif tag == '#M' and line[2:3] == ':':
            people.append(line[3:].strip())
        elif not line:
            if files or names:
                sections.append(Section(
                    tuple(person for person in people if person != '-'),
                    status, tuple(files), tuple(names)))
            people, files, names, status = [], [], [], '-'
    return sections


def compile_regex(pattern: str) -> Pattern[str]:
    """Return the compiled form of what a user has written.

    Raises:
        ValueError: it is no regular expression; says why
    """
    try:
        with warnings.catch_warnings():
            # What Python may read otherwise one day is not the user's concern
            warnings.simplefilter('ignore', FutureWarning)
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc


class Owners:
    """Finds the owner of each target; of several sections the last counts."""

    def __init__(self, targets: Sequence[str]) -> None:
        """Take the names of all boards that are to be looked for."""
        self.targets = targets
        self.warnings: List[str] = []
        self._known = set(targets)
        self._sections: Dict[str, Section] = {}

    def add(self, text: str, name: str) -> None:
        """Take the text of a MAINTAINERS file; later ones go before earlier ones.

        Args:
            text: what the file holds
            name: its path, for messages
        """
        for section in parse_maintainers(text):
            for pattern in section.files:
                for target in self._match(pattern):
                    self._sections[target] = section
            for pattern in section.names:
                try:
                    rexp = compile_regex(pattern)
                except ValueError as exc:
                    self.warnings.append(f"WARNING: {name}: 'N: {pattern}' is not a "
                                         f'regular expression: {exc}')
                    continue
                for target in self.targets:
                    if rexp.search(target):
                        self._sections[target] = section

    def _match(self, pattern: str) -> Iterable[str]:
        """Return the targets whose defconfig a pattern of F: names."""
        if _MAGIC.isdisjoint(pattern):
            if pattern.startswith('configs/') and pattern.endswith(SUFFIX):
                target = pattern[len('configs/'):-len(SUFFIX)]
                if target in self._known:
                    return (target,)
            return ()
        parts = pattern.split('/')
        if len(parts) != 2 or not fnmatch.fnmatchcase('configs', parts[0]):
            return ()
        rexp = re.compile(fnmatch.translate(parts[1]))
        return [target for target in self.targets if rexp.match(target + SUFFIX)]

    def find(self, target: str) -> Owner:
        """Return the owner of a target and note a warning if there is none."""
        section = self._sections.get(target)
        if section is None or not section.maintainers or \
                section.status.startswith(_ORPHAN):
            self.warnings.append(f"WARNING: no maintainers for '{target}'")
            return Owner('-', ())
        if section.status.startswith(_ACTIVE):
            return Owner('Active', section.maintainers)
        self.warnings.append(
            f"WARNING: {section.status}: unknown status for '{target}'")
        return Owner('-', section.maintainers)
