# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens a guest's disk, read-only, for the helper that will read it. Nothing of its content is read here."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from domward.protocol.errors import DiskError, DiskReason, RefusedError, UsageError, printable
from domward.protocol.fds import Fd


def open_disk(disk: Path) -> Fd:
    """The disk at `disk`, a regular file or a block device. Raises DiskError, RefusedError."""
    name = printable(str(disk))
    try:
        # O_NONBLOCK: opening a FIFO by mistake must not wait for a writer; disks ignore it.
        fd = Fd(os.open(disk, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "disk")
    except ValueError:
        raise UsageError("A disk's path must not contain a NUL byte.") from None
    except (FileNotFoundError, NotADirectoryError):
        raise DiskError(DiskReason.NOT_FOUND, f"There is no {name}.", advice="Check the path.") from None
    except PermissionError:
        raise RefusedError(f"{name} may not be read by this user.") from None
    except OSError as error:
        reason = DiskReason.SYMLINK_LOOP if error.errno == errno.ELOOP else DiskReason.READ_ERROR
        raise DiskError(reason, f"{name} cannot be opened: {error.strerror}.") from error
    try:
        check_disk(fd, name)
    except BaseException:
        fd.close()
        raise
    return fd


def check_disk(fd: Fd, name: str = "The disk") -> None:
    """Makes sure that `fd` is a disk: a block device or a regular file that is not empty. Raises DiskError."""
    found = os.fstat(fd.fileno())
    if stat.S_ISDIR(found.st_mode):
        raise DiskError(DiskReason.NOT_A_DISK, f"{name} is a folder.", advice="Name a disk image or a block device.")
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise DiskError(
            DiskReason.NOT_A_DISK,
            f"{name} is neither a regular file nor a block device.",
            advice="Name a disk image or a block device.",
        )
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise DiskError(DiskReason.EMPTY, f"{name} is empty.", advice="Name a disk that has been installed.")
