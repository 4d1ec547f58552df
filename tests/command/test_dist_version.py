# SPDX-License-Identifier: GPL-2.0+
"""An image tells the same version wherever it is built, whatever the tree's script asks git."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from typing import Any, ClassVar, Dict, List, Optional

import support
from dist_support import LOGS, DistCase

from buildman.demo import sample, sample_files

# Else the time is in the images
EPOCH = {'SOURCE_DATE_EPOCH': '0'}


def _note(text: str) -> sample.Step:
    """Return a commit that changes nothing in an image but its version"""
    def change(state: sample_files.TreeState) -> None:
        state.note = text
    return f'doc: {text}', change


class VersionCase(DistCase):
    """A branch that begins with the older script and ends with the newer one"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': [sample_files.DEFAULT_BOARDS[0]],
        'commits': [_note('One'), ('scripts: Rewrite', sample.rewrite_version_script),
                    _note('Three'), _note('Four')]}

    def setUp(self) -> None:
        super().setUp()
        self.start = self.git('rev-parse', 'feature')
        self.addCleanup(self.restore)

    def restore(self) -> None:
        """Make the repository as it was"""
        for name in self.git('tag').split():
            self.git('tag', '-d', name)
        self.git('reset', '-q', '--hard')
        self.git('checkout', '-q', '-B', 'feature', self.start)
        self.git('branch', '-q', '--set-upstream-to=master', 'feature')
        self.git('clean', '-fdxq')

    def git(self, *args: str, cwd: str = '') -> str:
        """Run git in the sample; return what it prints"""
        return subprocess.run(['git', *args], cwd=cwd or self.tree.path, check=True,
                              capture_output=True, text=True).stdout.strip()

    def write(self, name: str, text: str, cwd: str = '') -> None:
        """Write a file of the sample"""
        with open(os.path.join(cwd or self.tree.path, name), 'w', encoding='utf-8') as outf:
            outf.write(text)

    def build(self, out: str, *args: str, cwd: str = '',
              env: Optional[Dict[str, str]] = None) -> Dict[str, str]:
        """Build; return the releases that the images tell, by folder of the commit"""
        done = self.run_buildman('-o', self.out(out), '-k', *args, cwd=cwd or None,
                                 env={**EPOCH, **(env or {})})
        self.assertEqual(0, done.returncode, done)
        self.assertNotIn('another version', done.stdout + done.stderr)
        self.assertNotIn('git status', done.stdout + done.stderr)
        found = {}
        for path in glob.glob(os.path.join(self.out(out), '*', '*', 'sandbox', 'u-boot.bin')) + (
                glob.glob(os.path.join(self.out(out), 'current', 'sandbox', 'u-boot.bin'))):
            with open(path, 'rb') as inf:
                text = inf.read().partition(b'U-Boot 2099')[2].partition(b' (Jan 01')[0].decode()
            found[path.split('/')[-3]] = '2099' + text
        return {key: found[key] for key in sorted(found)}

    def compare(self, *args: str, cwd: str = '',
                env: Optional[Dict[str, str]] = None) -> List[str]:
        """Build here and on the machine; return what images tell, oldest first"""
        for name in ('here', 'there'):
            shutil.rmtree(self.out(name), ignore_errors=True)
        here = self.build('here', *args, cwd=cwd, env=env)
        there = self.build('there', '--dist', '--no-local', *args, cwd=cwd, env=env)
        self.assertEqual(here, there)
        which = 'feature' if '-b' in args else 'current'
        support.assert_same_tree(self.out(f'here/{which}'), self.out(f'there/{which}'), ignore=LOGS)
        return list(here.values())


