# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGINT, SIGTERM and SIGHUP: from a command's first line to its last, each is a wish to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType

from domward.protocol.errors import OperationCancelled
from domward.protocol.typed import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ResultT = TypeVar("ResultT")


@contextlib.contextmanager
def as_keyboard_interrupt() -> Iterator[None]:
    """Each of SIGNALS raises KeyboardInterrupt meanwhile, also one that was blocked and has come before.

    One that is ignored stays so, as nohup(1) wants it.
    """
    with _handled(_raise):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        yield


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """As asyncio.run; each of SIGNALS cancels `work`, however often it comes, and the end of `work` is awaited.

    Raises OperationCancelled where `work` let that pass.
    """
    import asyncio  # who runs no loop does without what it takes to load

    async def cancelled_by_signals() -> ResultT:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def cancel(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(task.cancel)  # the call that also wakes the loop

        # Not loop.add_signal_handler: removing such a handler leaves the signal with its default, death, for a moment.
        with _handled(cancel):
            return await work

    try:
        return asyncio.run(cancelled_by_signals())
    except asyncio.CancelledError:
        raise OperationCancelled("Interrupted.") from None


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """SIGNALS wait until the end of this: for a few system calls that belong together."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def refuse() -> None:
    """SIGNALS wait from now on: the program has done what it was for, and ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
