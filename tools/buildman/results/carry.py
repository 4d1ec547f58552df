# SPDX-License-Identifier: GPL-2.0+
"""Finds results of other commits that hold for a commit as well.

A result holds if nothing differs that its build has read (`build.trace`), and it was built
with the same settings and tools (`build.keys`). It is looked for in the output folder, among
the results of all commits and branches, those of a branch before a rebase included; then in
the cache, if there is one. What is found is written as a result of this run.
"""

from __future__ import annotations

import contextlib
import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from buildman.build import artifacts, trace
from buildman.build.keys import Keys
from buildman.core.errors import GitError
from buildman.core.files import clear_way
from buildman.core.outcome import Outcome
from buildman.core.plan import BoardJob
from buildman.results.cache import ResultCache, StoredFile, read_result
from buildman.results.made_with import Earlier
from buildman.results.tree import WORK_DIR, ResultTree, commit_folders, settings_of

# What people call it
CACHE = 'the result cache'

# Bytes that the first line of a trace has at most
_LINE = 1000


class Found(NamedTuple):
    """A result of another commit that holds for this one.

    Attributes:
        outcome: as if it had been built
        where: what it is from, for people: a branch, or the cache
        source: the folder of that result, for people
    """

    outcome: Outcome
    where: str
    source: str


class _Shelf(NamedTuple):
    """A folder with the results of a commit, and what people call the place"""

    folder: str
    where: str


