# SPDX-License-Identifier: GPL-2.0+
"""Which part of the history a machine needs, so that its git answers as git does here.

A machine has the commits to be built, each as a root without history (see
`source`). What an image says of its version is asked of git by the tree's own
scripts/setlocalversion, in most cases with some `git describe`: how many commits
is it since which tag? So the commits from those to be built down to the tags that
answer go along, as names of objects without trees, and the tags.

What was merged since a tag was made may have begun before it. There, too, the
history ends, and a way from the tag to each such place goes along: git counts what
the tag does not reach. So each tag that is there has the distance that it has in
the whole history. Commits at an end are without parents in git's eyes (shallow.txt).

Nothing of this knows what the script makes of an answer. Which questions it asks
is found out by running it, once for each of its versions; and both histories, the
whole one here and the part, have to give the same answers to them.
"""

from __future__ import annotations

import dataclasses
import os
from typing import (
    Callable,
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from buildman.core.files import file_sha256
from buildman.source import git
from buildman.source.localversion import (
    SCRIPT,
    VersionTexts,
    make_version,
    record,
    script_environment,
)
from buildman.source.origin import STATUS, Origin, Past, Standing, refs_of, status_sum

# What scripts ask most often, and people: taken into account whatever a script asks
USUAL: Tuple[Tuple[str, ...], ...] = (
    (), ('--tags',), ('--match=v*',), ('--tags', '--match=v*'))

# Hashes that one command line takes
MAX_ARGS = 1000

# Options of `git describe` that may have their value in a word of its own
_WITH_VALUE = ('--match', '--exclude', '--candidates')

# Questions about the files, not about the history
_ABOUT_FILES = ('status', 'diff', 'diff-index', 'diff-files', 'update-index')

_OTHER_TEXT = ('machines may write another version into images than this one: '
               'scripts/setlocalversion asks git what only the repository here can answer')


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the history, ready to go along.

    Attributes:
        past: what a machine is told
        pack: path of the file of objects; '' for none
        warnings: what the user should know, a line each
    """

    past: Past
    pack: str = ''
    warnings: Tuple[str, ...] = ()


class _Asker:
    """Answers questions of scripts from one repository."""

    def __init__(self, path: str, git_dir: str, digits: Mapping[str, int]) -> None:
        """Name it.

        Args:
            path: folder to run git in
            git_dir: repository whose HEAD may be moved; '' for that of the folder
            digits: commit -> digits of its abbreviated hash; {} for what git finds
        """
        self._path = path
        self._digits = digits
        self._git_dir = git_dir
        self._env = {**git.environment(), **git.ALONE, **({'GIT_DIR': git_dir} if git_dir else {})}
        self._described: Dict[Tuple[Tuple[str, ...], Tuple[str, ...]], List[str]] = {}

    def ask(self, words: Sequence[str], commit: str = '') -> Tuple[int, bytes]:
        """Return exit status and output of a command, with HEAD at a commit."""
        if commit:
            with open(os.path.join(self._git_dir, 'HEAD'), 'w', encoding='ascii') as outf:
                outf.write(commit + '\n')
        digits = self._digits.get(commit)
        extra = ['-c', f'core.abbrev={digits}'] if digits else []
        done = git.call(['git', *extra, *words], self._path, self._env)
        return done.returncode, done.out

    def describe(self, options: Sequence[str], commits: Sequence[str]) -> List[str]:
        """Return what `git describe` says of commits; the hash where no tag fits."""
        key = (tuple(options), tuple(commits))
        if key not in self._described:
            self._described[key] = self._describe(options, commits)
        return self._described[key]

    def _describe(self, options: Sequence[str], commits: Sequence[str]) -> List[str]:
        """Find out what describe() returns"""
        out: List[str] = []
        for start in range(0, len(commits), MAX_ARGS):
            code, text = self.ask(['describe', *options, '--always', '--abbrev=40',
                                   *commits[start:start + MAX_ARGS]])
            if code:
                return [f'exit status {code}']
            out += os.fsdecode(text).splitlines()
        return out


def describe_options(words: Sequence[str]) -> Optional[Tuple[str, ...]]:
    """Return the options of a `git describe` of HEAD; None for any other command.

    Args:
        words: of a git command, without 'git'
    """
    rest = list(words)
    while rest and rest[0].startswith('-'):
        rest.pop(0)
    if not rest or rest.pop(0) != 'describe':
        return None
    out: List[str] = []
    while rest:
        word = rest.pop(0)
        if word in _WITH_VALUE and rest:
            out.append(f'{word}={rest.pop(0)}')
        elif word.startswith(('--dirty', '--broken', '--abbrev', '--always')):
            continue
        elif word.startswith('-'):
            out.append(word)
        elif word not in ('HEAD', '@'):
            return None
    return tuple(out)


def _tag_of(described: str) -> str:
    """Return the tag that an answer with all 40 digits names, '' for none"""
    name, _, tail = described.rpartition('-g')
    if len(tail) == 40 and name:
        return name.rpartition('-')[0]
    plain = len(described) == 40 and not set(described) - set('0123456789abcdef')
    return '' if plain else described


class Cut(NamedTuple):
    """Some commits of a history.

    Attributes:
        commits: all of them
        edge: those that are without their parents
        tagged: those whose tags count
    """

    commits: Set[str]
    edge: Set[str]
    tagged: Set[str]


class _Finder:
    """Finds the part of a history that some commits need."""

    def __init__(self, path: str, origin: Origin, commits: Sequence[str]) -> None:
        """Look at the tags.

        Args:
            path: folder to run git in, in a repository that has the whole history
            origin: of that
            commits: to be built, or that HEAD names
        """
        self._path = path
        self._commits = list(commits)
        self._tags = refs_of(os.fsdecode(origin.tags))
        self._shallow = set(origin.shallow.decode().split())
        self._begins: Set[str] = set()
        self._commit_of: Dict[str, str] = {}
        # Peeled, however often one tag names another
        if self._tags:
            out = git.text(path, 'cat-file', '--batch-check', stdin=''.join(
                f'{name}^{{commit}}\n' for name, _ in self._tags).encode(), env=git.ALONE)
            for (name, _), line in zip(self._tags, out.splitlines()):
                words = line.split()
                if len(words) == 3 and words[1] == 'commit':
                    self._commit_of[name] = words[0]

    def ends(self, names: Iterable[str]) -> List[str]:
        """Return the commits of tags, by what `git describe` calls these."""
        known = {ref: self._commit_of.get(name, '') for name, ref in self._tags}
        found = (known.get(f'refs/{prefix}{name}', '') for name in names
                 for prefix in ('tags/', ''))
        return sorted({commit for commit in found if commit})

    def _since(self, end: str, parents: Dict[str, Tuple[str, ...]]) -> Set[str]:
        """Add the commits that came after one, each with its parents; return where they begin"""
        names = ''.join(f'{line}\n' for line in (*self._commits, f'^{end}'))
        lines = git.text(self._path, 'rev-list', '--boundary', '--parents', '--stdin',
                         stdin=names.encode(), env=git.ALONE).splitlines()
        begins = set()
        for line in lines:
            name, *above = line.split()
            if name.startswith('-'):
                begins.add(name[1:])
            else:
                parents[name] = tuple(above)
        return begins

    def _newest(self, starts: Sequence[str], wanted: Set[str],
                more: int = 0) -> Dict[str, Tuple[str, ...]]:
        """Return commits with their parents, by their dates, until some are known as parents.

        Args:
            starts: commits to begin with
            wanted: ancestors of these
            more: how many commits to list beyond
        """
        known: Dict[str, Tuple[str, ...]] = {}
        left = wanted - set(starts)
        text = ''.join(f'{name}\n' for name in starts).encode()
        with git.reading(['rev-list', '--parents', '--stdin'], self._path,
                         {**git.environment(), **git.ALONE}, text) as inf:
            # No more is read than is needed
            while left or more > 0:
                words = inf.readline().decode().split()
                if not words:
                    break
                more -= not left
                known[words[0]] = tuple(words[1:])
                left.difference_update(words[1:])
        return known

    def _ways(self, end: str, targets: Set[str], parents: Dict[str, Tuple[str, ...]]) -> None:
        """Add the commits on a way from a commit to each of some ancestors of it"""
        known = self._newest([end], targets)
        child: Dict[str, str] = {}
        for name, above in known.items():
            for parent in above:
                child.setdefault(parent, name)
        for target in targets - {end}:
            name = target
            while name != end and name in child:
                name = child[name]
                parents[name] = known[name]

    def cut(self, ends: Sequence[str]) -> Cut:
        """Return the least: what came after some tags, and the ways to where that begins.

        Args:
            ends: commits of tags; none: nothing but the commits to be built goes along
        """
        parents: Dict[str, Tuple[str, ...]] = {}
        for end in ends:
            targets = self._since(end, parents)
            self._begins |= targets
            targets |= {other for other in ends if other != end and self._is_below(other, end)}
            self._ways(end, targets, parents)
        return self._cut(parents, set(ends), (*self._commits, *ends))

    def recent(self, ends: Sequence[str]) -> Cut:
        """Return all that is not older than what came after some tags, after cut().

        Where dates of commits are not in the order of the commits, git gets to other
        counts, depending on what it meets.
        """
        known = self._newest(self._commits, {*ends, *self._begins}, more=len(self._begins) + 200)
        return self._cut(known, set(known), (*self._commits, *ends))

    def whole(self) -> Cut:
        """Return all commits below those to be built."""
        found = set(git.text(self._path, 'rev-list', '--stdin', stdin=''.join(
            f'{name}\n' for name in self._commits).encode(), env=git.ALONE).split())
        return Cut(found, set(), found)

    @staticmethod
    def _cut(parents: Mapping[str, Sequence[str]], tagged: Set[str], more: Iterable[str]) -> Cut:
        """Return commits that have their parents with them, those, and some more"""
        found = {*more, *parents}
        found.update(name for above in parents.values() for name in above)
        return Cut(found, found - set(parents), tagged)

    def _is_below(self, old: str, new: str) -> bool:
        """Return whether a commit is an ancestor of another one"""
        return git.ask(self._path, 'merge-base', old, new) == old

    def make(self, cut: Cut, folder: str, digits: Mapping[str, int]) -> Part:
        """Make a pack of some commits and of their tags.

        Args:
            cut: the commits
            folder: where to put it
            digits: see Past

        Raises:
            GitError: git refused
        """
        commits = cut.commits
        tags = [(name, ref) for name, ref in self._tags if self._commit_of.get(name) in cut.tagged]
        objects = set(commits - set(self._commits))
        todo = sorted({name for name, _ in tags} - commits)
        while todo:
            # A tag may name another one
            objects.update(todo)
            out = git.text(self._path, 'cat-file', '--batch',
                           stdin='\n'.join(todo).encode() + b'\n', env=git.ALONE)
            named = [line[7:] for line in out.splitlines()
                     if line.startswith('object ') and len(line) == 47]
            todo = sorted({name for name in named if name not in commits} - objects)
        pack = self.pack(sorted(objects), os.path.join(folder, 'past')) if objects else ''
        text = ''.join(f'{name} {ref}\n' for name, ref in tags)
        shallow = ''.join(f'{name}\n' for name in sorted(cut.edge | (self._shallow & commits)))
        sha = file_sha256(pack) if pack else ''
        return Part(Past(sha, text, shallow, dict(digits)), pack)

    def pack(self, objects: Sequence[str], stem: str) -> str:
        """Write a pack of some objects; return its path."""
        name = git.text(self._path, 'pack-objects', '-q', '--delta-base-offset', stem,
                        stdin='\n'.join(objects).encode() + b'\n', env=git.ALONE).strip()
        return f'{stem}-{name}.pack'


def _digits(path: str, commits: Sequence[str]) -> Dict[str, int]:
    """Return how many digits git abbreviates the hash of each commit to"""
    out = git.text(path, 'log', '--no-walk=unsorted', '--format=%H %h', '--stdin',
                   stdin='\n'.join(commits).encode() + b'\n', env=git.ALONE)
    return {line.split()[0]: len(line.split()[1]) for line in out.splitlines()}


def _same(whole: _Asker, part: _Asker, options: Iterable[Sequence[str]],
          questions: Mapping[str, Iterable[Sequence[str]]], commits: Sequence[str]) -> bool:
    """Return whether two repositories answer alike

    Args:
        whole, part: the repositories
        options: of `git describe`, for all commits
        questions: commit -> other commands
        commits: the commits
    """
    return all(whole.describe(words, commits) == part.describe(words, commits)
               for words in options) and all(
        whole.ask(words, commit) == part.ask(words, commit)
        for commit, asked in questions.items() for words in asked)


def _about_history(words: Sequence[str]) -> bool:
    """Return whether a git command asks nothing about the files"""
    return not any(word in _ABOUT_FILES for word in words)


def find(git_dir: str, commits: Sequence[str], folder: str) -> Part:
    """Find out what of the history goes along for some commits.

    Args:
        git_dir: repository or working tree
        commits: to be built, full hashes
        folder: for files; it has to be there as long as the result

    Raises:
        GitError: git refused
        OSError: something cannot be written
    """
    origin = Origin.read(git_dir)
    texts = VersionTexts(os.path.join(folder, 'here'), origin)
    known = texts.inputs(commits)
    # Each way to ask, at the newest and at the oldest commit with it: at a tag less is asked
    newest = {known[commit]: commit for commit in commits}
    oldest = {known[commit]: commit for commit in reversed(commits)}
    questions = {commit: sorted(texts.questions(commit))
                 for found in (newest, oldest) for inputs, commit in found.items() if inputs}
    digits = _digits(texts.path, commits)
    return _choose(texts.path, texts.git_dir, origin, commits, folder, questions, digits)


def _choose(path: str, git_dir: str, origin: Origin, commits: Sequence[str], folder: str,
            questions: Mapping[str, Sequence[Sequence[str]]], digits: Mapping[str, int]) -> Part:
    """Return the smallest part that answers as the whole does

    Args:
        path, git_dir: a repository with the whole history whose HEAD may be moved
        questions: commit -> commands that its script asks
    """
    asked = {options for words in questions.values() for options in map(describe_options, words)
             if options is not None}
    ways = sorted({*asked, *USUAL})
    others = {commit: [words for words in asks if _about_history(words)]
              for commit, asks in questions.items()}
    whole = _Asker(path, git_dir, {})
    finder = _Finder(path, origin, commits)
    names = {_tag_of(line) for options in ways for line in whole.describe(options, commits)}
    ends = finder.ends(names)
    ways_to_cut: Sequence[Callable[[], Cut]] = (
        lambda: finder.cut(ends), lambda: finder.recent(ends), finder.whole)
    for num, way in enumerate(ways_to_cut):
        where = os.path.join(folder, f'part-{num}')
        os.makedirs(where)
        part = finder.make(way(), where, digits)
        there = _stand_in(finder, part, origin, commits, where)
        if _same(whole, _Asker(there, os.path.join(there, '.git'), digits), ways, others, commits):
            return part
    return dataclasses.replace(part, warnings=(_OTHER_TEXT,))


def _stand_in(finder: _Finder, part: Part, origin: Origin, commits: Sequence[str],
              folder: str) -> str:
    """Make a repository that has of the history what a machine has; return its folder"""
    objects = os.path.join(folder, 'objects')
    for name in ('pack', 'info'):
        os.makedirs(os.path.join(objects, name))
    if part.pack:
        for end in ('.pack', '.idx'):
            path = f'{part.pack[:-5]}{end}'
            os.link(path, os.path.join(objects, 'pack', 'pack-past' + end))
    finder.pack(sorted(set(commits)), os.path.join(objects, 'pack', 'pack'))
    there = VersionTexts(folder, dataclasses.replace(
        origin, objects=()).with_past(part.past, objects))
    there.prepare()
    return there.path


def _index_state(folder: str, without: Collection[str]
                 ) -> Tuple[str, Tuple[str, ...], Tuple[str, ...], List[str]]:
    """Return how the index of a folder differs from HEAD, and the objects in that

    Args:
        folder: the folder
        without: files to leave out

    Returns:
        (lines for update-index --index-info, files taken as unchanged, files
        skipped, objects)
    """
    born = git.ask(folder, 'rev-parse', '--verify', '--quiet', 'HEAD')
    lines: List[str] = []
    objects: List[str] = []
    unmerged = [entry for entry in git.text(folder, 'ls-files', '-u', '-z').split('\0') if entry]
    if born:
        words = git.text(folder, 'diff-index', '--cached', '--raw', '-z', '--no-renames',
                         '--no-abbrev', '--ignore-submodules=none', 'HEAD').split('\0')
        for what, name in zip(words[0::2], words[1::2]):
            if name in without:
                continue
            _, mode, _, sha, how = what.split()
            # Nothing of it but its stages, if it has such
            lines.append(f'0 {"0" * 40}\t{name}' if how == 'U' or mode == '000000'
                         else f'{mode} {sha}\t{name}')
            objects += [sha] if set(sha) != {'0'} and mode != '160000' else []
    else:
        for entry in git.text(folder, 'ls-files', '-s', '-z').split('\0'):
            what, _, name = entry.partition('\t')
            if name and what.endswith(' 0') and name not in without:
                lines.append(f'{what[:-2]}\t{name}')
                objects += [what.split()[1]] if not what.startswith('160000') else []
    lines += unmerged
    objects += [entry.split()[1] for entry in unmerged]
    marks = [entry for entry in git.text(folder, 'ls-files', '-v', '-z').split('\0') if entry]
    return (''.join(f'{line}\0' for line in lines),
            tuple(entry[2:] for entry in marks if entry[0].islower()),
            tuple(entry[2:] for entry in marks if entry[0] in 'Ss'), objects)


def look_at_folder(folder: str) -> Tuple[Standing, List[str]]:
    """Return where a folder stands that is built as it is, and objects that go along.

    Raises:
        GitError: git refused
    """
    if git.ask(folder, 'rev-parse', '--is-inside-work-tree') != 'true' or git.text(
            folder, 'rev-parse', '--show-prefix').strip():
        return Standing(False), []
    words = git.text(folder, 'diff-files', '--raw', '-z', '--diff-filter=AM').split('\0')
    changed = dict(zip(words[1::2], words[0::2]))
    intended = [name for name, what in changed.items() if what.endswith('A')]
    index, unchanged, skipped, objects = _index_state(folder, intended)
    # There a submodule is a folder with files: what was changed in it shows as if
    # another commit of it were in the index
    index += ''.join(f'160000 {"1" * 40}\t{name}\0' for name, what in changed.items()
                     if what.startswith(':160000'))
    status = git.text(folder, *STATUS)
    return Standing(
        True, git.ask(folder, 'rev-parse', '--verify', '--quiet', 'HEAD'),
        git.ask(folder, 'symbolic-ref', '-q', 'HEAD'), index, unchanged, skipped,
        tuple(intended), status_sum(status)), objects


def find_for_folder(source: str, standing: Standing, folder: str) -> Part:
    """Find out what of the history goes along for a folder that is built as it is.

    Args:
        source: the folder
        standing: see look_at_folder()
        folder: for files; it has to be there as long as the result

    Raises:
        GitError: git refused
        OSError: something cannot be written
    """
    os.makedirs(folder, exist_ok=True)
    ways: List[Tuple[bool, Mapping[str, str]]] = []
    if os.path.exists(os.path.join(source, SCRIPT)):
        with open(os.path.join(source, 'Makefile'), encoding='utf-8', errors='replace') as inf:
            version = make_version(inf.read())
        ways = [(True, version), (False, version)]
    env = script_environment()
    told = [record(source, folder, version, auto, env) for auto, version in ways]
    part = Part(Past(standing=standing))
    git_dir = os.path.join(folder, 'none')
    if standing.inside and standing.head:
        origin = Origin.read(source)
        texts = VersionTexts(os.path.join(folder, 'here'), origin)
        texts.prepare()
        part = _choose(texts.path, texts.git_dir, origin, [standing.head], folder,
                       {standing.head: sorted({words for _, asked in told for words in asked})},
                       _digits(texts.path, [standing.head]))
        part = dataclasses.replace(part, past=dataclasses.replace(part.past, standing=standing))
        git_dir = texts.git_dir
        # As a machine has it
        origin.with_past(part.past, '').lend(git_dir)
        head = f'ref: {standing.branch}' if standing.branch else standing.head
        refs = part.past.tags + (f'{standing.head} {standing.branch}\n' if standing.branch else '')
        for name, text in (('HEAD', head + '\n'), ('packed-refs', refs)):
            with open(os.path.join(git_dir, name), 'w', encoding='utf-8') as outf:
                outf.write(text)
        git.run(texts.path, 'config', 'core.worktree', os.path.abspath(source), env=git.ALONE)
    if standing.inside and not standing.head:
        return part
    there = [record(source, folder, version, auto, {**git.apart(env), 'GIT_DIR': git_dir})[0]
             for auto, version in ways]
    if there != [text for text, _ in told] and not part.warnings:
        part = dataclasses.replace(part, warnings=(_OTHER_TEXT,))
    return part
