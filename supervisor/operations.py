# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations: the long-running calls of a supervisor, each with exactly one completion.

States: new -> running -> ending -> done, in the table life_cycle.OPERATION. `start` moves to running; the body's end
(result, error, time-out or cancel) to ending, in which everything in `scope` is released in reverse order; only then
is it done and do waiters see the completion. By cases:

- the completion is delivered once, after `start` returned, however quickly the body ends
- `cancel` while running ends the body at its await; while ending or done it does nothing
- a waiter that goes away disturbs nobody; a waiter that comes late gets the same completion
- progress reaches listeners in order, and none after the completion
- an error that is not of the tree in protocol/errors is a defect: logged with its traceback, shown as OperationFailed
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Generic, TypeVar

from domward.protocol.errors import DomwardError, OperationCancelled, OperationFailed, OperationTimedOut, UsageError

from .endings import to_its_end
from .forks import Birthplace
from .life_cycle import OPERATION, OperationEvent, OperationState, Reaction

_LOG = logging.getLogger("domward.operation")

ResultT = TypeVar("ResultT")


class Operation(Generic[ResultT]):
    """One operation. `body(operation)` does the work and puts what it acquires into `operation.scope`.

    `seconds` is the wall-clock budget of the body, above 0, or None without one. `conclude` is awaited with the error,
    or None, once all is released and before anybody sees the completion; where it raises, that is the operation's
    error. `discard` closes a result that nobody will get because the release of the scope or `conclude` failed.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[Operation[ResultT]], Awaitable[ResultT]],
        seconds: float | None,
        discard: Callable[[ResultT], None],
        conclude: Callable[[DomwardError | None], Awaitable[None]] | None = None,
    ) -> None:
        self.id = f"{name}-{os.urandom(6).hex()}"
        self.state = OperationState.NEW
        self.scope = AsyncExitStack()
        self._body = body
        self._seconds = seconds
        self._discard = discard
        self._conclude = conclude
        self._cancel_asked = False
        self._begun = False
        self._task: asyncio.Task[None] | None = None
        self._completion: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._listeners: list[Callable[[str], None]] = []
        self._birthplace = Birthplace()

    def start(self) -> None:
        """Begins. Raises UsageError for an operation that was started before."""
        self._happened(OperationEvent.START)

    def cancel(self) -> None:
        """Asks it to end; the completion is then OperationCancelled, unless it was ending anyway."""
        self._happened(OperationEvent.CANCEL)

    def _happened(self, event: OperationEvent) -> None:
        """Does what the table says about `event`. Raises UsageError where it refuses."""
        self._birthplace.require_thread(f"Operation {self.id}")
        reaction, state = OPERATION[self.state][event]
        if reaction is Reaction.REFUSE:
            raise UsageError(f"Operation {self.id} was started already: it is {self.state.value}.")
        assert reaction is not Reaction.IMPOSSIBLE
        self.state = state
        match reaction:
            case Reaction.RUN | Reaction.RUN_CANCELLED:
                self._cancel_asked = reaction is Reaction.RUN_CANCELLED
                self._task = asyncio.get_running_loop().create_task(self._run(), name=self.id)
            case Reaction.INTERRUPT if not self._cancel_asked:
                self._cancel_asked = True
                assert self._task is not None
                # A task that is cancelled before its first step never runs at all, and then nothing would complete.
                if self._begun:
                    self._task.cancel()
            case Reaction.RELEASE | Reaction.COMPLETE | Reaction.INTERRUPT | Reaction.NOTHING:
                return  # _run, whose step it is, goes on

    async def wait(self) -> ResultT:
        """The result, or the error raised. The caller's own cancellation does not touch the operation."""
        return await asyncio.shield(self._completion)

    def result(self) -> ResultT:
        """The result of an operation that is done, or its error raised. Raises UsageError where it is not done."""
        if not self._completion.done():
            raise UsageError(f"Operation {self.id} is not done yet.")
        return self._completion.result()

    async def complete(self) -> ResultT:
        """Starts it and waits. If the caller is cancelled, so is the operation, whose end is awaited first."""
        self.start()
        try:
            return await self.wait()
        except asyncio.CancelledError:
            self.cancel()
            while not self._completion.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([self._completion])
            if self._completion.exception() is None:
                self._discard(self._completion.result())
            raise

    def on_done(self, listener: Callable[[Operation[ResultT]], None]) -> None:
        """Calls `listener` once, when the operation is done."""
        self._completion.add_done_callback(lambda _future: listener(self))

    def on_progress(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with each step's name from now on."""
        self._listeners.append(listener)

    def report(self, step: str) -> None:
        """Tells the listeners that `step` begins; nothing once the operation is ending or was asked to."""
        if self.state is OperationState.RUNNING and not self._cancel_asked:
            for listener in [*self._listeners]:
                listener(step)

    async def _run(self) -> None:
        result: ResultT | None = None
        error: DomwardError | None = None
        self._begun = True
        try:
            if self._cancel_asked:
                raise asyncio.CancelledError
            async with asyncio.timeout(self._seconds):
                result = await self._body(self)
        except BaseException as caught:
            if not self._birthplace.here:
                raise  # a forked child lets go of its copy of this, and nothing here is that process's to end
            error = self._classify(caught)
        self._happened(OperationEvent.BODY_ENDED)
        release_error = await self._settled(self.scope.aclose())
        error = error or release_error
        if self._conclude is not None:
            conclude_error = await self._settled(self._conclude(error))
            error = error or conclude_error
        if error is not None and result is not None:
            self._discard(result)
        self._happened(OperationEvent.RELEASED)
        self._listeners.clear()
        if error is not None:
            error.operation = error.operation or self.id
            self._completion.set_exception(error)
            self._completion.exception()  # looked at: nobody need be waiting
        else:
            assert result is not None
            self._completion.set_result(result)

    async def _settled(self, last: Awaitable[None]) -> DomwardError | None:
        """Awaits all of a `last` step even if this task is cancelled meanwhile; returns what went wrong."""
        try:
            await to_its_end(_as_coroutine(last))
        except asyncio.CancelledError:
            return None  # it was done all the same, and how the body ended stands
        except BaseException as caught:  # noqa: BLE001 - as in _run
            return self._classify(caught)
        return None

    def _classify(self, caught: BaseException) -> DomwardError:
        if isinstance(caught, DomwardError):
            return caught
        if isinstance(caught, TimeoutError):
            return OperationTimedOut(f"The operation did not end within {self._seconds:g} seconds.")
        if isinstance(caught, asyncio.CancelledError):
            return OperationCancelled("The operation was cancelled.")
        if isinstance(caught, MemoryError):
            return OperationFailed("The supervisor ran out of memory.", code="out-of-memory")
        if isinstance(caught, OSError):
            reason = errno.errorcode.get(caught.errno or 0, "unknown")
            return OperationFailed(f"A system call of the supervisor failed: {caught.strerror} ({reason}).")
        _LOG.error("%s: unexpected error", self.id, exc_info=caught)
        return OperationFailed(f"domward has a defect: an unexpected {type(caught).__name__}.")


async def _as_coroutine(step: Awaitable[None]) -> None:
    await step
