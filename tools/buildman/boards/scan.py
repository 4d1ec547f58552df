# SPDX-License-Identifier: GPL-2.0+
"""Finds the boards of a U-Boot tree: Kconfig, configs/*_defconfig, MAINTAINERS.

Two things go on at a time: one process parses Kconfig, which takes longest,
while this one looks for the files and reads the MAINTAINERS. When Kconfig is
parsed, that process is told the defconfigs and forks, and each takes a share of them. This
process never holds the parsed tree, and its environment stays as it is.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import re
import shutil
import sys
from types import ModuleType
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from buildman.boards import cache
from buildman.boards.cache import KCONFIGLIB_PATH, find_kconfiglib
from buildman.boards.cfgfile import Entry, read_text, sort_entries
from buildman.boards.evaluate import Evaluator
from buildman.boards.maintainers import Owners, decode
from buildman.core.errors import BoardError
from buildman.core.plan import Board
from buildman.process.fork import Child, Parcel
from buildman.process.limits import cpu_count

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


def parse(source_dir: str, compiler: str = '') -> Evaluator:
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


# What the processes do, for messages
_SCAN = 'the scan of the boards'

# A process is not worth starting for fewer defconfigs (20 ms of work)
_MIN_SHARE = 100

# Includes within includes deeper than this go round in circles
_MAX_DEPTH = 20

# A setting; a setting that is off; anything that is no comment and not blank
_LINE = re.compile(r'^(?:(?:\+?[A-Z]+:)?CONFIG_(\w+)=(.*)'
                   r'|# CONFIG_(\w+) is not set'
                   r'|([^#\s].*|[ \t\r\f\v]+[^#\s].*))', re.M)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(<[^>\n]+>|"[^"\n]+")[ \t]*\r?$',
                      re.M)
_STRING = re.compile(r'"(?:[^\\"]|\\.)*"')

# What Kconfig says of a board, in the order in which it is passed about
_SYMBOLS = ('SYS_ARCH', 'SYS_CPU', 'SYS_BOARD', 'SYS_VENDOR', 'SYS_SOC',
            'SYS_CONFIG_NAME')

Settings = List[Tuple[str, str]]


class ScanResult(NamedTuple):
    """What was found.

    Attributes:
        entries: the boards, in the order of boards.cfg
        warnings: lines about the maintainers, sorted
        stamp: says which content the boards came from, and has the settings that
            were asked for
    """

    entries: List[Entry]
    warnings: List[str]
    stamp: cache.Stamp


def read_defconfig(path: str, seen: Optional[Set[str]] = None,
                   depth: int = 0) -> Settings:
    """Return the settings of a defconfig, below the current folder.

    `#include <file>` looks below the tree, `#include "file"` beside the
    defconfig first, as the C preprocessor that U-Boot's makefiles use.

    Args:
        path: the file
        seen: paths of included files are added to it
        depth: how many files include this one

    Raises:
        BoardError: the file, or one that it includes, cannot be read or has
            a line that is no setting
    """
    text = read_text(path)
    if 'include' not in text:
        return settings_in(path, text, 0)
    settings: Settings = []
    pos = 0
    for match in _INCLUDE.finditer(text):
        settings += settings_in(path, text[:match.start()], pos)
        pos = match.end()
        name = match.group(1)
        if depth == _MAX_DEPTH:
            raise BoardError(f"{path}: includes itself, through '{name[1:-1]}'")
        beside = os.path.join(os.path.dirname(path), name[1:-1])
        target = beside if name[0] == '"' and os.path.exists(beside) else name[1:-1]
        if not os.path.isfile(target):
            line = text.count('\n', 0, match.start()) + 1
            raise BoardError(f"{path}:{line}: included file '{name[1:-1]}' "
                             'does not exist')
        if seen is not None:
            seen.add(os.path.normpath(target))
        settings += read_defconfig(target, seen, depth + 1)
    return settings + settings_in(path, text, pos)


def settings_in(path: str, text: str, start: int) -> Settings:
    """Return the settings in `text` from offset `start` on."""
    settings: Settings = []
    for name, value, unset, other in _LINE.findall(text, start):
        if name:
            value = value.rstrip()
            if value[:1] == '"' and not _STRING.match(value):
                _refuse(path, text, f'CONFIG_{name}={value}', 'has no closing quote')
            settings.append((name, value))
        elif unset:
            settings.append((unset, 'n'))
        elif other:
            _refuse(path, text, other, 'is not a setting')
    return settings


def _refuse(path: str, text: str, line: str, why: str) -> None:
    num = text.count('\n', 0, text.find(line)) + 1
    raise BoardError(f"{path}:{num}: '{line.strip()[:60]}' {why}")


def _board_values(evaluator: Evaluator, path: str, seen: Set[str]) -> List[str]:
    """Return arch, CPU, board, vendor, SoC and config name of a defconfig."""
    evaluator.assign(read_defconfig(path, seen))
    # A blank in a value would be two columns in boards.cfg
    values = ['_'.join(evaluator.text(name).split()) for name in _SYMBOLS]
    # What SYS_ARCH does not tell, but a compiler must know
    if values[0] == 'arm' and values[1] == 'armv8':
        values[0] = 'aarch64'
    elif values[0] == 'riscv':
        values[0] = 'riscv32' if evaluator.text('ARCH_RV32I') == 'y' else 'riscv64'
    return values


def _share(evaluator: Evaluator, paths: Sequence[str],
           symbols: Sequence[str] = ()) -> Dict[str, Any]:
    """Return the values for some defconfigs, what further symbols are, and the files included."""
    seen: Set[str] = set()
    values: Dict[str, List[str]] = {}
    settings: Dict[str, Dict[str, str]] = {}
    for path in paths:
        values[path] = _board_values(evaluator, path, seen)
        settings[path] = {name: text for name in symbols
                          for text in (evaluator.setting(name),) if text}
    return {'values': values, 'settings': settings, 'included': sorted(seen)}


def _enabled_targets(evaluator: Evaluator, paths: Sequence[str]) -> Dict[str, Any]:
    """Return the TARGET_… symbols that each of some defconfigs sets."""
    names = evaluator.names('TARGET_')
    values = {}
    for path in paths:
        evaluator.assign(read_defconfig(path))
        values[path] = [name for name in names if evaluator.text(name) == 'y']
    return {'values': values, 'settings': {}, 'included': []}


def _evaluate(source_dir: str, parcel: Parcel, jobs: int,
              full: bool, symbols: Sequence[str]) -> Dict[str, Any]:
    """Parse Kconfig and evaluate defconfigs; runs in a process of its own.

    Args:
        parcel: has the paths of the defconfigs, below the tree
    """
    # Some settings are made only where the compiler is gcc, as it is in a build
    evaluator = parse(source_dir, 'gcc' if symbols and shutil.which('gcc') else '')
    gc.freeze()         # else the collector copies all that is shared
    paths: Sequence[str] = parcel.take()
    work = _enabled_targets if full else functools.partial(_share, symbols=symbols)
    count = max(1, min(jobs, len(paths) // _MIN_SHARE))
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(
            functools.partial(_once, work, evaluator, paths[num::count]), _SCAN, nested=True))
            for num in range(1, count)]
        answers = [work(evaluator, paths[::count])]
        answers += [child.next() for child in children]
    values: Dict[str, Any] = {}
    settings: Dict[str, Dict[str, str]] = {}
    for answer in answers:
        values.update(answer['values'])
        settings.update(answer['settings'])
    included = sorted({path for answer in answers for path in answer['included']})
    return {'values': values, 'settings': settings, 'files': [*evaluator.files(), *included]}


def _start(source_dir: str, parcel: Parcel, jobs: int, full: bool,
           symbols: Sequence[str] = ()) -> Child:
    """Begin to evaluate defconfigs in a process of its own; see _evaluate()."""
    return Child(functools.partial(_once, _evaluate, source_dir, parcel,
                                   jobs or cpu_count(), full, symbols), _SCAN)


def _once(func: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """Yield what a function returns, as the only value of a child."""
    yield func(*args)


def _owners(source_dir: str, tree: cache.Tree, targets: Sequence[str]) -> Owners:
    """Read all MAINTAINERS files of a tree."""
    owners = Owners(targets)
    for path in tree.maintainers():
        try:
            with open(os.path.join(source_dir, path), 'rb') as inf:
                owners.add(decode(inf.read()), path)
        except OSError as exc:
            raise BoardError(f'{path}: cannot be read: {exc.strerror}') from exc
    return owners


def scan(source_dir: str, wanted: Optional[Iterable[str]] = None, jobs: int = 0,
         tree: Optional[cache.Tree] = None,
         symbols: Sequence[str] = ()) -> ScanResult:
    """Find the boards of a tree.

    Args:
        source_dir: top of a U-Boot tree
        wanted: names of the only boards to look for; those that do not
            exist are left out
        jobs: number of processes, 0 for one a processor
        tree: the files of the tree, if they are known already
        symbols: further symbols of which the values are wanted, without CONFIG_

    Raises:
        KconfigMissing: there is no kconfiglib for this tree
        BoardError: a file cannot be read or is wrong; the message names it
    """
    parcel = Parcel()
    with _start(source_dir, parcel, jobs, False, symbols) as child:
        tree = tree or cache.find_files(source_dir)
        found = tree.defconfigs()
        odd = sorted(path for target, path in found.items() if len(target.split()) != 1)
        found = {target: path for target, path in found.items() if path not in odd}
        if wanted is not None:
            found = {target: found[target] for target in wanted if target in found}
        targets = sorted(found)
        parcel.give([found[name] for name in targets])
        owners = _owners(source_dir, tree, targets)
        stamp = cache.Stamp.make(source_dir, tree, [KCONFIGLIB_PATH])
        answer = child.next()
    stamp.add(source_dir, answer['files'])
    stamp.settings = {name: {} for name in symbols}
    entries = []
    for target in targets:
        for name, text in answer['settings'][found[target]].items():
            stamp.settings[name].setdefault(text, []).append(target)
        arch, cpu, board, vendor, soc, config = answer['values'][found[target]]
        owner = owners.find(target)
        entries.append(Entry(Board(
            target=target, arch=arch or '-', cpu=cpu, board_name=board, vendor=vendor,
            soc=soc, status=owner.status, maintainers=owner.maintainers), config))
    warnings = [*owners.warnings, *(
        f"WARNING: {path}: a name with a blank is no board" for path in odd)]
    return ScanResult(sort_entries(entries), sorted(warnings), stamp)


def check_owners(source_dir: str,
                 tree: Optional[cache.Tree] = None) -> List[str]:
    """Return a line for each board without an active maintainer, sorted.

    Args:
        source_dir: top of a U-Boot tree
        tree: the files of the tree, if they are known already

    Raises:
        BoardError: a file cannot be read
    """
    tree = tree or cache.find_files(source_dir)
    targets = sorted(tree.defconfigs())
    owners = _owners(source_dir, tree, targets)
    for target in targets:
        owners.find(target)
    return sorted(owners.warnings)


def check_targets(source_dir: str) -> List[str]:
    """Return lines about TARGET_… symbols, sorted, then those of check_owners().

    A defconfig is to set exactly one such symbol.

    Raises:
        BoardError: as for scan()
    """
    parcel = Parcel()
    with _start(source_dir, parcel, 0, True) as child:
        tree = cache.find_files(source_dir)
        found = tree.defconfigs()
        targets = sorted(found)
        parcel.give([found[name] for name in targets])
        owners = check_owners(source_dir, tree)
        values = child.next()['values']
    lines = []
    for target in targets:
        names = [name[len('TARGET_'):].lower() for name in values[found[target]]]
        where = f'WARNING: {target}_defconfig:'
        if not names:
            symbol = target.replace('-', '_').upper()
            lines.append(f'{where} No TARGET_{symbol} enabled')
        lines += [f'{where} Duplicate TARGET_xxx: {names[0]} and {name}'
                  for name in names[1:]]
    return sorted(lines) + owners
