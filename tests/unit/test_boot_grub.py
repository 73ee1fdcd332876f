# SPDX-License-Identifier: GPL-3.0-or-later
"""grub.cfg becomes a boot menu: what grub-mkconfig writes, and the language it is written in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.memory_forest import MemoryForest

from domward.helpers.reader.finder import find_menu
from domward.helpers.reader.interface import BootEntry, BootMenu
from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason

DATA = Path(__file__).parents[1] / "data" / "boot"
VERSIONS = ("6.1.0-18-amd64", "6.1.0-9-amd64", "5.10.0-28-amd64")
FILES = {"/vmlinuz": b"kernel", "/initrd": b"ramdisk", "/early": b"microcode", "/other/vmlinuz": b"another"}


def debian(name: str, folder: str) -> dict[str, bytes]:
    """The files that the configuration `name` of tests/data is for, in `folder`."""
    files = {f"{folder}/config-6.1.0-9-amd64": b"early"}
    for version in VERSIONS:
        files[f"{folder}/vmlinuz-{version}"] = b"kernel " + version.encode()
        files[f"{folder}/initrd.img-{version}"] = b"ramdisk"
    files[f"{folder}/grub/grub.cfg"] = (DATA / f"{name}.cfg").read_bytes()
    files[f"{folder}/grub/grubenv"] = (DATA / f"{name}.grubenv").read_bytes()
    return files


def with_uuids(forest: MemoryForest) -> MemoryForest:
    """`forest` with the UUIDs for which the configurations in tests/data were generated."""
    for tree, uuid in zip(
        forest.trees,
        ("11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"),
        strict=False,
    ):
        tree.fs.uuid = uuid
    return forest


def menu_of(script: str | bytes, *others: dict[str, Any], **files: Any) -> BootMenu:
    """The menu of a disk with `script` as its grub.cfg beside FILES."""
    return find_menu(MemoryForest.of({**FILES, "/boot/grub/grub.cfg": script, **files}, *others))


def args_of(script: str | bytes, **files: Any) -> bytes:
    """The arguments of the only entry, to whose body `script` belongs."""
    body = script if isinstance(script, bytes) else script.encode()
    entry = only(menu_of(b"menuentry one {\n" + body + b"\n}\n", **files))
    assert not entry.problem
    return entry.args


def menu_or_reason(script: str | bytes) -> Any:
    """The menu, or the reason why there is none."""
    try:
        return menu_of(script)
    except DiskError as error:
        return error.reason


def only(menu: BootMenu) -> BootEntry:
    assert len(menu.entries) == 1
    return menu.entries[0]


def titles(menu: BootMenu) -> list[bytes]:
    return [entry.title for entry in menu.entries]


def linux(title: str, kernel: str = "/vmlinuz", args: str = "") -> str:
    return f"menuentry '{title}' --id id-{title} {{\n linux {kernel} {args}\n initrd /initrd\n}}\n"


class TestWhatGrubMkconfigWrites:
    def test_debian_with_a_submenu(self) -> None:
        menu = find_menu(with_uuids(MemoryForest.of(debian("debian-plain", "/boot"))))
        assert len(menu.entries) == 7
        first = menu.entries[menu.default]
        assert (first.title, first.path) == (b"Debian GNU/Linux", ())
        assert first.id == b"gnulinux-simple-11111111-2222-3333-4444-555555555555"
        assert first.kernel is not None
        assert first.kernel.path == b"/boot/vmlinuz-6.1.0-18-amd64"
        assert [file.path for file in first.initrds] == [b"/boot/initrd.img-6.1.0-18-amd64"]
        assert first.args.endswith(b" ro console=hvc0 quiet")
        assert {entry.path for entry in menu.entries[1:]} == {(b"Advanced options for Debian GNU/Linux",)}
        assert menu.timeout == 5
        assert menu.source == "grub:0:/boot/grub/grub.cfg"
        assert not any(entry.problem for entry in menu.entries)

    def test_debian_without_submenus_and_with_an_early_ramdisk(self) -> None:
        menu = find_menu(with_uuids(MemoryForest.of(debian("debian-flat", "/boot"))))
        assert len(menu.entries) == 6
        assert [file.path for file in menu.entries[2].initrds] == [
            b"/boot/config-6.1.0-9-amd64",
            b"/boot/initrd.img-6.1.0-9-amd64",
        ]

    def test_debian_with_its_own_boot_file_system_xen_and_a_saved_entry_in_a_submenu(self) -> None:
        menu = find_menu(with_uuids(MemoryForest.of({"/etc/fstab": b""}, debian("debian-xen-saved", ""))))
        assert menu.entries[menu.default].title == b"Debian GNU/Linux, with Linux 6.1.0-9-amd64"
        assert len(menu.entries) == 14
        assert not any(entry.problem for entry in menu.entries)
        under_xen = menu.entries[7]
        assert under_xen.title == b"Debian GNU/Linux, with Xen hypervisor"
        assert under_xen.kernel is not None
        assert under_xen.kernel.path == b"/vmlinuz-6.1.0-18-amd64"
        assert [file.path for file in under_xen.initrds] == [b"/initrd.img-6.1.0-18-amd64"]
        assert under_xen.args.endswith(b" ro console=hvc0 quiet")
        assert b"placeholder" not in under_xen.args
        assert menu.entries[8].path[1] == b"Xen hypervisor, version 4.17-amd64"

    def test_fedora_with_entry_files_kernelopts_and_a_saved_entry(self) -> None:
        def entry(version: str, options: str) -> str:
            return (
                f"title Fedora Linux ({version}) 39\nversion {version}\nlinux /vmlinuz-{version}\n"
                f"initrd /initramfs-{version}.img $tuned_initrd\noptions {options} $tuned_params\n"
                "grub_users $grub_users\ngrub_arg --unrestricted\ngrub_class fedora\n"
            )

        names = ("6.9.1-200.fc39.x86_64", "6.10.2-100.fc39.x86_64", "0-rescue")
        boot: dict[str, Any] = {"/grub2/grub.cfg": (DATA / "fedora-bls.cfg").read_bytes()}
        for name in names:
            boot |= {f"/vmlinuz-{name}": b"k", f"/initramfs-{name}.img": b"i"}
            boot[f"/loader/entries/0123456789abcdef-{name}.conf"] = entry(name, "$kernelopts rhgb")
        block = "# GRUB Environment Block\nsaved_entry=0123456789abcdef-6.9.1-200.fc39.x86_64\nboot_success=0\n"
        boot["/grub2/grubenv"] = block + "kernelopts=root=/dev/mapper/fedora-root ro console=hvc0\n" + "#" * 800
        menu = find_menu(MemoryForest.of(boot))
        assert [title.split(b"(")[1].split(b")")[0].decode() for title in titles(menu)] == [
            "6.10.2-100.fc39.x86_64",
            "6.9.1-200.fc39.x86_64",
            "0-rescue",
        ]
        assert menu.default == 1
        chosen = menu.entries[1]
        assert chosen.args == b"root=/dev/mapper/fedora-root ro console=hvc0 rhgb"
        assert [file.path for file in chosen.initrds] == [b"/initramfs-6.9.1-200.fc39.x86_64.img"]
        assert menu.timeout == 5

    def test_a_stub_on_the_efi_system_partition_leads_to_the_real_configuration(self) -> None:
        stub = "search.fs_uuid 0000-1 root hd0,gpt2\nset prefix=($root)'/boot/custom'\nconfigfile $prefix/grub.cfg\n"
        real = "set default=1\n" + linux("a") + linux("b")
        menu = find_menu(
            MemoryForest.of({"/EFI/debian/grub.cfg": stub}, {**FILES, "/boot/custom/grub.cfg": real}, kind="vfat")
        )
        assert titles(menu) == [b"a", b"b"]
        assert menu.default == 1
        assert menu.entries[0].kernel is not None
        assert menu.entries[0].kernel.tree == 1

    def test_custom_entries_are_sourced(self) -> None:
        script = linux("main") + "if [ -f  ${config_directory}/custom.cfg ]; then\n source $prefix/custom.cfg\nfi\n"
        assert titles(menu_of(script, **{"/boot/grub/custom.cfg": linux("mine")})) == [b"main", b"mine"]

    def test_ubuntu_records_a_failed_boot(self) -> None:
        script = """
