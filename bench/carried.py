#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Check that carried results are those that a build gives, with series made by chance.

Usage: carried.py [--series N] [--seed N] [--keep DIR]
       carried.py --repo DIR --boards A,B [--commits N] [--base COMMIT] [--config FILE]
       carried.py --repo DIR --boards A,B --show FILE [--other BUILDMAN]... [--commits N]
       carried.py --hunt N [--full N]

Without --repo: series of a small tree whose log tells of all that was read (see
tests/traced.py), each built, written anew (other messages, another order, some squashed or
left out, another branch) and built again. With it: one series of a U-Boot tree, with edits
of sources, headers, Kconfig, Makefiles, device trees, defconfigs, scripts, names, modes
and links, some of them taken back. All results are compared with those of a build in
a fresh folder that carries nothing. Prints what was carried, and each difference.

With --show: the makes that are started, and the time, when a series is built that was
reworded, amended in the middle (in FILE, which one of the boards reads), put in another
order, onto another base, under another name, in another folder; by this buildman and others.

With --hunt: series of 33 commits that break each of 12 boards somewhere, hunted; the commits
that are found are compared with those, and for the first few (--full) with all builds.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, Sequence, Tuple

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path[:0] = [os.path.join(TOP, 'tools'), os.path.join(TOP, 'tests')]

from support import tree_differences
from traced import CHANGES, TracedTree

OURS = os.path.join(TOP, 'tools', 'buildman', 'buildman')


def git(repo: str, *args: str) -> str:
    """Return what git says."""
    return subprocess.run(['git', '-c', 'user.name=T', '-c', 'user.email=t@example.com', *args],
                          cwd=repo, check=True, capture_output=True, text=True,
                          errors='surrogateescape').stdout.strip()


class Runs:
    """Builds of one repository.

    Attributes:
        carried: results that were carried, all together
        total: results, of the builds that carry
        wrong: what differs
    """

    def __init__(self, repo: str, work: str, boards: str, words: Sequence[str]) -> None:
        self._repo = repo
        self._work = work
        self._words = ['--boards', boards, *words]
        self._known: Dict[str, str] = {}
        self._count = 0
        self.carried = self.total = 0
        self.wrong: List[str] = []

    def build(self, out: str, branch: str, *words: str) -> str:
        """Build a branch; return the closing line."""
        started, made = time.monotonic(), os.path.join(self._work, 'made')
        with open(made, 'w', encoding='utf-8'):
            pass
        done = subprocess.run([OURS, '-b', branch, '-o', os.path.join(self._work, out),
                               *self._words, *words], cwd=self._repo, capture_output=True,
                              text=True, check=False,
                              env={**os.environ, 'HOME': self._work, 'made': made})
        lines = [line for line in done.stdout.splitlines() if line.startswith('Completed')]
        if not lines:
            sys.exit(f'{out}: it built nothing:\n{done.stdout}{done.stderr}')
        print(f'  {out}: {lines[0]} ({time.monotonic() - started:.0f} s)', flush=True)
        return lines[0]

    def reference(self, branch: str) -> None:
        """Build what no build without carrying has made yet."""
        self._count += 1
        out, anew = f'ref{self._count}', os.path.join(self._work, 'made.anew')
        # The small tree is compiled from nothing then
        with open(anew, 'w', encoding='utf-8'):
            pass
        self.build(out, branch, '--no-result-cache')
        os.unlink(anew)
        for tree, folder in self._results(out, branch).items():
            self._known.setdefault(tree, folder)

    def _results(self, out: str, branch: str) -> Dict[str, str]:
        """Return the folder of each commit, by what it holds"""
        top = os.path.join(self._work, out, branch)
        return {git(self._repo, 'rev-parse', f'{match.group(1)}^{{tree}}'): os.path.join(top, name)
                for name in sorted(os.listdir(top))
                for match in [re.match(r'\d+_g([0-9a-f]+)_', name)] if match}

    def check(self, out: str, branch: str, *words: str) -> None:
        """Build with carrying, and compare with what is known."""
        line = self.build(out, branch, *words)
        self.total += int(re.findall(r'(\d+) total', line)[0])
        self.carried += sum(map(int, re.findall(r'(\d+) (?:carried|skipped)', line)))
        results = self._results(out, branch)
        if not set(results) <= set(self._known):
            self.reference(branch)
        for tree, folder in results.items():
            found = tree_differences(folder, self._known[tree])
            if found:
                self.wrong += [f'{folder} and {self._known[tree]}:', *found]


