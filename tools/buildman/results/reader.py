# SPDX-License-Identifier: GPL-2.0+
"""The one reader of the result tree.

The tree is `OUT/BRANCH/NN_g<hash>_<subject>/BOARD/`, or `OUT/current/BOARD/`
without a branch. A board's folder counts once its `done` exists, since that is
written last. This module finds the folders, reads the files and knows their
formats; it compares nothing.

Formats:

`done`
    make's exit status in decimal.
`err`
    what make wrote to stderr, absent or empty when that is nothing.
`sizes`
    a line per image as binutils' `size` prints it (text, data, bss, then
    their sum in decimal and hex, then the file name), with the size of
    .rodata in hex at the end.
`*.sizes`
    what `nm --size-sort` of binutils up to 2.46 prints for one image: size in hex,
    type, symbol.
`*.cfg`, `autoconf.h`
    `#define CONFIG_NAME value`, from the C preprocessor.
`.config`, `autoconf*.mk`
    `CONFIG_NAME=value`, from Kconfig.
`uboot.env`
    `name=value`, each ended by a NUL.
`host`
    name of the machine that built the board.
`lines`
    a line per source with the numbers of its lines that gave code, see
    `build.dwarflines`.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from typing import Container, Dict, Iterable, List, Optional, Sequence, Set, Tuple

# What became of a board at a commit. The order is from best to worst, and
# decides on which side of a change a board stands.
OK, WARNING, ERROR, UNKNOWN = range(4)
STATUS_NAMES = ('ok', 'warning', 'error', 'not-built')

# Files that hold a configuration, in the order in which changes are shown.
# The first three are what a build was really made with.
CONFIG_FILES = ('u-boot.cfg', 'u-boot-spl.cfg', 'u-boot-tpl.cfg')
KCONFIG_FILES = ('.config', 'autoconf.mk', 'autoconf-spl.mk', 'autoconf-tpl.mk',
                 'autoconf.h')

# Kinds of symbol that are counted: code, data and bss, local and global, and
# local read-only data. Global read-only data, weak and common symbols are left
# out, as in the numbers that people compare with.
SYMBOL_TYPES = frozenset((b't', b'T', b'd', b'D', b'b', b'B', b'r'))

# Digits of a size there, with 32 and 64 bits
_WIDTHS = (8, 16)

# Entries of OUT/BRANCH that are not a commit's results
_OWN_NAMES = re.compile(r'boards\.cfg$|current$|joblog$|worker-.*\.log$|\.')
_COMMIT_FOLDER = re.compile(r'\d+_g([0-9a-f]{7,64})_')
# With -X, 'NAME,BASE'
_BOARD_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:,[A-Za-z0-9_.+-]+)?$')

# The box that U-Boot's Makefile draws around a migration warning
_BOX_TOP = '===================== WARNING ======================\n'
_BOX_END = re.compile(r'^=+\n', re.MULTILINE)
_DTB_WARNING = re.compile(r'.*: Warning ')

# A line of a `lines` file
_NUMBERS = r'[1-9][0-9]{0,6}(?:-[1-9][0-9]{0,6})?'
_SOURCE_LINES = re.compile(f'(.+): ({_NUMBERS}(?:,{_NUMBERS})*)')

# No source has more lines
MAX_LINE_NUMBER = 1_000_000

# Most files are shorter, and need one read only
_READ_SIZE = 1 << 12

# Region name to bytes for one image, see parse_sizes()
Regions = Dict[str, int]
ImageSizes = Dict[str, Regions]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something in the tree that is damaged or should not be there.

    Attributes:
        kind: what is wrong, the same text for each of its sort
        path: the file or folder
    """

    kind: str
    path: str


# ------------------------------------------------------------------ formats


def parse_done(raw: bytes) -> Optional[int]:
    """Return the exit status that a `done` file holds, None when damaged."""
    if raw in (b'0', b'0\n'):
        return 0
    try:
        return int(raw.split(b'\n', 1)[0])
    except ValueError:
        return None


