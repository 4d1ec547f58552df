# SPDX-License-Identifier: GPL-2.0+
"""Builds that are skipped leave the tree that they would have left."""

import os
import subprocess
import tempfile
import unittest

from support import assert_same_tree, command, needs

from buildman.demo import sample_files

# Like Kbuild: for each object what it was made of, in .NAME.cmd
MAKEFILE = '''\
VERSION = 1
SRC := $(CURDIR)
all:
\t@mkdir -p $(O)/common && cd $(O) && \\
\t$(CROSS_COMPILE)gcc -c -MMD -MF main.d -I../include -o common/main.o ../common/main.c && \\
\t{ echo 'cmd_common/main.o := gcc'; echo; echo 'source_common/main.o := ../common/main.c'; \\
\t  echo; sed 's/^[^:]*:/deps_common\\/main.o :=/' main.d; } > common/.main.o.cmd && \\
\tgcc -nostdlib -nostartfiles -Wl,-e,main -Wl,--build-id=none -o u-boot common/main.o && \\
\techo "made" >> $(SRC)/../../../made
%_defconfig:
\t@mkdir -p $(O)/include/generated $(O)/include/config && cp configs/$@ $(O)/.config && \\
\ttouch $(O)/include/generated/autoconf.h
olddefconfig savedefconfig cfg mrproper:
\t@true
'''

# Subject, files; the expected effect on board a: True builds it
SERIES = (
    ('base', {}, True),
    ('used source',
     {'common/main.c': '#include "common.h"\nint main(void) { return VAL; }\n'}, True),
    ('unused source', {'common/other.c': 'int other(void) { return 2; }\n'}, False),
    ('unused header', {'include/other.h': '#define OTHER 2\n'}, False),
    ('used header', {'include/common.h': '#define VAL 5\n'}, True),
    ('documents', {'doc/new.rst': 'Text\n', 'README': 'Read\n'}, False),
    ('board b only', {'configs/b_defconfig': 'CONFIG_B=y\nCONFIG_MORE=y\n'}, False),
    ('own defconfig', {'configs/a_defconfig': 'CONFIG_A=y\nCONFIG_MORE=y\n'}, True),
    ('new header', {'include/new.h': '#define NEW\n'}, True),
    ('script', {'scripts/x.py': 'print(2)\n'}, True),
    ('warning', {'common/main.c': '#include "common.h"\nint main(void) { int x; return VAL; }\n'
                                  '#warning careful\n'}, True),
    ('unused source again', {'common/other.c': 'int other(void) { return 3; }\n'}, False),
)


class TestSkip(unittest.TestCase):
    """A series built with and without skipping gives the same tree; see test_carry as well"""

    def setUp(self):
        needs('git', 'make', 'gcc')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.top = temp.name
        self.repo = os.path.join(self.top, 'repo')
        self.write({'Makefile': MAKEFILE, 'configs/a_defconfig': 'CONFIG_A=y\n',
                    'configs/b_defconfig': 'CONFIG_B=y\n', 'include/common.h': '#define VAL 3\n',
                    'include/other.h': '#define OTHER 1\n', 'scripts/x.py': 'print(1)\n',
                    'common/main.c': '#include "common.h"\nint main(void) { return 0; }\n',
                    'common/other.c': 'int other(void) { return 1; }\n',
                    'boards.cfg': ''.join(f'Active  sandbox  -  -  -  -  {b}  {b}  A <a@b>\n'
                                          for b in 'ab')})
        self.git('init', '-q', '-b', 'master')
        self.git('config', 'user.name', 'T')
        self.git('config', 'user.email', 't@example.com')
        for num, (subject, files, _) in enumerate(SERIES):
            self.write(files)
            self.git('add', '-A')
            self.git('commit', '-q', '-m', subject)
            if not num:
                self.git('checkout', '-q', '-b', 'topic', '--track', 'master')

    def write(self, files):
        """Write files of the repository"""
        for name, text in files.items():
            path = os.path.join(self.repo, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(text)

    def git(self, *args):
        """Run git"""
        subprocess.run(['git', *args], cwd=self.repo, check=True, capture_output=True)

    def build(self, out, *flags, **env):
        """Build the series; return what was printed and how often make built"""
        made = os.path.join(self.top, out, 'made')
        done = subprocess.run(
            [*command(), '-g', self.repo, '-b', 'topic', '-o', os.path.join(self.top, out),
             '--boards', 'a', *flags], capture_output=True, text=True, check=False,
            env={**os.environ, 'HOME': self.top, **env})
        self.assertEqual(done.returncode, 101, done.stdout + done.stderr)
        with open(made, encoding='utf-8') as inf:
            return done.stdout, len(inf.readlines())

    def test_version_script(self):
        """What images tell of a commit is as long as the tree's own script makes it"""
        data = os.path.join(sample_files.DATA)
        for name, tag, want in (('tree/scripts/setlocalversion', 'odd-1', 3),
                                ('setlocalversion.twelve', 'odd-1', 1),
                                ('setlocalversion.twelve', 'v1', 3)):
            with open(os.path.join(data, name), encoding='utf-8') as inf:
                self.write({'scripts/setlocalversion': inf.read() + f'# {tag}\n'})
            for text in 'abcd':
                self.write({'README': f'{name} {tag} {text}\n'})
                self.git('add', '-A')
                self.git('commit', '-q', '-m', text)
            self.git('tag', '-f', '-a', '-m', 'x', tag, 'HEAD~1')
            # With a tag a commit is told in other words than without, and not at all at it
            text, made = self.build(f'{tag}-{want}', '-c', '4')
            self.assertEqual((want, name, tag), (made, name, tag), text)
            self.git('tag', '-d', tag)

    def test_ccache(self):
        """What ccache says that a file was made of is what the compiler says"""
        needs('ccache')
        _, made = self.build('plain')
        for out in ('cold', 'warm'):
            text, count = self.build(out, '--ccache', CCACHE_DIR=os.path.join(self.top, 'cache'))
            self.assertEqual(made, count)
            assert_same_tree(os.path.join(self.top, 'plain', 'topic'),
                             os.path.join(self.top, out, 'topic'), ignore=('out-cmd', 'out-env'))
        self.assertIn(f'ccache had {made} of {made} objects', text)

    def test_images(self):
        """With -k an image holds the version, so all is built; with -r it does not"""
        _, made = self.build('k', '-k')
        self.assertEqual(made, len(SERIES))
        _, made = self.build('kr', '-k', '-r')
        self.assertLess(made, len(SERIES))
        _, made = self.build('kroff', '-k', '-r', '--no-skip-unaffected')
        assert_same_tree(os.path.join(self.top, 'kr', 'topic'),
                         os.path.join(self.top, 'kroff', 'topic'))
