# SPDX-License-Identifier: GPL-2.0+
"""Parts of a build: what is said, what is left in a folder, what is measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import unittest
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from support import needs

from buildman.build import artifacts, ccache
from buildman.build.folder import BuildFolder
from buildman.build.job import MakeJob, SlotDirs
from buildman.build.jobserver import JobServer
from buildman.build.output import (
    Tidier,
    by_path,
    failure_told,
    lacks_blobs_only,
    lone_object,
    machine_failure,
)
from buildman.core.outcome import FailureKind, Outcome
from buildman.core.plan import Board, BoardJob, Commit, Settings, Toolchain
from buildman.process.clock import Clock, newer_than_now
from buildman.process.registry import ProcessGroups
from buildman.source import git
from buildman.source.checkout import ChangedFiles, Origin, SlotSource

TOOL = Toolchain('arm', '/usr/bin/gcc', '/usr/bin', 'arm-')


class FolderCase(unittest.TestCase):
    """Has a temporary folder"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name

    def touch(self, *names: str) -> None:
        """Make files"""
        for name in names:
            path = os.path.join(self.dir, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='ascii') as outf:
                outf.write(name)

    def files(self) -> 'set[str]':
        """Return the files that are there"""
        return {os.path.relpath(os.path.join(top, name), self.dir)
                for top, _, names in os.walk(self.dir) for name in names}


