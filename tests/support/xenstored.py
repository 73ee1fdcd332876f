# SPDX-License-Identifier: GPL-3.0-or-later
"""A small xenstored: the wire protocol of docs/misc/xenstore.txt over a socket, for one loop, with ways to misbehave.

Nodes, permissions, watches and transactions with conflicts are what the client uses of them. `forget` ends every
connection as a restart does, `silent` makes it take requests without answering, and `answer` replaces the next answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from domward.supervisor.hypervisor.xenstore_wire import Kind

_HEADER = struct.Struct("=IIII")


class _Refused(Exception):
    """What an error reply names."""


@dataclass
class _Connection:
    writer: asyncio.StreamWriter
    watches: dict[tuple[str, bytes], None] = field(default_factory=dict)
    transactions: dict[int, tuple[int, dict[str, bytes]]] = field(default_factory=dict)
    begun: int = 0


@dataclass
class Xenstored:
    """The store and its connections. `nodes` and `permissions` may be looked at and changed; see `change`."""

    nodes: dict[str, bytes] = field(default_factory=lambda: {"/": b"", "/local": b"", "/local/domain": b""})
    permissions: dict[str, list[bytes]] = field(default_factory=dict)
    generation: int = 0
    asked: list[Kind] = field(default_factory=list)
    silent: bool = False
    answer: bytes | None = None
    connections: list[_Connection] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_asked(self, kind: Kind, times: int = 1) -> None:
        """Waits until so many requests of `kind` have come."""
        while self.asked.count(kind) < times:
            self.news.clear()
            await self.news.wait()

    def change(self, path: str, value: bytes | None) -> None:
        """Sets a node as somebody else would, or removes it with all below it; watches are told."""
        if value is None:
            for below in [node for node in self.nodes if node == path or node.startswith(path + "/")]:
                del self.nodes[below]
        else:
            self._set(self.nodes, path, value)
        self.generation += 1
        self._tell(path)

    def forget(self) -> None:
        """Ends every connection."""
        for connection in self.connections:
            connection.writer.close()
        self.connections.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self.connections.append(connection)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, request, transaction, length = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                payload = await reader.readexactly(length)
                self.asked.append(Kind(kind))
                self.news.set()
                if self.silent:
                    continue
                try:
                    answer = self._answer(connection, Kind(kind), transaction, payload)
                except _Refused as error:
                    kind, answer = Kind.ERROR, f"{error}\0".encode()
                whole = _HEADER.pack(kind, request, transaction, len(answer)) + answer
                replaced, self.answer = self.answer, None
                writer.write(whole if replaced is None else replaced)
                if kind == Kind.WATCH:
                    path, token = payload.split(b"\0")[:2]
                    self._event(connection, path.decode(), token)
                await writer.drain()
        writer.close()

    def _answer(self, connection: _Connection, kind: Kind, transaction: int, payload: bytes) -> bytes:
        path, _, rest = payload.partition(b"\0")
        name, rest_word = path.decode(), rest.rstrip(b"\0")
        match kind:
            case Kind.TRANSACTION_START:
                connection.begun += 1
                connection.transactions[connection.begun] = (self.generation, dict(self.nodes))
                return b"%d\0" % connection.begun
            case Kind.TRANSACTION_END:
                begun, copied = connection.transactions.pop(transaction)
                if name == "T":
                    self._commit(begun, copied)
            case Kind.WATCH:
                connection.watches[name, rest_word] = None
            case Kind.UNWATCH:
                if connection.watches.pop((name, rest_word), 0) == 0:
                    raise _Refused("ENOENT")
            case _:
                nodes = connection.transactions[transaction][1] if transaction else self.nodes
                found = self._of_node(nodes, kind, name, rest)
                if found is not None:
                    return found
                if not transaction:
                    self.generation += 1
                    self._tell(name)
        return b"OK\0"

    def _commit(self, begun: int, copied: dict[str, bytes]) -> None:
        if begun != self.generation:
            raise _Refused("EAGAIN")
        changed = [node for node in {*copied, *self.nodes} if copied.get(node) != self.nodes.get(node)]
        self.nodes = copied
        self.generation += bool(changed)
        for node in changed:
            self._tell(node)

    def _of_node(self, nodes: dict[str, bytes], kind: Kind, name: str, rest: bytes) -> bytes | None:
        """What a request that reads gives; None for one that changed something."""
        if name not in nodes and kind is not Kind.WRITE:
            raise _Refused("ENOENT")
        below = name.rstrip("/") + "/"
        match kind:
            case Kind.READ:
                return nodes[name]
            case Kind.DIRECTORY:
                names = [node[len(below) :] for node in nodes if node.startswith(below) and node != "/"]
                return b"".join(one.encode() + b"\0" for one in names if "/" not in one)
            case Kind.GET_PERMS:
                return b"".join(word + b"\0" for word in self.permissions.get(name, [b"n0"]))
            case Kind.WRITE:
                self._set(nodes, name, rest)
            case Kind.SET_PERMS:
                self.permissions[name] = rest.rstrip(b"\0").split(b"\0")
            case Kind.RM:
                for node in [node for node in nodes if node == name or node.startswith(below)]:
                    del nodes[node]
            case _:
                raise _Refused("ENOSYS")
        return None

    @staticmethod
    def _set(nodes: dict[str, bytes], path: str, value: bytes) -> None:
        parts = path.strip("/").split("/")
        for end in range(1, len(parts)):
            nodes.setdefault("/" + "/".join(parts[:end]), b"")
        nodes[path] = value

    def _tell(self, path: str) -> None:
        for connection in self.connections:
            for watched, token in connection.watches:
                if path == watched or path.startswith(watched + "/"):
                    self._event(connection, path, token)
                elif watched.startswith(path + "/"):
                    self._event(connection, watched, token)

    @staticmethod
    def _event(connection: _Connection, path: str, token: bytes) -> None:
        payload = path.encode() + b"\0" + token + b"\0"
        connection.writer.write(_HEADER.pack(Kind.WATCH_EVENT, 0, 0, len(payload)) + payload)


@contextlib.asynccontextmanager
async def xenstored(place: Path) -> AsyncIterator[Xenstored]:
    """One that listens at `place`."""
    store = Xenstored()
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(store.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_unix_server(begin, place)
    try:
        yield store
    finally:
        server.close()
        store.forget()
        if tasks:
            await asyncio.wait(tasks)
        os.unlink(place)
