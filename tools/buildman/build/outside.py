# SPDX-License-Identifier: GPL-2.0+
"""What a build takes from outside the tree: variables, and files that they name (BL31, TEE, …).

All that a Makefile refers to and does not set itself comes from the environment, if it
is there: BL31, ROCKCHIP_TPL, BINMAN_INDIRS and whatever the next release takes. So the
tree is searched for the names that the environment at hand has, which are few; a list
of them all is nowhere kept.

A file is named by the SHA-256 of its content, so it travels once, and two
files of the same name never meet. In the environment a value stands for such
files as `@blob:SHA256/NAME@`, which the far side replaces by a path. A folder
is `@tree:SHA256/NAME@`: the file of that name lists what is in it, one line
each: SHA-256, `x` or `-` for whether it is executable, path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from typing import (
    Callable,
    Collection,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
)

from buildman.core.errors import GitError
from buildman.core.files import file_sha256
from buildman.source import git

# What a value says in place of a path: kind, SHA-256, whether executable, name
_MARK = re.compile(r'@(blob|tree):([0-9a-f]{64})(\+x)?/([A-Za-z0-9_+,=%.-]{1,200})@')
_SHA256 = re.compile(r'[0-9a-f]{64}\Z')
_LINE = re.compile(r'([0-9a-f]{64}) ([x-]) ([^\0\n]+)\Z')

# A larger file is not sent, bytes; nor is a folder with more than this in it
MAX_BLOB = 1 << 30
MAX_FILES = 2000

# On the far side, what was not used for so long may go, seconds
KEEP_UNUSED = 30 * 86400.0

# Files in which a build may ask for a variable, as patterns of git
WHERE = (':(glob)**/Makefile*', ':(glob)**/Kbuild*', ':(glob)**/*.mk', ':(glob)scripts/**',
         ':(glob)arch/**/*.sh', ':(glob)arch/**/*.py', ':(glob)board/**/*.sh',
         ':(glob)board/**/*.py', ':(glob)tools/*.sh', ':(glob)tools/binman/**/*.py',
         ':(exclude,glob)scripts/**/*.pl', ':(exclude,glob)scripts/**/*.[chly]')

# Variables of make and of its Makefiles in small letters are none that a user sets
_NAME = re.compile(r'[A-Z][A-Z0-9_]*')

# What never travels, nor is taken for part of a build: what says who somebody is,
# where things are on this machine, or what it looks like (these a machine has itself);
# and what opens doors. The names of the latter are guessed, broadly: who needs one of
# them names it in [worker-env].
_NEVER = re.compile(
    r'HOME|PATH|CDPATH|MANPATH|SHELL|USER|USERNAME|LOGNAME|MAIL|EMAIL|HOST|HOSTNAME|HOSTTYPE|'
    r'MACHTYPE|OSTYPE|PWD|OLDPWD|SHLVL|IFS|ENV|PS\d|TERM|TERMINFO|TERM_\w+|COLORTERM|LS_COLORS|'
    r'COLUMNS|LINES|DISPLAY|WAYLAND_\w+|XAUTHORITY|EDITOR|VISUAL|PAGER|LESS\w*|TMPDIR|TEMP|TMP|'
    r'TZ|LANG|LANGUAGE|LC_\w+|NPROC|VIRTUAL_ENV|(?:BASH|LD|PYTHON|PERL|PKG_CONFIG|XDG|SSH|GPG|DBUS|'
    r'GIT|SUDO|NIX|CONDA|DOCKER|KUBE|AWS|AZURE|GOOGLE|GITHUB)_?\w*|PYENV_\w+|PIP_\w+|'
    r'(?:\w+_)?(?:\w*TOKEN|\w*SECRETS?|\w*PASSWORD|\w*PASSWD|\w*PASSPHRASE|PASS|CREDENTIALS?|AUTH|'
    r'COOKIE|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|PROXY|PAT)(?:_\w+)?')

# A reference, by the kind of file: of make, of a shell, of Python
_IN_MAKE = r'\$[({{]{0}[:)}}\s]|\b(?:ifn?def|origin|value|flavor)\s+{0}\b|\$\$\{{?{0}\b'
_IN_SHELL = r'\$\{{?[#!]?{0}\b'
_IN_PYTHON = r'''(?:environ|getenv)\b.*['"]{0}['"]'''


class Found(NamedTuple):
    """What the environment of a build names.

    Attributes:
        env: it, with marks in place of paths
        files: SHA-256 -> local path
        texts: SHA-256 -> lists of what is in folders
        warnings: what was not taken along, a line each
    """

    env: Dict[str, str]
    files: Dict[str, str]
    texts: Dict[str, bytes]
    warnings: List[str]


def collect(env: Mapping[str, str], names: Collection[str], base: str = '') -> Found:
    """Find the files and folders that the environment of a build names.

    A value is a path, or several that are separated by blanks or colons. Paths
    are absolute: where a relative one leads depends on who takes it. A program
    in one of the folders of PATH is not taken along: each machine has its own.

    Args:
        env: the part of the environment that travels
        names: variables that may name files
        base: folder that the path of a single file may be relative to; '' for none
    """
    found = Found({}, {}, {}, [])
    programs = {os.path.realpath(folder) for folder in
                os.environ.get('PATH', '').split(os.pathsep) if folder}

    def mark(path: str, name: str) -> str:
        if not (os.path.isabs(path) and os.path.exists(path)) or (
                os.path.realpath(os.path.dirname(path)) in programs) or os.path.ismount(path):
            return path
        try:
            return _mark_folder(path, found) if os.path.isdir(path) else _mark_file(path, found)
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            found.warnings.append(f"{name}: '{path}' is not sent to machines: {why}")
            return path

    for name, value in env.items():
        if name in names and value:
            whole = value
            if base and not os.path.isabs(value) and os.path.isfile(os.path.join(base, value)):
                whole = os.path.join(base, value)
            if os.path.isabs(whole) and os.path.exists(whole):
                value = mark(whole, name)
            else:
                value = ''.join(part if num % 2 else mark(part, name) for num, part in
                                enumerate(re.split(r'([\s:]+)', value)))
        found.env[name] = value
    return found


def collect_words(words: Iterable[str], found: Found, base: str = '') -> Dict[str, str]:
    """Find the files that words for make name (NAME=VALUE).

    Args:
        words: the words
        found: gets the files
        base: see collect()

    Returns:
        each word that names files -> the same with marks
    """
    out = {}
    for word in words:
        name, gap, value = word.partition('=')
        if gap:
            one = collect({name: value}, {name}, base)
            found.files.update(one.files)
            found.texts.update(one.texts)
            found.warnings.extend(one.warnings)
            if one.env[name] != value:
                out[word] = f'{name}={one.env[name]}'
    return out


def pair_paths(values: Iterable[Tuple[str, str]]) -> Dict[str, str]:
    """Return which path stands for which, of values as they are there and here."""
    out: Dict[str, str] = {}
    for there, here in values:
        parts = [re.split(r'[\s:=]+', text) for text in (there, here)]
        if len(parts[0]) != len(parts[1]):
            # A name with a blank in it
            parts = [[text.rpartition('=')[2]] for text in (there, here)]
        out.update((old, new) for old, new in zip(*parts) if old != new and os.path.isabs(old))
    return out


def _base_name(path: str) -> str:
    """Return what a file is called elsewhere"""
    return re.sub(r'[^A-Za-z0-9_+,=%.-]', '_', os.path.basename(path.rstrip('/')))[:200]


def _add(path: str, files: Dict[str, str]) -> str:
    """Note a file to be sent; return its SHA-256

    Raises:
        OSError: it cannot be read
        ValueError: it is not to be sent
    """
    if not os.path.isfile(path):
        raise ValueError('it is no file')
    if os.path.getsize(path) > MAX_BLOB:
        raise ValueError(f'it is larger than {MAX_BLOB >> 20} MiB')
    sha = file_sha256(path)
    files[sha] = path
    return sha


def _mark_file(path: str, found: Found) -> str:
    """Return the mark of a file"""
    sha = _add(path, found.files)
    how = '+x' if os.access(path, os.X_OK) else ''
    return f'@blob:{sha}{how}/{_base_name(path)}@'


def _walk(folder: str) -> Iterator[str]:
    """Yield the files in a folder, those behind links to folders as well"""
    seen = set()
    todo = [folder]
    while todo:
        top = todo.pop()
        real = os.path.realpath(top)
        if real in seen:
            continue
        seen.add(real)
        for entry in sorted(os.scandir(top), key=lambda entry: entry.name):
            if entry.is_dir():
                todo.append(entry.path)
            elif entry.is_file():
                yield entry.path


def _mark_folder(path: str, found: Found) -> str:
    """Return the mark of a folder"""
    names: List[str] = []
    size = 0
    for name in _walk(path):
        size += os.path.getsize(name)
        names.append(name)
        if len(names) > MAX_FILES or size > MAX_BLOB:
            raise ValueError(f'it has more than {MAX_FILES} files or {MAX_BLOB >> 20} MiB')
    files: Dict[str, str] = {}
    text = ''.join(f"{_add(name, files)} {'x' if os.access(name, os.X_OK) else '-'} "
                   f'{os.path.relpath(name, path)}\n' for name in sorted(names)
                   if '\n' not in name).encode('utf-8', 'surrogateescape')
    sha = hashlib.sha256(text).hexdigest()
    found.files.update(files)
    found.texts[sha] = text
    return f'@tree:{sha}/{_base_name(path)}@'


class BlobStore:
    """The files on the far side."""

    def __init__(self, folder: str) -> None:
        """Name the folder that holds them; it is made when needed."""
        self._folder = folder
        self._names: List[str] = []

    def _path(self, sha: str) -> str:
        """Return where a file is kept"""
        if not _SHA256.match(sha) or not self._folder:
            raise ValueError(f'{sha!r} does not name a file')
        return os.path.join(self._folder, sha)

    def has(self, sha: str) -> bool:
        """Return whether a file is there, complete."""
        return os.path.isfile(os.path.join(self._path(sha), 'data'))

    def data(self, sha: str) -> str:
        """Return the path of a file that is there.

        Raises:
            ValueError: it has not been sent
        """
        if not self.has(sha):
            raise ValueError(f'the file {sha} has not been sent')
        return os.path.join(self._path(sha), 'data')

    def put(self, sha: str, offset: int, data: bytes, last: bool) -> bool:
        """Take a piece of a file.

        Returns:
            True when the file is complete

        Raises:
            ValueError: the pieces do not follow each other, or the content is
                not what its name says
            OSError: no space
        """
        folder = self._path(sha)
        os.makedirs(folder, exist_ok=True)
        part = os.path.join(folder, 'part')
        if offset == 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
        elif offset > MAX_BLOB or not os.path.exists(part) or os.path.getsize(part) != offset:
            raise ValueError('a piece of a file is missing')
        with open(part, 'ab') as outf:
            outf.write(data)
        if not last:
            return False
        if file_sha256(part) != sha:
            os.unlink(part)
            raise ValueError('a file did not arrive as it was sent')
        os.replace(part, os.path.join(folder, 'data'))
        return True

    def resolve(self, value: str) -> str:
        """Return a value of the environment with paths in place of marks.

        Each file is found under the name that it has on the boss, since
        binman and mkimage look at endings.

        Raises:
            ValueError: a file has not been sent
        """
        make: Mapping[str, Callable[[str, bool, str], str]] = {
            'blob': self._file, 'tree': self._tree}
        return _MARK.sub(lambda match: make[match.group(1)](
            match.group(2), bool(match.group(3)), match.group(4)), value)

    def _link(self, sha: str, executable: bool, path: str) -> str:
        """Give a file a name"""
        data = self.data(sha)
        if executable:
            os.chmod(data, 0o755)
        with contextlib.suppress(FileExistsError):
            os.link(data, path)
        return path

    def _file(self, sha: str, executable: bool, name: str) -> str:
        """Return the path of a file"""
        folder = os.path.join(self._path(sha), 'as')
        os.makedirs(folder, exist_ok=True)
        return self._link(sha, executable, os.path.join(folder, name))

    def _tree(self, sha: str, _: bool, name: str) -> str:
        """Return the path of a folder"""
        folder = os.path.join(self._path(sha), 'as', name)
        with open(self.data(sha), encoding='utf-8', errors='surrogateescape') as inf:
            lines = [_LINE.match(line) for line in inf.read().splitlines()]
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for line in lines:
            if not line or os.path.isabs(line.group(3)) or '..' in line.group(3).split('/'):
                raise ValueError(f"what is in '{name}' makes no sense")
            path = os.path.join(folder, line.group(3))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._link(line.group(1), line.group(2) == 'x', path)
        return folder

    def tidy(self, keep: Collection[str], now: float) -> None:
        """Remove what has not been used for long.

        Args:
            keep: files that are used now
            now: the time
        """
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self._folder)):
                if entry.name in keep:
                    os.utime(entry.path, (now, now))
                elif now - entry.stat(follow_symlinks=False).st_mtime > KEEP_UNUSED:
                    shutil.rmtree(entry.path, ignore_errors=True)


def is_candidate(name: str) -> bool:
    """Return whether a variable may be one that a user sets for the sake of builds."""
    return bool(_NAME.fullmatch(name)) and not _NEVER.fullmatch(name)


def reads(lines: Iterable[Tuple[str, str]], names: Iterable[str]) -> FrozenSet[str]:
    """Return which variables a tree takes from the environment.

    A Makefile that sets one for good (`=`, `:=`) does not; one that does so with `?=`,
    `+=` or upon a condition does. What counts is the Makefile at the top, since
    others may not be read; a line that is not indented is taken for one without
    a condition, as it is the custom.

    Args:
        lines: (path, text) of lines that have one of the names in them
        names: variables
    """
    patterns: Dict[str, Dict[str, 're.Pattern[str]']] = {}
    for name in names:
        patterns[name] = {kind: re.compile(text.format(name)) for kind, text in (
            ('make', _IN_MAKE), ('shell', f'{_IN_SHELL}|{_IN_MAKE}'), ('python', _IN_PYTHON))}
        patterns[name]['set'] = re.compile(rf'(?:(?:export|override)\s+)?{name}\s*(?::{{0,3}})=')
    referred, settled = set(), set()
    for path, text in lines:
        if text.lstrip().startswith('#'):
            continue
        base = path.rpartition('/')[2]
        kind = 'make' if base.startswith(('Makefile', 'Kbuild')) or base.endswith('.mk') else (
            'python' if base.endswith('.py') else 'shell')
        for name, found in patterns.items():
            if name not in text:
                continue
            if kind == 'make' and path in ('Makefile', 'config.mk') and found['set'].match(text):
                settled.add(name)
            elif found[kind].search(text):
                referred.add(name)
    return frozenset(referred - settled)


def search(folder: str, commits: Sequence[str], names: Iterable[str]) -> FrozenSet[str]:
    """Return which variables a tree takes from the environment.

    Args:
        folder: a repository, or the source when there are no commits
        commits: in which to look; none: the folder as it is
        names: variables
    """
    names = sorted(name for name in names if is_candidate(name))
    if not names:
        return frozenset()
    found: FrozenSet[str] = frozenset()
    for commit in dict.fromkeys(commits) or ('',):
        found |= reads(_grep(folder, commit, names), names)
    return found


def _grep(folder: str, commit: str, names: Sequence[str]) -> List[Tuple[str, str]]:
    """Return the lines that have one of some names in them, each with its path"""
    args = ['grep', '-I', '-z', '-w', '-F', *(f'-e{name}' for name in names)]
    # An untracked file is a part of the source, too
    where = [commit] if commit else ['--no-index', '--no-exclude-standard']
    try:
        out = git.text(folder, *args, *where, '--', *WHERE)
    except GitError:
        # Nothing found is an exit status, too
        return []
    lines = []
    for line in out.split('\n'):
        path, _, text = line.partition('\0')
        lines.append((path[len(commit) + 1:] if commit else path, text))
    return lines


def select(env: Mapping[str, str], names: Iterable[str]) -> Dict[str, str]:
    """Return the part of an environment that some names are of."""
    return {name: env[name] for name in names if name in env}
