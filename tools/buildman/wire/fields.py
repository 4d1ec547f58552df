# SPDX-License-Identifier: GPL-2.0+
"""How single values and lines are written to JSON and checked when read.

Below `wire.messages`: the bounds, one codec for each type of field, and the parsing
of a line from a peer that is not trusted.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Tuple, Union

from buildman.core.text import plain

# Bounds on what is accepted, in bytes unless said otherwise
MAX_LINE = 64 << 20
MAX_FILE = 32 << 20             # one small file of a result, unpacked
MAX_FILES_TOTAL = 64 << 20      # all of them together, unpacked
MAX_FILES = 200                 # number of them
MAX_TEXT = 32 << 20             # stdout or stderr of a board, characters
MAX_PIECE = 4 << 20             # one piece of a large file, unpacked
MAX_DEPTH = 20                  # nesting of free-form objects
MAX_TOKENS = 400_000            # brackets, commas and quotes of a long line
NOISE_LINE = 1000               # characters of a line for people that are kept
SMALL_LINE = 64 << 10           # lines up to this are not looked at beforehand

_NAME = re.compile(r'[A-Za-z0-9_+,=@%.-]{1,200}\Z')
_SHA256 = re.compile(r'[0-9a-f]{64}\Z')
_SURROGATE = re.compile('[\ud800-\udfff]')


class Bad(Exception):
    """A value that is not what its field takes."""


class Codec(NamedTuple):
    """How one type of field is written to JSON and checked when read."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def clean(text: str) -> str:
    """Return the text with lone surrogates replaced, so that it can be written."""
    if text.isascii():
        return text
    return _SURROGATE.sub('\ufffd', text)


def harmless(data: Union[bytes, str], limit: int = NOISE_LINE) -> str:
    """Return text from a far side in a form that cannot harm a terminal.

    Escape sequences and control characters go, except tab and newline; bad
    UTF-8 is replaced; the rest is cut to `limit` characters.
    """
    # Cut first, with room for what is taken out: the input may be huge
    data = data[:limit * 4]
    text = data.decode('utf-8', 'replace') if isinstance(data, bytes) else data
    return clean(plain(text))[:limit]


def safe_name(name: str) -> bool:
    """Tell whether a name from the far side stays below the folder it is put in.

    It is relative, of plain parts with '/' between them, and none of these leads up. Which
    files a result may have at all is told by `build.artifacts`.
    """
    return len(name) <= 400 and all(
        _NAME.match(part) and part not in ('.', '..') for part in name.split('/'))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Bad('not a string')
    if len(value) > MAX_TEXT:
        raise Bad('too long')
    return clean(value)


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Bad('not an integer')
    if abs(value) >= 1 << 53:
        raise Bad('out of range')
    return value


def _count(value: Any) -> int:
    if _integer(value) < 0:
        raise Bad('negative')
    return int(value)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise Bad('not a number')
    if isinstance(value, int):
        _integer(value)
    if not math.isfinite(value):
        raise Bad('not finite')
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Bad('not true or false')
    return value


def to_list(value: Any) -> List[Any]:
    """Return a value that has to be a list, else raise Bad."""
    if not isinstance(value, list):
        raise Bad('not a list')
    return value


def to_object(value: Any) -> Dict[str, Any]:
    """Return a value that has to be an object of JSON, else raise Bad."""
    if not isinstance(value, dict):
        raise Bad('not an object')
    return value


def _strings(value: Any) -> Tuple[str, ...]:
    return tuple(_text(item) for item in to_list(value))


def _hashes(value: Any) -> Tuple[Optional[str], ...]:
    return tuple(None if item is None else _text(item) for item in to_list(value))


def _counts(value: Any) -> Tuple[int, ...]:
    return tuple(_count(item) for item in to_list(value))


def _string_map(value: Any) -> Dict[str, str]:
    return {clean(key): _text(val) for key, val in to_object(value).items()}


