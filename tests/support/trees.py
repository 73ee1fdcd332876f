# SPDX-License-Identifier: GPL-3.0-or-later
"""Folder trees as data: a mapping from path to entry, laid out on disk for the mkfs programs to take in.

    lay_out({"boot/vmlinuz": b"...", "vmlinuz": Symlink("boot/vmlinuz"), "var": Directory()}, folder)

Paths are relative, with "/" between components; missing parents are folders. Plain `bytes` and `str` are the content
of a file, a `Path` names a file of this machine whose content is copied. Names that are not UTF-8 are written with
surrogate escapes, as `os.fsdecode` gives them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class File:
    """A regular file with permissions other than 0644."""

    data: bytes | str | Path
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Sparse:
    """A file of `size` bytes that is a hole but for `pieces`, each (offset in bytes, data)."""

    size: int
    pieces: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Fragmented:
    """`data` in a file whose blocks do not follow each other, where the kernel writes it (`populate="mount"`)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link; `target` is stored as it stands."""

    target: str


@dataclass(frozen=True, slots=True)
class HardLink:
    """Another name for the file at `path`, which stands earlier in the mapping."""

    path: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A folder that may be empty."""

    mode: int = 0o755


Entry = bytes | str | Path | File | Sparse | Fragmented | Symlink | HardLink | Directory
Tree = Mapping[str, Entry]


def lay_out(tree: Tree, folder: Path) -> None:
    """Writes `tree` into `folder`, which exists; what is there already stays."""
    for name, entry in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(entry, path, folder)


def _write(entry: Entry, path: Path, folder: Path) -> None:
    match entry:
        case Directory():
            path.mkdir(exist_ok=True)
            path.chmod(entry.mode)
        case Symlink():
            path.symlink_to(entry.target)
        case HardLink():
            path.hardlink_to(folder / entry.path)
        case Sparse():
            with path.open("wb") as file:
                file.truncate(entry.size)
                for offset, data in entry.pieces:
                    file.seek(offset)
                    file.write(data)
        case File():
            _write(entry.data, path, folder)
            path.chmod(entry.mode)
        case Fragmented():
            path.write_bytes(entry.data)
        case Path():
            subprocess.run(["cp", "--reflink=auto", "--sparse=always", entry, path], check=True)
            path.chmod(0o644)
        case str():
            path.write_text(entry, encoding="utf-8")
        case bytes():
            path.write_bytes(entry)


def digest(tree: Tree) -> str:
    """A name for the content of `tree`: files of this machine count by path, size and time of change."""
    sha = hashlib.sha256()
    for name, entry in tree.items():
        data = entry.data if isinstance(entry, File) else entry
        if isinstance(data, Path):
            stat = data.stat()
            text = f"{name}={data}:{stat.st_size}:{stat.st_mtime_ns}:{entry!r}"
        else:
            text = f"{name}={entry!r}"
        sha.update(os.fsencode(text) + b"\0")
    return sha.hexdigest()


def size_of(tree: Tree) -> int:
    """The bytes of all files of `tree`, holes left out; a measure for the file system's size."""
    total = 0
    for entry in tree.values():
        data = entry.data if isinstance(entry, File | Fragmented) else entry
        match data:
            case Path():
                total += data.stat().st_size
            case bytes() | str():
                total += len(data)
            case Sparse():
                total += sum(len(piece) for _offset, piece in data.pieces)
    return total
