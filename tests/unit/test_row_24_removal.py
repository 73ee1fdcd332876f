# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 24: removal through directory fds never follows a link, tolerates absence, and tells what stays."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.results import boot_result

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd
from domward.supervisor.delivery import deliver, output_folder
from domward.supervisor.files import Left, remove_empty_folder, remove_file, remove_tree

ROUNDS, FOLDERS = 40, 30


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Fd]:
    (tmp_path / "in").mkdir()
    with Fd(os.open(tmp_path / "in", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "in") as fd:
        yield fd


@pytest.fixture
def inside(folder: Fd, tmp_path: Path) -> Path:
    return tmp_path / "in"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    made = tmp_path / "outside"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "precious").write_text("precious")
    return made


def precious(outside: Path) -> bool:
    return (outside / "deep" / "precious").read_text() == "precious"


def test_row_24_what_is_there_goes_and_what_is_not_is_tolerated(folder: Fd, inside: Path) -> None:
    (inside / "file").touch()
    (inside / "empty").mkdir()
    assert remove_file(folder, "file")
    assert not remove_file(folder, "file")
    assert remove_empty_folder(folder, "empty")
    assert not remove_empty_folder(folder, "empty")
    assert remove_tree(folder, "never was") == ()


def test_row_24_a_tree_of_everything_goes_and_no_link_is_followed(folder: Fd, inside: Path, outside: Path) -> None:
    tree = inside / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_text("x")
    (tree / "a" / "hard").hardlink_to(outside / "deep" / "precious")
    (tree / "to folder").symlink_to(outside)
    (tree / "a" / "to file").symlink_to(outside / "deep" / "precious")
    (tree / "up").symlink_to("../../outside")
    (tree / "dangling").symlink_to("nowhere")
    (tree / "loop").symlink_to("loop")
    os.mkfifo(tree / "fifo")
    (tree / "\udcff\n").touch()
    assert remove_tree(folder, "tree") == ()
    assert [*inside.iterdir()] == []
    assert precious(outside)


def test_row_24_a_link_in_place_of_the_tree_is_removed_itself(folder: Fd, inside: Path, outside: Path) -> None:
    (inside / "tree").symlink_to(outside)
    assert remove_tree(folder, "tree") == ()
    assert not (inside / "tree").is_symlink()
    assert precious(outside)


def test_row_24_nothing_outside_goes_while_a_thread_swaps_folders_for_links(
    folder: Fd, inside: Path, outside: Path, tmp_path: Path
) -> None:
    names = [str(number) for number in range(FOLDERS)]
    started, done = threading.Event(), threading.Event()
    aside = tmp_path / "aside"
    aside.mkdir()

    def swap() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            name = inside / "tree" / names[number % FOLDERS]
            with contextlib.suppress(OSError):  # it has just been removed, or is a link by now
                os.rename(name, aside / str(number))
                os.symlink(outside / "deep", name)
            started.set()

    thread = threading.Thread(target=swap)
    thread.start()
    started.wait()
    try:
        for _ in range(ROUNDS):
            for name in names:
                with contextlib.suppress(OSError):  # swapped between two of its system calls
                    (inside / "tree" / name / "below").mkdir(parents=True, exist_ok=True)
            remove_tree(folder, "tree")
            assert precious(outside)
    finally:
        done.set()
        thread.join()
    assert remove_tree(folder, "tree") == ()
    assert precious(outside)


def test_row_24_a_folder_that_becomes_a_link_between_look_and_open_is_left_and_told(
    folder: Fd, inside: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "tree" / "deep").mkdir(parents=True)
    (inside / "tree" / "deep" / "file").touch()
    really_open = os.open

    def swapped_open(path: str, flags: int, *, dir_fd: int) -> int:
        if path == "deep":
            os.rename(inside / "tree" / "deep", inside / "aside")
            (inside / "tree" / "deep").symlink_to(outside / "deep")
        return really_open(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapped_open)
    left = remove_tree(folder, "tree")
    assert [entry.path for entry in left] == ["tree/deep", "tree"]
    assert precious(outside)


def test_row_24_depth_is_bounded_and_what_is_deeper_stays_and_is_told(folder: Fd, inside: Path) -> None:
    deepest = inside.joinpath("tree", *(["d"] * limits.REMOVED_DEPTH), "e")
    deepest.mkdir(parents=True)
    left = remove_tree(folder, "tree")
    assert left[0] == Left("/".join(["tree", *["d"] * limits.REMOVED_DEPTH]), "Too many levels of symbolic links.")
    assert len(left) == limits.REMOVED_DEPTH + 1
    assert deepest.exists()


def test_row_24_something_that_comes_in_meanwhile_stays_with_its_folder(
    folder: Fd, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "tree").mkdir()
    (inside / "tree" / "old").touch()
    really_list = os.listdir

    def listing(number: int) -> list[str]:
        found = really_list(number)
        (inside / "tree" / "new").touch()
        return found

    monkeypatch.setattr(os, "listdir", listing)
    assert remove_tree(folder, "tree") == (Left("tree", "Directory not empty."),)
    assert [path.name for path in (inside / "tree").iterdir()] == ["new"]


def test_row_24_a_failed_delivery_leaves_no_temporary_file_of_its_own(tmp_path: Path) -> None:
    result = boot_result()
    try:
        os.ftruncate(result.ramdisk.fd.fileno() if result.ramdisk else -1, 3)  # found after the kernel is written
        with pytest.raises(OperationFailed), output_folder(tmp_path / "out") as out:
            deliver(result, out, tmp_path / "out")
    finally:
        result.close()
    assert [*tmp_path.iterdir()] == []


def test_row_24_a_new_output_folder_that_was_replaced_by_a_link_is_not_followed(tmp_path: Path, outside: Path) -> None:
    def work() -> None:
        with output_folder(tmp_path / "out"):
            (tmp_path / "out").rmdir()
            (tmp_path / "out").symlink_to(outside)
            raise OperationFailed("no result")

    with pytest.raises(OperationFailed, match="no result"):
        work()
    assert precious(outside)
