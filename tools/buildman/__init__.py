# SPDX-License-Identifier: GPL-2.0+
"""buildman: builds every board and every commit of a U-Boot branch."""

__version__ = '0.1.0'
