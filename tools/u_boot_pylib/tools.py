# SPDX-License-Identifier: GPL-2.0+
"""Reading and writing whole files."""

from __future__ import annotations

from typing import Any, Union


def read_file(fname: str, binary: bool = True) -> Any:
    """Return the content of a file: bytes, or UTF-8 text if not `binary`.

    Raises:
        OSError: the file cannot be read
        UnicodeDecodeError: it is not UTF-8, and text was asked for
    """
    if binary:
        with open(fname, 'rb') as inf:
            return inf.read()
    with open(fname, encoding='utf-8') as textf:
        return textf.read()


def write_file(fname: str, data: Union[str, bytes], binary: bool = True) -> None:
    """Write `data` as the content of a file; text is written as UTF-8.

    Args:
        fname: file to write
        data: what to write; text is also taken when `binary`
        binary: leave line ends alone

    Raises:
        OSError: the file cannot be written
    """
    if isinstance(data, bytes):
        with open(fname, 'wb') as outf:
            outf.write(data)
    else:
        with open(fname, 'w', encoding='utf-8', newline='' if binary else None) as textf:
            textf.write(data)
