#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Bytes and seconds of pushing a build's source, against a plain `git push`.

    bench/push.py [--commits N] [--build N] [--repo FOLDER]

Makes a repository with thousands of commits (or takes FOLDER, which is not
changed), then pushes to a folder of this machine through a pipe that counts:
first everything, then again, then after three more commits (counted from the
tip), then with an older base. Prints one line for each and the ratios.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))

from buildman.remote import push, scripts, ssh

# Runs its last argument in a shell and counts what goes in and out
COUNTER = '''
import os, subprocess, sys, threading
proc = subprocess.Popen(["sh", "-c", sys.argv[-1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
counts = [0, 0]
def copy(num, src, dst):
    while True:
        data = os.read(src, 1 << 16)
        if not data:
            break
        counts[num] += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(dst, view):]
    if num == 0:
        proc.stdin.close()
threading.Thread(target=copy, args=(0, 0, proc.stdin.fileno()), daemon=True).start()
copy(1, proc.stdout.fileno(), 1)
code = proc.wait()
with open(sys.argv[1], "a") as outf:
    outf.write("%d %d\\n" % tuple(counts))
sys.exit(code)
'''


def make_history(folder, count):
    """Make a repository with a history of small changes."""
    rnd = random.Random(1)
    files = {f'dir{num % 40}/file{num}.c': [f'line {rnd.random()}' for _ in range(80)]
             for num in range(800)}
    subprocess.run(['git', 'init', '-q', '-b', 'master', folder], check=True)
    proc = subprocess.Popen(['git', '-C', folder, 'fast-import', '--quiet'],
                            stdin=subprocess.PIPE)
    write = proc.stdin.write
    for num in range(count):
        write(f'commit refs/heads/master\ncommitter A <a@a> {1600000000 + num} +0000\n'
              f'data 8\nC {num:6d}\n'.encode())
        for name in sorted(files) if num == 0 else rnd.sample(sorted(files), 3):
            files[name][rnd.randrange(80)] = f'line {rnd.random()}'
            text = '\n'.join(files[name])
            write(f'M 100644 inline {name}\ndata {len(text)}\n{text}\n'.encode())
    proc.stdin.close()
    assert proc.wait() == 0
    subprocess.run(['git', '-C', folder, 'gc', '-q'], check=True)


class Bench:
    """Pushes both ways and notes what it took."""

    def __init__(self, tmp, repo):
        self.tmp = tmp
        self.repo = repo
        self.log = os.path.join(tmp, 'counts')
        counter = os.path.join(tmp, 'counter.py')
        with open(counter, 'w', encoding='utf-8') as outf:
            outf.write(COUNTER)
        self.transport = ssh.make_transport('here', shlex.join([sys.executable, counter, self.log]))
        self.owner = scripts.new_owner()

    def counted(self, func):
        """Call a function; return (bytes both ways, seconds)."""
        with open(self.log, 'w', encoding='utf-8'):
            pass
        start = time.monotonic()
        func()
        took = time.monotonic() - start
        with open(self.log, encoding='utf-8') as inf:
            return sum(int(word) for word in inf.read().split()), took

    def ours(self, commits):
        """Initialise, prepare and push as a run does."""
        work = os.path.join(self.tmp, 'work')

        def run():
            answer = scripts.parse_init(self.transport.run(
                scripts.init_script(work, self.owner, 0), 600))
            with push.prepare_push(self.repo, commits, self.owner.run) as plan:
                push.push(plan, 'm', self.transport, f'{work}/.git', answer.have)
        return self.counted(run)

    def plain(self, tip):
        """Push a branch with all its history."""
        far = os.path.join(self.tmp, 'plain.git')
        if not os.path.isdir(far):
            subprocess.run(['git', 'init', '-q', '--bare', far], check=True)

        def run():
            subprocess.run(['git', '-C', self.repo, 'push', '-q', f'here:{far}',
                            f'{tip}:refs/heads/work'], check=True,
                           env={**os.environ, **self.transport.git_env()})
        return self.counted(run)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description='Compare pushes of the source')
    parser.add_argument('--commits', type=int, default=4000, help='length of the history')
    parser.add_argument('--build', type=int, default=20, help='commits of the build')
    parser.add_argument('--repo', help='take this repository')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        repo = args.repo
        if not repo:
            repo = os.path.join(tmp, 'repo')
            make_history(repo, args.commits)
        hashes = subprocess.run(['git', '-C', repo, 'rev-list', '--reverse', 'HEAD'], check=True,
                                capture_output=True, text=True).stdout.split()
        bench = Bench(tmp, repo)
        old = len(hashes) - 3
        steps = [
            ('first push', hashes[old - args.build:old], hashes[old - 1]),
            ('the same again', hashes[old - args.build:old], hashes[old - 1]),
            ('three commits more', hashes[old - args.build:], hashes[-1]),
            ('an older base', hashes[max(0, old - 2 * args.build):], hashes[-1])]
        print(f'{len(hashes)} commits, {args.build} to build')
        print(f"{'':20} {'ours':>12} {'':>8} {'git push':>12} {'':>8} {'bytes':>7} {'time':>7}")
        for what, commits, tip in steps:
            size, took = bench.ours(commits)
            plain_size, plain_took = bench.plain(tip)
            print(f'{what:20} {size:12} {took:7.2f}s {plain_size:12} {plain_took:7.2f}s '
                  f'{size / max(1, plain_size):7.3f} {took / plain_took:7.2f}')


if __name__ == '__main__':
    main()
