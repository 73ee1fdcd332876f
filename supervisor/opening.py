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

from domward.protocol.fds import Fd

from .disks import open_disk


async def open_disk_in_thread(disk: Path) -> Fd:
    """As `disks.open_disk`; can be cancelled."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Fd] = loop.create_future()

    def deliver(result: Fd | BaseException) -> None:
        if opened.done():
            if isinstance(result, Fd):
                result.close()
        elif isinstance(result, Fd):
            opened.set_result(result)
        else:
            opened.set_exception(result)

    def work() -> None:
        result: Fd | BaseException
        try:
            result = open_disk(disk)
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits, whatever it is
            result = error
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(deliver, result)
            return
        if isinstance(result, Fd):
            result.close()

    thread = threading.Thread(target=work, name="domward-open", daemon=True)
    thread.start()
    fd = await opened
    thread.join()
    return fd
