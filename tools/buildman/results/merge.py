# SPDX-License-Identifier: GPL-2.0+
"""Makes one result tree of several (--merge): those of shards, say.

A result is copied with its times, `done` last and by rename, as the builder writes it. The
logs of distributed builds go along, see `results.joblog`.
What a shard is one of is told by `.bm-work/shard` in the folder of its results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from typing import Dict, List, Optional, Sequence, Tuple

from buildman.core.errors import SetupError, UsageError
from buildman.core.files import clear_way, replace_file
from buildman.results import durations, joblog
from buildman.results.tree import BRANCHES, WORK_DIR, OutputLock, commit_folders

NOTE = f'{WORK_DIR}/shard'

_NOTE = re.compile(r'([0-9,]+)/([0-9]+) ([0-9a-f]+)\n')


@dataclasses.dataclass(frozen=True)
class Part:
    """What a folder has of all results.

    Attributes:
        numbers: of the parts, counted from 1
        count: how many parts there are
        digest: tells which board is in which
    """

    numbers: Tuple[int, ...]
    count: int
    digest: str

    def to_text(self) -> str:
        """Return it as a line."""
        return f"{','.join(map(str, self.numbers))}/{self.count} {self.digest}\n"

    @classmethod
    def from_text(cls, text: str) -> 'Part':
        """Return what a line tells.

        Raises:
            ValueError: it makes no sense
        """
        match = _NOTE.fullmatch(text)
        if not match:
            raise ValueError(text)
        return cls(tuple(map(int, match.group(1).split(','))), int(match.group(2)),
                   match.group(3))


def read_part(base: str) -> Optional[Part]:
    """Return what a folder of results has of all; None when that is not told, or all"""
    try:
        with open(os.path.join(base, NOTE), encoding='ascii', errors='replace') as inf:
            return Part.from_text(inf.read(10_000))
    except (OSError, ValueError):
        return None


def note_part(base: str, part: Part) -> Part:
    """Note that a folder of results has a part of all, too; return what it has now.

    Raises:
        SetupError: it cannot be written
    """
    had = read_part(base)
    if had and (had.count, had.digest) == (part.count, part.digest):
        part = dataclasses.replace(part, numbers=tuple(sorted({*had.numbers, *part.numbers})))
    path = os.path.join(base, NOTE)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, part.to_text().encode())
    except OSError as exc:
        raise SetupError(f"cannot write '{path}': {exc.strerror}") from exc
    return part


def _bases(folder: str) -> Dict[str, str]:
    """Return the folders of results in an output folder: name, '' for itself, to path"""
    try:
        names = ['', *sorted(os.listdir(folder))]
    except OSError as exc:
        raise UsageError(f"--merge: cannot read '{folder}': {exc.strerror}") from exc
    out = {}
    for name in names:
        path = os.path.join(folder, name) if name else folder
        with contextlib.suppress(OSError):
            if (commit_folders(path) or os.path.isfile(os.path.join(path, NOTE))
                    or os.path.isdir(os.path.join(path, 'current'))):
                out[name] = path
    return out


class Merge:
    """Several output folders, and the one that they are put into.

    Attributes:
        lines: what people are to know
        complete: no shard is missing
    """

    def __init__(self, folders: Sequence[str], out: str) -> None:
        """Look at folders.

        Args:
            folders: output folders (-o), of whatever branches
            out: output folder for all; it may have results, too

        Raises:
            UsageError: one cannot be read, has no results or is of another build; or it has
                the one for all in it, or nothing that would have to be copied
        """
        self._out = out
        self.lines: List[str] = []
        self.complete = True
        self._sources: Dict[str, List[str]] = {}
        for folder in folders:
            found = _bases(folder)
            if not found:
                raise UsageError(f"--merge: there are no results in '{folder}': name the output "
                                 'folders (-o) of builds')
            for name, path in found.items():
                self._sources.setdefault(name, []).append(path)
        self._check_places(folders)
        for name, sources in self._sources.items():
            base = os.path.join(out, name) if name else out
            # The folder for all may be of an earlier state of the branch
            self._check_commits(sources)
            self._check_parts([*sources, base])

    def _check_places(self, folders: Sequence[str]) -> None:
        """Refuse folders that lie in each other in a way that nobody can mean"""
        ours = os.path.realpath(self._out)
        paths = [os.path.realpath(folder) for folder in folders]
        for path, folder in zip(paths, folders):
            if ours.startswith(os.path.join(path, '')) and ours != path:
                raise UsageError(f"--merge: '{self._out}' lies in '{folder}', whose results are to "
                                 'be put into it: name a folder outside (-o)')
            if os.path.dirname(path) == ours and commit_folders(path):
                raise UsageError(f"--merge: '{folder}' has the results of a branch, and lies in "
                                 f"'{self._out}' already: name the output folders (-o) of builds")
        if set(paths) == {ours}:
            raise UsageError(f"--merge: '{self._out}' is the folder to merge into: name others")

    @staticmethod
    def _check_commits(bases: Sequence[str]) -> None:
        """Refuse folders in which commits have other numbers"""
        known: Dict[object, Dict[Tuple[int, str], str]] = {}
        for base in bases:
            # A folder itself may well have a number twice: it was built with another -c, too
            entries = sorted(commit_folders(base).values())
            for key, entry in ((key, found) for found in entries for key in found):
                others = known.get(key, {entry: base})
                if entry not in others:
                    other, where = next(iter(others.items()))
                    raise UsageError(
                        f"--merge: '{where}' and '{base}' have other commits: {other[0]} is "
                        f'{other[1][:12]} there, {entry[0]} is {entry[1][:12]} here')
            for entry in entries:
                for key in entry:
                    known.setdefault(key, {})[entry] = base

    @staticmethod
    def _check_parts(bases: Sequence[str]) -> None:
        """Refuse shards that do not belong together"""
        found = [(base, part) for base, part in ((base, read_part(base)) for base in bases) if part]
        for base, part in found:
            where, first = found[0]
            if (part.count, part.digest) != (first.count, first.digest):
                raise UsageError(f"--merge: '{where}' and '{base}' are shards of other boards or "
                                 'durations, so some boards would be missing: build them with '
                                 'the same --shard, terms and commits')

    def run(self) -> None:
        """Copy all results.

        Raises:
            SetupError: that cannot be done
        """
        for name, sources in self._sources.items():
            base = os.path.join(self._out, name) if name else self._out
            lock = OutputLock(base)
            try:
                self._merge(base, name, sources)
            except (OSError, shutil.Error) as exc:
                raise SetupError(f"cannot merge into '{base}': {exc}") from exc
            finally:
                lock.close()

    def _merge(self, base: str, name: str, sources: Sequence[str]) -> None:
        """Copy the results of one branch, whose folder has a name, or none"""
        count = replaced = 0
        for source in sources:
            if os.path.exists(base) and os.path.samefile(source, base):
                continue
            there = {found: name for name, (_, found) in commit_folders(base).items()}
            commits = {name: there.get(found, name)
                       for name, (_, found) in commit_folders(source).items()}
            for commit, dest in [*sorted(commits.items()), ('current', 'current')]:
                folder = os.path.join(source, commit)
                for target in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                    if os.path.isfile(os.path.join(folder, target, 'done')):
                        count += 1
                        replaced += _copy(os.path.join(folder, target),
                                          os.path.join(base, dest, target))
            durations.add(base, source)
            owners = os.path.join(source, BRANCHES)
            if os.path.exists(owners) and not os.path.exists(os.path.join(base, BRANCHES)):
                shutil.copy2(owners, os.path.join(base, BRANCHES))
            part = read_part(source)
            joblog.merge(base, source, joblog.shard_label(part.numbers) if part else
                         joblog.folder_label(os.path.dirname(source) if name else source))
            if part:
                note_part(base, part)
        self.lines.append(f"{count} results of {len(sources)} folders are in '{base}'"
                          + (f'; {replaced} were there before' if replaced else ''))
        part = read_part(base)
        missing = sorted(set(range(1, part.count + 1)).difference(part.numbers)) if part else []
        if part and missing:
            self.complete = False
            self.lines.append(f"Missing: shard {', '.join(map(str, missing))} of {part.count}")


def _copy(source: str, dest: str) -> bool:
    """Copy one result; return whether there was one"""
    was_there = os.path.exists(os.path.join(dest, 'done'))
    clear_way(os.path.join(dest, 'done'))
    clear_way(dest)
    shutil.copytree(source, dest, symlinks=True,
                    ignore=lambda folder, names: ['done'] if folder == source else [])
    shutil.copy2(os.path.join(source, 'done'), os.path.join(dest, 'done.new'))
    os.replace(os.path.join(dest, 'done.new'), os.path.join(dest, 'done'))
    return was_there
