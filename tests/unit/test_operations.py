# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations: one completion each, after everything is released, whoever waits and whenever it is cancelled."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from domward.protocol.errors import (
    DiskError,
    DiskReason,
    DomwardError,
    OperationCancelled,
    OperationFailed,
    OperationTimedOut,
    UsageError,
)
from domward.supervisor import Operation, OperationState
from domward.supervisor.endings import to_its_end

Body = Callable[[Operation[str]], Awaitable[str]]


class Watched:
    """An operation with all that can be noticed of it, in order."""

    def __init__(self, body: Body, seconds: float = 60) -> None:
        self.seen: list[str] = []
        self.operation = Operation("test", body, seconds, lambda result: self.seen.append(f"discarded {result}"))
        self.operation.on_done(lambda operation: self.seen.append(f"done {operation.state.value}"))
        self.operation.on_progress(self.seen.append)


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(body)


async def result(_operation: Operation[str]) -> str:
    return "result"


async def forever(operation: Operation[str]) -> str:
    operation.report("waiting")
    await asyncio.get_running_loop().create_future()
    return "never"


async def until(operation: Operation[str], state: OperationState) -> None:
    while operation.state is not state:  # noqa: ASYNC110 - an operation has no event for its states
        await asyncio.sleep(0)


def state(operation: Operation[str]) -> OperationState:
    return operation.state


def test_an_operation_from_start_to_result() -> None:
    async def main() -> None:
        async def body(operation: Operation[str]) -> str:
            operation.report("one")
            operation.scope.callback(lambda: watched.seen.append("released first"))
            operation.scope.callback(lambda: watched.seen.append("released second"))
            await asyncio.sleep(0)
            operation.report("two")
            return "result"

        watched = Watched(body)
        assert state(watched.operation) is OperationState.NEW
        assert await watched.operation.complete() == "result"
        await asyncio.sleep(0)
        assert watched.seen == ["one", "two", "released second", "released first", "done done"]

    run(main())


def test_a_body_that_ends_at_once_completes_after_start_returned() -> None:
    async def main() -> None:
        watched = Watched(result)
        watched.operation.start()
        assert state(watched.operation) is OperationState.RUNNING
        assert watched.seen == []
        assert await watched.operation.wait() == "result"
        assert state(watched.operation) is OperationState.DONE

    run(main())


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (DiskError(DiskReason.EMPTY, "It is empty."), DiskError, "disk-empty"),
        (OSError(errno.EMFILE, "Too many open files"), OperationFailed, "failed"),
        (MemoryError(), OperationFailed, "out-of-memory"),
    ],
)
def test_an_immediate_error_is_the_completion(raised: Exception, kind: type[DomwardError], code: str) -> None:
    async def main() -> None:
        async def body(_operation: Operation[str]) -> str:
            raise raised

        operation = Watched(body).operation
        with pytest.raises(kind) as caught:
            await operation.complete()
        assert caught.value.code == code
        assert caught.value.operation == operation.id

    run(main())


def test_an_error_outside_the_tree_is_a_defect_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def body(_operation: Operation[str]) -> str:
            raise ZeroDivisionError("\x1b[2J")

        with pytest.raises(OperationFailed) as caught:
            await Watched(body).operation.complete()
        assert "ZeroDivisionError" in str(caught.value)
        assert str(caught.value).isprintable()

    with caplog.at_level(logging.ERROR, "domward.operation"):
        run(main())
    assert caplog.records[0].exc_info is not None


def test_cancelled_before_the_start_it_never_runs() -> None:
    async def main() -> None:
        async def body(_operation: Operation[str]) -> str:
            watched.seen.append("ran")
            return "result"

        watched = Watched(body)
        watched.operation.cancel()
        with pytest.raises(OperationCancelled):
            await watched.operation.wait()
        with pytest.raises(UsageError):
            watched.operation.start()
        assert "ran" not in watched.seen

    run(main())


def test_cancelled_right_after_the_start_it_is_cancelled_once() -> None:
    async def main() -> None:
        watched = Watched(forever)
        watched.operation.start()
        watched.operation.cancel()
        watched.operation.cancel()
        with pytest.raises(OperationCancelled):
            await watched.operation.wait()
        await asyncio.sleep(0)
        assert watched.seen == ["done done"]
        watched.operation.cancel()
        assert state(watched.operation) is OperationState.DONE

    run(main())


def test_cancelled_at_an_await_it_releases_before_it_is_done() -> None:
    async def main() -> None:
        async def body(operation: Operation[str]) -> str:
            async def release() -> None:
                watched.seen.append(f"releasing while {operation.state.value}")
                operation.report("too late")
                operation.cancel()
                await asyncio.sleep(0)
                watched.seen.append("released")

            operation.scope.push_async_callback(release)
            return await forever(operation)

        watched = Watched(body)
        watched.operation.start()
        await asyncio.sleep(0)
        watched.operation.cancel()
        with pytest.raises(OperationCancelled):
            await watched.operation.wait()
        await asyncio.sleep(0)
        assert watched.seen == ["waiting", "releasing while ending", "released", "done done"]

    run(main())


