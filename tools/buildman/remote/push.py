# SPDX-License-Identifier: GPL-2.0+
"""What of a repository a machine needs for a build, and how it gets there.

A machine needs the trees of the commits to be built, not their history. So
each commit is pushed as a shallow root, a commit without parents: the push is
made from a small temporary repository that borrows our objects (`alternates`)
and whose `shallow` file lists the commits to be built. One commit that has all
of them as parents, the carrier, makes it one ref; it is made up of the same
bytes each time, so that its hash is the same for the same commits. The far
side allows new shallow roots with `receive.shallowUpdate`.

As no commit over there ever has a parent, there is no "deeper" or "shallower":
an older commit is one root more, whatever there was before. What is there
already is told by the far side (see `agent.setup`): those commits are roots in the
temporary repository, too, so that git counts with them as they are there, and
sends nothing that they contain.

The version text that scripts/setlocalversion of U-Boot finds out by `git
describe` needs some of the history: `source.history` tells which. Of a folder that is
built as it is, the commit that HEAD names goes along, and what is in the index,
so that git there tells of the same changes.

Formats: gitrepository-layout(5), shallow.txt and the objects of git.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import math
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time
import zlib
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from buildman.agent import lock
from buildman.core.errors import GitError
from buildman.process import commands
from buildman.process.registry import Stopped
from buildman.remote import ssh
from buildman.source import git, history
from buildman.source.origin import Past, Standing, object_folder

PUSH_REF = 'refs/buildman/push'

# Seconds in which the other end may unpack and check what came, and tell nothing
STALL_TIME = 120.0

# Temporary folders, each with a file that its maker has locked
TEMP_PREFIX = 'buildman-push-'
_IN_USE = 'in-use'

# Seconds after which a folder without a lock was not just being made
_OLD = 3600.0

# Folder -> descriptor of its lock
_HELD: Dict[str, int] = {}

# Fixed, so that the same content has the same hash
_PERSON = 'buildman <buildman> 0 +0000'
_HASH = re.compile(r'[0-9a-f]{40}\Z')
# What the version text is made of, which may be among the files that git ignores
_VERSION_FILE = re.compile(r'\.scmversion\Z|localversion')

_CONFIG = '''\
[core]
\trepositoryformatversion = 0
\tbare = true
\thooksPath = /dev/null
\tlogAllRefUpdates = false
[push]
\tfollowTags = false
\trecurseSubmodules = no
\tgpgSign = false
\tnegotiate = false
[protocol]
\tversion = 0
[gc]
\tauto = 0
[maintenance]
\tauto = false
'''


# --- the folder as it is ---

def _snapshot_tree(folder: str, objects: str, borrowed: List[str], spare: str,
                   exclude: Sequence[str]) -> str:
    """Write the tree of a folder as it is; return its hash.

    Args:
        folder: in a working tree, or in no repository at all
        objects: where new objects go
        borrowed: folders of other objects, added to
        spare: path for the index and, where there is none, a repository
        exclude: full paths to leave out
    """
    where: Dict[str, str] = {}
    if git.ask(folder, 'rev-parse', '--is-inside-work-tree') == 'true':
        borrowed.append(object_folder(folder))
        index = os.path.join(os.path.abspath(folder),
                             git.text(folder, 'rev-parse', '--git-path', 'index').rstrip('\n'))
        # With what it knows of unchanged files, only changed ones are read
        if os.path.exists(index):
            shutil.copy2(index, f'{spare}.index')
    else:
        git.text('/', 'init', '-q', '--bare', '--template=', f'{spare}.git', env=git.ALONE)
        where = {**git.ALONE, 'GIT_DIR': f'{spare}.git', 'GIT_WORK_TREE': os.path.abspath(folder)}
    env = {**where, 'GIT_INDEX_FILE': f'{spare}.index', 'GIT_OBJECT_DIRECTORY': objects,
           'GIT_ALTERNATE_OBJECT_DIRECTORIES': ':'.join(git.quote_path(path) for path in borrowed)}
    prefix = git.text(folder, 'rev-parse', '--show-prefix', env=env).rstrip('\n')
    before = _gitlinks(folder, env)
    real = os.path.realpath(folder)
    specs = ['.'] + [f':(exclude,literal){os.path.relpath(os.path.realpath(path), real)}'
                     for path in exclude
                     if os.path.realpath(path).startswith(real + os.sep)]
    git.text(folder, '-c', 'core.safecrlf=false', '-c',
             'advice.addEmbeddedRepo=false', 'add', '-A', '--', *specs, env=env)
    ignored = [f':(literal){name}' for name in sorted(os.listdir(folder))
               if _VERSION_FILE.match(name) and os.path.isfile(os.path.join(folder, name))]
    if ignored:
        git.text(folder, 'add', '-f', '--', *ignored, env=env)
    for num, path in enumerate(_gitlinks(folder, env)):
        full = os.path.join(folder, path)
        has = path in before and os.path.exists(os.path.join(full, '.git'))
        if path in before and not has:
            continue
        # Of a repository within only a submodule is part of the source
        git.text(folder, 'update-index', '--force-remove', '-z', '--stdin',
             stdin=os.fsencode(path) + b'\0', env=env)
        if has:
            tree = _snapshot_tree(full, objects, borrowed, f'{spare}-{num}', exclude)
            env['GIT_ALTERNATE_OBJECT_DIRECTORIES'] = ':'.join(map(git.quote_path, borrowed))
            git.text(folder, 'read-tree', f'--prefix={prefix}{path}/', tree, env=env)
    return git.text(folder, 'write-tree', *([f'--prefix={prefix}'] if prefix else []),
                env=env).strip()


def _gitlinks(folder: str, env: Mapping[str, str]) -> List[str]:
    """Return the submodules in the index, relative to the folder."""
    entries = git.text(folder, 'ls-files', '-s', '-z', '--', '.', env=env).split('\0')
    return [entry.partition('\t')[2] for entry in entries if entry.startswith('160000 ')]


# --- the push ---

@dataclasses.dataclass(frozen=True)
class PushPlan:
    """The source of one run, ready to be pushed to any number of machines.

    Attributes:
        commits: hashes to be built, oldest first; for the folder as it is one
            commit made of it
        more: commits that go along and are not built
        source: the folder
        standing: where the folder stands in its repository, when it is built as
            it is
        run: identifier of the run
        folder: temporary folder
        borrowed: folders of objects that are used where they are
        carrier: commit that has all of them as parents
    """

    commits: Tuple[str, ...]
    more: Tuple[str, ...]
    source: str
    standing: Optional[Standing]
    run: str
    folder: str
    borrowed: Tuple[str, ...]
    carrier: str
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False,
                                              compare=False)
    _parts: List[history.Part] = dataclasses.field(default_factory=list, repr=False,
                                                   compare=False)
    _past_lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False,
                                                   compare=False)

    def __enter__(self) -> 'PushPlan':
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary folder; harmless the second time."""
        remove_temp(self.folder)

    @property
    def refspec(self) -> str:
        """What `git push` is to push from a repository of repository()."""
        return f'+{PUSH_REF}:{lock.RUN_REFS}/{self.run}'

    def part(self) -> history.Part:
        """Return what of the history goes along; any thread may call this.

        The first caller gets the warnings.

        Raises:
            GitError: git refused
            OSError: something cannot be written
        """
        self.find_part()
        with self._past_lock:
            part = self._parts[0]
            self._parts[0] = dataclasses.replace(part, warnings=())
        return part

    def find_part(self) -> history.Part:
        """Find out, once, what part() returns."""
        with self._past_lock:
            if not self._parts:
                folder = os.path.join(self.folder, 'past')
                shutil.rmtree(folder, ignore_errors=True)
                os.makedirs(folder)
                try:
                    part = (history.find_for_folder(self.source, self.standing, folder)
                            if self.standing else
                            history.find(self.source, self.commits, folder))
                except GitError as exc:
                    # Builds do without it, but for a text in the images
                    part = history.Part(Past(standing=self.standing), warnings=(
                        f'machines may write another version into images than this one: {exc}',))
                self._parts.append(part)
            return self._parts[0]

    def repository(self, name: str, have: Iterable[str] = ()) -> str:
        """Return a repository to push to one machine from.

        It is made of a few small files; any thread may call this.

        Args:
            name: of the machine
            have: commits that are complete there, as `init` told them
        Raises:
            GitError: the objects cannot be packed
        """
        have = [commit for commit in have if _HASH.match(commit)]
        if not have:
            self._pack()
        own = (*self.commits, *self.more)
        known = self._existing([commit for commit in have if commit not in own])
        path = os.path.join(self.folder, f'push-{name}')
        shutil.rmtree(path, ignore_errors=True)
        _make_repository(path, [os.path.join(self.folder, 'objects'), *self.borrowed],
                         [*own, *known], self.carrier)
        return path

    def _existing(self, commits: Sequence[str]) -> List[str]:
        """Return those of the commits that are in the repository here."""
        if not commits:
            return []
        out = git.text(os.path.join(self.folder, 'base'), 'cat-file', '--batch-check',
                       stdin='\n'.join(commits).encode() + b'\n', env=git.ALONE)
        return [line.split()[0] for line in out.splitlines() if ' commit ' in line]

    def _pack(self) -> None:
        """Pack all objects once: each machine that has nothing gets the same bytes.

        Without it each push would compress them anew.
        """
        with self._lock:
            mark = os.path.join(self.folder, 'packed')
            if os.path.exists(mark):
                return
            git.text(os.path.join(self.folder, 'base'), 'pack-objects', '-q', '--revs',
                     '--delta-base-offset', os.path.join(self.folder, 'objects', 'pack', 'pack'),
                     stdin=self.carrier.encode() + b'\n', env=git.ALONE)
            with open(mark, 'w', encoding='utf-8'):
                pass


