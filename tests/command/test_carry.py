# SPDX-License-Identifier: GPL-2.0+
"""Results that are those of other commits, branches and people are not built again."""

import os
import subprocess
import tempfile
import unittest

from support import assert_same_tree, command, full_disk, needs
from traced import MAKEFILE, TracedTree

# Each is built where it may make a difference, by the boards that it may make one to
SERIES = {
    'used source': 'bc', 'unused source': '', 'used header': 'bc', 'unused header': '',
    'header that only a host tool reads': 'bc', 'header that hides one': 'bc',
    'header of another arch': '', 'new header of another arch': '',
    'Makefile of another arch': '', 'header behind a link': 'bc', 'link': 'bc',
    'what a link leads to now': 'bc', 'what a link led to': '', 'file found by wildcard': 'bc',
    'documents': '',
    'own defconfig': 'b', 'defconfig of c': 'bc', 'new defconfig': 'b', 'script': 'bc',
    'script that cannot be run': 'bc', 'device tree': 'bc', 'other device tree': '',
    'file under another name': 'bc', 'warning': 'bc'}

# What was there before is found again
BACK = {'Kconfig': 'bc', 'Kconfig back': '', 'script that can be run': 'bc',
        'script that cannot be run again': ''}


class CarryCase(unittest.TestCase):
    """A tree whose builds note what they read"""

    def setUp(self):
        needs('git', 'make', 'gcc')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.top = temp.name
        self.tree = TracedTree(os.path.join(self.top, 'repo'))
        self.made = os.path.join(self.top, 'made')

    def build(self, out, *flags, branch='topic', boards='abc', want=(0, 101), env=None):
        """Build a branch; return what was printed and how often make built"""
        with open(self.made, 'w', encoding='utf-8'):
            pass
        done = subprocess.run(
            [*command(), '-g', self.tree.path, '-b', branch, '-o', os.path.join(self.top, out),
             '--boards', ','.join(boards), *flags], capture_output=True, text=True, check=False,
            env={**os.environ, 'HOME': self.top, 'made': self.made, **(env or {})})
        self.assertIn(done.returncode, want, done.stdout + done.stderr)
        with open(self.made, encoding='utf-8') as inf:
            return done.stdout + done.stderr, len(inf.readlines())

    def same(self, left, right):
        """Check that two branches have the same results, whatever their commits are called"""
        assert_same_tree(*(os.path.join(self.top, name) for name in (left, right)))


class TestSeries(CarryCase):
    """What a commit changes decides"""

    def test_each_change(self):
        """A fast answer must not be a wrong one: each change is built where it must be"""
        for name in (*SERIES, *BACK):
            self.tree.change(name)
        want = {f'{board}: {name}' for name, boards in {'base 2': 'bc', **SERIES, **BACK}.items()
                for board in boards}
        text, made = self.build('on', boards='bc')
        with open(self.made, encoding='utf-8') as inf:
            self.assertEqual(sorted(want), sorted(inf.read().splitlines()), text)
        self.assertIn('skipped as unaffected', text)
        # Each from nothing
        with open(f'{self.made}.anew', 'w', encoding='utf-8'):
            pass
        text, made = self.build('off', '--no-result-cache', boards='bc')
        self.assertNotIn('skipped', text)
        self.assertEqual(made, 2 * (1 + len(SERIES) + len(BACK)))
        self.same('on/topic', 'off/topic')


