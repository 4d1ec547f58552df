# SPDX-License-Identifier: GPL-2.0+
"""Finds compilers and chooses one for each arch.

Looking for compilers only reads folders. Whether one runs is tried when it is
about to be chosen, or for the list of all. What is said of boards without a compiler
is here, too.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

from buildman import bsettings
from buildman.build.environment import SANDBOX, make_environment
from buildman.core.errors import ToolchainError as ToolchainError
from buildman.core.plan import Settings, Toolchain
from buildman.process import commands

if TYPE_CHECKING:
    from u_boot_pylib import terminal

import contextlib
from typing import Set

from buildman.build import environment
from buildman.core.plan import Board, BoardJob

# Lower is better. First those that [toolchain-prefix] names: by the path of the
# compiler, by a prefix with its folder, by a prefix on PATH
PRIORITY_FULL, PRIORITY_PREFIX, PRIORITY_PREFIX_ON_PATH = range(3)

# Then those below the folder that `download` names: --fetch-arch has put them there,
# which was asked for
PRIORITY_DOWNLOAD = 3

# Then by what the path of the compiler holds, the first that is in it
_NAME_PRIORITY = (('-elf', 4), ('-unknown-linux-gnu', 5), ('-linux', 6), ('-uclinux', 9),
                  ('-none-eabi', 10))
_OTHER_PRIORITY = 15

# Used when neither the arch nor what [toolchain-alias] says for it is found
_ALIASES = {
    'arm64': ('aarch64',),
    'riscv': ('riscv64', 'riscv32'),
    'sh': ('sh4', 'sh2'),
    'x86': ('i386', 'i686', 'x86_64'),
}

# The key of [toolchain] that --fetch-arch writes
DOWNLOAD = 'download'

# How long a compiler may take to tell its version, in seconds
TEST_TIMEOUT = 20


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A compiler that was found.

    Attributes:
        arch: what it builds for, from its name or as the configuration says
        gcc: its path, as it was found
        priority: lower is better; of equals, the one found first
    """

    arch: str
    gcc: str
    priority: int


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where was looked for compilers.

    Attributes:
        lines: what was done there, for the list
        found: what came of it
    """

    lines: Tuple[str, ...]
    found: Tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True)
class _Test:
    """What came of running a compiler.

    Attributes:
        works: it told its version
        stdout: what it printed
        reason: why it does not work, else ''
    """

    works: bool
    stdout: str = ''
    reason: str = ''

    @property
    def version(self) -> str:
        """Return the line that tells its version."""
        return self.stdout.strip().partition('\n')[0]


def arch_of(path: str) -> str:
    """Return the arch that the name of a compiler speaks of; 'gcc' is the host's."""
    name = os.path.basename(path)
    return name.split('-')[0] if '-' in name else SANDBOX


def priority_of(path: str) -> int:
    """Return how good a compiler is by its path, lower is better."""
    return next((priority for text, priority in _NAME_PRIORITY if text in path),
                _OTHER_PRIORITY)


def cross_of(path: str) -> str:
    """Return the prefix in the name of a compiler, e.g. 'arm-linux-gnueabihf-'."""
    name = os.path.basename(path)
    return name[:name.rfind('-') + 1]


def other_names(arch: str) -> Sequence[str]:
    """Return the archs whose compilers can build for an arch, besides its own."""
    return _ALIASES.get(arch, ())


def test_compiler(path: str) -> _Test:
    """Find out whether a compiler runs: it is asked for its version."""
    try:
        answer = commands.run([path, '--version'], TEST_TIMEOUT,
                             env={**os.environ, 'LC_ALL': 'C'})
    except subprocess.TimeoutExpired:
        return _Test(False, '', f'still running after {TEST_TIMEOUT:g} seconds')
    except OSError as exc:
        return _Test(False, '', f'{exc.strerror or exc}: {exc.filename or path}')
    if not answer.returncode:
        return _Test(True, answer.stdout)
    said = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    how = (f'exit status {answer.returncode}' if answer.returncode > 0
           else f'ended by signal {-answer.returncode}')
    return _Test(False, answer.stdout, said[-1] if said else how)


