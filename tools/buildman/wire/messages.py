# SPDX-License-Identifier: GPL-2.0+
"""The messages between the boss and its workers, and their form on the wire.

One JSON object a line. The boss writes `{"cmd": KIND, …}`, a worker writes
`BM> {"resp": KIND, …}`; whatever lacks the prefix is noise from the far side.
Each kind is one frozen dataclass; a field says how it is written and checked
(`wire.fields`), and whether an older peer knows it (`extra`). No code outside this
module sees a raw dict.

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
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type, Union

from buildman.wire.fields import (
    BOOL,
    COUNT,
    COUNTS,
    EXCEPTIONS,
    FILE_NAME,
    FILES,
    FREE,
    HASHES,
    INT,
    MAX_LINE,
    MAX_TEXT,
    NUMBER,
    PIECE,
    SHA256,
    SHA256S,
    SIZES,
    STRING_MAP,
    STRINGS,
    TEXT,
    Bad,
    Codec,
    clean,
    free,
    pack,
    parse,
    to_list,
    to_object,
    unpack,
)

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

# What a worker that tells no version speaks
LEGACY_VERSION = 0


def _need(codec: Codec) -> Any:
    """A field that has to be there."""
    return dataclasses.field(metadata={'codec': codec})


def _opt(codec: Codec, default: Any = None, factory: Any = None, extra: bool = False) -> Any:
    """A field that may be missing; `extra`: an older peer is not told."""
    meta = {'codec': codec, 'extra': extra}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def _extra(codec: Codec, default: Any = None, factory: Any = None) -> Any:
    return _opt(codec, default, factory, extra=True)


class Message:
    """Base of all that travels.

    What dataclass would write for each class (`repr=False, eq=False`), which
    takes as long as all the rest of the start of a worker.
    """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __repr__(self) -> str:
        values = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({values})'


class Command(Message):
    """From the boss to a worker."""


class Response(Message):
    """From a worker to the boss."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Unknown(Message):
    """A message of a kind that this version does not know.

    Attributes:
        kind: what it calls itself, cut to 80 characters
        raw: the start of the line, for the log
    """

    kind: str
    raw: str


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Malformed(Message):
    """A line that is no message.

    Attributes:
        reason: what is wrong with it, one line
        kind: kind that it claims to be, '' when that is not known
        board, commit_upto: what it speaks of, where that could be read: the
            board is still owed
    """

    reason: str
    kind: str = ''
    board: str = ''
    commit_upto: int = -1


# --- from the boss to a worker ---

@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Setup(Command):
    """Where the worker keeps its repository and work folders.

    Attributes:
        work_dir: folder
        version: protocol version of the boss; 0 when it tells none
        run: identifier of the run, the owner of the machine's lock
    """

    work_dir: str = _need(TEXT)
    version: int = _extra(COUNT, LEGACY_VERSION)
    run: str = _extra(TEXT, '')


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Configure(Command):
    """How to build.

    Attributes:
        settings: the choices, by the names that upstream uses
        toolchains: arch to full path of the compiler on that machine
        plan: what else a build is made of: `Settings.to_dict()`, toolchain
            prefixes, make flags, environment
        version: protocol version of the boss
    """

    settings: Mapping[str, Any] = _need(FREE)
    toolchains: Mapping[str, str] = _opt(STRING_MAP, factory=dict)
    plan: Mapping[str, Any] = _extra(FREE, factory=dict)
    version: int = _extra(COUNT, LEGACY_VERSION)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BuildPrepare(Command):
    """Make the worktrees for these commits; boards follow.

    Attributes:
        commits: hashes, oldest first; None for the source as it was pushed
        max_boards: boards at a time, 0 for as many as there are threads
        source: commit to check out where `commits` has None
        history: what git is to know besides the commits, see `origin.Past`
        version: protocol version of the boss
    """

    commits: Tuple[Optional[str], ...] = _need(HASHES)
    max_boards: int = _opt(COUNT, 0)
    source: str = _extra(TEXT, '')
    history: Mapping[str, Any] = _extra(FREE, factory=dict)
    version: int = _extra(COUNT, LEGACY_VERSION)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BuildBoard(Command):
    """Build one board.

    Attributes:
        board, arch: what to build
        commits: indexes still missing, ascending; None for all of them
        make_args: extra words for make
        toolchain: the fields of the `Toolchain` to use, on that machine;
            empty when `configure` told it by arch
        base, fragments: of a board of -X, see `Board`
        attempt: see `BoardJob`; comes back with all that is told of the board
    """

    board: str = _need(TEXT)
    arch: str = _opt(TEXT, '')
    commits: Optional[Tuple[int, ...]] = _extra(COUNTS, None)
    make_args: Tuple[str, ...] = _extra(STRINGS, ())
    toolchain: Mapping[str, str] = _extra(STRING_MAP, factory=dict)
    base: str = _extra(TEXT, '')
    fragments: Tuple[str, ...] = _extra(STRINGS, ())
    attempt: int = _extra(COUNT, 0)


