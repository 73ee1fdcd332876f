# SPDX-License-Identifier: GPL-3.0-or-later
"""XFS, version 5 (the only one that mkfs.xfs has made since 2015).

Source of the facts: "XFS Algorithms & Data Structures" and Linux' fs/xfs/libxfs/xfs_format.h, xfs_da_format.h.
Superblock and inodes are read by `layouts`. The walks are our own: dissect.xfs delivers the stale
bytes of unwritten extents, takes folder blocks and file system blocks for the same, and bounds no tree. Neither the
log is replayed (GRUB does not either) nor check sums looked at; each inode's own number is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import mutable

from . import layouts
from .interface import Extent, NodeType
from .volumes import Window, format_uuid

_KNOWN_FEATURES = 0x1FF  # ftype, sparse inodes, meta uuid, bigtime, needs repair, nrext64, exchange, parent, metadir
_LOCAL, _EXTENTS, _BTREE = 1, 2, 3
_LARGE_COUNTS = 1 << 4  # di_flags2: the count of extents is in the 64-bit field
_REALTIME = 1  # di_flags: the data is on another device
_CORE = 176  # bytes of a version 3 inode before its forks
_TREE_HEADER = struct.Struct(">4sHH")  # magic, level, records; 72 bytes in all
_TREE_HEADER_BYTES = 72
_MAX_LEVELS = 9
_FOLDER_HEADER_BYTES = 64
_FOLDER_END = 1 << 35  # byte offset in a folder where its data ends and the index begins
_LINK_HEADER = struct.Struct(">4sII")  # magic, offset, bytes; 56 bytes in all
_LINK_HEADER_BYTES = 56
_TYPES = {0x4: NodeType.DIRECTORY, 0x8: NodeType.FILE, 0xA: NodeType.SYMLINK}


@mutable
class XfsNode:
    """An inode; `fork` is the part of it that holds data, extents or the root of a tree of extents."""

    type: NodeType
    size: int
    number: int
    format: int
    extents: int
    fork: bytes


class XfsFileSystem:
    """An XFS file system in `window`."""

    kind = "xfs"

    def __init__(self, window: Window) -> None:
        self._window = window
        sb = layouts.XFS_SB(window.read(512, 0))
        if sb.sb_versionnum & 0xF != 5:
            raise DiskError(
                DiskReason.NO_FILESYSTEM, f"the XFS file system has version {sb.sb_versionnum & 0xF}, not 5"
            )
        if unknown := sb.sb_features_incompat & ~_KNOWN_FEATURES:
            raise DiskError(DiskReason.NO_FILESYSTEM, f"the XFS file system has unknown features (mask {unknown:#x})")
        if (
            not 9 <= sb.sb_blocklog <= 16
            or sb.sb_blocksize != 1 << sb.sb_blocklog
            or not 9 <= sb.sb_inodelog <= min(11, sb.sb_blocklog)
            or sb.sb_inodesize != 1 << sb.sb_inodelog
            or sb.sb_inopblog != sb.sb_blocklog - sb.sb_inodelog
            or not sb.sb_agcount
            or not 0 < sb.sb_agblocks <= 1 << sb.sb_agblklog <= 1 << 31
            or sb.sb_dirblklog > 16 - sb.sb_blocklog
        ):
            raise _corrupt("its superblock cannot be true")
        self._block: int = sb.sb_blocksize
        self._inode_size: int = sb.sb_inodesize
        self._per_block_log: int = sb.sb_inopblog
        self._group_log: int = sb.sb_agblklog
        self._group_blocks: int = sb.sb_agblocks
        self._groups: int = sb.sb_agcount
        self._folder_block: int = sb.sb_blocksize << sb.sb_dirblklog
        self._has_types = bool(sb.sb_features_incompat & 1)
        self._root: int = sb.sb_rootino
        self.uuid = format_uuid(sb.sb_uuid)
        self.label: bytes = sb.sb_fname.split(b"\0")[0]

    def root(self) -> XfsNode:
        """The root folder."""
        return self._node(self._root)

    def child(self, folder: XfsNode, name: bytes) -> XfsNode | None:
        """The entry `name` of `folder`; a linear look, in which blocks without the name's bytes are skipped."""
        if folder.format == _LOCAL:
            entries = self._short_entries(folder)
        else:
            entries = (e for block in self._folder_blocks(folder) if name in block for e in self._entries(block))
        for found, number in entries:
            if found == name:
                return self._node(number)
        return None

    def names(self, folder: XfsNode) -> Iterator[bytes]:
        """The names in `folder`."""
        if folder.format == _LOCAL:
            entries = self._short_entries(folder)
        else:
            entries = (e for block in self._folder_blocks(folder) for e in self._entries(block))
        for name, _ in entries:
            yield name

    def runs(self, node: XfsNode) -> Iterator[Extent] | None:
        """The extents of `node`'s content in the volume, holes included; None for links and inline content."""
        if node.format == _LOCAL or node.type is NodeType.SYMLINK:
            return None
        return self._mapped(node, -(-node.size // self._block))

    def content(self, node: XfsNode) -> Iterator[bytes]:
        """The target of a link: in the inode, or in extents that each begin with a header."""
        if node.format == _LOCAL:
            yield node.fork
            return
        for extent in self._mapped(node, 0):
            if extent.offset is None or extent.length > limits.PATH_BYTES * 16:
                raise _corrupt(f"the link at inode {node.number} cannot be true")
            magic, _, length = _LINK_HEADER.unpack(self._window.read(_LINK_HEADER.size, extent.offset))
            if magic != b"XSLM" or length > extent.length - _LINK_HEADER_BYTES:
                raise _corrupt(f"the link at inode {node.number} cannot be true")
            yield self._window.read(length, extent.offset + _LINK_HEADER_BYTES)

    def _node(self, number: int) -> XfsNode:
        in_group = self._group_log + self._per_block_log
        group, index = number >> in_group, number & ((1 << in_group) - 1)
        block, slot = index >> self._per_block_log, index & ((1 << self._per_block_log) - 1)
        raw = self._window.read(self._inode_size, self._offset(group, block, 1) + slot * self._inode_size)
        inode = layouts.XFS_DINODE(raw)
        if inode.di_magic != 0x494E or inode.di_version != 3 or inode.di_ino != number:
            raise _corrupt(f"it has no inode {number} where it says")
        if inode.di_flags & _REALTIME:
            raise DiskError(DiskReason.NO_FILESYSTEM, f"inode {number} has its data on another device")
        count = inode.di_big_nextents if inode.di_flags2 & _LARGE_COUNTS else inode.di_big_anextents
        fork = raw[_CORE : _CORE + inode.di_forkoff * 8] if inode.di_forkoff else raw[_CORE:]
        kind = _TYPES.get(inode.di_mode >> 12, NodeType.OTHER)
        return XfsNode(kind, inode.di_size, number, inode.di_format, count, fork)

    def _offset(self, group: int, block: int, count: int) -> int:
        """The byte on the volume of `count` blocks from `block` of an allocation group."""
        if group >= self._groups or block + count > self._group_blocks:
            raise _corrupt(f"it uses block {block + count - 1} of group {group}")
        return (group * self._group_blocks + block) * self._block

    def _fs_offset(self, block: int, count: int) -> int:
        """The byte on the volume of `count` blocks from a file system block number."""
        return self._offset(block >> self._group_log, block & ((1 << self._group_log) - 1), count)

    def _mapped(self, node: XfsNode, blocks: int) -> Iterator[Extent]:
        """All extents of `node` in order, with the holes between them and up to `blocks`."""
        position = 0
        for record in self._records(node):
            # 1 bit unwritten, 54 bits offset in the file, 52 bits block, 21 bits length
            first = record >> 73 & (1 << 54) - 1
            start = record >> 21 & (1 << 52) - 1
            count = record & (1 << 21) - 1
            if first < position or not count:
                raise _corrupt(f"the extents of inode {node.number} overlap")
            if first > position:
                yield Extent(None, (first - position) * self._block)
            unwritten = record >> 127
            yield Extent(None if unwritten else self._fs_offset(start, count), count * self._block)
            position = first + count
        if position < blocks:
            yield Extent(None, (blocks - position) * self._block)

    def _records(self, node: XfsNode) -> Iterator[int]:
        if node.format == _EXTENTS:
            if node.extents * 16 > len(node.fork):
                raise _corrupt(f"inode {node.number} has room for fewer extents than it claims")
            yield from _words(node.fork[: node.extents * 16])
        elif node.format == _BTREE:
            level, count = struct.unpack_from(">HH", node.fork)
            slots = (len(node.fork) - 4) // 16
            if count > slots or not 0 < level < _MAX_LEVELS:
                raise _corrupt(f"the extent tree of inode {node.number} cannot be true")
            for pointer in struct.unpack_from(f">{count}Q", node.fork, 4 + 8 * slots):
                yield from self._tree_records(pointer, level - 1)
        else:
            raise _corrupt(f"inode {node.number} has no data fork")

    def _tree_records(self, block: int, level: int) -> Iterator[int]:
        node = self._window.read(self._block, self._fs_offset(block, 1))
        magic, its_level, count = _TREE_HEADER.unpack_from(node)
        slots = (self._block - _TREE_HEADER_BYTES) // 16
        if magic != b"BMA3" or its_level != level or count > slots:
            raise _corrupt("a node of an extent tree cannot be true")
        self._window.budget.step(count // 8)
        if level == 0:
            yield from _words(node[_TREE_HEADER_BYTES : _TREE_HEADER_BYTES + 16 * count])
            return
        for pointer in struct.unpack_from(f">{count}Q", node, _TREE_HEADER_BYTES + 8 * slots):
            yield from self._tree_records(pointer, level - 1)

    def _folder_blocks(self, folder: XfsNode) -> Iterator[bytes]:
        """The blocks of a folder that hold entries; its index lies beyond them."""
        blocks = self._window.blocks(self._before_index(folder), self._folder_block)
        for count, block in enumerate(blocks):
            if count * self._folder_block > limits.DIRECTORY_ENTRIES * 1024:
                raise DiskError(DiskReason.BUDGET, f"the folder at inode {folder.number} is too big")
            self._window.budget.step(self._folder_block // 128)
            yield block

    def _before_index(self, folder: XfsNode) -> Iterator[Extent]:
        position = 0
        for extent in self._mapped(folder, 0):
            if position >= _FOLDER_END:
                return
            yield extent
            position += extent.length

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        magic = block[:4]
        if magic == b"XDB3":  # the folder's only block: an index ends it
            end = len(block) - 8 - 8 * int.from_bytes(block[-8:-4], "big")
        elif magic == b"XDD3":
            end = len(block)
        else:
            raise _corrupt("a block of a folder cannot be true")
        at = _FOLDER_HEADER_BYTES
        while at + 12 <= end:
            if block[at : at + 2] == b"\xff\xff":
                length = int.from_bytes(block[at + 2 : at + 4], "big")
                if length < 8 or length % 8:
                    raise _corrupt("unused space in a folder cannot be true")
                at += length
                continue
            name_end = at + 9 + block[at + 8]
            name = block[at + 9 : name_end]
            if name_end > end or not name:
                raise _corrupt("a folder's entry cannot be true")
            if name not in (b".", b".."):
                yield name, int.from_bytes(block[at : at + 8], "big")
            at = (name_end + self._has_types + 2 + 7) & ~7  # padded to 8 with a 2-byte tag at the end

    def _short_entries(self, folder: XfsNode) -> Iterator[tuple[bytes, int]]:
        """The entries of a folder that fits into its inode."""
        fork = folder.fork[: folder.size]
        count, wide = fork[0], fork[1]
        width = 8 if wide else 4
        at = 2 + width
        for _ in range(count):
            name_end = at + 3 + fork[at]
            number_at = name_end + self._has_types
            if number_at + width > len(fork):
                raise _corrupt(f"the folder at inode {folder.number} ends early")
            yield fork[at + 3 : name_end], int.from_bytes(fork[number_at : number_at + width], "big")
            at = number_at + width


def _words(records: bytes) -> Iterator[int]:
    for at in range(0, len(records), 16):
        yield int.from_bytes(records[at : at + 16], "big")


def _corrupt(what: str) -> DiskError:
    return DiskError(DiskReason.CORRUPT, f"the XFS file system is damaged: {what}")
