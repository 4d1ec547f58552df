# SPDX-License-Identifier: GPL-2.0+
"""--timeout: a board that hangs costs its time, not the run."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Dict

import support
from dist_support import DistCase, joblog, read

# Seconds; a build takes a fifth of one, on a machine that has nothing else to do
LIMIT = '5'


class TestTimeout(DistCase):
    """Board rocket hangs at its second commit, and ignores SIGTERM"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': 3, 'commits': 2, 'knobs': {(1, 'rocket'): ['warn odd', 'hang deaf'],
                                            (2, 'rocket'): ['say well again']}}

    def test_same_everywhere(self) -> None:
        """It fails there and says why; the other commits and boards are as ever"""
        ref, status = self.local('--timeout', LIMIT)
        done = self.dist('--no-local', '--timeout', LIMIT)
        self.assertEqual((100, 100), (status, done.returncode), done)
        for out in (ref, self.results()):
            folder = os.path.join(out, next(
                name for name in os.listdir(out) if name.startswith('02_g')), 'rocket')
            err = read(folder, 'err').splitlines()
            self.assertRegex(err[-1], rf'^buildman: the build took longer than {LIMIT} seconds '
                             r'\(--timeout\), ended while it ran .*sleep')
            self.assertIn('odd', err[0])
            self.assertEqual('124', read(folder, 'done'))
            self.assertFalse(os.path.exists(os.path.join(folder, 'sizes')))
            verdicts = {key: what for key, what in self.verdicts(out).items()
                        if key[1] == 'rocket'}
            self.assertEqual({(0, 'rocket'): 'ok', (1, 'rocket'): 'fail', (2, 'rocket'): 'ok'},
                             verdicts)
        found = [text for text in support.tree_differences(ref, self.results(), ('host', 'joblog'))
                 if '/rocket/err' not in text and '/rocket/log' not in text]
        self.assertEqual([], found)
        # A verdict of the board: not tried elsewhere, and no fault of the machine
        tries = [job['status'] for job in joblog(self.results())
                 if (job['board'], job['commit']) == ('rocket', '1')]
        self.assertEqual(['124'], tries)
        self.assertNotIn('lost', done.stdout)
        # It is shown like any other error
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '-s', '-e')
        self.assertIn('+buildman: the build took longer', done.stdout)
