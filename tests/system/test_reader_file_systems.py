# SPDX-License-Identifier: GPL-3.0-or-later
"""What the reader delivers is what the kernel's own mount delivers, byte for byte.

forest = open_disk(fd)
ref = forest.trees[0].file(b"/vmlinuz")
copy_files(forest, [ref], sink, limit)
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.disks import MIB, Placed
from support.kernel_view import Seen, kernel_view, unmountable

from domward.helpers.reader.copy import copy_files
from domward.helpers.reader.filesystems import CheckedFileSystem
from domward.helpers.reader.interface import FileRef, Node, NodeType
from domward.helpers.reader.tree import DiskForest, open_disk
from domward.protocol import limits

# What is awkward for a reader, written by the kernel. argv: image, mount point, mount options.
WRITE = r"""
import os, random, subprocess, sys
image, where, options = sys.argv[1:]
rng = random.Random(4)
subprocess.run(["mount", "-o", options, image, where], check=True)
try:
    os.chdir(where)
    def write(name, data, at=0, sync=False):
        with open(name, "r+b" if os.path.exists(name) else "wb") as file:
            file.seek(at)
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    def size(name, length):
        write(name, b"")
        os.truncate(name, length)
    def allocate(*args):
        return subprocess.run(["fallocate", *args], stderr=subprocess.DEVNULL).returncode == 0
    stale = rng.randbytes(1 << 20)  # random, so that a file system that compresses is filled by it as well
    try:  # blocks that are reserved and not written later must not happen to hold zeroes
        with open("stale", "wb", 0) as file:
            while file.write(stale):
                pass
    except OSError:
        pass
    os.sync()
    os.unlink("stale")
    os.sync()
    text = b"".join(b"%d the quick brown fox %d\n" % (n, n * n) for n in range(40000))
    for length in (0, 1, 59, 60, 61, 100, 150, 1023, 4095, 4096, 4097, 70000):
        write(f"size-{length}", rng.randbytes(length))
    write("text", text)
    write("text-start", text[:3000])
    size("hole-only", 300001)
    size("hole-first", 2 << 20); write("hole-first", rng.randbytes(5000), 1 << 20)
    for n in range(6):
        write("holes", rng.randbytes(3000), n * 100000)
    write("far", rng.randbytes(100), (1 << 28) + 12345)
    write("punched", rng.randbytes(400000)); allocate("-p", "-o", "65536", "-l", "131072", "punched")
    write("reserved", rng.randbytes(9000))
    if allocate("-o", "50000", "-l", "200000", "reserved"):
        write("reserved", rng.randbytes(5000), 120000)
    size("reserved-after-hole", 400000)
    if allocate("-o", "131072", "-l", "131072", "reserved-after-hole"):
        write("reserved-after-hole", rng.randbytes(7000), 350000)
    write("beyond-end", rng.randbytes(5000)); allocate("-n", "-o", "0", "-l", "500000", "beyond-end")
    for n in range(120):
        for name in ("fragments-a", "fragments-b"):
            write(name, rng.randbytes(4096), n * 8192 if name[-1] == "a" else n * 4096, sync=True)
    os.link("text", "hard-link")
    os.symlink("text", "relative"); os.symlink("/deep/0/1/2", "absolute"); os.symlink("../../text", "above-root")
    os.symlink("nothing", "dangling"); os.symlink("loop-b", "loop-a"); os.symlink("loop-a", "loop-b")
    for length in (58, 59, 60, 61, 155, 255, 300, 700, 1000):
        os.symlink(("a/" * 600)[:length], f"link-{length}")
    write("n" * 255, b"long"); write(b"\xff\xfe bytes", b"not UTF-8"); write("blanks  and \\ signs", b"x")
    deep = "deep"
    os.mkdir(deep)
    for n in range(40):
        deep += f"/{n}"
        os.mkdir(deep)
    write(deep + "/bottom", b"bottom")
    for count in (0, 1, 5, 30, 90, 700, 2500):
        os.mkdir(f"folder-{count}")
        for n in range(count):
            open(f"folder-{count}/entry-{n}-{'x' * (n % 40)}", "w").close()
    for n in range(0, 700, 3):
        os.unlink(f"folder-700/entry-{n}-{'x' * (n % 40)}")
    for n in range(5, 90):
        os.unlink(f"folder-90/entry-{n}-{'x' * (n % 40)}")
    os.mkfifo("fifo")
