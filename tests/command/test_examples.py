# SPDX-License-Identifier: GPL-2.0+
"""The examples for CI servers do what they say, on the sample."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from typing import Any, ClassVar, Dict

from support import TOOLS, TOP, SampleCase

from buildman.demo import sample

FOLDER = os.path.join(TOP, 'examples', 'ci')

# Where the script that builds is in each of them
SCRIPTS = {
    'github.yml': r'(?s)- name: Build\n.*?\n        run: \|\n((?: {10}.*\n)+)',
    'gitlab.yml': r'\n  script:\n    - \|\n((?: {6}.*\n)+)',
    'Jenkinsfile': r"script: '''\n((?:.*\n)+?)\s*'''\)",
}


def read(name: str) -> str:
    """Return an example."""
    with open(os.path.join(FOLDER, name), encoding='utf-8') as inf:
        return inf.read()


class ExamplesTest(SampleCase):
    """A branch that breaks two boards."""

    sample_args: ClassVar[Dict[str, Any]] = {'commits': sample.DEFAULT_STEPS[1:2]}

    def test_scripts(self) -> None:
        """Each script fails the branch and writes what its server is to show"""
        os.makedirs(os.path.join(self.tree.path, 'tools'), exist_ok=True)
        os.symlink(os.path.join(TOOLS, 'buildman'), os.path.join(self.tree.path, 'tools/buildman'))
        os.symlink(FOLDER, os.path.join(self.tree.path, 'ci'))
        # As it is where nobody says -G
        os.symlink(self.config, self.out('.buildman'))
        env = self.env({'HOME': self.tmp, 'BASE': 'master', 'BOARDS': 'anvil'})
        self.assertEqual(sorted([*SCRIPTS, 'budget', 'known']), sorted(os.listdir(FOLDER)))
        for name, regex in SCRIPTS.items():
            with self.subTest(name=name):
                match = re.search(regex, read(name))
                assert match, f'{name} has no script'
                # All servers run it so that the first failure ends it
                done = subprocess.run(['sh', '-ec', textwrap.dedent(match.group(1))], text=True,
                                      cwd=self.tree.path, env=env, capture_output=True,
                                      check=False)
                self.assertEqual(done.returncode, 100, done)
                self.assertIn('Counted: 1 board with errors', done.stdout.splitlines()[-1])
                self.assertEqual(name == 'github.yml', '\n::error file=' in done.stdout)
                # What it is to show is there, or is a glob
                for path in re.findall(r'\bout/[\w./-]+\b(?![*\w])', read(name)):
                    self.assertTrue('*' in path or os.path.exists(
                        os.path.join(self.tree.path, path)), path)

    def test_jenkinsfile(self) -> None:
        """Nothing without Jenkins reads it; its brackets match, and it has what it must have"""
        text = re.sub(r"'''.*?'''|'[^'\n]*'|\"[^\"\n]*\"|//[^\n]*", '', read('Jenkinsfile'),
                      flags=re.DOTALL)
        open_ones = []
        for char in re.findall(r'[(){}\[\]]', text):
            if char in '({[':
                open_ones.append(char)
            else:
                self.assertEqual({')': '(', '}': '{', ']': '['}[char], open_ones.pop())
        self.assertEqual(open_ones, [])
        for words in ('pipeline {', '    agent ', '    stages {', '        stage(', '    post {'):
            self.assertIn('\n' + words, '\n' + text)
