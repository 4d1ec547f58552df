# SPDX-License-Identifier: GPL-2.0+
"""The reader of the result tree gets out of each file what the build put in.

Where it fails, a summary shows wrong numbers, or a damaged file hides all the
results that are sound.
"""

from __future__ import annotations

import os
import tempfile
import unittest

from buildman.core.plan import Commit
from buildman.results import reader as rr
from buildman.results.tree import commit_dir_name

BOX = ('===================== WARNING ======================\n'
       'This board does not use CONFIG_DM\n'
       '====================================================\n')


class TestFormats(unittest.TestCase):
    """What each file means."""

    def test_commit_dir_name(self) -> None:
        """Otherwise no result of an existing tree is found."""
        commit = Commit('ab' * 20, 'drivers: net/phy: Mend the link')
        self.assertEqual(commit_dir_name(0, commit),
                         '01_g' + 'ab' * 20 + '_drivers--net-phy--Me')
        self.assertTrue(commit_dir_name(122, commit).startswith('123_g'))

    def test_done(self) -> None:
        """A truncated `done` must not make a failure look like a success."""
        for raw, want in ((b'0', 0), (b'0\n', 0), (b' 00 ', 0), (b'2\n', 2), (b'-9', -9),
                          (b'', None), (b'\xff\xfe', None), (b'0x1', None)):
            self.assertEqual(rr.parse_done(raw), want, raw)

    def test_sizes(self) -> None:
        """Read-only data is told apart from code, bad lines cost only themselves."""
        raw = (b'  1000\t    200\t    300\t   1500\t    5dc\tu-boot 00000010\n'
               b'garbage\n'
               b'   100      20      30     150      96 spl/u-boot-spl\n')
        images, clean = rr.parse_sizes(raw)
        self.assertFalse(clean)
        self.assertEqual(images['u-boot'], {'all': 1500, 'text': 984, 'data': 200, 'bss': 300,
                                            'rodata': 16})
        self.assertEqual(images['spl/u-boot-spl']['text'], 100)
        self.assertEqual(rr.parse_sizes(b''), ({}, True))

    def test_symbols(self) -> None:
        """Names that the compiler numbers anew each time are counted together."""
        raw = (b'00000010 T main\n00000004 t buf.1\n00000005 t buf.27\n00000001 b .hidden\n'
               b'00000020 W weak\n00000020 R global_ro\n00000003 r local_ro\n10 T a b\n')
        sizes, clean = rr.parse_symbols(raw)
        self.assertTrue(clean)
        self.assertEqual(sizes, {b'main': 16, b'static.buf': 9, b'.hidden': 1, b'local_ro': 3})
        self.assertEqual(rr.parse_symbols(b'zz T main\n1 T f\n'), ({b'f': 1}, False))
        self.assertFalse(rr.parse_symbols(b'0000\n')[1])
        self.assertFalse(rr.parse_symbols(b'00000004 t')[1])
        # One without a name is told, but grows nothing that could be named
        self.assertEqual(rr.parse_symbols(b'00000004 t \n00000001 T f\n '), ({b'f': 1}, True))
        # Of a machine whose nm gives each symbol a size
        raw = (b'fffffffffffffffd B _end\nfffffffd B _end\n7ffffffd b big\n'
               b'00000000fffffffd b huge\n')
        self.assertEqual(rr.parse_symbols(raw),
                         ({b'big': 0x7ffffffd, b'huge': 0xfffffffd}, True))

    def test_config(self) -> None:
        """An option has the same value whichever kind of file it is in."""
        cfg = (b'#define CONFIG_A 1\n#define CONFIG_B \n#define CONFIG_C "x y"\n#define OTHER 1\n'
               b'#define CONFIG_D\n')
        want = {b'CONFIG_A': b'1', b'CONFIG_B': b'1', b'CONFIG_C': b'"x y"', b'CONFIG_D': b'1'}
        self.assertEqual(rr.parse_config(cfg, False), (want, True))
        self.assertEqual(rr.parse_config(cfg, True)[0][b'CONFIG_B'], b'')
        dot = b'# CONFIG_N is not set\nCONFIG_A=y\nCONFIG_C="a=b"\n\nCONFIG_BAD\n'
        self.assertEqual(rr.parse_config(dot, False),
                         ({b'CONFIG_A': b'1', b'CONFIG_C': b'"a=b"'}, False))
        self.assertEqual(rr.parse_config(dot, True)[0][b'CONFIG_A'], b'y')

    def test_env(self) -> None:
        """Values keep what looks like a separator."""
        self.assertEqual(rr.parse_env(b'a=1\0b=x=y; z\0c=\0noise\0\0'),
                         {'a': '1', 'b': 'x=y; z', 'c': ''})

    def test_host(self) -> None:
        """Reports name the machine, whatever else is in the file."""
        self.assertEqual(rr.parse_host(b'box\n'), 'box')
        self.assertEqual(rr.parse_host(b'box\r\nmore\xff'), 'box')

    def test_err_lines(self) -> None:
        """Line ends of any kind end a line, and an empty line is one."""
        text, clean = rr.decode(b'one\r\n\ntwo\rthree')
        self.assertTrue(clean)
        self.assertEqual(rr.err_lines(text), ['one', '', 'two', 'three'])
        self.assertEqual(rr.decode(b'a\xff'), ('a\ufffd', False))

    def test_filters(self) -> None:
        """Whoever asks for no such warnings must not see boards with these."""
        dtb = 'arch/arm/dts/x.dtb: Warning (reg_format): y\n'
        self.assertEqual(rr.err_lines(dtb + dtb, no_dtb=True), [])
        self.assertEqual(rr.err_lines('x.c:1: Warning: y\n', no_dtb=True), ['x.c:1: Warning: y'])
        self.assertEqual(rr.err_lines(BOX, no_migration=True), [])
        lines = rr.err_lines('a\n' + BOX + 'between\n' + BOX + 'z\n', no_migration=True)
        self.assertEqual([line for line in lines if line], ['a', 'z'])

    def test_box_without_end(self) -> None:
        """A heading that nothing ends must not swallow the errors after it."""
        text = BOX.split('\n', 1)[0] + '\nerror\n'
        lines = rr.err_lines(text, no_migration=True)
        self.assertIn('error', lines)


