# SPDX-License-Identifier: GPL-2.0+
"""Downloading compilers, from mirrors made here: a folder and a loopback server."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest
import urllib.parse
from typing import Dict, Iterator, List, Optional

import support

from buildman import bsettings
from buildman.core.errors import BuildmanError, SetupError, ToolchainError, UsageError
from buildman.toolchains import download, find

SCRIPT = b'#!/bin/sh\necho gcc\n'


def add(tar: tarfile.TarFile, name: str, data: bytes = b'', **fields: object) -> None:
    """Add a member to an archive, of whatever kind `fields` says."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


class Mirror:
    """A tree of compilers in a folder, and a server for it.

    Attributes:
        requests: paths that were asked for
        cut: bytes after which an archive is cut off, None for never
        stall: set when a request for an archive has been answered in part, if
            `is_stalling`
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.requests: List[str] = []
        self.cut: Optional[int] = None
        self.is_stalling = False
        self.stalled = threading.Event()

    @property
    def file_url(self) -> str:
        """The address of the folder."""
        return 'file://' + urllib.parse.quote(self.folder)

    def add(self, version: str, target: str, script: bytes = SCRIPT, host: str = 'x86_64',
            sep: str = '-') -> str:
        """Add a compiler; returns the path of its archive."""
        folder = os.path.join(self.folder, host, version)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f'{host}-gcc-{version}-nolibc{sep}{target}.tar.xz')
        top = f'gcc-{version}-nolibc/{target}'
        with tarfile.open(path, 'w:xz') as tar:
            for name in (os.path.dirname(top), top, f'{top}/bin'):
                add(tar, name, type=tarfile.DIRTYPE)
            add(tar, f'{top}/bin/{target}-gcc', script)
            add(tar, f'{top}/bin/{target}-nm', type=tarfile.SYMTYPE, linkname=f'{target}-gcc')
            add(tar, f'{top}/bin/{target}-gcc-{version}', type=tarfile.LNKTYPE,
                linkname=f'{top}/bin/{target}-gcc')
        return path

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Serve the tree as kernel.org does; yields its address."""
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """Lists folders and sends files."""

            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                path = mirror.folder + urllib.parse.unquote(self.path)
                if os.path.isdir(path):
                    body = '<html><pre><a href="../">../</a>\n' + ''.join(
                        f'<A HREF="{name}{"/" * os.path.isdir(os.path.join(path, name))}">'
                        f'{name}</A> 1-Jan-2024\n' for name in os.listdir(path)) + (
                            '<a href="?C=M;O=A">x</a><a href="http://else.where/9.9.9/">x</a>')
                    self.answer(body.encode())
                elif os.path.isfile(path):
                    with open(path, 'rb') as inf:
                        self.answer(inf.read())
                else:
                    self.send_error(404)

            def answer(self, data: bytes) -> None:
                """Send data, all or in part."""
                is_part = self.path.endswith('.xz') and mirror.cut is not None
                self.send_response(200)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data[:mirror.cut] if is_part else data)
                self.wfile.flush()
                if is_part and mirror.is_stalling:
                    mirror.stalled.set()
                    with contextlib.suppress(OSError):
                        self.connection.recv(1)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        try:
            yield f'http://127.0.0.1:{server.server_address[1]}/'
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class FetchCase(unittest.TestCase):
    """Each test has a home and a mirror of its own."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.tmp = os.path.realpath(tmp.name)
        self.home = os.path.join(self.tmp, 'home')
        os.mkdir(self.home)
        for name, value in (('HOME', self.home), ('no_proxy', '127.0.0.1')):
            old = os.environ.get(name)
            self.addCleanup(os.environ.__setitem__ if old is not None else
                            lambda key, _: os.environ.pop(key), name, old or '')
            os.environ[name] = value
        self.folder = os.path.join(self.home, '.buildman-toolchains')
        self.mirror = Mirror(os.path.join(self.tmp, 'a mirror'))
        os.mkdir(self.mirror.folder)
        self.addCleanup(bsettings.setup, None)
        self.conf = os.path.join(self.home, '.buildman')

    def configure(self, url: str, text: str = '') -> None:
        """Write and read ~/.buildman."""
        with open(self.conf, 'w', encoding='utf-8') as outf:
            outf.write(f'{text}[toolchain-fetch]\n# ours\nurl = {url}\n')
        bsettings.setup('')

    def fetch(self, *names: str, machine: str = 'x86_64') -> str:
        """Run --fetch-arch; returns what it printed."""
        out = io.StringIO()
        self.assertEqual(0, download.fetch(names, bsettings.settings, out, machine))
        return out.getvalue()

    def installed(self) -> List[str]:
        """Return the compilers that the downloads left, and whatever is hidden there."""
        if not os.path.isdir(self.folder):
            return []
        found = [name for name in os.listdir(self.folder) if name.startswith('.')]
        for top, _, names in os.walk(self.folder):
            found += [os.path.relpath(os.path.join(top, name), self.folder) for name in names
                      if name.endswith('-gcc')]
        return sorted(found)


class FetchTest(FetchCase):
    """What is downloaded and where it goes."""

    def test_list(self) -> None:
        """All archs of all versions are listed, from a folder or a server."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        self.mirror.add('13.2.0', 'aarch64-linux')
        self.mirror.add('9.1.0', 'nds32le-linux')
        os.makedirs(os.path.join(self.mirror.folder, 'x86_64', 'notes'))
        with self.mirror.serve() as url:
            for base in (self.mirror.file_url, url):
                self.configure(base)
                self.assertIn('\nAvailable architectures: aarch64 arm nds32le\n',
                              self.fetch('list'))

    def test_fetch(self) -> None:
        """After the download, boards of that arch build."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        with self.mirror.serve() as url:
            self.configure(url, '# mine\n[toolchain]\n# here\nroot = /none\n')
            text = self.fetch('arm')
        self.assertIn("\nDownloading toolchain for arch 'arm'\n", text)
        self.assertEqual(['gcc-13.2.0-nolibc/arm-linux-gnueabi/bin/arm-linux-gnueabi-gcc'],
                         self.installed())
        bsettings.setup('')
        self.assertEqual(os.path.join(self.folder, self.installed()[0]),
                         find.Toolchains().select('arm').gcc)
        with open(self.conf, encoding='utf-8') as inf:
            self.assertTrue(inf.read().startswith(
                f'# mine\n[toolchain]\n# here\nroot = /none\ndownload = {self.folder}/*/*\n'))

    def test_newest_version(self) -> None:
        """13 is newer than 9, and an arch that was given up is taken where it still is."""
        for version in ('9.1.0', '13.2.0', '13.10.0'):
            self.mirror.add(version, 'arm-linux-gnueabi')
        self.mirror.add('4.9.0', 'avr32-linux', sep='_')
        self.configure(self.mirror.file_url)
        self.fetch('arm', 'avr32')
        self.assertEqual(['gcc-13.10.0-nolibc/arm-linux-gnueabi/bin/arm-linux-gnueabi-gcc',
                          'gcc-4.9.0-nolibc/avr32-linux/bin/avr32-linux-gcc'], self.installed())

    def test_other_names(self) -> None:
        """One asks for U-Boot's arch, the compiler has another name."""
        for target in ('sh4-linux', 'i386-linux', 'riscv64-linux', 'm68k-linux'):
            self.mirror.add('13.2.0', target)
        self.configure(self.mirror.file_url, '[toolchain-alias]\ncoldfire = m68k\n')
        self.fetch('sh', 'x86', 'riscv', 'coldfire', 'sh4')
        self.assertEqual(['i386', 'm68k', 'riscv64', 'sh4'],
                         sorted(name.split('/')[1].split('-')[0] for name in self.installed()))

    def test_all(self) -> None:
        """'all' gets the newest of each arch."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        self.mirror.add('13.2.0', 'arc-linux')
        self.mirror.add('9.1.0', 'arm-linux-gnueabi')
        self.configure(self.mirror.file_url)
        self.fetch('all')
        self.assertEqual(2, len(self.installed()))

    def test_second_time(self) -> None:
        """What is there and works is not downloaded again."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        with self.mirror.serve() as url:
            self.configure(url)
            self.fetch('arm')
            self.mirror.requests.clear()
            self.assertIn('Already there', self.fetch('arm'))
        self.assertFalse([path for path in self.mirror.requests if path.endswith('.xz')])

    def test_broken_one_is_replaced(self) -> None:
        """One that was damaged is mended by asking for it again."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        self.configure(self.mirror.file_url)
        self.fetch('arm')
        gcc = os.path.join(self.folder, self.installed()[0])
        os.unlink(gcc)
        self.fetch('arm')
        self.assertTrue(find.test_compiler(gcc).works)

    def test_kind_of_machine(self) -> None:
        """kernel.org calls aarch64 machines arm64."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi', host='arm64')
        self.configure(self.mirror.file_url)
        self.fetch('arm', machine='aarch64')
        self.assertEqual(1, len(self.installed()))
        with self.assertRaisesRegex(SetupError, '/riscv64/: No such file'):
            self.fetch('arm', machine='riscv64')

    def test_without_configuration(self) -> None:
        """The first --fetch-arch must not lose the compilers that were found before."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        own = os.path.join(self.home, 'bin')
        os.mkdir(own)
        with open(os.path.join(own, 'xtensa-elf-gcc'), 'wb') as outf:
            outf.write(SCRIPT)
        os.chmod(outf.name, 0o755)
        self.addCleanup(os.environ.__setitem__, 'PATH', os.environ['PATH'])
        os.environ['PATH'] = f'{own}:/usr/bin:/bin'
        bsettings.setup('')
        bsettings.settings.read_string(f'[toolchain-fetch]\nurl = {self.mirror.file_url}\n')
        self.fetch('arm')
        bsettings.setup('')
        archs = find.Toolchains().available()
        self.assertEqual(f'{own}/./xtensa-elf-gcc', archs['xtensa'])
        self.assertIn('arm', archs)

    def test_says_when_another_is_preferred(self) -> None:
        """Otherwise one wonders why the new compiler is not used."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        old = os.path.join(self.home, 'arm-linux-gcc')
        with open(old, 'wb') as outf:
            outf.write(SCRIPT)
        os.chmod(old, 0o755)
        self.configure(self.mirror.file_url, '[toolchain-prefix]\narm = ~/arm-linux-\n')
        self.assertIn(f"Note: '{self.home}/arm-linux-gcc' is preferred for arm; to use the new "
                      f"one, add 'arm = {self.folder}/gcc-13.2.0-nolibc/arm-linux-gnueabi/bin/"
                      "arm-linux-gnueabi-' to [toolchain-prefix]", self.fetch('arm'))

    def test_goes_first(self) -> None:
        """What was asked for is used, although other folders hold compilers, too."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        with open(os.path.join(self.home, 'arm-linux-gcc'), 'wb') as outf:
            outf.write(SCRIPT)
        os.chmod(outf.name, 0o755)
        # Found before it was known as what --fetch-arch has brought
        self.configure(self.mirror.file_url, f'[toolchain]\nold = ~\nmine = {self.folder}/*/*\n')
        self.assertNotIn('Note', self.fetch('arm'))
        self.assertEqual(f'{self.folder}/*/*', bsettings.get_value('toolchain', 'download'))
        self.assertIn('gcc-13.2.0-nolibc', find.Toolchains().available()['arm'])

    def test_sums(self) -> None:
        """A download that matches its sum is taken, another is not."""
        path = self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        with open(path, 'rb') as inf:
            good = hashlib.sha256(inf.read()).hexdigest()
        for digest in ('0' * 64, good):
            with open(os.path.join(os.path.dirname(path), 'sha256sums.asc'), 'w',
                      encoding='ascii') as outf:
                outf.write(f'-----BEGIN-----\n{"1" * 64}  other\n{digest}  '
                           f'{os.path.basename(path)}\n')
            self.configure(self.mirror.file_url)
            if digest == good:
                self.fetch('arm')
                self.assertEqual(1, len(self.installed()))
            else:
                with self.assertRaisesRegex(SetupError, 'does not match its sum'):
                    self.fetch('arm')
                self.assertEqual([], self.installed())


class ErrorTest(FetchCase):
    """Whatever goes wrong: one clear line, and nothing left behind."""

    def refused(self, kind: type, regex: str, *names: str) -> None:
        """Make sure that a download fails in this way, and cleanly."""
        with self.assertRaisesRegex(kind, regex) as caught:
            self.fetch(*names)
        self.assertIsInstance(caught.exception, BuildmanError)
        self.assertNotIn('\n', str(caught.exception))
        self.assertEqual([], self.installed())

    def test_names(self) -> None:
        """A misspelt arch is told before anything is downloaded."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        self.mirror.add('9.1.0', 'sh4-linux')
        self.configure(self.mirror.file_url)
        self.refused(ToolchainError, "^no toolchain for arch 'amr' at .*: there are arm sh4$",
                     'arm', 'amr')
        self.refused(UsageError, 'own gcc', 'sandbox')
        self.refused(UsageError, 'name an arch', ' ')
        self.refused(ToolchainError, "'../x'", '../x')

    def test_no_such_place(self) -> None:
        """The address is named, so one sees that it is wrong."""
        with socket.socket() as sock:
            sock.bind(('127.0.0.1', 0))
            url = f'http://127.0.0.1:{sock.getsockname()[1]}/'
            self.configure(url)
            self.refused(SetupError, f'cannot download {url}x86_64/: .*refused', 'arm')
        for url, regex in (('htp://x/', 'unknown url type'), ('nothing', 'unknown url type'),
                           ('file:///none', 'No such file'), ('http:///x', 'no host')):
            self.configure(url)
            self.refused(SetupError, regex, 'list')
        with self.mirror.serve() as url:
            self.configure(url + 'none')
            self.refused(SetupError, '404', 'arm')
            self.configure(url)
            os.mkdir(os.path.join(self.mirror.folder, 'x86_64'))
            self.refused(SetupError, 'no compilers found', 'arm')

    def test_cut_connection(self) -> None:
        """Half an archive is not unpacked."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        self.mirror.cut = 100
        with self.mirror.serve() as url:
            self.configure(url)
            self.refused(SetupError, 'cut', 'arm')

    def test_damaged_archives(self) -> None:
        """Neither is one that is broken at any place."""
        path = self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        with open(path, 'rb') as inf:
            good = inf.read()
        self.configure(self.mirror.file_url)
        rand = random.Random(5)
        for turn in range(40):
            bad = bytearray(good)
            if turn % 2:
                bad[rand.randrange(len(bad))] ^= 1 << rand.randrange(8)
            else:
                del bad[rand.randrange(len(bad)):]
            with open(path, 'wb') as outf:
                outf.write(bad)
            with contextlib.suppress(BuildmanError):
                self.fetch('arm')
                self.fail('taken all the same')
            self.assertEqual([], self.installed())

    def test_does_not_run(self) -> None:
        """One for another kind of machine is not installed."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi', b'#!/bin/sh\necho bad >&2; exit 1\n')
        self.configure(self.mirror.file_url)
        self.refused(ToolchainError, 'does not run here: bad', 'arm')

    def test_cannot_write(self) -> None:
        """The disk's error names the folder."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        self.configure(self.mirror.file_url)
        with open(self.folder, 'wb'):
            pass
        self.refused(SetupError, "cannot install into '.*toolchains'", 'arm')

    def start(self) -> 'subprocess.Popen[bytes]':
        """Start a download that stops in the middle; returns its process."""
        self.mirror.add('13.2.0', 'arm-linux-gnueabi')
        self.mirror.cut, self.mirror.is_stalling = 100, True
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.configure(stack.enter_context(self.mirror.serve()))
        proc = subprocess.Popen(
            [sys.executable, '-c', 'import platform, sys; from buildman import main; '
             'platform.machine = lambda: "x86_64"; '
             'sys.exit(main.main(["--fetch-arch", "arm"]))'],
            env={**os.environ, 'PYTHONPATH': support.TOOLS}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        self.addCleanup(proc.kill)
        self.assertTrue(self.mirror.stalled.wait(60))
        self.assertTrue(self.installed()[0].startswith('.fetch-'))
        return proc

    def test_interrupted(self) -> None:
        """Ctrl-C leaves nothing."""
        proc = self.start()
        proc.send_signal(signal.SIGINT)
        self.assertEqual(130, proc.wait(50), 'ended by the time limit of the download at most')
        self.assertEqual([], self.installed())

    def test_killed(self) -> None:
        """What a kill leaves is not taken for a compiler, and goes with the next download."""
        proc = self.start()
        proc.kill()
        proc.wait(60)
        self.mirror.cut = None
        self.fetch('arm')
        self.assertEqual(['gcc-13.2.0-nolibc/arm-linux-gnueabi/bin/arm-linux-gnueabi-gcc'],
                         self.installed())


class UnpackTest(unittest.TestCase):
    """An archive cannot write outside of its folder."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.tmp = os.path.realpath(tmp.name)
        self.folder = os.path.join(self.tmp, 'in', 'side')
        os.makedirs(self.folder)
        self.archive = os.path.join(self.tmp, 'in', 'a.tar')
        with open(os.path.join(self.tmp, 'secret'), 'w', encoding='ascii') as outf:
            outf.write('secret')

    def unpack(self, *members: Dict[str, object]) -> None:
        """Make an archive and unpack it."""
        with tarfile.open(self.archive, 'w') as tar:
            for fields in members:
                fields = dict(fields)
                add(tar, str(fields.pop('name')), fields.pop('data', b''),  # type: ignore[arg-type]
                    **fields)
        download.unpack(self.archive, self.folder)

    def test_refused(self) -> None:
        """Names and links that lead out, on their own or together."""
        link, sym = {'type': tarfile.LNKTYPE}, {'type': tarfile.SYMTYPE}
        for members in (
                [{'name': '/tmp/x'}], [{'name': '../x'}], [{'name': 'a/../../x'}],
                [{'name': 'l', 'linkname': '/etc', **sym}],
                [{'name': 'l', 'linkname': '../..', **sym}],
                [{'name': 'l', 'linkname': '../../secret', **link}],
                [{'name': 'l', 'linkname': '/etc/passwd', **link}],
                # each link on its own seems to lead inside
                [{'name': 'd/e/s', 'linkname': '.', **sym},
                 {'name': 't', 'linkname': 'd/e/s/../../..', **sym}, {'name': 't/x'}],
                [{'name': 'd/e', 'type': tarfile.DIRTYPE}, {'name': 's', 'linkname': 'd/e', **sym},
                 {'name': 't', 'linkname': 's/../../..', **sym}],
                [{'name': 'f', 'type': tarfile.FIFOTYPE}],
                [{'name': 'c', 'type': tarfile.CHRTYPE, 'devmajor': 1, 'devminor': 3}],
                [{'name': 'b', 'type': tarfile.BLKTYPE}]):
            with self.assertRaisesRegex(SetupError, '^refused to unpack'):
                self.unpack(*members)
            self.assertEqual(['in', 'secret'], sorted(os.listdir(self.tmp)))
            self.assertEqual(['a.tar', 'side'], sorted(os.listdir(os.path.join(self.tmp, 'in'))))

    def test_random_archives(self) -> None:
        """Whatever the members are, nothing outside changes."""
        rand = random.Random(6)
        names = ['a', 'b', 'a/b', 'a/c', 'b/c', 'a/b/c', '..', 'a/..', '../x', './a', 'b/../x', '']
        refused = 0
        for turn in range(400):
            self.folder = os.path.join(self.tmp, 'in', 'side', str(turn))
            os.mkdir(self.folder)
            members = [{'name': rand.choice(names), 'data': b'x', 'type': tarfile.REGTYPE}
                       if rand.random() < 0.4 else
                       {'name': rand.choice(names), 'linkname': rand.choice(names),
                        'type': rand.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])}
                       for _ in range(rand.randrange(1, 6))]
            try:
                self.unpack(*members)
            except (SetupError, OSError):
                refused += 1
            self.assertEqual(['in', 'secret'], sorted(os.listdir(self.tmp)))
            self.assertEqual(['a.tar', 'side'], sorted(os.listdir(os.path.join(self.tmp, 'in'))))
            self.assertLessEqual(set(os.listdir(os.path.join(self.tmp, 'in', 'side'))),
                                 {str(num) for num in range(turn + 1)}, members)
        self.assertTrue(0 < refused < 400)

    def test_modes(self) -> None:
        """No set-uid programs, no folder that cannot be removed again."""
        self.unpack({'name': 'd', 'type': tarfile.DIRTYPE, 'mode': 0o000},
                    {'name': 'd/gcc', 'data': b'x', 'mode': 0o6777},
                    {'name': 'd/text', 'data': b'y', 'mode': 0o000},
                    {'name': 'd/l', 'linkname': 'gcc', 'type': tarfile.SYMTYPE},
                    {'name': 'd/h', 'linkname': 'd/gcc', 'type': tarfile.LNKTYPE})
        modes = {name: os.lstat(os.path.join(self.folder, name)).st_mode & 0o7777
                 for name in ('d', 'd/gcc', 'd/text')}
        self.assertEqual(0o700, modes['d'] & 0o700)
        self.assertEqual(0o755, modes['d/gcc'])
        self.assertEqual(0o400, modes['d/text'] & 0o577)
        with open(os.path.join(self.folder, 'd', 'l'), 'rb') as inf:
            self.assertEqual(b'x', inf.read())
