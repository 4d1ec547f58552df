# SPDX-License-Identifier: GPL-2.0+
"""Tells whether a boards.cfg still says what its source tree says.

A stamp beside boards.cfg holds, for each file that the boards come from, what
stat() says of it and a digest of its content. A file of which nothing in
stat() has changed is taken to be the same; any other is read. So a touched
file costs a read but no scan. The time of a change (ctime) cannot be set by
programs, so an edit that restores size and mtime is seen as well.

What stat() cannot tell: two changes within one tick of the file system's
clock. Files that were new when the stamp was made are therefore read again,
as git does with its index.

A dry run makes no output folder to keep boards.cfg in: who calls `buildman -n -o OUT`
may be about to make it. Scripts do dry runs in a row (U-Boot's CI does a dozen, to see
that its jobs build all boards), and each would have to read all of Kconfig. So there is
one in the user's own cache as well, as the XDG Base Directory Specification has it:
`$XDG_CACHE_HOME/buildman/boards/TREE/boards.cfg`, TREE being a digest of the path of
the tree. What is there may be removed at any time. Only the last few trees have one.
Two runs at once do no harm: files are replaced by rename, and a stamp knows a list that
is not its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from buildman.boards.cfgfile import write_atomically
from buildman.core.errors import SetupError

# Where U-Boot trees keep their copy of kconfiglib (in 2023.01 and others)
KCONFIGLIB_PATH = 'tools/buildman/kconfiglib.py'

_VERSION = 1

# Nanoseconds within which a file counts as new: file systems exist that keep
# times to the two seconds
_NEW = 2_000_000_000

# Lists of other branches that are looked at: each takes some 20 ms
_OTHERS = 2

# Trees that have a list in the cache of the user; each takes some 700 kB for 1500 boards
KEEP = 8

_SUFFIX = '_defconfig'

# Symbol -> value -> targets that set it to that
Settings = Dict[str, Dict[str, List[str]]]


def find_kconfiglib(source_dir: str) -> Optional[str]:
    """Return the path of the tree's own kconfiglib, None if it has none."""
    path = os.path.join(source_dir, KCONFIGLIB_PATH)
    return path if os.path.isfile(path) else None


class Found(NamedTuple):
    """What stat() says about a file: bytes, nanoseconds and number."""

    size: int
    mtime: int
    ctime: int
    inode: int


class Tree(NamedTuple):
    """The files of a source tree that boards come from.

    Attributes:
        files: path below the tree, with '/', and what stat() says
        started: time in nanoseconds when the search began
    """

    files: Dict[str, Found]
    started: int

    def maintainers(self) -> List[str]:
        """Return the MAINTAINERS files: parent folders first, then by name."""
        paths = [path for path in self.files if path.endswith('MAINTAINERS')]
        return sorted(paths, key=lambda path: path.split('/')[:-1])

    def defconfigs(self) -> Dict[str, str]:
        """Return target and path of each defconfig, those in configs/ first."""
        found: Dict[str, str] = {}
        paths = [path for path in self.files if path.endswith(_SUFFIX)]
        for path in sorted(paths, key=lambda path: (path.count('/'), path)):
            found.setdefault(path.rsplit('/', 1)[1][:-len(_SUFFIX)], path)
        return found


