# SPDX-License-Identifier: GPL-3.0-or-later
"""A bootloader operation for a domain of this host ends with the domain, and no helper has a handle of xenstored's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.xenstored import Xenstored, xenstored

from domward.protocol.errors import OperationCancelled
from domward.supervisor import BootRequest, Config, Console, Supervisor
from domward.supervisor.audit.record import Domain
from domward.supervisor.hypervisor.xenstore_wire import Kind, XenstoreLost

DOMAIN = "/local/domain/7"


@asynccontextmanager
async def with_domain(folder: Path) -> AsyncIterator[tuple[Xenstored, Supervisor]]:
    async with xenstored(folder / "socket") as store:
        store.change(f"{DOMAIN}/name", b"db")
        async with Supervisor(Config(xenstore=folder / "socket")) as supervisor:
            yield store, supervisor


def test_a_domain_that_lives_gets_its_kernel(disk: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with with_domain(tmp_path) as (store, supervisor):
            result = await supervisor.run_bootloader(BootRequest(disk=disk, domain=Domain(id=7)))
            result.close()
            assert Kind.WATCH in store.asked
            asked = len(store.asked)
            (await supervisor.run_bootloader(BootRequest(disk=disk))).close()
            assert len(store.asked) <= asked + 1, "an operation for no domain looks at none, after the other's UNWATCH"

    asyncio.run(main())


def test_a_domain_that_dies_while_its_menu_waits_ends_the_operation(disk: Path, tmp_path: Path) -> None:
    async def main() -> None:
        master, slave = os.openpty()
        try:
            async with with_domain(tmp_path) as (store, supervisor):
                request = BootRequest(disk=disk, domain=Domain(id=7), console=Console(slave, slave), menu_timeout=600)
                operation = supervisor.bootloader_operation(request)
                menu = asyncio.Event()
                operation.on_progress(lambda step: menu.set() if step == "menu" else None)
                operation.start()
                await menu.wait()
                without_xenstore(store, supervisor)
                store.change(DOMAIN, None)
                with pytest.raises(OperationCancelled, match=r"Domain 7 is gone\."):
                    await operation.wait()
        finally:
            os.close(master)
            os.close(slave)

    asyncio.run(main())


def without_xenstore(store: Xenstored, supervisor: Supervisor) -> None:
    """The supervisor has its one connection to xenstored; its launcher and its helpers have no part of it."""
    assert supervisor._xenstore is not None
    mine = os.readlink(f"/proc/self/fd/{supervisor._xenstore.fileno()}")
    assert len(store.connections) == 1
    children = {pid for task in os.listdir("/proc/self/task") for pid in _children(task)}
    assert len(children) >= 3, "a launcher, a relay and a reader"
    for pid in children:
        links = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
        assert mine not in links


def _children(task: str) -> list[str]:
    return Path(f"/proc/self/task/{task}/children").read_text().split()


def test_a_domain_that_is_gone_already(disk: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with with_domain(tmp_path) as (_store, supervisor):
            with pytest.raises(OperationCancelled, match=r"Domain 8 is gone\."):
                await supervisor.run_bootloader(BootRequest(disk=disk, domain=Domain(id=8)))

    asyncio.run(main())


def test_a_host_without_xenstored_is_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(XenstoreLost, match="xenstored cannot be reached"):
            async with Supervisor(Config(xenstore=tmp_path / "none")):
                pass

    asyncio.run(main())
