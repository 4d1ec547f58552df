# SPDX-License-Identifier: GPL-2.0+
"""Child processes of a build: each in a group of its own that can be ended.

Output goes to files rather than pipes: a grandchild that outlives its make
then holds nothing that we wait for, and no thread is needed to read.

A guard, a shell that is told of each group, ends them when this process is
killed and cannot do so any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Set

# Seconds between asking a group to end and killing it
KILL_DELAY = 1.5

# What the guard does. '* FILE' tells that a group begins, and which file it prints
# to; '+ N' and '- N', that it has begun and that it has ended. The end of the input
# tells that whoever started them is no more. If that was between a '*' and its '+',
# the group is the one that prints to that file (proc_pid_fd(5)); it may be on its way.
_GUARD = """
l=' '
f=
begun() {
    for p in /proc/[0-9]*; do
        [ -n "$f" ] && [ "$p/fd/1" -ef "$f" ] && l="$l${p#/proc/} "
    done
}
while read -r what arg; do
    case $what in
    '*') f=$arg ;;
    +) l="$l$arg " f= ;;
    -) l="${l%% $arg *} ${l#* $arg }" ;;
    esac
done
[ "$l$f" = ' ' ] && exit
begun
for group in $l; do kill -s TERM -- "-$group"; done
sleep 1
begun
for group in $l; do kill -s KILL -- "-$group"; done
"""


class OutOfTime(Exception):
    """A command was ended, as it took too long.

    Attributes:
        running: names of the programs that it was waiting for
    """

    def __init__(self, running: Sequence[str]) -> None:
        super().__init__(', '.join(running))
        self.running = tuple(running)


def waited_for(group: int) -> List[str]:
    """Return the names of the programs of a process group that have no child in it."""
    names: Dict[int, str] = {}
    parents: Set[int] = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir('/proc'):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f'/proc/{entry}/stat', encoding='utf-8', errors='replace') as inf:
                    head, _, rest = inf.read().rpartition(')')
                fields = rest.split()
                if fields[0] not in 'ZX' and int(fields[2]) == group:
                    names[int(entry)] = head.partition('(')[2]
                    parents.add(int(fields[1]))
    return sorted({name for pid, name in names.items() if pid not in parents})


class _Guard:
    """A process that outlives this one by as long as it takes to end the groups."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: no process can be made
        """
        self._proc = subprocess.Popen(
            ['/bin/sh', '-c', _GUARD], cwd='/', stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def tell(self, what: str, group: int) -> None:
        """Tell that a group has begun ('+') or ended ('-')."""
        self._write(f'{what} {group}\n')

    @contextlib.contextmanager
    def begin(self, stdout: str) -> Iterator[None]:
        """Tell that a group begins, which prints to this file; then, if it did not.

        A device or a pipe is what many may print to, and does not tell whose it is.
        """
        path = os.path.abspath(stdout)
        if '\n' in path or path.strip() != path or not os.path.isfile(path):
            yield
            return
        self._write(f'* {path}\n')
        began = False
        try:
            yield
            began = True
        finally:
            if not began:
                self._write('*\n')

    def _write(self, line: str) -> None:
        assert self._proc.stdin
        # Without a guard all goes on as before
        with contextlib.suppress(OSError):
            os.write(self._proc.stdin.fileno(), os.fsencode(line))

    def close(self) -> None:
        """Let it end; it does so at once when no group is left."""
        assert self._proc.stdin
        self._proc.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._proc.wait(3)


class ProcessGroups:
    """Runs commands and knows which of them are running.

    Safe to use from several threads: each runs its commands, another one may
    end them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Dict[int, str] = {}
        self._stopped = False
        self._ended: Set[str] = set()
        self._late: Dict[int, List[str]] = {}
        self._guard: Optional[_Guard] = None

    def run(self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str],
            stdout: str, stderr: str, tag: str = '',
            pass_fds: Sequence[int] = (), seconds: Optional[float] = None) -> int:
        """Run a command to its end, then end whatever it left in its group.

        Args:
            argv: the command
            cwd: folder to run in
            env: the whole environment
            stdout, stderr: files that get what it prints, appended
            tag: name by which end() finds it
            pass_fds: descriptors that it inherits
            seconds: how long it may take; None: as long as it likes

        Returns:
            exit status, 128 + N when it was ended by signal N (as a shell
            gives it), 127 when the program does not exist

        Raises:
            OSError: no process or file could be made (no space, no memory)
            OutOfTime: it took longer and was ended
        """
        with open(stdout, 'ab') as out, open(stderr, 'ab') as err:
            # The lock is held over the start, so that no process can slip in
            # behind stop()
            with self._lock:
                if self._stopped or tag in self._ended:
                    return 128 + signal.SIGTERM
                self._guard = self._guard or _Guard()
                try:
                    with self._guard.begin(stdout):
                        proc = subprocess.Popen(
                            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                            stdout=out, stderr=err, start_new_session=True,
                            pass_fds=pass_fds)
                except FileNotFoundError as exc:
                    if exc.filename != argv[0]:
                        raise
                    err.write(f'{argv[0]}: command not found\n'.encode())
                    return 127
                self._guard.tell('+', proc.pid)
                self._running[proc.pid] = tag
            limit = None if seconds is None else self._limit(proc.pid, seconds)
            # The leader stays a zombie until its group is gone, so that the
            # number of the group cannot be given to anybody else
            os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
            if limit:
                limit.cancel()
            with self._lock:
                with contextlib.suppress(OSError):
                    os.killpg(proc.pid, signal.SIGKILL)
                del self._running[proc.pid]
                self._guard.tell('-', proc.pid)
                code = proc.wait()
                late = self._late.pop(proc.pid, None)
        if late is not None:
            raise OutOfTime(late)
        return code if code >= 0 else 128 - code

    def _limit(self, pid: int, seconds: float) -> threading.Timer:
        """Have a group ended after some time; return what can be cancelled."""
        timer = threading.Timer(max(0.0, seconds), self._expire, (pid,))
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self, pid: int) -> None:
        """End a group whose time is over"""
        running = waited_for(pid)
        with self._lock:
            if pid not in self._running:
                return
            self._late[pid] = running
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGTERM)
        self._kill_later({pid})

    def _kill_later(self, groups: Set[int]) -> None:
        """Kill groups that were asked to end, when they are there still"""
        timer = threading.Timer(KILL_DELAY, self._signal, ('', signal.SIGKILL, groups))
        timer.daemon = True
        timer.start()

    def _signal(self, tag: str, sig: int, only: Optional[Set[int]] = None) -> Set[int]:
        """Send a signal to the groups with a tag ('' means all)

        Args:
            tag: the tag
            sig: the signal
            only: groups that it may go to, None for all with the tag

        Returns:
            the groups that it went to
        """
        found = set()
        with self._lock:
            for pid, name in self._running.items():
                if (not tag or name == tag) and (only is None or pid in only):
                    found.add(pid)
                    with contextlib.suppress(OSError):
                        os.killpg(pid, sig)
        return found

    def end(self, tag: str) -> None:
        """End the commands with this tag and refuse further ones.

        SIGTERM lets make give its job server tokens back and remove half-made
        files; what is still there after KILL_DELAY seconds is killed by a
        thread of its own, so this returns at once.
        """
        with self._lock:
            self._ended.add(tag)
        groups = self._signal(tag, signal.SIGTERM)
        if groups:
            # Not those that start with this tag after allow()
            self._kill_later(groups)

    def allow(self, tag: str) -> None:
        """Let commands with this tag start again after end()."""
        with self._lock:
            self._ended.discard(tag)

    def stop(self) -> None:
        """End everything and start nothing any more.

        Returns when all groups are gone or have been killed, within about
        KILL_DELAY seconds.
        """
        with self._lock:
            self._stopped = True
        deadline = time.monotonic() + KILL_DELAY
        if not self._signal('', signal.SIGTERM):
            return
        while time.monotonic() < deadline:
            with self._lock:
                if not self._running:
                    return
            time.sleep(0.02)
        self._signal('', signal.SIGKILL)

    def close(self) -> None:
        """Let the guard end; called when nothing runs and nothing will."""
        with self._lock:
            guard, self._guard = self._guard, None
            self._stopped = True
        if guard:
            guard.close()