class TestMessages(unittest.TestCase):
    """What a build says"""

    def test_folders(self) -> None:
        """The same error from two slots must be one error"""
        tidy = Tidier('/o/.bm-work/00', '/o/.bm-work/00/build', True)
        for said, text in (
                ('/o/.bm-work/00/a/b.c:1: error: x', 'a/b.c:1: error: x'),
                ('../a/b.c:1: error: x', 'a/b.c:1: error: x'),
                ('In file included from ../a.h:1,\n                 from ../b.c:2:',
                 'In file included from a.h:1,\n                 from b.c:2:'),
                ('cc -I../include -o /o/.bm-work/00/build/x', 'cc -I../include -o build/x'),
                ("make: Entering directory '/o/.bm-work/00'", "make: Entering directory '.'"),
                ('/o/.bm-work/001/a', '/o/.bm-work/001/a'),
                ('make[2]: *** [../scripts/x:3: a.o] Error 1',
                 'make[2]: *** [scripts/x:3: a.o] Error 1'),
                ('a/../b.c: x', 'a/../b.c: x')):
            self.assertEqual(tidy.said(said.encode()), text)
        for chatter in (
                'make: *** Waiting for unfinished jobs....', '*** Waiting for unfinished jobs....',
                '  make[1]: *** Waiting for unfinished jobs....',
                '\t*** Waiting for unfinished jobs.',
                '/usr/bin/gmake[12]: *** Waiting for unfinished jobs....',
                'make[1]: *** Waiting for unf', '[3]: *** Waiting for unfinished jobs....',
                'make[2]: *** wait: No child processes.  Stop.', 'make: wait: No child processes',
                'wait: No child processes'):
            self.assertEqual(tidy.complaints(f'b\n\n{chatter}\na\n'.encode()), 'b\n\na\n')
            if chatter[0] != '/':
                self.assertEqual(tidy.complaints(f'a.c:1: odd{chatter}'.encode()), 'a.c:1: odd')
        for text in ('make[2]: *** [a.o] Error 1\n', '*** Waiting for you, 3 times\n'):
            self.assertEqual(tidy.complaints(text.encode()), text)
        self.assertEqual(tidy.complaints(
            b'lto-wrapper: warning: using serial compilation of 48 LTRANS jobs\n'
            b"lto-wrapper: note: see the '-flto' option documentation for more information\n"
            b'lto-wrapper: warning: x\n'), 'lto-wrapper: warning: x\n')

    def test_lto_jobs(self) -> None:
        """What gcc says of make's jobs is no warning of the board's"""
        needs('gcc', 'make')
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, 'a.c'), 'w', encoding='ascii') as outf:
                for name in 'fgh':
                    outf.write(f'__attribute__((noipa)) int {name}(int x) {{ return x; }}\n')
                outf.write('int main(void) { return f(0) + g(0) + h(0); }\n')
            # A recipe that make does not take for a make, so there is no job server for it
            got = subprocess.run(
                ['make', '-f', '-'], cwd=folder, stderr=subprocess.PIPE, check=True,
                env={'PATH': os.environ['PATH'], 'LANG': 'C.UTF-8'}, stdout=subprocess.DEVNULL,
                input=b'all:\n\tgcc -O2 -flto=jobserver -flto-partition=max a.c\n').stderr
        self.assertIn(b'jobserver is not available', got)
        self.assertEqual(Tidier('/s', '/s/build', True).complaints(got + b'a.c: x\n'),
                         'a.c: x\n')

    def test_tool_by_path(self) -> None:
        """What --ccache adds to a linker's warning would make it another one at every commit"""
        tidy = Tidier('/o/.bm-work/00', '/o/.bm-work/00/build', True)
        warning = '/usr/bin/arm-linux-ld.bfd: warning: u-boot has an RWX segment\n'
        own = '/usr/lib/gcc/bin/ld: warning: x\n/usr/bin/ld: y\n'
        self.assertEqual(tidy.complaints(warning.encode()), warning)
        tidy.tools = by_path('arm-linux-')
        self.assertEqual(tidy.complaints((warning + own).encode()),
                         'arm-linux-ld.bfd: warning: u-boot has an RWX segment\n' + own)
        tidy.tools = by_path('')
        self.assertEqual(tidy.complaints(f'/usr/bin/ld.bfd: z\n{own}{warning}'.encode()),
                         f'ld.bfd: z\n{own}{warning}')

    def test_odd_text(self) -> None:
        """Text that is not UTF-8 is not lost"""
        tidy = Tidier('/o/.bm-work/00', '/o/.bm-work/00/build', True)
        self.assertEqual(tidy.said(b'caf\xc3\xa9 \xff'), 'café \ufffd')

    def test_infra(self) -> None:
        """A full disk must not be taken for a broken board, nor the reverse"""
        for code, text, told in (
                (0, 'No space left on device', ''),
                (2, 'a.c:1: error: x', ''),
                (2, 'cc1: fatal error: x: No space left on device', 'no space left'),
                (2, 'gcc: fatal error: Killed signal terminated program cc1', 'was killed'),
                (2, '/bin/sh: 1: bison: not found', 'a command was not found (bison)'),
                (2, 'make[1]: ln: Resource temporarily unavailable\n',
                 'no more processes can be started'),
                (2, '/bin/sh: 1: Cannot fork\n', 'no more processes can be started'),
                (2, "gcc: fatal error: cannot execute 'cc1': vfork: Resource temporarily "
                 'unavailable\ncompilation terminated.', 'no more processes can be started'),
                (2, 'BlockingIOError: [Errno 11] Resource temporarily unavailable',
                 'no more processes can be started'),
                (2, 'error: cannot fork() for rev-list: Resource temporarily unavailable',
                 'no more processes can be started'),
                (2, 'gcc: fatal error: Cannot create temporary file in /tmp/: x',
                 'no temporary file can be made'),
                (2, ' 9 |   puts("Resource temporarily unavailable");', ''),
                (2, '/bin/sh: 1: scripts/basic/fixdep: Permission denied\n',
                 'a program may not be run (scripts/basic/fixdep)'),
                (2, 'make[2]: scripts/kconfig/conf: Permission denied\nmake[2]: *** [x] Error 127',
                 'a program may not be run (scripts/kconfig/conf)'),
                (2, 'a.c:1: error: Permission denied', ''),
                (2, "ModuleNotFoundError: No module named 'elftools'", '(elftools)'),
                (2, 'include/image.h:1203:12: fatal error: openssl/evp.h: No such file or '
                 'directory', 'missing (openssl/evp.h)'),
                (2, 'scripts/dtc/pylibfdt/libfdt_wrap.c:154:11: fatal error: Python.h: No such '
                 'file or directory', 'missing (Python.h)'),
                (2, '/usr/bin/ld: cannot find -lssl: No such file', 'missing (ssl)'),
                (2, 'a.c:1:10: fatal error: asm/gpio.h: No such file or directory', ''),
                (2, 'a.c:1:10: fatal error: linux/python.h: No such file or directory', ''),
                (137, '', 'signal 9'), (127, '', 'make cannot be run')):
            failure = machine_failure(code, text)
            got = str(failure or '')
            self.assertTrue(told in got and bool(told) == bool(got), (text, got))
            if failure:
                # As it comes from a machine that tells the kind, and from an older one
                self.assertEqual(failure, failure_told(got, failure.kind.value))
                if code == 2:
                    self.assertEqual(failure, failure_told(got, ''))

    def test_passing(self) -> None:
        """What a machine lacks is told after the second try; a full disk is never a result"""
        for text, passes in (
                ('sh: 1: bison: not found', False),
                ("ModuleNotFoundError: No module named 'x'", False),
                ('x.c:1:2: fatal error: Python.h: No such file', False),
                ('ld: cannot find -lssl', False),
                ('make: tools/x: Permission denied', False), ('Disk quota exceeded', True),
                ('virtual memory exhausted', True), ('Killed', True),
                ('Input/output error', True)):
            failure = machine_failure(2, text)
            assert failure, text
            self.assertEqual(passes, failure.passes, text)
        for text, kind in (('a module that nobody thought of', 'new-kind'), ('', 'new-kind'),
                           ('what an older machine says', '')):
            told = failure_told(text, kind)
            assert told, text
            self.assertEqual((FailureKind.OTHER, True, text or kind),
                             (told.kind, told.passes, told.text))
        self.assertIsNone(failure_told('', ''))

    def test_lone_object(self) -> None:
        """Only what make says of one object and nothing else tells which it is"""
        for text, found in (
                ('make[2]: *** [scripts/x:3: a/b.o] Error 1\nmake[1]: *** [Makefile:2: a] Error 2\n'
                 'make: *** [Makefile:1: all] Error 2\n', 'a/b.o'),
                ('make: *** [a.o] Error 1\n', 'a.o'), ('make: *** [M:1: a.elf] Error 1\n', ''),
                ('make: *** [M:1: a.o] Error 1\nmake: *** [M:2: b.o] Error 1\n', ''),
                ('make: *** [M:1: a.o] Error 1\nmake: *** [M:2: b] Error 1\n', ''),
                ("make: *** [M:1: a.o] Error 1\nmake: *** No rule for 'x'.  Stop.\n", ''),
                ('', '')):
            self.assertEqual(lone_object(text), found, text)

    def test_lacks_blobs(self) -> None:
        """A board that lacks a blob is none that fails; one that fails as well is"""
        said = "Image 'x' is missing external blobs and is non-functional: y\n\n"
        binman = 'make[1]: *** [Makefile:1135: .binman_stamp] Error 103\n'
        top = 'make: *** [Makefile:177: sub-make] Error 2\n'
        invalid = 'Some images are invalid\n'
        compiler = ('make[2]: *** [scripts/Makefile.build:257: common/a.o] Error 1\n'
                    'make[1]: *** [Makefile:1899: common] Error 2\n')
        for code, text, what in (
                (2, said + invalid + binman + top, True),
                (2, f'{said}\n{invalid}{binman}', True),
                (2, f'\x1b[1;31m{invalid[:-1]}\x1b[0m\n{binman}{top}', True),
                (2, invalid + 'make: *** [.binman_stamp] Error 103\n', True),
                (2, f'{invalid}{binman}make[1]: *** Waiting for unfinished jobs....\n{top}', True),
                (2, invalid, True),
                (2, said + binman + top, False),
                (0, invalid + binman + top, False), (1, invalid + binman + top, False),
                (137, invalid, False),
                (2, compiler + invalid + binman + top, False),
                (2, invalid + binman + compiler + top, False),
                (2, invalid + 'make[1]: *** [Makefile:9: u-boot.rom] Error 1\n' + top, False),
                (2, f"{invalid}{binman}make[1]: *** No rule to make target 'x'.  Stop.\n", False),
                (2, invalid + 'make[1]: *** [Makefile:9: u-boot.rom] Killed\n' + top, False),
                (2, invalid + binman + 'Makefile:3: *** missing separator.  Stop.\n', False)):
            self.assertEqual(lacks_blobs_only(code, text), what, (code, text))


