# SPDX-License-Identifier: GPL-2.0+
"""What the tests of distributed builds share: machines that are this one.

A `DistCase` has a small sample, machines with work folders of their own and
the trees that local builds leave, to compare with. After each test no process
of it is left and no machine is locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import glob
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Tuple

import sshd
import support
from memory import shared_folder
from support import TESTS

from buildman.agent import lock
from buildman.demo import sample

# What a distributed build writes beside the results, or only it
LOGS = ('host', 'joblog')

# Seconds within which all has to be gone after a signal: what stays, stays for good
GONE_TIME = 60

# Arguments of make_sample() where it is machines that fail, and builds do not matter
QUICK: Dict[str, Any] = {'boards': 2, 'commits': 1, 'instant': True}


def joblog(out_dir: str) -> List[Dict[str, str]]:
    """Return the lines of the job log, column to value."""
    with open(os.path.join(out_dir, 'joblog'), encoding='utf-8') as inf:
        lines = [line.rstrip('\n').split('\t') for line in inf]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def read(*parts: str) -> str:
    """Return the text of a file."""
    with open(os.path.join(*parts), encoding='utf-8', errors='replace') as inf:
        return inf.read()


@contextlib.contextmanager
def once(path: str) -> Iterator[str]:
    """Give out a path to make something there, if no process of this run of tests did before.

    Else ''. Others wait meanwhile.
    """
    with open(f'{path}.lock', 'w', encoding='ascii') as lockf:
        fcntl.flock(lockf, fcntl.LOCK_EX)
        done = os.path.exists(f'{path}.done')
        yield '' if done else path
        with open(f'{path}.done', 'w', encoding='ascii'):
            pass


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
        # Those of all classes: not to be changed
        with once(os.path.join(shared_folder(), 'cross')) as folder:
            if folder:
                sample.make_toolchains(folder)
        cls.toolchains = os.path.join(shared_folder(), 'cross')
        cls.config = sample.write_config(cls.config, cls.toolchains)

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
            # The load here is our own
            load = ['max_load = 0'] if name in self.ways else []
            lines = [*self.section(name), *load, sections.get(name, '')]
            text += '\n'.join([f'[machine:{name}]', *lines]) + '\n'
        self.config = os.path.join(self.tmp, 'buildman.cfg')
        sample.write_config(self.config, self.toolchains,
                            extra=text + self.settings + '\n' + extra)

    def program(self, name: str, command: str, text: str) -> str:
        """Put a shell script before a command on a machine; it goes on as the real one.

        The machine is reached through a shell of its own then, see machines().

        Args:
            name: of the machine
            command: the command, e.g. 'make'
            text: script

        Returns:
            its path
        """
        folder = self.out(f'bin-{name}')
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, command)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(f'#!/bin/sh\n{text}\nexec {shutil.which(command)} "$@"\n')
        os.chmod(path, 0o755)
        self.ways[name] = f'env PATH={folder}:{os.environ["PATH"]} sh -c'
        return path

    def wrap_make(self, name: str, text: str) -> None:
        """Put a shell script before make on a machine."""
        self.program(name, 'make', text)

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
            # Other classes have the same branch
            tip = subprocess.run(['git', 'rev-parse', 'feature'], cwd=self.tree.path, check=True,
                                 capture_output=True).stdout
            name = hashlib.sha256(repr((tip, key, read(self.plain_config))).encode()).hexdigest()
            top = os.path.join(shared_folder(), name[:16])
            with once(top) as folder:
                if folder:
                    argv = [*support.command(), '-G', self.plain_config, '-b', 'feature',
                            '-o', folder, *args]
                    done = subprocess.run(argv, cwd=self.tree.path, env=self.env(env),
                                          stdin=subprocess.DEVNULL, capture_output=True,
                                          check=False, timeout=support.TIMEOUT)
                    shutil.rmtree(os.path.join(folder, 'feature', '.bm-work'), ignore_errors=True)
                    with open(os.path.join(folder, 'status'), 'w', encoding='ascii') as outf:
                        outf.write(str(done.returncode))
            self._refs[key] = os.path.join(top, 'feature'), int(read(top, 'status'))
        return self._refs[key]

    # -- what came out -----------------------------------------------------

    def results(self) -> str:
        """Return the folder of the results of this test."""
        return self.out('out/feature')

    def hosts(self, out_dir: str = '') -> Dict[Tuple[int, str], str]:
        """Return who built what: (index of commit, board) to machine; what is complete."""
        found = {}
        for path in glob.glob(os.path.join(glob.escape(out_dir or self.results()),
                                           '[0-9]*_g*', '*', 'host')):
            parts = path.split('/')
            if not os.path.exists(os.path.join(os.path.dirname(path), 'done')):
                continue
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

    def assert_gone(self, seconds: float) -> None:
        """Fail if something of this test runs on a machine after so many seconds."""
        support.assert_no_processes(self.marker, seconds)

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
        # The same for all classes that this process runs, so that their branch is the same
        cls.knob_dir = os.path.join(tempfile.gettempdir(), f'buildman-knobs-{os.getpid()}')
        os.mkdir(cls.knob_dir)
        cls.addClassCleanup(subprocess.run, ['rm', '-rf', cls.knob_dir], check=False)
        # Machines may be other users
        os.chmod(cls.knob_dir, 0o777)
        knobs: Dict[Any, List[str]] = {(2, 'rocket'): [
            f'signal {cls.knob_dir}/begun', f'wait {cls.knob_dir}/go']}
        cls.sample_args = dict(boards=3, commits=3, knobs=knobs)
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

    def others(self, name: str) -> List[str]:
        """Return the other machines"""
        return [other for other in self.names if other != name]

    def check(self, proc: 'subprocess.Popen[bytes]') -> str:
        """Wait for the end: everything is there, once; return what was printed"""
        self.assertEqual(self.ref_status, proc.wait(support.TIMEOUT),
                         self.stdout() + self.errors())
        self.assert_same(self.ref)
        self.assert_once()
        self.assertEqual(12, len(self.hosts()))
        self.assert_clean(self.errors())
        return self.stdout()

    def lose(self, sig: int) -> None:
        """Send a signal to the worker that has rocket, and see what becomes of it"""
        proc = self.start_dist('--no-local')
        name = self.wait_begun()
        before = {key: host for key, host in self.hosts().items() if key[1] == 'rocket'}
        os.kill(self.worker_pid(name), sig)
        support.wait_until(lambda: f'[{name}] lost: ' in self.stdout(), name='the loss to be told')
        self.go()
        text = self.check(proc)
        # (Unless another machine had begun it, too, having nothing else to do)
        self.assertRegex(text, rf'(?m)^\[{name}\] lost: \w.*(given away again: .*rocket)?$')
        hosts = self.hosts()
        self.assertLessEqual(before.items(), hosts.items(), 'what had come was not kept')
        self.assertLessEqual({hosts[upto, 'rocket'] for upto in (2, 3)}, set(self.others(name)))
        self.assertIn('!! ', read(self.results(), f'worker-{name}.log'))
        self.assert_told(text, name)
        self.assert_freed()
        self.assert_gone(GONE_TIME)

    def assert_told(self, text: str, name: str) -> None:
        """Fail unless the end tells of a lost machine: when, why, what was built where"""
        told = re.search(rf'(?ms)^What happened to machines:\n.*?^  {name} was lost: \w.* '
                         r'\(after 0:0\d:\d\d\)(.*)$', text)
        assert told, text
        log = read(self.results(), '.buildman.log')
        self.assertRegex(log, rf'(?m)^[-0-9]+ [:0-9]+ \[{name}\] lost: ')
        self.assertIn('What happened to machines:', log)
        left = [job for job in joblog(self.results()) if job['board'] == 'rocket'
                and job['commit'] == '3' and job['status'].isdigit()]
        if re.search(rf'(?m)^\[{name}\] lost: .*given away again: .*rocket', text):
            # (Else another machine had begun it, too, by itself)
            self.assertLessEqual(2, int(left[0]['attempt']))
        if 'rocket' in told.group(1):
            self.assertRegex(told.group(1), rf"rocket[\w ]* built on [\w, ]*{left[0]['machine']}")

    def interrupt(self, sig: int, want: int, *args: str) -> None:
        """Send a signal to the boss in the middle of a board; then complete"""
        proc = self.start_dist(*args)
        self.wait_begun()
        before = {key for key in self.hosts()}
        proc.send_signal(sig)
        sent = time.monotonic()
        self.assertEqual(want, proc.wait(60), self.errors())
        self.assert_gone(max(0.1, sent + GONE_TIME - time.monotonic()))
        self.assert_freed()
        self.assert_clean(self.errors())
        self.go()
        done = self.dist(*args)
        self.assertEqual(self.ref_status, done.returncode, done)
        self.assert_same(self.ref)
        again = {(int(job['commit']), job['board']) for job in joblog(self.results())}
        self.assertFalse(before & again, 'built again')

    def second_boss(self, first: str) -> None:
        """While a boss has a machine, another one is told who, and goes on without it"""
        proc = self.start_dist('--no-local', '--use-machines', first)
        self.wait_begun()
        both = f'{first},{self.others(first)[0]}'
        done = self.dist('-o', self.out('second'), '--no-local', '--use-machines', both, 'sandbox')
        self.assertEqual(0, done.returncode, done)
        self.assertEqual({self.others(first)[0]},
                         set(self.hosts(self.out('second/feature')).values()))
        done = self.dist('-o', self.out('third'), '--no-local', '--use-machines', first, 'sandbox')
        self.assertEqual(100, done.returncode, done)
        self.assertIn('Not built: sandbox', done.stdout)
        self.assertRegex(done.stdout, rf'(?m)^\[{first}\] takes no part: .*busy.*'
                         rf'{getpass.getuser()}@.*, pid {proc.pid}, since ')
        self.assertNotIn('lost', done.stdout)
        self.go()
        self.check(proc)

    def bosses_at_once(self, name: str) -> None:
        """Of two bosses at the same instant exactly one gets a machine; both trees are whole"""
        self.go()
        outs = [self.out('one'), self.out('two')]
        procs = [subprocess.Popen(
            self.argv('-b', 'feature', '-o', out, '--dist', '--use-machines', name, 'anvil'),
            cwd=self.tree.path, env=self.env(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for out in outs]
        texts = [proc.communicate(timeout=support.TIMEOUT)[0].decode() for proc in procs]
        self.assertEqual([100, 100], [proc.returncode for proc in procs], texts)
        ref, _ = self.local('anvil')
        for out in outs:
            self.assert_same(ref, os.path.join(out, 'feature'))

    def assert_freed(self) -> None:
        """Fail if a machine is locked"""
        support.wait_until(lambda: not any(lock.who(self.work_dir(name)) for name in self.names),
                           GONE_TIME, 'the locks to be free')


class StubSshCase(DistCase):
    """A stand-in for ssh, which fails on demand, is on PATH.

    Attributes:
        real_ssh: what the stand-in runs; '': the far side itself, here
    """

    stub: str
    real_ssh: ClassVar[str] = ''

    def setUp(self) -> None:
        self.stub = ''
        super().setUp()
        self.stub = self.out('stub')
        os.makedirs(self.stub)

    def env(self, extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        env = super().env(extra)
        if getattr(self, 'stub', ''):
            env['BM_STUB_DIR'] = self.stub
            env['BM_STUB_SSH'] = self.real_ssh
            env['PATH'] = os.path.join(TESTS, 'stub_ssh') + ':' + env['PATH']
        return env

    def misbehave(self, name: str, *lines: str) -> None:
        """Say how a machine is to fail"""
        with open(os.path.join(self.stub, f'{self.host(name)}.ctl'), 'w',
                  encoding='utf-8') as outf:
            outf.write('\n'.join(lines) + '\n')

    def calls(self, text: str) -> int:
        """Return how often ssh was called with a command that contains a text"""
        try:
            return read(self.stub, 'log').count(text)
        except FileNotFoundError:
            return 0


class StubCase(StubSshCase):
    """The machines are hosts of the stand-in"""

    def host(self, name: str) -> str:
        return f'{name}.example'

    def section(self, name: str) -> List[str]:
        # The load here is our own
        return ['max_load = 0', f'work_dir = {self.work_dir(name)}']

    def hold(self, name: str, *others: str) -> None:
        """Let a machine build nothing until these others are lost"""
        log = os.path.join(self.results(), '.buildman.log')
        waits = ''.join(f'until grep -qF "[{other}] lost" {log}; do sleep 0.05; done\n'
                        for other in others)
        make = self.program(name, 'make', f'case "$*" in *O=*)\n{waits};; esac')
        self.misbehave(name, f"env PATH={os.path.dirname(make)}:{os.environ['PATH']}")


class SshdCase(DistCase):
    """The machines are users behind a real sshd on 127.0.0.1"""

    names = ('m1', 'm2', 'm3')
    server: ClassVar[sshd.Sshd]
    max_startups: ClassVar[str] = '100'
    login_noise: ClassVar[str] = ''

    @classmethod
    def setUpClass(cls) -> None:
        sshd.require()
        super().setUpClass()
        cls.server = cls.make_server()
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)
        for path in (cls.base, cls.toolchains, os.path.join(cls.toolchains, 'bin')):
            os.chmod(path, 0o755)

    @classmethod
    def make_server(cls) -> sshd.Sshd:
        """Return the server, which is not started."""
        return sshd.Sshd(machines=len(cls.names), max_startups=cls.max_startups,
                         login_noise=cls.login_noise)

    def host(self, name: str) -> str:
        return self.server.hostname(int(name[1:]) - 1)

    def work_dir(self, name: str) -> str:
        return os.path.join(self.server.homes[int(name[1:]) - 1], 'dev', '.bm-worker')

    def machines(self, *names: str, extra: str = '', **sections: str) -> None:
        text = self.server.config()
        for name, lines in sections.items():
            text = text.replace(f'[machine:{name}]\n', f'[machine:{name}]\n{lines}\n')
        self.config = os.path.join(self.tmp, 'buildman.cfg')
        sample.write_config(self.config, self.toolchains,
                            extra=text + self.settings + '\n' + extra)

    def assert_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for num, name in enumerate(self.names):
            support.wait_until(lambda num=num: not self.server.processes(num),
                               max(0.1, deadline - time.monotonic()),
                               f'processes of {name} to end')
