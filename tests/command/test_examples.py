# SPDX-License-Identifier: GPL-2.0+
"""The examples for CI servers do what they say, on the sample."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import textwrap
from typing import Any, ClassVar, Dict

from support import TOOLS, TOP, Result, SampleCase

from buildman.demo import sample

FOLDER = os.path.join(TOP, 'examples', 'ci')

# Where the scripts are in each of them: for one runner, for the report on all
SCRIPTS = {
    'github.yml': (r'- name: Build\n[\s\S]*?\n        run: \|\n((?: {10}.*\n)+)',
                   r'- name: Report\n        run: \|\n((?: {10}.*\n)+)'),
    'gitlab.yml': (r'\n  stage: build\n(?:.*\n)+?  script:\n    - \|\n((?: {6}.*\n)+)',
                   r'\n  stage: report\n  script:\n    - \|\n((?: {6}.*\n)+)'),
    'Jenkinsfile': (r"(?m)^ *sh '''\n((?:.*\n)+?)\s*'''$",
                    r"script: '''\n((?:.*\n)+?)\s*'''\)"),
}

# What a server sets for each runner
RUNNERS = {'github.yml': ({'SHARD': '1/2'}, {'SHARD': '2/2'}),
           'gitlab.yml': ({'CI_NODE_INDEX': '1', 'CI_NODE_TOTAL': '2'},
                          {'CI_NODE_INDEX': '2', 'CI_NODE_TOTAL': '2'}),
           'Jenkinsfile': ({'SHARD': '1'}, {'SHARD': '2'})}

# What it takes from there, and where it puts that for the report; {} is the runner
TAKEN = {'github.yml': ('shard.tar.gz', 'shards/shard-{}/shard.tar.gz'),
         'gitlab.yml': ('shard-{}.tar.gz', 'shard-{}.tar.gz'),
         'Jenkinsfile': ('shard-{}.tar.gz', 'shard-{}.tar.gz')}


def read(name: str) -> str:
    """Return an example."""
    with open(os.path.join(FOLDER, name), encoding='utf-8') as inf:
        return inf.read()


class ExamplesTest(SampleCase):
    """A branch that breaks two boards."""

    sample_args: ClassVar[Dict[str, Any]] = {'commits': sample.DEFAULT_STEPS[1:2]}

    def script(self, name: str, which: int) -> str:
        """Return a script of an example."""
        match = re.search(SCRIPTS[name][which], read(name))
        assert match, f'{name} has no script'
        # Of what GitLab runs before, what is not for its image
        before = re.findall(r'\n    - (git .*)', read(name))
        return '\n'.join([*before, textwrap.dedent(match.group(1))])

    def run_in(self, folder: str, script: str, env: Dict[str, str]) -> Result:
        """Run a script as all servers do: the first failure ends it."""
        done = subprocess.run(['sh', '-ec', script], text=True, cwd=folder,
                              env=self.env({'HOME': self.tmp, **env}), capture_output=True,
                              check=False)
        return Result(('sh', script), done.returncode, done.stdout, done.stderr)

    def test_scripts(self) -> None:
        """Each fails the branch and writes what its server is to show, on three machines"""
        # As it is where nobody says -G
        os.symlink(self.config, self.out('.buildman'))
        env = {'BASE': 'origin/master', 'BOARDS': 'anvil,rocket'}
        self.assertEqual(sorted([*SCRIPTS, 'budget', 'known']), sorted(os.listdir(FOLDER)))
        for name in SCRIPTS:
            with self.subTest(name=name):
                report = self.clone(f'{name}-report')
                for number, variables in enumerate(RUNNERS[name], 1):
                    runner = self.clone(f'{name}-{number}')
                    done = self.run_in(runner, self.script(name, 0), {**env, **variables})
                    self.assertEqual(done.returncode, 0, done)
                    self.assertIn(f'Shard {number}/2: 1 boards', done.stderr)
                    source, dest = (path.format(number) for path in TAKEN[name])
                    path = os.path.join(report, dest)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    os.rename(os.path.join(runner, source), path)
                os.makedirs(os.path.join(report, 'shards'), exist_ok=True)
                done = self.run_in(report, self.script(name, 1), env)
                self.assertEqual(done.returncode, 100, done)
                self.assertIn('Counted: 1 board with errors', done.stdout.splitlines()[-1])
                self.assertEqual(name == 'github.yml', '\n::error file=' in done.stdout)
                # What it is to show is there, and nothing of the work
                paths = re.findall(r'\bout/[\w./-]+\b', read(name))
                self.assertIn('out/buildman.html', paths)
                for path in paths:
                    self.assertTrue(os.path.exists(os.path.join(report, path)), path)
                self.assertEqual([], glob.glob(f'{report}/**/.bm-work/[0-9]*', recursive=True))

    def clone(self, name: str) -> str:
        """Return the folder of a machine that has the branch and knows where it comes from."""
        folder = self.out(name)
        subprocess.run(['git', 'clone', '-q', '-b', 'feature', self.tree.path, folder], check=True)
        os.makedirs(os.path.join(folder, 'tools'), exist_ok=True)
        os.symlink(os.path.join(TOOLS, 'buildman'), os.path.join(folder, 'tools/buildman'))
        os.symlink(FOLDER, os.path.join(folder, 'ci'))
        return folder

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
        for words in (r'pipeline \{', ' {4}agent ', r' {4}stages \{', r' {8}stage\(', r' +post \{'):
            self.assertRegex(text, f'(?m)^{words}')
