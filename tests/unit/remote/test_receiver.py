# SPDX-License-Identifier: GPL-2.0+
"""What a machine sends, as events: each once, what was not asked for at its own expense."""

from __future__ import annotations

import hashlib
import os
import tempfile
import unittest
from typing import List

from buildman.core import events
from buildman.core.outcome import Failure, FailureKind
from buildman.remote import budget
from buildman.remote.logs import WorkerLog
from buildman.remote.receiver import Receiver
from buildman.wire import messages


class Purse(budget.Budget):
    """Notes what it pays for"""

    def __init__(self) -> None:
        super().__init__()
        self.paid: List[str] = []

    def spend(self, price: float, what: str) -> None:
        """Note it"""
        self.paid.append(what)


class ReceiverTest(unittest.TestCase):
    """A machine that owes a board at two commits, with images"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.got: List[events.Event] = []
        self.purse = Purse()
        log = WorkerLog(os.path.join(self.dir, 'log'))
        self.addCleanup(log.close)
        self.stage = os.path.join(self.dir, 'stage')
        os.mkdir(self.stage)
        self.receiver = Receiver('box', self.got.append, log, self.stage, True, self.purse)
        self.receiver.expect('anvil', [2, 3])

    def piece(self, upto: int, data: bytes = b'abc', offset: int = 0,
              last: bool = True) -> messages.FilePiece:
        """Return a piece of an image"""
        return messages.FilePiece('anvil', upto, 'u-boot', offset, data, last, len(data),
                               hashlib.sha256(data).hexdigest(), 0o644)

    def test_started(self) -> None:
        """A board begins once at each commit that is owed"""
        for upto in (2, 2, 3, 1):
            self.receiver.take(messages.Started('anvil', upto))
        self.receiver.take(messages.Started('nosuch', 2))
        self.assertEqual([events.Started('box', 'anvil', upto) for upto in (2, 3)], self.got)
        self.assertEqual(["messages 'started' that were not asked for"] * 3, self.purse.paid)
        self.receiver.expect('anvil', [3])
        self.receiver.take(messages.Started('anvil', 3))
        self.assertEqual(3, len(self.got))

    def test_images(self) -> None:
        """Images of a commit that is not owed are not written, of several only the last one's"""
        self.receiver.take(self.piece(1))
        self.assertEqual([], os.listdir(self.stage))
        self.assertEqual(1, len(self.purse.paid))
        self.receiver.take(self.piece(2))
        self.assertEqual(1, len(self.purse.paid))
        self.receiver.take(self.piece(3))
        self.assertEqual(['box.stage-anvil-3'], os.listdir(self.stage))
        self.assertEqual(2, len(self.purse.paid))
        self.receiver.take(messages.BuildResult('anvil', 3, 0))
        [built] = [event for event in self.got if isinstance(event, events.Built)]
        self.assertEqual(['u-boot'], list(built.outcome.images))

    def test_bad_pieces(self) -> None:
        """Pieces that do not fit are told of once, and each is paid for"""
        for _ in range(5):
            self.receiver.take(self.piece(2, offset=7))
        self.assertEqual(5, len(self.purse.paid))
        self.assertEqual(1, len(self.got))

    def test_attempts(self) -> None:
        """What is of an earlier attempt is neither kept nor taken for the end of this one"""
        self.receiver.take(messages.BoardDone('anvil'))
        self.got.clear()
        self.receiver.expect('b', (0, 1), 1)
        self.receiver.expect('b', (1,), 2)

        def result(upto: int, attempt: int) -> messages.BuildResult:
            return messages.BuildResult('b', upto, 0, attempt=attempt)

        done = messages.BoardDone
        for msg in (result(0, 1), result(0, 1), result(0, 2), result(1, 0), done('b', 1),
                    done('b', 1), result(1, 1), result(1, 2), done('b', 2), done('b'),
                    done('nosuch', 1)):
            self.receiver.take(msg)
        self.assertEqual(
            [('Built', 1), ('BoardDone', 1), ('Built', 2), ('BoardDone', 2)],
            [(type(event).__name__, event.attempt) for event in self.got
             if isinstance(event, (events.Built, events.BoardDone))])
        self.assertFalse(self.receiver.owes)

    def test_failure(self) -> None:
        """Whether a board is tried again is told by the kind; an older machine has the text only"""
        for text, kind, want in (
                ('', '', None),
                ('Platz alle', 'no-space', Failure(FailureKind.NO_SPACE, 'Platz alle')),
                ('a command was not found (bison)', '',
                 Failure(FailureKind.NO_COMMAND, 'a command was not found (bison)'))):
            self.receiver.expect('b', [0])
            line = messages.encode(messages.BuildResult('b', 0, 2, infra=text, infra_kind=kind))
            self.receiver.take(messages.decode_response(line[len(messages.RESPONSE_PREFIX):]))
            built = self.got.pop()
            assert isinstance(built, events.Built)
            self.assertEqual(want, built.outcome.infra)
