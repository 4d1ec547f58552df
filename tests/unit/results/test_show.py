# SPDX-License-Identifier: GPL-2.0+
"""`buildman -s` on real trees: the text, the reports, damage, many processes.

The text is read by people and by scripts that know it from earlier versions:
a blank too many is a failure here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import tempfile
import unittest
import xml.etree.ElementTree
from typing import Any, Dict, Iterator, Tuple, Union
from unittest import mock

from buildman.core.errors import SetupError, UsageError
from buildman.core.events import Built
from buildman.core.outcome import Outcome
from buildman.core.plan import Board, Commit
from buildman.process.fork import ChildDied
from buildman.results import durations, scan, show
from buildman.results.report import check_paths
from buildman.results.show import ResultTeller, SummaryRequest, show_summary
from buildman.results.tree import commit_dir_name

COMMITS = tuple(Commit(f'{num:040x}', subject) for num, subject in
                enumerate(('Base', 'net: Break a/b', 'Mend it'), 1))
BOARDS = (Board('snow', 'arm'), Board('seaboard', 'arm'), Board('malta', 'mips'))

ERROR = "a.c: In function 'f':\na.c:1:2: error: bad\n"
WARNING = 'a.c:1:2: warning: unused\n'
BLOB = 'Some images are invalid\n'


def sizes(text: int) -> str:
    return f'{text:7d}\t    200\t    300\t   1500\t    5dc\tu-boot 00000010\n'


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user whom permissions bind, if this is root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class ShowCase(unittest.TestCase):
    """Has a result folder."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.folder = os.path.join(tmp.name, 'branch')
        os.mkdir(self.folder)
        self.request = SummaryRequest(self.folder, COMMITS, BOARDS)

    def path(self, upto: int, *names: str) -> str:
        return os.path.join(self.folder, commit_dir_name(upto, COMMITS[upto]), *names)

    def put(self, upto: int, target: str, code: Union[int, None] = 0, err: str = '',
            **files: Union[str, bytes]) -> None:
        """Write a result; in names of files, _ stands for a dot or a dash."""
        os.makedirs(self.path(upto, target), exist_ok=True)
        if code is not None:
            files['done'] = str(code)
        if err:
            files['err'] = err
        names = {'u_boot_cfg': 'u-boot.cfg', 'uboot_env': 'uboot.env',
                 'u_boot_sizes': 'u-boot.sizes', 'dot_config': '.config'}
        for name, text in files.items():
            with open(self.path(upto, target, names.get(name, name)), 'wb') as outf:
                outf.write(text if isinstance(text, bytes) else text.encode())

    def show(self, **flags: Any) -> Tuple[str, str]:
        """Return text and messages."""
        out, err = io.StringIO(), io.StringIO()
        request = dataclasses.replace(self.request, **flags)
        self.assertEqual(show_summary(request, out, err), 0)
        return out.getvalue(), err.getvalue()

    def make_history(self) -> None:
        self.put(0, 'snow', sizes=sizes(1000), u_boot_cfg='#define CONFIG_A 1\n',
                 uboot_env='a=1\0b=2\0', u_boot_sizes='00000010 T f\n00000020 T g\n')
        self.put(0, 'seaboard', 0, WARNING, sizes=sizes(1000),
                 u_boot_cfg='#define CONFIG_A 1\n')
        self.put(1, 'snow', 0, WARNING, sizes=sizes(1012), uboot_env='a=1\0b=3\0c=x y\0',
                 u_boot_cfg='#define CONFIG_A 2\n#define CONFIG_B \n',
                 u_boot_sizes='00000014 T f\n00000028 t new\n')
        self.put(1, 'seaboard', 2, ERROR)
        self.put(1, 'malta', 2, BLOB)
        self.put(2, 'snow', 0, WARNING, sizes=sizes(1012), uboot_env='a=1\0b=3\0c=x y\0',
                 u_boot_cfg='#define CONFIG_A 2\n#define CONFIG_B \n')
        self.put(2, 'seaboard', sizes=sizes(1000), u_boot_cfg='#define CONFIG_A 1\n')
        self.put(2, 'malta')


