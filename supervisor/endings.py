# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases that are brought to their end although whoever awaits them is cancelled meanwhile, once or several times."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_its_end(release: Coroutine[Any, Any, None]) -> None:
    """Awaits all of `release`; then raises its error, or else the cancellation that came meanwhile."""
    task = asyncio.ensure_future(release)
    cancelled = await ended(task)
    task.result()
    if cancelled is not None:
        raise cancelled


async def ended(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Waits until `task` is done, whatever cancels the waiter; returns the last cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
