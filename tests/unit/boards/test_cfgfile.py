# SPDX-License-Identifier: GPL-2.0+
"""The boards.cfg and MAINTAINERS files: what is read, written and refused."""

from __future__ import annotations

import os
import random
import string
import tempfile
import unittest
from typing import Tuple

from buildman.boards import cfgfile
from buildman.boards.cfgfile import Entry, format_entries, parse_entries
from buildman.boards.maintainers import Owner, Owners, decode, parse_maintainers
from buildman.core.errors import BoardError, BuildmanError, SetupError
from buildman.core.plan import Board

ENTRIES = [
    Entry(Board('b_two', 'arm', 'armv7', 'bee', 'acme', 'soc1', 'Active',
                ('Ann One <ann@one>', 'Bob: Two <bob@two>')), 'cfg'),
    Entry(Board('A_one', 'arm', 'armv7', 'bee', 'acme', 'soc1', 'Active',
                ('Ann One <ann@one>',)), 'cfg'),
    Entry(Board('none', '-', status='-'), ''),
]

TEXT = '''
-       -    -      -     -     -    none   -
Active  arm  armv7  soc1  acme  bee  A_one  cfg  Ann One <ann@one>
Active  arm  armv7  soc1  acme  bee  b_two  cfg  Ann One <ann@one>:Bob: Two <bob@two>
'''


def body(text: str) -> str:
    """Return what is not a comment."""
    return ''.join(line for line in text.splitlines(True) if line[0] != '#')


class FileTest(unittest.TestCase):
    """Other programs read boards.cfg, and upstream's reads ours."""

    def test_format(self) -> None:
        """Columns line up and capitals sort beside small letters."""
        text = format_entries(ENTRIES)
        self.assertEqual(body(text), TEXT)
        self.assertTrue(text.startswith('#'))

    def test_round_trip(self) -> None:
        """What is kept is what was found."""
        back = parse_entries(format_entries(ENTRIES), 'x')
        self.assertEqual(back, cfgfile.sort_entries(ENTRIES))

    def test_empty(self) -> None:
        """A tree without boards has a file without lines."""
        self.assertEqual(parse_entries(format_entries([]), 'x'), [])

    def test_damage(self) -> None:
        """A bad line is named, with file and number, instead of a traceback."""
        for text, why in (('Active arm armv7\n', r'x:1: 3 columns'),
                          ('# c\n\nActive arm - - - - - -\n', r"x:3: '-' is not a board"),
                          ('Active arm - - - - a/b c\n', r"x:1: 'a/b' is not a board"),
                          (TEXT + 'Active arm - - - - none -\n', r'x:5: .*twice')):
            with self.assertRaisesRegex(BoardError, why):
                parse_entries(text, 'x')

    def test_unreadable(self) -> None:
        """A file of bytes, and one that is not there, are each one clear line."""
        with tempfile.TemporaryDirectory() as tmp:
            path = os.path.join(tmp, 'boards.cfg')
            with self.assertRaisesRegex(BoardError, 'No such file'):
                cfgfile.read_entries(path)
            with open(path, 'wb') as outf:
                outf.write(b'\xff\xfe')
            with self.assertRaisesRegex(BoardError, 'not a text file'):
                cfgfile.read_entries(path)

    def test_random_entries(self) -> None:
        """Any board survives being written and read."""
        rnd = random.Random(1)
        chars = string.ascii_letters + string.digits + '_-.+#,&'

        def word(least: int = 0) -> str:
            out = ''.join(rnd.choice(chars) for _ in range(rnd.randrange(least, 9)))
            return out if out != '-' else 'x' if least else ''

        for _ in range(300):
            entries = []
            for num in range(rnd.randrange(6)):
                people = tuple(f'{word(1)} {word(1)} <{word(1)}@x>'
                               for _ in range(rnd.randrange(3)))
                entries.append(Entry(Board(
                    f't{num}{word()}', word(1) or 'x', word(), word(), word(), word(),
                    rnd.choice(('-', 'Active', 'Orphan')), people), word()))
            back = parse_entries(format_entries(entries), 'x')
            self.assertEqual(back, cfgfile.sort_entries(entries))

    def test_random_damage(self) -> None:
        """No damage leads to anything but a board list or one clear error."""
        rnd = random.Random(2)
        good = format_entries(ENTRIES)
        for _ in range(3000):
            text = list(good)
            for _ in range(rnd.randrange(1, 6)):
                pos = rnd.randrange(len(text))
                action = rnd.randrange(3)
                if action == 0:
                    del text[pos:pos + rnd.randrange(1, 40)]
                elif action == 1:
                    text[pos] = rnd.choice(' \n\t#-:\x00é/x')
                else:
                    text.insert(pos, rnd.choice(' \n\t#-:\x00é/x'))
            try:
                for entry in parse_entries(''.join(text), 'boards.cfg'):
                    self.assertTrue(entry.board.target)
            except BoardError as exc:
                self.assertRegex(str(exc), r'^boards\.cfg:\d+: ')
                self.assertNotIn('\n', str(exc))


