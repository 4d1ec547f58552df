# SPDX-License-Identifier: GPL-2.0+
"""`boss` as its callers use and test it: with stand-ins of all makes, mocks among them.

Callers' tests replace what is around a worker, or the worker itself, by whatever has
the names that they rely on: attributes of an instance, a mock, a proxy. None of these
needs a class that has them.
"""

from __future__ import annotations

import io
import json
import os
import queue
import subprocess
import tempfile
import threading
import types
import unittest
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple
from unittest import mock

from buildman import boss, worker
from u_boot_pylib import command, terminal

COMMITS = [types.SimpleNamespace(hash='a' * 40), types.SimpleNamespace(hash='b' * 40)]
BOARD = types.SimpleNamespace(target='snow', arch='arm')
PREPARED = {'resp': 'build_prepare_done'}
WHOLE = [('snow', 0), ('snow', 1)]


def result(board: str, upto: int, code: int = 0) -> Dict[str, Any]:
    """Return a result as recv() gives it"""
    return {'resp': 'build_result', 'board': board, 'commit_upto': upto, 'return_code': code,
            'stdout': 'out\n', 'stderr': '', 'sizes': {}, 'load_avg': 0.5}


ANSWERS = [PREPARED, result('snow', 0), result('snow', 1), {'resp': 'build_done'}]


def lines(*messages: Dict[str, Any]) -> List[bytes]:
    """Return messages as a worker's lines"""
    return [worker.RESPONSE_PREFIX.encode() + json.dumps(msg).encode() + b'\n'
            for msg in messages]


class PoolCase(unittest.TestCase):
    """Builds one board at two commits with a worker that is none of ours"""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.builder = mock.Mock(spec_set=['force_build', 'base_dir', 'count', 'get_build_dir',
                                           'get_done_file', 'process_result'])
        self.builder.force_build = False
        self.builder.base_dir = self.dir
        self.builder.count = 2
        self.builder.get_build_dir.side_effect = (
            lambda upto, target: os.path.join(self.dir, str(upto), target))
        self.builder.get_done_file.side_effect = (
            lambda upto, target: os.path.join(self.dir, str(upto), target, 'done'))

    def build(self, *workers: Any, selected: Optional[Dict[str, Any]] = None
              ) -> List[Tuple[str, int]]:
        """Build and return which results were handed over"""
        pool = boss.WorkerPool([])
        pool.workers = list(workers)
        with terminal.capture() as (_, self.err):
            pool.build_boards({'snow': BOARD} if selected is None else selected, COMMITS,
                              self.builder)
        return [(call.args[0].brd.target, call.args[0].commit_upto)
                for call in self.builder.process_result.call_args_list]

    def check(self, wrk: Any) -> None:
        """Build with a worker; it must do all of it"""
        self.assertEqual(WHOLE, self.build(wrk), self.err.getvalue())


