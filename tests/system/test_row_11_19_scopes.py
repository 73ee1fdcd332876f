# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 11 and 19: what belongs to an operation or to the supervisor is released with it, whatever raises."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.protocol.errors import DomwardError, OperationFailed
from domward.supervisor import (
    BootRequest,
    BootResult,
    Budgets,
    Config,
    Console,
    Supervisor,
    bootloader,
    helper,
    ptys,
    relay,
)
from domward.supervisor.helper import Helper

CONFIG = Config(budgets=Budgets(term_grace_seconds=0.3))


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


def fds() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def children() -> set[str]:
    found: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        found.update(Path("/proc/self/task", task, "children").read_text().split())
    return found


@contextmanager
def console() -> Iterator[Console]:
    """A console whose keys never come and whose output is read by nobody."""
    master, slave = os.openpty()
    try:
        yield Console(slave, slave)
    finally:
        os.close(slave)
        os.close(master)


def held(supervisor: Supervisor) -> tuple[dict[str, str], set[str], int]:
    assert supervisor._leases is not None
    return fds(), children(), len(supervisor._leases._taken)


def test_row_11_what_an_operation_and_what_the_supervisor_owns_each_goes_with_its_owner(disk: Path) -> None:
    async def main() -> None:
        before = fds(), children()
        supervisor = Supervisor(CONFIG)
        await supervisor.open()
        (await supervisor.run_bootloader(BootRequest(disk=disk))).close()  # the hashing threads start once
        own = held(supervisor)
        assert own[0].keys() > before[0].keys()  # its epoll instance, its leases, the launcher's channel and pidfd
        assert len(own[1] - before[1]) == 1  # the launcher
        operation = supervisor.bootloader_operation(BootRequest(disk=disk))
        most: list[tuple[dict[str, str], set[str], int]] = []
        operation.on_progress(lambda _step: most.append(held(supervisor)))
        result = await operation.complete()
        assert max(len(seen[0]) for seen in most) > len(own[0])
        assert max(seen[2] for seen in most) == 1
        result.close()
        assert held(supervisor) == own
        await supervisor.close()
        assert (fds(), children()) == before

    asyncio.run(main())


# What the operation calls in the order of time; each raises in its turn.
STEPS: dict[str, tuple[Any, str]] = {
    "disk": (bootloader, "open_disk_in_thread"),
    "sink": (bootloader, "open_sink"),
    "pty": (ptys, "_check"),
    "relay-log": (relay, "open_sink"),
    "relay": (relay.Relay, "start"),
    "verification": (helper, "verify"),
    "answer": (Helper, "receive"),
    "order": (Helper, "order"),
    "end": (Helper, "ended"),
    "seal": (bootloader, "seal"),
    "hash": (bootloader, "hash_sealed"),
    "result": (bootloader, "SealedFile"),
    "log": (relay.Relay, "finish"),
}


@pytest.mark.parametrize("raised", [RuntimeError("planted"), MemoryError()], ids=repr)
@pytest.mark.parametrize("step", STEPS)
def test_row_19_a_step_that_raises_leaves_nothing_of_its_operation(
    step: str, raised: Exception, disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> Any:
        raise raised

    async def main() -> None:
        async with Supervisor(CONFIG) as supervisor:
            with console() as where:
                request = BootRequest(disk=disk, console=where, menu_timeout=0)
                own = held(supervisor)
                with monkeypatch.context() as patched:
                    patched.setattr(*STEPS[step], fail)
                    with pytest.raises(OperationFailed) as caught:
                        await supervisor.run_bootloader(request)
                assert caught.value.operation
                assert held(supervisor) == own

    asyncio.run(main())


def test_row_19_the_supervisor_goes_on_after_every_step_has_raised_once(
    disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_arguments: Any, **_named: Any) -> Any:
        raise ZeroDivisionError

    async def main() -> BootResult:
        async with Supervisor(CONFIG) as supervisor:
            for name in ("order", "receive", "ended"):
                with monkeypatch.context() as patched:
                    patched.setattr(Helper, name, fail)
                    with pytest.raises(DomwardError):
                        await supervisor.run_bootloader(BootRequest(disk=disk))
            return await supervisor.run_bootloader(BootRequest(disk=disk))

    asyncio.run(main()).close()
