# SPDX-License-Identifier: GPL-2.0+
"""What a board leaves that lacks a blob, fails half-way, or whose configuration has
something to say: here and on machines alike."""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree
from typing import Any, ClassVar, Dict

import support
from dist_support import DistCase, read

from buildman import bsettings
from buildman.cli import cmdline, control
from buildman.core.errors import UsageError
from buildman.demo import sample, sample_files

BOARDS = {spec.target: spec for spec in (*sample_files.DEFAULT_BOARDS, sample_files.BLOB_BOARD)}
BLOB = 'lantern'
ALLOW = 'BINMAN_ALLOW_MISSING=1'


def _table(state: sample_files.TreeState) -> None:
    state.tables += 1


def _mend(state: sample_files.TreeState) -> None:
    state.broken.clear()
    state.defconfig['anvil'] = ['CONFIG_BOOTDELAY=3']


class TreeCase(DistCase):
    """Looks at results of one tree after the other."""

    def folder(self, upto: int, target: str, top: str = '') -> str:
        """Return the folder of a result."""
        top = top or self.results()
        name = next(name for name in os.listdir(top) if name.startswith(f'{upto + 1:02}_g'))
        return os.path.join(top, name, target)

    def err(self, upto: int, target: str, top: str = '') -> str:
        """Return what a board said on stderr."""
        path = os.path.join(self.folder(upto, target, top), 'err')
        return read(path) if os.path.exists(path) else ''

    def count_makes(self) -> Dict[str, str]:
        """Have each make that buildman starts here leave a line in `self.out('makes')`.

        Returns:
            the environment for that
        """
        os.makedirs(self.out('bin'))
        path = self.out('bin/make')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(f'#!/bin/sh\n[ "$MAKELEVEL" ] || echo "$*" >> {self.out("makes")}\n'
                       f'exec {shutil.which("make")} "$@"\n')
        os.chmod(path, 0o755)
        return {'PATH': f'{self.out("bin")}:{os.environ["PATH"]}'}