class TestBuildFolder(FolderCase):
    """What is true of a build folder between two builds"""

    def test_sound(self) -> None:
        """Objects of a build that was cut short are not built upon"""
        folder = BuildFolder(os.path.join(self.dir, 'b'), True)
        folder.enter(TOOL)
        self.touch('b/include/x', 'b/a.o')
        folder.leave()
        folder.enter(TOOL)
        self.assertIn('b/a.o', self.files())
        self.assertTrue(folder.used)
        # The run ends here, without leave()
        folder = BuildFolder(os.path.join(self.dir, 'b'), True)
        folder.enter(TOOL)
        self.assertEqual(self.files(), set())

    def test_other_compiler(self) -> None:
        """Nor are those of another compiler for the same architecture"""
        folder = BuildFolder(os.path.join(self.dir, 'b'), True)
        folder.enter(TOOL)
        self.touch('b/a.o')
        folder.leave()
        folder.enter(Toolchain('arm', '/bin/sh', '/bin', 'other-'))
        self.assertEqual(self.files(), set())

    def test_images(self) -> None:
        """A board without SPL must not show the SPL of the one before it"""
        self.touch('u-boot', 'u-boot.bin', '.u-boot.cmd', 'u-boot.cfg', '.config', 'Makefile',
                   'spl/u-boot-spl', 'spl/u-boot.cfg', 'spl/include/autoconf.mk', 'common/a.o',
                   'env/built-in.a', 'include/config/auto.conf', 'include/autoconf.mk',
                   'include/generated/autoconf.h')
        folder = BuildFolder(self.dir, True)
        folder.remove_images(False)
        kept = {'.config', 'Makefile', 'common/a.o', 'include/config/auto.conf'}
        self.assertEqual(self.files(), kept | {
            'u-boot.cfg', 'spl/u-boot.cfg', 'spl/include/autoconf.mk', 'include/autoconf.mk',
            'include/generated/autoconf.h'})
        folder.remove_images(True)
        self.assertEqual(self.files(), kept)
        # Older than .config, so that what is made of it is made again
        self.assertEqual(os.stat(os.path.join(self.dir, 'include/config/auto.conf')).st_mtime, 0)

    def test_diagnosed(self) -> None:
        """A file that a compiler warned of is compiled again, or the warning is lost"""
        self.touch('drivers/a.o', 'spl/drivers/a.o', 'drivers/b.o', 'arch/x.dtb', 'tools/gen')
        folder = BuildFolder(self.dir, True)
        count = folder.note_diagnosed('drivers/a.c:3:5: warning: unused\n'
                                      'arch/x.dtb: Warning (reg): no reg\n'
                                      'tools/gen.c:1:1: warning: y\n/etc/passwd.c: x\n'
                                      '../../../etc/x.c:1: x\n')
        self.assertGreaterEqual(count, 3)
        folder.remove_diagnosed()
        self.assertEqual(self.files(), {'drivers/b.o'})

    def test_linked_again(self) -> None:
        """A program that the linker warned of is linked again, although make does not keep it"""
        made = {'lib/x/hello.efi', 'lib/x/hello_efi.S', 'lib/x/hello_efi.o'}
        kept = {'lib/x/hello.o', 'lib/x/other.efi', 'lib/x/other_efi.o', 'lib/y.o'}
        self.touch(*made, *kept)
        folder = BuildFolder(self.dir, True)
        self.assertEqual(folder.note_diagnosed(
            'arm-linux-ld.bfd: warning: lib/x/hello_efi.so has a LOAD segment with RWX '
            'permissions\narm-linux-ld.bfd: warning: lib/y.o: missing .note.GNU-stack section '
            'implies executable stack\n'), 1)
        folder.remove_diagnosed()
        self.assertEqual(self.files(), kept)

    def test_not_ours(self) -> None:
        """The user's own folder is never emptied"""
        self.touch('u-boot', 'a.c')
        folder = BuildFolder(self.dir, False)
        folder.enter(TOOL)
        folder.remove_images(True)
        self.assertEqual(self.files(), {'u-boot', 'a.c'})


