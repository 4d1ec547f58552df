# SPDX-License-Identifier: GPL-2.0+
"""Writes all that a summary knows as one page for a browser (`--html`).

The page is `page.html` beside this module with blocks of data in it. A block is JSON,
deflated and in base 64: so nothing in it can be markup, whatever a compiler said.
The texts (`err` and make's commands, each once) come last, in blocks of their own that
are unpacked when one of them is opened. They are read at the end, those of the newest
commits first, until the page is full; what is left out, the page tells.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from array import array
from typing import Any, Dict, Iterable, List, Sequence, Set

from buildman.core.outcome import TRIES, read_tries
from buildman.core.plan import Board
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

    def __init__(self, room: int) -> None:
        self._room = room
        self._known: Dict[bytes, int] = {}
        self._pending: List[str] = []
        self._length = 0
        self.blocks: List[str] = []
        # The number of the first text in each block
        self.starts: List[int] = []
        self.left_out = 0

    def add(self, text: str) -> int:
        """Return the number of a text, from 1; LEFT_OUT when there is no more room"""
        key = hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()
        num = self._known.get(key)
        if num is None:
            text = shortened(text)
            # Packed, it is shorter: how much is known for what is packed only
            if self._length + len(text) > self._room:
                self.close()
            if len(text) > self._room:
                self.left_out += 1
                return LEFT_OUT
            num = self._known[key] = len(self._known) + 1
            self._pending.append(text)
            self._length += len(text)
            if self._length >= _BLOCK:
                self.close()
        return num

    def close(self) -> None:
        """Pack what is left"""
        if self._pending:
            self.starts.append(len(self._known) - len(self._pending) + 1)
            self.blocks.append(_pack(self._pending))
            self._room -= len(self.blocks[-1])
            self._pending, self._length = [], 0


class HtmlReport(Report):
    """A listener that writes the page."""

    def __init__(self, path: str, boards: Sequence[Board], folder: str, folders: Sequence[str],
                 logs: str):
        """
        Args:
            path: file to write
            boards: all the selected boards
            folder: result folder, for people
            folders: that of each commit
            logs: folder that has `joblog`

        Raises:
            SetupError: the file cannot be written
        """
        super().__init__(path, boards, folder)
        self._folders = folders
        self._logs = logs
        self._commits: List[Dict[str, Any]] = []
        self._hosts: Dict[str, int] = {}
        self._images: Dict[str, int] = {}
        # Board to image to the steps at which it changed, see _take_sizes()
        self._sizes: List[Dict[int, 'array[int]']] = [{} for _ in boards]
        self._sized: Set[int] = set()
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
            'tries': {num: len(tried) + 1 for num, tried in (
                (num, read_tries(text)) for num, text in facts.tries.items()) if tried},
            # Tenths of a second, and who built it; -1: not known
            'seconds': array('q', (-1 if val is None else round(val * 10) for val in seconds)),
            'host': array('q', (self._hosts.setdefault(facts.host[num], len(self._hosts))
                                if num in facts.host else -1
                                for num in range(len(self._boards))))})

    def _take_sizes(self, step: int, summary: CommitSummary) -> None:
        """Note the sizes that are not as before: the step, then bytes of each region.

        -1 for each where an image is not there any more.
        """
        sizes = summary.facts.sizes
        gone = array('q', [-1] * len(_REGIONS))
        for num in self._sized.union(sizes):
            now = {self._images.setdefault(image, len(self._images)):
                   array('q', (regions[name] for name in _REGIONS))
                   for image, regions in sizes.get(num, {}).items()}
            known = self._sizes[num]
            for image in known.keys() | now.keys():
                rows = known.setdefault(image, array('q'))
                new = now.get(image, gone)
                if (rows[-len(_REGIONS):] or gone) != new:
                    rows.append(step)
                    rows.extend(new)
        self._sized = set(sizes)

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
        head, tail = _template()
        blocks = {'sizes': self._pack_sizes(notes)}
        data = {
            'folder': self._folder, 'name': os.path.basename(os.path.abspath(self._folder)),
            'boards': [[brd.target, brd.arch, brd.vendor, brd.soc or brd.cpu,
                        ', '.join(brd.maintainers)] for brd in self._boards],
            'commits': self._commits, 'hosts': list(self._hosts), 'images': list(self._images),
            'flakes': sorted(flakes), 'groups': groups[:count], 'notes': notes,
            'machines': joblog.read(self._logs)}
        room = (MAX_PAGE - _RESERVE - len(head) - len(tail) - len(blocks['sizes'])
                - len(_pack(data)))
        texts = _Texts(room)
        blocks['where'] = self._read_texts(texts)
        if texts.left_out:
            notes.append(f'{texts.left_out} texts of older commits (err, commands) are left out: '
                         'the page is full')
        blocks['data'] = _pack(data)
        blocks.update((f'texts{num}', block) for num, block in enumerate(texts.blocks))
        self._write(head)
        for name, block in blocks.items():
            self._write(f'<script type="text/plain" id="block-{name}">{block}</script>\n')
        self._write(tail)
        self._finish()

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

    def _read_texts(self, texts: _Texts) -> str:
        """Read the texts of all results, newest first; return where each is, as a block"""
        where: List[Dict[str, Any]] = []
        for commit, folder in zip(reversed(self._commits), reversed(self._folders)):
            files = CommitReader(folder)
            err: List[int] = []
            tries: List[int] = []
            commands = array('q')
            for num, (board, status) in enumerate(zip(self._boards, commit['status'])):
                commands.append(0)
                if int(status) == UNKNOWN:
                    continue
                raw = files.read(f'{board.target}/out-cmd')
                if raw:
                    commands[-1] = texts.add(decode(raw)[0].replace(_BOARD, '\ufffd').replace(
                        f' {board.defconfig}', f' {_BOARD}'))
                raw = files.read(f'{board.target}/err')
                if raw:
                    err += [num, texts.add(decode(raw)[0])]
                raw = files.read(f'{board.target}/{TRIES}') if num in commit['tries'] else None
                if raw:
                    tries += [num, texts.add(decode(raw)[0])]
            files.close()
            where.append({'err': err, 'commands': commands, 'tries': tries})
        texts.close()
        return _pack({'commits': where[::-1], 'starts': texts.starts})


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