def decode(raw: bytes) -> Tuple[str, bool]:
    """Return the text of a file with each kind of line end as a newline.

    Returns:
        the text, with a replacement character for each byte that is not
        UTF-8, and whether all of it was UTF-8
    """
    clean = True
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors='replace')
        clean = False
    if '\r' in text:
        text = text.replace('\r\n', '\n').replace('\r', '\n')
    return text, clean


def _drop_migration_boxes(text: str) -> str:
    """Return `text` without its migration warnings.

    All from the first box's heading to the last line of nothing but '=' goes,
    so what is printed between two boxes is lost with them.
    """
    start = 0 if text.startswith(_BOX_TOP) else text.find('\n' + _BOX_TOP) + 1
    if not start and not text.startswith(_BOX_TOP):
        return text
    body = start + len(_BOX_TOP)
    end = -1
    for match in _BOX_END.finditer(text, body):
        end = match.end()
    return text if end < 0 else text[:start] + text[end:]


def err_lines(text: str, no_dtb: bool = False, no_migration: bool = False) -> List[str]:
    """Return the lines of an `err` file that count, without line ends.

    Args:
        text: contents of the file
        no_dtb: leave out warnings of the device-tree compiler
        no_migration: leave out migration warnings. All lines then come with
            an empty one between them. This is how it has always been, and is
            part of the verdict: a board of which two lines are left out still
            has a warning.
    """
    if no_migration:
        doubled = text.replace('\n', '\n\n')
        if text.endswith('\n'):
            doubled = doubled[:-1]
        lines = _drop_migration_boxes(doubled).splitlines()
    else:
        lines = text.split('\n')
        if not lines[-1]:
            lines.pop()
    if no_dtb:
        lines = [line for line in lines if not is_dtb_warning(line)]
    return lines


def is_dtb_warning(line: str) -> bool:
    """Return whether a line is a warning of the device-tree compiler."""
    return ': Warning ' in line and bool(_DTB_WARNING.match(line))


def parse_sizes(raw: bytes) -> Tuple[ImageSizes, bool]:
    """Return what a `sizes` file holds.

    Returns:
        for each image the bytes of 'all' (what is loaded, and bss), 'text'
        (code, without read-only data), 'data', 'bss' and 'rodata'; and whether
        each line could be read
    """
    images: ImageSizes = {}
    clean = True
    for line in raw.split(b'\n'):
        fields = line.split()
        if not fields:
            continue
        try:
            text, data, bss = int(fields[0]), int(fields[1]), int(fields[2])
            rodata = int(fields[6], 16) if len(fields) > 6 else 0
            name = fields[5].decode(errors='replace')
        except (ValueError, IndexError):
            clean = False
            continue
        images[name] = {'all': text + data + bss, 'text': text - rodata,
                        'data': data, 'bss': bss, 'rodata': rodata}
    return images, clean


def symbol_name(name: bytes) -> bytes:
    """Return the name under which a symbol is counted.

    The compiler makes names of its own by adding a dot and a number, which
    changes from build to build; all that start alike are counted together.
    """
    dot = name.find(b'.', 1)
    return name if dot < 0 else b'static.' + name.split(b'.', 1)[0]


def parse_symbols(raw: bytes) -> Tuple[Dict[bytes, int], bool]:
    """Return what nm found in one image.

    A symbol that takes half of all memory or more is left out: nm of binutils 2.47
    gives the last one 2^64 less something, where it has no size.

    Returns:
        bytes for each symbol, those of one name added up; and whether each
        line could be read
    """
    sizes: Dict[bytes, int] = {}
    clean = True
    for line in raw.split(b'\n'):
        fields = line.split()
        if len(fields) != 3 or fields[1] not in SYMBOL_TYPES:
            # Not one that has no name: then a blank is the last that there is
            if fields and len(fields) < 3 and not (len(fields) == 2 and line[-1:] == b' '):
                clean = False
            continue
        try:
            size = int(fields[0], 16)
        except ValueError:
            clean = False
            continue
        if len(fields[0]) in _WIDTHS and fields[0][0] in b'89abcdef':
            continue
        name = symbol_name(fields[2])
        sizes[name] = sizes.get(name, 0) + size
    return sizes, clean


