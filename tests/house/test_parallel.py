# SPDX-License-Identifier: GPL-2.0+
"""Tests that run in several processes are told as if they had run in one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest
from typing import Dict, List, Tuple
from unittest import mock

import parallel
import support
from support import TESTS

INIT = '''
import sys
sys.path.insert(0, {tests!r})
from parallel import ParallelSuite
def load_tests(loader, tests, pattern):
    tests.addTests(loader.discover(__path__[0], pattern or 'test*.py', __path__[0] + '/..'))
    return ParallelSuite([tests])
'''

MODULE = '''
import os, signal, time, unittest

class TestGood(unittest.TestCase):
    """All is well here"""
    def test_one(self):
        """First of them"""
    def test_two(self):
        pass

class TestBad(unittest.TestCase):
    def test_error(self):
        raise ValueError('some error')
    def test_fail(self):
        self.assertEqual(1, 2, 'some failure')
    def test_skip(self):
        self.skipTest('some reason')
    @unittest.expectedFailure
    def test_expected(self):
        self.fail()
    @unittest.expectedFailure
    def test_unexpected(self):
        pass
    def test_sub(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertEqual(number, 1)

class TestFixture(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise OSError('some fixture')
    def test_never(self):
        pass

@unittest.skip('some class')
class TestSkipped(unittest.TestCase):
    def test_never(self):
        pass
'''

DYING = '''
import os, unittest

class TestDying(unittest.TestCase):
    def test_1(self):
        pass
    def test_2(self):
        os._exit(7)
    def test_3(self):
        pass

class TestAfter(unittest.TestCase):
    def test_all(self):
        pass
'''

# Both have to run at the same time for either to end
TOGETHER = '''
import os, time, unittest

def meet(mine, other):
    open(mine, 'w').close()
    while not os.path.exists(other):
        time.sleep(0.01)

class TestLeft(unittest.TestCase):
    def test_it(self):
        meet('left', 'right')

class TestRight(unittest.TestCase):
    def test_it(self):
        meet('right', 'left')
'''

HANGING = '''
import signal, unittest

class TestOne(unittest.TestCase):
    def test_it(self):
        open('begun-one', 'w').close()
        signal.pause()

class TestTwo(unittest.TestCase):
    def test_it(self):
        open('begun-two', 'w').close()
        signal.pause()
'''


class TestParallel(unittest.TestCase):
    """python3 -m unittest over a package of a few tests"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name

    def write(self, **modules: str) -> None:
        """Write the package"""
        os.mkdir(os.path.join(self.dir, 'pack'))
        for name, text in {'__init__': INIT.format(tests=TESTS), **modules}.items():
            with open(os.path.join(self.dir, 'pack', f'{name}.py'), 'w', encoding='ascii') as outf:
                outf.write(text)

    def command(self, jobs: int, *args: str) -> Tuple[List[str], Dict[str, str]]:
        """Return a command that runs it, and its environment"""
        return ([sys.executable, '-m', 'unittest', *args],
                {**os.environ, parallel.JOBS_VARIABLE: str(jobs), support.MARK: self.dir})

    def run_tests(self, jobs: int, *args: str) -> Tuple[int, str]:
        """Run it; return (exit status, what was printed)"""
        words, env = self.command(jobs, *args)
        done = subprocess.run(words, cwd=self.dir, env=env, capture_output=True, text=True,
                              check=False, timeout=60)
        return done.returncode, done.stderr

    def test_same(self) -> None:
        """Counts, verdicts and reasons are those of a run in one process"""
        self.write(test_some=MODULE)
        one, many = self.run_tests(1, '-v'), self.run_tests(2, '-v')
        self.assertEqual(one[0], many[0])
        for text in (one[1], many[1]):
            self.assertRegex(text, r'Ran 9 tests')
            self.assertRegex(text, r'FAILED \(failures=3, errors=2, skipped=2, '
                                   r'expected failures=1, unexpected successes=1\)')
            for said in ('some error', 'some failure', 'some reason', 'some fixture', 'some class',
                         'number=0', 'number=2', 'First of them'):
                self.assertIn(said, text)
        # (That of a subtest stands for its test, and whether one of a fixture has a line
        # of its own depends on what stands there before)
        verdicts = [sorted(item for item in re.findall(r'(?m)^(.*) \.\.\. (ok|ERROR|FAIL)$', text)
                           if not re.search('test_sub|setUpClass', item[0]))
                    for text in (one[1], many[1])]
        self.assertEqual(*verdicts)

    def test_selected(self) -> None:
        """-k and a name choose tests as usual; none at all is a failure to find them"""
        self.write(test_some=MODULE)
        for words, count in ((['-k', 'TestGood'], 2), (['pack.test_some.TestGood.test_two'], 1)):
            code, text = self.run_tests(2, *words)
            self.assertEqual(0, code, text)
            self.assertIn(f'Ran {count} test', text)

    def test_no_module(self) -> None:
        """A module that cannot be imported is an error"""
        self.write(test_some=MODULE, test_other='import there_is_no_such_module\n')
        code, text = self.run_tests(2, '-k', 'TestGood', '-k', 'test_other')
        self.assertEqual(1, code)
        self.assertIn('there_is_no_such_module', text)
        self.assertIn('Ran 3 tests', text)

    def test_dying(self) -> None:
        """A process that dies takes the rest of its class down, which is told; the others run"""
        self.write(test_some=DYING)
        code, text = self.run_tests(2)
        self.assertEqual(1, code)
        self.assertRegex(text, r'Ran 4 tests')
        self.assertRegex(text, r'FAILED \(errors=2\)')
        self.assertIn('has ended, exit status 7', text)

    def test_hanging(self) -> None:
        """A test that hangs is told of, with the line where it hangs; the others run"""
        self.write(test_some=HANGING, test_other=MODULE)
        with mock.patch.dict(os.environ, {parallel.LIMIT_VARIABLE: '1'}):
            code, text = self.run_tests(2, '-k', 'TestOne', '-k', 'TestGood')
        self.assertEqual(1, code)
        self.assertRegex(text, r'Ran 3 tests')
        self.assertRegex(text, r'FAILED \(errors=1\)')
        self.assertRegex(text, r'Timeout[^$]*test_some.py", line 7 in test_it')

    def test_together(self) -> None:
        """Classes really run at the same time"""
        self.write(test_some=TOGETHER)
        code, text = self.run_tests(2)
        self.assertEqual(0, code, text)

    def test_failfast(self) -> None:
        """With -f the first failure ends all, also what another process is at"""
        self.write(test_some=HANGING, test_other='import unittest, os, time\n'
                   'class TestBad(unittest.TestCase):\n'
                   '    def test_it(self):\n'
                   '        while not os.path.exists("begun-one"):\n'
                   '            time.sleep(0.01)\n'
                   '        self.fail("at last")\n')
        code, text = self.run_tests(2, '-f', '-k', 'TestBad', '-k', 'TestOne')
        self.assertEqual(1, code)
        self.assertIn('at last', text)
        support.assert_no_processes(self.dir)

    def test_interrupted(self) -> None:
        """Ctrl-C ends all processes"""
        self.write(test_some=HANGING)
        words, env = self.command(2)
        with subprocess.Popen(words, cwd=self.dir, env=env,
                              stderr=subprocess.PIPE, start_new_session=True) as proc:
            for name in ('one', 'two'):
                support.wait_for(os.path.join(self.dir, f'begun-{name}'))
            os.killpg(proc.pid, signal.SIGINT)
            assert proc.stderr
            self.assertIn(b'KeyboardInterrupt', proc.stderr.read())
            self.assertNotEqual(0, proc.wait(60))
        support.assert_no_processes(self.dir)
