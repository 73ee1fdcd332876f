# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests on Xen, with a stand-in for xl and a small xenstored: built, watched, taken away, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.stand_in_xl import DOMID, stand_in_xl
from support.xenstored import Xenstored, xenstored

from domward.protocol.errors import DomwardError, HypervisorError, OperationFailed
from domward.protocol.fds import Fd
from domward.protocol.guests import Death
from domward.supervisor.events import Events
from domward.supervisor.hypervisor.interface import BootFiles, GuestDescription, GuestDisk
from domward.supervisor.hypervisor.toolstack import Toolstack
from domward.supervisor.hypervisor.xen import XenGuest, end_orphan_domains
from domward.supervisor.hypervisor.xenstore import Xenstore
from domward.supervisor.sinks import SealedFile

UUID = "5eed0000-0000-4000-8000-0000000000aa"
NODE = f"/local/domain/{DOMID}/console/tty"
DISK = GuestDisk(vdev="xvda", image_format="raw", writable=True, path=Path("/disk.img"))
GUEST = GuestDescription(name="guest", uuid=UUID, memory_mib=64, vcpus=1, disks=(DISK,))


class Lab:
    """One stand-in for a dom0, and a guest that is not built yet."""

    def __init__(self, folder: Path, events: Events, store: Xenstored, place: Path) -> None:
        self.folder = folder
        self.store = store
        self.events = events
        self.xl = folder / "xl"
        self.master, self.slave = pty.openpty()
        self.kernel = Fd(os.memfd_create("kernel", os.MFD_CLOEXEC), "kernel")
        os.write(self.kernel.fileno(), b"a kernel")
        store.change(NODE, os.ttyname(self.slave).encode())
        store.permissions[NODE] = [b"n0", b"r%d" % DOMID]
        self.guest = XenGuest(Toolstack(events, self.xl), Xenstore.connect(events, place), UUID, folder)

    async def build(self) -> XenGuest:
        kernel = SealedFile(self.kernel, 8, "")
        await self.guest.start(GUEST, BootFiles(kernel=kernel, ramdisk=None, command_line=b"quiet"))
        return self.guest

    def set(self, name: str, content: str = "") -> None:
        (self.folder / name).write_text(content)

    def shut_down(self, reason: str) -> None:
        self.set("shut", reason)
        self.store.change("@releaseDomain", b"")

    @property
    def left(self) -> list[str]:
        records = self.folder / "guests"
        return [name for name in ("domain",) if (self.folder / name).exists()] + (
            os.listdir(records) if records.exists() else []
        )


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what another process does to files, which nothing tells."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


@contextlib.asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[Lab]:
    stand_in_xl(folder)
    place = folder / "xenstored"
    events = Events(asyncio.get_running_loop())
    try:
        async with xenstored(place) as store:
            made = Lab(folder, events, store, place)
            try:
                yield made
            finally:
                await made.guest.destroy()
                made.kernel.close()
                os.close(made.master)
                os.close(made.slave)
    finally:
        events.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Runs a test's body in a lab of its own, after which nothing is left there."""

    def run_in_lab(body: Any) -> Any:
        async def main() -> Any:
            async with lab(tmp_path) as made:
                result = await body(made)
            assert made.left == []
            return result

        return asyncio.run(main())

    return run_in_lab


def test_a_guest_is_built_paused_shown_started_and_taken_away(run: Any) -> None:
    async def body(made: Lab) -> None:
        guest = await made.build()
        assert guest.domid == DOMID
        os.write(made.master, b"hello")
        assert os.read(guest.console.fileno(), 5) == b"hello"
        await guest.unpause()
        made.shut_down("0")
        assert await guest.death() is Death.POWEROFF
        await guest.destroy()
        words = (made.folder / "calls").read_text().splitlines()
        assert words[0].startswith("create -p -e /proc/self/fd/")
        assert [line.split()[0] for line in words if line != "list -v"] == ["create", "unpause", "destroy"]
        assert (made.folder / "kernel").read_bytes() == b"a kernel"

    run(body)


@pytest.mark.parametrize(("reason", "death"), [("1", Death.REBOOT), ("3", Death.CRASH)])
def test_how_a_guest_died(run: Any, reason: str, death: Death) -> None:
    async def body(made: Lab) -> None:
        guest = await made.build()
        made.shut_down(reason)
        assert await guest.death() is death

    run(body)


