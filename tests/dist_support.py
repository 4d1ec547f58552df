# SPDX-License-Identifier: GPL-2.0+
"""What the tests of distributed builds share: machines that are this one.

A `DistCase` has a small sample, machines with work folders of their own and
the trees that local builds leave, to compare with. After each test no process
of it is left and no machine is locked.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import subprocess
import sys
import tempfile
from typing import Any, ClassVar, Dict, List, Optional, Tuple

TESTS = os.path.dirname(os.path.abspath(__file__))
for _folder in (TESTS, os.path.join(TESTS, '..', 'tools')):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

import support  # noqa: E402

from buildman import lock, sample  # noqa: E402

# What a distributed build writes beside the results, or only it
LOGS = ('host', 'joblog')

# Seconds within which all has to be gone after a signal
GONE_TIME = 5


def joblog(out_dir: str) -> List[Dict[str, str]]:
    """Return the lines of the job log, column to value."""
    with open(os.path.join(out_dir, 'joblog'), encoding='utf-8') as inf:
        lines = [line.rstrip('\n').split('\t') for line in inf]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def read(*parts: str) -> str:
    """Return the text of a file."""
    with open(os.path.join(*parts), encoding='utf-8', errors='replace') as inf:
        return inf.read()


class DistCase(support.SampleCase):
    """Builds with machines; those of this class are `local` ones.

    Attributes:
        names: of the machines
        settings: text for the configuration of every test
    """

    # sandbox, anvil (arm), rocket (aarch64), hammock (riscv64); anvil breaks
    # at the third commit, rocket warns at the fourth
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 4, 'commits': 3}
    names: ClassVar[Tuple[str, ...]] = ('alpha', 'beta')
    settings: ClassVar[str] = ''
    _refs: ClassVar[Dict[Tuple[str, ...], Tuple[str, int]]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls._refs = {}

    def setUp(self) -> None:
        super().setUp()
        self.plain_config = self.config
        # Other transports than `local`
        self.ways: Dict[str, str] = {}
        self.machines(*self.names)

    def tearDown(self) -> None:
        super().tearDown()
        self.assert_no_processes()
        for name in self.names:
            self.assertIsNone(lock.who(self.work_dir(name)), f'{name} is still locked')

    # -- the machines ------------------------------------------------------

    def work_dir(self, name: str) -> str:
        """Return the work folder of a machine; it is kept from test to test."""
        return os.path.join(self.base, 'work', name)

    def host(self, name: str) -> str:
        """Return the host name of a machine."""
        return 'localhost'

    def section(self, name: str) -> List[str]:
        """Return the lines of the section of a machine."""
        return [f"transport = {self.ways.get(name, 'local')}", f'work_dir = {self.work_dir(name)}']

    def machines(self, *names: str, extra: str = '', **sections: str) -> None:
        """Configure machines for the commands of this test.

        Args:
            names: of the machines
            extra: more text for the configuration
            sections: name of a machine to further lines of its section
        """
        text = '[machines]\n'
        for name in names:
            os.makedirs(self.work_dir(name), exist_ok=True)
            text += f'{name} = {self.host(name)}\n'
        for name in names:
            lines = [*self.section(name), sections.get(name, '')]
            text += '\n'.join([f'[machine:{name}]', *lines]) + '\n'
        self.config = os.path.join(self.tmp, 'buildman.cfg')
        sample.write_config(self.config, self.toolchains,
                            extra=text + self.settings + '\n' + extra)

    # -- runs --------------------------------------------------------------

    def dist(self, *args: str, **kwargs: Any) -> support.Result:
        """Build the branch with all machines, into `self.out()` unless -o is given."""
        where = [] if '-o' in args else ['-o', self.out()]
        return self.run_buildman('-b', 'feature', *where, '--dist', *args, **kwargs)

    def start_dist(self, *args: str,
                   env: Optional[Dict[str, str]] = None) -> 'subprocess.Popen[bytes]':
        """Start the same in the background."""
        return self.start_buildman('-b', 'feature', '-o', self.out(), '--dist', *args, env=env)

    def local(self, *args: str, env: Optional[Dict[str, str]] = None) -> Tuple[str, int]:
        """Return the tree and the exit status of a local build with these arguments."""
        key = (*args, *sorted((env or {}).items()))
        if key not in self._refs:
            out = os.path.join(self.base, f'ref-{len(self._refs)}')
            argv = [*support.command(), '-G', self.plain_config, '-b', 'feature', '-o', out, *args]
            done = subprocess.run(argv, cwd=self.tree.path, env=self.env(env),
                                  stdin=subprocess.DEVNULL, capture_output=True, check=False,
                                  timeout=support.TIMEOUT)
            self._refs[key] = (os.path.join(out, 'feature'), done.returncode)
        return self._refs[key]

    # -- what came out -----------------------------------------------------

    def results(self) -> str:
        """Return the folder of the results of this test."""
        return self.out('out/feature')

    def hosts(self, out_dir: str = '') -> Dict[Tuple[int, str], str]:
        """Return who built what: (index of commit, board) to machine."""
        found = {}
        for path in glob.glob(os.path.join(glob.escape(out_dir or self.results()),
                                           '[0-9]*_g*', '*', 'host')):
            parts = path.split('/')
            found[int(parts[-3][:2]) - 1, parts[-2]] = read(path).strip()
        return found

    def assert_same(self, ref: str, out_dir: str = '') -> None:
        """Fail unless the results are those of a local build, and nothing lies about."""
        out_dir = out_dir or self.results()
        support.assert_same_tree(ref, out_dir, ignore=LOGS)
        self.assertEqual([], glob.glob(os.path.join(glob.escape(out_dir), '.bm-work', '*.stage-*')),
                         'images are left under way')

    def assert_once(self, out_dir: str = '') -> None:
        """Fail if the job log has a result twice."""
        kept = [(job['board'], job['commit']) for job in joblog(out_dir or self.results())
                if job['status'].isdigit()]
        self.assertEqual(sorted(set(kept)), sorted(kept))

    def worker_pid(self, name: str) -> int:
        """Return the process of the worker that holds a machine, 0 when none does."""
        with contextlib.suppress(OSError):
            owner = lock.Owner.from_json(read(self.work_dir(name), lock.HELD))
            if owner and owner.worker_pid and lock.who(self.work_dir(name)):
                return owner.worker_pid
        return 0

    def stdout(self) -> str:
        """Return what a command in the background has printed."""
        return read(self.out('stdout'))

    def errors(self) -> str:
        """Return what it has printed on stderr."""
        return read(self.out('stderr'))

    def assert_clean(self, text: str) -> None:
        """Fail if what a user sees has a traceback."""
        self.assertNotIn('Traceback', text)
        self.assertIsNone(re.search(r'^Exception in', text, re.M), text)


class FaultCase(DistCase):
    """Board `rocket` stops at the third commit until the test lets it go on"""

    settings = '[distributed]\nheartbeat = 1\n'
    knob_dir: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.knob_dir = tempfile.mkdtemp(prefix='buildman-knobs-')
        cls.addClassCleanup(subprocess.run, ['rm', '-rf', cls.knob_dir], check=False)
        # Machines may be other users
        os.chmod(cls.knob_dir, 0o777)
        knobs: Dict[Any, List[str]] = {(2, 'rocket'): [
            f'signal {cls.knob_dir}/begun', f'wait {cls.knob_dir}/go']}
        cls.sample_args = dict(boards=4, commits=3, knobs=knobs)
        super().setUpClass()

    def setUp(self) -> None:
        super().setUp()
        self.go()
        self.ref, self.ref_status = self.local()
        for name in ('go', 'begun'):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(self.knob_dir, name))
        self.addCleanup(self.go)

    def go(self) -> None:
        """Let rocket go on"""
        with open(os.path.join(self.knob_dir, 'go'), 'wb'):
            pass

    def wait_begun(self) -> str:
        """Wait until rocket is at the third commit; return the machine that has it"""
        support.wait_for(os.path.join(self.knob_dir, 'begun'))
        return support.wait_until(lambda: self.hosts().get((1, 'rocket')),
                                  name='the second result of rocket')

    def other(self, name: str) -> str:
        """Return the other machine"""
        return next(other for other in self.names if other != name)

    def check(self, proc: 'subprocess.Popen[bytes]') -> str:
        """Wait for the end: everything is there, once; return what was printed"""
        self.assertEqual(self.ref_status, proc.wait(support.TIMEOUT),
                         self.stdout() + self.errors())
        self.assert_same(self.ref)
        self.assert_once()
        self.assertEqual(16, len(self.hosts()))
        self.assert_clean(self.errors())
        return self.stdout()

    def assert_freed(self) -> None:
        """Fail if a machine is locked"""
        support.wait_until(lambda: not any(lock.who(self.work_dir(name)) for name in self.names),
                           GONE_TIME, 'the locks to be free')
