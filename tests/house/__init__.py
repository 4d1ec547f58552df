# SPDX-License-Identifier: GPL-2.0+
"""The repository, and the helpers that other tests believe."""
