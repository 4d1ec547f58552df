# SPDX-License-Identifier: GPL-2.0+
"""What goes over a connection: messages, their checks, their lines."""
