# SPDX-License-Identifier: GPL-2.0+
"""One machine builds: slots, makes, and what is kept of them. Runs on both ends."""