finally:
    os.chdir("/")
    subprocess.run(["umount", where], check=True)
"""

EXT = "-q -F -E lazy_itable_init=0"
CASES = {
    "ext2": ("ext2", f"mkfs.ext2 {EXT}", ""),
    "ext2, 1 KiB blocks": ("ext2", f"mkfs.ext2 {EXT} -b 1024", ""),
    "ext3": ("ext3", f"mkfs.ext3 {EXT}", ""),
    "ext4": ("ext4", f"mkfs.ext4 {EXT}", ""),
    "ext4, 1 KiB blocks": ("ext4", f"mkfs.ext4 {EXT} -b 1024", ""),
    "ext4, inline data": ("ext4", f"mkfs.ext4 {EXT} -O inline_data", ""),
    "ext4, inline data in wide inodes": ("ext4", f"mkfs.ext4 {EXT} -O inline_data -I 512", ""),
    "ext4, 32 bits without sums": ("ext4", f"mkfs.ext4 {EXT} -O ^metadata_csum,^64bit", ""),
    "ext4, narrow inodes": ("ext4", f"mkfs.ext4 {EXT} -I 128 -O ^metadata_csum", ""),
    "ext4, block maps, no journal": ("ext4", f"mkfs.ext4 {EXT} -O ^extents,^64bit,^has_journal", ""),
    "ext4, meta_bg": ("ext4", f"mkfs.ext4 {EXT} -b 1024 -O meta_bg,^resize_inode", ""),
    "xfs": ("xfs", "mkfs.xfs -q", ""),
    "xfs, 1 KiB blocks": ("xfs", "mkfs.xfs -q -b size=1024", ""),
    "xfs, folder blocks of 16 KiB": ("xfs", "mkfs.xfs -q -n size=16384", ""),
    "xfs, 2 KiB blocks, folder blocks of 8 KiB, wide inodes": (
        "xfs",
        "mkfs.xfs -q -b size=2048 -n size=8192 -i size=1024",
        "",
    ),
    "xfs, large extent counts": ("xfs", "mkfs.xfs -q -i nrext64=1 -m bigtime=1", ""),
    "btrfs": ("btrfs", "mkfs.btrfs -q", ""),
    "btrfs, small nodes": ("btrfs", "mkfs.btrfs -q -n 4096", ""),
    "btrfs, mixed groups": ("btrfs", "mkfs.btrfs -q -M", ""),
    "btrfs, data twice": ("btrfs", "mkfs.btrfs -q -d dup -m dup", ""),
    "btrfs, holes as extents": ("btrfs", "mkfs.btrfs -q -O ^no-holes", ""),
    "btrfs, zlib": ("btrfs", "mkfs.btrfs -q", ",compress-force=zlib"),
    "btrfs, lzo": ("btrfs", "mkfs.btrfs -q", ",compress-force=lzo"),
    "btrfs, zstd": ("btrfs", "mkfs.btrfs -q", ",compress-force=zstd"),
}
VOLUME_BYTES = {"xfs": 304 * MIB, "btrfs": 304 * MIB}  # xfs: the least that mkfs takes; btrfs: with all data twice
OTHER_BYTES = 160 * MIB


def fill(image: Path, where: Path, options: str) -> None:
    """Lets the kernel write the awkward tree, in a mount namespace of its own."""
    where.mkdir(exist_ok=True)
    command = ["unshare", "-m", sys.executable, "-c", WRITE, str(image), str(where), options]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def opened(image: Path) -> Iterator[DiskForest]:
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield open_disk(fd)
    finally:
        os.close(fd)


def copied(forest: DiskForest, ref: FileRef) -> str:
    """The SHA-256 of the file as `copy_files` writes it."""
    sink = os.memfd_create("sink", os.MFD_CLOEXEC)
    with open(sink, "rb") as file:
        assert copy_files(forest, [ref], sink, 8 * limits.GIB) == ref.size == os.fstat(sink).st_size
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def chunked(fs: CheckedFileSystem, node: Node) -> str:
    """The SHA-256 of the file as `chunks` gives it."""
    sha = hashlib.sha256()
    for piece in fs.chunks(node):
        sha.update(piece)
    return sha.hexdigest()


def reader_view(forest: DiskForest) -> dict[bytes, Seen]:
    """The same as `kernel_view`, but for the inodes and folders' sizes, seen through the reader."""
    fs = forest.trees[0].fs
    found: dict[bytes, Seen] = {}
    ahead = [(b"", fs.root())]
    while ahead:
        path, folder = ahead.pop()
        for name in fs.names(folder):
            node = fs.child(folder, name)
            assert node is not None, name
            here = path + b"/" + name
            sha = target = ""
            if node.type is NodeType.DIRECTORY:
                ahead.append((here, node))
            elif node.type is NodeType.FILE and node.size:
                sha = copied(forest, forest.trees[0].file(here))
                if node.size < 64 * MIB:
                    assert chunked(fs, node) == sha
            elif node.type is NodeType.FILE:
                sha = hashlib.sha256().hexdigest()
            found[here] = Seen(
                node.type.value,
                0 if node.type is NodeType.DIRECTORY else node.size,
                0,
                sha,
                fs.readlink(node) if node.type is NodeType.SYMLINK else target.encode(),
            )
    return found


