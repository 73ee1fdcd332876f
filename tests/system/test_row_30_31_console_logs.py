# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 30 and 31: what a bootloader showed is kept, safely, and looking at it is safe as well."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from support.commands import COMMAND, domward
from support.menu_terminal import ENTER, RESET, menu_terminal
from support.planted import planted

from domward.helpers.datacopier import truncation_mark
from domward.protocol import limits
from domward.protocol.errors import DomwardError, OperationFailed, RefusedError, UsageError
from domward.supervisor import BootRequest, BootResult, Budgets, Config, Console, Supervisor
from domward.supervisor.logs import open_log

EVERY_BYTE = bytes(range(256))
HOSTILE = (
    b'\x1b]0;title\x07\x1b[5n\x1bP$q"p\x1b\\\x9b5n\x05\x0e\x1b[31mred\x1b[0m\x1b[2J\x1b[1;1Hplain\r\nnext\tcell\xff\n'
)


# --- row 30: the files ------------------------------------------------------------------------------------------


def opened(directory: Path, operation: str = "boot-1") -> Path:
    log = open_log(directory, operation)
    log.close()
    return log.path


def test_row_30_a_log_is_0600_in_a_folder_that_is_made_0700(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = opened(tmp_path / "logs")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_uid == 0
    assert re.fullmatch(r"console-\d{8}T\d{6}\.\d{6}Z-boot-1\.log", path.name)


def test_row_30_the_newest_ten_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir(0o755)
    (logs / "console.log").write_text("an administrator's")
    (logs / "console-20200101T000000.000000Z-boot-1.log.gz").write_text("kept by somebody")
    (logs / "folder").mkdir()
    made = [opened(logs, f"boot-{number}") for number in range(limits.LOGS_KEPT + 5)]
    assert {path.name for path in logs.iterdir()} == {
        "console.log", "console-20200101T000000.000000Z-boot-1.log.gz", "folder", *(path.name for path in made[5:])
    }  # fmt: skip


def test_row_30_a_link_among_the_old_logs_is_removed_itself(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    opened(tmp_path / "logs")
    (tmp_path / "logs" / "console-20200101T000000.000000Z-boot-1.log").symlink_to(victim)
    for number in range(limits.LOGS_KEPT):
        opened(tmp_path / "logs", f"boot-{number}")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "logs" / "console-20200101T000000.000000Z-boot-1.log").is_symlink()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_row_30_a_folder_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    logs.chmod(mode)
    with pytest.raises(RefusedError, match="written by others"):
        open_log(logs, "boot-1")
    assert [*logs.iterdir()] == []


def test_row_30_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir(0o700)
    os.chown(logs, 65534, 65534)
    with pytest.raises(RefusedError):
        open_log(logs, "boot-1")


def test_row_30_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "logs").symlink_to(tmp_path / "real")
    with pytest.raises(OperationFailed):
        open_log(tmp_path / "logs", "boot-1")
    assert [*(tmp_path / "real").iterdir()] == []


def test_row_30_a_link_or_a_file_of_the_very_name_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domward.supervisor.logs._now", lambda: "20260101T000000.000000Z")
    taken = opened(tmp_path / "logs")
    with pytest.raises(OperationFailed, match="File exists"):
        open_log(tmp_path / "logs", "boot-1")
    taken.unlink()
    for target in (tmp_path / "victim", tmp_path / "missing"):
        (tmp_path / "victim").write_text("precious")
        taken.symlink_to(target)
        with pytest.raises(OperationFailed, match="File exists"):
            open_log(tmp_path / "logs", "boot-1")
        taken.unlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "missing").exists()


def test_row_30_a_log_is_closed_on_exec_and_only_appended_to(tmp_path: Path) -> None:
    log = open_log(tmp_path / "logs", "boot-1")
    try:
        number = log.fd.fileno()
        assert not os.get_inheritable(number)
        assert fcntl.fcntl(number, fcntl.F_GETFL) & os.O_APPEND
        os.write(number, b"first")
        os.lseek(number, 0, os.SEEK_SET)
        os.write(number, b"second")
        assert log.path.read_bytes() == b"firstsecond"
    finally:
        log.close()


