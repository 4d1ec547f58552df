# SPDX-License-Identifier: GPL-2.0+
"""--shard and --merge: several runners leave together what one would have left."""

import os
from typing import Any, ClassVar, Dict

from support import SampleCase, assert_same_tree


class TestShard(SampleCase):
    """Four boards at two commits"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 4, 'commits': 1}

    def test_shards(self) -> None:
        """Two shards, built anywhere, are merged into the tree that is built in one"""
        whole = self.run_buildman('-b', 'feature', '-o', self.out('whole'))
        boards = []
        for number in '12':
            done = self.run_buildman('-b', 'feature', '-o', self.out(number),
                                     '--shard', f'{number}/2:{self.out("whole")}')
            self.assertEqual(0, done.returncode, done)
            self.assertIn(f'Shard {number}/2: 2 boards\n', done.stderr)
            found = {target for _, target in self.verdicts(self.out(f'{number}/feature'))}
            boards += sorted(found)
        self.assertEqual(sorted(self.tree.targets), sorted(boards))
        some = self.run_buildman('--merge', self.out('1'), '-o', self.out('all'))
        self.assertEqual((100, ''), (some.returncode, some.stdout), some)
        self.assertIn('Missing: shard 2 of 2', some.stderr)
        done = self.run_buildman('--merge', self.out('2'), '-o', self.out('all'))
        self.assertEqual((0, ''), (done.returncode, done.stderr), done)
        assert_same_tree(self.out('whole/feature'), self.out('all/feature'))
        shown, again = (self.run_buildman('-b', 'feature', '-o', self.out(name), '-s', '-S')
                        for name in ('whole', 'all'))
        self.assertEqual(shown.stdout, again.stdout)
        # It is as good as built here
        more = self.run_buildman('-b', 'feature', '-o', self.out('all'))
        self.assertIn('8 total built (8 previously)', more.stdout)
        self.assertEqual(whole.returncode, more.returncode)

    def test_guessed(self) -> None:
        """Without durations a board that switches on more than the others gets a shard"""
        large = self.tree.targets[0]
        self.switch_on(large, 2000)
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '--shard', '1/2', '-n', '-v')
        self.assertIn('Shard 1/2: 1 boards', done.stderr)
        self.assertIn(large, done.stdout)

    def test_usage(self) -> None:
        """What cannot be done is told in a line; a shard without boards is none"""
        for args, text in ((['--shard', '3/2'], "'3/2' is no shard"),
                           (['--shard', 'x'], "'x' is no shard"),
                           (['--shard', '1/2/3'], "'1/2/3' is no shard"),
                           (['--shard', '1/²'], "'1/²' is no shard"),
                           (['--shard', '1/10001'], 'N is 10000 at most'),
                           (['--shard', '1/99999999999'], 'is no shard'),
                           (['--shard', f'1/2:{self.tmp}'], 'does not tell how long'),
                           (['--merge', self.tmp], '--merge needs -o'),
                           (['--merge', self.tmp, '-o', self.tmp, '-n'], 'cannot go with -n'),
                           (['--merge', self.out('no'), '--merge', self.tmp, '-o', self.tmp],
                            'cannot read')):
            done = self.run_buildman(*args)
            self.assertEqual((2, 1), (done.returncode, len(done.stderr.splitlines())), done)
            self.assertIn(text, done.stderr)
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '--shard', '9/9', '-n')
        self.assertIn('Building 2 commits for 0 boards', done.stdout)
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '--shard', '9/9')
        self.assertEqual((0, ''), (done.returncode, done.stdout), done)
        self.assertTrue(os.path.exists(self.out('out/feature/.bm-work/shard')))
