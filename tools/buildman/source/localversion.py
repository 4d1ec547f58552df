# SPDX-License-Identifier: GPL-2.0+
"""What a tree's own scripts/setlocalversion makes of a commit.

That script writes the version text of an image, and has been written anew more
than once. So it is run, in a small tree that has nothing but what it reads; its
git works in a repository that borrows the objects of the real one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import threading
from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from buildman.core.errors import GitError
from buildman.process import commands
from buildman.source import git
from buildman.source.origin import Origin

SCRIPT = 'scripts/setlocalversion'

# A script that takes longer hangs, seconds
TIMEOUT = 60

# Files at the top of the tree that it may read
_TOP_FILE = re.compile(r'\.scmversion\Z|localversion')

# Parts of the version in the top Makefile
_PARTS = ('VERSION', 'PATCHLEVEL', 'SUBLEVEL', 'EXTRAVERSION')

# Stands in for git: notes each command, and says of the files that none is changed,
# as this is true in a slot, and all files would have to be here to find out
_RECORDER = '''\
#!/bin/sh
for word; do printf '%s\\001' "$word"; done >> {log}
printf '\\002' >> {log}
for word; do
    case $word in
    -*) ;;
    status|diff|diff-index|diff-files|update-index) exit 0 ;;
    *) break ;;
    esac
done
exec {git} "$@"
'''


def make_version(makefile: str) -> Dict[str, str]:
    """Return the variables about the version that the top Makefile has for its scripts.

    Args:
        makefile: its text
    """
    parts = {}
    for name in _PARTS:
        found = re.search(rf'^{name}[ \t]*[:?]?=[ \t]*(.*?)[ \t]*(?:#.*)?$', makefile, re.MULTILINE)
        parts[name] = found.group(1) if found else ''
    text = parts['VERSION']
    if parts['PATCHLEVEL']:
        text += '.' + parts['PATCHLEVEL']
        if parts['SUBLEVEL']:
            text += '.' + parts['SUBLEVEL']
    text += parts['EXTRAVERSION']
    return {**parts, 'UBOOTVERSION': text, 'KERNELVERSION': text}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the script of a commit reads, besides what git says.

    Attributes:
        files: (path, mode, object) of each file
        version: of the Makefile, see make_version()
    """

    files: Tuple[Tuple[str, str, str], ...]
    version: Tuple[Tuple[str, str], ...]


def _parse_tree(data: bytes) -> Dict[str, Tuple[str, str]]:
    """Return what a tree object holds: name -> mode and object"""
    out = {}
    pos = 0
    while pos < len(data):
        end = data.index(b'\0', pos)
        mode, _, name = data[pos:end].partition(b' ')
        out[os.fsdecode(name)] = (mode.decode(), data[end + 1:end + 21].hex())
        pos = end + 21
    return out


def _is_file(tree: Mapping[str, Tuple[str, str]], name: str) -> bool:
    """Return whether a tree has a plain file of that name"""
    return tree.get(name, ('', ''))[0].startswith('100')


def run_script(source: str, build: str, version: Mapping[str, str], auto: bool,
               env: Mapping[str, str]) -> Optional[str]:
    """Run the script of a source folder, as its Makefile does.

    Args:
        source: folder with the script
        build: build folder, which is made
        version: see make_version()
        auto: whether CONFIG_LOCALVERSION_AUTO is set
        env: its environment

    Returns:
        what it printed; None when it failed

    Raises:
        OSError: it cannot be run
    """
    config = os.path.join(build, 'include', 'config', 'auto.conf')
    os.makedirs(os.path.dirname(config), exist_ok=True)
    with open(config, 'w', encoding='ascii') as outf:
        outf.write('CONFIG_LOCALVERSION=""\n' + ('CONFIG_LOCALVERSION_AUTO=y\n' if auto else ''))
    shell = shutil.which('bash') or 'sh'
    try:
        done = commands.run([shell, os.path.join(source, SCRIPT), source], TIMEOUT,
                            env={**env, **version}, cwd=build)
    except subprocess.TimeoutExpired:
        return None
    return os.fsdecode(done.out).strip() if done.returncode == 0 else None


