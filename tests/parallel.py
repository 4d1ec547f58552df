# SPDX-License-Identifier: GPL-2.0+
"""Runs test classes in several processes, under the usual `python3 -m unittest`.

Most tests here wait for processes of theirs, and each class has fixtures of its
own; so classes are what is spread over processes, of which there are two more than
processors, as those that wait for a timer leave theirs idle. Every test reports to
the one result that unittest shows, under its own name, when it has ended.

The environment variable BUILDMAN_TEST_JOBS is the number of processes; 1 runs
everything in this one, as unittest does by itself. A test that takes longer than
BUILDMAN_TEST_LIMIT seconds hangs: its process shows where each thread is, and ends,
so that the test has failed and the others are run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
import unittest
from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Type, Union

JOBS_VARIABLE = 'BUILDMAN_TEST_JOBS'

# Seconds for one test: many times what the longest takes, and more than the time that
# tests give to the programs that they run
LIMIT_VARIABLE = 'BUILDMAN_TEST_LIMIT'
LIMIT = 600.0

# More than this many do not help, but disturb tests that have bounds
MAX_JOBS = 4

# Seconds that a process gets to end when it is not needed any more
END_TIME = 10

# Classes that take long, the longest first: begun early, so that all processes end
# at about the same time. One that is missing here costs time, nothing else.
SLOW = (
    'command.test_dist_ssh.TestReal', 'command.test_dist_ssh.TestCut',
    'faults.test_machines.TestLost', 'faults.test_machines.TestBosses',
    'command.test_dist_ssh.TestCutReal', 'peers.test_worker.ResultTest',
    'command.test_dist.TestTree', 'command.test_dist.TestWhole', 'faults.test_data.TestHostile',
    'command.test_dist_ssh.TestPhases', 'command.test_dist_ssh.TestOdd',
    'command.test_timeout.TestTimeout', 'command.test_build_branch.TestWhole',
    'command.test_build_flags.TestPlaces', 'unit.demo.test_sample.TestBuild',
    'faults.test_boards.TestSlow', 'peers.test_peers.TheirBossTest',
    'peers.test_peers.TheirWorkerTest')

_Err = Union[Tuple[Type[BaseException], BaseException, TracebackType], Tuple[None, None, None]]


class InProcess(Exception):
    """A failure in another process, with the text that was made of it there"""

    __module__ = 'builtins'


def jobs() -> int:
    """Return how many processes are wanted."""
    told = os.environ.get(JOBS_VARIABLE, '')
    if told.isdigit():
        return max(1, int(told))
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cpus = os.cpu_count() or 1
    return min(MAX_JOBS, cpus + 2)


def limit() -> float:
    """Return how many seconds a test may take."""
    try:
        return float(os.environ[LIMIT_VARIABLE])
    except (KeyError, ValueError):
        return LIMIT


def _watch() -> None:
    """End this process if it is not called again in time"""
    faulthandler.dump_traceback_later(limit(), exit=True, file=sys.__stderr__)


def _each(suite: unittest.TestSuite) -> Iterator[Any]:
    """Return the tests of a suite, whatever they are packed in"""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _each(test)
        else:
            yield test


class _Told(unittest.TestResult):
    """What a process tells of its tests: a line of JSON each"""

    def __init__(self, number: Dict[int, int], out: Any) -> None:
        super().__init__()
        self._number = number
        self._out = out
        self._start = 0.0

    def _tell(self, kind: str, test: Any, text: str = '') -> None:
        """Tell of a test, or of a fixture of its class"""
        self._out.write(json.dumps({
            'kind': kind, 'test': self._number.get(id(test), -1), 'name': str(test),
            'text': text}) + '\n')
        self._out.flush()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        _watch()
        self._start = time.monotonic()
        self._tell('begin', test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        # What is left is fixtures, or the next test
        _watch()
        self._tell('end', test, str(time.monotonic() - self._start))

    def _text(self, err: _Err, test: Any) -> str:
        return str(self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._tell('success', test)

    def addError(self, test: unittest.TestCase, err: _Err) -> None:
        self._tell('error', test, self._text(err, test))

    def addFailure(self, test: unittest.TestCase, err: _Err) -> None:
        self._tell('failure', test, self._text(err, test))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._tell('skip', test, reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: _Err) -> None:
        self._tell('expected', test, self._text(err, test))

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._tell('unexpected', test)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase,
                   err: Optional[_Err]) -> None:
        if err is not None:
            self._tell('failure', test, f'{subtest}\n{self._text(err, test)}')


class _Fixture:
    """Stands for the fixture of a class, which is no test"""

    failureException = AssertionError

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name

    def id(self) -> str:
        """Return its name"""
        return self._name

    def shortDescription(self) -> None:
        """Return None: it has no other description"""
        return


class _Process:
    """A process that runs classes, one after the other, as it is told."""

    def __init__(self, groups: Sequence[List[unittest.TestCase]], buffer: bool,
                 others: Sequence['_Process']) -> None:
        """Start it.

        Args:
            groups: the tests of each class
            buffer: show what a test prints only if it fails
            others: processes that are there already
        """
        self._groups = groups
        self._rest = b''
        self.group = -1
        self.running: Optional[Dict[str, Any]] = None
        self.events: List[Dict[str, Any]] = []
        self.told: List[int] = []
        self.socket, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                for proc in (self, *others):
                    proc.socket.close()
                self._serve(theirs, buffer)
                code = 0
            except KeyboardInterrupt:
                pass
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(BaseException):
                    sys.stdout.flush()
                    sys.stderr.flush()
                # What the parent has registered for its own end is none of ours
                os._exit(code)
        theirs.close()

    def _serve(self, end: socket.socket, buffer: bool) -> None:
        """Be that process"""
        out = end.makefile('w', encoding='utf-8')
        for line in end.makefile('r', encoding='utf-8'):
            tests = self._groups[int(line)]
            result = _Told({id(test): number for number, test in enumerate(tests)}, out)
            result.buffer = buffer
            _watch()
            unittest.TestSuite(tests).run(result)
            faulthandler.cancel_dump_traceback_later()
            out.write('{}\n')
            out.flush()

    def give(self, group: int) -> None:
        """Have it run a class"""
        self.group, self.running, self.told, self.events = group, None, [], []
        with contextlib.suppress(BrokenPipeError):
            # It has died, which shows when it is read from
            self.socket.sendall(b'%d\n' % group)

    def read(self) -> Optional[List[Dict[str, Any]]]:
        """Return what it tells, {} at the end of a class; None: it has ended"""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b''
        *lines, self._rest = (self._rest + data).split(b'\n')
        return [json.loads(line) for line in lines] if data else None

    def end(self, sig: int = 0) -> int:
        """End it; return its exit status, negative for a signal"""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        if sig:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)
        deadline = time.monotonic() + END_TIME
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.socket.close()
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)


class ParallelSuite(unittest.TestSuite):
    """A suite whose classes are run in several processes."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        """Run all tests, and have `result` told of each."""
        by_class: Dict[Tuple[str, str], List[unittest.TestCase]] = {}
        alone: List[Any] = []
        for test in _each(self):
            cls = type(test)
            if cls.__module__.startswith('unittest'):
                # Stands for a module that cannot be imported
                alone.append(test)
            else:
                by_class.setdefault((cls.__module__, cls.__qualname__), []).append(test)
        count = min(jobs(), len(by_class))
        if count < 2 or debug or not hasattr(os, 'fork'):
            return super().run(result, debug)
        unittest.TestSuite(alone).run(result)
        _Run(_in_order(by_class), result).run(count)
        return result


def _in_order(by_class: Dict[Tuple[str, str], List[unittest.TestCase]]
              ) -> List[List[unittest.TestCase]]:
    """Return the tests of each class, those first that take long"""
    rank = {name: number for number, name in enumerate(SLOW)}
    keys = list(by_class)
    keys.sort(key=lambda key: rank.get(f"{key[0].partition('.')[2]}.{key[1]}", len(rank)))
    return [by_class[key] for key in keys]


class _Run:
    """One run of classes in several processes."""

    def __init__(self, groups: List[List[unittest.TestCase]], result: unittest.TestResult) -> None:
        """Take the classes, in the order in which they are to begin"""
        self._groups = groups
        self._result = result
        self._next = 0

    def run(self, count: int) -> None:
        """Run them in so many processes"""
        running: List[_Process] = []
        sel = selectors.DefaultSelector()
        try:
            for _ in range(count):
                self._add(running, sel)
            while running:
                for key, _ in sel.select():
                    self._read(key.data, running, sel)
                if self._result.shouldStop:
                    break
        finally:
            # Ctrl-C, or -f: what runs is ended as by Ctrl-C
            for proc in running:
                proc.end(signal.SIGINT)
            sel.close()

    def _read(self, proc: _Process, running: List[_Process],
              sel: selectors.BaseSelector) -> None:
        """Deal with what a process tells, or with its end"""
        events = proc.read()
        for event in events or ():
            if event:
                self._take(proc, event)
        if events is None or ({} in events and not self._feed(proc)):
            sel.unregister(proc.socket)
            running.remove(proc)
            status = proc.end()
            if events is None:
                self._died(proc, status)
                self._add(running, sel)

    def _add(self, running: List[_Process], sel: selectors.BaseSelector) -> None:
        """Start a process, if there is something left for it to do"""
        if self._next < len(self._groups) and not self._result.shouldStop:
            proc = _Process(self._groups, bool(self._result.buffer), running)
            self._feed(proc)
            running.append(proc)
            sel.register(proc.socket, selectors.EVENT_READ, proc)

    def _feed(self, proc: _Process) -> bool:
        """Give a process the next class; return whether there is one"""
        if self._next >= len(self._groups) or self._result.shouldStop:
            return False
        proc.give(self._next)
        self._next += 1
        return True

    def _take(self, proc: _Process, event: Dict[str, Any]) -> None:
        """Take an event; the result is told of a test when it has ended"""
        kind = event['kind']
        if kind == 'begin':
            proc.running, proc.events = event, []
        elif proc.running is None:
            # A fixture of the class
            self._tell(_Fixture(event['name']), event)
        elif kind != 'end':
            proc.events.append(event)
        else:
            test, result = self._groups[proc.group][event['test']], self._result
            proc.told.append(event['test'])
            proc.running = None
            result.startTest(test)
            for told in proc.events:
                self._tell(test, told)
            result.stopTest(test)
            if hasattr(result, 'addDuration'):
                result.addDuration(test, float(event['text']))

    def _tell(self, test: Any, event: Dict[str, Any]) -> None:
        """Tell the result of one thing that came of a test"""
        kind, text, result = event['kind'], event['text'], self._result
        err: Any = InProcess, InProcess(text), None
        if kind == 'success':
            result.addSuccess(test)
        elif kind == 'error':
            result.addError(test, err)
        elif kind == 'failure':
            result.addFailure(test, err)
        elif kind == 'skip':
            result.addSkip(test, text)
        elif kind == 'expected':
            result.addExpectedFailure(test, err)
        elif kind == 'unexpected':
            result.addUnexpectedSuccess(test)

    def _died(self, proc: _Process, status: int) -> None:
        """Tell that a process has ended before its tests had: each of them has failed"""
        for number, test in enumerate(self._groups[proc.group]):
            if number in proc.told:
                continue
            self._result.startTest(test)
            why = f'the process that ran it has ended, exit status {status}'
            self._result.addError(test, (InProcess, InProcess(why), None))  # type: ignore[arg-type]
            self._result.stopTest(test)
