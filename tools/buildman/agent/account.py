# SPDX-License-Identifier: GPL-2.0+
"""Builds on a machine do not read what its account has for itself.

What comes out of a build must not depend on the machine. People have settings for
git, ccache, Python and compilers in files of their home folder, and variables that
name such files or folders in what a login shell reads. The programs that PATH names
are the machine's; the rest is left out, by all that we run there.
"""

from __future__ import annotations

import os
import re
from typing import Dict, Mapping

from buildman.source import git

# Variables that lead programs to an account's own files, or are settings of an account's
_OF_ACCOUNT = re.compile(
    r'(PYTHON|PERL5|XDG_(CONFIG|CACHE|DATA|STATE)_)\w*|BASH_ENV|ENV|CCACHE_CONFIGPATH|'
    r'CPATH|(C|CPLUS|OBJC)_INCLUDE_PATH|LIBRARY_PATH|COMPILER_PATH|GCC_EXEC_PREFIX|GCC_COLORS|'
    r'DEPENDENCIES_OUTPUT|SUNPRO_DEPENDENCIES|MAKEFILES|(GNU)?MAKEFLAGS|(XZ|TAR|GREP)_OPTIONS|'
    r'XZ_(DEFAULTS|OPT)|GZIP|BZIP2?|ZSTD_\w+')

# Of the work folder: the home folder that builds see, and ccache's, unless the machine
# has one for it
HOME, CACHE = 'home', 'ccache'


def leave() -> None:
    """Have this process and all that it starts go without the account's settings."""
    env = git.apart({name: value for name, value in os.environ.items()
                     if not _OF_ACCOUNT.fullmatch(name)})
    os.environ.clear()
    os.environ.update(env, PYTHONNOUSERSITE='1')


def at_home(env: Mapping[str, str], work_dir: str) -> Dict[str, str]:
    """Return an environment of builds with a home folder of their own.

    Args:
        env: the environment
        work_dir: work folder

    Raises:
        OSError: the folder cannot be made
    """
    home = os.path.join(work_dir, HOME)
    os.makedirs(home, exist_ok=True)
    pyenv = os.path.expanduser('~/.pyenv')
    # Where a program of PATH looks for what it stands for
    programs = {'PYENV_ROOT': pyenv} if os.path.isdir(pyenv) else {}
    return {'CCACHE_CONFIGPATH': os.devnull, 'CCACHE_DIR': os.path.join(work_dir, CACHE),
            **programs, **env, 'HOME': home}
