# SPDX-License-Identifier: GPL-3.0-or-later
"""pygrub as Debian packages it, confined: its menu on a terminal, its options, and what it delivers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import domward
from support.curses_screen import CursesScreen
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.menu_terminal import ENTER, menu_terminal

PYGRUB = ("--bootloader", "pygrub")
QUIET = (*PYGRUB, "--bootloader-arg=-q")
# The form that arrow keys have once a program has asked for it.
UP, DOWN = b"\x1bOA", b"\x1bOB"
NAMES = ("kernel", "ramdisk", "args")


@pytest.fixture
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk("ext4", kernel=kernel))


def delivered(folder: Path, *arguments: str | Path) -> dict[str, bytes]:
    """What `domward run` with `arguments` writes."""
    ran = domward("run", *arguments, "--output-dir", folder)
    assert (ran.code, ran.err) == (0, "")
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}


def test_the_menu_is_drawn_and_driven_by_keys(disk: Path) -> None:
    with menu_terminal(disk, *PYGRUB, screens=CursesScreen) as terminal:
        screen = terminal.until_shown("Will boot selected entry in")
        assert isinstance(screen, CursesScreen)
        assert screen.keypad
        assert screen.rows[1:3] == ["    pyGRUB  version 0.7", " +" + "-" * 72 + "+"]
        assert screen.rows[3] == " | Debian GNU/Linux" + " " * 54 + " |"
        assert screen.rows[12] == "     Use the ^ and v keys to select which entry is highlighted."
        assert [row[3:].split("  ")[0] for row in screen.reversed_rows] == ["Debian GNU/Linux"]
        terminal.press(DOWN)
        terminal.until(lambda screen: any("6.1.0-99" in row for row in screen.reversed_rows))
        terminal.press(DOWN)
        terminal.until(lambda screen: any("recovery" in row for row in screen.reversed_rows))
        terminal.press(ENTER)
        ran = terminal.finish()
        assert terminal.modes() == terminal.modes_before
    assert (ran.code, ran.err) == (0, "")
    assert "single" in ran.out
