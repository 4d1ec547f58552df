# SPDX-License-Identifier: GPL-2.0+
"""A clone that has not all objects (`git clone --filter=blob:none` and the like).

git fetches what it lacks when it meets it, one by one in many cases, and only in
that repository: a slot that borrows its objects, or a push of them, does not know
where they come from. So what the commits to be built lack is fetched before, as git
does it: into the user's repository.
"""

from __future__ import annotations

import os
import shlex
from typing import Callable, List, Sequence

from buildman.core.errors import GitError
from buildman.source import git

# A folder's files may be known only when the folder is there (--filter=tree:0): git
# sends all that is below a tree at once, so this is more than it takes
_ROUNDS = 4


def remotes(folder: str) -> List[str]:
    """Return where a repository gets what it lacks, [] for one that is complete.

    Args:
        folder: a repository, or in its working tree
    """
    found = [git.ask(folder, 'config', 'extensions.partialClone')]
    for line in git.ask(folder, 'config', '--bool', '--get-regexp',
                        r'^remote\..*\.promisor$').splitlines():
        name, _, value = line.rpartition(' ')
        if value == 'true':
            found.append(name[len('remote.'):-len('.promisor')])
    return [name for name in dict.fromkeys(found) if name]


def fetch_missing(folder: str, commits: Sequence[str], say: Callable[[str], None]) -> None:
    """Fetch what of some commits a repository lacks, if it is a partial clone.

    Args:
        folder: the repository, or in its working tree
        commits: names of the commits, which are there
        say: takes a line about what is under way

    Raises:
        GitError: it cannot be had; the message says what to run
    """
    sources = remotes(folder) if commits else []
    why = 'it is still not there'
    for _ in range(_ROUNDS if sources else 0):
        missing = _missing(folder, commits)
        if not missing:
            return
        say(f"Fetching {len(missing)} object{'s' if len(missing) > 1 else ''} that this partial "
            'clone lacks')
        for source in sources:
            try:
                # As git does it itself (promisor-remote.c)
                git.run(folder, '-c', 'fetch.negotiationAlgorithm=noop', 'fetch', '--quiet',
                        '--no-tags', '--no-prune', '--no-auto-gc', '--no-write-fetch-head',
                        '--recurse-submodules=no', '--filter=blob:none', '--stdin', source,
                        stdin=''.join(f'{name}\n' for name in missing).encode())
                break
            except GitError as exc:
                why = exc.cause if isinstance(exc, git.RefusedError) else str(exc)
    if sources and _missing(folder, commits):
        path = shlex.quote(os.path.abspath(folder))
        raise GitError(f"{path} is a partial clone that lacks objects of the commits to be "
                       f"built, and git cannot fetch them: {why}; when it can, 'git -C {path} "
                       f"fetch --refetch --no-filter {sources[0]}' gets all")


def _missing(folder: str, commits: Sequence[str]) -> List[str]:
    """Return the objects that commits need and that are not there, as far as is known"""
    lines = git.text(folder, 'rev-list', '--objects', '--no-walk', '--missing=print', '--stdin',
                     stdin=''.join(f'{name}\n' for name in commits).encode()).splitlines()
    return [line[1:] for line in lines if line.startswith('?')]
