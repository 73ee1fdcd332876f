# SPDX-License-Identifier: GPL-3.0-or-later
"""The bottom of the reader: budgets, the disk's fd, partition tables that lie, and compressed bytes that explode."""

from __future__ import annotations

import errno
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
import zstandard

from domward.helpers.reader import compression
from domward.helpers.reader.compression import lzo1x, unpack
from domward.helpers.reader.image import RawImage, open_image
from domward.helpers.reader.source import Budget, DiskSource, parsing
from domward.helpers.reader.volumes import Window, find_volumes, whole_disk
from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason, OperationFailed, UsageError

SECTORS = 4096


@pytest.fixture
def disk() -> Iterator[int]:
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.ftruncate(fd, SECTORS * 512)
    yield fd
    os.close(fd)


def image(fd: int, budget: Budget | None = None) -> RawImage:
    return RawImage(DiskSource(fd, budget or Budget()))


def reason(error: pytest.ExceptionInfo[DiskError]) -> DiskReason:
    return error.value.reason


def test_a_budget_ends_in_a_disk_error(disk: int) -> None:
    source = DiskSource(disk, Budget(metadata_bytes=1000, steps=2))
    assert len(source.pread(1000, 0)) == 1000
    with pytest.raises(DiskError) as caught:
        source.pread(1, 0)
    assert reason(caught) is DiskReason.BUDGET
    source.budget.grant(10_000)
    assert len(source.pread(9000, 0)) == 9000
    source.budget.step(2)
    with pytest.raises(DiskError) as caught:
        source.budget.step()
    assert reason(caught) is DiskReason.BUDGET


