# SPDX-License-Identifier: GPL-2.0+
"""The boards.cfg file: one line for each board, in aligned columns.

The format is that of the boards.cfg which U-Boot tracked until 2014, and
which buildman keeps beside its results. Lines that begin with '#' are
comments. The others hold nine columns, apart by white space, '-' for what is
not there: status, arch, CPU, SoC, vendor, board, target, config name and
maintainers, these joined by ':' (their names hold white space).
"""

from __future__ import annotations

import os
import re
from typing import Iterable, List, NamedTuple, Tuple

from buildman.core.errors import BoardError, SetupError
from buildman.core.files import replace_text
from buildman.core.plan import Board

_HEADER = '''#
# The boards of this U-Boot tree
#   Written by buildman and replaced when Kconfig, a defconfig or MAINTAINERS change
#
# Status, Arch, CPU, SoC, Vendor, Board, Target, Config, Maintainers

'''

_COLUMNS = 8

# A ':' between two maintainers; one inside a name is followed by a blank
_BETWEEN = re.compile(r':(?!\s)')


class Entry(NamedTuple):
    """A board and what only the board list needs of it.

    Attributes:
        board: the board
        config: CONFIG_SYS_CONFIG_NAME, '' when it has none
    """

    board: Board
    config: str


def _columns(entry: Entry) -> Tuple[str, ...]:
    board = entry.board
    fields = (board.status, board.arch, board.cpu, board.soc, board.vendor,
              board.board_name, board.target, entry.config)
    return (*(field or '-' for field in fields), ':'.join(board.maintainers))


def _order(row: Tuple[str, ...]) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Return what rows are sorted by: the columns, capitals beside small letters."""
    return tuple(word.lower() for word in row), row


def sort_entries(entries: Iterable[Entry]) -> List[Entry]:
    """Return the entries in the order of the file."""
    return sorted(entries, key=lambda entry: _order(_columns(entry)))


def format_entries(entries: Iterable[Entry]) -> str:
    """Return the text of a boards.cfg, sorted."""
    rows = sorted((_columns(entry) for entry in entries), key=_order)
    widths = [max((len(row[pos]) for row in rows), default=0)
              for pos in range(_COLUMNS)]
    widths.append(0)
    lines = ('  '.join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return _HEADER + ''.join(f'{line}\n' for line in lines)


def parse_entries(text: str, name: str) -> List[Entry]:
    """Return the boards in the text of a boards.cfg, in the order of the text.

    Args:
        text: what the file holds
        name: path of the file, for messages

    Raises:
        BoardError: a line is not of the format, or a target is there twice
    """
    entries: List[Entry] = []
    seen = set()
    for num, line in enumerate(text.splitlines(), 1):
        if line.startswith('#') or not line.strip():
            continue
        words = line.split(None, _COLUMNS)
        if len(words) < _COLUMNS:
            raise BoardError(f'{name}:{num}: {len(words)} columns instead of '
                             f'{_COLUMNS}; remove the file to have it made again')
        status, arch, *rest = words[:_COLUMNS]
        cpu, soc, vendor, board, target, config = (
            '' if word == '-' else word for word in rest)
        if not target or '/' in target:
            raise BoardError(f"{name}:{num}: '{target or '-'}' is not a board")
        if target in seen:
            raise BoardError(f"{name}:{num}: board '{target}' is there twice")
        seen.add(target)
        people = words[_COLUMNS].strip() if len(words) > _COLUMNS else ''
        entries.append(Entry(Board(
            target=target, arch=arch, cpu=cpu, board_name=board, vendor=vendor,
            soc=soc, status=status,
            maintainers=tuple(_BETWEEN.split(people)) if people else ()), config))
    return entries


def read_text(path: str, name: str = '') -> str:
    """Return what is in a file of the tree, for errors called `name`.

    Raises:
        BoardError: it cannot be read, or is no text
    """
    try:
        with open(path, encoding='utf-8') as inf:
            return inf.read()
    except UnicodeDecodeError as exc:
        raise BoardError(f'{name or path}: not a text file: {exc}') from exc
    except OSError as exc:
        raise BoardError(f'{name or path}: cannot be read: {exc.strerror}') from exc


def read_entries(path: str) -> List[Entry]:
    """Return the boards in a boards.cfg file.

    Raises:
        BoardError: the file cannot be read or is damaged
    """
    try:
        with open(path, encoding='utf-8') as inf:
            text = inf.read()
    except UnicodeDecodeError as exc:
        raise BoardError(f'{path}: not a text file: {exc}') from exc
    except OSError as exc:
        raise BoardError(f'{path}: {exc.strerror}') from exc
    return parse_entries(text, path)


def write_atomically(path: str, text: str) -> None:
    """Replace a file by rename, so that nobody sees a part of it.

    The folder is made when it is not there. What is there and is not a plain
    file (/dev/stdout) is written to as it is.

    Raises:
        SetupError: it cannot be written
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(text)
            return
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        umask = os.umask(0)
        os.umask(umask)
        replace_text(path, text, 0o666 & ~umask)
    except OSError as exc:
        raise SetupError(f'{path}: cannot be written: {exc.strerror}') from exc
