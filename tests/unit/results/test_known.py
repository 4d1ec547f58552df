# SPDX-License-Identifier: GPL-2.0+
"""A run goes by what the one before it has found only where a result is still the same"""

from __future__ import annotations

import json
import os
import random
import tempfile
import unittest
from typing import Any, Dict, List
from unittest import mock

from buildman.core.files import put_file
from buildman.core.outcome import Outcome, without_compiler
from buildman.core.plan import Commit
from buildman.results import known
from buildman.results.known import Glance
from buildman.results.tree import ResultTree

COMMITS = tuple(Commit(f'{number}' * 40, f'Change {number}') for number in range(3))
BOARDS = ('a', 'b', 'c')


class KnownTest(unittest.TestCase):
    """A tree that several runs look at"""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.base = folder.name
        os.mkdir(os.path.join(self.base, '.bm-work'))
        # Results of these tests are all new
        patch = mock.patch.object(known, 'NEW', -10 ** 12)
        patch.start()
        self.addCleanup(patch.stop)

    def tree(self) -> ResultTree:
        """Return the tree as a new run has it"""
        return ResultTree(self.base, COMMITS)

    def look(self, tree: ResultTree) -> Dict[int, Any]:
        """Return all that a run finds"""
        return {upto: tree.complete(upto, BOARDS) for upto in range(len(COMMITS))}

    def remember(self) -> None:
        """Keep what there is, as at the end of a run"""
        self.tree().remember(BOARDS, range(len(COMMITS)))

    def reads(self) -> List[str]:
        """Return which results a new run reads"""
        with mock.patch.object(ResultTree, 'read_done', autospec=True,
                               side_effect=ResultTree.read_done) as read:
            self.look(self.tree())
        return sorted({f'{call.args[1]}{call.args[2]}' for call in read.call_args_list})

    def test_same(self) -> None:
        """Nothing is read again, and all is found that was there"""
        tree = self.tree()
        tree.write(Outcome('a', 0, 0, files={'settings': b'x\n'}))
        tree.write(Outcome('b', 0, 2, stderr='error'))
        tree.write(without_compiler('c', 'arm', 1))
        want = {0: {'a': Glance(0, False, False, 'x\n'), 'b': Glance(2, True, False, '')},
                1: {'c': Glance(2, True, True, '')}, 2: {}}
        self.assertEqual(want, self.look(self.tree()))
        self.assertEqual(['0a', '0b', '1c'], self.reads())
        self.remember()
        self.assertEqual([], self.reads())
        self.assertEqual(want, self.look(self.tree()))

    def test_changed(self) -> None:
        """Whoever wrote a result anew, with whatever time stamps, it is read"""
        for board in BOARDS:
            self.tree().write(Outcome(board, 0, 0, files={'settings': b'x'}))
        self.remember()
        done = self.tree().done_file(0, 'a')
        info = os.stat(done)
        # In place, as upstream does it; the clock of a file system may tick slowly
        while os.stat(done).st_ctime_ns == info.st_ctime_ns:
            put_file(done, b'3')
            os.utime(done, ns=(info.st_atime_ns, info.st_mtime_ns))
        self.tree().forget(0, 'b')
        self.assertEqual(['0a'], self.reads())
        self.assertEqual({'a': Glance(3, False, False, 'x'), 'c': Glance(0, False, False, 'x')},
                         self.look(self.tree())[0])

    def test_new(self) -> None:
        """What may be written once more within a tick of the clock is not kept"""
        self.tree().write(Outcome('a', 0, 0))
        with mock.patch.object(known, 'NEW', 3600 * 10 ** 9):
            self.remember()
        self.assertEqual(['0a'], self.reads())

    def test_odd(self) -> None:
        """A file that is damaged, or of another version, is none"""
        self.tree().write(Outcome('a', 0, 0))
        self.remember()
        path = os.path.join(self.base, '.bm-work', 'known')
        with open(path, encoding='utf-8') as inf:
            text = inf.read()
        good = json.loads(text)
        for bad in ('', '{', '[]', '3', 'null', text[:-9], '[' * 100000,
                    *(json.dumps({**good, name: value}) for name in good
                      for value in (None, 7, [7], {'x': 7}, [[]]))):
            put_file(path, bad.encode())
            with self.subTest(bad=bad[:200]):
                self.assertEqual({'a': Glance(0, False, False, '')}, self.look(self.tree())[0])
        os.unlink(path)
        self.assertEqual(['0a'], self.reads())
        os.mkdir(path)
        self.remember()
        self.assertEqual(['0a'], self.reads())

    def test_random(self) -> None:
        """Whatever happens to a tree, a run finds in it what one finds that knows nothing"""
        seed = random.randrange(1 << 32)
        rng = random.Random(seed)
        for step in range(100):
            what, upto, board = rng.randrange(5), rng.randrange(3), rng.choice(BOARDS)
            tree = self.tree()
            before = {self.stamp(upto, board)}
            if what == 0:
                tree.forget(upto, board)
            elif what < 4:
                # Not within the same tick of the clock
                while True:
                    tree.write(Outcome(board, upto, rng.randrange(3), stderr=rng.choice(('', 'x')),
                                       files={'settings': rng.choice((b'x', b'y'))}))
                    if self.stamp(upto, board) not in before:
                        break
            else:
                self.remember()
            with self.subTest(seed=seed, step=step):
                real = self.look(self.tree())
                with mock.patch.object(known.Known, 'of', return_value={}):
                    self.assertEqual(self.look(self.tree()), real)

    def stamp(self, upto: int, board: str) -> int:
        """Return the time of a result, 0 without one"""
        try:
            return os.stat(self.tree().done_file(upto, board)).st_ctime_ns
        except OSError:
            return 0


if __name__ == '__main__':
    unittest.main()
