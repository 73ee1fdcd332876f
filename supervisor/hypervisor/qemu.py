# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests in qemu: the delivered kernel is booted directly, for machines without Xen.

A guest is one process, confined as `helpers/emulator` says, with a uid of its own, no network, and nothing but fds: the
sealed kernel and ramdisk, its disks, its console and its monitor. It has virtio disks (vda, vdb, ... in the order of
the configuration) and one console: hvc0 where the command line says console=hvc0, as Xen's guests do, else the serial
port, and then "console=ttyS0" is appended unless the command line names a console.

The accelerator is KVM where that works, else qemu's own translation: a KVM that qemu ends with before its first word
(nested, half there) does not work. Facts: qemu(1), docs/interop/qmp-spec.rst and qapi/run-state.json of qemu 5.2 on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from domward.protocol import limits
from domward.protocol.errors import ConfinementUnavailable, HypervisorError, OperationFailed, UsageError
from domward.protocol.fds import Fd
from domward.protocol.guests import Death
from domward.protocol.layers import Layer

from .. import paths
from ..audit.record import Detail
from ..config import Accelerator
from ..endings import to_its_end
from ..helper import HelperHost
from .emulator import Emulator, first_fd
from .interface import BootFiles, GuestDescription, GuestDisk
from .qmp import Qmp

_LOG = logging.getLogger("domward.qemu")

#: Layers that stand alone between an emulator and what they keep it from, so that none is optional here.
_NEEDED = frozenset({Layer.USER, Layer.GROUPS, Layer.LANDLOCK, Layer.CAPABILITIES, Layer.NO_NEW_PRIVS})

#: ShutdownCause of qemu's qapi/run-state.json; every other reason is the host's.
_DEATHS = {
    "guest-shutdown": Death.POWEROFF,
    "guest-reset": Death.REBOOT,
    "guest-panic": Death.CRASH,
    "subsystem-reset": Death.REBOOT,
}
_CONSOLE = b"console="
_XEN_CONSOLE, _SERIAL_CONSOLE = b"console=hvc0", b"console=ttyS0"
# Translated code is mapped twice, to be written and to be executed: the daemon's unit denies memory that is for both.
_ACCEL = {Accelerator.KVM: "kvm", Accelerator.TCG: "tcg,split-wx=on"}
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class QemuBackend:
    """The backend; see `interface.Backend`."""

    name = "qemu"
    opens_paths = False

    def __init__(self, accelerator: Accelerator = Accelerator.AUTO) -> None:
        self._accelerator = accelerator

    def check(self, description: GuestDescription) -> None:
        """As `interface.Backend.check`."""
        if any(disk.fd is None for disk in description.disks):
            raise UsageError("qemu is given its disks as descriptors, not as paths.")
        self._program()

    async def build(
        self, host: HelperHost, operation: str, description: GuestDescription, boot: BootFiles
    ) -> QemuGuest:
        """As `interface.Backend.build`."""
        del operation
        absent = sorted(layer.value for layer in _NEEDED & host.without)
        if absent:
            raise ConfinementUnavailable(
                f"qemu cannot be confined here without {', '.join(absent)}.", advice="See 'domward doctor'."
            )
        program = self._program()
        accelerators = self._accelerators()
        for accelerator in accelerators:
            guest = QemuGuest(host, accelerator)
            try:
                await guest.start(program, description, boot)
                return guest
            except HypervisorError as error:
                await to_its_end(guest.destroy())
                if accelerator is accelerators[-1] or guest.spoke:
                    raise
                _LOG.warning("KVM does not work here, so this guest does without: %s", error)
            except BaseException:
                await to_its_end(guest.destroy())
                raise
        raise AssertionError("there is always one accelerator")

    def _program(self) -> Path:
        for program in paths.QEMU:
            if program.exists():
                return program
        raise OperationFailed("There is no qemu-system-x86_64 on this host.", advice="Install qemu-system-x86.")

    def _accelerators(self) -> Sequence[Accelerator]:
        if self._accelerator is not Accelerator.AUTO:
            return (self._accelerator,)
        there = os.access(paths.KVM, os.R_OK | os.W_OK)
        return (Accelerator.KVM, Accelerator.TCG) if there else (Accelerator.TCG,)