class Carrier:
    """Finds results for one run.

    Attributes:
        keys: tells what must be the same
    """

    def __init__(self, tree: ResultTree, around: str, keys: Keys, earlier: Earlier,
                 cache: Optional[ResultCache] = None) -> None:
        """Set up; nothing is looked for.

        Args:
            tree: where the results of the run go
            around: holds those of all branches
            keys: see above
            earlier: tells of settings
            cache: where to look besides
        """
        self._tree = tree
        self._around = around
        self.keys = keys
        self._earlier = earlier
        self._cache = cache
        self._shelves: Optional[Sequence[_Shelf]] = None
        # Board -> key -> what may be it
        self._there: Dict[str, Dict[str, List[Tuple[trace.Header, _Shelf]]]] = {}
        self._reads: Dict[str, Optional[trace.Reads]] = {}
        self._digests: Dict[Tuple[int, str], str] = {}

    def find(self, job: BoardJob, upto: int) -> Optional[Found]:
        """Return a result that is that of a board at a commit, None if there is none.

        Args:
            job: the board
            upto: index of the commit
        """
        target = job.board.target
        if target not in self._there:
            self._there[target] = self._look(target)
        if not self._there[target] and not self._cache:
            return None
        try:
            key = self.keys.key(job, upto)
            for header, shelf in self._there[target].get(key, ()):
                folder = os.path.join(shelf.folder, target)
                if self._fits(header, folder, upto):
                    found = self._take(folder, target, header)
                    if found:
                        return Found(self._outcome(target, upto, found), shelf.where,
                                     f"'{folder}'")
            if key and self._cache:
                stored = self._cache.find(key, lambda reads: self._digest(upto, reads))
                if stored:
                    return Found(self._outcome(target, upto, stored), CACHE, CACHE)
        except (GitError, OSError):
            # Then it is built, and tells what is wrong
            pass
        return None

    def kept(self, upto: int, target: str) -> None:
        """Put a result that was written into the cache, if there is one."""
        if self._cache:
            self._cache.keep(self._tree.board_dir(upto, target))

    def close(self, haste: bool) -> str:
        """Wait until all is in the cache.

        Args:
            haste: leave out what is not there yet

        Returns:
            what people are to know, '' for nothing
        """
        self.keys.close()
        if not self._cache:
            return ''
        self._cache.close(haste)
        return self._cache.problem

    def _list_shelves(self) -> Sequence[_Shelf]:
        """Return the folders of commits that there are in the output folder"""
        out: List[_Shelf] = []
        bases = {self._tree.base_dir: 'this branch'}
        with contextlib.suppress(OSError):
            for entry in sorted(os.scandir(self._around), key=lambda entry: entry.name):
                bases.setdefault(entry.path, f"'{entry.name}'")
        for base, where in bases.items():
            if os.path.isdir(os.path.join(base, WORK_DIR)):
                with contextlib.suppress(OSError):
                    out += [_Shelf(os.path.join(base, name), where)
                            for name in commit_folders(base)]
        return out

    def _look(self, target: str) -> Dict[str, List[Tuple[trace.Header, _Shelf]]]:
        """Return what there is of a board, by key"""
        if self._shelves is None:
            self._shelves = self._list_shelves()
        there: Dict[str, List[Tuple[trace.Header, _Shelf]]] = {}
        for shelf in self._shelves:
            self._add(there, shelf, target)
        return there

    @staticmethod
    def _add(there: Dict[str, List[Tuple[trace.Header, _Shelf]]], shelf: _Shelf,
             target: str) -> None:
        """Add what a folder has of a board, by key"""
        with contextlib.suppress(OSError), open(
                os.path.join(shelf.folder, target, 'trace'), 'rb') as inf:
            header = trace.Header.parse(inf.readline(_LINE))
            if header:
                there.setdefault(header.key, []).append((header, shelf))

    def learn(self, upto: int, target: str) -> None:
        """Have find() look at a result that this run has built, too."""
        self._add(self._there.setdefault(target, {}),
                  _Shelf(self._tree.commit_dir(upto), 'this branch'), target)

    def steps(self, job: BoardJob, uptos: Sequence[int]) -> List[int]:
        """Return at which of some commits something differs that matters to a board.

        That is a guess: what was read for the first or the last of them tells.

        Args:
            job: the board
            uptos: indexes of commits; the first and the last one have results

        Returns:
            those that differ from the one before them here; [] when nobody knows
        """
        for upto in (uptos[0], uptos[-1]):
            with contextlib.suppress(GitError, OSError), open(
                    os.path.join(self._tree.board_dir(upto, job.board.target), 'trace'),
                    'rb') as inf:
                found = trace.unpack(inf.read())
                if found:
                    states = [(self.keys.key(job, upto), self._digest(upto, found.reads))
                              for upto in uptos]
                    return [upto for upto, old, new in zip(uptos[1:], states, states[1:])
                            if old != new]
        return []

    def _fits(self, header: trace.Header, folder: str, upto: int) -> bool:
        """Return whether a commit has what a result was made of"""
        if header.reads not in self._reads:
            found = None
            with contextlib.suppress(OSError), open(os.path.join(folder, 'trace'), 'rb') as inf:
                found = trace.unpack(inf.read())
            if not found or found.reads.name != header.reads:
                return False
            self._reads[header.reads] = found.reads
        reads = self._reads[header.reads]
        return reads is not None and self._digest(upto, reads) == header.digest

    def _digest(self, upto: int, reads: trace.Reads) -> str:
        """Return what stands for what was read, at a commit"""
        place = (upto, reads.name)
        if place not in self._digests:
            self._digests[place] = self.keys.tree(upto).digest(reads)
        return self._digests[place]

    def _take(self, folder: str, target: str,
              header: trace.Header) -> Optional[Dict[str, StoredFile]]:
        """Return the files of a result, if it is what its trace tells"""
        # Another buildman may have built there since, and left the trace as it is
        if settings_of(folder) != self._earlier.text(target):
            return None
        files = read_result(folder)
        found = files.get('trace')
        return files if found and found.data.startswith(header.line() + b'\n') else None

    def _outcome(self, target: str, upto: int, found: Dict[str, StoredFile]) -> Outcome:
        """Return a result with these files, as if it had been built"""
        outcome = Outcome(target, upto, 0)
        stage = os.path.join(self._tree.work_dir, f'carried.stage-{target}-{upto}')
        for name, file in found.items():
            if artifacts.is_result_file(name):
                outcome.files[name] = file.data
            elif name == 'sizes':
                outcome.sizes = file.data.decode()
            elif name in ('log', 'err'):
                text = file.data.decode('utf-8', 'surrogateescape')
                if name == 'log':
                    outcome.stdout = text
                else:
                    outcome.stderr = text
            else:
                if not outcome.images:
                    clear_way(stage)
                    os.makedirs(stage)
                outcome.images[name] = path = os.path.join(stage, name)
                with open(path, 'wb') as outf:
                    outf.write(file.data)
                os.chmod(path, file.mode)
        return outcome
