# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the boot configuration of a disk: the one place that knows where each boot loader keeps it.

The first configuration that declares an entry wins. GRUB comes first, as it is what most guests boot with and the
others leave their files behind; within one kind the order of paths below, and for each path the order on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from domward.protocol.errors import DiskError, DiskReason, printable
from domward.protocol.typed import TypeVar

from .bls import load_systemd_boot
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
EFI_FOLDERS = (b"/EFI", b"/boot/efi/EFI")
BLS_FOLDERS = (b"/loader/entries", b"/boot/loader/entries", b"/boot/efi/loader/entries", b"/efi/loader/entries")

# A configuration beyond its limits is refused: another one, perhaps left behind, must not boot in its place.
FINAL = (DiskReason.BUDGET, DiskReason.FILE_TOO_BIG)

T = TypeVar("T")


def find_menu(forest: Forest) -> BootMenu:
    """The boot menu of the disk. It has at least one entry, though perhaps none that can boot.

    DiskError: NO_BOOT_CONFIG where there is no configuration, NO_BOOTABLE_ENTRY where those found declare no entry,
    BUDGET or FILE_TOO_BIG where one is too much; what reading the disk raised, where that may be why none was found.
    """
    return _Finder(forest).menu()


class _Finder:
    """One search, with its budget and the first thing that went wrong."""

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._budget = ConfigBudget()
        self._fault: DiskError | None = None

    def menu(self) -> BootMenu:
        """The first menu that has an entry."""
        without_entries = b""
        for path, load in self._candidates():
            menu = self._try(load)
            if menu is not None:
                return menu
            without_entries = without_entries or path
        if self._fault is not None:
            raise self._fault
        if without_entries:
            raise DiskError(DiskReason.NO_BOOTABLE_ENTRY, f"{printable(without_entries)} declares no boot entry")
        raise DiskError(
            DiskReason.NO_BOOT_CONFIG,
            "none of the disk's file systems holds a grub.cfg, an extlinux.conf or boot loader entries",
        )

    def _try(self, action: Callable[[], T]) -> T | None:
        """What `action` returns; a fault is kept for the end and the search goes on."""
        try:
            return action()
        except DiskError as error:
            if error.reason in FINAL:
                raise
            self._fault = self._fault or error
            return None

    def _candidates(self) -> Iterator[tuple[bytes, Callable[[], BootMenu | None]]]:
        """The configurations that exist, each with what loads it, in the order in which they count."""
        for tree, path in self._grub_files():
            yield path, partial(load_grub, self._forest, tree, path, self._budget)
        for tree, path in self._existing(EXTLINUX_PATHS, self._forest.trees):
            yield path, partial(load_extlinux, tree, path, self._budget)
        for tree, path in self._existing(BLS_FOLDERS, self._forest.trees):
            yield path, partial(load_systemd_boot, tree, path, self._budget)

    def _grub_files(self) -> Iterator[tuple[Tree, bytes]]:
        yield from self._existing(GRUB_PATHS, self._forest.trees)
        for tree in self._forest.trees:
            if tree.fs.kind == "btrfs":
                for root in BTRFS_ROOTS:
                    yield from self._existing([root + path for path in GRUB_PATHS], [tree])
        for tree in self._forest.trees:
            for folder in EFI_FOLDERS:
                self._budget.look_up()
                names = self._try(partial(tree.names, folder)) if self._exists(tree, folder) else []
                yield from self._existing([folder + b"/" + name + b"/grub.cfg" for name in names or ()], [tree])

    def _existing(self, paths: Iterable[bytes], trees: Iterable[Tree]) -> Iterator[tuple[Tree, bytes]]:
        for path in paths:
            for tree in trees:
                if self._exists(tree, path):
                    yield tree, path

    def _exists(self, tree: Tree, path: bytes) -> bool:
        self._budget.look_up()
        return bool(self._try(partial(tree.exists, path)))
