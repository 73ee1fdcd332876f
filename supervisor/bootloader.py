# SPDX-License-Identifier: GPL-3.0-or-later
"""The bootloader operation: from a guest's disk to a sealed kernel and ramdisk, or to a list of what could boot.

In the order of time: open the disk (read-only) and the sinks; with a console: pty, relay; bootloader helper, confined
and verified; its answer; its death; sinks checked, sealed, hashed; result. Any helper's death, any violation, the
time-out, a cancel or the loss of the console ends it early, and everything is released.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import DiskError, OperationCancelled, ProtocolViolation, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.messages import (
    BootRead,
    Copied,
    CopySide,
    DiskFailed,
    DiskRemark,
    EntryFound,
    HelperKind,
    InspectBoot,
    Inspected,
    MenuLeft,
    ProgramFailed,
    ProgramRan,
    Progress,
    ReadBoot,
    ReadStep,
    VolumeFound,
)
from domward.protocol.records import frozen, names_of

from . import arguments, programs
from .audit.record import Actor, Detail, Domain, Event
from .console import Console
from .disk_nodes import attach
from .disks import check_disk
from .helper import Helper, HelperHost
from .helper_states import HelperState
from .logs import open_log
from .opening import close_disk, in_thread, open_disk_in_thread
from .operations import Operation
from .ptys import open_ptys
from .relay import Relay, ended_early
from .resizing import Resizing
from .sinks import SealedFile, freeze_in_thread, hash_sealed, open_sink, seal
from .verification import Verified

_NO_TIMEOUT_GIVEN = -1
_NO_OFFSET = -1
_NO_CONSOLE = (80, 24)  # columns and rows of a terminal that nobody looks at

#: What a helper that delivers kernel and ramdisk may answer, but for an error.
Answer = BootRead | ProgramRan | ProgramFailed


@frozen(kw_only=True)
class BootRequest:
    """What to boot from.

    `disk` is a path that the caller may read, or an open fd that stays the caller's. `entry` is a number from 0, a
    title, an id or "submenu>title", as bytes; None takes the disk's default. `args` replaces the entry's arguments,
    and `extra` is appended to them, each at most limits.CMDLINE_BYTES. With `kernel`, a path on the disk, that file and
    `ramdisk` are taken instead of an entry's, with `args` and `extra` alone. `offset` is the byte where the one file
    system to look at begins; None looks at every partition. `image_format` None recognises raw and qcow2. With a
    `console` a menu is shown there for `menu_timeout` seconds (None: as the disk says); where the disk says to show
    none it is shown all the same, unless `may_skip_menu`. `actor` is who asks, for the audit log, None for this
    process; `domain` is what it is for, where that is known.

    `bootloader` is "builtin", the reader; "pygrub"; or the Path of a program that keeps libxl's contract. A program
    gets `entry`, `args`, `kernel`, `ramdisk` and `offset` as options, and `bootloader_args` besides; it reads raw disks
    only, and times its menu itself.
    """

    disk: Path | Fd
    bootloader: str | Path = programs.BUILTIN
    bootloader_args: tuple[bytes, ...] = ()
    entry: bytes | None = None
    args: bytes | None = None
    extra: bytes | None = None
    kernel: bytes | None = None
    ramdisk: bytes | None = None
    offset: int | None = None
    image_format: str | None = None
    console: Console | None = None
    menu_timeout: int | None = None
    may_skip_menu: bool = False
    actor: Actor | None = None
    domain: Domain | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.disk, Path | Fd):
            raise UsageError(f"disk must be a Path or an Fd, not {type(self.disk).__name__}.")
        if self.entry is not None:
            arguments.entry(self.entry)
        if self.args is not None:
            arguments.kernel_arguments(self.args)
        if self.extra is not None:
            arguments.kernel_arguments(self.extra)
        self._check_files()
        if self.image_format not in (None, *arguments.IMAGE_FORMATS):
            known = ", ".join(arguments.IMAGE_FORMATS)
            raise UsageError(f"image_format must be one of {known}, not {self.image_format!r}.")
        if self.console is not None and not isinstance(self.console, Console):
            raise UsageError(f"console must be a Console, not {type(self.console).__name__}.")
        if self.menu_timeout is not None and type(self.menu_timeout) is not int:
            raise UsageError(f"menu_timeout must be an integer, not {type(self.menu_timeout).__name__}.")
        if self.menu_timeout is not None and not 0 <= self.menu_timeout <= 86_400:
            raise UsageError("menu_timeout must be 0 to 86400 seconds.")
        if self.runs_program:
            programs.check_request(self.bootloader_args, self.entry)
            if self.image_format not in (None, "raw"):
                raise UsageError(f"A bootloader program reads raw disks only, not {self.image_format}.")
            if self.menu_timeout is not None or self.extra is not None:
                raise UsageError("A bootloader program takes no extra and no menu_timeout.")
        elif self.bootloader_args:
            raise UsageError("The built-in bootloader takes no bootloader_args.")
        if not isinstance(self.actor, Actor | None) or not isinstance(self.domain, Domain | None):
            raise UsageError("actor must be an Actor, and domain a Domain, or None.")

    @property
    def runs_program(self) -> bool:
        """Whether a program is run and not the built-in reader. Raises UsageError where it is neither's name."""
        return programs.is_program(self.bootloader)

    def described(self) -> Detail:
        """What the audit log holds of it: every member, by its name."""
        told = {name: getattr(self, name) for name in names_of(self) if name not in ("actor", "domain")}
        disk = self.disk.name if isinstance(self.disk, Fd) else self.disk
        return told | {"disk": disk, "console": self.console is not None}

    def _check_files(self) -> None:
        for name in ("kernel", "ramdisk"):
            if (path := getattr(self, name)) is not None:
                arguments.guest_path(name, path)
        if self.offset is not None and (type(self.offset) is not int or not 0 <= self.offset < 2**63):
            raise UsageError("offset must be a number of bytes from 0 on.")
        if self.runs_program:
            return
        if self.ramdisk is not None and self.kernel is None:
            raise UsageError("A ramdisk is named on the disk only together with a kernel.")
        if self.kernel is not None and (self.entry is not None or self.console is not None):
            raise UsageError("With a kernel named on the disk there is neither an entry nor a menu.")