def config_item(line: bytes, as_is: bool) -> Optional[Tuple[bytes, bytes]]:
    """Return the option and the value that one line of a configuration sets.

    Args:
        line: the line
        as_is: leave 'y' and an empty value as they are, else both become 1

    Raises:
        ValueError: the line is damaged
    """
    line = line.strip()
    if line.startswith(b'#define '):
        key, _, val = line[8:].partition(b' ')
        if not key.startswith(b'CONFIG_'):
            return None
    elif line.startswith(b'CONFIG_'):
        key, sep, val = line.partition(b'=')
        if not sep:
            raise ValueError
    else:
        return None
    if not as_is and val in (b'', b'y'):
        val = b'1'
    return key, val


def parse_config(raw: bytes, as_is: bool) -> Tuple[Dict[bytes, bytes], bool]:
    """Return the options that a configuration file sets, see config_item().

    Returns:
        option to value, and whether each line could be read
    """
    options: Dict[bytes, bytes] = {}
    clean = True
    for line in raw.replace(b'\r', b'\n').split(b'\n'):
        try:
            item = config_item(line, as_is)
        except ValueError:
            clean = False
            continue
        if item:
            options[item[0]] = item[1]
    return options, clean


def parse_env(raw: bytes) -> Dict[str, str]:
    """Return the variables of a default environment."""
    env: Dict[str, str] = {}
    for item in decode(raw)[0].split('\0'):
        name, sep, val = item.partition('=')
        if sep:
            env[name] = val
    return env


def parse_numbers(text: str) -> Set[int]:
    """Return the numbers that `1-3,7` stands for.

    Raises:
        ValueError: it makes no sense
    """
    numbers: Set[int] = set()
    for part in text.split(',') if text else ():
        first, _, last = part.partition('-')
        low, high = int(first), int(last or first)
        if not 0 < low <= high <= MAX_LINE_NUMBER:
            raise ValueError(f'no line numbers: {part}')
        numbers.update(range(low, high + 1))
    return numbers


def parse_lines(raw: bytes) -> Tuple[Dict[str, str], bool]:
    """Return what a `lines` file holds.

    Returns:
        source to its numbers, still as text, see parse_numbers(); and whether
        each line could be read
    """
    sources: Dict[str, str] = {}
    clean = True
    for line in raw.decode('utf-8', 'surrogateescape').split('\n'):
        match = _SOURCE_LINES.fullmatch(line)
        if match:
            sources[match.group(1)] = match.group(2)
        elif line:
            clean = False
    return sources, clean


def parse_host(raw: bytes) -> str:
    """Return the machine that built a board."""
    return decode(raw)[0].split('\n')[0].strip()


# ------------------------------------------------------------------ folders


