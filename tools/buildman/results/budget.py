# SPDX-License-Identifier: GPL-2.0+
"""Sizes that boards may not exceed: `--budget FILE` and `--budget-update`.

A line of the file is `BOARD IMAGE REGION LIMIT`, apart by blanks: a glob; an image as the
file `sizes` names it (`u-boot`, `spl/u-boot-spl`); `text`, `rodata`, `data`, `bss` or `total`
of it, or `file` for the length of a file that was kept; and the most bytes that it may have
(`1000`, `0x3e8`, `64K`), or how many more than at the first commit (`+1K`).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from typing import Dict, List, Optional, Sequence, Tuple

from buildman.core.errors import SetupError, UsageError
from buildman.core.files import replace_text
from buildman.core.plan import Board
from buildman.core.text import plain
from buildman.results.gate import rule_lines
from buildman.results.summary import CommitSummary, sort_names

FILE = 'file'
# As it is written to the name that sizes have here
_REGIONS = {'total': 'all', 'text': 'text', 'rodata': 'rodata', 'data': 'data', 'bss': 'bss'}
_LIMIT = re.compile(r'(\+?)(0x[0-9a-fA-F]+|\d+)([KM]?)')
_UNITS = {'': 1, 'K': 1 << 10, 'M': 1 << 20}
_LINE = re.compile(r'(\S+)\s+(\S+)\s+(\S+)\s+(\S+)(\s+#.*)?')


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of the file.

    Attributes:
        number: of the line
        board: glob
        image: of `sizes`, or a file
        region: as it is written
        limit: bytes
        more: they are more than at the first commit
    """

    number: int
    board: str
    image: str
    region: str
    limit: int
    more: bool


def _rule(place: str, number: int, line: str) -> Rule:
    """Parse a line.

    Raises:
        UsageError: it makes no sense
    """
    match = _LINE.fullmatch(line)
    if not match:
        raise UsageError(f"{place}: '{line}' is no budget: write BOARD IMAGE REGION LIMIT")
    board, image, region, text = match.groups()[:4]
    limit = _LIMIT.fullmatch(text)
    if region not in (*_REGIONS, FILE):
        raise UsageError(f"{place}: '{region}' is no region: use {', '.join(_REGIONS)} or {FILE}")
    if not limit:
        raise UsageError(f"{place}: '{text}' is no limit: write bytes (1000, 0x3e8, 64K), or how "
                         'many more than before (+1K)')
    if region == FILE and (image.startswith('/') or '..' in image.split('/')):
        raise UsageError(f"{place}: '{image}' is no file of a result")
    return Rule(number, board, image, region, int(limit.group(2), 0) * _UNITS[limit.group(3)],
                bool(limit.group(1)))


@dataclasses.dataclass
class _Excess:
    """How a board went over its budget: where it began, and how far it went"""

    upto: int
    subject: str
    size: int
    limit: int


