# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitions: the whole disk, MBR (primary and logical) and GPT; and a window onto one of them.

Sources: the UEFI specification, chapter 5, for GPT; Linux' block/partitions/msdos.c for MBR and its numbering. The
tables are unpacked here with `struct`: dissect.volume believes any entry count of a GPT, knows no backup header, loses
the last sector of each GPT partition, numbers logical partitions unlike Linux, and follows a circle of EBRs for ever.
Sectors have 512 bytes, or 4096 where a GPT header lies at byte 4096.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import field, mutable

from .image import DiskImage
from .interface import Extent, Volume

_SECTOR = 512
_MBR_ENTRY = struct.Struct("<B3sB3sII")  # boot flag, CHS, type, CHS, first sector, sectors
_EXTENDED = frozenset((0x05, 0x0F, 0x85))
_PROTECTIVE = 0xEE
_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQ")
_GPT_TABLE_BYTES = 1 << 20  # bytes: 8192 entries, far more than any tool writes; read only to check its sum


@mutable
class VolumeTable:
    """The volumes of an image, in the order of the table, and what is wrong with it.

    `truncated`: at least one partition lies partly or wholly beyond the end of the image; the first kind is cut
    at the end, the second left out.
    """

    volumes: list[Volume] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    truncated: bool = False

    def add(self, image: DiskImage, index: int, scheme: str, offset: int, size: int, uuid: str) -> None:
        """Add a partition as the table claims it, cut to the image."""
        if offset + size > image.size:
            self.truncated = True
            self.problems.append(
                f"partition {index} ends at byte {offset + size}, but the disk at byte {image.size}: it is truncated"
            )
            size = image.size - offset
        if size > 0 and len(self.volumes) < limits.PARTITIONS:
            self.volumes.append(Volume(index, scheme, offset, size, uuid))


def find_volumes(image: DiskImage) -> VolumeTable:
    """The partitions of `image`, or the whole disk where it has none that hold anything."""
    table = VolumeTable()
    untrusted_mbr = image.pread(_SECTOR, 0)
    if (entries := _mbr_entries(untrusted_mbr)) is not None:
        if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
            _read_gpt(image, table)
        else:
            _read_mbr(image, table, untrusted_mbr, entries)
    if not table.volumes:
        table.volumes.append(whole_disk(image))
    return table


def whole_disk(image: DiskImage) -> Volume:
    """The image as one volume."""
    return Volume(0, "disk", 0, image.size)


def volume_at(image: DiskImage, offset: int) -> Volume:
    """All of the image from `offset` on, in bytes. Raises DiskError where nothing is there."""
    if offset >= image.size:
        raise DiskError(DiskReason.NO_FILESYSTEM, f"the disk ends at byte {image.size}, before offset {offset}")
    return Volume(0, "disk", offset, image.size - offset)


def _mbr_entries(untrusted_sector: bytes) -> list[tuple[int, int, int, int]] | None:
    """(slot 0-3, type, first sector, sectors) of the entries in use; None where the sector is no partition table.

    A file system's boot sector ends in the same two bytes; as in Linux, boot flags other than 0 and 0x80 give it away.
    """
    if len(untrusted_sector) < _SECTOR or untrusted_sector[510:] != b"\x55\xaa":
        return None
    entries = []
    for slot in range(4):
        boot, _, kind, _, start, count = _MBR_ENTRY.unpack_from(untrusted_sector, 446 + 16 * slot)
        if boot & 0x7F:
            return None
        if kind and count:
            entries.append((slot, kind, start, count))
    return entries


def _read_mbr(
    image: DiskImage, table: VolumeTable, untrusted_mbr: bytes, entries: list[tuple[int, int, int, int]]
) -> None:
    signature = int.from_bytes(untrusted_mbr[440:444], "little")
    for slot, kind, start, count in entries:
        if kind in _EXTENDED:
            continue
        table.add(image, slot + 1, "mbr", start * _SECTOR, count * _SECTOR, f"{signature:08x}-{slot + 1:02x}")
    for _, kind, start, _ in entries:
        if kind in _EXTENDED:
            _read_logical(image, table, start, signature)
            break


def _read_logical(image: DiskImage, table: VolumeTable, extended: int, signature: int) -> None:
    """Follow the chain of EBRs. Each names one partition and the next EBR, counted from the extended partition."""
    seen: set[int] = set()
    index = 5
    sector = extended
    while sector not in seen and len(seen) < limits.PARTITIONS:
        seen.add(sector)
        image.source.budget.step()
        entries = _mbr_entries(image.pread(_SECTOR, sector * _SECTOR))
        if entries is None:
            table.problems.append(f"the chain of logical partitions breaks at sector {sector}")
            return
        following = None
        for slot, kind, start, count in entries:
            if slot > 1:
                break
            if kind in _EXTENDED:
                following = extended + start
            else:
                offset = (sector + start) * _SECTOR
                table.add(image, index, "mbr", offset, count * _SECTOR, f"{signature:08x}-{index:02x}")
                index += 1
        if following is None:
            return
        sector = following
    table.problems.append("the chain of logical partitions does not end")


