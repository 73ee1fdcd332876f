# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of an audit log as a writer finds it: the last record, and what a crash left after it.

By cases, for what follows the last record: nothing; all of the next record but its line feed, which makes it the last
one; the beginning of the next record, or bytes that the file system
never filled (NUL), or several of these from several crashes: torn, to be kept and told of in the next record; anything
else was written by something else.
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from domward.protocol import limits
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from .record import NO_HASH, Event, Place, place_of

#: The longest line, and so how far from its beginning or end a file has a record if it has one.
LONGEST_LINE = limits.AUDIT_RECORD_BYTES + limits.KIB
_WINDOW = 4 * LONGEST_LINE
_COMPLETE = re.compile(rb',"prev":"[0-9a-f]{64}","hash":"[0-9a-f]{64}"\}')
_TIME_CHARACTERS = len("2026-11-23T00:00:00.000000Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@frozen
class Tail:
    """Where a chain goes on: after `place`, in a file of `size` bytes, of which the last `torn` are no record.

    `ended` is False where the last record lacks its line feed.
    """

    place: Place
    wall: int
    monotonic: int
    boot: str
    size: int
    torn: bytes
    ended: bool = True


def closed(torn: bytes) -> bytes:
    """What a crash left as whole lines: with a line feed, where it has none."""
    return torn if torn.endswith(b"\n") else torn + b"\n"


def read_tail(file: Fd, size: int) -> Tail | None:
    """The end of `file`; None where it does not end as domward could have left it."""
    start = max(0, size - _WINDOW)
    window = _read(file, start, size)
    lines = window.splitlines(keepends=True) if window else []
    torn: list[bytes] = []
    while lines:
        line = lines.pop()
        place = place_of(line) or (place_of(line + b"\n") if not torn else None)
        if place is not None:
            found = _tail(json.loads(line), place, size, b"".join(reversed(torn)), ended=line.endswith(b"\n"))
            return found if all(is_torn(piece, place.seq + 1) for piece in torn) else None
        torn.append(line)
    rest = b"".join(reversed(torn))
    if start > 0 or not all(is_torn(piece, None) for piece in torn):
        return None
    return Tail(Place(0, NO_HASH, NO_HASH), 0, 0, "", size, rest)


def _tail(record: dict[str, Any], place: Place, size: int, torn: bytes, *, ended: bool) -> Tail:
    return Tail(place, wall_of(record["time"]), record["monotonic"], record["boot"], size, torn, ended)


def is_torn(piece: bytes, seq: int | None) -> bool:
    """Whether `piece` is what a crash leaves of the record `seq` (None: of any), its line feed aside."""
    if piece == b"\n" or _COMPLETE.search(piece):
        return False
    begun = piece.rstrip(b"\n").rstrip(b"\0")
    number = b"" if seq is None else b"%d" % seq
    begins = b'{"seq":' + number + (b',"time":"' if number else b"")
    shorter = min(len(begun), len(begins))
    return begun[:shorter] == begins[:shorter] and all(0x20 <= byte < 0x7F for byte in begun)


def wall_of(text: str) -> int:
    """The nanoseconds since 1970 of a record's time. Raises ValueError."""
    if len(text) != _TIME_CHARACTERS or text[19] != "." or text[26] != "Z":
        raise ValueError("no time of a record")
    return _seconds(text[:19]) * 1_000_000_000 + int(text[20:26]) * 1000


@lru_cache(maxsize=16)  # records that follow each other are mostly of one second
def _seconds(text: str) -> int:
    return (datetime.fromisoformat(text + "+00:00") - _EPOCH) // timedelta(seconds=1)


def chain_of(file: Fd) -> str:
    """The id of the chain that the first record of `file` names; empty where it names none."""
    for line in _read(file, 0, _WINDOW).splitlines(keepends=True):
        if place_of(line) is not None:
            record = json.loads(line)
            return str(record["detail"]["chain"]) if record["event"] == Event.LOG_OPENED.value else ""
    return ""


def ends_with(file: Fd, size: int, place: Place) -> bool:
    """Whether the `size` bytes of `file` still end with the hash of `place`."""
    end = place.hash.encode() + b'"}\n'
    return _read(file, size - len(end), size) == end


def _read(file: Fd, start: int, end: int) -> bytes:
    found = b""
    while len(found) < end - start:
        piece = os.pread(file.fileno(), end - start - len(found), start + len(found))
        if not piece:
            break
        found += piece
    return found
