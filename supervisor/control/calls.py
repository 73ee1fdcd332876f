# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a client can ask for, in one table: the request, who may make it, and about whose operations.

==========  =============================  ======================================================
role        who                            about which operations
==========  =============================  ======================================================
root        uid 0                          everybody's
operator    in the operators' group        sees everybody's; gets results of, ends, waits on the
                                           console of, and reads the log of those of its own uid
auditor     in the auditors' group         sees everybody's and their logs; changes nothing
==========  =============================  ======================================================

A peer that is none of the three is refused when it connects, before a byte of it is read. Which fds a request comes
with is in its class (`protocol/control`), and was checked when it was received; they are closed after the call, so a
handler takes what it keeps with `detach`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import domward
from domward.protocol import limits
from domward.protocol.control import (
    Attach,
    Attached,
    Cancel,
    ControlMessage,
    Create,
    End,
    Hello,
    Inspect,
    Keys,
    List,
    Log,
    LogFile,
    Metrics,
    MetricsText,
    Reload,
    Resize,
    Role,
    Run,
    Show,
    Stop,
    Wait,
    Watch,
    Watching,
    Welcome,
)
from domward.protocol.errors import RefusedError, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from ..audit.record import Domain
from ..bootloader import BootRequest
from ..logs import find_log
from .connection import Connection, Request
from .guests import create
from .submitting import Handler, bootloader_of, let_go, submit, wait_for
from .tracked import Tracked

if TYPE_CHECKING:
    from .server import ControlServer


class About(enum.Enum):
    """Whose operation a request that names one may be about. Root's may be about anybody's."""

    NONE = "it names none"
    ANY = "anybody's"
    OWN = "one of the same uid"
    OWN_OR_AUDIT = "one of the same uid, and anybody's for an auditor"


@frozen
class Call:
    """A row of the table."""

    message: type[ControlMessage]
    roles: frozenset[Role]
    about: About
    handler: Handler


