# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths: within one file system, across a separate /boot, and from GRUB's names to file systems.

A path is walked component by component. Links are followed, at most limits.SYMLINKS of them; ".." never leaves the
root. Where the file system has an /etc/fstab that mounts another file system of this disk at /boot or /boot/efi, the
walk crosses to it there, so that a link /vmlinuz -> boot/vmlinuz leads to the file that the booted guest would see.
"""

from __future__ import annotations

import re
from functools import cached_property

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import frozen

from .filesystems import CheckedFileSystem, detect, place
from .image import DiskImage, open_image
from .interface import FileRef, Node, NodeType
from .source import Budget, DiskSource
from .volumes import VolumeTable, find_volumes, volume_at, whole_disk

_MOUNT_POINTS = ((b"boot",), (b"boot", b"efi"))
_NAME_BYTES = 255
_GRUB_DEVICE = re.compile(rb"\(?hd\d{1,3}(?:,(msdos|gpt)?(\d{1,3}))?\)?", re.ASCII)
_LINUX_DEVICE = re.compile(rb"/dev/(?:(?:xvd|sd|vd|hd)[a-z]{1,2}|(?:nvme\d+n|mmcblk)\d+p)(\d{1,3})", re.ASCII)
_NOT_THERE = frozenset((DiskReason.FILE_MISSING, DiskReason.NOT_A_FILE, DiskReason.SYMLINK_LOOP))


@frozen
class Place:
    """Where a path led: a node and the file system it belongs to."""

    fs: CheckedFileSystem
    node: Node


class DiskTree:
    """The `interface.Tree` of one file system of a `DiskForest`."""

    def __init__(self, forest: DiskForest, index: int, fs: CheckedFileSystem) -> None:
        self.forest = forest
        self.index = index
        self.fs = fs
        self._found: dict[bytes, Place] = {}

    def exists(self, path: bytes) -> bool:
        """See `interface.Tree`."""
        try:
            self.find(path)
        except DiskError as error:
            if error.reason in _NOT_THERE:
                return False
            raise
        return True

    def file(self, path: bytes) -> FileRef:
        """See `interface.Tree`."""
        return FileRef(self.index, path, self._file(path).node.size)

    def read(self, path: bytes, limit: int) -> bytes:
        """See `interface.Tree`."""
        found = self._file(path)
        if found.node.size > limit:
            raise DiskError(
                DiskReason.FILE_TOO_BIG, f"{_show(path)} has {found.node.size} bytes, more than the {limit} allowed"
            )
        return found.fs.read(found.node, limit)

    def names(self, path: bytes) -> list[bytes]:
        """See `interface.Tree`."""
        found = self.find(path)
        if found.node.type is not NodeType.DIRECTORY:
            raise DiskError(DiskReason.FILE_MISSING, f"{_show(path)} is not a folder")
        return sorted(found.fs.names(found.node))

    def find(self, path: bytes) -> Place:
        """What `path` leads to, links followed. Raises DiskError FILE_MISSING, SYMLINK_LOOP and the parser's."""
        found = self._found.get(path)
        if found is None:
            found = self._find(path)
            if len(self._found) < limits.PATH_COMPONENTS:
                self._found[path] = found
        return found

    def _file(self, path: bytes) -> Place:
        found = self.find(path)
        if found.node.type is not NodeType.FILE:
            raise DiskError(DiskReason.NOT_A_FILE, f"{_show(path)} is a {found.node.type.value}, not a regular file")
        return found

    def _find(self, path: bytes) -> Place:
        """Try the root, then the other roots of the file system; the first one's error is the one that counts."""
        try:
            return self._walk(path, self.fs.root())
        except DiskError as error:
            if error.reason not in _NOT_THERE:
                raise
            for root in self._other_roots:
                try:
                    return self._walk(path, root)
                except DiskError as other:
                    if other.reason not in _NOT_THERE:
                        raise
            raise

    @cached_property
    def _other_roots(self) -> tuple[Node, ...]:
        return self.fs.other_roots()

    @cached_property
    def _mounts(self) -> dict[tuple[bytes, ...], DiskTree]:
        """What the fstab of this file system mounts at /boot and /boot/efi."""
        self._mounts = {}  # so that the walk to the fstab itself crosses nothing
        try:
            found = self._file(b"/etc/fstab")
            untrusted_fstab = found.fs.read(found.node, limits.CONFIG_BYTES)
        except DiskError as error:
            if error.reason is DiskReason.BUDGET:
                raise
            return {}
        finally:
            self._found.clear()
        mounts: dict[tuple[bytes, ...], DiskTree] = {}
        for line in untrusted_fstab.splitlines():
            fields = line.split(None, 2)
            if len(fields) < 2 or fields[0].startswith(b"#"):
                continue
            point = tuple(part for part in fields[1].split(b"/") if part)
            if point in _MOUNT_POINTS and (tree := self.forest.by_fstab(fields[0])) is not None and tree is not self:
                mounts[point] = tree
        return mounts

    def _walk(self, path: bytes, root: Node) -> Place:
        mounts = self._mounts
        top = Place(self.fs, root)
        stack = [top]
        names: list[bytes] = []
        ahead = _components(path)
        links = steps = 0
        while ahead:
            name = ahead.pop()
            steps += 1
            if steps > limits.PATH_COMPONENTS:
                raise DiskError(DiskReason.SYMLINK_LOOP, f"{_show(path)} has more than {steps - 1} components")
            if name == b"..":
                if names:
                    names.pop()
                    stack.pop()
                continue
            here = stack[-1]
            if (mounted := mounts.get((*names, name))) is not None:
                names.append(name)
                stack.append(Place(mounted.fs, mounted.fs.root()))
                continue
            node = here.fs.child(here.node, name) if len(name) <= _NAME_BYTES else None
            if node is None:
                raise DiskError(DiskReason.FILE_MISSING, f"{_show(path)} does not exist on {place(self.fs.volume)}")
            if node.type is not NodeType.SYMLINK:
                names.append(name)
                stack.append(Place(here.fs, node))
                continue
            links += 1
            if links > limits.SYMLINKS:
                raise DiskError(DiskReason.SYMLINK_LOOP, f"{_show(path)} leads through more than {links - 1} links")
            untrusted_target = here.fs.readlink(node)
            if untrusted_target.startswith(b"/"):
                del names[:], stack[1:]
            ahead += _components(untrusted_target)
        return stack[-1]


