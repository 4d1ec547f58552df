# SPDX-License-Identifier: GPL-2.0+
"""The real command on the sample tree, as a user calls it."""
