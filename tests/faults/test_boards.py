# SPDX-License-Identifier: GPL-2.0+
"""Boards that kill workers, machines that are slow, results that come late."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Dict

import support
from dist_support import DistCase, FaultCase, joblog, read

# The first make of board rocket, on whatever machine, waits until it may go on;
# `first` is a link to the machine's name then
FIRST_IS_SLOW = '''case "$*" in *rocket_defconfig*)
    if ln -sn {name} "{dir}/first" 2>/dev/null; then
        while [ ! -e "{dir}/slow-go" ]; do sleep 0.05; done
    fi;;
esac'''


class TestKiller(DistCase):
    """A board that takes down each machine that tries it"""

    names = ('alpha', 'beta', 'gamma', 'delta')
    settings = '[distributed]\nheartbeat = 1\n'
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 6, 'commits': 1}

    def test_given_up(self) -> None:
        """FAULT 6: three machines are lost with it, not four; it is named, the rest is built"""
        for name in self.names:
            # As the kernel does when the memory is full
            self.wrap_make(name, 'case "$*" in *rocket_defconfig*) kill -9 $PPID; sleep 5;; esac')
        self.machines(*self.names)
        done = self.dist('--no-local')
        self.assertEqual(100, done.returncode, done)
        lost = [name for name in self.names if f'[{name}] lost: ' in done.stdout]
        self.assertEqual(3, len(lost), done)
        self.assertRegex(done.stdout, r'(?m)^Not built: rocket: given up after 3 attempts: '
                         + '; '.join([r"worker '\w+' was lost"] * 3))
        self.assertRegex(done.stdout, r'(?m)^What happened to machines:$')
        for name in lost:
            self.assertRegex(done.stdout, rf'(?m)^  {name} was lost: ')
        # When two have it at the same time, the second one owes it alone
        self.assertRegex(done.stdout, r'(?m)^  \w+ was lost: .*rocket[\w ]* not built')
        ref, _ = self.local('-x', 'rocket')
        self.assert_same(ref)
        self.assert_once()
        self.assert_clean(done.stderr)


class TestSlow(FaultCase):
    """A machine holds the last board"""

    def setUp(self) -> None:
        super().setUp()
        for name in self.names:
            self.wrap_make(name, FIRST_IS_SLOW.format(dir=self.tmp, name=name))
        self.machines(*self.names)

    def owner(self) -> str:
        """Return the machine that holds rocket up"""
        support.wait_until(lambda: os.path.islink(self.out('first')), name='the first make')
        return os.readlink(self.out('first'))

    def log(self, name: str) -> str:
        """Return what went to a machine and came from it"""
        try:
            return read(self.results(), f'worker-{name}.log')
        except FileNotFoundError:
            return ''

    def has_rocket(self, name: str) -> bool:
        """Return whether a machine has begun with rocket, and keeps it

        One that has not begun it as far as the boss knows may have it taken away.
        """
        text = self.log(name)
        given = '"cmd": "build_board", "board": "rocket"'
        return (text.count(given) - text.count('"cancel", "board": "rocket"') == 1
                and '"started", "board": "rocket"' in text[text.rindex(given):])

    def test_duplicate(self) -> None:
        """FAULT 8: an idle machine builds it as well; the slow one is told to stop, not waited for
        """
        self.go()
        proc = self.start_dist('--no-local')
        name = self.owner()
        text = self.check(proc)
        hosts = self.hosts()
        self.assertEqual(set(self.others(name)), {hosts[upto, 'rocket'] for upto in range(4)})
        self.assertIn('"cancel", "board": "rocket"', self.log(name))
        # That is no fault of the machine, and it ends in peace
        self.assertNotIn('lost', text)
        self.assertIn('quit_ack', self.log(name))

    def test_late(self) -> None:
        """FAULT 9: what another machine has sent before is not taken, whenever it comes"""
        for name in self.names:
            self.wrap_make(name, 'case "$*" in *rocket_defconfig*) while [ ! -e '
                                 f'{self.out("go-" + name)} ]; do sleep 0.05; done;; esac')
        self.machines(*self.names)
        proc = self.start_dist('--no-local')
        for name in self.names:
            support.wait_until(lambda name=name: self.has_rocket(name), name=f'rocket on {name}')
        name, other = self.names
        with open(self.out(f'go-{other}'), 'wb'):
            pass
        support.wait_until(lambda: self.hosts().get((1, 'rocket')) == other,
                           name='results of the quick one')
        with open(self.out(f'go-{name}'), 'wb'):
            pass
        support.wait_until(
            lambda: ('rocket', '0', name, 'dropped') in [
                (job['board'], job['commit'], job['machine'], job['status'])
                for job in joblog(self.results())], name='the late result')
        self.go()
        self.check(proc)
        self.assertEqual(other, self.hosts()[0, 'rocket'])

    def test_verdict(self) -> None:
        """FAULT 7: what a compiler says of the source is believed, and not tried elsewhere"""
        self.go()
        with open(self.out('slow-go'), 'wb'):
            pass
        proc = self.start_dist('--no-local')
        self.check(proc)
        tries = [job for job in joblog(self.results())
                 if (job['board'], job['commit'], job['status']) == ('anvil', '2', '2')]
        self.assertEqual(1, len(tries), tries)
        self.assertFalse([job for job in joblog(self.results()) if job['status'] == 'infra'])
