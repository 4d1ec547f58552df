# SPDX-License-Identifier: GPL-2.0+
"""Which commits to build: a branch with its upstream, a range, or the top few."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from typing import Callable, Container, Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple

from buildman.core.errors import GitError, UsageError
from buildman.core.plan import Commit
from buildman.source import git

# How far back in the history of a branch a commit is looked for
_HISTORY = 10000

# A folder's files may be known only when the folder is there (--filter=tree:0): git
# sends all that is below a tree at once, so this is more than it takes
_ROUNDS = 4

_NO_REPOSITORY = 'fatal: not a git repository (or any'


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
        tip: newest commit of a branch; '' for a range
        counted: a count says how many there are, not where the branch begins
        name: what was asked for: a branch or tag in full (that HEAD is on, too), else as
            it was written
    """

    commits: Tuple[Commit, ...]
    selected: Tuple[int, ...]
    alive: FrozenSet[str]
    messages: Tuple[str, ...] = ()
    tip: str = ''
    counted: bool = False
    name: str = ''


def check_repository(git_dir: str) -> str:
    """Return the top folder of the working tree, or the repository if it is bare.

    Args:
        git_dir: folder in a working tree, or a repository

    Raises:
        GitError: it is not a repository, or git does not want to use it
    """
    if not os.path.isdir(git_dir):
        raise GitError(f"no such folder: '{git_dir}' (-g names the repository)")
    try:
        top = git.run(git_dir, 'rev-parse', '--show-toplevel')
        return os.fsdecode(top.rstrip(b'\n'))
    except git.RefusedError:
        try:
            git.run(git_dir, 'rev-parse', '--git-dir')
        except git.RefusedError as exc:
            raise GitError(_why_unfit(git_dir, exc.cause)) from exc
        return os.path.abspath(git_dir)


def _why_unfit(git_dir: str, cause: str) -> str:
    """Return why git does not take a folder for a repository, and what to do.

    Args:
        git_dir: the folder
        cause: what git says
    """
    if not cause.startswith(_NO_REPOSITORY):
        return f"git cannot use the repository of '{git_dir}': {cause}"
    folder = os.path.realpath(git_dir)
    while folder != os.path.dirname(folder):
        # git says the same of one that it cannot read or that is damaged
        if os.path.lexists(os.path.join(folder, '.git')):
            return (f"git cannot use the repository of '{git_dir}': "
                    f"'{os.path.join(folder, '.git')}' is damaged or cannot be read ({cause})")
        folder = os.path.dirname(folder)
    return (f"'{git_dir}' is not in a git repository: go into a U-Boot tree "
            'or name one with -g')


def _resolve(git_dir: str, name: str) -> Optional[str]:
    """Return the commit that a name stands for, None when there is none"""
    if name.startswith('-'):
        return None
    return git.ask(git_dir, 'rev-parse', '--verify', '--quiet', '--end-of-options',
                   name + '^{commit}') or None


def _require(git_dir: str, name: str, full: str = '') -> str:
    """Return the commit that a name (in full, if that is another) stands for"""
    found = _resolve(git_dir, full or name)
    if not found:
        raise GitError(_why_unknown(git_dir, name))
    return found


def _find_ref(git_dir: str, name: str) -> Tuple[str, List[str]]:
    """Find out which branch, tag or the like a name begins with.

    A branch goes first, while git takes a tag of the same name.

    Returns:
        (the name in full, or as it is where there is nothing of the kind; messages)
    """
    match = re.match(r'([^~^:?*[\\\s]+?)((?:[~^:]|@\{).*)?\Z', name)
    if not match or name.startswith('-'):
        return name, []
    ref, rest = match.group(1), match.group(2) or ''
    # In the order of gitrevisions(7), but for the first
    wanted = [f'{place}{ref}' for place in ('refs/heads/', 'refs/', 'refs/tags/',
                                            'refs/remotes/')]
    wanted.append(f'refs/remotes/{ref}/HEAD')
    there = git.ask(git_dir, 'for-each-ref', '--format=%(refname)', *wanted).split('\n')
    found = [full for full in wanted if full in there]
    if not found:
        return name, []
    if len(found) == 1:
        return found[0] + rest, []
    return found[0] + rest, [f"'{ref}' is ambiguous: '{found[0]}' is built, not "
                             + ' or '.join(f"'{full}'" for full in found[1:])]


