# SPDX-License-Identifier: GPL-2.0+
"""The messages between the boss and its workers, and their form on the wire.

One JSON object a line. The boss writes `{"cmd": KIND, …}`, a worker writes
`BM> {"resp": KIND, …}`; whatever lacks the prefix is noise from the far side.
Each kind is one frozen dataclass, see `wire.messages`; no code outside this module sees
a raw dict.

Compatibility: a peer that tells no protocol version is an older buildman,
which knows neither the fields marked `extra` nor the kinds in `EXTRA_KINDS`.
`encode()` leaves both out for such a peer. In the other direction unknown
fields are ignored, a missing optional field has its default, and an unknown
kind is an `Unknown`, which is worth a line in the log and no more.

The peer is not trusted: decoding never raises, never recurses with the input
and needs memory in proportion to the line, which the reader bounds. The bounds
and the checks of single values are in `wire.fields`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any, Dict, Mapping, Tuple, Type, Union

from buildman.wire.fields import (
    FILES,
    MAX_LINE,
    MAX_TEXT,
    Bad,
    clean,
    free,
    pack,
    parse,
    unpack,
)
from buildman.wire.messages import (
    COMMANDS,
    LEGACY_VERSION,
    RESPONSES,
    BlobDone,
    BlobsMissing,
    BoardDone,
    BuildBoard,
    BuildBoards,
    BuildDone,
    BuildPrepare,
    BuildPrepareDone,
    BuildResult,
    BuildStarted,
    Cancel,
    Command,
    Configure,
    ConfigureDone,
    ErrorMsg,
    FilePiece,
    FinishBuild,
    Heartbeat,
    Malformed,
    Message,
    NeedBlobs,
    Ping,
    PutBlob,
    Quit,
    QuitAck,
    Ready,
    Response,
    Setup,
    SetupDone,
    Started,
    Unknown,
    WorktreeCreated,
    fill,
)

__all__ = [
    'COMMANDS',
    'LEGACY_VERSION',
    'RESPONSES',
    'BlobDone',
    'BlobsMissing',
    'BoardDone',
    'BuildBoard',
    'BuildBoards',
    'BuildDone',
    'BuildPrepare',
    'BuildPrepareDone',
    'BuildResult',
    'BuildStarted',
    'Cancel',
    'Command',
    'Configure',
    'ConfigureDone',
    'ErrorMsg',
    'FilePiece',
    'FinishBuild',
    'Heartbeat',
    'Malformed',
    'Message',
    'NeedBlobs',
    'Ping',
    'PutBlob',
    'Quit',
    'QuitAck',
    'Ready',
    'Response',
    'Setup',
    'SetupDone',
    'Started',
    'Unknown',
    'WorktreeCreated',
]

# Raised by one with each change that the other end has to know of
PROTOCOL_VERSION = 2

# The version from which on what is told of a board has its attempt
ATTEMPTS = 2

RESPONSE_PREFIX = 'BM> '

# Seconds between the heartbeats of our worker and the pings of our boss
HEARTBEAT_INTERVAL = 10.0

# stdout and stderr from so many characters on are sent compressed
PACK_FROM = 2048

# Kinds that a peer without a version does not know
EXTRA_KINDS = frozenset({'ping', 'cancel', 'need_blobs', 'put_blob', 'started', 'file_piece',
                         'board_done', 'blobs_missing', 'blob_done'})

_KIND: Dict[Type[Message], str] = {
    **{cls: kind for kind, cls in COMMANDS.items()},
    **{cls: kind for kind, cls in RESPONSES.items()}}


def kind_of(message: Message) -> str:
    """Return the name of the message's kind on the wire.

    Raises:
        KeyError: Unknown and Malformed are never sent
    """
    return _KIND[type(message)]


def encode(message: Message, version: int = PROTOCOL_VERSION) -> bytes:
    """Return the line to send, with its newline; responses with their prefix.

    Args:
        message: a Command or Response
        version: what the peer told of itself, 0 for nothing
    Returns:
        the line, or b'' when this peer does not know that kind
    Raises:
        ValueError: the line is over MAX_LINE and would not be read
    """
    kind = kind_of(message)
    if version < 1 and kind in EXTRA_KINDS:
        return b''
    response = isinstance(message, Response)
    obj: Dict[str, Any] = {'resp' if response else 'cmd': kind}
    for field in dataclasses.fields(message):  # type: ignore[arg-type]
        value = getattr(message, field.name)
        if field.metadata.get('extra') and (version < 1 or value is None):
            continue
        if (version >= 1 and isinstance(message, BuildResult) and isinstance(value, str)
                and len(value) >= PACK_FROM and field.name in ('stdout', 'stderr')):
            # Compressed; `z` and the name, which only a peer of ours reads
            obj['z' + field.name] = pack(clean(value).encode('utf-8'))
            continue
        obj[field.name] = field.metadata['codec'].encode(value)
    if version >= 1 and isinstance(message, BuildBoards):
        obj['boards'] = [json.loads(encode(brd)) for brd in message.boards]
    line = (RESPONSE_PREFIX if response else '') + json.dumps(obj) + '\n'
    if len(line) > MAX_LINE:
        raise ValueError(f"message '{kind}' has {len(line)} bytes, over {MAX_LINE}")
    return line.encode('ascii')


def as_dict(message: Message) -> Dict[str, Any]:
    """Return a message in the form of the wire, as callers of `boss` see it."""
    if isinstance(message, Unknown):
        return {'resp': message.kind}
    if isinstance(message, Malformed):
        return {'resp': 'error', 'msg': f'malformed message: {message.reason}'}
    out: Dict[str, Any] = {'resp' if isinstance(message, Response) else 'cmd': kind_of(message)}
    for field in dataclasses.fields(message):  # type: ignore[arg-type]
        value = getattr(message, field.name)
        out[field.name] = value if field.metadata['codec'] is FILES else (
            None if value is None else field.metadata['codec'].encode(value))
    return out


def as_received(msg: Message) -> Dict[str, Any]:
    """Return a message as it came: without the optional fields of ours that it lacks."""
    if isinstance(msg, Unknown):
        with contextlib.suppress(Bad):
            return dict(free(parse(msg.raw.partition('BM> ')[2] or msg.raw)))
    out = as_dict(msg)
    for field in dataclasses.fields(msg):  # type: ignore[arg-type]
        if field.metadata.get('extra') and not getattr(msg, field.name):
            del out[field.name]
    return out


def _about(obj: Mapping[str, Any]) -> Tuple[str, int]:
    """Return the board and commit that a bad message speaks of."""
    board = obj.get('board')
    upto = obj.get('commit_upto')
    return (clean(board)[:200] if isinstance(board, str) else '',
            upto if isinstance(upto, int) and not isinstance(upto, bool)
            and 0 <= upto < 1 << 31 else -1)


def _unpacked(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a result with the texts that came compressed."""
    out = dict(obj)
    for name in ('stdout', 'stderr'):
        if obj.get('z' + name) is not None:
            out[name] = unpack(obj['z' + name], MAX_TEXT).decode('utf-8', 'replace')
    return out


