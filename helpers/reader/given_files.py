# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that the caller names on the guest's disk, in place of what its boot configuration says."""

from __future__ import annotations

from domward.protocol.errors import DiskError, DiskReason

from .interface import BootEntry, BootMenu, Forest


def menu_of_files(forest: Forest, kernel: bytes, ramdisk: bytes | None, args: bytes) -> BootMenu:
    """A menu of one entry: `kernel`, from the first file system that has it, and `ramdisk`, from the same one.

    Paths begin at the root of a file system, with or without "/". DiskError FILE_MISSING where no file system has the
    kernel, NOT_A_FILE where it is something else, and likewise for the ramdisk.
    """
    path = _absolute(kernel)
    for tree in forest.trees:
        if not tree.exists(path):
            continue
        initrds = (tree.file(_absolute(ramdisk)),) if ramdisk else ()
        entry = BootEntry(title=kernel, kernel=tree.file(path), initrds=initrds, args=args)
        return BootMenu((entry,), 0, 0, f"given:{tree.index}:")
    shown = path.decode("ascii", "backslashreplace")
    raise DiskError(DiskReason.FILE_MISSING, f"no file system of the disk has {shown}")


def _absolute(path: bytes) -> bytes:
    return path if path.startswith(b"/") else b"/" + path
