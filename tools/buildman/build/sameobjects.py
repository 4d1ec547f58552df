# SPDX-License-Identifier: GPL-2.0+
"""Objects that are the same for the next board.

Headers that all of U-Boot includes name options of the configuration, so Kbuild has half
of the objects compiled again when such an option is another one for the next board. For
boards that are much alike what the compiler gets of most sources is the same then, and so
is the object; for programs of the host nearly always. To find that out by the preprocessor
takes a fifth of the time. So when a build folder goes from one configuration to another,
each object that only options are newer than is preprocessed with the header of either
(autoconf.h, the only file that is in no note), and made as new as they are if the text is
the same.

Not if the command is another one, which Kbuild sees by itself; if another file that the
object was made of is newer, or now another one is read; if the object was out of date
before, as the last board does not need it or has failed; nor if the compiler reads anything
that is not in its text. And not where a few objects tell that it does not pay; nor is it
tried where the board is of another SoC, as there each command for the target is another one.

A sum of the text is kept, so that the next time one of the two is known.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from buildman.build.folder import notes
from buildman.core.files import clear_way

# In the build folder: the file with the sums; a folder that is there while we are at it
SUMS = '.buildman-same'
TEMP = '.buildman-same.new'

# What Kconfig makes of the configuration, in `include`: what the compiler reads, and a file
# for each option, which is as new as its value
HEADER = 'generated/autoconf.h'
_OPTIONS = 'include/config'

# What U-Boot compiles for the host: those commands are the same for all boards
_HOST = ('scripts/', 'tools/')

# In that header: what the commands for the target name
_MACHINE = re.compile(rb'^#define CONFIG_SYS_(?:ARCH|CPU|SOC) .*$', re.MULTILINE)

# Objects that are tried first, and how many of them have to be the same: two texts take
# two fifths of the time that compiling does
_SAMPLE, _SHARE = 16, 0.5

# What Kbuild writes into a note: the command, what was read, options in that
_COMMAND = re.compile(r'(?:saved)?cmd_(\S+\.o) := (.*)\n')
_WILDCARD = '$(wildcard'

# What make would do something with, and a word that the shell would: not in quotes
_MAKE_ODD = re.compile(r'[$#]')
_QUOTED = re.compile(r"""'[^']*'|"[^"\\`]*\"""")
_SHELL_ODD = re.compile(r'[`;&|<>\\*?(){}~\n]')

# In what the preprocessor writes: a file is entered that is none of the system's. One of
# the command line has `./` before it
_ENTERED = re.compile(rb'^# \d+ "(?:\./)?([^"\n]*)" 1$', re.MULTILINE)

# Files that an assembler reads, and that are in no note
_READS = (b'.incbin', b'.include')


class Note(NamedTuple):
    """How an object was made.

    Attributes:
        command: for the shell, as make writes it
        files: what was read, relative to the build folder
        options: files that stand for options that these name
    """

    command: str
    files: List[str]
    options: List[str]

    def words(self, name: str) -> List[str]:
        """Return the words of the command; [] if it is not one that only compiles an object."""
        if _MAKE_ODD.search(self.command) or _SHELL_ODD.search(_QUOTED.sub('', self.command)):
            return []
        try:
            words = shlex.split(self.command)
        except ValueError:
            return []
        if words.count('-c') != 1 or words.count('-o') != 1 or (
                words[words.index('-o') + 1:][:1] != [name]):
            return []
        return words


class _Old(NamedTuple):
    """An object that may be the same: when it was made, how, and what was read"""

    made: int
    words: List[str]
    files: List[str]


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
    if not match:
        return None
    name, command = match.groups()
    _, found, rest = text.partition(f'\ndeps_{name} := \\\n')
    # An option is two words: `$(wildcard include/config/x.h)`. No regular expression: there
    # are 100,000 such lines in a build folder
    listed = (rest.partition('\n\n')[0] + '\n').replace('\\\n', '\n').split()
    options = [word[:-1] for word in listed if word[-1] == ')']
    files = [word for word in listed if word[-1] != ')' and word != _WILDCARD]
    if not found or listed.count(_WILDCARD) != len(options) or any('(' in word for word in files):
        return None
    return name, Note(command, [*files, *command.split()[-1:]], options)


def _unseen(path: str, flags: int) -> int:
    """Open a file, and leave its time of access: it tells what make has read (`build.notes`)"""
    return os.open(path, flags | getattr(os, 'O_NOATIME', 0))


def _objects(folder: str) -> Iterator[Tuple[str, Note]]:
    """Yield the objects in a build folder"""
    for where, name in notes(folder):
        if name.endswith('.o.cmd'):
            with contextlib.suppress(OSError, UnicodeDecodeError), open(
                    os.path.join(where, name), encoding='utf-8', opener=_unseen) as inf:
                note = read_note(inf.read())
                # What the shell was in when it wrote this is the build folder
                if note and os.path.join(folder, note[0]) == os.path.join(
                        where, name[1:-len('.cmd')]):
                    yield note


