# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest disks, made with the real tools from a description.

    disk = Disk("mbr", (Part(Fs("ext4", {"boot/vmlinuz": b"...", "etc/fstab": "..."})),))
    build_disk(tmp_path / "guest.img", disk)                 # every time anew
    factory = DiskFactory(folder); factory.build(disk)       # once per description; the shared file is read-only
    factory.copy(disk, tmp_path / "mine.img")                # a private copy, sparse, to damage at will

Whole guests (Debian's, Fedora's, extlinux) are described in `support.guests`. All image files are sparse. Nothing
is mounted unless a file system asks for `populate="mount"`, and then in a mount namespace that ends with the builder.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import uuid as uuids
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from support.grub import GrubDevice, grub_mkconfig, grubenv
from support.trees import Fragmented, Tree, digest, lay_out, size_of

MIB = 1024 * 1024
SECTOR = 512
FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat")
# The least size in MiB that the mkfs program takes, with room for its own metadata.
LEAST_MIB = {"ext2": 8, "ext3": 16, "ext4": 16, "xfs": 304, "btrfs": 128, "vfat": 40}
FRAGMENT = 16 * 1024  # bytes: the pieces of a `Fragmented` file


@dataclass(frozen=True)
class Fs:
    """One file system.

    `kind` is one of FILE_SYSTEMS; `tree` its files; `size_mib` 0 means: as large as the tree needs. `mount` is where
    the guest mounts it. `mkfs` are further arguments for the mkfs program. `uuid` is made up from the rest where it is
    empty (for vfat: 8 hexadecimal digits with a "-"). `populate` is "mkfs" (the mkfs program takes the files in) or
    "mount" (the kernel writes them, needing root; the only way to get hard links into xfs and fragmented files).
    """

    kind: str
    tree: Tree = field(default_factory=dict)
    size_mib: int = 0
    mount: str = "/"
    label: str = ""
    uuid: str = ""
    mkfs: tuple[str, ...] = ()
    populate: str = "mkfs"

    def identity(self) -> str:
        """The UUID as blkid prints it."""
        if self.uuid:
            return self.uuid
        made = str(uuids.uuid5(uuids.NAMESPACE_URL, f"{self.kind}{self.mount}{self.label}{digest(self.tree)}"))
        return f"{made[:4]}-{made[4:8]}".upper() if self.kind == "vfat" else made

    def mebibytes(self) -> int:
        """The size of the volume in MiB."""
        if self.size_mib:
            return self.size_mib
        return max(LEAST_MIB[self.kind], LEAST_MIB[self.kind] // 2 + size_of(self.tree) * 5 // 4 // MIB + 4)


@dataclass(frozen=True)
class Part:
    """One partition; `fs` None leaves it empty. `type` is sfdisk's, "" the usual for the file system."""

    fs: Fs | None
    logical: bool = False
    type: str = ""
    size_mib: int = 0

    def mebibytes(self) -> int:
        """The size of the partition in MiB."""
        return self.size_mib or (self.fs.mebibytes() if self.fs else 1)


@dataclass(frozen=True)
class Grub:
    """Asks for a grub.cfg made by grub-mkconfig. `settings` is /etc/default/grub."""

    settings: str = (
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\nGRUB_DISTRIBUTOR=Debian\n"
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="console=hvc0"\nGRUB_TERMINAL=console\n'
    )
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Disk:
    """A whole disk.

    `scheme` is "disk" (one file system, no partition table), "mbr" or "gpt"; `image` is "raw" or "qcow2", made by
    qemu-img convert with `convert` as further arguments (e.g. ("-c",) for compressed clusters).
    """

    scheme: str
    parts: tuple[Part, ...]
    image: str = "raw"
    convert: tuple[str, ...] = ()
    grub: Grub | None = None

    def numbers(self) -> list[int]:
        """The partitions' numbers as Linux has them; 0 for the whole disk."""
        if self.scheme == "disk":
            return [0]
        primary, logical, numbers = 0, 4, []
        for part in self.parts:
            if part.logical:
                logical += 1
            else:
                primary += 1
            numbers.append(logical if part.logical else primary)
        return numbers

    def index_of(self, mount: str) -> int | None:
        """The position in `parts` of the file system mounted at `mount`."""
        return next((i for i, part in enumerate(self.parts) if part.fs and part.fs.mount == mount), None)

    def name(self) -> str:
        """A name for the content: equal descriptions have equal names."""
        sha = hashlib.sha256(repr((self.scheme, self.image, self.convert, self.grub)).encode())
        for part in self.parts:
            fs = part.fs
            sha.update(repr((part.logical, part.type, part.mebibytes())).encode())
            if fs:
                sha.update(repr((fs.kind, fs.mebibytes(), fs.mount, fs.label, fs.identity(), fs.mkfs)).encode())
                sha.update((fs.populate + digest(fs.tree)).encode())
        return sha.hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a file system lies: `offset` and `size` in bytes within the raw image."""

    number: int
    offset: int
    size: int


def whole(fs: Fs, **options: object) -> Disk:
    """A disk that is one file system, without a partition table."""
    return replace(Disk("disk", (Part(fs),)), **options)  # type: ignore[arg-type]  # fields by name, checked by replace


def layout(disk: Disk) -> list[Placed]:
    """Where each of `disk.parts` lies in the raw image; partitions start at multiples of 1 MiB."""
    numbers = disk.numbers()
    if disk.scheme == "disk":
        return [Placed(0, 0, disk.parts[0].mebibytes() * MIB)]
    at, placed = 1, []
    for number, part in zip(numbers, disk.parts, strict=True):
        at += 1 if part.logical else 0  # each logical partition's own boot record goes before it
        placed.append(Placed(number, at * MIB, part.mebibytes() * MIB))
        at += part.mebibytes()
    return placed


class DiskFactory:
    """Builds each described disk once and keeps it in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, disk: Disk) -> Path:
        """The path of the shared, read-only image."""
        path = self.folder / f"{disk.name()}.{disk.image}"
        if not path.exists():
            building = path.with_suffix(".building")
            build_disk(building, disk)
            building.chmod(0o444)
            building.rename(path)
        return path

    def copy(self, disk: Disk, to: Path) -> Path:
        """Puts a writable copy at `to` and returns that."""
        copy_sparse(self.build(disk), to)
        to.chmod(0o644)
        return to


