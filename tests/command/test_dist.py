# SPDX-License-Identifier: GPL-2.0+
"""A distributed build gives what a local one gives, and tells what happened."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any, ClassVar, Dict

import support
from dist_support import DistCase, joblog, read

from buildman.demo import sample_files
from buildman.remote import logs as joblog_module


class TestWhole(DistCase):
    """The whole branch of the sample: nine commits, a board of each kind and the late one"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 4}

    def test_same_tree(self) -> None:
        """A tree that depends on who built it cannot be compared with anything"""
        ref, status = self.local()
        done = self.dist()
        self.assertEqual((status, done.returncode), (100, 100), done)
        self.assert_same(ref)
        self.assert_once()
        self.assertGreater(len(set(self.hosts().values())), 1, 'one machine did it all')
        self.assertEqual(45, len(self.hosts()))


class TestTree(DistCase):
    """A small branch, and what is written and printed beside the results"""

    def test_remote_only(self) -> None:
        """--no-local that builds here anyhow burdens the machine people work on"""
        ref, _ = self.local()
        merged = self._put_merged()
        done = self.dist('--no-local')
        self.assertEqual(100, done.returncode, done)
        # Those logs are of what was built before
        self.assertFalse(os.path.exists(merged))
        self.assert_same(ref)
        self.assert_once()
        self.assertLessEqual(set(self.hosts().values()), {'alpha', 'beta'})
        self.assertEqual(16, len(self.hosts()))
        self._check_logs()
        self._check_output(done.stdout)
        self._second_run()

    def _put_merged(self) -> str:
        """Have a log that another folder has left in the results; return its path"""
        path = os.path.join(self.results(), '.bm-work', 'joblogs', 'shard-1', 'joblog')
        os.makedirs(os.path.dirname(path))
        with open(path, 'w', encoding='ascii') as outf:
            outf.write('\t'.join(joblog_module.COLUMNS) + '\n')
        return path

    def _check_logs(self) -> None:
        """Other programs, and people who look for a fault, read the logs"""
        jobs = [job for job in joblog(self.results()) if job['status'] != 'dropped']
        self.assertEqual({(int(job['commit']), job['board']): job['machine'] for job in jobs},
                         self.hosts())
        for job in jobs:
            self.assertEqual(tuple(job), joblog_module.COLUMNS)
            self.assertRegex(job['start'], r'^\d{10}\.\d{3}$')
            self.assertGreater(float(job['seconds']), 0)
            self.assertGreater(int(job['bytes']), 100)
            self.assertIn(job['status'], ('0', '2'))
        for name in self.names:
            lines = read(self.results(), f'worker-{name}.log').splitlines()
            for line in lines:
                self.assertRegex(line, r'^\d\d:\d\d:\d\d (<<|>>|--|!!) ')
            text = '\n'.join(lines)
            for part in ('-- push 4 commits', '>> {"cmd": "configure"', '>> {"cmd": "build_board"',
                         '<< {"resp": "build_result"', '>> quit',
                         '<< {"resp": "quit_ack"'):
                self.assertIn(part, text)
            self.assertNotIn('!!', text)
        text = read(self.results(), '.buildman.log')
        self.assertRegex(text, r'(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d start: 16 builds, '
                               r'machines: alpha, beta$')
        self.assertRegex(text, r'(?m) status: 16/16 done; '
                               r'alpha \d+/\d+ boards, \d+ results, load \d.*; beta ')

    def _check_output(self, text: str) -> None:
        """Who built what, and what it cost on the wire"""
        self.assertRegex(text, r'(?m)^ +\d+ +\d+ +\d+ /16 .*: \w+ \[(alpha|beta)\]$')
        found = dict(re.findall(r'(?m)^  (\w+): (\d+) results, sent [\d.]+ \w*B, '
                                r'received [\d.]+ \w*B$', text))
        self.assertEqual(set(found), {'alpha', 'beta'})
        # More, when an idle machine built once more what the other was building
        self.assertGreaterEqual(sum(int(count) for count in found.values()), 16)

    def _second_run(self) -> None:
        """With nothing to build no machine is troubled"""
        called = self.out('called')
        self.ways = {name: f'sh -c \'touch {called}; exec sh -c "$0"\'' for name in self.names}
        self.machines(*self.names)
        merged = self._put_merged()
        before = read(self.results(), 'joblog')
        done = self.dist('--no-local')
        self.assertEqual(100, done.returncode, done)
        self.assertIn('Completed: 16 total built (16 previously)', done.stdout)
        # Who built all that is known still
        self.assertEqual(before, read(self.results(), 'joblog'))
        self.assertTrue(os.path.exists(merged))
        self.assertNotIn('alpha', done.stdout + done.stderr)
        self.assertFalse(os.path.exists(called))

    def test_status(self) -> None:
        """CI takes the exit status for the verdict, wherever boards were built"""
        for terms, want in ((['rocket'], 101), (['rocket', '-W'], 0), (['sandbox'], 0)):
            with self.subTest(terms=terms):
                out = self.out('-'.join(terms))
                done = self.dist('--no-local', '--use-machines', 'beta', '-o', out, *terms)
                self.assertEqual(want, done.returncode, done)
                self.assertEqual({'beta'}, set(self.hosts(os.path.join(out, 'feature')).values()))

    def test_max_boards(self) -> None:
        """A machine that others use, too, gets no more than it is said to take"""
        # The first of the list
        env = self.write_knobs('rocket', f'signal {self.out("begun")}', f'wait {self.out("go")}')
        self.machines('alpha', alpha='max_boards = 1', extra='[worker-env]\nSAMPLE_KNOBS\n')
        proc = self.start_dist('--no-local', env=env)
        support.wait_for(self.out('begun'))
        log = os.path.join(self.results(), 'worker-alpha.log')
        support.wait_until(lambda: read(log).count('"build_board"') >= 2)
        self.assertEqual(2, read(log).count('"build_board"'), 'one in a slot, one ahead')
        with open(self.out('go'), 'wb'):
            pass
        self.assertEqual(100, proc.wait(120))
        self.assertIn('"build_started", "num_threads": 1', read(log))
        self.assertEqual(16, len(self.hosts()))

    def test_dry_run(self) -> None:
        """-n says who would get what, and builds nothing"""
        done = self.dist('-n')
        self.assertEqual(0, done.returncode, done)
        shares = re.findall(r'(?m)^   (\w+): ([\d.]+) boards \(([\w ]+)\)$', done.stdout)
        self.assertEqual(['local', 'alpha', 'beta'], [name for name, _, _ in shares])
        self.assertAlmostEqual(4.0, sum(float(share) for _, share, _ in shares), delta=0.2)
        self.assertFalse(os.path.exists(os.path.join(self.results(), 'joblog')))

    def test_nobody(self) -> None:
        """A board that nobody can build is named, and is no success"""
        text = read(self.config)
        text = re.sub(r'(?m)^riscv64 = .*\n', '', text)
        text = re.sub(r'(?m)^host = /usr\n', '', text)
        with open(self.config, 'w', encoding='utf-8') as outf:
            outf.write(text)
        done = self.dist('sandbox', 'hammock', '-c', '2', env={'PATH': self._bare_path()})
        self.assertEqual(100, done.returncode, done)
        self.assertRegex(done.stdout, r'(?m)^Not built: hammock: ')
        self.assertEqual({(0, 'sandbox'), (1, 'sandbox')}, set(self.hosts()))

    def _bare_path(self) -> str:
        """Return a PATH without any cross compiler"""
        bare = self.out('bin')
        os.mkdir(bare)
        for path in ('/usr/local/bin', '/usr/bin', '/bin'):
            for name in os.listdir(path) if os.path.isdir(path) else ():
                if not re.search(r'-(gcc|ld|nm|objdump|size|objcopy)(-\d+)?$', name):
                    where = os.path.join(bare, name)
                    if not os.path.lexists(where):
                        os.symlink(os.path.join(path, name), where)
        return bare


