# SPDX-License-Identifier: GPL-2.0+
"""The command line: every flag with its help, nothing else."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
from typing import Dict, List, NoReturn, Optional, Sequence, Tuple

from buildman import __version__
from buildman.core.errors import UsageError

# Long flags and spellings that upstream does not have. They must not make a prefix
# ambiguous that scripts use with upstream.
_ONLY_OURS = frozenset((
    '--against', '--annotate', '--budget', '--budget-update', '--check-carried', '--clean-workers',
    '--codequality', '--completion', '--demo', '--html', '--hunt', '--json', '--junit', '--known',
    '--man', '--merge', '--new-only', '--no-ccache', '--no-result-cache', '--reproduce',
    '--result-cache', '--retry', '--shard', '--show-errors', '--show-unknown', '--status',
    '--timeout', '--top', '--version'))


# More runners than anybody has
_MAX_SHARDS = 10_000


class _Parser(argparse.ArgumentParser):
    """A parser whose errors take the way of all others, and whose long flags may be cut"""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f'{message} (see --help)')

    def full_words(self, words: Sequence[str]) -> List[str]:
        """Return a command line with its long flags written in full.

        argparse would take our own flags into account, and its rules are not the
        same in all versions of Python.

        Args:
            words: up to, and without, '--'

        Raises:
            UsageError: a flag could be several
        """
        return [self._full_word(word) if word.startswith('--') else word for word in words]

    def has_flag(self, words: Sequence[str], flag: str) -> bool:
        """Return whether a flag without value is given, however, and whatever is wrong elsewhere.

        Args:
            words: up to, and without, '--'
            flag: its short form
        """
        for word in words:
            if word.startswith('--'):
                with contextlib.suppress(UsageError):
                    if flag in self._names(self._full_word(word)):
                        return True
            elif word.startswith('-'):
                for char in word[1:]:
                    if f'-{char}' == flag:
                        return True
                    action = self._option_string_actions.get(f'-{char}')
                    if not action or action.nargs != 0:
                        break
        return False

    def by_group(self) -> Dict[str, List[argparse.Action]]:
        """Return the title of each group of flags, and what is in it."""
        out: Dict[str, List[argparse.Action]] = {}
        for action in self._actions:
            group = action.container  # type: ignore[attr-defined]
            out.setdefault(group.title, []).append(action)
        return out

    def _names(self, word: str) -> Sequence[str]:
        """Return the spellings of the flag that a word is, none when it is none"""
        action = self._option_string_actions.get(word)
        return action.option_strings if action else ()

    def _full_word(self, word: str) -> str:
        """Return a word that begins with two dashes with the flag in full, if it is one"""
        flag, equals, value = word.partition('=')
        if any(char.isspace() for char in flag):
            # A value, as argparse sees it
            return word
        known = list(self._option_string_actions)
        for spelling in (flag, '--' + flag[2:].replace('_', '-')):
            if spelling in known:
                return spelling + equals + value
        fitting = [name for name in known if name.startswith(flag)]
        found = [name for name in fitting if name not in _ONLY_OURS] or fitting
        if len(found) > 1:
            raise UsageError(f"'{flag}' could be {', '.join(found[:-1])} or {found[-1]} "
                             '(see --help)')
        return found[0] + equals + value if found else word


def _count(text: str) -> int:
    """Parse a number that may not be negative"""
    try:
        val = int(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from exc
    if val < 0:
        raise argparse.ArgumentTypeError(f"'{text}' must be 0 or more")
    return val


def _commit_count(text: str) -> int:
    """Parse a number of at least 1, or -1 for no such limit"""
    val = -1 if text == '-1' else _count(text)
    if val == 0:
        raise argparse.ArgumentTypeError(f"'{text}' must be 1 or more")
    return val


def _slack(text: str) -> float:
    """Parse what a hunt is for: nothing more, or sizes from so many bytes on"""
    what, colon, number = text.partition(':')
    if text == 'outcome':
        return math.inf
    if what != 'size':
        raise argparse.ArgumentTypeError(
            f"'{text}' is unknown: it is --hunt, --hunt=size or --hunt=size:BYTES")
    return _count(number) if colon else 0


def _shard(text: str) -> Tuple[int, int, str]:
    """Parse K/N, perhaps with a folder"""
    part, _, folder = text.partition(':')
    match = re.fullmatch(r'\s*(\d{1,9})\s*/\s*(\d{1,9})\s*', part, re.ASCII)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count <= _MAX_SHARDS:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no shard: it is K/N, with K from 1 to N, or K/N:DIR"
            + (f' (N is {_MAX_SHARDS} at most)' if count > _MAX_SHARDS else ''))
    return number, count, folder


def _sample(text: str) -> Tuple[int, Optional[int]]:
    """Parse how many are chosen by chance, and the number that this follows from, if any"""
    count, gap, seed = text.partition(':')
    return _count(count), _count(seed) if gap else None


def _result(text: str) -> str:
    """Parse BOARD@COMMIT"""
    if not all(text.rpartition('@')):
        raise argparse.ArgumentTypeError(f"'{text}' names no result: it is BOARD@COMMIT")
    return text


def _repository(text: str) -> str:
    """Parse the name of a repository: DIR/.git is that of DIR"""
    path = os.path.normpath(text) if text else '.'
    return os.path.dirname(path) or '.' if os.path.basename(path) == '.git' else text or '.'


def _folder(text: str) -> Optional[str]:
    """Parse the name of a folder; an empty one, as of a variable that is not set, is none"""
    return text or None


def _named(text: str) -> str:
    """Parse a name without which something else would be done"""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"'{text}' names nothing (a variable that is not set?)")
    return text


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is built"""
    group = parser.add_argument_group('what to build')
    group.add_argument(
        'terms', nargs='*', metavar='TERM',
        help='regular expression over target, arch, cpu, board, vendor and soc; a board is '
             "built when any term matches; 'A & B' needs both")
    group.add_argument('--boards', action='append', metavar='A,B',
                       help='build just these boards, by exact name; may be repeated')
    group.add_argument('-x', '--exclude', action='append', metavar='A,B',
                       help='leave out boards that match; may be repeated')
    group.add_argument('-X', '--extend', action='store_true',
                       help="build the boards that configs/*.buildman adds, too: 'NAME,BASE', "
                            'a board with fragments on top of its defconfig')
    group.add_argument('-b', '--branch', type=_named, metavar='BRANCH',
                       help='build each commit of a branch from its upstream on, or of a '
                            'range A..B; without it, the source as it is in the folder')
    group.add_argument('-c', '--count', type=_commit_count, default=-1, metavar='N',
                       help='build only the newest N commits of the branch')
    group.add_argument('--step', type=_count, default=1, metavar='N',
                       help='build every Nth commit only; 0: just the first and the last')
    group.add_argument('--hunt', nargs='?', type=_slack, metavar='size[:N]',
                       help='find the commits that change outcome or errors of a board (=size: or '
                            'an image by more than N bytes): build the first and the last, then '
                            'halve what differs')
    group.add_argument('--shard', type=_shard, metavar='K/N[:DIR]',
                       help='build the Kth of N parts of the boards that take about as long, the '
                            'same ones on each machine; DIR: output folder that all have, with '
                            'how long builds took')
    group.add_argument('-g', '--git', type=_repository, default='.', metavar='DIR',
                       help='repository that holds the branch (default: this folder)')
    group.add_argument('--target', default='', metavar='T',
                       help='what make is told to make, instead of everything')
    group.add_argument('-R', '--regen-board-list', type=_named, metavar='FILE',
                       help='scan all boards and write their list to FILE (- for boards.cfg '
                            'in the output folder)')
    group.add_argument('--maintainer-check', action='store_true',
                       help='check that each board has a maintainer and each entry a board')
    group.add_argument('--full-check', action='store_true',
                       help='the same, and that each board sets one TARGET_ option')
    group.add_argument('--print-arch', action='store_true',
                       help='print the architecture of the boards (ARCH=) and end')


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Flags that change a build"""
    group = parser.add_argument_group('how to build')
    group.add_argument('-f', '--force-build', action='store_true',
                       help='build what is already built, too')
    group.add_argument('-F', '--force-build-failures', action='store_true',
                       help='build again what failed before')
    group.add_argument('-C', '--force-reconfig', action='store_true',
                       help='configure for every commit, not only for the first')
    group.add_argument('-Z', '--no-kconfig-check', dest='kconfig_check', action='store_false',
                       help='do not configure again when a Kconfig file or the defconfig changed')
    group.add_argument('-m', '--mrproper', action='store_true',
                       help="run 'make mrproper' before configuring")
    group.add_argument('--fallback-mrproper', action='store_true',
                       help="after a failure, run 'make mrproper' and try again")
    group.add_argument('--timeout', type=_count, default=0, metavar='SECONDS',
                       help='end the build of a board at a commit that takes longer; it has '
                            'failed then (0: no limit, the default)')
    group.add_argument('--retry', type=_count, default=0, metavar='N',
                       help='build what fails up to N times more, from nothing; what is good '
                            'then is told')
    group.add_argument('-Q', '--quick', action='store_true',
                       help='rough build: believe the first failure, try nothing again')
    group.add_argument('--config-only', action='store_true',
                       help='configure only, compile nothing')
    group.add_argument('-a', '--adjust-cfg', action='append', metavar='CFG',
                       help="change the configuration: 'X' or 'X=val' sets, '~X' unsets; "
                            'separated by commas; may be repeated')
    group.add_argument('--fragments', metavar='A,B',
                       help='configuration fragments to apply on top of each defconfig')
    group.add_argument('-L', '--no-lto', action='store_true',
                       help='build without link-time optimisation')
    group.add_argument('-M', '--allow-missing', dest='allow_missing', action='store_const',
                       const=True, help='tell binman that blobs may be missing '
                                        '(BINMAN_ALLOW_MISSING=1)')
    group.add_argument('--no-allow-missing', dest='allow_missing', action='store_const',
                       const=False, help='do not, whatever the configuration says')
    group.add_argument('-V', '--verbose-build', action='store_true',
                       help="run make with V=1 and keep all that it prints in 'log'")
    group.add_argument('-E', '--warnings-as-errors', action='store_true',
                       help='treat compiler warnings as errors')
    group.add_argument('-r', '--reproducible-builds', action='store_true',
                       help='build with SOURCE_DATE_EPOCH=0, so that images do not depend on '
                            'the time')
    group.add_argument('--dtc-skip', action='store_true',
                       help="use the system's dtc instead of building one for each board")
    group.add_argument('--shared-dtc', action='store_true',
                       help='build dtc and pylibfdt once, for all boards')
    group.add_argument('--ccache', action='store_const', const=True,
                       help='use ccache for the cross and host compilers (the default where '
                            'it has most boards from earlier runs or three of each SoC are '
                            'built, and no machines take part)')
    group.add_argument('--no-ccache', dest='ccache', action='store_const', const=False,
                       help='do not')
    group.add_argument('--no-skip-unaffected', dest='skip_unaffected', default=True,
                       action='store_false',
                       help='build every commit for every board, also where the commit changes '
                            'nothing that the last build of the board read')
    group.add_argument('--skip-unaffected', dest='skip_unaffected', default=True,
                       action='store_true',
                       help='carry the result forward there (the default)')
    group.add_argument('--result-cache', type=_named, metavar='DIR',
                       help='take results of other commits, branches and people from this '
                            'folder, too, and keep those of this run there')
    group.add_argument('--check-carried', type=_sample, metavar='N[:SEED]',
                       help='build N of the carried results all the same, chosen by chance, and '
                            'compare; SEED, which is told, chooses the same again')
    group.add_argument('--no-result-cache', action='store_true',
                       help='build all that this branch has no result of, whatever results '
                            'of other commits there are')


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Flags about folders and resources"""
    group = parser.add_argument_group('where, and with how much')
    group.add_argument('-o', '--output-dir', type=_folder, default=None, metavar='DIR',
                       help='folder for results and work (default: ..)')
    group.add_argument('--merge', nargs='+', action='extend', metavar='DIR',
                       help='put the results of other output folders, those of shards say, into '
                            'the output folder, and end')
    group.add_argument('-k', '--keep-outputs', action='store_true',
                       help='keep the images that were built, not only what is said of them')
    group.add_argument('-w', '--work-in-output', action='store_true',
                       help='build a single board right in the output folder; with -i and without '
                            '-o: in the source folder')
    group.add_argument('-i', '--in-tree', action='store_true',
                       help='build in the source of the slot; without -b in the folder of the '
                            'slot, as the source is yours')
    group.add_argument('-N', '--no-subdirs', action='store_true',
                       help="put the results in the output folder itself, without a folder for "
                            "the branch (or 'current')")
    group.add_argument('-P', '--per-board-out-dir', action='store_true',
                       help='keep a build folder (O=) for each board, not for each thread')
    group.add_argument('-T', '--threads', type=_count, default=None, metavar='N',
                       help='build N boards at once (default: one for each processor)')
    group.add_argument('-j', '--jobs', type=_count, default=None, metavar='N',
                       help='give each make N jobs of its own, instead of all makes sharing '
                            'the processors (0: do not)')
    group.add_argument('--process-limit', type=_count, default=0, metavar='N',
                       help='wait until fewer than N buildmans run on this machine (0: do not)')