def copy_sparse(source: Path, to: Path) -> None:
    """A copy that keeps holes, or shares blocks where the file system can."""
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", source, to], check=True)


def build_disk(path: Path, disk: Disk) -> Path:
    """Writes the image of `disk` to `path` and returns that."""
    places = layout(disk)
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as name:
        work = Path(name)
        raw = work / "raw"
        end = places[-1].offset + places[-1].size
        with raw.open("wb") as file:
            file.truncate(end if disk.scheme == "disk" else end + MIB)  # GPT keeps its second table at the end
        if disk.scheme != "disk":
            _partition(raw, disk, places)
        folders = _folders(disk, work)
        for i, (part, place) in enumerate(zip(disk.parts, places, strict=True)):
            if part.fs:
                volume = work / f"volume{i}"
                make_fs(volume, part.fs, folders[i], place.size)
                _insert(volume, raw, place.offset)
                volume.unlink()
        if disk.image == "raw":
            raw.replace(path)
        else:
            subprocess.run(["qemu-img", "convert", "-O", disk.image, *disk.convert, raw, path], check=True)
    return path


def _folders(disk: Disk, work: Path) -> list[Path]:
    """Lays out the tree of each file system, with grub.cfg where `disk.grub` asks for it."""
    folders = []
    for i, part in enumerate(disk.parts):
        folders.append(work / f"tree{i}")
        folders[-1].mkdir()
        if part.fs:
            lay_out(part.fs.tree, folders[-1])
    if disk.grub:
        _add_grub(disk, disk.grub, folders)
    return folders


def _add_grub(disk: Disk, grub: Grub, folders: Sequence[Path]) -> None:
    root, boot = disk.index_of("/"), disk.index_of("/boot")
    assert root is not None, "a disk with grub needs a file system mounted at /"
    at = root if boot is None else boot
    prefix = "/boot" if boot is None else ""
    guest_boot = folders[at] / prefix.strip("/")
    text = grub_mkconfig(guest_boot, _grub_device(disk, root), _grub_device(disk, at), grub.settings, prefix)
    folder = guest_boot / "grub"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grub.cfg").write_text(text)
    grubenv(folder / "grubenv", **dict(grub.environment))


