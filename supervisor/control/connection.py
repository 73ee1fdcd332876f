# SPDX-License-Identifier: GPL-3.0-or-later
"""One client's connection: reads its requests at the pace it may have, and sends what the outbox holds.

States: new (only `hello` may come) -> greeted -> closed. By cases:

- more messages than `messages_per_second`, or limits.CONTROL_QUEUE messages that it has not read: nothing more is read
  from it for a while; what it sends waits in its own socket, and then in itself
- a message that is malformed, unknown, too long, or with the wrong fds: `error` for request 0, and the connection ends
- a request that may not be made: its own `error`; the connection stays
- end of file: its operations that are not detached are cancelled
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from domward.protocol import limits
from domward.protocol.channel import Channel, Received
from domward.protocol.control import LAST, REQUESTS, UNANSWERED, ControlMessage, Hello, Role
from domward.protocol.errors import DomwardError, OperationFailed, ProtocolViolation, UsageError
from domward.protocol.fds import Fd
from domward.protocol.records import mutable

from ..audit.record import Actor
from ..events import Condition, Events, Watch
from ..opening import close_in_thread
from .console import ConsoleHub, Viewer
from .outbox import Outbox
from .peers import Peer
from .tracked import Tracked, failure

_LOG = logging.getLogger("domward.control")


class Host(Protocol):
    """What a connection needs of the server."""

    def call(self, connection: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
        """Does what the table of calls says. Raises DomwardError for the request's `error`."""

    def violated(self, connection: Connection, error: DomwardError) -> None:
        """Notes that a client sent what nobody may send."""

    def closed(self, connection: Connection) -> None:
        """Forgets a connection."""

    def drained(self) -> None:
        """Nothing waits any more for some client."""

    def messages_per_second(self) -> int:
        """What one client may send."""


@mutable(eq=False)
class Request:
    """A request that waits for an operation; a `tracked.Waiter`."""

    connection: Connection
    request: int
    takes_files: bool
    takes_steps: bool

    def tell(self, message: ControlMessage, fds: tuple[Fd, ...] = ()) -> None:
        """Sends `message` to the client."""
        self.connection.send(message, fds)


