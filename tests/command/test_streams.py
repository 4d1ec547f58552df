# SPDX-License-Identifier: GPL-2.0+
"""The command with streams that are closed or full, a terminal that goes, a Ctrl-C early on."""

from __future__ import annotations

import argparse
import os
import pty
import shlex
import signal
import subprocess
from typing import Any, ClassVar, Dict, Tuple

import support
from support import TOOLS

from buildman.cli import cmdline
from buildman.core.errors import UsageError
from buildman.demo import sample_files

# Stands in for a module of Python's that is loaded at that time: somebody types Ctrl-C
INTERRUPTS = '''
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
'''


class TestStreams(support.SampleCase):
    """One board"""

    sample_args: ClassVar[Dict[str, Any]] = {'commits': 1, 'boards': tuple(
        board for board in sample_files.DEFAULT_BOARDS if board.target == 'sandbox')}

    def shell(self, redirect: str, *args: str, **env: str) -> Tuple[int, str, str]:
        """Run the command with its streams redirected; return status, stdout and stderr"""
        text = f'exec {shlex.join(self.argv(*args))} {redirect}'
        done = subprocess.run(['sh', '-c', text], cwd=self.tree.path, env=self.env(env),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=support.TIMEOUT, check=False)
        return done.returncode, done.stdout, done.stderr

    def test_full(self) -> None:
        """What cannot be written is not lost without a word, however it is buffered"""
        want = 2, '', 'buildman: cannot write to standard output: No space left on device\n'
        for args in (['--help'], ['--version'], ['--list-tool-chains'], ['-n']):
            for unbuffered in ('', '1'):
                with self.subTest(args=args, unbuffered=unbuffered):
                    self.assertEqual(want, self.shell('>/dev/full', *args,
                                                      PYTHONUNBUFFERED=unbuffered))
        self.assertEqual(want, self.shell('>/dev/full', '-b', 'feature', '-c1', '-o', self.out()))

    def test_closed(self) -> None:
        """Without a standard output there is nothing to do"""
        self.assertEqual((2, '', 'buildman: cannot write to standard output: it is closed\n'),
                         self.shell('>&-', '-b', 'feature', '-c1', '-n'))

    def test_no_stderr(self) -> None:
        """Without a place for complaints: neither stdout nor a file of ours gets them"""
        status, out, _ = self.shell('2>&-', '-b', 'feature', '-c1', '-o', self.out('one'))
        self.assertEqual(0, status, out)
        self.assertIn('Completed: 1 total built', out)
        status, _, err = self.shell('2>&1', '-b', 'feature', '-c1', '-o', self.out('two'))
        self.assertEqual((0, ''), (status, err))
        support.assert_same_tree(self.out('one/feature'), self.out('two/feature'))
        for redirect in ('2>&-', '2>/dev/full', '<&- 2>&-'):
            self.assertEqual((2, '', ''), self.shell(redirect, '-b', 'nosuch'))

    def test_hangup(self) -> None:
        """Closing the window ends the build and all that it started, without a traceback"""
        env = self.write_knobs('sandbox', f'signal {self.out("begun")}', 'hang deaf')
        errors = self.out('errors')
        text = f'exec {shlex.join(self.argv("-b", "feature", "-c1", "-o", self.out()))} 2>{errors}'
        for redirect in ('', f' 2>{errors}'):
            pid, fd = pty.fork()
            if not pid:
                try:
                    os.chdir(self.tree.path)
                    signal.signal(signal.SIGHUP, signal.SIG_DFL)
                    os.execvpe('sh', ['sh', '-c', text + redirect], self.env(env))
                finally:
                    os._exit(127)
            support.wait_for(self.out('begun'))
            os.remove(self.out('begun'))
            os.close(fd)
            support.wait_until(lambda pid=pid: os.waitid(
                os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), 30, 'the end')
            self.assertEqual(143, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            self.assert_no_processes()
        with open(errors, encoding='utf-8') as inf:
            self.assertEqual('buildman: terminated\n', inf.read())

    def test_interrupted_early(self) -> None:
        """Ctrl-C while modules are loaded: no traceback"""
        fakes = self.out('fakes')
        os.mkdir(fakes)
        # Loaded by Python, by the door, and by what that loads
        for name, said in (('sitecustomize', ''), ('argparse', ''),
                           ('selectors', 'buildman: interrupted\n')):
            path = os.path.join(fakes, f'{name}.py')
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(INTERRUPTS)
            self.assertEqual((130, '', said), self.shell('', '-n', PYTHONPATH=fakes), name)
            os.remove(path)

    def test_interrupted_installed(self) -> None:
        """The same for a command that pip has made"""
        fakes = self.out('fakes')
        os.mkdir(fakes)
        with open(os.path.join(fakes, 'selectors.py'), 'w', encoding='utf-8') as outf:
            outf.write(INTERRUPTS)
        done = subprocess.run(
            ['python3', '-c', 'from buildman.main import entry; entry()', '-n'],
            env=self.env({'PYTHONPATH': f'{fakes}:{TOOLS}'}), cwd=self.tree.path,
            capture_output=True, text=True, timeout=support.TIMEOUT, check=False)
        self.assertEqual((130, '', 'buildman: interrupted\n'),
                         (done.returncode, done.stdout, done.stderr))

    def test_debug(self) -> None:
        """-D shows where an error came from, however it is spelled, and wherever parsing ended"""
        for words, want in (('-v -D', True), ('-vD', True), ('-Dv', True), ('--deb', True),
                            ('-v', False), ('-oD', False), ('-v -o D', False)):
            for wrong in ('-c x', '--no', '-x', '--nosuch'):
                for text in (f'{words} {wrong}', f'{wrong} {words}'):
                    args = argparse.Namespace()
                    with self.assertRaises(UsageError):
                        cmdline.parse(text.split(), args)
                    self.assertEqual(want, args.debug, text)
            self.assertEqual(want, cmdline.parse(words.split()).debug, words)
        for text, want in (('-c x -vD', True), ('-vD -b nosuch', True), ('-v -b nosuch', False)):
            status, _, err = self.shell('', *text.split())
            self.assertEqual((2, want), (status, 'Traceback' in err), err)
            self.assertRegex(err.splitlines()[-1], '^buildman: ')