class TestText(ShowCase):
    """The text, line for line."""

    def test_boards(self) -> None:
        """Nobody sees which commit broke which board."""
        self.make_history()
        self.assertEqual(self.show(threads=2)[0], '''\
Summary of 3 commits for 3 boards (2 threads, 1 job per thread)
01: Base
       arm:  w+   seaboard
02: net: Break a/b
      mips:     malta
       arm:  w+   snow +   seaboard
03: Mend it
       arm:     seaboard
      mips:     malta
Likely flakes (failed then recovered, re-run to confirm):
  seaboard
''')

    def test_errors(self) -> None:
        """Nobody sees what broke it, nor that binaries are missing."""
        self.make_history()
        text = self.show(show_errors=True, list_error_boards=True)[0]
        self.assertIn('''\
       arm:  w+   snow +   seaboard
+(seaboard) a.c: In function 'f':
+(seaboard) a.c:1:2: error: bad
Missing external blobs (expected in a blobless build):
+(malta) Some images are invalid
03: Mend it
       arm:     seaboard
      mips:     malta
-(seaboard) a.c: In function 'f':
-(seaboard) a.c:1:2: error: bad
-(malta) Some images are invalid
''', text)
        self.assertIn('\nw+a.c:1:2: warning: unused\n', self.show(show_errors=True)[0])

    def test_results_of_upstream(self) -> None:
        """Boards and commits that upstream's buildman built say the same, in other words."""
        ours = ('''\
In file included from include/x.h:3,
                 from common/y.c:4:
include/x.h:3:1: warning: odd
arch/arm/dts/.z.dtb.pre.tmp:1.1-2.3: Warning (reg): /soc
arm-ld: common/main.o: in function `f':
common/main.c:(.text+0x0): undefined reference to `g'
build/include/generated/a.h:1:1: error: bad
make[2]: *** [scripts/Makefile.build:19: lib/string.o] Error 1
make: *** [Makefile:5: sub-make] Error 2 (in .)
''')
        theirs = re.sub(r'(?<=[\t [])(?=(include|common|scripts)/)|^(?=include|common)', '../',
                        ours, flags=re.MULTILINE).replace('build/', '/o/.bm-work/03/build/')
        theirs = theirs.replace('(in .)', '(in /o/t/.bm-work/03)')
        self.assertEqual(theirs.count('../'), 6)
        texts = []
        # One of these commits, or one of these boards, comes from there
        for whose in ('UOO', 'OUO', 'OOU', 'UUU', 'OOO', 'UOU'):
            for upto, who in enumerate(whose):
                for board in ('snow', 'seaboard', 'malta'):
                    swap = board == 'malta' and upto == 1
                    self.put(upto, board, 2, theirs if (who == 'U') != swap else ours)
            text = self.show(show_errors=True, list_error_boards=True)[0]
            with self.subTest(whose=whose):
                first, _, rest = text.partition('02: ')
                self.assertNotRegex(rest, r'(?m)^w?[-+]\(')
                self.assertEqual('(snow seaboard malta) ../include' in first, whose[0] == 'U')
                texts.append(re.sub(r'\.\./|/o/(t/)?\.bm-work/03/?', '', first).replace('.)', ')'))
        self.assertEqual(len({text.replace('build/', '') for text in texts}), 1, texts)
        # Boards of one commit: each line once, with all of them
        self.put(0, 'snow', 2, ours)
        self.put(0, 'seaboard', 2, theirs)
        self.put(0, 'malta', 2, ours)
        text = self.show(show_errors=True, list_error_boards=True)[0]
        self.assertIn('\nw+(snow seaboard malta) include/x.h:3:1: warning: odd\n', text)
        self.assertNotIn('../', text)
        # What is new or gone is told as it is written there
        self.put(1, 'snow', 2, ours + 'lib/new.c:1:1: error: x\n')
        self.put(2, 'snow', 2, theirs)
        self.put(2, 'malta', 2, theirs + '../lib/other.c:1:1: error: y\n')
        text = self.show(show_errors=True)[0].partition('02: ')[2]
        self.assertEqual([line for line in text.splitlines() if line[:1] in '+-w'],
                         ['+lib/new.c:1:1: error: x', '-lib/new.c:1:1: error: x',
                          '+../lib/other.c:1:1: error: y'])

    def test_upstream_alone(self) -> None:
        """Of a tree of upstream's is told what it tells, also what seems to be the same."""
        self.put(0, 'snow', 2, 'x /o/.bm-work/snow/a.h: error: 1\n')
        self.put(0, 'malta', 2, 'x /o/.bm-work/malta/a.h: error: 1\n')
        self.put(1, 'snow', 2, 'x /o/.bm-work/02/build/a.h: error: 1\n')
        text = self.show(show_errors=True)[0].partition('03: ')[0]
        self.assertEqual([line for line in text.splitlines() if line[:1] in '+-'], [
            '+x /o/.bm-work/snow/a.h: error: 1', '+x /o/.bm-work/malta/a.h: error: 1',
            '-x /o/.bm-work/snow/a.h: error: 1', '-x /o/.bm-work/malta/a.h: error: 1',
            '+x /o/.bm-work/02/build/a.h: error: 1'])

    def test_sizes(self) -> None:
        """Nobody sees what grew."""
        self.make_history()
        text = self.show(show_sizes=True, bloat=True)[0]
        self.assertIn('''\
       arm: (for 1/2 boards) all +12.0 text +12.0
            snow           : all +12 text +12
               u-boot: add: 1/-1, grow: 1/0 bytes: 44/-32 (12)
                 function                                   old     new   delta
                 new                                          -      40     +40
                 f                                           16      20      +4
                 g                                           32       -     -32
03: Mend it
''', text)
        self.assertNotIn('function', self.show(show_sizes=True, detail=True)[0])
        self.assertNotIn('snow  ', self.show(show_sizes=True)[0])

    def test_config_and_environment(self) -> None:
        """Nobody sees which setting changed."""
        self.make_history()
        text = self.show(show_config=True, show_environment=True)[0]
        self.assertIn('''\
   + snow: c=x y$
   c snow: b=2 -> 3$
arm:
   + u-boot.cfg: CONFIG_B=1$
   c u-boot.cfg: CONFIG_A=1 -> 2$
   + all: CONFIG_B=1$
   c all: CONFIG_A=1 -> 2$
snow :
   + u-boot.cfg: CONFIG_B=1$
   c u-boot.cfg: CONFIG_A=1 -> 2$
   + all: CONFIG_B=1$
   c all: CONFIG_A=1 -> 2$
03: Mend it
'''.replace('$', ' '), text)

    def test_preserve_y(self) -> None:
        """Kconfig's own files are shown when asked for, as they are."""
        self.put(0, 'snow', dot_config='CONFIG_A=y\n')
        self.put(1, 'snow', dot_config='CONFIG_A=m\n')
        self.assertIn('   c .config: CONFIG_A=y -> m \n',
                      self.show(show_config=True, preserve_config_y=True)[0])
        self.assertNotIn('.config', self.show(show_config=True)[0])

    def test_unknown(self) -> None:
        """Boards without a result are shown when asked for."""
        self.make_history()
        text = self.show(show_unknown=True, show_not_built=True)[0]
        self.assertIn('       arm:  w+   seaboard\n      mips:  ?   malta\n'
                      'Boards not built (1): malta\n02: ', text)

    def test_step(self) -> None:
        """With a step each commit is compared with the one shown before it."""
        self.make_history()
        text = self.show(step=2)[0]
        self.assertEqual(text, self.show(step=0)[0])
        self.assertEqual(text, '''\
Summary of 2 commits for 3 boards (1 thread, 1 job per thread)
01: Base
       arm:  w+   seaboard
03: Mend it
       arm:     seaboard w+   snow
      mips:     malta
''')

    def test_colours(self) -> None:
        """Red is bad, green is good, and nothing is coloured unless asked for."""
        self.make_history()
        text = self.show(colour=True, show_errors=True, list_error_boards=True,
                         show_sizes=True)[0]
        for want in ('\033[1;34m02: net: Break a/b\033[0m\n',
                     '       arm:  \033[1;33mw+\033[0m  \033[1;33m snow\033[0m '
                     '\033[1;31m+\033[0m  \033[1;31m seaboard\033[0m\n',
                     '\033[1;31m+(\033[0m\033[22;35mseaboard\033[0m'
                     '\033[1;31m) a.c:1:2: error: bad\033[0m\n',
                     'boards)\033[1;31m all +12.0\033[0m',
                     '\033[1;35mLikely flakes (failed'):
            self.assertIn(want, text)
        self.assertNotIn('\033', self.show(show_errors=True, show_sizes=True)[0])

    def test_ide(self) -> None:
        """An editor gets what the compiler said, as it said it."""
        self.make_history()
        out, err = self.show(ide=True)
        self.assertEqual(out, '01: Base\n02: net: Break a/b\n03: Mend it\n(no errors to report)\n'
                         'Likely flakes (failed then recovered, re-run to confirm):\n'
                         '  seaboard\n')
        self.assertEqual(err, WARNING + WARNING + ERROR + BLOB + WARNING)

    def test_filters(self) -> None:
        """A board that has only what is filtered out has nothing."""
        self.put(0, 'snow', 0, 'x.dtb: Warning (reg): y\n')
        self.assertIn('w+   snow', self.show()[0])
        self.assertNotIn('snow', self.show(filter_dtb_warnings=True)[0])

    def test_one_result(self) -> None:
        """During a build -v shows each result by itself, as the summary would."""
        def tell(outcome: Outcome, commits: Any = COMMITS, **flags: bool) -> str:
            return ResultTeller(SummaryRequest('', commits, BOARDS, **flags))(outcome)

        bad = Outcome('seaboard', 1, 2, stderr=ERROR)
        self.assertEqual(tell(bad), '02: net: Break a/b\n       arm:  +   seaboard\n')
        self.assertEqual(tell(bad, show_errors=True), '02: net: Break a/b\n'
                         '       arm:  +   seaboard\n'
                         "+a.c: In function 'f':\n+a.c:1:2: error: bad\n")
        self.assertEqual(tell(Outcome('malta', 2, 0), show_errors=True), '03: Mend it\n')
        both = Outcome('seaboard', 0, 0, stderr=WARNING + 'b.c:1:2: error: y\n')
        self.assertEqual(tell(both, None, show_errors=True, list_error_boards=True, colour=True),
                         '       arm:  \033[1;33mw+\033[0m  \033[1;33m seaboard\033[0m\n'
                         '\033[1;31m+(\033[0m\033[22;35mseaboard\033[0m\033[1;31m) '
                         'b.c:1:2: error: y\033[0m\n'
                         '\033[1;33mw+(\033[0m\033[22;35mseaboard\033[0m\033[1;33m) '
                         'a.c:1:2: warning: unused\033[0m\n')
        self.assertEqual(tell(Outcome('malta', 0, 0), None), '')
        dtb = Outcome('snow', 0, 0, stderr='x.dtb: Warning (reg): y\n')
        self.assertEqual(tell(dtb, None), '       arm:  w+   snow\n')
        self.assertEqual(tell(dtb, None, filter_dtb_warnings=True), '')

    def test_current(self) -> None:
        """Without a branch the boards of the folder are shown."""
        self.folder = os.path.join(self.folder, 'current')
        os.makedirs(os.path.join(self.folder, 'snow'))
        with open(os.path.join(self.folder, 'snow', 'done'), 'w', encoding='utf-8') as outf:
            outf.write('2')
        text = self.show(folder=self.folder, commits=None, boards=BOARDS[:1])[0]
        self.assertEqual(text, 'Summary of current source for 1 boards (1 thread, 1 job per'
                         ' thread)\n       arm:  +   snow\n')


