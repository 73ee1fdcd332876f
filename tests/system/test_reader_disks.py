# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks made by the real tools: partition tables, qcow2, FAT, a separate /boot, and damage that is not subtle."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.disks import MIB, Disk, DiskFactory, Fs, Part, layout, whole
from support.trees import Entry, Symlink

from domward.helpers.reader.copy import copy_files
from domward.helpers.reader.interface import NodeType
from domward.helpers.reader.tree import DiskForest, open_disk
from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason

KERNEL = random.Random(1).randbytes(700_001)
INITRD = random.Random(2).randbytes(300_003)
BOOT: dict[str, Entry] = {"vmlinuz-6.1": KERNEL, "initrd.img-6.1": INITRD, "here": Symlink("vmlinuz-6.1")}
ESP: dict[str, Entry] = {
    "EFI/Boot/bootx64.efi": b"efi",
    "A long name, with blanks and \u00fcml\u00e4uts \u4e2d.conf": b"long",
    "lower.txt": b"lower",
    "UPPER.TXT": b"upper",
    "vmlinuz": KERNEL,
    **{f"many/{n}-{'n' * (n % 120)}": str(n).encode() for n in range(300)},
}


@contextmanager
def opened(image: Path, format: str | None = None) -> Iterator[DiskForest]:  # noqa: A002 -- as open_disk has it
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield open_disk(fd, format)
    finally:
        os.close(fd)


def copied(forest: DiskForest, tree: int, *paths: bytes, limit: int = limits.RAMDISK_BYTES) -> bytes:
    with open(os.memfd_create("sink", os.MFD_CLOEXEC), "w+b") as sink:
        sink.write(b"what was there before" * MIB)
        sink.flush()
        written = copy_files(forest, [forest.trees[tree].file(path) for path in paths], sink.fileno(), limit)
        sink.seek(0)
        data = sink.read()
        assert len(data) == written
        return data


def reason(image: Path, format: str | None = None) -> DiskReason:  # noqa: A002 -- as open_disk has it
    with pytest.raises(DiskError) as caught, opened(image, format):
        pass
    return caught.value.reason


def separate_boot(scheme: str, fstab: str, **options: object) -> Disk:
    root: dict[str, Entry] = {
        "etc/fstab": fstab,
        "boot/hidden": b"under the mount",
        "vmlinuz": Symlink("boot/vmlinuz-6.1"),
        "initrd.img": Symlink("/boot/initrd.img-6.1"),
        "up": Symlink("boot/../boot/./here"),
    }
    boot = Fs("ext2", BOOT, mount="/boot", label="BOOT", uuid="01234567-89ab-cdef-0123-456789abcdef")
    parts = (Part(Fs("vfat", ESP, mount="/boot/efi")), Part(boot), Part(Fs("ext4", root), logical=scheme == "mbr"))
    return Disk(scheme, parts, **options)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("scheme", ["mbr", "gpt"])
@pytest.mark.parametrize(
    "device", ["UUID=01234567-89AB-cdef-0123-456789abcdef", "LABEL=BOOT", "/dev/xvda2", "/dev/disk/by-label/BOOT"]
)
def test_paths_cross_to_a_separate_boot(scheme: str, device: str, disks: DiskFactory) -> None:
    fstab = (
        f"# comment\n/dev/xvda9 none swap sw 0 0\n{device} /boot ext2 defaults 0 2\n/dev/xvda1\t/boot/efi vfat x 0 0\n"
    )
    disk = separate_boot(scheme, fstab)
    with opened(disks.build(disk)) as forest:
        assert [(t.fs.volume.index, t.fs.kind) for t in forest.trees] == [
            (place.number, kind) for place, kind in zip(layout(disk), ("vfat", "ext", "ext"), strict=True)
        ]
        assert [(t.fs.volume.offset, t.fs.volume.size) for t in forest.trees] == [
            (place.offset, place.size) for place in layout(disk)
        ]
        root = forest.trees[2]
        assert copied(forest, 2, b"/vmlinuz") == KERNEL
        assert copied(forest, 2, b"/initrd.img", b"/up") == INITRD + b"\0" + KERNEL
        assert root.names(b"/boot") == [b"here", b"initrd.img-6.1", b"lost+found", b"vmlinuz-6.1"]
        assert root.read(b"/boot/efi/efi/BOOT/bootx64.EFI", 10) == b"efi"
        assert not root.exists(b"/boot/hidden")
        assert forest.by_uuid(b"01234567-89AB-CDEF-0123-456789ABCDEF") is forest.trees[1]
        assert forest.by_label(b"BOOT") is forest.trees[1]
        assert forest.by_device(b"hd0,2") is forest.trees[1]
        assert forest.by_device(b"(hd1,msdos2)") is (forest.trees[1] if scheme == "mbr" else None)
        assert forest.by_device(b"hd0,gpt2") is (forest.trees[1] if scheme == "gpt" else None)
        assert forest.by_device(b"hd0") is None


