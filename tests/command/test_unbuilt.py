# SPDX-License-Identifier: GPL-2.0+
"""What could not be built is told wherever results are told."""

from __future__ import annotations

import glob
import json
import os
import xml.etree.ElementTree
from typing import Any, ClassVar, Dict, List

import support
from dist_support import LOGS, DistCase, joblog, read

from buildman.core.outcome import lacks_compiler, without_compiler
from buildman.demo import sample_files

BOARDS = (*(board for board in sample_files.DEFAULT_BOARDS if board.target == 'sandbox'),
          sample_files.BoardSpec('xtbox', 'xtensa'))
ERR = "Tool chain error for xtensa: No tool chain found for arch 'xtensa'"


def make_compiler(tools: str) -> str:
    """Make tools for xtensa, which are those of this machine, and return their prefix"""
    os.makedirs(tools)
    prefix = os.path.join(tools, 'xtensa-linux-gnu-')
    for tool in ('gcc', 'ld', 'as', 'ar', 'nm', 'objcopy', 'objdump', 'readelf', 'size', 'strip'):
        with open(prefix + tool, 'w', encoding='utf-8') as outf:
            outf.write(f'#!/bin/sh\nexec {tool} "$@"\n')
        os.chmod(prefix + tool, 0o755)
    return prefix