def fill(cls: Type[Any], obj: Mapping[str, Any]) -> Any:
    """Make a message of a class from what came, field by field.

    Raises:
        Bad: a field is missing, or is not what it has to be
    """
    values: Dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value = obj.get(field.name)
        needed = (field.default is dataclasses.MISSING
                  and field.default_factory is dataclasses.MISSING)
        if value is None:
            if needed:
                raise Bad(f"no '{field.name}'")
            continue
        try:
            values[field.name] = field.metadata['codec'].decode(value)
        except Bad as exc:
            raise Bad(f"'{field.name}' is {exc}") from None
    return cls(**values)


def _encode_boards(boards: Tuple[BuildBoard, ...]) -> List[Dict[str, Any]]:
    return [{'board': brd.board, 'arch': brd.arch} for brd in boards]


def _decode_boards(value: Any) -> Tuple[BuildBoard, ...]:
    return tuple(fill(BuildBoard, to_object(item)) for item in to_list(value))


BOARDS = Codec(_encode_boards, _decode_boards)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BuildBoards(Command):
    """Build these boards at these commits, then say `build_done`."""

    boards: Tuple[BuildBoard, ...] = _need(BOARDS)
    commits: Tuple[Optional[str], ...] = _opt(HASHES, ())


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FinishBuild(Command):
    """No more boards come: finish those in hand, then say `build_done`."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Quit(Command):
    """End."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Ping(Command):
    """The boss is there."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Cancel(Command):
    """Another machine was quicker: stop building this board."""

    board: str = _need(TEXT)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class NeedBlobs(Command):
    """Which of these files from outside the tree are not there yet?"""

    sha256s: Tuple[str, ...] = _need(SHA256S)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PutBlob(Command):
    """A piece of a file from outside the tree (BL31, TEE, …), named by its content.

    Attributes:
        sha256: of the whole file
        offset: of this piece, in bytes
        data: the piece
        last: nothing follows
    """

    sha256: str = _need(SHA256)
    offset: int = _need(COUNT)
    data: bytes = _need(PIECE)
    last: bool = _need(BOOL)


# --- from a worker to the boss ---

@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Ready(Response):
    """First message of a worker.

    Attributes:
        nthreads: processors
        slots: boards that it builds at a time
        version: protocol version; 0 when it tells none
        heartbeat_interval: seconds between heartbeats; 0 when it tells none,
            then only silence for long counts as death
        pid: of the worker, 0 unknown
    """

    nthreads: int = _need(COUNT)
    slots: int = _opt(COUNT, 1)
    version: int = _extra(COUNT, LEGACY_VERSION)
    heartbeat_interval: float = _extra(NUMBER, 0.0)
    pid: int = _extra(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SetupDone(Response):
    """Answer to `setup`: the folders, as full paths."""

    work_dir: str = _need(TEXT)
    git_dir: str = _opt(TEXT, '')


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ConfigureDone(Response):
    """Answer to `configure`."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BuildStarted(Response):
    """First answer to `build_prepare`."""

    num_threads: int = _opt(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class WorktreeCreated(Response):
    """One slot's worktree is there."""

    thread: int = _opt(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BuildPrepareDone(Response):
    """All worktrees are there: boards may come."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Started(Response):
    """A slot took up this board at this commit."""

    board: str = _need(TEXT)
    commit_upto: int = _need(COUNT)
    attempt: int = _extra(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FilePiece(Response):
    """A piece of an image that is too large for its result; sent before it.

    Attributes:
        board, commit_upto: the result that it belongs to
        name: relative to the board's result folder
        offset: of this piece, in bytes
        data: the piece
        last: nothing follows
        size, sha256: of the whole file; sha256 may be '' before the last piece
        mode: permission bits
    """

    board: str = _need(TEXT)
    commit_upto: int = _need(COUNT)
    name: str = _need(FILE_NAME)
    offset: int = _need(COUNT)
    data: bytes = _need(PIECE)
    last: bool = _need(BOOL)
    size: int = _need(COUNT)
    sha256: str = _opt(TEXT, '')
    mode: int = _opt(COUNT, 0o644)
    attempt: int = _extra(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BuildResult(Response):
    """One board at one commit.

    Attributes:
        board, commit_upto, return_code, stdout, stderr: see `Outcome`
        sizes: text of the `sizes` file
        load_avg: load of the machine over the last minute
        files: the other small files, name to content
        seconds, scan_seconds, reconfigured, skipped: see `Outcome`
        infra, infra_kind: text and kind of the machine's failure, '' for none; an older
            worker tells the text alone
    """

    board: str = _need(TEXT)
    commit_upto: int = _need(COUNT)
    return_code: int = _need(INT)
    stdout: str = _opt(TEXT, '')
    stderr: str = _opt(TEXT, '')
    sizes: str = _opt(SIZES, '')
    load_avg: float = _opt(NUMBER, 0.0)
    files: Mapping[str, bytes] = _extra(FILES, factory=dict)
    seconds: float = _extra(NUMBER, 0.0)
    scan_seconds: float = _extra(NUMBER, 0.0)
    infra: str = _extra(TEXT, '')
    infra_kind: str = _extra(TEXT, '')
    reconfigured: bool = _extra(BOOL, False)
    skipped: bool = _extra(BOOL, False)
    attempt: int = _extra(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BoardDone(Response):
    """All results of this board are sent."""

    board: str = _need(TEXT)
    attempt: int = _extra(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BuildDone(Response):
    """Answer to `build_done` and `build_boards`."""

    exceptions: int = _opt(EXCEPTIONS, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class QuitAck(Response):
    """Last message of a worker.

    Attributes:
        cache_hits, cache_misses: objects that ccache had and had not during the
            run; both 0 when it was not used or does not tell
    """

    cache_hits: int = _extra(COUNT, 0)
    cache_misses: int = _extra(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Heartbeat(Response):
    """The worker lives; sent by a timer, whatever the builds do."""

    load_avg: float = _extra(NUMBER, 0.0)
    active: int = _extra(COUNT, 0)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ErrorMsg(Response):
    """Something went wrong that no result speaks of.

    Attributes:
        msg: one line
        board: board that it cost, '' for none
    """

    msg: str = _opt(TEXT, '')
    board: str = _extra(TEXT, '')


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BlobsMissing(Response):
    """Answer to `need_blobs`."""

    sha256s: Tuple[str, ...] = _need(SHA256S)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BlobDone(Response):
    """The file is complete and its content is what its name says."""

    sha256: str = _need(SHA256)


COMMANDS: Dict[str, Type[Command]] = {
    'setup': Setup,
    'configure': Configure,
    'build_prepare': BuildPrepare,
    'build_board': BuildBoard,
    'build_boards': BuildBoards,
    'build_done': FinishBuild,
    'quit': Quit,
    'ping': Ping,
    'cancel': Cancel,
    'need_blobs': NeedBlobs,
    'put_blob': PutBlob,
}

RESPONSES: Dict[str, Type[Response]] = {
    'ready': Ready,
    'setup_done': SetupDone,
    'configure_done': ConfigureDone,
    'build_started': BuildStarted,
    'worktree_created': WorktreeCreated,
    'build_prepare_done': BuildPrepareDone,
    'started': Started,
    'file_piece': FilePiece,
    'build_result': BuildResult,
    'board_done': BoardDone,
    'build_done': BuildDone,
    'quit_ack': QuitAck,
    'heartbeat': Heartbeat,
    'error': ErrorMsg,
    'blobs_missing': BlobsMissing,
    'blob_done': BlobDone,
}

_KIND: Dict[Type[Message], str] = {
    **{cls: kind for kind, cls in COMMANDS.items()},
    **{cls: kind for kind, cls in RESPONSES.items()}}


def kind_of(message: Message) -> str:
    """Return the name of the message's kind on the wire.

    Raises:
        KeyError: Unknown and Malformed are never sent
    """
    return _KIND[type(message)]


def kind_of_class(kind: Type[Message]) -> str:
    """Return the name on the wire of a kind of message that is sent."""
    return _KIND[kind]


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