class QemuGuest:
    """One guest; see `interface.Guest`. `spoke` says whether its emulator ever got as far as its monitor."""

    domid = None

    def __init__(self, host: HelperHost, accelerator: Accelerator) -> None:
        self._host = host
        self._accelerator = accelerator
        self._emulator = Emulator(host, "qemu")
        self._qmp: Qmp | None = None
        self._console: Fd | None = None
        self._death: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self._running = False
        self.spoke = False

    @property
    def described(self) -> Detail:
        """As `interface.Guest.described`."""
        return {
            "pid": self._emulator.child.pid,
            "uid": self._emulator.uid,
            "accelerator": self._accelerator.value,
            "without": sorted(layer.value for layer in self._host.without),
        }

    @property
    def console(self) -> Fd:
        """As `interface.Guest.console`."""
        assert self._console is not None
        return self._console

    async def start(self, program: Path, description: GuestDescription, boot: BootFiles) -> None:
        """Starts the process and waits until the guest is there, paused. Raises as `interface.Backend.build`."""
        with ExitStack() as given:
            monitor, far_monitor = _pair("monitor")
            self._console, far_console = _pair("guest's console", blocking=True)
            given.enter_context(far_monitor)
            given.enter_context(far_console)
            fds = [far_monitor, far_console, boot.kernel.fd]
            if boot.ramdisk is not None:
                fds.append(boot.ramdisk.fd)
            fds += [disk.fd for disk in description.disks if disk.fd is not None]
            # Owned from here on; asked nothing before there is a process.
            self._qmp = Qmp(self._host.events, monitor, "qemu", self._on_event)
            devices = [paths.KVM] if self._accelerator is Accelerator.KVM else []
            command = [str(program), *_command(description, boot, self._accelerator, first_fd(fds))]
            self._emulator.start(command, fds, devices)
        try:
            await self._qmp.greet()
            self.spoke = True
            state = await self._qmp.execute("query-status")
        except HypervisorError as error:
            raise await self._explained(error) from None
        if not isinstance(state, dict) or state.get("status") != "prelaunch":
            raise HypervisorError("The guest's emulator did not wait for its start.", helper=self._emulator.name)
        self._emulator.verify()

    async def unpause(self) -> None:
        """As `interface.Guest.unpause`."""
        assert self._qmp is not None
        self._running = True
        try:
            await self._qmp.execute("cont")
        except HypervisorError as error:
            raise await self._explained(error) from None

    async def death(self) -> Death:
        """As `interface.Guest.death`."""
        assert self._qmp is not None
        waited: list[asyncio.Future[Any]] = [self._death, self._qmp.broken]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not self._death.done():
            raise await self._explained(self._qmp.broken.result())
        return self._death.result()

    async def destroy(self) -> None:
        """As `interface.Guest.destroy`."""
        if not self._death.done():
            self._death.set_result(Death.DESTROYED)
        try:
            await self._emulator.end()
        finally:
            if self._qmp is not None:
                self._qmp.close()
            if self._console is not None:
                self._console.close()

    async def _explained(self, error: HypervisorError) -> HypervisorError:
        """`error`, or the death of the process where that is behind it."""
        child = self._emulator.child
        if not (await asyncio.wait([child.death], timeout=self._host.config.budgets.term_grace_seconds))[0]:
            return error
        words = self._emulator.last_words()
        return HypervisorError(
            f"The guest's emulator {child.describe_death()}." + (f" Its last words: {words}" if words else ""),
            helper=self._emulator.name,
        )

    def _on_event(self, name: str, data: dict[str, Any]) -> None:
        if self._death.done() or not self._running:
            return
        if name == "GUEST_PANICKED":
            self._death.set_result(Death.CRASH)
        elif name == "SHUTDOWN":
            self._death.set_result(_DEATHS.get(str(data.get("reason")), Death.DESTROYED))


def _pair(name: str, *, blocking: bool = False) -> tuple[Fd, Fd]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    near.setblocking(blocking)
    return Fd(near.detach(), name), Fd(far.detach(), f"qemu's end of its {name}")


def command_line_of(boot: BootFiles) -> bytes:
    """What the kernel is told: with a console that this guest has. Raises UsageError where it gets too long."""
    if any(word.startswith(_CONSOLE) for word in boot.command_line.split()):
        return boot.command_line
    whole = b" ".join(part for part in (boot.command_line, _SERIAL_CONSOLE) if part)
    if len(whole) > limits.CMDLINE_BYTES:
        raise UsageError("The kernel's command line leaves no room for console=ttyS0.", advice="Name a console in it.")
    return whole


def _command(description: GuestDescription, boot: BootFiles, accelerator: Accelerator, first: int) -> Iterator[str]:
    """The words after the program. Inherited fds count from `first`: monitor, console, kernel, ramdisk, disks."""
    monitor, console, kernel = first, first + 1, first + 2
    line = command_line_of(boot)
    yield from ("-nodefaults", "-no-user-config", "-display", "none", "-S", "-sandbox", _SANDBOX)
    yield from ("-name", f"guest={description.name}", "-uuid", description.uuid)
    yield from ("-machine", "q35,usb=off,vmport=off", "-accel", _ACCEL[accelerator], "-cpu", "max")
    yield from ("-m", f"{description.memory_mib}M", "-smp", str(description.vcpus))
    yield from ("-action", "reboot=shutdown,shutdown=pause,panic=pause", "-device", "pvpanic")
    yield from ("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control")
    yield from ("-chardev", f"socket,id=console,fd={console}")
    if _XEN_CONSOLE in line.split():
        yield from ("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console")
    else:
        yield from ("-device", "isa-serial,chardev=console")
    yield from ("-kernel", f"{paths.OPEN_FILES}/{kernel}", "-append", os.fsdecode(line))
    if boot.ramdisk is not None:
        yield from ("-initrd", f"{paths.OPEN_FILES}/{kernel + 1}")
    at = kernel + (1 if boot.ramdisk is None else 2)
    for place, disk in enumerate(description.disks):
        yield from _disk(place, disk, at + place)


def _disk(place: int, disk: GuestDisk, number: int) -> Iterator[str]:
    """One virtio disk. No image brings other files along: no backing file is opened, and Landlock keeps the rest."""
    fd_set = place + 1
    yield from ("-add-fd", f"fd={number},set={fd_set}")
    common: dict[str, Any] = {"read-only": not disk.writable, "auto-read-only": False}
    file = {
        "node-name": f"file{place}",
        "driver": "host_device" if disk.block_device else "file",
        "filename": f"{paths.QEMU_FD_SET}/{fd_set}",
    }
    image: dict[str, Any] = {"node-name": f"disk{place}", "driver": disk.image_format, "file": file["node-name"]}
    if disk.image_format == "qcow2":
        image["backing"] = None
    yield from ("-blockdev", json.dumps(file | common), "-blockdev", json.dumps(image | common))
    yield from ("-device", f"virtio-blk-pci,drive=disk{place},werror=report,rerror=report")
