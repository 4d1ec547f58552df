# SPDX-License-Identifier: GPL-2.0+
"""What came out of a build, as messages: its images in pieces, then the result."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Callable

from buildman.build import artifacts
from buildman.core.outcome import Failure, FailureKind, Outcome
from buildman.wire import messages

# Bytes of an image that travel in one message
PIECE_SIZE = 1 << 20

Send = Callable[[messages.Message], None]


def send_result(send: Send, outcome: Outcome, attempt: int, with_images: bool) -> None:
    """Send a result, its images first; they are removed here.

    Args:
        send: sends a message
        outcome: what came out
        attempt: see `BoardJob`
        with_images: the boss knows what a piece of an image is
    """
    infra = outcome.infra
    if with_images:
        try:
            for name, path in outcome.images.items():
                _send_image(send, outcome, attempt, name, path)
        except OSError as exc:
            infra = infra or Failure(FailureKind.NO_RESULT,
                                     f'an image cannot be read: {exc.strerror}')
    outcome.drop_images()
    result = messages.BuildResult(
        board=outcome.target, commit_upto=outcome.commit_upto,
        return_code=outcome.return_code, stdout=outcome.stdout,
        stderr=outcome.stderr, sizes=outcome.sizes, load_avg=os.getloadavg()[0],
        files=outcome.files, seconds=outcome.seconds,
        infra=infra.text if infra else '', infra_kind=infra.kind.value if infra else '',
        scan_seconds=outcome.scan_seconds,
        reconfigured=outcome.reconfigured, skipped=outcome.skipped, attempt=attempt)
    try:
        send(result)
    except ValueError as exc:
        # Files without bound, of a build that has gone mad
        send(dataclasses.replace(result, files={}, infra=str(exc),
                                 infra_kind=FailureKind.NO_RESULT.value))


def _send_image(send: Send, outcome: Outcome, attempt: int, name: str, path: str) -> None:
    """Send one image in pieces; of one that nobody takes, how large it is"""
    stat = os.stat(path)
    if stat.st_size > artifacts.MAX_IMAGE:
        send(messages.FilePiece(outcome.target, outcome.commit_upto, name, 0, b'', True,
                             stat.st_size, attempt=attempt))
        return
    digest = hashlib.sha256()
    offset = 0
    with open(path, 'rb') as inf:
        while True:
            data = inf.read(PIECE_SIZE)
            digest.update(data)
            last = offset + len(data) >= stat.st_size or not data
            send(messages.FilePiece(
                outcome.target, outcome.commit_upto, name, offset, data, last,
                stat.st_size, digest.hexdigest() if last else '', stat.st_mode & 0o777,
                attempt))
            offset += len(data)
            if last:
                return
