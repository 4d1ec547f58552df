# SPDX-License-Identifier: GPL-2.0+
"""Shell commands on a machine: what it says, and what is in its folder afterwards."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
import uuid

from support import wait_for

from buildman.agent import lock, procfs, setup
from buildman.remote import scripts, ssh

WAIT = 30       # seconds; only a failing test ever waits for so long


class TestLiteral(unittest.TestCase):
    """How a text travels in a program"""

    def test_same(self):
        """Any text is what it was, and that of a module is not written with escapes"""
        sources = list(scripts.modules_of('agent.serve').values())
        three = "'" * 3
        odd = ["'", three, f'a{three}\n', f"'{three}\n", "'\n", '\\\n', '\\', 'x\1y\n',
               f'x\1{three}\n', 'a\r\nb\n', 'a\0\n', '"""\n', f'r{three}\\{three}\n',
               '{0} %s \u00e4\n', '\x0c\n', '']
        for text in (*sources, *odd):
            scope = {}
            exec(compile(f'text = {scripts.literal(text)}', 'test', 'exec'), scope)
            self.assertEqual(text, scope['text'])
        self.assertIn('\n', scripts.literal(max(sources, key=len)))


class TestScripts(unittest.TestCase):
    """What a boss has a machine do before a worker runs, as shell commands."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name
        self.run_a, self.run_b = f'a-{uuid.uuid4().hex}', f'b-{uuid.uuid4().hex}'
        self.transport = ssh.make_transport('here', 'local')
        self.work = os.path.join(self.dir, "it's $HOME; \u00e4 work")

    def owner(self, run=None):
        """Return the owner of a run."""
        return lock.Owner(user='ann', host='desk', pid=77, run=run or self.run_a)

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


class TestDead(unittest.TestCase):
    """is_dead()"""

    def setUp(self) -> None:
        self.owner = scripts.new_owner()

    def gone(self) -> int:
        """Return the number of a process that has ended"""
        with subprocess.Popen(['true']) as proc:
            proc.wait()
        return proc.pid

    def test_alive(self) -> None:
        """This process is not"""
        self.assertTrue(self.owner.boss_home and self.owner.boss_start)
        self.assertFalse(scripts.is_dead(self.owner))

    def test_dead(self) -> None:
        """One that has ended is, also when its number is somebody else's now"""
        self.assertTrue(scripts.is_dead(dataclasses.replace(self.owner, pid=self.gone())))
        self.assertTrue(scripts.is_dead(dataclasses.replace(self.owner, boss_start='1')))

    def test_zombie(self) -> None:
        """One that nobody has waited for is"""
        with subprocess.Popen(['sleep', '60']) as proc:
            owner = dataclasses.replace(self.owner, pid=proc.pid,
                                        boss_start=procfs.start_time(proc.pid))
            self.assertFalse(scripts.is_dead(owner))
            proc.kill()
            os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
            self.assertTrue(scripts.is_dead(owner))

    def test_unknown(self) -> None:
        """Of one elsewhere, or that tells too little, nobody knows"""
        dead = dataclasses.replace(self.owner, pid=self.gone())
        for change in ({'boss_home': 'another boot'}, {'boss_home': ''}, {'boss_start': ''},
                       {'pid': 0}, {'run': ''}):
            self.assertFalse(scripts.is_dead(dataclasses.replace(dead, **change)), change)
        self.assertFalse(scripts.is_dead(None))

    def test_other_user(self) -> None:
        """A process that may not be signalled is there"""
        self.assertFalse(scripts.is_dead(dataclasses.replace(
            self.owner, pid=1, boss_start=procfs.start_time(1))))