def _add_toolchain(parser: argparse.ArgumentParser) -> None:
    """Flags about compilers"""
    group = parser.add_argument_group('toolchains')
    group.add_argument('--list-tool-chains', action='store_true',
                       help='list the toolchains that were found (-v: how) and end')
    group.add_argument('--fetch-arch', action='append', metavar='ARCH',
                       help="download toolchains from kernel.org: names, 'all', or 'list'")
    group.add_argument('-A', '--print-prefix', action='store_true',
                       help='print the toolchain prefix for the boards (CROSS_COMPILE=) and end')
    group.add_argument('-p', '--full-path', action='store_true',
                       help='use the full path of the toolchain in CROSS_COMPILE')
    group.add_argument('-O', '--override-toolchain', metavar='CC',
                       help="compiler for sandbox, e.g. 'clang-14' or 'gcc -g'")


def _add_summary(parser: argparse.ArgumentParser) -> None:
    """Flags of the summary"""
    group = parser.add_argument_group('summary')
    for short, long, text in (
            ('-s', '--summary', 'show what changed from commit to commit; build nothing'),
            ('-z', '--build-summary', 'build, then show the summary'),
            ('-e', ('--show_errors', '--show-errors'), 'show errors and warnings'),
            ('-l', '--list-error-boards', 'name the boards of each error and warning'),
            ('-S', '--show-sizes', 'show how image sizes changed'),
            ('-d', '--detail', 'with -S, show each board'),
            ('-B', '--bloat', 'with -S, show each function'),
            ('-K', '--show-config', 'show how configurations changed'),
            ('-U', '--show-environment', 'show how default environments changed'),
            ('-u', ('--show_unknown', '--show-unknown'), 'show boards without a result'),
            ('-y', '--filter-dtb-warnings', 'leave out warnings of the device tree compiler'),
            ('-Y', '--filter-migration-warnings', 'leave out warnings about migration'),
            ('-I', '--ide', 'print only what compilers say, as an IDE can parse it')):
        words = (long,) if isinstance(long, str) else long
        group.add_argument(short, *words, action='store_true', help=text)
    group.add_argument('--lines', action='store_true',
                       help='find out which lines of the source each build compiles; with -s, '
                            'show how that changed (builds from nothing, without link-time '
                            'optimisation)')
    group.add_argument('--lines-debug', action='store_true',
                       help='the same, with CC_OPTIMIZE_FOR_DEBUG set; images may become too large')
    group.add_argument('--lines-code', action='store_true',
                       help='the same, and with -s show the text of these lines')
    group.add_argument('--preserve-config-y', action='store_true',
                       help="with -K, show 'y' as it is, not as 1")
    group.add_argument('--show-not-built', action='store_true',
                       help='name the boards that were not built at a commit')
    group.add_argument('--against', type=_named, metavar='DIR|BRANCH',
                       help='with -s, compare with the results in another output folder, or of '
                            'another branch, not with the commit before')
    group.add_argument('--json', type=_named, metavar='FILE', help='write the summary as JSON')
    group.add_argument('--junit', type=_named, metavar='FILE',
                       help='write the results as JUnit XML, for CI servers')
    group.add_argument('--html', type=_named, metavar='FILE',
                       help='write all of it as one page for a browser: boards and commits, like '
                            'errors, sizes, machines')
    group.add_argument('--reproduce', type=_result, metavar='BOARD@COMMIT',
                       help='print the shell lines that build one result by hand, with the same '
                            'images; COMMIT is a number as in the summary, or a hash')
    group.add_argument('-W', '--ignore-warnings', action='store_true',
                       help='exit with 0 although there are warnings')


