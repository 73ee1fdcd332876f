# SPDX-License-Identifier: GPL-3.0-or-later
"""The menu as GRUB builds it, a tree, and how it becomes a `BootMenu`: a list with a default."""

from __future__ import annotations

from collections.abc import Iterator

from domward.protocol.records import field, mutable

from .boot_draft import Draft
from .config_budget import ConfigBudget
from .grub_test import number
from .interface import BootEntry, BootMenu

FALLBACKS = 32  # entries that `fallback` may name; each is looked for


@mutable
class MenuItem:
    """An entry, which has a `draft`, or a submenu, which has `children`."""

    title: bytes
    id: bytes
    draft: Draft | None = None
    children: GrubMenu | None = None
    index: int = -1  # where the entry is in the flat list


@mutable
class GrubMenu:
    """One level of the menu with the variables that decide what it starts with."""

    items: list[MenuItem] = field(default_factory=list)
    default: bytes = b""
    fallback: bytes = b""
    timeout: bytes = b""

    def flatten(self, source: str, budget: ConfigBudget) -> BootMenu | None:
        """Every entry in the order shown, submenus in place; None where there is none. DiskError(BUDGET)."""
        entries: list[BootEntry] = []
        for item, path in _leaves(self, ()):
            assert item.draft is not None  # a leaf
            item.index = len(entries)
            entries.append(item.draft.entry(item.title, path, item.id, budget))
        if not entries:
            return None
        default = _locate(self, self.default)
        if default is None or entries[default].problem:
            for spec in self.fallback.split(None, FALLBACKS)[:FALLBACKS]:
                index = _locate(self, spec)
                if index is not None and not entries[index].problem:
                    default = index
                    break
        return BootMenu(tuple(entries), default or 0, _timeout(self.timeout), source)


def _leaves(menu: GrubMenu, path: tuple[bytes, ...]) -> Iterator[tuple[MenuItem, tuple[bytes, ...]]]:
    """Depth is bounded where the menu is built."""
    for item in menu.items:
        if item.children is None:
            yield item, path
        else:
            yield from _leaves(item.children, (*path, item.title))


def split_entry_path(spec: bytes) -> list[bytes]:
    """`a>b>>c` as [`a`, `b>c`]: GRUB writes a `>` of a title twice."""
    parts = [part.replace(b"\0", b">") for part in spec.replace(b"\0", b"").replace(b">>", b"\0").split(b">")]
    return [part for part in parts if part]


def _locate(menu: GrubMenu, spec: bytes) -> int | None:
    """The flat index of what `spec` names; as in GRUB the first item of a level where it names none there."""
    parts = split_entry_path(spec)
    level: GrubMenu | None = menu
    while level is not None and level.items:
        item = _item(level, parts[0] if parts else level.default)
        if item.children is None:
            return item.index
        parts, level = parts[1:], item.children
    return None


def _item(menu: GrubMenu, name: bytes) -> MenuItem:
    name = name.strip()
    if name.isdigit():
        index = number(name)
        return menu.items[index if index < len(menu.items) else 0]
    for item in menu.items:
        if name and name in (item.id, item.title):
            return item
    return menu.items[0]


def _timeout(value: bytes) -> float | None:
    """Seconds. GRUB waits for ever where the variable is unset, negative or no number."""
    seconds = value.strip()
    return float(number(seconds)) if seconds.isdigit() else None
