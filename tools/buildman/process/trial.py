# SPDX-License-Identifier: GPL-2.0+
"""Can programs be run where builds put theirs? A mount option may forbid it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time

# Another thread that starts something has our file open for a moment, too
TRIES = 50


def why_no_program(folder: str) -> str:
    """Return why a program in a folder cannot be run, '' when it can.

    Raises:
        OSError: nothing can be written there
    """
    path = os.path.join(folder, f'.try-{os.getpid()}')
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), 'wb') as outf:
            outf.write(b'#!/bin/sh\nexit 0\n')
        for _ in range(TRIES):
            try:
                subprocess.run([path], check=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            except subprocess.CalledProcessError as exc:
                return str(exc)
            except OSError as exc:
                if exc.errno != errno.ETXTBSY:
                    return exc.strerror or str(exc)
                time.sleep(.01)
            else:
                break
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    return ''
