# SPDX-License-Identifier: GPL-3.0-or-later
"""How GRUB names devices and files, on top of the forest: `(hd0,gpt2)/boot/vmlinuz`, or `/boot/vmlinuz` on $root."""

from __future__ import annotations

from collections.abc import Callable

from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import frozen
from domward.protocol.typed import TypeVar

from .config_budget import ConfigBudget
from .interface import FileRef, Forest, Tree

T = TypeVar("T")


@frozen
class Location:
    """A path within a tree, not looked up yet."""

    tree: Tree
    path: bytes


def attempt(look_up: Callable[[], T]) -> T | None:
    """What `look_up` returns; None where the disk cannot deliver it. DiskError(BUDGET) goes through.

    For the places where GRUB itself goes on: a test, a search, an optional file.
    """
    try:
        return look_up()
    except DiskError as error:
        if error.reason is DiskReason.BUDGET:
            raise
        return None


class BootPaths:
    """Devices and files as a GRUB script names them; each look-up is paid for."""

    def __init__(self, forest: Forest, budget: ConfigBudget) -> None:
        self.forest = forest
        self.budget = budget
        self._by_name: dict[bytes, Tree] = {}
        self._names: dict[int, bytes] = {}
        for tree in forest.trees:
            name = _device_name(tree)
            if name in self._by_name:  # two file systems in one volume
                name += b",%d" % tree.index
            self._by_name[name] = tree
            self._names[tree.index] = name

    def name(self, tree: Tree) -> bytes:
        """What $root holds for `tree`, without parentheses."""
        return self._names[tree.index]

    def device(self, untrusted_name: bytes) -> Tree | None:
        """The tree that `hd0,gpt2` or `(hd0,gpt2)` names.

        A guest's disk may be called otherwise by the GRUB that its configuration is for (`ahci0,gpt2`,
        `xen/xvda,msdos1`); what comes after the first comma decides then, as there is only this disk.
        """
        name = untrusted_name.strip(b"()")
        self.budget.look_up()
        tree = self._by_name.get(name)
        if tree is None:
            tree = self.forest.by_device(name)
        if tree is None and b"," in name and not name.startswith(b"hd"):
            tree = self.forest.by_device(b"hd0," + name.partition(b",")[2])
        return tree

    def locate(self, untrusted_path: bytes, root: bytes) -> Location | None:
        """Where `untrusted_path` is, `root` being the device of paths without one; None where that is no device."""
        if untrusted_path.startswith(b"("):
            device, closed, path = untrusted_path[1:].partition(b")")
            if not closed:
                return None
        else:
            device, path = root, untrusted_path
        tree = self.device(device)
        if tree is None or not path.startswith(b"/"):
            return None
        return Location(tree, path)

    def exists(self, location: Location) -> bool:
        """Whether anything is there."""
        self.budget.look_up()
        return bool(attempt(lambda: location.tree.exists(location.path)))

    def file(self, location: Location) -> FileRef | None:
        """The regular file there, None where there is none."""
        self.budget.look_up()
        return attempt(lambda: location.tree.file(location.path))

    def is_folder(self, location: Location) -> bool:
        """Whether a folder is there."""
        self.budget.look_up()
        names = attempt(lambda: location.tree.names(location.path))
        self.budget.step(len(names or ()))
        return names is not None

    def read(self, location: Location) -> bytes | None:
        """The configuration file there, None where there is none that can be read. DiskError(BUDGET)."""
        return attempt(lambda: self.budget.read(location.tree, location.path))


def _device_name(tree: Tree) -> bytes:
    volume = tree.fs.volume
    kind = {"mbr": b"msdos", "gpt": b"gpt"}.get(volume.scheme)
    return b"hd0" if kind is None else b"hd0,%s%d" % (kind, volume.index)
