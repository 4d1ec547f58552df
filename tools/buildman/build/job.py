# SPDX-License-Identifier: GPL-2.0+
"""Builds one board at one commit after another, in the folder of one slot.

What comes out must not depend on what the folder was used for before: the
same board at the same commit gives the same result on any machine, in any
slot, after any interruption. Objects are kept all the same, as make can tell
which are out of date; these rules make that safe:

- Sources that a compiler complained about are remembered and their objects
  removed before the next build, so a warning shows at every commit and for
  every board, not only where the file happened to be compiled.
- Images are removed when the configuration changes, so a board without SPL
  does not inherit the SPL of another; and when the last build said anything,
  as the linker may have said it.
- make does not notice a new file that hides one which was read, nor a link that leads
  elsewhere: what was made of these is removed.
- A failure in a folder with older objects is not believed: the board is
  configured again and tried once more, with an empty folder where objects of another
  board were; but if it was one object, only that is made alone in another folder. What
  it says in the end comes from one job at a time.
- A folder whose last build was cut short is emptied; and when the clock is set
  back, as make goes by time stamps (`process.clock`).

A build that failed keeps what it has left, sizes and images included. But make leaves
the images of the commit before where they are when it does not get as far as linking
them again. So of these, only what was written since the build began is of this commit;
and nothing if it was cut short, as nobody knows what is half there.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from typing import Callable, Collection, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from buildman.build import artifacts, ccache, environment, trace
from buildman.build.folder import BuildFolder
from buildman.build.jobserver import JobServer
from buildman.build.keys import Keys
from buildman.build.make import Jobs, MakeRunner
from buildman.build.notes import NoteReader
from buildman.build.output import (
    Tidier,
    bounded,
    by_path,
    lacks_blobs_only,
    lone_object,
    machine_failure,
    make_failures,
    misses,
)
from buildman.build.sameobjects import SameObjects
from buildman.build.shared_dtc import DtcStore, SharedDtc
from buildman.core.errors import GitError
from buildman.core.files import clear_way
from buildman.core.outcome import TRIES, Outcome, write_tries
from buildman.core.plan import BoardJob, Commit, Settings
from buildman.process.clock import Clock, outdate
from buildman.process.registry import OutOfTime, ProcessGroups
from buildman.source.checkout import ChangedFiles, SlotSource

# Exit status of a make, what it printed, what went to stderr
Said = Tuple[int, bytes, bytes]

# Exit status of a build that took too long, as timeout(1) has it
TIMED_OUT = 124

# A commit that changes no more sources than this leaves little to compile
SMALL = 8

# So many results of a board are remembered, for commits that take back what one did
REMEMBERED = 4

# Ends of the names of files that no other source includes
_OF_ONE = ('.c', '.S', '.dts', '.md', '.py', '.rst', '.txt', '.yaml', '_defconfig')

# As the preprocessor takes it, with or without blanks
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*[<"]', re.MULTILINE)

# What binutils need of the environment
_TOOL_ENV = ('PATH', 'HOME', 'LC_ALL', 'LANG', 'LD_LIBRARY_PATH', 'TMPDIR')


@dataclasses.dataclass(frozen=True)
class SlotDirs:
    """Where a slot works.

    Attributes:
        source: folder that make is started in
        work: the .bm-work folder
        number: number of the slot
        results: folder of the results, for -w
        keeps: each board is to find its own objects again
    """

    source: str
    work: str
    number: int
    results: str = ''
    keeps: bool = False

    @property
    def stem(self) -> str:
        """Return the prefix of the slot's own files"""
        return os.path.join(self.work, f'{self.number:02}')

    @property
    def aside(self) -> str:
        """Return where build folders are put aside: with the source whose times they go by"""
        return os.path.join(self.stem, '.git', 'buildman-aside')