class UnbuiltCase(support.SampleCase):
    """Two boards at two commits; nobody has a compiler for xtbox"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': BOARDS, 'commits': 1}

    def folders(self, out: str = 'out/feature') -> List[str]:
        """Return the folders of the results of xtbox"""
        return sorted(glob.glob(os.path.join(glob.escape(self.out(out)), '[0-9]*_g*', 'xtbox')))

    def assert_no_compiler(self) -> None:
        """Fail unless xtbox has the result of a board without a compiler at both commits"""
        self.assertEqual(2, len(self.folders()))
        for path in self.folders():
            self.assertEqual(['done', 'err', 'log'], sorted(os.listdir(path)))
            self.assertEqual(['2', ERR, ''],
                             [read(path, name) for name in ('done', 'err', 'log')])

    def times(self) -> List[int]:
        """Return when the results of xtbox were written"""
        return [os.stat(os.path.join(path, 'done')).st_mtime_ns for path in self.folders()]


class TestLocal(UnbuiltCase):
    """On this machine alone"""

    def test_life(self) -> None:
        """Told by all that tells of results; built as soon as there is a compiler"""
        args = ('-b', 'feature', '-o', self.out())
        report, junit = self.out('report.json'), self.out('junit.xml')
        got = self.run_buildman(*args, '-ze', '--json', report, '--junit', junit)
        self.assertEqual(100, got.returncode, got)
        self.assertIn('Completed: 4 total built', got.stdout)
        self.assertRegex(got.stdout, r"(?m)^Not built: xtbox: .*'xtensa'.* --fetch-arch xtensa")
        self.assert_no_compiler()
        told = f'    xtensa:  +   xtbox\n+{ERR}\n'
        self.assertIn(told, got.stdout)
        self.assertNotIn('no errors to report', got.stdout)
        commits = json.loads(read(report))['commits']
        self.assertEqual([('error', [ERR])] * 2, [
            (commit['boards']['xtbox']['outcome'], commit['boards']['xtbox']['errors'])
            for commit in commits])
        suites = xml.etree.ElementTree.parse(junit).getroot().findall('testsuite')
        self.assertEqual([('1', '0', '0')] * 2, [
            (suite.get('failures'), suite.get('errors'), suite.get('skipped'))
            for suite in suites])
        self.assertEqual(['no-toolchain'] * 2, [
            case.get('type') for suite in suites for case in suite.iter('failure')])
        # What U-Boot's CI runs next
        self.assertIn(told, self.run_buildman(*args, '-seP').stdout)

        times = self.times()
        got = self.run_buildman(*args)
        self.assertEqual(100, got.returncode, got)
        self.assertIn('Completed: 4 total built (4 previously)\nNot built: xtbox: ', got.stdout)
        for flag in '-F', '-f':
            got = self.run_buildman(*args, flag, '--boards', 'xtbox')
            self.assertEqual(100, got.returncode, got)
            self.assertIn('Completed: 2 total built\n', got.stdout)
        self.assertEqual(times, self.times(), 'written for no reason')

        config = self.out('with.cfg')
        prefix = make_compiler(self.out('tools'))
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write(read(self.config).replace('[toolchain-prefix]\n',
                                                 f'[toolchain-prefix]\nxtensa = {prefix}\n'))
        got = self.run_buildman('-G', config, *args)
        self.assertEqual(0, got.returncode, got)
        self.assertIn('Completed: 4 total built (2 previously, 2 newly)', got.stdout)
        once = self.run_buildman('-G', config, '-b', 'feature', '-o', self.out('once'))
        self.assertEqual(0, once.returncode, once)
        support.assert_same_tree(self.out('once/feature'), self.out('out/feature'))

        # It stays, whoever has lost the compiler since, until it is to be built again
        got = self.run_buildman(*args)
        self.assertEqual(0, got.returncode, got)
        self.assertIn('Completed: 4 total built (4 previously)\n', got.stdout)
        self.assertNotIn('Not built', got.stdout)
        got = self.run_buildman(*args, '-f', '--boards', 'xtbox')
        self.assertEqual(100, got.returncode, got)
        self.assert_no_compiler()

    def test_nobody(self) -> None:
        """No compiler for anything is a result as well, of the current source, too"""
        config = self.out('cfg')
        with open(config, 'w', encoding='ascii') as outf:
            outf.write('[toolchain]\nnone = /nonexistent\n')
        args = ('-G', config, '-o', self.out())
        for _ in range(2):
            got = self.run_buildman(*args)
            self.assertEqual(100, got.returncode, got)
            self.assertIn(f'    xtensa:  +   xtbox\n+{ERR}\n    0    0    2 /2', got.stdout)
            self.assertRegex(got.stdout, r'(?m)^Completed: 2 total built$')
        got = self.run_buildman(*args, '-seP')
        self.assertEqual(0, got.returncode, got)
        self.assertRegex(got.stdout, r'sandbox:  \+   sandbox\n    xtensa:  \+   xtbox\n')
        # An editor gets each on a line of its own
        got = self.run_buildman(*args, '-I')
        self.assertEqual((100, ''), (got.returncode, got.stdout))
        self.assertIn(f'\n{ERR}\n', '\n' + got.stderr)

    def test_recognised(self) -> None:
        """Nothing that was built is taken for a board without a compiler"""
        done = without_compiler('xtbox', 'xtensa', 3)
        self.assertEqual((3, ERR, {}), (done.commit_upto, done.stderr, done.files))
        make = 'make: *** [Makefile:51: sub-make] Error 2\n'
        for want, code, log, err in (
                (True, 2, '', ERR), (True, 2, '\n', ERR + '\n'), (True, 2, '', ERR + ' at all'),
                (False, 0, '', ERR), (False, 1, '', ERR), (False, 2, 'CC a.o\n', ERR),
                (False, 2, '', ERR + '\n' + make), (False, 2, '', make + ERR),
                (False, 2, '', 'Tool chain error for arm\n'), (False, 2, '', ''),
                (False, 2, '', make)):
            with self.subTest(code=code, log=log, err=err):
                self.assertEqual(want, lacks_compiler(code, log, err))

    def test_others_result(self) -> None:
        """A board that fails without a word keeps its result; another buildman's is known"""
        args = ('-b', 'feature', '-o', self.out(), '--boards', 'sandbox')
        self.assertEqual(0, self.run_buildman(*args).returncode)
        first, second = sorted(glob.glob(self.out('out/feature/0*/sandbox')))
        for path, err in ((first, ERR.replace('xtensa', 'sandbox')), (second, 'make: killed')):
            # It leaves what was there before
            for name, text in (('done', '2\n'), ('err', err), ('log', '')):
                with open(os.path.join(path, name), 'w', encoding='ascii') as outf:
                    outf.write(text)
        got = self.run_buildman(*args)
        self.assertEqual(100, got.returncode, got)
        self.assertIn('(1 previously, 1 newly)', got.stdout)
        self.assertEqual('0', read(first, 'done'))
        self.assertEqual('make: killed', read(second, 'err'))


