# SPDX-License-Identifier: GPL-2.0+
"""What a commit changed in the lines that are compiled (`-s --lines`).

A board has a file `lines` (see `build.dwarflines`) at both commits. Where it has other
numbers for a source, both versions of that source are read from git and
aligned, so that a line which only has another number now is not told. Where
the numbers are the same, so are the lines: that a line reads otherwise is
what git tells, not this.

Versions are aligned by difflib, without its `autojunk`: what is told then is
what people know from upstream, line for line. That takes time in proportion to
how often lines repeat, so files where it would take long are cut to what
differs first.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from buildman.results.reader import parse_numbers
from buildman.source import git

# Lines of text that are told of one file
MAX_TEXTS = 50

# Pairs of equal lines up to which two versions are aligned as they are: about
# a second's work
MAX_PAIRS = 1_000_000

# What a board has in its file `lines`: source, with its phase, to its numbers
Manifest = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class FileLines:
    """What changed in one source.

    Attributes:
        key: its name, with the phase in front
        sign: '+' compiled now and not before, '-' the other way round, '~' both
        added, removed: number of lines
        texts: sign, number and text of those lines, MAX_TEXTS at most; empty
            unless they are wanted
    """

    key: str
    sign: str
    added: int
    removed: int
    texts: Tuple[Tuple[str, int, str], ...] = ()


class Versions:
    """The sources at one commit and the one before, from git.

    What is learnt of a file is kept, as many boards compile it.
    """

    def __init__(self, repo: str, old: str, new: str) -> None:
        """
        Args:
            repo: folder of the repository
            old, new: hashes of the commits
        """
        self._repo = repo
        self._commits = old, new
        self._blobs: Dict[str, Tuple[Optional[List[bytes]], Optional[List[bytes]]]] = {}
        # Lines that are the same, there and back
        self._maps: Dict[str, Tuple[Dict[int, int], Dict[int, int]]] = {}

    def fetch(self, paths: Iterable[str]) -> None:
        """Read files, all in one go.

        Args:
            paths: names relative to the source; those that are known are left out

        Raises:
            GitError: git fails
        """
        new = [path for path in dict.fromkeys(paths) if path not in self._blobs]
        asked = [path for path in new if '\n' not in path]
        self._blobs.update(dict.fromkeys(new, (None, None)))
        if not asked:
            return
        names = b''.join(commit.encode() + b':' + path.encode('utf-8', 'surrogateescape') + b'\n'
                         for path in asked for commit in self._commits)
        answers = _split_batch(git.run(self._repo, 'cat-file', '--batch', stdin=names))
        for path, old, now in zip(asked, answers[::2], answers[1::2]):
            before = _lines(old)
            self._blobs[path] = before, before if old == now else _lines(now)

    def text(self, path: str, new: bool, number: int) -> str:
        """Return a line of a file; '' when there is none."""
        lines = self._blobs[path][new]
        if not lines or number > len(lines):
            return ''
        return lines[number - 1].decode('utf-8', 'replace').rstrip('\r')

    def changed(self, path: str, before: Set[int], after: Set[int]) -> Tuple[List[int], List[int]]:
        """Return which lines went and which came, without those that only moved.

        A file that is not there at one of the commits has nothing that could
        move: its numbers stand for themselves. Of one that is there, what is
        beyond its end is no line.

        Args:
            path: name relative to the source
            before, after: lines that are compiled at the commit before and now
        """
        old, new = self._blobs[path]
        if old is None or new is None:
            return sorted(before - after), sorted(after - before)
        if path not in self._maps:
            same = align(old, new)
            self._maps[path] = same, {second: first for first, second in same.items()}
        there, back = self._maps[path]
        return (sorted(number for number in before
                       if number <= len(old) and there.get(number) not in after),
                sorted(number for number in after
                       if number <= len(new) and back.get(number) not in before))


def _split_batch(out: bytes) -> List[Optional[bytes]]:
    """Return what `git cat-file --batch` has written, None for what is no file.

    `HASH TYPE SIZE`, the content and a newline; `NAME missing` and the like
    when there is nothing.
    """
    found: List[Optional[bytes]] = []
    pos = 0
    while pos < len(out):
        end = out.index(b'\n', pos)
        words = out[pos:end].split(b' ')
        pos = end + 1
        if len(words) == 3 and words[1] in (b'blob', b'tree', b'commit', b'tag') and (
                words[2].isdigit()):
            size = int(words[2])
            found.append(out[pos:pos + size] if words[1] == b'blob' else None)
            pos += size + 1
        else:
            found.append(None)
    return found


def _lines(data: Optional[bytes]) -> Optional[List[bytes]]:
    """Return the lines of a file, as a compiler counts them"""
    if data is None:
        return None
    lines = data.split(b'\n')
    if not lines[-1]:
        lines.pop()
    return lines


def align(old: Sequence[bytes], new: Sequence[bytes]) -> Dict[int, int]:
    """Return which lines two versions of a file have in common.

    Returns:
        number in the old one to number in the new one, from 1
    """
    if old == new:
        return {number: number for number in range(1, len(old) + 1)}
    start = back = 0
    junk = False
    if _pairs(old, new) > MAX_PAIRS:
        top = min(len(old), len(new))
        while start < top and old[start] == new[start]:
            start += 1
        while back < top - start and old[-1 - back] == new[-1 - back]:
            back += 1
        junk = _pairs(old[start:len(old) - back], new[start:len(new) - back]) > MAX_PAIRS
    same = {number: number for number in range(1, start + 1)}
    matcher = difflib.SequenceMatcher(
        None, old[start:len(old) - back], new[start:len(new) - back], autojunk=junk)
    for first, second, size in matcher.get_matching_blocks():
        for step in range(size):
            same[start + first + step + 1] = start + second + step + 1
    for step in range(back):
        same[len(old) - step] = len(new) - step
    return same


def _pairs(old: Sequence[bytes], new: Sequence[bytes]) -> int:
    """Return how many pairs of equal lines there are"""
    counts = Counter(new)
    return sum(count * counts[line] for line, count in Counter(old).items() if line in counts)


def _path(key: str) -> str:
    """Return the name of a source without the phase"""
    phase, sep, path = key.partition(':')
    return path if sep and '/' not in phase else key


def different(old: Manifest, new: Manifest) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Return two manifests without the sources that have the same numbers in both."""
    return ({key: text for key, text in old.items() if new.get(key) != text},
            {key: text for key, text in new.items() if old.get(key) != text})


def needed(old: Manifest, new: Manifest) -> List[str]:
    """Return the sources to be read in order to compare two manifests.

    Args:
        old, new: what different() has returned
    """
    return [_path(key) for key in old.keys() | new.keys()]


def compare(old: Manifest, new: Manifest, versions: Versions, texts: bool) -> List[FileLines]:
    """Return the sources of which other lines are compiled now, by name.

    Args:
        old, new: what different() has returned
        versions: has read what needed() returns
        texts: add the text of those lines

    Raises:
        ValueError: there are numbers that make no sense
    """
    out: List[FileLines] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = (parse_numbers(side.get(key, '')) for side in (old, new))
        path = _path(key)
        went, came = versions.changed(path, before, after)
        sign = '~' if before and after else '+' if after else '-'
        if not went and not came:
            continue
        told: List[Tuple[str, int, str]] = []
        if texts:
            told = [('-', number, versions.text(path, False, number))
                    for number in went[:MAX_TEXTS]]
            told += [('+', number, versions.text(path, True, number))
                     for number in came[:MAX_TEXTS - len(told)]]
        name = key.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')
        out.append(FileLines(name, sign, len(came), len(went), tuple(told)))
    return out
