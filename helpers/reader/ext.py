# SPDX-License-Identifier: GPL-3.0-or-later
"""ext2, ext3 and ext4.

Source of the facts: Linux' Documentation/filesystems/ext4. Superblock, group descriptors and inodes are read by the
`layouts`. The walks over extents, block maps and folders are our own: dissect.extfs puts the data
after a hole that is followed by unwritten blocks at the wrong place, stops at 60 bytes of inline data, misses a
folder's last entry and the last inode, and bounds no tree. The journal is not replayed, as GRUB does not.
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

_ROOT_INODE = 2
_KNOWN_FEATURES = (
    0x0002  # filetype
    | 0x0004  # needs_recovery
    | 0x0010  # meta_bg
    | 0x0040  # extents
    | 0x0080  # 64bit
    | 0x0100  # mmp
    | 0x0200  # flex_bg
    | 0x0400  # ea_inode
    | 0x2000  # metadata_csum_seed
    | 0x4000  # large_dir
    | 0x8000  # inline_data
    | 0x10000  # encrypt: refused for the inodes that use it
    | 0x20000  # casefold: names are compared exactly
)
_META_BG, _64BIT = 0x10, 0x80
_SPARSE_SUPER = 0x1
_SPARSE_SUPER2 = 0x200
_ENCRYPTED, _EXTENTS, _INLINE = 0x800, 0x80000, 0x1000_0000
_UNWRITTEN = 0x8000  # lengths above it mark blocks that were reserved and never written
_MAX_DEPTH = 5  # of an extent tree: enough for 2**32 blocks
_POINTER_BLOCKS = 12
_INLINE_BYTES = 60
_TYPES = {0x4: NodeType.DIRECTORY, 0x8: NodeType.FILE, 0xA: NodeType.SYMLINK}
_EXTENT_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")  # first block, length, start (high), start (low)
_INDEX = struct.Struct("<IIHH")  # first block, leaf (low), leaf (high), unused
_DIRENT = struct.Struct("<IHBB")
_XATTR = struct.Struct("<BBHIII")  # name length, name index, value offset, value inode, value size, hash
_XATTR_MAGIC = 0xEA02_0000
_XATTR_SYSTEM = 7


@mutable
class ExtNode:
    """An inode: `data` are the 60 bytes of block map, extent root or inline data, `tail` what follows the core."""

    type: NodeType
    size: int
    number: int
    flags: int
    data: bytes
    tail: bytes


class ExtFileSystem:
    """An ext2, ext3 or ext4 file system in `window`."""

    kind = "ext"

    def __init__(self, window: Window) -> None:
        self._window = window
        sb = layouts.EXT4_SUPER_BLOCK(window.read(1024, 1024))
        if sb.s_feature_incompat & ~_KNOWN_FEATURES:
            unknown = sb.s_feature_incompat & ~_KNOWN_FEATURES
            raise DiskError(DiskReason.NO_FILESYSTEM, f"the ext file system has unknown features (mask {unknown:#x})")
        wide = bool(sb.s_feature_incompat & _64BIT)
        self._descriptor: int = sb.s_desc_size if wide else 32
        self._inode_size: int = sb.s_inode_size if sb.s_rev_level else 128
        if (
            sb.s_log_block_size > 6
            or sb.s_log_block_size != sb.s_log_cluster_size
            or not _is_power_of_2(self._inode_size, 128, 1024 << sb.s_log_block_size)
            or not _is_power_of_2(self._descriptor, 32, 1024)
            or not 0 < sb.s_blocks_per_group <= 8 * (1024 << sb.s_log_block_size)
            or not sb.s_inodes_per_group
        ):
            raise _corrupt("its superblock cannot be true")
        self._block: int = 1024 << sb.s_log_block_size
        self._blocks = sb.s_blocks_count_lo | (sb.s_blocks_count_hi << 32 if wide else 0)
        self._first_block: int = sb.s_first_data_block
        self._inodes = sb.s_inodes_count
        self._per_group = sb.s_inodes_per_group
        self._blocks_per_group: int = sb.s_blocks_per_group
        self._first_meta_bg = sb.s_first_meta_bg if sb.s_feature_incompat & _META_BG else None
        self._sparse = bool(sb.s_feature_ro_compat & _SPARSE_SUPER)
        self._backups = (sb.s_backup_bgs_0, sb.s_backup_bgs_1) if sb.s_feature_compat & _SPARSE_SUPER2 else None
        self.uuid = format_uuid(sb.s_uuid)
        self.label: bytes = sb.s_volume_name.split(b"\0")[0]

    def root(self) -> ExtNode:
        """The root folder."""
        return self._node(_ROOT_INODE)

    def child(self, folder: ExtNode, name: bytes) -> ExtNode | None:
        """The entry `name` of `folder`. A linear look: cheap, since a block without the name's bytes is skipped."""
        for block in self._folder_blocks(folder):
            if name in block:
                for found, number in _entries(block):
                    if found == name:
                        return self._node(number)
        return None

    def names(self, folder: ExtNode) -> Iterator[bytes]:
        """The names in `folder`."""
        for block in self._folder_blocks(folder):
            for name, _ in _entries(block):
                yield name

    def runs(self, node: ExtNode) -> Iterator[Extent] | None:
        """The extents of `node`'s content in the volume, holes included; None for inline content."""
        if node.flags & _ENCRYPTED:
            raise DiskError(DiskReason.NO_FILESYSTEM, f"inode {node.number} is encrypted")
        if node.flags & _INLINE or (node.type is NodeType.SYMLINK and node.size < _INLINE_BYTES):
            return None
        blocks = -(-node.size // self._block)
        if node.flags & _EXTENTS:
            return self._from_extents(node.data, blocks)
        return self._from_map(node.data, blocks)

    def content(self, node: ExtNode) -> Iterator[bytes]:
        """Inline content: the inode's 60 bytes, continued in its attribute system.data."""
        yield node.data
        if node.size > _INLINE_BYTES:
            yield _inline_tail(node)

    def _node(self, number: int) -> ExtNode:
        if not 0 < number <= self._inodes:
            raise _corrupt(f"it names inode {number} of {self._inodes}")
        group, index = divmod(number - 1, self._per_group)
        descriptor = self._window.read(self._descriptor, self._descriptor_offset(group))
        if self._descriptor >= 64:
            layout = layouts.EXT4_GROUP_DESC(descriptor)
            table = layout.bg_inode_table_lo | layout.bg_inode_table_hi << 32
        else:
            table = layouts.EXT2_GROUP_DESC(descriptor).bg_inode_table_lo
        raw = self._window.read(self._inode_size, table * self._block + index * self._inode_size)
        inode = layouts.EXT4_INODE(raw.ljust(layouts.EXT4_INODE.size, b"\0"))  # old inodes have 128 bytes
        kind = _TYPES.get(inode.i_mode >> 12, NodeType.OTHER)
        size = inode.i_size_lo | (inode.i_size_high << 32 if kind is NodeType.FILE else 0)
        tail = raw[128 + inode.i_extra_isize :] if self._inode_size > 128 else b""
        return ExtNode(kind, size, number, inode.i_flags, inode.i_block, tail)

    def _descriptor_offset(self, group: int) -> int:
        """Where the descriptor of `group` is: one table, or with meta_bg a block per block's worth of groups."""
        per_block = self._block // self._descriptor
        block, index = divmod(group, per_block)
        if self._first_meta_bg is None or block < self._first_meta_bg:
            return (self._first_block + 1 + block) * self._block + index * self._descriptor
        first = block * per_block
        at = self._first_block + first * self._blocks_per_group + self._has_superblock(first)
        return at * self._block + index * self._descriptor

    def _has_superblock(self, group: int) -> bool:
        if self._backups is not None:
            return group == 0 or group in self._backups
        if not self._sparse or group < 2:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    def _extent(self, block: int, count: int) -> Extent:
        if not self._first_block <= block or block + count > self._blocks:
            raise _corrupt(f"it uses block {block + count - 1} of {self._blocks}")
        return Extent(block * self._block, count * self._block)

    def _hole(self, count: int) -> Extent:
        return Extent(None, count * self._block)

    def _from_extents(self, root: bytes, blocks: int) -> Iterator[Extent]:
        position = 0
        for first, start, count in self._leaves(root, _MAX_DEPTH + 1):
            if first < position:
                raise _corrupt("the extents of a file overlap")
            if first > position:
                yield self._hole(first - position)
            if count > _UNWRITTEN:
                count -= _UNWRITTEN
                yield self._hole(count)
            elif count:
                yield self._extent(start, count)
            position = first + count
            if position >= blocks:
                return
        if position < blocks:
            yield self._hole(blocks - position)

    def _leaves(self, node: bytes, below: int) -> Iterator[tuple[int, int, int]]:
        """(first block in the file, block on the volume, length) of each leaf under `node`, less than `below` deep."""
        magic, entries, _, depth, _ = _EXTENT_HEADER.unpack_from(node)
        if magic != 0xF30A or depth >= below or 12 + 12 * entries > len(node):
            raise _corrupt("a node of an extent tree cannot be true")
        self._window.budget.step(1 + entries // 8)
        for at in range(12, 12 + 12 * entries, 12):
            if depth == 0:
                first, count, high, low = _EXTENT.unpack_from(node, at)
                yield first, low | high << 32, count
            else:
                _, low, high, _ = _INDEX.unpack_from(node, at)
                yield from self._leaves(self._window.read(self._block, (low | high << 32) * self._block), depth)

    def _from_map(self, root: bytes, blocks: int) -> Iterator[Extent]:
        """The runs of an ext2 block map: direct pointers, then pointers by one, two and three steps."""
        pointers = struct.unpack("<15I", root)
        start = count = 0
        left = blocks
        for block, span in self._pointers(pointers, blocks):
            span = min(span, left)
            left -= span
            if count and (block == start + count if start else not block):
                count += span
                continue
            if count:
                yield self._extent(start, count) if start else self._hole(count)
            start, count = block, span
        if count:
            yield self._extent(start, count) if start else self._hole(count)
        if left:
            yield self._hole(left)

    def _pointers(self, pointers: tuple[int, ...], blocks: int) -> Iterator[tuple[int, int]]:
        """(block, how many blocks it stands for): 1 but for a hole, which may stand for a whole sub-tree."""
        for block in pointers[: min(blocks, _POINTER_BLOCKS)]:
            yield block, 1
        done = _POINTER_BLOCKS
        for level, block in enumerate(pointers[_POINTER_BLOCKS:], 1):
            if done >= blocks:
                return
            yield from self._indirect(block, level, blocks - done)
            done += (self._block // 4) ** level

    def _indirect(self, block: int, level: int, blocks: int) -> Iterator[tuple[int, int]]:
        per_pointer = (self._block // 4) ** (level - 1)
        if not block:
            yield 0, per_pointer * (self._block // 4)
            return
        untrusted = self._window.read(self._block, self._extent(block, 1).offset or 0)
        pointers = struct.unpack(f"<{self._block // 4}I", untrusted)
        self._window.budget.step(len(pointers) // 16)
        for index in range(min(len(pointers), -(-blocks // per_pointer))):
            if level == 1:
                yield pointers[index], 1
            else:
                yield from self._indirect(pointers[index], level - 1, blocks - index * per_pointer)

    def _folder_blocks(self, folder: ExtNode) -> Iterator[bytes]:
        if folder.size > limits.DIRECTORY_ENTRIES * 1024:
            raise DiskError(DiskReason.BUDGET, f"the folder at inode {folder.number} has {folder.size} bytes")
        runs = self.runs(folder)
        if runs is None:
            yield folder.data[4:]  # after the number of the parent
            if folder.size > _INLINE_BYTES:
                yield _inline_tail(folder)
            return
        for block in self._window.blocks(runs, self._block):
            self._window.budget.step(self._block // 128)
            yield block


def _entries(block: bytes) -> Iterator[tuple[bytes, int]]:
    """(name, inode) of the entries in one block; those of the hash tree's inner nodes look like unused space."""
    at = 0
    while at + 8 <= len(block):
        number, length, name_length, _ = _DIRENT.unpack_from(block, at)
        if length in (0, 0xFFFF) and len(block) == 0x10000:
            length = 0x10000
        if length < 8 + name_length or length % 4 or at + length > len(block):
            if number == 0 and length == 0:
                return  # the unused rest of inline data
            raise _corrupt("a folder's entry cannot be true")
        if number:
            name = block[at + 8 : at + 8 + name_length]
            if name not in (b".", b".."):
                yield name, number
        at += length


def _inline_tail(node: ExtNode) -> bytes:
    """The value of the attribute system.data, where inline data continues after 60 bytes."""
    tail = node.tail
    if len(tail) >= 4 and int.from_bytes(tail[:4], "little") == _XATTR_MAGIC:
        at = 4
        while at + 16 <= len(tail) and tail[at : at + 4] != bytes(4):
            name_length, index, value, inode, size, _ = _XATTR.unpack_from(tail, at)
            if index == _XATTR_SYSTEM and tail[at + 16 : at + 16 + name_length] == b"data" and not inode:
                return tail[4 + value : 4 + value + size]
            at += 16 + (name_length + 3 & ~3)
    raise _corrupt(f"the inline data of inode {node.number} ends early")


def _is_power_of_2(value: int, low: int, high: int) -> bool:
    return low <= value <= high and value & (value - 1) == 0


def _corrupt(what: str) -> DiskError:
    return DiskError(DiskReason.CORRUPT, f"the ext file system is damaged: {what}")