def test_partition_uuids_are_those_of_blkid(disks: DiskFactory) -> None:
    for scheme in ("mbr", "gpt"):
        image = disks.build(separate_boot(scheme, ""))
        listed = subprocess.run(["sfdisk", "--dump", image], check=True, capture_output=True, text=True).stdout
        with opened(image) as forest:
            for tree in forest.trees:
                if scheme == "gpt":
                    assert f"uuid={tree.fs.volume.uuid.upper()}" in listed
                else:
                    disk_id = next(line.split("0x")[1] for line in listed.splitlines() if line.startswith("label-id"))
                    assert tree.fs.volume.uuid == f"{disk_id}-{tree.fs.volume.index:02x}"


@pytest.mark.parametrize(
    "options", [(), ("-c",), ("-o", "compat=0.10"), ("-o", "cluster_size=4096"), ("-o", "cluster_size=2M")]
)
def test_qcow2_reads_as_the_raw_disk(options: tuple[str, ...], disks: DiskFactory) -> None:
    disk = separate_boot("gpt", "", image="qcow2", convert=options)
    with opened(disks.build(disk)) as forest:
        assert forest.image.format == "qcow2"
        assert copied(forest, 1, b"/vmlinuz-6.1", b"/initrd.img-6.1") == KERNEL + b"\0\0\0" + INITRD
        assert copied(forest, 0, b"/vmlinuz") == KERNEL


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_fat_shows_what_was_put_in(bits: str, disks: DiskFactory) -> None:
    size = {"12": 4, "16": 20, "32": 40}[bits]
    mkfs = ("-F", bits) if bits != "12" else ("-F", "12", "-s", "4")
    with opened(disks.build(whole(Fs("vfat", ESP, size_mib=size, label="ESP", uuid="ABCD-0123", mkfs=mkfs)))) as forest:
        tree = forest.trees[0]
        assert (tree.fs.kind, tree.fs.uuid, tree.fs.label) == ("vfat", "ABCD-0123", b"ESP")
        assert sorted(tree.names(b"/")) == sorted({name.split("/")[0].encode() for name in ESP})
        for name, data in ESP.items():
            assert tree.read(b"/" + name.encode(), MIB) == data
            assert tree.read(b"/" + name.upper().encode(), MIB) == data
        assert len(tree.names(b"/many")) == 300
        assert copied(forest, 0, b"/vmlinuz") == KERNEL
        folder = tree.find(b"/EFI").node
        assert folder.type is NodeType.DIRECTORY


def test_a_file_fragmented_in_fat_is_put_together(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 40 * MIB)
    subprocess.run(["mkfs.vfat", "-F", "32", image], check=True, capture_output=True)

    def mtool(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True)

    piece = tmp_path / "piece"
    piece.write_bytes(b"p" * 3000)
    for n in range(60):
        mtool("mcopy", "-i", image, piece, f"::{n}")
    for n in range(0, 60, 2):
        mtool("mdel", "-i", image, f"::{n}")
    (tmp_path / "kernel").write_bytes(KERNEL)
    subprocess.run(["mcopy", "-i", image, tmp_path / "kernel", "::kernel"], check=True)
    with opened(image) as forest:
        tree = forest.trees[0]
        assert tree.read(b"/kernel", MIB) == KERNEL
        assert copied(forest, 0, b"/kernel") == KERNEL


