# SPDX-License-Identifier: GPL-3.0-or-later
"""An audit log on disks that fail: nothing is done, the error says so, and what was there before is whole."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.audit_logs import events, opened, operation, records, written_log
from support.commands import COMMAND, domward

from domward.protocol.errors import AuditUnavailable
from domward.protocol.fds import Fd
from domward.supervisor import BootRequest, Config, Supervisor
from domward.supervisor.audit.log import AuditLog
from domward.supervisor.audit.verify import verify


def command(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


@contextmanager
def mounted(folder: Path, *options: str | Path) -> Iterator[Path]:
    """mount(8) on the new `folder`, and gone in the end."""
    folder.mkdir()
    command("mount", *options, folder)
    try:
        folder.chmod(0o750)
        yield folder
    finally:
        command("umount", folder)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder with 128 KiB of room."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=128k,mode=0750", "audit") as folder:
        yield folder


def fill(folder: Path) -> Path:
    """Takes all the room that is left in `folder`."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                return filler


def append_many(log: AuditLog, most: int) -> None:
    for number in range(most):
        log.append(operation(number))


async def run_for_ever(supervisor: Supervisor, disk: Path) -> None:
    """Until the last page of the log is full."""
    while True:
        (await supervisor.run_bootloader(BootRequest(disk=disk))).close()


def test_a_full_disk_refuses_and_goes_on_once_there_is_room(small: Path) -> None:
    path = written_log(small / "audit.log", 1)
    with opened(path) as log:
        log.append(operation(1))
        filler = fill(small)
        with pytest.raises(AuditUnavailable, match=r"No space left on device \(ENOSPC\)"):
            append_many(log, 100)
        before = path.read_bytes()
        with pytest.raises(AuditUnavailable, match="ENOSPC"):
            log.append(operation(100))
        filler.unlink()
        log.append(operation(101))
    assert path.read_bytes().startswith(before)
    assert verify([path]).whole
    assert records(path)[-1]["operation"] == f"boot-{101:012x}"


def test_a_run_whose_log_is_on_a_full_disk_does_nothing(small: Path, disk: Path, tmp_path: Path) -> None:
    fill(small)
    ran = domward("run", disk, "--output-dir", tmp_path / "out", "--audit-log", small / "audit.log")
    assert "ENOSPC" in ran.error("audit-unavailable")
    assert not (tmp_path / "out").exists()


def test_an_operation_of_a_supervisor_whose_disk_fills_up_is_refused_and_the_next_one_is_not(
    small: Path, disk: Path
) -> None:
    path = small / "audit.log"

    async def work() -> None:
        async with Supervisor(Config(audit_log=path)) as supervisor:
            filler = fill(small)
            with pytest.raises(AuditUnavailable, match="ENOSPC"):
                await run_for_ever(supervisor, disk)
            filler.unlink()
            (await supervisor.run_bootloader(BootRequest(disk=disk))).close()

    asyncio.run(work())
    assert verify([path]).whole
    assert events(path)[-2:] == ["completion", "supervisor-closed"]


def test_a_file_system_that_becomes_read_only_refuses(small: Path) -> None:
    path = written_log(small / "audit.log", 1)
    before = path.read_bytes()
    command("mount", "-o", "remount,ro", small)
    with opened(path) as log, pytest.raises(AuditUnavailable, match=r"\(EROFS\)"):
        log.append(operation(1))
    assert domward("inspect", "/none", "--audit-log", path).error("audit-unavailable")
    command("mount", "-o", "remount,rw", small)
    assert path.read_bytes() == before
    assert verify([path]).whole


def test_a_disk_that_does_not_take_what_was_written_refuses_everything_after(tmp_path: Path) -> None:
    """ext4 on a loop device whose own file finds no room: write(2) succeeds and fdatasync(2) fails."""
    with mounted(tmp_path / "below", "-t", "tmpfs", "-o", "size=3m,mode=0700", "below") as below:
        image = below / "disk.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        command("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", image)
        with mounted(tmp_path / "above", "-o", "loop,errors=continue", image) as above:
            path = written_log(above / "audit.log", 1)
            command("sync", "-f", above)
            fill(below)
            with opened(path) as log:
                with pytest.raises(AuditUnavailable, match=r"\((EIO|ENOSPC)\)"):
                    append_many(log, 200)
                (below / "filler").unlink()
                with pytest.raises(AuditUnavailable, match=r"\((EIO|ENOSPC)\)"):  # nobody knows what the disk holds
                    log.append(operation(200))


def test_a_disk_that_fails_refuses_everything_after(disk: Path, tmp_path: Path) -> None:
    """ext4 on a loop device on a memfd, which is then sealed: from that moment each write to the device is EIO."""
    with Fd(os.memfd_create("disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "disk") as medium:
        os.ftruncate(medium.fileno(), 16 << 20)
        image = f"/proc/{os.getpid()}/fd/{medium.fileno()}"
        command("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", image)
        with mounted(tmp_path / "mnt", "-o", "loop,errors=continue", image) as folder:
            path = written_log(folder / "audit.log", 1)
            command("sync", "-f", folder)
            fcntl.fcntl(medium, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            with opened(path) as log:
                with pytest.raises(AuditUnavailable, match=r"\(EIO\)"):
                    log.append(operation(1))
                written = path.stat().st_size
                with pytest.raises(AuditUnavailable, match=r"\(EIO\)"):  # nobody knows what the disk holds
                    log.append(operation(2))
                assert path.stat().st_size == written
            ran = domward("run", disk, "--output-dir", tmp_path / "out", "--audit-log", path)
            assert "EIO" in ran.error("audit-unavailable")
            assert not (tmp_path / "out").exists()


def test_two_daemons_of_one_log_are_one_too_many(disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    config = Config(audit_log=folder / "audit.log", audit_alone=True)

    async def work() -> None:
        async with Supervisor(config):
            with pytest.raises(AuditUnavailable, match="Another daemon writes the audit log"):
                async with Supervisor(config):
                    pass
            assert domward("inspect", disk, "--audit-log", folder / "audit.log").code == 0

    asyncio.run(work())
    assert verify([folder / "audit.log"]).whole
    assert events(folder / "audit.log").count("completion") == 1


@pytest.mark.parametrize("mebibytes", [60, 120, 200, 260, 320])
def test_a_command_that_runs_out_of_memory_leaves_a_whole_log(disk: Path, tmp_path: Path, mebibytes: int) -> None:
    path = written_log(tmp_path / "log" / "audit.log", 1)
    limited = ("prlimit", f"--as={mebibytes << 20}")
    subprocess.run([*limited, *COMMAND, "inspect", disk, "--audit-log", path], capture_output=True, check=False)
    assert verify([path]).whole
    assert domward("inspect", disk, "--audit-log", path).code == 0
    assert verify([path]).whole
