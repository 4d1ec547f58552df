#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Times our summary against that of an installed buildman, on the same trees.

Runs the two in turn, several times, and prints medians of wall-clock time and
processor time (of all processes of a run), peak memory (of all processes
together, sampled in a run of its own) and the ratios.

    bench/summary_speed.py --upstream VENV/bin/buildman
    bench/summary_speed.py --upstream VENV/bin/buildman --small '' --full '' --large 1547x20
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time

from summary_trees import full_tree, plain_home, small_tree

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = os.path.join(os.path.dirname(HERE), 'tools', 'buildman', 'buildman')


def run(argv, cwd, watch=0.0):
    """Run a program.

    Args:
        argv, cwd: program, and folder to run it in
        watch: seconds between two looks at its memory, 0 for none

    Returns:
        seconds on the clock, of processor time, output, MiB at most
    """
    start = time.monotonic()
    with open(os.path.join(cwd, 'out.txt'), 'w+b') as outf:
        proc = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=outf,
                                stderr=subprocess.DEVNULL)
        peak = _watch(proc.pid, watch) if watch else 0.0
        _, status, usage = os.wait4(proc.pid, 0)
        wall = time.monotonic() - start
        proc.returncode = os.waitstatus_to_exitcode(status)
        outf.seek(0)
        out = outf.read()
    if proc.returncode:
        raise SystemExit(f'{argv} failed: exit {proc.returncode}')
    return wall, usage.ru_utime + usage.ru_stime, out, peak


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


def _watch(pid, pause):
    """Wait for a process; return the most MiB that it and its children held together.

    What processes share is counted once, as proportional set size.
    """
    peak = 0
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        total = 0
        for num in _family(pid):
            try:
                with open(f'/proc/{num}/smaps_rollup', encoding='ascii') as inf:
                    total += sum(int(line.split()[1]) for line in inf
                                 if line.startswith('Pss:'))
            except (OSError, ProcessLookupError):
                continue
        peak = max(peak, total)
        time.sleep(pause)
    return peak / 1024


def measure(name, tree, flags, commands, rounds):
    """Time all commands with some flags and print the ratios to the first.

    Args:
        rounds: how often; 0: once, and memory in the same run, as it takes long
    """
    args = [*flags.split(), '-b', 'work', '-o', tree.out]
    results = {label: [] for label, _ in commands}
    memory = {}
    for label, argv in commands:
        # The first one warms the cache
        first = run(argv + args, tree.repo, .01 if rounds else .1)
        memory[label] = first[3]
        if not rounds:
            results[label].append(first)
    for _ in range(rounds):
        for label, argv in commands:
            results[label].append(run(argv + args, tree.repo))
    same = len({found[-1][2] for found in results.values()}) == 1
    print(f"{name}, {flags}: output {'the same' if same else 'DIFFERENT'}")
    base = None
    for label, found in results.items():
        wall, cpu = (statistics.median(column) for column in list(zip(*found))[:2])
        base = base or (wall, cpu, memory[label])
        print(f'  {label:12} wall {wall:6.2f} s (x{base[0] / wall:5.2f})  processor {cpu:6.2f} s'
              f' (x{base[1] / cpu:5.2f})  memory {memory[label]:6.1f} MiB'
              f' (x{base[2] / memory[label]:5.2f})', flush=True)


def main():
    """Make the trees and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--upstream', required=True, help='the other buildman')
    parser.add_argument('--ours', default=OURS, help='our command')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--small', default='1500x20', help='boards x commits of small results')
    parser.add_argument('--full', default='90x20', help='boards x commits of full-size results')
    parser.add_argument('--large', default='',
                        help='the same for a large tree, measured once (1547x20)')
    parser.add_argument('--change', type=float, default=.3,
                        help='share of full-size boards that each commit changes')
    args = parser.parse_args()
    commands = (('upstream', [args.upstream]), ('ours', args.ours.split()))
    with tempfile.TemporaryDirectory() as root:
        plain_home(root)
        if args.small:
            boards, commits = map(int, args.small.split('x'))
            tree = small_tree(os.path.join(root, 'small'), boards, commits)
            for flags in ('-s', '-sSe'):
                measure(f'{boards * commits} small results', tree, flags, commands, args.rounds)
        if args.full:
            boards, commits = map(int, args.full.split('x'))
            tree = full_tree(os.path.join(root, 'full'), boards, commits, args.change)
            for flags in ('-s', '-sSBKUe'):
                measure(f'{boards * commits} full-size results', tree, flags, commands,
                        args.rounds)
        if args.large:
            boards, commits = map(int, args.large.split('x'))
            tree = full_tree(os.path.join(root, 'large'), boards, commits, args.change)
            # With fewer commits: memory must not grow with their number
            for flags in ('-s', '-sSe', '-sSBKUe --step 4', '-sSBKUe'):
                measure(f'{boards} boards x {commits} commits, full size', tree, flags,
                        commands, 0)


if __name__ == '__main__':
    main()
