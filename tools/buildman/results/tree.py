# SPDX-License-Identifier: GPL-2.0+
"""The result tree on disk: where things lie, and its only writer.

    OUT/BRANCH/NN_g<hash>_<subject>/BOARD/{done,err,log,sizes,…}
    OUT/current/BOARD/…                       without a branch
    OUT/BOARD/…                               the same with -N

`done` holds make's exit status and is put in place last, by rename: when it is
there, all the rest is complete. So a run that was stopped at any moment is
continued by looking for the folders without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from typing import Callable, Container, Dict, Iterable, List, Optional, Sequence, Tuple

from buildman.core.errors import SetupError
from buildman.core.files import clear_non_folder, clear_way, move_folder, put_file
from buildman.core.outcome import Outcome, lacks_compiler
from buildman.core.plan import Commit
from buildman.results.known import Entry, Glance, Known

# Folder of the slots, inside the folder of the results
WORK_DIR = '.bm-work'

# In the folder of a branch: names of the branches that were built there, a line each
BRANCHES = f'{WORK_DIR}/branches'

# Results of a commit: two or more digits, the hash, 20 characters of subject
_COMMIT_DIR = re.compile(r'^(\d+)_g([0-9a-f]{7,64})_')

# Characters that tell a file of one line from a longer one
_SHORT = 4096

# More is no settings of ours
_MOST = 1 << 20

# Files of a result that are no files of a build, with the ELF images' ones
_RESULT_ONLY = frozenset(('err', 'host', 'lines', 'log', 'out-cmd', 'out-env', 'settings', 'sizes',
                          'toolchain', 'trace', 'uboot.env'))


def _read_whole(path: str) -> Tuple[bytes, int]:
    """Return what a small file holds, and its time in nanoseconds.

    In half of the time that a file object takes: of each result there are two such files,
    and a run with nothing to do reads them all.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        info = os.fstat(fd)
        return os.read(fd, min(info.st_size, _MOST)), info.st_mtime_ns
    finally:
        os.close(fd)


def commit_dir_name(upto: int, commit: Commit) -> str:
    """Return the name of the folder that holds one commit's results.

    Args:
        upto: index of the commit, the first is 0
        commit: the commit
    """
    subject = commit.subject
    for char in '/: ':
        subject = subject.replace(char, '-')
    subject = subject[:20].replace('\0', '-')
    name = f'{upto + 1:02}_g{commit.hash}_{subject}'
    # The same bytes in any locale, also where that does not have these characters
    return os.fsdecode(name.encode('utf-8', 'surrogateescape'))


def commit_folders(base_dir: str) -> Dict[str, Tuple[int, str]]:
    """Return the folders of commits that there are.

    Args:
        base_dir: OUT/BRANCH; it need not be there

    Returns:
        name of the folder to (number, hash)

    Raises:
        OSError: it cannot be read
    """
    try:
        names = sorted(os.listdir(base_dir))
    except FileNotFoundError:
        return {}
    matches = {name: _COMMIT_DIR.match(name) for name in names}
    return {name: (int(match.group(1)), match.group(2))
            for name, match in matches.items() if match}


def find_commit_dirs(base_dir: str, commits: Sequence[Commit]) -> List[str]:
    """Return the name of the folder that each commit has, whatever its number.

    A build with another count numbers the same commits in another way. A commit
    without a folder gets the name that it would have.

    Raises:
        OSError: the folder cannot be read
    """
    found = commit_folders(base_dir)
    by_hash = {commit: name for name, (_, commit) in found.items()}
    wanted = [commit_dir_name(upto, commit) for upto, commit in enumerate(commits)]
    return [name if name in found else by_hash.get(commit.hash, name)
            for name, commit in zip(wanted, commits)]


def put_done(folder: str, return_code: int, stamp: bool) -> None:
    """Tell that a result is complete; by rename, when all the rest is there.

    Args:
        folder: of the result
        return_code: make's exit status
        stamp: there is a file `settings` of this result: it gets the time of `done`.
            Other buildmans that build here leave it as it is, and another time tells that.
    """
    temp = os.path.join(folder, 'done.new')
    put_file(temp, str(return_code).encode())
    if stamp:
        os.utime(os.path.join(folder, 'settings'), ns=(os.stat(temp).st_mtime_ns,) * 2)
    os.replace(temp, os.path.join(folder, 'done'))


