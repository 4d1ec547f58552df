#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Build the same boards and commits with another buildman and with this one, and
compare the two result trees file by file.

Usage: compare_tree.py [--other BUILDMAN] [--repo DIR --branch NAME --boards A,B]

Without --repo the sample tree is built, with all its boards. Both build into
fresh folders and with -r, so that images do not depend on the time. Differences
that have a known reason are counted with that reason; any other is shown, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, Optional, Tuple

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, os.path.join(TOP, 'tools'))

from buildman.demo import sample

OURS = os.path.join(TOP, 'tools', 'buildman', 'buildman')

# Lines of a failed make that depend on which other jobs were running
_UNFINISHED = re.compile(rb'^make(\[\d+\])?: \*\*\* Waiting for unfinished jobs\.*\n?', re.M)

# What is said of the jobs that a link may start
_SERIAL_LTO = re.compile(rb'^lto-wrapper: (?:warning: using serial compilation'
                         rb'|note: see the) .*\n?', re.M)
_SERIAL_LTO_WHY = 'err: theirs tells how few jobs the link had'

Reasons = Dict[str, int]


def read_tree(top: str) -> Dict[str, bytes]:
    """Return the results below a folder: COMMIT/BOARD/FILE to content."""
    files: Dict[str, bytes] = {}
    for commit in sorted(os.listdir(top)):
        if not re.match(r'\d+_g', commit):
            continue
        for folder, _, names in os.walk(os.path.join(top, commit)):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, 'rb') as inf:
                    files[os.path.relpath(path, top)] = inf.read()
    return files


def without_up(data: bytes) -> bytes:
    """Return messages with `../` taken from the front of paths."""
    return re.sub(rb'(?<![\w./-])\.\./(?=\w)', b'', data)


def same_words(theirs: bytes, ours: bytes) -> bool:
    """Return whether the commands are the same but for the number of jobs, and ours
    has those that configure although theirs left them out."""
    def tidy(data: bytes) -> List[bytes]:
        return [re.sub(rb' -j \d+| NPROC=\d+', b'', line) for line in data.splitlines()]
    return tidy(theirs) == tidy(ours) or (
        len(tidy(theirs)) < len(tidy(ours)) and tidy(theirs) == tidy(ours)[-len(tidy(theirs)):])


def env_pairs(data: bytes) -> Dict[bytes, bytes]:
    """Return the variables of an out-env file."""
    return dict(re.findall(rb'([A-Za-z_]\w*)="(.*?)"(?=[A-Za-z_]\w*="|\Z)', data, re.S))


def without_debug(data: bytes) -> List[Tuple[bytes, bytes]]:
    """Return names and sizes of the sections that `objdump -h` lists, less debug ones."""
    return [(name, size) for name, size in re.findall(
        rb'^ *\d+ (\S+) +([0-9a-f]{8,}) ', data, re.M) if not name.startswith(b'.debug_')]


def explain_err(theirs: bytes, ours: bytes) -> Optional[str]:
    """Return why two `err` files differ, None if that is not known"""
    if without_up(theirs) == ours:
        return "err: ours has paths from the source's top, theirs from the build folder"
    if _SERIAL_LTO.sub(b'', without_up(theirs)) == ours:
        return _SERIAL_LTO_WHY
    left, right = (sorted(set(_UNFINISHED.sub(b'', without_up(text)).splitlines()))
                   for text in (theirs, ours))
    if left == right:
        return 'err: the same lines in another order, or unfinished jobs (parallel make)'
    if set(left) < set(right):
        return 'err: theirs lacks messages of files that it did not compile this time'
    # How far make's other jobs come after an error is a matter of chance
    errors = [{line for line in lines if b'error:' in line or b'*** [' in line}
              for lines in (left, right)]
    if errors[0] & errors[1] and (errors[0] >= errors[1] or errors[1] >= errors[0]):
        return 'err: the same failure; other jobs of the make came further with one of them'
    return None


