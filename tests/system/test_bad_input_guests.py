# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests whose boot configuration or files are wrong, by accident or on purpose."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.commands import domward, refusal
from support.disks import MIB, DiskFactory, Fs, whole
from support.trees import Directory, Entry, Sparse, Symlink, Tree

KERNEL, RAMDISK = b"MZ a kernel", b"\x1f\x8b a ramdisk"
LOADS = "  linux /boot/vmlinuz root=/dev/xvda1\n  initrd /boot/initrd.img\n"
ENTRY = f"menuentry 'Linux' {{\n{LOADS}}}\n"


def guest(config: str | bytes | None = ENTRY, **changed: Entry | None) -> dict[str, Entry]:
    """The files of a guest; `changed` are other contents of vmlinuz or initrd, None for no such file."""
    files: dict[str, Entry | None] = {"vmlinuz": KERNEL, "initrd": RAMDISK, **changed}
    tree = {"boot/vmlinuz": files["vmlinuz"], "boot/initrd.img": files["initrd"], "boot/grub/grub.cfg": config}
    return {name: entry for name, entry in tree.items() if entry is not None}


GUESTS: dict[str, tuple[Tree, str, str]] = {
    "kernel is a loop of links": (
        guest(vmlinuz=Symlink("again")) | {"boot/again": Symlink("vmlinuz")},
        "disk-no-bootable-entry",
        "more than 40 links",
    ),
    "kernel of 0 bytes": (guest(vmlinuz=b""), "disk-no-bootable-entry", "/boot/vmlinuz is empty"),
    "ramdisk of 0 bytes": (guest(initrd=b""), "disk-no-bootable-entry", "/boot/initrd.img is empty"),
    "kernel beyond its budget": (
        guest(vmlinuz=Sparse(256 * MIB + 1)),
        "disk-file-too-big",
        "/boot/vmlinuz has 268435457 bytes, more than the 268435456 allowed",
    ),
    "ramdisk beyond its budget": (
        guest(initrd=Sparse(1024 * MIB + 1)),
        "disk-file-too-big",
        "/boot/initrd.img has 1073741825 bytes, more than the 1073741824 allowed",
    ),
    "ramdisks beyond their budget together": (
        guest(
            "menuentry Linux {\n linux /boot/vmlinuz\n initrd /boot/initrd.img /boot/initrd.img\n}\n",
            initrd=Sparse(600 * MIB),
        ),
        "disk-file-too-big",
        "1258291200 bytes",
    ),
    "missing kernel": (guest(vmlinuz=None), "disk-no-bootable-entry", "/boot/vmlinuz does not exist"),
    "missing ramdisk": (guest(initrd=None), "disk-no-bootable-entry", "/boot/initrd.img does not exist"),
    "kernel is a folder": (guest(vmlinuz=Directory()), "disk-no-bootable-entry", "is a directory"),
    "no boot configuration": (guest(None), "disk-no-boot-configuration", "holds a grub.cfg"),
    "nothing at all": ({}, "disk-no-boot-configuration", "holds a grub.cfg"),
    "empty configuration": (guest(""), "disk-no-bootable-entry", "declares no boot entry"),
    "entry that loads nothing": (guest("menuentry Linux { true\n}\n"), "disk-no-bootable-entry", "loads no kernel"),
    "configuration of 1 MiB and a byte": (
        guest(b"#".ljust(MIB + 1, b"a")),
        "disk-file-too-big",
        "1048577 bytes, more than the 1048576 allowed",
    ),
    "configuration of 1 MiB on one line without an entry": (
        guest(b"#".ljust(MIB, b"a")),
        "disk-no-bootable-entry",
        "declares no boot entry",
    ),
    "1 MiB of words on one line": (guest(b"x " * (MIB // 2)), "disk-budget-exceeded", "steps"),
    "1 MiB of opening braces": (guest(b"{ " * (MIB // 2)), "disk-budget-exceeded", ""),
    "10,000 entries": (
        guest("".join(f"menuentry 'Linux {n}' {{\n{LOADS}}}\n" for n in range(10_000))),
        "disk-budget-exceeded",
        "more than 512 entries",
    ),
    "variable that grows without end": (
        guest("set a=aaaaaaaa\n" + "set a=$a$a\n" * 64 + ENTRY),
        "disk-budget-exceeded",
        "expands its variables",
    ),
    "endless function": (guest("function f { f; f; }\nf\n" + ENTRY), "disk-budget-exceeded", ""),
    "file that sources itself": (guest("source /boot/grub/grub.cfg\n" + ENTRY), "disk-budget-exceeded", ""),
    "arguments beyond Xen's limit": (
        guest(f"menuentry Linux {{\n linux /boot/vmlinuz {'a' * 1024}\n}}\n"),
        "disk-arguments-invalid",
        "1024 bytes; Xen takes at most 1023",
    ),
    "arguments with control characters": (
        guest("menuentry Linux {\n linux /boot/vmlinuz 'a\x1b[2Jb'\n}\n"),
        "disk-no-bootable-entry",
        "control characters",
    ),
    "configuration is a folder": (
        guest(None) | {"boot/grub/grub.cfg": Directory()},
        "disk-not-a-file",
        "/boot/grub/grub.cfg is a directory",
    ),
    "configuration that is cut off": (guest(ENTRY[:-3]), "disk-no-bootable-entry", "declares no boot entry"),
}


@pytest.mark.parametrize(("tree", "code", "words"), GUESTS.values(), ids=GUESTS)
def test_unbootable_guest(tree: Tree, code: str, words: str, disks: DiskFactory, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, disks.build(whole(Fs("ext4", tree))), code=code)


@pytest.mark.parametrize(("kind", "arguments"), [("FIFO", "p"), ("device", "c 1 5"), ("disk", "b 8 0")])
def test_kernel_that_is_no_regular_file(kind: str, arguments: str, disks: DiskFactory, tmp_path: Path) -> None:
    disk = disks.copy(whole(Fs("ext4", guest(vmlinuz=None))), tmp_path / "disk")
    # debugfs makes nodes in its working folder only.
    done = subprocess.run(
        ["debugfs", "-w", disk],
        input=f"cd /boot\nmknod vmlinuz {arguments}\n",
        text=True,
        check=True,
        capture_output=True,
    )
    assert "not a regular file" in refusal(tmp_path, disk, code="disk-no-bootable-entry"), done.stderr


def test_configuration_of_1_mib_on_one_line_that_boots(disks: DiskFactory) -> None:
    entry = b"menuentry Linux { linux /boot/vmlinuz root=/dev/xvda1; }"
    config = b"set a='" + b"a" * (MIB - len(entry) - 10) + b"'; " + entry
    assert len(config) == MIB
    ran = domward("run", disks.build(whole(Fs("ext4", guest(config)))), "--json")
    assert ran.json()["args"] == "root=/dev/xvda1"
    assert ran.err == ""


def test_arguments_of_just_xens_limit(disks: DiskFactory) -> None:
    config = f"menuentry Linux {{\n linux /boot/vmlinuz {'a' * 1023}\n}}\n"
    ran = domward("run", disks.build(whole(Fs("ext4", guest(config)))), "--json")
    assert ran.json()["args"] == "a" * 1023


def test_the_next_entry_boots_where_the_default_cannot(disks: DiskFactory) -> None:
    config = "menuentry Broken {\n linux /boot/missing\n}\n" + ENTRY
    ran = domward("run", disks.build(whole(Fs("ext4", guest(config)))), "--json")
    assert ran.json()["title"] == "Linux"


def test_an_entry_that_was_asked_for_and_cannot_boot(disks: DiskFactory, tmp_path: Path) -> None:
    config = "menuentry Broken {\n linux /boot/missing\n}\n" + ENTRY
    disk = disks.build(whole(Fs("ext4", guest(config))))
    assert "'Broken' cannot boot" in refusal(tmp_path, disk, "--entry", "Broken", code="disk-no-bootable-entry")


@pytest.mark.parametrize("entry", ["2", "999999999999", "-1", "linux", "", "Linux>Linux", ">", "\x1b[2J"])
def test_an_entry_that_there_is_not(entry: str, disks: DiskFactory, tmp_path: Path) -> None:
    disk = disks.build(whole(Fs("ext4", guest())))
    sentence = refusal(tmp_path, disk, f"--entry={entry}", code="disk-no-such-entry")
    assert "there are 0 'Linux'" in sentence


HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e\u00e4"


def test_hostile_texts_stay_printable(disks: DiskFactory, tmp_path: Path) -> None:
    config = (
        f"menuentry '{HOSTILE}title' --id '{HOSTILE}id' {{\n linux /boot/vmlinuz root=\u00e4\n}}\n"
        f"submenu '{HOSTILE}submenu' {{\n menuentry 'in {HOSTILE}' {{\n linux '/boot/{HOSTILE}kernel'\n}}\n}}\n"
    )
    tree = guest(config) | {f"boot/{HOSTILE}": b""}
    disk = disks.build(whole(Fs("ext4", tree, label="\x1b[2Jlabel")))
    for arguments in (("run", disk), ("inspect", disk)):
        ran = domward(*arguments)
        assert ran.code == 0
        assert ran.err == ""
        assert all(" " <= character <= "~" or character == "\n" for character in ran.out)
        assert r"\x1b[2J\x1b]0;owned\x07" in ran.out
    found = domward("inspect", disk, "--json")
    assert found.out.isascii()
    assert found.json()["entries"][0]["title"] == f"{HOSTILE}title"
    assert found.json()["volumes"][0]["label"] == "\x1b[2Jlabel"
    refusal(tmp_path, disk, "--entry", "1", code="disk-no-bootable-entry")
