# SPDX-License-Identifier: GPL-2.0+
"""What in a configuration means nothing is told, with its place, and stops nobody."""

from __future__ import annotations

import os
import shutil
import tempfile
import unittest
from typing import Any, ClassVar, Dict, List

import support

from buildman import bsettings
from buildman.cli import lists


class ConfigCheckTest(unittest.TestCase):
    """Texts of configuration files."""

    def setUp(self) -> None:
        self.tmp = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.tmp)
        self.addCleanup(bsettings.setup, None)
        self.path = os.path.join(self.tmp, 'conf')
        for name in ('gcc/bin/arm-linux-gcc', 'empty/bin/ld'):
            os.makedirs(os.path.dirname(os.path.join(self.tmp, name)))
            with open(os.path.join(self.tmp, name), 'wb'):
                pass

    def problems(self, text: str, folders: bool = True) -> List[str]:
        """Return what is said of a configuration, without the name of the file."""
        with open(self.path, 'w', encoding='utf-8') as outf:
            outf.write(text.replace('TMP', self.tmp))
        bsettings.setup(self.path)
        start = f"configuration file '{self.path}', "
        lines = lists.config_problems(folders)
        for line in lines:
            self.assertTrue(line.startswith(start), line)
            self.assertNotIn('\n', line)
        return [line[len(start):].replace(self.tmp, 'TMP') for line in lines]

    def test_all_is_known(self) -> None:
        """What the README names is no slip, nor are names of the user's own."""
        self.assertEqual([], self.problems(
            '[global]\nallow-missing = always\n[toolchain]\nany = TMP/gcc\ndownload = TMP/g*\n'
            '[toolchain-prefix]\narm = TMP/x-\n[toolchain-alias]\nq = a b\n[toolchain-wrapper]\n'
            'w = ccache\n[toolchain-fetch]\nurl = x\n[make-flags]\n* = ${x} ${target}\nx = A=1\n'
            'board = ${x}\n[machines]\na = u@h\nb\n[machine:a]\nmax_boards = 1\nwork_dir = ~/x\n'
            'ssh_options = -4\ntransport = ssh\nmax_load = 1\nother_gcc = no\n[machine:b]\n'
            '[worker-env]\nX = 1\n[distributed]\nheartbeat = 10\n'))

    def test_no_file(self) -> None:
        """Nobody has written the defaults, so nobody is told about them."""
        bsettings.setup(None)
        bsettings.is_default = True
        bsettings.add_file('[toolchain]\nother = /nowhere\n')
        self.assertEqual([], lists.config_problems())

    def test_sections(self) -> None:
        """A section of another name has no effect."""
        self.assertEqual([
            'line 3: there is no section [toolchian], so it has no effect (did you mean '
            '[toolchain]?)',
            'line 6: there is no section [Make-Flags], so it has no effect (did you mean '
            '[make-flags]?)',
            'line 7: there is no section [zzz], so it has no effect'], self.problems(
                '# here\n\n[toolchian]\na = /\nb = /\n[Make-Flags]\n[zzz]\n'))

    def test_keys(self) -> None:
        """Nor has a key of another name, where only some have a meaning."""
        self.assertEqual([
            "line 2: there is no 'alow-missing' in [global], so it has no effect (did you mean "
            "'allow-missing'?); there is: allow-missing",
            "line 6: there is no 'max_board' in [machine:a], so it has no effect (did you mean "
            "'max_boards'?); there is: count, cpus, idle, "
            'max_boards, max_load, memory, options, other_gcc, partition, ssh_options, supply, '
            'time, transport, work_dir',
            "line 7: there is no 'q' in [machine:a], so it has no effect; there is: count, "
            'cpus, idle, max_boards, max_load, memory, options, other_gcc, partition, ssh_options, '
            'supply, time, transport, work_dir',
            "line 9: there is no 'Heartbeat' in [distributed], so it has no effect (did you mean "
            "'heartbeat'?); there is: heartbeat"], self.problems(
                '[global]\nalow-missing = always\n[machines]\na\n[machine:a]\nmax_board: 1\nq\n'
                '[distributed]\nHeartbeat = 1\n'))

    def test_machines(self) -> None:
        """A section for a machine that there is not."""
        self.assertEqual([
            "line 3: [machine:alpa] has no effect, as 'alpa' is not in [machines] (did you mean "
            "'alpha'?)",
            "line 4: [machine:] has no effect, as '' is not in [machines]"],
            self.problems('[machines]\nalpha = u@h\n[machine:alpa]\n[machine:]\n'))

    def test_folders(self) -> None:
        """A folder of [toolchain] from which nothing comes."""
        text = ('[toolchain]\nnone = TMP/none\nglob = TMP/n*\nempty = TMP/empty\ngood = TMP/gcc\n'
                'file = TMP/gcc/bin/arm-linux-gcc\nbare\n')
        self.assertEqual([
            "line 2: 'none' in [toolchain]: there is no folder 'TMP/none'",
            "line 3: 'glob' in [toolchain]: nothing fits 'TMP/n*'",
            "line 4: 'empty' in [toolchain]: there is no compiler (a program called …gcc) in "
            "'TMP/empty', nor in its bin or usr/bin",
            "line 6: 'file' in [toolchain]: there is no compiler (a program called …gcc) in "
            "'TMP/gcc/bin/arm-linux-gcc', nor in its bin or usr/bin",
            "line 7: 'bare' in [toolchain] has no folder"], self.problems(text))
        # What is going to fill them is asked for
        self.assertEqual([], self.problems(text, folders=False))

    def test_variables(self) -> None:
        """A variable that is not there is empty."""
        self.assertEqual([
            "line 2: ${vers} is empty, as there is no 'vers' in [make-flags] (did you mean "
            "'ver'?)"], self.problems('[make-flags]\na = ${vers} ${ver} ${vers}\nver = A=1\n'))


class CommandTest(support.SampleCase):
    """The command with such a file"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 1, 'commits': 1}

    def test_output(self) -> None:
        """It is on stderr, once, and changes neither the output nor the exit status"""
        config = self.out('conf')
        with open(self.config, encoding='utf-8') as inf, open(config, 'w',
                                                              encoding='utf-8') as outf:
            outf.write('[toolchian]\n' + inf.read()
                       + '[machines]\nx1\n[machine:x1]\nmax_board = 2\n')
        for words, want in (('--print-arch', 'sandbox\n'), ('-A', '\n')):
            got = self.run_buildman('-G', config, '-o', self.out(), words, 'sandbox')
            self.assertEqual((0, want), (got.returncode, got.stdout), got)
            lines = got.stderr.splitlines()
            self.assertEqual(2, len(lines), got)
            self.assertIn(f"'{config}', line 1: there is no section [toolchian]", lines[0])
            self.assertIn("there is no 'max_board' in [machine:x1]", lines[1])
        got = self.run_buildman('-G', config, '-o', self.out(), '-b', 'feature')
        self.assertEqual((0, 2), (got.returncode, len(got.stderr.splitlines())), got)
