#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Say which ends of the wire understand each other: ours, and another buildman's.

    UPSTREAM_BUILDMAN=/path/to/buildman bench/peers.py

Builds the sample tree with each pair of boss and worker, on two machines that
are this one, and prints for each pair how many results came, how many of them
are right, and how long it took.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import Callable, Dict, Mapping, Tuple
from unittest import mock

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests')
sys.path.insert(0, TESTS)

import peer_support
import support

from buildman.core import plan
from buildman.demo import sample

Verdicts = Mapping[Tuple[int, str], str]

# The arch that upstream's worker has no compiler for unless one is configured
SKIPPED = 'sandbox'


def tree_verdicts(out: str) -> Verdicts:
    """Return what a result tree says."""
    found: Dict[Tuple[int, str], str] = {}
    for path, data in support.read_tree(out).items():
        if path.endswith('/done'):
            folder, target = path.split('/')[-3:-1]
            err = os.path.join(out, os.path.dirname(path), 'err')
            warned = os.path.exists(err) and os.path.getsize(err) > 0
            found[int(folder.partition('_')[0]) - 1, target] = (
                'fail' if int(data) else 'warn' if warned else 'ok')
    return found


class Pairs:
    """The pairs, each with a folder of its own."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.tree = sample.make_sample(os.path.join(base, 'tree'))
        self.toolchains = sample.make_toolchains(os.path.join(base, 'cross'))
        self.targets = [spec.target for spec in self.tree.boards if spec.arch != SKIPPED]

    def peers(self, name: str, worker: str, rev: str = 'work') -> peer_support.Peers:
        """Return two machines."""
        return peer_support.Peers(os.path.join(self.base, name), self.tree, self.toolchains,
                                  worker, rev)

    def command(self, name: str, argv: 'list[str]', peers: peer_support.Peers) -> Verdicts:
        """Run a boss and return what its tree says."""
        out = os.path.join(self.base, f'out-{name}')
        peers.run([*argv, '--dist', '--no-local', '-b', self.tree.branch, '-o', out,
                   '--boards', ','.join(self.targets)], os.environ)
        return tree_verdicts(out)

    def theirs_ours(self) -> Verdicts:
        """Their command, our worker."""
        return self.command('a', peer_support.upstream(), self.peers('a', peer_support.OURS))

    def theirs_theirs(self) -> Verdicts:
        """Their command, their worker, for comparison."""
        return self.command('b', peer_support.upstream(),
                            self.peers('b', peer_support.UPSTREAM))

    def ours_theirs(self) -> Verdicts:
        """Our command, their worker."""
        return self.command('c', support.command(), self.peers(
            'c', peer_support.UPSTREAM, peer_support.PUSHED))

    def pool_theirs(self) -> Verdicts:
        """Our WorkerPool, their worker."""
        peers = self.peers('d', peer_support.UPSTREAM)
        builder = peer_support.Builder(os.path.join(self.base, 'out-d'))
        boards = {spec.target: plan.Board(spec.target, spec.arch) for spec in self.tree.boards
                  if spec.target in self.targets}
        with mock.patch.dict(os.environ, peers.env(os.environ)):
            pool = peers.pool()
            pool.start_all(os.path.join(self.tree.path, '.git'),
                           f'{self.tree.branch}:refs/heads/work', settings={})
            pool.build_boards(boards, [plan.Commit(name) for name in self.tree.commits], builder)
            pool.quit_all()
        return builder.verdicts


def main() -> int:
    """Try all pairs."""
    if not peer_support.UPSTREAM:
        print('UPSTREAM_BUILDMAN does not name another buildman', file=sys.stderr)
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix='peers-') as base:
        pairs = Pairs(base)
        tries: Tuple[Callable[[], Verdicts], ...] = (
            pairs.theirs_ours, pairs.pool_theirs, pairs.ours_theirs, pairs.theirs_theirs)
        for attempt in tries:
            started = time.monotonic()
            got = attempt()
            spent = time.monotonic() - started
            # A worker of theirs warns only at commits where the file is compiled
            want = (pairs.tree.expected if attempt == pairs.theirs_ours
                    else pairs.tree.incremental)
            want = {key: val for key, val in want.items() if key[1] in pairs.targets}
            right = sum(got.get(key) == val for key, val in want.items())
            failed += right != len(want)
            print(f"{attempt.__doc__ or '':44} {len(got):3} of {len(want)} results, "
                  f'{right:3} right, {spent:5.1f} s', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
