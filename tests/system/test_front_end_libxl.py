# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward-bootloader` as libxl runs it: on a pty, with its files, its rules for a hang-up and its parser."""

from __future__ import annotations

import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory, Fs, whole
from support.guests import debian_disk, expected
from support.menu_terminal import DOWN, ENTER, ERASE_LINE
from support.programs import DELIVERS, script
from support.toolstacks import Booted, Libxl, libxl

from domward.protocol import limits

HEADING = "Boot menu"
QUIET = ("--runas=65535", "--quiet")


@pytest.fixture
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk("ext4", scheme="gpt", separate_boot=True, kernel=kernel))


def small_disk(disks: DiskFactory, config: str, **files: bytes) -> Path:
    return disks.build(whole(Fs("ext4", {"k": b"MZ kernel", "boot/grub/grub.cfg": config, **files})))


def boots(work: Path, disk: Path, *bootloader_args: str, before: tuple[str, ...] = QUIET) -> Booted:
    with libxl(work, disk, before=before, bootloader_args=bootloader_args) as run:
        booted = run.finish()
    assert booted.code == 0, booted.log
    assert (booted.dropped, booted.left) == ([], [])
    return booted


def fails(work: Path, disk: str | Path, *bootloader_args: str, before: tuple[str, ...] = QUIET) -> str:
    """The sentence in libxl's log; nothing else is left of the run."""
    with libxl(work, disk, before=before, bootloader_args=bootloader_args) as run:
        booted = run.finish()
    assert booted.code > 0
    assert (booted.answer, booted.left) == (b"", [])
    assert booted.log.startswith(b"domward: "), booted.log
    return booted.log.decode("ascii")


