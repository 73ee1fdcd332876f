# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses records of audit logs: what may be wanted by its bytes (`candidates`) is parsed and compared exactly.

Nothing is verified here: that is `verify`'s work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domward.protocol.fds import Fd
from domward.protocol.records import frozen, names_of
from domward.protocol.text import printable

from .candidates import Wish, candidates
from .file_check import parsed
from .reading import lines_of, open_log_file
from .record import Event


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

    def wish(self) -> Wish:
        """The same, for `candidates`."""
        return Wish(**{name: getattr(self, name) for name in names_of(Wish)})

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
        for line in candidates(fd, wanted.wish()):
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
