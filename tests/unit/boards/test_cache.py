# SPDX-License-Identifier: GPL-2.0+
"""When a kept boards.cfg is used, and when it is not."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import unittest
from typing import Optional

from buildman.boards import cache as boards_cache
from buildman.boards.cache import Stamp
from buildman.core.errors import SetupError

FILES = {
    'Kconfig': 'source "board/Kconfig"\n',
    'board/Kconfig': 'config A\n\tbool "a"\n',
    'board/Kconfig.sub': '# nothing\n',
    'board/acme/MAINTAINERS': 'ACME\n',
    'MAINTAINERS': 'TOP\n',
    'configs/a1_defconfig': 'CONFIG_A=y\n',
    'configs/sub/a2_defconfig': '# CONFIG_A is not set\n',
    # Not among those that boards come from
    'configs/a1.config': 'CONFIG_B=y\n',
    'configs/.a3_defconfig': '',
    'configs/_defconfig': '',
    'board/a4_defconfig': '',
    'board/acme/board.c': 'int x;\n',
    '.git/MAINTAINERS': '',
    'out/.bm-work/00/.git': 'gitdir: elsewhere\n',
    'out/.bm-work/00/Kconfig': '',
    'out/.bm-work/00/board/MAINTAINERS': '',
}
EXTRA = 'configs/a1.config'
TEXT = '# boards\n'


class TreeCase(unittest.TestCase):
    """A small tree and a folder for boards.cfg."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.src = os.path.join(tmp.name, 'src')
        self.cache = os.path.join(tmp.name, 'out', 'boards.cfg')
        for path, text in FILES.items():
            self.write(path, text)

    def path(self, name: str) -> str:
        return os.path.join(self.src, name)

    def write(self, name: str, text: str) -> None:
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), 'w', encoding='utf-8') as outf:
            outf.write(text)

    def keep(self) -> None:
        """Keep the boards of the tree as it is now, as if made long after it."""
        tree = boards_cache.find_files(self.src)
        stamp = Stamp.make(self.src, tree, [EXTRA])
        stamp.started += 10 * 1000 ** 3
        boards_cache.write_cache(self.src, self.cache, TEXT, stamp)

    def kept(self) -> Optional[str]:
        found = boards_cache.read_cache(self.src, self.cache,
                                        boards_cache.Search(self.src).tree)
        return found and found.text

    def reads(self) -> bool:
        """Tell whether files have to be read to know that nothing changed."""
        stamp = Stamp.read(self.cache)
        assert stamp
        return stamp.check(self.src, boards_cache.find_files(self.src)) is None


class FindTest(TreeCase):
    """A file that is not seen is a change that is not seen."""

    def test_files(self) -> None:
        tree = boards_cache.find_files(self.src)
        self.assertEqual(sorted(tree.files), sorted(list(FILES)[:7]))
        self.assertEqual(tree.maintainers(), ['MAINTAINERS', 'board/acme/MAINTAINERS'])
        self.assertEqual(tree.defconfigs(), {
            'a1': 'configs/a1_defconfig', 'a2': 'configs/sub/a2_defconfig'})

    def test_order(self) -> None:
        """The order of folders on the disk must not decide who owns a board."""
        for name in ('board', 'arch/arm', 'board/acme/x', 'board-x', 'arch', 'drivers'):
            self.write(f'{name}/MAINTAINERS', '')
        self.assertEqual(boards_cache.find_files(self.src).maintainers(), [
            f'{name}MAINTAINERS' for name in (
                '', 'arch/', 'arch/arm/', 'board/', 'board/acme/', 'board/acme/x/',
                'board-x/', 'drivers/')])

    def test_same_name(self) -> None:
        """Of two defconfigs of a name, the one that make finds counts."""
        self.write('configs/a2_defconfig', '')
        self.assertEqual(boards_cache.find_files(self.src).defconfigs()['a2'],
                         'configs/a2_defconfig')


class OthersTest(TreeCase):
    """A new branch costs a scan of all boards, although nothing of Kconfig is new."""

    def borrow(self, cache: Optional[str], around: str = '') -> Optional[str]:
        around = around or os.path.dirname(os.path.dirname(self.cache))
        found = boards_cache.read_others(
            self.src, around, boards_cache.Search(self.src).tree, cache)
        return found and found.text

    def test_borrow(self) -> None:
        """The list of another branch is taken when it is right, and kept"""
        mine = os.path.join(os.path.dirname(self.src), 'mine', 'boards.cfg')
        self.assertIsNone(self.borrow(mine))
        self.keep()
        self.assertEqual(self.borrow(None), TEXT)
        self.assertFalse(os.path.exists(mine))
        self.assertEqual(self.borrow(mine), TEXT)
        tree = boards_cache.find_files(self.src)
        found = boards_cache.read_cache(self.src, mine, lambda: tree)
        assert found
        self.assertEqual(found.text, TEXT)
        # The list of the current source lies in the folder itself
        self.assertEqual(self.borrow(None, os.path.dirname(mine)), TEXT)
        self.assertIsNone(self.borrow(None, os.path.join(self.src, 'none')))

    def test_other_tree(self) -> None:
        """The same content in another working tree counts, another content does not"""
        self.keep()
        first, self.src = self.src, self.src + '2'
        shutil.copytree(first, self.src)
        self.assertEqual(self.borrow(None), TEXT)
        self.write('Kconfig', 'config NEW\n')
        self.assertIsNone(self.borrow(None))

    def test_not_itself(self) -> None:
        """A list that was found to be wrong is not asked again, nor one that is damaged"""
        self.keep()
        self.assertIsNone(self.borrow(self.cache))
        with open(self.cache, 'a', encoding='utf-8') as outf:
            outf.write('edited\n')
        self.assertIsNone(self.borrow(None))


