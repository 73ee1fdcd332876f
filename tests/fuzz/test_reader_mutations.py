# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged disks end in an answer or in a `DiskError`: never in another exception, a crash, or work without end.

Each image is a good one with a few changes where the reader looks. Everything follows from the seed; a failure names
the file system and the number of the image, and `DOMWARD_FUZZ_ONLY=NUMBER` runs that one alone. Images run in forked
batches, under the limits that a helper has, so that a crash or a hang is one image's and not the test run's.
"""

from __future__ import annotations

import os
import random
import resource
import struct
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.disks import Disk, DiskFactory, Fs, Part, whole
from support.trees import Directory, Entry, Sparse, Symlink

from domward.helpers.reader import source, volumes
from domward.helpers.reader.copy import copy_files
from domward.helpers.reader.interface import Node, NodeType
from domward.helpers.reader.tree import DiskTree, open_disk
from domward.protocol import limits
from domward.protocol.errors import DiskError

IMAGES = int(os.environ.get("DOMWARD_FUZZ_IMAGES", "1000"))
ONLY = os.environ.get("DOMWARD_FUZZ_ONLY")
BATCH = 100
VISITED = 150  # entries looked at in one image: the good one has some 120

TREE: dict[str, Entry] = {
    "boot/vmlinuz": random.Random(1).randbytes(150_000),
    "boot/initrd.img": b"".join(b"line %d\n" % n for n in range(30_000)),
    "boot/grub/grub.cfg": "menuentry 'x' { linux /vmlinuz }\n" * 50,
    "etc/fstab": "UUID=12 / ext4 defaults 0 1\n",
    "small": b"x" * 100,
    "sparse": Sparse(900_000, ((300_000, b"y" * 5000),)),
    "empty": Directory(),
    **{f"many/entry-{n}-with-a-longer-name": b"" for n in range(100)},
}
LINKED: dict[str, Entry] = {**TREE, "vmlinuz": Symlink("boot/vmlinuz"), "far": Symlink("/" + "many/../" * 20 + "small")}
DISKS: dict[str, Disk] = {
    "ext2": whole(Fs("ext2", LINKED, size_mib=8)),
    "ext4": whole(Fs("ext4", LINKED, size_mib=8, mkfs=("-O", "inline_data,^has_journal"))),
    "xfs": whole(Fs("xfs", LINKED)),
    "btrfs": whole(Fs("btrfs", LINKED)),
    "vfat": whole(Fs("vfat", TREE, size_mib=40, mkfs=("-F", "32"))),
    "qcow2": whole(Fs("ext4", LINKED, size_mib=8), image="qcow2", convert=("-c",)),
    "mbr": Disk("mbr", (Part(Fs("vfat", TREE)), Part(Fs("ext4", LINKED), logical=True))),
    "gpt": Disk("gpt", (Part(Fs("vfat", TREE)), Part(Fs("ext4", LINKED)))),
}


@dataclass(frozen=True)
class Looked:
    """A structure that the reader looked at: bytes [offset, offset + length) of the disk."""

    offset: int
    length: int


def use(fd: int) -> None:
    """All that a bootloader helper does with a disk, and more: every tree, folder, link and file."""
    forest = open_disk(fd)
    for tree in forest.trees:
        for path in (b"/vmlinuz", b"/boot/vmlinuz", b"/far", b"/boot/initrd.img"):
            attempt(lambda tree=tree, path=path: copy_out(tree, path))  # type: ignore[misc]  # a lambda's defaults
        attempt(lambda tree=tree: visit(tree))  # type: ignore[misc]  # as above


def copy_out(tree: DiskTree, path: bytes) -> None:
    sink = os.memfd_create("sink", os.MFD_CLOEXEC)
    try:
        ref = tree.file(path)
        assert copy_files(tree.forest, [ref, ref], sink, 64 * limits.MIB) == os.fstat(sink).st_size
    finally:
        os.close(sink)


def visit(tree: DiskTree) -> None:
    ahead: list[Node] = [tree.fs.root(), *tree.fs.other_roots()]
    count = 0
    while ahead and count < VISITED:
        node = ahead.pop()
        count += 1
        if node.type is NodeType.DIRECTORY:
            attempt(lambda node=node: enter(tree, node, ahead))  # type: ignore[misc]  # as above
        elif node.type is NodeType.SYMLINK:
            attempt(lambda node=node: tree.fs.readlink(node))  # type: ignore[misc]  # as above
        elif node.type is NodeType.FILE:
            attempt(lambda node=node: tree.fs.read(node, limits.MIB))  # type: ignore[misc]  # as above


def enter(tree: DiskTree, folder: Node, ahead: list[Node]) -> None:
    for name in tree.fs.names(folder):
        node = tree.fs.child(folder, name)
        if node is not None and len(ahead) < VISITED:
            ahead.append(node)


def attempt(action: Callable[[], object]) -> None:
    """A damaged part is no reason not to look at the others."""
    try:
        action()
    except DiskError as error:
        if any(not " " <= c <= "~" for c in str(error)):
            pytest.fail("an error's text could drive a terminal")


@contextmanager
def remembered(fd: int) -> Iterator[list[Looked]]:
    """Notes what the reader looks at in the meantime: partition tables, and each structure of a volume.

    In qcow2, where a volume's bytes are somewhere else on the disk: all that is read from the disk.
    """
    looked: list[Looked] = []
    of_window, of_source = volumes.Window.read, source.DiskSource.pread
    packed = os.pread(fd, 4, 0) == b"QFI\xfb"

    def read(self: volumes.Window, length: int, offset: int) -> bytes:
        if length <= 65536 and not packed:
            looked.append(Looked(self.volume.offset + offset, length))
        return of_window(self, length, offset)

    def pread(self: source.DiskSource, length: int, offset: int) -> bytes:
        if length <= 4096 or packed:
            looked.append(Looked(offset, length))
        return of_source(self, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volumes.Window, "read", read)
        patch.setattr(source.DiskSource, "pread", pread)
        yield looked


def mutations(rng: random.Random, fd: int, looked: list[Looked]) -> Iterator[tuple[int, bytes]]:
    """(offset, new bytes) of one to six changes."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        place = rng.choice(looked)
        # Half of the changes go to a structure's first bytes, where its header is.
        reach = min(place.length, rng.choice((64, 1024, place.length)))
        at = place.offset + rng.randrange(reach)
        match rng.randrange(6):
            case 0:
                old = os.pread(fd, 1, at) or b"\0"
                yield at, bytes((old[0] ^ 1 << rng.randrange(8),))
            case 1:
                yield at, rng.choice((b"\0", b"\xff", b"\x80", b"\x7f", rng.randbytes(1)))
            case 2:
                width, form = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
                value = rng.choice((0, 1, 2, (1 << width * 8) - 1, 1 << width * 8 - 1, rng.randrange(1 << 16)))
                yield at - at % width, struct.pack(rng.choice("<>") + form, value)
            case 3:
                other = rng.choice(looked)
                yield place.offset, os.pread(fd, min(place.length, other.length), other.offset)
            case 4:
                yield at, bytes(rng.randrange(1, 64))
            case _:
                yield at, rng.randbytes(rng.randrange(1, 32))


