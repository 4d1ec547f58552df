# SPDX-License-Identifier: GPL-2.0+
"""What is to be built: plain frozen data that travels whole to any machine.

Nothing in here reads a file, starts a process or knows about a machine. A
`Plan` made on the boss means the same build wherever it is carried out.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Mapping, Optional, Tuple

# More threads than any machine has, and boards that one builds at a time
MAX_BOARDS = 1024


def bounded_boards(wanted: int, threads: int) -> int:
    """Return how many boards a machine builds at a time.

    Args:
        wanted: what it is configured to build, or says that it can
        threads: that it says it has
    """
    return max(1, min(wanted, MAX_BOARDS, max(64, 4 * threads)))


@dataclasses.dataclass(frozen=True)
class Board:
    """One board, as Kconfig, its defconfig and MAINTAINERS describe it.

    Attributes:
        target: name of the defconfig without `_defconfig`
        arch: value of CONFIG_SYS_ARCH (aarch64 for 64-bit ARM), or '-'
        cpu, board_name, vendor, soc: the other CONFIG_SYS_… values, '' when
            the board has none
        status: 'Active' or 'Orphan', from MAINTAINERS; '-' when unknown
        maintainers: 'Name <mail>' each, in the order of MAINTAINERS
        base: for a board of -X, the board that it extends; its target is then
            'NAME,BASE'. '' for all others
        fragments: what is applied on top of the defconfig of `base`, e.g.
            'acpi.config'
    """

    target: str
    arch: str
    cpu: str = ''
    board_name: str = ''
    vendor: str = ''
    soc: str = ''
    status: str = 'Active'
    maintainers: Tuple[str, ...] = ()
    base: str = ''
    fragments: Tuple[str, ...] = ()

    @property
    def defconfig(self) -> str:
        """Name of the file in configs/ that it is configured with."""
        return f'{self.base or self.target}_defconfig'


@dataclasses.dataclass(frozen=True)
class Commit:
    """One commit to build.

    Attributes:
        hash: full object name
        subject: first line of the message
    """

    hash: str
    subject: str = ''


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """One compiler, found and tried.

    Attributes:
        arch: the arch that it was chosen for, e.g. 'arm'
        gcc: full path of the compiler
        path: folder that holds it
        cross: what CROSS_COMPILE is without a folder, e.g. 'arm-linux-gnueabihf-';
            '' for the host compiler
        wrapper: program put before the compiler (ccache, distcc), or ''
        override: compiler that -O names for sandbox, e.g. 'clang-14', or ''
        version: first line of what it says of its version, '' if it was not asked
    """

    arch: str
    gcc: str
    path: str
    cross: str
    wrapper: str = ''
    override: str = ''
    version: str = ''


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every choice that changes what a build does or leaves behind.

    This is the whole of it: what is not in here cannot make a build on another
    machine differ. The names are those that upstream's `configure` message
    uses, where it has one.
    """

    verbose_build: bool = False         # -V: make V=1, log what it prints
    allow_missing: bool = False         # -M: binman may fake missing blobs
    no_lto: bool = False                # -L
    reproducible_builds: bool = False   # -r: SOURCE_DATE_EPOCH=0
    warnings_as_errors: bool = False    # -E
    mrproper: bool = False              # -m: mrproper before each configure
    fallback_mrproper: bool = False     # --fallback-mrproper, on failure
    config_only: bool = False           # --config-only
    force_build: bool = False           # -f: build what is already built
    force_build_failures: bool = False  # -F: build what failed before
    kconfig_check: bool = True          # off with -Z
    force_reconfig: bool = False        # -C: configure for every commit
    ccache: bool = False                # --ccache
    keep_outputs: bool = False          # -k
    quick: bool = False                 # -Q: no second try after a failure
    in_tree: bool = False               # -i: build in the source of the slot
    work_in_output: bool = False        # -w: build in the result folder
    per_board_out_dir: bool = False     # -P: an O= folder for each board
    full_path: bool = False             # -p: CROSS_COMPILE with its folder
    dtc_skip: bool = False              # --dtc-skip: use the system's dtc
    shared_dtc: bool = False            # --shared-dtc: one dtc for all boards
    target: str = ''                    # --target: what make is to make
    adjust_cfg: Tuple[str, ...] = ()    # -a, one setting each
    fragments: Tuple[str, ...] = ()     # --fragments
    skip_unaffected: bool = True        # off with --no-skip-unaffected
    jobs: int = 0                       # -j of each make; 0: shared job server
    timeout: int = 0                    # --timeout, seconds for one build; 0: none
    retry: int = 0                      # --retry: more tries for what fails
    variables: Tuple[str, ...] = ()     # names in [worker-env]: shown in out-env
    lines: bool = False                 # --lines: tell which lines were compiled

    def to_dict(self) -> Dict[str, Any]:
        """Return the settings as JSON types, tuples as lists."""
        out = dataclasses.asdict(self)
        return {key: list(val) if isinstance(val, tuple) else val
                for key, val in out.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> 'Settings':
        """Return the settings that `data` holds; unknown keys are left out.

        Raises:
            TypeError: a known key has a value of the wrong type
        """
        known: Dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in data:
                continue
            val = data[field.name]
            default = field.default
            if isinstance(default, tuple):
                if isinstance(val, (str, bytes)) or not all(
                        isinstance(item, str) for item in val):
                    raise TypeError(f"setting '{field.name}' is not a list of strings")
                val = tuple(val)
            elif type(val) is not type(default):
                raise TypeError(f"setting '{field.name}' has type "
                                f'{type(val).__name__}')
            known[field.name] = val
        return cls(**known)


@dataclasses.dataclass(frozen=True)
class BoardJob:
    """One board with the commits that it still has to be built at.

    Attributes:
        board: the board
        commits: indexes into `Plan.commits`, ascending; (0,) when the current
            source is built
        toolchain: compiler to use
        make_args: extra words for make, from [make-flags]
        attempt: how often the board had been handed out then, this time included;
            all that comes back tells it. 0 from an older boss
    """

    board: Board
    commits: Tuple[int, ...]
    toolchain: Toolchain
    make_args: Tuple[str, ...] = ()
    attempt: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole run, decided before anything is started.

    Attributes:
        jobs: the boards to build, in the order of the board list
        commits: oldest first; None when the current source is built
        settings: how to build
        selected: indexes of the commits to build; (0,) for the current source
    """

    jobs: Tuple[BoardJob, ...]
    commits: Optional[Tuple[Commit, ...]]
    settings: Settings
    selected: Tuple[int, ...] = (0,)

    @property
    def commit_count(self) -> int:
        """Number of commits to build, 1 when the current source is built."""
        return len(self.selected)
