# SPDX-License-Identifier: GPL-2.0+
"""Distributed builds over ssh: a stand-in that fails on demand, and a real sshd."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import ClassVar

import support
from dist_support import GONE_TIME, QUICK, FaultCase, SshdCase, StubCase, StubSshCase, read

# What tells the steps of a start-up apart in the commands of a machine
STEPS = {'probe': 'toolchains', 'init': 'worker_host', 'push': 'git-receive-pack',
         'worker': '--worker'}


class CutCase(StubSshCase):
    """One machine fails, the others do it all

    Attributes:
        victim: the machine that fails
    """

    sample_args = QUICK
    settings = '[distributed]\nheartbeat = 1\n'
    victim: ClassVar[str]

    def run_cut(self, what: str, told: str = '') -> support.Result:
        """Build while one fails, and check that the tree is whole"""
        self.misbehave(self.victim, what)
        shutil.rmtree(self.out(), ignore_errors=True)
        ref, status = self.local()
        done = self.dist('--no-local', timeout=100)
        self.assertEqual(status, done.returncode, f'{what}: {done}')
        self.assert_same(ref)
        self.assert_once()
        self.assert_clean(done.stderr)
        self.assertRegex(done.stdout, told or rf'\[{self.victim}\] ')
        self.assert_no_processes()
        return done

    def cut_steps(self) -> None:
        """Cut the connection at each step of the start-up; the machine is named"""
        for step, match in STEPS.items():
            with self.subTest(step=step):
                self.run_cut(f'cut-now match={match}',
                             rf'(?m)^\[{self.victim}\] .*(cut|closed)')

    def cut_messages(self, last: int, step: int = 2) -> None:
        """Cut it after each of the first messages, and in its middle

        Args:
            last: number of messages, at the most
            step: every so many of them
        """
        for count in range(0, last, step):
            mode = 'cut-in' if count // step % 2 else 'cut'
            with self.subTest(mode=mode, count=count):
                self.run_cut(f'{mode} {count} match=--worker', 'Completed: 4 total')


class TestCut(CutCase, StubCase):
    """FAULT 4: the connection is cut at each step; the other machine does it all"""

    victim = 'beta'

    def test_start_up(self) -> None:
        """At connect, in init, in push, before `ready`: the machine and the cause are named"""
        self.cut_steps()
        for mode, told in (('refuse', 'connection refused'), ('resolve', 'no such host'),
                           ('denied', 'permission denied'), ('changed', 'host key has changed'),
                           ('unreachable', 'not reachable')):
            with self.subTest(mode=mode):
                self.run_cut(mode, rf'(?m)^\[beta\] .*{told}')

    def test_messages(self) -> None:
        """After each of the first messages, and in its middle"""
        self.cut_messages(14)

    def test_killed(self) -> None:
        """Killed after some messages; the same while something holds the connection open"""
        for mode in ('kill 5', 'kill-hold 6', 'swallow 7', 'stop 8'):
            with self.subTest(mode=mode):
                self.run_cut(f'{mode} match=--worker', 'Completed: 4 total')

    def assert_no_processes(self, within: float = 60) -> None:
        """Fail if something is left, but for what the stand-in holds connections with"""
        for pid, text in support.marked_processes(self.marker).items():
            if text == 'sleep 600':
                os.kill(pid, signal.SIGKILL)
        super().assert_no_processes(within)


class TestOdd(StubCase):
    """Machines that are odd but work"""

    sample_args = QUICK
    names = ('beta',)

    def test_noise(self) -> None:
        """Noise between messages"""
        ref, status = self.local()
        self.misbehave('beta', 'noise 1 match=--worker')
        done = self.dist('--no-local')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assert_clean(done.stderr)

    def test_bad_messages(self) -> None:
        """Messages that make no sense are told of; boards are built again or named"""
        ref, status = self.local()
        self.misbehave('beta', 'corrupt 5 match=--worker')
        done = self.dist(timeout=120)
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assert_clean(done.stderr)

    def test_stderr(self) -> None:
        """What a worker's host says is shown with its name, and can do no harm"""
        self.misbehave('beta', 'banner 3')
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


class TestPhases(StubCase, FaultCase):
    """FAULT: signals in each phase: within seconds all is gone, and the next run completes"""

    def interrupt(self, match: str, sig: int, want: int) -> None:
        """Interrupt a run whose machine beta hangs in a step"""
        self.misbehave('beta', f'hang match={match}')
        self.misbehave('alpha', f'hang match={match}')
        proc = self.start_dist('--no-local')
        support.wait_until(lambda: self.hung(match), name=f'the step {match}')
        proc.send_signal(sig)
        sent = time.monotonic()
        self.assertEqual(want, proc.wait(60), self.errors())
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
            self.misbehave(name, '')
        self.go()
        done = self.dist('--no-local')
        self.assertEqual(self.ref_status, done.returncode, done)
        self.assert_same(self.ref)


class TestReal(SshdCase, FaultCase):
    """The same over the real thing"""

    names = ('m1', 'm2')

    def test_whole(self) -> None:
        """The tree and the exit status are the local ones"""
        self.go()
        for terms, want in (((), 100), (('rocket',), 101), (('sandbox',), 0)):
            with self.subTest(terms=terms):
                shutil.rmtree(self.out(), ignore_errors=True)
                ref, status = self.local(*terms)
                done = self.dist('--no-local', *terms)
                self.assertEqual((want, want), (status, done.returncode), done)
                self.assert_same(ref)
                self.assertLessEqual(set(self.hosts().values()), set(self.names))

    def test_killed(self) -> None:
        """FAULT 1"""
        self.lose(signal.SIGKILL)

    def test_stopped(self) -> None:
        """FAULT 2"""
        self.lose(signal.SIGSTOP)

    def test_sigint(self) -> None:
        """FAULT 17: all is gone within seconds, and the next run redoes nothing"""
        self.interrupt(signal.SIGINT, 130, '--no-local')

    def test_sigterm(self) -> None:
        """FAULT 17"""
        self.interrupt(signal.SIGTERM, 143, '--no-local')

    def test_sigkill(self) -> None:
        """FAULT 18: workers notice by themselves"""
        self.interrupt(signal.SIGKILL, -9, '--no-local')


class TestCutReal(SshdCase, CutCase):
    """FAULT 4 over the real thing: the ssh of one machine is killed at each step"""

    names = ('m1', 'm2')
    victim = 'm2'
    real_ssh = shutil.which('ssh') or ''

    def test_start_up(self) -> None:
        """In init, in push, before `ready`"""
        self.cut_steps()

    def test_messages(self) -> None:
        """In prepare, in a result, in the middle of a message"""
        self.cut_messages(14, 3)
