# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses one entry of a boot menu without asking anybody."""

from __future__ import annotations

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason, printable
from domward.protocol.records import replaced
from domward.protocol.text import has_control

from .grub_menu import split_entry_path
from .interface import BootEntry, BootMenu

LISTED_ENTRIES = 8  # entries: named in a sentence of refusal
LISTED_CHARACTERS = 64  # characters: of each title there


def choose(menu: BootMenu, entry: bytes | None = None) -> BootEntry:
    """The entry that `entry` names, or the default; its kernel is not None and its arguments fit Xen's limit.

    `entry` is a number (0 for the first, in the order of `menu.entries`), a title, an id, or `submenu>title` with each
    `>` within a title written twice. Numbers are tried first. Without it, a default that cannot boot gives
    way to the next entry after it that can, then to the first that can.

    DiskError: NO_SUCH_ENTRY; NO_BOOTABLE_ENTRY where the named entry, or every one, cannot boot; ARGS_INVALID.
    """
    chosen = menu.entries[default_index(menu)] if entry is None else _named(menu, entry)
    if chosen.problem or chosen.kernel is None:
        raise DiskError(
            DiskReason.NO_BOOTABLE_ENTRY, f"the entry '{shown(chosen)}' cannot boot: {chosen.problem or 'no kernel'}"
        )
    check_args(chosen.args)
    return chosen


def default_index(menu: BootMenu) -> int:
    """Where the entry is that starts by itself: the default, else the next after it that can boot, round to the first.

    DiskError(NO_BOOTABLE_ENTRY) where none can boot.
    """
    count = len(menu.entries)
    for step in range(count):
        index = (menu.default + step) % count
        if not menu.entries[index].problem:
            return index
    if not count:
        raise DiskError(DiskReason.NO_BOOTABLE_ENTRY, "the boot menu is empty")
    first = menu.entries[menu.default]
    raise DiskError(
        DiskReason.NO_BOOTABLE_ENTRY,
        f"none of the {count} boot entries can boot; the default, '{shown(first)}': {first.problem}",
    )


def check_args(args: bytes) -> None:
    """Whether `args` can be a guest's command line. DiskError(ARGS_INVALID) says why not."""
    if len(args) > limits.CMDLINE_BYTES:
        raise DiskError(
            DiskReason.ARGS_INVALID,
            f"the kernel's arguments are {len(args)} bytes; Xen takes at most {limits.CMDLINE_BYTES}",
        )
    if has_control(args):
        raise DiskError(DiskReason.ARGS_INVALID, "the kernel's arguments hold control characters")


def with_extra_args(menu: BootMenu, extra: bytes) -> BootMenu:
    """The menu with `extra` behind the arguments of every entry, where both are seen and can be edited."""
    if not extra:
        return menu
    entries = tuple(replaced(entry, args=joined_args(entry.args, extra)) for entry in menu.entries)
    return replaced(menu, entries=entries)


def joined_args(args: bytes, extra: bytes) -> bytes:
    """`args` and then `extra`, as one command line."""
    return b" ".join(part for part in (args, extra) if part)


def shown(entry: BootEntry) -> str:
    """The entry's title below those of its submenus, as a short printable line."""
    return printable(b" > ".join((*entry.path, entry.title)))[:LISTED_CHARACTERS]


def _named(menu: BootMenu, name: bytes) -> BootEntry:
    if name.isdigit() and len(name) <= 9 and int(name) < len(menu.entries):
        return menu.entries[int(name)]
    for entry in menu.entries:
        if name in (entry.title, entry.id) and name:
            return entry
    parts = tuple(split_entry_path(name))
    for entry in menu.entries:
        if len(parts) > 1 and parts[:-1] == entry.path and parts[-1] in (entry.title, entry.id):
            return entry
    listed = "; ".join(f"{index} '{shown(entry)}'" for index, entry in enumerate(menu.entries[:LISTED_ENTRIES]))
    more = len(menu.entries) - LISTED_ENTRIES
    raise DiskError(
        DiskReason.NO_SUCH_ENTRY,
        f"there is no boot entry '{printable(name)[:LISTED_CHARACTERS]}'; there are {listed}"
        + (f" and {more} more" if more > 0 else ""),
    )
