# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests in a real qemu: created from a disk that domward read, watched until they die, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.audit_schema import faults
from support.daemons import helpers, until_dead
from support.debian_kernel import debian_kernel
from support.disks import DiskFactory
from support.tiny_guests import QEMU, RAMDISK, UUID, guest_of, tiny_disk

from domward.protocol import limits
from domward.protocol.errors import (
    ConfinementUnavailable,
    HypervisorError,
    OperationCancelled,
    OperationFailed,
    RefusedError,
    UsageError,
)
from domward.protocol.guests import Action, Death
from domward.protocol.layers import Layer
from domward.protocol.records import replaced
from domward.supervisor import Budgets, Config, Console, Operation, OperationState, Supervisor, paths
from domward.supervisor.config import Accelerator
from domward.supervisor.guests import PRESERVED, RUNNING, GuestRequest, GuestResult
from domward.supervisor.hypervisor.qmp import Qmp
from domward.supervisor.verification import Privileges

SECONDS = 30  # for a machine that is busy
CONFIG = replaced(QEMU, budgets=Budgets(term_grace_seconds=0.3))


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel_bytes: bytes) -> Path:
    return disks.build(tiny_disk(kernel_bytes))


class Screen:
    """A guest's console as the test has it."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.shown = b""

    @property
    def console(self) -> Console:
        return Console(self.far.fileno(), self.far.fileno())

    async def until(self, text: bytes) -> None:
        """Waits until `text` is shown, after what was waited for before."""
        async with asyncio.timeout(SECONDS):
            while text not in self.shown:
                data = await asyncio.get_running_loop().sock_recv(self.near, 65536)
                assert data, f"{text!r} is not shown: {self.shown!r}"
                self.shown += data
        self.shown = self.shown.partition(text)[2]

    def type(self, line: bytes) -> None:
        self.near.send(line + b"\n")

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def screen() -> Iterator[Screen]:
    with contextlib.closing(Screen()) as made:
        yield made


@contextlib.asynccontextmanager
async def running(
    request: GuestRequest, config: Config = CONFIG
) -> AsyncIterator[tuple[Supervisor, Operation[GuestResult]]]:
    """A supervisor with the guest, which runs."""
    async with Supervisor(config) as supervisor:
        operation = supervisor.guest_operation(request)
        runs = asyncio.Event()
        operation.on_progress(lambda step: runs.set() if step == RUNNING else None)
        operation.on_done(lambda _operation: runs.set())
        operation.start()
        async with asyncio.timeout(SECONDS):
            await runs.wait()
        yield supervisor, operation


async def outcome(operation: Operation[GuestResult]) -> GuestResult:
    async with asyncio.timeout(SECONDS):
        return await operation.wait()


def emulators() -> list[int]:
    """Every qemu of this test's."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path("/proc", name, "comm").read_text().startswith("qemu") and "Z" not in stat_of(name):
                found.append(int(name))
    return found


def stat_of(name: str) -> str:
    return Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]


def test_a_guest_is_created_from_its_disk_and_ends_when_it_powers_off(disk: Path, screen: Screen) -> None:
    async def play() -> GuestResult:
        with guest_of(disk) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                await screen.until(b"ready %d quiet console=ttyS0\n" % len(RAMDISK))
                screen.type(b"hello")
                await screen.until(b"heard hello")
                screen.type(b"poweroff")
                return await outcome(operation)

    result = asyncio.run(play())
    assert (result.name, result.death, result.starts) == ("tiny", Death.POWEROFF, 1)
    assert emulators() == []


def test_a_qemu_has_nothing_but_what_it_needs(disk: Path, screen: Screen) -> None:
    async def play() -> None:
        with guest_of(disk) as request:
            async with running(replaced(request, console=screen.console)) as (supervisor, operation):
                (pid,) = emulators()
                status = status_of(pid)
                base = supervisor.config.uid_base
                uid = int(status["Uid"].split()[0])
                assert base <= uid < base + supervisor.config.uid_count
                assert status["Uid"].split() == status["Gid"].split() == [str(uid)] * 4
                assert status["Groups"].strip() == ""
                seen = Privileges.of(pid)
                assert (seen.most, seen.no_new_privs) == (0, True)
                assert seen.filters > Privileges.of(os.getpid()).filters
                for namespace in ("net", "ipc", "uts", "cgroup"):
                    assert os.readlink(f"/proc/{pid}/ns/{namespace}") != os.readlink(f"/proc/self/ns/{namespace}")
                assert targets_of(pid) <= ALLOWED | {str(disk)}
                operation.cancel()
                with pytest.raises(OperationCancelled):
                    await outcome(operation)
                assert supervisor.helpers_alive == 0

    asyncio.run(play())


