# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 04: a callback may start, cancel and await operations and re-enter the supervisor: no lock is held across it."""

from __future__ import annotations

import asyncio
import queue
from concurrent.futures import Future
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.protocol.errors import OperationCancelled
from domward.supervisor import InspectResult, Operation, OperationState, Supervisor, ThreadedSupervisor

DEADLINE = 60


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


def test_row_04_callbacks_start_cancel_and_await_other_operations(disk: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE), Supervisor() as supervisor:
            awaited: list[asyncio.Task[InspectResult]] = []
            victims: list[Operation[InspectResult]] = []

            def on_progress(step: str) -> None:
                if step == "helper":
                    victims.append(supervisor.inspect_operation(disk))
                    victims[-1].start()
                    awaited.append(asyncio.ensure_future(supervisor.inspect(disk)))

            def on_done(_operation: Operation[InspectResult]) -> None:
                for victim in victims:
                    victim.cancel()
                    victim.cancel()
                first.cancel()  # done: nothing happens
                awaited.append(asyncio.ensure_future(supervisor.inspect(disk)))

            first = supervisor.inspect_operation(disk)
            first.on_progress(on_progress)
            first.on_done(on_done)
            first.start()
            await first.wait()
            await asyncio.sleep(0)  # `on_done` is called in the same round as this waiter
            results = await asyncio.gather(*awaited)
            assert len(results) == 2
            assert all(result.entries for result in results)
            for victim in victims:
                await asyncio.wait([asyncio.ensure_future(victim.wait())])
                assert victim.state is OperationState.DONE

    asyncio.run(main())


def test_row_04_callbacks_in_the_supervisors_thread_ask_for_more_and_cancel(disk: Path) -> None:
    done: queue.Queue[Future[InspectResult]] = queue.Queue()
    with ThreadedSupervisor() as supervisor:

        def again(_operation: Future[InspectResult]) -> None:
            supervisor.inspect(disk).add_done_callback(done.put)
            doomed = supervisor.inspect(disk)
            doomed.cancel()
            doomed.add_done_callback(done.put)

        supervisor.inspect(disk).add_done_callback(again)
        ends = [done.get(timeout=DEADLINE) for _ in range(2)]
    errors = [end.exception() for end in ends]
    assert sum(error is None for error in errors) == 1
    assert sum(isinstance(error, OperationCancelled) for error in errors) == 1
