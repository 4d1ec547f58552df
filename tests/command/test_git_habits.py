# SPDX-License-Identifier: GPL-2.0+
"""What people, machines and newer versions set for git makes no difference to a build."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from typing import Any, ClassVar, Dict, Sequence

import support
from dist_support import DistCase, read

# What people have in ~/.gitconfig, all at once; FOLDER has programs that fail
HABITS = '''\
[init]
    defaultRefFormat = reftable
    defaultObjectFormat = sha256
    defaultBranch = trunk
    templateDir = FOLDER
[core]
    hooksPath = FOLDER
    trustctime = true
    checkStat = default
    fsmonitor = FOLDER/fail
    untrackedCache = true
    preloadIndex = false
    autocrlf = true
    safecrlf = true
    eol = crlf
    splitIndex = true
    filemode = false
    symlinks = false
    quotePath = false
    sparseCheckout = true
    sparseCheckoutCone = true
    attributesFile = FOLDER/attributes
    sshCommand = FOLDER/fail
    alternateRefsCommand = FOLDER/fail
    bigFileThreshold = 1
    pager = FOLDER/fail
[hook "habit"]
    command = FOLDER/fail
    event = post-checkout
    event = post-index-change
    event = reference-transaction
    event = pre-push
    event = pre-receive
    event = post-receive
    event = update
[feature]
    manyFiles = true
    experimental = true
[index]
    version = 4
    skipHash = true
    sparse = true
[extensions]
    worktreeConfig = true
[safe]
    bareRepository = explicit
[commit]
    gpgSign = true
[tag]
    gpgSign = true
    sort = -creatordate
[gpg]
    program = FOLDER/fail
[push]
    default = nothing
    gpgSign = true
    followTags = true
    recurseSubmodules = only
[merge]
    ff = only
    renames = false
[fetch]
    fsckObjects = true
    prune = true
[transfer]
    fsckObjects = true
    hideRefs = refs/buildman
[receive]
    denyCreates = true
    fsckObjects = true
    denyCurrentBranch = refuse
    shallowUpdate = false
    hideRefs = refs/buildman
[protocol]
    allow = never
    version = 2
[url "/nowhere/"]
    insteadOf = /
    pushInsteadOf = localhost
[log]
    showSignature = true
    follow = true
    decorate = full
    date = relative
[color]
    ui = always
    grep = always
    advice = always
[grep]
    lineNumber = true
    column = true
    fullName = true
    patternType = perl
[diff]
    external = FOLDER/fail
    renames = copies
    noprefix = true
    relative = true
[status]
    renames = copies
    short = true
    branch = true
[format]
    pretty = oneline
[i18n]
    logOutputEncoding = ISO-8859-1
    commitEncoding = UTF-8
[pack]
    packSizeLimit = 1m
    threads = 1
[gc]
    auto = 1
[maintenance]
    auto = true
[submodule]
    recurse = true
[checkout]
    guess = true
    workers = 8
[advice]
    detachedHead = true
[filter "fail"]
    smudge = FOLDER/fail
    clean = FOLDER/fail
    required = true
'''

HOOKS = ('post-checkout', 'post-index-change', 'reference-transaction', 'pre-push', 'pre-receive',
         'post-receive', 'update', 'fail')


def git(folder: str, *args: str) -> str:
    """Run git as it is, and return what it prints."""
    return subprocess.run(['git', '-C', folder, *args], check=True, capture_output=True,
                          text=True).stdout


def knows(version: str, what: str) -> bool:
    """Return whether git here is new enough for something; else say so, loudly."""
    here = subprocess.run(['git', '--version'], check=True, capture_output=True,
                          text=True).stdout.split()[2]
    numbers = [[int(part) for part in text.split('.')[:2]] for text in (here, version)]
    if numbers[0] >= numbers[1]:
        return True
    sys.stderr.write(f'\n*** NOT TESTED: {what}: takes git {version}, here is {here}\n')
    return False


class HabitsCase(DistCase):
    """A branch that is built here and on a machine, and what says what git was made to run"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 2}

    def setUp(self) -> None:
        super().setUp()
        self.folder = self.out('habits')
        os.makedirs(self.folder)
        for name in HOOKS:
            with open(os.path.join(self.folder, name), 'w', encoding='utf-8') as outf:
                outf.write(f'#!/bin/sh\necho "{name} $PWD" >>{self.out("ran")}\nexit 1\n')
            os.chmod(outf.name, 0o755)
        with open(os.path.join(self.folder, 'attributes'), 'w', encoding='utf-8') as outf:
            outf.write('* text eol=crlf ident filter=fail working-tree-encoding=UTF-16\n')
        self.habits = HABITS.replace('FOLDER', self.folder)

    def write(self, *name: str) -> str:
        """Write the habits to a file; return its path."""
        path = os.path.join(self.tmp, *name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(self.habits)
        return path

    def check(self, env: Dict[str, str], repo: str = '', dist: bool = True,
              args: Sequence[str] = ()) -> None:
        """Build here and on a machine with these variables: the same trees, nothing was run"""
        ref, status = self.local(*args)
        done = self.run_buildman('-b', 'feature', '-o', self.out('here'), *args, env=env,
                                 cwd=repo or None)
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref, self.out('here/feature'))
        if dist:
            shutil.rmtree(self.work_dir('alpha'), ignore_errors=True)
            done = self.dist('--no-local', *args, env=env, cwd=repo or None)
            self.assertEqual(status, done.returncode, done)
            self.assert_same(ref)
            self.assertNotIn('another version', done.stdout + done.stderr)
        ran = self.out('ran')
        self.assertFalse(os.path.exists(ran) and read(ran))


