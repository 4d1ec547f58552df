# SPDX-License-Identifier: GPL-2.0+
"""Commands that are run to their end: a deadline, a bound, and one end for all.

A command gets a process group of its own, so that what it has started ends
with it. `stop_all()` ends all those that are under way on machines, from any thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import selectors
import subprocess
from typing import IO, Dict, Mapping, Optional, Sequence, Tuple

from buildman.process import awake
from buildman.process.registry import Account, has_ended, wait_until

MAX_OUTPUT = 16 << 20           # bytes of an answer that are read
GRACE = 0.3                     # seconds for output after the process has ended


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a process said, and its exit status; -N when signal N ended it."""

    out: bytes
    err: bytes
    returncode: int

    @property
    def stdout(self) -> str:
        """Its output as text."""
        return self.out.decode('utf-8', 'replace')

    @property
    def stderr(self) -> str:
        """What it printed on stderr, as text."""
        return self.err.decode('utf-8', 'replace')


# Commands that run here, and those that run on machines or for them
TOOLS = Account()
MACHINES = Account()


def stop_all() -> None:
    """End all commands that are under way, from any thread, and refuse more.

    Their callers find stopped() true.
    """
    MACHINES.stop(term=0.0)


def resume() -> None:
    """Allow commands again after stop_all()."""
    MACHINES.resume()


def stopped() -> bool:
    """Return whether stop_all() was called, and not resume() since."""
    return MACHINES.stopped.is_set()


def wait_stopped(seconds: float) -> bool:
    """Wait for some time, or until stop_all() is called; return whether it was."""
    return MACHINES.stopped.wait(seconds)


def run(argv: Sequence[str], timeout: float, stdin: bytes = b'',
        env: Optional[Mapping[str, str]] = None, cwd: Optional[str] = None,
        account: Account = TOOLS, max_output: float = MAX_OUTPUT,
        quiet: float = math.inf) -> Answer:
    """Run a command to its end, or kill its whole group when the time is over.

    A grandchild that keeps the output open (a ControlPersist master, say) does
    not hold us up.

    Args:
        argv: the command
        timeout: seconds
        stdin: what it reads
        env: whole environment; None for ours
        cwd: folder to run it in; None for ours
        account: that it is to be ended with
        max_output: bytes that it may print
        quiet: seconds for which it may print nothing
    Raises:
        subprocess.TimeoutExpired: it did not end, fell silent, or printed more
        OSError: it cannot be started
        Stopped: its account was stopped
    """
    proc = account.start(argv, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd)
    try:
        out, err = _communicate(proc, timeout, memoryview(stdin), max_output, quiet)
    finally:
        account.release(proc.pid)
        for stream in (proc.stdin, proc.stdout, proc.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    return Answer(out, err, proc.returncode)


def _communicate(proc: 'subprocess.Popen[bytes]', timeout: float, stdin: memoryview,
                 max_output: float, quiet: float) -> Tuple[bytes, bytes]:
    """Feed and read a process until it is done; see run()."""
    now = awake.now()
    end, alarm = now + timeout, now + quiet
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
        while sel.get_map() or not has_ended(proc.pid):
            now = awake.now()
            if now >= min(end, alarm) or sum(len(buf) for buf in got.values()) > max_output:
                raise subprocess.TimeoutExpired(proc.args, timeout)
            if has_ended(proc.pid):
                ended = ended or now
                if now >= ended + GRACE:
                    break
            if not sel.get_map():
                wait_until(lambda: has_ended(proc.pid), min(end - now, awake.TICK))
                continue
            for key, _ in sel.select(min(.1, end - now)):
                if key.fileobj is proc.stdin:
                    stdin = _feed(sel, proc.stdin, stdin)
                    continue
                chunk = os.read(key.fd, 65536)
                if chunk:
                    alarm = awake.now() + quiet
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
