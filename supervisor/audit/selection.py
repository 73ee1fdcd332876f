# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses records of audit logs: a cheap look at the bytes first, so that what is not wanted is never parsed.

What one filter wants stands in a line as literal bytes; only lines that have them are parsed and compared exactly.
Nothing is verified here: that is `verify`'s work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domward.protocol import limits
from domward.protocol.fds import Fd
from domward.protocol.records import frozen
from domward.protocol.text import printable

from .file_check import parsed
from .reading import lines_of, open_log_file
from .record import Event

# The beginning of a line; it stands nowhere else, because quotes in texts are escaped.
_CHUNK = 4 * limits.MIB
_TIME = re.compile(
    rb'\{"seq":[0-9]{1,19},"time":"([0-9TZ:.-]{27})"'
)  # stands nowhere else: quotes in texts are escaped


@frozen(kw_only=True)
class Filter:
    """Which records are wanted; a member that is None wants all.

    `since` and `until` are RFC 3339 UTC as records have them, or the beginning of one; `actor` is a uid, or a program's
    path; `domain` is an id, a UUID or a name.
    """

    since: str | None = None
    until: str | None = None
    domain: str | None = None
    actor: str | None = None
    outcome: str | None = None
    event: str | None = None
    operation: str | None = None

    def literal(self) -> bytes:
        """Bytes that every wanted line has; empty where there are none."""
        for name in ("operation", "event", "outcome"):
            value = getattr(self, name)
            if value is not None:
                return f'"{name}":{json.dumps(printable(value))}'.encode()
        for value in (self.domain, self.actor):
            if value is not None:
                return json.dumps(printable(value))[1:-1].encode()
        return b""

    def wants(self, record: dict[str, Any]) -> bool:
        """Whether `record` is wanted."""
        return (
            all(
                value is None or record[name] == value
                for name, value in (("operation", self.operation), ("event", self.event), ("outcome", self.outcome))
            )
            and self._wants_time(record["time"])
            and (self.domain is None or self.domain in _names(record["domain"]))
            and (self.actor is None or self.actor in (str(record["actor"].get("uid")), record["actor"].get("exe")))
        )

    def _wants_time(self, time: str) -> bool:
        return (self.since is None or time >= self.since) and (
            self.until is None or time[: len(self.until)] <= self.until
        )


def _names(domain: dict[str, Any] | None) -> list[str]:
    return [] if domain is None else [str(value) for value in domain.values() if value is not None]


@frozen
class Origin:
    """Where a file's records come from, as its first record says."""

    host: str
    chain: str


@frozen
class Selected:
    """A wanted record, its line, and where it is from."""

    record: dict[str, Any]
    line: bytes
    origin: Origin


def select(path: Path, wanted: Filter) -> Iterator[Selected]:
    """The records of `path` that are `wanted`, in their order. Raises RefusedError, OperationFailed."""
    with open_log_file(path) as fd:
        origin = _origin(fd)
        for line in _candidates(fd, wanted):
            record = parsed(line)
            if record is not None and wanted.wants(record):
                yield Selected(record, line.rstrip(b"\n"), origin)


def _origin(fd: Fd) -> Origin:
    for line in lines_of(fd):
        record = parsed(line)
        if record is not None:
            detail = record["detail"] if record["event"] == Event.LOG_OPENED.value else {}
            return Origin(printable(detail.get("host", "")), printable(detail.get("chain", "")))
    return Origin("", "")


def _candidates(fd: Fd, wanted: Filter) -> Iterator[bytes]:
    """The lines that may be wanted."""
    literal = wanted.literal()
    with open(fd.fileno(), "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        rest = b""
        while chunk := file.read(_CHUNK):
            chunk = rest + chunk
            end = chunk.rfind(b"\n") + 1
            rest = chunk[end:] if len(chunk) - end < _CHUNK else b""
            yield from _within(chunk[:end], literal, wanted)
        yield from _within(rest, literal, wanted)


def _within(chunk: bytes, literal: bytes, wanted: Filter) -> Iterator[bytes]:
    if literal:
        at = chunk.find(literal)
        while at >= 0:
            start = chunk.rfind(b"\n", 0, at) + 1
            end = chunk.find(b"\n", at) + 1 or len(chunk)
            yield chunk[start:end]
            at = chunk.find(literal, end)
    elif wanted.since is not None or wanted.until is not None:
        since = (wanted.since or "").encode()
        until = None if wanted.until is None else wanted.until.encode()
        for found in _TIME.finditer(chunk):
            if found[1] >= since and (until is None or found[1][: len(until)] <= until):
                yield chunk[found.start() : chunk.find(b"\n", found.start()) + 1 or len(chunk)]
    else:
        yield from chunk.splitlines(keepends=True)