class Connection:
    """A client. Owns the channel and the peer. `number` tells connections apart in the log."""

    def __init__(self, number: int, channel: Channel, peer: Peer, role: Role, events: Events, host: Host) -> None:
        self.number = number
        self.peer = peer
        self.role = role
        self.actor = Actor.of_process(peer.pid, peer.uid, peer.gid)
        self.name = ""
        self.greeted = False
        self.watching: int | None = None
        self.viewers: dict[int, tuple[ConsoleHub, Viewer]] = {}
        self.waits: dict[int, tuple[Tracked, Request]] = {}
        self.mine: set[Tracked] = set()  # operations that end with this connection
        self._host = host
        self._channel = channel
        self._outbox = Outbox(channel)
        self._open: set[int] = set()  # requests without their last message
        self._allowance = float(host.messages_per_second())
        self._counted = asyncio.get_running_loop().time()
        self._pause: asyncio.TimerHandle | None = None
        self._flush_soon: asyncio.Handle | None = None
        self._last_taken = 0
        self._stuck_since: float | None = None
        self._closing = False
        self._watch: Watch = events.watch(channel.fileno(), Condition.IN, self._ready)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._channel.closed

    @property
    def pending(self) -> bool:
        """Whether something waits for the client to read it."""
        return not self._outbox.empty

    # --- sending ------------------------------------------------------------------------------------------------

    def send(self, message: ControlMessage, fds: Sequence[Fd] = ()) -> None:
        """Sends `message` with copies of `fds`, at the end of this round of the loop or when the client reads."""
        if self.closed:
            return
        if type(message) in LAST:
            self._open.discard(message.request)
            self.waits.pop(message.request, None)
        try:
            self._outbox.add(message, fds)
        except OperationFailed as error:  # no fds are to be had
            self._outbox.add(failure(message.request, error))
        self.flush_soon()

    def operation_changed(self, tracked: Tracked) -> None:
        """Tells a client that watches of `tracked`."""
        if self.watching is not None and not self.closed:
            self._outbox.change(tracked, self.watching)
            self.flush_soon()

    def flush_soon(self) -> None:
        """Sends what waits once this round of the loop is over: one call for all that the round brings."""
        if self._flush_soon is None and not self.closed:
            self._flush_soon = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_soon = None
        if self.closed:
            return
        try:
            self._outbox.flush(self.viewer_ended)
        except OperationFailed:
            self.close()
            return
        if self._closing and not self._outbox.waiting:
            self.close()
            return
        self._set_interest()
        if not self.pending:
            self._host.drained()

    def check_stuck(self, now: float, seconds: float) -> None:
        """Closes the connection of a client that took nothing for `seconds` although something waits."""
        if self._outbox.empty or self._outbox.taken != self._last_taken:
            self._last_taken, self._stuck_since = self._outbox.taken, None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= seconds:
            _LOG.warning("client %d (uid %d, pid %d) does not read: closed", self.number, self.peer.uid, self.peer.pid)
            self.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def _ready(self, _found: Condition) -> None:
        self._flush()
        if not self.closed and self._pause is None:
            self._read()

    def _read(self) -> None:
        for _ in range(limits.CONTROL_MESSAGES_AT_ONCE):
            if self.closed or self._closing or self._outbox.waiting >= limits.CONTROL_QUEUE:
                break
            if not self._allowed():
                break
            try:
                received = self._channel.receive(REQUESTS if self.greeted else (Hello,))
            except BlockingIOError:
                break
            except ProtocolViolation as error:
                self._violated(error)
                return
            except DomwardError:
                self.close()
                return
            if received is None:
                self.close()
                return
            self._take(received)
        if not self.closed:
            self._watch.resume()
            self._set_interest()

    def _allowed(self) -> bool:
        """Whether another message may be read now; if not, reading goes on by itself when it may."""
        rate = self._host.messages_per_second()
        now = asyncio.get_running_loop().time()
        self._allowance = min(float(rate), self._allowance + (now - self._counted) * rate)
        self._counted = now
        if self._allowance >= 1:
            self._allowance -= 1
            return True
        delay = max(0.01, (limits.CONTROL_MESSAGES_AT_ONCE - self._allowance) / rate)
        self._pause = asyncio.get_running_loop().call_later(delay, self._go_on)
        return False

    def _go_on(self) -> None:
        self._pause = None
        if not self.closed:
            self._read()

    def _take(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, ControlMessage)  # as all of REQUESTS are
        number = message.request
        try:
            if type(message) not in UNANSWERED:
                if number in self._open:
                    raise ProtocolViolation(f"Request {number} was made already and has no last answer yet.")
                if len(self._open) >= limits.CONTROL_REQUESTS:
                    raise _too_many()
                self._open.add(number)
            self._host.call(self, message, received.fds)
        except ProtocolViolation as error:
            self._violated(error)
        except DomwardError as error:
            self.send(failure(number, error))
        except Exception as error:  # noqa: BLE001 - a defect of ours: in the log, and the client learns that there is one
            _LOG.exception("client %d: %s failed unexpectedly", self.number, message.NAME)
            self.send(failure(number, OperationFailed(f"domward has a defect: an unexpected {type(error).__name__}.")))
        finally:
            for fd in received.fds:
                close_in_thread(fd)

    def _violated(self, error: DomwardError) -> None:
        self._host.violated(self, error)
        self.send(failure(0, error))
        self._closing = True
        self._flush()

    def _set_interest(self) -> None:
        reading = self._pause is None and not self._closing and self._outbox.waiting < limits.CONTROL_QUEUE
        interest = (Condition.IN if reading else Condition.NONE) | (
            Condition.NONE if self._outbox.empty else Condition.OUT
        )
        if interest != self._watch.interest:
            self._watch.change(interest)

    # --- what a client has under way ----------------------------------------------------------------------------

    def attach(self, request: int, hub: ConsoleHub) -> Callable[[], None]:
        """Makes this client a viewer of `hub`; returns what begins to send, once the answer is under way."""
        viewer = Viewer(self.flush_soon)
        hub.attach(viewer)
        self.viewers[request] = (hub, viewer)
        return lambda: self._outbox.view(request, viewer)

    def detach(self, request: int) -> None:
        """Ends the attach `request`."""
        hub, viewer = self.viewers.pop(request)
        hub.detach(viewer)
        self._outbox.forget_viewer(request)

    def viewer_ended(self, request: int) -> None:
        """The console of the attach `request` has ended, and the client knows."""
        self.viewers.pop(request, None)
        self._open.discard(request)

    def unwatch(self) -> None:
        """Ends the watch."""
        self.watching = None
        self._outbox.forget_changes()

    def close(self) -> None:
        """Ends the connection and what ends with it. Idempotent."""
        if self.closed:
            return
        self._watch.cancel()
        for handle in (self._pause, self._flush_soon):
            if handle is not None:
                handle.cancel()
        for hub, viewer in self.viewers.values():
            hub.detach(viewer)
        self.viewers.clear()
        for tracked, waiter in self.waits.values():
            with contextlib.suppress(ValueError):
                tracked.waiters.remove(waiter)
        self.waits.clear()
        self._outbox.clear()
        self._channel.close()
        self.peer.close()
        self._host.closed(self)


def _too_many() -> UsageError:
    return UsageError(
        f"There are {limits.CONTROL_REQUESTS} requests without their last answer already.", code="too-many-requests"
    )
