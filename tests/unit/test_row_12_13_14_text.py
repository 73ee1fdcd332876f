# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 12 to 14: argument vectors and untrusted text, each through its one module, with every byte value."""

from __future__ import annotations

import argparse
import ast
import itertools
import locale
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domward.helpers.reader.boot_draft import args_fault
from domward.helpers.reader.selection import check_args
from domward.protocol import limits
from domward.protocol.errors import DiskError, DomwardError, OperationFailed, UsageError
from domward.protocol.messages import Log, LogLevel
from domward.protocol.schema import parse
from domward.protocol.text import decoded, has_control, printable, readable_rows
from domward.supervisor import BootRequest, arguments, cli

REPOSITORY = Path(__file__).parents[2]
BYTES = [bytes([value]) for value in range(256)]
CONTROLS = {*range(0x20), 0x7F}
SHOWN = set(range(0x20, 0x7F))


def each_byte(test: Callable[[bytes], None]) -> Callable[[], None]:
    """Calls the test with every byte value, in one test: 256 leak checks would show nothing more than one."""

    def every_byte() -> None:
        for byte in BYTES:
            test(byte)

    every_byte.__name__ = test.__name__
    return every_byte


# --- untrusted text ---------------------------------------------------------------------------------------------


@each_byte
def test_row_13_every_byte_value_shows_as_printable_ascii_or_as_its_number(byte: bytes) -> None:
    for shown in (printable(byte), "".join(readable_rows([byte])), str(OperationFailed(byte.decode("latin-1")))):
        assert {ord(character) for character in shown} <= SHOWN
    assert printable(byte) == (byte.decode("ascii") if byte[0] in SHOWN else f"\\x{byte[0]:02x}")
    assert printable(byte.decode("latin-1")) == printable(byte)
    assert has_control(b"a" + byte + b"b") == (byte[0] in CONTROLS)
    assert decoded(byte).encode("utf-8", "surrogateescape") == byte


@each_byte
def test_row_13_reader_and_supervisor_agree_on_every_byte_of_a_command_line(byte: bytes) -> None:
    args = b"root=" + byte
    if byte[0] in CONTROLS:
        assert "control" in args_fault(args)
        with pytest.raises(DiskError):
            check_args(args)
        with pytest.raises(UsageError, match="control"):
            BootRequest(disk=Path("disk"), args=args)
    else:
        assert args_fault(args) == ""
        check_args(args)
        assert BootRequest(disk=Path("disk"), args=args).args == args


@pytest.mark.parametrize("value", [0, 1, 0x41, 0x7F, 0x80, 0x9B, 0xFF, 0x202E, 0xD800, 0x10FFFF])
def test_row_13_every_kind_of_character_shows_as_printable_ascii(value: int) -> None:
    assert {ord(character) for character in printable(chr(value))} <= SHOWN


def test_row_13_a_log_line_with_any_character_crosses_whole_and_shows_safely() -> None:
    line = "".join(map(chr, range(256))) + "\u202e\U0010ffff"
    received = parse(Log(level=LogLevel.INFO, line=line).encode(), (Log,))
    assert isinstance(received, Log)
    assert received.line == line
    assert {ord(character) for character in printable(received.line)} <= SHOWN


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_row_13_rows_of_a_log_are_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    chunks = [data[begin:end] for begin, end in itertools.pairwise(places)]
    rows = [*readable_rows([data])]
    assert [*readable_rows(chunks)] == rows
    assert {ord(character) for row in rows for character in row} <= SHOWN
    assert all(rows)


