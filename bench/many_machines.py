#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""What many machines cost the boss: processor time, memory, and how well they are kept busy.

The machines are small programs that speak the protocol and sleep instead of
building; source is really pushed to each.

    bench/many_machines.py [--machines 64] [--boards 3000] [--sleep 0] [--slots 2]
"""

import argparse
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, 'tools'))

from buildman import machine, protocol, sample, scripts, ssh  # noqa: E402

# Stands for all that runs on a machine but the worker
SHELL = '''#!/bin/sh
case "$2" in
*git-receive-pack*) exec sh -c "$2" ;;
*--worker*) exec {python} -S -E {dir}/worker.py {dir}/result {sleep} {slots} ;;
*toolchains*) cat {dir}/probe
    [ -d {dir}/work/$1 ] || cp -r {dir}/template {dir}/work/$1
    echo {dir}/work/$1 ;;
esac
'''

# A worker that sleeps: argv is the result, seconds for a build, boards at once
WORKER = '''
import json, os, select, sys, time
line, pause, slots = open(sys.argv[1]).read(), float(sys.argv[2]), int(sys.argv[3])
def say(**msg):
    return "BM> " + json.dumps(msg) + "\\n"
def put(text):
    data = text.encode()
    while data:
        data = data[os.write(1, data):]
put(say(resp="ready", nthreads=slots, slots=slots, version=1, heartbeat_interval=10.0, pid=1))
queue, running, buf, beat = [], [], b"", time.monotonic() + 10
while True:
    wait = max(0, min([when for when, _, _ in running] + [beat]) - time.monotonic())
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
        board, commits = item[1:]
        put("".join(line.replace("@BOARD@", board).replace('"@UPTO@"', str(upto))
                    for upto in commits) + say(resp="board_done", board=board))
    while queue and len(running) < slots:
        board, commits = queue.pop(0)
        put(say(resp="started", board=board, commit_upto=commits[0]))
        running.append((now + pause * len(commits), board, commits))
'''


def result_line():
    """Return a result of usual size, with marks for what differs."""
    config = ''.join(f'CONFIG_SYMBOL_{num}=y\n' for num in range(300)).encode()
    files = {'.config': config, 'u-boot.cfg': config, 'autoconf.h': config,
             'toolchain': b'gcc /usr/bin/gcc\n', 'out-cmd': b'make\n', 'out-env': b'A="b"' * 40,
             'u-boot.sizes': b'00000010 T a_function_of_u_boot\n' * 300,
             'u-boot.objdump': b'  0 .text 00001000 00000000\n' * 30}
    text = protocol.encode(protocol.BuildResult(
        board='@BOARD@', commit_upto=7777, return_code=0, stdout='', stderr='',
        sizes='  1 2 3 4 5 u-boot 00000001\n', load_avg=0.5, files=files, seconds=0.5))
    text = text.decode() if isinstance(text, bytes) else text
    return text.replace(': 7777', ': "@UPTO@"').replace(':7777', ':"@UPTO@"')


def set_up(work, args):
    """Write the sample, the machines and the configuration; return (config, tree)."""
    tree = sample.make_sample(os.path.join(work, 'tree'), boards=args.boards, commits=1,
                              instant=True)
    chains = sample.make_toolchains(os.path.join(work, 'cross'))
    names = [f'm{num:03}' for num in range(args.machines)]
    text = '[machines]\n' + ''.join(f'{name} = {name}.example\n' for name in names)
    for name in names:
        text += (f'[machine:{name}]\ntransport = {work}/shell {name}\nmax_load = 0\n'
                 f'work_dir = {work}/work/{name}\n')
    config = sample.write_config(os.path.join(work, 'config'), chains, extra=text)
    with open(f'{work}/shell', 'w', encoding='utf-8') as outf:
        outf.write(SHELL.format(python=sys.executable, dir=work, sleep=args.sleep,
                                slots=args.slots))
    os.chmod(f'{work}/shell', stat.S_IRWXU)
    with open(f'{work}/worker.py', 'w', encoding='utf-8') as outf:
        outf.write(WORKER)
    line = result_line()
    with open(f'{work}/result', 'w', encoding='utf-8') as outf:
        outf.write(line if line.endswith('\n') else line + '\n')
    here = ssh.LocalTransport('localhost')
    here.run(scripts.init_script(f'{work}/template', scripts.new_owner()), 60)
    gccs = {arch: os.path.join(chains, 'bin', prefix + 'gcc')
            for arch, prefix in sample.CROSS_PREFIX.items()}
    gccs['sandbox'] = shutil.which('gcc')
    spec = {'work_dir': f'{work}/template', 'toolchains': machine.compiler_spec(gccs, gccs)[0]}
    with open(f'{work}/probe', 'w', encoding='utf-8') as outf:
        outf.write(here.run(scripts.probe_script(spec), 60))
    os.makedirs(f'{work}/work')
    return config, tree


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
    parser.add_argument('--boards', type=int, default=3000)
    parser.add_argument('--sleep', type=float, default=0.0, help='seconds of a build')
    parser.add_argument('--slots', type=int, default=2)
    parser.add_argument('--profile', default='', help='file for what cProfile finds')
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix='buildman-many-')
    try:
        config, tree = set_up(work, args)
        program = os.path.join(TOP, 'tools', 'buildman', 'buildman')
        argv = [sys.executable, *(['-m', 'cProfile', '-o', args.profile] if args.profile else []),
                program, '-G', config, '-b', 'feature', '-c', '1', '-o', f'{work}/out']
        # The list of boards is made before, as it has nothing to do with machines
        subprocess.run([*argv, '-n'], cwd=tree.path, check=True, stdout=subprocess.DEVNULL)
        start = time.time()
        with open(f'{work}/printed', 'wb') as outf:
            proc = subprocess.Popen([*argv, '--dist', '--no-local'], cwd=tree.path, stdout=outf)
        cpu, memory = watch(proc)
        end = time.time()
        with open(f'{work}/out/feature/.buildman.log', encoding='utf-8') as inf:
            ready = sum(line.rstrip().endswith('ready') for line in inf)
        with open(f'{work}/printed', encoding='utf-8') as inf:
            done = [line for line in inf if line.startswith('Completed')]
        first = last = None
        for folder, _, names in os.walk(f'{work}/out/feature'):
            if 'done' in names:
                when = os.stat(os.path.join(folder, 'done')).st_mtime
                first = min(first or when, when)
                last = max(last or when, when)
        print(f'{args.machines} machines ({ready} became ready), {args.boards} boards, '
              f'{args.sleep:g} s each, {args.slots} at once; exit status {proc.returncode}')
        print(''.join(done).strip())
        print(f'first result after {first - start:.1f} s, last after {last - start:.1f} s, '
              f'end after {end - start:.1f} s')
        ideal = -(-args.boards // (args.machines * args.slots)) * args.sleep
        if ideal:
            print(f'builds took {last - first + args.sleep:.1f} s, ideal is {ideal:.1f} s: '
                  f'{(last - first + args.sleep) / ideal:.2f} times')
        print(f'boss: {cpu:.1f} s of processor ({cpu / args.boards * 1000:.2f} ms a build), '
              f'{memory:.0f} MiB')
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == '__main__':
    main()