def _found(info: os.stat_result) -> Found:
    return Found(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


def find_files(source_dir: str) -> Tree:
    """Return all Kconfig*, MAINTAINERS and configs/*_defconfig files of a tree.

    Worktrees and other repositories inside the tree are left out: an output
    folder may well be inside.
    """
    started = time.time_ns()
    files: Dict[str, Found] = {}
    todo = ['']
    while todo:
        below = todo.pop()
        in_configs = below.startswith('configs/')
        subdirs: List[str] = []
        wanted: List['os.DirEntry[str]'] = []
        foreign = False
        try:
            with os.scandir(os.path.join(source_dir, below)) as entries:
                for entry in entries:
                    name = entry.name
                    if name == 'MAINTAINERS' or name.startswith('Kconfig') or (
                            in_configs and name.endswith(_SUFFIX)
                            and name != _SUFFIX and name[0] != '.'):
                        wanted.append(entry)
                    elif name == '.git':
                        foreign = bool(below)
                    elif entry.is_dir(follow_symlinks=False):
                        subdirs.append(name)
        except OSError:
            continue        # not ours to read, or gone: nothing in it counts
        if foreign:
            continue
        todo += [f'{below}{name}/' for name in subdirs]
        for entry in wanted:
            try:
                if entry.is_file():
                    files[below + entry.name] = _found(entry.stat())
                elif entry.is_symlink():
                    files[below + entry.name] = Found(-1, 0, 0, 0)
            except OSError:
                continue
    return Tree(files, started)


class Search:
    """Looks for the files of a source tree when they are first asked for.

    Attributes:
        found: what tree() has returned, None before
    """

    def __init__(self, source_dir: str) -> None:
        self._source_dir = source_dir
        self.found: Optional[Tree] = None

    def tree(self) -> Tree:
        """Return the files; see find_files()."""
        if self.found is None:
            self.found = find_files(self._source_dir)
        return self.found


def digest(data: bytes) -> str:
    """Return a digest that tells two contents apart."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(path: str) -> str:
    """Return the digest of a file's content, '' if it cannot be read."""
    try:
        with open(path, 'rb') as inf:
            return digest(inf.read())
    except OSError:
        return ''


def _stamp_path(cache_file: str) -> str:
    folder, name = os.path.split(cache_file)
    return os.path.join(folder, f'.{name}.stamp')


class Stamp:
    """The stamp of one boards.cfg.

    Attributes:
        files: path below the tree: what stat() said, digest ('' is never equal)
        started: when the files were looked at, in nanoseconds
        boards: digest of boards.cfg itself
        settings: what the boards set some symbols to: symbol -> what .config has
            after the '=' -> targets
    """

    def __init__(self, files: Dict[str, List[object]], started: int, boards: str):
        self.files = files
        self.started = started
        self.boards = boards
        self.settings: Settings = {}

    @classmethod
    def make(cls, source_dir: str, tree: Tree, extra: Iterable[str]) -> 'Stamp':
        """Read all files of a tree and return a stamp, without the boards.

        Args:
            source_dir: top of the tree
            tree: what find_files() has found there
            extra: further files that the scan reads, below the tree
        """
        stamp = cls({}, tree.started, '')
        for path, found in tree.files.items():
            stamp.files[path] = [*found, file_digest(os.path.join(source_dir, path))]
        stamp.add(source_dir, extra)
        return stamp

    def add(self, source_dir: str, paths: Iterable[str]) -> None:
        """Take further files that the scan has read."""
        for path in paths:
            if path not in self.files:
                full = os.path.join(source_dir, path)
                try:
                    info = _found(os.stat(full))
                except OSError:
                    info = Found(-1, 0, 0, 0)
                self.files[path] = [*info, file_digest(full)]

    def settle(self, source_dir: str) -> None:
        """Distrust the files that changed while the scan was reading them."""
        for path, was in self.files.items():
            try:
                info = os.stat(os.path.join(source_dir, path))
            except OSError:
                was[-1] = ''
                continue
            if list(_found(info)) != was[:4]:
                was[-1] = ''

    @classmethod
    def read(cls, cache_file: str) -> Optional['Stamp']:
        """Return the stamp of a boards.cfg, None if there is none of ours."""
        try:
            with open(_stamp_path(cache_file), encoding='utf-8') as inf:
                data = json.load(inf)
            if data['version'] != _VERSION:
                return None
            files = {str(path): list(was) for path, was in data['files'].items()}
            if any(len(was) != 5 for was in files.values()):
                return None
            stamp = cls(files, int(data['started']), str(data['boards']))
            # A list that was made without -X has none
            stamp.settings = {
                str(name): {str(text): targets.split(' ') for text, targets in values.items()}
                for name, values in data.get('settings', {}).items()}
            return stamp
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, cache_file: str) -> None:
        """Keep the stamp beside a boards.cfg.

        Raises:
            SetupError: it cannot be written
        """
        write_atomically(_stamp_path(cache_file), json.dumps(
            {'version': _VERSION, 'started': self.started, 'boards': self.boards,
             'files': self.files,
             'settings': {name: {text: ' '.join(targets) for text, targets in values.items()}
                          for name, values in self.settings.items()}}))

    def check(self, source_dir: str, tree: Tree) -> Optional[bool]:
        """Compare with a tree: True if equal, None if equal after reading files.

        In the second case the stamp has been brought up to date. False means
        that the boards have to be found again.
        """
        files = dict(tree.files)
        for path in self.files.keys() - files.keys():
            if _collected(path):
                return False
            try:
                files[path] = _found(os.stat(os.path.join(source_dir, path)))
            except OSError:
                return False
        if files.keys() != self.files.keys():
            return False
        new = self.started - _NEW
        doubtful = []
        for path, found in files.items():
            was = self.files[path]
            if tuple(was[:4]) != found or found.ctime > new:
                doubtful.append(path)
        for path in doubtful:
            content = file_digest(os.path.join(source_dir, path))
            if not content or content != self.files[path][4]:
                return False
            self.files[path] = [*files[path], content]
        if doubtful:
            self.started = tree.started
            return None
        return True


def _collected(path: str) -> bool:
    """Tell whether find_files() would return `path` if it were there."""
    name = path.rsplit('/', 1)[-1]
    return name == 'MAINTAINERS' or name.startswith('Kconfig') or (
        path.startswith('configs/') and name.endswith(_SUFFIX))


class Kept(NamedTuple):
    """A boards.cfg that is still right: its text, its stamp, whether that is new."""

    text: str
    stamp: Stamp
    renewed: bool