class TestWorkers(PoolCase):
    """Any object with the names is a worker"""

    def test_namespace(self) -> None:
        """Functions as attributes of an instance"""
        answers = iter(ANSWERS)
        told: List[Any] = []
        self.check(types.SimpleNamespace(
            name='box', toolchains={'arm': '/arm-gcc'}, nthreads=4, max_boards=4,
            build_prepare=lambda commits: told.append(('prepare', commits)),
            build_board=lambda board, arch: told.append((board, arch)),
            build_done=lambda: told.append('done'), recv=lambda: next(answers)))
        self.assertEqual([('prepare', COMMITS), ('snow', 'arm'), 'done'], told)

    def test_mock(self) -> None:
        """A mock that has nothing but answers"""
        for kind in (mock.Mock, mock.MagicMock):
            with self.subTest(kind=kind):
                self.builder.process_result.reset_mock()
                wrk = kind(toolchains={'arm': '/arm-gcc'}, nthreads=2, max_boards=2)
                wrk.name = 'box'
                wrk.recv.side_effect = list(ANSWERS)
                self.check(wrk)
                wrk.build_board.assert_called_once_with('snow', 'arm')
                wrk.build_prepare.assert_called_once_with(COMMITS)
                wrk.build_done.assert_called_once_with()
                for upto in range(2):
                    os.unlink(os.path.join(self.dir, str(upto), 'snow', 'done'))

    def test_spec(self) -> None:
        """A mock that says that it is a RemoteWorker"""
        for wrk in (mock.Mock(spec=boss.RemoteWorker), mock.MagicMock(spec=boss.RemoteWorker),
                    mock.create_autospec(boss.RemoteWorker, instance=True)):
            with self.subTest(wrk=wrk):
                self.builder.process_result.reset_mock()
                self.builder.force_build = True
                wrk.configure_mock(toolchains={'arm': '/arm-gcc'}, nthreads=2, max_boards=2)
                wrk.name = 'box'
                wrk.recv.side_effect = list(ANSWERS)
                self.check(wrk)

    def test_patched(self) -> None:
        """A RemoteWorker whose methods are replaced, in the class or in the instance"""
        names = ('build_prepare', 'build_board', 'build_done', 'recv', 'close')
        wrk = boss.RemoteWorker('box')
        wrk.toolchains = {'arm': '/arm-gcc'}
        with mock.patch.multiple(boss.RemoteWorker, **dict.fromkeys(names, mock.DEFAULT)) as made:
            made['recv'].side_effect = list(ANSWERS)
            self.check(wrk)
        self.builder.process_result.reset_mock()
        self.builder.force_build = True
        for name in names:
            setattr(wrk, name, mock.Mock())
        wrk.recv.side_effect = list(ANSWERS)  # type: ignore[attr-defined]
        self.check(wrk)

    def test_bare_instance(self) -> None:
        """A RemoteWorker that was never set up, with what the build needs"""
        wrk: Any = boss.RemoteWorker.__new__(boss.RemoteWorker)
        wrk.name, wrk.toolchains, wrk.nthreads, wrk.max_boards = 'box', {'arm': 'x'}, 2, 2
        wrk.build_prepare = wrk.build_board = wrk.build_done = wrk.close = mock.Mock()
        wrk.recv = mock.Mock(side_effect=list(ANSWERS))
        self.check(wrk)

    def test_proxy(self) -> None:
        """A proxy that passes everything on, and one with slots and properties"""
        class Proxy:
            """Has nothing of its own"""

            __slots__ = ('_target',)

            def __init__(self, target: Any) -> None:
                object.__setattr__(self, '_target', target)

            def __getattr__(self, name: str) -> Any:
                return getattr(object.__getattribute__(self, '_target'), name)

        target = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
        target.recv.side_effect = list(ANSWERS)
        self.check(Proxy(target))

    def test_subclass(self) -> None:
        """A RemoteWorker of the caller's own make"""
        class Mine(boss.RemoteWorker):
            """Answers by itself"""

            def __init__(self) -> None:
                super().__init__('box')
                self.toolchains = {'arm': 'x'}
                self.said = iter(ANSWERS)

            def build_prepare(self, commits: Any) -> None:
                """It is ready."""

            def build_board(self, board: str, arch: str) -> None:
                """It is quick."""

            def build_done(self) -> None:
                """It is not sad."""

            def recv(self) -> Dict[str, Any]:
                return next(self.said)

        self.check(Mine())

    def test_blocks(self) -> None:
        """One that says nothing any more holds up nobody else: not even the end"""
        never = threading.Event()
        self.addCleanup(never.set)
        said: 'queue.Queue[Any]' = queue.Queue()
        for msg in ANSWERS[:3]:
            said.put(msg)
        good = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1, recv=said.get)
        idle = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
        idle.recv.side_effect = [{'resp': 'heartbeat'}]
        idle.recv.side_effect = never.wait
        with mock.patch.object(boss, 'BUILD_TIMEOUT', 0.2):
            self.check_all(good, idle)

    def check_all(self, *workers: Any) -> None:
        """Build with workers; everything has to come out"""
        self.assertEqual(WHOLE, self.build(*workers), self.err.getvalue())

    def test_raises(self) -> None:
        """Whatever recv() raises, the worker is lost and is not asked again"""
        for error in (boss.BossError('gone'), EOFError(), Exception('odd'), TypeError('x'),
                      AttributeError('y'), AssertionError('z'), KeyError('resp')):
            with self.subTest(error=error):
                wrk = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
                wrk.name = 'box'
                wrk.recv.side_effect = [PREPARED, error, PREPARED]
                with mock.patch('threading.excepthook') as hook:
                    self.assertEqual([], self.build(wrk))
                    hook.assert_not_called()
                self.assertEqual(2, wrk.recv.call_count)
                self.assertIn('[box] lost: ', self.err.getvalue())
                self.assertIn("'snow' not built", self.err.getvalue())

    def test_command_fails(self) -> None:
        """A worker that cannot be told is lost, whatever it raises; others do its boards"""
        for name in ('build_prepare', 'build_board', 'build_done'):
            for error in (BrokenPipeError(), Exception('odd'), TypeError('x')):
                with self.subTest(name=name, error=error):
                    self.builder.force_build = True
                    self.builder.process_result.reset_mock()
                    bad = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
                    bad.recv.side_effect = list(ANSWERS)
                    getattr(bad, name).side_effect = error
                    good = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
                    good.recv.side_effect = list(ANSWERS)
                    self.check_all(bad, good)

    def test_bare_mock(self) -> None:
        """A mock that says nothing that makes sense is lost; nothing hangs"""
        self.assertEqual([], self.build(mock.MagicMock()))
        self.assertIn("'snow' not built", self.err.getvalue())

    def test_at_once(self) -> None:
        """Results that lie ready before a board was asked for"""
        wrk = mock.Mock(spec_set=['name', 'toolchains', 'nthreads', 'max_boards', 'build_prepare',
                                  'build_board', 'build_done', 'recv'],
                        toolchains={'arm': 'x'}, nthreads=8, max_boards=1)
        wrk.name = 'box'
        wrk.recv.side_effect = list(ANSWERS)
        self.check(wrk)
        with open(os.path.join(self.dir, 'worker-box.log'), encoding='utf-8') as inf:
            self.assertRegex(inf.read(),
                             r'(?m)^\d\d:\d\d:\d\d << \{.*\n\d\d:\d\d:\d\d >> 1 boards ')
        got = self.builder.process_result.call_args_list[0].args[0]
        self.assertEqual((BOARD, 0, 0, '', 'box'),
                         (got.brd, got.commit_upto, got.return_code, got.stderr, got.remote))

    def test_rules(self) -> None:
        """What is stored goes by the rules of the command: no result of a make that was killed,
        no escapes, and who built it
        """
        killed = {**result('snow', 0, 2), 'infra': 'killed by a signal'}
        wrk = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
        wrk.name = 'box'
        said: 'queue.Queue[Any]' = queue.Queue()
        said.put(PREPARED)
        # However often: the third time it is given up
        wrk.build_board.side_effect = lambda board, arch: (
            said.put(killed), said.put(result('snow', 1)))
        wrk.build_done.side_effect = lambda: said.put({'resp': 'build_done'})
        wrk.recv = said.get
        self.assertEqual([('snow', 1)], self.build(wrk))
        self.assertRegex(self.err.getvalue(),
                         r"'snow' not built \(commits 0\): given up after 3 .*killed by a signal")
        self.assertFalse(os.path.exists(os.path.join(self.dir, '0')))
        wrk = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
        wrk.name = 'box'
        wrk.recv.side_effect = [
            PREPARED, {**result('snow', 0), 'stdout': 'a\x1b]0;x\x07b\x1b[31m\n'},
            {'resp': 'build_done'}]
        self.assertEqual(WHOLE[:1], sorted(self.build(wrk))[:1])
        for name, text in (('log', 'ab\n'), ('host', 'box\n')):
            with open(os.path.join(self.dir, '0', 'snow', name), encoding='utf-8') as inf:
                self.assertEqual(text, inf.read())

    def test_status(self) -> None:
        """The last line says how many came from whom, and who was lost: nobody else"""
        bad = mock.Mock(toolchains={'arm': 'x'}, nthreads=1, max_boards=1)
        bad.name = 'bad'
        bad.recv.side_effect = [PREPARED, EOFError('gone')]
        lost = threading.Event()
        bad.close.side_effect = lost.set
        good = mock.Mock(toolchains={'arm': 'x'}, nthreads=0, max_boards=1)
        good.name = 'good'
        said: 'queue.Queue[Any]' = queue.Queue()
        said.put(PREPARED)
        good.build_board.side_effect = lambda board, arch: (
            lost.wait(60), [said.put(result(board, upto)) for upto in range(2)])
        good.build_done.side_effect = lambda: said.put(ANSWERS[-1])
        good.recv = said.get
        self.check_all(bad, good)
        with open(os.path.join(self.dir, '.buildman.log'), encoding='utf-8') as inf:
            last = [line for line in inf if 'STATUS' in line][-1]
        self.assertRegex(last, r'STATUS bad:done=0/[02] cpu=0% lost, good:done=2/2, '
                               r'TOTAL:done=2/[24] of 2$')

    def test_sandbox(self) -> None:
        """Boards for the host compiler go to any worker, others only where there is one"""
        wrk = mock.Mock(toolchains={}, nthreads=1, max_boards=1)
        wrk.recv.side_effect = [PREPARED, result('s', 0), result('s', 1), {'resp': 'build_done'}]
        box = types.SimpleNamespace(target='s', arch='sandbox')
        self.assertEqual([('s', 0), ('s', 1)], self.build(wrk, selected={'s': box, 'snow': BOARD}))
        wrk.build_board.assert_called_once_with('s', 'sandbox')


