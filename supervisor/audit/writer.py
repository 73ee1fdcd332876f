# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that puts records on the disk: whatever waits when it comes around shares one fdatasync.

States: new -> running -> closed. The thread is started with the first record. It is a daemon thread, because one that
hangs in a system call on a dead disk can be ended by nothing: who waits for a record gives up after
limits.AUDIT_SECONDS, and so does `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence

from domward.protocol import limits
from domward.protocol.errors import AuditUnavailable, DomwardError, OperationFailed

from .log import AuditLog, Written
from .record import Entry

Mirror = Callable[[AuditLog, Sequence[Written]], None]
_Waiting = tuple[Entry, "asyncio.Future[None]"]


class Writer:
    """Writes to `log`, which it owns, in a thread of its own.

    `mirror` is called there with what is on the disk, and with nothing at the end; it must not raise.
    """

    def __init__(self, log: AuditLog, mirror: Mirror) -> None:
        self._log = log
        self._mirror = mirror
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def submit(self, entry: Entry) -> asyncio.Future[None]:
        """Takes `entry`. The future is done once it is on the disk, or has AuditUnavailable or OperationFailed."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closing or len(self._waiting) >= limits.AUDIT_PENDING:
            why = "is closed" if self._closing else "does not keep up"
            _settle([(entry, future)], AuditUnavailable(f"The audit log {why}."))
            return future
        try:
            self._start()
        except RuntimeError:  # how Python puts it that the kernel gives no thread
            error = OperationFailed("No thread could be started for the audit log.", code="out-of-memory")
            _settle([(entry, future)], error)
            return future
        with self._wake:
            self._waiting.append((entry, future))
            self._wake.notify()
        return future

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="domward-audit", daemon=True)
            thread.start()
            self._thread = thread

    async def close(self) -> None:
        """Writes what waits, and ends the thread. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.wait([self._ended], timeout=limits.AUDIT_SECONDS)
            if self._ended.done():
                self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            error: DomwardError | None = None
            written: Sequence[Written] = ()
            try:
                written = self._log.append([entry for entry, _ in batch])
            except DomwardError as caught:
                error = caught
            except MemoryError:
                error = OperationFailed("domward ran out of memory.", code="out-of-memory")
            except Exception as caught:  # noqa: BLE001 - whoever waits for the record must hear of any defect here
                error = AuditUnavailable(f"The audit log has a defect: {type(caught).__name__}: {caught}.")
            self._post(_settle, batch, error)
            if written:
                self._mirror(self._log, written)
        self._mirror(self._log, ())
        self._log.close()
        self._post(self._end)

    def _next(self) -> list[_Waiting]:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closing)
            batch = list(self._waiting)
            self._waiting.clear()
            return batch

    def _post(self, call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            self._loop.call_soon_threadsafe(call, *arguments)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def _settle(batch: Sequence[_Waiting], error: DomwardError | None) -> None:
    for _entry, future in batch:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            # One for each: whoever catches it puts the operation's name into it.
            future.set_exception(type(error)(error.sentence, advice=error.advice, code=error.code))
            future.exception()  # looked at: nobody need be waiting
