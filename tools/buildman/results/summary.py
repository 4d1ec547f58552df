# SPDX-License-Identifier: GPL-2.0+
"""What changed from one commit to the next: plain data and pure functions.

Nothing in here reads a file or prints. Boards are spoken of by their index in
the list of boards, and come in the order of that list.

Two steps lead to a summary. The first looks at one board at a time, and can be
done for many boards at once in several processes: that is `results.compare`. The
second, a `Differ`, puts the boards of one commit together and compares them
with those of the commit before.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from buildman.core.plan import Board, Commit
from buildman.results.compare import (
    NO_MESSAGES,
    Changes,
    ConfigChanges,
    Messages,
    Symbol,
    is_blob,
    sum_up_config,
)
from buildman.results.lines import FileLines
from buildman.results.reader import ERROR, UNKNOWN, WARNING, ImageSizes


@dataclasses.dataclass
class BoardFacts:
    """What is to be told about some boards at one commit.

    All but `statuses` holds only those boards that have something to tell.

    Attributes:
        statuses: one byte a board: OK, WARNING, ERROR or UNKNOWN
        blob_only: boards that fail or warn for want of binaries only: all that
            they say is about these
        messages: those that are not the same as at the commit before
        theirs: lines as upstream's buildman writes them, to what they are in ours
        stderr: what make wrote to stderr, when asked for
        sized: boards that have sizes
        sizes: their sizes, when asked for
        files: lengths of files that were kept, when asked for
        size_deltas: see diff_sizes()
        functions: image to its symbols, see diff_functions()
        config, env: see diff_config() and diff_env()
        host: machine that built it, when asked for and known
        tries: what failed before it was tried again, when asked for
        lines: sources of which other lines are compiled, when asked for
    """

    statuses: bytes = b''
    blob_only: List[int] = dataclasses.field(default_factory=list)
    messages: Dict[int, Messages] = dataclasses.field(default_factory=dict)
    theirs: Dict[str, str] = dataclasses.field(default_factory=dict)
    stderr: Dict[int, str] = dataclasses.field(default_factory=dict)
    sized: List[int] = dataclasses.field(default_factory=list)
    sizes: Dict[int, ImageSizes] = dataclasses.field(default_factory=dict)
    files: Dict[int, Dict[str, int]] = dataclasses.field(default_factory=dict)
    size_deltas: Dict[int, Dict[str, int]] = dataclasses.field(default_factory=dict)
    functions: Dict[int, Dict[str, List[Symbol]]] = dataclasses.field(default_factory=dict)
    config: Dict[int, ConfigChanges] = dataclasses.field(default_factory=dict)
    env: Dict[int, Changes] = dataclasses.field(default_factory=dict)
    host: Dict[int, str] = dataclasses.field(default_factory=dict)
    tries: Dict[int, str] = dataclasses.field(default_factory=dict)
    lines: Dict[int, List[FileLines]] = dataclasses.field(default_factory=dict)

    def add(self, other: 'BoardFacts') -> None:
        """Append the facts of the boards that come after these."""
        self.statuses += other.statuses
        self.blob_only += other.blob_only
        self.sized += other.sized
        for field in ('messages', 'theirs', 'stderr', 'sizes', 'files', 'size_deltas', 'functions',
                      'config', 'env', 'host', 'tries', 'lines'):
            getattr(self, field).update(getattr(other, field))


@dataclasses.dataclass
class Line:
    """One line of output that came or went, and the boards it is from."""

    text: str
    warning: bool
    boards: List[int]


@dataclasses.dataclass
class ArchSizes:
    """How the boards of one arch changed in size.

    Attributes:
        arch: the arch
        sized: boards that have sizes now
        total: boards that are selected
        deltas: bytes for each region, summed up over the boards
        boards: boards that changed, largest growth first
    """

    arch: str
    sized: int
    total: int
    deltas: Dict[str, int]
    boards: List[int]


@dataclasses.dataclass
class CommitSummary:
    """One commit, compared with the one before.

    Attributes:
        upto: index of the commit in the branch, from 0
        commit: the commit, None for the current source
        facts: what was found for each board
        was: statuses at the commit before
        messages: those of each board now
        groups: arch to boards that are worth telling, as four lists: good
            again, now with warnings, now failing, not built
        removed, added: lines that went and came; errors before warnings
        blobs: lines that came and are about missing binaries
        sizes: per arch, those where something changed
        config_archs: arch to the changes of its boards
        config_boards: boards that changed alike, and their changes
        not_built: boards without a result
        seconds: target to how long it took to build, where that is known
        failures: of the boards without a result, those that could not be built,
            and why, as far as this run knows
        tolerated: boards that fail or warn and do not count, and why
        inferred: of the boards without a result, those of which a hunt has some on both
            sides that are alike, and what these are
        against: folder that it is compared with, '' for the commit before
    """

    upto: int
    commit: Optional[Commit]
    facts: BoardFacts
    was: bytes
    messages: List[Messages]
    groups: Dict[str, Tuple[List[int], List[int], List[int], List[int]]]
    removed: List[Line]
    added: List[Line]
    blobs: List[Line]
    sizes: List[ArchSizes]
    config_archs: Dict[str, ConfigChanges]
    config_boards: List[Tuple[List[int], ConfigChanges]]
    not_built: List[int]
    seconds: Dict[str, float] = dataclasses.field(default_factory=dict)
    failures: Dict[int, str] = dataclasses.field(default_factory=dict)
    tolerated: Dict[int, str] = dataclasses.field(default_factory=dict)
    inferred: Dict[int, str] = dataclasses.field(default_factory=dict)
    against: str = ''


# Line to the boards that have it, in the order of first appearance
_Index = Dict[str, List[int]]


class Differ:
    """Compares each commit with the one before.

    Attributes:
        flakes: boards that failed and did not at a later commit
    """

    def __init__(self, boards: Sequence[Board], apart: bool = False):
        """Begin before the first commit.

        Args:
            boards: all boards
            apart: a line that a board has is new although others had it
        """
        self.boards = boards
        self._apart = apart
        self.flakes: Set[int] = set()
        self._failed: Set[int] = set()
        self._was = bytes(len(boards))
        self._messages: List[Messages] = [NO_MESSAGES] * len(boards)
        self._index: Tuple[_Index, _Index] = ({}, {})
        # The same line as upstream's buildman and as we write it
        self._ours: Dict[str, str] = {}
        self._theirs: Dict[str, Set[str]] = {}
        self._archs: Dict[str, int] = {}
        for brd in boards:
            self._archs[brd.arch] = self._archs.get(brd.arch, 0) + 1

    def advance(self, upto: int, commit: Optional[Commit],
                facts: BoardFacts) -> CommitSummary:
        """Return what the next commit changed."""
        was, now = self._was, facts.statuses
        self._note_flakes(facts)
        for theirs, ours in facts.theirs.items():
            self._ours[theirs] = ours
            self._theirs.setdefault(ours, set()).add(theirs)
        removed, added, blobs = self._diff_messages(facts.messages)
        archs, alike = self._diff_config(facts.config)
        out = CommitSummary(
            upto, commit, facts, was, self._messages, self._group(was, now), removed, added,
            blobs, self._diff_sizes(facts), archs, alike, _places(now, UNKNOWN))
        self._was = now
        return out

    def _note_flakes(self, facts: BoardFacts) -> None:
        """Take note of boards that fail, and of those that have recovered.

        A board that lacks binaries and nothing else is as good as it can be.
        """
        now = facts.statuses
        failing = set(_places(now, ERROR)).difference(facts.blob_only)
        if self._failed:
            better = {num for num in self._failed - failing if now[num] != UNKNOWN}
            self.flakes |= better
            self._failed -= better
        self._failed |= failing

    def _group(self, was: bytes, now: bytes
               ) -> Dict[str, Tuple[List[int], List[int], List[int], List[int]]]:
        """Return for each arch the boards that are worth telling.

        A board that has a result after it had none counts as having become
        better, even where it fails.
        """
        lists: Tuple[List[int], List[int], List[int], List[int]] = ([], [], [], [])
        if was != now or UNKNOWN in now:
            for num, (old, new) in enumerate(zip(was, now)):
                if new == UNKNOWN:
                    lists[3].append(num)
                elif new != old:
                    if new == WARNING:
                        lists[1].append(num)
                    else:
                        lists[0 if new < old else 2].append(num)
        out: Dict[str, Tuple[List[int], List[int], List[int], List[int]]] = {}
        for which, nums in enumerate(lists):
            for num in nums:
                arch = self.boards[num].arch
                if arch not in out:
                    out[arch] = ([], [], [], [])
                out[arch][which].append(num)
        return out

    def _diff_messages(self, changed: Dict[int, Messages]
                       ) -> Tuple[List[Line], List[Line], List[Line]]:
        removed: List[Line] = []
        added: List[Line] = []
        blobs: List[Line] = []
        if not changed:
            return removed, added, blobs
        had = {num: self._messages[num] for num in changed}
        self._messages = list(self._messages)
        for num, messages in changed.items():
            self._messages[num] = messages
        if self._apart:
            lines = self._lines_without(changed, had)
            return (self._lines_without(had, changed),
                    [line for line in lines if not is_blob(line.text)],
                    [line for line in lines if is_blob(line.text)])
        old, self._index = self._index, self._make_index()
        for kind, (before, after) in enumerate(zip(old, self._index)):
            warning = bool(kind)
            removed += [Line(text, warning, nums) for text, nums in before.items()
                        if text not in after and not self._is_in(after, text)]
            for text, nums in after.items():
                if text not in before and not self._is_in(before, text):
                    group = blobs if is_blob(text) else added
                    group.append(Line(text, warning, nums))
        return removed, added, blobs

    def _lines_without(self, some: Mapping[int, Messages], others: Mapping[int, Messages]
                       ) -> List[Line]:
        """Return the lines that boards have in the one and not in the other."""
        out: List[Line] = []
        for kind in range(2):
            index: _Index = {}
            for num in sorted(some):
                known = {self._ours.get(text, text) for text in others[num][kind]}
                for text in some[num][kind]:
                    if self._ours.get(text, text) not in known:
                        index.setdefault(text, []).append(num)
            out += [Line(text, bool(kind), boards) for text, boards in index.items()]
        return out

    def _is_in(self, index: _Index, text: str) -> bool:
        """Return whether a line is there as the other buildman writes it.

        Two lines of upstream's are never taken for the same: of a tree that it
        built, what is told is what it tells.
        """
        return self._ours.get(text) in index or (
            text in self._theirs and not index.keys().isdisjoint(self._theirs[text]))

    def _join(self, index: _Index) -> _Index:
        """Return lines with what boards have from the one and the other buildman in one."""
        first: Dict[str, str] = {}
        out: _Index = {}
        for text, nums in index.items():
            ours = self._ours.get(text, text)
            if ours in index:
                text = first.setdefault(ours, text)
            out[text] = sorted({*out[text], *nums}) if text in out else nums
        return out

    def _make_index(self) -> Tuple[_Index, _Index]:
        # Boards with the very same output are looked at once only
        alike: Dict[int, Tuple[Messages, List[int]]] = {}
        for num, messages in enumerate(self._messages):
            if messages is not NO_MESSAGES:
                alike.setdefault(id(messages), (messages, []))[1].append(num)
        out: Tuple[_Index, _Index] = ({}, {})
        for kind, index in enumerate(out):
            mixed: Set[str] = set()
            for messages, nums in alike.values():
                for line in messages[kind]:
                    if line not in index:
                        index[line] = nums
                    elif line in mixed:
                        index[line] += nums
                    else:
                        index[line] = index[line] + nums
                        mixed.add(line)
            for line in mixed:
                index[line].sort()
        return (self._join(out[0]), self._join(out[1])) if self._theirs else out

    def _diff_sizes(self, facts: BoardFacts) -> List[ArchSizes]:
        sums: Dict[str, Dict[str, int]] = {}
        changed: Dict[str, List[int]] = {}
        for num, deltas in sorted(facts.size_deltas.items()):
            arch = self.boards[num].arch
            arch_sum = sums.setdefault(arch, {})
            changed.setdefault(arch, []).append(num)
            for region, delta in deltas.items():
                arch_sum[region] = arch_sum.get(region, 0) + delta
        if not any(any(arch_sum.values()) for arch_sum in sums.values()):
            return []
        sized: Dict[str, int] = {}
        for num in facts.sized:
            arch = self.boards[num].arch
            sized[arch] = sized.get(arch, 0) + 1
        out = []
        for arch, count in sized.items():
            deltas = {region: delta for region, delta in sums.get(arch, {}).items() if delta}
            if deltas:
                nums = sorted(changed[arch], reverse=True,
                              key=lambda num: (sum(facts.size_deltas[num].values()), -num))
                out.append(ArchSizes(arch, count, self._archs[arch], deltas, nums))
        return out

    def _diff_config(self, config: Dict[int, ConfigChanges]
                     ) -> Tuple[Dict[str, ConfigChanges], List[Tuple[List[int], ConfigChanges]]]:
        archs: Dict[str, ConfigChanges] = {}
        alike: Dict[Any, Tuple[List[int], ConfigChanges]] = {}
        for num, files in sorted(config.items()):
            total = archs.setdefault(self.boards[num].arch, {})
            for name, changes in files.items():
                if name != 'all':
                    total.setdefault(name, Changes()).update(changes)
            key = tuple((name, _items(ch.plus), _items(ch.minus), _items(ch.change))
                        for name, ch in files.items())
            alike.setdefault(key, ([], files))[0].append(num)
        return ({arch: sum_up_config(archs[arch]) for arch in self._archs if arch in archs},
                list(alike.values()))


def _items(values: Dict[str, Any]) -> Tuple[Tuple[str, Any], ...]:
    return tuple(sorted(values.items()))


def _places(statuses: bytes, status: int) -> List[int]:
    """Return the boards that have a status."""
    out = []
    pos = statuses.find(status)
    while pos >= 0:
        out.append(pos)
        pos = statuses.find(status, pos + 1)
    return out


def sort_names(boards: Sequence[Board], nums: Iterable[int]) -> List[str]:
    """Return the targets of some boards in alphabetical order."""
    return sorted(boards[num].target for num in nums)
