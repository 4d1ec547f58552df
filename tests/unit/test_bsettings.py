# SPDX-License-Identifier: GPL-2.0+
"""The configuration file, with real files."""

from __future__ import annotations

import os
import random
import stat
import tempfile
import unittest

from buildman import bsettings
from buildman.core import errors


class SettingsTest(unittest.TestCase):
    """Each test has a folder and a home of its own."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.tmp = tmp.name
        self.addCleanup(os.environ.__setitem__, 'HOME', os.environ['HOME'])
        os.environ['HOME'] = self.tmp
        self.path = os.path.join(self.tmp, 'conf')
        self.addCleanup(bsettings.setup, None)

    def read(self, text: str) -> None:
        """Read a file with this text."""
        with open(self.path, 'wb') as outf:
            outf.write(text.encode())
        bsettings.setup(self.path)

    def error(self, data: bytes) -> str:
        """Return the error that a file with this content gives."""
        with open(self.path, 'wb') as outf:
            outf.write(data)
        with self.assertRaises(errors.UsageError) as caught:
            bsettings.setup(self.path)
        return str(caught.exception).replace(self.path, 'FILE')

    # -- reading -----------------------------------------------------------

    def test_keys_keep_their_case(self) -> None:
        """The flags of board M5208EVBE would never be found otherwise."""
        self.read('[make-flags]\nM5208EVBE = A=1\nm5208evbe = A=2\n')
        self.assertEqual([('M5208EVBE', 'A=1'), ('m5208evbe', 'A=2')],
                         bsettings.get_items('make-flags'))

    def test_keys_without_value(self) -> None:
        """[machines] has one host a line."""
        self.read('[machines]\nohau\n# no\n; neither\nuser@Moa\nkea = me@kea.local\n')
        self.assertEqual([('ohau', ''), ('user@Moa', ''), ('kea', 'me@kea.local')],
                         bsettings.get_items('machines'))

    def test_percent_and_dollar_are_plain(self) -> None:
        """'%' in a path or flag must not be taken for a format."""
        self.read('[make-flags]\na = X=100% Y=%(z)s Z=${w}\n')
        self.assertEqual('X=100% Y=%(z)s Z=${w}', bsettings.get_value('make-flags', 'a'))

    def test_several_lines(self) -> None:
        """A long value may go on in indented lines."""
        self.read('[make-flags]\na = A=1\n  B=2\n')
        self.assertEqual('A=1\nB=2', bsettings.get_value('make-flags', 'a'))

    def test_windows_file(self) -> None:
        """A byte order mark and CRLF do no harm."""
        self.read('\ufeff[a]\r\nx = 1\r\n')
        self.assertEqual('1', bsettings.get_value('a', 'x'))

    def test_typed_values(self) -> None:
        """A wrong number or choice is named, not guessed."""
        self.read('[a]\nn = 7\nbad = -x\nyes = On\nno = false\nempty\n')
        self.assertEqual((7, 3, 4), (bsettings.get_int('a', 'n'), bsettings.get_int('a', 'none', 3),
                                     bsettings.get_int('a', 'empty', 4)))
        self.assertTrue(bsettings.get_bool('a', 'yes'))
        self.assertFalse(bsettings.get_bool('a', 'no', True))
        self.assertTrue(bsettings.get_bool('b', 'none', True))
        with self.assertRaisesRegex(errors.UsageError, r"'bad' in \[a\] is '-x': a number"):
            bsettings.get_int('a', 'bad')
        with self.assertRaisesRegex(errors.UsageError, r"'bad' in \[a\] is '-x': use 'yes'"):
            bsettings.get_bool('a', 'bad')

    def test_missing_section_is_empty(self) -> None:
        """No [machines] means no machines, not an error."""
        self.read('')
        self.assertEqual([], bsettings.get_items('machines'))
        self.assertEqual('x', bsettings.get_value('machines', 'a', 'x'))

    def test_setup_again_forgets(self) -> None:
        """A second set-up must not mix two files."""
        self.read('[a]\nx = 1\n')
        self.read('[b]\ny = 2\n')
        self.assertEqual(['b'], bsettings.settings.sections())
        bsettings.setup(None)
        self.assertEqual([], bsettings.settings.sections())

    def test_add_file(self) -> None:
        """Text is added to what there is, and may replace values."""
        self.read('[a]\nx = 1\ny = 2\n')
        bsettings.add_file('[a]\nx = 3\n[Machines]\nhost\n')
        self.assertEqual([('x', '3'), ('y', '2')], bsettings.get_items('a'))
        self.assertEqual([('host', '')], bsettings.get_items('Machines'))
        with self.assertRaisesRegex(errors.UsageError, 'line 1'):
            bsettings.add_file('oops')

    # -- no file -----------------------------------------------------------

    def test_no_file_in_home(self) -> None:
        """On a fresh machine nothing is to be set up, and nothing is written."""
        bsettings.setup('')
        self.assertTrue(bsettings.is_default)
        self.assertEqual('/', bsettings.get_value('toolchain', 'other'))
        self.assertEqual([], os.listdir(self.tmp))

    def test_file_in_home(self) -> None:
        """~/.buildman is read without -G."""
        with open(os.path.join(self.tmp, '.buildman'), 'w', encoding='utf-8') as outf:
            outf.write('[a]\nx = 1\n')
        bsettings.setup()
        self.assertEqual('1', bsettings.get_value('a', 'x'))
        self.assertFalse(bsettings.is_default)
        bsettings.setup('~/.buildman')
        self.assertEqual('1', bsettings.get_value('a', 'x'))

    def test_named_file_must_be_there(self) -> None:
        """A misspelt -G must not silently build with other compilers."""
        with self.assertRaisesRegex(errors.UsageError, "none': No such file"):
            bsettings.setup(os.path.join(self.tmp, 'none'))
        with self.assertRaisesRegex(errors.UsageError, 'Is a directory'):
            bsettings.setup(self.tmp)
        os.symlink('/nonexistent', os.path.join(self.tmp, '.buildman'))
        with self.assertRaisesRegex(errors.UsageError, r"\.buildman': No such file"):
            bsettings.setup('')

    # -- errors ------------------------------------------------------------

    def test_errors_name_file_and_line(self) -> None:
        """The user can go straight to the line."""
        what = "configuration file 'FILE', line "
        for data, text in (
                (b'[a]\n\xff = 1\n', '2: not UTF-8'),
                (b'# x\nfoo = 1\n', "2: no [section] before 'foo = 1'"),
                (b'[a]\nx=1\nx=2\n', "3: 'x' is there twice in [a]"),
                (b'[a]\n\n[a]\n', '3: section [a] is there twice'),
                (b'[a]\n= 3\n', "2: cannot understand '= 3"),
                (b'[machines]\nohau\n  moa\n', '3: an indented line')):
            message = self.error(data)
            self.assertTrue(message.startswith(what + text), message)
            self.assertNotIn('\n', message)

    def test_random_files(self) -> None:
        """Whatever is in the file, it is read or refused in one line, never a traceback."""
        rand = random.Random(1)
        pieces = [b'[a]', b'[', b']', b'=', b':', b'x', b' ', b'\t', b'\n', b'\n', b'\r', b'#',
                  b';', b'\xff', b'\0', b'\xc3\xa9', b'${', b'}', b'%', b'"', b'[b]\n', b'k = v\n']
        good = 0
        for _ in range(3000):
            data = b''.join(rand.choice(pieces) for _ in range(rand.randrange(14)))
            with open(self.path, 'wb') as outf:
                outf.write(data)
            try:
                bsettings.setup(self.path)
                good += 1
            except errors.UsageError as exc:
                self.assertEqual(1, len(str(exc).split('\n')), data)
        self.assertGreater(good, 300)

    # -- writing -----------------------------------------------------------

    def test_set_item_keeps_the_rest(self) -> None:
        """The comments in a user's file must survive a --fetch-arch."""
        self.read('# mine\n[toolchain]\n# here\nroot = /usr\n\n[make-flags]\na = 1\n')
        bsettings.set_item('toolchain', 'arm', '/opt/arm')
        with open(self.path, encoding='utf-8') as inf:
            self.assertEqual('# mine\n[toolchain]\n# here\nroot = /usr\narm = /opt/arm\n\n'
                             '[make-flags]\na = 1\n', inf.read())
        self.assertEqual('/opt/arm', bsettings.get_value('toolchain', 'arm'))

    def test_set_item_replaces_and_adds_section(self) -> None:
        """A newer toolchain takes the place of the older one."""
        self.read('[a]\nx = 1\n   2\n   3\ny = 4')
        bsettings.set_item('a', 'x', '5')
        bsettings.set_item('b', 'z', '6')
        with open(self.path, encoding='utf-8') as inf:
            self.assertEqual('[a]\nx = 5\ny = 4\n\n[b]\nz = 6\n', inf.read())
        bsettings.setup(self.path)
        self.assertEqual([('x', '5'), ('y', '4')], bsettings.get_items('a'))

    def test_set_item_is_read_back(self) -> None:
        """Whatever the file looks like, the value is there afterwards and the others stay."""
        rand = random.Random(2)
        for _ in range(300):
            text = ''.join(f'[{sect}]\n' + ''.join(
                rand.choice([f'{key} = {rand.random()}\n', f'{key}: 1\n', f'{key}\n', '# c = 1\n',
                             '\n', f'{key} = 1\n  {key} = 2\n'])
                for key in rand.sample('pqrs', 3))
                for sect in rand.sample(['a', 'b', 'c'], rand.randrange(4)))
            self.read(text)
            want = {sect: dict(bsettings.get_items(sect)) for sect in ('a', 'b', 'c')}
            sect, key = rand.choice('abc'), rand.choice('pqrst')
            bsettings.set_item(sect, key, 'new')
            want[sect][key] = 'new'
            bsettings.setup(self.path)
            self.assertEqual(want, {sect: dict(bsettings.get_items(sect))
                                    for sect in ('a', 'b', 'c')}, text)

    def test_set_item_makes_the_file(self) -> None:
        """After a first --fetch-arch the system's compilers are still found."""
        bsettings.setup('')
        bsettings.set_item('toolchain', 'arm', '/opt/arm')
        bsettings.setup('')
        self.assertEqual([('other', '/'), ('arm', '/opt/arm')], bsettings.get_items('toolchain'))

    def test_set_item_keeps_mode_and_link(self) -> None:
        """A private file stays private; a link into a dotfiles repository stays a link."""
        self.read('[a]\n')
        os.chmod(self.path, 0o600)
        link = os.path.join(self.tmp, '.buildman')
        os.symlink('conf', link)
        bsettings.setup('')
        bsettings.set_item('a', 'x', '1')
        self.assertTrue(os.path.islink(link))
        self.assertEqual(0o600, stat.S_IMODE(os.stat(self.path).st_mode))
        self.assertEqual(['.buildman', 'conf'], sorted(os.listdir(self.tmp)))

    def test_set_item_cannot_write(self) -> None:
        """A lost folder is told in one line."""
        self.read('[a]\n')
        bsettings.config_fname = os.path.join(self.tmp, 'gone', 'conf')
        with self.assertRaisesRegex(errors.SetupError, 'cannot write configuration file'):
            bsettings.set_item('a', 'x', '1')