def _add_gate(parser: argparse.ArgumentParser) -> None:
    """Flags for CI: what counts, and where it is told"""
    group = parser.add_argument_group('in CI, after a build (-b) or with -s')
    group.add_argument('--new-only', action='store_true',
                       help='let the exit status count only what is worse than at the first '
                            'commit, which is the upstream one')
    group.add_argument('--known', type=_named, metavar='FILE',
                       help='do not count what the lines of FILE know, each until a date: '
                            "'BOARD | TEXT | until YYYY-MM-DD | WHY'")
    group.add_argument('--annotate', choices=('github',), metavar='github',
                       help='tell what is new against the commit before as annotations for '
                            'GitHub, and in its summary')
    group.add_argument('--codequality', type=_named, metavar='FILE',
                       help="write all complaints at the last commit as GitLab's code quality")
    group.add_argument('--budget', type=_named, metavar='FILE',
                       help='fail if a board is larger than FILE says: lines of '
                            "'BOARD IMAGE REGION LIMIT'")
    group.add_argument('--budget-update', action='store_true',
                       help='write the sizes that there are into the file of --budget')


def _add_dist(parser: argparse.ArgumentParser) -> None:
    """Flags of the distributed mode"""
    group = parser.add_argument_group('several machines')
    group.add_argument('--dist', '--distribute', dest='dist', action='store_true',
                       help='build on the machines of [machines], too')
    group.add_argument('--use-machines', metavar='A,B',
                       help='use just these machines (implies --dist)')
    group.add_argument('--no-local', action='store_true',
                       help='with --dist: build nothing on this machine')
    group.add_argument('--mach', '--machines', dest='machines', action='store_true',
                       help='probe all machines and show what they are and have')
    group.add_argument('--machines-fetch-arch', action='store_true',
                       help='download the toolchains that machines lack (implies --mach)')
    group.add_argument('--kill-workers', action='store_true',
                       help='end all workers on all machines, left over or not, and free their '
                            'locks')
    group.add_argument('--clean-workers', action='store_true',
                       help='remove the work folder on all machines')
    group.add_argument('--machines-buildman-path', metavar='PATH',
                       help='without effect: machines run the buildman that is sent to them')
    group.add_argument('--worker', action='store_true',
                       help='be a worker: take commands from stdin (started by --dist)')


