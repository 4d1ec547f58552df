#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Show that what makes builds faster changes no result.

Usage: features.py [--repo DIR --branch NAME --boards A,B] [--only NAME,NAME]
                   [--random N --seed N]

The same boards and commits are built once with everything switched off, in one
slot, and each board that is named in a run of its own, then with each feature
alone and with all together, each into a fresh folder with -k and -r. Each tree is
compared with the first, file by file, with all images. Differences that are meant
are counted with their reason; any other is shown, and the exit status is 1. Without
--repo the sample tree is built.

With --random the branch is continued, in a clone, by so many commits, each of
which changes a file that is picked at random: a comment, or a #warning, which
shows in the results of all boards that read the file. This is for `skip`.

For each run: seconds, what the closing lines say, and how the tree compares.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, os.path.join(TOP, 'tools'))

from compare_tree import read_tree

from buildman.demo import sample

OURS = os.path.abspath(os.path.join(TOP, 'tools', 'buildman', 'buildman'))

# What the first run is told
OFF = ('-T', '1', '--no-skip-unaffected', '--no-ccache')


class Feature(NamedTuple):
    """Something to switch on.

    Attributes:
        name: for people
        add: words that switch it on
        drop: words of OFF that it replaces
        again: run it a second time, into another folder
    """

    name: str
    add: Tuple[str, ...]
    drop: Tuple[str, ...] = ()
    again: bool = False


FEATURES = (
    Feature('slots', ('-T', '4'), ('-T', '1')),
    # One board after the other in the same folder
    Feature('objects', ()),
    Feature('skip', (), ('--no-skip-unaffected',)),
    Feature('shared-dtc', ('--shared-dtc',)),
    Feature('ccache', ('--ccache',), ('--no-ccache',), again=True),
    Feature('all', ('-T', '4', '--shared-dtc', '--ccache'), OFF),
)


def explain(path: str, off: Optional[bytes], on: Optional[bytes]) -> Optional[str]:
    """Return why a file may differ, None if it may not."""
    if os.path.basename(path) in ('out-cmd', 'out-env') and off is not None and on is not None:
        plain = re.sub(rb' ?HOSTCC=ccache gcc|CROSS_COMPILE="ccache "|ccache ', b'', on)
        if plain == off:
            return 'out-cmd, out-env: ccache stands before the compilers'
    if os.path.basename(path) == 'trace' and off is None:
        return 'trace: what the build read is noted only where builds may be skipped'
    return None


def compare(off: Dict[str, bytes], on: Dict[str, bytes]) -> Tuple[Dict[str, int], List[str]]:
    """Compare two trees.

    Returns:
        (reason -> number of files, files that differ without one)
    """
    known: Dict[str, int] = collections.Counter()
    unknown: List[str] = []
    for path in sorted(off.keys() | on.keys()):
        if off.get(path) == on.get(path):
            known['equal'] += 1
            continue
        reason = explain(path, off.get(path), on.get(path))
        if reason:
            known[reason] += 1
        else:
            unknown.append(path + ('' if path in on else ' is missing') + (
                '' if path in off else ' is new'))
    return known, unknown


def pick(rng: random.Random, names: List[str]) -> Tuple[str, str]:
    """Return a file to change and the line to add to it."""
    # Most boards read files of these folders; of any other a few
    near = [name for name in names if name.startswith(('common/', 'lib/', 'include/', 'arch/arm/'))]
    ends, comment, chance = rng.choice((
        (('.c',), '/* {} */', 0.5), (('.c',), '/* {} */', 0.5), (('.h',), '/* {} */', 0.2),
        (('.dts', '.dtsi'), '/* {} */', 0.3), (('.S',), '/* {} */', 0.5),
        (('_defconfig',), '# {}', 0), (('.rst', 'README', 'MAINTAINERS'), '{}', 0),
        (('Makefile', 'Kconfig', '.py', '.mk'), '# {}', 0)))
    some = [name for name in (near if rng.random() < 0.6 else names) if name.endswith(ends)]
    if rng.random() < chance:
        comment = '#warning {}'
    return rng.choice(some or names), comment