def _make_repository(path: str, objects: Sequence[str], shallow: Sequence[str],
                     carrier: str) -> None:
    """Make a bare repository by hand: quicker than git init, and nothing of a template."""
    for name in ('objects/info', 'objects/pack', 'refs/buildman'):
        os.makedirs(os.path.join(path, name))
    files = {
        'HEAD': 'ref: refs/heads/none\n',
        'config': _CONFIG,
        'objects/info/alternates': ''.join(git.quote_path(name) + '\n' for name in objects),
        'shallow': ''.join(f'{name}\n' for name in sorted(set(shallow))),
        PUSH_REF: carrier + '\n' if carrier else '',
    }
    for name, text in files.items():
        if text:
            with open(os.path.join(path, name), 'w', encoding='utf-8',
                      errors='surrogateescape') as outf:
                outf.write(text)


def prepare_push(folder: str, commits: Optional[Sequence[str]], run: str,
                 exclude: Sequence[str] = ()) -> PushPlan:
    """Get the source of a run ready; nothing in the user's repository changes.

    Args:
        folder: working tree or repository; may be a worktree or a shallow clone
        commits: full hashes to build, oldest first; None for the folder as it
            is: uncommitted changes and untracked files included, ignored ones not
        run: identifier of the run
        exclude: full paths to leave out of the folder (the output, say)
    Raises:
        GitError: a commit is not there, or git cannot read the folder
    """
    tmp = make_temp()
    try:
        objects = os.path.join(tmp, 'objects')
        for name in ('info', 'pack'):
            os.makedirs(os.path.join(objects, name))
        borrowed: List[str] = []
        base = os.path.join(tmp, 'base')
        standing: Optional[Standing] = None
        more: List[str] = []
        if commits is None:
            tree = _snapshot_tree(folder, objects, borrowed, os.path.join(tmp, 'snap'), exclude)
            commits = [_write_commit(objects, tree, (), 'The source folder as it is')]
            standing, staged = history.look_at_folder(folder)
            more = [standing.head] if standing.head else []
            if staged:
                more.append(_write_staged(folder, objects, borrowed, staged))
        else:
            borrowed = [object_folder(folder)]
        _make_repository(base, [objects, *borrowed], [*commits, *more], '')
        tree = git.text(base, 'rev-parse', '--verify', f'{commits[-1]}^{{tree}}',
                        env=git.ALONE).strip()
        carrier = _write_commit(objects, tree, [*commits, *more], 'Commits that buildman builds')
        return PushPlan(tuple(commits), tuple(more), folder, standing, run, tmp, tuple(borrowed),
                        carrier)
    except BaseException:
        remove_temp(tmp)
        raise


