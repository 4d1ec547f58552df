# SPDX-License-Identifier: GPL-2.0+
"""Distributed builds between this machine and one with another Debian suite's tools.

Run by run.py; BUILDMAN_SUITE_ENTER is the command that runs another one in the suite's
tree. The compilers are each one's own, under the same names.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import sshd
import support
from dist_support import LOGS, DistCase

ENTER = shlex.split(os.environ['BUILDMAN_SUITE_ENTER'])

# The file `settings` tells the compiler of the boss, whichever a machine has; `trace` the
# programs of that machine
IGNORED = (*LOGS, 'settings', 'trace')


class AcrossTest(DistCase):
    """A boss here and a machine there, and the other way round"""

    names = ('alpha',)

    def there(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run buildman with the tools of the suite; with errors at most, as the sample has"""
        done = subprocess.run([*ENTER, *self.argv(*args)], cwd=self.tree.path, check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=support.TIMEOUT)
        self.assertIn(done.returncode, (0, 100), done.stdout + done.stderr)
        return done

    def check(self, mach: str, build: str, ref: str) -> None:
        """Check what --mach and the build told, and the tree"""
        ask = ['gcc', '-dumpfullversion']
        if subprocess.check_output(ask) != subprocess.check_output([*ENTER, *ask]):
            self.assertRegex(mach, r': differs from here: .*\bgcc [0-9]\S* \(here ')
            self.assertRegex(build, r'\[\w+\] arm: gcc is [0-9]\S* \(.*\), here it is [0-9]')
        self.assertIn('Completed: 16 total built (16 newly', build)
        self.assertNotIn('lost', build)
        support.assert_same_tree(ref, self.results(), ignore=IGNORED)

    def test_machine_there(self) -> None:
        """What comes from there is what is built there"""
        self.ways['alpha'] = f'{shlex.join(ENTER)} sh -c'
        self.machines('alpha', alpha='other_gcc = yes')
        told = self.run_buildman('--mach').stdout
        got = self.dist('--no-local')
        self.assertEqual(got.returncode, 100, got)
        self.there('-b', 'feature', '-o', self.out('ref'))
        self.check(told, got.stdout, self.out('ref/feature'))

    def test_boss_there(self) -> None:
        """Over ssh to this machine, with the suite's client and this machine's server"""
        sshd.require()
        # Another user is to run the compilers
        os.chmod(self.base, 0o755)
        with sshd.Sshd(machines=1) as server:
            with open(self.plain_config, encoding='utf-8') as inf:
                text = inf.read()
            self.config = os.path.join(self.tmp, 'far.cfg')
            with open(self.config, 'w', encoding='utf-8') as out:
                out.write(text + server.config(other_gcc='yes'))
            told = self.there('--mach').stdout
            got = self.there('-b', 'feature', '-o', self.out(), '--dist', '--no-local')
        self.check(told, got.stdout, self.local()[0])


if __name__ == '__main__':
    unittest.main()