class TestBlobs(TreeCase):
    """Board lantern needs bl31.bin, which is nowhere"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': (BOARDS[BLOB], BOARDS['rocket_mini']), 'commits': [('table', _table)]}

    def test_branch(self) -> None:
        """A warning, with all that was made; not tried again, now or later"""
        env = self.count_makes()
        words = ['-b', 'feature', '-o', self.out(), '-k', '-v']
        got = self.run_buildman(*words, env=env)
        self.assertEqual(got.returncode, 101, got)
        self.assertIn('w+   lantern', got.stdout)
        for upto in (0, 1):
            folder = self.folder(upto, BLOB)
            self.assertEqual(read(folder, 'done'), '0')
            self.assertTrue(read(folder, 'toolchain').endswith('\n0'))
            err = self.err(upto, BLOB)
            for text in ('is missing external blobs', '/binman/', 'Some images are invalid',
                         '.binman_stamp] Error 103', 'Error 2'):
                self.assertEqual(err.count(text), 1, err)
            self.assertLessEqual({'sizes', 'u-boot.sizes', 'u-boot.objdump', 'uboot.env', 'u-boot',
                                  'u-boot.bin', 'u-boot-with-blob.bin'}, set(os.listdir(folder)))
            self.assertEqual(self.err(upto, 'rocket_mini'), '')
        with open(self.out('makes'), encoding='utf-8') as inf:
            makes = inf.read().splitlines()
        # Two boards are configured, and built twice each
        self.assertEqual(len(makes), 6, makes)
        for more, status in (((), 101), (('-W',), 0), (('-F',), 101)):
            got = self.run_buildman(*words, *more, env=env)
            self.assertEqual(got.returncode, status, got)
            self.assertIn('4 total built (4 previously)', got.stdout)
        self.check_reports()

    def check_reports(self) -> None:
        """Programs learn that there is nothing but blobs that lack"""
        got = self.run_buildman('-b', 'feature', '-o', self.out(), '-s', '-e', '--json',
                                self.out('json'), '--junit', self.out('junit'))
        self.assertIn('Missing external blobs (expected in a blobless build):\n'
                      "+Image 'u-boot-with-blob' is missing", got.stdout)
        with open(self.out('json'), encoding='utf-8') as inf:
            first = json.load(inf)['commits'][0]
        board = first['boards'][BLOB]
        self.assertEqual((board['outcome'], board['blob_only'], board['errors'],
                          board['warnings']), ('warning', True, [], []))
        self.assertIn('   Take any file, and build with BL31=/path/to/bl31.bin', board['blobs'])
        self.assertEqual({line['kind'] for line in first['added']}, {'blob'})
        self.assertFalse(first['boards']['rocket_mini']['blob_only'])
        cases = xml.etree.ElementTree.parse(self.out('junit')).getroot().findall(
            'testsuite/testcase')
        self.assertEqual([[item.tag for item in case] for case in cases],
                         [['system-err'], []] * 2)

    def test_machine(self) -> None:
        """The same from a machine, where blobs may be missing and where they may not"""
        ref, status = self.local('-k', '-r')
        got = self.dist('-k', '-r', '--no-local')
        self.assertEqual((status, got.returncode), (101, 101), got)
        self.assert_same(ref)
        config = self.config
        self.config = self.out('more.cfg')
        with open(self.config, 'w', encoding='utf-8') as outf:
            outf.write(read(config) + '\n[global]\nallow-missing = branch\n')
        for more, allowed in (((), True), (('-M', '--no-allow-missing'), False)):
            out = self.out(f'out-{allowed}')
            got = self.dist('-o', out, '--no-local', '-c', '1', '--boards', BLOB, *more)
            self.assertEqual(got.returncode, 101, got)
            folder = self.folder(0, BLOB, os.path.join(out, 'feature'))
            self.assertEqual(ALLOW in read(folder, 'out-cmd'), allowed)
            self.assertEqual('Error 103' in read(folder, 'err'), not allowed)
            self.assertIn('Some images are invalid', read(folder, 'err'))

    def test_allow_missing(self) -> None:
        """Flags go before [global], and that is understood or refused"""
        self.addCleanup(bsettings.setup, '')
        for text, flags, count, want in (
                ('', '', 2, False), ('always', '', 1, True), ('multiple', '', 1, False),
                ('multiple', '', 2, True), ('multiple', '-b x', 1, False), ('branch', '', 2, False),
                ('branch', '-b x', 1, True), ('multiple branch', '', 2, True),
                ('branch,multiple', '-b x', 1, True), (' branch ,\n multiple', '', 1, False),
                ('always, branch', '', 1, True), ('never', '-b x', 2, False),
                ('never', '-M', 1, True), ('always', '--no-allow-missing', 2, False),
                ('branch', '-b x --no-allow-missing -M', 1, True),
                ('branch', '-b x -M --no-allow-missing', 1, False), ('', '-M', 1, True)):
            bsettings.setup('')
            bsettings.add_file(f'[global]\nallow-missing = {text}\n')
            args = cmdline.parse(flags.split())
            self.assertEqual(control.may_lack_blobs(args, count), want, (text, flags, count))
        for text, why in (('sometimes', 'sometimes'), ('always perhaps', 'perhaps'),
                          ('never branch', 'never'), ('yes', 'yes'), ('Always', 'Always')):
            bsettings.setup('')
            bsettings.add_file(f'[global]\nallow-missing = {text}\n')
            with self.assertRaisesRegex(UsageError, f"allow-missing.*'{why}'"):
                control.may_lack_blobs(cmdline.parse(['-M']), 1)

    def test_setting(self) -> None:
        """What the configuration says reaches make; what makes no sense ends it at once"""
        plain = read(self.config)
        for text, boards, allowed in (('multiple', 'lantern', False),
                                      ('multiple', 'lantern,rocket_mini', True)):
            self.config = self.out('more.cfg')
            with open(self.config, 'w', encoding='utf-8') as outf:
                outf.write(f'{plain}\n[global]\nallow-missing = {text}\n')
            got = self.run_buildman('-o', self.out(), '--boards', boards, '--config-only')
            self.assertEqual(got.returncode, 0, got)
            self.assertEqual(ALLOW in read(self.out('out/current/lantern'), 'out-cmd'), allowed)
        with open(self.config, 'w', encoding='utf-8') as outf:
            outf.write(f'{plain}\n[global]\nallow-missing = perhaps\n')
        got = self.run_buildman('-o', self.out(), '--boards', 'lantern')
        self.assertEqual((got.returncode, got.stdout), (2, ''), got)
        self.assertRegex(got.stderr, r"\A[^\n]*allow-missing = perhaps: 'perhaps' [^\n]*\n\Z")


class TestFailures(TreeCase):
    """Board anvil fails at each commit but the first and last, later and later to earlier"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': (BOARDS['anvil'],),
        'commits': [('limit', _table), ('break', sample.DEFAULT_STEPS[1][1]),
                    ('config', _mend), ('well', _table)],
        'knobs': {(1, 'anvil'): ['image fail u-boot.bin exceeds file size limit'],
                  (2, 'anvil'): [], (3, 'anvil'): ['config fail no such thing'],
                  (4, 'anvil'): []}}
    CONFIG = frozenset(('autoconf.h', 'autoconf.mk', 'u-boot.cfg'))

    def check(self, top: str) -> None:
        """Fail unless what is there is of the commit itself"""
        self.assertEqual([read(self.folder(upto, 'anvil', top), 'done') for upto in range(5)],
                         ['0', '2', '2', '2', '0'])
        files = [
            frozenset(os.listdir(self.folder(upto, 'anvil', top))) for upto in range(5)]
        images = {'u-boot', 'u-boot.map'}
        # It is too large: that is when sizes are wanted
        self.assertLessEqual({'sizes', 'u-boot.sizes', 'u-boot.objdump', *images, *self.CONFIG},
                             files[1])
        self.assertIn('exceeds file size limit', self.err(1, 'anvil', top))
        self.assertIn(' table_0', read(self.folder(1, 'anvil', top), 'u-boot.sizes'))
        # What would have been made of it is of the commit before
        self.assertEqual({'u-boot.bin', 'u-boot-nodtb.bin'} & files[1], set())
        # Does not compile: no image of the commit before in its place
        self.assertLessEqual(self.CONFIG, files[2])
        for upto in (2, 3):
            self.assertEqual([name for name in files[upto] if name.endswith(('sizes', 'objdump'))
                              or (name.startswith('u-boot') and not name.endswith('.cfg'))
                              or name in ('MLO', 'System.map')], [], top)
        # Cannot be configured: no configuration, of whichever board
        self.assertEqual(self.CONFIG & files[3], set())
        self.assertNotIn('uboot.env', files[3])
        self.assertLessEqual({'sizes', 'MLO', 'u-boot.bin', 'u-boot.sizes'}, files[4])

    def test_files(self) -> None:
        """What a failure leaves is kept, what an earlier build left is not"""
        ref, status = self.local('-k', '-r')
        self.assertEqual(status, 100)
        self.check(ref)
        for upto in (1, 2):
            self.assertIn('uboot.env', os.listdir(self.folder(upto, 'anvil', ref)))
        sizes = read(self.folder(1, 'anvil', ref), 'sizes').splitlines()
        self.assertEqual([line.split()[5] for line in sizes], ['u-boot', 'spl/u-boot-spl'])
        got = self.dist('-k', '-r', '--no-local')
        self.assertEqual(got.returncode, 100, got)
        self.assert_same(ref)

    def test_other_jobs(self) -> None:
        """What other jobs of a failing make get done meanwhile makes no difference"""
        for step, images in (('link', []), ('image', ['u-boot', 'spl/u-boot-spl'])):
            env = self.write_knobs('anvil', f'{step} other MLO', f'{step} fail too large')
            tops = []
            for jobs in ('1', '2'):
                out = self.out(f'{step}{jobs}')
                got = self.run_buildman('-b', 'feature', '-c', '1', '-r', '-k', '-j', jobs, '-o',
                                        out, env=env)
                self.assertEqual(got.returncode, 100, got)
                tops.append(os.path.join(out, 'feature'))
            support.assert_same_tree(*tops, ignore=('host', 'out-cmd'))
            folder = self.folder(0, 'anvil', tops[1])
            sizes = read(folder, 'sizes').splitlines() if images else []
            self.assertEqual([line.split()[5] for line in sizes], images)
            self.assertEqual('MLO' in os.listdir(folder), bool(images))

    def test_quick(self) -> None:
        """Nor when the first failure is believed, on top of what is there"""
        ref, status = self.local('-k', '-Q', '-j', '1')
        self.assertEqual(status, 100)
        self.check(ref)


