# SPDX-License-Identifier: GPL-2.0+
"""What people see while a build runs, and odd repositories and names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any, ClassVar, Dict

import support

from buildman.demo import sample, sample_files

BOARDS = tuple(board for board in sample_files.DEFAULT_BOARDS
               if board.target in ('sandbox', 'anvil'))


def read(*parts: str) -> str:
    """Return the text of a file."""
    with open(os.path.join(*parts), encoding='utf-8', errors='replace') as inf:
        return inf.read()


class ScreenCase(support.SampleCase):
    """Two boards; anvil breaks at the third of four commits"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': BOARDS, 'commits': 3}

    def git(self, *args: str, cwd: str = '') -> str:
        """Run git"""
        return subprocess.run(['git', '-C', cwd or self.tree.path, *args], check=True, text=True,
                              capture_output=True).stdout.strip()


class TestScreen(ScreenCase):
    """Terminal and pipe"""

    def test_terminal(self) -> None:
        """One line that is redrawn, in colours, and left behind whole"""
        got = self.terminal_buildman('-b', 'feature', '-T', '1', '-o', self.out())
        self.assertEqual(got.returncode, 100, got)
        text = got.raw.decode()
        self.assertIn('\r\x1b[1;32m    1\x1b[0m\x1b[1;33m    0\x1b[0m\x1b[1;31m    0\x1b[0m '
                      '/8      \x1b[1;35m -7      \x1b[0m', text)
        lines = got.screen()
        self.assertEqual(lines[0], 'Building 4 commits for 2 boards (1 thread, 2 jobs per thread)')
        self.assertEqual(lines[1], '    6    0    2 /8               sandbox')
        self.assertRegex(lines[2], r'\ACompleted: 8 total built')
        self.assertEqual(lines[3:], [''])

    def test_narrow(self) -> None:
        """On a narrow terminal the line must not wrap, or it fills the screen"""
        got = support.run_on_terminal(
            self.argv('-b', 'feature', '-c', '2', '--boards', 'sandbox', '-o', self.out()),
            self.tree.path, self.env({'TERM': 'xterm', 'COLUMNS': '', 'LINES': ''}),
            size=(24, 42))
        for piece in got.raw.decode().split('\r'):
            if '/2' in piece:
                self.assertLess(len(re.sub(r'\x1b\[[0-9;]*[mK]', '', piece).rstrip('\n')), 42)

    def test_pipe(self) -> None:
        """In a log file: plain lines, one for each result"""
        got = self.run_buildman('-b', 'feature', '-T', '1', '-o', self.out())
        self.assertNotIn('\x1b', got.stdout)
        self.assertNotIn('\r', got.stdout)
        lines = got.stdout.splitlines()
        self.assertEqual(len(lines), 10, got)
        self.assertRegex(lines[1], r'\A    1    0    0 /8       -7      (\d:\d\d:\d\d  : )?anvil\Z')
        self.assertEqual(lines[8], '    6    0    2 /8               sandbox')

    def test_closed_pipe(self) -> None:
        """`buildman | head -1` builds on"""
        proc = subprocess.Popen(
            self.argv('-b', 'feature', '-c', '1', '-o', self.out(), '--boards', 'sandbox'),
            cwd=self.tree.path, env=self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert proc.stdout and proc.stderr
        proc.stdout.close()
        error = proc.stderr.read()
        proc.stderr.close()
        self.assertEqual(proc.wait(60), 0, error)
        self.assertEqual(error, b'')

    def test_ctrl_c(self) -> None:
        """Ctrl-C on a terminal: the line is ended, nothing runs on"""
        env = self.write_knobs('sandbox', 'hang deaf')
        got = self.terminal_buildman('-b', 'feature', '-c', '2', '-T', '2', '-o', self.out(),
                                     answers=[('/4', b'\x03')], env=env)
        self.assertEqual(got.returncode, 130, got)
        self.assertEqual(got.screen()[-2], 'buildman: interrupted')
        self.assert_no_processes()

    def test_verbose(self) -> None:
        """-v: each result as it comes; with -e what compilers said"""
        args = ('-b', 'feature', '-c', '2', '--boards', 'anvil', '-o', self.out(), '-v')
        got = self.run_buildman(*args)
        self.assertIn('01: acme: anvil: Break the build\n       arm:  +   anvil\n', got.stdout)
        self.assertNotIn("expected ';'", got.stdout)
        got = self.run_buildman(*args, '-e', '-f')
        self.assertIn("       arm:  +   anvil\n+board/acme/anvil/anvil.c: In function "
                      "'board_init':\n+board/acme/anvil/anvil.c:11:9: error: expected ';' before",
                      got.stdout)
        self.assertIn('\nw+board/acme/anvil/anvil.c:12:1: warning: control reaches end',
                      got.stdout)
        self.assertNotIn('arm:', self.run_buildman(*args[:-1], '-f').stdout)

    def test_current_says(self) -> None:
        """The current source: errors are printed while it builds"""
        env = self.write_knobs('sandbox', 'warn careful')
        got = self.run_buildman('-o', self.out(), '--boards', 'sandbox', env=env)
        self.assertIn('   sandbox:  w+   sandbox\nw+knobs.c:1:1: warning: careful\n'
                      '    0    1    0 /1', got.stdout)

    def test_ide(self) -> None:
        """-I: an editor gets the compilers' words alone"""
        env = self.write_knobs('sandbox', 'warn careful')
        got = self.run_buildman('-I', '-o', self.out(), '--boards', 'sandbox', env=env)
        self.assertEqual((got.returncode, got.stdout.strip(), got.stderr),
                         (101, '', 'knobs.c:1:1: warning: careful\n'))


class TestNames(ScreenCase):
    """Repositories and names that not everybody has"""

    def build(self, tree: str, *args: str, status: int = 0, out: str = '') -> support.Result:
        """Build the newest commit of the sandbox"""
        got = self.run_buildman('-c', '1', '-o', out or self.out(), '--boards', 'sandbox', *args,
                                cwd=tree)
        self.assertEqual(got.returncode, status, got)
        self.assertIn('Completed: 1 total built', got.stdout)
        return got

    def test_repositories(self) -> None:
        """Worktree, shallow clone, bare, detached: the same result"""
        self.build(self.tree.path, '-b', 'feature', '-r', out=self.out('want'))
        want = self.out('want/feature')
        self.git('worktree', 'add', '-q', '--detach', self.out('work'), 'feature')
        self.addCleanup(self.git, 'worktree', 'prune')
        self.git('clone', '-q', '--depth', '2', 'file://' + self.tree.path, self.out('shallow'))
        self.git('clone', '-q', self.tree.path, self.out('detached'))
        self.git('checkout', '-q', '--detach', cwd=self.out('detached'))
        for name, branch in (('work', 'HEAD'), ('shallow', 'feature'), ('detached', 'HEAD')):
            with self.subTest(name=name):
                out = self.out('out-' + name)
                self.build(self.out(name), '-b', branch, '-r', out=out)
                support.assert_same_tree(want, os.path.join(out, branch))
                # The user's repository is read, never written
                self.assertEqual(self.git('status', '--porcelain', cwd=self.out(name)), '')
        self.assertEqual(len(self.git('worktree', 'list').splitlines()), 2)

    def test_odd_names(self) -> None:
        """Blanks, quotes and the like in folders, branches and subjects"""
        tree = self.out("my tree's; $(x)")
        shutil.copytree(self.tree.path, tree)
        self.git('checkout', '-q', '-b', "topic/a'b#c&d", cwd=tree)
        self.git('commit', '-q', '--allow-empty', '-m',
                 'x86/fix: "quotes" `and` $HOME %s \\n ../../..', cwd=tree)
        out = self.out('out put "q"')
        got = self.build(tree, '-b', "topic/a'b#c&d", out=out)
        self.assertEqual(got.stderr, '')
        commit = self.git('rev-parse', 'HEAD', cwd=tree)
        name = f'01_g{commit}_x86-fix--"quotes"-`a'
        folder = os.path.join(out, "topic_a'b#c&d", name, 'sandbox')
        self.assertEqual(read(folder, 'done'), '0')
        self.assertEqual(read(folder, 'out-cmd').splitlines()[1], 'make O=build -s NPROC=1')
        self.assertIn('u-boot', read(folder, 'sizes'))
        # Kept images come from another folder then
        self.build(tree, '-b', "topic/a'b#c&d", '-f', '-k', out=out)
        self.assertTrue(os.path.exists(os.path.join(folder, 'u-boot.bin')))
        current = self.run_buildman('-o', out, '--boards', 'sandbox', cwd=tree)
        self.assertNotIn('Traceback', current.stderr)

    def test_read_only_repository(self) -> None:
        """Nothing in the repository changes, not even a time stamp"""
        def state() -> Dict[str, int]:
            return {os.path.join(folder, name): os.lstat(os.path.join(folder, name)).st_mtime_ns
                    for folder, dirs, names in os.walk(self.tree.path) for name in names + dirs
                    if '/worktrees' not in os.path.join(folder, name)}
        before = state()
        self.build(self.tree.path, '-b', 'feature')
        self.assertEqual(state(), before)

    def test_history(self) -> None:
        """A warning shows at each commit, and no board inherits another's files"""
        def warn(state: sample_files.TreeState) -> None:
            state.unused.update(('board/sandbox', 'board/acme/anvil'))

        def note(state: sample_files.TreeState) -> None:
            state.note += 'x'
        tree = sample.make_sample(self.out('tree'), BOARDS, [('warn', warn), ('a', note),
                                                             ('b', note)])
        env = self.write_knobs('anvil', 'config warn configured', 'config say configured')
        got = self.run_buildman('-b', 'feature', '-T', '1', '-r', '-o', self.out(), cwd=tree.path,
                                env=env)
        self.assertEqual(got.returncode, 101, got)
        top = self.out('out/feature')
        texts = set()
        for name in sorted(os.listdir(top)):
            if '_g' in name and not name.startswith('01'):
                texts.add(read(top, name, 'anvil', 'err') + read(top, name, 'anvil', 'log'))
                self.assertIn("'sandbox_helper' defined but not used",
                              read(top, name, 'sandbox', 'err'))
                self.assertFalse(any('spl' in file for file in os.listdir(
                    os.path.join(top, name, 'sandbox'))))
        self.assertEqual(len(texts), 1, texts)
        self.assertEqual(texts.pop().count('anvil_helper'), 4)
        # The same from the middle on: what came before leaves no trace
        got = self.run_buildman('-b', 'feature', '-c', '2', '-r', '-o', self.out('late'),
                                cwd=tree.path, env=env)
        for index in (1, 2):
            names = [next(name for name in os.listdir(where) if name.startswith(f'{num:02}_'))
                     for where, num in ((top, index + 2), (self.out('late/feature'), index))]
            support.assert_same_tree(os.path.join(top, names[0]),
                                     os.path.join(self.out('late/feature'), names[1]))
