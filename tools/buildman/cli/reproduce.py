# SPDX-License-Identifier: GPL-2.0+
"""`--reproduce BOARD@COMMIT`: the shell lines that build one result by hand.

They give the same images, since they have what a slot has: the commit as git has it, the
commands from an empty folder, the compiler, the variables that the tree reads. Where
images tell the time, it has to be fixed (SOURCE_DATE_EPOCH, -r).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from buildman.build import environment, outside
from buildman.cli.folders import Folders
from buildman.core.errors import BoardError, SetupError, ToolchainError, UsageError
from buildman.core.plan import Board, BoardJob, Commit, Settings
from buildman.results import made_with
from buildman.results.tree import find_commit_dirs, settings_of
from buildman.source import commits
from buildman.toolchains import find

# Fewest digits of a hash that names a commit
_MIN_HASH = 4

# Of the environment that is noted with a result, what belongs to the machine or follows
# from the settings
_NOT_NOTED = frozenset(('CROSS_COMPILE', 'DTC', 'HOME', 'LANG', 'LC_ALL', 'PATH'))


def find_commit(text: str, known: Sequence[Commit]) -> int:
    """Return the index of a commit.

    Args:
        text: its number, as the summary shows it, or the beginning of its hash
        known: those of the branch

    Raises:
        UsageError: there is none, or several
    """
    if text.isdecimal() and 0 < int(text) <= len(known):
        return int(text) - 1
    found = [upto for upto, commit in enumerate(known)
             if len(text) >= _MIN_HASH and commit.hash.startswith(text.lower())]
    if len(found) != 1:
        raise UsageError(f"--reproduce: '{text}' is {'no' if not found else 'more than one'} "
                         f'commit of the branch: use a number from 1 to {len(known)}, or a hash')
    return found[0]


def show(args: argparse.Namespace, folders: Folders, series: Optional[commits.Series],
         selected: Sequence[Board], settings: Settings) -> str:
    """Return the lines for the result that the command line names.

    Raises:
        UsageError: it names none, or one of other settings
        SetupError: there is no such result
        ToolchainError: there is no compiler for it
    """
    target, _, text = args.reproduce.rpartition('@')
    if not series or args.work_in_output or args.in_tree or args.per_board_out_dir:
        raise UsageError('--reproduce needs -b, and is for builds in a folder of their own: not '
                         'for -w, -i and -P')
    upto = find_commit(text, series.commits)
    board = next((board for board in selected if board.target == target), None)
    if not board:
        raise BoardError(f"--reproduce: there is no board '{target}'")
    try:
        folder = os.path.join(find_commit_dirs(folders.base, series.commits)[upto], target)
    except OSError as exc:
        raise SetupError(f"cannot read '{folders.base}': {exc.strerror}") from exc
    folder = os.path.join(folders.base, folder)
    if not os.path.exists(os.path.join(folder, 'done')):
        raise SetupError(f"'{folder}' has no result: build it first, or "
                         'name the output folder of that build with -o')
    chains = find.Toolchains(args.override_toolchain or '')
    chains.scan()
    choice = find.choose_toolchains([board], chains, (upto,))
    for why in choice.lacking.values():
        raise ToolchainError(why)
    had = settings_of(folder)
    other = had and made_with.differences(had, made_with.text(settings, choice.jobs[0]))
    if other:
        raise UsageError(f"'{folder}' is of other settings "
                         f"({', '.join(other)}): give the flags of that build")
    try:
        with open(os.path.join(folder, 'out-env'), 'rb') as inf:
            noted = environment.read_out_env(inf.read())
    except OSError as exc:
        raise SetupError(f"cannot read '{exc.filename}': {exc.strerror}") from exc
    commit = series.commits[upto]
    read = outside.search(folders.source, [commit.hash], os.environ)
    return script(choice.jobs[0], commit, folders.source, settings, noted,
                  [name for name in read if name not in noted])


def script(job: BoardJob, commit: Commit, repo: str, settings: Settings,
           noted: Mapping[str, str], unset: Sequence[str]) -> str:
    """Return the lines.

    Args:
        job: board, compiler and words for make
        commit: what to build
        repo: repository that has it
        settings: how it was built
        noted: environment that the result has
        unset: variables that the tree would read and that were not there
    """
    board, tool = job.board, job.toolchain
    settings = dataclasses.replace(settings, ccache=False, shared_dtc=False)
    path = os.environ.get('PATH', os.defpath)
    env = {name: val for name, val in noted.items() if name not in _NOT_NOTED}
    env.update(environment.make_environment(tool, settings, {'PATH': path}))
    if env['PATH'] == path or (tool.path in path.split(os.pathsep)
                               and env['PATH'] == f'{path}{os.pathsep}{tool.path}'):
        del env['PATH']
    clean = environment.DROPPED.union(unset).difference(env)
    make = ['make', 'O=build', *environment.make_arguments(tool, settings, job.make_args)]
    lines = [f'# {board.target} at {commit.hash[:12]} ({commit.subject!r}); images are in build/',
             'set -e', f'dir=${{1:-{shlex.quote(f"{board.target}-{commit.hash[:12]}")}}}',
             f'git -C {shlex.quote(repo)} worktree add --detach "$(realpath "$dir")" '
             f'{commit.hash}',
             'cd -P "$dir"', f"unset {' '.join(sorted(clean))}"]
    lines += [f'export {name}={shlex.quote(val)}' for name, val in sorted(env.items())]
    for name, maps in _hidden(board.arch).items():
        said = f'{env[name]} ' if name in env else ''
        lines.append(f'export {name}={shlex.quote(said) if said else ""}"{maps}"')
    lines.append(shlex.join([*make, board.defconfig, *board.fragments, *settings.fragments]))
    lines += _adjust(make, settings)
    target = ['cfg'] if settings.config_only else [settings.target] if settings.target else []
    lines.append(shlex.join([*make, *target]) + ' -j"$(nproc)"')
    if not settings.reproducible_builds and 'SOURCE_DATE_EPOCH' not in env:
        lines.append('# That build was not told a time (-r, SOURCE_DATE_EPOCH): dates in images '
                     'differ')
    return '\n'.join(lines) + '\n'


def _hidden(arch: str) -> Dict[str, str]:
    """Return variables with what keeps the folders of the build out of debug information"""
    env: Dict[str, str] = {}
    environment.hide_folders(env, (('/SOURCE', '.'), ('/SOURCE/build', './build')), arch)
    return {name: val.replace('/SOURCE', '$PWD') for name, val in env.items()}


def _adjust(make: Sequence[str], settings: Settings) -> List[str]:
    """Return the lines that change the configuration (-a, -r)"""
    wanted: List[Tuple[str, str]] = [environment.wanted_line(item) for item in
                                     environment.adjustments(settings)]
    if not wanted:
        return []
    source, begin, end = 'build/.config', [], []
    if settings.adjust_cfg:
        source = 'build/defconfig'
        begin = [shlex.join([*make, 'savedefconfig'])]
        end = [shlex.join([*make, 'olddefconfig'])]
    names = '|'.join(name for name, _ in wanted)
    return [*begin,
            f"{{ grep -Ev '^(# )?CONFIG_({names})(=| is not set)' {source} || true",
            *(f"printf '%s\\n' {shlex.quote(line)}" for _, line in wanted),
            '} >build/.config.new', 'mv build/.config.new build/.config', *end]
