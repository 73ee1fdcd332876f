# SPDX-License-Identifier: GPL-3.0-or-later
"""One record of the audit log and its canonical form: one line of printable ASCII.

The line is a JSON object without white space, its members in this order: seq, time, monotonic, boot, operation, actor,
event, domain, outcome, errno, detail, prev, hash. `hash` is the SHA-256 of the line's bytes up to the comma before
"hash"; `prev` is the hash of the record before. So a record's hash covers everything that came before it, and a line
can be checked without an opinion on how JSON is written. docs/audit-record.schema.json describes the members.
"""

from __future__ import annotations

import enum
import json
import os
import re
import time
from hashlib import sha256
from typing import Any

from domward.protocol import limits
from domward.protocol.records import frozen
from domward.protocol.text import printable

from .. import paths, user_namespace

#: What the first record of a chain names as the one before it.
NO_HASH = "0" * 64
_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n\Z')
_TAIL_BYTES = len(b',"hash":""}\n') + 64
_START = re.compile(rb'\{"seq":([1-9][0-9]{0,18}),"time":"')
_PREV_AT = len(b',"prev":""') + 64
_NANOSECONDS = 1_000_000_000
_NO_LOGINUID = 2**32 - 1
_PROC_BYTES = 4096

Detail = dict[str, Any]


class Event(enum.Enum):
    """What a record tells; docs/audit.md says what each means to a reviewer."""

    LOG_OPENED = "log-opened"
    LOG_RECOVERED = "log-recovered"
    LOG_DAMAGED = "log-damaged"
    LOG_ROTATED = "log-rotated"
    CLOCK_STEPPED_BACK = "clock-stepped-back"
    SUPERVISOR_OPENED = "supervisor-opened"
    SUPERVISOR_CLOSED = "supervisor-closed"
    LAYERS_MISSING = "layers-missing"
    REQUEST = "request"
    REFUSAL = "refusal"
    HELPER_STARTED = "helper-started"
    FDS_PASSED = "fds-passed"
    FDS_RECEIVED = "fds-received"
    BOOTLOADER_OUTPUT = "bootloader-output"
    RESULT = "result"
    GUEST_BUILD = "guest-build"
    GUEST_UNPAUSE = "guest-unpause"
    GUEST_DEATH = "guest-death"
    FAILURE = "failure"
    PROTOCOL_VIOLATION = "protocol-violation"
    COMPLETION = "completion"
    CONTROL = "control"


class Outcome(enum.Enum):
    """How what a record tells came out."""

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"


@frozen
class Actor:
    """Who asked: a process as the kernel describes it. `loginuid` is None where nobody logged in."""

    uid: int
    gid: int
    pid: int
    exe: str
    cgroup: str
    loginuid: int | None

    @classmethod
    def this_process(cls) -> Actor:
        """This process; uid and gid are the real ones."""
        return cls.of_process(os.getpid(), *user_namespace.caller())

    @classmethod
    def of_process(cls, pid: int, uid: int, gid: int) -> Actor:
        """The process `pid` with the `uid` and `gid` of SO_PEERCRED, while its pidfd is held.

        What /proc does not tell of it (any more) is empty.
        """
        try:
            exe = printable(os.readlink(f"{paths.PROC}/{pid}/exe"))[: limits.AUDIT_TEXT]
        except OSError:
            exe = ""
        loginuid = _first_line(f"{paths.PROC}/{pid}/loginuid")
        number = int(loginuid) if loginuid.isdigit() else _NO_LOGINUID
        lines = _lines(f"{paths.PROC}/{pid}/cgroup")
        cgroup = next((line[3:] for line in lines if line.startswith("0::")), "")
        return cls(uid, gid, pid, exe, cgroup[: limits.AUDIT_TEXT], None if number == _NO_LOGINUID else number)

    def members(self) -> dict[str, Any]:
        """As in a record."""
        return {
            "uid": self.uid,
            "gid": self.gid,
            "pid": self.pid,
            "exe": self.exe,
            "cgroup": self.cgroup,
            "loginuid": self.loginuid,
        }


