# SPDX-License-Identifier: GPL-3.0-or-later
"""The xenstore client against a server that speaks the wire protocol, well and badly."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.xenstored import Xenstored, xenstored

from domward.protocol import limits
from domward.protocol.errors import OperationCancelled, OperationFailed, UsageError
from domward.supervisor.events import Events
from domward.supervisor.hypervisor import domains
from domward.supervisor.hypervisor.xenstore import Transaction, Xenstore
from domward.supervisor.hypervisor.xenstore_wire import Kind, XenstoreError, XenstoreLost, decode, encode

DOMAIN = "/local/domain/7"


def with_store(folder: Path, body: Callable[[Xenstored, Xenstore], Awaitable[None]]) -> None:
    async def main() -> None:
        events = Events(asyncio.get_running_loop())
        try:
            async with xenstored(folder / "socket") as server:
                store = Xenstore.connect(events, folder / "socket")
                try:
                    async with asyncio.timeout(60):
                        await body(server, store)
                finally:
                    store.close()
        finally:
            events.close()

    asyncio.run(main())


def test_values_names_and_permissions(tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        await store.write(f"{DOMAIN}/name", b"db \0 \xff")
        assert await store.read(f"{DOMAIN}/name") == b"db \0 \xff"
        assert await store.read(f"{DOMAIN}/none") is None
        assert await store.names(DOMAIN) == [b"name"]
        assert await store.names("/none") is None
        await store.set_permissions(f"{DOMAIN}/name", "n0", "r7")
        assert await store.permissions(f"{DOMAIN}/name") == [b"n0", b"r7"]
        assert await store.remove(DOMAIN)
        assert not await store.remove(DOMAIN)
        assert server.nodes.keys() == {"/", "/local", "/local/domain"}

    with_store(tmp_path, body)


def test_a_watch_tells_of_changes_until_its_block_ends(tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        async with store.watch(DOMAIN) as changes:
            await changes.next()  # each watch tells once when it is set
            server.change(f"{DOMAIN}/name", b"db")
            await changes.next()
            server.change("/local/domain/70/name", b"other")
            await store.read("/")  # whatever was told before came before this answer
            assert not changes.happened.is_set()
        await store.read("/")
        assert server.connections[0].watches == {}

    with_store(tmp_path, body)


def test_a_transaction_is_seen_whole_or_not_at_all_and_tried_again_after_a_conflict(tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        tries = 0

        async def count(within: Transaction) -> bytes:
            nonlocal tries
            tries += 1
            value = await store.read("/count", within)
            await store.write("/count", b"%d" % (int(value or 0) + 1), within)
            if tries == 1:
                server.change("/count", b"41")
            assert b"42" not in server.nodes.values()
            return b"done"

        assert await store.transact(count) == b"done"
        assert (tries, server.nodes["/count"]) == (2, b"42")

        async def failing(within: Transaction) -> None:
            await store.write("/count", b"lost", within)
            raise OperationCancelled("no more")

        with pytest.raises(OperationCancelled):
            await store.transact(failing)
        assert await store.read("/count") == b"42"
        assert server.connections[0].transactions == {}

        async def never(within: Transaction) -> None:
            await store.write("/count", b"0", within)
            server.change("/other", b"")

        with pytest.raises(OperationFailed, match=f"met {limits.XENSTORE_TRIES} conflicts"):
            await store.transact(never)

    with_store(tmp_path, body)


def test_many_requests_at_once_and_one_that_is_cancelled(tmp_path: Path) -> None:
    async def body(_server: Xenstored, store: Xenstore) -> None:
        await asyncio.gather(*(store.write(f"/many/{number}", b"%d" % number) for number in range(300)))
        abandoned = asyncio.create_task(store.read("/many/1"))
        await asyncio.sleep(0)
        abandoned.cancel()
        found = await asyncio.gather(*(store.read(f"/many/{number}") for number in range(300)))
        assert found == [b"%d" % number for number in range(300)]

    with_store(tmp_path, body)


def test_what_xenstored_refuses_is_an_error_with_its_number(tmp_path: Path) -> None:
    async def body(_server: Xenstored, store: Xenstore) -> None:
        with pytest.raises(XenstoreError, match="refused to get_perms /none: ENOENT") as caught:
            await store.permissions("/none")
        assert caught.value.number == errno.ENOENT

    with_store(tmp_path, body)


@pytest.mark.parametrize("path", ["", "relative", "/a//b", "/a/", "/a b", "/\xe4", "/" + "a" * 3072, "/a\0b", "@"])
def test_a_path_that_is_none_is_never_sent(path: str, tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        with pytest.raises(UsageError, match="is no path in xenstore"):
            await store.read(path)
        assert server.asked == []

    with_store(tmp_path, body)


def test_a_payload_for_which_xenstored_would_end_the_connection_is_never_sent(tmp_path: Path) -> None:
    async def body(_server: Xenstored, store: Xenstore) -> None:
        await store.write("/a", b"x" * (limits.XENSTORE_PAYLOAD_BYTES - 3))
        with pytest.raises(UsageError, match="at most 4096 bytes"):
            await store.write("/a", b"x" * (limits.XENSTORE_PAYLOAD_BYTES - 2))

    with_store(tmp_path, body)


def test_a_restart_fails_what_is_under_way_and_keeps_the_watches(tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        async with store.watch(DOMAIN) as changes:
            await changes.next()
            server.silent = True
            under_way = asyncio.create_task(store.read("/"))
            await server.until_asked(Kind.READ)
            server.forget()
            with pytest.raises(XenstoreLost, match="closed the connection"):
                await under_way
            with pytest.raises(XenstoreLost, match="is lost"):
                await store.read("/")
            server.silent = False
            await changes.next()  # something may have been missed
            await store.connected()
            server.change(DOMAIN, b"")
            await changes.next()
            assert await store.read(DOMAIN) == b""

    with_store(tmp_path, body)


def test_a_transaction_ends_with_its_connection(tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        async def across(within: Transaction) -> None:
            async with store.watch("/") as changes:
                await changes.next()
                server.forget()
                await changes.next()
                await store.connected()
            await store.write("/late", b"", within)

        with pytest.raises(XenstoreLost):
            await store.transact(across)
        assert "/late" not in server.nodes

    with_store(tmp_path, body)


HEADER = struct.Struct("=IIII")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (HEADER.pack(Kind.READ, 1, 0, 4097), "announced 4097 bytes"),
        (HEADER.pack(Kind.READ, 2, 0, 0), "what nobody asked"),
        (HEADER.pack(Kind.WRITE, 1, 0, 0), "something else than what was asked"),
        (HEADER.pack(Kind.READ, 1, 9, 0), "something else than what was asked"),
        (HEADER.pack(Kind.ERROR, 1, 0, 3) + b"no\0", "an error without a name"),
        (HEADER.pack(Kind.WATCH_EVENT, 0, 0, 2) + b"a\0", "without a token"),
        (HEADER.pack(Kind.WATCH_EVENT, 0, 0, 3) + b"a\0b", "words without an end"),
    ],
)
def test_an_answer_that_is_not_the_protocol_ends_the_connection(answer: bytes, sentence: str, tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        server.answer = answer
        with pytest.raises(XenstoreLost, match=sentence):
            await store.read("/")
        await store.connected()
        assert await store.read("/") == b""

    with_store(tmp_path, body)


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "XENSTORE_SECONDS", 0.05)

    async def body(server: Xenstored, store: Xenstore) -> None:
        server.silent = True
        with pytest.raises(XenstoreLost, match=r"did not answer within 0\.05 seconds"):
            await store.read("/")

    with_store(tmp_path, body)


def test_nobody_listens(tmp_path: Path) -> None:
    async def main() -> None:
        events = Events(asyncio.get_running_loop())
        try:
            with pytest.raises(XenstoreLost, match="Is this a dom0"):
                Xenstore.connect(events, tmp_path / "none")
        finally:
            events.close()

    asyncio.run(main())


def test_a_message_in_pieces_is_one_message() -> None:
    whole = encode(Kind.READ, 7, 0, b"value")
    buffer = bytearray()
    for byte in whole[:-1]:
        buffer.append(byte)
        assert decode(buffer) is None
    buffer += whole[-1:] + whole
    packet = decode(buffer)
    assert packet is not None
    assert (packet.request, packet.untrusted_payload, bytes(buffer)) == (7, b"value", whole)


def test_work_for_a_domain_ends_with_the_domain(tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        ended = []

        async def work() -> str:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("cleaned up")
            return "never"

        server.change(f"{DOMAIN}/name", b"db")
        task = asyncio.create_task(domains.unless_gone(store, 7, work()))
        await server.until_asked(Kind.READ)
        server.change(f"{DOMAIN}/name", b"renamed")
        await server.until_asked(Kind.READ, 2)
        server.forget()  # a restart of xenstored is no end of the domain
        await server.until_asked(Kind.READ, 3)
        assert not task.done()
        server.change(DOMAIN, None)
        with pytest.raises(OperationCancelled, match=r"Domain 7 is gone\."):
            await task
        assert ended == ["cleaned up"]
        with pytest.raises(OperationCancelled):
            await domains.unless_gone(store, 8, asyncio.sleep(60))

    with_store(tmp_path, body)


def test_work_that_ends_first_gives_its_result(tmp_path: Path) -> None:
    async def body(server: Xenstored, store: Xenstore) -> None:
        server.change(DOMAIN, b"")
        assert await domains.unless_gone(store, 7, asyncio.sleep(0, "done")) == "done"
        await store.read("/")
        assert server.connections[0].watches == {}

    with_store(tmp_path, body)
