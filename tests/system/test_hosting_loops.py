# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 17: other event loops host the supervisor through one fd and one call; threads through a facade."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.planted import planted

from domward.protocol.errors import DomwardError, OperationCancelled, OperationTimedOut, UsageError
from domward.supervisor import BootRequest, Budgets, Config, HostedSupervisor, ThreadedSupervisor
from domward.supervisor.pumped_loop import PumpedLoop

HANGS = """
launcher._RUN[HelperKind.BOOTLOADER] = lambda channel: [channel.receive((ReadBoot, InspectBoot)), channel.receive(())]
"""
MISSING = Path("/nowhere/disk.img")


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


def hanging(folder: Path, **budgets: Any) -> Config:
    return Config(python=planted(folder, HANGS), budgets=Budgets(term_grace_seconds=0.3, **budgets))


def poll_until(supervisor: HostedSupervisor, done: Callable[[], bool]) -> None:
    poll = select.poll()
    poll.register(supervisor.fileno(), select.POLLIN)
    while not done():
        assert poll.poll(60_000)
        supervisor.process()


def readable(supervisor: HostedSupervisor) -> bool:
    return bool(select.select([supervisor.fileno()], [], [], 0)[0])


def code_of(operation: Future[Any]) -> str:
    error = operation.exception()
    assert isinstance(error, DomwardError)
    return error.code


# --- one fd and one call ----------------------------------------------------------------------------------------


def test_row_17_a_poll_loop_hosts_several_operations_with_callbacks(disk: Path) -> None:
    with HostedSupervisor() as supervisor:
        ended: list[Future[Any]] = []
        steps: list[str] = []
        first = supervisor.run_bootloader(BootRequest(disk=disk), on_progress=steps.append)
        others = [supervisor.inspect(disk), supervisor.inspect(MISSING)]
        for operation in (first, *others):
            operation.add_done_callback(ended.append)
        assert ended == []  # nothing happens but in `process`
        assert readable(supervisor)
        poll_until(supervisor, lambda: len(ended) == 3)
        assert first.result().kernel.size > 0
        first.result().close()
        assert others[0].result().entries
        assert code_of(others[1]) == "disk-not-found"
        assert steps[0] == "disk"


def test_row_17_the_fd_is_quiet_while_there_is_nothing_to_do(tmp_path: Path) -> None:
    with HostedSupervisor(hanging(tmp_path)) as supervisor:
        disk = tmp_path / "disk.img"
        disk.write_bytes(bytes(1 << 20))
        reached: list[str] = []
        operation = supervisor.inspect(disk, on_progress=reached.append)
        poll_until(supervisor, lambda: "helper" in reached and not readable(supervisor))
        supervisor.process()
        assert not operation.done()
        assert operation.cancel()
        assert readable(supervisor)
        poll_until(supervisor, operation.done)
        assert code_of(operation) == "cancelled"
        assert not operation.cancel()