def rewritten(rnd: random.Random, tree: TracedTree, subjects: List[str], branch: str) -> List[str]:
    """Make a branch of a series as somebody leaves it who has worked on it; return its commits"""
    left = list(subjects)
    for _ in range(rnd.randrange(4)):
        place, other = rnd.randrange(len(left)), rnd.randrange(len(left))
        left[place], left[other] = left[other], left[place]
    for _ in range(rnd.randrange(3)):
        del left[rnd.randrange(len(left))]
    tree.git('checkout', '-q', '-B', branch, 'master')
    left = [name for name in left if tree.can(name) and not tree.change(name)]
    # Other messages, and so other names
    tree.rewrite(tree.git('log', '--reverse', '--format=%T', f'master..{branch}').split(),
                 f'{rnd.random()}', branch=branch)
    return left


def small(count: int, seed: int, work: str) -> Tuple[int, int, List[str]]:
    """Try series of the small tree; return what was carried, of how many, and what is wrong"""
    carried = total = 0
    wrong: List[str] = []
    for num in range(seed, seed + count):
        rnd = random.Random(num)
        top = os.path.join(work, f'{num}')
        os.makedirs(top)
        tree = TracedTree(os.path.join(top, 'repo'))
        subjects = tree.random_changes(rnd, 8)
        print(f'series {num}: ' + '; '.join(subjects))
        runs = Runs(tree.path, top, 'a,b,c', ())
        runs.check('out', 'topic', '--result-cache', os.path.join(top, 'cache'))
        subjects = rewritten(rnd, tree, subjects, 'topic')
        runs.check('out', 'topic')
        rewritten(rnd, tree, [*subjects, *rnd.sample(sorted(CHANGES), 2)], 'other')
        out = rnd.choice(('out', 'fresh'))
        runs.check(out, 'other', '--result-cache', os.path.join(top, 'cache'))
        carried, total = carried + runs.carried, total + runs.total
        wrong += runs.wrong
        if not runs.wrong:
            shutil.rmtree(top)
    return carried, total, wrong


