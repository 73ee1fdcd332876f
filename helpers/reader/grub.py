# SPDX-License-Identifier: GPL-3.0-or-later
"""grub.cfg as a boot menu."""

from __future__ import annotations

from domward.protocol.errors import printable

from .boot_paths import BootPaths, Location
from .config_budget import ConfigBudget
from .grub_script import run_configuration
from .interface import BootMenu, Forest, Tree


def load_grub(forest: Forest, tree: Tree, path: bytes, budget: ConfigBudget) -> BootMenu | None:
    """The menu of the grub.cfg at `path` of `tree`; None where it declares no entry.

    The default is what GRUB would start: `default` (a number, title, id, or a path `submenu>entry` of those;
    `saved_entry` and `next_entry` reach it through the environment block), and where that cannot boot the first of
    `fallback` that can. A hidden time-out counts as one that is shown.

    DiskError where the file cannot be read, and BUDGET.
    """
    menu = run_configuration(BootPaths(forest, budget), Location(tree, path))
    return menu.flatten(f"grub:{tree.index}:{printable(path)}", budget)
