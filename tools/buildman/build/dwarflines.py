# SPDX-License-Identifier: GPL-2.0+
"""Which lines of which sources gave code, from the line tables of ELF objects.

A compiler that is told `-g` leaves a program in `.debug_line` of each object
that, when it is run, makes a table: address, file, line. Its format is in
"DWARF Debugging Information Format", section 6.2, versions 2 to 5; that of ELF
in the System V ABI. Only files and lines are of interest here.

Decoded here rather than by readelf: what that prints differs from version to
version, and its short form (`--debug-dump=decodedline`) does not say which
folder the first file of a table is in when it is not the main one (DWARF 5).

That knows nothing of U-Boot. What is made of it is the file `lines` of a result, a line
for each source that gave code, in the order of their names::

    common/board_f.c: 118-121,124,126
    spl:common/spl/spl.c: 55,60-61

with ranges joined. Names are relative to the source; those of objects below `spl/` and
its like have the phase in front. What is not in the source (a compiler's own headers,
files that the build made) is left out.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

# Objects that hold others which are in the folder as well, and no code of their own
_JOINED = ('built-in.o',)

# A name is tried below these, see MakeJob.start_board()
_MAPPED_BUILD = './build/'
_MAPPED = './'

# Objects and sections that are larger than this are none of a boot loader's
MAX_SECTION = 256 << 20

# A line beyond this is none (a table that is damaged)
MAX_LINE = 1_000_000

# Section header types and flags, and a special section number
_SYMTAB, _RELA, _REL, _NOBITS = 2, 4, 9, 8
_COMPRESSED = 0x800
_ZLIB = 1

# Content types in the header of a table of version 5
_PATH, _DIRECTORY = 1, 2

# Forms of values that have a fixed length
_FIXED = {0x0b: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1e: 16, 0x17: 0}
_STRING, _STRP, _LINE_STRP, _UDATA, _BLOCK = 0x08, 0x0e, 0x1f, 0x0f, 0x09

# Opcodes of the standard that are more than a number of arguments to skip
_COPY, _ADVANCE_LINE, _SET_FILE = 1, 3, 4
_WITH_NUMBER = (_ADVANCE_LINE, _SET_FILE)

# Lines of sources: name as in the table, with its folder -> numbers
SourceLines = Dict[str, Set[int]]


class Damaged(ValueError):
    """An object makes no sense, or is of a kind that nobody has."""


class _Section:
    """One section of an object."""

    __slots__ = ('flags', 'info', 'kind', 'link', 'name', 'offset', 'size')

    def __init__(self, kind: int, flags: int, offset: int, size: int, link: int,
                 info: int) -> None:
        self.name = b''
        self.kind = kind
        self.flags = flags
        self.offset = offset
        self.size = size
        self.link = link
        self.info = info


class _Elf:
    """An ELF object in memory: its sections, their contents and relocations."""

    def __init__(self, data: bytes) -> None:
        """
        Args:
            data: the file

        Raises:
            Damaged, struct.error: it is no ELF file
        """
        self._data = data
        if data[:4] != b'\x7fELF' or data[4] not in (1, 2) or data[5] not in (1, 2):
            raise Damaged('no ELF file')
        self.wide = data[4] == 2
        self.order = '<' if data[5] == 1 else '>'
        if self.wide:
            start, = struct.unpack_from(self.order + 'Q', data, 0x28)
            step, count, names = struct.unpack_from(self.order + 'HHH', data, 0x3a)
            form = struct.Struct(self.order + '4xIQ8xQQII16x')
        else:
            start, = struct.unpack_from(self.order + 'I', data, 0x20)
            step, count, names = struct.unpack_from(self.order + 'HHH', data, 0x2e)
            form = struct.Struct(self.order + '4xII4xIIII8x')
        self.sections: List[_Section] = []
        if not start:
            return
        if not count:
            # More than 65280, as each function has several: the first one tells
            count, = struct.unpack_from(self.order + ('Q' if self.wide else 'I'), data,
                                        start + (32 if self.wide else 20))
        if count * max(step, form.size) > len(data):
            raise Damaged('more sections than bytes')
        offsets = [start + num * step for num in range(count)]
        self.sections = [_Section(*form.unpack_from(data, pos)) for pos in offsets]
        if names == 0xffff:
            names = self.sections[0].link
        table = self._raw(self.sections[names])
        for section, pos in zip(self.sections, offsets):
            start, = struct.unpack_from(self.order + 'I', data, pos)
            section.name = table[start:table.find(b'\0', start)]

    def find(self, name: bytes) -> List[int]:
        """Return the numbers of the sections that have a name"""
        return [num for num, section in enumerate(self.sections) if section.name == name]

    def _raw(self, section: _Section) -> bytes:
        """Return the bytes of a section as they are in the file"""
        if section.kind == _NOBITS:
            return b''
        return self._data[section.offset:section.offset + section.size]

    def content(self, num: int) -> bytes:
        """Return what a section holds, unpacked if need be.

        Raises:
            Damaged, zlib.error, struct.error: it cannot be
        """
        section = self.sections[num]
        raw = self._raw(section)
        if not section.flags & _COMPRESSED:
            return raw
        kind, = struct.unpack_from(self.order + 'I', raw)
        if kind != _ZLIB:
            raise Damaged('packed by something else than zlib')
        unpacker = zlib.decompressobj()
        out = unpacker.decompress(raw[24 if self.wide else 12:], MAX_SECTION)
        if unpacker.unconsumed_tail:
            raise Damaged('unpacks to too much')
        return out

    def relocations(self, num: int) -> Dict[int, int]:
        """Return what a linker would put at places of a section: offset to value.

        Only what an object has before it is linked to anything: value of the
        symbol and addend. The type does not matter, as it is that of a plain
        number wherever a string is referred to. Without an addend here (REL) it
        is in the place itself, and the value of the symbol is returned.
        """
        values: Dict[int, int] = {}
        for section in self.sections:
            if section.kind not in (_REL, _RELA) or section.info != num:
                continue
            symbols = self._symbol_values(section.link)
            rela = section.kind == _RELA
            size = (24 if rela else 16) if self.wide else (12 if rela else 8)
            form = struct.Struct(self.order + ('QQ' if self.wide else 'II')
                                 + ('' if not rela else 'q' if self.wide else 'i'))
            raw = self._raw(section)
            for pos in range(0, len(raw) - size + 1, size):
                offset, info, *addend = form.unpack_from(raw, pos)
                symbol = info >> (32 if self.wide else 8)
                if self.wide and self.machine == 8 and self.order == '<':
                    # MIPS with 64 bits has the symbol first, then four bytes of its own
                    symbol = info & 0xffffffff
                value = symbols[symbol] if symbol < len(symbols) else 0
                values[offset] = value + (addend[0] if addend else 0)
        return values

    @property
    def machine(self) -> int:
        """Number of the processor's kind"""
        machine: int = struct.unpack_from(self.order + 'H', self._data, 18)[0]
        return machine

    def has_addends(self, num: int) -> bool:
        """Return whether the relocations of a section hold what to add (RELA)"""
        return any(section.kind == _RELA and section.info == num for section in self.sections)

    def _symbol_values(self, num: int) -> List[int]:
        """Return the values of the symbols in a section"""
        section = self.sections[num]
        if section.kind != _SYMTAB:
            return []
        raw = self._raw(section)
        form = struct.Struct(self.order + ('8xQ8x' if self.wide else '4xI8x'))
        return [value for value, in form.iter_unpack(raw[:len(raw) // form.size * form.size])]


class _Header:
    """Reads the header of one table."""

    def __init__(self, elf: _Elf, num: int, data: bytes) -> None:
        self._elf = elf
        self._num = num
        self._data = data
        self._relocations: Optional[Dict[int, int]] = None
        self._strings: Dict[bytes, bytes] = {}
        self.pos = 0
        self.size = 4

    def number(self, size: int) -> int:
        """Read a number of so many bytes"""
        pos, self.pos = self.pos, self.pos + size
        if self.pos > len(self._data):
            raise Damaged('a table ends too early')
        return int.from_bytes(self._data[pos:self.pos],
                              'little' if self._elf.order == '<' else 'big')

    def uleb(self) -> int:
        """Read an unsigned LEB128"""
        out = shift = 0
        while True:
            byte = self.number(1)
            out |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return out

    def string(self) -> bytes:
        """Read bytes up to a NUL"""
        end = self._data.find(b'\0', self.pos)
        if end < 0:
            raise Damaged('a name has no end')
        pos, self.pos = self.pos, end + 1
        return self._data[pos:end]

    def _far_string(self, section: bytes) -> bytes:
        """Read where a string is in another section, and the string"""
        pos = self.pos
        offset = self.number(self.size)
        if self._relocations is None:
            self._relocations = self._elf.relocations(self._num)
        if pos in self._relocations:
            offset = self._relocations[pos] + (
                0 if self._elf.has_addends(self._num) else offset)
        if section not in self._strings:
            found = self._elf.find(section)
            self._strings[section] = self._elf.content(found[0]) if found else b''
        table = self._strings[section]
        end = table.find(b'\0', offset)
        if not 0 <= offset < len(table) or end < 0:
            raise Damaged('a name is outside of its section')
        return table[offset:end]

    def old_tables(self) -> List[bytes]:
        """Return the names of the files, from 1 on, of versions 2 to 4.

        A name without a folder is relative to where the compiler was run.
        """
        folders = [b'']
        while True:
            name = self.string()
            if not name:
                break
            folders.append(name)
        files = [b'']
        while True:
            name = self.string()
            if not name:
                return files
            folder = self.uleb()
            self.uleb()
            self.uleb()
            files.append(os.path.join(folders[folder] if folder < len(folders) else b'', name))

    def _value(self, form: int) -> 'Tuple[int, bytes]':
        """Read one value of a table of version 5; return it as a number and as a name"""
        if form in _FIXED:
            return self.number(_FIXED[form]), b''
        if form == _UDATA:
            return self.uleb(), b''
        if form == _BLOCK:
            self.number(self.uleb())
            return 0, b''
        if form == _STRING:
            return 0, self.string()
        if form == _LINE_STRP:
            return 0, self._far_string(b'.debug_line_str')
        if form == _STRP:
            return 0, self._far_string(b'.debug_str')
        raise Damaged(f'unknown form {form:#x}')

    def _entries(self) -> 'List[Tuple[bytes, int]]':
        """Read a table of version 5; return name and folder of each"""
        formats = [(self.uleb(), self.uleb()) for _ in range(self.number(1))]
        count = self.uleb()
        if count > len(self._data):
            raise Damaged('more names than bytes')
        out = []
        for _ in range(count):
            name, folder = b'', 0
            for content, form in formats:
                number, text = self._value(form)
                if content == _PATH:
                    name = text
                elif content == _DIRECTORY:
                    folder = number
            out.append((name, folder))
        return out

    def new_tables(self) -> List[bytes]:
        """Return the names of the files, from 0 on, of version 5.

        All have a folder, the first one being that in which the compiler was run.
        Others may be relative to it; they are left so, as in older versions.
        """
        folders = [name for name, _ in self._entries()]
        return [os.path.join(folders[folder] if folder < len(folders) else b'', name)
                for name, folder in self._entries()]


def _read_table(elf: _Elf, num: int, data: bytes, start: int, found: SourceLines) -> int:
    """Run the program of one table.

    Args:
        elf: the object
        num: number of the section
        data: what the section holds
        start: where the table begins
        found: gets what is found

    Returns:
        where the next one begins
    """
    head = _Header(elf, num, data)
    head.pos = start
    length = head.number(4)
    if length == 0xffffffff:
        head.size = 8
        length = head.number(8)
    end = min(head.pos + length, len(data))
    version = head.number(2)
    if not 2 <= version <= 5:
        return head.pos - 2 + length
    if version == 5:
        head.number(2)
    length = head.number(head.size)
    pos = head.pos + length
    head.number(3 if version >= 4 else 2)
    line_base = head.number(1)
    line_range = head.number(1)
    opcode_base = head.number(1)
    arguments = [0, *(head.number(1) for _ in range(opcode_base - 1))]
    if line_base > 127:
        line_base -= 256
    if not line_range:
        raise Damaged('a table without a range')
    names = head.new_tables() if version == 5 else head.old_tables()
    lines: List[Set[int]] = [set() for _ in names]
    _run(data, pos, end, arguments[:opcode_base],
         [line_base + (code - opcode_base) % line_range for code in range(256)], lines)
    for name, numbers in zip(names, lines):
        numbers.discard(0)
        if numbers and name:
            found.setdefault(os.fsdecode(name), set()).update(
                numbers if max(numbers) <= MAX_LINE and min(numbers) > 0
                else {val for val in numbers if 0 < val <= MAX_LINE})
    return end


def _run(data: bytes, pos: int, end: int, arguments: Sequence[int], steps: Sequence[int],
         lines: Sequence[Set[int]]) -> None:
    """Run a program; all is here, as this is done for each line of each object.

    Args:
        data: has it
        pos, end: where it begins and ends
        arguments: how many each of its standard codes has; those above are special
        steps: by how many lines each special code moves on
        lines: for each file, gets the numbers of the lines that gave code
    """
    opcode_base = len(arguments)
    nowhere: Set[int] = set()
    first = lines[1] if len(lines) > 1 else nowhere
    line, add = 1, first.add
    while pos < end:
        code = data[pos]
        pos += 1
        if code >= opcode_base:
            line += steps[code]
            add(line)
        elif code == 0:
            size = shift = 0
            while True:
                byte = data[pos]
                pos += 1
                size |= (byte & 0x7f) << shift
                if byte < 0x80:
                    break
                shift += 7
            if data[pos] == 1:
                # The end of a sequence is no line
                line, add = 1, first.add
            pos += size
        elif code == _COPY:
            add(line)
        elif code in _WITH_NUMBER:
            value = shift = 0
            while True:
                byte = data[pos]
                pos += 1
                value |= (byte & 0x7f) << shift
                shift += 7
                if byte < 0x80:
                    break
            if code == _ADVANCE_LINE:
                line += value - (1 << shift) if byte & 0x40 else value
            else:
                add = lines[value].add if value < len(lines) else nowhere.add
        elif code == 9 and arguments[9] == 1:
            pos += 2
        else:
            for _ in range(arguments[code]):
                while data[pos] >= 0x80:
                    pos += 1
                pos += 1


def read_object(data: bytes) -> SourceLines:
    """Return which lines gave code in an object.

    Args:
        data: the file

    Returns:
        names of sources, as the compiler was told them, each with its lines. A
        relative one is relative to where the compiler was run. Nothing for an
        object without line tables.

    Raises:
        Damaged: it is no ELF object, or makes no sense
    """
    found: SourceLines = {}
    try:
        elf = _Elf(data)
        for num, section in enumerate(elf.sections):
            if section.name == b'.debug_line' or section.name.startswith(b'.debug_line.text'):
                table = elf.content(num)
                pos = 0
                while pos < len(table):
                    pos = _read_table(elf, num, table, pos, found)
    except (struct.error, IndexError, OverflowError, zlib.error) as exc:
        raise Damaged(str(exc)) from exc
    return found


def format_numbers(numbers: Iterable[int]) -> str:
    """Return numbers in ascending order, neighbours joined: `1-3,7`."""
    out: List[str] = []
    first = last = -1
    for number in [*sorted(numbers), -1]:
        if first >= 0 and number == last + 1:
            last = number
            continue
        if first >= 0:
            out.append(str(first) if first == last else f'{first}-{last}')
        first = last = number
    return ','.join(out)


class _Resolver:
    """Finds out which file of the source a name in a line table means."""

    def __init__(self, build_dir: str, source_dir: str) -> None:
        self._build = build_dir
        self._source = source_dir
        self._root = os.path.realpath(source_dir) + os.sep
        real_build = os.path.realpath(build_dir) + os.sep
        # Built in the source: its files are sources all the same
        self._made = '' if self._root.startswith(real_build) else real_build
        self._known: Dict[str, Optional[str]] = {}

    def find(self, name: str) -> Optional[str]:
        """Return a file's name relative to the source; None for one that is not in it.

        Args:
            name: as the compiler was told it, or as environment.hide_folders() has
                changed it: `./build` for the build folder, else `.` for the
                source; a relative one is relative to the build folder
        """
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> Optional[str]:
        places = [os.path.join(self._build, name)]
        if name.startswith(_MAPPED):
            places.insert(0, os.path.join(self._source, name))
            if name.startswith(_MAPPED_BUILD):
                places.insert(0, os.path.join(self._build, name[len(_MAPPED_BUILD):]))
        for place in places:
            # Links lead to sources: include/asm/arch in a build folder is one
            path = os.path.realpath(place)
            if os.path.isfile(path):
                inside = path.startswith(self._root) and not (
                    self._made and path.startswith(self._made))
                return path[len(self._root):] if inside else None
        return None


def scan(build_dir: str, source_dir: str, phases: Iterable[str]) -> bytes:
    """Return what the file `lines` is to hold for a finished build.

    An object without line tables, or that makes no sense, adds nothing.

    Args:
        build_dir: build folder, in which compilers were run
        source_dir: source that was built
        phases: folders of the build folder that hold the objects of a phase
    """
    resolver = _Resolver(build_dir, source_dir)
    found: Dict[str, Set[int]] = {}
    for folder, below, names in os.walk(build_dir):
        # Slots and repositories, when that is the source or the output folder
        below[:] = [name for name in below if not name.startswith('.')]
        phase = os.path.relpath(folder, build_dir).split(os.sep)[0]
        prefix = f'{phase}:' if phase in phases else ''
        for name in names:
            if not name.endswith('.o') or name in _JOINED:
                continue
            for source, numbers in _read_file(os.path.join(folder, name)).items():
                path = resolver.find(source)
                if path is not None:
                    found.setdefault(prefix + path, set()).update(numbers)
    return ''.join(f'{key}: {format_numbers(found[key])}\n' for key in sorted(found)).encode(
        'utf-8', 'surrogateescape')


def _read_file(path: str) -> SourceLines:
    """Return the lines of one object"""
    try:
        with open(path, 'rb') as inf:
            return read_object(inf.read())
    except (OSError, Damaged):
        return {}
