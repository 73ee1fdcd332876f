# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations as whoever does not live in the supervisor's asyncio loop sees them: as futures."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from domward.protocol.errors import DomwardError, UsageError
from domward.protocol.fds import Fd

from .bootloader import BootRequest, BootResult, InspectResult
from .forks import Birthplace
from .operations import Operation
from .supervisor import Supervisor

ResultT = TypeVar("ResultT")

Post = Callable[[Callable[[], None]], None]
Progress = Callable[[str], None]


class HostedOperation(concurrent.futures.Future[ResultT]):
    """An operation that was asked for: its result, or its error, once everything that it held is released.

    A `concurrent.futures.Future` but for `cancel`, which asks the operation to end: its completion, OperationCancelled
    unless it was ending anyway, still comes once it has. `result` is the receiver's, who closes it.
    """

    def __init__(self, post: Post) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()  # from here on no `cancel` of Future's completes it by itself
        self._post = post
        self._birthplace = Birthplace()
        self._operation: Operation[ResultT] | None = None

    def cancel(self) -> bool:
        """Asks the operation to end; False where it is done already. Raises UsageError as its supervisor does."""
        self._birthplace.require("The operation")
        if self.done():
            return False
        self._post(self._cancel)
        return True

    def result(self, timeout: float | None = None) -> ResultT:
        """As Future's. Raises UsageError in a forked child, where nothing would ever complete it."""
        self._birthplace.require("The operation")
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As Future's. Raises UsageError as `result`."""
        self._birthplace.require("The operation")
        return super().exception(timeout)

    def begin(self, make: Callable[[], Operation[ResultT]], on_progress: Progress | None) -> None:
        """Starts the operation; called once, in the supervisor's loop."""
        try:
            self._operation = make()
        except DomwardError as error:
            self.set_exception(error)
            return
        if on_progress is not None:
            self._operation.on_progress(on_progress)
        self._operation.on_done(self._complete)
        self._operation.start()

    def _cancel(self) -> None:
        if self._operation is not None:
            self._operation.cancel()

    def _complete(self, operation: Operation[ResultT]) -> None:
        try:
            result = operation.result()
        except DomwardError as error:
            self.set_exception(error)
        else:
            self.set_result(result)


class Asking:
    """What hosted supervisors share: the `with` block, and the calls that give a HostedOperation.

    `_post` has something called in the supervisor's loop.
    """

    _supervisor: Supervisor
    _birthplace: Birthplace

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._birthplace.here:  # a forked child that leaves the block has nothing to close
            self.close()

    def open(self) -> None:
        """Each host's own."""
        raise NotImplementedError

    def close(self) -> None:
        """Each host's own."""
        raise NotImplementedError

    def run_bootloader(self, request: BootRequest, on_progress: Progress | None = None) -> HostedOperation[BootResult]:
        """Asks for what boots from `request.disk`; see `Supervisor.run_bootloader` for the result and the errors.

        `on_progress` is called with each step's name.
        """
        if not isinstance(request, BootRequest):
            raise UsageError(f"request must be a BootRequest, not {type(request).__name__}.")
        return self._ask(lambda: self._supervisor.bootloader_operation(request), on_progress)

    def inspect(
        self, disk: Path | Fd, image_format: str | None = None, on_progress: Progress | None = None
    ) -> HostedOperation[InspectResult]:
        """Asks for the volumes and boot entries of `disk`; see `Supervisor.inspect`."""
        BootRequest(disk=disk, image_format=image_format)  # the same arguments, the same check
        return self._ask(lambda: self._supervisor.inspect_operation(disk, image_format), on_progress)

    def _ask(self, make: Callable[[], Operation[ResultT]], on_progress: Progress | None) -> HostedOperation[ResultT]:
        operation: HostedOperation[ResultT] = HostedOperation(self._post)
        self._post(partial(operation.begin, make, on_progress))
        return operation

    def _post(self, call: Callable[[], None]) -> None:
        raise NotImplementedError
