# SPDX-License-Identifier: GPL-2.0+
"""Slots that share the files of one checkout, and builds that write to them."""

from __future__ import annotations

import mmap
import os
import subprocess
import tempfile
import threading
import time
import unittest
from typing import Callable, List, Sequence
from unittest import mock

from support import assert_same_tree, command, needs

from buildman.core import files
from buildman.source import git, shared
from buildman.source.checkout import Origin, SlotSource
from buildman.source.shared import Watch, Watches

# Writes the board's name into a tracked file, waits until the other board's build
# has done the same, and builds from it. WAIT counts the boards to wait for.
MAKEFILE = '''\
SRC := $(CURDIR)
all:
\t@echo "#define NAME \\"$$(sed -n 1p $(O)/.config)\\"" > include/name.h; \\
\ttouch $(MEET)/$$(sed -n 1p $(O)/.config); tries=0; \\
\twhile [ $$(ls $(MEET) | wc -l) -lt $(WAIT) ] && [ $$tries -lt 600 ]; do \\
\t  sleep 0.1; tries=$$((tries + 1)); done; \\
\tcd $(O) && gcc -nostdlib -nostartfiles -Wl,-e,main -Wl,--build-id=none -I../include \\
\t  -o u-boot ../main.c
%_defconfig:
\t@mkdir -p $(O)/include/generated $(O)/include/config && echo $* > $(O)/.config && \\
\ttouch $(O)/include/generated/autoconf.h
'''


def quiet(argv: Sequence[str]) -> int:
    """Run a command that says nothing"""
    return subprocess.run(argv, capture_output=True, check=False).returncode


def make_repo(path: str, files: 'dict[str, str]') -> str:
    """Make a repository with a tree that is large enough to be shared; return the commit"""
    os.mkdir(path)
    git.run(path, 'init', '-q', '-b', 'master')
    for name, text in files.items():
        os.makedirs(os.path.dirname(os.path.join(path, name)), exist_ok=True)
        with open(os.path.join(path, name), 'w', encoding='utf-8') as outf:
            outf.write(text)
    os.mkdir(os.path.join(path, 'many'))
    for number in range(shared.SHARE_FROM):
        with open(os.path.join(path, 'many', str(number)), 'wb'):
            pass
    git.run(path, 'config', 'user.name', 'A')
    git.run(path, 'config', 'user.email', 'a@example.com')
    return commit(path)


def commit(path: str) -> str:
    """Commit all; return the hash"""
    git.run(path, 'add', '-A')
    git.run(path, 'commit', '-q', '-m', 'A change')
    return git.run(path, 'rev-parse', 'HEAD').decode().strip()


class SeedCase(unittest.TestCase):
    """Has a temporary folder"""

    repo: str

    def setUp(self) -> None:
        needs('git', 'cp')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.work = os.path.join(self.dir, 'work')
        os.mkdir(self.work)


