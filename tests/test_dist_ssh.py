# SPDX-License-Identifier: GPL-2.0+
"""Distributed builds over ssh: a stand-in that fails on demand, and a real sshd."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import sys
import time
import unittest
from typing import Any, ClassVar, Dict, List, Mapping, Optional

TESTS = os.path.dirname(os.path.abspath(__file__))
for folder in (TESTS, os.path.join(TESTS, '..', 'tools')):
    if folder not in sys.path:
        sys.path.insert(0, folder)

import sshd  # noqa: E402
import support  # noqa: E402
from dist_support import GONE_TIME, DistCase, FaultCase, read  # noqa: E402

# What tells the steps of a start-up apart in the commands of a machine
STEPS = {'probe': 'toolchains', 'init': 'worker_host', 'push': 'git-receive-pack',
         'worker': '--worker'}


class StubMixin(DistCase):
    """The machines are hosts of a stand-in for ssh"""

    stub: str

    def setUp(self) -> None:
        self.stub = ''
        super().setUp()
        self.stub = self.out('stub')
        os.makedirs(self.stub)

    def host(self, name: str) -> str:
        return f'{name}.example'

    def section(self, name: str) -> List[str]:
        # The load here is our own
        return ['max_load = 0', f'work_dir = {self.work_dir(name)}']

    def env(self, extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        env = super().env(extra)
        if getattr(self, 'stub', ''):
            env['BM_STUB_DIR'] = self.stub
            env['PATH'] = os.path.join(TESTS, 'stub_ssh') + ':' + env['PATH']
        return env

    def fail(self, name: str, *lines: str) -> None:  # type: ignore[override]
        """Say how a machine is to fail"""
        with open(os.path.join(self.stub, f'{self.host(name)}.ctl'), 'w',
                  encoding='utf-8') as outf:
            outf.write('\n'.join(lines) + '\n')

    def calls(self, text: str) -> int:
        """Return how often ssh was called with a command that contains a text"""
        try:
            return read(self.stub, 'log').count(text)
        except FileNotFoundError:
            return 0


class TestCut(StubMixin):
    """FAULT: the connection is cut at each step; the other machine does it all"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}
    settings = '[distributed]\nheartbeat = 1\n'

    def run_cut(self, what: str, told: str = r'\[beta\] ') -> support.Result:
        """Build while beta fails, and check that the tree is whole"""
        self.fail('beta', what)
        shutil.rmtree(self.out(), ignore_errors=True)
        ref, status = self.local()
        done = self.dist('--no-local', timeout=100)
        self.assertEqual(status, done.returncode, f'{what}: {done}')
        self.assert_same(ref)
        self.assert_once()
        self.assert_clean(done.stderr)
        self.assertRegex(done.stdout, told)
        self.assert_no_processes()
        return done

    def test_start_up(self) -> None:
        """At connect, in init, in push, before `ready`: the machine and the cause are named"""
        for step, match in STEPS.items():
            with self.subTest(step=step):
                self.run_cut(f'cut-now match={match}', r'(?m)^\[beta\] .*(cut|closed)')
        for mode, told in (('refuse', 'connection refused'), ('resolve', 'no such host'),
                           ('denied', 'permission denied'), ('changed', 'host key has changed'),
                           ('unreachable', 'not reachable')):
            with self.subTest(mode=mode):
                self.run_cut(mode, rf'(?m)^\[beta\] .*{told}')

    def test_messages(self) -> None:
        """After each of the first messages, and in its middle"""
        for count in range(0, 14, 2):
            mode = 'cut-in' if count % 4 else 'cut'
            with self.subTest(mode=mode, count=count):
                self.run_cut(f'{mode} {count} match=--worker', 'Completed: 4 total')

    def test_killed(self) -> None:
        """Killed after some messages; the same while something holds the connection open"""
        for mode in ('kill 5', 'kill-hold 6', 'swallow 7', 'stop 8'):
            with self.subTest(mode=mode):
                self.run_cut(f'{mode} match=--worker', 'Completed: 4 total')

    def assert_no_processes(self, within: float = 5) -> None:
        """Fail if something is left, but for what the stand-in holds connections with"""
        for pid, text in support.marked_processes(self.marker).items():
            if text == 'sleep 600':
                os.kill(pid, signal.SIGKILL)
        super().assert_no_processes(within)


