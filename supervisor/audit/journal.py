# SPDX-License-Identifier: GPL-3.0-or-later
"""Records as messages of journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), with fields of their own.

``journalctl SYSLOG_IDENTIFIER=domward-audit DOMWARD_EVENT=refusal`` finds them, systemd-journal-remote carries them.
DOMWARD_RECORD is the line of the log itself. docs/audit.md lists the fields.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from .. import paths
from .head import Checkpoint
from .log import Written
from .record import Outcome

IDENTIFIER = "domward-audit"
#: journalctl MESSAGE_ID=...: a record, a checkpoint.
RECORD_ID = "6f0b2b0e3d3c4d0f9f1e7f2a8c55d101"
CHECKPOINT_ID = "6f0b2b0e3d3c4d0f9f1e7f2a8c55d102"
_PRIORITY = {Outcome.OK.value: "6", Outcome.CANCELLED.value: "5"}  # informational, notice; anything else is a warning
_WARNING = "4"


def record_fields(line: bytes, chain: str) -> dict[str, str]:
    """The fields of the record `line` of the chain `chain`."""
    record = json.loads(line)
    fields = {
        "MESSAGE": _message(record),
        "MESSAGE_ID": RECORD_ID,
        "PRIORITY": _PRIORITY.get(record["outcome"], _WARNING),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "DOMWARD_CHAIN": chain,
        "DOMWARD_SEQ": str(record["seq"]),
        "DOMWARD_HASH": record["hash"],
        "DOMWARD_PREV": record["prev"],
        "DOMWARD_EVENT": record["event"],
        "DOMWARD_OUTCOME": record["outcome"],
        "DOMWARD_RECORD": line.decode("ascii").rstrip("\n"),
    }
    optional = {
        "DOMWARD_OPERATION": record["operation"],
        "DOMWARD_ERRNO": record["errno"],
        "DOMWARD_CODE": record["detail"].get("code"),
        **{f"DOMWARD_ACTOR_{name.upper()}": value for name, value in record["actor"].items()},
        **{f"DOMWARD_DOMAIN_{name.upper()}": value for name, value in (record["domain"] or {}).items()},
    }
    return fields | {name: str(value) for name, value in optional.items() if value is not None}


def _message(record: dict[str, Any]) -> str:
    what = f"{record['event']}: {record['outcome']}"
    code = record["detail"].get("code")
    return " ".join(part for part in (what, code, record["operation"]) if part)


def checkpoint_fields(checkpoint: Checkpoint) -> dict[str, str]:
    """The fields of `checkpoint`."""
    return {
        "MESSAGE": f"audit checkpoint: chain {checkpoint.chain}, record {checkpoint.seq}, hash {checkpoint.hash}",
        "MESSAGE_ID": CHECKPOINT_ID,
        "PRIORITY": _PRIORITY[Outcome.OK.value],
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "DOMWARD_CHAIN": checkpoint.chain,
        "DOMWARD_SEQ": str(checkpoint.seq),
        "DOMWARD_HASH": checkpoint.hash,
    }


def datagram(fields: dict[str, str]) -> bytes:
    """One message: a line for each of `fields`, whose values hold no line feed."""
    return "".join(f"{name}={value}\n" for name, value in fields.items()).encode("ascii")


class Journal:
    """Sends to journald, where it runs. Owns a socket once it has sent."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def record(self, written: Written, chain: str) -> None:
        """Sends a record; nothing where there is no journald or it is full."""
        if paths.JOURNAL_SOCKET.exists():
            self._send(record_fields(written.line, chain))

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Sends a checkpoint; nothing where there is no journald or it is full."""
        if paths.JOURNAL_SOCKET.exists():
            self._send(checkpoint_fields(checkpoint))

    def _send(self, fields: dict[str, str]) -> None:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(datagram(fields), str(paths.JOURNAL_SOCKET))
        except OSError:
            return  # see `mirrors`

    def close(self) -> None:
        """Closes the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
