# SPDX-License-Identifier: GPL-2.0+
"""Reads a result tree commit by commit, in several processes where that pays.

Each process has a share of the boards and goes through all the commits, so it
can compare a board with itself without asking anybody, and only what changed
travels to the parent. A process that is ahead waits until its pipe is read;
so nobody holds more than two commits.

A file is parsed only if it differs from that of the commit before. Its earlier
contents are kept while they fit into a budget; after that only a fingerprint
is kept and the file is read again when it turns out to have changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from buildman.build.output import as_ours
from buildman.core.errors import GitError
from buildman.core.outcome import TRIES
from buildman.process.fork import Child
from buildman.results import reader
from buildman.results.compare import (
    NO_MESSAGES,
    Changes,
    ConfigChanges,
    Messages,
    about_blobs,
    classify,
    diff_config,
    diff_env,
    diff_functions,
    diff_sizes,
    is_blob,
    sum_up_config,
)
from buildman.results.lines import Versions, compare, different, needed
from buildman.results.reader import ERROR, OK, UNKNOWN, WARNING, CommitReader, ImageSizes, Problem
from buildman.results.summary import BoardFacts

# Bytes of earlier file contents that one process keeps
BUDGET = 64 << 20

# Microseconds that one result takes about, to decide whether to share the work
_COST = 10
_COST_MESSAGES = 8
_COST_SIZES = 8
_COST_FUNCTIONS = 100
_COST_CONFIG = 60
_COST_ENV = 15
_COST_LINES = 500
_WORTH_SHARING = 150_000

_DAMAGED = 'is damaged; lines that make no sense are left out'

# What a board compiled at the commit before and now, see different()
_Manifests = Tuple[Dict[str, str], Dict[str, str]]


@dataclasses.dataclass(frozen=True)
class History:
    """Where the source of each commit is.

    Attributes:
        repo: folder of the repository
        hashes: the commits that are read, in their order
    """

    repo: str
    hashes: Tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be read of each result, beside whether it is good.

    Attributes:
        messages: lines of stderr
        stderr: all of stderr as it is
        sizes: sizes of images, and their changes
        new_sizes: those that are not as at the commit before
        all_sizes: sizes of boards that did not change, too
        files: lengths of these files
        functions: changes of functions, where sizes changed
        config: names of the configuration files to compare
        config_as_is: see config_item()
        env: changes of the default environment
        lines: changes of which lines are compiled
        lines_code: … with their text
        host: who built it
        tries: what failed before it was tried again
        no_dtb, no_migration: see err_lines()
    """

    messages: bool = False
    stderr: bool = False
    sizes: bool = False
    new_sizes: bool = False
    all_sizes: bool = False
    files: Tuple[str, ...] = ()
    functions: bool = False
    config: Tuple[str, ...] = ()
    config_as_is: bool = False
    env: bool = False
    lines: bool = False
    lines_code: bool = False
    host: bool = False
    tries: bool = False
    no_dtb: bool = False
    no_migration: bool = False

    def needs_err(self) -> bool:
        """Return whether the contents of `err` matter, not only its length."""
        return self.messages or self.stderr or self.no_dtb or self.no_migration

    def cost(self) -> int:
        """Return about how long one result takes, in microseconds."""
        return (_COST + _COST_MESSAGES * self.needs_err() + _COST_SIZES * self.sizes
                + _COST_FUNCTIONS * self.functions + _COST_CONFIG * bool(self.config)
                + _COST_ENV * self.env + _COST_LINES * self.lines)


# What an `err` file holds: any line, lines about missing binaries only, the
# messages if wanted, all of the text if wanted
_Err = Tuple[bool, bool, Messages, str]

# What a process tells about its boards at one commit
Step = Tuple[BoardFacts, List[Problem]]


