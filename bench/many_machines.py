#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""What many machines cost the boss: processor time, memory, and how well they are kept busy.

The machines are small programs that speak the protocol and sleep instead of
building; source is really pushed to each.

    bench/many_machines.py [--machines 64] [--boards 3000] [--sleep 0] [--slots 2] [--commits 1]
    bench/many_machines.py --threads 8,16,24,32,64,96,128,256 [--boards 1547] [--scale 0.1]

    bench/many_machines.py --machines 8 --come 60 [--go 30] [--boards 1000] [--sleep 2]

With --come: machines of a supply, which come at a random moment in so many seconds,
with --go leave so many seconds later, and have others come in their place. The bound
is what those that were there could have built.

With --threads: machines of so many slots and different speed, and boards of
different length, as in simulate.py. They are built twice: first with nothing
known of how long they take, then with what the first run told; with --known once,
as if a machine of speed 1 had built all of it before.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, 'tools'))

import simulate

from buildman import machine
from buildman.agent import survey
from buildman.demo import sample
from buildman.remote import scripts, ssh
from buildman.results import durations
from buildman.wire import messages

# Stands for all that runs on a machine but the worker
SHELL = '''#!/bin/sh
case "$2" in
*git-receive-pack*) exec sh -c "$2" ;;
*--worker*) exec {python} -S -E {dir}/worker.py {dir}/result {dir}/machine-$1 ;;
*toolchains*) cat {dir}/probe-$1
    [ -d {dir}/work/$1 ] || cp -r {dir}/template {dir}/work/$1
    echo {dir}/work/$1 ;;
esac
'''

# Supplies a machine
ENGINE = '''#!/bin/sh
sleep $(cat {dir}/come-$BUILDMAN_MACHINE)
echo $(date +%s.%N) {slots} >> {dir}/moves
echo "{dir}/shell $BUILDMAN_MACHINE"
{hold}
'''

# More machines than come
MANY = 500

# A worker that sleeps: argv is the result, and a file with boards at once, speed, and
# the seconds of the commits of each board ('' for all others)
WORKER = '''
import json, os, select, sys, time
line = open(sys.argv[1]).read()
slots, speed, costs, stay, log = json.load(open(sys.argv[2]))
end = time.monotonic() + stay if stay else float("inf")
def say(**msg):
    return "BM> " + json.dumps(msg) + "\\n"
def put(text):
    data = text.encode()
    while data:
        data = data[os.write(1, data):]
put(say(resp="ready", nthreads=slots, slots=slots, version=1, heartbeat_interval=10.0, pid=1))
queue, running, buf, beat = [], [], b"", time.monotonic() + 10
while True:
    wait = max(0, min([item[0] for item in running] + [beat, end]) - time.monotonic())
    if time.monotonic() >= end:
        open(log, "a").write(f"{time.time()} {-slots}\\n")
        os._exit(1)
    if select.select([0], [], [], wait)[0]:
        data = os.read(0, 1 << 16)
        if not data:
            break
        buf += data
        *lines, buf = buf.split(b"\\n")
        for msg in map(json.loads, lines):
            cmd = msg["cmd"]
            if cmd == "configure":
                put(say(resp="configure_done"))
            elif cmd == "build_prepare":
                put(say(resp="build_started", num_threads=slots)
                    + say(resp="worktree_created", thread=0) + say(resp="build_prepare_done"))
            elif cmd == "build_board":
                queue.append((msg["board"], msg["commits"]))
            elif cmd == "cancel":
                before = len(queue) + len(running)
                queue = [item for item in queue if item[0] != msg["board"]]
                running = [item for item in running if item[1] != msg["board"]]
                for _ in range(before - len(queue) - len(running)):
                    put(say(resp="board_done", board=msg["board"]))
            elif cmd == "quit":
                put(say(resp="quit_ack"))
                sys.exit()
    now = time.monotonic()
    if now >= beat:
        beat = now + 10
        put(say(resp="heartbeat", load_avg=0.5, active=len(running)))
    for item in [item for item in running if item[0] <= now]:
        running.remove(item)
        when, board, commits, spent = item
        text = (line.replace("@BOARD@", board).replace('"@UPTO@"', str(commits.pop(0)))
                .replace('"@SECONDS@"', str(spent)))
        if commits:
            spent = costs.get(board, costs[""])[commits[0]] / speed
            running.append((when + spent, board, commits, spent))
        else:
            text += say(resp="board_done", board=board)
        put(text)
    while queue and len(running) < slots:
        board, commits = queue.pop(0)
        put(say(resp="started", board=board, commit_upto=commits[0]))
        # From nothing, whichever commit it is
        spent = costs.get(board, costs[""])[0] / speed
        running.append((now + spent, board, list(commits), spent))
'''


