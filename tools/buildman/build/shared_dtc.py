# SPDX-License-Identifier: GPL-2.0+
"""--shared-dtc: dtc and pylibfdt built once, from U-Boot's own source, for all boards.

U-Boot's Makefile builds both in the folder of each board, pylibfdt in each
make, unless DTC names a dtc; then it takes libfdt from where Python finds it.
Here they are built in a folder of their own in the work area, which has the
hash of all that they are made of in its name, so later runs find them, too.

Whatever goes wrong, or is complained about, in that build is left to the board
to run into: it builds its own, as without --shared-dtc.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import threading
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from buildman.process.clock import newer_than_now

# What dtc and pylibfdt are made of, in U-Boot's source
_SOURCES = ('Makefile', 'scripts', 'lib/libfdt', 'include/linux/libfdt.h',
            'include/linux/libfdt_env.h')

# Where a build leaves pylibfdt, and where Makefiles and tools look for it
_PYLIBFDT = os.path.join('scripts', 'dtc', 'pylibfdt')

# What it consists of
_MODULES = ('_libfdt.so', 'libfdt.py')

_PREFIX = 'dtc-'

# Ends the name of a folder in which a build is going on
_HALF = '.half'


class SharedDtc(NamedTuple):
    """A dtc to be used.

    Attributes:
        folder: has `dtc`, and pylibfdt's modules if it could be built
    """

    folder: str

    @property
    def has_pylibfdt(self) -> bool:
        """Whether there is a pylibfdt as well."""
        return os.path.exists(os.path.join(self.folder, _MODULES[-1]))

    def environment(self, env: Mapping[str, str], build_dir: str) -> Dict[str, str]:
        """Return an environment for make with which a configured board takes this dtc.

        Args:
            env: environment to start from
            build_dir: folder with the configuration of the board
        """
        try:
            with open(os.path.join(build_dir, '.config'), encoding='utf-8',
                      errors='replace') as inf:
                needs_pylibfdt = '\nCONFIG_PYLIBFDT=y\n' in inf.read()
        except OSError:
            return dict(env)
        if needs_pylibfdt:
            if not self.has_pylibfdt:
                return dict(env)
            # Some of U-Boot's tools look nowhere else
            os.makedirs(os.path.join(build_dir, _PYLIBFDT), exist_ok=True)
            for name in _MODULES:
                shutil.copy2(os.path.join(self.folder, name),
                             os.path.join(build_dir, _PYLIBFDT, name))
        path = [self.folder, *filter(None, [env.get('PYTHONPATH')])]
        return {**env, 'DTC': os.path.join(self.folder, 'dtc'),
                'PYTHONPATH': os.pathsep.join(path)}


class DtcStore:
    """All that were built, in a work area; safe to use from all slots."""

    def __init__(self, work_dir: str) -> None:
        """Name the work area; nothing is touched."""
        self._work_dir = work_dir
        self._lock = threading.Lock()
        self._locks: Dict[str, threading.Lock] = {}
        self._failed: Dict[str, bool] = {}
        self._hashes: Dict[Tuple[str, str], str] = {}

    def get(self, source: str, commit: str, words: Sequence[str],
            build: Callable[[str], int]) -> Optional[SharedDtc]:
        """Return the dtc of a source, built now if nobody has built it.

        Args:
            source: folder of U-Boot's source
            commit: what it holds, '' when that may change
            words: how the host's compiler is called
            build: builds it into a folder (see MakeRunner.build_dtc); returns the
                exit status, -1 when it was not allowed to end

        Returns:
            None when the board has to build its own

        Raises:
            OSError: the work area cannot be written
        """
        key = self._key(source, commit, words)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            folder = os.path.join(self._work_dir, _PREFIX + key)
            if os.path.exists(os.path.join(folder, 'dtc')):
                return SharedDtc(folder)
            if key in self._failed:
                return None
            half = folder + _HALF
            shutil.rmtree(half, ignore_errors=True)
            os.makedirs(half)
            try:
                code = build(half)
                if code == 0 and _harvest(half, folder):
                    return SharedDtc(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)
            if code >= 0:
                self._failed[key] = True
            return None

    def _key(self, source: str, commit: str, words: Sequence[str]) -> str:
        """Return what stands for all that goes into dtc and pylibfdt"""
        if not commit or (commit, repr(words)) not in self._hashes:
            digest = hashlib.sha256(repr((list(words), sys.version)).encode())
            for compiler in ('gcc', 'cc', 'python3'):
                path = shutil.which(compiler) or ''
                with contextlib.suppress(OSError):
                    stat = os.stat(path)
                    digest.update(f'{path} {stat.st_size} {stat.st_mtime_ns}'.encode())
            for path in _files(source):
                with contextlib.suppress(OSError), open(os.path.join(source, path), 'rb') as inf:
                    data = inf.read()
                    digest.update(f'\n{path} {len(data)}\n'.encode() + data)
            self._hashes[commit, repr(words)] = digest.hexdigest()[:16]
        return self._hashes[commit, repr(words)]


def remove_unfit(work_dir: str) -> None:
    """Remove what a run that was killed has left half built, and what is newer than now.

    Raises:
        OSError: it cannot be looked at
    """
    for entry in list(os.scandir(work_dir)):
        if entry.name.startswith(_PREFIX) and (
                entry.name.endswith(_HALF) or newer_than_now(entry.path, first=True)):
            shutil.rmtree(entry.path, ignore_errors=True)


def _files(source: str) -> List[str]:
    """Return the files that dtc and pylibfdt may be made of, in order"""
    found: List[str] = []
    for name in _SOURCES:
        path = os.path.join(source, name)
        if os.path.isfile(path):
            found.append(name)
        for top, folders, names in os.walk(path):
            folders.sort()
            # What an in-tree build leaves is no source
            found += [os.path.relpath(os.path.join(top, leaf), source) for leaf in sorted(names)
                      if not leaf.startswith('.') and not leaf.endswith(('.o', '.so', '.pyc'))]
    return found


def _harvest(build_dir: str, folder: str) -> bool:
    """Take what was built; return whether there is a dtc"""
    dtc = os.path.join(build_dir, 'scripts', 'dtc', 'dtc')
    if not os.access(dtc, os.X_OK):
        return False
    made = os.path.join(build_dir, 'made')
    os.mkdir(made)
    for name in _MODULES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(os.path.join(build_dir, _PYLIBFDT, name), os.path.join(made, name))
    if not all(os.path.exists(os.path.join(made, name)) for name in _MODULES):
        for name in os.listdir(made):
            os.unlink(os.path.join(made, name))
    shutil.copy2(dtc, os.path.join(made, 'dtc'))
    # Another run in this work area cannot be: it has a lock. Left by one that was
    # killed in here:
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(made, folder)
    return True
