# SPDX-License-Identifier: GPL-2.0+
"""What Kbuild has noted: a file that is overlooked hides a broken commit."""

import os
import tempfile
import unittest

from buildman.build import notes


class TestNotes(unittest.TestCase):
    """What is read of them"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.top = temp.name
        self.build = os.path.join(self.top, 'build')
        self.write('.config', 'CONFIG_A=y\nCONFIG_SYS_ARCH="arm"\n')

    def write(self, name, text):
        """Write a file of the build folder"""
        path = os.path.join(self.build, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)

    def read(self, source=None):
        """Return what was read, None when that is not known"""
        source = source or self.top
        return notes.NoteReader(os.path.join(source, 'build'), source, False).read()

    def files(self):
        """Return the files of the source that were"""
        found = self.read()
        return found and set(found.files)

    def test_words(self):
        """Sources and headers of ours, not options or the command line; others by name"""
        self.write('.x.o.cmd', 'cmd_x.o := gcc cmd.c\n\nsource_x.o := ../x.c\n\ndeps_x.o := \\\n'
                               '    $(wildcard include/config/a.h) \\\n'
                               '  /usr/include/stdio.h include/made.h \\\n  ../y.h\\\n')
        self.write('gcc/.y.o.cmd', '\ndeps_y.o := /usr/lib/gcc-cross/arm/12/include/stdarg.h\n')
        found = self.read()
        self.assertEqual(('x.c', 'y.h'), found.files)
        self.assertLessEqual({'stdio.h', 'made.h', 'stdarg.h'}, set(found.names))
        self.assertNotIn('a.h', found.basenames)
        self.assertLessEqual(set(found.outside), {'/usr/include/stdio.h'})
        self.assertEqual(('arm',), found.archs)
        self.assertEqual((0, 1), found.groups)

    def test_one_of_both(self):
        """A note without a source, or without more than that"""
        self.write('deep/.a.o.cmd', '\nsource_a.o := ../a.c\n')
        self.write('deep/.b.o.cmd', 'x\ndeps_b.o := ../b.h')
        self.assertEqual({'a.c', 'b.h'}, self.files())
        # The command line is no note, however it looks
        self.write('deep/.a.o.cmd', 'source_ ../q.c\n')
        self.assertEqual({'b.h'}, self.files())

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
        with open(os.path.join(self.top, 'q.h'), 'w', encoding='utf-8'):
            pass
        os.symlink('q.h', os.path.join(self.top, 'z.h'))
        self.write('.x.o.cmd', '\ndeps_x.o := include/asm/arch/clk.h \\\n ../y.h ../z.h\n')
        found = self.read()
        self.assertEqual(('arch/mach/clk.h', 'q.h', 'y.h', 'z.h'), found.files)
        self.assertIn('clk.h', found.names)
        # The source, too, may be reached by a link
        link = os.path.join(self.top, 'link')
        os.symlink(self.top, link)
        self.assertLessEqual({'y.h', 'arch/mach/clk.h'}, set(self.read(link).files))

    def test_without_notes(self):
        """dtoc reads drivers that are not compiled; some headers are read without a note"""
        self.write('.x.o.cmd', '\ndeps_x.o := ../y.h ../y.c\n')
        self.assertEqual((0, 1), self.read().groups)
        here = os.path.join(self.build, '.config')
        for text in ('CONFIG_SPL_OF_PLATDATA=y\n', f'CONFIG_EXT_DTB="{here}"\n'):
            self.write('.config', f'CONFIG_A=y\n{text}')
            self.assertIsNone(self.files(), text)
        self.write('.config', f'CONFIG_EXT_DTB="{here}.not"\n')
        self.assertTrue(self.files())
        for text in ('CONFIG_GENERATE_ACPI_TABLE=y\n', 'CONFIG_IMX_CONFIG="a.cfg"\n'):
            self.write('.config', text)
            self.assertEqual((0,), self.read().groups, text)
        self.write('.config', 'CONFIG_IMX_CONFIG=""\n')
        self.assertEqual((), self.read().archs)
        os.makedirs(os.path.join(self.top, 'include/env'))
        for text, groups in (('#include <env/a.env>\n', (0, 1)), ('a=b\n #include "x.h"\n', (0,)),
                             ('#include <env/b.env>\n', (0,))):
            self.write('include/generated/env.txt', text)
            self.write('../include/env/a.env', '#include <env/c.env>\n')
            self.write('../include/env/c.env', 'x=y\n')
            self.assertEqual(groups, self.read().groups, text)
        self.write('include/generated/env.txt', '#include <env/a.env>\n')
        self.write('../include/env/c.env', '#include <asm/x.h>\n')
        self.assertEqual((0,), self.read().groups)
        os.unlink(os.path.join(self.build, '.config'))
        self.assertIsNone(self.files())

    def test_other_boards(self):
        """Notes that no make has read since the board began are another board's"""
        if not notes.keeps_access(self.build):
            # Then all of them count, see above
            return
        self.write('.x.o.cmd', '\ndeps_x.o := ../x.h\n')
        self.write('.y.o.cmd', '\ndeps_y.o := ../y.h\n')
        reader = notes.NoteReader(self.build, self.top)
        self.assertIsNone(reader.read())
        with open(os.path.join(self.build, '.x.o.cmd'), 'rb') as inf:
            inf.read()
        self.write('.z.o.cmd', '\ndeps_z.o := ../z.h\n')
        self.assertEqual(('x.h', 'z.h'), reader.read().files)
        # Again, as a build that makes nothing new reads what it looks after
        with open(os.path.join(self.build, '.y.o.cmd'), 'rb') as inf:
            inf.read()
        self.write('.x.o.cmd', '\ndeps_x.o := ../w.h\n')
        self.assertEqual({'w.h', 'x.h', 'y.h', 'z.h'}, set(reader.read().files))