def add_commits(args: argparse.Namespace, work: str) -> None:
    """Continue the branch in a clone, and build that"""
    rng = random.Random(args.seed)
    clone = os.path.join(work, 'clone')

    def git(*words: str) -> str:
        return subprocess.run(['git', '-c', 'user.name=A', '-c', 'user.email=a@example.com',
                               '-C', clone, *words], capture_output=True, text=True,
                              check=True).stdout

    subprocess.run(['git', 'clone', '-q', '-s', '-b', args.branch, args.repo, clone], check=True)
    git('checkout', '-q', '-b', 'random', '--track', args.branch)
    for number in range(args.random):
        name, line = pick(rng, [name for name in git('ls-files').splitlines()
                                if not os.path.islink(os.path.join(clone, name))])
        with open(os.path.join(clone, name), 'a', encoding='utf-8') as outf:
            outf.write('\n' + line.format(f'change {number}') + '\n')
        git('commit', '-qam', f'{name}: {line.format(number)}')
    args.repo, args.branch = clone, 'random'


def build(args: argparse.Namespace, words: List[str], out: str, cache: str,
          boards: str) -> Tuple[str, float]:
    """Build; return the closing lines and the seconds. Ends the program when nothing was built."""
    argv = [OURS, *(['-G', args.config] if args.config else []), '-b', args.branch, '-k', '-r',
            '-o', out, *words]
    if boards:
        argv += ['--boards', boards]
    started = time.monotonic()
    done = subprocess.run(argv, cwd=args.repo, capture_output=True, text=True, check=False,
                          env={**os.environ, 'CCACHE_DIR': cache})
    seconds = time.monotonic() - started
    lines = done.stdout.splitlines()
    last = next((pos for pos, line in enumerate(lines) if line.startswith('Completed')), None)
    if last is None or done.returncode not in (0, 100, 101):
        sys.exit(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return '\n'.join(lines[last:]), seconds


def main() -> int:
    """Build and compare."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--repo', help='git repository (default: the sample)')
    parser.add_argument('--branch', default='feature')
    parser.add_argument('--boards', default='', help='boards to build (default: all)')
    parser.add_argument('--config', default='', help='configuration (default: ~/.buildman)')
    parser.add_argument('--only', default='', help='features, by name')
    parser.add_argument('--random', type=int, default=0, metavar='N',
                        help='add so many commits that change any file')
    parser.add_argument('--seed', type=int, default=1, help='of what is picked')
    parser.add_argument('--work', default=tempfile.gettempdir(), help='folder to work in')
    args = parser.parse_args()
    only = [name for name in args.only.split(',') if name]
    features = [feature for feature in FEATURES if not only or feature.name in only]
    if not features:
        parser.error('features: ' + ', '.join(feature.name for feature in FEATURES))
    if any('--ccache' in feature.add for feature in features) and not shutil.which('ccache'):
        parser.error('ccache is not installed')
    work = tempfile.mkdtemp(prefix='buildman-features-', dir=args.work)
    wrong = 0
    try:
        if not args.repo:
            tree = sample.make_sample(os.path.join(work, 'tree'))
            chains = sample.make_toolchains(os.path.join(work, 'toolchains'))
            args.config = sample.write_config(os.path.join(work, 'config'), chains)
            args.repo, args.branch = tree.path, tree.branch
        if args.random:
            add_commits(args, work)
        name = args.branch.replace('/', '_')
        for board in args.boards.split(','):
            # Then no object is made ready for the next one
            text, seconds = build(args, list(OFF), os.path.join(work, 'off'), '', board)
            print(f'{"off":12} {seconds:7.1f} s  {text}', flush=True)
        off = read_tree(os.path.join(work, 'off', name))
        shutil.rmtree(os.path.join(work, 'off'))
        for feature in features:
            words = [word for word in OFF if word not in feature.drop] + list(feature.add)
            for turn in range(1 + feature.again):
                # Of another length: folders must not show in a result
                out = os.path.join(work, f'{feature.name}{turn}', 'deeper' * turn)
                text, seconds = build(args, words, out, os.path.join(
                    work, f'{feature.name}-cache'), args.boards)
                known, unknown = compare(off, read_tree(os.path.join(out, name)))
                shutil.rmtree(os.path.join(work, f'{feature.name}{turn}'))
                print(f'{feature.name:12} {seconds:7.1f} s  {text}')
                for reason, count in sorted(known.items(), key=lambda item: -item[1]):
                    print(f'{count:20} {reason}')
                for path in unknown[:20]:
                    print(f'    UNEXPLAINED: {path}')
                print(f'{len(unknown):20} unexplained differences', flush=True)
                wrong += len(unknown) + (not known['equal'])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
