# SPDX-License-Identifier: GPL-3.0-or-later
"""Where kernel and ramdisk go: memfds that the parent makes, a helper fills, and the parent seals and hashes.

States: open -> frozen -> sealed -> closed. Freezing fails where any writable mapping is left, so what is hashed can
never change again: not by the helper, not by who receives the memfd. The kernel is frozen and its hashing begun as
soon as the helper turns to the ramdisk; checked, and used at all, it is only after the helper's death.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat

from domward.protocol.errors import OperationFailed, ProtocolViolation
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from .fd_copies import copies_of
from .opening import NoThread, in_thread

_MFD_NOEXEC_SEAL = 0x8  # <linux/memfd.h>, Linux 6.3
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


@frozen
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


def memfds_can_be_sealed_from_execution() -> bool:
    """Whether a memfd can be made that nobody can ever execute: Linux 6.3, tried."""
    try:
        os.close(os.memfd_create("probe", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL))
    except OSError:
        return False
    return True


def freeze(sink: Fd, helper: str) -> int:
    """Makes the content of `sink` final, also for a helper that still holds it, and returns its size. Idempotent.

    Raises ProtocolViolation where something still maps it for writing.
    """
    try:
        if fcntl.fcntl(sink.fileno(), fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            fcntl.fcntl(sink.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise ProtocolViolation(f"The {sink.name} could not be sealed: {error.strerror}.", helper=helper) from error
    return os.fstat(sink.fileno()).st_size


async def freeze_in_thread(sink: Fd, helper: str) -> int:
    """As `freeze`, while the helper lives: as long as it is just writing, the kernel lets nobody seal."""
    (copy,) = copies_of([sink])

    def work() -> int:
        with copy:
            return freeze(copy, helper)

    try:
        return await in_thread(work, lambda _size: None)
    except NoThread:
        copy.close()
        raise


def seal(sink: Fd, claimed: int, limit: int, helper: str) -> None:
    """Freezes `sink` after its helper's death and checks it: a regular file of `claimed` bytes, at most `limit`.

    Raises ProtocolViolation where the helper's word and the file differ or where something still maps it.
    """
    size = freeze(sink, helper)
    if not stat.S_ISREG(os.fstat(sink.fileno()).st_mode) or size != claimed or size > limit:
        raise ProtocolViolation(
            f"The {sink.name} has {size} bytes; its helper said {claimed}, and {limit} are allowed.", helper=helper
        )


def hash_sealed(sink: Fd, size: int) -> str:
    """The SHA-256 of a sealed sink in hexadecimal. Takes about a second per GiB: call it in a thread."""
    digest = hashlib.sha256()
    if size:
        with mmap.mmap(sink.fileno(), size, prot=mmap.PROT_READ) as content:
            digest.update(content)
    return digest.hexdigest()
