# SPDX-License-Identifier: GPL-2.0+
"""Objects of programs for the host, which are the same for the next board.

The tools of U-Boot include headers that name options of the configuration, so Kbuild has
most of them compiled again when such an option is another one for the next board. Nearly
all of these options are for the target: what the compiler gets of the source is the same,
and so is the object. To find that out by the preprocessor takes a third of the time. So
with each object a sum of what went into it is kept, in the build folder. If only options
are newer than an object, and the sum is the same, it is made as new as they are.

Not if the command is another one, which Kbuild sees by itself; if another file that the
object was made of is newer; nor if the compiler reads anything that is not in its text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from buildman.build.folder import notes
from buildman.core.files import clear_way

# Name of the file with the sums, in the build folder
SUMS = '.buildman-host'

# Where U-Boot has what it compiles for the host
FOLDERS = ('scripts', 'tools')

# What Kbuild writes into a note: the command, what was read, options in that
_COMMAND = re.compile(r'(?:saved)?cmd_(\S+\.o) := (.*)\n')
_OPTION = re.compile(r'\$\(wildcard ([^()$]*)\)')

# A word for the shell or make, and what they might have done with it
_ODD = re.compile(r'[$#`;&|<>\\*?(){}~\n]')

# Files that an assembler reads, and that are in no note
_READS = (b'.incbin', b'.include')


class Note(NamedTuple):
    """How an object was made.

    Attributes:
        words: the command
        files: what was read, relative to the build folder
        options: files that stand for options that these name
    """

    words: List[str]
    files: List[str]
    options: List[str]


class Times:
    """Time stamps of files, each looked up once: nanoseconds since the epoch, 0 without a file."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: Dict[str, int] = {}

    def of(self, name: str) -> int:
        """Return that of a file, with a path relative to the folder."""
        if name not in self._known:
            self._known[name] = 0
            with contextlib.suppress(OSError):
                self._known[name] = os.stat(os.path.join(self._folder, name)).st_mtime_ns
        return self._known[name]


def read_note(text: str) -> Optional[Tuple[str, Note]]:
    """Return the object that a note is of, and what it says; None if it is of nothing we know."""
    match = _COMMAND.match(text)
    words: List[str] = []
    if match and not _ODD.search(match.group(2)):
        with contextlib.suppress(ValueError):
            words = shlex.split(match.group(2))
    if not match or not words:
        return None
    name = match.group(1)
    _, found, rest = text.partition(f'\ndeps_{name} := \\\n')
    deps = (rest.partition('\n\n')[0] + '\n').replace('\\\n', '\n')
    options = _OPTION.findall(deps)
    files = [*_OPTION.sub('', deps).split(), words[-1]]
    if not found or words.count('-c') != 1 or words.count('-o') != 1 or (
            words[words.index('-o') + 1] != name):
        return None
    return name, Note(words, files, options)


def _objects(folder: str) -> Iterator[Tuple[str, Note]]:
    """Yield the objects for the host in a build folder"""
    for top in FOLDERS:
        for where, name in notes(os.path.join(folder, top)):
            if name.endswith('.o.cmd'):
                with contextlib.suppress(OSError, UnicodeDecodeError), open(
                        os.path.join(where, name), encoding='utf-8') as inf:
                    note = read_note(inf.read())
                    # What the shell was in when it wrote this is the build folder
                    if note and os.path.join(folder, note[0]) == os.path.join(
                            where, name[1:-len('.cmd')]):
                        yield note


class HostObjects:
    """The objects for the host in one build folder."""

    def __init__(self, folder: str, temp: str, make: Callable[[List[str]], int]) -> None:
        """Set up; nothing is touched.

        Args:
            folder: build folder
            temp: path of a folder that is made and removed again
            make: runs make with these words and with the environment of a build, in any
                folder; returns the exit status
        """
        self._folder = folder
        self._temp = temp
        self._make = make

    @property
    def known(self) -> bool:
        """Whether there is anything that renew() may find to be the same."""
        return os.path.exists(os.path.join(self._folder, SUMS))

    def record(self) -> None:
        """Remember what the objects that are there were made of, after a build.

        Raises:
            OSError: no space
        """
        times, sums = Times(self._folder), self._load()
        new = {name: note for name, note in _objects(self._folder)
               if note.options and times.of(name) and sums.get(name, (0, ''))[0] != times.of(name)}
        sums.update((name, (times.of(name), digest)) for name, digest in self._sums(new).items())
        self._save(sums)

    def renew(self) -> None:
        """Have make take for up to date what would come out the same, before a build.

        Raises:
            OSError: no space
        """
        times, sums = Times(self._folder), self._load()
        old = {}
        for name, note in _objects(self._folder):
            made = times.of(name)
            if made and sums.get(name, (0, ''))[0] == made and (
                    any(times.of(option) > made for option in note.options)
                    and all(0 < times.of(file) <= made for file in note.files)):
                old[name] = note
        for name, digest in self._sums(old).items():
            if digest == sums[name][1]:
                path = os.path.join(self._folder, name)
                os.utime(path)
                sums[name] = os.stat(path).st_mtime_ns, digest
        self._save(sums)

    def _sums(self, objects: Dict[str, Note]) -> Dict[str, str]:
        """Return what stands for the text that each is compiled of, where that is all it is of"""
        found: Dict[str, str] = {}
        if not objects:
            return found
        clear_way(self._temp)
        os.makedirs(self._temp)
        try:
            rules = ['all:']
            for number, note in enumerate(objects.values()):
                words = [word for word in note.words if word != '-c'
                         and not word.startswith('-Wp,-M')]
                words[words.index('-o') + 1] = os.path.join(self._temp, str(number))
                rules += [f'all: {number}', f'{number}: ; @{shlex.join([*words, "-E"])}']
            path = os.path.join(self._temp, 'rules')
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write('\n'.join(rules) + '\n')
            if self._make(['-rRsk', '-C', self._folder, '-f', path, 'all']) == 0:
                for number, (name, note) in enumerate(objects.items()):
                    with open(os.path.join(self._temp, str(number)), 'rb') as inf:
                        text = inf.read()
                    if not any(word in text for word in _READS):
                        found[name] = hashlib.sha256(
                            repr(note.words).encode() + text).hexdigest()
        finally:
            shutil.rmtree(self._temp, ignore_errors=True)
        return found

    def _load(self) -> Dict[str, Tuple[int, str]]:
        """Return the sums that are known: object to its time and the sum"""
        try:
            with open(os.path.join(self._folder, SUMS), encoding='utf-8') as inf:
                return {str(name): (int(made), str(digest))
                        for name, (made, digest) in json.load(inf).items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _save(self, sums: Dict[str, Tuple[int, str]]) -> None:
        """Keep them"""
        if not sums:
            return
        with open(os.path.join(self._folder, SUMS), 'w', encoding='utf-8') as outf:
            json.dump(sums, outf)
