# SPDX-License-Identifier: GPL-2.0+
"""Messages about our own doings, to stderr, up to a chosen level."""

from __future__ import annotations

import sys

ERROR, WARNING, NOTICE, INFO, DETAIL, DEBUG = range(6)

_level = WARNING


def init(level: int = WARNING) -> None:
    """Print messages up to `level` from now on."""
    global _level
    _level = level


def _print(level: int, msg: str) -> None:
    """Print a message unless it is of a higher level than wanted."""
    if level <= _level:
        print(msg, file=sys.stderr, flush=True)


def error(msg: str) -> None:
    """Print what went wrong."""
    _print(ERROR, msg)


def warning(msg: str) -> None:
    """Print what may go wrong."""
    _print(WARNING, msg)


def notice(msg: str) -> None:
    """Print what the user should know."""
    _print(NOTICE, msg)


def info(msg: str) -> None:
    """Print a step that is taken."""
    _print(INFO, msg)


def detail(msg: str) -> None:
    """Print the details of a step."""
    _print(DETAIL, msg)


def debug(msg: str) -> None:
    """Print what helps to find an error in the program."""
    _print(DEBUG, msg)
