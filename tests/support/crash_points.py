# SPDX-License-Identifier: GPL-3.0-or-later
"""The moments of an operation's life, each seen exactly when it is the case, so that a test can act there.

`watched()` hooks the program's own state changes: what a test does at a moment happens before the supervisor does
anything else, and nothing ever waits for time to pass. A moment's name is made of the state tables' own values:

    operation STATE        OperationState
    step NAME              what the operation reports, ReadStep among it
    disk open              the disk was opened
    KIND STATE             HelperState of a helper of that HelperKind
    KIND asked             the launcher is about to be asked for it
    KIND made              the launcher has made it
    KIND sent MESSAGE      the supervisor has received that message, with the step where it is progress
    sealed SINK            the sink is final and checked
    hashed SINK            its hash is known

Each counts once in a life, the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from domward.protocol.fds import Fd
from domward.protocol.messages import HelperKind, Progress
from domward.supervisor import (
    BootRequest,
    Config,
    Console,
    Operation,
    OperationState,
    Supervisor,
    bootloader,
    operations,
)
from domward.supervisor.helper import Helper


@dataclass(eq=False)
class Life:
    """One operation and what was seen of it; `action` is called at the moment `at`."""

    at: str = ""
    action: Callable[[Life], None] = lambda _life: None
    seen: list[str] = field(default_factory=list)
    completions: int = 0
    late_progress: list[str] = field(default_factory=list)
    helpers: dict[HelperKind, Helper] = field(default_factory=dict)
    _operation: Operation[Any] | None = None
    _caller: asyncio.Task[Any] | None = None

    @property
    def operation(self) -> Operation[Any]:
        assert self._operation is not None
        return self._operation

    @property
    def caller(self) -> asyncio.Task[Any]:
        """Who waits for the result."""
        assert self._caller is not None
        return self._caller

    def meet(self, moment: str) -> None:
        if moment not in self.seen:
            self.seen.append(moment)
            if moment == self.at:
                self.action(self)

    def hasten(self, seconds: float) -> None:
        """Has the operation's wall-clock budget run out `seconds` from now, unless it is ending."""
        timeout = _TIMEOUTS.get(self.operation.id)
        if timeout is None:
            self.operation._seconds = seconds
        elif self.operation.state is OperationState.RUNNING:
            timeout.reschedule(asyncio.get_running_loop().time() + seconds)

    async def live(self, operation: Operation[Any]) -> Any:
        """The operation, from new to its completion, as the caller's task."""
        self._operation, self._caller = operation, asyncio.current_task()
        operation.on_progress(self._progress)
        operation.on_done(self._done)
        _LIVES[operation.id] = self
        try:
            self.meet(f"operation {OperationState.NEW.value}")
            return await (operation.complete() if operation.state is OperationState.NEW else operation.wait())
        finally:
            del _LIVES[operation.id]
            _TIMEOUTS.pop(operation.id, None)

    def _progress(self, step: str) -> None:
        if self.completions or operation_over(self.operation):
            self.late_progress.append(step)
        self.meet(f"step {step}")

    def _done(self, _operation: Operation[Any]) -> None:
        self.completions += 1


def operation_over(operation: Operation[Any]) -> bool:
    return operation.state in (OperationState.ENDING, OperationState.DONE)


_LIVES: dict[str, Life] = {}
_TIMEOUTS: dict[str, asyncio.Timeout] = {}


def _meet(operation: str, moment: str) -> None:
    if operation in _LIVES:
        _LIVES[operation].meet(moment)


def _own_operation() -> str:
    task = asyncio.current_task()
    return task.get_name() if task else ""


class _Asyncio:
    """asyncio as the operations' module sees it, which notes their time-outs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        made = asyncio.timeout(seconds)
        if _own_operation() in _LIVES:
            _TIMEOUTS[_own_operation()] = made
        return made


def _helper_set(helper: Helper, name: str, value: Any) -> None:
    object.__setattr__(helper, name, value)
    kind = helper.kind.value
    if name == "state":
        if helper.operation in _LIVES:
            _LIVES[helper.operation].helpers[helper.kind] = helper
        _meet(helper.operation, f"{kind} {value.value}")
    elif name == "_requested" and value:
        _meet(helper.operation, f"{kind} asked")
    elif name == "_child" and value is not None:
        _meet(helper.operation, f"{kind} made")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Lets `Life` see the moments meanwhile."""
    helper_init, helper_next, open_disk, seal, hash_of = (
        Helper.__init__,
        Helper._next,
        bootloader.open_disk_in_thread,
        bootloader.seal,
        bootloader._Hashing.of,
    )

    def operation_set(operation: Operation[Any], name: str, value: object) -> None:
        object.__setattr__(operation, name, value)
        if name == "state" and isinstance(value, OperationState):
            moment = f"operation {value.value}"
            if value is OperationState.RUNNING:  # nobody can act within `start`: the earliest is after it
                asyncio.get_running_loop().call_soon(_meet, operation.id, moment)
            else:
                _meet(operation.id, moment)

    def helper_made(helper: Helper, *given: Any, **by_name: Any) -> None:
        helper_init(helper, *given, **by_name)  # sets what it begins with by the slots' own means
        _helper_set(helper, "state", helper.state)

    async def next_message(helper: Helper) -> Any:
        received = await helper_next(helper)
        message = received.message
        what = f"{message.NAME} {message.step.value}" if isinstance(message, Progress) else message.NAME
        _meet(helper.operation, f"{helper.kind.value} sent {what}")
        return received

    async def opened(disk: Path) -> Fd:
        fd = await open_disk(disk)
        _meet(_own_operation(), "disk open")
        return fd

    def sealed(sink: Fd, *rest: Any) -> None:
        seal(sink, *rest)
        _meet(_own_operation(), f"sealed {sink.name}")

    async def hashed(hashing: Any, sink: Fd, size: int) -> str:
        found = await hash_of(hashing, sink, size)
        _meet(_own_operation(), f"hashed {sink.name}")
        return found

    with contextlib.ExitStack() as patches:
        for target, name, new in (
            (Operation, "__setattr__", operation_set),
            (operations, "asyncio", _Asyncio()),
            (Helper, "__init__", helper_made),
            (Helper, "__setattr__", _helper_set),
            (Helper, "_next", next_message),
            (bootloader, "open_disk_in_thread", opened),
            (bootloader, "seal", sealed),
            (bootloader._Hashing, "of", hashed),
        ):
            patches.enter_context(mock.patch.object(target, name, new))
        yield


