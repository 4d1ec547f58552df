# SPDX-License-Identifier: GPL-2.0+
"""What changed for one board between two commits: pure functions.

Each takes the contents of a file, or what was parsed from it, before and after.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import Dict, List, Optional, Sequence, Tuple

from buildman.build.output import (
    INVALID_STATUS,
    is_make_failure,
    make_failures,
    without_chatter,
)
from buildman.core.text import plain
from buildman.results.reader import (
    CONFIG_FILES,
    KCONFIG_FILES,
    SYMBOL_TYPES,
    ImageSizes,
    config_item,
    is_dtb_warning,
    parse_config,
    parse_symbols,
    symbol_name,
)

# What a compiler or linker says, told apart by its first words
_FUNCTION = re.compile('.*: In function|In file included from')
_WARNING = re.compile(r'.*:\d*:\d*: warning: ')
_NOTE = re.compile(r'.*:\d*:\d*: note: this is the location of the previous')
_BLOB = re.compile(r'missing external blob|faked (external )?blob'
                   r'|missing or faked external blob|some images are invalid', re.IGNORECASE)
# The rest of what binman says of blobs (tools/binman/control.py): of those that an image
# can do without; then for each that is missing its node, the file, and indented help
_OPTIONAL_BLOB = re.compile(r'missing optional external blob', re.IGNORECASE)
_BLOB_NODE = re.compile(r'/[\w/@.,+:-]* \([^()]*\):\s*$')
_BLOB_HELP = '   '

# What makes a line worth a look for what make says of its jobs
_CHATTER = re.compile(r'\*\*\* Waiting|wait: No child processes')

# More names than this are not looked up one by one in a list of symbols
_FEW = 40

# Error lines and warning lines of one board, each line once
Messages = Tuple[Tuple[str, ...], Tuple[str, ...]]
NO_MESSAGES: Messages = ((), ())


@dataclasses.dataclass
class Changes:
    """Settings that came, went or changed value; name to value or to both."""

    plus: Dict[str, str] = dataclasses.field(default_factory=dict)
    minus: Dict[str, str] = dataclasses.field(default_factory=dict)
    change: Dict[str, Tuple[str, str]] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.plus or self.minus or self.change)

    def update(self, other: 'Changes') -> None:
        """Add the changes of `other`, which win where a name is in both."""
        self.plus.update(other.plus)
        self.minus.update(other.minus)
        self.change.update(other.change)


# One symbol: its name, bytes before (None: was not there), bytes after
Symbol = Tuple[str, Optional[int], Optional[int]]

# Configuration file to what changed in it; 'all' sums up the files before it
ConfigChanges = Dict[str, Changes]


# ----------------------------------------------------------------- messages


def classify(lines: Sequence[str], skip_empty: bool = False) -> Messages:
    """Return the errors and the warnings among the lines of make's stderr.

    Args:
        lines: the lines
        skip_empty: leave out empty lines, which else count as errors

    A line that only says where the next one belongs ("In function …") goes
    with that one, and is dropped if another such line or nothing follows. What
    is not known to be a warning counts as an error. What make says of its jobs is
    neither.
    """
    if skip_empty:
        lines = [line for line in lines if line]
    errors: Dict[str, None] = {}
    warnings: Dict[str, None] = {}
    where = ''
    after_warning = False
    for line in lines:
        if _CHATTER.search(line):
            line = without_chatter(line)
            if not line:
                continue
        if _FUNCTION.match(line):
            where = line
            continue
        is_warning = bool(': ' in line and (_WARNING.match(line) or is_dtb_warning(line)))
        group = errors
        if is_warning or (after_warning and _NOTE.match(line)):
            group = warnings
        if where:
            group[where.rstrip()] = None
            where = ''
        group[line.rstrip()] = None
        after_warning = is_warning
    return tuple(errors), tuple(warnings)


def is_blob(line: str) -> bool:
    """Return whether a line is about a binary that the source does not have.

    Of a whole text: whether one of its lines is.
    """
    return bool(_BLOB.search(line))


def about_blobs(lines: Sequence[str]) -> List[bool]:
    """Tell which lines of a board are about binaries that the source does not have.

    More than is_blob() knows, which sees one line at a time: with the help that binman
    gives, and how make ends for that reason.

    Args:
        lines: what make wrote to stderr, in its order
    """
    texts = [plain(without_chatter(line)) for line in lines]
    failures = make_failures('\n'.join(texts))
    ended = bool(failures) and all(status == INVALID_STATUS for status in failures)
    out: List[bool] = []
    in_help = False
    for text in texts:
        if not text.strip():
            out.append(False)       # decided below
            continue
        if _BLOB_NODE.match(text):
            in_help = True
        elif not text.startswith(_BLOB_HELP):
            in_help = False
        out.append(in_help or bool(_BLOB.search(text) or _OPTIONAL_BLOB.search(text))
                   or (ended and is_make_failure(text)))
    if any(out):
        out = [flag or not text.strip() for flag, text in zip(out, texts)]
    return out


# ---------------------------------------------------- one board, two commits


def diff_sizes(old: ImageSizes, new: ImageSizes) -> Dict[str, int]:
    """Return by how many bytes each region changed, without those that did not.

    Only images are compared that both have. A region of u-boot itself goes by
    its own name, another by 'IMAGE:REGION'.
    """
    out: Dict[str, int] = {}
    for image, regions in new.items():
        base = old.get(image)
        if base is None or base == regions:
            continue
        prefix = '' if image == 'u-boot' else f'{image}:'
        for region, size in regions.items():
            if size != base[region]:
                out[prefix + region] = size - base[region]
    return out


def _trim(old: bytes, new: bytes) -> Tuple[bytes, bytes]:
    """Return two files without the lines that both begin and end with."""
    same, top = 0, min(len(old), len(new))
    while same < top:
        mid = (same + top + 1) // 2
        if old[same:mid] == new[same:mid]:
            same = mid
        else:
            top = mid - 1
    start = old.rfind(b'\n', 0, same) + 1
    same, top = 0, min(len(old), len(new)) - start
    while same < top:
        mid = (same + top + 1) // 2
        if old[len(old) - mid:len(old) - same] == new[len(new) - mid:len(new) - same]:
            same = mid
        else:
            top = mid - 1
    cut = old.find(b'\n', len(old) - same) + 1 if same else 0
    keep = len(old) - cut if cut else 0
    return old[start:len(old) - keep], new[start:len(new) - keep]


def _changed_lines(old: bytes, new: bytes) -> Tuple[List[bytes], List[bytes]]:
    """Return the lines that went and those that came, in no order.

    A line that is there several times counts as often.
    """
    old, new = _trim(old, new)
    before, after = old.split(b'\n'), new.split(b'\n')
    mine, theirs = set(before), set(after)
    if len(mine) == len(before) and len(theirs) == len(after):
        return list(mine - theirs), list(theirs - mine)
    counts, new_counts = Counter(before), Counter(after)
    return list((counts - new_counts).elements()), list((new_counts - counts).elements())


class _Moved:
    """How the lines of one symbol changed: bytes and lines that it gained."""

    __slots__ = ('gain', 'lines')

    def __init__(self) -> None:
        self.gain = 0
        self.lines = 0


def _moved_symbols(old: bytes, new: bytes) -> Dict[bytes, _Moved]:
    """Return the symbols that have other lines in a list than in another.

    Raises:
        ValueError: a line is damaged
    """
    moved: Dict[bytes, _Moved] = {}
    for sign, lines in zip((-1, 1), _changed_lines(old, new)):
        for line in lines:
            words = line.split()
            if len(words) == 3 and words[1] in SYMBOL_TYPES:
                item = moved.setdefault(symbol_name(words[2]), _Moved())
                item.gain += sign * int(words[0], 16)
                item.lines += sign
            elif 0 < len(words) < 3:
                raise ValueError
    return moved


def _find_symbol(raw: bytes, name: bytes) -> Tuple[int, int]:
    """Return bytes and number of lines of a symbol.

    Searches through the file, which is much faster than to take every line
    apart. The file must have single blanks and end with a newline.

    Raises:
        ValueError: a line is damaged
    """
    static = name.startswith(b'static.')
    needle = b' ' + (name[7:] + b'.' if static else name + b'\n')
    size = lines = 0
    pos = raw.find(needle)
    while pos >= 0:
        words = raw[raw.rfind(b'\n', 0, pos) + 1:raw.index(b'\n', pos + 1)].split()
        if (len(words) == 3 and words[1] in SYMBOL_TYPES
                and symbol_name(words[2]) == name):
            size += int(words[0], 16)
            lines += 1
        pos = raw.find(needle, pos + 1)
    return size, lines


def _few_functions(old: bytes, new: bytes) -> Optional[List[Symbol]]:
    """Return what changed if that is little and the lists are sound, else None."""
    if not old.endswith(b'\n') or any(char in old for char in (b'\t', b'\r')):
        return None
    rows: List[Symbol] = []
    try:
        moved = _moved_symbols(old, new)
        if len(moved) > _FEW:
            return None
        for name, item in moved.items():
            size, lines = _find_symbol(old, name)
            was = size if lines else None
            now = size + item.gain if lines + item.lines else None
            if was != now:
                rows.append((name.decode(errors='replace'), was, now))
    except ValueError:
        return None
    return rows


def diff_functions(old: bytes, new: bytes) -> Tuple[List[Symbol], bool]:
    """Return the symbols that changed size between two lists from nm.

    Args:
        old, new: contents of an image's `.sizes` file

    Returns:
        the symbols, largest growth first, then by name backwards; and whether
        each line could be read
    """
    clean = True
    rows = _few_functions(old, new)
    if rows is None:
        before, _ = parse_symbols(old)
        after, clean = parse_symbols(new)
        rows = [(name.decode(errors='replace'), before.get(name), after.get(name))
                for name in before.keys() | after.keys()
                if before.get(name) != after.get(name)]
    rows.sort(key=lambda row: ((row[2] or 0) - (row[1] or 0), row[0]), reverse=True)
    return rows, clean


def _parsed_changes(old: bytes, new: bytes, as_is: bool
                    ) -> Tuple[Dict[bytes, bytes], Dict[bytes, bytes], bool, bool]:
    """Return the options before and after, as far as they can differ.

    Returns:
        options that differ or may do so, before and after; whether the file
        sets any option now; whether each line could be read
    """
    lines = _changed_lines(old, new)
    options: List[Dict[bytes, bytes]] = [{}, {}]
    few = sum(map(len, lines)) <= 4 * _FEW and b'\r' not in old + new
    if few:
        try:
            for found, changed in zip(options, lines):
                found.update(filter(None, (config_item(line, as_is) for line in changed)))
        except ValueError:
            few = False
    if few:
        keys = options[0].keys() | options[1].keys()
        few = not any(_set_twice(raw, key) for key in keys for raw in (old, new))
    if few and options[1]:
        return options[0], options[1], True, True
    before, _ = parse_config(old, as_is)
    after, clean = parse_config(new, as_is)
    return before, after, bool(after), clean


def _set_twice(raw: bytes, key: bytes) -> bool:
    """Return whether a file may set an option more than once.

    The preprocessor and Kconfig never do. Where a file does, the last one
    counts, which takes all the lines to find out.
    """
    count = 0
    pos = raw.find(key)
    while pos >= 0:
        pos += len(key)
        # The name of another option may begin with this one's
        count += raw[pos:pos + 1] in (b' ', b'=', b'\n', b'')
        pos = raw.find(key, pos)
    return count > 1


def diff_config(old: bytes, new: bytes, as_is: bool) -> Tuple[Changes, bool]:
    """Return what changed in one configuration file.

    Args:
        old, new: contents of the file, empty when absent
        as_is: see config_item()

    Returns:
        the changes, none at all when `new` sets nothing (the board was not
        built that far); and whether each line could be read
    """
    before, after, has_any, clean = _parsed_changes(old, new, as_is)
    out = Changes()
    if not has_any:
        return out, clean
    for key, val in after.items():
        was = before.get(key)
        if was is None:
            out.plus[_text(key)] = _text(val)
        elif was != val and val:
            # A value that becomes empty has never been shown
            out.change[_text(key)] = (_text(was), _text(val))
    for key, val in before.items():
        if key not in after:
            out.minus[_text(key)] = _text(val)
    return out, clean


def _text(raw: bytes) -> str:
    return raw.decode(errors='replace')


def diff_env(old: Dict[str, str], new: Dict[str, str]) -> Changes:
    """Return what changed in the default environment."""
    out = Changes()
    for key, val in new.items():
        was = old.get(key)
        if was is None:
            out.plus[key] = val
        elif was != val:
            out.change[key] = (was, val)
    for key, val in old.items():
        if key not in new:
            out.minus[key] = val
    return out


def sum_up_config(files: ConfigChanges) -> ConfigChanges:
    """Return the changes of some files in order, then 'all' with those of each.

    Where several files change an option, 'all' has what the last one says.
    """
    out = {name: files[name] for name in (*CONFIG_FILES, *KCONFIG_FILES) if name in files}
    everything = Changes()
    for changes in out.values():
        everything.update(changes)
    out['all'] = everything
    return out