class Editor:
    """Changes a U-Boot tree by chance."""

    def __init__(self, repo: str, rnd: random.Random, boards: Sequence[str]) -> None:
        self._repo = repo
        self._rnd = rnd
        self._boards = boards
        self._made: List[str] = []
        self._count = 0

    def _pick(self, *patterns: str) -> str:
        """Return a file of the tree"""
        names = git(self._repo, 'ls-files', '-z', '--', *patterns).split('\0')
        return self._rnd.choice([name for name in names if name and not os.path.islink(
            os.path.join(self._repo, name))])

    def _append(self, name: str, text: str) -> None:
        """Add a line to a file"""
        with open(os.path.join(self._repo, name), 'a', encoding='utf-8') as outf:
            outf.write(text + '\n')

    def step(self) -> str:
        """Commit one change; return what it is"""
        self._count += 1
        num = self._count
        kind = self._rnd.choice((
            'source', 'source', 'source', 'core', 'core', 'header', 'header', 'new header', 'dts',
            'defconfig', 'own defconfig', 'Kconfig', 'Makefile', 'doc', 'arch', 'rename', 'remove',
            'mode', 'link', 'script', 'env', 'back', 'back'))
        name = ''
        if kind == 'back' and self._made:
            try:
                git(self._repo, 'revert', '--no-edit', self._made.pop())
                return kind
            except subprocess.CalledProcessError:
                git(self._repo, 'reset', '-q', '--hard')
        if kind in ('source', 'core'):
            name = self._pick('common/*.c', 'lib/*.c') if kind == 'core' else (
                self._pick('drivers/*.c', 'cmd/*.c', 'boot/*.c', 'tools/*.c', 'fs/*.c', 'net/*.c'))
            self._append(name, f'/* {num} */\nint carried_{num}[{num}];')
        elif kind == 'header':
            name = self._pick('include/*.h', 'arch/*.h')
            self._append(name, f'/* {num} */')
        elif kind == 'new header':
            name = os.path.join(os.path.dirname(self._pick('include/*.h', 'arch/*.h', 'lib/*.c')),
                                f'carried{num}.h')
            self._append(name, f'#define CARRIED {num}')
        elif kind == 'dts':
            self._append(name := self._pick('*.dts', '*.dtsi'), f'/* {num} */')
        elif kind == 'defconfig':
            self._append(name := self._pick('configs/*_defconfig'), 'CONFIG_BOOTDELAY=7')
        elif kind == 'own defconfig':
            name = f'configs/{self._rnd.choice(self._boards)}_defconfig'
            self._append(name, f'CONFIG_BOOTDELAY={num % 9}')
        elif kind in ('Kconfig', 'Makefile'):
            self._append(name := self._pick(f'*/{kind}'), f'# {num}')
        elif kind == 'doc':
            self._append(name := self._pick('doc/*.rst', '*MAINTAINERS'), f'.. {num}')
        elif kind == 'arch':
            self._append(name := self._pick('arch/mips/*', 'arch/x86/*', 'arch/arc/*'), '')
        elif kind in ('rename', 'remove'):
            # Of something that none of the boards is made of
            name = self._pick('drivers/usb/musb-new/*.c', 'drivers/video/rockchip/*.c',
                              'board/freescale/*.c', 'arch/mips/*.h')
            git(self._repo, *(('rm', '-q', name) if kind == 'remove' else
                              ('mv', name, name[:-2] + f'_{num}' + name[-2:])))
        elif kind == 'mode':
            name = self._pick('scripts/*.sh', 'tools/*.sh', 'common/*.c', 'drivers/*.c')
            os.chmod(os.path.join(self._repo, name), self._rnd.choice((0o755, 0o644)))
        elif kind == 'link':
            name = f'include/carried{num}.h'
            os.symlink('version.h', os.path.join(self._repo, name))
        elif kind == 'script':
            self._append(name := self._pick('scripts/*.sh', 'scripts/*.pl', 'tools/*.py'),
                         f'# {num}')
        elif kind == 'env':
            self._append(name := self._pick('board/*.env', 'include/env/*.env'), f'x{num}=1')
        git(self._repo, 'add', '-A')
        git(self._repo, 'commit', '-q', '--allow-empty', '-m', f'{num} {kind}: {name}')
        self._made.append(git(self._repo, 'rev-parse', 'HEAD'))
        return f'{kind} {name}'


def real(args: argparse.Namespace, work: str) -> Tuple[int, int, List[str]]:
    """Try a series of a U-Boot tree; return what small() does"""
    rnd = random.Random(args.seed)
    repo = os.path.join(work, 'repo')
    git('.', 'clone', '-q', '-s', args.repo, repo)
    for key, val in (('user.name', 'T'), ('user.email', 't@example.com')):
        git(repo, 'config', key, val)
    git(repo, 'checkout', '-q', '-B', 'base', args.base)
    git(repo, 'checkout', '-q', '-b', 'topic', '--track', 'base')
    editor = Editor(repo, rnd, args.boards.split(','))
    for num in range(args.commits - 1):
        print(f'{num + 2}: {editor.step()}', flush=True)
    words = ['-G', os.path.abspath(args.config)] if args.config else []
    runs = Runs(repo, work, args.boards, words)
    runs.reference('topic')
    runs.check('out', 'topic')
    # The same under other names
    parent = git(repo, 'rev-parse', 'base')
    for tree in git(repo, 'log', '--reverse', '--format=%T', 'base..topic').split():
        parent = git(repo, 'commit-tree', tree, '-p', parent, '-m', 'anew')
    git(repo, 'branch', '-q', 'anew', parent)
    git(repo, 'branch', '-q', '--set-upstream-to', 'base', 'anew')
    runs.check('out', 'anew')
    return runs.carried, runs.total, runs.wrong


