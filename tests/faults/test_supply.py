# SPDX-License-Identifier: GPL-2.0+
"""Machines that a command supplies: asked for, refused, given back when idle and at every end."""

from __future__ import annotations

import json
import os
import signal
from typing import ClassVar, List, Tuple

import support
from dist_support import GONE_TIME, FaultCase, read

from buildman.demo import sample

# Says how to reach the machine, which is this one, holds it and lets it go
ENGINE = '''#!/bin/sh
[ "$BUILDMAN_MACHINE" != farm-2 ] || { echo "engine: error: the pool is on fire" >&2; exit 3; }
echo "came $BUILDMAN_MACHINE" >> LOG
trap : TERM
echo "sh -c"
cat
echo "went $BUILDMAN_MACHINE" >> LOG
'''


class TestCommand(FaultCase):
    """A program instead of an engine"""

    names: ClassVar[Tuple[str, ...]] = ('farm-1', 'farm-3', 'farm-4')

    def machines(self, *names: str, extra: str = '', **sections: str) -> None:
        """Configure a supply of three machines"""
        self.log = self.out('log')
        engine = self.out('engine')
        with open(engine, 'w', encoding='utf-8') as out:
            out.write(ENGINE.replace('LOG', self.log))
        os.chmod(engine, 0o755)
        self.config = os.path.join(self.tmp, 'buildman.cfg')
        text = (f'[machines]\nfarm\n[machine:farm]\nsupply = {engine}\ncount = 4\nidle = 1\n'
                f'max_boards = 1\nwork_dir = {self.base}/work\n')
        sample.write_config(self.config, self.toolchains, extra=text + self.settings + extra)

    def seen(self, what: str) -> List[str]:
        """Return the machines that came, or went"""
        lines = [line.split() for line in read(self.log).splitlines()]
        return sorted(name for word, name in lines if word == what)

    def test_idle(self) -> None:
        """Of four one does not come, two have the last board, and the fourth is given back"""
        proc = self.start_dist('--no-local', '--status', self.out('status'))
        self.wait_begun()
        support.wait_until(lambda: self.seen('went'), name='a machine to be given back')
        self.assertIsNone(proc.poll())
        self.go()
        text = self.check(proc)
        self.assertEqual(self.seen('came'), self.seen('went'))
        self.assertNotIn('farm-2', self.seen('came'))
        names = {mach['name'] for mach in json.loads(read(self.out('status')))['machines']}
        self.assertLessEqual({'farm-1', 'farm-2', *self.seen('came')}, names)
        self.assertRegex(text, r'(?m)^\[farm-2\] lost: the pool is on fire$')
        self.assertRegex(text, r'(?m)^\[farm-\d\] given back, as there is nothing to do for it$')

    def test_killed(self) -> None:
        """The boss is killed: all are given back"""
        self.interrupt(signal.SIGKILL, -9, '--no-local')
        support.wait_until(lambda: self.seen('came') == self.seen('went'), GONE_TIME,
                           f'all to be given back: {read(self.log)}')
        told = self.run_buildman('--kill-workers')
        self.assertEqual((0, 'farm: nothing to be ended: its command ends with its input\n'),
                         (told.returncode, told.stdout))
