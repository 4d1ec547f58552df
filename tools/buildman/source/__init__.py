# SPDX-License-Identifier: GPL-2.0+
"""The user's branch, and the source of a slot at any of its commits."""
