# SPDX-License-Identifier: GPL-3.0-or-later
"""The narrow interface between image, volume, file system and boot configuration.

Data meets the types in this order: the disk's fd becomes an `Image`; an image holds `Volume`\\ s; a volume holds a
`FileSystem`; the boot configuration is found through a `Forest` of file systems and yields `BootEntry`\\ s
whose `FileRef`\\ s name what to copy out. A new image format, file system or configuration language adds one module
and one line in the table of its folder, and touches nothing else.

Everything read from a disk is bytes. Every fault is a `domward.protocol.errors.DiskError`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence

from domward.protocol.records import frozen
from domward.protocol.typed import Protocol


@frozen
class Extent:
    """`length` bytes at `offset` of the layer below; `offset` None means a hole (zeroes). length >= 1."""

    offset: int | None
    length: int


class Image(Protocol):
    """A disk image as an array of `size` bytes, whatever its format."""

    size: int
    format: str

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only at the end. Charges the budget. Raises DiskError."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent] | None:
        """Where [offset, offset+length) lies in the disk's fd; None where it cannot be copied from there."""
        ...


@frozen
class Volume:
    """A partition, or the whole disk. `index` 0 is the whole disk; else the partition's number as Linux has it.

    `scheme` is "disk", "mbr" or "gpt"; `offset` and `size` are bytes within the image and lie inside it.
    """

    index: int
    scheme: str
    offset: int
    size: int
    uuid: str = ""


class NodeType(enum.Enum):
    """What a path leads to."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


class Node(Protocol):
    """One inode of one file system; opaque but for these."""

    type: NodeType
    size: int


class FileSystem(Protocol):
    """One file system, read-only. Paths are resolved one level up, in `tree`; this knows inodes only."""

    kind: str
    uuid: str
    label: bytes
    volume: Volume

    def root(self) -> Node:
        """The root folder (the default subvolume's, where there are several)."""
        ...

    def child(self, folder: Node, name: bytes) -> Node | None:
        """The entry `name` of `folder`, links not followed; None where there is none."""
        ...

    def names(self, folder: Node) -> Iterator[bytes]:
        """The names in `folder` without "." and "..", at most limits.DIRECTORY_ENTRIES."""
        ...

    def readlink(self, link: Node) -> bytes:
        """The target of a symbolic link, at most limits.PATH_BYTES."""
        ...

    def read(self, file: Node, limit: int) -> bytes:
        """The content of a small file; DiskError(FILE_TOO_BIG) where it is longer than `limit` bytes."""
        ...

    def extents(self, file: Node) -> Iterator[Extent] | None:
        """The file's bytes in order, as extents of the *image*, covering exactly `file.size` bytes, holes included.

        None where the content is not stored plainly (compressed, inline): then use `chunks`.
        """
        ...

    def chunks(self, file: Node) -> Iterator[bytes]:
        """The file's bytes in order, in pieces of at most 1 MiB."""
        ...


@frozen
class FileRef:
    """A regular file, found: `path` is how the configuration named it, `tree` indexes `Forest.trees`."""

    tree: int
    path: bytes
    size: int


class Tree(Protocol):
    """Path look-up within one file system and what its fstab mounts at /boot (see `tree`). Paths are absolute."""

    @property
    def index(self) -> int:
        """Its place in `Forest.trees`."""
        ...

    @property
    def fs(self) -> FileSystem:
        """The file system of its root."""
        ...

    def exists(self, path: bytes) -> bool:
        """Whether `path` leads to anything, links followed."""
        ...

    def file(self, path: bytes) -> FileRef:
        """The regular file at `path`, links followed. DiskError FILE_MISSING, NOT_A_FILE, SYMLINK_LOOP."""
        ...

    def read(self, path: bytes, limit: int) -> bytes:
        """The content of the file at `path`, at most `limit` bytes, else DiskError(FILE_TOO_BIG)."""
        ...

    def names(self, path: bytes) -> list[bytes]:
        """The sorted names in the folder at `path`. DiskError(FILE_MISSING) where it is none."""
        ...


class Forest(Protocol):
    """All file systems of one disk, in disk order."""

    @property
    def trees(self) -> Sequence[Tree]:
        """The trees, each at its own index."""
        ...

    def by_uuid(self, uuid: bytes) -> Tree | None:
        """The tree whose file system has this UUID (case ignored, as `search --fs-uuid` compares)."""
        ...

    def by_label(self, label: bytes) -> Tree | None:
        """The tree whose file system has this label."""
        ...

    def by_device(self, name: bytes) -> Tree | None:
        """The tree that GRUB calls `hd0`, `hd0,msdos1`, `hd0,gpt2` or `hd0,1` (any disk number is this disk)."""
        ...


@frozen
class BootEntry:
    """One choice of the boot menu.

    `title` is the guest's text, at most limits.TITLE_BYTES; `path` the titles of the submenus around it; `id`
    what saved_entry may name. `problem` says why the entry cannot boot and then `kernel` is None; otherwise
    `kernel` is a file that exists, as do all `initrds`, to be concatenated in order as GRUB does.
    """

    title: bytes
    kernel: FileRef | None
    initrds: tuple[FileRef, ...] = ()
    args: bytes = b""
    path: tuple[bytes, ...] = ()
    id: bytes = b""
    problem: str = ""


@frozen
class BootMenu:
    """What the disk offers. `default` indexes `entries`; `timeout` in seconds, None: wait for ever, 0: do not show.

    `source` is the configuration file that was used, as "KIND:TREE:PATH".
    """

    entries: tuple[BootEntry, ...]
    default: int
    timeout: float | None
    source: str