def _executables(folder: str, wanted: str) -> List[str]:
    """Return the programs on PATH with a name, in the order of PATH."""
    paths = (os.path.join(place, wanted) for place in folder.split(os.pathsep) if place)
    return [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]


def compilers_in(folder: str) -> List[str]:
    """Return the paths of all that is called '…gcc' in a folder, in the folder's order."""
    try:
        with os.scandir(folder) as entries:
            return [os.path.join(folder, entry.name) for entry in entries
                    if entry.name.endswith('gcc') and not entry.name.startswith('.')]
    except OSError:
        return []


def folders_of(value: str) -> List[str]:
    """Return the folders that a value in [toolchain] names: a path, or a pattern of paths."""
    pattern = os.path.expanduser(value)
    if glob.has_magic(pattern) and not os.path.isdir(pattern):
        return glob.glob(pattern)
    return [pattern] if pattern else []


def searched_in(path: str) -> List[str]:
    """Return where compilers are looked for in a folder of [toolchain]."""
    return [os.path.join(path, sub) for sub in ('.', 'bin', 'usr/bin')]


class Toolchains:
    """The compilers of this machine, as the configuration and PATH give them.

    Attributes:
        warnings: what is odd about the configuration, one line each
        errors: what is wrong with it: compilers that were asked for and are
            not there
    """

    def __init__(self, override: str = '', path: Optional[str] = None) -> None:
        """Prepare to look for compilers; bsettings.setup() must have run.

        Args:
            override: compiler to use for sandbox (-O), or ''
            path: folders to search, default the environment's PATH
        """
        self.warnings: List[str] = []
        self.errors: List[str] = []
        self._override = override.strip()
        self._path = os.environ.get('PATH', os.defpath) if path is None else path
        self._is_scanned = False
        self._places: List[_Place] = []
        self._tests: Dict[str, _Test] = {}
        self._wrapper = ''
        self._aliases: Dict[str, List[str]] = {}

    # -- looking -----------------------------------------------------------

    def scan(self, strict: bool = True) -> None:
        """Look for compilers, without running any.

        Args:
            strict: insist on what the configuration asks for by name

        Raises:
            ToolchainError: a compiler of [toolchain-prefix] or -O, or the
                wrapper, is not there
        """
        self._scan()
        if strict:
            self._check()

    def _scan(self) -> None:
        """Look for compilers and note what is wrong."""
        self.warnings, self.errors, self._places = [], [], []
        self._tests, self._aliases, self._wrapper = {}, {}, ''
        self._is_scanned = True
        for arch, prefix in bsettings.get_items('toolchain-prefix'):
            self._places.append(self._scan_prefix(arch.lower(), os.path.expanduser(prefix)))
        entries = bsettings.get_items('toolchain')
        for name, value in entries:
            if not value:
                self.warnings.append(f"[toolchain] '{name}' has no path")
            # Upstream does not mind how it is spelled
            priority = PRIORITY_DOWNLOAD if name.lower() == DOWNLOAD else None
            for path in folders_of(value):
                self._places.append(self._scan_folders(path, searched_in(path), priority))
        if not entries or bsettings.is_default:
            # Nobody said where, so what the shell would find is fine
            for folder in dict.fromkeys(self._path.split(os.pathsep)):
                if os.path.isabs(folder):
                    self._places.append(self._scan_folders(folder, [folder]))
        if not any(place.found for place in self._places):
            where = bsettings.config_fname or '~/.buildman'
            self.warnings.append(
                "No tool chains: run 'buildman --fetch-arch all' to download them, or name "
                f"folders in the [toolchain] section of '{where}'")
        for arch, names in bsettings.get_items('toolchain-alias'):
            self._aliases[arch.lower()] = names.split()
        for name, value in bsettings.get_items('toolchain-wrapper'):
            # The last one holds, whatever it is called
            self._wrapper = value.strip()
            if not self._wrapper:
                self.warnings.append(f"[toolchain-wrapper] '{name}' has no command")

    def _scan_prefix(self, arch: str, prefix: str) -> _Place:
        """Look for the compiler that [toolchain-prefix] asks for."""
        found = []
        if os.path.isfile(prefix):
            found = [Candidate(arch, prefix, PRIORITY_FULL)]
        elif os.path.isfile(prefix + 'gcc'):
            found = [Candidate(arch, prefix + 'gcc', PRIORITY_PREFIX)]
        elif os.sep not in prefix:
            found = [Candidate(arch, path, PRIORITY_PREFIX_ON_PATH)
                     for path in _executables(self._path, prefix + 'gcc')]
        lines = [f"   - scanning prefix '{prefix}'"]
        if not found:
            self.errors.append(f"No tool chain found for prefix '{prefix}gcc'")
        return _Place(tuple(lines), tuple(found))

    @staticmethod
    def _scan_folders(path: str, folders: Sequence[str],
                      priority: Optional[int] = None) -> _Place:
        """Look for compilers in folders; `priority` None: as their paths say."""
        lines = [f"   - scanning path '{path}'"]
        found = []
        for folder in folders:
            lines.append(f"      - looking in '{folder}'")
            for gcc in compilers_in(folder):
                lines.append(f"         - found '{gcc}'")
                found.append(Candidate(
                    arch_of(gcc), gcc, priority_of(gcc) if priority is None else priority))
        return _Place(tuple(lines), tuple(found))

    def _check(self) -> None:
        """Make sure that what the configuration asks for is there.

        Raises:
            ToolchainError: a compiler or wrapper, or what -O names, is missing
        """
        where = bsettings.config_fname or '~/.buildman'
        if self.errors:
            raise ToolchainError(f"{self.errors[0]}: correct [toolchain-prefix] in '{where}'")
        self._override_path()
        if self._wrapper:
            try:
                program = shlex.split(self._wrapper)[0]
            except (ValueError, IndexError):
                program = self._wrapper
            if not shutil.which(program, path=self._path):
                raise ToolchainError(f"'{program}' not found: install it or correct "
                                     f"[toolchain-wrapper] in '{where}'")

    # -- choosing ----------------------------------------------------------

    def _candidates(self, arch: str) -> List[Candidate]:
        """Return the compilers for an arch, best first."""
        found = [cand for place in self._places for cand in place.found if cand.arch == arch]
        return sorted(found, key=lambda cand: cand.priority)

    def _test(self, gcc: str) -> _Test:
        """Return what came of running a compiler, which is done once."""
        if gcc not in self._tests:
            self._tests[gcc] = test_compiler(gcc)
        return self._tests[gcc]

    def select(self, arch: str) -> Toolchain:
        """Return the compiler to use for an arch, after trying that it runs.

        Raises:
            ToolchainError: there is none; says what to do
        """
        if not self._is_scanned:
            self.scan()
        if arch == SANDBOX and self._override:
            return self._select_override()
        broken = ''
        for name in (*self._aliases.get(arch, ()), arch, *other_names(arch)):
            for cand in self._candidates(name):
                test = self._test(cand.gcc)
                if test.works:
                    return self._make(cand)
                broken = broken or f"; '{cand.gcc}' does not run: {test.reason}"
                if cand.priority <= PRIORITY_PREFIX_ON_PATH:
                    # It was asked for by name: no other will do
                    raise ToolchainError(f"[toolchain-prefix] {arch}{broken[1:]}")
        where = bsettings.config_fname or '~/.buildman'
        wanted = self._aliases.get(arch, [arch])[0]
        get = 'install gcc' if arch == SANDBOX else f"run 'buildman --fetch-arch {wanted}'"
        raise ToolchainError(f"No tool chain found for arch '{arch}'{broken}: {get}, or name its "
                             f"folder in [toolchain] of '{where}'")

    def _make(self, cand: Candidate) -> Toolchain:
        """Return a candidate as what travels with a build.

        Raises:
            ToolchainError: make cannot be told to use it
        """
        gcc = os.path.join(os.getcwd(), cand.gcc)
        name = os.path.basename(gcc)
        cross = cross_of(gcc)
        override = ''
        if name != cross + 'gcc' and cand.priority <= PRIORITY_PREFIX_ON_PATH:
            if cand.arch != SANDBOX:
                raise ToolchainError(f"[toolchain-prefix] {cand.arch} = {cand.gcc}: make can "
                                     "only use a compiler whose name ends in 'gcc'")
            cross, override = '', gcc
        return Toolchain(arch=cand.arch, gcc=gcc, path=os.path.dirname(gcc), cross=cross,
                         wrapper=self._wrapper if cross else '', override=override,
                         version=self._test(cand.gcc).version)

    def _override_path(self) -> str:
        """Return the path of the compiler that -O names, '' without -O.

        It may be a command with words ('gcc -g', 'ccache clang'): make hands it to a shell.

        Raises:
            ToolchainError: it is not there
        """
        try:
            words = shlex.split(self._override)
        except ValueError as exc:
            raise ToolchainError(f'-O {self._override}: {str(exc).lower()}') from exc
        if not words:
            return ''
        program = shutil.which(words[0], path=self._path)
        if program is None:
            raise ToolchainError(f"-O {self._override}: '{words[0]}' not found")
        return program

    def _select_override(self) -> Toolchain:
        """Return the compiler that -O names.

        Raises:
            ToolchainError: it is not there or does not run
        """
        program = self._override_path()
        test = self._test(program)
        if not test.works:
            raise ToolchainError(f"-O {self._override}: '{program}' does not run: {test.reason}")
        host = next((os.path.join(os.getcwd(), cand.gcc) for cand in self._candidates(SANDBOX)),
                    os.path.abspath(program))
        return Toolchain(arch=SANDBOX, gcc=host, path=os.path.dirname(host), cross='',
                         override=self._override, version=test.version)

    # -- telling -----------------------------------------------------------

    def _test_all(self) -> None:
        """Try all compilers, several at a time."""
        if not self._is_scanned:
            self._scan()
        todo = list(dict.fromkeys(cand.gcc for place in self._places for cand in place.found
                                  if cand.gcc not in self._tests))
        # It takes a tenth of the start of a build, which does without it
        import concurrent.futures

        workers = min(len(todo), 2 * (os.cpu_count() or 1))
        if workers:
            with concurrent.futures.ThreadPoolExecutor(workers) as pool:
                self._tests.update(zip(todo, pool.map(test_compiler, todo)))

    def available(self) -> Dict[str, str]:
        """Return the compiler of each arch that has a working one: arch to path."""
        self._test_all()
        best: Dict[str, Candidate] = {}
        for place in self._places:
            for cand in place.found:
                if self._tests[cand.gcc].works and (
                        cand.arch not in best or cand.priority < best[cand.arch].priority):
                    best[cand.arch] = cand
        return {arch: best[arch].gcc for arch in sorted(best)}

    def problems(self) -> List[str]:
        """Return one line for each compiler that was tried and does not run."""
        return [f"'{gcc}' does not run: {test.reason}" for gcc, test in self._tests.items()
                if not test.works]

    def list_lines(self, verbose: bool = False,
                   col: Optional[terminal.Color] = None) -> List[str]:
        """Return the lines of --list-tool-chains; upstream's text.

        Args:
            verbose: tell what was looked at, and what was preferred to what
            col: colours for the heading
        """
        chosen = self.available()
        heading = f'List of available toolchains ({len(chosen)}):'
        lines = self._scan_lines() if verbose else [f'Error: {text}' for text in self.errors]
        lines.append(col.build(col.BLUE, heading) if col else heading)
        lines += [f'{arch:<10}: {gcc}' for arch, gcc in chosen.items()] or ['None']
        return [*lines, '']

    def _scan_lines(self) -> List[str]:
        """Return what was looked at and what came of it."""
        lines = ['Scanning for tool chains']
        best: Dict[str, int] = {}
        failures = iter(self.errors)
        for place in self._places:
            lines += place.lines
            if not place.found and 'scanning prefix' in place.lines[0]:
                lines.append(f'Error: {next(failures)}')
            for cand in place.found:
                test = self._tests[cand.gcc]
                if not test.works:
                    lines += ['Tool chain test:  BAD', f'Command: {cand.gcc} --version',
                              *test.stdout.split('\n'), '']
                    continue
                lines.append(f"Tool chain test:  OK, arch='{cand.arch}', "
                             f'priority {cand.priority}')
                other = best.get(cand.arch)
                if other is not None and other <= cand.priority:
                    lines.append(
                        f"Toolchain '{cand.gcc}' at priority {cand.priority} will be ignored "
                        f"because another toolchain for arch '{cand.arch}' has priority {other}")
                else:
                    best[cand.arch] = cand.priority
        return lines

    # -- for other programs of a U-Boot tree -------------------------------

    # tools/qconfig.py (before 2023.10 tools/moveconfig.py) finds the compilers of a
    # tree's boards with these, and the names are as it spells them

    def GetSettings(self) -> None:
        """Do nothing: the configuration is read by Scan()."""

    def Scan(self, verbose: bool = False) -> None:
        """Look for compilers; what is wrong with the configuration is told on stderr.

        Args:
            verbose: tell where
        """
        self._scan()
        for place in self._places if verbose else ():
            print('\n'.join(place.lines))
        for text in (*self.errors, *self.warnings):
            print(f'Warning: {text}', file=sys.stderr)

    def Select(self, arch: str) -> 'CallersToolchain':
        """Return the compiler for an arch.

        Raises:
            ValueError: there is none
        """
        try:
            chosen = self.select(arch)
        except ToolchainError as exc:
            raise ValueError(str(exc)) from exc
        return CallersToolchain(**dataclasses.asdict(chosen))


