# SPDX-License-Identifier: GPL-2.0+
"""The stub `ssh` fails as it is told to: else the tests that use it prove nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest

import support

STUB = os.path.join(support.TESTS, 'stub_ssh', 'ssh')
WAIT = 30       # seconds; only a failing test ever waits for so long

# Says `ready`, its process id, and a message for each line that it reads
PEER = '''
import json, os, sys
def say(**obj):
    print("BM> " + json.dumps(obj), flush=True)
say(resp="ready", nthreads=1, version=1, heartbeat_interval=10)
say(resp="pid", pid=os.getpid())
print("noise", flush=True)
for line in sys.stdin:
    say(resp="echo", line=line.strip())
say(resp="end")
'''


class TestStub(unittest.TestCase):
    """Each way to fail."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name

    def run_peer(self, control, text='a\nb\n', fast=False):
        """Run the peer to its end; return (exit status, lines, stderr)."""
        proc = self.start(control, fast)
        out, err = proc.communicate(text.encode(), timeout=WAIT)
        return proc.returncode, out.decode('utf-8', 'replace').splitlines(), err.decode()

    def start(self, control, fast=False):
        """Start the peer."""
        with open(os.path.join(self.dir, 'all.ctl'), 'w', encoding='utf-8') as outf:
            outf.write(control)
        env = {**os.environ, 'BM_STUB_DIR': self.dir}
        if fast:
            env['BM_STUB_FAST'] = '1'
        cmd = f'exec {shlex.quote(sys.executable)} -c {shlex.quote(PEER)}'
        return subprocess.Popen([STUB, '-o', 'A=b', '-p', '22', 'bob@alpha', '--', cmd], env=env,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    @staticmethod
    def kinds(lines):
        """Return the kinds of the messages."""
        return [json.loads(line[4:])['resp'] for line in lines if line.startswith('BM> ')]

    def test_plain(self):
        for fast in (False, True):
            code, lines, err = self.run_peer('', fast=fast)
            self.assertEqual((code, err), (0, ''))
            self.assertEqual(self.kinds(lines), ['ready', 'pid', 'echo', 'echo', 'end'])
        with open(os.path.join(self.dir, 'log'), encoding='utf-8') as inf:
            self.assertEqual([line.split('\t')[0] for line in inf], ['bob@alpha'] * 2)
        self.assertTrue(os.path.isdir(os.path.join(self.dir, 'homes', 'bob@alpha')))

    def test_cuts(self):
        code, lines, err = self.run_peer('cut 2')
        self.assertEqual((code, self.kinds(lines)), (255, ['ready', 'pid']))
        self.assertIn('closed by remote host', err)
        code, lines, _ = self.run_peer('cut-in 1')
        self.assertEqual((code, len(lines)), (255, 2))
        with self.assertRaises(ValueError):
            json.loads(lines[1][4:])
        code, lines, _ = self.run_peer('cut-bytes 10')
        self.assertEqual((code, lines), (255, ['BM> {"resp']))
        code, lines, _ = self.run_peer('cut-stdin 1')
        self.assertEqual(code, 255)
        self.assertNotIn('end', self.kinds(lines))
        self.assertEqual(self.run_peer('cut-now')[:2], (255, []))

    def test_kill(self):
        code, lines, _ = self.run_peer('kill 2')
        self.assertEqual((code, self.kinds(lines)[:2]), (255, ['ready', 'pid']))
        self.assertNotIn('end', self.kinds(lines))

    def test_stop_and_swallow(self):
        """Nothing more comes, but the connection stays."""
        for mode in ('stop 2', 'swallow 2'):
            proc = self.start(mode)
            lines = [proc.stdout.readline() for _ in range(2)]
            pid = json.loads(lines[1][4:])['pid']
            proc.stdin.write(b'a\n')
            proc.stdin.flush()
            if mode == 'stop 2':
                state = ''
                while state != 'T':
                    with open(f'/proc/{pid}/stat', encoding='utf-8') as inf:
                        state = inf.read().rpartition(')')[2].split()[0]
            self.assertIsNone(proc.poll())
            proc.kill()
            proc.communicate()
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                self.assertEqual(mode, 'swallow 2')

    def test_words(self):
        """Another version, noise, damage, banners, limits of how often and for what."""
        _, lines, _ = self.run_peer('version -')
        self.assertEqual(json.loads(lines[0][4:]), {'resp': 'ready', 'nthreads': 1})
        _, lines, _ = self.run_peer('version 7')
        self.assertEqual(json.loads(lines[0][4:])['version'], 7)
        _, lines, _ = self.run_peer('banner 3\nbanner-raw hello\nnoise 1')
        self.assertEqual(lines[:3], [f'Welcome to bob@alpha, line {num}' for num in range(3)])
        self.assertTrue(lines[3].startswith('helloBM> '))
        self.assertEqual(lines[4], 'You have new mail')
        _, lines, _ = self.run_peer('corrupt 2')
        self.assertEqual(json.loads(lines[0][4:])['resp'], 'ready')
        with self.assertRaises(ValueError):
            json.loads(lines[1][4:])
        self.assertEqual(self.run_peer('refuse match=elsewhere # not here')[0], 0)
        self.assertEqual(self.run_peer('refuse match=nthreads')[0], 255)
        self.assertEqual([self.run_peer('# a comment\n\nrefuse times=2')[0] for _ in range(3)],
                         [255, 255, 0])
