# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bootloader program may say that it leaves: exactly libxl's simple0, and every departure is named."""

from __future__ import annotations

import pytest

from domward.helpers.program_output import Output, OutputError, parse_output
from domward.protocol import limits

FOLDER = b"/results"


def test_what_pygrub_writes() -> None:
    written = b"kernel /results/boot_kernel.x1\0ramdisk /results/boot_ramdisk.y2\0args root=/dev/xvda1 ro\0\0"
    assert parse_output(written, FOLDER) == Output(b"boot_kernel.x1", b"boot_ramdisk.y2", b"root=/dev/xvda1 ro")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (b"kernel /results/k\0\0", Output(b"k", None, b"")),
        (b"args \0kernel /results/k\0\0", Output(b"k", None, b"")),
        (b"args  two  spaces \0kernel /results/a b\0\0", Output(b"a b", None, b" two  spaces ")),
        (b"ramdisk /results/k\0kernel /results/k\0\0", Output(b"k", b"k", b"")),
        (b"kernel /results/k\0args " + b"x" * limits.CMDLINE_BYTES + b"\0\0", Output(b"k", None, b"x" * 1023)),
        (b"kernel /results/k\0args \xc3\xa4\0\0", Output(b"k", None, b"\xc3\xa4")),
    ],
)
def test_other_orders_and_fewer_items(written: bytes, found: Output) -> None:
    assert parse_output(written, FOLDER) == found


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"\0\0", "unknown item: $"),
        (b"kernel /results/k", "does not end with two NUL"),
        (b"kernel /results/k\0", "does not end with two NUL"),
        (b"kernel /results/k\0args x", "does not end with two NUL"),
        (b"kernel /results/k\n\n", "does not end with two NUL"),
        (b"kernel /results/k\0\0\0", "unknown item: $"),
        (b"\0kernel /results/k\0\0", "unknown item: $"),
        (b"args x\0\0", "names no kernel"),
        (b"kernel /results/k\0initrd /results/r\0\0", "unknown item: initrd /results/r"),
        (b"kernel /results/k\0Args x\0\0", "unknown item: Args x"),
        (b"kernel\0\0", "unknown item: kernel"),
        (b"kernel\t/results/k\0\0", r"unknown item: kernel\\x09"),
        (b"linux (kernel /results/k)\0\0", "unknown item: linux"),
        (b"kernel /results/k\0kernel /results/k\0\0", "kernel twice"),
        (b"kernel /results/k\0args a\0args a\0\0", "args twice"),
        (b"kernel \0\0", "not in the folder"),
        (b"kernel k\0\0", "not in the folder"),
        (b"kernel /results\0\0", "not in the folder"),
        (b"kernel /results/\0\0", "not in the folder"),
        (b"kernel /results/.\0\0", "not in the folder"),
        (b"kernel /results/..\0\0", "not in the folder"),
        (b"kernel /results/../etc/passwd\0\0", "not in the folder"),
        (b"kernel /results/sub/k\0\0", "not in the folder"),
        (b"kernel /resultsk\0\0", "not in the folder"),
        (b"kernel /etc/passwd\0\0", "not in the folder"),
        (b"kernel /results/k\0ramdisk /r\0\0", "ramdisk is not in the folder"),
        (b"kernel /results/k\0args " + b"x" * 1024 + b"\0\0", "has 1024 bytes; 1023 are allowed"),
        (b"kernel /results/k\0args a\nb\0\0", "control characters"),
        (b"kernel /results/k\0args \x1b[2J\0\0", "control characters"),
        (b"kernel /" + b"k" * limits.PROGRAM_ITEM_BYTES + b"\0\0", "longer than 8191 bytes"),
        (b"x" * (limits.PROGRAM_OUTPUT_BYTES + 1), "longer than 32768 bytes"),
    ],
)
def test_everything_else_is_refused_with_its_reason(written: bytes, said: str) -> None:
    with pytest.raises(OutputError, match=said) as caught:
        parse_output(written, FOLDER)
    assert str(caught.value).isprintable()
