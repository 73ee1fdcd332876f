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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from domward.protocol.errors import ConfinementUnavailable, OperationFailed, UsageError
from domward.protocol.fds import Fd
from domward.protocol.layers import LOST_WITHOUT, Layer
from domward.protocol.messages import LauncherReady

from .bootloader import BootloaderOperations, BootRequest, BootResult, InspectResult
from .children import Child
from .config import Config
from .endings import to_its_end
from .events import Events
from .forks import Birthplace
from .helper import HelperHost
from .launcher import Launcher
from .launcher_process import LauncherProcess
from .launchers import Launchers
from .leases import UidLeases
from .operations import Operation

_HASH_THREADS = 2  # kernel and ramdisk of one operation at once


class Supervisor:
    """Runs operations.

    `config` None takes the embedded default. `process` is a launcher that was started beforehand, to save time.
    """

    def __init__(self, config: Config | None = None, process: LauncherProcess | None = None) -> None:
        if config is not None and not isinstance(config, Config):
            raise UsageError(f"config must be a Config, not {type(config).__name__}.")
        self.config = config or Config()
        self._process = process
        self._birthplace = Birthplace()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: Events | None = None
        self._leases: UidLeases | None = None
        self._launchers: Launchers | None = None
        self._hashing: ThreadPoolExecutor | None = None
        self._operations: set[Operation[BootResult] | Operation[InspectResult]] = set()
        self._stuck: list[Child] = []
        self._closed = False

    async def __aenter__(self) -> Supervisor:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._birthplace.here:  # a forked child that leaves the block has nothing to close
            await self.close()

    async def open(self) -> None:
        """Starts the launcher. Raises ConfinementUnavailable where this host cannot confine, OperationFailed."""
        self._birthplace.require("The supervisor")
        if self._closed or self._loop is not None:
            raise UsageError("A supervisor is opened once.")
        self._birthplace = Birthplace()  # its thread is the one in which it is opened
        if os.geteuid() != 0:
            raise ConfinementUnavailable(
                "Confining helpers takes root: own uids and namespaces.", advice="Run domward as root, or with sudo."
            )
        self._loop = asyncio.get_running_loop()
        try:
            self._events = Events(self._loop)
            self._leases = UidLeases(self.config.state_directory, self.config.uid_base, self.config.uid_count)
            self._launchers = Launchers(self.config, self._events, self._process)
            self._hashing = ThreadPoolExecutor(_HASH_THREADS, "domward-hash")
            await self.host()
        except OSError as error:
            await self.close()
            raise OperationFailed(f"The supervisor could not be opened: {error.strerror}.") from error
        except BaseException:
            await self.close()
            raise

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
        if self._events is not None:
            self._events.close()
        if self._hashing is not None:
            self._hashing.shutdown()

    async def run_bootloader(self, request: BootRequest) -> BootResult:
        """Reads what boots from `request.disk`. The result's memfds are the caller's, who closes it.

        Raises the errors of protocol/errors: DiskError for a bad disk, OperationTimedOut, HelperError and so on. If the
        caller is cancelled, so is the operation, and its end is awaited.
        """
        return await self.bootloader_operation(request).complete()

    async def inspect(self, disk: Path | Fd, image_format: str | None = None) -> InspectResult:
        """Lists the volumes and boot entries of `disk` and what is wrong with each. Raises as `run_bootloader`."""
        return await self.inspect_operation(disk, image_format).complete()

    def bootloader_operation(self, request: BootRequest) -> Operation[BootResult]:
        """The same as a new operation, to be started, watched, awaited by several and cancelled."""
        if not isinstance(request, BootRequest):
            raise UsageError(f"request must be a BootRequest, not {type(request).__name__}.")
        if request.console is not None:
            request.console.require_open()
        actions = self._actions()

        async def body(operation: Operation[BootResult]) -> BootResult:
            return await actions.run(operation, await self.host(), request)

        operation = Operation("boot", body, self.config.budgets.wall_seconds, BootResult.close)
        self._own(operation)
        return operation

    def inspect_operation(self, disk: Path | Fd, image_format: str | None = None) -> Operation[InspectResult]:
        """As `inspect`, as an operation."""
        BootRequest(disk=disk, image_format=image_format)  # the same arguments, the same check
        actions = self._actions()

        async def body(operation: Operation[InspectResult]) -> InspectResult:
            return await actions.inspect(operation, await self.host(), disk, image_format)

        operation = Operation("inspect", body, self.config.budgets.wall_seconds, lambda _result: None)
        self._own(operation)
        return operation

    @property
    def _launcher(self) -> Launcher | None:
        return self._launchers.current if self._launchers is not None else None

    async def host(self) -> HelperHost:
        """What helpers need, with a live launcher. Raises ConfinementUnavailable where a needed layer is missing."""
        self._require_open()
        assert self._events is not None
        assert self._leases is not None
        assert self._launchers is not None
        launcher, ready = await self._launchers.live()
        return HelperHost(self.config, self._events, self._leases, launcher, self._missing(ready), self._stuck)

    def _missing(self, ready: LauncherReady) -> frozenset[Layer]:
        missing = frozenset(ready.missing) | self.config.absent_layers
        needed = sorted(missing - self.config.optional_layers, key=lambda layer: layer.value)
        if needed:
            raise ConfinementUnavailable(
                f"This kernel lacks {needed[0].value}: {LOST_WITHOUT[needed[0]]}.",
                advice=f"Use a newer kernel, or name {', '.join(layer.value for layer in needed)} as optional.",
            )
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

    def _own(self, operation: Operation[BootResult] | Operation[InspectResult]) -> None:
        self._operations.add(operation)
        operation.on_done(self._operations.discard)