class WriteTest(unittest.TestCase):
    """Nobody must find half a file, nor rubbish beside it."""

    def test_replace(self) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            path = os.path.join(tmp, 'new', 'boards.cfg')
            cfgfile.write_atomically(path, 'one\n')
            cfgfile.write_atomically(path, 'two\n')
            with open(path, encoding='utf-8') as inf:
                self.assertEqual(inf.read(), 'two\n')
            self.assertEqual(os.listdir(os.path.dirname(path)), ['boards.cfg'])
            umask = os.umask(0)
            os.umask(umask)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o666 & ~umask)

    def test_refused(self) -> None:
        """The file that cannot be written is named."""
        with tempfile.TemporaryDirectory() as tmp:
            blocker = os.path.join(tmp, 'file')
            with open(blocker, 'w', encoding='utf-8'):
                pass
            with self.assertRaisesRegex(SetupError, 'file/boards.cfg: cannot be written'):
                cfgfile.write_atomically(os.path.join(blocker, 'boards.cfg'), 'x')
            with self.assertRaisesRegex(SetupError, 'cannot be written'):
                cfgfile.write_atomically(tmp, 'x')
            self.assertEqual(os.listdir(tmp), ['file'])

    def test_device(self) -> None:
        """-R /dev/stdout writes there and does not replace the device."""
        read_end, write_end = os.pipe()
        cfgfile.write_atomically(f'/dev/fd/{write_end}', 'text')
        os.close(write_end)
        with os.fdopen(read_end) as inf:
            self.assertEqual(inf.read(), 'text')


