# SPDX-License-Identifier: GPL-2.0+
"""Compilers, under the name by which other tools of a U-Boot tree (qconfig) know them."""

from buildman.core.plan import Toolchain
from buildman.toolchains.find import Toolchains

__all__ = ['Toolchain', 'Toolchains']
