# SPDX-License-Identifier: GPL-2.0+
"""A cache of results in a folder that people, branches and machines share.

    DIR/results/KK/KEY/READS.reads      what builds with this key read, packed
    DIR/results/KK/KEY/READS.DIGEST     a result: its files with their objects
    DIR/objects/OO/OBJECT               the content of a file, packed

KEY, READS and DIGEST are those of a trace (`build.trace`), OBJECT is the SHA-256 of the
content. Nobody waits for anybody: what is there is whole, as it comes by rename, and
never changes. What is not what its name says (cut short, changed) is not there; who may
write removes it. The time of a file tells when it was used last: when there is too
much, what was not used for longest goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import queue
import re
import socket
import threading
import time
import zlib
from typing import Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

from buildman.build import artifacts, trace
from buildman.core.files import put_file

# Seconds after which the use of a file is noted again, after which a run looks how much
# there is, and after which what a writer left half done is removed
NOTE_USE, LOOK, ABANDONED = 3600.0, 3600.0, 86400.0

# What is left of the size when there was too much
KEPT_PART = 0.9

# Bytes of one file that are read
_MOST = artifacts.MAX_IMAGE

# Files of a result that go with it besides those that a machine may send
_OURS = ('log', 'err', 'sizes')

_SHA256 = re.compile(r'[0-9a-f]{64}')
_TEMP = '.new'


class StoredFile(NamedTuple):
    """A file of a result: content and permissions."""

    data: bytes
    mode: int


class ResultCache:
    """The results in one folder.

    Attributes:
        problem: why results of this run are not kept there or none is found, '' if all is well
    """

    def __init__(self, folder: str, writable: bool, limit: int) -> None:
        """Name the folder; it is made when something is kept.

        Args:
            folder: where
            writable: results of this run are kept there; else nothing is written
            limit: bytes that it may take
        """
        self._folder = folder
        self._writable = writable
        self._limit = limit
        self.problem = '' if writable or os.path.isdir(folder) else (
            f"result cache '{folder}': there is no such folder, so nothing was taken from it")
        self._numbers = itertools.count()
        self._queue: 'queue.Queue[Optional[str]]' = queue.Queue()
        self._writer: Optional[threading.Thread] = None
        self._given_up = False

    # -- reading -----------------------------------------------------------

    def find(self, key: str, digest_of: Callable[[trace.Reads], str]
             ) -> Optional[Dict[str, StoredFile]]:
        """Return the files of a result, None when there is none that is whole.

        Args:
            key: of its trace
            digest_of: tells the digest of what was read
        """
        place = self._place(key)
        try:
            names = sorted(os.listdir(place))
        except OSError:
            return None
        for name in names:
            stem, _, end = name.partition('.')
            if end != 'reads' or not _SHA256.fullmatch(stem):
                continue
            path = os.path.join(place, name)
            text = _unpack(path)
            if text is None or hashlib.sha256(text).hexdigest() != stem:
                self._remove(path)
                continue
            with contextlib.suppress(ValueError):
                digest = digest_of(trace.Reads.parse(text))
                found = self._load(os.path.join(place, f'{stem}.{digest}'))
                if found:
                    self._used(path)
                    return found
        return None

    def _place(self, key: str) -> str:
        """Return the folder of the results with a key"""
        return os.path.join(self._folder, 'results', key[:2], key)

    def _object(self, name: str) -> str:
        """Return the path of an object"""
        return os.path.join(self._folder, 'objects', name[:2], name)

    def _load(self, path: str) -> Optional[Dict[str, StoredFile]]:
        """Return the files of a result; None when one is not there"""
        try:
            with open(path, 'rb') as inf:
                parts = _parse(inf.read())
        except OSError:
            return None
        if parts is None:
            self._remove(path)
            return None
        found = {}
        for name, (blob, mode) in parts.items():
            data = _unpack(self._object(blob))
            if data is None or hashlib.sha256(data).hexdigest() != blob:
                self._remove(self._object(blob))
                self._remove(path)
                return None
            found[name] = StoredFile(data, mode)
        for used in (path, *(self._object(blob) for blob, _ in parts.values())):
            self._used(used)
        return found

    def _remove(self, path: str) -> None:
        """Remove what is damaged"""
        if self._writable:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _used(self, path: str) -> None:
        """Note that a file is of use"""
        if self._writable:
            with contextlib.suppress(OSError):
                if time.time() - os.stat(path).st_mtime > NOTE_USE:
                    os.utime(path)

    # -- writing -----------------------------------------------------------

    def keep(self, folder: str) -> None:
        """Keep a result, by and by.

        Args:
            folder: that it is in; it stays as it is until close()
        """
        if self._writable and not self._given_up:
            if not self._writer:
                self._writer = threading.Thread(target=self._write_all, daemon=True,
                                                name='result-cache')
                self._writer.start()
            self._queue.put(folder)

    def close(self, haste: bool = False) -> None:
        """Wait until all is kept, and see to it that it is not too much.

        Args:
            haste: leave out what is not kept yet
        """
        if self._writer:
            self._given_up = self._given_up or haste
            self._queue.put(None)
            self._writer.join()
            self._writer = None
            if not self._given_up:
                with contextlib.suppress(OSError):
                    self._tidy()

    def _write_all(self) -> None:
        """Keep what comes, until there is no more"""
        while True:
            folder = self._queue.get()
            if folder is None:
                return
            try:
                if not self._given_up:
                    self._write(folder)
            except OSError as exc:
                self._given_up = True
                self.problem = (f"result cache '{self._folder}': {exc.strerror}: not all results "
                                'of this run are kept there')

    def _write(self, folder: str) -> None:
        """Keep one result"""
        files = read_result(folder)
        found = trace.unpack(files['trace'].data) if 'trace' in files else None
        if not found:
            return
        place = self._place(found.key)
        parts = {}
        for name, (data, mode) in files.items():
            blob = hashlib.sha256(data).hexdigest()
            self._put(self._object(blob), lambda data=data: zlib.compress(data))  # type: ignore[misc]
            parts[name] = (blob, mode)
        self._put(os.path.join(place, f'{found.reads.name}.reads'),
                  lambda: zlib.compress(found.reads.text))
        self._put(os.path.join(place, f'{found.reads.name}.{found.digest}'), lambda: _format(parts))

    def _put(self, path: str, make: Callable[[], bytes]) -> None:
        """Write a file by rename, unless it is there"""
        if os.path.exists(path):
            self._used(path)
            return
        temp = f'{path}.{socket.gethostname()}.{os.getpid()}.{next(self._numbers)}{_TEMP}'
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            put_file(temp, make())
            os.replace(temp, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temp)
            raise

    def _tidy(self) -> None:
        """Remove what was not used for longest, if there is too much"""
        stamp, now = os.path.join(self._folder, 'looked'), time.time()
        with contextlib.suppress(FileNotFoundError):
            if 0 <= now - os.stat(stamp).st_mtime < LOOK:
                return
        put_file(stamp, b'')
        files, total = [], 0
        for path, stat in _walk(self._folder):
            if path.endswith(_TEMP) and now - stat.st_mtime > ABANDONED:
                os.unlink(path)
            else:
                files.append((stat.st_mtime, path, stat.st_blocks * 512))
                total += stat.st_blocks * 512
        if total > self._limit:
            for _, path, size in sorted(files):
                if total <= self._limit * KEPT_PART:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                total -= size


def _walk(folder: str) -> Iterator[Tuple[str, os.stat_result]]:
    """Return all files of a cache"""
    for top in ('results', 'objects'):
        for where, _, names in os.walk(os.path.join(folder, top)):
            for name in names:
                path = os.path.join(where, name)
                with contextlib.suppress(FileNotFoundError):
                    yield path, os.stat(path)


def _unpack(path: str) -> Optional[bytes]:
    """Return what a packed file holds, None when it is damaged or not there"""
    try:
        with open(path, 'rb') as inf:
            unpacker = zlib.decompressobj()
            return unpacker.decompress(inf.read(), _MOST)
    except (OSError, zlib.error):
        return None


def _format(parts: Mapping[str, Tuple[str, int]]) -> bytes:
    """Return the text of a result, which tells whether it is whole"""
    body = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest().encode() + b'\n' + body


def _parse(data: bytes) -> Optional[Dict[str, Tuple[str, int]]]:
    """Return what such a text tells, None when it is damaged"""
    name, _, body = data.partition(b'\n')
    if hashlib.sha256(body).hexdigest().encode() != name:
        return None
    try:
        found = {str(key): (str(blob), int(mode)) for key, (blob, mode) in
                 json.loads(body).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    if not all(is_kept(key) and _SHA256.fullmatch(blob) for key, (blob, _) in found.items()):
        return None
    return found


def is_kept(name: str) -> bool:
    """Return whether a file of this name is a part of a result that others may take."""
    return name in _OURS or artifacts.is_result_file(name) or artifacts.is_image(name)


def read_result(folder: str) -> Dict[str, StoredFile]:
    """Return the files of a result, without those that tell of this run.

    Empty unless it is one of a good build and complete, before and after.
    """
    found: Dict[str, StoredFile] = {}
    try:
        before = os.stat(os.path.join(folder, 'done'))
        with open(os.path.join(folder, 'done'), 'rb') as inf:
            if inf.read(20).strip() != b'0':
                return {}
        for entry in list(os.scandir(folder)):
            if is_kept(entry.name) and entry.is_file(follow_symlinks=False):
                with open(entry.path, 'rb') as inf:
                    found[entry.name] = StoredFile(inf.read(), entry.stat().st_mode & 0o777)
        after = os.stat(os.path.join(folder, 'done'))
    except OSError:
        return {}
    same = (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    return found if same else {}


def parse_size(text: str) -> int:
    """Return the bytes that a text such as '20G' or '500M' names.

    Raises:
        ValueError: it makes no sense
    """
    match = re.fullmatch(r'\s*(\d+)\s*([KMGT]?)i?B?\s*', text, re.IGNORECASE)
    if not match or not int(match.group(1)):
        raise ValueError(f"'{text}' is no size: write it as 20G or 500M")
    return int(match.group(1)) << (10 * ' KMGT'.index(match.group(2).upper() or ' '))
