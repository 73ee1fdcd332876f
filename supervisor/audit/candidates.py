# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of an audit log that may be wanted, found by their bytes: what is not wanted is never parsed.

What a filter asks for stands in a line in one form (`record`), or in one of a few. The bytes of one thing that it asks
for are searched for first, which takes little more than reading does; a line that has them is looked at for the rest.
The beginning of a line, with its time, stands nowhere else, because quotes in texts are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from domward.protocol import limits
from domward.protocol.fds import Fd
from domward.protocol.records import frozen
from domward.protocol.text import printable

from .tail import LONGEST_LINE

BUFFER_BYTES = 512 * limits.KIB  # what stays in a processor's cache while it is searched
_MARGIN = 1  # the line feed before the first line: where a line begins, there is one before it
_FIRST, _LAST = 0x20, 0x7E  # of the characters in a line

assert BUFFER_BYTES > 2 * LONGEST_LINE

Forms = tuple[bytes, ...]


@frozen(kw_only=True)
class Wish:
    """What the lines shall have: as `selection.Filter`."""

    since: str | None
    until: str | None
    domain: str | None
    actor: str | None
    outcome: str | None
    event: str | None
    operation: str | None

    def literals(self) -> list[Forms]:
        """Bytes of which such a line has, of each of these, at least one; the rarest first."""
        found: list[Forms] = []
        for name in ("operation", "event", "outcome"):
            value = getattr(self, name)
            if value is not None:
                found.append((b'"%b":%b' % (name.encode(), _quoted(value)),))
        if self.domain is not None:
            value = _quoted(self.domain)
            found.append((*_number(b'"domain":{"id":%b,', self.domain), b'"uuid":' + value, b'"name":' + value))
        if self.actor is not None:
            found.append((*_number(b'"actor":{"uid":%b,', self.actor), b'"exe":' + _quoted(self.actor)))
        return found

    def beginning(self) -> re.Pattern[bytes]:
        """Matches the line feed before such a line, and the line up to its time."""
        since, until = ((bound or "").encode() for bound in (self.since, self.until))
        return re.compile(rb'\n\{"seq":[0-9]{1,19},"time":"' + _between(since, until))


def candidates(fd: Fd, wish: Wish) -> Iterator[bytes]:
    """The lines of `fd`, from its beginning, that may be wished for. Raises OSError."""
    literals, beginning = wish.literals(), wish.beginning()
    timed = wish.since is not None or wish.until is not None
    for buffer, end in _pieces(fd):
        if timed and literals and beginning.search(buffer, 0, end) is None:
            continue  # what is searched for may be in every line
        if literals:
            starts = _having(buffer, end, literals[0])
        else:
            starts = (found.start() for found in beginning.finditer(buffer, 0, end))
        for start in starts:
            stop = buffer.find(b"\n", start + 1, end) + 1 or end
            others = all(any(buffer.find(form, start, stop) >= 0 for form in forms) for forms in literals[1:])
            if others and (not literals or beginning.match(buffer, start, stop)):
                yield bytes(buffer[start + 1 : stop])


def _having(buffer: bytearray, end: int, forms: Forms) -> Iterator[int]:
    """Where the lines that have one of `forms` begin, in their order: the line feed before each."""
    found: set[int] = set()
    for form in forms:
        at = buffer.find(form, 0, end)
        while at >= 0:
            found.add(buffer.rfind(b"\n", 0, at))
            at = buffer.find(form, buffer.find(b"\n", at, end) + 1 or end, end)
    return iter(sorted(found))


def _pieces(fd: Fd) -> Iterator[tuple[bytearray, int]]:
    """The file in whole lines: each time a buffer, the same one, and where they end. Before each there is a line feed.

    A line that is longer than any record is left out, as far as it does not fit.
    """
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    buffer[0] = ord("\n")
    held = _MARGIN
    with open(fd.fileno(), "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        while count := file.readinto(view[held:]):
            end = buffer.rfind(b"\n", held, held + count) + 1
            held += count
            if end:
                yield buffer, end
                rest = held - end
                view[_MARGIN : _MARGIN + rest] = bytes(view[end:held])
                buffer[0] = ord("\n")
                held = _MARGIN + rest
            elif held == BUFFER_BYTES:
                buffer[0] = 0  # what comes next is no line's beginning
                held = _MARGIN
    if held > _MARGIN:
        yield buffer, held


def _quoted(value: str) -> bytes:
    return json.dumps(printable(value)).encode()


def _number(form: bytes, value: str) -> Forms:
    return (form % value.encode(),) if re.fullmatch("-?[0-9]{1,20}", value, re.ASCII) else ()


def _between(low: bytes, high: bytes) -> bytes:
    """A pattern for texts that are not before `low` and, as far as that goes, not after `high`; empty is no bound."""
    if not low and not high:
        return b""
    first, last = (low or b" ")[0], (high or b"~")[0]
    if low and high and first == last:
        return re.escape(low[:1]) + _between(low[1:], high[1:])
    parts = []
    if low and (not high or first < last):
        parts.append(re.escape(low[:1]) + _between(low[1:], b""))
    if high and (not low or first < last):
        parts.append(re.escape(high[:1]) + _between(b"", high[1:]))
    least, most = first + 1 if low else _FIRST, last - 1 if high else _LAST
    if least <= most:
        parts.append(rb"[\x%02x-\x%02x]" % (least, most))
    return rb"(?:%b)" % b"|".join(parts) if parts else b"(?!)"