def explain(name: str, theirs: bytes, ours: bytes, failed: bool) -> Optional[str]:
    """Return why a file differs between the two trees, None if that is not known."""
    if name == 'log' and theirs.replace(b'\r\n', b'\n') == ours:
        return 'log: theirs comes from a terminal (CR LF)'
    if name == 'out-cmd' and same_words(theirs, ours):
        return 'out-cmd: ours shares a job server (no -j) and has all commands for a new folder'
    if name == 'out-env':
        left, right = env_pairs(theirs), env_pairs(ours)
        if right.keys() <= left.keys() and all(
                left[key] == val or key == b'PATH' for key, val in right.items()):
            return 'out-env: ours has only what builds depend on'
    if name == 'err':
        return explain_err(theirs, ours)
    if name.endswith('.objdump') and without_debug(theirs) == without_debug(ours):
        return 'objdump: ours keeps the folder of the slot out of debug information'
    if name == 'toolchain' and theirs.splitlines()[1:] == ours.splitlines()[1:]:
        return 'toolchain: another spelling of the same compiler'
    return None


def explain_missing(path: str, who: str, theirs: Dict[str, bytes],
                    ours: Dict[str, bytes]) -> Optional[str]:
    """Return why a file is in one tree only (`who` has it), None if not known."""
    folder, name = os.path.split(path)
    done = os.path.join(folder, 'done')
    if who == 'theirs' and theirs.get(done, b'') == b'2\n' and done not in ours:
        return 'a board without toolchain: theirs has a folder with `done`, ours names it instead'
    config_failed = b'_defconfig\n' in theirs.get(os.path.join(folder, 'out-cmd'), b'')[-40:]
    if who == 'theirs' and config_failed and theirs.get(done) != b'0' and (
            'cfg' in name or 'autoconf' in name or name == '.config'):
        return 'a failure to configure: theirs keeps files of the board built before'
    config = ours.get(os.path.join(folder, '.config'), b'')
    if who == 'theirs' and '-spl' in name and config and b'\nCONFIG_SPL=y\n' not in config:
        return 'a board without SPL: theirs keeps files of the board built before'
    if who == 'theirs' and name == 'err' and not _SERIAL_LTO.sub(b'', theirs[path]):
        return _SERIAL_LTO_WHY
    if who == 'ours' and name in ('settings', 'trace'):
        return f'{name}: theirs notes no such thing of a result'
    if who == 'ours' and name == 'err':
        return 'err: theirs lacks messages of files that it did not compile this time'
    if name == 'uboot.env' and who == 'theirs' and theirs.get(done) != b'0':
        return 'uboot.env: ours has none for a board that failed'
    if name == 'uboot.env' and who == 'ours':
        return 'uboot.env: ours finds it in trees with env/common.o, too'
    return None


def config_mistakes(repo: str, commit: str, board: str, config: bytes) -> int:
    """Return how many lines of a board's defconfig are not in its configuration."""
    text = subprocess.run(['git', 'show', f'{commit}:configs/{board}_defconfig'], cwd=repo,
                          capture_output=True, check=False).stdout
    have = set(config.splitlines())
    return sum(line.startswith(b'CONFIG_') and line not in have for line in text.splitlines())


def not_configured(repo: str, folder: str, theirs: Dict[str, bytes],
                   ours: Dict[str, bytes]) -> bool:
    """Return whether theirs has the configuration of an earlier commit for a board."""
    match = re.match(r'\d+_g([0-9a-f]+)', folder)
    path = os.path.join(folder, '.config')
    if not match or path not in theirs or path not in ours or theirs[path] == ours[path]:
        return False
    left, right = (config_mistakes(repo, match.group(1), os.path.basename(folder), files[path])
                   for files in (theirs, ours))
    return left > right


