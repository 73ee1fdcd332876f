# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 18: while threads fork and exec all the time, no fd of the supervisor is ever seen in what they start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.supervisor import BootRequest, Budgets, Config, Console, Supervisor

OPERATIONS = 1000 if os.environ.get("DOMWARD_LONG") else 60
STORMING = 3  # threads


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


def listing() -> set[str]:
    """What a program that was started without closing anything holds, fds by what they are."""
    # Not through Python, which would take a tenth of a second; `ls` has its own fd of the folder, besides.
    done = subprocess.run(["/bin/ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, check=True)
    lines = [line.split(b" -> ") for line in done.stdout.splitlines() if b" -> " in line]
    numbers = {int(left.split()[-1]): right for left, right in lines}
    return {right.decode().split(":")[0] for number, right in numbers.items() if number > 2 and b"/proc/" not in right}


class Storm:
    """Threads that start programs until told to stop, and what those held."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.count = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(STORMING)]

    def __enter__(self) -> Storm:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            self.seen |= listing()
            self.count += 1


def test_row_18_no_fd_is_seen_in_programs_that_threads_start_during_operations(disk: Path) -> None:
    before = listing()

    async def main() -> None:
        master, slave = os.openpty()
        os.set_blocking(master, False)
        try:
            async with Supervisor(Config(budgets=Budgets(term_grace_seconds=5))) as supervisor:
                for number in range(OPERATIONS):
                    console = Console(slave, slave) if number % 6 == 0 else None
                    request = BootRequest(disk=disk, console=console, menu_timeout=0)
                    (await supervisor.run_bootloader(request)).close()
                    with contextlib.suppress(BlockingIOError):  # nothing was shown
                        os.read(master, 1 << 16)
        finally:
            os.close(master)
            os.close(slave)

    with Storm() as storm:
        asyncio.run(main())
    assert storm.count > OPERATIONS / 10
    assert storm.seen <= before


def test_row_18_the_storm_would_see_an_fd_that_is_left_open_for_programs() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    before = listing()
    os.close(reader)
    os.close(writer)
    assert "pipe" in before