def test_a_guest_that_somebody_else_destroyed(run: Any) -> None:
    async def body(made: Lab) -> None:
        guest = await made.build()
        (made.folder / "domain").unlink()
        made.store.change("@releaseDomain", b"")
        assert await guest.death() is Death.DESTROYED

    run(body)


def test_a_death_is_seen_after_xenstored_was_restarted(run: Any) -> None:
    async def body(made: Lab) -> None:
        guest = await made.build()
        made.set("shut", "0")
        made.store.forget()
        assert await guest.death() is Death.POWEROFF

    run(body)


def test_xl_inherits_the_configuration_the_kernel_and_the_record_and_nothing_else(run: Any) -> None:
    async def body(made: Lab) -> None:
        before = {number for number in map(int, os.listdir("/proc/self/fd")) if _is_inheritable(number)}
        await made.build()
        inherited = set(map(int, (made.folder / "fds").read_text().split())) - before
        assert len(inherited - {min(inherited)}) == 3  # the least is the folder that the program itself lists

    run(body)


def _is_inheritable(number: int) -> bool:
    """Of what this process was started with itself, some is."""
    try:
        return os.get_inheritable(number)
    except OSError:  # it was the folder's own
        return False


@pytest.mark.parametrize("at", ["create", "list", "unpause"])
def test_xl_fails(run: Any, at: str) -> None:
    async def body(made: Lab) -> str:
        made.set("fails", at)
        with pytest.raises(DomwardError) as caught:
            await (await made.build()).unpause()
        (made.folder / "fails").unlink()
        return caught.value.sentence

    assert f"the stand-in was told to fail at {at}." in run(body)


@pytest.mark.parametrize("allowed", [[b"n7", b"r0"], [b"n0", b"b7"], [b"n0", b"w7"]])
def test_a_console_whose_name_the_guest_could_change(run: Any, allowed: list[bytes]) -> None:
    async def body(made: Lab) -> None:
        made.store.permissions[NODE] = allowed
        with pytest.raises(HypervisorError, match="could change it"):
            await made.build()

    run(body)


@pytest.mark.parametrize("place", [b"/etc/passwd", b"/dev/pts/../null", b"/dev/pts/1\n"])
def test_a_console_that_is_no_pty(run: Any, place: bytes) -> None:
    async def body(made: Lab) -> None:
        made.store.change(NODE, place)
        with pytest.raises(HypervisorError, match="no pty"):
            await made.build()

    run(body)


def test_xl_is_cancelled_never_left_half_way(run: Any) -> None:
    async def body(made: Lab) -> None:
        made.set("waits")
        building = asyncio.create_task(made.build())
        await until((made.folder / "domain").exists)
        building.cancel()
        await asyncio.sleep(0)
        assert not building.done()
        (made.folder / "waits").unlink()
        with pytest.raises(asyncio.CancelledError):
            await building

    run(body)


def test_a_domain_that_goes_away_slowly(run: Any) -> None:
    async def body(made: Lab) -> None:
        guest = await made.build()
        made.set("dying")

        async def gone_in_the_end() -> None:
            await until(lambda: (made.folder / "calls").read_text().endswith("list -v\nlist -v\n"))
            (made.folder / "domain").unlink()

        await asyncio.gather(guest.destroy(), gone_in_the_end())

    run(body)


def test_two_guests_of_one_uuid(run: Any) -> None:
    async def body(made: Lab) -> None:
        await made.build()
        place = made.folder / "xenstored"
        second = XenGuest(Toolstack(made.events, made.xl), Xenstore.connect(made.events, place), UUID, made.folder)
        kernel = SealedFile(made.kernel, 8, "")
        with pytest.raises(OperationFailed, match="There is a guest with the UUID"):
            await second.start(GUEST, BootFiles(kernel=kernel, ramdisk=None, command_line=b""))
        await second.destroy()
        assert (made.folder / "domain").exists()

    run(body)


def test_a_domain_whose_supervisor_was_killed(run: Any) -> None:
    async def body(made: Lab) -> None:
        (made.folder / "guests").mkdir()
        (made.folder / "guests" / UUID).touch()
        made.set("domain", UUID)
        assert await end_orphan_domains(made.events, made.folder, made.xl) == [UUID]

    run(body)
