# SPDX-License-Identifier: GPL-2.0+
"""The lock of a machine: real processes that claim, hold, die and are killed."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

from support import TOOLS, wait_for

from buildman.agent import lock, procfs, setup
from buildman.remote import scripts, ssh

WAIT = 30       # seconds; only a failing test ever waits for so long

# A worker: holds the lock, starts what it is told to, says so, and waits
WORKER = '''
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from buildman.agent import lock
try:
    held = lock.hold(sys.argv[2], sys.argv[3])
except lock.LockBusy as exc:
    print("busy", exc, flush=True)
    sys.exit(1)
children = [subprocess.Popen(cmd, shell=True, start_new_session=True,
                             stdout=subprocess.DEVNULL) for cmd in sys.argv[4:]]
print("held", *[child.pid for child in children], flush=True)
sys.stdin.readline()
held.release()
print("released", flush=True)
sys.stdin.readline()
'''

# Waits for a byte on stdin, then claims and says how it went
CLAIMANT = '''
import sys
sys.path.insert(0, sys.argv[1])
from buildman.agent import lock
owner = lock.Owner(user="u", host="h", pid=1, run=sys.argv[3])
sys.stdin.read(1)
try:
    lock.claim(sys.argv[2], owner)
    print("won", flush=True)
except lock.LockBusy as exc:
    print("busy", exc.owner.run, flush=True)
'''


def alive(pid):
    """Tell whether a process is there and no zombie."""
    return pid in procfs.parents()


class LockCase(unittest.TestCase):
    """A test with a work folder."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = os.path.join(tmp.name, 'work dir')
        os.mkdir(self.dir)
        # Processes are found by these, whatever else runs here
        self.run_a, self.run_b = f'a-{uuid.uuid4().hex}', f'b-{uuid.uuid4().hex}'
        self.addCleanup(lock.kill, self.dir, 0)

    def owner(self, run=None):
        """Return the owner of a run."""
        return lock.Owner(user='ann', host='desk', pid=77, run=run or self.run_a)

    def worker(self, run=None, *cmds):
        """Start a worker; return it and what it says."""
        run = self.run_a if run is None else run
        proc = subprocess.Popen([sys.executable, '-c', WORKER, TOOLS, self.dir, run, *cmds],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end, proc)
        return proc, proc.stdout.readline().split()

    @staticmethod
    def end(proc):
        """End a process that we started."""
        proc.kill()
        proc.wait()
        proc.stdin.close()
        proc.stdout.close()

    def busy(self, owner):
        """Claim what is taken; return by whom."""
        with self.assertRaises(lock.LockBusy) as caught:
            lock.claim(self.dir, owner)
        return caught.exception.owner