def compare(repo: str, top_theirs: str, top_ours: str) -> Tuple[Reasons, List[str]]:
    """Compare two trees.

    Returns:
        (reason -> number of files, differences that nothing explains)
    """
    theirs, ours = read_tree(top_theirs), read_tree(top_ours)
    known: Reasons = collections.Counter()
    unknown: List[str] = []
    for path in sorted(theirs.keys() | ours.keys()):
        name = os.path.basename(path)
        one, two = theirs.get(path), ours.get(path)
        if one == two:
            known['equal'] += 1
            continue
        if one is None or two is None:
            who = 'ours' if one is None else 'theirs'
            reason = explain_missing(path, who, theirs, ours)
            text = f'only in {who}: {path}'
        else:
            failed = theirs.get(os.path.join(os.path.dirname(path), 'done')) != b'0'
            reason = explain(name, one, two, failed)
            text = path + '\n' + '\n'.join(list(difflib.unified_diff(
                one.decode('utf-8', 'replace').splitlines(),
                two.decode('utf-8', 'replace').splitlines(), 'theirs', 'ours',
                lineterm='', n=0))[:20])
        if not reason and not_configured(repo, os.path.dirname(path), theirs, ours):
            reason = 'theirs was not configured again although the defconfig changed'
        if reason:
            known[reason] += 1
        else:
            unknown.append(text)
    return known, unknown


def build(command: List[str], config: str, args: argparse.Namespace, out: str) -> None:
    """Run one buildman on the branch, print how long it took."""
    words = [*command, *(['-G', config] if config else []), '-b', args.branch, '-r', '-o', out]
    if args.boards:
        words += ['--boards', args.boards]
    usage = subprocess.run([command[0], '--help'], capture_output=True, text=True, check=False)
    if '--no-skip-unaffected' in usage.stdout:
        # Else it may carry a result forward over the commit that breaks a board
        words.append('--no-skip-unaffected')
    # What the user's own ccache has had is not to decide whether it is used
    env = {**os.environ, 'CCACHE_DIR': os.path.join(os.path.dirname(out), 'ccache')}
    started = time.monotonic()
    done = subprocess.run(words, cwd=args.repo, env=env, capture_output=True, text=True,
                          check=False)
    lines = done.stdout.replace('\r', '\n').splitlines()
    last = next((line for line in reversed(lines) if line.startswith('Completed')), '')
    print(f'{command[0]}: exit status {done.returncode}, '
          f'{time.monotonic() - started:.1f} s: {last}')
    if not last:
        sys.exit(f'it built nothing:\n{done.stdout}{done.stderr}')


def main() -> int:
    """Build twice and compare."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--other', default=shutil.which('buildman') or '',
                        help='the buildman to compare with (default: that on PATH)')
    parser.add_argument('--repo', help='git repository (default: the sample)')
    parser.add_argument('--branch', default='feature')
    parser.add_argument('--boards', default='', help='boards to build (default: all)')
    parser.add_argument('--config', default='', help='configuration (default: ~/.buildman)')
    parser.add_argument('--keep', metavar='DIR', help='keep the trees in this new folder')
    args = parser.parse_args()
    if not args.other:
        print('*** SKIPPED: there is no other buildman; install one and name it with --other',
              file=sys.stderr)
        return 0
    work = args.keep or tempfile.mkdtemp(prefix='compare-tree-')
    try:
        os.makedirs(work, exist_ok=True)
        if not args.repo:
            tree = sample.make_sample(os.path.join(work, 'tree'))
            chains = sample.make_toolchains(os.path.join(work, 'toolchains'))
            args.config = sample.write_config(os.path.join(work, 'config'), chains)
            args.repo, args.branch = tree.path, tree.branch
        tops = []
        for name, command in (('theirs', [os.path.abspath(args.other)]), ('ours', [OURS])):
            build(command, args.config, args, os.path.join(work, name))
            tops.append(os.path.join(work, name, args.branch.replace('/', '_')))
        known, unknown = compare(args.repo, tops[0], tops[1])
    finally:
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)
    for reason, count in sorted(known.items(), key=lambda item: -item[1]):
        print(f'{count:6} {reason}')
    for text in unknown:
        print(f'UNEXPLAINED: {text}')
    print(f'{len(unknown)} unexplained differences')
    return 1 if unknown or not known['equal'] else 0


if __name__ == '__main__':
    sys.exit(main())
