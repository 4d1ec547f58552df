#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Measure what a build takes before it builds: here and with another buildman.

Usage: prepare.py --repo DIR --boards A,B,… [--other BUILDMAN] [--threads 16] [--rounds N]

Each buildman is asked to build as many boards as there are slots. What it finds
as `make` on PATH notes when and where it was started, and waits: so nothing is
built, and each slot shows once when it is ready. When all have shown up, the
disk usage is taken and buildman is ended. Everything is measured from outside,
in the same way for both:

first  seconds from the start to the first make
all    seconds from the start to the first make in the last slot
disk   bytes that slots and repository have grown by

cold: no slot is there; kept: again, with the slots of that run.

The disk goes on with what it was given long after a run has ended. So each run
begins on a disk that has nothing to do, and in every other round ours is the first.
For minutes after files were removed, ext4 takes much longer to make new ones, since
it looks for an inode number that was not used recently: one of the two was seen to
take twice its time. So nothing is removed before the end, and --work should be on a
file system on which nothing was removed just before; best on a fresh one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Dict, NamedTuple

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
OURS = os.path.abspath(os.path.join(TOP, 'tools', 'buildman', 'buildman'))

# Seconds until a run is given up
LIMIT = 900

# The disk is idle when in so many seconds it wrote and discarded no more than so many
# sectors of 512 bytes; this is waited for no longer than the limit, in seconds
QUIET = 3
QUIET_SECTORS = 8192
QUIET_LIMIT = 180

# Stands in for make: one line a start, with the time in nanoseconds, then waits
MAKE = '''\
#!/bin/sh
case "$*" in *_defconfig*) ;; *) exec {make} "$@" ;; esac
echo "$(date +%s%N) $(pwd) $*" >> {log}
while [ ! -e {log}.end ]; do sleep 0.2; done
exit 2
'''


class Cost(NamedTuple):
    """What getting ready took: seconds, seconds, bytes."""

    first: float
    every: float
    disk: int


def disk_usage(*folders: str) -> int:
    """Return the bytes that folders take on disk together, each file counted once."""
    out = subprocess.run(['du', '-sc', '-B1', *folders], capture_output=True, text=True,
                         check=False).stdout
    return int(out.splitlines()[-1].split()[0])


def settle(folder: str) -> None:
    """Wait until the disk of a folder has done what it was given"""
    os.sync()
    device = os.stat(folder).st_dev
    path = f'/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat'

    def done() -> int:
        """Return the sectors written and discarded (Linux' Documentation/block/stat.rst)"""
        try:
            with open(path, encoding='ascii') as inf:
                fields = inf.read().split()
        except OSError:
            return 0
        return int(fields[6]) + int(fields[13] if len(fields) > 13 else 0)

    give_up = time.monotonic() + QUIET_LIMIT
    before, now = -QUIET_SECTORS - 1, done()
    while now - before > QUIET_SECTORS:
        if time.monotonic() > give_up:
            print(f'the disk is not idle after {QUIET_LIMIT} s', flush=True)
            return
        time.sleep(QUIET)
        before, now = now, done()


def read_starts(log: str) -> Dict[str, float]:
    """Return when make was first started in each slot, in seconds since the epoch."""
    starts: Dict[str, float] = {}
    with contextlib.suppress(FileNotFoundError), open(log, encoding='utf-8') as inf:
        for line in inf:
            stamp, _, rest = line.partition(' ')
            # The slot shows in the folder or in the words, whichever way make is called
            slot = rest.partition('.bm-work/')[2].split()[0].split('/')[0] or rest
            starts.setdefault(slot, int(stamp) / 1e9)
    return starts


