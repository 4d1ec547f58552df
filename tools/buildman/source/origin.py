# SPDX-License-Identifier: GPL-2.0+
"""What slots borrow of a repository, and what its history answers to a build in them.

The version text in an image is made by scripts/setlocalversion of the tree,
which asks git. What git says depends on the history, the tags and, for how many
digits an abbreviated hash has, on the number of objects. A slot on this machine
borrows all objects; a slot elsewhere gets the part of the history that makes a
difference (see `source.history`), and the numbers of digits.

Formats: gitrepository-layout(5) and shallow.txt of git.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from typing import Any, Dict, List, Mapping, Optional, Tuple

from buildman.core.errors import GitError
from buildman.core.files import replace_file
from buildman.source import git

# Part of the configuration of a slot: how many digits an abbreviated hash has
ABBREV = 'buildman-abbrev'

# The repository that builds see instead of a slot's own, in the latter
STANDING = 'buildman-standing'

_HEX = frozenset('0123456789abcdef')


# What a folder that is built as it is and its like on a machine are compared by
STATUS = ('status', '-uno', '--porcelain', '--no-renames')


def status_sum(text: str) -> str:
    """Return what two answers to STATUS are compared by: the files."""
    names = sorted(line[3:] for line in text.splitlines())
    return hashlib.sha256(os.fsencode('\n'.join(names))).hexdigest()


def _text(value: Any) -> str:
    """Return a value that came from elsewhere, if it is a text

    Raises:
        ValueError: it is none
    """
    if not isinstance(value, str):
        raise ValueError('the history is not what it should be')
    return value


def _hash(value: Any) -> str:
    """Return a value that is the name of an object or ''

    Raises:
        ValueError: it is not
    """
    if len(_text(value)) not in (0, 40) or set(value) - _HEX:
        raise ValueError('the history names what is no object')
    return str(value)


def object_folder(folder: str) -> str:
    """Return the full path of the folder of a repository's objects.

    Args:
        folder: the repository, or in its working tree

    Raises:
        GitError: it is no repository, or its objects are not named by SHA-1
    """
    return _look(folder)[0]


def _look(folder: str) -> Tuple[str, str, str]:
    """Return the folder of a repository's objects, its `shallow` file, and its core.abbrev.

    Raises:
        GitError: as for object_folder()
    """
    paths = git.text(folder, 'rev-parse', '--git-path', 'objects', '--git-path', 'shallow')
    # A folder may have an end of line in its name; both answers are of one length
    half = len(paths) // 2
    objects, shallow = paths[:half - 1], paths[half:-1]
    found = dict(line.partition(' ')[::2] for line in git.ask(
        folder, 'config', '--get-regexp',
        r'^(core\.abbrev|extensions\.objectformat)$').splitlines())
    kind = found.get('extensions.objectformat', 'sha1')
    if kind != 'sha1':
        raise GitError(f"'{os.path.abspath(folder)}' names its objects by {kind}: buildman builds "
                       'commits, and on machines, from a repository with SHA-1 names only, as '
                       "U-Boot's is")
    return (os.path.realpath(os.path.join(folder, objects)), os.path.join(folder, shallow),
            found.get('core.abbrev', ''))


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a folder that is built as it is stands in its repository.

    Three things: the commit that HEAD names, the index, and the files, which
    are the source that is built.

    Attributes:
        inside: it is the top of a working tree; else builds find no repository
        head: commit; '' when there is none yet
        branch: what HEAD names, e.g. `refs/heads/main`; '' when it is detached
        index: how the index differs from the commit, for `git update-index -z
            --index-info`
        unchanged, skipped: files that git was told to take as unchanged
        intended: files of which git was told that they will be added
        status: of its `git status`, see status_sum()
    """

    inside: bool
    head: str = ''
    branch: str = ''
    index: str = ''
    unchanged: Tuple[str, ...] = ()
    skipped: Tuple[str, ...] = ()
    intended: Tuple[str, ...] = ()
    status: str = ''