@pytest.mark.parametrize("path", ["missing/logs", "file", "a\0b"])
def test_row_30_what_cannot_be_a_log_directory_is_said_before_any_helper_starts(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((OperationFailed, UsageError)):
        open_log(tmp_path / path, "boot-1")


# --- row 31: what is in them ------------------------------------------------------------------------------------


def show(text: bytes, config: Config, disk: Path) -> BootResult | DomwardError:
    """Has a confined bootloader show `text` on a console that nobody needs to read; its answer comes afterwards."""

    async def main(console: Console) -> BootResult | DomwardError:
        try:
            async with Supervisor(config) as supervisor:
                result = await supervisor.run_bootloader(BootRequest(disk=disk, console=console))
                result.close()
                return result
        except DomwardError as error:
            return error

    keys, nobody = os.pipe()
    try:
        with open(os.devnull, "wb") as screen:
            return asyncio.run(main(Console(keys, screen.fileno())))
    finally:
        os.close(keys)
        os.close(nobody)


def showing(text: bytes, folder: Path, cap: int = limits.LOG_BYTES, *, answers: bool = True) -> Config:
    """A configuration whose bootloader helper writes `text` to its pty and then answers, or dies."""
    end = (
        "os.write(fds[1].fileno(), b'MZ'); channel.send(BootRead(title=b'', args=b'', kernel_bytes=2,"
        " ramdisk_bytes=0, source='planted'))"
        if answers
        else "os._exit(9)"
    )
    code = f"""
def show(channel):
    received = channel.receive((ReadBoot,))
    fds, data = received.fds, memoryview({text!r})
    while data:
        data = data[os.write(fds[3].fileno(), data):]
    {end}
    return 0

launcher._RUN[HelperKind.BOOTLOADER] = show
"""
    return Config(python=planted(folder, code), log_directory=folder / "logs", budgets=Budgets(log_bytes=cap))


def only_log(folder: Path) -> bytes:
    (log,) = (folder / "logs").iterdir()
    return log.read_bytes()


def test_row_31_every_byte_value_that_the_bootloader_shows_is_in_the_log(disk: Path, tmp_path: Path) -> None:
    text = EVERY_BYTE * 300 + HOSTILE
    result = show(text, showing(text, tmp_path), disk)
    assert isinstance(result, BootResult)
    assert only_log(tmp_path) == result.log == text
    assert result.log_path is not None
    assert result.log_path.parent == tmp_path / "logs"


def test_row_31_up_to_the_cap_and_then_one_mark(disk: Path, tmp_path: Path) -> None:
    text = EVERY_BYTE * 40
    assert isinstance(show(text, showing(text, tmp_path, cap=1000), disk), BootResult)
    assert only_log(tmp_path) == text[:1000] + truncation_mark(1000)


def test_row_31_exactly_the_cap_has_no_mark(disk: Path, tmp_path: Path) -> None:
    text = EVERY_BYTE * 4
    assert isinstance(show(text, showing(text, tmp_path, cap=1024), disk), BootResult)
    assert only_log(tmp_path) == text


def test_row_31_a_bootloader_that_dies_leaves_all_that_it_showed(disk: Path, tmp_path: Path) -> None:
    text = EVERY_BYTE * 2000
    assert isinstance(show(text, showing(text, tmp_path, answers=False), disk), DomwardError)
    assert only_log(tmp_path) == text


def test_row_31_the_menu_at_a_real_terminal_is_kept_and_can_be_read(disk: Path, tmp_path: Path) -> None:
    with menu_terminal(disk, "--log-dir", tmp_path / "logs") as terminal:
        terminal.until_shown("Boot menu")
        terminal.press(ENTER)
        ran = terminal.finish()
        shown = terminal.seen.split(RESET)[0]
    assert ran.code == 0
    (log,) = (tmp_path / "logs").iterdir()
    assert f"log      {log}\n" in ran.out
    assert log.read_bytes() == shown
    cleaned = domward("log", log)
    assert (cleaned.code, cleaned.err) == (0, "")
    assert "  Debian GNU/Linux" in [row.rstrip() for row in cleaned.out.splitlines()]
    assert set(cleaned.out) <= {chr(byte) for byte in range(0x20, 0x7F)} | {"\n"}
    raw = subprocess.run((*COMMAND, "log", "--raw", log), capture_output=True, check=True)
    assert raw.stdout == shown


def test_row_31_a_log_cannot_drive_the_readers_terminal_whatever_is_in_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(HOSTILE + EVERY_BYTE + b"\x1b" * 70_000 + b"\x1b[" + EVERY_BYTE * 300 + b"\x1b[3")
    ran = domward("log", log)
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.out) <= {chr(byte) for byte in range(0x20, 0x7F)} | {"\n"}
    assert ran.out.splitlines()[1:3] == ["plain", "next\\x09cell\\xff"]
    assert "\\x1b]0;title\\x07\\x1b[5n" in ran.out.splitlines()[0]


def test_row_31_a_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    domward("log", tmp_path / "missing").error("failed")
    domward("log", tmp_path).error("failed")
    domward("log", "/dev/zero").error("failed")
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in domward("log", tmp_path / "fifo").error("failed")
    with open("/dev/full", "wb") as full:
        (tmp_path / "log").write_bytes(b"x")
        domward("log", tmp_path / "log", capture_output=False, stdout=full, stderr=subprocess.PIPE).error("failed")
        domward("log", "--raw", tmp_path / "log", capture_output=False, stdout=full, stderr=subprocess.PIPE).error(
            "failed"
        )


def test_row_31_a_log_directory_without_a_menu_is_no_use(tmp_path: Path) -> None:
    assert "--interactive" in domward("run", "disk", "--log-dir", tmp_path / "logs").error("usage")
    assert not (tmp_path / "logs").exists()
