# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward-bootloader` as xenopsd, xend and a person run it, and the outputs that it is given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.commands import Ran
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory, Fs, whole
from support.guests import debian_disk, expected
from support.toolstacks import FRONT_END, SECONDS, parse_simple, parse_sxp, xenopsd

import domward
from domward.supervisor import paths

ARGS = "root=LABEL=a \"b c\" d=\\e f='g'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def front_end(*words: str | Path, **options: Any) -> Ran:
    usual: dict[str, Any] = {"capture_output": True, "timeout": SECONDS, "stdin": subprocess.DEVNULL}
    done = subprocess.run([*FRONT_END, *words], check=False, **usual | options)
    return Ran(done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode())


def refused(*words: str | Path, code: str, **options: Any) -> str:
    ran = front_end(*words, **options)
    assert ran.out == ""
    return ran.error(code)


def test_xenopsd_gets_lines_and_files_in_pygrubs_place(disk: Path, kernel: DebianKernel) -> None:
    place = paths.PYGRUB_OUTPUT
    missing = next((path for path in (place.parents[0], place) if not path.exists()), None)
    done = xenopsd("--runas=65535", disk)
    assert (done.returncode, done.stderr) == (0, b"")
    found = parse_simple(done.stdout)
    try:
        wanted = expected(debian_disk("ext4", kernel=kernel), kernel)
        # bootloader.ml, sanity_check_path: the folder of each file, as it is written, must be this one
        assert {os.path.dirname(found[name]) for name in ("kernel", "ramdisk")} == {str(place)}
        assert Path(found["kernel"]).read_bytes() == wanted.kernel
        assert Path(found["ramdisk"]).read_bytes() == wanted.ramdisk
        assert found["args"] == wanted.args
        assert place.stat().st_mode & 0o077 == 0 or missing is None
    finally:
        for name in ("kernel", "ramdisk"):
            os.unlink(found[name])
        for path in (place, place.parent):
            if missing is not None and path.is_relative_to(missing):
                path.rmdir()


def test_xenopsd_gets_the_reason_on_standard_error(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "disk").write_bytes(b"\0" * 65536)
    done = xenopsd(f"--output-directory={folder}", tmp_path / "disk")
    assert (done.returncode, done.stdout) == (7, b"")
    assert done.stderr.startswith(b"domward: disk-no-filesystem: ")
    assert [*folder.iterdir()] == []


def test_xend_gets_an_s_expression_through_its_fifo(disks: DiskFactory, folder: Path, tmp_path: Path) -> None:
    config = f"menuentry 'x' {{\n linux /k {ARGS.replace(' f=', ' h f=')}\n initrd /i\n}}\n"
    disk = disks.build(whole(Fs("ext4", {"k": b"MZ", "i": b"initrd", "boot/grub/grub.cfg": config})))
    fifo = tmp_path / "xenbl.4711"
    os.mkfifo(fifo, 0o600)
    words = [*FRONT_END, f"--output={fifo}", f"--output-directory={folder}", "--args=it's", disk]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        answer = fifo.read_bytes()
    assert process.returncode == 0
    kind, *items = parse_sxp(answer)
    assert kind == "linux"
    found: dict[str, str] = dict(items)  # type: ignore[arg-type]  # each is a list of two strings
    assert Path(found["kernel"]).read_bytes() == b"MZ"
    assert Path(found["ramdisk"]).read_bytes() == b"initrd"
    assert found["args"].endswith("it's")
    assert "\\" in found["args"] or '"' in found["args"]


def test_the_reader_of_a_fifo_sees_its_end_also_after_a_failure(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    fifo = tmp_path / "xenbl.4711"
    os.mkfifo(fifo, 0o600)
    words = [*FRONT_END, f"--output={fifo}", f"--output-directory={folder}", tmp_path / "disk"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert fifo.read_bytes() == b""
    assert process.returncode == 7


def test_nobody_reads_the_fifo(disk: Path, folder: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    words = (f"--output={fifo}", f"--output-directory={folder}", "--timeout=0.3", disk)
    assert refused(*words, code="failed").endswith("cannot be opened: nobody reads it.")


def test_an_output_file_that_is_not_there_yet_is_made_for_its_owner(disk: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "answer"
    ran = front_end(f"--output={output}", f"--output-directory={folder}", "--output-format=simple", disk)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert output.stat().st_mode & 0o777 == 0o600
    assert set(parse_simple(output.read_bytes())) == {"kernel", "ramdisk", "args"}
    output.unlink()
    (tmp_path / "disk").touch()
    refused(f"--output={output}", f"--output-directory={folder}", tmp_path / "disk", code="disk-empty")
    assert not output.exists()


def test_what_an_output_file_held_before_is_gone(disk: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "answer"
    output.write_bytes(b"x" * 100_000)
    ran = front_end(f"--output={output}", f"--output-directory={folder}", "--output-format=simple0", disk)
    assert ran.code == 0
    assert output.read_bytes().startswith(b"kernel /")
    assert output.read_bytes().endswith(b"\0\0")


def test_paths_are_absolute_whatever_was_given(disk: Path, folder: Path) -> None:
    ran = front_end("--output-directory=out", "--output-format=simple", disk, cwd=folder.parent)
    found = parse_simple(ran.out.encode())
    assert Path(found["kernel"]).parent == folder


def test_a_link_in_the_outputs_place_is_not_followed(disk: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("mine")
    words = (f"--output={tmp_path / 'link'}", f"--output-directory={folder}", disk)
    assert "cannot be opened" in refused(*words, code="failed")
    assert (tmp_path / "target").read_text() == "mine"


def test_outputs_that_cannot_be_used(disk: Path, folder: Path, tmp_path: Path) -> None:
    assert "Name a folder that exists." in refused(f"--output-directory={tmp_path / 'none'}", disk, code="failed")
    assert "Name a folder" in refused(f"--output-directory={disk}", disk, code="failed")
    given = f"--output-directory={folder}"
    assert "neither a file nor a FIFO" in refused("--output=/dev/null", given, disk, code="usage")
    assert "Is a directory" in refused(f"--output={tmp_path}", given, disk, code="failed")
    assert "No such file" in refused(f"--output={tmp_path / 'none' / 'x'}", given, disk, code="failed")
    assert [*folder.iterdir()] == []


def test_a_path_that_the_format_cannot_tell(disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with\nnewline"
    folder.mkdir()
    sentence = refused(f"--output-directory={folder}", "--output-format=simple", disk, code="failed")
    assert sentence == "The kernel's path cannot be told in the format simple."
    assert [*folder.iterdir()] == []


def test_standard_output_that_is_closed_or_full(disk: Path, folder: Path) -> None:
    given = (f"--output-directory={folder}", disk)
    done = front_end(*given, preexec_fn=lambda: os.close(1), capture_output=False, stderr=subprocess.PIPE)
    assert "standard output, which is closed" in done.error("failed")
    with open("/dev/full", "wb") as full:
        done = front_end(*given, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert "No space left on device" in done.error("failed")
    assert [*folder.iterdir()] == []


def test_help_and_version_are_told_only_when_nothing_else_is_asked(folder: Path) -> None:
    assert front_end("--version").out == f"domward-bootloader {domward.__version__}\n"
    for option in ("-h", "--help"):
        assert front_end(option).out.startswith("usage: domward-bootloader ")
    # exit status 0 would make libxl look for a kernel
    assert "not recognized" in refused(f"--output-directory={folder}", "--help", "disk", code="usage")
