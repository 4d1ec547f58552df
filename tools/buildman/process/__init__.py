# SPDX-License-Identifier: GPL-2.0+
"""Programs and processes that we start, and how they end."""
