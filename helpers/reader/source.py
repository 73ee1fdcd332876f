# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk's fd, what may be read from it, and the one place where a parser's fault becomes a `DiskError`.

Nothing here opens anything: the reader is given an fd that somebody else opened, and needs no system call on it but
fstat, lseek and pread64 (and sendfile, in `copy`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason, DomwardError


class Budget:
    """What one disk may cost: bytes read from it and steps taken over it. Both only fall, but for `grant`.

    A step is one look at a structure of the disk (an inode, a tree node, a piece of a folder), some 2 to 20
    microseconds of CPU; it bounds work on what is already in memory, where a loop costs no byte.
    """

    __slots__ = ("_bytes", "_steps")

    def __init__(self, metadata_bytes: int = limits.METADATA_BYTES, steps: int = limits.READER_STEPS) -> None:
        self._bytes = metadata_bytes
        self._steps = steps

    def charge(self, length: int) -> None:
        """Take `length` bytes. Raises DiskError(BUDGET) when they are spent."""
        self._bytes -= length
        if self._bytes < 0:
            raise DiskError(DiskReason.BUDGET, "reading this disk takes more bytes of metadata than allowed")

    def step(self, count: int = 1) -> None:
        """Take `count` steps. Raises DiskError(BUDGET) when they are spent."""
        self._steps -= count
        if self._steps < 0:
            raise DiskError(DiskReason.BUDGET, "reading this disk takes more work than allowed: is it damaged?")

    def grant(self, length: int) -> None:
        """Allow `length` more bytes: those of a kernel or ramdisk, which have limits of their own."""
        self._bytes += length


class DiskSource:
    """A disk that is already open for reading, as `fd`; the caller keeps the fd and closes it.

    `size` is in bytes, as the kernel gives it now. Raises DiskError(NOT_A_DISK) where `fd` is neither a regular file
    nor a block device, EMPTY where it holds nothing, READ_ERROR where its size cannot be had.
    """

    def __init__(self, fd: int, budget: Budget) -> None:
        self.fd = fd
        self.budget = budget
        try:
            mode = os.fstat(fd).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise DiskError(DiskReason.NOT_A_DISK, "this is neither a regular file nor a block device")
            self.size = os.lseek(fd, 0, os.SEEK_END)
        except OSError as error:
            raise DiskError(DiskReason.READ_ERROR, f"the disk's size cannot be read: {error.strerror}") from error
        if not self.size:
            raise DiskError(DiskReason.EMPTY, "the disk is empty (0 bytes)")

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only at the end of the disk as it was when opened.

        Raises DiskError BUDGET, READ_ERROR (EIO and its like), TRUNCATED (the disk shrank meanwhile).
        """
        wanted = min(length, self.size - offset)
        if wanted <= 0:
            return b""
        self.budget.charge(wanted)
        try:
            data = os.pread(self.fd, wanted, offset)
            while len(data) < wanted:
                more = os.pread(self.fd, wanted - len(data), offset + len(data))
                if not more:
                    raise shrunk(offset + len(data), self.size)
                data += more
        except OSError as error:
            raise read_error(offset, error) from error
        return data


def shrunk(offset: int, size: int) -> DiskError:
    """The error for a disk that ended at `offset` although it had `size` bytes when it was opened."""
    return DiskError(DiskReason.TRUNCATED, f"the disk ended at byte {offset}, but had {size} bytes when opened")


def read_error(offset: int, error: OSError) -> DiskError:
    """The error for a read that the kernel refused at `offset`."""
    return DiskError(DiskReason.READ_ERROR, f"reading the disk at byte {offset} failed: {error.strerror}")


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Run a parser over hostile bytes: whatever it raises leaves as a `DomwardError`.

    The parsers and the libraries below them meet bytes that nobody foresaw, and so raise what nobody foresaw
    (EOFError, struct.error, OverflowError, MemoryError, RecursionError...). All of it means: the disk is corrupt.
    """
    try:
        yield
    except DomwardError:
        raise
    except Exception as error:
        raise DiskError(DiskReason.CORRUPT, f"the {what} is damaged ({type(error).__name__})") from error
