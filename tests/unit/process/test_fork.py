# SPDX-License-Identifier: GPL-2.0+
"""Forked processes: half of the boards must not get lost with one, nor one stay."""

from __future__ import annotations

import os
import signal
import unittest
from typing import Any, Callable, Iterator

from buildman.core.errors import BoardError
from buildman.process.fork import Child, ChildDied, Parcel
from buildman.process.registry import STARTED


def once(func: Callable[[], Any]) -> Iterator[Any]:
    """Yield what a function returns."""
    yield func()


class ChildTest(unittest.TestCase):
    """What a child says, and how it ends."""

    def test_values(self) -> None:
        """Values come in their order, however large; the child waits until they are taken"""
        def work() -> Iterator[Any]:
            for num in range(3):
                yield {'a': [num, 'é'] * 50000}

        with Child(work, 'a test') as child:
            for num in range(3):
                self.assertEqual(child.next()['a'][:2], [num, 'é'])

    def test_error(self) -> None:
        """What a user can mend arrives as it was raised"""
        def fail() -> Iterator[Any]:
            yield 1
            raise BoardError('configs/x: broken')

        with Child(fail, 'a test') as child:
            self.assertEqual(child.next(), 1)
            with self.assertRaisesRegex(BoardError, '^configs/x: broken$'):
                child.next()

    def test_killed(self) -> None:
        """A process that the kernel ends (no memory) is an error, not an empty list."""
        for how, told in ((lambda: os.kill(os.getpid(), signal.SIGKILL), 'signal 9'),
                          (lambda: os._exit(3), 'status 3')):
            with Child(lambda how=how: once(how), 'the scan') as child, \
                    self.assertRaisesRegex(ChildDied, f'^the scan was cut short: .*{told}; '):
                child.next()

    def test_cut_value(self) -> None:
        """A value that came in part only is none"""
        class Half:
            """Dies while it is written"""

            def __reduce__(self) -> Any:
                os.kill(os.getpid(), signal.SIGKILL)
                return int, ()

        def work() -> Iterator[Any]:
            yield ['x' * 1000000, Half()]

        with Child(work, 'the scan') as child, self.assertRaises(ChildDied):
            child.next()

    def test_given_later(self) -> None:
        """A child has begun before it is told what is asked; more than a pipe holds fits in"""
        parcel = Parcel()

        def work() -> Iterator[Any]:
            yield 'begun'
            yield len(parcel.take())

        with Child(work, 'a test') as child:
            self.assertEqual(child.next(), 'begun')
            parcel.give(['x' * 100] * 5000)
            self.assertEqual(child.next(), 5000)

    def test_given_too_late(self) -> None:
        """A child that has failed before says why, and nobody waits for it to take more"""
        parcel = Parcel()

        def fail() -> Iterator[Any]:
            raise BoardError('Kconfig:3: broken')

        with Child(fail, 'a test') as child:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            parcel.give(['x' * 100] * 5000)
            with self.assertRaisesRegex(BoardError, 'Kconfig:3'):
                child.next()

    def test_never_given(self) -> None:
        """A child whose parent went before it was told anything does not wait for ever"""
        # Nobody else has an end of it, as when the parent is gone
        with self.assertRaises(BrokenPipeError):
            Parcel().take()

    def test_left(self) -> None:
        """Leaving early ends the process and those that it has started."""
        read_end, write_end = os.pipe()

        def forever() -> Iterator[Any]:
            with Child(lambda: once(signal.pause), 'inner', nested=True) as inner:
                os.write(write_end, b'up')
                yield inner.next()

        with os.fdopen(read_end, 'rb') as inf:
            with Child(forever, 'outer') as child:
                os.close(write_end)
                self.assertEqual(inf.read(2), b'up')
                pid = child.pid
                self.assertIn(pid, [group.pid for group in STARTED.find()])
            # The end comes only when both have gone
            self.assertEqual(inf.read(), b'')
        with self.assertRaises(ChildProcessError):
            os.waitpid(pid, 0)
        self.assertEqual([], STARTED.find())

    def test_not_the_parents(self) -> None:
        """What the parent has started is none of a child's business"""
        with Child(lambda: once(signal.pause), 'one') as first, \
                Child(lambda: once(lambda: len(STARTED.find())), 'two') as second:
            self.assertEqual(0, second.next())
            self.assertEqual({first.pid, second.pid}, {group.pid for group in STARTED.find()})


if __name__ == '__main__':
    unittest.main()
