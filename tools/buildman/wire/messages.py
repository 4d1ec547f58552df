# SPDX-License-Identifier: GPL-2.0+
"""The kinds of messages between the boss and its workers.

Each kind is one frozen dataclass; a field says how it is written and checked
(`wire.fields`), and whether an older peer knows it (`extra`). Used as
`protocol.NAME`; `wire.codec` puts them on the wire.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

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
    to_list,
    to_object,
)

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
        source: commit to check out where `source.commits` has None
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
