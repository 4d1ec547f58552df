# SPDX-License-Identifier: GPL-2.0+
"""Who built what when, from the logs that a distributed build leaves beside its results.

`joblog` has a line for each result, `.buildman.log` what happened to machines. See
`remote.logs`, which writes them. What makes no sense is left out.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any, Dict, List, Tuple

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


def read(folder: str) -> Dict[str, Dict[str, Any]]:
    """Return what each machine did in the last distributed build.

    Args:
        folder: holds the commits' folders

    Returns:
        name ('-' for the machine that buildman ran on) to `blocks` and `events`. A block
        is one board in one go: board, slot (from 0), start and end in seconds since 1970,
        then the numbers of results that were good, failed, failed for the machine's
        reasons, and came too late. An event is when, and what
    """
    blocks: Dict[Tuple[str, str, str], List[Any]] = {}
    lines = _lines(os.path.join(folder, 'joblog'))
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
    for line in _lines(os.path.join(folder, '.buildman.log')):
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
