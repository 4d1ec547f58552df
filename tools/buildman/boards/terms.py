# SPDX-License-Identifier: GPL-2.0+
"""Which term of a command line a board counts for.

U-Boot's CI asks with a thousand terms at once, the names of all boards, so most terms
are plain words. They are looked up instead of being compiled and tried one by one.
"""

from __future__ import annotations

import re
from typing import Dict, List, Optional, Pattern, Sequence, Tuple, Union

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
    """Finds the first of the alternatives that matches a board."""

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
