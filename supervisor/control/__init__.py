# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's control socket: who calls, what they may call, and the operations that they asked for.

`calls` is the table of everything a client can ask for; what is not in it cannot be asked.
"""
