# SPDX-License-Identifier: GPL-3.0-or-later
"""The privileged side: event loop, children, operations and the command line."""
