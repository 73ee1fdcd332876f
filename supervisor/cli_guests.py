# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands for guests: create, destroy. The daemon does it; configuration and disks are opened here, with the
rights of who calls.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from domward.protocol.client import Client, Screen, Submitted
from domward.protocol.control import Created
from domward.protocol.errors import DiskError, OperationFailed, RefusedError, UsageError, printable
from domward.protocol.fds import Fd, close_all

from . import arguments, cli_control, report, report_control
from .converse import converse
from .disks import check_disk, open_disk
from .streams import print_result
from .terminal import ProgressLine, raw_console

TYPE_CHECKING = False  # what type checkers take for true, without the cost of loading `typing`

if TYPE_CHECKING:
    from .guest_config import GuestConfig
    from .guest_disks import DiskSpec

GUEST = "guest"  # the kind of a guest's operation


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the commands to the parser of `domward`."""
    create = cli_control.add_command(commands, "create", "create a guest, and return once it runs", _create)
    create.add_argument("config", metavar="CONFIG", type=Path, help="the guest's configuration, a subset of xl.cfg")
    create.add_argument("-c", "--attach", action="store_true", help="stay on its console, from the boot menu on")
    create.add_argument("--json", action="store_true", help="print one object for programs")

    destroy = cli_control.add_command(commands, "destroy", "end a guest at once", _destroy)
    destroy.add_argument("guest", metavar="NAME|OP", help="the guest's name, or its operation's id")


def _create(options: argparse.Namespace) -> int:
    from .guest_config import read_config  # other commands do without what it takes to load

    config = read_config(options.config)
    if options.attach and options.json:
        raise UsageError("--json prints nothing but its object.", advice="Leave --attach out.")
    with ExitStack() as stack:
        fds = stack.enter_context(_opened(config.disks))
        client = stack.enter_context(cli_control.client_of(options))
        created = _attached(client, config, fds) if options.attach else _created(client, config, fds, options)
    if options.json:
        print_result([report.to_json(report_control.created_json(created))])
    else:
        print_result([f"{created.label} runs: {created.operation}."])
    return 0


def _created(client: Client, config: GuestConfig, fds: Sequence[Fd], options: argparse.Namespace) -> Created:
    submitted = _submit(client, config, fds, None)
    line = ProgressLine(quiet=options.json)
    try:
        return client.created(submitted, line.show)
    finally:
        line.clear()


def _attached(client: Client, config: GuestConfig, fds: Sequence[Fd]) -> Created:
    """Until the console ends with the guest, or is left, which the guest survives once it runs."""
    with raw_console("create --attach") as console:
        screen = Screen(console.columns, console.rows) if config.menu else None
        submitted = _submit(client, config, fds, screen)
        converse(client, client.attach(submitted.operation), console)
    return client.created(submitted)


def _submit(client: Client, config: GuestConfig, fds: Sequence[Fd], screen: Screen | None) -> Submitted:
    return client.create(
        [fd.fileno() for fd in fds],
        label=config.name,
        uuid=config.uuid,
        memory_mib=config.memory_mib,
        vcpus=config.vcpus,
        guest_type=config.type,
        disks=[arguments.as_bytes(disk.text()) for disk in config.disks],
        bootloader=config.bootloader,
        bootloader_args=config.bootloader_args,
        entry=config.entry,
        args=config.args,
        kernel=config.kernel,
        ramdisk=config.ramdisk,
        offset=config.offset,
        on_poweroff=config.on_poweroff,
        on_reboot=config.on_reboot,
        on_crash=config.on_crash,
        screen=screen,
    )


@contextmanager
def _opened(disks: Sequence[DiskSpec]) -> Iterator[list[Fd]]:
    """The first disk for its bootloader, which only reads, and each for the guest. Raises DiskError, RefusedError."""
    opened: list[Fd] = []
    try:
        opened.append(open_disk(disks[0].target))
        opened.extend(_open_for_guest(disk) for disk in disks)
        yield opened
    finally:
        close_all(opened)


def _open_for_guest(disk: DiskSpec) -> Fd:
    if not disk.writable:
        return open_disk(disk.target)
    shown = printable(str(disk.target))
    with open_disk(disk.target):  # says what is wrong with it, if anything is, before it is opened for writing
        try:
            fd = Fd(os.open(disk.target, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "disk")
        except PermissionError:
            raise RefusedError(
                f"{shown} may not be written by this user.", advice="Give the disk as read-only."
            ) from None
        except OSError as error:
            raise OperationFailed(f"{shown} cannot be opened for writing: {error.strerror}.") from error
    try:
        check_disk(fd, shown)
    except DiskError:
        fd.close()
        raise
    return fd


def _destroy(options: argparse.Namespace) -> int:
    with cli_control.client_of(options) as client:
        name = cli_control.operation_named(client, options.guest)
        info, _steps = client.show(name)
        if info.kind != GUEST:
            raise UsageError(f"{name} is no guest.", advice="'domward cancel' ends other operations.")
        cli_control.end_operation(client, name)
    print_result([f"{printable(info.label)} is gone."])
    return 0
