# SPDX-License-Identifier: GPL-2.0+
"""One-shot commands on machines, with a stub `ssh` that fails on demand."""

import os
import subprocess
import sys
import tempfile
import threading
import unittest
from unittest import mock

import support

from buildman.core.errors import UsageError
from buildman.process import commands
from buildman.remote import ssh

STUB = os.path.join(support.TESTS, 'stub_ssh')
WAIT = 30       # seconds; only a failing test ever waits for so long
NO_DELAYS = (0, 0, 0)


class StubCase(unittest.TestCase):
    """A test with the stub on PATH and a folder for it."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name
        self.addCleanup(ssh.forget_refused)
        old = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(old)))
        os.environ['PATH'] = f"{STUB}:{os.environ['PATH']}"
        os.environ['BM_STUB_DIR'] = self.dir

    def control(self, text, host='all'):
        """Say how the stub is to fail."""
        with open(os.path.join(self.dir, f'{host}.ctl'), 'w', encoding='utf-8') as outf:
            outf.write(text + '\n')

    def calls(self):
        """Return the hosts that were called, in order."""
        try:
            with open(os.path.join(self.dir, 'log'), encoding='utf-8') as inf:
                return [line.split('\t')[0] for line in inf]
        except FileNotFoundError:
            return []

    def failing(self, cmd='echo hi', timeout=WAIT, host='alpha'):
        """Run a command that has to fail; return the error."""
        with self.assertRaises(ssh.RemoteError) as caught:
            ssh.transport_for(host).run(cmd, timeout, delays=NO_DELAYS)
        message = str(caught.exception)
        self.assertNotIn('\n', message)
        self.assertTrue(message.startswith(f'{host}: '), message)
        return caught.exception


class TestNames(unittest.TestCase):
    """A machine's name must not become an option or a second command (the user's account)."""

    BAD = ('-oProxyCommand=touch /tmp/x', 'a b; reboot', '$(id)', '', ' ', '`id`', 'a\nb', "a'b",
           'a"b', 'a|b', 'a&b', 'a>b', 'user@-x', '@host', 'user@', '-l@host', 'a/b', '~', 'a*',
           'h\u00f6st', 'a\x00', 'a\\b', 'host\n', '!!', 'a(b)', 'a{b}', '#', 'x@y@z')

    def test_bad(self):
        for name in self.BAD:
            with self.subTest(name):
                with self.assertRaises(UsageError) as caught:
                    ssh.transport_for(name)
                self.assertNotIn('\n', str(caught.exception))
                if '@' not in name:
                    with self.assertRaises(UsageError):
                        ssh.check_name(name)

    def test_good(self):
        for name in ('alpha', 'bob@alpha.example.org', '10.0.0.1', 'a-b_c', '::1', 'x@fe80::1%eth0',
                     '[::1]'):
            self.assertEqual(ssh.Transport(name).hostname, name)
        for name in ('alpha', 'build-1', 'a.b', 'bob@host'):
            self.assertEqual(ssh.check_name(name), name)


class TestArgv(unittest.TestCase):
    """The command lines."""

    def test_ssh(self):
        argv = ssh.make_transport('bob@alpha', '', "-p 2222 -o 'User Known=x'").argv('echo $HOME')
        self.assertEqual(argv[0], 'ssh')
        self.assertIn('bob@alpha', argv)
        self.assertEqual(argv[-1], 'echo $HOME')
        self.assertIn('User Known=x', argv)
        self.assertLess(argv.index('-p'), argv.index('bob@alpha'))
        self.assertIn('BatchMode=yes', argv)
        self.assertIn('StrictHostKeyChecking=accept-new', argv)

    def test_others(self):
        self.assertEqual(ssh.make_transport('a', 'local').argv('x; y'), ['sh', '-c', 'x; y'])
        self.assertEqual(ssh.make_transport('a', "docker exec -i 'my box' sh -c").argv('x; y'),
                         ['docker', 'exec', '-i', 'my box', 'sh', '-c', 'x; y'])

    def test_bad_config(self):
        for transport, options in (("sh 'x", ''), ('   ', ''), ('', "-o 'x"), ('', 'evil -p 1')):
            with self.assertRaises(UsageError):
                ssh.make_transport('a', transport, options)

    def test_push_url(self):
        for host, url in (('a', 'a:/x/.git'), ('u@a', 'u@a:/x/.git'), ('u@::1', 'u@[::1]:/x/.git'),
                          ('[::1]', '[::1]:/x/.git')):
            self.assertEqual(ssh.Transport(host).push_url('/x/.git'), url)

    def test_registry(self):
        """All that knows no more than the host name takes the configured way."""
        self.assertEqual(ssh.transport_for('reg.example').kind, 'ssh')
        ssh.register(ssh.make_transport('reg.example', 'local'))
        self.assertEqual(ssh.run_once('reg.example', 'echo "$0 x"', WAIT), 'sh x\n')


class TestRun(StubCase):
    """Answers and failures of one command."""

    def test_answer(self):
        out = ssh.run_once('alpha', 'echo "$HOME"; cat; echo noise >&2', WAIT, b'input')
        self.assertEqual(out, os.path.join(self.dir, 'homes', 'alpha') + '\ninput')

    def test_each_failure_has_its_message(self):
        """A user with twenty machines sees which one needs what."""
        seen = set()
        for mode, kind in (('refuse', 'refused'), ('unreachable', 'unreachable'),
                           ('no-route', 'unreachable'), ('resolve', 'unknown-host'),
                           ('changed', 'host-key'), ('unknown-key', 'host-key'),
                           ('denied', 'denied'), ('turned-away', 'turned-away'),
                           ('cut-now', 'cut')):
            with self.subTest(mode):
                self.control(mode)
                exc = self.failing(host='bob@alpha')
                ssh.forget_refused()
                self.assertEqual(exc.kind, kind)
                seen.add(str(exc))
        self.assertEqual(len(seen), 8)

    def test_far_side_failures(self):
        for cmd, kind, text in (
                ('exit 3', 'failed', 'exit status 3'),
                ('echo 1; echo boo >&2; exit 1', 'failed', 'boo'),
                ('echo "x: No space left on device" >&2; exit 1', 'no-space', 'no space'),
                ('no-such-program', 'failed', 'not found'),
                ('echo "sh: 1: python3: not found" >&2; exit 127', 'no-python', 'python3'),
                ('echo "sh: git-receive-pack: command not found" >&2; exit 127', 'no-git', 'git'),
                ('echo "bm-problem no-make make is not installed there" >&2; exit 1',
                 'no-make', 'make is not installed')):
            exc = self.failing(cmd)
            self.assertEqual(exc.kind, kind)
            self.assertIn(text, str(exc))

    def test_timeout(self):
        """A command that hangs ends with all that it started."""
        pid_file = os.path.join(self.dir, 'pid')
        ssh.register(ssh.make_transport('slow.example', 'local'))
        exc = self.failing(f'sleep 600 & echo $! > {pid_file}; wait', timeout=.5,
                           host='slow.example')
        self.assertEqual(exc.kind, 'timeout')
        self.assertIn('0.5 seconds', str(exc))
        with open(pid_file, encoding='utf-8') as inf:
            pid = int(inf.read())
        # It has been sent SIGKILL; how soon it is gone is the system's affair
        while alive(pid):
            pass

    def test_connection_hangs(self):
        self.control('hang')
        self.assertEqual(self.failing(timeout=.3).kind, 'timeout')

    def test_output_held_open(self):
        """A ControlPersist master keeps the output open: the answer is there all the same."""
        pid_file = os.path.join(self.dir, 'pid')
        self.addCleanup(lambda: subprocess.run(f'kill $(cat {pid_file})', shell=True, check=True))
        ssh.register(ssh.make_transport('held.example', 'local'))
        out = ssh.run_once('held.example',
                           f'setsid sh -c "echo \\$\\$ > {pid_file}; exec sleep 600" & '
                           f'while ! test -s {pid_file}; do :; done; echo done', WAIT)
        self.assertEqual(out, 'done\n')

    def test_endless_output(self):
        """A far side that prints for ever does not fill our memory."""
        ssh.register(ssh.make_transport('yes.example', 'local'))
        self.assertEqual(self.failing('yes', host='yes.example').kind, 'timeout')

    def test_big_input(self):
        """The tool is sent through stdin, more than a pipe holds."""
        data = os.urandom(3 << 20)
        out = ssh.run_once('alpha', 'wc -c; exec cat >/dev/null', WAIT, data)
        self.assertEqual(out.strip(), str(len(data)))
        # A far side that does not read it
        self.assertEqual(ssh.run_once('alpha', 'echo x', WAIT, data), 'x\n')

    def test_turned_away_is_tried_again(self):
        """Many machines behind one sshd: it turns some away, none is lost."""
        self.control('turned-away times=3')
        self.assertEqual(ssh.transport_for('alpha').run('echo hi', WAIT, delays=NO_DELAYS), 'hi\n')
        self.assertEqual(len(self.calls()), 4)
        self.control('refuse')
        self.failing()
        self.assertEqual(len(self.calls()), 5)

    def test_refused_key(self):
        """A key that is not known is tried once a run, and what sshd then does to all is told."""
        self.control('denied', 'eve@box')
        for _ in range(3):
            self.assertEqual('denied', self.failing(host='eve@box').kind)
        self.assertEqual(['eve@box'], self.calls())
        # As OpenSSH 10 turns all away that come from an address with refused logins
        self.control('turned-away times=5', 'ann@box')
        with mock.patch.object(ssh, 'PENALTY_DELAYS', (0.0,) * 4):
            self.assertEqual('hi\n', ssh.transport_for('ann@box').run('echo hi', WAIT,
                                                                      delays=NO_DELAYS))
            self.control('turned-away', 'ann@box')
            exc = self.failing(host='ann@box')
        self.assertRegex(exc.text, r'PerSourcePenalties.*refused the key for eve@box$')
        # Nothing is known of another one
        self.control('turned-away', 'ann@other')
        self.assertIn('MaxStartups', self.failing(host='ann@other').text)
        ssh.forget_refused()
        os.remove(os.path.join(self.dir, 'eve@box.ctl'))
        self.assertEqual('hi\n', ssh.run_once('eve@box', 'echo hi', WAIT))

    def test_stop_all(self):
        """Ctrl-C while machines are asked: their commands end at once."""
        self.addCleanup(commands.resume)
        self.control('hang')
        errors = []

        def run():
            try:
                ssh.run_once('alpha', 'echo', WAIT)
            except ssh.RemoteError as exc:
                errors.append(exc.kind)
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        commands.stop_all()
        for thread in threads:
            thread.join(WAIT)
        self.assertEqual(errors, ['stopped'] * 3)


class TestPython(StubCase):
    """Our programs on a machine that has nothing of ours."""

    def test_runs(self):
        source = b'import sys\nprint("got", sys.argv[1:], __name__)\n'
        cmd = ssh.python_command(source, ["it's", '$HOME', 'a b', ''])
        self.assertEqual(ssh.run_once('alpha', cmd, WAIT),
                         "got [\"it's\", '$HOME', 'a b', ''] __main__\n")

    def test_no_python(self):
        empty = os.path.join(self.dir, 'empty')
        os.mkdir(empty)
        os.symlink('/bin/sh', os.path.join(empty, 'sh'))
        self.control(f'path {empty}')
        exc = self.failing(ssh.python_command(b'print(1)'))
        self.assertEqual(exc.kind, 'no-python')

    def test_old_python(self):
        """A Python too old for our syntax says so instead of a syntax error."""
        bindir = os.path.join(self.dir, 'bin')
        os.mkdir(bindir)
        os.symlink('/bin/sh', os.path.join(bindir, 'sh'))
        fake = os.path.join(bindir, 'python3')
        with open(fake, 'w', encoding='utf-8') as outf:
            # Our Python, told to believe that it is another
            outf.write(f'#!{sys.executable}\nimport sys\nsys.version_info = (3, 6, 8)\n'
                       'at = sys.argv.index("-c")\ncode = sys.argv[at + 1]\n'
                       'del sys.argv[1:at + 1]\nexec(code)\n')
        os.chmod(fake, 0o755)
        self.control(f'path {bindir}')
        exc = self.failing(ssh.python_command(b'print(1)'))
        self.assertEqual(exc.kind, 'old-python')
        self.assertEqual(str(exc), 'alpha: python3 there is 3.6; buildman needs 3.9 or later')


class TestPush(StubCase):
    """What git is given to reach a machine."""

    def git(self, *args, cwd=None, env=None):
        """Run git; return what it prints."""
        proc = subprocess.run(['git', *args], cwd=cwd or self.src, capture_output=True, text=True,
                              env={**os.environ, **(env or {})}, check=False)
        self.assertEqual(proc.returncode, 0, proc.stderr)
        return proc.stdout

    def setUp(self):
        super().setUp()
        self.src = os.path.join(self.dir, 'src')
        os.mkdir(self.src)
        self.git('init', '-q')
        self.git('-c', 'user.name=T', '-c', 'user.email=t@t', 'commit', '-qm', 'A',
                 '--allow-empty')

    def check_push(self, transport):
        """Push and see that it arrived."""
        far = os.path.join(self.dir, f'far {transport.hostname}')
        self.git('init', '-q', '--bare', far)
        self.git('push', '-q', transport.push_url(far), 'HEAD:refs/heads/x',
                 env=transport.git_env())
        self.assertEqual(self.git('rev-parse', 'x', cwd=far), self.git('rev-parse', 'HEAD'))

    def test_ssh(self):
        self.check_push(ssh.transport_for('alpha'))

    def test_shell_that_prints(self):
        """A login shell that greets on every command breaks git's protocol, but not ours."""
        self.control('banner 3\nbanner-raw no-newline')
        self.check_push(ssh.transport_for('alpha'))

    def test_local(self):
        self.check_push(ssh.make_transport('loc', 'local'))

    def test_command(self):
        self.check_push(ssh.make_transport('con', 'env "A=b c" sh -c'))

    def test_failure(self):
        self.control('denied')
        proc = subprocess.run(['git', 'push', 'alpha:/x', 'HEAD:refs/heads/x'], cwd=self.src,
                              env={**os.environ, **ssh.transport_for('alpha').git_env()},
                              capture_output=True, text=True, check=False)
        self.assertNotEqual(proc.returncode, 0)
        answer = commands.Answer(b'', proc.stderr.encode(), proc.returncode)
        exc = ssh.explain('alpha', answer, 'git push')
        self.assertEqual(exc.kind, 'denied')

    def test_refusing_shell(self):
        """What a shell that lets nobody in says, which is on stdout, is shown"""
        for stdout, said in ((b'Hello!\nThis account\x1b[7m is closed.\n\n', "'This account"),
                             (b' \n', 'nothing')):
            exc = ssh.explain('alpha', commands.Answer(stdout, b'', 1))
            self.assertIn(f'it printed {said}', str(exc))
            self.assertNotIn('\x1b', str(exc))


def alive(pid):
    """Tell whether a process is there and no zombie."""
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8') as inf:
            return inf.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False
