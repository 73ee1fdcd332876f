# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of xenstored on the event layer: over its socket, or over /dev/xen/xenbus where it runs in another domain.

States: connected -> lost -> connected again -> ... -> closed. By cases:

- a request that is under way when the connection is lost fails with XenstoreLost, and so does one while it is lost
- a request that is not answered within limits.XENSTORE_SECONDS fails likewise, and the connection with it
- a watch outlives the connection: it is set again with the next one, and is told of a change then, since it may have
  missed one; a connection that was lost is tried anew after a pause that grows
- a request that is cancelled is still sent; its answer is thrown away
- what is not the protocol fails the request that it answers; it ends the connection where it cannot be told whose it is
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from domward.protocol import limits
from domward.protocol.errors import OperationFailed, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.records import field, frozen, mutable

from ..events import Condition, Events, Watch
from .xenstore_wire import Kind, Packet, XenstoreError, XenstoreLost, checked_path, decode, encode, error_name, words

_LOG = logging.getLogger("domward.xenstore")
_CHUNK = 4096  # bytes read at once
_LAST_REQUEST = 2**32 - 1
_PAUSES = (0.05, 0.2, 1.0, 5.0)  # seconds before each try to connect again; the last one from then on

ResultT = TypeVar("ResultT")


@frozen
class _Pending:
    kind: Kind
    transaction: int
    answer: asyncio.Future[Packet]


@frozen
class Transaction:
    """A transaction that was begun: its number is xenstored's, and means nothing on a later connection."""

    number: int
    connection: int


@mutable
class Changes:
    """Changes below a watched path: `next` returns once there was one since it last did, and once at the beginning."""

    path: str
    token: bytes
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self) -> None:
        """Waits for a change. Several since the last call count as one; there may have been none."""
        await self.happened.wait()
        self.happened.clear()