def settings_of(folder: str) -> str:
    """Return what a result tells of the settings that made it; '' if it does not."""
    try:
        data, stamp = _read_whole(f'{folder}/settings')
        done = os.stat(f'{folder}/done').st_mtime_ns
    except OSError:
        return ''
    return data.decode('utf-8', 'replace') if stamp == done else ''


def _is_result_only(name: str) -> bool:
    """Return whether a file in the folder of a build is one of its result"""
    return name in _RESULT_ONLY or name.endswith(('.sizes', '.objdump'))


def write_result(folder: str, outcome: Outcome,
                 replaces: Optional[Callable[[str], bool]] = None) -> None:
    """Write one result, replacing what an earlier run left for it.

    Args:
        folder: of this board at this commit
        outcome: what came out; its images are moved into the folder
        replaces: tells of a name whether it is of an earlier result, where there
            are other files as well; None: all are, and what is no folder where one
            has to be is in the way

    Raises:
        SetupError: the disk is full or the folder cannot be written; `done` is
            not there then, so the next run builds it again
    """
    try:
        _write(folder, outcome, replaces)
    except OSError as exc:
        raise SetupError(
            f"cannot write the result of '{outcome.target}' to '{folder}': "
            f'{exc.strerror}') from exc


def _write(folder: str, outcome: Outcome, replaces: Optional[Callable[[str], bool]]) -> None:
    """Write all files of a result, `done` last"""
    try:
        os.mkdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        if not replaces:
            clear_non_folder(os.path.dirname(folder))
        os.makedirs(folder)
    except FileExistsError:
        if not replaces:
            clear_non_folder(folder)
            os.makedirs(folder, exist_ok=True)
        _empty(folder, replaces)
    files = dict(outcome.files)
    files['log'] = outcome.stdout.encode('utf-8', 'surrogateescape')
    if outcome.stderr:
        files['err'] = outcome.stderr.encode('utf-8', 'surrogateescape')
    if outcome.sizes:
        files['sizes'] = outcome.sizes.encode()
    for name, data in files.items():
        put_file(os.path.join(folder, name), data)
    for parent in {os.path.dirname(name) for name in outcome.images}:
        os.makedirs(os.path.join(folder, parent), exist_ok=True)
    for name, staged in outcome.images.items():
        # By rename, unless the work area is on another disk
        shutil.move(staged, os.path.join(folder, name))
    for stage in {os.path.dirname(staged) for staged in outcome.images.values()}:
        with contextlib.suppress(OSError):
            os.rmdir(stage)
    put_done(folder, outcome.return_code, 'settings' in files)


