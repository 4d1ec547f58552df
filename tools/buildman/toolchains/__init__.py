# SPDX-License-Identifier: GPL-2.0+
"""Compilers: found, chosen for a board, downloaded."""
