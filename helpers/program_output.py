# SPDX-License-Identifier: GPL-3.0-or-later
r"""What a bootloader program says that it leaves: the output format "simple0" of libxl's bootloaders.

::

    kernel PATH \0 [ramdisk PATH \0] [args TEXT \0] \0

Items in any order, each at most once, all ended by NUL, an empty one at the end (xen/tools/pygrub's format_simple
writes it, libxl_bootloader.c's parse_bootloader_result reads it, and drops items of 8192 bytes and more). A path names
a file directly in the program's own folder. Anything else is an `OutputError`; the parser is linear in its input.
"""

from __future__ import annotations

import os

from domward.protocol import limits
from domward.protocol.errors import printable
from domward.protocol.records import frozen
from domward.protocol.text import has_control

_NAMES = (b"kernel", b"ramdisk", b"args")
_SHOWN = 64  # bytes of a wrong item that a message repeats


class OutputError(Exception):
    """The output is not of that form; the text is a sentence without its full stop."""


@frozen
class Output:
    """`kernel` and `ramdisk` are names of files in the program's folder, `ramdisk` None where there is none."""

    kernel: bytes
    ramdisk: bytes | None
    args: bytes


def parse_output(untrusted: bytes, folder: bytes) -> Output:
    """The items of `untrusted`; paths must be in `folder`, which is absolute. Raises OutputError."""
    if len(untrusted) > limits.PROGRAM_OUTPUT_BYTES:
        raise OutputError(f"Its output is longer than {limits.PROGRAM_OUTPUT_BYTES} bytes")
    if not untrusted.endswith(b"\0\0"):
        raise OutputError("Its output does not end with two NUL bytes, so it may be cut off")
    items: dict[bytes, bytes] = {}
    for untrusted_item in untrusted[:-2].split(b"\0"):
        if len(untrusted_item) > limits.PROGRAM_ITEM_BYTES:
            raise OutputError(f"An item of its output is longer than {limits.PROGRAM_ITEM_BYTES} bytes")
        name, space, value = untrusted_item.partition(b" ")
        if name not in _NAMES or not space:
            raise OutputError(f"Its output has an unknown item: {printable(untrusted_item[:_SHOWN])}")
        if name in items:
            raise OutputError(f"Its output has the item {printable(name)} twice")
        items[name] = value
    if b"kernel" not in items:
        raise OutputError("Its output names no kernel")
    ramdisk = items.get(b"ramdisk")
    return Output(
        _file_name(items[b"kernel"], folder, "kernel"),
        None if ramdisk is None else _file_name(ramdisk, folder, "ramdisk"),
        _args(items.get(b"args", b"")),
    )


def _file_name(untrusted_path: bytes, folder: bytes, what: str) -> bytes:
    above, name = os.path.split(untrusted_path)
    if above != folder or name in (b"", b".", b".."):
        raise OutputError(f"Its {what} is not in the folder that it was given: {printable(untrusted_path[:_SHOWN])}")
    return name


def _args(untrusted: bytes) -> bytes:
    if len(untrusted) > limits.CMDLINE_BYTES:
        raise OutputError(f"Its command line has {len(untrusted)} bytes; {limits.CMDLINE_BYTES} are allowed")
    if has_control(untrusted):
        raise OutputError("Its command line contains control characters")
    return untrusted
