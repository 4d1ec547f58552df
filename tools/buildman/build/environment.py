# SPDX-License-Identifier: GPL-2.0+
"""What a make runs with: its environment, its words, and the record of both.

Nothing in here starts a process; it looks at the disk only to find programs
on PATH. It runs on the boss and on every worker.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
from typing import Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from buildman.core.errors import SetupError, ToolchainError, UsageError
from buildman.core.plan import Settings, Toolchain

# The arch that is built with the host's compiler
SANDBOX = 'sandbox'

# What a make around us has set up for its own children, and what would move
# the build elsewhere or give it another compiler than the one that was chosen
DROPPED = frozenset((
    'CROSS_COMPILE', 'GNUMAKEFLAGS', 'KBUILD_EXTMOD', 'KBUILD_OUTPUT', 'KBUILD_SRC',
    'KCONFIG_CONFIG', 'MAKEFILES', 'MAKEFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES', 'MAKE_RESTARTS',
    'MAKE_TERMERR', 'MAKE_TERMOUT', 'MFLAGS', 'O', 'SUBDIRS'))

# Variables in which make takes words as if they were on its command line
_MAKE_WORDS = ('GNUMAKEFLAGS', 'MAKEFLAGS')

# A variable definition on make's command line: NAME=, NAME:=, NAME+= and so on
_DEFINITION = re.compile(r'([^\s=:+?!-][^\s=:+?!]*)(?::{0,3}|[+?!])=.*', re.DOTALL)

# A word of MAKEFLAGS; a backslash keeps white space in it
_MAKE_WORD = re.compile(r'(?:\\.|[^\s\\])+', re.DOTALL)

# The folder we were called in is not the one that make runs in
_STALE = frozenset(('OLDPWD', 'PWD', '_'))

# Variables that compilers, and what stands before them, read by themselves; what the
# tree reads is found out from the tree, see `build.outside`
_BUILD_INPUTS = re.compile(
    r'CCACHE_(?!BASEDIR$|DIR$|CONFIGPATH$|TEMPDIR$)\w+|DISTCC_\w+|SOURCE_DATE_EPOCH')

# What make_environment() sets, besides HOME and PATH
_OURS = frozenset(('CROSS_COMPILE', 'DTC', 'HOME', 'LC_ALL', 'PATH', *_MAKE_WORDS))

# Programs that run a compiler when called by its name
_STAND_INS = frozenset(('ccache', 'distcc', 'icecc', 'sccache'))

# The key of [make-flags] that is for all boards
ALL_BOARDS = '*'

# Names of variables in [make-flags]
_VARIABLE = re.compile(r'\$\{([-_a-zA-Z0-9]+)\}')

# One of the pairs in `out-env`, which have nothing in between
_PAIR = re.compile(r'([A-Za-z_]\w*)="(.*?)"(?=[A-Za-z_]\w*="|\Z)', re.DOTALL)

_ADJUSTMENT = re.compile(r'(~?)(?:CONFIG_)?([A-Z0-9_]+)(=.*)?', re.DOTALL)


# -- environment -----------------------------------------------------------

def make_environment(toolchain: Toolchain, settings: Settings, base_env: Mapping[str, str],
                     work_dir: str = '') -> Dict[str, str]:
    """Return the environment that a make runs with.

    Args:
        toolchain: compiler to use
        settings: how to build
        base_env: environment to start from, usually os.environ
        work_dir: folder below which the slots build; objects are shared
            between slots by ccache when it is given

    Raises:
        SetupError: ccache or dtc is asked for and not installed
    """
    env = {name: value for name, value in base_env.items()
           if name not in DROPPED and name not in _STALE
           and not name.startswith(('LANG', 'LC_'))}
    env.update(make_definitions(base_env))
    path = env.get('PATH', os.defpath)
    # Messages are compared between machines, so they must be in one language
    # and with the same quotes. U-Boot's Makefile removes LC_ALL for its children.
    env['LC_ALL'] = 'C'
    env['LANG'] = 'C.UTF-8'
    if toolchain.cross:
        env['CROSS_COMPILE'] = cross_compile(toolchain, settings)
    elif settings.ccache and not toolchain.override:
        env['CROSS_COMPILE'] = 'ccache '
    if not settings.full_path and not toolchain.override:
        env['PATH'] = _search_path(toolchain, path)
    if settings.ccache:
        if not shutil.which('ccache', path=path):
            raise SetupError('--ccache: ccache is not installed')
        if work_dir:
            env['CCACHE_BASEDIR'] = work_dir
    if settings.dtc_skip:
        dtc = shutil.which('dtc', path=path)
        if not dtc:
            raise SetupError('--dtc-skip: dtc is not installed '
                             '(Debian: apt install device-tree-compiler)')
        env['DTC'] = dtc
    return env


def make_definitions(env: Mapping[str, str]) -> Dict[str, str]:
    """Return what is left of MAKEFLAGS and GNUMAKEFLAGS: the definitions of variables.

    `MAKEFLAGS='FOO=1 -j4'` is a way of saying `make FOO=1` to every make below. Flags
    are between a make and its own children, above all those about jobs; what decides
    where a build goes and with which compiler is for us.

    Args:
        env: environment to take them from
    """
    found: Dict[str, str] = {}
    for name in _MAKE_WORDS:
        words = [word for word in _MAKE_WORD.findall(env.get(name, ''))
                 for match in [_DEFINITION.fullmatch(word)]
                 if match and match.group(1) not in DROPPED]
        if words:
            found[name] = ' '.join(words)
    return found


def hide_folders(env: Dict[str, str], folders: Sequence[Tuple[str, str]],
                 arch: str = '') -> Dict[str, str]:
    """Keep the folders of a slot out of debug information.

    Their lengths would show in the section sizes of `*.objdump`, so the same
    board would differ from slot to slot and machine to machine. KCPPFLAGS, as
    it reaches both C and assembler and -E uses KCFLAGS. sandbox is linked by
    the compiler, without these flags: with LTO, which compiles when it links,
    the folder comes in there. PLATFORM_LIBS reaches that command; for other
    archs it may go to the linker itself, which does not know the flag.

    Args:
        env: gets what does that
        folders: (folder, what to show instead)
        arch: of the board

    Returns:
        the values that results are to show instead of the new ones, '' for a
        variable that was not there
    """
    pairs = [*folders, *((os.path.realpath(path), name) for path, name in folders)]
    if any(re.search(r'[^\w./+@%:,-]', path) for path, _ in pairs):
        # make would take such a path apart
        return {}
    maps = dict.fromkeys(f'-fdebug-prefix-map={path}={name}' for path, name in pairs)
    names = ['KCPPFLAGS', *(['PLATFORM_LIBS'] if arch == 'sandbox' else [])]
    shown = {name: env.get(name, '') for name in names}
    for name, old in shown.items():
        env[name] = ' '.join([*([old] if old else []), *maps])
    return shown


def cross_compile(toolchain: Toolchain, settings: Settings) -> str:
    """Return the value of CROSS_COMPILE: wrappers and prefix."""
    words = ['ccache'] if settings.ccache else []
    if toolchain.wrapper:
        words.append(toolchain.wrapper)
    words.append(os.path.join(toolchain.path, toolchain.cross) if settings.full_path
                 else toolchain.cross)
    return ' '.join(words)


def cross_prefix(toolchain: Toolchain) -> str:
    """Return what stands before 'nm', 'size' and so on, with the folder; '' for the host."""
    return os.path.join(toolchain.path, toolchain.cross) if toolchain.cross else ''


def _search_path(toolchain: Toolchain, path: str) -> str:
    """Return PATH such that the prefix alone finds the compiler that was chosen.

    Its folder goes to the end, so that it hides nothing; unless a folder on
    PATH has another compiler of that name, then it goes before that one.
    """
    name = toolchain.cross + 'gcc'
    if os.path.basename(toolchain.gcc) != name:
        return path
    folders = path.split(os.pathsep)
    for pos, folder in enumerate(folders):
        found = os.path.join(folder, name)
        if os.path.isabs(folder) and os.path.isfile(found) and os.access(found, os.X_OK):
            real = os.path.realpath(found)
            # ccache and the like stand in for compilers under their names
            if real != os.path.realpath(toolchain.gcc) and os.path.basename(real) not in _STAND_INS:
                return os.pathsep.join([*folders[:pos], toolchain.path, *folders[pos:]])
            if not toolchain.cross:
                return path
            break
    return f'{path}{os.pathsep}{toolchain.path}'


def portable_environment(env: Mapping[str, str], inputs: Collection[str]) -> Dict[str, str]:
    """Return the variables that a build depends on and that any machine should get.

    These are what the boss sends to a worker; the others belong to the machine
    or to the person, and may be secret. What a make never gets does not travel.

    Args:
        env: environment
        inputs: variables that the tree reads
    """
    return {**{name: value for name, value in env.items()
               if (name in inputs or _BUILD_INPUTS.fullmatch(name)) and name not in DROPPED},
            **make_definitions(env)}


# -- words -----------------------------------------------------------------

def make_arguments(toolchain: Toolchain, settings: Settings, make_args: Sequence[str] = (),
                   jobs: int = 0) -> List[str]:
    """Return the words that each make gets between O= and its targets.

    Args:
        toolchain: compiler to use
        settings: how to build
        make_args: words from [make-flags]
        jobs: -j; 0 leaves it out, for a make that has a job server
    """
    words = ['V=1' if settings.verbose_build else '-s']
    if jobs:
        words += ['-j', str(jobs)]
    # For link-time optimisation, which does not ask the job server
    words.append(f'NPROC={jobs or 1}')
    if settings.warnings_as_errors:
        words += ['KCFLAGS=-Werror', 'HOSTCFLAGS=-Werror']
    if settings.allow_missing:
        words.append('BINMAN_ALLOW_MISSING=1')
    if settings.no_lto:
        words.append('NO_LTO=1')
    if settings.reproducible_builds:
        words.append('SOURCE_DATE_EPOCH=0')
    if settings.ccache and not toolchain.override:
        words.append('HOSTCC=ccache gcc')
    words += make_args
    if toolchain.override:
        prefix = 'ccache ' if settings.ccache else ''
        words += [f'HOSTCC={prefix}{toolchain.override}', f'CC={prefix}{toolchain.override}']
    return words


def host_words(words: Sequence[str], env: Mapping[str, str]) -> List[str]:
    """Return what decides how programs for the host are built.

    Args:
        words: what make is told
        env: its environment
    """
    return [*(word for word in words if word.startswith('HOST')),
            *(f'{name}={value}' for name, value in sorted(env.items())
              if name.startswith('HOST') or name in ('PYTHON3', *_MAKE_WORDS))]


def make_flags(target: str, settings: configparser.ConfigParser) -> Tuple[str, ...]:
    """Return the words that [make-flags] adds to the make commands of a board.

    `${name}` stands for another value in the section, `${target}` for the
    board; one that is not there is empty. Words are split at white space,
    quotes keep it; a backslash and `~` are themselves. Those of the key `*` are
    for all boards; they come first, so that those of the board win.

    Args:
        target: name of the board
        settings: configuration to look in

    Raises:
        UsageError: a value is made of itself, or a quote is not closed
    """
    return (*_flags_of(ALL_BOARDS, target, settings), *_flags_of(target, target, settings))


def _flags_of(key: str, target: str, settings: configparser.ConfigParser) -> Tuple[str, ...]:
    """Return the words that one key of [make-flags] adds for a board"""
    section = 'make-flags'
    if not settings.has_option(section, key):
        return ()

    def expand(text: str, within: Tuple[str, ...]) -> str:
        def value(match: 're.Match[str]') -> str:
            name = match.group(1)
            if name == 'target' and not settings.has_option(section, name):
                return target
            if name in within:
                raise UsageError(f"[{section}] '{within[0]}': ${{{name}}} is made of itself")
            return expand(settings.get(section, name, fallback='') or '', (*within, name))
        return _VARIABLE.sub(value, text)

    text = expand(settings.get(section, key) or '', (key,))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ''
    lexer.escape = ''
    try:
        return tuple(lexer)
    except ValueError as exc:
        raise UsageError(f"[{section}] '{key}': {str(exc).lower()} in {text!r}") from exc


# -- record ----------------------------------------------------------------

def toolchain_file(toolchain: Toolchain, return_code: int = 0) -> bytes:
    """Return what the file `toolchain` of a result holds.

    Four lines, then the exit status of the build without a newline.
    """
    gcc = toolchain.override or toolchain.gcc
    return (f'gcc {gcc}\npath {toolchain.path}\ncross {toolchain.cross}\n'
            f'arch {toolchain.arch}\n{return_code}').encode('utf-8', 'surrogateescape')


def out_env_file(env: Mapping[str, str], inputs: Collection[str] = ()) -> bytes:
    """Return what the file `out-env` of a result holds.

    NAME="value" in the order of names, with nothing in between, as upstream
    writes it. What a build does not depend on is left out: it would differ
    between machines, and a result tree is no place for somebody's passwords. So
    is what is meant for ccache: it may hold a password, and changes no result.

    Args:
        env: environment of make
        inputs: variables that builds depend on: those that the tree reads, and what
            the configuration names
    """
    return ''.join(f'{name}="{env[name]}"' for name in sorted(env)
                   if (name in _OURS or name in inputs or _BUILD_INPUTS.fullmatch(name))
                   and not name.startswith('CCACHE_')).encode(
                       'utf-8', 'surrogateescape')


def read_out_env(data: bytes) -> Dict[str, str]:
    """Return the variables that a file `out-env` holds."""
    return dict(_PAIR.findall(data.decode('utf-8', 'surrogateescape')))


# -- configuration ---------------------------------------------------------

def parse_adjustments(words: Sequence[str], reproducible: bool = False) -> Tuple[str, ...]:
    """Return the settings that -a asks for, one each, without 'CONFIG_'.

    Each word may hold several, separated by commas (not within quotes):
    `X` switches on, `~X` off, `X=value` sets. The last one for an option holds.

    Args:
        words: the values of -a
        reproducible: -r: leave the commit out of the version, unless asked for

    Raises:
        UsageError: one cannot be understood
    """
    found: Dict[str, str] = {}
    for word in words:
        for item in re.findall(r'(?:[^,"]|"[^"]*"|")+', word):
            if not item.strip():
                continue
            match = _ADJUSTMENT.fullmatch(item.strip())
            if not match or '\n' in item or (match.group(1) and match.group(3)):
                raise UsageError(f"-a: cannot understand '{item.strip()}': use X, ~X or X=value")
            found.pop(match.group(2), None)
            found[match.group(2)] = match.group(1) + match.group(2) + (match.group(3) or '')
    if reproducible:
        found.setdefault('LOCALVERSION_AUTO', '~LOCALVERSION_AUTO')
    return tuple(found.values())


def adjustments(settings: Settings) -> Tuple[str, ...]:
    """Return what is to be changed in the configuration."""
    wanted = settings.adjust_cfg
    if settings.reproducible_builds and not any('LOCALVERSION_AUTO' in item for item in wanted):
        # The hash of the commit in an image is not reproducible by others
        return (*wanted, '~LOCALVERSION_AUTO')
    return wanted


def wanted_line(item: str) -> Tuple[str, str]:
    """Return (option, line in .config) for one setting of -a."""
    match = _ADJUSTMENT.fullmatch(item)
    if not match:
        raise UsageError(f"-a: cannot understand '{item}': use X, ~X or X=value")
    off, name, value = match.groups()
    if off or value == '=n':
        return name, f'# CONFIG_{name} is not set'
    return name, f'CONFIG_{name}{value or "=y"}'


def _find_line(lines: Sequence[str], name: str) -> Optional[int]:
    """Return where an option is set or said not to be set, None if nowhere."""
    regex = re.compile(rf'CONFIG_{name}=|# CONFIG_{name} is not set\s*$')
    return next((pos for pos, line in enumerate(lines) if regex.match(line)), None)


def adjust_config(text: str, adjust_cfg: Sequence[str]) -> str:
    """Return a .config or defconfig with settings changed or added.

    Args:
        text: the file
        adjust_cfg: settings, as parse_adjustments() returns them

    Raises:
        UsageError: a setting cannot be understood
    """
    lines = text.splitlines()
    for item in adjust_cfg:
        name, wanted = wanted_line(item)
        pos = _find_line(lines, name)
        if pos is None:
            lines.append(wanted)
        else:
            lines[pos] = wanted
    return '\n'.join(lines) + '\n'


def check_config(text: str, adjust_cfg: Sequence[str]) -> List[str]:
    """Return lines that say which settings Kconfig did not take; empty if all hold.

    An option that is not in the .config at all is one that is misspelt or
    cannot be reached. LOCALVERSION_AUTO is asked for by us with -r, and older
    trees do without it.

    Args:
        text: the .config after Kconfig has seen it
        adjust_cfg: settings, as parse_adjustments() returns them
    """
    lines = text.splitlines()
    problems = []
    for item in adjust_cfg:
        name, wanted = wanted_line(item)
        pos = _find_line(lines, name)
        if pos is None:
            if item != '~LOCALVERSION_AUTO':
                problems.append(f'{item:<21} Missing expected line: {wanted}')
        elif lines[pos].rstrip() != wanted:
            problems.append(f'{item:<21} {lines[pos].rstrip()}')
    if not problems:
        return []
    return ['', 'Some CONFIG adjustments did not take effect. This may be because',
            'the request CONFIGs do not exist or conflict with others.', '',
            'Failed adjustments:', '', *problems]


# -- for scripts -----------------------------------------------------------

def print_prefix_text(toolchains: Sequence[Toolchain]) -> str:
    """Return what -A prints: wrapper and prefix with its folder, '' for the host.

    Args:
        toolchains: the toolchain of each board

    Raises:
        ToolchainError: the boards need different ones
    """
    texts = {f'{tool.wrapper} {cross_prefix(tool)}' if tool.wrapper and tool.cross
             else cross_prefix(tool) for tool in toolchains}
    if len(texts) != 1:
        raise ToolchainError('Supplied boards must share one toolchain')
    return texts.pop()


def print_arch_text(arches: Sequence[str]) -> str:
    """Return what --print-arch prints.

    Args:
        arches: the arch of each board

    Raises:
        UsageError: the boards have different ones
    """
    if len(set(arches)) != 1:
        raise UsageError('Supplied boards must share one arch')
    return arches[0]
