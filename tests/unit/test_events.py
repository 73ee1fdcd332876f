# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches on real fds: what the callback gets, how often, and when never again."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domward.protocol.errors import UsageError
from domward.supervisor.events import Condition, Events, Watch

IN, OUT, NONE = Condition.IN, Condition.OUT, Condition.NONE
ERROR, HANGUP, INVALID = Condition.ERROR, Condition.HANGUP, Condition.INVALID


def with_events(body: Callable[[Events], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with closing(Events(asyncio.get_running_loop())) as events:
            await body(events)

    asyncio.run(main())


async def rounds(count: int = 8) -> None:
    """Lets the loop go round; in each round it looks at every fd that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def a_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    ends = {reader, writer}
    try:
        yield reader, writer
    finally:
        for number in ends:
            try:
                os.close(number)
            except OSError:  # the test closed it
                continue


class Calls:
    """A callback that notes what it was called with."""

    def __init__(self) -> None:
        self.found: list[Condition] = []

    def __call__(self, conditions: Condition) -> None:
        self.found.append(conditions)


def test_waiting_for_a_message_on_a_pipe() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            waiting = asyncio.ensure_future(events.wait(reader, IN))
            await rounds()
            assert not waiting.done()
            os.write(writer, b"x")
            assert await waiting == IN

    with_events(body)


def test_a_condition_calls_for_as_long_as_it_lasts() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            calls = Calls()
            watch = events.watch(reader, IN, calls)
            await rounds()
            assert calls.found == []
            os.write(writer, b"x")
            await rounds()
            assert len(calls.found) > 2
            assert set(calls.found) == {IN}
            os.read(reader, 1)
            seen = len(calls.found)
            await rounds()
            assert len(calls.found) == seen
            watch.cancel()

    with_events(body)


def test_several_watches_of_one_fd_each_get_their_own_interest() -> None:
    async def body(events: Events) -> None:
        near, far = socket.socketpair()
        with near, far:
            readable, writable, both, neither = Calls(), Calls(), Calls(), Calls()
            watches = [
                events.watch(near.fileno(), interest, calls)
                for interest, calls in ((IN, readable), (OUT, writable), (IN | OUT, both), (NONE, neither))
            ]
            await rounds()
            assert readable.found == []
            assert set(writable.found) == {OUT} == set(both.found)
            far.send(b"x")
            await rounds()
            assert set(readable.found) == {IN}
            assert both.found[-1] == IN | OUT
            assert set(writable.found) == {OUT}
            assert neither.found == []
            watches[2].cancel()
            seen = len(both.found)
            await rounds()
            assert len(both.found) == seen
            for watch in watches:
                watch.cancel()

    with_events(body)


def reset_socket() -> tuple[socket.socket, socket.socket]:
    """A TCP connection that the other end has reset: POLLERR as well as POLLHUP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    return near, far


def test_errors_reach_every_watch_once_whatever_its_interest() -> None:
    async def body(events: Events) -> None:
        near, _far = reset_socket()
        with near:
            found = {interest: Calls() for interest in (NONE, IN, OUT, IN | OUT)}
            watches = [events.watch(near.fileno(), interest, calls) for interest, calls in found.items()]
            await rounds()
            for interest, calls in found.items():
                assert len(calls.found) == 1, interest
                assert calls.found[0] == ERROR | HANGUP | interest
            assert all(watch.suspended for watch in watches)
            for watch in watches:
                watch.cancel()

    with_events(body)


def test_a_hangup_of_a_pipe_is_delivered_once_and_again_after_resume() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            calls = Calls()
            watch = events.watch(reader, IN, calls)
            os.write(writer, b"last words")
            os.close(writer)
            await rounds()
            assert calls.found == [IN | HANGUP]
            assert os.read(reader, 100) == b"last words"
            watch.resume()
            await rounds()
            assert calls.found == [IN | HANGUP, HANGUP]
            watch.change(NONE)
            await rounds()
            assert calls.found == [IN | HANGUP, HANGUP, HANGUP]
            watch.cancel()
            watch.resume()
            await rounds()
            assert len(calls.found) == 3

    with_events(body)


def test_a_pipe_without_reader_is_an_error_at_the_writing_end() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            os.close(reader)
            calls = Calls()
            watch = events.watch(writer, OUT, calls)
            await rounds()
            assert calls.found == [OUT | ERROR]
            watch.cancel()

    with_events(body)


def test_a_pty_whose_last_slave_closes_hangs_up() -> None:
    async def body(events: Events) -> None:
        master, slave = os.openpty()
        try:
            calls = Calls()
            watch = events.watch(master, IN, calls)
            await rounds()
            assert calls.found == []
            os.close(slave)
            await rounds()
            assert calls.found == [HANGUP]
            watch.cancel()
        finally:
            os.close(master)

    with_events(body)


def test_a_regular_file_is_always_ready(tmp_path: Path) -> None:
    async def body(events: Events) -> None:
        with (tmp_path / "file").open("w+b") as file:
            calls, other = Calls(), Calls()
            watch = events.watch(file.fileno(), IN | OUT, calls)
            idle = events.watch(file.fileno(), NONE, other)
            await rounds()
            assert len(calls.found) > 2
            assert set(calls.found) == {IN | OUT}
            assert other.found == []
            watch.change(NONE)
            seen = len(calls.found)
            await rounds()
            assert len(calls.found) == seen
            idle.change(OUT)
            await rounds()
            assert set(other.found) == {OUT}
            idle.cancel()
            watch.cancel()

    with_events(body)


def test_a_number_that_is_not_open_is_invalid_once() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            os.close(reader)
            first, second = Calls(), Calls()
            watches = [events.watch(reader, IN, first), events.watch(reader, NONE, second)]
            await rounds()
            assert first.found == [INVALID] == second.found
            watches[0].resume()
            await rounds()
            assert first.found == [INVALID, INVALID]
            assert os.dup(writer) == reader, "the lowest number that is free"
            watches[0].change(OUT)
            await rounds()
            assert first.found[2:] == [OUT | ERROR]
            for watch in watches:
                watch.cancel()

    with_events(body)


def test_a_number_closed_and_opened_anew_under_a_watch_is_watched_anew() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            calls = Calls()
            watch = events.watch(reader, IN, calls)
            os.close(reader)
            watch.change(NONE)
            await rounds()
            assert calls.found == [INVALID]
            assert os.dup(writer) == reader
            watch.change(OUT)
            await rounds()
            assert calls.found[-1] == OUT | ERROR
            watch.cancel()

    with_events(body)


def test_a_watch_cancelled_in_the_same_round_is_not_called() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer), a_pipe() as (other_reader, other_writer):
            called: list[Watch] = []
            watches: list[Watch] = []

            def callback(me: int) -> Callable[[Condition], None]:
                def cancel_all_others(_found: Condition) -> None:
                    called.append(watches[me])
                    for watch in watches:
                        watch.cancel()

                return cancel_all_others

            watches += [events.watch(n, IN, callback(i)) for i, n in enumerate((reader, reader, other_reader))]
            os.write(writer, b"x")
            os.write(other_writer, b"x")
            await rounds()
            assert len(called) == 1

    with_events(body)


def test_what_was_found_about_an_fd_is_not_told_to_one_that_got_its_number() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer), a_pipe() as (other_reader, other_writer):
            innocent = Calls()
            watches: dict[int, Watch] = {}

            def replace(victim: int) -> Callable[[Condition], None]:
                def callback(_found: Condition) -> None:
                    for watch in watches.values():
                        watch.cancel()
                    # the number becomes that of a pipe which says nothing
                    os.dup2(silent_reader, victim)
                    watches[-1] = events.watch(victim, IN, innocent)

                return callback

            with a_pipe() as (silent_reader, _silent_writer):
                watches[0] = events.watch(reader, IN, replace(other_reader))
                watches[1] = events.watch(other_reader, IN, replace(reader))
                os.write(writer, b"x")
                os.write(other_writer, b"x")
                await rounds()
                assert innocent.found == []
                watches[-1].cancel()

    with_events(body)


