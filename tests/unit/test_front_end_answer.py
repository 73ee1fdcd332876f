# SPDX-License-Identifier: GPL-3.0-or-later
"""The answer in each of its forms, as the toolstacks' parsers read it, and what cannot be said in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.toolstacks import parse_simple, parse_sxp

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.supervisor.front_end_answer import AnswerFormat, answer

KERNEL, RAMDISK = "/run/x/boot_kernel.1", "/run/x/boot_ramdisk.2"


def test_simple0_is_what_libxl_splits_at_nul() -> None:
    assert answer(AnswerFormat.SIMPLE0, KERNEL, RAMDISK, b"root=/dev/xvda1 ro") == (
        b"kernel /run/x/boot_kernel.1\0ramdisk /run/x/boot_ramdisk.2\0args root=/dev/xvda1 ro\0\0"
    )
    assert answer(AnswerFormat.SIMPLE0, KERNEL, None, b"") == b"kernel /run/x/boot_kernel.1\0\0"


def test_simple_is_what_xenopsd_splits_into_lines() -> None:
    assert parse_simple(answer(AnswerFormat.SIMPLE, KERNEL, RAMDISK, b"a=b c")) == {
        "kernel": KERNEL,
        "ramdisk": RAMDISK,
        "args": "a=b c",
    }


@given(st.binary(max_size=limits.CMDLINE_BYTES).filter(lambda args: all(0x20 <= b != 0x7F for b in args) and args))
def test_sxp_gives_every_byte_back(args: bytes) -> None:
    found = parse_sxp(answer(AnswerFormat.SXP, KERNEL, RAMDISK, args))
    assert found == ["linux", ["kernel", KERNEL], ["ramdisk", RAMDISK], ["args", args.decode("latin-1")]]


@pytest.mark.parametrize("form", AnswerFormat)
@pytest.mark.parametrize("args", [b"a\0kernel /etc/shadow", b"a\nkernel /etc/shadow", b"\x7f", b"a" * 1024])
def test_arguments_that_could_say_something_else_are_refused(form: AnswerFormat, args: bytes) -> None:
    with pytest.raises(OperationFailed):
        answer(form, KERNEL, None, args)


def test_an_item_that_libxl_would_drop_is_refused() -> None:
    longest = limits.ANSWER_ITEM_BYTES - len("kernel ") - 1
    assert answer(AnswerFormat.SIMPLE0, "/" * longest, None, b"")
    with pytest.raises(OperationFailed, match="more than the toolstack accepts"):
        answer(AnswerFormat.SIMPLE0, "/" * (longest + 1), None, b"")
