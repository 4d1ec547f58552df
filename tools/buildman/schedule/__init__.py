# SPDX-License-Identifier: GPL-2.0+
"""Who builds what, and the loop that owns a run."""
