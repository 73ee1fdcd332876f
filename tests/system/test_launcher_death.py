# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher's own death: typed ends, a new launcher for the next operation, and an end to trying after five."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.planted import planted

from domward.protocol import limits
from domward.protocol.errors import HelperDied, OperationFailed
from domward.supervisor import BootRequest, Budgets, Config, Operation, Supervisor
from domward.supervisor.bootloader import InspectResult
from domward.supervisor.launchers import DeathCount

QUICK = Budgets(term_grace_seconds=0.3)
DIES_AT_A_REQUEST = "launcher._spawn = lambda *arguments: os._exit(1)"


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


async def kill_launcher(supervisor: Supervisor) -> None:
    assert supervisor._launcher is not None
    child = supervisor._launcher.child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.wait([child.death])


@pytest.mark.parametrize("step", ["disk", "helper", "image"])
def test_an_operation_in_flight_ends_typed_and_the_next_has_a_new_launcher(step: str, disk: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), Supervisor(Config(budgets=QUICK)) as supervisor:
            assert supervisor._launcher is not None
            first = supervisor._launcher.child

            def kill(reached: str) -> None:
                if reached == step:
                    assert first is not None
                    os.kill(first.pid, signal.SIGKILL)

            operation: Operation[InspectResult] = supervisor.inspect_operation(disk)
            operation.on_progress(kill)
            operation.start()
            (outcome,) = await asyncio.gather(operation.wait(), return_exceptions=True)
            assert isinstance(outcome, HelperDied | InspectResult)
            assert first is not None
            await asyncio.wait([first.death])
            assert (await supervisor.inspect(disk)).entries
            assert supervisor._launcher.child is not first

    asyncio.run(main())


def test_a_helper_that_works_outlives_its_launcher_and_gives_its_result(disk: Path, tmp_path: Path) -> None:
    wait = "channel._socket.recv(0, socket.MSG_PEEK)"  # until its order has come
    code = (
        "work = launcher._RUN[HelperKind.BOOTLOADER]\n"
        f"launcher._RUN[HelperKind.BOOTLOADER] = lambda channel: ({wait}, work(channel))[1]"
    )

    async def main() -> None:
        config = Config(budgets=QUICK, python=planted(tmp_path, code))
        async with asyncio.timeout(60), Supervisor(config) as supervisor:
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            killed = asyncio.Event()

            def kill(step: str) -> None:
                if step == "image" and not killed.is_set():
                    killed.set()
                    assert supervisor._launcher is not None
                    assert supervisor._launcher.child is not None
                    os.kill(supervisor._launcher.child.pid, signal.SIGKILL)

            operation.on_progress(kill)
            result = await operation.complete()
            assert killed.is_set()
            assert result.kernel.size > 0
            result.close()

    asyncio.run(main())


def test_five_deaths_within_a_minute_are_given_up_on_and_said_so(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), Supervisor(Config(budgets=QUICK)) as supervisor:
            for _ in range(limits.LAUNCHER_DEATHS):
                assert (await supervisor.inspect(disk)).entries
                await kill_launcher(supervisor)
            for _ in range(3):
                with pytest.raises(OperationFailed, match="died 5 times within 60 seconds") as caught:
                    await supervisor.inspect(disk)
                assert (caught.value.code, caught.value.exit_code) == ("launcher-gave-up", 1)
        async with Supervisor() as anew:
            assert (await anew.inspect(disk)).entries

    with caplog.at_level("ERROR", "domward.launcher"):
        asyncio.run(main())
    assert [record.getMessage().split()[-1] for record in caplog.records] == ["SIGKILL."] * limits.LAUNCHER_DEATHS


def test_a_launcher_that_dies_of_every_request_is_given_up_on(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> list[str]:
        config = Config(budgets=QUICK, python=planted(tmp_path, DIES_AT_A_REQUEST))
        async with asyncio.timeout(60), Supervisor(config) as supervisor:
            ends = await asyncio.gather(*(supervisor.inspect(disk) for _ in range(3)), return_exceptions=True)
            codes = [getattr(end, "code", "") for end in ends]
            while codes[-1] != "launcher-gave-up":
                (end,) = await asyncio.gather(supervisor.inspect(disk), return_exceptions=True)
                codes.append(getattr(end, "code", ""))
            return codes

    codes = asyncio.run(main())
    assert codes[:-1] == ["helper-died"] * (len(codes) - 1)
    assert limits.LAUNCHER_DEATHS < len(codes) <= limits.LAUNCHER_DEATHS + 3


def test_deaths_that_are_far_enough_apart_are_forgiven() -> None:
    count = DeathCount(most=5, within=60)
    assert [count.note(15.0 * number) for number in range(50)] == [False] * 50
    assert [count.note(1000 + number) for number in range(5)] == [False] * 4 + [True]