class TestDist(DistCase, UnbuiltCase):
    """With machines"""

    sample_args: ClassVar[Dict[str, Any]] = UnbuiltCase.sample_args

    def test_nobody(self) -> None:
        """The result is that of a local build, until some machine has a compiler"""
        done = self.dist('xtbox')
        self.assertEqual(100, done.returncode, done)
        self.assertRegex(done.stdout, r"(?m)^Not built: xtbox: No tool .*'xtensa'.*; no machine ")
        # Without `host`, as nobody built it
        self.assert_no_compiler()
        ref, status = self.local('xtbox')
        self.assertEqual(100, status)
        support.assert_same_tree(ref, self.results(), ignore=LOGS)
        self.assertEqual([('xtbox', '0', '2'), ('xtbox', '1', '2')], [
            (job['board'], job['commit'], job['status']) for job in joblog(self.results())])
        self.assertIn(f'xtbox: {ERR}', read(self.results(), '.buildman.log'))
        times = self.times()
        done = self.dist('xtbox')
        self.assertEqual(100, done.returncode, done)
        self.assertIn('Completed: 2 total built (2 previously)', done.stdout)
        self.assertEqual(times, self.times(), 'written for no reason')
        tools = os.path.dirname(make_compiler(self.out('tools')))
        self.ways['beta'] = f'env PATH={tools}:{os.environ["PATH"]} sh -c'
        self.machines('alpha', 'beta')
        done = self.dist('xtbox')
        self.assertEqual(0, done.returncode, done)
        self.assertEqual({'beta'}, set(self.hosts().values()))

    def test_lost(self) -> None:
        """A machine that has the compiler is lost: that is no result, and is told as well"""
        make_compiler(self.out('bin-beta'))
        # As the kernel does when the memory is full
        self.wrap_make('beta',
                       'case "$*" in *xtbox_defconfig*) kill -9 $PPID; sleep 5;; esac')
        self.machines('alpha', 'beta')
        report, junit = self.out('report.json'), self.out('junit.xml')
        done = self.dist('xtbox', '-ze', '--json', report, '--junit', junit)
        self.assertEqual(100, done.returncode, done)
        why = 'no machine is left that can build it'
        self.assertIn(f'\nNot built: xtbox: {why}\n', done.stdout)
        self.assertNotIn('no errors to report', done.stdout)
        self.assertEqual([], [path for path in self.folders() if os.listdir(path)])
        for commit in json.loads(read(report))['commits']:
            self.assertEqual((['xtbox'], {'xtbox': why}),
                             (commit['not_built'], commit['not_built_why']))
        for suite in xml.etree.ElementTree.parse(junit).getroot().findall('testsuite'):
            self.assertEqual(('0', '1', '0'), (suite.get('failures'), suite.get('errors'),
                                               suite.get('skipped')))
            self.assertEqual([('not-built', f'not built: {why}')], [
                (item.get('type'), item.get('message')) for item in suite.iter('error')])
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '-s', '--show-not-built',
                                 'xtbox')
        self.assertIn('Boards not built (1): xtbox\n', done.stdout)
        self.ways.clear()
        tools = self.out('tools')
        os.rename(self.out('bin-beta'), tools)
        os.unlink(os.path.join(tools, 'make'))
        self.ways['beta'] = f'env PATH={tools}:{os.environ["PATH"]} sh -c'
        self.machines('alpha', 'beta')
        self.assertEqual(0, self.dist('xtbox').returncode)