def _empty(folder: str, replaces: Optional[Callable[[str], bool]]) -> None:
    """Remove an earlier result, `done` first"""
    clear_way(os.path.join(folder, 'done'))
    for entry in list(os.scandir(folder)):
        if replaces and not replaces(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            if not replaces:
                # Sub-folders hold only images
                shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


class OutputLock:
    """Keeps two runs out of the same result folder; released with the process."""

    def __init__(self, base_dir: str) -> None:
        """Take the lock.

        Args:
            base_dir: folder of the results; made when it is not there

        Raises:
            SetupError: another run holds it, or the folder cannot be written
        """
        work = os.path.join(base_dir, WORK_DIR)
        path = os.path.join(work, 'lock')
        try:
            clear_non_folder(work)
            os.makedirs(work, exist_ok=True)
            if os.path.isdir(path):
                clear_way(path)
            self._file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
        except OSError as exc:
            raise SetupError(f"cannot write to the output folder '{base_dir}': {exc.strerror}: "
                             f"'{exc.filename}' (choose another with -o)") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self._file.seek(0)
            who = self._file.read(100).strip() or 'unknown'
            self._file.close()
            raise SetupError(
                f"another buildman (process {who}) is building in '{base_dir}': "
                'wait for it or choose another folder with -o') from exc
        try:
            self._file.truncate(0)
            self._file.write(f'{os.getpid()}\n')
            self._file.flush()
        except OSError as exc:
            self._file.close()
            raise SetupError(f"cannot write to the output folder '{base_dir}': "
                             f'{exc.strerror}') from exc

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


class ResultTree:
    """The folders of one branch (or of the current source).

    Attributes:
        base_dir: OUT/BRANCH, or OUT for the current source
        commits: the commits of this run, None for the current source
    """

    def __init__(self, base_dir: str, commits: Optional[Sequence[Commit]],
                 flat: bool = False, subdirs: bool = True) -> None:
        """Describe a tree; nothing is touched.

        Args:
            base_dir: folder that holds it
            commits: commits of this run, oldest first; None: current source
            flat: results of the only board lie in base_dir itself (-w)
            subdirs: without a branch, results lie in a folder 'current'
        """
        self.base_dir = base_dir
        self.commits = commits
        self._flat = flat
        self._current = base_dir if flat or not subdirs else os.path.join(base_dir, 'current')
        # Of the folders of commits, when there are such
        self._names = (None if flat or commits is None else
                       [commit_dir_name(upto, commit) for upto, commit in enumerate(commits)])
        self._known = Known(os.path.join(self.work_dir, 'known'))

    @property
    def work_dir(self) -> str:
        """Return the folder that holds the slots."""
        return os.path.join(self.base_dir, WORK_DIR)

    def commit_dir(self, upto: int) -> str:
        """Return the folder that holds all boards of a commit."""
        if self._names is None:
            return self._current
        return f'{self.base_dir}/{self._names[upto]}'

    def board_dir(self, upto: int, target: str) -> str:
        """Return the folder that holds one board at one commit."""
        if self._flat:
            return self.commit_dir(upto)
        return f'{self.commit_dir(upto)}/{target}'

    def done_file(self, upto: int, target: str) -> str:
        """Return the path of the file that tells that a result is complete."""
        return os.path.join(self.board_dir(upto, target), 'done')

    def read_done(self, upto: int, target: str) -> Optional[Tuple[int, bool]]:
        """Look whether a board was built at a commit.

        Returns:
            (make's exit status, whether it wrote to stderr); None when the
            result is not there, not complete or damaged
        """
        folder = self.board_dir(upto, target)
        try:
            code = int(_read_whole(f'{folder}/done')[0])
        except (OSError, ValueError):
            return None
        try:
            warned = os.stat(f'{folder}/err').st_size > 0
        except OSError:
            warned = False
        return code, warned

    def forget(self, upto: int, target: str) -> None:
        """Let an earlier result count no more, as it was to be built anew and was not.

        Raises:
            SetupError: the folder cannot be written
        """
        path = self.done_file(upto, target)
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
        except OSError as exc:
            raise SetupError(f"cannot remove '{path}': {exc.strerror}") from exc

    def lacks_compiler(self, upto: int, target: str) -> bool:
        """Return whether a board has a result that says that there was no compiler.

        Such a result stands until there is one.
        """
        done = self.read_done(upto, target)
        return done is not None and self._lacks(upto, target, done[0])

    def _lacks(self, upto: int, target: str, code: int) -> bool:
        """Return the same of a result of which make's exit status is known"""
        if not code:
            return False
        log, err = (self._read_start(upto, target, name) for name in ('log', 'err'))
        return lacks_compiler(code, log, err)

    def _read_start(self, upto: int, target: str, name: str) -> str:
        """Return a file of a result, '' when there is none; of a long one its beginning"""
        try:
            with open(os.path.join(self.board_dir(upto, target), name), encoding='utf-8',
                      errors='replace') as inf:
                return inf.read(_SHORT)
        except OSError:
            return ''

    def _sort_old(self, alive: Container[str]) -> Tuple[List[str], Dict[str, str]]:
        """Sort the folders of commits that are not where this run wants them.

        Returns:
            (folders of commits that are gone, moves of those that have
            another number now)
        """
        gone: List[str] = []
        moves: Dict[str, str] = {}
        if self._names is None:
            return gone, moves
        wanted = {commit.hash: name for commit, name in zip(self.commits or (), self._names)}
        found = self._folders()
        for name, (_, commit) in found.items():
            path = os.path.join(self.base_dir, name)
            if name in self._names or os.path.islink(path) or not os.path.isdir(path):
                continue
            new = wanted.get(commit)
            if new and new not in found and new not in moves.values():
                moves[name] = new
            elif new or commit not in alive:
                gone.append(name)
        return gone, moves

    def _folders(self) -> Dict[str, Tuple[int, str]]:
        """Return what commit_folders() does"""
        try:
            return commit_folders(self.base_dir)
        except OSError as exc:
            raise SetupError(f"cannot read '{self.base_dir}': {exc.strerror}") from exc

    def built_commits(self) -> List[Tuple[int, str]]:
        """Return number and hash of each commit that has a folder.

        Raises:
            SetupError: the folder cannot be read
        """
        if self._names is None:
            return []
        return list(self._folders().values())

    def settle(self, alive: Container[str] = ()) -> List[str]:
        """Give the commits that have another number now the folder of that.

        Returns:
            the folders of commits that are no longer in the branch, for remove()

        Raises:
            SetupError: a folder cannot be moved
        """
        gone, moves = self._sort_old(alive)
        try:
            for name, new in moves.items():
                move_folder(os.path.join(self.base_dir, name), os.path.join(self.base_dir, new),
                            os.path.join(self.work_dir, 'moved.new'))
        except OSError as exc:
            raise self._untidy(exc) from exc
        return gone

    def remove(self, gone: Iterable[str]) -> None:
        """Remove the results of commits that are no longer in the branch.

        Raises:
            SetupError: a folder cannot be removed
        """
        try:
            for name in gone:
                shutil.rmtree(os.path.join(self.base_dir, name))
        except OSError as exc:
            raise self._untidy(exc) from exc

    def _untidy(self, exc: OSError) -> SetupError:
        """Return what to say of old folders that stay as they are"""
        return SetupError(f"cannot tidy '{self.base_dir}': {exc.strerror}: '{exc.filename}'")

    def write(self, outcome: Outcome) -> None:
        """Write one result, replacing what an earlier run left for it; see write_result()."""
        write_result(self.board_dir(outcome.commit_upto, outcome.target), outcome,
                     # The build is in here too, and is to go on from where it is
                     _is_result_only if self._flat else None)

    def complete(self, upto: int, targets: Iterable[str]) -> Dict[str, Glance]:
        """Return the complete results of a commit for the targets that have one.

        One listing of the folder first: in a new tree, or for boards that were
        never built, no file is looked for. And what was found before is not read again.
        """
        folder = self.commit_dir(upto)
        name = os.path.basename(folder)
        known = self._known.of(name)
        out: Dict[str, Glance] = {}
        new: Dict[str, Entry] = {}
        try:
            names = None if self._flat else set(os.listdir(folder))
            # All boards of all commits: what leads to the folder is looked up once
            top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return {}
        try:
            for target in targets if names is None else filter(names.__contains__, targets):
                try:
                    stamp = os.stat('done' if self._flat else f'{target}/done',
                                    dir_fd=top).st_ctime_ns
                except OSError:
                    continue
                entry = known.get(target)
                if entry and entry[0] == stamp:
                    out[target] = entry[1]
                    continue
                glance = self._glance(upto, target)
                if glance:
                    out[target] = glance
                    new[target] = stamp, glance
        finally:
            os.close(top)
        self._known.learn(name, new)
        return out

    def _glance(self, upto: int, target: str) -> Optional[Glance]:
        """Read what there is to know of a result, None if it is not there, or is damaged"""
        done = self.read_done(upto, target)
        return Glance(*done, self._lacks(upto, target, done[0]),
                      settings_of(self.board_dir(upto, target))) if done else None

    def remember(self, targets: Sequence[str], selected: Iterable[int]) -> None:
        """Keep what there is to know of the results, for the next run; see `results.known`.

        Args:
            targets: boards
            selected: indexes of commits
        """
        for upto in selected:
            self.complete(upto, targets)
        # It only saves time
        with contextlib.suppress(OSError):
            self._known.save([os.path.basename(self._current)] if self._names is None else
                             self._names)
