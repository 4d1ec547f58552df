# SPDX-License-Identifier: GPL-2.0+
"""Our ends of the wire with the other ends of another buildman.

Users change machines one after the other, so for a time one end is older. Needs
UPSTREAM_BUILDMAN, the command of that other buildman; skipped without, loudly.
"""

from __future__ import annotations

import os
import sys
import unittest
from typing import Any, ClassVar, Dict
from unittest import mock

import peer_support
import support

from buildman.core import plan
from buildman.demo import sample_files
from buildman.source import commits


class PeerCase(support.SampleCase):
    """A test with two machines; one of the boards lacks a blob."""

    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': (*sample_files.DEFAULT_BOARDS[:4], sample_files.BLOB_BOARD), 'commits': 5}

    @classmethod
    def setUpClass(cls) -> None:
        if not peer_support.UPSTREAM:
            message = 'UPSTREAM_BUILDMAN does not name another buildman'
            sys.stderr.write(f'\n*** SKIPPED: {message}\n')
            raise unittest.SkipTest(message)
        super().setUpClass()

    def peers(self, worker: str, rev: str = 'work') -> peer_support.Peers:
        """Return two machines that run this command as a worker."""
        return peer_support.Peers(self.out('peers'), self.tree, self.toolchains, worker, rev)

    def boards(self, *archs: str) -> 'dict[str, plan.Board]':
        """Return the boards of the sample with these archs."""
        return {spec.target: plan.Board(spec.target, spec.arch) for spec in self.tree.boards
                if spec.arch in archs}


class TheirBossTest(PeerCase):
    """Its boss, our workers."""

    def test_branch(self) -> None:
        """A user of the older one adds a machine that has the newer one."""
        peers = self.peers(peer_support.OURS)
        out = self.out()
        result = peers.run([*peer_support.upstream(), '--dist', '--no-local', '-b',
                            self.tree.branch, '-o', out], self.env())
        self.assertEqual(self.tree.expected, self.verdicts(os.path.join(out, self.tree.branch)),
                         result)
        hosts = set()
        for path, data in support.read_tree(out).items():
            if path.endswith('/host'):
                hosts.add(data.decode().strip())
        self.assertEqual(set(peer_support.HOSTS), hosts)
        self.assert_no_processes()
        self.assertEqual([], peer_support.locks(peers))

    def test_current_source(self) -> None:
        """The same without a branch."""
        peers = self.peers(peer_support.OURS)
        out = self.out()
        result = peers.run([*peer_support.upstream(), '--dist', '--no-local', '-o', out],
                           self.env())
        folder = os.path.join(out, 'current')
        done = {}
        for target in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(folder, target, 'done')
            if os.path.exists(path):
                with open(path, encoding='utf-8') as inf:
                    done[target] = int(inf.read())
        self.assertEqual({spec.target: 0 for spec in self.tree.boards}, done, result)


class TheirWorkerTest(PeerCase):
    """Our boss, its workers."""

    def test_pool(self) -> None:
        """A caller of `boss` has machines that start the older one."""
        peers = self.peers(peer_support.UPSTREAM)
        builder = peer_support.Builder(self.out())
        selected = self.boards('arm', 'aarch64', 'riscv64')
        series = [commits.Commit(name) for name in self.tree.commits]
        with mock.patch.dict(os.environ, peers.env(self.env())):
            pool = peers.pool()
            pool.start_all(os.path.join(self.tree.path, '.git'),
                           f'{self.tree.branch}:refs/heads/work', settings={
                               'verbose_build': False, 'no_lto': False, 'kconfig_check': True})
            try:
                self.assertEqual(2, len(pool.workers))
                self.assertEqual([0, 0], [wrk.version for wrk in pool.workers])
                pool.build_boards(selected, series, builder)
            finally:
                pool.quit_all()
        self.assertEqual({key: val for key, val in self.tree.incremental.items()
                          if key[1] in selected}, builder.verdicts)
        self.assertEqual(set(peer_support.HOSTS), set(builder.remotes.values()))
        self.assert_no_processes()
        self.assertEqual([], peer_support.locks(peers))

    def test_command(self) -> None:
        """--dist with such machines."""
        peers = self.peers(peer_support.UPSTREAM, peer_support.PUSHED)
        out = self.out()
        names = ','.join(self.boards('arm', 'aarch64', 'riscv64'))
        result = peers.run([*support.command(), '--dist', '--no-local', '-b', self.tree.branch,
                            '-o', out, '--boards', names], self.env())
        want = {key: val for key, val in self.tree.incremental.items()
                if key[1] in names.split(',')}
        self.assertEqual(want, self.verdicts(os.path.join(out, self.tree.branch)), result)
        self.assertEqual(100, result.returncode, result)
        self.assert_no_processes()
