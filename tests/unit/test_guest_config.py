# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations of guests: what they mean, and that nothing that xl would take is silently left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from domward.protocol import limits
from domward.protocol.guests import Action, GuestType
from domward.supervisor.guest_config import KEYS, GuestConfigError, parse_config, read_config
from domward.supervisor.guest_disks import DiskSpec, DiskSpecError, parse_disk

WHOLE = b"""
# a guest
name = "web-1"
uuid = '5EED0000-0000-4000-8000-0000000000aa'
type = "pv"; memory = 512
vcpus = 0x2
disk = [ "/dev/vg/web,raw,xvda,w",   # the first is the one to boot from
         'file:/srv/data.img,xvdb,r', ]
bootloader = "/usr/bin/domward-bootloader"
bootloader_args = ["--entry=1", "--quiet"]
root = "/dev/xvda1"
extra = "console=hvc0 \\"quoted\\""
on_poweroff = "destroy"
on_reboot = "destroy"
on_crash = "preserve"
"""
LEAST = b'name="a"\nmemory=64\ndisk=["/d,,xvda"]\n'


def sentence(content: bytes) -> str:
    with pytest.raises(GuestConfigError) as caught:
        parse_config(content, "guest.cfg")
    assert caught.value.exit_code == 2
    return caught.value.sentence


def test_a_whole_configuration_means_what_xl_means_by_it() -> None:
    found = parse_config(WHOLE)
    assert (found.name, found.uuid) == ("web-1", "5eed0000-0000-4000-8000-0000000000aa")
    assert (found.type, found.memory_mib, found.vcpus) == (GuestType.PV, 512, 2)
    assert found.disks == (
        DiskSpec(Path("/dev/vg/web"), "raw", "xvda", True),
        DiskSpec(Path("/srv/data.img"), "raw", "xvdb", False),
    )
    assert (found.bootloader, found.bootloader_args, found.entry, found.menu) == ("builtin", (), b"1", False)
    assert found.args == b'root=/dev/xvda1 console=hvc0 "quoted"'
    assert (found.on_poweroff, found.on_reboot, found.on_crash) == (Action.DESTROY, Action.DESTROY, Action.PRESERVE)


def test_what_is_not_given_is_completed() -> None:
    found = parse_config(LEAST)
    assert (found.type, found.vcpus, found.bootloader, found.args) == (GuestType.PVH, 1, "builtin", None)
    assert (found.on_poweroff, found.on_reboot, found.on_crash) == (Action.DESTROY, Action.RESTART, Action.DESTROY)
    assert found.uuid != parse_config(LEAST).uuid
    assert found.menu


def test_a_program_is_named_by_its_path_and_given_its_words() -> None:
    found = parse_config(LEAST + b'bootloader="/usr/lib/xen-4.17/bin/pygrub"\nbootloader_args="--entry=1 -q"')
    assert (found.bootloader, found.bootloader_args) == ("/usr/lib/xen-4.17/bin/pygrub", (b"--entry=1", b"-q"))
    assert parse_config(LEAST + b'bootloader="pygrub"').bootloader == "pygrub"