class TestCollect(FolderCase):
    """What is measured"""

    def test_sizes(self) -> None:
        """Sizes worked out from the sections are what `size` says"""
        needs('gcc', 'size', 'objdump', 'nm')
        source = ('const char text[] = "read-only"; int data[7] = {1}; char bss[100];\n'
                  'int main(void) { return data[0] + bss[1] + text[2]; }\n')
        subprocess.run(['gcc', '-x', 'c', '-', '-o', 'u-boot'], input=source.encode(),
                       cwd=self.dir, check=True)
        images = ['u-boot']
        for number, name in enumerate(('ls', 'sh', 'git')):
            path = shutil.which(name)
            if path and number < len(artifacts.PHASES):
                phase = artifacts.PHASES[number]
                os.makedirs(os.path.join(self.dir, phase))
                shutil.copy(path, os.path.join(self.dir, phase, f'u-boot-{phase}'))
                images.append(f'{phase}/u-boot-{phase}')
        want = subprocess.run(['size', *images], cwd=self.dir, check=True, capture_output=True,
                              text=True).stdout.splitlines()[1:]
        sizes, files = artifacts.ElfReader().read(self.dir, '', dict(os.environ))
        got = sizes.splitlines()
        self.assertEqual([line.rpartition(' ')[0] for line in got], want)
        self.assertRegex(got[0], r' [0-9a-f]{8,16}\Z')
        dump = subprocess.run(['objdump', '-h', 'u-boot'], cwd=self.dir, check=True,
                              capture_output=True).stdout
        self.assertEqual(files['u-boot.objdump'], dump + b' ')

    def test_other_binutils(self) -> None:
        """Files are the same whichever binutils a machine has: no growth that is none"""
        needs('gcc', 'objdump', 'nm', 'objcopy')
        source = ('.globl _start, sized, _end\n_start: nop\nlabel: nop\n'
                  '.type sized, %function\nsized: nop\n nop\n.size sized, .-sized\n'
                  '.data\n.type item, %object\n.size item, 64\nitem: .space 64\n'
                  '.bss\nhole: .space 64\n_end:\n')
        subprocess.run(['gcc', '-g', '-x', 'assembler', '-', '-nostdlib', '-static', '-o', 'u-boot',
                        '-Wl,-z,noexecstack'], input=source.encode(), cwd=self.dir, check=True)
        subprocess.run(['objcopy', '--compress-debug-sections', 'u-boot'], cwd=self.dir, check=True)
        files = artifacts.ElfReader().read(self.dir, '', dict(os.environ))[1]
        # As nm --size-sort of 2.40 has it, which lists what has a size
        self.assertEqual(files['u-boot.sizes'],
                         b'0000000000000002 T sized\n0000000000000040 d item\n ')
        self.assertNotIn(b'COMPRESSED', files['u-boot.objdump'])

    def test_sizes_of_many(self) -> None:
        """What has a size is listed as nm does it, all of it and in that order"""
        needs('gcc', 'objdump', 'nm', 'readelf')
        source = ''.join(f'int f{num}(int x) {{ return x * {num}; }}\n' for num in range(40))
        source += ('static int a; int b[9] = {1}; const int c = 3; int *d = &a;\n'
                   '__attribute__((weak)) int e = 2;\n'
                   'int main(void) { static int a; return a + e; }\n')
        # Two of one name and size, of which the later one has the lower address
        source += 'static int same; int *first = &same;\n'
        with open(os.path.join(self.dir, 'second.c'), 'w', encoding='ascii') as outf:
            outf.write('static int same = 1; int *second = &same;\n')
        # Real boards have one without a name (orangepi_pc)
        source += 'static int nameless = 1; int *third = &nameless;\n'
        subprocess.run(['gcc', '-O0', '-x', 'c', '-', 'second.c', '-o', 'u-boot'], cwd=self.dir,
                       input=source.encode(), check=True)
        path = os.path.join(self.dir, 'u-boot')
        with open(path, 'rb') as inf:
            data = inf.read()
        self.assertEqual(data.count(b'\0nameless\0'), 1)
        with open(path, 'wb') as outf:
            outf.write(data.replace(b'\0nameless\0', bytes(len('nameless') + 2)))
        said = subprocess.run(['nm', '--size-sort', 'u-boot'], cwd=self.dir, check=True,
                              capture_output=True, text=True).stdout
        table = subprocess.run(['readelf', '-sW', 'u-boot'], cwd=self.dir, check=True,
                               capture_output=True, text=True).stdout
        sized = {fields[7].partition('@')[0] for fields in map(str.split, table.splitlines())
                 if len(fields) == 8 and fields[2] not in ('0', 'Size')} | {''}
        want = [line for line in said.splitlines()
                if line.split(' ')[2].partition('@')[0] in sized]
        self.assertIn('0000000000000004 d ', want)
        files = artifacts.ElfReader().read(self.dir, '', dict(os.environ))[1]
        self.assertGreater(len(want), 46)
        self.assertEqual(files['u-boot.sizes'].decode().splitlines(), [*want, ' '])

    def test_no_elf(self) -> None:
        """An image that binutils cannot read leaves no files, and no error"""
        self.touch('u-boot')
        reader = artifacts.ElfReader()
        self.assertEqual(reader.read(self.dir, '', dict(os.environ)), ('', {}))
        self.assertEqual(reader.read(self.dir, '/nonexistent/x-', {}), ('', {}))

    def test_same_image(self) -> None:
        """An image that did not change is not looked at again; one that did is"""
        needs('gcc', 'objdump', 'nm')
        log = os.path.join(self.dir, 'log')
        for name in ('objdump', 'nm'):
            path = os.path.join(self.dir, f'x-{name}')
            with open(path, 'w', encoding='ascii') as outf:
                outf.write(f'#!/bin/sh\necho {name} >> {log}\nexec {name} "$@"\n')
            os.chmod(path, 0o755)
        reader, plain = artifacts.ElfReader(), dict(os.environ)
        cross = os.path.join(self.dir, 'x-')
        for number, calls in ((1, 2), (1, 2), (2, 4), (1, 6), (1, 6)):
            subprocess.run(['gcc', '-x', 'c', '-', '-o', 'u-boot'], cwd=self.dir, check=True,
                           input=f'int data[{number}] = {{1}}; int main(void) {{}}\n'.encode())
            self.assertEqual(reader.read(self.dir, cross, plain),
                             artifacts.ElfReader().read(self.dir, '', plain))
            with open(log, encoding='ascii') as inf:
                self.assertEqual(calls, len(inf.readlines()))
        # Whoever is asked counts, too
        reader.read(self.dir, '', plain)
        self.assertEqual(reader.read(self.dir, '/nonexistent/x-', plain), ('', {}))

    def test_environment(self) -> None:
        """The default environment is found; for root, objcopy must not remove a device"""
        script = os.path.join(self.dir, 'x-objcopy')
        self.touch('env/common.o', 'env/built-in.a')
        with open(script, 'w', encoding='ascii') as outf:
            # Like the real one when it fails: what it was to write goes away
            outf.write('#!/bin/sh\nfor out; do :; done\ncase "$*" in\n'
                       f'*built-in*) printf a=b > "$out" ;;\n*) echo "$out" >> {self.dir}/gone\n'
                       'esac\n')
        os.chmod(script, 0o755)
        self.assertEqual(artifacts.default_env(self.dir, os.path.join(self.dir, 'x-'),
                                             dict(os.environ)), b'a=b')
        with open(os.path.join(self.dir, 'gone'), encoding='ascii') as inf:
            self.assertNotIn('/dev/', inf.read())
        self.assertEqual(self.files(), {'env/common.o', 'env/built-in.a', 'x-objcopy', 'gone'})

    def test_real_environment(self) -> None:
        """The text is what the object has, byte for byte"""
        needs('gcc', 'objcopy')
        source = ('const char env[] __attribute__((section(".rodata.default_environment"))) = '
                  '"baud=9600\\0x=1\\0";\n')
        os.mkdir(os.path.join(self.dir, 'env'))
        subprocess.run(['gcc', '-x', 'c', '-', '-c', '-o', 'env/common.o'], input=source.encode(),
                       cwd=self.dir, check=True)
        self.assertEqual(artifacts.default_env(self.dir, '', dict(os.environ)),
                         b'baud=9600\0x=1\0\0')