def test_an_unmodified_create_boots(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    booted = boots(tmp_path, disk)
    wanted = expected(debian_disk("ext4", scheme="gpt", separate_boot=True, kernel=kernel), kernel)
    assert (booted.kernel, booted.ramdisk, booted.args) == (wanted.kernel, wanted.ramdisk, wanted.args.encode())
    assert booted.modes == {stat.S_IFREG | 0o600}
    assert booted.log == b""


def test_the_menu_is_on_the_console(disk: Path, tmp_path: Path) -> None:
    with libxl(tmp_path, disk) as run:
        screen = run.until_shown("any key stops the count")
        assert screen.rows[0] == f"{HEADING} (1 of 5)"
        run.press(DOWN)
        run.until(lambda screen: any("6.1.0-99" in row for row in screen.reversed_rows))
        run.press(b"e")
        run.until_shown("Enter: keep")
        run.press(ERASE_LINE + b"root=/dev/xvda2 single" + ENTER)
        run.until_shown("Enter: boot")
        run.press(ENTER)
        booted = run.finish()
    assert booted.code == 0
    assert booted.args == b"root=/dev/xvda2 single"


def test_the_menu_starts_the_default_when_nobody_is_there(disks: DiskFactory, tmp_path: Path) -> None:
    disk = small_disk(disks, "set timeout=1\nmenuentry 'x' {\n linux /k console=hvc0\n}\n")
    with libxl(tmp_path, disk) as run:
        booted = run.finish()
    assert (booted.code, booted.kernel, booted.left) == (0, b"MZ kernel", [])
    assert b"starts in 1 s" in booted.log


def test_a_disk_that_shows_no_menu_boots_at_once(disks: DiskFactory, tmp_path: Path) -> None:
    disk = small_disk(disks, "set timeout=0\nmenuentry 'x' {\n linux /k console=hvc0\n}\n")
    booted = boots(tmp_path, disk, before=())
    assert (booted.kernel, booted.ramdisk, booted.args) == (b"MZ kernel", None, b"console=hvc0")
    assert HEADING.encode() not in booted.log


def test_extra_arguments_follow_those_of_the_entry(disk: Path, disks: DiskFactory, tmp_path: Path) -> None:
    plain = boots(tmp_path / "plain", disk)
    booted = boots(tmp_path / "extra", disk, before=("--args=root=/dev/xvda2 single", *QUIET))
    assert booted.args == (plain.args or b"") + b" root=/dev/xvda2 single"
    shown = small_disk(disks, "set timeout=5\nmenuentry 'x' {\n linux /k quiet\n}\n")
    with libxl(tmp_path / "menu", shown, before=("--args=panic=7",)) as run:
        run.until_shown("arguments: quiet panic=7")
        run.press(ENTER)
        assert run.finish().args == b"quiet panic=7"


def test_kernel_and_ramdisk_of_the_domains_configuration_are_files_of_the_guest(
    disk: Path, kernel: DebianKernel, tmp_path: Path
) -> None:
    before = (f"--kernel=/vmlinuz-{kernel.version}", "--args=mine")  # the first file system that has it is /boot
    booted = boots(tmp_path / "without", disk, before=before)
    assert (booted.kernel, booted.ramdisk, booted.args) == (kernel.vmlinuz.read_bytes(), None, b"mine")
    before = (f"--kernel=boot/vmlinuz-{kernel.version}", "--ramdisk=/initrd.img", *QUIET)  # through the root's links
    booted = boots(tmp_path / "with", disk, before=before)
    assert (booted.kernel, booted.ramdisk) == (kernel.vmlinuz.read_bytes(), kernel.initrd.read_bytes())
    assert booted.args is None
    assert "has /etc/shadow" in fails(tmp_path / "missing", disk, before=("--kernel=/etc/shadow", *QUIET))
    assert "disk-file-missing" in fails(tmp_path / "none", disk, before=(*before[:1], "--ramdisk=/none", *QUIET))


def test_a_ramdisk_without_a_kernel_is_not_used(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    with libxl(tmp_path, disk, before=("--ramdisk=/etc/hostname", *QUIET)) as run:
        booted = run.finish()
    assert (booted.code, booted.ramdisk) == (0, kernel.initrd.read_bytes())
    assert b"--ramdisk is not used without --kernel" in booted.log


def test_arguments_of_the_bootloader(disk: Path, tmp_path: Path) -> None:
    older = boots(tmp_path / "older", disk, "--entry", "3", "--debug", before=())
    assert (older.kernel or b"").startswith(b"MZ older kernel")
    assert b"Boot menu" not in older.log, "an entry that is named needs no menu"
    assert "disk-no-such-entry" in fails(tmp_path / "none", disk, "--entry=99")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--nonsense",), "Option --nonsense not recognized."),
        (("--entry",), "One disk must be named, not 0."),  # it took the disk for its value
        (("stray",), "One disk must be named, not 2."),
        (("--output-format=xml",), "The output format must be one of sxp, simple, simple0, not xml."),
        (("--offset=-1",), "--offset must be a number"),
        (("--runas=nobody",), "--runas must be a number"),
        (("--list-entries",), "'domward inspect' shows what a disk holds."),
        (("--timeout=0",), "--timeout must be a number of seconds"),
        (("--format=vmdk",), "The image's format must be one of raw, qcow2, not vmdk."),
        (("--args=" + "a" * 1024,), "args must be at most 1023 bytes."),
        (("--args=a\nb",), "args must not contain control characters."),
        (("--kernel=" + "a" * 4097,), "kernel must be at most 4096 bytes."),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(
    words: tuple[str, ...], sentence: str, disk: Path, tmp_path: Path
) -> None:
    found = fails(tmp_path, disk, *words)
    assert found.startswith("domward: usage: ")
    assert sentence in found


def test_a_command_line_that_xen_does_not_take(disks: DiskFactory, tmp_path: Path) -> None:
    own = "a" * (limits.CMDLINE_BYTES - 10)
    disk = small_disk(disks, f"menuentry 'x' {{\n linux /k {own}\n}}\n")
    assert len(boots(tmp_path / "fits", disk, before=("--args=123456789", *QUIET)).args or b"") == limits.CMDLINE_BYTES
    sentence = fails(tmp_path / "long", disk, before=("--args=1234567890", *QUIET))
    assert "disk-arguments-invalid: The kernel's arguments are 1024 bytes; Xen takes at most 1023." in sentence


def test_the_domain_dies_while_the_menu_waits(disk: Path, tmp_path: Path) -> None:
    with libxl(tmp_path, disk) as run:
        run.until_shown(HEADING)
        run.domain_dies()
        booted = run.finish()
    assert (booted.code, booted.answer, booted.left) == (130, b"", [])


def test_the_toolstack_dies_while_the_menu_waits(disk: Path, tmp_path: Path) -> None:
    with libxl(tmp_path, disk) as run:
        run.until_shown(HEADING)
        run.hang_up()
        booted = run.finish()
    assert (booted.code, booted.answer, booted.left) == (130, b"", [])


def test_a_person_leaves_the_menu(disk: Path, tmp_path: Path) -> None:
    with libxl(tmp_path, disk) as run:
        run.until_shown(HEADING)
        run.press(b"q")
        booted = run.finish()
    assert (booted.code, booted.answer, booted.left) == (130, b"", [])
    assert b"domward: cancelled: The menu was left without a choice." in booted.log


def test_time_runs_out_at_the_menu(disk: Path, tmp_path: Path) -> None:
    with libxl(tmp_path, disk, bootloader_args=("--timeout=5",)) as run:
        run.until_shown(HEADING)
        run.press(DOWN)
        booted = run.finish()
    assert (booted.code, booted.answer, booted.left) == (5, b"", [])
    assert b"domward: timed-out: " in booted.log


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "disk-empty"), (b"\0" * 65536, "disk-no-filesystem"), (b"QFI\xfb" + b"\0" * 65532, "disk-no-filesystem")],
    ids=["empty", "zeroes", "a qcow2 header that a guest wrote"],
)
def test_a_disk_without_anything_to_boot(content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert fails(tmp_path / "run", tmp_path / "disk").startswith(f"domward: {code}: ")


def test_a_disk_that_is_not_there(tmp_path: Path) -> None:
    assert fails(tmp_path / "run", tmp_path / "none").startswith("domward: disk-not-found: There is no ")


def test_a_hostile_disk_cannot_write_to_the_console_what_it_likes(disks: DiskFactory, tmp_path: Path) -> None:
    disk = small_disk(disks, "set timeout=5\nmenuentry '\x1b[2J\x1b]0;owned\x07' {\n linux '/missing\x1b[2J'\n}\n")
    with libxl(tmp_path, disk) as run:
        booted = run.finish()
    assert (booted.code, booted.left) == (7, [])
    assert b"\x1b]0;" not in booted.log
    assert b"\x07" not in booted.log


def test_the_offset_of_a_file_system(disks: DiskFactory, tmp_path: Path) -> None:
    inner = small_disk(disks, "menuentry 'x' {\n linux /k\n}\n").read_bytes()
    (tmp_path / "disk").write_bytes(b"\0" * 12345 * 512 + inner)
    assert boots(tmp_path / "run", tmp_path / "disk", f"--offset={12345 * 512}").kernel == b"MZ kernel"
    beyond = 12345 * 512 + len(inner)
    assert "disk-no-filesystem" in fails(tmp_path / "beyond", tmp_path / "disk", f"--offset={beyond}")


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes one of the two files, but not both."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_an_output_directory_that_is_full(disk: Path, small_tmpfs: Path) -> None:
    sentence = fails(small_tmpfs, disk)
    assert sentence == "domward: failed: The result could not be written: No space left on device.\n"


def test_a_program_reads_the_disk_in_the_built_in_readers_place(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"".join(bytes([number]) * 4096 for number in range(1, 17)))
    program = script(tmp_path / "boot", DELIVERS)
    booted = boots(tmp_path / "run", tmp_path / "disk", f"--bootloader={program}")
    assert (booted.kernel, booted.args) == (b"\x01" * 4096, b"from a script")
    assert "There is no bootloader" in fails(tmp_path / "none", tmp_path / "disk", "--bootloader=grub3")


def test_several_creates_at_once(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    with ExitStack() as stack:
        runs: list[Libxl] = [stack.enter_context(libxl(tmp_path / str(n), disk, before=QUIET)) for n in range(5)]
        for run in runs:
            booted = run.finish()
            assert (booted.code, booted.kernel, booted.left) == (0, kernel.vmlinuz.read_bytes(), [])


def test_a_wish_to_stop_at_any_time_leaves_nothing(disk: Path, tmp_path: Path) -> None:
    for milliseconds in range(0, 400, 40):
        with libxl(tmp_path, disk, before=QUIET) as run:
            signal.sigtimedwait([], milliseconds / 1000)
            run.domain_dies()
            booted = run.finish()
        if booted.code == 0:
            assert booted.kernel
        else:
            assert booted.code in (130, -signal.SIGTERM)
            assert booted.answer == b""
        assert booted.left == []
