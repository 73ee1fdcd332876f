# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hundred operations at once: each gives what is on its disk. `pytest -rP` shows what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.supervisor import BootRequest, Config, Supervisor

AT_ONCE = (1, 10, 50, 200)
HEARTBEAT_SECONDS = 0.002
FDS_EACH = 10  # disk, two sinks, channel, pidfd, and the ends that are on their way to a helper


@pytest.fixture
def fds_enough() -> Iterator[None]:
    """Leave to have as many fds as the operations need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 200 + FDS_EACH * max(AT_ONCE))), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def beat(stalls: list[float]) -> None:
    """Notes by how much the event loop is late, for as long as it runs."""
    while True:
        due = time.perf_counter() + HEARTBEAT_SECONDS
        await asyncio.sleep(HEARTBEAT_SECONDS)
        stalls.append(time.perf_counter() - due)


def test_two_hundred_operations_at_once_each_give_what_is_on_their_disk(
    fds_enough: None, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
) -> None:
    disk = disks.build(debian_disk(kernel=kernel))
    wanted = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (kernel.vmlinuz, kernel.initrd)]

    async def one(supervisor: Supervisor) -> float:
        before = time.perf_counter()
        result = await supervisor.run_bootloader(BootRequest(disk=disk))
        with contextlib.closing(result):
            assert result.ramdisk is not None
            assert [result.kernel.sha256, result.ramdisk.sha256] == wanted
        return time.perf_counter() - before

    async def main() -> None:
        async with Supervisor(Config(state_directory=tmp_path / "state")) as supervisor:
            for count in AT_ONCE:
                stalls: list[float] = []
                heart = asyncio.create_task(beat(stalls))
                before = time.perf_counter()
                each = await asyncio.gather(*(one(supervisor) for _ in range(count)))
                taken = time.perf_counter() - before
                heart.cancel()
                await asyncio.wait([heart])
                stalls.sort()
                print(
                    f"{count:4} at once: {taken * 1000 / count:6.1f} ms an operation, "
                    f"{statistics.median(each) * 1000:7.1f} ms from call to result (median); the loop was late by at "
                    f"most {stalls[-1] * 1000:5.1f} ms, p99 {stalls[len(stalls) * 99 // 100] * 1000:5.1f} ms"
                )

    asyncio.run(main())