@frozen(kw_only=True)
class BootResult:
    """What boots. The memfds are the receiver's; `close` closes them. `log` is what the console showed.

    `log_path` is where that is kept, with a `Config.log_directory`.
    """

    operation: str
    title: bytes
    args: bytes
    source: str
    kernel: SealedFile
    ramdisk: SealedFile | None
    helpers: tuple[Verified, ...]
    log: bytes = b""
    log_path: Path | None = None

    def close(self) -> None:
        """Closes the kernel and the ramdisk."""
        self.kernel.close()
        if self.ramdisk is not None:
            self.ramdisk.close()


@frozen(kw_only=True)
class InspectResult:
    """What a disk holds. `problem` says why no entry can boot by default, if so, and `reason` is its code."""

    operation: str
    image_format: str
    volumes: tuple[VolumeFound, ...]
    remarks: tuple[str, ...]
    entries: tuple[EntryFound, ...]
    default: int
    source: str
    reason: str
    problem: str


class BootloaderOperations:
    """The bodies of the two operations, for one supervisor; `hashing` runs the hashes off the event loop."""

    def __init__(self, hashing: Executor) -> None:
        self._hashing = hashing

    async def run(self, operation: Operation[BootResult], host: HelperHost, request: BootRequest) -> BootResult:
        """Body of the operation that delivers a kernel."""
        scope = operation.scope
        operation.report("disk")
        disk = await _disk_of(operation, request.disk)
        kernel = scope.enter_context(open_sink("kernel"))
        ramdisk = scope.enter_context(open_sink("ramdisk"))
        session = _Session(operation, host)
        budgets = host.config.budgets
        hashing = _Hashing(operation, self._hashing)
        if request.runs_program:
            reader, answer, log = await _run_program(operation, session, request, [disk, kernel, ramdisk])
        else:
            fds = [disk, kernel, ramdisk]
            if request.console is not None:
                fds.append(await session.open_console(request.console))
            reader = await session.start(HelperKind.BOOTLOADER, max(budgets.kernel_bytes, budgets.ramdisk_bytes))
            await reader.order(HelperState.READING, _order(request, host), fds)
            found = await session.read_answer(
                reader, fds[3:], lambda: hashing.begin(kernel, budgets.kernel_bytes, reader)
            )
            assert isinstance(found, BootRead)
            answer = found
            await reader.ended()
            log = await session.finish_console()
        operation.report("hash")
        helper = reader.name
        await reader.close()
        seal(kernel, answer.kernel_bytes, budgets.kernel_bytes, helper)
        seal(ramdisk, answer.ramdisk_bytes, budgets.ramdisk_bytes, helper)
        ramdisk_hash = await hashing.of(ramdisk, answer.ramdisk_bytes)
        kernel_hash = await hashing.of(kernel, answer.kernel_bytes)
        with ExitStack() as unless_whole:
            files = {
                sink: SealedFile(unless_whole.enter_context(Fd(sink.detach(), name)), size, sha256)
                for sink, name, size, sha256 in (
                    (kernel, "kernel", answer.kernel_bytes, kernel_hash),
                    (ramdisk, "ramdisk", answer.ramdisk_bytes, ramdisk_hash),
                )
                if sink is kernel or size
            }
            result = BootResult(
                operation=operation.id,
                title=answer.title,
                args=answer.args,
                source=answer.source,
                kernel=files[kernel],
                ramdisk=files.get(ramdisk),
                helpers=session.verified(),
                log=log,
                log_path=session.log_path,
            )
            host.trail.note(Event.RESULT, _delivered(result))
            unless_whole.pop_all()
            return result

    async def inspect(
        self, operation: Operation[InspectResult], host: HelperHost, disk: Path | Fd, image_format: str | None
    ) -> InspectResult:
        """Body of the operation that lists what could boot."""
        operation.report("disk")
        fd = await _disk_of(operation, disk)
        reader = await _Session(operation, host).start(HelperKind.BOOTLOADER, 0)
        await reader.order(HelperState.INSPECTING, InspectBoot(image_format=image_format), [fd])
        volumes: list[VolumeFound] = []
        remarks: list[str] = []
        entries: list[EntryFound] = []
        while True:
            message = (await reader.receive()).message
            if isinstance(message, VolumeFound):
                volumes.append(message)
            elif isinstance(message, DiskRemark):
                remarks.append(printable(message.what))
            elif isinstance(message, EntryFound):
                entries.append(message)
            elif isinstance(message, Progress):
                operation.report(message.step.value)
            elif isinstance(message, DiskFailed):
                await reader.ended()
                raise DiskError(message.reason, message.what, advice=message.advice)
            else:
                assert isinstance(message, Inspected)
                await reader.ended()
                host.trail.note(
                    Event.RESULT,
                    {
                        "format": message.image_format,
                        "volumes": len(volumes),
                        "entries": len(entries),
                        "source": message.source,
                        "reason": message.reason or None,
                    },
                )
                return InspectResult(
                    operation=operation.id,
                    image_format=message.image_format,
                    volumes=tuple(volumes),
                    remarks=tuple(remarks),
                    entries=tuple(entries),
                    default=message.default,
                    source=message.source,
                    reason=message.reason,
                    problem=message.problem,
                )


