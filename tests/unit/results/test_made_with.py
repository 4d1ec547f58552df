# SPDX-License-Identifier: GPL-2.0+
"""What a result tells of its settings, and when it is one of another run's."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import unittest
from typing import Any, Dict, List, Sequence

from buildman.core.files import put_file
from buildman.core.outcome import Outcome
from buildman.core.plan import Board, BoardJob, Plan, Settings, Toolchain
from buildman.results import made_with
from buildman.results.tree import ResultTree

TOOL = Toolchain('arm', '/opt/arm-gcc', '/opt', 'arm-', version='arm-gcc (x) 12.2.0')
JOB = BoardJob(Board('b', 'arm'), (0,), TOOL)


class CompareTest(unittest.TestCase):
    """Whether one run can take the results of another"""

    def compare(self, had: Dict[str, Any], now: Dict[str, Any]) -> Any:
        """Compare two sets of settings, as files tell them"""
        return made_with.compare(*(
            json.loads(made_with.text(Settings(**values), JOB)) for values in (had, now)))

    def test_each_setting(self) -> None:
        """Each setting has its say, none other; by default a file tells the compiler only"""
        self.assertEqual(made_with.text(Settings(), JOB), '{"compiler": "arm-gcc (x) 12.2.0"}\n')
        again: List[str] = []
        risks: List[str] = []
        adds: List[str] = []
        for field in dataclasses.fields(Settings):
            value: Any = {bool: lambda val: not val, str: lambda val: 'x',
                          int: lambda val: 7}.get(type(field.default), lambda val: ('x',))(
                              field.default)
            self.assertEqual(self.compare({field.name: value}, {field.name: value}), ([], []))
            there, back = (self.compare(*pair) for pair in (
                ({}, {field.name: value}), ({field.name: value}, {})))
            again += back[0] if there[0] else []
            risks += [] if there[0] else back[0]
            adds += there[1]
            self.assertEqual(back[1], [])
        self.assertEqual(sorted(again), ['--config-only', '--dtc-skip', '--fragments', '--target',
                                         '-E', '-L', '-M', '-a', '-r'])
        self.assertEqual(sorted(risks), ['-Q', '-Z'])
        self.assertEqual(sorted(adds), ['--lines', '-V', '-k'])

    def test_compiler_and_make(self) -> None:
        """Another compiler, or words of make; who has no compiler takes what machines made"""
        def told(version: str, *words: str, override: str = '') -> Any:
            tool = dataclasses.replace(TOOL, version=version, override=override)
            return json.loads(made_with.text(Settings(), dataclasses.replace(
                JOB, toolchain=tool, make_args=words)))
        for had, now, want in (
                (told('gcc 12'), told('gcc 13'), ['another compiler']),
                (told('gcc 12'), told('gcc 12', override='gcc -g'), ['another compiler']),
                (told('gcc 12'), told(''), []), (told(''), told('gcc 12'), []),
                (told('gcc 12', 'A=1'), told('gcc 12', 'A=2'), ['[make-flags]']),
                (told('gcc 12', 'A=1'), told('gcc 12', 'A=1'), [])):
            self.assertEqual(made_with.compare(had, now), (want, []))


class EarlierTest(unittest.TestCase):
    """Results on the disk"""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = ResultTree(folder.name, None)

    def earlier(self, had: str, settings: Settings,
                names: Sequence[str] = ('b',)) -> made_with.Earlier:
        """Look at results with this file, or without one"""
        jobs = tuple(dataclasses.replace(JOB, board=Board(name, 'arm')) for name in names)
        found = made_with.Earlier(Plan(jobs, None, settings))
        for name in names:
            self.tree.write(Outcome(name, 0, 0, files={'settings': had.encode()} if had else {}))
            found.is_outdated(name, 0, self.tree.complete(0, [name])[name].settings)
        return found

    def test_lines(self) -> None:
        """What is told, once for all"""
        plain = made_with.text(Settings(), JOB)
        self.assertEqual(self.earlier(plain, Settings()).lines(), [])
        other = self.earlier(plain, Settings(no_lto=True, warnings_as_errors=True), 'ab')
        self.assertEqual(other.outdated, {('a', 0), ('b', 0)})
        self.assertEqual(other.lines(), ['2 results of other settings (-E, -L): built again'])
        less = self.earlier(plain, Settings(keep_outputs=True), 'abcdef')
        self.assertEqual((less.outdated, less.lines()), (set(), [
            '6 boards built without -k (a b c d e …): kept so; -f builds all again']))
        none = self.earlier('', Settings(no_lto=True))
        self.assertEqual((none.outdated, none.lines()), (set(), [
            '1 result of unknown settings (of another buildman, or a copy): taken for those of '
            'this run; -f builds all again']))

    def test_odd_files(self) -> None:
        """One that is damaged is of other settings; one that is long is read whole"""
        for text in ('{"target"', '[]', 'x', '\0', '{"compiler": 3}'):
            self.assertTrue(self.earlier(text, Settings()).outdated, text)
        many = Settings(adjust_cfg=tuple(f'CONFIG_OPTION_{num}=y' for num in range(1000)))
        self.assertEqual(self.earlier(made_with.text(many, JOB), many).lines(), [])

    def test_another_file(self) -> None:
        """A folder in its place does no harm"""
        os.makedirs(os.path.join(self.tree.board_dir(0, 'b'), 'settings'))
        put_file(os.path.join(self.tree.board_dir(0, 'b'), 'done'), b'0')
        had = self.tree.complete(0, ['b'])['b'].settings
        found = made_with.Earlier(Plan((JOB,), None, Settings()))
        self.assertEqual(('', False), (had, found.is_outdated('b', 0, had)))


if __name__ == '__main__':
    unittest.main()
