# SPDX-License-Identifier: GPL-2.0+
"""All that this process has started, in one account, and one way to end it.

Each program or forked process is the head of a process group, and `STARTED` knows it
from its start until nothing of the group is left. Who starts something has an
`Account` there, so that a part can be ended alone: one board, the commands on
machines. `end_all()` ends everything, in three steps with a deadline each: ask (the
end of its input), terminate, kill.

A guard, a shell that is told of each group, ends them when this process is killed and
cannot do so any more.

`ProcessGroups` runs the commands of builds. Their output goes to files rather than
pipes: a grandchild that outlives its make then holds nothing that we wait for, and no
thread is needed to read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
from typing import Any, Callable, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Set

# Seconds between asking a group to end and killing it: make removes files that are
# half made meanwhile and, before 4.4, gives its job server tokens back
KILL_DELAY = 1.5

# As it is: callers put stand-ins in its place, which are no processes
_POPEN = subprocess.Popen

# What the guard does. '* FILE' tells that a group begins, and which file it prints
# to; '+ N' and '- N', that it has begun and that it has ended; '= N', that another one
# has begun; '~ N', one that gets time to end by itself. The end of the input tells that
# whoever started them is no more. If that was between a '*' and its '+', the group is
# the one that prints to that file (proc_pid_fd(5)); it may be on its way.
_GUARD = """
l=' '
a=' '
f=
begun() {
    for p in /proc/[0-9]*; do
        [ -n "$f" ] && [ "$p/fd/1" -ef "$f" ] && l="$l${p#/proc/} "
    done
}
while read -r what arg; do
    case $what in
    '*') f=$arg ;;
    =) l="$l$arg " ;;
    '~') a="$a$arg " ;;
    +) l="$l$arg " f= ;;
    -) case $a in
        *" $arg "*) a="${a%% $arg *} ${a#* $arg }" ;;
        *) l="${l%% $arg *} ${l#* $arg }" ;;
        esac ;;
    esac
done
[ "$l$a$f" = '  ' ] && exit
begun
for group in $l $a; do kill -s TERM -- "-$group"; done
sleep 1
begun
for group in $l; do kill -s KILL -- "-$group"; done
for group in $a; do
    for n in 1 2 3 4 5 6 7 8 9; do kill -s 0 -- "-$group" && sleep 1; done
    kill -s KILL -- "-$group"
done
"""


class Stopped(Exception):
    """An account was stopped: nothing more is started on it."""


class Guard:
    """A process that outlives this one by as long as it takes to end the groups."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: no process can be made
        """
        self.process = _POPEN(
            ['/bin/sh', '-c', _GUARD], cwd='/', stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def tell(self, what: str, group: int) -> None:
        """Tell that a group has begun ('+' after begin(), else '=') or ended ('-')."""
        self._write(f'{what} {group}\n')

    @contextlib.contextmanager
    def begin(self, stdout: str) -> Iterator[None]:
        """Have the guard know of a group by the file that it prints to, while it is started.

        So one is found whose number nobody could tell any more. Nothing is told of a device
        or a pipe, to which others may print as well.
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
        assert self.process.stdin
        # Without a guard all goes on as before
        with contextlib.suppress(OSError, ValueError):
            os.write(self.process.stdin.fileno(), os.fsencode(line))

    def close(self) -> None:
        """Let it end; it does so at once when no group is left."""
        assert self.process.stdin
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)


@dataclasses.dataclass(eq=False)
class Group:
    """A process group that was started.

    Attributes:
        pid: of its head, and its number
        account: whose it is
        tag: what it is for
        process: the head; None when it was forked
        patient: it gets time to end by itself, as it has to see to something elsewhere
    """

    pid: int
    account: 'Account'
    tag: str = ''
    process: Optional['subprocess.Popen[bytes]'] = None
    patient: bool = False

    def signal(self, sig: int) -> None:
        """Send a signal to all of it; that it is gone is no error."""
        # A head that was not waited for keeps its number, so this hits no stranger
        if self.process is None or self.process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, sig)

    def close_input(self) -> None:
        """Ask it to end: there is nothing more to be read."""
        if self.process and self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


