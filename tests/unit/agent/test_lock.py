# SPDX-License-Identifier: GPL-2.0+
"""The lock of a machine: real processes that claim, hold, die and are killed."""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from unittest import mock

from support import TOOLS

from buildman.agent import lock, procfs

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


class Machine:
    """Processes as a machine has them; what procfs would tell of them."""

    def __init__(self, **spec):
        """Set up: p<pid>=dict(parent=…, args=…, env=…, user=…, start=…, stubborn=…)."""
        self.table = {int(name[1:]): facts for name, facts in spec.items()}
        self.sent = []

    def parents(self):
        return {pid: facts.get('parent', 1) for pid, facts in self.table.items()}

    def get(self, pid, name, default):
        return self.table.get(pid, {}).get(name, default)

    def start_time(self, pid):
        return self.get(pid, 'start', '7')

    def arguments(self, pid):
        return [os.fsencode(arg) for arg in self.get(pid, 'args', ['prog'])]

    def environment(self, pid):
        return [os.fsencode(arg) for arg in self.get(pid, 'env', ['A=b'])]

    def user_of(self, pid):
        return self.get(pid, 'user', os.getuid())

    def send(self, pids, sig):
        """Signals end all but those that are stubborn so often"""
        for pid in sorted(pids):
            self.sent.append((pid, signal.Signals(sig).name))
            left = self.get(pid, 'stubborn', 0)
            if (sig == signal.SIGKILL and left) or (sig == signal.SIGTERM and left > 0):
                self.table[pid]['stubborn'] = left - 1
            elif sig != signal.SIGCONT:
                del self.table[pid]

    def wait_gone(self, pids, seconds):
        self.sent.append((sorted(pids), seconds))


