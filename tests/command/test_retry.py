# SPDX-License-Identifier: GPL-2.0+
"""--retry: what fails is built again from nothing, here and on machines, and nothing is silent."""

from __future__ import annotations

import os
import xml.etree.ElementTree
from typing import Any, ClassVar, Dict, List, Tuple

from dist_support import DistCase

from buildman.core.outcome import read_tries


class RetryTest(DistCase):
    """Board anvil fails always, rocket the first two times, sandbox once."""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 3, 'commits': 1}

    def knobs(self, name: str) -> Dict[str, str]:
        """Return the environment in which they do so once more"""
        gone = self.out(name)
        self.write_knobs('sandbox', f'flaky {gone}')
        self.write_knobs('anvil', 'fail always')
        return self.write_knobs('rocket', *(f'flaky {gone}.{num}' for num in range(2)))

    def tries(self, out: str) -> Dict[str, List[Tuple[int, str]]]:
        """Return what boards tell of the tries that failed"""
        found = {}
        for folder, _, names in os.walk(out):
            if 'tries' in names:
                with open(os.path.join(folder, 'tries'), encoding='utf-8') as inf:
                    found[os.path.basename(folder)] = read_tries(inf.read())
        return found

    def test_everywhere(self) -> None:
        """How often, and what was said, is kept; a flaky pass is told, and in JUnit"""
        args = ('-c', '1', '--boards', 'anvil,rocket', '--retry', '2')
        junit = self.out('junit.xml')
        got = self.run_buildman('-b', 'feature', '-o', self.out('local'), *args, '--junit', junit,
                                env=self.knobs('here'))
        self.assertEqual(got.returncode, 100, got)
        self.assertIn('rocket failed and was good when it was tried again, at '
                      + self.tree.commits[1][:12], got.stdout)
        self.assertIn('1 flaky', got.stdout.splitlines()[-1])
        found = self.tries(self.out('local/feature'))
        self.assertEqual({name: [code for code, _ in tries] for name, tries in found.items()},
                         {'anvil': [2, 2], 'rocket': [2]})
        self.assertIn('always', found['anvil'][1][1])
        cases = {case.get('name'): [item.tag for item in case] for case in
                 xml.etree.ElementTree.parse(junit).iter('testcase')}
        self.assertEqual(cases, {
            'anvil': ['properties', 'failure', 'rerunFailure', 'rerunFailure'],
            'rocket': ['properties', 'flakyFailure']})
        done = self.dist('--no-local', *args, env=self.knobs('there'))
        self.assertIn('1 flaky', done.stdout)
        self.assertEqual(self.tries(self.results()), found)

    def test_chance(self) -> None:
        """A failure that one job at a time does not have is one, too, that nobody saw before"""
        for count in ('1', '0'):
            got = self.run_buildman('-o', self.out(count), '--boards', 'sandbox', '--retry', count,
                                    env=self.knobs(f'gone{count}'))
            self.assertEqual((got.returncode, '(1 flaky)' in got.stdout), (0, count == '1'), got)
            self.assertEqual(list(self.tries(self.out(count))), ['sandbox'] * (count == '1'))
