# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of operations made up for tests of what is done with them."""

from __future__ import annotations

import hashlib
import os

from domward.protocol.fds import Fd
from domward.supervisor.bootloader import BootResult
from domward.supervisor.sinks import SealedFile


def sealed(content: bytes) -> SealedFile:
    """A result file; the receiver closes it."""
    fd = Fd(os.memfd_create("made-up"), "made up")
    os.write(fd.fileno(), content)
    return SealedFile(fd, len(content), hashlib.sha256(content).hexdigest())


def boot_result(
    kernel: bytes = b"MZ new kernel",
    ramdisk: bytes | None = b"\x1f\x8b new ramdisk",
    *,
    title: bytes = b"Linux",
    args: bytes = b"root=/dev/xvda1",
    source: str = "grub:0:/boot/grub/grub.cfg",
) -> BootResult:
    """The result of a run; the receiver closes it."""
    return BootResult(
        operation="boot-0",
        title=title,
        args=args,
        source=source,
        kernel=sealed(kernel),
        ramdisk=None if ramdisk is None else sealed(ramdisk),
        helpers=(),
    )
