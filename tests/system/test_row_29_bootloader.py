# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 29: the bootloader operation is asynchronous, interactive and cancellable, all at once in one supervisor.

Every step and outcome by itself is in test_bootloader_operation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.protocol.errors import OperationCancelled
from domward.supervisor import BootRequest, Budgets, Config, Console, OperationState, Supervisor


class Terminal:
    """A raw pty; `shows` waits for a text, `press` types."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self._seen = b""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _read(self) -> None:
        self._seen += os.read(self.master, 65536)
        self._more.set()

    async def shows(self, text: bytes) -> None:
        while text not in self._seen:
            self._more.clear()
            await self._more.wait()

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.master)
        os.close(self.master)
        os.close(self.slave)


def test_row_29_one_is_at_its_menu_while_others_are_cancelled_and_complete(
    disks: DiskFactory, kernel: DebianKernel
) -> None:
    disk: Path = disks.build(debian_disk("ext4", kernel=kernel))

    async def main() -> None:
        async with Supervisor(Config(budgets=Budgets(term_grace_seconds=0.3))) as supervisor:
            with contextlib.closing(Terminal()) as first, contextlib.closing(Terminal()) as second:
                chosen, dropped = (
                    supervisor.bootloader_operation(
                        BootRequest(disk=disk, console=Console(terminal.slave, terminal.slave), menu_timeout=1000)
                    )
                    for terminal in (first, second)
                )
                waiting = asyncio.ensure_future(chosen.complete())
                leaving = asyncio.ensure_future(dropped.complete())
                await first.shows(b"e: edit arguments")
                await second.shows(b"e: edit arguments")
                (await supervisor.run_bootloader(BootRequest(disk=disk))).close()
                assert (chosen.state, dropped.state) == (OperationState.RUNNING, OperationState.RUNNING)
                dropped.cancel()
                with pytest.raises(OperationCancelled):
                    await leaving
                assert chosen.state is OperationState.RUNNING
                first.press(b"\x1b[B\r")
                result = await waiting
                assert b"Enter: boot" in result.log
                assert result.title != b"Debian GNU/Linux"
                result.close()

    asyncio.run(main())
