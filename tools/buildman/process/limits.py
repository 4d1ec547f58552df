# SPDX-License-Identifier: GPL-2.0+
"""What this machine lets a build do: on how many processors, with how many processes, where.

A limit on processes (`ulimit -u`, TasksMax of systemd, a container's) makes any program
of a build fail anywhere. What a shell function of a Makefile says then may be lost, and
an empty answer taken for one. So where it is known to be too low, nothing is begun. A
mount option (noexec) may forbid to run what a build makes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import time
from typing import Iterator, Optional, Tuple

# What buildman itself needs: its threads, git, the guard
BASE = 12

# A slot's thread, and the longest line of processes of a make: make, make, shell, make,
# shell, compiler, linker's driver, linker
PER_SLOT = 9

# What one job more of the job server is: a shell, a compiler, its pass
PER_JOB = 3

# More than anybody needs
PLENTY = 8192

# To run a program: another thread that starts something has our file open for a moment, too
TRIES = 50


def cpu_count() -> int:
    """Return the number of processors that this process may use."""
    # Slurm need not bind a job to those that it has
    given = os.environ.get('SLURM_CPUS_PER_TASK', '')
    try:
        count = len(os.sched_getaffinity(0))
        return min(count, int(given)) if given.isdecimal() and int(given) else count
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def idle_time() -> Optional[float]:
    """Return for how many seconds processors have had nothing to do, all together; None: unknown.

    In a container these may be those of the whole machine.
    """
    try:
        # Linux: proc(5)
        with open('/proc/uptime', encoding='ascii') as inf:
            return float(inf.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None


def why_no_program(folder: str) -> str:
    """Return why a program in a folder cannot be run, '' when it can.

    Raises:
        OSError: nothing can be written there
    """
    path = os.path.join(folder, f'.try-{os.getpid()}')
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), 'wb') as outf:
            outf.write(b'#!/bin/sh\nexit 0\n')
        for _ in range(TRIES):
            try:
                subprocess.run([path], check=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            except subprocess.CalledProcessError as exc:
                return str(exc)
            except OSError as exc:
                if exc.errno != errno.ETXTBSY:
                    return exc.strerror or str(exc)
                time.sleep(.01)
            else:
                break
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    return ''


def _all_threads() -> int:
    """Return how many threads there are on this machine"""
    with open('/proc/loadavg', encoding='ascii') as inf:
        return int(inf.read().split()[3].partition('/')[2])


def _threads_of(user: int) -> int:
    """Return how many threads a user has, as the kernel counts them for RLIMIT_NPROC"""
    count = 0
    for name in os.listdir('/proc'):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if os.stat(f'/proc/{name}').st_uid == user:
                    with open(f'/proc/{name}/stat', 'rb') as inf:
                        count += int(inf.read().rpartition(b')')[2].split()[17])
    return count


def _groups() -> Iterator[str]:
    """Yield the folders of our control groups (cgroups(7)), from ours to the top"""
    with contextlib.suppress(OSError), open('/proc/self/cgroup', encoding='utf-8') as inf:
        for line in inf:
            _, names, path = line.rstrip('\n').split(':', 2)
            if names and 'pids' not in names.split(','):
                continue
            top = '/sys/fs/cgroup/pids' if names else '/sys/fs/cgroup'
            while path != '/':
                yield top + path
                path = os.path.dirname(path)
            yield top


def _number(path: str) -> Optional[int]:
    """Return the number in a file; None when there is none"""
    with contextlib.suppress(OSError, ValueError), open(path, encoding='utf-8') as inf:
        return int(inf.read())
    return None


def headroom() -> Optional[Tuple[int, str]]:
    """Return how many processes may be started, and what limits them; None: no limit."""
    found = []
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.getuid() and soft != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError):
            # What all have is quick to be had, and mostly enough to know
            others = _all_threads()
            if soft - others < PLENTY:
                others = _threads_of(os.getuid())
            found.append((soft - others, f'ulimit -u is {soft}'))
    for folder in _groups():
        most, now = (_number(os.path.join(folder, f'pids.{name}')) for name in ('max', 'current'))
        if most is not None and now is not None:
            found.append((most - now, f'TasksMax of its control group is {most}'))
    return min(found) if found else None


def fitting(slots: int, jobs: int) -> Tuple[int, int, str]:
    """Return how much can be done at once, and why that is not more.

    Args:
        slots: boards to be built at once
        jobs: compilers that may run at once, on all slots together

    Returns:
        (slots, jobs, why): 0 slots when there is no room for one; '' when there is
        room for all
    """
    room = headroom()
    if room is None or room[0] >= BASE + PER_SLOT * slots + PER_JOB * max(0, jobs - slots):
        return slots, jobs, ''
    left = room[0] - BASE
    fit = max(0, min(slots, left // PER_SLOT))
    more = (left - fit * PER_SLOT) // PER_JOB
    why = f'{max(0, room[0])} more processes can be started, as {room[1]}'
    return fit, max(1, min(jobs, fit + more)), why
