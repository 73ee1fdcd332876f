# SPDX-License-Identifier: GPL-3.0-or-later
"""Which configuration of a disk counts, and which of its entries starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.memory_forest import MemoryForest

from domward.helpers.reader.finder import find_menu
from domward.helpers.reader.interface import BootEntry, BootMenu, FileRef
from domward.helpers.reader.selection import choose
from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import replaced

KERNEL = FileRef(0, b"/k", 1)
GRUB = "menuentry grub { linux /k\n}\n"
EXTLINUX = "label extlinux\nkernel /k\n"
BLS = "title bls\nlinux /k\n"


def failing(reason: DiskReason) -> Callable[[], bytes]:
    def read() -> bytes:
        raise DiskError(reason, "the disk failed")

    return read


def first_title(*trees: dict[str, Any], kind: str = "ext4") -> bytes:
    return find_menu(MemoryForest.of(*({"/k": b"k", **files} for files in trees), kind=kind)).entries[0].title


def reason_of(*trees: dict[str, Any]) -> DiskReason:
    with pytest.raises(DiskError) as caught:
        find_menu(MemoryForest.of(*trees))
    return caught.value.reason


class TestFinding:
    @pytest.mark.parametrize(
        "path",
        ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub/grub.cfg", "/grub2/grub.cfg", "/EFI/fedora/grub.cfg"],
    )
    def test_grub_comes_first_on_whatever_file_system_it_is(self, path: str) -> None:
        others = {"/extlinux/extlinux.conf": EXTLINUX, "/loader/entries/a.conf": BLS}
        assert first_title(others, {path: GRUB}) == b"grub"

    def test_extlinux_comes_before_entry_files(self) -> None:
        assert first_title({"/loader/entries/a.conf": BLS}, {"/boot/syslinux/syslinux.cfg": EXTLINUX}) == b"extlinux"
        assert first_title({}, {"/loader/entries/a.conf": BLS}) == b"bls"

    def test_a_subvolume_of_btrfs_is_looked_into(self) -> None:
        assert first_title({"/@/boot/grub/grub.cfg": GRUB}, kind="btrfs") == b"grub"

    def test_a_configuration_without_entries_is_passed_over(self) -> None:
        assert first_title({"/boot/grub/grub.cfg": "set a=b\n", "/extlinux.conf": EXTLINUX}) == b"extlinux"

    def test_nothing_at_all(self) -> None:
        assert reason_of() is DiskReason.NO_BOOT_CONFIG
        assert reason_of({"/k": b"k"}, {}) is DiskReason.NO_BOOT_CONFIG

    def test_configurations_without_any_entry(self) -> None:
        assert reason_of({"/boot/grub/grub.cfg": b""}) is DiskReason.NO_BOOTABLE_ENTRY

    def test_a_damaged_file_system_is_passed_over_but_named_where_nothing_else_is_found(self) -> None:
        damaged = {"/boot/grub/grub.cfg": failing(DiskReason.CORRUPT)}
        assert first_title(damaged, {"/boot/grub/grub.cfg": GRUB}) == b"grub"
        assert reason_of(damaged) is DiskReason.CORRUPT

    @pytest.mark.parametrize("reason", [DiskReason.BUDGET, DiskReason.FILE_TOO_BIG])
    def test_what_is_beyond_a_limit_is_never_passed_over(self, reason: DiskReason) -> None:
        assert reason_of({"/boot/grub/grub.cfg": failing(reason), "/grub/grub.cfg": GRUB, "/k": b"k"}) is reason

    def test_a_read_error_in_an_optional_file_is_survived_and_a_budget_is_not(self) -> None:
        script = "load_env\n" + GRUB
        files = {"/boot/grub/grub.cfg": script, "/boot/grub/grubenv": failing(DiskReason.READ_ERROR)}
        assert first_title(files) == b"grub"
        assert reason_of(files | {"/boot/grub/grubenv": failing(DiskReason.BUDGET)}) is DiskReason.BUDGET

    def test_a_kernel_that_cannot_be_read_is_the_entrys_problem(self) -> None:
        menu = find_menu(MemoryForest.of({"/boot/grub/grub.cfg": GRUB, "/k": failing(DiskReason.CORRUPT)}))
        assert menu.entries[0].problem == "the disk failed"


def menu_with(*entries: BootEntry, default: int = 0) -> BootMenu:
    return BootMenu(entries, default, None, "test")


A = BootEntry(b"a", KERNEL, id=b"id-a")
B = BootEntry(b"b", KERNEL, path=(b"more > less", b"deep"), id=b"id-b")
ONE = BootEntry(b"1", KERNEL)
BAD = BootEntry(b"bad", None, problem="it loads no kernel")


class TestChoosing:
    MENU = menu_with(A, BAD, B, BootEntry(b"7", KERNEL))

    @pytest.mark.parametrize(
        ("name", "title"),
        [
            (None, b"a"),
            (b"0", b"a"),
            (b"2", b"b"),
            (b"a", b"a"),
            (b"id-b", b"b"),
            (b"b", b"b"),
            (b"more >> less>deep>b", b"b"),
            (b"more >> less>deep>id-b", b"b"),
            (b"7", b"7"),
        ],
    )
    def test_by_number_title_id_or_path(self, name: bytes | None, title: bytes) -> None:
        assert choose(self.MENU, name).title == title

    @pytest.mark.parametrize("name", [b"4", b"", b"c", b"deep>b", b"-1", b"9" * 5000, b"\xb2", b"\x1b[2J"])
    def test_what_is_not_there_is_answered_with_what_is(self, name: bytes) -> None:
        with pytest.raises(DiskError) as caught:
            choose(self.MENU, name)
        assert caught.value.reason is DiskReason.NO_SUCH_ENTRY
        assert "0 'a'; 1 'bad'; 2 'more > less > deep > b'" in caught.value.sentence

    def test_the_list_of_what_is_there_is_short(self) -> None:
        with pytest.raises(DiskError) as caught:
            choose(menu_with(*[BootEntry(b"\x07" * 999, KERNEL)] * 500), b"x")
        assert len(caught.value.sentence) < 1000
        assert caught.value.sentence.endswith("and 492 more")

    def test_an_entry_that_cannot_boot_is_refused_with_its_problem(self) -> None:
        with pytest.raises(DiskError, match="'bad' cannot boot: it loads no kernel") as caught:
            choose(self.MENU, b"bad")
        assert caught.value.reason is DiskReason.NO_BOOTABLE_ENTRY

    @pytest.mark.parametrize(("default", "title"), [(0, b"a"), (1, b"b"), (3, b"a")])
    def test_a_default_that_cannot_boot_gives_way_to_the_next(self, default: int, title: bytes) -> None:
        assert choose(menu_with(A, BAD, B, BAD, default=default)).title == title

    @pytest.mark.parametrize("menu", [menu_with(BAD, BAD, default=1), menu_with()])
    def test_no_entry_that_can_boot(self, menu: BootMenu) -> None:
        with pytest.raises(DiskError) as caught:
            choose(menu)
        assert caught.value.reason is DiskReason.NO_BOOTABLE_ENTRY

    @pytest.mark.parametrize(
        ("args", "fits"),
        [(b"x" * limits.CMDLINE_BYTES, True), (b"x" * (limits.CMDLINE_BYTES + 1), False), (b"a\0", False)],
    )
    def test_arguments_that_xen_does_not_take_are_refused(self, args: bytes, fits: bool) -> None:
        menu = menu_with(replaced(A, args=args))
        if fits:
            assert choose(menu).args == args
        else:
            with pytest.raises(DiskError) as caught:
                choose(menu)
            assert caught.value.reason is DiskReason.ARGS_INVALID
