# SPDX-License-Identifier: GPL-2.0+
"""A headless Chromium that tests drive: the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from typing import Any, Dict, List, Tuple

import support

# Chromium in a container, as root: no sandbox, little shared memory
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
         '--no-first-run', '--disable-background-networking', '--remote-debugging-pipe')

# Keys by name: their code, and the text that they make
KEYS: Dict[str, Tuple[int, str]] = {
    'Enter': (13, '\r'), 'Escape': (27, ''), 'End': (35, ''), 'Home': (36, ''),
    'ArrowLeft': (37, ''), 'ArrowUp': (38, ''), 'ArrowRight': (39, ''), 'ArrowDown': (40, '')}


class Browser:
    """One browser with one page.

    Attributes:
        events: what it told by itself, e.g. of dialogs and errors
    """

    def __init__(self) -> None:
        program = 'google-chrome' if shutil.which('google-chrome') else 'chromium'
        support.needs(program)
        self.events: List[Dict[str, Any]] = []
        self._home = tempfile.mkdtemp(prefix='buildman-test-browser-')
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        # It reads from descriptor 3 and writes to 4
        self._process = subprocess.Popen(
            ['sh', '-c', f'exec {program} "$@" 3<&{theirs} 4>&{answers}', 'sh', *FLAGS,
             f'--user-data-dir={self._home}', '--window-size=1300,800', 'about:blank'],
            pass_fds=(theirs, answers), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, 'HOME': self._home},
            start_new_session=True)
        os.close(theirs)
        os.close(answers)
        self._rest = b''
        self._last = 0
        self._session = ''
        pages = [item for item in self.call('Target.getTargets')['targetInfos']
                 if item['type'] == 'page']
        self._session = self.call('Target.attachToTarget', targetId=pages[0]['targetId'],
                                  flatten=True)['sessionId']
        for room in ('Page', 'Runtime', 'Network', 'Log'):
            self.call(f'{room}.enable')

    def _receive(self) -> Dict[str, Any]:
        """Return the next message"""
        end = time.monotonic() + support.TIMEOUT
        while b'\0' not in self._rest:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError('Chromium does not answer')
            data = os.read(self._in, 1 << 16)
            if not data:
                raise AssertionError('Chromium has ended')
            self._rest += data
        line, _, self._rest = self._rest.partition(b'\0')
        message: Dict[str, Any] = json.loads(line)
        return message

    def call(self, method: str, **params: Any) -> Dict[str, Any]:
        """Give a command and return what comes back."""
        self._last += 1
        message = {'id': self._last, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._out, json.dumps(message).encode() + b'\0')
        while True:
            got = self._receive()
            if got.get('id') == self._last:
                if 'error' in got:
                    raise AssertionError(f"{method}: {got['error']}")
                result: Dict[str, Any] = got['result']
                return result
            if 'method' in got:
                self.events.append(got)

    def told(self, *kinds: str) -> List[Dict[str, Any]]:
        """Return the events of some kinds."""
        return [event for event in self.events if event['method'] in kinds]

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page; it may be one that is promised."""
        got = self.call('Runtime.evaluate', expression=script, awaitPromise=True,
                        returnByValue=True)
        if 'exceptionDetails' in got:
            raise AssertionError(f"{script}: {got['exceptionDetails']}")
        return got['result'].get('value')

    def wait(self, script: str) -> Any:
        """Return the value of an expression as soon as it is true, or that of a node: True."""
        look = f'(got => got instanceof Node || got)({script})'
        return support.wait_until(lambda: self.run(look), name=script)

    def show(self, path: str, words: str = '') -> None:
        """Load a page of buildman's and wait until it is there.

        Args:
            path: the file
            words: what follows '#'
        """
        self.call('Page.navigate', url='about:blank')
        self.call('Page.navigate', url=f'file://{path}#{words}')
        self.wait("document.documentElement?.dataset.ready === 'yes'"
                  " || document.getElementById('status')?.textContent.startsWith('This page')")

    def press(self, *keys: str) -> None:
        """Press keys: names of KEYS, or text of one character."""
        for key in keys:
            code, text = KEYS.get(key, (0, key))
            event = {'key': key, 'windowsVirtualKeyCode': code}
            self.call('Input.dispatchKeyEvent', type='keyDown', **event,
                      **({'text': text} if text else {}))
            self.call('Input.dispatchKeyEvent', type='keyUp', **event)

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError, AssertionError):
            self._session = ''
            self.call('Browser.close')
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._home, ignore_errors=True)
