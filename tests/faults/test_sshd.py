# SPDX-License-Identifier: GPL-2.0+
"""Machines behind a real sshd on 127.0.0.1: probe, lock, push, and what may fail."""

import concurrent.futures
import contextlib
import os
import shlex
import socket
import subprocess
import tempfile
import unittest

import sshd
import support

from buildman import bsettings, machine
from buildman.agent import procfs
from buildman.remote import push, scripts, ssh

WAIT = 60       # seconds; only a failing test ever waits for so long

# Holds the lock of argv[1] for the run argv[2] until its input ends
HOLDER = '''
import subprocess, sys
from buildman.agent import lock
def main():
    try:
        held = lock.hold(sys.argv[1], sys.argv[2])
    except lock.LockBusy as exc:
        print("busy", exc)
        return 1
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("held", child.pid, flush=True)
    sys.stdin.read()
    child.kill()
    held.release()
    return 0
'''


class TestRealSsh(unittest.TestCase):
    """The same as with the stub, over the real thing."""

    @classmethod
    def setUpClass(cls):
        sshd.require()
        cls.server = sshd.Sshd(machines=3, max_startups='8:50:12',
                               banner='Authorized use only\n' * 50,
                               login_noise='Welcome back')
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)
        cls.addClassCleanup(bsettings.setup, None)

    def setUp(self):
        bsettings.setup(None)
        bsettings.add_file(self.server.config())
        self.pool = machine.MachinePool()

    def init(self, mach, run):
        """Claim a machine."""
        cmd = scripts.init_script(mach.work_dir, scripts.new_owner(run), 0)
        return scripts.parse_init(mach.transport.run(cmd, WAIT))

    def test_probe(self):
        """Three machines behind one sshd that turns connections away: none is lost."""
        avail = self.pool.probe_all()
        self.assertEqual([mach.name for mach in avail], ['m1', 'm2', 'm3'],
                         [mach.reason for mach in self.pool.machines])
        homes = [mach.info.work_dir for mach in avail]
        self.assertEqual(homes, [os.path.join(home, 'dev', '.bm-worker')
                                 for home in self.server.homes])

    def test_many_connections(self):
        """MaxStartups is 8 to 12 here, and twenty come at once."""
        mach = self.pool.machines[0]
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda num: mach.transport.run(f'echo {num}', WAIT), range(20)))
        self.assertEqual([text.split()[-1] for text in answers],
                         [str(num) for num in range(20)])

    def test_lock_and_push(self):
        """Two bosses, one machine; then a push past a login shell that prints."""
        mach = self.pool.machines[1]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda num: self.init(mach, f'run-{num}'), range(4)))
        won = [num for num, answer in enumerate(answers) if not answer.busy]
        self.assertEqual(len(won), 1)
        self.assertEqual({answer.owner.run for answer in answers if answer.busy},
                         {f'run-{won[0]}'})
        with tempfile.TemporaryDirectory() as tmp:
            def git(*args):
                return subprocess.run(
                    ['git', '-c', 'user.name=T', '-c', 'user.email=t@t', *args], cwd=tmp,
                    check=True, capture_output=True, text=True).stdout.strip()
            git('init', '-q')
            hashes = []
            for num in range(3):
                with open(os.path.join(tmp, 'f'), 'w', encoding='utf-8') as outf:
                    outf.write(f'{num}\n' * 1000)
                git('add', '-A')
                git('commit', '-qm', f'C{num}')
                hashes.append(git('rev-parse', 'HEAD'))
            git_dir = answers[won[0]].work_dir + '/.git'
            for part in (hashes[2:], hashes):
                with push.prepare_push(tmp, part, 'r') as plan:
                    push.push(plan, mach.name, mach.transport, git_dir,
                              self.init(mach, f'run-{won[0]}').have)
                for name in part:
                    out = mach.transport.run(f'git --git-dir={git_dir} rev-parse {name}:f', WAIT)
                    self.assertEqual(out.split()[-1], git('rev-parse', f'{name}:f'))
        mach.transport.run(scripts.remove_lock_script(mach.work_dir, f'run-{won[0]}'), WAIT)
        self.assertFalse(self.init(mach, 'run-z').busy)
        mach.transport.run(scripts.remove_lock_script(mach.work_dir), WAIT)

    def start_holder(self, mach, run):
        """Start a process there that holds the lock; return it and its child's pid."""
        work_dir = self.init(mach, run).work_dir
        modules = {**scripts.modules_of('agent.lock'), 'buildman.holder': HOLDER}
        cmd = scripts.program_command(modules, 'buildman.holder', [work_dir, run])
        proc = subprocess.Popen(mach.transport.argv(cmd), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(proc.stdin.close)
        self.addCleanup(proc.stdout.close)
        self.addCleanup(proc.wait)
        self.addCleanup(proc.kill)
        for line in proc.stdout:
            if line.startswith('held'):
                return proc, int(line.split()[1])
        raise AssertionError('the lock is not held')

    def test_kill(self):
        """--kill-workers ends what holds a machine, with what it started."""
        mach = self.pool.machines[2]
        _, child = self.start_holder(mach, 'run-k')
        self.assertTrue(self.init(mach, 'run-l').busy)
        said = mach.transport.run(scripts.kill_script(mach.work_dir), WAIT)
        self.assertIn(str(child), said)
        self.assertNotIn(child, procfs.parents())
        self.assertFalse(self.init(mach, 'run-l').busy)
        mach.transport.run(scripts.kill_script(mach.work_dir), WAIT)

    def test_dead_connection(self):
        """ssh dies here: the process there sees the end of its input and lets go."""
        mach = self.pool.machines[2]
        proc, _ = self.start_holder(mach, 'run-d')
        proc.kill()
        for _ in range(200):
            if not self.init(mach, 'run-e').busy:
                break
        else:
            self.fail('still held')
        mach.transport.run(scripts.remove_lock_script(mach.work_dir), WAIT)

    def failing(self, num=0, options='', hostname=''):
        """Run a command with other options; return the error."""
        way = ssh.make_transport(hostname or self.server.hostname(num), '',
                                 self.server.options(num) + ' ' + options)
        with self.assertRaises(ssh.RemoteError) as caught:
            way.run('true', WAIT)
        self.assertNotIn('\n', str(caught.exception))
        return caught.exception

    def test_failures(self):
        """What OpenSSH really says is understood."""
        self.pool.machines[0].transport.run('true', WAIT)
        # The key of another machine
        exc = self.failing(hostname=self.server.hostname(1))
        if os.getuid() == 0:
            self.assertEqual(exc.kind, 'denied')
        known = self.server.path('wrong_hosts')
        with open(self.server.path('m1.pub'), encoding='utf-8') as inf:
            key = ' '.join(inf.read().split()[:2])
        with open(known, 'w', encoding='utf-8') as outf:
            outf.write(f'[127.0.0.1]:{self.server.port} {key}\n')
        # The first mention of an option counts
        way = ssh.make_transport(self.server.hostname(0), '', f'-o UserKnownHostsFile={known} '
                                 + self.server.options(0))
        with self.assertRaises(ssh.RemoteError) as caught:
            way.run('true', WAIT)
        self.assertEqual(caught.exception.kind, 'host-key')
        self.assertIn('changed', str(caught.exception))
        self.assertEqual(self.failing(hostname='u@no-such-host.invalid').kind, 'unknown-host')
        way = ssh.make_transport('u@127.0.0.1', '', '-F none -p 1')
        with self.assertRaises(ssh.RemoteError) as caught:
            way.run('true', WAIT)
        self.assertEqual(caught.exception.kind, 'refused')
        way = ssh.make_transport('u@127.0.0.1', '', '-F none -o NoSuchOption=1')
        with self.assertRaises(ssh.RemoteError) as caught:
            way.run('true', WAIT)
        self.assertEqual(caught.exception.kind, 'options')

    def test_home_not_writable(self):
        if os.getuid() != 0:
            self.skipTest('all machines are one user here')
        mach = self.pool.machines[0]
        with self.assertRaises(ssh.RemoteError) as caught:
            mach.transport.run(scripts.init_script('/root/bm', scripts.new_owner()), WAIT)
        self.assertEqual(caught.exception.kind, 'not-writable')


class TestTunnel(unittest.TestCase):
    """A machine that nobody can reach comes to us."""

    def test_reverse(self):
        """It opens a port here which leads back to its own sshd, as README says."""
        sshd.require()
        with sshd.Sshd(machines=2, forwarding='yes') as server:
            with socket.socket() as sock:
                sock.bind(('127.0.0.1', 0))
                port = sock.getsockname()[1]
            # The second machine logs in here as the first one's user
            proc = subprocess.Popen(
                ['ssh', *shlex.split(server.options(0)), '-N', '-o', 'ExitOnForwardFailure=yes',
                 '-o', 'StrictHostKeyChecking=accept-new',
                 '-R', f'{port}:127.0.0.1:{server.port}', server.hostname(0)],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(proc.wait)
            self.addCleanup(proc.kill)
            options = server.options(1).replace(f'-p {server.port} ', f'-p {port} ')
            way = ssh.make_transport(server.hostname(1), '', f'{options} -o HostKeyAlias=box')

            def is_open():
                with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 5):
                    return True

            support.wait_until(is_open, WAIT, 'the port to be opened')
            self.assertEqual(server.users[1], way.run('id -un', WAIT).strip())


class TestPenalties(unittest.TestCase):
    """From OpenSSH 9.8 on, an address is shut out for a while after logins with unknown keys."""

    def setUp(self):
        sshd.require()
        self.penalizes = sshd.penalizes()
        # As it is of itself, but quicker: four logins are too many. It lasts long enough for a
        # slow machine to see it.
        self.server = sshd.Sshd(machines=6, settings=['PerSourcePenalties authfail:3 min:10']
                                if self.penalizes else [])
        self.server.start()
        self.addCleanup(self.server.stop)
        self.addCleanup(bsettings.setup, None)
        bsettings.setup(None)
        config = self.server.config()
        for name in ('m1', 'm2', 'm3', 'm4'):
            config = config.replace(f'-i {self.server.path(name)} ',
                                    f'-i {self.server.path("host")} ')
        bsettings.add_file(config)

    def test_others(self):
        """Wrong keys for four machines: each is tried once, and the others are not lost"""
        machines = machine.MachinePool().machines
        wrong, good = machines[:4], machines[4:]
        for _ in range(3):
            for mach in wrong:
                mach.probe()
                self.assertRegex(mach.reason, '^permission denied; put your public key')
        # sshd may answer before it writes
        support.wait_until(lambda: self.server.log().count('Failed publickey for') >= 4, WAIT,
                           'four logins in the log')
        log = self.server.log()
        self.assertEqual(4, log.count('Failed publickey for'), log)
        if self.penalizes:
            with self.assertRaises(ssh.RemoteError) as caught:
                good[0].transport.run('true', WAIT, delays=())
            self.assertEqual('penalized', caught.exception.kind)
            for mach in wrong:
                self.assertIn(mach.hostname, str(caught.exception))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda mach: mach.probe(), good))
        self.assertEqual(['', ''], [mach.reason for mach in good])
        self.assertEqual(self.penalizes, 'penalty: failed authentication' in self.server.log())
