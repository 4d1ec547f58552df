# SPDX-License-Identifier: GPL-2.0+
"""The command line: all flags are there, are explained, and none is ignored."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import unittest
from typing import ClassVar

TESTS = os.path.dirname(os.path.abspath(__file__))
for folder in (TESTS, os.path.join(TESTS, '..', 'tools')):
    if folder not in sys.path:
        sys.path.insert(0, folder)

import support  # noqa: E402

from buildman import cmdline, control  # noqa: E402
from buildman.errors import UsageError  # noqa: E402

# What users and scripts type; (letter, word), either may be missing
FLAGS = re.findall(r'\S+', '''
--boards -x --exclude -b --branch -c --count --step -g --git -o --output-dir -n --dry-run
-v --verbose -T --threads -j --jobs -f --force-build -F --force-build-failures -C --force-reconfig
-m --mrproper --fallback-mrproper -L --no-lto -M --allow-missing --no-allow-missing
-V --verbose-build -E --warnings-as-errors -W --ignore-warnings -r --reproducible-builds
-k --keep-outputs -w --work-in-output -i --in-tree -N --no-subdirs -P --per-board-out-dir
-Q --quick -I --ide -a --adjust-cfg --fragments --config-only --target -O --override-toolchain
-p --full-path -A --print-prefix --print-arch --dtc-skip --ccache -Z --process-limit
--list-tool-chains --fetch-arch -R --regen-board-list --maintainer-check -D --debug
-G --config-file -H --full-help
-s --summary -e -l --list-error-boards -S --show-sizes -d --detail -B --bloat -K --show-config
-U --show-environment -u -y --filter-dtb-warnings -Y --filter-migration-warnings -z
--preserve-config-y --show-not-built
--dist --distribute --use-machines --no-local --mach --machines --machines-fetch-arch
--kill-workers --worker --timeout --lines --lines-code --lines-debug
''')


class TestHelp(unittest.TestCase):
    """--help"""

    text: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        done = subprocess.run([*support.command(), '--help'], capture_output=True, text=True,
                              env=dict(os.environ, COLUMNS='200'), check=False)
        assert done.returncode == 0, done
        cls.text = done.stdout

    def test_flags(self) -> None:
        """A flag that --help does not explain does not exist for its users"""
        entries = {}
        for match in re.finditer(r'^  (-.*?)(?:  +|\n +)(\S.*)$', self.text, re.MULTILINE):
            for word in re.findall(r'(?<!\S)-[-\w]+', match.group(1)):
                entries[word] = match.group(2)
        for flag in FLAGS:
            with self.subTest(flag=flag):
                self.assertIn(flag, entries)
                self.assertGreater(len(entries[flag]), 14, entries[flag])

    def test_terms(self) -> None:
        """What the words without a dash mean"""
        self.assertRegex(self.text, r'TERM +regular expression over target')


class TestParse(unittest.TestCase):
    """What becomes of the words"""

    def test_not_yet(self) -> None:
        """A flag that does nothing yet says so; a build without it would mislead"""
        for words, value in cmdline.NOT_YET:
            for word in words:
                with self.subTest(word=word), self.assertRaisesRegex(
                        UsageError, f"'{word}' is not available"):
                    cmdline.parse([word, 'x'] if value else [word])

    def test_mixed(self) -> None:
        """Terms may stand between flags"""
        args = cmdline.parse(['arm', '-b', 'topic', '&', 'acme', '-n'])
        self.assertEqual((args.terms, args.branch, args.dry_run),
                         (['arm', '&', 'acme'], 'topic', True))

    def test_abbreviation(self) -> None:
        """--forc is no flag: what it means would change with the next one that is added"""
        with self.assertRaises(UsageError):
            cmdline.parse(['--forc'])

    def test_implied(self) -> None:
        """--use-machines implies --dist"""
        self.assertTrue(cmdline.parse(['--use-machines', 'a']).dist)

    def test_settings(self) -> None:
        """Each flag of a build reaches the settings, which travel to all machines"""
        plain = control.make_settings(cmdline.parse(['-b', 'x']))
        for words, name, value in (
                ('-V', 'verbose_build', True), ('-M', 'allow_missing', True),
                ('-L', 'no_lto', True), ('-r', 'reproducible_builds', True),
                ('-E', 'warnings_as_errors', True), ('-m', 'mrproper', True),
                ('--fallback-mrproper', 'fallback_mrproper', True),
                ('--config-only', 'config_only', True), ('-f', 'force_build', True),
                ('-F', 'force_build_failures', True), ('-Z', 'kconfig_check', False),
                ('-C', 'force_reconfig', True), ('--ccache', 'ccache', True),
                ('-k', 'keep_outputs', True), ('-Q', 'quick', True), ('-i', 'in_tree', True),
                ('-w', 'work_in_output', True), ('-P', 'per_board_out_dir', True),
                ('-p', 'full_path', True), ('--dtc-skip', 'dtc_skip', True),
                ('--target x', 'target', 'x'), ('-a A -a B', 'adjust_cfg', ('A', 'B')),
                ('--fragments a,b', 'fragments', ('a', 'b')), ('-j 3', 'jobs', 3),
                ('--timeout 60', 'timeout', 60), ('--lines', 'lines', True),
                ('--lines', 'mrproper', True), ('--lines', 'force_reconfig', True),
                ('--lines', 'no_lto', True), ('--lines-code', 'lines', True),
                ('--lines-debug', 'lines', True),
                ('--lines-debug -a A', 'adjust_cfg', ('CC_OPTIMIZE_FOR_DEBUG', 'A')),
                ('--lines-debug -a ~CC_OPTIMIZE_FOR_DEBUG', 'adjust_cfg',
                 ('~CC_OPTIMIZE_FOR_DEBUG',))):
            with self.subTest(words=words):
                got = control.make_settings(cmdline.parse(['-b', 'x', *words.split()]))
                self.assertEqual(getattr(got, name), value)
                self.assertNotEqual(getattr(plain, name), value)


class TestCommand(unittest.TestCase):
    """The program itself"""

    def test_anywhere(self) -> None:
        """It runs from any folder, by a link too, with any name of the user's modules"""
        with tempfile.TemporaryDirectory() as tmp:
            with open(os.path.join(tmp, 'buildman.py'), 'w', encoding='ascii') as outf:
                outf.write('raise SystemExit("wrong module")\n')
            link = os.path.join(tmp, 'bm')
            os.symlink(support.command()[0], link)
            done = subprocess.run([link, '--list-tool-chains', '-G', os.devnull], cwd=tmp,
                                  capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ''))

    def test_full_help(self) -> None:
        """-H shows the README"""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(control.run(cmdline.parse(['-H'])), 0)
        self.assertIn('buildman', out.getvalue())


if __name__ == '__main__':
    unittest.main()
