# SPDX-License-Identifier: GPL-2.0+
"""A machine that was taken over sends what it was not asked for: refused, and named."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar, Dict

import support
from dist_support import StubCase, joblog, read

# Python that all edits of messages share; a small compressed text, and one that
# unpacks to more than a file of a result may have
COMMON = r'''
import base64, hashlib, zlib
def pack(data):
    return base64.b64encode(zlib.compress(data)).decode()
SMALL = pack(b"owned\n")
HUGE = pack(bytes((32 << 20) + 1))
ESCAPE = "\x1b]0;owned\x07\x1b[2Jhello\x9b31m\r\x08"
'''

# Beside each true result: what nobody asked for
STRAY = r'''
def edit(msg):
    if msg["resp"] != "build_result":
        return [msg]
    piece = {"resp": "file_piece", "board": msg["board"], "commit_upto": msg["commit_upto"],
             "offset": 0, "data": SMALL, "last": True, "size": 6, "sha256": ""}
    return [
        dict(msg, board="nosuch"), dict(msg, board="../../nosuch"), dict(msg, commit_upto=99),
        dict(msg, board="hammock"),
        dict(piece, name="../../evil"), dict(piece, name="/tmp/evil"),
        dict(piece, name=".config"), dict(piece, name="u-boot", board="nosuch"),
        dict(piece, name="done"), dict(piece, name="host"),
        dict(piece, name="u-boot", sha256=hashlib.sha256(b"owned\n").hexdigest()),
        {"resp": "board_done", "board": "nosuch"}, {"resp": "error", "msg": ESCAPE},
        {"resp": "quit_ack"}, {"resp": "ready", "nthreads": 1000},
        {"resp": "started", "board": "nosuch", "commit_upto": 3},
        {"resp": "build_done", "exceptions": 7}, {"resp": "configure_done"},
        {"resp": "no-such-kind", "x": ESCAPE}, b"BM> " + b"[" * 100000 + b"\n",
        b"\x1b]0;owned\x07 noise\n", b"BM> \xff\xfe\x00\n", msg, msg]
'''

# In place of the first result of each board: one with something in it that may not be
BAD = r'''
def edit(msg):
    if msg["resp"] != "build_result" or msg["board"] not in BAD:
        return [msg]
    return [BAD.pop(msg["board"])(msg)]
'''

BAD_RESULTS = {
    'up': ('dict(msg, files={"../../../evil": SMALL})', 'makes no sense'),
    'absolute': ('dict(msg, files={"/tmp/evil": SMALL})', 'makes no sense'),
    'unlisted': ('dict(msg, files={"evil.sh": SMALL})', 'refused: it holds evil.sh'),
    'done': ('dict(msg, files={"done": SMALL})', 'refused: it holds done'),
    'hidden': ('dict(msg, files={".bashrc": SMALL})', 'refused: it holds .bashrc'),
    'bomb': ('dict(msg, files={".config": HUGE})', 'makes no sense: .*over'),
    'type': ('dict(msg, return_code="0")', 'makes no sense'),
    'line': ('b\'BM> {"resp": "build_result", "stdout": "\' + b"x" * (65 << 20) + b\'"}\\n\'',
             'makes no sense: a line of'),
}


class TestHostile(StubCase):
    """FAULT 15: bad results from one machine; the other one is honest"""

    names = ('good', 'evil')
    settings = '[distributed]\nheartbeat = 1\n'
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 4, 'commits': 1}

    def edit(self, code: str) -> None:
        """Have the messages of the evil machine edited"""
        path = self.out('edit.py')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(COMMON + code)
        self.misbehave('evil', f'edit {path} match=--worker')

    def check(self, done: support.Result, *args: str) -> None:
        """The tree is whole and true, nothing is outside it, the terminal is safe"""
        ref, status = self.local(*args)
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assert_once()
        self.assert_clean(done.stderr)
        for folder, _, names in os.walk(self.out()):
            found = {*names, *folder.split('/')}
            self.assertFalse({'evil', 'evil.sh', '.bashrc', 'nosuch'} & found, folder)
        self.assertFalse(os.path.exists('/tmp/evil'))
        self.assert_harmless(done.stdout, done.stderr)

    def assert_harmless(self, *texts: str) -> None:
        """Fail if there is something in texts that does something to a terminal"""
        for text in texts:
            found = re.search('.*[\x00-\x08\x0b-\x1f\x7f-\x9f].*', text)
            self.assertFalse(found, repr(found))

    def test_not_asked_for(self) -> None:
        """Boards, commits and files that were not given out; all results of it are as they should
        """
        self.edit(STRAY)
        done = self.dist('--no-local', '--use-machines', 'evil', '-x', 'hammock')
        self.check(done, '-x', 'hammock')
        log = read(self.results(), 'worker-evil.log')
        for text in ("('nosuch', ", "('hammock', ", "a file 'u-boot' was not asked for",
                     "'name' is not a plain relative file name", 'no-such-kind'):
            self.assertIn(text, log)
        self.assertRegex(done.stdout, r'(?m)^\[evil\] .*hello')
        self.assertEqual(6, len([job for job in joblog(self.results())
                                 if job['status'].isdigit()]))

    def test_bad_results(self) -> None:
        """What may not be in a result: it is not taken, the board is built again, who sent it named
        """
        names = list(BAD_RESULTS)
        # One for each board
        for kinds in (names[:4], names[4:]):
            with self.subTest(kinds=kinds):
                self.edit('BAD = {' + ', '.join(
                    f'"{board}": lambda msg: {BAD_RESULTS[kind][0]}'
                    for board, kind in zip(self.tree.targets, kinds)) + '}' + BAD)
                out = self.out('-'.join(kinds))
                done = self.dist('--no-local', '--use-machines', 'evil', '-c', '1', '-o', out)
                for kind in kinds:
                    self.assertRegex(done.stdout, rf'(?m)^\[evil\] .*{BAD_RESULTS[kind][1]}')
                self.assertEqual(4, len(re.findall(
                    r"(?m)^\[evil\] (?:sent .* makes no sense|result of '\w+' refused)",
                    done.stdout)), done)
                ref, status = self.local('-c', '1')
                self.assertEqual(status, done.returncode, done)
                self.assert_same(ref, os.path.join(out, 'feature'))
                self.assertFalse(os.path.exists('/tmp/evil'))

    def test_escapes(self) -> None:
        """What a build prints can do nothing to a terminal, whoever looks at it, and when"""
        self.edit(r'''
def edit(msg):
    if msg["resp"] == "build_result":
        files = dict(msg["files"])
        for name in (".config", "u-boot.cfg", "autoconf.h", "uboot.env", "u-boot.sizes"):
            if name in files:
                text = zlib.decompress(base64.b64decode(files[name]))
                files[name] = pack(text + b"CONFIG_X=" + ESCAPE.encode() + b"\n"
                                   + b"00000020 T " + ESCAPE.encode() + b"\n")
        msg = dict(msg, files=files, stderr="a.c:1:1: warning: " + ESCAPE + "\n",
                   stdout=ESCAPE)
        msg["sizes"] = {"raw": ESCAPE + msg["sizes"].get("raw", "")}
    return [msg]
''')
        done = self.dist('--no-local', '--use-machines', 'evil', 'sandbox', '-v', '-e')
        self.assertEqual(101, done.returncode, done)
        texts = [done.stdout, done.stderr]
        for flags in (['-s', '-e', '-l'], ['-s', '-S', '-d', '-B'], ['-s', '-K', '-U']):
            done = self.run_buildman('-b', 'feature', '-o', self.out(), 'sandbox', *flags)
            texts += [done.stdout, done.stderr]
        for folder, _, names in os.walk(self.results()):
            texts += [read(folder, name) for name in names if name in ('err', 'log')]
        self.assertIn('hello', texts[0])
        self.assert_harmless(*texts)
