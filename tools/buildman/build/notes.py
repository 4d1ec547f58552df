# SPDX-License-Identifier: GPL-2.0+
"""What a build read, as Kbuild has noted it.

Kbuild notes for each file that it makes which files it read, in `.NAME.cmd` beside it
(the variables source_… and deps_…, written by scripts/basic/fixdep). A folder has notes
of other boards as well, which were built there before. make reads the notes of what it
looks after, and of nothing else; so those of this build are the ones whose time of
access changes. Where a file system does not keep that, all of them count.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Dict, Iterator, NamedTuple, Optional, Set, Tuple

from buildman.build import trace
from buildman.build.folder import notes

# Where a `.cmd` begins to tell what was read, after the command line
_NOTED = re.compile(rb'\n(?:source|deps)_')

# What is no path: an option, as $(wildcard include/config/X), and make's own words
_NO_PATH = re.compile(rb'[$()=]')

# A compiler's own headers, which are as the compiler is
_COMPILERS_OWN = re.compile(r'/lib\w*/(?:gcc|clang)[^/]*/')

# dtoc reads sources all over the tree for a board with this option
_READS_ALL = re.compile(rb'^CONFIG_(?:[A-Z]+_)?OF_PLATDATA=y', re.MULTILINE)

# With these, headers are read by a preprocessor that notes nothing: for ACPI tables
# and for the configuration of i.MX images
_READS_HEADERS = re.compile(rb'^CONFIG_(?:GENERATE_ACPI_TABLE=y|IMX_CONFIG="[^"])', re.MULTILINE)

# A value that may be the path of a file of this machine
_PATH = re.compile(rb'^CONFIG_\w+="(/[^"]+)"', re.MULTILINE)

_ARCH = re.compile(rb'^CONFIG_SYS_ARCH="([\w-]+)"', re.MULTILINE)

# The text of the default environment, which may include others and headers
_ENV_TEXT = 'include/generated/env.txt'
_ENV_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]*)', re.MULTILINE)

# File systems that keep the time of access of what a process of this machine reads
_KEEPING = frozenset(('btrfs', 'ext2', 'ext3', 'ext4', 'f2fs', 'overlay', 'tmpfs', 'xfs'))


class Files(NamedTuple):
    """What was read.

    Attributes:
        files: paths relative to the source
        names: last parts of the names of what was read elsewhere
        outside: paths of what is neither in the source nor was made by the build
    """

    files: Set[str]
    names: Set[str]
    outside: Set[str]


class NoteReader:
    """Reads the notes of one board's builds in a folder, one after the other."""

    def __init__(self, build_dir: str, source_dir: str, apart: bool = True) -> None:
        """Begin with a board, before its first build.

        Args:
            build_dir: build folder (O=)
            source_dir: source that is built
            apart: tell notes of other boards, if that can be done
        """
        self._build = build_dir
        self._source = source_dir
        self._words: Set[bytes] = set()
        self._seen: Dict[str, Tuple[int, int]] = {}
        self._apart = apart and keeps_access(build_dir)
        # When those were written whose time of access was set by us
        self._marked: Dict[str, int] = {}
        for path in self._notes() if self._apart else ():
            with contextlib.suppress(OSError):
                self._mark(path, os.stat(path))

    def _notes(self) -> Iterator[str]:
        """Return the paths of all notes in the folder"""
        return (os.path.join(*place) for place in notes(self._build))

    def read(self) -> Optional[trace.Reads]:
        """Return what the builds of this board have read so far; None when that is not known."""
        try:
            with open(os.path.join(self._build, '.config'), 'rb') as inf:
                config = inf.read()
        except OSError:
            return None
        if _READS_ALL.search(config) or any(map(os.path.isfile, _PATH.findall(config))):
            return None
        for path in self._notes():
            self._read_note(path)
        if not self._words:
            return None
        arch = _ARCH.search(config)
        return trace.make_reads(self._resolve(), arch.group(1).decode() if arch else '',
                                bool(_READS_HEADERS.search(config)) or self._env_reads_headers())

    def _read_note(self, path: str) -> None:
        """Take what a note says, if it is of this build and new"""
        try:
            stat = os.stat(path)
            if not stat.st_atime_ns and self._marked.get(path) == stat.st_mtime_ns:
                return
            self._mark(path, stat)
            if self._seen.get(path) == (stat.st_mtime_ns, stat.st_size):
                return
            with open(path, 'rb') as inf:
                text = inf.read()
            self._mark(path, stat)
        except OSError:
            return
        self._seen[path] = (stat.st_mtime_ns, stat.st_size)
        found = _NOTED.search(text)
        if found:
            self._words.update(text[found.start():].split())

    def _mark(self, path: str, stat: os.stat_result) -> None:
        """Set the time of access to one that nobody else sets"""
        if self._apart:
            os.utime(path, ns=(0, stat.st_mtime_ns))
            self._marked[path] = stat.st_mtime_ns

    def _resolve(self) -> Files:
        """Return which files the words of the notes name"""
        found = Files(set(), set(), set())
        real_folders: Dict[str, str] = {}
        build, tops = self._build + os.sep, (self._source + os.sep,
                                             os.path.realpath(self._source) + os.sep)
        builds = (build, os.path.realpath(self._build) + os.sep)
        for word in self._words:
            word = word.rstrip(b'\\')
            if not word or _NO_PATH.search(word):
                continue
            # By its own name and by what links lead to: include/asm/arch is one
            plain = os.path.normpath(os.path.join(self._build, os.fsdecode(word)))
            folder, name = os.path.split(plain)
            if folder not in real_folders:
                real_folders[folder] = os.path.realpath(folder)
            real = os.path.join(real_folders[folder], name)
            if os.path.islink(real):
                real = os.path.realpath(real)
            for path in {plain, real}:
                inside = [path[len(top):] for top in tops if path.startswith(top)]
                if path.startswith(builds):
                    found.names.add(name)
                elif inside:
                    found.files.update(inside)
                else:
                    found.names.add(name)
                    if not _COMPILERS_OWN.search(path) and os.path.isfile(path):
                        found.outside.add(path)
        return found

    def _env_reads_headers(self) -> bool:
        """Return whether the text of the default environment includes more than such texts"""
        todo = [os.path.join(self._build, _ENV_TEXT)]
        seen: Set[str] = set()
        while todo:
            path = todo.pop()
            try:
                with open(path, 'rb') as inf:
                    names = {os.fsdecode(name) for name in _ENV_INCLUDE.findall(inf.read())}
            except OSError:
                if seen:
                    # In another folder, which would be searched first
                    return True
                continue
            if not all(name.endswith('.env') for name in names):
                return True
            todo += [os.path.join(self._source, 'include', name) for name in names - seen]
            seen |= names
        return False


def keeps_access(folder: str) -> bool:
    """Return whether a file system notes when a file is read, for as much as can be found out."""
    probe = os.path.join(folder, '.buildman-probe')
    try:
        device = os.stat(folder).st_dev
        mark = f'{os.major(device)}:{os.minor(device)}'
        with open('/proc/self/mountinfo', encoding='utf-8', errors='replace') as inf:
            kinds = {line.partition(' - ')[2].split(' ')[0] for line in inf
                     if line.split(' ')[2] == mark}
        if not kinds or not kinds <= _KEEPING:
            return False
        with open(probe, 'wb') as outf:
            outf.write(b'x')
        os.utime(probe, (0, 1))
        with open(probe, 'rb') as inf_probe:
            inf_probe.read()
        stat = os.stat(probe)
        os.unlink(probe)
    except OSError:
        return False
    return bool(stat.st_atime_ns)
