# SPDX-License-Identifier: GPL-3.0-or-later
"""Out of the disk and into a sink: the kernel moves the bytes, holes are left as holes.

The sink is a memfd or a regular file, open for writing; it is emptied first and has exactly the returned size after.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from domward.protocol.errors import DiskError, DiskReason, OperationFailed

from .image import DiskImage
from .interface import Extent, FileRef
from .source import read_error, shrunk
from .tree import DiskForest, Place

_SEND_BYTES = 1 << 30  # bytes: sendfile(2) moves a little less than 2 GiB at once
_CHUNK = 1 << 20
_SINK_ERRORS = frozenset((errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EBADF, errno.EPERM, errno.ENOMEM))
_PADDING = 4  # bytes: GRUB starts each initrd on such a boundary


def copy_files(forest: DiskForest, files: Sequence[FileRef], sink: int, limit: int) -> int:
    """Write the content of `files`, one after the other, to the fd `sink`; each but the last is padded to 4 bytes.

    Returns the number of bytes. Raises DiskError FILE_EMPTY (the only file, or all, have 0 bytes), FILE_TOO_BIG (more
    than `limit` bytes together; found before anything is written), and READ_ERROR or TRUNCATED with the byte's
    offset; OperationFailed where the sink cannot take it.
    """
    found = [forest.trees[file.tree].find(file.path) for file in files]
    total = 0
    for place in found:
        total += -total % _PADDING + place.node.size
    if total > limit:
        names = ", ".join(file.path.decode("ascii", "backslashreplace") for file in files)
        raise DiskError(DiskReason.FILE_TOO_BIG, f"{names} has {total} bytes, more than the {limit} allowed")
    if not total:
        names = ", ".join(file.path.decode("ascii", "backslashreplace") for file in files)
        raise DiskError(DiskReason.FILE_EMPTY, f"{names} is empty (0 bytes)")
    forest.image.source.budget.grant(total)
    with_sink = _Sink(sink)
    for place in found:
        with_sink.skip(-with_sink.position % _PADDING)
        _copy(forest.image, place, with_sink)
    with_sink.finish()
    return total


class _Sink:
    """The fd that is written, and how far."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.position = 0
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            os.ftruncate(fd, 0)
        except OSError as error:
            raise sink_error(error) from error

    def skip(self, length: int) -> None:
        """Leave a hole of `length` bytes."""
        if length:
            self.position += length
            os.lseek(self.fd, self.position, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Append `data`."""
        view = memoryview(data)
        try:
            while view:
                written = os.write(self.fd, view)
                view = view[written:]
                self.position += written
        except OSError as error:
            raise sink_error(error) from error

    def finish(self) -> None:
        """Give the file its size, which a hole at the end does not."""
        try:
            os.ftruncate(self.fd, self.position)
        except OSError as error:
            raise sink_error(error) from error


def sink_error(error: OSError) -> OperationFailed:
    """The error for a sink that cannot be written: the host's fault, not the disk's."""
    return OperationFailed(f"the output cannot be written: {error.strerror}", advice="Is its file system full?")


def _copy(image: DiskImage, place: Place, sink: _Sink) -> None:
    extents = place.fs.extents(place.node)
    if extents is None:
        for piece in place.fs.chunks(place.node):
            sink.write(piece)
        return
    for extent in extents:
        if extent.offset is None:
            sink.skip(extent.length)
        elif (below := image.extents(extent.offset, extent.length)) is None:
            _copy_unpacked(image, extent.offset, extent.length, sink)
        else:
            _send(image, below, sink)


def _copy_unpacked(image: DiskImage, offset: int, length: int, sink: _Sink) -> None:
    for at in range(offset, offset + length, _CHUNK):
        wanted = min(_CHUNK, offset + length - at)
        piece = image.pread(wanted, at)
        if len(piece) < wanted:
            raise DiskError(DiskReason.TRUNCATED, f"the disk ends at byte {at + len(piece)}, within a file")
        sink.write(piece)


def _send(image: DiskImage, extents: Iterator[Extent], sink: _Sink) -> None:
    for extent in extents:
        if extent.offset is None:
            sink.skip(extent.length)
            continue
        at, end = extent.offset, extent.offset + extent.length
        while at < end:
            try:
                sent = os.sendfile(sink.fd, image.source.fd, at, min(end - at, _SEND_BYTES))
            except OSError as error:
                if error.errno in _SINK_ERRORS:
                    raise sink_error(error) from error
                raise read_error(at, error) from error
            if not sent:
                raise shrunk(at, image.source.size)
            at += sent
            sink.position += sent
