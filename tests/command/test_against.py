# SPDX-License-Identifier: GPL-2.0+
"""-s --against: one build is compared with another, not a commit with the one before."""

from __future__ import annotations

import json
import subprocess
from typing import Any, ClassVar, Dict, Optional

from support import SampleCase

from buildman.core.outcome import Outcome
from buildman.core.plan import Commit
from buildman.results.tree import ResultTree

WARNING = 'lib/a.c:3:5: warning: unused\n'


class TestAgainst(SampleCase):
    """Result trees of the sample that are written by hand"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 4, 'commits': 3}

    def make(self, out: str, branch: str = 'feature', first: int = 0, **errors: Optional[str]
             ) -> None:
        """Write results of boards at all commits: stderr, None: it has failed"""
        commits = [Commit(*pair) for pair in zip(self.tree.commits, self.tree.subjects)]
        tree = ResultTree(f'{self.out(out)}/{branch}', commits)
        for upto in range(first, 4):
            for target, err in errors.items():
                size = 100 + len(out) * upto
                tree.write(Outcome(
                    target, upto, 2 if err is None else 0, stderr='no\n' if err is None else err,
                    sizes=f'   {size} 0 0 {size} {size:x} u-boot 0\n',
                    files={'u-boot.cfg': f'#define CONFIG_{out.upper()} 1\n'.encode(),
                           'u-boot.sizes': f'{size:08x} T main\n'.encode()}))

    def show(self, other: str, *args: str, status: int = 0) -> str:
        """Return the summary against other results, or the error"""
        done = self.run_buildman('-b', 'feature', '-o', self.out('ours'), '-s', '--against',
                                 other, *args)
        self.assertEqual(status, done.returncode, done)
        return done.stderr if status else done.stdout + done.stderr

    def test_folder(self) -> None:
        """Outcomes, lines, sizes, functions and configuration, at the commits that both have"""
        self.make('ours', anvil='', rocket=WARNING, hammock=WARNING, sandbox='')
        self.make('their', first=1, anvil=None, rocket='', hammock=WARNING)
        text = self.show(self.out('their'), '-e', '-S', '-B', '-K', '-l', '--show-not-built',
                         '--json', self.out('json'))
        part = text.split('03: ')[1].split('04: ')[0]
        for line in ('       arm:     anvil', '   aarch64:  w+   rocket', '-(anvil) no',
                     f'w+(rocket) {WARNING.rstrip()}', 'anvil          : all -2 text -2',
                     'main                                       110     108      -2',
                     '   + u-boot.cfg: CONFIG_OURS=1',
                     'Boards not built here or there (1): sandbox'):
            self.assertIn(line, part)
        self.assertIn(f"Summary of 3 commits for 4 boards (2 threads, 1 job per thread)\n"
                      f"Against '{self.out('their/feature')}'", text)
        for absent in ('01: ', 'hammock :', 'flakes', 'no errors to report'):
            self.assertNotIn(absent, text)
        with open(self.out('json'), encoding='utf-8') as inf:
            found = json.load(inf)['commits']
        self.assertEqual([2, 3, 4], [commit['number'] for commit in found])
        self.assertEqual(['error', 'ok'], [found[0]['boards']['anvil'][name]
                                           for name in ('before', 'outcome')])
        # The folder of the results will do, too; the same is no difference
        self.assertIn('02: ', self.show(self.out('their/feature')))
        self.assertEqual(6, len(self.show(self.out('ours'), '-e', '-S', '-K').splitlines()))

    def test_branch(self) -> None:
        """The newest commits of two branches; what is not there is told"""
        subprocess.run(['git', 'branch', '-f', 'next', 'feature~1'], cwd=self.tree.path, check=True)
        self.make('ours', anvil='')
        self.make('ours', 'next', anvil=WARNING)
        text = self.show('next', '-e')
        self.assertIn('Summary of 1 commit for ', text)
        self.assertIn(f'w-{WARNING.rstrip()}\n', text.split('04: ')[1])
        self.assertIn("Branch 'none' not found", self.show('none', status=2))
        self.assertIn('there are no results in', self.show(self.tmp, status=2))
        self.assertIn('--against goes with neither', self.show('next', '--new-only', status=2))
        subprocess.run(['git', 'branch', '-f', 'new', 'feature~2'], cwd=self.tree.path, check=True)
        self.assertIn('build it first', self.show('new', status=2))