class TestSlotSource(FolderCase):
    """The working tree of a slot"""

    def setUp(self) -> None:
        super().setUp()
        needs('git')
        self.repo = os.path.join(self.dir, 'repo')
        os.mkdir(self.repo)
        git.run(self.repo, 'init', '-q')
        self.commits = []
        for text in ('one', 'two'):
            self.touch('repo/f', f'repo/{text}')
            with open(os.path.join(self.repo, 'f'), 'w', encoding='ascii') as outf:
                outf.write(text)
            git.run(self.repo, 'add', '-A')
            git.run(self.repo, '-c', 'user.name=A', '-c', 'user.email=a@b', 'commit', '-q', '-m',
                    text)
            self.commits.append(git.run(self.repo, 'rev-parse', 'HEAD').decode().strip())

    def state(self, slot: SlotSource) -> 'tuple[str, str, str]':
        """Return what a slot holds: content, commit, what git thinks of it"""
        with open(os.path.join(slot.path, 'f'), encoding='ascii') as inf:
            text = inf.read()
        return (text, git.run(slot.path, 'rev-parse', 'HEAD').decode().strip(),
                git.run(slot.path, 'status', '--porcelain', '-uno').decode())

    def test_switch(self) -> None:
        """Each commit is there whole, whatever a build did to tracked files"""
        slot = SlotSource(os.path.join(self.dir, 'slot'), Origin.read(self.repo))
        slot.prepare(self.commits[0])
        for number, text in ((1, 'two'), (0, 'one'), (1, 'two')):
            with open(os.path.join(slot.path, 'f'), 'w', encoding='ascii') as outf:
                outf.write('spoilt')
            slot.checkout(self.commits[number])
            self.assertEqual(self.state(slot), (text, self.commits[number], ''))
            self.assertEqual(os.path.exists(os.path.join(slot.path, 'two')), text == 'two')

    def test_leftovers(self) -> None:
        """A slot that a killed run left is taken over, lock files and all"""
        path = os.path.join(self.dir, 'slot')
        slot = SlotSource(path, Origin.read(self.repo))
        slot.prepare(self.commits[1])
        self.touch('slot/.git/index.lock', 'slot/junk', 'slot/build/a.o')
        os.unlink(os.path.join(path, 'f'))
        slot = SlotSource(path, Origin.read(self.repo))
        slot.prepare(self.commits[0])
        self.assertEqual(self.state(slot), ('one', self.commits[0], ''))
        self.assertFalse(os.path.exists(os.path.join(path, 'junk')))
        self.assertTrue(os.path.exists(os.path.join(path, 'build/a.o')))