class AccountTest(HabitsCase):
    """What the account of a machine has for itself is not read there"""

    def put(self, text: str, *name: str) -> str:
        """Write a file of the account; return its path."""
        path = os.path.join(self.out('home'), *name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)
        return path

    def test_machine(self) -> None:
        """Git, ccache, Python, bash and make find no file of the account's"""
        trace = f'open({self.out("ran")!r}, "a").write("python\\n")\n'
        self.write('home', '.gitconfig')
        self.put(self.habits, '.config', 'git', 'config')
        for name in (('.config', 'ccache', 'ccache.conf'), ('.ccache', 'ccache.conf')):
            self.put(f'prefix_command = {self.folder}/fail\n', *name)
        site = subprocess.run(['python3', '-m', 'site', '--user-site'], capture_output=True,
                              check=False, text=True, env={**os.environ, 'HOME': self.out('home')})
        self.put(trace, os.path.relpath(site.stdout.strip(), self.out('home')), 'usercustomize.py')
        env = {
            'HOME': self.out('home'), 'XDG_CONFIG_HOME': os.path.join(self.out('home'), '.config'),
            'PYTHONPATH': os.path.dirname(self.put(trace, 'python', 'sitecustomize.py')),
            'BASH_ENV': self.put(f'echo bash >>{self.out("ran")}\n', '.bashenv'),
            'GNUMAKEFLAGS': f'--eval=$(shell\\ {self.folder}/fail)',
            'GIT_CONFIG_GLOBAL': self.put(self.habits, 'global'),
            'GIT_TEMPLATE_DIR': self.folder, 'GIT_DEFAULT_HASH': 'sha256',
            'GIT_DEFAULT_REF_FORMAT': 'reftable'}
        seen = self.out('seen')
        self.wrap_make('alpha', f'[ "$1" = --version ] || env >>{seen}\n'
                       f'git config --list >>{seen}\npython3 -c 1\nbash -c :')
        # As sshd and a login shell set it
        words = self.ways['alpha'].split(' ', 1)
        values = ' '.join(shlex.quote(f'{name}={value}') for name, value in env.items())
        self.ways['alpha'] = f'{words[0]} {values} {words[1]}'
        self.machines('alpha')
        args = ['--ccache'] if shutil.which('ccache') else []
        ref, status = self.local(*args)
        before = sorted(os.listdir(self.out('home')))
        for _ in range(2):
            done = self.dist('--no-local', '-f', *args)
            self.assertEqual(status, done.returncode, done)
            self.assertEqual({'alpha'}, set(self.hosts().values()))
        self.assert_same(ref)
        self.assertFalse(os.path.exists(self.out('ran')) and read(self.out('ran')))
        left = [line for line in read(seen).splitlines() if self.out('home') in line]
        self.assertEqual([], left)
        self.assertEqual(before, sorted(os.listdir(self.out('home'))), 'something was written')


