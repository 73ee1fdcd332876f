# SPDX-License-Identifier: GPL-3.0-or-later
"""Every path of the host, or of a helper's own root, that the launcher and the helpers use. None is configurable.

Paths on a guest's disk are no paths of ours: `reader` has those.
"""

from __future__ import annotations

ROOT = "/"

#: Where the launcher builds its own root: a folder that every Linux has. Nothing below it is written; it is covered.
STAGING = "/proc"
LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"
DEVPTS = "/dev/pts"

#: In the launcher's root: the helpers' future roots.
EMPTY_ROOT = "/empty"
PTY_ROOT = "/pty"

#: In the root of a pty helper.
PTMX = "/ptmx"
PTS = "/pts"
