# SPDX-License-Identifier: GPL-2.0+
"""The command line: all flags are there, are explained, and none is ignored."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import tempfile
import unittest
from typing import ClassVar

import support

from buildman import __version__
from buildman.cli import cmdline, control
from buildman.core.errors import UsageError

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
--kill-workers --worker --timeout --machines-buildman-path --full-check --version
-t --test --coverage --skip-net-tests --show-errors --show_errors --show-unknown
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

    def test_quick(self) -> None:
        """It is asked for often, and waited for: what it does not show is not loaded"""
        done = subprocess.run([*support.command(), '--help'], capture_output=True, text=True,
                              env=dict(os.environ, PYTHONPROFILEIMPORTTIME='1'), check=True)
        loaded = re.findall(r'\| +(buildman[.\w]*)$', done.stderr, re.MULTILINE)
        self.assertEqual(['buildman', 'buildman.cli', 'buildman.cli.cmdline',
                          'buildman.cli.signals', 'buildman.core', 'buildman.core.errors',
                          'buildman.main'], sorted(loaded))


class TestParse(unittest.TestCase):
    """What becomes of the words"""

    def test_mixed(self) -> None:
        """Terms may stand between flags"""
        args = cmdline.parse(['arm', '-b', 'topic', '&', 'acme', '-n'])
        self.assertEqual((args.terms, args.branch, args.dry_run),
                         (['arm', '&', 'acme'], 'topic', True))

    def test_allow_missing(self) -> None:
        """The last of -M and --no-allow-missing holds, as a script that adds flags expects"""
        for words, want in (('', None), ('-M', True), ('--no-allow-missing', False),
                            ('-M --no-allow-missing', False), ('--no-a -M', True)):
            with self.subTest(words=words):
                self.assertIs(cmdline.parse(words.split()).allow_missing, want)

    def test_as_if_absent(self) -> None:
        """Values that scripts give where they mean none"""
        for words in ('-j0', '--jobs 0', '-c -1', '--count=-1', '-g .', '-g .git', '-g ./.git/'):
            with self.subTest(words=words):
                got = vars(cmdline.parse(words.split()))
                got['jobs'] = got['jobs'] or None
                self.assertEqual(got, vars(cmdline.parse([])))
        self.assertIsNone(cmdline.parse(['-o', '']).output_dir)
        self.assertEqual(cmdline.parse(['-g', '/x/y/.git']).git, '/x/y')
        self.assertEqual(cmdline.parse(['-g', '../.git/']).git, '..')

    def test_empty(self) -> None:
        """A variable that a script has not set: not another build, nor one without its report"""
        for flag in ('-b', '--branch', '-R', '--json', '--junit', '-c', '--step'):
            with self.subTest(flag=flag), self.assertRaisesRegex(UsageError, "'' (names|is no)"):
                cmdline.parse([flag, ''])

    def test_no_local_alone(self) -> None:
        """Nobody would build; with --dist, or with what concerns machines only, it is fine"""
        for words in ('--no-local', '--no-local -s', '--no-local --print-arch'):
            with self.subTest(words=words), self.assertRaisesRegex(
                    UsageError, '^--no-local requires --dist'):
                cmdline.parse(words.split())
        for words in ('--dist', '--use-machines=a', '--mach', '--kill-workers'):
            self.assertTrue(cmdline.parse(['--no-local', *words.split()]).no_local)

    def test_values(self) -> None:
        """A value may look like a flag when it cannot be taken for one; after '--' all is terms"""
        args = cmdline.parse(['-a=-LTO', '--adj=-B', '-x', '-5', '-O', '--cc x', '-PkT2', 'arm',
                              '--', '-x', '--board', '--'])
        self.assertEqual((args.adjust_cfg, args.exclude, args.override_toolchain, args.threads),
                         (['-LTO', '-B'], ['-5'], '--cc x', 2))
        self.assertEqual((args.terms, args.boards), (['arm', '-x', '--board', '--'], None))
        for words in (['-a', '--'], ['--bo'], ['--dry=1'], ['--bo', '--dry']):
            with self.subTest(words=words), self.assertRaises(UsageError):
                cmdline.parse(words)

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


# The long flags that upstream's --help lists (0.2.0)
UPSTREAM = re.findall(r'\S+', '''
--help --adjust-cfg --print-prefix --branch --bloat --boards --count --force-reconfig --ccache
--config-only --detail --debug --dtc-skip --shared-dtc --show_errors --warnings-as-errors
--force-build --force-build-failures --no-kconfig-check --fetch-arch --fragments --full-check
--git --config-file --full-help --in-tree --ide --jobs --keep-outputs --show-config
--preserve-config-y --list-error-boards --show-not-built --no-lto --list-tool-chains --mrproper
--fallback-mrproper --allow-missing --dist --distribute --use-machines --no-local --mach
--machines --machines-fetch-arch --machines-buildman-path --maintainer-check --kill-workers
--worker --no-allow-missing --dry-run --no-subdirs --output-dir --override-toolchain --quick
--full-path --per-board-out-dir --print-arch --process-limit --reproducible-builds
--regen-board-list --summary --show-sizes --lines --lines-debug --lines-code --skip-unaffected
--no-skip-unaffected --step --skip-net-tests --test --coverage --threads --target --show_unknown
--show-environment --verbose --verbose-build --work-in-output --ignore-warnings --exclude
--extend --filter-dtb-warnings --filter-migration-warnings --build-summary
''')


class TestPrefixes(unittest.TestCase):
    """Long flags that are not written to their end, as in U-Boot's own CI files"""

    def test_all(self) -> None:
        """Each prefix does what it does upstream, whatever flags we have besides"""
        parser = cmdline.make_parser()
        for flag in UPSTREAM:
            self.assertEqual(parser.full_words([flag, f'{flag}=x=y']), [flag, f'{flag}=x=y'])
            for end in range(3, len(flag)):
                prefix = flag[:end]
                found = [name for name in UPSTREAM if name.startswith(prefix)]
                with self.subTest(prefix=prefix):
                    if prefix in UPSTREAM or len(found) == 1:
                        want = prefix if prefix in UPSTREAM else flag
                        self.assertEqual(parser.full_words([prefix, f'{prefix}=x']),
                                         [want, f'{want}=x'])
                        continue
                    with self.assertRaises(UsageError) as caught:
                        parser.full_words([prefix])
                    text = str(caught.exception)
                    self.assertEqual(sorted(re.findall(r'--[\w-]+', text.split("' ", 1)[1])),
                                     sorted([*found, '--help']), text)

    def test_ours(self) -> None:
        """What upstream does not know may be shortened as well, and '-' or '_' do not matter"""
        parser = cmdline.make_parser()
        for given, full in (
                ('--vers', '--version'), ('--js', '--json'), ('--time=3', '--timeout=3'),
                ('--show-errors', '--show-errors'), ('--show-er', '--show-errors'),
                ('--show_e', '--show_errors'), ('--show_sizes', '--show-sizes'),
                ('--dry_run', '--dry-run'), ('--nonesuch', '--nonesuch'), ('-b', '-b'),
                ('--a value', '--a value')):
            with self.subTest(given=given):
                self.assertEqual(parser.full_words([given]), [full])

    def test_spellings(self) -> None:
        """Both spellings do the same"""
        for one, other in (('--show_errors', '--show-errors'), ('-u', '--show-unknown')):
            self.assertEqual(cmdline.parse([one]), cmdline.parse([other]))


class TestCommand(unittest.TestCase):
    """The program itself"""

    def test_version(self) -> None:
        """--version says which one this is, as the package does"""
        done = subprocess.run([*support.command(), '--version'], capture_output=True, text=True,
                              check=False)
        self.assertEqual((done.returncode, done.stdout), (0, f'buildman {__version__}\n'))

    def test_ambiguous(self) -> None:
        """One line names the candidates"""
        done = subprocess.run([*support.command(), '--force', 'x'], capture_output=True, text=True,
                              check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (
            2, '', "buildman: '--force' could be --force-build, --force-build-failures or "
            '--force-reconfig (see --help)\n'))

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
