# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 21: watches of one fd, added, changed and removed in any order: each gets what poll(2) says of its interest."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import socket
import tty
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domward.supervisor.events import Condition, Events, Watch

IN, OUT, NONE = Condition.IN, Condition.OUT, Condition.NONE


def _socket() -> tuple[int, int]:
    near, far = socket.socketpair()
    return near.detach(), far.detach()


KINDS: dict[str, Callable[[], tuple[int, int]]] = {"socket": _socket, "pty": pty.openpty, "pipe": os.pipe}
ACTIONS = ["add", "change", "remove", "fill", "drain"]
INTERESTS = [NONE, IN, OUT, IN | OUT]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 4), st.sampled_from(INTERESTS)), max_size=30)


def polled(number: int, interest: Condition) -> Condition:
    poll = select.poll()
    poll.register(number, interest.value)
    return next((Condition(found) for _, found in poll.poll(0)), NONE)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_row_21_any_order_of_watches_on_one_fd_agrees_with_poll(
    kind: str, steps: list[tuple[str, int, Condition]]
) -> None:
    async def main() -> None:
        near, far = KINDS[kind]()
        if kind == "pty":
            tty.setraw(far)
        events = Events(asyncio.get_running_loop())
        watches: dict[int, Watch] = {}
        got: dict[int, Condition] = {}
        for action, key, interest in steps:
            if action == "add" and key not in watches:
                watches[key] = events.watch(near, interest, lambda found, key=key: got.__setitem__(key, found))
            elif action == "change" and key in watches:
                watches[key].change(interest)
            elif action == "remove" and key in watches:
                watches.pop(key).cancel()
            elif action == "fill" and kind != "pipe" and IN not in polled(near, IN):
                os.write(far, b"x")
                select.select([near], [], [])  # a pty's kernel thread brings it over
            elif action == "drain" and IN in polled(near, IN):
                os.read(near, 1000)
            got.clear()
            events._dispatch()  # one round, without the loop's own choice of when
            wanted = {key: polled(near, watch.interest) for key, watch in watches.items()}
            assert got == {key: found for key, found in wanted.items() if found}
        for watch in watches.values():
            watch.cancel()
        events.close()
        os.close(near)
        os.close(far)

    asyncio.run(main())