class TestClaim(LockCase):
    """Between `init` and the start of the worker."""

    def test_second_is_told_who(self):
        """The second boss can go and ask the owner of the first."""
        lock.claim(self.dir, self.owner())
        owner = self.busy(self.owner(self.run_b))
        self.assertEqual((owner.user, owner.host, owner.pid, owner.run),
                         ('ann', 'desk', 77, self.run_a))
        self.assertRegex(str(owner), r'^ann@desk, pid 77, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$')

    def test_same_run_renews(self):
        lock.claim(self.dir, self.owner(), now=time.time() - 55)
        lock.claim(self.dir, self.owner())
        self.assertGreater(lock._claimant(self.dir, '', time.time()).expiry, time.time() + 50)

    def test_expires(self):
        """A boss that died after `init` does not block the machine."""
        lock.claim(self.dir, self.owner(), now=time.time() - 61)
        lock.claim(self.dir, self.owner(self.run_b))
        self.assertEqual(self.busy(self.owner(self.run_a)).run, self.run_b)

    def test_clock_set_back(self):
        """A claim from far ahead in time would hold for years."""
        lock.claim(self.dir, self.owner(), now=time.time() + 1e6)
        lock.claim(self.dir, self.owner(self.run_b))

    def test_push_prolongs(self):
        """A first push over a slow network takes longer than a claim holds."""
        lock.claim(self.dir, self.owner(), now=time.time() - 61)
        git_dir = os.path.join(self.dir, '.git')
        self.assertFalse(lock._pushing(git_dir))
        # What a push looks like from outside
        script = os.path.join(self.dir, 'git-receive-pack')
        with open(script, 'w', encoding='utf-8') as outf:
            outf.write('print("x", flush=True)\ninput()\n')
        proc = subprocess.Popen([sys.executable, script, git_dir], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
        self.addCleanup(self.end, proc)
        proc.stdout.readline()
        self.assertTrue(lock._pushing(git_dir))
        self.assertFalse(lock._pushing('/elsewhere/.git'))
        self.assertEqual(self.busy(self.owner(self.run_b)).run, self.run_a)

    def test_recent_push_prolongs(self):
        """After the push there is time to start the worker."""
        lock.claim(self.dir, self.owner(), now=time.time() - 100)
        refs = os.path.join(self.dir, '.git', lock.RUN_REFS)
        os.makedirs(refs)
        self.assertEqual(self.busy(self.owner(self.run_b)).run, self.run_a)
        os.utime(refs, (0, time.time() - 61))
        lock.claim(self.dir, self.owner(self.run_b))

    def test_garbage(self):
        """A damaged lock file frees the machine rather than crash each boss."""
        for text in ('', '{', '[]', '{"run": 3}', '{"run": "x", "expiry": "y"}', '[' * 99999,
                     '\x00\xff', 'x' * 999999):
            with open(os.path.join(self.dir, lock.CLAIM), 'w', encoding='latin-1') as outf:
                outf.write(text)
            self.assertIsNone(lock.Owner.from_json(text))
        with open(os.path.join(self.dir, lock.CLAIM), 'w', encoding='utf-8') as outf:
            outf.write('{"run": "old", "since": 1, "expiry": 2, "new-field": []}')
        lock.claim(self.dir, self.owner())

    def test_older_buildman(self):
        """Upstream's lock holds while a worker of whatever version runs."""
        path = os.path.join(self.dir, lock.CLAIM)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('1700000000\n')
        proc = subprocess.Popen(['sh', '-c', 'read x', 'buildman', '--worker'],
                                stdin=subprocess.PIPE)
        self.addCleanup(proc.wait)
        try:
            self.assertEqual(str(self.busy(self.owner())), 'another buildman')
        finally:
            proc.stdin.close()
        proc.wait()
        # Whatever else runs on this machine while we test
        old, lock._older_worker = lock._older_worker, lambda: False
        try:
            lock.claim(self.dir, self.owner())
        finally:
            lock._older_worker = old
        # And with our claim it finds the file that it looks for
        self.assertTrue(os.path.exists(path))

    def test_many_at_once(self):
        """Of twelve bosses at the same instant exactly one gets the machine."""
        for turn in range(3):
            procs = [subprocess.Popen(
                [sys.executable, '-c', CLAIMANT, TOOLS, self.dir, f'run-{turn}-{num}'],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for num in range(12)]
            for proc in procs:
                proc.stdin.write('x')
                proc.stdin.flush()
            said = [proc.communicate(timeout=WAIT)[0].split() for proc in procs]
            winners = [f'run-{turn}-{num}' for num, words in enumerate(said) if words == ['won']]
            self.assertEqual(len(winners), 1, said)
            self.assertEqual([words for words in said if words != ['won']],
                             [['busy', winners[0]]] * 11)
            os.remove(os.path.join(self.dir, lock.CLAIM))

    def test_mutex_is_given_up(self):
        """A process that hangs with the mutex is named, not waited for."""
        old = lock.MUTEX_SECONDS
        lock.MUTEX_SECONDS = .05
        try:
            with lock._mutex(self.dir), self.assertRaisesRegex(lock.LockStuck, 'has been locked'):
                lock.claim(self.dir, self.owner())
        finally:
            lock.MUTEX_SECONDS = old


class TestHold(LockCase):
    """While the worker lives."""

    def test_life_of_a_worker(self):
        lock.claim(self.dir, self.owner())
        proc, said = self.worker()
        self.assertEqual(said, ['held'])
        owner = self.busy(self.owner(self.run_b))
        self.assertEqual((owner.user, owner.run, owner.worker_pid), ('ann', self.run_a, proc.pid))
        # Its own boss may begin the repository anew; that changes nothing here,
        # and there is no second worker, not even of the same run
        lock.claim(self.dir, self.owner())
        self.assertEqual(self.busy(self.owner(self.run_b)).worker_pid, proc.pid)
        self.assertEqual(self.worker()[1][0], 'busy')
        proc.stdin.write('\n')
        proc.stdin.flush()
        self.assertEqual(proc.stdout.readline(), 'released\n')
        lock.claim(self.dir, self.owner(self.run_b))

    def test_claim_of_another(self):
        """A worker whose boss was too slow does not push in."""
        lock.claim(self.dir, self.owner(self.run_b))
        self.assertEqual(self.worker(self.run_a)[1][0], 'busy')

    def test_dead_worker_frees(self):
        """SIGKILL, no chance to clean up: the next boss gets the machine at once."""
        lock.claim(self.dir, self.owner())
        # A grandchild lives on; it does not hold the lock
        proc, said = self.worker(self.run_a, 'exec sleep 600')
        child = int(said[1])
        self.addCleanup(os.kill, child, signal.SIGKILL)
        proc.kill()
        proc.wait()
        self.assertTrue(alive(child))
        lock.claim(self.dir, self.owner(self.run_b))

    def test_lock_file_removed(self):
        """`rm -f .lock` (an older buildman does so) does not take a live worker's machine."""
        lock.claim(self.dir, self.owner())
        self.worker()
        os.remove(os.path.join(self.dir, lock.CLAIM))
        self.assertEqual(self.busy(self.owner(self.run_b)).run, self.run_a)

    def test_without_claim(self):
        """An older boss drives our worker: it knows nothing of claims and runs."""
        with open(os.path.join(self.dir, lock.CLAIM), 'w', encoding='utf-8') as outf:
            outf.write('1700000000\n')
        _, said = self.worker('')
        self.assertEqual(said, ['held'])
        with open(os.path.join(self.dir, lock.CLAIM), encoding='utf-8') as inf:
            self.assertEqual(inf.read(), '1700000000\n')
        self.assertEqual(self.busy(self.owner()).run, '')


class TestKill(LockCase):
    """--kill-workers and its like."""

    def test_worker_and_all_below(self):
        """The builds of a worker end with it, also those in groups of their own."""
        lock.claim(self.dir, self.owner())
        proc, said = self.worker(self.run_a, 'trap "" TERM; sleep 600 & wait; wait',
                                 'sleep 601 & wait')
        bystander = subprocess.Popen(['sh', '-c', 'read x', 'buildman', '--worker'],
                                     stdin=subprocess.PIPE)
        self.addCleanup(bystander.wait)
        self.addCleanup(bystander.stdin.close)
        pids = set()
        while len(pids) < 5:
            pids = lock.processes_of(lock._holder(self.dir))
        self.assertIn(proc.pid, pids)
        self.assertLessEqual({int(word) for word in said[1:]}, pids)
        self.assertNotIn(bystander.pid, pids)
        line = lock.kill(self.dir, grace=.1)
        self.assertTrue(line.startswith('killed '), line)
        self.assertIn('ann@desk, pid 77', line)
        for pid in pids:
            self.assertFalse(alive(pid))
        self.assertTrue(alive(bystander.pid))
        lock.claim(self.dir, self.owner(self.run_b))

    def test_stopped_worker(self):
        lock.claim(self.dir, self.owner())
        proc, _ = self.worker()
        os.kill(proc.pid, signal.SIGSTOP)
        self.assertIn(str(proc.pid), lock.kill(self.dir))
        self.assertEqual(proc.wait(WAIT), -signal.SIGTERM)

    def test_strays_of_a_dead_worker(self):
        """A build whose worker died still eats the machine; it is found by its run."""
        lock.claim(self.dir, self.owner(self.run_b))
        proc, said = self.worker(self.run_b, 'exec sleep 600')
        stray = int(said[1])
        proc.kill()
        proc.wait()
        self.assertIn(f'killed {stray} ', lock.kill(self.dir))
        self.assertFalse(alive(stray))

    def test_nobody(self):
        self.assertEqual(lock.kill(self.dir), 'no workers')
        self.assertEqual(lock.kill(os.path.join(self.dir, 'nowhere')), 'no workers')
        lock.claim(self.dir, self.owner())
        self.assertEqual(lock.kill(self.dir), 'no workers')
        lock.claim(self.dir, self.owner(self.run_b))

    def test_number_used_again(self):
        """After a reboot the number in the file may be anybody's: left alone."""
        other = subprocess.Popen(['sleep', '600'])
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        owner = lock.Owner(user='ann', host='desk', pid=1, run='run-gone', since=1.0,
                           worker_host=os.uname().nodename, worker_pid=other.pid,
                           worker_start='12')
        with open(os.path.join(self.dir, lock.HELD), 'w', encoding='utf-8') as outf:
            outf.write(owner.to_json())
        self.assertEqual(lock.kill(self.dir), 'no workers')
        self.assertTrue(alive(other.pid))

    def test_clean(self):
        """A work folder in use is not removed, nor one that is not ours."""
        with self.assertRaisesRegex(lock.LockStuck, 'not a work folder'):
            lock.clean(self.dir)
        lock.claim(self.dir, self.owner())
        with self.assertRaises(lock.LockBusy):
            lock.clean(self.dir)
        os.remove(os.path.join(self.dir, lock.CLAIM))
        self.assertTrue(lock.clean(self.dir).startswith('removed '))
        self.assertFalse(os.path.exists(self.dir))
        self.assertEqual(lock.clean(self.dir), 'nothing to remove')


class TestScripts(LockCase):
    """The same through shell commands, as a boss has them carried out."""

    def setUp(self):
        super().setUp()
        self.transport = ssh.make_transport('here', 'local')
        self.work = os.path.join(self.dir, "it's $HOME; \u00e4 work")

    def run_cmd(self, cmd):
        """Run a command on the machine."""
        return self.transport.run(cmd, WAIT)

    def init(self, owner, **kwargs):
        """Run init; return the answer."""
        return scripts.parse_init(self.run_cmd(scripts.init_script(self.work, owner, **kwargs)))

    def test_init(self):
        answer = self.init(self.owner())
        self.assertEqual(answer, scripts.InitAnswer(work_dir=self.work))
        config = subprocess.run(['git', '-C', self.work, 'config', 'receive.shallowUpdate'],
                                capture_output=True, text=True, check=True).stdout
        self.assertEqual(config, 'true\n')
        # Again by the same, then by another
        self.assertEqual(self.init(self.owner()).work_dir, self.work)
        answer = self.init(self.owner(self.run_b))
        self.assertTrue(answer.busy)
        self.assertEqual((answer.work_dir, answer.owner.user, answer.owner.run),
                         ('', 'ann', self.run_a))
        # Another's claim is not removed, one's own is
        self.run_cmd(scripts.remove_lock_script(self.work, self.run_b))
        self.assertTrue(self.init(self.owner(self.run_b)).busy)
        self.run_cmd(scripts.remove_lock_script(self.work, self.run_a))
        self.assertFalse(self.init(self.owner(self.run_b)).busy)
        cmd = scripts.remove_lock_script(self.work)
        self.assertIn('rm -f', cmd)
        self.run_cmd(cmd)
        self.assertFalse(self.init(self.owner('run-c')).busy)
        self.assertTrue(scripts.parse_init(self.run_cmd(scripts.clean_script(self.work))).busy)
        self.assertEqual(self.run_cmd(scripts.kill_script(self.work)).strip(), 'no workers')
        self.assertIn('removed', self.run_cmd(scripts.clean_script(self.work)))

    def test_boss_gone(self):
        """A boss that was ended in the middle of init leaves no claim behind."""
        folder = os.path.join(self.dir, 'bin')
        os.mkdir(folder)
        go_on = os.path.join(self.dir, 'go')
        with open(os.path.join(folder, 'git'), 'w', encoding='utf-8') as outf:
            outf.write(f'#!/bin/sh\nuntil [ -e {shlex.quote(go_on)} ]; do sleep 0.05; done\n'
                       f'exec {shutil.which("git")} "$@"\n')
        os.chmod(os.path.join(folder, 'git'), 0o755)
        for early in (False, True):
            proc = subprocess.Popen(
                ['sh', '-c', scripts.init_script(self.work, self.owner())],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, 'PATH': f"{folder}:{os.environ['PATH']}"})
            if not early:
                # The boss is quicker with giving up than the machine with its repository
                claim = os.path.join(self.work, lock.CLAIM)
                wait_for(claim)
                os.remove(claim)
            # As sshd does when the connection has ended
            proc.stdout.close()
            with open(go_on, 'wb'):
                pass
            _, err = proc.communicate(timeout=WAIT)
            self.assertIn(b'the boss has gone', err)
            self.assertNotEqual(0, proc.returncode)
            self.assertIsNone(lock.who(self.work))
            shutil.rmtree(self.work)

    def test_renew(self):
        """Only what is there is prolonged."""
        self.assertFalse(lock.renew(self.dir, self.owner()))
        lock.claim(self.dir, self.owner())
        self.assertTrue(lock.renew(self.dir, self.owner()))
        self.assertFalse(lock.renew(self.dir, self.owner(self.run_b)))
        self.assertEqual(self.run_a, lock.who(self.dir).run)

    def test_home_folder(self):
        """`~` is the home folder there, not here."""
        old = os.environ['HOME']
        os.environ['HOME'] = self.dir
        try:
            cmd = scripts.init_script('~/dev/a b', self.owner())
            os.environ['HOME'] = self.work
            os.mkdir(self.work)
            self.assertEqual(scripts.parse_init(self.run_cmd(cmd)).work_dir,
                             os.path.join(self.work, 'dev', 'a b'))
            self.run_cmd(scripts.remove_lock_script('~/dev/a b', self.run_a))
            self.assertFalse(os.path.exists(os.path.join(self.work, 'dev', 'a b', lock.CLAIM)))
        finally:
            os.environ['HOME'] = old

    def test_mends_a_repository(self):
        """A push that was cut leaves locks, a crash perhaps no repository at all."""
        self.init(self.owner())
        git_dir = os.path.join(self.work, '.git')
        left = [os.path.join(git_dir, name) for name in (
            'shallow.lock', 'packed-refs.lock', 'refs/heads/x.lock',
            'objects/tmp_objdir-incoming-abc/pack/x')]
        for path in left:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8'):
                pass
        self.init(self.owner())
        for path in left:
            self.assertFalse(os.path.exists(path), path)
        os.remove(os.path.join(git_dir, 'HEAD'))
        self.assertEqual(self.init(self.owner()).work_dir, self.work)
        self.assertTrue(os.path.exists(os.path.join(git_dir, 'HEAD')))

    def failing(self, cmd):
        """Run a command that has to fail; return the error."""
        with self.assertRaises(ssh.RemoteError) as caught:
            self.run_cmd(cmd)
        return caught.exception

    def test_problems(self):
        """Each thing that a machine lacks has its own message."""
        exc = self.failing(scripts.init_script(self.work, self.owner(), min_disk=1 << 60))
        self.assertEqual(exc.kind, 'no-space')
        self.assertIn('MiB are free', str(exc))
        with open(os.path.join(self.dir, 'file'), 'w', encoding='utf-8'):
            pass
        exc = self.failing(scripts.init_script(os.path.join(self.dir, 'file', 'x'), self.owner()))
        self.assertEqual(exc.kind, 'not-writable')
        self.assertIn('work_dir', str(exc))
        bindir = os.path.join(self.dir, 'bin')
        os.mkdir(bindir)
        os.symlink(sys.executable, os.path.join(bindir, 'python3'))
        os.symlink('/bin/sh', os.path.join(bindir, 'sh'))
        transport = ssh.make_transport('box', f'env PATH={shlex.quote(bindir)} sh -c')
        for name in ('git', 'make'):
            with self.assertRaises(ssh.RemoteError) as caught:
                transport.run(scripts.init_script(self.work, self.owner()), WAIT)
            self.assertEqual(caught.exception.kind, f'no-{name}')
            os.symlink('/bin/true', os.path.join(bindir, name))

    def test_parse(self):
        """What a login shell prints before does not matter; no answer is no folder."""
        name = 'a' * 40
        self.assertEqual(scripts.parse_init(f'hello\nhave x\nhave {name}\n/home/x\n\n'),
                         scripts.InitAnswer('/home/x', have=(name,)))
        self.assertEqual(scripts.parse_init('\n'), scripts.InitAnswer())
        self.assertEqual(scripts.parse_init('BUSY'), scripts.InitAnswer(busy=True))
        self.assertEqual(scripts.parse_init('owner {\nBUSY\n'), scripts.InitAnswer(busy=True))

    def test_owner_is_us(self):
        owner = scripts.new_owner()
        self.assertEqual(owner.pid, os.getpid())
        self.assertNotEqual(owner.run, scripts.new_owner().run)
        self.assertEqual(lock.Owner.from_json(json.dumps(json.loads(owner.to_json()))), owner)
        self.assertTrue(setup.CONFIG)
