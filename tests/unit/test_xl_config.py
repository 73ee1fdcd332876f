# SPDX-License-Identifier: GPL-3.0-or-later
"""What xl is given of a guest, whatever is in its kernel's command line and its disk's path; and what xl says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from domward.protocol.errors import HypervisorError
from domward.protocol.fds import Fd
from domward.protocol.guests import Death, GuestType
from domward.supervisor.hypervisor.interface import BootFiles, GuestDescription, GuestDisk
from domward.supervisor.hypervisor.xl_config import Seen, configuration, find_domain, quoted
from domward.supervisor.sinks import SealedFile

UUID = "5eed0000-0000-4000-8000-0000000000aa"
HEADER = "Name               ID   Mem VCPUs\tState\tTime(s)   UUID        Reason-Code\tSecurity Label\n"


def config_of(command_line: bytes = b"", path: Path = Path("/disk.img"), *, writable: bool = True) -> list[str]:
    disk = GuestDisk(vdev="xvda", image_format="raw", writable=writable, path=path)
    description = GuestDescription(name="g", uuid=UUID, memory_mib=64, vcpus=2, disks=(disk,), type=GuestType.PV)
    with Fd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), "kernel") as fd:
        boot = BootFiles(kernel=SealedFile(fd, 0, ""), ramdisk=None, command_line=command_line)
        return configuration(description, boot, "/proc/self/fd/9", None).decode("ascii").splitlines()


def test_a_guests_configuration() -> None:
    assert config_of(b"root=/dev/xvda1 quiet") == [
        'name="g"',
        f'uuid="{UUID}"',
        'type="pv"',
        "memory=64",
        "vcpus=2",
        'kernel="/proc/self/fd/9"',
        'cmdline="root=/dev/xvda1 quiet"',
        'disk=["format=raw, vdev=xvda, access=rw, target=/disk.img"]',
        'on_poweroff="preserve"',
        'on_reboot="preserve"',
        'on_crash="preserve"',
    ]


@pytest.mark.parametrize("hostile", [b'"\nkernel="/etc/shadow', b"\\", b"a\\\"b'c", bytes(range(1, 256))])
def test_nothing_in_a_command_line_or_a_path_becomes_a_setting(hostile: bytes) -> None:
    lines = config_of(hostile, Path("/") / os.fsdecode(hostile))
    assert [line.split("=")[0] for line in lines] == [line.split("=")[0] for line in config_of()]
    text = quoted(hostile)
    assert text.count('"') == 2
    assert (
        bytes.fromhex("".join(f"{ord(c):02x}" for c in text[1:-1])).decode("unicode_escape").encode("latin-1")
        == hostile
    )


def test_a_disk_that_may_not_be_written() -> None:
    assert 'disk=["format=raw, vdev=xvda, access=ro, target=/disk.img"]' in config_of(writable=False)


@pytest.mark.parametrize(
    ("state", "reason", "death"),
    [
        ("r-----", "-", None),
        ("--p---", "-", None),
        ("---s--", "0", Death.POWEROFF),
        ("---sr-", "1", Death.REBOOT),
        ("---sc-", "3", Death.CRASH),
        ("---sw-", "4", Death.CRASH),
        ("-----d", "-", Death.DESTROYED),
    ],
)
def test_a_domain_in_the_list(state: str, reason: str, death: Death | None) -> None:
    other = f"{'no one':40}     1    64     1     ---s--       1.0 {UUID[:-1]}b        1                -\n"
    row = f"{'a name 5 9':40}    12   192     1     {state}      12.0 {UUID}        {reason}                -\n"
    assert find_domain((HEADER + other + row).encode(), UUID) == Seen(12, death)


def test_a_domain_that_is_not_in_the_list() -> None:
    assert find_domain(HEADER.encode(), UUID) is None


def test_a_list_in_another_form_is_no_list_without_the_domain() -> None:
    with pytest.raises(HypervisorError, match="a form that is not known"):
        find_domain(f"{UUID} 12 running\n".encode(), UUID)
