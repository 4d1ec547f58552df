#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Times our summary against that of an installed buildman, on the same trees.

Runs the two in turn, several times, and prints medians of wall-clock time and
processor time (of all processes of a run), peak memory (of all processes
together, sampled in a run of its own) and the ratios.

    bench/summary_speed.py --upstream VENV/bin/buildman
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from summary_trees import full_tree, small_tree

HERE = os.path.dirname(os.path.abspath(__file__))


def run(argv, cwd):
    """Return wall-clock seconds, processor seconds and output of a program."""
    start = time.monotonic()
    with open(os.path.join(cwd, 'out.txt'), 'w+b') as outf:
        proc = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=outf,
                                stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(proc.pid, 0)
        wall = time.monotonic() - start
        proc.returncode = os.waitstatus_to_exitcode(status)
        outf.seek(0)
        out = outf.read()
    if proc.returncode:
        raise SystemExit(f'{argv} failed: exit {proc.returncode}')
    return wall, usage.ru_utime + usage.ru_stime, out


def _family(pid):
    """Return a process and its descendants."""
    pids = [pid]
    for num in pids:
        try:
            with open(f'/proc/{num}/task/{num}/children', encoding='ascii') as inf:
                pids += map(int, inf.read().split())
        except OSError:
            pass
    return pids


def peak_memory(argv, cwd):
    """Return the most MiB that a program and its children hold together.

    What processes share is counted once, as proportional set size.
    """
    peak = 0
    with subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as proc:
        while proc.poll() is None:
            total = 0
            for pid in _family(proc.pid):
                try:
                    with open(f'/proc/{pid}/smaps_rollup', encoding='ascii') as inf:
                        total += sum(int(line.split()[1]) for line in inf
                                     if line.startswith('Pss:'))
                except (OSError, ProcessLookupError):
                    continue
            peak = max(peak, total)
            time.sleep(.01)
    return peak / 1024


def measure(name, tree, flags, commands, rounds):
    """Time all commands with some flags and print the ratios to the first."""
    args = [*flags.split(), '-b', 'work', '-o', tree.out]
    times = {label: [] for label, _ in commands}
    outputs = {}
    for _, argv in commands:
        run(argv + args, tree.repo)     # warm the cache
    for _ in range(rounds):
        for label, argv in commands:
            wall, cpu, outputs[label] = run(argv + args, tree.repo)
            times[label].append((wall, cpu))
    print(f'{name}, {flags}: output '
          + ('the same' if len(set(outputs.values())) == 1 else 'DIFFERENT'))
    base = None
    for label, argv in commands:
        wall, cpu = (statistics.median(column) for column in zip(*times[label]))
        memory = peak_memory(argv + args, tree.repo)
        base = base or (wall, cpu, memory)
        print(f'  {label:12} wall {wall:6.2f} s (x{base[0] / wall:5.2f})  processor {cpu:6.2f} s'
              f' (x{base[1] / cpu:5.2f})  memory {memory:6.1f} MiB (x{base[2] / memory:5.2f})')


def main():
    """Make the trees and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--upstream', required=True, help='the other buildman')
    parser.add_argument('--ours', default=f'{sys.executable} {HERE}/summary_driver.py',
                        help='command of ours (default: a driver for the summary alone)')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--small', default='1500x20', help='boards x commits of small results')
    parser.add_argument('--full', default='90x20', help='boards x commits of full-size results')
    parser.add_argument('--change', type=float, default=.3,
                        help='share of full-size boards that each commit changes')
    args = parser.parse_args()
    commands = (('upstream', [args.upstream]), ('ours', args.ours.split()))
    with tempfile.TemporaryDirectory() as root:
        boards, commits = map(int, args.small.split('x'))
        tree = small_tree(os.path.join(root, 'small'), boards, commits)
        for flags in ('-s', '-sSe'):
            measure(f'{boards * commits} small results', tree, flags, commands, args.rounds)
        boards, commits = map(int, args.full.split('x'))
        tree = full_tree(os.path.join(root, 'full'), boards, commits, args.change)
        for flags in ('-s', '-sSBKUe'):
            measure(f'{boards * commits} full-size results', tree, flags, commands, args.rounds)


if __name__ == '__main__':
    main()
