# SPDX-License-Identifier: GPL-2.0+
"""One build folder (O=) and what must be true of it between two builds.

Objects are kept from commit to commit and from board to board, since make can
tell which are out of date. What make cannot tell is looked after in here.

Where there are few boards, each finds its own objects again: when another one comes, the
folder is put aside, and that one gets a copy, or what was put aside of it. All of that is
of one slot, since make compares objects with the time stamps of that slot's source.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
)

from buildman.build.artifacts import ENV_OBJECTS, PHASES
from buildman.core.files import clear_non_folder, clear_way
from buildman.core.plan import Toolchain
from buildman.process import commands
from buildman.process.clock import newer_than_now

# Name of the file that tells that a build folder is sound, inside of it
STATE_FILE = '.buildman-state'

# So many boards' folders are put aside in a slot, if the disk has as many bytes to spare
MOST_ASIDE = 4
SPARE = 2 << 30

# Seconds to copy one
_COPY_TIME = 600

# A source that a message of a compiler begins with, or that included it
_DIAGNOSED = re.compile(
    r'(?:^|[\s(])((?:[\w+.,-]+/)*[\w+.,-]+\.(?:c|S|s|cc|cpp|dts|dtb|dtbo|dtso|l|y|asl))'
    r'(?=[:,]\s|:\d)', re.MULTILINE)

# What a linker complained about, where its output is made into something else and
# is not kept: U-Boot's EFI programs. Images at the top are made again anyway
_LINKED = re.compile(
    r'(?:^|[-/])ld(?:\.\w+)?: warning: ((?:[\w+.,-]+/)*[\w+.,-]+_efi\.so)(?=:| has )', re.MULTILINE)

# What Kconfig says of a configuration (scripts/kconfig/{confdata,symbol}.c) when make has
# it brought up to date. A compiler tells a column as well, or leaves a blank
_CONFIGURED = re.compile(r'^(?:[\w+./,-]+:\d+:warning: |WARNING: unmet direct dependencies )',
                         re.MULTILINE)

# What may be made of a source, without the ending
_MADE = ('.o', '.dtb', '.dtbo', '.lex.o', '.tab.o')


def _key(tool: Toolchain) -> str:
    """Return what must be the same for a compiler's objects to be of any use"""
    try:
        stat = os.stat(tool.gcc)
        ident = f'{stat.st_size} {stat.st_mtime_ns}'
    except OSError:
        ident = ''
    return hashlib.sha256(repr((tool, ident)).encode()).hexdigest()


