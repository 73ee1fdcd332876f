# SPDX-License-Identifier: GPL-3.0-or-later
"""Image formats: which one a disk has, and the raw one.

Probing a format is the classic way for a guest to break out: it owns the first bytes of a raw disk, may write the
header of another format there, and that header may name a *backing file* on the host for the next program that probes
to open. Here it gains nothing: no format of this reader opens a file, and an image that asks for one is refused. What
remains is that a raw disk may pose as qcow2; it then shows other bytes of the same disk, which are the guest's anyway.
A caller who knows the format says so (`format`), and nothing is probed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from domward.protocol.errors import DiskError, DiskReason, UsageError
from domward.protocol.typed import Protocol

from .interface import Extent
from .qcow2 import Qcow2Image
from .source import DiskSource


class DiskImage(Protocol):
    """An `interface.Image` that also names the disk below it, from which `copy` moves bytes."""

    source: DiskSource
    size: int
    format: str

    def pread(self, length: int, offset: int) -> bytes:
        """See `interface.Image`."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent] | None:
        """See `interface.Image`."""
        ...


class RawImage:
    """The disk's bytes as they are."""

    format = "raw"

    def __init__(self, source: DiskSource) -> None:
        self.source = source
        self.size = source.size
        self.pread = source.pread

    def extents(self, offset: int, length: int) -> Iterator[Extent] | None:
        """The same range: a raw image is its own disk."""
        return iter((Extent(offset, length),)) if length else iter(())


FORMATS: dict[str, Callable[[DiskSource], DiskImage]] = {"raw": RawImage, "qcow2": Qcow2Image}

# (offset, magic, name) of formats that are recognised; those without a line in FORMATS only to say so. Facts:
# QEMU's block/*.c and docs/interop, Microsoft's VHD and VHDX specifications, cryptsetup's on-disk format.
_MAGICS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vhd"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"-FVE-FS-", "bitlocker"),
    (0, b"OOOM", "user-mode linux cow"),
)
_PROBE_BYTES = 512


def probe(source: DiskSource) -> str:
    """The name of the format of the disk, "raw" where nothing else is recognised."""
    untrusted_head = source.pread(_PROBE_BYTES, 0)
    for offset, magic, name in _MAGICS:
        if untrusted_head.startswith(magic, offset):
            return name
    return "raw"


def open_image(source: DiskSource, format: str | None = None) -> DiskImage:  # noqa: A002 -- the field's own word
    """The disk as an image of `format`, or as probed where `format` is None.

    Raises UsageError for a format that the reader does not have, DiskError UNSUPPORTED_IMAGE for a disk whose
    format it knows by name only, and what the format's own reader raises.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"no image format {format!r}: choose one of {', '.join(FORMATS)}")
    name = format or probe(source)
    if name not in FORMATS:
        raise DiskError(
            DiskReason.UNSUPPORTED_IMAGE,
            f"a disk in {name} format cannot be read",
            advice="Convert it to raw or qcow2 with qemu-img convert.",
        )
    return FORMATS[name](source)