def test_a_partition_cut_off_is_truncated_and_the_others_are_read(disks: DiskFactory, tmp_path: Path) -> None:
    disk = separate_boot("gpt", "")
    image = disks.copy(disk, tmp_path / "image")
    os.truncate(image, layout(disk)[2].offset)
    with opened(image) as forest:
        assert copied(forest, 1, b"/vmlinuz-6.1") == KERNEL
        assert len(forest.trees) == 2
        assert "truncated" in forest.problems[0]
    os.truncate(image, MIB)
    assert reason(image) is DiskReason.TRUNCATED
    one = disks.copy(whole(Fs("ext4", BOOT, size_mib=16)), tmp_path / "one")
    os.truncate(one, 2 * MIB)
    with opened(one) as forest, pytest.raises(DiskError) as caught:
        copied(forest, 0, b"/vmlinuz-6.1")
    assert caught.value.reason is DiskReason.TRUNCATED


def test_a_damaged_first_gpt_is_replaced_by_the_second(disks: DiskFactory, tmp_path: Path) -> None:
    image = disks.copy(separate_boot("gpt", ""), tmp_path / "image")
    with image.open("r+b") as file:
        file.seek(512 + 40)
        file.write(b"damage")
    with opened(image) as forest:
        assert len(forest.trees) == 3
    with image.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(b"damage")
    assert reason(image) is DiskReason.NO_FILESYSTEM


def test_an_lvm_volume_is_named_and_not_read(disks: DiskFactory, tmp_path: Path) -> None:
    image = disks.copy(Disk("mbr", (Part(None, size_mib=4), Part(Fs("ext4", BOOT)))), tmp_path / "image")
    with image.open("r+b") as file:
        file.seek(MIB + 512)
        file.write(b"LABELONE")
    with opened(image) as forest:
        assert forest.problems == ["partition 1 holds an LVM physical volume, which cannot be read"]
        assert len(forest.trees) == 1


@pytest.mark.parametrize("format", ["vmdk", "vhdx", "vdi", "qed", "vpc"])
def test_other_image_formats_are_refused_by_name(format: str, tmp_path: Path) -> None:  # noqa: A002 -- qemu-img's word
    image = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", format, image, "16M"], check=True)
    assert reason(image) is DiskReason.UNSUPPORTED_IMAGE


def test_a_qcow2_that_needs_another_file_is_refused(tmp_path: Path) -> None:
    base, image = tmp_path / "base", tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", base, "16M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image], check=True)
    assert reason(image) is DiskReason.UNSUPPORTED_IMAGE
    image.unlink()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", image, "16M"], check=True
    )
    assert reason(image) is DiskReason.UNSUPPORTED_IMAGE


def test_a_named_format_is_not_probed(disks: DiskFactory) -> None:
    plain = disks.build(whole(Fs("ext4", BOOT, size_mib=16)))
    assert reason(plain, "qcow2") is DiskReason.UNSUPPORTED_IMAGE
    packed = disks.build(whole(Fs("ext4", BOOT, size_mib=16), image="qcow2"))
    assert reason(packed, "raw") is DiskReason.NO_FILESYSTEM


def test_disks_that_hold_nothing_say_so(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    assert reason(image) is DiskReason.EMPTY
    for content in (b"\0" * MIB, random.Random(3).randbytes(MIB), b"x"):
        image.write_bytes(content)
        assert reason(image) is DiskReason.NO_FILESYSTEM
    assert reason(tmp_path) is DiskReason.NOT_A_DISK


def test_a_disk_that_shrinks_while_it_is_copied_is_truncated(disks: DiskFactory, tmp_path: Path) -> None:
    for kind in ("ext4", "vfat"):
        image = disks.copy(whole(Fs(kind, {"vmlinuz": KERNEL})), tmp_path / kind)
        with opened(image) as forest:
            forest.trees[0].file(b"/vmlinuz")
            os.truncate(image, 512)
            with pytest.raises(DiskError, match="ended at byte") as caught:
                copied(forest, 0, b"/vmlinuz")
            assert caught.value.reason is DiskReason.TRUNCATED


def test_an_inode_that_ends_with_the_old_fields_is_read(disks: DiskFactory, tmp_path: Path) -> None:
    image = disks.copy(whole(Fs("ext4", {"vmlinuz": KERNEL}, size_mib=16)), tmp_path / "image")
    for path in ("/", "/vmlinuz"):
        subprocess.run(["debugfs", "-w", "-R", f"sif {path} extra_isize 0", image], check=True, capture_output=True)
    with opened(image) as forest:
        assert copied(forest, 0, b"/vmlinuz") == KERNEL
