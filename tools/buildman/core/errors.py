# SPDX-License-Identifier: GPL-2.0+
"""Errors that a user can mend, each with the exit status that it leads to."""

from __future__ import annotations

# Exit statuses of the command. 100 and 101 speak of the boards, 2 of the way
# in which the command was called or of the machine that it runs on.
EXIT_OK = 0
EXIT_USAGE = 2
EXIT_ERRORS = 100
EXIT_WARNINGS = 101
EXIT_INTERRUPTED = 130


class BuildmanError(Exception):
    """Something that the user can mend: one line that names it and the way out.

    The door (`main.py`) prints the message and exits with `status`; the
    traceback is shown with -D only.
    """

    status = EXIT_USAGE


class UsageError(BuildmanError):
    """The command line or the configuration asks for what cannot be done."""


class SetupError(BuildmanError):
    """This machine, repository or output folder is not ready for a build."""


class BoardError(BuildmanError):
    """The list of boards cannot be made or nothing in it matches."""


class ToolchainError(BuildmanError):
    """A toolchain is missing or does not work."""


class GitError(BuildmanError):
    """git refused, or the branch, range or repository is not there."""
