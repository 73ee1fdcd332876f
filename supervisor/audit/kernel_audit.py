# SPDX-License-Identifier: GPL-3.0-or-later
"""Completions and checkpoints as records of the kernel's audit, of the types that ausearch(8) and auvirt(8) know.

A message over NETLINK_AUDIT of type AUDIT_VIRT_CONTROL, with the fields that virtualisation programs use (audit's
specification of VIRT_* records). The kernel adds pid, uid, auid and a serial number, and takes it from who has
CAP_AUDIT_WRITE; it drops it where auditing is off.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from .head import Checkpoint
from .log import Written
from .record import Event, Outcome

_NETLINK_AUDIT = 9  # <linux/netlink.h>
_VIRT_CONTROL = 2500  # AUDIT_VIRT_CONTROL, <libaudit.h>
_REQUEST = 1  # NLM_F_REQUEST
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_TAIL = 'exe="domward" hostname=? addr=? terminal=?'


def completion_text(record: dict[str, Any]) -> str:
    """The message for a completed operation."""
    domain = record["domain"] or {}
    operation = str(record["operation"] or "").rpartition("-")[0] or "operation"
    name, uuid = _value(domain.get("name") or "?"), domain.get("uuid") or "?"
    success = "success" if record["outcome"] == Outcome.OK.value else "failed"
    reason = record["detail"].get("code") or record["outcome"]
    return f"virt=xen op={operation} reason={reason} vm={name} uuid={uuid} seq={record['seq']} {_TAIL} res={success}"


def checkpoint_text(checkpoint: Checkpoint) -> str:
    """The message for a checkpoint."""
    where = f"chain={checkpoint.chain} seq={checkpoint.seq} hash={checkpoint.hash}"
    return f'virt=xen op=audit-checkpoint vm="?" uuid=? {where} {_TAIL} res=success'


def _value(text: str) -> str:
    """A value that somebody else chose: quoted, or in hexadecimal where quotes would not hold it."""
    if all("!" <= character <= "~" and character != '"' for character in text):
        return f'"{text}"'
    return text.encode().hex().upper()


def message(text: str, number: int) -> bytes:
    """The netlink message with `text`."""
    payload = text.encode("ascii") + b"\0"
    return _HEADER.pack(_HEADER.size + len(payload), _VIRT_CONTROL, _REQUEST, number, 0) + payload


class KernelAudit:
    """Sends to the kernel's audit, where there is one. Owns a socket once it has sent."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._number = 0

    def record(self, written: Written) -> None:
        """Sends a completion; other events are not for this log."""
        if written.event is Event.COMPLETION:
            self._send(completion_text(json.loads(written.line)))

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Sends a checkpoint."""
        self._send(checkpoint_text(checkpoint))

    def _send(self, text: str) -> None:
        if os.geteuid() != 0:
            return
        try:
            if self._socket is None:
                kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
                self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_AUDIT)
            self._number += 1
            self._socket.sendto(message(text, self._number), (0, 0))
        except OSError:
            return  # no such protocol, no CAP_AUDIT_WRITE, or full: see `mirrors`

    def close(self) -> None:
        """Closes the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
