# SPDX-License-Identifier: GPL-2.0+
"""Which commits to build: a branch with its upstream, a range, or the top few."""

from __future__ import annotations

import dataclasses
import os
from typing import FrozenSet, List, Optional, Tuple

from buildman import git
from buildman.errors import GitError, UsageError
from buildman.plan import Commit


@dataclasses.dataclass(frozen=True)
class Series:
    """The commits of a run.

    Attributes:
        commits: oldest first; the upstream commit comes first unless a range or
            a count left it out. Their places number the folders of the results
        selected: indexes of those to build, all but for --step
        alive: hashes of all commits of the branch, those that a count left out
            included: their results are not stale
        messages: what the user should know, a line each
    """

    commits: Tuple[Commit, ...]
    selected: Tuple[int, ...]
    alive: FrozenSet[str]
    messages: Tuple[str, ...] = ()


def check_repository(git_dir: str) -> str:
    """Return the top folder of the working tree, or the repository if it is bare.

    Args:
        git_dir: folder in a working tree, or a repository

    Raises:
        GitError: it is not a repository
    """
    if not os.path.isdir(git_dir):
        raise GitError(f"no such folder: '{git_dir}' (-g names the repository)")
    try:
        top = git.run(git_dir, 'rev-parse', '--show-toplevel')
        return os.fsdecode(top.rstrip(b'\n'))
    except git.NoGitError:
        raise
    except GitError:
        try:
            git.run(git_dir, 'rev-parse', '--git-dir')
        except GitError as exc:
            raise GitError(
                f"'{git_dir}' is not in a git repository: go into a U-Boot tree "
                'or name one with -g') from exc
        return os.path.abspath(git_dir)


def _resolve(git_dir: str, name: str) -> Optional[str]:
    """Return the commit that a name stands for, None when there is none"""
    if name.startswith('-'):
        return None
    try:
        out = git.run(git_dir, 'rev-parse', '--verify', '--quiet', '--end-of-options',
                      name + '^{commit}')
    except GitError:
        return None
    return out.decode().strip() or None


def _require(git_dir: str, name: str) -> str:
    """Return the commit that a name stands for"""
    found = _resolve(git_dir, name)
    if not found:
        raise GitError(f"Branch '{name}' not found in '{git_dir}' "
                       "(see 'git branch -a')")
    return found


def _guess_upstream(git_dir: str, branch: str, tip: str) -> Optional[Tuple[str, str]]:
    """Find where a branch without an upstream leaves the others.

    The nearest commit of its history that another branch points at is taken.

    Returns:
        (commit, name of that branch), None when there is no such commit
    """
    refs = git.run(git_dir, 'for-each-ref', '--format=%(objectname) %(refname:short)',
                   'refs/heads', 'refs/remotes').decode('utf-8', 'replace').splitlines()
    names = dict(reversed([line.split(' ', 1) for line in refs]))
    names.pop(tip, None)
    if not names:
        return None
    history = git.run(git_dir, 'rev-list', '--first-parent', '-n', '10000', tip)
    for commit in history.decode().split()[1:]:
        if commit in names:
            return commit, names[commit]
    return None


def _upstream(git_dir: str, branch: str, tip: str) -> Tuple[str, List[str]]:
    """Return the commit that a branch starts from, and messages"""
    local = branch[len('refs/heads/'):] if branch.startswith('refs/heads/') else branch
    found = _resolve(git_dir, f'{local}@{{upstream}}')
    if found:
        return git.run(git_dir, 'merge-base', found, tip).decode().strip(), []
    guess = _guess_upstream(git_dir, branch, tip)
    if not guess:
        raise GitError(
            f"Cannot find a suitable upstream for branch '{branch}': set one with "
            f"'git branch --set-upstream-to=NAME {branch}', or use -c COUNT or a range")
    commit, name = guess
    return commit, [f"Guessing upstream as '{name}'"]


def _log(git_dir: str, *args: str) -> List[Commit]:
    """Return commits of a git log, oldest first"""
    out = git.run(git_dir, 'log', '--reverse', '--no-show-signature',
                  '--format=%H%x00%s%x00', *args, '--')
    fields = out.decode('utf-8', 'replace').split('\0')
    return [Commit(fields[i].strip(), fields[i + 1])
            for i in range(0, len(fields) - 1, 2)]


def find_series(git_dir: str, branch: str, count: int = -1, step: int = 1) -> Series:
    """Return the commits to build.

    Args:
        git_dir: repository
        branch: a branch, any other name of a commit, or a range A..B
        count: build only the newest ones, -1 for all; the upstream commit is
            then not built in addition
        step: select every step-th commit only, counted from the oldest; 0: the
            first and the last

    Raises:
        GitError: there is no such branch or range, it has no upstream, or
            there are no commits in it
        UsageError: count or step make no sense
    """
    if count == 0 or count < -1:
        raise UsageError(f"'-c {count}': the number of commits must be 1 or more")
    if step < 0:
        raise UsageError(f"'--step {step}': must be 0 or more")
    messages: List[str] = []
    whole: List[Commit] = []
    if '..' in branch:
        parts = branch.split('..')
        if len(parts) != 2 or branch.count('...'):
            raise GitError(f"'{branch}' is not a range of commits: write it as A..B")
        first = _require(git_dir, parts[0] or 'HEAD')
        last = _require(git_dir, parts[1] or 'HEAD')
        commits = _log(git_dir, f'{first}..{last}')
        if not commits:
            raise GitError(f"range '{branch}' has no commits")
        whole = commits
    else:
        tip = _require(git_dir, branch)
        if count > 0:
            commits, whole = _newest(git_dir, branch, tip, count)
        else:
            base, messages = _upstream(git_dir, branch, tip)
            commits = _log(git_dir, f'{base}..{tip}')
            if not commits:
                raise GitError(f"No commits found to process in branch '{branch}': it is where "
                               'its upstream is; use -c COUNT or a range')
            commits = _log(git_dir, '-n', '1', base) + commits
    if count > 0:
        commits = commits[-count:]
    top = len(commits) - 1
    selected = tuple(range(0, top + 1, step)) if step else tuple(sorted({0, top}))
    alive = frozenset(commit.hash for commit in [*commits, *whole])
    return Series(tuple(commits), selected, alive, tuple(messages))


def _newest(git_dir: str, branch: str, tip: str,
            count: int) -> Tuple[List[Commit], List[Commit]]:
    """Return the newest commits of a branch, none from before its upstream commit.

    A branch without an upstream, or one that is where its upstream is, has no
    such end.

    Returns:
        (those commits, all commits of the branch as far as they are known)
    """
    commits = _log(git_dir, '-n', str(count), tip)
    try:
        base, _ = _upstream(git_dir, branch, tip)
    except GitError:
        return commits, commits
    if base == tip:
        return commits, commits
    whole = _log(git_dir, '-n', '1', base) + _log(git_dir, f'{base}..{tip}')
    inside = {commit.hash for commit in whole}
    return [commit for commit in commits if commit.hash in inside], whole
