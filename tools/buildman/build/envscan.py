# SPDX-License-Identifier: GPL-2.0+
"""Which variables of the environment the build of a tree reads: its Makefiles and scripts say.

All that a Makefile refers to and does not set itself comes from the environment, if
it is there: BL31, ROCKCHIP_TPL, BINMAN_INDIRS and whatever the next release takes.
So the tree is searched for the names that the environment at hand has, which are
few; a list of them all is nowhere kept.
"""

from __future__ import annotations

import re
from typing import Dict, FrozenSet, Iterable, List, Mapping, Sequence, Tuple

from buildman.core.errors import GitError
from buildman.source import git

# Files in which a build may ask for a variable, as patterns of git
WHERE = (':(glob)**/Makefile*', ':(glob)**/Kbuild*', ':(glob)**/*.mk', ':(glob)scripts/**',
         ':(glob)arch/**/*.sh', ':(glob)arch/**/*.py', ':(glob)board/**/*.sh',
         ':(glob)board/**/*.py', ':(glob)tools/*.sh', ':(glob)tools/binman/**/*.py',
         ':(exclude,glob)scripts/**/*.pl', ':(exclude,glob)scripts/**/*.[chly]')

# Variables of make and of its Makefiles in small letters are none that a user sets
_NAME = re.compile(r'[A-Z][A-Z0-9_]*')

# What never travels, nor is taken for part of a build: what says who somebody is,
# where things are on this machine, or what it looks like (these a machine has itself);
# and what opens doors. The names of the latter are guessed, broadly: who needs one of
# them names it in [worker-env].
_NEVER = re.compile(
    r'HOME|PATH|CDPATH|MANPATH|SHELL|USER|USERNAME|LOGNAME|MAIL|EMAIL|HOST|HOSTNAME|HOSTTYPE|'
    r'MACHTYPE|OSTYPE|PWD|OLDPWD|SHLVL|IFS|ENV|PS\d|TERM|TERMINFO|TERM_\w+|COLORTERM|LS_COLORS|'
    r'COLUMNS|LINES|DISPLAY|WAYLAND_\w+|XAUTHORITY|EDITOR|VISUAL|PAGER|LESS\w*|TMPDIR|TEMP|TMP|'
    r'TZ|LANG|LANGUAGE|LC_\w+|NPROC|VIRTUAL_ENV|(?:BASH|LD|PYTHON|PERL|PKG_CONFIG|XDG|SSH|GPG|DBUS|'
    r'GIT|SUDO|NIX|CONDA|DOCKER|KUBE|AWS|AZURE|GOOGLE|GITHUB)_?\w*|PYENV_\w+|PIP_\w+|'
    r'(?:\w+_)?(?:\w*TOKEN|\w*SECRETS?|\w*PASSWORD|\w*PASSWD|\w*PASSPHRASE|PASS|CREDENTIALS?|AUTH|'
    r'COOKIE|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|PROXY|PAT)(?:_\w+)?')

# A reference, by the kind of file: of make, of a shell, of Python
_IN_MAKE = r'\$[({{]{0}[:)}}\s]|\b(?:ifn?def|origin|value|flavor)\s+{0}\b|\$\$\{{?{0}\b'
_IN_SHELL = r'\$\{{?[#!]?{0}\b'
_IN_PYTHON = r'''(?:environ|getenv)\b.*['"]{0}['"]'''


def is_candidate(name: str) -> bool:
    """Return whether a variable may be one that a user sets for the sake of builds."""
    return bool(_NAME.fullmatch(name)) and not _NEVER.fullmatch(name)


def reads(lines: Iterable[Tuple[str, str]], names: Iterable[str]) -> FrozenSet[str]:
    """Return which variables a tree takes from the environment.

    A Makefile that sets one for good (`=`, `:=`) does not; one that does so with `?=`,
    `+=` or upon a condition does. What counts is the Makefile at the top, since
    others may not be read; a line that is not indented is taken for one without
    a condition, as it is the custom.

    Args:
        lines: (path, text) of lines that have one of the names in them
        names: variables
    """
    patterns: Dict[str, Dict[str, 're.Pattern[str]']] = {}
    for name in names:
        patterns[name] = {kind: re.compile(text.format(name)) for kind, text in (
            ('make', _IN_MAKE), ('shell', f'{_IN_SHELL}|{_IN_MAKE}'), ('python', _IN_PYTHON))}
        patterns[name]['set'] = re.compile(rf'(?:(?:export|override)\s+)?{name}\s*(?::{{0,3}})=')
    referred, settled = set(), set()
    for path, text in lines:
        if text.lstrip().startswith('#'):
            continue
        base = path.rpartition('/')[2]
        kind = 'make' if base.startswith(('Makefile', 'Kbuild')) or base.endswith('.mk') else (
            'python' if base.endswith('.py') else 'shell')
        for name, found in patterns.items():
            if name not in text:
                continue
            if kind == 'make' and path in ('Makefile', 'config.mk') and found['set'].match(text):
                settled.add(name)
            elif found[kind].search(text):
                referred.add(name)
    return frozenset(referred - settled)


def search(folder: str, commits: Sequence[str], names: Iterable[str]) -> FrozenSet[str]:
    """Return which variables a tree takes from the environment.

    Args:
        folder: a repository, or the source when there are no commits
        commits: in which to look; none: the folder as it is
        names: variables
    """
    names = sorted(name for name in names if is_candidate(name))
    if not names:
        return frozenset()
    found: FrozenSet[str] = frozenset()
    for commit in dict.fromkeys(commits) or ('',):
        found |= reads(_grep(folder, commit, names), names)
    return found


def _grep(folder: str, commit: str, names: Sequence[str]) -> List[Tuple[str, str]]:
    """Return the lines that have one of some names in them, each with its path"""
    args = ['grep', '-I', '-z', '-w', '-F', *(f'-e{name}' for name in names)]
    # An untracked file is a part of the source, too
    where = [commit] if commit else ['--no-index', '--no-exclude-standard']
    try:
        out = git.text(folder, *args, *where, '--', *WHERE)
    except GitError:
        # Nothing found is an exit status, too
        return []
    lines = []
    for line in out.split('\n'):
        path, _, text = line.partition('\0')
        lines.append((path[len(commit) + 1:] if commit else path, text))
    return lines


def select(env: Mapping[str, str], names: Iterable[str]) -> Dict[str, str]:
    """Return the part of an environment that some names are of."""
    return {name: env[name] for name in names if name in env}
