#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Runs every call of buildman that a U-Boot tree makes, with another buildman and with ours.

    bench/real_calls.py TREE [--upstream BUILDMAN] [--list] [--mentions] [-k WORD]

The calls come from the tree's CI files, Makefiles, scripts, Python programs and
documentation (see calls_in_tree.py); not from tools/buildman and doc/build/buildman.rst,
upstream's own program and manual. Each is run on a clone of the tree; what would build
gets -n there, and is run as it stands on the sample tree, with boards of the sample in
place of those that it names. Exit statuses, text and results are compared. Differences
that have a known reason are counted with that reason (EXPLAINED); any other is shown, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from calls_in_tree import SKIPPED, Call, find_calls

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
TOOLS = os.path.join(TOP, 'tools')
sys.path.insert(0, TOOLS)

from buildman.demo import sample

OURS = os.path.join(TOOLS, 'buildman', 'buildman')

# What may differ: a line of difference ('-': only theirs, '+': only ours, 'exit: THEIRS
# OURS'), what the call or one of the two outputs must have for it to count, and why it is as
# it should be. One entry for each kind of line, none for a whole call
EXPLAINED: Sequence[Tuple[str, str, str]] = (
    (r'-Checking for Kconfig changes\.\.\. OUT/boards\.cfg is up to date\. Nothing to do\.$', '-v',
     'theirs tells with -v that its list of boards was still right'),
    (r'exit: 1 2$', 'No matching boards found',
     'a selection without boards is 2 in ours, as all wrong usage'),
    (r'-(usage: buildman|  +(\[|<)|  +terms)|-buildman: error: |\+buildman: .* \(see --help\)$',
     'usage: buildman', 'theirs shows all flags when one is wrong, ours names the wrong one'),
    (r'[-+](buildman: )?No matching boards found', '', 'ours tells what was asked for'),
    (r'\+Boards not found: ', 'No matching boards found', 'ours tells which names are none'),
    (r'\+buildman: there is no result in ', ' -s',
     'ours tells that there is nothing yet to summarise'),
    (r'-result (\S+/)?(sizes|u-boot\.cfg|\.config)$', 'CONFIG adjustments did not take effect',
     'when -a fails, theirs builds the configuration that was not asked for; ours does not'),
    (r'(result err: )?[-+]\+?[~\w]+(=\S*)? +Missing expected line: ',
     r'Missing expected line: .*\\n',
     r'when several -a fail, theirs prints a backslash and an n between the lines of its table'),
    (r'\+configuration file .* in \[toolchain\]: nothing fits ', '-G',
     'ours tells of an entry of the configuration without effect'),
    (r'\+result (\S+/)?sizes$', ' -O ',
     'with -O, which is for sandbox, theirs finds no size program for other boards'),
)

# Why a call is not run
NOT_RUN = {
    '-t': 'runs the tests of the program itself, each has its own',
    'package': 'makes a package with what pip downloads',
    'network': 'downloads compilers',
}

# Flags that take a value, as letters; a cluster ends at one of them
_VALUED = 'abcgGjoORTx'

_PROGRESS = re.compile(r'^(\s*\d+\s+\d+\s+\d+ */\d+\s.*|Starting build\.\.\.|\s*)$')

# What the sample gets for names of real boards
_BOARD = 'anvil'


class Outcome(NamedTuple):
    """What a run gave: exit status, text without what differs from run to run, results."""

    status: int
    lines: Tuple[str, ...]
    results: Tuple[Tuple[str, str], ...] = ()


class Difference(NamedTuple):
    """A line of difference and its reason, '' if there is none."""

    line: str
    why: str


def letters(words: Sequence[str]) -> List[str]:
    """Return the flags of a call: '-w' for each letter of a cluster, and long ones."""
    found: List[str] = []
    for word in words:
        if word.startswith('--'):
            found.append(word.split('=')[0])
        elif word.startswith('-'):
            for letter in word[1:]:
                found.append('-' + letter)
                if letter in _VALUED:
                    break
    return found


def kind_of(words: Sequence[str]) -> str:
    """Return what a call does: 'info', 'manual', 'summary', 'network', '-t' or 'build'."""
    have = letters(words)
    if '-H' in have or '--full-help' in have:
        return 'manual'
    if '-t' in have or '--test' in have:
        return '-t'
    if '--fetch-arch' in have and words[-1] != '--fetch-arch':
        return 'network'
    for flag in have:
        if flag in ('-n', '--dry-run', '-h', '--help', '--maintainer-check', '--fetch-arch',
                    '--list-tool-chains'):
            return 'info'
    return 'summary' if '-s' in have or '--summary' in have else 'build'


