# SPDX-License-Identifier: GPL-2.0+
"""All tests, for `python3 -m unittest` in the top folder.

Those are test_*.py below this folder and tools/buildman/test_boss.py; they run in
several processes, see `parallel`, and in memory, see `memory`. What they share
(`support` and others in this folder) they import by its bare name.
"""

import os
import sys
import unittest
from typing import Optional

TESTS = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(TESTS)
TOOLS = os.path.join(TOP, 'tools')
# The test of who builds what uses the simulation there
BENCH = os.path.join(TOP, 'bench')

for _folder in (TESTS, TOOLS, BENCH):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

from memory import shared_folder, use_memory
from parallel import ParallelSuite

use_memory()
shared_folder()


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite,
               pattern: Optional[str]) -> unittest.TestSuite:
    """Find all tests (the hook of unittest's discovery).

    Raises:
        LookupError: there is none, or none that -k selects; unittest reports
            that as a failure. Before Python 3.12 it takes no tests for success.
    """
    tests.addTests(loader.discover(TESTS, pattern or 'test*.py', TOP))
    # With a loader of its own, since one loader has one top folder
    tools_loader = unittest.TestLoader()
    tools_loader.testNamePatterns = loader.testNamePatterns
    tests.addTests(tools_loader.discover(os.path.join(TOOLS, 'buildman'), 'test_*.py', TOOLS))
    loader.errors.extend(tools_loader.errors)
    if not tests.countTestCases():
        raise LookupError('no test was found')
    return ParallelSuite([tests])
