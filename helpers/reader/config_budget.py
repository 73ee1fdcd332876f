# SPDX-License-Identifier: GPL-3.0-or-later
"""What evaluating a disk's boot configuration may cost, shared by all of its files."""

from __future__ import annotations

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason

from .interface import Tree

LOOKUP_STEPS = 20  # steps that one path look-up counts as: it reads the disk


class ConfigBudget:
    """Counts bytes read, steps taken and bytes expanded; every method raises DiskError(BUDGET) beyond its limit.

    One budget serves one disk, whatever number of configuration files it holds, so that a configuration that
    sources another pays from the same purse.
    """

    def __init__(
        self,
        *,
        steps: int = limits.CONFIG_STEPS,
        expanded: int = limits.CONFIG_EXPANDED_BYTES,
        total: int = limits.CONFIG_TOTAL_BYTES,
    ) -> None:
        self.steps_left = steps
        self.expanded_left = expanded
        self.bytes_left = total
        self.entries_left = limits.ENTRIES

    def step(self, count: int = 1) -> None:
        """Pay for `count` tokens or commands."""
        self.steps_left -= count
        if self.steps_left < 0:
            raise _beyond("takes too many steps to evaluate")

    def look_up(self) -> None:
        """Pay for following one path."""
        self.step(LOOKUP_STEPS)

    def expand(self, length: int) -> None:
        """Pay for `length` bytes that a word expanded to."""
        self.expanded_left -= length
        if self.expanded_left < 0:
            raise _beyond("expands its variables to too many bytes")

    def entry(self) -> None:
        """Pay for one menu entry or submenu."""
        self.entries_left -= 1
        if self.entries_left < 0:
            raise _beyond(f"has more than {limits.ENTRIES} entries")

    def read(self, tree: Tree, path: bytes) -> bytes:
        """The configuration file at `path` of `tree`. Also raises what Tree.read raises."""
        self.look_up()
        if self.bytes_left <= 0:
            raise _beyond(f"is larger than {limits.CONFIG_TOTAL_BYTES} bytes")
        content = tree.read(path, min(limits.CONFIG_BYTES, self.bytes_left))
        self.bytes_left -= len(content)
        return content


def _beyond(what: str) -> DiskError:
    return DiskError(DiskReason.BUDGET, f"the boot configuration {what}")
