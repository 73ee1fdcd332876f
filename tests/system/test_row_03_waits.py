# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 03: every wait for somebody ends: at its deadline where they are silent, at once where they are gone already.

The waits of the program: for the launcher to be ready, for the launcher's answer to a request, for a helper's first
message, for a helper's answer, for a helper's death, for the end of a relay, for a disk to open. A case that hung would
be ended by PATIENCE, which fails it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tty
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest
from support.flaky_disk import NEVER, failing_from, flaky_disk
from support.planted import planted

from domward.protocol.errors import DiskError, DomwardError, HelperDied, OperationTimedOut, ProtocolViolation
from domward.protocol.messages import HelperKind, OpenPtys
from domward.supervisor import BootRequest, Budgets, Config, Console, Supervisor
from domward.supervisor.helper import Helper
from domward.supervisor.helper_states import HelperState

QUICK = Budgets(wall_seconds=1.5, start_seconds=1, term_grace_seconds=0.2)
PATIENCE = 60.0
SILENT = "os.kill(os.getpid(), signal.SIGSTOP)"
GONE = "os._exit(0)"


def ends(work: Coroutine[None, None, None]) -> None:
    """Runs `work`, which must not hang."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await work

    asyncio.run(main())


def config(folder: Path, code: str = "") -> Config:
    return Config(budgets=QUICK, python=planted(folder, code))


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


BOTH = pytest.mark.parametrize("make", [stop, kill], ids=["silent", "gone"])


# --- the launcher -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [SILENT, GONE], ids=["silent", "gone"])
def test_row_03_the_wait_for_a_launcher_to_be_ready_ends(code: str, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(HelperDied):
            async with Supervisor(config(tmp_path, code)):
                pass

    ends(main())


@BOTH
def test_row_03_the_wait_for_the_launchers_answer_to_a_request_ends(make: object, tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(config(tmp_path)) as supervisor:
            host = await supervisor.host()
            assert host.launcher.child is not None
            assert callable(make)
            make(host.launcher.child.pid)
            with pytest.raises(HelperDied):
                await Helper(HelperKind.PTY, "test", host).start()

    ends(main())


# --- a helper ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["while True: time.sleep(1000)", GONE], ids=["silent", "gone"])
def test_row_03_the_wait_for_a_helpers_first_message_ends(code: str, tmp_path: Path) -> None:
    async def main() -> None:
        planting = f"def change():\n    {code}\n\nin_the_helper(change)"
        async with Supervisor(config(tmp_path, planting)) as supervisor:
            with pytest.raises(HelperDied):
                await Helper(HelperKind.PTY, "test", await supervisor.host()).start()

    ends(main())


@contextlib.asynccontextmanager
async def idle(folder: Path) -> AsyncIterator[Helper]:
    async with Supervisor(config(folder)) as supervisor:
        helper = Helper(HelperKind.PTY, "test", await supervisor.host())
        await helper.start()
        try:
            yield helper
        finally:
            await helper.close()


def test_row_03_the_wait_for_an_answer_of_a_silent_helper_ends_with_its_operation(disk: Path, tmp_path: Path) -> None:
    code = "def silent(channel):\n    while True: channel.receive((ReadBoot,))\n"
    code += "launcher._RUN[HelperKind.BOOTLOADER] = silent"

    async def main() -> None:
        async with Supervisor(config(tmp_path, code)) as supervisor:
            with pytest.raises(OperationTimedOut):
                await supervisor.run_bootloader(BootRequest(disk=disk))

    ends(main())


def test_row_03_the_wait_for_an_answer_of_a_stopped_helper_ends_with_its_operation(disk: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(config(tmp_path)) as supervisor:
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            operation.on_progress(lambda step: stop(pid_of("bootloader")) if step == "image" else None)
            with pytest.raises(OperationTimedOut):
                (await operation.complete()).close()

    ends(main())


def test_row_03_the_wait_for_an_answer_of_a_helper_that_is_gone_ends_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with idle(tmp_path) as helper:
            await helper.order(HelperState.OPENING, OpenPtys(count=1, columns=80, rows=24))
            await asyncio.shield(helper.child.death)
            received = await helper.receive()  # what it said before it went is still there
            received.close()
            with pytest.raises(HelperDied):
                await helper.receive()

    ends(main())


@BOTH
def test_row_03_the_wait_for_a_helpers_death_ends(make: object, tmp_path: Path) -> None:
    async def main() -> None:
        async with idle(tmp_path) as helper:
            assert callable(make)
            make(helper.child.pid)
            await helper.close()
            assert helper.child.death.result() == -signal.SIGKILL

    ends(main())


def test_row_03_the_wait_for_the_death_of_a_helper_that_answered_and_stays_ends(tmp_path: Path, disk: Path) -> None:
    code = (
        "def stays(channel):\n"
        "    received = channel.receive((ReadBoot,))\n"
        "    os.write(received.fds[1].fileno(), b'MZ')\n"
        "    channel.send(BootRead(title=b'', args=b'', kernel_bytes=2, ramdisk_bytes=0, source=''))\n"
        "    channel.receive(())\n"
        "launcher._RUN[HelperKind.BOOTLOADER] = stays"
    )

    async def main() -> None:
        async with Supervisor(config(tmp_path, code)) as supervisor:
            with pytest.raises(ProtocolViolation, match="did not end"):
                await supervisor.run_bootloader(BootRequest(disk=disk))

    ends(main())


# --- a relay ----------------------------------------------------------------------------------------------------


def pid_of(kind: str) -> int:
    for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
        if Path("/proc", pid, "cmdline").read_text().startswith(f"domward: {kind}"):
            return int(pid)
    raise LookupError(kind)


@BOTH
def test_row_03_the_wait_for_the_end_of_a_relay_ends(make: object, disk: Path, tmp_path: Path) -> None:
    async def main() -> None:
        master, slave = os.openpty()
        tty.setraw(slave)
        try:
            async with Supervisor(config(tmp_path)) as supervisor:
                request = BootRequest(disk=disk, console=Console(slave, slave), menu_timeout=0)
                operation = supervisor.bootloader_operation(request)
                assert callable(make)
                act = make
                operation.on_progress(lambda step: act(pid_of("datacopier")) if step == "image" else None)
                with pytest.raises((OperationTimedOut, HelperDied)) as caught:
                    (await operation.complete()).close()
                assert caught.type is (OperationTimedOut if make is stop else HelperDied)
        finally:
            os.close(master)
            os.close(slave)

    ends(main())


# --- a disk -----------------------------------------------------------------------------------------------------


def test_row_03_the_wait_for_a_disk_to_open_ends_where_its_server_is_silent(disk: Path, tmp_path: Path) -> None:
    async def main(silent: Path) -> None:
        async with Supervisor(config(tmp_path)) as supervisor:
            with pytest.raises(OperationTimedOut):
                await supervisor.run_bootloader(BootRequest(disk=silent))

    with flaky_disk(tmp_path, disk, failing_from(0), opening=NEVER) as silent:
        ends(main(silent))


@pytest.mark.parametrize("name", ["missing", "fifo", "socket"])
def test_row_03_the_wait_for_a_disk_to_open_ends_where_there_is_nobody(name: str, tmp_path: Path) -> None:
    if name == "fifo":
        os.mkfifo(tmp_path / name)
    if name == "socket":
        os.mknod(tmp_path / name, 0o140600)

    async def main() -> None:
        async with Supervisor(config(tmp_path)) as supervisor:
            with pytest.raises(DomwardError) as caught:
                await supervisor.run_bootloader(BootRequest(disk=tmp_path / name))
            assert isinstance(caught.value, DiskError)

    ends(main())
