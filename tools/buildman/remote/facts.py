# SPDX-License-Identifier: GPL-2.0+
"""What a machine tells of itself: what the probe (`agent.survey`) answers, what --mach shows."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from buildman.agent import survey
from buildman.core.plan import MAX_BOARDS
from buildman.wire import fields

if TYPE_CHECKING:
    from buildman.machine import Machine, MachinePool

_ROW = '  {:<14} {:>6} {:>7} {:>8} {:>6} {:>7} {:>7} {:>10}  {}'
_HEAD = ('Name', 'Arch', 'Threads', 'BogoMIPS', 'Load', 'Mem GB', 'Disk TB', 'Toolchains', 'Status')
_DASHES = 88

_GCC_DIR = re.compile(r'gcc-\d[^/]*\Z')


def gcc_version(path: str) -> Optional[str]:
    """Return the name of the folder that tells a downloaded gcc's version.

    Args:
        path: of a compiler, e.g. `~/.buildman-toolchains/gcc-13.1.0-nolibc/
            aarch64-linux/bin/aarch64-linux-gcc`
    Returns:
        e.g. 'gcc-13.1.0-nolibc'; None for a compiler of the system
    """
    for part in (path or '').split('/')[:-1]:
        if _GCC_DIR.match(part):
            return part
    return None


@dataclasses.dataclass(frozen=True)
class Gcc:
    """A compiler on a machine: path, version, what tells its builder, version of its ld."""

    path: str
    version: str
    banner: str = ''
    binutils: str = ''


@dataclasses.dataclass(frozen=True)
class MachineInfo:
    """What a machine told of itself.

    Attributes:
        arch: of its processor, as uname says
        cpus, threads: processor cores, and hardware threads that may be used
        bogomips: of one thread
        load: average of the last minute
        mem_avail_mb, disk_avail_mb: MiB of memory, and of disk at the work folder
        tools: tool to version, '' for one that is missing
        work_dir, work_mb: work folder and its size in MiB
        owner: who uses the work folder now, '' for nobody
        gccs: arch to the compilers found for it
    """

    arch: str = '-'
    cpus: int = 0
    threads: int = 0
    bogomips: float = 0.0
    load: float = 0.0
    mem_avail_mb: int = 0
    disk_avail_mb: int = 0
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict)
    work_dir: str = ''
    work_mb: int = 0
    owner: str = ''
    gccs: Mapping[str, Tuple[Gcc, ...]] = dataclasses.field(default_factory=dict)


def parse_probe(text: str) -> MachineInfo:
    """Return what a machine answered to scripts.probe_script().

    Raises:
        ValueError: there is no answer in it, or not a proper one
    """
    lines = [line for line in text.splitlines() if line.startswith(survey.MARK)]
    if not lines:
        raise ValueError('no answer to the probe')
    try:
        data = json.loads(lines[-1][len(survey.MARK):])
    except RecursionError:
        raise ValueError('nested too deeply') from None
    if not isinstance(data, dict):
        raise ValueError('not an object')
    values: Dict[str, Any] = {}
    for field in dataclasses.fields(MachineInfo):
        val = data.get(field.name)
        if val is None or field.name in ('tools', 'gccs'):
            continue
        kind = type(field.default)
        if kind is float and isinstance(val, int):
            val = float(val)
        if type(val) is not kind:
            raise ValueError(f"'{field.name}' has a wrong type")
        values[field.name] = _plain(val) if isinstance(val, str) else val
    values['threads'] = min(values.get('threads', 0), MAX_BOARDS)
    values['tools'] = {_plain(key): _plain(val) for key, val in _mapping(data, 'tools').items()}
    gccs = {}
    for arch, found in _mapping(data, 'gccs').items():
        if not isinstance(found, list) or not all(isinstance(gcc, dict) for gcc in found):
            raise ValueError("'gccs' has a wrong type")
        gccs[arch] = tuple(Gcc(_plain(gcc.get('path')), _plain(gcc.get('version')),
                               _plain(gcc.get('banner')), _plain(gcc.get('binutils', '')))
                            for gcc in found)
    return MachineInfo(**values, gccs=gccs)


def _plain(val: object) -> str:
    """Return a word from the far side as text that may be printed."""
    return fields.harmless(str(val), 300).replace('\n', ' ')


def _mapping(data: Mapping[str, Any], name: str) -> Dict[str, Any]:
    val = data.get(name, {})
    if not isinstance(val, dict):
        raise ValueError(f"'{name}' has a wrong type")
    return val



def report_lines(pool: 'MachinePool', tools: Mapping[str, str]) -> Iterator[str]:
    """Yield what `--mach` prints: a table of the machines, then the tools and problems of each.

    Args:
        pool: the machines, probed
        tools: versions of the tools here
    """
    avail = pool.get_available()
    yield (f'Machine pool: {len(avail)} of {len(pool.machines)} machines available, '
           f'total weight {pool.get_total_weight()}')
    yield ''
    yield _ROW.format(*_HEAD)
    yield '  ' + '-' * _DASHES
    for mach in pool.machines:
        yield _row(mach, pool.missing[mach])
    details = [line for mach in pool.machines for line in _details(mach, pool.missing[mach], tools)]
    if details:
        yield ''
        yield from details


def _row(mach: 'Machine', missing: Set[str]) -> str:
    info = mach.info
    if mach.avail:
        status = f'weight {mach.weight}'
        if mach.max_boards:
            status += f', max {mach.max_boards}'
        if info.owner:
            status += ', in use'
    else:
        status = mach.reason
    chains = '-'
    if mach.avail and missing:
        chains = f'{len(mach.toolchains)} of {len(mach.toolchains) + len(missing)}'
    elif mach.avail and mach.toolchains:
        chains = 'OK'
    return _ROW.format(mach.name, info.arch, info.threads, round(info.bogomips),
                       f'{info.load:.1f}', f'{info.mem_avail_mb / 1024:.1f}',
                       f'{info.disk_avail_mb / (1 << 20):.1f}', chains, status)


def _details(mach: 'Machine', missing: Set[str], tools: Mapping[str, str]) -> List[str]:
    """Return the lines about one machine, below the table."""
    info = mach.info
    out = []
    if info.tools:
        have = ', '.join(f'{name} {version}' for name, version in info.tools.items() if version)
        out.append(f'tools: {have}')
        lacks = [name for name, version in info.tools.items() if not version]
        if lacks:
            out.append(f"not installed: {', '.join(lacks)}")
        differs = mach.differences(tools) if tools else []
        if differs:
            out.append(f"differs from here: {', '.join(differs)}")
    if info.work_dir:
        out.append(f'work folder: {info.work_dir}, {info.work_mb} MiB')
    if info.owner:
        out.append(f'in use by {info.owner}')
    for arch, path in sorted(mach.toolchains.items()):
        version = next((gcc.version for gcc in info.gccs.get(arch, ()) if gcc.path == path), '')
        out.append(f'toolchain {arch}: {path} {version}'.rstrip())
    if missing:
        out.append(f"missing toolchains: {', '.join(sorted(missing))}")
    out += mach.problems
    return [f'  {mach.name}: {text}' for text in out]
