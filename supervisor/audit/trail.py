# SPDX-License-Identifier: GPL-3.0-or-later
"""What operations tell the audit log: one call for each thing that a record can say.

A record is on the disk before the effect that it announces: `record` waits for that. `note` does not wait; the next
`record` does for all before it, since records keep their order and one that cannot be written stops the later ones.
Without a log (`Config.audit_log` None) every call does nothing.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import (
    AuditUnavailable,
    ConfinementUnavailable,
    DomwardError,
    OperationCancelled,
    OperationTimedOut,
    ProtocolViolation,
    RefusedError,
)
from domward.protocol.fds import Fd

from ..opening import in_thread
from .log import AuditLog
from .mirrors import Mirrors
from .record import Actor, Detail, Domain, Event, Outcome, boot_id, make_entry
from .writer import Writer

_ACCESS = {os.O_RDONLY: "read-only", os.O_WRONLY: "write-only", os.O_RDWR: "read-write"}
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFBLK: "block-device",
    stat.S_IFCHR: "character-device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFDIR: "folder",
}
_UNNAMED_MEMORY = 0  # links of a memfd, which no folder names


class AuditTrail:
    """The records of one supervisor; those of one operation go through `operation`."""

    def __init__(self, path: Path | None, *, alone: bool = False, position: Fd | None = None) -> None:
        """`path` None writes nothing. `alone` and `position` are for a daemon: see `log.AuditLog`."""
        self._writer: Writer | None = None
        if path is not None:
            self.actor = Actor.this_process()
            self._boot = boot_id()
            self._writer = Writer(AuditLog(path, self.actor, alone=alone, position=position), Mirrors().send)

    @property
    def active(self) -> bool:
        """Whether there is a log."""
        return self._writer is not None

    def operation(self, operation: str, actor: Actor | None = None, domain: Domain | None = None) -> OperationTrail:
        """The records of `operation`, for `actor` (None: this process) and `domain`."""
        return OperationTrail(self, operation, actor, domain)

    def note(
        self,
        event: Event,
        detail: Detail | None = None,
        *,
        outcome: Outcome = Outcome.OK,
        symbol: str | None = None,
        operation: str | None = None,
        actor: Actor | None = None,
        domain: Domain | None = None,
    ) -> asyncio.Future[None] | None:
        """Makes a record and does not wait. The future, None without a log, is done when it is on the disk.

        `symbol` is that of an errno, as "ENOSPC".
        """
        if self._writer is None:
            return None
        return self._writer.submit(
            make_entry(
                event,
                boot=self._boot,
                actor=actor or self.actor,
                operation=operation,
                domain=domain,
                outcome=outcome,
                errno=symbol,
                detail=detail,
            )
        )

    async def record(
        self,
        event: Event,
        detail: Detail | None = None,
        *,
        outcome: Outcome = Outcome.OK,
        symbol: str | None = None,
        operation: str | None = None,
        actor: Actor | None = None,
        domain: Domain | None = None,
    ) -> None:
        """Makes a record and waits until it is on the disk. Raises AuditUnavailable, OperationFailed."""
        await written(
            self.note(event, detail, outcome=outcome, symbol=symbol, operation=operation, actor=actor, domain=domain)
        )

    async def close(self) -> None:
        """Writes what is left, and ends the thread. Idempotent."""
        if self._writer is not None:
            await self._writer.close()


class OperationTrail:
    """The records of one operation."""

    def __init__(self, trail: AuditTrail, operation: str, actor: Actor | None, domain: Domain | None) -> None:
        self._trail = trail
        self._operation = operation
        self._actor = actor
        self._domain = domain

    def note(
        self,
        event: Event,
        detail: Detail | None = None,
        *,
        outcome: Outcome = Outcome.OK,
        symbol: str | None = None,
    ) -> asyncio.Future[None] | None:
        """As `AuditTrail.note`."""
        return self._trail.note(
            event,
            detail,
            outcome=outcome,
            symbol=symbol,
            operation=self._operation,
            actor=self._actor,
            domain=self._domain,
        )

    async def record(
        self,
        event: Event,
        detail: Detail | None = None,
        *,
        outcome: Outcome = Outcome.OK,
        symbol: str | None = None,
    ) -> None:
        """As `AuditTrail.record`."""
        await written(self.note(event, detail, outcome=outcome, symbol=symbol))

    async def fds_passed(self, helper: str, order: str, fds: Iterable[Fd]) -> None:
        """Tells which of `fds` the `helper` gets with its `order`, before it gets them. Raises as `record`."""
        if self._trail.active:
            given = list(fds)
            # A client's disk may be on a file server that does not answer, and then not even fstat(2) returns.
            described = await in_thread(lambda: [_described(fd) for fd in given], lambda _described: None)
            await self.record(Event.FDS_PASSED, {"helper": helper, "order": order, "fds": described})

    def fds_received(self, helper: str, fds: Iterable[Fd]) -> None:
        """Tells which `fds` the `helper` sent, after they were checked."""
        if self._trail.active:
            self.note(Event.FDS_RECEIVED, {"helper": helper, "fds": [_described(fd) for fd in fds]})

    async def concluded(self, error: DomwardError | None) -> None:
        """The last record of the operation, and before it why it failed, where it did. Raises as `record`."""
        if not self._trail.active:
            return
        if error is None:
            await self.record(Event.COMPLETION)
            return
        outcome, symbol = outcome_of(error), symbol_of(error)
        self.note(event_of(error), described(error), outcome=outcome, symbol=symbol)
        await self.record(Event.COMPLETION, {"code": error.code}, outcome=outcome, symbol=symbol)


async def written(future: asyncio.Future[None] | None) -> None:
    """Waits until a noted record is on the disk. Raises AuditUnavailable, OperationFailed."""
    if future is None:
        return
    if not (await asyncio.wait([future], timeout=limits.AUDIT_SECONDS))[0]:
        raise AuditUnavailable(
            f"The audit log was not written within {limits.AUDIT_SECONDS:g} seconds.",
            advice="Give it a disk that answers.",
        )
    future.result()


def outcome_of(error: DomwardError) -> Outcome:
    """How an operation that ended with `error` came out."""
    match error:
        case RefusedError() | ConfinementUnavailable():
            return Outcome.REFUSED
        case OperationCancelled():
            return Outcome.CANCELLED
        case OperationTimedOut():
            return Outcome.TIMED_OUT
    return Outcome.FAILED


def event_of(error: DomwardError) -> Event:
    """The event that tells of `error`."""
    if isinstance(error, ProtocolViolation):
        return Event.PROTOCOL_VIOLATION
    return Event.REFUSAL if outcome_of(error) is Outcome.REFUSED else Event.FAILURE


def symbol_of(error: DomwardError) -> str | None:
    """The symbol of the errno behind `error`, as "ENOSPC"."""
    cause = error.__cause__
    return errno.errorcode.get(cause.errno or 0) if isinstance(cause, OSError) else None


def described(error: DomwardError) -> Detail:
    """What a record says of `error`."""
    return {"code": error.code, "sentence": error.sentence, "helper": error.helper or None}


def _described(fd: Fd) -> Detail:
    number = fd.fileno()
    found = os.fstat(number)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    if kind == "file" and found.st_nlink == _UNNAMED_MEMORY:
        kind = "memory"
    return {
        "name": fd.name,
        "kind": kind,
        "device": f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}",
        "inode": found.st_ino,
        "mode": f"{found.st_mode:06o}",
        "access": _ACCESS.get(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE, "other"),
        "number": f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if found.st_rdev else None,
        "bytes": found.st_size if kind == "file" else None,
    }