class TestArchs(DistCase):
    """Who has which compiler"""

    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': [sample_files.DEFAULT_BOARDS[0], sample_files.BoardSpec('xtbox', 'xtensa')],
        'commits': 1}

    def test_remote_only_arch(self) -> None:
        """A board that only another machine has a compiler for is built there"""
        tools = self.out('tools')
        os.mkdir(tools)
        for tool in ('gcc', 'ld', 'as', 'ar', 'nm', 'objcopy', 'objdump', 'readelf', 'size',
                     'strip'):
            path = os.path.join(tools, f'xtensa-linux-gnu-{tool}')
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(f'#!/bin/sh\nexec {tool} "$@"\n')
            os.chmod(path, 0o755)
        self.ways['beta'] = f'env PATH={tools}:{os.environ["PATH"]} sh -c'
        self.machines('alpha', 'beta')
        done = self.dist()
        self.assertEqual(0, done.returncode, done)
        hosts = self.hosts()
        self.assertEqual(4, len(hosts))
        self.assertEqual({'beta'}, {hosts[upto, 'xtbox'] for upto in (0, 1)})


class TestTooLarge(DistCase):
    """What is over a bound: the same here and from a machine, or told"""

    names = ('alpha',)

    def test_texts(self) -> None:
        """`log` and `err` are cut in one way, by what is in them without the names of folders"""
        knobs = self.write_knobs('hammock', 'noise 13000')
        ref, status = self.local('-c', '1', 'hammock', env=knobs)
        done = self.dist('--no-local', '-c', '1', 'hammock', env=knobs)
        self.assertEqual((status, done.returncode), (101, 101), done)
        self.assert_same(ref)
        for folder, _, names in os.walk(ref):
            for name in {'err', 'log'}.intersection(names):
                self.assertIn('… left out: ', read(folder, name))
                self.assertLess(os.path.getsize(os.path.join(folder, name)), 13 << 20)

    def test_image(self) -> None:
        """An image that is too large to be sent: told once, the rest of the result is kept"""
        self.wrap_make('alpha', '[ -e build/.config ] && truncate -s 3G build/big.img')
        self.machines('alpha')
        done = self.dist('--no-local', '-k', '-r', '-c', '2', 'hammock')
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(re.findall(r'(?m)^\[alpha\] .*big\.img.*$', done.stdout), [
            "[alpha] image 'big.img' of 'hammock' is not kept: it has 3221225472 bytes, "
            '2147483648 can be taken from a machine'])
        self.assert_same(self.local('-k', '-r', '-c', '2', 'hammock')[0])
        self.assertEqual(len(self.hosts()), 2)


