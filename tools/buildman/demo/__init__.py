# SPDX-License-Identifier: GPL-2.0+
"""A small tree shaped like U-Boot, to try and test builds on."""
