# SPDX-License-Identifier: GPL-2.0+
"""buildman in place of tools/buildman in a U-Boot tree, as the README tells to put it there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import Dict, List

import support

from buildman.demo import sample

# What the tree has of its own, and other tools of it import: not what ours has
PYLIB = {
    '__init__.py': '',
    'terminal.py': 'COLOR_IF_TERMINAL, COLOR_ALWAYS, COLOR_NEVER = range(3)\n'
                   'class Color:\n'
                   '    def __init__(self, colored):\n'
                   '        self.colored = colored\n',
    'command.py': 'def run_pipe(pipe_list, capture=False, **kwargs):\n'
                  "    raise NotImplementedError('of the tree')\n",
}

# A tool of the tree that configures boards, as tools/qconfig.py does
TOOL = '''\
import os
import subprocess
import sys

from buildman import bsettings
from buildman import kconfiglib
from buildman import toolchain
from u_boot_pylib import terminal

terminal.Color(terminal.COLOR_NEVER)
bsettings.setup('')
chains = toolchain.Toolchains()
chains.GetSettings()
chains.Scan(verbose=False)
for arch in sys.argv[1:]:
    try:
        env = chains.Select(arch).MakeEnvironment(False)
    except ValueError as exc:
        print(f'{arch}: missing')
        continue
    gcc = env.get('CROSS_COMPILE', '') + 'gcc'
    target = subprocess.run([gcc, '-dumpmachine'], env=env, check=True, capture_output=True,
                            text=True).stdout.strip()
    print(f'{arch}: {gcc} runs')
print(kconfiglib.MINE)
'''

# What is no part of the repository
_LEFT_OUT = shutil.ignore_patterns('.git', '__pycache__', '.*_cache', 'bench', '*.egg-info')


class InTreeTest(unittest.TestCase):
    """A tree whose tools/buildman is ours."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.home = tmp.name
        self.made = sample.make_sample(os.path.join(self.home, 'u-boot'))
        self.tree = self.made.path
        sample.write_config(os.path.join(self.home, '.buildman'),
                            sample.make_toolchains(os.path.join(self.home, 'cross')))
        for name, text in PYLIB.items():
            self.write(f'tools/u_boot_pylib/{name}', text)
        self.write('tools/findcc.py', TOOL)
        self.write('tools/buildman/kconfiglib.py', 'MINE = "kconfiglib of the tree"\n')
        self.write('tools/buildman/requirements.txt', '# of the tree\n')
        self.write('tools/buildman/stale.py', 'raise SystemExit("of the tree")\n')

    def write(self, name: str, text: str) -> None:
        path = os.path.join(self.tree, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)

    def env(self) -> Dict[str, str]:
        return {**os.environ, 'HOME': self.home, 'XDG_CACHE_HOME': os.path.join(self.home, 'c')}

    def run_there(self, *argv: str, status: int = 0) -> str:
        """Run a program in the tree and return what it prints."""
        done = subprocess.run(argv, cwd=self.tree, env=self.env(), capture_output=True, text=True,
                              check=False, timeout=support.TIMEOUT)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout

    def replace(self) -> None:
        """Do what the README says."""
        with open(os.path.join(support.TOP, 'README.rst'), encoding='utf-8') as inf:
            text = inf.read()
        part = text[text.index('In a U-Boot tree\n'):]
        match = re.search(r'::\n\n((?:    .*\n)+)', part)
        assert match
        ours = os.path.join(self.home, 'buildman')
        shutil.copytree(support.TOP, ours, symlinks=True, ignore=_LEFT_OUT)
        git: List[str] = ['git', '-C', ours, '-c', 'user.name=n', '-c', 'user.email=e']
        for args in (['init', '-q'], ['add', '-A'], ['commit', '-q', '-m', 'All']):
            subprocess.run([*git, *args], check=True, capture_output=True)
        self.run_there('sh', '-e', '-c', match.group(1))

    def check_uses(self) -> None:
        """Builds, lists, other tools"""
        command = 'tools/buildman/buildman'
        out = os.path.join(self.home, 'out')
        self.assertIn('Total boards to build for each commit: 8',
                      self.run_there(command, '-n', '-o', out))
        self.run_there(command, '-o', out, '-b', 'feature', '-c', '1', '--boards', 'sandbox',
                       '-W', status=0)
        self.assertIn('List of available toolchains', self.run_there(command, '--list-tool-chains'))
        self.assertIn('In a U-Boot tree', self.run_there(command, '-H'))
        got = self.run_there(sys.executable, 'tools/findcc.py', 'arm', 'xtensa').splitlines()
        self.assertRegex(got[0], r'^arm: arm-.*gcc runs$')
        self.assertEqual(got[1:], ['xtensa: missing', 'kconfiglib of the tree'])
        with open(os.path.join(self.tree, 'tools/buildman/requirements.txt'),
                  encoding='utf-8') as inf:
            self.assertEqual(inf.read(), '# of the tree\n')

    def test_readme(self) -> None:
        """The commands of the README, and then what a tree does with its buildman"""
        self.replace()
        self.check_uses()
        self.assertFalse(os.path.exists(os.path.join(self.tree, 'tools/buildman/stale.py')))
        # Its own tests, with its own library
        for name in ('__init__.py', 'unit/test_pylib.py'):
            self.assertTrue(os.path.exists(os.path.join(
                self.tree, 'tools/buildman/../../tests', name)), name)

    def test_copy(self) -> None:
        """A mere copy of the folder over the one of the tree"""
        keep = os.path.join(self.home, 'keep')
        shutil.copytree(os.path.join(self.tree, 'tools/buildman'), keep)
        self.run_there('cp', '-rL', os.path.join(support.TOOLS, 'buildman'), 'tools')
        self.run_there('cp', '-r', f'{keep}/.', 'tools/buildman')
        self.check_uses()