class Xenstore:
    """The client. `place` is a socket or a device. Made by `connect`; `close` ends it."""

    def __init__(self, events: Events, place: Path) -> None:
        self._events = events
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._end: Fd | None = None
        self._watch: Watch | None = None
        self._input = bytearray()
        self._output = bytearray()
        self._next = 0
        self._pending: dict[int, _Pending] = {}
        self._changes: dict[bytes, Changes] = {}
        self._tokens = 0
        self._tries = 0
        self._connections = 0
        self._up = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    def connect(cls, events: Events, place: Path) -> Xenstore:
        """A connected client. Raises XenstoreLost where nothing answers at `place`."""
        store = cls(events, place)
        try:
            store._open()
        except OSError as error:
            raise XenstoreLost(
                f"xenstored cannot be reached at {printable(str(place))}: {error.strerror}.",
                advice="Is this a dom0, and does xenstored run?",
            ) from error
        return store

    def fileno(self) -> int:
        """The connection's number; -1 while there is none."""
        return -1 if self._end is None else self._end.fileno()

    async def connected(self) -> None:
        """Waits until there is a connection, which may be for ever."""
        await self._up.wait()

    def close(self) -> None:
        """Ends the connection; what is under way fails, and watches are told of nothing more. Idempotent."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._drop(XenstoreLost("The xenstore client was closed."))
        self._changes.clear()

    # --- requests -----------------------------------------------------------------------------------------------

    async def read(self, path: str, within: Transaction | None = None) -> bytes | None:
        """The value at `path`, which may be a guest's; None where there is none."""
        try:
            return (await self._ask(Kind.READ, checked_path(path) + b"\0", within)).untrusted_payload
        except XenstoreError as error:
            if error.number != errno.ENOENT:
                raise
            return None

    async def write(self, path: str, value: bytes, within: Transaction | None = None) -> None:
        """Sets the value at `path`; its parents are made where they are missing."""
        await self._ask(Kind.WRITE, checked_path(path) + b"\0" + value, within)

    async def remove(self, path: str, within: Transaction | None = None) -> bool:
        """Removes `path` with all below it. False where there was nothing."""
        try:
            await self._ask(Kind.RM, checked_path(path) + b"\0", within)
        except XenstoreError as error:
            if error.number != errno.ENOENT:
                raise
            return False
        return True

    async def names(self, path: str, within: Transaction | None = None) -> list[bytes] | None:
        """The names right below `path`; None where it is not there."""
        try:
            return words(await self._ask(Kind.DIRECTORY, checked_path(path) + b"\0", within))
        except XenstoreError as error:
            if error.number != errno.ENOENT:
                raise
            return None

    async def permissions(self, path: str, within: Transaction | None = None) -> list[bytes]:
        """Who may do what at `path`: the owner first, each as b"n0", b"r7", b"w7" or b"b7"."""
        return words(await self._ask(Kind.GET_PERMS, checked_path(path) + b"\0", within))

    async def set_permissions(self, path: str, *allowed: str, within: Transaction | None = None) -> None:
        """Sets them, in the same form."""
        payload = b"".join((checked_path(path), b"\0", *(word.encode("ascii") + b"\0" for word in allowed)))
        await self._ask(Kind.SET_PERMS, payload, within)

    async def transact(self, body: Callable[[Transaction], Awaitable[ResultT]]) -> ResultT:
        """Runs `body` until it goes through: from the beginning after each conflict.

        `body` hands its argument on to the requests that belong together. Nothing of it is seen where it raises.
        Raises OperationFailed after limits.XENSTORE_TRIES conflicts.
        """
        for _ in range(limits.XENSTORE_TRIES):
            started = words(await self._ask(Kind.TRANSACTION_START, b"\0"))
            if len(started) != 1 or not started[0].isdigit() or not 0 < int(started[0]) <= _LAST_REQUEST:
                raise self._broken("xenstored began a transaction without a number.")
            number = Transaction(int(started[0]), self._connections)
            try:
                result = await body(number)
            except BaseException:
                with contextlib.suppress(OperationFailed):
                    self._send(Kind.TRANSACTION_END, b"F\0", number)
                raise
            try:
                await self._ask(Kind.TRANSACTION_END, b"T\0", number)
            except XenstoreError as error:
                if error.number != errno.EAGAIN:
                    raise
                continue
            return result
        raise OperationFailed(f"A xenstore transaction met {limits.XENSTORE_TRIES} conflicts.")

    @contextlib.asynccontextmanager
    async def watch(self, path: str) -> AsyncIterator[Changes]:
        """Changes of `path` and all below it, or a special one as "@releaseDomain", while the block lasts."""
        self._tokens += 1
        changes = Changes(path, b"domward-%d" % self._tokens)
        self._changes[changes.token] = changes
        try:
            await self._ask(Kind.WATCH, self._watched(changes))
            yield changes
        finally:
            if self._changes.pop(changes.token, None) is not None and self._end is not None:
                with contextlib.suppress(OperationFailed):
                    self._send(Kind.UNWATCH, self._watched(changes))

    @staticmethod
    def _watched(changes: Changes) -> bytes:
        return checked_path(changes.path) + b"\0" + changes.token + b"\0"

    async def _ask(self, kind: Kind, payload: bytes, within: Transaction | None = None) -> Packet:
        answer = self._send(kind, payload, within)
        try:
            async with asyncio.timeout(limits.XENSTORE_SECONDS):
                packet = await answer
        except TimeoutError:
            raise self._broken(f"xenstored did not answer within {limits.XENSTORE_SECONDS:g} seconds.") from None
        if packet.kind == Kind.ERROR:
            raise XenstoreError(f"{kind.name.lower()} {printable(payload.split(bytes(1))[0])}", error_name(packet))
        return packet

    def _send(self, kind: Kind, payload: bytes, within: Transaction | None = None) -> asyncio.Future[Packet]:
        if self._closed:
            raise UsageError("The xenstore client is closed.")
        if self._end is None or (within is not None and within.connection != self._connections):
            raise XenstoreLost("The connection to xenstored is lost.")
        transaction = 0 if within is None else within.number
        self._next = self._next % _LAST_REQUEST + 1
        message = encode(kind, self._next, transaction, payload)
        answer: asyncio.Future[Packet] = self._loop.create_future()
        answer.add_done_callback(_look_at)
        self._pending[self._next] = _Pending(kind, transaction, answer)
        self._output += message
        self._flush()
        return answer

    # --- the connection -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Connects, and sets the watches. Raises OSError."""
        if stat.S_ISSOCK(os.stat(self._place).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as end:
                end.settimeout(limits.XENSTORE_SECONDS)  # a local socket: only a full backlog makes it wait
                end.connect(str(self._place))
                end.setblocking(False)
                self._end = Fd(end.detach(), "xenstore")
        else:
            self._end = Fd(os.open(self._place, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), "xenstore")
        self._watch = self._events.watch(self._end.fileno(), Condition.IN, self._ready)
        self._connections += 1
        self._up.set()
        for changes in self._changes.values():
            changes.happened.set()
            self._send(Kind.WATCH, self._watched(changes))

    def _ready(self, found: Condition) -> None:
        try:
            if found & Condition.OUT:
                self._flush()
            if found & ~Condition.OUT:
                self._receive()
            if self._watch is not None:
                self._watch.resume()  # after a condition that suspends it, as long as there is something to read
        except XenstoreLost as error:
            self._drop(error)

    def _flush(self) -> None:
        assert self._end is not None
        assert self._watch is not None
        try:
            while self._output:
                del self._output[: os.write(self._end.fileno(), self._output)]
        except BlockingIOError:
            pass
        except OSError:
            self._output.clear()  # what is under way fails when the reading side sees the end
        self._watch.change(Condition.IN | Condition.OUT if self._output else Condition.IN)

    def _receive(self) -> None:
        assert self._end is not None
        try:
            data = os.read(self._end.fileno(), _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise XenstoreLost(f"The connection to xenstored broke: {error.strerror}.") from error
        if not data:
            raise XenstoreLost("xenstored closed the connection.")
        self._input += data
        while (packet := decode(self._input)) is not None:
            self._take(packet)

    def _take(self, packet: Packet) -> None:
        self._tries = 0
        if packet.kind == Kind.WATCH_EVENT:
            told = words(packet)
            if len(told) < 2:
                raise XenstoreLost("xenstored told of a change without a token.")
            if (changes := self._changes.get(told[1])) is not None:  # else it was under way when the watch ended
                changes.happened.set()
            return
        pending = self._pending.get(packet.request)
        if pending is None:
            raise XenstoreLost("xenstored answered what nobody asked.")
        if packet.kind not in (pending.kind, Kind.ERROR) or packet.transaction != pending.transaction:
            raise XenstoreLost("xenstored answered something else than what was asked.")
        del self._pending[packet.request]
        if not pending.answer.done():
            pending.answer.set_result(packet)

    def _broken(self, sentence: str) -> XenstoreLost:
        error = XenstoreLost(sentence)
        self._drop(error)
        return error

    def _drop(self, error: XenstoreLost) -> None:
        """Ends the connection, fails what is under way, and sees to another one."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._end is not None:
            self._end.close()
            self._end = None
        self._up.clear()
        self._input.clear()
        self._output.clear()
        pending, self._pending = self._pending, {}
        for request in pending.values():
            if not request.answer.done():
                request.answer.set_exception(error)
        if not self._closed and self._retry is None:
            _LOG.warning("%s", error)
            self._later()

    def _later(self) -> None:
        pause = _PAUSES[min(self._tries, len(_PAUSES) - 1)]
        self._tries += 1
        self._retry = self._loop.call_later(pause, self._again)

    def _again(self) -> None:
        self._retry = None
        try:
            self._open()
        except OSError:
            self._later()


def _look_at(answer: asyncio.Future[Packet]) -> None:
    """A failure that nobody waits for any more is no defect."""
    if not answer.cancelled():
        answer.exception()