def result_line():
    """Return a result of usual size, with marks for what differs."""
    config = ''.join(f'CONFIG_SYMBOL_{num}=y\n' for num in range(300)).encode()
    files = {'.config': config, 'u-boot.cfg': config, 'autoconf.h': config,
             'toolchain': b'gcc /usr/bin/gcc\n', 'out-cmd': b'make\n', 'out-env': b'A="b"' * 40,
             'u-boot.sizes': b'00000010 T a_function_of_u_boot\n' * 300,
             'u-boot.objdump': b'  0 .text 00001000 00000000\n' * 30}
    text = messages.encode(messages.BuildResult(
        board='@BOARD@', commit_upto=7777, return_code=0, stdout='', stderr='',
        sizes='  1 2 3 4 5 u-boot 00000001\n', load_avg=0.5, files=files, seconds=5555.5))
    text = text.decode() if isinstance(text, bytes) else text
    for number, mark in (('7777', '"@UPTO@"'), ('5555.5', '"@SECONDS@"')):
        text = text.replace(f': {number}', f': {mark}').replace(f':{number}', f':{mark}')
    return text


class Park:
    """The machines and the tree that they build.

    Attributes:
        machines, boards: as in simulate.py, seconds as they are slept
    """

    def __init__(self, work, args):
        """Write the sample, the machines and the configuration."""
        rng = random.Random(args.seed)
        self.work = work
        self.mixed = bool(args.threads)
        threads = ([int(word) for word in args.threads.split(',')] if self.mixed
                   else [args.slots] * args.machines)
        self.tree = sample.make_sample(os.path.join(work, 'tree'), boards=args.boards,
                                       commits=4 if self.mixed else args.commits, instant=True)
        targets = [spec.target for spec in self.tree.boards]
        count = len(self.tree.commits)
        if self.mixed:
            boards = simulate.make_boards(len(targets), count, rng)
            self.boards = [simulate.Board(target, tuple(args.scale * cost for cost in brd.seconds))
                           for target, brd in zip(targets, boards)]
            self.machines = simulate.make_machines(threads, rng, 0.0)
        else:
            self.boards = [simulate.Board(target, (args.sleep,) * args.commits)
                           for target in targets]
            self.machines = [simulate.Machine('', num, 1.0) for num in threads]
        name = 'm{:03}' if not args.come else 'farm-{}'
        if args.come:
            self.machines = self.machines[:1] * MANY
        self.machines = [dataclasses.replace(mach, name=name.format(num), ready=0.0)
                         for num, mach in enumerate(self.machines)]
        self.args = args
        chains = sample.make_toolchains(os.path.join(work, 'cross'))
        text = '[machines]\n' + ''.join(f'{mach.name} = {mach.name}.example\n'
                                        for mach in self.machines)
        for mach in self.machines:
            text += (f'[machine:{mach.name}]\ntransport = {work}/shell {mach.name}\n'
                     f'max_load = 0\nwork_dir = {work}/work/{mach.name}\n')
        if args.come:
            text = (f'[machines]\nfarm\n[machine:farm]\nsupply = {work}/engine\n'
                    f'count = {args.machines}\nwork_dir = {work}/work\n')
            self._write('engine', ENGINE.format(
                dir=work, slots=args.slots,
                hold=f'timeout {args.go} cat' if args.go else 'exec cat'))
            os.chmod(f'{work}/engine', stat.S_IRWXU)
            for mach in self.machines:
                self._write(f'come-{mach.name}', f'{rng.uniform(0, args.come):.2f}')
        self.config = sample.write_config(os.path.join(work, 'config'), chains, extra=text)
        os.makedirs(f'{work}/work')
        self._write('shell', SHELL.format(python=sys.executable, dir=work))
        os.chmod(f'{work}/shell', stat.S_IRWXU)
        self._write('worker.py', WORKER)
        self._write('result', result_line().rstrip('\n') + '\n')
        self._make_machines(chains, args.sleep)

    def _write(self, name, text):
        """Write a file"""
        with open(os.path.join(self.work, name), 'w', encoding='utf-8') as outf:
            outf.write(text)

    def _make_machines(self, chains, sleep):
        """Write what each machine is, and what it says of itself"""
        here = ssh.LocalTransport('localhost')
        here.run(scripts.init_script(f'{self.work}/template', scripts.new_owner()), 60)
        gccs = {arch: os.path.join(chains, 'bin', prefix + 'gcc')
                for arch, prefix in sample.CROSS_PREFIX.items()}
        gccs['sandbox'] = shutil.which('gcc')
        spec = {'work_dir': f'{self.work}/template',
                'toolchains': machine.compiler_spec(gccs, gccs)[0]}
        said = here.run(scripts.probe_script(spec), 60)
        before, mark, data = said.partition(survey.MARK)
        costs = {'': [sleep] * len(self.tree.commits)}
        if self.mixed:
            costs.update({board.target: board.seconds for board in self.boards})
        for mach in self.machines:
            info = {**json.loads(data), 'threads': mach.threads, 'bogomips': 1000 * mach.speed}
            self._write(f'probe-{mach.name}', f'{before}{mark}{json.dumps(info)}\n')
            self._write(f'machine-{mach.name}', json.dumps(
                [mach.threads, mach.speed, costs, self.args.go, f'{self.work}/moves']))

    def know(self):
        """Write the durations of all builds beside the results, as of an earlier run"""
        path = os.path.join(self.work, 'out', 'feature', durations.NAME)
        os.makedirs(os.path.dirname(path))
        with open(path, 'w', encoding='ascii') as outf:
            for board in self.boards:
                for upto, seconds in enumerate(board.seconds):
                    kind = durations.MORE if upto else durations.FULL
                    outf.write(f'{self.tree.commits[upto]}\t{board.target}\t{seconds:.3f}\t'
                               f'{kind}\t-\t1\n')

    def build(self, args, *more):
        """Build everything, and print how it went."""
        program = os.path.join(TOP, 'tools', 'buildman', 'buildman')
        out = f'{self.work}/out/feature'
        argv = [sys.executable, *(['-m', 'cProfile', '-o', args.profile] if args.profile else []),
                program, '-G', self.config, '-b', 'feature', '-o', f'{self.work}/out', *more]
        if not self.mixed:
            argv += ['-c', str(args.commits)]
        # The list of boards is made before, as it has nothing to do with machines
        subprocess.run([*argv, '-n'], cwd=self.tree.path, check=True, stdout=subprocess.DEVNULL)
        start = time.time()
        with open(f'{self.work}/printed', 'wb') as outf:
            proc = subprocess.Popen([*argv, '--dist', '--no-local'], cwd=self.tree.path,
                                    stdout=outf)
        cpu, memory = watch(proc)
        end = time.time()
        with open(f'{out}/.buildman.log', encoding='utf-8') as inf:
            ready = sum(line.rstrip().endswith('ready') for line in inf.read().rpartition(
                ' start: ')[2].splitlines())
        with open(f'{self.work}/printed', encoding='utf-8') as inf:
            print(''.join(line for line in inf if line.startswith('Completed')).strip())
        with open(f'{out}/joblog', encoding='utf-8') as inf:
            jobs = [line.split('\t') for line in inf][1:]
        begun = min(float(job[3]) for job in jobs)
        ended = max(float(job[3]) + float(job[4]) for job in jobs)
        print(f'exit status {proc.returncode}; {ready} machines became ready; first build '
              f'after {begun - start:.1f} s, end after {end - start:.1f} s')
        if self.args.come:
            begun = start
        least = (self.least() - begun if self.args.come else
                 simulate.least_time(self.boards, self.machines))
        if least:
            print(f'builds took {ended - begun:.1f} s, the least possible is {least:.1f} s: '
                  f'{(ended - begun) / least:.3f} times')
        print(f'boss: {cpu:.1f} s of processor ({cpu / len(jobs) * 1000:.2f} ms a build), '
              f'{memory:.0f} MiB', flush=True)


    def least(self):
        """Return when those that came could have been through with all boards."""
        with open(f'{self.work}/moves', encoding='ascii') as inf:
            moves = sorted(tuple(map(float, line.split())) for line in inf)
        left, slots, now = sum(sum(board.seconds) for board in self.boards), 0.0, moves[0][0]
        for when, more in moves:
            if left <= slots * (when - now):
                break
            left -= slots * (when - now)
            slots, now = slots + more, when
        return now + left / slots


