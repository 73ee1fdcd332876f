# SPDX-License-Identifier: GPL-3.0-or-later
"""Untrusted text: everything that turns it into something to show goes through here.

Only numbers of bytes and characters decide, never the locale: no `isprintable`, no `isdigit`, no encoding but UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_DELETE = 0x7F
_PLAIN, _PLAIN_BYTES = re.compile(r"[ -~]*"), re.compile(rb"[ -~]*")  # what is printable already
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# What ends a row or only decorates it, of the sequences that draw a menu: those that helpers/terminal_filter passes,
# and character sets, modes and scroll regions, with which curses begins.
_DRAWS = re.compile(
    rb"(?P<ends>[\r\n]|\x1b\[[0-9;]{0,16}[HJfABCD])"
    rb"|\x1b\[(?:[0-9;]{0,16}[Kmr]|\?[0-9]{1,2}[hl])|\x1b[()][0-9A-Z]|\x1b[=>]|[\x0e\x0f]"
)
_UNFINISHED = re.compile(rb"\x1b(?:\[(?:[0-9;]{0,16}|\?[0-9]{0,2})|[()])?\Z")
_LONGEST_ROW = 4096  # bytes of output that come without an end of a row before one is made


def printable(text: object) -> str:
    """`text` as a single line that cannot drive a terminal: all but printable ASCII becomes \\xNN or \\uNNNN."""
    if isinstance(text, bytes):
        if _PLAIN_BYTES.fullmatch(text):
            return text.decode("ascii")
        return "".join(chr(b) if 0x20 <= b < _DELETE else f"\\x{b:02x}" for b in text)
    shown = str(text)
    if _PLAIN.fullmatch(shown):
        return shown
    return "".join(
        c if " " <= c <= "~" else (f"\\x{ord(c):02x}" if ord(c) < 0x100 else f"\\u{ord(c):04x}") for c in shown
    )


def decoded(untrusted: bytes) -> str:
    """`untrusted` as UTF-8, with bytes that are none as the lone surrogates that give them back; for JSON."""
    return untrusted.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """The bytes that `decoded` made `text` of."""
    return text.encode("utf-8", "surrogateescape")


def has_control(untrusted: bytes) -> bool:
    """Whether `untrusted` has a control character of ASCII, NUL and DEL included."""
    return _CONTROL.search(untrusted) is not None


def readable_rows(untrusted_chunks: Iterable[bytes]) -> Iterator[str]:
    """A terminal's output as rows for reading, each of printable ASCII alone.

    CR, LF and sequences that move the cursor or erase the screen end a row, and empty rows are left out; colours,
    erased lines, character sets and modes of the terminal are left out; everything else that is not printable shows as
    \\xNN. How the output is cut into chunks makes no difference.
    """
    rest, row = b"", b""
    for chunk in untrusted_chunks:
        data = rest + chunk
        held = _UNFINISHED.search(data)
        at, end = 0, held.start() if held else len(data)
        rest = data[end:]
        for drawn in _DRAWS.finditer(data, 0, end):
            row += data[at : drawn.start()]
            at = drawn.end()
            if drawn["ends"]:
                yield from _pieces(row)
                row = b""
        row += data[at:end]
        whole = len(row) - len(row) % _LONGEST_ROW
        yield from _pieces(row[:whole])
        row = row[whole:]
    yield from _pieces(row + rest)


def _pieces(row: bytes) -> Iterator[str]:
    return (printable(row[at : at + _LONGEST_ROW]) for at in range(0, len(row), _LONGEST_ROW))
