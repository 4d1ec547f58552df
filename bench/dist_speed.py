#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""A distributed build by this buildman and by another one: start-up, builds a second, cost.

Both build the same boards, which cost next to nothing, on the same machines, so
what is measured is the cost of the tool. The machines are this one: behind a
stand-in for ssh that costs next to nothing, or with --sshd behind a real sshd.
Rounds alternate between the two, and the best of each counts.

    bench/dist_speed.py --other /path/to/buildman [--sshd] [--machines N] [--rounds N]
                        [--boards N] [--commits N] [--local]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests')
sys.path.insert(0, TESTS)

import sshd
import support

from buildman.demo import sample

# The other one's worker has no compiler for this unless one is configured
SKIPPED = 'sandbox'

# Stands for ssh: hides the load of this machine, for which an older boss would not
# use it. {hop} carries the command out.
_SSH = '''#!/bin/sh
opts=
while :; do
    case $1 in
    -[BbcDEeFIiJLlmOopQRSWw]) opts="$opts $1 $2"; shift 2 ;;
    --) shift; break ;;
    -*) opts="$opts $1"; shift ;;
    *) break ;;
    esac
done
host=$1
shift
[ "$1" = -- ] && shift
cmd=$*
if [ "$cmd" = python3 ]; then
    {hop} | sed 's/"load_1m": [0-9.]*/"load_1m": 0.0/'
    exit
fi
exec {hop}
'''
_HERE = 'env HOME="{homes}/$host" sh -c "cd; $cmd"'
_THERE = '{ssh} -F {config} $opts "$host" "$cmd"'

# prctl(2): orphans below us become our children, so that their time is seen
_SET_CHILD_SUBREAPER = 36


class Cost(NamedTuple):
    """What a run took.

    Attributes:
        first: seconds to the first result, 0 when that is not known
        wall: seconds to the end
        cpu: seconds of processor time, of the boss and all workers
        builds: results
    """

    first: float
    wall: float
    cpu: float
    builds: int

    def __str__(self) -> str:
        return (f'first result after {self.first:5.2f} s, {self.builds} results in '
                f'{self.wall:6.2f} s: {self.builds / self.wall:6.1f} a second, '
                f'{1000 * self.cpu / self.builds:6.1f} ms of processor each')


class Machines:
    """Some machines that are this one, with a home folder each."""

    def __init__(self, folder: str, count: int, toolchains: str, real: bool) -> None:
        """Make them; the server of real ones runs until close().

        Args:
            folder: for all that is needed
            count: how many
            toolchains: folder that has the compilers in bin
            real: behind a real sshd
        """
        self.home = os.path.join(folder, 'home')
        self.bin = os.path.join(folder, 'bin')
        os.makedirs(self.bin)
        os.makedirs(self.home)
        names = [f'm{num + 1}' for num in range(count)]
        self._server = sshd.Sshd(count) if real else None
        if self._server:
            self._server.start()
            homes = self._server.homes
            hop = _THERE.format(ssh=shutil.which('ssh'), config=self._ssh_config(folder, names))
        else:
            homes = [os.path.join(folder, 'homes', name) for name in names]
            hop = _HERE.format(homes=os.path.join(folder, 'homes'))
        # The other one looks for compilers below the home folder alone
        for home in [self.home, *homes]:
            os.makedirs(home, exist_ok=True)
            os.symlink(toolchains, os.path.join(home, 'tc'))
        path = os.path.join(self.bin, 'ssh')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(_SSH.format(hop=hop))
        os.chmod(path, 0o755)
        self.config = os.path.join(folder, 'config')
        lines = ['[toolchain]', f'sample = {self.home}/tc', '[toolchain-alias]', '[machines]',
                 *names]
        for name in names:
            lines += [f'[machine:{name}]', 'max_load = 0']
        with open(self.config, 'w', encoding='utf-8') as outf:
            outf.write('\n'.join(lines) + '\n')

    def _ssh_config(self, folder: str, names: List[str]) -> str:
        """Write a configuration for ssh; return its path"""
        assert self._server
        path = os.path.join(folder, 'ssh_config')
        with open(path, 'w', encoding='utf-8') as outf:
            for name, user in zip(names, self._server.users):
                outf.write(f'Host {name}\n HostName 127.0.0.1\n Port {self._server.port}\n'
                           f' User {user}\n IdentityFile {self._server.path(name)}\n'
                           f' IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n')
        return path

    def environment(self) -> Dict[str, str]:
        """Return the environment of a boss, as a user has it.

        Modules are compiled once and kept, but not among the sources.
        """
        env = {name: val for name, val in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}
        return {**env, 'HOME': self.home, 'PYTHONPYCACHEPREFIX': os.path.join(self.home, 'cache'),
                'PATH': f"{self.bin}:{os.environ.get('PATH', os.defpath)}"}

    def close(self) -> None:
        """End the server."""
        if self._server:
            self._server.stop()


