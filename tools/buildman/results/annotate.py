# SPDX-License-Identifier: GPL-2.0+
"""Complaints where reviewers see them: GitHub's annotations, GitLab's code quality.

`--annotate github` tells what is new against the commit before, once for all boards:
workflow commands on stdout, at most MAX_LINES of them, and a table in the file that
GITHUB_STEP_SUMMARY names. `--codequality FILE` is all of the last commit, as GitLab
compares the files of two branches by itself.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import re
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, TextIO, Tuple

from buildman.core.errors import SetupError
from buildman.core.plan import Board, Commit
from buildman.core.text import plain
from buildman.results.complaints import Complaint, Past, of_board
from buildman.results.reader import Problem
from buildman.results.report import Report
from buildman.results.summary import CommitSummary, sort_names
from buildman.source import git

# GitHub shows no more than ten of a step
MAX_LINES = 10
# Rows of the table: a summary may have 1 MiB
MAX_ROWS = 100
# Characters of a text, and boards that are named
_MAX_TEXT = 500
_MAX_NAMES = 20

_MARKDOWN = re.compile(r'([\\`*_{}\[\]()#+.!|~@:-])')

# Whether a complaint of a board is tolerated
Tolerates = Callable[[str, Complaint], bool]


@dataclasses.dataclass
class Finding:
    """One complaint, of all the boards that have it.

    Attributes:
        complaint: it, as the last board has it
        upto, commit: where it came; the index, and None for the current source
        boards: those that have it
        still: it is there at the last commit
    """

    complaint: Complaint
    upto: int
    commit: Optional[Commit]
    boards: Set[int] = dataclasses.field(default_factory=set)
    still: bool = True


# What it is known by: its key, and which one of these in a board
_Name = Tuple[str, int]


def _named(items: Iterable[Complaint]) -> Dict[_Name, Complaint]:
    """Return what a board complains of by names that other boards share"""
    counts: Dict[str, int] = collections.Counter()
    out = {}
    for item in items:
        counts[item.key] += 1
        out[item.key, counts[item.key]] = item
    return out


class Collector:
    """What is new, over all commits, and what there is at the last one."""

    def __init__(self, boards: Sequence[Board], repo: str, alone: bool,
                 tolerates: Tolerates) -> None:
        """
        Args:
            boards: all the selected boards
            repo: repository that has the commits, or the folder of the source
            alone: there is one commit only: all of it is new
            tolerates: tells what is to be left out
        """
        self._boards = boards
        self._repo = repo
        self._past: Optional[Past] = Past() if alone else None
        self._tolerates = tolerates
        self._found: Dict[_Name, Finding] = {}
        self._last: Dict[_Name, Finding] = {}
        self._commit: Optional[Commit] = None

    def commit(self, summary: CommitSummary) -> None:
        """Take the next commit."""
        self._commit = summary.commit
        self._last = {}
        for num in range(len(summary.facts.statuses)):
            self._add(self._last, summary, num, of_board(summary, num))
        if self._past is None:
            self._past = Past()
        else:
            for num, items in self._past.news(summary).items():
                self._add(self._found, summary, num, items)
        self._past.remember(summary)

    def _add(self, group: Dict[_Name, Finding], summary: CommitSummary, num: int,
             items: Iterable[Complaint]) -> None:
        target = self._boards[num].target
        for name, item in _named(items).items():
            if not self._tolerates(target, item):
                found = group.setdefault(name, Finding(item, summary.upto, summary.commit))
                found.boards.add(num)
                if item.error and not found.complaint.error:
                    found.complaint = item

    def new(self) -> List[Finding]:
        """Return what is new, the worst first: errors, those that are still there, many boards."""
        for name, item in self._found.items():
            now = self._last.get(name)
            item.still = bool(now)
            if now:
                # Where it is by now, for who looks at the last commit
                item.complaint = dataclasses.replace(now.complaint, error=item.complaint.error)
        return _sorted(self._found.values())

    def last(self) -> List[Tuple[_Name, Finding]]:
        """Return what there is at the last commit, the worst first."""
        names = {id(item): name for name, item in self._last.items()}
        return [(names[id(item)], item) for item in _sorted(self._last.values())]

    def targets(self, item: Finding) -> List[str]:
        """Return the boards of a finding."""
        return sort_names(self._boards, item.boards)

    def places(self, items: Sequence[Finding]) -> List[Tuple[str, int]]:
        """Return for each the file in the source, and the line, 0 if there is none.

        What is told of no file of the source is told of the defconfig of a board; the
        file is '' if that is not there either.
        """
        options = []
        for item in items:
            target = self.targets(item)[0].rpartition(',')[2]
            commit = self._commit if item.still else item.commit
            options.append([(commit.hash if commit else '', path) for path in
                            (*item.complaint.sources(), f'configs/{target}_defconfig')])
        there = self._existing({option for some in options for option in some})
        out = []
        for item, some in zip(items, options):
            path = next((option[1] for option in some if option in there), '')
            out.append((path, item.complaint.line if path == item.complaint.file else 0))
        return out

    def _existing(self, options: Set[Tuple[str, str]]) -> Set[Tuple[str, str]]:
        """Return which (hash of a commit, path) are a file there"""
        fit = [(commit, path) for commit, path in sorted(options)
               if path[:1] not in ('/', '') and '..' not in path.split('/') and '\n' not in path]
        asked = [option for option in fit if option[0]]
        out = {option for option in fit if not option[0]
               and os.path.isfile(os.path.join(self._repo, option[1]))}
        if asked:
            names = ''.join(f'{commit}:{path}\n' for commit, path in asked)
            answers = git.run(self._repo, 'cat-file', '--batch-check',
                              stdin=names.encode('utf-8', 'surrogateescape'))
            out |= {option for option, answer in zip(asked, answers.splitlines())
                    if answer.split()[1:2] == [b'blob']}
        return out


def _sorted(items: Iterable[Finding]) -> List[Finding]:
    return sorted(items, key=lambda item: (
        not item.complaint.error, not item.still, item.complaint.blob, -len(item.boards),
        item.upto, item.complaint.file, item.complaint.line, item.complaint.text))


def _told(item: Finding, targets: Sequence[str]) -> str:
    """Return the text of a finding, with how many boards have it"""
    text = plain(item.complaint.text)
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + '…'
    who = targets[0] if len(targets) == 1 else f'{len(targets)} boards'
    return f"{who}: {text}{'' if item.still else ' (gone at a later commit)'}"


def _names(targets: Sequence[str]) -> str:
    more = len(targets) - _MAX_NAMES
    return ', '.join(targets[:_MAX_NAMES]) + (f' and {more} more' if more > 0 else '')


def _where(item: Finding) -> str:
    return (f'{item.upto + 1:02d}: {plain(item.commit.subject)}' if item.commit
            else 'current source')


def _message(text: str) -> str:
    """Return text as GitHub's workflow commands want it"""
    return text.replace('%', '%25').replace('\r', '%0D').replace('\n', '%0A')


