# SPDX-License-Identifier: GPL-3.0-or-later
"""The bootloader helper: the built-in reader, from one order to one answer.

It gets the disk, the sinks and perhaps a terminal as fds, and gives back small typed messages. Whatever is wrong with
the disk is the answer `DiskFailed`; the process then ends like after a success.
"""

from __future__ import annotations

from domward.protocol import limits
from domward.protocol.channel import Channel
from domward.protocol.errors import DiskError, OperationCancelled, printable
from domward.protocol.fds import Fd, close_all
from domward.protocol.messages import (
    BootRead,
    DiskFailed,
    DiskRemark,
    EntryFound,
    InspectBoot,
    Inspected,
    MenuLeft,
    Progress,
    ReadBoot,
    ReadStep,
    VolumeFound,
)
from domward.protocol.records import replaced

from .menu import run_menu
from .menu_size import MenuSize
from .reader.copy import copy_files
from .reader.finder import find_menu
from .reader.given_files import menu_of_files
from .reader.interface import BootEntry, BootMenu, FileRef
from .reader.selection import check_args, choose, default_index, joined_args, with_extra_args
from .reader.tree import open_disk

_NO_DEFAULT = limits.ENTRIES


def run(channel: Channel) -> int:
    """Serves one order on `channel`; returns the exit code, 0."""
    received = channel.receive((ReadBoot, InspectBoot))
    if received is None:
        return 0
    order = received.message
    try:
        if isinstance(order, ReadBoot):
            _read(channel, order, received.fds)
        elif isinstance(order, InspectBoot):
            _inspect(channel, order, received.fds[0])
    except DiskError as error:
        channel.send(DiskFailed(reason=error.reason, what=_sentence(error.sentence), advice=_sentence(error.advice)))
    except OperationCancelled:
        channel.send(MenuLeft())
    finally:
        close_all(received.fds)
    return 0


def _read(channel: Channel, order: ReadBoot, fds: tuple[Fd, ...]) -> None:
    disk, kernel, ramdisk = fds[:3]
    channel.send(Progress(step=ReadStep.IMAGE))
    forest = open_disk(disk.fileno(), order.image_format, offset=None if order.offset < 0 else order.offset)
    channel.send(Progress(step=ReadStep.CONFIGURATION))
    extra = order.extra or b""
    if order.kernel is None:
        menu = with_extra_args(find_menu(forest), extra)
        entry, args = _choice(channel, order, menu, fds[3] if order.interactive else None)
    else:
        menu = menu_of_files(forest, order.kernel, order.ramdisk, joined_args(order.args or b"", extra))
        entry = choose(menu)
        args = entry.args
    check_args(args)
    assert entry.kernel is not None
    channel.send(Progress(step=ReadStep.KERNEL))
    kernel_bytes = copy_files(forest, [entry.kernel], kernel.fileno(), order.kernel_bytes)
    ramdisk_bytes = 0
    if entry.initrds:
        channel.send(Progress(step=ReadStep.RAMDISK))
        ramdisk_bytes = copy_files(forest, entry.initrds, ramdisk.fileno(), order.ramdisk_bytes)
    channel.send(
        BootRead(
            title=entry.title,
            args=args,
            kernel_bytes=kernel_bytes,
            ramdisk_bytes=ramdisk_bytes,
            source=printable(menu.source),
        )
    )


def _choice(channel: Channel, order: ReadBoot, menu: BootMenu, terminal: Fd | None) -> tuple[BootEntry, bytes]:
    """The entry and its arguments, asked for on `terminal` where there is one."""
    args = None if order.args is None else joined_args(order.args, order.extra or b"")
    if terminal is None:
        entry = choose(menu, order.entry)
        return entry, entry.args if args is None else args
    if order.entry is not None:
        menu = replaced(menu, default=menu.entries.index(choose(menu, order.entry)))
    if args is not None:
        entries = list(menu.entries)
        default = default_index(menu)
        entries[default] = replaced(entries[default], args=args)
        menu = replaced(menu, entries=tuple(entries), default=default)
    seconds = float(order.menu_timeout) if order.menu_timeout >= 0 else menu.timeout
    if order.menu_timeout < 0 and not order.may_skip_menu:
        seconds = seconds or None  # who asks for a menu wants to see it, also where the disk would skip it
    channel.send(Progress(step=ReadStep.MENU))
    size = MenuSize(channel, order.columns, order.rows)
    choice = run_menu(
        terminal.fileno(),
        terminal.fileno(),
        replaced(menu, timeout=seconds),
        columns=order.columns,
        rows=order.rows,
        wait=size.wait,
        size=size.now,
    )
    return choice.entry, choice.args


def _inspect(channel: Channel, order: InspectBoot, disk: Fd) -> None:
    channel.send(Progress(step=ReadStep.IMAGE))
    forest = open_disk(disk.fileno(), order.image_format)
    for tree in forest.trees:
        volume = tree.fs.volume
        channel.send(
            VolumeFound(
                index=volume.index,
                scheme=volume.scheme,
                offset=volume.offset,
                size=volume.size,
                filesystem=tree.fs.kind,
                uuid=tree.fs.uuid,
                label=tree.fs.label[:256],
            )
        )
    for problem in forest.problems[: limits.PARTITIONS]:
        channel.send(DiskRemark(what=printable(problem)[: limits.TEXT_BYTES]))
    channel.send(Progress(step=ReadStep.CONFIGURATION))
    menu = BootMenu((), 0, None, "")
    default, reason, problem = _NO_DEFAULT, "", ""
    try:
        menu = find_menu(forest)
        default = default_index(menu)
    except DiskError as error:
        reason, problem = error.reason.value, _sentence(error.sentence)
    for index, entry in enumerate(menu.entries):
        channel.send(_entry_found(index, entry))
    channel.send(
        Inspected(
            image_format=forest.image.format,
            volumes=len(forest.trees),
            entries=len(menu.entries),
            default=default,
            source=printable(menu.source),
            reason=reason,
            problem=problem,
        )
    )


def _entry_found(index: int, entry: BootEntry) -> EntryFound:
    return EntryFound(
        index=index,
        title=entry.title[: limits.TITLE_BYTES],
        submenus=tuple(title[: limits.TITLE_BYTES] for title in entry.path[: limits.SUBMENU_DEPTH]),
        identifier=entry.id[: limits.TITLE_BYTES],
        kernel=_path(entry.kernel) if entry.kernel else b"",
        kernel_bytes=entry.kernel.size if entry.kernel else 0,
        initrds=tuple(_path(initrd) for initrd in entry.initrds[: limits.INITRDS]),
        ramdisk_bytes=sum(initrd.size for initrd in entry.initrds),
        args=entry.args[: limits.TEXT_BYTES],
        problem=printable(entry.problem)[: limits.TEXT_BYTES],
    )


def _path(file: FileRef) -> bytes:
    return file.path[: limits.TITLE_BYTES]


def _sentence(text: str) -> str:
    """`text` as a sentence that fits a message: readers write theirs without capital and full stop. "" stays so."""
    text = text[: limits.TEXT_BYTES - 1]
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")
