# SPDX-License-Identifier: GPL-2.0+
"""What came out of building one board at one commit."""

from __future__ import annotations

import dataclasses
import enum
import os
import re
import shutil
from typing import Dict, List, Optional, Sequence, Tuple

# All of the `err` of a board that nobody has a compiler for. make has a line of its
# own in what it says of a failure, so nothing that was built has this text alone.
_NO_COMPILER = re.compile(r'Tool chain error for [^\s:]+: [^\n]+\n?')

# File of a result with the tries that failed before it (--retry), and a heading in it
TRIES = 'tries'
_TRY = re.compile(r'^--- try \d+: exit status (\d+)\n', re.MULTILINE)

# make's exit status for errors
_MAKE_FAILED = 2


class FailureKind(enum.Enum):
    """What is wrong with a machine that fails a board; the value is what travels."""

    NO_SPACE = 'no-space'
    QUOTA = 'quota'
    NO_MEMORY = 'no-memory'
    NO_PROCESS = 'no-process'
    KILLED = 'killed'
    NO_MAKE = 'no-make'
    BAD_DISK = 'bad-disk'
    NO_RESULT = 'no-result'
    NO_COMMAND = 'no-command'
    NO_MODULE = 'no-module'
    NO_HEADER = 'no-header'
    NO_LIBRARY = 'no-library'
    NO_EXEC = 'no-exec'
    OTHER = 'other'


# What a machine lacks: that is so the next time as well, and worth reading
_LACKING = frozenset({FailureKind.NO_COMMAND, FailureKind.NO_MODULE, FailureKind.NO_HEADER,
                      FailureKind.NO_LIBRARY, FailureKind.NO_EXEC})


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a machine failed a board, which says nothing of the source.

    Attributes:
        kind: what decides what becomes of it
        text: for people, one line
    """

    kind: FailureKind
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def passes(self) -> bool:
        """True when it may be over the next time: no result then, however often it comes."""
        return self.kind not in _LACKING


@dataclasses.dataclass
class Outcome:
    """One board at one commit: make's verdict and all that it left behind.

    Attributes:
        target: the board
        commit_upto: index into the commits of the plan
        return_code: make's exit status
        stdout, stderr: what make printed, with paths relative to the source
        sizes: text of the `sizes` file, '' when there is none
        files: the other small files of the result tree, name to content
            (`.config`, `toolchain`, `u-boot.sizes`, …), without `done`, `err`,
            `log` and `sizes`
        images: large files kept with -k: name below the result folder to a
            staged file that the writer may move away
        seconds: how long it took, wall clock
        scan_seconds: how much of that it took to find out which lines were
            compiled (--lines)
        reconfigured: configured again although an earlier commit's build was
            there
        skipped: carried forward from the commit before, nothing was built
        infra: None for a verdict on the source; otherwise what is wrong with the
            machine (no space, command not found, killed by a signal)
        machine: name of the machine that built it, '' for this one
    """

    target: str
    commit_upto: int
    return_code: int
    stdout: str = ''
    stderr: str = ''
    sizes: str = ''
    files: Dict[str, bytes] = dataclasses.field(default_factory=dict)
    images: Dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    scan_seconds: float = 0.0
    reconfigured: bool = False
    skipped: bool = False
    infra: Optional[Failure] = None
    machine: str = ''

    @property
    def failed(self) -> bool:
        """True when make reported failure."""
        return self.return_code != 0

    @property
    def warned(self) -> bool:
        """True when make succeeded but wrote to stderr."""
        return self.return_code == 0 and bool(self.stderr)

    def drop_images(self) -> None:
        """Remove the staged images, of a result that nobody wants."""
        for folder in {os.path.dirname(path) for path in self.images.values()}:
            shutil.rmtree(folder, ignore_errors=True)
        self.images = {}


def write_tries(failed: Sequence[Tuple[int, str]]) -> bytes:
    """Return the content of TRIES: for each try its exit status and what it said."""
    return ''.join(f'--- try {num}: exit status {code}\n{text.rstrip()}\n'
                   for num, (code, text) in enumerate(failed, 1)).encode('utf-8', 'replace')


def read_tries(text: str) -> List[Tuple[int, str]]:
    """Return what write_tries() was given."""
    words = _TRY.split(text)
    return list(zip(map(int, words[1::2]), words[2::2]))


def without_compiler(target: str, arch: str, commit_upto: int) -> Outcome:
    """Return what stands for the result of a board that nobody has a compiler for.

    Its text says nothing of this machine, and is that of other buildmans.
    """
    return Outcome(target, commit_upto, _MAKE_FAILED, stderr=(
        f"Tool chain error for {arch}: No tool chain found for arch '{arch}'"))


def is_no_compiler(stderr: str) -> bool:
    """Return whether all that a board has to say is that there is no compiler for it."""
    return bool(_NO_COMPILER.fullmatch(stderr))


def lacks_compiler(return_code: int, stdout: str, stderr: str) -> bool:
    """Return whether a result says that there was no compiler, so nothing was built."""
    return return_code == _MAKE_FAILED and not stdout.strip() and is_no_compiler(stderr)