def _read_state(path: str) -> Mapping[str, Any]:
    """Return what the last build in a folder left; {} if it did not end in peace"""
    try:
        with open(os.path.join(path, STATE_FILE), encoding='utf-8') as inf:
            state = json.load(inf)
    except (OSError, ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _board_in(path: str) -> str:
    """Return the board whose objects are in a folder; '' if that is not known"""
    board = _read_state(path).get('board')
    return board if isinstance(board, str) and os.path.basename(board) == board else ''


def notes(path: str) -> Iterator[Tuple[str, str]]:
    """Return the files in which Kbuild has noted what it read: folder and name of each."""
    for folder, _, names in os.walk(path):
        for name in names:
            if name.startswith('.') and name.endswith('.cmd'):
                yield folder, name


def slot_of(path: str) -> Optional[int]:
    """Return the slot whose source the objects in a folder were made of; None if not known."""
    slot = _read_state(path).get('slot')
    return slot if isinstance(slot, int) else None


def is_empty(path: str) -> bool:
    """Return whether a board begins with nothing in a folder."""
    return not _read_state(path)


def has_board(path: str, aside: str, board: str) -> bool:
    """Return whether objects of a board are in a folder, or were put aside."""
    return _board_in(path) == board or os.path.isdir(os.path.join(aside, board))


def boards_in(path: str, aside: str) -> List[str]:
    """Return the boards whose objects are in a folder, or were put aside."""
    found = [_board_in(path)]
    with contextlib.suppress(OSError):
        found += os.listdir(aside)
    return found


def put_aside(path: str, aside: str) -> None:
    """Move what is in a build folder of a board to where that board finds it again.

    Args:
        path: the folder; it is gone afterwards
        aside: where those of boards are put

    Raises:
        OSError: it cannot be moved or removed
    """
    last = _board_in(path)
    if not last:
        clear_way(path)
        return
    clear_non_folder(aside)
    os.makedirs(aside, exist_ok=True)
    other = os.path.join(aside, last)
    clear_way(other)
    os.rename(path, other)
    _keep_some(aside)


def _keep_some(aside: str) -> None:
    """Remove all but the newest of those that were put aside"""
    left = sorted(os.scandir(aside), key=lambda entry: entry.stat().st_mtime)
    for entry in left[:-MOST_ASIDE]:
        clear_way(entry.path)


class BuildFolder:
    """A folder that builds go into.

    Attributes:
        path: the folder
        own: whether it is ours to empty; the user's source folder is not
        aside: where those of other boards are put, '' for nowhere
        commit: what its objects were last made of, or compared with; '' for none
    """

    def __init__(self, path: str, own: bool, aside: str = '') -> None:
        """Name a folder; nothing is touched."""
        self.path = path
        self.own = own
        self.aside = aside
        self.commit = ''
        self._board = ''
        self._slot: Optional[int] = None
        self._diagnosed: Set[str] = set()
        self._keys: Dict[str, str] = {}
        self._config_said = False
        self._looked = False

    def enter(self, tool: Toolchain, board: str = '', slot: Optional[int] = None) -> None:
        """Make it ready for a board.

        It is emptied unless the last build in it ended in peace and used the
        same compiler for this architecture and the same slot's source, and when this
        run finds it with anything newer than now.

        Args:
            tool: compiler that is going to be used
            board: what is built
            slot: whose source is built, where that may be any; None: always the same

        Raises:
            OSError: it cannot be made or emptied
        """
        state_path = os.path.join(self.path, STATE_FILE)
        self._diagnosed, self._keys, self._config_said = set(), {}, False
        self._board, self._slot = board, slot
        if self.own and self.aside:
            self._change_board()
        # Another slot's source may be older than an object, and yet not what that is made of
        sound = self._load() and slot_of(self.path) == slot and (
            self._keys.get(tool.arch, _key(tool)) == _key(tool)) and (
            self._looked or not newer_than_now(self.path, first=True))
        self._looked = True
        if self.own:
            try:
                if sound:
                    # From now on until leave() it is not
                    os.unlink(state_path)
            except PermissionError:
                sound = False
            if not sound:
                self.empty()
                self.commit = ''
        self._keys[tool.arch] = _key(tool)

    def _change_board(self) -> None:
        """Put aside what is there of another board, in favour of what there is of this one"""
        last = _board_in(self.path)
        if last == self._board:
            return
        mine, new = os.path.join(self.aside, self._board), f'{self.aside}.new'
        clear_way(new)
        clear_non_folder(self.aside)
        if os.path.isdir(mine):
            os.rename(mine, new)
            self._looked = False
        elif not last:
            return
        else:
            os.makedirs(self.aside, exist_ok=True)
            disk = os.statvfs(self.aside)
            # With the objects of another board, the tools of this machine are there
            if disk.f_bavail * disk.f_frsize < SPARE or not self._copy(new):
                clear_way(new)
                return
        other = os.path.join(self.aside, last) if last else self.path
        clear_way(other)
        if last:
            os.rename(self.path, other)
        os.rename(new, self.path)
        _keep_some(self.aside)

    def drop_aside(self) -> None:
        """Remove what was put aside."""
        if self.aside:
            clear_way(self.aside)

    def _copy(self, path: str) -> bool:
        """Copy it, with all time stamps; return whether that was possible"""
        try:
            return commands.run(['cp', '-a', self.path, path], _COPY_TIME).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _load(self) -> bool:
        """Read what the last build left; False when that tells nothing"""
        state = _read_state(self.path)
        try:
            self._keys = {str(arch): str(key) for arch, key in state['keys'].items()}
            self._diagnosed = {str(name) for name in state['diagnosed']}
            self.commit = str(state['commit'])
        except (KeyError, TypeError, AttributeError):
            return False
        return True

    def leave(self) -> None:
        """Tell that it is sound; not called when a build was cut short.

        Raises:
            OSError: no space
        """
        if self.own and os.path.isdir(self.path):
            with open(os.path.join(self.path, STATE_FILE), 'w', encoding='utf-8') as outf:
                json.dump({'keys': self._keys, 'diagnosed': sorted(self._diagnosed),
                           'board': self._board, 'slot': self._slot,
                           'commit': self.commit}, outf)

    def lend(self, use: Callable[[str], None]) -> None:
        """Have a sound folder that is of no board in particular, in the middle of a board's builds.

        Args:
            use: looks at it, and copies it

        Raises:
            OSError: no space
        """
        board, self._board = self._board, ''
        self.leave()
        self._board = board
        try:
            use(self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, STATE_FILE))

    def empty(self) -> None:
        """Remove all that is in it.

        Raises:
            OSError: it cannot be removed or made
        """
        clear_way(self.path)
        os.makedirs(self.path)
        self._diagnosed = set()

    @property
    def used(self) -> bool:
        """Whether something was built in it before"""
        return self.own and os.path.isdir(os.path.join(self.path, 'include'))

    def has_objects(self, since: int) -> bool:
        """Return whether an object, but for those of programs of the host, is as new as a time.

        In U-Boot nothing else is compiled before the programs in tools/ are there.

        Args:
            since: nanoseconds since the epoch
        """
        for top, folders, names in os.walk(self.path):
            if top == self.path:
                folders[:] = set(folders).difference(('scripts', 'tools'))
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    if name.endswith('.o') and os.stat(
                            os.path.join(top, name)).st_mtime_ns >= since:
                        return True
        return False

    def remove_images(self, configure: bool) -> None:
        """Remove what an earlier build may have left to be collected.

        Args:
            configure: the board is going to be configured, so what is made of
                the configuration goes too
        """
        if not self.own:
            return
        for folder in ('', *PHASES):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for entry in list(os.scandir(os.path.join(self.path, folder))):
                    name = entry.name
                    if name == 'Makefile' or (name.endswith('.cfg') and not configure) or (
                            name.startswith('.') and not name.endswith('.cmd')):
                        continue
                    if entry.is_file(follow_symlinks=False):
                        os.unlink(entry.path)
        self._unlink(ENV_OBJECTS)
        if configure:
            # Should they not come to be made, those that are here are not of this build
            self._unlink(('include/autoconf.mk', 'include/generated/autoconf.h'))
            for phase in PHASES:
                shutil.rmtree(os.path.join(self.path, phase, 'include'), ignore_errors=True)
            # A configuration that turns out the same may be left alone by
            # Kconfig; what is made of it must be made again all the same
            self._outdate_config()

    def _outdate_config(self) -> None:
        """Have make bring up to date what is made of the configuration"""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.utime(os.path.join(self.path, 'include', 'config', 'auto.conf'), (0, 0))

    def note_diagnosed(self, text: str) -> int:
        """Remember which sources a compiler had something to say about.

        Args:
            text: what make wrote to stderr, with paths relative to the source

        Returns:
            how many there are in this text
        """
        found = set()
        for name in (*_DIAGNOSED.findall(text), *_LINKED.findall(text)):
            parts = name.split('/')
            while parts and parts[0] in ('..', '.', 'build'):
                parts = parts[1:]
            if parts and '..' not in parts:
                found.add('/'.join(parts))
        self._diagnosed |= found
        self._config_said = self._config_said or bool(_CONFIGURED.search(text))
        return len(found)

    def blames(self, names: Iterable[str]) -> bool:
        """Return whether a compiler had something to say about one of these sources."""
        return not self._diagnosed.isdisjoint(names)

    def remove_diagnosed(self) -> None:
        """Remove what was made of the sources that were complained about.

        So they are compiled again and the messages show again, as in a build
        from nothing. The same for what Kconfig said during the build.
        """
        if self._config_said:
            self._outdate_config()
        for name in self._diagnosed:
            stem, ext = os.path.splitext(name)
            outputs = [name] if ext in ('.dtb', '.dtbo') else [stem + end for end in _MADE]
            if ext == '.so':
                # X_efi.so becomes X.efi, which X_efi.S holds (scripts/Makefile.lib)
                outputs += [name, stem + '.S', stem[:-len('_efi')] + '.efi']
            for folder in ('', *(f'{phase}/' for phase in PHASES)):
                self._unlink(folder + output for output in outputs)
            # A host program of one source has no object of its own
            program = os.path.join(self.path, stem)
            if ext == '.c' and os.path.isfile(program) and not os.path.islink(program):
                os.unlink(program)

    def remove_made_of(self, names: Collection[str]) -> None:
        """Remove what was made of files with these last parts of their names, as Kbuild noted it.

        For files that are new: one may hide another that was read (a header, on the
        include path), which make does not notice.
        """
        wanted = {os.fsencode(name) for name in names}
        for folder, note in notes(self.path) if wanted else ():
            with open(os.path.join(folder, note), 'rb') as inf:
                read = {word.rpartition(b'/')[2] for word in inf.read().split()}
            if not wanted.isdisjoint(read):
                for name in (note, note[1:-len('.cmd')]):
                    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                        os.unlink(os.path.join(folder, name))

    def _unlink(self, names: Iterable[str]) -> None:
        """Remove files that may not be there"""
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(os.path.join(self.path, name))
