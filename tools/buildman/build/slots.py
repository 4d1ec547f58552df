# SPDX-License-Identifier: GPL-2.0+
"""Carries out boards on this machine: slots, their sources, one job server.

The same engine runs in the boss for the local machine and in a worker on any
other one. It decides nothing: it takes boards and posts events, from the
threads of its slots, to whoever owns the run.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import threading
import time
from typing import Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Set, Tuple

from buildman.build import ccache, shared_dtc, siblings
from buildman.build.folder import boards_in, has_board, is_empty, put_aside, slot_of
from buildman.build.job import MakeJob, SlotDirs
from buildman.build.jobserver import JobServer, Stopped
from buildman.build.keys import Keys
from buildman.build.trace import Trees
from buildman.core.errors import BuildmanError, SetupError
from buildman.core.events import BoardDone, Built, Crashed, Event, SlotReady, Started, WorkerGone
from buildman.core.files import clear_non_folder, clear_way
from buildman.core.plan import BoardJob, Commit, Settings
from buildman.process import limits
from buildman.process.limits import cpu_count
from buildman.process.registry import ProcessGroups
from buildman.source import git
from buildman.source.checkout import ChangedFiles, SlotSource
from buildman.source.localversion import VersionTexts
from buildman.source.origin import Origin
from buildman.source.shared import NEW, Seed, Watches, remove_leftovers


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """What an engine needs to know, apart from the boards.

    Attributes:
        work_dir: folder of the slots
        source_dir: repository or the folder to build as it is
        commits: commits of the run, oldest first; None for the current source
        settings: how to build
        slots: how many boards to build at once
        tokens: how many compilers may run at once, on all slots together
        env: environment to start from
        shown_env: values that results show instead, where paths are not those
            of the machine that the build was asked for on
        results_dir: folder of the results, used with -w
        origin: what slots borrow, None for the repository as it is
        complain: takes a line about what is odd here
        name: name of this worker in its events, '' for the local machine
        inputs: variables that the tree reads, to be recorded
        elsewhere, largest: see MakeJob
        boards: those that are likely to be built; () if that is not known
        families: how many boards of each are likely to be built; None if that is not known
        keeps: boards are so few that each is to find its own objects again
        keys: tells what must be the same for results to be carried; None: made here
    """

    work_dir: str
    source_dir: str
    commits: Optional[Tuple[Commit, ...]]
    settings: Settings
    slots: int
    tokens: int
    env: Mapping[str, str]
    shown_env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    results_dir: str = ''
    origin: Optional[Origin] = None
    complain: Callable[[str], None] = lambda text: None
    name: str = ''
    inputs: FrozenSet[str] = frozenset()
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)
    largest: int = 0
    boards: Tuple[str, ...] = ()
    families: Optional[Mapping[siblings.Family, int]] = None
    keeps: bool = False
    keys: Optional[Keys] = None


class Engine:
    """Builds the boards that are submitted, and posts what happens."""

    def __init__(self, config: EngineConfig, post: Callable[[Event], None]) -> None:
        """Set up; nothing is started.

        Args:
            config: what to know
            post: called with each event, from several threads
        """
        self._config = config
        self._post = post
        self._groups = ProcessGroups()
        # As many as there can be processes for
        self._slots, tokens, self._short = limits.fitting(config.slots, config.tokens)
        self._server = (JobServer(tokens) if config.settings.jobs == 0 else None)
        self._queue: List[BoardJob] = []
        self._waiting = threading.Condition()
        # Board -> slot that has objects of it
        self._homes: Dict[str, int] = {}
        self._numbers: Sequence[int] = range(self._slots)
        # Slots that have nothing to do, or are not ready yet
        self._idle: Set[int] = set()
        self._threads: List[threading.Thread] = []
        self._lock = threading.Lock()
        # Board -> attempt that is wanted
        self._wanted: Dict[str, int] = {}
        self._stopping = False
        self._finishing = False
        self._alive = 0
        self._origin: Optional[Origin] = None
        self._changed: Optional[ChangedFiles] = None
        self._texts: Optional[VersionTexts] = None
        self._keys: Optional[Keys] = None
        self._seed: Optional[Seed] = None
        self._watches: Optional[Watches] = None
        self._dtcs: Optional[shared_dtc.DtcStore] = None
        self._meter: Optional[ccache.Meter] = None
        # What ccache is going to have
        self._built: Set[str] = set()
        self._siblings: Optional[siblings.Siblings] = None
        # One after the other, so that the first is ready soon
        self._gate = threading.Semaphore(cpu_count())

    @property
    def slots(self) -> int:
        """Return how many boards are built at once."""
        return self._slots

    def start(self) -> None:
        """Start the slots; each posts SlotReady when its source is there.

        Raises:
            BuildmanError: the repository cannot be read, or no program be run
            OSError: the work folder cannot be made
        """
        config = self._config
        if not self._slots:
            raise SetupError(f'this machine cannot start what a build needs: {self._short}')
        if self._short:
            config.complain(f'boards are built {self._slots} at a time: {self._short}')
        clear_non_folder(config.work_dir)
        os.makedirs(config.work_dir, exist_ok=True)
        refused = limits.why_no_program(config.work_dir)
        if refused:
            raise SetupError(f"programs in '{config.work_dir}', where builds put theirs, cannot be "
                             f'run: {refused}; choose another output folder with -o')
        # Images that nobody came to take, as the last run was killed
        for entry in list(os.scandir(config.work_dir)):
            if '.stage-' in entry.name:
                shutil.rmtree(entry.path)
        remove_leftovers(config.work_dir)
        if config.settings.shared_dtc:
            shared_dtc.remove_unfit(config.work_dir)
            self._dtcs = shared_dtc.DtcStore(config.work_dir)
        ccache.note_use(config.work_dir, config.settings.ccache)
        if config.settings.ccache:
            self._meter = ccache.Meter(config.env)
        if config.commits is not None:
            self._origin = config.origin or Origin.read(config.source_dir)
            self._changed = ChangedFiles(config.source_dir)
            self._keys = config.keys
            if not self._keys:
                self._texts = VersionTexts(os.path.join(config.work_dir, 'version.new'),
                                           self._origin)
                self._keys = Keys(config.source_dir, config.commits, config.settings, config.env,
                                  Trees(config.source_dir), self._texts)
            if not self._alone:
                self._find_homes()
            self._seed = self._plant(self._origin)
            if not self._alone:
                # Builds do not write to the source, as far as they should
                self._watches = Watches()
        settings = config.settings
        if self._slots > 1 and self._server and not (
                self._alone or settings.per_board_out_dir or settings.mrproper
                or settings.config_only):
            self._siblings = siblings.Siblings(
                # Of that name it goes when a run begins, if this one is killed
                os.path.join(config.work_dir, f'siblings{NEW}'), self._server.available,
                config.families)
        self._alive = self._slots
        self._idle = set(self._numbers)
        for number in self._numbers:
            thread = threading.Thread(target=self._guard_slot, args=(number,),
                                      name=f'slot-{number}', daemon=True)
            self._threads.append(thread)
            thread.start()

    def _find_homes(self) -> None:
        """Choose the slots that have objects of the boards that are likely to be built"""
        config = self._config
        for board in config.boards if config.settings.per_board_out_dir else ():
            slot = slot_of(os.path.join(config.work_dir, board))
            if slot is not None:
                self._homes[board] = slot
        for entry in os.scandir(config.work_dir):
            if re.fullmatch(r'\d\d+', entry.name) and entry.is_dir(follow_symlinks=False):
                number = int(entry.name)
                dirs = SlotDirs(entry.path, config.work_dir, number)
                for board in boards_in(os.path.join(entry.path, 'build'), dirs.aside):
                    self._homes.setdefault(board, number)
        wanted = {self._homes[board]: None for board in config.boards if board in self._homes}
        others = (number for number in itertools.count() if number not in wanted)
        self._numbers = list(itertools.islice(itertools.chain(wanted, others), self._slots))

    def _slot_path(self, number: int) -> str:
        """Return the folder for the source of a slot"""
        return os.path.join(self._config.work_dir, f'{number:02}')

    @property
    def _alone(self) -> bool:
        """Whether builds write into the source, so that slots must not share it"""
        return self._config.settings.in_tree or self._config.settings.work_in_output

    def _plant(self, origin: Origin) -> Optional[Seed]:
        """Return what new slots are made from; None when there are not several"""
        config = self._config
        new = sum(not os.path.lexists(self._slot_path(number)) for number in self._numbers)
        if not config.commits or self._alone or new < 2:
            return None
        first = config.commits[0].hash
        return Seed(config.work_dir, new,
                    lambda path: SlotSource(path, origin).prepare(first), self._run_quiet,
                    self._gate)

    def _run_quiet(self, argv: Sequence[str]) -> int:
        """Run a command that says nothing; stop() ends it"""
        return self._groups.run(argv, cwd=self._config.work_dir, env=self._config.env,
                                stdout=os.devnull, stderr=os.devnull)

    def submit(self, job: BoardJob) -> None:
        """Queue a board; its results come as events."""
        with self._lock:
            self._wanted[job.board.target] = job.attempt
        self._groups.allow(job.board.target)
        with self._waiting:
            self._queue.append(job)
            self._waiting.notify_all()

    def _take(self, number: int) -> Optional[BoardJob]:
        """Wait for a board for a slot; None when there are no more.

        Each goes to the slot that has objects of it, unless that is busy.
        """
        with self._waiting:
            self._idle.add(number)
            while not self._stopping:
                for job in sorted(self._queue, key=lambda job: number != self._homes.get(
                        job.board.target)):
                    home = self._homes.get(job.board.target)
                    if home == number or home not in self._idle or self._finishing:
                        self._queue.remove(job)
                        if not (self._config.keeps or self._config.settings.per_board_out_dir):
                            self._homes = {board: place for board, place in self._homes.items()
                                           if place != number}
                        self._homes[job.board.target] = number
                        self._idle.discard(number)
                        return job
                if self._finishing:
                    break
                self._waiting.wait()
            return None

    def _leave(self, number: int) -> None:
        """Let other slots have the boards of one that has ended"""
        with self._waiting:
            self._idle.discard(number)
            self._waiting.notify_all()

    def cancel(self, target: str) -> None:
        """Drop a board: what of it runs is ended, BoardDone tells the rest."""
        with self._lock:
            self._wanted.pop(target, None)
        self._groups.end(target)

    def finish(self) -> None:
        """Let the slots end when the queue is empty."""
        self._finishing = True
        if self._seed:
            self._seed.stop()
        with self._waiting:
            self._waiting.notify_all()

    def stop(self) -> None:
        """End all that runs, now: returns within about two seconds."""
        self._stopping = True
        if self._server:
            self._server.stop()
        if self._siblings:
            self._siblings.end()
        self.finish()
        self._groups.stop()
        # A slot may be checking out its source
        git.end_all()
        self.join(2)

    def cache_use(self) -> Optional[ccache.Use]:
        """Return what ccache did during this run; None when it was not asked, or does not tell."""
        return self._meter.use() if self._meter else None

    def join(self, seconds: float) -> bool:
        """Wait for the slots to end.

        Args:
            seconds: for all of them together, at most

        Returns:
            True when all have ended
        """
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        ended = not any(thread.is_alive() for thread in self._threads)
        if ended:
            if self._meter:
                ccache.note_boards(self._built, self._config.env)
            self._groups.close()
            if self._siblings:
                self._siblings.close()
            if self._watches:
                self._watches.close()
            if self._texts:
                self._texts.close()
            if self._server:
                self._server.close()
                self._server = None
        return ended

    # -- the slots' threads ------------------------------------------------

    def _guard_slot(self, number: int) -> None:
        """Run a slot; an error that nobody thought of ends the run, not just a thread.

        Without this, the loop would wait for ever for a board that nobody builds.
        """
        try:
            self._run_slot(number)
        except Exception as exc:
            if not self._stopping:
                self._post(Crashed(self._config.name, exc))
        finally:
            self._leave(number)

    def _run_slot(self, number: int) -> None:
        """Prepare a slot and build boards in it until told to end"""
        config = self._config
        try:
            maker = self._make_slot(number)
        except Stopped:
            return
        except (OSError, BuildmanError) as exc:
            with self._lock:
                self._alive -= 1
                last = self._alive == 0
            # One slot that cannot be made is a slot less; none is the end
            if last and not self._stopping:
                self._post(WorkerGone(config.name, f'no slot can be made: {_one_line(exc)}'))
            return
        self._post(SlotReady(config.name, number))
        while True:
            job = self._take(number)
            if job is None:
                return
            self._run_board(number, maker, job)

    def _make_slot(self, number: int) -> MakeJob:
        """Get the source of a slot ready

        Raises:
            GitError, OSError: it cannot be
            Stopped: it is not needed any more
        """
        config = self._config
        source: Optional[SlotSource] = None
        path, env = config.source_dir, config.env
        if self._origin and config.commits:
            path = self._slot_path(number)
            source = SlotSource(path, self._origin)
            self._prepare(source, config.commits[0].hash)
            if self._watches and self._changed:
                source.watch(self._watches, self._changed)
            more, wrong = source.stand()
            env = {**git.apart(env), **more}
            if wrong and number == self._numbers[0]:
                config.complain(wrong)
        dirs = SlotDirs(path, config.work_dir, number, config.results_dir, config.keeps)
        if source and not config.keeps:
            clear_way(dirs.aside)
        for end in ('.log', '.err'):
            clear_way(dirs.stem + end)
        if not source:
            clear_non_folder(dirs.stem)
        return MakeJob(dirs, source, config.commits, config.settings, self._groups,
                       self._server, self._changed, env, self._keys, config.shown_env,
                       self._dtcs, config.inputs, config.elsewhere, config.largest)

    def _prepare(self, source: SlotSource, commit: str) -> None:
        """Make the working tree of a slot, or take over that of an earlier run"""
        if self._seed and not os.path.lexists(source.path) and self._seed.fill(source.path):
            source.adopt(commit)
            return
        with self._gate:
            if self._finishing:
                raise Stopped
            wrong = source.prepare(commit, alone=self._alone)
        if wrong:
            self._config.complain(f"'{source.path}' was damaged, and is made anew: {wrong}")

    def _is_cancelled(self, job: BoardJob) -> bool:
        """Return whether a board was dropped"""
        with self._lock:
            return self._stopping or self._wanted.get(job.board.target) != job.attempt

    def _commit(self, upto: int) -> str:
        """Return the hash of a commit, '' for the source as it is"""
        return self._config.commits[upto].hash if self._config.commits else ''

    def _borrow(self, number: int, job: BoardJob) -> None:
        """Begin with a copy of what another slot has built, if that helps"""
        copies, config, target = self._siblings, self._config, job.board.target
        dirs = SlotDirs(config.source_dir, config.work_dir, number)
        if not copies or not job.commits or not siblings.is_large(
                dirs.stem if self._origin else dirs.source):
            return
        path, copying = os.path.join(dirs.stem, 'build'), copies.copying

        def copy(kept: str, maker: int) -> bool:
            if config.keeps and self._origin:
                put_aside(path, dirs.aside)
            return siblings.copy((self._slot_path(maker), kept), (dirs.stem, path),
                                 f'{dirs.stem}.build{NEW}', copying)

        if has_board(path, dirs.aside, target):
            copies.forget(number)
        else:
            copies.begin(number, siblings.family(job.board), self._commit(job.commits[0]),
                         is_empty(path), copy, lambda: not self._is_cancelled(job))

    def _run_board(self, number: int, maker: MakeJob, job: BoardJob) -> None:
        """Build a board at all its commits"""
        name, target = self._config.name, job.board.target
        left = list(job.commits)
        reason = ''
        try:
            if not self._is_cancelled(job):
                self._borrow(number, job)
                maker.start_board(job)
                self._build_commits(number, maker, job, left)
                if not left:
                    maker.end_board()
        except Stopped:
            pass
        except (OSError, BuildmanError) as exc:
            reason = _one_line(exc)
        finally:
            if self._siblings:
                self._siblings.give_up(number)
        if not self._stopping:
            self._post(BoardDone(name, target, tuple(left), reason, job.attempt))

    def _build_commits(self, number: int, maker: MakeJob, job: BoardJob,
                       left: List[int]) -> None:
        """Build the commits in `left`, taking each away when it is done"""
        name = self._config.name
        while left and not self._is_cancelled(job):
            self._post(Started(name, job.board.target, left[0], job.attempt))
            outcome = maker.build(left[0])
            # What was ended on purpose is no verdict
            if self._is_cancelled(job):
                outcome.drop_images()
                return
            outcome.machine = name
            self._post(Built(name, outcome, job.attempt))
            if not outcome.skipped:
                self._built.add(job.board.target)
            upto = left.pop(0)
            if self._siblings:
                good = not (outcome.return_code or outcome.infra or outcome.skipped)
                self._siblings.built(number, self._commit(upto), good, maker.lend)


def _one_line(exc: BaseException) -> str:
    """Return an error in one line, with the file that it is about"""
    if isinstance(exc, OSError) and exc.strerror:
        where = f": '{exc.filename}'" if exc.filename else ''
        return f'{exc.strerror}{where}'
    return str(exc)


def clean_env(env: Mapping[str, str]) -> Dict[str, str]:
    """Return an environment without what a surrounding make or git left in it."""
    drop = {'MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES', 'GNUMAKEFLAGS', 'MAKE_TERMOUT',
            'MAKE_TERMERR'}
    return git.by_folder({key: val for key, val in env.items() if key not in drop})
