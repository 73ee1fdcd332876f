# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward inspect` on disks of every scheme and file system."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import domward
from support.debian_kernel import DebianKernel
from support.disks import FILE_SYSTEMS, Disk, DiskFactory, Fs, layout, whole
from support.guests import debian_disk, extlinux_disk, fedora_disk

KEYS = {"operation", "format", "volumes", "remarks", "source", "default", "entries", "reason", "problem"}
VOLUME_KEYS = {"index", "scheme", "offset", "size", "filesystem", "uuid", "label"}
ENTRY_KEYS = {
    "index",
    "title",
    "submenus",
    "id",
    "kernel",
    "kernel_bytes",
    "initrds",
    "ramdisk_bytes",
    "args",
    "problem",
}


@pytest.mark.parametrize("scheme", ["disk", "mbr", "gpt"])
@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_every_scheme_and_file_system(kind: str, scheme: str, disks: DiskFactory, kernel: DebianKernel) -> None:
    disk = extlinux_disk(kind, scheme=scheme, kernel=kernel)
    ran = domward("inspect", disks.build(disk), "--json")
    found = ran.json()
    assert (ran.code, ran.err) == (0, "")
    assert set(found) == KEYS
    (volume,), (place,) = found["volumes"], layout(disk)
    assert set(volume) == VOLUME_KEYS
    assert (volume["index"], volume["scheme"]) == (place.number, scheme)
    assert (volume["offset"], volume["size"]) == (place.offset, place.size)
    assert volume["filesystem"] == ("ext" if kind.startswith("ext") else kind)
    fs = disk.parts[0].fs
    assert fs is not None
    assert volume["uuid"].lower() == fs.identity().lower()
    assert [entry["title"] for entry in found["entries"]] == ["Linux (default)", "Linux (rescue)"]
    assert all(set(entry) == ENTRY_KEYS for entry in found["entries"])
    assert (found["default"], found["reason"], found["problem"]) == (0, None, None)
    assert found["source"].startswith("extlinux:0:")


def test_text(disks: DiskFactory, kernel: DebianKernel) -> None:
    ran = domward("inspect", disks.build(debian_disk("ext4", kernel=kernel, image="qcow2")))
    lines = ran.out.splitlines()
    assert lines[0] == "image    qcow2"
    assert lines[1].startswith("volume   mbr 1: ext, ")
    assert lines[1].endswith(" label guestroot")
    assert lines[2] == "config   grub:0:/boot/grub/grub.cfg"
    assert lines[3] == "entry 0 (default): Debian GNU/Linux"
    assert lines[4] == "         kernel /boot/vmlinuz-6.1.0-99-amd64, 64.0 KiB"
    assert lines[5] == "         ramdisk /boot/initrd.img-6.1.0-99-amd64, 64.0 KiB"
    assert lines[6].startswith("         args root=UUID=")
    assert lines[7].startswith("entry 1: Advanced options for Debian GNU/Linux > ")


def test_submenus_and_sizes(disks: DiskFactory, kernel: DebianKernel) -> None:
    entries = domward("inspect", disks.build(debian_disk("ext4", kernel=kernel)), "--json").json()["entries"]
    assert [entry["index"] for entry in entries] == [*range(5)]
    assert entries[0]["submenus"] == []
    assert entries[1]["submenus"] == ["Advanced options for Debian GNU/Linux"]
    assert entries[1]["kernel_bytes"] == kernel.vmlinuz.stat().st_size
    assert entries[1]["ramdisk_bytes"] == kernel.initrd.stat().st_size
    assert entries[1]["id"].startswith("gnulinux-")


def test_a_separate_boot_and_logical_partitions(disks: DiskFactory, kernel: DebianKernel) -> None:
    disk = debian_disk("xfs", separate_boot="ext2", logical=True, kernel=kernel)
    found = domward("inspect", disks.build(disk), "--json").json()
    assert [(volume["index"], volume["filesystem"]) for volume in found["volumes"]] == [(1, "ext"), (5, "xfs")]
    assert found["entries"][0]["problem"] is None


def test_boot_loader_entries(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    found = domward("inspect", disks.build(fedora_disk(kernel=kernel, folder=tmp_path)), "--json").json()
    assert found["entries"][0]["title"].startswith("Fedora Linux (6.8.5")
    assert found["entries"][0]["id"].endswith("fc40.x86_64")


def test_why_an_entry_cannot_boot(disks: DiskFactory) -> None:
    config = "menuentry Broken {\n linux /missing\n}\nmenuentry Linux {\n linux /k a=b\n}\n"
    disk = disks.build(whole(Fs("ext4", {"k": b"MZ", "boot/grub/grub.cfg": config})))
    found = domward("inspect", disk, "--json").json()
    assert found["default"] == 1
    broken = found["entries"][0]
    assert (broken["kernel"], broken["kernel_bytes"], broken["initrds"]) == (None, 0, [])
    assert "/missing does not exist" in broken["problem"]
    text = domward("inspect", disk).out
    assert "entry 0: Broken\n         cannot boot: /missing does not exist" in text
    assert "entry 1 (default): Linux\n" in text


def test_a_disk_with_a_file_system_and_nothing_to_boot(disks: DiskFactory) -> None:
    disk = disks.build(whole(Fs("ext4")))
    ran = domward("inspect", disk, "--json")
    found = ran.json()
    assert ran.code == 0
    assert (found["entries"], found["default"]) == ([], None)
    assert found["reason"] == "disk-no-boot-configuration"
    assert "grub.cfg" in found["problem"]
    assert "problem  None of the disk's file systems" in domward("inspect", disk).out


def test_what_else_is_on_the_disk(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    guest = extlinux_disk(scheme="gpt", kernel=kernel)
    disk = disks.copy(Disk("gpt", (*guest.parts, extlinux_disk("xfs", kernel=kernel).parts[0])), tmp_path / "disk")
    place = layout(Disk("gpt", (*guest.parts, extlinux_disk("xfs", kernel=kernel).parts[0])))[1]
    with disk.open("r+b") as file:
        file.seek(place.offset)
        file.write(b"LUKS\xba\xbe\0\2".ljust(512, b"\0"))
    found = domward("inspect", disk, "--json").json()
    assert [volume["index"] for volume in found["volumes"]] == [1]
    (remark,) = found["remarks"]
    assert "partition 2" in remark
    assert "luks" in remark.lower()
    assert f"note     {remark}" in domward("inspect", disk).out
