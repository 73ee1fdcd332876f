# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon does for its counters by itself: looks how late the event loop is, and writes the text file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from domward.protocol.errors import DomwardError

from .metrics import Metrics, write_textfile
from .opening import in_thread
from .settings import Settings

_LOG = logging.getLogger("domward.metrics")
_LOOK_SECONDS = 0.5


class Measuring:
    """States: new -> running -> stopped. `settings` and `text` are asked each time, so that a reload takes effect."""

    def __init__(self, metrics: Metrics, settings: Callable[[], Settings], text: Callable[[], str]) -> None:
        self._metrics = metrics
        self._settings = settings
        self._text = text
        self._tasks: list[asyncio.Task[None]] = []
        self._failing = False

    def start(self) -> None:
        """Begins."""
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._write())]

    async def stop(self) -> None:
        """Ends, after a last text. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await self._write_once()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK_SECONDS
            await asyncio.sleep(_LOOK_SECONDS)
            self._metrics.loop_delay.observe(max(0.0, loop.time() - due))

    async def _write(self) -> None:
        while True:
            await self._write_once()
            await asyncio.sleep(self._settings().of("metrics", "seconds"))

    async def _write_once(self) -> None:
        """Writes the file where one is wanted; a failure is logged once until it works again."""
        path: Path | None = self._settings().of("metrics", "file")
        if path is None:
            return
        text = self._text()
        try:
            await in_thread(lambda: write_textfile(path, text), lambda _written: None)
            self._failing = False
        except DomwardError as error:
            if not self._failing:
                _LOG.warning("%s", error)
            self._failing = True
