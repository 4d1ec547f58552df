# SPDX-License-Identifier: GPL-2.0+
"""What a build reads of the environment is what the tree says, and nothing private."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import unittest

from support import needs

from buildman.build import outside

# Shaped like U-Boot's
MAKEFILE = """\
VERSION = 2026
EXTRAVERSION := -rc1
CC = $(CROSS)gcc
DTC ?= dtc
export ARCH=arm
# $(REMARK) is nothing
ifeq ($(origin VERBOSE_BUILD),environment)
  KBUILD_VERBOSE = $(VERBOSE_BUILD)
endif
ifndef QUICK
endif
CFLAGS += -O2 $(CC) $(VERSION) $(EXTRAVERSION) $(ARCH) $(KBUILD_VERBOSE)
cmd = tool $(foreach dir,$(INDIRS),-I $(dir)) -a bl1=${BL1} -a rom=$(ROM:%=x) \\
\t-a key=${KEY_PATH} $(DTC) $(LONG_NAME) $(if $(MAYBE),-y) $$SHELLISH $(HOME) $(API_TOKEN)
\\t$(CFLAGS)
NAMED_ONLY = NAMED_ONLY
"""
READ = {'CROSS', 'DTC', 'VERBOSE_BUILD', 'QUICK', 'CFLAGS', 'KBUILD_VERBOSE', 'INDIRS', 'BL1',
        'ROM', 'KEY_PATH', 'LONG_NAME', 'MAYBE', 'SHELLISH', 'FROM_SCRIPT', 'FROM_PYTHON'}
NOT_READ = {'VERSION', 'EXTRAVERSION', 'CC', 'ARCH', 'REMARK', 'NAMED_ONLY', 'LONG', 'NAME', 'HOME',
            'API_TOKEN', 'PATH', 'IN_DOC', 'IN_C'}
FILES = {'Makefile': MAKEFILE, 'scripts/run.sh': 'echo ${FROM_SCRIPT:-none} $PATH\n',
         'tools/binman/etype/x.py': "os.environ.get('FROM_PYTHON')\nname = 'IN_DOC'\n",
         'doc/x.rst': '$(IN_DOC)\n', 'common/x.c': '/* $(IN_C) */\n',
         'drivers/x/Makefile': 'CFLAGS = -g\n'}


class ScanTest(unittest.TestCase):
    """Of a tree, at a commit and in a folder"""

    def setUp(self) -> None:
        needs('git')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        for name, text in FILES.items():
            path = os.path.join(self.dir, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(text)

    def test_folder_and_commit(self) -> None:
        """The same names, whether git knows the files or not"""
        names = READ | NOT_READ
        self.assertEqual(READ, outside.search(self.dir, [], names))
        for args in (['init', '-q'], ['add', '-A'],
                     ['-c', 'user.name=a', '-c', 'user.email=a@a', 'commit', '-qm', 'x']):
            subprocess.run(['git', *args], cwd=self.dir, check=True)
        self.assertEqual(READ, outside.search(self.dir, ['HEAD'], names))
        self.assertEqual(frozenset(), outside.search(self.dir, ['HEAD'], ['OTHER']))

    def test_private(self) -> None:
        """What says who and where somebody is, or opens doors, whatever a tree reads"""
        for name in ('HOME', 'PATH', 'USER', 'SSH_AUTH_SOCK', 'LC_ALL', 'PYTHONPATH', 'MY_PASSWORD',
                     'GITHUB_TOKEN', 'CI_JOB_TOKEN', 'AWS_SECRET_ACCESS_KEY', 'TWINE_PASSWORD',
                     'DB_PASS', 'HTTPS_PROXY', 'TMPDIR', 'lower'):
            self.assertFalse(outside.is_candidate(name), name)
        for name in ('BL31', 'PRE_LOAD_KEY_PATH', 'BINMAN_INDIRS', 'NO_PYTHON', 'KEYDIR', 'PASSIVE',
                     'BUILD_TAG', 'LOCALVERSION', 'NO_LTO', 'COREBOOT_ROM', 'BINMAN_TOOLPATHS'):
            self.assertTrue(outside.is_candidate(name), name)


class ValuesTest(unittest.TestCase):
    """What of a value is a file, and what it is elsewhere"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        for name in ('one', 'tool', 'dir/two', 'dir/sub/three', 'with blank'):
            path = os.path.join(self.dir, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(name)
        os.chmod(os.path.join(self.dir, 'tool'), 0o755)
        # A loop
        os.symlink('..', os.path.join(self.dir, 'dir/sub/up'))

    def there(self, value: str, base: str = '') -> str:
        """Return what a value becomes on a machine"""
        found = outside.collect({'X': value}, {'X'}, base)
        self.assertEqual([], found.warnings)
        store = outside.BlobStore(os.path.join(self.dir, 'store'))
        for sha, path in found.files.items():
            with open(path, 'rb') as inf:
                store.put(sha, 0, inf.read(), True)
        for sha, data in found.texts.items():
            store.put(sha, 0, data, True)
        return store.resolve(found.env['X'])

    def test_kinds(self) -> None:
        """A file, one with a blank, a program, a folder; lists with blanks and with colons"""
        def text(path: str) -> str:
            with open(path, encoding='utf-8') as inf:
                return inf.read()
        for name in ('one', 'with blank'):
            got = self.there(os.path.join(self.dir, name))
            self.assertEqual(name, text(got))
            self.assertFalse(os.access(got, os.X_OK) and os.getuid())
        self.assertTrue(os.stat(self.there(f'{self.dir}/tool')).st_mode & 0o100)
        got = self.there(f'{self.dir}/dir')
        self.assertEqual('dir/sub/three', text(os.path.join(got, 'sub/three')))
        self.assertFalse(os.path.exists(os.path.join(got, 'sub/up')))
        for gap in (' ', '  ', ':'):
            one, two = self.there(f'{self.dir}/dir{gap}{self.dir}/one').split(gap)
            self.assertEqual('dir/two', text(os.path.join(one, 'two')))
            self.assertEqual('one', text(two))

    def test_no_files(self) -> None:
        """Words, what is not there, what is relative, and the programs of this machine"""
        for value in ('', '1', 'one', '-g -O2', '/nonexistent/x', '../x', '/bin/sh', '/'):
            self.assertEqual(value, self.there(value), value)
        with open(self.there('one', self.dir), encoding='utf-8') as inf:
            self.assertEqual('one', inf.read())

    def test_refused(self) -> None:
        """A list that leads out of its folder"""
        store = outside.BlobStore(os.path.join(self.dir, 'store'))
        for path in ('../x', '/x', 'a/../../x'):
            data = f"{'0' * 64} - {path}\n".encode()
            sha = hashlib.sha256(data).hexdigest()
            store.put(sha, 0, data, True)
            with self.assertRaises(ValueError):
                store.resolve(f'@tree:{sha}/x@')

    def test_tidy(self) -> None:
        """What nobody has used for a month goes; what is used now stays"""
        store = outside.BlobStore(os.path.join(self.dir, 'store'))
        paths = {}
        for text in (b'a', b'b'):
            sha = hashlib.sha256(text).hexdigest()
            store.put(sha, 0, text, True)
            paths[text] = sha
        later = os.stat(self.dir).st_mtime + outside.KEEP_UNUSED + 100
        store.tidy([paths[b'a']], later)
        self.assertEqual((True, False), (store.has(paths[b'a']), store.has(paths[b'b'])))
        store.tidy([], later + 100)
        self.assertTrue(store.has(paths[b'a']))