class SliceReader:
    """Reads a share of the boards, one commit after another."""

    def __init__(self, targets: Sequence[str], first: int, end: int, wanted: Wanted,
                 history: Optional[History] = None, pairs: Optional[Mapping[str, str]] = None):
        """
        Args:
            targets: all boards
            first, end: the range of them to read
            wanted: what to read
            history: where the sources of the commits are, for `wanted.lines`
            pairs: folder of a commit to another one that must have a result of a
                board as well
        """
        self._pairs = pairs or {}
        self._history = history
        self._step = 0
        self._boards = list(enumerate(targets[first:end], first))
        # The first of the readers looks after what is in no share
        self._everyone = None if first else frozenset(targets)
        self._wanted = wanted
        self._prev: Optional[CommitReader] = None
        self._messages: Dict[int, Messages] = {}
        self._sizes: Dict[int, Tuple[bytes, ImageSizes]] = {}
        # (board, file) to its contents or, past the budget, a fingerprint
        self._kept: Dict[Tuple[int, str], Union[bytes, int]] = {}
        self._kept_bytes = 0
        self._known_err: Dict[bytes, _Err] = {}

    def advance(self, folder: str) -> Step:
        """Return what the boards did in the next commit's folder."""
        commit = CommitReader(folder)
        facts = BoardFacts()
        statuses = bytearray()
        lines: Dict[int, _Manifests] = {}
        if len(self._known_err) > 10000:
            self._known_err.clear()
        pair = self._pairs.get(folder, '')
        for num, target in self._boards:
            code = commit.return_code(target)
            if code is None or (pair and not os.path.exists(f'{pair}/{target}/done')):
                statuses.append(UNKNOWN)
                self._forget(num, target, facts)
                continue
            statuses.append(self._read_err(commit, num, target, code, facts))
            if self._wanted.sizes:
                self._read_sizes(commit, num, target, facts)
            lengths = {name: commit.size(f'{target}/{name}') for name in self._wanted.files}
            if any(lengths.values()):
                facts.files[num] = {name: size for name, size in lengths.items() if size}
            if self._wanted.config:
                self._read_config(commit, num, target, facts)
            if self._wanted.env:
                self._read_env(commit, num, target, facts)
            if self._wanted.lines:
                found = self._read_lines(commit, num, target)
                if found:
                    lines[num] = found
            if self._wanted.host:
                raw = commit.read(f'{target}/host')
                if raw:
                    facts.host[num] = reader.parse_host(raw)
            if self._wanted.tries:
                raw = commit.read(f'{target}/{TRIES}')
                if raw:
                    facts.tries[num] = reader.decode(raw)[0]
        facts.statuses = bytes(statuses)
        if lines:
            self._compare_lines(commit, lines, facts)
        if self._everyone is not None:
            commit.problems += commit.foreign(self._everyone)
        commit.close()
        self._prev = commit
        self._step += 1
        return facts, commit.problems

    def _forget(self, num: int, target: str, facts: BoardFacts) -> None:
        """Take note that a board has no result at this commit."""
        if self._messages.pop(num, NO_MESSAGES) is not NO_MESSAGES:
            facts.messages[num] = NO_MESSAGES
        self._sizes.pop(num, None)
        for name in self._wanted.config:
            self._keep(num, name, b'')
        if self._wanted.env and self._prev:
            old = self._earlier(num, target, 'uboot.env')
            if old:
                facts.env[num] = diff_env(reader.parse_env(old), {})
        self._keep(num, 'uboot.env', b'')
        self._keep(num, 'lines', b'')

    def _read_err(self, commit: CommitReader, num: int, target: str, code: int,
                  facts: BoardFacts) -> int:
        """Return the status of a board, taking in what it wrote to stderr."""
        wanted = self._wanted
        name = f'{target}/err'
        if not code and not wanted.needs_err():
            return WARNING if commit.size(name) else OK
        raw = commit.read(name)
        some, blob_only, messages, text = False, False, NO_MESSAGES, ''
        if raw:
            known = self._known_err.get(raw)
            if known is None:
                known = self._parse_err(commit, name, raw, facts)
            some, blob_only, messages, text = known
        if blob_only:
            facts.blob_only.append(num)
        if wanted.stderr and text:
            facts.stderr[num] = text
        if wanted.messages:
            old = self._messages.get(num, NO_MESSAGES)
            if messages is not old and messages != old:
                facts.messages[num] = messages
                self._messages[num] = messages
        return ERROR if code else WARNING if some else OK

    def _parse_err(self, commit: CommitReader, name: str, raw: bytes,
                   facts: BoardFacts) -> _Err:
        wanted = self._wanted
        text, clean = reader.decode(raw)
        if not clean:
            commit.note('is not UTF-8; the bytes that are not are shown as \ufffd', name)
        lines = reader.err_lines(text, wanted.no_dtb, wanted.no_migration)
        messages = NO_MESSAGES
        if wanted.messages:
            messages = classify(lines, wanted.no_migration)
            if messages == NO_MESSAGES:
                messages = NO_MESSAGES      # boards without any are told by identity
            elif '../' in text or '/.bm-work/' in text:
                forms = ((line, as_ours(line)) for group in messages for line in group)
                facts.theirs.update(form for form in forms if form[0] != form[1])
        full = ''
        if wanted.stderr:
            full = ''.join(line + '\n' for line in lines if line or not wanted.no_migration)
        blob_only = is_blob(text) and all(about_blobs(lines))
        known = bool(lines), blob_only, messages, full
        if clean:
            self._known_err[raw] = known
        return known

    def _read_sizes(self, commit: CommitReader, num: int, target: str,
                    facts: BoardFacts) -> None:
        raw = commit.read(f'{target}/sizes')
        if raw is None:
            self._sizes.pop(num, None)
            return
        old = self._sizes.get(num)
        if old and old[0] == raw:
            sizes = old[1]
        else:
            sizes, clean = reader.parse_sizes(raw)
            if not clean or not raw:
                commit.note(_DAMAGED,
                            f'{target}/sizes')
            self._sizes[num] = (raw, sizes)
            if old:
                deltas = diff_sizes(old[1], sizes)
                if deltas:
                    facts.size_deltas[num] = deltas
                    if self._wanted.functions:
                        self._read_functions(commit, num, target, facts)
        if sizes:
            facts.sized.append(num)
            if self._wanted.all_sizes or (self._wanted.new_sizes
                                          and not (old and old[0] == raw)):
                facts.sizes[num] = sizes

    def _read_functions(self, commit: CommitReader, num: int, target: str,
                        facts: BoardFacts) -> None:
        assert self._prev
        images = {}
        for image in commit.images(target):
            name = f'{target}/{image}.sizes'
            new, old = commit.read(name), self._again(name)
            if new is None or old is None or new == old:
                continue
            images[image], clean = diff_functions(old, new)
            if not clean:
                commit.note(_DAMAGED, name)
        images = {image: rows for image, rows in images.items() if rows}
        if images:
            facts.functions[num] = images

    def _read_config(self, commit: CommitReader, num: int, target: str,
                     facts: BoardFacts) -> None:
        files: ConfigChanges = {}
        as_is = self._wanted.config_as_is
        for name in self._wanted.config:
            raw = commit.read(f'{target}/{name}') or b''
            if self._prev and raw and not self._is_same(num, name, raw):
                old = self._earlier(num, target, name)
                files[name], clean = diff_config(old, raw, as_is)
                if not clean:
                    commit.note(_DAMAGED,
                                f'{target}/{name}')
            self._keep(num, name, raw)
        files = {name: changes for name, changes in files.items() if changes}
        if files:
            facts.config[num] = sum_up_config(files)

    def _read_env(self, commit: CommitReader, num: int, target: str,
                  facts: BoardFacts) -> None:
        raw = commit.read(f'{target}/uboot.env') or b''
        if self._prev and not self._is_same(num, 'uboot.env', raw):
            if not reader.decode(raw)[1]:
                commit.note('is not UTF-8; the bytes that are not are shown as \ufffd',
                            f'{target}/uboot.env')
            changes: Changes = diff_env(
                reader.parse_env(self._earlier(num, target, 'uboot.env')),
                reader.parse_env(raw))
            if changes:
                facts.env[num] = changes
        self._keep(num, 'uboot.env', raw)

    def _read_lines(self, commit: CommitReader, num: int, target: str) -> Optional[_Manifests]:
        """Return the lines that a board compiled before and now, where they differ.

        None when that is nothing, or not known at one of the commits.
        """
        name = f'{target}/lines'
        raw = commit.read(name) or b''
        if self._is_same(num, 'lines', raw):
            return None
        old = self._earlier(num, target, 'lines') if self._prev and raw else b''
        self._keep(num, 'lines', raw)
        new, clean = reader.parse_lines(raw)
        if not clean:
            commit.note(_DAMAGED, name)
        return different(reader.parse_lines(old)[0], new) if old and raw else None

    def _compare_lines(self, commit: CommitReader, lines: Dict[int, _Manifests],
                       facts: BoardFacts) -> None:
        """Find out of which sources other lines are compiled than at the commit before."""
        history, code = self._history, self._wanted.lines_code
        if history is None or not 0 < self._step < len(history.hashes):
            return
        versions = Versions(history.repo, *history.hashes[self._step - 1:self._step + 1])
        try:
            versions.fetch(path for pair in lines.values() for path in needed(*pair))
        except GitError as exc:
            commit.problems.append(Problem(
                f'cannot be compared with the commit before (--lines): {exc}', commit.folder))
            return
        targets = dict(self._boards)
        for num, (old, new) in lines.items():
            try:
                files = compare(old, new, versions, code)
            except ValueError:
                commit.note(_DAMAGED, f'{targets[num]}/lines')
                continue
            if files:
                facts.lines[num] = files

    # ------------------------------------------------- files of a commit ago

    def _is_same(self, num: int, name: str, raw: bytes) -> bool:
        kept = self._kept.get((num, name), b'')
        return kept == (raw if isinstance(kept, bytes) else hash(raw))

    def _keep(self, num: int, name: str, raw: bytes) -> None:
        key = num, name
        old = self._kept.get(key)
        if isinstance(old, bytes):
            if old == raw:
                return
            self._kept_bytes -= len(old)
        if not raw:
            self._kept.pop(key, None)
        elif self._kept_bytes + len(raw) <= BUDGET:
            self._kept[key] = raw
            self._kept_bytes += len(raw)
        else:
            self._kept[key] = hash(raw)

    def _earlier(self, num: int, target: str, name: str) -> bytes:
        """Return what a file held at the commit before."""
        kept = self._kept.get((num, name), b'')
        if isinstance(kept, bytes):
            return kept
        return self._again(f'{target}/{name}') or b''

    def _again(self, name: str) -> Optional[bytes]:
        """Return a file of the commit before, read once more."""
        assert self._prev
        try:
            with open(f'{self._prev.folder}/{name}', 'rb') as inf:
                return inf.read()
        except OSError:
            # It was reported when it was read the first time
            return None