def watch(proc):
    """Wait for a process; return (seconds of processor, MiB at most) of itself alone."""
    ticks = memory = 0
    while proc.poll() is None:
        try:
            with open(f'/proc/{proc.pid}/stat', encoding='ascii', errors='replace') as inf:
                fields = inf.read().rpartition(')')[2].split()
            ticks = int(fields[11]) + int(fields[12])
            with open(f'/proc/{proc.pid}/status', encoding='utf-8') as inf:
                for line in inf:
                    if line.startswith('VmHWM'):
                        memory = int(line.split()[1])
        except (OSError, IndexError):
            break
        time.sleep(0.05)
    proc.wait()
    return ticks / os.sysconf('SC_CLK_TCK'), memory / 1024


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--machines', type=int, default=64)
    parser.add_argument('--boards', type=int, default=0, help='default 3000; 1547 with --threads')
    parser.add_argument('--sleep', type=float, default=0.0, help='seconds of a build')
    parser.add_argument('--slots', type=int, default=2)
    parser.add_argument('--come', type=float, default=0.0, help='seconds in which they come')
    parser.add_argument('--go', type=float, default=0.0, help='seconds that each stays')
    parser.add_argument('--commits', type=int, default=1, help='not with --threads')
    parser.add_argument('--threads', default='', help='of each machine, with commas between')
    parser.add_argument('--scale', type=float, default=0.1,
                        help='seconds slept for each second of a board')
    parser.add_argument('--known', action='store_true', help='only with known durations')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--profile', default='', help='file for what cProfile finds')
    args = parser.parse_args()
    args.boards = args.boards or (1547 if args.threads else 3000)
    work = tempfile.mkdtemp(prefix='buildman-many-')
    try:
        park = Park(work, args)
        if park.mixed:
            print(f'{len(park.boards)} boards of {len(park.tree.commits)} commits, machines: '
                  + ', '.join(f'{mach.threads} slots of speed {mach.speed:g}'
                              for mach in park.machines))
            if args.known:
                park.know()
            else:
                print('nothing known of how long boards take:')
                park.build(args)
            print('known how long boards take:')
            park.build(args, '-f')
        else:
            print(f'{args.machines} machines, {args.boards} boards, {args.sleep:g} s each, '
                  f'{args.slots} at once')
            park.build(args)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == '__main__':
    main()