def test_a_kernel_on_the_guests_disk_is_taken_where_it_cannot_be_mistaken_for_the_hosts() -> None:
    given = LEAST + b'kernel="/boot/vmlinuz"\nramdisk="/boot/initrd"\n'
    found = parse_config(given + b'bootloader="builtin"\n')
    assert (found.kernel, found.ramdisk, found.menu) == (b"/boot/vmlinuz", b"/boot/initrd", False)
    assert "guest.cfg:4: xl means a file of the host by this" in sentence(given)
    assert "either a kernel or an entry" in sentence(given + b'bootloader="builtin"\nbootloader_args=["--entry=1"]')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b"vif = ['bridge=xenbr0']",
            "guest.cfg:4: vif is not in the subset of xl.cfg that domward knows: name, uuid, ",
        ),
        (b"vcpu = 2", "Is vcpus meant?"),
        (b"memory = 128", "guest.cfg:4: memory is given in line 2 already."),
        (b"vcpus = 0", "guest.cfg:4: vcpus must be a number from 1 to 512"),
        (b"vcpus = '2'", "guest.cfg:4: vcpus must be a number"),
        (b"vcpus = 99999999999999999999", "makes no sense"),
        (b"vcpus = 2 2", "The end of the line is expected, not 2."),
        (b"vcpus 2", "'=' is expected, not 2."),
        (b"vcpus =", "is expected, not the end of the line."),
        (b"= 2", "A key is expected, not =."),
        (b'type = "hvm"', "type must be pv, pvh here, not hvm."),
        (b'on_crash = "coredump-restart"', "on_crash must be destroy, restart, preserve here, not coredump-restart."),
        (b'extra = "a', "A text lacks its closing quote"),
        (b'extra = "a\\n"', "or has an escape"),
        (b'extra = "\x01"', "must not contain control characters"),
        (b'extra = "' + b"x" * 1024 + b'"', f"at most {limits.CMDLINE_BYTES} bytes"),
        (b'extra = "a"\ncmdline = "b"', "guest.cfg:4: There is either cmdline or extra."),
        (b"extra = \xff", "guest.cfg:4: This is not UTF-8."),
        (b"extra = $HOME", "guest.cfg:4: '$' makes no sense here."),
        (b'extra = ["a" "b"]', "',' or ']' is expected"),
        (b'extra = ["a"', "is expected, not the end of the line."),
        (b'uuid = "1"', "A UUID is 32 hexadecimal digits"),
        (b'bootloader = "grub"', "bootloader must be builtin, pygrub or an absolute path, not grub."),
        (b'bootloader_args = ["--output=/etc/passwd"]', "takes --entry, --offset and --quiet here."),
        (b'bootloader_args = ["--nonsense"]', "guest.cfg:4: "),
        (b"bootloader_args = 1", "bootloader_args is a list of texts"),
        (b'ramdisk = "/initrd"', "A ramdisk is given with a kernel."),
        (b"extra = [" + b'"a",' * 65 + b"]", "A list of at most 64 texts"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(line: bytes, expected: str) -> None:
    found = sentence(LEAST + line + b"\n")
    assert expected in found
    assert found.startswith("guest.cfg:")


def test_what_is_missing_is_named() -> None:
    assert sentence(b"") == "guest.cfg: name is missing: the guest's name."
    assert "memory must be a number from 4" in sentence(b'name="a"')
    assert "disk must be a list of 1 to 6 texts" in sentence(b'name="a"\nmemory=64')
    assert "guest.cfg:1: A guest's name has 1 to 64" in sentence(b'name="a b"')
    assert "have the same name" in sentence(b'name="a"\nmemory=64\ndisk=["/a,,xvda","/b,,xvda"]')


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "guest.cfg"
    file.write_bytes(LEAST)
    assert read_config(file).name == "a"
    file.write_bytes(LEAST + b"#" * limits.GUEST_CONFIG_BYTES)
    with pytest.raises(GuestConfigError, match="more than 65536 bytes"):
        read_config(file)
    with pytest.raises(GuestConfigError, match=r"cannot be read: No such file or directory\. Check the path\."):
        read_config(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/d,raw,xvda,rw", DiskSpec(Path("/d"), "raw", "xvda", True)),
        ("/d, qcow2, xvda, ro", DiskSpec(Path("/d"), "qcow2", "xvda", False)),
        ("/d,,hda", DiskSpec(Path("/d"), "raw", "hda", True)),
        ("phy:/dev/vg/a,xvda,w", DiskSpec(Path("/dev/vg/a"), "raw", "xvda", True)),
        ("file:/d,xvda,access=r", DiskSpec(Path("/d"), "raw", "xvda", False)),
        ("qcow2:/d,vda,r", DiskSpec(Path("/d"), "qcow2", "vda", False)),
        ("format=qcow2,vdev=xvdb,access=r,target=/a,b=c", DiskSpec(Path("/a,b=c"), "qcow2", "xvdb", False)),
        ("/d,vdev=sdc", DiskSpec(Path("/d"), "raw", "sdc", True)),
        ("/a=b,raw,xvda,r", DiskSpec(Path("/a=b"), "raw", "xvda", False)),
    ],
)
def test_a_disk_by_place_and_by_name(text: str, expected: DiskSpec) -> None:
    assert parse_disk(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "absolute path, not nothing"),
        ("d,,xvda", "absolute path, not d"),
        ("/d,vhd,xvda", "format must be raw or qcow2 here, not vhd"),
        ("/d,,xvda1", "like xvda, not 'xvda1'"),
        ("/d", "like xvda, not ''"),
        ("/d,,xvda,x", "access must be r or w, not x"),
        ("/d,,xvda,r,more", "no place for 'more'"),
        ("/d,,xvda,r,cdrom", "no place for 'cdrom'"),
        ("/d,,xvda,backendtype=qdisk", "backendtype= is not in the subset"),
        ("/d,,xvda,vdev=xvdb", "The vdev of a disk is given twice"),
        ("qcow2:/d,xvda,format=raw", "contradict each other"),
        ("/d\0,,xvda", "without NUL"),
        ("/" + "d" * limits.PATH_BYTES, "at most 4096 characters"),
    ],
)
def test_a_disk_that_cannot_be_used_is_refused(text: str, expected: str) -> None:
    with pytest.raises(DiskSpecError) as caught:
        parse_disk(text)
    assert expected in str(caught.value)


def test_every_key_is_used() -> None:
    whole = WHOLE + b'kernel="/k"\nramdisk="/r"\ncmdline="c"\n'
    for key in KEYS:
        assert key.encode() + b" =" in whole or key.encode() + b"=" in whole
