# SPDX-License-Identifier: GPL-2.0+
"""`--html`: the page in a real browser, against the tree that it shows."""

from __future__ import annotations

import os
import shutil
from typing import Any, ClassVar, Dict, List, Tuple

from browser import Browser
from support import SampleCase

from buildman.core.outcome import TRIES, Outcome, write_tries
from buildman.demo import sample
from buildman.remote import logs

BOARDS = 'anvil,hammock,rocket,sandbox'

# What the cells say, by their labels
CELLS = ("Object.fromEntries([...document.querySelectorAll('.cell')].map("
         "cell => [cell.getAttribute('aria-label').split(': '), cell.textContent])"
         ".map(([label, mark]) => [label[0], [label[1], mark]]))")
MARKS = {'ok': '', 'warning': '!', 'error': '✕', 'not built': '·'}
NO_SIZE = '\u2013'

EVIL = (b'</pre></script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> &amp;\n'
        b'\x1b[31ma.c:1:2: error: red\x1b[0m \xe2\x80\xae \xe2\x80\xa8 \xff end\n')
SHOWN = ('</pre></script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> &amp;\n'
         '\u241b[31ma.c:1:2: error: red\u241b[0m <U+202E> <U+2028> \ufffd end\n')


class PageTest(SampleCase):
    """One tree, one browser, for all tests."""

    sample_args: ClassVar[Dict[str, Any]] = {'commits': sample.DEFAULT_STEPS[:4]}
    built: ClassVar[str]
    page: ClassVar[str]
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        cls.built = ''

    def setUp(self) -> None:
        super().setUp()
        if not self.built:
            folder = os.path.join(self.base, 'built')
            type(self).page = os.path.join(self.base, 'page.html')
            got = self.run_buildman('-b', 'feature', '-o', folder, '--boards', BOARDS,
                                    '--html', self.page)
            self.assertEqual((got.returncode, got.stderr), (100, ''), got)
            self.assertNotIn('Summary of', got.stdout)
            type(self).built = folder
        self.browser.events.clear()

    def tearDown(self) -> None:
        told = self.browser.told('Page.javascriptDialogOpening', 'Runtime.exceptionThrown',
                                 'Log.entryAdded')
        asked = [event['params']['request']['url']
                 for event in self.browser.told('Network.requestWillBeSent')]
        self.assertEqual([], told)
        self.assertEqual([], [url for url in asked if not url.startswith(('file:', 'about:'))])
        super().tearDown()

    def summary(self, out: str, *flags: str) -> str:
        """Write the page of another tree; return its path."""
        page = self.out('page.html')
        got = self.run_buildman('-s', '-b', 'feature', '-o', out, '--boards', BOARDS,
                                '--html', page, *flags)
        self.assertEqual(0, got.returncode, got)
        return page

    def changed_copy(self) -> str:
        """Return a copy of the tree that may be changed."""
        shutil.copytree(self.built, self.out(), ignore=shutil.ignore_patterns('.bm-work'))
        return self.out()

    def results(self, out: str) -> Dict[Tuple[str, int], str]:
        """Return what the tree says of each board at each commit, number from 1."""
        found = {}
        for folder in sorted(os.listdir(os.path.join(out, 'feature'))):
            for board in BOARDS.split(',') if '_g' in folder else ():
                path = os.path.join(out, 'feature', folder, board)
                code = ''
                if os.path.exists(f'{path}/done'):
                    with open(f'{path}/done', encoding='ascii') as inf:
                        code = inf.read()
                said = os.path.exists(f'{path}/err') and os.stat(f'{path}/err').st_size
                found[board, int(folder[:2])] = ('not built' if not code else 'error' if int(code)
                                                 else 'warning' if said else 'ok')
        return found

    def names(self) -> List[str]:
        """Return the boards that the matrix shows, in order."""
        return list(self.browser.run(
            "[...document.querySelectorAll('.row')].sort((one, two) => one.dataset.row - "
            "two.dataset.row).map(row => row.querySelector('b').textContent)"))

    def test_cells(self) -> None:
        """Each cell is what the tree says"""
        out = self.changed_copy()
        shutil.rmtree(os.path.join(out, 'feature', next(
            name for name in os.listdir(f'{out}/feature') if name.startswith('02_g')), 'rocket'))
        for tree, page in ((self.built, self.page), (out, self.summary(out))):
            self.browser.show(page)
            cells: Dict[str, Any] = self.browser.run(CELLS)
            want = self.results(tree)
            self.assertEqual(
                {f'{board}, #{number} {self.tree.commits[number - 1][:10]}': [what, MARKS[what]]
                 for (board, number), what in want.items()}, cells)
        self.assertEqual({'ok', 'warning', 'error', 'not built'}, set(want.values()))

    def test_marks(self) -> None:
        """What a hunt takes boards for is no result and looks like none; tries are told"""
        browser, out, board = self.browser, self.changed_copy(), 'sandbox'
        folders = sorted(name for name in os.listdir(f'{out}/feature') if '_g' in name)
        whats = [self.results(out)[board, num] for num in range(1, len(folders) + 1)]
        gap = next(num for num in range(1, len(folders) - 1) if whats[num - 1] == whats[num + 1])
        shutil.rmtree(os.path.join(out, 'feature', folders[gap], board))
        said = [(2, 'a.c:1: error: flaky'), (1, 'b.c:2: error: <b>odd</b>')]
        with open(os.path.join(out, 'feature', folders[-1], 'anvil', TRIES), 'wb') as outf:
            outf.write(write_tries(said))
        page = self.summary(out, '--hunt')
        browser.show(page)
        cells: Dict[str, Any] = browser.run(CELLS)
        last = self.results(out)['anvil', len(folders)]
        where = f'{board}, #{gap + 1} {self.tree.commits[gap][:10]}'
        tried = f'anvil, #{len(folders)} {self.tree.commits[-1][:10]}'
        self.assertEqual([f'not built, taken for {whats[gap - 1]} (--hunt)', '~'],
                         cells.pop(where))
        self.assertEqual([f'{last}, tried 3 times', f'{MARKS[last]}3'], cells.pop(tried))
        self.assertEqual([], [label for label, (what, _) in cells.items() if what not in MARKS])
        legend = browser.run("document.querySelector('#legend').textContent")
        self.assertIn('~not built, taken for', legend)
        self.assertIn('2tried so often', legend)
        names = self.names()
        browser.press('Home', *(['ArrowDown'] * names.index(board)), *(['ArrowRight'] * gap))
        status = "document.querySelector('#status').textContent"
        self.assertIn(f'not built, taken for {whats[gap - 1]} (--hunt)', browser.run(status))
        browser.press('Enter')
        self.assertIn('The hunt (--hunt) did not build it',
                      browser.wait("document.querySelector('#body pre')?.textContent"))
        browser.press('Escape')
        browser.show(page, f'board=anvil&commit={self.tree.commits[-1]}')
        self.assertEqual(write_tries(said).decode(),
                         browser.wait("document.querySelector('#tries')?.textContent"))
        # So it is good all along
        self.assertEqual({'ok'}, set(whats))
        browser.show(page, 'show=changed')
        self.assertNotIn(board, self.names())
        browser.show(self.page)
        self.assertEqual('', browser.run("document.querySelector('#legend').textContent"))

    def test_keyboard(self) -> None:
        """Arrows, Enter, Esc and / do what they say; so does the filter"""
        browser, count = self.browser, len(self.tree.commits)
        browser.show(self.page)
        active = "document.querySelector('.cell.at').getAttribute('aria-label')"
        names = self.names()
        self.assertEqual(sorted(BOARDS.split(',')), sorted(names))
        self.assertTrue(browser.run(active).startswith(f'{names[0]}, #{count} '))
        browser.press('ArrowDown', 'ArrowLeft')
        self.assertTrue(browser.run(active).startswith(f'{names[1]}, #{count - 1} '))
        self.assertEqual(browser.run("document.querySelector('.cell.at').id"), browser.run(
            "document.activeElement.getAttribute('aria-activedescendant')"))
        browser.press('Home', 'ArrowLeft', 'ArrowUp', 'ArrowUp')
        self.assertTrue(browser.run(active).startswith(f'{names[0]}, #1 '))
        browser.press('Enter')
        browser.wait("document.querySelector('#commands')")
        self.assertTrue(browser.run("document.querySelector('#what').textContent")
                        .startswith(MARKS[self.results(self.built)[names[0], 1]] + names[0]))
        browser.press('ArrowRight')
        browser.wait("document.querySelector('#facts').textContent.includes('#2 ')"
                     " && document.querySelector('#commands')")
        folder = next(name for name in os.listdir(f'{self.built}/feature') if name[:4] == '02_g')
        for name, node in (('out-cmd', 'commands'), ('err', 'err')):
            path = os.path.join(self.built, 'feature', folder, names[0], name)
            if os.path.exists(path):
                with open(path, encoding='utf-8') as inf:
                    self.assertEqual(inf.read(), browser.run(
                        f"document.querySelector('#{node}').textContent"))
        browser.press('Escape')
        browser.wait("document.activeElement.id === 'grid'")
        browser.press('/', *'sand')
        browser.wait("document.querySelectorAll('.row').length === 1")
        self.assertEqual(['sandbox'], self.names())
        browser.wait("location.hash.includes('q=sand')")
        browser.press('Escape')
        browser.wait("document.querySelectorAll('.row').length === 4")
        for show, want in (('failing', lambda whats: whats[-1] == 'error'),
                           ('bad', lambda whats: {*whats} - {'ok'}),
                           ('changed', lambda whats: len({*whats}) > 1)):
            browser.show(self.page, f'show={show}')
            states = self.results(self.built)
            self.assertEqual({board for board in BOARDS.split(',') if want(
                [states[board, num + 1] for num in range(count)])}, set(self.names()), show)
        for key, view in (('2', 'problems'), ('3', 'sizes'), ('4', 'machines'), ('1', 'matrix')):
            browser.press(key)
            self.assertEqual(view, browser.run(
                "document.querySelector('main > section:not([hidden])').id"))

    def test_evil(self) -> None:
        """What `err` holds is text, never markup; escapes are shown, not obeyed"""
        browser, out = self.browser, self.changed_copy()
        folder = next(name for name in os.listdir(f'{out}/feature') if name.startswith('01_g'))
        for name, data in (('err', EVIL), ('done', b'2'), ('out-cmd', EVIL)):
            with open(os.path.join(out, 'feature', folder, 'anvil', name), 'wb') as outf:
                outf.write(data)
        page = self.summary(out)
        browser.show(page, f'board=anvil&commit={self.tree.commits[0]}')
        browser.wait("document.querySelector('#err')")
        for node in ('err', 'commands'):
            self.assertEqual(SHOWN, browser.run(f"document.querySelector('#{node}').textContent"))
        browser.press('Escape')
        browser.show(page, 'view=problems')
        self.assertIn('a.c:1:2: error: red', browser.run(
            "[...document.querySelectorAll('.group code')].map(node => node.textContent).join()"))
        self.assertEqual(0, browser.run("document.querySelectorAll('img, pre *, code *').length"))

    def test_problems(self) -> None:
        """Like errors are together, under the commit that began them, each with its boards"""
        browser, out = self.browser, self.changed_copy()
        folders = sorted(name for name in os.listdir(f'{out}/feature') if '_g' in name)
        for num, board in ((1, 'anvil'), (2, 'anvil'), (2, 'rocket')):
            folder = os.path.join(out, 'feature', folders[num], board)
            said = f'd{num}/{board}.c:{num}:7: error: too odd\n'
            for name, text in (('err', said), ('done', '2')):
                with open(os.path.join(folder, name), 'w', encoding='ascii') as outf:
                    outf.write(text)
        browser.show(self.summary(out), 'view=problems')
        browser.run("[...document.querySelectorAll('.group')].find(node => "
                    "node.textContent.includes('too odd')).open = true")
        browser.wait("document.querySelector('.chips button')")
        got = browser.run(
            "(() => { const group = document.querySelector('.group[open]'); let head = group; "
            "while (!head.matches('.since')) head = head.previousSibling; "
            "return [head.textContent, [...group.querySelectorAll('.chips button')]"
            ".map(node => node.textContent)] })()")
        self.assertIn(f'Began at#2 {self.tree.commits[1][:10]}', got[0])
        self.assertEqual(['anvil', 'rocket'], sorted(got[1]))
        browser.run("document.querySelector('.group[open] .chips button').click()")
        self.assertIn('too odd', browser.wait("document.querySelector('#err')?.textContent"))

    def test_sizes_and_machines(self) -> None:
        """Sizes are those of the tree; a machine has its boards, and when it was lost"""
        browser, out = self.browser, self.changed_copy()
        base = os.path.join(out, 'feature')
        log, events = logs.JobLog(f'{base}/joblog'), logs.BossLog(f'{base}/.buildman.log')
        for upto in range(3):
            log.add(Outcome('anvil', upto, 0, seconds=2, machine='far'), '')
        log.add(Outcome('rocket', 0, 2, seconds=2), '')
        events.say('[far] lost: no sign of life')
        log.close()
        events.close()
        page = self.summary(out)
        browser.show(page, 'view=sizes&scope=board:sandbox')
        browser.wait("document.querySelector('#chart path')")
        want = []
        for folder in sorted(name for name in os.listdir(base) if '_g' in name):
            size = NO_SIZE
            if os.path.exists(f'{base}/{folder}/sandbox/sizes'):
                with open(f'{base}/{folder}/sandbox/sizes', encoding='ascii') as inf:
                    text, data, bss = map(int, inf.readline().split()[:3])
                size = f'{text + data + bss:,}'
            want.append(size)
        self.assertEqual(want, browser.run(
            "[...document.querySelectorAll('#commits tbody td:nth-child(2)')]"
            ".map(cell => cell.textContent)"))
        self.assertTrue(any(size != NO_SIZE for size in want))
        browser.show(page, 'view=machines')
        rows = browser.run("[...document.querySelectorAll('#lanes tbody tr')].map(row => "
                           "[...row.children].map(cell => cell.textContent))")
        self.assertEqual([['far', '1', '3'], ['this machine', '1', '1']],
                         sorted(row[:3] for row in rows))
        self.assertEqual(['anvil', 'rocket'], sorted(browser.run(
            "[...document.querySelectorAll('rect[data-board]')].map(node => node.dataset.board)")))
        self.assertEqual(1, browser.run("document.querySelectorAll('.mark.lost').length"))