function recordfail {
  set recordfail=1
  if [ -n "${have_grubenv}" ]; then if [ -z "${boot_once}" ]; then save_env recordfail; fi; fi
}
function gfxmode { set gfxpayload="${1}"; if [ "${1}" = "keep" ]; then set vt_handoff=vt.handoff=7; fi; }
load_env
if [ "${recordfail}" = 1 ] ; then set timeout=30; else set timeout=0; fi
set linux_gfx_mode=keep
menuentry 'Ubuntu' { recordfail; gfxmode $linux_gfx_mode; linux /vmlinuz root=/dev/xvda1 quiet $vt_handoff
  initrd /early /initrd
}
"""
        menu = menu_of(script, **{"/boot/grub/grubenv": "# GRUB Environment Block\nrecordfail=1\n#####"})
        assert menu.timeout == 30
        assert only(menu).args == b"root=/dev/xvda1 quiet vt.handoff=7"
        assert len(only(menu).initrds) == 2


class TestWords:
    @pytest.mark.parametrize(
        ("written", "args"),
        [
            ("linux /vmlinuz a  b\tc", b"a b c"),
            ("linux /vmlinuz 'a b' \"c d\"", b'"a b" "c d"'),
            ("linux /vmlinuz a\\\n b", b"a b"),
            ("linux /vmlinuz a\\\nb", b"ab"),
            ("linux /vmlinuz a\\ b", b'"a b"'),
            ('linux /vmlinuz "\\$x \\" \\\\ \\n"', b'"$x \\" \\\\ \\\\n"'),
            ("linux /vmlinuz 'it'\"'\"'s'", b"it\\'s"),
            ("linux /vmlinuz x='' ''", b"x= "),
            ("linux /vmlinuz a#b # a comment", b"a#b"),
            ("set v='one  two'; linux /vmlinuz $v \"$v\" x${v}y", b'one two "one  two" xone twoy'),
            ("set v=' a '; linux /vmlinuz x${v}y", b"x a y"),
            ('linux /vmlinuz $unset "$unset" end', b" end"),
            ('linux /vmlinuz $ 5$ "$" $%', b"$ 5$ $ $%"),
            ("v=assigned; linux /vmlinuz $v", b"assigned"),
            ('linux /vmlinuz $"translated"', b"translated"),
            ("linux /vmlinuz \\x41 \\\\x41", b"x41 \\x41"),
            ("linux /vmlinuz a;initrd /initrd", b"a"),
        ],
    )
    def test_quotes_escapes_and_variables(self, written: str, args: bytes) -> None:
        assert args_of(written) == args

    def test_bytes_beyond_ascii_pass_unchanged(self) -> None:
        assert args_of("linux /vmlinuz name='höhe'".encode()) == "name=höhe".encode()

    def test_an_entry_is_given_its_own_title_and_further_words(self) -> None:
        menu = menu_of("menuentry 'a b' --class c extra { linux /vmlinuz \"$1\" $2 $# $3 $@ }\n")
        assert only(menu).args == b'"a b" extra 2 a b extra'


class TestConditions:
    @pytest.mark.parametrize(
        ("condition", "holds"),
        [
            ("true", True),
            ("false", False),
            ("! false", True),
            ("no_such_command", False),
            ("[ a = a ]", True),
            ("[ a == b ]", False),
            ("[ a != b ]", True),
            ("[ x$unset = x ]", True),
            ('[ -z "$unset" ]', True),
            ('[ -n "$unset" ]', False),
            ('[ "$unset" ]', False),
            ("[ $unset ]", False),
            ("test text", True),
            ("[ ! a = a ]", False),
            ("[ a = a -a b = c ]", False),
            ("[ a = b -o b = b ]", True),
            ("[ a = b -a c = c -o d = d ]", True),
            ("[ a = a -o b = b -a c = d ]", True),
            ("[ ( a = b -o c = c ) -a ! ( d = e ) ]", True),
            ("[ 10 -gt 9 ]", True),
            ("[ 10 -le 9 ]", False),
            ("[ 07 -eq 7 ]", True),
            ("[ -1 -lt 0 ]", True),
            ("[ a < b ]", True),
            ("[ -f /vmlinuz ]", True),
            ("[ -f /other ]", False),
            ("[ -d /other ]", True),
            ("[ -e /other ]", True),
            ("[ -e /none ]", False),
            ("[ -s /empty ]", False),
            ("[ -s /vmlinuz ]", True),
            ("[ -f ($root)/vmlinuz ]", True),
            ("[ -f (hd0,gpt1)/vmlinuz ]", True),
            ("[ -f (hd7,gpt9)/vmlinuz ]", False),
            ("[ a = a", False),
            ("[ ]", False),
        ],
    )
    def test_of_if(self, condition: str, holds: bool) -> None:
        script = f"if {condition} ; then set v=yes; else set v=no; fi\nlinux /vmlinuz $v"
        assert args_of(script, **{"/empty": b""}) == (b"yes" if holds else b"no")

    def test_elif_and_the_status_of_the_last_command(self) -> None:
        script = (
            "set v=3\nif [ $v = 1 ]; then\n r=a\nelif [ $v = 3 ]\nthen r=b; else r=c\nfi\nfalse\nlinux /vmlinuz $r $?"
        )
        assert args_of(script) == b"b 1"

    def test_loops_functions_and_return(self) -> None:
        script = """
