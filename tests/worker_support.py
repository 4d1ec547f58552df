# SPDX-License-Identifier: GPL-2.0+
"""A worker as a real process over pipes, and a boss that a test plays itself."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any, Dict, List, Mapping, Optional, Sequence

import support

from buildman.agent import lock
from buildman.remote import scripts
from buildman.wire import messages

COMMAND = os.path.join(support.TOOLS, 'buildman', 'buildman')

# Seconds for one message; only a failing test waits for so long
WAIT = 60.0


def make_work_dir(path: str, repository: str, branch: str, owner: lock.Owner) -> str:
    """Make a work folder as a boss does: init, then push."""
    subprocess.run(['sh', '-c', scripts.init_script(path, owner, 0)], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(['git', '-C', repository, 'push', '-q', '-f', f'{path}/.git',
                    f'{branch}:refs/heads/work'], check=True)
    return path


class WorkerProcess:
    """A worker, and all that it says."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str],
                 cwd: Optional[str] = None) -> None:
        self.proc = subprocess.Popen(
            argv, env=dict(env), cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, bufsize=0, start_new_session=True)
        self.lines: 'queue.Queue[bytes]' = queue.Queue()
        self.seen: List[Dict[str, Any]] = []
        self.noise: List[bytes] = []
        self.stderr: List[bytes] = []
        self._threads = [threading.Thread(target=self._read, daemon=True),
                         threading.Thread(target=self._read_stderr, daemon=True)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.proc.stdout
        with open(self.proc.stdout.fileno(), 'rb', closefd=False) as inf:
            for line in inf:
                self.lines.put(line)
        self.lines.put(b'')

    def _read_stderr(self) -> None:
        assert self.proc.stderr
        with open(self.proc.stderr.fileno(), 'rb', closefd=False) as inf:
            self.stderr += list(inf)

    def send(self, cmd: str, **fields: Any) -> None:
        """Send a command as an older boss spells it."""
        self.write(json.dumps({'cmd': cmd, **fields}).encode() + b'\n')

    def send_message(self, msg: messages.Message) -> None:
        """Send a command as ours does."""
        self.write(messages.encode(msg))

    def write(self, data: bytes) -> None:
        """Send bytes."""
        assert self.proc.stdin
        view = memoryview(data)
        while view:
            view = view[self.proc.stdin.write(view) or 0:]

    def next(self) -> Dict[str, Any]:
        """Return the next message; {} at the end.

        Raises:
            AssertionError: there is none for too long
        """
        while True:
            try:
                line = self.lines.get(timeout=WAIT)
            except queue.Empty:
                raise AssertionError(f'no message for {WAIT} s after {self.kinds()}\n'
                                     + self.said()) from None
            if not line:
                return {}
            if line.startswith(b'BM> {') and line.endswith(b'}\n'):
                self.seen.append(json.loads(line[4:]))
                return self.seen[-1]
            self.noise.append(line)

    def until(self, kind: str, **fields: Any) -> Dict[str, Any]:
        """Return the next message of a kind, with these fields.

        Raises:
            AssertionError: the worker ended before
        """
        while True:
            msg = self.next()
            if not msg:
                raise AssertionError(f'no {kind} {fields}, but {self.kinds()}\n' + self.said())
            if msg['resp'] == kind and all(msg.get(key) == val for key, val in fields.items()):
                return msg

    def results(self, count: int) -> Dict[Any, Dict[str, Any]]:
        """Return so many results: (board, commit) to message."""
        found = {}
        while len(found) < count:
            msg = self.until('build_result')
            found[msg['board'], msg['commit_upto']] = msg
        return found

    def kinds(self) -> List[str]:
        """Return the kinds of all messages so far."""
        return [msg['resp'] for msg in self.seen]

    def said(self) -> str:
        """Return what came on stderr."""
        return b''.join(self.stderr).decode('utf-8', 'replace')

    def close_stdin(self) -> None:
        """Let the worker see the end of its input."""
        assert self.proc.stdin
        self.proc.stdin.close()

    def wait(self, seconds: float = 30) -> int:
        """Wait for the worker to end and return its exit status."""
        code = self.proc.wait(seconds)
        for thread in self._threads:
            thread.join(60)
        return code

    def end(self) -> None:
        """End it if it has not ended, at the end of a test."""
        with contextlib.suppress(OSError):
            self.close_stdin()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        for thread in self._threads:
            thread.join(60)
        for stream in (self.proc.stdout, self.proc.stderr):
            if stream:
                stream.close()


class WorkerCase(support.SampleCase):
    """A test with a work folder that holds the sample."""

    def setUp(self) -> None:
        super().setUp()
        self.owner = scripts.new_owner()
        self.work_dir = make_work_dir(os.path.join(self.tmp, 'work'), self.tree.path,
                                      self.tree.branch, self.owner)
        self.gcc = {arch: os.path.join(self.toolchains, 'bin', f'{name}-gcc') for arch, name in (
            ('arm', 'arm-sample-linux-gnueabi'), ('aarch64', 'aarch64-sample-linux-gnu'),
            ('riscv64', 'riscv64-sample-linux-gnu'))}

    def start(self, *args: str, argv: Optional[Sequence[str]] = None,
              extra: Optional[Mapping[str, str]] = None,
              cwd: Optional[str] = None) -> WorkerProcess:
        """Start a worker in the work folder, or with another command line."""
        if argv is None:
            argv = [sys.executable, COMMAND, '--worker', *(args or (self.work_dir,
                                                                    self.owner.run))]
        worker = WorkerProcess(argv, self.env(extra), cwd)
        self.addCleanup(worker.end)
        return worker

    def prepared(self, count: int = 2, settings: Optional[Mapping[str, Any]] = None,
                 extra: Optional[Mapping[str, str]] = None, heartbeat: str = '10',
                 boards: int = 2, first: int = 0) -> WorkerProcess:
        """Return a worker of ours that has these commits ready for boards."""
        worker = self.start(self.work_dir, self.owner.run, heartbeat, extra=extra)
        worker.until('ready')
        worker.send_message(messages.Configure(
            dict(settings or {}), self.gcc, {'settings': dict(settings or {})},
            messages.PROTOCOL_VERSION))
        worker.until('configure_done')
        worker.send_message(messages.BuildPrepare(
            self.tree.commits[first:first + count], boards))
        worker.until('build_prepare_done')
        return worker

    def assert_free(self) -> None:
        """Fail unless the lock of the work folder is free soon."""
        support.wait_until(lambda: lock.who(self.work_dir) is None, 60, 'a free lock')
