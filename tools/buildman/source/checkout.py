# SPDX-License-Identifier: GPL-2.0+
"""The source of one slot: a working tree of its own at any commit.

Each slot has a repository of its own that borrows the objects of the real one
(git's objects/info/alternates), rather than a `git worktree`: nothing is
written into the user's repository, so it may be read-only, used by two runs at
once, or be a worktree or a shallow clone itself; and slots can be made at the
same time, as they share no lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import Dict, Mapping, Optional, Sequence, Set, Tuple

from buildman.core.errors import GitError
from buildman.core.files import clear_way, replace_file
from buildman.process.clock import newer_than_now
from buildman.source import git
from buildman.source.origin import ABBREV, Origin, make_standing
from buildman.source.shared import SHARED_MARK, Watch, Watches

# Processes that write files when many have to be checked out; older gits do not know it
CHECKOUT_WORKERS = 4

# The folder in a slot that is not part of the source
_BUILD_DIR = 'build'

# What the repository of a slot is told; git includes it in the repository's configuration
_CONFIG_FILE = 'buildman-config'

# Slots share files (see `source.shared`), and a file's
# ctime and inode number are no sign of a change there: a link that is made or
# removed elsewhere sets the one, a copy has another one of the other. The rest is what
# a user may like otherwise: a git that a build runs goes by it, too.
_SLOT_CONFIG = f'''\
[gc]
\tauto = 0
[maintenance]
\tauto = false
[advice]
\tdetachedHead = false
[core]
\tlogAllRefUpdates = false
\ttrustctime = false
\tcheckStat = minimal
\tfsmonitor = false
\tsplitIndex = false
\tuntrackedCache = false
\thooksPath = /dev/null
\tautocrlf = false
\teol = native
\tignoreStat = false
\tsparseCheckout = false
[feature]
\tmanyFiles = false
[index]
\tversion = 2
\tskipHash = false
\tsparse = false
[include]
\tpath = {ABBREV}
'''

# In the configuration of a repository that keeps its refs or names its objects otherwise
# than is written here, as older versions may have made it
_OTHER_FORMAT = re.compile(r'^\s*\[extensions', re.MULTILINE | re.IGNORECASE)


class SlotSource:
    """The working tree of one slot.

    Attributes:
        path: its folder
        commit: what it holds at the moment, '' when that is not known
    """

    def __init__(self, path: str, origin: Origin) -> None:
        """Name a working tree; nothing is touched yet.

        Args:
            path: folder for it
            origin: repository to borrow objects from
        """
        self.path = path
        self.commit = ''
        self._git_dir = os.path.join(path, '.git')
        # Where it is damaged, git must not look for another repository further up: that
        # could be the user's, or that of the work folder of a machine
        self._env = {**git.ALONE, 'GIT_DIR': self._git_dir, 'GIT_WORK_TREE': path}
        self._origin = origin
        self._watch: Optional[Watch] = None
        self._changed: Optional[ChangedFiles] = None

    def prepare(self, commit: str, alone: bool = False) -> str:
        """Make the working tree, or take over what an earlier run left.

        What git does not get along with, as after a loss of power, is made anew.

        Args:
            commit: object name to check out
            alone: share no file with other slots, since builds are going to
                write into the tree

        Returns:
            what was wrong with the one that was there, '' for nothing

        Raises:
            GitError: git refused
            OSError: the disk is full or the folder cannot be written
        """
        wrong = ''
        if os.path.isdir(os.path.join(self._git_dir, 'objects', 'info')) and (
                not os.path.islink(self.path)):
            try:
                if not _OTHER_FORMAT.search(self._config()):
                    self._take_over(commit, alone)
                    return ''
            except git.RefusedError as exc:
                if 'No space left' in exc.cause:
                    raise
                wrong = exc.cause
            except OSError as exc:
                if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
                    raise
                wrong = f"{exc.strerror}: '{exc.filename2 or exc.filename}'"
        self._begin()
        self._borrow()
        self.checkout(commit)
        return wrong

    def _take_over(self, commit: str, alone: bool) -> None:
        """Bring what an earlier run left to a commit"""
        for name in ('index.lock', 'HEAD.lock', 'shallow.lock'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._git_dir, name))
        self._borrow()
        if alone and self.shared:
            self.unshare()
        try:
            self.checkout(commit)
        except GitError:
            # Its index may be damaged, as after a loss of power
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._git_dir, 'index'))
            self.checkout(commit)
        self.clean()
        self.renew()

    def adopt(self, commit: str) -> None:
        """Take over a working tree that has just been made, at this commit."""
        self.commit = commit

    def watch(self, watches: Watches, changed: 'ChangedFiles') -> None:
        """From now on be told of writes to the source.

        Not for builds that write into the tree. To be called after prepare() or
        adopt() and before the first build, since what that writes may be another
        slot's as well.

        Args:
            watches: tells of writes
            changed: which files differ
        """
        self._changed = changed
        self._watch = watches.watch(self.path, changed.folders(self.commit), _BUILD_DIR)
        if self._watch:
            # Checked out in this run, before this. A build that wrote to one of
            # its files since did so in a slot that was watched
            self._watch.settle(0)
            self._trust_times()

    def _trust_times(self) -> None:
        """Have git go by the time stamps of the files, if no build has written to any.

        It reads each file that is as young as the index, since something may have
        been written in that very second (git's technical/racy-git.txt): after a
        checkout that took three seconds a third of the tree, each time that it is
        asked, by builds too. So the index gets the present time, as the file system
        tells it, from before it is known that nothing was written until then.
        """
        assert self._watch
        path = os.path.join(self._git_dir, 'buildman-now')
        with contextlib.suppress(OSError):
            replace_file(path, b'')
            now = os.stat(path).st_mtime_ns
            os.unlink(path)
            if self._watch.is_quiet():
                os.utime(os.path.join(self._git_dir, 'index'), ns=(now, now))

    def _moving(self) -> 'contextlib.AbstractContextManager[None]':
        """Return what is around our own writes to the source"""
        return self._watch.moving() if self._watch else contextlib.nullcontext()

    def _begin(self) -> None:
        """Make an empty repository"""
        # There may be a worktree of upstream's, half of one of ours, or what was built
        # there of the current source (-i), which would be taken for a part of this one
        clear_way(self.path)
        os.makedirs(self.path)
        git.run(self.path, 'init', '-q', '--template=', env=git.ALONE)
        os.makedirs(os.path.join(self._git_dir, 'objects', 'info'), exist_ok=True)

    def _config(self) -> str:
        """Return the configuration of the repository"""
        with contextlib.suppress(FileNotFoundError), open(
                os.path.join(self._git_dir, 'config'), encoding='utf-8',
                errors='surrogateescape') as inf:
            return inf.read()
        return ''

    def _borrow(self) -> None:
        """Let the repository have our settings, and objects, tags and the history's end
        of the origin"""
        self._origin.lend(self._git_dir)
        replace_file(os.path.join(self._git_dir, _CONFIG_FILE), _SLOT_CONFIG.encode())
        # Also of one that an older version has made
        if _CONFIG_FILE not in self._config():
            with open(os.path.join(self._git_dir, 'config'), 'a', encoding='ascii') as outf:
                outf.write(f'[include]\n\tpath = {_CONFIG_FILE}\n')

    def stand(self) -> Tuple[Dict[str, str], str]:
        """Get ready what builds see in place of the repository, for a folder built as it is.

        To be called when the commit is checked out.

        Returns:
            (variables for the environment of builds, what is wrong or '')

        Raises:
            GitError: git refused
            OSError: the disk is full
        """
        if self._origin.standing is None:
            return {}, ''
        git_dir, wrong = make_standing(self.path, self._origin, self.commit)
        return {'GIT_DIR': git_dir}, wrong

    # -- files that other slots have as well -------------------------------

    @property
    def shared(self) -> bool:
        """Whether other slots may have the same files, so a write shows there."""
        return os.path.exists(os.path.join(self._git_dir, SHARED_MARK))

    def spoiled(self) -> bool:
        """Find out, after a build, whether a file that was shared may have been written to.

        By this slot's build or by another one's. Which files were shared while
        it ran cannot be told afterwards, as the other slot may have left off
        sharing; so any tracked file that was changed counts.

        Raises:
            GitError: git refused
        """
        if (self._watch and self._watch.is_quiet()) or not self.shared:
            return False
        alarms = self._watch.alarms() if self._watch else 0
        if git.run(self.path, 'diff-files', '--name-only', env=self._env):
            return True
        if self._watch:
            self._watch.settle(alarms)
        return False

    def _links(self, name: bytes) -> int:
        """Return how many names a file has, 0 when it is not there"""
        try:
            return os.lstat(os.path.join(os.fsencode(self.path), name)).st_nlink
        except OSError:
            return 0

    def unshare(self) -> None:
        """Replace the files that other slots have as well, with those of the commit.

        Raises:
            GitError: git refused
            OSError: the disk is full
        """
        names = git.run(self.path, 'ls-files', '-z', env=self._env).split(b'\0')
        self._write_anew([os.path.join(os.fsencode(self.path), name)
                          for name in names if name and self._links(name) > 1])
        os.unlink(os.path.join(self._git_dir, SHARED_MARK))

    def renew(self) -> None:
        """Write what is newer than now anew; what is made of it would never be up to date.

        Raises:
            GitError: git refused
            OSError: the disk is full
        """
        other = tuple(os.path.join(self.path, name, '') for name in ('.git', _BUILD_DIR))
        names = [os.fsencode(name) for name in newer_than_now(self.path)
                 if not name.startswith(other)]
        if names:
            self._write_anew(names)

    def _write_anew(self, names: Sequence[bytes]) -> None:
        """Replace files of the source with those of the commit"""
        with self._moving():
            for name in names:
                os.unlink(name)
            git.run(self.path, 'checkout', '-q', '-f', 'HEAD', '--', env=self._env)

    # -- moving ------------------------------------------------------------

    def checkout(self, commit: str) -> None:
        """Bring the working tree to a commit.

        Args:
            commit: object name

        Raises:
            GitError: git refused
        """
        if self.commit == commit:
            return
        with self._moving():
            old, self.commit = self.commit, ''
            alarms = self._watch.alarms() if self._watch else 0
            is_quiet = self._watch and self._watch.is_quiet()
            if not (old and is_quiet and self._step(commit)):
                # Most of a tree that is new has to be written; else threads that look at
                # files cost more than they save
                git.run(self.path, '-c', f'checkout.workers={CHECKOUT_WORKERS}', '-c',
                        f"core.preloadIndex={'false' if old else 'true'}", 'checkout', '-q',
                        '-f', '--detach', commit, '--', env=self._env)
            if self._watch and self._changed:
                self._watch.settle(alarms)
                # Something may have removed any folder, and git made it again
                if not self._watch.extend(self._changed.new_folders(old, commit) if is_quiet
                                          else self._changed.folders(commit)):
                    self._watch.close()
                    self._watch = None
            self._origin.set_abbrev(self._git_dir, commit)
            self.commit = commit

    def _step(self, commit: str) -> bool:
        """Go to another commit from one to which nothing was written since.

        Only files that differ between the two are looked at, which takes half of the
        time of a checkout, that looks at all.

        Returns:
            False when git will not, as a file is in the way
        """
        try:
            git.run(self.path, '-c', 'core.preloadIndex=false', 'reset', '-q', '--keep', commit,
                    '--', env=self._env)
        except git.RefusedError as exc:
            if 'No space left' in exc.cause:
                raise
            return False
        return True

    def clean(self) -> None:
        """Remove all that is not part of the commit, as before an in-tree build."""
        git.run(self.path, 'clean', '-fdxq', '-e', f'/{_BUILD_DIR}', env=self._env)


class ChangedFiles:
    """Which files differ between two commits, and which folders there are; asked for once."""

    def __init__(self, git_dir: str) -> None:
        self._git_dir = git_dir
        self._cache: Dict[Tuple[str, str], Mapping[str, str]] = {}
        self._folders: Dict[str, Sequence[str]] = {}

    def between(self, old: str, new: str) -> Mapping[str, str]:
        """Return the files that differ, each with how: M, A, D or T.

        Raises:
            GitError: git refused
        """
        key = (old, new)
        if key not in self._cache:
            out = git.run(self._git_dir, 'diff-tree', '-r', '-z', '--name-status',
                          '--no-renames', old, new)
            words = [os.fsdecode(word) for word in out.split(b'\0')]
            self._cache[key] = dict(zip(words[1::2], words[0::2]))
        return self._cache[key]

    def new_folders(self, old: str, new: str) -> Sequence[str]:
        """Return the folders, and those around them, of files that only the second commit has.

        Raises:
            GitError: git refused
        """
        found: Set[str] = set()
        for name, how in self.between(old, new).items():
            folder = os.path.dirname(name) if how not in 'MD' else ''
            while folder and folder not in found:
                found.add(folder)
                folder = os.path.dirname(folder)
        return sorted(found)

    def folders(self, commit: str) -> Sequence[str]:
        """Return all folders of a commit, as paths relative to the top one, which is left out.

        Raises:
            GitError: git refused
        """
        if commit not in self._folders:
            out = git.run(self._git_dir, 'ls-tree', '-r', '-d', '-z', '--name-only',
                          '--full-tree', commit)
            self._folders[commit] = os.fsdecode(out).split('\0')[:-1]
        return self._folders[commit]