class MakeJob:
    """Builds boards in one slot, one after the other."""

    def __init__(self, dirs: SlotDirs, source: Optional[SlotSource],
                 commits: Optional[Sequence[Commit]], settings: Settings,
                 groups: ProcessGroups, jobs: Optional[JobServer],
                 changed: Optional[ChangedFiles], base_env: Mapping[str, str],
                 keys: Optional[Keys] = None,
                 shown_env: Optional[Mapping[str, str]] = None,
                 dtcs: Optional[DtcStore] = None, inputs: Collection[str] = (),
                 elsewhere: Optional[Mapping[str, str]] = None, largest: int = 0,
                 clock: Optional[Clock] = None) -> None:
        """Set up a slot; nothing is touched.

        Args:
            dirs: folders
            source: working tree that can move between commits; None: build
                `dirs.source` as it is
            commits: commits of the run, None for the current source
            settings: how to build
            groups: runs the makes
            jobs: job server; None when each make has -j of its own
            changed: tells which files changed between commits
            base_env: environment to start from
            keys: tells what must be the same for a result to be that of another commit
            shown_env: values that results show in place of those of this machine
            dtcs: where a dtc that boards share is kept; None: each builds its own
            inputs: variables that the tree reads, to be recorded
            elsewhere: paths of files from outside the tree, with those on the
                machine that the build was asked for on
            largest: bytes of an image that can be kept, 0 for any
            clock: tells when it is set back
        """
        self._dirs = dirs
        self._source = source
        self._commits = commits
        self._settings = settings
        self._make = MakeRunner(dirs.source, dirs.stem, settings, groups, jobs)
        self._jobs = settings.jobs if jobs is None else 0
        self._changed = changed
        self._base_env = base_env
        self._keys = keys if trace.carries(settings) else None
        self._shown_env = shown_env or {}
        self._dtcs = dtcs
        self._inputs = inputs
        self._elsewhere = elsewhere or {}
        self._largest = largest
        self._clock = clock or Clock()
        self._elf = artifacts.ElfReader()
        self._host_words: List[str] = []
        self._shown: Dict[str, str] = {}
        self._job: Optional[BoardJob] = None
        self._folder = BuildFolder('', False)
        self._tidier = Tidier(dirs.source, '', False)
        self._out_arg: List[str] = []
        self._prev: Optional[int] = None
        self._prefix = ''
        self._noisy = False
        self._complaints = 0
        self._failure: Optional[str] = None
        self._missing = ''
        self._found: Mapping[str, artifacts.Stamp] = {}
        self._cut_short = False
        # A failure that was none with one job
        self._chance: List[Tuple[int, str]] = []
        self._made: List[Tuple[trace.Trace, Outcome]] = []
        self._notes: Optional[NoteReader] = None

    # -- folders -----------------------------------------------------------

    def _choose_folder(self, job: BoardJob) -> None:
        """Decide where the build of this board goes"""
        dirs, settings = self._dirs, self._settings
        own, aside = True, ''
        if settings.work_in_output:
            path, self._out_arg, own = dirs.results, [f'O={dirs.results}'], False
            if os.path.realpath(path) == os.path.realpath(dirs.source):
                # make takes O= for another folder, and the source for one that is not clean
                self._out_arg = []
        elif settings.in_tree and self._source:
            path, self._out_arg, own = dirs.source, [], False
        elif settings.per_board_out_dir:
            path = os.path.join(dirs.work, job.board.target)
            self._out_arg = [f'O=../{job.board.target}' if self._source else f'O={path}']
        elif self._source:
            path = os.path.join(dirs.source, 'build')
            aside = dirs.aside if dirs.keeps else ''
            self._out_arg = ['O=build']
        else:
            # The folder as it is, which is the user's, stays clean. -i leaves out `build`
            path = dirs.stem if settings.in_tree else os.path.join(dirs.stem, 'build')
            self._out_arg = [f'O={path}']
        if self._folder.path != path:
            self._folder = BuildFolder(path, own, aside)
            self._tidier = Tidier(dirs.source, path, own, self._elsewhere)
            self._outdate()

    def _outdate(self) -> None:
        """Have nothing taken for up to date in a folder that is not ours to empty"""
        if not self._folder.own and self._out_arg:
            outdate(self._folder.path)

    @property
    def _in_slot_tree(self) -> bool:
        """Return whether the build goes into the slot's own working tree"""
        return self._source is not None and self._folder.path == self._dirs.source

    # -- one board ---------------------------------------------------------

    def start_board(self, job: BoardJob) -> None:
        """Make ready for the commits of a board.

        Raises:
            OSError: a folder cannot be made
        """
        self._job = job
        self._prev = None
        self._made = []
        self._complaints = 0
        self._choose_folder(job)
        any_slot = self._source and self._settings.per_board_out_dir
        self._folder.enter(job.toolchain, job.board.target,
                           self._dirs.number if any_slot else None)
        self._notes = None
        if self._keys and self._folder.own:
            self._notes = NoteReader(self._folder.path, self._dirs.source)
        env = environment.make_environment(
            job.toolchain, self._settings, self._base_env, self._dirs.work)
        self._shown = {}
        if self._folder.own or self._source:
            self._shown = environment.hide_folders(
                env, ((self._dirs.source, '.'), (self._folder.path, './build')),
                job.board.arch)
        if self._settings.ccache:
            env.update(ccache.environment(env, bool(self._shown)))
        by_name = self._settings.ccache and not (
            self._settings.full_path or job.toolchain.override)
        self._tidier.tools = by_path(job.toolchain.cross) if by_name else None
        self._prefix = environment.cross_prefix(job.toolchain)
        words = environment.make_arguments(
            job.toolchain, self._settings, job.make_args, jobs=self._jobs)
        if self._settings.ccache or os.path.basename(job.toolchain.wrapper) == 'ccache':
            name, before = ccache.past_ccache(env, words, job.toolchain.override)
            self._shown[name] = before
        self._make.start_board(job.board, self._folder.path, self._out_arg, words, env)
        self._host_words = environment.host_words(words, env)
        self._make.same = self._same_objects()

    def _same_objects(self) -> Optional[SameObjects]:
        """Return what spares objects of the board before, None if it is not to be asked"""
        settings = self._settings
        if not self._folder.own or settings.per_board_out_dir or any((
                settings.ccache, settings.config_only, settings.mrproper,
                # All that make does is told
                settings.verbose_build)):
            return None
        return SameObjects(self._folder.path, self._make.quietly)

    def end_board(self) -> None:
        """Keep the build folder for the next board.

        Not called after a build that was cut short: the folder is emptied then.
        """
        self._folder.leave()
        self._job = None

    def lend(self, use: Callable[[str], None]) -> None:
        """Let others look at the build folder, as it is between two boards.

        Args:
            use: copies it

        Raises:
            OSError: no space
        """
        self._folder.lend(use)

    def build(self, upto: int) -> Outcome:
        """Build the board at one commit.

        Args:
            upto: index of the commit

        Returns:
            what came out; its images lie in the slot's staging folder until
            they are taken

        Raises:
            OSError, GitError: this machine cannot do it
            jobserver.Stopped: everything is being stopped
        """
        started = time.monotonic()
        carried = self._carry(upto)
        if carried:
            return carried
        if self._clock.went_back():
            self._renew()
        outcome = self._build(upto)
        # A build, this one or another slot's, wrote to what they share? From now
        # on this one has files of its own, and this result does not count.
        spoiled = self._source is not None and self._source.spoiled()
        went_back = self._clock.went_back()
        if self._source and spoiled:
            self._source.unshare()
            self._forget_all()
        if went_back:
            self._renew()
        if spoiled or went_back:
            outcome.drop_images()
            outcome = dataclasses.replace(self._build(upto), reconfigured=outcome.reconfigured)
        outcome = self._retry(outcome)
        self._trace(outcome)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _retry(self, outcome: Outcome) -> Outcome:
        """Return what comes out of a failed build when it is tried again (--retry)

        Each try begins anew, with an empty folder. What the machine is to blame for is
        tried again elsewhere.
        """
        failed = list(self._chance)
        for _ in range(self._settings.retry):
            if not outcome.return_code or outcome.infra:
                break
            failed.append((outcome.return_code, outcome.stderr))
            outcome.drop_images()
            self._forget()
            outcome = dataclasses.replace(self._build(outcome.commit_upto),
                                          reconfigured=outcome.reconfigured)
            failed += self._chance
        if failed and self._settings.retry:
            outcome.files[TRIES] = write_tries(failed)
        return outcome

    def _build(self, upto: int) -> Outcome:
        """Bring the source to a commit and build the board, whatever there is already"""
        assert self._job is not None
        job = self._job
        if self._source and self._commits is not None:
            commit = self._commits[upto].hash
            self._source.checkout(commit)
            self._compare(commit)
        again, images = self._what_changed(upto)
        first = self._prev is None
        lasting = not (first or again or images) and self._fails_still(upto)
        configure = (first or again or (lasting and not self._missing)
                     or self._settings.force_reconfig)
        if configure or images or self._noisy:
            if self._in_slot_tree and self._source:
                self._source.clean()
                configure = True
            if configure and self._make.same:
                self._make.same.begin()
            self._folder.remove_images(configure)
        self._folder.remove_diagnosed()
        self._make.dtc = self._find_dtc(upto)
        had_objects = not first or self._folder.used
        self._chance = []
        self._found, self._cut_short = artifacts.stamps(self._folder.path), False
        self._make.start_build()
        try:
            configure, (code, out, err) = self._try(
                configure, had_objects, self._failure if lasting else None,
                Jobs.ONE if lasting or (not configure and self._is_small(upto)) else Jobs.MANY)
        except OutOfTime as exc:
            return self._out_of_time(upto, exc)
        self._prev = upto if self._make.configured else None
        self._failure = self._tidier.complaints(err) if code else None
        self._noisy = bool(err)
        outcome = Outcome(
            target=job.board.target, commit_upto=upto, return_code=code,
            stdout=self._tidier.said(out, self._settings.verbose_build),
            stderr=self._tidier.complaints(err),
            reconfigured=configure and not first)
        if code and not outcome.stderr:
            # Then what make says of itself is all there is
            outcome.stderr = self._tidier.said(err)
        outcome.infra = self._make.starved or machine_failure(code, outcome.stderr)
        self._collect(outcome)
        self._scan(outcome)
        if self._cut_short or (outcome.infra and outcome.infra.passes):
            # make was cut short, or what it ran: nobody knows what is half there
            self._forget()
        return outcome

    def _forget(self) -> None:
        """Begin anew with the next commit"""
        if self._folder.own:
            self._folder.empty()
        self._make.configured = False
        self._noisy = True
        self._prev = None
        self._made = []

    def _forget_all(self) -> None:
        """Begin anew with all boards"""
        self._forget()
        self._folder.drop_aside()

    def _renew(self) -> None:
        """Begin anew after the clock was set back: what is here may be newer than now"""
        if self._source:
            self._source.renew()
        self._outdate()
        self._forget_all()

    def _find_dtc(self, upto: int) -> Optional[SharedDtc]:
        """Return the dtc that all boards share at a commit, None if there is none"""
        settings = self._settings
        if not self._dtcs or settings.dtc_skip or settings.config_only:
            return None
        commit = self._commits[upto].hash if self._source and self._commits else ''
        return self._dtcs.get(self._dirs.source, commit, self._host_words, self._make.build_dtc)

    def _out_of_time(self, upto: int, exc: OutOfTime) -> Outcome:
        """Return the result of a build that took too long: a failure that says so"""
        assert self._job is not None
        out, err = self._make.said()
        waits = f", ended while it ran {', '.join(exc.running[:5])}" if exc.running else ''
        text = self._tidier.complaints(err)
        if text and not text.endswith('\n'):
            text += '\n'
        outcome = Outcome(
            target=self._job.board.target, commit_upto=upto, return_code=TIMED_OUT,
            stdout=self._tidier.said(out, self._settings.verbose_build),
            stderr=f'{text}buildman: the build took longer than {self._settings.timeout} seconds '
            f'(--timeout){waits}\n')
        self._collect(outcome)
        self._forget()
        return outcome

    def _step(self, upto: int) -> Optional[Mapping[str, str]]:
        """Return the files that differ from the commit built before, each with how.

        None when nothing was built before, or it is not known.
        """
        if self._prev is None or self._changed is None or self._commits is None:
            return None
        return self._changed.between(self._commits[self._prev].hash, self._commits[upto].hash)

    def _trace(self, outcome: Outcome) -> None:
        """Tell of a result what the build read, where that is known, and remember it"""
        assert self._job is not None
        if self._settings.keep_outputs:
            # The images that are there are those of the last build
            self._made = []
        # What came about by chance is told of the commit where it did
        if not self._notes or outcome.return_code or outcome.infra or TRIES in outcome.files:
            return
        assert self._keys is not None
        key = self._keys.key(self._job, outcome.commit_upto)
        reads = self._notes.read() if key else None
        if not reads:
            return
        inputs = self._config_inputs()
        reads = reads.with_configs(inputs, self._includes(inputs))
        found = trace.Trace(key, reads, self._keys.tree(outcome.commit_upto).digest(reads))
        outcome.files['trace'] = found.pack()
        self._made = [(found, outcome), *self._made[:REMEMBERED - 1]]

    def _carry(self, upto: int) -> Optional[Outcome]:
        """Return the result of an earlier commit that is that of another one, too"""
        assert self._job is not None
        if not self._made or not self._keys:
            return None
        key, tree = self._keys.key(self._job, upto), self._keys.tree(upto)
        for found, result in self._made:
            if found.fits(key, tree):
                outcome = dataclasses.replace(
                    result, commit_upto=upto, files=dict(result.files), images={}, seconds=0.0,
                    scan_seconds=0.0, reconfigured=False, skipped=True)
                self._stage(outcome)
                return outcome
        return None

    def _is_small(self, upto: int) -> bool:
        """Tell whether one job at a time will do for what a commit leaves to be built.

        When several sources were complained about, a build with more jobs is
        followed by one without, see _try(); that costs more than it saves when a
        commit changes some sources only.
        """
        if self._complaints < 2:
            return False
        names = self._step(upto)
        return names is not None and len(names) <= SMALL and all(
            name.endswith(('.c', '.S', '.dts')) for name in names)

    def _fails_still(self, upto: int) -> bool:
        """Tell whether a board that failed at the last commit is going to do so again.

        Then the try that counts after a failure, configured and with one job, is the first
        as well. This may be wrong; but when much is left to be built, that try takes long.
        """
        settings, names = self._settings, self._step(upto)
        if self._failure is None or self._in_slot_tree or settings.quick or (
                settings.fallback_mrproper):
            return False
        return names is not None and len(names) <= SMALL and not self._folder.blames(names) and (
            all(name.endswith(_OF_ONE) for name in names))

    def _try(self, configure: bool, had_objects: bool, failure: Optional[str],
             jobs: Jobs) -> Tuple[bool, Said]:
        """Build, and again when what came out may depend on chance.

        Leftovers in the folder may be to blame for a failure. And how far the
        other jobs of a make get after one has failed, or whose messages come
        first, differs from run to run; one job at a time, on top of what is
        there already, gives the same text on every machine.

        Args:
            configure: configure first
            had_objects: the folder has objects of earlier builds
            failure: what the last build in the folder said, if this one is to fail as well:
                it was tried as often as is needed; a failure that says the same is the same
            jobs: for the first attempt

        Returns:
            (whether it was configured, what _attempt() returned)
        """
        folder, settings = self._folder, self._settings
        missing = self._missing if failure is not None else ''
        got = self._attempt(configure, jobs, missing)
        if missing and self._tidier.complaints(got[2]) != failure:
            jobs, failure = Jobs.MANY, None
            got = self._once_more(jobs, False)
        self._complaints = folder.note_diagnosed(self._tidier.said(got[2]))
        if got[0] == 0 and jobs is not Jobs.ONE and self._complaints > 1:
            return configure, self._once_more(Jobs.ONE, False)
        if got[0] == 0 or got[0] >= 126 or settings.quick or self._make.starved:
            return configure, got
        if failure is not None and self._tidier.complaints(got[2]) == failure:
            self._finish()
            return configure, got
        self._missing = ''
        # With many jobs or as with many, what waits for nothing has come first
        seen, done = jobs is not Jobs.ONE, False
        if had_objects and configure and folder.own and self._fails_anew(got):
            # What is there is not to blame. But one job may come to something else first
            lone = self._lone(got)
            got, done = self._with_one_job(got), True
            had_objects = got[0] != 0 and self._lone(got) != lone
        if had_objects or settings.fallback_mrproper:
            if settings.fallback_mrproper:
                self._make.run('mrproper')
            elif configure and folder.own:
                folder.empty()
                seen = False
            done = seen
            if seen:
                got = self._with_one_job(got, configure=True)
            else:
                got = self._once_more(Jobs.MANY, True)
            configure = True
        if 0 < got[0] < 126 and not done and self._make.configured and not self._make.starved:
            got = self._with_one_job(got)
        if 0 < got[0] < 126 and not self._make.starved:
            self._finish()
        return configure, got

    def _with_one_job(self, got: Said, configure: bool = False) -> Said:
        """Return what comes out with one job at a time, after a failure with more.

        What failed before anything was compiled is then made alone: else the rest of the
        board would be made first, just for that to fail.
        """
        again, to_do = got, configure
        if self._waits_for_nothing(got) and not self._lone(got):
            # Which of them fails first is chance with many
            again, to_do = self._once_more(Jobs.NEXT, to_do), False
        self._missing = self._lone(again) if self._waits_for_nothing(again) else ''
        if self._missing:
            again, to_do = self._once_more(Jobs.ONE, to_do, self._missing), False
            if self._lone(again) != self._missing:
                again, self._missing = got, ''
        if 0 < again[0] < 126 and not self._missing and not self._make.starved and (
                to_do or self._make.configured):
            again = self._once_more(Jobs.ONE, to_do)
        if again[0] == 0 and not configure:
            self._chance = [(got[0], self._tidier.complaints(got[2]))]
        return again

    def _once_more(self, jobs: Jobs, configure: bool, goal: str = '') -> Said:
        """Try again; which images the other jobs of the last try got done is chance"""
        self._folder.remove_images(configure)
        self._folder.remove_diagnosed()
        got = self._attempt(configure, jobs, goal)
        self._folder.note_diagnosed(self._tidier.said(got[2]))
        return got

    def _waits_for_nothing(self, got: Said) -> bool:
        """Tell whether something is missing that a build needs before it compiles anything"""
        return 0 < got[0] < 126 and bool(misses(self._tidier.said(got[2]))) and not (
            self._folder.has_objects(self._make.began))

    def _lone(self, got: Said) -> str:
        """Return what could not be made if that can be made alone with little else, else ''"""
        said = self._tidier.said(got[2])
        alone = len(make_failures(said)) == 1 and self._waits_for_nothing(got)
        return misses(said)[0] if alone else lone_object(said)

    def _fails_anew(self, got: Said) -> bool:
        """Tell whether a failure can have nothing to do with what was in the folder.

        That is so when nothing but one thing failed, and does so where nothing is.
        """
        lone = self._lone(got)
        if not lone or self._settings.fallback_mrproper or not self._make.configured:
            return False
        # Of that name it goes when a run begins, if this one is killed
        folder = f'{self._dirs.stem}.alone.new'
        clear_way(folder)
        try:
            return self._make.fails_anew(lone, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _finish(self) -> None:
        """After a failure that came when an image was linked, make the other ones, too.

        An image that is too large, say: the sizes of all are wanted then, and most of
        what they are made of is there. Which of them other jobs had got done is chance.
        After a failure to compile this is not worth the time that it takes.
        """
        if self._make.configured and artifacts.elf_images(self._folder.path, self._left_alone()):
            code, err = self._make.finish()
            self._folder.note_diagnosed(self._tidier.said(err))
            self._cut_short = code >= 126

    def _attempt(self, configure: bool, jobs: Jobs, goal: str = '') -> Said:
        """Do what MakeRunner.attempt() does; that blobs are missing is no failure"""
        code, out, err = self._make.attempt(configure, jobs, goal)
        if lacks_blobs_only(code, self._tidier.said(err)):
            code = 0
        return code, out, err

    def _what_changed(self, upto: int) -> Tuple[bool, bool]:
        """Find out what the step from the commit built before this one means.

        Returns:
            (whether to configure again, whether to remove the images)
        """
        names = self._step(upto)
        if names is None:
            return False, False
        assert self._job is not None
        inputs = self._config_inputs()
        images = any(('/' not in name and name.endswith(('Makefile', '.mk', 'Kbuild')))
                     or name.startswith('scripts/') for name in names)
        if not self._settings.kconfig_check:
            return False, images
        again = any(
            name in inputs if trace.is_config(name) else
            os.path.basename(name).startswith('Kconfig')
            or name.startswith('scripts/kconfig/')
            or name.endswith('.config')
            or (name.startswith('configs/') and not name.endswith('.buildman'))
            for name in names)
        if not again and any(trace.is_config(name) for name in names):
            again = self._includes(inputs)
        return again, images

    def _compare(self, commit: str) -> None:
        """Remove objects that make would take for up to date, though a new file is to be read.

        That is one that hides another, or a link: its time is that of what it leads to.
        """
        folder, changed = self._folder, self._changed
        if not folder.own or not changed or commit == folder.commit:
            return
        try:
            names = changed.between(folder.commit, commit) if folder.commit else {}
        except GitError:
            names = None
        if names is None or any(how != 'D' and os.path.islink(
                os.path.join(self._dirs.source, name)) for name, how in names.items()):
            self._forget()
        else:
            folder.remove_made_of({os.path.basename(name) for name, how in names.items()
                                   if how in 'AT'})
        folder.commit = commit

    def _config_inputs(self) -> List[str]:
        """Return the files in configs/ that the board is configured with: defconfig, fragments"""
        assert self._job is not None
        board = self._job.board
        return [f'configs/{name}' for name in (
            board.defconfig, *board.fragments, *self._settings.fragments)]

    def _includes(self, inputs: Sequence[str]) -> bool:
        """Return whether one of these includes other files

        A fragment that is not there is elsewhere, below board/.
        """
        for num, name in enumerate(inputs):
            try:
                with open(os.path.join(self._dirs.source, name), 'rb') as inf:
                    if _INCLUDE.search(inf.read()):
                        return True
            except OSError:
                if not num:
                    return True
        return False

    # -- what is left over -------------------------------------------------

    def _collect(self, outcome: Outcome) -> None:
        """Add the files of the result; what was said is kept within bounds"""
        assert self._job is not None
        outcome.stdout, outcome.stderr = bounded(outcome.stdout), bounded(outcome.stderr)
        tool, settings = self._job.toolchain, self._settings
        files = outcome.files
        files['toolchain'] = environment.toolchain_file(tool, outcome.return_code)
        files['out-env'] = self._shown_environment()
        files['out-cmd'] = self._tidier.text(self._make.commands()).encode(
            'utf-8', 'surrogateescape')
        # After a failure to configure, what lies there is another board's
        if self._make.configured:
            files.update(artifacts.collect_config(self._folder.path))
        if (settings.config_only or not self._make.configured or self._cut_short
                or outcome.return_code >= TIMED_OUT
                or (outcome.infra and outcome.infra.passes)):
            return
        stale = self._left_alone() if outcome.return_code else frozenset()
        env = {name: self._make.env[name] for name in _TOOL_ENV if name in self._make.env}
        outcome.sizes, elf_files = self._elf.read(self._folder.path, self._prefix, env, stale)
        files.update(elf_files)
        text = artifacts.default_env(self._folder.path, self._prefix, env, stale)
        if text:
            files['uboot.env'] = text
        self._stage(outcome, stale)

    def _left_alone(self) -> FrozenSet[str]:
        """Return the images that a build has not written to, below the build folder"""
        return frozenset(name for name, stamp in artifacts.stamps(self._folder.path).items()
                         if self._found.get(name) == stamp)

    def _scan(self, outcome: Outcome) -> None:
        """Add which lines of the source were compiled (--lines)

        Not for a failure: what was compiled until then says nothing of the commit.
        """
        if self._settings.lines and not outcome.return_code:
            # Large, and seldom asked for: a worker compiles what it loads at each start
            from buildman.build import dwarflines
            started = time.monotonic()
            outcome.files['lines'] = dwarflines.scan(
                self._folder.path, self._dirs.source, artifacts.PHASES)
            outcome.scan_seconds = time.monotonic() - started

    def _stage(self, outcome: Outcome, stale: FrozenSet[str] = frozenset()) -> None:
        """Copy the images of -k, but for stale ones, to where they can be taken from"""
        if self._settings.keep_outputs:
            stage = f'{self._dirs.stem}.stage-{outcome.target}-{outcome.commit_upto}'
            shutil.rmtree(stage, ignore_errors=True)
            os.makedirs(stage)
            outcome.images = artifacts.stage_images(self._folder.path, stage, stale,
                                                    self._largest)

    def _shown_environment(self) -> bytes:
        """Return the environment as it was asked for"""
        env = {**self._make.env, **self._shown, **self._shown_env}
        for name, shown in self._shown.items():
            if not shown:
                del env[name]
        return environment.out_env_file(env, (*self._inputs, *self._settings.variables))
