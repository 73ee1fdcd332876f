# SPDX-License-Identifier: GPL-3.0-or-later
"""A supervisor inside an application that has an event loop of its own: one fd to poll, and one call."""

from __future__ import annotations

from collections.abc import Callable

from domward.protocol.errors import UsageError

from .config import Config
from .forks import Birthplace
from .hosted_operations import Asking
from .pumped_loop import PumpedLoop
from .supervisor import Supervisor


class HostedSupervisor(Asking):
    """A supervisor whose work is done in `process`, which the application calls when `fileno` is readable.

    States: new -> open -> closed. `with HostedSupervisor(config) as supervisor` opens and closes it; these two calls
    wait, for the launcher's start and for the end of what runs; no other call does. All calls come from one thread and
    one process, else UsageError. Callbacks of operations (`add_done_callback`, `on_progress`) are called within
    `process` and `close`; they may ask for operations and cancel them, but not call these two.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._birthplace = Birthplace()
        self._supervisor = Supervisor(config)
        self._pumped: PumpedLoop | None = None
        self._closed = False

    def open(self) -> None:
        """Starts the launcher and waits until it is ready. Raises as `Supervisor.open`; then it is closed."""
        self._birthplace.require("The supervisor")
        if self._pumped is not None or self._closed:
            raise UsageError("A supervisor is opened once.")
        self._birthplace = Birthplace()  # its thread is the one in which it is opened
        self._pumped = PumpedLoop()
        try:
            self._pumped.finish(self._supervisor.open)
        except BaseException:
            self._closed = True
            self._pumped.close()
            raise

    def close(self) -> None:
        """Cancels what runs, waits for its end, and releases everything. Idempotent."""
        self._birthplace.require_thread("The supervisor")
        if self._pumped is None or self._closed:
            self._closed = True
            return
        self._pumped.finish(self._end)
        self._pumped.close()

    async def _end(self) -> None:
        self._closed = True
        await self._supervisor.close()

    def fileno(self) -> int:
        """An fd that is readable whenever `process` has something to do, deadlines included. Poll it for input only."""
        return self._open().fileno()

    def process(self) -> None:
        """Does what there is to do, for some milliseconds at most, and returns without waiting."""
        self._open().pump()

    def _post(self, call: Callable[[], None]) -> None:
        self._open().loop.call_soon_threadsafe(call)  # this kind, because it makes the fd readable

    def _open(self) -> PumpedLoop:
        self._birthplace.require_thread("The supervisor")
        if self._pumped is None or self._closed:
            raise UsageError("The supervisor is not open.")
        return self._pumped
