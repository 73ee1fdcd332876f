# SPDX-License-Identifier: GPL-3.0-or-later
"""The call that creates a guest. Its operation lasts as long as the guest; its client is answered once that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from domward.protocol.control import ControlMessage, Create, Created, Role
from domward.protocol.errors import RefusedError, UsageError
from domward.protocol.fds import Fd

from ..bootloader import BootRequest
from ..guest_disks import DiskSpecError, parse_disk
from ..guests import GuestRequest
from ..hypervisor.backends import backend_of
from ..hypervisor.interface import GuestDescription, GuestDisk
from .connection import Connection
from .submitting import bootloader_of, let_go, submit
from .tracked import Tracked

if TYPE_CHECKING:
    from .server import ControlServer


def create(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    """Takes on the operation of a new guest; see `submitting.Handler`."""
    assert isinstance(message, Create)
    config = server.supervisor.config
    if backend_of(config).opens_paths and client.role is not Role.ROOT:
        raise RefusedError(
            "Only root may create guests here: the hypervisor's programs open the disks by their paths.",
            advice="Ask root to do it.",
        )
    server.operations.require_room(client.peer.uid)
    bootloader = bootloader_of(client, message.bootloader)
    own = [Fd(fd.detach(), "disk") for fd in fds]
    hub = None
    try:
        hub = server.new_console(message.columns, message.rows)
        console = hub.console
        description = _description(message, own[1:])
        boot = BootRequest(
            disk=own[0],
            bootloader=bootloader,
            bootloader_args=message.bootloader_args,
            entry=message.entry,
            extra=message.args if bootloader == "builtin" else None,
            args=None if bootloader == "builtin" else message.args,
            kernel=message.kernel,
            ramdisk=message.ramdisk,
            offset=None if message.offset < 0 else message.offset,
            image_format=description.disks[0].image_format,
            console=console if message.menu else None,
        )
        request = GuestRequest(
            description=description,
            boot=boot,
            console=console,
            actor=client.actor,
            on_running=lambda domid: _runs(server, tracked, message, domid),
        )
        operation = server.supervisor.guest_operation(request)
        tracked = Tracked(operation.id, "guest", client.peer.uid, client.peer.pid, message.label, False)
        tracked.console = hub
        submit(server, client, message.request, tracked, operation, own)
    except BaseException:
        if hub is not None:
            hub.end()
            hub.let_go()
        let_go(own)
        raise


def _runs(server: ControlServer, tracked: Tracked, message: Create, domid: int | None) -> None:
    """The guest runs: who asked for it is told, and may go; it takes no turn from others any more."""
    if tracked.detached:
        return  # it was started anew
    tracked.detached = True
    server.operations.give_turn_back(tracked)
    server.keep_without_client(tracked)
    number = -1 if domid is None else domid
    for waiter in [waiter for waiter in tracked.waiters if waiter.takes_steps]:
        tracked.waiters.remove(waiter)
        waiter.tell(
            Created(request=waiter.request, operation=tracked.id, label=tracked.label, uuid=message.uuid, domid=number)
        )


def _description(message: Create, fds: Sequence[Fd]) -> GuestDescription:
    """The guest that `message` asks for, with the client's disks. Raises UsageError."""
    disks = []
    for setting, fd in zip(message.disks, fds, strict=True):
        try:
            spec = parse_disk(setting.decode("utf-8"))
        except (DiskSpecError, UnicodeDecodeError) as error:
            raise UsageError(f"A disk cannot be used: {error}.") from None
        disks.append(
            GuestDisk(
                vdev=spec.vdev,
                image_format=spec.image_format,
                writable=spec.writable,
                fd=fd,
                path=spec.target,
            )
        )
    return GuestDescription(
        name=message.label,
        uuid=message.uuid,
        memory_mib=message.memory_mib,
        vcpus=message.vcpus,
        disks=tuple(disks),
        type=message.guest_type,
        on_poweroff=message.on_poweroff,
        on_reboot=message.on_reboot,
        on_crash=message.on_crash,
    )
