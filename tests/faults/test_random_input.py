# SPDX-License-Identifier: GPL-2.0+
"""What we did not write ourselves, damaged at random: no parser crashes or hangs on it.

A machine's answers, files of results that somebody edited or half copied, the
configuration, lists of boards and of compilers. A parser says what is wrong or
leaves out what makes no sense; any other exception would cost a user the run.
Messages of the wire are in test_protocol.

BUILDMAN_LONG_TESTS=1 in the environment makes the histories long: 10,000 inputs
for each parser instead of 150.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import unittest
from typing import Any, Callable, Dict, List, Tuple, Type

from support import damage

from buildman import bsettings, machine
from buildman.agent import lock, survey
from buildman.boards import cfgfile, select
from buildman.build import environment, output
from buildman.build import folder as buildfolder
from buildman.core.errors import BoardError, BuildmanError
from buildman.core.plan import Settings, Toolchain
from buildman.process import commands
from buildman.remote import facts, scripts, ssh
from buildman.results import compare, durations, reader
from buildman.toolchains import download
from buildman.wire import fields

COUNT = 10_000 if os.environ.get('BUILDMAN_LONG_TESTS') else 150

OWNER = lock.Owner('ann', 'host', 12, 'a' * 32, 1.5, 61.5, 'there', 34, '5678')

PROBE = survey.MARK + json.dumps({
    'arch': 'x86_64', 'cpus': 4, 'threads': 8, 'bogomips': 4800.5, 'load': 0.5,
    'mem_avail_mb': 4096, 'disk_avail_mb': 100000, 'tools': {'git': '2.39', 'make': '4.3'},
    'work_dir': '/home/ann/dev/.bm-worker', 'work_mb': 3, 'owner': '',
    'gccs': {'arm': [{'path': '/usr/bin/arm-linux-gnueabi-gcc', 'version': '12.2.0',
                      'banner': 'arm-linux-gnueabi-gcc (Debian 12.2.0) 12.2.0'}]}}) + '\n'

INIT = 'Welcome\nhave ' + 'ab' * 20 + '\nhave ' + 'cd' * 20 + '\n/home/ann/dev/.bm-worker\n'

CONFIG = '''[toolchain]
root = /usr
kernel = ~/gcc-*/*-linux
[toolchain-prefix]
arm = arm-linux-gnueabi-
[toolchain-alias]
x86 = i386 x86_64
[make-flags]
flags = A=1 B="x y"
snapper = ${flags} C=3
[machines]
alpha
beta = bob@beta.example.org
[machine:alpha]
max_boards = 3
work_dir = /scratch/bm
ssh_options = -p 2222 -i "~/.ssh/my key"
max_load = 50
other_gcc = yes
[distributed]
heartbeat = 2.5
'''

SIZES = ('   text    data     bss     dec     hex filename\n'
         '  1234     567      89    1890     762 u-boot 1a2\n'
         '   234      67       9     310     136 spl/u-boot-spl 0\n')
SYMBOLS = '00000004 D env_id\n00000020 T board_init\n00000010 t static_one.isra.0\n'
OPTIONS = ('#define CONFIG_ARM 1\nCONFIG_SYS_TEXT_BASE=0x1000\n# CONFIG_SPL is not set\n'
           'CONFIG_BOOTCMD="run a; b=\\"c\\""\n')
ENVIRONMENT = 'baudrate=115200\0bootcmd=run distro; echo "x=y"\0ethaddr=\0'
ERRORS = ("board/a.c: In function 'f':\nboard/a.c:12:3: warning: unused variable 'x' "
          '[-Wunused]\n   12 |   int x;\n      |       ^\nboard/a.c:20: error: expected\n'
          'make[1]: *** [scripts/Makefile.build:257: board/a.o] Error 1\n'
          'arch/arm/dts/a.dts:3.1-4: Warning (reg_format): /soc: property\n')
BOARDS = ('# header\nActive  arm  armv7  -  acme  anvil  anvil_a  anvil  Ann <ann@x.org>\n'
          'Orphan  sandbox  -  -  -  sandbox  sandbox  sandbox_config  -\n'
          'Active  aarch64  armv8  k3  ti  am62  am62x  -  A <a@x>:B <b@x>\n')
STDERR = ('ssh: connect to host a port 22: Connection refused\n'
          'bm-problem no-space 3 MiB are free\nPermission denied (publickey,password).\n'
          'kex_exchange_identification: read: Connection reset by peer\n')
PAGE = ('<html><body><a href="gcc-13.1.0-nolibc_arm.tar.xz">x</a> <a href=\'../\'>up</a>'
        '<a href="x86_64-gcc-12.2.0-nolibc-aarch64-linux.tar.xz">y</a></body></html>')
NOTES = '\n'.join('\t'.join(words) for words in (
    ('ab' * 20, 'anvil', '12.500', 'full', '-', '1'),
    ('cd' * 20, 'rocket', '0.250', 'change', 'alpha', '2'))) + '\n'


def text(data: bytes) -> str:
    """Return input as text, as it comes out of a pipe."""
    return data.decode('utf-8', 'replace')


class TestParsers(unittest.TestCase):
    """Each parser with each of its samples"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.addCleanup(bsettings.setup, None)

    def put(self, name: str, data: bytes) -> str:
        """Write a file and return its path"""
        path = os.path.join(self.dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as outf:
            outf.write(data)
        return path

    def spoil(self, sample: str, parse: Callable[[bytes], Any],
              *errors: Type[BaseException]) -> None:
        """Parse a sample, then damaged ones; nothing but these errors may come out"""
        whole = sample.encode()
        parse(whole)
        rnd = random.Random(sample)
        inputs: List[bytes] = [b'', b'\n', b'\0', b'\xff\xfe', b'[' * 50_000, b'{"a":' * 20_000,
                               b'9' * 5000, whole * 50, whole.replace(b'\n', b'\r\n'),
                               whole[:len(whole) // 2], whole.replace(b'1', b'9' * 400)]
        for pos in range(COUNT):
            data = inputs[pos] if pos < len(inputs) else damage(rnd, whole)
            try:
                parse(data)
            except errors as exc:
                self.assertTrue(str(exc))
            except Exception as exc:
                raise AssertionError(f'{type(exc).__name__}: {exc} from {data[:1000]!r}') from exc

    def test_probe(self) -> None:
        """What a machine tells of itself: its table, its weight and its compilers"""
        def parse(data: bytes) -> None:
            info = facts.parse_probe(text(data))
            mach = machine.Machine('alpha')
            if mach.take_answer(text(data)):
                self.assertGreaterEqual(mach.weight, 1)
                self.assertGreater(machine.speed_of(info.threads, info.bogomips), 0)
                mach.differences({})
            repr(mach)

        self.spoil(PROBE, parse, ValueError)

    def test_init(self) -> None:
        """The answer to init: a work folder is a path, and nothing else"""
        for sample in (INIT, f'owner {OWNER.to_json()}\nBUSY\n'):
            self.spoil(sample, lambda data: scripts.parse_init(text(data)))

    def test_owner(self) -> None:
        """Who holds a machine: shown to the second one"""
        self.spoil(OWNER.to_json(), lambda data: str(lock.Owner.from_json(text(data))))

    def test_stderr(self) -> None:
        """What ssh and the far side complain about: one line, whatever it is"""
        def parse(data: bytes) -> None:
            said = str(ssh.explain('alpha', commands.Answer(data, data, 255)))
            self.assertNotRegex(said, r'[\x00-\x08\x0a-\x1f\x7f-\x9f]')

        self.spoil(STDERR, parse)
        self.spoil(STDERR, lambda data: fields.harmless(data))

    def test_results(self) -> None:
        """Files of the result tree"""
        readers: Dict[str, Tuple[Callable[[bytes], Any], ...]] = {
            '0': (reader.parse_done,), 'alpha\n': (reader.parse_host,),
            SIZES: (reader.parse_sizes,),
            SYMBOLS: (reader.parse_symbols,
                      lambda data: compare.diff_functions(SYMBOLS.encode(), data)),
            OPTIONS: (lambda data: reader.parse_config(data, False),
                      lambda data: reader.parse_config(data, True),
                      lambda data: compare.diff_config(data, OPTIONS.encode(), False)),
            ENVIRONMENT: (reader.parse_env,),
            ERRORS: (lambda data: reader.err_lines(reader.decode(data)[0], True, True),
                     lambda data: compare.classify(text(data).splitlines()),
                     lambda data: output.machine_failure(2, text(data)),
                     lambda data: output.Tidier('/s', '/s/build', True).complaints(data))}
        for sample, parsers in readers.items():
            for parse in parsers:
                self.spoil(sample, parse)

    def test_durations(self) -> None:
        """How long builds took: what cannot be read tells nothing"""
        def parse(data: bytes) -> None:
            self.put(durations.NAME, data)
            for record in durations.read(self.dir):
                self.assertGreaterEqual(record.seconds, 0)

        self.spoil(NOTES, parse)

    def test_boards(self) -> None:
        """A list of boards: with a line number when it cannot be"""
        self.spoil(BOARDS, lambda data: cfgfile.read_entries(self.put('boards.cfg', data)),
                   BoardError)
        self.spoil('arm & xilinx', lambda data: select.parse_terms(text(data).split('\n')),
                   BuildmanError)

    def test_config(self) -> None:
        """A configuration file, and all that is read from it"""
        def parse(data: bytes) -> None:
            bsettings.setup(self.put('config', data))
            for section in ('toolchain', 'toolchain-prefix', 'make-flags', 'machines'):
                bsettings.get_items(section)
            for target in ('snapper', 'anvil'):
                environment.make_flags(target, bsettings.settings)
            machine.MachinePool()

        self.spoil(CONFIG, parse, BuildmanError)

    def test_settings(self) -> None:
        """What a boss tells a worker of how to build"""
        sample = json.dumps(Settings(adjust_cfg=('LTO',), jobs=3).to_dict())
        self.spoil(sample, lambda data: Settings.from_dict(fields.parse(data)),
                   fields.Bad, TypeError)

    def test_toolchain_list(self) -> None:
        """The page that lists compilers, of whatever server"""
        def parse(data: bytes) -> None:
            links = download.Links()
            links.feed(text(data))
            links.close()

        self.spoil(PAGE, parse)
        self.spoil('arm-linux-gcc (Debian 12.2.0-14) 12.2.0',
                   lambda data: survey.version_in(text(data)))

    def test_build_folder(self) -> None:
        """The note that a folder of objects is sound: damaged, the folder is emptied"""
        tool = Toolchain('arm', '/usr/bin/gcc', '/usr/bin', '')
        path = os.path.join(self.dir, 'build')
        made = buildfolder.BuildFolder(path, True)
        made.enter(tool)
        made.note_diagnosed('a.c:1: warning: x')
        made.leave()
        with open(os.path.join(path, buildfolder.STATE_FILE), encoding='utf-8') as inf:
            sample = inf.read()

        def parse(data: bytes) -> None:
            os.makedirs(path, exist_ok=True)
            with open(os.path.join(path, buildfolder.STATE_FILE), 'wb') as outf:
                outf.write(data)
            buildfolder.BuildFolder(path, True).enter(tool)

        self.spoil(sample, parse)
