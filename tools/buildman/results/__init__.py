# SPDX-License-Identifier: GPL-2.0+
"""The result tree: written, read, compared and told."""