class TestViews(DistCase):
    """What git shows in another way than it is, and refs that it hides"""

    names = ('alpha',)

    def test_same_tree(self) -> None:
        """A commit is what its name says, here and there: results are known by it"""
        repo = self.out('repo')

        def git(*args: str) -> str:
            return subprocess.run(['git', '-C', self.tmp, *args], check=True, text=True,
                                  capture_output=True, env=self.env()).stdout.strip()

        git('clone', '-q', '-b', 'feature', self.tree.path, repo)
        for key, val in (('i18n.logOutputEncoding', 'ISO-8859-1'), ('transfer.hideRefs', 'refs'),
                         ('i18n.commitEncoding', 'ISO-8859-1'), ('user.name', 'A'),
                         ('user.email', 'a@example.com')):
            git('-C', repo, 'config', key, val)
        subprocess.run(['git', '-C', repo, 'commit', '-q', '--allow-empty', '-F', '-'],
                       input='Größe'.encode('iso-8859-1'), check=True)
        args = ('-b', 'feature', '-c', '3', 'hammock', 'rocket', '-o')
        self.assertEqual(self.run_buildman(*args, self.out('plain'), cwd=repo).returncode, 101)
        replaced = git('-C', repo, 'rev-parse', 'feature~1')
        git('-C', repo, 'replace', 'feature~1', 'feature~3')
        git('-C', repo, 'replace', 'feature^{tree}', 'feature~3^{tree}')
        with open(f'{repo}/.git/info/grafts', 'w', encoding='ascii') as outf:
            outf.write(git('-C', repo, 'rev-parse', 'feature') + '\n')
        for name, more in (('here', ()), ('there', ('--no-local', '--dist'))):
            with self.subTest(name=name):
                done = self.run_buildman(*args, self.out(name), *more, cwd=repo)
                self.assertEqual((done.returncode, done.stderr), (101, (
                    f'{replaced[:12]} is built as it is, not as refs/replace has it\n')), done)
                self.assert_same(self.out('plain/feature'), self.out(f'{name}/feature'))
        self.assertIn('_Größe', ''.join(os.listdir(self.out('here/feature'))))
