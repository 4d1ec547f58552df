#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Time another buildman and this one in turn on the same boards and commits.

Usage: speed.py [--other BUILDMAN | --install-upstream] [--rounds N]
                [--repo DIR --branch NAME --boards A,B [--config FILE]]

Without --repo: a sample tree whose make only copies files, so that what is
measured is the cost of the tool: builds a second and processor time a build.
With --repo: real builds, wall and processor time. Each build goes into a fresh
folder; rounds alternate between the two, so that both meet the same load of the
machine, and the best of each counts.
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
import time
from typing import Dict, List, NamedTuple

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, os.path.join(TOP, 'tools'))

from buildman.demo import sample

OURS = os.path.abspath(os.path.join(TOP, 'tools', 'buildman', 'buildman'))


class Cost(NamedTuple):
    """What a run took.

    Attributes:
        builds: how many there were
        wall: seconds
        cpu: seconds of processor time, with all processes that were started
    """

    builds: int
    wall: float
    cpu: float


def run(command: str, args: argparse.Namespace, out: str) -> Cost:
    """Build once into a fresh folder; ends the program when nothing was built."""
    words = [command, *(['-G', args.config] if args.config else []), '-b', args.branch, '-o', out]
    if args.boards:
        words += ['--boards', args.boards]
    # As users have it: modules are compiled once and kept, but not among the sources
    env = {name: val for name, val in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}
    # And what the user's own ccache has had does not decide whether it is used
    env['CCACHE_DIR'] = f'{out}.ccache'
    env['PYTHONPYCACHEPREFIX'] = os.path.join(os.path.dirname(out), 'pycache')
    # The list of boards is made before: it is kept from run to run
    subprocess.run([*words, '-n'], cwd=args.repo, env=env, capture_output=True, check=False)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(words, cwd=args.repo, env=env, capture_output=True, text=True,
                          check=False)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    match = re.search(r'Completed: (\d+) total built', done.stdout)
    # What was built stays until the end: on some file systems new files cost much
    # more for a while after many were removed
    if not match or not int(match.group(1)) or 'exception' in done.stdout:
        sys.exit(f"{' '.join(words)}\nbuilt nothing:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Cost(int(match.group(1)), wall,
                after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def install_upstream(work: str) -> str:
    """Install the published buildman into a virtual environment; '' if it cannot be."""
    venv = os.path.join(work, 'venv')
    for words in ([sys.executable, '-m', 'venv', venv],
                  [os.path.join(venv, 'bin', 'pip'), 'install', '-q', 'buildman']):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()
            print(f"cannot install it: {lines[-1] if lines else ''}", file=sys.stderr)
            return ''
    return os.path.join(venv, 'bin', 'buildman')


def show(name: str, cost: Cost) -> None:
    """Print one line of figures."""
    print(f'{name:8} {cost.builds} builds: {cost.wall:7.2f} s wall, {cost.cpu:7.2f} s processor; '
          f'{cost.builds / cost.wall:6.1f} builds/s, {1000 * cost.cpu / cost.builds:7.1f} ms '
          'processor each', flush=True)


def make_tree(args: argparse.Namespace, work: str) -> None:
    """Make the instant sample and point the arguments to it."""
    tree = sample.make_sample(os.path.join(work, 'tree'), boards=args.count,
                              commits=args.commits, instant=True)
    chains = sample.make_toolchains(os.path.join(work, 'toolchains'))
    args.config = sample.write_config(os.path.join(work, 'config'), chains)
    args.repo, args.branch = tree.path, tree.branch


def main() -> int:
    """Measure."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--other', default=shutil.which('buildman') or '',
                        help='the buildman to compare with (default: that on PATH)')
    parser.add_argument('--install-upstream', action='store_true',
                        help='install the published one with pip in a temporary folder')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--count', type=int, default=200, help='boards of the sample')
    parser.add_argument('--commits', type=int, default=2,
                        help='commits of the sample, without its upstream commit')
    parser.add_argument('--repo', help='git repository (default: the sample)')
    parser.add_argument('--branch', default='feature')
    parser.add_argument('--boards', default='')
    parser.add_argument('--config', default='')
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix='buildman-speed-')
    try:
        if args.install_upstream:
            args.other = install_upstream(work)
        if not args.repo:
            make_tree(args, work)
        commands = {'ours': OURS}
        if args.other:
            commands = {'other': os.path.abspath(args.other), 'ours': OURS}
        else:
            print('*** there is no other buildman to compare with: ours alone (name it with '
                  '--other, or --install-upstream)', file=sys.stderr)
        costs: Dict[str, List[Cost]] = {name: [] for name in commands}
        for number in range(args.rounds):
            for name, command in commands.items():
                costs[name].append(run(command, args, os.path.join(work, f'{name}{number}')))
                show(name, costs[name][-1])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    best = {name: Cost(runs[0].builds, min(run.wall for run in runs), min(run.cpu for run in runs))
            for name, runs in costs.items()}
    print('best:')
    for name, cost in best.items():
        show(name, cost)
    if 'other' in best:
        print(f"ours / other: wall {best['ours'].wall / best['other'].wall:.2f}, processor "
              f"{best['ours'].cpu / best['other'].cpu:.2f}")
    return 0


if __name__ == '__main__':
    sys.exit(main())
