# SPDX-License-Identifier: GPL-2.0+
"""The boards of a tree, and which of them a command line selects."""
