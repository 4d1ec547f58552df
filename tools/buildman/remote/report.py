# SPDX-License-Identifier: GPL-2.0+
"""What `--mach` prints: a table of the machines, then each one's tools and problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List, Mapping, Set

if TYPE_CHECKING:
    from buildman.machine import Machine, MachinePool

_ROW = '  {:<14} {:>6} {:>7} {:>8} {:>6} {:>7} {:>7} {:>10}  {}'
_HEAD = ('Name', 'Arch', 'Threads', 'BogoMIPS', 'Load', 'Mem GB', 'Disk TB', 'Toolchains', 'Status')
_DASHES = 88


def lines(pool: 'MachinePool', tools: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the report.

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
