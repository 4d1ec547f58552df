# SPDX-License-Identifier: GPL-2.0+
"""--top and --status: what people and programs see of a run, on a real terminal."""

from __future__ import annotations

import json
import os
import re
from typing import Any, ClassVar, Dict, List

import support

from buildman.demo import sample_files

BOARDS = tuple(board for board in sample_files.DEFAULT_BOARDS
               if board.target in ('sandbox', 'anvil'))


class Screen:
    """A terminal of so many rows and columns, as far as we use one.

    Attributes:
        gone: lines that went out at the top
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.gone: List[str] = []
        self._lines = [''] * rows
        self._columns = columns
        self._row = self._col = 0

    def resize(self, rows: int, columns: int) -> None:
        """Get another size: rows go at the top, columns at the right."""
        while len(self._lines) > rows:
            if self._row < len(self._lines) - 1:
                self._lines.pop()
            else:
                self.gone.append(self._lines.pop(0))
                self._row -= 1
        self._lines = [line[:columns] for line in self._lines]
        self._lines += [''] * (rows - len(self._lines))
        self._columns = columns

    def feed(self, data: bytes) -> None:
        """Show what was printed."""
        for token in re.findall(r'\x1b\[[0-9;?]*[A-Za-z]|.', data.decode(), re.DOTALL):
            line = self._lines[self._row]
            if token == '\n':
                self._row += 1
                if self._row == len(self._lines):
                    self.gone.append(self._lines.pop(0))
                    self._lines.append('')
                    self._row -= 1
            elif token == '\r':
                self._col = 0
            elif token.endswith('A') and len(token) > 1:
                self._row = max(0, self._row - int(token[2:-1]))
            elif token in ('\x1b[K', '\x1b[J'):
                self._lines[self._row] = line[:self._col]
                if token[-1] == 'J':
                    self._lines[self._row + 1:] = [''] * (len(self._lines) - self._row - 1)
            elif not token.startswith('\x1b'):
                assert self._col < self._columns, f'wraps: {line}'
                self._lines[self._row] = line.ljust(self._col)[:self._col] + token + line[
                    self._col + 1:]
                self._col += 1
            else:
                assert token.endswith('m'), token

    @property
    def lines(self) -> List[str]:
        """Return what is seen, without the empty lines at the end."""
        return '\n'.join(line.rstrip() for line in self._lines).rstrip('\n').split('\n')


class TopCase(support.SampleCase):
    """Two boards; anvil breaks at the third of four commits"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': BOARDS, 'commits': 3}

    def state(self) -> Dict[str, Any]:
        """Return what is in the file"""
        with open(self.out('state'), encoding='utf-8') as inf:
            got: Dict[str, Any] = json.load(inf)
        return got

    def test_top(self) -> None:
        """Machines and failures above the line, whatever the size; what is said stays"""
        seen: Dict[str, List[str]] = {}
        screen = Screen(24, 80)
        shown = 0

        def look(name: str, size: Any) -> Any:
            """Return what looks at the screen, and gives it another size"""
            def act(fdes: int, raw: bytes) -> None:
                nonlocal shown
                screen.feed(raw[shown:])
                shown = len(raw)
                seen[name] = screen.lines
                if size:
                    support.resize(fdes, *size)
                    screen.resize(*size)
                else:
                    with open(self.out('go'), 'w', encoding='utf-8'):
                        pass
            return act

        # All of anvil is built, and sandbox goes on when we have seen enough
        env = self.write_knobs('sandbox', f'wait {self.out("go")}')
        # A drawing may come in pieces: it is there when its last line is
        drawn = [(' -4 ', b'')]
        got = self.terminal_buildman(
            '-b', 'feature', '-T', '2', '-v', '-o', self.out(), '--top', '--status',
            self.out('state'), env={**env, 'COLUMNS': '', 'LINES': ''}, answers=[
                *drawn, ('anvil', look('early', (12, 60))),
                ('\x1b[J', b''), *drawn, ('anvil', look('narrow', (4, 60))),
                ('\x1b[J', b''), *drawn, ('anvil', look('tiny', (30, 100))),
                ('anvil@04', b''), *drawn, ('anvil', look('wide', (24, 80))),
                ('anvil@04', b''), *drawn, ('anvil', look('usual', None))])
        screen.feed(got.raw[shown:])
        self.assertEqual(got.returncode, 100, got)
        first = r'machine +slots busy results  /min   load silent  longest in hand'
        row = r'local +2 +1 +4 +\d+\.\d +\d+\.\d +sandbox@01 \d+s'
        failure = r"anvil@03: board/acme/anvil/anvil\.c:11:9: error: expected ';' before"
        line = r'    2    0    2 /8       -4      (\d:\d\d:\d\d  : )?anvil'
        for name in ('narrow', 'wide', 'usual'):
            wants = first, row, failure, 'anvil@04: ', line
            for text, want in zip(seen[name][-5:], wants):
                self.assertRegex(text, want[:30] if name == 'narrow' else want, seen)
        self.assertIn('machine ', '\n'.join(seen['early']))
        self.assertNotIn('machine ', '\n'.join(seen['tiny']))
        self.assertRegex(seen['tiny'][-1], line)
        # What was said is above, once, and nothing else is left
        lines = [*(text.rstrip() for text in screen.gone), *screen.lines]
        self.assertEqual(lines[0][:52], 'Building 4 commits for 2 boards (2 threads, 1 job pe')
        self.assertEqual(2, lines.count('       arm:  +   anvil'), lines)
        self.assertEqual(lines[-2], '    6    0    2 /8               sandbox')
        self.assertRegex(lines[-1], r'\ACompleted: 8 total built')
        # But for what went out when the terminal got lower than what we show
        self.assertEqual([], [text for text in lines if '@0' in text])
        self.assertLessEqual(sum('machine ' in text for text in lines), 1, lines)
        self.check_state()

    def check_state(self) -> None:
        """See what the file says at the end"""
        state = self.state()
        self.assertEqual(('ended', 100, 8, 8, 6, 0, 2, 0, 0), tuple(state[key] for key in (
            'phase', 'exit_status', 'total', 'done', 'good', 'warned', 'failed', 'previous',
            'left')))
        self.assertEqual([('anvil', 3, 'local'), ('anvil', 4, 'local')], [
            (item['board'], item['commit'], item['machine']) for item in state['failures']])
        machine = state['machines'][0]
        self.assertEqual(('local', 2, 8, []), tuple(
            machine[key] for key in ('name', 'slots', 'results', 'building')))
        self.assertFalse(os.path.exists(self.out('state.new')))

    def test_interrupted(self) -> None:
        """Ctrl-C: the lines go, the usual last ones stand, and the file tells"""
        env = self.write_knobs('sandbox', 'hang deaf')
        for _ in range(5):
            screen = Screen(24, 80)
            got = self.terminal_buildman(
                '-b', 'feature', '-c', '1', '--boards', 'sandbox', '-o', self.out(), '--top',
                '--status', self.out('state'), answers=[('sandbox@01', b'\x03')], env=env)
            screen.feed(got.raw)
            self.assertEqual(got.returncode, 130, got)
            self.assertEqual(screen.lines[0],
                             'Building 1 commit for 1 boards (1 thread, 2 jobs per thread)')
            self.assertRegex(screen.lines[-2], r'\A    0    0    0 /1       -1')
            self.assertEqual(screen.lines[-1], 'buildman: interrupted')
            # In the middle of a drawing nobody knows what stands there, and it stays
            if len(screen.lines) == 3:
                break
        self.assertEqual(len(screen.lines), 3, screen.lines)
        state = self.state()
        self.assertEqual(('interrupted', 130, 0), (state['phase'], state['exit_status'],
                                                   state['done']))

    def test_falls_back(self) -> None:
        """One line on a terminal that can do no more; a bad file is told before all else"""
        args = ('-b', 'feature', '-c', '1', '--boards', 'sandbox', '-o', self.out(), '--top')
        got = self.terminal_buildman(*args, env={'TERM': 'dumb'})
        self.assertEqual((got.returncode, b'\x1b[J' in got.raw), (0, False), got)
        for name, why, more in ((self.out('no/file'), 'there is no such folder: .*', ''),
                                (self.tmp, 'it is a folder: .*', ''),
                                ('/dev/null', 'is no file', ''),
                                (self.out('state'), 'cannot go with -s.*', '-s')):
            bad = self.run_buildman(*args, '--status', name, *more.split())
            self.assertEqual((bad.returncode, bad.stdout), (2, ''), bad)
            self.assertRegex(bad.stderr, f'\\Abuildman: .*--status.*{why}\n\\Z')
        self.assertFalse(os.path.exists(self.out('state')))
        # All is there already
        self.run_buildman(*args, '--status', self.out('state'))
        state = self.state()
        self.assertEqual(('ended', 0, 1, 1), (state['phase'], state['exit_status'],
                                              state['done'], state['previous']))