@dataclasses.dataclass(frozen=True)
class Past:
    """What of the history goes along to a machine.

    Attributes:
        pack: SHA-256 of a file of commits and tags, see `git pack-objects`; ''
            for none
        tags: as lines of a packed-refs file
        shallow: content of a `shallow` file: commits whose parents do not go along
        digits: commit -> digits of its abbreviated hash
        standing: of a folder that is built as it is; None for commits
    """

    pack: str = ''
    tags: str = ''
    shallow: str = ''
    digits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    standing: Optional[Standing] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return it as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> 'Past':
        """Return what to_dict() gave elsewhere.

        Raises:
            ValueError: it makes no sense
        """
        digits = data.get('digits', {})
        told = data.get('standing')
        if not isinstance(digits, Mapping) or not (told is None or isinstance(told, Mapping)):
            raise ValueError('the history is not what it should be')
        standing = None
        if told is not None:
            standing = Standing(
                bool(told.get('inside')), _hash(told.get('head', '')),
                _text(told.get('branch', '')), _text(told.get('index', '')),
                tuple(_text(name) for name in told.get('unchanged', ())),
                tuple(_text(name) for name in told.get('skipped', ())),
                tuple(_text(name) for name in told.get('intended', ())),
                _text(told.get('status', '')))
        return cls(_text(data.get('pack', '')), _text(data.get('tags', '')),
                   _text(data.get('shallow', '')),
                   {_hash(key): int(value) for key, value in digits.items()}, standing)


@dataclasses.dataclass(frozen=True)
class Origin:
    """The repository that slots borrow from, and what they copy of it.

    Attributes:
        objects: folders of objects
        tags: the tags, as lines of a packed-refs file, since the version string
            that is built into an image comes from `git describe`
        shallow: content of its `shallow` file, b'' when its history is whole
        abbrev: value of core.abbrev there, '' when it is not set
        digits: commit -> digits of its abbreviated hash, where that is not what
            git finds by itself
        standing: what builds are to see instead of the commit checked out
    """

    objects: Tuple[str, ...]
    tags: bytes
    shallow: bytes
    abbrev: str = ''
    digits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    standing: Optional[Standing] = None

    @classmethod
    def read(cls, git_dir: str) -> 'Origin':
        """Return the origin for a repository.

        Args:
            git_dir: a repository or a folder in its working tree

        Raises:
            GitError: it is none
        """
        objects, shallow_file, abbrev = _look(git_dir)
        tags = git.run(git_dir, 'for-each-ref', '--format=%(objectname) %(refname)',
                       'refs/tags')
        shallow = b''
        with contextlib.suppress(FileNotFoundError), open(shallow_file, 'rb') as inf:
            shallow = inf.read()
        return cls((objects,), tags, shallow, abbrev)

    def with_past(self, past: Past, objects: str) -> 'Origin':
        """Return the same with a history that has come from elsewhere.

        Args:
            past: the history
            objects: folder with its objects, '' for none
        """
        return dataclasses.replace(
            self, objects=(*self.objects, *([objects] if objects else [])),
            tags=past.tags.encode(), shallow=past.shallow.encode(), digits=past.digits,
            standing=past.standing)

    def lend(self, git_dir: str) -> None:
        """Let a repository have objects, tags and the history's end.

        Raises:
            OSError: it cannot be written
        """
        replace_file(os.path.join(git_dir, 'objects', 'info', 'alternates'),
                     b''.join(os.fsencode(git.quote_path(path)) + b'\n' for path in self.objects))
        replace_file(os.path.join(git_dir, 'packed-refs'), self.tags)
        shallow = os.path.join(git_dir, 'shallow')
        if self.shallow:
            replace_file(shallow, self.shallow)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(shallow)

    def set_abbrev(self, git_dir: str, commit: str) -> None:
        """Have git abbreviate hashes as it does in the repository itself.

        Args:
            git_dir: a repository whose configuration includes ABBREV
            commit: checked out there

        Raises:
            OSError: it cannot be written
        """
        value = str(self.digits.get(commit) or self.abbrev)
        text = f'[core]\n\tabbrev = {value}\n'.encode() if value else b''
        path = os.path.join(git_dir, ABBREV)
        old = b''
        with contextlib.suppress(FileNotFoundError), open(path, 'rb') as inf:
            old = inf.read()
        if text != old:
            replace_file(path, text)


