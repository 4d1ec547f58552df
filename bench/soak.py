#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""The same distributed build over and over, with random faults; the tree has to come out whole.

    bench/soak.py [--runs N] [--seed N] [--machines N] [--boards N] [--commits N]
                  [--only RUN] [--keep] [--slurm]

The machines are this one behind the stand-in for ssh (tests/stub_ssh). In each
run one to three things happen, drawn from the seed and the number of the run:
workers, connections and makes are killed or stopped at a random moment,
connections are cut, damaged or go silent after a random message, commands of
the start-up are refused, the boss is interrupted or killed. What a run leaves
undone the same command has to complete afterwards, with nothing going wrong.

With --slurm the machines come from a real Slurm (tests/slurm.py), and what happens is
that jobs are cancelled or come to their time limit, nodes are drained, slurmctld is
started anew, or the boss is interrupted or killed. Nothing may be left in the queue.

After each run the tree is compared with that of an undisturbed local build, and
nothing may be left: no process, lock or temporary file. A line tells of each
run; the exit status is 0 when all of them were good. --only repeats one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import glob
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Callable, Counter, Dict, List, NamedTuple, Optional, Tuple

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests')
sys.path.insert(0, os.path.abspath(TESTS))

import slurm
import support
from dist_support import LOGS, joblog

from buildman.agent import lock, procfs
from buildman.demo import sample

# Seconds: between two heartbeats, for a run, and until all of it has to be gone
HEARTBEAT = 0.5
RUN_TIME = 180
GONE_TIME = 10

# Temporary files of gcc
_OF_COMPILER = re.compile(r'cc[A-Za-z0-9]{6}\.(?:s|o|c|res|ltrans.*)\Z')

# Steps of the start-up, told apart by what is in their commands
STEPS = ('worker_host', 'git-receive-pack', '--worker')

# Ways of the stand-in to fail after N messages
AFTER = ('cut', 'cut-in', 'kill', 'stop', 'swallow', 'corrupt')


class Fault(NamedTuple):
    """Something that goes wrong.

    Attributes:
        kind: what
        machine: name of the machine, '' for the boss
        when: seconds after the start, or the number of a message
        detail: what else there is to say
    """

    kind: str
    machine: str
    when: float
    detail: str = ''

    def __str__(self) -> str:
        words = [self.kind, self.machine or 'boss', self.detail]
        return ' '.join([*filter(None, words), f'{self.when:.2f}'.rstrip('0').rstrip('.')])