class TestOdd(StubMixin):
    """Machines that are odd but work"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}
    names = ('beta',)

    def test_noise(self) -> None:
        """Banners, with or without newline, and noise between messages"""
        ref, status = self.local()
        for lines in (['banner 600'], ['banner-raw Welcome'], ['noise 1 match=--worker'],
                      ['version 77 match=--worker'], ['corrupt 1000 match=--worker']):
            with self.subTest(lines=lines):
                self.fail('beta', *lines)
                shutil.rmtree(self.out(), ignore_errors=True)
                done = self.dist('--no-local')
                self.assertEqual(status, done.returncode, done)
                self.assert_same(ref)
                self.assert_clean(done.stderr)

    def test_bad_messages(self) -> None:
        """Messages that make no sense are told of; boards are built again or named"""
        ref, status = self.local()
        self.fail('beta', 'corrupt 5 match=--worker')
        done = self.dist(timeout=120)
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assert_clean(done.stderr)

    def test_stderr(self) -> None:
        """What a worker's host says is shown with its name, and can do no harm"""
        self.fail('beta', 'banner 3')
        wrapper = self.out('loud')
        with open(wrapper, 'w', encoding='utf-8') as outf:
            outf.write('#!/bin/sh\nprintf "disk \\033]0;owned\\007 nearly full\\n" >&2\n'
                       'exec sh -c "$1"\n')
        os.chmod(wrapper, 0o755)
        self.ways['beta'] = wrapper
        text = read(self.config).replace('max_load = 0',
                                         f'max_load = 0\ntransport = {wrapper}')
        with open(self.config, 'w', encoding='utf-8') as outf:
            outf.write(text)
        done = self.dist('--no-local')
        self.assertEqual(0, done.returncode, done)
        self.assertRegex(done.stdout + done.stderr, r'(?m)^\[beta\] disk .*nearly full$')
        self.assertNotIn('\033', done.stdout + done.stderr)


class TestPhases(StubMixin, FaultCase):
    """FAULT: signals in each phase: within seconds all is gone, and the next run completes"""

    def interrupt(self, match: str, sig: int, want: int) -> None:
        """Interrupt a run whose machine beta hangs in a step"""
        self.fail('beta', f'hang match={match}')
        self.fail('alpha', f'hang match={match}')
        proc = self.start_dist('--no-local')
        support.wait_until(lambda: self.hung(match), name=f'the step {match}')
        proc.send_signal(sig)
        sent = time.monotonic()
        self.assertEqual(want, proc.wait(30), self.errors())
        support.assert_no_processes(self.marker, max(0.1, sent + GONE_TIME - time.monotonic()))
        self.assert_freed()
        self.assert_clean(self.errors())

    def hung(self, match: str) -> bool:
        """Return whether the stand-in of both machines has come to a step"""
        found = support.marked_processes(self.marker).values()
        return sum(match in text and 'stub_ssh/ssh' in text for text in found) >= 2

    def test_each(self) -> None:
        """SIGINT and SIGTERM in probe, init, push and at the worker's start"""
        for pos, match in enumerate(STEPS.values()):
            sig, want = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[pos % 2]
            with self.subTest(match=match, sig=sig):
                self.interrupt(match, sig, want)
        for name in self.names:
            self.fail(name, '')
        self.go()
        done = self.dist('--no-local')
        self.assertEqual(self.ref_status, done.returncode, done)
        self.assert_same(self.ref)


