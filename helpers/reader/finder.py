# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the boot configuration of a disk: the one place that knows where each boot loader keeps it.

The first configuration that declares an entry wins. GRUB comes first, as it is what most guests boot with and the
others leave their files behind; within one kind the order of paths below, and for each path the order on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from domward.protocol.errors import DiskError, DiskReason, printable

from .bls import load_systemd_boot
from .boot_paths import attempt
from .config_budget import ConfigBudget
from .extlinux import load_extlinux
from .grub import load_grub
from .interface import BootMenu, Forest, Tree

GRUB_PATHS = (b"/boot/grub/grub.cfg", b"/boot/grub2/grub.cfg", b"/grub/grub.cfg", b"/grub2/grub.cfg")
# Distributions keep their root in a subvolume, whose path GRUB writes in full.
BTRFS_ROOTS = (b"/@", b"/root", b"/@rootfs")
EXTLINUX_PATHS = (
    b"/boot/extlinux/extlinux.conf",
    b"/extlinux/extlinux.conf",
    b"/boot/extlinux.conf",
    b"/extlinux.conf",
    b"/boot/syslinux/syslinux.cfg",
    b"/syslinux/syslinux.cfg",
    b"/boot/syslinux.cfg",
    b"/syslinux.cfg",
)
BLS_FOLDERS = (b"/loader/entries", b"/boot/loader/entries", b"/boot/efi/loader/entries", b"/efi/loader/entries")

Loader = Callable[[], BootMenu | None]


def find_menu(forest: Forest) -> BootMenu:
    """The boot menu of the disk. It has at least one entry, though perhaps none that can boot.

    DiskError: NO_BOOT_CONFIG where there is no configuration, NO_BOOTABLE_ENTRY where those found declare no entry,
    BUDGET where one costs too much; and what reading the disk raised, if that may be why nothing was found.
    """
    budget = ConfigBudget()
    first_fault: DiskError | None = None
    empty = b""
    for path, load in _candidates(forest, budget):
        try:
            menu = load()
        except DiskError as error:
            if error.reason is DiskReason.BUDGET:
                raise
            first_fault = first_fault or error
            continue
        if menu is not None:
            return menu
        empty = empty or path
    if first_fault is not None:
        raise first_fault
    if empty:
        raise DiskError(DiskReason.NO_BOOTABLE_ENTRY, f"{printable(empty)} declares no boot entry")
    raise DiskError(
        DiskReason.NO_BOOT_CONFIG,
        "none of the disk's file systems holds a grub.cfg, an extlinux.conf or boot loader entries",
    )


def _candidates(forest: Forest, budget: ConfigBudget) -> Iterator[tuple[bytes, Loader]]:
    """The configurations that exist, each with what loads it, in the order in which they count."""
    for tree, path in _grub_files(forest, budget):
        yield path, lambda tree=tree, path=path: load_grub(forest, tree, path, budget)  # type: ignore[misc]
    for tree, path in _existing(forest, EXTLINUX_PATHS, budget):
        yield path, lambda tree=tree, path=path: load_extlinux(tree, path, budget)  # type: ignore[misc]
    for tree, path in _existing(forest, BLS_FOLDERS, budget):
        yield path, lambda tree=tree, path=path: load_systemd_boot(tree, path, budget)  # type: ignore[misc]


def _grub_files(forest: Forest, budget: ConfigBudget) -> Iterator[tuple[Tree, bytes]]:
    yield from _existing(forest, GRUB_PATHS, budget)
    for tree in forest.trees:
        if tree.fs.kind == "btrfs":
            for root in BTRFS_ROOTS:
                yield from _existing_in(tree, tuple(root + path for path in GRUB_PATHS), budget)
    for tree in forest.trees:
        for folder in (b"/EFI", b"/boot/efi/EFI"):
            for name in _names(tree, folder, budget):
                yield from _existing_in(tree, (folder + b"/" + name + b"/grub.cfg",), budget)


def _existing(forest: Forest, paths: tuple[bytes, ...], budget: ConfigBudget) -> Iterator[tuple[Tree, bytes]]:
    for path in paths:
        for tree in forest.trees:
            yield from _existing_in(tree, (path,), budget)


def _existing_in(tree: Tree, paths: tuple[bytes, ...], budget: ConfigBudget) -> Iterator[tuple[Tree, bytes]]:
    for path in paths:
        budget.look_up()
        if attempt(lambda path=path: tree.exists(path)):  # type: ignore[misc]
            yield tree, path


def _names(tree: Tree, folder: bytes, budget: ConfigBudget) -> list[bytes]:
    budget.look_up()
    return attempt(lambda: tree.names(folder)) or []
