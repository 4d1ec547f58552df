# SPDX-License-Identifier: GPL-2.0+
"""The repository as a whole: documents against the command, modules against rooms."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import unittest
from typing import Dict, Iterator

from support import TOP

from buildman import bsettings
from buildman.cli import cmdline
from buildman.remote import scripts

TOOLS = os.path.join(TOP, 'tools')
PACKAGE = os.path.join(TOOLS, 'buildman')
COMMAND = os.path.join(PACKAGE, 'buildman')

# What the modules of a folder may import besides those of their own; 'bsettings' and
# the other doors, which callers import, are named as themselves. The rooms are those of
# HACKING.rst, from the bottom up
MAY_IMPORT = {
    'core': '',
    'bsettings': 'core',
    'process': 'core',
    'wire': 'core',
    'source': 'core process',
    'build': 'core process source',
    'boards': 'core process source',
    'toolchains': 'core process build bsettings',
    'agent': 'core process source build wire toolchains bsettings',
    'worker': 'agent',
    'toolchain': 'core toolchains',
    'results': 'core process source build',
    'schedule': 'core process build results',
    'remote': 'core process source build wire agent results schedule bsettings boss machine',
    'boss': 'core process source wire agent remote',
    'machine': 'core process agent remote bsettings',
    'cli': 'core process source boards toolchains build results schedule remote bsettings',
    'demo': 'core source cli',
    'main': 'core process source cli demo worker',
}


# Names that begin with an underscore, and that others may use all the same: callers of
# `boss` put stand-ins there; of the standard library
KNOWN_NAMES = frozenset({'_run_ssh', '_proc', '_load_from_config', '_exit', '_replace'})

# Tests that still look at what is a module's own: file to names
PRIVATE_LEFT = {'tests/unit/schedule/test_policy.py': ['_share']}


def read(*names: str) -> str:
    """Return a file of the repository."""
    with open(os.path.join(TOP, *names), encoding='utf-8') as inf:
        return inf.read()


def modules() -> Dict[str, str]:
    """Return our modules without tests: name below `buildman` to source."""
    out = {}
    for folder, _, names in os.walk(PACKAGE):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name[:-3]), PACKAGE)
            if name.endswith('.py') and not name.startswith(('test_', '__')):
                out[path.replace(os.sep, '.')] = read(folder, name)
    return out


def imports(text: str) -> Iterator[str]:
    """Yield what of ours a source imports, as names below `buildman`, wherever it does."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'buildman':
            room = (node.module or '').partition('.')[2]
            yield from (f'{room}.{alias.name}'.strip('.') for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition('.')[2] for alias in node.names
                        if alias.name.startswith('buildman.'))


def is_private(name: str) -> bool:
    """Return whether a name is for its own module or class only."""
    return name.startswith('_') and not name.startswith('__') and name not in KNOWN_NAMES


def others_privates(text: str) -> Iterator[str]:
    """Yield the private names that a source uses of other modules and objects."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            if isinstance(owner, ast.Call):
                # super()._name
                owner = owner.func
            if not (isinstance(owner, ast.Name) and owner.id in ('self', 'cls', 'super')):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call):
            # patch.object(thing, '_name'), setattr(thing, '_name'), patch('room.module._name')
            for arg in node.args[:2]:
                if (isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                        and ast.unparse(node.func).endswith(('patch', 'patch.object', 'attr'))):
                    yield from (part for part in arg.value.split('.') if is_private(part))


# What is in the lines of a document that give flags to others
OTHER_TOOLS = re.compile('apt-get|git |docker|podman|kubectl|salloc|nspawn|bwrap|unshare')


def flags(text: str) -> Iterator[str]:
    """Yield the long flags that a document gives our command."""
    for line in text.splitlines():
        if not OTHER_TOOLS.search(line):
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
        words = set(re.findall(r'``(\w+)``', rows))
        known = {part for name in modules() for part in name.split('.')}
        self.assertEqual(sorted(words - known - {'u_boot_pylib'}), [])
        rooms = {name.partition('.')[0] for name in modules()}
        self.assertEqual(sorted(rooms - words), [], 'HACKING does not name them')


class RoomsTest(unittest.TestCase):
    """Who changes a room need not read those above it."""

    def test_imports_point_one_way(self) -> None:
        """Each room imports what it may, and no other"""
        for name, text in modules().items():
            room = name.partition('.')[0]
            got = {other.partition('.')[0] for other in imports(text)} - {room, '__version__'}
            self.assertLessEqual(got, set(MAY_IMPORT[room].split()), name)

    def test_worker_modules(self) -> None:
        """What is sent to a machine is what the program there imports, nothing is missed"""
        known = modules()
        for start in ('agent.serve', 'agent.setup', 'agent.survey', 'agent.fetch'):
            todo, needed = [start], set()
            while todo:
                name = todo.pop()
                if name in known and name not in needed:
                    needed.add(name)
                    for other in imports(known[name]):
                        todo += [other, other.rpartition('.')[0]]
            sent = {name.partition('.')[2] for name in scripts.modules_of(start)}
            rooms = {''} | {name.rpartition('.')[0] for name in needed}
            self.assertEqual(sorted(sent), sorted(needed | rooms), start)


class PrivatesTest(unittest.TestCase):
    """What begins with an underscore can be changed without looking elsewhere."""

    def test_code(self) -> None:
        """No module reaches into another module, or another object"""
        for name, text in modules().items():
            self.assertEqual([], list(others_privates(text)), name)

    def test_tests(self) -> None:
        """Tests use what others use; what is left shrinks"""
        found = {}
        for folder, _, names in os.walk(os.path.join(TOP, 'tests')):
            for name in names:
                if name.endswith('.py'):
                    privates = sorted(set(others_privates(read(folder, name))))
                    if privates:
                        found[os.path.relpath(os.path.join(folder, name), TOP)] = privates
        self.assertEqual(PRIVATE_LEFT, found)

    def test_seen(self) -> None:
        """It is seen however it is written"""
        for text in ('a._b', 'a.b._c()', 'f()._x', 'a[0]._b = 1', 'from a import _b',
                     "mock.patch.object(a, '_b')", "setattr(a, '_b', 1)",
                     "mock.patch('buildman.room._b', 1)", 'self.a._b'):
            self.assertTrue(list(others_privates(text)), text)
        for text in ('self._b', 'cls._b', 'super()._b()', 'a.__class__', 'os._exit(1)',
                     "f('_b')", "open('a._b')"):
            self.assertEqual([], list(others_privates(text)), text)


class FilesTest(unittest.TestCase):
    """Somebody who gets a copy knows what it is, and can run it."""

    def test_licence_lines(self) -> None:
        """Each program says under which licence it is"""
        for folder, _, names in os.walk(TOP):
            if '/.' in os.path.relpath(folder, TOP) or os.path.join('demo', 'data') in folder:
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
