# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens, looks at and closes disks in threads of their own: a hung file server must stop neither the event loop nor
the time-out. So does all else that waits for as long as somebody likes who is not trusted, such as closing an fd that a
helper or a client sent.

The threads are daemons, because one that hangs in a system call can be ended by nothing: the operation ends without it,
and what it opens in the end is closed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd

from .disks import open_disk


class NoThread(OperationFailed):
    """No thread could be started; nothing of the work was done."""

    code = "out-of-memory"


FoundT = TypeVar("FoundT")


async def open_disk_in_thread(disk: Path) -> Fd:
    """As `disks.open_disk`, and NoThread where there is none to be had; can be cancelled."""
    return await in_thread(lambda: open_disk(disk), Fd.close)


async def in_thread(work: Callable[[], FoundT], discard: Callable[[FoundT], None]) -> FoundT:
    """What `work` returns or raises, without waiting for it in this thread; can be cancelled.

    `discard` lets go of what `work` returns after a cancellation. Raises NoThread where there is none to be had.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    lock = threading.Lock()
    found: list[FoundT] = []
    failed: list[BaseException] = []
    given_up = False

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    def run() -> None:
        results: list[FoundT] = []
        errors: list[BaseException] = []
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits, whatever it is
            errors.append(error)
        with lock:
            if not given_up:
                found.extend(results)
                failed.extend(errors)
                with contextlib.suppress(RuntimeError):  # the loop may be gone by now
                    loop.call_soon_threadsafe(tell)
                return
        for result in results:
            discard(result)

    thread = threading.Thread(target=run, name="domward-open", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # how Python puts it that the kernel gives no thread
        raise NoThread("No thread could be started.") from error
    try:
        await ready
    except BaseException:
        # Whoever comes second lets go of it: no callback does, which a loop that ends would never call.
        with lock:
            given_up = True
        for result in found:
            discard(result)
        raise
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


async def close_disk(disk: Fd) -> None:
    """Closes a disk that `open_disk_in_thread` opened; one whose file server does not answer is left to its thread."""
    if disk.closed:
        return
    number = disk.detach()
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not closed.done():
            closed.set_result(None)

    def run() -> None:
        _close(number)
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(tell)

    thread = threading.Thread(target=run, name="domward-close", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread is to be had: better late than never
        _close(number)
        return
    if (await asyncio.wait([closed], timeout=limits.KILL_SECONDS))[0]:
        thread.join()


def close_in_thread(fd: Fd) -> None:
    """Closes an fd that a client or a helper sent: close(2) may wait for the file server that the file is on."""
    if fd.closed:
        return
    number = fd.detach()
    try:
        threading.Thread(target=_close, args=(number,), name="domward-close", daemon=True).start()
    except RuntimeError:  # no thread is to be had: better late than never
        _close(number)


def _close(number: int) -> None:
    """Closes; a file server that is gone by then makes that fail, but the number is free all the same."""
    with contextlib.suppress(OSError):
        os.close(number)