def _delivered(result: BootResult) -> Detail:
    ramdisk = result.ramdisk
    return {
        "title": result.title,
        "args": result.args,
        "source": result.source,
        "kernel": {"bytes": result.kernel.size, "sha256": result.kernel.sha256},
        "ramdisk": {"bytes": ramdisk.size, "sha256": ramdisk.sha256} if ramdisk else None,
    }


async def _run_program(
    operation: Operation[BootResult], session: _Session, request: BootRequest, fds: list[Fd]
) -> tuple[Helper, BootRead, bytes]:
    """Runs a program on a disk, for two sinks; returns its helper, which is dead, its answer, and what it showed."""
    disk, *sinks = fds
    program = await in_thread(lambda: programs.find_program(request.bootloader), programs.Program.close)
    operation.scope.callback(program.close)
    slave = await session.open_console(request.console)
    budgets = session.host.config.budgets
    helper = await session.start(HelperKind.PROGRAM, budgets.kernel_bytes + budgets.ramdisk_bytes)
    operation.report("program")
    await attach(session.host, helper, disk, program.file, operation.scope)
    options = (
        ("kernel", request.kernel),
        ("ramdisk", request.ramdisk),
        ("args", request.args),
        ("entry", request.entry),
        ("offset", None if request.offset is None else b"%d" % request.offset),
    )
    order = programs.run_order(program, budgets, options, request.bootloader_args)
    await helper.order(HelperState.RUNNING, order, [*sinks, slave])
    answer = await session.read_answer(helper, [slave], _no_kernel_yet)
    await helper.ended()
    log = await session.finish_console()
    if isinstance(answer, ProgramFailed):
        raise programs.failure(answer, program, log)
    assert isinstance(answer, ProgramRan)
    read = BootRead(
        title=b"",
        args=answer.args,
        kernel_bytes=answer.kernel_bytes,
        ramdisk_bytes=answer.ramdisk_bytes,
        source=f"program:{printable(program.name)}",
    )
    return helper, read, log


