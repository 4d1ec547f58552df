# SPDX-License-Identifier: GPL-2.0+
"""The trace of a result: what the build read, by content, so that it is found again.

A result is that of another commit, too, when nothing that the build read differs.
It is kept beside the result, in the file `trace`: a line of JSON, then what was read
(`Reads`), packed. The line has three digests.

- `key`: the board, the settings, the words for make, the compiler and other programs
  (`keys.programs()`), what the tree takes from the environment, with the contents of
  files that this names, and how long the version text is. An image holds that text;
  its content shows in no file of a result, unless images are kept, see carries().
- `reads`: the name of what was read, so that many results need but one list.
- `digest`: its content in the tree of a commit, see Tree.digest(). git tells the
  object of each file, so no file is read for it.

In a tree there are four kinds of files:

- what no build reads: documents, tests in Python, …
- what Kbuild notes: C, headers, assembler and device trees. Those that were read count
  with content and mode, all others with their names: a new header may hide one that
  was read, and a Makefile may look for a source. Where the notes of a board name no
  file of a kind, all of that kind count with their content.
- defconfigs and fragments: the board's own; all of them if one of those includes others.
- all else, which counts with content and mode: Makefiles, Kconfig, scripts, Python,
  linker scripts, environments, symbolic links, …

Of these, what lies below the folder of another arch (`arch/X/`, but for Kconfig)
counts only if something was read there, or if it has the name of something that was
read. So whatever is not understood means that there is no trace, or another digest, and
that the board is built.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import threading
import zlib
from typing import (
    TYPE_CHECKING,
    Dict,
    FrozenSet,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from buildman.core.files import file_sha256
from buildman.core.plan import Settings
from buildman.source import git

if TYPE_CHECKING:
    from buildman.build.notes import Files

# Goes with any change of what is kept of a build, or of what counts as read
FORMAT = 2

# Sources whose readers are all noted, in groups of endings: a group counts as
# understood only when the notes name a file of it at all
_GROUPS = (('.c',), ('.h',), ('.S', '.s'), ('.dts', '.dtsi', '.dtso'))
_GROUP_OF: Dict[str, int] = {end: num for num, ends in enumerate(_GROUPS) for end in ends}
_HEADERS = _GROUP_OF['.h']

# What no build reads
_NEVER_READ = re.compile(
    r'doc/.*|test/py/.*|configs/[^/]+\.buildman|\.github/.*|\.(?:gitlab-ci|azure-pipelines|readthedocs)\.yml|\.mailmap'
    r'|(?:.*/)?(?:MAINTAINERS|README(?:\.[\w.-]+)?|\.gitignore)|\.checkpatch\.conf')

# Sources that are read by others than compilers as well: by make, by scripts, and for
# a dtc of another build (--shared-dtc), which notes what it is made of
_READ_BY_OTHERS = re.compile(
    r'scripts/.*|lib/libfdt/.*|include/(?:host_arch|version|linux/libfdt\w*|linux/oid_registry)\.h')

# What a board is configured with; a fragment in another folder may be anybody's
_CONFIG = re.compile(r'configs/[^/]+(?:_defconfig|\.config)')

# What is read for an arch alone. Kconfig is for all of them; so is what is not known to be
# an arch, as Makefiles look for arch/$(X)/… with X empty, too
_ARCH = re.compile(r'arch/(arc|arm|m68k|microblaze|mips|nds32|nios2|powerpc|riscv|sandbox|sh|x86|'
                   r'xtensa)/(?!(?:.*/)?Kconfig)')

# Kinds of what is in a tree, besides the groups
_OPAQUE, _CONFIGS = -1, -2

# (arch, kind) -> sum over the names of files, sum over names with content
Sums = Mapping[Tuple[str, int], Tuple[int, int]]

# Bytes that what was read may have, unpacked
_MOST = 16 << 20


def is_config(name: str) -> bool:
    """Return whether a file is a defconfig or fragment, read by the boards that name it alone."""
    return bool(_CONFIG.fullmatch(name))


def carries(settings: Settings) -> bool:
    """Return whether results may be those of other commits.

    With -V the log has what each make said of itself. Images that are kept hold the
    version, unless -r leaves it out.
    """
    return settings.skip_unaffected and not (
        settings.force_reconfig or settings.mrproper or settings.verbose_build
        or settings.in_tree or settings.work_in_output
        or (settings.keep_outputs and not settings.reproducible_builds))


def version_shape(text: str) -> str:
    """Return what two version texts have in common that take the same space in an image.

    Args:
        text: as `git describe --always` prints it
    """
    text = text.strip()
    found = re.search(r'-(\d+)(-g[0-9a-f]+)(-dirty)?$', text)
    if found:
        # The number of commits is written with at least five digits
        return f'{max(5, len(found.group(1)))} {len(found.group(2))} {found.group(3)}'
    return f'plain {len(text)}' if re.fullmatch(r'(?:-g)?[0-9a-f]+', text) else f'tag {bool(text)}'


# -- what was read ---------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Reads:
    """What a build read, and so what must be the same.

    Attributes:
        archs: folders of arch/ that count; none: all
        groups: groups of sources of which only those count that were read
        all_configs: one of the board's configurations includes others
        files: paths of what was read, in order; of what is not in the tree, too
        names: last parts of the names of what was read elsewhere
        outside: paths of what was read of the machine
    """

    archs: Tuple[str, ...]
    groups: Tuple[int, ...]
    all_configs: bool
    files: Tuple[str, ...]
    names: Tuple[str, ...]
    outside: Tuple[str, ...]

    @functools.cached_property
    def basenames(self) -> FrozenSet[str]:
        """Last parts of the names of all that was read."""
        return frozenset((*self.names, *map(os.path.basename, self.files)))

    @functools.cached_property
    def text(self) -> bytes:
        """All of it as JSON, for parse()."""
        return json.dumps([self.archs, self.groups, self.all_configs, self.files, self.names,
                           self.outside]).encode()

    @functools.cached_property
    def name(self) -> str:
        """The SHA-256 of the text: equal for builds that read the same."""
        return hashlib.sha256(self.text).hexdigest()

    @classmethod
    def parse(cls, text: bytes) -> 'Reads':
        """Return what a text tells.

        Raises:
            ValueError: it makes no sense
        """
        try:
            archs, groups, configs, files, names, outside = json.loads(text)
            found = cls(_strings(archs), tuple(map(int, groups)), bool(configs), _strings(files),
                        _strings(names), _strings(outside))
        except (TypeError, RecursionError) as exc:
            raise ValueError('no list of what was read') from exc
        return found

    def with_configs(self, inputs: Sequence[str], includes: bool) -> 'Reads':
        """Return it with the files in configs/ that the board is configured with."""
        return dataclasses.replace(self, all_configs=includes,
                                   files=tuple(sorted({*self.files, *inputs})))


def _strings(value: Sequence[str]) -> Tuple[str, ...]:
    """Return a list of strings that comes from a file"""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('no list of names')
    return tuple(value)


def make_reads(found: Files, arch: str, headers: bool) -> Reads:
    """Return what counts for a build.

    Args:
        found: what it has noted
        arch: CONFIG_SYS_ARCH, '' if that is not known
        headers: it read headers without a note
    """
    groups = {_GROUP_OF[end] for end in {os.path.splitext(name)[1] for name in found.files}
              if end in _GROUP_OF} - ({_HEADERS} if headers else set())
    archs = {arch, *(match.group(1) for match in map(_ARCH.match, found.files) if match)}
    return Reads(tuple(sorted(archs)) if arch else (), tuple(sorted(groups)), False,
                 tuple(sorted(found.files)), tuple(sorted(found.names)),
                 tuple(sorted(found.outside)))


# -- trees of commits ------------------------------------------------------

def _kind(name: str, entry: str) -> Optional[Tuple[str, int]]:
    """Return the arch ('' for none) and the kind of a file; None if nobody reads it"""
    if entry.startswith('10'):
        if _NEVER_READ.fullmatch(name):
            return None
        if is_config(name):
            return '', _CONFIGS
        match = _ARCH.match(name)
        arch = match.group(1) if match else ''
        group = _GROUP_OF.get(os.path.splitext(name)[1], _OPAQUE)
        return arch, _OPAQUE if _READ_BY_OTHERS.fullmatch(name) else group
    # A symbolic link or another repository: what is read may be behind it
    return '', _OPAQUE


def _number(text: str) -> int:
    """Return a large number that stands for a text"""
    data = text.encode('utf-8', 'surrogateescape')
    return int.from_bytes(hashlib.blake2b(data, digest_size=32).digest(), 'big')


def _summed(sums: Sums, gone: Mapping[str, str], come: Mapping[str, str]) -> Sums:
    """Return sums without some files, and with others; '' stands for none"""
    out = {key: list(val) for key, val in sums.items()}
    for files, sign in ((gone, -1), (come, 1)):
        for name, entry in files.items():
            place = _kind(name, entry) if entry else None
            if place:
                both = out.setdefault(place, [0, 0])
                both[0] += sign * _number(name)
                both[1] += sign * _number(f'{name}\0{entry}')
    return {key: (val[0], val[1]) for key, val in out.items()}


class Tree:
    """What the tree of a commit holds.

    All files of a kind are known by a sum of numbers that stand for them, which is
    quickly brought from one commit to the next.
    """

    def __init__(self, files: Dict[str, str], changes: Mapping[str, str],
                 sums: Sums) -> None:
        """Take a tree, and what differs from it.

        Args:
            files: path -> mode and object; not changed
            changes: the same of what differs, '' for what is not there
            sums: see Sums
        """
        self._files = files
        self._changes = dict(changes)
        self._sums = dict(sums)

    @classmethod
    def read(cls, git_dir: str, commit: str) -> 'Tree':
        """Read the tree of a commit.

        Raises:
            GitError: git refused
        """
        out = git.text(git_dir, 'ls-tree', '-rz', '--full-tree', commit)
        files = {}
        for item in out.split('\0')[:-1]:
            told, _, name = item.partition('\t')
            mode, _, blob = told.split(' ')
            files[name] = f'{mode} {blob}'
        return cls(files, {}, _summed({}, {}, files))

    def changed(self, changes: Mapping[str, str]) -> 'Tree':
        """Return a tree that differs.

        Args:
            changes: path -> mode and object, '' for what is not there any more
        """
        gone = {name: self.get(name) for name in changes}
        return Tree(self._files, {**self._changes, **changes}, _summed(self._sums, gone, changes))

    def get(self, name: str) -> str:
        """Return mode and object of a file, '' when there is none."""
        found = self._changes.get(name)
        return self._files.get(name, '') if found is None else found

    @property
    def opaque(self) -> Tuple[Tuple[str, int], ...]:
        """What stands for all files whose readers are not noted."""
        return tuple(sorted((arch, val[1]) for (arch, kind), val in self._sums.items()
                            if kind == _OPAQUE))

    @functools.cached_property
    def _by_arch(self) -> Mapping[str, Sequence[Tuple[str, str]]]:
        """The files of each arch, each by the last part of its name and by its path"""
        out: Dict[str, List[Tuple[str, str]]] = {}
        for name in {**self._files, **self._changes}:
            match = _ARCH.match(name)
            if match and self.get(name):
                out.setdefault(match.group(1), []).append((os.path.basename(name), name))
        return out

    def digest(self, reads: Reads) -> str:
        """Return what stands for the content of all that a build read or might have found."""
        out: List[str] = []
        for (arch, kind), (names, contents) in sorted(self._sums.items()):
            if arch and reads.archs and arch not in reads.archs:
                continue
            if kind != _CONFIGS or reads.all_configs:
                known = kind in reads.groups
                # What is gone altogether is as if it had never been there
                num = names if known else contents
                out += [f'{arch} {kind} {known} {num}'] if num else []
        out += [f'{name}\0{self.get(name)}' for name in reads.files]
        wanted = reads.basenames
        out += sorted(path for arch, files in self._by_arch.items() if arch not in reads.archs
                      for name, path in files if name in wanted)
        out += [f'{path}\0{content_of(path)}' for path in reads.outside]
        return hashlib.sha256('\0\0'.join(out).encode('utf-8', 'surrogateescape')).hexdigest()


def content_of(path: str) -> str:
    """Return what stands for the content of a file of this machine; '' if it cannot be read."""
    try:
        stat = os.stat(path)
        return _content_at(path, (stat.st_size, stat.st_mtime_ns))
    except OSError:
        return ''


@functools.lru_cache(maxsize=20_000)
def _content_at(path: str, _state: Tuple[int, int]) -> str:
    """Return the same, of a file of a size and a time"""
    return file_sha256(path)


class Trees:
    """The trees of commits; safe to use from all threads of slots."""

    def __init__(self, git_dir: str) -> None:
        """Name the repository; nothing is read."""
        self._git_dir = git_dir
        self._lock = threading.Lock()
        self._known: Dict[str, Tree] = {}

    def of(self, commit: str) -> Tree:
        """Return the tree of a commit.

        Raises:
            GitError: git refused
        """
        with self._lock:
            if commit not in self._known:
                self._known[commit] = self._read(commit)
            return self._known[commit]

    def _read(self, commit: str) -> Tree:
        """Return the tree of a commit that was not asked for before"""
        for other, tree in self._known.items():
            words = git.text(self._git_dir, 'diff-tree', '-r', '-z', '--raw', '--full-index',
                             '--no-renames', other, commit).split('\0')[:-1]
            changes = {}
            for told, name in zip(words[0::2], words[1::2]):
                _, mode, _, blob, how = told.split(' ')
                changes[name] = '' if how == 'D' else f'{mode} {blob}'
            return tree.changed(changes)
        return Tree.read(self._git_dir, commit)


# -- the file --------------------------------------------------------------

class Header(NamedTuple):
    """The first line of a trace, see above."""

    key: str
    reads: str
    digest: str

    def line(self) -> bytes:
        """Return it as a line, without its end."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def parse(cls, line: bytes) -> 'Optional[Header]':
        """Return what a line tells, None when it makes no sense."""
        try:
            found = json.loads(line)
            words = [found[name] for name in cls._fields]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return cls(*words) if all(isinstance(word, str) and re.fullmatch('[0-9a-f]{64}', word)
                                  for word in words) else None


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a result was made of.

    Attributes:
        key: what must be the same besides the source
        reads: what was read
        digest: its content
    """

    key: str
    reads: Reads
    digest: str

    def fits(self, key: str, tree: Tree) -> bool:
        """Return whether the result is that of another commit.

        Args:
            key: of that commit
            tree: what that holds
        """
        return bool(key) and key == self.key and tree.digest(self.reads) == self.digest

    def pack(self) -> bytes:
        """Return the content of the file `trace`."""
        header = Header(self.key, self.reads.name, self.digest)
        return header.line() + b'\n' + zlib.compress(self.reads.text)


def unpack(data: bytes) -> Optional[Trace]:
    """Return what a file `trace` tells, None when it is damaged."""
    line, _, packed = data.partition(b'\n')
    header = Header.parse(line)
    try:
        text = zlib.decompressobj().decompress(packed, _MOST)
        reads = Reads.parse(text)
    except (ValueError, zlib.error):
        return None
    if not header or reads.name != header.reads:
        return None
    return Trace(header.key, reads, header.digest)
