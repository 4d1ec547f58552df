# SPDX-License-Identifier: GPL-2.0+
"""What was told waits outside while there is much inside."""

import queue
import threading
import time
import unittest

from buildman.core.events import Built, SlotReady
from buildman.core.outcome import Outcome
from buildman.schedule.inbox import Inbox


class TestInbox(unittest.TestCase):
    """Who waits, and for how long"""

    def post(self, inbox, number):
        """Post a result in another thread, which is returned"""
        thread = threading.Thread(target=inbox.post, args=(Built('w', Outcome('b', number, 0)),),
                                  daemon=True)
        thread.start()
        return thread

    def left(self, inbox):
        """Return the numbers of what is in there"""
        out = []
        while True:
            try:
                event = inbox.get_nowait()
            except queue.Empty:
                return out
            out.append(event.outcome.commit_upto if isinstance(event, Built) else event.slot)

    def test_waits(self):
        """A result waits for room, anything else does not"""
        inbox = Inbox(2, 600)
        for number in range(2):
            inbox.post(Built('w', Outcome('b', number, 0)))
        thread = self.post(inbox, 2)
        inbox.post(SlotReady('w', 7))
        thread.join(0.05)
        self.assertTrue(thread.is_alive())
        # Three are left, then two, then there is room
        inbox.get()
        thread.join(0.05)
        self.assertTrue(thread.is_alive())
        inbox.get()
        thread.join(60)
        self.assertFalse(thread.is_alive())
        self.assertEqual([7, 2], self.left(inbox))

    def test_patience(self):
        """Not for ever; and not at all when the loop has ended"""
        inbox = Inbox(0, 0.05)
        begin = time.monotonic()
        inbox.post(Built('w', Outcome('b', 0, 0)))
        self.assertGreaterEqual(time.monotonic() - begin, 0.05)
        inbox = Inbox(0, 600)
        threads = [self.post(inbox, number) for number in range(3)]
        inbox.hurry()
        threads.append(self.post(inbox, 3))
        for thread in threads:
            thread.join(60)
            self.assertFalse(thread.is_alive())
        self.assertEqual([0, 1, 2, 3], sorted(self.left(inbox)))

    def test_many(self):
        """Many that post at once all get in, each in its order, and never more than that"""
        inbox, most = Inbox(5, 600), 0

        def post(worker):
            for number in range(50):
                inbox.post(Built(worker, Outcome('b', number, 0)))

        threads = [threading.Thread(target=post, args=(f'w{number}',), daemon=True)
                   for number in range(8)]
        for thread in threads:
            thread.start()
        got = {}
        for _ in range(8 * 50):
            most = max(most, inbox.qsize())
            event = inbox.get(timeout=60)
            got.setdefault(event.worker, []).append(event.outcome.commit_upto)
        self.assertEqual({f'w{number}': list(range(50)) for number in range(8)}, got)
        # Between the look and the putting another one may get in
        self.assertLess(most, 5 + 8)
