# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor: owner of the event layer, the launcher, the uid leases and the operations.

States: new -> open -> closed. ``async with Supervisor(config) as s`` opens and closes it. A closed supervisor, and one
used from another event loop or thread than its own or in a forked child, refuses every call with UsageError. Closing
cancels what is running and leaves no process, fd or thread behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import domward
from domward.protocol.errors import (
    ConfinementUnavailable,
    DomwardError,
    HelperDied,
    OperationFailed,
    RefusedError,
    UsageError,
)
from domward.protocol.fds import Fd
from domward.protocol.layers import Layer
from domward.protocol.messages import LauncherReady

from .audit.record import Actor, Domain, Event
from .audit.trail import AuditTrail, OperationTrail, described, event_of, outcome_of, symbol_of, written
from .bootloader import BootloaderOperations, BootRequest, BootResult, InspectResult
from .cgroups import Groups
from .children import Child
from .config import Config, Hypervisor
from .endings import to_its_end
from .events import Events
from .forks import Birthplace
from .helper import HelperHost
from .launcher import Launcher
from .launcher_process import LauncherProcess
from .launchers import Launchers
from .leases import UidLeases
from .missing_layers import require_optional
from .operations import Operation, ResultT
from .user_namespace import missing_layers

TYPE_CHECKING = False  # what type checkers take for true, without the cost of loading `typing`

if TYPE_CHECKING:
    from .guests import GuestRequest, GuestResult
    from .hypervisor.xenstore import Xenstore

_HASH_THREADS = 2  # kernel and ramdisk of one operation at once


