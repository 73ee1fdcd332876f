# SPDX-License-Identifier: GPL-3.0-or-later
"""One record in a few words, for a person; every value in it is printable, whatever the log holds."""

from __future__ import annotations

from typing import Any

from domward.protocol.text import printable

from .record import Event

_LONGEST = 200  # characters of a summary on one row


def row(record: dict[str, Any], host: str = "") -> str:
    """One row: time, host, record, event, outcome, who, which operation and domain, what."""
    actor = record["actor"]
    who = f"uid {actor.get('uid')} pid {actor.get('pid')}"
    parts = [
        printable(record["time"]),
        host,
        f"{printable(record['seq']):>7}",
        f"{printable(record['event']):18}",
        f"{printable(record['outcome']):9}",
        printable(who),
        printable(record["operation"] or "-"),
    ]
    domain = named(record["domain"])
    return " ".join(part for part in (*parts, f"domain {domain}" if domain else "", what(record)) if part).rstrip()


def named(domain: dict[str, Any] | None) -> str:
    """A domain's name, or else its UUID or number."""
    for name in ("name", "uuid", "id"):
        if domain and domain.get(name) is not None:
            return printable(domain[name])
    return ""


def what(record: dict[str, Any]) -> str:
    """What the record tells, by its event."""
    return _what(record["event"], record["detail"])[:_LONGEST]


def _what(event: str, detail: dict[str, Any]) -> str:
    def text(name: str) -> str:
        return printable(detail.get(name) or "")

    match event:
        case Event.REQUEST.value:
            entry = f" entry {text('entry')}" if detail.get("entry") else ""
            return f"disk {text('disk')}{entry}"
        case Event.HELPER_STARTED.value:
            without = f", without {_list(detail.get('without'))}" if detail.get("without") else ""
            return f"{text('helper')} uid {text('uid')}, {_count(detail, 'layers')} layers{without}"
        case Event.FDS_PASSED.value | Event.FDS_RECEIVED.value:
            fds = detail.get("fds")
            names = [fd.get("name", "") for fd in fds if isinstance(fd, dict)] if isinstance(fds, list) else []
            return f"{text('helper')}: {_list(names) or 'none'}"
        case Event.RESULT.value if isinstance(detail.get("kernel"), dict):
            return f"kernel sha256 {printable(detail['kernel'].get('sha256', ''))}, title {text('title')}"
        case Event.RESULT.value:
            return f"{text('entries')} entries {text('reason')}".rstrip()
        case Event.LAYERS_MISSING.value:
            return _list(detail.get("layers"))
        case Event.LOG_OPENED.value:
            return f"host {text('host')} chain {text('chain')}"
    return ": ".join(part for part in (text("call"), text("code"), text("sentence") or text("reason")) if part)


def _list(values: object) -> str:
    return ", ".join(printable(value) for value in values) if isinstance(values, list) else ""


def _count(detail: dict[str, Any], name: str) -> int:
    values = detail.get(name)
    return len(values) if isinstance(values, list) else 0