def make_parser() -> _Parser:
    """Return the parser for the whole command line."""
    parser = _Parser(
        prog='buildman', allow_abbrev=False,
        description='Build U-Boot for many boards, at each commit of a branch, on one or '
                    'many machines, and show which commit broke what.')
    _add_what(parser)
    _add_how(parser)
    _add_where(parser)
    _add_toolchain(parser)
    _add_summary(parser)
    _add_gate(parser)
    _add_dist(parser)
    group = parser.add_argument_group('the program itself')
    group.add_argument('-n', '--dry-run', action='store_true',
                       help='say what would be done, and do nothing')
    group.add_argument('--top', action='store_true',
                       help='show the machines and what failed while it builds, on a terminal')
    group.add_argument('--status', type=_named, metavar='FILE',
                       help='write how it is as JSON, anew each second while it builds')
    group.add_argument('-v', '--verbose', action='store_true',
                       help='say more: results as they come, boards of a dry run')
    group.add_argument('-G', '--config-file', default='', metavar='FILE',
                       help='configuration (default: ~/.buildman)')
    group.add_argument('-H', '--full-help', action='store_true', help='show the README')
    group.add_argument('--man', action='store_true', help='print the manual page (| man -l -)')
    group.add_argument('--completion', choices=('bash', 'zsh', 'fish'),
                       help='print what lets a shell complete the command line, boards and '
                            'branches as well')
    group.add_argument('--version', action='version', version=f'buildman {__version__}',
                       help='show the version and end')
    group.add_argument('-t', '--test', action='store_true',
                       help='run the tests of buildman, or those that the terms name')
    group.add_argument('--coverage', action='store_true',
                       help='the same, and show how much of the code they run (needs the '
                            "program 'coverage')")
    group.add_argument('--skip-net-tests', action='store_true',
                       help='leave out tests that need the network; there are none')
    group.add_argument('-D', '--debug', action='store_true',
                       help='show a full traceback on errors')
    group.add_argument('--demo', nargs='?', const='', metavar='DIR',
                       help='build a small sample tree in a temporary folder (or DIR)')
    return parser


