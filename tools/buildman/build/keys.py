# SPDX-License-Identifier: GPL-2.0+
"""What must be the same, besides the source, for a result to be that of another commit.

The key of a trace (`build.trace`) is made of it. It says nothing of where things are, so
it is the same on machines that have the same programs: those are known by their content.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
import re
import shutil
import threading
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from buildman.build import environment, outside, trace
from buildman.core.plan import BoardJob, Commit, Settings, Toolchain
from buildman.source import git
from buildman.source.localversion import VersionTexts

# Settings that decide what is built, not what comes out
_WITHOUT = ('force_build', 'force_build_failures', 'retry', 'skip_unaffected', 'timeout')

# Programs of this machine that have a part in a build, and those of a compiler
_HOST = ('gcc', 'cc', 'as', 'ld', 'make', 'python3', 'sh', 'awk', 'perl', 'bison', 'flex', 'swig',
         'dtc', 'iasl', 'openssl', 'gzip', 'bzip2', 'xz', 'lzma_alone', 'lzop', 'lz4', 'zstd')
_CROSS = ('as', 'ld', 'ar', 'objcopy', 'objdump', 'nm')

# They change no result
_CACHES = re.compile(r'(?:CCACHE|DISTCC)_')


class Keys:
    """The keys of the boards and commits of a run; safe to use from all threads of slots."""

    def __init__(self, source_dir: str, commits: Sequence[Commit], settings: Settings,
                 env: Mapping[str, str], trees: trace.Trees, texts: VersionTexts) -> None:
        """Set up; nothing is looked at.

        Args:
            source_dir: repository
            commits: of the run
            settings: how to build
            env: environment that builds start from
            trees: what commits hold
            texts: the version texts of commits
        """
        self._source = source_dir
        self._commits = commits
        self._settings = settings
        self._env = env
        self._trees = trees
        self._texts = texts
        self._lock = threading.Lock()
        self._told: Dict[Tuple[object, ...], Optional[str]] = {}
        self._shapes: Dict[str, str] = {}

    def close(self) -> None:
        """Remove what was made to find out the version texts."""
        self._texts.close()

    def tree(self, upto: int) -> trace.Tree:
        """Return the tree of a commit.

        Raises:
            GitError: git refused
        """
        return self._trees.of(self._commits[upto].hash)

    def key(self, job: BoardJob, upto: int) -> str:
        """Return the key of a result; '' where nobody can tell.

        Args:
            job: the board
            upto: index of the commit

        Raises:
            GitError: git refused
        """
        board, settings = job.board, self._settings.to_dict()
        told = self._surroundings(upto, job.make_args)
        if told is None:
            return ''
        what = (trace.FORMAT, board.target, board.arch, board.base, board.fragments, told,
                {name: val for name, val in settings.items() if name not in _WITHOUT},
                self._shape(self._commits[upto].hash),
                programs(job.toolchain, self._env.get('PATH', os.defpath)))
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _surroundings(self, upto: int, words: Sequence[str]) -> Optional[str]:
        """Return what the tree of a commit takes from the environment, and words for make"""
        with self._lock:
            place = (self.tree(upto).opaque, words)
            if place not in self._told:
                names = outside.search(self._source, [self._commits[upto].hash], self._env)
                values = environment.portable_environment(
                    self._env, names.union(self._settings.variables))
                self._told[place] = _contents(
                    {name: val for name, val in values.items() if not _CACHES.match(name)}, words)
            return self._told[place]

    def _shape(self, commit: str) -> str:
        """Return what the version text of a commit has in common with others as long"""
        if commit not in self._shapes:
            text = self._texts.text(commit)
            # Without a script nothing in the tree says what is made of it
            self._shapes[commit] = f'long {len(text)}' if text is not None else (
                trace.version_shape(git.text(self._source, 'describe', '--always', commit)))
        return self._shapes[commit]


def _contents(env: Mapping[str, str], words: Sequence[str]) -> Optional[str]:
    """Return values with the contents of the files that they name; None if these cannot be read"""
    found = outside.collect(env, set(env))
    marked = outside.collect_words(words, found)
    if found.warnings:
        return None
    values: List[Any] = [found.env, [marked.get(word, word) for word in words]]
    return json.dumps(values, sort_keys=True)


@functools.lru_cache(maxsize=256)
def programs(tool: Toolchain, path: str) -> str:
    """Return what stands for the programs that a build runs.

    Args:
        tool: compiler of the board
        path: where others are looked for
    """
    out = [tool.cross, tool.override, tool.wrapper]
    for found in (*_of_compiler(tool, path), *(shutil.which(name, path=path) for name in _HOST)):
        if found:
            out += [os.path.basename(found),
                    *map(trace.content_of, _parts(os.path.realpath(found)))]
    return hashlib.sha256('\n'.join(out).encode('utf-8', 'surrogateescape')).hexdigest()


def _of_compiler(tool: Toolchain, path: str) -> Iterator[Optional[str]]:
    """Return the paths of a compiler and its binutils"""
    yield tool.gcc
    for name in filter(None, (tool.override.split(' ')[0], tool.wrapper)):
        yield shutil.which(name, path=path)
    for name in _CROSS:
        yield shutil.which(tool.cross + name, path=os.pathsep.join((tool.path, path)))


def _parts(path: str) -> List[str]:
    """Return the files that a program consists of, for a compiler the one that compiles, too"""
    triplet = re.match(r'(.+?)-gcc(?:-[\d.]+)?$', os.path.basename(path))
    return [path, *(sorted(glob.glob(os.path.join(
        glob.escape(os.path.dirname(os.path.dirname(path))), 'lib*', 'gcc*',
        glob.escape(triplet.group(1)), '*', 'cc1'))) if triplet else ())]
