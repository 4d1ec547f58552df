# SPDX-License-Identifier: GPL-2.0+
"""The manual page (--man), made from the parser."""

from __future__ import annotations

import argparse
import textwrap

from buildman import __version__
from buildman.cli.cmdline import make_parser

_ENDS = (('0', 'all boards are good at all commits'),
         ('100', 'a board failed, or could not be built'),
         ('101', 'there were warnings only, without -W'),
         ('2', 'wrong usage or set-up: one line on stderr says what'),
         ('130, 143', 'Ctrl-C, SIGTERM'))

_FILES = (('~/.buildman', 'compilers and machines; -G names another file'),
          ('~/.cache/buildman', 'lists of boards, for dry runs'),
          ('../BRANCH, or DIR/BRANCH with -o DIR', 'results'))


def _roff(text: str) -> str:
    """Return text as roff takes it, wrapped, and never as a request"""
    lines = textwrap.wrap(text, 90, break_on_hyphens=False)
    escaped = '\n'.join(lines).replace('\\', '\\e').replace('-', '\\-').replace('`', '\\`')
    return '\n'.join('\\&' + line if line[:1] in ('.', "'") else line
                     for line in escaped.split('\n'))


def _bold(text: str) -> str:
    return f'\\fB{_roff(text)}\\fR'


def _entry(tag: str, text: str) -> str:
    """Return an entry of a list"""
    return f'.TP\n{tag}\n{_roff(text)}\n'


def _flag(action: argparse.Action) -> str:
    """Return the entry of a flag, or of the terms"""
    value = str(action.metavar or action.dest.upper()) if action.nargs != 0 else ''
    if action.choices:
        value = '|'.join(map(str, action.choices))
    value = f'\\fI{_roff(value)}\\fR' if value else ''
    if action.nargs == '?':
        value = f'[{value}]'
    names = ', '.join(map(_bold, action.option_strings))
    return _entry(' '.join(filter(None, (names, value))), (action.help or '').replace('%%', '%'))


def page() -> str:
    """Return the manual page, as roff."""
    parser = make_parser()
    out = [f'.\\" SPDX-License-Identifier: GPL-2.0+\n.TH BUILDMAN 1 "" "buildman {__version__}"\n'
           '.SH NAME\nbuildman \\- build U\\-Boot for many boards and commits\n'
           '.SH SYNOPSIS\n.B buildman\n[\\fIFLAG\\fR ...] [\\fITERM\\fR ...]\n'
           f'.SH DESCRIPTION\n{_roff(parser.description or "")}\n'
           f'.PP\n{_roff("All else is in the README, which buildman -H shows.")}\n.SH OPTIONS\n']
    for title, actions in parser.by_group().items():
        out.append(f'.SS {_roff(title[:1].upper() + title[1:])}\n')
        out += map(_flag, actions)
    out.append('.SH EXIT STATUS\n')
    out += (_entry(_bold(tag), text) for tag, text in _ENDS)
    out.append('.SH FILES\n')
    out += (_entry(f'\\fI{_roff(tag)}\\fR', text) for tag, text in _FILES)
    return ''.join(out)
