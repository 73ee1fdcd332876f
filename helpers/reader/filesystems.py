# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file system a volume holds, and the checks that hold for all of them.

A parser (`ext`, `xfs`, ...) knows one format. `CheckedFileSystem` stands before it: runs it under the one guard,
counts, and lets nothing through that lies outside the volume or is longer than it claims. A new file system
is one module and one line in `_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.typed import Any, Protocol, TypeVar

from .btrfs import BtrfsFileSystem
from .ext import ExtFileSystem
from .image import DiskImage
from .interface import Extent, Node, NodeType, Volume
from .source import parsing
from .vfat import FatFileSystem, is_fat
from .volumes import Window
from .xfs import XfsFileSystem

N = TypeVar("N")
_CHUNK = 1 << 20


class Parser(Protocol[N]):
    """What a file system's module implements, for nodes of its own type `N`. It may raise anything."""

    kind: str
    uuid: str
    label: bytes

    def root(self) -> N:
        """The root folder."""
        ...

    def child(self, folder: N, name: bytes) -> N | None:
        """The entry `name` of `folder`."""
        ...

    def names(self, folder: N) -> Iterator[bytes]:
        """The names in `folder`, without "." and ".."."""
        ...

    def runs(self, node: N) -> Iterator[Extent] | None:
        """Extents of the volume that hold the content, holes included, in order; they may end late but not early.

        None where the content is not stored plainly.
        """
        ...

    def content(self, node: N) -> Iterator[bytes]:
        """The content where `runs` gives None, in pieces of at most 1 MiB; may end late but not early."""
        ...


class CheckedFileSystem:
    """The `interface.FileSystem` over any `Parser`; every fault of it is a DiskError."""

    def __init__(self, parser: Parser[Any], image: DiskImage, volume: Volume) -> None:
        self._parser = parser
        self._image = image
        self.volume = volume
        self.kind = parser.kind
        self.uuid = parser.uuid
        self.label = parser.label
        self._what = f"{parser.kind} file system of {place(volume)}"
        with parsing(self._what):
            self._root: Node = parser.root()
        if self._root.type is not NodeType.DIRECTORY:
            raise DiskError(DiskReason.CORRUPT, f"the {self._what} has no root folder")

    def root(self) -> Node:
        """See `interface.FileSystem`."""
        return self._root

    def other_roots(self) -> tuple[Node, ...]:
        """Further folders that a path may start from: subvolumes of btrfs that customarily hold the root."""
        offered = getattr(self._parser, "other_roots", None)
        if offered is None:
            return ()
        with parsing(self._what):
            return tuple(offered())

    def child(self, folder: Node, name: bytes) -> Node | None:
        """See `interface.FileSystem`."""
        if folder.type is not NodeType.DIRECTORY:
            return None
        with parsing(self._what):
            found: Node | None = self._parser.child(folder, name)
        return found

    def names(self, folder: Node) -> Iterator[bytes]:
        """See `interface.FileSystem`."""
        if folder.type is not NodeType.DIRECTORY:
            return
        with parsing(self._what):
            for count, name in enumerate(self._parser.names(folder)):
                if count >= limits.DIRECTORY_ENTRIES:
                    raise DiskError(DiskReason.BUDGET, f"a folder has more than {count} entries")
                yield name

    def readlink(self, link: Node) -> bytes:
        """See `interface.FileSystem`."""
        if link.size > limits.PATH_BYTES:
            raise DiskError(DiskReason.CORRUPT, f"a symbolic link has {link.size} bytes")
        return b"".join(self.chunks(link))

    def read(self, file: Node, limit: int) -> bytes:
        """See `interface.FileSystem`."""
        if file.size > limit:
            raise DiskError(DiskReason.FILE_TOO_BIG, f"a file has {file.size} bytes, more than the {limit} allowed")
        return b"".join(self.chunks(file))

    def extents(self, file: Node) -> Iterator[Extent] | None:
        """See `interface.FileSystem`."""
        with parsing(self._what):
            runs = self._parser.runs(file)
        return None if runs is None else self._checked(runs, file.size)

    def chunks(self, file: Node) -> Iterator[bytes]:
        """See `interface.FileSystem`."""
        extents = self.extents(file)
        if extents is None:
            yield from self._content(file)
            return
        for extent in extents:
            for done in range(0, extent.length, _CHUNK):
                length = min(_CHUNK, extent.length - done)
                if extent.offset is None:
                    self._image.source.budget.charge(length)
                    yield bytes(length)
                    continue
                piece = self._image.pread(length, extent.offset + done)
                if len(piece) < length:
                    raise DiskError(DiskReason.TRUNCATED, f"the disk ends at byte {self._image.size}, within a file")
                yield piece

    def _content(self, file: Node) -> Iterator[bytes]:
        left = file.size
        with parsing(self._what):
            for piece in self._parser.content(file) if left else ():
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    return
        if left:
            raise DiskError(DiskReason.CORRUPT, f"the {self._what} is damaged: a file ends {left} bytes early")

    def _checked(self, runs: Iterator[Extent], size: int) -> Iterator[Extent]:
        """`runs` moved to the image, cut to exactly `size` bytes, inside the volume, neighbours joined, counted."""
        window = Window(self._image, self.volume)
        left = size
        count = 0
        start: int | None = None
        length = 0
        with parsing(self._what):
            for run in runs:
                take = min(run.length, left)
                if take <= 0:
                    break
                if run.offset is not None and (run.offset < 0 or run.offset + take > self.volume.size):
                    raise window.beyond(run.offset + take)
                left -= take
                begin = None if run.offset is None else run.offset + self.volume.offset
                if length and (begin is None if start is None else begin == start + length):
                    length += take
                    continue
                if length:
                    yield Extent(start, length)
                    count += 1
                    if count >= limits.EXTENTS:
                        raise DiskError(DiskReason.BUDGET, f"a file lies in more than {count} pieces")
                start, length = begin, take
        if left > 0:
            raise DiskError(DiskReason.CORRUPT, f"the {self._what} is damaged: a file ends {left} bytes early")
        if length:
            yield Extent(start, length)


def place(volume: Volume) -> str:
    """How messages name a volume."""
    if volume.index:
        return f"partition {volume.index}"
    return f"the disk from byte {volume.offset} on" if volume.offset else "the whole disk"


_HEAD_BYTES = 68 << 10  # up to and with the superblock of btrfs at 64 KiB

# (name, whether a volume's first bytes are its, parser). FAT has no magic number and comes last: a boot loader may
# have left the look of FAT in the first sector, which ext and btrfs do not use.
_KINDS: tuple[tuple[str, Callable[[bytes], bool], Callable[[Window], Parser[Any]]], ...] = (
    ("ext", lambda head: head.startswith(b"\x53\xef", 1024 + 56), ExtFileSystem),
    ("xfs", lambda head: head.startswith(b"XFSB"), XfsFileSystem),
    ("btrfs", lambda head: head.startswith(b"_BHRfS_M", 65536 + 64), BtrfsFileSystem),
    ("vfat", is_fat, FatFileSystem),
)

# Magics of what is recognised only to say that it cannot be read. Source: libblkid's superblock probes.
_UNSUPPORTED = (
    *((sector, b"LABELONE", "an LVM physical volume") for sector in (0, 512, 1024, 1536)),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a software RAID"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a software RAID"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"-FVE-FS-", "a BitLocker volume"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"bcache", "a bcache volume"),
)


def detect(image: DiskImage, volume: Volume) -> CheckedFileSystem | str | None:
    """The file system in `volume`; what is there instead and cannot be read; or None where nothing is known.

    Raises DiskError where a file system is there but damaged.
    """
    untrusted_head = image.pread(min(_HEAD_BYTES, volume.size), volume.offset)
    for offset, magic, name in _UNSUPPORTED:
        if untrusted_head.startswith(magic, offset):
            return name
    for name, matches, parser in _KINDS:
        if matches(untrusted_head):
            with parsing(f"{name} file system of {place(volume)}"):
                opened = parser(Window(image, volume))
            return CheckedFileSystem(opened, image, volume)
    return None
