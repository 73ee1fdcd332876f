# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk builders make what was described, as this machine's kernel and the partitioning tools see it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import Disk, DiskFactory, Fs, Part, layout
from support.guests import debian_disk, extlinux_disk, fedora_disk, root_uuid
from support.kernel_view import kernel_view, unmountable
from support.trees import Fragmented, HardLink, Sparse, Symlink

DEEP = "folder/" * 30 + "deep"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("populate", ["mkfs", "mount"])
def test_every_kind_of_file_arrives(kind: str, populate: str, disks: DiskFactory, tmp_path: Path) -> None:
    if reason := unmountable(kind):
        pytest.skip(reason)
    apart = bytes(range(256)) * 1024
    tree = {
        "sparse": Sparse(2 << 20, ((1 << 20, b"in the middle"),)),
        DEEP: b"deep",
        "x" * 255: "long name",
        "link": Symlink("/sparse"),
        "apart": Fragmented(apart),
        "empty": b"",
    }
    if populate == "mount":
        tree |= {"hard": HardLink("sparse")}
    disk = Disk("mbr", (Part(None), Part(Fs(kind, tree, populate=populate), logical=True)))
    seen = kernel_view(disks.build(disk), layout(disk)[1], kind, tmp_path)
    assert seen[b"/sparse"].sha256 == sha256(bytes(1 << 20) + b"in the middle" + bytes((1 << 20) - 13))
    assert seen[b"/apart"].sha256 == sha256(apart)
    assert seen[b"/" + DEEP.encode()].size == 4
    assert seen[b"/" + b"x" * 255].type == "file"
    assert seen[b"/link"].target == b"/sparse"
    assert populate == "mkfs" or seen[b"/hard"].inode == seen[b"/sparse"].inode


@pytest.mark.parametrize("scheme", ["mbr", "gpt"])
def test_a_debian_guest_with_separate_boot(scheme: str, disks: DiskFactory, kernel: DebianKernel) -> None:
    disk = debian_disk("ext4", scheme=scheme, separate_boot="vfat", logical=scheme == "mbr", kernel=kernel)
    image = disks.build(disk)
    table = subprocess.run(["sfdisk", "--dump", image], check=True, capture_output=True, text=True).stdout
    assert [place.number for place in layout(disk)] == ([1, 5] if scheme == "mbr" else [1, 2])
    assert all(f"start={place.offset // 512:12}" in table for place in layout(disk))
    listed = ["mtype", "-i", f"{image}@@{layout(disk)[0].offset}", "::grub/grub.cfg"]
    text = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    assert f"linux\t/vmlinuz-{kernel.version} root=UUID={root_uuid('ext4')} ro console=hvc0 quiet" in text
    assert "submenu 'Advanced options" in text


def test_the_images_are_sparse_and_built_once(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    disk = debian_disk("xfs", kernel=kernel)
    first, second = disks.build(disk), disks.build(debian_disk("xfs", kernel=kernel))
    assert first == second
    copy = disks.copy(disk, tmp_path / "copy")
    assert copy.stat().st_blocks * 512 < copy.stat().st_size // 4
    subprocess.run(["cmp", copy, first], check=True)


def test_qcow2_holds_the_same_files(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    disk = debian_disk("ext4", kernel=kernel, image="qcow2", convert=("-c",))
    raw, where = tmp_path / "raw", tmp_path / "mount"
    where.mkdir()
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disks.build(disk), raw], check=True)
    seen = kernel_view(raw, layout(disk)[0], "ext4", where)
    assert seen[f"/boot/vmlinuz-{kernel.version}".encode()].sha256 == sha256(kernel.vmlinuz.read_bytes())


def test_fedora_and_extlinux_guests(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    disk = fedora_disk("ext4", kernel=kernel, folder=tmp_path)
    where = tmp_path / "mount"
    where.mkdir()
    seen = kernel_view(disks.build(disk), layout(disk)[0], "ext4", where)
    assert seen[b"/grub2/grubenv"].size == 1024
    assert sum(path.startswith(b"/loader/entries/") for path in seen) == 2
    plain = disks.build(extlinux_disk("vfat", kernel=kernel))
    subprocess.run(["mtype", "-i", plain, "::extlinux/extlinux.conf"], check=True, capture_output=True)
