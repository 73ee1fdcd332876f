# SPDX-License-Identifier: GPL-3.0-or-later
"""Audit logs for tests: written by the program itself, with records as operations make them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from domward.protocol import limits
from domward.supervisor.audit.log import AuditLog
from domward.supervisor.audit.record import Actor, Detail, Domain, Entry, Event, Outcome, make_entry

ACTOR = Actor(0, 0, 4711, "/usr/bin/domward", "/system.slice/domwardd.service", 1000)
GUEST = Domain(7, "c0ffee00-0000-4000-8000-000000000007", "db-1")
BOOT = "11111111-2222-4333-8444-555555555555"
LAYERS = ["user", "groups", "mount-namespace", "seccomp"]
SHA = "ab" * 32


def entry(event: Event, operation: str = "boot-0", outcome: Outcome = Outcome.OK, **detail: Any) -> Entry:
    """A record of now."""
    told: Detail = detail
    return make_entry(event, boot=BOOT, actor=ACTOR, operation=operation, domain=GUEST, outcome=outcome, detail=told)


def operation(number: int) -> list[Entry]:
    """The records of one operation; every tenth one is refused."""
    name = f"boot-{number:012x}"
    begun = [entry(Event.REQUEST, name, disk=f"/guests/{number}.img", entry=None, args=None, console=False)]
    if number % 10 == 9:
        code, sentence = "refused", "It may not be read by this user."
        return [
            *begun,
            entry(Event.REFUSAL, name, Outcome.REFUSED, code=code, sentence=sentence, helper=None),
            entry(Event.COMPLETION, name, Outcome.REFUSED, code=code),
        ]
    helper = f"bootloader {5000 + number}"
    disk = {"name": "disk", "kind": "file", "device": "8:1", "inode": 11, "mode": "100600", "access": "read-only",
            "number": None, "bytes": 1 << 30}  # fmt: skip
    started = {"helper": helper, "kind": "bootloader", "pid": 5000 + number, "uid": 1_900_000_000 + number}
    return [
        *begun,
        entry(Event.HELPER_STARTED, name, **started, layers=LAYERS, verified=LAYERS, without=[]),
        entry(Event.FDS_PASSED, name, helper=helper, order="read-boot", fds=[disk]),
        entry(Event.RESULT, name, title=b"Debian", args=b"ro", source="grub:0:/boot/grub/grub.cfg",
              kernel={"bytes": 65536, "sha256": SHA}, ramdisk=None),
        entry(Event.COMPLETION, name),
    ]  # fmt: skip


@contextmanager
def opened(path: Path, *, alone: bool = False, file_bytes: int = limits.AUDIT_FILE_BYTES) -> Iterator[AuditLog]:
    """The log at `path`, closed in the end."""
    log = AuditLog(path, ACTOR, alone=alone, file_bytes=file_bytes)
    try:
        yield log
    finally:
        log.close()


def written_log(path: Path, operations: int = 4, file_bytes: int = limits.AUDIT_FILE_BYTES) -> Path:
    """A log at `path` with the records of so many operations; its folder is made."""
    path.parent.mkdir(mode=0o750, exist_ok=True)
    with opened(path, file_bytes=file_bytes) as log:
        for number in range(operations):
            log.append(operation(number))
    return path


def records(path: Path) -> list[dict[str, Any]]:
    """The records of `path`; lines that are none are left out."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def events(path: Path) -> list[str]:
    """The events of `path`, in their order."""
    return [record["event"] for record in records(path)]