def unpack(data: str, folder: str) -> str:
    """Make a folder of objects of a file of them that has come; once.

    Args:
        data: the file
        folder: where to make it

    Returns:
        the folder, for `alternates`

    Raises:
        GitError: it is no pack
        OSError: the disk is full
    """
    objects = os.path.join(folder, 'objects')
    if not os.path.isdir(objects):
        new = objects + '.new'
        shutil.rmtree(new, ignore_errors=True)
        os.makedirs(os.path.join(new, 'pack'))
        os.makedirs(os.path.join(new, 'info'))
        pack = os.path.join(new, 'pack', 'pack-past.pack')
        os.link(data, pack)
        git.run(new, 'index-pack', pack, env=git.ALONE)
        os.rename(new, objects)
    return objects


def make_standing(path: str, origin: Origin, commit: str) -> Tuple[str, str]:
    """Make the repository that builds in a slot are to see, of a folder built as it is.

    It is apart from the slot's own, by which the files are looked after. Its
    work tree is that of the slot.

    Args:
        path: the working tree of the slot, at the commit that was made of the folder
        origin: of the slot, with a standing
        commit: checked out there

    Returns:
        (value of GIT_DIR for a build, what is wrong with it or '')

    Raises:
        GitError: git refused
        OSError: the disk is full
    """
    standing = origin.standing
    assert standing
    slot = os.path.join(path, '.git')
    git_dir = os.path.join(slot, STANDING)
    shutil.rmtree(git_dir, ignore_errors=True)
    if not standing.inside:
        # git then says that there is no repository
        return git_dir, ''
    for name in ('objects/info', 'objects/pack', 'refs'):
        os.makedirs(os.path.join(git_dir, name))
    origin.lend(git_dir)
    config = ('[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = ../..\n'
              f'[gc]\n\tauto = 0\n[include]\n\tpath = {ABBREV}\n')
    replace_file(os.path.join(git_dir, 'config'), config.encode())
    origin.set_abbrev(git_dir, standing.head or commit)
    refs = origin.tags
    head = standing.head
    if standing.branch:
        head = f'ref: {standing.branch}'
        if standing.head:
            refs += f'{standing.head} {standing.branch}\n'.encode()
    replace_file(os.path.join(git_dir, 'packed-refs'), refs)
    replace_file(os.path.join(git_dir, 'HEAD'), f'{head}\n'.encode())
    env = {**git.ALONE, 'GIT_DIR': git_dir}
    if standing.head:
        # What is known of the files is kept, so that they need not be read
        shutil.copy2(os.path.join(slot, 'index'), os.path.join(git_dir, 'index'))
        git.run(path, 'read-tree', '-m', standing.head, env=env)
    git.run(path, 'update-index', '-z', '--index-info', stdin=os.fsencode(standing.index), env=env)
    for flag, names in (('--assume-unchanged', standing.unchanged),
                        ('--skip-worktree', standing.skipped)):
        if names:
            git.run(path, 'update-index', flag, '-z', '--stdin',
                    stdin=b''.join(os.fsencode(name) + b'\0' for name in names), env=env)
    if standing.intended:
        git.run(path, 'add', '-f', '-N', '--pathspec-from-file=-', '--pathspec-file-nul',
                stdin=b''.join(b':(literal)' + os.fsencode(name) + b'\0'
                               for name in standing.intended), env=env)
    with contextlib.suppress(GitError):
        # It fails where files differ
        git.run(path, 'update-index', '-q', '--refresh', env=env)
    status = git.text(path, *STATUS, env=env)
    if status_sum(status) == standing.status:
        return git_dir, ''
    lines = [line.strip() for line in status.splitlines()]
    return git_dir, ('git status is not what it is in the folder that is built: '
                     f"{', '.join(lines[:3]) or 'nothing is changed'}")


def refs_of(text: str) -> List[Tuple[str, str]]:
    """Return the (object, name) of the lines of a packed-refs file."""
    out = []
    for line in text.splitlines():
        name, _, ref = line.partition(' ')
        if ref and not line.startswith(('#', '^')):
            out.append((name, ref))
    return out
