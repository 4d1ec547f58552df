# SPDX-License-Identifier: GPL-2.0+
"""What the README promises of trust: a restricted key is enough, nothing is forwarded."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any, ClassVar, Dict, List

import sshd
import support
from dist_support import SshdCase, read

from buildman.remote import ssh

WAIT = 60       # seconds; only a failing test ever waits for so long


def documented_options() -> str:
    """Return what the README says to put before a key."""
    text = read(support.TOP, 'README.rst')
    found = re.search(r'(?m)^ +(restrict,command=.*) ssh-ed25519 ', text)
    assert found, 'the README has no line for authorized_keys'
    return found.group(1)


class TestRestrictedKey(SshdCase):
    """A key that can do no more than it has to"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}
    names = ('m1', 'm2')

    @classmethod
    def make_server(cls) -> sshd.Sshd:
        return sshd.Sshd(machines=2, key_options=documented_options(), forwarding='yes')

    def test_build(self) -> None:
        """The line of the README works: a whole build, with images, and the end of it"""
        ref, status = self.local('-k', '-r')
        done = self.dist('--no-local', '-k', '-r')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertNotIn('lost', done.stdout)
        self.assertEqual(set(self.names), set(self.hosts().values()) | {
            name for name in self.names
            if f'[{name}] ready' in read(self.results(), '.buildman.log')})
        self.assertEqual(0, self.run_buildman('--kill-workers').returncode)
        self.assertEqual(0, self.run_buildman('--clean-workers').returncode)
        self.assert_gone(5)

    def test_nothing_else(self) -> None:
        """No terminal, no forwarded port"""
        argv = ['ssh', *self.server.options(0).split(), '-o', 'StrictHostKeyChecking=accept-new',
                '-o', 'BatchMode=yes']
        host = self.server.hostname(0)
        done = subprocess.run([*argv, '-W', f'127.0.0.1:{self.server.port}', host],
                              stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=WAIT)
        self.assertNotEqual(0, done.returncode)
        self.assertIn(b'prohibited', done.stderr)
        done = subprocess.run([*argv, '-tt', host, 'tty; true'], stdin=subprocess.DEVNULL,
                              capture_output=True, check=False, timeout=WAIT)
        self.assertIn(b'PTY allocation request failed', done.stderr)


class TestForwarding(SshdCase):
    """A user's own ssh_config says to forward the agent"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}
    names = ('m1',)

    def test_no_agent(self) -> None:
        """A machine does not get at the keys of its boss, whatever ssh_config says"""
        support.needs('ssh-agent')
        sock = self.out('agent')
        agent = subprocess.Popen(['ssh-agent', '-D', '-a', sock], stdout=subprocess.DEVNULL)
        self.addCleanup(agent.wait)
        self.addCleanup(agent.kill)
        support.wait_for(sock)
        config = self.out('ssh_config')
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write('Host *\n    ForwardAgent yes\n    ForwardX11 yes\n')
        options = self.server.options(0).replace('-F none', f'-F {config}')
        way = ssh.make_transport(self.server.hostname(0), '', options)
        plain: List[str] = ['ssh', *options.split(), '-o', 'BatchMode=yes', '-o',
                            'StrictHostKeyChecking=accept-new', self.server.hostname(0), '--']
        asked = 'echo "<$SSH_AUTH_SOCK>"'
        env = {**os.environ, 'SSH_AUTH_SOCK': sock}
        done = subprocess.run([*plain, asked], env=env, capture_output=True, check=True,
                              stdin=subprocess.DEVNULL, timeout=WAIT)
        self.assertNotIn(b'<>', done.stdout, 'the test proves nothing: ssh forwards no agent')
        done = subprocess.run(way.argv(asked), env=env, capture_output=True, check=True,
                              stdin=subprocess.DEVNULL, timeout=WAIT)
        self.assertIn(b'<>', done.stdout)
        # git's way is another one
        words = way.git_ssh_command()
        done = subprocess.run(['sh', '-c', f'{words} {self.server.hostname(0)} \'{asked}\''],
                              env=env, capture_output=True, check=True,
                              stdin=subprocess.DEVNULL, timeout=WAIT)
        self.assertIn(b'<>', done.stdout)
