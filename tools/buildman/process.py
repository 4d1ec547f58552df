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
from typing import Dict, Mapping, Optional, Sequence, Set

# Seconds between asking a group to end and killing it
KILL_DELAY = 1.5

# What the guard does: '+ N' and '- N' tell of groups that began and ended, and
# the end of the input tells that whoever started them is no more
_GUARD = """
l=' '
while read -r what group; do
    case $what in
    +) l="$l$group " ;;
    -) l="${l%% $group *} ${l#* $group }" ;;
    esac
done
[ "$l" = ' ' ] && exit
for group in $l; do kill -s TERM -- "-$group"; done
sleep 1
for group in $l; do kill -s KILL -- "-$group"; done
"""


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
        """Tell that a group began ('+') or ended ('-')."""
        assert self._proc.stdin
        # Without a guard all goes on as before
        with contextlib.suppress(OSError):
            os.write(self._proc.stdin.fileno(), f'{what} {group}\n'.encode())

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
        self._guard: Optional[_Guard] = None

    def run(self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str],
            stdout: str, stderr: str, tag: str = '',
            pass_fds: Sequence[int] = ()) -> int:
        """Run a command to its end, then end whatever it left in its group.

        Args:
            argv: the command
            cwd: folder to run in
            env: the whole environment
            stdout, stderr: files that get what it prints, appended
            tag: name by which end() finds it
            pass_fds: descriptors that it inherits

        Returns:
            exit status, 128 + N when it was ended by signal N (as a shell
            gives it), 127 when the program does not exist

        Raises:
            OSError: no process or file could be made (no space, no memory)
        """
        with open(stdout, 'ab') as out, open(stderr, 'ab') as err:
            # The lock is held over the start, so that no process can slip in
            # behind stop()
            with self._lock:
                if self._stopped or tag in self._ended:
                    return 128 + signal.SIGTERM
                self._guard = self._guard or _Guard()
                try:
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
            # The leader stays a zombie until its group is gone, so that the
            # number of the group cannot be given to anybody else
            os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                with contextlib.suppress(OSError):
                    os.killpg(proc.pid, signal.SIGKILL)
                del self._running[proc.pid]
                self._guard.tell('-', proc.pid)
                code = proc.wait()
        return code if code >= 0 else 128 - code

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
            timer = threading.Timer(KILL_DELAY, self._signal, (tag, signal.SIGKILL, groups))
            timer.daemon = True
            timer.start()

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