ALLOWED = {"/dev/null", "/memfd:domward-kernel (deleted)", "/memfd:domward-ramdisk (deleted)"}


def targets_of(pid: int) -> set[str]:
    """The files that it has open; sockets, pipes and the kernel's own objects are not told apart by name."""
    found = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    return {target for target in found if target.startswith("/")}


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_a_guest_that_reboots_gets_what_its_disk_says_then(
    kernel_bytes: bytes, disks: DiskFactory, tmp_path: Path, screen: Screen
) -> None:
    image = disks.copy(tiny_disk(kernel_bytes), tmp_path / "guest.raw")

    async def play() -> GuestResult:
        with guest_of(image) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                await screen.until(b"quiet console")
                other = disks.build(tiny_disk(kernel_bytes, then="poweroff"))
                image.write_bytes(other.read_bytes())
                screen.type(b"reboot")
                return await outcome(operation)

    result = asyncio.run(play())
    assert (result.death, result.starts) == (Death.POWEROFF, 2)


def test_a_guest_that_reboots_in_a_circle_is_given_up(
    kernel_bytes: bytes, disks: DiskFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GUEST_STARTS", 3)

    async def play() -> None:
        with guest_of(disks.build(tiny_disk(kernel_bytes, then="reboot"))) as request:
            async with running(request) as (_supervisor, operation):
                with pytest.raises(OperationFailed, match="started 3 times within 60 seconds") as caught:
                    await outcome(operation)
                assert caught.value.code == "guest-restarts"

    asyncio.run(play())


@pytest.mark.parametrize(
    ("typed", "changes", "death"),
    [
        (b"reboot", {"on_reboot": Action.DESTROY}, Death.REBOOT),
        (b"panic", {}, Death.CRASH),
    ],
)
def test_what_is_done_after_a_death_is_what_the_configuration_says(
    disk: Path, screen: Screen, typed: bytes, changes: dict[str, Action], death: Death
) -> None:
    async def play() -> GuestResult:
        with guest_of(disk, **changes) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                await screen.until(b"ready")
                screen.type(typed)
                return await outcome(operation)

    result = asyncio.run(play())
    assert (result.death, result.starts) == (death, 1)


def test_a_crashed_guest_is_preserved_until_it_is_destroyed(disk: Path, screen: Screen) -> None:
    async def play() -> None:
        with guest_of(disk, on_crash=Action.PRESERVE) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                preserved = asyncio.Event()
                operation.on_progress(lambda step: preserved.set() if step == PRESERVED else None)
                await screen.until(b"ready")
                screen.type(b"panic")
                async with asyncio.timeout(SECONDS):
                    await preserved.wait()
                assert len(emulators()) == 1
                operation.cancel()
                with pytest.raises(OperationCancelled):
                    await outcome(operation)
                assert emulators() == []

    asyncio.run(play())


def test_a_guest_that_floods_its_console_holds_nothing_up(disk: Path, screen: Screen) -> None:
    async def play() -> None:
        with guest_of(disk) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                await screen.until(b"ready")
                screen.type(b"flood")  # and nobody reads it from now on
                await screen.until(b"noisy one\n")
                operation.cancel()
                with pytest.raises(OperationCancelled):
                    await outcome(operation)

    asyncio.run(play())


def test_row_03_a_killed_qemu_fails_its_operation_at_once_with_a_sentence(disk: Path, screen: Screen) -> None:
    async def play() -> None:
        with guest_of(disk) as request:
            async with running(replaced(request, console=screen.console)) as (supervisor, operation):
                (pid,) = emulators()
                os.kill(pid, signal.SIGKILL)
                with pytest.raises(HypervisorError, match=r"The guest's emulator was killed by SIGKILL\.") as caught:
                    await outcome(operation)
                assert caught.value.operation == operation.id
                assert supervisor.helpers_alive == 0

    asyncio.run(play())


def test_the_guest_goes_on_when_the_relay_of_its_console_is_killed(disk: Path, screen: Screen) -> None:
    async def play() -> None:
        with guest_of(disk) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                await screen.until(b"ready")
                (relay,) = (pid for pid in helpers() if pid not in emulators())
                os.kill(relay, signal.SIGKILL)
                until_dead([relay])
                assert len(emulators()) == 1
                assert operation.state is OperationState.RUNNING
                operation.cancel()
                with pytest.raises(OperationCancelled):
                    await outcome(operation)

    asyncio.run(play())


@pytest.mark.parametrize("step", ["disk", "helper", "kernel", "build", "running"])
def test_a_guest_can_be_given_up_at_every_step(disk: Path, step: str) -> None:
    async def play() -> None:
        with guest_of(disk) as request:
            async with Supervisor(CONFIG) as supervisor:
                operation = supervisor.guest_operation(request)
                operation.on_progress(lambda seen: operation.cancel() if seen == step else None)
                operation.start()
                with pytest.raises(OperationCancelled):
                    await outcome(operation)
                assert supervisor.helpers_alive == 0
                assert emulators() == []
                # and its name is free again
                supervisor.guest_operation(request)

    asyncio.run(play())


def test_qemu_is_given_up_while_it_starts(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        with guest_of(disk) as request:
            async with Supervisor(CONFIG) as supervisor:
                operation = supervisor.guest_operation(request)
                greet = Qmp.greet

                async def cancelled_first(qmp: Qmp) -> None:
                    operation.cancel()
                    await greet(qmp)

                monkeypatch.setattr(Qmp, "greet", cancelled_first)
                operation.start()
                with pytest.raises(OperationCancelled):
                    await outcome(operation)
                assert emulators() == []

    asyncio.run(play())


def test_a_kernel_that_is_none_is_qemus_own_sentence(disks: DiskFactory) -> None:
    async def play() -> None:
        with guest_of(disks.build(tiny_disk(b"\x7fELF" + b"no kernel" * 100))) as request:
            async with running(request) as (_supervisor, operation):
                with pytest.raises(HypervisorError, match=r"exited with code 1\. Its last words: qemu.*elfboot"):
                    await outcome(operation)

    asyncio.run(play())


def test_a_writable_qcow2_disk_is_the_guests_and_two_guests_do_not_share_it(
    kernel_bytes: bytes, disks: DiskFactory, tmp_path: Path, screen: Screen
) -> None:
    image = disks.copy(tiny_disk(kernel_bytes, image="qcow2"), tmp_path / "guest.qcow2")

    async def play() -> None:
        shared = partial(guest_of, image, writable=True, image_format="qcow2")
        with shared() as one, shared(name="other") as other:
            async with running(replaced(one, console=screen.console)) as (supervisor, operation):
                await screen.until(b"ready")
                second = supervisor.guest_operation(other)
                second.start()
                with pytest.raises(HypervisorError, match="lock"):
                    await outcome(second)
                screen.type(b"poweroff")
                assert (await outcome(operation)).death is Death.POWEROFF

    asyncio.run(play())


def test_a_guest_is_refused_before_anything_is_done(disk: Path, tmp_path: Path) -> None:
    async def play() -> None:
        with guest_of(disk) as request, guest_of(disk, writable=True) as writable:
            async with Supervisor(Config()) as supervisor:
                with pytest.raises(RefusedError, match="No hypervisor is set") as caught:
                    supervisor.guest_operation(request)
                assert caught.value.code == "no-hypervisor"
            async with running(request) as (supervisor, operation):
                with pytest.raises(RefusedError, match="There is a guest tiny already"):
                    supervisor.guest_operation(request)
                (own,) = request.description.disks
                wrong = replaced(request.description, name="other", disks=(replaced(own, writable=True),))
                with pytest.raises(UsageError, match="disk xvda must be opened for reading and writing"):
                    await supervisor.guest_operation(replaced(request, description=wrong)).complete()
                named = replaced(request.description, name="other", disks=(replaced(own, fd=None),))
                with pytest.raises(UsageError, match="as descriptors"):
                    supervisor.guest_operation(replaced(request, description=named))
                operation.cancel()
                with pytest.raises(OperationCancelled):
                    await outcome(operation)
            del writable

    asyncio.run(play())


def test_without_landlock_no_qemu_is_started_even_where_that_is_optional(disk: Path) -> None:
    layers = frozenset({Layer.LANDLOCK})

    async def play() -> None:
        with guest_of(disk) as request:
            async with running(request, replaced(CONFIG, absent_layers=layers, optional_layers=layers)) as (
                _,
                operation,
            ):
                with pytest.raises(ConfinementUnavailable, match="qemu cannot be confined here without landlock"):
                    await outcome(operation)

    asyncio.run(play())


def test_what_became_of_a_guest_is_in_the_audit_log(disks: DiskFactory, kernel_bytes: bytes, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"

    async def play() -> None:
        with guest_of(disks.build(tiny_disk(kernel_bytes, then="poweroff"))) as request:
            async with running(request, replaced(CONFIG, audit_log=log, log_directory=tmp_path / "logs")) as (
                _,
                operation,
            ):
                await outcome(operation)

    asyncio.run(play())
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(faults(record) == [] for record in records)
    mine = [record for record in records if (record["operation"] or "").startswith("guest-")]
    events = [record["event"] for record in mine if record["event"] not in ("helper-started", "fds-passed")]
    assert events == ["request", "guest-build", "guest-unpause", "guest-death", "completion"]
    assert {record["domain"]["name"] for record in mine} == {"tiny"}
    assert {record["domain"]["uuid"] for record in mine} == {UUID}
    build, unpause, death = (record["detail"] for record in mine if record["event"].startswith("guest-"))
    assert build["boot"] in {record["operation"] for record in records}
    assert (unpause["accelerator"], unpause["without"]) == ("tcg", [])
    assert death == {"death": "poweroff", "action": "destroy"}
    (kept,) = (tmp_path / "logs").iterdir()
    assert kept.read_bytes().startswith(b"ready 32 quiet then=poweroff console=ttyS0")


def test_where_kvm_does_not_work_a_guest_does_without(
    disks: DiskFactory, kernel_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "KVM", "/dev/zero")  # can be opened, and is none; the real one is out of reach then
    log = tmp_path / "audit.log"

    async def play(accelerator: Accelerator) -> GuestResult:
        with guest_of(disks.build(tiny_disk(kernel_bytes, then="poweroff"))) as request:
            config = replaced(CONFIG, accelerator=accelerator, audit_log=log)
            async with running(request, config) as (_supervisor, operation):
                return await outcome(operation)

    assert asyncio.run(play(Accelerator.AUTO)).death is Death.POWEROFF
    (unpause,) = (line for line in log.read_text().splitlines() if '"guest-unpause"' in line)
    assert json.loads(unpause)["detail"]["accelerator"] == "tcg"
    with pytest.raises(HypervisorError, match="KVM"):
        asyncio.run(play(Accelerator.KVM))


INIT = r"""
#include <stdio.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
int main(void)
{
    struct utsname us;
    uname(&us);
    printf("linux %s says hello\n", us.release);
    fflush(stdout);
    return reboot(RB_POWER_OFF);
}
"""


def test_a_real_debian_kernel_boots_and_powers_off(disks: DiskFactory, tmp_path: Path, screen: Screen) -> None:
    kernel = debian_kernel()
    (tmp_path / "init.c").write_text(INIT)
    subprocess.run(["gcc", "-static", "-o", "init", "init.c"], cwd=tmp_path, check=True)
    ramdisk = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet"], cwd=tmp_path, input=b"init\n", check=True, capture_output=True
    ).stdout
    image = disks.build(tiny_disk(kernel.vmlinuz.read_bytes(), ramdisk=ramdisk))

    async def play() -> GuestResult:
        with guest_of(image, memory_mib=192) as request:
            async with running(replaced(request, console=screen.console)) as (_supervisor, operation):
                await screen.until(b"linux %s says hello" % kernel.version.encode())
                return await outcome(operation)

    assert asyncio.run(play()).death is Death.POWEROFF