def with_output(words: Sequence[str], out: str) -> List[str]:
    """Return the words with another folder for -o, if they have one."""
    done: List[str] = []
    follows = False
    for word in words:
        done.append(out if follows else word)
        follows = word in ('-o', '--output-dir')
    return done


def for_sample(words: Sequence[str], targets: Sequence[str]) -> List[str]:
    """Return the words with boards of the sample in place of real ones."""
    done: List[str] = []
    before = ''
    archs = ('arm', 'aarch64', 'riscv', 'sandbox', 'm68k')
    terms = 0
    for word in words:
        if before in ('--board', '--boards'):
            done.append(word if word in targets else _BOARD)
        elif word.startswith('-') or before.startswith('--') or (
                before[:1] == '-' and before[-1:] in _VALUED):
            done.append(word)
        elif word in archs:
            done.append(word.replace('m68k', 'arm'))
            terms += 1
        else:
            terms += 1
            if not done or done[-1] != 'riscv':
                done.append('riscv')
        before = word
    return done


class Runner:
    """Runs calls with one program, in places that both programs find the same."""

    def __init__(self, program: str, work: str, name: str) -> None:
        self.program = program
        self.name = name
        self.work = work
        self.out = ''
        self.home = os.path.join(work, f'home-{name}')
        os.makedirs(self.home)

    def run(self, words: Sequence[str], cwd: str, config: str = '') -> Outcome:
        """Run a call; -o leads to a folder beside that of the tree."""
        self.out = f'{os.path.dirname(cwd)}-out-{self.name}'
        env = {name: value for name, value in os.environ.items()
               if name not in ('MAKEFLAGS', 'CROSS_COMPILE', 'XDG_CACHE_HOME')}
        env.update(HOME=self.home, LC_ALL='C.UTF-8', COLUMNS='80',
                   PATH=os.path.join(self.work, 'bin') + ':' + os.environ['PATH'])
        if config:
            shutil.copy(config, os.path.join(self.home, '.buildman'))
        done = subprocess.run([self.program, *with_output(words, self.out)], cwd=cwd, env=env,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=1800)
        if kind_of(words) == 'manual':
            # Each has its own; that of upstream is not for us to read
            return Outcome(done.returncode, ('a manual' if done.stdout else 'nothing',))
        return Outcome(done.returncode, tuple(self.plain(done.stdout) + self.plain(done.stderr)),
                       tuple(self.results(cwd)))

    def plain(self, data: bytes) -> List[str]:
        """Return the lines of an output without progress and times."""
        text = data.decode('utf-8', 'replace').replace(self.out, 'OUT').replace(self.home, '~')
        text = text.replace(self.work, 'WORK')
        lines: List[str] = []
        for line in text.split('\n'):
            parts = [part.rstrip() for part in line.split('\r') if not _PROGRESS.match(part)]
            if parts:
                lines.append(re.sub(r'(total built), duration.*', r'\1', ' '.join(parts)))
        return lines

    def results(self, cwd: str) -> List[Tuple[str, str]]:
        """Return what is in result folders: path and the text of small files."""
        found: List[Tuple[str, str]] = []
        places = [self.out, os.path.join(os.path.dirname(cwd), 'current')]
        for place in places:
            for folder, dirs, names in os.walk(place):
                dirs[:] = [name for name in dirs if not name.startswith('.')]
                for name in names:
                    if name in ('done', 'err', 'sizes', 'u-boot.cfg', '.config'):
                        path = os.path.join(folder, name)
                        with open(path, encoding='utf-8', errors='replace') as inf:
                            found.append((os.path.relpath(path, place), inf.read()))
        return sorted(found)

    def clean(self, cwd: str) -> None:
        """Remove what a build has left."""
        above = os.path.dirname(cwd)
        for path in (f'{above}-out-{self.name}', os.path.join(above, 'current'),
                     os.path.join(above, 'boards.cfg'), os.path.join(above, '.bm-work')):
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)
        subprocess.run(['git', 'clean', '-fdxq'], cwd=cwd, check=True)
        subprocess.run(['git', 'checkout', '-q', '.'], cwd=cwd, check=True)