class Person:
    """Somebody at the master side of a pty, who has pressed `keys` and looks at what is shown."""

    def __init__(self, keys: bytes) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        os.write(self._master, keys)
        asyncio.get_running_loop().add_reader(self._master, os.read, self._master, 65536)
        self.console = Console(self._slave, self._slave)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)


@dataclass(frozen=True)
class Variant:
    """A kind of operation with one way to end.

    `program` is run instead of the built-in reader, `planted` in the launcher (`support.planted`). A variant that is
    `like` another one has cells only for those moments that the other one does not have.
    """

    name: str
    inspects: bool = False
    keys: bytes = b""
    disk: str = "good"
    program: str = ""
    planted: str = ""
    like: str = ""

    @property
    def has_console(self) -> bool:
        """Whether a pty and a relay take part."""
        return bool(self.keys or self.program)

    @contextlib.contextmanager
    def operation(self, supervisor: Supervisor, folder: Path) -> Iterator[Operation[Any]]:
        """A new operation on one of the disks in `folder`."""
        disk = folder / self.disk
        if self.inspects:
            yield supervisor.inspect_operation(disk)
        elif self.program:
            yield supervisor.bootloader_operation(BootRequest(disk=disk, bootloader=folder / self.program))
        elif not self.keys:
            yield supervisor.bootloader_operation(BootRequest(disk=disk))
        else:
            with contextlib.closing(Person(self.keys)) as person:
                yield supervisor.bootloader_operation(BootRequest(disk=disk, console=person.console))


#: The lives that differ from each other; the other variants are ways in which one of them ends.
LIVES = ("boot", "menu", "inspect", "program")

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("boot"),
        Variant("menu", keys=b"\r"),
        Variant("inspect", inspects=True),
        Variant("program", program="program", like="menu"),
        Variant("program-that-fails", program="program-that-fails", like="program"),
        Variant("boot-of-a-bad-disk", disk="bad", like="boot"),
        Variant("inspect-of-a-bad-disk", inspects=True, disk="bad", like="inspect"),
        Variant("menu-left", keys=b"q", like="menu"),
        *(
            Variant(
                f"{name}-where-the-{kind.value}-logs-and-fails",
                inspects=name == "inspect",
                keys=keys,
                program="program" if name == "program" else "",
                like=name,
                planted=(
                    "def fails(channel):\n"
                    "    channel.receive((ReadBoot, InspectBoot, OpenPtys, Copy, RunProgram))\n"
                    "    channel.send(Log(level=LogLevel.INFO, line='about to fail'))\n"
                    f"    {'channel.send(DiskRemark(what=str()))' if name == 'inspect' else 'pass'}\n"
                    "    raise OSError(errno.EIO, 'Input/output error')\n"
                    f"launcher._RUN[HelperKind.{kind.name}] = fails"
                ),
            )
            for name, keys, kind in (
                ("boot", b"", HelperKind.BOOTLOADER),
                ("menu", b"\r", HelperKind.PTY),
                ("menu", b"\r", HelperKind.DATACOPIER),
                ("inspect", b"", HelperKind.BOOTLOADER),
                ("program", b"", HelperKind.PROGRAM),
            )
        ),
        *(
            Variant(
                f"{name}-where-the-{kind.value}-is-not-confined",
                keys=keys,
                program="program" if name == "program" else "",
                like=name,
                planted=(
                    "confine = launcher.confine\n"
                    "def fails(request, *rest):\n"
                    f"    if request.kind is HelperKind.{kind.name}:\n"
                    "        raise confinement.StepError('planted', errno.EPERM)\n"
                    "    return confine(request, *rest)\n"
                    "launcher.confine = fails"
                ),
            )
            for name, keys, kind in (
                ("boot", b"", HelperKind.BOOTLOADER),
                ("menu", b"\r", HelperKind.PTY),
                ("menu", b"\r", HelperKind.DATACOPIER),
                ("program", b"", HelperKind.PROGRAM),
            )
        ),
    )
}


async def recorded(variant: Variant, config: Config, folder: Path) -> tuple[list[str], object]:
    """The moments of an undisturbed life, in order, and its result or error; a result is closed already."""
    life = Life()
    async with Supervisor(config) as supervisor:
        with variant.operation(supervisor, folder) as operation:
            (ending,) = await asyncio.gather(life.live(operation), return_exceptions=True)
    if hasattr(ending, "close"):
        ending.close()
    return life.seen, ending