class CallersToolchain(Toolchain):
    """A compiler for programs that start a make themselves."""

    def MakeEnvironment(self, full_path: bool = False) -> Dict[str, str]:
        """Return the environment for a make that uses this compiler.

        Args:
            full_path: name its folder in CROSS_COMPILE instead of PATH
        """
        return make_environment(self, Settings(full_path=full_path), os.environ)


@dataclasses.dataclass
class Choice:
    """The boards with their compilers.

    Attributes:
        jobs: all boards; the compiler of those that have none here is one
            without a path
        lacking: arch that this machine has no compiler for -> why, and what to do
    """

    jobs: List[BoardJob]
    lacking: Dict[str, str]

    def unbuildable(self) -> Set[str]:
        """Return the boards that this machine has no compiler for."""
        return {job.board.target for job in self.jobs if job.board.arch in self.lacking}


def choose_toolchains(selected: Sequence[Board], chains: Toolchains,
                      indexes: Tuple[int, ...]) -> Choice:
    """Find the compiler of each board."""
    known: Dict[str, Toolchain] = {}
    choice = Choice([], {})
    for board in selected:
        if board.arch not in known:
            try:
                known[board.arch] = chains.select(board.arch)
            except ToolchainError as exc:
                known[board.arch] = Toolchain(board.arch, '', '', '')
                choice.lacking[board.arch] = str(exc)
        choice.jobs.append(BoardJob(
            board, indexes, known[board.arch],
            environment.make_flags(board.target, bsettings.settings)))
    return choice


def why_nobody(choice: Choice, arch: str, is_distributed: bool) -> str:
    """Return why no board of an arch is built, and what to do, for people.

    Args:
        choice: the compilers of this machine
        arch: one that nobody has a compiler for who takes part
        is_distributed: other machines take part
    """
    here = choice.lacking.get(arch, '')
    if not is_distributed:
        return here
    if here:
        return f'{here}; no machine has one either (see --machines-fetch-arch)'
    return (f"no machine has a tool chain that may be used for arch '{arch}' (see --mach and "
            '--machines-fetch-arch); this one has, but takes no part')


def local_toolchains(override: str,
                     selected: Optional[Sequence[Board]]) -> Dict[str, Toolchain]:
    """Return the compilers of this machine by arch, those that are missing left out.

    Args:
        override: compiler for sandbox, '' for the usual
        selected: boards that need them; None for all that there are
    """
    chains = Toolchains(override)
    chains.scan()
    archs = (sorted(chains.available()) if selected is None
             else sorted({board.arch for board in selected}))
    found: Dict[str, Toolchain] = {}
    for arch in archs:
        with contextlib.suppress(ToolchainError):
            found[arch] = chains.select(arch)
    return found
