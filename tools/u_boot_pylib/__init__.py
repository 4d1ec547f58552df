# SPDX-License-Identifier: GPL-2.0+
"""Small helpers that the U-Boot tools share: processes, files, terminal, messages."""
