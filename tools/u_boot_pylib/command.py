# SPDX-License-Identifier: GPL-2.0+
"""Running other programs, without a shell, and ending them with their children."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence, Set, Union

Data = Union[str, bytes]

# How long a group of processes gets to end by itself after SIGTERM, in seconds
TERM_GRACE = 2.0


class CommandResult:
    """What a command printed and how it ended.

    Attributes:
        stdout, stderr: what was captured, '' otherwise (bytes with `binary`)
        combined: both, in the order in which they arrived
        return_code: exit status of the last command, negative for a signal
        exception: what went wrong when the command could not be run or ended
    """

    def __init__(self, stdout: Data = '', stderr: Data = '', combined: Data = '',
                 return_code: int = 0,
                 exception: Optional[BaseException] = None) -> None:
        self.stdout: Any = stdout
        self.stderr: Any = stderr
        self.combined: Any = combined
        self.return_code = return_code
        self.exception = exception

    def __repr__(self) -> str:
        return f'CommandResult(return_code={self.return_code}, stdout={self.stdout!r}, ' \
               f'stderr={self.stderr!r})'


class CommandExc(Exception):
    """A command failed or could not be started.

    Attributes:
        result: what it left behind
    """

    def __init__(self, msg: str, result: Optional[CommandResult] = None) -> None:
        super().__init__(msg)
        self.result = result if result is not None else CommandResult(return_code=255)


def describe(pipe_list: Sequence[Sequence[str]]) -> str:
    """Return `pipe_list` as one could type it into a shell."""
    return ' | '.join(' '.join(shlex.quote(word) for word in argv) for argv in pipe_list)


def _has_ended(proc: subprocess.Popen[Any]) -> bool:
    """Return True when a child has ended; it is left unreaped where that can be had."""
    if proc.returncode is not None or not hasattr(os, 'waitid'):
        return proc.poll() is not None
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, proc.pid, flags) is not None
    except ChildProcessError:
        return proc.poll() is not None


def end_group(proc: subprocess.Popen[Any], grace: float = TERM_GRACE) -> None:
    """End a process that was started with `start_new_session`, and its children.

    It is asked with SIGTERM first, so that a make can end its own children and
    give its tokens back; what is left when it has ended, or after `grace`
    seconds, is killed. The process is reaped.
    """
    def send(sig: int) -> None:
        # A leader that is not reaped keeps its number, so this hits no stranger
        if proc.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(proc.pid, sig)

    send(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while not _has_ended(proc) and time.monotonic() < deadline:
        time.sleep(0.01)
    send(signal.SIGKILL)
    proc.wait()


# Sessions of the commands that run now, in any thread
_running: Set[int] = set()


def end_all() -> None:
    """End the commands that other threads are running, as on Ctrl-C.

    Their callers see them fail. They are killed, since nobody waits for them.
    """
    for pid in list(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _start(pipe_list: Sequence[Sequence[str]], procs: List[subprocess.Popen[bytes]],
           stdout: Optional[int], stderr: Optional[int], cwd: Optional[str],
           env: Optional[Mapping[str, str]], stdin: Optional[int]) -> None:
    """Start each command, reading from the one before it; append them to `procs`.

    Raises:
        OSError: one could not be started
    """
    source: Union[int, IO[bytes], None] = stdin
    for pos, argv in enumerate(pipe_list):
        is_last = pos == len(pipe_list) - 1
        procs.append(subprocess.Popen(
            list(argv), stdin=source, stdout=stdout if is_last else subprocess.PIPE,
            stderr=stderr, cwd=cwd, env=env, start_new_session=True))
        _running.add(procs[-1].pid)
        if len(procs) > 1:
            # The reader has its own copy; ours would hide the end of file
            previous = procs[-2].stdout
            if previous is not None:
                previous.close()
        source = procs[-1].stdout


def _collect(streams: Dict[int, List[bytes]], combined: List[bytes],
             deadline: Optional[float]) -> None:
    """Read every file descriptor in `streams` to its end.

    Raises:
        TimeoutError: the deadline (of time.monotonic()) passed
    """
    with selectors.DefaultSelector() as selector:
        for fd in streams:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                    continue
                streams[key.fd].append(data)
                combined.append(data)


def run_pipe(pipe_list: Sequence[Sequence[str]], capture: bool = False,
             capture_stderr: bool = False, raise_on_error: bool = True,
             cwd: Optional[str] = None, oneline: bool = False, binary: bool = False,
             env: Optional[Mapping[str, str]] = None, timeout: Optional[float] = None,
             stdin_data: Optional[Data] = None) -> CommandResult:
    """Run commands, each reading what the one before it prints.

    Every command has a session of its own; all of them are ended, with their
    children, when this returns early (timeout, Ctrl-C, a later command that
    cannot be started).

    Args:
        pipe_list: argv of each command
        capture: return what the last one prints, else it goes to our stdout
        capture_stderr: return what they all print to stderr
        raise_on_error: raise when the last one fails or cannot be started,
            else say so in the result
        cwd: folder to run in
        oneline: leave out white space at the end of stdout
        binary: return bytes, else UTF-8 text in which invalid bytes are replaced
        env: whole environment; None for ours
        timeout: seconds after which the commands are ended
        stdin_data: what the first one reads; None for our stdin

    Raises:
        CommandExc: a command failed, could not be started or took too long
    """
    result = CommandResult()
    deadline = None if timeout is None else time.monotonic() + timeout
    out: List[bytes] = []
    err: List[bytes] = []
    combined: List[bytes] = []
    procs: List[subprocess.Popen[bytes]] = []
    fds: List[int] = []
    sys.stdout.flush()
    try:
        with contextlib.ExitStack() as stack:
            streams: Dict[int, List[bytes]] = {}
            writers: List[Optional[int]] = []
            for wanted, sink in ((capture, out), (capture_stderr, err)):
                if wanted:
                    reader, writer = os.pipe()
                    fds += [reader, writer]
                    streams[reader] = sink
                    writers.append(writer)
                else:
                    writers.append(None)
            stdin = None
            if stdin_data is not None:
                feed = stack.enter_context(tempfile.TemporaryFile())
                feed.write(stdin_data.encode() if isinstance(stdin_data, str) else stdin_data)
                feed.seek(0)
                stdin = feed.fileno()
            _start(pipe_list, procs, writers[0], writers[1], cwd, env, stdin)
            for wfd in filter(None, writers):
                os.close(wfd)
                fds.remove(wfd)
            _collect(streams, combined, deadline)
            for proc in procs:
                proc.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        result.return_code = procs[-1].returncode
    except OSError as exc:
        result.exception = exc
        result.return_code = 255
    except subprocess.TimeoutExpired:
        result.exception = TimeoutError()
        result.return_code = 255
    finally:
        for proc in procs:
            if proc.stdout:
                proc.stdout.close()
            if proc.returncode is None:
                end_group(proc)
            _running.discard(proc.pid)
        for fd in fds:
            os.close(fd)
    _fill(result, out, err, combined, binary, oneline)
    if raise_on_error and (result.return_code or result.exception):
        raise CommandExc(_reason(pipe_list, result, timeout), result)
    return result


def _fill(result: CommandResult, out: List[bytes], err: List[bytes],
          combined: List[bytes], binary: bool, oneline: bool) -> None:
    """Put what was captured into `result`."""
    raw = [b''.join(part) for part in (out, err, combined)]
    if binary:
        result.stdout, result.stderr, result.combined = raw
    else:
        result.stdout, result.stderr, result.combined = (
            part.decode('utf-8', 'replace') for part in raw)
    if oneline:
        result.stdout = result.stdout.rstrip()


def _reason(pipe_list: Sequence[Sequence[str]], result: CommandResult,
            timeout: Optional[float]) -> str:
    """Return one line that says which command failed and how."""
    what = f"Error running '{describe(pipe_list)}'"
    exc = result.exception
    if isinstance(exc, TimeoutError):
        return f'{what}: still running after {timeout:g} seconds'
    if isinstance(exc, OSError):
        return f'{what}: {exc.strerror or exc}: {exc.filename or pipe_list[0][0]}'
    stderr = result.stderr
    if isinstance(stderr, bytes):
        stderr = stderr.decode('utf-8', 'replace')
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if lines:
        return f'{what}: {lines[-1]}'
    if result.return_code < 0:
        return f'{what}: ended by signal {-result.return_code}'
    return f'{what}: exit status {result.return_code}'


def output(*argv: str, cwd: Optional[str] = None,
           env: Optional[Mapping[str, str]] = None) -> str:
    """Return what a command prints to stdout.

    Raises:
        CommandExc: it failed; the message has the last line of its stderr
    """
    text: str = run_pipe([argv], capture=True, capture_stderr=True, cwd=cwd, env=env).stdout
    return text


def output_one_line(*argv: str, cwd: Optional[str] = None) -> str:
    """Return the first line that a command prints to stdout, '' if none.

    Raises:
        CommandExc: it failed
    """
    lines = output(*argv, cwd=cwd).splitlines()
    return lines[0].strip() if lines else ''