def same_folder(git_dir: str, name: str, folder: str) -> List[str]:
    """Return other branches whose results would be in the same folder.

    Args:
        git_dir: repository
        name: the branch, in full
        folder: name of the folder
    """
    refs = git.ask(git_dir, 'for-each-ref', '--format=%(refname)', 'refs/heads', 'refs/remotes')
    return [ref for ref in refs.split('\n') if ref != name and folder == folder_name(
        ref.split('/', 2)[-1])]


def folder_name(branch: str) -> str:
    """Return the name of the folder that has the results of a branch."""
    return branch.replace('/', '_')


def _why_unknown(git_dir: str, name: str) -> str:
    """Return why a name does not stand for a commit"""
    missing = f"Branch '{name}' not found in '{git_dir}' (see 'git branch -a')"
    if name.startswith('-'):
        return missing
    current = git.ask(git_dir, 'symbolic-ref', '-q', 'HEAD')
    if current and name in ('HEAD', '@', current, _local_name(current)) and (
            not git.ask(git_dir, 'rev-parse', '--verify', '--quiet', 'HEAD')):
        return f"Branch '{_local_name(current)}' in '{git_dir}' has no commits yet"
    there = git.ask(git_dir, 'rev-parse', '--verify', '--quiet', '--end-of-options', name)
    if there:
        kind = git.ask(git_dir, 'cat-file', '-t', there)
        if kind:
            return f"'{name}' is not a commit but a {kind} in '{git_dir}'"
        return (f"Branch '{name}' is at {there}, which '{git_dir}' does not have or cannot "
                "read: the repository is damaged or incomplete ('git fsck' tells more)")
    try:
        git.run(git_dir, 'rev-parse', '--verify', '--end-of-options', name)
    except git.RefusedError as exc:
        if exc.cause != 'fatal: Needed a single revision':
            return f'{missing}: {exc.cause}'
    return missing


def _local_name(branch: str) -> str:
    """Return the name of a branch without what may be written before it"""
    for prefix in ('refs/heads/', 'heads/'):
        if branch.startswith(prefix):
            return branch[len(prefix):]
    return branch


def _guess_upstream(git_dir: str, tip: str) -> Optional[Tuple[str, str]]:
    """Find where a branch without an upstream leaves what is known by a name.

    The nearest commit of its history that another branch or a tag points at is
    taken; a branch rather than a tag.

    Returns:
        (commit, name of that branch or tag), None when there is no such commit
    """
    refs = git.run(git_dir, 'for-each-ref',
                   '--format=%(objectname) %(*objectname) %(refname:short)',
                   'refs/heads', 'refs/remotes', 'refs/tags').decode('utf-8', 'replace')
    names: Dict[str, str] = {}
    for line in refs.splitlines():
        # What an annotated tag points at is in the middle
        pointer, target, name = line.split(' ', 2)
        names.setdefault(target or pointer, name)
    names.pop(tip, None)
    if not names:
        return None
    history = git.run(git_dir, 'rev-list', '--first-parent', '-n', str(_HISTORY), tip)
    for commit in history.decode().split()[1:]:
        if commit in names:
            return commit, names[commit]
    return None


def _upstream(git_dir: str, branch: str, tip: str) -> Tuple[str, List[str]]:
    """Return the commit that a branch starts from, and messages"""
    local = _local_name(branch)
    if local in ('HEAD', '@'):
        local = git.ask(git_dir, 'symbolic-ref', '--short', '-q', 'HEAD') or local
    found = _resolve(git_dir, f'{local}@{{upstream}}')
    if found:
        try:
            return git.run(git_dir, 'merge-base', found, tip).decode().strip(), []
        except git.RefusedError as exc:
            if exc.cause != 'exit status 1':
                raise
            raise GitError(
                f"branch '{branch}' and its upstream have no commit in common in '{git_dir}'"
                f'{_if_shallow(git_dir)}: use -c COUNT or a range') from exc
    is_local = bool(git.ask(git_dir, 'rev-parse', '--verify', '--quiet', f'refs/heads/{local}'))
    gone = ''
    if is_local:
        was, _, track = git.ask(git_dir, 'for-each-ref', '--format=%(upstream:short) '
                                '%(upstream:track)', f'refs/heads/{local}').rpartition(' ')
        if track == '[gone]':
            gone = f"its upstream '{was}' is gone; "
    guess = _guess_upstream(git_dir, tip)
    if not guess:
        advice = (f"set one with 'git branch --set-upstream-to=NAME {local}', or " if is_local
                  else '')
        raise GitError(f"Cannot find a suitable upstream for branch '{branch}'"
                       f'{_if_shallow(git_dir)}: {gone}{advice}use -c COUNT or a range')
    commit, name = guess
    told = [f"Guessing upstream as '{name}'"]
    return commit, [f"Branch '{local}': {gone}guessing another", *told] if gone else told


