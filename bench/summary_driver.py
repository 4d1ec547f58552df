#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Prints a summary from a git repository and an output folder, and no more.

Stands in for `buildman -s` where only the summary is to be compared or timed:
takes the same flags, reads the list of boards from `boards.cfg` in the output
folder and needs neither toolchains nor Kconfig.
"""

import argparse
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))

from buildman.plan import Board, Commit
from buildman.summary_show import SummaryRequest, show_summary

FLAGS = {'e': 'show_errors', 'l': 'list_error_boards', 'S': 'show_sizes', 'd': 'detail',
         'B': 'bloat', 'K': 'show_config', 'U': 'show_environment', 'u': 'show_unknown',
         'y': 'filter_dtb_warnings', 'Y': 'filter_migration_warnings', 'I': 'ide'}


def read_boards(path, only):
    """Return the boards in boards.cfg, those named in `only` if it is not empty."""
    boards = []
    with open(path, encoding='utf-8') as inf:
        for line in inf:
            fields = line.split()
            if len(fields) > 7 and fields[0] != '#' and (not only or fields[6] in only):
                boards.append(Board(fields[6], fields[1]))
    return tuple(boards)


def read_commits(repo, branch, count):
    """Return the commits of a branch, with that on which it is based first."""
    def git(*args):
        return subprocess.run(['git', *args], cwd=repo, check=True, stdout=subprocess.PIPE,
                              encoding='utf-8').stdout

    show = ('log', '--reverse', '--format=%H %s')
    if count:
        log = git(*show, f'-n{count}', branch)
    else:
        base = git('merge-base', branch, f'{branch}@{{upstream}}').strip()
        log = git(*show, '-n1', base) + git(*show, f'{base}..{branch}')
    return tuple(Commit(*line.split(' ', 1)) for line in log.splitlines())


def main():
    """Print the summary that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument('-b', '--branch')
    parser.add_argument('-c', '--count', type=int)
    parser.add_argument('-g', '--git', default='.')
    parser.add_argument('-o', '--output-dir', required=True)
    parser.add_argument('-s', action='store_true')
    parser.add_argument('--boards')
    parser.add_argument('--step', type=int, default=1)
    parser.add_argument('--preserve-config-y', action='store_true')
    parser.add_argument('--show-not-built', action='store_true')
    parser.add_argument('--processes', type=int, default=0)
    parser.add_argument('--json')
    parser.add_argument('--junit')
    for flag, name in FLAGS.items():
        parser.add_argument('-' + flag, dest=name, action='store_true')
    args = parser.parse_args()
    only = args.boards.split(',') if args.boards else []
    folder = os.path.join(args.output_dir, args.branch or 'current')
    where = folder if args.branch else args.output_dir
    boards = read_boards(os.path.join(where, 'boards.cfg'), only)
    cpus = os.cpu_count() or 1
    threads = min(cpus, len(boards))
    request = SummaryRequest(
        folder=folder,
        commits=read_commits(args.git, args.branch, args.count) if args.branch else None,
        boards=boards, threads=threads, jobs_per_thread=(cpus + threads - 1) // threads,
        preserve_config_y=args.preserve_config_y, show_not_built=args.show_not_built,
        step=args.step, json=args.json, junit=args.junit, colour=sys.stdout.isatty(),
        processes=args.processes, **{name: getattr(args, name) for name in FLAGS.values()})
    return show_summary(request, sys.stdout)


if __name__ == '__main__':
    sys.exit(main())