def _decode(line: Union[bytes, str, Mapping[str, Any]], key: str,
            registry: Mapping[str, Type[Message]]) -> Message:
    obj: Mapping[str, Any] = {}
    kind = ''
    try:
        obj = line if isinstance(line, Mapping) else parse(line)
        told = obj.get(key)
        if not isinstance(told, str):
            raise Bad(f"no '{key}'")
        kind = clean(told)[:80]
        cls = registry.get(told)
        if cls is None:
            raw = json.dumps(free(dict(obj))) if isinstance(line, Mapping) else line
            if isinstance(raw, bytes):
                raw = raw[:400].decode('utf-8', 'replace')
            return Unknown(kind, clean(raw)[:200])
        message: Message = fill(cls, _unpacked(obj) if cls is BuildResult else obj)
        return message
    except Bad as exc:
        board, upto = _about(obj)
        return Malformed(clean(str(exc))[:200], kind, board, upto)


def decode_command(line: Union[bytes, str, Mapping[str, Any]]) -> Message:
    """Return the Command on a line (or already parsed), Unknown or Malformed."""
    return _decode(line, 'cmd', COMMANDS)


def decode_response(line: Union[bytes, str, Mapping[str, Any]]) -> Message:
    """Return the Response on a line, Unknown or Malformed.

    The prefix may be there or have been taken off.
    """
    if isinstance(line, str):
        line = line.encode('utf-8', 'replace')
    if isinstance(line, bytes) and line.startswith(RESPONSE_PREFIX.encode()):
        line = line[len(RESPONSE_PREFIX):]
    return _decode(line, 'resp', RESPONSES)
