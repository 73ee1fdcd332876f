# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are cut off, in formats that cannot be read, or with headers that lie; the sentence names what it is."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from pathlib import Path

import pytest
from support.commands import domward, refusal
from support.debian_kernel import DebianKernel
from support.disks import MIB, Disk, DiskFactory, Fs, Part, whole
from support.guests import debian_disk, extlinux_disk


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(("qemu-img", *arguments), check=True, capture_output=True)


@pytest.mark.parametrize("scheme", ["disk", "mbr", "gpt"])
@pytest.mark.parametrize("bytes_left", [1, 511, 512, 513, 4096, MIB, MIB + 1024, MIB + 2048, 2 * MIB, 5 * MIB])
def test_truncated_disk(bytes_left: int, scheme: str, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    disk = disks.copy(extlinux_disk(scheme=scheme, kernel=kernel), tmp_path / "disk")
    with disk.open("r+b") as file:
        file.truncate(bytes_left)
    ran = domward("run", disk, "--json")
    if ran.code:
        code = ran.json()["error"]["code"]
        ran.error(code)
        # With less than the partition table, nothing tells that there was more.
        assert code in ("disk-truncated", "disk-corrupt" if bytes_left > MIB else "disk-no-filesystem")
    else:  # all that the default entry takes lies before the cut
        assert ran.json()["kernel"]["sha256"] == hashlib.sha256(kernel.vmlinuz.read_bytes()).hexdigest()


def test_truncated_within_the_kernel(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    disk = disks.copy(extlinux_disk(kernel=kernel), tmp_path / "disk")
    at = disk.read_bytes().index(kernel.vmlinuz.read_bytes()[0x400:0x800])
    with disk.open("r+b") as file:
        file.truncate(at)
    refusal(tmp_path, disk, code="disk-truncated")


@pytest.mark.parametrize("format_", ["vmdk", "vdi", "vpc", "vhdx", "qed", "parallels"])
def test_image_in_another_format(format_: str, tmp_path: Path) -> None:
    qemu_img("create", "-f", format_, tmp_path / "disk", "8M")
    name = {"vpc": "vhd"}.get(format_, format_)
    assert f" {name} " in refusal(tmp_path, tmp_path / "disk", code="disk-unsupported-image")


def test_luks_on_the_whole_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"LUKS\xba\xbe\0\2" + bytes(4 * MIB))
    assert "luks" in refusal(tmp_path, tmp_path / "disk", code="disk-unsupported-image")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"LUKS\xba\xbe\0\2", "LUKS"),
        (bytes(512) + b"LABELONE" + struct.pack("<QII", 1, 0, 32) + b"LVM2 001", "LVM"),
    ],
    ids=["LUKS", "LVM"],
)
@pytest.mark.parametrize("scheme", ["mbr", "gpt"])
def test_partition_that_cannot_be_read(head: bytes, name: str, scheme: str, disks: DiskFactory, tmp_path: Path) -> None:
    disk = disks.copy(Disk(scheme, (Part(None, size_mib=8),)), tmp_path / "disk")
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(head)
    sentence = refusal(tmp_path, disk, code="disk-no-filesystem")
    assert name.lower() in sentence.lower()


class TestQcow2:
    def test_with_a_backing_file(self, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
        base = disks.build(extlinux_disk(kernel=kernel))
        qemu_img("create", "-f", "qcow2", "-b", base, "-F", "raw", tmp_path / "disk")
        assert "backing file" in refusal(tmp_path, tmp_path / "disk", code="disk-unsupported-image")

    def test_with_an_external_data_file(self, tmp_path: Path) -> None:
        qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "disk", "8M")
        assert "features" in refusal(tmp_path, tmp_path / "disk", code="disk-unsupported-image")

    def test_encrypted(self, tmp_path: Path) -> None:
        # Not luks: for that qemu-img times itself, and gives up on machines whose clock ticks too slowly for it.
        key = "encrypt.format=aes,encrypt.key-secret=key"
        secret = ("--object", "secret,id=key,data=secret")
        qemu_img("create", "-f", "qcow2", *secret, "-o", key, tmp_path / "disk", "8M")
        assert "encrypted" in refusal(tmp_path, tmp_path / "disk", code="disk-unsupported-image")

    @pytest.mark.parametrize(
        ("offset", "value", "code"),
        [
            (4, struct.pack(">I", 99), "disk-unsupported-image"),
            (20, struct.pack(">I", 63), "disk-corrupt"),
            (20, struct.pack(">I", 0), "disk-corrupt"),
            (24, struct.pack(">Q", (1 << 64) - 1), "disk-corrupt"),
            (24, struct.pack(">Q", 1 << 62), "disk-corrupt"),
            (36, struct.pack(">I", 0), "disk-corrupt"),
            (40, struct.pack(">Q", (1 << 64) - 8), "disk-truncated"),
            (72, struct.pack(">Q", 1 << 63), "disk-unsupported-image"),
        ],
        ids=["version", "huge clusters", "no clusters", "size", "huge size", "no table", "table beyond", "feature"],
    )
    def test_with_a_header_that_lies(
        self, offset: int, value: bytes, code: str, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
    ) -> None:
        disk = disks.copy(debian_disk("ext4", kernel=kernel, image="qcow2"), tmp_path / "disk")
        with disk.open("r+b") as file:
            file.seek(offset)
            file.write(value)
        refusal(tmp_path, disk, code=code)

    @pytest.mark.parametrize("bytes_left", [4, 72, 104, 65536, 200_000, 400_000])
    def test_truncated(self, bytes_left: int, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
        disk = disks.copy(debian_disk("ext4", kernel=kernel, image="qcow2"), tmp_path / "disk")
        with disk.open("r+b") as file:
            file.truncate(bytes_left)
        refusal(tmp_path, disk, code="disk-unsupported-image" if bytes_left < 8 else "disk-truncated")

    def test_a_raw_disk_that_is_said_to_be_qcow2(self, disks: DiskFactory, tmp_path: Path) -> None:
        disk = disks.build(whole(Fs("ext4")))
        refusal(tmp_path, disk, "--format", "qcow2", code="disk-unsupported-image")

    def test_a_qcow2_image_that_is_said_to_be_raw(
        self, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
    ) -> None:
        disk = disks.build(debian_disk("ext4", kernel=kernel, image="qcow2"))
        refusal(tmp_path, disk, "--format", "raw", code="disk-no-filesystem")
