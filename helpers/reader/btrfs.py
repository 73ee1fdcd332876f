# SPDX-License-Identifier: GPL-3.0-or-later
"""btrfs on one device: its chunks, trees, subvolumes and files.

Source of the facts: the btrfs documentation, "On-disk format", and Linux' include/uapi/linux/btrfs_tree.h. The
superblock and its items are read by `layouts`. The walk over trees is our own: dissect.btrfs
follows a node to itself for ever, unpacks compressed extents without a limit, and reads reserved extents as
holes without their length. Check sums and the log tree are not looked at.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import frozen, mutable

from . import layouts
from .compression import COMPRESSED_BYTES, unpack
from .interface import Extent, NodeType
from .volumes import Window, format_uuid

_SUPERBLOCK = 65536
_KNOWN_FEATURES = 0x11FFF  # all but the new extent tree (0x2000) and the RAID stripe tree (0x4000)
_ROOT_TREE_FOLDER, _FS_TREE, _CHUNK_OBJECT = 6, 5, 256
_INODE_ITEM, _DIR_ITEM, _DIR_INDEX, _EXTENT_DATA, _ROOT_ITEM, _CHUNK_ITEM = 1, 84, 96, 108, 132, 228
_STRIPED = 0x8 | 0x40 | 0x80 | 0x100  # RAID0, RAID10, RAID5, RAID6: pieces lie on several devices
_MAX_CHUNKS = 65_536
_MAX = (1 << 64) - 1
_HEADER = struct.Struct("<48xQ40xIB")  # byte number, items, level
_HEADER_BYTES = 101
_POINTER = struct.Struct("<QBQQQ")  # key, node, generation
_ITEM = struct.Struct("<QBQII")  # key, offset of the data, size
_DIR = struct.Struct("<QBQQHHB")  # location key, transaction, data length, name length, type
_FILE_EXTENT = struct.Struct("<QQBBHB")  # generation, plain bytes, compression, encryption, other, type
_FILE_DATA = struct.Struct("<QQQQ")  # disk byte, disk bytes, offset, bytes
_INLINE, _REGULAR, _RESERVED = 0, 1, 2
_NODES_CACHED = 128
_PIECE = 1 << 20
# Subvolumes that installers make the root of a system, where the default one is the top: Fedora, Ubuntu, Debian.
_ROOT_NAMES = (b"root", b"@", b"@rootfs", b"@root")
_TYPES = {0x4: NodeType.DIRECTORY, 0x8: NodeType.FILE, 0xA: NodeType.SYMLINK}

Key = tuple[int, int, int]


@frozen
class _Root:
    """Where a tree begins."""

    address: int
    level: int


@mutable
class BtrfsNode:
    """An inode of one subvolume."""

    type: NodeType
    size: int
    number: int
    tree: _Root


@frozen
class _Chunk:
    """`length` bytes of the logical space at `start` lie at byte `physical` of this device; None: not here."""

    start: int
    length: int
    physical: int | None


@frozen
class _Piece:
    """A piece of a file: `length` bytes from byte `position`, in `raw` (inline) or at the logical byte `disk`."""

    position: int
    length: int
    disk: int
    disk_bytes: int
    offset: int
    plain_bytes: int
    compression: int
    raw: bytes | None


class BtrfsFileSystem:
    """A btrfs file system in `window`."""

    kind = "btrfs"

    def __init__(self, window: Window) -> None:
        self._window = window
        sb = layouts.BTRFS_SUPER_BLOCK(window.read(4096, _SUPERBLOCK))
        if unknown := sb.incompat_flags & ~_KNOWN_FEATURES:
            raise DiskError(DiskReason.NO_FILESYSTEM, f"the btrfs file system has unknown features (mask {unknown:#x})")
        if not (
            _is_power_of_2(sb.sectorsize, 512, 65536)
            and _is_power_of_2(sb.nodesize, sb.sectorsize, 65536)
            and sb.sys_chunk_array_size <= len(sb.sys_chunk_array)
        ):
            raise _corrupt("its superblock cannot be true")
        self._sector: int = sb.sectorsize
        self._node_bytes: int = sb.nodesize
        self._device: int = sb.dev_item_devid
        self._nodes: dict[int, tuple[int, list[tuple[int, ...]], bytes]] = {}
        self._trees: dict[int, _Root | None] = {}
        self.uuid = format_uuid(sb.fsid)
        self.label: bytes = sb.label.split(b"\0")[0]
        self._chunks = self._system_chunks(sb.sys_chunk_array[: sb.sys_chunk_array_size])
        self._chunks = self._all_chunks(_Root(sb.chunk_root, sb.chunk_root_level))
        self._root_tree = _Root(sb.root, sb.root_level)

    def root(self) -> BtrfsNode:
        """The root folder of the default subvolume."""
        number = _FS_TREE
        low, high = (_ROOT_TREE_FOLDER, _DIR_ITEM, 0), (_ROOT_TREE_FOLDER, _DIR_ITEM, _MAX)
        for _, data in self._items(self._root_tree, low, high):
            for name, location in self._dir_entries(data):
                if name == b"default":
                    number = location[0]
        found = self._subvolume(number)
        if found is None:
            raise _corrupt(f"it has no subvolume {number}")
        return found

    def other_roots(self) -> tuple[BtrfsNode, ...]:
        """The top of all subvolumes, and those right below it that are named as installers name the root."""
        top = self._subvolume(_FS_TREE)
        if top is None:
            return ()
        named = (self.child(top, name) for name in _ROOT_NAMES)
        return (top, *(node for node in named if node is not None and node.type is NodeType.DIRECTORY))

    def child(self, folder: BtrfsNode, name: bytes) -> BtrfsNode | None:
        """The entry `name` of `folder`, found by the hash of its name."""
        key = (folder.number, _DIR_ITEM, _name_hash(name))
        for _, data in self._items(folder.tree, key, key):
            for found, location in self._dir_entries(data):
                if found == name:
                    if location[1] == _ROOT_ITEM:
                        return self._subvolume(location[0])
                    return self._node(folder.tree, location[0])
        return None

    def names(self, folder: BtrfsNode) -> Iterator[bytes]:
        """The names in `folder`."""
        for _, data in self._items(folder.tree, (folder.number, _DIR_INDEX, 0), (folder.number, _DIR_INDEX, _MAX)):
            for name, _ in self._dir_entries(data):
                yield name

    def runs(self, node: BtrfsNode) -> Iterator[Extent] | None:
        """The extents of `node`'s content in the volume; None where a part is compressed or inline."""
        pieces = list(self._pieces(node))
        if any(piece.compression or piece.raw is not None for piece in pieces):
            return None
        return self._plain_runs(pieces, node.size)

    def content(self, node: BtrfsNode) -> Iterator[bytes]:
        """The content of a file that is compressed or inline in part."""
        position = 0
        for piece in self._pieces(node):
            yield from self._zeroes(piece.position - position)
            yield from self._unpacked(piece)
            position = piece.position + piece.length
        yield from self._zeroes(node.size - position)

    def _plain_runs(self, pieces: list[_Piece], size: int) -> Iterator[Extent]:
        position = 0
        for piece in pieces:
            if piece.position > position:
                yield Extent(None, piece.position - position)
            if piece.disk:
                yield from self._physical(piece.disk + piece.offset, piece.length)
            else:
                yield Extent(None, piece.length)
            position = piece.position + piece.length
        if position < size:
            yield Extent(None, size - position)

    def _pieces(self, node: BtrfsNode) -> Iterator[_Piece]:
        """The pieces of a file in order; what no piece covers is a hole. Reserved extents read as zeroes."""
        position = 0
        low, high = (node.number, _EXTENT_DATA, 0), (node.number, _EXTENT_DATA, _MAX)
        for count, (key, data) in enumerate(self._items(node.tree, low, high)):
            _, plain, compression, encryption, other, kind = _FILE_EXTENT.unpack_from(data)
            if count >= limits.EXTENTS:
                raise DiskError(DiskReason.BUDGET, f"a file lies in more than {count} pieces")
            if key[2] < position or encryption or other or kind > _RESERVED:
                raise _corrupt(f"an extent of inode {node.number} cannot be true")
            if (compression or kind == _INLINE) and plain > COMPRESSED_BYTES:
                raise _corrupt(f"an extent of inode {node.number} would unpack to {plain} bytes")
            if kind == _INLINE:
                raw = data[_FILE_EXTENT.size :]
                length = plain if compression else len(raw)
                piece = _Piece(key[2], length, 0, 0, 0, plain, compression, raw)
            else:
                disk, disk_bytes, offset, length = _FILE_DATA.unpack_from(data, _FILE_EXTENT.size)
                if offset + length > plain or not length or (compression and disk_bytes > COMPRESSED_BYTES):
                    raise _corrupt(f"an extent of inode {node.number} cannot be true")
                if kind == _RESERVED or not disk:
                    piece = _Piece(key[2], length, 0, 0, 0, plain, 0, None)
                else:
                    piece = _Piece(key[2], length, disk, disk_bytes, offset, plain, compression, None)
            yield piece
            position = key[2] + length

    def _unpacked(self, piece: _Piece) -> Iterator[bytes]:
        if piece.compression:
            packed = piece.raw if piece.raw is not None else b"".join(self._read(piece.disk, piece.disk_bytes))
            self._window.budget.charge(piece.plain_bytes)
            plain = unpack(piece.compression, packed, piece.plain_bytes, self._sector).ljust(piece.plain_bytes, b"\0")
            yield plain[piece.offset : piece.offset + piece.length]
        elif piece.raw is not None:
            yield piece.raw
        elif piece.disk:
            yield from self._read(piece.disk + piece.offset, piece.length)
        else:
            yield from self._zeroes(piece.length)

    def _zeroes(self, length: int) -> Iterator[bytes]:
        while length > 0:
            self._window.budget.charge(min(length, _PIECE))
            yield bytes(min(length, _PIECE))
            length -= _PIECE

    def _read(self, logical: int, length: int) -> Iterator[bytes]:
        for extent in self._physical(logical, length):
            assert extent.offset is not None, "chunks have no holes"
            for done in range(0, extent.length, _PIECE):
                yield self._window.read(min(_PIECE, extent.length - done), extent.offset + done)

    def _physical(self, logical: int, length: int) -> Iterator[Extent]:
        """Where a range of the logical space lies in the volume."""
        while length > 0:
            index = bisect_right(self._chunks, logical, key=lambda chunk: chunk.start) - 1
            chunk = self._chunks[index] if index >= 0 else None
            if chunk is None or logical >= chunk.start + chunk.length:
                raise _corrupt(f"no chunk holds the logical byte {logical}")
            if chunk.physical is None:
                raise DiskError(DiskReason.NO_FILESYSTEM, "the btrfs file system spreads its data over several devices")
            take = min(length, chunk.start + chunk.length - logical)
            yield Extent(chunk.physical + logical - chunk.start, take)
            logical += take
            length -= take

    def _system_chunks(self, untrusted: bytes) -> list[_Chunk]:
        chunks: list[_Chunk] = []
        at = 0
        while at < len(untrusted):
            self._window.budget.step()
            chunk, size = self._chunk(int.from_bytes(untrusted[at + 9 : at + 17], "little"), untrusted[at + 17 :])
            chunks.append(chunk)
            at += 17 + size
        return sorted(chunks, key=lambda chunk: chunk.start)

    def _all_chunks(self, tree: _Root) -> list[_Chunk]:
        chunks: list[_Chunk] = []
        for key, data in self._items(tree, (_CHUNK_OBJECT, _CHUNK_ITEM, 0), (_CHUNK_OBJECT, _CHUNK_ITEM, _MAX)):
            if len(chunks) >= _MAX_CHUNKS:
                raise DiskError(DiskReason.BUDGET, f"the btrfs file system has more than {_MAX_CHUNKS} chunks")
            chunks.append(self._chunk(key[2], data)[0])
        return sorted(chunks, key=lambda chunk: chunk.start)

    def _chunk(self, start: int, data: bytes) -> tuple[_Chunk, int]:
        """The chunk in `data` and how many bytes it takes there."""
        count = int.from_bytes(data[44:46], "little")
        size = 48 + 32 * count
        if not count or size > len(data):
            raise _corrupt("a chunk cannot be true")
        length, kind = struct.unpack_from("<Q16xQ", data)
        physical = None
        if not kind & _STRIPED:
            for at in range(48, size, 32):
                device, offset = struct.unpack_from("<QQ", data, at)
                if device == self._device:
                    physical = offset
                    break
        return _Chunk(start, length, physical), size

    def _subvolume(self, number: int) -> BtrfsNode | None:
        """The root folder of a subvolume; None where there is none, as where a snapshot left a nested one behind."""
        if number not in self._trees:
            found = None
            for _, data in self._items(self._root_tree, (number, _ROOT_ITEM, 0), (number, _ROOT_ITEM, _MAX)):
                root_folder, address = struct.unpack_from("<QQ", data, 168)
                found = _Root(address, data[238])
                if root_folder != _CHUNK_OBJECT:
                    raise _corrupt(f"the root of subvolume {number} would be inode {root_folder}")
            if len(self._trees) < _NODES_CACHED:
                self._trees[number] = found
            else:
                return None if found is None else self._node(found, _CHUNK_OBJECT)
        tree = self._trees[number]
        return None if tree is None else self._node(tree, _CHUNK_OBJECT)

    def _node(self, tree: _Root, number: int) -> BtrfsNode:
        key = (number, _INODE_ITEM, 0)
        for _, data in self._items(tree, key, key):
            inode = layouts.BTRFS_INODE_ITEM(data)
            return BtrfsNode(_TYPES.get(inode.mode >> 12, NodeType.OTHER), inode.size, number, tree)
        raise _corrupt(f"it has no inode {number} where it says")

    def _dir_entries(self, data: bytes) -> Iterator[tuple[bytes, Key]]:
        """(name, key of what it names) of the entries in one item: several where names have the same hash."""
        at = 0
        while at + _DIR.size <= len(data):
            number, kind, offset, _, data_length, name_length, _ = _DIR.unpack_from(data, at)
            at += _DIR.size
            yield data[at : at + name_length], (number, kind, offset)
            at += name_length + data_length

    def _items(self, tree: _Root, low: Key, high: Key) -> Iterator[tuple[Key, bytes]]:
        """The items of `tree` whose keys lie in [low, high]. A child's level is one less than its parent's: it ends."""
        if tree.level > 7:
            raise _corrupt(f"a tree would have {tree.level} levels")
        return self._below(tree.address, tree.level, low, high)

    def _below(self, address: int, level: int, low: Key, high: Key) -> Iterator[tuple[Key, bytes]]:
        entries, raw = self._load(address, level)
        if level:
            for entry in entries[max(0, bisect_right(entries, low) - 1) :]:
                if entry[:3] > high:
                    return
                yield from self._below(entry[3], level - 1, low, high)
            return
        for entry in entries[bisect_left(entries, low) :]:
            key = (entry[0], entry[1], entry[2])
            if key > high:
                return
            self._window.budget.step()
            at = _HEADER_BYTES + entry[3]
            if at + entry[4] > len(raw):
                raise _corrupt(f"an item reaches beyond the node at {address}")
            yield key, raw[at : at + entry[4]]

    def _load(self, address: int, level: int) -> tuple[list[tuple[int, ...]], bytes]:
        """The entries of a node and its bytes."""
        self._window.budget.step()
        cached = self._nodes.get(address)
        if cached is None:
            raw = b"".join(self._read(address, self._node_bytes))
            own, count, its_level = _HEADER.unpack_from(raw)
            form = _POINTER if its_level else _ITEM
            if own != address or count > (len(raw) - _HEADER_BYTES) // form.size:
                raise _corrupt(f"there is no tree node at {address}")
            self._window.budget.step(count // 8)
            entries = list(form.iter_unpack(raw[_HEADER_BYTES : _HEADER_BYTES + count * form.size]))
            if len(self._nodes) >= _NODES_CACHED:
                del self._nodes[next(iter(self._nodes))]
            cached = self._nodes[address] = (its_level, entries, raw)
        if cached[0] != level:
            raise _corrupt(f"the tree node at {address} has level {cached[0]}, not {level}")
        return cached[1], cached[2]


def _crc32c_of(byte: int) -> int:
    """One entry of the table for CRC-32C (Castagnoli), whose reversed polynomial is 0x82F63B78."""
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F6_3B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(map(_crc32c_of, range(256)))


def _name_hash(name: bytes) -> int:
    """btrfs' hash of a name: CRC-32C from ~1, without the final inversion."""
    register = 0xFFFF_FFFE
    for byte in name:
        register = _CRC32C[(register ^ byte) & 0xFF] ^ register >> 8
    return register


def _is_power_of_2(value: int, low: int, high: int) -> bool:
    return low <= value <= high and value & (value - 1) == 0


def _corrupt(what: str) -> DiskError:
    return DiskError(DiskReason.CORRUPT, f"the btrfs file system is damaged: {what}")
