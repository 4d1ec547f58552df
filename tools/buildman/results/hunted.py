# SPDX-License-Identifier: GPL-2.0+
"""Whether two results are alike, and what a hunt (--hunt) has found.

Two results are alike when outcome, error lines and warning lines are; where in a file a
line is from does not count, as a commit may add lines above it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from buildman.core.plan import Commit
from buildman.results.compare import classify
from buildman.results.reader import (
    ERROR,
    OK,
    STATUS_NAMES,
    WARNING,
    CommitReader,
    decode,
    err_lines,
    parse_done,
    parse_sizes,
)

# Numbers of lines and columns after a name; offsets that a linker tells
_PLACE = re.compile(r'(?<=[^\s:]:)\d+(?:[:.-]\d+)*|(?<=\+)0x[0-9a-f]+')


# make's exit status, and what is in the files `err` and `sizes`
Result = Tuple[int, bytes, bytes]


class Signature(NamedTuple):
    """What a board comes to at a commit.

    Attributes:
        status: OK, WARNING or ERROR
        lines: errors, then warnings
        sizes: bytes of each image
    """

    status: int
    lines: Tuple[str, ...] = ()
    sizes: Mapping[str, int] = {}


def read(folder: str) -> Optional[Result]:
    """Return the result of a board at a commit, None when it is not complete."""
    reader = CommitReader(folder)
    try:
        done, err, sizes = (reader.read(name) for name in ('done', 'err', 'sizes'))
    finally:
        reader.close()
    if done is None:
        return None
    code = parse_done(done)
    # One that is damaged is a failure, as in a summary
    return 1 if code is None else code, err or b'', sizes or b''


def sign(code: int, err: bytes, sizes: bytes, no_dtb: bool = False,
         no_migration: bool = False) -> Signature:
    """Return what a result comes to.

    Args:
        code: make's exit status
        err, sizes: contents of these files
        no_dtb, no_migration: see err_lines()
    """
    lines = err_lines(decode(err)[0], no_dtb, no_migration)
    errors, warnings = classify(lines, no_migration)
    return Signature(ERROR if code else WARNING if lines else OK, errors + warnings,
                     {name: regions['all'] for name, regions in parse_sizes(sizes)[0].items()})


def _only(lines: Tuple[str, ...], others: Tuple[str, ...]) -> List[str]:
    """Return the lines that are not among others, wherever they are from"""
    if lines == others:
        return []
    left = Counter(_PLACE.sub('', line) for line in others)
    out = []
    for line in lines:
        key = _PLACE.sub('', line)
        if not left[key]:
            out.append(line)
        left[key] -= left[key] > 0
    return out


@dataclasses.dataclass(frozen=True)
class Change:
    """A board that comes to something else at a commit than at an earlier one.

    Attributes:
        target: the board
        number, commit: the first commit that is known to be so, counted from 1
        since: number of the last one that is known to be as before
        old, new: what it comes to at these two
        exact: there is no other commit between them
        slack: so many bytes may an image grow or shrink without being told
    """

    target: str
    number: int
    commit: Commit
    since: int
    old: Signature
    new: Signature
    exact: bool = True
    slack: float = math.inf

    @property
    def added(self) -> List[str]:
        """Lines that came."""
        return _only(self.new.lines, self.old.lines)

    @property
    def removed(self) -> List[str]:
        """Lines that went."""
        return _only(self.old.lines, self.new.lines)

    @property
    def moved(self) -> Dict[str, int]:
        """Images that grew or shrank by more than is allowed, with the bytes."""
        old, new = self.old.sizes, self.new.sizes
        if not old or not new:
            return {}
        deltas = {name: new.get(name, 0) - old.get(name, 0) for name in {**old, **new}}
        return {name: delta for name, delta in deltas.items() if abs(delta) > self.slack}

    def __bool__(self) -> bool:
        """Whether there is a change at all."""
        return bool(self.old.status != self.new.status or self.added or self.removed
                    or self.moved)

    def text(self) -> str:
        """Return the line that tells of it."""
        notes = [f'{name} {delta:+d}' for name, delta in self.moved.items()]
        if self.old.status == self.new.status and (self.added or self.removed):
            notes.insert(0, 'other lines')
        where = f'at {self.number}' if self.exact else f'after {self.since}, by {self.number}'
        return (f'{self.target}: {STATUS_NAMES[self.old.status]} -> '
                f"{STATUS_NAMES[self.new.status]}{' (' if notes else ''}{', '.join(notes)}"
                f"{')' if notes else ''} {where} {self.commit.hash[:12]} {self.commit.subject}")

    def to_dict(self) -> Dict[str, Any]:
        """Return it as JSON types, see `results.report`."""
        return {'board': self.target, 'number': self.number, 'hash': self.commit.hash,
                'subject': self.commit.subject, 'since': self.since,
                'before': STATUS_NAMES[self.old.status], 'after': STATUS_NAMES[self.new.status],
                'added': self.added, 'removed': self.removed, 'sizes': self.moved}


@dataclasses.dataclass(frozen=True)
class Found:
    """What a hunt has found.

    Attributes:
        changes: in the order of boards and commits
        inferred: board -> index of a commit without a result -> status that the
            results around it have
        known: how many results there are
        total: how many there are with those of all commits
    """

    changes: Tuple[Change, ...] = ()
    inferred: Mapping[str, Mapping[int, int]] = dataclasses.field(default_factory=dict)
    known: int = 0
    total: int = 0

    def lines(self) -> List[str]:
        """Return what people are to know."""
        guessed = sum(map(len, self.inferred.values()))
        out = [change.text() for change in self.changes]
        text = f'Hunted: {len(self.changes) or "no"} change{"s"[len(self.changes) == 1:]}'
        text += f'; {self.known} of {self.total} results are there'
        if guessed:
            text += (f', {guessed} are taken to be like those around them: what broke and was '
                     'mended in between is not seen (the same without --hunt builds the rest)')
        return [*out, text]