def expected_view(image: Path, kind: str, where: Path) -> dict[bytes, Seen]:
    seen = kernel_view(image, Placed(0, 0, image.stat().st_size), kind, where)
    return {
        path: Seen(s.type, 0 if s.type == "directory" else s.size, 0, s.sha256, s.target)
        for path, s in seen.items()
        if path != b"/lost+found"
    }


@pytest.mark.unmeasured
@pytest.mark.parametrize("case", CASES)
def test_everything_on_a_file_system_reads_as_the_kernel_reads_it(case: str, tmp_path: Path) -> None:
    kind, mkfs, options = CASES[case]
    if reason := unmountable(kind):
        pytest.skip(reason)
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, VOLUME_BYTES.get(kind, OTHER_BYTES))
    subprocess.run([*mkfs.split(), image], check=True, capture_output=True)
    fill(image, tmp_path / "mnt", "loop" + options)
    expected = expected_view(image, kind, tmp_path / "mnt")
    with opened(image) as forest:
        assert forest.problems == []
        found = reader_view(forest)
        found.pop(b"/lost+found", None)
        assert found.keys() == expected.keys()
        assert [path for path in expected if found[path] != expected[path]] == []
        tree = forest.trees[0]
        assert tree.file(b"/relative").size == expected[b"/text"].size
        assert tree.file(b"/above-root").size == expected[b"/text"].size
        assert tree.exists(b"/absolute/3/4")
        assert not tree.exists(b"/dangling")
        assert not tree.exists(b"/loop-a")
        assert tree.fs.uuid == blkid(image, "UUID")


def blkid(image: Path, tag: str) -> str:
    return subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", tag, image], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("default", ["top", "named"])
def test_a_root_in_a_named_subvolume_of_btrfs_is_found(default: str, tmp_path: Path) -> None:
    if reason := unmountable("btrfs"):
        pytest.skip(reason)
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, OTHER_BYTES)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    (tmp_path / "mnt").mkdir()
    steps = "btrfs -q subvolume create {0}/@; mkdir {0}/@/boot; echo kernel > {0}/@/boot/vmlinuz;"
    steps += "ln -s /boot/vmlinuz {0}/@/k;"
    if default == "named":
        steps += "btrfs subvolume set-default {0}/@;"
    script = "set -e; mount -o loop {1} {0};" + steps + "umount {0}"
    subprocess.run(
        ["unshare", "-m", "sh", "-c", script.format(tmp_path / "mnt", image)], check=True, capture_output=True
    )
    with opened(image) as forest:
        tree = forest.trees[0]
        assert tree.read(b"/boot/vmlinuz", 100) == b"kernel\n"
        assert tree.read(b"/@/boot/vmlinuz", 100) == b"kernel\n"
        assert tree.read(b"/k", 100) == b"kernel\n"
        assert tree.names(b"/boot") == [b"vmlinuz"]