def _write_staged(folder: str, objects: str, borrowed: Sequence[str],
                  names: Sequence[str]) -> str:
    """Write a commit of what is in the index only, as git may look at it; return its hash.

    Args:
        folder: in the repository
        objects: folder for it
        borrowed: folders of other objects
        names: objects
    """
    entries = ''.join(f'100644 blob {name}\t{name}\n' for name in sorted(set(names)))
    tree = git.text(folder, 'mktree', stdin=entries.encode(), env={
        'GIT_OBJECT_DIRECTORY': objects,
        'GIT_ALTERNATE_OBJECT_DIRECTORIES': ':'.join(map(git.quote_path, borrowed))}).strip()
    return _write_commit(objects, tree, (), 'What is in the index')


def _write_commit(objects: str, tree: str, parents: Sequence[str], subject: str) -> str:
    """Write a commit that depends on nothing but its content; return its hash.

    Args:
        objects: folder for it, as a loose object
        tree, parents: hashes; they need not be there
        subject: its message
    """
    heads = ''.join(f'parent {name}\n' for name in dict.fromkeys(parents))
    data = (f'tree {tree}\n{heads}author {_PERSON}\ncommitter {_PERSON}\n\n'
            f'{subject}\n').encode()
    data = b'commit %d\0' % len(data) + data
    name = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    path = os.path.join(objects, name[:2], name[2:])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as outf:
        outf.write(zlib.compress(data))
    return name


