# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks whether this process's part of the cgroup tree is delegated to it, cgroups(7). Nothing is changed there."""

from __future__ import annotations

import os
from pathlib import Path

from . import paths

#: What an operation's own group would bound.
_CONTROLLERS = frozenset({"memory", "pids"})


def cgroup_delegated() -> bool:
    """Whether groups with bounds on memory and processes can be made below this process's own, in the unified tree."""
    try:
        own = next(line for line in paths.OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))[3:]
        folder = Path(f"{paths.CGROUPS}{own}")
        controllers = set((folder / "cgroup.controllers").read_text().split())
    except (OSError, StopIteration):
        return False
    return controllers >= _CONTROLLERS and os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
