# SPDX-License-Identifier: GPL-2.0+
"""The far end, under the name by which callers know it; see `agent.serve`."""

from buildman.agent.serve import RESPONSE_PREFIX, Worker, entry, main

__all__ = ['RESPONSE_PREFIX', 'Worker', 'entry', 'main']

if __name__ == '__main__':
    entry()