class TestDamage(ShowCase):
    """A tree that is not as it should be."""

    def test_nothing_built(self) -> None:
        """Silence would look like success."""
        out, err = self.show()
        self.assertIn('(no errors to report)', out)
        self.assertEqual(err.count('there is no result in'), 1)
        self.assertEqual(self.show(folder=self.folder + '-none')[1].count('\n'), 1)

    def test_not_everything(self) -> None:
        """Boards without a result may have errors: nobody is told that there are none"""
        for num in range(len(COMMITS)):
            for name in ('snow', 'seaboard', 'malta')[:2 if num == 2 else 3]:
                self.put(num, name)
        out, err = self.show()
        self.assertNotIn('no errors to report', out)
        self.assertRegex(err, r'\Abuildman: .*--show-not-built.*\n\Z')
        self.put(2, 'malta')
        self.assertEqual((True, ''), ('(no errors to report)' in self.show()[0], self.show()[1]))

    def test_damage(self) -> None:
        """One bad file must not hide the other results, and is told once."""
        self.make_history()
        self.put(1, 'snow', 0, sizes='garbage\n' + sizes(1012), u_boot_sizes='zz T f\n',
                 u_boot_cfg='#define CONFIG_A 2\nCONFIG_B\n', uboot_env=b'a=\xe9\0')
        with open(self.path(1, 'snow', 'err'), 'wb') as outf:
            outf.write(b'Latin-1: \xe9\n')
        self.put(2, 'malta', None, done=b'\xff\x00')
        os.mkdir(self.path(2, 'seaboard', 'uboot.env'))
        with open(os.path.join(self.folder, 'stray'), 'wb'):
            pass
        flags = {'show_errors': True, 'show_sizes': True, 'bloat': True, 'show_config': True,
                 'show_environment': True}
        out, err = self.show(**flags)
        for path in (self.path(1, 'snow', 'sizes'), self.path(1, 'snow', 'u-boot.sizes'),
                     self.path(1, 'snow', 'u-boot.cfg'), self.path(1, 'snow', 'uboot.env'),
                     self.path(1, 'snow', 'err'), self.path(2, 'malta', 'done'),
                     self.path(2, 'seaboard', 'uboot.env'), os.path.join(self.folder, 'stray')):
            self.assertEqual(err.count(f"'{path}'"), 1, err)
        self.assertEqual(err.count('\n'), 8, err)
        for want in ('all +12.0', 'CONFIG_A=1 -> 2', '+Latin-1: \ufffd', '03: Mend it',
                     "+a.c: In function 'f':"):
            self.assertIn(want, out)

    def test_no_permission(self) -> None:
        """What another user left unreadable is named, and the rest shown."""
        self.make_history()
        os.chmod(self.folder, 0o755)
        os.chmod(os.path.dirname(self.folder), 0o755)
        shut = (self.path(0, 'seaboard'), self.path(1, 'snow', 'err'), self.path(2))
        for path in shut:
            os.chmod(path, 0)
        with as_nobody():
            out, err = self.show(show_errors=True, show_sizes=True, show_unknown=True)
        for path in (self.path(0, 'seaboard', 'done'), *shut[1:]):
            self.assertEqual(err.count(f"'{path}' cannot be read (Permission denied)"), 1, err)
        self.assertEqual(err.count('\n'), 3, err)
        self.assertIn("       arm:  ?   seaboard\n      mips:  ?   malta\n02: ", out)
        self.assertIn("+a.c: In function 'f':", out)
        self.assertIn('03: Mend it\n       arm:  ?   snow seaboard\n', out)
        os.chmod(self.folder, 0)
        with as_nobody():
            err = self.show()[1]
        self.assertIn(f"'{self.folder}' cannot be read (Permission denied)", err)
        for path in (self.folder, self.path(2)):
            os.chmod(path, 0o755)

    def test_odd_files(self) -> None:
        """Neither a pipe that nobody writes to nor a link to itself may stop it."""
        self.make_history()
        os.mkfifo(self.path(1, 'snow', 'uboot.env.new'))
        os.unlink(self.path(1, 'snow', 'uboot.env'))
        os.rename(self.path(1, 'snow', 'uboot.env.new'), self.path(1, 'snow', 'uboot.env'))
        os.unlink(self.path(2, 'snow', 'sizes'))
        os.symlink('sizes', self.path(2, 'snow', 'sizes'))
        with open(self.path(1, 'snow', 'sizes'), 'wb') as outf:
            outf.write(b'\0' * 100000 + b'\n' + sizes(1012).encode())
        os.mkdir(self.path(1, 'not a board'))
        with open(self.path(1, 'junk'), 'wb'):
            pass
        out, err = self.show(show_sizes=True, show_environment=True)
        self.assertIn('all +12.0', out)
        for path in (self.path(2, 'snow', 'sizes'), self.path(1, 'snow', 'sizes'),
                     self.path(1, 'not a board'), self.path(1, 'junk')):
            self.assertEqual(err.count(f"'{path}'"), 1, err)

    def test_random_damage(self) -> None:
        """Whatever is in the files: the heading, each commit and the end are shown."""
        rng = random.Random(11)
        flags = {'show_errors': True, 'show_sizes': True, 'bloat': True, 'show_config': True,
                 'show_environment': True, 'show_unknown': True, 'preserve_config_y': True,
                 'filter_dtb_warnings': True, 'json': os.path.join(self.folder, '..', 'x.json'),
                 'junit': os.path.join(self.folder, '..', 'x.xml')}
        for _ in range(60):
            self.make_history()
            for _ in range(6):
                upto, brd = rng.randrange(3), rng.choice(BOARDS)
                folder = self.path(upto, brd.target)
                os.makedirs(folder, exist_ok=True)
                name = rng.choice(('done', 'err', 'sizes', 'u-boot.cfg', '.config', 'uboot.env',
                                   'u-boot.sizes', 'host'))
                path = os.path.join(folder, name)
                raw = b''
                if os.path.exists(path):
                    with open(path, 'rb') as inf:
                        raw = inf.read()
                raw = rng.choice((b'', raw[:rng.randrange(len(raw) + 1)], rng.randbytes(60),
                                  raw + rng.randbytes(3) + raw))
                with open(path, 'wb') as outf:
                    outf.write(raw)
            out, _ = self.show(**flags)
            self.assertEqual([line for line in out.splitlines() if line[:3] in (
                '01:', '02:', '03:')], ['01: Base', '02: net: Break a/b', '03: Mend it'])
            with open(flags['json'], encoding='utf-8') as inf:
                self.assertEqual(len(json.load(inf)['commits']), 3)
            self.assertEqual(len(xml.etree.ElementTree.parse(flags['junit']).getroot()), 3)

    def test_running(self) -> None:
        """What is being built is not built yet, and the reader is told so."""
        self.put(0, 'snow', None, err=ERROR)
        self.put(0, 'malta')
        out, err = self.show(show_errors=True, show_unknown=True)
        self.assertIn('       arm:  ?   snow seaboard\n', out)
        self.assertNotIn('error: bad', out)
        self.assertIn("snow' has no 'done'", err)

    def test_many_alike(self) -> None:
        """A thousand damaged files must not bury the summary."""
        boards = tuple(Board(f'b{num:03d}', 'arm') for num in range(100))
        for brd in boards:
            self.put(0, brd.target, None, done='')
        err = self.show(boards=boards)[1]
        self.assertLess(err.count('\n'), 15)
        self.assertIn('90 more', err)