class CommitReader:
    """Reads the results of one commit.

    Each file is read by one open, one read and one close below an open folder,
    which is what makes tens of thousands of small results cheap.

    Attributes:
        folder: the commit's folder
        problems: what was wrong with the files read so far
        present: names that the folder holds
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.problems: List[Problem] = []
        self.present: Set[str] = set()
        self._fd = -1
        try:
            self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            self.present = set(os.listdir(self._fd))
        except FileNotFoundError:
            pass
        except OSError as exc:
            self._report(exc, folder)

    def close(self) -> None:
        """Let go of the folder; nothing can be read after that."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def note(self, kind: str, name: str) -> None:
        """Remember that something is wrong with a file of this commit."""
        self.problems.append(Problem(kind, f'{self.folder}/{name}'))

    def _report(self, exc: OSError, path: str) -> None:
        self.problems.append(Problem(f'cannot be read ({exc.strerror})', path))

    def read(self, name: str) -> Optional[bytes]:
        """Return the contents of BOARD/FILE, None if absent or not readable."""
        try:
            # Should it be a named pipe, opening it must not wait
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._report(exc, f'{self.folder}/{name}')
            return None
        try:
            raw = os.read(fd, _READ_SIZE)
            if len(raw) == _READ_SIZE:
                parts = [raw]
                # Asking for much more than there is would leave holes in memory
                rest = max(os.fstat(fd).st_size - _READ_SIZE + 1, _READ_SIZE)
                while raw:
                    raw = os.read(fd, rest)
                    parts.append(raw)
                raw = b''.join(parts)
        except OSError as exc:
            self._report(exc, f'{self.folder}/{name}')
            return None
        finally:
            os.close(fd)
        return raw

    def size(self, name: str) -> int:
        """Return the length of BOARD/FILE in bytes, 0 if absent."""
        try:
            return os.stat(name, dir_fd=self._fd).st_size
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._report(exc, f'{self.folder}/{name}')
            return 0

    def return_code(self, target: str) -> Optional[int]:
        """Return make's exit status for a board, None if it is not built.

        A `done` that is damaged counts as a failure, since nobody can tell
        that it was a success.
        """
        if target not in self.present:
            return None
        told = len(self.problems)
        raw = self.read(f'{target}/done')
        if raw is None:
            if len(self.problems) == told and os.path.isdir(f'{self.folder}/{target}'):
                self.note("has no 'done': still being built, or the build was killed;"
                          ' it counts as not built', target)
            return None
        code = parse_done(raw)
        if code is None:
            self.note('is damaged; it counts as a failure', f'{target}/done')
            return 1
        return code

    def images(self, target: str) -> List[str]:
        """Return the images of a board that have a list of symbols.

        They come in the order of the folder: it is that in which they have
        always been shown.
        """
        try:
            names = os.listdir(f'{self.folder}/{target}')
        except OSError as exc:
            self._report(exc, f'{self.folder}/{target}')
            return []
        return [name[:-6] for name in names
                if name.endswith('.sizes') and name[0] != '.']

    def foreign(self, targets: Iterable[str]) -> List[Problem]:
        """Return what is in the commit's folder that no build leaves there.

        A folder that may be another board's is left alone: there may be more
        boards in the tree than are selected.
        """
        out = []
        for name in sorted(self.present.difference(targets)):
            path = f'{self.folder}/{name}'
            if _OWN_NAMES.match(name):
                continue
            if not _BOARD_NAME.match(name) or not os.path.isdir(path):
                out.append(Problem('does not belong into a result tree', path))
        return out


def check_branch_folder(folder: str, expected: Sequence[str],
                        known: Container[str] = ()) -> List[Problem]:
    """Return what is in OUT/BRANCH that has no place there.

    Results of other commits are common: an earlier version of the branch leaves
    them. They are told only if results that should be there are not.

    Args:
        folder: OUT/BRANCH
        expected: hashes of the commits that are shown
        known: hashes of others that belong to the branch
    """
    try:
        names = set(os.listdir(folder))
    except OSError as exc:
        return [Problem(f'cannot be read ({exc.strerror})', folder)]
    out = []
    commits = {name: match.group(1) for name, match in (
        (name, _COMMIT_FOLDER.match(name)) for name in names) if match}
    some_missing = not set(commits.values()).issuperset(expected)
    for name in sorted(names):
        if name in commits:
            if some_missing and commits[name] not in known and commits[name] not in expected:
                out.append(Problem('is not of a commit in this branch: left by an earlier'
                                   ' version of it', f'{folder}/{name}'))
        elif not _OWN_NAMES.match(name):
            out.append(Problem('does not belong into a result tree', f'{folder}/{name}'))
    return out
