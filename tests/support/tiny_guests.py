# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that boot in qemu in a moment: `tiny_guest.c` as the kernel, on a disk that the built-in reader reads.

    image = disks.build(tiny_disk(tiny_kernel(folder), then="poweroff"))

What such a guest shows begins with "ready", the ramdisk's size and the command line. Then it does each line that is
typed: "poweroff", "reboot", "panic", "flood"; it answers any other with "heard LINE". With `then` it does that at once.
`guest_of` is a guest of such a disk for a supervisor.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domward.protocol.fds import Fd
from domward.protocol.records import replaced
from domward.supervisor import BootRequest, Config
from domward.supervisor.config import Accelerator, Hypervisor
from domward.supervisor.guests import GuestRequest
from domward.supervisor.hypervisor.interface import GuestDescription, GuestDisk
from support.disks import Disk, Fs, Part

SOURCE = Path(__file__).with_name("tiny_guest.c")
RAMDISK = b"\x1f\x8b a ramdisk that nobody unpacks"
UUID = "5eed0000-0000-4000-8000-0000000000aa"
#: KVM, where a machine has some, may be of the kind that boots nothing; the same everywhere is what tests want.
QEMU = Config(backend=Hypervisor.QEMU, accelerator=Accelerator.TCG)
_FLAGS = (
    "-m32 -O1 -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables -mgeneral-regs-only"
    " -nostdlib -static -no-pie -Wl,-Ttext-segment=0x100000,--build-id=none,-e,start"
)


def tiny_kernel(folder: Path) -> bytes:
    """The kernel, compiled."""
    made = folder / "tiny-guest"
    subprocess.run(["gcc", *_FLAGS.split(), "-o", made, SOURCE], check=True, capture_output=True)
    return made.read_bytes()


def tiny_disk(kernel: bytes, then: str = "", image: str = "raw", ramdisk: bytes = RAMDISK) -> Disk:
    """A disk with one entry for `kernel`, and a ramdisk."""
    arguments = f"quiet then={then}" if then else "quiet"
    configuration = f"DEFAULT tiny\nLABEL tiny\n  LINUX /kernel\n  INITRD /ramdisk\n  APPEND {arguments}\n"
    tree = {"boot/extlinux/extlinux.conf": configuration, "kernel": kernel, "ramdisk": ramdisk}
    return Disk("mbr", (Part(Fs("ext4", tree)),), image)


@contextlib.contextmanager
def guest_of(
    image: Path, *, writable: bool = False, image_format: str = "raw", **changes: Any
) -> Iterator[GuestRequest]:
    """A guest that boots from `image`; `changes` are members of its description."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
    with (
        Fd(os.open(image, os.O_RDONLY | os.O_CLOEXEC), "disk") as disk,
        Fd(os.open(image, flags), "guest's disk") as own,
    ):
        description = GuestDescription(
            name="tiny",
            uuid=UUID,
            memory_mib=32,
            vcpus=1,
            disks=(GuestDisk(vdev="xvda", image_format=image_format, writable=writable, fd=own),),
        )
        yield GuestRequest(description=replaced(description, **changes), boot=BootRequest(disk=disk))
