# SPDX-License-Identifier: GPL-2.0+
"""The writer of the result tree: complete or not there, whatever happens."""

import os
import tempfile
import unittest

from buildman.core.errors import SetupError
from buildman.core.outcome import Outcome
from buildman.core.plan import Commit
from buildman.results.tree import OutputLock, ResultTree, commit_dir_name

A, B, C = (Commit(letter * 40, f'subject {letter}') for letter in 'abc')


class TestResults(unittest.TestCase):
    """What lands on the disk"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.base = os.path.join(temp.name, 'out')

    def names(self, *parts):
        """Return what is in a folder"""
        return sorted(os.listdir(os.path.join(self.base, *parts)))

    def test_folder_names(self):
        """The names that upstream's -s looks for: with others, results seem lost"""
        self.assertEqual(
            commit_dir_name(0, Commit('1' * 40, 'zynq: Break/mend the build')),
            f"01_g{'1' * 40}_zynq--Break-mend-the")
        self.assertEqual(commit_dir_name(99, Commit('1' * 40, '')), f"100_g{'1' * 40}_")

    def test_write(self):
        """All files are there, no temporary one, and done says make's status"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 2, stdout='out', stderr='oops\n', sizes='1 2\n',
                           files={'.config': b'X=y\n'}))
        self.assertEqual(self.names(commit_dir_name(0, A), 'b'),
                         ['.config', 'done', 'err', 'log', 'sizes'])
        self.assertEqual(tree.read_done(0, 'b'), (2, True))
        # A second result replaces all of the first one
        tree.write(Outcome('b', 0, 0))
        self.assertEqual(self.names(commit_dir_name(0, A), 'b'), ['done', 'log'])
        self.assertEqual(tree.built(0, ['b', 'c']), {'b': (0, False)})

    def test_images_move(self):
        """Kept images end up in the tree and the staging folder goes"""
        tree = ResultTree(self.base, (A,))
        stage = os.path.join(tree.work_dir, 'stage')
        os.makedirs(stage)
        staged = os.path.join(stage, 'u-boot.bin')
        with open(staged, 'wb') as outf:
            outf.write(b'image')
        tree.write(Outcome('b', 0, 0, images={'u-boot.bin': staged}))
        with open(os.path.join(tree.board_dir(0, 'b'), 'u-boot.bin'), 'rb') as inf:
            self.assertEqual(inf.read(), b'image')
        self.assertFalse(os.path.exists(stage))

    def test_cut_short(self):
        """A result without done, or with a damaged one, is built again"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0))
        done = tree.done_file(0, 'b')
        for text in ('', 'x', '1.5', '\0'):
            with open(done, 'w', encoding='ascii') as outf:
                outf.write(text)
            self.assertEqual(tree.built(0, ['b']), {}, repr(text))
        os.unlink(done)
        self.assertEqual(tree.built(0, ['b']), {})

    def test_write_fails(self):
        """A full disk is an error that names the board, and nothing seems done"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0))
        os.symlink('/dev/full', os.path.join(tree.board_dir(0, 'b'), 'x'))
        os.unlink(os.path.join(tree.board_dir(0, 'b'), 'log'))
        tree._empty = lambda folder: os.unlink(  # keep the link that is the full disk
            os.path.join(folder, 'done'))
        with self.assertRaisesRegex(SetupError, "'b'.*No space"):
            tree.write(Outcome('b', 0, 0, files={'x': b'data'}))
        self.assertIsNone(tree.read_done(0, 'b'))

    def test_stale(self):
        """Commits that are gone lose their results; those that moved keep them"""
        tree = ResultTree(self.base, (A, B, C))
        for upto in range(3):
            tree.write(Outcome('b', upto, upto))
        os.makedirs(os.path.join(self.base, 'mine'))
        # A is dropped, so B and C have other numbers
        new = ResultTree(self.base, (B, C))
        self.assertEqual(new.stale(), [commit_dir_name(0, A)])
        new.remove_stale()
        self.assertEqual(new.read_done(0, 'b'), (1, False))
        self.assertEqual(new.read_done(1, 'b'), (2, False))
        self.assertEqual(self.names(), [commit_dir_name(0, B), commit_dir_name(1, C), 'mine'])
        self.assertEqual(ResultTree(self.base, (B, C)).stale(), [])

    def test_left_out(self):
        """Results of commits that -c leaves out are kept: they are still in the branch"""
        tree = ResultTree(self.base, (A, B, C))
        for upto in range(3):
            tree.write(Outcome('b', upto, upto))
        new = ResultTree(self.base, (C,))
        new.remove_stale({A.hash, C.hash})
        self.assertEqual(new.read_done(0, 'b'), (2, False))
        self.assertEqual(self.names(), [commit_dir_name(0, A), commit_dir_name(0, C)])

    def test_swapped(self):
        """Two commits in another order keep their results"""
        tree = ResultTree(self.base, (A, B))
        for upto in range(2):
            tree.write(Outcome('b', upto, upto))
        new = ResultTree(self.base, (B, A))
        new.remove_stale()
        self.assertEqual([new.read_done(i, 'b') for i in range(2)], [(1, False), (0, False)])

    def test_lock(self):
        """Two runs in one folder would write over each other"""
        lock = OutputLock(self.base)
        with self.assertRaisesRegex(SetupError, f'process {os.getpid()}.*-o'):
            OutputLock(self.base)
        lock.close()
        OutputLock(self.base).close()

    def test_layouts(self):
        """Where results go without a branch, with -N and with -w"""
        self.assertEqual(ResultTree('/o', None).board_dir(0, 'b'), '/o/current/b')
        self.assertEqual(ResultTree('/o', None, subdirs=False).board_dir(0, 'b'), '/o/b')
        self.assertEqual(ResultTree('/o', None, flat=True).board_dir(0, 'b'), '/o')

    def test_flat_keeps_build(self):
        """With -w the build lies beside the results: it must survive a new result"""
        tree = ResultTree(self.base, None, flat=True)
        os.makedirs(self.base)
        obj = os.path.join(self.base, 'main.o')
        with open(obj, 'wb') as outf:
            outf.write(b'o')
        tree.write(Outcome('b', 0, 0))
        tree.write(Outcome('b', 0, 0))
        self.assertTrue(os.path.exists(obj))
