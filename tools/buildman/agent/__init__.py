# SPDX-License-Identifier: GPL-2.0+
"""What runs on a machine."""
