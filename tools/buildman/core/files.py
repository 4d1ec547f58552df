# SPDX-License-Identifier: GPL-2.0+
"""Files as such: what all rooms do with them in one way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil


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


def put_file(path: str, data: bytes) -> None:
    """Write a whole file, in place.

    os.open rather than open: a result is some 16 files, and there is one thread
    that all results pass through.
    """
    fdes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fdes, view):]
    finally:
        os.close(fdes)


def replace_file(path: str, data: bytes) -> None:
    """Write a file that nobody else writes, by rename, so that nobody reads a part of it.

    Raises:
        OSError: it cannot be written
    """
    put_file(path + '.new', data)
    os.replace(path + '.new', path)


def replace_text(path: str, text: str, mode: int) -> None:
    """Write a file that others may write, too, by rename: it is whole, theirs or ours.

    Args:
        path: of the file; a link is replaced
        text: what it is to hold, in UTF-8
        mode: its permissions

    Raises:
        OSError: it cannot be written; nothing is left behind
    """
    # Seldom needed, and slow to load
    import tempfile
    folder, name = os.path.split(path)
    fdesc, temp = tempfile.mkstemp(prefix=f'.{name}.', dir=folder or '.')
    try:
        with open(fdesc, 'w', encoding='utf-8') as outf:
            outf.write(text)
        os.chmod(temp, mode)
        os.replace(temp, path)
    except OSError:
        os.unlink(temp)
        raise


def move_folder(old: str, new: str, temp: str) -> None:
    """Give a folder another name; there is a whole one at any time.

    An overlay (of a container, say) cannot rename a folder of its lower layer. It is
    copied then.

    Args:
        old, new: paths
        temp: path on the same file system for a copy that is under way; what is there
            is removed

    Raises:
        OSError: it cannot be done
    """
    try:
        os.rename(old, new)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        shutil.rmtree(temp, ignore_errors=True)
        shutil.copytree(old, temp, symlinks=True)
        os.rename(temp, new)
        shutil.rmtree(old)


def clear_way(path: str) -> None:
    """Remove what lies at a path, if anything: a file, a link or a folder with all in it.

    Folders of ours may have lost their permissions.

    Raises:
        OSError: it cannot be removed
    """
    if os.path.isdir(path) and not os.path.islink(path):
        try:
            shutil.rmtree(path)
        except PermissionError:
            os.chmod(path, 0o700)
            for folder, names, _ in os.walk(path):
                for name in names:
                    if not os.path.islink(os.path.join(folder, name)):
                        os.chmod(os.path.join(folder, name), 0o700)
            shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def clear_non_folder(path: str) -> None:
    """Remove what lies at a path if it cannot be a folder.

    A link that leads nowhere stays: somebody made it, and its end may come back.

    Raises:
        OSError: it cannot be removed
    """
    if os.path.isfile(path):
        os.unlink(path)