def test_row_17_a_deadline_makes_the_fd_readable(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with HostedSupervisor(hanging(tmp_path, wall_seconds=0.5)) as supervisor:
        operation = supervisor.inspect(disk)
        poll_until(supervisor, operation.done)
        assert isinstance(operation.exception(), OperationTimedOut)


def test_row_17_closing_completes_what_runs_within_the_call(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    ended: list[Future[Any]] = []
    with HostedSupervisor(hanging(tmp_path)) as supervisor:
        operations = [supervisor.inspect(disk) for _ in range(3)]
        for operation in operations:
            operation.add_done_callback(ended.append)
        supervisor.process()
    assert len(ended) == 3
    assert all(isinstance(operation.exception(), OperationCancelled) for operation in operations)


def test_row_17_callbacks_may_ask_and_cancel_but_not_process_nor_close(disk: Path) -> None:
    refused: list[BaseException] = []
    more: list[Future[Any]] = []
    with HostedSupervisor() as supervisor:

        def callback(_operation: Future[Any]) -> None:
            for call in (supervisor.process, supervisor.close):
                with pytest.raises(UsageError) as caught:
                    call()
                refused.append(caught.value)
            more.append(supervisor.inspect(disk))
            more[0].cancel()
            more.append(supervisor.inspect(disk))

        supervisor.inspect(disk).add_done_callback(callback)
        poll_until(supervisor, lambda: len(more) == 2 and all(operation.done() for operation in more))
        assert len(refused) == 2
        assert code_of(more[0]) == "cancelled"
        assert more[1].result().entries


# In a process of its own: once trio is imported, hypothesis warns when it is.
TRIO = """
import sys
from pathlib import Path
import trio
from domward.supervisor import BootRequest, HostedSupervisor

async def main():
    with HostedSupervisor() as supervisor:
        ended = trio.Event()
        operation = supervisor.run_bootloader(BootRequest(disk=Path(sys.argv[1])))
        operation.add_done_callback(lambda _operation: ended.set())

        async def drive():
            while not ended.is_set():
                await trio.lowlevel.wait_readable(supervisor.fileno())
                supervisor.process()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drive)
                await ended.wait()
        assert operation.result().kernel.size > 0
        operation.result().close()
        print("done")

trio.run(main)
"""


def test_row_17_trio_hosts_the_supervisor(disk: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", TRIO, str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_row_17_asyncio_may_poll_the_fd_only_from_another_thread_and_is_told_so() -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="use Supervisor in it"):
            HostedSupervisor().open()

    asyncio.run(main())


def test_the_work_of_one_call_is_bounded() -> None:
    pumped = PumpedLoop()
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        if count < 10_000:
            pumped.loop.call_soon(again)

    pumped.loop.call_soon(again)
    pumped.pump()
    assert 0 < count < 10_000
    assert select.select([pumped.fileno()], [], [], 60)[0]
    while count < 10_000:
        pumped.pump()
    pumped.close()
    pumped.close()


# --- threads ----------------------------------------------------------------------------------------------------


def test_row_17_any_thread_may_ask_wait_and_cancel(disk: Path, tmp_path: Path) -> None:
    with ThreadedSupervisor() as supervisor:

        def boot(number: int) -> str:
            if number % 3 == 0:
                return code_of(supervisor.inspect(MISSING))
            if number % 3 == 1:
                operation = supervisor.inspect(disk)
                operation.cancel()
                return code_of(operation)
            result = supervisor.run_bootloader(BootRequest(disk=disk)).result(60)
            result.close()
            return "booted"

        with ThreadPoolExecutor(4) as threads:
            ends = list(threads.map(boot, range(12)))
    assert ends == ["disk-not-found", "cancelled", "booted"] * 4


def test_row_17_closing_joins_the_thread_and_completes_what_runs(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with ThreadedSupervisor(hanging(tmp_path)) as supervisor:
        operations = [supervisor.inspect(disk) for _ in range(3)]
    assert all(isinstance(operation.exception(0), OperationCancelled) for operation in operations)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("domward")] == []
    supervisor.close()
    with pytest.raises(UsageError, match="not open"):
        supervisor.inspect(disk)


def test_a_callback_cannot_close_the_supervisor_that_calls_it() -> None:
    refused: list[BaseException] = []
    with ThreadedSupervisor() as supervisor:

        def callback(_operation: Future[Any]) -> None:
            with pytest.raises(UsageError) as caught:
                supervisor.close()
            refused.append(caught.value)

        supervisor.inspect(MISSING).add_done_callback(callback)
    assert len(refused) == 1


@pytest.mark.parametrize("kind", [HostedSupervisor, ThreadedSupervisor])
def test_a_supervisor_that_cannot_be_opened_says_why_and_leaves_nothing(kind: Any, tmp_path: Path) -> None:
    supervisor = kind(Config(python=tmp_path / "missing"))
    with pytest.raises(DomwardError, match="launcher could not be started"):
        supervisor.open()
    with pytest.raises(UsageError):
        supervisor.open()
    with pytest.raises(UsageError):
        supervisor.inspect(MISSING)
    supervisor.close()
    kind().close()  # never opened


def inheritable() -> set[int]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if os.get_inheritable(int(number)):
                found.add(int(number))
    return found


def test_no_fd_of_a_hosted_supervisor_is_inherited() -> None:
    before = inheritable()
    with HostedSupervisor():
        assert inheritable() == before
