# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard output and error that are pipes, terminals, closed, full or gone."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support.commands import COMMAND, Ran, domward
from support.debian_kernel import DebianKernel


def in_shell(redirection: str, *arguments: str | Path) -> Ran:
    """Runs the command with a redirection of sh(1)."""
    command = " ".join(shlex.quote(str(word)) for word in (*COMMAND, *arguments))
    done = subprocess.run(["sh", "-c", f"exec {command} {redirection}"], capture_output=True, check=False)
    return Ran(done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii"))


COMMANDS: tuple[tuple[str, ...], ...] = (("run",), ("run", "--json"), ("inspect",), ("inspect", "--json"))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("redirection", "words"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left")])
def test_output_that_cannot_be_written(redirection: str, words: str, arguments: tuple[str, ...], disk: Path) -> None:
    ran = in_shell(redirection, *arguments, disk)
    assert words in ran.error("failed")
    assert ran.out == ""


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), ("doctor",)], ids=" ".join)
def test_texts_that_cannot_be_written(arguments: tuple[str, ...]) -> None:
    in_shell(">/dev/full", *arguments).error("failed")


@pytest.mark.parametrize("arguments", [*COMMANDS, ("doctor",)], ids=" ".join)
def test_a_reader_that_has_gone(arguments: tuple[str, ...], disk: Path) -> None:
    far, near = os.pipe()
    os.close(far)
    try:
        words: tuple[str | Path, ...] = arguments if arguments == ("doctor",) else (*arguments, disk)
        ran = domward(*words, capture_output=False, stdout=near, stderr=subprocess.PIPE)
    finally:
        os.close(near)
    assert "Broken pipe" in ran.error("failed")


def test_what_was_delivered_stays_where_it_cannot_be_printed(disk: Path, tmp_path: Path) -> None:
    in_shell(">&-", "run", disk, "--output-dir", tmp_path / "out").error("failed")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["args", "kernel", "ramdisk"]


@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", "<&- 2>&-", "2>/dev/full"])
def test_nowhere_to_say_what_is_wrong(redirection: str, tmp_path: Path) -> None:
    assert in_shell(redirection, "run", tmp_path / "missing").code == 7


def test_no_stream_at_all_does_not_disturb_the_result(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    # The disk and the channels must not be given the numbers of the missing streams.
    assert in_shell("<&- >&- 2>&-", "run", disk, "--output-dir", tmp_path / "out").code == 1
    assert (tmp_path / "out" / "kernel").read_bytes() == kernel.vmlinuz.read_bytes()


def on_a_terminal(*arguments: str | Path) -> tuple[Ran, bytes]:
    """Runs with standard error on a terminal, and returns what was shown there."""
    master, slave = os.openpty()
    try:
        ran = domward(*arguments, capture_output=False, stdout=subprocess.PIPE, stderr=slave)
        os.set_blocking(master, False)
        try:
            return ran, os.read(master, 1 << 16)
        except BlockingIOError:
            return ran, b""
    finally:
        os.close(master)
        os.close(slave)


def test_progress_on_a_terminal(disk: Path) -> None:
    ran, shown = on_a_terminal("run", disk)
    assert ran.code == 0
    steps = [step.rsplit(b"domward: ")[-1] for step in shown.split(b"\r\x1b[K") if step]
    assert steps[0] == b"opening the disk ..."
    assert b"copying the kernel ..." in steps
    assert steps[-1] == b"sealing and hashing ..."
    assert shown.endswith(b"\r\x1b[K")
    assert "domward:" not in ran.out


def test_no_progress_with_json(disk: Path) -> None:
    assert on_a_terminal("run", disk, "--json")[1] == b""


def test_an_error_on_a_terminal_stands_on_a_clean_line(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    _ran, shown = on_a_terminal("run", tmp_path / "disk")
    assert shown.split(b"\r\x1b[K")[-1].startswith(b"domward: disk-empty: ")


def test_no_progress_on_a_pipe(disk: Path) -> None:
    assert domward("run", disk).err == ""
    assert domward("inspect", disk).err == ""


def test_help_and_version() -> None:
    shown = domward("--help")
    assert shown.code == 0
    assert all(word in shown.out for word in ("run", "inspect", "doctor", "--version"))
    assert domward("run", "--help").out.startswith("usage: domward run")
    version = domward("--version")
    assert version.out.startswith("domward 0.")
    assert (version.code, version.err) == (0, "")
