# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk on a file server that lets nobody go: the supervisor goes on with everything else."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from support.flaky_disk import flaky_disk

from domward.protocol.errors import DomwardError
from domward.supervisor import BootRequest, Budgets, Config, Supervisor

BUDGETS = Budgets(wall_seconds=2, term_grace_seconds=0.2)


def test_a_disk_whose_closing_is_not_answered_holds_up_nothing_but_its_own_operation(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(65_536))
    silence = threading.Event()

    def read(_offset: int, _size: int, content: bytes) -> bytes:
        silence.set()  # this is the last answer
        return content

    async def main() -> None:
        async with Supervisor(Config(budgets=BUDGETS)) as supervisor:
            with flaky_disk(tmp_path, image, read, silence=silence) as disk:
                stuck = supervisor.bootloader_operation(BootRequest(disk=disk))
                stuck.start()
                ended = False
                while not ended:  # an event loop that waits in close(2) would never come here again
                    ended = bool((await asyncio.wait([asyncio.ensure_future(_end(stuck))], timeout=0.5))[0])
                    with pytest.raises(DomwardError):
                        await supervisor.inspect(image)

    asyncio.run(main())


async def _end(operation: object) -> None:
    with pytest.raises(DomwardError):
        await operation.wait()  # type: ignore[attr-defined]  # an Operation of either kind