class TestSeed(SeedCase):
    """What slots share is theirs to read only"""

    first: str
    second: str

    @classmethod
    def setUpClass(cls) -> None:
        needs('git')
        temp = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temp.cleanup)
        cls.repo = os.path.join(temp.name, 'repo')
        cls.first = make_repo(cls.repo, {'a': 'one\n', 'b': 'bee\n', 'run.sh': 'x\n'})
        os.unlink(os.path.join(cls.repo, 'a'))
        with open(os.path.join(cls.repo, 'b'), 'w', encoding='utf-8') as outf:
            outf.write('wasp\n')
        cls.second = commit(cls.repo)

    def write(self, path: str, text: str) -> None:
        """Write into a file in place"""
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)

    def plant(self, names: List[str]) -> List[SlotSource]:
        """Fill slots, all at once"""
        origin = Origin.read(self.repo)
        made = shared.Seed(self.work, len(names),
                         lambda path: SlotSource(path, origin).prepare(self.first), quiet,
                         threading.Semaphore(2))
        slots = [SlotSource(os.path.join(self.work, name), origin) for name in names]

        def fill(slot: SlotSource) -> None:
            if made.fill(slot.path):
                slot.adopt(self.first)

        threads = [threading.Thread(target=fill, args=(slot,)) for slot in slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return slots

    def read(self, slot: SlotSource, name: str) -> str:
        """Return what a file of a slot holds"""
        with open(os.path.join(slot.path, name), encoding='utf-8') as inf:
            return inf.read()

    def state(self, slot: SlotSource) -> str:
        """Return what git thinks of a slot: '' when it is as it should be"""
        return git.run(slot.path, 'status', '--porcelain', '-uall').decode()

    def test_fill(self) -> None:
        """All slots are whole, at the commit, and the file contents are there once"""
        slots = self.plant(['00', '01', '02'])
        self.assertEqual(sorted(os.listdir(self.work)), ['00', '01', '02'])
        inodes = set()
        for slot in slots:
            self.assertEqual(slot.commit, self.first)
            self.assertEqual(self.state(slot), '')
            self.assertEqual(git.run(slot.path, 'rev-parse', 'HEAD').decode().strip(), self.first)
            inodes.add(os.stat(os.path.join(slot.path, 'b')).st_ino)
            # What the version in an image is made of
            self.assertNotIn('dirty', git.run(slot.path, 'describe', '--always',
                                              '--dirty').decode())
        if slots[0].shared:
            self.assertEqual(len(inodes), 1)
        # The user's configuration is not for this
        self.assertNotIn(b'checkstat', git.run(self.repo, 'config', '-l').lower())

    def test_move(self) -> None:
        """A slot that goes on to another commit takes no other slot along"""
        one, two = self.plant(['00', '01'])
        stamp = os.stat(os.path.join(one.path, 'b')).st_mtime_ns
        self.assertFalse(one.spoiled())
        one.checkout(self.second)
        self.assertEqual((self.read(one, 'b'), self.read(two, 'b')), ('wasp\n', 'bee\n'))
        # make goes by that
        self.assertGreater(os.stat(os.path.join(one.path, 'b')).st_mtime_ns, stamp)
        self.assertEqual((self.state(one), self.state(two)), ('', ''))
        self.assertFalse(one.spoiled() or two.spoiled())
        two.checkout(self.second)
        two.checkout(self.first)
        self.assertEqual((self.read(two, 'b'), self.read(two, 'a')), ('bee\n', 'one\n'))
        self.assertEqual((self.state(one), self.state(two)), ('', ''))

    def test_spoiled(self) -> None:
        """A write to a shared file is found in each slot, and each gets its own"""
        one, two, three = self.plant(['00', '01', '02'])
        if not one.shared:
            self.skipTest('the file system copies on write')
        self.write(os.path.join(one.path, 'b'), 'BEE\n')
        self.assertTrue(one.spoiled() and two.spoiled())
        for slot in (one, two):
            slot.unshare()
            self.assertEqual((self.read(slot, 'b'), self.state(slot)), ('bee\n', ''))
        self.write(os.path.join(one.path, 'b'), 'mine\n')
        self.write(os.path.join(one.path, 'run.sh'), 'mine\n')
        self.assertEqual((self.read(two, 'b'), self.read(two, 'run.sh')), ('bee\n', 'x\n'))
        # Nobody else is to blame for what a slot's own build does
        self.assertFalse(one.spoiled())
        # The third had not built meanwhile; at the next commit it is whole
        three.checkout(self.second)
        three.checkout(self.first)
        self.assertEqual((self.read(three, 'b'), self.state(three)), ('bee\n', ''))

    def test_spoiled_at_once(self) -> None:
        """A build of another slot writes as much, right after the checkout, and is told of"""
        slots = self.plant(['00', '01'])
        with open(os.path.join(slots[0].path, 'b'), 'r+b') as outf:
            outf.write(b'eeb')
        with open(os.path.join(slots[0].path, 'run.sh'), 'r+b') as outf:
            outf.write(b'y')
        for slot in slots:
            index = os.path.join(slot.path, '.git', 'index')
            # As when a step to another commit, which changes neither, was repeated meanwhile
            with open(index, 'rb') as inf:
                files.replace_file(index, inf.read())
            os.utime(index, (time.time() + 2,) * 2)
            self.assertEqual(self.state(slot), ' M b\n M run.sh\n')
            self.assertTrue(slot.spoiled())

    def test_alone(self) -> None:
        """Builds in the source find no shared file there, even in slots of an earlier run"""
        one, two = self.plant(['00', '01'])
        again = SlotSource(one.path, Origin.read(self.repo))
        again.prepare(self.first, alone=True)
        for top, _, names in os.walk(one.path):
            for name in names:
                if '.git' not in top:
                    self.assertEqual(os.stat(os.path.join(top, name)).st_nlink, 1, name)
        self.assertEqual((self.state(again), self.state(two)), ('', ''))

    def test_broken(self) -> None:
        """When the seed cannot be made, each slot is told, and nothing stays behind"""
        def refuse(path: str) -> None:
            os.mkdir(path)
            raise OSError('no')
        made = shared.Seed(self.work, 2, refuse, quiet, threading.Semaphore(1))
        self.assertFalse(made.fill(os.path.join(self.work, '00')))
        self.assertFalse(made.fill(os.path.join(self.work, '01')))
        self.assertEqual(os.listdir(self.work), [])

    def test_leftovers(self) -> None:
        """What a killed run left is not taken for a slot"""
        os.makedirs(os.path.join(self.work, '03' + shared.NEW, 'x'))
        os.makedirs(os.path.join(self.work, '03'))
        shared.remove_leftovers(self.work)
        self.assertEqual(os.listdir(self.work), ['03'])

    def test_not_index(self) -> None:
        """The size of a tree that cannot be read is 0, and it is copied"""
        self.assertEqual(shared.tree_size(self.work), 0)
        self.assertGreater(shared.tree_size(os.path.join(self.repo, '.git')), shared.SHARE_FROM)


class TestBuild(SeedCase):
    """Builds that write to a tracked file do not meet in it"""

    def build(self, out: str, threads: int) -> None:
        """Build both boards"""
        meet = os.path.join(self.dir, f'meet-{out}')
        os.mkdir(meet)
        done = subprocess.run(
            [*command(), '-b', 'topic', '-o', os.path.join(self.dir, out), '--boards', 'aa,b',
             '-T', str(threads), '-k', '-r'], capture_output=True, text=True, check=False,
            cwd=self.repo, env={**os.environ, 'HOME': self.dir, 'MEET': meet,
                                'WAIT': str(threads)})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_write(self) -> None:
        """Two boards at a time, whose builds write to one file, give what one by one gives"""
        needs('make', 'gcc')
        self.repo = os.path.join(self.dir, 'repo')
        make_repo(self.repo, {
            'Makefile': MAKEFILE, 'include/name.h': '', 'main.c':
            '#include "name.h"\nconst char name[] = NAME;\nint main(void) { return 0; }\n',
            'configs/aa_defconfig': 'CONFIG_A=y\n', 'configs/b_defconfig': 'CONFIG_B=y\n',
            'boards.cfg': ''.join(f'Active  sandbox  -  -  -  -  {b}  {b}  A <a@b>\n'
                                  for b in ('aa', 'b'))})
        git.run(self.repo, 'checkout', '-q', '-b', 'topic', '--track', 'master')
        with open(os.path.join(self.repo, 'more'), 'wb'):
            pass
        commit(self.repo)
        self.build('two', 2)
        self.build('one', 1)
        assert_same_tree(os.path.join(self.dir, 'two', 'topic'),
                         os.path.join(self.dir, 'one', 'topic'))


class TestWatch(unittest.TestCase):
    """Two slots with a folder each, and a file that both have"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.watches = Watches()
        self.addCleanup(self.watches.close)
        self.slots: List[Watch] = []
        for name in ('00', '01'):
            os.makedirs(self.path(name, 'd', 'e'))
            os.mkdir(self.path(name, 'build'))
            for file in ('a', 'd/e/b'):
                with open(self.path(name, file), 'wb') as outf:
                    outf.write(b'one')
        os.link(self.path('00', 'a'), self.path('00', 'shared'))
        os.link(self.path('00', 'a'), self.path('01', 'shared'))
        for name in ('00', '01'):
            made = self.watches.watch(self.path(name), ['d', 'd/e'], 'build')
            self.assertTrue(made, 'the kernel does not tell of writes here')
            assert made
            made.settle(made.alarms())
            self.slots.append(made)

    def path(self, *names: str) -> str:
        """Return a path below the folder of the test"""
        return os.path.join(self.dir, *names)

    def write(self, *names: str) -> None:
        """Write into a file in place"""
        with open(self.path(*names), 'r+b') as outf:
            outf.write(b'two')

    def map(self, *names: str) -> None:
        """Write into a file by way of memory"""
        with open(self.path(*names), 'r+b') as outf, mmap.mmap(outf.fileno(), 3) as data:
            data[0:1] = b'x'

    def test_alarm(self) -> None:
        """Each way to change a source is an alarm for all slots"""
        other = self.path('other')
        with open(other, 'wb'):
            pass
        ways: List[Callable[[], object]] = [
            lambda: self.write('00', 'a'), lambda: self.write('00', 'd', 'e', 'b'),
            lambda: self.map('00', 'a'), lambda: os.truncate(self.path('00', 'a'), 1),
            lambda: os.chmod(self.path('00', 'a'), 0o755),
            lambda: os.rename(other, self.path('00', 'd', 'new')),
            lambda: os.rename(self.path('00', 'd', 'new'), other),
            lambda: os.unlink(self.path('00', 'd', 'e', 'b')),
            lambda: os.symlink('a', self.path('00', 'd', 'link')),
            lambda: self.write('01', 'shared'),
            lambda: subprocess.run(['sh', '-c', f'echo x >>{self.path("00", "a")}'], check=True),
            lambda: subprocess.run(['rm', '-r', self.path('00', 'd')], check=True)]
        for number, way in enumerate(ways):
            with self.subTest(way=number):
                for slot in self.slots:
                    self.assertTrue(slot.is_quiet())
                way()
                for slot in self.slots:
                    self.assertFalse(slot.is_quiet())
                    slot.settle(slot.alarms())

    def test_quiet(self) -> None:
        """What is read, or lies in the build folder, is none"""
        with open(self.path('00', 'a'), 'rb') as inf:
            inf.read()
        os.listdir(self.path('00', 'd'))
        with open(self.path('00', 'build', 'x'), 'wb'):
            pass
        os.rename(self.path('00', 'build'), self.path('00.build'))
        os.mkdir(self.path('00', 'build'))
        # Of a file that both have, one name fewer
        os.unlink(self.path('00.build', 'x'))
        self.assertTrue(self.slots[0].is_quiet())

    def test_moving(self) -> None:
        """A slot's own writes are none, and another's meanwhile is one"""
        with self.slots[0].moving():
            self.write('00', 'a')
            self.assertTrue(self.slots[1].is_quiet())
            os.unlink(self.path('00', 'shared'))
        self.assertTrue(self.slots[0].is_quiet())
        with self.slots[0].moving():
            self.write('01', 'a')
        self.assertFalse(self.slots[0].is_quiet())
        self.slots[0].settle(self.slots[0].alarms())
        # What came before counts, although nobody has asked since
        self.write('00', 'a')
        with self.slots[0].moving():
            pass
        self.assertFalse(self.slots[0].is_quiet())

    def test_unsettled(self) -> None:
        """Nothing is known of a slot before it was looked at"""
        made = self.watches.watch(self.path('00'), [], 'build')
        assert made
        self.assertFalse(made.is_quiet())

    def test_extend(self) -> None:
        """New folders are watched when that is asked for; one that is not there is said"""
        with self.slots[0].moving():
            os.makedirs(self.path('00', 'n', 'm'))
        self.assertTrue(self.slots[0].extend(['n', 'n/m']))
        with open(self.path('00', 'n', 'm', 'x'), 'wb'):
            pass
        self.assertFalse(self.slots[0].is_quiet())
        self.assertFalse(self.slots[0].extend(['missing']))
        self.assertFalse(self.slots[0].extend(['a']))

    def test_close(self) -> None:
        """When one slot is not watched any more, its builds may write to what all have"""
        self.assertTrue(self.slots[1].is_quiet())
        self.slots[0].close()
        for _ in range(2):
            self.assertFalse(self.slots[1].is_quiet())
            self.slots[1].settle(self.slots[1].alarms())

    def test_end(self) -> None:
        """After the end nothing is told"""
        self.watches.close()
        self.slots[1].settle(self.slots[1].alarms())
        self.assertFalse(self.slots[1].is_quiet())

    def test_too_many(self) -> None:
        """When the kernel has to drop events, that is an alarm"""
        with open('/proc/sys/fs/inotify/max_queued_events', encoding='ascii') as inf:
            most = int(inf.read())
        with self.slots[0].moving():
            for _ in range(most // 2 + 10):
                # Two in turn, as the same event twice is told once
                os.chmod(self.path('00', 'a'), 0o600)
                os.chmod(self.path('00', 'shared'), 0o600)
        self.assertFalse(self.slots[1].is_quiet())

    def test_limit(self) -> None:
        """Our share of what the user may watch is not exceeded"""
        with mock.patch.object(shared, 'most_watches', return_value=3):
            watches = Watches()
        self.assertIsNone(watches.watch(self.path('00'), ['d', 'd/e', 'build'], 'build'))
        # What it took for that was given back
        self.assertTrue(watches.watch(self.path('00'), ['d'], 'build'))
        watches.close()
        with mock.patch.object(shared, 'LIMIT_FILE', self.path('limit')):
            self.assertEqual(shared.most_watches(), shared.MOST)
            with open(self.path('limit'), 'w', encoding='ascii') as outf:
                outf.write('8192\n')
            self.assertEqual(shared.most_watches(), 4096)

    def test_nothing(self) -> None:
        """Without help of the kernel there is no watch"""
        with mock.patch.object(shared, 'load_libc', side_effect=ImportError):
            self.assertIsNone(Watches().watch(self.path('00'), [], 'build'))
        self.watches.close()
        self.assertIsNone(self.watches.watch(self.path('00'), [], 'build'))
        self.assertIsNone(Watches().watch(self.path('00'), ['missing'], 'build'))
        # A file system that does not tell
        with mock.patch.object(shared, 'CHANGES', 0x1):
            self.assertIsNone(Watches().watch(self.path('01'), [], 'build'))
