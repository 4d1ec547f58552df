# SPDX-License-Identifier: GPL-2.0+
"""Unpacks an archive that a stranger may have made, into one folder only.

Python's own filter for this ('data', in tarfile) came after 3.9, so the rules
are spelled out here and hold for all versions.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib

from buildman.core.errors import SetupError


def _check_member(member: tarfile.TarInfo, folder: str) -> None:
    """Make sure that unpacking a member touches nothing outside of `folder`.

    Where links lead is looked up on the disk, as earlier members made it.

    Raises:
        SetupError: it would, or it is not a file, folder or link
    """
    def inside(path: str) -> bool:
        real = os.path.realpath(path)
        return real == folder or real.startswith(folder + os.sep)

    def refuse(why: str) -> SetupError:
        return SetupError(f'refused to unpack {member.name!r}: {why}')

    parts = member.name.split('/')
    if os.path.isabs(member.name) or '..' in parts:
        raise refuse('it lies outside of the archive')
    path = os.path.join(folder, member.name)
    if not inside(os.path.dirname(path)) or (not member.issym() and not inside(path)):
        raise refuse('it lies outside of the archive')
    if member.issym():
        if os.path.isabs(member.linkname) or not inside(
                os.path.join(os.path.dirname(path), member.linkname)):
            raise refuse(f'it is a link to {member.linkname!r}')
    elif member.islnk():
        if os.path.isabs(member.linkname) or '..' in member.linkname.split('/') or not inside(
                os.path.join(folder, member.linkname)):
            raise refuse(f'it is a link to {member.linkname!r}')
    elif not member.isfile() and not member.isdir():
        raise refuse('it is a special file')


def unpack(path: str, folder: str) -> None:
    """Unpack an archive into a folder, and nowhere else.

    Raises:
        SetupError: it is broken, or a member would end up elsewhere
        OSError: the disk refuses
    """
    folder = os.path.realpath(folder)
    # Python from 3.12 on warns without a filter; older ones have none
    how = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                _check_member(member, folder)
                # Neither set-uid, nor a folder that cannot be written into
                member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o400)
                member.uid, member.gid = os.getuid(), os.getgid()
                member.uname = member.gname = ''
                tar.extract(member, folder, **how)  # type: ignore[arg-type]
            # The sums of the compressed data are only checked at its end
            while tar.fileobj and tar.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, KeyError) as exc:
        raise SetupError(f"cannot unpack '{os.path.basename(path)}': {exc}") from exc
