# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in dom0: guests that domward itself creates on Xen, watches, starts anew and takes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dom0 import MARKER, PYTHON, SECONDS, WORK, check, run, run_checks, xl

from domward.protocol.errors import OperationCancelled
from domward.supervisor import BootRequest, Budgets, Config, Console, Operation, Supervisor
from domward.supervisor.config import Hypervisor
from domward.supervisor.guests import RUNNING, GuestRequest, GuestResult
from domward.supervisor.hypervisor.interface import Action, GuestDescription, GuestDisk, GuestType

CONFIG = Config(backend=Hypervisor.XEN, xenstore=Path("/run/xenstored/socket"), budgets=Budgets(wall_seconds=SECONDS))
UUIDS = {name: f"0d0e0a0d-0000-4000-8000-{number:012d}" for number, name in enumerate(("halts", "lives", "orphan"))}


class Screen:
    """A guest's console, and what it showed that was not waited for yet."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.shown = b""

    async def line(self, text: bytes) -> str:
        """The rest of the next line with `text`."""
        async with asyncio.timeout(SECONDS):
            while b"\n" not in self.shown.partition(text)[2]:
                data = await asyncio.get_running_loop().sock_recv(self.near, 65536)
                if not data:
                    raise EOFError(f"{text!r} in {self.shown!r}")
                self.shown += data
        line, _, self.shown = self.shown.partition(text)[2].partition(b"\n")
        return (text + line).decode("ascii", "replace").strip()


def request(name: str, image: str, memory: int, screen: Screen | None = None) -> GuestRequest:
    disk = GuestDisk(vdev="xvda", image_format="raw", writable=True, path=WORK / image)
    return GuestRequest(
        description=GuestDescription(
            name=name,
            uuid=UUIDS[name],
            memory_mib=memory,
            vcpus=1,
            disks=(disk,),
            type=GuestType.PV,
            on_crash=Action.DESTROY,
        ),
        boot=BootRequest(disk=WORK / image, entry=b"0"),
        console=None if screen is None else Console(screen.far.fileno(), screen.far.fileno()),
    )


@contextlib.asynccontextmanager
async def guest(wanted: GuestRequest) -> AsyncIterator[tuple[Operation[GuestResult], list[str]]]:
    """The guest's operation, under way, and its steps so far."""
    steps: list[str] = []
    async with Supervisor(CONFIG) as supervisor:
        operation = supervisor.guest_operation(wanted)
        operation.on_progress(steps.append)
        operation.start()
        try:
            yield operation, steps
        finally:
            operation.cancel()
            with contextlib.suppress(OperationCancelled):
                await operation.wait()


def domain_of(name: str) -> str:
    return xl("domid", name).stdout.strip()


@check
def halts() -> dict[str, Any]:
    """A guest that switches itself off."""

    async def body() -> dict[str, Any]:
        screen = Screen()
        async with guest(request("halts", "tiny.img", 64, screen)) as (operation, steps):
            line = await screen.line(MARKER.encode())
            result = await operation.wait()
        return {"line": line, "death": result.death.value, "starts": result.starts, "steps": steps}

    return asyncio.run(body())


@check
def lives() -> dict[str, Any]:
    """A guest that is rebooted, and whose operation is cancelled then."""

    async def body() -> dict[str, Any]:
        screen = Screen()
        found: dict[str, Any] = {}
        async with guest(request("lives", "menu.img", 160, screen)) as (_operation, steps):
            found["first"] = await screen.line(MARKER.encode())
            domid = await asyncio.to_thread(domain_of, "lives")
            listed = await asyncio.to_thread(run, "xenstore-ls", "-p", f"/local/domain/{domid}/console")
            found["nodes"] = listed.stdout
            found["open"] = helpers_with_handles()
            found["reboot"] = (await asyncio.to_thread(xl, "reboot", "lives")).returncode
            found["second"] = await screen.line(MARKER.encode())
            found["domids"] = [domid, await asyncio.to_thread(domain_of, "lives")]
            found["steps"] = [*steps]
        found["after"] = await asyncio.to_thread(domain_of, "lives")
        return found

    return asyncio.run(body())


def helpers_with_handles() -> list[str]:
    """The handles of the hypervisor that processes of domward's other than this one have open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                if b"domward" in (process / "cmdline").read_bytes():
                    found += [os.readlink(fd) for fd in (process / "fd").iterdir()]
    return [place for place in found if "xen" in place]


# Creates the guest of the arguments, says its steps, and waits to be killed.
VICTIM = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
import guests_in_dom0 as lab
async def main():
    async with lab.guest(lab.request("orphan", "tiny.img", 64)) as (operation, _steps):
        operation.on_progress(lambda step: os.write(1, step.encode() + b"\\n"))
        await operation.wait()
asyncio.run(main())
"""


def killed_at(step: str) -> dict[str, Any]:
    words = [PYTHON, "-I", "-c", VICTIM, str(Path(__file__).parent)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        said = b""
        while step.encode() not in said.split(b"\n"):
            data = os.read(victim.stdout.fileno(), 4096)
            if not data:
                raise EOFError(repr(said))
            said += data
        victim.send_signal(signal.SIGKILL)

    async def clear_up() -> list[str]:
        async with Supervisor(CONFIG) as supervisor:
            return await supervisor.end_orphan_guests()

    return {
        "cleared": asyncio.run(clear_up()),
        "after": domain_of("orphan"),
        "record": os.listdir("/run/domward/guests"),
    }


@check
def killed_while_xl_builds() -> dict[str, Any]:
    """The supervisor is killed while xl builds its guest."""
    return killed_at("build")


@check
def killed_while_a_guest_runs() -> dict[str, Any]:
    return killed_at(RUNNING)


if __name__ == "__main__":
    run_checks(Path(sys.argv[1]), *sys.argv[2:])
