# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases of helper uids: one uid per live helper, over all supervisors of the host.

A lease is an open-file-description lock on one byte of a file that only root may open: the kernel releases it with the
supervisor's last fd, so nothing has to be cleaned up after a crash. The file stays; it is always empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd

from .forks import Birthplace

_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux


class UidLeases:
    """Leases from one range. States: open -> closed; closing releases all that are left."""

    def __init__(self, directory: Path, base: int, count: int) -> None:
        self._base = base
        self._count = count
        self._taken: set[int] = set()
        self._birthplace = Birthplace()
        self._next = int.from_bytes(os.urandom(8), "big") % count
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            number = os.open(directory / "uid-leases", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise OperationFailed(
                f"The uid leases in {directory} cannot be opened: {error.strerror}.",
                advice="Make sure that root can write there.",
            ) from error
        self._file = Fd(number, "uid leases")

    def acquire(self) -> int:
        """A uid that no live helper of this host has. Raises OperationFailed where all are taken."""
        for step in range(self._count):
            place = (self._next + step) % self._count
            if place not in self._taken and self._lock(place, fcntl.F_WRLCK):
                self._taken.add(place)
                self._next = (place + 1) % self._count
                return self._base + place
        raise OperationFailed(
            f"All {self._count} uids for helpers are in use.", advice="Configure a larger range, or run less at once."
        )

    def claim(self, uid: int) -> bool:
        """Takes `uid` itself, if no live helper of this host has it; `release` gives it back."""
        place = uid - self._base
        if not 0 <= place < self._count or place in self._taken or not self._lock(place, fcntl.F_WRLCK):
            return False
        self._taken.add(place)
        return True

    @property
    def taken(self) -> int:
        """How many uids this holds: its live helpers."""
        return len(self._taken)

    def release(self, uid: int) -> None:
        """Gives `uid` back, after its helper's death."""
        place = uid - self._base
        self._taken.discard(place)
        with contextlib.suppress(OperationFailed):
            self._lock(place, fcntl.F_UNLCK)

    def close(self) -> None:
        """Releases everything. Idempotent."""
        self._taken.clear()
        self._file.close()

    def _lock(self, place: int, kind: int) -> bool:
        if self._file.closed or not self._birthplace.here:
            return False
        try:
            fcntl.fcntl(self._file.fileno(), fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise OperationFailed(f"The uid leases cannot be locked: {error.strerror}.") from error
        return True
