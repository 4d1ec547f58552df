# SPDX-License-Identifier: GPL-2.0+
"""What every machine of a run gets, and the files from outside the tree among it."""

from __future__ import annotations

import dataclasses
import io
import os
from typing import BinaryIO, Callable, Collection, List, Mapping, Tuple

from buildman.agent import lock
from buildman.boss import RemoteWorker
from buildman.core.plan import Plan, Toolchain
from buildman.remote import facts
from buildman.source.history import Part
from buildman.wire import messages

# Bytes of a file from outside the tree that travel in one message
BLOB_PIECE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Shipment:
    """What every machine of a run gets.

    Attributes:
        plan: what to build
        candidates, wanted: compilers to look for, see machine.compiler_spec()
        local: arch -> compiler of this machine
        tools: returns the versions of the tools here
        owner: of the locks of all machines, but for the run
        push: pushes the source to a machine that init was done on
        commits: hashes to be built there, oldest first
        part: returns what of the history goes along
        env: environment of the build, files as marks (see blobs)
        shown_env: values that results show instead of the paths there
        inputs: variables that the tree reads
        words: words for make that name files, each with what is sent instead
        files: SHA-256 -> file here
        texts: SHA-256 -> content of what is no file here
        log_dir: folder for logs
        stage_dir: folder for images that are under way
        heartbeat: seconds between the heartbeats of workers
    """

    plan: Plan
    candidates: Mapping[str, List[str]]
    wanted: Mapping[str, facts.Gcc]
    local: Mapping[str, Toolchain]
    tools: Callable[[], Mapping[str, str]]
    owner: lock.Owner
    push: Callable[[RemoteWorker], None]
    commits: Tuple[str, ...]
    part: Callable[[], Part]
    env: Mapping[str, str]
    shown_env: Mapping[str, str]
    inputs: Collection[str]
    words: Mapping[str, str]
    files: Mapping[str, str]
    texts: Mapping[str, bytes]
    log_dir: str
    stage_dir: str
    heartbeat: float = messages.HEARTBEAT_INTERVAL


def send_files(worker: RemoteWorker, files: Mapping[str, str], texts: Mapping[str, bytes]) -> None:
    """Send the files from outside the tree that a machine does not have yet.

    Args:
        worker: runs there, and has not been configured
        files: SHA-256 -> file here
        texts: SHA-256 -> content, of those that are no files

    Raises:
        BossError: the connection has ended, or it answers something else
        OSError: a file cannot be read
    """
    if not files and not texts:
        return
    worker.send(messages.Setup(worker.work_dir, messages.PROTOCOL_VERSION))
    worker.expect(messages.SetupDone)
    worker.send(messages.NeedBlobs((*files, *texts)))
    missing = worker.expect(messages.BlobsMissing)
    assert isinstance(missing, messages.BlobsMissing)
    for sha in missing.sha256s:
        if sha in texts:
            _send(worker, sha, io.BytesIO(texts[sha]), len(texts[sha]))
        elif sha in files:
            with open(files[sha], 'rb') as inf:
                _send(worker, sha, inf, os.path.getsize(files[sha]))


def _send(worker: RemoteWorker, sha: str, inf: BinaryIO, size: int) -> None:
    """Send a file in pieces, and wait until it is there"""
    offset = 0
    while True:
        data = inf.read(BLOB_PIECE)
        last = offset + len(data) >= size or not data
        worker.send(messages.PutBlob(sha, offset, data, last))
        offset += len(data)
        if last:
            break
    worker.expect(messages.BlobDone)