def hunted(count: int, full: int, seed: int, work: str) -> List[str]:
    """Hunt in series of the small tree; return what is wrong"""
    boards = [f'b{num:02}' for num in range(12)]
    wrong: List[str] = []
    built: List[int] = []
    for num in range(seed, seed + count):
        rnd = random.Random(num)
        top = os.path.join(work, f'{num}')
        os.makedirs(top)
        tree = TracedTree(os.path.join(top, 'repo'))
        tree.git('checkout', '-q', 'master')
        tree.commit('boards', {
            'common/main.c': '#include <common.h>\n#ifdef CONFIG_BREAK\n#error broken\n#endif\n'
                             'int main(void) { return 0; }\n',
            'boards.cfg': ''.join(f'Active  sandbox  -  -  -  -  {name}  {name}  A <a@b>\n'
                                  for name in boards),
            **{f'configs/{name}_defconfig': f'CONFIG_{name.upper()}=y\n' for name in boards}})
        tree.git('checkout', '-q', '-B', 'topic', 'master')
        tree.git('branch', '-q', '--set-upstream-to', 'master')
        places = {name: rnd.randrange(1, 33) for name in boards}
        for place in range(1, 33):
            tree.commit(f'note {place}', {
                'common/other.c': f'int other = {place};\n', **{
                    f'configs/{name}_defconfig': 'CONFIG_BREAK=y\n'
                    for name in boards if places[name] == place}})
        want = {(name, f'note {place}') for name, place in places.items()}
        for out in ['hunt', *(['full'] if num - seed < full else [])]:
            log = os.path.join(top, 'makes')
            folder = counting_make(top, log)
            done = subprocess.run(
                [OURS, '-b', 'topic', '-o', os.path.join(top, out), '--boards', ','.join(boards),
                 *(['--hunt'] if out == 'hunt' else ['--no-result-cache'])], cwd=tree.path,
                capture_output=True, text=True, check=False,
                env={**os.environ, 'HOME': top, 'PATH': f"{folder}:{os.environ['PATH']}"})
            line = next(line for line in done.stdout.splitlines() if line.startswith('Completed'))
            builds = sum(int(number) * (1 if what == 'total' else -1) for number, what in
                         re.findall(r'(\d+) (total|carried|skipped)', line))
            with open(log, encoding='utf-8') as inf:
                makes = sum('_defconfig' not in line for line in inf)
            print(f'series {num}, {out}: {builds} builds, {makes} makes', flush=True)
            if out == 'hunt':
                built.append(builds)
            else:
                done = subprocess.run([OURS, '-b', 'topic', '-o', os.path.join(top, out), '--hunt',
                                       '-s', '--boards', ','.join(boards)], cwd=tree.path,
                                      capture_output=True, text=True, check=False,
                                      env={**os.environ, 'HOME': top})
            found = set(re.findall(r'(?m)^(\w+): ok -> error at \d+ \w+ (.*)$', done.stdout))
            if found != want:
                wrong += [f'{out} {num}:', *map(str, sorted(found ^ want)), done.stderr[-500:]]
        shutil.rmtree(top)
    print(f'{count} series, {len(wrong)} lines of what is wrong; builds: '
          f'{min(built)} to {max(built)} of {12 * 33}')
    return wrong


# Counts the makes that nobody but buildman starts
COUNT = """#!/bin/sh
[ -n "$MAKELEVEL" ] || echo "$*" >> {log}
exec {make} "$@"
"""


def counting_make(work: str, log: str) -> str:
    """Return a folder with a make that adds its words to a file"""
    folder = os.path.join(work, 'bin')
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, 'make')
    with open(path, 'w', encoding='utf-8') as outf:
        outf.write(COUNT.format(log=log, make=shutil.which('make')))
    os.chmod(path, 0o755)
    with open(log, 'w', encoding='utf-8'):
        pass
    return folder


class Shown:
    """Builds of a series by several buildmans, with the makes and the time that they take"""

    def __init__(self, args: argparse.Namespace, work: str) -> None:
        self._args = args
        self._work = work
        self._log = os.path.join(work, 'makes')
        self._path = f"{counting_make(work, self._log)}:{os.environ['PATH']}"
        self.repo = os.path.join(work, 'repo')

    def build(self, what: str, branch: str, out: str = 'out', only_ours: bool = False) -> None:
        """Build a branch with all of them, print a line for each."""
        for num, command in enumerate([OURS, *([] if only_ours else self._args.other)]):
            words = [command, '-b', branch, '-o', os.path.join(self._work, f'{num}-{out}'),
                     '--boards', self._args.boards]
            if command == OURS:
                words += ['--result-cache', os.path.join(self._work, 'cache')]
            with open(self._log, 'w', encoding='utf-8'):
                pass
            started, before = time.monotonic(), os.times()
            done = subprocess.run(words, cwd=self.repo, capture_output=True, text=True,
                                  check=False, env={**os.environ, 'HOME': self._work,
                                                    'PATH': self._path})
            after = os.times()
            cpu = after[2] + after[3] - before[2] - before[3]
            with open(self._log, encoding='utf-8') as inf:
                makes = len(inf.readlines())
            lines = [line for line in done.stdout.splitlines() if line.startswith('Completed')]
            print(f'{what:30} {"this" if command == OURS else command}: {makes} makes, '
                  f'{cpu:.1f} s of processors, {time.monotonic() - started:.1f} s; '
                  f'{lines[0] if lines else done.stdout[-200:] + done.stderr[-200:]}', flush=True)