def script_environment() -> Dict[str, str]:
    """Return the environment for a script of which nothing but its questions counts.

    It has no more than git and a shell take: a machine that builds nothing itself
    runs it as well, and its environment is nobody's business there.
    """
    return {key: value for key, value in git.environment().items()
            if key in ('GIT_EXEC_PATH', 'HOME', 'LC_ALL', 'LD_LIBRARY_PATH', 'PATH', 'TMPDIR')
            or key.startswith(('GIT_CONFIG', 'XDG_CONFIG'))}


def record(source: str, folder: str, version: Mapping[str, str], auto: bool,
           env: Mapping[str, str]) -> Tuple[Optional[str], List[Tuple[str, ...]]]:
    """Run the script of a source folder, and note what it asks git.

    Args:
        source: folder with the script
        folder: for what that takes, outside the source
        version, auto, env: see run_script()

    Returns:
        (its text for a clean tree or None, words of each git command)

    Raises:
        OSError: it cannot be run
    """
    real = shutil.which('git') or 'git'
    bin_dir, log = os.path.join(folder, 'bin'), os.path.join(folder, 'log')
    wrapper = os.path.join(bin_dir, 'git')
    if not os.path.exists(wrapper):
        os.makedirs(bin_dir)
        with open(wrapper, 'w', encoding='utf-8', errors='surrogateescape') as outf:
            outf.write(_RECORDER.format(log=shlex.quote(log), git=shlex.quote(real)))
        os.chmod(wrapper, 0o755)
    with open(log, 'wb'):
        pass
    text = run_script(source, os.path.join(folder, 'build'), version, auto,
                      {**env, 'PATH': f"{bin_dir}:{env.get('PATH', os.defpath)}"})
    with open(log, encoding='utf-8', errors='surrogateescape') as inf:
        asked = [tuple(item.split('\1')[:-1]) for item in inf.read().split('\2')[:-1]]
    return text, asked


