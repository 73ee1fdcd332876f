# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 12 to 14 with the command itself: every byte that a command line can hold, in each place that takes text."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.commands import domward
from support.planted import planted

from domward.protocol.errors import HelperDied
from domward.supervisor import BootRequest, Config, Supervisor

GIVEN = bytes(range(1, 256))  # execve(2) ends a word at NUL
PLAIN = bytes([*range(0x20, 0x7F), *range(0x80, 0x100)])
LOCALES = ["C", "POSIX", "C.UTF-8", "xx_XX.ISO-8859-1"]


@pytest.mark.parametrize("name", LOCALES)
def test_row_12_arguments_reach_the_result_byte_for_byte_in_any_locale(name: str, disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    word = os.fsdecode(b"--args=" + PLAIN)
    environment = {"LC_ALL": name, "PATH": os.environ["PATH"]}
    ran = domward("run", disk, word, "--output-dir", out, "--json", env=environment)
    assert (ran.code, ran.err) == (0, "")
    assert (out / "args").read_bytes() == PLAIN
    assert ran.json()["args"].encode("utf-8", "surrogateescape") == PLAIN


def test_row_12_control_characters_in_arguments_are_refused_each() -> None:
    assert "control" in domward("run", "disk", os.fsdecode(b"--args=" + GIVEN)).error("usage")


def test_row_13_an_entry_of_every_byte_is_looked_for_and_shown_safely(disk: Path) -> None:
    sentence = domward("run", disk, os.fsdecode(b"--entry=" + GIVEN)).error("disk-no-such-entry")
    assert "\\x01\\x02" in sentence


@pytest.mark.parametrize("command", ["run", "inspect", "log"])
def test_row_13_a_path_of_every_byte_is_taken_and_shown_safely(command: str, disk: Path, tmp_path: Path) -> None:
    name = GIVEN.replace(b"/", b"")
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name[:127]), os.fsdecode(name[127:]))
    code = "failed" if command == "log" else "disk-not-found"
    assert "\\x01\\x02" in domward(command, path).error(code)
    path.parent.mkdir()
    path.symlink_to(__file__ if command == "log" else disk)
    assert domward(command, path).code == 0


def test_row_13_an_output_folder_of_every_byte_is_made_and_shown_safely(disk: Path, tmp_path: Path) -> None:
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + GIVEN.replace(b"/", b"")))
    ran = domward("run", disk, "--output-dir", out)
    assert (ran.code, ran.err) == (0, "")
    assert "written  " in ran.out
    assert sorted(path.name for path in out.iterdir()) == ["args", "kernel", "ramdisk"]


def test_row_13_other_words_of_every_byte_are_refused_and_shown_safely(disk: Path) -> None:
    word = os.fsdecode(GIVEN)
    domward(word).error("usage")
    for more in (("--" + word,), ("--timeout", word), ("--format", word), (word,)):
        domward("run", "disk", *more).error("usage")
    for bootloader in (word, word.replace("/", "")):  # a path, and a name
        domward("run", disk, "--bootloader", bootloader).error("usage")


def test_row_13_a_confined_helpers_log_line_of_every_character_is_reported_safely(disk: Path, tmp_path: Path) -> None:
    code = """
def speak(channel):
    channel.receive((ReadBoot,))
    channel.send(Log(level=LogLevel.WARNING, line="".join(map(chr, range(256))) + chr(0x202e)))
    os._exit(3)

launcher._RUN[HelperKind.BOOTLOADER] = speak
"""

    async def main() -> HelperDied:
        async with Supervisor(Config(python=planted(tmp_path, code))) as supervisor:
            with pytest.raises(HelperDied) as caught:
                await supervisor.run_bootloader(BootRequest(disk=disk))
            return caught.value

    error = asyncio.run(main())
    assert str(error).isascii()
    assert all(" " <= character <= "~" for character in str(error))
    assert "\\x00\\x01" in error.sentence
    assert "\\xff\\u202e" in error.sentence