def _property(text: str) -> str:
    return _message(text).replace(':', '%3A').replace(',', '%2C')


def github(found: Collector, out: TextIO, step_summary: str, title: str) -> None:
    """Print annotations, and add a table to the summary of the step.

    Args:
        found: what is new
        out: stdout, which GitHub reads
        step_summary: file to append to, '' for none
        title: of the table

    Raises:
        SetupError: the file cannot be written
    """
    items = found.new()
    places = found.places(items[:MAX_ROWS])
    for item, (path, line) in zip(items[:MAX_LINES], places):
        targets = found.targets(item)
        words = [f'file={_property(path)}'] if path else []
        words += [f'line={line}'] if line else []
        words.append(f'title={_property(_where(item))}')
        text = _told(item, targets) + (f'\n{_names(targets)}' if len(targets) > 1 else '')
        out.write(f"::{'error' if item.complaint.error else 'warning'} {','.join(words)}"
                  f'::{_message(text)}\n')
    if len(items) > MAX_LINES:
        out.write(f'{len(items) - MAX_LINES} more are new, but are not annotated\n')
    out.flush()
    if step_summary:
        try:
            with open(step_summary, 'a', encoding='utf-8', errors='replace') as outf:
                outf.write(_table(found, items, places, title))
        except OSError as exc:
            raise SetupError(f"cannot write the summary of the step '{step_summary}' "
                             f'(GITHUB_STEP_SUMMARY): {exc.strerror}') from exc


def _cell(text: str) -> str:
    """Return text for a cell of a table in Markdown, as nothing but text"""
    text = text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    return _MARKDOWN.sub(r'\\\1', ' '.join(text.split()))


def _table(found: Collector, items: Sequence[Finding], places: Sequence[Tuple[str, int]],
           title: str) -> str:
    """Return the table for the summary of a step"""
    lines = [f'### {_cell(title)}', '']
    if not items:
        return '\n'.join([*lines, 'No new errors or warnings.', '', ''])
    lines += ['| | commit | file | what | boards |', '|---|---|---|---|---|']
    for item, (path, line) in zip(items, places):
        targets = found.targets(item)
        lines.append('| ' + ' | '.join((
            'error' if item.complaint.error else 'warning', _cell(_where(item)),
            _cell(f'{path}:{line}' if line else path), _cell(_told(item, targets)),
            _cell(_names(targets)))) + ' |')
    if len(items) > MAX_ROWS:
        lines.append(f'\nAnd {len(items) - MAX_ROWS} more.')
    return '\n'.join([*lines, '', ''])


class CodeQuality(Report):
    """The file for GitLab, see the module's docstring."""

    def __init__(self, path: str, found: Collector) -> None:
        """
        Args:
            path: file to write
            found: what there is at the last commit

        Raises:
            SetupError: the file cannot be written
        """
        super().__init__(path, (), '')
        self._found = found

    def commit(self, summary: CommitSummary) -> None:
        """Take the next commit; nothing, since the collector does."""

    def end(self, flakes: Iterable[int], problems: Sequence[Problem]) -> None:
        """Write and complete the file."""
        named = self._found.last()
        items = [item for _, item in named]
        out = []
        for (name, item), (path, line) in zip(named, self._found.places(items)):
            key, number = name
            complaint = item.complaint
            # No line, nor a board, nor whether it is an error here (-E): they change
            mark = hashlib.sha256(f'{key}\n{number}'.encode('utf-8', 'replace')).hexdigest()
            out.append({
                'description': _told(item, self._found.targets(item)),
                'check_name': complaint.check or 'build',
                'fingerprint': mark,
                'severity': 'blocker' if complaint.error else
                            'info' if complaint.blob else 'minor',
                'location': {'path': path or 'Makefile', 'lines': {'begin': line or 1}}})
        self._write(json.dumps(out, indent=1) + '\n')
        self._finish()
