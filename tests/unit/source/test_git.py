# SPDX-License-Identifier: GPL-2.0+
"""Running git: what it answers, and what people read when it refuses."""

from __future__ import annotations

import os
import tempfile
import threading
import unittest
from typing import List
from unittest import mock

import support
from support import wait_until

from buildman.core.errors import GitError
from buildman.source import git


def _alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has reaped yet does not."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as inf:
            return inf.read().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


class GitTest(unittest.TestCase):
    """Commands in a repository with an odd name, and in none."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.tmp = os.path.realpath(tmp.name)
        self.repo = os.path.join(self.tmp, "a 'b\"")
        git.run(self.tmp, 'init', '-q', '-b', 'main', self.repo)
        git.run(self.repo, '-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-q',
                '--allow-empty', '-m', 'Größe')

    def test_answers(self) -> None:
        """Bytes as they are, text as names of files are decoded, a refusal as ''."""
        self.assertEqual(git.run(self.repo, 'log', '--format=%s'), 'Größe\n'.encode())
        self.assertEqual(git.text(self.repo, 'hash-object', '--stdin', stdin=b''),
                         'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\n')
        self.assertEqual(git.ask(self.repo, 'rev-parse', '--show-toplevel'), self.repo)
        self.assertEqual(git.ask(self.repo, 'rev-parse', '--verify', 'nosuch'), '')
        self.assertEqual(git.ask(self.tmp, 'rev-parse', '--git-dir'), '')

    def test_called_from_a_hook(self) -> None:
        """A command is for the folder it runs in, whatever git set for its hooks."""
        with mock.patch.dict(os.environ, {name: '/nowhere' for name in git.VARIABLES}):
            self.assertEqual(git.ask(self.repo, 'rev-parse', '--show-toplevel'), self.repo)

    def test_environment_of_a_call(self) -> None:
        """What a call sets counts, as an index of its own does."""
        index = os.path.join(self.tmp, 'index')
        git.text(self.repo, 'read-tree', 'HEAD', env={'GIT_INDEX_FILE': index})
        self.assertTrue(os.path.exists(index))

    def test_refusals(self) -> None:
        """One line with the command, the folder and git's own reason."""
        with self.assertRaisesRegex(GitError, r"^git cat-file failed in '.*b\"': fatal: .*nosuch"):
            git.run(self.repo, '-c', 'a.b=c', 'cat-file', '-t', 'nosuch')
        with self.assertRaisesRegex(GitError, "^no such folder: '.*none'$"):
            git.run(os.path.join(self.tmp, 'none'), 'status')

    def test_git_is_not_installed(self) -> None:
        """On a bare machine the message says what to install, whoever asks."""
        with mock.patch.dict(os.environ, {'PATH': self.tmp}):
            for call in (git.run, git.text, git.ask):
                with self.assertRaisesRegex(git.NoGitError, 'git is not installed .apt-get'):
                    call(self.repo, 'status')

    def test_end_all(self) -> None:
        """Ctrl-C while slots check out their source: no git and no helper of it lives on."""
        fifo = os.path.join(self.tmp, 'fifo')
        os.mkfifo(fifo)
        with open(os.path.join(self.tmp, 'git'), 'w', encoding='utf-8') as outf:
            # The helper tells its number when both are there
            outf.write('#!/bin/sh\n'
                       f'sh -c \'echo $$ >"{fifo}"; exec sleep 1000\' &\nwait\n')
        os.chmod(outf.name, 0o755)
        errors: List[Exception] = []

        def call() -> None:
            try:
                git.run(self.tmp, 'checkout')
            except GitError as exc:
                errors.append(exc)

        with mock.patch.dict(os.environ, {'PATH': f"{self.tmp}:{os.environ['PATH']}"}):
            thread = threading.Thread(target=call)
            thread.start()
            with support.open_fifo(fifo, thread.is_alive) as inf:
                pid = int(inf.read())
            git.end_all()
            thread.join(60)
        self.assertEqual(len(errors), 1)
        self.assertRegex(str(errors[0]), '^git checkout failed')
        wait_until(lambda: not _alive(pid), 60, 'the end of the helper')