class TestProcess(unittest.TestCase):
    """Popen, ssh and git push are the caller's"""

    def setUp(self) -> None:
        patch = mock.patch.object(boss, '_run_ssh', return_value='banner\n/home/me/bm\n')
        self.ssh = patch.start()
        self.addCleanup(patch.stop)

    def start(self, proc: Any) -> boss.RemoteWorker:
        """Return a worker whose process is this"""
        wrk = boss.RemoteWorker('me@box', name='box')
        wrk.init_git()
        self.addCleanup(wrk.close)
        with mock.patch('subprocess.Popen', return_value=proc) as popen:
            wrk.start()
        argv = popen.call_args.args[0]
        self.assertIn('ssh', argv)
        self.assertIn('me@box', argv)
        self.assertIn('--worker', argv[-1])
        return wrk

    def test_magic_popen(self) -> None:
        """A MagicMock of a process, whose lines come from a list"""
        proc = mock.MagicMock()
        proc.stdout.readline.side_effect = [
            b'Welcome\n', *lines({'resp': 'ready', 'nthreads': 8}, {'resp': 'configure_done'},
                                 {'resp': 'quit_ack'})]
        proc.poll.return_value = None
        wrk = self.start(proc)
        proc.stdin.write.assert_not_called()
        self.assertEqual((8, 1, 8), (wrk.nthreads, wrk.slots, wrk.max_boards))
        self.assertIn('nthreads=8', repr(wrk))
        self.assertIn('running', repr(wrk))
        self.assertEqual('configure_done', wrk.configure({'no_lto': True})['resp'])
        sent = json.loads(proc.stdin.write.call_args.args[0])
        self.assertEqual(('configure', {'no_lto': True}), (sent['cmd'], sent['settings']))
        self.assertEqual('quit_ack', wrk.quit()['resp'])
        self.assertIsNone(wrk._proc)
        self.assertIn('stopped', repr(wrk))
        self.assertIn('rm -f', self.ssh.call_args.args[1])
        wrk.close()

    def test_least_popen(self) -> None:
        """A process with the names that are relied on, and no more; wait() takes a timeout"""
        wrote: List[bytes] = []
        calls: List[str] = []
        said = iter(lines({'resp': 'ready', 'nthreads': 3, 'slots': 2}, result('snow', 1),
                          {'resp': 'novelty', 'x': 1}))
        never = threading.Event()
        self.addCleanup(never.set)

        def readline() -> bytes:
            # Then it is as silent as a machine that has lost its network
            return next(said, b'') or (never.wait() and b'') or b''

        def wait(timeout: Optional[float] = None) -> int:
            calls.append('wait')
            if 'kill' not in calls:
                raise subprocess.TimeoutExpired('ssh', timeout or 0)
            return -9

        wrk = self.start(types.SimpleNamespace(
            stdin=types.SimpleNamespace(write=wrote.append, flush=lambda: None),
            stdout=types.SimpleNamespace(readline=readline), poll=lambda: None, wait=wait,
            terminate=lambda: calls.append('terminate'), kill=lambda: calls.append('kill')))
        self.assertEqual((3, 2), (wrk.nthreads, wrk.slots))
        wrk.build_board('snow', 'arm')
        self.assertEqual({'cmd': 'build_board', 'board': 'snow', 'arch': 'arm'},
                         json.loads(wrote[0]))
        self.assertEqual(('snow', 1), (lambda msg: (msg['board'], msg['commit_upto']))(wrk.recv()))
        self.assertEqual('novelty', wrk.recv()['resp'])
        with mock.patch.object(boss, 'BUILD_TIMEOUT', 0.1), self.assertRaises(boss.BossError):
            wrk.recv()
        sent = wrk.bytes_sent, wrk.bytes_recv
        self.assertEqual(len(wrote[0]), sent[0])
        self.assertGreater(sent[1], 100)
        wrk.close()
        wrk.close()
        self.assertLess(calls.index('terminate'), calls.index('kill'))
        self.assertEqual((None, sent), (wrk._proc, (wrk.bytes_sent, wrk.bytes_recv)))
        with self.assertRaises(boss.BossError):
            wrk.build_done()

    def test_bytes_popen(self) -> None:
        """A process whose streams are files in memory; it has died"""
        proc = mock.Mock(stdin=io.BytesIO(), stderr=io.BytesIO(b'no python3 here\n'),
                         stdout=io.BytesIO(b''))
        proc.poll.return_value = 127
        wrk = boss.RemoteWorker('box')
        wrk.init_git()
        with mock.patch('subprocess.Popen', return_value=proc), \
                terminal.capture(), self.assertRaisesRegex(
                    boss.BossError, 'closed connection.*no python3 here'):
            wrk.start()
        self.assertIsNone(wrk._proc)

    def test_messages(self) -> None:
        """What goes wrong is a BossError with the words that callers look for"""
        wrk = boss.RemoteWorker('box')
        with self.assertRaisesRegex(boss.BossError, 'call init_git'):
            wrk.start()
        with self.assertRaisesRegex(boss.BossError, 'call init_git first'):
            wrk.push_source('/src', 'HEAD:refs/heads/work')
        self.ssh.return_value = 'BUSY\n'
        with self.assertRaisesRegex(boss.WorkerBusy, 'busy'):
            wrk.init_git()
        self.ssh.return_value = '\n'
        with self.assertRaisesRegex(boss.BossError, 'returned no work directory'):
            wrk.init_git()
        self.ssh.return_value = '/bm\n'
        wrk.init_git('/bm')
        self.assertEqual(('/bm', '/bm/.git'), (wrk.work_dir, wrk.git_dir))
        with mock.patch('subprocess.Popen', side_effect=OSError('no ssh')), \
                self.assertRaisesRegex(boss.BossError, 'Failed to start SSH'):
            wrk.start()
        proc = mock.MagicMock()
        proc.stdout.readline.side_effect = lines({'resp': 'heartbeat'}, {'resp': 'quit_ack'})
        with mock.patch('subprocess.Popen', return_value=proc), \
                self.assertRaisesRegex(boss.BossError, 'did not send ready'):
            wrk.start()

    def test_push(self) -> None:
        """git push is one run_pipe(), looked up when it is called"""
        wrk = boss.RemoteWorker('me@box')
        wrk.init_git()
        with mock.patch.object(boss.command, 'run_pipe') as pipe:
            wrk.push_source('/src', 'HEAD:refs/heads/work')
        argv = pipe.call_args.args[0][0]
        self.assertEqual('git', argv[0])
        for word in ('push', 'me@box:/home/me/bm/.git', 'HEAD:refs/heads/work'):
            self.assertIn(word, argv)
        self.assertEqual('/src', pipe.call_args.kwargs['cwd'])
        error = command.CommandExc('failed', command.CommandResult(stderr='no space\n'))
        with mock.patch.object(boss.command, 'run_pipe', side_effect=error), \
                self.assertRaisesRegex(boss.BossError, 'git push to me@box failed'):
            wrk.push_source('/src', 'x')
        with mock.patch.object(boss.command, 'run_pipe',
                               side_effect=command.CommandExc('failed', mock.Mock())), \
                self.assertRaisesRegex(boss.BossError, 'git push to me@box failed'):
            wrk.push_source('/src', 'x')

    def test_kill_workers(self) -> None:
        """Each host gets its command and its line; what fails is told, and is no exception"""
        def run(host: str, *_: Any) -> str:
            if host == 'down':
                raise boss.BossError('SSH command failed on down: no route')
            if host == 'odd':
                raise RuntimeError('odd')
            return 'killed 7\n'

        self.ssh.side_effect = run
        with terminal.capture() as (out, err):
            self.assertEqual(0, boss.kill_workers(['up', 'down', 'odd']))
            self.assertEqual(0, boss.kill_workers([]))
        self.assertEqual(['up: killed 7', 'down: SSH command failed on down: no route',
                          'odd: odd'], out.getvalue().splitlines())
        self.assertEqual('', err.getvalue())
        self.assertEqual(3, self.ssh.call_count)


