# SPDX-License-Identifier: GPL-2.0+
"""What a machine sends becomes events for the loop."""

from __future__ import annotations

import os
import tempfile
import unittest
from typing import List

from buildman.core import events
from buildman.core.outcome import Failure, FailureKind
from buildman.remote.logs import WorkerLog
from buildman.remote.receiver import Receiver
from buildman.wire import messages


class TestReceiver(unittest.TestCase):
    """Messages go in, events come out."""

    def setUp(self) -> None:
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.events: List[events.Event] = []
        log = WorkerLog(os.path.join(tmp.name, 'worker.log'))
        self.addCleanup(log.close)
        self.receiver = Receiver('m', self.events.append, log, tmp.name, False)
        self.receiver.tells_done = True

    def test_attempts(self) -> None:
        """What is of an earlier attempt is neither kept nor taken for the end of this one"""
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
            [(type(event).__name__, event.attempt) for event in self.events
             if isinstance(event, (events.Built, events.BoardDone))])
        self.assertFalse(self.receiver.owes)

    def test_failure(self) -> None:
        """Whether a board is tried again is told by the kind; an older machine has the text only"""
        for text, kind, want in (
                ('', '', None),
                ('Platz alle', 'no-space', Failure(FailureKind.NO_SPACE, 'Platz alle')),
                ('a command was not found (bison)', '',
                 Failure(FailureKind.NO_COMMAND, 'a command was not found (bison)'))):
            self.receiver.expect('b', (0,))
            line = messages.encode(messages.BuildResult('b', 0, 2, infra=text, infra_kind=kind))
            self.receiver.take(messages.decode_response(line[len(messages.RESPONSE_PREFIX):]))
            built = self.events.pop()
            assert isinstance(built, events.Built)
            self.assertEqual(want, built.outcome.infra)


if __name__ == '__main__':
    unittest.main()
