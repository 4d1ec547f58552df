#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Run tests with the tools of another Debian suite than this machine's.

    tests/suites/run.py trixie                  # the tests that depend on tools most
    tests/suites/run.py sid tests.unit.source   # these: folders, files, classes, tests
    tests/suites/run.py sid all                 # every one
    tests/suites/run.py --command sid git diff  # a command in there, in this folder

The suite's git, make, gcc, binutils, ccache, OpenSSH and python3, and all that they
need, are unpacked from its packages of today; nothing is installed. apt's list of
mirrors says where they come from. A tree is kept (--dir) while its packages are the
newest; --command takes the one that is there. It becomes the root of what is run,
which sees this machine's /dev, /proc, /sys and temporary folders, and the project.

Exit status: that of the command; 2 when it cannot be run here, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import glob
import os
import shlex
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What the tests use, and a shell's usual programs
PACKAGES = (
    'base-files', 'base-passwd', 'bash', 'binutils', 'bsdutils', 'ccache', 'coreutils', 'dash',
    'device-tree-compiler', 'diffutils', 'findutils', 'gawk', 'gcc', 'git', 'grep', 'gzip',
    'hostname', 'libc-bin', 'libc6-dev', 'make', 'openssh-client', 'openssh-server', 'passwd',
    'perl-base', 'procps', 'python3', 'python3-kconfiglib', 'sed', 'tar', 'util-linux',
    'xz-utils')

# Their versions are told
SHOWN = ('git', 'make', 'gcc', 'binutils', 'ccache', 'openssh-client', 'python3', 'libc6')

# What packages do when they are installed, as far as it matters
LINKS = {'awk': 'gawk', 'cc': 'gcc', 'python': 'python3'}
SSHD_USER = 'sshd:x:990:65534::/run/sshd:/usr/sbin/nologin\n'

# The tests that depend on the tools most, and take less than three minutes
TESTS = ('tests.unit.source', 'tests.unit.build', 'tests.unit.toolchains', 'tests.unit.demo',
         'tests.command.test_build_branch', 'tests.command.test_dist',
         'tests.command.test_summary_command', 'tests.faults.test_sshd')

# Then these, on this machine, with the tree as another one
ACROSS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'across.py')

# Run by a shell in a mount namespace of its own: the root, the project, the present
# folder, and the command
ENTER = '''set -e
root=$1 top=$2 cwd=$3
shift 3
# A root that is no mount point cannot be unshared again (tests of noexec do)
mount --bind "$root" "$root"
for dir in /dev /proc /sys /tmp /var/tmp "$top"; do
    mkdir -p "$root$dir"
    mount --rbind "$dir" "$root$dir"
done
exec chroot "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$cwd" "$@"'''

# Variables that reach the command; what else there is speaks of this machine
KEPT = ('BUILDMAN_', 'CI', 'PYTHON', 'TERM', 'TMPDIR')

CONFIG = '''Dir::Etc::SourceList "{dir}/sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State "{dir}";
Dir::State::Status "{dir}/status";
Dir::Cache "{dir}";
APT::Sandbox::User "";
APT::Install-Recommends "0";
APT::Keep-Downloaded-Packages "1";
Acquire::Languages "none";
Acquire::Retries "3";
'''


class Impossible(Exception):
    """It cannot be done here; the text says why, in one line"""


def output(*cmd: str, env: Dict[str, str] | None = None) -> str:
    """Return what a command prints.

    Raises:
        Impossible: it fails, or is not there
    """
    try:
        done = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors='replace', env=env, check=False)
    except OSError as exc:
        raise Impossible(f'{cmd[0]}: {exc.strerror}') from exc
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise Impossible(f"{cmd[0]}: {(said or [f'exit status {done.returncode}'])[-1]}")
    return done.stdout


def write(text: str, *names: str) -> str:
    """Write a file; return its path."""
    path = os.path.join(*names)
    with open(path, 'w', encoding='utf-8') as out:
        out.write(text)
    return path


