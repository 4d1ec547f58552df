# SPDX-License-Identifier: GPL-2.0+
"""Runs git on this machine: the only place that does, apart from the push.

A git hook or an alias sets variables that lead every git below it to one
repository. They are dropped, as each command here is meant for the folder that
it runs in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import Dict, Mapping, Optional, Sequence, Set, Tuple

from buildman.core.errors import GitError

# A git that hangs (on a network file system, say) is given up after this many
# seconds; a checkout of the largest tree takes a few
GIT_TIMEOUT = 600

# What would lead git to another repository than that of its folder
VARIABLES = ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE', 'GIT_OBJECT_DIRECTORY',
             'GIT_ALTERNATE_OBJECT_DIRECTORIES', 'GIT_PREFIX', 'GIT_COMMON_DIR',
             'GIT_NAMESPACE', 'GIT_SHALLOW_FILE', 'GIT_GRAFT_FILE', 'GIT_CEILING_DIRECTORIES')

# Bytes of free space below which a failure is put down to the disk
_FULL = 1 << 16


class NoGitError(GitError):
    """There is no git on this machine."""


class RefusedError(GitError):
    """git did not do what it was asked for.

    Attributes:
        cause: what it said of the reason, with the command that it advises
    """

    def __init__(self, message: str, cause: str) -> None:
        """Take the whole message and the cause that it ends with"""
        super().__init__(message)
        self.cause = cause


def environment() -> Dict[str, str]:
    """Return the environment for a git that is to work in the folder it is run in.

    It does not write to a repository that it only looks at, and its messages
    are in English, as they are searched.
    """
    env = {key: val for key, val in os.environ.items() if key not in VARIABLES}
    return {**env, 'LC_ALL': 'C', 'GIT_OPTIONAL_LOCKS': '0'}


# Those under way, each the head of a process group, as a checkout has helpers
_running: Set['subprocess.Popen[bytes]'] = set()
_lock = threading.Lock()


def _communicate(args: Sequence[str], cwd: str, env: Mapping[str, str],
                 stdin: bytes) -> Tuple[int, bytes, bytes]:
    """Run git to its end; return exit status, stdout and stderr"""
    # Begun and noted in one: end_all() must not come in between
    with _lock:
        proc = subprocess.Popen(['git', *args], cwd=cwd, env=env, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True)
        _running.add(proc)
    with proc:
        try:
            out, err = proc.communicate(stdin, timeout=GIT_TIMEOUT)
        except BaseException:
            _kill(proc)
            raise
        finally:
            with _lock:
                _running.discard(proc)
    return proc.returncode, out, err


def _kill(proc: 'subprocess.Popen[bytes]') -> None:
    """End a git and its helpers"""
    if proc.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(proc.pid, signal.SIGKILL)


def end_all() -> None:
    """End every git that is under way, from any thread; their callers get a GitError."""
    with _lock:
        for proc in _running:
            _kill(proc)


def run(cwd: str, *args: str, stdin: bytes = b'',
        env: Optional[Mapping[str, str]] = None) -> bytes:
    """Run git in a folder.

    Args:
        cwd: the folder
        args: the command
        stdin: what it reads
        env: all of its environment; default: what environment() returns

    Returns:
        what it wrote to stdout

    Raises:
        RefusedError: it failed, with what it said of the cause
        GitError: it cannot be run, or did not end
    """
    try:
        code, out, err = _communicate(args, cwd, environment() if env is None else env, stdin)
    except FileNotFoundError as exc:
        if exc.filename != 'git':
            raise GitError(f"no such folder: '{cwd}'") from exc
        raise NoGitError('git is not installed (apt-get install git)') from exc
    except subprocess.TimeoutExpired as exc:
        raise GitError(f"'git {_verb(args)}' did not end within {GIT_TIMEOUT} s "
                       f"in '{cwd}'") from exc
    except OSError as exc:
        raise GitError(f"cannot run git in '{cwd}': {exc.strerror}") from exc
    if code:
        why = _cause(err.decode('utf-8', 'replace'), code)
        with contextlib.suppress(OSError):
            # git does not always say so
            stat = os.statvfs(cwd)
            if stat.f_bavail * stat.f_frsize < _FULL:
                why = f'No space left on device ({why})'
        raise RefusedError(f"git {_verb(args)} failed in '{cwd}': {why}", why)
    return out


def text(cwd: str, *args: str, stdin: bytes = b'',
         env: Optional[Mapping[str, str]] = None) -> str:
    """Run git in a folder, as run() does.

    Args:
        env: added to what environment() returns

    Returns:
        what it wrote to stdout, as names of files are decoded
    """
    full = {**environment(), **env} if env else None
    return os.fsdecode(run(cwd, *args, stdin=stdin, env=full))


def ask(cwd: str, *args: str) -> str:
    """Return what git answers in one line; '' when it refuses, which is an answer as well.

    Raises:
        NoGitError: there is no git
    """
    try:
        return text(cwd, *args).strip()
    except NoGitError:
        raise
    except GitError:
        return ''


def quote_path(path: str) -> str:
    """Return a path as `alternates` has it: plain, or like a string in C."""
    if path.isprintable() and '"' not in path and ':' not in path:
        return path
    body = ''.join(chr(byte) if 32 < byte < 127 and byte not in b'"\\' else f'\\{byte:03o}'
                   for byte in os.fsencode(path))
    return f'"{body}"'


def _verb(args: 'tuple[str, ...]') -> str:
    """Return the name of a git command, options left out."""
    words = iter(args)
    for word in words:
        if word == '-c':
            next(words, '')
        elif not word.startswith('-'):
            return word
    return 'git'


def _cause(stderr: str, code: int) -> str:
    """Return the line of git's complaints that tells the cause, and the way out if it has one."""
    lines = [line for line in stderr.strip().splitlines()
             if line.strip() and not line.startswith(('warning:', 'hint:'))]
    cause = next((line for line in lines if line.startswith(('fatal:', 'error:'))),
                 lines[-1] if lines else f'exit status {code}')
    # As for the repository of another user, which it does not trust
    advice = next((line.strip() for line in lines if line.startswith('\tgit ')), '')
    return f'{cause}; the way out: {advice}' if advice and advice not in cause else cause
