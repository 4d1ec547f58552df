# SPDX-License-Identifier: GPL-2.0+
"""Ways of not getting started: each is told for what it is, and the others carry on."""

from __future__ import annotations

import os
import re
import sys
from typing import List

import support
from dist_support import QUICK, DistCase, FaultCase, SshdCase, StubCase, read
from support import TESTS

# Our Python, which says that it is an older one
OLD_PYTHON = '''import sys
sys.version_info = (3, 6, 8)
at = sys.argv.index("-c")
code = sys.argv[at + 1]
del sys.argv[1:at + 1]
exec(code)
'''

# What the stand-in for ssh does, and what the user is told
SAID = {
    'refuse': 'connection refused; is sshd running there',
    'unreachable': 'not reachable; is it up',
    'no-route': 'not reachable; is it up',
    'resolve': r'no such host; see \[machines\]',
    'changed': r'its host key has changed; if that is right, run: ssh-keygen -R changed\.example',
    'unknown-key': r'its host key is not known; run: ssh unknown-key\.example true',
    'denied': 'permission denied; put your public key into its ~/.ssh/authorized_keys',
    'no-python': r'python3 is not installed there; buildman needs 3\.9',
    'old-python': r'python3 there is 3\.6; buildman needs 3\.9',
    'no-git': 'git is not installed there',
    'no-make': 'make is not installed there',
    'no-space': r'disk: \d+ MiB are free for .*, it takes 1024',
    'no-home': r"'.*/dev/\.bm-worker' there cannot be written: .*; see work_dir in "
               r'\[machine:NAME\]',
}


class TestReasons(StubCase):
    """FAULT 10: a different message for each reason"""

    sample_args = QUICK
    names = ('good', *SAID)

    def section(self, name: str) -> List[str]:
        if name == 'no-home':
            return ['max_load = 0']
        return super().section(name)

    def path_without(self, *names: str) -> str:
        """Return a folder with all programs but some, to be used as PATH"""
        bare = self.out('-'.join(['without', *names]))
        os.mkdir(bare)
        for folder in os.environ['PATH'].split(':'):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                where = os.path.join(bare, name)
                if not os.path.lexists(where) and not any(
                        re.match(rf'{gone}[\d.]*\Z', name) for gone in names):
                    os.symlink(os.path.join(folder, name), where)
        return bare

    def test_all(self) -> None:
        """Fourteen machines, of which one works: it builds everything, the rest is named"""
        for name in SAID:
            self.misbehave(name, name)
        self.misbehave('no-python', f"path {self.path_without('python3')}")
        self.misbehave('no-git', f"path {self.path_without('git')}")
        self.misbehave('no-make', f"path {self.path_without('make')}")
        old = self.path_without('python3', 'nothing')
        with open(os.path.join(old, 'python3'), 'w', encoding='utf-8') as outf:
            outf.write(f'#!{sys.executable}\n{OLD_PYTHON}')
        os.chmod(os.path.join(old, 'python3'), 0o755)
        self.misbehave('old-python', f'path {old}')
        full = support.full_disk(self.tmp, self.work_dir('no-space'))
        self.misbehave('no-space', f'env LD_PRELOAD={full}')
        # For root no folder is read-only; a file in the way does as well
        home = self.out('home')
        os.mkdir(home)
        with open(os.path.join(home, 'dev'), 'wb'):
            pass
        self.misbehave('no-home', f'home {home}')
        ref, status = self.local()
        done = self.dist('--no-local')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assert_clean(done.stderr)
        self.assertEqual({'good'}, set(self.hosts().values()))
        for name, text in SAID.items():
            self.assertRegex(done.stdout, rf'(?m)^\[{name}\] lost: .*{text}')
            lines = [line for line in done.stdout.splitlines() if line.startswith(f'[{name}]')]
            self.assertEqual(1, len(lines), lines)
        # What cannot be reached is paid for once, not at each step
        log = read(self.stub, 'log')
        for name in ('refuse', 'unreachable', 'no-route', 'resolve', 'denied'):
            self.assertEqual(1, log.count(f'{name}.example\t'), name)

    def test_nobody(self) -> None:
        """When none of them works, that is no success, and each is named"""
        names = ['refuse', 'denied', 'changed']
        for name in names:
            self.misbehave(name, name)
        done = self.dist('--no-local', '--use-machines', ','.join(names))
        self.assertEqual(100, done.returncode, done)
        for name in names:
            self.assertRegex(done.stdout, rf'(?m)^\[{name}\] lost: .*{SAID[name]}')
        self.assertRegex(done.stdout, r'(?m)^Not built: anvil sandbox: no machine is left')