# ------------------------------------------------------------------ processes


def _share(count: int, parts: int) -> List[Tuple[int, int]]:
    """Return `parts` ranges of about equal length that make up 0…count."""
    ends = [count * part // parts for part in range(parts + 1)]
    return list(zip(ends, ends[1:]))


def process_count(results: int, wanted: Wanted, limit: int = 0) -> int:
    """Return how many processes to read with.

    Args:
        results: number of boards times number of commits
        wanted: what is read of each
        limit: most processes to use, 0 for one per processor
    """
    limit = limit or len(os.sched_getaffinity(0))
    return max(1, min(limit, results * wanted.cost() // _WORTH_SHARING))


def read_commits(folders: Sequence[str], targets: Sequence[str], wanted: Wanted,
                 processes: int, history: Optional[History] = None,
                 pairs: Optional[Mapping[str, str]] = None) -> Iterator[Step]:
    """Yield for each folder what the boards did, compared with the one before.

    Raises:
        ChildDied: a process that reads has died
    """
    if processes <= 1 or len(targets) < processes:
        part = SliceReader(targets, 0, len(targets), wanted, history, pairs)
        for folder in folders:
            yield part.advance(folder)
        return
    gc.freeze()
    try:
        with contextlib.ExitStack() as stack:
            parts = [SliceReader(targets, first, end, wanted, history, pairs)
                     for first, end in _share(len(targets), processes)]
            children = [stack.enter_context(Child(functools.partial(_steps, part, folders),
                                                  'the summary')) for part in parts]
            for _ in folders:
                facts, problems = BoardFacts(), []
                for child in children:
                    share, found = child.next()
                    facts.add(share)
                    problems += found
                yield facts, problems
    finally:
        gc.unfreeze()


def _steps(part: SliceReader, folders: Sequence[str]) -> Iterator[Step]:
    """Yield each step of a share of the boards, in a child"""
    gc.disable()
    return (part.advance(folder) for folder in folders)
