# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay between a bootloader's pty and a console: a datacopier helper and the log that it writes."""

from __future__ import annotations

import asyncio
import contextlib
import os

from domward.protocol import limits
from domward.protocol.channel import ChannelClosed
from domward.protocol.errors import HelperError, OperationCancelled, OperationFailed, ProtocolViolation, UsageError
from domward.protocol.fds import Fd
from domward.protocol.messages import Copied, Copy, CopyFilter, CopyOutcome, CopySide, HelperKind, StopCopy

from .console import Console
from .helper import Helper, HelperHost
from .helper_states import HelperState
from .paths import NULL_DEVICE
from .sinks import open_sink


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

    async def start(self, master: Fd, console: Console | None, log: Fd | None = None) -> None:
        """Relays between `master` and `console`; both stay the caller's, and so does a `log` to append to.

        Without a `console` only the log gets what comes, and nothing is ever typed.
        """
        if log is None:
            log = self._own_log = open_sink("console log")
        self._log = log
        log_bytes = self._host.config.budgets.log_bytes
        await self._helper.start(log_bytes + limits.TEXT_BYTES)
        order = Copy(
            both=console is not None,
            logged=True,
            log_bytes=log_bytes,
            limit_bytes=0,
            prefix=b"",
            filter=CopyFilter.TERMINAL,
        )
        if console is None:
            with Fd(os.open(NULL_DEVICE, os.O_WRONLY | os.O_CLOEXEC), "no console") as nowhere:
                await self._helper.order(HelperState.COPYING, order, [master, nowhere, log])
            return
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
