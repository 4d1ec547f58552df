# SPDX-License-Identifier: GPL-2.0+
"""Runs buildman's own tests (-t), also under the program `coverage` (--coverage)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from typing import List, Mapping, Optional, Sequence

from buildman.core.errors import EXIT_OK, SetupError
from buildman.process import commands
from buildman.process.registry import Account, has_ended, wait_until

# The folder that holds tools/ and tests/, also when we were called by a link
TOP = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), '../../..'))

# Seconds that tests get to end what they have started, and coverage to tell its version
END_TIME = 10
VERSION_TIME = 60

# Exit status when a test has failed
EXIT_TESTS_FAILED = 1

# From this version on coverage can measure what a test starts or forks
_MEASURES_CHILDREN = (7, 10)

_CONFIG = '''\
[run]
source = {tools}
omit = */test_*.py
data_file = {folder}/data
parallel = true
'''

_CONFIG_CHILDREN = '''\
patch = subprocess, _exit
disable_warnings = no-data-collected, module-not-measured, couldnt-parse
'''


def run(names: Sequence[str], coverage: bool = False, verbose: bool = False) -> int:
    """Run the tests, or some of them.

    Args:
        names: files, classes or tests, as in 'test_cli', 'test_cli.TestHelp' or
            'test_flags'; '*' stands for anything; empty for all
        coverage: show how much of the code they run
        verbose: name each test

    Returns:
        0, or 1 if one fails or a name fits none

    Raises:
        SetupError: the tests or coverage are not there
    """
    if not os.path.isfile(os.path.join(TOP, 'tests', '__init__.py')):
        raise SetupError("the tests are not here: they are in the folder 'tests' of buildman's "
                         'source, and not in what is installed of it; run '
                         "'tools/buildman/buildman -t' there")
    words = ['-m', 'unittest', *(['-v'] if verbose else [])]
    for name in names:
        for pattern in _patterns(name):
            words += ['-k', pattern]
    if not coverage:
        return _status(_call([sys.executable, *words]))
    return _covered(words)


def _patterns(name: str) -> List[str]:
    """Return what selects the tests with a name, for -k of unittest"""
    name = re.sub(r'\.py$', '', name).replace('/', '.')
    return [f'*.{name}', f'*.{name}.*'] if not name.startswith('tests.') else [name, f'{name}.*']


def _covered(words: Sequence[str]) -> int:
    """Run Python with these words under coverage, and show its report"""
    program = shutil.which('coverage') or shutil.which('python3-coverage')
    if not program:
        raise SetupError("--coverage: the program 'coverage' is not installed "
                         "(pip install coverage, or apt-get install python3-coverage)")
    version = commands.run([program, '--version'], VERSION_TIME)
    found = re.search(r'(\d+)\.(\d+)', version.stdout)
    if not found:
        raise SetupError(f"--coverage: '{program}' does not tell its version: "
                         f'{version.stderr.strip() or version.stdout.strip()}')
    children = (int(found.group(1)), int(found.group(2))) >= _MEASURES_CHILDREN
    env = dict(os.environ)
    if not children:
        # Else it sees nothing of the tests, which run in processes of their own
        env['BUILDMAN_TEST_JOBS'] = '1'
        print(f'coverage {found.group()} does not measure the programs that tests start: '
              'version 7.10 does', file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix='buildman-coverage-') as folder:
        config = os.path.join(folder, 'config')
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write(_CONFIG.format(tools=os.path.join(TOP, 'tools'), folder=folder)
                       + (_CONFIG_CHILDREN if children else ''))
        status = _status(_call([program, 'run', f'--rcfile={config}', *words], env))
        for step in ('combine', 'report'):
            code = _call([program, step, f'--rcfile={config}',
                          *(['-q'] if step == 'combine' else [])], env)
            if code:
                return EXIT_TESTS_FAILED
    return status


def _status(code: int) -> int:
    """Return our exit status for one of unittest's"""
    return EXIT_TESTS_FAILED if code else EXIT_OK


def _call(argv: Sequence[str], env: Optional[Mapping[str, str]] = None) -> int:
    """Run a program in the top folder and return its exit status; it is ended with us"""
    account = Account()
    proc = account.start(argv, cwd=TOP, env=env)
    try:
        return proc.wait()
    except KeyboardInterrupt:
        # As on a terminal; then they end what they have started
        os.killpg(proc.pid, signal.SIGINT)
        wait_until(lambda: has_ended(proc.pid), END_TIME)
        raise
    finally:
        account.release(proc.pid)
