# SPDX-License-Identifier: GPL-2.0+
"""Machines that send without end: one bound for all that they do not owe, then lost and named."""

from __future__ import annotations

import os

from dist_support import QUICK, StubCase, read

# What each machine sends, as often as COUNT, as soon as it is ready; and what is said of it
FLOODS = {
    'noise': ('b"hello, this is noise\\n"', 'lines of noise'),
    'beats': ('{"resp": "heartbeat", "load_avg": 0.0, "active": 0}', 'heartbeats'),
    'nonsense': ('b"BM> {\\n"', 'messages that make no sense'),
    'errors': ('{"resp": "error", "msg": "x" * 900}', 'errors'),
    'unknown': ('{"resp": "hello", "x": "x" * 900}', 'messages of unknown kinds'),
    'started': ('{"resp": "started", "board": "sandbox", "commit_upto": 7}',
                "messages 'started' that were not asked for"),
    'pieces': ('{"resp": "file_piece", "board": "sandbox", "commit_upto": 1 + n, "name": "u-boot",'
               ' "offset": 0, "data": BOMB, "last": False, "size": 1 << 20, "sha256": ""}',
               "messages 'file_piece' that were not asked for"),
    'complaints': ('os.write(2, b"y" * 900 + b"\\n") and b""', 'lines on stderr'),
}

FLOOD = """
import base64, os, zlib
BOMB = base64.b64encode(zlib.compress(bytes(1 << 20))).decode()
def edit(msg):
    if msg["resp"] != "build_prepare_done":
        return [msg]
    flood = [%s for n in range(20_000)]
    return [msg] + flood if READY else flood + [msg]
"""


class TestFloods(StubCase):
    """FAULT 27"""

    names = ('good', *FLOODS)
    sample_args = QUICK

    def test_all(self) -> None:
        """All but the good one are lost, named with what they sent, and have cost little"""
        for name, (code, _) in FLOODS.items():
            path = self.out(f'{name}.py')
            with open(path, 'w', encoding='utf-8') as outf:
                # A board that goes down with three machines would be given up
                outf.write(f'READY = {name in ("errors", "nonsense")}' + FLOOD % code)
            self.misbehave(name, f'edit {path} match=--worker')
        self.hold('good', *FLOODS)
        ref, status = self.local('-k', '-r')
        done = self.dist('--no-local', '-k', '-r')
        self.assertEqual(status, done.returncode, done.stdout[-3000:])
        self.assert_same(ref)
        self.assert_clean(done.stderr)
        self.assertEqual({'good'}, set(self.hosts().values()))
        for name, (_, said) in FLOODS.items():
            with self.subTest(name=name):
                [line] = [line for line in done.stdout.splitlines()
                          if line.startswith(f'[{name}] lost: ')]
                self.assertRegex(line, f'it sent too much that it does not owe: .*{said}')
                log = os.path.join(self.results(), f'worker-{name}.log')
                self.assertLess(os.path.getsize(log), 3 << 20)
                self.assertNotIn('Traceback', read(log))
        # 20,000 of each were sent
        self.assertLess(len(done.stdout), 3 << 20)