class TestBranch(VersionCase):
    """The commits of a branch"""

    def branch(self, *args: str, env: Optional[Dict[str, str]] = None) -> List[str]:
        """Compare builds of the branch"""
        return self.compare('-b', 'feature', *args, env=env)

    def digits(self, count: int) -> List[str]:
        """Return the start of the hash of each commit"""
        return [name[:count] for name in self.git('rev-list', '--reverse', 'feature').split()]

    def test_no_tag(self) -> None:
        """Where no tag is, the commit alone is told, in as many digits as each script takes"""
        short, long = self.digits(7), self.digits(12)
        self.assertEqual([*(f'2099.01-g{name}' for name in short[:2]),
                          *(f'2099.01-g{name}' for name in long[2:])], self.branch())

    def test_tags(self) -> None:
        """Tags that count, that do not, that name a tag, and one at the commit itself"""
        base, one, two, _, four = self.git('rev-list', '--reverse', 'feature').split()
        self.git('tag', '-a', '-m', 'x', 'v2099.01', base)
        self.git('tag', 'light', one)
        self.git('tag', '-a', '-m', 'x', 'vendor-7', two)
        self.git('tag', '-a', '-m', 'x', 'named', 'vendor-7')
        short, long = self.digits(7), self.digits(12)
        self.assertEqual(['2099.01', f'2099.01-00001-g{short[1]}', f'2099.01-00002-g{long[2]}',
                          f'2099.01-00003-g{long[3]}', f'2099.01-00004-g{long[4]}'], self.branch())
        # With another number of digits for all, and the older script at the end
        self.git('config', 'core.abbrev', '9')
        self.addCleanup(self.git, 'config', '--unset', 'core.abbrev')
        self.git('tag', '-a', '-m', 'x', 'at-it', four)
        self.git('checkout', '-q', base, '--', 'scripts/setlocalversion', 'Makefile')
        self.git('commit', '-qm', 'Back to the older script')
        short = self.digits(9)
        self.assertEqual(['2099.01', f'2099.01-00001-g{short[1]}', f'2099.01-00001-g{short[5]}'],
                         [text for num, text in enumerate(self.branch()) if num in (0, 1, 5)])
        self.assertEqual(['+'] * 6, [text[7:] or '+' for text in self.branch(
            '-a', '~LOCALVERSION_AUTO')])

    def test_merges(self) -> None:
        """What was merged had begun before the tag: it counts, what is older does not"""
        self.git('checkout', '-q', '-b', 'topic', 'master')
        self.addCleanup(self.git, 'branch', '-qD', 'topic')
        self.write('topic', 'new')
        self.git('add', 'topic')
        self.git('commit', '-qm', 'Topic')
        self.git('checkout', '-q', 'feature')
        self.git('tag', '-a', '-m', 'x', 'v2099.01', 'feature~1')
        self.git('merge', '-q', '--no-ff', '-m', 'Merge', 'topic')
        long = self.digits(12)
        self.assertEqual(f'2099.01-00003-g{long[-1]}', self.branch('-c', '1')[0])

    def test_settings(self) -> None:
        """LOCALVERSION, of the environment and of the configuration, and files of the tree"""
        for name in ('next', 'x'):
            self.write(f'localversion-{name}', f'-{name}\n')
        self.git('add', '-A')
        self.git('commit', '-qm', 'Files')
        self.git('tag', '-a', '-m', 'x', 'v2099.01', 'master')
        long = self.digits(12)
        text = self.branch('-c', '2', '-a', 'LOCALVERSION="-mine"',
                           env={'LOCALVERSION': '-theirs'})[1]
        self.assertEqual(f'2099.01-next-x-mine-theirs-00005-g{long[5]}', text)
        # Empty is not the same as not there
        texts = self.branch('-c', '1', '-a', '~LOCALVERSION_AUTO', env={'LOCALVERSION': ''})
        self.assertNotIn('+', texts[0])

    def test_shallow_clone_and_mixed(self) -> None:
        """A clone without most of the history, built here and there at once"""
        self.git('tag', '-a', '-m', 'x', 'v2099.01', 'master')
        clone = self.out('clone')
        self.git('clone', '-q', '--depth', '4', '-b', 'feature', f'file://{self.tree.path}', clone)
        long = self.digits(12)
        self.assertEqual(f'2099.01-g{long[4]}', self.compare(
            '-b', 'feature', '-c', '2', cwd=clone)[1])
        ref = self.build('ref', '-b', 'feature')
        self.assertEqual(ref, self.build('mixed', '-b', 'feature', '--dist'))
        support.assert_same_tree(self.out('ref/feature'), self.out('mixed/feature'), ignore=LOGS)

    def test_own_text(self) -> None:
        """A script of a vendor's that counts all commits"""
        self.write('scripts/setlocalversion', '#!/bin/sh\necho "2099.01-$(git rev-list --count '
                   'HEAD)-$(git log -1 --format=%h)"\n')
        self.git('commit', '-qam', 'Ours')
        self.assertEqual(f'2099.01-6-{self.digits(7)[5]}', self.branch('-c', '1')[0])


