# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths over a file system that is a Python dictionary: no disk, no root.

tree.file(b"/vmlinuz")            -> FileRef
tree.read(b"/etc/fstab", limit)   -> bytes
tree.exists(path), tree.names(folder), forest.by_uuid(...), forest.by_label(...), forest.by_device(...)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from domward.helpers.reader import tree as tree_module
from domward.helpers.reader.copy import copy_files
from domward.helpers.reader.filesystems import CheckedFileSystem
from domward.helpers.reader.image import DiskImage
from domward.helpers.reader.interface import Extent, FileRef, NodeType, Volume
from domward.helpers.reader.source import Budget
from domward.helpers.reader.tree import DiskForest, open_disk
from domward.helpers.reader.volumes import VolumeTable
from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason, OperationFailed

DISK_BYTES = 1 << 20


@dataclass
class FakeNode:
    type: NodeType
    size: int = 0
    children: dict[bytes, FakeNode] = field(default_factory=dict)
    data: bytes = b""
    runs: tuple[Extent, ...] | None = None


def file(data: bytes) -> FakeNode:
    return FakeNode(NodeType.FILE, len(data), data=data)


def link(target: bytes) -> FakeNode:
    return FakeNode(NodeType.SYMLINK, len(target), data=target)


def folder(**children: FakeNode) -> FakeNode:
    return FakeNode(NodeType.DIRECTORY, children={name.encode(): node for name, node in children.items()})


@dataclass
class FakeParser:
    """A `filesystems.Parser` over nodes in memory."""

    top: FakeNode
    uuid: str = "0a0b"
    label: bytes = b"LABEL"
    kind: str = "fake"
    others: tuple[FakeNode, ...] = ()
    error: Exception | None = None
    endless: bool = False

    def root(self) -> FakeNode:
        return self.top

    def other_roots(self) -> tuple[FakeNode, ...]:
        return self.others

    def child(self, folder: FakeNode, name: bytes) -> FakeNode | None:
        if self.error is not None:
            raise self.error
        return folder.children.get(name)

    def names(self, folder: FakeNode) -> Iterator[bytes]:
        yield from folder.children
        if self.error is not None:
            raise self.error
        while self.endless:
            yield b"again"

    def runs(self, node: FakeNode) -> Iterator[Extent] | None:
        return None if node.runs is None else iter(node.runs)

    def content(self, node: FakeNode) -> Iterator[bytes]:
        yield node.data


