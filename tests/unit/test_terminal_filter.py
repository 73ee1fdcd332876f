# SPDX-License-Identifier: GPL-3.0-or-later
"""The terminal filter: whatever comes in, only what draws goes out, however it is cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domward.helpers.terminal_filter import CSI_BYTES, STRING_BYTES, TerminalFilter

ALLOWED = re.compile(rb"(?:[\x20-\x7e\r\n\b\t]|\x1b\[[0-9;]{0,16}[HJKmABCDf]|\x1b\[\?(?:1|25)[hl])*")

# Random bytes seldom make a sequence: pieces of some, whole ones, and any bytes between.
PIECES = st.sampled_from(
    [
        b"\x1b", b"\x1b[", b"[", b"?", b"25", b"h", b"l", b"1;31", b"m", b"H", b"J", b";", b"\x1b]", b"0;t", b"\x07",
        b"\x1b\\", b"\\", b"\x1bP", b"\x1b_", b"\x1b^", b"\x1bX", b"\x9b", b"\x9c", b"\x9d", b"\x18", b"\x1a", b"\x1bc",
        b"\x1b(0", b"\x1b#8", b"\x1b ", b"\x0e", b"\x00", b"\x7f", b"text", b"\r\n", b"\t", b"\b", b"\x1b[?25l",
        b"\x1b[2J", b"\x1b[1;1H", b"\x1b[6n", b"\x1b[?1049h", b"0" * 16, b"0" * 17, b" " * CSI_BYTES, b"o" * 1000,
    ]
)  # fmt: skip
REPEATABLE = settings(deadline=None, derandomize=True)
STREAMS = st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=40).map(b"".join)


def shown(data: bytes) -> bytes:
    return TerminalFilter().feed(data)


def test_text_and_drawing_pass_and_the_rest_does_not() -> None:
    terminal = TerminalFilter()
    assert terminal.feed(b"\x1b[2J\x1b[1;1HDebian\x1b]0;owned\x07\x1b[") == b"\x1b[2J\x1b[1;1HDebian"
    assert terminal.feed(b"7mlinux\x1b[m\r\n") == b"\x1b[7mlinux\x1b[m\r\n"


DRAWING = [
    b"\x1b[" + parameters + bytes([final]) for parameters in (b"", b"1", b"12;34", b";;") for final in b"HJKmABCDf"
]


@pytest.mark.parametrize(
    "sequence", [*DRAWING, b"\x1b[?25h", b"\x1b[?25l", b"\x1b[?1h", b"\x1b[?1l", b"\x1b[" + b"1" * 16 + b"m"]
)
def test_a_drawing_sequence_passes_whole(sequence: bytes) -> None:
    assert shown(b"a" + sequence + b"b") == b"a" + sequence + b"b"


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b]0;title\x07", b"\x1b]52;c;aGk=\x1b\\", b"\x1bP$q\"p\x1b\\", b"\x1b_x\x1b\\", b"\x1b^x\x1b\\",
        b"\x1bXx\x1b\\", b"\x1b]0;t\x9c", b"\x1bc", b"\x1b7", b"\x1b8", b"\x1bH", b"\x1bM", b"\x1b=", b"\x1bZ",
        b"\x1b)0", b"\x1b(B", b"\x1b%G", b"\x1b#8", b"\x1b F", b"\x1b[6n", b"\x1b[c", b"\x1b[>c", b"\x1b[21t",
        b"\x1b[?1049h", b"\x1b[?25;1h", b"\x1b[?25$p", b"\x1b[?2J", b"\x1b[25h", b"\x1b[5i", b"\x1b[1;2r", b"\x1b[!p",
        b"\x1b[4h", b"\x1b[1:2m", b"\x1b[>4;2m", b"\x1b[1 m", b"\x1b[" + b"1" * 17 + b"m", b"\x00", b"\x05", b"\x07",
        b"\x0b",        b"\x0c", b"\x0e", b"\x0f", b"\x11", b"\x13", b"\x18", b"\x1a", b"\x7f", b"\x1b", b"\x1b\x1b",
    ],
)  # fmt: skip
def test_anything_else_is_dropped_whole(sequence: bytes) -> None:
    assert shown(b"a" + sequence + b"\x1b[mb") == b"a\x1b[mb"


def test_bytes_beyond_ascii_become_question_marks() -> None:
    assert shown("\u00e9\u2013\u009b31m".encode()) == b"??" + b"???" + b"??31m"
    assert shown(b"\x9b31m\x9d0;t\x9c") == b"?31m?0;t?"


@pytest.mark.parametrize(
    ("sets", "drawn"),
    [
        (b"\x1b)0\x0elqk\x0flqk", b"+-+lqk"),  # as curses does on a VT100
        (b"\x1b(0lqk\x1b(Blqk", b"+-+lqk"),  # as curses does on an xterm
        (b"\x0e\x1b)0x\x1b)Bx", b"|x"),
        (b"\x1b)0\x0fx\x0ex\x1bcx", b"x|x"),  # a reset
        (b"\x1b)0\x0e\x1b[7mABC_~\x1b[m", b"\x1b[7mABC o\x1b[m"),
        (b"\x1b)0\x0e\x80", b"?"),
        (b"\x1b) 0\x0ex", b"x"),
    ],
)
def test_line_drawing_is_drawn_with_what_every_terminal_has(sets: bytes, drawn: bytes) -> None:
    assert shown(sets) == drawn


def test_a_control_character_ends_a_sequence_and_is_itself_looked_at() -> None:
    assert shown(b"\x1b[1\n2m") == b"\n2m"
    assert shown(b"\x1b[1\x1b[2m") == b"\x1b[2m"
    assert shown(b"\x1b\rx") == b"\rx"


def test_text_comes_back_after_a_sequence_that_never_ends() -> None:
    assert shown(b"\x1b]" + b"x" * STRING_BYTES + b"back") == b"back"
    assert shown(b"\x1b[" + b"1" * CSI_BYTES + b"back") == b"back"
    assert shown(b"\x1b" + b" " * CSI_BYTES + b"back") == b"back"


@REPEATABLE
@given(STREAMS)
@example(b"\x1b[?25" + b"h")
def test_the_output_is_of_the_allowed_form_and_stable(data: bytes) -> None:
    once = shown(data)
    assert ALLOWED.fullmatch(once)
    assert shown(once) == once


@REPEATABLE
@given(st.binary(max_size=300))
def test_any_bytes_give_output_of_the_allowed_form(data: bytes) -> None:
    assert ALLOWED.fullmatch(shown(data))


@REPEATABLE
@given(STREAMS, st.data())
def test_chunks_make_no_difference_and_every_prefix_of_the_output_is_allowed(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=12)))
    terminal = TerminalFilter()
    parts = [terminal.feed(data[start:end]) for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert all(ALLOWED.fullmatch(part) for part in parts)
    assert b"".join(parts) == shown(data)


@REPEATABLE
@given(STREAMS)
def test_single_bytes_make_no_difference(data: bytes) -> None:
    terminal = TerminalFilter()
    assert b"".join(terminal.feed(data[at : at + 1]) for at in range(len(data))) == shown(data)


def test_plain_text_is_untouched() -> None:
    text = bytes(range(0x20, 0x7F)) + b"\r\n\t\b"
    assert shown(text * 1000) == text * 1000
