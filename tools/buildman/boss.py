# SPDX-License-Identifier: GPL-2.0+
"""The boss's end of one machine: `RemoteWorker`, and what is done to all machines.

A worker is one persistent ssh process (or what the machine's transport is).
Everything before it is started are one-shot commands: init makes the
repository and claims the machine, git push brings the source.

`WorkerPool` in `remote.pool` drives several of them for callers of this module; the
command itself uses `remote`, which lets each machine begin when it is ready.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
from typing import (
    TYPE_CHECKING,
    Any,
    Collection,
    Dict,
    Iterable,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from buildman.agent import lock
from buildman.core.errors import BuildmanError
from buildman.core.plan import MAX_BOARDS
from buildman.process import awake
from buildman.remote import scripts, ssh
from buildman.remote.connection import END_TIME, BossError, Connection
from buildman.source import git
from buildman.wire import messages
from u_boot_pylib import command

if TYPE_CHECKING:
    from buildman.remote.fleet import WORK_DIRS, clean_workers, kill_workers
    from buildman.remote.pool import WorkerPool

    # What callers find here: `subprocess`, since they put a stand-in for its Popen
    __all__ = ['END_TIME', 'WORK_DIRS', 'BossError', 'WorkerPool', 'clean_workers', 'kill_workers',
               'subprocess']

# Seconds of silence after which a worker that sends no heartbeats is lost
BUILD_TIMEOUT = 300

# Seconds between two status lines in the boss's log
STATUS_INTERVAL = 60

# ssh options: no questions, unknown hosts are accepted, changed ones are not
SSH_OPTS = ssh.SSH_OPTS

# Seconds for a one-shot command, beyond the time to connect
COMMAND_TIME = 60

# Seconds that a worker gets to answer `quit`: it ends its builds first
QUIT_TIME = 10


class WorkerBusy(BossError):
    """Another boss holds the machine.

    Attributes:
        owner: that boss, as far as it is known
    """

    def __init__(self, text: str, owner: Optional[lock.Owner] = None) -> None:
        super().__init__(text)
        self.owner = owner


def _run_ssh(hostname: str, remote_cmd: str, timeout: float = 10) -> str:
    """Run a command on a machine and return what it prints.

    Args:
        hostname: machine
        remote_cmd: for the shell there
        timeout: seconds

    Raises:
        BossError: it failed
    """
    try:
        return ssh.run_once(hostname, remote_cmd, timeout)
    except (ssh.RemoteError, OSError) as exc:
        raise BossError(f'SSH command failed on {hostname}: {exc}') from exc


class RemoteWorker(Connection):
    """One machine: a persistent process that speaks JSON lines.

    Attributes:
        nthreads: processors, 0 until ready
        slots: boards that it builds at once
        max_boards: boards that it may have in hand
        bogomips: speed of one processor, in the kernel's unit
        toolchains: arch -> full path of the compiler there
        git_dir, work_dir: repository and folder there, '' before init_git
        have: commits that its repository had complete at init
        heartbeat: seconds between the heartbeats of the worker that start()
            starts, 0 for the usual
    """

    def __init__(self, hostname: str, timeout: float = 10, name: Optional[str] = None) -> None:
        """Name a machine; nothing is started.

        Args:
            hostname: host or user@host
            timeout: seconds to connect
            name: name in messages
        """
        super().__init__(ssh.check_hostname(hostname), name or hostname, timeout)
        self.nthreads = 0
        self.slots = 1
        self.max_boards = 0
        self.bogomips = 0.0
        self.toolchains: Dict[str, str] = {}
        self.git_dir = ''
        self.work_dir = ''
        self.have: Tuple[str, ...] = ()
        self.heartbeat = 0.0
        self.owner = scripts.new_owner()

    def __repr__(self) -> str:
        state = 'running' if self._proc else 'stopped'
        return f'<RemoteWorker {self.hostname} nthreads={self.nthreads} {state}>'

    def patience(self) -> float:
        """Return the seconds of silence after which a worker counts as lost."""
        return BUILD_TIMEOUT

    @property
    def address(self) -> str:
        """The host; the machine's name where several ways lead to one host"""
        transport = ssh.transport_for(self.hostname, self.name)
        return self.hostname if transport.same_way(ssh.transport_for(self.hostname)) else self.name

    # -- before it runs ----------------------------------------------------

    def init_git(self, work_dir: str = scripts.DEFAULT_WORK_DIR, fresh: bool = False) -> None:
        """Make or reuse the repository there, and claim the machine.

        Args:
            work_dir: folder there; a leading ~ is the home folder
            fresh: begin the repository anew: for one into which git cannot push

        Raises:
            WorkerBusy: another boss holds it
            BossError: it cannot be reached or used
        """
        script = scripts.init_script(work_dir, self.owner, fresh=fresh)
        seconds = self._timeout + COMMAND_TIME
        try:
            self.take_init(_run_ssh(self.address, script, seconds))
        except WorkerBusy as exc:
            if not self.end_dead(work_dir, exc.owner):
                raise
            self.take_init(_run_ssh(self.address, script, seconds))

    def end_dead(self, work_dir: str, owner: Optional[lock.Owner]) -> bool:
        """End what a boss has left on the machine that has died for sure.

        Args:
            work_dir: folder there
            owner: that boss, as far as it is known

        Returns:
            False when it may live, and nothing was done

        Raises:
            BossError: what it left cannot be ended
        """
        if owner is None or not scripts.is_dead(owner):
            return False
        _run_ssh(self.address, scripts.kill_script(work_dir, owner.run), COMMAND_TIME)
        return True

    def take_init(self, text: str) -> None:
        """Take what init said on the machine.

        Raises:
            WorkerBusy: another boss holds it
            BossError: it did not say where its work folder is
        """
        answer = scripts.parse_init(text)
        if answer.busy:
            who = f': used by {answer.owner}' if answer.owner else ''
            raise WorkerBusy(f'{self.name} is busy{who}', answer.owner)
        if not answer.work_dir:
            raise BossError(f'{self.hostname} returned no work directory')
        self.work_dir = answer.work_dir
        self.git_dir = f'{answer.work_dir}/.git'
        self.have = answer.have

    def push_source(self, local_git_dir: str, refspec: str) -> None:
        """Push commits to the machine.

        Args:
            local_git_dir: repository here
            refspec: as for git push

        Raises:
            BossError: init_git() was not called, or the push failed
        """
        if not self.git_dir:
            raise BossError(f'{self.name}: no repository there, call init_git first')
        transport = ssh.transport_for(self.hostname, self.name)
        argv = git.words('push', '--force', '--quiet', f'--receive-pack={git.RECEIVE_PACK}',
                         transport.push_url(self.git_dir), refspec)
        try:
            command.run_pipe([argv], capture=True, capture_stderr=True, raise_on_error=True,
                             cwd=local_git_dir, env={**git.environment(), **transport.git_env()})
        except Exception as exc:
            # In a U-Boot tree the library is the tree's own, older ones of which raise this
            said = getattr(getattr(exc, 'result', None), 'stderr', '')
            lines = said.strip().splitlines() if isinstance(said, str) else []
            why = lines[-1] if lines else str(exc)
            raise BossError(f'git push to {self.hostname} failed: {why}') from exc

    # -- its process -------------------------------------------------------

    def start(self, debug: bool = False) -> None:
        """Start the worker and wait until it is ready.

        Args:
            debug: show on stderr what is not a message

        Raises:
            BossError: it cannot be started or does not become ready
        """
        if not self.work_dir:
            raise BossError(f'{self.name}: no work folder there, call init_git first')
        if self._proc:
            raise BossError(f'{self.name}: its worker is running already')
        transport = ssh.transport_for(self.hostname, self.name)
        remote_cmd = scripts.worker_script(self.work_dir, self.owner.run, self.heartbeat)
        if debug:
            self.on_noise = self.on_stderr
        ready = self._launch(transport.argv(remote_cmd))
        self.nthreads, self.slots = ready.nthreads, ready.slots
        self.max_boards = min(self.max_boards or ready.nthreads, MAX_BOARDS)

    # -- the protocol ------------------------------------------------------

    def recv(self) -> Dict[str, Any]:
        """Return the next message of the worker, as on the wire.

        Raises:
            BossError: the connection has ended, or nothing came for
                BUILD_TIMEOUT seconds
        """
        return messages.as_received(self._next())

    def configure(self, settings: Mapping[str, Any],
                  plan: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """Tell the worker how to build, and wait for its answer.

        Args:
            settings: by the names of the wire
            plan: what only a worker of ours understands

        Raises:
            BossError: it refuses, or the connection has ended
        """
        self.send(messages.Configure(dict(settings), dict(self.toolchains), dict(plan or {}),
                                     messages.PROTOCOL_VERSION))
        return messages.as_received(self.expect(messages.ConfigureDone))

    def build_prepare(self, commits: Optional[Sequence[Any]]) -> None:
        """Have the worker make its worktrees; answers come by recv().

        Args:
            commits: oldest first, with a `hash` each, or hashes; None for the
                source as it was pushed
        """
        hashes = tuple(_hash_of(commit) for commit in commits) if commits else (None,)
        self.send(messages.BuildPrepare(hashes, self.max_boards))

    def build_board(self, board: str, arch: str) -> None:
        """Have the worker build a board at all commits."""
        self.send(messages.BuildBoard(board, arch))

    def build_boards(self, boards: Iterable[Any], commits: Optional[Sequence[Any]]) -> None:
        """Have the worker build several boards, then say so.

        Args:
            boards: with `target` and `arch` each, or {'board':, 'arch':}
            commits: as for build_prepare()
        """
        items = tuple(messages.BuildBoard(*_board_of(board)) for board in boards)
        hashes = tuple(_hash_of(commit) for commit in commits) if commits else (None,)
        self.send(messages.BuildBoards(items, hashes))

    def build_done(self) -> None:
        """Tell the worker that no more boards come."""
        self.send(messages.FinishBuild())

    def quit(self) -> Dict[str, Any]:
        """Ask the worker to end, free the machine and return the worker's answer.

        Raises:
            BossError: the connection had ended before, or there is no answer
        """
        self.closing = True
        try:
            self.divert(None)
            self.send(messages.Quit())
            deadline = awake.now() + QUIT_TIME
            while True:
                msg = self._next(max(0.0, deadline - awake.now()))
                if isinstance(msg, messages.QuitAck):
                    return messages.as_received(msg)
        finally:
            self.close()
            with contextlib.suppress(BuildmanError):
                self.remove_lock()

    def remove_lock(self) -> None:
        """Free the machine, in case that its worker could not.

        Raises:
            BossError: it cannot be reached
        """
        if self.work_dir:
            _run_ssh(self.address, scripts.remove_lock_script(self.work_dir, self.owner.run),
                     self._timeout)


# As it is here: callers put stand-ins for it in the class, too
_OWN_RECV = RemoteWorker.recv


def receives_by_itself(worker: Any) -> bool:
    """Return whether a worker is a RemoteWorker whose recv() nobody has replaced.

    What says that it is one (a mock with a spec) need not have its class.
    """
    return (isinstance(worker, Connection) and getattr(type(worker), 'recv', None) is _OWN_RECV
            and 'recv' not in vars(worker))


def _hash_of(commit: Any) -> Optional[str]:
    """Return the hash of a commit, a hash, or None"""
    value = getattr(commit, 'hash', commit)
    return None if value is None else str(value)


def _board_of(board: Any) -> Tuple[str, str]:
    """Return (target, arch) of a board or of its form on the wire"""
    if isinstance(board, Mapping):
        return str(board.get('board', '')), str(board.get('arch', ''))
    return str(board.target), str(board.arch)


def split_boards(board_selected: Optional[Mapping[str, Any]],
                 toolchains: Optional[Collection[str]]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Split boards by whether a remote machine has a compiler for them.

    Args:
        board_selected: target -> board; None for none
        toolchains: archs that have a remote toolchain; None for none

    Returns:
        (local, remote), both target -> board
    """
    local: Dict[str, Any] = {}
    remote: Dict[str, Any] = {}
    for target, board in (board_selected or {}).items():
        (remote if board.arch in (toolchains or ()) else local)[target] = board
    return local, remote


# What is built on this module and still found in it
_ELSEWHERE = {'WorkerPool': 'remote.pool', **dict.fromkeys(
    ('WORK_DIRS', 'clean_workers', 'kill_workers'), 'remote.fleet')}


def __getattr__(name: str) -> Any:
    """Give the names of `_ELSEWHERE`, loaded when they are asked for."""
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f'buildman.{_ELSEWHERE[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
