# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests on Xen: xl(1) builds, starts and takes away the domain; domward watches it.

xl is given the configuration, the kernel and the ramdisk as sealed memory files that it inherits, so no helper and no
guest has a name of them. The domain is built paused (-p), and xl leaves nothing behind that waits for its death (-e):
that is told by xenstored (the watch @releaseDomain), and what it was by `xl list -v`, which asks the hypervisor. What
`xl create` was cancelled in is ended first, and then taken away, known by its UUID: only the hypervisor's own list is
believed about which domains there are.

Each guest that is not gone has a file in the supervisor's state folder, locked by its supervisor and by the xl that
builds it. One that can be locked has lost both: `end_orphan_domains` takes its domain away.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import stat
import tty
from collections.abc import AsyncIterator
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import DomwardError, HypervisorError, OperationFailed, RefusedError, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.guests import Death

from .. import paths
from ..audit.record import Detail
from ..endings import to_its_end
from ..events import Events
from ..helper import HelperHost
from .interface import BootFiles, GuestDescription
from .toolstack import Toolstack
from .xenstore import Xenstore
from .xenstore_wire import XenstoreLost
from .xl_config import Seen, configuration, find_domain

_LOG = logging.getLogger("domward.xen")
_DEATHS = "@releaseDomain"
_CONSOLE = re.compile(re.escape(paths.TERMINALS).encode() + rb"[0-9]{1,9}")
_PTY_MAJORS = range(136, 144)  # Documentation/admin-guide/devices.txt
_GUEST_MAY = (b"r", b"n")  # of a node of dom0's: read, or nothing
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class XenBackend:
    """The backend; see `interface.Backend`. `xl` is the program, where it is not the host's."""

    name = "xen"
    opens_paths = True

    def __init__(self, xenstore: Path | None, xl: Path | None = None) -> None:
        self._xenstore = xenstore
        self._xl = xl

    def check(self, description: GuestDescription) -> None:
        """As `interface.Backend.check`."""
        if any(disk.path is None for disk in description.disks):
            raise UsageError("xl is given its disks as paths, not as descriptors.")
        if self._xenstore is None:
            raise RefusedError(
                "Guests on Xen need xenstored, and the settings name no xenstore.",
                advice=f"Set xenstore of [hypervisor] in domward.toml to {paths.XENSTORE_SOCKET} or {paths.XENBUS}.",
            )

    async def build(self, host: HelperHost, operation: str, description: GuestDescription, boot: BootFiles) -> XenGuest:
        """As `interface.Backend.build`."""
        del operation
        assert self._xenstore is not None
        tools = Toolstack(host.events, self._xl)
        store = Xenstore.connect(host.events, self._xenstore)
        guest = XenGuest(tools, store, description.uuid, host.config.state_directory)
        try:
            await guest.start(description, boot)
        except BaseException:
            await to_its_end(guest.destroy())
            raise
        return guest


class XenGuest:
    """One domain; see `interface.Guest`."""

    def __init__(self, tools: Toolstack, store: Xenstore, uuid: str, state_directory: Path) -> None:
        self._tools = tools
        self._store = store
        self._uuid = uuid.lower()  # as xl shows it
        self._record = _Record(state_directory / "guests" / self._uuid)
        self._console: Fd | None = None
        self._death: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self._watching: asyncio.Task[None] | None = None
        self._gone = False
        self.domid: int | None = None

    @property
    def described(self) -> Detail:
        """As `interface.Guest.described`."""
        return {"domid": self.domid, "uuid": self._uuid}

    @property
    def console(self) -> Fd:
        """As `interface.Guest.console`."""
        assert self._console is not None
        return self._console

    async def start(self, description: GuestDescription, boot: BootFiles) -> None:
        """Builds the domain, paused, and opens its console. Raises as `interface.Backend.build`."""
        self._record.make()
        given = [boot.kernel.fd] if boot.ramdisk is None else [boot.kernel.fd, boot.ramdisk.fd]
        names = [_inherited(fd) for fd in given]
        text = configuration(description, boot, names[0], names[1] if boot.ramdisk is not None else None)
        with _sealed(text) as file:
            done = await self._tools.call("create", "-p", "-e", _inherited(file), fds=[file, *given, self._record.file])
        if done.code != 0:
            raise OperationFailed(f"xl could not build the guest: {done.told()}.")
        seen = await self._look()
        if seen is None or seen.death is not None:
            raise HypervisorError("The domain that xl built is not there.", helper="xl")
        self.domid = seen.domid
        self._console = await self._open_console()
        self._watching = asyncio.create_task(self._watch())

    async def unpause(self) -> None:
        """As `interface.Guest.unpause`."""
        done = await self._tools.call("unpause", str(self.domid))
        if done.code != 0:
            raise OperationFailed(f"xl could not start the guest: {done.told()}.")

    async def death(self) -> Death:
        """As `interface.Guest.death`."""
        await asyncio.wait([self._death])
        return self._death.result()

    async def destroy(self) -> None:
        """As `interface.Guest.destroy`."""
        if self._gone:
            return
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if not self._death.done():
            self._death.set_result(Death.DESTROYED)
        elif not self._death.cancelled():
            self._death.exception()  # looked at: perhaps nobody waits
        try:
            if self._record.made:  # else it is another guest's UUID
                await _take_away(self._tools, self._uuid)
                self._record.remove()
            self._gone = True
        finally:
            self._record.close()
            self._store.close()
            if self._console is not None:
                self._console.close()

    async def _look(self) -> Seen | None:
        return await _look(self._tools, self._uuid)

    async def _watch(self) -> None:
        """Sets `death` once there is one, or what keeps it from being known."""
        try:
            async for _ in _releases(self._store):
                seen = await self._look()
                if seen is None or seen.death is not None:
                    self._death.set_result(Death.DESTROYED if seen is None else seen.death or Death.DESTROYED)
                    return
        except DomwardError as error:
            self._death.set_exception(error)

    async def _open_console(self) -> Fd:
        """The pty that xenconsoled made for the domain. Raises HypervisorError."""
        node = f"{paths.XENSTORE_DOMAINS}/{self.domid}/console/tty"
        try:
            async with asyncio.timeout(limits.XEN_CONSOLE_SECONDS), self._store.watch(node) as changes:
                while not (place := await self._store.read(node)):
                    await changes.next()
        except TimeoutError:
            raise HypervisorError("The domain has no console.", helper="xenconsoled") from None
        owner, *others = await self._store.permissions(node)
        if owner[1:] != b"0" or any(not one.startswith(_GUEST_MAY) for one in others):
            raise HypervisorError("The domain's console is named where a guest could change it.", helper="xenstored")
        if not _CONSOLE.fullmatch(place):
            raise HypervisorError(f"The domain's console is no pty: {printable(place)}.", helper="xenconsoled")
        try:
            console = Fd(os.open(place, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC), "guest's console")
            found = os.fstat(console.fileno())
            if not stat.S_ISCHR(found.st_mode) or os.major(found.st_rdev) not in _PTY_MAJORS:
                console.close()
                raise HypervisorError("The domain's console is no pty.", helper="xenconsoled")
            tty.setraw(console.fileno())
        except OSError as error:
            raise HypervisorError(f"The domain's console cannot be used: {error}.", helper="xenconsoled") from error
        return console


