# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input to the library: each a typed error that says what was expected, and the supervisor works on."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.protocol.errors import DiskError, UsageError
from domward.protocol.fds import Fd
from domward.supervisor import BootRequest, Budgets, Config, Console, HostedSupervisor, Supervisor, ThreadedSupervisor

DISK = Path("/nowhere/disk.img")
UNTYPED: Any = None  # what a caller without a type checker passes


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: BootRequest(disk=UNTYPED), "disk must be a Path or an Fd, not NoneType"),
        (lambda: BootRequest(disk="disk.img"), "disk must be a Path or an Fd, not str"),
        (lambda: BootRequest(disk=3), "disk must be a Path or an Fd, not int"),
        (lambda: BootRequest(disk=DISK, entry="Debian"), "entry must be at most 1024 bytes"),
        (lambda: BootRequest(disk=DISK, entry=b"x" * 1025), "entry must be at most 1024 bytes"),
        (lambda: BootRequest(disk=DISK, args=b"x" * 1024), "args must be at most 1023 bytes"),
        (lambda: BootRequest(disk=DISK, args=b"a\0b"), "control characters"),
        (lambda: BootRequest(disk=DISK, image_format="vmdk"), "image_format must be one of raw, qcow2"),
        (lambda: BootRequest(disk=DISK, menu_timeout=-1), "menu_timeout must be 0 to 86400"),
        (lambda: BootRequest(disk=DISK, menu_timeout="5"), "menu_timeout must be an integer, not str"),
        (lambda: BootRequest(disk=DISK, console=(0, 1)), "console must be a Console, not tuple"),
        (lambda: Console(-1, 1), "fds must be 0 or more, not -1 and 1"),
        (lambda: Console("tty", 1), "input must be an integer, not str"),
        (lambda: Console(0, True), "output must be an integer, not bool"),
        (lambda: Console(0, 1, 0, 24), "1 to 1000 columns and rows, not 0 and 24"),
        (lambda: Console(0, 1, 80, -24), "1 to 1000 columns and rows"),
        (lambda: Budgets(kernel_bytes=-1), "kernel_bytes must be above 0"),
        (lambda: Budgets(kernel_bytes=1.5), "kernel_bytes must be a number, not float"),
        (lambda: Budgets(wall_seconds=0), "wall_seconds must be above 0"),
        (lambda: Config(budgets=120), "budgets must be Budgets, not int"),
        (lambda: Config(uid_base=0), "range of uids"),
        (lambda: Config(optional_layers=["landlock"]), "hold members of Layer"),
        (lambda: Config(python=Path("python3")), "python must be an absolute Path"),
        (lambda: Supervisor("config"), "config must be a Config, not str"),
        (lambda: HostedSupervisor("config"), "config must be a Config, not str"),
        (lambda: ThreadedSupervisor("config"), "config must be a Config, not str"),
        (lambda: Fd(-1, "disk"), "must be 0 or more, not -1"),
    ],
)
def test_a_bad_argument_is_refused_before_anything_is_done(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        make()


def directory() -> int:
    return os.open("/", os.O_RDONLY | os.O_CLOEXEC)


def pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def unix_socket() -> int:
    near, far = socket.socketpair()
    far.close()
    return near.detach()


def character_device() -> int:
    return os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)


def terminal() -> int:
    master, slave = os.openpty()
    os.close(master)
    return slave


def writable() -> int:
    return os.memfd_create("disk", os.MFD_CLOEXEC)


def path_only() -> int:
    return os.open("/bin/true", os.O_PATH | os.O_CLOEXEC)


NO_DISKS = [directory, pipe, unix_socket, character_device, terminal, writable, path_only]