class FakeClock(Clock):
    """Says what it is told"""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def went_back(self) -> bool:
        return self.answers.pop(0)


class JobCase(FolderCase):
    """Builds two commits of a small source, with board `b`, in one slot"""

    def job(self, files: Mapping[str, str], settings: Optional[Settings] = None,
            args: Sequence[str] = (), changed: str = 'f', tokens: int = 1,
            **more: Any) -> MakeJob:
        """Return what builds it.

        Args:
            files: name to text
            settings: how to build
            args: words for make
            changed: a file that has 'one' in the first commit and 'two' then
            tokens: how many jobs make may have
            more: for the job
        """
        needs('git', 'make')
        repo = os.path.join(self.dir, 'repo')
        os.mkdir(repo)
        git.run(repo, 'init', '-q')
        commits = []
        for text in ('one', 'two'):
            for name, content in {**files, changed: text, 'Makefile': (
                    files['Makefile'] + 'b_defconfig:\n\tmkdir -p $(O)/include\n')}.items():
                with open(os.path.join(repo, name), 'w', encoding='ascii') as outf:
                    outf.write(content)
            git.run(repo, 'add', '-A')
            git.run(repo, '-c', 'user.name=A', '-c', 'user.email=a@b', 'commit', '-q', '-m', text)
            commits.append(Commit(git.run(repo, 'rev-parse', 'HEAD').decode().strip()))
        slot = SlotSource(os.path.join(self.dir, '00'), Origin.read(repo))
        slot.prepare(commits[0].hash)
        groups = ProcessGroups()
        self.addCleanup(groups.close)
        settings = settings or Settings()
        job = MakeJob(SlotDirs(slot.path, self.dir, 0), slot, commits, settings, groups,
                      None if settings.jobs else JobServer(tokens), ChangedFiles(repo),
                      dict(os.environ, CCACHE_DIR=os.path.join(self.dir, 'cache')), **more)
        tool = Toolchain('sandbox', shutil.which('gcc') or '', '/usr/bin', '')
        job.start_board(BoardJob(Board('b', 'sandbox'), (0, 1), tool, tuple(args)))
        return job


