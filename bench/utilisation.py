#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""How well the processors are used over a whole run on a real tree, by another buildman and ours.

A clone of the tree gets a branch of commits, each of which changes a source
file that every board compiles. Each command builds that branch into a fresh
folder. Three figures tell how busy it kept the machine:

used    processor time of the run (all its processes) by wall time times
        processors
busy    share of the time in which the processors were not idle, by the kernel's
        count: with what the kernel does for the run in its own threads. On a
        machine that has nothing else to do, this counts.
wanted  share of the time, by samples, in which as many processes as there are
        processors were running or ready to run. Holds on a busy machine, too.

With --again, a second run with all built anew follows, which knows how long
each board takes.

    bench/utilisation.py --repo ~/u-boot --upstream VENV/bin/buildman
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Dict, List, NamedTuple, Sequence, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = os.path.join(os.path.dirname(HERE), 'tools', 'buildman', 'buildman')

# A commit changes one of these: from little work to nearly all
SOURCES = ('lib/string.c', 'drivers/core/device.c', 'include/dm/device.h', 'common/main.c',
           'include/linux/types.h')

# Seconds between two samples
PAUSE = 0.05


class Use(NamedTuple):
    """How a run used the machine.

    Attributes:
        wall, cpu: seconds
        busy: see the module's docstring
        wanted: see the module's docstring
        head: seconds until as many processes as processors wanted to run
        tail: seconds at the end in which that was no longer so
    """

    wall: float
    cpu: float
    busy: float
    wanted: float
    head: float
    tail: float


def ready_processes(pid: int) -> int:
    """Return how many descendants of a process run or would like to."""
    count, todo = 0, [pid]
    while todo:
        num = todo.pop()
        try:
            with open(f'/proc/{num}/task/{num}/children', encoding='ascii') as inf:
                todo += map(int, inf.read().split())
            # Threads wait apart; those of buildman fork and start makes
            for task in os.listdir(f'/proc/{num}/task'):
                if task != str(num):
                    with open(f'/proc/{num}/task/{task}/children', encoding='ascii') as inf:
                        todo += map(int, inf.read().split())
                with open(f'/proc/{num}/task/{task}/stat', encoding='ascii',
                          errors='replace') as inf:
                    count += inf.read().rpartition(')')[2].split()[0] in 'RD'
        except (OSError, IndexError):
            continue
    return count


def clock_ticks() -> Tuple[int, int]:
    """Return the time of all processors so far, and how much of it they were not idle.

    From the first line of /proc/stat (see proc(5)): user, nice, system, idle,
    iowait, irq, softirq, steal, and two that are counted in the first two.
    """
    with open('/proc/stat', encoding='ascii') as inf:
        ticks = [int(word) for word in inf.readline().split()[1:9]]
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4]


def run(argv: Sequence[str], cwd: str, cpus: int) -> Tuple[Use, str]:
    """Run a command and watch how many of its processes want to run.

    Returns:
        the figures, and what it printed
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, ticks = time.monotonic(), clock_ticks()
    with subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as proc:
        printed: List[str] = []
        assert proc.stdout
        reader = threading.Thread(target=lambda: printed.append(proc.stdout.read()))
        reader.start()
        samples: List[Tuple[float, int]] = []
        while proc.poll() is None:
            samples.append((time.monotonic() - start, ready_processes(proc.pid)))
            time.sleep(PAUSE)
        reader.join()
    wall = time.monotonic() - start
    total, busy = (now - then for now, then in zip(clock_ticks(), ticks))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    full = [when for when, count in samples if count >= cpus]
    wanted = sum(min(count, cpus) for _, count in samples) / cpus / max(1, len(samples))
    return Use(wall, cpu, busy / max(1, total), wanted, full[0] if full else wall,
               wall - full[-1] if full else wall), ''.join(printed)


def make_branch(repo: str, work: str, commits: int) -> str:
    """Clone the tree and give it a branch; return the clone."""
    path = os.path.join(work, 'tree')

    def git(*args: str) -> None:
        subprocess.run(['git', *args], cwd=path if os.path.isdir(path) else work, check=True,
                       stdout=subprocess.DEVNULL)

    git('clone', '-q', '--shared', repo, path)
    git('config', 'user.name', 'Bench')
    git('config', 'user.email', 'bench@example.com')
    git('checkout', '-q', '-b', 'bench')
    for num in range(commits):
        name = SOURCES[num % len(SOURCES)]
        with open(os.path.join(path, name), 'a', encoding='utf-8') as outf:
            outf.write(f'\n/* change {num} */\n')
        git('commit', '-q', '-a', '-m', f'{name}: change {num}')
    return path


def show(name: str, use: Use, cpus: int, printed: str, results: int) -> None:
    """Print one line of figures; ends the program if the run did not build all."""
    match = re.search(r'Completed: (\d+) total built', printed)
    if not match or int(match.group(1)) != results:
        sys.exit(f'{name} did not build {results} results:\n{printed[-3000:]}')
    print(f'{name:16} {use.wall:7.1f} s wall, {use.cpu:7.1f} s processor: used '
          f'{use.cpu / use.wall / cpus:5.1%}, busy {use.busy:5.1%}, '
          f'wanted {use.wanted:5.1%}; all processors wanted from {use.head:.1f} s to '
          f'{use.tail:.1f} s before the end', flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n', 1)[0])
    parser.add_argument('--repo', required=True, help='a git repository of U-Boot')
    parser.add_argument('--upstream', default='', help="another buildman's command")
    parser.add_argument('--ours', default=OURS, help='our command')
    parser.add_argument('--boards', default='qemu_arm,qemu_arm64,qemu-riscv64')
    parser.add_argument('--commits', type=int, default=6)
    parser.add_argument('--flags', default='', help='further flags for ours')
    parser.add_argument('--again', action='store_true', help='a second run of ours, with -f')
    args = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    results = len(args.boards.split(',')) * args.commits
    programs: Dict[str, List[str]] = {}
    if args.upstream:
        programs['upstream'] = [os.path.abspath(args.upstream)]
    else:
        print('*** NO UPSTREAM BUILDMAN (give one with --upstream): ours alone ***')
    programs['ours'] = [os.path.abspath(args.ours), *args.flags.split()]
    work = tempfile.mkdtemp(prefix='buildman-use-')
    try:
        tree = make_branch(args.repo, work, args.commits)
        config = os.path.join(work, 'config')
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write('[toolchain]\nroot = /usr\n')
        for name, words in programs.items():
            usage = subprocess.run([words[0], '--help'], capture_output=True, text=True,
                                   check=False)
            if '--no-skip-unaffected' in usage.stdout:
                # Each commit affects each board; who skips one all the same is not quick
                words = [*words, '--no-skip-unaffected']
            command = [*words, '-G', config, '-b', 'bench', '-c', str(args.commits), '-o',
                       os.path.join(work, name), '--boards', args.boards]
            use, printed = run(command, tree, cpus)
            show(name, use, cpus, printed, results)
            if name == 'ours' and args.again:
                use, printed = run([*command, '-f'], tree, cpus)
                show('ours, again', use, cpus, printed, results)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