class TestFolder(VersionCase):
    """The folder as it is: HEAD, index and files are three things"""

    def test_states(self) -> None:
        """Clean at a tag, behind one, changed in files or in the index only"""
        tip = self.git('rev-parse', 'HEAD')[:12]
        self.git('tag', '-a', '-m', 'x', 'v2099.01', 'HEAD~1')
        self.write('untracked', 'x')
        self.assertEqual([f'2099.01-00001-g{tip}'], self.compare())
        self.write('README', 'changed')
        self.assertEqual([f'2099.01-00001-g{tip}-dirty'], self.compare())
        self.git('update-index', '--assume-unchanged', 'README')
        self.assertEqual([f'2099.01-00001-g{tip}'], self.compare())
        self.git('update-index', '--no-assume-unchanged', 'README')
        self.git('add', 'README')
        self.write('README', self.git('show', 'HEAD:README') + '\n')
        self.git('mv', 'MAINTAINERS', 'WHO')
        self.git('tag', '-a', '-m', 'x', 'other', 'HEAD')
        self.assertEqual([f'2099.01-00001-g{tip}-dirty'], self.compare())
        self.git('reset', '-q', '--hard')
        self.write('intended', 'x')
        self.git('add', '-N', 'intended')
        self.assertEqual([f'2099.01-00001-g{tip}-dirty'], self.compare())

    def test_older_script(self) -> None:
        """Its own .scmversion goes first, though git may ignore it; some changes do not count"""
        self.git('checkout', '-q', 'feature~3')
        short = self.git('rev-parse', '--short', 'HEAD')
        self.assertEqual([f'2099.01-g{short}'], self.compare())
        os.makedirs(os.path.join(self.tree.path, 'scripts/package'))
        self.write('scripts/package/x', 'x')
        self.git('add', 'scripts/package/x')
        self.assertEqual([f'2099.01-g{short}'], self.compare())
        self.git('reset', '-q', '--hard')
        with open(os.path.join(self.tree.path, '.git/info/exclude'), 'a', encoding='ascii') as outf:
            outf.write('.scmversion\n')
        self.write('.scmversion', '-theirs')
        self.addCleanup(os.remove, os.path.join(self.tree.path, '.scmversion'))
        self.assertEqual(['2099.01-theirs'], self.compare())

    def test_places(self) -> None:
        """A worktree, a submodule, a folder in a project, and one that git does not know"""
        self.git('tag', '-a', '-m', 'x', 'v2099.01', 'HEAD~1')
        tip = self.git('rev-parse', 'HEAD')[:12]
        tree = self.out('tree')
        self.git('worktree', 'add', '-q', '--detach', tree, 'feature')
        self.addCleanup(self.git, 'worktree', 'remove', '--force', tree)
        self.write('README', 'changed', cwd=tree)
        self.assertEqual([f'2099.01-00001-g{tip}-dirty'], self.compare(cwd=tree))
        top = self.out('top')
        self.git('init', '-q', top, cwd=self.tmp)
        who = ('-c', 'user.name=A', '-c', 'user.email=a@a', '-c', 'protocol.file.allow=always')
        self.git(*who, 'submodule', '--quiet', 'add', self.tree.path, 'u-boot', cwd=top)
        self.assertEqual([f'2099.01-00001-g{tip}'], self.compare(cwd=os.path.join(top, 'u-boot')))
        self.git(*who, 'commit', '-qm', 'All', cwd=top)
        # Of a source with a submodule in it
        self.git(*who, 'submodule', '--quiet', 'add', top, 'sub', cwd=tree)
        self.git(*who, 'commit', '-qam', 'Submodule', cwd=tree)
        tip = self.git('rev-parse', 'HEAD', cwd=tree)[:12]
        self.assertEqual([f'2099.01-00002-g{tip}'], self.compare(cwd=tree))
        self.write('sub/.gitmodules', 'changed', cwd=tree)
        self.assertEqual([f'2099.01-00002-g{tip}-dirty'], self.compare(cwd=tree))
        plain = os.path.join(top, 'plain')
        shutil.copytree(self.tree.path, plain, ignore=shutil.ignore_patterns('.git'))
        self.git('add', '-A', cwd=top)
        self.git(*who, 'commit', '-qm', 'More', cwd=top)
        self.assertEqual(['2099.01'], self.compare(cwd=plain))
        alone = self.out('alone')
        shutil.move(plain, alone)
        self.assertEqual(['2099.01'], self.compare(cwd=alone))

    def test_in_the_middle_of_a_merge(self) -> None:
        """Conflicts in the index are changes"""
        self.git('checkout', '-q', '-b', 'side', 'feature~1')
        self.addCleanup(self.git, 'branch', '-qD', 'side')
        self.write('README', 'side')
        self.git('commit', '-qam', 'Side')
        self.git('checkout', '-q', 'feature')
        tip = self.git('rev-parse', 'HEAD')[:12]
        subprocess.run(['git', 'merge', '-q', 'side'], cwd=self.tree.path, check=False,
                       capture_output=True)
        self.assertEqual([f'2099.01-g{tip}-dirty'], self.compare())
