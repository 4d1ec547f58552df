# SPDX-License-Identifier: GPL-2.0+
"""Builds that are skipped: only where the commit surely changes nothing."""

import os
import tempfile
import unittest

from buildman.build import unaffected

NOTES = unaffected.Notes(['common/main.c', 'include/common.h', 'dts/a.dts'])


class TestRules(unittest.TestCase):
    """What matters, file by file: a wrong 'no' hides a broken commit"""

    def matters(self, name, how='M', includes=False):
        """Tell whether a change of one file matters to board a"""
        return unaffected.matters(
            {name: how}, NOTES, ['configs/a_defconfig', 'configs/x.config'], includes)

    def test_read(self):
        """What was read matters, what surely was not does not"""
        for name in ('common/main.c', 'include/common.h', 'dts/a.dts'):
            self.assertTrue(self.matters(name), name)
        for name in ('common/other.c', 'drivers/x/y.h', 'dts/b.dts', 'dts/b.dtsi'):
            self.assertFalse(self.matters(name), name)

    def test_several(self):
        """One file that matters is enough, whatever comes before it"""
        for name in ('doc/x.rst', 'configs/b_defconfig', 'common/other.c'):
            self.assertTrue(unaffected.matters(
                {name: 'M', 'common/main.c': 'M'}, NOTES, ['configs/a_defconfig'], False), name)
        self.assertFalse(unaffected.matters({}, NOTES, [], True))

    def test_not_understood(self):
        """Whatever may be read without a note matters"""
        for name in ('Makefile', 'common/Makefile', 'Kconfig', 'arch/arm/Kconfig', 'config.mk',
                     'scripts/kconfig/conf', 'scripts/dtc/checks.c', 'tools/binman/x.py',
                     'board/x/x.env', 'a.lds',
                     'board/x/image.cfg', 'start.S', 'x.its', '.config', 'doc', 'VERSION'):
            self.assertTrue(self.matters(name), name)

    def test_new_and_gone(self):
        """A new header may hide another one; a file that is gone may be missed"""
        for how in 'ADT':
            self.assertTrue(self.matters('common/other.c', how))
        self.assertFalse(self.matters('doc/x.rst', 'A'))
        self.assertFalse(self.matters('configs/b_defconfig', 'A'))

    def test_defconfigs(self):
        """Only the board's own, unless it includes others"""
        self.assertTrue(self.matters('configs/a_defconfig'))
        self.assertFalse(self.matters('configs/b_defconfig'))
        self.assertTrue(self.matters('configs/b_defconfig', includes=True))
        self.assertTrue(self.matters('configs/deep/b_defconfig'))

    def test_fragments(self):
        """Those that the board is made with; a list of such boards is read by none of them"""
        self.assertTrue(self.matters('configs/x.config'))
        self.assertFalse(self.matters('configs/y.config'))
        self.assertTrue(self.matters('configs/y.config', includes=True))
        self.assertTrue(self.matters('board/acme/y.config'))
        self.assertFalse(self.matters('configs/y.buildman', 'A'))

    def test_version_length(self):
        """A version text of another length makes an image of another size"""
        same = unaffected.same_length
        self.assertTrue(same('v1-2-gabcdef0\n', 'v1-33-g0123456\n'))
        self.assertTrue(same('abcdef0', '1234567'))
        self.assertTrue(same('-00002-gabcdef0\n', '-00003-gabcdef1\n'))
        self.assertFalse(same('v1', 'v1-1-gabcdef0'))
        self.assertFalse(same('v1-1-gabcdef0', 'v1-1-gabcdef01'))
        self.assertFalse(same('abcdef0', '12345678'))
        self.assertFalse(same('v1-1-gabcdef0', 'v1-1-gabcdef0-dirty'))

    def test_version_shape(self):
        """What is no version with a number of commits is a tag or a hash"""
        same = unaffected.same_length
        self.assertTrue(same('v1', 'v2022.01-rc2'))
        self.assertFalse(same('', 'v1'))
        self.assertFalse(same('abcdef0', 'v1'))
        self.assertTrue(same('-gabcdef0', '-g1234567 '))
        self.assertFalse(same('-gabcdef0', 'abcdef0'))
        # At least five digits are written
        self.assertTrue(same('v1-1-gabcdef0', 'v1-12345-gabcdef0'))
        self.assertFalse(same('v1-1-gabcdef0', 'v1-123456-gabcdef0'))


