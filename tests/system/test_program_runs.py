# SPDX-License-Identifier: GPL-3.0-or-later
"""Bootloader programs: how one is run, what it is given, and what becomes of what it leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.programs import DELIVERS, script

from domward.protocol.errors import ProgramError
from domward.supervisor import BootRequest, Supervisor


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An image that only root may read: 64 KiB, every 4096 bytes another one."""
    path = tmp_path / "disk"
    path.write_bytes(b"".join(bytes([number]) * 4096 for number in range(1, 17)))
    path.chmod(0o600)
    return path


def test_a_shell_script_as_a_bootloader(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", DELIVERS)

    async def main() -> None:
        async with Supervisor() as supervisor:
            result = await supervisor.run_bootloader(BootRequest(disk=disk, bootloader=program))
            try:
                assert result.ramdisk is not None
                assert result.kernel.fd.fileno() >= 0
                assert (result.kernel.size, result.ramdisk.size) == (4096, 4096)
                assert result.args == b"from a script"
                assert result.source == f"program:{program}"
            finally:
                result.close()

    asyncio.run(main())
    assert disk.stat().st_mode & 0o777 == 0o600


def test_a_bootloader_sees_its_disk_whatever_the_umask_of_the_caller(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", DELIVERS)

    async def main() -> None:
        async with Supervisor() as supervisor:
            (await supervisor.run_bootloader(BootRequest(disk=disk, bootloader=program))).close()

    before = os.umask(0o077)
    try:
        asyncio.run(main())
    finally:
        os.umask(before)


def test_a_program_that_fails_is_an_error_with_its_status_and_its_last_words(disk: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "boot", "echo first; echo out of sorts >&2; exit 3")

    async def main() -> ProgramError:
        async with Supervisor() as supervisor:
            with pytest.raises(ProgramError) as caught:
                await supervisor.run_bootloader(BootRequest(disk=disk, bootloader=program))
            return caught.value

    error = asyncio.run(main())
    assert (error.code, error.status, error.exit_code) == ("program-failed", 3, 6)
    assert error.sentence == (
        f"The bootloader {program} failed. It ended with exit status 3. Last it showed: first / out of sorts"
    )
