# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 10: a helper out of memory is one typed failure of its operation, and the supervisor goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.planted import planted

from domward.protocol.errors import DomwardError, OperationFailed
from domward.supervisor import BootRequest, Config, Operation, Supervisor

# Twice what RLIMIT_AS allows, all at once or bit by bit, once the order has come.
GREEDY = {
    "at-once": "bytearray(2 << 30)",
    "bit-by-bit": "[bytes(1 << 16) for _ in range(1 << 15)]",
}


@pytest.mark.parametrize("how", GREEDY)
def test_row_10_a_helper_beyond_its_address_space_is_one_failure(how: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    code = f"launcher._RUN[HelperKind.BOOTLOADER] = lambda channel: [channel.receive((ReadBoot,)), {GREEDY[how]}]"

    async def main() -> None:
        async with asyncio.timeout(60), Supervisor(Config(python=planted(tmp_path, code))) as supervisor:
            for _ in range(2):
                with pytest.raises(OperationFailed, match="The helper ran out of memory"):
                    await supervisor.run_bootloader(BootRequest(disk=disk))

    asyncio.run(main())


def test_row_10_the_supervisor_out_of_memory_fails_the_operation_by_name_and_ends_its_helper(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))

    def no_memory(_step: str) -> None:
        raise MemoryError

    async def main() -> None:
        async with asyncio.timeout(60), Supervisor() as supervisor:
            for step in ("disk", "helper", "image"):
                operation: Operation[object] = supervisor.inspect_operation(disk)
                operation.on_progress(lambda reached, step=step: no_memory(step) if reached == step else None)
                with pytest.raises(DomwardError) as caught:
                    await operation.complete()
                assert caught.value.code == "out-of-memory"

    asyncio.run(main())
