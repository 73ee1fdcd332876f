# SPDX-License-Identifier: GPL-3.0-or-later
"""What the calls that begin an operation have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domward.protocol.control import ControlMessage, Role
from domward.protocol.errors import RefusedError
from domward.protocol.fds import Fd

from ..opening import close_in_thread
from ..operations import Operation
from .connection import Connection, Request
from .tracked import Tracked, started_message

if TYPE_CHECKING:
    from .server import ControlServer

Handler = Callable[["ControlServer", Connection, ControlMessage, Sequence[Fd]], None]


def bootloader_of(client: Connection, name: str) -> str | Path:
    """A bootloader by its name; a program by its path, which is opened with root's rights, so it is root's to give."""
    if os.sep not in name:
        return name
    if client.role is not Role.ROOT:
        raise RefusedError("Only root may name a bootloader by its path.", advice="Use 'builtin' or 'pygrub'.")
    return Path(name)


def let_go(disks: Iterable[Fd]) -> None:
    """Closes disks that came from a client."""
    for disk in disks:
        close_in_thread(disk)


def submit(
    server: ControlServer,
    client: Connection,
    request: int,
    tracked: Tracked,
    operation: Operation[Any],
    disks: Sequence[Fd] = (),
) -> None:
    """Takes on `operation`, which owns `disks` from then on, for who asked with `request`. Raises OperationFailed."""
    waiter = Request(client, request, takes_files=True, takes_steps=True)
    server.operations.take(tracked, operation)
    tracked.disks = tuple(disks)
    client.send(started_message(request, tracked))
    wait_for(client, tracked, waiter)
    if not tracked.detached:
        client.mine.add(tracked)
    server.submitted(client, tracked)


def wait_for(client: Connection, tracked: Tracked, waiter: Request) -> None:
    """Has `waiter` told how `tracked` ends."""
    tracked.waiters.append(waiter)
    client.waits[waiter.request] = (tracked, waiter)
