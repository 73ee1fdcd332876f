# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay between a bootloader's pty and a console: a datacopier helper and the log that it writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass

from domward.protocol import limits
from domward.protocol.channel import ChannelClosed
from domward.protocol.errors import HelperError, OperationCancelled, OperationFailed, ProtocolViolation, UsageError
from domward.protocol.fds import Fd
from domward.protocol.messages import Copied, Copy, CopyFilter, CopyOutcome, CopySide, HelperKind, StopCopy

from .helper import Helper, HelperHost
from .helper_states import HelperState
from .sinks import open_sink

_LARGEST = 1000  # columns or rows, as the messages take them


@dataclass(frozen=True, slots=True)
class Console:
    """Where a person sits: fd numbers that stay the caller's, and the size in characters."""

    input: int
    output: int
    columns: int = 80
    rows: int = 24

    def __post_init__(self) -> None:
        for name in ("input", "output", "columns", "rows"):
            if type(getattr(self, name)) is not int:
                raise UsageError(f"A console's {name} must be an integer, not {type(getattr(self, name)).__name__}.")
        if self.input < 0 or self.output < 0:
            raise UsageError(f"A console's fds must be 0 or more, not {self.input} and {self.output}.")
        if not (0 < self.columns <= _LARGEST and 0 < self.rows <= _LARGEST):
            raise UsageError(f"A console has 1 to {_LARGEST} columns and rows, not {self.columns} and {self.rows}.")

    def require_open(self) -> None:
        """Raises UsageError where one of the fds is not open: its number would soon be that of one of ours."""
        for number in (self.input, self.output):
            try:
                os.fstat(number)
            except OSError as error:
                raise UsageError(f"The console's fd {number} cannot be used: {error.strerror}.") from None


class Relay:
    """One datacopier at work. `start`, then `wait`, `finish`, `close`. Owns the helper, and a log not given to it."""

    def __init__(self, host: HelperHost, operation: str) -> None:
        self._host = host
        self._helper = Helper(HelperKind.DATACOPIER, operation, host)
        self._log: Fd | None = None
        self._own_log: Fd | None = None

    @property
    def helper(self) -> Helper:
        """The helper."""
        return self._helper

    async def start(self, master: Fd, console: Console, log: Fd | None = None) -> None:
        """Relays between `master` and `console`; both stay the caller's, and so does a `log` to append to."""
        if log is None:
            log = self._own_log = open_sink("console log")
        self._log = log
        log_bytes = self._host.config.budgets.log_bytes
        await self._helper.start(log_bytes + limits.TEXT_BYTES)
        order = Copy(
            both=True,
            logged=True,
            log_bytes=log_bytes,
            limit_bytes=0,
            prefix=b"",
            filter=CopyFilter.TERMINAL,
        )
        with _copy_of(console.output) as output, _copy_of(console.input) as keys:
            await self._helper.order(HelperState.COPYING, order, [master, output, keys, master, log])

    async def wait(self) -> Copied:
        """The relay's one outcome."""
        received = await self._helper.receive()
        assert isinstance(received.message, Copied)
        return received.message

    def stop(self) -> None:
        """Asks it to end. One that has just ended by itself, or does not read, is seen to by who waits for its end."""
        with contextlib.suppress(ChannelClosed, HelperError):
            self._helper.send(StopCopy())

    async def finish(self, ending: asyncio.Task[Copied]) -> bytes:
        """Once the bootloader is dead: waits until everything is shown, and returns the log."""
        grace = self._host.config.budgets.term_grace_seconds
        if not (await asyncio.wait([ending], timeout=grace))[0]:
            self.stop()
        outcome = await ending
        await self._helper.ended()
        assert self._log is not None
        log = os.pread(self._log.fileno(), self._host.config.budgets.log_bytes + limits.TEXT_BYTES, 0)
        if outcome.logged > len(log):
            raise ProtocolViolation("The relay's log is shorter than it says.", helper=self._helper.name)
        return log

    async def close(self) -> None:
        """Ends the helper and closes a log of its own. Idempotent."""
        await self._helper.close()
        if self._own_log is not None:
            self._own_log.close()


def ended_early(outcome: Copied) -> OperationCancelled | OperationFailed:
    """The error for a relay that ended while the bootloader still needed it."""
    if outcome.side is CopySide.CONSOLE and outcome.outcome in (CopyOutcome.HANGUP, CopyOutcome.WRITE_ERROR):
        return OperationCancelled("The console went away.")
    reason = f": {os.strerror(outcome.errno)}" if outcome.errno else ""
    return OperationFailed(f"The console relay ended early ({outcome.outcome.value}, {outcome.side.value}){reason}.")


def _copy_of(number: int) -> Fd:
    try:
        return Fd(os.dup(number), "console")
    except OSError as error:
        raise UsageError(f"The console's fd {number} cannot be used: {error.strerror}.") from None
