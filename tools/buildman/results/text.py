# SPDX-License-Identifier: GPL-2.0+
"""Prints a summary as text, a commit at a time.

The text is what users and their scripts know from earlier versions of
buildman: it must stay as it is, to the last blank.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional, Sequence, TextIO, Tuple

from buildman.core.plan import Board
from buildman.core.text import plain
from buildman.results.compare import Changes, ConfigChanges, Symbol
from buildman.results.lines import FileLines
from buildman.results.summary import ArchSizes, CommitSummary, Line, sort_names

if TYPE_CHECKING:
    from buildman.results.show import SummaryRequest

# Last digit of the terminal's colour codes
RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = range(1, 7)

# What does something to a terminal, but colours
_HARMFUL = re.compile('\x1b(?!\\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f'
                      '\u202a-\u202e\u2066-\u2069]')

# Sign and colour of the four groups of boards in CommitSummary.groups
_GROUPS = (('', GREEN), ('w+', YELLOW), ('+', RED), ('?', MAGENTA))


class TextPrinter:
    """A listener that prints each commit as it comes.

    Attributes:
        told_boards: it has named a board
    """

    def __init__(self, boards: Sequence[Board], request: SummaryRequest, out: TextIO,
                 err: TextIO):
        self._boards = boards
        self._request = request
        self._out = out
        self._err = err
        self.told_boards = False

    def _colour(self, colour: int, text: str, bright: bool = True) -> str:
        if not self._request.colour:
            return text
        return f'\033[{1 if bright else 22};3{colour}m{text}\033[0m'

    def _print(self, text: str, colour: Optional[int] = None) -> None:
        # What is in a result may come from a machine, or a commit, that means harm
        text = _HARMFUL.sub('', text) if self._request.colour else plain(text)
        self._out.write((text if colour is None else self._colour(colour, text)) + '\n')

    def begin(self, commit_count: Optional[int], threads: int, jobs: int) -> None:
        """Print the heading.

        Args:
            commit_count: number of commits, None for the current source
            threads: number of builder threads
            jobs: number of jobs that each of them runs
        """
        request = self._request
        if request.ide:
            return
        what = ('current source' if commit_count is None
                else f"{commit_count} commit{'' if commit_count == 1 else 's'}")
        self._print(f"Summary of {what} for {len(self._boards)} boards ({threads} "
                    f"thread{'' if threads == 1 else 's'}, {jobs} "
                    f"job{'' if jobs == 1 else 's'} per thread)")
        against = [other.folder for other in (request.against or {}).values()]
        if against:
            where = os.path.dirname(against[0]) if len(against) > 1 else against[0]
            self._print(f"Against '{where}'")

    def commit(self, summary: CommitSummary) -> None:
        """Print what one commit changed."""
        request = self._request
        if summary.commit:
            self._print(f'{summary.upto + 1:02d}: {summary.commit.subject}', BLUE)
        if request.ide:
            self._out.flush()
            for _, text in sorted(summary.facts.stderr.items()):
                self._err.write(plain(text))
            self._err.flush()
        else:
            self._print_boards(summary)
            if request.show_errors:
                for warning in (False, True):
                    for lines, sign, colour in ((summary.removed, '-', (GREEN, CYAN)),
                                                (summary.added, '+', (RED, YELLOW))):
                        self._print_lines([line for line in lines if line.warning == warning],
                                          sign, colour[warning])
                if summary.blobs:
                    self._print('Missing external blobs (expected in a blobless build):',
                                MAGENTA)
                    self._print_lines(summary.blobs, '+', MAGENTA)
        if request.show_sizes:
            for arch in summary.sizes:
                self._print_arch_sizes(arch, summary)
        if request.show_lines:
            self._print_lines_compiled(summary)
        if request.show_environment:
            for num, changes in sorted(summary.facts.env.items()):
                self._print_changes(self._boards[num].target, changes)
        if request.show_config:
            for name, files in summary.config_archs.items():
                self._print_config(f'{name}:', files)
            for nums, files in summary.config_boards:
                self._print_config(' '.join(sort_names(self._boards, nums)) + ' :', files)
        if request.show_not_built and summary.not_built:
            names = ', '.join(self._boards[num].target for num in summary.not_built)
            where = ' here or there' if summary.against else ''
            self._print(f'Boards not built{where} ({len(summary.not_built)}): {names}')

    def end(self, flakes: Iterable[int], is_incomplete: bool = False) -> None:
        """Print what can be said at the end only.

        Args:
            flakes: boards that failed and recovered
            is_incomplete: some boards have no result, so nobody knows whether
                there are errors, and that is told otherwise
        """
        if not self.told_boards and not is_incomplete:
            self._print('(no errors to report)', GREEN)
        names = sort_names(self._boards, flakes)
        if names:
            self._print('Likely flakes (failed then recovered, re-run to confirm):', MAGENTA)
            self._print('  ' + ' '.join(names), MAGENTA)

    def _print_boards(self, summary: CommitSummary) -> None:
        for arch, lists in summary.groups.items():
            text = ''
            for (sign, colour), nums in zip(_GROUPS, lists):
                if not nums or (sign == '?' and not self._request.show_unknown):
                    continue
                text += f' {self._colour(colour, sign)}  '
                if self._request.colour:
                    text += ''.join(self._colour(colour, ' ' + self._boards[num].target)
                                    for num in nums)
                else:
                    text += ''.join([' ' + self._boards[num].target for num in nums])
            if text:
                self._print(f'{arch:>10}: {text}')
                self.told_boards = True

    def _print_lines(self, lines: Iterable[Line], sign: str, colour: int) -> None:
        for line in lines:
            prefix = 'w' + sign if line.warning else sign
            if self._request.list_error_boards:
                names = ' '.join(self._boards[num].target for num in line.boards)
                self._print(self._colour(colour, prefix + '(')
                            + self._colour(MAGENTA, names, bright=False)
                            + self._colour(colour, f') {line.text}'))
            else:
                self._print(prefix + line.text, colour)

    def _delta(self, value: float, text: str) -> str:
        """Return text in the colour for growth or shrinkage."""
        return self._colour(RED if value > 0 else GREEN, text) if value else text

    def _print_arch_sizes(self, sizes: ArchSizes, summary: CommitSummary) -> None:
        text = f'{sizes.arch:>10}: (for {sizes.sized}/{sizes.total} boards)'
        for region, delta in sorted(sizes.deltas.items()):
            mean = delta / sizes.sized
            text += self._delta(mean, f' {region} {mean:+.1f}')
        self._print(text)
        if not self._request.detail and not self._request.bloat:
            return
        for num in sizes.boards:
            text = f"{'':12}{self._boards[num].target:<15}:"
            for region, delta in sorted(summary.facts.size_deltas[num].items()):
                text += self._delta(delta, f' {region} {delta:+d}')
            self._print(text)
            if self._request.bloat:
                for image, rows in summary.facts.functions.get(num, {}).items():
                    self._print_functions(image, rows)

    def _print_functions(self, image: str, rows: Sequence[Symbol]) -> None:
        counts: Dict[str, int] = dict.fromkeys(('add', 'remove', 'grow', 'shrink', 'up', 'down'), 0)
        for _, old, new in rows:
            delta = (new or 0) - (old or 0)
            counts['up' if delta > 0 else 'down'] += delta
            if old is None:
                counts['add'] += 1
            elif new is None:
                counts['remove'] -= 1
            elif delta > 0:
                counts['grow'] += 1
            else:
                counts['shrink'] -= 1
        nums = {name: self._delta(val, str(val)) for name, val in counts.items()}
        total = counts['up'] + counts['down']
        self._print(f"{'':15}{self._colour(YELLOW, image)}: add: {nums['add']}/{nums['remove']}, "
                    f"grow: {nums['grow']}/{nums['shrink']} "
                    f"bytes: {nums['up']}/{nums['down']} ({self._delta(total, str(total))})")
        self._print(f"{'':17}{'function':<38} {'old':>7} {'new':>7} {'delta':>7}")
        for name, old, new in rows:
            delta = (new or 0) - (old or 0)
            if delta:
                self._print(f"{'':17}{name:<38} {_size(old):>7} {_size(new):>7} {delta:+7d}",
                            RED if delta > 0 else GREEN)

    def _print_lines_compiled(self, summary: CommitSummary) -> None:
        for name, files in sorted((self._boards[num].target, files)
                                  for num, files in summary.facts.lines.items()):
            plus, minus = (sum(file.sign == sign for file in files) for sign in '+-')
            self._print(f'{name}: {self._gain(sum(file.added for file in files))} '
                        f'{self._loss(sum(file.removed for file in files))} lines, '
                        f'{self._gain(plus)} {self._loss(minus)} files')
            if self._request.detail or self._request.bloat or self._request.lines_code:
                for file in files:
                    self._print_file_lines(file)

    def _print_file_lines(self, file: FileLines) -> None:
        colours = {'+': RED, '-': GREEN}
        name = f'    {file.sign} {file.key}'
        if file.sign in colours:
            name = self._colour(colours[file.sign], name.lstrip())
            name = f'    {name}'
        self._print(f'{name}  {self._gain(file.added)} {self._loss(file.removed)}')
        if not self._request.lines_code:
            return
        for sign, number, text in file.texts:
            self._print(f'        {sign} {number:4} {text}', colours[sign])
        left = file.added + file.removed - len(file.texts)
        if left:
            self._print(f'        ... and {left} more lines')

    def _gain(self, count: int) -> str:
        return self._colour(RED, f'+{count}')

    def _loss(self, count: int) -> str:
        return self._colour(GREEN, f'-{count}')

    def _print_changes(self, name: str, changes: Changes) -> None:
        for sign, colour, items in _change_texts(changes):
            if items:
                self._print(f"   {sign} {name}: {' '.join(items)} ", colour)

    def _print_config(self, heading: str, files: ConfigChanges) -> None:
        self._print(heading)
        for name, changes in files.items():
            self._print_changes(name, changes)


def _size(value: Optional[int]) -> str:
    return '-' if value is None else str(value)


def _change_texts(changes: Changes) -> List[Tuple[str, int, List[str]]]:
    return [
        ('+', GREEN, [f'{key}={val}' for key, val in sorted(changes.plus.items())]),
        ('-', RED, [f'{key}={val}' for key, val in sorted(changes.minus.items())]),
        ('c', YELLOW, [f'{key}={old} -> {new}'
                       # A value that becomes empty has never been shown
                       for key, (old, new) in sorted(changes.change.items()) if new]),
    ]