class CacheTest(TreeCase):
    """A stale list builds the wrong boards; a needless scan costs half a second."""

    def test_unchanged(self) -> None:
        """Nothing is read when nothing has changed."""
        self.assertIsNone(self.kept())
        self.keep()
        self.assertEqual(self.kept(), TEXT)
        self.assertFalse(self.reads())

    def test_fresh(self) -> None:
        """Files as new as the stamp are read again: a later edit may look the same."""
        tree = boards_cache.find_files(self.src)
        boards_cache.write_cache(self.src, self.cache, TEXT, Stamp.make(self.src, tree, []))
        self.assertEqual(self.kept(), TEXT)
        stamp = Stamp.read(self.cache)
        assert stamp
        # What stat() says is the same as before, the content is not
        stamp.files['MAINTAINERS'][4] = boards_cache.digest(b'ONE\n')
        self.assertIs(stamp.check(self.src, boards_cache.find_files(self.src)), False)

    def test_touched(self) -> None:
        """A touched file, or a new checkout of the same commit, needs no scan."""
        self.keep()
        for name in ('Kconfig', 'configs/a1_defconfig', 'board/acme/MAINTAINERS', EXTRA):
            os.utime(self.path(name), ns=(1, 1))
        os.rename(self.src, f'{self.src}.old')
        for path, text in FILES.items():
            self.write(path, text)
        self.assertTrue(self.reads())
        self.assertEqual(self.kept(), TEXT)
        self.assertEqual(self.kept(), TEXT)

    def test_edited(self) -> None:
        """An edit is seen though size and time are as they were."""
        for name in ('Kconfig', 'board/Kconfig.sub', 'configs/a1_defconfig',
                     'configs/sub/a2_defconfig', 'MAINTAINERS', EXTRA):
            self.keep()
            info = os.stat(self.path(name))
            self.write(name, FILES[name].replace('\n', '#'))
            os.utime(self.path(name), ns=(info.st_atime_ns, info.st_mtime_ns))
            self.assertEqual(os.stat(self.path(name)).st_size, info.st_size)
            self.assertIsNone(self.kept(), name)
            self.write(name, FILES[name])

    def test_added(self) -> None:
        """A new board, or a new Kconfig file, is seen."""
        for name in ('configs/b_defconfig', 'board/b/MAINTAINERS', 'arch/Kconfig.x'):
            self.keep()
            self.write(name, '')
            self.assertIsNone(self.kept(), name)

    def test_removed(self) -> None:
        """A board that is gone is not built any more."""
        for name in ('configs/a1_defconfig', 'board/Kconfig.sub', 'MAINTAINERS', EXTRA):
            self.keep()
            os.unlink(self.path(name))
            self.assertIsNone(self.kept(), name)
            self.write(name, FILES[name])
        self.keep()
        os.rename(self.path('configs/a1_defconfig'), self.path('configs/z_defconfig'))
        self.assertIsNone(self.kept())

    def test_changed_during_scan(self) -> None:
        """A file that changes while it is scanned is scanned again."""
        stamp = Stamp.make(self.src, boards_cache.find_files(self.src), [])
        self.write('Kconfig', 'config OTHER\n')
        boards_cache.write_cache(self.src, self.cache, TEXT, stamp)
        self.assertIsNone(self.kept())

    def test_other_list(self) -> None:
        """A boards.cfg that somebody edited, or another buildman wrote, is not ours."""
        self.keep()
        with open(self.cache, 'a', encoding='utf-8') as outf:
            outf.write('Active arm - - - - x -\n')
        self.assertIsNone(self.kept())
        os.unlink(self.cache)
        self.assertIsNone(self.kept())

    def test_damaged_stamp(self) -> None:
        """Whatever is in the stamp, the worst is a scan."""
        self.keep()
        stamp = os.path.join(os.path.dirname(self.cache), '.boards.cfg.stamp')
        with open(stamp, encoding='utf-8') as inf:
            good = inf.read()
        rnd = random.Random(5)
        for num in range(400):
            text = list(good)
            for _ in range(rnd.randrange(1, 4)):
                pos = rnd.randrange(len(text))
                text[pos:pos + rnd.choice((0, 1, 9))] = rnd.choice(
                    ('', '"', '[', '}', 'null', '0', ','))
            with open(stamp, 'w', encoding='utf-8') as outf:
                outf.write('' if not num else '[]' if num == 1 else ''.join(text))
            self.assertIn(self.kept(), (None, TEXT))

    def test_read_only(self) -> None:
        """A folder in which nothing can be kept is told."""
        self.write('file', '')
        with self.assertRaises(SetupError):
            boards_cache.write_cache(
                self.src, self.path('file/boards.cfg'), TEXT, Stamp({}, 0, ''))