class TestRewritten(CarryCase):
    """The same content under other names"""

    def test_rewritten(self):
        """Other messages, another order, another branch, folder and base; the cache"""
        self.tree.change('used source', 'used header', 'own defconfig', 'script', 'documents')
        trees = self.tree.trees()
        cache = os.path.join(self.top, 'cache')
        _, made = self.build('out', '--result-cache', cache)
        # a and b at all five commits, but for documents; c not at that of the defconfig, too
        self.assertEqual(3 + 4 * 3 - 1, made)
        self.tree.rewrite(trees, 'x')
        text, made = self.build('out')
        self.assertEqual(0, made, text)
        self.assertIn('15 carried from this branch', text)
        self.build('fresh', '--no-result-cache')
        self.same('out/topic', 'fresh/topic')
        # What is there is found once
        text, made = self.build('out')
        self.assertEqual((0, True), (made, '18 previously' in text), text)
        # Results that are gone with their branch's commits are found before they go
        self.tree.rewrite([trees[0], trees[2], trees[4]], 'y')
        text, made = self.build('out')
        there = [name for name in os.listdir(os.path.join(self.top, 'out/topic'))
                 if name.startswith('0')]
        self.assertEqual((0, 4), (made, len(there)), text)
        self.tree.git('branch', '-q', '-m', 'topic', 'other')
        text, made = self.build('out', branch='other')
        self.assertEqual((0, True), (made, "12 carried from 'topic'" in text), text)
        # With another base only what differs is built: the base is that of nobody
        self.tree.git('checkout', '-q', 'master')
        self.tree.change('header of another arch', 'documents', 'new header of another arch')
        text, made = self.build('out', '-c', '1', branch='master', boards='a')
        self.assertEqual(0, made, text)
        # Somebody else, who cannot write
        os.chmod(cache, 0o555)
        text, made = self.build('there', '--result-cache', cache, branch='other')
        self.assertEqual((0, True), (made, '12 carried from the result cache' in text), text)
        # Other settings are others
        text, made = self.build('there', '--result-cache', cache, '-a', 'A=y', branch='other',
                                boards='a', want=(0, 100, 101))
        self.assertNotIn('carried', text)

    def test_settings_and_environment(self):
        """What a tree takes from the environment, by content"""
        self.tree.change('used source')
        self.tree.commit('blob', {'Makefile': MAKEFILE + '\nblob := $(BL31)\n'})
        trees = self.tree.trees()
        for num, (content, want) in enumerate((('one', 3), ('two', 2), ('one', 0), (None, 2))):
            path = os.path.join(self.top, f'blob{num}', 'bl31.bin')
            os.makedirs(os.path.dirname(path))
            with open(path, 'w', encoding='utf-8') as outf:
                outf.write(content or '')
            self.tree.rewrite(trees, f'{num}')
            # Results that the branch has no more are in the cache
            text, made = self.build('out', '--result-cache', os.path.join(self.top, 'cache'),
                                    boards='a', env={'BL31': path} if content else {})
            # The tree of the first commit takes nothing of that name
            self.assertEqual(want - bool(num and want), made, text)

    def test_check_carried(self):
        """What is carried is built all the same, and what differs is told"""
        self.tree.change('documents', 'unused source')
        cache = os.path.join(self.top, 'cache')
        text, _ = self.build('out', '--check-carried', '3', '--result-cache', cache, boards='a',
                             env={'LD_PRELOAD': full_disk(self.top, cache)})
        self.assertIn('2 carried results are as they are built', text)
        self.assertIn(f"result cache '{cache}': No space left on device: not all", text)
        trees = self.tree.trees()
        # Somebody changes a result: that is found out, if it comes to be checked
        top = os.path.join(self.top, 'out/topic')
        first = next(name for name in sorted(os.listdir(top)) if name.startswith('01'))
        with open(os.path.join(top, first, 'a/sizes'), 'a', encoding='utf-8') as outf:
            outf.write('x\n')
        self.tree.rewrite(trees, 'x')
        text, made = self.build('out', '--check-carried', '9:1', boards='a', want=(100,))
        self.assertIn('Checking 2 of 2 carried results (seed 1)', text)
        self.assertRegex(text, rf"'a' at [0-9a-f]+: carried from '.*{first}/a', differs from what "
                         r"a build gives \('.*/checked/.*'\): sizes\n")
        self.assertEqual(2, made)
        text, _ = self.build('out', '--check-carried', 'x', want=(2,))
        self.assertIn('--check-carried', text)

    def test_machines(self):
        """What a machine built is carried, here as well; nothing is handed out for that"""
        config, cache = (os.path.join(self.top, name) for name in ('config', 'cache'))
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write('[toolchain]\nroot = /\n[machines]\nalpha = localhost\n[machine:alpha]\n'
                       f'transport = local\nmax_load = 0\nwork_dir = {self.top}/work\n'
                       f'[result-cache]\nfolder = {cache}\n')
        words = ('-G', config, '--use-machines', 'alpha', '--no-local')
        self.tree.change('documents', 'used source')
        text, _ = self.build('out', *words, boards='a')
        self.assertIn('1 skipped as unaffected', text)
        self.tree.rewrite(self.tree.trees(), 'x')
        text, _ = self.build('out', *words, boards='a')
        self.assertIn('2 carried from this branch', text)
        # With what the machine built, on this one
        text, made = self.build('there', '--result-cache', cache, boards='a')
        self.assertEqual((0, True), (made, '3 carried from the result cache' in text), text)
        self.build('fresh', '--no-result-cache', boards='a')
        self.same('there/topic', 'fresh/topic')
        with open(config, 'a', encoding='utf-8') as outf:
            outf.write('mode = wr\n')
        text, _ = self.build('out', *words, want=(2,))
        self.assertIn('[result-cache] mode = wr: use ro or rw', text)
