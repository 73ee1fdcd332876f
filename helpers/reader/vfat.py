# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT12, FAT16 and FAT32 with long names.

Source of the facts: Microsoft's "FAT: General Overview of On-Disk Format". The parameter block is read by the layouts
of dissect.fat. The walks are our own: dissect.fat joins clusters that run backwards, follows a circle of clusters for
ever, and opens each entry of a folder to compare one name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import mutable

from . import layouts
from .interface import Extent, NodeType
from .volumes import Window

_VOLUME_ID, _DIRECTORY, _LONG = 0x08, 0x10, 0x0F
_DELETED, _LAST, _IS_E5 = 0xE5, 0x00, 0x05
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10  # Windows NT's flags in an otherwise reserved byte
_DIRENT = struct.Struct("<8s3sBB7xHxxxxHI")  # base, extension, attributes, NT flags, cluster (high, low), size
_FOLDER_BYTES = 2 << 20  # bytes: the specification's largest folder, 65,536 entries
_NAME_PARTS = 20  # 13 characters each: 255 in all
_SLICE = 16 << 10  # bytes of the table that are unpacked at once
# The tables are loaded now: under the reader's seccomp policy no module can be imported later.
"".encode("cp437"), "".encode("utf-16-le")


@mutable
class FatNode:
    """A folder's entry: FAT has no inodes. `cluster` 0 means no data, or the root where it has a place of its own."""

    type: NodeType
    size: int
    cluster: int
    is_root: bool = False