def processor_time() -> float:
    """Return the seconds of processor time of all that we have started and that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: str, words: List[str], tree: sample.SampleTree, chains: str,
            args: argparse.Namespace) -> Cost:
    """Build once, everything new."""
    machines = Machines(folder, args.machines, chains, args.sshd)
    out = os.path.join(folder, 'out')
    targets = ','.join(spec.target for spec in tree.boards if spec.arch != SKIPPED)
    words = [*words, '-G', machines.config, '-b', tree.branch, '-o', out, '--boards', targets]
    try:
        # The list of boards is made before, as it has nothing to do with machines
        subprocess.run([*words, '-n'], cwd=tree.path, env=machines.environment(), check=True,
                       stdout=subprocess.DEVNULL)
        before = processor_time()
        start = time.time()
        done = subprocess.run(
            [*words, '--dist', *([] if args.local else ['--no-local'])], cwd=tree.path,
            env=machines.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False)
        wall = time.time() - start
    finally:
        machines.close()
    cpu = processor_time() - before
    times = [os.stat(os.path.join(where, 'done')).st_mtime
             for where, _, names in os.walk(out) if 'done' in names]
    if not times:
        sys.exit(f"{' '.join(words)}\nbuilt nothing:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    # What was built stays until the end: on some file systems new files cost much
    # more for a while after many were removed
    return Cost(min(times) - start, wall, cpu, len(times))


def best(costs: List[Cost]) -> Cost:
    """Return the best of each figure."""
    return Cost(min(cost.first for cost in costs), min(cost.wall for cost in costs),
                min(cost.cpu for cost in costs), max(cost.builds for cost in costs))


def main() -> None:
    """Measure both, and print the ratios."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--other', default=os.environ.get('UPSTREAM_BUILDMAN', ''),
                        help='the buildman to compare with (default: $UPSTREAM_BUILDMAN)')
    parser.add_argument('--boards', type=int, default=200)
    parser.add_argument('--commits', type=int, default=1,
                        help='commits of the sample, without its upstream commit')
    parser.add_argument('--machines', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--sshd', action='store_true', help='machines behind a real sshd')
    parser.add_argument('--local', action='store_true', help='this machine builds, too')
    args = parser.parse_args()
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if args.sshd and sshd.missing():
        sys.exit(sshd.missing())
    commands = {'ours': support.command()}
    if args.other:
        commands = {'other': args.other.split(), **commands}
    else:
        print('*** there is no other buildman to compare with: ours alone (name it with --other)',
              file=sys.stderr)
    costs: Dict[str, List[Cost]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix='dist-speed-') as base:
        os.chmod(base, 0o755)
        tree = sample.make_sample(os.path.join(base, 'tree'), boards=args.boards,
                                  commits=args.commits, instant=True)
        chains = sample.make_toolchains(os.path.join(base, 'cross'))
        for number in range(args.rounds):
            for name, words in commands.items():
                cost = measure(os.path.join(base, f'{name}{number}'), words, tree, chains, args)
                costs[name].append(cost)
                print(f'{name:6} {cost}', flush=True)
    print('best:')
    for name, runs in costs.items():
        print(f'{name:6} {best(runs)}')
    if 'other' in costs:
        ours, other = best(costs['ours']), best(costs['other'])
        print(f'ours against other: first result {other.first / ours.first:.2f} times sooner, '
              f'{ours.builds / ours.wall / (other.builds / other.wall):.2f} times the builds a '
              f'second, {ours.cpu / ours.builds / (other.cpu / other.builds):.2f} of the '
              'processor time')


if __name__ == '__main__':
    main()
