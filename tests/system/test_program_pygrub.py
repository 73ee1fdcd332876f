# SPDX-License-Identifier: GPL-3.0-or-later
"""pygrub as Debian packages it, confined: its menu on a terminal, its options, and what it delivers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import domward
from support.curses_screen import CursesScreen
from support.debian_kernel import DebianKernel
from support.disks import Disk, DiskFactory, Fs, whole
from support.guests import debian_disk
from support.menu_terminal import ENTER, menu_terminal
from support.programs import Delivered, deliver

from domward.protocol.errors import ProgramError
from domward.supervisor import Supervisor
from domward.supervisor.programs import BUILTIN, PYGRUB

MENU = ("--bootloader", PYGRUB)
COUNTS_DOWN = "Will boot selected entry in"
# The form that arrow keys have once a program has asked for it.
DOWN = b"\x1bOB"


def runs(disk: Path, *requests: dict[str, Any]) -> list[Delivered | ProgramError]:
    """What each of `requests` gives, one after another; without a menu, and of pygrub unless it says otherwise."""

    async def main() -> list[Delivered | ProgramError]:
        found: list[Delivered | ProgramError] = []
        async with Supervisor() as supervisor:
            for request in requests:
                asked = {"program": PYGRUB, "bootloader_args": (b"-q",)} | request
                try:
                    found.append(await deliver(supervisor, disk, **asked))
                except ProgramError as error:
                    found.append(error)
        return found

    return asyncio.run(main())


def test_the_menu_is_drawn_and_driven_by_keys(disk: Path) -> None:
    with menu_terminal(disk, *MENU, screens=CursesScreen) as terminal:
        screen = terminal.until_shown(COUNTS_DOWN)
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


def test_the_commands_of_an_entry_are_shown_and_booted(disk: Path) -> None:
    with menu_terminal(disk, *MENU, screens=CursesScreen) as terminal:
        terminal.until_shown(COUNTS_DOWN)
        terminal.press(b"e")
        terminal.until_shown("Press 'b' to boot, 'e' to edit the selected command in the")
        terminal.until_shown("insmod gzio")
        terminal.press(b"b")
        assert terminal.finish().code == 0


def test_a_key_that_interrupts_ends_it(disk: Path) -> None:
    with menu_terminal(disk, *MENU, screens=CursesScreen) as terminal:
        terminal.until_shown(COUNTS_DOWN)
        terminal.press(b"\x03")
        terminal.finish().error("program-failed")
        assert terminal.modes() == terminal.modes_before


def one_entry(title: str, timeout: int) -> Disk:
    config = f"set timeout={timeout}\nmenuentry '{title}' {{\n linux /k\n}}\n"
    return whole(Fs("ext4", {"k": b"MZ", "boot/grub/grub.cfg": config}))


def test_the_default_boots_when_the_menus_time_is_over(disks: DiskFactory) -> None:
    with menu_terminal(disks.build(one_entry("Soon", 1)), *MENU, screens=CursesScreen) as terminal:
        terminal.until_shown(COUNTS_DOWN)
        assert terminal.finish().code == 0


def test_hostile_titles_cannot_drive_the_terminal(disks: DiskFactory) -> None:
    disk = disks.build(one_entry("a\x1b[6n\x1b]0;owned\x07b\x1b[5n\x1bc", 50))
    with menu_terminal(disk, *MENU, screens=CursesScreen) as terminal:
        terminal.until_shown(COUNTS_DOWN)  # its screen refuses all that drives a terminal
        terminal.press(ENTER)
        assert terminal.finish().code == 0
    assert b"\x1b]" not in terminal.seen
    assert b"\x1b[6n" not in terminal.seen


# --- beside the built-in reader ---------------------------------------------------------------------------------

GUESTS: dict[str, Callable[[DebianKernel], Disk]] = {
    "ext4 in a partition": lambda kernel: debian_disk("ext4", kernel=kernel),
    "ext4 on GPT": lambda kernel: debian_disk("ext4", scheme="gpt", kernel=kernel),
    "ext4 alone": lambda kernel: debian_disk("ext4", scheme="disk", kernel=kernel),
    "ext3": lambda kernel: debian_disk("ext3", kernel=kernel),
    "ext2": lambda kernel: debian_disk("ext2", kernel=kernel),
    "/boot on vfat": lambda kernel: debian_disk("ext4", separate_boot="vfat", kernel=kernel),
    "/boot on ext4, logical": lambda kernel: debian_disk("ext4", separate_boot=True, logical=True, kernel=kernel),
}


@pytest.mark.parametrize("name", GUESTS)
def test_both_deliver_the_same_from_what_both_can_read(name: str, disks: DiskFactory, kernel: DebianKernel) -> None:
    theirs, ours = runs(disks.build(GUESTS[name](kernel)), {}, {"program": BUILTIN, "bootloader_args": ()})
    assert isinstance(theirs, Delivered)
    assert isinstance(ours, Delivered)
    assert ours.ramdisk
    assert (theirs.kernel, theirs.ramdisk, theirs.args) == (ours.kernel, ours.ramdisk, ours.args)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "qcow2"])
def test_what_pygrub_cannot_read_is_said_in_its_words(kind: str, disks: DiskFactory, kernel: DebianKernel) -> None:
    guest = debian_disk("ext4", image=kind, kernel=kernel) if kind == "qcow2" else debian_disk(kind, kernel=kernel)
    theirs, ours = runs(disks.build(guest), {}, {"program": BUILTIN, "bootloader_args": ()})
    assert isinstance(theirs, ProgramError)
    assert theirs.code == "program-failed"
    assert "Unable to find partition containing kernel" in theirs.sentence
    assert isinstance(ours, Delivered)


# --- options ----------------------------------------------------------------------------------------------------


def test_an_entry_by_number_and_by_title(disk: Path) -> None:
    title = b"Debian GNU/Linux, with Linux 6.1.0-99-amd64 (recovery mode)"
    number, named = runs(disk, {"entry": b"2"}, {"entry": title})
    assert isinstance(number, Delivered)
    assert b"single" in number.args
    assert isinstance(named, Delivered)
    assert named.args == number.args


def test_arguments_are_appended_by_pygrub_and_replaced_by_the_builtin_reader(disk: Path) -> None:
    usual, more, replaced = runs(
        disk, {}, {"args": b"single"}, {"program": BUILTIN, "bootloader_args": (), "args": b"single"}
    )
    assert isinstance(usual, Delivered)
    assert isinstance(more, Delivered)
    assert isinstance(replaced, Delivered)
    assert more.args == usual.args + b" single"
    assert replaced.args == b"single"


def test_kernel_and_ramdisk_by_their_paths_on_the_disk(disk: Path) -> None:
    files = {
        "kernel": b"/boot/vmlinuz-6.1.0-99-amd64",
        "ramdisk": b"/boot/initrd.img-6.1.0-99-amd64",
        "args": b"root=/dev/xvda1",
    }
    theirs, ours = runs(disk, files, files | {"program": BUILTIN, "bootloader_args": ()})
    assert isinstance(theirs, Delivered)
    assert isinstance(ours, Delivered)
    assert (theirs.kernel, theirs.ramdisk, theirs.args) == (ours.kernel, ours.ramdisk, b"root=/dev/xvda1")


def test_the_offset_of_the_file_system(disk: Path) -> None:
    right, wrong = runs(disk, {"offset": 1_048_576}, {"offset": 0})
    assert isinstance(right, Delivered)
    assert isinstance(wrong, ProgramError)
    assert "Unable to find partition" in wrong.sentence


def test_the_command_with_a_word_of_pygrubs_own(disk: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    domward("run", disk, *MENU, "--bootloader-arg=--list-entries", "--log-dir", logs).error("program-output-missing")
    (log,) = logs.iterdir()
    assert b"title: Debian GNU/Linux\r\n" in log.read_bytes()
