# SPDX-License-Identifier: GPL-2.0+
"""The boards of a tree, and which of them a command line selects."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import importlib.util
import os
import re
from typing import (
    Callable,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Pattern,
    Sequence,
    Tuple,
    Union,
)

from buildman.boards import cache
from buildman.boards.cfgfile import (
    Entry,
    format_entries,
    parse_entries,
    read_entries,
    sort_entries,
    write_atomically,
)
from buildman.boards.extend import Extensions
from buildman.boards.maintainers import SUFFIX, compile_regex
from buildman.core.errors import BoardError, SetupError, UsageError
from buildman.core.plan import Board
from buildman.source import git

# Where old U-Boot trees keep the list themselves
TRACKED = 'boards.cfg'

# The name of what adds boards (-X), in a .buildman file
_ENTRY = re.compile(r'(?m)^name:[ \t]*(\S+)')

# A word that means itself as a regular expression
_PLAIN = re.compile(r'[A-Za-z0-9_,-]+\Z')


class PlainWord:
    """A regular expression that is a word: it matches what begins with it."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def match(self, text: str) -> bool:
        """Return whether a text begins with the word."""
        return text.startswith(self.pattern)


Term = Union[PlainWord, Pattern[str]]


def is_plain(word: str) -> bool:
    """Return whether a regular expression is a word without special characters."""
    return bool(_PLAIN.match(word))


def matches(term: Term, fields: Sequence[str]) -> bool:
    """Return whether one of a board's fields begins with what a term describes."""
    return any(term.match(field) for field in fields)


class Chooser:
    """Finds the first of the alternatives that matches a board.

    U-Boot's CI asks with a thousand terms at once, the names of all boards, so most
    terms are plain words. They are looked up instead of being tried one by one.
    """

    def __init__(self, groups: Sequence[Tuple[str, List[Term]]]) -> None:
        """Take the alternatives: the name of each and its terms, which must all match."""
        self._groups = groups
        self._words: Dict[str, int] = {}
        self._others: List[int] = []
        for num, (_, terms) in enumerate(groups):
            if len(terms) == 1 and isinstance(terms[0], PlainWord):
                self._words.setdefault(terms[0].pattern, num)
            else:
                self._others.append(num)
        self._longest = max(map(len, self._words), default=0)

    def first(self, fields: Sequence[str]) -> Optional[str]:
        """Return the name of the first alternative that matches, None if none does."""
        best = len(self._groups)
        if self._words:
            for field in fields:
                for end in range(1, min(len(field), self._longest) + 1):
                    best = min(best, self._words.get(field[:end], best))
        for num in self._others:
            if num > best:
                break
            if all(matches(term, fields) for term in self._groups[num][1]):
                best = num
                break
        return self._groups[best][0] if best < len(self._groups) else None


class Selection(NamedTuple):
    """The boards that a command line selects.

    Attributes:
        boards: the boards, in the order of the list
        why: targets that each term has selected, in the order of the terms;
            'all' comes first and has all of them. A board counts for the
            first term that it matches.
        missing: names that were given with --boards and are not selected
    """

    boards: Tuple[Board, ...]
    why: Dict[str, List[str]]
    missing: Tuple[str, ...]

    @property
    def warnings(self) -> List[str]:
        """What the user has to be told: one line, or nothing."""
        if not self.missing:
            return []
        return ['Boards not found: ' + ', '.join(self.missing)]

    def check(self) -> None:
        """Refuse a selection without boards.

        Raises:
            BoardError: there are none
        """
        if self.boards:
            return
        hint = '; '.join(self.warnings)
        raise BoardError('No matching boards found' + (f' ({hint})' if hint else ''))


