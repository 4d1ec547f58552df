# SPDX-License-Identifier: GPL-2.0+
"""Which complaints count for the exit status: `--new-only` and `--known`."""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import re
from typing import Dict, List, Optional, Sequence, Set, Tuple

from buildman.core.errors import EXIT_ERRORS, EXIT_OK, EXIT_WARNINGS, UsageError
from buildman.core.outcome import is_no_compiler
from buildman.core.plan import Board, Commit
from buildman.core.text import plain
from buildman.results.complaints import Complaint, Past, of_board
from buildman.results.reader import ERROR, UNKNOWN
from buildman.results.summary import CommitSummary

_FORM = "BOARD | TEXT | until YYYY-MM-DD | WHY"


def rule_lines(path: str, flag: str) -> List[Tuple[int, str]]:
    """Return the lines of a file of rules with their numbers, without comments.

    Raises:
        UsageError: it cannot be read
    """
    try:
        # Editors of other systems begin a file with a mark that nobody sees
        with open(path, encoding='utf-8-sig') as inf:
            lines = inf.read().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else 'it is not UTF-8'
        raise UsageError(f"{flag}: cannot read '{path}': {why}") from exc
    return [(number, line.strip()) for number, line in enumerate(lines, 1)
            if line.strip() and not line.lstrip().startswith('#')]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of the file: complaints that are tolerated for some time."""

    place: str
    board: str
    text: 're.Pattern[str]'
    until: datetime.date
    why: str


class Known:
    """The rules of `--known FILE`.

    Attributes:
        path: the file
        expired: rules that count no more
    """

    def __init__(self, path: str, today: datetime.date) -> None:
        """
        Args:
            path: the file, a line `BOARD | TEXT | until YYYY-MM-DD | WHY` for each rule: a
                glob, a regular expression, the last day
            today: what expired before does not count

        Raises:
            UsageError: it cannot be read, or a line makes no sense
        """
        self.path = path
        rules = [self._rule(f'{path}:{number}', line)
                 for number, line in rule_lines(path, '--known')]
        self.expired = [rule for rule in rules if rule.until < today]
        self._rules = [rule for rule in rules if rule.until >= today]

    @staticmethod
    def _rule(place: str, line: str) -> Rule:
        fields = [field.strip() for field in re.split(r'(?<!\S)\|(?!\S)', line)]
        if len(fields) != 4 or not all(fields):
            raise UsageError(f"{place}: '{line}' is no rule: write {_FORM}, "
                             'with spaces around each |')
        board, text, until, why = fields
        try:
            day = datetime.datetime.strptime(re.sub(r'^until\s+', '', until), '%Y-%m-%d').date()
        except ValueError:
            raise UsageError(f"{place}: '{until}' is no date: write until YYYY-MM-DD") from None
        try:
            return Rule(place, board, re.compile(text), day, why)
        except re.error as exc:
            raise UsageError(f"{place}: '{text}' is no regular expression: {exc}") from None

    def globs(self) -> Dict[int, str]:
        """Return the boards of the rules that have not expired, by number of the line."""
        return {int(rule.place.rpartition(':')[2]): rule.board for rule in self._rules}

    def rule(self, target: str, complaint: Complaint) -> Optional[Rule]:
        """Return the rule that tolerates a complaint of a board, None if it counts."""
        return next((rule for rule in self._rules if fnmatch.fnmatchcase(target, rule.board)
                     and (rule.text.search(complaint.said) or rule.text.search(complaint.text))),
                    None)


class Gate:
    """A listener that finds out for each board and commit whether it counts.

    Attributes:
        known: rules that tolerate, None if there are none
    """

    def __init__(self, boards: Sequence[Board], new_only: bool, known: Optional[Known],
                 ignore_warnings: bool) -> None:
        """
        Args:
            boards: all the selected boards
            new_only: what the first commit has as well does not count
            known: rules that tolerate, if there are any
            ignore_warnings: -W
        """
        self._boards = boards
        self._new_only = new_only
        self.known = known
        self._ignore_warnings = ignore_warnings
        self._past = Past()
        self._base: Optional[Commit] = None
        self._begun = False
        # Boards that count, and those that do not
        self._bad: Set[int] = set()
        self._warned: Set[int] = set()
        self._unbuilt: Set[int] = set()
        self._old: Set[int] = set()
        self._tolerated: Set[int] = set()

    def judge(self, summary: CommitSummary) -> None:
        """Take the next commit, and note in it which boards do not count and why."""
        is_base = self._new_only and not self._begun
        news = self._past.news(summary) if self._new_only and not is_base else {}
        if is_base:
            self._base = summary.commit
            self._past.remember(summary)
        self._begun = True
        for num, status in enumerate(summary.facts.statuses):
            now = of_board(summary, num)
            if not now:
                if status == UNKNOWN and not is_base and num not in summary.inferred:
                    self._unbuilt.add(num)
                continue
            if self._new_only and not is_no_compiler(summary.facts.stderr.get(num, '')):
                # Nobody knows what a board without a compiler is at either commit
                new = news.get(num, [])
            else:
                new = list(now)
            rules = [self.known and self.known.rule(self._boards[num].target, item)
                     for item in new]
            left = [item for item, rule in zip(new, rules) if not rule]
            fails = any(item.error for item in left)
            if fails:
                self._bad.add(num)
            elif left:
                self._warned.add(num)
            if len(new) < len(now):
                self._old.add(num)
            if any(rules):
                self._tolerated.add(num)
            # In the reports a board that warns has not failed
            if not left or (status == ERROR and not fails):
                reasons = [f'known until {rule.until}: {rule.why}' for rule in rules if rule]
                if len(new) < len(now):
                    reasons.append('this is the base' if is_base else
                                   f"{'fails' if status == ERROR else 'warns'} at the base as well")
                summary.tolerated[num] = '; '.join(dict.fromkeys(reasons))

    def tolerates(self, target: str, complaint: Complaint) -> bool:
        """Return whether a rule tolerates a complaint of a board."""
        return bool(self.known and self.known.rule(target, complaint))

    def status(self) -> int:
        """Return the exit status for all commits so far."""
        if self._bad or self._unbuilt or not self._begun:
            return EXIT_ERRORS
        return EXIT_WARNINGS if self._warned and not self._ignore_warnings else EXIT_OK

    def lines(self) -> List[str]:
        """Return what to tell at the end: rules that have expired, then one line of all."""
        def count(nums: Set[int]) -> str:
            return f"{len(nums)} board{'' if len(nums) == 1 else 's'}"

        counted = [f'{count(self._bad)} with errors',
                   f'{len(self._warned - self._bad)} with warnings']
        if self._unbuilt:
            counted.append(f'{len(self._unbuilt)} not built')
        worse = self._bad | self._warned | self._unbuilt
        out, rest = [], []
        if self._base:
            rest.append(f'{count(self._old - worse)} no worse than at the base '
                        f'{self._base.hash[:12]} ({plain(self._base.subject)})')
        if self.known:
            out = [f'{rule.place}: expired on {rule.until}, tolerates nothing: {rule.why}'
                   for rule in self.known.expired]
            told = f', {len(out)} expired' if out else ''
            rest.append(f'{len(self._tolerated - worse)} with nothing but what '
                        f"'{self.known.path}' knows{told}")
        return [*out, f"Counted: {', '.join(counted)}; not counted: {', '.join(rest)}"]
