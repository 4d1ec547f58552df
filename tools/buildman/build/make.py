# SPDX-License-Identifier: GPL-2.0+
"""Runs make for one slot: how a board is configured, and what was said meanwhile.

What a build needs besides, and whether one attempt is enough, is decided in
`build.job`.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from buildman.build import environment
from buildman.build.jobserver import JobServer, one_job
from buildman.build.output import MAX_SAID, lone_object, misses, starved
from buildman.build.sameobjects import SameObjects
from buildman.build.shared_dtc import SharedDtc
from buildman.core.outcome import Failure
from buildman.core.plan import Board, Settings
from buildman.process.registry import ProcessGroups

# Of a log or error text longer than this many bytes the middle is not read. Much more
# than a result keeps, which is cut when the names of folders are out of it
MAX_TEXT = 3 * MAX_SAID


# What make reads of the configuration
AUTO_CONF = 'include/config/auto.conf'


class Jobs(enum.Enum):
    """How many jobs a make may have at a time, and which comes first.

    MANY: as many as there are processors free
    ONE: one, and each thing with all that it needs before the next one. So what comes
        first does not depend on what was made before
    NEXT: one, and as with many, what waits for nothing comes before what waits
    """

    MANY = enum.auto()
    ONE = enum.auto()
    NEXT = enum.auto()


class MakeRunner:
    """Runs the makes of one slot, for one board after the other.

    Attributes:
        configured: the build folder has the configuration of this board
        env: environment that make gets
        starved: what kept a make of this build from starting something
        began: what the last attempt has made is no older, in nanoseconds since the epoch
        dtc: what builds use instead of a dtc of their own
        host: what earlier boards have left of programs of the host, None if that is of no use
    """

    def __init__(self, source: str, stem: str, settings: Settings, groups: ProcessGroups,
                 jobs: Optional[JobServer]) -> None:
        """Set up; nothing is touched.

        Args:
            source: folder that make is started in
            stem: beginning of the names of the files for what it says
            settings: how to build
            groups: runs the makes
            jobs: job server; None when each make has -j of its own
        """
        self._source = source
        self._log = stem + '.log'
        self._err = stem + '.err'
        self._settings = settings
        self._groups = groups
        self._jobs = jobs
        self._target = ''
        self._config: List[str] = []
        self._build_dir = ''
        self._out_arg: List[str] = []
        self._words: List[str] = []
        self._said = b''
        self._left: Optional[float] = None
        self.configured = False
        self.began = 0
        self.starved: Optional[Failure] = None
        self.dtc: Optional[SharedDtc] = None
        self.same: Optional[SameObjects] = None
        self.env: Dict[str, str] = {}

    def start_board(self, board: Board, build_dir: str, out_arg: Sequence[str],
                    words: Sequence[str], env: Mapping[str, str]) -> None:
        """Take up a board.

        Args:
            board: the board
            build_dir: folder that the build goes into
            out_arg: what tells make of that folder
            words: what each make is told besides that and its targets
            env: environment for make
        """
        self._target = board.target
        self._config = [board.defconfig, *board.fragments, *self._settings.fragments]
        self._build_dir = build_dir
        self._out_arg = list(out_arg)
        self._words = list(words)
        self.env = dict(env)

    def start_build(self) -> None:
        """Let the time begin that one build may take (--timeout)."""
        self._left = float(self._settings.timeout) if self._settings.timeout else None
        self.starved = None

    def _command(self, *targets: str) -> List[str]:
        """Return the words of a make command"""
        if targets == ('mrproper',):
            return ['make', 'mrproper', *self._out_arg, *self._words]
        return ['make', *self._out_arg, *self._words, *targets]

    def _config_targets(self) -> List[str]:
        """Return what make is told in order to configure the board"""
        return self._config

    def _build_targets(self) -> List[str]:
        """Return what make is told in order to build"""
        if self._settings.config_only:
            return ['cfg']
        return [self._settings.target] if self._settings.target else []

    def run(self, *targets: str, jobs: Jobs = Jobs.MANY,
            env: Optional[Mapping[str, str]] = None) -> int:
        """Run make with these targets, output added to what was said.

        Args:
            targets: what to make
            jobs: how many at a time
            env: environment for this make, if it is another one

        Raises:
            OutOfTime: the build takes longer than it may
        """
        command = self._command(*targets)
        if self._settings.verbose_build:
            with open(self._log, 'a', encoding='utf-8') as outf:
                outf.write(' '.join(command) + '\n')
        code = self._start(command, env or self.env, jobs, self._log, self._err, limited=True)
        self.starved = self.starved or starved(self._read(self._err))
        return code

    def _start(self, command: List[str], env: Mapping[str, str], jobs: Jobs, log: str,
               err: str, limited: bool = False) -> int:
        """Run a make with the job server; what it says is added to these files

        limited: its time counts for the build (--timeout)
        """
        fds: Sequence[int] = ()
        # A job server that make starts must suit an older make that a board runs; one
        # that does not know this leaves it out
        flags = ' --jobserver-style=pipe' if self._settings.jobs else ''
        if self._settings.jobs == 1 and jobs is Jobs.MANY:
            jobs = Jobs.NEXT
        if jobs is Jobs.ONE and self._settings.jobs:
            command.append('-j1')  # the last one counts
        with contextlib.ExitStack() as stack:
            seat = stack.enter_context(self._jobs.token()) if self._jobs else None
            if jobs is Jobs.NEXT:
                flags, fds = stack.enter_context(one_job())
                if self._settings.jobs:
                    at = command.index('-j')
                    command = command[:at] + command[at + 2:]
            elif seat and jobs is Jobs.MANY:
                flags, fds = seat.makeflags, seat.fds
            if flags:
                env = {**env, 'MAKEFLAGS': f"{flags} {env.get('MAKEFLAGS', '')}".rstrip(' ')}
            # The wait for a token does not count: others may hold it
            started = time.monotonic()
            code = self._groups.run(
                command, cwd=self._source, env=env, stdout=log, stderr=err, tag=self._target,
                pass_fds=fds, seconds=self._left if limited else None)
            if limited and self._left is not None:
                self._left -= time.monotonic() - started
            if seat and code >= 126:
                seat.killed = True
        return code

    def build_dtc(self, folder: str) -> int:
        """Build dtc, and pylibfdt if that can be, in a folder of their own.

        Any board will do for the configuration.

        Returns:
            0 when that worked without a complaint, -1 when make was ended
        """
        log, err = (os.path.join(folder, name) for name in ('log', 'err'))
        for goals in (self._config_targets(), ['scripts_dtc', 'CONFIG_PYLIBFDT=y'],
                      ['scripts_dtc']):
            command = ['make', f'O={folder}', *self._words, *goals]
            with open(err, 'wb'):
                pass
            code = self._start(command, self.env, Jobs.MANY, log, err)
            if code >= 128:
                return -1
            if code and goals[-1] != 'CONFIG_PYLIBFDT=y':
                return code
            if not code and goals[0] == 'scripts_dtc':
                return 1 if self._read(err) else 0
        return 1

    def fails_anew(self, target: str, folder: str) -> bool:
        """Make one thing that could not be made, in a folder in which there is nothing else.

        Args:
            target: what to make
            folder: where; it is made

        Returns:
            whether that fails as well; False when it cannot be found out so

        Raises:
            OSError: the folder cannot be made
            OutOfTime: the build takes longer than it may
        """
        if environment.adjustments(self._settings):
            return False
        log, err = (os.path.join(folder, name) for name in ('.log', '.err'))
        code = 0
        os.makedirs(folder)
        for goals in (self._config_targets(), [target]):
            if code:
                return False
            with open(err, 'wb'):
                pass
            env = self.dtc.environment(self.env, folder) if self.dtc else self.env
            code = self._start(['make', f'O={folder}', *self._words, *goals], env, Jobs.MANY, log,
                               err, limited=True)
        said = self._read(err)
        self.starved = self.starved or starved(said)
        text = said.decode('utf-8', 'replace')
        return (0 < code < 126 and not self.starved
                and target in (lone_object(text), *misses(text)[:1]))

    def attempt(self, configure: bool, jobs: Jobs, goal: str = '') -> Tuple[int, bytes, bytes]:
        """Configure if asked, then build.

        Args:
            configure: configure first
            jobs: how many at a time when it builds
            goal: all that is to be made, but for the configuration

        Returns:
            (exit status, what was printed, what went to stderr)
        """
        if configure:
            self._said = b''
        self._restart()
        code = 0
        if configure:
            self.configured = False
            code = self._configure()
            self.configured = code == 0
            if self.configured:
                if self._settings.verbose_build:
                    self._said = b''.join(self.said())
                self._restart()
                if self.same and self.same.begun:
                    self._renew(self.same)
        if code == 0:
            # By the clock of the file system, which may be another one's
            self.began = os.stat(self._err).st_mtime_ns
            env = self.dtc.environment(self.env, self._build_dir) if self.dtc else self.env
            code = self.run(*([goal] if goal else self._build_targets()), jobs=jobs, env=env)
        return (code, *self.said())

    def finish(self) -> Tuple[int, bytes]:
        """Make what can be made of a board that has failed, although something cannot.

        Returns:
            (exit status, what went to stderr); they are no part of the result

        Raises:
            OutOfTime: the build takes longer than it may
        """
        env = self.dtc.environment(self.env, self._build_dir) if self.dtc else self.env
        return self._apart([*self._command(*self._build_targets()), '-k'], env)

    def _apart(self, command: List[str], env: Mapping[str, str],
               limited: bool = True) -> Tuple[int, bytes]:
        """Run a make whose words are no part of the result; return status and what it said"""
        log, err = self._log + '.rest', self._err + '.rest'
        for name in (log, err):
            with open(name, 'wb'):
                pass
        code = self._start(command, env, Jobs.MANY, log, err, limited)
        said = self._read(err)
        self.starved = self.starved or starved(said)
        return code, said

    def quietly(self, words: Sequence[str]) -> int:
        """Run make on a Makefile of ours, with these words; return the exit status."""
        return self._apart(['make', *words], self.env, limited=False)[0]

    def _renew(self, same: SameObjects) -> None:
        """Spare what is made again for options that make no difference to it.

        These are known when make has brought up to date what is made of the configuration,
        as it does at the beginning of each build. If it has anything to say meanwhile, that
        belongs to the build, which then does it again.
        """
        code, said = self._apart(self._command(AUTO_CONF), self.env)
        if code or said or self._read(self._log + '.rest'):
            with contextlib.suppress(FileNotFoundError):
                os.utime(os.path.join(self._build_dir, AUTO_CONF), (0, 0))
            same.forget()
        else:
            same.renew()

    def _restart(self) -> None:
        """Forget what was said, but for what is part of every result.

        What is said when a board is configured tells of its defconfig and is no part
        of the build: it counts only if that fails. With -V it is in the log, and of
        every result that comes of that configuration, wherever it was made.
        """
        for name, text in ((self._log, self._said), (self._err, b'')):
            with open(name, 'wb') as outf:
                outf.write(text)

    def said(self) -> Tuple[bytes, bytes]:
        """Return what make has printed so far, and what went to stderr."""
        return self._read(self._log), self._read(self._err)

    def _configure(self) -> int:
        """Configure the board as its defconfig and the settings say"""
        if self._settings.mrproper:
            code = self.run('mrproper')
            if code:
                return code
        code = self.run(*self._config_targets())
        wanted = environment.adjustments(self._settings)
        if code == 0 and wanted:
            code = self._adjust(wanted)
        return code

    def _adjust(self, wanted: Sequence[str]) -> int:
        """Change the configuration, and check that Kconfig agrees"""
        path = os.path.join(self._build_dir, '.config')
        if not self._settings.adjust_cfg:
            # Nothing depends on what -r switches off
            self._edit_config(path, path, wanted)
            return 0
        # Changed in the short form, so that defaults which follow from the
        # change are worked out anew; then completed, as make itself would ask
        # for what came into reach and there is nobody to answer
        code = self.run('savedefconfig')
        if code == 0:
            self._edit_config(os.path.join(self._build_dir, 'defconfig'), path, wanted)
            code = self.run('olddefconfig')
        if code:
            return code
        text = self._read(path).decode('utf-8', 'surrogateescape')
        problems = environment.check_config(text, wanted)
        if problems:
            # The makes did as they were told: what they said is none of it
            with open(self._err, 'w', encoding='utf-8') as outf:
                outf.write('\n'.join(problems) + '\n')
            return 1
        return 0

    def _edit_config(self, source: str, dest: str, wanted: Sequence[str]) -> None:
        """Write a configuration with changes, unless that changes nothing"""
        text = environment.adjust_config(
            self._read(source).decode('utf-8', 'surrogateescape'), wanted)
        data = text.encode('utf-8', 'surrogateescape')
        if data != self._read(dest):
            with open(dest, 'wb') as outf:
                outf.write(data)

    def commands(self) -> str:
        """Return the commands that give this result from an empty folder, a line each.

        Not the ones that happened to be needed: after an interruption or on
        another machine those differ, while the result does not.
        """
        cmds = []
        if self._settings.mrproper:
            cmds.append(self._command('mrproper'))
        cmds.append(self._command(*self._config_targets()))
        if self.configured:
            cmds.append(self._command(*self._build_targets()))
        return ''.join(' '.join(words) + '\n' for words in cmds)

    @staticmethod
    def _read(path: str) -> bytes:
        """Return what a make wrote, without the middle when it is too much"""
        try:
            with open(path, 'rb') as inf:
                size = os.fstat(inf.fileno()).st_size
                if size <= MAX_TEXT:
                    return inf.read()
                head = inf.read(MAX_TEXT // 2)
                inf.seek(size - MAX_TEXT // 2)
                return head + b'\n[... %d bytes left out ...]\n' % (
                    size - MAX_TEXT) + inf.read(MAX_TEXT // 2)
        except FileNotFoundError:
            return b''