async def _no_kernel_yet() -> None:
    """A program's kernel is looked at once it is dead, and not before."""


async def _disk_of(operation: Operation[BootResult] | Operation[InspectResult], disk: Path | Fd) -> Fd:
    if isinstance(disk, Fd):
        await in_thread(lambda: _check_given(disk), lambda _checked: None)  # a file server answers, or does not
        return disk
    opened = await open_disk_in_thread(disk)
    operation.scope.push_async_callback(close_disk, opened)
    return opened


def _check_given(disk: Fd) -> None:
    """Whether a caller's fd may go to a helper: a disk, and opened for reading only. Raises DiskError, UsageError."""
    # An O_PATH fd is no proof that its owner may read the file; a helper might find a way from it to one that can.
    if fcntl.fcntl(disk, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) != os.O_RDONLY:
        raise UsageError("The disk's fd must be opened for reading only.")
    check_disk(disk)


def _order(request: BootRequest, host: HelperHost) -> ReadBoot:
    console = request.console
    return ReadBoot(
        entry=request.entry,
        args=request.args,
        extra=request.extra,
        kernel=request.kernel,
        ramdisk=request.ramdisk,
        offset=_NO_OFFSET if request.offset is None else request.offset,
        image_format=request.image_format,
        kernel_bytes=host.config.budgets.kernel_bytes,
        ramdisk_bytes=host.config.budgets.ramdisk_bytes,
        interactive=request.console is not None,
        columns=console.columns if console else 80,
        rows=console.rows if console else 24,
        menu_timeout=_NO_TIMEOUT_GIVEN if request.menu_timeout is None else request.menu_timeout,
        may_skip_menu=request.may_skip_menu,
    )


class _Hashing:
    """The hashes of one operation's sinks, in threads; each ends before the operation's sinks are closed."""

    def __init__(self, operation: Operation[BootResult], executor: Executor) -> None:
        self._operation = operation
        self._executor = executor
        self._running: dict[Fd, asyncio.Future[str]] = {}

    async def begin(self, sink: Fd, limit: int, reader: Helper) -> None:
        """Freezes a sink that `reader` has turned away from and starts on it, once. Raises ProtocolViolation."""
        if sink in self._running:
            return
        freezing = asyncio.ensure_future(freeze_in_thread(sink, reader.name))
        self._operation.scope.push_async_callback(self._given_up, freezing)
        size = await asyncio.shield(freezing)
        if size > limit:
            raise ProtocolViolation(f"The {sink.name} has {size} bytes; {limit} are allowed.", helper=reader.name)
        self._start(sink, size)

    async def _given_up(self, freezing: asyncio.Future[int]) -> None:
        """Lets a seal be that still waits for a helper to write; any other has its moment to come to an end."""
        await asyncio.wait([freezing], timeout=limits.KILL_SECONDS)
        freezing.cancel()
        await asyncio.gather(freezing, return_exceptions=True)

    def _start(self, sink: Fd, size: int) -> asyncio.Future[str]:
        future = asyncio.get_running_loop().run_in_executor(self._executor, hash_sealed, sink, size)
        self._running[sink] = future
        self._operation.scope.push_async_callback(asyncio.wait, [future])
        return future

    async def of(self, sink: Fd, size: int) -> str:
        """The hash of a sealed sink of `size` bytes."""
        return await asyncio.shield(self._running.get(sink) or self._start(sink, size))


