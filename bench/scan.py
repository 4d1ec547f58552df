#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Times how long it takes to find the boards of a U-Boot tree.

The cases:

all, cold   all boards from nothing (-R FILE)
all, kept   again, with the list that was kept (-n)
branch      the first time for another branch, with the same Kconfig
changed     again, after a change of the Kconfig at the top
one, cold   one named board from nothing; ours lists the others for later dry runs, too
one, alone  the same where no list can be kept for later: that board and no more

An installed buildman and ours run the same command lines in turn, so that both
meet the same load of the machine; the medians are compared. At the end the two
lists of boards are compared line by line.

    bench/scan.py --tree ~/u-boot --upstream VENV/bin/buildman
"""

from __future__ import annotations

import argparse
import difflib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = os.path.join(os.path.dirname(HERE), 'tools', 'buildman', 'buildman')

# -R ends with 2 when boards lack maintainers, as they do in U-Boot
GOOD = {'all, cold': (0, 2), 'all, kept': (0,), 'branch': (0,), 'changed': (0,),
        'one, cold': (0,), 'one, alone': (0,)}


class Cost(NamedTuple):
    """Seconds on the clock and of processor time."""

    wall: float
    cpu: float


def run(argv: Sequence[str], tree: str, good: Sequence[int], **env: str) -> Cost:
    """Run a command, with more in its environment, and return what it cost.

    This ends the program if it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(argv, cwd=tree, stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, check=False, env={**os.environ, **env})
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in good:
        sys.exit(f"{' '.join(argv)}: ended with {done.returncode}\n{done.stderr}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def one_round(name: str, command: List[str], args: argparse.Namespace, work: str,
              costs: Dict[str, List[Cost]]) -> None:
    """Run the cases once with one of the two programs."""
    listing = os.path.join(work, f'{name}.cfg')
    out = os.path.join(work, name)
    kept = os.path.join(work, f'{name}-cache')
    for folder in (out, kept):
        shutil.rmtree(folder, ignore_errors=True)
    # A dry run keeps a list in a folder that is there, and makes none
    for branch in ('one', 'two'):
        os.makedirs(os.path.join(out, branch))
    kconfig = os.path.join(args.tree, 'Kconfig')

    def case(title: str, *flags: str, cache: str = kept) -> None:
        costs.setdefault(title, []).append(
            run([*command, *flags], args.tree, GOOD[title], XDG_CACHE_HOME=cache))

    case('all, cold', '-R', listing)
    run([*command, '-n', '-b', 'one', '-o', out], args.tree, (0,), XDG_CACHE_HOME=kept)
    case('all, kept', '-n', '-b', 'one', '-o', out)
    case('branch', '-n', '-b', 'two', '-o', out)
    with open(kconfig, 'rb') as inf:
        was = inf.read()
    with open(kconfig, 'ab') as outf:
        outf.write(b'\n# changed\n')
    case('changed', '-n', '-b', 'one', '-o', out)
    with open(kconfig, 'wb') as outf:
        outf.write(was)
    for title, cache in (('one, cold', kept), ('one, alone', os.devnull)):
        for folder in (out, kept):
            shutil.rmtree(folder, ignore_errors=True)
        case(title, '-n', '-o', out, '--boards', args.board, cache=cache)


def clone(tree: str, work: str) -> str:
    """Return a clone with the branches 'one' and 'two', of one commit each."""
    path = os.path.join(work, 'tree')
    subprocess.run(['git', 'clone', '-q', '--shared', tree, path], check=True)
    for words in (('branch', 'start'), ('checkout', '-q', '-b', 'one', '--track', 'start'),
                  ('-c', 'user.name=Bench', '-c', 'user.email=bench@example.com', 'commit', '-q',
                   '--allow-empty', '-m', 'Nothing'), ('branch', '-q', 'two'),
                  ('branch', '-q', '-u', 'start', 'two')):
        subprocess.run(['git', *words], cwd=path, check=True)
    return path


def data_lines(path: str) -> List[str]:
    """Return the lines of a boards.cfg that are no comments."""
    with open(path, encoding='utf-8') as inf:
        return [line.rstrip() for line in inf if not line.startswith('#')]


def show(costs: Dict[str, Dict[str, List[Cost]]]) -> None:
    """Print a line for each case: medians of both, and the ratio."""
    print(f"{'case':12}{'':10}{'wall':>9}{'cpu':>9}{'ratio':>9}   (of wall time)")
    for case in GOOD:
        medians = {name: Cost(statistics.median(cost.wall for cost in cases[case]),
                              statistics.median(cost.cpu for cost in cases[case]))
                   for name, cases in costs.items()}
        for name, cost in medians.items():
            ratio = ''
            if name == 'ours' and 'upstream' in medians:
                ratio = f"{cost.wall / medians['upstream'].wall:.2f}"
            print(f'{case:12}{name:10}{cost.wall:8.3f}s{cost.cpu:8.3f}s{ratio:>9}')


def compare(work: str) -> int:
    """Print how the two lists differ; return the number of different lines."""
    lists = [data_lines(os.path.join(work, f'{name}.cfg')) for name in ('upstream', 'ours')]
    diff = list(difflib.unified_diff(lists[0], lists[1], 'upstream', 'ours', n=0,
                                     lineterm=''))
    print(*diff, sep='\n', end='\n' if diff else '')
    boards = sum(1 for line in lists[1] if line)
    print(f"{boards} boards, the lists {'differ' if diff else 'are equal'}")
    return len(diff)


def main() -> int:
    """Run all; return 0, or 1 if the lists differ."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--tree', required=True, help='a U-Boot source tree')
    parser.add_argument('--upstream', default='', help="another buildman's command")
    parser.add_argument('--ours', default=OURS, help='our command')
    parser.add_argument('--board', default='sandbox', help='the one board that is named')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    programs = {'upstream': args.upstream, 'ours': args.ours}
    if not shutil.which(args.upstream or '/nothing'):
        print(f"*** NO UPSTREAM BUILDMAN ({args.upstream or 'give one with --upstream'}): "
              'timing ours alone, nothing is compared ***')
        del programs['upstream']
    costs: Dict[str, Dict[str, List[Cost]]] = {name: {} for name in programs}
    with tempfile.TemporaryDirectory() as work:
        args.tree = clone(os.path.abspath(args.tree), work)
        config = os.path.join(work, 'config')
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write('[toolchain]\nroot = /usr\n')
        for _ in range(args.rounds):
            for name, program in programs.items():
                one_round(name, [os.path.abspath(shutil.which(program) or program),
                                 '-G', config], args, work, costs[name])
        show(costs)
        if 'upstream' not in programs:
            return 0
        return 1 if compare(work) else 0


if __name__ == '__main__':
    sys.exit(main())
