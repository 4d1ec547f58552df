# SPDX-License-Identifier: GPL-2.0+
"""What runs on a machine: who started what, since when, with which words.

From Linux' /proc (proc(5)); where there is none, `ps` tells a part of it. This file
is also sent over, see `lock`: it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from typing import Dict, List, Set

# Longer than a process takes to begin another program, however busy the machine is
EXEC_SECONDS = 1.0


def start_time(pid: int) -> str:
    """Return when a process started, in whatever form the system has; '' when it is gone."""
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8', errors='replace') as inf:
            # The name in parentheses may hold blanks; field 22 of the whole
            return inf.read().rpartition(')')[2].split()[19]
    except (OSError, IndexError):
        pass
    if os.path.isdir('/proc/self'):
        return ''
    proc = subprocess.run(['ps', '-o', 'lstart=', '-p', str(pid)], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False)
    return proc.stdout.decode('utf-8', 'replace').strip()


def parents() -> Dict[int, int]:
    """Return all processes, each with its parent; zombies are left out."""
    out: Dict[int, int] = {}
    if os.path.isdir('/proc/self'):
        for name in os.listdir('/proc'):
            if name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError), open(
                        f'/proc/{name}/stat', encoding='utf-8', errors='replace') as inf:
                    fields = inf.read().rpartition(')')[2].split()
                    if fields[0] not in 'ZX':
                        out[int(name)] = int(fields[1])
        return out
    proc = subprocess.run(['ps', '-A', '-o', 'pid=', '-o', 'ppid=', '-o', 'stat='],
                          stdout=subprocess.PIPE, check=False)
    for line in proc.stdout.decode('utf-8', 'replace').splitlines():
        words = line.split()
        if len(words) == 3 and not words[2].startswith('Z'):
            out[int(words[0])] = int(words[1])
    return out


def read_words(pid: int, name: str) -> List[bytes]:
    """Return the words in a file of a process; none when it cannot be read"""
    try:
        with open(f'/proc/{pid}/{name}', 'rb') as inf:
            data = inf.read()
            return data.removesuffix(b'\0').split(b'\0') if data else []
    except OSError:
        return []


def arguments(pid: int) -> List[bytes]:
    """Return the words that a process was started with."""
    return read_words(pid, 'cmdline')


def environment(pid: int) -> List[bytes]:
    """Return the environment of a process, each as NAME=value.

    While it begins another program (execve(2)) it is seen without one, and without
    arguments. That takes no time, but on a busy machine it may stand still there.
    """
    end = time.monotonic() + EXEC_SECONDS
    while True:
        words = read_words(pid, 'environ')
        if words or arguments(pid) or time.monotonic() > end:
            return words
        try:
            # A thread of the kernel has no program
            os.readlink(f'/proc/{pid}/exe')
        except OSError:
            return words
        time.sleep(.005)


def user_of(pid: int) -> int:
    """Return the user of a process, -1 when it is gone."""
    try:
        return os.stat(f'/proc/{pid}').st_uid
    except OSError:
        return -1


def send(pids: Set[int], sig: int) -> None:
    """Send a signal to processes, as far as they are there."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, sig)


def wait_gone(pids: Set[int], seconds: float) -> None:
    """Wait for processes to end, at most so many seconds."""
    end = time.monotonic() + seconds
    while pids & set(parents()) and time.monotonic() < end:
        time.sleep(.02)