@pytest.fixture
def disk() -> Iterator[int]:
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.write(fd, bytes(range(256)) * (DISK_BYTES // 256))
    yield fd
    os.close(fd)


@pytest.fixture
def sink() -> Iterator[int]:
    fd = os.memfd_create("sink", os.MFD_CLOEXEC)
    yield fd
    os.close(fd)


def forest_of(
    monkeypatch: pytest.MonkeyPatch, disk: int, *parsers: FakeParser, budget: Budget | None = None
) -> DiskForest:
    volumes = [Volume(n + 1, "gpt", n * 4096, 4096 * 16, f"part-{n + 1}") for n in range(len(parsers))]

    def detect(image: DiskImage, volume: Volume) -> CheckedFileSystem:
        return CheckedFileSystem(parsers[volume.index - 1], image, volume)

    monkeypatch.setattr(tree_module, "find_volumes", lambda _image: VolumeTable(volumes))
    monkeypatch.setattr(tree_module, "detect", detect)
    return open_disk(disk, "raw", budget)


def reason_of(tree: tree_module.DiskTree, path: bytes) -> DiskReason:
    with pytest.raises(DiskError) as caught:
        tree.file(path)
    return caught.value.reason


def test_paths_are_resolved_as_the_kernel_would(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    top = folder(
        a=folder(b=folder(c=file(b"c")), up=link(b"../a/b"), top=link(b"/x"), out=link(b"../../../../x")),
        x=file(b"xx"),
        chain=link(b"a/up/c"),
    )
    tree = forest_of(monkeypatch, disk, FakeParser(top)).trees[0]
    for path in (
        b"/a/b/c",
        b"a/b/c",
        b"//a/./b//c",
        b"/a/b/../b/c",
        b"/a/up/c",
        b"/chain",
        b"/a/up/../b/c",
    ):
        assert tree.exists(path)
        assert tree.read(path, 10) == b"c"
    for path in (b"/x", b"/../../x", b"/a/top", b"/a/out"):
        assert tree.file(path) == FileRef(0, path, 2)
    assert tree.names(b"/") == [b"a", b"chain", b"x"]
    assert tree.names(b"/a/up") == [b"c"]


def test_what_is_not_a_file_says_why(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    chain = {f"l{n}": link(f"l{n + 1}".encode()) for n in range(limits.SYMLINKS)}
    top = folder(
        d=folder(), loop=link(b"pool"), pool=link(b"loop"), self=link(b"self/x"), fifo=FakeNode(NodeType.OTHER),
        **chain, **{f"l{limits.SYMLINKS}": file(b"end")}, f=file(b"f"),
    )  # fmt: skip
    tree = forest_of(monkeypatch, disk, FakeParser(top)).trees[0]
    assert tree.read(b"/l0", 3) == b"end"
    assert reason_of(tree, b"/nothing") is DiskReason.FILE_MISSING
    assert reason_of(tree, b"/f/below") is DiskReason.FILE_MISSING
    assert reason_of(tree, b"/" + b"n" * 256) is DiskReason.FILE_MISSING
    assert reason_of(tree, b"/" + b"d/../" * 2000) is DiskReason.FILE_MISSING
    assert reason_of(tree, b"/d") is DiskReason.NOT_A_FILE
    assert reason_of(tree, b"/fifo") is DiskReason.NOT_A_FILE
    assert reason_of(tree, b"/loop") is DiskReason.SYMLINK_LOOP
    assert reason_of(tree, b"/self") is DiskReason.SYMLINK_LOOP
    assert reason_of(tree, b"/" + b"d/../" * 200) is DiskReason.SYMLINK_LOOP
    with pytest.raises(DiskError) as caught:
        tree.names(b"/f")
    assert caught.value.reason is DiskReason.FILE_MISSING
    with pytest.raises(DiskError) as caught:
        tree.read(b"/l0", 2)
    assert caught.value.reason is DiskReason.FILE_TOO_BIG


@pytest.mark.parametrize(
    "device",
    [b"UUID=BOOT-1", b'UUID="boot-1"', b"LABEL=Boot", b"PARTUUID=PART-2", b"/dev/sda2", b"/dev/nvme0n1p2",
     b"/dev/mmcblk0p2", b"/dev/disk/by-uuid/boot-1", b"/dev/disk/by-partuuid/part-2"],
)  # fmt: skip
def test_an_fstab_brings_boot_in(monkeypatch: pytest.MonkeyPatch, disk: int, device: bytes) -> None:
    fstab = file(b"\n# /dev/sda3 /boot x\n" + device + b" /boot/ ext4 defaults 0 2\nUUID=none /boot/efi vfat\nshort\n")
    root = folder(etc=folder(fstab=fstab), boot=folder(old=file(b"old")), k=link(b"boot/k"), back=link(b"/boot/up"))
    boot = folder(k=file(b"kernel"), up=link(b"../etc/fstab"), own=link(b"/k"))
    forest = forest_of(monkeypatch, disk, FakeParser(root), FakeParser(boot, "boot-1", b"Boot"))
    tree = forest.trees[0]
    assert tree.read(b"/k", 10) == tree.read(b"/boot/k", 10) == tree.read(b"/boot/own", 10) == b"kernel"
    assert tree.read(b"/back", 1000) == fstab.data
    assert not tree.exists(b"/boot/old")
    assert forest.trees[1].read(b"/own", 10) == b"kernel"


def test_an_fstab_that_means_nothing_here_changes_nothing(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    for text in (
        b"UUID=0a0b /boot x",
        b"LABEL= /boot x",
        b"/dev/mapper/x /boot x",
        b"\xff\xfe\0 /boot",
        b"a" * limits.MIB * 2,
    ):
        root = folder(etc=folder(fstab=file(text)), boot=folder(k=file(b"k")))
        tree = forest_of(monkeypatch, disk, FakeParser(root), FakeParser(folder(), "other", b"")).trees[0]
        assert tree.read(b"/boot/k", 1) == b"k"


def test_other_roots_are_tried_after_the_first(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    other = folder(boot=folder(k=file(b"other")), l=link(b"/boot/k"), both=file(b"2"))
    parser = FakeParser(folder(both=file(b"1"), at=other), others=(other,))
    tree = forest_of(monkeypatch, disk, parser).trees[0]
    assert tree.read(b"/boot/k", 9) == tree.read(b"/at/boot/k", 9) == tree.read(b"/l", 9) == b"other"
    assert tree.read(b"/both", 9) == b"1"


def test_file_systems_are_found_by_the_names_that_grub_uses(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    forest = forest_of(monkeypatch, disk, FakeParser(folder(), "aa-bb"), FakeParser(folder(), "CC-DD", b"two"))
    one, two = forest.trees
    assert forest.by_uuid(b"AA-BB") is one
    assert forest.by_uuid(b"cc-dd") is two
    assert forest.by_label(b"two") is two
    assert forest.by_label(b"TWO") is forest.by_label(b"") is None
    assert forest.by_device(b"hd0,gpt1") is forest.by_device(b"(hd9,1)") is one
    for name in (b"hd0", b"hd0,msdos1", b"hd0,gpt3", b"cd0", b"hd0,gpt1,bsd1", b"", b"hd0," + b"9" * 5000):
        assert forest.by_device(name) is None


def extents(*runs: tuple[int | None, int], size: int | None = None) -> FakeNode:
    node = FakeNode(NodeType.FILE, sum(length for _, length in runs) if size is None else size)
    node.runs = tuple(Extent(offset, length) for offset, length in runs)
    return node


def test_copies_join_files_on_boundaries_of_4_bytes_and_keep_holes(
    monkeypatch: pytest.MonkeyPatch, disk: int, sink: int
) -> None:
    top = folder(a=extents((256, 5)), b=extents((None, 4096), (512, 3), (None, 10)), c=file(b"inline"), e=file(b""))
    forest = forest_of(monkeypatch, disk, FakeParser(top))
    refs = [forest.trees[0].file(path) for path in (b"/a", b"/b", b"/e", b"/c")]
    os.write(sink, b"older and longer" * 10000)
    written = copy_files(forest, refs, sink, 10_000)
    wanted = b"\0\1\2\3\4\0\0\0" + bytes(4096) + b"\0\1\2" + bytes(10) + bytes(3) + b"inline"
    assert os.pread(sink, 100_000, 0) == wanted
    assert written == len(wanted)


def test_copies_that_cannot_be_leave_the_sink_alone(monkeypatch: pytest.MonkeyPatch, disk: int, sink: int) -> None:
    forest = forest_of(monkeypatch, disk, FakeParser(folder(a=extents((0, 5)), e=file(b""))))
    os.write(sink, b"before")
    for path, limit, reason in ((b"/a", 4, DiskReason.FILE_TOO_BIG), (b"/e", 4, DiskReason.FILE_EMPTY)):
        with pytest.raises(DiskError) as caught:
            copy_files(forest, [forest.trees[0].file(path)], sink, limit)
        assert caught.value.reason is reason
        assert os.pread(sink, 10, 0) == b"before"


def test_a_sink_that_is_full_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    forest = forest_of(monkeypatch, disk, FakeParser(folder(a=extents((0, 5)), c=file(b"inline"))))
    reader = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(reader, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        for path in (b"/a", b"/c"):
            with pytest.raises(OperationFailed, match="output cannot be written"):
                copy_files(forest, [forest.trees[0].file(path)], reader, 100)
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "node",
    [
        extents((4096 * 16 - 1, 2)),
        extents((1 << 60, 2)),
        extents((-4, 2)),
        extents((0, 5), size=6),
        FakeNode(NodeType.FILE, 10, data=b"short"),
    ],
)
def test_files_that_leave_their_volume_or_end_early_are_corrupt(
    monkeypatch: pytest.MonkeyPatch, disk: int, sink: int, node: FakeNode
) -> None:
    forest = forest_of(monkeypatch, disk, FakeParser(folder(a=node)))
    with pytest.raises(DiskError) as caught:
        copy_files(forest, [forest.trees[0].file(b"/a")], sink, 1000)
    assert caught.value.reason is DiskReason.CORRUPT


def test_whatever_a_parser_raises_is_a_disk_error(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    parser = FakeParser(folder(a=file(b"")))
    tree = forest_of(monkeypatch, disk, parser).trees[0]
    for error in (
        EOFError(),
        ValueError("\x1b[2J"),
        RecursionError(),
        MemoryError(),
        OverflowError(),
        AssertionError(),
    ):
        parser.error = error
        with pytest.raises(DiskError) as caught:
            tree.exists(b"/a")
        assert caught.value.reason is DiskReason.CORRUPT
        with pytest.raises(DiskError, match="is damaged"):
            tree.names(b"/")


def test_folders_files_and_zeroes_are_bounded(monkeypatch: pytest.MonkeyPatch, disk: int) -> None:
    scattered = FakeNode(
        NodeType.FILE, limits.EXTENTS * 2 + 2, runs=(Extent(0, 1), Extent(9, 1)) * (limits.EXTENTS + 1)
    )
    hole = extents((None, 1 << 62))
    forest = forest_of(monkeypatch, disk, FakeParser(folder(s=scattered, h=hole), endless=True))
    tree = forest.trees[0]
    with pytest.raises(DiskError) as caught:
        tree.names(b"/")
    assert caught.value.reason is DiskReason.BUDGET
    for path in (b"/s", b"/h"):
        with pytest.raises(DiskError) as caught:
            for _ in (
                tree.fs.extents(tree.find(path).node) or () if path == b"/s" else tree.fs.chunks(tree.find(path).node)
            ):
                pass
        assert caught.value.reason is DiskReason.BUDGET