def _read_gpt(image: DiskImage, table: VolumeTable) -> None:
    for sector_size in (_SECTOR, 4096):
        for lba in (1, image.size // sector_size - 1):
            if lba > 0 and (found := _gpt_entries(image, lba, sector_size)) is not None:
                _add_gpt(image, table, found, sector_size)
                return
    table.problems.append("neither copy of the GUID partition table is whole")


def _gpt_entries(image: DiskImage, lba: int, sector_size: int) -> list[bytes] | None:
    """The entries of the GPT whose header is at `lba`, if its check sums are right."""
    untrusted = image.pread(_SECTOR, lba * sector_size)
    if len(untrusted) < _SECTOR or untrusted[:8] != b"EFI PART":
        return None
    _, _, header_size, sum_, _, own, _, _, _, _, first, count, size, table_sum = _GPT_HEADER.unpack_from(untrusted)
    if not _GPT_HEADER.size <= header_size <= _SECTOR or own != lba:
        return None
    if zlib.crc32(untrusted[:16] + bytes(4) + untrusted[20:header_size]) != sum_:
        return None
    if size < 128 or size % 8 or count * size > _GPT_TABLE_BYTES:
        return None
    entries = image.pread(count * size, first * sector_size)
    if len(entries) < count * size or zlib.crc32(entries) != table_sum:
        return None
    return [entries[at : at + _GPT_ENTRY.size] for at in range(0, len(entries), size)]


def _add_gpt(image: DiskImage, table: VolumeTable, entries: list[bytes], sector_size: int) -> None:
    for index, entry in enumerate(entries, 1):
        kind, guid, first, last = _GPT_ENTRY.unpack(entry)
        if any(kind) and 0 < first <= last:
            size = (last - first + 1) * sector_size
            table.add(image, index, "gpt", first * sector_size, size, format_uuid(guid, mixed_endian=True))


def format_uuid(raw: bytes, *, mixed_endian: bool = False) -> str:
    """16 bytes as 8-4-4-4-12 lower-case digits; GPT stores the first three groups little-endian."""
    if mixed_endian:
        raw = raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class Window:
    """The bytes of one volume, for the parsers of file systems: bounded, counted, and small reads cached.

    Every read is a step of the budget; bytes are charged when they are fetched from the disk.
    """

    _PAGE = 16 << 10  # bytes fetched at once: the largest btrfs node that mkfs makes by default
    _PAGES = 256  # pages kept: 4 MiB

    def __init__(self, image: DiskImage, volume: Volume) -> None:
        self.image = image
        self.volume = volume
        self.budget = image.source.budget
        self._pages: dict[int, bytes] = {}

    def read(self, length: int, offset: int) -> bytes:
        """Exactly `length` bytes at `offset` of the volume.

        Raises DiskError TRUNCATED where the volume ends with the disk before that, CORRUPT where it just ends.
        """
        self.budget.step()
        if offset < 0 or length < 0 or offset + length > self.volume.size:
            raise self.beyond(offset + length)
        number, start = divmod(offset, self._PAGE)
        if start + length > self._PAGE:
            return self._read_across(length, offset)
        return (self._pages.get(number) or self._fetch(number))[start : start + length]

    def _read_across(self, length: int, offset: int) -> bytes:
        if length > 4 * self._PAGE:
            return self.image.pread(length, self.volume.offset + offset)
        first, start = divmod(offset, self._PAGE)
        last = (offset + length - 1) // self._PAGE
        pages = [self._pages.get(number) or self._fetch(number) for number in range(first, last + 1)]
        return b"".join(pages)[start : start + length]

    def _fetch(self, number: int) -> bytes:
        at = number * self._PAGE
        page = self.image.pread(min(self._PAGE, self.volume.size - at), self.volume.offset + at)
        if len(self._pages) >= self._PAGES:
            del self._pages[next(iter(self._pages))]
        self._pages[number] = page
        return page

    def blocks(self, runs: Iterable[Extent], unit: int) -> Iterator[bytes]:
        """The content of `runs` (extents of this volume) in pieces of `unit` bytes; holes are left out.

        Raises DiskError(CORRUPT) where a piece is not whole.
        """
        partial = b""
        for run in runs:
            if run.offset is None:
                if partial:
                    break
                continue
            for at in range(run.offset, run.offset + run.length, unit):
                partial += self.read(min(unit - len(partial), run.offset + run.length - at), at)
                if len(partial) == unit:
                    yield partial
                    partial = b""
        if partial:
            raise DiskError(DiskReason.CORRUPT, "a folder ends in the middle of a block")

    def beyond(self, end: int) -> DiskError:
        """The error for something that would reach byte `end` of the volume, which does not."""
        volume = self.volume
        if volume.offset + volume.size == self.image.size:
            at = volume.offset + end
            return DiskError(DiskReason.TRUNCATED, f"the disk ends at byte {self.image.size}, but byte {at} is needed")
        return DiskError(DiskReason.CORRUPT, f"a structure points beyond the end of partition {volume.index}")
