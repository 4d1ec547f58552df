# SPDX-License-Identifier: GPL-2.0+
"""A cache of results that many share: what is damaged is not there, and nobody waits."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import unittest
import zlib

from support import TOOLS

from buildman.build import trace
from buildman.build.notes import Files
from buildman.core.outcome import Outcome
from buildman.results.cache import ResultCache, parse_size, read_result
from buildman.results.tree import write_result

READS = trace.make_reads(Files({'a.c', 'a.h'}, {'stdio.h'}, set()), 'arm', False)
KEY, DIGEST = 'a' * 64, 'b' * 64

# Keeps results until it is killed
WRITER = '''
import sys, os
sys.path[:0] = {paths!r}
from buildman.results.cache import ResultCache
cache = ResultCache({folder!r}, True, 1 << 30)
for name in sorted(os.listdir({top!r})):
    cache.keep(os.path.join({top!r}, name))
print('begun', flush=True)
cache.close()
'''

# The same, killed when it has written half of a file
HALF = '''
import os, signal
from buildman.results import cache
def half(path, data, whole=cache.put_file, left=list(range({count}))):
    if left:
        left.pop()
        return whole(path, data)
    whole(path, data[:len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
cache.put_file = half
'''


class CacheTest(unittest.TestCase):
    """One folder"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.top = temp.name
        self.folder = os.path.join(self.top, 'cache')

    def result(self, name='b', key=KEY, digest=DIGEST, **files):
        """Write a result; return its folder"""
        path = os.path.join(self.top, 'results', name)
        write_result(path, Outcome('b', 0, 0, 'said', 'warned', 'sizes\n', {
            'trace': trace.Trace(key, READS, digest).pack(), '.config': b'A=y\n',
            'settings': b'{}', 'host': b'x', **files}))
        return path

    def cache(self, writable=True, limit=1 << 30):
        """Return the cache"""
        return ResultCache(self.folder, writable, limit)

    def fill(self, *folders, limit=1 << 30):
        """Keep results; return what is said"""
        cache = self.cache(limit=limit)
        for folder in folders:
            cache.keep(folder)
        cache.close()
        return cache.problem

    def find(self, key=KEY, digest=DIGEST, writable=False):
        """Return what is found"""
        return self.cache(writable).find(key, lambda reads: digest if reads == READS else '')

    def files(self):
        """Return all files of the cache"""
        return {os.path.join(where, name) for where, _, names in os.walk(self.folder)
                for name in names if name != 'looked'}

    def test_there_and_back(self):
        """All that is of the source comes back, with its mode; of others nothing"""
        folder = self.result()
        os.chmod(os.path.join(folder, 'log'), 0o640)
        self.assertEqual('', self.fill(folder))
        want = read_result(folder)
        self.assertEqual({'trace', '.config', 'log', 'err', 'sizes'}, set(want))
        self.assertEqual(want, self.find())
        self.assertEqual(0o640, self.find()['log'].mode)
        for key, digest in (('c' * 64, DIGEST), (KEY, 'c' * 64)):
            self.assertIsNone(self.find(key, digest))

    def test_not_kept(self):
        """A failure, a result without a trace, one that is not complete"""
        for name, files, code in (('done', {}, '1'), ('x', {}, ''),
                                  ('trace', {'trace': b'x'}, '0')):
            folder = self.result(name, **files)
            with open(os.path.join(folder, 'done'), 'w', encoding='ascii') as outf:
                outf.write(code)
            self.fill(folder)
        self.assertEqual(set(), self.files())

    def test_read_only(self):
        """Nothing is written, not even that something was used or is damaged"""
        self.fill(self.result())
        for path in self.files():
            os.utime(path, (1, 1))
        before = {path: os.stat(path) for path in self.files()}
        cache = self.cache(False)
        cache.keep(self.result('other', 'c' * 64))
        cache.close()
        self.assertTrue(self.find())
        self.assertEqual('', cache.problem)
        self.folder = os.path.join(self.top, 'none')
        self.assertIn('no such folder', self.cache(False).problem)
        self.folder = os.path.join(self.top, 'cache')
        path = next(path for path in sorted(before) if '/objects/' in path)
        with open(path, 'r+b') as outf:
            outf.write(b'bad')
        os.utime(path, (1, 1))
        self.assertIsNone(self.find())
        self.assertEqual({path: stat.st_mtime for path, stat in before.items()},
                         {path: os.stat(path).st_mtime for path in self.files()})

    def test_damaged(self):
        """Whatever is cut short, changed or gone: the result is not there, and is kept again"""
        folder = self.result()
        self.fill(folder)
        for path in sorted(self.files()):
            with open(path, 'rb') as inf:
                data = inf.read()
            for bad in (data[:len(data) // 2], b'', zlib.compress(b'poison'), data[::-1], None,
                        data.replace(b'"sizes"', b'"err"')):
                if bad == data:
                    continue
                if bad is None:
                    os.unlink(path)
                else:
                    with open(path, 'wb') as outf:
                        outf.write(bad)
                self.assertIsNone(self.find(writable=True), (path, bad))
                self.fill(folder)
                self.assertEqual(read_result(folder), self.find(), (path, bad))

    def test_foreign_names(self):
        """A result that names what is none of it is no result"""
        self.fill(self.result())
        path = next(path for path in self.files() if path.endswith(f'.{DIGEST}'))
        with open(path, 'rb') as inf:
            text = inf.read().partition(b'\n')[2]
        for name in (b'../x', b'done', b'settings', b'/x', b'host'):
            bad = text.replace(b'"sizes"', b'"' + name + b'"')
            with open(path, 'wb') as outf:
                outf.write(hashlib.sha256(bad).hexdigest().encode() + b'\n' + bad)
            self.assertIsNone(self.find(), name)

    def test_size(self):
        """When it is too much, what was not used for longest goes"""
        data = random.Random(1).randbytes(100_000)
        folders = [self.result(f'{num}', f'{num}' * 64, **{
            '.config': data[num * 10_000:][:50_000]}) for num in range(5)]
        self.fill(*folders)
        for path in self.files():
            os.utime(path, (1, 1))
        # Used since
        self.assertTrue(self.find('3' * 64, writable=True))
        os.unlink(os.path.join(self.folder, 'looked'))
        left = os.path.join(self.folder, 'objects', 'x.new')
        for path, age in ((left, 1), (left + '.new', None)):
            with open(path, 'wb'):
                pass
            if age:
                os.utime(path, (age, age))
        self.fill(self.result('9', '9' * 64), limit=150_000)
        self.assertEqual([True, True, False], [bool(self.find(f'{num}' * 64)) for num in (3, 9, 0)])
        self.assertEqual((False, True), (os.path.exists(left), os.path.exists(left + '.new')))
        for text, want in (('20G', 20 << 30), ('5 m', 5 << 20), ('7', 7), ('1TiB', 1 << 40)):
            self.assertEqual(want, parse_size(text))
        for text in ('', 'x', '-1', '0', '1X', '1 2'):
            with self.assertRaises(ValueError):
                parse_size(text)

    def test_cannot_write(self):
        """A line, and the run goes on"""
        with open(self.folder, 'wb'):
            pass
        said = self.fill(self.result(), self.result('c'))
        self.assertIn(f"result cache '{self.folder}': Not a directory", said)
        self.assertIsNone(self.find())

    def test_killed(self):
        """Whatever a writer was at: there is nothing, and the next one keeps it"""
        folder = self.result()
        for count in (0, 3, 3):
            code = WRITER.format(paths=[TOOLS], folder=self.folder,
                                 top=os.path.dirname(folder)).replace(
                'from', HALF.format(count=count) + 'from', 1)
            done = subprocess.run([sys.executable, '-c', code], check=False,
                                  stdout=subprocess.DEVNULL)
            self.assertEqual(-signal.SIGKILL, done.returncode)
            self.assertIsNone(self.find(writable=True))
        self.fill(folder)
        self.assertEqual(read_result(folder), self.find())

    def test_writers(self):
        """Several at a time, one of which is killed: all that is there is whole"""
        for num in range(40):
            self.result(f'{num:02}', f'{num % 10}' * 64, **{
                '.config': bytes([num % 10]) * 50_000, 'u-boot.cfg': b'x' * 100_000})
        top = os.path.join(self.top, 'results')
        code = WRITER.format(paths=[TOOLS], folder=self.folder, top=top)
        procs = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
                 for _ in range(3)]
        for proc in procs:
            proc.stdout.readline()
        procs[0].send_signal(signal.SIGKILL)
        for proc in procs:
            proc.stdout.close()
            self.assertIn(proc.wait(), (0, -signal.SIGKILL))
        for num in range(10):
            found = self.find(f'{num}' * 64)
            self.assertEqual(bytes([num]) * 50_000, found['.config'].data)
