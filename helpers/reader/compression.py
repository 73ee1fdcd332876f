# SPDX-License-Identifier: GPL-3.0-or-later
"""The compressions of btrfs, each stopped at the size that the extent claims.

Source of the facts: Linux' fs/btrfs/zlib.c, lzo.c and zstd.c, and Documentation/staging/lzo.rst. dissect.btrfs
unpacks without a limit, and 128 KiB of zstd can stand for gigabytes. Of the two LZO decoders of dissect.util the
native one panics on damaged input, which writes to stderr and raises no Exception, and the other obeys any length.
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from types import ModuleType

from domward.protocol.errors import DiskError, DiskReason

from ..extensions import extension

zstandard: ModuleType | None = None
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    try:
        from backports import zstd
    except ImportError:  # optional, as is the next: without either, such files are refused by name
        zstd = None  # type: ignore[assignment]  # the module is missing
        with contextlib.suppress(ImportError):
            zstandard = extension("zstandard", "backend_c")  # what Debian 12 packages

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
    if method == _ZSTD and zstandard is not None:
        # its decompress() would allocate what the frame's header claims; its reader gives no more than is asked for
        bounded = zstandard.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW_LOG)
        with bounded.stream_reader(packed) as stream:
            plain: bytes = stream.read(size)
            return plain
    missing = "zstd, for which neither backports.zstd nor zstandard is installed"
    raise DiskError(
        DiskReason.NO_FILESYSTEM, f"a file is compressed with {missing if method == _ZSTD else f'method {method}'}"
    )


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
        plain += lzo1x(packed[at : at + length], sector)
        at += length
        if sector - at % sector < 4:
            at += sector - at % sector
    return bytes(plain[:size])


def lzo1x(packed: bytes, size: int) -> bytes:
    """One LZO1X stream of at most `size` bytes. Raises ValueError, or IndexError where it ends early."""
    plain = bytearray()
    at = 0
    literals = state = 0  # state: how many literals came last, 4 for more than 3
    if packed[0] > 17:
        literals = packed[0] - 17
        at = 1
    while True:
        if literals:
            plain += packed[at : at + literals]
            at += literals
            state = min(literals, 4)
        code = packed[at]
        at += 1
        if code < 16 and state == 0:
            literals, at = _lzo_length(packed, at, code, 15)
            literals += 3
            _lzo_room(plain, literals, size)
            continue
        if code >= 64:
            length = (code >> 5) + 1
            distance = (packed[at] << 3) + (code >> 2 & 7) + 1
            literals = code & 3
            at += 1
        elif code >= 16:
            near = code >= 32
            length, at = _lzo_length(packed, at, code & (31 if near else 7), 31 if near else 7)
            length += 2
            pair = packed[at] | packed[at + 1] << 8
            at += 2
            distance = (pair >> 2) + (1 if near else 0x4000 + (code & 8) * 0x800)
            literals = pair & 3
            if distance == 0x4000 and not near:
                return bytes(plain)
        else:
            length = 2 if state < 4 else 3
            distance = (packed[at] << 2) + (code >> 2) + (1 if state < 4 else 2049)
            literals = code & 3
            at += 1
        state = literals
        _lzo_room(plain, length + literals, size)
        if distance > len(plain):
            raise ValueError("a copy from before the start")
        chunk = plain[-distance : len(plain) - distance + length]
        plain += chunk if len(chunk) == length else (chunk * (length // distance + 1))[:length]


def _lzo_length(packed: bytes, at: int, low: int, full: int) -> tuple[int, int]:
    """A length whose `low` bits are 0 goes on in bytes of 255 each, spelt 0, and a last one that is not."""
    if low:
        return low, at
    length = full
    while not packed[at]:
        length += 255
        at += 1
    return length + packed[at], at + 1


def _lzo_room(plain: bytearray, length: int, size: int) -> None:
    if len(plain) + length > size:
        raise ValueError("more bytes than the extent claims")
