# SPDX-License-Identifier: GPL-3.0-or-later
"""The compressions of btrfs, each stopped at the size that the extent claims.

Source of the facts: Linux' fs/btrfs/zlib.c, lzo.c and zstd.c. dissect.btrfs unpacks without a limit, and 128 KiB of
zstd can stand for gigabytes.
"""

from __future__ import annotations

import sys
import zlib

from dissect.util.compression import lzo

from domward.protocol.errors import DiskError, DiskReason

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    try:
        from backports import zstd
    except ImportError:  # an optional dependency: without it, such files are refused by name
        zstd = None  # type: ignore[assignment]  # the module is missing

COMPRESSED_BYTES = 128 << 10  # bytes: the kernel's largest compressed extent, before and after
_ZLIB, _LZO, _ZSTD = 1, 2, 3
_ZSTD_WINDOW_LOG = 17  # the kernel's ZSTD_BTRFS_MAX_WINDOWLOG: bounds the decoder's memory


def unpack(method: int, packed: bytes, size: int, sector: int) -> bytes:
    """At most `size` bytes out of `packed`. `method` is the on-disk number, `sector` the file system's sector size.

    Raises DiskError(NO_FILESYSTEM) for an unknown method; a damaged stream raises whatever its library raises.
    """
    if method == _ZLIB:
        return zlib.decompressobj().decompress(packed, size)
    if method == _LZO:
        return _unpack_lzo(packed, size, sector)
    if method == _ZSTD and zstd is not None:
        decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
        return decoder.decompress(packed, max_length=size)
    name = "zstd, for which backports.zstd is not installed" if method == _ZSTD else f"method {method}"
    raise DiskError(DiskReason.NO_FILESYSTEM, f"a file is compressed with {name}")


def _unpack_lzo(packed: bytes, size: int, sector: int) -> bytes:
    """LZO in segments of one sector each; a segment's length never straddles two sectors."""
    total = min(int.from_bytes(packed[:4], "little"), len(packed))
    plain = bytearray()
    at = 4
    while at + 4 <= total and len(plain) < size:
        length = int.from_bytes(packed[at : at + 4], "little")
        at += 4
        if not 0 < length <= total - at:
            raise DiskError(DiskReason.CORRUPT, "a compressed extent is damaged")
        plain += lzo.decompress(packed[at : at + length], False, sector)
        at += length
        if sector - at % sector < 4:
            at += sector - at % sector
    return bytes(plain[:size])