def _grub_device(disk: Disk, index: int) -> GrubDevice:
    fs, number = disk.parts[index].fs, disk.numbers()[index]
    assert fs is not None, "index_of gives parts that have one"
    partmap = {"disk": "", "mbr": "msdos", "gpt": "gpt"}[disk.scheme]
    drive = f"hd0,{partmap}{number}" if number else "hd0"
    return GrubDevice(f"/dev/xvda{number or ''}", drive, partmap, fs.kind, fs.identity())


def _partition(raw: Path, disk: Disk, places: Sequence[Placed]) -> None:
    lines = ["label: dos" if disk.scheme == "mbr" else "label: gpt", "unit: sectors"]
    logical = [place for part, place in zip(disk.parts, places, strict=True) if part.logical]
    if logical:
        start, end = logical[0].offset - MIB, logical[-1].offset + logical[-1].size
        number = 1 + sum(not part.logical for part in disk.parts)
        lines.append(f"{number}: start={start // SECTOR}, size={(end - start) // SECTOR}, type=5")
    for part, place in zip(disk.parts, places, strict=True):
        usual = {"vfat": "c" if disk.scheme == "mbr" else "U"}.get(part.fs.kind if part.fs else "", "L")
        lines.append(
            f"{place.number}: start={place.offset // SECTOR}, size={place.size // SECTOR}, type={part.type or usual}"
        )
    script = "\n".join(lines) + "\n"
    command = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw]
    subprocess.run(command, input=script, text=True, check=True, capture_output=True)


def _insert(volume: Path, raw: Path, offset: int) -> None:
    """Copies the data of `volume` to `offset` in `raw`, leaving holes."""
    with volume.open("rb") as source, raw.open("r+b") as target:
        end = os.fstat(source.fileno()).st_size
        at = 0
        while at < end:
            try:
                start = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole until the end
                break
            at = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            while start < at:
                start += os.copy_file_range(source.fileno(), target.fileno(), at - start, start, offset + start)


def make_fs(volume: Path, fs: Fs, folder: Path, size: int) -> None:
    """Makes the file system `fs` of `size` bytes in the file `volume`, with the files in `folder`."""
    with volume.open("wb") as file:
        file.truncate(size)
    taking = folder if fs.populate == "mkfs" else None
    _MKFS[fs.kind](volume, fs, taking)
    if fs.populate == "mount":
        _populate_mounted(volume, fs, folder)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{command}: {done.stderr or done.stdout}"
        raise RuntimeError(message)


def _mkfs_ext(volume: Path, fs: Fs, folder: Path | None) -> None:
    options = ["-L", fs.label] if fs.label else []
    options += ["-d", str(folder)] if folder else []
    _run(f"mkfs.{fs.kind}", "-q", "-F", "-U", fs.identity(), *options, *fs.mkfs, volume)


def _mkfs_xfs(volume: Path, fs: Fs, folder: Path | None) -> None:
    options = ["-L", fs.label] if fs.label else []
    if folder:
        prototype = volume.with_suffix(".proto")
        prototype.write_bytes(_xfs_prototype(folder))
        options += ["-p", str(prototype)]
    _run("mkfs.xfs", "-q", "-m", f"uuid={fs.identity()}", *options, *fs.mkfs, volume)


def _xfs_prototype(folder: Path) -> bytes:
    """A prototype file as mkfs.xfs(8) describes it: words apart by blanks, so no name may hold one."""
    lines = [b"/", b"0 0", b"d--755 0 0"]

    def describe(where: Path) -> None:
        for entry in sorted(os.scandir(where), key=lambda e: e.name):
            assert not any(c.isspace() for c in entry.name), f"mkfs.xfs takes no blank in a name: {entry.name!r}"
            name, mode = os.fsencode(entry.name), entry.stat(follow_symlinks=False).st_mode & 0o777
            if entry.is_symlink():
                lines.append(name + b" l--777 0 0 " + os.fsencode(os.readlink(entry.path)))
            elif entry.is_dir():
                lines.append(name + b" d--%03o 0 0" % mode)
                describe(Path(entry.path))
                lines.append(b"$")
            else:
                lines.append(name + b" ---%03o 0 0 " % mode + os.fsencode(entry.path))

    describe(folder)
    return b"\n".join([*lines, b"$", b""])