def run(command: str, args: argparse.Namespace, work: str, name: str) -> Cost:
    """Have one buildman get ready, and end it; ends the program when it does not."""
    bin_dir, log = os.path.join(work, 'bin'), os.path.join(work, f'{name}.starts')
    os.makedirs(bin_dir, exist_ok=True)
    for path in (log, log + '.end'):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    wrapper = os.path.join(bin_dir, 'make')
    with open(wrapper, 'w', encoding='utf-8') as outf:
        outf.write(MAKE.format(make=shutil.which('make'), log=log))
    os.chmod(wrapper, 0o755)
    out = os.path.join(work, name)
    words = [command, *(['-G', args.config] if args.config else []), '-b', args.branch, '-c', '1',
             '-T', str(args.threads), '-o', out, '--boards', args.boards, '-f']
    git_dir = os.path.join(args.repo, '.git')
    before = disk_usage(git_dir)
    settle(work)
    started = time.time()
    with open(os.path.join(work, f'{name}.out'), 'wb') as said:
        proc = subprocess.Popen(words, cwd=args.repo, stdout=said, stderr=said,
                                env={**os.environ, 'PATH': f"{bin_dir}:{os.environ['PATH']}"},
                                start_new_session=True)
    try:
        starts = read_starts(log)
        while len(starts) < args.threads and proc.poll() is None and (
                time.time() < started + LIMIT):
            time.sleep(0.1)
            starts = read_starts(log)
        if len(starts) < args.threads:
            with open(os.path.join(work, f'{name}.out'), encoding='utf-8') as inf:
                sys.exit(f"{' '.join(words)}: {len(starts)} slots showed up\n{inf.read()}")
        disk = disk_usage(out, git_dir) - before
    finally:
        with open(log + '.end', 'wb'):
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(proc.pid, signal.SIGINT)
        try:
            proc.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(proc.pid, signal.SIGKILL)
            proc.wait()
    return Cost(min(starts.values()) - started, max(starts.values()) - started, disk)


def show(name: str, cost: Cost) -> None:
    """Print one line of figures."""
    print(f'{name:12} first {cost.first:7.2f} s   all {cost.every:7.2f} s   '
          f'disk {cost.disk / 1e6:8.1f} MB', flush=True)


def clone(repo: str, work: str, name: str) -> str:
    """Return a repository that a buildman may write to, with the objects of the real one."""
    path = os.path.join(work, f'repo-{name}')
    subprocess.run(['git', 'clone', '-q', '-s', repo, path], check=True)
    return path


def compare(args: argparse.Namespace, commands: Dict[str, str], work: str,
            ours_first: bool) -> None:
    """Measure all commands once, and print the figures and ratios"""
    source = args.repo
    costs: Dict[str, Dict[str, Cost]] = {'cold': {}, 'kept': {}}
    for name in list(commands)[::-1 if ours_first else 1]:
        args.repo = clone(source, work, name)
        for kind, found in costs.items():
            found[name] = run(commands[name], args, work, name)
            show(f'{name} {kind}', found[name])
    args.repo = source
    for kind, found in costs.items():
        if len(found) == 2:
            other, ours = found['other'], found['ours']
            print(f'{kind}: other / ours: first {other.first / ours.first:.1f}, all '
                  f'{other.every / ours.every:.1f}, disk {other.disk / ours.disk:.1f}',
                  flush=True)


def main() -> int:
    """Measure."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--repo', required=True, help='git repository')
    parser.add_argument('--branch', default='', help='default: the one checked out')
    parser.add_argument('--boards', required=True, help='at least as many as threads')
    parser.add_argument('--threads', type=int, default=16)
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--config', default='')
    parser.add_argument('--other', default=shutil.which('buildman') or '',
                        help='the buildman to compare with (default: that on PATH)')
    parser.add_argument('--work', default=tempfile.gettempdir(), help='disk to measure on')
    args = parser.parse_args()
    if len(args.boards.split(',')) < args.threads:
        parser.error('there must be a board for each thread')
    args.repo = os.path.abspath(args.repo)
    args.branch = args.branch or subprocess.run(
        ['git', 'branch', '--show-current'], cwd=args.repo, capture_output=True, text=True,
        check=True).stdout.strip()
    commands = {'ours': OURS}
    if args.other:
        commands = {'other': os.path.abspath(args.other), 'ours': OURS}
    work = tempfile.mkdtemp(prefix='buildman-prepare-', dir=args.work)
    try:
        for number in range(args.rounds):
            folder = os.path.join(work, str(number))
            os.mkdir(folder)
            compare(args, commands, folder, ours_first=number % 2 == 1)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
