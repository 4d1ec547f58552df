# SPDX-License-Identifier: GPL-2.0+
"""The repository as a whole: documents against the command, modules against rooms."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import unittest
from typing import Dict, Iterator, List, Set

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))

from buildman import bsettings, cmdline, scripts

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
TOOLS = os.path.join(TOP, 'tools')
PACKAGE = os.path.join(TOOLS, 'buildman')
COMMAND = os.path.join(PACKAGE, 'buildman')

# The rooms of HACKING.rst from the bottom up, as the beginnings of module names;
# the longest one that fits counts
ROOMS = (
    ('plan', 'outcome', 'events', 'errors', 'bsettings', 'oneshot', 'boards', 'boardscan',
     'commits', 'configcheck', 'toolchain', 'compilers', 'buildenv', 'processors', 'git', 'seed',
     'steps', 'watch', 'origin', 'envscan', 'localversion', 'worktree'),
    ('engine', 'makejob', 'makerun', 'messages', 'buildfolder', 'collect', 'jobserver',
     'process', 'ccache', 'shareddtc'),
    ('results', 'resultreader', 'durations', 'summary', 'status', 'listing', 'limit',
     'aftermath'),
    ('local', 'scheduler', 'ledger', 'forecast', 'weights', 'builder'),
    ('ssh', 'channel', 'protocol', 'kinds', 'wire', 'running', 'lock', 'farside',
     'machine', 'scripts', 'source', 'history', 'tempdirs', 'blobs', 'shipment', 'worker', 'sender',
     'remote', 'receiver', 'connection', 'boss', 'pool', 'hosts', 'inbox', 'joblog', 'dist'),
    ('main', 'signals', 'cmdline', 'control', 'places', 'demo', 'sample', 'selftest'),
)


def read(*names: str) -> str:
    """Return a file of the repository."""
    with open(os.path.join(TOP, *names), encoding='utf-8') as inf:
        return inf.read()


def modules() -> List[str]:
    """Return the names of our modules, without tests."""
    return sorted(name[:-3] for name in os.listdir(PACKAGE)
                  if name.endswith('.py') and not name.startswith(('test_', '__')))


def imports(name: str) -> Set[str]:
    """Return which of our modules a module imports, wherever in its text."""
    known = set(modules())
    out: Set[str] = set()
    for node in ast.walk(ast.parse(read('tools', 'buildman', f'{name}.py'))):
        if isinstance(node, ast.ImportFrom) and node.module == 'buildman':
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('buildman.'):
            out.add((node.module or '').split('.')[1])
        elif isinstance(node, ast.Import):
            out |= {alias.name.split('.')[1] for alias in node.names
                    if alias.name.startswith('buildman.')}
    return out & known


def flags(text: str) -> Iterator[str]:
    """Yield the long flags that a document gives our command."""
    for line in text.splitlines():
        if 'apt-get' not in line and 'git ' not in line and 'docker' not in line:
            yield from re.findall(r'(?<![\w-])--[a-z][a-z_-]+', line)


class DocumentsTest(unittest.TestCase):
    """A user does what the README says, and it works."""

    def test_flags_exist(self) -> None:
        """Each flag in the README is one that the command lists"""
        usage = subprocess.run([COMMAND, '--help'], check=True, capture_output=True,
                               text=True).stdout
        known = set(re.findall(r'--[a-z][a-z_-]+', usage))
        known |= {'--size-sort'}
        given = cmdline.make_parser().full_words(list(flags(read('README.rst'))))
        self.assertEqual(sorted(set(given) - known), [])

    def test_full_help(self) -> None:
        """-H shows the README from any folder"""
        got = subprocess.run([COMMAND, '-H'], check=True, capture_output=True, cwd='/').stdout
        self.assertEqual(got.decode('utf-8'), read('README.rst'))

    def test_machine_keys(self) -> None:
        """Each key of [machine:NAME] has a line in the README"""
        text = read('README.rst')
        for key in bsettings.SECTIONS['machine:'] or ():
            self.assertRegex(text, fr'(?m)^``{key}``  ')

    def test_named_files(self) -> None:
        """What HACKING names is there"""
        text = read('HACKING.rst')
        for name in re.findall(r'``(tests/\w+\.py|tools/[\w/]+)``', text):
            self.assertTrue(os.path.exists(os.path.join(TOP, name)), name)
        rows = text[text.index('Rooms of the house'):text.index('Who owns what')]
        for word in re.findall(r'``(\w+)\*?``', rows):
            self.assertTrue(word == 'u_boot_pylib'
                            or any(name.startswith(word) for name in modules()), word)


class RoomsTest(unittest.TestCase):
    """Who changes a room need not read those above it."""

    @staticmethod
    def _room(name: str) -> int:
        fits = [(len(word), pos) for pos, room in enumerate(ROOMS) for word in room
                if name.startswith(word)]
        return max(fits)[1] if fits else -1

    def test_imports_point_one_way(self) -> None:
        """No module imports one of a room above its own"""
        wrong = [f'{name} imports {other}' for name in modules() for other in imports(name)
                 if self._room(other) > self._room(name) >= 0]
        self.assertEqual(wrong, [])

    def test_worker_modules(self) -> None:
        """What is sent to a machine is what the worker imports, in an order that works"""
        todo = ['worker']
        needed: Dict[str, Set[str]] = {}
        while todo:
            name = todo.pop()
            if name not in needed:
                needed[name] = imports(name)
                todo += needed[name]
        self.assertEqual(sorted(scripts.WORKER_MODULES), sorted(needed))
        for pos, name in enumerate(scripts.WORKER_MODULES):
            self.assertLessEqual(needed[name], set(scripts.WORKER_MODULES[:pos]), name)


class FilesTest(unittest.TestCase):
    """Somebody who gets a copy knows what it is, and can run it."""

    def test_licence_lines(self) -> None:
        """Each program says under which licence it is"""
        for folder, _, names in os.walk(TOP):
            if '/.' in os.path.relpath(folder, TOP) or 'sample_data' in folder:
                continue
            for name in names:
                if name.endswith('.py'):
                    with open(os.path.join(folder, name), encoding='utf-8') as inf:
                        head = inf.read(300)
                    self.assertIn('SPDX-License-Identifier: GPL-2.0+', head,
                                  os.path.join(folder, name))

    def test_executable(self) -> None:
        """The command can be called by its path"""
        self.assertTrue(os.access(COMMAND, os.X_OK))


if __name__ == '__main__':
    unittest.main()