def test_reads_end_with_the_disk_and_name_the_byte_that_failed(disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DiskSource(disk, Budget())
    assert source.pread(100, source.size - 10) == bytes(10)
    assert source.pread(100, source.size) == source.pread(100, 1 << 62) == b""
    os.ftruncate(disk, 5000)
    with pytest.raises(DiskError, match=r"ended at byte 5000, but had 2097152 bytes") as caught:
        source.pread(10_000, 0)
    assert reason(caught) is DiskReason.TRUNCATED

    def broken(_fd: int, _length: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(DiskError, match="at byte 512 failed: Input/output error") as caught:
        source.pread(10, 512)
    assert reason(caught) is DiskReason.READ_ERROR


def test_only_files_and_block_devices_are_disks() -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for fd in (reader, null):
            with pytest.raises(DiskError) as caught:
                DiskSource(fd, Budget())
            assert reason(caught) is DiskReason.NOT_A_DISK
    finally:
        for fd in (reader, writer, null):
            os.close(fd)


def test_an_unknown_format_is_the_callers_mistake(disk: int) -> None:
    with pytest.raises(UsageError, match="no image format 'vmdk'"):
        open_image(DiskSource(disk, Budget()), "vmdk")


def test_the_guard_lets_our_own_errors_through_and_turns_the_others() -> None:
    with pytest.raises(OperationFailed), parsing("x"):
        raise OperationFailed("no space")
    with pytest.raises(KeyboardInterrupt), parsing("x"):
        raise KeyboardInterrupt
    with pytest.raises(DiskError, match=r"the x is damaged \(KeyError\)") as caught, parsing("x"):
        raise KeyError("\x1b[31m")
    assert reason(caught) is DiskReason.CORRUPT


def entry(kind: int, start: int, count: int, boot: int = 0) -> bytes:
    return struct.pack("<B3xB3xII", boot, kind, start, count)


def put_table(fd: int, sector: int, *entries: bytes) -> None:
    table = bytes(446) + b"".join(entries)
    os.pwrite(fd, table.ljust(510, b"\0") + b"\x55\xaa", sector * 512)


def test_logical_partitions_are_numbered_from_5_and_counted_from_the_extended_one(disk: int) -> None:
    put_table(disk, 0, entry(0x83, 8, 8), bytes(16), entry(0x0F, 100, 1000))
    put_table(disk, 100, entry(0x83, 10, 20), entry(5, 200, 300))
    put_table(disk, 300, entry(0x83, 30, 40))
    table = find_volumes(image(disk))
    assert [(v.index, v.offset // 512, v.size // 512) for v in table.volumes] == [(1, 8, 8), (5, 110, 20), (6, 330, 40)]
    assert table.problems == []


def test_a_circle_of_logical_partitions_ends(disk: int) -> None:
    put_table(disk, 0, entry(5, 100, 1000))
    put_table(disk, 100, entry(0x83, 10, 20), entry(5, 50, 300))
    put_table(disk, 150, entry(0x83, 10, 20), entry(5, 0, 300))
    table = find_volumes(image(disk))
    assert [v.index for v in table.volumes] == [5, 6]
    assert table.problems == ["the chain of logical partitions does not end"]


def test_a_boot_sector_that_is_no_table_leaves_the_whole_disk(disk: int) -> None:
    os.pwrite(disk, random.Random(1).randbytes(510) + b"\x55\xaa", 0)
    assert find_volumes(image(disk)).volumes == [whole_disk(image(disk))]


def put_gpt(fd: int, lba: int, entries: bytes, count: int, size: int = 128, **fields: int) -> None:
    header = struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", 1 << 16, 92, 0, 0, lba, 1, 34, SECTORS - 34, bytes(16),
        fields.get("table", 2), count, size, zlib.crc32(entries),
    )  # fmt: skip
    os.pwrite(fd, header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:], lba * 512)
    os.pwrite(fd, entries, 1024)


def test_a_gpt_is_believed_only_with_its_sums_and_within_reason(disk: int) -> None:
    put_table(disk, 0, entry(0xEE, 1, SECTORS - 1))
    good = (b"k" * 16 + bytes(range(16)) + struct.pack("<QQ", 40, 49)).ljust(128, b"\0") * 4
    put_gpt(disk, 1, good, 4)
    volumes = find_volumes(image(disk)).volumes
    assert [(v.index, v.offset, v.size) for v in volumes] == [(n, 40 * 512, 10 * 512) for n in (1, 2, 3, 4)]
    assert volumes[0].uuid == "03020100-0504-0706-0809-0a0b0c0d0e0f"
    for count, size in ((0xFFFF_FFFF, 128), (4, 0), (4, 1 << 31), (4, 100), (1 << 20, 4096)):
        put_gpt(disk, 1, good, count, size)
        table = find_volumes(image(disk))
        assert [v.scheme for v in table.volumes] == ["disk"]
        assert table.problems == ["neither copy of the GUID partition table is whole"]


def test_partitions_beyond_the_limit_and_the_disk_are_left_out(disk: int) -> None:
    put_table(disk, 0, entry(0xEE, 1, SECTORS - 1))
    one = (b"k" * 16 + bytes(16) + struct.pack("<QQ", 40, 49)).ljust(128, b"\0")
    put_gpt(disk, 1, one * 200, 200)
    assert len(find_volumes(image(disk)).volumes) == limits.PARTITIONS
    put_table(disk, 0, entry(0x83, SECTORS - 10, 20), entry(0x83, SECTORS + 10, 20), entry(0x83, 10, 10))
    table = find_volumes(image(disk))
    assert [(v.index, v.size) for v in table.volumes] == [(1, 10 * 512), (3, 10 * 512)]
    assert table.truncated


def test_a_window_ends_where_its_volume_ends(disk: int) -> None:
    put_table(disk, 0, entry(0x83, 100, 100), entry(0x83, 200, SECTORS - 200))
    os.pwrite(disk, bytes(range(256)) * 200, 100 * 512)
    whole = image(disk)
    first, last = (Window(whole, volume) for volume in find_volumes(whole).volumes)
    for offset, length in ((0, 10), (16_380, 10), (16_380, 20_000), (0, 51_200), (51_200, 0)):
        assert first.read(length, offset) == os.pread(disk, length, 51_200 + offset)
    for offset, length in ((51_199, 2), (-1, 1), (1 << 70, 1), (0, 1 << 70)):
        with pytest.raises(DiskError) as caught:
            first.read(length, offset)
        assert reason(caught) is DiskReason.CORRUPT
    with pytest.raises(DiskError) as caught:
        last.read(1, last.volume.size)
    assert reason(caught) is DiskReason.TRUNCATED


@pytest.mark.parametrize("seed", range(4))
def test_lzo_from_noise_never_grows_beyond_its_size(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3000):
        packed = bytes(rng.choice((0, 1, 17, 32, rng.randrange(256))) for _ in range(rng.randrange(1, 80)))
        try:
            assert len(lzo1x(packed, 4096)) <= 4096
        except (ValueError, IndexError):
            continue


def test_lzo_by_hand() -> None:
    # "abcd" as literals, 10 bytes from distance 4, end
    packed = bytes((17 + 4,)) + b"abcd" + bytes((32 + 8, 3 << 2, 0)) + bytes((17, 0, 0))
    assert lzo1x(packed, 14) == b"abcdabcdabcdab"
    with pytest.raises(ValueError, match="more bytes"):
        lzo1x(packed, 13)
    with pytest.raises(ValueError, match="before the start"):
        lzo1x(bytes((17 + 4,)) + b"abcd" + bytes((32 + 8, 4 << 2, 0)), 100)
    with pytest.raises(IndexError):
        lzo1x(packed[:-4], 14)


def test_bombs_stop_at_the_claimed_size() -> None:
    plain = bytes(1 << 24)
    assert unpack(1, zlib.compress(plain), 131_072, 4096) == plain[:131_072]
    if (zstd := compression.zstd) is not None:
        narrow = zstd.compress(plain, options={zstd.CompressionParameter.window_log: 17})
        assert unpack(3, narrow, 1000, 4096) == plain[:1000]
        with pytest.raises(zstd.ZstdError, match="too much memory"):
            unpack(3, zstd.compress(plain), 1000, 4096)
    segment = bytes((17 + 4,)) + b"abcd" + bytes((32,)) + bytes(200) + bytes((255, 0, 0)) + bytes((17, 0, 0))
    with pytest.raises(ValueError, match="more bytes"):
        unpack(2, struct.pack("<II", 8 + len(segment), len(segment)) + segment, 131_072, 4096)
    with pytest.raises(DiskError, match="method 9") as caught:
        unpack(9, b"", 1, 4096)
    assert reason(caught) is DiskReason.NO_FILESYSTEM


def test_zstd_of_the_library_that_debian_packages_stops_at_the_claimed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "zstd", None)
    monkeypatch.setattr(compression, "zstandard", zstandard)
    plain = bytes(range(256)) * 4096
    narrow = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=17))
    packed = narrow.compress(plain)  # a frame that says how much it holds
    assert unpack(3, packed + bytes(100), len(plain), 4096) == plain  # an extent is padded to whole sectors
    assert unpack(3, packed, 1000, 4096) == plain[:1000]
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=20))
    with pytest.raises(zstandard.ZstdError, match="too much memory"):
        unpack(3, wide.compressobj().compress(plain) + wide.compress(plain * 2), 1000, 4096)


def test_without_a_library_for_zstd_a_file_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "zstd", None)
    monkeypatch.setattr(compression, "zstandard", None)
    with pytest.raises(DiskError, match="nor zstandard is installed") as caught:
        unpack(3, b"", 1, 4096)
    assert reason(caught) is DiskReason.NO_FILESYSTEM


def test_the_library_that_debian_packages_is_found_where_the_other_is_missing() -> None:
    without = "import sys; sys.modules['backports'] = None"
    code = f"{without}; from domward.helpers.reader import compression; print(compression.zstandard)"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("<module 'zstandard.backend_c'" if sys.version_info < (3, 14) else "None")