def _if_shallow(git_dir: str) -> str:
    """Return what to do about a history that ends early, '' where it does not"""
    if git.ask(git_dir, 'rev-parse', '--is-shallow-repository') != 'true':
        return ''
    return (" (the history ends early, as this is a shallow clone: 'git fetch --unshallow' gets "
            "the rest, 'git fetch --deepen=N' some of it)")


def _short(git_dir: str, commits: Sequence[Commit], wanted: int) -> List[str]:
    """Return a message if commits are missing, as a history ends early.

    Args:
        git_dir: repository
        commits: those that are there, oldest first
        wanted: how many were asked for; 0: all
    """
    if 0 < wanted <= len(commits) or not _if_shallow(git_dir) or not git.ask(
            git_dir, 'rev-list', '--no-walk', '--max-parents=0',
            *(commit.hash for commit in commits[:1])):
        return []
    return [f"{commits[0].hash[:12]} is the oldest commit that is there{_if_shallow(git_dir)}"]


def _log(git_dir: str, *args: str) -> List[Commit]:
    """Return commits of a git log, oldest first"""
    out = git.run(git_dir, 'log', '--reverse', '--format=%H%x00%s%x00', *args, '--')
    fields = out.decode('utf-8', 'replace').split('\0')
    return [Commit(fields[i].strip(), fields[i + 1])
            for i in range(0, len(fields) - 1, 2)]


