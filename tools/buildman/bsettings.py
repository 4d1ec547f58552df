# SPDX-License-Identifier: GPL-2.0+
"""The configuration file, `~/.buildman` or what -G names.

An INI file: `[toolchain]`, `[toolchain-prefix]`, `[toolchain-alias]`,
`[toolchain-wrapper]`, `[toolchain-fetch]`, `[make-flags]`, `[machines]`,
`[machine:NAME]` and a few more, see SECTIONS. Keys keep their case, as they name
boards and hosts; a key may stand without a value; '%' has no meaning.
"""

from __future__ import annotations

import configparser
import os
import re
from typing import Dict, FrozenSet, List, Optional, Tuple

from buildman.core.errors import SetupError, UsageError
from buildman.core.files import replace_text

# What holds when there is no ~/.buildman: compilers of the system are found
# without any set-up
DEFAULT_TEXT = '''\
[toolchain]
# name = path of a folder with compilers; searched also in its bin and usr/bin
other = /

[toolchain-prefix]
# arch = prefix that must be used for it
# e.g. arm = /opt/gcc-13/bin/arm-linux-gnueabi-

[toolchain-alias]
# arch = other names under which a compiler for it may be found
riscv = riscv32
sh = sh4
x86 = i386

[make-flags]
# board = words to add to its make commands
# e.g. qemu_arm = ${tag} DEBUG=1
#      tag = BUILD_TAG=442

[machines]
# one host a line, or name = user@host
'''

# The sections that have a meaning, each with its keys; None: any key has one. That
# of a machine is called [machine:NAME].
SECTIONS: Dict[str, Optional[FrozenSet[str]]] = {
    'global': frozenset(('allow-missing',)),
    'toolchain': None,
    'toolchain-prefix': None,
    'toolchain-alias': None,
    'toolchain-wrapper': None,
    'toolchain-fetch': frozenset(('url',)),
    'make-flags': None,
    'machines': None,
    'image': None,
    'machine:': frozenset(('max_boards', 'work_dir', 'ssh_options', 'transport', 'max_load',
                           'other_gcc', 'supply', 'count', 'idle', 'cpus', 'memory', 'time',
                           'partition', 'options')),
    'worker-env': None,
    'distributed': frozenset(('heartbeat',)),
    'result-cache': frozenset(('folder', 'mode', 'size')),
}


def _new_parser() -> configparser.ConfigParser:
    """Return an empty set of settings."""
    parser = configparser.ConfigParser(allow_no_value=True, delimiters=('=', ':'),
                                       comment_prefixes=('#', ';'), interpolation=None,
                                       default_section='', strict=True)
    # Boards and hosts differ by case
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    return parser


# Replaced by setup(); code looks it up in here each time
settings = _new_parser()

# Path of the file that was read, with ~ expanded; '' for none
config_fname = ''

# True when there was no configuration file, and the defaults hold
is_default = False

# Where in the file each section, with '' as key, and each key is: its line
_lines: Dict[Tuple[str, str], int] = {}


def setup(fname: Optional[str] = '') -> None:
    """Read the configuration, forgetting what was read before.

    Args:
        fname: file to read; '' for ~/.buildman, which need not exist; None to
            have no settings but those that add_file() adds

    Raises:
        UsageError: the file is not there, cannot be read or has an error
    """
    global settings, config_fname, is_default
    settings = _new_parser()
    is_default = False
    config_fname = ''
    _lines.clear()
    if fname is None:
        return
    path = config_fname = os.path.expanduser(fname or '~/.buildman')
    if not fname and not os.path.lexists(path):
        is_default = True
        add_file(DEFAULT_TEXT)
        return
    text = _read(path)
    _parse(text, path)
    _lines.update(_find_lines(text))


def add_file(text: str) -> None:
    """Add settings from a text in the form of the configuration file.

    Raises:
        UsageError: it has an error
    """
    _parse(text, '<text>')


def _read(path: str) -> str:
    """Return the text of a configuration file.

    Raises:
        UsageError: it is not there, cannot be read or is not UTF-8
    """
    what = f"configuration file '{path}'"
    try:
        with open(path, 'rb') as inf:
            data = inf.read()
    except OSError as exc:
        raise UsageError(f'{what}: {exc.strerror}') from exc
    try:
        return data.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    except UnicodeDecodeError as exc:
        line = data[:exc.start].count(b'\n') + 1
        raise UsageError(f'{what}, line {line}: not UTF-8') from exc


def _parse(text: str, path: str) -> None:
    """Add the settings in `text` to those that there are.

    Raises:
        UsageError: it has an error; says where
    """
    what = f"configuration file '{path}'"
    try:
        settings.read_string(text, path)
    except configparser.MissingSectionHeaderError as exc:
        raise UsageError(f'{what}, line {exc.lineno}: no [section] before '
                         f'{exc.line.strip()!r}') from exc
    except configparser.DuplicateSectionError as exc:
        raise UsageError(f'{what}, line {exc.lineno}: section [{exc.section}] '
                         'is there twice') from exc
    except configparser.DuplicateOptionError as exc:
        raise UsageError(f"{what}, line {exc.lineno}: '{exc.option}' is there twice in "
                         f'[{exc.section}]') from exc
    except configparser.ParsingError as exc:
        bare = _indented_line(text)
        if bare:
            raise UsageError(f'{what}{bare}: an indented line after a line '
                             'without a value') from exc
        # Python 3.13 has a kind of its own for a continued line, without `core.errors`
        number = getattr(exc, 'lineno', None) or exc.errors[0][0]
        line = text.split('\n')[number - 1].strip()
        raise UsageError(f'{what}, line {number}: cannot understand {line!r}') from exc
    except configparser.Error as exc:
        raise UsageError(f'{what}: {exc}') from exc
    except (AttributeError, TypeError) as exc:
        # configparser trips over a continued line after a key without value
        raise UsageError(f'{what}{_indented_line(text)}: an indented line after a line '
                         'without a value') from exc


