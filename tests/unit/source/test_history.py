# SPDX-License-Identifier: GPL-2.0+
"""The part of a history that goes along answers as the whole one does, and is small."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import unittest
from typing import Dict, List, Sequence, Tuple

from support import needs

from buildman.demo import sample_files
from buildman.source import history, localversion
from buildman.source.origin import Origin, Past, unpack

MAKEFILE = 'VERSION = 1\nPATCHLEVEL = 3\nSUBLEVEL =\nEXTRAVERSION =\n'
OLD = os.path.join(sample_files.DATA, 'tree', 'scripts', 'setlocalversion')
NEW = os.path.join(sample_files.DATA, 'setlocalversion.twelve')

# What is taken into account whatever a script asks, and what follows from it
QUESTIONS = (['describe'], ['describe', '--tags'], ['describe', '--match=v*'],
             ['describe', '--exact-match'], ['describe', '--long', '--tags'],
             ['rev-parse', '--short', 'HEAD'])
# What the newer script asks besides
OF_NEW = (['describe', '--match=v1.3'],)


class HistoryCase(unittest.TestCase):
    """Has a repository, written by one git from a list of commits"""

    def setUp(self) -> None:
        needs('git')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.repo = os.path.join(self.dir, 'repo')
        self.env = {**os.environ, 'GIT_CONFIG_NOSYSTEM': '1', 'GIT_CONFIG_GLOBAL': '/dev/null',
                    'GIT_COMMITTER_NAME': 'A', 'GIT_COMMITTER_EMAIL': 'a@a'}
        self.count = 0
        self.questions: Sequence[List[str]] = QUESTIONS

    def git(self, folder: str, *args: str, data: str = '') -> str:
        """Run git; return what it prints"""
        return subprocess.run(['git', *args], cwd=folder, input=data, check=True, env=self.env,
                              capture_output=True, text=True).stdout

    def make(self, parents: Sequence[Sequence[int]], dates: Sequence[int],
             script: str) -> List[str]:
        """Make commits, each with the numbers of its parents; return their hashes"""
        shutil.rmtree(self.repo, ignore_errors=True)
        self.git(self.dir, 'init', '-q', self.repo)
        self.questions = (*QUESTIONS, *(OF_NEW if script == NEW else ()))
        with open(script, encoding='utf-8') as inf:
            text = inf.read()
        stream = ''
        for num, above in enumerate(parents):
            stream += (f'commit refs/heads/b{num}\nmark :{num + 1}\n'
                       f'committer A <a@a> {1600000000 + dates[num]} +0000\ndata 2\nx\n')
            words = ['from', *['merge'] * len(above)]
            stream += ''.join(f'{word} :{up + 1}\n' for word, up in zip(words, above))
            files = {'file': f'{num}\n'}
            if not above:
                files.update({'scripts/setlocalversion': text, 'Makefile': MAKEFILE})
            for name, data in files.items():
                stream += f'M 100755 inline {name}\ndata {len(data.encode())}\n{data}\n'
        self.git(self.repo, 'fast-import', '--quiet', data=stream)
        return self.git(self.repo, 'rev-parse', *(f'b{num}' for num in range(len(parents)))).split()

    def tag(self, name: str, commit: str) -> None:
        """Make an annotated tag"""
        self.git(self.repo, 'tag', '-a', '-m', 'x', name, commit)

    def find(self, commits: Sequence[str]) -> Tuple[history.Part, str]:
        """Return the part for some commits, and the folder with its attempts"""
        self.count += 1
        where = os.path.join(self.dir, f'find-{self.count}')
        os.mkdir(where)
        return history.find(self.repo, commits, where), where

    def attempts(self, where: str) -> int:
        """Return how many parts were tried"""
        return sum(name.startswith('part-') for name in os.listdir(where))

    def check(self, part: history.Part, commits: Sequence[str]) -> None:
        """Fail unless a repository with nothing but the part answers as the slots here do"""
        far, near = (os.path.join(self.dir, f'{name}-{self.count}') for name in ('far', 'near'))
        for path in (far, near):
            self.git(self.dir, 'init', '-q', path)
        objects = self.git(self.repo, 'rev-list', '--objects', '--no-walk', *commits).splitlines()
        self.git(self.repo, 'pack-objects', '-q', f'{far}/.git/objects/pack/pack',
                 data='\n'.join(line.split()[0] for line in objects) + '\n')
        past = Past.from_dict(json.loads(json.dumps(part.past.to_dict())))
        data = os.path.join(self.dir, f'data-{self.count}')
        store = unpack(part.pack, data) if part.pack else ''
        origin = Origin((), b'', b'').with_past(past, store)
        origin.lend(f'{far}/.git')
        Origin.read(self.repo).lend(f'{near}/.git')
        for path in (far, near):
            self.git(path, 'config', 'include.path', 'buildman-abbrev')
        for commit in commits:
            origin.set_abbrev(f'{far}/.git', commit)
            answers: Dict[str, List[Tuple[int, str]]] = {}
            for path in (far, near):
                self.git(path, 'checkout', '-q', '-f', '--detach', commit)
                done = [subprocess.run(['git', *words], cwd=path, env=self.env, check=False,
                                       capture_output=True, text=True) for words in self.questions]
                answers[path] = [(one.returncode, one.stdout) for one in done]
                for auto in (True, False):
                    version = localversion.make_version(MAKEFILE)
                    text = localversion.run_script(path, os.path.join(self.dir, 'build'), version,
                                                   auto, self.env)
                    answers[path].append((0, text or ''))
            self.assertEqual(answers[near], answers[far])


class TestPart(HistoryCase):
    """What goes along"""

    def test_random(self) -> None:
        """Merges, roots, tags of all kinds, dates in disorder"""
        for _ in range(4):
            number = random.randrange(1 << 32)
            rng = random.Random(number)
            count = rng.randrange(5, 90)
            parents: List[List[int]] = []
            for num in range(count):
                above = [max(0, num - 1 - int(rng.expovariate(rate)))
                         for rate in ((.5,), (.5, .1))[rng.random() < .3]]
                parents.append(list(dict.fromkeys(above)) if num and rng.random() > .02 else [])
            dates = [num * 60 + rng.randrange(-99, 99) for num in range(count)]
            hashes = self.make(parents, dates, rng.choice((OLD, NEW)))
            for num, name in enumerate(hashes):
                if rng.random() < .08:
                    self.tag(rng.choice((f'v1.{num}', f'x{num}', 'v1.3')) + f'-{num}', name)
                if rng.random() < .05:
                    self.git(self.repo, 'tag', f'light{num}', name)
            self.tag('v1.3', rng.choice(hashes))
            if rng.random() < .5:
                self.tag('named', 'v1.3')
            commits = self.git(self.repo, 'rev-list', '--reverse', f'-{rng.randrange(1, 9)}',
                               hashes[-1]).split()
            with self.subTest(seed=number):
                part, _ = self.find(commits)
                self.assertEqual((), part.warnings)
                self.check(part, commits)

    def test_small(self) -> None:
        """Merges of what is old, and of what has no root in common, do not bring all along"""
        # 0 … 99 in a row, 100 a root (a subtree); 101 has it merged; 102 on top of the subtree,
        # 103 on top of an old commit, both merged after the tag
        parents: List[List[int]] = [[], *([num] for num in range(99)), [], [99, 100], [100], [40],
                                    [101], [104, 102], [105, 103], [106]]
        hashes = self.make(parents, [num * 60 for num in range(len(parents))], NEW)
        self.tag('v1.3', hashes[101])
        part, where = self.find(hashes[-2:])
        self.assertEqual(1, self.attempts(where))
        listed = self.git(self.dir, 'verify-pack', '-v', part.pack)
        kinds = [line.split()[1] for line in listed.splitlines() if len(line.split()) >= 5]
        self.assertEqual({'commit', 'tag'}, set(kinds))
        # From the tag down to where 103 begins, one by one
        self.assertLess(len(kinds), 75)
        self.check(part, hashes[-2:])
        text = localversion.VersionTexts(os.path.join(self.dir, 'texts'), Origin.read(self.repo))
        self.assertEqual(f'1.3-00006-g{hashes[-1][:12]}', text.text(hashes[-1]))

    def test_no_tag(self) -> None:
        """Nothing goes along where nothing answers"""
        hashes = self.make([[], [0], [1]], [0, 1, 2], OLD)
        part, _ = self.find(hashes[1:])
        self.assertEqual(('', ''), (part.pack, part.past.tags))
        self.check(part, hashes[1:])

    def test_exotic(self) -> None:
        """A script that counts all commits gets them all; what cannot be answered is told of"""
        script = os.path.join(self.dir, 'script')
        for text, attempts, warned in (('git rev-list --count HEAD', 3, False),
                                       ('git log -1 --format=%cd-%h', 1, False),
                                       ('git count-objects -v', 3, True)):
            with open(script, 'w', encoding='ascii') as outf:
                outf.write(f'echo "$({text})"\n')
            hashes = self.make([[], *([num] for num in range(300))], list(range(301)), script)
            part, where = self.find(hashes[-2:])
            self.assertEqual((attempts, warned), (self.attempts(where), bool(part.warnings)), text)
            self.check(part, hashes[-2:])

    def test_digits(self) -> None:
        """A short hash is as long as here, though there are far fewer objects there"""
        hashes = self.make([[], [0], [1]], [0, 1, 2], OLD)
        self.git(self.repo, 'config', 'core.abbrev', '13')
        part, _ = self.find(hashes)
        self.assertEqual({13}, set(part.past.digits.values()))


class TestWords(unittest.TestCase):
    """What a script asks"""

    def test_describe(self) -> None:
        """Of HEAD, in whatever words"""
        for words, want in ((['describe'], ()), (['--no-optional-locks', 'describe', 'HEAD'], ()),
                            (['describe', '--match', 'v1*', '--abbrev=7'], ('--match=v1*',)),
                            (['describe', '--tags', '--dirty', '--always'], ('--tags',)),
                            (['describe', 'HEAD~1'], None), (['status'], None), ([], None)):
            self.assertEqual(want, history.describe_options(words), words)

    def test_makefile(self) -> None:
        """The version as the Makefile puts it together"""
        for text, want in ((MAKEFILE, '1.3'), ('VERSION = 2026\nPATCHLEVEL = 04\nSUBLEVEL =\n'
                                               'EXTRAVERSION = -rc3\n', '2026.04-rc3'),
                           ('VERSION=1\nPATCHLEVEL=2 # x\nSUBLEVEL=3\n', '1.2.3'), ('', '')):
            self.assertEqual(want, localversion.make_version(text)['KERNELVERSION'], text)

    def test_past(self) -> None:
        """What came from elsewhere is looked at"""
        for bad in ({'pack': 3}, {'digits': []}, {'digits': {'x': 3}}, {'standing': 'x'},
                    {'standing': {'inside': True, 'head': '../x'}}):
            with self.assertRaises(ValueError):
                Past.from_dict(bad)