def _hello(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del server, fds
    assert isinstance(message, Hello)
    if client.greeted:
        raise UsageError("This connection has had its hello.")
    client.greeted = True
    client.name = printable(message.client)
    client.send(
        Welcome(
            request=message.request,
            version=min(message.version, limits.CONTROL_VERSION),
            server=f"domward {domward.__version__}",
            role=client.role,
        )
    )


def _run(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    assert isinstance(message, Run)
    server.operations.require_room(client.peer.uid)
    bootloader = bootloader_of(client, message.bootloader)
    disk = _disk_of(client, message.path, fds)
    hub = server.new_console(message.columns, message.rows) if message.console else None
    try:
        request = BootRequest(
            disk=disk,
            bootloader=bootloader,
            bootloader_args=message.bootloader_args,
            entry=message.entry,
            args=message.args,
            extra=message.extra,
            kernel=message.kernel,
            ramdisk=message.ramdisk,
            offset=None if message.offset < 0 else message.offset,
            image_format=message.image_format,
            console=hub.console if hub else None,
            menu_timeout=None if message.menu_timeout < 0 else message.menu_timeout,
            may_skip_menu=message.may_skip_menu,
            actor=client.actor,
            domain=Domain(
                id=None if message.domid < 0 else message.domid, uuid=message.uuid, name=message.label or None
            ),
        )
        operation = server.supervisor.bootloader_operation(request, seconds=_seconds(server, message.seconds))
        tracked = Tracked(operation.id, "boot", client.peer.uid, client.peer.pid, message.label, message.detached)
        tracked.console = hub
        submit(server, client, message.request, tracked, operation, _fds_of(disk))
    except BaseException:
        if hub is not None:
            hub.end()
            hub.let_go()
        let_go(_fds_of(disk))
        raise


def _inspect(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    assert isinstance(message, Inspect)
    server.operations.require_room(client.peer.uid)
    disk = _disk_of(client, message.path, fds)
    seconds = _seconds(server, message.seconds)
    try:
        operation = server.supervisor.inspect_operation(disk, message.image_format, client.actor, seconds=seconds)
        tracked = Tracked(operation.id, "inspect", client.peer.uid, client.peer.pid, message.label, message.detached)
        submit(server, client, message.request, tracked, operation, _fds_of(disk))
    except BaseException:
        let_go(_fds_of(disk))
        raise


def _list(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, List)
    for tracked in server.operations:
        if message.finished or not tracked.over:
            client.send(tracked.info(message.request))
    client.send(End(request=message.request))


def _show(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Show)
    tracked = server.operation(message.operation)
    client.send(tracked.info(message.request))
    for sequence in range(1, len(tracked.steps) + 1):
        client.send(tracked.step_message(message.request, sequence))
    client.send(End(request=message.request))


def _wait(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Wait)
    tracked = server.operation(message.operation)
    owner = client.role is Role.ROOT or (client.role is Role.OPERATOR and client.peer.uid == tracked.uid)
    waiter = Request(client, message.request, takes_files=owner, takes_steps=False)
    if tracked.over:
        tracked.answer(waiter)
    else:
        wait_for(client, tracked, waiter)


def _cancel(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Cancel)
    server.told(client, message.NAME, message.operation)
    server.operations.cancel(server.operation(message.operation))
    client.send(End(request=message.request))


def _attach(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Attach)
    tracked = server.operation(message.operation)
    hub = tracked.console
    if hub is None:
        raise UsageError(
            "This operation has no console.", operation=tracked.id, advice="Ask for one when you submit it."
        )
    begin = client.attach(message.request, hub)
    server.told(client, message.NAME, tracked.id)
    client.send(
        Attached(request=message.request, operation=tracked.id, columns=hub.console.columns, rows=hub.console.rows),
    )
    begin()
    server.operation_changed(tracked)


def _keys(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del server, fds
    assert isinstance(message, Keys)
    found = client.viewers.get(message.request)
    if found is not None:  # the console may have ended while the keys were under way
        hub, _viewer = found
        if not hub.ended:
            hub.keys(message.content)


def _resize(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del server, fds
    assert isinstance(message, Resize)
    found = client.viewers.get(message.request)
    if found is not None:
        hub, viewer = found
        hub.resize(viewer, message.columns, message.rows)


def _log(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Log)
    tracked = server.operation(message.operation)
    directory = server.supervisor.config.log_directory
    if directory is None:
        raise UsageError("This daemon keeps no console logs.", advice="Set log_directory of [files].")
    with find_log(directory, tracked.id) as log:
        client.send(LogFile(request=message.request, operation=tracked.id), [log])


def _watch(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Watch)
    if client.watching is not None:
        raise UsageError("This connection watches already.")
    for tracked in server.operations:
        client.send(tracked.info(message.request))
    client.send(Watching(request=message.request))
    client.watching = message.request


def _stop(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Stop)
    target = message.target
    if target == client.watching:
        client.unwatch()
    elif target in client.viewers:
        hub, _viewer = client.viewers[target]
        client.detach(target)
        server.console_changed(hub)
    elif target in client.waits and not client.waits[target][1].takes_steps:
        tracked, waiter = client.waits[target]
        tracked.waiters.remove(waiter)
    else:
        raise UsageError(f"Request {target} is no attach, watch or wait that goes on.")
    client.send(End(request=target))
    client.send(End(request=message.request))


def _metrics(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Metrics)
    client.send(MetricsText(request=message.request, content=server.metrics_text()))


def _reload(server: ControlServer, client: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
    del fds
    assert isinstance(message, Reload)
    server.told(client, message.NAME, None)
    server.reload()
    client.send(End(request=message.request))


_EVERYBODY = frozenset(Role)
_OPERATORS = frozenset({Role.ROOT, Role.OPERATOR})
_ROOT = frozenset({Role.ROOT})

#: The table. What is not here cannot be asked for.
CALLS: dict[type[ControlMessage], Call] = {
    call.message: call
    for call in (
        Call(Hello, _EVERYBODY, About.NONE, _hello),
        Call(Run, _OPERATORS, About.NONE, _run),
        Call(Inspect, _OPERATORS, About.NONE, _inspect),
        Call(Create, _OPERATORS, About.NONE, create),
        Call(List, _EVERYBODY, About.NONE, _list),
        Call(Show, _EVERYBODY, About.ANY, _show),
        Call(Wait, _EVERYBODY, About.ANY, _wait),
        Call(Cancel, _OPERATORS, About.OWN, _cancel),
        Call(Attach, _OPERATORS, About.OWN, _attach),
        Call(Keys, _OPERATORS, About.NONE, _keys),
        Call(Resize, _OPERATORS, About.NONE, _resize),
        Call(Log, _EVERYBODY, About.OWN_OR_AUDIT, _log),
        Call(Watch, _EVERYBODY, About.NONE, _watch),
        Call(Stop, _EVERYBODY, About.NONE, _stop),
        Call(Metrics, _EVERYBODY, About.NONE, _metrics),
        Call(Reload, _ROOT, About.NONE, _reload),
    )
}


def may(call: Call, role: Role, uid: int, owner: int | None) -> bool:
    """Whether a client of `role` and `uid` may make `call` about an operation of `owner` (None: it names none)."""
    if role not in call.roles:
        return False
    if role is Role.ROOT or owner is None or call.about in (About.NONE, About.ANY):
        return True
    if call.about is About.OWN_OR_AUDIT and role is Role.AUDITOR:
        return True
    return uid == owner


def _seconds(server: ControlServer, seconds: int) -> float:
    """The time-out: what the client wishes, and never more than the settings allow."""
    most = server.supervisor.config.budgets.wall_seconds
    return min(float(seconds), most) if seconds else most


def _disk_of(client: Connection, path: bytes | None, fds: Sequence[Fd]) -> Path | Fd:
    """The fd that the client opened, the caller's now; a path is opened with root's rights, so it is root's to give."""
    if path is None:
        (disk,) = fds
        return Fd(disk.detach(), "disk")
    if client.role is not Role.ROOT:
        raise RefusedError("Only root may name a disk by its path.", advice="Open it, and pass the descriptor.")
    named = Path(os.fsdecode(path))
    if not named.is_absolute() or b"\0" in path:
        raise UsageError("A disk's path must be absolute and without a NUL byte.")
    return named


def _fds_of(disk: Path | Fd) -> tuple[Fd, ...]:
    return (disk,) if isinstance(disk, Fd) else ()
