# SPDX-License-Identifier: GPL-2.0+
"""`buildman -s` as a user types it, on a tree that buildman built."""

from __future__ import annotations

import os
import re
import shutil
from typing import Any, ClassVar, Dict

from support import Result, SampleCase, wait_for

from buildman.demo import sample, sample_files

BOARDS = 'anvil,hammock,rocket'


def _warn_and_move(state: sample_files.TreeState) -> None:
    sample.DEFAULT_STEPS[2][1](state)
    state.env['ipaddr'] = '192.0.2.7'


class CommandTest(SampleCase):
    """The whole way: command line, list of boards, tree, terminal."""

    # The last commit changes the environment, too
    sample_args: ClassVar[Dict[str, Any]] = {'commits': [
        *sample.DEFAULT_STEPS[:2], (sample.DEFAULT_STEPS[2][0], _warn_and_move)]}
    built: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.built = ''

    def setUp(self) -> None:
        super().setUp()
        if not self.built:
            # One tree for all; those that change it make their own
            folder = os.path.join(self.base, 'built')
            got = self.run_buildman('-b', 'feature', '-o', folder, '--boards', BOARDS)
            self.assertEqual(got.returncode, 100, got)
            type(self).built = folder

    def summary(self, *args: str, out: str = '') -> Result:
        """Show a summary; its exit status is 0 although boards fail."""
        got = self.run_buildman('-b', 'feature', '-o', out or self.built, '--boards', BOARDS,
                                *args)
        self.assertEqual(got.returncode, 0, got)
        return got

    def test_colours(self) -> None:
        """Colours on a terminal, none in a pipe, and the same words"""
        plain = self.summary('-sel')
        self.assertNotIn('\033', plain.stdout)
        self.assertEqual(plain.stderr, '')
        self.assertIn('+   anvil', plain.stdout)
        shown = self.terminal_buildman('-b', 'feature', '-o', self.built, '--boards', BOARDS,
                                       '-sel')
        self.assertIn('\033[1;31m+\033[0m  \033[1;31m anvil\033[0m', shown.stdout)
        self.assertEqual(re.sub('\033\\[[0-9;]*m', '', shown.stdout), plain.stdout)

    def test_flags(self) -> None:
        """Each flag of the summary does something in the command, too"""
        plain = self.summary('-s').stdout
        for flags in (['-e'], ['-S'], ['-S', '-d'], ['-S', '-B'], ['-U'], ['-I'],
                      ['--step', '2'], ['-c', '2']):
            with self.subTest(flags=flags):
                got = self.summary('-s', *flags)
                self.assertNotEqual((got.stdout, got.stderr), (plain, ''))
        self.assertIn("error: expected ';'", self.summary('-s', '-I').stderr)
        shutil.copytree(self.built, self.out(), ignore=shutil.ignore_patterns('.bm-work'))
        name = next(name for name in os.listdir(self.out('out/feature'))
                    if name.startswith('02_g'))
        shutil.rmtree(self.out(f'out/feature/{name}/hammock'))
        self.assertIn('?   hammock', self.summary('-su', out=self.out()).stdout)
        self.assertIn('Boards not built (1): hammock\n',
                      self.summary('-s', '--show-not-built', out=self.out()).stdout)

    def test_counts(self) -> None:
        """Results are found whatever number the count of that build gave them, and none is lost"""
        def build(*args: str) -> str:
            got = self.run_buildman('-b', 'feature', '-o', self.out(), '--boards', BOARDS, *args)
            self.assertEqual(got.returncode, 100, got)
            return got.stdout

        def told(*args: str) -> str:
            """Return a summary without its heading and the numbers of the commits"""
            got = self.summary('-sel', *args, out=self.out())
            self.assertEqual(got.stderr, '', got)
            return re.sub(r'\A.*\n|^\d\d: ', '', got.stdout, flags=re.MULTILINE)
        shutil.copytree(self.built, self.out(), ignore=shutil.ignore_patterns('.bm-work'))
        whole, two = told(), told('-c', '2')
        self.assertEqual(told('-c', '2', '--step', '0'), two)
        self.assertIn('(12 previously)', build())
        for args, count in (('-c2', 6), ('-c3', 9), ('-c1', 3), ('', 12), ('-c2', 6)):
            with self.subTest(args=args):
                self.assertIn(f'({count} previously)', build(*args.split()))
                self.assertEqual((told(), told('-c', '2')), (whole, two))
        # Only the newest were ever built: the others are not there, and that is all
        out = self.out('new')
        self.run_buildman('-b', 'feature', '-o', out, '--boards', BOARDS, '-c', '2')
        got = self.summary('-s', '--step', '2', out=out)
        self.assertEqual(got.stderr, '')
        self.assertIn('03: ', got.stdout)
        self.assertIn('hammock', self.summary('-su', out=out).stdout.split('02: ')[0])

    def test_filters(self) -> None:
        """-y, -Y: a board with nothing else is no board with warnings"""
        env = self.write_knobs('hammock', 'warn x.dtb: Warning (reg): y')
        args = ('-b', 'feature', '-c', '1', '-o', self.out(), '--boards', 'hammock')
        got = self.run_buildman(*args, env=env)
        self.assertEqual(got.returncode, 101, got)
        self.assertIn('w+   hammock', self.run_buildman(*args, '-s').stdout)
        self.assertNotIn('hammock', self.run_buildman(*args, '-sy').stdout)
        self.assertIn('w+   hammock', self.run_buildman(*args, '-sY').stdout)

    def test_any_encoding(self) -> None:
        """What the output has no characters for is replaced, and is the end of nothing"""
        said = 'unused variable \u2018größe\u2019 in №'
        env = self.write_knobs('sandbox', f'warn {said}')
        report = self.out('report.xml')
        branch = ('-b', 'feature', '-o', self.out(), '--boards', 'sandbox')
        self.run_buildman(*branch, env=env)
        for args in ((*branch, '-c', '1', '-f', '-v', '-ze', '-T1', '--junit', report),
                     (*branch, '-s', '-e', '-l'), (*branch, '-s', '-I'), (*branch, '-n', '-v'),
                     ('-o', self.out('now'), '--boards', 'sandbox', '-I'),
                     ('--list-tool-chains',), ('-H',), ('--help',), ('-b', 'größe', '-n'),
                     ('-x', '№', '№', '-n')):
            want = self.run_buildman(*args, env=env)
            names = ['ascii']
            if '-s' in args:
                names += ['latin-1', 'ascii:surrogateescape']
            for name in names:
                with self.subTest(args=args, encoding=name):
                    got = self.run_buildman(*args, env={**env, 'PYTHONIOENCODING': name})
                    self.assertEqual(got.returncode, want.returncode, got)
                    if '-v' in args:
                        # Times and rates differ
                        self.assertEqual(got.stdout.count('\n'), want.stdout.count('\n'), got)
                        continue
                    code = name.partition(':')[0]
                    text = want.stdout.encode(code, 'replace')
                    self.assertEqual(got.raw, text)
        with open(report, encoding='utf-8') as inf:
            self.assertIn(said, inf.read())

    def test_build_then_show(self) -> None:
        """-z: the summary comes after the build, and the status is the build's"""
        got = self.run_buildman('-b', 'feature', '-o', self.built, '--boards', BOARDS, '-ze')
        self.assertEqual(got.returncode, 100, got)
        built, _, shown = got.stdout.partition('Summary of ')
        self.assertIn('Completed: ', built)
        self.assertEqual('Summary of ' + shown, self.summary('-se').stdout)

    def test_while_building(self) -> None:
        """A summary of a build that runs: neither is disturbed"""
        gate, here = self.out('gate'), self.out('here')
        env = self.write_knobs('hammock', f'signal {here}', f'wait {gate}')
        args = ('-b', 'feature', '-c', '1', '-o', self.out(), '--boards', 'rocket,hammock')
        proc = self.start_buildman(*args, '-T', '1', env=env)
        wait_for(here)
        got = self.run_buildman(*args, '-su')
        self.assertEqual((got.returncode, got.stdout.splitlines()[2:]),
                         (0, ['   aarch64:  w+   rocket',
                              '   riscv64:  ?   hammock']), got)
        with open(gate, 'wb'):
            pass
        self.assertEqual(proc.wait(60), 101)
        got = self.run_buildman(*args, '-su')
        self.assertNotIn('hammock', got.stdout)
