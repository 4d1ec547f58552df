# SPDX-License-Identifier: GPL-2.0+
"""What is printed without building: lists, checks, a dry run."""

from __future__ import annotations

import argparse
import glob
import os
import re
from typing import Iterable, Iterator, List, Optional, Sequence, TextIO

from buildman import bsettings
from buildman.boards import select
from buildman.build import environment
from buildman.core.errors import EXIT_ERRORS, EXIT_OK, SetupError
from buildman.core.plan import Board
from buildman.source import commits
from buildman.toolchains import find

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
        chains = find.Toolchains(args.override_toolchain or '')
        chains.scan()
        print(environment.print_prefix_text([chains.select(board.arch) for board in selected]),
              file=out)
    return EXIT_OK


def toolchains(args: argparse.Namespace, out: TextIO) -> int:
    """List the toolchains (--list-tool-chains)."""
    chains = find.Toolchains(args.override_toolchain or '')
    for line in chains.list_lines(args.verbose):
        print(line, file=out)
    return EXIT_OK


def fetch(names: Sequence[str], out: TextIO) -> int:
    """Download toolchains (--fetch-arch)."""
    # Loads an HTTP client, which no other command needs
    from buildman.toolchains import download
    return download.fetch(names, bsettings.settings, out)


def merge(sources: Sequence[str], folder: str, out: TextIO, err: TextIO) -> int:
    """Put the results of several output folders into one (--merge).

    Returns:
        exit status

    Raises:
        UsageError: they do not belong together
        SetupError: they cannot be read or written
    """
    from buildman.results.merge import Merge
    merged = Merge(sources, folder)
    merged.run()
    print('\n'.join(merged.lines), file=out if merged.complete else err)
    return EXIT_OK if merged.complete else EXIT_ERRORS


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


# Names of variables in [make-flags]
_VARIABLE = re.compile(r'\$\{([^}]*)\}')

_MACHINE = 'machine:'


def config_problems(folders: bool = True) -> List[str]:
    """Return a line for each section, key or folder of the configuration that means nothing.

    A name that is misspelt would have no effect, without a word. That is no error, since
    a file may be meant for several versions of buildman.

    Args:
        folders: look for the folders of [toolchain] as well
    """
    if bsettings.is_default:
        return []
    return [*_names(), *_variables(), *(_folders() if folders else ())]


def _names() -> Iterator[str]:
    """Say which sections and keys are not known"""
    machines = [name for name, _ in bsettings.get_items('machines')]
    for section in bsettings.settings.sections():
        kind = _MACHINE if section.startswith(_MACHINE) else section
        if kind not in bsettings.SECTIONS:
            yield (f'{bsettings.where(section)}: there is no section [{section}], so it has no '
                   f'effect{_meant(section, bsettings.SECTIONS, "[{}]")}')
            continue
        name = section[len(_MACHINE):]
        if kind == _MACHINE and name not in machines:
            yield (f"{bsettings.where(section)}: [{section}] has no effect, as '{name}' is not in "
                   f'[machines]{_meant(name, machines)}')
        keys = bsettings.SECTIONS[kind]
        for key, _ in bsettings.get_items(section):
            if keys is not None and key not in keys:
                yield (f"{bsettings.where(section, key)}: there is no '{key}' in [{section}], so "
                       f'it has no effect{_meant(key, keys)}; there is: '
                       f"{', '.join(sorted(keys))}")


def _variables() -> Iterator[str]:
    """Say which variables of [make-flags] are used and not there"""
    items = bsettings.get_items('make-flags')
    known = {'target', *(key for key, _ in items)}
    for key, value in items:
        for name in dict.fromkeys(_VARIABLE.findall(value)):
            if name not in known:
                yield (f"{bsettings.where('make-flags', key)}: ${{{name}}} is empty, as there is "
                       f"no '{name}' in [make-flags]{_meant(name, known)}")


def _folders() -> Iterator[str]:
    """Say which folders of [toolchain] are of no use"""
    for name, value in bsettings.get_items('toolchain'):
        place = f"{bsettings.where('toolchain', name)}: '{name}' in [toolchain]"
        if not value:
            yield f'{place} has no folder'
            continue
        found = find.folders_of(value)
        if not found or not any(map(os.path.lexists, found)):
            what = 'nothing fits' if glob.has_magic(value) else 'there is no folder'
            yield f"{place}: {what} '{value}'"
        elif not any(find.compilers_in(sub) for path in found
                     for sub in find.searched_in(path)):
            yield (f"{place}: there is no compiler (a program called …gcc) in '{value}', nor in "
                   'its bin or usr/bin')


def _meant(name: str, known: Iterable[str], form: str = "'{}'") -> str:
    """Return a question whether another name was meant, '' if none is like it"""
    # Needed when something is wrong only
    import difflib
    like = difflib.get_close_matches(name.lower(), list(known), 1)
    return f' (did you mean {form.format(like[0])}?)' if like else ''
