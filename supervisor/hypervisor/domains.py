# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a domain, as xenstore tells it: while work for a domain is under way, the domain may be destroyed.

A domain's folder is made before its bootloader runs and removed with the domain; whether xenstored was introduced to
the domain says nothing yet at that time. libxl looks at the same folder (libxl_event.c, domain death).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from domward.protocol.errors import OperationCancelled

from .. import paths
from .xenstore import Xenstore
from .xenstore_wire import XenstoreLost

ResultT = TypeVar("ResultT")


async def gone(store: Xenstore, domid: int) -> None:
    """Returns once there is no domain `domid`, at once where there is none. Goes on when xenstored is restarted."""
    folder = f"{paths.XENSTORE_DOMAINS}/{domid}"
    while True:
        try:
            async with store.watch(folder) as changes:
                while True:
                    await changes.next()
                    if await store.read(folder) is None:
                        return
        except XenstoreLost:
            await store.connected()


async def unless_gone(store: Xenstore, domid: int, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled, and its end awaited, where the domain goes before.

    Raises OperationCancelled then.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(gone(store, domid))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        watching.result()
        raise OperationCancelled(f"Domain {domid} is gone.")
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait([working, watching])
