# SPDX-License-Identifier: GPL-2.0+
"""What all rooms speak of: the plan of a run, what comes out of it, how it fails. Plain data."""
