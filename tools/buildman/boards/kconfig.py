# SPDX-License-Identifier: GPL-2.0+
"""Finds a kconfiglib for a U-Boot tree and parses its Kconfig files with it."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Optional

from buildman.core.errors import BoardError

if TYPE_CHECKING:
    from buildman.boards.evaluate import Evaluator

# Where U-Boot trees keep their copy of kconfiglib (in 2023.01 and others)
KCONFIGLIB_PATH = 'tools/buildman/kconfiglib.py'

# A deep tree of conditions needs more frames than Python allows by default
_RECURSION_LIMIT = 20000


class KconfigMissing(BoardError):
    """There is no kconfiglib that could read the Kconfig files."""


def _load_file(path: str) -> ModuleType:
    """Import kconfiglib from `path` without leaving a trace beside it."""
    spec = importlib.util.spec_from_file_location('_tree_kconfiglib', path)
    if spec is None or spec.loader is None:
        raise KconfigMissing(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    # The tree must stay clean; compiling it each time takes 20 ms
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, OSError, AttributeError, NameError) as exc:
        raise KconfigMissing(f'{KCONFIGLIB_PATH} cannot be loaded: {exc}') from exc
    finally:
        sys.dont_write_bytecode = before
    return module


def find_kconfiglib(source_dir: str) -> Optional[str]:
    """Return the path of the tree's own kconfiglib, None if it has none."""
    path = os.path.join(source_dir, KCONFIGLIB_PATH)
    return path if os.path.isfile(path) else None


def load_kconfiglib(source_dir: str) -> ModuleType:
    """Return kconfiglib: the tree's own copy, else one that can be imported.

    Raises:
        KconfigMissing: neither is there, or it is one of the first versions,
            which described the tree in another way; says what is wrong
    """
    reason = f'the tree has no {KCONFIGLIB_PATH}'
    path = find_kconfiglib(source_dir)
    if path:
        try:
            module = _load_file(path)
            if hasattr(module, 'Kconfig'):
                return module
            reason = f'{KCONFIGLIB_PATH} is too old'
        except KconfigMissing as exc:
            reason = str(exc)
    try:
        module = importlib.import_module('kconfiglib')
    except ImportError as exc:
        raise KconfigMissing(reason) from exc
    if not hasattr(module, 'Kconfig'):
        raise KconfigMissing('the installed kconfiglib is too old')
    return module


def parse(source_dir: str, compiler: str = '') -> 'Evaluator':
    """Parse the Kconfig files of a tree.

    This changes the environment and the current folder, so it is meant for a
    process that does nothing else.

    Args:
        source_dir: top of the tree
        compiler: what Kconfig asks what it can do; '' for none

    Raises:
        KconfigMissing: no kconfiglib
        BoardError: a Kconfig file is wrong or missing; names file and line
    """
    # A list that is kept needs no evaluation
    from buildman.boards.evaluate import Evaluator
    lib = load_kconfiglib(source_dir)
    os.chdir(source_dir)
    for name in ('CONFIG_', 'KCONFIG_FUNCTIONS', 'KCONFIG_STRICT',
                 'KCONFIG_WARN_UNDEF', 'KCONFIG_WARN_UNDEF_ASSIGN'):
        os.environ.pop(name, None)
    # The names that U-Boot's scripts/kconfig/Makefile exports. For the boards of a
    # tree no compiler is named, since they must not depend on this machine's.
    os.environ.update(srctree='.', KCONFIG_OBJDIR='', UBOOTVERSION='',
                      CC=compiler, LD='', SRCARCH='..')
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _RECURSION_LIMIT))
    # Nothing of the parsed tree is garbage: collecting costs a fifth of the time
    gc.disable()
    try:
        return Evaluator(lib, lib.Kconfig('Kconfig', warn=False))
    except lib.KconfigError as exc:
        raise BoardError(_one_line(exc)) from exc
    except UnicodeDecodeError as exc:
        raise BoardError(f'Kconfig: {exc}') from exc
    except OSError as exc:
        raise BoardError(_one_line(exc)) from exc


def _one_line(exc: BaseException) -> str:
    """Return the message of `exc` without the line breaks it may have."""
    return ' '.join(str(exc).split())
