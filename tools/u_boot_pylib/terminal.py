# SPDX-License-Identifier: GPL-2.0+
"""Colours on a terminal, and catching what would be printed."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import IO, Iterator, Optional, Tuple

# When text is coloured: if the stream is a terminal, always, or never
COLOUR_IF_TERMINAL, COLOUR_ALWAYS, COLOUR_NEVER = range(3)
# As U-Boot's tools spell them
COLOR_IF_TERMINAL, COLOR_ALWAYS, COLOR_NEVER = range(3)


@contextlib.contextmanager
def capture() -> Iterator[Tuple[io.StringIO, io.StringIO]]:
    """Stand in for sys.stdout and sys.stderr; yields what they are replaced by."""
    old = sys.stdout, sys.stderr
    new = io.StringIO(), io.StringIO()
    try:
        sys.stdout, sys.stderr = new
        yield new
    finally:
        sys.stdout, sys.stderr = old


class Color:
    """Makes coloured text, with the codes of ECMA-48 (SGR).

    A bright colour is bold (1), another has normal weight (22), so that the
    one does not depend on what was printed before it.
    """

    BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
    BOLD = -1
    RESET = '\033[0m'

    def __init__(self, when: int = COLOUR_IF_TERMINAL,
                 stream: Optional[IO[str]] = None) -> None:
        """Decide whether to use colours.

        Args:
            when: one of the COLOUR_… values
            stream: where the text will go, default sys.stdout
        """
        if when == COLOUR_IF_TERMINAL:
            target = stream if stream is not None else sys.stdout
            try:
                self.enabled = target.isatty()
            except ValueError:  # closed
                self.enabled = False
        else:
            self.enabled = when == COLOUR_ALWAYS

    def start(self, colour: int, bright: bool = True) -> str:
        """Return what switches to a colour, '' without colours."""
        if not self.enabled:
            return ''
        if colour == self.BOLD:
            return '\033[1m'
        return f'\033[{1 if bright else 22};{30 + colour}m'

    def stop(self) -> str:
        """Return what ends all colours, '' without colours."""
        return self.RESET if self.enabled else ''

    def build(self, colour: int, text: str, bright: bool = True) -> str:
        """Return `text` in a colour (`BOLD` for the usual one, bold)."""
        return f'{self.start(colour, bright)}{text}{self.stop()}'
