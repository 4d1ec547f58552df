# SPDX-License-Identifier: GPL-2.0+
"""Another buildman as the other end of the wire.

The command in UPSTREAM_BUILDMAN is run as it is, as a black box. An `ssh` on
PATH runs the far side on this machine, and where one end would start its own
worker there, it starts that of the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

import support

from buildman import boss, machine
from buildman.demo import sample
from buildman.remote import ssh

UPSTREAM = os.environ.get('UPSTREAM_BUILDMAN', '')
OURS = os.path.join(support.TOOLS, 'buildman', 'buildman')
STUB = os.path.join(support.TESTS, 'stub_ssh', 'ssh')

# Takes the place of the stub, which it calls
_SSH = '''#!{python}
import os, re, subprocess, sys
*words, command = sys.argv
if command == 'python3':
    # A probe: what else runs on this machine must not decide whether it is used
    out = subprocess.run([{stub!r}, *words[1:], command], stdout=subprocess.PIPE).stdout
    sys.stdout.buffer.write(re.sub(rb'"load_1m": [0-9.]+', b'"load_1m": 0.0', out))
    sys.exit(0)
if '--worker' in command and 'receive-pack' not in command and 'pgrep' not in command:
    command = {worker!r}
os.execv({stub!r}, [{stub!r}, *words[1:], command])
'''

# What an older boss has its machine do; ~ is the home folder of the machine
WORKER = ('cd ~/dev/.bm-worker && git checkout -qf {rev} && '
          'exec {command} --worker -g "$PWD"')

# One of the commits that `source` has pushed; that is under way when a worker of ours
# would be started, which needs nothing of it
PUSHED = ('"$(for n in $(seq 600); do '
          'ref=$(git for-each-ref --format="%(objectname)" refs/buildman | tail -n 1); '
          '[ "$ref" ] && break; sleep .1; done; echo "$ref^1")"')

HOSTS = ('m1', 'm2')


class Builder:
    """What WorkerPool.build_boards() asks of a builder."""

    def __init__(self, base_dir: str) -> None:
        self.base_dir = base_dir
        self.force_build = False
        self.count = 0
        self.verdicts: Dict[Tuple[int, str], str] = {}
        self.remotes: Dict[Tuple[int, str], str] = {}

    def get_build_dir(self, commit_upto: int, target: str) -> str:
        """Return the folder of a result."""
        return os.path.join(self.base_dir, f'{commit_upto:02}', target)

    def get_done_file(self, commit_upto: int, target: str) -> str:
        """Return the file that says that a result is there."""
        return os.path.join(self.get_build_dir(commit_upto, target), 'done')

    def process_result(self, result: object) -> None:
        """Take a result."""
        assert isinstance(result, object)
        brd, upto = result.brd, result.commit_upto  # type: ignore[attr-defined]
        code, err = result.return_code, result.stderr  # type: ignore[attr-defined]
        self.verdicts[upto, brd.target] = 'fail' if code else 'warn' if err else 'ok'
        self.remotes[upto, brd.target] = result.remote  # type: ignore[attr-defined]


class Peers:
    """Two machines, reached by an ssh that changes workers on the way."""

    def __init__(self, folder: str, tree: sample.SampleTree, toolchains: str,
                 worker: str = '', rev: str = 'work') -> None:
        """Make the machines.

        Args:
            folder: for their home folders
            tree: to build
            toolchains: folder that has the compilers in bin
            worker: command whose worker is started there
            rev: what is checked out before that
        """
        self.folder = folder
        self.tree = tree
        self.home = os.path.join(folder, 'home')
        self.config = os.path.join(folder, 'peer.cfg')
        self.gcc: Dict[str, str] = {}
        os.makedirs(os.path.join(folder, 'bin'))
        # Upstream looks for compilers below the home folder alone, here and there
        for home in (self.home, *(self.home_of(host) for host in HOSTS)):
            os.makedirs(home)
            os.symlink(toolchains, os.path.join(home, 'tc'))
        for name in sorted(os.listdir(os.path.join(toolchains, 'bin'))):
            if name.endswith('-gcc'):
                self.gcc[name.partition('-')[0]] = f'~/tc/bin/{name}'
        with open(self.config, 'w', encoding='utf-8') as outf:
            outf.write(f'[toolchain]\nsample = {self.home}/tc\n\n[toolchain-alias]\n\n'
                       f'[machines]\n{chr(10).join(HOSTS)}\n\n'
                       + ''.join(f'[machine:{host}]\nmax_load = 0\n' for host in HOSTS))
        path = os.path.join(folder, 'bin', 'ssh')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(_SSH.format(python=sys.executable, stub=STUB,
                                   worker=WORKER.format(rev=rev, command=worker)))
        os.chmod(path, 0o755)

    def home_of(self, host: str) -> str:
        """Return the home folder of a machine."""
        return os.path.join(self.folder, 'stub', 'homes', host)

    def env(self, base: Mapping[str, str]) -> Dict[str, str]:
        """Return the environment of a boss."""
        return {**base, 'HOME': self.home, 'BM_STUB_DIR': os.path.join(self.folder, 'stub'),
                'PATH': f"{self.folder}/bin:{base.get('PATH', os.defpath)}"}

    def run(self, argv: Iterable[str], base: Mapping[str, str]) -> support.Result:
        """Run a boss in the tree."""
        words = [*argv, '-G', self.config]
        done = subprocess.run(words, cwd=self.tree.path, env=self.env(base),
                              stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=support.TIMEOUT, check=False)
        return support.Result(tuple(words), done.returncode,
                              done.stdout.decode('utf-8', 'replace'),
                              done.stderr.decode('utf-8', 'replace'))

    def pool(self) -> boss.WorkerPool:
        """Return a pool of the machines; needs our environment to be env()."""
        machines: List[machine.Machine] = []
        for host in HOSTS:
            ssh.register(ssh.make_transport(host))
            mach = machine.Machine(host)
            mach.toolchains = {arch: path.replace('~', self.home_of(host))
                               for arch, path in self.gcc.items()}
            machines.append(mach)
        return boss.WorkerPool(machines)


def upstream(text: str = UPSTREAM) -> List[str]:
    """Return the words of the command in UPSTREAM_BUILDMAN."""
    return text.split()


def locks(peers: Peers, hosts: Optional[Iterable[str]] = None) -> List[str]:
    """Return the machines that are left with a lock file."""
    return [host for host in hosts or HOSTS
            if os.path.exists(os.path.join(peers.home_of(host), 'dev', '.bm-worker', '.lock'))]
