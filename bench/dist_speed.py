#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""A distributed build by this buildman and by another one: start-up and builds a second.

Both build the same boards, which cost next to nothing, on the same two machines
behind a stand-in for ssh.

    UPSTREAM_BUILDMAN=/path/to/buildman bench/dist_speed.py [--boards 200]
"""

import argparse
import os
import sys
import tempfile
import time

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests')
sys.path.insert(0, TESTS)

import peer_support  # noqa: E402
import support  # noqa: E402

from buildman import sample  # noqa: E402

# The other one's worker has no compiler for this unless one is configured
SKIPPED = 'sandbox'


def measure(base, name, argv, tree, toolchains, worker):
    """Build; return (seconds to the first result, to the end, results)."""
    peers = peer_support.Peers(os.path.join(base, f'peers-{name}'), tree, toolchains, worker)
    if not worker:
        # Nothing is to be changed on the way
        path = os.path.join(peers.folder, 'bin', 'ssh')
        os.remove(path)
        os.symlink(peer_support.STUB, path)
    out = os.path.join(base, f'out-{name}')
    targets = ','.join(spec.target for spec in tree.boards if spec.arch != SKIPPED)
    words = [*argv, '-b', tree.branch, '-o', out, '--boards', targets]
    # The list of boards is made before, as it has nothing to do with machines
    peers.run([*words, '-n'], os.environ)
    start = time.time()
    done = peers.run([*words, '--dist', '--no-local'], os.environ)
    end = time.time()
    times = [os.stat(os.path.join(folder, 'done')).st_mtime
             for folder, _, names in os.walk(out) if 'done' in names]
    if not times:
        sys.exit(f'{name} built nothing: {done}')
    return min(times) - start, end - start, len(times)


def main():
    """Measure both, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--boards', type=int, default=200)
    args = parser.parse_args()
    if not peer_support.UPSTREAM:
        sys.exit('UPSTREAM_BUILDMAN does not name another buildman')
    with tempfile.TemporaryDirectory(prefix='dist-speed-') as base:
        tree = sample.make_sample(os.path.join(base, 'tree'), boards=args.boards, commits=1,
                                  instant=True)
        chains = sample.make_toolchains(os.path.join(base, 'cross'))
        found = {}
        for name, argv, worker in (('ours', support.command(), ''),
                                   ('theirs', peer_support.upstream(), peer_support.UPSTREAM)):
            first, total, count = found[name] = measure(base, name, argv, tree, chains, worker)
            print(f'{name:7} first result after {first:.1f} s, {count} results in {total:.1f} s, '
                  f'{count / total:.1f} a second')
        ours, theirs = found['ours'], found['theirs']
        print(f'first result {theirs[0] / ours[0]:.1f} times sooner, '
              f'{ours[2] / ours[1] / (theirs[2] / theirs[1]):.1f} times the builds a second')


if __name__ == '__main__':
    main()
