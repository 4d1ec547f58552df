# SPDX-License-Identifier: GPL-2.0+
"""Results that are those of another commit: only where surely nothing differs."""

import dataclasses
import json
import os
import subprocess
import tempfile
import unittest

from support import needs

from buildman.build import trace
from buildman.build.notes import Files
from buildman.core.plan import Settings

READ = ('common/main.c', 'include/common.h', 'dts/a.dts', 'arch/arm/lib/a.S',
        'arch/arm/include/asm/io.h')

FILES = {name: f'100644 {num:040x}' for num, name in enumerate((
    *READ, 'common/other.c', 'drivers/x/y.h', 'dts/b.dts', 'arch/x86/lib/b.c', 'arch/x86/Makefile',
    'arch/x86/Kconfig', 'arch/arm/Makefile', 'Makefile', 'scripts/x.py', 'doc/x.rst', 'link',
    'configs/a_defconfig', 'configs/b_defconfig', 'configs/x.config', 'board/x/x.env',
    'scripts/kconfig/conf.c', 'include/linux/oid_registry.h', 'arch/arc/lib/c.c'))}
FILES['link'] = '120000 ' + 'a' * 40
INPUTS = ('configs/a_defconfig', 'configs/x.config')


def reads(found=READ, arch='arm', headers=False, names=('stdio.h', 'made.h'), includes=False,
          outside=()):
    """Return what a build of board a reads"""
    return trace.make_reads(Files(set(found), set(names), set(outside)), arch,
                            headers).with_configs(INPUTS, includes)


def tree(**changes):
    """Return a tree with other files"""
    return trace.Tree({}, {}, {}).changed(FILES).changed(changes)


