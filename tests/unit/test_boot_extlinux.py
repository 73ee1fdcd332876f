# SPDX-License-Identifier: GPL-3.0-or-later
"""extlinux.conf and syslinux.cfg become a boot menu."""

from __future__ import annotations

import pytest
from support.memory_forest import MemoryForest

from domward.helpers.reader.finder import find_menu
from domward.helpers.reader.interface import BootMenu
from domward.protocol.errors import DiskError, DiskReason

FILES = {
    "/boot/vmlinuz": b"k",
    "/boot/initrd": b"i",
    "/boot/extlinux/k": b"k",
    "/boot/extlinux/more.conf": "label more\nkernel k\n",
}

U_BOOT_STYLE = """## generated
default l0
menu title U-Boot menu
prompt 0
timeout 50

label l0
	menu label ^Debian GNU/Linux 6.1.0-18
	linux /vmlinuz
	initrd /initrd
	fdtdir /usr/lib/linux-image/
	append root=UUID=1 ro quiet

label l0r
	menu label Rescue
	LINUX ../vmlinuz
	linux /boot/vmlinuz
	append root=UUID=1 ro single
"""


def menu_of(script: str, **files: str) -> BootMenu:
    return find_menu(MemoryForest.of({**FILES, "/boot/extlinux/extlinux.conf": script, **files}))


def test_labels_become_entries() -> None:
    menu = menu_of(U_BOOT_STYLE)
    first, second = menu.entries
    assert (first.title, first.id, first.args) == (b"Debian GNU/Linux 6.1.0-18", b"l0", b"root=UUID=1 ro quiet")
    assert first.kernel is not None
    assert first.kernel.path == b"/boot/vmlinuz"
    assert [file.path for file in first.initrds] == [b"/boot/initrd"]
    assert second.args == b"root=UUID=1 ro single"
    assert (menu.default, menu.timeout) == (0, 5.0)
    assert menu.source == "extlinux:0:/boot/extlinux/extlinux.conf"


def test_file_names_are_relative_to_the_configuration() -> None:
    entry = menu_of("LABEL a\nKERNEL k\nINITRD /boot/initrd,k\n").entries[0]
    assert entry.kernel is not None
    assert [file.path for file in (entry.kernel, *entry.initrds)] == [
        b"/boot/extlinux/k",
        b"/boot/initrd",
        b"/boot/extlinux/k",
    ]


def test_a_ramdisk_may_be_named_among_the_arguments() -> None:
    entry = menu_of("label a\nkernel k\nappend initrd=/boot/initrd,k ro\n").entries[0]
    assert len(entry.initrds) == 2


@pytest.mark.parametrize(
    ("head", "default"),
    [
        ("", b"a"),
        ("DEFAULT b\n", b"b"),
        ("default none\n", b"a"),
        ("default b\nlabel c\nmenu default\nkernel k\n", b"c"),
    ],
)
def test_the_default(head: str, default: bytes) -> None:
    menu = menu_of(head + "label a\nkernel k\nlabel b\nkernel k\n")
    assert menu.entries[menu.default].id == default


@pytest.mark.parametrize(
    ("head", "seconds"), [("", 0.0), ("timeout 0\nprompt 1\n", None), ("timeout 15\n", 1.5), ("ui menu.c32\n", None)]
)
def test_the_time_out_counts_tenths(head: str, seconds: float | None) -> None:
    assert menu_of(head + "label a\nkernel k\n").timeout == seconds


def test_arguments_for_all_labels_unless_one_has_its_own() -> None:
    menu = menu_of("append common\nlabel a\nkernel k\nlabel b\nkernel k\nappend own\nlabel c\nkernel k\nappend -\n")
    assert [entry.args for entry in menu.entries] == [b"common", b"own", b""]


def test_submenus_and_included_files() -> None:
    menu = menu_of("menu begin Sub\nlabel a\nkernel k\nmenu end\ninclude more.conf\nlabel z\nkernel k\n")
    assert [(entry.path, entry.id) for entry in menu.entries] == [((b"Sub",), b"a"), ((), b"more"), ((), b"z")]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("", "it loads no kernel"),
        ("kernel vesamenu.c32", "it starts no Linux"),
        ("com32 chain.c32", "it starts no Linux"),
        ("localboot 0", "it starts no Linux"),
        ("kernel none", "there is no /boot/boot/extlinux/none"),
    ],
)
def test_labels_that_cannot_boot_say_why(body: str, problem: str) -> None:
    assert problem in menu_of(f"label a\n{body}\n").entries[0].problem


def test_a_file_that_includes_itself_is_refused() -> None:
    with pytest.raises(DiskError) as caught:
        menu_of("include extlinux.conf\ninclude extlinux.conf\n")
    assert caught.value.reason is DiskReason.BUDGET
