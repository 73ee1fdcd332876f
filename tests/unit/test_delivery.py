# SPDX-License-Identifier: GPL-3.0-or-later
"""Results are put into folders whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import EarlierOutput
from support.results import boot_result

from domward.protocol.errors import DomwardError, OperationFailed
from domward.supervisor import interrupts
from domward.supervisor.bootloader import BootResult
from domward.supervisor.delivery import Delivered, deliver, output_folder


@pytest.fixture
def result() -> Iterator[BootResult]:
    made = boot_result()
    yield made
    made.close()


def delivered(result: BootResult, folder: Path) -> Delivered:
    with output_folder(folder) as fd:
        return deliver(result, fd, folder)


def test_a_result_in_a_new_folder(result: BootResult, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert delivered(result, out) == Delivered(out / "kernel", out / "ramdisk", out / "args")
    assert (out / "kernel").read_bytes() == b"MZ new kernel"
    assert (out / "ramdisk").read_bytes() == b"\x1f\x8b new ramdisk"
    assert (out / "args").read_bytes() == b"root=/dev/xvda1"
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_a_result_without_a_ramdisk_takes_an_earlier_one_away(tmp_path: Path) -> None:
    earlier = EarlierOutput.made(tmp_path / "out")
    with contextlib.closing(boot_result(ramdisk=None)) as result:
        assert delivered(result, earlier.folder).ramdisk is None
    assert sorted(path.name for path in earlier.folder.iterdir()) == ["args", "kernel"]


@pytest.mark.parametrize("failing", ["open", "sendfile", "write", "rename"])
def test_a_call_that_fails_leaves_what_was_there(
    failing: str, result: BootResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = EarlierOutput.made(tmp_path / "out")
    before = earlier.state()
    with output_folder(earlier.folder) as folder:

        def fail(*_arguments: object, **_options: object) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, failing, fail)
        with pytest.raises(OperationFailed, match="Input/output error"):
            deliver(result, folder, earlier.folder)
        monkeypatch.undo()
    assert earlier.state() == before


def test_a_result_that_ends_early_is_not_delivered(tmp_path: Path) -> None:
    earlier = EarlierOutput.made(tmp_path / "out")
    before = earlier.state()
    with contextlib.closing(boot_result()) as result:
        os.ftruncate(result.kernel.fd.fileno(), 3)
        with pytest.raises(OperationFailed, match="ended early"):
            delivered(result, earlier.folder)
    assert earlier.state() == before


def test_a_new_folder_goes_away_where_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(DomwardError), output_folder(tmp_path / "out"):
        raise OperationFailed("no result")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_there_stays_where_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(DomwardError), output_folder(tmp_path):
        raise OperationFailed("no result")
    assert tmp_path.exists()


def test_a_new_folder_in_which_somebody_put_something_stays(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        with output_folder(folder):
            (folder / "notes").write_text("mine")
            raise OperationFailed("no result")

    with pytest.raises(OperationFailed):
        work(tmp_path / "out")
    assert (tmp_path / "out" / "notes").read_text() == "mine"


def test_a_signal_never_leaves_new_and_old_files_side_by_side(
    result: BootResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = EarlierOutput.made(tmp_path / "out")
    rename = os.rename

    def interrupted_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    monkeypatch.setattr(os, "rename", interrupted_rename)
    with pytest.raises(KeyboardInterrupt), interrupts.as_keyboard_interrupt():
        delivered(result, earlier.folder)
    assert {name: (earlier.folder / name).read_bytes() for name in ("kernel", "ramdisk", "args")} == {
        "kernel": b"MZ new kernel",
        "ramdisk": b"\x1f\x8b new ramdisk",
        "args": b"root=/dev/xvda1",
    }
    assert len([*earlier.folder.iterdir()]) == 3


def test_a_signal_while_copying_leaves_what_was_there(
    result: BootResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = EarlierOutput.made(tmp_path / "out")
    before = earlier.state()

    def interrupted(*_arguments: object) -> int:
        signal.raise_signal(signal.SIGHUP)
        return 0

    monkeypatch.setattr(os, "sendfile", interrupted)
    with pytest.raises(KeyboardInterrupt), interrupts.as_keyboard_interrupt():
        delivered(result, earlier.folder)
    assert earlier.state() == before


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "a\0b", "usage"), (tmp_path / "a" / "b", "failed"), (Path("/dev/null"), "failed")):
        with pytest.raises(DomwardError) as caught, output_folder(path):
            pass
        assert caught.value.code == code
