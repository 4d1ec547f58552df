# SPDX-License-Identifier: GPL-2.0+
"""Who may use the work folder of a machine, and what is done there before a worker runs.

This file and `agent.procfs` are also sent over and run on a machine that has nothing of
ours installed, see `agent.setup`: they import the standard library only.

Three files in the work folder:

- `.lock.held` is locked with flock() by the worker process while it lives, so
  that a dead one frees it; it holds the owner as JSON.
- `.lock` is the claim of a boss between `init` and the start of its worker, the
  owner as JSON with an expiry; it stays while the worker runs. An older
  buildman looks at this file, too, and at nothing else.
- `.lock.mutex` is locked for the moments in which the other two are looked at
  and changed, so that of two bosses at the same instant exactly one wins.

None but `.lock` is ever removed: removing a file that somebody has locked would
let a second one lock a new file of that name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import time
from typing import Any, Dict, Iterator, List, Optional, Set

from buildman.agent import procfs

CLAIM = '.lock'
HELD = '.lock.held'
MUTEX = '.lock.mutex'
CLAIM_SECONDS = 60.0        # how long a claim holds without a worker or a push
MUTEX_SECONDS = 10.0        # how long the moments of others are waited for
KILL_SECONDS = 3.0          # between asking a worker to end and killing it
# Marks the processes of a run, so that those left behind are found
RUN_VARIABLE = 'BUILDMAN_RUN'
# Folder of .git in which a push leaves its ref; its time tells when that was
RUN_REFS = 'refs/buildman/run'


class LockBusy(Exception):
    """Somebody else has the machine; `owner` says who."""

    def __init__(self, owner: 'Owner') -> None:
        super().__init__(str(owner))
        self.owner = owner


class LockStuck(Exception):
    """The lock or the folder cannot be had; the message says why."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a machine.

    Attributes:
        user, host, pid: of the boss
        run: identifier of the run, '' for an older buildman
        since: when it was claimed, seconds since 1970 by the machine's clock
        expiry: until when the claim holds without a worker; 0 with a worker
        worker_host, worker_pid, worker_start: the worker process; its start
            time tells it from a later process of the same number
        boss_home, boss_start: the boss's process, see `remote.scripts`
    """

    user: str = ''
    host: str = ''
    pid: int = 0
    run: str = ''
    since: float = 0.0
    expiry: float = 0.0
    worker_host: str = ''
    worker_pid: int = 0
    worker_start: str = ''
    boss_home: str = ''
    boss_start: str = ''

    def __str__(self) -> str:
        if not self.user:
            return 'another buildman'
        try:
            when = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))
        except (OverflowError, ValueError, OSError):
            when = 'no time that there is'
        return f'{self.user}@{self.host}, pid {self.pid}, since {when}'

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Optional['Owner']:
        """Return the owner that a text names; None when it names none."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or 'run' not in data:
            return None
        values: Dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            val = data.get(field.name, field.default)
            if isinstance(field.default, float) and isinstance(val, int):
                try:
                    val = float(val)
                except OverflowError:
                    return None
            if type(val) is not type(field.default):
                return None
            values[field.name] = val[:200] if isinstance(val, str) else val
        return cls(**values)


# --- processes ---

def processes_of(owner: Owner) -> Set[int]:
    """Return the processes of an owner's worker: itself, all below it, and strays.

    Strays are those whose parent has died; they are known by the run's
    identifier in their environment. No process is taken for its name.
    """
    tree = procfs.parents()
    found: Set[int] = set()
    if (owner.worker_pid in tree and owner.worker_start
            and owner.worker_host == os.uname().nodename
            and procfs.start_time(owner.worker_pid) == owner.worker_start):
        found.add(owner.worker_pid)
    if owner.run:
        mark = f'{RUN_VARIABLE}={owner.run}'.encode()
        found.update(pid for pid in tree if mark in procfs.environment(pid))
    more = True
    while more:
        more = False
        for pid, parent in tree.items():
            if parent in found and pid not in found:
                found.add(pid)
                more = True
    found.discard(os.getpid())
    return found


def _older_worker() -> bool:
    """Tell whether a worker of an older buildman runs here, for this user.

    Ours are told a folder after `--worker`, and hold the lock of that folder.
    """
    for pid in procfs.parents():
        words = procfs.arguments(pid)
        if b'--worker' in words and pid != os.getpid():
            after = words[words.index(b'--worker') + 1:]
            if not (after and after[0].startswith(b'/')) and procfs.user_of(pid) == os.getuid():
                return True
    return not os.path.isdir('/proc/self')


def _pushing(git_dir: str) -> bool:
    """Tell whether a push into this repository is under way."""
    want = os.path.realpath(git_dir)
    for pid in procfs.parents():
        words = procfs.arguments(pid)
        if any(b'receive-pack' in word for word in words[:3]):
            for word in words[1:]:
                path = os.fsdecode(word)
                if path and os.path.realpath(path) == want:
                    return True
    return False