class TestConfiguration(TreeCase):
    """The defconfig of anvil_nor includes another one, and sets an option again"""

    OVERRIDE = ':warning: override: reassigning to symbol SPL'
    UNMET = ('\nWARNING: unmet direct dependencies detected for NETCONSOLE\n'
             '  Depends on [n]: NET\n  Selected by [y]:\n  - SAMPLE_UNMET [=y]\n')

    @staticmethod
    def _unmet(state: sample_files.TreeState) -> None:
        state.defconfig['rocket_mini'] = ['CONFIG_SAMPLE_UNMET=y', '# CONFIG_NET is not set']

    @staticmethod
    def _break(state: sample_files.TreeState) -> None:
        state.broken.add('board/acme/rocket_mini')

    names = ()
    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': (BOARDS['anvil'], BOARDS['anvil_nor'], BOARDS['rocket_mini'])}

    @classmethod
    def setUpClass(cls) -> None:
        cls.sample_args = {**cls.sample_args, 'commits': [
            ('unmet', cls._unmet), ('table', _table), ('break', cls._break)]}
        super().setUpClass()

    def test_branch(self) -> None:
        """What configuring says is no warning; what make has Kconfig say is, each time once"""
        got = self.run_buildman('-b', 'feature', '-o', self.out(), '--boards',
                                'anvil_nor,rocket_mini')
        self.assertEqual(got.returncode, 100, got)
        for upto in range(4):
            self.assertEqual(self.err(upto, 'anvil_nor'), '')
            self.assertEqual(read(self.folder(upto, 'anvil_nor'), 'log'), '')
        self.assertEqual([self.err(upto, 'rocket_mini') for upto in range(3)],
                         ['', self.UNMET, self.UNMET])
        # Nor is it lost or doubled when a failure is tried again
        err = self.err(3, 'rocket_mini')
        self.assertTrue(err.startswith(self.UNMET), err)
        self.assertEqual((err.count('WARNING'), err.count("error: expected ';'")), (1, 1), err)

    def test_ways(self) -> None:
        """However a board is configured; -V keeps it in the log"""
        words = ['-b', 'feature', '-c', '3', '--boards', 'anvil_nor']
        for number, more in enumerate((['-a', 'BOOTDELAY=7'], ['--fragments', 'quiet.config'],
                                       ['-m', '-C'], ['--config-only'])):
            got = self.run_buildman(*words, '-o', self.out(str(number)), *more)
            self.assertEqual(got.returncode, 0, got)
            for upto in range(3):
                folder = self.folder(upto, 'anvil_nor', self.out(f'{number}/feature'))
                self.assertEqual(read(folder, 'log'), '')
                self.assertFalse(os.path.exists(os.path.join(folder, 'err')))
        got = self.run_buildman(*words, '-o', self.out(), '-V')
        self.assertEqual(got.returncode, 0, got)
        for upto in range(3):
            log = read(self.folder(upto, 'anvil_nor'), 'log')
            self.assertEqual(log.count(self.OVERRIDE), 1, log)
            self.assertIn('anvil_nor_defconfig\n', log.splitlines(keepends=True)[0])

    def test_failure(self) -> None:
        """What a configuration says that fails is the reason, and is shown"""
        env = self.write_knobs('anvil_nor', 'config say hello', 'config warn odd',
                               'config fail no more')
        words = ['-o', self.out(), '--boards', 'anvil_nor']
        got = self.run_buildman(*words, env=env)
        self.assertEqual(got.returncode, 100, got)
        folder = self.out('out/current/anvil_nor')
        err = read(folder, 'err')
        for text in ('warning: odd', 'error: no more', 'make: *** '):
            self.assertEqual(err.count(text), 1, err)
        self.assertEqual(read(folder, 'log'), 'hello\n')
        # Not when it is what was asked for that is wrong
        got = self.run_buildman(*words, '-a', 'NOSUCH')
        self.assertEqual(got.returncode, 100, got)
        self.assertTrue(read(folder, 'err').startswith('\nSome CONFIG adjustments did not'))
        self.assertEqual(read(folder, 'done'), '1')