def test_a_cancel_while_it_is_ending_changes_nothing() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def body(operation: Operation[str]) -> str:
            operation.scope.push_async_callback(go.wait)
            return "result"

        watched = Watched(body)
        watched.operation.start()
        await until(watched.operation, OperationState.ENDING)
        watched.operation.cancel()
        watched.operation.cancel()
        go.set()
        assert await watched.operation.wait() == "result"

    run(main())


def test_several_waiters_get_the_same_and_one_that_leaves_disturbs_nobody() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def body(_operation: Operation[str]) -> str:
            await go.wait()
            return "result"

        operation = Watched(body).operation
        operation.start()
        waiters = [asyncio.ensure_future(operation.wait()) for _ in range(4)]
        await asyncio.sleep(0)
        waiters[1].cancel()
        await asyncio.sleep(0)
        assert state(operation) is OperationState.RUNNING
        go.set()
        found = await asyncio.gather(*waiters, return_exceptions=True)
        assert found[0] == found[2] == found[3] == "result"
        assert isinstance(found[1], asyncio.CancelledError)
        assert await operation.wait() == "result", "who comes late gets the same"

    run(main())


def test_late_and_several_waiters_get_the_same_error() -> None:
    async def main() -> None:
        operation = Watched(forever).operation
        operation.start()
        waiters = [asyncio.ensure_future(operation.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        operation.cancel()
        errors = await asyncio.gather(*waiters, return_exceptions=True)
        with pytest.raises(OperationCancelled) as late:
            await operation.wait()
        assert errors == [late.value, late.value]

    run(main())


def test_the_time_out_ends_the_body_and_releases() -> None:
    async def main() -> None:
        async def body(operation: Operation[str]) -> str:
            operation.scope.callback(lambda: watched.seen.append("released"))
            return await forever(operation)

        watched = Watched(body, seconds=0.01)
        with pytest.raises(OperationTimedOut, match=r"within 0\.01 seconds") as caught:
            await watched.operation.complete()
        assert caught.value.exit_code == 5
        assert watched.seen == ["waiting", "released", "done done"]

    run(main())


def test_a_release_that_raises_stops_no_other_and_takes_the_result_back() -> None:
    async def main() -> None:
        async def body(operation: Operation[str]) -> str:
            operation.scope.callback(lambda: watched.seen.append("first in, last out"))

            def release() -> None:
                raise OSError(errno.EIO, "Input/output error")

            operation.scope.callback(release)
            operation.scope.callback(lambda: watched.seen.append("last in, first out"))
            return "result"

        watched = Watched(body)
        with pytest.raises(OperationFailed, match="Input/output error"):
            await watched.operation.complete()
        assert watched.seen == ["last in, first out", "first in, last out", "discarded result", "done done"]

    run(main())


def test_a_release_that_raises_does_not_hide_why_the_body_failed() -> None:
    async def main() -> None:
        async def body(operation: Operation[str]) -> str:
            def release() -> None:
                raise OSError(errno.EIO, "Input/output error")

            operation.scope.callback(release)
            raise DiskError(DiskReason.EMPTY, "It is empty.")

        with pytest.raises(DiskError):
            await Watched(body).operation.complete()

    run(main())


def test_a_caller_that_is_cancelled_cancels_and_awaits_the_operation() -> None:
    async def main() -> None:
        released = asyncio.Event()

        async def body(operation: Operation[str]) -> str:
            async def release() -> None:
                await asyncio.sleep(0)
                released.set()

            operation.scope.push_async_callback(release)
            return await forever(operation)

        operation = Watched(body).operation
        caller = asyncio.ensure_future(operation.complete())
        await until(operation, OperationState.RUNNING)
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        caller.cancel()  # impatience does not leave the operation behind either
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert released.is_set()
        assert state(operation) is OperationState.DONE

    run(main())


def test_a_caller_that_is_cancelled_too_late_does_not_leak_the_result() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def body(operation: Operation[str]) -> str:
            operation.scope.push_async_callback(go.wait)
            return "result"

        watched = Watched(body)
        caller = asyncio.ensure_future(watched.operation.complete())
        await asyncio.sleep(0)
        await until(watched.operation, OperationState.ENDING)
        caller.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert "discarded result" in watched.seen

    run(main())


def test_an_operation_is_started_once() -> None:
    async def main() -> None:
        operation = Watched(result).operation
        await operation.complete()
        with pytest.raises(UsageError, match="started already"):
            operation.start()

    run(main())


def test_a_release_is_brought_to_its_end_however_often_its_caller_is_cancelled() -> None:
    async def main() -> None:
        go, ended = asyncio.Event(), []

        async def release() -> None:
            await go.wait()
            ended.append(True)

        task = asyncio.ensure_future(to_its_end(release()))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]

    run(main())