def free(value: Any, depth: int = 0) -> Any:
    """Check a free-form value: bounded depth, no lone surrogates."""
    if depth > MAX_DEPTH:
        raise Bad('nested too deeply')
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [free(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean(key): free(val, depth + 1) for key, val in value.items()}
    return value


def _free_object(value: Any) -> Dict[str, Any]:
    out: Dict[str, Any] = free(to_object(value))
    return out


def _raw_sizes(value: Any) -> str:
    """The sizes travel as `{"raw": text}`, or `{}` when there are none."""
    raw = to_object(value).get('raw')
    return '' if raw is None else _text(raw)


def _sha256(value: Any) -> str:
    if not _SHA256.match(_text(value)):
        raise Bad('not a SHA-256')
    return str(value)


def _sha256s(value: Any) -> Tuple[str, ...]:
    return tuple(_sha256(item) for item in to_list(value))


def _file_name(value: Any) -> str:
    if not safe_name(_text(value)):
        raise Bad('not a plain relative file name')
    return str(value)


def _exceptions(value: Any) -> int:
    """Number of builds that ended in an exception; a list counts its items."""
    return len(value) if isinstance(value, list) else _count(value)


def pack(data: bytes) -> str:
    """Return bytes as text for JSON, compressed; see unpack()."""
    return base64.b64encode(zlib.compress(data, 6)).decode('ascii')


def unpack(value: Any, limit: int) -> bytes:
    """Return what pack() was given.

    Raises:
        Bad: it is damaged, or over `limit` bytes
    """
    if not isinstance(value, str):
        raise Bad('not a string')
    try:
        packed = base64.b64decode(value, validate=True)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, limit + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise Bad('not base64 of zlib data') from None
    if len(data) > limit:
        raise Bad(f'over {limit} bytes')
    if not unpacker.eof:
        raise Bad('cut short')
    return data


def _pack_files(files: Mapping[str, bytes]) -> Dict[str, str]:
    return {name: pack(data) for name, data in files.items()}


def _unpack_files(value: Any) -> Dict[str, bytes]:
    packed = to_object(value)
    if len(packed) > MAX_FILES:
        raise Bad(f'over {MAX_FILES} files')
    out: Dict[str, bytes] = {}
    left = MAX_FILES_TOTAL
    for name, data in packed.items():
        out[_file_name(name)] = unpack(data, min(left, MAX_FILE))
        left -= len(out[name])
    return out


TEXT = Codec(_same, _text)
INT = Codec(_same, _integer)
COUNT = Codec(_same, _count)
NUMBER = Codec(_same, _number)
BOOL = Codec(_same, _boolean)
STRINGS = Codec(list, _strings)
HASHES = Codec(list, _hashes)
COUNTS = Codec(list, _counts)
STRING_MAP = Codec(dict, _string_map)
FREE = Codec(dict, _free_object)
SIZES = Codec(lambda text: {'raw': text} if text else {}, _raw_sizes)
SHA256 = Codec(_same, _sha256)
SHA256S = Codec(list, _sha256s)
FILE_NAME = Codec(_same, _file_name)
EXCEPTIONS = Codec(_same, _exceptions)
FILES = Codec(_pack_files, _unpack_files)
PIECE = Codec(pack, lambda value: unpack(value, MAX_PIECE))


def _parse_int(text: str) -> int:
    # A number of a million digits would take minutes to read
    if len(text) > 20:
        raise Bad('a number is too long')
    return int(text)


def _refuse_constant(text: str) -> NoReturn:
    raise Bad(f'{text} is not JSON')


def _check_structure(line: bytes) -> None:
    """Refuse a long line that would unpack to far more memory than its length."""
    bare = line.replace(b'\\\\', b'').replace(b'\\"', b'')
    if bare.count(b'"') > MAX_TOKENS:
        raise Bad('too many strings')
    outside = b''.join(bare.split(b'"')[::2])
    if sum(outside.count(char) for char in (b'[', b'{', b',', b':')) > MAX_TOKENS:
        raise Bad('too many values')


def parse(line: Union[bytes, str]) -> Dict[str, Any]:
    """Return the object on a line.

    Raises:
        Bad: there is none
    """
    if len(line) > MAX_LINE:
        raise Bad(f'{len(line)} bytes, over {MAX_LINE}')
    if isinstance(line, str):
        line = line.encode('utf-8', 'replace')
    if len(line) > SMALL_LINE:
        _check_structure(line)
    try:
        obj = json.loads(line.decode('utf-8', 'replace'), parse_int=_parse_int,
                         parse_constant=_refuse_constant)
    except ValueError as exc:
        raise Bad(f'not JSON: {exc}') from None
    except RecursionError:
        raise Bad('nested too deeply') from None
    if not isinstance(obj, dict):
        raise Bad('not an object')
    return obj