class Supervisor:
    """Runs operations.

    `config` None takes the embedded default. `process` is a launcher that was started beforehand, to save time.
    `audit_position` is a file of the caller's that keeps the audit log's last place (`audit.log`).
    """

    def __init__(
        self,
        config: Config | None = None,
        process: LauncherProcess | None = None,
        *,
        audit_position: Fd | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise UsageError(f"config must be a Config, not {type(config).__name__}.")
        self.config = config or Config()
        self._process = process
        self._audit_position = audit_position
        self._birthplace = Birthplace()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: Events | None = None
        self._xenstore: Xenstore | None = None
        self._leases: UidLeases | None = None
        self._launchers: Launchers | None = None
        self._hashing: ThreadPoolExecutor | None = None
        self._operations: set[Operation[BootResult] | Operation[InspectResult] | Operation[GuestResult]] = set()
        self._guests: dict[str, str] = {}  # the operation of each guest that there is, by the guest's name
        self._stuck: list[Child] = []
        self._unmapped: frozenset[Layer] = frozenset()
        self._closed = False
        self._trail: AuditTrail | None = None
        self._told_missing: frozenset[Layer] = frozenset()
        self._groups: Groups | None = None

    async def __aenter__(self) -> Supervisor:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._birthplace.here:  # a forked child that leaves the block has nothing to close
            await self.close()

    async def open(self) -> None:
        """Starts the launcher.

        Raises ConfinementUnavailable where this host cannot confine, AuditUnavailable, OperationFailed.
        """
        self._birthplace.require("The supervisor")
        if self._closed or self._loop is not None:
            raise UsageError("A supervisor is opened once.")
        self._birthplace = Birthplace()  # its thread is the one in which it is opened
        self._loop = asyncio.get_running_loop()
        trail = self._trail = AuditTrail(
            self.config.audit_log, alone=self.config.audit_alone, position=self._audit_position
        )
        try:
            await self._open(trail)
        except DomwardError as error:
            trail.note(event_of(error), described(error), outcome=outcome_of(error), symbol=symbol_of(error))
            await self.close()
            raise
        except BaseException:
            await self.close()
            raise

    async def _open(self, trail: AuditTrail) -> None:
        assert self._loop is not None
        self._groups = Groups.delegated()
        opened = trail.note(
            Event.SUPERVISOR_OPENED,
            {
                "version": domward.__version__,
                "config": self.config.completed(),
                "groups": self._groups.bounds if self._groups is not None else None,
            },
        )
        if os.geteuid() != 0:
            raise ConfinementUnavailable(
                "Confining helpers takes root: own uids and namespaces.",
                advice="Run this as root, or with sudo; or the command domward, which makes itself a user namespace.",
            )
        try:
            self._unmapped = missing_layers(self.config.uid_base, self.config.uid_count)
            self._events = Events(self._loop)
            self._leases = UidLeases(self.config.state_directory, self.config.uid_base, self.config.uid_count)
            self._launchers = Launchers(self.config, self._events, self._process)
            self._hashing = ThreadPoolExecutor(_HASH_THREADS, "domward-hash")
            await self.host()
            if self.config.xenstore is not None:  # only now: no launcher was exec'd with it
                from .hypervisor.xenstore import Xenstore  # most hosts and every one-shot run do without

                self._xenstore = Xenstore.connect(self._events, self.config.xenstore)
        except OSError as error:
            raise OperationFailed(f"The supervisor could not be opened: {error.strerror}.") from error
        await written(opened)

    async def close(self) -> None:
        """Cancels what runs, ends the launcher, closes everything. Idempotent."""
        self._birthplace.require_thread("The supervisor")
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise UsageError("The supervisor belongs to another event loop.")
        if not self._closed:
            self._closed = True
            await to_its_end(self._close())

    async def _close(self) -> None:
        running = [*self._operations]
        for operation in running:
            operation.cancel()
        await asyncio.gather(*(operation.wait() for operation in running), return_exceptions=True)
        if self._launchers is not None:
            await self._launchers.close()
        for child in self._stuck:
            child.let_go()
        if self._leases is not None:
            self._leases.close()
        if self._xenstore is not None:
            self._xenstore.close()
        if self._events is not None:
            self._events.close()
        if self._hashing is not None:
            self._hashing.shutdown()
        if self._trail is not None:
            self._trail.note(Event.SUPERVISOR_CLOSED)
            await self._trail.close()

    async def run_bootloader(self, request: BootRequest) -> BootResult:
        """Reads what boots from `request.disk`. The result's memfds are the caller's, who closes it.

        Raises the errors of protocol/errors: DiskError for a bad disk, OperationTimedOut, HelperError and so on. If the
        caller is cancelled, so is the operation, and its end is awaited.
        """
        return await self.bootloader_operation(request).complete()

    async def inspect(
        self, disk: Path | Fd, image_format: str | None = None, actor: Actor | None = None
    ) -> InspectResult:
        """Lists the volumes and boot entries of `disk` and what is wrong with each. Raises as `run_bootloader`."""
        return await self.inspect_operation(disk, image_format, actor).complete()

    def bootloader_operation(self, request: BootRequest, *, seconds: float | None = None) -> Operation[BootResult]:
        """The same as a new operation, to be started, watched, awaited by several and cancelled.

        `seconds` is its time-out in place of the configuration's.
        """
        if not isinstance(request, BootRequest):
            raise UsageError(f"request must be a BootRequest, not {type(request).__name__}.")
        if request.console is not None:
            request.console.require_open()
        actions = self._actions()

        async def work(operation: Operation[BootResult], host: HelperHost) -> BootResult:
            work = actions.run(operation, host, request)
            if self._xenstore is None or request.domain is None or request.domain.id is None:
                return await work
            from .hypervisor.domains import unless_gone

            return await unless_gone(self._xenstore, request.domain.id, work)

        async def body(operation: Operation[BootResult]) -> BootResult:
            await trail.record(Event.REQUEST, request.described())
            return await self._grouped(operation, trail, work)

        async def conclude(error: DomwardError | None) -> None:
            await trail.concluded(error)

        operation = Operation("boot", body, seconds or self.config.budgets.wall_seconds, BootResult.close, conclude)
        trail = self.trail.operation(operation.id, request.actor, request.domain)
        self._own(operation)
        return operation

    def inspect_operation(
        self,
        disk: Path | Fd,
        image_format: str | None = None,
        actor: Actor | None = None,
        *,
        seconds: float | None = None,
    ) -> Operation[InspectResult]:
        """As `inspect`, as an operation."""
        request = BootRequest(disk=disk, image_format=image_format, actor=actor)  # the same arguments, the same check
        actions = self._actions()

        async def work(operation: Operation[InspectResult], host: HelperHost) -> InspectResult:
            return await actions.inspect(operation, host, disk, image_format)

        async def body(operation: Operation[InspectResult]) -> InspectResult:
            await trail.record(Event.REQUEST, request.described())
            return await self._grouped(operation, trail, work)

        async def conclude(error: DomwardError | None) -> None:
            await trail.concluded(error)

        operation = Operation(
            "inspect", body, seconds or self.config.budgets.wall_seconds, lambda _result: None, conclude
        )
        trail = self.trail.operation(operation.id, actor)
        self._own(operation)
        return operation

    def guest_operation(self, request: GuestRequest) -> Operation[GuestResult]:
        """The life of a guest as a new operation: it ends with the guest. To cancel it destroys the guest.

        Raises RefusedError where there is no hypervisor, or a guest of that name; UsageError for what it cannot do.
        """
        from .guests import GuestOperation, GuestRequest  # as xenstore: most supervisors have no guests
        from .hypervisor.backends import backend_of

        if not isinstance(request, GuestRequest):
            raise UsageError(f"request must be a GuestRequest, not {type(request).__name__}.")
        self._require_open()
        if request.console is not None:
            request.console.require_open()
        backend = backend_of(self.config)
        backend.check(request.description)
        name = request.description.name
        self._require_unused(name)
        work = GuestOperation(request, backend, self.trail, self.bootloader_operation, self.host)

        async def body(operation: Operation[GuestResult]) -> GuestResult:
            self._require_unused(name)  # another may have begun since
            self._guests[name] = operation.id
            await trail.record(Event.REQUEST, request.described())
            return await work.run(operation)

        async def conclude(error: DomwardError | None) -> None:
            if self._guests.get(name) == operation.id:
                del self._guests[name]
            await trail.concluded(error)

        operation = Operation("guest", body, None, lambda _result: None, conclude)
        trail = self.trail.operation(
            operation.id, request.actor, Domain(uuid=request.description.uuid, name=request.description.name)
        )
        self._own(operation)
        return operation

    async def _grouped(
        self,
        operation: Operation[ResultT],
        trail: OperationTrail,
        work: Callable[[Operation[ResultT], HelperHost], Awaitable[ResultT]],
    ) -> ResultT:
        """What `work` gives, done by helpers in a control group of their own where there can be one."""
        host = await self.host(trail)
        if self._groups is None:
            return await work(operation, host)
        group = self._groups.new(operation.id, self.config.budgets)
        operation.scope.push_async_callback(group.close)
        host.group = group
        try:
            return await work(operation, host)
        except HelperDied as error:
            if not group.ran_out_of_memory():
                raise
            raise OperationFailed(
                "The operation's processes needed more memory than they may have together.",
                code="out-of-memory",
                helper=error.helper,
            ) from error

    async def end_orphan_guests(self) -> list[str]:
        """Takes away guests whose supervisor was killed, where the hypervisor keeps such; returns their UUIDs.

        To be called before any guest is created. Raises OperationFailed.
        """
        self._require_open()
        if self.config.backend is not Hypervisor.XEN:
            return []
        from .hypervisor.xen import end_orphan_domains

        assert self._events is not None
        return await end_orphan_domains(self._events, self.config.state_directory)

    @property
    def _launcher(self) -> Launcher | None:
        return self._launchers.current if self._launchers is not None else None

    @property
    def launcher_pid(self) -> int | None:
        """The process that makes helpers, where there is one."""
        launcher = self._launcher
        return launcher.child.pid if launcher is not None and launcher.alive and launcher.child else None

    @property
    def helpers_alive(self) -> int:
        """How many helpers have a uid at the moment."""
        return self._leases.taken if self._leases is not None else 0

    @property
    def trail(self) -> AuditTrail:
        """What is to be told to the audit log; of a supervisor that was opened."""
        assert self._trail is not None
        return self._trail

    async def host(self, trail: OperationTrail | None = None) -> HelperHost:
        """What helpers need, with a live launcher. Raises ConfinementUnavailable where a needed layer is missing.

        `trail` is told of the helpers; None tells of them without an operation.
        """
        self._require_open()
        assert self._events is not None
        assert self._leases is not None
        assert self._launchers is not None
        launcher, ready = await self._launchers.live()
        missing = self._missing(ready)
        if missing != self._told_missing:
            self.trail.note(Event.LAYERS_MISSING, {"layers": sorted(layer.value for layer in missing)})
            self._told_missing = missing
        trail = trail or self.trail.operation("")
        return HelperHost(self.config, self._events, self._leases, launcher, missing, self._stuck, trail)

    def _missing(self, ready: LauncherReady) -> frozenset[Layer]:
        missing = frozenset(ready.missing) | self.config.absent_layers | self._unmapped
        require_optional(missing, self.config.optional_layers)
        return missing

    def _actions(self) -> BootloaderOperations:
        self._require_open()
        assert self._hashing is not None
        return BootloaderOperations(self._hashing)

    def _require_open(self) -> None:
        self._birthplace.require_thread("The supervisor")
        if self._loop is None or self._closed:
            raise UsageError("The supervisor is not open.")
        with contextlib.suppress(RuntimeError):  # no loop runs
            if asyncio.get_running_loop() is self._loop:
                return
        raise UsageError("The supervisor belongs to another event loop.")

    def _require_unused(self, name: str) -> None:
        if name in self._guests:
            raise RefusedError(
                f"There is a guest {name} already.",
                code="name-taken",
                operation=self._guests[name],
                advice="Give this one another name, or destroy that one.",
            )

    def _own(self, operation: Operation[BootResult] | Operation[InspectResult] | Operation[GuestResult]) -> None:
        self._operations.add(operation)
        operation.on_done(self._operations.discard)
