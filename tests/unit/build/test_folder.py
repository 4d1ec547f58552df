# SPDX-License-Identifier: GPL-2.0+
"""The build folder of a slot: each board finds its own objects, and nothing that is unsound."""

import os
import shutil
import tempfile
import time
import unittest
from unittest import mock

from buildman.build import folder
from buildman.core.plan import Toolchain

TOOL = Toolchain('arm', '/usr/bin/gcc', '/usr/bin', '')


class TestBoards(unittest.TestCase):
    """Folders of other boards are put aside"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.path, self.aside = (os.path.join(temp.name, name) for name in ('build', 'aside'))
        self.folder = self.open()

    def open(self):
        """Return the folder as a run finds it"""
        return folder.BuildFolder(self.path, True, self.aside)

    def build(self, board, leave=True):
        """Build a board; return the objects that were there"""
        self.folder.enter(TOOL, board)
        found = sorted(name for name in os.listdir(self.path) if name.endswith('.o'))
        with open(os.path.join(self.path, f'{board}.o'), 'ab') as outf:
            outf.write(b'x')
        if leave:
            self.folder.leave()
        return found

    def test_own_objects(self):
        """What comes first has those of the board before; then its own, as it left them"""
        self.assertEqual([[], ['a.o'], ['a.o', 'b.o']], [self.build(name) for name in 'abc'])
        before = os.stat(os.path.join(self.aside, 'a', 'a.o'))
        self.folder = self.open()
        self.assertEqual(['a', 'b', 'c'], sorted(folder.boards_in(self.path, self.aside)))
        self.folder.enter(TOOL, 'a')
        self.assertEqual(before, os.stat(os.path.join(self.path, 'a.o')))
        self.folder.leave()
        self.assertEqual(['a.o', 'b.o'], self.build('b'))
        # The oldest go
        for name in 'defg':
            self.build(name)
        self.assertEqual(['b', 'd', 'e', 'f', 'g'],
                         sorted(folder.boards_in(self.path, self.aside)))

    def test_unsound(self):
        """A build that was cut short, objects of another time, a file in the way"""
        self.build('a')
        self.build('b', leave=False)
        self.assertEqual(['a.o'], self.build('a'))
        self.assertEqual(['a.o'], self.build('c'))
        ahead = time.time() + 10_000
        os.utime(os.path.join(self.aside, 'a', 'a.o'), (ahead, ahead))
        self.assertEqual([], self.build('a'))
        self.folder.drop_aside()
        with open(self.aside, 'wb'):
            pass
        self.assertEqual(['a.o'], self.build('d'))
        self.assertEqual(['a'], os.listdir(self.aside))

    def test_other_slot(self):
        """Objects that are newer than another slot's source may be made of something else (-P)"""
        self.build('a')
        for slot, want in ((1, []), (1, ['a.o']), (0, []), (0, ['a.o']), (None, [])):
            self.folder = self.open()
            self.folder.enter(TOOL, 'a', slot)
            self.assertEqual(want, os.listdir(self.path), slot)
            with open(os.path.join(self.path, 'a.o'), 'wb'):
                pass
            self.folder.leave()
            self.assertEqual(slot, folder.slot_of(self.path))

    def test_no_room(self):
        """On a disk that is nearly full there is one folder for all, as ever"""
        self.build('a')
        with mock.patch.object(folder, 'SPARE', 1 << 80):
            self.assertEqual(['a.o'], self.build('b'))
        self.assertEqual([], os.listdir(self.aside))
        self.assertEqual(['a.o', 'b.o'], self.build('a'))

    def test_lent(self):
        """What is lent is sound and of no board: a copy is not put aside; then it is in use"""
        other, aside = (f'{self.path}.{name}' for name in ('other', 'aside'))
        self.folder.enter(TOOL, 'a')
        with open(os.path.join(self.path, 'a.o'), 'wb'):
            pass
        self.folder.commit = 'c'

        def copy(path):
            shutil.copytree(path, other)
            self.assertEqual([''], folder.boards_in(path, self.aside))
            raise OSError

        with self.assertRaises(OSError):
            self.folder.lend(copy)
        self.assertNotIn(folder.STATE_FILE, os.listdir(self.path))
        borrowed = folder.BuildFolder(other, True, aside)
        borrowed.enter(TOOL, 'b')
        self.assertEqual((['a.o'], 'c', False),
                         (os.listdir(other), borrowed.commit, os.path.exists(aside)))
        self.folder.leave()
        self.assertEqual(['a'], folder.boards_in(self.path, self.aside))

    def test_what_is_there(self):
        """Only a board that has no objects of its own begins with something of others"""
        def there(board):
            return (folder.is_empty(self.path),
                    folder.has_board(self.path, self.aside, board))

        self.assertEqual((True, False), there('a'))
        self.build('a')
        self.assertEqual([(False, True), (False, False)], [there('a'), there('b')])
        self.build('b', leave=False)
        # What was put aside of it is better
        self.assertEqual([(True, True), (True, False)], [there('a'), there('b')])

    def test_put_aside(self):
        """What goes for a copy is found again by its board; what is of none is nobody's"""
        for name in 'abcdef':
            self.build(name)
            folder.put_aside(self.path, self.aside)
            self.assertFalse(os.path.exists(self.path))
        self.assertEqual(['', 'c', 'd', 'e', 'f'],
                         sorted(folder.boards_in(self.path, self.aside)))
        os.mkdir(self.path)
        folder.put_aside(self.path, self.aside)
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(['e.o'], self.build('e'))