def show(args: argparse.Namespace, work: str) -> None:
    """Print how many makes each buildman starts for what people do to a series"""
    shown = Shown(args, work)
    repo = shown.repo
    git('.', 'clone', '-q', '-s', args.repo, repo)
    git(repo, 'checkout', '-q', '-B', 'base', args.base)
    git(repo, 'checkout', '-q', '-b', 'topic')
    files = (args.show, 'lib/crc8.c', 'doc/README.carried', 'arch/mips/lib/cache.c',
             'cmd/version.c')

    def series(steps: Sequence[int], message: str, branch: str, base: str = 'base',
               extra: int = -1) -> None:
        git(repo, 'checkout', '-q', '-B', branch, base)
        for num in steps:
            name = os.path.join(repo, files[num % len(files)])
            with open(name, 'a', encoding='utf-8') as outf:
                outf.write(f'/* {num} */\n' + ('int more;\n' if num == extra else ''))
            git(repo, 'add', '-A')
            git(repo, 'commit', '-q', '-m', f'{message} {num}')
        git(repo, 'branch', '-q', '--set-upstream-to', base, branch)

    steps = list(range(args.commits - 1))
    middle = args.commits // 2 // len(files) * len(files)
    series(steps, 'first', 'topic')
    shown.build('first', 'topic')
    series(steps, 'reworded', 'topic')
    shown.build('reworded', 'topic')
    series(steps, 'amended', 'topic', extra=middle)
    shown.build('amended in the middle', 'topic')
    series([*steps[:1], steps[2], steps[1], *steps[3:]], 'exchanged', 'topic', extra=middle)
    shown.build('two exchanged', 'topic')
    git(repo, 'checkout', '-q', '-b', 'new', 'base')
    for name in ('doc/new.rst', 'arch/mips/lib/new.c', 'arch/mips/Makefile', 'configs/a_defconfig'):
        with open(os.path.join(repo, name), 'a', encoding='utf-8') as outf:
            outf.write('\n')
    git(repo, 'add', '-A')
    git(repo, 'commit', '-q', '-m', 'new base')
    series(steps, 'rebased', 'topic', 'new', extra=middle)
    shown.build('onto another base', 'topic')
    git(repo, 'branch', '-q', '-m', 'topic', 'renamed')
    shown.build('another name', 'renamed')
    shown.build('another folder', 'renamed', 'other', True)


def main() -> int:
    """Try all, print a line at the end."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0])
    parser.add_argument('--series', type=int, default=10, help='how many of the small tree')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', metavar='DIR', help='work in this new folder, and leave it')
    parser.add_argument('--repo', help='a U-Boot tree')
    parser.add_argument('--boards', default='', help='boards of it')
    parser.add_argument('--commits', type=int, default=60, help='length of the series')
    parser.add_argument('--base', default='HEAD', help='commit to begin with')
    parser.add_argument('--show', metavar='FILE', help='count makes; FILE is read by one board')
    parser.add_argument('--hunt', type=int, metavar='N', help='hunt in so many series')
    parser.add_argument('--full', type=int, default=2, metavar='N',
                        help='build all of so many of them')
    parser.add_argument('--other', action='append', default=[], help='another buildman')
    parser.add_argument('--config', default='', help='configuration (default: none)')
    args = parser.parse_args()
    work = os.path.abspath(args.keep or tempfile.mkdtemp(prefix='carried-'))
    os.makedirs(work, exist_ok=True)
    try:
        if args.show:
            show(args, work)
            return 0
        if args.hunt:
            wrong = hunted(args.hunt, args.full, args.seed, work)
            print('\n'.join(wrong))
            return 1 if wrong else 0
        carried, total, wrong = (real(args, work) if args.repo else
                                 small(args.series, args.seed, work))
    finally:
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)
    print('\n'.join(wrong))
    print(f'{carried} of {total} results carried, '
          f'{sum(line.endswith(":") for line in wrong)} commits with differences')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