def _mkfs_btrfs(volume: Path, fs: Fs, folder: Path | None) -> None:
    options = ["-L", fs.label] if fs.label else []
    options += ["--rootdir", str(folder)] if folder else []
    _run("mkfs.btrfs", "-q", "-f", "-U", fs.identity(), *options, *fs.mkfs, volume)


def _mkfs_vfat(volume: Path, fs: Fs, folder: Path | None) -> None:
    options = ["-n", fs.label] if fs.label else []
    _run("mkfs.vfat", "-i", fs.identity().replace("-", ""), *options, *fs.mkfs, volume)
    entries = sorted(folder.iterdir()) if folder else []
    if entries:
        _run("mcopy", "-s", "-m", "-i", volume, *entries, "::")


_MKFS = {
    "ext2": _mkfs_ext,
    "ext3": _mkfs_ext,
    "ext4": _mkfs_ext,
    "xfs": _mkfs_xfs,
    "btrfs": _mkfs_btrfs,
    "vfat": _mkfs_vfat,
}

# argv: the volume, where to mount it, the folder to copy from, and the names whose blocks are to lie apart.
# ext: the volume is filled with small files and every other one removed again, so that nothing but gaps is free.
# xfs: pieces of the file and of another are written in turn. btrfs: it never writes in place, so pieces are written
# again later.
POPULATE = """
import os, subprocess, sys
volume, where, folder, kind, *apart = sys.argv[1:]
options = "loop,allocsize=4096" if kind == "xfs" else "loop"
subprocess.run(["mount", "-o", options, volume, where], check=True)
os.chdir(where)
def write(name, data):
    with open(name, "wb", 0) as file:
        if file.write(data) < len(data):
            raise OSError("no space")
        os.fsync(file.fileno())
def gaps(wanted):
    stat = os.statvfs(".")
    free = stat.f_bavail * stat.f_frsize - 4 * wanted - 1024 * 1024
    if free > 0:
        with open("filler", "wb", 0) as file:
            os.posix_fallocate(file.fileno(), 0, free)
    os.mkdir("fillers")
    count = 0
    try:
        while True:
            write(f"fillers/{count}", b"f" * PIECE)
            count += 1
    except OSError:
        pass
    for n in range(0, count, 2):
        os.unlink(f"fillers/{n}")
    os.sync()
try:
    subprocess.run(["cp", "-a", "--sparse=always", folder + "/.", "."], check=True)
    contents = [(name, open(name, "rb").read()) for name in apart]
    for name in apart:
        os.unlink(name)
    if contents and kind.startswith("ext"):
        gaps(sum(len(data) for _name, data in contents))
    for name, data in contents:
        if kind == "xfs":
            with open(name, "wb", 0) as file, open("filler", "wb", 0) as filler:
                for start in range(0, len(data), PIECE):
                    for into in (file, filler):
                        into.write(data[start:start + PIECE])
                        os.fsync(into.fileno())
            continue
        write(name, data)
        if kind == "btrfs":
            with open(name, "r+b", 0) as file:
                for start in range(0, len(data), 2 * PIECE):
                    os.pwrite(file.fileno(), data[start:start + PIECE], start)
                    os.fsync(file.fileno())
    subprocess.run(["rm", "-rf", "filler", "fillers"], check=True)
finally:
    os.chdir("/")
    subprocess.run(["umount", where], check=True)
""".replace("PIECE", str(FRAGMENT))


def _populate_mounted(volume: Path, fs: Fs, folder: Path) -> None:
    """Lets this machine's kernel write the files, in a mount namespace of its own."""
    apart = [name for name, entry in fs.tree.items() if isinstance(entry, Fragmented)]
    with tempfile.TemporaryDirectory(prefix="populate-", dir=volume.parent) as where:
        _run("unshare", "-m", sys.executable, "-c", POPULATE, volume, where, folder, fs.kind, *apart)
