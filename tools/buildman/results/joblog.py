# SPDX-License-Identifier: GPL-2.0+
"""Who built what when, from the logs that a distributed build leaves beside its results.

`joblog` has a line for each result, `.buildman.log` what happened to machines. See
`remote.logs`, which writes them. What makes no sense is left out.

A folder that others were merged into (--merge) has theirs as well, in `.bm-work/joblogs`:
a folder for each shard, `shard-K`, or else for each of them, by its name and a digest of its
path. So those that are called the same are kept apart, and one that comes again is replaced.
The next distributed build in the merged folder ends them, as it does its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from typing import Any, Dict, List, Tuple

from buildman.core.files import clear_way
from buildman.results.tree import WORK_DIR

JOBS, EVENTS = 'joblog', '.buildman.log'
MERGED = f'{WORK_DIR}/joblogs'

# More of a file is not read: some 200 000 results
MAX_BYTES = 16 << 20
_MAX_EVENTS = 300
_MAX_TEXT = 300

_EVENT = re.compile(r'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:\[([^\]\s]+)\] )?(.*)')


def _lines(path: str) -> List[str]:
    """Return the last lines of a file; nothing if it cannot be read"""
    try:
        with open(path, 'rb') as inf:
            cut = max(0, os.fstat(inf.fileno()).st_size - MAX_BYTES)
            head = inf.readline() if cut else b''
            inf.seek(cut)
            raw = inf.read(MAX_BYTES)
    except OSError:
        return []
    if cut:
        raw = head + raw[raw.find(b'\n') + 1:]
    # What follows the last line end is empty, or a line that is being written
    return raw.decode('utf-8', 'replace').split('\n')[:-1]


def merge(base: str, source: str, label: str) -> None:
    """Take the logs of a folder of results into that of another one.

    Args:
        base, source: hold the commits' folders
        label: name for them, see shard_label() and folder_label()

    Raises:
        OSError: they cannot be copied
    """
    found = {label: source}
    merged = os.path.join(source, MERGED)
    if os.path.isdir(merged):
        found.update((name, os.path.join(merged, name)) for name in os.listdir(merged))
    for name, path in found.items():
        if not os.path.isfile(os.path.join(path, JOBS)):
            continue
        dest = os.path.join(base, MERGED, name)
        clear_way(dest)
        os.makedirs(dest)
        # That of the jobs last, as without it there is none
        for file in (EVENTS, JOBS):
            if os.path.isfile(os.path.join(path, file)):
                shutil.copy2(os.path.join(path, file), os.path.join(dest, f'{file}.new'))
                os.replace(os.path.join(dest, f'{file}.new'), os.path.join(dest, file))


def drop_merged(base: str) -> None:
    """Remove the logs that were merged: a build begins whose logs follow.

    Raises:
        OSError: that cannot be done
    """
    clear_way(os.path.join(base, MERGED))


def shard_label(numbers: Tuple[int, ...]) -> str:
    """Return the name of the logs of a shard, or of several."""
    return f"shard-{','.join(map(str, numbers))}"


def folder_label(folder: str) -> str:
    """Return the name of the logs of an output folder that is no shard."""
    path = os.path.abspath(folder)
    return f'{os.path.basename(path)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}'


def read(folder: str) -> Dict[str, Dict[str, Any]]:
    """Return what each machine did in the last distributed build, or in those of all shards.

    Args:
        folder: holds the commits' folders

    Returns:
        name of a machine to what it did, see _read(). A machine of a shard is
        'shard K: NAME', the one that buildman ran on there 'shard K: runner'
    """
    out = _read(folder)
    try:
        labels = sorted(os.listdir(os.path.join(folder, MERGED)), key=_natural)
    except OSError:
        return out
    short = [label.rpartition('-')[0] for label in labels]
    for label, name in zip(labels, short):
        if label.startswith('shard-') and name == 'shard':
            name = label.replace('-', ' ')
        elif short.count(name) > 1:
            name = label
        for machine, did in _read(os.path.join(folder, MERGED, label)).items():
            out[f"{name}: {'runner' if machine == '-' else machine}"] = did
    return out


def _natural(text: str) -> List[Tuple[int, str]]:
    """Return a key by which 2 comes before 10"""
    return [(int(part), '') if part.isdecimal() else (-1, part)
            for part in re.split('([0-9]+)', text)]


def _read(folder: str) -> Dict[str, Dict[str, Any]]:
    """Return what each machine did in the last distributed build in one folder.

    Returns:
        name ('-' for the machine that buildman ran on) to `blocks` and `events`. A block
        is one board in one go: board, slot (from 0), start and end in seconds since 1970,
        then the numbers of results that were good, failed, failed for the machine's
        reasons, and came too late. An event is when, and what
    """
    blocks: Dict[Tuple[str, str, str], List[Any]] = {}
    lines = _lines(os.path.join(folder, JOBS))
    columns = lines[0].split('\t') if lines else []
    for line in lines[1:]:
        job = dict(zip(columns, line.split('\t')))
        try:
            start, seconds = float(job['start']), float(job['seconds'])
            key = job['machine'], job['board'], job['attempt']
            status = job['status']
        except (KeyError, ValueError):
            continue
        if not (0 <= start < 1e11 and 0 <= seconds < 1e8):
            continue
        block = blocks.setdefault(key, [job['board'], 0, start, start, 0, 0, 0, 0])
        block[2] = min(block[2], start)
        block[3] = max(block[3], start + seconds)
        block[4 + ({'0': 0, 'infra': 2, 'dropped': 3}.get(status, 1))] += 1
    out: Dict[str, Dict[str, Any]] = {}
    for (name, _, _), block in sorted(blocks.items(), key=lambda item: item[1][2]):
        out.setdefault(name, {'blocks': [], 'events': []})['blocks'].append(block)
    for machine in out.values():
        ends: List[float] = []
        for block in machine['blocks']:
            # Times are rounded: who begins as another ends has its slot
            slot = next((num for num, end in enumerate(ends) if end <= block[2] + .5), len(ends))
            ends[slot:slot + 1] = [block[3]]
            block[1] = slot
    if out:
        _add_events(folder, out)
    return out


def _add_events(folder: str, machines: Dict[str, Dict[str, Any]]) -> None:
    """Add what happened to the machines in the last run"""
    found: List[Tuple[str, float, str]] = []
    for line in _lines(os.path.join(folder, EVENTS)):
        match = _EVENT.match(line)
        if match and match.group(3).startswith('start: ') and not match.group(2):
            found = []
        elif match and match.group(2):
            try:
                when = time.mktime(time.strptime(match.group(1), '%Y-%m-%d %H:%M:%S'))
            except (ValueError, OverflowError):
                continue
            name = '-' if match.group(2) == 'local' else match.group(2)
            found.append((name, when, match.group(3)[:_MAX_TEXT]))
    for name, when, text in found[-_MAX_EVENTS:]:
        machines.setdefault(name, {'blocks': [], 'events': []})['events'].append([when, text])