class FatFileSystem:
    """A FAT file system in `window`."""

    kind = "vfat"

    def __init__(self, window: Window) -> None:
        self._window = window
        untrusted_sector = window.read(512, 0)
        bpb = layouts.BPB(untrusted_sector[:36])
        wide = layouts.BPB32(untrusted_sector[36:])
        self._sector: int = bpb.BPB_BytsPerSec
        self._cluster: int = bpb.BPB_BytsPerSec * bpb.BPB_SecPerClus
        table_sectors = bpb.BPB_FATSz16 or wide.BPB_FATSz32
        self._table: int = bpb.BPB_RsvdSecCnt * self._sector
        self._root_at = self._table + bpb.BPB_NumFATs * table_sectors * self._sector
        self._root_bytes: int = bpb.BPB_RootEntCnt * 32
        self._data = self._root_at + -(-self._root_bytes // self._sector) * self._sector
        total = (bpb.BPB_TotSec16 or bpb.BPB_TotSec32) * self._sector
        clusters = (total - self._data) // self._cluster
        if clusters < 1:
            raise _corrupt("it has no room for data")
        # Which FAT it is follows from the number of clusters alone.
        self._bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
        self._clusters = min(clusters, table_sectors * self._sector * 8 // self._bits - 2)
        self._root_cluster: int = wide.BPB_RootClus if self._bits == 32 else 0
        self._last_folder: tuple[int, dict[str, FatNode]] | None = None
        self._slices: dict[int, tuple[int, ...]] = {}
        narrow = wide if self._bits == 32 else layouts.BPB16(untrusted_sector[36:])
        self.uuid = f"{narrow.BS_VolID >> 16:04X}-{narrow.BS_VolID & 0xFFFF:04X}"
        self.label: bytes = self._root_label() or narrow.BS_VolLab.rstrip(b" \0").replace(b"NO NAME", b"")

    def root(self) -> FatNode:
        """The root folder."""
        return FatNode(NodeType.DIRECTORY, 0, self._root_cluster, is_root=True)

    def child(self, folder: FatNode, name: bytes) -> FatNode | None:
        """The entry `name` of `folder`, by its long or short name, in any case."""
        if self._last_folder is None or self._last_folder[0] != folder.cluster:
            by_name: dict[str, FatNode] = {}
            for long_name, short_name, node in self._entries(folder):
                by_name.setdefault(short_name.lower(), node)
                if long_name:
                    by_name.setdefault(long_name.lower(), node)
            self._last_folder = (folder.cluster, by_name)
        return self._last_folder[1].get(name.decode("utf-8", "replace").lower())

    def names(self, folder: FatNode) -> Iterator[bytes]:
        """The names in `folder`, the long ones where there are any, in UTF-8."""
        for long_name, short_name, _ in self._entries(folder):
            yield (long_name or short_name).encode("utf-8", "replace")

    def runs(self, node: FatNode) -> Iterator[Extent]:
        """The extents of `node`'s content in the volume."""
        if node.is_root and not node.cluster:
            yield Extent(self._root_at, self._root_bytes)
            return
        size = _FOLDER_BYTES if node.type is NodeType.DIRECTORY else node.size
        left = -(-size // self._cluster)
        start = length = 0
        for cluster in self._chain(node.cluster):
            if not left:
                if node.type is NodeType.DIRECTORY:
                    raise _corrupt("a folder's chain of clusters does not end")
                break
            left -= 1
            if left % 16 == 0:
                self._window.budget.step()
            at = self._data + (cluster - 2) * self._cluster
            if length and at == start + length:
                length += self._cluster
                continue
            if length:
                yield Extent(start, length)
            start, length = at, self._cluster
        if length:
            yield Extent(start, length)

    def content(self, node: FatNode) -> Iterator[bytes]:
        """FAT stores everything plainly: never asked for."""
        raise _corrupt(f"cluster {node.cluster} is not plain")

    def _chain(self, cluster: int) -> Iterator[int]:
        """The clusters from `cluster` on; the caller stops a chain that is longer than it can be."""
        if not cluster:
            return
        end = (0x0FFF_FFF8 if self._bits == 32 else 0xFFF8 if self._bits == 16 else 0xFF8) - 1
        while cluster < end:
            if not 2 <= cluster < self._clusters + 2:
                raise _corrupt(f"a chain leads to cluster {cluster} of {self._clusters}")
            yield cluster
            cluster = self._next(cluster)

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            pair = int.from_bytes(self._window.read(2, self._table + cluster + cluster // 2), "little")
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        width = self._bits // 8
        number, index = divmod(cluster, _SLICE // width)
        part = self._slices.get(number)
        if part is None:
            at = number * _SLICE
            length = min(_SLICE, (self._clusters + 2) * width - at)
            raw = self._window.read(length, self._table + at)
            part = struct.unpack(f"<{length // width}{'I' if width == 4 else 'H'}", raw)
            self._window.budget.step(length // 256)
            if len(self._slices) > 64:
                self._slices.clear()
            self._slices[number] = part
        return part[index] & 0x0FFF_FFFF

    def _root_label(self) -> bytes:
        for raw in self._raw_entries(self.root()):
            if raw[11] & 0x3F != _LONG and raw[11] & _VOLUME_ID:
                return raw[:11].rstrip(b" ")
        return b""

    def _raw_entries(self, folder: FatNode) -> Iterator[bytes]:
        for block in self._window.blocks(self.runs(folder), 512):
            self._window.budget.step(6)
            for at in range(0, 512, 32):
                first = block[at]
                if first == _LAST:
                    return
                if first != _DELETED:
                    yield block[at : at + 32]

    def _entries(self, folder: FatNode) -> Iterator[tuple[str, str, FatNode]]:
        """(long name or "", short name, node) of each entry that is a file or a folder."""
        parts: dict[int, bytes] = {}
        check = -1
        for raw in self._raw_entries(folder):
            if raw[11] & 0x3F == _LONG:
                if raw[0] & 0x40:
                    parts = {}
                    check = raw[13]
                if raw[13] == check and len(parts) < _NAME_PARTS:
                    parts[raw[0] & 0x3F] = raw[1:11] + raw[14:26] + raw[28:32]
                continue
            base, extension, attributes, flags, high, low, size = _DIRENT.unpack(raw)
            long_name = _long_name(parts) if parts and check == _short_sum(raw[:11]) else ""
            parts, check = {}, -1
            if attributes & _VOLUME_ID or base[:1] == b".":
                continue
            is_folder = bool(attributes & _DIRECTORY)
            cluster = low | (high << 16 if self._bits == 32 else 0)
            if is_folder and not cluster:
                continue  # only ".." may mean the root by cluster 0
            node = FatNode(NodeType.DIRECTORY if is_folder else NodeType.FILE, 0 if is_folder else size, cluster)
            yield long_name, _short_name(base, extension, flags), node


def is_fat(untrusted_sector: bytes) -> bool:
    """Whether a volume's first sector is FAT's: it has no magic number, so every field must be plausible."""
    if len(untrusted_sector) < 512 or untrusted_sector[0] not in (0xEB, 0xE9):
        return False
    bpb = layouts.BPB(untrusted_sector[:36])
    table_sectors = bpb.BPB_FATSz16 or layouts.BPB32(untrusted_sector[36:]).BPB_FATSz32
    return bool(
        bpb.BPB_BytsPerSec in (512, 1024, 2048, 4096)
        and bpb.BPB_SecPerClus in (1, 2, 4, 8, 16, 32, 64, 128)
        and bpb.BPB_RsvdSecCnt
        and bpb.BPB_NumFATs in (1, 2)
        and (bpb.BPB_Media == 0xF0 or bpb.BPB_Media >= 0xF8)
        and (bpb.BPB_TotSec16 or bpb.BPB_TotSec32)
        and table_sectors
        and (bpb.BPB_RootEntCnt or not bpb.BPB_FATSz16)
        and bpb.BPB_RootEntCnt * 32 % 512 == 0
    )


def _short_name(base: bytes, extension: bytes, flags: int) -> str:
    if base[0] == _IS_E5:
        base = bytes((_DELETED,)) + base[1:]
    text = base.decode("cp437").rstrip()
    suffix = extension.decode("cp437").rstrip()
    text = text.lower() if flags & _LOWER_BASE else text
    suffix = suffix.lower() if flags & _LOWER_EXTENSION else suffix
    return f"{text}.{suffix}" if suffix else text


def _long_name(parts: dict[int, bytes]) -> str:
    raw = b"".join(parts[number] for number in sorted(parts))
    return raw.decode("utf-16-le", "replace").split("\0")[0].rstrip("\uffff")


def _short_sum(name: bytes) -> int:
    """The sum that ties a long name to the short one that follows it."""
    total = 0
    for byte in name:
        total = ((total & 1) << 7 | total >> 1) + byte & 0xFF
    return total


def _corrupt(what: str) -> DiskError:
    return DiskError(DiskReason.CORRUPT, f"the FAT file system is damaged: {what}")