class TestProcesses(ShowCase):
    """Sharing the work must not change what comes out."""

    def make_random(self, rng: random.Random) -> None:
        for upto in range(len(COMMITS)):
            for brd in self.request.boards:
                if rng.random() < .2:
                    continue
                self.put(upto, brd.target, rng.choice((0, 0, 2)),
                         rng.choice(('', ERROR, WARNING, BLOB)), sizes=sizes(rng.randrange(3)),
                         u_boot_cfg=f'#define CONFIG_A {rng.randrange(3)}\n' + '\n' * 50,
                         uboot_env=f'a={rng.randrange(3)}\0',
                         u_boot_sizes=f'{rng.randrange(3):08x} T f\n')

    def test_same(self) -> None:
        """One process, several, and with no memory to keep files in."""
        boards = tuple(Board(f'b{num:02d}', ('arm', 'mips')[num % 2]) for num in range(20))
        self.request = dataclasses.replace(
            self.request, boards=boards, show_errors=True, list_error_boards=True,
            show_sizes=True, bloat=True, show_config=True, show_environment=True,
            show_unknown=True, json=os.path.join(self.folder, '..', 'out.json'))
        self.make_random(random.Random(8))

        def everything() -> Tuple[str, str, str]:
            out, err = self.show()
            with open(str(self.request.json), encoding='utf-8') as inf:
                return out, err, inf.read()

        alone = everything()
        with mock.patch.object(scan, 'BUDGET', 100):
            self.assertEqual(everything(), alone)
        for count in (2, 3, 7):
            with mock.patch.object(show, 'process_count', lambda *_, n=count: n):
                self.assertEqual(everything(), alone)

    def test_count(self) -> None:
        """A small tree is read before another process has even started."""
        wanted = scan.Wanted()
        self.assertEqual(scan.process_count(100, wanted, 8), 1)
        self.assertEqual(scan.process_count(10**7, wanted, 8), 8)

    def test_dead_reader(self) -> None:
        """A reader that dies is an error, not the end of the summary."""
        self.make_history()

        def die(*_args: object) -> None:
            os._exit(3)

        with mock.patch.object(scan.SliceReader, 'advance', die), \
                mock.patch.object(show, 'process_count', lambda *_: 2), \
                self.assertRaisesRegex(ChildDied, 'status 3'):
            self.show()


