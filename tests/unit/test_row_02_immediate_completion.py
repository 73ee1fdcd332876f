# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 02: an operation that ends inside its start call completes once, after start returned, all released."""

from __future__ import annotations

import asyncio
import os

import pytest

from domward.protocol.errors import DiskError, DiskReason, DomwardError
from domward.protocol.fds import Fd
from domward.supervisor.operations import Operation


@pytest.mark.parametrize(
    ("how", "outcome"), [("result", "result"), ("error", "disk-empty"), ("cancel", "cancelled"), ("late", "cancelled")]
)
def test_row_02_one_completion_after_start_returned_and_the_fds_released(how: str, outcome: str) -> None:
    seen: list[str] = []

    async def body(operation: Operation[str]) -> str:
        reader, writer = os.pipe()
        for number in (reader, writer):
            operation.scope.enter_context(Fd(number, "pipe"))
        operation.scope.callback(seen.append, "released")
        if how == "error":
            raise DiskError(DiskReason.EMPTY, "It is empty.")
        return "result"

    async def main() -> None:
        fds = os.listdir("/proc/self/fd")
        operation = Operation("test", body, 60, lambda _result: None)
        operation.on_done(lambda done: seen.append(f"completed {outcome_of(done)}"))
        if how == "cancel":
            operation.cancel()
        else:
            operation.start()
        if how == "late":
            operation.cancel()
        seen.append("start returned")
        await asyncio.wait([asyncio.ensure_future(operation.wait())])
        assert os.listdir("/proc/self/fd") == fds
        released = [] if outcome == "cancelled" else ["released"]
        assert seen == ["start returned", *released, f"completed {outcome}"]

    asyncio.run(main())


def outcome_of(operation: Operation[str]) -> str:
    try:
        return operation.result()
    except DomwardError as error:
        return error.code