def push(plan: PushPlan, name: str, transport: ssh.Transport, git_dir: str,
         have: Iterable[str] = (), delays: Sequence[float] = ssh.RETRY_DELAYS,
         stall: float = STALL_TIME) -> None:
    """Push the source of a run to a machine.

    Args:
        plan: the source
        name: of the machine
        transport: the way to it
        git_dir: full path of the repository there, as `init` made it
        have: commits that are complete there, as `init` told them
        delays: seconds before each new try when sshd turns us away
        stall: seconds in which git may tell of no progress
    Raises:
        ssh.RemoteError: it failed
        GitError: the objects cannot be packed
    """
    repo = plan.repository(name, have)
    # git tells how far it is, here and there, as long as something moves
    argv = git.words('-C', repo, 'push', '--progress', f'--receive-pack={git.RECEIVE_PACK}',
                     transport.push_url(git_dir), plan.refspec)
    env = {**git.environment(), **git.ALONE, **transport.git_env()}

    def attempt() -> str:
        try:
            # How long it takes is for the network; a cut one ends ssh
            answer = commands.run(argv, math.inf, env=env, account=commands.MACHINES, quiet=stall)
        except subprocess.TimeoutExpired:
            raise ssh.RemoteError(transport.hostname, 'timeout', 'git push: nothing has moved for '
                                  f'{stall:g} seconds') from None
        except Stopped:
            raise ssh.RemoteError(transport.hostname, 'stopped', 'stopped') from None
        if commands.stopped():
            raise ssh.RemoteError(transport.hostname, 'stopped', 'stopped')
        if answer.returncode:
            raise transport.explain(answer, 'git push')
        return ''

    ssh.with_retries(attempt, delays)


def make_temp() -> str:
    """Return a new temporary folder, to be removed with remove_temp().

    It does not outlive its maker for long, even if that is killed: whoever makes the next
    one removes those that nobody has locked.

    Raises:
        OSError: it cannot be made
    """
    _remove_stale(tempfile.gettempdir())
    path = tempfile.mkdtemp(prefix=TEMP_PREFIX)
    # Under its name it is locked from the first moment on
    name = os.path.join(path, _IN_USE)
    fdes = os.open(name + '.new', os.O_WRONLY | os.O_CREAT, 0o600)
    _HELD[path] = fdes
    fcntl.flock(fdes, fcntl.LOCK_EX)
    os.rename(name + '.new', name)
    return path


def remove_temp(path: str) -> None:
    """Remove a folder of make_temp(); harmless the second time."""
    shutil.rmtree(path, ignore_errors=True)
    fdes = _HELD.pop(path, None)
    if fdes is not None:
        os.close(fdes)


def _remove_stale(folder: str) -> None:
    """Remove what dead ones of this user's have left"""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(TEMP_PREFIX):
                with contextlib.suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if (stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid()
                            and _is_stale(entry.path, info.st_mtime)):
                        shutil.rmtree(entry.path, ignore_errors=True)


def _is_stale(path: str, changed: float) -> bool:
    """Return whether nobody uses a folder any more"""
    try:
        fdes = os.open(os.path.join(path, _IN_USE), os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - changed > _OLD
    try:
        fcntl.flock(fdes, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fdes)
    return True
