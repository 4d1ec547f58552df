# SPDX-License-Identifier: GPL-2.0+
"""One module each, as far as it can be tested by itself; folders as in tools/buildman."""