class Tree:
    """The tools of a suite, unpacked.

    Attributes:
        suite: its name, as in apt's sources
        dir: folder of the tree and of apt's state
        root: the tree itself
    """

    def __init__(self, suite: str, folder: str) -> None:
        self.suite = suite
        self.dir = os.path.join(os.path.abspath(folder), suite)
        self.root = os.path.join(self.dir, 'root')

    def _apt(self) -> Dict[str, str]:
        """Make apt's folder for the suite; return the environment that names it."""
        mirrors = output('apt-get', 'indextargets', '--format', '$(REPO_URI)',
                         'Created-By: Packages', 'Origin: Debian', 'Component: main').split()
        if not mirrors:
            raise Impossible("apt knows no mirror of Debian (or 'apt-get update' was not run yet)")
        keys = glob.glob('/usr/share/keyrings/debian-archive-keyring.[gp]*[gp]')
        signed = f'[signed-by={keys[0]}] ' if keys else ''
        apt = os.path.join(self.dir, 'apt')
        for name in ('lists', 'archives'):
            os.makedirs(os.path.join(apt, name, 'partial'), exist_ok=True)
        write('', apt, 'status')        # nothing is installed, for this apt
        # The first is the machine's main one; others may have a suite's updates only
        write(f'deb {signed}{mirrors[0]} {self.suite} main\n', apt, 'sources')
        config = write(CONFIG.format(dir=apt), apt, 'config')
        return {**os.environ, 'APT_CONFIG': config, 'LC_ALL': 'C'}

    def unpack(self) -> None:
        """Make the tree of the suite's packages, unless it is of these already.

        Raises:
            Impossible: no apt, no mirror, no such suite
        """
        env = self._apt()
        output('apt-get', '-qq', 'update', env=env)
        plan = output('apt-get', '-qq', '--simulate', 'install', *PACKAGES, env=env)
        want = ''.join(sorted(f'{line.split()[1]} {line.split("(")[1].split()[0]}\n'
                              for line in plan.splitlines() if line.startswith('Inst ')))
        mark = os.path.join(self.root, 'packages')
        with contextlib.suppress(OSError), open(mark, encoding='utf-8') as inf:
            if inf.read() == want:
                return
        archives = os.path.join(self.dir, 'apt', 'archives')
        output('apt-get', '-qq', 'clean', env=env)
        output('apt-get', '-qq', '--yes', '--download-only', 'install', *PACKAGES, env=env)
        shutil.rmtree(self.root, ignore_errors=True)
        os.makedirs(self.root)
        found = glob.glob(os.path.join(archives, '*.deb'))
        # The links /bin, /lib and so on are of this package
        found.sort(key=lambda path: not os.path.basename(path).startswith('base-files_'))
        output('dpkg', '-x', found[0], self.root)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda path: output('dpkg', '-x', path, self.root), found[1:]))
        output('apt-get', '-qq', 'clean', env=env)
        self._set_up()
        write(want, mark)

    def _set_up(self) -> None:
        """Do what the packages' scripts would, as far as it matters."""
        for name, to in LINKS.items():
            os.symlink(to, os.path.join(self.root, 'usr', 'bin', name))
        base = os.path.join(self.root, 'usr', 'share', 'base-passwd')
        for name in ('passwd', 'group'):
            with open(os.path.join(base, f'{name}.master'), encoding='utf-8') as inf:
                write(inf.read() + (SSHD_USER if name == 'passwd' else ''), self.root, 'etc', name)
        write('127.0.0.1 localhost\n', self.root, 'etc', 'hosts')
        # Tests end all processes of the users that they made: no numbers of this machine's
        first = 20000 + zlib.crc32(self.suite.encode()) % 20000
        write(f'UID_MIN {first}\nGID_MIN {first}\nUID_MAX 60000\nGID_MAX 60000\n',
              self.root, 'etc', 'login.defs')

    def versions(self) -> str:
        """Return the versions of the main packages, in one line."""
        with open(os.path.join(self.root, 'packages'), encoding='utf-8') as inf:
            have = dict(line.split() for line in inf)
        return ', '.join(f'{name} {have[name]}' for name in SHOWN if name in have)

    def command(self, words: List[str]) -> List[str]:
        """Return the command that runs another one in the tree.

        Raises:
            Impossible: this user cannot have another root
        """
        enter = ['unshare', '--mount', *([] if os.getuid() == 0 else ['--map-root-user'])]
        try:
            output(*enter, 'true')
        except Impossible as exc:
            raise Impossible(f'another root needs root, or user namespaces: {exc}') from exc
        env = {name: val for name, val in os.environ.items() if name.startswith(KEPT)}
        env.update(HOME='/root', LANG='C.UTF-8', PATH='/usr/sbin:/usr/bin')
        return [*enter, 'env', '-i', *(f'{name}={val}' for name, val in env.items()),
                'sh', '-c', ENTER, 'enter', self.root, TOP, os.getcwd(), *words]


def run(args: argparse.Namespace) -> int:
    """Do what the command line says; return the exit status."""
    tree = Tree(args.suite, args.dir)
    os.makedirs(tree.dir, exist_ok=True)
    with open(os.path.join(tree.dir, 'lock'), 'w', encoding='utf-8') as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not args.command or not os.path.exists(os.path.join(tree.root, 'packages')):
            fcntl.flock(lock, fcntl.LOCK_EX)
            tree.unpack()
            fcntl.flock(lock, fcntl.LOCK_SH)
        if args.command:
            return subprocess.run(tree.command(args.words), check=False).returncode
        print(f'Debian {args.suite}: {tree.versions()}', flush=True)
        words = ['python3', '-m', 'unittest']
        for name in () if args.words == ['all'] else args.words or TESTS:
            words += ['-k', f'*{name}', '-k', f'*{name}.*']
        os.chdir(TOP)
        status = subprocess.run(tree.command(words), check=False).returncode
        if not args.words or args.words == ['all']:
            enter = [sys.executable, os.path.abspath(__file__), '--dir', args.dir, '--command',
                     args.suite]
            status = subprocess.run(
                [sys.executable, ACROSS], check=False,
                env={**os.environ, 'BUILDMAN_SUITE_ENTER': shlex.join(enter)}).returncode or status
        return status


def main() -> int:
    """Do what the command line says; return the exit status."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--dir', default=os.path.join(cache, 'buildman-suites'),
                        help='folder of the unpacked trees (default: %(default)s)')
    parser.add_argument('--command', action='store_true',
                        help='run a command there, which comes after the suite')
    parser.add_argument('suite', help='name in the archive: trixie, sid, …')
    parser.add_argument('words', nargs=argparse.REMAINDER, metavar='TEST',
                        help='name of tests, or of what has them')
    try:
        return run(parser.parse_args())
    except (Impossible, OSError) as exc:
        print(f'{os.path.basename(sys.argv[0])}: cannot run here: {exc}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
