#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Where the processor time of real builds goes: by hand in one folder, another buildman, ours.

Each builds the same boards and commits anew. What a make costs that is started by
hand or by a buildman is told by kind: configuring, building, building again with one
job. The rest is all that is no make: git, readers of results, the tool itself. It is
processor time, so a machine that has other work does not change it much. Of several
rounds the median counts.

    bench/real_cost.py --repo ~/u-boot --boards zynq_cse_nor,zynq_cse_qspi \\
        --commits master..try [--config FILE] [--other BUILDMAN] [--rounds N] [--ccache]

With --break, instead of the commits, five are built in which each board fails: the
first breaks something, and the others change a comment elsewhere. The argument
says what: see BREAKS.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Dict, List, Mapping, NamedTuple, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = os.path.join(os.path.dirname(HERE), 'tools', 'buildman', 'buildman')

# What fails: the file that is changed, and what is added to it
BREAKS = {
    'syntax': ('common/main.c', 'int broken( {\n'),
    'assembler': ('lib/vsprintf.c', 'asm("no_such_instruction");\n'),
    'devicetree': ('dts/Makefile', '$(obj)/dt.dtb: no-such-file\n'),
    # In a section that is linked, or nobody would miss it
    'link': ('common/main.c', 'asm(".pushsection .text.main_loop\\n\\t.long bm_no_such\\n\\t'
             '.popsection");\n'),
    'tool': ('Makefile', 'u-boot.bin: bm-no-tool\nbm-no-tool:\n\tbm-no-such-tool && :\n'),
    # Nothing: for boards that lack one, as pine64_plus without BL31
    'blob': ('cmd/version.c', '/* Another comment */\n')}

# Stands for make: writes what one that no make started has cost, and how it was called
_MAKE = '''#!/bin/bash
[ -z "$MAKELEVEL" ] || exec {make} "$@"
case "$MAKEFLAGS $*" in *jobserver*|*' -j'[2-9]*|*' -j '[2-9]*) jobs=many ;; *) jobs=one ;; esac
TIMEFORMAT='%U %S'" $jobs ${{*//%/}}"
{{ time {make} "$@" 2>&3; }} 3>&2 2>>{log}
'''


class Cost(NamedTuple):
    """What a run took.

    Attributes:
        total: seconds of processor time
        makes: of these, what makes took, by kind
        count: how many makes there were of a kind
    """

    total: float
    makes: Mapping[str, float]
    count: Mapping[str, int]

    def __str__(self) -> str:
        rest = self.total - sum(self.makes.values())
        parts = [f'{kind} {secs:.1f} ({self.count[kind]})' for kind, secs in self.makes.items()]
        return f"{self.total:7.1f} s: {', '.join(parts)}, no make {rest:.1f}"


def kind_of(words: str) -> str:
    """Return what a make was started for"""
    jobs, _, words = words.partition(' ')
    if 'config' in words:
        return 'configure'
    return 'build' if jobs == 'many' else 'build, one job'


