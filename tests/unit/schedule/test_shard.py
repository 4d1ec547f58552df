# SPDX-License-Identifier: GPL-2.0+
"""Shards are disjoint, complete, about as long, and the same on each machine."""

import random
import unittest
from typing import Dict, List

from buildman.core.plan import Board
from buildman.schedule.shard import note, split

# As many as U-Boot has, in SoCs of one to thirty boards
COUNT = 1547


def made_boards(rnd: random.Random) -> List[Board]:
    """Return boards"""
    socs = [(rnd.choice(('arm', 'aarch64', 'powerpc', 'riscv')), f'soc{number}')
            for number in range(150)]
    return [Board(f'b{number}', arch, soc, soc=soc, vendor=f'v{number % 40}')
            for number in range(COUNT) for arch, soc in [rnd.choice(socs)]]


class ShardTest(unittest.TestCase):
    """Who gets what"""

    def setUp(self) -> None:
        rnd = random.Random(7)
        self.boards = made_boards(rnd)
        usual: Dict[str, float] = {}
        self.costs = {board.target: usual.setdefault(board.cpu, rnd.lognormvariate(3, .5))
                      * rnd.uniform(.8, 1.2) for board in self.boards}

    def test_even(self) -> None:
        """Each board is in one shard; the longest takes a tenth more than usual at most"""
        rough = {target: cost * random.Random(target).uniform(.8, 1.2)
                 for target, cost in self.costs.items()}
        for known in ({}, self.costs, rough):
            for count in (3, 20):
                parts = split(self.boards, known, count)
                self.assertEqual(sorted(self.costs), sorted(
                    board.target for part in parts for board in part))
                loads = [sum(self.costs[board.target] for board in part) for part in parts]
                self.assertLessEqual(max(loads), 1.1 * sum(loads) / count, count)

    def test_longest_first(self) -> None:
        """A few boards of which some take much longer"""
        boards = [Board(name, 'arm') for name in 'abcdef']
        costs = dict(zip('abcdef', (1, 2, 3, 4, 5, 9)))
        self.assertEqual(['cf', 'abde'], [''.join(board.target for board in part)
                                          for part in split(boards, costs, 2)])
        part = note(split(boards, costs, 2), 2)
        self.assertEqual(((2,), 2, 12), (part.numbers, part.count, len(part.digest)))

    def test_same(self) -> None:
        """Neither the order of the boards nor anything of a machine changes who gets what"""
        parts = split(self.boards, self.costs, 7)
        mixed = list(self.boards)
        random.Random(1).shuffle(mixed)
        others = split(mixed, self.costs, 7)
        self.assertEqual([set(part) for part in parts], [set(part) for part in others])
        self.assertEqual(note(parts, 3), note(others, 3))
        self.assertNotEqual(note(parts, 3).digest, note(split(mixed, {}, 7), 3).digest)
        self.assertEqual([[mixed[0]], [], []], sorted(split(mixed[:1], {}, 3), reverse=True))


if __name__ == '__main__':
    unittest.main()
