# SPDX-License-Identifier: GPL-2.0+
"""The source of a slot is what git makes of a commit, whatever a build did to it."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
import unittest
from typing import Any, Dict, List
from unittest import mock

from support import needs

from buildman.source import git, shared
from buildman.source.checkout import ChangedFiles, Origin, SlotSource
from buildman.source.shared import Watches

# Names that sort in odd ways, and a folder that another one's name begins with
NAMES = ('a', 'a.c', 'a-b', 'a/x', 'a/y.c', 'ab/c', 'a0', 'd/e/f/g', 'd/e/h', 'd/i', 'z',
         'caf\u00e9/m', 'w x', 'dir.d/n', 'dir/n', 'dir-d/n', 'n' * 60, 'o/' + 'p' * 90)


class SlotCase(unittest.TestCase):
    """Has a repository, and slots of a run"""

    def setUp(self) -> None:
        needs('git')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.repo = os.path.join(self.dir, 'repo')
        os.mkdir(self.repo)
        git.run(self.repo, 'init', '-q', '-b', 'master')
        git.run(self.repo, 'config', 'user.name', 'A')
        git.run(self.repo, 'config', 'user.email', 'a@example.com')
        self.watches = Watches()
        self.addCleanup(self.watches.close)
        self.changed = ChangedFiles(self.repo)
        self.git = mock.Mock(side_effect=git.run)

    def commit(self) -> str:
        """Commit all that is there; return the hash"""
        git.run(self.repo, 'add', '-A')
        git.run(self.repo, 'commit', '-q', '--allow-empty', '-m', 'A change')
        return git.run(self.repo, 'rev-parse', 'HEAD').decode().strip()

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in place"""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as outf:
            outf.write(data)
        os.chmod(path, mode)

    def put(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the repository"""
        self.write(os.path.join(self.repo, name), text.encode(), mode)

    def series(self, count: int) -> List[str]:
        """Commit a change of the file a several times, with b beside it; return the hashes"""
        self.put('b', 'one')
        hashes = []
        for number in range(count):
            self.put('a', f'{number}')
            hashes.append(self.commit())
        return hashes

    def slot(self, name: str, commit: str) -> SlotSource:
        """Return a new slot, as an engine makes it"""
        source = SlotSource(os.path.join(self.dir, name), Origin.read(self.repo))
        source.prepare(commit)
        source.watch(self.watches, self.changed)
        return source

    def go(self, slot: SlotSource, commit: str) -> bool:
        """End a build and go to a commit; return whether files had to be looked at"""
        with mock.patch.object(git, 'run', self.git):
            self.git.reset_mock()
            self.assertFalse(slot.spoiled())
            slot.checkout(commit)
            return any('diff-files' in call.args for call in self.git.call_args_list)

    def check(self, slot: SlotSource, commit: str) -> None:
        """Check that a slot is as git makes a tree at a commit"""
        head = git.run(slot.path, 'rev-parse', 'HEAD').decode().strip()
        self.assertEqual(head, commit)
        # Without a look at the files first, as a build's version script does it
        env = {**git.environment(), 'GIT_OPTIONAL_LOCKS': '0'}
        self.assertEqual(git.run(slot.path, 'diff-index', '--name-only', 'HEAD', env=env), b'')
        self.assertEqual(git.run(slot.path, 'diff-files', '--name-only'), b'')
        self.assertEqual(git.run(slot.path, 'status', '--porcelain', '-uall'), b'')
        entries = git.run(slot.path, 'ls-tree', '-r', '-z', 'HEAD').split(b'\0')[:-1]
        words = [re.sub(rb'^(\d+) \w+ (\w+)\t', rb'\1 \2 0\t', entry) for entry in entries]
        self.assertEqual(git.run(slot.path, 'ls-files', '-s', '-z').split(b'\0')[:-1], words)
        other = os.path.join(self.dir, 'other')
        os.mkdir(other)
        git.run(slot.path, f'--work-tree={other}', 'checkout', '-f', 'HEAD', '--', '.',
                env={**git.environment(), 'GIT_INDEX_FILE': os.path.join(self.dir, 'index')})
        done = subprocess.run(['diff', '-r', '--no-dereference', '-x', '.git', other, slot.path],
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.stdout, done.stderr), ('', ''))
        modes = [{os.path.relpath(os.path.join(top, name), where):
                  os.lstat(os.path.join(top, name)).st_mode
                  for top, folders, names in os.walk(where) if '.git' not in top.split('/')
                  for name in [*names, *(set(folders) - {'.git'})]}
                 for where in (other, slot.path)]
        self.assertEqual(*modes)
        subprocess.run(['rm', '-r', other, os.path.join(self.dir, 'index')], check=True)


class TestSeries(SlotCase):
    """Several slots go through the same series"""

    def change(self, rng: random.Random, tree: Dict[str, str]) -> None:
        """Change some files of the repository at random"""
        for _ in range(rng.randrange(4)):
            name = rng.choice(NAMES)
            full = os.path.join(self.repo, name)
            what = rng.choice(('write', 'write', 'write', 'mode', 'remove', 'link'))
            if any(other.startswith(name + '/') or name.startswith(other + '/')
                   for other in tree):
                # A file where a folder was, or the other way round
                for other in list(tree):
                    if other.startswith(name + '/') or name.startswith(other + '/'):
                        git.run(self.repo, 'rm', '-q', '-f', '--', other)
                        del tree[other]
            if os.path.lexists(full) and (what in ('remove', 'link') or os.path.islink(full)):
                git.run(self.repo, 'rm', '-q', '-f', '--', name)
                tree.pop(name)
            if what == 'link':
                os.makedirs(os.path.dirname(full), exist_ok=True)
                os.symlink('a', full)
            elif what != 'remove':
                self.put(name, 'x' * rng.randrange(200) + str(rng.random()),
                         0o755 if what == 'mode' else 0o644)
            if what != 'remove':
                tree[name] = what
                git.run(self.repo, 'add', '--', name)

    def test_random(self) -> None:
        """Whatever a series does, a slot is as git makes it, without a look at its files"""
        seed_number = random.randrange(1 << 32)
        rng = random.Random(seed_number)
        tree: Dict[str, str] = {}
        self.put('always', 'here')
        hashes = [self.commit()]
        for _ in range(12):
            self.change(rng, tree)
            hashes.append(self.commit())
        slot = self.slot('00', hashes[0])
        for upto in [*range(1, len(hashes)), 0, *(rng.randrange(len(hashes)) for _ in range(5))]:
            with self.subTest(seed=seed_number, upto=upto):
                self.assertFalse(self.go(slot, hashes[upto]))
                self.check(slot, hashes[upto])

    def test_time(self) -> None:
        """A file that changes has the time at which it does: make compares that"""
        hashes = self.series(2)
        slot = self.slot('00', hashes[0])
        self.go(slot, hashes[1])
        mark = os.path.join(self.dir, 'mark')
        self.write(mark, b'')
        self.go(slot, hashes[0])
        self.assertGreaterEqual(os.stat(os.path.join(slot.path, 'a')).st_mtime_ns,
                                os.stat(mark).st_mtime_ns)

    def test_written(self) -> None:
        """What a build did to a source, git mends; and what is new is watched again"""
        self.put('a', 'one')
        self.put('d/b', 'one')
        hashes = [self.commit()]
        self.put('e/c', 'two')
        hashes.append(self.commit())
        slot, other = (self.slot(name, hashes[0]) for name in ('00', '01'))

        def put(name: str) -> None:
            self.write(os.path.join(slot.path, name), b'odd')

        for spoil, at in ((lambda: put('a'), 1), (lambda: put('d/b'), 0),
                          (lambda: shutil.rmtree(os.path.join(slot.path, 'd')), 1),
                          (lambda: put('d/b'), 0), (lambda: put('d/b'), 1),
                          (lambda: put('e/c'), 0)):
            alarms = self.watches.alarms()
            spoil()
            self.assertGreater(self.watches.alarms(), alarms)
            for one in (slot, other):
                self.go(one, hashes[at])
                self.check(one, hashes[at])
        alarms = self.watches.alarms()
        self.go(slot, hashes[1])
        self.assertEqual(alarms, self.watches.alarms())

    def test_step(self) -> None:
        """Git looks at files that differ only, but where a build wrote or git will not"""
        self.put('d/a', 'one')
        hashes = [self.commit()]
        self.put('d/a', 'two')
        self.put('d/b', 'two')
        hashes.append(self.commit())

        def verbs(slot: SlotSource, commit: str) -> List[str]:
            self.go(slot, commit)
            self.check(slot, commit)
            return [word for call in self.git.call_args_list for word in call.args
                    if word in ('checkout', 'reset')]

        slot = SlotSource(os.path.join(self.dir, '00'), Origin.read(self.repo))
        slot.prepare(hashes[0])
        self.write(os.path.join(slot.path, 'd', 'a'), b'of another program')
        slot.watch(self.watches, self.changed)
        self.assertEqual(verbs(slot, hashes[1]), ['reset', 'checkout'])
        self.assertEqual(verbs(slot, hashes[0]), ['reset'])
        self.write(os.path.join(slot.path, 'd', 'a'), b'odd')
        self.assertEqual(verbs(slot, hashes[1]), ['checkout'])
        self.assertEqual(verbs(slot, hashes[0]), ['reset'])

    def test_index(self) -> None:
        """A run that finds an index that git gives up on makes a new one"""
        hashes = self.series(2)
        path = self.slot('00', hashes[0]).path
        index = os.path.join(path, '.git', 'index')
        with open(index, 'rb') as inf:
            good = inf.read()
        for data in (b'', good[:40], good[:8] + b'\xff' * 4 + good[12:], b'x' * len(good),
                     good[:-30] + b'x' * 30):
            self.write(index, data)
            for commit in (hashes[1], hashes[0]):
                slot = SlotSource(path, Origin.read(self.repo))
                slot.prepare(commit)
                self.check(slot, commit)
        os.unlink(index)
        self.go(slot, hashes[1])
        self.check(slot, hashes[1])

    def test_backdate(self) -> None:
        """Files of a new checkout are of a second that is over, and git sees no change"""
        first = self.series(1)[0]
        slot = SlotSource(os.path.join(self.dir, '00'), Origin.read(self.repo))
        slot.prepare(first)
        git_dir = os.path.join(slot.path, '.git')
        index = os.path.join(git_dir, 'index')
        second = int(os.stat(index).st_mtime)
        os.utime(os.path.join(slot.path, 'b'), (1e9, 1e9))
        git.run(slot.path, 'update-index', '--refresh')
        os.utime(index, (second, second))
        self.assertTrue(shared.backdate(slot.path, git_dir))
        self.assertEqual([second - 1, 1e9], [int(os.stat(os.path.join(slot.path, name)).st_mtime)
                                             for name in 'ab'])
        self.check(slot, first)
        git.run(slot.path, 'update-index', '--index-version', '4')
        with open(index, 'rb') as inf:
            before = inf.read()
        for data in (before, b'', before[:8].replace(b'\4', b'\2') + before[8:]):
            self.write(index, data)
            self.assertFalse(shared.backdate(slot.path, git_dir))
            with open(index, 'rb') as inf:
                self.assertEqual(data, inf.read())

    def test_converted(self) -> None:
        """Content that git converts on its way into a tree comes out converted"""
        self.put('.gitattributes', '*.bat text eol=crlf\n*.id ident\n')
        self.put('a.bat', 'one\ntwo\n')
        self.put('b.id', '$Id$\n')
        hashes = [self.commit()]
        self.put('a.bat', 'one\nthree\n')
        self.put('b.id', '$Id$\nmore\n')
        hashes.append(self.commit())
        slots = [self.slot(name, hashes[0]) for name in ('00', '01')]
        for commit in (hashes[1], hashes[0]):
            for slot in slots:
                self.go(slot, commit)
                self.check(slot, commit)
        with open(os.path.join(slots[1].path, 'a.bat'), 'rb') as inf:
            self.assertEqual(inf.read(), b'one\r\ntwo\r\n')

    def test_configured(self) -> None:
        """What a user has told git of large trees, and of ends of lines, does not matter"""
        home = os.path.join(self.dir, 'home')
        self.write(os.path.join(home, '.gitconfig'),
                   b'[feature]\nmanyFiles = true\n[index]\nversion = 4\n'
                   b'[core]\nsplitIndex = true\nfsmonitor = true\nautocrlf = true\n')
        self.put('a', 'one\n')
        hashes = [self.commit()]
        self.put('a', 'two\n')
        hashes.append(self.commit())
        with mock.patch.dict(os.environ, {'HOME': home}):
            slots = [self.slot(name, hashes[0]) for name in ('00', '01')]
            for commit in (hashes[1], hashes[0]):
                for slot in slots:
                    self.go(slot, commit)
                    self.check(slot, commit)


class TestShared(SlotCase):
    """Slots that share files"""

    def plant(self, commit: str, watch: bool = True) -> List[SlotSource]:
        """Return three slots that have the same files, watched or not"""
        origin = Origin.read(self.repo)
        first = SlotSource(os.path.join(self.dir, '00'), origin)
        first.prepare(commit)
        with open(os.path.join(first.path, '.git', shared.SHARED_MARK), 'wb'):
            pass
        slots = [first]
        for name in ('01', '02'):
            subprocess.run(['cp', '-al', first.path, os.path.join(self.dir, name)], check=True)
            slots.append(SlotSource(os.path.join(self.dir, name), origin))
            slots[-1].adopt(commit)
        for slot in slots if watch else ():
            slot.watch(self.watches, self.changed)
        return slots

    def test_new(self) -> None:
        """Nothing is looked at after the first build, since slots have just been made"""
        hashes = self.series(2)
        self.assertFalse(any([self.go(slot, hashes[1]) for slot in self.plant(hashes[0])]))

    def test_times(self) -> None:
        """Files as young as the index are not read by git when it is known that none was written"""
        first = self.series(1)[0]
        one, two, three = self.plant(first, watch=False)
        # They have the same one
        index = os.path.join(one.path, '.git', 'index')
        for number, slot in enumerate((one, two, three)):
            os.utime(index, (1e9, 1e9))
            if number == 2:
                self.write(os.path.join(one.path, 'b'), b'odd')
            slot.watch(self.watches, self.changed)
            self.assertEqual(os.stat(index).st_mtime == 1e9, number == 2)

    def test_late(self) -> None:
        """A slot that begins when others build already finds what they wrote before"""
        first = self.series(1)[0]
        early, late, _ = self.plant(first, watch=False)
        early.watch(self.watches, self.changed)
        self.write(os.path.join(early.path, 'b'), b'odd')
        late.watch(self.watches, self.changed)
        self.assertTrue(late.spoiled())

    def test_shared(self) -> None:
        """A step is no write to another slot's file; a build's write is found in all of them"""
        hashes = self.series(2)
        slots = self.plant(hashes[0])
        for commit in (hashes[1], hashes[0], hashes[1]):
            for slot in slots:
                self.assertFalse(self.go(slot, commit))
                self.check(slot, commit)
        self.write(os.path.join(slots[0].path, 'b'), b'odd')
        for slot in slots:
            self.assertTrue(slot.spoiled())
            slot.unshare()
            self.check(slot, hashes[1])
            self.assertFalse(slot.spoiled())
            slot.checkout(hashes[0])
            self.check(slot, hashes[0])

    def test_meanwhile(self) -> None:
        """Another slot's write between two looks is not taken for looked at"""
        hashes = self.series(3)
        one, two, _ = self.plant(hashes[0])
        for slot in (one, two):
            self.go(slot, hashes[1])
        self.assertFalse(two.spoiled())
        run = git.run

        def write(*args: str, **kwargs: Any) -> bytes:
            out = run(*args, **kwargs)
            self.write(os.path.join(one.path, 'b'), b'odd')
            return out

        self.git.side_effect = write
        with mock.patch.object(git, 'run', self.git):
            two.checkout(hashes[2])
        self.assertTrue(two.spoiled())

    def test_one_untold(self) -> None:
        """One slot that cannot be watched may write to the files of those that are"""
        hashes = self.series(2)
        with mock.patch.object(self.watches, 'most', 2):
            slots = self.plant(hashes[0])
        for commit in (hashes[1], hashes[0], hashes[1]):
            self.assertTrue(all([self.go(slot, commit) for slot in slots]))
        self.write(os.path.join(slots[2].path, 'b'), b'odd')
        self.assertTrue(slots[0].spoiled())

    def test_first(self) -> None:
        """What the first build of a slot writes is found by one that has built before"""
        hashes = self.series(2)
        old, new, _ = self.plant(hashes[0])
        self.go(old, hashes[1])
        self.assertFalse(old.spoiled())
        self.write(os.path.join(new.path, 'b'), b'odd')
        self.assertTrue(old.spoiled())

    def test_untold(self) -> None:
        """Where the kernel does not tell, files are looked at"""
        hashes = self.series(2)
        self.watches.close()
        slots = self.plant(hashes[0])
        for commit in (hashes[1], hashes[0], hashes[1]):
            for slot in slots:
                self.assertTrue(self.go(slot, commit))
                self.check(slot, commit)
        self.write(os.path.join(slots[0].path, 'b'), b'odd')
        for slot in slots:
            self.assertTrue(slot.spoiled())