def parse(argv: Sequence[str], args: Optional[argparse.Namespace] = None) -> argparse.Namespace:
    """Parse a command line.

    Args:
        argv: without the name of the program
        args: gets what it says, and `debug` in any case; None: a new one

    Raises:
        UsageError: a flag is unknown or ambiguous, lacks its value, or needs another
            one
        SystemExit: --help or --version was given
    """
    parser = make_parser()
    words = list(argv)
    # What comes after '--' are terms, whatever they begin with
    end = words.index('--') if '--' in words else len(words)
    args = args or argparse.Namespace()
    args.debug = parser.has_flag(words[:end], '-D')
    # What follows --hunt is a term, unless there is a '='
    parser.parse_intermixed_args([word + '=outcome' if word == '--hunt' else word
                                  for word in parser.full_words(words[:end])], args)
    args.terms += words[end + 1:]
    if args.reproduce and not (args.boards or args.terms):
        args.boards = [args.reproduce.rpartition('@')[0]]
    if args.budget_update and not args.budget:
        raise UsageError('--budget-update needs --budget FILE, the file to write')
    if args.new_only and not args.branch:
        raise UsageError('--new-only needs -b: the source as it is in the folder has no commit '
                         'to compare with')
    if args.use_machines:
        args.dist = True
    if args.lines_debug or args.lines_code:
        args.lines = True
    if args.machines_fetch_arch:
        args.machines = True
    if args.no_local and args.check_carried:
        raise UsageError('--check-carried builds on this machine: it cannot go with --no-local')
    if args.no_local and not (args.dist or args.machines or args.kill_workers
                              or args.clean_workers):
        raise UsageError('--no-local requires --dist (or --use-machines)')
    if args.against:
        if not args.summary:
            raise UsageError('--against needs -s: it compares results that are there')
        if args.new_only or args.annotate or args.hunt is not None:
            raise UsageError('--against goes with neither --new-only, --annotate nor --hunt, which '
                             'compare with the commit before')
    if args.status and args.summary:
        raise UsageError('--status tells how a build is: it cannot go with -s, which builds '
                         'nothing')
    if args.merge and args.dry_run:
        raise UsageError('--merge copies what there is: it cannot go with -n')
    if args.merge and args.output_dir is None:
        raise UsageError('--merge needs -o DIR, the folder to put the results into')
    if args.hunt is not None and not args.branch:
        raise UsageError('--hunt requires -b: it looks for commits of a branch')
    return args
