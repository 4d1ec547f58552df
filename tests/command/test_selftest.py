# SPDX-License-Identifier: GPL-2.0+
"""-t runs these tests, from any folder; its exit status is theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import Dict, Optional

import support

# Stands for coverage: runs what it is told to run, and tells how it was called
COVERAGE = '''#!{python}
import os, subprocess, sys
with open({log!r}, 'a', encoding='utf-8') as outf:
    print(*[word for word in sys.argv[1:] if not word.startswith('--rcfile')],
          os.environ.get('BUILDMAN_TEST_JOBS', 'many'), file=outf)
if sys.argv[1] == '--version':
    print('Coverage.py, version {version} with C extension')
elif sys.argv[1] == 'run':
    with open(sys.argv[2].split('=')[1], encoding='utf-8') as inf:
        assert '/tools\\n' in inf.read()
    sys.exit(subprocess.call([sys.executable, *sys.argv[3:]]))
elif sys.argv[1] == 'report':
    print('TOTAL 100%')
'''


class SelfTest(unittest.TestCase):
    """Few tests are run by these: all would take minutes, and these among them."""

    def setUp(self) -> None:
        self.tmp = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.tmp)

    def run_tests(self, *words: str, command: Optional[str] = None,
                  env: Optional[Dict[str, str]] = None) -> 'subprocess.CompletedProcess[str]':
        """Run the command in a folder that has nothing to do with it"""
        return subprocess.run(
            [*([command] if command else support.command()), *words], cwd=self.tmp,
            env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)

    def test_names(self) -> None:
        """Tests, classes and files can be named, in several ways"""
        for names, count in (
                (['test_mixed'], '1'), (['-v', 'test_cli.TestParse.test_mix*'], '1'),
                (['TestParse.test_mixed', 'TestParse.test_implied'], '2'),
                (['tests.command.test_cli.TestParse.test_mixed', '--skip-net-tests'], '1'),
                (['tests/unit/schedule/test_progress.py'], r'\d+'),
                (['test_boss.HostsTest'], r'\d+')):
            with self.subTest(names=names):
                got = self.run_tests('--te', *names)
                self.assertEqual(0, got.returncode, got)
                self.assertRegex(got.stderr, fr'\nRan {count} tests? in ')

    def test_failure(self) -> None:
        """A test that fails, or is not there, is status 1"""
        got = self.run_tests('-t', 'test_no_such')
        self.assertEqual(1, got.returncode, got)
        self.assertIn('no test was found', got.stderr)
        # A copy of which the README is gone
        for name in ('tests', 'tools'):
            shutil.copytree(os.path.join(support.TOP, name), os.path.join(self.tmp, 'copy', name),
                            symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
        command = os.path.join(self.tmp, 'copy', 'tools', 'buildman', 'buildman')
        got = self.run_tests('-t', 'test_machine_keys', command=command)
        self.assertEqual(1, got.returncode, got)
        self.assertIn('README.rst', got.stderr)

    def test_not_here(self) -> None:
        """An installed package has no tests, and says where they are"""
        os.makedirs(os.path.join(self.tmp, 'lib'))
        for name in ('buildman', 'u_boot_pylib'):
            shutil.copytree(os.path.join(support.TOOLS, name), os.path.join(self.tmp, 'lib', name),
                            symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
        command = os.path.join(self.tmp, 'lib', 'buildman', 'buildman')
        for words in (['-t'], ['--coverage'], ['-t', 'test_cli']):
            got = self.run_tests(*words, command=command)
            self.assertEqual((2, '', 1), (got.returncode, got.stdout, got.stderr.count('\n')), got)
            self.assertIn("they are in the folder 'tests' of buildman's source", got.stderr)

    def test_coverage(self) -> None:
        """--coverage: the same by way of that program, and its report"""
        log = os.path.join(self.tmp, 'log')
        path = os.path.join(self.tmp, 'bin')
        os.mkdir(path)
        os.symlink(sys.executable, os.path.join(path, 'python3'))
        os.symlink(str(shutil.which('env')), os.path.join(path, 'env'))
        got = self.run_tests('--coverage', 'test_mixed', env={'PATH': path})
        self.assertEqual(2, got.returncode, got)
        self.assertRegex(got.stderr, r"^buildman: --coverage: .*'coverage' is not installed.*\n$")
        for version, name, jobs, status in (('7.10.1', 'test_mixed', 'many', 0),
                                            ('6.5.0', 'test_mixed', '1', 0),
                                            ('8.0', 'test_no_such', 'many', 1)):
            with self.subTest(version=version):
                with open(os.path.join(path, 'coverage'), 'w', encoding='utf-8') as outf:
                    outf.write(COVERAGE.format(python=sys.executable, log=log, version=version))
                os.chmod(outf.name, 0o755)
                with open(log, 'w', encoding='utf-8'):
                    pass
                env = {'PATH': path + os.pathsep + os.environ['PATH']}
                env.update({'BUILDMAN_TEST_JOBS': 'many'} if jobs == 'many' else {})
                got = self.run_tests('-t', '--coverage', name, env=env)
                self.assertEqual(status, got.returncode, got)
                self.assertIn('TOTAL 100%\n', got.stdout)
                with open(log, encoding='utf-8') as inf:
                    lines = inf.read().splitlines()
                self.assertEqual(
                    [f'run -m unittest -k *.{name} -k *.{name}.* {jobs}', f'combine -q {jobs}',
                     f'report {jobs}'], lines[1:])
