# SPDX-License-Identifier: GPL-3.0-or-later
"""extlinux.conf and syslinux.cfg as a boot menu (Syslinux wiki, "Config" and "Menu")."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason, printable
from domward.protocol.records import field, mutable

from .boot_draft import Draft, NamedFile
from .boot_paths import attempt
from .config_budget import ConfigBudget
from .interface import BootMenu, Tree

_INITRD_IN_ARGS = re.compile(rb"(?:^| )initrd=([^ ]*+)")
_OTHER_LOADERS = frozenset((b"com32", b"boot", b"bss", b"pxe", b"fdimage", b"localboot", b"config", b"fit"))
_TIMEOUT_UNITS = 10  # TIMEOUT counts tenths of a second


@mutable
class _Label:
    name: bytes
    path: tuple[bytes, ...]
    title: bytes = b""
    kernel: bytes = b""
    initrds: list[bytes] = field(default_factory=list)
    args: bytes | None = None
    problem: str = ""


class _Configuration:
    """Gathers what the lines of a file, and of those that it includes, say."""

    def __init__(self, tree: Tree, folder: bytes, budget: ConfigBudget) -> None:
        self.labels: list[_Label] = []
        self.default = b""
        self.menu_default: _Label | None = None
        self.timeout = b""
        self.shows_menu = False
        self.common_args = b""
        self._tree = tree
        self._folder = folder
        self._budget = budget
        self._submenus: list[bytes] = []

    def read(self, content: bytes, depth: int = 0) -> None:
        """Take in a file. DiskError(BUDGET)."""
        if depth > limits.SUBMENU_DEPTH:
            raise DiskError(DiskReason.BUDGET, "the boot configuration includes files too deeply")
        for keyword, value in self._lines(content):
            if keyword in (b"include", b"menu include"):
                name, *_ = value.split() or [b""]
                included = attempt(partial(self._budget.read, self._tree, self.absolute(name)))
                self.read(included or b"", depth + 1)
            else:
                self._directive(keyword, value)

    def absolute(self, name: bytes) -> bytes:
        """`name` from the root of the file system, as it is relative to the configuration's folder."""
        return name if name.startswith(b"/") else self._folder + b"/" + name

    def _lines(self, content: bytes) -> Iterator[tuple[bytes, bytes]]:
        for line in content.splitlines():
            self._budget.step()
            keyword, *rest = line.split(None, 1)[:2] or [b"#"]
            value = rest[0].strip() if rest else b""
            keyword = keyword.lower()
            if keyword == b"menu":
                second, *rest = value.split(None, 1)[:2] or [b""]
                keyword, value = b"menu " + second.lower(), rest[0] if rest else b""
            if not keyword.startswith(b"#"):
                yield keyword, value

    def _directive(self, keyword: bytes, value: bytes) -> None:
        match keyword:
            case b"default":
                self.default = value
            case b"timeout":
                self.timeout = value
            case b"prompt":
                self.shows_menu |= value not in (b"", b"0")
            case b"ui":
                self.shows_menu = True
            case b"menu begin":
                self._begin_submenu(value)
            case b"menu end":
                self._submenus = self._submenus[:-1]
            case b"label":
                self._budget.entry()
                self.labels.append(_Label(value, tuple(self._submenus)))
            case b"append" if not self.labels:
                self.common_args = value
            case _:
                if self.labels:
                    self._label_directive(self.labels[-1], keyword, value)
                self.shows_menu |= keyword.startswith(b"menu ")

    def _begin_submenu(self, title: bytes) -> None:
        if len(self._submenus) >= limits.SUBMENU_DEPTH:
            raise DiskError(DiskReason.BUDGET, f"the boot menu is more than {limits.SUBMENU_DEPTH} levels deep")
        self._submenus.append(title)

    def _label_directive(self, label: _Label, keyword: bytes, value: bytes) -> None:
        match keyword:
            case b"menu label":
                label.title = value.replace(b"^", b"", 1)  # it marks the hot key
            case b"menu default":
                self.menu_default = label
            case b"kernel" | b"linux":
                label.kernel = value
            case b"initrd":
                label.initrds = [name.strip() for name in value.split(b",") if name.strip()]
            case b"append":
                label.args = b"" if value == b"-" else value
            case _ if keyword in _OTHER_LOADERS:
                label.problem = f"it starts no Linux ({printable(keyword)})"

    def draft(self, label: _Label) -> Draft:
        """What `label` loads."""
        args = self.common_args if label.args is None else label.args
        initrds = label.initrds
        if not initrds:
            initrds = [name for found in _INITRD_IN_ARGS.findall(args) for name in found.split(b",") if name]
        kernel, *_ = label.kernel.split() or [b""]
        problem = label.problem
        if kernel.lower().endswith((b".c32", b".0", b".bin", b".bs", b".bss", b".img")):
            problem = f"it starts no Linux ({printable(kernel)})"
        return Draft(self._file(kernel) if kernel else None, [self._file(name) for name in initrds], args, problem)

    def _file(self, name: bytes) -> NamedFile:
        path = self.absolute(name)
        return NamedFile(self._tree, path, b"/boot" + path if self._folder.startswith(b"/boot/") else b"")

    def seconds(self) -> float | None:
        """The time-out: 0 tenths, or none, wait for ever where a menu or prompt is shown, and not at all otherwise."""
        tenths = int(self.timeout[:9]) if self.timeout.isdigit() else 0
        if tenths:
            return tenths / _TIMEOUT_UNITS
        return None if self.shows_menu else 0.0


def load_extlinux(tree: Tree, path: bytes, budget: ConfigBudget) -> BootMenu | None:
    """The menu of the extlinux.conf at `path` of `tree`; None where it has no label.

    File names are relative to the folder of `path`. The default is the label with MENU DEFAULT, else the one that
    DEFAULT names, else the first. DiskError where the file cannot be read, and BUDGET.
    """
    configuration = _Configuration(tree, path.rpartition(b"/")[0], budget)
    configuration.read(budget.read(tree, path))
    if not configuration.labels:
        return None
    entries = []
    default = 0
    for index, label in enumerate(configuration.labels):
        draft = configuration.draft(label)
        entries.append(draft.entry(label.title or label.name, label.path, label.name, budget))
        if label is configuration.menu_default or (
            configuration.menu_default is None and label.name == configuration.default
        ):
            default = index
    source = f"extlinux:{tree.index}:{printable(path)}"
    return BootMenu(tuple(entries), default, configuration.seconds(), source)
