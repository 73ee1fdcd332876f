# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of a bootloader program: one node that its uid can read, whatever the image is and whoever owns it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.planted import planted
from support.programs import Delivered, deliver, delivered, refused, reporting

from domward.protocol.fds import Fd
from domward.supervisor import Config, Supervisor

CONTENT = b"".join(bytes([number]) * 4096 for number in range(1, 17))

# What a program learns of its disk, and what it cannot do to it.
LOOKS = """
with open(disk, "rb") as file:
    content = file.read()
seen = os.stat(disk)
found = {
    "right": content == b"".join(bytes([number]) * 4096 for number in range(1, 17)),
    "kind": "block" if stat.S_ISBLK(seen.st_mode) else "file" if stat.S_ISREG(seen.st_mode) else "other",
    "write": error(os.open, disk, os.O_RDWR),
    "chmod": error(os.chmod, disk, 0o666),
    "unlink": error(os.unlink, disk),
    "truncate": error(os.truncate, disk, 0),
}
"""


@pytest.fixture
def looks(tmp_path: Path) -> Path:
    return reporting(tmp_path / "looks", LOOKS)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that only root may read."""
    return written(tmp_path / "image")


def written(path: Path, owner: int = 0, mode: int = 0o600) -> Path:
    path.write_bytes(CONTENT)
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def state(path: Path) -> tuple[object, ...]:
    seen = path.stat()
    return seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def check(ran: Delivered, kind: str) -> None:
    found = ran.report()
    assert found.pop("right")
    assert found.pop("kind") == kind
    if kind == "block":
        assert found == {"write": "EACCES", "chmod": "EROFS", "unlink": "EROFS", "truncate": "EINVAL"}
    else:
        assert found["chmod"] == "EROFS"
        assert found["unlink"] in ("EROFS", "EBUSY")  # it is a mount of its own on a read-only one
        assert {found["write"], found["truncate"]} <= {"EROFS", "EACCES"}


def loops(folder: Path) -> list[str]:
    """The files in `folder` that a loop device has."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # cleared meanwhile
            found.append(path.read_text().strip())
    return [file for file in found if file.startswith(str(folder))]


@pytest.mark.parametrize(
    ("owner", "mode"), [(0, 0o600), (0, 0o400), (12_345, 0o600), (12_345, 0o640), (0, 0o444), (65_534, 0o600)]
)
def test_an_image_of_anybodys_is_read_through_a_mount_and_stays_as_it_is(
    owner: int, mode: int, looks: Path, tmp_path: Path
) -> None:
    image = written(tmp_path / "image", owner, mode)
    before = state(image)
    check(delivered(image, looks), "file")
    assert state(image) == before
    assert loops(tmp_path) == []


def test_an_image_that_its_owner_may_not_read_is_read_through_a_loop_device(looks: Path, tmp_path: Path) -> None:
    image = written(tmp_path / "image", 12_345, 0)
    before = state(image)
    check(delivered(image, looks), "block")
    assert state(image) == before


def test_a_symbolic_link_and_an_open_fd(image: Path, looks: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("image")
    (tmp_path / "second").symlink_to("link")

    async def main() -> None:
        async with Supervisor() as supervisor:
            check(await deliver(supervisor, tmp_path / "second", looks), "file")
            with Fd(os.open(image, os.O_RDONLY), "disk") as fd:
                os.unlink(image)  # what has no name any more is still a disk
                check(await deliver(supervisor, fd, looks), "block")

    asyncio.run(main())


def test_a_file_that_is_in_no_mount(looks: Path) -> None:
    with Fd(os.memfd_create("disk", os.MFD_CLOEXEC), "memfd") as memory:
        os.write(memory.fileno(), CONTENT)
        with Fd(os.open(f"/proc/self/fd/{memory.fileno()}", os.O_RDONLY), "disk") as fd:
            check(delivered(fd, looks), "block")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts something on a folder of the test's, which is returned."""
    folders: list[Path] = []

    def mount(kind: str, options: str) -> Path:
        folder = tmp_path / f"mounted-{len(folders)}"
        folder.mkdir()
        subprocess.run(["mount", "-t", kind, "-o", options, kind, folder], check=True)
        folders.append(folder)
        return folder

    yield mount
    for folder in reversed(folders):
        subprocess.run(["umount", folder], check=True)


def test_an_image_on_tmpfs(looks: Path, mounted: Callable[..., Path]) -> None:
    check(delivered(written(mounted("tmpfs", "size=1m") / "image"), looks), "file")


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_an_image_on_overlayfs(layer: str, looks: Path, mounted: Callable[..., Path], tmp_path: Path) -> None:
    base = mounted("tmpfs", "size=1m")  # the layers of an overlay must not lie on one
    for name in ("lower", "upper", "work"):
        (base / name).mkdir()
    written(base / layer / "image")
    folder = mounted("overlay", f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work")
    found = delivered(folder / "image", looks)
    check(found, found.report()["kind"])  # as a file where this kernel maps ids on overlayfs, else through a loop
    assert loops(tmp_path) == []


def test_a_block_device(image: Path, looks: Path) -> None:
    device = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        before = state(Path(device))
        check(delivered(Path(device), looks), "block")
        assert state(Path(device)) == before
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_host_without_user_namespaces_takes_a_loop_device(image: Path, looks: Path, tmp_path: Path) -> None:
    config = Config(python=planted(tmp_path, "kernel.clone_child = refuse"))
    check(delivered(image, looks, config), "block")
    assert loops(tmp_path) == []


def test_a_loop_device_is_let_go_of_when_the_program_fails(tmp_path: Path) -> None:
    image = written(tmp_path / "image", 0, 0)
    failing = reporting(tmp_path / "fails", "sys.exit(4)")
    assert refused(image, failing).code == "program-failed"
    assert loops(tmp_path) == []


def test_many_programs_on_one_image_at_once(image: Path, looks: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            for found in await asyncio.gather(*(deliver(supervisor, image, looks) for _ in range(6))):
                check(found, "file")

    asyncio.run(main())