class TestCommitReader(unittest.TestCase):
    """Reading below a commit's folder."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.folder = tmp.name

    def put(self, name: str, raw: bytes) -> None:
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as outf:
            outf.write(raw)

    def reader(self) -> rr.CommitReader:
        reader = rr.CommitReader(self.folder)
        self.addCleanup(reader.close)
        return reader

    def test_read(self) -> None:
        """A long file must come whole, an absent one is no trouble."""
        raw = bytes(range(256)) * 2000
        self.put('brd/long', raw)
        self.put('brd/short', b'x')
        reader = self.reader()
        self.assertEqual(reader.read('brd/long'), raw)
        self.assertEqual(reader.read('brd/short'), b'x')
        self.assertIsNone(reader.read('brd/none'))
        self.assertIsNone(reader.read('none/none'))
        self.assertEqual(reader.problems, [])

    def test_no_folder(self) -> None:
        """A commit that is not built yet is no damage."""
        reader = rr.CommitReader(os.path.join(self.folder, 'none'))
        self.addCleanup(reader.close)
        self.assertIsNone(reader.return_code('brd'))
        self.assertEqual(reader.problems, [])

    def test_return_code(self) -> None:
        """Boards being built are told from boards with damage."""
        self.put('good/done', b'0')
        self.put('bad/done', b'2')
        self.put('empty/done', b'')
        self.put('building/log', b'')
        os.makedirs(os.path.join(self.folder, 'weird', 'done'))
        self.put('afile', b'')
        reader = self.reader()
        codes = [reader.return_code(name)
                 for name in ('good', 'bad', 'empty', 'building', 'weird', 'afile', 'none')]
        self.assertEqual(codes, [0, 2, 1, None, None, None, None])
        told = {os.path.relpath(prob.path, self.folder) for prob in reader.problems}
        self.assertEqual(told, {'empty/done', 'building', 'weird/done'})

    def test_pipe_does_not_hang(self) -> None:
        """A named pipe in the tree must not stop the summary for ever."""
        self.put('brd/done', b'0')
        os.mkfifo(os.path.join(self.folder, 'brd', 'err'))
        self.assertIn(self.reader().read('brd/err'), (b'', None))

    def test_foreign(self) -> None:
        """Other boards are left alone, the rest is told."""
        for name in ('mine', 'other-board', 'no board'):
            self.put(f'{name}/done', b'0')
        self.put('stray', b'')
        self.put('.hidden', b'')
        found = [os.path.basename(prob.path) for prob in self.reader().foreign(['mine'])]
        self.assertEqual(found, ['no board', 'stray'])

    def test_branch_folder(self) -> None:
        """Results of commits that are not of the branch are told when ours are missing."""
        mine, also, new = ('1' * 40, '2' * 40, '3' * 40)
        other = '03_g' + 'a' * 40 + '_subject'
        for name in (f'07_g{mine}_', f'03_g{also}_', other, 'junk'):
            os.mkdir(os.path.join(self.folder, name))
        for name in ('boards.cfg', 'joblog', 'worker-box.log', '.buildman.log'):
            self.put(name, b'')
        names = [os.path.basename(prob.path)
                 for prob in rr.check_branch_folder(self.folder, [mine])]
        self.assertEqual(names, ['junk'])
        names = [os.path.basename(prob.path)
                 for prob in rr.check_branch_folder(self.folder, [mine, new], {also})]
        self.assertEqual(names, [other, 'junk'])
