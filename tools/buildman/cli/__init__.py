# SPDX-License-Identifier: GPL-2.0+
"""The command line, and what it leads to."""