class TestCcache(JobCase):
    """What a compiler's cache cannot know of"""

    def test_incbin(self) -> None:
        """A file that macros take into an image is that of the commit, not one of before"""
        needs('ccache', 'gcc', 'objcopy')
        makefile = ('all: $(O)/a.o\n\tobjcopy -O binary -j .rodata $(O)/a.o $(O)/a\n\tcat $(O)/a\n'
                    '$(O)/a.o: a.S f\n\t$(CROSS_COMPILE)gcc $(KCPPFLAGS) $(KAFLAGS) -c -o $@ a.S\n')
        for lines, args in (('.incbin "f"', ()), ('.incbin FILE', ()), ('INCBIN "f"', ()),
                            ('.macro m\n.inc\\()bin "f"\n.endm\nm', ()),
                            ('.macro m\n.inc\\()bin "f"\n.endm\nm', ('KAFLAGS=-DX',))):
            with self.subTest(lines=lines, args=args):
                job = self.job({'Makefile': makefile, 'a.S': (
                    f'#define FILE "f"\n#define INCBIN .incbin\n.section .rodata\n{lines}\n')},
                    Settings(ccache=True), args)
                built = [job.build(upto) for upto in (0, 1)]
                self.assertEqual([outcome.stdout for outcome in built], ['one', 'two'])
                self.assertNotIn(b'KAFLAGS', built[1].files['out-env'])
            shutil.rmtree(self.dir)
            os.mkdir(self.dir)

    def test_compilers(self) -> None:
        """What a user has set stays, and clang gets what it knows"""
        for before, compiler, after in (('', '', '-fdump-noaddr'),
                                        ('-DX', 'gcc-12', '-DX -fdump-noaddr'),
                                        ('', '/opt/clang-14', '-MJ /dev/null')):
            env = {ccache.AFLAGS: before} if before else {}
            words = ['-s', 'KAFLAGS=-DY']
            self.assertEqual(ccache.past_ccache(env, words, compiler), (ccache.AFLAGS, before))
            self.assertEqual(env, {ccache.AFLAGS: after})
            self.assertEqual(words, ['-s', f"KAFLAGS=-DY {after.replace('-DX ', '')}"])


class TestUsedFolder(JobCase):
    """A failure in a folder that another board has used"""

    def test_makes(self) -> None:
        """What was there is not to blame if one object fails alone, too; else it goes"""
        one_job = 'case "$(MAKEFLAGS)" in *jobserver*) ;; *) echo y >&2; false; esac'
        for x, y, makes, said in (
                ('echo x >&2; false', 'true', 'config all config x.o all', 'x'),
                # It is to blame
                ('test ! -e $(O)/include/left', 'true', 'config all config x.o config all', ''),
                # It is not the object alone
                ('echo x >&2; echo "make: *** [b] Error 1" >&2; false', 'true',
                 'config all config all all', 'x'),
                # With one job another one fails before
                ('echo x >&2; false', one_job, 'config all config x.o all config all all', 'y')):
            with self.subTest(x=x, y=y):
                job = self.job({'Makefile': (
                    'all: first y.o x.o\nfirst:\n\t@echo all >>../calls\n'
                    f'y.o:\n\t@{y}\nx.o:\n\t@[ $(MAKECMDGOALS)n = n ] || echo x.o >>../calls\n'
                    f'\t@{x}\nb_defconfig: log\nlog:\n\t@echo config >>../calls\n')}, tokens=2)
                os.makedirs(os.path.join(self.dir, '00/build/include/left'))
                outcome = job.build(0)
                with open(os.path.join(self.dir, 'calls'), encoding='ascii') as inf:
                    self.assertEqual(inf.read().split(), makes.split())
                self.assertEqual(outcome.stderr[:1], said)
                self.assertEqual(os.listdir(self.dir + '/00/build/include') == ['left'],
                                 makes == 'config all config x.o all')
                self.assertEqual([], [name for name in os.listdir(self.dir) if 'alone' in name])
            shutil.rmtree(self.dir)
            os.mkdir(self.dir)


