# SPDX-License-Identifier: GPL-2.0+
"""What --ccache needs besides the name before the compiler, and when it is used without it.

ccache finds an object again when the compiler, its arguments and all that it
reads are the same. The paths among these are relative to the build folder,
which lies in the same place of each slot; so slots, boards, commits and machines
share objects, if the slot's folder itself does not count (see environment()).

What an assembler reads by `.incbin` ccache finds in the text of the source only. From
4.12 on it looks at the text before macros are expanded, and takes an old object where
a macro gives the name of the file or the directive; with a macro of the assembler's
all versions do. So such sources go past it (see past_ccache()).

To fill a cache costs a quarter of a build from nothing; an object that is there already
costs less than to find out that a board's own is the same (build.sameobjects). So unless
the user decides, it is used for those boards that it was used for before (is_warm()), and
where the boards of a large source have so many siblings that it pays (pays()).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

from buildman.build.siblings import family
from buildman.core.files import put_file, replace_text
from buildman.core.plan import Board
from buildman.process import commands

# ccache's variables for storage that machines share; the second is that of 4.4 to 4.6
STORAGE = ('CCACHE_REMOTE_STORAGE', 'CCACHE_SECONDARY_STORAGE')

# Seconds after which it hangs
TIMEOUT = 20

# What the configuration files call it
_KEYS = ('remote_storage', 'secondary_storage')

# Storage that other machines can reach
_SHARED = ('http://', 'redis://')

# In the folder of a cache: the boards whose objects it has had
_BOARDS = 'buildman-boards'

# So many boards of a family each: then it pays to fill a cache
SIBLINGS = 3

# In a work area whose last builds went by ccache
USED = 'ccache-used'

# What lets ccache run the compiler, for gcc and for clang. The first is of debugging
# dumps, of which there are none; the second has the command noted.
_PAST_GCC, _PAST_CLANG = '-fdump-noaddr', '-MJ /dev/null'

# Kbuild's variable for what assembler sources are compiled with, too
AFLAGS = 'KAFLAGS'


class Use(NamedTuple):
    """How many objects a run asked ccache for: those that it had, and had not."""

    hits: int
    misses: int

    def __str__(self) -> str:
        total = self.hits + self.misses
        share = f' ({100 * self.hits / total:.0f}%)' if total else ''
        return f'ccache had {self.hits} of {total} objects{share}'


def environment(env: Mapping[str, str], folders_hidden: bool) -> Dict[str, str]:
    """Return what ccache is told by its environment.

    Args:
        env: environment of the make; what a user has set stays
        folders_hidden: the folder of the slot does not get into an object
            (-fdebug-prefix-map), so it need not be the same
    """
    told: Dict[str, str] = {}
    if 'CCACHE_NOCPP2' not in env:
        # Else the compiler gets what was preprocessed, and shows that in its messages
        told['CCACHE_CPP2'] = '1'
    if folders_hidden:
        # Make's probes for flags of the compiler do without -fdebug-prefix-map
        told['CCACHE_NOHASHDIR'] = '1'
    if any(env.get(name) for name in STORAGE) and 'CCACHE_COMPILERCHECK' not in env:
        # The same compiler has another time stamp on each machine
        told['CCACHE_COMPILERCHECK'] = 'content'
    return told


def past_ccache(env: Dict[str, str], words: List[str], compiler: str = '') -> Tuple[str, str]:
    """Have assembler sources compiled without ccache.

    Args:
        env: environment of the make, changed
        words: what make is told, changed where they say what env says
        compiler: that of -O, '' for gcc

    Returns:
        (name of the variable, its value before)
    """
    option = _PAST_CLANG if 'clang' in compiler else _PAST_GCC
    words[:] = [f'{word} {option}' if word.startswith(f'{AFLAGS}=') else word for word in words]
    before = env.get(AFLAGS, '')
    env[AFLAGS] = f'{before} {option}'.strip()
    return AFLAGS, before


def shared_storage(env: Mapping[str, str]) -> Dict[str, str]:
    """Return the variables that lead ccache elsewhere to the storage in its configuration.

    Empty when there is none, or none that other machines can reach.
    """
    if any(env.get(name) for name in STORAGE):
        return {}
    for key in _KEYS:
        found = _ask(['--get-config', key], env).strip()
        if found.startswith(_SHARED):
            return {name: found for name in STORAGE}
    return {}


class Meter:
    """Tells what ccache did since this was made.

    ccache counts for all that use the same cache, so another build at the same
    time counts as well.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        """Read the counters.

        Args:
            env: environment of the builds
        """
        self._env = dict(env)
        self._start = self._read()

    def use(self) -> Optional[Use]:
        """Return what happened since; None when ccache does not tell (before 3.7)."""
        now = self._read()
        if self._start is None or now is None:
            return None
        # Somebody may have set the counters to zero
        hits, misses = now.hits - self._start.hits, now.misses - self._start.misses
        return Use(hits, misses) if hits >= 0 and misses >= 0 else now

    def _read(self) -> Optional[Use]:
        """Return the counters of the cache"""
        counts: Dict[str, int] = {}
        for line in _ask(['--print-stats'], self._env).splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit():
                counts[words[0]] = int(words[1])
        if 'cache_miss' not in counts:
            return None
        return Use(counts.get('direct_cache_hit', 0) + counts.get('preprocessed_cache_hit', 0),
                   counts['cache_miss'])


