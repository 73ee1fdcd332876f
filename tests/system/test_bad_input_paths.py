# SPDX-License-Identifier: GPL-3.0-or-later
"""What is given as a disk and is none: each is refused in one sentence, with the exit code of a bad disk."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import domward, refusal


def empty(at: Path) -> None:
    at.touch()


def link_loop(at: Path) -> None:
    other = at.with_name("other")
    other.symlink_to(at)
    at.symlink_to(other)


def bound_socket(at: Path) -> None:
    here = os.open(at.parent, os.O_PATH)  # a path of any length: a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{here}/{at.name}")
    os.close(here)


def zeroes(at: Path) -> None:
    with at.open("wb") as file:
        file.truncate(16 << 20)


def one_byte(at: Path) -> None:
    at.write_bytes(b"\0")


def text(at: Path) -> None:
    at.write_text("Dear guest,\n" * 1000)


def random_bytes(at: Path) -> None:
    at.write_bytes(random.Random(1).randbytes(4 << 20))


NO_DISKS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "empty file": (empty, "disk-empty", "is empty"),
    "folder": (Path.mkdir, "disk-not-a-disk", "is a folder"),
    "missing": (lambda _at: None, "disk-not-found", "There is no"),
    "loop of links": (link_loop, "disk-symlink-loop", "Too many levels"),
    "dangling link": (lambda at: at.symlink_to("nowhere"), "disk-not-found", "There is no"),
    "FIFO": (os.mkfifo, "disk-not-a-disk", "neither a regular file nor a block device"),
    "socket": (bound_socket, "disk-read-error", "cannot be opened"),
    "link to /dev/null": (lambda at: at.symlink_to("/dev/null"), "disk-not-a-disk", "neither"),
    "link to /dev/zero": (lambda at: at.symlink_to("/dev/zero"), "disk-not-a-disk", "neither"),
    "zeroes": (zeroes, "disk-no-filesystem", "no partition or file system"),
    "random bytes": (random_bytes, "disk-no-filesystem", "no partition or file system"),
    "one byte": (one_byte, "disk-no-filesystem", ""),
    "text": (text, "disk-no-filesystem", ""),
    "program": (lambda at: at.symlink_to("/bin/sh"), "disk-no-filesystem", ""),
}


@pytest.mark.parametrize(("make", "code", "words"), NO_DISKS.values(), ids=NO_DISKS)
def test_no_disk_at_all(make: Callable[[Path], None], code: str, words: str, tmp_path: Path) -> None:
    make(tmp_path / "disk")
    assert words in refusal(tmp_path, tmp_path / "disk", code=code)


def test_disk_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    refusal(tmp_path, tmp_path / "file" / "disk", code="disk-not-found")


def test_name_that_is_too_long(tmp_path: Path) -> None:
    assert "File name too long" in refusal(tmp_path, tmp_path / ("d" * 300), code="disk-read-error")


def test_name_that_would_drive_the_terminal(tmp_path: Path) -> None:
    name = os.fsdecode(b"\x1b[2J\xc3\xa4\xff")
    assert r"\x1b[2J\xe4\udcff." in refusal(tmp_path, tmp_path / name, code="disk-not-found")


def test_inspect_refuses_in_the_same_words(tmp_path: Path) -> None:
    ran = domward("inspect", tmp_path / "missing", "--json")
    assert "There is no" in ran.error("disk-not-found")
    assert ran.json()["error"]["exit_code"] == 7