class TestPool(unittest.TestCase):
    """start_all(), quit_all() and close_all() with workers of others"""

    def start(self, machines: Sequence[Any], made: Callable[..., Any], **kwargs: Any
              ) -> Tuple[boss.WorkerPool, str]:
        """Start a pool whose workers are made by a stand-in for the class"""
        pool = boss.WorkerPool(machines)
        with mock.patch.object(boss, 'RemoteWorker', side_effect=made), \
                terminal.capture() as (out, err):
            pool.start_all('/src', 'HEAD:refs/heads/work', **kwargs)
        return pool, out.getvalue() + err.getvalue()

    def test_mock_class(self) -> None:
        """The class is a mock; machines that fail are left out with a line"""
        good, bad, odd = mock.Mock(), mock.Mock(), mock.Mock()
        bad.push_source.side_effect = boss.BossError('git push to b failed')
        odd.start.side_effect = RuntimeError('odd')
        workers = {'a': good, 'b': bad, 'c': odd}
        machines = [mock.Mock(hostname=name) for name in workers]
        with mock.patch('threading.excepthook') as hook:
            pool, text = self.start(machines, lambda host, *args, **kwargs: workers[host])
            hook.assert_not_called()
        self.assertEqual([good], pool.workers)
        self.assertRegex(text, '(?m)^.*b.*git push to b failed')
        self.assertRegex(text, '(?m)^.*c.*odd')
        good.configure.assert_not_called()
        bad.close.assert_called()
        odd.remove_lock.assert_called()

    def test_settings(self) -> None:
        """Settings are passed on as they are"""
        wrk = mock.Mock()
        self.start([mock.Mock(hostname='a')], lambda *args, **kwargs: wrk, settings={'no_lto': 1})
        wrk.configure.assert_called_once_with({'no_lto': 1})

    def test_quit_all(self) -> None:
        """A worker that does not quit is closed, whatever it raises; none has to have a name"""
        workers = [mock.Mock(spec=['quit', 'close']) for _ in range(3)]
        workers[1].quit.side_effect = boss.BossError('gone')
        workers[2].quit.side_effect = RuntimeError('odd')
        bare = types.SimpleNamespace()
        pool = boss.WorkerPool([])
        pool.workers = [*workers, bare]
        with mock.patch('threading.excepthook') as hook:
            pool.quit_all()
            hook.assert_not_called()
        self.assertEqual([], pool.workers)
        workers[0].close.assert_not_called()
        for wrk in workers[1:]:
            wrk.close.assert_called_once_with()
        with terminal.capture():
            pool.print_transfer_summary()

    def test_close_all(self) -> None:
        """Ctrl-C: all are asked, then closed; objects that take no attribute as well"""
        class Fixed:
            """Takes no attribute"""

            __slots__ = ('closed',)

            def __init__(self) -> None:
                self.closed = 0

            def quit(self) -> None:
                """It cannot."""
                raise RuntimeError('odd')

            def close(self) -> None:
                """It can."""
                self.closed += 1

        fixed, wrk = Fixed(), mock.Mock()
        pool = boss.WorkerPool([])
        pool.workers = [fixed, wrk]
        with mock.patch('threading.excepthook') as hook:
            pool.close_all()
            hook.assert_not_called()
        self.assertEqual((1, [], True), (fixed.closed, pool.workers, wrk.closing))
        wrk.quit.assert_called_once_with()
        wrk.close.assert_called_once_with()
