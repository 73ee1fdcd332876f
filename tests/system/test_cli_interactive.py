# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward run --interactive` on a real terminal: the menu, its keys, and how the terminal is left."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.commands import EarlierOutput, domward
from support.disks import DiskFactory, Fs, whole
from support.menu_terminal import DOWN, ENTER, ERASE_LINE, INTERRUPT, menu_terminal

HEADING = "Boot menu"


def test_choosing_an_entry_and_editing_its_arguments(disk: Path, tmp_path: Path) -> None:
    with menu_terminal(disk, "--output-dir", tmp_path / "out") as terminal:
        screen = terminal.until_shown("starts in 5 s")
        assert screen.rows[0] == f"{HEADING} (1 of 5)"
        assert screen.reversed_rows == ["  Debian GNU/Linux"]
        terminal.press(DOWN)
        terminal.until(lambda screen: any("recovery" not in row and "6.1.0-99" in row for row in screen.reversed_rows))
        terminal.press(b"e")
        terminal.until_shown("Enter: keep")
        terminal.press(ERASE_LINE + b"root=/dev/xvda1 single" + ENTER)
        terminal.until_shown("Enter: boot")
        terminal.press(ENTER)
        ran = terminal.finish()
        assert terminal.modes() == terminal.modes_before
    assert (ran.code, ran.err) == (0, "")
    assert "args     root=/dev/xvda1 single\n" in ran.out
    assert (tmp_path / "out" / "args").read_bytes() == b"root=/dev/xvda1 single"


def test_the_default_starts_when_the_time_is_over(disk: Path) -> None:
    with menu_terminal(disk) as terminal:
        terminal.until_shown("starts in 5 s")
        ran = terminal.finish()
    assert ran.code == 0
    assert "entry    Debian GNU/Linux\n" in ran.out


def test_entry_and_arguments_of_the_command_are_selected(disk: Path) -> None:
    with menu_terminal(disk, "--entry", "2", "--args", "root=/dev/xvda1 mine", columns=160) as terminal:
        screen = terminal.until_shown("root=/dev/xvda1 mine")
        assert "recovery mode" in screen.reversed_rows[0]
        terminal.press(ENTER)
        assert "args     root=/dev/xvda1 mine\n" in terminal.finish().out


@pytest.mark.parametrize("key", [b"q", INTERRUPT], ids=["q", "Ctrl-C"])
def test_leaving_the_menu(key: bytes, disk: Path, tmp_path: Path) -> None:
    earlier = EarlierOutput.made(tmp_path / "earlier")
    before = earlier.state()
    with menu_terminal(disk, "--output-dir", earlier.folder) as terminal:
        terminal.until_shown(HEADING)
        terminal.press(key)
        terminal.finish().error("cancelled")
        assert terminal.modes() == terminal.modes_before
    assert earlier.state() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(number: signal.Signals, disk: Path) -> None:
    with menu_terminal(disk) as terminal:
        terminal.until_shown(HEADING)
        assert terminal.modes() != terminal.modes_before
        terminal.send_signal(number)
        terminal.send_signal(number)
        terminal.finish().error("cancelled")
        assert terminal.modes() == terminal.modes_before


def test_the_terminal_hangs_up(disk: Path) -> None:
    with menu_terminal(disk) as terminal:
        terminal.until_shown(HEADING)
        terminal.hang_up()
        terminal.finish().error("cancelled")


def test_time_runs_out_while_a_person_thinks(disk: Path) -> None:
    with menu_terminal(disk, "--timeout", "3") as terminal:
        terminal.until_shown(HEADING)
        terminal.press(DOWN)
        terminal.finish().error("timed-out")
        assert terminal.modes() == terminal.modes_before


def test_a_terminal_that_nobody_reads_does_not_hold_the_command_up(disk: Path) -> None:
    with menu_terminal(disk, "--timeout", "2") as terminal:
        terminal.until_shown(HEADING)
        fill = os.open(os.ttyname(terminal.slave), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            while True:
                os.write(fill, b"x" * 4096)
        except BlockingIOError:
            os.close(fill)
        assert terminal.process.stderr is not None
        assert terminal.process.stderr.read().startswith(b"domward: ")
        assert terminal.process.wait() == 5


def test_hostile_titles_cannot_drive_the_terminal(disks: DiskFactory) -> None:
    config = (
        "set timeout=5\nmenuentry '\x1b[2J\x1b]0;owned\x07\x9b31mfirst' {\n linux /k a=\u00e4\n}\n"
        "menuentry 'second \x1b[10;10H' {\n linux '/missing\x1b[2J'\n}\n"
    )
    disk = disks.build(whole(Fs("ext4", {"k": b"MZ", "boot/grub/grub.cfg": config})))
    with menu_terminal(disk) as terminal:
        screen = terminal.until_shown(r"\x1b[2J\x1b]0;owned\x07")
        assert any(r"second \x1b[10;10H" in row for row in screen.rows)
        terminal.press(DOWN)
        terminal.until_shown("cannot boot")
        terminal.press(b"q")
        terminal.finish().error("cancelled")


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (20, 6), (500, 200)])
def test_terminals_of_odd_sizes(columns: int, rows: int, disk: Path) -> None:
    with menu_terminal(disk, columns=columns, rows=rows) as terminal:
        terminal.until_written(b"Boot")
        terminal.press(b"q")
        terminal.process.wait()
        assert terminal.modes() == terminal.modes_before


def test_the_menu_follows_the_size_of_its_terminal(disk: Path) -> None:
    with menu_terminal(disk) as terminal:
        terminal.until_shown("starts in 5 s")
        terminal.press(DOWN)
        terminal.until_shown("(2 of 5)")
        terminal.resize(132, 40)
        screen = terminal.until_shown("Enter: boot")
        assert "Enter: boot" in screen.rows[39]
        terminal.resize(40, 8)
        screen = terminal.until(lambda screen: "Up/Down" in screen.rows[7])
        assert screen.rows[0] == f"{HEADING} (2 of 5)"
        terminal.press(ENTER)
        assert terminal.finish().code == 0
        assert terminal.modes() == terminal.modes_before


def test_only_one_end_is_a_terminal(disk: Path) -> None:
    master, slave = os.openpty()
    try:
        for stream in ("stdin", "stdout"):
            ends: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | {stream: slave}
            ran = domward("run", disk, "--interactive", capture_output=False, stderr=subprocess.PIPE, **ends)
            assert "needs a terminal" in ran.error("usage")
    finally:
        os.close(master)
        os.close(slave)


def test_what_is_wrong_with_the_disk_is_said_below_the_menus_place(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    with menu_terminal(tmp_path / "disk") as terminal:
        terminal.finish().error("disk-empty")
        assert terminal.modes() == terminal.modes_before
