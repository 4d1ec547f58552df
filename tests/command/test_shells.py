# SPDX-License-Identifier: GPL-2.0+
"""What shells and man make of --completion and --man: the real programs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import unittest
from typing import ClassVar, Dict, List, Sequence

import support

from buildman.cli import cmdline

# A branch that is a command, if somebody runs it
EVIL = 'x$(touch${IFS}pwned)'

# What is typed, and what can follow (bash, fish), with a tree and two branches
OFFERS = {
    'an': ['anvil', 'anvil_nor'],
    '--boards rocket,an': ['rocket,anvil', 'rocket,anvil_nor'],
    '-x an': ['anvil', 'anvil_nor'],
    '--reproduce an': ['anvil', 'anvil_nor'],
    '-b fea': ['feature/one'],
    '-g {tree} -b fea': ['feature/one'],
    '--comp': ['--completion'],
    '--completion ': ['bash', 'fish', 'zsh'],
    '-T ': [],
    '-o con': ['configs'],
    '--against con': ['configs'],
    '--against fea': ['feature/one'],
}


class ShellsTest(unittest.TestCase):
    """Completion of flags, boards and branches, and the manual page"""

    tree: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.tree = tempfile.mkdtemp(prefix='buildman-shells-')
        cls.addClassCleanup(shutil.rmtree, cls.tree)
        os.mkdir(os.path.join(cls.tree, 'configs'))
        for name in ('anvil', 'anvil_nor', 'rocket', 'sandbox'):
            with open(os.path.join(cls.tree, 'configs', f'{name}_defconfig'), 'w',
                      encoding='utf-8'):
                pass
        for words in (('init', '-q', '-b', 'master'), ('add', '.'),
                      ('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-qm', 'a'),
                      ('branch', 'feature/one'), ('branch', EVIL)):
            subprocess.run(['git', '-C', cls.tree, *words], check=True)

    def setUp(self) -> None:
        self.addCleanup(lambda: self.assertFalse(os.path.exists(
            os.path.join(self.tree, 'pwned')), 'a branch was run'))

    def script(self, shell: str) -> str:
        """Return the path of what --completion prints."""
        path = os.path.join(self.tree, f'.{shell}')
        with open(path, 'w', encoding='utf-8') as outf:
            subprocess.run([*support.command(), '--completion', shell], check=True, stdout=outf)
        return path

    def run_script(self, argv: Sequence[str], text: str) -> List[List[str]]:
        """Run a shell; return what it offers for each of OFFERS, sorted."""
        got = subprocess.run([*argv, text], cwd=self.tree, capture_output=True, text=True,
                             timeout=support.TIMEOUT, check=False)
        self.assertEqual((got.stderr, got.returncode), ('', 0), got)
        return [sorted(part.split('\n')[1:-1]) for part in got.stdout.split('===')[1:]]

    def test_bash(self) -> None:
        """Through the function that bash calls, with the words as it splits them"""
        offers = {**OFFERS, '-b = fea': ['feature/one'], "-b 'x'": [
            r'x\$\(touch\$\{IFS\}pwned\)']}
        lines = [f'. {self.script("bash")}']
        for typed in offers:
            words = shlex.split('buildman ' + typed.format(tree=self.tree))
            words += [''] if typed.endswith(' ') else []
            lines.append(f'COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; '
                         "_buildman; printf '===\\n'; "
                         "[[ -z $COMPREPLY ]] || printf '%s\\n' \"${COMPREPLY[@]}\"")
        got = self.run_script(['bash', '--norc', '-c'], '\n'.join(lines))
        self.assertEqual(dict(zip(offers, got)), offers)

    def test_fish(self) -> None:
        """As fish asks for itself"""
        support.needs('fish')
        lines = [f'source {self.script("fish")}']
        for typed in OFFERS:
            lines.append("echo ===; complete -C 'buildman {}' | string replace -r '[\\t/].*' ''"
                         .format(typed.format(tree=self.tree).replace("'", "\\'")))
        got = self.run_script(['fish', '-N', '-c'], '\n'.join(lines))
        want = {typed: [word.split('/')[0] for word in words] for typed, words in OFFERS.items()}
        self.assertEqual(dict(zip(OFFERS, got)), want)

    def test_zsh(self) -> None:
        """Typed on a terminal, as zsh does nothing of it elsewhere"""
        support.needs('zsh')
        typed = {'--boards rocket,anvil_': '--boards rocket,anvil_nor', '-b fea': '-b feature/one',
                 'rock': 'rocket', '--completion fi': '--completion fish',
                 '-g {tree} --branch=mas': '-g {tree} --branch=master', '-G con': '-G configs',
                 '--against mas': '--against master', '--against con': '--against configs'}
        answers = [('ready> ', b"autoload -U compinit; compinit -D; . ./.zsh; PS1='now> '\n")]
        # The line is completed, and printed
        answers += [('now> ', b'buildman ' + text.format(tree=self.tree).encode()
                     + b'\t\x01echo GOT \n') for text in typed]
        self.script('zsh')
        got = support.run_on_terminal(
            ['zsh', '-f', '-i'], self.tree, {**os.environ, 'TERM': 'dumb', 'PS1': 'ready> '},
            [*answers, ('now> ', b'exit\n')], size=(24, 200))
        lines = [line[4:].strip() for line in got.stdout.split('\n') if line.startswith('GOT ')]
        self.assertEqual(lines, ['buildman ' + text.format(tree=self.tree)
                                 for text in typed.values()])

    def test_all_flags(self) -> None:
        """Each flag of the parser is in each script, and in the manual page"""
        scripts: Dict[str, str] = {}
        for name in ('bash', 'zsh', 'fish'):
            with open(self.script(name), encoding='utf-8') as inf:
                scripts[name] = inf.read()
        page = subprocess.run([*support.command(), '--man'], check=True, capture_output=True,
                              text=True).stdout
        for actions in cmdline.make_parser().by_group().values():
            for flag in (flag for action in actions for flag in action.option_strings):
                self.assertRegex(scripts['bash'], f' {flag}[ )]')
                self.assertIn(f'){flag}', scripts['zsh'].replace('*', ')'))
                self.assertRegex(scripts['fish'], f' -[ls] {flag.lstrip("-")} ')
                self.assertIn('\\fB' + flag.replace('-', '\\-') + '\\fR', page)
        support.needs('mandoc')
        lint = subprocess.run(['mandoc', '-Tlint', '-W', 'warning'], input=page, check=False,
                              capture_output=True, text=True).stdout.splitlines()
        self.assertEqual([line for line in lint if 'missing date' not in line], [])