def test_waiting_can_be_cancelled_and_leaves_no_watch() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            waiting = asyncio.ensure_future(events.wait(reader, IN))
            await rounds()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            os.write(writer, b"x")
            await rounds()
            assert await events.wait(reader, IN) == IN

    with_events(body)


def test_errors_cannot_be_an_interest_and_cancelled_watches_stay_cancelled() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, _writer):
            with pytest.raises(UsageError):
                events.watch(reader, HANGUP, Calls())
            watch = events.watch(reader, IN, Calls())
            with pytest.raises(UsageError):
                watch.change(IN | ERROR)
            watch.cancel()
            watch.cancel()
            with pytest.raises(UsageError):
                watch.change(IN)

    with_events(body)


def test_closing_cancels_every_watch_also_from_a_callback() -> None:
    async def main() -> None:
        with a_pipe() as (reader, writer), a_pipe() as (other_reader, other_writer):
            events = Events(asyncio.get_running_loop())
            count = Calls()

            def close(found: Condition) -> None:
                count(found)
                events.close()

            watches = [events.watch(number, IN, close) for number in (reader, other_reader)]
            os.write(writer, b"x")
            os.write(other_writer, b"x")
            await rounds()
            assert len(count.found) == 1
            assert all(watch.cancelled for watch in watches)
            events.close()
            with pytest.raises(UsageError):
                events.watch(reader, IN, count)

    asyncio.run(main())


