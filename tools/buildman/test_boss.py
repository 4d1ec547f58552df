# SPDX-License-Identifier: GPL-2.0+
"""The names of `boss` that callers rely on, with stand-ins for ssh and workers.

Nothing is started here: `subprocess.Popen`, `boss._run_ssh` and
`boss.command.run_pipe` are replaced, as callers' own tests do. The real far end
is tested in tests/test_worker.py, and over ssh in the tests of --dist.
"""

from __future__ import annotations

import io
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from buildman import boss, machine, worker
from buildman.core.errors import BuildmanError
from buildman.wire import messages
from u_boot_pylib import command, terminal

READY = {'resp': 'ready', 'nthreads': 8, 'slots': 4}
PREPARED = ({'resp': 'build_started', 'num_threads': 2},
            {'resp': 'worktree_created', 'thread': 0}, {'resp': 'build_prepare_done'})
HASHES = ('a' * 40, 'b' * 40)
COMMITS = [types.SimpleNamespace(hash=name) for name in HASHES]


def wire(*messages: Dict[str, Any]) -> List[bytes]:
    """Return messages as lines of a worker."""
    return [b'BM> ' + json.dumps(msg).encode() + b'\n' for msg in messages]


def built(board: str, upto: int = 0, code: int = 0, **fields: Any) -> Dict[str, Any]:
    """Return a result as a worker sends it."""
    return {'resp': 'build_result', 'board': board, 'commit_upto': upto, 'return_code': code,
            'stdout': '', 'stderr': '', 'sizes': {}, 'load_avg': 1.0, **fields}


class FakeProc:
    """A process without a descriptor: lines to be read, and what was written."""

    def __init__(self, lines: Sequence[bytes] = (), stderr: Any = None,
                 answer: Optional[Callable[[Dict[str, Any]], Sequence[bytes]]] = None,
                 stubborn: int = 0) -> None:
        self.lines: 'queue.Queue[bytes]' = queue.Queue()
        for line in lines:
            self.lines.put(line)
        self.answer = answer
        self.written: List[Dict[str, Any]] = []
        self.calls: List[str] = []
        self.stubborn = stubborn
        self.stdin = types.SimpleNamespace(write=self.write, flush=lambda: None,
                                           close=lambda: self.lines.put(b''))
        self.stdout = types.SimpleNamespace(readline=self.lines.get)
        self.stderr = stderr
        self.argv: List[str] = []

    def write(self, data: bytes) -> int:
        """Take a command and have it answered."""
        msg = json.loads(data)
        self.written.append(msg)
        for line in self.answer(msg) if self.answer else ():
            self.lines.put(line)
        return len(data)

    def poll(self) -> Optional[int]:
        """It runs."""
        return None

    def wait(self, timeout: Optional[float] = None) -> int:
        """End, unless it is stubborn."""
        self.calls.append('wait')
        if self.stubborn > 0:
            self.stubborn -= 1
            raise subprocess.TimeoutExpired('ssh', timeout or 0)
        return 0

    def terminate(self) -> None:
        """Note the call."""
        self.calls.append('terminate')

    def kill(self) -> None:
        """Note the call."""
        self.calls.append('kill')


def polite(msg: Dict[str, Any]) -> Sequence[bytes]:
    """Answer as a worker does."""
    answers = {'configure': ({'resp': 'configure_done'},), 'build_prepare': PREPARED,
               'build_done': ({'resp': 'build_done', 'exceptions': 0},),
               'quit': ({'resp': 'quit_ack'},)}
    if msg['cmd'] == 'build_board':
        return wire(built(msg['board'], 0), built(msg['board'], 1))
    return wire(*answers.get(msg['cmd'], ()))


class BossCase(unittest.TestCase):
    """A test whose ssh, git push and processes are stand-ins."""

    def setUp(self) -> None:
        self.ssh = self.replace(mock.patch.object(
            boss, '_run_ssh', return_value='/home/u/dev/.bm-worker\n'))
        self.pipe = self.replace(mock.patch.object(
            command, 'run_pipe', return_value=command.CommandResult()))
        self.procs: List[FakeProc] = []
        self.popen = self.replace(mock.patch('subprocess.Popen', side_effect=self.make_proc))

    def replace(self, patch: Any) -> Any:
        """Put a stand-in in place until the end of the test."""
        self.addCleanup(patch.stop)
        return patch.start()

    def make_proc(self, argv: List[str], **_: Any) -> FakeProc:
        """Be Popen: hand out the next process."""
        proc = self.procs.pop(0)
        proc.argv = argv
        return proc

    def started(self, *messages: Dict[str, Any], **kwargs: Any) -> Tuple[Any, FakeProc]:
        """Return a worker that was started, and its process."""
        proc = FakeProc(wire(READY, *messages), **kwargs)
        self.procs.append(proc)
        wrk = boss.RemoteWorker('host1')
        wrk.init_git()
        wrk.start()
        self.addCleanup(wrk.close)
        return wrk, proc


