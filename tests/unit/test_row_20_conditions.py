# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 20: POLLERR, POLLHUP and POLLNVAL of each kind of fd reach every watch under their names, and never spin.

That nothing spins is read off a loop that stops instead of waiting: once told, it has nothing left to do.
"""

from __future__ import annotations

import asyncio
import os
import pty
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from domward.supervisor.events import Condition, Events
from domward.supervisor.pumped_loop import PumpedLoop

IN, OUT, NONE = Condition.IN, Condition.OUT, Condition.NONE
ERROR, HANGUP, INVALID = Condition.ERROR, Condition.HANGUP, Condition.INVALID


def pipe_without_writer() -> tuple[int, list[int]]:
    reader, writer = os.pipe()
    os.close(writer)
    return reader, [reader]


def pipe_without_reader() -> tuple[int, list[int]]:
    reader, writer = os.pipe()
    os.close(reader)
    return writer, [writer]


def pty_without_slave() -> tuple[int, list[int]]:
    master, slave = pty.openpty()
    os.close(slave)
    return master, [master]


def pty_without_master() -> tuple[int, list[int]]:
    master, slave = pty.openpty()
    os.close(master)
    return slave, [slave]


def socket_without_peer() -> tuple[int, list[int]]:
    near, far = socket.socketpair()
    far.close()
    return near.fileno(), [near.detach()]


def socket_reset_by_peer() -> tuple[int, list[int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
    return near.fileno(), [near.detach()]


def closed() -> tuple[int, list[int]]:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    return reader, []


KINDS: dict[str, tuple[Callable[[], tuple[int, list[int]]], Condition]] = {
    "pipe-without-writer": (pipe_without_writer, HANGUP),
    "pipe-without-reader": (pipe_without_reader, ERROR),
    "pty-without-slave": (pty_without_slave, HANGUP),
    "pty-without-master": (pty_without_master, HANGUP | ERROR),
    "socket-without-peer": (socket_without_peer, HANGUP),
    "socket-reset-by-peer": (socket_reset_by_peer, HANGUP | ERROR),
    "closed": (closed, INVALID),
}


def idle(pumped: PumpedLoop) -> bool:
    return not select.select([pumped.fileno()], [], [], 0)[0]


@pytest.mark.parametrize("interest", [IN, OUT, IN | OUT, NONE], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_row_20_each_error_condition_reaches_every_watch_once_and_leaves_the_loop_idle(
    kind: str, interest: Condition
) -> None:
    make, expected = KINDS[kind]
    pumped = PumpedLoop()
    events = Events(pumped.loop)
    number, owned = make()
    found: dict[str, list[Condition]] = {"first": [], "second": []}
    watches = [events.watch(number, interest, calls.append) for calls in found.values()]
    pumped.pump()
    assert idle(pumped)
    for calls in found.values():
        assert [conditions & (ERROR | HANGUP | INVALID) for conditions in calls] == [expected]
        assert calls[0] & ~(ERROR | HANGUP | INVALID) in interest
    watches[0].resume()
    pumped.pump()
    assert idle(pumped)
    assert [len(calls) for calls in found.values()] == [2, 1]
    for watch in watches:
        watch.cancel()
    for fd in owned:
        os.close(fd)
    events.close()
    pumped.close()


@pytest.mark.parametrize("kind", KINDS)
def test_row_20_a_loop_that_waits_beside_an_error_uses_no_cpu(kind: str) -> None:
    """CPU time, and not the clock: a loop that spins uses all of the wait, one that sleeps a few milliseconds."""
    make, _ = KINDS[kind]
    wait = 0.3
    with asyncio.Runner() as runner:
        events = Events(runner.get_loop())
        number, owned = make()
        watch = events.watch(number, IN, lambda _conditions: None)
        before = time.thread_time()
        runner.run(asyncio.sleep(wait))
        used = time.thread_time() - before
        watch.cancel()
        for fd in owned:
            os.close(fd)
        events.close()
    assert used < wait / 3


def test_row_20_a_file_has_no_error_and_is_ready_for_as_long_as_somebody_asks(tmp_path: Path) -> None:
    pumped = PumpedLoop()
    events = Events(pumped.loop)
    with (tmp_path / "file").open("wb") as file:
        found: list[Condition] = []
        watch = events.watch(file.fileno(), IN | OUT, found.append)
        pumped.pump()
        assert set(found) == {IN | OUT}
        watch.change(NONE)
        pumped.pump()
        count = len(found)
        pumped.pump()
        assert idle(pumped)
        assert len(found) == count
        watch.cancel()
    events.close()
    pumped.close()