class TestReports(ShowCase):
    """Files for CI."""

    def load(self, **flags: Any) -> Dict[str, Any]:
        path = os.path.join(self.folder, '..', 'summary.json')
        self.show(json=path, **flags)
        with open(path, encoding='utf-8') as inf:
            data: Dict[str, Any] = json.load(inf)
        self.assertFalse([name for name in os.listdir(os.path.dirname(path)) if 'tmp' in name])
        return data

    def test_json(self) -> None:
        """A script that reads the outcome must get all of it."""
        self.make_history()
        self.put(1, 'snow', host='box\n')
        recorder = durations.Recorder(self.folder, COMMITS, False)
        recorder(Built('box', Outcome('snow', 1, 0, seconds=12.5)), '')
        recorder.close()
        data = self.load(show_sizes=True, bloat=True, show_config=True, show_environment=True)
        self.assertEqual((data['schema'], data['version']), ('buildman-summary', 1))
        self.assertEqual(data['likely_flakes'], ['seaboard'])
        second = data['commits'][1]
        self.assertEqual(second['counts'], {'ok': 0, 'warning': 1, 'error': 2, 'not-built': 0})
        self.assertEqual((second['broken'], second['warned']), (['seaboard', 'malta'], ['snow']))
        snow = second['boards']['snow']
        self.assertEqual((snow['outcome'], snow['before'], snow['machine'], snow['seconds']),
                         ('warning', 'ok', 'box', 12.5))
        self.assertEqual(data['commits'][2]['boards']['snow']['seconds'], None)
        self.assertEqual(snow['deltas'], {'all': 12, 'text': 12})
        self.assertEqual(snow['sizes']['u-boot']['all'], 1512)
        self.assertEqual(snow['functions']['u-boot'][0], ['new', None, 40])
        self.assertTrue(second['boards']['malta']['blob_only'])
        self.assertEqual(second['boards']['seaboard']['errors'], ERROR.splitlines())
        self.assertEqual(second['environment']['snow']['change'], {'b': ['2', '3']})
        self.assertEqual(second['config'][0]['boards'], ['snow'])
        self.assertNotIn('malta', data['commits'][0]['boards'])
        self.assertEqual(data['commits'][2]['fixed'], ['seaboard', 'malta'])

    def test_json_problems(self) -> None:
        """What is damaged is in the report, too."""
        self.put(0, 'snow', None, done='x')
        problems = self.load()['problems']
        self.assertEqual([item['path'] for item in problems], [self.path(0, 'snow', 'done')])

    def test_junit(self) -> None:
        """A CI server must be able to read it, whatever the compiler printed."""
        self.make_history()
        self.put(1, 'seaboard', 2, 'a.c:1:2: error: <&"> \x1b[1m ]]>\n')
        self.put(1, 'malta', 2, "Image 'x' is missing external blobs and is non-functional: y\n\n"
                 '/binman/x/y (y.bin):\n   See the documentation for your board.\n\n' + BLOB +
                 'make[1]: *** [Makefile:1135: .binman_stamp] Error 103\n'
                 'make: *** [Makefile:177: sub-make] Error 2\n')
        path = os.path.join(self.folder, '..', 'junit.xml')
        self.show(junit=path)
        suites = xml.etree.ElementTree.parse(path).getroot().findall('testsuite')
        self.assertEqual([(item.get('name'), item.get('tests'), item.get('failures'),
                           item.get('skipped')) for item in suites],
                         [('01: Base', '3', '0', '1'), ('02: net: Break a/b', '3', '2', '0'),
                          ('03: Mend it', '3', '0', '0')])
        failures = suites[1].findall('testcase/failure')
        self.assertEqual([item.get('type') for item in failures], ['build', 'missing-blobs'])
        self.assertIn('error: <&">', failures[0].text or '')
        self.assertEqual([case.get('classname') for case in suites[0]][1:],
                         ['buildman.arm', 'buildman.arm', 'buildman.mips'])
        self.assertEqual(len(suites[0].findall('testcase/system-err')), 1)
        self.assertEqual(len(suites[0].findall('testcase/skipped')), 1)

    def test_cannot_write(self) -> None:
        """The user is told, and half a report is not taken for a whole one."""
        self.make_history()
        good = os.path.join(self.folder, '..', 'good.json')
        with self.assertRaisesRegex(SetupError, 'cannot write report .*none/x'):
            self.show(json=good, junit=os.path.join(self.folder, 'none', 'x'))
        self.assertEqual(os.listdir(os.path.join(self.folder, '..')), ['branch'])

    def test_special_files(self) -> None:
        """A link or a pipe, such as /dev/stdout, is written to, and stays what it is"""
        self.make_history()
        base = os.path.dirname(self.folder)
        pipe, link, file = (os.path.join(base, name) for name in ('pipe', 'link', 'file'))
        os.mkfifo(pipe)
        os.symlink(file, link)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        check_paths({'--json': pipe, '--junit': link}, {})
        self.show(json=pipe, junit=link)
        self.assertIn(b'"commits"', os.read(reader, 1 << 16))
        self.assertTrue(os.path.islink(link))
        with open(file, encoding='utf-8') as inf:
            self.assertIn('</testsuites>', inf.read())
        hard = os.path.join(base, 'hard')
        os.link(file, hard)
        os.symlink(f'{base}/no', f'{base}/leads-nowhere')
        for outputs, inputs, why in (
                ({'--json': file, '--junit': link}, {}, '--json and --junit both name'),
                ({'--json': hard}, {'--known': link}, f"--known and --json both name '{hard}'"),
                ({'--html': f'{base}/no', '--status': f'{base}/leads-nowhere'}, {},
                 '--html and --status both name'),
                ({'--html': base}, {}, '--html: cannot write .*: it is a folder'),
                ({'--html': f'{base}/none/x'}, {}, 'there is no such folder')):
            with self.assertRaisesRegex(UsageError, why):
                check_paths(outputs, inputs)
        check_paths({'--json': os.devnull, '--junit': os.devnull}, {'--known': os.devnull})
        check_paths({}, {'--known': file, '--budget': file})