class Bench:
    """Builds the same in different ways."""

    def __init__(self, args: argparse.Namespace, work: str) -> None:
        """Make a clone, and a make that tells"""
        self._args = args
        self._work = work
        self._log = os.path.join(work, 'makes')
        self._tree = os.path.join(work, 'tree')
        subprocess.run(['git', 'clone', '-q', '-s', args.repo, self._tree], check=True)
        first, _, last = args.commits.partition('..')
        last = last or first
        for name, commit in (('bm-first', first), ('bm-last', last)):
            commit = self._git('rev-parse', commit, cwd=args.repo)
            self._git('branch', '-q', name, commit)
        if args.breaks:
            self._git('branch', '-q', '-f', 'bm-first', 'bm-last')
            self._break(*BREAKS[args.breaks])
        folder = os.path.join(work, 'bin')
        os.mkdir(folder)
        with open(os.path.join(folder, 'make'), 'w', encoding='utf-8') as outf:
            outf.write(_MAKE.format(make=shlex.quote(shutil.which('make') or ''),
                                    log=shlex.quote(self._log)))
        os.chmod(os.path.join(folder, 'make'), 0o755)
        self._env = {**os.environ, 'PATH': f"{folder}:{os.environ['PATH']}"}
        for name in ('home', 'empty'):
            os.mkdir(os.path.join(work, name))
        self._env.update(HOME=os.path.join(work, 'home'), CROSS_COMPILE='')

    def _git(self, *words: str, cwd: str = '') -> str:
        """Run git in the clone, return what it says"""
        return subprocess.run(
            ['git', '-c', 'user.name=A', '-c', 'user.email=a@b', *words], check=True, text=True,
            cwd=cwd or self._tree, stdout=subprocess.PIPE).stdout.strip()

    def _break(self, name: str, text: str) -> None:
        """Make commits at which boards fail"""
        self._git('checkout', '-q', 'bm-last')
        for num in range(5):
            with open(os.path.join(self._tree, name), 'a', encoding='utf-8') as outf:
                outf.write(text)
            self._git('commit', '-q', '-a', '-m', f'Commit {num}')
            name, text = 'cmd/version.c', '/* A comment */\n'

    def _cost(self, commands: Sequence[Sequence[str]], cwd: str) -> Cost:
        """Run commands, which may fail; return what they took"""
        with open(self._log, 'wb'):
            pass
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for words in commands:
            subprocess.run(words, cwd=cwd, env=self._env, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        makes: Dict[str, float] = collections.Counter()
        count: Dict[str, int] = collections.Counter()
        with open(self._log, encoding='utf-8', errors='replace') as inf:
            for line in inf:
                user, system, words = line.rstrip('\n').split(' ', 2)
                makes[kind_of(words)] += float(user) + float(system)
                count[kind_of(words)] += 1
        return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                    makes, count)

    def by_hand(self, out: str) -> Cost:
        """Build board after board in one folder, as one would without a tool"""
        commits = ['bm-first', *self._git('rev-list', '--reverse', 'bm-first..bm-last').split()]
        if self._args.breaks:
            del commits[0]
        commands: List[List[str]] = []
        for board in self._args.boards.split(','):
            words = ['make', f'O={out}', f'CROSS_COMPILE={self._args.cross}']
            for commit in commits:
                commands.append(['git', 'checkout', '-q', '-f', commit])
                if commit == commits[0]:
                    commands.append([*words, f'{board}_defconfig'])
                commands.append([*words, f'-j{os.cpu_count()}'])
        return self._cost(commands, self._tree)

    def by(self, command: str, out: str, cache: str, *more: str) -> Cost:
        """Build with a buildman, and with a cache of compiled objects of its own"""
        self._env['CCACHE_DIR'] = cache
        self._git('checkout', '-q', '-f', 'bm-last')
        self._git('branch', '-q', '--set-upstream-to=bm-first')
        which = ['-b', 'bm-first..bm-last' if self._args.breaks else 'bm-last']
        if self._args.commits.partition('..')[2] == '':
            which = ['-b', 'bm-last', '-c', '1']
        words = [command, *which, '-o', out, '--boards', self._args.boards]
        words += ['-G', self._args.config] if self._args.config else []
        words += ['--ccache'] if self._args.ccache else []
        words += more
        # The list of boards is kept from run to run
        subprocess.run([*words, '-n'], cwd=self._tree, env=self._env, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self._cost([words], self._tree)


def main() -> None:
    """Measure, and print ratios."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repo', required=True, help='git repository of U-Boot')
    parser.add_argument('--boards', default='zynq_cse_nor,zynq_cse_qspi')
    parser.add_argument('--commits', default='HEAD~2..HEAD', help='FIRST..LAST, or one')
    parser.add_argument('--cross', default='arm-linux-gnueabihf-', help='for the makes by hand')
    parser.add_argument('--config', default='')
    parser.add_argument('--other', default=os.environ.get('UPSTREAM_BUILDMAN', ''))
    parser.add_argument('--break', dest='breaks', choices=BREAKS, default='')
    parser.add_argument('--ccache', action='store_true')
    parser.add_argument('--own', action='append', default=[], metavar='FLAG',
                        help='one more for ours, as --own=--no-ccache')
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--no-hand', action='store_true', help='no makes by hand')
    args = parser.parse_args()
    costs: Dict[str, List[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix='real-cost-') as work:
        bench = Bench(args, work)
        for num in range(args.rounds):
            for name in (*(() if args.no_hand else ('by hand',)),
                         *(('other',) if args.other else ()), 'ours'):
                out = os.path.join(work, f'{name.replace(" ", "-")}{num}')
                # With --ccache it is kept from round to round; else each begins with nothing
                cache = os.path.join(work, f'cache-{name}' if args.ccache else f'cache-{name}{num}')
                cost = (bench.by_hand(out) if name == 'by hand' else
                        bench.by(args.other, out, cache) if name == 'other' else
                        bench.by(OURS, out, cache, *args.own))
                costs.setdefault(name, []).append(cost)
                print(f'{name:8} {cost}', flush=True)
    total = {name: statistics.median(cost.total for cost in some) for name, some in costs.items()}
    for name, seconds in total.items():
        if name != 'ours':
            print(f"ours / {name}: {total['ours'] / seconds:.2f}")


if __name__ == '__main__':
    sys.exit(main())
