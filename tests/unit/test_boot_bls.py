# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot Loader Specification entries, without GRUB, and their order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from support.memory_forest import MemoryForest

from domward.helpers.reader.bls import compare_versions
from domward.helpers.reader.finder import find_menu
from domward.helpers.reader.interface import BootMenu
from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason

ENTRY = "title One\nversion 1\nlinux /k\ninitrd /i\ninitrd /j /i\noptions root=a\noptions quiet\n# a remark\n"
FILES = {"/k": b"k", "/i": b"i", "/j": b"j", "/boot/onlyhere": b"k"}


def menu_of(entries: dict[str, str], **others: str) -> BootMenu:
    files = {f"/loader/entries/{name}.conf": content for name, content in entries.items()}
    return find_menu(MemoryForest.of(FILES | files | others))


def test_an_entry_is_read_whole() -> None:
    menu = menu_of({"one": ENTRY})
    entry = menu.entries[0]
    assert (entry.title, entry.id, entry.args) == (b"One", b"one", b"root=a quiet")
    assert entry.kernel is not None
    assert entry.kernel.path == b"/k"
    assert [file.path for file in entry.initrds] == [b"/i", b"/j", b"/i"]
    assert menu.source == "bls:0:/loader/entries"


def test_the_newest_is_first_and_the_rescue_entry_last() -> None:
    ordered = ["m-6.10.0-1", "m-6.9.12-2", "m-6.9.2-10", "m-6.9.2-9", "m-0-rescue"]
    menu = menu_of(dict.fromkeys(sorted(ordered), "linux /k\n"))
    assert [entry.id.decode() for entry in menu.entries] == ordered
    assert menu.entries[0].title == b"m-6.10.0-1"


def test_versions_compare_as_rpm_does() -> None:
    ascending = [*b"|a|b|0|1~rc1|1|1^git|1.a|1.1|1.2|1.010|2|10".split(b"|"), b"1" * 500]
    for older, newer in pairwise(ascending):
        assert compare_versions(older, newer) < 0 < compare_versions(newer, older)
    assert compare_versions(b"1.0-2", b"1_0.2") == 0
    assert compare_versions(b"01.1", b"1.01") == 0


@pytest.mark.parametrize(
    ("loader", "default", "timeout"),
    [
        ("", 0, 0.0),
        ("timeout 7\ndefault b\n", 1, 7.0),
        ("default A*\n", 2, 0.0),
        ("default b.conf\ntimeout menu-force\n", 1, None),
        ("default @saved\ntimeout menu-hidden\n", 0, 0.0),
    ],
)
def test_loader_conf_names_the_default_and_the_time_out(loader: str, default: int, timeout: float | None) -> None:
    entries = dict.fromkeys(("c", "b", "a"), "linux /k\n")
    menu = menu_of(entries, **{"/loader/loader.conf": loader})
    assert menu.entries[menu.default].id == (b"c", b"b", b"a")[default]
    assert menu.timeout == timeout


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("title x\n", "it loads no kernel"),
        ("", "it loads no kernel"),
        ("efi /EFI/shell.efi\n", "it starts an EFI program"),
        ("linux /none\n", "there is no /none"),
        ("linux /k\narchitecture aa64\n", "another architecture, aa64"),
        ("linux /k\noptions a\x07b\n", "control characters"),
    ],
)
def test_entries_that_cannot_boot_say_why(entry: str, problem: str) -> None:
    menu = menu_of({"x": entry, "a": "linux /k\narchitecture x64\n"})
    assert problem in menu.entries[0].problem
    assert not menu.entries[1].problem


def test_paths_are_relative_to_a_boot_file_system_even_where_it_is_found_as_a_folder() -> None:
    menu = find_menu(MemoryForest.of({**FILES, "/boot/loader/entries/x.conf": "linux /onlyhere\n"}))
    assert menu.entries[0].kernel is not None
    assert menu.entries[0].kernel.path == b"/boot/onlyhere"


def test_too_many_entries_are_refused_before_they_are_sorted() -> None:
    with pytest.raises(DiskError) as caught:
        menu_of({f"x{number}": "" for number in range(limits.ENTRIES + 1)})
    assert caught.value.reason is DiskReason.BUDGET


def test_grubs_blscfg_takes_default_kernelopts_where_an_entry_has_no_options() -> None:
    script = 'set default_kernelopts="root=b"\nset kernelopts="$default_kernelopts"\nblscfg\n'
    folder = "/loader/entries"
    files = {f"{folder}/x.conf": "linux /k\n", f"{folder}/w.conf": "linux /k\noptions ${kernelopts} 1 $no\n"}
    menu = find_menu(MemoryForest.of({**FILES, **files, "/grub2/grub.cfg": script}))
    assert [entry.args for entry in menu.entries] == [b"root=b", b"root=b 1"]
