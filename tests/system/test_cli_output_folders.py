# SPDX-License-Identifier: GPL-3.0-or-later
"""Output folders that cannot take a result: what was in them before is still there."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import EarlierOutput, domward


@contextlib.contextmanager
def mounted(where: Path, options: str) -> Iterator[EarlierOutput]:
    """A tmpfs at `where` with an earlier result; `options` hold once that is there."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", where], check=True)
    try:
        earlier = EarlierOutput.made(where / "out")
        subprocess.run(["mount", "-o", f"remount,{options}", where], check=True)
        yield earlier
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize(
    ("options", "words"), [("ro", "Read-only file system"), ("size=100k", "No space left on device")]
)
def test_folder_that_is_read_only_or_full(options: str, words: str, disk: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "mounted", options) as earlier:
        before = earlier.state()
        assert words in domward("run", disk, "--output-dir", earlier.folder).error("failed")
        assert earlier.state() == before
        if options != "ro":
            new = earlier.folder.parent / "new"
            assert words in domward("run", disk, "--output-dir", new).error("failed")
            assert not new.exists()


def test_folder_without_a_parent(disk: Path, tmp_path: Path) -> None:
    assert "No such file" in domward("run", disk, "--output-dir", tmp_path / "a" / "b").error("failed")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["file", "FIFO", "dangling link", "link to a file", "loop of links"])
def test_folder_that_is_none(kind: str, disk: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    match kind:
        case "file":
            out.write_text("mine")
        case "FIFO":
            os.mkfifo(out)
        case "dangling link":
            out.symlink_to(other)
        case "link to a file":
            other.write_text("mine")
            out.symlink_to(other)
        case _:
            out.symlink_to(out)
    before = sorted((path.name, path.lstat().st_mtime_ns) for path in tmp_path.iterdir())
    assert "cannot be used" in domward("run", disk, "--output-dir", out).error("failed")
    assert sorted((path.name, path.lstat().st_mtime_ns) for path in tmp_path.iterdir()) == before


def test_link_to_a_folder(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    ran = domward("run", disk, "--output-dir", tmp_path / "link", "--json")
    assert ran.json()["kernel"]["path"] == str(tmp_path / "link" / "kernel")
    assert len([*(tmp_path / "folder").iterdir()]) == 3


@pytest.mark.parametrize("name", ["kernel", "ramdisk", "args"])
def test_a_folder_in_the_place_of_a_file(name: str, disk: Path, tmp_path: Path) -> None:
    earlier = EarlierOutput.made(tmp_path / "out")
    (earlier.folder / name).unlink()
    (earlier.folder / name).mkdir()
    before = earlier.state()
    assert f"{name} is a folder" in domward("run", disk, "--output-dir", earlier.folder).error("failed")
    assert earlier.state() == before


def test_a_failure_takes_a_new_folder_away_again(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    domward("run", tmp_path / "disk", "--output-dir", tmp_path / "out").error("disk-empty")
    assert not (tmp_path / "out").exists()


def test_a_folder_named_by_hostile_bytes(disk: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\x1b[2J\xff")
    ran = domward("run", disk, "--output-dir", tmp_path / name)
    assert ran.out.endswith("\\x1b[2J\\udcff\n")
    ran = domward("run", disk, "--output-dir", tmp_path / name, "--json")
    assert ran.json()["kernel"]["path"] == str(tmp_path / name / "kernel")
