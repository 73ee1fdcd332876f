# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 images, versions 2 and 3, that stand alone.

Source of the facts: QEMU's docs/interop/qcow2.txt. The walk is our own: dissect.hypervisor opens backing files, does
not bound the L1 table, and its run lists read the subcluster bitmap from the wrong word. Nothing is ever opened
here: an image with a backing file, an external data file or encryption is refused.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator

from domward.protocol.errors import DiskError, DiskReason

from .interface import Extent
from .source import DiskSource

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # magic .. snapshots_offset, 72 bytes
_HEADER_V3 = struct.Struct(">QQQII")  # three feature masks, refcount_order, header_length
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_READS_AS_ZERO = 1
_INCOMPATIBLE_DIRTY = 1  # refcounts may be stale: no matter to a reader
_L1_BYTES = 32 << 20  # bytes: QEMU's own bound
_L2_CACHED = 64  # tables


class Qcow2Image:
    """A qcow2 image. Compressed clusters can be read but have no extents.

    Raises DiskError UNSUPPORTED_IMAGE for what needs another file, a key or an unknown feature, CORRUPT for a header
    that cannot be true.
    """

    format = "qcow2"

    def __init__(self, source: DiskSource) -> None:
        self.source = source
        header = source.pread(104, 0).ljust(104, b"\0")
        (magic, version, backing, _, cluster_bits, size, crypt, l1_size, l1_offset, _, _, _, _) = _HEADER.unpack_from(
            header
        )
        if magic != b"QFI\xfb":
            raise DiskError(DiskReason.UNSUPPORTED_IMAGE, "this is not a qcow2 image: its magic number is missing")
        if version not in (2, 3):
            raise _unsupported(f"has version {version}; versions 2 and 3 are known")
        if backing:
            raise _unsupported("has a backing file, and the reader opens no second file")
        if crypt:
            raise _unsupported("is encrypted")
        features = _HEADER_V3.unpack_from(header, _HEADER.size)[0] if version == 3 else 0
        if features & ~_INCOMPATIBLE_DIRTY:
            raise _unsupported(f"needs features that the reader lacks (mask {features:#x})")
        if not 9 <= cluster_bits <= 21:
            raise _corrupt(f"its clusters would have 2**{cluster_bits} bytes")
        self.size: int = size
        self._bits: int = cluster_bits
        self._cluster = 1 << cluster_bits
        self._l2_bits = cluster_bits - 3
        needed = -(-size >> (cluster_bits + self._l2_bits))
        if size >= 1 << 63 or l1_size < needed or needed * 8 > _L1_BYTES:
            raise _corrupt(f"{l1_size} entries of its first table do not suit {size} bytes")
        untrusted_l1 = source.pread(needed * 8, l1_offset)
        if len(untrusted_l1) < needed * 8:
            raise DiskError(DiskReason.TRUNCATED, "the qcow2 image ends before its first table does")
        self._l1 = _table(untrusted_l1)
        self._l2: dict[int, array[int]] = {}

    def pread(self, length: int, offset: int) -> bytes:
        """See `interface.Image`."""
        pieces = []
        for entry, within, count in self._clusters(offset, length):
            if entry & _COMPRESSED:
                pieces.append(self._decompressed(entry)[within : within + count])
            elif (host := self._host(entry)) is None:
                self.source.budget.charge(count)
                pieces.append(bytes(count))
            else:
                piece = self.source.pread(count, host + within)
                if len(piece) < count:
                    raise DiskError(DiskReason.TRUNCATED, f"the qcow2 image ends inside the cluster at byte {host}")
                pieces.append(piece)
        return b"".join(pieces)

    def extents(self, offset: int, length: int) -> Iterator[Extent] | None:
        """See `interface.Image`; None where a compressed cluster lies in the range."""
        found: list[Extent] = []
        for entry, within, count in self._clusters(offset, length):
            if entry & _COMPRESSED:
                return None
            host = self._host(entry)
            start = None if host is None else host + within
            last = found[-1] if found else None
            if last is not None and (
                (start is None and last.offset is None)
                or (start is not None and last.offset is not None and last.offset + last.length == start)
            ):
                found[-1] = Extent(last.offset, last.length + count)
            else:
                found.append(Extent(start, count))
        return iter(found)

    def _clusters(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(table entry, offset within its cluster, bytes) for each cluster in the range, cut at the image's end."""
        end = min(offset + length, self.size)
        while offset < end:
            index = offset >> self._bits
            within = offset & (self._cluster - 1)
            count = min(self._cluster - within, end - offset)
            self.source.budget.step()
            table = self._l1[index >> self._l2_bits] & _OFFSET_MASK
            entry = self._l2_table(table)[index & ((1 << self._l2_bits) - 1)] if table else 0
            yield entry, within, count
            offset += count

    def _l2_table(self, offset: int) -> array[int]:
        table = self._l2.get(offset)
        if table is None:
            untrusted = self.source.pread(self._cluster, offset)
            if len(untrusted) < self._cluster:
                raise DiskError(DiskReason.TRUNCATED, f"the qcow2 image ends inside its table at byte {offset}")
            table = _table(untrusted)
            if len(self._l2) >= _L2_CACHED:
                self._l2.clear()
            self._l2[offset] = table
        return table

    def _host(self, entry: int) -> int | None:
        """Where in the file a plain cluster lies; None for zeroes."""
        if entry & _READS_AS_ZERO or not (host := entry & _OFFSET_MASK):
            return None
        if host & (self._cluster - 1):
            raise _corrupt(f"a cluster would lie at the odd byte {host}")
        return host

    def _decompressed(self, entry: int) -> bytes:
        shift = 62 - (self._bits - 8)
        host = entry & ((1 << shift) - 1)
        sectors = (entry >> shift) & ((1 << (self._bits - 8)) - 1)
        packed = self.source.pread((sectors + 1) * 512 - (host & 511), host)
        self.source.budget.charge(self._cluster)
        try:
            plain = zlib.decompressobj(-12).decompress(packed, self._cluster)
        except zlib.error as error:
            raise _corrupt(f"the compressed cluster at byte {host} cannot be unpacked") from error
        if len(plain) != self._cluster:
            raise _corrupt(f"the compressed cluster at byte {host} is too short")
        return plain


def _table(untrusted: bytes) -> array[int]:
    """Big-endian 64-bit words, in a quarter of the memory that a tuple takes."""
    words = array("Q", untrusted)
    if sys.byteorder == "little":
        words.byteswap()
    return words


def _unsupported(what: str) -> DiskError:
    return DiskError(
        DiskReason.UNSUPPORTED_IMAGE,
        f"the qcow2 image {what}",
        advice="Convert it to a plain image with qemu-img convert.",
    )


def _corrupt(what: str) -> DiskError:
    return DiskError(DiskReason.CORRUPT, f"the qcow2 image is damaged: {what}")
