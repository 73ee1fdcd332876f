# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest operation: bootloader -> build -> unpause -> watch until death, and again where the guest reboots.

Each start of the guest (a life) owns what it made in a stack of its own: the bootloader's results, the guest, its
console's relay. It is released, in reverse order, before the next life begins and at the end of the operation, however
that comes; a cancel ends it at any await, and destroys the guest. Progress: the bootloader's steps, then "build",
"running", and "preserved" for a dead guest that stays for somebody to look at until the operation is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

from domward.protocol import limits
from domward.protocol.errors import DomwardError, OperationFailed, UsageError
from domward.protocol.guests import Action, Death
from domward.protocol.messages import Copied
from domward.protocol.records import frozen, replaced

from .audit.record import Actor, Detail, Domain, Event
from .audit.trail import AuditTrail, OperationTrail
from .bootloader import BootRequest, BootResult
from .console import Console
from .disks import check_disk
from .endings import to_its_end
from .helper import HelperHost
from .hypervisor.interface import Backend, BootFiles, Guest, GuestDescription
from .launchers import DeathCount
from .logs import ConsoleLog, open_log
from .opening import in_thread
from .operations import Operation
from .relay import Relay

#: The steps of a guest operation beside those of its bootloader.
BUILD, RUNNING, PRESERVED = "build", "running", "preserved"


@frozen(kw_only=True)
class GuestRequest:
    """What to create. `boot` is run at each start; its actor and domain are filled in here. `console` is the guest's
    own: the same as the menu's, where there is one. All fds stay the caller's and are open until the operation is done.
    `on_running` is called with the domain's number, None where it has none, at each start, once the guest runs.
    """

    description: GuestDescription
    boot: BootRequest
    console: Console | None = None
    actor: Actor | None = None
    on_running: Callable[[int | None], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.description, GuestDescription) or not isinstance(self.boot, BootRequest):
            raise UsageError("A GuestRequest has a GuestDescription and a BootRequest.")

    def described(self) -> Detail:
        """What the audit log holds of it."""
        return self.boot.described() | {"guest": self.description.described(), "console": self.console is not None}


@frozen(kw_only=True)
class GuestResult:
    """How a guest ended by itself: `death` of its last life, and how often it was started."""

    operation: str
    name: str
    uuid: str
    death: Death
    starts: int


class GuestOperation:
    """The body of one operation; `run` is called once.

    `boot` makes a bootloader operation of its own for a life, `host` gives what helpers need with a live launcher.
    """

    def __init__(
        self,
        request: GuestRequest,
        backend: Backend,
        trail: AuditTrail,
        boot: Callable[[BootRequest], Operation[BootResult]],
        host: Callable[[OperationTrail], Awaitable[HelperHost]],
    ) -> None:
        self._request = request
        self._description = request.description
        self._backend = backend
        self._trail = trail
        self._boot = boot
        self._host = host

    async def run(self, operation: Operation[GuestResult]) -> GuestResult:
        """From the first life to the last. Raises what went wrong."""
        self._description = await in_thread(lambda: _looked_at(self._description), lambda _description: None)
        starts, too_often = 0, DeathCount(limits.GUEST_STARTS, limits.GUEST_START_SECONDS)
        while True:
            starts += 1
            if too_often.note(asyncio.get_running_loop().time()):
                raise OperationFailed(
                    f"The guest was started {limits.GUEST_STARTS} times within {limits.GUEST_START_SECONDS:g} seconds, "
                    "so it is not started again.",
                    code="guest-restarts",
                    advice="See what it shows on its console.",
                )
            async with _released() as life:
                death = await self._live(operation, life)
                action = self._description.after(death)
                if action is Action.PRESERVE:
                    operation.report(PRESERVED)
                    await asyncio.get_running_loop().create_future()  # until somebody destroys it: a cancel
            if action is Action.DESTROY:
                return GuestResult(
                    operation=operation.id,
                    name=self._description.name,
                    uuid=self._description.uuid,
                    death=death,
                    starts=starts,
                )

    async def _live(self, operation: Operation[GuestResult], life: AsyncExitStack) -> Death:
        request, description = self._request, self._description
        domain = Domain(uuid=description.uuid, name=description.name)
        trail = self._trail.operation(operation.id, request.actor, domain)
        booting = self._boot(replaced(request.boot, actor=request.actor, domain=domain))
        booting.on_progress(operation.report)
        try:
            found = await booting.complete()
        except DomwardError as error:
            error.operation = operation.id  # nobody asked for that other one by itself
            raise
        with contextlib.closing(found):
            operation.report(BUILD)
            boot = BootFiles(kernel=found.kernel, ramdisk=found.ramdisk, command_line=found.args)
            await trail.record(Event.GUEST_BUILD, {"backend": self._backend.name, "boot": booting.id})
            host = await self._host(trail)
            guest = await self._backend.build(host, operation.id, description, boot)
            keeping = _Keeping(guest)
            life.push_async_callback(keeping.release)
        domain = replaced(domain, id=guest.domid)
        trail = self._trail.operation(operation.id, request.actor, domain)
        host = replaced(host, trail=trail)
        await keeping.relay_console(host, operation.id, request.console)
        await trail.record(Event.GUEST_UNPAUSE, guest.described)
        await guest.unpause()
        operation.report(RUNNING)
        if request.on_running is not None:
            request.on_running(guest.domid)
        death = await guest.death()
        await trail.record(Event.GUEST_DEATH, {"death": death, "action": description.after(death)})
        return death