class BoardList:
    """All boards of a tree.

    Attributes:
        boards: the boards, in the order of boards.cfg
        entries: the same with what only this list needs
        kept: the list comes from a boards.cfg that is still right
        settings: what they set the symbols to that load() was asked for; None:
            not known, as there is no kconfiglib
        extensions: what adds to the boards, see extended(); None: nothing
    """

    def __init__(self, entries: Iterable[Entry], kept: bool = False,
                 settings: Optional[cache.Settings] = None,
                 extensions: Optional[Extensions] = None) -> None:
        self.entries: Tuple[Entry, ...] = tuple(entries)
        self.kept = kept
        self.settings = settings
        self.extensions = extensions
        self.boards: Tuple[Board, ...] = tuple(entry.board for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def extended(self, extensions: Extensions, whole: bool = True) -> Tuple[BoardList, List[str]]:
        """Return the same boards and those of -X, and what is to be said about these.

        Args:
            extensions: the entries of the tree's .buildman files
            whole: these are all boards of the tree

        Raises:
            BoardError: an entry cannot be carried out; names file and line
        """
        more, warnings = extensions.apply(self.entries, self.settings, whole)
        return BoardList([*self.entries, *more], self.kept, self.settings, extensions), warnings

    def select(self, terms: Sequence[str] = (), exclude: Sequence[str] = (),
               names: Optional[Sequence[str]] = None) -> Selection:
        """Return the boards that are asked for; all when nothing is.

        Args:
            terms: words from the command line, see parse_terms(). When there
                are any, `names` selects nothing, as upstream's buildman has it
            exclude: regular expressions, with commas between them; a board
                of which a field begins with one of them is left out
            names: targets, with commas between them; None: not given

        Raises:
            UsageError: a term cannot be understood
        """
        groups = parse_terms(terms)
        banned = [compile_term(word) for word in split_commas(exclude)]
        named = None if names is None else split_names(names, self.extensions)
        wanted = frozenset(named or ())
        why: Dict[str, List[str]] = {'all': []}
        for label, _ in groups:
            why.setdefault(label, [])
        chosen: List[Board] = []
        chooser = Chooser(groups)
        for entry in self.entries:
            fields = _fields(entry)
            if any(matches(rexp, fields) for rexp in banned):
                continue
            label = ''
            if groups:
                found = chooser.first(fields)
                if found is None:
                    continue
                label = found
                why[label].append(entry.board.target)
            elif named is not None and entry.board.target not in wanted:
                continue
            if label != 'all':
                why['all'].append(entry.board.target)
            chosen.append(entry.board)
        have = {board.target for board in chosen} if not groups else set()
        missing = tuple(name for name in named or () if name not in have)
        return Selection(tuple(chosen), why, missing)


def _fields(entry: Entry) -> Tuple[str, ...]:
    """Return what terms are matched against."""
    board = entry.board
    arch = '' if board.arch == '-' else board.arch
    return (board.target, arch, board.cpu, board.board_name, board.vendor,
            board.soc, entry.config)


def split_commas(words: Iterable[str]) -> List[str]:
    """Return the parts of words like 'a,b', without blanks, each once."""
    return list(dict.fromkeys(part for word in words for part in _parts(word)))


def _parts(word: str) -> List[str]:
    return [part for part in (part.strip() for part in word.split(',')) if part]


def split_names(words: Iterable[str], extensions: Optional[Extensions]) -> List[str]:
    """Return the targets in words like 'a,b', each once; those of -X as 'NAME,BASE'."""
    if extensions is None:
        return split_commas(words)
    return list(dict.fromkeys(
        name for word in words for name in extensions.join(_parts(word))))


def compile_term(word: str) -> Term:
    """Return the regular expression that a word is.

    Raises:
        UsageError: it is none
    """
    if is_plain(word):
        return PlainWord(word)
    try:
        return compile_regex(word)
    except ValueError as exc:
        raise UsageError(f"'{word}' is not a regular expression: {exc}") from exc


def parse_terms(terms: Iterable[str]) -> List[Tuple[str, List[Term]]]:
    """Return the alternatives that the words of a command line make.

    Words are alternatives; those with '&' between them, glued or not, must all
    match. A word matches a board if one of its fields begins with it.

    Returns:
        name of each alternative, e.g. 'arm&freescale', and its expressions

    Raises:
        UsageError: a word is no regular expression or '&' has nothing before it
    """
    groups: List[List[str]] = []
    joined = False
    for word in ' '.join(terms).replace('&', ' & ').split():
        if word == '&':
            joined = True
        elif not joined:
            groups.append([word])
        elif groups:
            groups[-1].append(word)
            joined = False
        else:
            raise UsageError(f"there is no term before '&' in '{' '.join(terms)}'")
    return [('&'.join(group), [compile_term(word) for word in group])
            for group in groups]


def exact_names(terms: Sequence[str], names: Optional[Sequence[str]],
                extensions: Optional[Extensions] = None) -> Optional[List[str]]:
    """Return the targets that alone can be selected, None if any might be.

    A term is a regular expression over more than the target: 'sandbox' is a
    board and an arch, so that only --boards without terms says it all. Of a
    board of -X, this is the one that it extends.
    """
    if terms or names is None:
        return None
    return list(dict.fromkeys(
        name.rpartition(',')[2] for name in split_names(names, extensions)))


def describe_selection(selection: Selection, verbose: bool = False) -> List[str]:
    """Return the lines that a dry run (-n) prints about the boards.

    Args:
        selection: the boards
        verbose: name them all (-n -v)
    """
    lines = ['']
    shown = [term for term in selection.why if term != 'all'] or ['all']
    for term in shown:
        targets = selection.why[term]
        lines.append(f'{term} : {len(targets)} boards')
        if verbose:
            lines.append(f"   {' '.join(targets)}")
    lines.append('Total boards to build for each commit: '
                 f"{len(selection.why['all'])}")
    lines.append('')
    for line in selection.warnings:
        lines += [line, '']
    return lines


def _tracked_list(source_dir: str) -> Optional[str]:
    """Return the path of the boards.cfg that a tree brings along, or None.

    In a git repository the file must be tracked: any other boards.cfg may be
    what a build with that output folder has left behind.

    Raises:
        BoardError: git does not tell
    """
    path = os.path.join(source_dir, TRACKED)
    if not os.path.isfile(path):
        return None
    if os.path.exists(os.path.join(source_dir, '.git')):
        try:
            if not git.run(source_dir, 'ls-files', '--', TRACKED):
                return None
        except git.NoGitError:
            return path
        except git.RefusedError as exc:
            raise BoardError(f"{source_dir}: git does not tell whether {TRACKED} belongs to the "
                             f'tree: {exc.cause}') from exc
    return path


def _can_parse(source_dir: str) -> bool:
    """Tell whether there is a Kconfig and something that could read it."""
    if not os.path.isfile(os.path.join(source_dir, 'Kconfig')):
        return False
    return bool(cache.find_kconfiglib(source_dir) or importlib.util.find_spec('kconfiglib'))


def _from_tracked(source_dir: str, cache_file: Optional[str],
                  wanted: Optional[Sequence[str]],
                  reason: str) -> Tuple[BoardList, List[str]]:
    """Return what load() does, from the list that the tree has itself.

    Args:
        source_dir, cache_file, wanted: as for load()
        reason: why Kconfig cannot be used

    Raises:
        BoardError: it has none, and so there is no way to find the boards
    """
    path = _tracked_list(source_dir)
    if path:
        entries = sort_entries(read_entries(path))
        warnings = []
        # Results are to have their boards.cfg in any case
        if cache_file and os.path.realpath(cache_file) != os.path.realpath(path):
            try:
                write_atomically(cache_file, format_entries(entries))
            except SetupError as exc:
                warnings.append(f'WARNING: {exc}')
        return _only(BoardList(entries), wanted), warnings
    if not os.path.isfile(os.path.join(source_dir, 'Kconfig')):
        raise BoardError(f"{source_dir}: no U-Boot source: there is neither a Kconfig "
                         'nor a tracked boards.cfg; name the tree with -g')
    raise BoardError(
        f'{source_dir}: cannot read its Kconfig: {reason}, and there is no tracked '
        "boards.cfg; try 'pip install kconfiglib'")


def _only(boards: BoardList, wanted: Optional[Sequence[str]]) -> BoardList:
    if wanted is None:
        return boards
    names = frozenset(wanted)
    return BoardList((entry for entry in boards.entries if entry.board.target in names),
                     boards.kept, boards.settings)


def load(source_dir: str, cache_file: Optional[str] = None,
         wanted: Optional[Sequence[str]] = None,
         jobs: int = 0, around: str = '', private: str = '', keep_all: bool = False,
         symbols: Sequence[str] = ()) -> Tuple[BoardList, List[str]]:
    """Return the boards of a tree and what is to be said about them.

    Args:
        source_dir: top of a U-Boot tree
        cache_file: boards.cfg to use if it is still right, and to write if it
            is not; None: always look
        wanted: the only targets of interest, see exact_names(). The others
            are then neither looked for nor returned; those that do not exist
            are not in the list
        jobs: number of processes to use, 0 for one a processor
        around: folder with the output folders of other branches; one of their
            lists may be right for this tree
        private: a further boards.cfg to use and to write, see `boards.cache`;
            one of those beside it may be right, too. '': none
        keep_all: though only some are wanted, look for all, so that the list
            in `private` can be kept for later runs
        symbols: Kconfig symbols of which the values are wanted as well, without
            CONFIG_; they are kept with the list

    Returns:
        the list, and the lines to print on stderr ('WARNING: no maintainers
        for …'); there are none when the boards come from the cache

    Raises:
        BoardError: the boards cannot be found; names the file and what to do
    """
    if not os.path.isdir(source_dir):
        raise BoardError(f"{source_dir}: no such folder; name a U-Boot tree with -g")
    if not _can_parse(source_dir):
        return _from_tracked(source_dir, cache_file, wanted,
                             f'the tree has no {cache.KCONFIGLIB_PATH}')
    if cache_file and os.path.realpath(cache_file) == os.path.realpath(
            os.path.join(source_dir, TRACKED)) and _tracked_list(source_dir):
        # It is part of the source, which a build in there must not change (-wi)
        cache_file = None
    # Without a list to compare with, the scan looks for them while it does what takes longest
    search = cache.Search(source_dir)
    kept = _kept(source_dir, search.tree, cache_file, around, private)
    if kept:
        settings = kept.stamp.settings
        if settings.keys() >= set(symbols):
            name = cache_file or private or around
            return _only(BoardList(parse_entries(kept.text, name), True, settings), wanted), []
        # The values of others may be wanted again, and those of other boards
        symbols = list(dict.fromkeys([*settings, *symbols]))
    # Most runs find a list, and then do without what makes one
    from buildman.boards import scan
    look_for = None if kept or (private and keep_all) else wanted
    found: Optional[scan.ScanResult] = None
    try:
        if look_for is not wanted:
            # A fault may be that of a board that is not wanted
            with contextlib.suppress(BoardError):
                found = scan.scan(source_dir, None, jobs, search.found, symbols)
        if not found:
            look_for = wanted
            found = scan.scan(source_dir, wanted, jobs, search.found, symbols)
    except scan.KconfigMissing as exc:
        return _from_tracked(source_dir, cache_file, wanted, str(exc))
    # All has been said when the list was made
    warnings = [] if kept else found.warnings
    if cache_file and look_for is None:
        try:
            cache.write_cache(source_dir, cache_file,
                                     format_entries(found.entries), found.stamp)
        except SetupError as exc:
            warnings = [*warnings, f'WARNING: {exc}']
    if private and look_for is None:
        with contextlib.suppress(SetupError):
            cache.write_cache(source_dir, private,
                                     format_entries(found.entries), found.stamp)
            cache.remove_old(private)
    return _only(BoardList(found.entries, settings=found.stamp.settings), wanted), warnings


def _kept(source_dir: str, tree: Callable[[], cache.Tree], cache_file: Optional[str],
          around: str, private: str) -> Optional[cache.Kept]:
    """Return a boards.cfg that is right for a tree, None if none is"""
    kept = cache.read_cache(source_dir, cache_file, tree) if cache_file else None
    if kept is None and private:
        kept = cache.read_cache(source_dir, private, tree, cache_file)
        if kept is not None:
            cache.note_use(private)
    if kept is None and around:
        kept = cache.read_others(source_dir, around, tree, cache_file)
    if kept is None and private:
        # The same source at another path, e.g. a new clone for each CI job
        lists = os.path.dirname(os.path.dirname(private))
        kept = cache.read_others(source_dir, lists, tree, private)
        if kept is not None:
            cache.remove_old(private)
            if cache_file:
                cache.read_cache(source_dir, private, tree, cache_file)
    return kept


def without_board(source_dir: str, globs: Iterable[str]) -> List[str]:
    """Return which globs fit no board of a tree, whatever is selected of it.

    They are those of files that speak of many boards, so each is looked for among all, with
    those that -X adds; but not whether an entry of -X has a certain board.
    """
    configs = os.path.join(glob.escape(source_dir), 'configs')
    names = [os.path.basename(path)[:-len(SUFFIX)]
             for path in glob.glob(os.path.join(configs, f'*{SUFFIX}'))]
    out = [pattern for pattern in dict.fromkeys(globs) if not fnmatch.filter(names, pattern)]
    added: List[str] = []
    for path in glob.glob(os.path.join(configs, '*.buildman')) if out else ():
        with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as inf:
            added += [f'{entry},{name}' for entry in _ENTRY.findall(inf.read()) for name in names]
    # Without any, the tree has its boards in a list, or is a bare repository
    return [pattern for pattern in out if not fnmatch.filter(added, pattern)] if names else []


def write_board_list(path: str, boards: BoardList) -> None:
    """Write a boards.cfg (-R FILE).

    Raises:
        SetupError: it cannot be written
    """
    write_atomically(path, format_entries(boards.entries))


def maintainer_check(source_dir: str) -> List[str]:
    """Return the lines of --maintainer-check: none when all boards have one.

    Raises:
        BoardError: a file cannot be read
    """
    from buildman.boards import scan
    return scan.check_owners(source_dir)


def full_check(source_dir: str) -> List[str]:
    """Return the lines of --full-check.

    They are those of maintainer_check(), and the boards that set no TARGET_…
    symbol, or several.

    Raises:
        BoardError: a file cannot be read or is wrong, or there is no kconfiglib
    """
    from buildman.boards import scan
    if not _can_parse(source_dir):
        raise BoardError(f'{source_dir}: this check needs Kconfig and kconfiglib; '
                         "try 'pip install kconfiglib'")
    return scan.check_targets(source_dir)
