# SPDX-License-Identifier: GPL-2.0+
"""The helpers that other tests believe."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

import memory
import support
from support import TESTS


class TestSupport(unittest.TestCase):
    """The helpers that other tests believe."""

    def test_screen(self) -> None:
        """A redrawn line counts once, as a user sees it."""
        text = 'one\n  1 of 2\r  2 of 2\r\x1b[Kdone \x1b[1;32mok\x1b[0m\nab\bc\n'
        self.assertEqual(['one', 'done ok', 'ac', ''], support.render_screen(text))

    def test_terminal(self) -> None:
        """A program on the terminal is really on one, and can be typed at."""
        out = support.run_on_terminal(
            [sys.executable, '-c', 'import os,sys; print(sys.stdout.isatty(), '
             'os.get_terminal_size().columns); print(input("name? "))'],
            answers=[('name? ', b'me\r')])
        self.assertEqual(0, out.returncode)
        self.assertEqual(['True 80', 'name? me', 'me', ''], out.screen())

    def test_needs(self) -> None:
        """Skipping is loud, and no way out where CI is set."""
        support.needs('sh')
        saved = os.environ.pop('CI', None)
        err = sys.stderr
        try:
            with open(os.devnull, 'w', encoding='utf-8') as sys.stderr, \
                    self.assertRaises(unittest.SkipTest):
                support.needs('no-such-tool')
            os.environ['CI'] = '1'
            with self.assertRaisesRegex(AssertionError, 'no-such-tool'):
                support.needs('no-such-tool')
        finally:
            sys.stderr = err
            os.environ.pop('CI')
            if saved is not None:
                os.environ['CI'] = saved

    def test_memory(self) -> None:
        """Tests are in memory if that can be; what the environment says wins"""
        def where(**env: str) -> str:
            return subprocess.run(
                [sys.executable, '-c', 'import tests, tempfile; print(tempfile.gettempdir())'],
                cwd=os.path.dirname(TESTS), capture_output=True, text=True, check=True,
                env={**{name: val for name, val in os.environ.items()
                        if name not in ('TMPDIR', 'TEMP', 'TMP')},
                     **env}).stdout.strip()

        with tempfile.TemporaryDirectory() as tmp:
            self.assertEqual(where(TMPDIR=tmp), tmp)
            self.assertEqual(where() == memory.MEMORY, memory.has_room(memory.MEMORY))
            self.assertFalse(memory.has_room(os.path.join(tmp, 'none')))
            real = os.statvfs(tmp)
            for room, flag, good in ((memory.ROOM, 0, True), (memory.ROOM - 1, 0, False),
                                     (memory.ROOM, os.ST_NOEXEC, False)):
                stat = mock.Mock(wraps=real, f_flag=flag, f_bavail=room, f_frsize=1)
                with mock.patch('os.statvfs', return_value=stat):
                    self.assertEqual(memory.has_room(tmp), good)

    def test_trees(self) -> None:
        """A difference between trees is found, a different home folder is not."""
        with tempfile.TemporaryDirectory() as tmp:
            files = {'01_gabc_x/b/out-env': ('A="1"HOME="/a"PATH="/x"Z="2"',
                                             'A="1"HOME="/b"PATH="/y"Z="2"'),
                     '01_gabc_x/b/done': ('0', '0'), '01_gabc_x/b/host': ('me', 'you'),
                     '.bm-work/00/junk': ('1', '2')}
            for name, texts in files.items():
                for side, text in zip('lr', texts):
                    path = os.path.join(tmp, side, name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with open(path, 'w', encoding='utf-8') as outf:
                        outf.write(text)
            left, right = (os.path.join(tmp, side) for side in 'lr')
            support.assert_same_tree(left, right)
            for name, text in (('out-env', 'A="1"HOME="/b"PATH="/y"Z="3"'), ('done', '2'),
                               ('extra', '')):
                path = os.path.join(right, '01_gabc_x/b', name)
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write(text)
            found = '\n'.join(support.tree_differences(left, right))
            self.assertIn('-Z=2', found)
            self.assertIn('+2', found)
            self.assertIn('only in', found)

    def test_fifo(self) -> None:
        """A test does not wait for ever for a program that has failed at once."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'fifo')
            os.mkfifo(path)
            with subprocess.Popen(['false']) as proc, \
                    self.assertRaisesRegex(AssertionError, 'has ended'):
                support.open_fifo(path, lambda: proc.poll() is None)
            with subprocess.Popen(['sh', '-c', f'echo hi >{path}']) as proc, \
                    support.open_fifo(path, lambda: proc.poll() is None) as inf:
                self.assertEqual(b'hi\n', inf.read())

    def test_wait_until(self) -> None:
        """Waiting ends at its bound."""
        start = time.monotonic()
        with self.assertRaisesRegex(AssertionError, 'in vain for the moon'):
            support.wait_until(lambda: False, 0, 'the moon')
        self.assertLess(time.monotonic() - start, 60)
