# SPDX-License-Identifier: GPL-2.0+
"""Runs git on this machine: the only place that does, apart from the push.

Two kinds of repositories are to be told apart. In the user's, git reads what he has
set, or it might not even let us in (safe.directory) or get at what is missing; but
what would change its answers, run a program of his or write there is overruled.
In those that we make (slots, what is pushed, the work folder of a machine) it reads
the repository's own configuration and no other, see ALONE: nothing in them may depend
on who builds, and where.

A git hook or an alias sets variables that lead every git below it to one
repository. They are dropped, as each command here is meant for the folder that
it runs in.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from typing import IO, Dict, Iterator, List, Mapping, Optional, Sequence

from buildman.core.errors import GitError
from buildman.process import commands
from buildman.process.registry import Account, Stopped

# A git that hangs (on a network file system, say) is given up after this many
# seconds; a checkout of the largest tree takes a few
GIT_TIMEOUT = 600

# What would lead git to another repository than that of its folder
VARIABLES = ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE', 'GIT_OBJECT_DIRECTORY',
             'GIT_ALTERNATE_OBJECT_DIRECTORIES', 'GIT_PREFIX', 'GIT_COMMON_DIR',
             'GIT_NAMESPACE', 'GIT_SHALLOW_FILE', 'GIT_GRAFT_FILE', 'GIT_CEILING_DIRECTORIES',
             'GIT_QUARANTINE_PATH')

# Beginnings of the variables that git gets in the user's repository: where its
# programs are, what he has set in place of a file, how it gets to a server, and what
# stands in for such circumstances in tests
_OF_USER = ('GIT_ALLOW_PROTOCOL', 'GIT_ASKPASS', 'GIT_CONFIG', 'GIT_CURL', 'GIT_DISCOVERY',
            'GIT_EXEC_PATH', 'GIT_HTTP', 'GIT_PROXY', 'GIT_SSH', 'GIT_SSL', 'GIT_TERMINAL',
            'GIT_TEST', 'GIT_TRACE')

# Variables with which git reads no configuration but a repository's own, and makes
# repositories as we write them, whatever it makes by itself (since 2.28 and 2.45 it can
# name objects by SHA-256, and keep refs in a reftable)
ALONE: Mapping[str, str] = {
    'GIT_ATTR_NOSYSTEM': '1', 'GIT_CONFIG_GLOBAL': os.devnull, 'GIT_CONFIG_NOSYSTEM': '1',
    'GIT_CONFIG_PARAMETERS': '', 'GIT_CONFIG_COUNT': '1',
    'GIT_CONFIG_KEY_0': 'safe.bareRepository', 'GIT_CONFIG_VALUE_0': 'all',
    'GIT_DEFAULT_HASH': 'sha1', 'GIT_DEFAULT_REF_FORMAT': 'files'}

# What a push has run on a machine: whatever the account there has set is not read
RECEIVE_PACK = ' '.join(['env', *(f'{key}={val}' for key, val in ALONE.items()),
                         'git-receive-pack'])

# Settings that hold whatever the user has: hooks (those of files, and of the
# configuration, since 2.54), a daemon, files of an index in his repository, and what
# makes answers look otherwise
_SETTINGS = (
    'core.hooksPath=/dev/null', 'hook.post-index-change.enabled=false',
    'hook.reference-transaction.enabled=false', 'core.fsmonitor=false', 'core.splitIndex=false',
    'core.quotePath=true', 'color.ui=false', 'color.advice=false', 'color.grep=false',
    'grep.lineNumber=false', 'grep.column=false', 'log.showSignature=false',
    'i18n.logOutputEncoding=UTF-8', 'submodule.recurse=false')

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
    return {**by_folder(os.environ), 'LC_ALL': 'C', 'GIT_OPTIONAL_LOCKS': '0'}


def by_folder(env: Mapping[str, str]) -> Dict[str, str]:
    """Return an environment in which any git works in the folder that it is run in.

    Without what a hook or an alias leads git by. An object is what its name says,
    whatever refs/replace or grafts put in its place: results are known by the names of
    commits, and machines get the objects themselves.
    """
    return {**{key: val for key, val in env.items()
               if not key.startswith('GIT_') or key.startswith(_OF_USER)},
            'GIT_NO_REPLACE_OBJECTS': '1', 'GIT_GRAFT_FILE': os.devnull}


def apart(env: Mapping[str, str]) -> Dict[str, str]:
    """Return an environment in which any git reads its repository's configuration only.

    Args:
        env: what else is in it
    """
    return {**{key: val for key, val in env.items()
               if not key.startswith('GIT_') or key == 'GIT_EXEC_PATH'}, **ALONE}


def words(*args: str) -> List[str]:
    """Return a git command, whose answers do not depend on what the user has set."""
    return ['git', *(word for item in _SETTINGS for word in ('-c', item)), *args]


# Those under way, with their helpers
_GITS = Account()


def end_all() -> None:
    """End every git that is under way, from any thread; their callers get a GitError."""
    _GITS.stop(term=0.0)
    _GITS.resume()


def call(argv: Sequence[str], cwd: str, env: Mapping[str, str],
         stdin: bytes = b'') -> commands.Answer:
    """Run git to its end and return what it says, whatever that is.

    Args:
        argv: the command, as words() returns it or as a user would give it
        cwd: folder to run it in
        env: its whole environment
        stdin: what it reads

    Raises:
        subprocess.TimeoutExpired: it did not end
        OSError: it cannot be run
        GitError: end_all() was called
    """
    try:
        return commands.run(argv, GIT_TIMEOUT, stdin, env, cwd, _GITS, math.inf)
    except Stopped:
        raise GitError(f"git {_verb(argv[1:])} was ended in '{cwd}'") from None


@contextlib.contextmanager
def reading(args: Sequence[str], cwd: str, env: Mapping[str, str],
            stdin: bytes) -> Iterator[IO[bytes]]:
    """Run git and give what it writes, as it comes; when that is left, git is ended.

    Args:
        args: the command
        cwd, env: as for call()
        stdin: what it reads, before it writes anything

    Raises:
        OSError: it cannot be run
    """
    proc = _GITS.start(words(*args), cwd=cwd, env=env, stdin=subprocess.PIPE,
                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert proc.stdin and proc.stdout
    try:
        with proc.stdin:
            proc.stdin.write(stdin)
        yield proc.stdout
    finally:
        _GITS.release(proc.pid)
        proc.stdout.close()


def run(cwd: str, *args: str, stdin: bytes = b'',
        env: Optional[Mapping[str, str]] = None) -> bytes:
    """Run git in a folder.

    Args:
        cwd: the folder
        args: the command
        stdin: what it reads
        env: added to what environment() returns; ALONE for a repository of ours

    Returns:
        what it wrote to stdout

    Raises:
        RefusedError: it failed, with what it said of the cause
        GitError: it cannot be run, or did not end
    """
    try:
        answer = call(words(*args), cwd, {**environment(), **(env or {})}, stdin)
    except FileNotFoundError as exc:
        if exc.filename != 'git':
            raise GitError(f"no such folder: '{cwd}'") from exc
        raise NoGitError('git is not installed (apt-get install git)') from exc
    except subprocess.TimeoutExpired as exc:
        raise GitError(f"'git {_verb(args)}' did not end within {GIT_TIMEOUT} s "
                       f"in '{cwd}'") from exc
    except OSError as exc:
        raise GitError(f"cannot run git in '{cwd}': {exc.strerror}") from exc
    if answer.returncode:
        why = _cause(answer.stderr, answer.returncode)
        with contextlib.suppress(OSError):
            # git does not always say so
            stat = os.statvfs(cwd)
            if stat.f_bavail * stat.f_frsize < _FULL:
                why = f'No space left on device ({why})'
        raise RefusedError(f"git {_verb(args)} failed in '{cwd}': {why}", why)
    return answer.out


def text(cwd: str, *args: str, stdin: bytes = b'',
         env: Optional[Mapping[str, str]] = None) -> str:
    """Run git in a folder, as run() does.

    Returns:
        what it wrote to stdout, as names of files are decoded
    """
    return os.fsdecode(run(cwd, *args, stdin=stdin, env=env))


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


def _verb(args: Sequence[str]) -> str:
    """Return the name of a git command, options left out."""
    left = iter(args)
    for word in left:
        if word == '-c':
            next(left, '')
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