def find_series(git_dir: str, branch: str, count: int = -1, step: int = 1) -> Series:
    """Return the commits to build.

    Args:
        git_dir: repository
        branch: a branch, any other name of a commit, or a range: A..B, or A...B
            for what is in one of the two only
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
    tip = ''
    name = branch
    if '..' in branch:
        whole, messages = _range(git_dir, branch)
        commits = whole
        messages += _short(git_dir, commits, max(count, 0))
    else:
        name, told = _find_ref(git_dir, branch)
        tip = _require(git_dir, branch, name)
        messages = []
        if branch in ('HEAD', '@'):
            name = git.ask(git_dir, 'symbolic-ref', '-q', 'HEAD') or branch
        if count > 0:
            commits = _log(git_dir, '-n', str(count), tip)
            messages = _short(git_dir, commits, count)
            whole = _whole(git_dir, branch, tip)
        else:
            base, messages = _upstream(git_dir, branch, tip)
            commits = _log(git_dir, f'{base}..{tip}')
            if not commits:
                raise GitError(f"No commits found to process in branch '{branch}': it is where "
                               'its upstream is; use -c COUNT or a range')
            whole = commits = _log(git_dir, '-n', '1', base) + commits
        messages = told + messages
    if count > 0:
        commits = commits[-count:]
    top = len(commits) - 1
    selected = tuple(range(0, top + 1, step)) if step else tuple(sorted({0, top}))
    alive = frozenset(commit.hash for commit in [*commits, *whole])
    replaced = set(git.ask(git_dir, 'for-each-ref', '--format=%(refname:lstrip=2)',
                           'refs/replace').split())
    messages += [f'{commit.hash[:12]} is built as it is, not as refs/replace has it'
                 for commit in commits if commit.hash in replaced]
    return Series(tuple(commits), selected, alive, tuple(messages), tip, bool(tip and count > 0),
                  name)


def _range(git_dir: str, text: str) -> Tuple[List[Commit], List[str]]:
    """Return the commits of a range, and messages"""
    dots = '...' if '...' in text else '..'
    ends = text.split(dots)
    if len(ends) != 2 or any(end.startswith('.') or '..' in end for end in ends):
        raise GitError(f"'{text}' is not a range of commits: write it as A..B or A...B")
    found = [_find_ref(git_dir, end or 'HEAD') for end in ends]
    commits = _log(git_dir, dots.join(_require(git_dir, end or 'HEAD', full)
                                      for end, (full, _) in zip(ends, found)))
    if not commits:
        raise GitError(f"range '{text}' has no commits")
    return commits, [line for _, told in found for line in told]


def _whole(git_dir: str, branch: str, tip: str) -> List[Commit]:
    """Return all commits of a branch that are not its upstream's, and the one before.

    None of a branch without an upstream, or of one that is where that is.
    """
    try:
        base, _ = _upstream(git_dir, branch, tip)
    except git.NoGitError:
        raise
    except GitError:
        return []
    if base == tip:
        return []
    return _log(git_dir, '-n', '1', base) + _log(git_dir, f'{base}..{tip}')


def in_history(git_dir: str, series: Series, hashes: Iterable[str]) -> Dict[str, int]:
    """Return which commits are in the history of a branch.

    Args:
        git_dir: repository
        series: commits of the branch
        hashes: the commits in question

    Returns:
        hash to how many commits are newer in `git log`; nothing for a range
    """
    wanted = set(hashes)
    if not series.tip or wanted <= series.alive:
        return {}
    return _places(git_dir, series.tip, wanted)


def _places(git_dir: str, tip: str, wanted: Container[str]) -> Dict[str, int]:
    """Return what in_history() does, of a commit"""
    out = git.run(git_dir, 'rev-list', '-n', str(_HISTORY), tip).decode().split()
    return {commit: place for place, commit in enumerate(out) if commit in wanted}


def known_to(git_dir: str, name: str, hashes: Container[str]) -> FrozenSet[str]:
    """Return which commits belong to a branch or a range; none if there is no such.

    Args:
        git_dir: repository
        name: as `Series.name`
        hashes: the commits in question
    """
    try:
        if '..' in name:
            return frozenset(commit.hash for commit in _range(git_dir, name)[0]
                             if commit.hash in hashes)
        return frozenset(_places(git_dir, _require(git_dir, name), hashes))
    except git.NoGitError:
        raise
    except GitError:
        return frozenset()


def to_keep(git_dir: str, series: Series, built: Sequence[Tuple[int, str]]) -> FrozenSet[str]:
    """Return the commits whose results are not stale.

    Those of the branch, and of its history what other counts (-c) built: with
    -c 2 what an earlier -c 5 built is kept. But not for ever: where each run
    builds the newest five of a branch that grows, older results are to go. So as
    much is kept, from the newest result on, as was built at once.

    Args:
        git_dir: repository
        series: the commits of this run
        built: number and hash of each commit that has results
    """
    places = in_history(git_dir, series, [commit for _, commit in built])
    found = [(places[commit], number, commit) for number, commit in built if commit in places]
    if not found:
        return series.alive
    place, number, commit = min(found)
    if not series.counted and commit not in series.alive:
        # The branch has been put onto another commit
        return series.alive
    end = place + max(number, len(found))
    return series.alive | {commit for place, _, commit in found if place < end}


def remotes(folder: str) -> List[str]:
    """Return where a repository gets what it lacks, [] for one that is complete.

    Args:
        folder: a repository, or in its working tree
    """
    found: List[str] = []
    for line in git.ask(folder, 'config', '--get-regexp',
                        r'^(extensions\.partialclone|remote\..*\.promisor)$').splitlines():
        name, _, value = line.partition(' ')
        if name == 'extensions.partialclone':
            found.insert(0, value)
        elif value.lower() in ('', 'true', 'yes', 'on', '1'):
            found.append(name[len('remote.'):-len('.promisor')])
    return [name for name in dict.fromkeys(found) if name]


def fetch_missing(folder: str, commits: Sequence[str], say: Callable[[str], None]) -> None:
    """Fetch what of some commits a repository lacks, if it is a partial clone.

    In a clone that has not all objects (`git clone --filter=blob:none` and the like) git
    fetches what it lacks when it meets it, one by one in many cases, and only in that
    repository: a slot that borrows its objects, or a push of them, does not know where
    they come from. So it is fetched before, as git does it: into the user's repository.

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