class SshdCase(DistCase):
    """The machines are users behind a real sshd on 127.0.0.1"""

    names = ('m1', 'm2', 'm3')
    server: ClassVar[sshd.Sshd]

    @classmethod
    def setUpClass(cls) -> None:
        sshd.require()
        super().setUpClass()
        cls.server = sshd.Sshd(machines=3)
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)
        for path in (cls.base, cls.toolchains, os.path.join(cls.toolchains, 'bin')):
            os.chmod(path, 0o755)

    def work_dir(self, name: str) -> str:
        return os.path.join(self.server.homes[int(name[1:]) - 1], 'dev', '.bm-worker')

    def machines(self, *names: str, extra: str = '', **sections: str) -> None:
        text = self.server.config()
        for name, lines in sections.items():
            text = text.replace(f'[machine:{name}]\n', f'[machine:{name}]\n{lines}\n')
        self.config = os.path.join(self.tmp, 'buildman.cfg')
        from buildman import sample
        sample.write_config(self.config, self.toolchains,
                            extra=text + self.settings + '\n' + extra)


class TestReal(SshdCase, FaultCase):
    """The same over the real thing"""

    def test_whole(self) -> None:
        """Three machines and this one; the tree and the exit status are the local ones"""
        self.go()
        for terms, want in (((), 100), (('rocket',), 101), (('sandbox',), 0)):
            with self.subTest(terms=terms):
                shutil.rmtree(self.out(), ignore_errors=True)
                ref, status = self.local(*terms)
                done = self.dist('--no-local', *terms)
                self.assertEqual((want, want), (status, done.returncode), done)
                self.assert_same(ref)
                self.assertLessEqual(set(self.hosts().values()), set(self.names))

    def other_than(self, name: str) -> List[str]:
        """Return the other machines"""
        return [other for other in self.names if other != name]

    def lose(self, sig: int) -> None:
        """Send a signal to the worker that has rocket"""
        proc = self.start_dist('--no-local')
        name = self.wait_begun()
        os.kill(self.worker_pid(name), sig)
        support.wait_until(lambda: f'[{name}] lost: ' in self.stdout(), name='the loss to be told')
        self.go()
        self.check(proc)
        self.assertIn(self.hosts()[3, 'rocket'], self.other_than(name))
        self.assert_freed()
        for num in range(3):
            support.wait_until(lambda num=num: not self.server.processes(num), GONE_TIME,
                               f'processes of {self.names[num]} to end')

    def test_killed(self) -> None:
        """FAULT 1"""
        self.lose(signal.SIGKILL)

    def test_stopped(self) -> None:
        """FAULT 2"""
        self.lose(signal.SIGSTOP)

    def interrupt(self, sig: int, want: int) -> None:
        """FAULTS 17 and 18: the boss ends in the middle of a board"""
        proc = self.start_dist('--no-local')
        self.wait_begun()
        proc.send_signal(sig)
        sent = time.monotonic()
        self.assertEqual(want, proc.wait(30), self.errors())
        for num in range(3):
            support.wait_until(lambda num=num: not self.server.processes(num),
                               max(0.1, sent + GONE_TIME - time.monotonic()),
                               f'processes of {self.names[num]} to end')
        self.assert_freed()
        self.go()
        done = self.dist('--no-local')
        self.assertEqual(self.ref_status, done.returncode, done)
        self.assert_same(self.ref)

    def test_sigint(self) -> None:
        """FAULT 17"""
        self.interrupt(signal.SIGINT, 130)

    def test_sigkill(self) -> None:
        """FAULT 18"""
        self.interrupt(signal.SIGKILL, -9)

    def test_two(self) -> None:
        """FAULT 12: the second boss is told who holds the machine"""
        proc = self.start_dist('--no-local', '--use-machines', 'm1')
        self.wait_begun()
        done = self.dist('-o', self.out('second'), '--no-local', '--use-machines', 'm1', 'sandbox')
        self.assertEqual(100, done.returncode, done)
        self.assertTrue(re.search(rf'(?m)^\[m1\] .*busy.*{getpass.getuser()}@.*, pid {proc.pid}, ',
                                  done.stdout), done)
        self.go()
        self.check(proc)


if __name__ == '__main__':
    unittest.main()