class FormatsTest(HabitsCase):
    """How git keeps refs and names objects is its own choice in the user's repository only"""

    def test_defaults(self) -> None:
        """What git makes by itself does not matter for slots and machines"""
        knows('2.45', 'that refs are kept in a reftable by default')
        self.check({'GIT_DEFAULT_REF_FORMAT': 'reftable', 'GIT_DEFAULT_HASH': 'sha256'})

    def test_slot_of_an_older_version(self) -> None:
        """A slot that depends on such a default is made anew"""
        self.check({}, dist=False)
        slot = self.out('here/feature/.bm-work/00')
        shutil.rmtree(os.path.join(slot, '.git'))
        git(slot, 'init', '-q', '--object-format=sha256')
        with open(os.path.join(slot, 'Makefile'), 'w', encoding='utf-8') as outf:
            outf.write('$(error of another commit)\n')
        self.check({}, dist=False, args=['-f'])

    def test_reftable_repository(self) -> None:
        """A repository whose refs are in a reftable is one like any other"""
        if not knows('2.45', 'a repository with a reftable'):
            return
        repo = self.out('reftable')
        subprocess.run(['git', 'clone', '-q', '--ref-format=reftable', self.tree.path, repo],
                       check=True)
        git(repo, 'branch', '-q', '--set-upstream-to=origin/master', 'feature')
        self.check({}, repo=repo)

    def test_sha256_repository(self) -> None:
        """One whose objects have other names is refused in a line, before anything is built"""
        repo = self.out('sha256')
        shutil.copytree(self.tree.path, repo, ignore=shutil.ignore_patterns('.git'))
        git(repo, 'init', '-q', '--object-format=sha256', '-b', 'feature')
        git(repo, 'add', '-A')
        git(repo, '-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-qm', 'one')
        for args in (['-b', 'feature', '-c', '1'], ['-b', 'feature', '-c', '1', '--dist'],
                     ['--dist', '--no-local']):
            done = self.run_buildman(*args, '-o', self.out('none'), cwd=repo)
            self.assertEqual(2, done.returncode, done)
            self.assertRegex(done.stderr,
                             r"^buildman: '.*sha256' names its objects by sha256: .*\n\Z")
        done = self.run_buildman('-o', self.out('folder'), 'sandbox', cwd=repo)
        self.assertEqual(0, done.returncode, done)


