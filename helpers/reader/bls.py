# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot Loader Specification entries, type 1: /loader/entries/*.conf, and systemd-boot's loader.conf beside them.

The order is that of Fedora's `blscfg`: by the name, version and release in the file's name, as rpm compares them, the
newest first. `sort-key` is not looked at. Kernels in one piece with their ramdisk (type 2, *.efi) are not entries here.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable

from domward.protocol.errors import printable
from domward.protocol.records import frozen

from .boot_draft import Draft, NamedFile
from .boot_paths import attempt
from .config_budget import ConfigBudget
from .interface import BootMenu, Tree

Lookup = Callable[[bytes], bytes]

_VARIABLE = re.compile(rb"\$(?:([A-Za-z0-9_]++)|\{([A-Za-z0-9_]++)\})")
_SEGMENT = re.compile(rb"[0-9]++|[A-Za-z]++|~|\^")
_FOREIGN = re.compile(r"arm|aarch64|aa64|ia64|riscv|loongarch|ppc|s390", re.IGNORECASE)
_PATTERN_BYTES = 256  # bytes: longest pattern of loader.conf's `default` that is compared


@frozen
class BlsEntry:
    """One entry file, read."""

    title: bytes
    id: bytes
    draft: Draft


def read_entries(tree: Tree, folder: bytes, variable: Lookup, budget: ConfigBudget) -> list[BlsEntry]:
    """The entries in `folder` of `tree`, newest first; none where there is no such folder. DiskError(BUDGET).

    `variable` gives the value of what `options` refers to as `$name`; GRUB's environment block holds them.
    """
    budget.look_up()
    names = attempt(lambda: tree.names(folder)) or []
    budget.step(len(names))
    found = [name for name in names if name.endswith(b".conf") and not name.startswith(b".")]
    for _ in found:  # before they are sorted
        budget.entry()
    entries = []
    for name in sorted(found, key=functools.cmp_to_key(_compare_names), reverse=True):
        path = folder.rstrip(b"/") + b"/" + name
        content = attempt(functools.partial(budget.read, tree, path))
        if content is not None:
            entries.append(_entry(tree, path, name[: -len(b".conf")], content, variable, budget))
    return entries


def _entry(
    tree: Tree, path: bytes, identifier: bytes, content: bytes, variable: Lookup, budget: ConfigBudget
) -> BlsEntry:
    fields = _fields(content, budget)

    def expanded(value: bytes) -> bytes:
        budget.expand(len(value))
        return _VARIABLE.sub(lambda m: _paid(variable(m[1] or m[2]), budget), value)

    def file(name: bytes) -> NamedFile:
        name = name if name.startswith(b"/") else b"/" + name
        return NamedFile(tree, name, b"/boot" + name if path.startswith(b"/boot/") else b"")

    draft = Draft()
    for name in fields.get(b"linux", [])[-1:]:
        draft.kernel = file(expanded(name))
    for value in fields.get(b"initrd", []):
        draft.initrds.extend(file(name) for name in expanded(value).split())
    options = fields.get(b"options") or [variable(b"default_kernelopts")]
    draft.args = b" ".join(b" ".join(expanded(value) for value in options).split(b" ")).strip()
    architecture = fields.get(b"architecture", [b""])[-1]
    if _FOREIGN.match(architecture.decode("latin-1")):
        draft.problem = f"it is for another architecture, {printable(architecture)}"
    elif draft.kernel is None and (b"efi" in fields or b"uki" in fields):
        draft.problem = "it starts an EFI program"
    title = fields.get(b"title", [identifier])[-1] or identifier
    return BlsEntry(title, identifier, draft)


def _paid(value: bytes, budget: ConfigBudget) -> bytes:
    budget.expand(len(value))
    return value


def _fields(content: bytes, budget: ConfigBudget) -> dict[bytes, list[bytes]]:
    """`key value` lines by key, in order."""
    fields: dict[bytes, list[bytes]] = {}
    for line in content.splitlines():
        budget.step()
        key, *value = line.split(None, 1)[:2] or [b"#"]
        if not key.startswith(b"#"):
            fields.setdefault(key, []).append(value[0].strip() if value else b"")
    return fields


def _compare_names(one: bytes, other: bytes) -> int:
    for mine, theirs in zip(_name_version_release(one), _name_version_release(other), strict=True):
        if order := compare_versions(mine, theirs):
            return order
    return 0


def _name_version_release(file_name: bytes) -> tuple[bytes, bytes, bytes]:
    stem = file_name[: -len(b".conf")]
    name, _, release = stem.rpartition(b"-")
    name, _, version = name.rpartition(b"-")
    return (name, version, release)


def compare_versions(one: bytes, other: bytes) -> int:
    """Below 0, 0 or above 0 as `one` is older than, as old as, or newer than `other`, in rpm's order.

    Runs of digits compare as numbers and are newer than letters; `~` is older than the end, `^` newer (rpm manual,
    "Dependencies": version comparison).
    """
    mine, theirs = _SEGMENT.findall(one), _SEGMENT.findall(other)
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            key_a, key_b = _segment_key(a), _segment_key(b)
            if key_a != key_b:
                return -1 if key_a < key_b else 1
    if len(mine) == len(theirs):
        return 0
    longer = 1 if len(mine) > len(theirs) else -1
    extra = (mine if longer > 0 else theirs)[min(len(mine), len(theirs))]
    return -longer if extra == b"~" else longer


def _segment_key(segment: bytes) -> tuple[int, int, bytes]:
    if segment.isdigit():
        digits = segment.lstrip(b"0")
        return (3, len(digits), digits)  # compares as a number, without making one of a thousand digits
    return ({b"~": 0, b"^": 1}.get(segment, 2), 0, segment)


def load_systemd_boot(tree: Tree, folder: bytes, budget: ConfigBudget) -> BootMenu | None:
    """The menu of the entries in `folder` (".../loader/entries") with the default and time-out of loader.conf.

    None where there are no entries. DiskError(BUDGET).
    """
    found = read_entries(tree, folder, lambda _name: b"", budget)
    if not found:
        return None
    loader = folder.rpartition(b"/")[0]
    content = attempt(lambda: budget.read(tree, loader + b"/loader.conf")) or b""
    settings = _fields(content, budget)
    pattern = settings.get(b"default", [b""])[-1][:_PATTERN_BYTES].lower()
    default = 0
    for index, entry in enumerate(found):
        name = entry.id.lower()
        if pattern and (pattern == name or fnmatch.fnmatchcase(name + b".conf", pattern)):
            default = index
            break
    timeout = settings.get(b"timeout", [b"0"])[-1]
    entries = tuple(entry.draft.entry(entry.title, (), entry.id, budget) for entry in found)
    seconds = float(timeout[:9]) if timeout.isdigit() else None if timeout == b"menu-force" else 0.0
    return BootMenu(entries, default, seconds, f"bls:{tree.index}:{printable(folder)}")