class Budget:
    """A listener that compares the sizes of boards with a file.

    Attributes:
        files: files whose length it wants to know
    """

    def __init__(self, path: str, boards: Sequence[Board], update: bool = False,
                 new_only: bool = False) -> None:
        """
        Args:
            path: the file
            boards: all the selected boards
            update: the file is to be written; it need not exist
            new_only: what was too large at the first commit may stay so

        Raises:
            UsageError: it cannot be read, or a line makes no sense
        """
        self.path = path
        self._boards = boards
        self._new_only = new_only
        if update and os.path.exists(path) and not os.path.isfile(path):
            raise UsageError(f"--budget-update: '{path}' is no file that could be written anew")
        lines = [] if update and not os.path.exists(path) else rule_lines(path, '--budget')
        self._rules = [_rule(f'{path}:{number}', number, line) for number, line in lines]
        self.files = tuple(dict.fromkeys(rule.image for rule in self._rules
                                         if rule.region == FILE))
        self._of = {num: [rule for rule in self._rules
                          if fnmatch.fnmatchcase(board.target, rule.board)]
                    for num, board in enumerate(boards)}
        self._base: Dict[Tuple[int, Rule], int] = {}
        self._sizes: Dict[Tuple[int, Rule], int] = {}
        self._seen: Dict[Rule, bool] = {}
        self._over: Dict[Tuple[int, Rule], _Excess] = {}
        self._all: Dict[int, Dict[str, int]] = {}
        self._begun = False

    def globs(self) -> Dict[int, str]:
        """Return the boards of the rules, by number of the line."""
        return {rule.number: rule.board for rule in self._rules}

    def check(self, alone: bool) -> None:
        """Refuse what cannot be compared.

        Args:
            alone: there is one commit only

        Raises:
            UsageError: there is nothing that sizes could be more than
        """
        for rule in self._rules if alone else ():
            if rule.more:
                raise UsageError(f'{self.path}:{rule.number}: +{rule.limit} needs a commit to '
                                 'compare with: build a branch (-b), of two commits at least')

    def commit(self, summary: CommitSummary) -> None:
        """Take the next commit."""
        self._sizes = {}
        for num, rules in self._of.items():
            images = summary.facts.sizes.get(num, {})
            if images:
                self._all[num] = {image: regions['all'] for image, regions in images.items()}
            for rule in rules:
                size = (summary.facts.files.get(num, {}).get(rule.image) if rule.region == FILE
                        else images.get(rule.image, {}).get(_REGIONS[rule.region]))
                if size is not None:
                    self._take(summary, num, rule, size)
        self._begun = True

    def _take(self, summary: CommitSummary, num: int, rule: Rule, size: int) -> None:
        """Take the size that a rule is about"""
        key = num, rule
        if not self._begun:
            self._base[key] = size
        self._seen[rule] = True
        self._sizes[key] = size
        if rule.more and key not in self._base:
            return
        limit = self._limit(key)
        if size <= limit:
            return
        excess = self._over.get(key)
        if excess:
            excess.size = max(excess.size, size)
        else:
            subject = plain(summary.commit.subject) if summary.commit else ''
            self._over[key] = _Excess(summary.upto, subject, size, limit)

    @property
    def passed(self) -> bool:
        """Whether a board is over its budget at any commit."""
        return bool(self._over)

    def lines(self) -> List[str]:
        """Return a line for each board that is over its budget, and one of the rest."""
        out = []
        over: Dict[int, List[str]] = {}
        for (num, rule), item in self._over.items():
            since = f' since {item.upto + 1:02d}: {item.subject}' if item.subject else ''
            over.setdefault(num, []).append(
                f'{rule.image} {rule.region} is {item.size} bytes, {item.size - item.limit} over '
                f'{item.limit}{since} ({self.path}:{rule.number})')
        for target in sort_names(self._boards, over):
            num = next(num for num in over if self._boards[num].target == target)
            out.append(f"Over budget: {target}: {'; '.join(over[num])}")
        out += [f"{self.path}:{rule.number}: none of its boards has '{rule.image}'"
                + (' (files are there with -k only)' if rule.region == FILE else '')
                for rule in self._rules if rule not in self._seen and any(
                    rule in rules for rules in self._of.values())]
        room = [(self._limit((num, rule)) - size, self._boards[num].target, rule)
                for (num, rule), size in self._sizes.items() if (num, rule) not in self._over
                and (not rule.more or (num, rule) in self._base)]
        boards = len({target for _, target, _ in room} - {
            self._boards[num].target for num in over})
        text = f"Budget '{self.path}': {boards} board{'' if boards == 1 else 's'} within it"
        if room:
            left, target, rule = min(room, key=lambda item: (item[0], item[1], item[2].number))
            text += f', least room: {left} bytes ({target}: {rule.image} {rule.region})'
        return [*out, text]

    def _limit(self, key: Tuple[int, Rule]) -> int:
        """Return how large it may be"""
        base = self._base.get(key, 0)
        limit = key[1].limit + (base if key[1].more else 0)
        return max(limit, base) if self._new_only else limit

    def update(self) -> str:
        """Write what sizes are now into the file, and return what to tell.

        Each line gets the most that its boards have; one whose boards have no such size stays
        as it is, as do comments. A file that has no lines gets one for each image.

        Raises:
            SetupError: there are no sizes, or it cannot be written
        """
        if not self._all and not self._sizes:
            raise SetupError(f"--budget-update: there are no sizes, so '{self.path}' stays as it "
                             'is: build first, or name the output folder of that build with -o')
        limits: Dict[int, int] = {}
        for (num, rule), size in self._sizes.items():
            if rule.more:
                size = max(0, size - self._base.get((num, rule), size))
            limits[rule.number] = max(limits.get(rule.number, 0), size)
        try:
            text = ''
            if os.path.exists(self.path):
                with open(self.path, encoding='utf-8', newline='') as inf:
                    text = inf.read()
            if self._rules:
                old = {rule.number: rule for rule in self._rules}
                lines = text.splitlines(keepends=True)
                for number, limit in limits.items():
                    lines[number - 1] = _with_limit(lines[number - 1], old[number], limit)
                changed = sum(old[number].limit != limit for number, limit in limits.items())
                text = ''.join(lines)
                told = f'{changed} of {len(old)} limits changed'
            else:
                new = [f'{self._boards[num].target} {image} total {size}\n'
                       for num, images in sorted(self._all.items())
                       for image, size in images.items()]
                text += ('\n' if text and not text.endswith('\n') else '') + ''.join(new)
                told = f'{len(new)} limits written'
            # A link stays one
            replace_text(os.path.realpath(self.path), text, 0o644)
        except OSError as exc:
            raise SetupError(f"cannot write the budget '{self.path}': {exc.strerror}") from exc
        return f"Budget '{self.path}': {told}"


def _with_limit(line: str, rule: Rule, limit: int) -> str:
    """Return a line of the file with another limit, and all else as it is"""
    if limit == rule.limit:
        return line
    match: Optional['re.Match[str]'] = _LINE.match(line.lstrip())
    assert match
    start = len(line) - len(line.lstrip()) + match.start(4)
    old = match.group(4)
    return line[:start] + ('+' if rule.more else '') + str(limit) + line[start + len(old):]