def is_process(proc: object) -> bool:
    """Return whether what was started is a process, and no stand-in of a caller's."""
    return isinstance(proc, _POPEN)


def has_ended(pid: int) -> bool:
    """Return whether a child has ended; it is not waited for, so it keeps its number."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def wait_until(what: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so, looking less and less often.

    Returns:
        False when it is not so after `seconds`
    """
    end = time.monotonic() + seconds
    delay = 0.0005
    while not what():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(delay, left, 0.02))
        delay *= 2
    return True


class Registry:
    """The groups that were started and are not known to be gone.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._starting = threading.Lock()
        self._groups: Dict[int, Group] = {}
        self._guard: Optional[Guard] = None

    def guard(self) -> Guard:
        """Return the guard; from the first call on it is told of each group.

        Raises:
            OSError: it cannot be started
        """
        with self._lock:
            if self._guard is None:
                self._guard = Guard()
                for pid, group in self._groups.items():
                    self._guard.tell('~' if group.patient else '=', pid)
            return self._guard

    def start(self, group: Group, argv: Sequence[str], prints_to: str = '',
              **how: Any) -> 'subprocess.Popen[bytes]':
        """Start a program; see Account.start()."""
        if not prints_to:
            group.process = subprocess.Popen(argv, start_new_session=True, **how)
            self.note(group, '~' if group.patient else '=')
            return group.process
        # The guard thinks of one that begins at a time
        with self._starting:
            guard = self.guard()
            with guard.begin(prints_to):
                group.process = subprocess.Popen(argv, start_new_session=True, **how)
            self.note(group, '+')
        return group.process

    def note(self, group: Group, what: str = '=') -> None:
        """Take a group into the account.

        Args:
            group: that has begun
            what: see Guard.tell()
        """
        if group.process is not None:
            if not is_process(group.process):
                return
            group.pid = group.process.pid
        with self._lock:
            self._groups[group.pid] = group
            if self._guard:
                self._guard.tell(what, group.pid)

    def release(self, pid: int) -> None:
        """End what is left of a group, wait for its head, and forget it; or do nothing.

        What was put in place of Popen has no group.
        """
        with self._lock:
            group = self._groups.pop(pid, None)
            if group is None:
                return
            group.signal(signal.SIGKILL)
            if self._guard:
                self._guard.tell('-', pid)
        if group.process is not None:
            group.process.wait()
        else:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def find(self, account: Optional['Account'] = None, tag: str = '') -> List[Group]:
        """Return the groups of an account (None: of all) with a tag ('': with any)."""
        with self._lock:
            return [group for group in self._groups.values()
                    if account in (None, group.account) and tag in ('', group.tag)]

    def signal(self, sig: int, groups: Collection[Group]) -> None:
        """Send a signal to those of some groups that are there still."""
        with self._lock:
            for group in groups:
                if self._groups.get(group.pid) is group:
                    group.signal(sig)

    def running(self, groups: Collection[Group]) -> bool:
        """Return whether the head of one of some groups still runs."""
        with self._lock:
            return any(self._groups.get(group.pid) is group and not has_ended(group.pid)
                       for group in groups)

    def end(self, groups: Collection[Group], ask: float, term: float) -> None:
        """End groups: ask, terminate, kill; whoever waits for one sees it end.

        Args:
            groups: as find() returns them
            ask: seconds that they get to end by themselves when their input ends
            term: seconds that they get after SIGTERM
        """
        def gone() -> bool:
            return not self.running(groups)

        if ask:
            for group in groups:
                group.close_input()
            wait_until(gone, ask)
        self.signal(signal.SIGTERM, groups)
        wait_until(gone, term)
        self.signal(signal.SIGKILL, groups)

    def end_all(self, ask: float = 0.5, term: float = KILL_DELAY) -> None:
        """End all that was started and is there still, and the guard, which has no more to do.

        To be called when nothing is started any more. Returns within `ask` and `term`
        seconds, and a little more for what is killed.
        """
        groups = self.find()
        if groups:
            self.end(groups, ask, term)
            wait_until(lambda: not self.running(groups), 1)
        self.rest()

    def rest(self) -> None:
        """Let the guard end, unless a group is left; it is started anew when need be."""
        with self._lock:
            if self._groups:
                return
            guard, self._guard = self._guard, None
        if guard:
            guard.close()

    def forget(self) -> None:
        """Forget everything: to be called in a forked process, to whom nothing belongs."""
        if self._guard and self._guard.process.stdin:
            # As long as it is open, the guard thinks that the parent lives
            with contextlib.suppress(OSError):
                self._guard.process.stdin.close()
        self.__init__()  # type: ignore[misc]


# What this process has started
STARTED = Registry()


class Account:
    """What one part of the program has started, so that it can be ended alone.

    Attributes:
        stopped: set when everything was ended, and nothing more is started
    """

    def __init__(self, registry: Registry = STARTED) -> None:
        self._registry = registry
        # Held from the look whether something may start until it is known, so that
        # nothing slips in behind an end
        self._lock = threading.Lock()
        self._ended: Set[str] = set()
        self.stopped = threading.Event()

    def refuses(self, tag: str) -> bool:
        """Return whether nothing may be started for a tag."""
        return self.stopped.is_set() or tag in self._ended

    def start(self, argv: Sequence[str], tag: str = '', prints_to: str = '',
              patient: bool = False, **how: Any) -> 'subprocess.Popen[bytes]':
        """Start a program as the head of a group; release() is to be called at its end.

        Args:
            argv: the command
            tag: by which end() finds it
            prints_to: the file that it prints to: a guard that knows this ends it, too,
                when we are killed while it is being started; '' when that is not worth
                a guard
            patient: a guard gives it more time to end by itself
            how: further arguments of Popen

        Raises:
            OSError: it cannot be started
            Stopped: end() was called for this tag, or stop()
        """
        with self._lock:
            if self.refuses(tag):
                raise Stopped
            group = Group(0, self, tag, patient=patient)
            return self._registry.start(group, argv, prints_to, **how)

    def adopt(self, pid: int) -> None:
        """Take a forked process into the account, which is the head of a group."""
        self._registry.note(Group(pid, self))

    def finish(self, pid: int, seconds: float) -> None:
        """End a group: ask, terminate, kill, with so many seconds for each step."""
        groups = [group for group in self._registry.find(self) if group.pid == pid]
        self._registry.end(groups, seconds, seconds)
        self.release(pid)

    def release(self, pid: int) -> None:
        """End what is left of a group and wait for its head."""
        self._registry.release(pid)

    def end(self, tag: str) -> None:
        """End what runs for a tag and refuse more; returns at once.

        What is there after KILL_DELAY seconds is killed by a thread of its own.
        """
        with self._lock:
            self._ended.add(tag)
        self.end_soon(self._registry.find(self, tag))

    def end_soon(self, groups: Collection[Group]) -> None:
        """Terminate groups now, and kill them in a while; returns at once."""
        if groups:
            self._registry.signal(signal.SIGTERM, groups)
            timer = threading.Timer(KILL_DELAY, self._registry.signal, (signal.SIGKILL, groups))
            timer.daemon = True
            timer.start()

    def allow(self, tag: str) -> None:
        """Let commands for a tag start again after end()."""
        self._ended.discard(tag)

    def stop(self, ask: float = 0.0, term: float = KILL_DELAY) -> None:
        """End everything on this account and start nothing more.

        Args:
            ask, term: seconds, see Registry.end()
        """
        with self._lock:
            self.stopped.set()
        groups = self._registry.find(self)
        if groups:
            self._registry.end(groups, ask, term)

    def resume(self) -> None:
        """Allow starts again after stop()."""
        self.stopped.clear()


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
