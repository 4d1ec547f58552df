#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Compares our summary with that of an installed buildman, byte for byte.

Makes trees of random outcomes from seeds, runs both on each with many
combinations of flags, in a pipe and on a terminal, and prints either that
there is no difference or each one. It then shows the differences that are
meant, with the reason, on trees made for them.

    bench/summary_compare.py --upstream VENV/bin/buildman --seeds 10
"""

import argparse
import difflib
import os
import pty
import random
import shutil
import subprocess
import sys
import tempfile
import time

from summary_trees import Tree, plain_home, random_tree

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = os.path.join(os.path.dirname(HERE), 'tools', 'buildman', 'buildman')

# Combinations that each make sense by themselves; more are drawn at random
COMBOS = ('-s', '-se', '-sel', '-su', '-sS', '-sSd', '-sSB', '-sSdB', '-sK', '-sU', '-sSdBKUel',
          '-sSdBKUelu --show-not-built', '-sK --preserve-config-y', '-sy', '-sY', '-seyY',
          '-selyY -u', '-sI', '-sIeSK', '-sIy', '-s --step 2', '-se --step 0', '-sSK --step 3',
          '-s -c 2', '-s --show-not-built', '-sd', '-sB', '-sl')
LETTERS = 'elSdBKUuyYI'
LONG = ('--preserve-config-y', '--show-not-built', '--step 2', '--step 0', '--step 4')


def run(argv, cwd, terminal):
    """Return exit status, output and errors of a program.

    On a terminal the two come together, as output.
    """
    if not terminal:
        done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                              check=False)
        return done.returncode, done.stdout, done.stderr
    master, slave = pty.openpty()
    with subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=slave,
                          stderr=subprocess.DEVNULL) as proc:
        os.close(slave)
        out = b''
        try:
            while True:
                data = os.read(master, 65536)
                if not data:
                    break
                out += data
        except OSError:
            pass    # the other end is closed
        os.close(master)
        return proc.wait(), out, b''


class Comparer:
    """Runs both programs on one tree."""

    def __init__(self, upstream, ours):
        self.upstream = [upstream]
        self.ours = ours
        self.count = 0
        self.bad = 0
        self.seconds = [0.0, 0.0]

    def both(self, tree, flags, terminal=False, branch=True):
        """Return what each of them does."""
        args = flags.split() + (['-b', 'work'] if branch else []) + ['-o', tree.out]
        out = []
        for num, argv in enumerate((self.upstream, self.ours)):
            start = time.monotonic()
            out.append(run(argv + args, tree.repo, terminal))
            self.seconds[num] += time.monotonic() - start
        return out

    def check(self, what, tree, flags, terminal=False, branch=True):
        """Print a difference, if there is one."""
        theirs, mine = self.both(tree, flags, terminal, branch)
        self.count += 1
        same = theirs[:2] == mine[:2]
        if same and 'I' in flags.split()[0] and 'Y' not in flags.split()[0]:
            # What the compiler said; we end a last line that has no end
            same = theirs[2].replace(b'\n', b'') == mine[2].split(b'buildman: ')[0].replace(
                b'\n', b'')
        if same:
            return
        self.bad += 1
        where = 'terminal' if terminal else 'pipe'
        print(f'DIFFERENCE {what} flags {flags} in a {where}: exit {theirs[0]} and {mine[0]}')
        lines = difflib.unified_diff(
            *(item[1].decode(errors='replace').split('\n') for item in (theirs, mine)),
            'upstream', 'ours', lineterm='', n=1)
        for line in list(lines)[:12]:
            print('   ', line)
        print('   ', theirs[2].decode(errors='replace')[-300:])


def combos(rng, count):
    """Return combinations of flags, some fixed and `count` random ones."""
    out = list(COMBOS)
    for _ in range(count):
        letters = ''.join(rng.sample(LETTERS, rng.randrange(1, 8)))
        extra = rng.sample(LONG, rng.choice((0, 0, 1, 2)))
        out.append(' '.join(['-s' + letters, *extra]))
    return out


def compare_random(comparer, root, seeds, extra):
    """Compare on random trees."""
    for seed in seeds:
        folder = os.path.join(root, str(seed))
        tree = random_tree(folder, seed, boards=12 + 7 * (seed % 4), commits=4 + seed % 4)
        rng = random.Random(seed)
        flags = combos(rng, extra)
        for item in flags:
            comparer.check(f'seed {seed}', tree, item)
        for item in [*rng.sample(flags, 6), '-sSdBKUelu']:
            comparer.check(f'seed {seed}', tree, item, terminal=True)
        subset = ','.join(sorted(target for target, _ in tree.boards[::3]))
        comparer.check(f'seed {seed}', tree, f'-sSeu --boards {subset}')
        # The current source: the same results without a branch
        shutil.copytree(tree.folders[-1], os.path.join(tree.out, 'current'))
        tree.write_board_list(tree.out)
        for item in ('-s', '-selu', '-sSdBKU', '-sI'):
            comparer.check(f'seed {seed} current', tree, item, branch=False)
        shutil.rmtree(folder)


NM = '00000010 T f\n'
SIZE = '{}\t200\t300\t1500\t5dc\tu-boot 00000010\n'

# Differences that are meant: why, flags, files at the first and second commit
MEANT = (
    ('an image that is new stops upstream with KeyError; we compare images that both have',
     '-sSB', {'sizes': SIZE.format(1000), 'u-boot.sizes': NM},
     {'sizes': SIZE.format(1004), 'u-boot.sizes': NM, 'spl.sizes': NM}),
    ('a damaged `sizes` stops upstream; we report it and show the rest',
     '-sS', {'sizes': SIZE.format(1000)}, {'sizes': 'garbage\n'}),
    ('a list of symbols that is damaged stops upstream; we report it and show the rest',
     '-sSB', {'sizes': SIZE.format(1000), 'u-boot.sizes': NM},
     {'sizes': SIZE.format(1004), 'u-boot.sizes': 'zz T x\n'}),
    ('stderr that is not UTF-8 stops upstream; we report it and show what can be shown',
     '-se', {}, {'err': b'in Latin-1: \xe9\n'}),
    ('a configuration that is not UTF-8 stops upstream', '-sK', {'u-boot.cfg': ''},
     {'u-boot.cfg': b'#define CONFIG_A "\xe9"\n'}),
    ('an option without value in .config stops upstream', '-sK --preserve-config-y',
     {'.config': 'CONFIG_A=y\n'}, {'.config': 'CONFIG_A=y\nCONFIG_B\n'}),
    ('an environment that is not UTF-8 stops upstream', '-sU', {'uboot.env': 'a=1\0'},
     {'uboot.env': b'a=\xe9\0'}),
    ('upstream runs all lines together with -I and -Y; we print them as they are', '-sIY',
     {'err': 'one\ntwo\n'}, {'err': 'one\ntwo\n'}),
    ('upstream lets text run on where the last line has no end; we end it', '-sI',
     {'err': 'one'}, {'err': 'two'}),
)


def show_meant(comparer, root):
    """Show the differences that are meant; return how many are not there."""
    gone = 0
    for num, (why, flags, before, after) in enumerate(MEANT):
        tree = Tree(os.path.join(root, f'meant{num}'), [('one', 'arm'), ('two', 'arm')], 3)
        for commit, files in enumerate((before, after, before)):
            tree.put(commit, 'one', 0, files)
            tree.put(commit, 'two', 0, {'err': ''})
        theirs, mine = comparer.both(tree, flags)
        sound = mine[0] == 0 and mine[1].count(b'\n') >= 4 and b'Traceback' not in mine[2]
        differs = theirs != mine
        gone += not (sound and differs)
        state = 'explained' if sound and differs else 'NOT AS EXPECTED'
        print(f'{state}: {why} ({flags}; exit {theirs[0]} and {mine[0]})')
    print('explained: what is wrong with a tree is on stderr, at the end; upstream has nothing'
          ' there (all flags)')
    return gone


def main():
    """Compare, and return 1 if there is a difference that is not meant."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--upstream', required=True, help='the other buildman')
    parser.add_argument('--ours', default=OURS, help='our command')
    parser.add_argument('--seeds', type=int, default=6, help='number of trees')
    parser.add_argument('--first-seed', type=int, default=1)
    parser.add_argument('--random-flags', type=int, default=20,
                        help='random combinations of flags for each tree')
    args = parser.parse_args()
    comparer = Comparer(args.upstream, args.ours.split())
    with tempfile.TemporaryDirectory() as root:
        plain_home(root)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        compare_random(comparer, root, seeds, args.random_flags)
        print(f'{comparer.count} runs of each on {args.seeds} trees: '
              + (f'{comparer.bad} with a difference' if comparer.bad else 'no difference'))
        print(f'upstream took {comparer.seconds[0]:.1f} s, ours {comparer.seconds[1]:.1f} s')
        gone = show_meant(comparer, root)
    return 1 if comparer.bad or gone else 0


if __name__ == '__main__':
    sys.exit(main())
