# SPDX-License-Identifier: GPL-2.0+
"""Commands that are run to their end: a deadline, a bound, and one end for all.

A command gets a process group of its own, so that what it has started ends
with it. `stop_all()` ends all that are under way, from any thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import subprocess
import threading
import time
from typing import IO, Dict, Mapping, Optional, Sequence, Set, Tuple

MAX_OUTPUT = 16 << 20           # bytes of an answer that are read
GRACE = 0.3                     # seconds for output after the process has ended


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a process said: its output as text, and its exit status."""

    stdout: str
    stderr: str
    returncode: int


class Stopped(Exception):
    """stop_all() was called: nothing more is started."""


class _Running:
    """Processes under way, so that all of them can be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._procs: Set['subprocess.Popen[bytes]'] = set()
        self.stopped = threading.Event()

    def start(self, argv: Sequence[str], stdin: bool,
              env: Optional[Mapping[str, str]]) -> 'subprocess.Popen[bytes]':
        """Start a process in a group of its own."""
        with self._lock:
            if self.stopped.is_set():
                raise Stopped
            proc = subprocess.Popen(
                argv, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
                start_new_session=True)
            self._procs.add(proc)
        return proc

    def end(self, proc: 'subprocess.Popen[bytes]') -> None:
        """End the process's group, which may outlive it, and reap it."""
        with self._lock:
            kill_group(proc.pid)
            self._procs.discard(proc)
        proc.wait()
        for stream in (proc.stdin, proc.stdout, proc.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def stop(self) -> None:
        """Kill all of them; their callers get an error of kind 'stopped'."""
        self.stopped.set()
        with self._lock:
            for proc in self._procs:
                kill_group(proc.pid)


_RUNNING = _Running()


def kill_group(pid: int, sig: int = signal.SIGKILL) -> None:
    """Send a signal to a process group; that it is gone is no error."""
    with contextlib.suppress(OSError):
        os.killpg(pid, sig)


def end_process(proc: 'subprocess.Popen[bytes]', seconds: float) -> None:
    """Close the input of a process, then terminate it, then kill it.

    Args:
        proc: the process
        seconds: for each of these steps
    """
    with contextlib.suppress(OSError, AttributeError):
        proc.stdin.close()  # type: ignore[union-attr]
    for act in (None, proc.terminate, proc.kill):
        if act:
            with contextlib.suppress(OSError):
                act()
        try:
            proc.wait(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            continue


def stop_all() -> None:
    """End every one-shot command that is under way, from any thread, and refuse more."""
    _RUNNING.stop()


def resume() -> None:
    """Allow commands again after stop_all()."""
    _RUNNING.stopped.clear()


def stopped() -> bool:
    """Return whether stop_all() was called, and not resume() since."""
    return _RUNNING.stopped.is_set()


def wait_stopped(seconds: float) -> bool:
    """Wait for some time, or until stop_all() is called; return whether it was."""
    return _RUNNING.stopped.wait(seconds)


def run(argv: Sequence[str], timeout: float, stdin: bytes = b'',
        env: Optional[Mapping[str, str]] = None) -> Answer:
    """Run a command to its end, or kill its whole group when the time is over.

    A grandchild that keeps the output open (a ControlPersist master, say) does
    not hold us up.

    Args:
        argv: the command
        timeout: seconds
        stdin: what it reads
        env: whole environment; None for ours
    Raises:
        subprocess.TimeoutExpired: it did not end, or printed without end
        OSError: it cannot be started
        Stopped: stop_all() was called
    """
    proc = _RUNNING.start(argv, bool(stdin), env)
    try:
        out, err = _communicate(proc, timeout, memoryview(stdin))
        code = proc.poll()
    finally:
        _RUNNING.end(proc)
    return Answer(out.decode('utf-8', 'replace'), err.decode('utf-8', 'replace'),
                  proc.returncode if code is None else code)


def _communicate(proc: 'subprocess.Popen[bytes]', timeout: float,
                 stdin: memoryview) -> Tuple[bytes, bytes]:
    """Feed and read a process until it is done; see run()."""
    end = time.monotonic() + timeout
    got: Dict[IO[bytes], bytearray] = {}
    ended = 0.0
    assert proc.stdout is not None and proc.stderr is not None
    with selectors.DefaultSelector() as sel:
        for stream in (proc.stdout, proc.stderr):
            got[stream] = bytearray()
            sel.register(stream, selectors.EVENT_READ)
        if proc.stdin is not None:
            os.set_blocking(proc.stdin.fileno(), False)
            sel.register(proc.stdin, selectors.EVENT_WRITE)
        while sel.get_map() or proc.poll() is None:
            now = time.monotonic()
            if now >= end or sum(len(buf) for buf in got.values()) > MAX_OUTPUT:
                raise subprocess.TimeoutExpired(proc.args, timeout)
            if proc.poll() is not None:
                ended = ended or now
                if now >= ended + GRACE:
                    break
            if not sel.get_map():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    proc.wait(end - now)
                continue
            for key, _ in sel.select(min(.1, end - now)):
                if key.fileobj is proc.stdin:
                    stdin = _feed(sel, proc.stdin, stdin)
                    continue
                chunk = os.read(key.fd, 65536)
                if chunk:
                    got[key.fileobj] += chunk  # type: ignore[index]
                else:
                    sel.unregister(key.fileobj)
    return bytes(got[proc.stdout]), bytes(got[proc.stderr])


def _feed(sel: selectors.BaseSelector, stream: IO[bytes], data: memoryview) -> memoryview:
    """Write what the process takes now; close its input after the last byte."""
    try:
        data = data[os.write(stream.fileno(), data):]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        data = data[:0]
    if not data:
        sel.unregister(stream)
        with contextlib.suppress(BrokenPipeError):
            stream.close()
    return data
