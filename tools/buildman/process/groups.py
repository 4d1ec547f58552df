# SPDX-License-Identifier: GPL-2.0+
"""Child processes of a build, run to their end or ended.

Output goes to files rather than pipes: a grandchild that outlives its make
then holds nothing that we wait for, and no thread is needed to read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import Dict, List, Mapping, Optional, Sequence, Set

from buildman.process.registry import STARTED, Account, Stopped


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


class ProcessGroups:
    """Runs commands for several threads; another one may end them."""

    def __init__(self) -> None:
        self._account = Account()

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
            try:
                proc = self._account.start(
                    argv, tag, stdout, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                    stdout=out, stderr=err, pass_fds=pass_fds)
            except Stopped:
                return 128 + signal.SIGTERM
            except FileNotFoundError as exc:
                if exc.filename != argv[0]:
                    raise
                err.write(f'{argv[0]}: command not found\n'.encode())
                return 127
            late: List[Sequence[str]] = []
            limit = None if seconds is None else self._limit(proc.pid, seconds, late)
            # The leader stays a zombie until its group is gone, so that the
            # number of the group cannot be given to anybody else
            os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
            if limit:
                limit.cancel()
            self._account.release(proc.pid)
            code = proc.wait()
        if late:
            raise OutOfTime(late[0])
        return code if code >= 0 else 128 - code

    def _limit(self, pid: int, seconds: float, late: List[Sequence[str]]) -> threading.Timer:
        """Have a group ended after some time; return what can be cancelled.

        Args:
            pid: the group
            seconds: how long it may take
            late: gets what it was waiting for then
        """
        def expire() -> None:
            groups = [group for group in STARTED.find(self._account) if group.pid == pid]
            if groups:
                late.append(waited_for(pid))
                self._account.end_soon(groups)

        timer = threading.Timer(max(0.0, seconds), expire)
        timer.daemon = True
        timer.start()
        return timer

    def end(self, tag: str) -> None:
        """End the commands with this tag and refuse further ones; returns at once."""
        self._account.end(tag)

    def allow(self, tag: str) -> None:
        """Let commands with this tag start again after end()."""
        self._account.allow(tag)

    def stop(self) -> None:
        """End everything and start nothing any more.

        Returns when all groups are gone or have been killed, within about
        KILL_DELAY seconds.
        """
        self._account.stop()

    def close(self) -> None:
        """Start nothing any more; called when nothing runs."""
        self._account.stopped.set()
        STARTED.rest()
