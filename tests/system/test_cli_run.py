# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward run`: what it prints, what it writes, and what it leaves."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from support.commands import EarlierOutput, domward
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory, Fs, whole
from support.guests import debian_disk, expected, small_kernel

DISK_LAYERS = {"user", "seccomp", "capabilities", "network-namespace", "mount-namespace"}


def test_the_default_entry_into_a_new_folder(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = domward("run", disk, "--output-dir", out)
    wanted = expected(debian_disk("ext4", kernel=kernel), kernel)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "entry    Debian GNU/Linux",
        f"kernel   64.0 KiB, sha256 {hashlib.sha256(wanted.kernel).hexdigest()}",
        f"ramdisk  64.0 KiB, sha256 {hashlib.sha256(wanted.ramdisk).hexdigest()}",
        f"args     {wanted.args}",
        f"written  {out}",
    ]
    assert (out / "kernel").read_bytes() == wanted.kernel
    assert (out / "ramdisk").read_bytes() == wanted.ramdisk
    assert (out / "args").read_text() == wanted.args
    assert sorted(path.name for path in out.iterdir()) == ["args", "kernel", "ramdisk"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}


def test_json_has_what_the_man_page_says(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    ran = domward("run", disk, "--output-dir", tmp_path / "out", "--json")
    found = ran.json()
    assert (ran.code, ran.err) == (0, "")
    assert set(found) == {"operation", "title", "args", "source", "kernel", "ramdisk", "log", "helpers"}
    assert found["operation"].startswith("boot-")
    assert found["title"] == "Debian GNU/Linux"
    assert found["source"] == "grub:0:/boot/grub/grub.cfg"
    content = kernel.vmlinuz.read_bytes()
    assert found["kernel"] == {
        "path": str(tmp_path / "out" / "kernel"),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert set(found["ramdisk"]) == {"path", "size", "sha256"}
    (helper,) = found["helpers"]
    assert set(helper) == {"pid", "uid", "layers", "verified"}
    assert helper["uid"] >= 1_900_000_000
    assert set(helper["layers"]) >= DISK_LAYERS
    assert set(helper["verified"]) >= DISK_LAYERS


def test_without_a_folder_nothing_is_written(disk: Path, tmp_path: Path) -> None:
    found = domward("run", disk, "--json", cwd=tmp_path).json()
    assert found["kernel"]["path"] is None
    assert found["ramdisk"]["path"] is None
    assert [*tmp_path.iterdir()] == []


def test_an_earlier_result_is_replaced(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    earlier = EarlierOutput.made(tmp_path / "out")
    earlier.folder.chmod(0o755)
    (earlier.folder / "notes").write_text("of the administrator")
    (earlier.folder / "kernel").chmod(0o644)
    held = (earlier.folder / "kernel").open()
    domward("run", disk, "--output-dir", earlier.folder)
    with held:
        assert held.read() == "earlier kernel"  # a domain that is being built keeps its file
    assert (earlier.folder / "kernel").read_bytes() == kernel.vmlinuz.read_bytes()
    assert stat.S_IMODE((earlier.folder / "kernel").stat().st_mode) == 0o600
    assert (earlier.folder / "notes").read_text() == "of the administrator"
    assert stat.S_IMODE(earlier.folder.stat().st_mode) == 0o755
    assert len([*earlier.folder.iterdir()]) == 4


def test_a_ramdisk_of_an_earlier_result_goes_where_the_entry_has_none(disks: DiskFactory, tmp_path: Path) -> None:
    config = "menuentry Linux {\n linux /vmlinuz a=b\n}\n"
    disk = disks.build(whole(Fs("ext4", {"vmlinuz": b"MZ kernel", "boot/grub/grub.cfg": config})))
    earlier = EarlierOutput.made(tmp_path / "out")
    ran = domward("run", disk, "--output-dir", earlier.folder)
    assert "ramdisk  none\n" in ran.out
    assert sorted(path.name for path in earlier.folder.iterdir()) == ["args", "kernel"]
    assert domward("run", disk, "--json").json()["ramdisk"] is None


def test_links_in_the_folder_are_replaced_and_not_followed(disk: Path, tmp_path: Path) -> None:
    out, target = tmp_path / "out", tmp_path / "target"
    out.mkdir()
    target.write_text("somebody else's")
    (out / "kernel").symlink_to(target)
    assert domward("run", disk, "--output-dir", out).code == 0
    assert target.read_text() == "somebody else's"
    assert not (out / "kernel").is_symlink()


@pytest.mark.parametrize(
    ("entry", "version", "recovery"),
    [
        ("0", "6.1.0-99-amd64", False),
        ("2", "6.1.0-99-amd64", True),
        ("3", "5.10.0-9-amd64", False),
        ("Debian GNU/Linux", "6.1.0-99-amd64", False),
        ("Debian GNU/Linux, with Linux 5.10.0-9-amd64", "5.10.0-9-amd64", False),
        (
            "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-99-amd64 (recovery mode)",
            "6.1.0-99-amd64",
            True,
        ),
    ],
)
def test_choosing_an_entry(entry: str, version: str, recovery: bool, disk: Path) -> None:
    found = domward("run", disk, "--entry", entry, "--json").json()
    assert (" single" in found["args"]) == recovery
    assert (found["kernel"]["size"] == 64 * 1024) == version.startswith("6.1")


def test_choosing_an_entry_by_its_id(disk: Path) -> None:
    entries = domward("inspect", disk, "--json").json()["entries"]
    for entry in entries:
        assert domward("run", disk, "--entry", entry["id"], "--json").json()["title"] == entry["title"]


def test_arguments_in_place_of_the_entrys(disk: Path, tmp_path: Path) -> None:
    arguments = os.fsencode("root=/dev/xvda1 ä single ") + b"\xff"
    ran = domward("run", disk, "--args", os.fsdecode(arguments), "--output-dir", tmp_path / "out", "--json")
    assert ran.json()["args"] == os.fsdecode(arguments)
    assert (tmp_path / "out" / "args").read_bytes() == arguments
    assert domward("run", disk, "--args", "", "--json").json()["args"] == ""
    assert domward("run", disk, "--args=-x", "--json").json()["args"] == "-x"
    assert domward("run", disk, "--args", "a" * 1023, "--json").json()["args"] == "a" * 1023


@pytest.mark.parametrize("image", ["raw", "qcow2"])
def test_saying_the_format(image: str, disks: DiskFactory, kernel: DebianKernel) -> None:
    disk = disks.build(debian_disk("ext4", kernel=kernel, image=image))
    ran = domward("run", disk, "--format", image, "--bootloader", "builtin", "--timeout", "60.5")
    assert ran.code == 0


def test_a_kernel_of_a_real_size(disks: DiskFactory, tmp_path: Path) -> None:
    big = small_kernel(tmp_path, kib=12 * 1024)
    disk = disks.build(debian_disk("xfs", kernel=big, older=False))
    domward("run", disk, "--output-dir", tmp_path / "out")
    assert (tmp_path / "out" / "kernel").read_bytes() == big.vmlinuz.read_bytes()
    assert (tmp_path / "out" / "ramdisk").read_bytes() == big.initrd.read_bytes()
