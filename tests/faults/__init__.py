# SPDX-License-Identifier: GPL-2.0+
"""What goes wrong: machines, disks, boards, data; and what is left then."""
