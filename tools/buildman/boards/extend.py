# SPDX-License-Identifier: GPL-2.0+
"""Boards that are others with a few options changed: configs/*.buildman (-X).

Each entry of such a file adds a board 'NAME,BASE' for every board BASE of its
set. The format is that of upstream's buildman (0.2.0 from PyPI), as seen from
outside::

    # a comment
    name: acpi                      opens an entry
    desc: Boot with ACPI            for people
    fragment: acpi                  configs/acpi.config goes on top of the
    fragment: more                  defconfig; any number, in this order
    targets:                        may be left out, as what is in it: all boards
      CONFIG_ARM64=y                all of these must hold
      CONFIG_SYS_SOC="bcm283x"
      rpi_*                         of these one: file names in configs/, with * ? [ ]

A value is y (the symbol is set), n (it is not), a number, or a string in quotes,
and is compared with the .config that the defconfig leads to.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from typing import (
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from buildman.boards.cfgfile import Entry, read_text
from buildman.core.errors import BoardError

_SUFFIX = '.buildman'
_CONFIGS = 'configs'

_TAG = re.compile(r'(\w+):(.*)')
_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.+-]*')
_SETTING = re.compile(r'CONFIG_([A-Za-z0-9_]+)\s*=\s*(.*)')
_STRING = re.compile(r'"(?:[^\\"]|\\.)*"')
_NUMBER = re.compile(r'-?(?:0[xX][0-9a-fA-F]+|[0-9]+)')
_UNSET = re.compile(r'#\s*CONFIG_(\w+) is not set')


# Symbol -> what .config has after the '=' -> targets
Values = Dict[str, Dict[str, List[str]]]


class Setting(NamedTuple):
    """One CONFIG line.

    Attributes:
        symbol: without CONFIG_
        value: 'y', 'n', a number, or a string in quotes
        where: 'FILE:LINE'
    """

    symbol: str
    value: str
    where: str

    def holds(self, text: str) -> bool:
        """Tell whether it holds where .config has `text` after the '=', '' for no line."""
        if self.value == 'n':
            return not text
        if self.value == 'y':
            return text not in ('', 'm')
        return text == self.value or (text[:1] != '"' and self.value[:1] != '"'
                                      and _number(text) == _number(self.value) is not None)


def _number(text: str) -> Optional[int]:
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 16) if 'x' in text.lower() else int(text)


@dataclasses.dataclass
class Extension:
    """One entry.

    Attributes:
        name: what its boards begin with
        where: 'FILE:LINE' of its name
        fragments: files in configs/
        settings: all must hold
        globs: with 'FILE:LINE' each; boards must match one, if there is any
    """

    name: str
    where: str
    fragments: List[str] = dataclasses.field(default_factory=list)
    settings: List[Setting] = dataclasses.field(default_factory=list)
    globs: List[Tuple[str, str]] = dataclasses.field(default_factory=list)

    def extend(self, entry: Entry) -> Entry:
        """Return the board that it makes of another."""
        board = entry.board
        return entry._replace(board=dataclasses.replace(
            board, target=f'{self.name},{board.target}', base=board.target,
            fragments=tuple(self.fragments)))


class Extensions:
    """The entries of a tree."""

    def __init__(self, entries: Iterable[Extension], defconfigs: Iterable[str]) -> None:
        """Take the entries, and the paths of all defconfigs below configs/."""
        self.entries: Tuple[Extension, ...] = tuple(entries)
        self._defconfigs = sorted(defconfigs)
        self._names: FrozenSet[str] = frozenset(entry.name for entry in self.entries)

    @property
    def symbols(self) -> Tuple[str, ...]:
        """The Kconfig symbols that the entries name, without CONFIG_, sorted."""
        return tuple(sorted({setting.symbol for entry in self.entries
                             for setting in entry.settings}))

    def join(self, parts: Sequence[str]) -> List[str]:
        """Return targets made of the parts of a list like 'acpi,rpi_2,sandbox'.

        The name of an entry and what follows are one target, unless there is
        a board of that name: 'sandbox,rpi_2' are two boards in any case.
        """
        out: List[str] = []
        todo = list(parts)
        while todo:
            name = todo.pop(0)
            if todo and name in self._names and f'{name}_defconfig' not in self._defconfigs:
                name = f'{name},{todo.pop(0)}'
            out.append(name)
        return out

    def apply(self, entries: Sequence[Entry], values: Optional[Values],
              whole: bool = True) -> Tuple[List[Entry], List[str]]:
        """Return the boards that are added, by entry and then in the order of the others.

        Args:
            entries: the boards that there are
            values: symbol -> value -> targets; None: not known
            whole: `entries` are all boards of the tree

        Returns:
            the boards, and warnings about lines that no board matches

        Raises:
            BoardError: a target comes twice, or values are needed and not known
        """
        out: List[Entry] = []
        warnings: List[str] = []
        origin: Dict[str, str] = {}
        for extension in self.entries:
            told, count = len(warnings), len(out)
            chosen = self._matching(extension, warnings)
            for setting in extension.settings:
                if values is None:
                    raise BoardError(f'{setting.where}: CONFIG_{setting.symbol} needs Kconfig and '
                                     "kconfiglib; try 'pip install kconfiglib'")
                found = _holding(setting, values.get(setting.symbol, {}), entries)
                if whole and not found:
                    warnings.append(f'WARNING: {setting.where}: no board has '
                                    f'CONFIG_{setting.symbol}={setting.value}')
                chosen = found if chosen is None else chosen & found
            for entry in entries:
                if chosen is not None and entry.board.target not in chosen:
                    continue
                more = extension.extend(entry)
                target = more.board.target
                if target in origin:
                    raise BoardError(f"{extension.where}: board '{target}' is there twice, the "
                                     f'first from {origin[target]}; rename one of the entries')
                origin[target] = extension.where
                out.append(more)
            if whole and len(out) == count and len(warnings) == told:
                warnings.append(f"WARNING: {extension.where}: no board is all that '"
                                f"{extension.name}' asks for")
        return out, warnings

    def _matching(self, extension: Extension, warnings: List[str]) -> Optional[FrozenSet[str]]:
        """Return the targets that one of the globs matches, None if there is no glob"""
        if not extension.globs:
            return None
        found: List[str] = []
        for pattern, where in extension.globs:
            parts = pattern.split('/')
            paths = [path for path in self._defconfigs
                     if len(path.split('/')) == len(parts)
                     and all(map(fnmatch.fnmatchcase, path.split('/'), parts))]
            if not paths:
                hint = ''
                if f'{pattern}_defconfig' in self._defconfigs:
                    hint = f", did you mean '{pattern}_defconfig'?"
                warnings.append(f"WARNING: {where}: no defconfig matches '{pattern}'{hint}")
            found += paths
        return frozenset(path.rpartition('/')[2][:-len('_defconfig')] for path in found)


def _holding(setting: Setting, values: Mapping[str, List[str]],
             entries: Sequence[Entry]) -> FrozenSet[str]:
    """Return the boards for which a CONFIG line holds"""
    if setting.value == 'n':
        away = frozenset(target for targets in values.values() for target in targets)
        return frozenset(entry.board.target for entry in entries) - away
    return frozenset(target for text, targets in values.items() if setting.holds(text)
                     for target in targets)


def read_extensions(source_dir: str) -> Extensions:
    """Return the entries of all configs/*.buildman files of a tree.

    A tree may well have none.

    Raises:
        BoardError: a file cannot be read or is wrong; names file and line
    """
    top = os.path.join(source_dir, _CONFIGS)
    entries: List[Extension] = []
    try:
        names = sorted(name for name in os.listdir(top)
                       if name.endswith(_SUFFIX) and name[0] != '.')
    except OSError:
        return Extensions((), ())
    for name in names:
        path = f'{_CONFIGS}/{name}'
        text = read_text(os.path.join(source_dir, path), path)
        entries += parse(text, path, lambda name: os.path.isfile(os.path.join(top, name)))
    if not entries:
        return Extensions((), ())
    defconfigs: List[str] = []
    for folder, _, files in os.walk(top):
        below = os.path.relpath(folder, top).replace(os.sep, '/')
        defconfigs += [name if below == '.' else f'{below}/{name}' for name in files
                       if name.endswith('_defconfig')]
    return Extensions(entries, defconfigs)


class _Parser:
    """Reads one file."""

    def __init__(self, path: str, exists: Callable[[str], bool]) -> None:
        self._path = path
        self._exists = exists
        self._where = path
        self._in_targets = False
        self.entries: List[Extension] = []

    def _fail(self, why: str) -> BoardError:
        return BoardError(f'{self._where}: {why}')

    def line(self, number: int, text: str) -> None:
        """Take one line.

        Raises:
            BoardError: it is wrong
        """
        self._where = f'{self._path}:{number}'
        words = text.strip()
        unset = _UNSET.match(words)
        if unset and text[0] != '#':
            raise self._fail(f"'{words}' is a comment here; write CONFIG_{unset.group(1)}=n")
        if not words or words[0] == '#':
            return
        if text[0].isspace():
            if not self._in_targets:
                raise self._fail(f"'{words[:60]}' is indented, but not below 'targets:'")
            self._condition(words)
        else:
            self._tag(words)

    def _tag(self, words: str) -> None:
        """Take a line that is not indented"""
        match = _TAG.fullmatch(words)
        if not match or match.group(1) not in ('name', 'desc', 'fragment', 'targets'):
            raise self._fail(f"'{words[:60]}' is none of name: desc: fragment: targets:; what "
                             "belongs to 'targets:' is indented")
        tag, value = match.group(1), match.group(2).strip()
        self._in_targets = tag == 'targets'
        if tag == 'name':
            if not _NAME.fullmatch(value):
                raise self._fail(f"'{value}' cannot be part of the name of a board: use letters, "
                                 'digits and _ . + -')
            self.entries.append(Extension(value, self._where))
            return
        if not self.entries:
            raise self._fail(f"'{tag}:' comes before any 'name:'")
        if tag == 'fragment':
            if not _NAME.fullmatch(value):
                raise self._fail(f"'{value}' is not the name of a fragment: for configs/x.config "
                                 "it is 'x'")
            if not self._exists(f'{value}.config'):
                raise self._fail(f"fragment '{_CONFIGS}/{value}.config' does not exist")
            self.entries[-1].fragments.append(f'{value}.config')
        elif tag == 'targets' and value:
            raise self._fail(f"'{value[:60]}' must be on a line of its own, indented")

    def _condition(self, words: str) -> None:
        """Take a line that tells which boards are meant"""
        entry = self.entries[-1]
        match = _SETTING.fullmatch(words)
        if not match:
            if words.startswith('CONFIG_') or '=' in words or len(words.split()) > 1:
                raise self._fail(f"'{words[:60]}' is neither CONFIG_X=value nor the name of a "
                                 'defconfig')
            entry.globs.append((words, self._where))
            return
        symbol, value = match.groups()
        if value not in ('y', 'n') and not _NUMBER.fullmatch(value) and (
                not _STRING.fullmatch(value)):
            raise self._fail(f"CONFIG_{symbol}={value[:60]}: the value must be y, n, a number or "
                             'a "string" in quotes')
        entry.settings.append(Setting(symbol, value, self._where))


def parse(text: str, path: str, exists: Callable[[str], bool]) -> List[Extension]:
    """Return the entries of a .buildman file.

    Args:
        text: what it holds
        path: its name, for messages
        exists: tells whether there is a file of that name in configs/

    Raises:
        BoardError: a line is wrong; names it
    """
    parser = _Parser(path, exists)
    for number, line in enumerate(text.split('\n'), 1):
        parser.line(number, line)
    return parser.entries
