# SPDX-License-Identifier: GPL-2.0+
"""Files as such: what all rooms do with them in one way."""

from __future__ import annotations

import hashlib


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
