# SPDX-License-Identifier: GPL-2.0+
"""What is printed without building: lists, checks, a dry run."""

from __future__ import annotations

import argparse
import os
from typing import Optional, Sequence, TextIO

from buildman import bsettings
from buildman.boards import select
from buildman.build import environment
from buildman.core.errors import EXIT_OK, SetupError
from buildman.core.plan import Board
from buildman.source import commits

# Exit status when a check finds something
EXIT_CHECK_FAILED = 2


def full_help(out: TextIO) -> int:
    """Show the README (-H).

    Raises:
        SetupError: it is not there, as in a copy without its top folder
    """
    # A link to the one at the top; an installed package has a copy
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), 'README.rst')
    try:
        with open(path, encoding='utf-8') as inf:
            out.write(inf.read())
    except OSError as exc:
        raise SetupError(f"the README is not here: '{os.path.normpath(path)}'") from exc
    return EXIT_OK


def board_list(args: argparse.Namespace, source: str, base: str, err: TextIO) -> int:
    """Write the list of boards (-R) or check it (--maintainer-check, --full-check).

    Args:
        args: command line
        source: tree to scan
        base: output folder, for '-R -'
        err: where to print

    Returns:
        exit status
    """
    if args.maintainer_check or args.full_check:
        lines = (select.full_check(source) if args.full_check
                 else select.maintainer_check(source))
        for line in lines:
            print(line, file=err)
        return EXIT_CHECK_FAILED if lines else EXIT_OK
    path = args.regen_board_list
    if path == '-':
        os.makedirs(base, exist_ok=True)
        path = os.path.join(base, 'boards.cfg')
    found, warnings = select.load(source)
    for line in warnings:
        print(line, file=err)
    select.write_board_list(path, found)
    return EXIT_CHECK_FAILED if warnings else EXIT_OK


def board_values(args: argparse.Namespace, selected: Sequence[Board], out: TextIO) -> int:
    """Print what scripts ask for: the arch or the toolchain prefix of the boards."""
    if args.print_arch:
        print(environment.print_arch_text([board.arch for board in selected]), file=out)
    else:
        from buildman.toolchains import find
        chains = find.Toolchains(args.override_toolchain or '')
        chains.scan()
        print(environment.print_prefix_text([chains.select(board.arch) for board in selected]),
              file=out)
    return EXIT_OK


def toolchains(args: argparse.Namespace, out: TextIO) -> int:
    """List the toolchains (--list-tool-chains)."""
    from buildman.toolchains import find
    chains = find.Toolchains(args.override_toolchain or '')
    for line in chains.list_lines(args.verbose):
        print(line, file=out)
    return EXIT_OK


def fetch(names: Sequence[str], out: TextIO) -> int:
    """Download toolchains (--fetch-arch)."""
    # Loads an HTTP client, which no other command needs
    from buildman.toolchains import download
    return download.fetch(names, bsettings.settings, out)


def dry_run(headline: str, shown_dir: str, series: Optional[commits.Series],
            selection: select.Selection, verbose: bool, out: TextIO) -> int:
    """Say what would be built (-n)."""
    print('Dry run, so not doing much. But I would do this:\n', file=out)
    print(headline, file=out)
    print(f'Build directory: {shown_dir}', file=out)
    if series:
        for commit in (series.commits[i] for i in series.selected):
            print(f'    {commit.hash[:8]} {commit.subject}', file=out)
    for line in select.describe_selection(selection, verbose):
        print(line, file=out)
    return EXIT_OK