class SettingsTest(HabitsCase):
    """What the user has told git leads to the same results"""

    def test_home(self) -> None:
        """In ~/.gitconfig"""
        home = os.path.dirname(self.write('home', '.gitconfig'))
        self.check({'HOME': home})

    def test_environment(self) -> None:
        """In a file that the environment names, and in the environment itself"""
        self.write('global')
        listed = git(self.tmp, 'config', '--file', 'global', '-z', '--list').split('\0')[:-1]
        env = {'GIT_CONFIG_GLOBAL': self.out('global'), 'GIT_CONFIG_COUNT': str(len(listed)),
               'GIT_TEMPLATE_DIR': self.folder, 'GIT_EXTERNAL_DIFF': f'{self.folder}/fail',
               'GIT_SSH_COMMAND': f'{self.folder}/fail', 'GIT_LITERAL_PATHSPECS': '1',
               'GIT_INDEX_VERSION': '4', 'GIT_QUARANTINE_PATH': self.folder}
        for number, item in enumerate(listed):
            env[f'GIT_CONFIG_KEY_{number}'], _, env[f'GIT_CONFIG_VALUE_{number}'] = (
                item.partition('\n'))
        self.check(env)

    def test_repository(self) -> None:
        """In the configuration of the repository"""
        repo = self.out('repo')
        subprocess.run(['cp', '-a', self.tree.path, repo], check=True)
        # What a repository is cannot be set by a habit
        self.habits = self.habits.replace('[init]', '[other]').replace('[extensions]', '[other]')
        with open(os.path.join(repo, '.git', 'config'), 'a', encoding='utf-8') as outf:
            outf.write(self.habits)
        self.check({}, repo=repo)

    def test_folder(self) -> None:
        """The folder as it is, with changes in the index and names that git would quote"""
        repo = self.out('repo')
        subprocess.run(['cp', '-a', self.tree.path, repo], check=True)
        # What files become in the user's own repository is his choice
        with open(os.path.join(self.folder, 'attributes'), 'w', encoding='utf-8') as outf:
            outf.write('* text eol=crlf\n')
        with open(os.path.join(repo, 'größe'), 'w', encoding='utf-8') as outf:
            outf.write('one\n')
        git(repo, 'add', 'größe')
        git(repo, 'mv', 'README', 'README.new')
        git(repo, 'update-index', '--index-version', '4', '--split-index', '--untracked-cache')
        home = {'HOME': os.path.dirname(self.write('home', '.gitconfig'))}
        for name, env in (('plain', {}), ('other', home)):
            for where in ([], ['--dist', '--no-local']):
                # A build in the user's own folder asks his own git
                if os.path.exists(self.out('ran')):
                    os.remove(self.out('ran'))
                files = sorted(os.listdir(os.path.join(repo, '.git')))
                done = self.run_buildman(*where, '-o', self.out(f'{name}{len(where)}'), 'sandbox',
                                         cwd=repo, env=env)
                self.assertEqual(0, done.returncode, done)
                self.assertNotIn('git status is not', done.stdout + done.stderr)
        self.assertFalse(os.path.exists(self.out('ran')), 'git ran something')
        self.assertEqual(files, sorted(os.listdir(os.path.join(repo, '.git'))))
        for number in (0, 2):
            support.assert_same_tree(self.out(f'plain{number}'), self.out(f'other{number}'),
                                     ignore=('host', 'joblog'))

    def test_abbreviation(self) -> None:
        """Only this shows in an image: how many digits of a hash the user likes"""
        texts = {}
        for digits in ('', '20'):
            env = {'SOURCE_DATE_EPOCH': '1700000000', **({
                'GIT_CONFIG_COUNT': '1', 'GIT_CONFIG_KEY_0': 'core.abbrev',
                'GIT_CONFIG_VALUE_0': digits} if digits else {})}
            out = self.out(f'abbrev{digits}')
            for where in ([], ['--dist', '--no-local']):
                done = self.run_buildman('-b', 'feature', '-c', '1', '-k', '-o', out + str(where),
                                         *where, 'sandbox', env=env)
                self.assertIn(done.returncode, (0, 101), done)
            found = subprocess.run(
                ['grep', '-rhoaE', '-m1', 'g[0-9a-f]{7,40}', out + '[]/feature'], check=False,
                capture_output=True, text=True).stdout
            texts[digits] = found
            support.assert_same_tree(f'{out}[]/feature', f"{out}['--dist', '--no-local']/feature",
                                     ignore=('host', 'joblog'))
        self.assertRegex(texts['20'], r'g[0-9a-f]{20}\b')
        self.assertNotRegex(texts[''], r'g[0-9a-f]{20}\b')
