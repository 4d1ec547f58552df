# SPDX-License-Identifier: GPL-2.0+
"""Slots that begin with what the first has built give what each gives from nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Dict, List

import support

from buildman.build import siblings

BOARDS = ('rocket', 'rocket_mini')


def objects(folder: str) -> Dict[str, int]:
    """Return the objects in a build folder, with when each was made."""
    return {os.path.relpath(os.path.join(top, name), folder):
            os.stat(os.path.join(top, name)).st_mtime_ns
            for top, _, names in os.walk(folder) for name in names if name.endswith('.o')}


def results(top: str) -> Dict[str, bytes]:
    """Return the files of a result tree."""
    found = {}
    for folder, _, names in os.walk(top):
        if re.match(r'\d\d_g', os.path.relpath(folder, top)):
            for name in names:
                with open(os.path.join(folder, name), 'rb') as inf:
                    found[os.path.relpath(os.path.join(folder, name), top)] = inf.read()
    return found


class TestSiblings(support.SampleCase):
    """The sample, with so many files that a copy is worth while"""

    def setUp(self) -> None:
        super().setUp()
        self.tree_dir = self.out('tree')
        shutil.copytree(self.tree.path, self.tree_dir, symlinks=True)
        os.mkdir(os.path.join(self.tree_dir, 'many'))
        for number in range(siblings.LARGE):
            with open(os.path.join(self.tree_dir, 'many', str(number)), 'w', encoding='utf-8'):
                pass
        self.git('checkout', '-q', '-b', 'base', 'feature~2')
        self.git('add', 'many')
        self.git('commit', '-q', '-m', 'Many files')
        self.git('checkout', '-q', '-b', 'many', '--track', 'base')
        self.git('cherry-pick', 'feature~2..feature')

    def git(self, *words: str) -> None:
        """Run git in the tree"""
        subprocess.run(['git', '-c', 'user.name=A', '-c', 'user.email=a@b', '-C', self.tree_dir,
                        *words], check=True, stdout=subprocess.DEVNULL)

    def build(self, out: str, *words: str) -> Dict[str, bytes]:
        """Build the boards; the first to begin goes on when there are two slots to build in"""
        env: Dict[str, str] = {}
        for board in BOARDS:
            env = self.write_knobs(board, f'signal {self.out(f"{out}.begun")}',
                                   f'wait {self.out(f"{out}.go")}')
        proc = self.start_buildman('-b', 'many', '-k', '-r', '-o', self.out(out), '--boards',
                                   ','.join(BOARDS), '--no-skip-unaffected', *words,
                                   cwd=self.tree_dir, env=env)
        support.wait_for(self.out(f'{out}.begun'))
        if '2' in words:
            for slot in self.slots(out):
                support.wait_for(os.path.join(slot, '.git', 'index'))
        with open(self.out(f'{out}.go'), 'w', encoding='utf-8'):
            pass
        self.assertIn(proc.wait(support.TIMEOUT), (0, 101))
        return results(self.out(f'{out}/many'))

    def slots(self, out: str) -> List[str]:
        """Return the folders of two slots"""
        return [self.out(f'{out}/many/.bm-work/0{slot}') for slot in range(2)]

    def test_same(self) -> None:
        """Some objects are the first slot's; images, texts and all else are the same"""
        alone, both = self.build('alone', '-T', '1'), self.build('both', '-T', '2')
        self.assertEqual(sorted(alone), sorted(both))
        for name, data in alone.items():
            self.assertEqual(data, both[name], name)
        self.assertEqual(3 * len(BOARDS), sum(name.endswith('/done') for name in alone))
        one, other = (objects(os.path.join(slot, 'build')) for slot in self.slots('both'))
        self.assertTrue(one.items() & other.items())