class _Session:
    """The helpers of one operation, each owned by the operation's scope."""

    def __init__(self, operation: Operation[BootResult] | Operation[InspectResult], host: HelperHost) -> None:
        self._operation = operation
        self.host = host
        self._helpers: list[Helper] = []
        self._relay: Relay | None = None
        self.log_path: Path | None = None
        self._relay_end: asyncio.Task[Copied] | None = None
        self._resizing: Resizing | None = None

    def verified(self) -> tuple[Verified, ...]:
        return tuple(helper.verified for helper in self._helpers if helper.verified is not None)

    async def start(self, kind: HelperKind, file_bytes: int) -> Helper:
        self._operation.report("helper")
        reader = Helper(kind, self._operation.id, self.host)
        self._operation.scope.push_async_callback(reader.close)
        await reader.start(file_bytes)
        self._helpers.append(reader)
        return reader

    async def open_console(self, console: Console | None) -> Fd:
        """Pty and relay, to nothing but the log without a `console`; returns the slave for the bootloader."""
        self._operation.report("console")
        scope = self._operation.scope
        directory, log = self.host.config.log_directory, None
        if directory is not None:
            kept = open_log(directory, self._operation.id, self.host.config.logs_kept)
            scope.callback(kept.close)
            self.log_path, log = kept.path, kept.fd
        size = (console.columns, console.rows) if console else _NO_CONSOLE
        (pty,) = await open_ptys(self.host, self._operation.id, 1, *size)
        scope.callback(pty.close)
        self._relay = Relay(self.host, self._operation.id)
        scope.push_async_callback(self._relay.close)
        await self._relay.start(pty.master, console, log)
        self._helpers.append(self._relay.helper)
        self._relay_end = asyncio.create_task(self._relay.wait())
        if console is None:
            pty.master.close()  # the relay has its own: its last reader must be able to see a hang-up
        else:
            self._resizing = resizing = Resizing(console, pty, size)
            scope.callback(resizing.end)
            self._relay_end.add_done_callback(lambda _ended: resizing.end())
        scope.push_async_callback(self._settle_console, self._relay, self._relay_end, pty.slave)
        return pty.slave

    async def _settle_console(self, relay: Relay, ending: asyncio.Task[Copied], slave: Fd) -> None:
        """At the end, however it came: lets the relay log what a bootloader that is gone had still shown."""
        slave.close()
        grace = self.host.config.budgets.term_grace_seconds
        if not (await asyncio.wait([ending], timeout=grace))[0]:
            relay.stop()
            await asyncio.wait([ending], timeout=grace)
        await _cancel(ending)

    async def read_answer(self, reader: Helper, given: list[Fd], on_kernel: Callable[[], Awaitable[None]]) -> Answer:
        """The reader's answer; `given` are fds that only the reader shall hold from now on.

        `on_kernel` is awaited when the reader says that it is done with the kernel and turns to the ramdisk.
        """
        for fd in given:
            fd.close()
        answer = asyncio.create_task(self._answer(reader, on_kernel))
        waited = [answer] if self._relay_end is None else [answer, self._relay_end]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._relay_end is None or (answer.done() and answer.exception() is None):
                return answer.result()
            if reader.kind is HelperKind.PROGRAM and not answer.done() and _by_bootloader(self._relay_end):
                # The terminal hangs up as the program ends; what it has left is still to be collected.
                await asyncio.wait([answer])
                return answer.result()
            # Reader and relay hold the two ends of one pty, so the end of one soon ends the other: the cause is the
            # console or the relay itself where the relay says so, and otherwise what the reader says.
            await asyncio.wait(waited, timeout=self.host.config.budgets.term_grace_seconds)
            if self._relay_end.done() and self._relay_end.result().side is not CopySide.BOOTLOADER:
                raise ended_early(self._relay_end.result())
            if answer.done():
                return answer.result()
            raise ended_early(self._relay_end.result())
        finally:
            await _cancel(answer)

    async def _answer(self, reader: Helper, on_kernel: Callable[[], Awaitable[None]]) -> Answer:
        while True:
            message = (await reader.receive()).message
            if isinstance(message, Progress):
                self._operation.report(message.step.value)
                if self._resizing is not None and message.step is ReadStep.MENU:
                    self._resizing.menu_begins(reader)
                elif self._resizing is not None:
                    self._resizing.menu_ends()
                if message.step is ReadStep.RAMDISK:
                    await on_kernel()
            elif isinstance(message, DiskFailed):
                await reader.ended()
                raise DiskError(message.reason, message.what, advice=message.advice)
            elif isinstance(message, MenuLeft):
                await reader.ended()
                raise OperationCancelled("The menu was left without a choice.")
            else:
                assert isinstance(message, BootRead | ProgramRan | ProgramFailed)
                return message

    async def finish_console(self) -> bytes:
        if self._relay is None or self._relay_end is None:
            return b""
        log = await self._relay.finish(self._relay_end)
        self.host.trail.note(
            Event.BOOTLOADER_OUTPUT,
            {"bytes": len(log), "sha256": sha256(log).hexdigest(), "file": self.log_path},
        )
        return log


def _by_bootloader(relay_end: asyncio.Task[Copied]) -> bool:
    return relay_end.exception() is None and relay_end.result().side is CopySide.BOOTLOADER


async def _cancel(task: asyncio.Task[Copied] | asyncio.Task[Answer]) -> None:
    if not task.done():
        task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # looked at: who needed it has it already