# --- the lock ---

@contextlib.contextmanager
def _mutex(work_dir: str) -> Iterator[None]:
    """Have the lock's files for oneself, for a moment."""
    fd = os.open(os.path.join(work_dir, MUTEX), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + MUTEX_SECONDS
        while not _try_flock(fd):
            if time.monotonic() > end:
                raise LockStuck(f"'{work_dir}/{MUTEX}' has been locked for "
                                f'{MUTEX_SECONDS:g} seconds')
            time.sleep(.02)
        yield
    finally:
        os.close(fd)


def _try_flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _read(path: str) -> Optional[str]:
    """Return the start of a small file, None when there is none."""
    try:
        with open(path, encoding='utf-8', errors='replace') as inf:
            return inf.read(65536)
    except FileNotFoundError:
        return None


def _write_claim(work_dir: str, owner: Owner) -> None:
    path = os.path.join(work_dir, CLAIM)
    with open(f'{path}.new', 'w', encoding='utf-8') as outf:
        outf.write(owner.to_json() + '\n')
    os.replace(f'{path}.new', path)


def _remove_claim(work_dir: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(work_dir, CLAIM))


def _holder(work_dir: str) -> Optional[Owner]:
    """Return the owner of a worker that lives, None when there is none."""
    fd = os.open(os.path.join(work_dir, HELD), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if _try_flock(fd):
            return None
    finally:
        os.close(fd)
    return Owner.from_json(_read(os.path.join(work_dir, HELD)) or '') or Owner()


def _claimant(work_dir: str, run: str, now: float) -> Optional[Owner]:
    """Return who else has a claim that holds, None when nobody has.

    A claim holds until its expiry, while its push is under way, and for
    CLAIM_SECONDS after a push.
    """
    text = _read(os.path.join(work_dir, CLAIM))
    if text is None:
        return None
    owner = Owner.from_json(text)
    if owner is None:
        # Of an older buildman, which lets go of it when no worker runs
        return Owner() if _older_worker() else None
    if owner.run == run or not owner.expiry:
        # No expiry: it had a worker, which does not live any more
        return None
    git_dir = os.path.join(work_dir, '.git')
    try:
        pushed = os.stat(os.path.join(git_dir, RUN_REFS)).st_mtime + CLAIM_SECONDS
    except OSError:
        pushed = 0.0
    # A time further ahead comes from a clock that was set back
    if now < max(owner.expiry, pushed) <= now + 2 * CLAIM_SECONDS or _pushing(git_dir):
        return owner
    return None


def claim(work_dir: str, owner: Owner, now: Optional[float] = None,
          seconds: float = CLAIM_SECONDS) -> None:
    """Take a machine for a boss, until its worker starts; again to renew it.

    Args:
        work_dir: folder, which has to be there
        owner: the boss; `run` has to be its own
        now: seconds since 1970
        seconds: how long the claim holds
    Raises:
        LockBusy: a worker of somebody else lives there, or a claim holds
        LockStuck: the files of the lock are not to be had
    """
    now = time.time() if now is None else now
    with _mutex(work_dir):
        holder = _holder(work_dir)
        if holder is not None and owner.run and holder.run == owner.run:
            # A worker of the same boss: what it holds needs no claim
            return
        other = holder or _claimant(work_dir, owner.run, now)
        if other is not None:
            raise LockBusy(other)
        _write_claim(work_dir, dataclasses.replace(
            owner, since=now, expiry=now + seconds, worker_host='', worker_pid=0,
            worker_start=''))


def renew(work_dir: str, owner: Owner) -> bool:
    """Prolong a claim.

    Returns:
        False when it is not there any more: whoever made it has given it up

    Raises:
        LockBusy, LockStuck: as claim() does
    """
    claimed = Owner.from_json(_read(os.path.join(work_dir, CLAIM)) or '')
    if claimed is None or claimed.run != owner.run:
        return False
    claim(work_dir, owner)
    return True


def who(work_dir: str) -> Optional[Owner]:
    """Return who has a machine now, None when it is free; changes nothing."""
    if not os.path.exists(os.path.join(work_dir, MUTEX)):
        return None
    return _holder(work_dir) or _claimant(work_dir, '', time.time())


class Held:
    """A machine held by this process; ends with release() or with the process."""

    def __init__(self, work_dir: str, fd: int, owner: Owner) -> None:
        self.work_dir = work_dir
        self.owner = owner
        self._fd: Optional[int] = fd

    def release(self) -> None:
        """Let go of the machine; harmless the second time."""
        if self._fd is None:
            return
        claimed = Owner.from_json(_read(os.path.join(self.work_dir, CLAIM)) or '')
        if claimed is not None and claimed.run == self.owner.run:
            _remove_claim(self.work_dir)
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = None


def hold(work_dir: str, run: str, now: Optional[float] = None) -> Held:
    """Hold a machine in this process, for the boss that has claimed it.

    From here on the processes started by this one carry the run in their
    environment.

    Args:
        work_dir: folder, which has to be there
        run: identifier that the claim was made with; '' for an older boss
        now: seconds since 1970
    Raises:
        LockBusy: a worker lives there, or somebody else has a claim
        LockStuck: the files of the lock are not to be had
    """
    now = time.time() if now is None else now
    with _mutex(work_dir):
        other = _claimant(work_dir, run, now)
        if other is not None and other.run:
            raise LockBusy(other)
        path = os.path.join(work_dir, HELD)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _try_flock(fd):
            os.close(fd)
            raise LockBusy(Owner.from_json(_read(path) or '') or Owner())
        text = _read(os.path.join(work_dir, CLAIM))
        claimed = Owner.from_json(text or '')
        if claimed is None or claimed.run != run:
            claimed = Owner(run=run, since=now)
        owner = dataclasses.replace(
            claimed, expiry=0.0, worker_host=os.uname().nodename, worker_pid=os.getpid(),
            worker_start=procfs.start_time(os.getpid()))
        os.ftruncate(fd, 0)
        os.pwrite(fd, owner.to_json().encode() + b'\n', 0)
        if text is None or Owner.from_json(text) is not None:
            _write_claim(work_dir, owner)
    os.environ[RUN_VARIABLE] = run
    return Held(work_dir, fd, owner)


def kill(work_dir: str, grace: float = KILL_SECONDS, run: str = '') -> str:
    """End the worker that holds a machine and what it left behind; free the lock.

    Args:
        work_dir: folder
        grace: seconds that it has to end by itself
        run: leave the worker of any other run alone; '' for whatever run
    Returns:
        one line: what was ended
    Raises:
        LockStuck: it did not end
    """
    if not os.path.isdir(work_dir):
        return 'no workers'
    owners: List[Owner] = []
    for name in (HELD, CLAIM):
        owner = Owner.from_json(_read(os.path.join(work_dir, name)) or '')
        if owner is not None and owner not in owners and run in ('', owner.run):
            owners.append(owner)
    killed: Set[int] = set()
    for owner in owners:
        left = processes_of(owner)
        killed |= left
        # The worker first: it ends its builds by itself
        worker = left & {owner.worker_pid}
        procfs.send(worker, signal.SIGTERM)
        procfs.send(worker, signal.SIGCONT)
        procfs.wait_gone(worker, grace)
        for tries in range(20):
            # Anew each time: one that was missed may have started others
            left = processes_of(owner) | (left & set(procfs.parents()))
            if not left:
                break
            # Compilers remove their temporary files when they are asked to end
            procfs.send(left, signal.SIGKILL if tries else signal.SIGTERM)
            procfs.wait_gone(left, .25)
        if left:
            raise LockStuck(f'process {min(left)} cannot be killed')
    if run and not owners:
        return 'no workers'
    with _mutex(work_dir):
        holder = _holder(work_dir)
        if holder is not None and run not in ('', holder.run):
            return 'no workers'
        if holder is not None:
            raise LockStuck(f'still held by {holder} (worker {holder.worker_pid} on '
                            f'{holder.worker_host})')
        claimed = Owner.from_json(_read(os.path.join(work_dir, CLAIM)) or '')
        if not run or (claimed is not None and claimed.run == run):
            _remove_claim(work_dir)
        with open(os.path.join(work_dir, HELD), 'w', encoding='utf-8'):
            pass
    if not killed:
        return 'no workers'
    return f"killed {' '.join(str(pid) for pid in sorted(killed))} ({owners[0]})"


def clean(work_dir: str) -> str:
    """Remove a work folder, unless somebody uses it.

    Returns:
        one line: what was removed
    Raises:
        LockBusy: a worker lives there, or a boss has a claim
        LockStuck: it is no work folder of ours
    """
    if not os.path.isdir(work_dir):
        return 'nothing to remove'
    real = os.path.realpath(work_dir)
    if real in ('/', os.path.realpath(os.path.expanduser('~'))) or not os.path.exists(
            os.path.join(work_dir, MUTEX)):
        raise LockStuck(f"'{work_dir}' is not a work folder of buildman, not removed")
    with _mutex(work_dir):
        other = _holder(work_dir) or _claimant(work_dir, '', time.time())
        if other is not None:
            raise LockBusy(other)
        size = folder_size(work_dir)
        shutil.rmtree(work_dir)
    return f'removed {work_dir} ({size >> 20} MiB)'


def folder_size(path: str, seconds: float = 5.0) -> int:
    """Return the bytes that a folder takes on the disk; what fits into `seconds`."""
    end = time.monotonic() + seconds
    total = 0
    stack = [path]
    while stack and time.monotonic() < end:
        with contextlib.suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
    return total
