# SPDX-License-Identifier: GPL-2.0+
"""Results that a run with other settings left: what could be wrong is built again."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar, Dict

from dist_support import DistCase

from buildman.demo import sample, sample_files

BOARDS = tuple(board for board in sample_files.DEFAULT_BOARDS
               if board.target in ('sandbox', 'anvil'))


class TestSettings(DistCase):
    """One commit of two boards, over and over in one tree"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': BOARDS, 'commits': sample.DEFAULT_STEPS[:1]}

    def build(self, *args: str, status: int = 0, out: str = 'out', **more: Any) -> str:
        """Build, and return what it says of results that are there"""
        got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(out), *args, **more)
        self.assertEqual(got.returncode, status, got)
        self.assertEqual(got.stderr, '')
        lines = [line for line in got.stdout.splitlines() if 'settings' in line or ' -f ' in line]
        found = re.search(r'total built( \(.*?\))?', got.stdout)
        assert found
        return '\n'.join([*lines, (found.group(1) or ' all')[1:]])

    def result(self, board: str = 'sandbox', out: str = 'out') -> str:
        """Return the folder of a result"""
        top = self.out(f'{out}/feature')
        return os.path.join(top, next(name for name in os.listdir(top) if '_g' in name), board)

    def test_outcome(self) -> None:
        """A board that is broken is not good because of a run that only configured it"""
        knobs = self.write_knobs('anvil', 'fail')
        self.build('--config-only', env=knobs)
        told = self.build('-E', env=knobs, status=100)
        self.assertEqual(told, '2 results of other settings (--config-only, -E): built again\nall')
        self.assertTrue(os.path.exists(os.path.join(self.result(), 'u-boot.sizes')))
        self.assertEqual(self.build('-E', env=knobs, status=100), '(2 previously)')
        self.assertEqual(self.build(env=knobs, status=100),
                         '2 results of other settings (-E): built again\nall')
        # What a summary shows is what is there
        for flags in ((), ('-E',), ('-k',)):
            got = self.run_buildman('-b', 'feature', '-c', '1', '-o', self.out(), '-s', '-e',
                                    *flags)
            self.assertNotIn('settings', got.stdout + got.stderr)
        # -F is for failures, -f for all: neither has a word on settings
        self.assertEqual(self.build('-F', env=knobs, status=100), '(1 previously, 1 newly)')
        self.assertEqual(self.build('-f', '-r', env=knobs, status=100), 'all')

    def test_each(self) -> None:
        """The settings that reach make by other ways, the compiler too"""
        self.build('--boards', 'sandbox')
        for flags, why in ((('-a', 'BOOTDELAY=9'), '-a'), (('-O', 'gcc -g'),
                                                          '-a, another compiler')):
            self.assertEqual(self.build('--boards', 'sandbox', *flags),
                             f'1 result of other settings ({why}): built again\nall')
        with open(self.config, encoding='utf-8') as inf:
            text = inf.read()
        with open(self.out('cfg'), 'w', encoding='utf-8') as out:
            out.write(text + '\n[make-flags]\nsandbox = V=0\n')
        self.assertEqual(
            self.build('--boards', 'sandbox', '-G', self.out('cfg')),
            '1 result of other settings ([make-flags], another compiler): built again\nall')

    def test_only_more(self) -> None:
        """What would only be added is not built for; a run with it serves one without"""
        self.build()
        self.assertEqual(self.build('-k'), '2 boards built without -k (anvil sandbox): kept so; '
                                           '-f builds all again\n(2 previously)')
        self.build('-k', '-f')
        self.assertTrue(os.path.exists(os.path.join(self.result(), 'u-boot')))
        self.assertEqual(self.build(), '(2 previously)')

    def test_without(self) -> None:
        """Results of other buildmans are used, which is told"""
        self.build('--config-only')
        os.unlink(os.path.join(self.result('anvil'), 'settings'))
        # It leaves what it does not know of
        with open(os.path.join(self.result(), 'done'), 'w', encoding='ascii') as out:
            out.write('0')
        self.assertEqual(self.build(), '2 results of unknown settings (of another buildman, or a '
                         'copy): taken for those of this run; -f builds all again\n(2 previously)')

    def test_same_everywhere(self) -> None:
        """A machine's results have the file that they would have here, and count as much"""
        flags = ('-r', '-a', 'BOOTDELAY=9')
        self.build(*flags)
        self.build(*flags, '--dist', '--no-local', out='far')
        self.assert_same(self.out('out/feature'), self.out('far/feature'))
        self.assertEqual(self.build(*flags, out='far'), '(2 previously)')
        with open(os.path.join(self.result(out='far'), 'settings'), encoding='utf-8') as inf:
            self.assertRegex(inf.read(), r'\A\{"adjust_cfg": \["BOOTDELAY=9"\], "compiler": '
                             r'".*", "reproducible_builds": true\}\n\Z')
