# SPDX-License-Identifier: GPL-2.0+
"""What tools complain of in an `err`, one complaint at a time, and what of it is new.

A compiler's complaint is several lines: where it is, what it is, the source, notes. Here
it is one thing, with the file, the line and the text apart. It has a key by which it is
known again when its line moved, in another output folder and on another machine.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections import Counter
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple

from buildman.build.output import INVALID_IMAGES, as_ours, is_make_failure
from buildman.core.text import plain
from buildman.results.compare import about_blobs, is_blob
from buildman.results.reader import ERROR, OK, UNKNOWN
from buildman.results.summary import CommitSummary

# FILE:LINE:COLUMN: KIND: TEXT of gcc, clang, as and Kconfig
_AT = re.compile(r'(?P<file>[^\s:][^:]*):(?P<line>\d+):(?:\d+:)? ?'
                 r'(?P<kind>(?:fatal )?error|warning|note|Error|Warning|Fatal error): ?'
                 r'(?P<text>.*)')
# FILE:LINE.COLUMN-LINE.COLUMN: KIND (CHECK): TEXT of dtc, or FILE.dtb: …
_DTC = re.compile(r'(?P<file>[^\s:][^:]*?)(?::(?P<line>\d+)\.[\d.-]+)?: '
                  r'(?P<kind>Warning|ERROR) \((?P<check>[\w-]+)\): ?(?P<text>.*)')
_DTC_ERROR = re.compile(r'(?P<kind>Error|Lexical error): (?P<file>[^\s:]+):(?P<line>\d+)'
                        r'\.[\d.-]+:? ?(?P<text>.*)')
# What a linker says of a place in an object: of the source, if that is known
_LINKED = re.compile(r'(?P<file>[^\s:]+):(?:(?P<line>\d+):)?(?:\([^()]*\):)? '
                     r'(?P<text>(?:undefined reference|multiple definition|relocation trunc).*)')
_LINKER = re.compile(r'^(?:\S*[/-])?ld(?:\.\w+)?: ')
# Anything else that says where: make, Kconfig, Python
_PLACE = re.compile(r'(?P<file>[\w./+-]+):(?P<line>\d+): (?P<text>.+)')
_FILE = re.compile(r'.*[./]|Makefile$|Kconfig$')
_RECIPE = re.compile(r'\[.*\] Error \d+')
# Says where the next complaint belongs, nothing by itself
_WHERE = re.compile(r"(?P<file>[^\s:]+): ((?:In|in|At) .*|Assembler messages):$|In file included")
_FLAG = re.compile(r' \[-W(?:error=)?(?P<check>[\w=+-]+)\]$')
_BOX = re.compile(r'=+ (?P<text>[A-Z ]+) =+$')
_BOX_END = re.compile(r'=+$')
_TRACEBACK = 'Traceback (most recent call last):'
# What only says that something else has failed
_CONSEQUENCE = re.compile(r'collect2: error|compilation terminated|FATAL ERROR: Unable to parse'
                          r'|ERROR: Input tree has errors|cc1: all warnings being treated')
_WARNS = re.compile(r'\bwarning\b', re.IGNORECASE)

# For the key: folders of other places, numbers that stand by themselves, quotes that depend
# on the language
_FOLDERS = re.compile(r'(?<![\w.-])/(?:[^\s/:\'"]+/)+')
_NUMBER = re.compile(r'\b(?:0x[0-9a-fA-F]+|\d+)\b')
_QUOTES = str.maketrans('\u2018\u2019\u201c\u201d`', "''\"\"'")

# Characters of a line that are looked at; whoever wrote it may mean harm
_MAX_LINE = 2000

# Folders of the build that hold the objects of another phase
_PHASE = re.compile(r'^(?:spl|tpl|vpl)/')


@dataclasses.dataclass(frozen=True)
class Complaint:
    """One complaint of a tool.

    Attributes:
        error: it is an error, not a warning
        file, line: where, as far as it is told; '' and 0
        text: what it says, without these
        check: what makes the tool say so ('unused-variable'); 'error' and the like else
        where: function that it is in, as the tool puts it
        said: all its lines
        blob: it is about a binary that the source does not have
    """

    error: bool
    file: str
    line: int
    text: str
    check: str = ''
    where: str = ''
    said: str = ''
    blob: bool = False

    @functools.cached_property
    def key(self) -> str:
        """What is the same for the same complaint elsewhere: file and text, no numbers."""
        text = _NUMBER.sub('0', _FOLDERS.sub('', self.text.translate(_QUOTES)))
        return f'{os.path.basename(self.file) if self.file[:1] == "/" else self.file}: {text}'

    def sources(self) -> List[str]:
        """Return the files that it may be about, the likeliest first, from the top."""
        base, ext = os.path.splitext(_PHASE.sub('', self.file))
        known = {'.o': ('.c', '.S', '.cpp'), '.dtb': ('.dts', '.dtso'), '.dtbo': ('.dtso', '.dts')}
        return [self.file, *(base + other for other in known.get(ext, ()))] if self.file else []


@functools.lru_cache(maxsize=1 << 14)
def _tidy(line: str) -> str:
    """Return a line as it is told; many boards say the same"""
    return as_ours(plain(line))


@functools.lru_cache(maxsize=4096)
def parse(stderr: str, failed: bool) -> Tuple[Complaint, ...]:
    """Return what a build complains of, each once.

    What a compiler warns of in a file with an error is left out, as it may come of that.

    Args:
        stderr: an `err`, of a build that failed or warned
        failed: the build failed: what is not known to be a warning is an error. There is one
            at least, then.
    """
    lines = [_tidy(line[:_MAX_LINE]) for line in stderr.split('\n')]
    found = _Reader(failed)
    for line, blob in zip(lines, about_blobs(lines)):
        found.take(line, blob)
    out = found.finish()
    wrong = {item.file for item in out if item.error and item.file}
    return tuple(dict.fromkeys(item for item in out if item.error or item.file not in wrong))


class _Reader:
    """Takes the lines of one `err` apart."""

    def __init__(self, failed: bool) -> None:
        self._failed = failed
        self._heads: List[Complaint] = []
        self._lines: List[List[str]] = []
        # Something is there to be told in any case
        self._first, self._seen = 'something without a word', False
        # What else says that it failed
        self._weak: List[str] = []
        self._before: List[str] = []
        self._where = ''
        self._where_file = ''
        # Lines of a box, or of a traceback, that is not at its end
        self._open: Optional[List[str]] = None

    def take(self, line: str, blob: bool) -> None:
        """Take the next line."""
        if self._open is not None and self._inside(line):
            return
        if not line.strip() or not re.search(r'[\w ]', line):
            return
        if not self._seen:
            self._first, self._seen = line.strip(), True
        if blob:
            if is_blob(line) or 'optional external blob' in line:
                self._add(line, False, '', 0, line.strip(), 'missing-blob', blob=True)
            return
        if _BOX.match(line) or line == _TRACEBACK:
            self._open = [line]
            return
        place = _WHERE.match(line)
        if place:
            self._before.append(line)
            if place.group('file'):
                self._where, self._where_file = place.group(2), place.group('file')
            return
        if line[0] in ' \t':
            (self._before if self._before or not self._lines else self._lines[-1]).append(line)
            return
        self._complaint(line)

    def _inside(self, line: str) -> bool:
        """Take a line of a box or of a traceback; return whether it was one"""
        assert self._open is not None
        lines = self._open
        if lines[0] == _TRACEBACK:
            if line[:1] in ('', ' '):
                lines.append(line)
                return True
            self._open = None
            self._before = lines
            self._add(line, self._failed, '', 0, line, 'python')
            return True
        if any(form.match(_LINKER.sub('', line)) for form in (_AT, _DTC, _LINKED)) or (
                'undefined reference' in line):
            # Another job of make said that
            return False
        lines.append(line)
        if _BOX_END.match(line) and line:
            self._open = None
            self._add('\n'.join(lines), False, '', 0, ' '.join(lines[1:-1]), 'box')
        return True

    def _complaint(self, line: str) -> None:
        """Take a line that begins something of its own"""
        rest = _LINKER.sub('', line)
        if rest != line and _WHERE.match(rest):
            self.take(rest, False)
            return
        match = _AT.match(line) or _DTC.match(line) or _DTC_ERROR.match(line)
        if match:
            kind = match.group('kind').lower()
            if kind == 'note':
                (self._lines[-1] if self._lines else self._before).append(line)
                return
            text, flag = match.group('text'), _FLAG.search(match.group('text'))
            check = match.groupdict().get('check') or (flag.group('check') if flag else kind)
            self._add(line, kind != 'warning', match.group('file'), int(match.group('line') or 0),
                      text[:flag.start()] if flag else text, check)
            return
        match = _LINKED.match(rest)
        if match:
            self._add(line, self._failed, match.group('file'), int(match.group('line') or 0),
                      match.group('text'), 'linker')
        elif _CONSEQUENCE.search(line) or (is_make_failure(line) and _RECIPE.search(line)):
            self._weak.append(line)
        elif rest != line:
            self._add(line, self._failed and not _WARNS.search(rest), '', 0,
                      re.sub('^warning: ', '', rest), 'linker')
        else:
            match = _PLACE.match(line)
            if match and not _FILE.match(match.group('file')):
                match = None
            self._add(line, self._failed and not _WARNS.search(line),
                      match.group('file') if match else '',
                      int(match.group('line')) if match else 0,
                      re.sub(r'^(?:\S*make(?:\[\d+\])?: )?(?:\*\*\* )?', '',
                             match.group('text') if match else line), 'build')

    def _add(self, line: str, error: bool, file: str, number: int, text: str, check: str,
             blob: bool = False) -> None:
        """Begin a complaint"""
        if check == 'linker' and not number and self._where_file:
            file = self._where_file
        where = self._where if file and file == self._where_file else ''
        self._heads.append(Complaint(error, os.path.normpath(file) if file else '', number,
                                     text.strip(), check, where, blob=blob))
        self._lines.append([*self._before, line])
        self._before = []

    def finish(self) -> List[Complaint]:
        """Return all complaints."""
        if self._open and self._open[0] != _TRACEBACK:
            # A box without an end
            for line in filter(str.strip, self._open):
                self._add(line, self._failed, '', 0, line, 'build')
        out = [dataclasses.replace(head, said='\n'.join(lines))
               for head, lines in zip(self._heads, self._lines)
               if not head.text.startswith(INVALID_IMAGES)]
        if self._failed and not any(item.error for item in out):
            out = [dataclasses.replace(item, error=item.blob) for item in out]
        if self._failed and not any(item.error for item in out):
            said = next(iter(self._weak), 'make failed and said nothing')
            target = re.search(r'\[(?:[^\]]*: )?([^\s\]]+)\] Error', said)
            text = re.sub(r'^\S*make(?:\[\d+\])?: \*\*\* ', '', said)
            out.append(Complaint(True, target.group(1) if target else '', 0, text, 'build',
                                 said=said))
        return out or [Complaint(False, '', 0, self._first, 'build', said=self._first)]


def of_board(summary: CommitSummary, num: int) -> Tuple[Complaint, ...]:
    """Return what a board complains of at a commit, whose stderr was asked for.

    That is something if it failed or warned, nothing else.
    """
    status = summary.facts.statuses[num]
    if status in (OK, UNKNOWN):
        return ()
    return parse(summary.facts.stderr.get(num, ''), status == ERROR)


class Past:
    """What boards complained of before, to tell what is new.

    A board that fails does not get to say all; nor does one that was not built. What it
    said before still counts, and a warning is not new if another board had it.
    """

    def __init__(self) -> None:
        self._said: Dict[int, Tuple[Complaint, ...]] = {}
        self._statuses: Mapping[int, int] = {}
        self._keys: Set[str] = set()

    def news(self, summary: CommitSummary) -> Dict[int, List[Complaint]]:
        """Return what is new at a commit: board to its complaints, of those that have any."""
        out = {}
        for num, status in enumerate(summary.facts.statuses):
            now = of_board(summary, num)
            if now and (now is not self._said.get(num) or status != self._statuses.get(num)):
                found = self._new(num, status, now)
                if found:
                    out[num] = found
        return out

    def _new(self, num: int, status: int, now: Sequence[Complaint]) -> List[Complaint]:
        was = self._statuses.get(num, UNKNOWN)
        before = self._said.get(num, ())
        fails_now = status == ERROR and was not in (ERROR, UNKNOWN)
        counts = Counter(item.key for item in before)
        places = {(item.key, item.line) for item in before}
        functions = {(item.key, item.where) for item in before}
        groups: Dict[str, List[Complaint]] = {}
        for item in now:
            if item.error and fails_now:
                counts[item.key] = 0
            elif not item.error and was in (ERROR, UNKNOWN) and item.key in self._keys:
                continue
            groups.setdefault(item.key, []).append(item)
        out: List[Complaint] = []
        for key, items in groups.items():
            # Of several that say the same, those are the old ones that have not moved
            items.sort(key=lambda item: ((item.key, item.where) not in functions,
                                         (item.key, item.line) not in places))
            out += items[counts[key]:]
        return out

    def remember(self, summary: CommitSummary) -> None:
        """Take a commit for the one that the next ones are compared with."""
        statuses = {}
        for num, status in enumerate(summary.facts.statuses):
            old = self._said.get(num, ())
            if status == UNKNOWN:
                statuses[num] = self._statuses.get(num, UNKNOWN)
                continue
            statuses[num] = status
            now = of_board(summary, num)
            if status == ERROR and old and now is not old:
                keys = {item.key for item in now}
                now = (*now, *(item for item in old if item.key not in keys))
            if now or old:
                self._said[num] = now
        self._statuses = statuses
        self._keys = {item.key for said in self._said.values() for item in said}