def _indented_line(text: str) -> str:
    """Return ', line N' for the first line that continues one without a value."""
    bare = False
    for number, line in enumerate(text.split('\n'), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in '#;':
            continue
        if line[0].isspace() and bare:
            return f', line {number}'
        bare = not set(stripped) & set('=:[')
    return ''


def _find_lines(text: str) -> Dict[Tuple[str, str], int]:
    """Return the line of each section, with '' as key, and of each key in a text."""
    found: Dict[Tuple[str, str], int] = {}
    section = ''
    for number, line in enumerate(text.split('\n'), 1):
        header = re.match(r'\s*\[(.+)\]', line)
        if header:
            section = header.group(1)
            found[section, ''] = number
        elif line.strip() and not line[0].isspace() and line[0] not in '#;':
            found[section, re.split('[=:]', line, maxsplit=1)[0].rstrip()] = number
    return found


def where(section: str, name: str = '') -> str:
    """Return the place of a section or key in words: file and, if it is known, line."""
    line = _lines.get((section, name))
    return f"configuration file '{config_fname}'" + (f', line {line}' if line else '')


def get_items(section: str) -> List[Tuple[str, str]]:
    """Return the (name, value) pairs of a section in the order of the file.

    A key without a value has ''; a value over several lines has them joined
    with newlines; a section that is not there is empty.
    """
    if not settings.has_section(section):
        return []
    return [(name, value or '') for name, value in settings.items(section)]


def get_value(section: str, name: str, default: str = '') -> str:
    """Return one value, `default` when it is missing or empty."""
    return settings.get(section, name, fallback=None) or default


def get_int(section: str, name: str, default: int = 0) -> int:
    """Return a whole number >= 0, `default` when it is missing or empty.

    Raises:
        UsageError: it is something else
    """
    text = get_value(section, name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"configuration file '{config_fname}': '{name}' in [{section}] is "
                         f"{text!r}: a number is needed")
    return int(text)


def get_bool(section: str, name: str, default: bool = False) -> bool:
    """Return a choice: yes, no, on, off, true, false, 1 or 0.

    Raises:
        UsageError: it is something else
    """
    text = get_value(section, name)
    if not text:
        return default
    states = configparser.ConfigParser.BOOLEAN_STATES
    if text.lower() not in states:
        raise UsageError(f"configuration file '{config_fname}': '{name}' in [{section}] is "
                         f"{text!r}: use 'yes' or 'no'")
    return states[text.lower()]


def set_item(section: str, name: str, value: str) -> None:
    """Set a value, here and in the configuration file, keeping all else in it.

    The file is made, from the defaults, when there is none; it is replaced as
    a whole, so that it is never seen half-written.

    Raises:
        SetupError: the file cannot be written
        UsageError: the file was changed meanwhile and has an error now
    """
    global is_default
    path = config_fname or os.path.expanduser('~/.buildman')
    text = _read(path) if os.path.exists(path) else DEFAULT_TEXT
    _write(path, _with_item(text, section, name, value))
    is_default = False
    if not settings.has_section(section):
        settings.add_section(section)
    settings.set(section, name, value)


def _with_item(text: str, section: str, name: str, value: str) -> str:
    """Return the text of a configuration file with one value set."""
    lines = text.splitlines()
    entry = f'{name} = {value}'
    start: Optional[int] = None
    end = len(lines)
    for pos, line in enumerate(lines):
        stripped = line.strip()
        if not (stripped.startswith('[') and ']' in stripped) or line[:1].isspace():
            continue
        if start is not None:
            end = pos
            break
        if stripped[1:stripped.index(']')] == section:
            start = pos
    if start is None:
        if lines and lines[-1].strip():
            lines.append('')
        return '\n'.join([*lines, f'[{section}]', entry]) + '\n'
    for pos in range(start + 1, end):
        line = lines[pos]
        key = line.replace(':', '=', 1).split('=', 1)[0].strip()
        if key == name and not line[:1].isspace() and line[:1] not in '#;':
            stop = pos + 1
            while stop < end and lines[stop][:1].isspace() and lines[stop].strip():
                stop += 1
            lines[pos:stop] = [entry]
            return '\n'.join(lines) + '\n'
    while end > start + 1 and not lines[end - 1].strip():
        end -= 1
    lines.insert(end, entry)
    return '\n'.join(lines) + '\n'


def _write(path: str, text: str) -> None:
    """Write a configuration file by renaming a new one over it.

    Raises:
        SetupError: it cannot be written
    """
    # A link stays a link: what it points to is replaced
    path = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode & 0o7777 if os.path.exists(path) else 0o644
        replace_text(path, text, mode)
    except OSError as exc:
        raise SetupError(f"cannot write configuration file '{path}': {exc.strerror}") from exc