class DiskForest:
    """The `interface.Forest` of an image.

    `offset` is where the only one to look at begins, in bytes; None looks at every partition. `problems` says, for
    people, which partitions could not be used and why.
    """

    def __init__(self, image: DiskImage, offset: int | None = None) -> None:
        self.image = image
        self.trees: list[DiskTree] = []
        self.problems: list[str] = []
        table = find_volumes(image) if offset is None else VolumeTable([volume_at(image, offset)])
        self.problems += table.problems
        errors: list[DiskError] = []
        volumes = table.volumes
        while volumes:
            for volume in volumes[: limits.FILESYSTEMS]:
                try:
                    found = detect(image, volume)
                except DiskError as error:
                    if error.reason is DiskReason.BUDGET:
                        raise
                    errors.append(error)
                    self.problems.append(str(error))
                    continue
                if isinstance(found, CheckedFileSystem):
                    self.trees.append(DiskTree(self, len(self.trees), found))
                elif found:
                    self.problems.append(f"{place(volume)} holds {found}, which cannot be read")
            # A file system on the whole disk may lie under a stale or decorative partition table.
            volumes = [] if self.trees or volumes[0].index == 0 else [whole_disk(image)]
        if not self.trees:
            raise self._nothing(errors, truncated=table.truncated)

    def by_uuid(self, uuid: bytes) -> DiskTree | None:
        """See `interface.Forest`."""
        wanted = uuid.lower()
        return next((tree for tree in self.trees if tree.fs.uuid.lower().encode() == wanted), None)

    def by_label(self, label: bytes) -> DiskTree | None:
        """See `interface.Forest`."""
        return next((tree for tree in self.trees if label and tree.fs.label == label), None)

    def by_device(self, name: bytes) -> DiskTree | None:
        """See `interface.Forest`."""
        match = _GRUB_DEVICE.fullmatch(name)
        if match is None:
            return None
        scheme = {b"msdos": "mbr", b"gpt": "gpt"}.get(match[1] or b"")
        return self._by_index(int(match[2] or 0), scheme)

    def by_fstab(self, untrusted_device: bytes) -> DiskTree | None:
        """The tree that the first field of a line of fstab(5) means, if it is on this disk."""
        if untrusted_device.startswith(b"/dev/disk/by-"):
            kind, _, value = untrusted_device[len(b"/dev/disk/by-") :].partition(b"/")
        elif (match := _LINUX_DEVICE.fullmatch(untrusted_device)) is not None:
            return self._by_index(int(match[1]), None)
        else:
            kind, _, value = untrusted_device.partition(b"=")
        value = value.strip(b"\"'")
        kind = kind.lower()
        if kind == b"uuid":
            return self.by_uuid(value)
        if kind == b"label":
            return self.by_label(value)
        if kind == b"partuuid":
            wanted = value.lower().decode("ascii", "replace")
            return next((tree for tree in self.trees if tree.fs.volume.uuid == wanted), None)
        return None

    def _by_index(self, index: int, scheme: str | None) -> DiskTree | None:
        for tree in self.trees:
            volume = tree.fs.volume
            if volume.index == index and scheme in (None, volume.scheme):
                return tree
        return None

    def _nothing(self, errors: list[DiskError], *, truncated: bool) -> DiskError:
        """Why there is no file system at all: the most telling of the reasons met."""
        if truncated:
            return DiskError(DiskReason.TRUNCATED, self.problems[0])
        if errors:
            return errors[0]
        if self.problems:
            return DiskError(DiskReason.NO_FILESYSTEM, f"no file system can be read: {'; '.join(self.problems[:4])}")
        return DiskError(DiskReason.NO_FILESYSTEM, "there is no partition or file system that the reader knows")


def open_disk(
    fd: int,
    format: str | None = None,  # noqa: A002 -- as open_image
    budget: Budget | None = None,
    offset: int | None = None,
) -> DiskForest:
    """The file systems of the disk that is open as `fd`, which stays the caller's.

    `format` names the image's format, None: probe it. `budget` is the default one unless given. `offset` as
    `DiskForest` has it.
    """
    return DiskForest(open_image(DiskSource(fd, budget or Budget()), format), offset)


def _components(path: bytes) -> list[bytes]:
    """The components of `path`, last first."""
    if len(path) > limits.PATH_BYTES:
        raise DiskError(DiskReason.FILE_MISSING, f"a path has {len(path)} bytes")
    return [part for part in reversed(path.split(b"/")) if part and part != b"."]


def _show(path: bytes) -> str:
    return path.decode("ascii", "backslashreplace")