class RemoteWorkerTest(BossCase):
    """One worker."""

    def test_names(self) -> None:
        """Callers find the constants and classes."""
        self.assertEqual((300, 60), (boss.BUILD_TIMEOUT, boss.STATUS_INTERVAL))
        text = ' '.join(boss.SSH_OPTS)
        self.assertIn('BatchMode=yes', text)
        self.assertIn('StrictHostKeyChecking=accept-new', text)
        self.assertTrue(issubclass(boss.WorkerBusy, boss.BossError))
        self.assertEqual('BM> ', worker.RESPONSE_PREFIX)
        with self.assertRaises(AttributeError):
            boss.nonsense  # noqa: B018

    def test_new(self) -> None:
        """Attributes have their values before anything is done."""
        wrk = boss.RemoteWorker('user@host1', timeout=3, name='fast')
        self.assertEqual(('user@host1', 'fast', 1, {}, False), (
            wrk.hostname, wrk.name, wrk.slots, wrk.toolchains, wrk.closing))
        self.assertEqual((0, 0, 0.0), (wrk.bytes_sent, wrk.bytes_recv, wrk.bogomips))
        self.assertFalse(wrk.git_dir or wrk.work_dir)
        self.assertEqual('host2', boss.RemoteWorker('host2').name)

    def test_repr(self) -> None:
        """It says which host, how many threads, and whether it runs."""
        wrk = boss.RemoteWorker('host1')
        self.assertRegex(repr(wrk), 'host1.*nthreads=0.*stopped')
        wrk, _ = self.started()
        self.assertRegex(repr(wrk), 'host1.*nthreads=8.*running')

    def test_init_git(self) -> None:
        """The last line of the answer is the work folder."""
        self.ssh.return_value = 'Welcome!\n/home/u/x/.bm-worker\n'
        wrk = boss.RemoteWorker('host1')
        wrk.init_git('~/x/.bm-worker')
        self.assertEqual('/home/u/x/.bm-worker', wrk.work_dir)
        self.assertEqual('/home/u/x/.bm-worker/.git', wrk.git_dir)
        self.assertEqual('host1', self.ssh.call_args[0][0])
        self.assertIn('~/x/.bm-worker', self.ssh.call_args[0][1])

    def test_init_git_fails(self) -> None:
        """Each way to fail has its words."""
        wrk = boss.RemoteWorker('host1')
        for answer in ('', '\n \n'):
            self.ssh.return_value = answer
            with self.assertRaisesRegex(boss.BossError, 'host1 returned no work directory'):
                wrk.init_git()
        self.ssh.return_value = 'hello\nBUSY\n'
        with self.assertRaisesRegex(boss.WorkerBusy, 'host1.* busy'):
            wrk.init_git()
        self.ssh.side_effect = boss.BossError('SSH command failed on host1: no route')
        with self.assertRaisesRegex(boss.BossError, 'no route'):
            wrk.init_git()
        self.assertEqual('', wrk.work_dir)

    def test_push(self) -> None:
        """git push goes through run_pipe, with these words."""
        wrk = boss.RemoteWorker('host1')
        with self.assertRaisesRegex(boss.BossError, 'call init_git first'):
            wrk.push_source('/src/.git', 'HEAD:refs/heads/work')
        wrk.init_git()
        wrk.push_source('/src/.git', 'HEAD:refs/heads/work')
        argv = self.pipe.call_args[0][0][0]
        for word in ('git', 'push', 'host1:/home/u/dev/.bm-worker/.git', 'HEAD:refs/heads/work'):
            self.assertIn(word, argv)
        self.assertEqual('/src/.git', self.pipe.call_args[1]['cwd'])

    def test_push_fails(self) -> None:
        """The message names the host and what git said last."""
        wrk = boss.RemoteWorker('host1')
        wrk.init_git()
        for result in (command.CommandResult(stderr='x\nfatal: no space\n', return_code=128),
                       None, mock.Mock()):
            self.pipe.side_effect = command.CommandExc('it failed', result)
            with self.assertRaisesRegex(boss.BossError, 'git push to host1 failed: (fatal|it)'):
                wrk.push_source('/src/.git', 'HEAD:refs/heads/work')

    def test_start(self) -> None:
        """One process, with ssh and the host as words and --worker in the last one."""
        wrk, proc = self.started()
        self.assertEqual(1, self.popen.call_count)
        self.assertIn('ssh', proc.argv)
        self.assertIn('host1', proc.argv)
        self.assertIn('--worker', proc.argv[-1])
        self.assertEqual((8, 4, 8), (wrk.nthreads, wrk.slots, wrk.max_boards))
        self.assertEqual([], proc.written)

    def test_start_needs_only_work_dir(self) -> None:
        """A caller may have made the folder by itself."""
        self.procs.append(FakeProc(wire({'resp': 'ready', 'nthreads': 2})))
        wrk = boss.RemoteWorker('host1')
        wrk.work_dir = '/tmp/bm'
        wrk.max_boards = 1
        wrk.start()
        self.addCleanup(wrk.close)
        self.assertEqual((2, 1, 1), (wrk.nthreads, wrk.slots, wrk.max_boards))
        self.ssh.assert_not_called()

    def test_start_skips_banners(self) -> None:
        """Whatever a login shell prints is no message."""
        self.procs.append(FakeProc([b'Welcome\n'] * 600 + [b'no newline ' + wire(READY)[0]]))
        wrk = boss.RemoteWorker('host1')
        wrk.work_dir = '/tmp/bm'
        with terminal.capture() as (_, err):
            wrk.start()
        self.assertEqual('', err.getvalue())
        wrk.close()

    def test_start_debug_shows_noise(self) -> None:
        """With debug what is no message is shown, with the machine's name."""
        self.procs.append(FakeProc([b'Welcome\n', *wire(READY)]))
        wrk = boss.RemoteWorker('host1', name='fast')
        wrk.work_dir = '/tmp/bm'
        with terminal.capture() as (_, err):
            wrk.start(debug=True)
            wrk.close()
        self.assertIn('[fast] Welcome', err.getvalue())

    def test_start_fails(self) -> None:
        """Each way to fail has its words."""
        wrk = boss.RemoteWorker('host1')
        with self.assertRaisesRegex(boss.BossError, 'call init_git'):
            wrk.start()
        wrk.work_dir = '/tmp/bm'
        self.popen.side_effect = OSError('no such file')
        with self.assertRaisesRegex(boss.BossError, 'Failed to start SSH.*host1.*no such file'):
            wrk.start()
        self.popen.side_effect = self.make_proc
        for lines in (wire({'resp': 'error', 'msg': 'oops'}), wire({'resp': 'new-kind'}),
                      [b'BM> garbage\n'], [b'BM> []\n']):
            self.procs.append(FakeProc(lines))
            with self.assertRaisesRegex(boss.BossError, 'did not send ready'):
                wrk.start()
            self.assertIsNone(wrk._proc)

    def test_start_closed(self) -> None:
        """The last line on stderr says why."""
        for stderr in (io.BytesIO(b'hello\nssh: refused\n'),
                       types.SimpleNamespace(read=lambda: b'hello\nssh: refused\n'),
                       mock.Mock(read=mock.Mock(return_value=b'ssh: refused\n'))):
            self.procs.append(FakeProc([b''], stderr=stderr))
            wrk = boss.RemoteWorker('host1')
            wrk.work_dir = '/tmp/bm'
            with terminal.capture(), self.assertRaisesRegex(
                    boss.BossError, 'closed connection.*ssh: refused'):
                wrk.start()
            self.assertIsNone(wrk._proc)
            self.assertFalse(wrk.closing, 'nobody has asked for this end')
        for nothing in (None, io.BytesIO(b''), mock.MagicMock()):
            self.procs.append(FakeProc([b'banner\n', b''], stderr=nothing))
            with self.assertRaisesRegex(boss.BossError, 'closed connection'):
                wrk.start()

    def test_start_silent(self) -> None:
        """A worker that never becomes ready is not waited for for ever."""
        self.procs.append(FakeProc())
        wrk = boss.RemoteWorker('host1', timeout=0.05)
        wrk.work_dir = '/tmp/bm'
        with mock.patch.object(boss, 'BUILD_TIMEOUT', 0.1), self.assertRaisesRegex(
                boss.BossError, 'did not send ready'):
            wrk.start()

    def test_magic_mock(self) -> None:
        """A stand-in that has every attribute, and the same line for ever."""
        proc = mock.MagicMock()
        proc.stdout.readline.return_value = wire(READY)[0]
        self.popen.side_effect = [proc]
        wrk = boss.RemoteWorker('host1')
        wrk.work_dir = '/tmp/bm'
        wrk.start()
        self.assertEqual(1, proc.stdout.readline.call_count, 'only what is asked for is read')
        self.assertEqual(len(wire(READY)[0]), wrk.bytes_recv)
        proc.stdout.readline.return_value = wire({'resp': 'heartbeat', 'thread': 1})[0]
        self.assertEqual('heartbeat', wrk.recv()['resp'])
        proc.stdout.readline.side_effect = wire({'resp': 'configure_done'}, {'resp': 'quit_ack'})
        self.assertEqual('configure_done', wrk.configure({'no_lto': True})['resp'])
        sent = proc.stdin.write.call_args[0][0]
        self.assertEqual('configure', json.loads(sent)['cmd'])
        self.assertEqual(len(sent), wrk.bytes_sent)
        self.assertEqual({'resp': 'quit_ack'}, wrk.quit())

    def test_protocol(self) -> None:
        """One method a command; an older worker gets the fields of the table alone."""
        wrk, proc = self.started(answer=polite)
        wrk.toolchains = {'arm': '/tc/arm-gcc'}
        wrk.configure({'no_lto': True})
        wrk.build_prepare(COMMITS)
        for msg in PREPARED:
            self.assertEqual(msg, wrk.recv())
        wrk.build_board('anvil', 'arm')
        self.assertEqual(built('anvil'), wrk.recv())
        wrk.build_done()
        wrk.build_boards([types.SimpleNamespace(target='x', arch='arm')], COMMITS)
        self.assertEqual([
            {'cmd': 'configure', 'settings': {'no_lto': True},
             'toolchains': {'arm': '/tc/arm-gcc'}},
            {'cmd': 'build_prepare', 'commits': list(HASHES), 'max_boards': 8},
            {'cmd': 'build_board', 'board': 'anvil', 'arch': 'arm'},
            {'cmd': 'build_done'},
            {'cmd': 'build_boards', 'boards': [{'board': 'x', 'arch': 'arm'}],
             'commits': list(HASHES)}], proc.written)
        self.assertGreater(wrk.bytes_sent, 100)

    def test_current_source(self) -> None:
        """Without commits the source as it was pushed is built."""
        wrk, proc = self.started()
        wrk.build_prepare(None)
        self.assertEqual([None], proc.written[0]['commits'])

    def test_recv_unknown(self) -> None:
        """A kind that we don't know is handed on; what is malformed is an error."""
        wrk, proc = self.started({'resp': 'news', 'what': 'x'}, {'resp': 'build_result'})
        self.assertEqual({'resp': 'news', 'what': 'x'}, wrk.recv())
        self.assertEqual('error', wrk.recv()['resp'])
        proc.lines.put(b'')
        for _ in range(2):
            with self.assertRaisesRegex(boss.BossError, 'closed connection'):
                wrk.recv()

    def test_recv_timeout(self) -> None:
        """BUILD_TIMEOUT is looked up when it is needed."""
        wrk, _ = self.started()
        with mock.patch.object(boss, 'BUILD_TIMEOUT', 0.05), self.assertRaisesRegex(
                boss.BossError, 'host1: nothing heard'):
            wrk.recv()

    def test_not_running(self) -> None:
        """A command to a worker that does not run is an error, no crash."""
        wrk = boss.RemoteWorker('host1')
        for act in (wrk.build_done, lambda: wrk.configure({}), lambda: wrk.build_prepare([]),
                    lambda: wrk.build_board('a', 'b'), wrk.quit):
            with self.assertRaisesRegex(boss.BossError, 'not running'):
                act()

    def test_broken_pipe(self) -> None:
        """The same when its process has gone."""
        wrk, proc = self.started()
        proc.stdin.write = mock.Mock(side_effect=BrokenPipeError('gone'))
        with self.assertRaisesRegex(boss.BossError, 'host1.*gone'):
            wrk.build_done()

    def test_quit(self) -> None:
        """It returns the answer, closes, and frees the lock with one command."""
        wrk, _ = self.started({'resp': 'heartbeat'}, built('late'), {'resp': 'quit_ack'})
        self.ssh.reset_mock()
        self.assertEqual({'resp': 'quit_ack'}, wrk.quit())
        self.assertTrue(wrk.closing)
        self.assertIsNone(wrk._proc)
        self.assertEqual(1, self.ssh.call_count)
        self.assertIn('rm -f', self.ssh.call_args[0][1])

    def test_quit_fails(self) -> None:
        """Without an answer it is closed all the same, and the lock freed."""
        wrk, proc = self.started()
        proc.lines.put(b'')
        self.ssh.side_effect = boss.BossError('SSH command failed')
        with self.assertRaises(boss.BossError):
            wrk.quit()
        self.assertIsNone(wrk._proc)

    def test_quit_without_answer(self) -> None:
        """A worker that hangs does not hold us up."""
        wrk, _ = self.started()
        with mock.patch.object(boss, 'QUIT_TIME', 0.05), self.assertRaisesRegex(
                boss.BossError, 'nothing heard'):
            wrk.quit()

    def test_remove_lock(self) -> None:
        """One command with rm -f."""
        wrk = boss.RemoteWorker('host1')
        wrk.init_git()
        self.ssh.reset_mock()
        wrk.remove_lock()
        self.ssh.assert_called_once()
        self.assertEqual('host1', self.ssh.call_args[0][0])
        self.assertIn('rm -f /home/u/dev/.bm-worker/.lock', self.ssh.call_args[0][1])

    def test_close(self) -> None:
        """Ask, terminate, kill; again does nothing; byte counts stay."""
        for stubborn, calls in ((0, ['wait']), (1, ['wait', 'terminate', 'wait']),
                                (9, ['wait', 'terminate', 'wait', 'kill', 'wait'])):
            wrk, proc = self.started()
            proc.stubborn = stubborn
            wrk.close()
            wrk.close()
            self.assertEqual(calls, proc.calls)
            self.assertIsNone(wrk._proc)
            self.assertEqual(len(wire(READY)[0]), wrk.bytes_recv)

    def test_close_while_reading(self) -> None:
        """Somebody else waits in recv(), which then ends with an error."""
        wrk, _ = self.started()
        said: List[str] = []

        def read() -> None:
            try:
                wrk.recv()
            except boss.BossError as exc:
                said.append(str(exc))

        thread = threading.Thread(target=read)
        thread.start()
        wrk.close()
        thread.join(10)
        self.assertEqual(1, len(said))

    def test_stderr(self) -> None:
        """What a worker writes to stderr is passed on with its name, harmlessly."""
        with terminal.capture() as (_, err):
            wrk, proc = self.started(stderr=io.BytesIO(b'oh \x1b[31mno\n'))
            proc.lines.put(b'')
            with self.assertRaisesRegex(boss.BossError, 'closed connection: oh no'):
                wrk.recv()
        self.assertEqual('[host1] oh no\n', err.getvalue())

    def test_versions(self) -> None:
        """A worker of ours tells a version and gets what older ones don't know."""
        proc = FakeProc(wire({**READY, 'version': 1, 'heartbeat_interval': 10.0}), answer=polite)
        self.procs.append(proc)
        wrk = boss.RemoteWorker('host1')
        wrk.work_dir = '/tmp/bm'
        wrk.start()
        self.addCleanup(wrk.close)
        wrk.configure({}, {'env': {'BL31': 'x'}})
        self.assertEqual({'BL31': 'x'}, proc.written[0]['plan']['env'])

    def test_divert(self) -> None:
        """Messages go to a function as they come, those that wait first, and the end."""
        wrk, proc = self.started({'resp': 'heartbeat'})
        got: 'queue.Queue[Any]' = queue.Queue()
        wrk.divert(got.put)
        proc.lines.put(wire({'resp': 'configure_done'})[0])
        proc.lines.put(b'')
        self.assertIsInstance(got.get(timeout=10), messages.Heartbeat)
        self.assertIsInstance(got.get(timeout=10), messages.ConfigureDone)
        self.assertIsNone(got.get(timeout=10))

    def test_bad_host(self) -> None:
        """A name that ssh takes for an option is refused at the door."""
        for name in ('-oProxyCommand=touch /tmp/x', 'a b', '$(id)', ''):
            with self.assertRaises(BuildmanError):
                boss.RemoteWorker(name)