@frozen
class Domain:
    """The domain that an operation is for, as far as it is known."""

    id: int | None = None
    uuid: str | None = None
    name: str | None = None

    def members(self) -> dict[str, Any]:
        """As in a record."""
        return {"id": self.id, "uuid": _text(self.uuid), "name": _text(self.name)}


@frozen
class Entry:
    """A record that has no place in a chain yet; times in nanoseconds; `body` is all but seq and hashes."""

    event: Event
    wall: int
    monotonic: int
    body: bytes

    def line(self, seq: int, prev: str) -> tuple[bytes, str]:
        """The line at this place of a chain, and its hash."""
        head = b'{"seq":%d,%b,"prev":"%b"' % (seq, self.body, prev.encode())
        digest = sha256(head).hexdigest()
        return b'%b,"hash":"%b"}\n' % (head, digest.encode()), digest


def _text(value: str | None) -> str | None:
    return None if value is None else printable(value)[: limits.AUDIT_TEXT]


def _lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a small file, printable; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return [printable(line) for line in file.read(_PROC_BYTES).splitlines()]
    except OSError:
        return []


def _first_line(path: str | os.PathLike[str]) -> str:
    return next(iter(_lines(path)), "")


def boot_id() -> str:
    """The kernel's id of this boot; empty where it has none."""
    return _first_line(paths.BOOT_ID)


def machine_id() -> str | None:
    """machine-id(5) of this host."""
    return _first_line(paths.MACHINE_ID) or None


def rfc3339(wall: int) -> str:
    """`wall` in nanoseconds since 1970 as RFC 3339 UTC with microseconds: text of one width, in the order of time."""
    seconds, rest = divmod(wall, _NANOSECONDS)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"


def cleaned(value: Any) -> Any:
    """`value` with every text in it printable and of bounded length, as records hold them."""
    match value:
        case str() | bytes():
            return printable(value)[: limits.AUDIT_TEXT]
        case dict():
            return {printable(name): cleaned(inner) for name, inner in value.items()}
        case list() | tuple():
            return [cleaned(inner) for inner in value]
        case bool() | int() | float() | None:
            return value
        case enum.Enum():
            return value.value
        case os.PathLike():
            return printable(os.fsencode(value))[: limits.AUDIT_TEXT]
    raise TypeError(f"A record cannot hold a {type(value).__name__}.")


def make_entry(
    event: Event,
    *,
    boot: str,
    actor: Actor,
    operation: str | None = None,
    domain: Domain | None = None,
    outcome: Outcome = Outcome.OK,
    errno: str | None = None,
    detail: Detail | None = None,
) -> Entry:
    """A record of now. `errno` is its symbol, as "ENOSPC"; texts in `detail` are cleaned here."""
    wall, monotonic = time.time_ns(), time.monotonic_ns()
    members = {
        "time": rfc3339(wall),
        "monotonic": monotonic,
        "boot": boot,
        "operation": printable(operation)[: limits.AUDIT_TEXT] if operation else None,
        "actor": actor.members(),
        "event": event.value,
        "domain": None if domain is None else domain.members(),
        "outcome": outcome.value,
        "errno": errno,
        "detail": cleaned(detail or {}),
    }
    body = json.dumps(members, ensure_ascii=True, separators=(",", ":"))[1:-1].encode("ascii")
    if len(body) > limits.AUDIT_RECORD_BYTES:
        members["detail"] = {"left_out_bytes": len(body), "sha256": sha256(body).hexdigest()}
        body = json.dumps(members, ensure_ascii=True, separators=(",", ":"))[1:-1].encode("ascii")
    return Entry(event, wall, monotonic, body)


@frozen
class Place:
    """The place of a line in its chain, as its own text gives it."""

    seq: int
    prev: str
    hash: str


def place_of(line: bytes) -> Place | None:
    """The place of `line`, which ends with its line feed; None where it is no record or its hash is another's."""
    start, tail = _START.match(line), _TAIL.search(line, max(0, len(line) - _TAIL_BYTES))
    if start is None or tail is None:
        return None
    head = line[:-_TAIL_BYTES]
    prev = head[-_PREV_AT:]
    if not prev.startswith(b',"prev":"') or sha256(head).hexdigest().encode() != tail[1]:
        return None
    return Place(int(start[1]), prev[9:-1].decode("ascii", "replace"), tail[1].decode())