class TestOdd(StubCase):
    """FAULT 11: machines that are odd but work"""

    sample_args = QUICK
    names = ('banner', 'raw', 'shell', 'newer', 'older')

    def test_all(self) -> None:
        """Banners, a login shell that prints, workers of other versions: all of them build"""
        self.misbehave('banner', 'banner 600')
        self.misbehave('raw', 'banner-raw Welcome, what follows has no line of its own: ')
        shell = self.out('shell')
        with open(shell, 'w', encoding='utf-8') as outf:
            outf.write('#!/bin/sh\necho "You have new mail"\nprintf "last login: today"\n'
                       'exec sh "$@"\n')
        os.chmod(shell, 0o755)
        self.misbehave('shell', f'shell {shell}')
        self.misbehave('newer', 'version 77 match=--worker')
        self.misbehave('older', 'version - match=--worker')
        ref, status = self.local()
        for name in self.names:
            with self.subTest(name=name):
                out = self.out(f'out-{name}')
                done = self.dist('--no-local', '--use-machines', name, '-o', out)
                self.assertEqual(status, done.returncode, done)
                self.assertNotIn('lost', done.stdout)
                self.assert_clean(done.stderr)
                if name == 'older':
                    # It does not know the fields that carry the files
                    self.assertEqual(self.verdicts(ref), self.verdicts(os.path.join(
                        out, 'feature')))
                else:
                    self.assert_same(ref, os.path.join(out, 'feature'))

    def test_killed_while_it_hangs(self) -> None:
        """A connection that hangs does not outlive a boss that is killed"""
        name = self.names[0]
        self.misbehave(name, 'hang')
        proc = self.start_dist('--no-local', '--use-machines', name)
        support.wait_until(lambda: self.calls(''), name='the first connection')
        proc.kill()
        proc.wait()
        self.assert_no_processes()


class TestMaxStartups(SshdCase, FaultCase):
    """FAULT 13: machines behind one sshd that turns most connections away"""

    max_startups = '1:60:3'
    login_noise = 'Welcome back'

    def test_all_take_part(self) -> None:
        """Connections are tried again, later and later; no machine is lost"""
        proc = self.start_dist('--no-local')
        self.wait_begun()
        for name in self.names:
            support.wait_until(
                lambda name=name: f'[{name}] ready' in read(self.results(), '.buildman.log'),
                name=f'{name} to be ready')
        self.go()
        self.assertNotIn('lost', self.check(proc))
        self.assertRegex(self.server.log(), 'MaxStartups|drop connection')


class TestDoor(DistCase):
    """FAULT 16: names and configuration that could do harm are refused where they enter"""

    sample_args = QUICK

    def test_config(self) -> None:
        """Exit status 2, one line, nothing run, nothing written"""
        touched = self.out('touched')
        cases = [f'[machines]\n-oProxyCommand=touch${{IFS}}{touched}\n',
                 f'[machines]\nx = -oProxyCommand=touch {touched}\n',
                 f'[machines]\nx = a b; touch {touched}\n',
                 f'[machines]\n$(touch {touched})\n',
                 f'[machines]\nx = `touch {touched}`\n',
                 '[machines]\nx = \n[machine:x]\ntransport = local\nwork_dir = relative\n',
                 '[machines]\n../../x = localhost\n',
                 '[machines]\nx = h\nx = g\n',
                 '[machines]\nx\n[machine:x]\nwork_dir = ~other/x\n',
                 f'[machines]\nx\n[machine:x]\nssh_options = touch {touched}\n',
                 '[machines]\nx\n[machine:x]\nmax_boards = -3\n',
                 '[machines]\nx\n[distributed]\nheartbeat = often\n']
        for text in cases:
            with self.subTest(text):
                config = self.out('bad.cfg')
                with open(config, 'w', encoding='utf-8') as outf:
                    outf.write(read(self.plain_config) + text)
                done = self.run_buildman('-G', config, '--dist', '-b', 'feature', '-o', self.out(),
                                         env={'PATH': f"{TESTS}/stub_ssh:{os.environ['PATH']}",
                                              'BM_STUB_DIR': self.tmp})
                self.assertEqual(2, done.returncode, done)
                self.assertEqual(1, done.stderr.count('\n'), done.stderr)
                self.assertFalse(os.path.exists(touched), 'it was run')
                self.assertFalse(os.path.exists(self.results()), 'something was begun')

    def test_flag(self) -> None:
        """--use-machines takes names of the configuration only"""
        for names in ('-oProxyCommand=x', 'alpha;beta', '$(id)', 'gamma', ','):
            with self.subTest(names):
                done = self.run_buildman('-b', 'feature', '-o', self.out(),
                                         f'--use-machines={names}')
                self.assertEqual(2, done.returncode, done)
                self.assertEqual(1, done.stderr.count('\n'), done.stderr)
        done = self.dist('--use-machines', 'alpha,alpha', '--no-local')
        self.assertEqual({'alpha'}, set(self.hosts().values()), done)
