# SPDX-License-Identifier: GPL-2.0+
"""What a defconfig tells of how long a board takes."""

from __future__ import annotations

import os
import tempfile
import unittest
from typing import Dict

from buildman.boards import effort
from buildman.core.plan import Board


class EffortTest(unittest.TestCase):
    """In a first run the longest boards come first, too"""

    def setUp(self) -> None:
        tmpdir = tempfile.TemporaryDirectory()
        self.addCleanup(tmpdir.cleanup)
        self.source = tmpdir.name
        os.mkdir(os.path.join(self.source, 'configs'))

    def guess(self, *names: str, **files: str) -> Dict[str, float]:
        """Return what is guessed of boards, given the text of their defconfigs"""
        for name, text in files.items():
            with open(os.path.join(self.source, 'configs', name), 'w', encoding='utf-8') as outf:
                outf.write(text)
        return effort.guess(self.source, [Board(name, 'arm') for name in names])

    @staticmethod
    def options(count: int, value: str = 'y') -> str:
        """Return the text of so many settings"""
        return ''.join(f'CONFIG_O{number}={value}\n' for number in range(count))

    def test_settings(self) -> None:
        """More that is switched on takes longer, a second program too; what is off does not"""
        costs = self.guess(
            'small', 'large', 'spl', 'off',
            small_defconfig=self.options(20), large_defconfig=self.options(200),
            spl_defconfig=self.options(20) + 'CONFIG_SPL_TEXT_BASE=0x100\n',
            off_defconfig=self.options(20) + self.options(200, '0x20')
            + '# CONFIG_SPL is not set\n# CONFIG_X=y\n')
        self.assertLess(costs['small'], costs['spl'])
        self.assertLess(costs['spl'], costs['large'])
        self.assertEqual(costs['small'], costs['off'])

    def test_alike(self) -> None:
        """Neighbours that hardly differ stay together"""
        self.assertEqual({}, self.guess('a', 'b', a_defconfig=self.options(20),
                                        b_defconfig=self.options(25)))

    def test_included(self) -> None:
        """A defconfig may be made of others, below the tree or beside it, even of itself"""
        costs = self.guess(
            'all', 'below', 'beside', 'round', 'none',
            all_defconfig=self.options(200),
            below_defconfig='#include <configs/all_defconfig>\n',
            beside_defconfig='  # include "all_defconfig"\n',
            round_defconfig='#include "round_defconfig"\nCONFIG_O=y\n',
            none_defconfig='#include <configs/none_at_all>\n')
        self.assertEqual(costs['all'], costs['below'])
        self.assertEqual(costs['all'], costs['beside'])
        self.assertLess(costs['none'], costs['all'])

    def test_odd(self) -> None:
        """A file that is not there or no text is none of the guess's business"""
        with open(os.path.join(self.source, 'configs', 'bytes_defconfig'), 'wb') as outf:
            outf.write(b'\xff\xfe\0CONFIG_X=y\n')
        os.mkdir(os.path.join(self.source, 'configs', 'folder_defconfig'))
        costs = self.guess('bytes', 'folder', 'gone', 'large',
                           large_defconfig=self.options(300))
        self.assertEqual(1, len({costs[name] for name in ('bytes', 'folder', 'gone')}))
        self.assertEqual('large', max(costs, key=lambda name: costs[name]))

    def test_fragments(self) -> None:
        """A board that extends another one takes what that one takes"""
        self.guess(base_defconfig=self.options(200), small_defconfig='')
        costs = effort.guess(self.source, [Board('small', 'arm'), Board('base', 'arm'), Board(
            'more,base', 'arm', base='base', fragments=('more.config',))])
        self.assertEqual(costs['base'], costs['more,base'])


if __name__ == '__main__':
    unittest.main()
