# SPDX-License-Identifier: GPL-2.0+
"""Files from outside the tree that a build takes (BL31, TEE, …), by content.

A file is named by the SHA-256 of its content, so it travels once, and two
files of the same name never meet. In the environment a value stands for such
files as `@blob:SHA256/NAME@`, which the far side replaces by a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import Dict, List, Mapping, Tuple

# What a value says in place of a path
_MARK = re.compile(r'@blob:([0-9a-f]{64})/([A-Za-z0-9_+,=%.-]{1,200})@')
_SHA256 = re.compile(r'[0-9a-f]{64}\Z')

# A larger file is not sent, bytes
MAX_BLOB = 1 << 30

# Variables that hold the path of a file, as U-Boot's documentation names them
PATH_VARIABLES = ('BL31', 'BL32', 'BL33', 'BL2', 'TEE', 'OPENSBI', 'SCP', 'ATF', 'EXT_DTB', 'TI_DM',
                  'ROCKCHIP_TPL', 'DDR', 'COREBOOT', 'PMUFW', 'ZYNQMP_BL31', 'RCW', 'FIP')


def collect(env: Mapping[str, str]) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Find the files that the environment of a build names.

    Args:
        env: the part of the environment that travels

    Returns:
        (the same with marks in place of paths, SHA-256 -> local path)
    """
    out: Dict[str, str] = {}
    files: Dict[str, str] = {}
    for name, value in env.items():
        path = os.path.abspath(value) if value else ''
        if name in PATH_VARIABLES and os.path.isfile(path) and (
                os.path.getsize(path) <= MAX_BLOB):
            sha = file_sha256(path)
            files[sha] = path
            base = re.sub(r'[^A-Za-z0-9_+,=%.-]', '_', os.path.basename(path))[:200]
            value = f'@blob:{sha}/{base}@'
        out[name] = value
    return out, files


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file's content, in hex.

    Raises:
        OSError: it cannot be read
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as inf:
        while True:
            data = inf.read(1 << 20)
            if not data:
                return digest.hexdigest()
            digest.update(data)


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
        def path(sha: str, name: str) -> str:
            if not self.has(sha):
                raise ValueError(f"the file '{name}' has not been sent")
            folder = os.path.join(self._path(sha), 'as')
            os.makedirs(folder, exist_ok=True)
            link = os.path.join(folder, name)
            with contextlib.suppress(FileExistsError):
                os.link(os.path.join(self._path(sha), 'data'), link)
            return link

        return _MARK.sub(lambda match: path(match.group(1), match.group(2)), value)
