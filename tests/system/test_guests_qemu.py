# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests in a real qemu: created from a disk that domward read, watched until they die, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.disks import DiskFactory
from support.tiny_guests import QEMU, RAMDISK, guest_of, tiny_disk, tiny_kernel

from domward.protocol.records import replaced
from domward.supervisor import Budgets, Config, Console, Operation, Supervisor
from domward.supervisor.guests import RUNNING, GuestRequest, GuestResult
from domward.supervisor.hypervisor.interface import Death

SECONDS = 30  # for a machine that is busy
CONFIG = replaced(QEMU, budgets=Budgets(term_grace_seconds=0.3))


@pytest.fixture(scope="session")
def kernel_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_kernel(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel_bytes: bytes) -> Path:
    return disks.build(tiny_disk(kernel_bytes))


class Screen:
    """A guest's console as the test has it."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.shown = b""

    @property
    def console(self) -> Console:
        return Console(self.far.fileno(), self.far.fileno())

    async def until(self, text: bytes) -> None:
        """Waits until `text` is shown, after what was waited for before."""
        async with asyncio.timeout(SECONDS):
            while text not in self.shown:
                data = await asyncio.get_running_loop().sock_recv(self.near, 65536)
                assert data, f"{text!r} is not shown: {self.shown!r}"
                self.shown += data
        self.shown = self.shown.partition(text)[2]

    def type(self, line: bytes) -> None:
        self.near.send(line + b"\n")

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def screen() -> Iterator[Screen]:
    with contextlib.closing(Screen()) as made:
        yield made


@contextlib.asynccontextmanager
async def running(
    request: GuestRequest, config: Config = CONFIG
) -> AsyncIterator[tuple[Supervisor, Operation[GuestResult]]]:
    """A supervisor with the guest, which runs."""
    async with Supervisor(config) as supervisor:
        operation = supervisor.guest_operation(request)
        runs = asyncio.Event()
        operation.on_progress(lambda step: runs.set() if step == RUNNING else None)
        operation.on_done(lambda _operation: runs.set())
        operation.start()
        async with asyncio.timeout(SECONDS):
            await runs.wait()
        yield supervisor, operation


async def outcome(operation: Operation[GuestResult]) -> GuestResult:
    async with asyncio.timeout(SECONDS):
        return await operation.wait()


def emulators() -> list[int]:
    """Every qemu of this test's."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path("/proc", name, "comm").read_text().startswith("qemu") and "Z" not in stat_of(name):
                found.append(int(name))
    return found


def stat_of(name: str) -> str:
    return Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]


def test_a_guest_is_created_from_its_disk_and_ends_when_it_powers_off(disk: Path, screen: Screen) -> None:
    async def play() -> GuestResult:
        with guest_of(disk) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                await screen.until(b"ready %d quiet console=ttyS0\n" % len(RAMDISK))
                screen.type(b"hello")
                await screen.until(b"heard hello")
                screen.type(b"poweroff")
                return await outcome(operation)

    result = asyncio.run(play())
    assert (result.name, result.death, result.starts) == ("tiny", Death.POWEROFF, 1)
    assert emulators() == []
