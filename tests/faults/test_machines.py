# SPDX-License-Identifier: GPL-2.0+
"""Machines die, hang and are cut off; bosses are killed: nothing is lost, nothing stays."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
from typing import Any, ClassVar, Dict

import support
from dist_support import DistCase, FaultCase, joblog, read
from support import TESTS

from buildman.agent import lock, procfs


class TestLost(FaultCase):
    """A machine goes away while it builds"""

    def test_killed(self) -> None:
        """FAULT: SIGKILL in the middle of a board"""
        self.lose(signal.SIGKILL)

    def test_stopped(self) -> None:
        """FAULT: a worker that is stopped is noticed, and ended"""
        self.lose(signal.SIGSTOP)

    def test_pings(self) -> None:
        """A machine gets one ping for each heartbeat that it sends, not two"""
        name = self.names[0]
        way = self.out('way')
        with open(way, 'w', encoding='utf-8') as outf:
            # Of the commands there the worker alone speaks in messages
            outf.write(f'tee -a {way}.in | sh -c "$1" | tee -a {way}.out\n')
        self.ways[name] = f'sh {way}'
        self.machines(name)
        proc = self.start_dist('--no-local')
        self.wait_begun()

        def count(end: str, text: str) -> int:
            return read(f'{way}.{end}').count(text)

        pings, beats = count('in', '"cmd": "ping"'), count('out', '"resp": "heartbeat"')
        support.wait_until(lambda: count('out', '"resp": "heartbeat"') >= beats + 6,
                           name='six heartbeats')
        self.assertIn(count('in', '"cmd": "ping"') - pings, range(4, 9))
        self.go()
        self.check(proc)

    def test_all_lost(self) -> None:
        """Without any machine left this one completes the rest"""
        proc = self.start_dist()
        self.wait_begun()
        for name in self.names:
            pid = support.wait_until(lambda name=name: self.worker_pid(name) or
                                     f'[{name}] lost' in self.stdout(), name=name)
            if pid is not True:
                os.kill(pid, signal.SIGKILL)
        self.go()
        text = self.check(proc)
        for name in self.names:
            self.assertIn(f'[{name}] lost: ', text)

    def test_nobody_left(self) -> None:
        """With --no-local what was not built is named, and the next run completes it"""
        proc = self.start_dist('--no-local', '--use-machines', 'alpha')
        self.assertEqual('alpha', self.wait_begun())
        os.kill(self.worker_pid('alpha'), signal.SIGKILL)
        self.assertEqual(100, proc.wait(60), self.stdout())
        self.assertRegex(self.stdout(), r'(?m)^Not built: .*rocket.*: no machine is left')
        self.assert_no_processes()
        before = {key: os.stat(path).st_mtime_ns for key, path in self.done_files().items()}
        self.go()
        done = self.dist('--no-local')
        self.assertEqual(self.ref_status, done.returncode, done)
        self.assert_same(self.ref)
        after = self.done_files()
        for key, when in before.items():
            self.assertEqual(when, os.stat(after[key]).st_mtime_ns, f'{key} was built again')

    def done_files(self) -> Dict[str, str]:
        """Return the `done` files of the tree"""
        found = {}
        for folder, _, names in os.walk(self.results()):
            if 'done' in names and '.bm-work' not in folder:
                found[os.path.relpath(folder, self.results())] = os.path.join(folder, 'done')
        return found


class TestBadMachine(DistCase):
    """FAULT: a machine that fails everything at once does not eat the pool"""

    names = ('alpha', 'beta')
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 12, 'commits': 1}

    def test_damaged_repository(self) -> None:
        """A repository there that was damaged is begun anew; it used to cost the machine"""
        self.machines('alpha')
        args = ('--no-local', '--boards', 'anvil')
        self.assertEqual(0, self.dist(*args).returncode)
        git_dir = os.path.join(self.work_dir('alpha'), '.git')
        packs = glob.glob(os.path.join(git_dir, 'objects', 'pack', '*.pack'))
        self.assertTrue(packs)
        for path, size in [*((pack, 50) for pack in packs),
                           (os.path.join(git_dir, 'packed-refs'), 0)]:
            with open(path, 'ab') as outf:
                outf.truncate(size)
                outf.write(b'' if size else b'garbage\n')
            done = self.dist(*args, '-f')
            self.assertEqual(0, done.returncode, done)
            self.assertEqual({'alpha'}, set(self.hosts().values()))

    def test_put_aside(self) -> None:
        """Full disk: it is put aside, told, and nothing of it is in the tree"""
        # Not before there is another one, without which it would be kept
        begun = self.out('begun')
        self.wrap_make('beta', f'case "$*" in *O=*) until [ -e {begun} ]; do sleep 0.05; done; '
                               'echo "cannot create x: No space left on device" >&2; exit 2;; esac')
        # However late it begins, there are boards left for it
        log = os.path.join(self.results(), 'joblog')
        failed = f'$(grep beta.*infra {log} | cut -f 1 | sort -u | wc -l)'
        self.wrap_make('alpha', f'case "$*" in *O=*) : > {begun}; while [ {failed} -lt 3 ]; do '
                                'sleep 0.05; done;; esac')
        self.machines('alpha', 'beta')
        ref, status = self.local()
        done = self.dist('--no-local')
        self.assertEqual((0, 0), (status, done.returncode), done)
        self.assert_same(ref)
        self.assertRegex(done.stdout, r'(?m)^\[beta\] put aside, as \d+ boards in a row failed '
                                      r'there: .*space')
        # In the log at once, not only at the end
        text = read(self.results(), '.buildman.log')
        self.assertRegex(text, r"\[beta\] '\w+' failed as no space left; tried again\n")
        self.assertRegex(text, r'\[beta\] put aside, as \d+ boards in a row failed there: no space')
        self.assertRegex(done.stdout, r'(?m)^  beta was put aside, as \d+ boards in a row failed '
                                      r'there: no space left \(after ')
        self.assertRegex(done.stdout, r'(?m)^  tried again after a failure of a machine: .*'
                                      r' built on alpha')
        self.assertEqual({'alpha'}, set(self.hosts().values()))
        bad_jobs = [job for job in joblog(self.results()) if job['machine'] == 'beta']
        self.assertEqual({'infra'}, {job['status'] for job in bad_jobs})
        # Those that it had in hand
        self.assertLessEqual(len(bad_jobs), 12)

    def test_full_temporary_folder(self) -> None:
        """The only machine cannot build: it is named, with the folder that is full"""
        self.wrap_make('alpha', 'case "$*" in *O=*) echo "a.c:1:1: fatal error: error closing '
                                '/t/full/cc1.s: No space left on device" >&2; exit 2;; esac')
        self.machines('alpha')
        done = self.dist('--no-local', 'hammock')
        self.assertEqual(100, done.returncode, done)
        self.assertRegex(done.stdout, r'(?m)^Not built: hammock: given up after 3 attempts: '
                         r'no space left \(/t/full\) on alpha$')


class TestBosses(FaultCase):
    """More than one boss, and bosses that end"""

    def test_two(self) -> None:
        """FAULT 12: the second boss is told who has a machine, and goes on without it"""
        self.second_boss('alpha')

    def test_at_once(self) -> None:
        """FAULT 12: two at the same instant"""
        self.bosses_at_once('alpha')

    def test_sigint(self) -> None:
        """FAULT: Ctrl-C"""
        self.interrupt(signal.SIGINT, 130)

    def test_sigkill(self) -> None:
        """FAULT: a killed boss cannot clean up; its workers do"""
        self.interrupt(signal.SIGKILL, -9)

    def test_dead(self) -> None:
        """FAULT 12: what a dead boss holds is taken over, at once

        One machine has a worker that cannot notice, the other one a claim.
        """
        # Out of the reach of the boss's guard, as it is at the other end of a cable
        self.ways['alpha'] = 'setsid -w sh -c'
        self.machines(*self.names)
        proc = self.start_dist('--no-local', '--use-machines', 'alpha')
        self.wait_begun()
        stopped = self.worker_pid('alpha')
        os.kill(stopped, signal.SIGSTOP)
        proc.kill()
        proc.wait()
        dead = subprocess.run(
            [sys.executable, '-c', 'from buildman.remote import scripts\n'
             'print(scripts.new_owner().to_json())'], check=True, stdout=subprocess.PIPE,
            env={**os.environ, 'PYTHONPATH': os.path.join(TESTS, '..', 'tools')})
        owner = lock.Owner.from_json(dead.stdout.decode())
        assert owner
        lock.claim(self.work_dir('beta'), owner)
        for name in self.names:
            self.assertIsNotNone(lock.who(self.work_dir(name)))
        self.go()
        done = self.dist('--no-local')
        self.assertEqual(self.ref_status, done.returncode, done)
        self.assertNotRegex(done.stdout, r'busy|not used')
        self.assert_same(self.ref)
        self.assertNotIn(stopped, procfs.parents())
        for name in self.names:
            self.assertIn('init again: the boss has died',
                          read(self.results(), f'worker-{name}.log'))

    def test_kill_workers(self) -> None:
        """--kill-workers ends exactly the workers of the machines' locks"""
        proc = self.start_dist('--no-local', '--use-machines', 'alpha')
        self.wait_begun()
        # Another folder's worker, and a process that looks like one
        bystander = subprocess.Popen(['sh', '-c', 'read x', '--worker'],
                                     stdin=self._pipe(), env=self.env())
        self.addCleanup(bystander.wait)
        self.addCleanup(bystander.kill)
        pid = self.worker_pid('alpha')
        done = self.run_buildman('--kill-workers')
        self.assertEqual(0, done.returncode, done)
        self.assertRegex(done.stdout, rf'(?m)^alpha: killed .*\b{pid}\b')
        self.assertRegex(done.stdout, r'(?m)^beta: no workers$')
        self.assertIsNone(bystander.poll())
        bystander.kill()
        bystander.wait()
        self.assertEqual(100, proc.wait(60))
        self.assertRegex(self.stdout(), r'(?m)^Not built: .*rocket')
        self.assert_freed()

    def _pipe(self) -> int:
        """Return the end to read from of a pipe that stays open"""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        return ends[0]

    def test_clean_workers(self) -> None:
        """--clean-workers removes work folders, but none that is in use"""
        proc = self.start_dist('--no-local', '--use-machines', 'alpha')
        self.wait_begun()
        os.makedirs(os.path.join(self.work_dir('beta'), '.git'), exist_ok=True)
        done = self.run_buildman('--clean-workers')
        self.assertEqual(1, done.returncode, done)
        self.assertRegex(done.stdout, rf'(?m)^alpha: in use by .*pid {proc.pid}')
        self.go()
        self.check(proc)
        done = self.run_buildman('--clean-workers', '--use-machines', 'alpha')
        self.assertEqual(0, done.returncode, done)
        self.assertRegex(done.stdout, r'(?m)^alpha: removed ')
        self.assertFalse(os.path.exists(self.work_dir('alpha')))
