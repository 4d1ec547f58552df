# SPDX-License-Identifier: GPL-2.0+
"""Make a small git repository shaped like U-Boot, to try and test builds on.

The sample has Kconfig, defconfigs, MAINTAINERS, a Makefile that takes what
U-Boot's takes (O=, -s, V=1, X_defconfig, …), boards of several arch values and
a branch in which boards break, warn and are mended. A board builds in a tenth
of a second with the host's gcc. What each board is to give at each commit is
told too, so that a test or a demo can compare.

    tree = make_sample('/tmp/sample')
    bin_dir = make_toolchains('/tmp/cross')
    write_config('/tmp/buildman.cfg', bin_dir)

The same arguments give the same commits, byte for byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import subprocess
import tempfile
from typing import Callable, Dict, List, Mapping, Optional, Sequence, TextIO, Tuple, Union

from buildman.cli import cmdline, control
from buildman.core import errors
from buildman.core.errors import SetupError
from buildman.demo import sample_files
from buildman.demo.sample_files import BoardSpec, TreeState
from buildman.source import git

Step = Tuple[str, Callable[[TreeState], None]]

# Where cross tools are looked for, by arch
CROSS_PREFIX = {
    'arm': 'arm-sample-linux-gnueabi-',
    'aarch64': 'aarch64-sample-linux-gnu-',
    'riscv64': 'riscv64-sample-linux-gnu-',
}
CROSS_TOOLS = ('gcc', 'ld', 'as', 'ar', 'nm', 'objcopy', 'objdump', 'readelf', 'size', 'strip')

# All commits are of one day, a minute apart
FIRST_DATE = 1672531200

# Machines of the demo
MACHINES = ('north', 'south')


@dataclasses.dataclass(frozen=True)
class SampleTree:
    """A sample repository and what to expect of it.

    Attributes:
        path: folder of the repository; `feature` is checked out
        branch: name of the branch to build
        commits: full hashes, the upstream commit first, as a build of the
            branch takes them
        subjects: their subjects
        boards: all boards of the last commit, in the order of `boards.cfg`
        expected: 'ok', 'warn' or 'fail' for (index into commits, target), for
            a build that starts from nothing
        incremental: the same for building all commits in order in one output
            folder, configuring again when Kconfig, the board's defconfig or
            one that it includes changed: a compiler's warning is seen only
            where its file is compiled
    """

    path: str
    branch: str
    commits: Tuple[str, ...]
    subjects: Tuple[str, ...]
    boards: Tuple[BoardSpec, ...]
    expected: Mapping[Tuple[int, str], str]
    incremental: Mapping[Tuple[int, str], str]

    @property
    def targets(self) -> Tuple[str, ...]:
        """Names of the boards."""
        return tuple(board.target for board in self.boards)

    def count(self, verdict: str) -> int:
        """Return how many builds are expected to be 'ok', 'warn' or 'fail'."""
        return sum(val == verdict for val in self.expected.values())


def _git(folder: str, *args: str, data: bytes = b'') -> str:
    """Run git, away from the user's configuration, and return what it prints.

    Raises:
        errors.GitError: git is not there or refused
    """
    return git.run(folder, *args, stdin=data, env=git.ALONE).decode('utf-8', 'replace')


def _break_anvil(state: TreeState) -> None:
    state.broken.add('board/acme/anvil')


def _mend_anvil(state: TreeState) -> None:
    state.broken.discard('board/acme/anvil')


def _warn_rocket(state: TreeState) -> None:
    state.unused.add('board/acme/rocket')


def _add_table(state: TreeState) -> None:
    state.tables += 1


def _add_pumpkin(state: TreeState) -> None:
    state.boards.append(sample_files.LATE_BOARD)


def _change_config(state: TreeState) -> None:
    state.bootdelay = 5
    state.netconsole = True
    for target in ('sandbox', 'rocket'):
        state.defconfig.setdefault(target, []).append('CONFIG_TFTP_BLOCKSIZE=512')


def _change_env(state: TreeState) -> None:
    state.env['ipaddr'] = '192.0.2.7'
    state.env['fdt_addr'] = '0x1000'
    del state.env['baudrate']
    state.unused.discard('board/acme/rocket')


def _spoil_dts(state: TreeState) -> None:
    state.bad_dts.add('hammock')


def rewrite_version_script(state: TreeState) -> None:
    """Have the version script that newer trees have."""
    state.twelve = True


# The branch: each commit on top of the one before
DEFAULT_STEPS: Tuple[Step, ...] = (
    ('common: Add a table that costs space', _add_table),
    ('acme: anvil: Break the build', _break_anvil),
    ('rocket/gpio: Größe: add a helper that nobody calls', _warn_rocket),
    ('acme: anvil: Mend the build', _mend_anvil),
    ('globex: Add the pumpkin board', _add_pumpkin),
    ('configs: Change defaults and two boards', _change_config),
    ('env: Change the default environment; drop the rocket helper', _change_env),
    ('dts: hammock: Forget a property', _spoil_dts),
)


def _random_step(rnd: random.Random, number: int) -> Step:
    """Return one more commit for a branch longer than the default one."""
    kind = rnd.choice(('table', 'break', 'mend', 'warn', 'note', 'env'))

    def change(state: TreeState) -> None:
        folder = rnd.choice(state.boards).folder
        state.note = f'Change {number}'
        if kind == 'table':
            state.tables += 1
        elif kind == 'break':
            state.broken.add(folder)
        elif kind == 'mend':
            state.broken.clear()
            state.unused.clear()
        elif kind == 'warn':
            state.unused.add(folder)
        elif kind == 'env':
            state.env['serial'] = f'{number:04}'

    return f'sample: Change {number}: {kind}', change


def _board_list(boards: Union[int, Sequence[BoardSpec], None]) -> List[BoardSpec]:
    """Return the boards that the tree begins with."""
    if boards is None:
        return list(sample_files.DEFAULT_BOARDS)
    if not isinstance(boards, int):
        return list(boards)
    out = list(sample_files.DEFAULT_BOARDS[:boards])
    arches = ('sandbox', *sample_files.CROSS_ARCHES)
    for number in range(boards - len(out)):
        out.append(BoardSpec(f'unit{number:03}', arches[number % len(arches)],
                             vendor='units', spl=number % 4 == 1))
    return out


def _step_list(commits: Union[int, Sequence[Step], None],
               rnd: random.Random) -> List[Step]:
    """Return the commits of the branch, without the upstream one."""
    if commits is None:
        return list(DEFAULT_STEPS)
    if not isinstance(commits, int):
        return list(commits)
    steps = list(DEFAULT_STEPS[:commits])
    return steps + [_random_step(rnd, number) for number in range(len(steps), commits)]


def _prebuilt() -> Dict[str, bytes]:
    """Return what a build leaves behind, for the instant tree to copy.

    Raises:
        errors.ToolchainError: gcc is not there or does not work
    """
    source = ('const char default_environment[] = "bootcmd=true\\0bootdelay=2\\0";\n'
              'int data = 3, bss;\nvoid _start(void) { for (bss = data;;); }\n')
    with tempfile.TemporaryDirectory(prefix='buildman-sample-') as tmp:
        image = os.path.join(tmp, 'u-boot')
        argv = ['gcc', '-nostdlib', '-static', '-ffreestanding', '-fno-pie', '-no-pie',
                '-Wl,--build-id=none', '-Wl,-z,norelro', '-s', '-x', 'c', '-', '-o', image]
        try:
            done = subprocess.run(argv, input=source.encode(), capture_output=True,
                                  check=False)
        except FileNotFoundError:
            raise errors.ToolchainError('gcc is not installed: it is needed for the '
                                        'sample') from None
        if done.returncode:
            message = done.stderr.decode('utf-8', 'replace').strip()
            raise errors.ToolchainError(f'gcc does not work: {message}')
        with open(image, 'rb') as inf:
            elf = inf.read()
    return {
        'u-boot': elf,
        'u-boot.bin': b'u-boot' * 100,
        'u-boot.map': b'.text 0x100000\n',
        'u-boot.cfg': b'#define CONFIG_SYS_BOARD "instant"\n',
        'include/autoconf.mk': b'CONFIG_SYS_BOARD="instant"\n',
        'include/generated/autoconf.h': b'#define CONFIG_BOOTDELAY 2\n',
    }


def _fast_import(folder: str, states: Sequence[Tuple[str, TreeState]],
                 prebuilt: Mapping[str, bytes]) -> None:
    """Write all commits with one git process: `master`, then `feature`."""
    stream: List[bytes] = []
    before: Dict[str, bytes] = {}
    for number, (subject, state) in enumerate(states):
        branch = 'feature' if number else 'master'
        message = f'{subject}\n\nWritten for the sample.\n'.encode()
        who = f'Ada Sample <ada@example.com> {FIRST_DATE + number * 60} +0000'
        stream.append(f'commit refs/heads/{branch}\nmark :{number + 1}\ncommitter {who}\n'
                      f'data {len(message)}\n'.encode() + message)
        if number:
            stream.append(f'from :{number}\n'.encode())
        files = sample_files.render(state, prebuilt)
        for path in sorted(before.keys() - files.keys()):
            stream.append(f'D {path}\n'.encode())
        for path, data in sorted(files.items()):
            if before.get(path) == data:
                continue
            mode = '100755' if data.startswith((b'#!', b'\x7fELF')) else '100644'
            stream.append(f'M {mode} inline {path}\ndata {len(data)}\n'.encode() + data + b'\n')
        before = files
    if len(states) == 1:
        stream.append(b'reset refs/heads/feature\nfrom :1\n')
    _git(folder, 'fast-import', '--quiet', data=b''.join(stream))


def make_sample(folder: str, boards: Union[int, Sequence[BoardSpec], None] = None,
                commits: Union[int, Sequence[Step], None] = None, seed: int = 0,
                instant: bool = False,
                knobs: Optional[Mapping[Tuple[int, str], Sequence[str]]] = None
                ) -> SampleTree:
    """Write the sample repository.

    Args:
        folder: where; it must be missing or empty
        boards: how many (the default ones first, then made-up ones called
            unit000, unit001, …), or which; None for the default seven
        commits: length of the branch beyond its upstream (the default eight,
            then random ones), or the steps (subject, function that changes the
            state); None for the default eight
        seed: of the random commits
        instant: builds only copy files, for measuring the build tool itself;
            they never fail
        knobs: (index of the commit, target) to lines of `knobs/TARGET`, in
            force until a later commit sets others; index 0 is upstream

    Returns:
        the repository, with the outcome to expect of each build

    Raises:
        errors.SetupError: the folder is in use or cannot be written
        errors.GitError: git is missing or fails
        errors.ToolchainError: instant, and gcc is missing or fails
    """
    knobs = knobs or {}
    states = [('Base of the sample',
               TreeState(_board_list(boards), instant=instant))]
    for subject, change in _step_list(commits, random.Random(seed)):
        state = states[-1][1].copy()
        change(state)
        states.append((subject, state))
    for (index, target), lines in sorted(knobs.items()):
        for _, state in states[index:]:
            state.knobs[target] = list(lines)
    try:
        os.makedirs(folder, exist_ok=True)
        if os.listdir(folder):
            raise errors.SetupError(f"'{folder}' is not empty: name another folder for "
                                    'the sample')
    except OSError as exc:
        raise errors.SetupError(f"cannot write the sample to '{folder}': "
                                f'{exc.strerror}') from exc
    _git(folder, 'init', '--quiet')
    _fast_import(folder, states, _prebuilt() if instant else {})
    for key, val in (('user.name', 'Ada Sample'), ('user.email', 'ada@example.com'),
                     ('branch.feature.remote', '.'),
                     ('branch.feature.merge', 'refs/heads/master'), ('gc.auto', '0')):
        _git(folder, 'config', key, val)
    _git(folder, 'checkout', '--quiet', 'feature')
    hashes = _git(folder, 'rev-list', '--reverse', 'feature').split()
    last = sorted(states[-1][1].boards, key=lambda board: (
        board.status, board.arch, board.kconfig_cpu, board.soc or '-', board.vendor or '-',
        board.board_name, board.target))
    expected = {(index, board.target): state.outcome(board)
                for index, (_, state) in enumerate(states) for board in last}
    incremental = {(index, board.target): verdict for board in last for index, verdict in
                   enumerate(_incremental([state for _, state in states], board))}
    return SampleTree(os.path.abspath(folder), 'feature', tuple(hashes),
                      tuple(subject for subject, _ in states), tuple(last), expected,
                      incremental)


def _incremental(states: Sequence[TreeState], board: BoardSpec) -> List[str]:
    """Return what each commit gives when all are built in one folder."""
    out = []
    compiled = None
    for state in states:
        verdict = state.outcome(board)
        inputs = state.source_inputs(board)
        if verdict == 'warn' and inputs == compiled and not state.always_warns(board):
            verdict = 'ok'
        if verdict != 'fail':
            compiled = inputs
        out.append(verdict)
    return out


def amend(tree: SampleTree, path: str, text: str, message: Optional[str] = None) -> str:
    """Change one file of the sample and commit it on the current branch.

    Args:
        tree: the sample
        path: file, relative to the tree; made when missing
        text: its new content
        message: subject of a commit of its own; None changes the last commit

    Returns:
        hash of the commit

    Raises:
        errors.GitError: git fails
    """
    full = os.path.join(tree.path, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, 'w', encoding='utf-8') as outf:
        outf.write(text)
    _git(tree.path, 'add', '-f', path)
    how = ('-m', message) if message is not None else ('--amend', '--no-edit')
    _git(tree.path, 'commit', '--quiet', *how)
    return _git(tree.path, 'rev-parse', 'HEAD').strip()


def make_toolchains(folder: str, arches: Sequence[str] = sample_files.CROSS_ARCHES) -> str:
    """Write cross compilers that run the host's tools.

    They are links `arm-sample-linux-gnueabi-gcc` and so on; what they build runs on no
    such board, but it is an ELF file that every tool reads.

    Args:
        folder: where to put them; they are in its `bin`
        arches: keys of CROSS_PREFIX

    Returns:
        `folder`, which a `[toolchain]` section names

    Raises:
        errors.ToolchainError: gcc or binutils is missing on this machine
        errors.SetupError: the folder cannot be written
    """
    found = {}
    for tool in CROSS_TOOLS:
        path = shutil.which(tool)
        if not path:
            raise errors.ToolchainError(f"'{tool}' is not installed: it is needed to build "
                                        'the sample (Debian: apt install gcc)')
        found[tool] = path
    bin_dir = os.path.join(folder, 'bin')
    try:
        os.makedirs(bin_dir, exist_ok=True)
        for arch in arches:
            for tool, path in found.items():
                name = os.path.join(bin_dir, CROSS_PREFIX[arch] + tool)
                with contextlib.suppress(FileExistsError):
                    os.symlink(path, name)
    except OSError as exc:
        raise errors.SetupError(f"cannot write toolchains to '{folder}': "
                                f'{exc.strerror}') from exc
    return os.path.abspath(folder)


def write_config(path: str, toolchains: str, prefixes: bool = True, extra: str = '') -> str:
    """Write a configuration file in which all sample toolchains are named.

    Args:
        path: file to write, for -G
        toolchains: what make_toolchains() returned
        prefixes: name them by `[toolchain-prefix]`, so that no other compiler
            of this machine is taken; otherwise by folder
        extra: text to add at the end

    Returns:
        path

    Raises:
        errors.SetupError: the file cannot be written
    """
    text = '[toolchain]\nhost = /usr\n'
    if prefixes:
        text += '\n[toolchain-prefix]\n'
        for arch, prefix in CROSS_PREFIX.items():
            if os.path.exists(os.path.join(toolchains, 'bin', prefix + 'gcc')):
                text += f'{arch} = {os.path.join(toolchains, "bin", prefix)}\n'
    else:
        text += f'sample = {toolchains}\n\n[toolchain-prefix]\n'
    text += '\n[toolchain-alias]\nx86 = i386\n' + (f'\n{extra}\n' if extra else '')
    try:
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)
    except OSError as exc:
        raise errors.SetupError(f"cannot write '{path}': {exc.strerror}") from exc
    return path


def run_demo(folder: str, out: TextIO) -> int:
    """Make the sample tree, build its branch, say what came out and where (--demo).

    The build is a distributed one: two machines are workers on this one, which need
    no sshd, in folders of their own.

    Args:
        folder: folder to work in, must be empty or not there; '' for a
            temporary one, which stays so that it can be looked at
        out: where to print

    Returns:
        0: the sample has boards that fail and warn on purpose, and all came
        out as they should; else the exit status of the build

    Raises:
        SetupError: git, make or gcc is missing, or the folder is in use
    """
    missing = [tool for tool in ('git', 'make', 'gcc', 'objcopy') if not shutil.which(tool)]
    if missing:
        raise SetupError(f"the demo needs {', '.join(missing)} "
                         '(apt-get install git make gcc binutils)')
    if folder:
        folder = os.path.abspath(folder)
        if os.path.isdir(folder) and os.listdir(folder):
            raise SetupError(f"folder '{folder}' is not empty: name a new one for the demo")
        os.makedirs(folder, exist_ok=True)
    else:
        folder = tempfile.mkdtemp(prefix='buildman-demo-')
    # One board lacks a blob, as many real ones do; a user may have such blobs
    for name in ('BL31', 'BINMAN_INDIRS'):
        os.environ.pop(name, None)
    tree = make_sample(os.path.join(folder, 'tree'), boards=[
        *sample_files.DEFAULT_BOARDS, sample_files.BLOB_BOARD])
    chains = make_toolchains(os.path.join(folder, 'toolchains'))
    config = os.path.join(folder, 'config')
    write_config(config, chains, extra=_machines(folder))
    results = os.path.join(folder, 'out')
    words = ['-G', config, '-g', tree.path, '-b', tree.branch, '-o', results, '--dist']
    print(f"$ buildman {' '.join(words)}", file=out, flush=True)
    status = control.run(cmdline.parse(words))
    return _tell(tree, os.path.join(results, tree.branch), status, out)


def _machines(folder: str) -> str:
    """Return the configuration of two machines that are this one"""
    text = '[machines]\n' + ''.join(f'{name} = localhost\n' for name in MACHINES)
    for name in MACHINES:
        text += (f'[machine:{name}]\ntransport = local\n'
                 f"work_dir = {os.path.join(folder, 'machines', name)}\n")
    return text


def _tell(tree: SampleTree, base: str, status: int, out: TextIO) -> int:
    """Show what came out, commit by commit, and compare it with what should"""
    print(f'\nExit status {status}: 100 says that boards failed. By commit and board:\n',
          file=out)
    names = {int(name[:2]): name for name in sorted(os.listdir(base)) if name[:2].isdigit()}
    wrong = 0
    width = max(len(target) for target in tree.targets)
    for upto, subject in enumerate(tree.subjects):
        print(f'{upto + 1:02}: {subject}', file=out)
        cells = []
        for target in tree.targets:
            where = os.path.join(base, names.get(upto + 1, ''), target)
            got = _verdict(where)
            wrong += got != tree.expected[upto, target]
            cells.append(f'{target:{width}} {got}')
        for row in range(0, len(cells), 4):
            print('    ' + '  '.join(f'{cell:{width + 5}}' for cell in cells[row:row + 4]).rstrip(),
                  file=out)
    print(f'\nThe results are in {base}, the logs of the machines, too\n'
          f'The tree is in     {tree.path}', file=out)
    if wrong:
        print(f'{wrong} results are not what the sample should give', file=out)
        return status or 1
    return 0


def _verdict(folder: str) -> str:
    """Return 'ok', 'warn' or 'fail' for a result folder, '-' without a result"""
    try:
        with open(os.path.join(folder, 'done'), encoding='ascii') as inf:
            if inf.read() != '0':
                return 'fail'
    except OSError:
        return '-'
    return 'warn' if os.path.exists(os.path.join(folder, 'err')) else 'ok'
