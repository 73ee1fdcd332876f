# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that are dictionaries of paths, for tests of what reads boot configuration.

`MemoryForest.of({"/boot/grub/grub.cfg": b"..."}, ...)` makes one file system of each dictionary, the first one with the
UUID 0000-0, the label disk0 and GRUB's name hd0,gpt1, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from domward.helpers.reader.interface import FileRef, FileSystem, Tree, Volume
from domward.protocol.errors import DiskError, DiskReason

Content = bytes | Callable[[], bytes]


@dataclass
class MemoryFileSystem:
    """The facts about a file system that boot configuration asks for."""

    kind: str
    uuid: str
    label: bytes
    volume: Volume


@dataclass
class MemoryTree:
    """The `interface.Tree` of a dictionary; a content that is a function is called, to raise what it likes."""

    index: int
    fs: FileSystem
    files: dict[bytes, Content] = field(default_factory=dict)
    looked_up: int = 0

    def exists(self, path: bytes) -> bool:
        self.looked_up += 1
        path = path.rstrip(b"/")
        return path in self.files or any(name.startswith(path + b"/") for name in self.files)

    def file(self, path: bytes) -> FileRef:
        return FileRef(self.index, path, len(self._content(path)))

    def read(self, path: bytes, limit: int) -> bytes:
        content = self._content(path)
        if len(content) > limit:
            raise DiskError(DiskReason.FILE_TOO_BIG, f"{path!r} is too big")
        return content

    def names(self, path: bytes) -> list[bytes]:
        folder = path.rstrip(b"/") + b"/"
        names = {name[len(folder) :].partition(b"/")[0] for name in self.files if name.startswith(folder)}
        if not names:
            raise DiskError(DiskReason.FILE_MISSING, f"there is no folder {path!r}")
        return sorted(names)

    def _content(self, path: bytes) -> bytes:
        self.looked_up += 1
        content = self.files.get(path)
        if content is None:
            raise DiskError(DiskReason.FILE_MISSING, f"there is no {path.decode('latin-1')}")
        return content() if callable(content) else content


class MemoryForest:
    """The `interface.Forest` of several dictionaries."""

    def __init__(self, trees: Sequence[MemoryTree]) -> None:
        self.trees: Sequence[Tree] = trees

    @classmethod
    def of(cls, *contents: Mapping[str, Any], kind: str = "ext4") -> MemoryForest:
        """One tree for each of `contents`, which map paths to bytes, text, or functions that return bytes."""
        trees = []
        for index, files in enumerate(contents):
            fs = MemoryFileSystem(kind, f"0000-{index}", b"disk%d" % index, Volume(index + 1, "gpt", 0, 1 << 30))
            encoded = {
                path.encode(): content.encode() if isinstance(content, str) else content
                for path, content in files.items()
            }
            trees.append(MemoryTree(index, cast(FileSystem, fs), encoded))
        return cls(trees)

    def by_uuid(self, uuid: bytes) -> Tree | None:
        return next((tree for tree in self.trees if tree.fs.uuid.lower().encode() == uuid.lower()), None)

    def by_label(self, label: bytes) -> Tree | None:
        return next((tree for tree in self.trees if tree.fs.label == label), None)

    def by_device(self, name: bytes) -> Tree | None:
        return next((tree for tree in self.trees if name == b"hd0,%d" % tree.fs.volume.index), None)