class Soak:
    """The sample, the machines and the tree to compare with."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Make all that the runs share, in a temporary folder."""
        self.args = args
        self.base = tempfile.mkdtemp(prefix='buildman-soak-')
        self.stub = os.path.join(self.base, 'stub')
        self.tmp = os.path.join(self.base, 'tmp')
        for folder in (self.stub, self.tmp):
            os.mkdir(folder)
        self.tree = sample.make_sample(os.path.join(self.base, 'sample'), boards=args.boards,
                                       commits=args.commits)
        tools = sample.make_toolchains(os.path.join(self.base, 'cross'))
        self.names: List[str] = []
        text = f'[distributed]\nheartbeat = {HEARTBEAT}\n{self.machines()}'
        self.config = sample.write_config(os.path.join(self.base, 'config'), tools, extra=text)
        self.mark = f'soak-{os.getpid()}'
        self.ref = os.path.join(self.base, 'ref')
        done = subprocess.run([*self.command(self.ref)], cwd=self.tree.path, env=self.env(),
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self.status = done.returncode
        self.typical = 2.0
        self.of_compilers = 0

    def machines(self) -> str:
        """Return their sections of the configuration."""
        self.names = [f'm{num + 1}' for num in range(self.args.machines)]
        text = '[machines]\n' + ''.join(f'{name} = {name}.example\n' for name in self.names)
        for name in self.names:
            text += f'[machine:{name}]\nmax_load = 0\nwork_dir = {self.work_dir(name)}\n'
        return text

    def work_dir(self, name: str) -> str:
        """Return the work folder of a machine."""
        return os.path.join(self.base, 'work', name)

    def env(self) -> Dict[str, str]:
        """Return the environment of all that is started."""
        env = dict(os.environ, LC_ALL='C.UTF-8', TMPDIR=self.tmp, BM_STUB_DIR=self.stub)
        env['PATH'] = os.path.join(os.path.abspath(TESTS), 'stub_ssh') + ':' + env['PATH']
        env[support.MARK] = self.mark
        return env

    def command(self, out: str, *args: str) -> List[str]:
        """Return a command that builds the branch."""
        return [*support.command(), '-G', self.config, '-b', 'feature', '-o', out, *args]

    def measure(self) -> None:
        """Build once without a fault: moments are drawn from the time that takes."""
        began = time.monotonic()
        out = os.path.join(self.base, 'plain')
        status, text = self.build(out, [])
        self.typical = time.monotonic() - began
        if status != self.status or support.tree_differences(
                self.ref + '/feature', out + '/feature', LOGS):
            sys.exit(f'a build without faults went wrong, status {status}:\n{text}')
        shutil.rmtree(out)

    # -- faults ------------------------------------------------------------

    def draw(self, rng: random.Random) -> List[Fault]:
        """Return what is to go wrong in a run."""
        faults = []
        for name in rng.sample(self.names, rng.randint(1, len(self.names))):
            kind = rng.choice(('kill worker', 'stop worker', 'kill ssh', 'kill make', 'at message',
                               'at message', 'at bytes', 'at step', 'turned away'))
            if kind == 'at message':
                faults.append(Fault(kind, name, rng.randrange(1, 30), rng.choice(AFTER)))
            elif kind == 'at bytes':
                faults.append(Fault(kind, name, rng.randrange(1, 30_000), 'cut-bytes'))
            elif kind == 'at step':
                faults.append(Fault(kind, name, 0, rng.choice(STEPS)))
            else:
                faults.append(Fault(kind, name, rng.uniform(0.2, self.typical)))
        if rng.random() < 0.25:
            faults.append(Fault(rng.choice(('SIGINT', 'SIGTERM', 'SIGKILL')), '',
                                rng.uniform(0.2, self.typical)))
        return faults

    def arm(self, faults: List[Fault]) -> None:
        """Tell the stand-in for ssh how it is to fail."""
        for path in glob.glob(os.path.join(self.stub, '*.ctl*')):
            os.remove(path)
        for fault in faults:
            line = {'at message': f'{fault.detail} {max(3, int(fault.when))} match=--worker'
                    if fault.detail == 'corrupt' else
                    f'{fault.detail} {int(fault.when)} match=--worker',
                    'at bytes': f'cut-bytes {int(fault.when)} match=--worker',
                    'at step': f'cut-now match={fault.detail}',
                    'turned away': 'turned-away times=2'}.get(fault.kind)
            if line:
                with open(os.path.join(self.stub, f'{fault.machine}.example.ctl'), 'a',
                          encoding='utf-8') as outf:
                    outf.write(line + '\n')

    def strike(self, fault: Fault, boss: 'subprocess.Popen[bytes]') -> None:
        """Do what is done from outside, if there is something to do it to."""
        with contextlib.suppress(OSError):
            if not fault.machine:
                boss.send_signal(getattr(signal, fault.kind))
                return
            owner = lock.Owner.from_json(_text(self.work_dir(fault.machine), lock.HELD))
            pid = owner.worker_pid if owner else 0
            if fault.kind in ('kill worker', 'stop worker') and pid and _is_worker(pid):
                os.kill(pid, signal.SIGKILL if fault.kind == 'kill worker' else signal.SIGSTOP)
            elif fault.kind == 'kill ssh':
                for other, text in support.marked_processes(self.mark).items():
                    if 'stub_ssh/ssh' in text and f'{fault.machine}.example' in text:
                        os.kill(other, signal.SIGKILL)
            elif fault.kind == 'kill make' and pid:
                for other, text in support.marked_processes(self.mark).items():
                    if text.startswith('make ') and procfs.parents().get(other) == pid:
                        os.kill(other, signal.SIGKILL)

    # -- one run -----------------------------------------------------------

    def build(self, out: str, faults: List[Fault], *args: str) -> Tuple[int, str]:
        """Build with faults; return the exit status and what was printed."""
        self.arm(faults)
        todo = sorted((fault for fault in faults if not fault.kind.startswith(('at ', 'turned'))),
                      key=lambda fault: fault.when)
        said = os.path.join(self.base, 'said')
        with open(said, 'wb') as outf:
            boss = subprocess.Popen(self.command(out, '--dist', *args), cwd=self.tree.path,
                                    env=self.env(), stdin=subprocess.DEVNULL, stdout=outf,
                                    stderr=subprocess.STDOUT, start_new_session=True)
        began = time.monotonic()
        for fault in todo:
            with contextlib.suppress(subprocess.TimeoutExpired):
                boss.wait(max(0.0, began + fault.when - time.monotonic()))
            if boss.poll() is not None:
                break
            self.strike(fault, boss)
        try:
            boss.wait(RUN_TIME)
        except subprocess.TimeoutExpired:
            boss.kill()
            boss.wait()
            return -999, _text(said)
        return boss.returncode, _text(said)

    def problems(self, out: str, status: int, text: str, ended: Optional[str]) -> List[str]:
        """Return what is wrong after a run.

        Args:
            status: exit status
            text: what was printed
            ended: name of the signal that the boss got, if it got one
        """
        found = []
        # A boss that is killed cannot end a worker that is stopped, nor give up a
        # claim: the next run does, see one()
        with contextlib.suppress(AssertionError):
            support.wait_until(lambda: not self.running(ended), GONE_TIME)
        for pid, line in self.running(ended).items():
            found.append(f'left running: {pid} {line[:150]}')
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if ended != 'SIGKILL':
            found += [f'{name} is locked by {owner}' for name in self.names
                      for owner in [self.holder(name)] if owner]
        # A compiler that is killed cannot remove its own; that is no doing of ours
        for name in os.listdir(self.tmp):
            if _OF_COMPILER.match(name):
                os.remove(os.path.join(self.tmp, name))
                self.of_compilers += 1
        if ended != 'SIGKILL':
            # Who is killed cannot clean up; the next run does, of what is in its way
            found += [f'left: {name}' for name in os.listdir(self.tmp)]
            found += [f'left: {path}' for folder in (os.path.join(out, 'feature'), *map(
                self.work_dir, self.names)) for path in glob.glob(
                    os.path.join(folder, '.bm-work', '*.stage-*'))]
        if status == -999:
            found.append(f'it did not end within {RUN_TIME} seconds')
        if 'Traceback' in text or 'Exception in' in text or 'unexpected ' in text:
            found.append('a traceback, or an error that nobody thought of')
        return found

    def running(self, ended: Optional[str]) -> Dict[int, str]:
        """Return what runs and should not: pid to command line."""
        found = support.marked_processes(self.mark)
        if ended == 'SIGKILL' and any(_is_stopped(pid) for pid in found):
            return {}
        return found

    def holder(self, name: str) -> str:
        """Return who has a machine locked, '' when nobody has."""
        folder = self.work_dir(name)
        owner = lock.who(folder) if os.path.isdir(folder) else None
        return str(owner) if owner else ''

    def one(self, number: int) -> Tuple[List[str], List[Fault], str]:
        """Do one run; return (what is wrong, its faults, a line that tells of it)."""
        rng = random.Random(f'{self.args.seed}/{number}')
        faults = self.draw(rng)
        args = ['--no-local'] if rng.random() < 0.4 else []
        out = os.path.join(self.base, f'out-{number}')
        began = time.monotonic()
        status, text = self.build(out, faults, *args)
        ended = next((fault.kind for fault in faults if not fault.machine), None)
        if status >= 0 and status not in (130, 143):
            ended = None
        bad = self.problems(out, status, text, ended)
        whole = not support.tree_differences(self.ref + '/feature', out + '/feature', LOGS) \
            if os.path.isdir(out + '/feature') else False
        if status == self.status and not whole and 'Not built' not in text and not ended:
            bad.append('the exit status says that all is there')
        if not ended and not whole and 'Not built' not in text and status != 2:
            bad.append(f'something is missing and nobody said so, exit status {status}')
        first, again = text, not whole or ended == 'SIGKILL'
        if again:
            status, text = self.build(out, [], *args)
            bad += self.problems(out, status, text, None)
            if 'busy' in text:
                bad.append('what a dead boss held is not taken over')
            if status != self.status:
                bad.append(f'the second run ended with {status}: {text[-500:]}')
            bad += support.tree_differences(self.ref + '/feature', out + '/feature', LOGS)[:5]
        jobs = [(job['board'], job['commit']) for job in joblog(out + '/feature')
                if job['status'].isdigit()]
        if len(set(jobs)) != len(jobs):
            bad.append('a result was taken twice')
        if bad:
            print(first, '---', text, sep='\n')
        elif not self.args.keep:
            shutil.rmtree(out)
        line = (f"{'ok  ' if not bad else 'BAD '} {number:4d} {time.monotonic() - began:5.1f} s  "
                f"{'completed later' if again else 'complete       '}  "
                f"{' '.join(args) or 'with local'}: "
                + '; '.join(map(str, faults)))
        return bad, faults, line


class SlurmSoak(Soak):
    """The same with a real Slurm."""

    def machines(self) -> str:
        """Start it; return the section of the supply"""
        self.cluster = slurm.Slurm(nodes=self.args.machines)
        self.cluster.start()
        # Those that are lost have others come in their place
        self.names = [f'farm-{num}' for num in range(1, 30)]
        return self.cluster.config(count=self.args.machines,
                                   work_dir=os.path.join(self.base, 'work'))

    def env(self) -> Dict[str, str]:
        """Return the environment of all that is started."""
        return {**super().env(), 'SLURM_CONF': self.cluster.conf}

    def draw(self, rng: random.Random) -> List[Fault]:
        """Return what is to go wrong in a run."""
        faults = [Fault(rng.choice(('scancel', 'scancel', 'drain', 'time limit', 'restart')),
                        f'n{rng.randint(1, self.args.machines)}', rng.uniform(0.2, self.typical))
                  for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.3:
            faults.append(Fault(rng.choice(('SIGINT', 'SIGTERM', 'SIGKILL')), '',
                                rng.uniform(0.2, self.typical)))
        return faults

    def strike(self, fault: Fault, boss: 'subprocess.Popen[bytes]') -> None:
        """Do it."""
        run, node = self.cluster.run, fault.machine
        if not node:
            super().strike(fault, boss)
        elif fault.kind == 'drain':
            run('scontrol', 'update', f'NodeName={node}', 'State=DRAIN', 'Reason=soak')
        elif fault.kind == 'restart':
            self.cluster.stop_controller()
            self.cluster.start_controller()
        else:
            for number, _, _, where in self.cluster.queue():
                if where == node and fault.kind == 'scancel':
                    run('scancel', number)
                elif where == node:
                    run('scontrol', 'update', f'JobId={number}', 'EndTime=now')

    def problems(self, out: str, status: int, text: str, ended: Optional[str]) -> List[str]:
        """Return what is wrong after a run."""
        with contextlib.suppress(AssertionError):
            support.wait_until(lambda: not self.cluster.queue(), GONE_TIME)
        found = [f'left in the queue: {job}' for job in self.cluster.queue()]
        for node in range(1, self.args.machines + 1):
            self.cluster.run('scontrol', 'update', f'NodeName=n{node}', 'State=RESUME')
        return found + super().problems(out, status, text, ended)

    def holder(self, name: str) -> str:
        """Return who has it; a claim stays if its job ended before the worker began"""
        folder = self.work_dir(name)
        owner = lock.who(folder) if os.path.isdir(folder) else None
        return str(owner) if owner and owner.worker_pid else ''

    def one(self, number: int) -> Tuple[List[str], List[Fault], str]:
        """Do one run, from free nodes"""
        support.wait_until(lambda: self.cluster.run('sinfo', '-h', '-o', '%T').split() == ['idle'],
                           RUN_TIME, 'all nodes to be idle')
        return super().one(number)


def _text(*parts: str) -> str:
    """Return the content of a file, '' when there is none."""
    try:
        with open(os.path.join(*parts), encoding='utf-8', errors='replace') as inf:
            return inf.read()
    except OSError:
        return ''


def _is_worker(pid: int) -> bool:
    """Return whether a process is a worker, not one that got its number since."""
    return '--worker' in _text(f'/proc/{pid}/cmdline')


def _is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal."""
    return _text(f'/proc/{pid}/stat').rpartition(')')[2].split()[:1] == ['T']


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    whole: Callable[[str], int] = int
    parser.add_argument('--runs', type=whole, default=100)
    parser.add_argument('--seed', type=whole, default=1)
    parser.add_argument('--machines', type=whole, default=3)
    parser.add_argument('--boards', type=whole, default=4)
    parser.add_argument('--commits', type=whole, default=3)
    parser.add_argument('--only', type=whole, help='just the run of this number')
    parser.add_argument('--keep', action='store_true', help='keep all that was made')
    parser.add_argument('--slurm', action='store_true', help='with a real Slurm')
    args = parser.parse_args()
    soak = SlurmSoak(args) if args.slurm else Soak(args)
    soak.measure()
    print(f'without faults: {soak.typical:.1f} s', flush=True)
    kinds: Counter[str] = collections.Counter()
    failed: List[int] = []
    began = time.monotonic()
    numbers = [args.only] if args.only is not None else list(range(1, args.runs + 1))
    for number in numbers:
        bad, faults, line = soak.one(number)
        print(line, flush=True)
        for text in bad:
            print(f'     {text}', flush=True)
        failed += [number] if bad else []
        kinds.update(f'{fault.kind} {fault.detail}'.strip() for fault in faults)
    print(f"{len(numbers) - len(failed)} of {len(numbers)} runs gave the undisturbed tree and left "
          f'nothing behind, in {time.monotonic() - began:.0f} s; faults: '
          + ', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items())))
    if soak.of_compilers:
        print(f'{soak.of_compilers} temporary files of compilers that were killed')
    if failed:
        print(f"bad: {' '.join(map(str, failed))} (repeat with --seed {args.seed} --only N); "
              f"what there is of it is in '{soak.base}'")
        return 1
    if not args.keep:
        shutil.rmtree(soak.base)
    return 0


if __name__ == '__main__':
    sys.exit(main())