def run_image(number: int, name: str, fd: int, looked: list[Looked]) -> None:
    """Damage the disk, use it, repair it."""
    rng = random.Random(f"{name} {number}")
    repairs = []
    for at, data in mutations(rng, fd, looked):
        repairs.append((at, os.pread(fd, len(data), at)))
        os.pwrite(fd, data, at)
    attempt(lambda: use(fd))
    for at, data in reversed(repairs):
        os.pwrite(fd, data, at)


def run_batch(numbers: list[int], name: str, fd: int, looked: list[Looked], progress: int) -> None:
    """In the child: every image, its number written to `progress` before."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.HELPER_ADDRESS_SPACE, limits.HELPER_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.HELPER_CPU, limits.HELPER_CPU))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        os.write(progress, struct.pack("<I", number))
        run_image(number, name, fd, looked)


def run_forked(numbers: list[int], name: str, fd: int, looked: list[Looked]) -> str:
    """What went wrong in a batch, "" for nothing."""
    progress, sender = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run_batch(numbers, name, fd, looked, sender)
            status = 0
        except BaseException:  # noqa: BLE001 -- whatever it is goes to the parent, which fails the test with it
            os.write(sender, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(status)
    os.close(sender)
    with open(progress, "rb") as file:
        said = file.read()
    status = os.waitpid(pid, 0)[1]
    if status == 0:
        return ""
    at = 0
    while at + 4 <= len(said) and struct.unpack_from("<I", said, at)[0] in numbers:
        at += 4
    last = struct.unpack_from("<I", said, at - 4)[0] if at else "none"
    text = said[at:]
    return f"image {last} of {name}: status {status}\n{text.decode(errors='replace')}"


@pytest.mark.parametrize("name", DISKS)
def test_damaged_disks_end_in_an_answer_or_a_disk_error(name: str, disks: DiskFactory, tmp_path: Path) -> None:
    fd = os.open(disks.copy(DISKS[name], tmp_path / "image"), os.O_RDWR | os.O_CLOEXEC)
    try:
        with remembered(fd) as looked:
            use(fd)
        looked = sorted(set(looked), key=lambda place: (place.offset, place.length))
        numbers = [int(ONLY)] if ONLY else list(range(IMAGES))
        failures = [
            failure
            for start in range(0, len(numbers), BATCH)
            if (failure := run_forked(numbers[start : start + BATCH], name, fd, looked))
        ]
    finally:
        os.close(fd)
    assert not failures, "\n\n".join(failures)