class SameObjects:
    """The objects in one build folder."""

    def __init__(self, folder: str, make: Callable[[List[str]], int]) -> None:
        """Set up; nothing is touched.

        Args:
            folder: build folder
            make: runs make with these words and with the environment of a build, in any
                folder; returns the exit status
        """
        self._folder = folder
        self._header = os.path.join(folder, 'include', HEADER)
        self._temp = os.path.join(folder, TEMP)
        self._make = make
        self._old: Optional[bytes] = None
        self._before: Dict[str, int] = {}

    def begin(self) -> None:
        """Remember the configuration that the objects were made with, before the next one."""
        times = Times(self._folder)
        self._old, self._before = None, {}
        with contextlib.suppress(OSError), open(self._header, 'rb') as inf:
            self._old = inf.read()
            for where, _, names in os.walk(os.path.join(self._folder, _OPTIONS)):
                for name in names:
                    path = os.path.relpath(os.path.join(where, name), self._folder)
                    self._before[path] = times.of(path)

    @property
    def begun(self) -> bool:
        """Whether there was a configuration before, and renew() has not been called since."""
        return self._old is not None

    def forget(self) -> None:
        """Forget what begin() has remembered."""
        self._old = None

    def renew(self) -> None:
        """Have make take for up to date what would come out the same, before a build.

        To be called when the next configuration is there.

        Raises:
            OSError: no space
        """
        before, self._old = self._old, None
        new = before
        with contextlib.suppress(FileNotFoundError), open(self._header, 'rb') as inf:
            new = inf.read()
        if before is None or new is None or new == before:
            return
        clear_way(self._temp)
        os.makedirs(os.path.join(self._temp, os.path.dirname(HEADER)))
        try:
            self._renew(before, new)
        finally:
            shutil.rmtree(self._temp, ignore_errors=True)

    def _renew(self, header: bytes, new: bytes) -> None:
        """Do so, with the header that was and the one that is"""
        sums, old = self._load(), self._outdated()
        if set(_MACHINE.findall(header)) != set(_MACHINE.findall(new)):
            old = {name: found for name, found in old.items() if name.startswith(_HOST)}
        names = sorted(old)
        sample = names[::max(1, len(names) // _SAMPLE)]
        for some in (sample, sorted(set(names).difference(sample))):
            known = {name: sums[name][1] for name in some
                     if name in sums and sums[name][0] == old[name].made}
            before = {**known, **self._sums([name for name in some if name not in known],
                                            old, header, False)}
            after = self._sums(some, old, new, True)
            same = [name for name in some if after.get(name) and after[name] == before.get(name)]
            for name in same:
                path = os.path.join(self._folder, name)
                os.utime(path)
                sums[name] = os.stat(path).st_mtime_ns, after[name]
            if len(same) < _SHARE * len(some):
                break
        self._save(sums)

    def _outdated(self) -> Dict[str, _Old]:
        """Return the objects that only options are newer than, and were not before"""
        times = Times(self._folder)
        old = {}
        for name, note in _objects(self._folder):
            made = times.of(name)
            if made and any(times.of(option) > made for option in note.options) and all(
                    self._before.get(option, 0) <= made for option in note.options) and all(
                    0 < times.of(file) <= made for file in note.files):
                words = note.words(name)
                if words:
                    old[name] = _Old(made, words, note.files)
        return old

    def _sums(self, names: Sequence[str], objects: Dict[str, _Old],
              header: bytes, check: bool) -> Dict[str, str]:
        """Return what stands for the text that each is compiled of

        Args:
            names: which
            objects: of these
            header: content of autoconf.h
            check: leave out what is made of other files than noted, or of more than the text;
                that holds for an equal text, too
        """
        found: Dict[str, str] = {}
        if not names:
            return found
        with open(os.path.join(self._temp, HEADER), 'wb') as outb:
            outb.write(header)
        rules = ['all:']
        for number, name in enumerate(names):
            # Ours is found first
            words = [word for word in objects[name].words
                     if word != '-c' and not word.startswith('-Wp,-M')]
            words[words.index('-o') + 1] = f'{TEMP}/{number}'
            place = next(place for place, word in enumerate(words) if word.startswith('-'))
            words[place:place] = [f'-I{TEMP}']
            rules += [f'all: {number}', f'{number}: ; @{shlex.join([*words, "-E"])}']
        path = os.path.join(self._temp, 'rules')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('\n'.join(rules) + '\n')
        if self._make(['-rRsk', '-C', self._folder, '-f', path, 'all']) == 0:
            for number, name in enumerate(names):
                with open(os.path.join(self._temp, str(number)), 'rb') as inf:
                    text = inf.read()
                old = objects[name]
                known = {os.fsencode(file) for file in (*old.files, f'{TEMP}/{HEADER}')}
                if not check or (known.issuperset(_ENTERED.findall(text)) and not any(
                        word in text for word in _READS)):
                    found[name] = hashlib.sha256(repr(old.words).encode() + text).hexdigest()
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