function twice { if [ -z "$1" ]; then return 1; fi; acc="$acc $1 $1"; return; acc=never; }
for i in a b c d; do
  if [ $i = b ]; then continue; fi
  if [ $i = d ]; then break; fi
  twice $i
done
n=0
while [ $n -lt 3 ]; do increment n; done
until [ $n -eq 1 ]; do decrement n; done
if twice; then acc="$acc wrong"; fi
linux /vmlinuz $acc $n"""
        assert args_of(script) == b"a a c c 1"


class TestDevices:
    OTHER = {"/there": b"kernel", "/marker": b"x"}  # noqa: RUF012  never changed

    @pytest.mark.parametrize(
        "search",
        [
            "search --no-floppy --fs-uuid --set=root 0000-1",
            "search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 --hint hd3 0000-1",
            "search -u 0000-1 -s root",
            "search --fs-uuid --set 0000-1",
            "search --fs-uuid --set root 0000-1",
            "search --label disk1 --set=root",
            "search --no-floppy -l disk1 --set=root",
            "search --file /marker --set=root",
            "search -f /marker --set=root",
            "search.fs_uuid 0000-1 root hd0,gpt1",
            "search.fs_label disk1 root",
            "search.file /marker root",
            "set root='hd0,gpt2'",
            "set root=(hd0,gpt2)",
            "set root='ahci0,gpt2'; set root=hd0,2",
            "set root='xen/xvda,2'",
        ],
    )
    def test_are_found(self, search: str) -> None:
        menu = menu_of(f"menuentry one {{ {search}; linux /there\n}}", self.OTHER)
        kernel = only(menu).kernel
        assert kernel is not None, only(menu).problem
        assert kernel.tree == 1

    def test_a_search_that_finds_nothing_leaves_root_as_it_was(self) -> None:
        menu = menu_of("menuentry one { if search -u ffff --set=root; then v=1; fi; linux /vmlinuz x$v\n}")
        assert only(menu).args == b"x"

    def test_a_search_may_set_another_variable(self) -> None:
        menu = menu_of("search -u 0000-1 --set=dev\nmenuentry one { linux ($dev)/there\n}", self.OTHER)
        assert not only(menu).problem

    def test_probe_tells_a_uuid(self) -> None:
        assert args_of("probe --set=u -u $root; probe -l --set l $root; linux /vmlinuz $u $l") == b"0000-0 disk0"

    def test_a_kernel_on_a_device_that_is_not_here_is_the_entrys_problem(self) -> None:
        menu = menu_of("menuentry one { linux (lvm/vg-root)/vmlinuz\n}")
        assert only(menu).kernel is None
        assert only(menu).problem == "(lvm/vg-root)/vmlinuz is on a device that is not this disk"


class TestEntriesThatCannotBoot:
    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            ("linux /none", "there is no /none"),
            ("linux /vmlinuz\ninitrd /initrd /none", "there is no /none"),
            ("linux /empty", "/empty is empty"),
            ("echo hello", "it loads no kernel"),
            ("chainloader +1", "it starts another boot loader (+1)"),
            ("multiboot /boot/other.elf\nmodule /vmlinuz", "neither Linux nor Xen"),
            ("linux /vmlinuz\ninitrd newc:x:/initrd", "newc"),
            ("linux /vmlinuz 'a\nb'", "control characters"),
            ("linux /vmlinuz a\x00b", "control characters"),
            ("linux /vmlinuz " + "x" * 5000, "5000 bytes"),
            ("linux /vmlinuz\ninitrd" + " /initrd" * 20, "20 ramdisks"),
        ],
    )
    def test_are_kept_with_their_problem(self, body: str, problem: str) -> None:
        menu = menu_of(f"menuentry bad {{\n{body}\n}}\n{linux('good')}", **{"/empty": b""})
        assert titles(menu) == [b"bad", b"good"]
        assert menu.entries[0].kernel is None
        assert problem in menu.entries[0].problem
        assert not menu.entries[1].problem

    def test_a_problem_is_short_and_printable_whatever_the_guest_names(self) -> None:
        menu = menu_of(b"menuentry x { linux /\x1b]0;" + b"\xff\x07" * 4000 + b"\n}")
        assert len(only(menu).problem) <= 256
        assert only(menu).problem.isprintable()

    def test_a_title_is_cut(self) -> None:
        assert len(only(menu_of(f"menuentry '{'t' * 9000}' {{ linux /vmlinuz\n}}")).title) == limits.TITLE_BYTES


class TestTheDefault:
    SUBMENUS = (
        linux("a")
        + "submenu 'More > less' --id more {\n"
        + linux("b")
        + "submenu deep {"
        + linux("c")
        + "}\n}\n"
        + linux("d")
    )

    @pytest.mark.parametrize(
        ("default", "title"),
        [
            ("0", b"a"),
            ("1", b"b"),
            ("2", b"d"),
            ("1>0", b"b"),
            ("1>1", b"c"),
            ("1>1>0", b"c"),
            ("9", b"a"),
            ("-1", b"a"),
            ("", b"a"),
            ("nonsense", b"a"),
            ("d", b"d"),
            ("id-d", b"d"),
            ("more", b"b"),
            ("more>deep", b"c"),
            ("More >> less>deep>c", b"c"),
            ("more>id-b", b"b"),
            ("more>nonsense", b"b"),
        ],
    )
    def test_names_an_entry_as_in_grub(self, default: str, title: bytes) -> None:
        menu = menu_of(f"set default='{default}'\n{self.SUBMENUS}")
        assert titles(menu) == [b"a", b"b", b"c", b"d"]
        assert menu.entries[menu.default].title == title

    def test_gives_way_to_a_fallback_that_can_boot(self) -> None:
        script = "set default=0\nset fallback='1 2'\n" + linux("a", "/none") + linux("b", "/none") + linux("c")
        assert menu_of(script).default == 2

    def test_is_what_is_to_boot_once(self) -> None:
        block = "# GRUB Environment Block\nsaved_entry=0\nnext_entry=1\n"
        script = (
            'load_env\nif [ "${next_entry}" ]; then default="${next_entry}"\nelse default="${saved_entry}"; fi\n'
            + linux("a")
            + linux("b")
        )
        assert menu_of(script, **{"/boot/grub/grubenv": block}).default == 1

    @pytest.mark.parametrize(
        ("setting", "seconds"), [("", None), ("5", 5.0), ("0", 0.0), ("-1", None), ("x", None), ("9" * 99, 1e18 - 1)]
    )
    def test_time_out(self, setting: str, seconds: float | None) -> None:
        assert menu_of(f"set timeout={setting}\n{linux('a')}").timeout == seconds


class TestSyntaxErrors:
    @pytest.mark.parametrize(
        "broken",
        [
            "fi",
            "}",
            "a | b",
            "a && b",
            "if true; then else fi fi",
            "menuentry bad { linux /vmlinuz a|b\n initrd /initrd\n}",
            "for x y; do true; done",
            "{ true }",
            "function { true }",
            "done; then",
        ],
    )
    def test_lose_only_their_own_statement(self, broken: str) -> None:
        assert titles(menu_of(f"{linux('before')}{broken}\n{linux('after')}")) == [b"before", b"after"]

    @pytest.mark.parametrize("opened", ["'", '"', "if true; then", "menuentry x {", "while true; do", "function f {"])
    def test_what_is_never_closed_loses_the_rest(self, opened: str) -> None:
        assert titles(menu_of(f"{linux('before')}{opened}\n{linux('after')}")) == [b"before"]


@pytest.mark.unmeasured
class TestBudgets:
    @pytest.mark.parametrize(
        "hostile",
        [
            "set a=xx\n" + "set a=$a$a$a$a\n" * 64,
            "while true; do true; done",
            "function f { f; }\nf",
            "function f { f; f; }\nf",
            "source /boot/grub/grub.cfg",
            "configfile /boot/grub/grub.cfg",
            "menuentry a { configfile /boot/grub/grub.cfg\n}",
            "if true; then\n" * 200 + "fi\n" * 200,
            "submenu a {" * 20 + "}" * 20,
            "[ " + "( " * 500 + "]",
            linux("x") * (limits.ENTRIES + 1),
            "n=0; while true; do increment n; set v$n=1; done",
            "x " * 400_000,
            "for i in 1 2 3 4 5 6 7 8 9; do\n" * 20 + "true\n" + "done\n" * 20,
            "while [ ! -f /none ]; do true; done",
        ],
        ids=range(15),
    )
    def test_stop_what_would_not_end(self, hostile: str) -> None:
        with pytest.raises(DiskError) as caught:
            menu_of(hostile)
        assert caught.value.reason is DiskReason.BUDGET

    @pytest.mark.parametrize(
        "filler", ["x", "'", '"a', "$", "${", "\\", "{", "}", ";", "#", "$a", "\\\n", "''", '"', "\r", "a\\\r\n"]
    )
    def test_a_mebibyte_of_anything_ends(self, filler: str) -> None:
        content = (linux("a") + filler * limits.CONFIG_BYTES)[: limits.CONFIG_BYTES]
        outcome = menu_or_reason(content)
        assert outcome is DiskReason.BUDGET or titles(outcome) == [b"a"]

    def test_a_mebibyte_of_arguments_is_a_problem_of_the_entry(self) -> None:
        menu = menu_of("menuentry a { linux /vmlinuz '" + "x" * (limits.CONFIG_BYTES - 99) + "'\n}\n" + linux("b"))
        assert "bytes" in menu.entries[0].problem
        assert not menu.entries[1].problem

    def test_a_larger_file_is_refused_rather_than_passed_over(self) -> None:
        with pytest.raises(DiskError) as caught:
            menu_of(b"#" * (limits.CONFIG_BYTES + 1), **{"/extlinux.conf": "label a\nkernel /vmlinuz\n"})
        assert caught.value.reason is DiskReason.FILE_TOO_BIG


class TestScopes:
    def test_an_entry_does_not_change_what_another_sees(self) -> None:
        script = "set v=outer\nmenuentry a { set v=inner; linux /vmlinuz $v\n}\nmenuentry b { linux /vmlinuz $v\n}\n"
        assert [entry.args for entry in menu_of(script).entries] == [b"inner", b"outer"]

    def test_a_submenu_sees_exported_variables_only(self) -> None:
        script = "set a=1\nset b=2\nexport b\nsubmenu s { menuentry x { linux /vmlinuz a$a b$b\n} }\n"
        assert only(menu_of(script)).args == b"a b2"

    def test_a_script_that_just_boots_is_one_entry(self) -> None:
        entry = only(menu_of("linux /vmlinuz root=/dev/xvda\ninitrd /initrd\nboot\n"))
        assert (entry.title, entry.args) == (b"/vmlinuz", b"root=/dev/xvda")