@pytest.mark.parametrize("kind", NO_DISKS, ids=lambda kind: kind.__name__)
def test_an_fd_that_is_no_disk_for_reading_is_refused_and_stays_open(kind: Callable[[], int], disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            with Fd(kind(), "disk") as fd:
                for call in (lambda: supervisor.inspect(fd), lambda: supervisor.run_bootloader(BootRequest(disk=fd))):
                    with pytest.raises((UsageError, DiskError)):
                        await call()
                assert not fd.closed
            assert (await supervisor.inspect(disk)).entries

    asyncio.run(main())


def test_a_closed_fd_is_refused_and_named(disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            fd = Fd(os.open(disk, os.O_RDONLY | os.O_CLOEXEC), "guest's disk")
            fd.close()
            with pytest.raises(UsageError, match="guest's disk is closed already"):
                await supervisor.inspect(fd)
            number = os.dup(0)
            os.close(number)
            with pytest.raises(UsageError, match=f"fd {number} cannot be used: Bad file descriptor"):
                await supervisor.run_bootloader(BootRequest(disk=disk, console=Console(number, number)))

    asyncio.run(main())


def test_a_supervisor_is_opened_once_and_refuses_calls_before_and_after(disk: Path) -> None:
    async def main() -> None:
        supervisor = Supervisor()
        with pytest.raises(UsageError, match="not open"):
            await supervisor.inspect(disk)
        await supervisor.open()
        with pytest.raises(UsageError, match="opened once"):
            await supervisor.open()
        operation = supervisor.inspect_operation(disk)
        await supervisor.close()
        await supervisor.close()
        with pytest.raises(UsageError, match="not open"):
            await supervisor.run_bootloader(BootRequest(disk=disk))
        with pytest.raises(UsageError, match="started already"):
            operation.start()
        with pytest.raises(UsageError, match="request must be a BootRequest, not PosixPath"):
            supervisor.bootloader_operation(disk)  # type: ignore[arg-type]  # what this is about
        with pytest.raises(UsageError, match="opened once"):
            await supervisor.open()

    asyncio.run(main())


def test_an_operation_is_used_once(disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            operation = supervisor.inspect_operation(disk)
            with pytest.raises(UsageError, match="not done yet"):
                operation.result()
            assert (await operation.complete()).entries
            for again in (operation.start, operation.complete().send):
                with pytest.raises(UsageError, match="started already"):
                    again(*(() if again == operation.start else (None,)))
            operation.cancel()
            assert operation.result().entries

    asyncio.run(main())


def from_another_thread(*calls: Callable[[], Any]) -> list[str]:
    errors: list[str] = []

    def work() -> None:
        for call in calls:
            with pytest.raises(UsageError) as caught:
                call()
            errors.append(caught.value.sentence)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return errors


def test_calls_from_another_thread_are_refused_and_told_what_to_use(disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            operation = supervisor.inspect_operation(disk)
            errors = from_another_thread(
                lambda: supervisor.inspect_operation(disk),
                lambda: supervisor.close().send(None),
                operation.start,
                operation.cancel,
            )
            assert len(errors) == 4
            assert all("belongs to another thread" in error for error in errors)
            assert (await operation.complete()).entries

    asyncio.run(main())
    with HostedSupervisor() as hosted:
        errors = from_another_thread(hosted.fileno, hosted.process, hosted.close, lambda: hosted.inspect(disk))
        assert len(errors) == 4
        assert all("belongs to another thread" in error for error in errors)


def test_a_supervisor_is_refused_in_another_loop(disk: Path) -> None:
    runner = asyncio.Runner()
    supervisor = Supervisor()
    runner.run(supervisor.open())

    async def elsewhere() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await supervisor.inspect(disk)
        with pytest.raises(UsageError, match="another event loop"):
            await supervisor.close()

    asyncio.run(elsewhere())
    runner.run(supervisor.close())
    runner.close()


@pytest.mark.parametrize("kind", [HostedSupervisor, ThreadedSupervisor])
def test_the_facades_refuse_what_the_supervisor_refuses_at_once(kind: Any) -> None:
    supervisor = kind()
    for call in (
        lambda: supervisor.run_bootloader(DISK),
        lambda: supervisor.inspect("disk.img"),
        lambda: supervisor.inspect(DISK, image_format="vmdk"),
        lambda: supervisor.inspect(DISK),
    ):
        with pytest.raises(UsageError):
            call()
    with supervisor:
        with pytest.raises(UsageError, match="opened once"):
            supervisor.open()
        with pytest.raises(UsageError, match="request must be a BootRequest"):
            supervisor.run_bootloader(DISK)
    with pytest.raises(UsageError, match="not open"):
        supervisor.inspect(DISK)
