# SPDX-License-Identifier: GPL-2.0+
"""Other machines, as the boss sees them."""
