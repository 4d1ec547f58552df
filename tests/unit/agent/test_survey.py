# SPDX-License-Identifier: GPL-2.0+
"""What a machine tells of itself, where even that is hard."""

from __future__ import annotations

import unittest
from unittest import mock

from buildman.agent import survey


class AtOnceTest(unittest.TestCase):
    """Tools are asked for their versions all at the same time."""

    def test_no_threads(self) -> None:
        """An account that may start no more threads tells what it has all the same"""
        with mock.patch('threading.Thread.start', side_effect=RuntimeError("can't start")):
            self.assertEqual(survey.at_once({'git': lambda: '2.39', 'dtc': lambda: ''}),
                             {'git': '2.39', 'dtc': ''})