class _Record:
    """The file by which a guest is known that outlived its supervisor. States: made -> removed; closed at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Fd | None = None

    @property
    def file(self) -> Fd:
        """The open, locked file; who inherits it keeps the lock."""
        assert self._file is not None
        return self._file

    @property
    def made(self) -> bool:
        """Whether there is one of this guest's."""
        return self._file is not None

    def make(self) -> None:
        """Makes and locks it. Raises OperationFailed."""
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = Fd(os.open(self._path, flags, 0o600), "guest's record")
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileExistsError:
            raise OperationFailed(
                f"There is a guest with the UUID {printable(self._path.name)}.",
                advice="Destroy it, or start domwardd anew where nobody keeps it any more.",
            ) from None
        except OSError as error:
            raise OperationFailed(
                f"The guest's record {printable(str(self._path))} cannot be made: {error.strerror}."
            ) from error

    def remove(self) -> None:
        """Removes it."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def close(self) -> None:
        """Gives up the lock. Idempotent."""
        if self._file is not None:
            self._file.close()


async def end_orphan_domains(events: Events, state_directory: Path, xl: Path | None = None) -> list[str]:
    """Takes away each domain whose supervisor is gone; returns their UUIDs. What cannot be taken away is logged.

    One that xl still builds is waited for, as long as a call of xl may take.
    """
    ended = []
    folder = state_directory / "guests"
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        try:
            with Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "guest's record") as record:
                await _lock(record)
                await _take_away(Toolstack(events, xl), path.name)
                path.unlink()
                ended.append(path.name)
        except (OSError, DomwardError) as error:
            _LOG.warning("the domain of guest %s cannot be taken away: %s", printable(path.name), error)
    return ended


async def _lock(record: Fd) -> None:
    """Waits until nobody has it. Raises OperationFailed."""
    deadline = asyncio.get_running_loop().time() + limits.XL_SECONDS
    while True:
        try:
            return fcntl.flock(record.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                raise OperationFailed("Its supervisor, or the xl that builds it, lives.") from None
            await asyncio.sleep(limits.XEN_LOCK_SECONDS)


async def _look(tools: Toolstack, uuid: str) -> Seen | None:
    """The domain as the hypervisor has it. Raises OperationFailed, HypervisorError."""
    done = await tools.call("list", "-v")
    if done.code != 0:
        raise HypervisorError(f"xl could not list the domains: {done.told()}.", helper="xl")
    return find_domain(done.output, uuid)


async def _take_away(tools: Toolstack, uuid: str) -> None:
    """Destroys the domain with `uuid`, if there is one. Raises OperationFailed, HypervisorError where it stays."""
    deadline, words = asyncio.get_running_loop().time() + limits.XEN_DYING_SECONDS, ""
    while (seen := await _look(tools, uuid)) is not None:
        if asyncio.get_running_loop().time() > deadline:
            raise HypervisorError(f"Domain {seen.domid} cannot be taken away: {words or 'it stays'}.", helper="xl")
        if seen.death is Death.DESTROYED:  # it is on its way
            await asyncio.sleep(limits.XEN_DYING_PAUSE)
            continue
        words = (await tools.call("destroy", str(seen.domid))).told()


async def _releases(store: Xenstore) -> AsyncIterator[None]:
    """Something each time that any domain may have died, and at the beginning. Goes on when xenstored is restarted."""
    while True:
        try:
            async with store.watch(_DEATHS) as changes:
                while True:
                    await changes.next()
                    yield
        except XenstoreLost:
            await store.connected()


def _inherited(fd: Fd) -> str:
    return f"{paths.OPEN_FILES}/{fd.fileno()}"


def _sealed(text: bytes) -> Fd:
    try:
        file = Fd(os.memfd_create("domward-xl.cfg", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "guest's configuration")
        os.write(file.fileno(), text)
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise OperationFailed(f"The guest's configuration could not be made: {error.strerror}.") from error
    return file
