# SPDX-License-Identifier: GPL-2.0+
"""--reproduce: lines that a shell runs, and that give the same images."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any, ClassVar, Dict, List

from support import SampleCase

from buildman.demo import sample


class ReproduceTest(SampleCase):
    """The branch changes code, then the configuration."""

    sample_args: ClassVar[Dict[str, Any]] = {
        'boards': 3, 'commits': [sample.DEFAULT_STEPS[0], sample.DEFAULT_STEPS[5]]}

    def images(self, folder: str) -> Dict[str, bytes]:
        """Return what a folder has of the images that a result has"""
        found = {}
        for name in ('u-boot', 'u-boot.bin', 'u-boot.map', 'u-boot.cfg', '.config'):
            with open(os.path.join(folder, name), 'rb') as inf:
                found[name] = inf.read()
        return found

    def reproduce(self, args: List[str], what: str, env: Dict[str, str]) -> str:
        """Run what is printed for a result, and return the build folder"""
        got = self.run_buildman(*args, '--reproduce', what, env={**env, 'BL31': '/nowhere'})
        self.assertEqual((got.returncode, got.stderr), (0, ''), got)
        self.assertRegex(got.stdout, r'\nunset .*\bBL31\b')
        # The sample has no debug information
        self.assertIn('\nexport KCPPFLAGS="-fdebug-prefix-map=$PWD=. '
                      '-fdebug-prefix-map=$PWD/build=./build"\n', got.stdout)
        folder = self.out(f'by hand {what}'.replace(' ', '-'))
        # A shell that has other things set than the build had
        odd = self.env({'KBUILD_OUTPUT': '/nowhere', 'MAKEFLAGS': '-n', 'PATH': os.environ['PATH']})
        done = subprocess.run(['sh', '-s', folder], input=got.stdout, text=True, env=odd,
                              capture_output=True, check=False, cwd=self.tmp)
        self.assertEqual(done.returncode, 0, got.stdout + done.stderr)
        shutil.rmtree(os.path.join(folder, '.git'), ignore_errors=True)
        return os.path.join(folder, 'build')

    def test_same(self) -> None:
        """Each image is the same, with what the configuration, flags and environment ask for"""
        env = {'SOURCE_DATE_EPOCH': '1', 'KCFLAGS': "-DIT='a b'"}
        args = ['-b', 'feature', '-o', self.out(), '-k', '-a', 'BOOTDELAY=9']
        got = self.run_buildman(*args, '--boards', 'anvil,sandbox', env=env)
        self.assertEqual(got.returncode, 0, got)
        for what in ('anvil@3', f'sandbox@{self.tree.commits[1][:8]}'):
            with self.subTest(what=what):
                target, _, commit = what.partition('@')
                number = '03' if commit == '3' else '02'
                top = self.out('out/feature')
                result = os.path.join(top, next(name for name in os.listdir(top)
                                                if name.startswith(number)), target)
                self.assertEqual(self.images(self.reproduce(args, what, env)),
                                 self.images(result))

    def test_wrong(self) -> None:
        """What there is not, or is of other settings, is told"""
        args = ('-b', 'feature', '-o', self.out())
        got = self.run_buildman(*args, '--boards', 'anvil', '-c', '1', '-r', '--config-only')
        self.assertEqual(got.returncode, 0, got)
        for more, why in ((('-c', '1', '--reproduce', 'anvil@1'), '(--config-only, -r)'),
                          # Whatever its number is
                          (('--reproduce', 'anvil@3'), '(--config-only, -r)'),
                          (('--reproduce', 'anvil@2'), 'has no result'),
                          (('--reproduce', 'anvil@4'), 'a number from 1 to 3'),
                          (('--reproduce', 'anvil@0000'), 'is no commit of the branch'),
                          (('--reproduce', 'nope@1'), "there is no board 'nope'"),
                          (('--reproduce', 'anvil@1@2'), "there is no board 'anvil@1'"),
                          (('--reproduce', 'anvil'), 'it is BOARD@COMMIT'),
                          (('--reproduce', 'anvil@²'), "'²' is no commit"),
                          (('--reproduce', 'anvil@1', '-P'), 'not for -w, -i and -P')):
            with self.subTest(more=more):
                got = self.run_buildman(*args, *more)
                self.assertEqual((got.returncode, len(got.stderr.splitlines())), (2, 1), got)
                self.assertIn(why, got.stderr)
