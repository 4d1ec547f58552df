# SPDX-License-Identifier: GPL-2.0+
"""The data of the page that `--html` writes. tests/command/test_html.py looks at the page."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import itertools
import json
import os
import random
import re
import tempfile
import unittest
import zlib
from typing import Any, Dict, List, Optional
from unittest import mock

from buildman.core.errors import SetupError
from buildman.core.plan import Board, Commit
from buildman.results import html
from buildman.results.against import Other
from buildman.results.hunted import Found
from buildman.results.reader import ERROR as ERR
from buildman.results.reader import OK
from buildman.results.reader import WARNING as WARN
from buildman.results.show import SummaryRequest, show_summary
from buildman.results.tree import commit_dir_name

COMMITS = tuple(Commit(f'{num:040x}', f'Commit {num}') for num in range(1, 5))
BOARDS = (Board('snow', 'arm', vendor='google', soc='exynos', maintainers=('A <a@b>',)),
          Board('seaboard', 'arm'), Board('malta', 'mips'), Board('extra,snow', 'arm', base='snow'))

ERROR = "a.c: In function 'f':\na.c:1:2: error: bad\n"
WARNING = 'a.c:1:2: warning: unused\n'
BLOB = 'Some images are invalid\n'
SIZES = '%7d\t    200\t    300\t   1500\t    5dc\tu-boot 00000010\n'


def read_page(path: str) -> Dict[str, Any]:
    """Return the blocks of a page."""
    with open(path, encoding='utf-8') as inf:
        found = re.findall('<script type="text/plain" id="block-([a-z0-9]+)">([^<]*)</script>',
                           inf.read())
    return {name: json.loads(zlib.decompress(base64.b64decode(text))) for name, text in found}


def text_of(page: Dict[str, Any], num: int) -> Optional[str]:
    """Return one of the texts; None when it was left out."""
    if num == html.LEFT_OUT:
        return None
    starts: List[int] = page['where']['starts']
    block = max(pos for pos, start in enumerate(starts) if start <= num)
    text: str = page[f'texts{block}'][num - starts[block]]
    return text


class TestPage(unittest.TestCase):
    """Data against a tree."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.folder = os.path.join(tmp.name, 'branch')
        self.page = os.path.join(tmp.name, 'page.html')
        self.request = SummaryRequest(self.folder, COMMITS, BOARDS, html=self.page)

    def put(self, upto: int, target: str, code: int = 0, **files: str) -> None:
        """Write a result; in names of files, _ stands for a dash."""
        folder = os.path.join(self.folder, commit_dir_name(upto, COMMITS[upto]), target)
        os.makedirs(folder, exist_ok=True)
        for name, text in {**files, 'done': str(code)}.items():
            with open(os.path.join(folder, name.replace('_', '-')), 'w', encoding='utf-8',
                      errors='surrogateescape') as outf:
                outf.write(text)

    def make(self, **flags: Any) -> Dict[str, Any]:
        """Write the page and return its blocks."""
        request = dataclasses.replace(self.request, **flags)
        self.assertEqual(0, show_summary(request, io.StringIO(), io.StringIO()))
        self.assertEqual(['page.html'], [name for name in os.listdir(os.path.dirname(self.page))
                                         if name != 'branch'])
        return read_page(self.page)

    def err(self, page: Dict[str, Any], upto: int, num: int) -> Optional[str]:
        """Return what the page has of `err`; '' when there is none."""
        flat = page['where']['commits'][upto]['err']
        found = dict(zip(flat[::2], flat[1::2]))
        return text_of(page, found[num]) if num in found else ''

    def test_results(self) -> None:
        """Each result has its status, text, commands and machine, from one process or many"""
        rng = random.Random(4)
        want = {}
        for upto in range(4):
            for num, board in enumerate(BOARDS):
                kind = rng.choice('0123')
                err = {'0': '', '1': WARNING * rng.randrange(1, 3), '2': ERROR, '3': BLOB}[kind]
                if rng.random() < .8:
                    self.put(upto, board.target, 2 * (kind in '23'), err=err, host=f'm{num % 2}\n',
                             out_cmd=f'make O=build {board.defconfig}\nmake O=build\n')
                    want[upto, num] = {'3': '4'}.get(kind, kind), err
        for processes in (1, 2):
            with mock.patch('buildman.results.show.process_count', return_value=processes):
                page = self.make()
            data = page['data']
            for upto, commit in enumerate(data['commits']):
                for num in range(len(BOARDS)):
                    status, err = want.get((upto, num), ('3', ''))
                    self.assertEqual((status, err),
                                     (commit['status'][num], self.err(page, upto, num)))
                    commands = page['where']['commits'][upto]['commands'][num]
                    if status != '3':
                        self.assertEqual(f'm{num % 2}', data['hosts'][commit['host'][num]])
                        self.assertEqual('make O=build \0\nmake O=build\n', text_of(page, commands))
                    else:
                        self.assertEqual(0, commands)
            self.assertEqual(['snow', 'arm', 'google', 'exynos', 'A <a@b>'], data['boards'][0])
        # What many say is there once
        self.assertLessEqual(len(page['texts0']), 5)

    def test_marks(self) -> None:
        """What a hunt takes boards for, and how often one was tried"""
        self.put(0, 'snow')
        self.put(3, 'snow', 2, err=ERROR, tries='--- try 1: exit status 2\nodd\n')
        self.put(3, 'malta', tries='damaged')
        page = self.make(found=Found(inferred={'snow': {1: OK, 2: ERR}, 'malta': {1: WARN}}))
        commits = page['data']['commits']
        self.assertEqual(['', '0-1-', '2---', ''], [item['inferred'] for item in commits])
        self.assertEqual(['0333', '3333', '3333', '2303'], [item['status'] for item in commits])
        self.assertEqual([{}, {}, {}, {'0': 2}], [item['tries'] for item in commits])
        self.assertEqual([[], [], []], [item['tries'] for item in page['where']['commits'][:3]])
        num, text = page['where']['commits'][3]['tries']
        self.assertEqual((0, '--- try 1: exit status 2\nodd\n'), (num, text_of(page, text)))

    def test_sizes(self) -> None:
        """Only changes are told, and where there is nothing"""
        self.put(0, 'snow', sizes=SIZES % 1000)
        self.put(1, 'snow', sizes=SIZES % 1000)
        self.put(1, 'malta', sizes=SIZES % 50)
        self.put(2, 'snow', 2)
        self.put(3, 'snow', sizes=SIZES % 1016)
        page = self.make()
        self.assertEqual(['u-boot'], page['data']['images'])
        self.assertEqual([{'0': [0, 984, 16, 200, 300, 2, -1, -1, -1, -1, 3, 1000, 16, 200, 300]},
                          {}, {'0': [1, 34, 16, 200, 300, 2, -1, -1, -1, -1]}, {}], page['sizes'])
        with mock.patch.object(html, 'MAX_SIZES', 75):
            page = self.make()
        self.assertEqual([0, 1500, 0, 0, 0, 2, -1, -1, -1, -1, 3, 1516, 0, 0, 0],
                         page['sizes'][0]['0'])
        self.assertIn('Sizes are those of whole images', page['data']['notes'][0])
        with mock.patch.object(html, 'MAX_SIZES', 20):
            page = self.make()
        self.assertEqual([{}, {}, {}, {}], page['sizes'])
        self.assertIn('Sizes are left out', page['data']['notes'][1])

    def test_sizes_against(self) -> None:
        """Sizes are those of this tree, whatever it is compared with"""
        for upto, size in enumerate((1000, 1000, 1016)):
            self.put(upto, 'snow', sizes=SIZES % size)
        others = {upto: Other(os.path.join(self.folder, commit_dir_name(upto, COMMITS[upto])))
                  for upto in range(3)}
        page = self.make(against=others)
        self.assertEqual([0, 984, 16, 200, 300, 2, 1000, 16, 200, 300], page['sizes'][0]['0'])

    def test_full(self) -> None:
        """What is too much is left out, of the oldest commits first, and told"""
        rng = random.Random(5)
        for upto in range(4):
            for board in BOARDS[:3]:
                self.put(upto, board.target, 2, err=rng.randbytes(30_000).hex()
                         if upto else 'x\n' + 'y' * 70_000 + '\nz\n')
        page = self.make()
        self.assertEqual([], page['data']['notes'])
        text = self.err(page, 0, 0)
        assert text
        self.assertRegex(text, r'^x\ny{39998}\n\n\[… 10005 characters are left .*\]\n\ny+\nz\n$')
        self.put(3, 'snow', 2, err='bad\n', tries='--- try 1: exit status 2\nodd\n')
        for processes in (1, 2):
            with mock.patch.object(html, 'MAX_PAGE', 750_000), mock.patch(
                    'buildman.results.show.process_count', return_value=processes):
                page = self.make()
            self.assertLess(os.stat(self.page).st_size, 750_000)
            told = [[self.err(page, upto, num) for num in range(3)] for upto in range(4)]
            kept = [None not in texts for texts in told]
            self.assertEqual(kept, sorted(kept))
            self.assertEqual((False, True), (kept[0], kept[3]))
            # Each text is whole, and its own
            for upto, num in itertools.product(range(1, 4), range(3)):
                with open(os.path.join(self.folder, commit_dir_name(upto, COMMITS[upto]),
                                       BOARDS[num].target, 'err'), encoding='utf-8') as inf:
                    self.assertIn(told[upto][num], (None, inf.read()))
            left = sum(texts.count(None) for texts in told)
            num, text = page['where']['commits'][3]['tries']
            self.assertEqual((0, '--- try 1: exit status 2\nodd\n'), (num, text_of(page, text)))
            self.assertRegex(page['data']['notes'][0],
                             rf'^{left} texts of older commits .* left out')
            self.assertEqual('2' * 3 + '3', page['data']['commits'][0]['status'])

    def test_text_only(self) -> None:
        """Whatever was said, the page has our script and no other markup"""
        evil = '</script><script>alert(1)</script><!-- <img onerror=alert(1)> \x1b]0;x\x07\u2028'
        self.put(0, 'snow', 2, err=f'{evil}: error: \udcff\n', out_cmd=evil, sizes=SIZES % 1)
        with open(os.path.join(self.folder, 'joblog'), 'w', encoding='utf-8') as outf:
            outf.write('board\tcommit\tmachine\tstart\tseconds\tstatus\tattempt\n'
                       f'{evil}\t0\t{evil}\t5\t1\t0\t1\n')
        page = self.make(commits=(dataclasses.replace(COMMITS[0], subject=evil), *COMMITS[1:]))
        with open(self.page, encoding='utf-8') as inf:
            text = inf.read()
        self.assertNotIn('alert', text)
        self.assertEqual(1, text.count('<script>'))
        self.assertEqual(f'{evil}: error: \ufffd\n', self.err(page, 0, 0))
        # The page runs what it has the digest of
        digest = re.search("script-src 'sha256-([^']+)'", text)
        script = re.search('<script>(.*?)</script>', text, re.DOTALL)
        assert digest and script
        self.assertEqual(digest.group(1),
                         base64.b64encode(hashlib.sha256(script.group(1).encode()).digest())
                         .decode())

    def test_nothing(self) -> None:
        """No results, the current source, a file that cannot be written"""
        page = self.make()
        self.assertEqual(['3333'] * 4, [item['status'] for item in page['data']['commits']])
        self.folder = os.path.join(self.folder, 'current')
        os.makedirs(os.path.join(self.folder, 'snow'))
        with open(os.path.join(self.folder, 'snow', 'done'), 'w', encoding='ascii') as outf:
            outf.write('0')
        page = self.make(folder=self.folder, commits=None)
        self.assertEqual([('0333', '', 'current source')], [
            (item['status'], item['hash'], item['subject']) for item in page['data']['commits']])
        with self.assertRaisesRegex(SetupError, "cannot write report '.*none/x.html'"):
            show_summary(dataclasses.replace(self.request, html=f'{self.folder}/none/x.html'),
                         io.StringIO())


if __name__ == '__main__':
    unittest.main()