class TestStillFails(JobCase):
    """A board that goes on failing is tried once, and with a doubt as often as before"""

    def calls(self, changed: str, recipe: str) -> Tuple[List[str], Outcome, Outcome]:
        """Build both commits; return which makes the second took, and the results"""
        job = self.job({'Makefile': f'all:\n\t@echo all >>../calls; {recipe}\n'
                                    'b_defconfig: log\nlog:\n\t@echo config >>../calls\n'},
                       changed=changed)
        first = job.build(0)
        os.unlink(os.path.join(self.dir, 'calls'))
        second = job.build(1)
        with open(os.path.join(self.dir, 'calls'), encoding='ascii') as inf:
            return inf.read().split(), first, second

    def test_makes(self) -> None:
        """What another outcome may come of is not taken for the same failure"""
        for changed, recipe, makes in (
                ('n.txt', 'echo no >&2; false', 'config all'),
                # The sources that it speaks of, and headers, may have been mended
                ('a.c', 'echo "a.c:1: error: no" >&2; false', 'all config all'),
                ('a.h', 'echo no >&2; false', 'all config all'),
                # It fails otherwise: that is tried again from nothing, as at first
                ('a.c', 'cat a.c >&2; false', 'config all config all all'),
                ('a.c', 'test $$(cat a.c) = two', 'config all')):
            with self.subTest(changed=changed, recipe=recipe):
                calls, first, second = self.calls(changed, recipe)
                self.assertEqual(calls, makes.split())
                self.assertEqual((first.return_code, second.return_code),
                                 (2, 2 if 'false' in recipe else 0))
                self.assertEqual('one' in first.stderr, 'cat a.c >' in recipe)
                self.assertEqual('two' in second.stderr, 'cat a.c >' in recipe)
            shutil.rmtree(self.dir)
            os.mkdir(self.dir)


class TestOneJob(JobCase):
    """What the last try, with one job, has to make of a board that fails"""

    # With more jobs, `first` goes on until make knows that x failed
    MAKEFILE = (
        'all: $(O)/include/w.o x\n$(O)/include/w.o: | first\n'
        '\t@echo w >>../calls; echo "include/w.c:1: warning: w" >&2; touch $@\n'
        'first:\n\t@echo first >>../calls; case "$(MAKEFLAGS) " in *"-j1 "*) ;; *--job*)\\\n'
        '\tuntil [ -s $(O)/x.pid ]; do sleep 0.01; done;\\\n'
        '\twhile kill -0 $$(cat $(O)/x.pid); do sleep 0.01; done; esac 2>/dev/null\n'
        'x:\n\t@echo $$$$ >$(O)/x.pid; echo x >>../calls; %s\n'
        'b_defconfig: log\nlog:\n\t@echo config >>../calls\n')

    def built(self, recipe: str, settings: Settings, tokens: int) -> List[Tuple[str, str]]:
        """Build both commits; return what was made and said for each"""
        job = self.job({'Makefile': self.MAKEFILE % recipe}, settings, changed='n.txt',
                       tokens=tokens)
        found = []
        for upto in (0, 1):
            said = job.build(upto).stderr
            with open(os.path.join(self.dir, 'calls'), encoding='ascii') as inf:
                found.append((inf.read().replace('\n', ' '), said))
            os.unlink(os.path.join(self.dir, 'calls'))
        shutil.rmtree(self.dir)
        os.mkdir(self.dir)
        return found

    def test_missing(self) -> None:
        """What fails before anything is compiled does so at once; all machines say the same"""
        texts = set()
        for recipe, again in (('no-such-tool', 'x '),
                              # It may be slow, so what comes before it counts
                              ('false', 'first w x ')):
            for settings, tokens in ((Settings(), 2), (Settings(), 1), (Settings(jobs=1), 2)):
                with self.subTest(recipe=recipe, settings=settings, tokens=tokens):
                    (calls, said), (later, same) = self.built(recipe, settings, tokens)
                    # The first two are begun at the same time, where there are two tokens
                    words = calls.split()
                    self.assertEqual((words[:1] + sorted(words[1:3]), words[3:]),
                                     (['config', 'first', 'x'], again.split()), said)
                    self.assertEqual(later, again if again == 'x ' else f'config {again}')
                    self.assertEqual(said, same)
                    self.assertEqual('warning' in said, 'w' in again)
                    texts.add(said)
        self.assertEqual(len(texts), 2, texts)


class TestSetBack(JobCase):
    """The clock is set back while boards are built"""

    def make_job(self, clock: Clock) -> MakeJob:
        """Return one that has built the first of two commits; then its files are ahead"""
        job = self.job({'Makefile': 'all: $(O)/g\n\tcat $(O)/g\n$(O)/g: f Makefile\n'
                                    '\tcp f $(O)/g\n'}, clock=clock)
        self.assertEqual(job.build(0).stdout, 'one')
        when = time.time() + 300
        for name in ('Makefile', 'build/g'):
            os.utime(os.path.join(self.dir, '00', name), (when, when))
        return job

    def test_between(self) -> None:
        """Between two builds, or during one: what is made of the next commit is of that one"""
        for answers in ((True, False), (False, True)):
            with self.subTest(answers=answers):
                outcome = self.make_job(FakeClock(False, False, *answers)).build(1)
                self.assertEqual((outcome.return_code, outcome.stderr), (0, ''))
                self.assertEqual(outcome.stdout, 'two')
                self.assertEqual([], newer_than_now(os.path.join(self.dir, '00')))
            shutil.rmtree(self.dir)
            os.mkdir(self.dir)
