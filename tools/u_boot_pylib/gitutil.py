# SPDX-License-Identifier: GPL-2.0+
"""Asking git about a repository."""

from __future__ import annotations

import os
from typing import Optional

from u_boot_pylib import command


class GitError(Exception):
    """git could not be run, or refused; the message is one line."""


def run(*args: str, cwd: Optional[str] = None, git_dir: Optional[str] = None,
        check: bool = True) -> str:
    """Run git and return what it prints to stdout.

    Args:
        args: words after `git`
        cwd: folder to run in
        git_dir: repository to use, default the one that `cwd` is in
        check: raise when it fails, else return what there is

    Raises:
        GitError: git is not installed, or failed
    """
    argv = ['git', *([f'--git-dir={git_dir}'] if git_dir else []), *args]
    # Its messages are shown to the user, and it must not ask for a password
    env = {**os.environ, 'LC_ALL': 'C', 'GIT_TERMINAL_PROMPT': '0'}
    try:
        result = command.run_pipe([argv], capture=True, capture_stderr=True, cwd=cwd, env=env)
    except command.CommandExc as exc:
        if isinstance(exc.result.exception, FileNotFoundError) and (
                cwd is None or os.path.isdir(cwd)):
            raise GitError('git is not installed: please install it') from exc
        if check or exc.result.exception:
            raise GitError(str(exc)) from exc
        result = exc.result
    text: str = result.stdout
    return text


def get_top_level(folder: Optional[str] = None) -> Optional[str]:
    """Return the root of the source that a folder is in, None if in no repository.

    Raises:
        GitError: git is not installed
    """
    return _ask('--show-toplevel', folder)


def get_git_dir(folder: Optional[str] = None) -> Optional[str]:
    """Return the absolute path of the repository that a folder is in, or None.

    For a worktree, that is its own folder within the main repository.

    Raises:
        GitError: git is not installed
    """
    return _ask('--absolute-git-dir', folder)


def get_common_dir(folder: Optional[str] = None) -> Optional[str]:
    """Return the absolute path of the repository that all worktrees share, or None.

    Raises:
        GitError: git is not installed
    """
    path = _ask('--git-common-dir', folder)
    return path and os.path.abspath(os.path.join(folder or '.', path))


def _ask(option: str, folder: Optional[str]) -> Optional[str]:
    """Return the answer of `git rev-parse OPTION`, None outside of a repository."""
    if folder is not None and not os.path.isdir(folder):
        return None
    text = run('rev-parse', option, cwd=folder, check=False)
    return text.rstrip('\n') or None
