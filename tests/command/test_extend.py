# SPDX-License-Identifier: GPL-2.0+
"""-X: boards with fragments on top, from the list to the summary, here and elsewhere."""

from __future__ import annotations

import glob
import json
import os
import re
from typing import Any, ClassVar, Dict, List
from xml.etree import ElementTree

from dist_support import DistCase, read

from buildman.demo import sample

ENTRIES = '''# Boards of the sample that are in a hurry
name: fast
desc: They wait for less
fragment: quiet
fragment: late
targets:
  anvil_defconfig
  roc*

name: all
fragment: late
'''


class TestExtend(DistCase):
    """Four boards, and six that are these with fragments on top"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 4, 'commits': 1}
    settings: ClassVar[str] = '[make-flags]\nfast,anvil = KCFLAGS=-DFAST\nanvil = KCFLAGS=-DSLOW\n'
    built: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        sample.amend(cls.tree, 'configs/late.config', 'CONFIG_BOOTDELAY=3\n')
        sample.amend(cls.tree, 'configs/extra.buildman', ENTRIES)
        sample.amend(cls.tree, 'configs/late.config', 'CONFIG_BOOTDELAY=4\n', 'configs: Later')
        sample.amend(cls.tree, 'configs/other.buildman', '# None yet\n', 'configs: More to come')
        cls.built = os.path.join(cls.base, 'built')

    def build(self) -> str:
        """Build four boards at all commits, once for all tests; return the folder"""
        out = os.path.join(self.built, 'feature')
        if not os.path.isdir(out):
            got = self.run_buildman('-b', 'feature', '-o', self.built, '-X', '--boards',
                                    'anvil,fast,anvil,fast,rocket,all,sandbox')
            # The first commit has no such fragment
            self.assertEqual(got.returncode, 100, got)
            # Only where a fragment of the board changed
            self.assertIn('16 total built (16 newly, 3 reconfig)', got.stdout)
        return out

    def listed(self, *args: str) -> List[str]:
        """Return the boards that a dry run names"""
        got = self.run_buildman('-X', '-n', '-v', '-o', self.out(), *args)
        self.assertEqual(got.returncode, 0, got)
        return re.findall(r'(?m)^   (\S.*)', got.stdout)[0].split()

    def test_selection(self) -> None:
        """By term, by name, without some"""
        base = ['rocket', 'anvil', 'hammock', 'sandbox']
        fast = ['fast,rocket', 'fast,anvil']
        every = [f'all,{name}' for name in base]
        self.assertEqual(self.listed(), [*base, *fast, *every])
        self.assertEqual(self.listed('fast'), fast)
        self.assertEqual(self.listed('acme & armv7'), ['anvil', 'fast,anvil', 'all,anvil'])
        self.assertEqual(self.listed('-x', 'all.[hs],fast'), [*base, *every[:2]])
        self.assertEqual(self.listed('--boards', 'all,rocket,hammock'), ['hammock', 'all,rocket'])
        got = self.run_buildman('-n', '-v', '-o', self.out(), 'fast')
        self.assertEqual((got.returncode, got.stderr), (
            2, 'buildman: No matching boards found for fast\n'))
        got = self.run_buildman('-X', '-n', '-o', self.out(), '--boards', 'fast,hammock,rocket')
        self.assertEqual((got.returncode, got.stderr), (0, 'Boards not found: fast,hammock\n'))

    def test_print(self) -> None:
        """--print-arch and -A tell those of the base; -R lists boards with a defconfig"""
        self.assertEqual(self.run_buildman('-X', '--print-arch', '--boards', 'fast,rocket').stdout,
                         'aarch64\n')
        self.assertRegex(self.run_buildman('-X', '-A', 'fast,anvil$').stdout,
                         'arm-sample-linux-gnueabi-$')
        self.run_buildman('-X', '-R', self.out('boards.cfg'))
        self.assertNotIn('fast', read(self.out('boards.cfg')))

    def test_results(self) -> None:
        """Words of make, folders, configuration; a changed fragment counts"""
        top = self.build()
        folders = sorted(glob.glob(os.path.join(glob.escape(top), '0*')))
        self.assertEqual(len(folders), 4)
        for folder in folders:
            self.assertEqual(sorted(os.listdir(folder)),
                             ['all,sandbox', 'anvil', 'fast,anvil', 'fast,rocket'])
        # A list of all boards is kept, whatever is selected; those of -X are not in it
        self.run_buildman('-b', 'feature', '-o', self.built, '-X', '-n', 'fast')
        self.assertNotIn('fast', read(top, 'boards.cfg'))
        self.assertIn('late.config', read(folders[0], 'fast,anvil', 'err'))
        last = folders[3]
        for board, flags, words in (
                ('fast,anvil', 'KCFLAGS=-DFAST ', 'anvil_defconfig quiet.config late.config'),
                ('fast,rocket', '', 'rocket_defconfig quiet.config late.config'),
                ('all,sandbox', '', 'sandbox_defconfig late.config'),
                ('anvil', 'KCFLAGS=-DSLOW ', 'anvil_defconfig')):
            start = f'make O=build -s NPROC=1 {flags}'
            self.assertEqual(read(last, board, 'out-cmd'), f'{start}{words}\n{start.rstrip()}\n')
        delays = [[re.findall('CONFIG_BOOTDELAY=(.*)', read(folder, board, '.config'))[0]
                   for folder in folders[1:]]
                  for board in ('fast,anvil', 'fast,rocket', 'all,sandbox', 'anvil')]
        self.assertEqual(delays, [['3', '4', '4']] * 3 + [['2', '2', '2']])
        self.assertIn('# CONFIG_NET is not set', read(last, 'fast,rocket', '.config'))

    def test_summary(self) -> None:
        """All that tells of results knows the boards, with -X and without"""
        self.build()
        files = self.out('s.json'), self.out('s.xml')
        args = ('-b', 'feature', '-o', self.built, '-s')
        got = self.run_buildman(*args, '-X', '-SeldK', '--json', files[0], '--junit', files[1],
                                '--boards', 'anvil,fast,anvil,all,sandbox')
        self.assertEqual((got.returncode, got.stderr), (0, ''), got)
        self.assertRegex(got.stdout, r'(?m)^ +arm:  \+   fast,anvil$')
        self.assertRegex(got.stdout, r"(?m)^\+\(fast,anvil all,sandbox\) .*late.config")
        self.assertRegex(got.stdout, r'(?m)^03: configs: Later\n'
                         r'(?:.*\n)*fast,anvil :\n +c u-boot.cfg: CONFIG_BOOTDELAY=3 -> 4 $')
        with open(files[0], encoding='utf-8') as inf:
            data = json.load(inf)
        self.assertEqual(sorted(data['commits'][1]['fixed']), ['all,sandbox', 'fast,anvil'])
        cases = ElementTree.parse(files[1]).getroot().iter('testcase')
        self.assertEqual({(case.get('classname'), case.get('name')) for case in cases}, {
            ('buildman.arm', 'anvil'), ('buildman.arm', 'fast,anvil'),
            ('buildman.sandbox', 'all,sandbox')})
        # Results of boards that are not asked for are no damage
        self.assertEqual(self.run_buildman(*args).stderr,
                         'buildman: not every board has a result: --show-not-built shows which\n')
        got = self.run_buildman('-b', 'feature', '-o', self.built, '-X', 'fast')
        self.assertIn('8 total built (8 previously)', got.stdout)

    def test_machines(self) -> None:
        """Machines get what a board is made of, and build the same"""
        ref = self.build()
        got = self.dist('--no-local', '-X', '--boards', 'anvil,fast,anvil,fast,rocket,all,sandbox')
        self.assertEqual(got.returncode, 100, got)
        self.assert_same(ref)
        self.assertEqual(16, len(self.hosts()))

    def test_folders(self) -> None:
        """A folder for each board, images kept: the comma is in paths as well"""
        got = self.run_buildman('-b', 'feature', '-c1', '-X', '-o', self.out(), '-Pk', 'fast,an')
        self.assertEqual(got.returncode, 0, got)
        result, = glob.glob(self.out('out/feature/0*/fast,anvil'))
        self.assertLessEqual({'u-boot.bin', 'u-boot.sizes', 'done'}, set(os.listdir(result)))
        self.assertIn('u-boot.bin', os.listdir(self.out('out/feature/.bm-work/fast,anvil')))

    def test_wrong(self) -> None:
        """One line, with file and line, and exit status 2; only with -X"""
        path = os.path.join(self.tree.path, 'configs', 'wrong.buildman')
        self.addCleanup(os.unlink, path)
        for text, message in (
                ('name: x\nfragment: nix\n', "configs/wrong.buildman:2: fragment "
                 "'configs/nix.config' does not exist"),
                ('name: fast\ntargets:\n  anvil_*\n', 'configs/wrong.buildman:1: board '
                 "'fast,anvil' is there twice, the first from configs/extra.buildman:2; rename one "
                 'of the entries')):
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(text)
            got = self.run_buildman('-X', '-n', '-o', self.out())
            self.assertEqual((got.returncode, got.stdout, got.stderr),
                             (2, '', f'buildman: {message}\n'))
            self.assertEqual(self.run_buildman('-n', '-o', self.out()).returncode, 0)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('name: x\ntargets:\n  anvil\n')
        got = self.run_buildman('-X', '-n', '-o', self.out(), 'fast')
        self.assertEqual((got.returncode, got.stderr), (
            0, "WARNING: configs/wrong.buildman:3: no defconfig matches 'anvil', did you mean "
            "'anvil_defconfig'?\n"))
