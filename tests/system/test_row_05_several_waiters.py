# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 05: tasks and threads wait for one operation; one that leaves early takes away nobody's but its own place."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import TimeoutError as GaveUp
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.planted import planted

from domward.protocol.errors import HelperDied
from domward.supervisor import Budgets, Config, InspectResult, Supervisor, ThreadedSupervisor

DEADLINE = 60
# A reader that takes its order and says nothing until it is ended.
HANGS = """
launcher._RUN[HelperKind.BOOTLOADER] = lambda channel: [channel.receive((ReadBoot, InspectBoot)), channel.receive(())]
"""


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


def test_row_05_tasks_and_threads_get_one_result_and_one_that_leaves_disturbs_nobody(disk: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE), Supervisor() as supervisor:
            operation = supervisor.inspect_operation(disk)
            tasks = [asyncio.ensure_future(operation.wait()) for _ in range(4)]
            futures = [asyncio.run_coroutine_threadsafe(operation.wait(), loop) for _ in range(4)]
            got: list[InspectResult] = []
            threads = [threading.Thread(target=lambda f=f: got.append(f.result(DEADLINE))) for f in futures[1:]]
            for thread in threads:
                thread.start()
            operation.start()
            await asyncio.sleep(0)
            tasks[0].cancel()
            futures[0].cancel()
            results = await asyncio.gather(*tasks[1:])
            await asyncio.to_thread(lambda: [thread.join() for thread in threads])
            assert tasks[0].cancelled()
            assert len({id(result) for result in (*results, *got)}) == 1
            assert len(got) == 3
            assert await operation.wait() is results[0]
            await loop.shutdown_default_executor()

    asyncio.run(main())


def test_row_05_a_thread_that_stops_waiting_leaves_the_others_their_result(disk: Path, tmp_path: Path) -> None:
    config = Config(python=planted(tmp_path, HANGS), budgets=Budgets(term_grace_seconds=0.3))
    with ThreadedSupervisor(config) as supervisor:
        operation = supervisor.inspect(disk)
        with pytest.raises(GaveUp):
            operation.result(timeout=0)
        errors: list[BaseException | None] = []
        threads = [threading.Thread(target=lambda: errors.append(operation.exception(DEADLINE))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert operation.cancel()
        for thread in threads:
            thread.join()
        assert len({id(error) for error in errors}) == 1
        assert not operation.cancel()


def test_row_05_waiters_of_an_operation_that_fails_get_one_error(disk: Path, tmp_path: Path) -> None:
    config = Config(python=planted(tmp_path, "launcher._RUN[HelperKind.BOOTLOADER] = lambda channel: 3"))

    async def main() -> None:
        async with asyncio.timeout(DEADLINE), Supervisor(config) as supervisor:
            operation = supervisor.inspect_operation(disk)
            operation.start()
            errors = await asyncio.gather(*(operation.wait() for _ in range(5)), return_exceptions=True)
            assert isinstance(errors[0], HelperDied)
            assert len({id(error) for error in errors}) == 1

    asyncio.run(main())
