# SPDX-License-Identifier: GPL-3.0-or-later
"""A supervisor in a thread of its own, for applications with threads: called from any of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable

from domward.protocol.errors import UsageError

from .config import Config
from .forks import Birthplace
from .hosted_operations import Asking
from .supervisor import Supervisor


class ThreadedSupervisor(Asking):
    """A supervisor that any thread of the process may call.

    States: new -> open -> closed. `with ThreadedSupervisor(config) as supervisor` opens and closes it. Callbacks of
    operations are called in the supervisor's thread, and everything waits while one runs; they may ask for operations
    and cancel them, but not wait for one or close the supervisor. No lock is held while one is called.
    """

    def __init__(self, config: Config | None = None) -> None:
        Supervisor(config)  # the same argument, the same check, in the caller's thread
        self._config = config
        self._birthplace = Birthplace()
        self._lock = threading.Lock()  # over _loop and _closed: what is posted before the end is posted, is done
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        # A daemon: where the application ends without `close`, the kernel ends launcher and helpers with it.
        self._thread = threading.Thread(target=self._work, name="domward", daemon=True)
        self._end = asyncio.Event()

    def open(self) -> None:
        """Starts the thread and the launcher, and waits until it is ready. Raises as `Supervisor.open`."""
        self._birthplace.require("The supervisor")
        with self._lock:
            if self._closed or self._thread.ident is not None:
                raise UsageError("A supervisor is opened once.")
            self._thread.start()
        try:
            self._opened.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels what runs, waits for its end and the thread's, and releases everything. Idempotent."""
        self._birthplace.require("The supervisor")
        if threading.current_thread() is self._thread:
            raise UsageError("A callback cannot close the supervisor that calls it.")
        with self._lock:
            first, self._closed = not self._closed, True
            if first and self._loop is not None:
                self._loop.call_soon_threadsafe(self._end.set)
        if self._thread.ident is not None:
            self._thread.join()
            if first and self._opened.exception() is None:
                self._ended.result()

    def _work(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # noqa: BLE001 - carried over to whoever closes it, whatever it is
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _live(self) -> None:
        self._supervisor = Supervisor(self._config)
        try:
            await self._supervisor.open()
        except BaseException as error:  # noqa: BLE001 - carried over to whoever opens it, whatever it is
            self._opened.set_exception(error)
            return
        with self._lock:
            self._loop = asyncio.get_running_loop()
            if self._closed:  # `open` was interrupted
                self._end.set()
        self._opened.set_result(None)
        await self._end.wait()
        await self._supervisor.close()

    def _post(self, call: Callable[[], None]) -> None:
        self._birthplace.require("The supervisor")
        with self._lock:
            if self._loop is None or self._closed:
                raise UsageError("The supervisor is not open.")
            self._loop.call_soon_threadsafe(call)