class MaintainersTest(unittest.TestCase):
    """Expected values are what upstream's `buildman -R` writes for these files."""

    def find(self, *texts: str, target: str = 'a2') -> Tuple[Owner, str]:
        owners = Owners(['a1', 'a2', 'r1', 'r2'])
        for num, text in enumerate(texts):
            owners.add(text, f'dir{num}/MAINTAINERS')
        owner = owners.find(target)
        return owner, '; '.join(line.replace('WARNING: ', '') for line in owners.warnings)

    def check(self, text: str, status: str, people: str, warning: str = '') -> None:
        self.assertEqual(self.find(text), (
            Owner(status, tuple(people.split(':')) if people else ()), warning))

    def test_plain(self) -> None:
        """Maintained and supported boards are active, in whatever order it is said."""
        self.check('W\nM:\tBob <b@c>\nS:\tMaintained\nF:\tconfigs/a2_defconfig\n',
                   'Active', 'Bob <b@c>')
        self.check('F: configs/a2_defconfig\nS: Supported by X\nM: B <b>\n#M: C <c>\n',
                   'Active', 'B <b>:C <c>')
        self.check('M:Bob\r\nS:Maintained\r\nF:configs/a2_defconfig  \r\n', 'Active', 'Bob')

    def test_nobody(self) -> None:
        """A board without anybody to ask gets a warning."""
        for text in ('W\nM: B <b>\nS: Orphan (Since 2012)\nF: configs/a2_defconfig\n',
                     'W\nM: -\nS: Maintained\nF: configs/a2_defconfig\n',
                     'W\nR: B <b>\nS: Maintained\nF: configs/a2_defconfig\n',
                     'W\nM: B <b>\n\nS: Maintained\nF: configs/a2_defconfig\n',
                     ' M: B\n S: Maintained\n F: configs/a2_defconfig\n',
                     'W\nM: B <b>\nS: Maintained\n#F: configs/a2_defconfig\n',
                     '', '\n\n'):
            self.check(text, '-', '', "no maintainers for 'a2'")

    def test_status(self) -> None:
        """Any other status is told, and the maintainers stay."""
        self.check('M: B\nS: Odd Fixes\nF: configs/a2_defconfig\n', '-', 'B',
                   "Odd Fixes: unknown status for 'a2'")
        self.check('M: B\nF: configs/a2_defconfig\n', '-', 'B',
                   "-: unknown status for 'a2'")
        self.check('M: B\nS: Orphan\nS: Maintained\nF: configs/a2_defconfig\n',
                   'Active', 'B')

    def test_patterns(self) -> None:
        """F: takes shell patterns of whole paths, N: expressions for targets."""
        for pattern in ('F: configs/*', 'F: configs/a*', 'F: configs/?2_defconfig',
                        'F: */*2_defconfig', 'F: **/a2_defconfig', 'F: configs/[a]2*',
                        'N: a2', 'N: ^[ar]2', 'N: 2$', 'N: 2'):
            self.check(f'M: B\nS: Supported\n{pattern}\n', 'Active', 'B')
        for pattern in ('F: configs/', 'F: configs', 'F: con*', 'F: *', 'F:',
                        'F: ./configs/*', 'F: configs/{a2,r2}_defconfig',
                        'F: configs/a2_defconfig x', 'F: board/x/*', 'F: configs/r*',
                        'N: a2_defconfig', 'N: configs/a2', 'X: configs/a2_defconfig'):
            self.check(f'M: B\nS: Supported\n{pattern}\n', '-', '',
                       "no maintainers for 'a2'")

    def test_last_counts(self) -> None:
        """The more special file speaks for a board, not the one at the top."""
        top = 'T\nM: T\nS: Maintained\nF: configs/*\n'
        below = 'B\nM: B\nS: Maintained\nF: configs/a2_defconfig\n'
        self.assertEqual(self.find(top, below)[0].maintainers, ('B',))
        self.assertEqual(self.find(top, below, target='a1')[0].maintainers, ('T',))
        self.assertEqual(self.find(f'{top}\n{below}')[0].maintainers, ('B',))

    def test_bad_name(self) -> None:
        """A wrong expression costs a warning that names the file, not the run."""
        owner, warning = self.find('M: B\nS: Maintained\nN: a2(\nF: configs/a2_defconfig\n')
        self.assertEqual(owner, Owner('Active', ('B',)))
        self.assertIn("dir0/MAINTAINERS: 'N: a2('", warning)

    def test_latin(self) -> None:
        """A name from before UTF-8 does not stop the scan."""
        self.assertEqual(decode(b'M: B\xf6b'), 'M: Böb')
        self.assertEqual(decode('M: Böb'.encode()), 'M: Böb')

    def test_random(self) -> None:
        """No MAINTAINERS file makes the reader fail."""
        rnd = random.Random(4)
        bits = ['M:', 'S:', 'F:', 'N:', '#M:', ' ', '\t', '\n', '\n\n', '-', 'Maintained',
                'Orphan', 'configs/a2_defconfig', 'configs/*', '[', '(', '*', ']', '\\',
                '{', '+', '?', '^', '$', 'a2', '\r', '\x00', 'é']
        for _ in range(3000):
            text = ''.join(rnd.choice(bits) for _ in range(rnd.randrange(60)))
            owners = Owners(['a1', 'a2'])
            try:
                owners.add(text, 'MAINTAINERS')
                owner = owners.find('a2')
            except BuildmanError as exc:
                self.fail(f'{exc} for {text!r}')
            self.assertIn(owner.status, ('-', 'Active'))
            self.assertEqual(owner.status == 'Active' and not owner.maintainers, False)
            for section in parse_maintainers(text):
                self.assertTrue(section.files or section.names)
