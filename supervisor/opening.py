# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens disks in threads of their own: a hung file server must stop neither the event loop nor the time-out.

The threads are daemons, because one that hangs in open(2) can be ended by nothing: the operation ends without it, and
what it opens in the end is closed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd

from .disks import open_disk


async def open_disk_in_thread(disk: Path) -> Fd:
    """As `disks.open_disk`, and OperationFailed where there is no thread to be had; can be cancelled."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    lock = threading.Lock()
    found: list[Fd | BaseException] = []
    given_up = False

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    def work() -> None:
        result: Fd | BaseException
        try:
            result = open_disk(disk)
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits, whatever it is
            result = error
        with lock:
            if not given_up:
                found.append(result)
                with contextlib.suppress(RuntimeError):  # the loop may be gone by now
                    loop.call_soon_threadsafe(tell)
                return
        if isinstance(result, Fd):
            result.close()

    thread = threading.Thread(target=work, name="domward-open", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # how Python puts it that the kernel gives no thread
        raise OperationFailed("No thread could be started to open the disk.", code="out-of-memory") from error
    try:
        await ready
    except BaseException:
        # Whoever comes second closes the fd: no callback does, which a loop that ends would never call.
        with lock:
            given_up = True
        for result in found:
            if isinstance(result, Fd):
                result.close()
        raise
    thread.join()
    (result,) = found
    if isinstance(result, Fd):
        return result
    raise result