class RunSshTest(unittest.TestCase):
    """One-shot commands."""

    def test_fails(self) -> None:
        """The host is named, and the reason."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'ssh')
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write('#!/bin/sh\necho "Host key verification failed." >&2\nexit 255\n')
            os.chmod(path, 0o755)
            with mock.patch.dict(os.environ, {'PATH': f'{folder}:{os.environ["PATH"]}'}):
                with self.assertRaisesRegex(boss.BossError,
                                            'SSH command failed on host1: .*host key'):
                    boss._run_ssh('host1', 'true', 10)
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write('#!/bin/sh\necho hello\n')
                self.assertEqual('hello\n', boss._run_ssh('host1', 'true', 10))


class HostsTest(BossCase):
    """What is done to all machines."""

    def test_kill_workers(self) -> None:
        """One command and one line a host; one that fails does not stop the others."""
        def answer(hostname: str, *_: Any) -> str:
            if hostname == 'bad':
                raise boss.BossError('SSH command failed on bad: no route')
            return 'banner\nkilled 123\n'

        self.ssh.side_effect = answer
        with terminal.capture() as (out, _):
            self.assertEqual(0, boss.kill_workers(['one', 'bad', 'two']))
        lines = out.getvalue().splitlines()
        self.assertEqual(3, self.ssh.call_count)
        self.assertEqual(['one: killed 123', 'two: killed 123'], [lines[0], lines[2]])
        self.assertRegex(lines[1], 'bad: .*no route')
        with terminal.capture():
            self.assertEqual(0, boss.kill_workers(['one']))
            self.assertEqual(0, boss.kill_workers([]))

    def test_clean_workers(self) -> None:
        """A machine that is in use is left alone, and that is no success."""
        self.ssh.side_effect = ['removed /x (1 MiB)\n', 'BUSY\n']
        with terminal.capture() as (out, _):
            self.assertEqual(0, boss.clean_workers(['one']))
            self.assertEqual(1, boss.clean_workers(['two']))
        self.assertEqual('one: removed /x (1 MiB)\ntwo: in use\n', out.getvalue())

    def test_split_boards(self) -> None:
        """Boards whose arch has a remote toolchain are remote."""
        boards = {name: types.SimpleNamespace(target=name, arch=arch)
                  for name, arch in (('a', 'arm'), ('b', 'sandbox'), ('c', 'riscv'))}
        local, remote = boss.split_boards(boards, {'arm': '/gcc', 'riscv': '/gcc'})
        self.assertEqual((['b'], ['a', 'c']), (list(local), list(remote)))
        self.assertEqual((boards, {}), boss.split_boards(boards, None))
        self.assertEqual((boards, {}), boss.split_boards(boards, {}))
        self.assertEqual(({}, {}), boss.split_boards(None, {'arm': 'x'}))
        self.assertEqual(({}, {}), boss.split_boards({}, None))


class StartAllTest(BossCase):
    """Starting several workers."""

    def machines(self, *names: str) -> List[machine.Machine]:
        """Return machines with what a probe has found."""
        found = [machine.Machine(name, name=name.upper()) for name in names]
        for mach in found:
            mach.toolchains = {'arm': '/tc/arm-gcc'}
        return found

    def start(self, pool: Any, **kwargs: Any) -> str:
        """Start all and return what was printed."""
        with terminal.capture() as (out, err):
            pool.start_all('/src/.git', 'HEAD:refs/heads/work', **kwargs)
        self.addCleanup(pool.close_all)
        return str(out.getvalue() + err.getvalue())

    def test_all(self) -> None:
        """Each machine has a worker that knows what the machine knows."""
        pool = boss.WorkerPool(self.machines('one', 'two'))
        self.assertEqual([], pool.workers)
        pool.machines[0].max_boards = 3
        self.procs = [FakeProc(wire(READY), answer=polite) for _ in range(2)]
        procs = list(self.procs)
        self.assertEqual('', self.start(pool))
        self.assertEqual(['ONE', 'TWO'], [wrk.name for wrk in pool.workers])
        self.assertEqual(['one', 'two'], [wrk.hostname for wrk in pool.workers])
        self.assertEqual([3, 8], [wrk.max_boards for wrk in pool.workers])
        self.assertEqual({'arm': '/tc/arm-gcc'}, pool.workers[0].toolchains)
        self.assertEqual([[], []], [proc.written for proc in procs],
                         'without settings nothing is configured')
        self.assertEqual((2, 2, 2), (self.ssh.call_count, self.pipe.call_count,
                                     self.popen.call_count))

    def test_settings(self) -> None:
        """Settings go to all of them."""
        pool = boss.WorkerPool(self.machines('one', 'two'))
        self.procs = procs = [FakeProc(wire(READY), answer=polite) for _ in range(2)]
        procs = list(procs)
        self.start(pool, settings={'no_lto': True}, debug=True)
        for proc in procs:
            self.assertEqual([{'cmd': 'configure', 'settings': {'no_lto': True},
                               'toolchains': {'arm': '/tc/arm-gcc'}}], proc.written)

    def test_failures(self) -> None:
        """A machine that fails in any phase is left out, and a line says why."""
        def ssh(hostname: str, *_: Any) -> str:
            return {'busy': 'BUSY\n', 'empty': ''}.get(hostname, '/w\n')

        def pipe(argvs: List[List[str]], **_: Any) -> command.CommandResult:
            if any('nopush:' in word for word in argvs[0]):
                raise command.CommandExc('failed', command.CommandResult(stderr='fatal: x\n'))
            return command.CommandResult()

        def popen(argv: List[str], **_: Any) -> FakeProc:
            if 'nostart' in argv:
                return FakeProc([b''])
            if 'noconf' in argv:
                return FakeProc(wire(READY, {'resp': 'error', 'msg': 'bad settings'}))
            return FakeProc(wire(READY), answer=polite)

        self.ssh.side_effect, self.pipe.side_effect, self.popen.side_effect = ssh, pipe, popen
        pool = boss.WorkerPool(self.machines('busy', 'empty', 'nopush', 'good', 'nostart',
                                             'noconf'))
        text = self.start(pool, settings={})
        self.assertEqual(['GOOD'], [wrk.name for wrk in pool.workers])
        for words in ('BUSY.* busy', 'EMPTY.*no work directory', 'NOPUSH.*git push to nopush fai',
                      'NOSTART.*closed connection', 'NOCONF.*bad settings'):
            self.assertRegex(text, words)
        self.assertEqual(5, len(text.splitlines()))
        freed = sorted(call[0][0] for call in self.ssh.call_args_list if 'rm -f' in call[0][1])
        self.assertEqual(['noconf', 'nopush', 'nostart'], freed)

    def test_parallel(self) -> None:
        """All phases of all machines run at the same time: none waits for another."""
        meeting = threading.Barrier(3, timeout=20)

        def ssh(*_: Any) -> str:
            meeting.wait()
            return '/w\n'

        def pipe(*_: Any, **__: Any) -> command.CommandResult:
            meeting.wait()
            return command.CommandResult()

        def popen(*_: Any, **__: Any) -> FakeProc:
            meeting.wait()
            return FakeProc(wire(READY), answer=polite)

        self.ssh.side_effect, self.pipe.side_effect, self.popen.side_effect = ssh, pipe, popen
        pool = boss.WorkerPool(self.machines('one', 'two', 'three'))
        self.assertEqual('', self.start(pool))
        self.assertEqual(3, len(pool.workers))
        self.ssh.side_effect = None

    def test_no_machines(self) -> None:
        """Nothing to do is no error."""
        pool = boss.WorkerPool([])
        self.assertEqual('', self.start(pool))
        pool.quit_all()
        pool.print_transfer_summary()

    def test_plain_machines(self) -> None:
        """Machines that know only what they are called."""
        self.procs = [FakeProc(wire(READY), answer=polite) for _ in range(2)]
        mach = mock.MagicMock(hostname='one')
        pool = boss.WorkerPool([mach, types.SimpleNamespace(hostname='two')])
        self.start(pool)
        self.assertEqual(['one', 'two'], [wrk.name for wrk in pool.workers])

    def test_whole_life(self) -> None:
        """Start, build, summary and quit through the wire of an older worker."""
        pool = boss.WorkerPool(self.machines('one'))
        self.procs = [FakeProc(wire(READY), answer=polite)]
        self.start(pool, settings={})
        with tempfile.TemporaryDirectory() as folder:
            builder = FakeBuilder(folder)
            pool.build_boards(boards(a='arm', s='sandbox'), COMMITS, builder)
            self.assertEqual([('a', 0), ('a', 1), ('s', 0), ('s', 1)], builder.keys())
            pool.build_boards(boards(a='arm', s='sandbox', b='arm'), COMMITS, builder)
            self.assertEqual([('b', 0), ('b', 1)], builder.keys()[2:4])
        with terminal.capture() as (_, err):
            pool.print_transfer_summary()
        self.assertRegex(err.getvalue(), r'ONE:[0-9.]+K?B/[0-9.]+K?B total:')
        pool.quit_all()
        self.assertEqual([], pool.workers)
        self.assertIn('rm -f', self.ssh.call_args[0][1])
        with terminal.capture() as (_, err):
            pool.print_transfer_summary()
        self.assertIn('ONE:', err.getvalue())


def boards(**archs: str) -> Dict[str, Any]:
    """Return boards by their names, with nothing but target and arch."""
    return {name: types.SimpleNamespace(target=name, arch=arch) for name, arch in archs.items()}


def put(wrk: 'FakeWorker', *items: Any) -> None:
    """Have a worker say something."""
    for item in items:
        wrk.queue.put(item)


class FakeBuilder:
    """What build_boards() asks of a builder, and no more."""

    def __init__(self, base_dir: str, force_build: bool = False) -> None:
        self.base_dir = base_dir
        self.force_build = force_build
        self.count = 0
        self.results: List[Any] = []
        self.asked: List[Tuple[int, str]] = []

    def get_build_dir(self, commit_upto: int, target: str) -> str:
        """Return the folder of a result."""
        return os.path.join(self.base_dir, f'{commit_upto + 1:02}_g1234', target)

    def get_done_file(self, commit_upto: int, target: str) -> str:
        """Return the file that tells of a result."""
        self.asked.append((commit_upto, target))
        return os.path.join(self.get_build_dir(commit_upto, target), 'done')

    def process_result(self, result: Any) -> None:
        """Take a result; its files are there by now."""
        done = os.path.join(self.get_build_dir(result.commit_upto, result.brd.target), 'done')
        assert os.path.exists(done)
        self.results.append(result)

    def keys(self) -> List[Tuple[str, int]]:
        """Return which results came, sorted."""
        return sorted((res.brd.target, res.commit_upto) for res in self.results)


class FakeWorker:
    """A worker with nothing but the names that build_boards() relies on.

    `say` is called with each command; what it returns is what recv() gives. An
    exception among that is raised.
    """

    def __init__(self, name: str, archs: Sequence[str] = ('arm',), max_boards: int = 2,
                 say: Optional[Callable[..., Sequence[Any]]] = None,
                 at_once: Sequence[Any] = ()) -> None:
        self.name = name
        self.toolchains = {arch: f'/tc/{arch}-gcc' for arch in archs}
        self.nthreads = 4
        self.max_boards = max_boards
        self.closing = False
        self.calls: List[Tuple[Any, ...]] = []
        self.raised = 0
        self.queue: 'queue.Queue[Any]' = queue.Queue()
        for item in at_once:
            self.queue.put(item)
        self.say = say or self.good

    @staticmethod
    def good(*call: Any) -> Sequence[Any]:
        """Answer as a worker that builds everything."""
        if call[0] == 'build_prepare':
            return PREPARED
        if call[0] == 'build_board':
            return [built(call[1], upto) for upto in range(len(COMMITS))]
        return [{'resp': 'build_done', 'exceptions': 0}]

    def _do(self, *call: Any) -> None:
        self.calls.append(call)
        for item in self.say(*call):
            self.queue.put(item)

    def build_prepare(self, commits: Any) -> None:
        """Note the command and queue answers."""
        self._do('build_prepare', commits)

    def build_board(self, board: str, arch: str) -> None:
        """Note the command and queue answers."""
        self._do('build_board', board, arch)

    def build_done(self) -> None:
        """Note the command and queue answers."""
        self._do('build_done')

    def recv(self) -> Dict[str, Any]:
        """Return the next answer; blocks for ever when there is none."""
        if self.raised:
            raise AssertionError('recv() is called again after it has raised')
        item = self.queue.get()
        if isinstance(item, BaseException):
            self.raised += 1
            raise item
        assert isinstance(item, dict)
        return item

    def given(self) -> List[str]:
        """Return the boards that it was given."""
        return [call[1] for call in self.calls if call[0] == 'build_board']


class BuildBoardsTest(unittest.TestCase):
    """Building on several workers."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(prefix='boss-test-')
        self.addCleanup(shutil.rmtree, self.folder)
        self.builder = FakeBuilder(os.path.join(self.folder, 'out'))
        self.err = ''

    def build(self, workers: Sequence[Any], selected: Dict[str, Any],
              commits: Optional[Sequence[Any]] = COMMITS) -> List[Tuple[str, int]]:
        """Build and return which results came."""
        pool = boss.WorkerPool([])
        pool.workers = list(workers)
        with terminal.capture() as (_, err):
            pool.build_boards(selected, commits, self.builder)
        self.err = err.getvalue()
        return self.builder.keys()

    def read(self, *path: str) -> str:
        """Return a file's content."""
        with open(os.path.join(self.builder.base_dir, *path), encoding='utf-8') as inf:
            return inf.read()

    @staticmethod
    def both(*targets: str) -> List[Tuple[str, int]]:
        """Return the results of boards at both commits."""
        return [(target, upto) for target in sorted(targets) for upto in (0, 1)]

    def test_simple(self) -> None:
        """All boards are built, each told once; commands in order."""
        wrk = FakeWorker('w')
        self.assertEqual(self.both('a', 'b', 'c'),
                         self.build([wrk], boards(a='arm', b='arm', c='arm')))
        self.assertEqual(('build_prepare', COMMITS), wrk.calls[0])
        self.assertEqual(['a', 'b', 'c'], wrk.given())
        self.assertEqual(('build_done',), wrk.calls[-1])
        self.assertEqual(5, len(wrk.calls))
        self.assertEqual('', self.err)

    def test_result(self) -> None:
        """The builder gets what it needs to know of a result, and the files are there."""
        text = 'a.c:1: error: \x1b[31mx\n'

        def say(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board':
                return [built('a', 0, 2, stderr=text, stdout='CC a.o\n',
                              sizes={'raw': ' 1\t2\tu-boot 00000003'}), built('a', 1)]
            return FakeWorker.good(*call)

        selected = boards(a='arm')
        self.build([FakeWorker('fast', say=say)], selected)
        result = self.builder.results[0]
        self.assertIs(selected['a'], result.brd)
        self.assertEqual((0, 2, 'a.c:1: error: x\n', 'fast'), (
            result.commit_upto, result.return_code, result.stderr, result.remote))
        self.assertEqual('2', self.read('01_g1234', 'a', 'done'))
        self.assertEqual('CC a.o\n', self.read('01_g1234', 'a', 'log'))
        self.assertEqual('a.c:1: error: x\n', self.read('01_g1234', 'a', 'err'))
        self.assertEqual(' 1\t2\tu-boot 00000003\n', self.read('01_g1234', 'a', 'sizes'))
        self.assertEqual({'done', 'log', 'host'},
                         set(os.listdir(self.builder.get_build_dir(1, 'a'))))

    def test_older_files_go(self) -> None:
        """What an earlier build left for a board must not be mixed with this one's."""
        self.builder.force_build = True
        folder = self.builder.get_build_dir(0, 'a')
        os.makedirs(folder)
        for name in ('done', 'err', 'sizes', 'u-boot.sizes', 'mine'):
            with open(os.path.join(folder, name), 'w', encoding='utf-8') as outf:
                outf.write('old')
        self.build([FakeWorker('w')], boards(a='arm'))
        self.assertEqual({'done', 'log', 'host', 'mine'}, set(os.listdir(folder)))

    def test_current_source(self) -> None:
        """Without commits there is one result a board."""
        def say(*call: Any) -> Sequence[Any]:
            return ([built(call[1])] if call[0] == 'build_board' else FakeWorker.good(*call))

        wrk = FakeWorker('w', say=say)
        self.assertEqual([('a', 0)], self.build([wrk], boards(a='arm'), None))
        self.assertEqual(('build_prepare', None), wrk.calls[0])

    def test_done_before(self) -> None:
        """What is there is not built again, unless it is asked for."""
        folder = self.builder.get_build_dir(0, 'a')
        os.makedirs(folder)
        with open(os.path.join(folder, 'done'), 'w', encoding='utf-8') as outf:
            outf.write('0')
        self.assertEqual([('a', 1), ('b', 0), ('b', 1)],
                         self.build([FakeWorker('w')], boards(a='arm', b='arm')))
        self.builder.results.clear()
        wrk = FakeWorker('w')
        self.assertEqual([], self.build([wrk], boards(a='arm', b='arm')))
        self.assertEqual([], wrk.calls, 'with nothing to do no worker is bothered')
        self.builder.force_build = True
        self.builder.asked.clear()
        self.assertEqual(self.both('a', 'b'), self.build([wrk], boards(a='arm', b='arm')))
        self.assertEqual([], self.builder.asked)

    def test_capacity(self) -> None:
        """First max_boards boards, then one more for each that is complete."""
        steps: List[str] = []
        wrk = FakeWorker('w', max_boards=2)

        def say(*call: Any) -> Sequence[Any]:
            steps.append(call[0] if len(call) < 3 else call[1])
            if call[0] == 'build_prepare':
                return PREPARED
            if call[0] == 'build_board' and len(wrk.given()) < 2:
                return []
            if call[0] == 'build_board' and len(wrk.given()) == 2:
                # The second one is complete, the first one is not
                return [built('a', 0), built('b', 0), built('b', 1)]
            if call[0] == 'build_board':
                return [built('a', 1), built(call[1], 0), built(call[1], 1)]
            return FakeWorker.good(*call)

        wrk.say = say
        self.build([wrk], boards(a='arm', b='arm', c='arm'))
        self.assertEqual(['build_prepare', 'a', 'b', 'c', 'build_done'], steps)
        self.assertIn('>> 2 boards', self.read('worker-w.log'))
        self.assertIn('>> 1 boards', self.read('worker-w.log'))

    def test_nthreads(self) -> None:
        """Without max_boards the number of threads counts."""
        wrk = FakeWorker('w', max_boards=0, say=lambda *call: (
            PREPARED if call[0] == 'build_prepare' else ()))
        threading.Timer(0.2, wrk.queue.put, [EOFError('gone')]).start()
        self.build([wrk], boards(**{f'b{pos}': 'arm' for pos in range(9)}))
        self.assertEqual(4, len(wrk.given()))

    def test_arch(self) -> None:
        """A board goes only where its toolchain is; sandbox goes anywhere."""
        arm, riscv = FakeWorker('a', ['arm']), FakeWorker('r', ['riscv'])
        none = FakeWorker('n', [], max_boards=50)
        selected = boards(a='arm', b='arm', r='riscv', **{f's{pos}': 'sandbox'
                                                         for pos in range(9)})
        self.assertEqual(self.both(*selected), self.build([arm, riscv, none], selected))
        self.assertLessEqual({'a', 'b'}, set(arm.given()))
        self.assertIn('r', riscv.given())
        self.assertFalse({'a', 'b', 'r'} & set(none.given()))
        self.assertTrue(none.given())

    def test_nobody_can(self) -> None:
        """A board that nobody can build is named, and the rest is built."""
        self.assertEqual(self.both('a'), self.build(
            [FakeWorker('w')], boards(a='arm', x='xtensa')))
        self.assertRegex(self.err, "'x' not built")
        self.assertIn("'x'", self.read('.buildman.log'))

    def test_no_workers(self) -> None:
        """Without workers nothing is built, and that is said."""
        self.assertEqual([], self.build([], boards(a='arm')))
        self.assertIn("'a' not built", self.err)
        self.assertEqual([], self.build([], {}))

    def test_one_worker_a_board(self) -> None:
        """A board stays on one worker for all its commits."""
        seen: Dict[str, List[str]] = {}
        workers = [FakeWorker(name, max_boards=1) for name in 'xyz']
        selected = boards(**{f'b{pos:02}': 'arm' for pos in range(40)})
        self.assertEqual(self.both(*selected), self.build(workers, selected))
        for result in self.builder.results:
            seen.setdefault(result.brd.target, []).append(result.remote)
        self.assertTrue(all(len(set(names)) == 1 for names in seen.values()))
        self.assertEqual(40, sum(len(wrk.given()) for wrk in workers))

    def test_results_at_once(self) -> None:
        """A stand-in may have all answers ready before it is asked anything."""
        wrk = FakeWorker('w', say=lambda *call: (), at_once=[
            *PREPARED, built('a'), built('a', 1), built('b'), built('b', 1),
            {'resp': 'build_done', 'exceptions': 0}])
        self.assertEqual(self.both('a', 'b'), self.build([wrk], boards(a='arm', b='arm')))

    def test_lost(self) -> None:
        """The boards of a lost worker go to another, what it had built is kept."""
        def dying(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board':
                return [built(call[1], 0), boss.BossError('dead closed connection')]
            return FakeWorker.good(*call)

        def late(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_prepare':
                threading.Timer(0.3, put, [alive, *PREPARED]).start()
                return ()
            return FakeWorker.good(*call)

        dead, alive = FakeWorker('dead', say=dying), FakeWorker('alive', say=late)
        self.assertEqual(self.both('a', 'b', 'c'),
                         self.build([dead, alive], boards(a='arm', b='arm', c='arm')))
        remotes = {(res.brd.target, res.commit_upto): res.remote for res in self.builder.results}
        self.assertEqual('dead', remotes['a', 0])
        self.assertEqual('alive', remotes['a', 1])
        self.assertRegex(self.err, r'\[dead\] lost: dead closed connection.*a')
        self.assertRegex(self.read('worker-dead.log'), '!! lost')
        self.assertEqual(1, dead.raised)

    def test_all_lost(self) -> None:
        """It returns, and says what was not built; whatever recv() raises."""
        for exc in (boss.BossError('x'), OSError('x'), EOFError(), StopIteration(), ValueError()):
            wrk = FakeWorker('w', at_once=[*PREPARED, exc], say=lambda *call: ())
            self.assertEqual([], self.build([wrk], boards(a='arm')))
            self.assertIn("'a' not built", self.err)

    def test_closing(self) -> None:
        """A worker that we end ourselves is no news; `closing` may be missing."""
        wrk = FakeWorker('w', at_once=[EOFError('x')], say=lambda *call: ())
        wrk.closing = True
        self.build([wrk], boards(a='arm'))
        self.assertNotIn('lost', self.err)
        wrk = FakeWorker('w')
        del wrk.closing
        self.assertEqual(self.both('a'), self.build([wrk], boards(a='arm')))

    def test_silent(self) -> None:
        """A worker that says nothing for BUILD_TIMEOUT is lost; recv() may hang for ever."""
        for first in ((), PREPARED):
            quiet = FakeWorker('quiet', say=lambda *call: (), at_once=first)
            good = FakeWorker('good')
            self.builder.results.clear()
            self.builder.force_build = True
            with mock.patch.object(boss, 'BUILD_TIMEOUT', 0.3):
                self.assertEqual(self.both('a', 'b', 'c', 'd'), self.build(
                    [quiet, good], boards(a='arm', b='arm', c='arm', d='arm')))

    def test_alive_without_result(self) -> None:
        """Heartbeats alone do not keep a worker for ever."""
        def recv() -> Dict[str, Any]:
            time.sleep(0.01)
            return {'resp': 'heartbeat'} if wrk.queue.empty() else wrk.queue.get()

        wrk = FakeWorker('w', say=lambda *call: PREPARED if call[0] == 'build_prepare' else ())
        wrk.recv = recv  # type: ignore[method-assign]
        with mock.patch.object(boss, 'BUILD_TIMEOUT', 0.1):
            self.assertEqual([], self.build([wrk], boards(a='arm')))
        self.assertIn('no result', self.err)

    def test_commands_fail(self) -> None:
        """A worker that cannot be told anything is lost, too."""
        for name in ('build_prepare', 'build_board'):
            bad, good = FakeWorker('bad'), FakeWorker('good')
            setattr(bad, name, mock.Mock(side_effect=BrokenPipeError('gone')))
            self.builder.results.clear()
            self.builder.force_build = True
            self.assertEqual(self.both('a'), self.build([bad, good], boards(a='arm')))
            self.assertEqual({'good'}, {res.remote for res in self.builder.results})

    def test_prepare_fails(self) -> None:
        """A worker without the commits answers with an error."""
        bad = FakeWorker('bad', say=lambda *call: [{'resp': 'error', 'msg': 'no such commit'}])
        self.assertEqual([], self.build([bad], boards(a='arm')))
        self.assertIn('[bad] lost: cannot prepare: no such commit', self.err)
        self.assertEqual(self.both('a'), self.build([bad, FakeWorker('good')], boards(a='arm')))

    def test_unwanted_results(self) -> None:
        """Results that are late, doubled, or of work not given out are dropped."""
        def say(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board':
                return [built('a', 0), built('a', 0, 2), built('a', 7), built('other'),
                        built('../x'), built('a', 1), built('a', 1, 2)]
            return FakeWorker.good(*call)

        self.assertEqual(self.both('a'), self.build([FakeWorker('w', say=say)], boards(a='arm')))
        self.assertEqual([0, 0], [res.return_code for res in self.builder.results])
        self.assertEqual(['a'], os.listdir(os.path.dirname(self.builder.get_build_dir(0, 'a'))))
        self.assertEqual(sorted(['out']), os.listdir(self.folder))

    def test_file_names(self) -> None:
        """A file that no result has is not written, wherever it would go."""
        def say(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board':
                return [built('a', 0, files={'toolchain': b'gcc', '../evil': b'x'}),
                        built('a', 0, files={'.bashrc': b'x', 'toolchain': b'gcc'}),
                        built('a', 1)]
            return FakeWorker.good(*call)

        self.build([FakeWorker('w', say=say)], boards(a='arm'))
        self.assertEqual('gcc', self.read('01_g1234', 'a', 'toolchain'))
        self.assertNotIn('.bashrc', os.listdir(self.builder.get_build_dir(0, 'a')))
        self.assertEqual(['out'], os.listdir(self.folder))

    def test_nonsense(self) -> None:
        """Unknown kinds, odd types and errors cost nothing but a line in the log."""
        def say(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board':
                return [{'resp': 'news'}, {}, {'resp': 7}, {'resp': 'build_result', 'board': 'zz'},
                        {'resp': 'error', 'msg': 'oops'}, {'resp': 'heartbeat', 'thread': 1},
                        built('a'), built('a', 1)]
            return FakeWorker.good(*call)

        self.assertEqual(self.both('a'), self.build([FakeWorker('w', say=say)], boards(a='arm')))
        self.assertIn('<< {"resp":"news"}', self.read('worker-w.log'))
        self.assertIn('[w] oops', self.err)

    def test_broken_result(self) -> None:
        """A result that cannot be read is built again, not forgotten."""
        tries: List[str] = []

        def say(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board':
                tries.append(call[1])
                if len(tries) == 1:
                    return [built('a', 0), {'resp': 'build_result', 'board': 'a',
                                            'commit_upto': 1}]
                return [built('a', 1)]
            return FakeWorker.good(*call)

        self.assertEqual(self.both('a'), self.build([FakeWorker('w', say=say)], boards(a='arm')))
        self.assertEqual(2, len(tries))

    def test_killer(self) -> None:
        """A board that kills every worker is given up, named, and the rest goes on."""
        def say(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board' and call[1] == 'k':
                return [EOFError('killed')]
            return FakeWorker.good(*call)

        workers = [FakeWorker(name, max_boards=1, say=say) for name in 'abcd']
        self.assertEqual(self.both('x', 'y'), self.build(
            workers, boards(k='arm', x='arm', y='arm')))
        self.assertRegex(self.err, "'k' not built .*given up")

    def test_logs(self) -> None:
        """Times, directions and JSON; a status line now and then."""
        def slow(*call: Any) -> Sequence[Any]:
            if call[0] == 'build_board':
                threading.Timer(0.5, put, [wrk, built(call[1], 0), built(call[1], 1)]).start()
                return [built('zz', stdout='x' * 10_000)]
            return FakeWorker.good(*call)

        wrk = FakeWorker('w', say=slow)
        with mock.patch.object(boss, 'STATUS_INTERVAL', 0.1), \
                mock.patch.object(boss, 'BUILD_TIMEOUT', 0.8):
            self.build([wrk], boards(a='arm'))
        lines = self.read('worker-w.log').splitlines()
        for line in lines:
            self.assertRegex(line, r'^\d\d:\d\d:\d\d (<<|>>|!!) ')
            if ' << ' in line:
                json.loads(line[12:])
        self.assertTrue(any(re.search(r'>> 1 boards', line) for line in lines))
        self.assertLess(max(map(len, lines)), 2000)
        log = self.read('.buildman.log').splitlines()
        status = [line for line in log if 'STATUS' in line]
        self.assertGreater(len(status), 2)
        self.assertIn('w:done=0/2', status[0])
        self.assertIn('w:done=2/2', status[-1])
        self.assertIn('TOTAL:done=2/2', status[-1])

    def test_odd_names(self) -> None:
        """Workers of the same name, or of one that is no file name."""
        workers = [FakeWorker('../x', max_boards=1), FakeWorker('../x', max_boards=1)]
        self.assertEqual(self.both('a', 'b', 'c'),
                         self.build(workers, boards(a='arm', b='arm', c='arm')))
        self.assertEqual(['out'], os.listdir(self.folder))

    def test_unwritable(self) -> None:
        """A result that cannot be written is an error that names it."""
        os.makedirs(self.builder.base_dir)
        with open(os.path.join(self.builder.base_dir, '01_g1234'), 'w', encoding='utf-8'):
            pass
        with self.assertRaisesRegex(BuildmanError, "cannot write the result of 'a'"):
            self.build([FakeWorker('w')], boards(a='arm'))

    def test_interrupt(self) -> None:
        """What the builder raises comes out."""
        self.builder.process_result = mock.Mock(  # type: ignore[method-assign]
            side_effect=KeyboardInterrupt)
        with self.assertRaises(KeyboardInterrupt):
            self.build([FakeWorker('w')], boards(a='arm'))


class EndTest(unittest.TestCase):
    """Ending several workers."""

    def pool(self, *workers: Any) -> Any:
        """Return a pool with these workers."""
        pool = boss.WorkerPool([])
        pool.workers = list(workers)
        return pool

    def test_quit_all(self) -> None:
        """All are asked; one that cannot answer is closed."""
        good, bad = mock.Mock(spec=['quit', 'close']), mock.Mock(spec=['quit', 'close'])
        bad.quit.side_effect = boss.BossError('gone')
        pool = self.pool(good, bad)
        pool.quit_all()
        good.quit.assert_called_once_with()
        good.close.assert_not_called()
        bad.close.assert_called_once_with()
        self.assertEqual([], pool.workers)

    def test_close_all(self) -> None:
        """Ctrl-C: first quit to all of them, then all are closed."""
        calls: List[str] = []
        workers = [mock.Mock(spec=['quit', 'close', 'closing']) for _ in range(3)]
        for wrk in workers:
            wrk.closing = False
            wrk.quit.side_effect = lambda: calls.append('quit')
            wrk.close.side_effect = lambda: calls.append('close')
        self.pool(*workers).close_all()
        self.assertEqual(['quit'] * 3 + ['close'] * 3, calls)
        self.assertTrue(all(wrk.closing for wrk in workers))

    def test_close_all_with_hanging_worker(self) -> None:
        """One that hangs in quit() does not hold up the end."""
        for_ever = threading.Event()
        self.addCleanup(for_ever.set)
        bad, good = mock.Mock(), mock.Mock()
        bad.quit.side_effect = lambda: for_ever.wait(60)
        with mock.patch('buildman.remote.pool.INTERRUPT_TIME', 0.1):
            self.pool(bad, good).close_all()
        bad.close.assert_called_once_with()
        good.close.assert_called_once_with()

    def test_summary(self) -> None:
        """Bytes sent and received a worker; those that lack names or counts do no harm."""
        pool = self.pool(types.SimpleNamespace(name='one', bytes_sent=100, bytes_recv=2048),
                         types.SimpleNamespace(), mock.Mock())
        with terminal.capture() as (_, err):
            pool.print_transfer_summary()
        self.assertIn('one:100B/2.0KB', err.getvalue())
        self.assertIn('total:100B/2.0KB', err.getvalue())


if __name__ == '__main__':
    unittest.main()
