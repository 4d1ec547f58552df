# SPDX-License-Identifier: GPL-2.0+
"""Downloads toolchains on another machine (--machines-fetch-arch).

Sent over as a program, see `scripts.module_command`. The compilers go below the
home folder there, where they are found; its configuration stays as it is.
"""

from __future__ import annotations

import sys
from typing import List, Optional

from buildman import bsettings
from buildman.core.errors import BuildmanError
from buildman.toolchains import download


def main(args: Optional[List[str]] = None) -> int:
    """Install toolchains.

    Args:
        args: [base address or '', arch…]; None for those of the command line

    Returns:
        exit status; what went wrong is the last line of stderr
    """
    url, *archs = sys.argv[1:] if args is None else args
    bsettings.setup(None)
    if url:
        bsettings.settings['toolchain-fetch'] = {'url': url}
    try:
        for arch, gcc in download.install_archs(archs, bsettings.settings, sys.stderr):
            print(f'{arch} {gcc}')
    except BuildmanError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0
