# SPDX-License-Identifier: GPL-3.0-or-later
"""What both sides share: framing, messages, limits and errors. Imports neither side."""
