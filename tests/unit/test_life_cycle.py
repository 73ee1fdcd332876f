# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of the life cycles, cell by cell, and real operations driven through them in every order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domward.protocol.errors import (
    DiskError,
    DiskReason,
    DomwardError,
    OperationCancelled,
    ProtocolViolation,
    UsageError,
)
from domward.protocol.messages import HelperKind, OpenPtys
from domward.supervisor.helper import Helper, HelperHost
from domward.supervisor.helper_states import ALLOWED, ANSWERS, HelperState
from domward.supervisor.life_cycle import (
    HELPER,
    OPERATION,
    ORDERS,
    HelperEvent,
    OperationEvent,
    OperationState,
    Reaction,
)
from domward.supervisor.operations import Operation

OPERATION_CELLS = list(itertools.product(OperationState, OperationEvent))
HELPER_CELLS = list(itertools.product(HelperState, HelperEvent))


def name(cell: tuple[Any, Any]) -> str:
    return f"{cell[0].value}-{cell[1].value}"


def test_every_cell_is_filled_and_no_other_is_there() -> None:
    assert {(state, event) for state, row in OPERATION.items() for event in row} == set(OPERATION_CELLS)
    assert {(state, event) for state, row in HELPER.items() for event in row} == set(HELPER_CELLS)


def test_every_state_of_a_helper_says_what_may_be_sent_in_it() -> None:
    assert set(ALLOWED) == set(HelperState)
    for state, row in HELPER.items():
        answers = ANSWERS & set(ALLOWED[state]) if state is not HelperState.STARTING else set()
        assert bool(answers) == (row[HelperEvent.ANSWER] is not None)


