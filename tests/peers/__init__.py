# SPDX-License-Identifier: GPL-2.0+
"""The two ends of a connection, each with other partners; callers of `boss`."""