def _read_kept(source_dir: str, cache_file: str,
               tree: Callable[[], Tree]) -> Optional[Kept]:
    """Return a boards.cfg if it is still right"""
    stamp = Stamp.read(cache_file)
    if stamp is None:
        return None
    try:
        with open(cache_file, 'rb') as inf:
            data = inf.read()
        text = data.decode('utf-8')
    except (OSError, UnicodeDecodeError):
        return None
    if digest(data) != stamp.boards:
        return None
    same = stamp.check(source_dir, tree())
    return None if same is False else Kept(text, stamp, same is None)


def read_cache(source_dir: str, cache_file: str, tree: Callable[[], Tree],
               copy_to: Optional[str] = None) -> Optional[Kept]:
    """Return a boards.cfg that is still right, else None.

    Args:
        source_dir: top of the tree
        cache_file: the boards.cfg
        tree: returns the files of now; called when there is a list to compare with
        copy_to: keep it there as well, if possible; None: nowhere
    """
    kept = _read_kept(source_dir, cache_file, tree)
    if kept is None:
        return None
    if kept.renewed:
        # Without it, the next run reads those files once more
        with contextlib.suppress(SetupError):
            kept.stamp.write(cache_file)
    if copy_to:
        copy_cache(copy_to, kept.text, kept.stamp)
    return kept


def copy_cache(cache_file: str, text: str, stamp: Stamp) -> None:
    """Keep a boards.cfg and its stamp in one more place, if that is possible.

    If it is not, the next run looks for another list again.
    """
    with contextlib.suppress(SetupError):
        write_atomically(cache_file, text)
        stamp.write(cache_file)


def read_others(source_dir: str, around: str, tree: Callable[[], Tree],
                cache_file: Optional[str]) -> Optional[Kept]:
    """Return another branch's boards.cfg that is right for this tree, too.

    What counts is the content of the files that it was made from.

    Args:
        source_dir: top of the tree
        around: folder with the output folders of the branches
        tree: returns the files of now; called when there is a list to compare with
        cache_file: where to keep it; None: nowhere
    """
    found: List[Tuple[int, str]] = []
    with contextlib.suppress(OSError):
        for folder in [around, *(entry.path for entry in os.scandir(around))]:
            path = os.path.join(folder, 'boards.cfg')
            with contextlib.suppress(OSError):
                found.append((os.stat(_stamp_path(path)).st_mtime_ns, path))
    for _, path in sorted(found, reverse=True)[:_OTHERS]:
        kept = None if path == cache_file else _read_kept(source_dir, path, tree)
        if kept:
            if cache_file:
                copy_cache(cache_file, kept.text, kept.stamp)
            return kept
    return None


def write_cache(source_dir: str, cache_file: str, text: str, stamp: Stamp) -> None:
    """Keep the text of a boards.cfg and its stamp.

    Raises:
        SetupError: they cannot be written
    """
    stamp.boards = digest(text.encode())
    stamp.settle(source_dir)
    # In this order: a stamp without its boards.cfg is of no use, but harmless
    write_atomically(cache_file, text)
    stamp.write(cache_file)


def lists_folder() -> str:
    """Return the folder of all these lists, '' if there can be none.

    A folder of somebody else's is not used: neither are their lists to be
    trusted, nor do they want ours (sudo with the HOME of the user).
    """
    cache = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(cache):
        # The specification says to ignore such a one
        cache = os.path.join(os.path.expanduser('~'), '.cache')
    folder = os.path.join(cache, 'buildman', 'boards')
    there = folder
    if not os.path.isabs(folder):
        return ''
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    try:
        info = os.stat(there)
    except OSError:
        return ''
    return folder if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() else ''


def list_path(source_dir: str) -> str:
    """Return the path of the list of a tree, '' if there can be none."""
    folder = lists_folder()
    if not folder:
        return ''
    name = hashlib.blake2b(os.fsencode(os.path.realpath(source_dir)), digest_size=8).hexdigest()
    return os.path.join(folder, name, 'boards.cfg')


def remove_old(kept: str) -> None:
    """Remove the lists that were not used for longest, if there are too many.

    Args:
        kept: path of the list that was just written
    """
    mine = os.path.dirname(kept)
    found: List[Tuple[int, str]] = []
    # Another run may do the same just now
    with contextlib.suppress(OSError), os.scandir(os.path.dirname(mine)) as entries:
        for entry in entries:
            if entry.path != mine and entry.is_dir(follow_symlinks=False):
                found.append((_last_use(entry.path), entry.path))
    for _, folder in sorted(found, reverse=True)[KEEP - 1:]:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)


def _last_use(folder: str) -> int:
    """Return when the list in a folder was written or read last, in nanoseconds"""
    try:
        return os.stat(os.path.join(folder, 'boards.cfg')).st_mtime_ns
    except OSError:
        # No list (yet): another run may be about to put it there
        with contextlib.suppress(OSError):
            return os.stat(folder).st_mtime_ns
        return 0


def note_use(path: str) -> None:
    """Note that a list was of use."""
    with contextlib.suppress(OSError):
        os.utime(path)
