# SPDX-License-Identifier: GPL-3.0-or-later
"""The conversation with qemu's monitor: its course, and every way in which a qemu that was taken over may spoil it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from domward.protocol import limits
from domward.protocol.errors import HypervisorError
from domward.protocol.fds import Fd
from domward.supervisor.events import Events
from domward.supervisor.hypervisor.qmp import Qmp

GREETING = {"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}


class Peer:
    """qemu's end."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def say(self, *messages: object) -> None:
        for message in messages:
            self.end.send(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\r\n")

    async def heard(self) -> dict[str, Any]:
        """The next command."""
        data = await asyncio.get_running_loop().sock_recv(self.end, 65536)
        found = json.loads(data)
        assert isinstance(found, dict)
        return found


@contextlib.asynccontextmanager
async def conversation() -> AsyncIterator[tuple[Qmp, Peer, list[tuple[str, dict[str, Any]]]]]:
    events = Events(asyncio.get_running_loop())
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    told: list[tuple[str, dict[str, Any]]] = []
    qmp = Qmp(events, Fd(near.detach(), "monitor"), "qemu 1", lambda name, data: told.append((name, data)))
    try:
        yield qmp, Peer(far), told
    finally:
        qmp.close()
        far.close()
        events.close()


async def greeted(qmp: Qmp, peer: Peer) -> None:
    peer.say(GREETING)
    greeting = asyncio.create_task(qmp.greet())
    assert (await peer.heard()) == {"execute": "qmp_capabilities", "id": 1}
    peer.say({"return": {}, "id": 1})
    await greeting


def test_commands_are_answered_and_events_are_told_in_order() -> None:
    async def play() -> None:
        async with conversation() as (qmp, peer, told):
            await greeted(qmp, peer)
            asked = asyncio.create_task(qmp.execute("query-status", {"a": 1}))
            assert (await peer.heard()) == {"execute": "query-status", "arguments": {"a": 1}, "id": 2}
            peer.say({"event": "RESUME", "timestamp": {}}, {"event": "SHUTDOWN", "data": {"reason": "x"}})
            whole = json.dumps({"return": {"status": "running"}, "id": 2}).encode() + b"\n"
            for at in range(len(whole)):  # a byte at a time
                peer.say(whole[at : at + 1])
            assert await asked == {"status": "running"}
            assert told == [("RESUME", {}), ("SHUTDOWN", {"reason": "x"})]

    asyncio.run(play())


def test_a_refused_command_is_its_own_error_and_the_conversation_goes_on() -> None:
    async def play() -> None:
        async with conversation() as (qmp, peer, _told):
            await greeted(qmp, peer)
            asked = asyncio.create_task(qmp.execute("cont"))
            await peer.heard()
            peer.say({"error": {"class": "GenericError", "desc": "no \x1b[2J way" + "y" * 500}, "id": 2})
            with pytest.raises(HypervisorError, match=r"refuses a command: no \\x1b\[2J wayyy") as caught:
                await asked
            assert len(caught.value.sentence) < 300
            again = asyncio.create_task(qmp.execute("cont"))
            await peer.heard()
            peer.say({"return": {}, "id": 3})
            assert await again == {}

    asyncio.run(play())


@pytest.mark.parametrize(
    "said",
    [
        b"hello\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"1\n",
        b"{}\n",
        b'{"return": {}}\n',
        b'{"return": {}, "id": 1}\n',  # answered already
        b'{"return": {}, "id": true}\n',
        b'{"return": {}, "id": "2"}\n',
        b'{"error": {"desc": "x"}, "id": 7}\n',
        b'{"error": "x", "id": 2}\n',
        b'{"event": 1}\n',
        b'{"event": "' + b"E" * 200 + b'"}\n',
        b'{"QMP": {}}\n',  # a second greeting
        b"[" * 60_000 + b"\n",
        b'{"return": ' + b"9" * 60_000 + b', "id": 2}\n',
        b'{"event": "' + b"x" * (limits.QMP_LINE_BYTES + 10),
    ],
)
def test_what_is_not_the_protocol_ends_the_conversation(said: bytes) -> None:
    async def play() -> None:
        async with conversation() as (qmp, peer, told):
            await greeted(qmp, peer)
            peer.say(said)
            async with asyncio.timeout(20):
                error = await qmp.broken
            assert error.helper == "qemu 1"
            assert told == []
            with pytest.raises(HypervisorError):
                await qmp.execute("cont")

    asyncio.run(play())


def test_a_qemu_that_goes_away_ends_what_waits() -> None:
    async def play() -> None:
        async with conversation() as (qmp, peer, _told):
            await greeted(qmp, peer)
            asked = asyncio.create_task(qmp.execute("cont"))
            await peer.heard()
            peer.end.shutdown(socket.SHUT_RDWR)
            with pytest.raises(HypervisorError, match="closed its monitor"):
                await asked

    asyncio.run(play())


def test_a_qemu_that_does_not_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QMP_SECONDS", 0.05)

    async def play() -> None:
        async with conversation() as (qmp, _peer, _told):
            with pytest.raises(HypervisorError, match="does not answer"):
                await qmp.greet()

    asyncio.run(play())


def test_closing_ends_what_waits_and_is_idempotent() -> None:
    async def play() -> None:
        async with conversation() as (qmp, peer, _told):
            await greeted(qmp, peer)
            asked = asyncio.create_task(qmp.execute("cont"))
            await peer.heard()
            qmp.close()
            qmp.close()
            with pytest.raises(HypervisorError, match="is gone"):
                await asked

    asyncio.run(play())


def test_a_flood_of_events_is_read_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QMP_BYTES_PER_SECOND", 1024)  # a chunk of 16 KiB is enough for 16 s

    async def play() -> None:
        async with conversation() as (qmp, peer, told):
            peer.say(GREETING)
            with contextlib.suppress(BlockingIOError):
                while True:
                    peer.say({"event": "FLOOD"})
            for _ in range(1000):
                await asyncio.sleep(0)
            assert len(told) < 16 * limits.KIB / len('{"event": "FLOOD"}')
            assert not qmp.broken.done()

    asyncio.run(play())
