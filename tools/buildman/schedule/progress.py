# SPDX-License-Identifier: GPL-2.0+
"""What people see while a build runs: one line redrawn, or plain lines; at its end a paragraph.

Owned by the loop that owns the run; nobody else writes to the terminal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import os
import re
import shutil
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, TextIO

from buildman.core.outcome import Outcome

GREEN, RED, YELLOW, MAGENTA = 32, 31, 33, 35

# Names that a line lists before it only counts
MAX_NAMES = 8

_ESCAPE = re.compile(r'\033\[[0-9;]*m')


@dataclasses.dataclass
class Counts:
    """How many results there are.

    Attributes:
        total: boards times commits of this run
        ok, warned, failed: results by kind
        previous: of these, how many were there before this run
        skipped: of the new ones, how many were carried forward unbuilt
        carried: of the new ones, how many were there as those of other commits, by place
        reconfigured: of the new ones, how many were configured again
        flaky: of the new ones, how many were good when they were tried again
        refused: of the new ones, how many took no time, as nobody has a compiler
        scanned: of the new ones, of how many it was found out which lines were
            compiled (--lines)
        scan_seconds: how long that took, all together
    """

    total: int = 0
    ok: int = 0
    warned: int = 0
    failed: int = 0
    previous: int = 0
    skipped: int = 0
    carried: Dict[str, int] = dataclasses.field(default_factory=dict)
    reconfigured: int = 0
    flaky: int = 0
    refused: int = 0
    scanned: int = 0
    scan_seconds: float = 0.0

    @property
    def done(self) -> int:
        """Return the number of results that are there."""
        return self.ok + self.warned + self.failed

    def add(self, return_code: int, warned: bool) -> None:
        """Count one result."""
        if return_code:
            self.failed += 1
        elif warned:
            self.warned += 1
        else:
            self.ok += 1


def format_duration(seconds: float) -> str:
    """Return h:mm:ss, rounded to seconds."""
    return str(datetime.timedelta(seconds=round(max(0.0, seconds))))


def _to_top(lines: Sequence[str]) -> str:
    """Return what takes the cursor from the end of lines that were drawn to their beginning"""
    return '\r' + (f'\033[{len(lines) - 1}A' if len(lines) > 1 else '')


def _erase(lines: Sequence[str]) -> str:
    """Return what takes lines away that were drawn, and the cursor to their beginning"""
    return _to_top(lines) + ('\033[J' if len(lines) > 1 else '\033[K')


class Status:
    """The progress line and the messages around it.

    Attributes:
        left: tells the seconds that it will still take, None if nobody knows
        above: gives what is to stand above the progress line of a terminal, as few lines
            as there are rows, each as short as there are columns; [] for nothing
        counts: how many results there are
    """

    def __init__(self, out: TextIO, colour: Optional[bool] = None,
                 clock: Callable[[], float] = time.monotonic,
                 describe: Optional[Callable[[Outcome], str]] = None,
                 ide: Optional[TextIO] = None) -> None:
        """Set up; nothing is printed.

        Args:
            out: where to print
            colour: whether to use colours; None: on a terminal only
            clock: returns seconds
            describe: gives the lines to print for a result as it comes, in
                colour if they are to be
            ide: print what compilers said to this, as it is, and nothing else
        """
        self._out = out
        self._ide = ide
        self._describe = describe
        self._tty = out.isatty()
        self.colour = self._tty if colour is None else colour
        self._clock = clock
        # The lines that are drawn and will be redrawn; none at first
        self._drawn: List[str] = []
        self._size = os.terminal_size((0, 0))
        self._started = clock()
        self._name = ''
        self._last_draw = float('-inf')
        self.left: Callable[[], Optional[float]] = lambda: None
        self.above: Optional[Callable[[int, int], List[str]]] = None
        self.counts = Counts()

    def start(self, total: int) -> None:
        """Begin counting time.

        Args:
            total: boards times commits
        """
        self.counts.total = total
        self._started = self._clock()

    def state(self) -> Dict[str, Any]:
        """Return how far the build is, as the README describes it for --status."""
        counts = self.counts
        left = self.left()
        return {'total': counts.total, 'done': counts.done, 'good': counts.ok,
                'warned': counts.warned, 'failed': counts.failed, 'previous': counts.previous,
                'left': None if left is None else round(left)}

    # -- the progress line -------------------------------------------------

    def _paint(self, text: str, colour: int) -> str:
        """Return text in a colour, if there are any"""
        return f'\033[1;{colour}m{text}\033[0m' if self.colour else text

    def line(self, name: str) -> str:
        """Return the progress line.

        Args:
            name: board that came out last, with its machine
        """
        counts = self.counts
        left = counts.total - counts.done
        text = (self._paint(f'{counts.ok:5d}', GREEN)
                + self._paint(f'{counts.warned:5d}', YELLOW)
                + self._paint(f'{counts.failed:5d}', RED)
                + f' /{counts.total:<7d}'
                + self._paint(f' {-left:<8d}' if left else ' ' * 9, MAGENTA))
        seconds = self.left() if left else None
        eta = '' if seconds is None else f'{format_duration(seconds)}  : '
        return text + eta + name

    def progress(self, name: str) -> None:
        """Show how far the build is.

        On a terminal the line is redrawn, at most some 30 times a second, or twice with
        more above it; in a pipe each result gets a line.
        """
        if self._ide:
            return
        self._name = name
        if not self._tty:
            self._put(self.line(name).rstrip() + '\n')
            return
        pause = 0.5 if self.above else 0.03
        if (self._clock() - self._last_draw >= pause or self.counts.done == self.counts.total):
            self._draw()

    def tick(self) -> None:
        """Draw anew what may have changed although no result came."""
        if self._tty and not self._ide and self._clock() - self._last_draw >= 0.4:
            self._draw()

    def _draw(self, above: bool = True) -> None:
        """Put the progress line on the terminal, and what is above it"""
        self._last_draw = self._clock()
        size = self._find_size()
        # A line that wraps could not be redrawn
        width = size.columns - 1
        text = self.line(self._name)
        plain = _ESCAPE.sub('', text)
        lines = self.above(size.lines - 2, width) if self.above and above else []
        lines = [*lines, plain[:width] if len(plain) > width else text]
        before, out = self._drawn, _to_top(self._drawn)
        if size != self._size:
            # Lines may have been cut or wrapped
            self._size = size
            before, out = [], out + ('\033[J' if len(before) > 1 else '')
        elif len(before) > len(lines):
            before, out = [], out + '\033[J'
        for num, line in enumerate(lines):
            if num >= len(before) or line != before[num] or num == len(lines) - 1:
                out += line + '\033[K'
            out += '\n' if num < len(lines) - 1 else ''
        # Ctrl-C may come at any moment: then nothing above may be taken away
        self._drawn = lines[-max(1, len(before)):]
        self._put(out)
        self._drawn = lines

    def _find_size(self) -> os.terminal_size:
        """Return how large the terminal is now"""
        with contextlib.suppress(OSError, ValueError):
            size = os.get_terminal_size(self._out.fileno())
            if size.columns and size.lines:
                return size
        return shutil.get_terminal_size()

    def _put(self, text: str) -> None:
        """Write text; a reader that has gone is no reason to lose a build"""
        try:
            self._out.write(text)
            self._out.flush()
        except OSError as exc:
            # A pipe's or a terminal's
            if exc.errno not in (errno.EPIPE, errno.EIO):
                raise
            self._out = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115

    # -- messages ----------------------------------------------------------

    def result(self, outcome: Outcome) -> None:
        """Tell of a result what is to be told at once."""
        if self._ide:
            text = outcome.stderr
            self._ide.write(text if not text or text.endswith('\n') else text + '\n')
            self._ide.flush()
        elif self._describe:
            text = self._describe(outcome)
            if text:
                self.say(text.rstrip('\n'))

    def say(self, text: str) -> None:
        """Print lines, above the progress line."""
        if self._ide:
            self._ide.write(text + '\n')
            return
        lines = self._drawn
        if not lines:
            self._put(text + '\n')
            return
        # As in _draw()
        self._drawn = lines[-1:]
        self._put(_erase(lines) + text + '\n' + '\n'.join(lines))
        self._drawn = lines

    def end_line(self) -> None:
        """Leave the progress line as it stands and go to the next one."""
        if self._drawn:
            lines, self._drawn = self._drawn, self._drawn[-1:]
            self._put(_erase(lines))
            self._draw(above=False)
            self._put('\n')
            self._drawn = []

    def scanned(self) -> str:
        """Return how long --lines took; '' when there was nothing to be scanned."""
        count, seconds = self.counts.scanned, self.counts.scan_seconds
        if not count:
            return ''
        return (f"--lines: scanned {count} builds in {seconds:.1f}s "
                f'({seconds / count:.2f}s/build, summed across threads)')

    def closing(self) -> str:
        """Return the closing line."""
        counts = self.counts
        new = counts.done - counts.previous
        parts: List[str] = []
        if counts.previous:
            parts.append(f'{counts.previous} previously')
            if new:
                parts.append(f'{new} newly')
        elif counts.skipped or counts.reconfigured or counts.carried:
            parts.append(f'{new} newly')
        parts += [f'{count} carried from {where}' for where, count in counts.carried.items()]
        if counts.skipped:
            parts.append(f'{counts.skipped} skipped as unaffected')
        if counts.reconfigured:
            parts.append(f'{counts.reconfigured} reconfig')
        if counts.flaky:
            parts.append(f'{counts.flaky} flaky')
        text = f'Completed: {counts.done} total built'
        if parts:
            text += f" ({', '.join(parts)})"
        spent = self._clock() - self._started
        if new and spent >= 0.5:
            text += f', duration {format_duration(spent)}, rate {new / spent:.2f}'
        return text


@dataclasses.dataclass
class _Mishap:
    """Something that happened to a machine; `left`: boards to whom built them then"""

    name: str
    seconds: float
    what: str
    left: Dict[str, Set[str]]


class Aftermath:
    """What became of machines: who was lost or put aside, when and why, who built what they left.

    Gathers what the builder loop notes; times are seconds since the run began.
    """

    def __init__(self) -> None:
        self._mishaps: List[_Mishap] = []
        self._again: Dict[str, Set[str]] = {}

    def note(self, name: str, seconds: float, what: str, boards: Iterable[str] = ()) -> None:
        """Note that something happened to a machine.

        Args:
            name: of the machine, '' for this one
            seconds: when
            what: e.g. 'was lost: no sign of life'
            boards: what it had in hand and nobody else had
        """
        self._mishaps.append(_Mishap(name, seconds, what, {board: set() for board in boards}))

    def again(self, target: str) -> None:
        """Note that a board is tried again, as a machine is to blame for its failure."""
        self._again.setdefault(target, set())

    def built(self, name: str, target: str) -> None:
        """Note who built a board at some commit."""
        for mishap in self._mishaps:
            if target in mishap.left:
                mishap.left[target].add(name)
        if target in self._again:
            self._again[target].add(name)

    def lines(self) -> List[str]:
        """Return the paragraph, [] when nothing happened."""
        out = []
        for mishap in self._mishaps:
            text = (f"  {mishap.name or 'local'} {mishap.what} (after "
                    f'{format_duration(mishap.seconds)})')
            if mishap.left:
                text += f'; {_where(mishap.left)}'
            out.append(text)
        if self._again:
            out.append(f'  tried again after a failure of a machine: {_where(self._again)}')
        return ['What happened to machines:', *out] if out else []


def _where(left: Dict[str, Set[str]]) -> str:
    """Return which boards were built by whom, those together that went the same way"""
    ways: Dict[str, List[str]] = {}
    for target, names in left.items():
        way = ', '.join(sorted(name or 'local' for name in names))
        ways.setdefault(way, []).append(target)
    return '; '.join(f'{_names(targets)} {"built on " + way if way else "not built"}'
                     for way, targets in ways.items())


def _names(targets: List[str]) -> str:
    """Return names, or how many there are when that is too many"""
    if len(targets) <= MAX_NAMES:
        return ' '.join(targets)
    return f"{' '.join(targets[:MAX_NAMES])} and {len(targets) - MAX_NAMES} more"