class Driven:
    """A real operation whose body and release end when the test says so."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.body_ends: asyncio.Future[str] = loop.create_future()
        self.release_ends: asyncio.Future[None] = loop.create_future()
        self.completions: list[str] = []
        self.released = 0
        self.operation = Operation("test", self._body, 3600, lambda _result: None)
        self.operation.on_done(lambda operation: self.completions.append(operation.state.value))

    async def _body(self, operation: Operation[str]) -> str:
        operation.scope.push_async_callback(self._release)
        return await self.body_ends

    async def _release(self) -> None:
        self.released += 1
        await self.release_ends

    async def to(self, state: OperationState) -> None:
        if state is not OperationState.NEW:
            self.operation.start()
            await settle()
        if state in (OperationState.ENDING, OperationState.DONE):
            self.body_ends.set_result("result")
            await settle()
        if state is OperationState.DONE:
            self.release_ends.set_result(None)
            await settle()
        assert self.operation.state is state

    async def finish(self) -> None:
        if not self.release_ends.done():
            self.release_ends.set_result(None)
        self.operation.cancel()
        await asyncio.wait([asyncio.ensure_future(self.operation.wait())])


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


@pytest.mark.parametrize("cell", OPERATION_CELLS, ids=name)
def test_an_operation_does_what_its_cell_says(cell: tuple[OperationState, OperationEvent]) -> None:
    state, event = cell
    reaction, after = OPERATION[state][event]

    async def main() -> None:
        driven = Driven()
        await driven.to(state)
        operation = driven.operation
        if event is OperationEvent.START and reaction is Reaction.REFUSE:
            with pytest.raises(UsageError, match="started already"):
                operation.start()
        elif event is OperationEvent.START:
            operation.start()
        elif event is OperationEvent.CANCEL:
            operation.cancel()
        elif reaction is Reaction.IMPOSSIBLE:
            with pytest.raises(AssertionError):
                operation._happened(event)
        elif event is OperationEvent.BODY_ENDED:
            driven.body_ends.set_result("result")
            await settle()
        else:
            driven.release_ends.set_result(None)
            await settle()
        assert operation.state is after
        await driven.finish()
        await settle()
        assert driven.completions == ["done"]

    run(main())


@pytest.mark.parametrize("cell", HELPER_CELLS, ids=name)
def test_a_helper_does_what_its_cell_says(cell: tuple[HelperState, HelperEvent]) -> None:
    state, event = cell
    after = HELPER[state][event]
    # Only the state is looked at: nothing of the host, and no process, has a part in it.
    helper = Helper(HelperKind.PTY, "test", cast(HelperHost, None), state=state)
    if after is None:
        with pytest.raises(ProtocolViolation, match=state.value):
            helper._happened(event)
        assert helper.state is state
    else:
        helper._happened(event)
        assert helper.state is after


@pytest.mark.parametrize("state", set(HelperState) - {HelperState.IDLE}, ids=lambda state: state.value)
@pytest.mark.parametrize("work", ORDERS, ids=lambda state: state.value)
def test_work_for_a_helper_that_is_not_idle_is_the_callers_fault(state: HelperState, work: HelperState) -> None:
    async def main() -> None:
        helper = Helper(HelperKind.PTY, "test", cast(HelperHost, None), state=state)
        with pytest.raises(UsageError, match=state.value):
            await helper.order(work, OpenPtys(count=1, columns=80, rows=24))

    run(main())


ORDER = list(OperationState)


def test_operations_only_go_forward_and_always_can() -> None:
    for state, row in OPERATION.items():
        assert all(ORDER.index(after) in (ORDER.index(state), ORDER.index(state) + 1) for _, after in row.values())
        assert state is OperationState.DONE or any(after is not state for _, after in row.values())


def test_a_helper_can_die_in_every_state_and_is_then_dead_for_ever() -> None:
    assert all(row[HelperEvent.DEATH] is HelperState.DEAD for row in HELPER.values())
    assert set(HELPER[HelperState.DEAD].values()) == {None, HelperState.DEAD}


class OperationInAnyOrder(RuleBasedStateMachine):
    """Starts, cancels, waiters that come and go, ends of body and release, in any order, against a real Operation."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.driven = self.runner.run(self._make())
        self.waiters: list[asyncio.Task[str]] = []
        self.started = self.cancelled_in_time = self.body_told = False
        self.states = [OperationState.NEW]

    async def _make(self) -> Driven:
        return Driven()

    @property
    def operation(self) -> Operation[str]:
        return self.driven.operation

    def do(self, call: Any) -> None:
        async def inside() -> None:
            call()

        self.runner.run(inside())

    @rule()
    def start(self) -> None:
        if self.started:
            with pytest.raises(UsageError):
                self.do(self.operation.start)
        else:
            self.do(self.operation.start)
            self.started = True

    @rule()
    def cancel(self) -> None:
        if self.operation.state in (OperationState.NEW, OperationState.RUNNING) and not self.body_told:
            self.cancelled_in_time = True
        self.started = True
        self.do(self.operation.cancel)

    @rule()
    def go_round(self) -> None:
        self.runner.run(settle())

    @precondition(lambda self: not self.driven.body_ends.done())
    @rule()
    def body_returns(self) -> None:
        self.driven.body_ends.set_result("result")
        self.body_told = True

    @precondition(lambda self: not self.driven.body_ends.done())
    @rule()
    def body_raises(self) -> None:
        self.driven.body_ends.set_exception(DiskError(DiskReason.EMPTY, "It is empty."))
        self.driven.body_ends.exception()
        self.body_told = True

    @precondition(lambda self: not self.driven.release_ends.done())
    @rule()
    def release_ends(self) -> None:
        self.driven.release_ends.set_result(None)

    @rule()
    def somebody_waits(self) -> None:
        async def wait() -> asyncio.Task[str]:
            return asyncio.ensure_future(self.operation.wait())

        self.waiters.append(self.runner.run(wait()))

    @precondition(lambda self: self.waiters)
    @rule()
    def somebody_leaves(self) -> None:
        async def leave(task: asyncio.Task[str]) -> None:
            task.cancel()
            await asyncio.wait([task])

        self.runner.run(leave(self.waiters.pop()))

    @invariant()
    def it_goes_forward_and_completes_at_most_once(self) -> None:
        assert ORDER.index(self.operation.state) >= ORDER.index(self.states[-1])
        self.states.append(self.operation.state)
        assert len(self.driven.completions) <= 1
        assert self.driven.released <= 1
        assert all(self.operation.state is OperationState.DONE for task in self.waiters if task.done())

    def teardown(self) -> None:
        async def end() -> None:
            if not self.driven.body_ends.done():
                self.driven.body_ends.cancel()
            await self.driven.finish()
            await settle()
            outcomes = {await self._outcome(task) for task in self.waiters}
            assert len(outcomes) <= 1
            assert outcomes == (set() if not self.waiters else {await self._outcome(self.operation.wait())})

        self.runner.run(end())
        self.runner.close()
        assert self.driven.completions == ["done"]
        if self.cancelled_in_time:
            with pytest.raises(OperationCancelled):
                self.operation.result()

    async def _outcome(self, waiting: Any) -> str:
        try:
            return str(await waiting)
        except DomwardError as error:
            return error.code


OperationInAnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestOperationInAnyOrder = OperationInAnyOrder.TestCase
