#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""What it costs when one of several machines is killed in the middle of a build.

    bench/lost_machine.py [--machines N] [--slots N] [--boards N] [--commits N]
                          [--seconds S] [--rounds N]

The machines are this one without ssh; builds sleep, so that it is the sharing
out that is measured and not this machine's processors. Once without, once with
a machine that is killed when half of the builds are there. Printed are both
times and the ideal: the builds that are left when it dies, the commits that it
was at begun again, on the slots that are left. The exit status is 0 when the
loss cost no more than its share and the time of one board.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple, Tuple

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests')
sys.path.insert(0, os.path.abspath(TESTS))

import support
from dist_support import joblog

from buildman.agent import lock
from buildman.demo import sample, sample_files

# Seconds between heartbeats; a killed worker is noticed by its connection anyhow
HEARTBEAT = 1


class Run(NamedTuple):
    """Seconds from the first build to the last; results at the death; builds done twice."""

    seconds: float
    killed_at: float
    done_then: int
    total: int
    busy: float


class Rig:
    """A sample whose boards sleep, and machines that are this one."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.base = tempfile.mkdtemp(prefix='buildman-lost-')
        specs = [sample_files.BoardSpec(f'b{num:03}', 'sandbox') for num in range(args.boards)]
        self.tree = sample.make_sample(os.path.join(self.base, 'sample'), boards=specs,
                                       commits=args.commits)
        self.knobs = os.path.join(self.base, 'knobs')
        os.mkdir(self.knobs)
        for spec in specs:
            with open(os.path.join(self.knobs, spec.target), 'w', encoding='utf-8') as outf:
                outf.write(f'sleep {args.seconds:g}\n')
        tools = sample.make_toolchains(os.path.join(self.base, 'cross'))
        self.names = [f'm{num + 1}' for num in range(args.machines)]
        text = f'[distributed]\nheartbeat = {HEARTBEAT}\n[worker-env]\nSAMPLE_KNOBS\n[machines]\n'
        text += ''.join(f'{name} = localhost\n' for name in self.names)
        for name in self.names:
            text += (f'[machine:{name}]\ntransport = local\nmax_boards = {args.slots}\n'
                     f'work_dir = {self.work_dir(name)}\n')
        self.config = sample.write_config(os.path.join(self.base, 'config'), tools, extra=text)

    def work_dir(self, name: str) -> str:
        """Return the work folder of a machine."""
        return os.path.join(self.base, 'work', name)

    def build(self, kill: bool) -> Run:
        """Build everything, and kill a machine when half of it is there."""
        out = os.path.join(self.base, 'out')
        shutil.rmtree(out, ignore_errors=True)
        folder = os.path.join(out, 'feature')
        env = dict(os.environ, SAMPLE_KNOBS=self.knobs)
        total = self.args.boards * (self.args.commits + 1)
        with open(os.path.join(self.base, 'said'), 'wb') as said:
            boss = subprocess.Popen(
                [*support.command(), '-G', self.config, '-b', 'feature', '-o', out, '--dist',
                 '--no-local', '--no-skip-unaffected'], cwd=self.tree.path, env=env,
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        killed_at, done_then = 0.0, 0
        while kill and not killed_at and boss.poll() is None:
            done_then = len(glob.glob(os.path.join(folder, '*_g*', '*', 'done')))
            if done_then >= total // 2:
                with open(os.path.join(self.work_dir('m1'), lock.HELD), encoding='utf-8') as inf:
                    owner = lock.Owner.from_json(inf.read())
                assert owner and owner.worker_pid
                killed_at = time.time()
                os.kill(owner.worker_pid, signal.SIGKILL)
            time.sleep(0.02)
        status = boss.wait()
        with open(os.path.join(self.base, 'said'), encoding='utf-8') as inf:
            told = inf.read()
        if status not in (0, 101) or (kill and '[m1] lost' not in told):
            sys.exit(f'the build ended with {status}:\n{told}')
        jobs = [job for job in joblog(folder) if job['status'].isdigit()]
        if len(jobs) != total:
            sys.exit(f'{len(jobs)} results, not {total}:\n{told}')
        first = min(float(job['start']) for job in jobs)
        last = max(float(job['start']) + float(job['seconds']) for job in jobs)
        busy = sum(float(job['seconds']) for job in jobs)
        return Run(last - first, killed_at - first if killed_at else 0.0, done_then, total, busy)

    def close(self) -> None:
        """Remove all that was made."""
        shutil.rmtree(self.base, ignore_errors=True)


def ideal(run: Run, args: argparse.Namespace) -> Tuple[float, float]:
    """Return the best that can be done with the loss, in seconds, and the seconds of a build."""
    each = run.busy / run.total
    slots = args.machines * args.slots
    left_slots = (args.machines - 1) * args.slots
    # What every slot had done of its builds is kept, but for those of the dead machine
    left = run.total * each - run.killed_at * slots + args.slots * each / 2
    return run.killed_at + left / left_slots, each


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--machines', type=int, default=3)
    parser.add_argument('--slots', type=int, default=4, help='of each machine')
    parser.add_argument('--boards', type=int, default=60)
    parser.add_argument('--commits', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=2.0, help='that each build sleeps')
    parser.add_argument('--rounds', type=int, default=1)
    args = parser.parse_args()
    rig = Rig(args)
    good = True
    ratios: Dict[str, List[float]] = {'undisturbed': [], 'ideal': []}
    with contextlib.closing(rig):
        for number in range(args.rounds):
            whole, lost = rig.build(False), rig.build(True)
            best, each = ideal(lost, args)
            bound = best + each * (args.commits + 1)
            good = good and lost.seconds <= bound
            ratios['undisturbed'].append(lost.seconds / whole.seconds)
            ratios['ideal'].append(lost.seconds / best)
            print(f'round {number + 1}: {lost.total} builds of {each:.2f} s on {args.machines} '
                  f'machines with {args.slots} slots: undisturbed {whole.seconds:.1f} s; one '
                  f'killed after {lost.killed_at:.1f} s ({lost.done_then} results): '
                  f'{lost.seconds:.1f} s, ideal {best:.1f} s, bound {bound:.1f} s; '
                  f'{lost.seconds / whole.seconds:.2f} of undisturbed, '
                  f'{lost.seconds / best:.2f} of ideal', flush=True)
    for name, values in ratios.items():
        print(f'with the loss / {name}: {min(values):.2f} to {max(values):.2f}')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
