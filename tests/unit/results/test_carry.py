# SPDX-License-Identifier: GPL-2.0+
"""Results of other commits: which are taken, and what of them."""

import os
import tempfile
import unittest

from buildman.build import trace
from buildman.build.notes import Files
from buildman.core.outcome import Outcome
from buildman.core.plan import Board, BoardJob, Commit, Plan, Settings, Toolchain
from buildman.results.cache import ResultCache
from buildman.results.carry import Carrier
from buildman.results.made_with import Earlier
from buildman.results.tree import OutputLock, ResultTree

COMMITS = tuple(Commit(char * 40, f'subject {char}') for char in 'ab')
JOB = BoardJob(Board('b', 'arm'), (0, 1), Toolchain('arm', '/x/gcc', '/x', 'arm-'))
KEY = 'a' * 64
READS = trace.make_reads(Files({'a.c'}, set(), set()), 'arm', False)


class FakeKeys:
    """Keys of commits with a tree of one file"""

    def __init__(self):
        self.value = KEY
        self.trees = [trace.Tree({}, {}, {}).changed({'a.c': f'100644 {num}'}) for num in range(2)]

    def key(self, _job, _upto):
        """Return the key of a result"""
        return self.value

    def tree(self, upto):
        """Return the tree of a commit"""
        return self.trees[upto]

    def close(self):
        """There is nothing to be closed"""


class CarrierTest(unittest.TestCase):
    """An output folder with two branches"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.top = temp.name
        self.keys = FakeKeys()
        self.plan = Plan((JOB,), COMMITS, Settings(), (0, 1))
        self.tree = ResultTree(os.path.join(self.top, 'topic'), COMMITS)
        self.other = ResultTree(os.path.join(self.top, 'other'), COMMITS)
        OutputLock(self.other.base_dir).close()
        OutputLock(self.tree.base_dir).close()
        self.cache = None

    def write(self, tree, upto, code=0, settings=None, images=(), **files):
        """Write a result with a trace"""
        found = trace.Trace(KEY, READS, self.keys.tree(upto).digest(READS))
        if settings is None:
            settings = Earlier(self.plan).text('b')
        staged = {}
        for name in images:
            staged[name] = os.path.join(self.top, 'x' + name)
            with open(staged[name], 'wb') as outf:
                outf.write(b'image')
            os.chmod(staged[name], 0o755)
        tree.write(Outcome('b', upto, code, f'said {upto}', 'warned', 'sizes\n', {
            'trace': found.pack(), '.config': b'A=y\n', 'host': b'x\n',
            'settings': settings.encode(), **files}, staged))

    def find(self, upto):
        """Return what a new run finds"""
        return Carrier(self.tree, self.top, self.keys, Earlier(self.plan),
                       self.cache).find(JOB, upto)

    def test_found(self):
        """All of a result, but for what tells of the run; with images and their mode"""
        self.write(self.other, 1, images=['u-boot'])
        self.assertIsNone(self.find(0))
        found = self.find(1)
        self.assertEqual("'other'", found.where)
        self.assertIn('/other/', found.source)
        outcome = found.outcome
        self.assertEqual(('b', 1, 0, 'said 1', 'warned', 'sizes\n'), (
            outcome.target, outcome.commit_upto, outcome.return_code, outcome.stdout,
            outcome.stderr, outcome.sizes))
        self.assertEqual({'trace', '.config'}, set(outcome.files))
        self.tree.write(outcome)
        path = os.path.join(self.tree.board_dir(1, 'b'), 'u-boot')
        self.assertEqual((0o755, 5), (os.stat(path).st_mode & 0o777, os.stat(path).st_size))
        # This branch goes first; the image has been moved
        outcome.images = {}
        outcome.files['settings'] = Earlier(self.plan).text('b').encode()
        self.tree.write(outcome)
        self.assertEqual('this branch', self.find(1).where)

    def test_not_found(self):
        """Another key, other settings, a failure, one that is not complete, a damaged trace"""
        self.write(self.other, 1)
        folder = self.other.board_dir(1, 'b')
        self.keys.value = 'c' * 64
        self.assertIsNone(self.find(1))
        self.keys.value = ''
        self.assertIsNone(self.find(1))
        self.keys.value = KEY
        self.assertTrue(self.find(1))
        self.write(self.other, 1, settings='{"no_lto": true}\n')
        self.assertIsNone(self.find(1))
        self.write(self.other, 1, code=2)
        self.assertIsNone(self.find(1))
        self.write(self.other, 1, trace=b'x')
        self.assertIsNone(self.find(1))
        self.write(self.other, 1)
        with open(os.path.join(folder, 'trace'), 'r+b') as outf:
            outf.truncate(230)
        self.assertIsNone(self.find(1))
        self.write(self.other, 1)
        os.unlink(os.path.join(folder, 'done'))
        self.assertIsNone(self.find(1))

    def test_another_buildman(self):
        """One that builds there and knows nothing of traces leaves them as they are"""
        self.write(self.other, 1)
        path = os.path.join(self.other.board_dir(1, 'b'), 'done')
        with open(path, 'w', encoding='ascii') as outf:
            outf.write('0')
        os.utime(path, ns=(1, 1))
        self.assertIsNone(self.find(1))

    def test_cache(self):
        """What was written is in the cache for another folder; a folder that is not ours is not
        looked into"""
        self.cache = ResultCache(os.path.join(self.top, 'cache'), True, 1 << 30)
        self.write(self.tree, 1)
        carrier = Carrier(self.tree, self.top, self.keys, Earlier(self.plan), self.cache)
        carrier.kept(1, 'b')
        self.assertEqual('', carrier.close(False))
        os.rename(os.path.join(self.tree.base_dir, '.bm-work'), os.path.join(self.top, 'work'))
        found = self.find(1)
        self.assertEqual('the result cache', found.where)
        self.assertEqual('said 1', found.outcome.stdout)
        self.assertIsNone(self.find(0))