class TestNotes(unittest.TestCase):
    """What Kbuild has noted: a file that is overlooked hides a broken commit"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.top = temp.name
        self.build = os.path.join(self.top, 'build')
        self.write('.config', 'CONFIG_A=y\n')

    def write(self, name, text):
        """Write a file of the build folder"""
        path = os.path.join(self.build, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)

    def files(self):
        """Return what was read, None when that is not known"""
        notes = unaffected.read_notes(self.build, self.top)
        return notes and set(notes.files)

    def test_words(self):
        """Sources and headers of ours, not options, the command line, or what lies elsewhere"""
        self.write('.x.o.cmd', 'cmd_x.o := gcc cmd.c\n\nsource_x.o := ../x.c\n\ndeps_x.o := \\\n'
                               '    $(wildcard include/config/a.h) \\\n'
                               '  /usr/include/stdio.h \\\n  ../y.h\n')
        self.assertEqual({'x.c', 'y.h', 'build/deps_x.o', 'build/source_x.o'}, self.files())
        notes = unaffected.read_notes(self.build, self.top)
        self.assertEqual((notes.knows('z.c'), notes.knows('z.dts'), notes.knows('z')),
                         (True, False, False))

    def test_one_of_both(self):
        """A note without a source, or without more than that"""
        self.write('deep/.a.o.cmd', '\nsource_a.o := ../a.c\n')
        self.write('deep/.b.o.cmd', 'x\ndeps_b.o := ../b.h')
        self.assertLessEqual({'a.c', 'b.h'}, self.files())
        # The command line is no note, however it looks
        self.write('deep/.a.o.cmd', 'source_ ../q.c\n')
        self.assertNotIn('q.c', self.files())

    def test_other_files(self):
        """Nothing else is a note; nothing noted at all is not the same as nothing read"""
        self.assertIsNone(self.files())
        for name in ('x.o.cmd', '.x.o.d', 'x'):
            self.write(name, '\nsource_x.o := ../x.c\n')
        self.write('.y.o.cmd', 'cmd_y.o := gcc\n')
        os.symlink('nowhere', os.path.join(self.build, '.z.o.cmd'))
        self.assertIsNone(self.files())

    def test_links(self):
        """A header that is reached by a link in the build folder is found"""
        os.makedirs(os.path.join(self.top, 'arch/mach'))
        os.makedirs(os.path.join(self.build, 'include/asm'))
        os.symlink(os.path.join(self.top, 'arch/mach'),
                   os.path.join(self.build, 'include/asm/arch'))
        self.write('.x.o.cmd', '\ndeps_x.o := include/asm/arch/clk.h \\\n ../y.h\n')
        self.assertLessEqual({'y.h', 'arch/mach/clk.h', 'build/include/asm/arch/clk.h'},
                             self.files())
        # The source, too, may be reached by a link
        link = os.path.join(self.top, 'link')
        os.symlink(self.top, link)
        notes = unaffected.read_notes(os.path.join(link, 'build'), link)
        self.assertLessEqual({'y.h', 'arch/mach/clk.h'}, notes.files)

    def test_reads_all(self):
        """dtoc reads drivers that are not compiled"""
        self.write('.x.o.cmd', '\ndeps_x.o := ../y.h\n')
        self.assertTrue(self.files())
        self.write('.config', 'CONFIG_A=y\nCONFIG_SPL_OF_PLATDATA=y\n')
        self.assertIsNone(self.files())
        self.assertIsNone(unaffected.read_notes('/nonexistent', '/'))