class TestAlone(unittest.TestCase):
    """What is decided, with processes and a clock that are made up."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = os.path.realpath(tmp.name)
        env = mock.patch.dict(os.environ)
        env.start()
        self.addCleanup(env.stop)
        self.machine()
        # At the end nothing is open that was not
        fds = set(os.listdir('/proc/self/fd'))
        self.addCleanup(lambda: self.assertLessEqual(set(os.listdir('/proc/self/fd')), fds))

    def machine(self, **spec):
        """Let there be these processes, and no others"""
        machine = Machine(**spec)
        for name in ('parents', 'start_time', 'arguments', 'environment', 'user_of', 'send',
                     'wait_gone'):
            patch = mock.patch.object(procfs, name, getattr(machine, name))
            patch.start()
            self.addCleanup(patch.stop)
        return machine

    def write(self, name, text):
        """Write a file of the lock, or what is there instead"""
        with open(os.path.join(self.dir, name), 'w', encoding='utf-8') as outf:
            outf.write(text if isinstance(text, str) else text.to_json())

    def claimed(self):
        """Return the claim, None when there is none"""
        path = os.path.join(self.dir, lock.CLAIM)
        if not os.path.exists(path):
            return None
        with open(path, encoding='utf-8') as inf:
            return lock.Owner.from_json(inf.read())

    def free(self, run='x', now=None):
        """Tell whether a boss could have the machine"""
        kept = self.claimed()
        try:
            lock.claim(self.dir, lock.Owner(run=run), now)
        except lock.LockBusy:
            self.assertEqual(self.claimed(), kept)
            return False
        if kept:
            self.write(lock.CLAIM, kept)
        return True

    def test_owner_text(self):
        """What a user reads of who has the machine, whatever is in the file"""
        self.assertEqual(str(lock.Owner(run='x')), 'another buildman')
        self.assertIn('since no time that there is', str(lock.Owner(user='u', since=1e300)))
        text = json.dumps({'run': 'r', 'since': 3, 'user': 'u' * 300, 'more': 1})
        self.assertEqual(lock.Owner.from_json(text), lock.Owner(user='u' * 200, run='r', since=3.0))
        self.assertEqual(lock.Owner.from_json('{"run": "r"}'), lock.Owner(run='r'))
        for text in ('{"user": "u"}', '{"run": "r", "since": 1%s}' % ('0' * 400), '["run"]',
                     '{"run": "r", "pid": true}', '{"run": "r", "pid": 1.5}', 'run', ''):
            self.assertIsNone(lock.Owner.from_json(text), text)

    def test_expiry(self):
        """A claim holds for a minute, also when it is from a little ahead in time"""
        lock.claim(self.dir, lock.Owner(user='u', run='r', worker_host='h', worker_pid=3,
                                        worker_start='4'), now=1000)
        self.assertEqual(self.claimed(), lock.Owner(user='u', run='r', since=1000.0,
                                                    expiry=1000 + lock.CLAIM_SECONDS))
        self.assertNotIn(f'{lock.CLAIM}.new', os.listdir(self.dir))
        for now, free in ((1000, False), (1059.9, False), (1060, True), (1060.1, True),
                          (940, False), (939.9, True)):
            self.assertEqual(self.free(now=now), free, now)
            self.assertTrue(self.free('r', now))
        self.write(lock.CLAIM, lock.Owner(run='r', expiry=0.0))
        self.assertTrue(self.free(now=-1))
        lock.claim(self.dir, lock.Owner(run='r'), now=1000, seconds=5)
        self.assertEqual(self.claimed().expiry, 1005)

    def test_recent_push(self):
        """For a minute after its push a boss may start its worker"""
        refs = os.path.join(self.dir, '.git', lock.RUN_REFS)
        os.makedirs(refs)
        os.utime(refs, (0, 1050))
        lock.claim(self.dir, lock.Owner(run='r'), now=1000)
        for now, free in ((1060, False), (1109, False), (1110, True)):
            self.assertEqual(self.free(now=now), free, now)

    def test_push(self):
        """While its push runs, a claim holds; other pushes are others'"""
        git_dir = os.path.join(self.dir, '.git')
        os.mkdir(git_dir)
        link = os.path.join(self.dir, 'link')
        os.symlink(git_dir, link)
        lock.claim(self.dir, lock.Owner(run='r'), now=1000)
        old = os.getcwd()
        self.addCleanup(os.chdir, old)
        os.chdir(git_dir)
        for args, free in ((['git-receive-pack', git_dir], False),
                           (['git', 'receive-pack', git_dir], False),
                           (['git', 'receive-pack', link], False),
                           (['python3', '-c', 'git-receive-pack', 'x', git_dir], False),
                           (['sh', '-c', 'x', 'git-receive-pack', git_dir], True),
                           (['git', 'upload-pack', git_dir], True),
                           ([git_dir, 'receive-pack'], True),
                           (['git', 'receive-pack', '', '/elsewhere'], True)):
            self.machine(p5={}, p6={'args': args}, p7={})
            self.assertEqual(self.free(now=5000), free, args)

    def test_older_worker(self):
        """A lock without an owner is an older buildman's; it holds while a worker of it runs"""
        self.write(lock.CLAIM, '1700000000')
        for spec, free in (
                ({}, True),
                ({'p5': {'args': ['python3', 'buildman', '--worker']}}, False),
                ({'p5': {'args': ['buildman', '--worker', '-v']}, 'p9': {}}, False),
                ({'p5': {'args': ['buildman', '--worker', '/work']}}, True),
                ({'p5': {'args': ['buildman', '--worker'], 'user': -1}}, True),
                ({f'p{os.getpid()}': {'args': ['buildman', '--worker']}}, True)):
            self.machine(**spec)
            self.write(lock.CLAIM, '1700000000')
            self.assertEqual(self.free(), free, spec)
        self.machine()
        self.write(lock.CLAIM, '1700000000')
        self.assertIsNone(lock.who(self.dir))

    def test_who(self):
        """To look changes nothing"""
        self.assertIsNone(lock.who(self.dir))
        self.assertEqual(os.listdir(self.dir), [])
        lock.claim(self.dir, lock.Owner(run='r'))
        self.assertEqual(lock.who(self.dir).run, 'r')
        os.remove(os.path.join(self.dir, lock.CLAIM))
        self.assertIsNone(lock.who(self.dir))

    def test_renew(self):
        """Only what is there is prolonged."""
        self.assertFalse(lock.renew(self.dir, lock.Owner(run='r')))
        lock.claim(self.dir, lock.Owner(run='r'), now=1000)
        self.assertIs(lock.renew(self.dir, lock.Owner(run='r')), True)
        self.assertGreater(self.claimed().expiry, time.time())
        self.assertIs(lock.renew(self.dir, lock.Owner(run='other')), False)
        self.assertEqual(self.claimed().run, 'r')

    def test_hold(self):
        """A worker has the machine until it lets go, with what it was claimed with"""
        lock.claim(self.dir, lock.Owner(user='ann', run='r'), now=1000)
        held = lock.hold(self.dir, 'r', now=1001)
        self.assertEqual(held.owner, lock.Owner(
            user='ann', run='r', since=1000.0, worker_host=os.uname().nodename,
            worker_pid=os.getpid(), worker_start='7'))
        self.assertEqual((lock.who(self.dir), self.claimed()), (held.owner, held.owner))
        self.assertEqual(os.environ[lock.RUN_VARIABLE], 'r')
        self.assertFalse(self.free())
        # Its own boss needs no claim
        lock.claim(self.dir, lock.Owner(run='r'))
        self.assertEqual(self.claimed(), held.owner)
        with self.assertRaises(lock.LockBusy) as caught:
            lock.hold(self.dir, 'r')
        self.assertEqual(caught.exception.owner, held.owner)
        self.assertEqual(str(caught.exception), str(held.owner))
        os.remove(os.path.join(self.dir, lock.CLAIM))
        self.assertFalse(self.free())
        # A claim that another one has made meanwhile stays
        self.write(lock.CLAIM, lock.Owner(run='other'))
        held.release()
        self.assertEqual(self.claimed().run, 'other')
        self.assertEqual(os.stat(os.path.join(self.dir, lock.HELD)).st_size, 0)
        held.release()
        self.assertTrue(self.free())

    def test_hold_without_claim(self):
        """For a boss that has made none, or whose claim has expired"""
        self.write(lock.HELD, 'x' * 9999)
        held = lock.hold(self.dir, 'r', now=1000)
        self.assertEqual((held.owner.run, held.owner.since, held.owner.user), ('r', 1000, ''))
        self.assertEqual(self.claimed(), held.owner)
        # What a worker that was killed has left there, longer than this, is gone
        self.assertEqual(lock.who(self.dir), held.owner)
        self.write(lock.HELD, 'garbage')
        self.assertEqual(lock.who(self.dir), lock.Owner())
        with self.assertRaises(lock.LockBusy) as caught:
            lock.hold(self.dir, 'r')
        self.assertEqual(caught.exception.owner, lock.Owner())
        held.release()
        self.assertIsNone(self.claimed())
        lock.claim(self.dir, lock.Owner(user='bob', run='other'), now=1000)
        with self.assertRaises(lock.LockBusy):
            lock.hold(self.dir, 'r', now=1001)
        held = lock.hold(self.dir, 'r', now=2000)
        self.assertEqual((held.owner.run, held.owner.user), ('r', ''))
        held.release()

    def test_hold_for_older(self):
        """An older boss knows nothing of runs; its lock is left as it is"""
        self.write(lock.CLAIM, '1700000000')
        self.machine(p5={'args': ['buildman', '--worker']})
        held = lock.hold(self.dir, '')
        self.assertIsNone(self.claimed())
        # Another one without a run is another one
        self.assertFalse(self.free(''))
        held.release()
        self.assertIn(lock.CLAIM, os.listdir(self.dir))

    def test_processes(self):
        """The worker, all below it, and strays by their run; nobody else"""
        run, host = f'{lock.RUN_VARIABLE}=r', os.uname().nodename
        self.machine(p3={'parent': 4}, p4={'parent': 11}, p11={'parent': 10}, p10={'parent': 1},
                     p20={'env': ['X=y', run]}, p21={'parent': 20}, p30={'parent': 31},
                     p31={'env': [f'{lock.RUN_VARIABLE}=']}, p32={'env': [run + 'r']},
                     **{f'p{os.getpid()}': {'env': [run]}})
        all_of = lock.Owner(run='r', worker_pid=10, worker_host=host, worker_start='7')
        worker, strays = {3, 4, 10, 11}, {20, 21}
        self.assertEqual(lock.processes_of(all_of), worker | strays)
        for change, want in (({'run': ''}, worker), ({'worker_host': 'x'}, strays),
                             ({'worker_start': '8'}, strays), ({'worker_pid': 99}, strays),
                             ({'worker_start': ''}, strays)):
            self.assertEqual(lock.processes_of(dataclasses.replace(all_of, **change)), want)
        self.machine(p10={'start': ''})
        self.assertEqual(lock.processes_of(dataclasses.replace(all_of, worker_start='')), set())

    def held(self, **kwargs):
        """Leave the files of a worker that is not there any more"""
        owner = lock.Owner(user='ann', host='desk', pid=77, run='r', worker_pid=10,
                           worker_host=os.uname().nodename, worker_start='7', **kwargs)
        self.write(lock.HELD, owner)
        self.write(lock.CLAIM, owner)

    def test_kill(self):
        """The worker is asked first, then what it left; who does not listen is killed"""
        self.held()
        machine = self.machine(p10={}, p11={'parent': 10, 'env': [f'{lock.RUN_VARIABLE}=r']},
                               p12={'stubborn': 1, 'env': [f'{lock.RUN_VARIABLE}=r']}, p13={})
        self.assertRegex(lock.kill(self.dir, 5, 'r'),
                         r'^killed 10 11 12 \(ann@desk, pid 77, since .*\)$')
        self.assertEqual(machine.sent[:3], [(10, 'SIGTERM'), (10, 'SIGCONT'), ([10], 5)])
        self.assertEqual([entry for entry in machine.sent if entry[0] in (11, 12)],
                         [(11, 'SIGTERM'), (12, 'SIGTERM'), (12, 'SIGKILL')])
        # Each gets time to end before it is asked again
        self.assertEqual([wait for wait in machine.sent if isinstance(wait[0], list)],
                         [([10], 5), ([11, 12], .25), ([12], .25)])
        self.assertEqual(list(machine.table), [13])
        self.assertIsNone(self.claimed())
        self.assertEqual(os.stat(os.path.join(self.dir, lock.HELD)).st_size, 0)

    def test_kill_other_run(self):
        """Who ends the workers of one run leaves others alone"""
        self.held()
        machine = self.machine(p10={})
        self.assertEqual(lock.kill(self.dir, run='other'), 'no workers')
        self.assertEqual((machine.sent, self.claimed().run), ([], 'r'))
        # Of two in the files only the one that is named
        self.write(lock.CLAIM, lock.Owner(run='other'))
        self.assertRegex(lock.kill(self.dir, run='r'), '^killed 10 ')
        self.assertEqual(self.claimed().run, 'other')
        self.assertEqual(lock.kill(self.dir, run=''), 'no workers')
        self.assertIsNone(self.claimed())

    def test_kill_immortal(self):
        """A process that hangs in the kernel is named"""
        self.held()
        machine = self.machine(p10={'stubborn': 99}, p12={'parent': 10, 'stubborn': 99}, p13={})
        with self.assertRaisesRegex(lock.LockStuck, '^process 10 cannot'):
            lock.kill(self.dir)
        self.assertIn(13, machine.table)
        self.assertEqual(self.claimed().run, 'r')

    def test_kill_held(self):
        """A worker that is not seen still has the lock: on a shared disk, say"""
        held = lock.hold(self.dir, 'r')
        self.assertEqual(lock.kill(self.dir, run='other'), 'no workers')
        with self.assertRaisesRegex(lock.LockStuck, f'still held .*worker {os.getpid()} on '):
            lock.kill(self.dir)
        with self.assertRaisesRegex(lock.LockStuck, 'still held'):
            lock.kill(self.dir, run='r')
        self.write(lock.CLAIM, lock.Owner(run='s', expiry=5.0))
        self.assertEqual(lock.kill(self.dir, run='s'), 'no workers')
        self.assertEqual(self.claimed().run, 's')
        held.release()
        self.assertEqual(lock.kill(self.dir, run='s'), 'no workers')
        self.assertIsNone(self.claimed())
        self.assertEqual(lock.kill(os.path.join(self.dir, 'nowhere')), 'no workers')

    def test_mutex_is_given_up(self):
        """Others have the files for moments; who hangs with them is named, not waited for"""
        lock.claim(self.dir, lock.Owner(run='r'))
        with mock.patch.object(lock, 'MUTEX_SECONDS', .05), open(
                os.path.join(self.dir, lock.MUTEX), 'rb+') as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with self.assertRaisesRegex(lock.LockStuck, 'mutex.* has been locked for 0.05'):
                lock.claim(self.dir, lock.Owner(run='r'))
        with open(os.path.join(self.dir, lock.MUTEX), 'rb+') as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            timer = threading.Timer(.05, fcntl.flock, (other, fcntl.LOCK_UN))
            timer.start()
            lock.claim(self.dir, lock.Owner(run='r'))
            timer.join()

    def test_clean(self):
        """Only a work folder of ours is removed, and never the home folder"""
        home = os.path.join(self.dir, 'home')
        os.mkdir(home)
        for name in ('keep', lock.MUTEX):
            with open(os.path.join(home, name), 'wb') as outf:
                outf.write(bytes(3 << 20))
        os.environ['HOME'] = home
        os.symlink(home, os.path.join(self.dir, 'link'))
        for name in ('home', 'link', '.'):
            with self.assertRaisesRegex(lock.LockStuck, 'not removed'):
                lock.clean(os.path.join(self.dir, name))
        self.assertTrue(os.path.exists(os.path.join(home, 'keep')))
        os.environ['HOME'] = self.dir
        held = lock.hold(home, 'r')
        with self.assertRaises(lock.LockBusy) as caught:
            lock.clean(home)
        self.assertEqual(caught.exception.owner.run, 'r')
        held.release()
        lock.claim(home, lock.Owner(run='r'))
        with self.assertRaises(lock.LockBusy):
            lock.clean(home)
        os.remove(os.path.join(home, lock.CLAIM))
        self.assertEqual(lock.clean(home), f'removed {home} (6 MiB)')
        self.assertFalse(os.path.exists(home))
        self.assertEqual(lock.clean(home), 'nothing to remove')

    def test_folder_size(self):
        """What lies below a folder, not what links lead to; what takes too long is left"""
        deep = os.path.join(self.dir, 'a', 'b')
        os.makedirs(deep)
        for folder in (deep, self.dir):
            with open(os.path.join(folder, 'x'), 'wb') as outf:
                outf.write(bytes(1 << 20))
        os.symlink(self.dir, os.path.join(deep, 'link'))
        os.symlink(os.path.join(self.dir, 'x'), os.path.join(deep, 'file'))
        self.assertEqual(lock.folder_size(self.dir) >> 20, 2)
        self.assertEqual(lock.folder_size(self.dir, 0), 0)
        self.assertEqual(lock.folder_size(os.path.join(self.dir, 'nowhere')), 0)


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
        self.assertGreater(lock.who(self.dir).expiry, time.time() + 50)

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
        self.assertIsNone(lock.who(self.dir))
        # What a push looks like from outside
        script = os.path.join(self.dir, 'git-receive-pack')
        with open(script, 'w', encoding='utf-8') as outf:
            outf.write('print("x", flush=True)\ninput()\n')
        proc = subprocess.Popen([sys.executable, script, git_dir], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
        self.addCleanup(self.end, proc)
        proc.stdout.readline()
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
        with mock.patch.object(procfs, 'parents', return_value={}):
            # Whatever else runs on this machine while we test
            lock.claim(self.dir, self.owner())
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
            pids = lock.processes_of(lock.who(self.dir))
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