class VersionTexts:
    """The version texts of commits; safe to use from all threads of slots.

    Attributes:
        path: the small tree
        git_dir: its repository
    """

    def __init__(self, folder: str, origin: Origin) -> None:
        """Name the small tree; nothing is made.

        Args:
            folder: for it; removed with close()
            origin: repository that has the commits
        """
        self._folder = folder
        self.path = os.path.join(folder, 'source')
        self.git_dir = os.path.join(self.path, '.git')
        self._origin = origin
        self._lock = threading.Lock()
        self._texts: Dict[str, Optional[str]] = {}
        self._inputs: Dict[str, Optional[Inputs]] = {}
        self._env = git.apart(script_environment())

    def close(self) -> None:
        """Remove what was made; harmless the second time."""
        with self._lock:
            shutil.rmtree(self._folder, ignore_errors=True)

    def prepare(self) -> None:
        """Make the repository.

        Raises:
            GitError: git refused
            OSError: it cannot be written
        """
        if os.path.isdir(self.git_dir):
            return
        for name in ('objects/info', 'objects/pack', 'refs'):
            os.makedirs(os.path.join(self.git_dir, name))
        self._origin.lend(self.git_dir)
        files = {'config': '[core]\n\trepositoryformatversion = 0\n\tbare = false\n'
                           '[gc]\n\tauto = 0\n[include]\n\tpath = buildman-abbrev\n',
                 'HEAD': 'ref: refs/heads/none\n'}
        for name, text in files.items():
            with open(os.path.join(self.git_dir, name), 'w', encoding='ascii') as outf:
                outf.write(text)
        self._origin.set_abbrev(self.git_dir, '')

    def enter(self, commit: str) -> bool:
        """Have what the script reads at a commit in the small tree, and HEAD there.

        Returns:
            False when the commit has no such script

        Raises:
            GitError: git refused
            OSError: it cannot be written
        """
        inputs = self.inputs([commit])[commit]
        if inputs is None:
            return False
        for name in os.listdir(self.path):
            if name != '.git':
                path = os.path.join(self.path, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        objects = self._read([entry[2] for entry in inputs.files])
        for (name, mode, _), data in zip(inputs.files, objects):
            path = os.path.join(self.path, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'wb') as outf:
                outf.write(data)
            os.chmod(path, 0o755 if mode == '100755' else 0o644)
        with open(os.path.join(self.git_dir, 'HEAD'), 'w', encoding='ascii') as outf:
            outf.write(commit + '\n')
        self._origin.set_abbrev(self.git_dir, commit)
        return True

    def inputs(self, commits: Sequence[str]) -> Mapping[str, Optional[Inputs]]:
        """Return what the script reads at each commit, None where there is no script.

        Raises:
            GitError: git refused
            OSError: the repository cannot be written
        """
        self.prepare()
        left = [commit for commit in dict.fromkeys(commits) if commit not in self._inputs]
        tops = [_parse_tree(data) for data in self._read([f'{name}^{{tree}}' for name in left])]
        folder, base = SCRIPT.split('/')
        trees = sorted({top[folder][1] for top in tops if top.get(folder, ('',))[0] == '40000'})
        scripts = {name: _parse_tree(data) for name, data in zip(trees, self._read(trees))}
        makefiles = sorted({top['Makefile'][1] for top in tops if _is_file(top, 'Makefile')})
        versions = {name: make_version(os.fsdecode(data))
                    for name, data in zip(makefiles, self._read(makefiles))}
        for commit, top in zip(left, tops):
            inside = scripts.get(top.get(folder, ('', ''))[1], {})
            if not _is_file(inside, base):
                self._inputs[commit] = None
                continue
            # Of the Makefile nothing but the version counts
            makefile = top['Makefile'][1] if _is_file(top, 'Makefile') else ''
            files = [(name, *top[name]) for name in top
                     if _TOP_FILE.match(name) and _is_file(top, name)]
            self._inputs[commit] = Inputs(
                ((SCRIPT, *inside[base]), *files),
                tuple(versions.get(makefile, make_version('')).items()))
        return {commit: self._inputs[commit] for commit in commits}

    def _read(self, names: Sequence[str]) -> List[bytes]:
        """Return the contents of objects"""
        if not names:
            return []
        data = git.run(self.path, 'cat-file', '--batch', stdin='\n'.join(names).encode() + b'\n',
                       env=git.ALONE)
        out = []
        pos = 0
        for _ in names:
            end = data.index(b'\n', pos)
            words = data[pos:end].split()
            if len(words) != 3:
                raise GitError(f'an object is missing: {words[0].decode()}')
            size = int(words[2])
            out.append(data[end + 1:end + 1 + size])
            pos = end + size + 2
        return out

    def text(self, commit: str) -> Optional[str]:
        """Return the version text of a commit in a clean tree.

        With CONFIG_LOCALVERSION_AUTO, and without what the environment or the
        configuration of a board adds.

        Returns:
            None when the commit has no such script, or that fails
        """
        with self._lock:
            if commit not in self._texts:
                text: Optional[str] = None
                with contextlib.suppress(GitError, OSError):
                    if self.enter(commit):
                        text = self._record(commit, True)[0]
                self._texts[commit] = text
            return self._texts[commit]

    def questions(self, commit: str) -> FrozenSet[Tuple[str, ...]]:
        """Return what the script of a commit asks git, as words of the commands.

        Raises:
            GitError: git refused
            OSError: something cannot be written or run
        """
        with self._lock:
            if not self.enter(commit):
                return frozenset()
            return frozenset(words for auto in (True, False)
                             for words in self._record(commit, auto)[1])

    def _record(self, commit: str, auto: bool
                ) -> Tuple[Optional[str], List[Tuple[str, ...]]]:
        """Run the script of the commit that was entered; return its text and what it asked"""
        inputs = self._inputs[commit]
        assert inputs
        return record(self.path, self._folder, dict(inputs.version), auto, self._env)
