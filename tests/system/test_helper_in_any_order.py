# SPDX-License-Identifier: GPL-3.0-or-later
"""Real, confined helpers driven through orders, answers, kills and closes in random order: the table always holds."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domward.protocol.errors import HelperDied, ProtocolViolation, UsageError
from domward.protocol.messages import HelperKind, OpenPtys, PtysOpened
from domward.supervisor import Budgets, Config, Supervisor
from domward.supervisor.helper import Helper
from domward.supervisor.helper_states import HelperState

QUICK = Config(budgets=Budgets(term_grace_seconds=0.2))
ORDER = OpenPtys(count=1, columns=80, rows=24)


class HelperInAnyOrder(RuleBasedStateMachine):
    """One pty helper of a real supervisor. `killed` says that it was; `state` is what the table makes of the events."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.supervisor = Supervisor(QUICK)
        self.run(self.supervisor.open())
        host = self.run(self.supervisor.host())
        self.helper = Helper(HelperKind.PTY, "any-order", host)
        self.run(self.helper.start())
        self.state = HelperState.IDLE
        self.killed = False
        self.closed = False

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @precondition(lambda self: not self.killed and self.state is HelperState.IDLE)
    @rule()
    def order(self) -> None:
        self.run(self.helper.order(HelperState.OPENING, ORDER))
        self.state = HelperState.OPENING

    @precondition(lambda self: self.state is not HelperState.IDLE)
    @rule()
    def order_what_is_not_idle(self) -> None:
        with pytest.raises(UsageError):
            self.run(self.helper.order(HelperState.OPENING, ORDER))

    @precondition(lambda self: not self.killed and self.state is HelperState.OPENING)
    @rule()
    def take_the_answer(self) -> None:
        received = self.run(self.helper.receive())
        assert isinstance(received.message, PtysOpened)
        received.close()
        self.state = HelperState.ANSWERED

    @precondition(lambda self: not self.killed and self.state is HelperState.ANSWERED)
    @rule()
    def see_it_end(self) -> None:
        self.run(self.helper.ended())
        self.killed = True
        self.state = HelperState.DEAD

    @precondition(lambda self: not self.killed)
    @rule()
    def kill(self) -> None:
        async def killed() -> None:
            os.kill(self.helper.child.pid, signal.SIGKILL)
            await asyncio.shield(self.helper.child.death)

        if self.helper.child.alive:
            self.run(killed())
        self.killed = True

    @precondition(lambda self: self.killed and not self.closed and self.state is HelperState.IDLE)
    @rule()
    def order_what_was_killed(self) -> None:
        with pytest.raises((HelperDied, ProtocolViolation)):
            self.run(self.helper.order(HelperState.OPENING, ORDER))
        self.close()

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.run(self.helper.close())
        self.closed = self.killed = True
        self.state = HelperState.DEAD

    @precondition(lambda self: self.closed)
    @rule()
    def close_again(self) -> None:
        self.run(self.helper.close())

    @invariant()
    def the_state_is_the_tables(self) -> None:
        assert self.helper.state is self.state
        assert not self.closed or not self.helper.child.alive

    def teardown(self) -> None:
        self.run(self.helper.close())
        self.run(self.supervisor.close())
        self.runner.close()


HelperInAnyOrder.TestCase.settings = settings(
    max_examples=25, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHelperInAnyOrder = HelperInAnyOrder.TestCase