def _looked_at(description: GuestDescription) -> GuestDescription:
    """`description` with what its disks' fds are. Raises UsageError for one that is not open as it says, DiskError."""
    disks = []
    for disk in description.disks:
        if disk.fd is None:
            disks.append(disk)
            continue
        wanted = os.O_RDWR if disk.writable else os.O_RDONLY
        # An O_PATH fd is no proof that its owner may read or write the file.
        if fcntl.fcntl(disk.fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) != wanted:
            how = "reading and writing" if disk.writable else "reading only"
            raise UsageError(f"The fd of disk {disk.vdev} must be opened for {how}.")
        check_disk(disk.fd, f"Disk {disk.vdev}")
        disks.append(replaced(disk, block_device=stat.S_ISBLK(os.fstat(disk.fd.fileno()).st_mode)))
    return replaced(description, disks=tuple(disks))


class _Keeping:
    """A guest and the relay of its console, for one life. The relay's end is not the guest's: it only gets silent."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._relay: Relay | None = None
        self._relaying: asyncio.Task[Copied] | None = None
        self._log: ConsoleLog | None = None
        self._grace = 0.0

    async def relay_console(self, host: HelperHost, operation: str, console: Console | None) -> None:
        """Relays to `console` and to a log, as long as the guest lives. Raises as `Relay.start`."""
        config = host.config
        if config.log_directory is not None:
            self._log = open_log(config.log_directory, operation, config.logs_kept)
        self._grace = config.budgets.term_grace_seconds
        budgets = replaced(config.budgets, helper_cpu_seconds=limits.GUEST_CONSOLE_CPU)
        self._relay = Relay(replaced(host, config=replaced(config, budgets=budgets)), operation)
        await self._relay.start(self._guest.console, console, self._log.fd if self._log else None)
        self._guest.console.close()
        self._relaying = asyncio.create_task(self._relay.wait())

    async def release(self) -> None:
        """The guest first: what it showed last is relayed then, and the relay sees the end."""
        try:
            await self._guest.destroy()
        finally:
            if self._relaying is not None:
                await asyncio.wait([self._relaying], timeout=self._grace)
                self._relaying.cancel()
                await asyncio.wait([self._relaying])
                if not self._relaying.cancelled():
                    self._relaying.exception()  # looked at: the guest went on without it
            if self._relay is not None:
                await self._relay.close()
            if self._log is not None:
                self._log.close()


@contextlib.asynccontextmanager
async def _released() -> AsyncIterator[AsyncExitStack]:
    """A stack that is released to its end, whatever cancels its owner meanwhile."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        await to_its_end(stack.aclose())
