# SPDX-License-Identifier: GPL-2.0+
"""Picks the files of a result out of a finished build folder."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import math
import os
import re
import shutil
import subprocess
from typing import Container, Dict, List, Mapping, Sequence, Tuple

from buildman.core.outcome import TRIES
from buildman.process import commands

# Phases of U-Boot that have a folder and an ELF image of their own
PHASES = ('spl', 'tpl', 'vpl')

# Files that hold the configuration, below the build folder, and their name in
# the result tree (all of them are made by U-Boot's Makefile)
CONFIG_FILES = (
    ('.config', '.config'),
    ('include/generated/autoconf.h', 'autoconf.h'),
    ('include/autoconf.mk', 'autoconf.mk'),
    ('u-boot.cfg', 'u-boot.cfg'),
    ('spl/u-boot.cfg', 'u-boot-spl.cfg'),
    ('tpl/u-boot.cfg', 'u-boot-tpl.cfg'),
    ('vpl/u-boot.cfg', 'u-boot-vpl.cfg'),
    ('spl/include/autoconf.mk', 'autoconf-spl.mk'),
    ('tpl/include/autoconf.mk', 'autoconf-tpl.mk'),
    ('vpl/include/autoconf.mk', 'autoconf-vpl.mk'),
)

# What -k keeps, as patterns below the build folder
IMAGE_PATTERNS = (
    'u-boot*', '*.map', 'MLO', 'SPL', '*.bin', '*.dtb', '*.img', '*.rom', '*.itb',
    '*.elf', '*.imx', '*.kwb', '*.sb', '*.fit', 'idbloader*',
    'spl/u-boot-spl*', 'tpl/u-boot-tpl*', 'vpl/u-boot-vpl*',
)
IMAGE_FOLDERS = ('spl', 'tpl', 'vpl')

# Intermediate files that match the patterns above but are of no use to anybody
_NOT_IMAGES = ('*.cmd', '*.o', '*.d', '*.su', '*.tmp')

# Where the default environment may be, in this order
ENV_OBJECTS = ('env/common.o', 'env/built-in.o', 'env/built-in.a')

# What tells that a file was written to: modification time, inode and size
Stamp = Tuple[int, int, int]

# Where the environment is put for a moment, below the build folder
_ENV_FILE = '.buildman-env'

# Seconds after which one of the binutils hangs
TOOL_TIME = 300

# The format in what `objdump -h` prints
_FORMAT = re.compile(rb'file format ([\w.-]+)')

# A symbol that has a size in what `nm --print-size` prints: address, size, kind, name, which
# may be none
_SYMBOL = re.compile(rb'^([0-9a-f]+) ([0-9a-f]+) (\S) (.*)$', re.MULTILINE)

# One section in what `objdump -h` prints: number, name, size; flags below
_SECTION = re.compile(
    rb'^ *(\d+) (\S+) +([0-9a-f]{8,}) .*\n +([A-Z][A-Z_, ]*[A-Z])(?=[^\n]*\n)', re.MULTILINE)


# Bytes of one image that are taken from another machine
MAX_IMAGE = 2 << 30

# Files of a result that are neither text of ours nor images, as patterns
_RESULT_FILES = ('toolchain', 'out-cmd', 'out-env', 'uboot.env', 'lines', 'trace', TRIES,
                 *(name for _, name in CONFIG_FILES),
                 *(f'{stem}.{end}' for stem in ('u-boot', *(f'{p}-u-boot-{p}' for p in PHASES))
                   for end in ('sizes', 'objdump')))


def is_result_file(name: str) -> bool:
    """Return whether a result may hold a file of this name, for what a machine sends."""
    return name in _RESULT_FILES


def is_image(name: str) -> bool:
    """Return whether -k keeps files of this name, for what a machine sends."""
    if '/' in name or name.startswith('.') or is_result_file(name) or name in (
            'done', 'log', 'err', 'sizes', 'host', 'settings'):
        return False
    return any(fnmatch.fnmatchcase(name, pattern.rpartition('/')[2])
               for pattern in IMAGE_PATTERNS)


def elf_images(build_dir: str, stale: Container[str] = ()) -> List[str]:
    """Return the ELF images that a build left, below its folder, main one first.

    Args:
        build_dir: build folder
        stale: files below it that are of an earlier build
    """
    names = ['u-boot'] + [f'{phase}/u-boot-{phase}' for phase in PHASES]
    return [name for name in names
            if name not in stale and os.path.exists(os.path.join(build_dir, name))]


def _image_paths(build_dir: str) -> List[str]:
    """Return the files that -k keeps, below the build folder"""
    found: List[str] = []
    for folder in ('', *IMAGE_FOLDERS):
        try:
            entries = sorted(entry.name for entry in os.scandir(
                os.path.join(build_dir, folder)) if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in entries:
            path = f'{folder}/{name}' if folder else name
            if any(fnmatch.fnmatchcase(path, pat) for pat in IMAGE_PATTERNS) and not any(
                    fnmatch.fnmatchcase(name, pat) for pat in _NOT_IMAGES) and (
                        not name.startswith('.')):
                found.append(path)
    return found


def stamps(build_dir: str) -> Dict[str, Stamp]:
    """Return what tells later whether a build has written to a file.

    Args:
        build_dir: build folder

    Returns:
        path below it -> stamp, for all images that there are, and what the
        environment is taken from
    """
    found: Dict[str, Stamp] = {}
    for path in (*_image_paths(build_dir), *ENV_OBJECTS):
        with contextlib.suppress(OSError):
            stat = os.stat(os.path.join(build_dir, path))
            found[path] = stat.st_mtime_ns, stat.st_ino, stat.st_size
    return found


def _tool(argv: Sequence[str], build_dir: str, env: Mapping[str, str]) -> bytes:
    """Run one of the binutils.

    Returns:
        what it printed, b'' when it failed or does not exist: a board with a
        format that binutils cannot read still has a verdict
    """
    try:
        done = commands.run(argv, TOOL_TIME, env=env, cwd=build_dir, max_output=math.inf)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return b''
    return done.out if done.returncode == 0 else b''


class ElfReader:
    """Measures the ELF images of the builds in one folder.

    An image that is the same as at the build before, as most are in a series of
    reproducible builds, is not looked at again.
    """

    def __init__(self) -> None:
        # By image: what it was like and who was asked, and what was said
        self._last: Dict[str, Tuple[Tuple[str, bytes], Tuple[bytes, bytes]]] = {}

    def read(self, build_dir: str, cross: str, env: Mapping[str, str],
             stale: Container[str] = ()) -> Tuple[str, Dict[str, bytes]]:
        """Measure what a build has left.

        Args:
            build_dir: build folder
            cross: prefix of the binutils, may have a folder
            env: environment to run them in
            stale: files below the folder that are of an earlier build

        Returns:
            (text for the `sizes` file, the .sizes and .objdump files)
        """
        files: Dict[str, bytes] = {}
        lines: List[str] = []
        for image in elf_images(build_dir, stale):
            stem = image.replace('/', '-')
            key = cross, _digest(os.path.join(build_dir, image))
            last = self._last.get(image)
            if not last or last[0] != key:
                last = key, _ask_binutils(image, build_dir, cross, env)
            dump, names = last[1]
            if dump and key[1]:
                self._last[image] = last
            # The blank at the end of both has always been there; tools compare bytes
            if names:
                files[stem + '.sizes'] = names + b' '
            if dump:
                files[stem + '.objdump'] = dump + b' '
                lines.append(sizes_line(dump, image))
        return ''.join(f'{line}\n' for line in lines), files


def _digest(path: str) -> bytes:
    """Return what tells the content of a file from another one; b'' if it cannot be read"""
    digest = hashlib.sha256()
    try:
        with open(path, 'rb') as inf:
            for chunk in iter(lambda: inf.read(1 << 20), b''):
                digest.update(chunk)
    except OSError:
        return b''
    return digest.digest()


def _ask_binutils(image: str, build_dir: str, cross: str,
                  env: Mapping[str, str]) -> Tuple[bytes, bytes]:
    """Return what objdump -h and nm --size-sort say of an image, whatever their version"""
    # From 2.44 on the flags of a section tell this, and the size is the same
    dump = _tool([cross + 'objdump', '-h', image], build_dir, env).replace(b', COMPRESSED', b'')
    # Told the format, nm does not load the plugins of all compilers that are
    # installed in order to find it out: a tenth of the time
    match = _FORMAT.search(dump)
    target = [f'--target={match.group(1).decode()}'] if match else []
    return dump, _by_size(_tool([cross + 'nm', *target, '--print-size', image], build_dir, env))


def _by_size(names: bytes) -> bytes:
    """Return what nm --size-sort printed until binutils 2.46.

    Later ones give a symbol without a size the distance to the next one, which is of
    the order in which files are linked, and for the last one 2^64 less something.

    Args:
        names: what nm --print-size prints
    """
    found = _SYMBOL.findall(names)
    # Symbols of one size are in the order of their names, those of one name in the
    # order of their addresses
    place: Dict[bytes, int] = {}
    for num, (_, _, _, name) in enumerate(found):
        place.setdefault(name, num)
    found.sort(key=lambda fields: (int(fields[1], 16), place[fields[3]], int(fields[0], 16)))
    return b''.join(b'%s %s %s\n' % fields[1:] for fields in found)


def sizes_line(dump: bytes, image: str) -> str:
    """Return what `size` prints for an image, with the size of .rodata added.

    It is worked out from the sections, as `size` does it (text: what is
    loaded and code or read-only; data: other contents; bss: the rest), since
    a process for each image of each build is not cheap.

    Args:
        dump: what `objdump -h` prints
        image: the name to show
    """
    text = data = bss = 0
    rodata = ''
    for _, name, size_text, flag_text in _SECTION.findall(dump):
        flags = flag_text.split(b', ')
        size = int(size_text, 16)
        if name == b'.rodata' and not rodata:
            rodata = size_text.decode()
        if b'ALLOC' not in flags:
            continue
        if b'CODE' in flags or b'READONLY' in flags:
            text += size
        elif b'CONTENTS' in flags:
            data += size
        else:
            bss += size
    total = text + data + bss
    return f'{text:7}\t{data:7}\t{bss:7}\t{total:7}\t{total:7x}\t{image} {rodata}'


def collect_config(build_dir: str) -> Dict[str, bytes]:
    """Return the files that hold the configuration, by name in the result tree."""
    files: Dict[str, bytes] = {}
    for source, name in CONFIG_FILES:
        try:
            with open(os.path.join(build_dir, source), 'rb') as inf:
                files[name] = inf.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
    return files


def default_env(build_dir: str, cross: str, env: Mapping[str, str],
                stale: Container[str] = ()) -> bytes:
    """Return the default environment; b'' when the build has none.

    U-Boot keeps it in a section of its own: `NAME=value` strings with a NUL
    after each and one more at the end. That section is returned as it is.
    """
    for obj in ENV_OBJECTS:
        if obj not in stale and os.path.exists(os.path.join(build_dir, obj)):
            # Not to /dev/stdout: an objcopy that fails removes what it was to
            # write, and for root that is the device
            _tool([cross + 'objcopy', '-O', 'binary', '-j', '.rodata.default_environment', obj,
                   _ENV_FILE], build_dir, env)
            with contextlib.suppress(FileNotFoundError):
                path = os.path.join(build_dir, _ENV_FILE)
                with open(path, 'rb') as inf:
                    data = inf.read()
                os.unlink(path)
                if data:
                    return data
    return b''


def stage_images(build_dir: str, stage_dir: str, stale: Container[str] = (),
                 largest: int = 0) -> Dict[str, str]:
    """Copy the images that -k keeps to where the writer can take them.

    Copies rather than links: the next build in this folder writes into the
    same files.

    Args:
        build_dir: build folder
        stage_dir: empty folder on the file system of the result tree
        stale: files below the build folder that are of an earlier build
        largest: of an image of more bytes only the size is kept, as an empty file
            has it; 0: of none

    Returns:
        name in the result tree -> staged file; the names have no folders, as
        those of the phases differ from the main ones

    Raises:
        OSError: no space
    """
    staged: Dict[str, str] = {}
    for path in _image_paths(build_dir):
        name = os.path.basename(path)
        if name not in staged and path not in stale:
            staged[name] = os.path.join(stage_dir, name)
            built = os.path.join(build_dir, path)
            size = os.path.getsize(built)
            if 0 < largest < size:
                with open(staged[name], 'wb') as outf:
                    outf.truncate(size)
            else:
                shutil.copy2(built, staged[name])
    return staged