def test_the_instance_itself_can_be_polled() -> None:
    async def body(events: Events) -> None:
        with a_pipe() as (reader, writer):
            watch = events.watch(reader, IN, Calls())
            assert select.select([events.fileno()], [], [], 0)[0] == []
            os.write(writer, b"x")
            assert select.select([events.fileno()], [], [], 0)[0] == [events.fileno()]
            watch.cancel()

    with_events(body)


Step = tuple[str, int, Condition]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["watch", "change", "cancel", "resume", "fill", "drain", "shut"]),
        st.integers(0, 3),
        st.sampled_from([NONE, IN, OUT, IN | OUT]),
    ),
    max_size=25,
)


class Model:
    """What the contract says that a socket's watches get in one round."""

    def __init__(self) -> None:
        self.interest: dict[int, Condition] = {}
        self.suspended: set[int] = set()
        self.readable = self.shut = False

    def round(self) -> dict[int, Condition]:
        conditions = OUT | (IN if self.readable or self.shut else NONE) | (HANGUP if self.shut else NONE)
        calls = {}
        for key, interest in self.interest.items():
            relevant = conditions & (interest | HANGUP)
            if key not in self.suspended and relevant:
                calls[key] = relevant
                if self.shut:
                    self.suspended.add(key)
        return calls


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_any_order_of_adding_changing_and_removing_agrees_with_a_model(steps: list[Step]) -> None:
    async def body(events: Events) -> None:
        near, far = socket.socketpair()
        with near, far:
            model = Model()
            watches: dict[int, Watch] = {}
            called: dict[int, Condition] = {}
            for action, key, interest in steps:
                _apply(action, key, interest, events, near, far, model, watches, called)
                called.clear()
                # one round of deliveries, without the loop's own choice of when
                events._dispatch()
                assert called == model.round()
            for watch in watches.values():
                watch.cancel()

    with_events(body)


def _apply(
    action: str,
    key: int,
    interest: Condition,
    events: Events,
    near: socket.socket,
    far: socket.socket,
    model: Model,
    watches: dict[int, Watch],
    called: dict[int, Condition],
) -> None:
    if action == "watch" and key not in watches:
        watches[key] = events.watch(near.fileno(), interest, lambda found: called.__setitem__(key, found))
        model.interest[key] = interest
        model.suspended.discard(key)
    elif action == "change" and key in watches:
        watches[key].change(interest)
        model.interest[key] = interest
        model.suspended.discard(key)
    elif action == "cancel" and key in watches:
        watches.pop(key).cancel()
        del model.interest[key]
    elif action == "resume" and key in watches:
        watches[key].resume()
        model.suspended.discard(key)
    elif action == "fill" and not model.shut:
        far.send(b"x")
        model.readable = True
    elif action == "drain" and model.readable:
        near.recv(1000)
        model.readable = False
    elif action == "shut":
        far.close()
        model.shut = True