@given(st.lists(st.sampled_from([b"\x1b", b"[", b"1", b";", b"?25", b"H", b"m", b"\r", b"\n", b"x"]), max_size=40))
def test_row_13_rows_of_sequences_are_the_same_byte_by_byte(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert [*readable_rows(bytes([byte]) for byte in data)] == [*readable_rows([data])]


def test_row_13_a_row_without_end_is_cut_the_same_way_at_once_and_in_pieces() -> None:
    data = b"x" * 10_000
    assert [len(row) for row in readable_rows([data])] == [4096, 4096, 1808]
    assert [len(row) for row in readable_rows([data[:5000], data[5000:]])] == [4096, 4096, 1808]


def test_row_13_a_menu_reads_as_its_rows() -> None:
    data = b"\x1b[2J\x1b[1;1H\x1b[?25lBoot menu\x1b[3;1H\x1b[7m  Debian\x1b[0m\x1b[K\r\nlast\x1b[1"
    assert [*readable_rows([data])] == ["Boot menu", "  Debian", "last\\x1b[1"]


@pytest.mark.parametrize("name", ["isprintable", "isspace", "isalnum", "isalpha", "strxfrm", "setlocale", "swapcase"])
def test_row_13_nothing_asks_the_locale_or_unicode_what_a_character_is(name: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for side in ("supervisor", "protocol")
        for path in (REPOSITORY / side).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == name
    ]
    assert found == []


def test_row_13_the_locale_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = locale.setlocale(locale.LC_ALL)
    try:
        for name in ("C", "C.UTF-8", "POSIX"):
            locale.setlocale(locale.LC_ALL, name)
            assert arguments.seconds("1.5") == 1.5
            assert printable(b"I\xc4\xb1") == "I\\xc4\\xb1"
    finally:
        locale.setlocale(locale.LC_ALL, before)


def test_row_13_text_is_made_printable_in_one_place() -> None:
    homes = [
        str(path.relative_to(REPOSITORY))
        for side in ("supervisor", "helpers", "protocol")
        for path in (REPOSITORY / side).rglob("*.py")
        if "\\x{" in path.read_text() or "surrogateescape" in path.read_text()
    ]
    assert homes == ["protocol/text.py"]


# --- argument vectors -------------------------------------------------------------------------------------------


@each_byte
def test_row_12_every_byte_of_a_word_comes_through(byte: bytes) -> None:
    word = b"a" + byte + b"b"
    assert arguments.as_bytes(os.fsdecode(word)) == word
    assert arguments.entry(word) == word  # a title may hold anything; it is only compared


def test_row_12_text_that_no_command_line_holds_is_refused() -> None:
    with pytest.raises(UsageError):
        arguments.as_bytes("\ud800")


@each_byte
def test_row_12_a_number_is_ascii_digits_and_nothing_else(byte: bytes) -> None:
    wanted = float(byte) if byte in b"123456789" else None
    assert arguments.seconds(byte.decode("latin-1")) == wanted
    if byte not in b"0123456789.":
        assert arguments.seconds("1" + byte.decode("latin-1")) is None
        assert arguments.seconds(byte.decode("latin-1") + "1") is None


SURPRISING = ["", "0", "0.0", "-1", "+1", "1_0", "1e3", "0x10", "inf", "nan", " 1", "1 ", "1\n", ".5", "5.", "1,5",
    "\u0661", "\uff11", "\u00b9", "1\0", "86400.1", "9" * 400]  # fmt: skip


@pytest.mark.parametrize("word", SURPRISING)
def test_row_12_no_sign_exponent_underscore_blank_or_other_script(word: str) -> None:
    assert arguments.seconds(word) is None
    with pytest.raises(argparse.ArgumentTypeError):
        cli._seconds(word)


@pytest.mark.parametrize("value", ["text", 5, bytearray(b"x"), ["x"], memoryview(b"x")])
def test_row_12_bytes_go_in_and_nothing_else(value: object) -> None:
    for check in (arguments.entry, arguments.kernel_arguments):
        with pytest.raises(UsageError):
            check(value)


def test_row_14_lengths_are_counted_in_bytes_up_to_the_last_one() -> None:
    assert len(arguments.entry(b"\xff" * limits.TITLE_BYTES)) == limits.TITLE_BYTES
    assert len(arguments.kernel_arguments(b"\xff" * limits.CMDLINE_BYTES)) == limits.CMDLINE_BYTES
    for check, longest in ((arguments.entry, limits.TITLE_BYTES), (arguments.kernel_arguments, limits.CMDLINE_BYTES)):
        assert check(b"") == b""
        with pytest.raises(DomwardError):
            check(b"x" * (longest + 1))