def is_usable(env: Mapping[str, str]) -> bool:
    """Return whether there is a cache that builds may fill, without a word of it in results."""
    return not any(env.get(name) for name in (
        'CCACHE_DISABLE', 'CCACHE_READONLY', 'CCACHE_NOCPP2')) and bool(
            shutil.which('ccache', path=env.get('PATH')))


def works(env: Mapping[str, str]) -> bool:
    """Return whether something can be compiled by ccache.

    It may not be able to write its cache or to read its configuration, or hang; then no
    build would succeed.
    """
    # Seldom needed, and slow to load
    import tempfile
    program, compiler = (shutil.which(name, path=env.get('PATH')) for name in ('ccache', 'cc'))
    if not program or not compiler:
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired), \
            tempfile.TemporaryDirectory(prefix='buildman-') as folder:
        put_file(os.path.join(folder, 'try.c'), b'int here;\n')
        done = commands.run([program, compiler, '-c', 'try.c', '-o', 'try.o'], TIMEOUT,
                            env={**env, **environment(env, False)}, cwd=folder)
        return done.returncode == 0 and not done.stderr and os.path.exists(
            os.path.join(folder, 'try.o'))
    return False


def pays(boards: Collection[Board]) -> bool:
    """Return whether boards have in common what it costs to fill a cache.

    Measured for 12 boards of 3 families: for each but the first of a family it saves two
    thirds of what it costs more for that one.
    """
    return len(boards) >= SIBLINGS * len({family(board) for board in boards}) > 0


def is_warm(boards: Collection[str], env: Mapping[str, str]) -> bool:
    """Return whether the cache of this machine has had the objects of most of these boards.

    What it has may be of another compiler, or gone since: then builds fill it again.
    """
    if not is_usable(env):
        return False
    return 2 * len(_boards(_boards_file(env)).intersection(boards)) > len(boards)


def note_boards(boards: Collection[str], env: Mapping[str, str]) -> None:
    """Remember that the cache of this machine has the objects of boards; not if it cannot be."""
    path = _boards_file(env)
    if path and boards:
        with contextlib.suppress(OSError):
            replace_text(path, ''.join(f'{name}\n' for name in sorted(
                _boards(path).union(boards))), 0o644)


def was_used(work_dir: str) -> Optional[bool]:
    """Return whether the last builds in a work area went by ccache; None if there were none.

    Without it they have other commands, and so would make everything again.
    """
    try:
        names = os.listdir(work_dir)
    except OSError:
        # What is in the way is somebody else's to tell or to remove
        return None
    return USED in names if any(name.isdigit() for name in names) else None


def note_use(work_dir: str, used: bool) -> None:
    """Remember how builds in a work area go.

    Raises:
        OSError: that cannot be written
    """
    path = os.path.join(work_dir, USED)
    if used:
        put_file(path, b'')
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _boards_file(env: Mapping[str, str]) -> str:
    """Return where a cache has the names of boards, so that they go with it; '' without a cache"""
    folder = _ask(['--get-config', 'cache_dir'], env).strip()
    return os.path.join(folder, _BOARDS) if os.path.isdir(folder) else ''


def _boards(path: str) -> Set[str]:
    """Return the boards that a file names"""
    try:
        with open(path, encoding='utf-8') as inf:
            return set(inf.read().split())
    except (OSError, UnicodeDecodeError):
        return set()


def _ask(words: List[str], env: Mapping[str, str]) -> str:
    """Return what ccache prints; '' when it does not know the question or is not there"""
    program = shutil.which('ccache', path=env.get('PATH'))
    if not program:
        return ''
    try:
        done = commands.run([program, *words], TIMEOUT, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout if done.returncode == 0 else ''
