# SPDX-License-Identifier: GPL-3.0-or-later
"""Where kernel and ramdisk go: memfds that the parent makes, a helper fills, and the parent seals and hashes.

States: open -> sealed -> closed. Sealing happens only after the helper's death and fails where any writable mapping is
left, so what is hashed can never change again: not by the helper, not by who receives the memfd.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat
from dataclasses import dataclass

from domward.protocol.errors import OperationFailed, ProtocolViolation
from domward.protocol.fds import Fd

_MFD_NOEXEC_SEAL = 0x8  # <linux/memfd.h>, Linux 6.3
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A result: `fd` is a memfd that nobody can change, `size` its bytes, `sha256` their hash in hexadecimal."""

    fd: Fd
    size: int
    sha256: str

    def close(self) -> None:
        """Closes the fd."""
        self.fd.close()


def open_sink(name: str) -> Fd:
    """A new, empty sink. Raises OperationFailed."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return Fd(os.memfd_create(f"domward-{name}", flags | _MFD_NOEXEC_SEAL), f"{name} sink")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return Fd(os.memfd_create(f"domward-{name}", flags), f"{name} sink")  # before Linux 6.3
    except OSError as error:
        raise OperationFailed(f"The {name} sink could not be made: {error.strerror}.") from error


def seal(sink: Fd, claimed: int, limit: int, helper: str) -> None:
    """Seals `sink` after its helper's death and checks it: a regular file of `claimed` bytes, at most `limit`.

    Raises ProtocolViolation where the helper's word and the file differ or where something still maps it.
    """
    try:
        fcntl.fcntl(sink.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise ProtocolViolation(f"The {sink.name} could not be sealed: {error.strerror}.", helper=helper) from error
    found = os.fstat(sink.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_size != claimed or found.st_size > limit:
        raise ProtocolViolation(
            f"The {sink.name} has {found.st_size} bytes; its helper said {claimed}, and {limit} are allowed.",
            helper=helper,
        )


def hash_sealed(sink: Fd, size: int) -> str:
    """The SHA-256 of a sealed sink in hexadecimal. Takes about a second per GiB: call it in a thread."""
    digest = hashlib.sha256()
    if size:
        with mmap.mmap(sink.fileno(), size, prot=mmap.PROT_READ) as content:
            digest.update(content)
    return digest.hexdigest()