class TestTrees(unittest.TestCase):
    """What makes a difference, file by file: a wrong 'no' hides a broken commit"""

    def differs(self, name, entry='100644 ' + 'f' * 40, what=None):
        """Tell whether another content of a file makes a difference to board a"""
        what = what or reads()
        return tree().digest(what) != tree(**{name: entry}).digest(what)

    def test_read(self):
        """What was read counts, what surely was not does not"""
        for name in READ:
            self.assertTrue(self.differs(name), name)
        for name in ('common/other.c', 'drivers/x/y.h', 'dts/b.dts', 'doc/x.rst', 'doc/new.rst',
                     'arch/x86/lib/b.c', 'configs/b_defconfig', 'configs/new_defconfig',
                     'configs/y.buildman', 'arch/x86/README', 'board/x/MAINTAINERS'):
            self.assertFalse(self.differs(name), name)

    def test_not_understood(self):
        """Whatever may be read without a note counts"""
        for name in ('Makefile', 'common/Makefile', 'Kconfig', 'arch/arm/Makefile', 'config.mk',
                     'arch/x86/Kconfig', 'arch/x86/mach-x/Kconfig.x', 'scripts/kconfig/conf.c',
                     'scripts/x.py', 'tools/binman/x.py', 'board/x/x.env', 'a.lds', 'start',
                     'board/x/image.cfg', '.config', 'doc', 'VERSION', 'link', 'x.its',
                     'board/acme/y.config',
                     'include/host_arch.h', 'lib/libfdt/fdt.c', 'configs/deep/b_defconfig',
                     'include/linux/oid_registry.h'):
            self.assertTrue(self.differs(name), name)

    def test_new(self):
        """A new header may hide one that was read, wherever it is; a Makefile finds a new source"""
        for name in ('include/new.h', 'common/new.c', 'arch/arm/include/asm/arch/io.h',
                     'arch/arm/dts/a-u-boot.dtsi', 'board/x/common.h', 'arch/dts/u-boot.dtsi'):
            self.assertTrue(self.differs(name), name)
        # There nothing was read, so it can only be what is asked for by a name
        self.assertFalse(self.differs('arch/x86/include/asm/new.h'))
        for name in ('common.h', 'stdio.h', 'made.h', 'main.c'):
            self.assertTrue(self.differs(f'arch/x86/include/asm/{name}'), name)

    def test_gone(self):
        """A file that is gone may be missed, also one that was not read"""
        for name in (*READ, 'common/other.c', 'link', 'Makefile', 'configs/a_defconfig'):
            self.assertTrue(self.differs(name, ''), name)
        for name in ('doc/x.rst', 'configs/b_defconfig', 'arch/x86/lib/b.c', 'arch/x86/Makefile'):
            self.assertFalse(self.differs(name, ''), name)

    def test_renamed(self):
        """A file under another name is another file"""
        for old, new in (('common/main.c', 'common/start.c'), ('common/other.c', 'common/more.c'),
                         ('configs/a_defconfig', 'configs/c_defconfig')):
            self.assertNotEqual(tree().digest(reads()),
                                tree(**{old: '', new: FILES[old]}).digest(reads()), old)

    def test_mode(self):
        """The same content with another mode, as a script that cannot be run, or as a link"""
        for name in ('scripts/x.py', 'common/main.c'):
            for mode in ('100755', '120000'):
                self.assertTrue(self.differs(name, FILES[name].replace('100644', mode)), name)
        # What it leads to may be anything
        self.assertTrue(self.differs('common/other.c', FILES['common/other.c'].replace(
            '100644', '120000')))
        self.assertTrue(self.differs('arch/x86/sub', '160000 ' + 'a' * 40))

    def test_there_and_back(self):
        """What was changed and taken back is as before"""
        other = tree(Makefile='100644 ' + 'c' * 40, **{'include/new.h': '100644 ' + 'd' * 40})
        back = other.changed({'Makefile': FILES['Makefile'], 'include/new.h': ''})
        self.assertEqual(tree().digest(reads()), back.digest(reads()))
        # So is a tree in which there was a file of a kind that there is none of any more
        name = 'arch/mips/lib/x.c'
        back = tree(**{name: '100644 ' + 'c' * 40}).changed({name: ''})
        for what in (reads(arch=''), reads(found=('dts/a.dts',), arch='')):
            self.assertEqual(tree().digest(what), back.digest(what))

    def test_includes(self):
        """A defconfig that includes another one: all of them count"""
        self.assertFalse(self.differs('configs/b_defconfig', what=trace.make_reads(
            Files(set(READ), set(), set()), 'arm', False)))
        what = reads(includes=True)
        for name in ('configs/b_defconfig', 'configs/new.config'):
            self.assertTrue(self.differs(name, what=what), name)

    def test_fragment(self):
        """A fragment that is not in configs/ and comes to be there"""
        what = reads().with_configs(('configs/z.config',), False)
        self.assertTrue(self.differs('configs/z.config', what=what))

    def test_unknown_kind(self):
        """Where the notes name no file of a kind, or headers are read without, all of it counts"""
        what = reads(found=('common/main.c', 'include/common.h'))
        for name in ('dts/b.dts', 'dts/c.dtsi', 'common/start.S'):
            self.assertTrue(self.differs(name, what=what), name)
        self.assertFalse(self.differs('common/other.c', what=what))
        # What is of no such kind says nothing of the others
        self.assertEqual(what.groups, reads(found=(*what.files, 'board/x/x.env')).groups)
        what = reads(headers=True)
        self.assertTrue(self.differs('drivers/x/y.h', what=what))
        self.assertFalse(self.differs('common/other.c', what=what))

    def test_arch(self):
        """Another arch of which something was read counts; without a name, all do"""
        for what in (reads(found=(*READ, 'arch/x86/include/asm/q.h')), reads(arch='')):
            for name in ('arch/x86/Makefile', 'arch/x86/lib/new.c'):
                self.assertTrue(self.differs(name, what=what), name)
        self.assertFalse(self.differs('arch/x86/Makefile'))
        # What is looked for by its name elsewhere is where it is looked for here
        self.assertFalse(self.differs('arch/arm/MAINTAINERS', what=reads(names=('MAINTAINERS',))))

    def test_outside(self):
        """A header of the machine counts by content"""
        with tempfile.TemporaryDirectory() as top:
            path = os.path.join(top, 'a')
            what, found = reads(outside=[path]), [tree().digest(reads(outside=[path]))]
            for text in ('x', 'yy', 'x'):
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write(text)
                found.append(tree().digest(what))
            self.assertEqual((3, found[1]), (len(set(found)), found[3]))
            self.assertEqual('', trace.content_of(os.path.join(top, 'b')))

    def test_opaque(self):
        """What make may read tells which variables a tree takes"""
        self.assertNotEqual(tree().opaque, tree(Makefile='100644 ' + 'c' * 40).opaque)
        self.assertEqual(tree().opaque, tree(**{'common/main.c': '100644 ' + 'c' * 40}).opaque)

    def test_git(self):
        """A tree that git tells of, at once or by what differs, is the same"""
        needs('git')
        with tempfile.TemporaryDirectory() as top:
            def commit(*words):
                subprocess.run(['git', '-C', top, '-c', 'user.name=T', '-c', 'user.email=t@e.org',
                                *words], check=True, capture_output=True)
            commit('init', '-q')
            hashes = []
            for num, names in enumerate((('a.c', 'b/c.h', 'ä ö.S'), ('a.c', 'n.h'), ('b/c.h',))):
                for name in names:
                    path = os.path.join(top, name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with open(path, 'w', encoding='utf-8') as outf:
                        outf.write(f'{num}')
                if num == 1:
                    os.unlink(os.path.join(top, 'b/c.h'))
                    os.symlink('a.c', os.path.join(top, 'l'))
                    os.chmod(os.path.join(top, 'a.c'), 0o755)
                commit('add', '-A')
                commit('commit', '-q', '-m', f'{num}')
                hashes.append(subprocess.run(['git', '-C', top, 'rev-parse', 'HEAD'], check=True,
                                             capture_output=True, text=True).stdout.strip())
            trees = trace.Trees(top)
            what = trace.make_reads(Files({'a.c', 'b/c.h', 'ä ö.S'}, set(), set()), '', False)
            digests = [trees.of(name).digest(what) for name in hashes]
            self.assertEqual([trace.Tree.read(top, name).digest(what) for name in hashes], digests)
            self.assertEqual(3, len(set(digests)))
            self.assertTrue(trees.of(hashes[1]).get('a.c').startswith('100755 '))
            self.assertTrue(trees.of(hashes[0]).get('ä ö.S').startswith('100644 '))
            self.assertIs(trees.of(hashes[0]), trees.of(hashes[0]), 'that takes long')
            self.assertEqual('', trees.of(hashes[1]).get('b/c.h'))


class TestFile(unittest.TestCase):
    """The file: damaged, it tells nothing"""

    def test_there_and_back(self):
        """All that is written is read"""
        what = reads(outside=('/usr/include/stdio.h',), found=(*READ, 'ä\udcff.c'))
        found = trace.Trace('a' * 64, what, tree().digest(what))
        data = found.pack()
        self.assertEqual(found, trace.unpack(data))
        self.assertTrue(found.fits('a' * 64, tree()))
        self.assertFalse(found.fits('b' * 64, tree()))
        self.assertFalse(dataclasses.replace(found, key='').fits('', tree()))
        self.assertFalse(found.fits('a' * 64, tree(Makefile='')))

    def test_damaged(self):
        """Cut short, changed, or of something else"""
        what = reads()
        data = trace.Trace('a' * 64, what, tree().digest(what)).pack()
        line, _, rest = data.partition(b'\n')
        other = trace.Trace('a' * 64, reads(arch='mips'), 'b' * 64).pack().partition(b'\n')[2]
        for bad in (b'', b'\n', b'x', data[:-20], data[:100], line, line + b'\nx', b'{}\n' + rest,
                    b'[' * 100_000 + b'\n' + rest, line.upper() + b'\n' + rest,
                    line + b'\n' + other, b'[1]\n' + rest):
            self.assertIsNone(trace.unpack(bad), bad[:40])
        # What it tells becomes the name of a file
        words = json.loads(line)
        self.assertEqual(trace.Header(**words), trace.Header.parse(line))
        for name in words:
            for word in ('../../x', words[name] + 'a', 7, None, ''):
                self.assertIsNone(trace.Header.parse(json.dumps({**words, name: word}).encode()))
        for bad in (b'5', b'[' * 100_000, b'[["a"], [1], 0, ["f"], ["n"], 7]', b'[]',
                    b'[["a"], [1], 0, "f", ["n"], []]', b'[["a"], [1], 0, ["f", 7], ["n"], []]'):
            with self.assertRaises(ValueError):
                trace.Reads.parse(bad)

    def test_carries(self):
        """What tells of the build itself, or was asked for, is that of no other commit"""
        self.assertTrue(trace.carries(Settings(keep_outputs=True, reproducible_builds=True)))
        for name in ('force_reconfig', 'mrproper', 'verbose_build', 'in_tree', 'work_in_output',
                     'keep_outputs'):
            self.assertFalse(trace.carries(Settings(**{name: True})), name)
        self.assertFalse(trace.carries(Settings(skip_unaffected=False)))

    def test_version_shape(self):
        """A version text of another length makes an image of another size"""
        def same(old, new):
            return trace.version_shape(old) == trace.version_shape(new)
        for old, new in (('v1-2-gabcdef0\n', 'v1-33-g0123456\n'), ('abcdef0', '1234567'),
                         ('-00002-gabcdef0\n', '-00003-gabcdef1\n'), ('v1', 'v2022.01-rc2'),
                         ('-gabcdef0', '-g1234567 '), ('v1-1-gabcdef0', 'v1-12345-gabcdef0')):
            self.assertTrue(same(old, new), old)
        for old, new in (('v1', 'v1-1-gabcdef0'), ('v1-1-gabcdef0', 'v1-1-gabcdef01'),
                         ('abcdef0', '12345678'), ('v1-1-gabcdef0', 'v1-1-gabcdef0-dirty'),
                         ('', 'v1'), ('abcdef0', 'v1'), ('-gabcdef0', 'abcdef0'),
                         ('v1-1-gabcdef0', 'v1-123456-gabcdef0')):
            self.assertFalse(same(old, new), old)