def compare(words: Sequence[str], theirs: Outcome, ours: Outcome) -> List[Difference]:
    """Return the differences of two outcomes of a call."""
    context = '\n'.join([' '.join(['', *words, '']), *theirs.lines, *ours.lines])
    lines: List[str] = []
    if theirs.status != ours.status:
        lines.append(f'exit: {theirs.status} {ours.status}')
    lines += [line for line in difflib.unified_diff(theirs.lines, ours.lines, lineterm='', n=0)
              if not line.startswith(('---', '+++', '@@'))]
    for num, sign in ((0, '-'), (1, '+')):
        mine, other = (theirs, ours)[num], (ours, theirs)[num]
        there = dict(other.results)
        for path, text in mine.results:
            if path not in there:
                lines.append(f'{sign}result {path}')
            elif not num and there[path] != text:
                lines += [f'result {path}: {line}' for line in difflib.unified_diff(
                    text.splitlines(), there[path].splitlines(), lineterm='', n=0)
                    if not line.startswith(('---', '+++', '@@'))]
    return [Difference(line, next((why for rexp, needs, why in EXPLAINED if re.match(rexp, line)
                                   and re.search(needs, context)), ''))
            for line in lines]


class Report:
    """Counts, and prints a line for each run."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.reasons: Dict[str, int] = collections.Counter()
        self.counts: Dict[str, int] = collections.Counter()
        self.rows: List[Tuple[str, str, str, str]] = []

    def add(self, call: Call, what: str, words: Sequence[str], theirs: Outcome,
            ours: Outcome) -> None:
        """Note one run."""
        diffs = compare(words, theirs, ours)
        bad = [diff for diff in diffs if not diff.why]
        for why in {diff.why for diff in diffs if diff.why}:
            self.reasons[why] += 1
        verdict = 'DIFFERENT' if bad else 'explained' if diffs else 'equal'
        self.counts[verdict] += 1
        shown = ' '.join(words)
        self.rows.append((call.where, f'{theirs.status} {ours.status}', verdict,
                          f'{what}: {shown if len(shown) < 100 else shown[:97] + "..."}'))
        print(f'{verdict:9}  {call.where}  {self.rows[-1][3]}', flush=True)
        for diff in diffs if self.verbose else bad[:20]:
            print(f'    {diff.line[:200]}' + (f'   [{diff.why}]' if diff.why else ''))

    def skip(self, call: Call, why: str) -> None:
        """Note a call that is not run."""
        self.counts['not run'] += 1
        self.rows.append((call.where, '', 'not run', f'{call.text[:60]} ({why})'))
        print(f'not run    {call.where}  {call.text[:60]}: {why}', flush=True)

    def check(self, call: Call, good: bool, what: str) -> None:
        """Note something that is looked at only."""
        verdict = 'equal' if good else 'DIFFERENT'
        self.counts[verdict] += 1
        self.rows.append((call.where, '', verdict, what))
        print(f'{verdict:9}  {call.where}  {what}', flush=True)

    def table(self) -> int:
        """Print the table and return the exit status."""
        print('\nWHERE                                    EXIT     VERDICT    CALL')
        for where, status, verdict, what in self.rows:
            print(f'{where:40} {status:8} {verdict:10} {what}')
        print('\nExplained differences (runs that have them):')
        for why, count in sorted(self.reasons.items()):
            print(f'  {count:4}  {why}')
        print('\n' + ', '.join(f'{count} {name}' for name, count in sorted(self.counts.items())))
        return 1 if self.counts['DIFFERENT'] else 0


class Trial:
    """The two programs, the tree and the sample."""

    def __init__(self, tree: str, upstream: str, work: str, report: Report) -> None:
        self.report = report
        self.runners = [Runner(upstream, work, 'u'), Runner(OURS, work, 'o')]
        # Each in a folder of its own, as calls without -o write to the one above
        self.tree = os.path.join(work, 'real', 'tree')
        self.sample = os.path.join(work, 'small', 'tree')
        self.own_tree = tree
        self.work = work
        for folder in (self.tree, self.sample):
            os.makedirs(os.path.dirname(folder))
        subprocess.run(['git', 'clone', '-q', '--shared', tree, self.tree], check=True)
        made = sample.make_sample(self.sample)
        self.targets = [board.target for board in made.boards]
        self.config = sample.write_config(os.path.join(work, 'buildman.cfg'),
                                          sample.make_toolchains(os.path.join(work, 'cross')))
        os.makedirs(os.path.join(work, 'bin'))
        # A compiler that jobs name and that need not be here
        os.symlink(shutil.which('gcc') or '/usr/bin/gcc', os.path.join(work, 'bin', 'clang-17'))
        self._done: Set[Tuple[str, ...]] = set()
        self._names: Optional[List[str]] = None

    def names(self) -> List[str]:
        """Return the names of all boards of the tree."""
        if self._names is None:
            got = self.runners[1].run(['-n', '-v', '-o', 'OUT'], self.tree)
            self._names = [name for line in got.lines if line.startswith('   ')
                           for name in line.split()]
        return self._names

    def both(self, words: Sequence[str], cwd: str) -> List[Outcome]:
        """Return what both programs do with a call."""
        return [runner.run(words, cwd, self.config) for runner in self.runners]

    def try_call(self, call: Call) -> None:
        """Run one call in all ways that make sense."""
        words = [name for word in call.args
                 for name in (self.names() if word == '@BOARDS@' else [word])]
        kind = kind_of(words)
        if kind in NOT_RUN:
            self.report.skip(call, NOT_RUN[kind])
            return
        on_tree = ['-n', *words] if kind == 'build' else words
        self.report.add(call, 'tree', on_tree, *self.both(on_tree, self.tree))
        if kind not in ('build', 'summary'):
            return
        small = tuple(for_sample(words, self.targets))
        if small not in self._done:
            self._done.add(small)
            outcomes = []
            for runner in self.runners:
                runner.clean(self.sample)
                if kind == 'summary':
                    # Of a build of the same boards
                    runner.run([word for word in small if not re.match(r'-\w*s', word)],
                               self.sample, self.config)
                outcomes.append(runner.run(small, self.sample, self.config))
                runner.clean(self.sample)
            self.report.add(call, 'sample', small, *outcomes)

    def try_import(self, call: Call) -> None:
        """Look whether ours has what a program imports."""
        name, *used = call.args
        if os.path.exists(os.path.join(TOOLS, 'buildman', f'{name}.py')):
            code = (f'from buildman import {name}\n'
                    f'assert all(hasattr({name}, word) for word in {used!r})')
            good = not subprocess.run([sys.executable, '-c', code], check=False,
                                      env={**os.environ, 'PYTHONPATH': TOOLS}).returncode
            what = f'{call.text}: {", ".join(used)}'
        else:
            path = os.path.join('tools', 'buildman', f'{name}.py')
            good = os.path.exists(os.path.join(self.own_tree, path))
            what = f'{call.text}: the tree\'s own {path}'
        self.report.check(call, good, what)

    def try_config(self, call: Call) -> None:
        """Let both read a configuration file."""
        path = os.path.join(self.work, 'other.cfg')
        with open(path, 'w', encoding='utf-8') as outf:
            # A prefix that must be there, of a compiler of the sample
            outf.write(re.sub(r'= /opt/\S+-$',
                              f'= {self.work}/cross/bin/arm-sample-linux-gnueabi-',
                              call.args[0], flags=re.MULTILINE))
        for words in (['-G', path, '-n', '-o', 'OUT', 'm68k'], ['-G', path, '--list-tool-chains']):
            self.report.add(call, 'tree', words, *self.both(words, self.tree))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('tree', help='a U-Boot repository; it is cloned')
    parser.add_argument('--upstream', default=os.environ.get('UPSTREAM_BUILDMAN', ''),
                        help='the other buildman (default: $UPSTREAM_BUILDMAN)')
    parser.add_argument('--list', action='store_true', help='list the calls and run nothing')
    parser.add_argument('--mentions', action='store_true',
                        help='list what names buildman and is no call, too')
    parser.add_argument('-k', metavar='WORD', default='', help='only calls with this in them')
    parser.add_argument('-v', '--verbose', action='store_true',
                        help='show explained differences, too')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    tree = os.path.abspath(args.tree)
    calls, mentions = find_calls(tree)
    calls = [call for call in calls
             if args.k in f'{call.where} {call.text} {" ".join(call.args)}']
    print(f'{len(calls)} calls; by rule nothing of {", ".join(SKIPPED)}')
    if args.list or args.mentions:
        for call in calls if args.list else ():
            print(f'{call.where}: {call.kind}: {" ".join(call.args) or call.text}')
        for mention in mentions if args.mentions else ():
            print(f'no call: {mention.path}:{mention.line}: {mention.text}')
        return 0
    upstream = shutil.which(args.upstream) if args.upstream else None
    if not upstream:
        print('real_calls.py: name the other buildman with --upstream', file=sys.stderr)
        return 2
    report = Report(args.verbose)
    work = tempfile.mkdtemp(prefix='real-calls-')
    try:
        trial = Trial(tree, os.path.abspath(upstream), work, report)
        for call in calls:
            if call.kind == 'run':
                trial.try_call(call)
            elif call.kind == 'import':
                trial.try_import(call)
            elif call.kind == 'config':
                trial.try_config(call)
            elif call.kind == 'file':
                name = os.path.basename(call.args[0])
                report.check(call, os.path.exists(os.path.join(TOOLS, 'buildman', name)),
                             f'{call.args[0]} is there')
            else:
                report.skip(call, NOT_RUN[call.kind])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report.table()


if __name__ == '__main__':
    sys.exit(main())
