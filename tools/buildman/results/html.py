# SPDX-License-Identifier: GPL-2.0+
"""Writes all that a summary knows as one page for a browser (`--html`).

The page is `page.html` beside this module with blocks of data in it. A block is JSON,
deflated and in base 64: so nothing in it can be markup, whatever a compiler said.
The texts (`err` and make's commands, each once) come last, in blocks of their own that
are unpacked when one of them is opened: those of the newest commits first, until the page
is full; what is left out, the page tells. A process of its own reads and packs them while
the summary goes on, if there is much to read.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
import zlib
from array import array
from typing import Any, Dict, Iterable, List, NamedTuple, Sequence, Set, Tuple

from buildman.core.outcome import read_tries
from buildman.core.plan import Board
from buildman.process.fork import Child
from buildman.results import joblog
from buildman.results.complaints import of_board
from buildman.results.likeness import Likeness
from buildman.results.reader import (
    ERROR,
    OK,
    STATUS_NAMES,
    UNKNOWN,
    CommitReader,
    Problem,
    decode,
)
from buildman.results.report import Report
from buildman.results.summary import CommitSummary

# Bytes of the page, and of what the sizes of images may take of that
MAX_PAGE = 4_900_000
MAX_SIZES = 1_500_000

# Kept free for where each text is, which is known last
_RESERVE = 400_000

# Characters of a text that are kept, of a block of texts, and numbers of all groups
MAX_TEXT = 60_000
_BLOCK = 1 << 18
_MAX_RUNS = 600_000

# Problems of the tree that are told one by one
_MAX_PROBLEMS = 20

# In `status`, beside reader's: an error and a warning for want of binaries only
BLOBS_ERROR, BLOBS_WARNING = 4, 5

# For a text that is left out
LEFT_OUT = -1

# In `inferred`: nothing is
_NO_GUESS = '-'

# Stands for the name of the board in a command
_BOARD = '\0'

_REGIONS = ('text', 'rodata', 'data', 'bss')


def _pack(data: Any) -> str:
    """Return data as a block"""
    text = json.dumps(data, separators=(',', ':'), default=list)
    return base64.b64encode(zlib.compress(text.encode())).decode()


def shortened(text: str) -> str:
    """Return a text without its middle, if it is too long for a page."""
    left_out = len(text) - MAX_TEXT
    if left_out <= 0:
        return text
    head = MAX_TEXT * 2 // 3
    return (f'{text[:head]}\n\n[… {left_out} characters are left out here: see the file itself …]'
            f'\n\n{text[head + left_out:]}')


class _Texts:
    """Texts, each once, in blocks"""

    def __init__(self, room: int, known: int = 0) -> None:
        """
        Args:
            room: characters that all blocks may have
            known: how many texts there are in other blocks, before
        """
        self._room = room
        self._before = known
        self._known: Dict[bytes, int] = {}
        self._pending: List[str] = []
        self._length = 0
        self.blocks: List[str] = []
        # The number of the first text in each block
        self.starts: List[int] = []

    @property
    def count(self) -> int:
        """How many texts there are, with those in other blocks."""
        return self._before + len(self._known)

    def add(self, text: str) -> int:
        """Return the number of a text, counted from 1; LEFT_OUT when there is no more room"""
        key = hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()
        num = self._known.get(key)
        if num is None:
            text = shortened(text)
            # Packed, it is shorter: how much is known for what is packed only
            if self._length + len(text) > self._room:
                self.close()
            if len(text) > self._room:
                return LEFT_OUT
            num = self._known[key] = self.count + 1
            self._pending.append(text)
            self._length += len(text)
            if self._length >= _BLOCK:
                self.close()
        return num

    def close(self) -> None:
        """Pack what is left"""
        if self._pending:
            self.starts.append(self.count - len(self._pending) + 1)
            self.blocks.append(_pack(self._pending))
            self._room -= len(self.blocks[-1])
            self._pending, self._length = [], 0


class _Packed(NamedTuple):
    """The texts of all results.

    Attributes:
        errs: for each commit, the number of a board and that of its text, in turns
        commands: for each commit, the number of the text of each board; 0: there is none
        starts: number of the first text in each block
        blocks: the texts
        total: how many texts there are
    """

    errs: List[List[int]]
    commands: List['array[int]']
    starts: List[int]
    blocks: List[str]
    total: int


def _pack_texts(boards: Sequence[Board], folders: Sequence[str], room: int) -> _Packed:
    """Read the texts of all results, those of the last commits first"""
    texts = _Texts(room)
    errs: List[List[int]] = []
    commands: List['array[int]'] = []
    for folder in reversed(folders):
        files = CommitReader(folder)
        errs.append([])
        commands.append(array('q', [0]) * len(boards))
        for num, board in enumerate(boards):
            if board.target not in files.present:
                continue
            raw = files.read(f'{board.target}/out-cmd')
            if raw:
                commands[-1][num] = texts.add(decode(raw)[0].replace(_BOARD, '\ufffd').replace(
                    f' {board.defconfig}', f' {_BOARD}'))
            raw = files.read(f'{board.target}/err')
            if raw:
                errs[-1] += [num, texts.add(decode(raw)[0])]
        files.close()
    texts.close()
    return _Packed(errs[::-1], commands[::-1], texts.starts, texts.blocks, texts.count)


class HtmlReport(Report):
    """A listener that writes the page."""

    def __init__(self, path: str, boards: Sequence[Board], folder: str, folders: Sequence[str],
                 logs: str, parallel: bool = False):
        """
        Args:
            path: file to write
            boards: all the selected boards
            folder: result folder, for people
            folders: that of each commit
            logs: folder that has `joblog`
            parallel: read texts in a process of its own

        Raises:
            SetupError: the file cannot be written
        """
        super().__init__(path, boards, folder)
        self._head, self._tail = _template()
        # More than that there will not be
        self._room = MAX_PAGE - _RESERVE - len(self._head) - len(self._tail)
        pack = functools.partial(_pack_texts, boards, folders, self._room)
        self._pack = pack
        self._child = Child(lambda: [pack()], 'the page') if parallel else None
        self._folders = folders
        self._logs = logs
        self._commits: List[Dict[str, Any]] = []
        self._hosts: Dict[str, int] = {}
        self._images: Dict[str, int] = {}
        # Board to image to the steps at which it changed, see _take_sizes()
        self._sizes: List[Dict[int, 'array[int]']] = [{} for _ in boards]
        self._sized: Set[int] = set()
        # Of each commit, what was said by tries that failed before
        self._tries: List[Dict[int, str]] = []
        self._likeness = Likeness()

    def commit(self, summary: CommitSummary) -> None:
        """Take in one commit."""
        facts = summary.facts
        blobs = set(facts.blob_only)
        status = bytearray(facts.statuses)
        for num in blobs.difference(summary.not_built):
            if status[num] != OK:
                status[num] = BLOBS_ERROR if status[num] == ERROR else BLOBS_WARNING
        was = (bytes(map(int, self._commits[-1]['status'])) if self._commits
               else bytes([UNKNOWN]) * len(status))
        changed = {num for num, (old, new) in enumerate(zip(was, status)) if old != new}
        self._likeness.advance({num: of_board(summary, num)
                                for num in changed.union(facts.messages)})
        self._take_sizes(len(self._commits), summary)
        tries = {num: len(tried) + 1 for num, tried in (
            (num, read_tries(text)) for num, text in facts.tries.items()) if tried}
        self._tries.append({num: shortened(facts.tries[num]) for num in tries})
        seconds = [summary.seconds.get(brd.target) for brd in self._boards]
        self._commits.append({
            'number': summary.upto + 1,
            'hash': summary.commit.hash if summary.commit else '',
            'subject': summary.commit.subject if summary.commit else 'current source',
            'folder': os.path.basename(self._folders[len(self._commits)]),
            'status': ''.join(map(str, status)),
            'why': summary.failures,
            # What a hunt takes those for that were not built, _NO_GUESS for all others
            'inferred': ''.join(
                str(STATUS_NAMES.index(summary.inferred[num])) if num in summary.inferred
                else _NO_GUESS for num in range(len(status))) if summary.inferred else '',
            # How often it was tried, if more than once
            'tries': tries,
            # Tenths of a second, and who built it; -1: not known
            'seconds': array('q', (-1 if val is None else round(val * 10) for val in seconds)),
            'host': array('q', (self._hosts.setdefault(facts.host[num], len(self._hosts))
                                if num in facts.host else -1
                                for num in range(len(self._boards))))})

    def _take_sizes(self, step: int, summary: CommitSummary) -> None:
        """Note the sizes that are not as before: the step, then bytes of each region.

        -1 for each where an image is not there any more.
        """
        sizes, sized = summary.facts.sizes, set(summary.facts.sized)
        gone = array('q', [-1] * len(_REGIONS))
        for num in (self._sized - sized).union(sizes):
            known, images = self._sizes[num], sizes.get(num, {})
            now = set()
            for name, regions in images.items():
                image = self._images.setdefault(name, len(self._images))
                now.add(image)
                new = array('q', [regions[region] for region in _REGIONS])
                rows = known.get(image)
                if rows is None:
                    rows = known[image] = array('q')
                if rows[-len(_REGIONS):] != new:
                    rows.append(step)
                    rows.extend(new)
            for image in known.keys() - now if len(known) > len(now) else ():
                if known[image][-len(_REGIONS):] != gone:
                    known[image].append(step)
                    known[image].extend(gone)
        self._sized = sized

    def end(self, flakes: Iterable[int], problems: Sequence[Problem]) -> None:
        """Complete the file."""
        notes: List[str] = []
        groups = self._likeness.end()
        count = runs = 0
        for count, group in enumerate(groups, 1):
            runs += len(group['runs'])
            if runs > _MAX_RUNS and count < len(groups):
                notes.append(f'{len(groups) - count} groups of like errors are left out, of those '
                             'that began first: the page is full')
                break
        told = list(dict.fromkeys(problems))
        notes += [f'{prob.path} {prob.kind}' for prob in told[:_MAX_PROBLEMS]]
        if len(told) > _MAX_PROBLEMS:
            notes.append(f'{len(told) - _MAX_PROBLEMS} more things are wrong with the results')
        blocks = {'sizes': self._pack_sizes(notes)}
        data = {
            'folder': self._folder, 'name': os.path.basename(os.path.abspath(self._folder)),
            'boards': [[brd.target, brd.arch, brd.vendor, brd.soc or brd.cpu,
                        ', '.join(brd.maintainers)] for brd in self._boards],
            'commits': self._commits, 'hosts': list(self._hosts), 'images': list(self._images),
            'flakes': sorted(flakes), 'groups': groups[:count], 'notes': notes,
            'machines': joblog.read(self._logs)}
        room = self._room - len(blocks['sizes']) - len(_pack(data))
        packed: _Packed = self._child.next() if self._child else self._pack()
        texts, blocks['where'] = self._place_texts(packed, room, notes)
        blocks['data'] = _pack(data)
        blocks.update((f'texts{num}', block) for num, block in enumerate(texts))
        self._write(self._head)
        for name, block in blocks.items():
            self._write(f'<script type="text/plain" id="block-{name}">{block}</script>\n')
        self._write(self._tail)
        self._finish()

    def close(self) -> None:
        """Drop the file unless it is complete."""
        if self._child:
            self._child.stop()
        super().close()

    def _pack_sizes(self, notes: List[str]) -> str:
        """Return the sizes as a block, in all detail that there is room for"""
        sizes: List[Dict[int, Any]] = list(self._sizes)
        block = _pack(sizes)
        if len(block) > MAX_SIZES:
            step = len(_REGIONS) + 1
            # Five numbers where there were five, as zeros take no room
            sizes = [{image: [num for pos in range(0, len(rows), step) for num in
                              (rows[pos], *((-1,) * 4 if rows[pos + 1] < 0 else
                                            (sum(rows[pos + 1:pos + step]), 0, 0, 0)))]
                      for image, rows in item.items()} for item in sizes]
            block = _pack(sizes)
            notes.append('Sizes are those of whole images, as text: with their regions the page '
                         'would be too large')
        if len(block) > MAX_SIZES:
            block = _pack([{} for _ in sizes])
            notes.append('Sizes are left out: the page would be too large. Show fewer boards or '
                         'commits (-c, --step)')
        return block

    def _place_texts(self, packed: _Packed, room: int, notes: List[str]
                     ) -> Tuple[List[str], str]:
        """Return the blocks of texts that there is room for, and where each text is, as a block"""
        kept = 0
        for kept, block in enumerate(packed.blocks, 1):
            room -= len(block)
            if room < 0:
                kept -= 1
                break
        full = kept < len(packed.blocks)
        # Whatever was tried before comes last, and is left out where texts are
        count = packed.starts[kept] - 1 if full else packed.total
        texts = _Texts(0 if full else room, count)
        where: List[Dict[str, Any]] = []
        left_out = 0
        for commit, tries, err, commands in zip(self._commits, self._tries, packed.errs,
                                                packed.commands):
            built = [int(status) != UNKNOWN for status in commit['status']]
            item = {'err': [val for num, text in zip(err[::2], err[1::2]) if built[num]
                            for val in (num, text if text <= count else LEFT_OUT)],
                    'commands': array('q', (0 if not there else text if text <= count else LEFT_OUT
                                            for text, there in zip(commands, built))),
                    'tries': [val for num, text in tries.items()
                              for val in (num, texts.add(text))]}
            left_out += item['commands'].count(LEFT_OUT) + sum(
                item[name][1::2].count(LEFT_OUT) for name in ('err', 'tries'))
            where.append(item)
        texts.close()
        if left_out:
            notes.append(f'{left_out} texts of older commits (err, commands) are left out: '
                         'the page is full')
        return ([*packed.blocks[:kept], *texts.blocks],
                _pack({'commits': where, 'starts': [*packed.starts[:kept], *texts.starts]}))


def _template() -> List[str]:
    """Return what comes before and after the data"""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page.html'),
              encoding='utf-8') as inf:
        page = inf.read()
    match = re.search(r'<script>(.*?)</script>', page, re.DOTALL)
    assert match
    # Nothing else is run in the page, and nothing is loaded
    digest = base64.b64encode(hashlib.sha256(match.group(1).encode()).digest()).decode()
    return page.replace('SCRIPT-HASH', f"'sha256-{digest}'").split('<!--DATA-->\n')
