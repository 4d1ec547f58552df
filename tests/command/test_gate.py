# SPDX-License-Identifier: GPL-2.0+
"""What a CI server asks for, as a user types it: what counts, and where it is told."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree
from typing import Any, ClassVar, Dict

from support import Result, SampleCase

from buildman.demo import sample


class GateTest(SampleCase):
    """An old warning whose line moves, then a new error, then a mend."""

    sample_args: ClassVar[Dict[str, Any]] = {
        'commits': sample.DEFAULT_STEPS[1:2],
        'knobs': {(0, 'rocket'): ['warn lib/old.c:3:1: warning: old'],
                  (1, 'rocket'): ['warn lib/old.c:7:1: warning: old']}}

    def build(self, *args: str, env: Dict[str, str]) -> Result:
        return self.run_buildman('-b', 'feature', '-o', self.out(), '--boards',
                                 'anvil,anvil_nor,rocket', *args, env=env)

    def write(self, name: str, text: str) -> str:
        with open(self.out(name), 'w', encoding='utf-8') as outf:
            outf.write(text)
        return self.out(name)

    def read(self, name: str) -> str:
        with open(self.out(name), encoding='utf-8') as inf:
            return inf.read()

    def test_all(self) -> None:
        """One annotation for the new error, none for the old warning; each flag decides"""
        quality, junit = self.out('quality.json'), self.out('junit.xml')
        env = {'GITHUB_STEP_SUMMARY': self.out('step')}
        base = self.tree.commits[0][:12]
        error = ("::error file=board/acme/anvil/anvil.c,line=11,title=02%3A acme%3A anvil%3A Break "
                 "the build::2 boards: expected ';' before 'return'%0Aanvil, anvil_nor")
        counted = ("Counted: 2 boards with errors, 0 with warnings; not counted: 1 board no worse "
                   f'than at the base {base} (Base of the sample)')
        ci = ('--new-only', '--annotate', 'github', '--codequality', quality, '--junit', junit)
        got = self.build(*ci, env=env)
        self.assertEqual(got.returncode, 100, got)
        self.assertEqual(got.stdout.splitlines()[-2:], [error, counted], got)
        self.assertNotIn('::warning', got.stdout)
        # The same of results that are there
        got = self.build('-s', *ci, env=env)
        self.assertEqual((got.returncode, got.stdout.splitlines()[-2:]), (100, [error, counted]))
        self.assertEqual(self.read('step').count('| error |'), 2)
        with open(quality, encoding='utf-8') as inf:
            self.assertEqual([(item['severity'], item['location']['path'],
                               item['location']['lines']['begin']) for item in json.load(inf)],
                             [('blocker', 'board/acme/anvil/anvil.c', 11),
                              ('minor', 'configs/rocket_defconfig', 1)])
        skipped = [case.get('message') for case in
                   xml.etree.ElementTree.parse(junit).iter('skipped')]
        self.assertEqual(skipped, ['this is the base', 'warns at the base as well'])

        known = self.write('known', "anvil* | before 'return' | until 9999-12-31 | is mended soon")
        got = self.build('-s', '--new-only', '--known', known, '--annotate', 'github', '--junit',
                         junit, env=env)
        self.assertEqual((got.returncode, '::error' in got.stdout), (0, False), got)
        self.assertIn('known until 9999-12-31: is mended soon', self.read('junit.xml'))
        self.assertNotIn('<failure', self.read('junit.xml'))
        got = self.build('-s', '--known', known, env=env)
        self.assertEqual(got.returncode, 101, got)
        # Without any of these, a summary is a good summary
        self.assertEqual(self.build('-s', env=env).returncode, 0)

        budget = self.write('budget', '# sizes\nrocket u-boot total 10 # small\n')
        got = self.build('-s', '--budget', budget, env=env)
        self.assertEqual(got.returncode, 100, got)
        self.assertIn('Over budget: rocket: u-boot total is ', got.stdout)
        self.assertIn(' since 01: Base of the sample', got.stdout)
        self.assertEqual(self.build('-s', '--budget', budget, '--budget-update',
                                    env=env).returncode, 0)
        self.assertIn(' # small', self.read('budget'))
        got = self.build('-s', '--budget', budget, env=env)
        self.assertEqual(got.returncode, 0, got)
        self.assertIn('1 board within it, least room: 0 bytes', got.stdout)

    def test_unfit(self) -> None:
        """A board that no tree has is told, one that is not selected is not"""
        known = self.write('known', 'sandbox | x | until 9999-12-31 | y\n'
                           '# no rule\nrockt* | x | until 9999-12-31 | y\n'
                           'gone | x | until 2001-01-01 | y\n')
        budget = self.write('budget', ''.join(f'no{num} u-boot total 1\n' for num in range(7)))
        got = self.build('-s', '--known', known, '--budget', budget, env={})
        told = [line for line in got.stderr.splitlines() if 'no board' in line]
        self.assertEqual(told, [
            f"{known}: no board of the tree is called 'rockt*' (line 3)",
            f"{budget}: no board of the tree is called 'no0' (line 1), 'no1' (line 2), 'no2' "
            "(line 3), 'no3' (line 4), 'no4' (line 5) and 2 more"])

    def test_no_results(self) -> None:
        """Where nothing was built, nothing is within its budget"""
        budget = self.write('budget', 'rocket u-boot total 1M\n')
        for args, status in ((('-s', '--budget', budget), 100), (('-s',), 0),
                             (('-s', '--budget', self.out('x'), '--budget-update'), 2)):
            got = self.build(*args, env={})
            self.assertEqual(got.returncode, status, got)
            self.assertIn('there is no result in', got.stderr)
        self.assertFalse(os.path.exists(self.out('x')))

    def test_same_file(self) -> None:
        """What is to be read is not written over, however it is called"""
        text = 'rocket | x | until 9999-12-31 | y\n'
        known, link = self.write('known', text), self.out('link')
        os.symlink('known', link)
        for args in (('--known', known, '--junit', link), ('--known', link, '--html', known),
                     ('--budget', known, '--budget-update', '--known', known),
                     ('--known', known, '--status', known),
                     ('--json', self.out('x'), '--codequality', f'{self.tmp}/./x')):
            with self.subTest(args=args):
                got = self.build(*args, env={})
                self.assertEqual((got.returncode, got.stdout), (2, ''), got)
                first, second = [arg for arg in args if arg.startswith('--')
                                 and arg != '--budget-update']
                self.assertRegex(got.stderr, rf"\Abuildman: ({first} and {second}|{second} and "
                                             rf"{first}) both name '.*': .*\n\Z")
        self.assertEqual(self.read('known'), text)
        self.assertFalse(os.path.exists(self.out('out/feature')))

    def test_wrong(self) -> None:
        """What cannot be compared, or read, is told before anything is built"""
        bad = self.write('bad', '\nnonsense')
        for args, why in ((['-b', 'feature', '-c', '1', '--new-only'], 'build two at least'),
                          (['--new-only'], '--new-only needs -b'),
                          (['--budget-update'], '--budget-update needs --budget'),
                          (['-b', 'feature', '--known', bad], f'{bad}:2: '),
                          (['-b', 'feature', '--budget', bad], f'{bad}:2: '),
                          (['-b', 'feature', '--budget', bad + 'x'], 'cannot read'),
                          (['-b', 'feature', '--annotate', 'x'], 'github')):
            with self.subTest(args=args):
                got = self.run_buildman('-o', self.out(), *args)
                self.assertEqual((got.returncode, len(got.stderr.splitlines())), (2, 1), got)
                self.assertIn(why, got.stderr)
        self.assertFalse(os.path.exists(self.out('out/feature/.bm-work')))
